//! What is concluded from ACKs about losses (RFC 5681 §3.2, RFC 6675 and RFC 8985 with SACK, RFC 6582 without, limited
//! transmit of RFC 3042): fast retransmit, recovery and its end (`tcp_fastretrans_alert`). How the window shrinks is in
//! `reduction.rs`, how that is taken back in `undo.rs`; the timer's part is in `loss.rs`.

use core::ops::ControlFlow;
use core::time::Duration;

pub use super::phase::Phase;
use super::phase::PhaseEvent;
use super::reduction::Reduction;
use super::sack::Delivery;
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use super::undo::Echo;
use crate::settings::Settings;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// net.ipv4.tcp_recovery: RACK finds the losses; off: RFC 6675's counting does.
pub const RACK_LOSS_DETECTION: u8 = 0x1;
/// A peer that seems to have taken back its report is given so long at least (`tcp_check_sack_reneging`).
const LEAST_RENEGING_WAIT: Duration = Duration::from_millis(10);

/// What of one connection's recovery is neither window nor scoreboard.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    pub reduction: Reduction,
    /// Threshold before the reduction; 0: it stands (`prior_ssthresh`).
    pub prior_ssthresh: u32,
    /// F-RTO watches whether the timeout was spurious.
    pub frto: bool,
    /// Whether losses may be repeated now (Linux's REXMIT_LOST and REXMIT_NONE).
    pub may_repeat: bool,
    /// New data goes out before repetitions (Linux's REXMIT_NEW).
    pub new_first: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { reduction: Reduction::default(), prior_ssthresh: 0, frto: false, may_repeat: true, new_first: false }
    }
}

/// What is known about the ACK that is being digested, beside its `Delivery`.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// `snd_una` moved.
    pub advanced: bool,
    /// It carried data, moved the window or acknowledged something: not a duplicate in the sense of RFC 5681 §2.
    pub not_duplicate: bool,
    /// It says that a router has marked segments (RFC 3168 §6.1.2). Such a reduction is never taken back.
    pub congestion_echo: bool,
    /// `snd_una` before it.
    pub prior_una: Seq,
    /// Segments ever taken for lost, before it.
    pub prior_lost: u32,
    /// Segments ever delivered, before it.
    pub prior_delivered: u32,
    /// Segments in flight before it.
    pub prior_in_flight: u32,
    /// Round-trip time of the segment delivered last.
    pub rtt: Option<Duration>,
    /// The echo of a timestamp.
    pub echo: Option<Echo>,
}

impl Acknowledged {
    /// A duplicate ACK (RFC 5681 §2), where SACK does not tell more.
    const fn is_duplicate(&self, delivery: &Delivery) -> bool {
        !self.advanced && !self.not_duplicate && !delivery.duplicate
    }
}

impl Sock {
    /// The one place where the phase changes (`tcp_set_ca_state`).
    pub(super) fn change_phase(&mut self, now: Instant, event: PhaseEvent) {
        let new = self.phase.after(event);
        if new != self.phase || event == PhaseEvent::TimedOut {
            log::debug!(target: "remora::tcp", "{}:{} {:?} -> {new:?}", self.tuple.remote, self.tuple.remote_port, self.phase);
            self.set_phase(now, new);
        }
    }

    /// `tcp_try_keep_open`.
    pub(super) fn keep_open(&mut self, now: Instant) {
        let missing = self.board.sacked_out + self.board.lost_out > 0 || self.has_repeated();
        let before = self.phase;
        self.change_phase(now, if missing { PhaseEvent::Hole } else { PhaseEvent::Whole });
        if self.phase != before {
            self.high_seq = self.snd_nxt;
        }
    }

    /// Draws conclusions from an ACK (`tcp_fastretrans_alert`, and the choice before it in `tcp_ack`). Says whether the
    /// timer may be set anew afterwards.
    pub(super) fn conclude(&mut self, net: &mut Net<'_>, ack: &Acknowledged, delivery: &Delivery) -> bool {
        let dubious = !(ack.advanced || ack.not_duplicate)
            || delivery.sacked > 0
            || ack.congestion_echo
            || delivery.duplicate
            || self.phase != Phase::Open;
        if !dubious {
            return true;
        }
        self.recovery.may_repeat = false;
        if self.board.packets_out == 0 {
            self.board.sacked_out = 0;
        }
        if ack.congestion_echo {
            self.recovery.prior_ssthresh = 0;
        }
        if self.is_reneging(net.now, ack, delivery) {
            return false;
        }
        if self.check_end(net, ack) {
            return true;
        }
        self.digest_in_phase(net, ack, delivery)
    }

    /// What the peer had reported is not there: a moment later the timer shall take all reports back
    /// (`tcp_check_sack_reneging`).
    //= RFC 2018 §8
    fn is_reneging(&mut self, now: Instant, ack: &Acknowledged, delivery: &Delivery) -> bool {
        if !delivery.reneging || !ack.advanced {
            return false;
        }
        let wait = (self.rtt.smoothed().unwrap_or_default() / 2).max(LEAST_RENEGING_WAIT);
        self.retransmit_at = Some((now + wait, RetransmitTimer::Repeat));
        true
    }

    /// A phase ends when all that was in flight at its start is acknowledged; says whether that is all there is to do.
    fn check_end(&mut self, net: &mut Net<'_>, ack: &Acknowledged) -> bool {
        if self.phase == Phase::Open {
            self.retransmit_since = None;
            return false;
        }
        //= RFC 6675 §5 (MUST-13)
        if self.snd_una.before(self.high_seq) {
            return false;
        }
        match self.phase {
            // Held until something beyond is acknowledged, so that CWR reaches the peer.
            Phase::Reduced if self.snd_una != self.high_seq => {
                self.end_reduction(net.now);
                self.change_phase(net.now, PhaseEvent::Recovered);
            }
            //= RFC 6675 §5 (SHLD-4)
            Phase::Recovery => {
                if !self.sack {
                    self.board.forget_duplicates();
                }
                if self.end_or_undo(net, ack) {
                    return true;
                }
                self.end_reduction(net.now);
            }
            _ => {}
        }
        false
    }

    fn digest_in_phase(&mut self, net: &mut Net<'_>, ack: &Acknowledged, delivery: &Delivery) -> bool {
        let duplicate = ack.is_duplicate(delivery);
        let timer_set = match self.phase {
            Phase::Recovery => match self.go_on_recovering(net, ack, duplicate) {
                ControlFlow::Continue(timer_set) => timer_set,
                ControlFlow::Break(timer_set) => return !timer_set,
            },
            Phase::Loss => {
                self.process_loss(net, ack, delivery, duplicate);
                let found = self.find_losses(net, ack.advanced);
                // Changes the phase if the reduction was taken back, or if repetitions are lost.
                if self.phase != Phase::Open && !found.repetition_lost {
                    return !found.timer_set;
                }
                match self.look_for_loss(net, ack, duplicate) {
                    ControlFlow::Continue(timer_set) => timer_set || found.timer_set,
                    ControlFlow::Break(timer_set) => return !(timer_set || found.timer_set),
                }
            }
            Phase::Open | Phase::Disorder | Phase::Reduced => match self.look_for_loss(net, ack, duplicate) {
                ControlFlow::Continue(timer_set) => timer_set,
                ControlFlow::Break(timer_set) => return !timer_set,
            },
        };
        //= RFC 8985 §9.2 (MUST-10)
        if self.sack && net.settings.tcp_recovery & RACK_LOSS_DETECTION == 0 {
            //= RFC 6675 §5 (4.1)
            self.board.mark_lost();
            if self.board.lost_out == 0 {
                self.board.mark_head_lost();
            }
        }
        self.recovery.may_repeat = true;
        !timer_set
    }

    /// An ACK in recovery. Both ways out say whether the timer was set; `Break`: nothing is to be repeated.
    //= RFC 6675 §5 (MUST-12, MUST-14)
    fn go_on_recovering(&mut self, net: &mut Net<'_>, ack: &Acknowledged, duplicate: bool) -> ControlFlow<bool, bool> {
        if !ack.advanced {
            self.count_duplicate(net, duplicate);
        } else if self.undo_partly(net, ack) {
            return ControlFlow::Break(false);
        }
        if self.undo_by_duplicates(net) {
            self.keep_open(net.now);
        }
        let found = self.find_losses(net, ack.advanced);
        if self.phase != Phase::Recovery {
            if !self.is_time_to_recover(net.settings) {
                return ControlFlow::Break(found.timer_set);
            }
            // The reduction was taken back, and something else is lost all the same.
            self.enter_recovery(net, ack.congestion_echo);
        }
        ControlFlow::Continue(found.timer_set)
    }

    /// An ACK outside of recovery, which may have to begin; the result is as for `go_on_recovering`.
    fn look_for_loss(&mut self, net: &mut Net<'_>, ack: &Acknowledged, duplicate: bool) -> ControlFlow<bool, bool> {
        if !self.sack && ack.advanced {
            self.board.forget_duplicates();
        }
        self.count_duplicate(net, duplicate);
        if self.phase <= Phase::Disorder {
            self.undo_by_duplicates(net);
        }
        let found = self.find_losses(net, ack.advanced);
        if !self.is_time_to_recover(net.settings) {
            self.stay_open(net.now, ack.congestion_echo);
            return ControlFlow::Break(found.timer_set);
        }
        if self.has_lost_path_probe(net) {
            return ControlFlow::Break(found.timer_set);
        }
        self.enter_recovery(net, ack.congestion_echo);
        ControlFlow::Continue(found.timer_set)
    }

    /// `tcp_try_to_open`.
    fn stay_open(&mut self, now: Instant, congestion_echo: bool) {
        if !self.has_repeated() {
            self.retransmit_since = None;
        }
        if congestion_echo {
            self.enter_reduced(now);
        }
        if self.phase != Phase::Reduced {
            self.keep_open(now);
        }
    }

    /// Duplicate ACKs stand for segments that arrived, where SACK does not tell (`tcp_add_reno_sack`).
    pub(super) fn count_duplicate(&mut self, net: &mut Net<'_>, duplicate: bool) {
        if !self.sack && duplicate && self.board.packets_out > 0 {
            let most = net.settings.tcp_max_reordering;
            if self.board.count_duplicate(most) {
                net.counters.tcp_reno_reorder += 1;
            }
        }
    }

    /// `tcp_time_to_recover`.
    fn is_time_to_recover(&self, settings: &Settings) -> bool {
        self.board.lost_out > 0
            || (self.sack
                && settings.tcp_recovery & RACK_LOSS_DETECTION == 0
                && self.board.sacked_out >= self.board.reordering)
    }

    /// `tcp_enter_recovery`.
    //= RFC 5681 §3.2 (fast retransmit)
    //= REF T-04
    //= RFC 5681 §3.2 (SHLD-8)
    pub(super) fn enter_recovery(&mut self, net: &mut Net<'_>, congestion_echo: bool) {
        if self.sack {
            net.counters.tcp_sack_recovery += 1;
        } else {
            net.counters.tcp_reno_recovery += 1;
        }
        self.recovery.prior_ssthresh = 0;
        self.begin_undo();
        if !self.phase.is_reduction() {
            if !congestion_echo {
                self.recovery.prior_ssthresh = self.current_threshold();
            }
            self.begin_reduction(net.now);
        }
        self.change_phase(net.now, PhaseEvent::LossFound);
    }

    /// A lower sequence number that was never repeated has arrived after a higher one (`tcp_check_sack_reordering`).
    /// Says whether that is so.
    pub(super) fn note_reordering(&mut self, low: Seq, most: u32) -> bool {
        let high = self.board.highest_sacked(self.snd_una);
        if !low.before(high) {
            return false;
        }
        let mss = u32::from(self.last_mss.max(1));
        let distance = high.distance_from(low).div_ceil(mss);
        if distance > self.board.reordering {
            self.board.reordering = distance.min(most);
        }
        self.board.rack.reordering_seen = self.board.rack.reordering_seen.saturating_add(1);
        true
    }
}
