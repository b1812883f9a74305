//! What transfers over bad links leave in TCP_INFO and in the counters of both ends, as a snapshot: a change in loss
//! recovery, congestion control, timers or accounting shows here even if goodput stays as it was. Virtual time: the
//! numbers are exact and the same on every machine. When they change for a good reason, `REMORA_BLESS=1 cargo test
//! -p remora-stack --test ledger` writes the new table.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::testkit::{Conditions, Network, address, interface};

/// How the sender's program and the receiver's behave.
#[derive(Clone, Copy)]
enum Program {
    /// All that the buffers take.
    Bulk,
    /// So many bytes every so many milliseconds.
    Pieces(usize, u64),
    /// The sender writes all it can, the receiver takes so many bytes every so many milliseconds.
    SlowReader(usize, u64),
}

/// One row of the snapshot.
struct Scene {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    link: Conditions,
    program: Program,
    seconds: u64,
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// 20 Mbit/s, 40 ms of round trip, a queue of 100 ms.
fn link() -> Conditions {
    Conditions { rate: 2_500_000, queue: 250_000, latency: MILLISECOND * 20, ..Conditions::default() }
}

/// As before RFC 2018 and RFC 1323, with the window of RFC 5681.
const OLD: [(&str, &str); 3] =
    [("net.ipv4.tcp_sack", "0"), ("net.ipv4.tcp_timestamps", "0"), ("net.ipv4.tcp_congestion_control", "reno")];
/// Without what finds out that a timeout or a repetition was needless.
const PLAIN: [(&str, &str); 4] = [
    ("net.ipv4.tcp_frto", "0"),
    ("net.ipv4.tcp_early_retrans", "0"),
    ("net.ipv4.tcp_dsack", "0"),
    ("net.ipv4.tcp_slow_start_after_idle", "0"),
];
/// How much goes at once.
const CUT: [(&str, &str); 3] =
    [("net.ipv4.tcp_tso_win_divisor", "0"), ("net.ipv4.tcp_tso_rtt_log", "0"), ("net.ipv4.tcp_min_tso_segs", "4")];

fn scenes() -> Vec<Scene> {
    let scene = |name, settings, link, program, seconds| Scene { name, settings, link, program, seconds };
    let loss = Conditions { loss: 10_000, ..link() };
    let bad = Conditions { loss: 20_000, reorder: 20_000, duplicate: 10_000, ..link() };
    let short = Conditions { queue: 30_000, ..link() };
    let far = Conditions { latency: MILLISECOND * 150, ..link() };
    let policed = Conditions { rate: 250_000, queue: 4_000, latency: MILLISECOND * 30, ..Conditions::default() };
    let storm = Conditions { loss: 30_000, reorder: 100_000, duplicate: 20_000, ..link() };
    let algorithm = |name: &'static str| -> &'static [(&'static str, &'static str)] {
        match name {
            "reno" => &[("net.ipv4.tcp_congestion_control", "reno")],
            "bbr" => &[("net.ipv4.tcp_congestion_control", "bbr")],
            _ => &[("net.ipv4.tcp_congestion_control", "dctcp")],
        }
    };
    vec![
        scene("clean", &[], link(), Program::Bulk, 2),
        scene("loss", &[], loss, Program::Bulk, 4),
        scene("loss, reordering and duplicates", &[], bad, Program::Bulk, 4),
        scene("a queue of 12 ms", &[], short, Program::Bulk, 4),
        scene("300 ms", &[], far, Program::Bulk, 6),
        scene("reno", algorithm("reno"), loss, Program::Bulk, 4),
        scene("reno, reordering", algorithm("reno"), bad, Program::Bulk, 3),
        scene("bbr", algorithm("bbr"), loss, Program::Bulk, 12),
        scene("bbr, a queue of 12 ms", algorithm("bbr"), short, Program::Bulk, 3),
        scene("dctcp", algorithm("dctcp"), loss, Program::Bulk, 3),
        scene("no SACK", &[("net.ipv4.tcp_sack", "0")], bad, Program::Bulk, 4),
        scene("no timestamps", &[("net.ipv4.tcp_timestamps", "0")], bad, Program::Bulk, 4),
        scene("no RACK", &[("net.ipv4.tcp_recovery", "0")], bad, Program::Bulk, 4),
        scene("no window scaling", &[("net.ipv4.tcp_window_scaling", "0")], loss, Program::Bulk, 2),
        scene("path probing", &[("net.ipv4.tcp_mtu_probing", "2")], loss, Program::Bulk, 4),
        scene("corruption", &[], Conditions { corrupt: 10_000, ..link() }, Program::Bulk, 3),
        scene("small writes", &[], bad, Program::Pieces(100, 7), 4),
        scene("bursts", &[], loss, Program::Pieces(40_000, 900), 6),
        scene("a slow reader", &[], loss, Program::SlowReader(5_000, 30), 4),
        scene("a reader that sleeps", &[], loss, Program::SlowReader(200_000, 1_500), 6),
        scene("half of all is lost", &[], Conditions { loss: 500_000, ..link() }, Program::Pieces(3_000, 50), 30),
        scene("bbr, a policer", algorithm("bbr"), policed, Program::Bulk, 6),
        scene("bbr, bursts", algorithm("bbr"), bad, Program::Pieces(60_000, 300), 14),
        scene("bbr, 300 ms", algorithm("bbr"), far, Program::Bulk, 4),
        scene("reno without SACK or timestamps", &OLD, bad, Program::Bulk, 4),
        scene("little memory for all", &[("net.ipv4.tcp_mem", "24 32 48")], bad, Program::SlowReader(30_000, 200), 6),
        scene(
            "small receive buffers",
            &[("net.ipv4.tcp_rmem", "4096 9000 20000")],
            bad,
            Program::SlowReader(3_000, 40),
            5,
        ),
        scene("small send buffers", &[("net.ipv4.tcp_wmem", "4096 9000 20000")], bad, Program::Bulk, 4),
        scene("no F-RTO, no probes, no D-SACK", &PLAIN, storm, Program::Bulk, 6),
        scene("much reordering", &[], storm, Program::Bulk, 4),
        scene("super-segments of another size", &CUT, far, Program::Pieces(30_000, 25), 5),
    ]
}

/// Where the fields of Linux's `struct tcp_info` are, and how long.
const FIELDS: &[(&str, usize, usize)] = &[
    ("state", 0, 1),
    ("ca_state", 1, 1),
    ("retransmits", 2, 1),
    ("probes", 3, 1),
    ("backoff", 4, 1),
    ("options", 5, 1),
    ("wscale", 6, 1),
    ("app_limited", 7, 1),
    ("rto", 8, 4),
    ("ato", 12, 4),
    ("snd_mss", 16, 4),
    ("rcv_mss", 20, 4),
    ("unacked", 24, 4),
    ("sacked", 28, 4),
    ("lost", 32, 4),
    ("retrans", 36, 4),
    ("last_data_sent", 44, 4),
    ("last_data_recv", 52, 4),
    ("last_ack_recv", 56, 4),
    ("pmtu", 60, 4),
    ("rcv_ssthresh", 64, 4),
    ("rtt", 68, 4),
    ("rttvar", 72, 4),
    ("snd_ssthresh", 76, 4),
    ("snd_cwnd", 80, 4),
    ("advmss", 84, 4),
    ("reordering", 88, 4),
    ("rcv_rtt", 92, 4),
    ("rcv_space", 96, 4),
    ("total_retrans", 100, 4),
    ("pacing_rate", 104, 8),
    ("bytes_acked", 120, 8),
    ("bytes_received", 128, 8),
    ("segs_out", 136, 4),
    ("segs_in", 140, 4),
    ("notsent_bytes", 144, 4),
    ("min_rtt", 148, 4),
    ("data_segs_in", 152, 4),
    ("data_segs_out", 156, 4),
    ("delivery_rate", 160, 8),
    ("busy_time", 168, 8),
    ("rwnd_limited", 176, 8),
    ("sndbuf_limited", 184, 8),
    ("delivered", 192, 4),
    ("bytes_sent", 200, 8),
    ("bytes_retrans", 208, 8),
    ("dsack_dups", 216, 4),
    ("reord_seen", 220, 4),
    ("rcv_ooopack", 224, 4),
    ("snd_wnd", 228, 4),
    ("rcv_wnd", 232, 4),
];

/// The fields that are not zero.
fn info(network: &mut Network, host: usize, socket: SocketId) -> String {
    let now = network.now;
    let Ok(OptionValue::Bytes(bytes)) = network.stack(host).option(now, socket, OptionName::Info) else {
        return " no connection".to_string();
    };
    let mut text = String::new();
    for (name, at, length) in FIELDS {
        let mut wide = [0; 8];
        wide[..*length].copy_from_slice(&bytes[*at..at + length]);
        let value = u64::from_le_bytes(wide);
        if value != 0 {
            write!(text, " {name}={value}").unwrap();
        }
    }
    text
}

/// TCP's counters that are not zero.
fn counters(network: &mut Network, host: usize) -> String {
    let mut text = String::new();
    for (group, name, value) in network.stack(host).counters().each() {
        if value != 0 && group.starts_with("Tcp") {
            write!(text, " {name}={value}").unwrap();
        }
    }
    text
}

fn connected(network: &mut Network) -> (SocketId, SocketId) {
    let to = SocketAddr::new(address(2), 80);
    let now = network.now;
    let listening = network.stack(1).socket(now, AddressFamily::Inet, SocketType::Stream, 6).unwrap();
    network.stack(1).bind(now, listening, to).unwrap();
    network.stack(1).listen(now, listening, 4).unwrap();
    let client = network.stack(0).socket(now, AddressFamily::Inet, SocketType::Stream, 6).unwrap();
    let _ = network.stack(0).connect(now, client, to);
    let mut server = None;
    let done = network.run_until(Duration::from_secs(200), |network| {
        let now = network.now;
        server = server.or_else(|| network.stack(1).accept(now, listening).ok().map(|(socket, _)| socket));
        server.is_some()
    });
    assert!(done, "no connection, seed {}", network.seed());
    (client, server.unwrap())
}

fn read(network: &mut Network, server: SocketId, most: usize) -> usize {
    let now = network.now;
    let mut sink = Collect::new(most);
    let _ = network.stack(1).receive(now, server, &mut sink, ReceiveFlags::empty());
    sink.bytes.len()
}

/// Runs the programs of a scene; returns what the receiver read.
fn run(network: &mut Network, scene: &Scene, client: SocketId, server: SocketId) -> usize {
    let bulk = vec![7; 65_536];
    let mut received = 0;
    for moment in 0..scene.seconds * 1_000 {
        let now = network.now;
        let mut write = |piece: &[u8]| {
            let mut piece = piece;
            network.stack(0).send(now, client, &mut piece, &SendArguments::default()).is_ok()
        };
        match scene.program {
            Program::Bulk => {
                while write(&bulk) {}
                received += read(network, server, 1 << 20);
            }
            Program::Pieces(size, pause) => {
                if moment % pause == 0 {
                    write(&bulk[..size]);
                }
                received += read(network, server, 1 << 20);
            }
            Program::SlowReader(size, pause) => {
                while write(&bulk) {}
                if moment % pause == 0 {
                    received += read(network, server, size);
                }
            }
        }
        network.run_for(MILLISECOND);
    }
    received
}

/// What a scene leaves, line by line.
fn play(number: u64, scene: &Scene) -> String {
    let mut network = Network::new(number);
    network.conditions = link();
    for host in 1..=2 {
        let mut settings = Settings::default();
        for (name, value) in scene.settings {
            settings.set(name, value).unwrap();
        }
        network.add_with(&interface(host), settings);
    }
    let (client, server) = connected(&mut network);
    network.conditions = scene.link;
    let received = run(&mut network, scene, client, server);
    let mut text = format!("{}: {received} bytes in {} s\n", scene.name, scene.seconds);
    writeln!(text, "  sender  {}", info(&mut network, 0, client)).unwrap();
    writeln!(text, "  receiver{}", info(&mut network, 1, server)).unwrap();
    // Both close at once; what is under way goes on until nothing is left.
    for (host, socket) in [(0, client), (1, server)] {
        let now = network.now;
        network.stack(host).close(now, socket);
    }
    network.run_for(Duration::from_secs(150));
    for host in 0..2 {
        writeln!(text, "  host {}  {}", host + 1, counters(&mut network, host)).unwrap();
    }
    text
}

#[test]
fn transfers_leave_what_they_left() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ledger.txt");
    let bless = std::env::var_os("REMORA_BLESS").is_some();
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut known = before.lines();
    let mut table = String::new();
    for (number, scene) in (1..).zip(scenes()) {
        let text = play(number, &scene);
        for line in text.lines() {
            assert!(
                bless || known.next() == Some(line),
                "{}: the snapshot does not have this line:\n{line}",
                scene.name
            );
        }
        table += &text;
    }
    if bless {
        std::fs::write(path, &table).unwrap();
    } else {
        assert_eq!(known.next(), None, "a scene has gone");
    }
}
