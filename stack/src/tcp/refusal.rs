//! Segments that the device did not take (`tcp_write_xmit` and `tcp_send_probe0` after `tcp_transmit_skb` has failed): local
//! congestion, of which nothing is lost. New data was not sent then, and waits for an ACK, for the next send of the
//! program, or for a timer.

use core::time::Duration;

use super::send::Plan;
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use crate::stack::TransmitError;
use crate::time::Instant;

/// How long nothing goes out after the queue before the device was full.
const PAUSE: Duration = Duration::from_millis(5);
/// When to try again what nothing else brings back (TCP_RESOURCE_PROBE_INTERVAL).
const RESOURCE_PROBE: Duration = Duration::from_millis(500);

/// What sending new data has changed, should the device refuse it (`tcp_event_new_data_sent` does not run then).
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// The buffer ended with it.
    ended: bool,
    /// A timer has sent it.
    probe: bool,
    timer: Option<(Instant, RetransmitTimer)>,
    tail_probe: Option<(Seq, bool)>,
    snd_sml: Seq,
}

/// What is known of a segment that was handed out.
#[derive(Clone, Copy, Debug)]
pub struct HandedOut {
    seq: Option<Seq>,
    fresh: Option<Fresh>,
}

impl HandedOut {
    /// The segment of a plan.
    pub const fn of(plan: &Plan) -> Self {
        Self { seq: plan.seq, fresh: plan.fresh }
    }
}

impl Sock {
    /// How things stand before new data up to `end` goes out; `probe`: because a timer says so.
    pub(super) fn before_new_data(&self, end: Seq, probe: bool) -> Fresh {
        Fresh {
            ended: self.boundaries.first().is_some_and(|(last, _)| last == end),
            probe,
            timer: self.retransmit_at,
            tail_probe: self.tail_probe,
            snd_sml: self.snd_sml,
        }
    }

    /// The device had no room for the segment planned last.
    //= REF C-17
    pub(super) fn take_refusal(&mut self, now: Instant, segment: HandedOut, error: TransmitError) {
        let Some(seq) = segment.seq else {
            self.ack.now = true;
            self.paused_until = Some(now + PAUSE);
            return;
        };
        self.enter_reduced(now);
        if error == TransmitError::NoRoom
            && let Some(fresh) = segment.fresh
            && self.take_back(now, seq, fresh)
        {
            return;
        }
        if seq == self.iss {
            self.syn_due = true;
        } else {
            self.board.refused(seq);
            self.head_due = true;
        }
        self.paused_until = Some(now + PAUSE);
    }

    /// Makes unsent again what was sent last. Says whether it was that.
    fn take_back(&mut self, now: Instant, seq: Seq, fresh: Fresh) -> bool {
        let Some(range) = self.board.take_back(seq, self.snd_nxt) else { return false };
        self.snd_nxt = seq;
        self.snd_sml = fresh.snd_sml;
        self.retransmit_at = fresh.timer;
        self.tail_probe = fresh.tail_probe;
        if fresh.ended {
            self.boundaries.put_back(&range);
        }
        self.refused = true;
        if self.board.packets_out > 0 {
            return true;
        }
        if fresh.probe && self.probes_out > 0 {
            // What could not be sent tells nothing of the peer: no back-off.
            self.rtt.backoff = self.rtt.backoff.saturating_sub(1);
            let wait = self.probe_within_user_timeout(now, RESOURCE_PROBE);
            self.retransmit_at = Some((now + wait, RetransmitTimer::Probe));
        } else {
            self.arm_probe(now);
        }
        true
    }
}
