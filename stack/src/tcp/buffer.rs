//! The send buffer, which is the retransmission queue too (RFC 9293 §3.8.1): bytes from the first unacknowledged one
//! to the last written, in chunks that are gathered as slices and freed as they are acknowledged. Which of them were
//! sent, and how often, is in `sack.rs`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::spares::{self, SMALL, Spares};
use crate::frame::MAX_PAYLOAD_SLICES;
use crate::io::{Fault, Source};

/// Capacity of the first chunk; the next ones double.
const LEAST_CHUNK: usize = SMALL;
/// Largest chunk: one super-segment.
const MOST_CHUNK: usize = 65_536;

#[derive(Debug)]
struct Chunk {
    /// Place of its first byte, counted from the start of the connection.
    offset: u64,
    bytes: Vec<u8>,
}

/// Bytes written and not yet acknowledged.
#[derive(Debug, Default)]
pub struct SendBuffer {
    chunks: VecDeque<Chunk>,
    /// Place of the first byte that is not acknowledged.
    start: u64,
    /// Place after the last byte written.
    end: u64,
    /// A buffer that was lent for the next chunk, or one that was emptied.
    spare: Option<Vec<u8>>,
}

impl SendBuffer {
    /// Bytes held.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// Memory taken, for the limits: what the chunks hold, acknowledged part of the first included.
    #[must_use]
    pub fn memory(&self) -> usize {
        let first = self.chunks.front().map_or(self.end, |chunk| chunk.offset);
        usize::try_from(self.end - first).unwrap_or(usize::MAX)
    }

    /// Gets a buffer for the first chunk, if there will be one.
    pub fn borrow(&mut self, spares: &mut Spares) {
        if self.chunks.is_empty() && self.spare.is_none() {
            self.spare = spares.take(LEAST_CHUNK);
        }
    }

    /// Gives a buffer that is not needed now to all connections.
    pub fn give_back(&mut self, spares: &mut Spares) {
        if let Some(spare) = self.spare.take() {
            spares.give(spare);
        }
    }

    /// Takes `count` bytes from `source`, as many as could be read.
    ///
    /// # Errors
    /// `Fault` when not even the first could be taken.
    pub fn append(&mut self, source: &mut dyn Source, count: usize) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < count {
            let room = self.chunks.back().map_or(0, |chunk| chunk.bytes.capacity() - chunk.bytes.len());
            if room == 0 {
                let grown = self.chunks.back().map_or(0, |chunk| chunk.bytes.capacity().saturating_mul(2));
                let capacity = (count - taken).max(grown).clamp(LEAST_CHUNK, MOST_CHUNK);
                let lent = self.spare.take().filter(|spare| spare.capacity() >= capacity);
                let bytes = lent.unwrap_or_else(|| Vec::with_capacity(capacity));
                spares::enqueue(&mut self.chunks, Chunk { offset: self.end, bytes });
                continue;
            }
            let part = room.min(count - taken);
            let Some(last) = self.chunks.back_mut() else { break };
            if source.append_to(&mut last.bytes, part).is_err() {
                if last.bytes.is_empty() {
                    self.chunks.pop_back();
                }
                return if taken == 0 { Err(Fault) } else { Ok(taken) };
            }
            self.end += part as u64;
            taken += part;
        }
        Ok(taken)
    }

    /// Frees the first `count` bytes: they were acknowledged.
    pub fn acknowledge(&mut self, count: usize) {
        self.start = self.end.min(self.start + count as u64);
        while let Some(first) = self.chunks.front() {
            if first.offset + first.bytes.len() as u64 > self.start {
                break;
            }
            let emptied = self.chunks.pop_front();
            self.spare =
                emptied.map(|chunk| chunk.bytes).filter(|bytes| bytes.capacity() == LEAST_CHUNK).or(self.spare.take());
        }
    }

    /// The slices of `length` bytes from `from` on (counted from the first unacknowledged byte), and how many bytes
    /// they hold: fewer when there are not so many, or when they lie in too many chunks.
    #[must_use]
    pub fn gather(&self, from: usize, length: usize) -> ([&[u8]; MAX_PAYLOAD_SLICES], usize) {
        let mut slices: [&[u8]; MAX_PAYLOAD_SLICES] = [&[]; MAX_PAYLOAD_SLICES];
        let place = self.start + from as u64;
        let first = self.chunks.partition_point(|chunk| chunk.offset <= place).saturating_sub(1);
        let mut skip = self
            .chunks
            .get(first)
            .map_or(0, |chunk| usize::try_from(place.saturating_sub(chunk.offset)).unwrap_or(usize::MAX));
        let mut total = 0;
        for (slot, chunk) in slices.iter_mut().zip(self.chunks.range(first.min(self.chunks.len())..)) {
            let Some(rest) = chunk.bytes.get(skip..) else { break };
            skip = 0;
            let part = rest.len().min(length - total);
            *slot = rest.get(..part).unwrap_or_default();
            total += part;
            if total == length {
                break;
            }
        }
        (slices, total)
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(buffer: &SendBuffer, from: usize, length: usize) -> Vec<u8> {
        let (slices, total) = buffer.gather(from, length);
        let all = slices.concat();
        assert_eq!(all.len(), total);
        all
    }

    #[test]
    fn bytes_come_back_in_order_and_are_freed_when_acknowledged() {
        let data: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut buffer = SendBuffer::default();
        for piece in data.chunks(777) {
            let mut source = piece;
            assert_eq!(buffer.append(&mut source, piece.len()), Ok(piece.len()));
        }
        assert_eq!(buffer.len(), data.len());
        assert_eq!(whole(&buffer, 0, 1_000), &data[..1_000]);
        assert_eq!(whole(&buffer, 12_345, 9_000), &data[12_345..21_345]);
        buffer.acknowledge(50_001);
        assert_eq!(whole(&buffer, 0, 10), &data[50_001..50_011]);
        assert!(buffer.memory() < 120_000);
        buffer.acknowledge(49_999);
        assert_eq!(buffer.len(), 0);
        assert_eq!(buffer.gather(0, 10).1, 0);
    }

    #[test]
    fn small_writes_share_a_chunk() {
        let mut buffer = SendBuffer::default();
        for _ in 0..2_000 {
            let mut one: &[u8] = b"x";
            assert_eq!(buffer.append(&mut one, 1), Ok(1));
        }
        assert_eq!(buffer.chunks.len(), 1);
    }
}
