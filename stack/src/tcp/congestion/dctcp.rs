//! DCTCP (RFC 8257, `tcp_dctcp.c`): the window shrinks by half of the share of segments that the network marked, so it
//! needs a network that marks early, and ECN. Growth is Reno's; without ECN all of it is.

use alloc::vec::Vec;

use super::super::recovery::Phase;
use super::super::sequence::Seq;
use super::{CongestionControl, Event, Facts, Window, reno};

/// Alpha of one (RFC 8257 §4.2: at first all is taken to be marked).
const ALL: u32 = 1_024;
/// Weight of a new sample: 2^-4.
const GAIN_SHIFT: u32 = 4;

/// Estimate and echo.
#[derive(Clone, Copy, Debug)]
pub struct Dctcp {
    /// The peer does no ECN: this is Reno.
    is_reno: bool,
    /// Estimated share of marked segments, in 1024ths.
    alpha: u32,
    /// Where the current window of observation ends.
    next: Seq,
    delivered: u32,
    delivered_ce: u32,
    /// Whether the last segment received was marked, and where it ended.
    ce: bool,
    prior_rcv_nxt: Seq,
    loss_cwnd: u32,
}

impl Default for Dctcp {
    fn default() -> Self {
        Self {
            is_reno: false,
            alpha: ALL,
            next: Seq(0),
            delivered: 0,
            delivered_ce: 0,
            ce: false,
            prior_rcv_nxt: Seq(0),
            loss_cwnd: 0,
        }
    }
}

impl Dctcp {
    const fn observe(&mut self, facts: &Facts) {
        self.next = facts.snd_nxt;
        self.delivered = facts.delivered;
        self.delivered_ce = facts.delivered_ce;
    }

    fn halve(&mut self, window: &mut Window) {
        self.loss_cwnd = window.cwnd;
        window.ssthresh = (window.cwnd / 2).max(2);
    }
}

impl CongestionControl for Dctcp {
    fn name(&self) -> &'static str {
        if self.is_reno { "dctcp-reno" } else { "dctcp" }
    }

    fn needs_ecn(&self) -> bool {
        !self.is_reno
    }

    fn init(&mut self, _window: &mut Window, facts: &Facts) {
        *self = Self { is_reno: !facts.ecn, prior_rcv_nxt: facts.rcv_nxt, ..Self::default() };
        self.observe(facts);
    }

    fn ssthresh(&mut self, window: &mut Window, _facts: &Facts) -> u32 {
        if self.is_reno {
            return (window.cwnd / 2).max(2);
        }
        //= RFC 8257 §3.3 (step 9)
        self.loss_cwnd = window.cwnd;
        let cut = u64::from(window.cwnd) * u64::from(self.alpha) / u64::from(2 * ALL);
        window.cwnd.saturating_sub(u32::try_from(cut).unwrap_or(u32::MAX)).max(2)
    }

    fn cong_avoid(&mut self, window: &mut Window, facts: &Facts, acked: u32) {
        reno::cong_avoid(window, facts, acked);
    }

    fn undo_cwnd(&mut self, window: &mut Window, _facts: &Facts) -> u32 {
        window.cwnd.max(if self.is_reno { window.prior_cwnd } else { self.loss_cwnd })
    }

    //= RFC 8257 §3.3 (steps 1 to 8)
    fn in_ack_event(&mut self, _window: &mut Window, facts: &Facts) {
        if self.is_reno || facts.snd_una.before(self.next) {
            return;
        }
        let marked = u64::from(facts.delivered_ce.wrapping_sub(self.delivered_ce));
        let all = u64::from(facts.delivered.wrapping_sub(self.delivered)).max(1);
        let decay = (self.alpha >> GAIN_SHIFT).max(u32::from(self.alpha > 0));
        let share = u32::try_from((marked << (10 - GAIN_SHIFT)) / all).unwrap_or(ALL);
        self.alpha = (self.alpha - decay + share).min(ALL);
        self.observe(facts);
    }

    fn set_state(&mut self, window: &mut Window, facts: &Facts, new: Phase) {
        if !self.is_reno && new == Phase::Recovery && facts.phase != Phase::Recovery {
            self.halve(window);
        }
    }

    fn cwnd_event(&mut self, window: &mut Window, facts: &Facts, event: Event) {
        if self.is_reno {
            return;
        }
        match event {
            Event::Loss => self.halve(window),
            //= RFC 8257 §3.2: the receiver's state changes with the mark, and the change is told at once.
            Event::EcnIsCe | Event::EcnNoCe => {
                let ce = event == Event::EcnIsCe;
                if ce != self.ce {
                    window.orders.ack_before = Some((self.prior_rcv_nxt, self.ce));
                    window.orders.ack_now = true;
                }
                self.prior_rcv_nxt = facts.rcv_nxt;
                self.ce = ce;
                window.orders.echo = Some(ce);
            }
            Event::TxStart | Event::CwndRestart | Event::CompleteCwr => {}
        }
    }

    /// `struct tcp_dctcp_info`.
    fn get_info(&self, _window: &Window, facts: &Facts) -> Vec<u8> {
        let mut bytes = Vec::new();
        let on = !self.is_reno;
        bytes.extend_from_slice(&u16::from(on).to_ne_bytes());
        bytes.extend_from_slice(&u16::from(on && self.ce).to_ne_bytes());
        let marked = facts.mss.wrapping_mul(facts.delivered_ce.wrapping_sub(self.delivered_ce));
        let all = facts.mss.wrapping_mul(facts.delivered.wrapping_sub(self.delivered));
        for field in if on { [self.alpha, marked, all] } else { [0; 3] } {
            bytes.extend_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts;
    use super::*;
    use crate::time::Instant;

    fn with_ecn() -> Facts {
        Facts { ecn: true, ..facts(Instant::from_millis(1_000)) }
    }

    //= test RFC 8257 §3.3
    #[test]
    fn alpha_follows_the_share_of_marked_segments_and_the_window_shrinks_by_half_of_it() {
        let mut dctcp = Dctcp::default();
        let mut window = Window { cwnd: 100, ..Window::default() };
        let mut facts = with_ecn();
        dctcp.init(&mut window, &facts);
        assert_eq!(dctcp.ssthresh(&mut window, &facts), 50, "all is taken to be marked at first");
        for _ in 0..200 {
            facts.snd_una += 1;
            facts.snd_nxt = facts.snd_una + 1;
            facts.delivered += 100;
            facts.delivered_ce += 25;
            dctcp.in_ack_event(&mut window, &facts);
        }
        assert!((240..=280).contains(&dctcp.alpha), "{}", dctcp.alpha);
        assert!((86..=89).contains(&dctcp.ssthresh(&mut window, &facts)));
    }

    //= test RFC 8257 §3.2
    #[test]
    fn a_change_of_the_mark_is_told_at_once() {
        let mut dctcp = Dctcp::default();
        let mut window = Window::default();
        let mut facts = with_ecn();
        dctcp.init(&mut window, &facts);
        facts.rcv_nxt = Seq(1_000);
        dctcp.cwnd_event(&mut window, &facts, Event::EcnNoCe);
        assert!(!window.orders.ack_now);
        facts.rcv_nxt = Seq(2_000);
        dctcp.cwnd_event(&mut window, &facts, Event::EcnIsCe);
        assert_eq!(window.orders.ack_before, Some((Seq(1_000), false)));
        assert!(window.orders.ack_now && window.orders.echo == Some(true));
    }

    #[test]
    fn without_ecn_it_is_reno() {
        let mut dctcp = Dctcp::default();
        let mut window = Window { cwnd: 100, ..Window::default() };
        dctcp.init(&mut window, &facts(Instant::from_millis(1_000)));
        assert_eq!((dctcp.name(), dctcp.needs_ecn()), ("dctcp-reno", false));
        assert_eq!(dctcp.ssthresh(&mut window, &facts(Instant::from_millis(1_000))), 50);
    }
}
