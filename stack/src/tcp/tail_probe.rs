//! The tail loss probe (RFC 8985 §7, `tcp_schedule_loss_probe`, `tcp_send_loss_probe`, `tcp_process_tlp_ack`): when nothing
//! comes back, new data or the last segment again makes the peer say what it has before the retransmission timer has to.

use core::time::Duration;

use super::phase::Phase;
use super::recovery::Acknowledged;
use super::sack::Delivery;
use super::sock::{RetransmitTimer, Sock};
use crate::settings::Settings;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// Linux's TCP_TIMEOUT_MIN_US: two jiffies at HZ=250.
pub const LEAST_TIMEOUT: Duration = Duration::from_millis(8);
/// RFC 8985 §7.2: a receiver may hold the ACK of a single segment back; Linux adds its least RTO.
const DELAYED_ACK: Duration = super::rto::LEAST;

impl Sock {
    /// Sets the timer to probe the tail, if that is to be done, but no later than the retransmission timer would fire,
    /// which is started anew if `advancing`. Says whether it did.
    //= RFC 8985 §7.2 (SHLD-9)
    pub(super) fn schedule_probe(&mut self, now: Instant, settings: &Settings, advancing: bool) -> bool {
        let allowed = matches!(settings.tcp_early_retrans, 3 | 4);
        //= RFC 8985 §4 (MUST-2)
        if !allowed || !self.sack || self.board.packets_out == 0 || !matches!(self.phase, Phase::Open | Phase::Reduced)
        {
            return false;
        }
        let wait = match self.rtt.smoothed() {
            //= RFC 8985 §7.2 (MAY-1)
            Some(smoothed) if self.board.packets_out == 1 => smoothed * 2 + DELAYED_ACK,
            Some(smoothed) => smoothed * 2 + LEAST_TIMEOUT,
            //= RFC 8985 §7.2 (SHLD-10)
            None => super::rto::INITIAL,
        };
        let timeout = if advancing { now + self.rtt.timeout() } else { self.head_timeout(now) };
        //= RFC 8985 §7.2 (SHLD-11)
        let at = if timeout > now { (now + wait).min(timeout) } else { now + wait };
        self.retransmit_at = Some((at, RetransmitTimer::Tail));
        true
    }

    /// Nothing has come back.
    //= RFC 8985 §7.3
    pub(super) fn tail_probe_due(&mut self, net: &mut Net<'_>) {
        if self.board.packets_out == 0 {
            return;
        }
        // At most one probe at a time.
        if self.tail_probe.is_none() {
            //= RFC 8985 §7.3 (SHLD-12)
            if self.state.may_send() && self.unsent() > 0 && self.fits_window() {
                self.forced = true;
                self.tail_probe = Some((self.snd_nxt + self.unsent().min(u32::from(self.last_mss)), false));
            } else {
                self.tail_due = true;
                //= RFC 8985 §7.3 (SHLD-13)
                self.tail_probe = Some((self.snd_nxt, true));
            }
            net.counters.tcp_loss_probes += 1;
            self.retransmit_at = None;
        } else {
            //= RFC 8985 §7.3 (MUST-6)
            self.retransmit_at = Some((net.now, RetransmitTimer::Tail));
        }
        //= RFC 8985 §7.3 (MUST-8)
        self.rearm_timer(net.now);
    }

    /// Whether the probe has repaired a loss.
    //= RFC 8985 §7.4
    pub(super) fn digest_probe(&mut self, net: &mut Net<'_>, ack: &Acknowledged, delivery: &Delivery) {
        let Some((end, repeated)) = self.tail_probe else { return };
        if self.snd_una.before(end) {
            return;
        }
        if !repeated || delivery.probe_duplicate {
            self.tail_probe = None;
        //= RFC 8985 §7.4.2 (MUST-9)
        } else if self.snd_una.after(end) {
            // Data beyond the probe was acknowledged, and no duplicate told: the probe filled a hole.
            //= RFC 8985 §7.4.2 (SHLD-14)
            self.begin_reduction(net.now);
            if !self.algorithm.has_cong_control() {
                self.window.cwnd = self.window.ssthresh;
            }
            self.keep_open(net.now);
            net.counters.tcp_loss_probe_recovery += 1;
        } else if !ack.advanced && !ack.not_duplicate && delivery.sacked == 0 {
            self.tail_probe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sack::{Mark, Range, Scoreboard};
    use super::super::sequence::Seq;
    use super::*;

    #[test]
    fn the_tail_is_one_segment() {
        let mut board = Scoreboard::default();
        board.push(Range {
            start: Seq(0),
            end: Seq(250),
            sent_at: Instant::ZERO,
            mss: 100,
            mark: Mark::empty(),
            stamp: Default::default(),
        });
        let tail = board.tail_segment(100).expect("a tail");
        assert_eq!((tail.start, tail.end), (Seq(200), Seq(250)));
        assert_eq!(board.packets_out, 3);
    }
}
