//! What is concluded from ACKs about losses (RFC 5681 §3.2, RFC 6675 with SACK, RFC 6582 without, limited transmit of
//! RFC 3042): fast retransmit, recovery and its end (`tcp_fastretrans_alert`). The timer's part is in `retransmit.rs`.

use super::congestion::Event;
use super::sack::Delivery;
use super::sock::Sock;
use crate::counters::Counters;
use crate::time::Instant;

/// State of loss recovery (Linux's `icsk_ca_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All is well.
    Open,
    /// Something is missing, not yet taken for lost.
    Disorder,
    /// The window was reduced because of local congestion.
    Reduced,
    /// Losses are being repeated.
    Recovery,
    /// The timer has fired; everything is repeated as far as needed.
    Loss,
}

impl Phase {
    /// Linux's number in TCP_INFO.
    pub const fn number(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Disorder => 1,
            Self::Reduced => 2,
            Self::Recovery => 3,
            Self::Loss => 4,
        }
    }
}

/// What kind of ACK it was.
#[derive(Clone, Copy, Debug)]
pub struct AckKind {
    /// `snd_una` moved.
    pub advanced: bool,
    /// It carried data, moved the window or acknowledged something: not a duplicate in the sense of RFC 5681 §2.
    pub not_duplicate: bool,
}

impl Sock {
    /// Digests an ACK.
    pub(super) fn after_ack(&mut self, now: Instant, counters: &mut Counters, kind: AckKind, delivery: &Delivery) {
        // Duplicate ACKs stand for segments that arrived, where SACK does not tell (`tcp_add_reno_sack`).
        if !self.sack {
            if kind.advanced {
                if self.phase == Phase::Recovery {
                    self.board.uncount_duplicates(delivery.acked);
                } else {
                    self.board.forget_duplicates();
                }
            } else if !kind.not_duplicate && self.board.packets_out > 0 {
                self.board.count_duplicate();
            }
        }
        match self.phase {
            Phase::Recovery => self.continue_recovery(now, counters, kind.advanced),
            Phase::Loss => {
                if !self.snd_una.before(self.high_seq) {
                    self.set_phase(now, Phase::Open);
                    self.board.forget_reno(self.sack);
                } else if self.sack {
                    self.find_losses(now, counters);
                }
            }
            Phase::Reduced if !self.snd_una.before(self.high_seq) => self.end_reduction(now),
            Phase::Open | Phase::Disorder | Phase::Reduced => {}
        }
        if matches!(self.phase, Phase::Open | Phase::Disorder | Phase::Reduced) {
            self.look_for_loss(now, counters);
        }
    }

    fn look_for_loss(&mut self, now: Instant, counters: &mut Counters) {
        let lost =
            if self.sack { self.find_losses(now, counters) } else { self.board.sacked_out >= self.board.reordering };
        if lost {
            self.enter_recovery(now, counters);
        } else if self.phase != Phase::Reduced {
            self.phase = if self.board.sacked_out > 0 { Phase::Disorder } else { Phase::Open };
        }
    }

    //= RFC 5681 §3.2 (fast retransmit)
    pub(super) fn enter_recovery(&mut self, now: Instant, counters: &mut Counters) {
        if self.sack {
            counters.tcp_sack_recovery += 1;
        } else {
            counters.tcp_reno_recovery += 1;
            self.board.mark_head_lost();
        }
        if self.phase != Phase::Reduced {
            self.begin_reduction(now);
        }
        if !self.algorithm.has_cong_control() {
            self.window.cwnd = self.window.ssthresh.max(1);
        }
        self.high_seq = self.snd_nxt;
        self.set_phase(now, Phase::Recovery);
        // The first repetition goes out although the pipe is still full (RFC 6675 §5 (4.3)).
        self.head_due = true;
        self.tail_probe = None;
    }

    fn continue_recovery(&mut self, now: Instant, counters: &mut Counters, advanced: bool) {
        //= RFC 6582 §3.2: the recovery ends when all that was in flight at its start has arrived. Without SACK the
        // ACK must go beyond, or late duplicates would begin another one.
        let over = if self.sack { !self.snd_una.before(self.high_seq) } else { self.snd_una.after(self.high_seq) };
        let idle = self.board.packets_out == 0;
        if over || idle {
            if !self.algorithm.has_cong_control() {
                self.window.cwnd = self.window.cwnd.min(self.window.ssthresh).max(1);
            }
            self.end_reduction(now);
            self.board.forget_reno(self.sack);
        } else if self.sack {
            self.find_losses(now, counters);
        } else if advanced && self.snd_una.before(self.high_seq) {
            //= RFC 6582 §3.2 (partial acknowledgment)
            self.board.mark_head_lost();
            self.head_due = true;
        }
    }

    /// A reduction of the window is complete (`tcp_end_cwnd_reduction`).
    fn end_reduction(&mut self, now: Instant) {
        self.control_event(now, Event::CompleteCwr);
        self.set_phase(now, Phase::Open);
    }

    /// A tail loss probe has filled a hole: the loss counts, though nothing is left to repeat.
    pub(super) fn reduce_for_probe(&mut self, now: Instant) {
        if self.phase == Phase::Open {
            self.begin_reduction(now);
            self.shrink_to_threshold();
        }
    }

    /// The device had no room: local congestion (`tcp_enter_cwr`).
    //= REF C-17
    pub(super) fn enter_reduced(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Open | Phase::Disorder) {
            self.begin_reduction(now);
            self.shrink_to_threshold();
            self.high_seq = self.snd_nxt;
            self.set_phase(now, Phase::Reduced);
        }
    }

    fn shrink_to_threshold(&mut self) {
        if !self.algorithm.has_cong_control() {
            self.window.cwnd = self.window.cwnd.min(self.window.ssthresh).max(1);
        }
    }
}
