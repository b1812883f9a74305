//! Receiving several messages with one call (recvmmsg(2)). What the kernel is handed lies beside the buffers and not on
//! the stack, which a thread of the program may have little of.

use super::socket::message;
use super::{Errno, Fd, Received, invoke, receive_into, word};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set in a process whose seccomp filter forbids recvmmsg(2).
static ONE_AT_A_TIME: AtomicBool = AtomicBool::new(false);

/// This process is about to enter a filter that forbids recvmmsg(2): [`Batch::receive`] does without.
pub fn receive_one_at_a_time() {
    ONE_AT_A_TIME.store(true, Ordering::Relaxed);
}

/// A message of a [`Batch`]: its first bytes, the rest, its control data and what the kernel said.
#[derive(Debug)]
pub struct Slot<const PREFIX: usize, const CONTROL: usize> {
    /// The first bytes.
    pub prefix: [u8; PREFIX],
    /// The rest.
    pub buffer: Vec<u8>,
    /// Control data.
    pub control: [u8; CONTROL],
    /// What the kernel said.
    pub received: Received,
}

/// Messages that arrive together.
pub struct Batch<const PREFIX: usize, const CONTROL: usize> {
    slots: Vec<Slot<PREFIX, CONTROL>>,
    parts: Vec<[libc::iovec; 2]>,
    headers: Vec<libc::mmsghdr>,
    room: usize,
}

impl<const PREFIX: usize, const CONTROL: usize> fmt::Debug for Batch<PREFIX, CONTROL> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Batch").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl<const PREFIX: usize, const CONTROL: usize> Batch<PREFIX, CONTROL> {
    /// Room for `most` messages, each of `room` bytes after its prefix.
    #[must_use]
    pub fn new(most: usize, room: usize) -> Self {
        let slot = || Slot {
            prefix: [0; PREFIX],
            buffer: Vec::with_capacity(room),
            control: [0; CONTROL],
            received: Received::default(),
        };
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let header = message(std::ptr::null_mut(), 0, std::ptr::null_mut(), 0);
        Self {
            slots: std::iter::repeat_with(slot).take(most).collect(),
            parts: vec![[part; 2]; most],
            headers: vec![libc::mmsghdr { msg_hdr: header, msg_len: 0 }; most],
            room,
        }
    }

    /// A message that the last `receive` brought, or an older one.
    pub fn slot(&mut self, index: usize) -> Option<&mut Slot<PREFIX, CONTROL>> {
        self.slots.get_mut(index)
    }

    /// Receives at most `wanted` of the messages that wait; they have a prefix if `prefixed`. Returns how many there
    /// were, and whether no more waited.
    ///
    /// # Errors
    /// As recvmmsg(2), for the first message.
    pub fn receive(&mut self, fd: Fd, wanted: usize, prefixed: bool, flags: i32) -> Result<(usize, bool), Errno> {
        let prefix = if prefixed { PREFIX } else { 0 };
        let Self { slots, parts, headers, room } = self;
        if ONE_AT_A_TIME.load(Ordering::Relaxed) {
            let Some(Slot { prefix: first, buffer, control, received }) = slots.first_mut() else {
                return Ok((0, false));
            };
            *received = receive_into(fd, first.get_mut(..prefix).unwrap_or(&mut []), buffer, *room, control, flags)?;
            return Ok((1, false));
        }
        let mut count = 0;
        for ((slot, parts), header) in slots.iter_mut().zip(parts).zip(headers.iter_mut()).take(wanted) {
            slot.buffer.clear();
            slot.buffer.reserve(*room);
            *parts = [
                libc::iovec { iov_base: slot.prefix.as_mut_ptr().cast(), iov_len: prefix },
                libc::iovec { iov_base: slot.buffer.as_mut_ptr().cast(), iov_len: *room },
            ];
            header.msg_hdr = message(parts.as_mut_ptr(), parts.len(), slot.control.as_mut_ptr(), CONTROL);
            count += 1;
        }
        let arguments = [word(fd.0), headers.as_mut_ptr() as usize, count, word(flags), 0];
        // SAFETY: the first `count` headers were filled in above and name memory of `self`: each slot's arrays, and its
        // buffer with room for `room` bytes. The timeout is null.
        let filled = unsafe { invoke(libc::SYS_recvmmsg, arguments) }?;
        for (slot, header) in slots.iter_mut().zip(headers).take(filled) {
            let length = header.msg_len as usize;
            let stored = length.saturating_sub(prefix).min(*room);
            // SAFETY: the kernel has written `stored` bytes, and no more than `room` fit.
            unsafe { slot.buffer.set_len(stored) };
            slot.received =
                Received { length, control: header.msg_hdr.msg_controllen, flags: header.msg_hdr.msg_flags };
        }
        Ok((filled, filled < count))
    }
}
