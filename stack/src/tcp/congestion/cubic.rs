//! CUBIC (RFC 9438): the window is a cubic function of the time since the last loss, never less than Reno's would be.
//! How slow start ends before a loss is in `hystart.rs`. All in whole numbers: windows in segments, time in milliseconds.

use core::time::Duration;

use super::hystart::HyStart;
use super::{CongestionControl, Round, Sample, Window};
use crate::time::Instant;

/// The window after a loss, in 1024ths (RFC 9438 §4.6: 0.7).
const BETA: u64 = 717;
/// RFC 9438 §5.1: C = 0.4 segments per cubic second; 1e9 ms³ / 0.4.
const CUBE_PER_SEGMENT: u64 = 2_500_000_000;
/// Longest distance from the plateau that is looked at; its cube fits in 64 bits.
const LONGEST: u64 = 2_000_000;

/// After a loss the round-trip time is not looked at for so long.
const SETTLING: Duration = Duration::from_secs(1);

/// State between losses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cubic {
    /// Window before the last loss, lowered by fast convergence.
    w_max: u32,
    /// Where the plateau of the current epoch is.
    origin: u32,
    /// When the current epoch began.
    epoch: Option<Instant>,
    /// Milliseconds from the start of the epoch to the plateau.
    k: u64,
    /// Window that Reno would have, in 2^-20 of a segment: an ACK of one among many hundreds must not round to nothing.
    w_est: u64,
    /// Watches slow start.
    start: HyStart,
}

/// Cubic root of `value`, rounded down.
fn cubic_root(value: u64) -> u64 {
    let (mut low, mut high) = (0_u64, LONGEST);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if middle * middle * middle <= value { low = middle } else { high = middle - 1 }
    }
    low
}

impl Cubic {
    fn begin_epoch(&mut self, now: Instant, cwnd: u32) {
        self.epoch = Some(now);
        self.w_est = u64::from(cwnd) << 20;
        if self.w_max > cwnd {
            self.k = cubic_root(u64::from(self.w_max - cwnd).saturating_mul(CUBE_PER_SEGMENT));
            self.origin = self.w_max;
        } else {
            self.k = 0;
            self.origin = cwnd;
        }
    }

    /// W_cubic(t), RFC 9438 §4.2.
    fn target(&self, millis: u64) -> u32 {
        let offset = millis.abs_diff(self.k).min(LONGEST);
        let delta = u32::try_from(offset * offset * offset / CUBE_PER_SEGMENT).unwrap_or(u32::MAX);
        if millis < self.k { self.origin.saturating_sub(delta) } else { self.origin.saturating_add(delta) }
    }
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }

    fn threshold(&mut self, window: &Window) -> u32 {
        self.epoch = None;
        //= RFC 9438 §4.7 (fast convergence)
        self.w_max = if window.cwnd < self.w_max { shrink(window.cwnd, 1_024 + BETA, 2_048) } else { window.cwnd };
        shrink(window.cwnd, BETA, 1_024).max(2)
    }

    fn acknowledged(&mut self, window: &mut Window, sample: &Sample) {
        let left = if window.is_slow_start() { window.slow_start(sample.acked) } else { sample.acked };
        if left == 0 {
            return;
        }
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                self.begin_epoch(sample.now, window.cwnd);
                window.count = 0;
                sample.now
            }
        };
        let ahead = sample.now + sample.rtt.unwrap_or_default();
        let millis = u64::try_from(ahead.since(epoch).as_millis()).unwrap_or(u64::MAX);
        let target = self.target(millis);
        let cwnd = window.cwnd.max(1);
        //= RFC 9438 §4.3: alpha is 3 (1 - beta) / (1 + beta) = 542/1024.
        self.w_est += ((542 << 10) * u64::from(left)) / u64::from(cwnd);
        let friendly = u32::try_from(self.w_est >> 20).unwrap_or(u32::MAX);
        let mut per = if target > cwnd { cwnd / (target - cwnd) } else { cwnd.saturating_mul(100) };
        if self.w_max == 0 {
            // Before the first loss there is no plateau; grow by 5 % a round trip at least (`bictcp_update`).
            per = per.min(20);
        }
        if friendly > cwnd {
            per = per.min(cwnd / (friendly - cwnd));
        }
        // At most one and a half times the window per round trip (§4.4).
        window.grow_per(per.max(2), left);
    }

    fn measured(&mut self, window: &mut Window, round: &Round) {
        // What was measured right after a recovery tells of its queue (`cubictcp_acked`).
        if self.epoch.is_some_and(|epoch| round.now.since(epoch) < SETTLING) {
            return;
        }
        self.start.measured(window, round);
    }

    fn timed_out(&mut self) {
        self.epoch = None;
        self.start = HyStart::default();
    }

    fn resumed(&mut self, span: Duration) {
        //= RFC 9438 §5.8: idle time does not count.
        if let Some(epoch) = &mut self.epoch {
            *epoch += span;
        }
    }
}

fn shrink(cwnd: u32, by: u64, of: u64) -> u32 {
    u32::try_from(u64::from(cwnd) * by / of).unwrap_or(cwnd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_comes_back_to_where_the_loss_was_and_then_probes() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 100, ssthresh: 100, count: 0 };
        window.ssthresh = cubic.threshold(&window);
        assert_eq!(window.ssthresh, 70);
        window.cwnd = window.ssthresh;
        // A long round trip: with a short one Reno's growth would be the faster.
        let rtt = Some(Duration::from_millis(200));
        let mut now = Instant::from_millis(1_000);
        let mut at_plateau = 0;
        for round in 0..50 {
            let acked = window.cwnd;
            cubic.acknowledged(&mut window, &Sample { acked, now, rtt });
            now += Duration::from_millis(200);
            // K is the cubic root of 30 / 0.4: 4.2 s.
            if round == 21 {
                at_plateau = window.cwnd;
            }
        }
        assert!((95..=105).contains(&at_plateau), "{at_plateau}");
        assert!(window.cwnd > 130, "{}", window.cwnd);
    }

    //= test RFC 9438 §4.3
    #[test]
    fn a_large_window_grows_at_least_as_fast_as_reno_would() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 1_000, ssthresh: 1_000, count: 0 };
        window.ssthresh = cubic.threshold(&window);
        window.cwnd = window.ssthresh;
        let mut now = Instant::from_millis(1_000);
        // Ten round trips of 1 ms, an ACK for each segment: 0.53 segments in each.
        for _ in 0..10 {
            for _ in 0..window.cwnd {
                cubic.acknowledged(&mut window, &Sample { acked: 1, now, rtt: Some(Duration::from_millis(1)) });
            }
            now += Duration::from_millis(1);
        }
        assert!(window.cwnd >= 700 + 4, "{}", window.cwnd);
    }

    #[test]
    fn roots_are_exact() {
        for root in [0, 1, 2, 99, 100, 1_999_999] {
            assert_eq!(cubic_root(root * root * root), root);
        }
    }
}
