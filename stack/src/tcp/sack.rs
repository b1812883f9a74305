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
use crate::time::Instant;

/// Linux's TCP_FASTRETRANS_THRESH.
pub const LEAST_REORDERING: u32 = 3;
/// Linux's net.ipv4.tcp_max_reordering.
const MOST_REORDERING: u32 = 300;

bitflags! {
    /// What is known of a range.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Mark: u8 {
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
    /// Round-trip time, from the first range that was sent once.
    pub rtt: Option<Duration>,
    /// Round-trip time, from the last one: without what delayed ACKs add.
    pub latest_rtt: Option<Duration>,
    /// A range that was sent more than once is among them.
    pub ambiguous: bool,
    /// The SYN is among them.
    pub syn: bool,
    /// The ACK carried a D-SACK.
    pub duplicate: bool,
    /// Nothing but one segment that was not full was acknowledged: the receiver may have held the ACK back.
    pub is_lone_runt: bool,
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
    /// `highest_sacked` before the ACK that is being digested.
    prior_highest: Option<Seq>,
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
            prior_highest: None,
            rack: Rack::default(),
            rate: DeliveryRate::default(),
            search_from: None,
        }
    }
}

impl Scoreboard {
    /// Segments in the network (RFC 6675's pipe).
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.packets_out.saturating_sub(self.sacked_out + self.lost_out) + self.repeated_out
    }

    /// The oldest range.
    #[must_use]
    pub fn head(&self) -> Option<&Range> {
        self.ranges.front()
    }

    /// Memory of the ranges.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.ranges.capacity() * size_of::<Range>()
    }

    /// An ACK begins to be digested.
    pub const fn begin_ack(&mut self, least_rtt: Duration) {
        self.prior_highest = self.highest_sacked;
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
        // A connection that sends single segments without loss would otherwise grow the list by one each.
        if let Some(last) = self.ranges.back_mut()
            && last.end == range.start
            && last.mark.is_empty()
            && (range.mark | Mark::FIN) == Mark::FIN
            && last.mss == range.mss
            && last.sent_at == range.sent_at
            && last.end.distance_from(last.start).is_multiple_of(u32::from(range.mss.max(1)))
        {
            last.end = range.end;
            last.mark = range.mark;
            return;
        }
        self.ranges.push_back(range);
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
        let first = Range { end: at, mark: range.mark - Mark::FIN, ..range };
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

    /// Everything before `una` has arrived (`tcp_clean_rtx_queue`).
    pub fn acknowledge(&mut self, una: Seq, now: Instant, delivery: &mut Delivery) {
        let mut first_sent = None;
        while let Some(range) = self.ranges.front().copied() {
            if !una.after(range.start) {
                break;
            }
            self.retire(&range);
            let whole = !range.end.after(una);
            let done = if whole { range } else { Range { end: una, ..range } };
            let left = if whole { 0 } else { Range { start: una, ..range }.packets() };
            let packets = range.packets().saturating_sub(left);
            delivery.acked += packets;
            delivery.is_lone_runt = whole && done.end.distance_from(done.start) < u32::from(done.mss);
            if !range.mark.contains(Mark::SACKED) {
                self.rack.delivered(&done, now);
                self.rate.arrived(done.stamp, done.sent_at, done.end, done.mark.contains(Mark::AMBIGUOUS));
            }
            if range.mark.contains(Mark::SACKED) {
                delivery.acked_sacked += packets;
            } else if range.mark.contains(Mark::AMBIGUOUS) {
                delivery.ambiguous = true;
            } else {
                self.note_reordering(&done);
                first_sent = first_sent.or(Some(range.sent_at));
                delivery.latest_rtt = Some(now.since(range.sent_at));
            }
            delivery.syn |= range.mark.contains(Mark::SYN);
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
        delivery.is_lone_runt &= delivery.acked == 1 && delivery.sacked == 0;
        let mut delivered = delivery.acked - delivery.acked_sacked.min(delivery.acked);
        if delivered > 0 && self.highest_sacked.is_none() {
            // Without SACK, one ACK fills a hole and the rest were counted as duplicates (`tcp_remove_reno_sacks`).
            delivered = delivered.saturating_sub(self.sacked_out).max(1);
        }
        self.rate.delivered = self.rate.delivered.wrapping_add(delivered);
        if let Some(sent) = first_sent
            && !delivery.ambiguous
        {
            delivery.rtt = Some(now.since(sent));
        }
        if self.highest_sacked.is_some_and(|highest| !highest.after(una)) {
            self.highest_sacked = None;
        }
    }

    /// A range sent once arrived after something sent later: the network reorders (`tcp_check_sack_reordering`).
    fn note_reordering(&mut self, range: &Range) {
        if let Some(highest) = self.prior_highest
            && range.end.before(highest)
        {
            let distance = highest.distance_from(range.start) / u32::from(range.mss.max(1));
            self.rack.reordering_seen = true;
            self.reordering = self.reordering.max(distance).min(MOST_REORDERING);
        }
    }

    /// Takes over the SACK blocks of an ACK for `una` (`tcp_sacktag_write_queue`).
    //= RFC 2018 §5
    pub fn report(&mut self, blocks: &[SackBlock], una: Seq, snd_nxt: Seq, now: Instant, delivery: &mut Delivery) {
        for (place, block) in blocks.iter().enumerate() {
            if !block.start.before(block.end) || block.end.after(snd_nxt) {
                continue;
            }
            let inside_next = place == 0
                && blocks.get(1).is_some_and(|next| !block.start.before(next.start) && !block.end.after(next.end));
            if place == 0 && (block.start.before(una) || inside_next) {
                //= RFC 2883 §4: the first block reports a duplicate.
                delivery.duplicate = true;
                continue;
            }
            if block.end.after(una) {
                self.report_block(*block, now, delivery);
            }
        }
    }

    fn report_block(&mut self, block: SackBlock, now: Instant, delivery: &mut Delivery) {
        let mut index = self.index_of(block.start);
        let mut top = None;
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
            let from = range.start + skipped;
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
            if let Some(part) = self.ranges.get(index).copied() {
                delivery.sacked += part.packets();
                self.rack.delivered(&part, now);
                self.rate.delivered = self.rate.delivered.wrapping_add(part.packets());
                self.rate.arrived(part.stamp, part.sent_at, part.end, part.mark.contains(Mark::AMBIGUOUS));
                if part.mark.contains(Mark::AMBIGUOUS) {
                    delivery.ambiguous = true;
                } else {
                    self.note_reordering(&part);
                    delivery.latest_rtt = Some(now.since(part.sent_at));
                    delivery.rtt = delivery.rtt.or(delivery.latest_rtt);
                }
                top = Some(part.end);
            }
            self.remark(index, |part| part.mark = (part.mark | Mark::SACKED) - (Mark::LOST | Mark::REPEATED));
            index += 1;
        }
        if let Some(top) = top {
            self.highest_sacked = Some(self.highest_sacked.map_or(top, |highest| highest.later(top)));
        }
    }

    /// Takes for lost what lies below `reordering` reported segments (RFC 6675's IsLost). Says whether there was any.
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

    /// Takes the first segment for lost (NewReno, RFC 6582 §3.2).
    pub fn mark_head_lost(&mut self) {
        let Some(head) = self.ranges.front().copied() else { return };
        if head.mark.intersects(Mark::SACKED | Mark::LOST) && !head.mark.contains(Mark::REPEATED) {
            return;
        }
        self.split(0, head.start + u32::from(head.mss.max(1)));
        self.remark(0, |range| range.mark = (range.mark | Mark::LOST) - Mark::REPEATED);
        self.search_from = None;
    }

    /// Takes everything not reported for lost (`tcp_timeout_mark_lost`). A peer that took its report back
    /// (the head is reported, yet not acknowledged) loses all credit.
    pub fn mark_all_lost(&mut self) -> bool {
        let reneged = self.ranges.front().is_some_and(|head| head.mark.contains(Mark::SACKED));
        for index in 0..self.ranges.len() {
            self.remark(index, |range| {
                if reneged {
                    range.mark -= Mark::SACKED;
                }
                range.mark -= Mark::REPEATED;
                if !range.mark.contains(Mark::SACKED) {
                    range.mark |= Mark::LOST;
                }
            });
        }
        if reneged {
            self.highest_sacked = None;
        }
        self.search_from = None;
        reneged
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

    /// Counts of duplicate ACKs, where SACK is not spoken (`tcp_add_reno_sack`).
    pub fn count_duplicate(&mut self) {
        let most = self.packets_out.saturating_sub(self.lost_out.max(1));
        let before = self.sacked_out;
        self.sacked_out = (self.sacked_out + 1).min(most);
        self.rate.delivered = self.rate.delivered.wrapping_add(self.sacked_out.saturating_sub(before));
    }

    /// A recovery has ended: without SACK the counts of duplicates end too.
    pub const fn forget_reno(&mut self, sack: bool) {
        if !sack {
            self.sacked_out = 0;
        }
    }

    /// The counts of duplicate ACKs end (`tcp_reset_reno_sack`).
    pub const fn forget_duplicates(&mut self) {
        self.sacked_out = 0;
    }

    /// Takes those that `acked` segments account for off the count (`tcp_remove_reno_sacks`).
    pub fn uncount_duplicates(&mut self, acked: u32) {
        self.sacked_out = self.sacked_out.saturating_sub(acked.saturating_sub(1));
        let most = self.packets_out.saturating_sub(self.lost_out);
        self.sacked_out = self.sacked_out.min(most);
    }

    /// The next lost range to repeat, cut to `most` bytes.
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

    /// The range that begins at `start` was sent again.
    pub fn repeated(&mut self, start: Seq, now: Instant) {
        let index = self.index_of(start);
        let stamp = self.rate.sent(now, false);
        self.remark(index, |range| {
            range.mark |= Mark::REPEATED | Mark::AMBIGUOUS;
            range.sent_at = now;
            range.stamp = stamp;
        });
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

    fn report(board: &mut Scoreboard, una: u32, blocks: &[(u32, u32)]) -> Delivery {
        let blocks: alloc::vec::Vec<SackBlock> =
            blocks.iter().map(|(start, end)| SackBlock { start: Seq(*start), end: Seq(*end) }).collect();
        let mut delivery = Delivery::default();
        board.report(&blocks, Seq(una), Seq(10_000), Instant::from_millis(5), &mut delivery);
        delivery
    }

    #[test]
    fn a_block_cuts_a_super_segment_at_whole_segments() {
        let mut board = board(10);
        let delivery = report(&mut board, 0, &[(250, 650)]);
        assert_eq!(delivery.sacked, 3);
        assert_eq!((board.packets_out, board.sacked_out, board.in_flight()), (10, 3, 7));
    }

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
        board.repeated(lost.start, Instant::ZERO);
        assert!(board.next_lost(1_000, 100).is_none());
    }

    #[test]
    fn first_block_below_the_ack_is_a_duplicate_report() {
        let mut board = board(10);
        let delivery = report(&mut board, 500, &[(100, 200)]);
        assert!(delivery.duplicate);
        assert_eq!(delivery.sacked, 0);
    }

    #[test]
    fn cumulative_ack_of_part_of_a_range_keeps_the_rest() {
        let mut board = board(10);
        let mut delivery = Delivery::default();
        board.acknowledge(Seq(450), Instant::from_millis(7), &mut delivery);
        assert_eq!(delivery.acked, 4);
        assert_eq!(board.packets_out, 6);
        assert_eq!(delivery.rtt, Some(Duration::from_millis(7)));
    }

    #[test]
    fn a_hole_and_its_report_in_one_ack_are_no_reordering() {
        let mut board = board(10);
        board.begin_ack(Duration::ZERO);
        report(&mut board, 300, &[(400, 1_000)]);
        let mut delivery = Delivery::default();
        board.acknowledge(Seq(300), Instant::ZERO, &mut delivery);
        assert_eq!(board.reordering, LEAST_REORDERING);
        assert!(board.mark_lost());
        // What arrives late without having been repeated was reordered.
        board.begin_ack(Duration::ZERO);
        report(&mut board, 300, &[(300, 400)]);
        assert_eq!(board.reordering, 7);
    }

    #[test]
    fn a_timeout_takes_all_for_lost_and_reneging_is_noticed() {
        let mut board = board(4);
        report(&mut board, 0, &[(200, 300)]);
        assert!(!board.mark_all_lost());
        assert_eq!((board.lost_out, board.sacked_out), (3, 1));
        let mut delivery = Delivery::default();
        board.acknowledge(Seq(200), Instant::ZERO, &mut delivery);
        assert!(board.mark_all_lost());
        assert_eq!((board.lost_out, board.sacked_out), (2, 0));
    }
}
