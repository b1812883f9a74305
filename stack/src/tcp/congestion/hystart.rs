//! HyStart as Linux has it (`hystart_update`; the delay rule is that of RFC 9406 §4.2): slow start ends when the
//! round-trip time grows, or when an unbroken train of ACKs is half a round trip long, before the queue overflows.
//! There is no Conservative Slow Start: CUBIC's own growth follows.

use core::time::Duration;

use super::super::sequence::Seq;
use super::{Round, Window};
use crate::time::Instant;

/// Windows below this prove nothing (`hystart_low_window`).
const LOW_WINDOW: u32 = 16;
/// RFC 9406 §4.3: N_RTT_SAMPLE.
const SAMPLES: u32 = 8;
/// RFC 9406 §4.3: MIN_RTT_THRESH and MAX_RTT_THRESH.
const LEAST_RISE: Duration = Duration::from_millis(4);
const MOST_RISE: Duration = Duration::from_millis(16);
/// ACKs no farther apart belong to one train (`hystart_ack_delta_us`).
const TRAIN_GAP: Duration = Duration::from_millis(2);
/// How long ACKs may be held back by aggregation (`hystart_ack_delay`).
const AGGREGATION: Duration = Duration::from_millis(1);

/// The current round of slow start.
#[derive(Clone, Copy, Debug, Default)]
pub struct HyStart {
    /// Least round-trip time of the connection.
    least: Option<Duration>,
    /// Slow start has been ended.
    found: bool,
    round: Option<CurrentRound>,
}

#[derive(Clone, Copy, Debug)]
struct CurrentRound {
    /// When `una` passes it, the next one begins.
    end: Seq,
    began: Instant,
    last_ack: Instant,
    /// Least round-trip time of the first samples.
    least: Duration,
    samples: u32,
}

impl HyStart {
    /// Takes a sample; lowers the threshold to the window when slow start has to end.
    pub fn measured(&mut self, window: &mut Window, sample: &Round) {
        let least = self.least.map_or(sample.rtt, |least| least.min(sample.rtt));
        self.least = Some(least);
        if self.found || !window.is_slow_start() {
            return;
        }
        let mut round = self.round.filter(|round| !sample.una.after(round.end)).unwrap_or(CurrentRound {
            end: sample.next,
            began: sample.now,
            last_ack: sample.now,
            least: Duration::MAX,
            samples: 0,
        });
        if window.cwnd >= LOW_WINDOW {
            self.found = round.is_train_long(sample.now, least) || round.is_delayed(sample.rtt, least);
            if self.found {
                window.ssthresh = window.cwnd;
            }
        }
        self.round = Some(round);
    }
}

impl CurrentRound {
    fn is_train_long(&mut self, now: Instant, least: Duration) -> bool {
        if now.since(self.last_ack) > TRAIN_GAP {
            return false;
        }
        self.last_ack = now;
        now.since(self.began) > (least + AGGREGATION) / 2
    }

    fn is_delayed(&mut self, rtt: Duration, least: Duration) -> bool {
        self.least = self.least.min(rtt);
        if self.samples < SAMPLES {
            self.samples += 1;
            return false;
        }
        self.least > least + (least / 8).clamp(LEAST_RISE, MOST_RISE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(start: &mut HyStart, window: &mut Window, now: u64, rtt: u64, una: u32) {
        let round = Round {
            rtt: Duration::from_millis(rtt),
            now: Instant::from_millis(now),
            una: Seq(una),
            next: Seq(una + window.cwnd),
        };
        start.measured(window, &round);
    }

    //= test RFC 9406 §4.2
    #[test]
    fn a_longer_round_trip_ends_slow_start() {
        let mut window = Window { cwnd: 32, ..Window::default() };
        let mut start = HyStart::default();
        let mut una = 0;
        for (at, rtt) in [(1_000, 40), (1_100, 44), (1_200, 52)] {
            una += 33;
            // Far enough apart that they are no train.
            for n in 0..10 {
                feed(&mut start, &mut window, at + 5 * n, rtt, una);
            }
            let ended = !window.is_slow_start();
            assert_eq!(ended, rtt == 52, "at {rtt} ms");
        }
        assert_eq!(window.ssthresh, 32);
    }

    #[test]
    fn an_ack_train_of_half_a_round_trip_ends_slow_start() {
        let mut window = Window { cwnd: 100, ..Window::default() };
        let mut start = HyStart::default();
        for at in 0..=20 {
            feed(&mut start, &mut window, 1_000 + at, 40, 1);
            assert!(window.is_slow_start(), "{at} ms");
        }
        feed(&mut start, &mut window, 1_021, 40, 1);
        assert!(!window.is_slow_start());
    }

    #[test]
    fn small_windows_grow_on() {
        let mut window = Window { cwnd: 15, ..Window::default() };
        let mut start = HyStart::default();
        for at in 0..100 {
            feed(&mut start, &mut window, 1_000 + at, 40, 1);
        }
        assert!(window.is_slow_start());
    }
}
