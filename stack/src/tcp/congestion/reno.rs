//! Reno (RFC 5681 §3.1, §3.2; `tcp_reno_cong_avoid`): half the window at a loss, one segment more per round trip.

use super::{CongestionControl, Facts, Window};

/// Has no state beside the window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reno;

/// `tcp_reno_cong_avoid`, which other algorithms use too.
//= RFC 9293 §3.8.2 (MUST-19)
//= RFC 5681 §3.1 (MUST-3)
pub(super) fn cong_avoid(window: &mut Window, facts: &Facts, acked: u32) {
    if !facts.is_cwnd_limited {
        return;
    }
    let left = if window.is_slow_start() { window.slow_start(acked) } else { acked };
    if left > 0 {
        window.grow_per(window.cwnd, left);
    }
}

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn ssthresh(&mut self, window: &mut Window, _facts: &Facts) -> u32 {
        (window.cwnd / 2).max(2)
    }

    fn cong_avoid(&mut self, window: &mut Window, facts: &Facts, acked: u32) {
        cong_avoid(window, facts, acked);
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts;
    use super::*;
    use crate::time::Instant;

    //= test RFC 5681 §3.1 (MUST-3, MUST-9, SHLD-3, SHLD-4, MAY-1)
    //= test RFC 9293 §3.8.2 (MUST-19)
    #[test]
    fn one_segment_more_per_window_acknowledged() {
        let mut window = Window { cwnd: 10, ssthresh: 10, ..Window::default() };
        let mut facts = facts(Instant::ZERO);
        for _ in 0..10 {
            Reno.cong_avoid(&mut window, &facts, 1);
        }
        assert_eq!(window.cwnd, 11);
        assert_eq!(Reno.ssthresh(&mut window, &facts), 5);
        facts.is_cwnd_limited = false;
        Reno.cong_avoid(&mut window, &facts, 100);
        assert_eq!(window.cwnd, 11, "a window that was not used does not grow");
    }

    //= test RFC 9438 §4.9.2 (SHLD-7)
    #[test]
    fn taking_a_reduction_back_never_makes_the_window_smaller() {
        let facts = facts(Instant::ZERO);
        let mut window = Window { cwnd: 7, prior_cwnd: 10, ..Window::default() };
        assert_eq!(Reno.undo_cwnd(&mut window, &facts), 10);
        window.cwnd = 12;
        assert_eq!(Reno.undo_cwnd(&mut window, &facts), 12);
    }
}
