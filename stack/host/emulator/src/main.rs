//! `remora-link`: an emulated link between two interfaces, with rate, delay, jitter, loss, reordering, duplication,
//! corruption, a queue and ECN, all of it seeded. For kernels without netem, and for tests that want to count exactly.
#![forbid(unsafe_code)]

mod chance;
mod end;
mod forward;
mod impairments;
mod loss;
mod model;
mod packet;
mod segment;
mod statistics;
mod units;

use clap::Parser;
use end::End;
use forward::{Link, Manner, SuperFrames};
use impairments::Impairments;
use model::Direction;
use remora_host::sys::call;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// Status for arguments that cannot be used; clap's own is the same.
const REFUSED: u8 = 2;

const GUIDE: &str = "\
SETTINGS OF A DIRECTION, separated by commas:
  rate=20mbit        bits per second, link headers included; without it there is no queue
  overhead=24b       bytes that each packet takes on the link beside its own
  limit=100p         packets that wait for the link at most, and/or
  limit=64kb         bytes that do; more are dropped (default with a rate: 1000p)
  ecn=20p            a longer queue (p packets, b or kb bytes) marks ECN-capable packets
  delay=20ms         one-way delay, beside waiting and sending (us, ms, s)
  jitter=2ms         the delay varies evenly by so much to either side
  order=free         jitter may disorder packets (default: order=keep)
  loss=1%            each packet for itself
  burst=0.3%/25%     Gilbert-Elliott, per packet: to the bad state and back to the good one;
                     a third and fourth number are the loss there (100%) and here (0%)
  reorder=1%/5ms     packets held back by so much, so that later ones overtake them
  duplicate=0.1%     packets that arrive twice
  corrupt=0.01%      packets with one bit turned over, behind the link header

A packet meets them in this order: limit, ecn, rate, loss, delay, duplicate, corrupt. So a
queue holds what waits for the link and never what is on the wire, and a lost packet has used
the link. --both comes first; the settings of one direction are laid over it.

STATISTICS: one line of JSON on standard output at the end and on SIGUSR1. In each direction
`packets` + `duplicated` = `delivered` + `lost_alone` + `lost_in_burst` + `dropped_queue` +
`dropped_memory` + `send_failed` + `no_link` + `in_flight`. Not in this sum is what the kernel
dropped before the link saw it, `kernel_dropped`: it should be 0. Standard error says
\"remora-link: ready\" with the seed when frames pass. INT, TERM and --seconds end it.

EXAMPLE: two hosts and the link between them, each in a network namespace; 40 ms round trip,
20 Mbit/s, 1 % loss towards the right (as root, or after `unshare -Urnm` with a tmpfs mounted
on /run):
  for name in left middle right; do ip netns add $name; done
  ip -n left link add eth0 type veth peer name to-left netns middle
  ip -n right link add eth0 type veth peer name to-right netns middle
  ip -n left addr add 10.9.0.1/24 dev eth0
  ip -n right addr add 10.9.0.2/24 dev eth0
  # The middle is a wire: it must not speak IPv6 of its own.
  ip netns exec middle sysctl -qw net.ipv6.conf.all.disable_ipv6=1
  ip -n left link set eth0 up;  ip -n middle link set to-left up
  ip -n right link set eth0 up; ip -n middle link set to-right up
  ip netns exec middle remora-link to-left to-right \\
      --both rate=20mbit,limit=100p,delay=20ms --a-to-b loss=1% --seed 7 &
  ip netns exec left ping -c 3 10.9.0.2
  kill %1; for name in left middle right; do ip netns del $name; done

Super-frames of segmentation offload are cut into packets with full checksums, so the hosts
may leave their offloads on. `late_mean_us` shows how right the link's times are; on a busy
machine they need the --nice that root is given.";

/// An emulated link: bridges two interfaces with rate, delay, loss and other impairments.
#[derive(Debug, Parser)]
#[command(version, after_long_help = GUIDE)]
struct Arguments {
    /// One interface: end A.
    a: String,

    /// The other interface: end B.
    b: String,

    /// Settings of both directions, like rate=20mbit,delay=20ms,loss=1%.
    #[arg(long, value_name = "SETTINGS")]
    both: Vec<String>,

    /// Settings of what arrives at A and goes to B, laid over --both.
    #[arg(long, value_name = "SETTINGS")]
    a_to_b: Vec<String>,

    /// Settings of what arrives at B and goes to A, laid over --both.
    #[arg(long, value_name = "SETTINGS")]
    b_to_a: Vec<String>,

    /// Network namespace of interface A (a name of `ip netns`); ours unless given.
    #[arg(long, value_name = "NAME")]
    netns_a: Option<String>,

    /// Network namespace of interface B (a name of `ip netns`); ours unless given.
    #[arg(long, value_name = "NAME")]
    netns_b: Option<String>,

    /// Decides everything that is random; drawn and shown unless given.
    #[arg(long)]
    seed: Option<u64>,

    /// End after so many seconds.
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,

    /// What to do with frames larger than a packet (segmentation offload).
    #[arg(long, value_enum, default_value = "split")]
    super_frames: SuperFrames,

    /// Microseconds before a deadline that are spent awake, for precision; 0 saves the processor.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=10_000))]
    spin: u64,

    /// Scheduling priority, as of nice(1), for the sake of right times; where it is not allowed, the former one stays.
    #[arg(long, value_name = "NICE", default_value_t = -15, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: i32,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "a number of seconds is asked for".to_owned())?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// A line for the user. Where standard error is closed nobody wants to know.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "remora-link: {text}");
}

fn random_seed() -> Result<u64, String> {
    let mut bytes = [0; 8];
    call::random_bytes(&mut bytes).map_err(|errno| format!("no randomness ({errno}); give --seed"))?;
    // 53 bits survive every reader of JSON.
    Ok(u64::from_ne_bytes(bytes) >> 11)
}

/// The settings of one direction.
fn settings(both: &[String], own: &[String], option: &str, super_frames: SuperFrames) -> Result<Impairments, String> {
    let texts = both.iter().chain(own).map(String::as_str);
    let settings = Impairments::parse(texts).map_err(|reason| format!("--both, {option}: {reason}"))?;
    if super_frames == SuperFrames::Pass && settings.corrupt > 0.0 {
        return Err("corrupt needs --super-frames split: the checksum of a whole super-frame is not there yet, so \
                    nobody would see the damage"
            .to_owned());
    }
    Ok(settings)
}

fn prepare(arguments: &Arguments) -> Result<Link, String> {
    let Arguments { a, b, both, a_to_b, b_to_a, netns_a, netns_b, seed, seconds, super_frames, spin, nice } = arguments;
    let a_to_b = settings(both, a_to_b, "--a-to-b", *super_frames)?;
    let b_to_a = settings(both, b_to_a, "--b-to-a", *super_frames)?;
    if a == b && netns_a == netns_b {
        return Err("the two ends must be two interfaces".to_owned());
    }
    let seed = seed.map_or_else(random_seed, Ok)?;
    let signals = forward::catch_signals().map_err(|errno| format!("signals: {errno}"))?;
    let ends = [End::open(a, netns_a.as_deref())?, End::open(b, netns_b.as_deref())?];
    let directions = [Direction::new(a_to_b, seed, 0), Direction::new(b_to_a, seed, 1)];
    let spin = Duration::from_micros(*spin);
    // Refused to an ordinary user, who still gets a link.
    let _ = rustix::process::setpriority_process(None, *nice);
    let link = Link::new(ends, directions, Manner { seed, life: *seconds, super_frames: *super_frames, spin }, signals);
    tell(&format!("ready, seed {seed}"));
    Ok(link)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut link = match prepare(&arguments) {
        Ok(link) => link,
        Err(reason) => {
            tell(&reason);
            return ExitCode::from(REFUSED);
        }
    };
    match link.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_its_help_has_an_example() {
        Arguments::command().debug_assert();
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("ip netns exec middle remora-link to-left to-right"));
        assert!(help.lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn damage_that_nobody_would_see_is_refused() {
        let corrupt = ["corrupt=1%".to_owned()];
        assert!(settings(&corrupt, &[], "--a-to-b", SuperFrames::Pass).is_err());
        assert!(settings(&corrupt, &[], "--a-to-b", SuperFrames::Split).is_ok());
        assert!(settings(&corrupt, &["corrupt=0%".to_owned()], "--a-to-b", SuperFrames::Pass).is_ok());
    }

    #[test]
    fn one_interface_cannot_be_both_ends() {
        let arguments = Arguments::parse_from(["remora-link", "lo", "lo"]);
        assert!(prepare(&arguments).unwrap_err().contains("two interfaces"));
    }
}
