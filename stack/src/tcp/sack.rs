//! The scoreboard of what was sent (RFC 2018, RFC 6675 §3): ranges of sequence numbers with what is known of each.
//! A super-segment is one range until a part of it is reported; counts are in segments, as the congestion window is.
//! What is concluded from it stands in `recovery.rs`.

use alloc::collections::VecDeque;
use core::time::Duration;

use bitflags::bitflags;

use super::header::SackBlock;
use super::rack::Rack;
use super::rate::{DeliveryRate, Stamp};
use super::sequence::Seq;
use super::spares;
use super::undo::{Echo, Undo};
use crate::time::Instant;

/// Linux's TCP_FASTRETRANS_THRESH.
pub const LEAST_REORDERING: u32 = 3;

bitflags! {
    /// What is known of a range.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Mark: u16 {
        /// The peer has reported it.
        const SACKED = 0x01;
        /// It is taken for lost.
        const LOST = 0x02;
        /// A repetition is in flight.
        const REPEATED = 0x04;
        /// It was sent more than once, so that its round-trip time is ambiguous (Karn).
        const AMBIGUOUS = 0x08;
        /// Begins with a SYN.
        const SYN = 0x10;
        /// Ends with a FIN.
        const FIN = 0x20;
        /// Its end is pushed to the reader.
        const PUSHED = 0x40;
        /// Ends a record (MSG_EOR): nothing is joined to it.
        const RECORD = 0x80;
    }
}

/// One range.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First sequence number.
    pub start: Seq,
    /// The one after the last.
    pub end: Seq,
    /// When it was sent last.
    pub sent_at: Instant,
    /// Payload bytes of its segments.
    pub mss: u16,
    /// What is known of it.
    pub mark: Mark,
    /// What was known of the connection when it was sent last.
    pub stamp: Stamp,
}

impl Range {
    /// Segments it takes.
    pub fn packets(&self) -> u32 {
        self.end.distance_from(self.start).div_ceil(u32::from(self.mss.max(1))).max(1)
    }

    /// It was sent more than once.
    pub const fn was_repeated(&self) -> bool {
        self.mark.contains(Mark::AMBIGUOUS)
    }
}

/// What a timeout did to the scoreboard.
#[derive(Clone, Copy, Debug)]
pub struct AllLost {
    /// The peer had taken its reports back.
    pub reneged: bool,
    /// Repetitions that were lost.
    pub repetitions: u32,
}

/// What an acknowledgment told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivery {
    /// Segments newly acknowledged cumulatively.
    pub acked: u32,
    /// Of these, those that had been reported by SACK before.
    pub acked_sacked: u32,
    /// Segments newly reported by SACK.
    pub sacked: u32,
    /// Round-trip time, from the first range that was sent once: acknowledged cumulatively, else reported.
    pub rtt: Option<Duration>,
    /// It comes from a report and is longer than the time since the oldest segment was sent last.
    pub outlasts_head: bool,
    /// Round-trip time, from the last one: without what delayed ACKs add.
    pub latest_rtt: Option<Duration>,
    /// A range that was sent more than once is among those acknowledged (FLAG_RETRANS_DATA_ACKED).
    pub ambiguous: bool,
    /// A range that was never repeated, sent before the current phase began, has arrived (FLAG_ORIG_SACK_ACKED).
    pub original: bool,
    /// Something but a SYN was acknowledged cumulatively.
    pub data_acked: bool,
    /// The SYN is among them.
    pub syn: bool,
    /// The ACK carried a D-SACK that can be believed (FLAG_DSACKING_ACK).
    pub duplicate: bool,
    /// It told of the tail loss probe (FLAG_DSACK_TLP).
    pub probe_duplicate: bool,
    /// What is the oldest segment now had been reported (FLAG_SACK_RENEGING).
    pub reneging: bool,
    /// The lowest that arrived late without having been repeated.
    pub late: Option<Seq>,
    /// Round-trip times of what was reported: of the first and of the last.
    reported_rtt: Option<(Duration, Duration)>,
    /// Nothing but one segment that was not full was acknowledged: the receiver may have held the ACK back.
    pub is_lone_runt: bool,
}

impl Delivery {
    /// What begins at `start` and was never repeated has arrived after something that ends at `high`.
    fn note_late(&mut self, start: Seq, high: Seq) {
        if start.before(high) {
            self.late = Some(self.late.map_or(start, |late| late.earlier(start)));
        }
    }
}

/// All ranges between `snd_una` and `snd_nxt`.
#[derive(Debug)]
pub struct Scoreboard {
    pub(super) ranges: VecDeque<Range>,
    /// Segments between `snd_una` and `snd_nxt`.
    pub packets_out: u32,
    /// Segments reported by SACK (or, without SACK, counted from duplicate ACKs).
    pub sacked_out: u32,
    /// Segments taken for lost.
    pub lost_out: u32,
    /// Repetitions in flight.
    pub repeated_out: u32,
    /// How many segments late one may be without being lost.
    pub reordering: u32,
    highest_sacked: Option<Seq>,
    /// Whether the last reduction of the window may be taken back.
    pub undo: Undo,
    /// What RACK knows (RFC 8985 §5.2).
    pub(super) rack: Rack,
    /// What was delivered and lost, and how fast.
    pub rate: DeliveryRate,
    /// Nothing before this is lost and waits for its repetition.
    pub(super) search_from: Option<Seq>,
}

impl Default for Scoreboard {
    fn default() -> Self {
        Self {
            ranges: VecDeque::new(),
            packets_out: 0,
            sacked_out: 0,
            lost_out: 0,
            repeated_out: 0,
            reordering: LEAST_REORDERING,
            highest_sacked: None,
            undo: Undo::default(),
            rack: Rack::default(),
            rate: DeliveryRate::default(),
            search_from: None,
        }
    }
}

impl Scoreboard {
    /// An empty one; `reordering`: how many segments late one may be at first.
    #[must_use]
    //= RFC 8985 §4 (MUST-3)
    pub fn new(reordering: u32) -> Self {
        Self { reordering, ..Self::default() }
    }

    /// Segments in the network (RFC 6675's pipe).
    #[must_use]
    //= RFC 5681 §3.2 (SHLD-9, MUST-13)
    //= RFC 6675 §4 (SHLD-1, MUST-2)
    //= RFC 6675 §5 (MAY-1)
    pub const fn in_flight(&self) -> u32 {
        self.packets_out.saturating_sub(self.sacked_out + self.lost_out) + self.repeated_out
    }

    /// The oldest range.
    #[must_use]
    pub fn head(&self) -> Option<&Range> {
        self.ranges.front()
    }

    /// Ranges: what was sent in one go and was not cut since.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Memory of the ranges.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.ranges.capacity() * size_of::<Range>()
    }

    /// An ACK begins to be digested.
    pub const fn begin_ack(&mut self, least_rtt: Duration) {
        self.rack.least_rtt = least_rtt;
    }

    fn enlist(&mut self, range: &Range) {
        let packets = range.packets();
        self.packets_out += packets;
        if range.mark.contains(Mark::SACKED) {
            self.sacked_out += packets;
        }
        if range.mark.contains(Mark::LOST) {
            self.lost_out += packets;
        }
        if range.mark.contains(Mark::REPEATED) {
            self.repeated_out += packets;
        }
    }

    fn retire(&mut self, range: &Range) {
        let packets = range.packets();
        self.packets_out = self.packets_out.saturating_sub(packets);
        if range.mark.contains(Mark::SACKED) {
            self.sacked_out = self.sacked_out.saturating_sub(packets);
        }
        if range.mark.contains(Mark::LOST) {
            self.lost_out = self.lost_out.saturating_sub(packets);
        }
        if range.mark.contains(Mark::REPEATED) {
            self.repeated_out = self.repeated_out.saturating_sub(packets);
        }
    }

    /// Notes a range sent for the first time. It begins where the last one ended.
    pub fn push(&mut self, mut range: Range) {
        range.stamp = self.rate.sent(range.sent_at, self.packets_out == 0);
        self.enlist(&range);
        spares::enqueue(&mut self.ranges, range);
    }

    /// What was sent alone and for the first time has been held on this host, and leaves now.
    pub fn leaves_now(&mut self, now: Instant) {
        if let Some(range) = self.ranges.front_mut() {
            range.sent_at = now;
            range.stamp = self.rate.sent(now, true);
        }
    }

    /// The range that `seq` lies in.
    pub fn range_of(&self, seq: Seq) -> Option<&Range> {
        self.ranges.get(self.index_of(seq)).filter(|range| !range.start.after(seq))
    }

    fn index_of(&self, seq: Seq) -> usize {
        self.ranges.partition_point(|range| !range.end.after(seq))
    }

    /// Cuts the range at `index` so that a new one begins at `at`, which lies inside.
    fn split(&mut self, index: usize, at: Seq) {
        let Some(range) = self.ranges.get(index).copied() else { return };
        if !at.after(range.start) || !at.before(range.end) {
            return;
        }
        let first = Range { end: at, mark: range.mark - (Mark::FIN | Mark::PUSHED | Mark::RECORD), ..range };
        let second = Range { start: at, mark: range.mark - Mark::SYN, ..range };
        self.retire(&range);
        self.enlist(&first);
        self.enlist(&second);
        if let Some(place) = self.ranges.get_mut(index) {
            *place = first;
        }
        self.ranges.insert(index + 1, second);
    }

    pub(super) fn remark(&mut self, index: usize, change: impl FnOnce(&mut Range)) {
        if let Some(range) = self.ranges.get(index).copied() {
            let mut changed = range;
            change(&mut changed);
            let waits = |range: &Range| range.mark.contains(Mark::LOST) && !range.mark.contains(Mark::REPEATED);
            if waits(&changed) && !waits(&range) {
                self.rate.lost = self.rate.lost.wrapping_add(changed.packets());
            }
            self.retire(&range);
            self.enlist(&changed);
            if let Some(place) = self.ranges.get_mut(index) {
                *place = changed;
            }
        }
    }

    /// Sequence number after the highest segment reported, if there is one (`tcp_highest_sack_seq`).
    #[must_use]
    pub fn highest_sacked(&self, una: Seq) -> Seq {
        self.highest_sacked.filter(|_| self.sacked_out > 0).map_or(una, |highest| highest.later(una))
    }

    /// Everything before `una` has arrived (`tcp_clean_rtx_queue`). `high`: where the current phase began; `prior_high`:
    /// the highest report before this ACK; `echo`: the timestamp that it echoes.
    pub fn acknowledge(
        &mut self,
        una: Seq,
        (high, prior_high): (Seq, Seq),
        now: Instant,
        echo: Option<Echo>,
        delivery: &mut Delivery,
    ) {
        let mut first_sent = None;
        let mut last_sent = None;
        while let Some(range) = self.ranges.front().copied() {
            if !una.after(range.start) {
                break;
            }
            let whole = !range.end.after(una);
            let done = if whole { range } else { Range { end: una, ..range } };
            let left = if whole { 0 } else { Range { start: una, ..range }.packets() };
            let packets = range.packets().saturating_sub(left);
            if packets == 0 {
                // A part of a segment is not delivered yet, but need not be repeated either.
                let rest = Range { start: una, ..range };
                self.remark(0, |range| *range = rest);
                break;
            }
            self.retire(&range);
            delivery.acked += packets;
            delivery.is_lone_runt = whole && done.end.distance_from(done.start) < u32::from(done.mss);
            let sacked = range.mark.contains(Mark::SACKED);
            if range.was_repeated() {
                delivery.ambiguous = true;
            } else if !sacked {
                first_sent = first_sent.or(Some(range.sent_at));
                last_sent = Some(range.sent_at);
                delivery.note_late(range.start, prior_high);
                delivery.original |= !range.end.after(high);
            }
            if sacked {
                delivery.acked_sacked += packets;
            } else {
                // A repetition that is acknowledged before it can have arrived was needless (`tcp_skb_spurious_retrans`).
                let needless = range.was_repeated() && echo.is_some_and(|echo| echo.is_before(range.sent_at));
                if !needless {
                    self.rack.delivered(&done, now);
                }
            }
            self.rate.arrived(done.stamp, done.sent_at, done.end, done.was_repeated());
            delivery.syn |= range.mark.contains(Mark::SYN);
            delivery.data_acked |= !range.mark.contains(Mark::SYN);
            if whole {
                self.ranges.pop_front();
                continue;
            }
            let rest = Range { start: una, mark: range.mark - Mark::SYN, ..range };
            self.enlist(&rest);
            if let Some(place) = self.ranges.front_mut() {
                *place = rest;
            }
            break;
        }
        delivery.reneging = self.head().is_some_and(|head| head.mark.contains(Mark::SACKED));
        delivery.is_lone_runt &= delivery.acked == 1 && delivery.sacked == 0;
        self.take_round_trips(now, first_sent, last_sent, delivery);
        if self.sacked_out == 0 {
            self.highest_sacked = None;
        }
    }

    /// Counts what a cumulative acknowledgment delivered (`tcp_count_delivered`). Without SACK one ACK fills a hole and
    /// the rest were counted as duplicates (`tcp_remove_reno_sacks`).
    pub fn count_delivered(&mut self, sack: bool, delivery: &Delivery) {
        let mut delivered = delivery.acked - delivery.acked_sacked.min(delivery.acked);
        if !sack && delivered > 0 {
            delivered = delivered.saturating_sub(self.sacked_out).max(1);
        }
        self.rate.delivered = self.rate.delivered.wrapping_add(delivered);
    }

    fn take_round_trips(&self, now: Instant, first: Option<Instant>, last: Option<Instant>, delivery: &mut Delivery) {
        if !delivery.ambiguous {
            delivery.rtt = first.map(|sent| now.since(sent));
            delivery.latest_rtt = last.map(|sent| now.since(sent));
        }
        if let Some((first, last)) = delivery.reported_rtt {
            delivery.outlasts_head = self.head().is_some_and(|head| first > now.since(head.sent_at));
            delivery.rtt = delivery.rtt.or(Some(first));
            delivery.latest_rtt = Some(last);
        }
    }

    /// Takes over a SACK block (`tcp_sacktag_walk`). `high`: where the current phase began.
    //= RFC 2018 §5
    //= RFC 6675 §4 (SHLD-1)
    pub fn report(&mut self, block: SackBlock, una: Seq, high: Seq, now: Instant, delivery: &mut Delivery) {
        let mut index = self.index_of(block.start);
        while let Some(range) = self.ranges.get(index).copied() {
            if !range.start.before(block.end) {
                break;
            }
            if range.mark.contains(Mark::SACKED) {
                index += 1;
                continue;
            }
            // Only whole segments count, as Linux rounds: else a peer could cut a super-segment into single bytes.
            let mss = u32::from(range.mss.max(1));
            let skipped = block.start.distance_from(range.start).div_ceil(mss) * mss;
            let from = if block.start.after(range.start) { range.start + skipped } else { range.start };
            let covered = block.end.distance_from(range.start) / mss * mss;
            let to = if block.end.before(range.end) { range.start + covered } else { range.end };
            if !from.before(to) {
                index += 1;
                continue;
            }
            if from.after(range.start) {
                self.split(index, from);
                index += 1;
            }
            self.split(index, to);
            self.report_range(index, una, high, now, delivery);
            index += 1;
        }
    }

    /// `tcp_sacktag_one`, for a range that was not reported yet.
    fn report_range(&mut self, index: usize, una: Seq, high: Seq, now: Instant, delivery: &mut Delivery) {
        let Some(part) = self.ranges.get(index).copied() else { return };
        delivery.sacked += part.packets();
        self.rack.delivered(&part, now);
        self.rate.delivered = self.rate.delivered.wrapping_add(part.packets());
        self.rate.arrived(part.stamp, part.sent_at, part.end, part.was_repeated());
        if !part.was_repeated() {
            delivery.note_late(part.start, self.highest_sacked(una));
            delivery.original |= !part.end.after(high);
            let rtt = now.since(part.sent_at);
            delivery.reported_rtt = Some((delivery.reported_rtt.map_or(rtt, |(first, _)| first), rtt));
        }
        self.remark(index, |part| {
            // A repetition of what was not lost is still on its way.
            if part.mark.contains(Mark::LOST) {
                part.mark -= Mark::LOST | Mark::REPEATED;
            }
            part.mark |= Mark::SACKED;
        });
        self.highest_sacked = Some(self.highest_sacked.map_or(part.end, |highest| highest.later(part.end)));
    }

    /// A D-SACK tells of segments that were sent more than once and are not acknowledged yet.
    //= RFC 2883 §4
    pub fn report_duplicate(&mut self, block: SackBlock, delivery: &mut Delivery) {
        let mut index = self.index_of(block.start);
        while let Some(range) = self.ranges.get(index).copied().filter(|range| !range.end.after(block.end)) {
            if range.was_repeated() && !range.start.before(block.start) {
                self.undo.needless(range.end, range.packets());
                if range.mark.contains(Mark::SACKED) {
                    delivery.note_late(range.start, range.end);
                }
                self.remark(index, |range| range.mark -= Mark::REPEATED);
            }
            index += 1;
        }
    }

    /// Takes the range at `index` for lost (`tcp_mark_skb_lost`); says how many repetitions are lost with it.
    pub(super) fn take_for_lost(&mut self, index: usize) -> u32 {
        let Some(range) = self.ranges.get(index).copied() else { return 0 };
        self.remark(index, |range| range.mark = (range.mark | Mark::LOST) - Mark::REPEATED);
        self.search_from = None;
        if range.mark.contains(Mark::REPEATED) { range.packets() } else { 0 }
    }

    /// Nothing was lost after all.
    pub fn unmark_lost(&mut self) {
        for index in 0..self.ranges.len() {
            self.remark(index, |range| range.mark -= Mark::LOST);
        }
        self.search_from = None;
    }

    /// Takes for lost what lies below `reordering` reported segments (RFC 6675's IsLost). Says whether there was any.
    //= RFC 6675 §4 (SHLD-1)
    pub fn mark_lost(&mut self) -> bool {
        let mut above = 0_u32;
        let mut any = false;
        for index in (0..self.ranges.len()).rev() {
            let Some(range) = self.ranges.get(index).copied() else { break };
            if range.mark.contains(Mark::SACKED) {
                above = above.saturating_add(range.packets());
            } else if above >= self.reordering && !range.mark.intersects(Mark::LOST | Mark::REPEATED) {
                self.remark(index, |range| range.mark |= Mark::LOST);
                self.search_from = None;
                any = true;
            }
        }
        any
    }

    /// Takes the first segment for lost, if it is not yet (NewReno, RFC 6582 §3.2).
    pub fn mark_head_lost(&mut self) {
        let Some(head) = self.ranges.front().copied() else { return };
        if head.mark.intersects(Mark::SACKED | Mark::LOST) {
            return;
        }
        self.split(0, head.start + u32::from(head.mss.max(1)));
        self.take_for_lost(0);
    }

    /// Takes everything not reported for lost, but for what RACK says may still arrive (`tcp_timeout_mark_lost`). A peer
    /// that took its report back (the head is reported, yet not acknowledged) loses all credit.
    //= RFC 6675 §5.1 (SHLD-7)
    pub fn mark_all_lost(&mut self, now: Instant, rack: bool) -> AllLost {
        let reneged = self.ranges.front().is_some_and(|head| head.mark.contains(Mark::SACKED));
        let mut repetitions = 0;
        for index in 0..self.ranges.len() {
            let Some(range) = self.ranges.get(index).copied() else { break };
            if reneged {
                self.remark(index, |range| range.mark -= Mark::SACKED);
            } else if range.mark.contains(Mark::SACKED)
                || (rack && index > 0 && self.rack.remaining(range.sent_at, Duration::ZERO, now).is_some())
            {
                continue;
            }
            repetitions += self.take_for_lost(index);
        }
        if reneged {
            self.highest_sacked = None;
        }
        self.search_from = None;
        AllLost { reneged, repetitions }
    }

    /// Takes for lost what is too large for the new segment size (`tcp_simple_retransmit`).
    pub fn mark_oversized_lost(&mut self, mss: u16) -> bool {
        let mut any = false;
        for index in 0..self.ranges.len() {
            self.remark(index, |range| {
                let too_long = range.mss > mss && range.end.distance_from(range.start) > u32::from(mss);
                if too_long && !range.mark.contains(Mark::SACKED) {
                    range.mark = (range.mark | Mark::LOST) - Mark::REPEATED;
                    any = true;
                }
            });
        }
        self.search_from = None;
        any
    }

    /// More duplicate ACKs than segments that can have caused them are a sign of reordering
    /// (`tcp_check_reno_reordering`). Says whether it was seen.
    fn limit_duplicates(&mut self, more: u32, most_reordering: u32) -> bool {
        let most = self.packets_out.saturating_sub(self.lost_out.max(1));
        if self.sacked_out <= most {
            return false;
        }
        self.sacked_out = most;
        self.reordering = (self.packets_out + more).min(most_reordering);
        self.rack.reordering_seen = self.rack.reordering_seen.saturating_add(1);
        true
    }

    /// Counts a duplicate ACK, where SACK is not spoken (`tcp_add_reno_sack`). Says whether the network reorders.
    pub fn count_duplicate(&mut self, most_reordering: u32) -> bool {
        let before = self.sacked_out;
        self.sacked_out += 1;
        let reorders = self.limit_duplicates(0, most_reordering);
        self.rate.delivered = self.rate.delivered.wrapping_add(self.sacked_out.saturating_sub(before));
        reorders
    }

    /// The counts of duplicate ACKs end (`tcp_reset_reno_sack`).
    pub const fn forget_duplicates(&mut self) {
        self.sacked_out = 0;
    }

    /// Takes those that `acked` segments account for off the count (`tcp_remove_reno_sacks`). Says whether the network
    /// reorders.
    pub fn uncount_duplicates(&mut self, acked: u32, most_reordering: u32) -> bool {
        self.sacked_out = self.sacked_out.saturating_sub(acked.saturating_sub(1));
        self.limit_duplicates(acked, most_reordering)
    }

    /// The next lost range to repeat, cut to `most` bytes.
    //= RFC 6675 §4 (SHLD-1, MUST-4)
    //= RFC 6675 §5.1 (SHLD-9)
    pub fn next_lost(&mut self, most: u32, mss: u16) -> Option<Range> {
        if self.lost_out <= self.repeated_out && self.repeated_out > 0 && self.search_from.is_some() {
            return None;
        }
        let mut index = self.search_from.map_or(0, |from| self.index_of(from));
        while let Some(range) = self.ranges.get(index).copied() {
            if range.mark.contains(Mark::LOST) && !range.mark.contains(Mark::REPEATED) {
                self.search_from = Some(range.start);
                return Some(self.cut(index, range, most, mss));
            }
            index += 1;
        }
        //= RFC 6675 §4 (MUST-8)
        self.search_from = self.ranges.back().map(|last| last.end);
        None
    }

    /// The first range, cut to one segment: what the retransmission timer repeats.
    pub fn head_segment(&mut self, mss: u16) -> Option<Range> {
        let range = self.ranges.front().copied()?;
        Some(self.cut(0, range, u32::from(mss), mss))
    }

    /// The last segment: what a tail loss probe repeats.
    pub fn tail_segment(&mut self, mss: u16) -> Option<Range> {
        let last = self.ranges.back().copied()?;
        let length = last.end.distance_from(last.start);
        let mss = u32::from(last.mss.min(mss).max(1));
        let tail = match length % mss {
            0 => length.min(mss),
            rest => rest,
        };
        self.split(self.ranges.len() - 1, last.end - tail);
        self.ranges.back().copied()
    }

    fn cut(&mut self, index: usize, range: Range, most: u32, mss: u16) -> Range {
        self.split(index, range.start + most.max(1));
        self.remark(index, |range| range.mss = mss);
        self.ranges.get(index).copied().unwrap_or(range)
    }

    /// Cuts the range that begins at `start` so that it ends at `end`.
    pub fn cut_at(&mut self, start: Seq, end: Seq) {
        self.split(self.index_of(start), end);
    }

    /// The range that begins at `start` was sent again; `probe`: to make the peer answer, which stands for no loss.
    //= RFC 6675 §5 (MUST-16)
    pub fn repeated(&mut self, start: Seq, now: Instant, probe: bool) {
        let index = self.index_of(start);
        let stamp = self.rate.sent(now, false);
        let mark = if probe { Mark::AMBIGUOUS } else { Mark::REPEATED | Mark::AMBIGUOUS };
        self.remark(index, |range| {
            range.mark |= mark;
            //= RFC 8985 §4 (MUST-4)
            range.sent_at = now;
            range.stamp = stamp;
        });
    }

    /// Forgets the last range, which begins at `start`, ends at `end` and was not sent after all.
    pub fn take_back(&mut self, start: Seq, end: Seq) -> Option<Range> {
        let last = self.ranges.back().copied()?;
        if last.start != start || last.end != end || last.was_repeated() || last.mark.contains(Mark::SYN) {
            return None;
        }
        self.retire(&last);
        self.ranges.pop_back()
    }

    /// The device refused the range that begins at `start`: it shall be sent again.
    pub fn refused(&mut self, start: Seq) {
        let index = self.index_of(start);
        self.remark(index, |range| range.mark = (range.mark | Mark::LOST) - Mark::REPEATED);
        self.search_from = None;
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(packets: u32) -> Scoreboard {
        let mut board = Scoreboard::default();
        board.push(Range {
            start: Seq(0),
            end: Seq(packets * 100),
            sent_at: Instant::ZERO,
            mss: 100,
            mark: Mark::empty(),
            stamp: Stamp::default(),
        });
        board
    }

    const HIGH: Seq = Seq(0);

    fn report(board: &mut Scoreboard, una: u32, blocks: &[(u32, u32)]) -> Delivery {
        let mut delivery = Delivery::default();
        for (start, end) in blocks {
            let block = SackBlock { start: Seq(*start), end: Seq(*end) };
            board.report(block, Seq(una), HIGH, Instant::from_millis(5), &mut delivery);
        }
        delivery
    }

    fn acknowledge(board: &mut Scoreboard, una: u32, now: u64) -> Delivery {
        let mut delivery = Delivery::default();
        let high = board.highest_sacked(Seq(0));
        board.acknowledge(Seq(una), (HIGH, high), Instant::from_millis(now), None, &mut delivery);
        delivery
    }

    #[test]
    fn a_block_cuts_a_super_segment_at_whole_segments() {
        let mut board = board(10);
        let delivery = report(&mut board, 0, &[(250, 650)]);
        assert_eq!(delivery.sacked, 3);
        assert_eq!((board.packets_out, board.sacked_out, board.in_flight()), (10, 3, 7));
    }

    //= test RFC 6675 §4 (SHLD-1, MUST-2)
    #[test]
    fn three_reported_segments_above_make_a_loss() {
        let mut board = board(10);
        report(&mut board, 0, &[(100, 300)]);
        assert!(!board.mark_lost());
        report(&mut board, 0, &[(100, 400)]);
        assert!(board.mark_lost());
        assert_eq!(board.lost_out, 1);
        let lost = board.next_lost(1_000, 100).expect("one is lost");
        assert_eq!((lost.start, lost.end), (Seq(0), Seq(100)));
        board.repeated(lost.start, Instant::ZERO, false);
        assert!(board.next_lost(1_000, 100).is_none());
    }

    #[test]
    fn cumulative_ack_of_part_of_a_range_keeps_the_rest() {
        let mut board = board(10);
        let delivery = acknowledge(&mut board, 450, 7);
        assert_eq!(delivery.acked, 4);
        assert_eq!(board.packets_out, 6);
        assert_eq!(delivery.rtt, Some(Duration::from_millis(7)));
    }

    #[test]
    fn what_arrives_late_without_having_been_repeated_was_reordered() {
        let mut board = board(10);
        assert_eq!(report(&mut board, 0, &[(300, 1_000)]).late, None);
        assert_eq!(report(&mut board, 0, &[(200, 300)]).late, Some(Seq(200)));
        // A hole and what lies above it, both reported for the first time in one ACK, say nothing.
        let mut other = self::board(10);
        assert_eq!(report(&mut other, 0, &[(200, 300), (400, 500)]).late, None);
        // Acknowledged late is late as well; what was repeated does not count.
        assert_eq!(acknowledge(&mut board, 100, 6).late, Some(Seq(0)));
        board.repeated(Seq(100), Instant::from_millis(7), false);
        assert_eq!(acknowledge(&mut board, 1_000, 8).late, None);
    }

    #[test]
    fn a_repetition_that_was_needless_is_still_in_flight_when_the_first_copy_is_reported() {
        let mut board = board(4);
        board.split(0, Seq(100));
        board.repeated(Seq(0), Instant::from_millis(1), false);
        assert_eq!(board.in_flight(), 5);
        report(&mut board, 0, &[(0, 100)]);
        assert_eq!((board.sacked_out, board.repeated_out, board.in_flight()), (1, 1, 4));
        board.report_duplicate(SackBlock { start: Seq(0), end: Seq(100) }, &mut Delivery::default());
        assert_eq!((board.repeated_out, board.in_flight()), (0, 3));
    }

    //= test RFC 8985 §7.3
    #[test]
    fn a_probe_of_the_tail_stands_for_no_loss() {
        let mut board = board(1);
        board.repeated(Seq(0), Instant::from_millis(1), true);
        assert_eq!((board.repeated_out, board.in_flight()), (0, 1));
        assert!(acknowledge(&mut board, 100, 8).rtt.is_none(), "which copy it was is not known");
    }

    #[test]
    fn a_timeout_takes_all_for_lost_and_reneging_is_noticed() {
        let mut board = board(4);
        report(&mut board, 0, &[(200, 300)]);
        assert!(!board.mark_all_lost(Instant::from_millis(500), true).reneged);
        assert_eq!((board.lost_out, board.sacked_out), (3, 1));
        assert!(acknowledge(&mut board, 200, 501).reneging);
        assert!(board.mark_all_lost(Instant::from_millis(502), true).reneged);
        assert_eq!((board.lost_out, board.sacked_out), (2, 0));
    }

    #[test]
    fn a_timeout_spares_what_may_still_arrive() {
        let mut board = board(1);
        let later = Instant::from_millis(90);
        let range = Range { start: Seq(100), end: Seq(200), sent_at: later, ..board.ranges[0] };
        board.push(range);
        board.push(Range { start: Seq(200), end: Seq(300), ..range });
        board.split(1, Seq(200));
        // A round trip of 5 ms: what was sent at 90 ms is not late at 93 ms.
        board.rack.delivered(&Range { sent_at: Instant::ZERO, ..range }, Instant::from_millis(5));
        board.mark_all_lost(Instant::from_millis(93), true);
        assert_eq!(board.lost_out, 1);
        board.mark_all_lost(Instant::from_millis(93), false);
        assert_eq!(board.lost_out, 3);
    }

    #[test]
    fn more_duplicates_than_segments_are_reordering() {
        let mut board = board(4);
        for _ in 0..3 {
            assert!(!board.count_duplicate(300));
        }
        assert!(board.count_duplicate(300));
        assert_eq!((board.sacked_out, board.reordering), (3, 4));
    }
}
