//! After the retransmission timer has fired (RFC 5681 §3.1, RFC 6298 §5): all is taken for lost (`tcp_enter_loss`), and
//! F-RTO (RFC 5682, SACK-enhanced) finds out whether it really was (`tcp_process_loss`). When the timer fires and gives up
//! is in `retransmit.rs`.

use super::congestion::Event;
use super::phase::{Phase, PhaseEvent};
use super::recovery::{Acknowledged, RACK_LOSS_DETECTION};
use super::sack::Delivery;
use super::sock::Sock;
use crate::socket::protocol::Net;
use crate::time::Instant;

impl Sock {
    /// `tcp_enter_loss`.
    //= RFC 5681 §3.1 (4)
    pub(super) fn enter_loss(&mut self, net: &mut Net<'_>) {
        let first = self.phase < Phase::Recovery;
        let sacked = self.board.sacked_out;
        if !self.sack {
            self.board.forget_duplicates();
        }
        let late = self.board.mark_all_lost(net.now, net.settings.tcp_recovery & RACK_LOSS_DETECTION != 0);
        net.counters.tcp_lost_retransmit += u64::from(late.repetitions);
        if late.reneged {
            net.counters.tcp_sack_reneging += 1;
        }
        if self.phase <= Phase::Disorder
            || !self.high_seq.after(self.snd_una)
            || (self.phase == Phase::Loss && self.retransmits == 0)
        {
            self.recovery.prior_ssthresh = self.current_threshold();
            self.window.prior_cwnd = self.window.cwnd;
            self.lower_threshold(net.now);
            self.control_event(net.now, Event::Loss);
            self.begin_undo();
        }
        //= RFC 5681 §3.1 (MUST-11)
        self.window.cwnd = self.board.in_flight().saturating_add(1);
        self.window.count = 0;
        // So many reports and no recovery: the network reorders less than was thought.
        if self.phase <= Phase::Disorder && sacked >= net.settings.tcp_reordering {
            self.board.reordering = self.board.reordering.min(net.settings.tcp_reordering);
        }
        //= RFC 6675 §5.1 (MUST-19)
        self.change_phase(net.now, PhaseEvent::TimedOut);
        //= RFC 6675 §5.1 (MUST-18)
        self.high_seq = self.snd_nxt;
        //= RFC 5682 §3.1 (1)
        self.recovery.frto = net.settings.tcp_frto > 0 && (first || self.retransmits > 0);
        self.recovery.may_repeat = true;
        self.recovery.new_first = false;
    }

    /// Segments are too long for the path and are repeated in smaller ones; the window stays, as its unit has shrunk
    /// (`tcp_simple_retransmit`).
    //= RFC 5681 §3.1 (SHLD-1)
    pub(super) fn enter_oversized(&mut self, now: Instant) {
        if self.phase != Phase::Loss {
            self.high_seq = self.snd_nxt;
            self.window.ssthresh = self.current_threshold();
            self.recovery.prior_ssthresh = 0;
            self.board.undo.marker = None;
            self.change_phase(now, PhaseEvent::Oversized);
        }
        self.recovery.frto = false;
        self.recovery.may_repeat = true;
    }

    /// Digests an ACK after a timeout (`tcp_process_loss`).
    //= REF T-04
    pub(super) fn process_loss(&mut self, net: &mut Net<'_>, ack: &Acknowledged, delivery: &Delivery, duplicate: bool) {
        let recovered = !self.snd_una.before(self.high_seq);
        if ack.advanced && self.undo_loss(net, ack, false) {
            return;
        }
        //= RFC 9438 §4.9.1 (MAY-1)
        if self.recovery.frto {
            //= RFC 5682 §3.1 (3b): what was never repeated has arrived: not all was lost.
            if delivery.original && self.undo_loss(net, ack, true) {
                return;
            }
            if self.snd_nxt.after(self.high_seq) {
                if delivery.sacked > 0 || duplicate {
                    //= RFC 5682 §3.1 (3a)
                    self.recovery.frto = false;
                }
            } else if ack.advanced && !recovered {
                self.high_seq = self.snd_nxt;
                //= RFC 5682 §3.1 (2b): new data shows what becomes of the rest.
                if self.unsent() > 0 && (self.snd_una + self.snd_wnd).after(self.snd_nxt) {
                    self.recovery.new_first = true;
                    self.recovery.may_repeat = true;
                    return;
                }
                self.recovery.frto = false;
            }
        }
        if recovered {
            //= RFC 5682 §3.1 (2a)
            self.end_or_undo(net, ack);
            return;
        }
        if !self.sack {
            // A duplicate now says that new data has arrived.
            if self.snd_nxt.after(self.high_seq) && duplicate {
                self.count_duplicate(net, duplicate);
            } else if ack.advanced {
                self.board.forget_duplicates();
            }
        }
        self.recovery.may_repeat = true;
    }

    /// The new data that F-RTO asked for is out, or there was none: then it can find out nothing
    /// (`tcp_xmit_recovery`).
    pub(super) fn end_new_first(&mut self) {
        self.recovery.new_first = false;
        if self.snd_nxt.after(self.high_seq) {
            self.recovery.may_repeat = false;
        } else {
            self.recovery.frto = false;
        }
    }
}
