//! Round-trip time and retransmission timeout (RFC 6298 with Linux's estimator, `tcp_rtt_estimator`). When the timer
//! is started and what it does stands in `retransmit.rs`.

use core::time::Duration;

use super::congestion::WindowedMin;
use super::sequence::Seq;
use crate::time::Instant;

/// RFC 6298 (2.1): before there is a sample.
pub const INITIAL: Duration = Duration::from_secs(1);
/// RFC 6298 (5.7): after a SYN was repeated without a sample.
pub const FALLBACK: Duration = Duration::from_secs(3);
/// Linux's TCP_RTO_MIN.
pub const LEAST: Duration = Duration::from_millis(200);
/// Linux's TCP_RTO_MAX; RFC 6298 (2.5) asks for at least a minute.
pub const MOST: Duration = Duration::from_secs(120);

/// Smoothed round-trip time of one connection, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrip {
    /// Smoothed, times 8; 0 before the first sample.
    srtt: u32,
    /// Medium deviation, times 4.
    mdev: u32,
    /// Largest `mdev` of this round trip.
    mdev_max: u32,
    /// What goes into the timeout.
    rttvar: u32,
    /// When `snd_una` passes it, a round trip is over.
    rtt_seq: Seq,
    /// Timeout without back-off.
    base: Duration,
    /// How often the timeout was doubled.
    pub backoff: u32,
    /// The least sample of the window of tcp_min_rtt_wlen; `u32::MAX` before there is one.
    pub least: u32,
    least_of_window: WindowedMin,
    /// TCP_RTO_MIN_US and TCP_RTO_MAX_MS, or what holds without them.
    limits: (Duration, Duration),
}

/// What timeouts have cost a connection so far, for TCP_INFO (`tcp_update_rto_stats`, `tcp_update_rto_time`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// How many there were, that of a SYN included.
    pub total: u16,
    /// How many recoveries began with one.
    pub recoveries: u16,
    /// In recoveries that are over.
    spent: Duration,
    /// When the recovery that is under way began.
    since: Option<Instant>,
    /// How often another path was tried for it.
    pub rehashed: u32,
}

impl Timeouts {
    /// The timer has fired; `first`: not since the last progress.
    pub fn note(&mut self, now: Instant, first: bool) {
        if first {
            self.recoveries = self.recoveries.saturating_add(1);
            self.since = Some(now);
        }
        self.total = self.total.saturating_add(1);
    }

    /// The SYN-ACK of this connection was repeated so often since `sent_at`.
    pub fn note_of_request(&mut self, now: Instant, count: u32, sent_at: Instant) {
        self.total = u16::try_from(count).unwrap_or(u16::MAX);
        self.recoveries = 1;
        self.spent = now.since(sent_at);
    }

    /// The recovery is over.
    pub fn end(&mut self, now: Instant) {
        self.spent += self.since.take().map_or(Duration::ZERO, |since| now.since(since));
    }

    /// Milliseconds in recoveries.
    pub fn millis(&self, now: Instant) -> u32 {
        let spent = self.spent + self.since.map_or(Duration::ZERO, |since| now.since(since));
        u32::try_from(spent.as_millis()).unwrap_or(u32::MAX)
    }
}

impl Default for RoundTrip {
    fn default() -> Self {
        //= RFC 6298 §2 (SHLD-1)
        Self {
            srtt: 0,
            mdev: 0,
            mdev_max: 0,
            rttvar: 0,
            rtt_seq: Seq(0),
            base: INITIAL,
            backoff: 0,
            least: u32::MAX,
            least_of_window: WindowedMin::default(),
            limits: (LEAST, MOST),
        }
    }
}

impl RoundTrip {
    /// Smoothed round-trip time, when there was a sample.
    #[must_use]
    pub const fn smoothed(&self) -> Option<Duration> {
        if self.srtt == 0 { None } else { Some(Duration::from_micros((self.srtt >> 3) as u64)) }
    }

    /// Smoothed round-trip time and deviation in microseconds as TCP_INFO shows them.
    #[must_use]
    pub const fn shown(&self) -> (u32, u32) {
        (self.srtt >> 3, self.mdev >> 2)
    }

    /// The timeout now, back-off included.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        //= RFC 6298 §2 (MAY-2)
        self.base.saturating_mul(1_u32.checked_shl(self.backoff).unwrap_or(u32::MAX)).min(self.most())
    }

    /// The longest timeout that there is (`tcp_rto_max`).
    #[must_use]
    pub const fn most(&self) -> Duration {
        self.limits.1
    }

    /// The program's own limits of the timeout (TCP_RTO_MIN_US, TCP_RTO_MAX_MS).
    pub const fn limit(&mut self, least: Duration, most: Duration) {
        self.limits = (least, most);
    }

    /// The timeout without back-off.
    #[must_use]
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// Doubles the timeout (RFC 6298 (5.5)).
    pub fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1).min(31);
    }

    /// Whether `rtt` is longer than the least one.
    #[must_use]
    pub fn is_above_least(&self, rtt: Duration) -> bool {
        rtt > Duration::from_micros(u64::from(self.least))
    }

    /// Takes the time of the segment that was delivered last; those longer ago than `window` seconds are forgotten
    /// (`tcp_update_rtt_min`).
    //= RFC 8985 §6.2 (SHLD-7)
    pub fn note_least(&mut self, now: Instant, window: u32, rtt: Duration) {
        let millis = u32::try_from((now.micros() / 1_000) & u64::from(u32::MAX)).unwrap_or(0);
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        self.least_of_window.take(window.saturating_mul(1_000), millis, rtt);
        self.least = self.least_of_window.value();
    }

    /// Takes a sample; `snd_una` and `snd_nxt` are those after the ACK.
    //= RFC 9293 §3.8.1 (MUST-18)
    pub fn sample(&mut self, rtt: Duration, snd_una: Seq, snd_nxt: Seq) {
        // Samples are capped far beyond any path so that the sums below stay in 32 bits.
        let sample = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).clamp(1, 100_000_000);
        let (least, most) = self.limits;
        let floor = u32::try_from(least.as_micros()).unwrap_or(200_000);
        if self.srtt == 0 {
            //= RFC 6298 §2 (MUST-2)
            self.srtt = sample << 3;
            self.mdev = sample << 1;
            self.rttvar = self.mdev.max(floor);
            self.mdev_max = self.rttvar;
            self.rtt_seq = snd_nxt;
        } else {
            //= RFC 6298 §2 (MUST-3)
            let error = i64::from(sample) - i64::from(self.srtt >> 3);
            //= RFC 6298 §2 (SHLD-2)
            self.srtt = clamp(i64::from(self.srtt) + error).max(1);
            let mut deviation = if error < 0 {
                // A shorter time must not widen the deviation as a longer one does (Eifel, `tcp_rtt_estimator`).
                let deviation = -error - i64::from(self.mdev >> 2);
                if deviation > 0 { deviation >> 3 } else { deviation }
            } else {
                error - i64::from(self.mdev >> 2)
            };
            deviation += i64::from(self.mdev);
            self.mdev = clamp(deviation);
            if self.mdev > self.mdev_max {
                self.mdev_max = self.mdev;
                self.rttvar = self.rttvar.max(self.mdev_max);
            }
            //= RFC 7323 §4.2 (SHLD-9)
            if snd_una.after(self.rtt_seq) {
                if self.mdev_max < self.rttvar {
                    self.rttvar -= (self.rttvar - self.mdev_max) >> 2;
                }
                self.rtt_seq = snd_nxt;
                //= RFC 6298 §4 (MUST-8)
                self.mdev_max = floor;
            }
        }
        //= RFC 6298 §2 (MUST-5)
        let micros = u64::from(self.srtt >> 3) + u64::from(self.rttvar);
        self.base = Duration::from_micros(micros).max(least).min(most);
        // RFC 6298 (5.7) and Karn: only a valid sample ends the back-off.
        self.backoff = 0;
    }

    /// Repeated SYN without a sample (RFC 6298 (5.7)).
    //= REF C-14
    pub fn fall_back(&mut self) {
        if self.srtt == 0 {
            self.base = FALLBACK;
        }
        self.backoff = 0;
    }
}

fn clamp(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= test RFC 6298 §2 (SHLD-1)
    #[test]
    fn timeout_is_at_least_200_ms_above_the_round_trip() {
        let mut rtt = RoundTrip::default();
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.sample(Duration::from_millis(1), Seq(1), Seq(1));
        assert_eq!(rtt.timeout(), Duration::from_millis(201));
    }

    #[test]
    //= test REF D-06
    fn limits_of_the_program_hold() {
        let mut rtt = RoundTrip::default();
        rtt.limit(Duration::from_millis(8), Duration::from_secs(2));
        for expected in [1, 2, 2] {
            assert_eq!(rtt.timeout(), Duration::from_secs(expected));
            rtt.back_off();
        }
        rtt.sample(Duration::from_millis(1), Seq(1), Seq(1));
        assert_eq!(rtt.timeout(), Duration::from_millis(9));
    }

    //= test RFC 6298 §2 (MAY-2)
    //= test RFC 6298 §5 (MUST-10)
    #[test]
    fn back_off_doubles_up_to_two_minutes_and_ends_with_a_sample() {
        let mut rtt = RoundTrip::default();
        for expected in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            assert_eq!(rtt.timeout(), Duration::from_secs(expected));
            rtt.back_off();
        }
        rtt.sample(Duration::from_millis(10), Seq(1), Seq(1));
        assert_eq!(rtt.timeout(), Duration::from_millis(210));
    }

    //= test RFC 6298 §2 (MUST-2, MUST-3, SHLD-2, MUST-5)
    #[test]
    fn samples_are_smoothed_by_eighths_and_the_deviation_by_quarters() {
        let mut rtt = RoundTrip::default();
        rtt.sample(Duration::from_millis(100), Seq(1), Seq(1));
        assert_eq!(rtt.shown(), (100_000, 50_000));
        assert_eq!(rtt.timeout(), Duration::from_millis(100 + 4 * 50));
        rtt.sample(Duration::from_millis(180), Seq(2), Seq(2));
        // 7/8 of 100 and 1/8 of 180; 3/4 of 50 and 1/4 of what 180 is away from 100, the value of before.
        assert_eq!(rtt.shown(), (110_000, 57_500));
        assert_eq!(rtt.timeout(), Duration::from_millis(110 + 4 * 57 + 2));
    }

    //= test RFC 6298 §4 (MUST-8)
    #[test]
    fn a_steady_round_trip_leaves_200_ms_of_deviation() {
        let mut rtt = RoundTrip::default();
        for n in 1..200 {
            rtt.sample(Duration::from_secs(1), Seq(2 * n), Seq(2 * n + 1));
        }
        assert!((1_200_000..1_200_010).contains(&rtt.timeout().as_micros()), "{:?}", rtt.timeout());
    }

    //= test RFC 7323 §4.2 (SHLD-9)
    #[test]
    fn many_samples_in_one_round_trip_do_not_shrink_the_timeout_faster() {
        let mut rtt = RoundTrip::default();
        for _ in 0..20 {
            rtt.sample(Duration::from_millis(100), Seq(1), Seq(100));
        }
        assert_eq!(rtt.timeout(), Duration::from_millis(300));
    }
}
