//! What received segments count against the receive buffer (Linux's `skb->truesize`, `sk_rmem_alloc`): not their bytes but
//! the memory of the buffers that a driver would have put them into. The memory that they take here is less.

use alloc::collections::VecDeque;

use super::sequence::Seq;

/// `SKB_DATA_ALIGN` of `struct skb_shared_info`, which lies behind the data.
const SHARED: u32 = 320;
/// `SKB_DATA_ALIGN` of `struct sk_buff`.
const DESCRIPTOR: u32 = 256;
/// What the smallest skb counts, and what one with its data in pages counts beside them.
const LEAST: u32 = 832;
/// Data of super-segments is joined up to what one skb holds (MAX_SKB_FRAGS pages).
const MOST_JOINED: u32 = 65_536;
/// IP and TCP header without options.
const HEADERS: u32 = 40;

/// What a segment of `length` bytes counts; `cut`: it is a super-segment, whose data lies in pages.
#[must_use]
pub fn truesize(length: u32, cut: bool) -> u32 {
    let linear = length.saturating_add(HEADERS + SHARED);
    if cut || linear > 1 << 16 {
        return length.saturating_add(LEAST);
    }
    if linear <= LEAST - DESCRIPTOR { LEAST } else { linear.next_power_of_two() + DESCRIPTOR }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    start: Seq,
    end: Seq,
    cost: u32,
    /// More data of super-segments may join it.
    pages: bool,
}

/// What the receive queues count.
#[derive(Debug, Default)]
pub struct Charges {
    ready: VecDeque<Held>,
    ahead: VecDeque<Held>,
    total: u64,
}

impl Charges {
    /// `sk_rmem_alloc`.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// A segment was queued to be read.
    pub fn add(&mut self, start: Seq, end: Seq, cost: u32, pages: bool) {
        self.push_ready(Held { start, end, cost, pages });
        self.total += u64::from(cost);
    }

    fn push_ready(&mut self, held: Held) {
        let length = held.end.distance_from(held.start);
        match self.ready.back_mut() {
            // `tcp_try_coalesce`: the pages go over, the skb around them is free again.
            Some(last)
                if last.pages
                    && held.pages
                    && held.end.distance_from(last.start) <= MOST_JOINED
                    && last.end == held.start =>
            {
                last.end = held.end;
                last.cost += length;
                self.total = self.total.saturating_sub(u64::from(held.cost.saturating_sub(length)));
            }
            _ => self.ready.push_back(held),
        }
    }

    /// A segment was queued ahead of a hole.
    pub fn add_ahead(&mut self, start: Seq, end: Seq, cost: u32, pages: bool) {
        let at = self.ahead.partition_point(|held| !held.start.after(start));
        self.ahead.insert(at, Held { start, end, cost, pages });
        self.total += u64::from(cost);
    }

    /// What lies before `rcv_nxt` can be read now.
    pub fn advance(&mut self, rcv_nxt: Seq) {
        while self.ahead.front().is_some_and(|held| held.start.before(rcv_nxt)) {
            if let Some(held) = self.ahead.pop_front() {
                self.push_ready(held);
            }
        }
    }

    /// What lies ahead of a hole is thrown away.
    pub fn drop_ahead(&mut self) {
        for held in self.ahead.drain(..) {
            self.total = self.total.saturating_sub(u64::from(held.cost));
        }
    }

    /// Everything before `copied_seq` was read; a buffer is free when all of it is.
    pub fn release(&mut self, copied_seq: Seq) {
        while self.ready.front().is_some_and(|held| !held.end.after(copied_seq)) {
            if let Some(held) = self.ready.pop_front() {
                self.total = self.total.saturating_sub(u64::from(held.cost));
            }
        }
    }

    /// Bytes that were read before are the first to be read again.
    pub fn put_back(&mut self, start: Seq, length: u32) {
        self.ready.push_front(Held { start, end: start + length, cost: length, pages: false });
        self.total += u64::from(length);
    }

    /// Small segments are put together so that less is lost to overhead (`tcp_collapse`). Says how many are gone.
    pub fn collapse(&mut self) -> u64 {
        let (Some(first), Some(last)) = (self.ready.front().copied(), self.ready.back().copied()) else { return 0 };
        let length = last.end.distance_from(first.start);
        let cost = length.saturating_add((length / 4_096 + 1) * LEAST);
        let old: u64 = self.ready.iter().map(|held| u64::from(held.cost)).sum();
        if u64::from(cost) >= old {
            return 0;
        }
        let gone = self.ready.len().saturating_sub(1);
        self.ready.clear();
        self.ready.push_back(Held { start: first.start, end: last.end, cost, pages: false });
        self.total = self.total.saturating_sub(old) + u64::from(cost);
        u64::try_from(gone).unwrap_or(0)
    }

    /// Nothing is held any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_count_as_in_the_buffers_of_a_driver() {
        // Measured on Linux 6.18 over a TUN device: SK_MEMINFO_RMEM_ALLOC after one segment.
        for (length, counted) in [(1, 832), (216, 832), (217, 1_280), (664, 1_280), (1_000, 2_304), (1_460, 2_304)] {
            assert_eq!(truesize(length, false), counted, "{length}");
        }
        assert_eq!(truesize(30_000, true), 30_832);
    }

    #[test]
    fn a_buffer_is_free_when_all_of_it_was_read() {
        let mut charges = Charges::default();
        charges.add(Seq(1), Seq(1_001), truesize(1_000, false), false);
        charges.add_ahead(Seq(2_001), Seq(3_001), truesize(1_000, false), false);
        assert_eq!(charges.total(), 4_608);
        charges.release(Seq(1_000));
        assert_eq!(charges.total(), 4_608);
        charges.release(Seq(1_001));
        assert_eq!(charges.total(), 2_304);
        charges.add(Seq(1_001), Seq(2_001), truesize(1_000, false), false);
        charges.advance(Seq(3_001));
        charges.release(Seq(3_001));
        assert_eq!(charges.total(), 0);
    }

    #[test]
    fn super_segments_join_and_small_ones_are_put_together_when_memory_is_short() {
        let mut charges = Charges::default();
        charges.add(Seq(0), Seq(10_000), truesize(10_000, true), true);
        charges.add(Seq(10_000), Seq(20_000), truesize(10_000, true), true);
        assert_eq!(charges.total(), 20_832);
        charges.clear();
        for start in 0..100 {
            charges.add(Seq(start), Seq(start + 1), truesize(1, false), false);
        }
        assert_eq!(charges.total(), 83_200);
        assert_eq!(charges.collapse(), 99);
        assert_eq!(charges.total(), 932);
    }

    #[test]
    fn super_segments_join_up_to_what_one_buffer_holds_and_only_where_they_meet() {
        let mut charges = Charges::default();
        charges.add(Seq(0), Seq(40_000), truesize(40_000, true), true);
        // Up to 65,536 bytes join, and the second costs its data alone.
        charges.add(Seq(40_000), Seq(65_536), truesize(25_536, true), true);
        assert_eq!(charges.total(), 65_536 + 832);
        charges.add(Seq(65_536), Seq(65_537), truesize(1, true), true);
        assert_eq!(charges.total(), 65_537 + 2 * 832);
        // One that does not follow, or does not lie in pages, stays apart.
        charges.add(Seq(70_000), Seq(71_000), truesize(1_000, true), true);
        charges.add(Seq(71_000), Seq(71_010), truesize(10, false), false);
        assert_eq!(charges.total(), 65_537 + 2 * 832 + 1_832 + 832);
        charges.release(Seq(65_536));
        assert_eq!(charges.total(), 833 + 1_832 + 832);
        charges.release(Seq(71_010));
        assert_eq!(charges.total(), 0);
    }

    #[test]
    fn what_is_put_back_counts_again_and_what_is_dropped_does_not() {
        let mut charges = Charges::default();
        charges.add(Seq(100), Seq(200), 832, false);
        charges.put_back(Seq(50), 50);
        assert_eq!(charges.total(), 882);
        charges.release(Seq(99));
        assert_eq!(charges.total(), 882);
        charges.release(Seq(100));
        assert_eq!(charges.total(), 832);
        charges.add_ahead(Seq(300), Seq(310), 832, false);
        charges.add_ahead(Seq(250), Seq(260), 1_280, false);
        assert_eq!(charges.total(), 832 + 832 + 1_280);
        // The first one is in order now: only the other is ahead still.
        charges.advance(Seq(260));
        charges.drop_ahead();
        assert_eq!(charges.total(), 832 + 1_280);
        charges.release(Seq(260));
        assert_eq!(charges.total(), 0);
    }

    #[test]
    fn nothing_is_put_together_where_that_saves_nothing() {
        let mut charges = Charges::default();
        assert_eq!(charges.collapse(), 0);
        charges.add(Seq(0), Seq(4_000), 4_832, false);
        assert_eq!(charges.collapse(), 0);
        assert_eq!(charges.total(), 4_832);
        // Two pages of data need two buffers.
        charges.clear();
        for start in [0, 2_048, 4_096] {
            charges.add(Seq(start), Seq(start + 2_048), truesize(2_048, false), false);
        }
        assert_eq!(charges.total(), 3 * 4_352);
        assert_eq!(charges.collapse(), 2);
        assert_eq!(charges.total(), 6_144 + 2 * 832);
    }
}
