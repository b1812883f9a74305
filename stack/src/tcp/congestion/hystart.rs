//! HyStart as Linux has it (`hystart_update`; the delay rule is that of RFC 9406 §4.2): slow start ends when the
//! round-trip time grows, or when an unbroken train of ACKs is half a round trip long, before the queue overflows.

use core::time::Duration;

use super::super::sequence::Seq;
use super::{Facts, Found, UNPACED, Window};
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
/// ACKs are held back by aggregation no longer than this (`hystart_ack_delay`).
const AGGREGATION: Duration = Duration::from_millis(1);

/// The current round of slow start.
#[derive(Clone, Copy, Debug, Default)]
pub struct HyStart {
    /// Slow start has been ended.
    found: bool,
    round: Option<CurrentRound>,
}

#[derive(Clone, Copy, Debug)]
struct CurrentRound {
    /// When `snd_una` passes it, the next one begins.
    end: Seq,
    began: Instant,
    last_ack: Instant,
    /// Least round-trip time of the first samples.
    least: Duration,
    samples: u32,
}

impl HyStart {
    /// Whether slow start is still watched.
    pub const fn is_looking(&self) -> bool {
        !self.found
    }

    /// Takes a sample of the round-trip time, of which `least` was the shortest; lowers the threshold to the window
    /// when slow start has to end.
    pub fn sample(&mut self, window: &mut Window, facts: &Facts, rtt: Duration, least: Duration) {
        let mut round = self.round.filter(|round| !facts.snd_una.after(round.end)).unwrap_or(CurrentRound {
            end: facts.snd_nxt,
            began: facts.now,
            last_ack: facts.now,
            least: Duration::MAX,
            samples: 0,
        });
        if window.cwnd >= LOW_WINDOW {
            let train = round.is_train_long(window, facts, least);
            let delayed = round.is_delayed(rtt, least);
            if train || delayed {
                self.found = true;
                window.ssthresh = window.cwnd;
                window.orders.found = Some(if delayed { Found::Delay } else { Found::Train });
            }
        }
        self.round = Some(round);
    }
}

impl CurrentRound {
    fn is_train_long(&mut self, window: &Window, facts: &Facts, least: Duration) -> bool {
        if facts.now.since(self.last_ack) > TRAIN_GAP {
            return false;
        }
        self.last_ack = facts.now;
        let limit = least + aggregation(window, facts);
        // Pacing stretches a train to half a round trip by itself.
        facts.now.since(self.began) > if window.is_paced { limit } else { limit / 2 }
    }

    fn is_delayed(&mut self, rtt: Duration, least: Duration) -> bool {
        self.least = self.least.min(rtt);
        if self.samples < SAMPLES {
            self.samples += 1;
            return false;
        }
        //= RFC 9406 §4.2
        self.least > least + (least / 8).clamp(LEAST_RISE, MOST_RISE)
    }
}

/// How long a receiver may collect segments before it sees them: the time of four super-segments (`hystart_ack_delay`).
fn aggregation(window: &Window, facts: &Facts) -> Duration {
    if window.pacing_rate == 0 || window.pacing_rate == UNPACED {
        return Duration::ZERO;
    }
    let micros = u64::from(facts.gso_max) * 4 * 1_000_000 / window.pacing_rate;
    Duration::from_micros(micros).min(AGGREGATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(start: &mut HyStart, window: &mut Window, now: u64, rtt: u64, una: u32) {
        let facts = Facts {
            snd_una: Seq(una),
            snd_nxt: Seq(una + window.cwnd),
            ..super::super::facts(Instant::from_millis(now))
        };
        start.sample(window, &facts, Duration::from_millis(rtt), Duration::from_millis(40));
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
        assert_eq!(window.orders.found, Some(Found::Delay));
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
        assert_eq!(window.orders.found, Some(Found::Train));
    }

    //= test RFC 9438 §4.10 (MAY-6)
    #[test]
    fn small_windows_grow_on() {
        let mut window = Window { cwnd: 15, ..Window::default() };
        let mut start = HyStart::default();
        for at in 0..100 {
            feed(&mut start, &mut window, 1_000 + at, 40, 1);
        }
        assert!(window.is_slow_start());
    }

    fn looks(cwnd: u32) -> (HyStart, Window) {
        (HyStart::default(), Window { cwnd, ..Window::default() })
    }

    #[test]
    fn the_rise_that_ends_slow_start_is_an_eighth_within_4_and_16_ms() {
        // Least round trip, and the longest one that is no rise yet.
        for (least, most) in [(8, 12), (40, 45), (100, 112), (400, 416)] {
            for (rtt, ends) in [(most, false), (most + 1, true)] {
                let (mut start, mut window) = looks(32);
                for n in 0..10 {
                    let facts = Facts {
                        snd_una: Seq(1),
                        snd_nxt: Seq(100),
                        ..super::super::facts(Instant::from_millis(1_000 + 5 * n))
                    };
                    let (rtt, least) = (Duration::from_millis(rtt), Duration::from_millis(least));
                    start.sample(&mut window, &facts, rtt, least);
                }
                assert_eq!(window.orders.found == Some(Found::Delay), ends, "{rtt} ms over {least} ms");
            }
        }
    }

    #[test]
    fn a_gap_of_more_than_2_ms_breaks_a_train() {
        for (gap, ends) in [(2, true), (3, false)] {
            let (mut start, mut window) = looks(100);
            for n in 0..30 {
                feed(&mut start, &mut window, 1_000 + gap * n, 40, 1);
            }
            assert_eq!(window.orders.found == Some(Found::Train), ends, "{gap} ms");
        }
    }

    #[test]
    fn a_paced_train_has_a_whole_round_trip_and_the_time_of_four_super_segments() {
        // 65,536 bytes four times over at 524,288,000 bytes a second: 0.5 ms; it counts 1 ms at most.
        let gso = |rate| {
            let window = Window { pacing_rate: rate, ..Window::default() };
            aggregation(&window, &Facts { gso_max: 65_536, ..super::super::facts(Instant::ZERO) })
        };
        assert_eq!(gso(524_288_000), Duration::from_micros(500));
        assert_eq!(gso(1_000_000), Duration::from_millis(1));
        assert_eq!((gso(0), gso(UNPACED)), (Duration::ZERO, Duration::ZERO));
        let (mut start, mut window) = looks(100);
        window.is_paced = true;
        for at in 0..=40 {
            feed(&mut start, &mut window, 1_000 + at, 40, 1);
        }
        assert!(window.is_slow_start(), "no more than a round trip yet");
        for at in 41..=42 {
            feed(&mut start, &mut window, 1_000 + at, 40, 1);
        }
        assert_eq!(window.orders.found, Some(Found::Train));
    }

    #[test]
    fn a_window_of_16_is_watched_and_once_found_no_more() {
        let (mut start, mut window) = looks(16);
        for at in 0..=21 {
            feed(&mut start, &mut window, 1_000 + at, 40, 1);
        }
        assert_eq!(window.ssthresh, 16);
        assert!(!start.is_looking());
    }
}
