//! The receive queue and the out-of-order queue (RFC 9293 §3.10.7.4 "segments with higher beginning sequence numbers
//! SHOULD be held"), and the SACK and D-SACK blocks that they give rise to (RFC 2018 §4, RFC 2883). Large payloads
//! keep the buffer they came in; small ones are copied together, so that memory stays in proportion to the data.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::header::{MOST_SACK_BLOCKS, SackBlock, SackBlocks};
use super::sequence::Seq;
use super::spares::{self, LARGE, SMALL, Spares};
use crate::io::{Fault, Sink};

/// Payloads from this size on keep their buffer, if they fill at least half of it.
const KEEP_FROM: usize = 4_096;
/// Small payloads are copied together up to this size.
const JOIN_UP_TO: usize = LARGE;

const fn capacity_for(length: usize) -> usize {
    if length <= SMALL { SMALL } else { LARGE }
}

/// Payload of a segment as it arrived: a part of the frame's buffer.
pub struct Payload<'a> {
    /// The frame's buffer; may be taken.
    pub buffer: &'a mut Vec<u8>,
    /// First byte.
    pub at: usize,
    /// After the last byte; at most the buffer's length.
    pub end: usize,
}

impl Payload<'_> {
    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.at..self.end).unwrap_or_default()
    }

    const fn skip(&mut self, count: usize) {
        let at = self.at.saturating_add(count);
        self.at = if at < self.end { at } else { self.end };
    }

    fn keep(&mut self, capacity: usize) -> (Vec<u8>, usize, usize) {
        let length = self.len();
        if length >= KEEP_FROM && length.saturating_mul(2) >= self.buffer.capacity() {
            (core::mem::take(self.buffer), self.at, self.end)
        } else {
            let mut bytes = Vec::with_capacity(capacity.max(length));
            bytes.extend_from_slice(self.bytes());
            (bytes, 0, length)
        }
    }
}

#[derive(Debug)]
struct Piece {
    seq: Seq,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Piece {
    fn len(&self) -> u32 {
        u32::try_from(self.end - self.start).unwrap_or(u32::MAX)
    }

    fn after(&self) -> Seq {
        self.seq + self.len()
    }

    fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn memory(&self) -> usize {
        self.bytes.capacity() + size_of::<Self>()
    }

    /// Appends a small payload if there is room; says whether it did.
    fn join(&mut self, payload: &Payload<'_>, may_grow: bool) -> bool {
        let length = payload.len();
        let fits = self.bytes.len() == self.end
            && (self.bytes.capacity() - self.bytes.len() >= length || (may_grow && self.end + length <= JOIN_UP_TO));
        if fits {
            self.bytes.extend_from_slice(payload.bytes());
            self.end += length;
        }
        fits
    }
}

/// What became of an out-of-order payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Kept.
    Queued,
    /// Kept, and some of what was there is covered by it.
    Merged,
    /// All of it was there before.
    Duplicate,
    /// No memory for it.
    Refused,
}

/// Received bytes: in order, waiting to be read, and ahead of a hole.
#[derive(Debug, Default)]
pub struct Reassembly {
    ready: VecDeque<Piece>,
    ready_bytes: usize,
    ahead: VecDeque<Piece>,
    ahead_bytes: usize,
    memory: usize,
    /// A buffer that was lent for the next payload, or one that was emptied.
    spare: Option<Vec<u8>>,
    /// Blocks ahead, the one that changed last first.
    blocks: [SackBlock; MOST_SACK_BLOCKS],
    block_count: usize,
    duplicate: Option<SackBlock>,
}

impl Reassembly {
    /// Bytes that can be read.
    #[must_use]
    pub const fn readable(&self) -> usize {
        self.ready_bytes
    }

    /// Bytes held, readable or ahead of a hole.
    #[cfg(test)]
    const fn held(&self) -> usize {
        self.ready_bytes + self.ahead_bytes
    }

    /// Memory taken.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// Whether something is ahead of a hole.
    #[must_use]
    pub fn has_hole(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Gets a buffer for a payload of this length that is about to be taken.
    pub fn borrow(&mut self, spares: &mut Spares, length: usize) {
        let joins = self.ready.back().is_some_and(|last| last.bytes.capacity() - last.bytes.len() >= length);
        if length < KEEP_FROM && !joins && self.spare.is_none() {
            self.spare = spares.take(capacity_for(length));
        }
    }

    /// Gives a buffer that is not needed now to all connections.
    pub fn give_back(&mut self, spares: &mut Spares) {
        if let Some(spare) = self.spare.take() {
            spares.give(spare);
        }
    }

    /// Takes the payload that begins at `rcv_nxt`.
    pub fn push_in_order(&mut self, seq: Seq, mut payload: Payload<'_>) {
        let length = payload.len();
        self.ready_bytes += length;
        if length < KEEP_FROM
            && let Some(last) = self.ready.back_mut()
            && last.join(&payload, false)
        {
            return;
        }
        let piece = if length < KEEP_FROM
            && let Some(mut bytes) = self.spare.take().filter(|spare| spare.capacity() >= capacity_for(length))
        {
            bytes.clear();
            bytes.extend_from_slice(payload.bytes());
            Piece { seq, bytes, start: 0, end: length }
        } else {
            let (bytes, start, end) = payload.keep(capacity_for(length));
            Piece { seq, bytes, start, end }
        };
        self.memory += piece.memory();
        spares::enqueue(&mut self.ready, piece);
    }

    /// Takes bytes that were read before, as the first to be read; `seq` is the sequence number of the first.
    pub fn put_back(&mut self, seq: Seq, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let piece = Piece { seq, bytes: bytes.to_vec(), start: 0, end: bytes.len() };
        self.ready_bytes += bytes.len();
        self.memory += piece.memory();
        self.ready.push_front(piece);
    }

    /// Moves what has become contiguous with `rcv_nxt` to the receive queue; returns the new `rcv_nxt`.
    pub fn advance(&mut self, mut rcv_nxt: Seq) -> Seq {
        while self.ahead.front().is_some_and(|first| !first.seq.after(rcv_nxt)) {
            let Some(mut piece) = self.ahead.pop_front() else { break };
            self.ahead_bytes -= piece.len() as usize;
            let known = rcv_nxt.distance_from(piece.seq);
            if known >= piece.len() {
                self.note_duplicate(piece.seq, piece.after());
                self.memory = self.memory.saturating_sub(piece.memory());
                continue;
            }
            if known > 0 {
                self.note_duplicate(piece.seq, rcv_nxt);
                piece.start += known as usize;
                piece.seq = rcv_nxt;
            }
            rcv_nxt = piece.after();
            self.ready_bytes += piece.len() as usize;
            self.ready.push_back(piece);
        }
        // `tcp_sack_remove`: blocks that are in order now are no longer told.
        let mut kept = 0;
        for at in 0..self.block_count {
            if let Some(block) = self.blocks.get(at).copied()
                && block.start.after(rcv_nxt)
            {
                if let Some(place) = self.blocks.get_mut(kept) {
                    *place = block;
                }
                kept += 1;
            }
        }
        self.block_count = kept;
        rcv_nxt
    }

    /// Takes a payload ahead of a hole (`tcp_data_queue_ofo`), and the FIN behind it if `fin`; `limit` bounds the memory.
    pub fn push_ahead(&mut self, mut seq: Seq, mut payload: Payload<'_>, fin: bool, limit: usize) -> Ahead {
        let mut end = seq + u32::try_from(payload.len()).unwrap_or(0);
        let told_end = end + u32::from(fin);
        if self.memory.saturating_add(payload.len()) > limit {
            return Ahead::Refused;
        }
        let mut index = self.ahead.partition_point(|piece| !piece.seq.after(seq));
        if let Some(before) = index.checked_sub(1).and_then(|index| self.ahead.get(index)) {
            let before_end = before.after();
            if !end.after(before_end) {
                self.note_duplicate(seq, end);
                return Ahead::Duplicate;
            }
            if seq.before(before_end) {
                self.note_duplicate(seq, before_end);
                payload.skip(before_end.distance_from(seq) as usize);
                seq = before_end;
            }
        }
        let mut result = Ahead::Queued;
        while let Some(next) = self.ahead.get(index) {
            if !next.seq.before(end) {
                break;
            }
            let (next_seq, next_end) = (next.seq, next.after());
            if next_end.after(end) {
                self.note_duplicate(next_seq, end);
                payload.end -= (end.distance_from(next_seq) as usize).min(payload.len());
                end = next_seq;
                break;
            }
            self.note_duplicate(next_seq, next_end);
            if let Some(covered) = self.ahead.remove(index) {
                self.ahead_bytes -= covered.len() as usize;
                self.memory = self.memory.saturating_sub(covered.memory());
            }
            result = Ahead::Merged;
        }
        self.note_block(seq, if fin { told_end } else { end });
        if payload.len() == 0 {
            return result;
        }
        self.ahead_bytes += payload.len();
        if payload.len() < KEEP_FROM
            && let Some(before) = index.checked_sub(1).and_then(|index| self.ahead.get_mut(index))
            && before.after() == seq
        {
            let old = before.memory();
            if before.join(&payload, true) {
                self.memory = self.memory - old + before.memory();
                return result;
            }
        }
        index = index.min(self.ahead.len());
        let (bytes, start, end) = payload.keep(0);
        let piece = Piece { seq, bytes, start, end };
        self.memory += piece.memory();
        self.ahead.insert(index, piece);
        result
    }

    /// Throws away what is ahead of a hole: the stream has ended or memory is short. SACK is only a promise to try
    /// (RFC 2018 §8).
    pub fn drop_ahead(&mut self) {
        for piece in self.ahead.drain(..) {
            self.memory = self.memory.saturating_sub(piece.memory());
        }
        self.ahead_bytes = 0;
        self.block_count = 0;
    }

    /// Notes bytes that came twice, to be told in the next ACK.
    //= RFC 2883 §4
    pub const fn note_duplicate(&mut self, start: Seq, end: Seq) {
        self.duplicate = Some(SackBlock { start, end });
    }

    /// D-SACK is not to be told.
    pub const fn forget_duplicate(&mut self) {
        self.duplicate = None;
    }

    /// `tcp_sack_new_ofo_skb`: the block with the newest bytes comes first.
    //= RFC 2018 §4
    fn note_block(&mut self, start: Seq, end: Seq) {
        let mut newest = SackBlock { start, end };
        let mut others: [SackBlock; MOST_SACK_BLOCKS] = Default::default();
        let mut count = 0;
        for block in self.blocks.iter().take(self.block_count) {
            if !block.start.after(newest.end) && !block.end.before(newest.start) {
                newest.start = newest.start.earlier(block.start);
                newest.end = newest.end.later(block.end);
            } else if let Some(place) = others.get_mut(count) {
                *place = *block;
                count += 1;
            }
        }
        let all = core::iter::once(newest).chain(others.into_iter().take(count));
        self.block_count = (count + 1).min(MOST_SACK_BLOCKS);
        for (place, block) in self.blocks.iter_mut().zip(all) {
            *place = block;
        }
    }

    /// Blocks for the next ACK, the duplicate first; `room` is how many fit. The duplicate is told once.
    pub fn take_blocks(&mut self, room: usize, with_duplicate: bool) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some(duplicate) = self.duplicate.take().filter(|_| with_duplicate) {
            blocks.push(duplicate);
        }
        for block in self.blocks.iter().take(self.block_count) {
            if blocks.len() < room {
                blocks.push(*block);
            }
        }
        blocks
    }

    /// Blocks that the next ACK would tell.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.block_count + usize::from(self.duplicate.is_some())
    }

    /// Right edge of the highest block, for the check of RFC 5961 §3.2 on resets.
    #[must_use]
    pub fn highest(&self) -> Option<Seq> {
        self.blocks.iter().take(self.block_count).map(|block| block.end).reduce(Seq::later)
    }

    /// Hands readable bytes to `sink`, or throws them away, or only shows them.
    ///
    /// # Errors
    /// `Fault` when not even the first could be stored; those not stored stay.
    pub fn read(&mut self, mut sink: Option<&mut dyn Sink>, most: usize, peek: bool) -> Result<usize, Fault> {
        let mut total = 0;
        let mut index = 0;
        while total < most {
            let Some(piece) = self.ready.get_mut(index) else { break };
            let length = (most - total).min(piece.end - piece.start);
            if let Some(sink) = sink.as_deref_mut()
                && sink.put(piece.data().get(..length).unwrap_or_default()).is_err()
            {
                return if total == 0 { Err(Fault) } else { Ok(total) };
            }
            total += length;
            if peek {
                index += 1;
                continue;
            }
            piece.start += length;
            piece.seq += u32::try_from(length).unwrap_or(0);
            self.ready_bytes -= length;
            if piece.start == piece.end
                && let Some(piece) = self.ready.pop_front()
            {
                self.memory = self.memory.saturating_sub(piece.memory());
                if piece.bytes.capacity() <= JOIN_UP_TO && self.ready.is_empty() {
                    self.spare = Some(piece.bytes);
                }
            }
        }
        Ok(total)
    }

    /// Throws the first `count` readable bytes away.
    pub fn drop_front(&mut self, count: usize) {
        // Nothing is stored, so nothing can fail.
        let _ = self.read(None, count, false);
    }

    /// Shows readable bytes from `skip` on.
    ///
    /// # Errors
    /// `Fault` when not even the first could be stored.
    pub fn show(&self, mut skip: usize, mut sink: Option<&mut dyn Sink>, most: usize) -> Result<usize, Fault> {
        let mut total = 0;
        for piece in &self.ready {
            let data = piece.data();
            let Some(rest) = data.get(skip..) else {
                skip -= data.len();
                continue;
            };
            skip = 0;
            let part = rest.get(..most - total).unwrap_or(rest);
            if let Some(sink) = sink.as_deref_mut()
                && sink.put(part).is_err()
            {
                return if total == 0 { Err(Fault) } else { Ok(total) };
            }
            total += part.len();
            if total == most {
                break;
            }
        }
        Ok(total)
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Collect;

    fn push(queue: &mut Reassembly, seq: u32, bytes: &[u8]) -> Ahead {
        let mut buffer = bytes.to_vec();
        let end = buffer.len();
        queue.push_ahead(Seq(seq), Payload { buffer: &mut buffer, at: 0, end }, false, 1 << 20)
    }

    fn first(queue: &mut Reassembly, seq: u32, bytes: &[u8]) -> Seq {
        let mut buffer = bytes.to_vec();
        let end = buffer.len();
        queue.push_in_order(Seq(seq), Payload { buffer: &mut buffer, at: 0, end });
        queue.advance(Seq(seq) + bytes.len() as u32)
    }

    #[test]
    fn what_is_put_back_is_read_first() {
        let mut queue = Reassembly::default();
        first(&mut queue, 10, b"cd");
        queue.put_back(Seq(8), b"ab");
        queue.put_back(Seq(8), b"");
        assert_eq!((queue.readable(), queue.held()), (4, 4));
        assert_eq!(all(&mut queue), b"abcd");
        assert_eq!(queue.memory(), 0);
    }

    fn all(queue: &mut Reassembly) -> Vec<u8> {
        let mut sink = Collect::new(1_000_000);
        queue.read(Some(&mut sink), 1_000_000, false).expect("room");
        sink.bytes
    }

    #[test]
    fn holes_are_closed_whatever_the_order_and_overlap() {
        let mut queue = Reassembly::default();
        assert_eq!(push(&mut queue, 4, b"ef"), Ahead::Queued);
        assert_eq!(push(&mut queue, 8, b"ij"), Ahead::Queued);
        assert_eq!(push(&mut queue, 5, b"fgh"), Ahead::Queued);
        assert_eq!(push(&mut queue, 3, b"defgh"), Ahead::Merged);
        assert_eq!(push(&mut queue, 4, b"ef"), Ahead::Duplicate);
        assert_eq!(first(&mut queue, 0, b"abc"), Seq(10));
        assert_eq!(all(&mut queue), b"abcdefghij");
        assert_eq!(queue.held(), 0);
    }

    #[test]
    fn newest_block_is_told_first_and_touching_ones_join() {
        let mut queue = Reassembly::default();
        push(&mut queue, 10, b"aa");
        push(&mut queue, 20, b"bb");
        push(&mut queue, 12, b"cc");
        let blocks = queue.take_blocks(4, true);
        assert_eq!(
            blocks.as_slice(),
            &[SackBlock { start: Seq(10), end: Seq(14) }, SackBlock { start: Seq(20), end: Seq(22) }]
        );
    }

    #[test]
    fn a_duplicate_is_told_once() {
        let mut queue = Reassembly::default();
        push(&mut queue, 10, b"aaaa");
        push(&mut queue, 11, b"aa");
        assert_eq!(queue.take_blocks(4, true).as_slice()[0], SackBlock { start: Seq(11), end: Seq(13) });
        assert_eq!(queue.take_blocks(4, true).len(), 1);
    }

    #[test]
    fn memory_ahead_is_bounded() {
        let mut queue = Reassembly::default();
        let mut refused = 0;
        for n in 0..10_000 {
            let mut buffer = b"x".to_vec();
            let payload = Payload { buffer: &mut buffer, at: 0, end: 1 };
            if queue.push_ahead(Seq(n * 2), payload, false, 10_000) == Ahead::Refused {
                refused += 1;
            }
        }
        assert!(refused > 9_000);
        assert!(queue.memory() < 11_000);
    }

    #[test]
    fn peek_leaves_the_bytes() {
        let mut queue = Reassembly::default();
        first(&mut queue, 0, b"abc");
        let mut sink = Collect::new(2);
        assert_eq!(queue.read(Some(&mut sink), 2, true), Ok(2));
        assert_eq!(all(&mut queue), b"abc");
    }

    /// What must hold after every call, told by the pieces themselves.
    fn assert_sound(queue: &Reassembly) {
        let memory: usize = queue.ready.iter().chain(&queue.ahead).map(Piece::memory).sum();
        assert_eq!(queue.memory(), memory);
        assert_eq!(queue.readable(), queue.ready.iter().map(|piece| piece.data().len()).sum::<usize>());
        assert_eq!(queue.held() - queue.readable(), queue.ahead.iter().map(|piece| piece.data().len()).sum::<usize>());
        let in_order = |pieces: &VecDeque<Piece>| {
            pieces.iter().zip(pieces.iter().skip(1)).all(|(one, next)| !one.after().after(next.seq))
        };
        assert!(in_order(&queue.ready) && in_order(&queue.ahead));
    }

    fn byte_at(at: u32) -> u8 {
        u8::try_from(at % 251).expect("less than 256")
    }

    /// Segments of any place and length against a plain map of which bytes have come: what is read, what is told as a block
    /// and as a duplicate, and what is counted.
    #[test]
    fn any_order_of_segments_gives_the_stream_and_the_blocks_of_what_has_come() {
        for seed in 0..60_u64 {
            let mut state = seed;
            let mut below = |limit: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u32::try_from((state >> 33) % limit).expect("small")
            };
            let large = seed % 4 == 0;
            let (span, longest): (u32, u64) = if large { (60_000, 9_000) } else { (400, 40) };
            let mut queue = Reassembly::default();
            let mut spares = Spares::default();
            let mut came = alloc::vec![false; span as usize];
            let (mut next, mut taken) = (0_u32, 0_u32);
            for _ in 0..300 {
                let start = next + below(longest * 2);
                let length = (1 + below(longest)).min(span.saturating_sub(start));
                if length == 0 {
                    break;
                }
                let end = start + length;
                let mut bytes: Vec<u8> = (start..end).map(byte_at).collect();
                let payload = Payload { buffer: &mut bytes, at: 0, end: length as usize };
                let all_known = (start..end).all(|at| came[at as usize]);
                let blocks = |came: &[bool], next: u32| {
                    let mut blocks = Vec::new();
                    let mut at = next;
                    while at < span {
                        if came[at as usize] {
                            let from = at;
                            while at < span && came[at as usize] {
                                at += 1;
                            }
                            blocks.push((from, at));
                        } else {
                            at += 1;
                        }
                    }
                    blocks
                };
                if start == next {
                    queue.borrow(&mut spares, payload.len());
                    queue.push_in_order(Seq(start), payload);
                    came[start as usize..end as usize].fill(true);
                    next = queue.advance(Seq(end)).0;
                } else {
                    let some_known = (start..end).any(|at| came[at as usize]);
                    let verdict = queue.push_ahead(Seq(start), payload, false, 1 << 24);
                    assert!(verdict != Ahead::Duplicate || all_known, "seed {seed}");
                    assert!(verdict != Ahead::Refused);
                    assert!(verdict != Ahead::Merged || some_known, "seed {seed}");
                    came[start as usize..end as usize].fill(true);
                }
                let until = (0..span).find(|at| !came[*at as usize]).unwrap_or(span);
                assert_eq!(next, until, "seed {seed}");
                assert_sound(&queue);
                let expected = blocks(&came, next);
                assert_eq!(queue.has_hole(), !expected.is_empty());
                let told = queue.take_blocks(4, false);
                for block in told.as_slice() {
                    // A block that was forgotten, because only four are kept, is not joined to its neighbour.
                    let inside = expected.iter().any(|(from, to)| *from <= block.start.0 && block.end.0 <= *to);
                    assert!(inside, "seed {seed}: {block:?} of {expected:?}");
                }
                // The newest is told first, and as many as there are, up to four.
                if start > next {
                    let first = told.as_slice().first().expect("the newest");
                    assert!(all_known || (first.start.0 < end && start < first.end.0), "seed {seed}");
                }
                if below(3) == 0 {
                    let most = below(longest * 3) as usize;
                    let mut sink = Collect::new(most);
                    let peeked = queue.show(0, Some(&mut sink), most).expect("room");
                    let mut second = Collect::new(most);
                    let count = queue.read(Some(&mut second), most, false).expect("room");
                    assert_eq!((count, &sink.bytes), (peeked, &second.bytes));
                    assert_eq!(count, most.min((next - taken) as usize), "seed {seed}");
                    assert!(second.bytes.iter().zip(taken..).all(|(byte, at)| *byte == byte_at(at)), "seed {seed}");
                    taken += u32::try_from(count).expect("small");
                    assert_sound(&queue);
                }
            }
            queue.drop_ahead();
            assert!(!queue.has_hole() && queue.take_blocks(4, false).is_empty());
            assert_sound(&queue);
            queue.drop_front(usize::MAX);
            assert_eq!((queue.readable(), queue.memory()), (0, 0), "seed {seed}");
        }
    }

    #[test]
    fn the_limit_of_memory_is_kept_to_the_byte() {
        let mut queue = Reassembly::default();
        let mut buffer = alloc::vec![0; 100];
        let payload = Payload { buffer: &mut buffer, at: 0, end: 100 };
        assert_eq!(queue.push_ahead(Seq(10), payload, false, 99), Ahead::Refused);
        assert_eq!(queue.memory(), 0);
        let payload = Payload { buffer: &mut buffer, at: 0, end: 100 };
        assert_eq!(queue.push_ahead(Seq(10), payload, false, 100), Ahead::Queued);
    }
}
