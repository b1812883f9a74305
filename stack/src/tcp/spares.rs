//! Emptied buffers of all connections, for their next bytes. What a connection has used it gives back, so that an idle
//! one holds none, and what is used next is still in the processor's cache.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Capacity of buffers for short payloads and for the first bytes of a write.
pub const SMALL: usize = 2_048;
/// Capacity of buffers that longer payloads are copied into together.
pub const LARGE: usize = 16_384;
/// What a burst of small segments over many connections takes; more are freed.
const MOST_SMALL: usize = 256;
const MOST_LARGE: usize = 32;

/// The buffers, by capacity.
#[derive(Debug, Default)]
pub struct Spares {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Spares {
    /// An empty buffer of this capacity, if one is there.
    pub fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        match capacity {
            SMALL => self.small.pop(),
            LARGE => self.large.pop(),
            _ => None,
        }
    }

    /// Keeps a buffer for later, or frees it.
    pub fn give(&mut self, mut buffer: Vec<u8>) {
        let (place, most) = match buffer.capacity() {
            SMALL => (&mut self.small, MOST_SMALL),
            LARGE => (&mut self.large, MOST_LARGE),
            _ => return,
        };
        if place.len() < most {
            buffer.clear();
            place.push(buffer);
        }
    }
}

/// Appends to a queue of a connection. Most connections have one segment under way, one piece to read or one buffer at a
/// time, and keep the queue's memory while they are idle: its first room is for one, where VecDeque's own is for four.
pub fn enqueue<T>(queue: &mut VecDeque<T>, entry: T) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
    queue.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_never_held_two_has_room_for_one() {
        let mut queue = VecDeque::new();
        for turn in 0..3 {
            enqueue(&mut queue, turn);
            assert_eq!(queue.pop_front(), Some(turn));
        }
        assert_eq!(queue.capacity(), 1);
        enqueue(&mut queue, 3);
        enqueue(&mut queue, 4);
        assert_eq!(queue, [3, 4]);
    }

    #[test]
    fn buffers_come_back_empty_and_by_their_capacity() {
        let mut spares = Spares::default();
        assert_eq!(spares.take(SMALL), None);
        let mut used = Vec::with_capacity(SMALL);
        used.push(1);
        spares.give(used);
        spares.give(Vec::with_capacity(100));
        assert_eq!(spares.take(LARGE), None);
        assert_eq!(spares.take(SMALL).map(|buffer| (buffer.len(), buffer.capacity())), Some((0, SMALL)));
        for _ in 0..2 * MOST_LARGE {
            spares.give(Vec::with_capacity(LARGE));
        }
        assert_eq!(spares.large.len(), MOST_LARGE);
    }
}
