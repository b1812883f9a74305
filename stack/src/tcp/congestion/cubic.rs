//! CUBIC (RFC 9438) in the whole numbers of Linux's `tcp_cubic.c`: the window is a cubic function of the time since the
//! last loss, never less than Reno's would be. Windows in segments, time in 1024ths of a second. How slow start ends
//! before a loss is in `hystart.rs`.

use core::time::Duration;

use super::super::recovery::Phase;
use super::hystart::HyStart;
use super::{AckSample, CongestionControl, Event, Facts, Window};
use crate::time::{Instant, JIFFY};

/// The window after a loss, in 1024ths (RFC 9438 §4.6: 0.7).
//= RFC 9438 §4.6 (SHLD-3)
const BETA: u64 = 717;
/// RFC 9438 §5.1: C = 0.4 segments per cubic second, in 1024ths (`bic_scale * 10`).
//= RFC 9438 §5.1 (SHLD-10)
const SCALE: u64 = 410;
/// Bits that the cube of a time, and SCALE, are too large by.
const CUBE_BITS: u32 = 40;
/// RFC 9438 §4.3: a segment of growth for every cwnd (1 + beta) / 3 (1 - beta) segments acknowledged, in
/// 8ths (`beta_scale`).
const FRIENDLY: u64 = 8 * (1_024 + BETA) / 3 / (1_024 - BETA);
/// Longest distance from the plateau that is looked at; its cube times SCALE fits in 64 bits.
const LONGEST: u64 = 1 << 18;
/// The cubic function is looked at no more often than so, in jiffies, unless the window has changed (`HZ / 32`).
const PAUSE: u64 = 250 / 32;
/// After a loss the round-trip time is not looked at for so long.
const SETTLING: Duration = Duration::from_secs(1);

/// State between losses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cubic {
    /// Segments acknowledged per segment of growth.
    per: u32,
    /// Window before the last loss, lowered by fast convergence.
    w_max: u32,
    /// Where the plateau of the current epoch is.
    origin: u32,
    /// When the current epoch began.
    epoch: Option<Instant>,
    /// From the start of the epoch to the plateau.
    k: u64,
    /// Window that Reno would have, and segments acknowledged that it has not grown for.
    w_est: u32,
    friendly_acked: u64,
    /// The window at the last look at the function, and in which jiffy that was.
    seen: Option<(u32, u64)>,
    /// Least round-trip time.
    least_rtt: Option<Duration>,
    /// Watches slow start.
    start: HyStart,
}

/// Cubic root of `value`, rounded down.
fn cubic_root(value: u64) -> u64 {
    let (mut low, mut high) = (0_u64, 1 << 21);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if middle * middle * middle <= value { low = middle } else { high = middle - 1 }
    }
    low
}

/// Jiffies as 1024ths of a second.
fn in_1024ths(jiffies: u64) -> u64 {
    jiffies.saturating_mul(1_024) / 250
}

/// Jiffies that a time takes, begun ones included (`usecs_to_jiffies`).
fn jiffies_of(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(JIFFY.as_nanos())).unwrap_or(u64::MAX)
}

impl Cubic {
    fn begin_epoch(&mut self, now: Instant, cwnd: u32, acked: u32) {
        self.epoch = Some(now);
        self.friendly_acked = u64::from(acked);
        //= RFC 9438 §4.8 (SHLD-6)
        self.w_est = cwnd;
        if self.w_max > cwnd {
            self.k = cubic_root(u64::from(self.w_max - cwnd).saturating_mul((1 << CUBE_BITS) / SCALE));
            self.origin = self.w_max;
        } else {
            self.k = 0;
            self.origin = cwnd;
        }
    }

    /// W_cubic(t), RFC 9438 §4.2.
    fn target(&self, since_epoch: u64) -> u32 {
        let offset = since_epoch.abs_diff(self.k).min(LONGEST);
        let delta = u32::try_from((SCALE * offset * offset * offset) >> CUBE_BITS).unwrap_or(u32::MAX);
        if since_epoch < self.k { self.origin.saturating_sub(delta) } else { self.origin.saturating_add(delta) }
    }

    /// `bictcp_update`.
    fn update(&mut self, now: Instant, cwnd: u32, acked: u32) {
        let cwnd = cwnd.max(1);
        self.friendly_acked += u64::from(acked);
        let jiffy = now.jiffies();
        let looked = self.seen.map(|(seen, at)| (seen == cwnd, jiffy.saturating_sub(at)));
        if looked.is_some_and(|(same, ago)| same && ago <= PAUSE) {
            return;
        }
        // At most once per jiffy, which sets how fast Reno's part can be followed on short paths.
        if self.epoch.is_none() || looked.is_none_or(|(_, ago)| ago > 0) {
            self.seen = Some((cwnd, jiffy));
            let epoch = match self.epoch {
                Some(epoch) => epoch,
                None => {
                    self.begin_epoch(now, cwnd, acked);
                    now
                }
            };
            // Where the window should be a round trip from now.
            let since = jiffy.saturating_sub(epoch.jiffies()) + jiffies_of(self.least_rtt.unwrap_or_default());
            let target = self.target(in_1024ths(since));
            //= RFC 9438 §4.4 (MUST-2)
            //= RFC 9438 §4.5 (MUST-3)
            self.per = if target > cwnd { cwnd / (target - cwnd) } else { cwnd.saturating_mul(100) };
            if self.w_max == 0 {
                // Before the first loss there is no plateau; grow by 5 % a round trip at least.
                self.per = self.per.min(20);
            }
        }
        self.be_friendly(cwnd);
        //= RFC 9438 §4.4: at most one and a half times the window per round trip.
        self.per = self.per.max(2);
    }

    //= RFC 9438 §4.3 (SHLD-1)
    fn be_friendly(&mut self, cwnd: u32) {
        let step = ((u64::from(cwnd) * FRIENDLY) >> 3).max(1);
        if self.friendly_acked > step {
            let steps = (self.friendly_acked - 1) / step;
            self.friendly_acked -= steps * step;
            self.w_est = self.w_est.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX));
        }
        if self.w_est > cwnd {
            self.per = self.per.min(cwnd / (self.w_est - cwnd));
        }
    }
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }

    fn init(&mut self, _window: &mut Window, _facts: &Facts) {
        *self = Self::default();
    }

    fn ssthresh(&mut self, window: &mut Window, _facts: &Facts) -> u32 {
        self.epoch = None;
        //= RFC 9438 §4.7 (fast convergence)
        //= RFC 9438 §4.7 (SHLD-4)
        self.w_max = if window.cwnd < self.w_max { shrink(window.cwnd, 1_024 + BETA, 2_048) } else { window.cwnd };
        //= RFC 9438 §4.6 (MUST-4)
        shrink(window.cwnd, BETA, 1_024).max(2)
    }

    fn cong_avoid(&mut self, window: &mut Window, facts: &Facts, acked: u32) {
        //= RFC 9438 §4.6 (MUST-5)
        if !facts.is_cwnd_limited {
            return;
        }
        //= RFC 9438 §4.10 (MUST-9)
        let left = if window.is_slow_start() { window.slow_start(acked) } else { acked };
        if left > 0 {
            self.update(facts.now, window.cwnd, left);
            window.grow_per(self.per, left);
        }
    }

    /// `cubictcp_acked`.
    fn pkts_acked(&mut self, window: &mut Window, facts: &Facts, sample: &AckSample) {
        let Some(rtt) = sample.rtt else { return };
        // What was measured right after a recovery tells of its queue.
        if self.epoch.is_some_and(|epoch| facts.now.since(epoch) < SETTLING) {
            return;
        }
        let rtt = rtt.max(Duration::from_micros(1));
        let least = self.least_rtt.map_or(rtt, |least| least.min(rtt));
        self.least_rtt = Some(least);
        if self.start.is_looking() && window.is_slow_start() {
            self.start.sample(window, facts, rtt, least);
        }
    }

    fn set_state(&mut self, _window: &mut Window, _facts: &Facts, new: Phase) {
        if new == Phase::Loss {
            *self = Self::default();
        }
    }

    fn cwnd_event(&mut self, _window: &mut Window, facts: &Facts, event: Event) {
        //= RFC 9438 §5.8: idle time does not count.
        //= RFC 9438 §4.2 (MUST-1)
        if event == Event::TxStart
            && let Some(epoch) = &mut self.epoch
        {
            *epoch = (*epoch + facts.now.since(facts.last_sent)).min(facts.now);
        }
    }
}

fn shrink(cwnd: u32, by: u64, of: u64) -> u32 {
    u32::try_from(u64::from(cwnd) * by / of).unwrap_or(cwnd)
}

#[cfg(test)]
mod tests {
    use super::super::facts;
    use super::*;

    fn measure(cubic: &mut Cubic, window: &mut Window, now: Instant, millis: u64) {
        cubic.pkts_acked(window, &facts(now), &AckSample { acked: 1, rtt: Some(Duration::from_millis(millis)) });
    }

    //= test RFC 9438 §4.2
    //= test RFC 9438 §4.4 (MUST-2)
    //= test RFC 9438 §4.5 (MUST-3)
    //= test RFC 9438 §4.6 (SHLD-3)
    //= test RFC 9438 §5.1 (SHLD-10)
    #[test]
    fn window_comes_back_to_where_the_loss_was_and_then_probes() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 100, ssthresh: 100, ..Window::default() };
        let mut now = Instant::from_millis(1_000);
        // A long round trip: with a short one Reno's growth would be the faster.
        measure(&mut cubic, &mut window, now, 200);
        window.ssthresh = cubic.ssthresh(&mut window, &facts(now));
        assert_eq!(window.ssthresh, 70);
        window.cwnd = window.ssthresh;
        let mut at_plateau = 0;
        for round in 0..50 {
            for _ in 0..window.cwnd {
                now += Duration::from_millis(200) / window.cwnd;
                cubic.cong_avoid(&mut window, &facts(now), 1);
            }
            // K is the cubic root of 30 / 0.4: 4.2 s.
            if round == 21 {
                at_plateau = window.cwnd;
            }
        }
        assert!((95..=105).contains(&at_plateau), "{at_plateau}");
        assert!(window.cwnd > 130, "{}", window.cwnd);
    }

    //= test RFC 9438 §4.3 (SHLD-1)
    //= test RFC 9438 §4.8 (SHLD-6)
    #[test]
    fn a_large_window_grows_at_least_as_fast_as_reno_would() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 1_000, ssthresh: 1_000, ..Window::default() };
        let mut now = Instant::from_millis(1_000);
        measure(&mut cubic, &mut window, now, 1);
        window.ssthresh = cubic.ssthresh(&mut window, &facts(now));
        window.cwnd = window.ssthresh;
        // A hundred round trips of 1 ms, an ACK for each segment: 0.53 segments in each.
        for _ in 0..100 {
            for _ in 0..window.cwnd {
                now += Duration::from_millis(1) / window.cwnd;
                cubic.cong_avoid(&mut window, &facts(now), 1);
            }
        }
        assert!(window.cwnd >= 700 + 45, "{}", window.cwnd);
    }

    /// The arithmetic of Linux's `bictcp_update` done by hand gives 37 here at HZ=250, and 22 at HZ=1000.
    #[test]
    fn on_a_short_path_the_tick_of_the_clock_decides_how_fast_it_grows() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 20, ssthresh: 20, ..Window::default() };
        let mut now = Instant::from_millis(1_000);
        measure(&mut cubic, &mut window, now, 2);
        window.ssthresh = cubic.ssthresh(&mut window, &facts(now));
        window.cwnd = window.ssthresh;
        for _ in 0..20 {
            for _ in 0..window.cwnd / 2 {
                now += Duration::from_millis(4) / window.cwnd;
                cubic.cong_avoid(&mut window, &facts(now), 2);
            }
        }
        assert_eq!(window.cwnd, 37);
    }

    //= test RFC 9438 §4.7 (SHLD-4)
    #[test]
    fn a_second_loss_below_the_first_one_leaves_room_for_others() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 100, ..Window::default() };
        let facts = facts(Instant::from_millis(1_000));
        cubic.ssthresh(&mut window, &facts);
        window.cwnd = 80;
        cubic.ssthresh(&mut window, &facts);
        assert_eq!(cubic.w_max, 68);
    }

    //= test RFC 9438 §5.8
    //= test RFC 9438 §4.2 (MUST-1)
    #[test]
    fn idle_time_does_not_move_the_window_up_the_curve() {
        let mut cubic = Cubic { epoch: Some(Instant::from_millis(1_000)), ..Cubic::default() };
        let facts = Facts { last_sent: Instant::from_millis(3_000), ..facts(Instant::from_millis(63_000)) };
        cubic.cwnd_event(&mut Window::default(), &facts, Event::TxStart);
        assert_eq!(cubic.epoch, Some(Instant::from_millis(61_000)));
    }

    #[test]
    fn roots_are_exact() {
        for root in [0, 1, 2, 99, 100, 1_999_999] {
            assert_eq!(cubic_root(root * root * root), root);
        }
    }
}
