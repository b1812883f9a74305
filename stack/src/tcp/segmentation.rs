//! How the stream is cut into (super-)segments as Linux cuts it: the buffers that a send fills (`tcp_sendmsg_locked`) and
//! what they count as memory, which ends of writes are pushed to the reader (PSH, `tcp_mark_push`, `forced_push`), which
//! are ends of records (MSG_EOR), how large a super-segment may be
//! (`tcp_tso_autosize`, `tcp_cwnd_test`) and when it is worth to wait for a larger one (`tcp_tso_should_defer`). When data
//! goes out at all is in `send.rs`.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::chrono::Chrono;
use super::congestion::UNPACED;
use super::recovery::Phase;
use super::sack::{Mark, Range};
use super::send::Plan;
use super::sequence::Seq;
use super::sock::Sock;
use super::spares;
use crate::io::Source;
use crate::settings::Settings;
use crate::socket::error::SendError;
use crate::socket::kept::Kept;
use crate::socket::protocol::{Net, SendFlags};
use crate::time::Instant;

/// Linux's sk_pacing_shift: a super-segment holds what the pacing rate gives in about a millisecond.
const PACING_SHIFT: u32 = 10;
/// Linux's MAX_TCP_HEADER, as it is without tunnels and wireless devices.
pub const HEADER_ROOM: u32 = 192;
/// What an skb of TCP costs beside its data (`SKB_TRUESIZE` of 512 bytes of head less their overhead).
const BUFFER_OVERHEAD: usize = 832;
/// Pieces of the program's memory that one buffer of a MSG_ZEROCOPY send holds (MAX_SKB_FRAGS).
const MOST_PIECES: usize = 17;
/// Linux waits for the rest of a super-segment for this long at most (`tcp_tso_should_defer`).
const DEFER: Duration = Duration::from_millis(1);

/// How a send pushes what has filled a buffer on its way (`tcp_push_one`, `__tcp_push_pending_frames`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Nagle, TCP_CORK and MSG_MORE decide.
    No,
    /// All that the windows allow.
    All,
    /// One (super-)segment, without waiting for a larger one.
    One,
}

/// One buffer of the part of the stream that was not sent yet: no (super-)segment goes across its end.
#[derive(Clone, Copy, Debug)]
struct Unsent {
    end: Seq,
    /// Its end is pushed to the reader.
    pushed: bool,
    /// Its end is the end of a record.
    record: bool,
    /// It holds the program's pages: the next MSG_ZEROCOPY send begins a buffer of its own.
    pinned: bool,
}

/// The part of the stream that was not sent yet, in buffers as Linux makes them (`sk_write_queue`).
#[derive(Debug, Default)]
pub struct Boundaries {
    unsent: VecDeque<Unsent>,
    /// `pushed_seq`: the end that was pushed last.
    last_push: Option<Seq>,
}

impl Boundaries {
    /// Buffers.
    pub fn len(&self) -> usize {
        self.unsent.len()
    }

    /// What ends at or before `seq` has been sent.
    pub fn sent(&mut self, seq: Seq) {
        while self.unsent.front().is_some_and(|buffer| !buffer.end.after(seq)) {
            self.unsent.pop_front();
        }
    }

    /// The whole last buffer that went out, or what was left of it, was not sent after all.
    pub fn put_back(&mut self, range: &Range) {
        let end = if range.mark.contains(Mark::FIN) { range.end - 1 } else { range.end };
        let (pushed, record) = (range.mark.contains(Mark::PUSHED), range.mark.contains(Mark::RECORD));
        if end != range.start {
            self.unsent.push_front(Unsent { end, pushed, record, pinned: false });
        }
    }

    /// End of the buffer that is sent next, and whether it is the last one.
    pub fn first(&self) -> Option<(Seq, bool)> {
        self.unsent.front().map(|buffer| (buffer.end, self.unsent.len() == 1))
    }

    /// Where the last buffer begins, when the first one begins at `start`.
    pub fn start_of_last(&self, start: Seq) -> Option<Seq> {
        let before = self.unsent.len().checked_sub(1)?.checked_sub(1).and_then(|index| self.unsent.get(index));
        Some(before.map_or(start, |buffer| buffer.end))
    }

    /// Whether the end of the first buffer, at `seq`, is pushed, and whether it is the end of a record.
    pub fn marks_at(&self, seq: Seq) -> (bool, bool) {
        self.unsent.front().filter(|buffer| buffer.end == seq).map_or((false, false), |b| (b.pushed, b.record))
    }

    /// Whether a record ends before `seq`.
    pub fn record_ends_before(&self, seq: Seq) -> bool {
        self.unsent.iter().take_while(|buffer| buffer.end.before(seq)).any(|buffer| buffer.record)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes that the last buffer takes up to `goal`; the first buffer begins at `start`.
    fn room(&self, start: Seq, goal: u32) -> u32 {
        let before = self.unsent.len().checked_sub(2).and_then(|index| self.unsent.get(index));
        match self.unsent.back() {
            Some(last) if !last.record => {
                goal.saturating_sub(last.end.distance_from(before.map_or(start, |buffer| buffer.end)))
            }
            _ => 0,
        }
    }

    fn push(&mut self) {
        if let Some(last) = self.unsent.back_mut() {
            last.pushed = true;
            self.last_push = Some(last.end);
        }
    }
}

impl Sock {
    /// Memory that the send buffer counts (`sk_wmem_queued`): what was written and is not acknowledged, and what each
    /// buffer costs beside it.
    pub(super) fn send_memory(&self) -> usize {
        self.buffer.len() + BUFFER_OVERHEAD * (self.board.count() + self.boundaries.len())
    }

    /// Takes what the send buffer has room for (`tcp_sendmsg_locked`): memory is asked for with each new buffer only, and a
    /// buffer that is full goes out, if it may, before the next one is begun.
    pub(super) fn fill(
        &mut self,
        net: &mut Net<'_>,
        source: &mut dyn Source,
        wanted: usize,
        flags: SendFlags,
    ) -> Result<usize, SendError> {
        let mut goal = self.size_goal(net.settings, flags);
        let pins = flags.contains(SendFlags::ZEROCOPY) && self.options.kept.has(Kept::ZeroCopy);
        let mut pieces = if self.boundaries.unsent.back().is_some_and(|last| last.pinned) { 0 } else { MOST_PIECES };
        let mut total = 0;
        while total < wanted {
            let mut room = self.boundaries.room(self.snd_nxt, goal);
            if pins && pieces == 0 && room > 0 {
                // No piece more goes into it (`skb_zerocopy_iter_stream`: EEXIST, EMSGSIZE).
                self.boundaries.push();
                room = 0;
            }
            if room == 0 {
                let memory = self.may_send_more(net.settings);
                if !self.has_send_room(net.settings) || !memory {
                    self.no_space.set(true);
                    if !memory {
                        self.wait_for_memory(net);
                    }
                    break;
                }
                // What TCP_NODELAY pushed out was the data of then (`tcp_skb_entail`).
                self.tcp.push_once = false;
                self.restart_window_after_idle(net);
                self.chrono.start(net.now, Chrono::Busy);
                let end = self.data_end();
                spares::enqueue(
                    &mut self.boundaries.unsent,
                    Unsent { end, pushed: false, record: false, pinned: pins },
                );
                room = goal;
                pieces = MOST_PIECES;
            }
            let mut part = (room as usize).min(wanted - total);
            if pins {
                let fits = source.bytes_in_pieces(pieces);
                if fits <= part {
                    (part, pieces) = (fits, 0);
                }
            }
            let taken = self.buffer.append(source, part).unwrap_or(0);
            if taken == 0 {
                break;
            }
            let end = self.data_end();
            if let Some(last) = self.boundaries.unsent.back_mut() {
                last.end = end;
                last.pinned |= pins;
                last.pushed &= total > 0;
            }
            total += taken;
            let full = taken == room as usize;
            if total == wanted || !full || flags.contains(SendFlags::OOB) {
                continue;
            }
            if self.is_push_forced() {
                self.boundaries.push();
                self.push_inline(net, Push::All);
            } else if self.boundaries.len() == 1 {
                self.push_inline(net, Push::One);
            }
            goal = self.size_goal(net.settings, flags);
        }
        if total == 0 {
            if self.boundaries.room(self.snd_nxt, u32::MAX) == u32::MAX {
                self.boundaries.unsent.pop_back();
            }
            let waits = self.memory_wait_at.is_some() || !self.has_send_room(net.settings);
            return Err(if waits { SendError::WouldBlock } else { SendError::Memory });
        }
        Ok(total)
    }

    /// More than half of the largest window was written since the last push (`forced_push`).
    fn is_push_forced(&self) -> bool {
        let half = self.max_window >> 1;
        let pushed = self.boundaries.last_push.unwrap_or(self.iss + 1);
        self.data_end().offset_from(pushed + half) > 0
    }

    /// The end of a send (`tcp_push`). `record`: MSG_EOR.
    pub(super) fn end_write(&mut self, record: bool) {
        if !self.more || self.is_push_forced() {
            self.boundaries.push();
        }
        if record && let Some(last) = self.boundaries.unsent.back_mut() {
            last.record = true;
        }
    }

    /// Decides what goes out in the middle of a send; it is handed out by the next `poll_transmit`.
    fn push_inline(&mut self, net: &mut Net<'_>, push: Push) {
        while self.may_transmit() && self.paused_until.is_none() && !self.syn_due {
            let Some(plan) = self.plan_data(net, push) else { break };
            self.planned.push_back(plan);
            if push == Push::One {
                break;
            }
        }
    }

    /// What was decided on in the middle of a send, and is still to go.
    pub(super) fn take_planned(&mut self) -> Option<Plan> {
        while let Some(mut plan) = self.planned.pop_front() {
            if let Some(seq) = plan.seq
                && !seq.before(self.data_start())
            {
                plan.from = seq.distance_from(self.data_start()) as usize;
                return Some(plan);
            }
        }
        None
    }

    /// `tcp_xmit_size_goal`: how much data one buffer takes.
    fn size_goal(&self, settings: &Settings, flags: SendFlags) -> u32 {
        let mss = u32::from(self.current_mss(settings)).max(1);
        if flags.contains(SendFlags::OOB) {
            return mss;
        }
        // GSO_LEGACY_MAX_SIZE less MAX_TCP_HEADER (`sk_setup_caps`), whatever the device does: Linux cuts by itself, too.
        let most = 65_535 - HEADER_ROOM;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(ends: &[(u32, bool, bool)]) -> Boundaries {
        let unsent = ends.iter().map(|(end, pushed, record)| Unsent {
            end: Seq(*end),
            pushed: *pushed,
            record: *record,
            pinned: false,
        });
        Boundaries { unsent: unsent.collect(), last_push: None }
    }

    #[test]
    fn buffers_are_told_by_their_ends() {
        let mut all = buffers(&[(100, true, false), (250, false, true), (300, false, false)]);
        assert_eq!((all.len(), all.first()), (3, Some((Seq(100), false))));
        assert_eq!(all.start_of_last(Seq(0)), Some(Seq(250)));
        assert_eq!((all.marks_at(Seq(100)), all.marks_at(Seq(99))), ((true, false), (false, false)));
        assert!(!all.record_ends_before(Seq(250)) && all.record_ends_before(Seq(251)));
        all.sent(Seq(99));
        assert_eq!(all.len(), 3);
        all.sent(Seq(100));
        assert_eq!((all.len(), all.marks_at(Seq(250))), (2, (false, true)));
        all.sent(Seq(250));
        assert_eq!(all.first(), Some((Seq(300), true)), "the last one");
        assert_eq!(all.start_of_last(Seq(260)), Some(Seq(260)));
        all.clear();
        assert_eq!((all.first(), all.start_of_last(Seq(0))), (None, None));
    }

    #[test]
    fn the_last_buffer_takes_more_until_it_is_full_or_ends_a_record() {
        assert_eq!(buffers(&[]).room(Seq(0), 1_000), 0);
        assert_eq!(buffers(&[(400, false, false)]).room(Seq(100), 1_000), 700);
        assert_eq!(buffers(&[(400, false, false)]).room(Seq(100), 200), 0);
        assert_eq!(buffers(&[(400, false, false), (500, true, false)]).room(Seq(0), 1_000), 900);
        assert_eq!(buffers(&[(400, false, true)]).room(Seq(100), 1_000), 0);
    }

    #[test]
    fn what_a_device_refused_is_a_buffer_again() {
        let range = |end, mark| Range {
            start: Seq(10),
            end: Seq(end),
            sent_at: Instant::ZERO,
            mss: 100,
            mark,
            stamp: Default::default(),
        };
        let mut all = buffers(&[(300, false, false)]);
        all.put_back(&range(110, Mark::PUSHED | Mark::FIN));
        assert_eq!((all.first(), all.marks_at(Seq(109))), (Some((Seq(109), false)), (true, false)));
        all.put_back(&range(11, Mark::FIN));
        assert_eq!(all.len(), 2, "a FIN alone is in no buffer");
        all.put_back(&range(60, Mark::RECORD));
        assert_eq!(all.marks_at(Seq(60)), (false, true));
    }
}
