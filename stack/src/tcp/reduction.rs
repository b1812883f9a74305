//! How the window shrinks: proportional rate reduction (RFC 6937 with the slow start reduction bound of its revision,
//! `tcp_cwnd_reduction`), and the reduction for local congestion (`tcp_enter_cwr`).

use super::congestion::{Event, INFINITE};
use super::phase::{Phase, PhaseEvent};
use super::sock::Sock;
use crate::time::Instant;

/// What was delivered and sent since the reduction began (RFC 6937 §3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Reduction {
    pub prr_delivered: u32,
    pub prr_out: u32,
}

impl Sock {
    /// `tcp_current_ssthresh`.
    pub(super) fn current_threshold(&self) -> u32 {
        if self.phase.is_reduction() {
            self.window.ssthresh
        } else {
            self.window.ssthresh.max((self.window.cwnd >> 1) + (self.window.cwnd >> 2))
        }
    }

    /// `tcp_init_cwnd_reduction`.
    pub(super) fn begin_reduction(&mut self, now: Instant) {
        self.high_seq = self.snd_nxt;
        self.tail_probe = None;
        self.window.count = 0;
        self.window.prior_cwnd = self.window.cwnd;
        self.recovery.reduction = Reduction::default();
        self.lower_threshold(now);
        self.ecn.tell_reduced = self.ecn.ok;
    }

    /// `delivered` segments have left the network (`tcp_cwnd_reduction`).
    //= RFC 6937 §3
    //= REF T-04
    //= RFC 5681 §3.2 (SHLD-10)
    //= RFC 8985 §9.3 (SHLD-16)
    pub(super) fn reduce(&mut self, delivered: u32, newly_lost: u32, advanced: bool) {
        let prior = self.window.prior_cwnd;
        if delivered == 0 || prior == 0 {
            return;
        }
        let prr = &mut self.recovery.reduction;
        prr.prr_delivered = prr.prr_delivered.saturating_add(delivered);
        let in_flight = self.board.in_flight();
        let room = self.window.ssthresh.saturating_sub(in_flight);
        let mut count = if self.window.ssthresh < in_flight {
            let share = (u64::from(self.window.ssthresh) * u64::from(prr.prr_delivered)).div_ceil(u64::from(prior));
            u32::try_from(share).unwrap_or(u32::MAX).saturating_sub(prr.prr_out)
        } else {
            // Slow start only while the losses do not go on, else packet conservation.
            let conserved = prr.prr_delivered.saturating_sub(prr.prr_out).max(delivered);
            (conserved + u32::from(advanced && newly_lost == 0)).min(room)
        };
        // The first repetition goes out although the pipe is still full (RFC 6675 §5 (4.3)).
        if prr.prr_out == 0 {
            count = count.max(1);
        }
        self.window.cwnd = in_flight.saturating_add(count);
    }

    /// `tcp_end_cwnd_reduction`.
    pub(super) fn end_reduction(&mut self, now: Instant) {
        if self.algorithm.has_cong_control() {
            return;
        }
        let undone = self.phase != Phase::Reduced && self.board.undo.marker.is_none();
        if self.window.ssthresh < INFINITE && !undone {
            //= RFC 5681 §3.2 (MUST-19)
            self.window.cwnd = self.window.ssthresh;
        }
        self.control_event(now, Event::CompleteCwr);
    }

    /// Congestion was noticed without a loss (`tcp_enter_cwr`): the device had no room.
    //= REF C-17
    pub(super) fn enter_reduced(&mut self, now: Instant) {
        self.recovery.prior_ssthresh = 0;
        if self.phase < Phase::Reduced {
            self.board.undo.marker = None;
            self.begin_reduction(now);
            self.change_phase(now, PhaseEvent::Congestion);
        }
    }

    /// Segments were sent while the window is being reduced.
    pub(super) fn note_reduction_output(&mut self, packets: u32) {
        if self.phase.is_reduction() {
            let prr = &mut self.recovery.reduction;
            prr.prr_out = prr.prr_out.saturating_add(packets);
        }
    }
}
