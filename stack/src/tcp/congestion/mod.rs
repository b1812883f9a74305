//! The plug for congestion control (RFC 5681), shaped as Linux's `tcp_congestion_ops`: when losses are noticed and what
//! is repeated then is decided outside; an algorithm says how far the window shrinks and how it grows, or takes the
//! window and the pacing rate over altogether. A new algorithm is one file, its `mod` line and one row of the table.

mod bbr;
mod cubic;
mod dctcp;
mod hystart;
mod minmax;
mod reno;

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::time::Duration;

pub use self::minmax::WindowedMin;
use super::recovery::Phase;
use super::sequence::Seq;
use crate::time::Instant;

/// RFC 6928: ten segments.
pub const INITIAL_WINDOW: u32 = 10;
/// No threshold known yet (TCP_INFINITE_SSTHRESH).
pub const INFINITE: u32 = 0x7fff_ffff;
/// No limit to the pacing rate.
pub const UNPACED: u64 = u64::MAX;

/// What an algorithm may change: the congestion window in segments, and the rate at which it is used.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)]
pub struct Window {
    /// Segments that may be in flight.
    pub cwnd: u32,
    /// Where slow start ends.
    pub ssthresh: u32,
    /// Segments acknowledged since the window grew last (`snd_cwnd_cnt`).
    pub count: u32,
    /// The window before the current reduction.
    pub prior_cwnd: u32,
    /// The window never grows beyond it.
    pub clamp: u32,
    /// Bytes per second; [`UNPACED`] is without limit.
    pub pacing_rate: u64,
    /// SO_MAX_PACING_RATE.
    pub most_pacing_rate: u64,
    /// The rate is kept by a timer of ours, and not merely known (`SK_PACING_NEEDED`).
    pub is_paced: bool,
    /// What the algorithm wants done beside that.
    pub orders: Orders,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            cwnd: INITIAL_WINDOW,
            //= RFC 5681 §3.1 (SHLD-2)
            ssthresh: INFINITE,
            count: 0,
            prior_cwnd: 0,
            clamp: u32::MAX,
            pacing_rate: UNPACED,
            most_pacing_rate: UNPACED,
            is_paced: false,
            orders: Orders::default(),
        }
    }
}

impl Window {
    /// Whether the window grows by every segment acknowledged.
    #[must_use]
    pub const fn is_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Whether nothing was lost yet (`tcp_in_initial_slowstart`).
    #[must_use]
    pub const fn is_in_initial_slow_start(&self) -> bool {
        self.ssthresh >= INFINITE
    }

    /// Slow start for `acked` segments; returns those left when the threshold is reached (`tcp_slow_start`).
    //= RFC 9293 §3.8.2 (MUST-19)
    //= RFC 9438 §4.10 (MAY-6)
    pub fn slow_start(&mut self, acked: u32) -> u32 {
        let grown = self.cwnd.saturating_add(acked).min(self.ssthresh);
        let left = acked - grown.saturating_sub(self.cwnd).min(acked);
        self.cwnd = grown.min(self.clamp);
        left
    }

    /// Grows by one for every `per` segments acknowledged (`tcp_cong_avoid_ai`).
    //= RFC 5681 §3.1 (MAY-1, SHLD-3, MUST-9, SHLD-4)
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
        self.cwnd = self.cwnd.min(self.clamp);
    }
}

/// How slow start was found to be over (`hystart_update`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// By a train of ACKs.
    Train,
    /// By a longer round-trip time.
    Delay,
}

/// What an algorithm wants done for it; whoever called it takes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// Slow start has been ended: to be counted.
    pub found: Option<Found>,
    /// From now on ACKs say that congestion was experienced, or no longer (`TCP_ECN_DEMAND_CWR`).
    pub echo: Option<bool>,
    /// An ACK for what came before this goes out first, with or without the echo.
    pub ack_before: Option<(Seq, bool)>,
    /// The next ACK is not delayed.
    pub ack_now: bool,
    /// Rate samples say nothing of the path until what is in flight is delivered.
    pub app_limited: bool,
}

/// What an algorithm sees of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The time.
    pub now: Instant,
    /// State of loss recovery. In [`CongestionControl::set_state`]: the one that is left.
    pub phase: Phase,
    /// Payload bytes of a full segment.
    pub mss: u32,
    /// Smoothed round-trip time in microseconds; 0 before the first sample.
    pub srtt: u32,
    /// Least round-trip time in microseconds; `u32::MAX` before the first sample.
    pub least_rtt: u32,
    /// First sequence number not acknowledged.
    pub snd_una: Seq,
    /// First sequence number not sent.
    pub snd_nxt: Seq,
    /// First sequence number not received.
    pub rcv_nxt: Seq,
    /// Segments in the network.
    pub in_flight: u32,
    /// Segments delivered since the connection began.
    pub delivered: u32,
    /// Of these, those whose ACK carried ECE.
    pub delivered_ce: u32,
    /// When the last of them was.
    pub delivered_at: Instant,
    /// Segments taken for lost since the connection began.
    pub lost: u32,
    /// Earliest time at which pacing lets the next segment go.
    pub departs: Instant,
    /// When data was sent last.
    pub last_sent: Instant,
    /// The window was what held data back (`tcp_is_cwnd_limited`).
    pub is_cwnd_limited: bool,
    /// Largest super-segment in bytes.
    pub gso_max: u32,
    /// The program gives less than the network would take.
    pub is_app_limited: bool,
    /// ECN was negotiated, or may still be.
    pub ecn: bool,
}

/// Rate at which segments were delivered over an interval, and what else an ACK told (`struct rate_sample`).
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "what the plug offers; not every algorithm wants all of it")]
pub struct RateSample {
    /// Segments delivered in the interval; `None`: there is no valid sample.
    pub delivered: Option<u32>,
    /// Of these, those whose ACK carried ECE.
    pub delivered_ce: u32,
    /// `delivered` of the connection at the start of the interval.
    pub prior_delivered: u32,
    /// Its length; `None`: there is no valid sample.
    pub interval: Option<Duration>,
    /// Round-trip time of the segment delivered last.
    pub rtt: Option<Duration>,
    /// Segments newly taken for lost.
    pub losses: u32,
    /// Segments newly delivered.
    pub acked_sacked: u32,
    /// Segments in flight before the ACK.
    pub prior_in_flight: u32,
    /// The interval holds a time in which the program gave too little to send.
    pub is_app_limited: bool,
    /// The segment was a repetition.
    pub is_repeated: bool,
    /// The ACK may have been held back by the receiver.
    pub is_ack_delayed: bool,
}

/// What an ACK said of the round-trip time (`struct ack_sample`).
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "what the plug offers; not every algorithm wants all of it")]
pub struct AckSample {
    /// Segments acknowledged cumulatively.
    pub acked: u32,
    /// Of the segment delivered last.
    pub rtt: Option<Duration>,
}

/// Things that happen (`enum tcp_ca_event`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// First transmission when nothing was in flight.
    TxStart,
    /// The window was restarted after an idle time.
    CwndRestart,
    /// A reduction is complete.
    CompleteCwr,
    /// The retransmission timer has fired.
    Loss,
    /// A segment came with CE.
    EcnIsCe,
    /// A segment came without CE.
    EcnNoCe,
}

/// An algorithm. Names of the functions are those of `struct tcp_congestion_ops`.
pub trait CongestionControl {
    /// Its name in TCP_CONGESTION.
    fn name(&self) -> &'static str;
    /// It works only where the network marks (`TCP_CONG_NEEDS_ECN`): segments of all kinds are ECT, and the SYN asks.
    fn needs_ecn(&self) -> bool {
        false
    }
    /// The connection is established, or the algorithm was changed.
    fn init(&mut self, _window: &mut Window, _facts: &Facts) {}
    /// Congestion was noticed: the threshold from now on, in segments.
    fn ssthresh(&mut self, window: &mut Window, facts: &Facts) -> u32;
    /// Segments were delivered, and the window may grow.
    fn cong_avoid(&mut self, window: &mut Window, facts: &Facts, acked: u32);
    /// The congestion was none: the window from now on.
    fn undo_cwnd(&mut self, window: &mut Window, _facts: &Facts) -> u32 {
        //= RFC 9438 §4.9.2 (SHLD-7)
        window.cwnd.max(window.prior_cwnd)
    }
    /// [`CongestionControl::cong_control`] sets window and pacing rate, in recovery too.
    fn has_cong_control(&self) -> bool {
        false
    }
    /// An ACK was digested. Called instead of `cong_avoid` and of the reduction of the window.
    fn cong_control(&mut self, _window: &mut Window, _facts: &Facts, _rate: &RateSample) {}
    /// An ACK was taken, before losses are looked for.
    fn pkts_acked(&mut self, _window: &mut Window, _facts: &Facts, _sample: &AckSample) {}
    /// The state of recovery is about to change to `new`.
    fn set_state(&mut self, _window: &mut Window, _facts: &Facts, _new: Phase) {}
    /// Something has happened.
    fn cwnd_event(&mut self, _window: &mut Window, _facts: &Facts, _event: Event) {}
    /// An ACK has come, whatever it says. `delivered` of the facts counts it already.
    fn in_ack_event(&mut self, _window: &mut Window, _facts: &Facts) {}
    /// Segments that a super-segment should hold at least; `None`: net.ipv4.tcp_min_tso_segs.
    fn min_tso_segs(&self, _window: &Window) -> Option<u32> {
        None
    }
    /// How many windows the send buffer should hold.
    fn sndbuf_expand(&self) -> u32 {
        2
    }
    /// TCP_CC_INFO: the bytes of Linux's `union tcp_cc_info`.
    fn get_info(&self, _window: &Window, _facts: &Facts) -> Vec<u8> {
        Vec::new()
    }
}

/// One row per algorithm: the variant, its state, its name.
macro_rules! algorithms {
    ($( $variant:ident($state:ty) = $name:literal; )*) => {
        /// The algorithm of one connection: a value, so that a connection holds no pointer to code.
        #[derive(Clone, Debug)]
        pub enum Algorithm {
            $(
                #[doc = $name]
                $variant($state),
            )*
        }

        /// Names that TCP_CONGESTION takes (net.ipv4.tcp_available_congestion_control).
        pub const NAMES: &[&str] = &[$( $name ),*];

        impl Algorithm {
            /// By name.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                match name {
                    $( $name => Some(Self::$variant(<$state>::default())), )*
                    _ => None,
                }
            }
        }

        impl Deref for Algorithm {
            type Target = dyn CongestionControl;
            fn deref(&self) -> &Self::Target {
                match self {
                    $( Self::$variant(state) => state, )*
                }
            }
        }

        impl DerefMut for Algorithm {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $( Self::$variant(state) => state, )*
                }
            }
        }
    };
}

//= REF T-05
algorithms! {
    Reno(reno::Reno) = "reno";
    Cubic(cubic::Cubic) = "cubic";
    Bbr(bbr::Bbr) = "bbr";
    Dctcp(dctcp::Dctcp) = "dctcp";
}

impl Algorithm {
    /// The default of the settings; an unknown name falls to cubic.
    #[must_use]
    pub fn from_setting(field: &[u8; 16]) -> Self {
        let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = core::str::from_utf8(name).unwrap_or_default();
        Self::by_name(name).unwrap_or_else(|| {
            log::warn!(target: "remora::tcp", "congestion control \"{name}\" is not known, cubic is used; known: {NAMES:?}");
            Self::Cubic(cubic::Cubic::default())
        })
    }

    /// The same algorithm without a memory.
    #[must_use]
    pub fn afresh(&self) -> Self {
        // DCTCP without ECN calls itself something else.
        Self::by_name(self.name().trim_end_matches("-reno")).unwrap_or(Self::Reno(reno::Reno))
    }
}

#[cfg(test)]
pub(super) fn facts(now: Instant) -> Facts {
    Facts {
        now,
        phase: Phase::Open,
        mss: 1_448,
        srtt: 0,
        least_rtt: u32::MAX,
        snd_una: Seq(0),
        snd_nxt: Seq(0),
        rcv_nxt: Seq(0),
        in_flight: 0,
        delivered: 0,
        delivered_ce: 0,
        delivered_at: now,
        lost: 0,
        departs: now,
        last_sent: now,
        is_cwnd_limited: true,
        gso_max: 65_536,
        is_app_limited: false,
        ecn: false,
    }
}
