//! How the stream is cut into (super-)segments as Linux cuts it: which ends of writes are pushed to the reader (PSH,
//! `tcp_mark_push`, `forced_push`), which are ends of records (MSG_EOR), how large a super-segment may be
//! (`tcp_tso_autosize`, `tcp_cwnd_test`) and when it is worth to wait for a larger one (`tcp_tso_should_defer`). When data
//! goes out at all is in `send.rs`.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::congestion::UNPACED;
use super::recovery::Phase;
use super::sequence::Seq;
use super::sock::Sock;
use crate::settings::Settings;
use crate::time::Instant;

/// Linux's sk_pacing_shift: a super-segment holds what the pacing rate gives in about a millisecond.
const PACING_SHIFT: u32 = 10;
/// Linux waits for the rest of a super-segment for this long at most (`tcp_tso_should_defer`).
const DEFER: Duration = Duration::from_millis(1);

/// Places in the part of the stream that was not sent yet.
#[derive(Debug, Default)]
pub struct Boundaries {
    /// Ends of what is pushed to the reader.
    pushed: VecDeque<Seq>,
    /// Ends of records: no segment goes across.
    records: VecDeque<Seq>,
    /// `pushed_seq`: the end that was pushed last.
    last_push: Option<Seq>,
    /// Where Linux's last buffer begins: a full one ends there and may be pushed by itself.
    tail: Option<Seq>,
}

impl Boundaries {
    /// What ends at or before `seq` has been sent.
    pub fn sent(&mut self, seq: Seq) {
        while self.pushed.front().is_some_and(|end| !end.after(seq)) {
            self.pushed.pop_front();
        }
        while self.records.front().is_some_and(|end| !end.after(seq)) {
            self.records.pop_front();
        }
    }

    /// End of the record that `seq` lies in.
    pub fn record_end(&self, seq: Seq) -> Option<Seq> {
        self.records.iter().copied().find(|end| end.after(seq))
    }

    /// Whether a push lies after `start` and not after `end`.
    pub fn is_pushed(&self, start: Seq, end: Seq) -> bool {
        self.pushed.iter().any(|push| push.after(start) && !push.after(end))
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn push(&mut self, seq: Seq) {
        self.pushed.push_back(seq);
        self.last_push = Some(seq);
    }
}

impl Sock {
    /// Bytes from `start` to the end of the buffer were written by one call (`tcp_sendmsg_locked`). `record`: MSG_EOR.
    pub(super) fn note_write(&mut self, settings: &Settings, start: Seq, record: bool) {
        let end = self.data_end();
        let goal = self.size_goal(settings);
        let half = self.max_window >> 1;
        let boundaries = &mut self.boundaries;
        // Joined to what waits, unless that was sent or is a record of its own.
        let joins = self.snd_nxt.before(start) && boundaries.records.back() != Some(&start);
        if joins && boundaries.pushed.back() == Some(&start) {
            boundaries.pushed.pop_back();
        }
        if !joins {
            // What TCP_NODELAY pushed out was the data of then (`tcp_skb_entail`).
            self.tcp.push_once = false;
        }
        let mut tail = boundaries.tail.filter(|_| joins).unwrap_or(start);
        // `forced_push`: more than half of the largest window since the last push.
        let far = |boundaries: &Boundaries, at: Seq| at.offset_from(boundaries.last_push.unwrap_or(start) + half) > 0;
        while end.offset_from(tail + goal) > 0 {
            tail += goal;
            if tail.after(start) && far(boundaries, tail) {
                boundaries.push(tail);
            }
        }
        boundaries.tail = Some(tail);
        if !self.more || far(boundaries, end) {
            boundaries.push(end);
        }
        if record {
            boundaries.records.push_back(end);
        }
    }

    /// `tcp_xmit_size_goal`: how much data one buffer takes.
    fn size_goal(&self, settings: &Settings) -> u32 {
        let mss = u32::from(self.current_mss(settings)).max(1);
        // GSO_LEGACY_MAX_SIZE less MAX_TCP_HEADER.
        let most = self.route.map_or(0, |route| route.gso_max.min(65_535)).saturating_sub(320);
        let cutoff = if self.max_window > 536 { self.max_window >> 1 } else { self.max_window };
        let goal = if cutoff > 0 { most.min(cutoff.max(48)) } else { most };
        (goal - goal % mss).max(mss)
    }

    /// `tcp_tso_segs`: most segments of one super-segment, by the rate of the path and its round trip.
    pub(super) fn paced_segments(&self, settings: &Settings, mss: u32) -> u32 {
        let room = self.segments_per_plan(u16::try_from(mss).unwrap_or(u16::MAX));
        let rate = self.window.pacing_rate;
        if rate == UNPACED {
            return room;
        }
        let by_rate = u32::try_from(rate >> PACING_SHIFT).unwrap_or(u32::MAX);
        // Within a rack delay costs more than bursts do: the shorter the round trip, the larger the super-segments.
        let by_distance = self
            .rtt
            .least
            .checked_shr(u32::from(settings.tcp_tso_rtt_log))
            .and_then(|shift| room.saturating_mul(mss).checked_shr(shift))
            .unwrap_or(0);
        let bytes = by_rate.saturating_add(if settings.tcp_tso_rtt_log > 0 { by_distance } else { 0 });
        let least = self.algorithm.min_tso_segs(&self.window).unwrap_or(u32::from(settings.tcp_min_tso_segs));
        (bytes / mss.max(1)).max(least).min(room)
    }

    /// `tcp_cwnd_test`: segments that the congestion window allows, half a window at a time, so that two super-segments
    /// are in flight.
    pub(super) fn window_quota(&self, in_flight: u32) -> u32 {
        let half = (self.window.cwnd >> 1).max(1);
        self.window.cwnd.saturating_sub(in_flight).min(half)
    }

    /// `tcp_tso_should_defer`: whether `length` bytes, more than one segment, had better wait until more can go.
    pub(super) fn is_worth_waiting(
        &self,
        settings: &Settings,
        now: Instant,
        length: u32,
        in_tail: bool,
        most: u32,
    ) -> bool {
        let mss = u32::from(self.last_mss);
        if matches!(self.phase, Phase::Recovery | Phase::Loss) || now.since(self.last_sent) > DEFER {
            return false;
        }
        let send_window = (self.snd_una + self.snd_wnd).distance_from(self.snd_nxt);
        let quota = self.window.cwnd.saturating_sub(self.board.in_flight());
        let congestion_window = quota.saturating_mul(mss);
        let limit = send_window.min(congestion_window);
        if limit >= most.saturating_mul(mss) || (!in_tail && limit >= length) {
            return false;
        }
        let divisor = u32::from(settings.tcp_tso_win_divisor);
        let chunk = match divisor {
            0 => mss.saturating_mul(3).saturating_add(1),
            divisor => self.snd_wnd.min(self.window.cwnd.saturating_mul(mss)) / divisor,
        };
        if limit >= chunk {
            return false;
        }
        let Some(head) = self.board.head() else { return false };
        let (srtt, _) = self.rtt.shown();
        let srtt = Duration::from_micros(u64::from(srtt));
        // An acknowledgment that is still far away is not waited for.
        let expected = head.sent_at + srtt;
        if expected > now && expected.since(now) > (srtt / 2).min(DEFER) {
            return false;
        }
        if congestion_window < send_window {
            if congestion_window <= length {
                return true;
            }
        } else if send_window <= length {
            return true;
        }
        in_tail && !self.fin_queued
    }
}
