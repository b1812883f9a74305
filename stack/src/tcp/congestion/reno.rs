//! Reno (RFC 5681 §3.1, §3.2): half the window at a loss, one segment more per round trip.

use core::time::Duration;

use super::{CongestionControl, Sample, Window};

/// Has no state beside the window.
#[derive(Clone, Copy, Debug)]
pub struct Reno;

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn threshold(&mut self, window: &Window) -> u32 {
        (window.cwnd / 2).max(2)
    }

    fn acknowledged(&mut self, window: &mut Window, sample: &Sample) {
        let left = if window.is_slow_start() { window.slow_start(sample.acked) } else { sample.acked };
        if left > 0 {
            window.grow_per(window.cwnd, left);
        }
    }

    fn timed_out(&mut self) {}

    fn resumed(&mut self, _span: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;

    #[test]
    fn one_segment_more_per_window_acknowledged() {
        let mut window = Window { cwnd: 10, ssthresh: 10, count: 0 };
        for _ in 0..10 {
            Reno.acknowledged(&mut window, &Sample { acked: 1, now: Instant::ZERO, rtt: None });
        }
        assert_eq!(window.cwnd, 11);
        assert_eq!(Reno.threshold(&window), 5);
    }
}
