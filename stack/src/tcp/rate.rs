//! Delivery rate estimation (draft-cheng-iccrg-delivery-rate-estimation, `tcp_rate.c`): each segment carries a note of
//! what had been delivered when it was sent; its acknowledgment tells how much was delivered since, and in what time.

use core::time::Duration;

use super::congestion::RateSample;
use super::sequence::Seq;
use crate::time::Instant;

/// What is noted of the connection when a segment is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp {
    delivered: u32,
    delivered_ce: u32,
    /// When the first segment of the flight was sent that it belongs to.
    first_sent: Instant,
    /// When the last delivery before it was.
    delivered_at: Instant,
    is_app_limited: bool,
}

/// The segment sent last of those that the current ACK delivers.
#[derive(Clone, Copy, Debug)]
struct Latest {
    stamp: Stamp,
    end: Seq,
    sent_for: Duration,
    is_repeated: bool,
}

/// Counts and times of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryRate {
    /// Segments delivered, repetitions counted once (`tp->delivered`).
    pub delivered: u32,
    /// Of these, those whose ACK carried ECE.
    pub delivered_ce: u32,
    /// Segments taken for lost, each time they were (`tp->lost`).
    pub lost: u32,
    /// When the last delivery was.
    pub delivered_at: Instant,
    /// Samples are limited by the program until so many are delivered; 0: they are not (`tp->app_limited`).
    pub app_limited: u32,
    /// When the segment delivered last was sent.
    first_sent: Instant,
    latest: Option<Latest>,
    /// The sample that TCP_INFO shows: segments, interval, whether it was limited by the program.
    shown: Option<(u32, Duration, bool)>,
}

impl DeliveryRate {
    /// A segment is sent at `now`; `idle`: nothing is in flight (`tcp_rate_skb_sent`).
    pub fn sent(&mut self, now: Instant, idle: bool) -> Stamp {
        if idle {
            // What lies before this does not belong to the rate of the network.
            self.first_sent = now;
            self.delivered_at = now;
        }
        Stamp {
            delivered: self.delivered,
            delivered_ce: self.delivered_ce,
            first_sent: self.first_sent,
            delivered_at: self.delivered_at,
            is_app_limited: self.app_limited > 0,
        }
    }

    /// A segment that ends at `end` and was sent last at `sent` has arrived (`tcp_rate_skb_delivered`).
    pub fn arrived(&mut self, stamp: Stamp, sent: Instant, end: Seq, is_repeated: bool) {
        let later = self
            .latest
            .is_none_or(|latest| sent > self.first_sent || (sent == self.first_sent && end.after(latest.end)));
        if later {
            self.first_sent = sent;
            self.latest = Some(Latest { stamp, end, sent_for: sent.since(stamp.first_sent), is_repeated });
        }
    }

    /// What had been delivered when the segment was sent that this ACK tells of, if it tells of any.
    pub fn prior_delivered(&self) -> Option<u32> {
        self.latest.map(|latest| latest.stamp.delivered)
    }

    /// The program gives less than the network would take (`tcp_rate_check_app_limited`).
    pub fn limit(&mut self, in_flight: u32) {
        self.app_limited = self.delivered.wrapping_add(in_flight).max(1);
    }

    /// The ACK is digested: `delivered` of the result counts from the start of the interval (`tcp_rate_gen`).
    /// What `tells` holds of the ACK itself is handed through.
    pub fn sample(&mut self, now: Instant, least_rtt: u32, reneged: bool, tells: RateSample) -> RateSample {
        if self.app_limited > 0 && Seq(self.delivered).after(Seq(self.app_limited)) {
            self.app_limited = 0;
        }
        if tells.acked_sacked > 0 {
            self.delivered_at = now;
        }
        let Some(latest) = self.latest.take().filter(|_| !reneged) else {
            return tells;
        };
        let ack_for = now.since(latest.stamp.delivered_at);
        let interval = latest.sent_for.max(ack_for);
        let mut sample = RateSample {
            delivered: Some(self.delivered.wrapping_sub(latest.stamp.delivered)),
            delivered_ce: self.delivered_ce.wrapping_sub(latest.stamp.delivered_ce),
            prior_delivered: latest.stamp.delivered,
            interval: Some(interval),
            is_app_limited: latest.stamp.is_app_limited,
            is_repeated: latest.is_repeated,
            ..tells
        };
        // Shorter than the shortest round trip: it was the first copy of a repeated segment that arrived.
        if least_rtt != u32::MAX && interval < Duration::from_micros(u64::from(least_rtt)) {
            sample.interval = None;
            return sample;
        }
        let segments = sample.delivered.unwrap_or(0);
        let faster = |(old, over, _): (u32, Duration, bool)| {
            u128::from(segments) * over.as_nanos() >= u128::from(old) * interval.as_nanos()
        };
        if !sample.is_app_limited || self.shown.is_none_or(faster) {
            self.shown = Some((segments, interval, sample.is_app_limited));
        }
        sample
    }

    /// Bytes per second as TCP_INFO shows them, and whether the program limited them (`tcp_compute_delivery_rate`).
    #[must_use]
    pub fn shown(&self, mss: u32) -> (u64, bool) {
        self.shown.map_or((0, false), |(segments, interval, limited)| {
            let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX).max(1);
            (u64::from(segments) * u64::from(mss) * 1_000_000 / micros, limited)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tells(acked_sacked: u32) -> RateSample {
        RateSample { acked_sacked, ..RateSample::default() }
    }

    #[test]
    fn the_rate_is_that_of_the_slower_of_sending_and_acknowledging() {
        let mut rate = DeliveryRate::default();
        let at = Instant::from_millis;
        let first = rate.sent(at(1_000), true);
        // Ten segments were sent within 1 ms; their ACKs take 10 ms.
        let last = rate.sent(at(1_001), false);
        rate.delivered = 1;
        rate.arrived(first, at(1_000), Seq(100), false);
        let sample = rate.sample(at(1_040), 40_000, false, tells(1));
        assert_eq!((sample.delivered, sample.interval), (Some(1), Some(Duration::from_millis(40))));
        rate.delivered = 10;
        rate.arrived(last, at(1_001), Seq(1_000), false);
        let sample = rate.sample(at(1_050), 40_000, false, tells(9));
        assert_eq!((sample.delivered, sample.interval), (Some(10), Some(Duration::from_millis(50))));
        // 10 segments of 1000 bytes in 50 ms.
        assert_eq!(rate.shown(1_000), (200_000, false));
    }

    #[test]
    fn a_sample_taken_while_the_program_was_slow_is_marked_and_does_not_lower_the_rate_shown() {
        let mut rate = DeliveryRate::default();
        let at = Instant::from_millis;
        let stamp = rate.sent(at(1_000), true);
        rate.delivered = 10;
        rate.arrived(stamp, at(1_000), Seq(1_000), false);
        rate.sample(at(1_040), 40_000, false, tells(10));
        rate.limit(1);
        let stamp = rate.sent(at(2_000), true);
        rate.delivered = 11;
        rate.arrived(stamp, at(2_000), Seq(1_100), false);
        let sample = rate.sample(at(2_040), 40_000, false, tells(1));
        assert!(sample.is_app_limited);
        assert_eq!(rate.shown(1_000), (250_000, false));
        rate.delivered = 12;
        rate.sample(at(2_041), 40_000, false, tells(1));
        assert_eq!(rate.app_limited, 0, "it ends with what was in flight");
    }

    #[test]
    fn an_interval_shorter_than_any_round_trip_is_no_sample() {
        let mut rate = DeliveryRate::default();
        let stamp = rate.sent(Instant::from_millis(1_000), true);
        rate.delivered = 1;
        rate.arrived(stamp, Instant::from_millis(1_000), Seq(100), true);
        let sample = rate.sample(Instant::from_millis(1_010), 40_000, false, tells(1));
        assert_eq!(sample.interval, None);
    }
}
