//! The loop: takes frames from either end, hands them to the direction they go in, delivers what is due, and sleeps until
//! something happens. It ends on SIGINT and SIGTERM or when its time is over, and writes its counts on SIGUSR1.

use crate::end::{End, Received};
use crate::model::{Direction, Frame};
use crate::segment::{self, Offload};
use crate::statistics;
use remora_host::sys::{Errno, Fd, call};
use remora_stack::time::Instant;
use std::io::Write as _;
use std::time::Duration;

/// Frames taken from one end before the other has its turn and what is due is delivered.
const RECEIVE_BATCH: usize = 16;

/// Packets delivered in one direction before anything else has its turn: some super-frames' worth.
const DELIVERY_BATCH: usize = 256;

/// Sleeping without anything to do: only signals and frames end it.
const LONG: Duration = Duration::from_secs(3600);

/// struct signalfd_siginfo.
const SIGNAL_RECORD: usize = 128;

/// What becomes of super-frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SuperFrames {
    /// Cut into packets before they enter the link: each is queued, delayed and lost for itself.
    Split,
    /// Carried whole, as one packet of their length: cheaper, less like a wire.
    Pass,
}

/// How the loop runs.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Shown in the statistics.
    pub seed: u64,
    /// Ends after this time.
    pub life: Option<Duration>,
    /// What becomes of super-frames.
    pub super_frames: SuperFrames,
    /// A sleep is cut short by so much and the rest spent asking, for the sake of precision.
    pub spin: Duration,
}

/// The link with both its directions.
#[derive(Debug)]
pub struct Link {
    ends: [End; 2],
    /// The first from end 0 to end 1.
    directions: [Direction; 2],
    manner: Manner,
    signals: Fd,
    started: Instant,
    buffer: Vec<u8>,
}

/// What the signals that came in ask for.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    end: bool,
    statistics: bool,
}

/// Blocks the signals that the loop takes from a descriptor instead, before anything that takes time: none is lost then.
///
/// # Errors
/// When the kernel refuses.
pub fn catch_signals() -> Result<Fd, Errno> {
    let mask = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1].map(call::signal_bit).iter().fold(0, |all, bit| all | bit);
    call::signal_mask(libc::SIG_BLOCK, mask)?;
    call::signalfd(mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
}

impl Link {
    /// A link that runs from now on.
    #[must_use]
    pub fn new(ends: [End; 2], directions: [Direction; 2], manner: Manner, signals: Fd) -> Self {
        // The default slack of 50 us would be added to every delay; refused, the link is only less precise.
        let _ = call::prctl(libc::PR_SET_TIMERSLACK, 1);
        Self { ends, directions, manner, signals, started: call::now(), buffer: Vec::new() }
    }

    /// Runs to the end. What is still on its way then is not delivered, but counted.
    ///
    /// # Errors
    /// When waiting or writing the statistics fails.
    pub fn run(&mut self) -> std::io::Result<()> {
        let end = self.manner.life.map(|life| self.started + life);
        let mut readable = [true; 2];
        loop {
            for (from, is_readable) in readable.iter_mut().enumerate() {
                if *is_readable {
                    *is_readable = self.take(from);
                }
            }
            let now = call::now();
            for to in 0..self.ends.len() {
                self.deliver(now, to);
            }
            if end.is_some_and(|end| end <= now) {
                return self.write_statistics();
            }
            let wait = if readable.contains(&true) { Duration::ZERO } else { self.time_to_wait(end) };
            let wishes = self.wait(wait, &mut readable)?;
            if wishes.statistics || wishes.end {
                self.write_statistics()?;
            }
            if wishes.end {
                return Ok(());
            }
        }
    }

    /// Takes frames from an end; says whether there may be more.
    fn take(&mut self, from: usize) -> bool {
        let (Some(end), Some(direction)) = (self.ends.get_mut(from), self.directions.get_mut(from)) else {
            return false;
        };
        for _ in 0..RECEIVE_BATCH {
            let arrival = match end.receive(&mut self.buffer) {
                Received::Frame(arrival) => arrival,
                Received::Nothing => continue,
                Received::Empty => return false,
            };
            let at = call::now() - arrival.age;
            let offload = arrival.offload;
            let mut offer = |bytes, offload| direction.offer(at, Frame { bytes, offload });
            let was_cut = self.manner.super_frames == SuperFrames::Split
                && segment::split(&self.buffer, offload, |packet| offer(packet, Offload::default()));
            if !was_cut {
                offer(self.buffer.clone(), offload);
            }
            direction.count_frame(offload, was_cut);
        }
        true
    }

    /// Delivers what is due at end number `to`.
    fn deliver(&mut self, now: Instant, to: usize) {
        // With two ends, what arrives at one comes from the other.
        let (Some(end), Some(direction)) = (self.ends.get(to), self.directions.get_mut(1 - to)) else { return };
        for _ in 0..DELIVERY_BATCH {
            let Some(frame) = direction.due(now) else { return };
            let outcome = end.send(frame);
            direction.settle(call::now(), outcome);
        }
    }

    fn time_to_wait(&self, end: Option<Instant>) -> Duration {
        let due = self.directions.iter().filter_map(Direction::next_due).min();
        let now = call::now();
        let until = |at: Option<Instant>| at.map_or(LONG, |at| at.since(now));
        until(due).saturating_sub(self.manner.spin).min(until(end))
    }

    /// Sleeps until a frame, a signal, or the end of `wait`.
    fn wait(&self, wait: Duration, readable: &mut [bool; 2]) -> std::io::Result<Wishes> {
        let [one, other] = &self.ends;
        let mut set = [one.fd(), other.fd(), self.signals].map(|fd| libc::pollfd {
            fd: fd.raw(),
            events: libc::POLLIN,
            revents: 0,
        });
        match call::ppoll(&mut set, Some(wait), None) {
            Ok(_) => {}
            Err(errno) if errno.is_transient() => return Ok(Wishes::default()),
            Err(errno) => return Err(errno.into()),
        }
        let [one, other, signals] = set.map(|entry| entry.revents != 0);
        for (slot, ready) in readable.iter_mut().zip([one, other]) {
            *slot |= ready;
        }
        Ok(if signals { self.wishes() } else { Wishes::default() })
    }

    fn wishes(&self) -> Wishes {
        let mut wishes = Wishes::default();
        let mut record = [0; SIGNAL_RECORD];
        while let Ok(SIGNAL_RECORD) = call::read(self.signals, &mut record) {
            // The signal's number is the first field.
            let signal = record.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            if signal == libc::SIGUSR1 as u32 {
                wishes.statistics = true;
            } else {
                wishes.end = true;
            }
        }
        wishes
    }

    fn write_statistics(&mut self) -> std::io::Result<()> {
        let [one, other] = &mut self.ends;
        let (one, other) = (one.counts(), other.counts());
        let [a_to_b, b_to_a] = &self.directions;
        let elapsed = call::now().since(self.started);
        let line = statistics::line(self.manner.seed, elapsed, (&a_to_b.counts(), &one), (&b_to_a.counts(), &other));
        let mut output = std::io::stdout().lock();
        writeln!(output, "{line}")?;
        output.flush()
    }
}
