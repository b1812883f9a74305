//! The plug for congestion control (RFC 5681): when losses are noticed and what is sent then is decided outside; an
//! algorithm says how far the window shrinks and how it grows.

mod cubic;
mod hystart;
mod reno;

use core::time::Duration;

pub use self::cubic::Cubic;
pub use self::reno::Reno;
use super::sequence::Seq;
use crate::time::Instant;

/// RFC 6928: ten segments.
pub const INITIAL_WINDOW: u32 = 10;
/// No threshold known yet (TCP_INFINITE_SSTHRESH).
pub const INFINITE: u32 = 0x7fff_ffff;

/// The congestion window in segments.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Segments that may be in flight.
    pub cwnd: u32,
    /// Where slow start ends.
    pub ssthresh: u32,
    /// Segments acknowledged since the window grew last.
    pub count: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { cwnd: INITIAL_WINDOW, ssthresh: INFINITE, count: 0 }
    }
}

impl Window {
    /// Whether the window grows by every segment acknowledged.
    #[must_use]
    pub const fn is_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Slow start for `acked` segments; returns those left when the threshold is reached (`tcp_slow_start`).
    pub fn slow_start(&mut self, acked: u32) -> u32 {
        let grown = self.cwnd.saturating_add(acked).min(self.ssthresh);
        let left = acked - (grown - self.cwnd).min(acked);
        self.cwnd = grown;
        left
    }

    /// Grows by one for every `per` segments acknowledged (`tcp_cong_avoid_ai`).
    pub fn grow_per(&mut self, per: u32, acked: u32) {
        let per = per.max(1);
        if self.count >= per {
            self.count = 0;
            self.cwnd = self.cwnd.saturating_add(1);
        }
        self.count = self.count.saturating_add(acked);
        if self.count >= per {
            let steps = self.count / per;
            self.count -= steps * per;
            self.cwnd = self.cwnd.saturating_add(steps);
        }
    }
}

/// What an ACK tells an algorithm.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Segments newly delivered.
    pub acked: u32,
    /// When.
    pub now: Instant,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
}

/// A sample of the round-trip time, and what is in flight.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Of the segment acknowledged last.
    pub rtt: Duration,
    /// When.
    pub now: Instant,
    /// First sequence number not acknowledged.
    pub una: Seq,
    /// First sequence number not sent.
    pub next: Seq,
}

/// An algorithm.
pub trait CongestionControl {
    /// Its name in TCP_CONGESTION.
    fn name(&self) -> &'static str;
    /// A loss was noticed: the threshold from now on, in segments.
    fn threshold(&mut self, window: &Window) -> u32;
    /// Segments were acknowledged while the window was in use.
    fn acknowledged(&mut self, window: &mut Window, sample: &Sample);
    /// An ACK gave a sample of the round-trip time, whether or not the window was in use.
    fn measured(&mut self, _window: &mut Window, _round: &Round) {}
    /// The retransmission timer has fired.
    fn timed_out(&mut self);
    /// The connection was idle for `span`.
    fn resumed(&mut self, span: Duration);
}

/// The algorithm of one connection: a value, so that a connection holds no pointer to code.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// RFC 5681.
    Reno(Reno),
    /// RFC 9438.
    Cubic(Cubic),
}

/// Names that TCP_CONGESTION takes.
pub const NAMES: [&str; 2] = ["reno", "cubic"];

impl Algorithm {
    /// By name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "reno" => Some(Self::Reno(Reno)),
            "cubic" => Some(Self::Cubic(Cubic::default())),
            _ => None,
        }
    }

    /// The default of the settings; an unknown name falls to cubic.
    //= REF T-05
    #[must_use]
    pub fn from_setting(field: &[u8; 16]) -> Self {
        let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = core::str::from_utf8(name).unwrap_or_default();
        Self::by_name(name).unwrap_or_else(|| {
            log::warn!(target: "remora::tcp", "congestion control \"{name}\" is not known, cubic is used; known: {NAMES:?}");
            Self::Cubic(Cubic::default())
        })
    }
}

impl CongestionControl for Algorithm {
    fn name(&self) -> &'static str {
        match self {
            Self::Reno(reno) => reno.name(),
            Self::Cubic(cubic) => cubic.name(),
        }
    }

    fn threshold(&mut self, window: &Window) -> u32 {
        match self {
            Self::Reno(reno) => reno.threshold(window),
            Self::Cubic(cubic) => cubic.threshold(window),
        }
    }

    fn acknowledged(&mut self, window: &mut Window, sample: &Sample) {
        match self {
            Self::Reno(reno) => reno.acknowledged(window, sample),
            Self::Cubic(cubic) => cubic.acknowledged(window, sample),
        }
    }

    fn measured(&mut self, window: &mut Window, round: &Round) {
        match self {
            Self::Reno(reno) => reno.measured(window, round),
            Self::Cubic(cubic) => cubic.measured(window, round),
        }
    }

    fn timed_out(&mut self) {
        match self {
            Self::Reno(reno) => reno.timed_out(),
            Self::Cubic(cubic) => cubic.timed_out(),
        }
    }

    fn resumed(&mut self, span: Duration) {
        match self {
            Self::Reno(reno) => reno.resumed(span),
            Self::Cubic(cubic) => cubic.resumed(span),
        }
    }
}
