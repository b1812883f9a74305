//! Taking back a reduction that was not called for: D-SACKs or timestamps tell that nothing had been lost (Eifel,
//! RFC 3522 and RFC 4015; RFC 3708; `tcp_try_undo_recovery`, `tcp_try_undo_partial`, `tcp_try_undo_dsack`,
//! `tcp_try_undo_loss`). F-RTO, which asks for the same, is in `loss.rs`.

use super::isn;
use super::phase::{Phase, PhaseEvent};
use super::rack::RECOVERIES_TO_PERSIST;
use super::recovery::Acknowledged;
use super::sequence::Seq;
use super::sock::Sock;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// What is known about the repetitions since the last reduction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undo {
    /// `snd_una` when the reduction began; none: it stands (`undo_marker`).
    pub marker: Option<Seq>,
    /// Repetitions that no D-SACK has called needless; none: nothing was repeated (`undo_retrans`).
    pub repeated: Option<u32>,
}

impl Undo {
    /// `count` segments that end at `end` were sent again for nothing.
    pub fn needless(&mut self, end: Seq, count: u32) {
        if self.marker.is_some_and(|marker| end.after(marker)) {
            self.repeated = self.repeated.map(|left| left.saturating_sub(count));
        }
    }

    /// `count` segments were sent again.
    pub fn repeated(&mut self, count: u32) {
        self.repeated = Some(self.repeated.unwrap_or(0).saturating_add(count));
    }
}

/// The peer's echo of our timestamps, to be compared with times of sending.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    pub value: u32,
    pub offset: u32,
}

impl Echo {
    /// What it echoes was sent before `at` (`tcp_tsopt_ecr_before`).
    pub fn is_before(self, at: Instant) -> bool {
        Seq(self.value).before(Seq(isn::timestamp_clock(at).wrapping_add(self.offset)))
    }
}

impl Sock {
    /// `tcp_init_undo`.
    pub(super) fn begin_undo(&mut self) {
        self.board.undo.marker = Some(self.snd_una);
        // Repetitions of before that are still in flight may bring D-SACKs as well.
        self.board.undo.repeated = (self.board.repeated_out > 0).then_some(self.board.repeated_out);
    }

    /// `tcp_any_retrans_done`.
    pub(super) fn has_repeated(&self) -> bool {
        self.board.repeated_out > 0 || self.board.head().is_some_and(super::sack::Range::was_repeated)
    }

    /// What was acknowledged was sent before the first repetition (`tcp_packet_delayed`).
    //= RFC 3522 §3.2 (4)
    //= RFC 9438 §4.9.2 (MAY-3)
    fn was_only_late(&self, ack: &Acknowledged) -> bool {
        match (self.retransmit_since, ack.echo) {
            (Some(since), Some(echo)) => echo.is_before(since),
            (Some(_), None) => false,
            // Nothing was repeated yet. Without SACK the stamp is dropped when the recovery's end is reached.
            (None, _) => self.sack || self.snd_una.before(self.high_seq),
        }
    }

    /// `tcp_may_undo`.
    fn may_undo(&self, ack: &Acknowledged) -> bool {
        self.board.undo.marker.is_some() && (self.board.undo.repeated == Some(0) || self.was_only_late(ack))
    }

    /// `tcp_undo_cwnd_reduction`.
    //= RFC 4015 §3
    //= REF T-04
    fn take_reduction_back(&mut self, now: Instant, nothing_lost: bool) {
        if nothing_lost {
            self.board.unmark_lost();
        }
        if self.recovery.prior_ssthresh > 0 {
            let facts = self.facts(now);
            self.window.cwnd = self.algorithm.undo_cwnd(&mut self.window, &facts);
            if self.recovery.prior_ssthresh > self.window.ssthresh {
                self.window.ssthresh = self.recovery.prior_ssthresh;
                // `tcp_ecn_withdraw_cwr`
                self.ecn.tell_reduced = false;
            }
        }
        self.board.undo.marker = None;
        self.board.rack.advanced = true;
    }

    /// Without SACK the phase is kept until something beyond its end is acknowledged (RFC 6582 §3.2), or late
    /// duplicates would begin another recovery (`tcp_is_non_sack_preventing_reopen`).
    fn must_not_reopen(&mut self) -> bool {
        if self.sack || self.snd_una != self.high_seq {
            return false;
        }
        if !self.has_repeated() {
            self.retransmit_since = None;
        }
        true
    }

    /// All that was in flight has arrived; says whether the phase has to stay (`tcp_try_undo_recovery`).
    pub(super) fn end_or_undo(&mut self, net: &mut Net<'_>, ack: &Acknowledged) -> bool {
        if self.may_undo(ack) {
            self.take_reduction_back(net.now, false);
            if self.phase == Phase::Loss {
                net.counters.tcp_loss_undo += 1;
            } else {
                net.counters.tcp_full_undo += 1;
            }
        } else {
            self.board.rack.window_persist = self.board.rack.window_persist.saturating_sub(1);
        }
        if self.must_not_reopen() {
            return true;
        }
        self.change_phase(net.now, PhaseEvent::Recovered);
        false
    }

    /// D-SACKs have called all repetitions needless (`tcp_try_undo_dsack`).
    //= RFC 3708 §3
    //= RFC 9438 §4.9.2 (MAY-3)
    pub(super) fn undo_by_duplicates(&mut self, net: &mut Net<'_>) -> bool {
        if self.board.undo.marker.is_none() || self.board.undo.repeated != Some(0) {
            return false;
        }
        let rack = &mut self.board.rack;
        rack.window_persist = (rack.window_persist + 1).min(RECOVERIES_TO_PERSIST);
        self.take_reduction_back(net.now, false);
        net.counters.tcp_dsack_undo += 1;
        true
    }

    /// `tcp_try_undo_loss`; `frto`: F-RTO found the timeout spurious.
    //= RFC 9438 §4.9.1 (MAY-2)
    pub(super) fn undo_loss(&mut self, net: &mut Net<'_>, ack: &Acknowledged, frto: bool) -> bool {
        if !frto && !self.may_undo(ack) {
            return false;
        }
        self.take_reduction_back(net.now, true);
        net.counters.tcp_loss_undo += 1;
        if frto {
            net.counters.tcp_spurious_rtos += 1;
        }
        self.retransmits = 0;
        if !self.must_not_reopen() && (frto || self.sack) {
            self.change_phase(net.now, PhaseEvent::Undone);
        }
        true
    }

    /// A part arrived that had only been late; says whether nothing else may be done (`tcp_try_undo_partial`).
    pub(super) fn undo_partly(&mut self, net: &mut Net<'_>, ack: &Acknowledged) -> bool {
        if self.board.undo.marker.is_none() || !self.was_only_late(ack) {
            return false;
        }
        if self.note_reordering(ack.prior_una, net.settings.tcp_max_reordering) {
            net.counters.tcp_ts_reorder += 1;
        }
        // New segments go out, but while repetitions are in flight nothing else is taken for lost.
        if self.board.repeated_out > 0 {
            return true;
        }
        if !self.has_repeated() {
            self.retransmit_since = None;
        }
        self.take_reduction_back(net.now, true);
        net.counters.tcp_partial_undo += 1;
        self.keep_open(net.now);
        false
    }
}
