//! Pacing (`tcp_pacing_check`, `tcp_update_skb_after_send`): where an algorithm or SO_MAX_PACING_RATE asks for it, each
//! segment waits until the one before it has had its time at the pacing rate. A timer of the socket does what the fq
//! queueing discipline would do. How much goes out at once is in `segmentation.rs`.

use core::time::Duration;

use super::congestion::UNPACED;
use super::sock::Sock;
use crate::time::Instant;

/// The first segments of a connection are not paced.
const FREE_SEGMENTS: u32 = 10;

/// When the next segment may go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pacing {
    /// Not before this (`tcp_wstamp_ns`).
    pub departs: Instant,
    /// When to look again at what pacing holds back.
    pub at: Option<Instant>,
    /// Segments with data sent so far.
    sent: u32,
}

impl Sock {
    /// Whether what is to be sent has to wait; sets the timer for it then.
    pub(super) fn is_held_by_pacing(&mut self, now: Instant) -> bool {
        let held = self.window.is_paced && self.pacing.departs > now;
        self.pacing.at = held.then_some(self.pacing.departs);
        held
    }

    /// `bytes` of data in `segments` go out.
    pub(super) fn pace(&mut self, now: Instant, bytes: u32, segments: u32) {
        let prior = self.pacing.departs;
        self.pacing.departs = prior.max(now);
        self.pacing.sent = self.pacing.sent.saturating_add(segments);
        let rate = self.window.pacing_rate;
        if !self.window.is_paced || rate == 0 || rate == UNPACED || self.pacing.sent < FREE_SEGMENTS {
            return;
        }
        let time = u64::from(bytes).saturating_mul(1_000_000_000) / rate;
        // What was lost because a timer came late is made good, by half of a burst at most.
        let late = u64::try_from(self.pacing.departs.since(prior).as_nanos()).unwrap_or(u64::MAX);
        self.pacing.departs += Duration::from_nanos(time - late.min(time / 2));
    }

    /// SO_MAX_PACING_RATE, in bytes per second.
    pub(super) fn limit_pacing_rate(&mut self) {
        let most = self.options.max_pacing_rate;
        self.window.most_pacing_rate = most;
        self.window.pacing_rate = self.window.pacing_rate.min(most);
        self.window.is_paced |= most != UNPACED;
    }
}
