//! SACK blocks of an ACK (RFC 2018, `tcp_sacktag_write_queue`): which of them can be believed, and D-SACK (RFC 2883), which
//! tells of segments that arrived twice. What they do to the scoreboard is in `sack.rs`.

use super::header::SackBlock;
use super::phase::Phase;
use super::sack::Delivery;
use super::sequence::Seq;
use super::sock::Sock;
use crate::counters::Counters;
use crate::socket::protocol::Net;

impl Sock {
    /// Takes over the SACK blocks of an ACK for `ack`; `prior_una` is what `snd_una` was before it.
    pub(super) fn take_reports(
        &mut self,
        net: &mut Net<'_>,
        blocks: &[SackBlock],
        ack: Seq,
        prior_una: Seq,
        delivery: &mut Delivery,
    ) {
        let duplicate = self.check_duplicate(net.counters, blocks, ack, prior_una, delivery);
        // An ACK from long ago says nothing any more.
        if ack.before(prior_una - self.max_window) || self.board.packets_out == 0 {
            return;
        }
        let mut believed: [Option<(SackBlock, bool)>; 4] = [None; 4];
        for (place, block) in believed.iter_mut().zip(blocks) {
            let duplicate = duplicate && blocks.first() == Some(block);
            if !self.is_valid(block, duplicate) {
                self.count_discarded(net.counters, block, duplicate, ack);
            } else if block.end.after(prior_una) {
                *place = Some((*block, duplicate));
            }
        }
        // From low to high, so that a lower one does not look late because of a higher one in the same ACK.
        believed.sort_unstable_by_key(|entry| entry.map(|(block, _)| block.start.offset_from(prior_una)));
        for (block, duplicate) in believed.into_iter().flatten() {
            if duplicate {
                self.board.report_duplicate(block, delivery);
            } else {
                self.board.report(block, self.snd_una, self.high_seq, net.now, delivery);
            }
        }
        // After a timeout it is not known which copy arrived.
        if let Some(late) = delivery.late.take()
            && (self.phase != Phase::Loss || self.board.undo.marker.is_some())
            && self.note_reordering(late, net.settings.tcp_max_reordering)
        {
            net.counters.tcp_sack_reorder += 1;
        }
    }

    /// Whether the first block is a D-SACK that can be believed (`tcp_check_dsack`, `tcp_dsack_seen`).
    //= RFC 2883 §4
    fn check_duplicate(
        &mut self,
        counters: &mut Counters,
        blocks: &[SackBlock],
        ack: Seq,
        prior_una: Seq,
        delivery: &mut Delivery,
    ) -> bool {
        let Some(first) = blocks.first() else { return false };
        if first.start.before(ack) {
            counters.tcp_dsack_recv += 1;
        } else if blocks.get(1).is_some_and(|next| !first.end.after(next.end) && !first.start.before(next.start)) {
            counters.tcp_dsack_ofo_recv += 1;
        } else {
            return false;
        }
        let length = first.end.distance_from(first.start);
        let mss = u32::from(self.last_mss.max(1));
        if !first.start.before(first.end) || length > self.max_window {
            counters.tcp_dsack_ignored_dubious += 1;
            return false;
        }
        let segments = length.div_ceil(mss);
        let of_probe = length <= mss && self.tail_probe.is_some_and(|(end, _)| end == first.end);
        self.duplicates_reported = self.duplicates_reported.saturating_add(segments);
        // More than was ever repeated: the network duplicates, or the peer makes it up.
        if self.duplicates_reported > self.total_retransmits {
            counters.tcp_dsack_ignored_dubious += 1;
            return false;
        }
        // Without reordering no wider window would have helped, and a probe is no fault of RACK.
        let rack = &mut self.board.rack;
        rack.duplicate_seen |= rack.reordering_seen > 0 && !of_probe;
        delivery.duplicate = true;
        delivery.probe_duplicate |= of_probe;
        self.board.rate.delivered = self.board.rate.delivered.wrapping_add(segments);
        counters.tcp_dsack_recv_segs += u64::from(segments);
        if !first.end.after(prior_una) {
            self.board.undo.needless(first.end, segments);
        }
        true
    }

    /// `tcp_is_sackblock_valid`.
    fn is_valid(&self, block: &SackBlock, duplicate: bool) -> bool {
        if block.end.after(self.snd_nxt) || !block.start.before(block.end) || !block.start.before(self.snd_nxt) {
            return false;
        }
        if block.start.after(self.snd_una) {
            return true;
        }
        let Some(marker) = self.board.undo.marker.filter(|_| duplicate) else { return false };
        if block.end.after(self.snd_una) {
            return false;
        }
        if !block.start.before(marker) {
            return true;
        }
        block.end.after(marker) && !block.start.before(block.end - self.max_window)
    }

    fn count_discarded(&self, counters: &mut Counters, block: &SackBlock, duplicate: bool, ack: Seq) {
        if duplicate {
            if self.board.undo.marker.is_none() {
                counters.tcp_dsack_ignored_no_undo += 1;
            } else {
                counters.tcp_dsack_ignored_old += 1;
            }
        } else if ack == self.snd_una || block.end.after(self.snd_una) {
            // Old ones that an overtaken ACK brings are not worth counting.
            counters.tcp_sack_discard += 1;
        }
    }
}
