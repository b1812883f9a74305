//! Frames on their way out that wait for the family's lock to be given up: a copy of each as the device's descriptor takes
//! it. What a device does with a frame at once is `Device::transmit`.

use crate::sys::call;
use crate::sys::{Errno, Fd};
use std::io::IoSlice;

/// Frames at most.
const MOST: usize = 32;
/// The longest that is copied, with what the device puts before it: a segment on Ethernet. A larger one is worth sending
/// from where it lies.
const LONGEST: usize = 2_048;
/// Bytes of all.
const ROOM: usize = 32 * 1_024;

/// Frames that wait.
#[derive(Debug)]
pub struct Staged {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
}

/// What became of frames that were sent late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateFailure {
    /// How many did not leave.
    pub count: u64,
    /// Why, of the last.
    pub errno: Errno,
}

impl Staged {
    /// Takes its memory at once: it is filled where none may be asked for.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(ROOM), ends: Vec::with_capacity(MOST) }
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Takes a frame of several parts, unless it is long or there is no room.
    pub fn push(&mut self, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > LONGEST || self.bytes.len() + length > ROOM || self.ends.len() == MOST {
            return false;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push(self.bytes.len());
        true
    }

    /// Sends all, in their order, and is empty then.
    ///
    /// # Errors
    /// Says what did not leave.
    pub fn send(&mut self, fd: Fd) -> Result<(), LateFailure> {
        let mut failure: Option<LateFailure> = None;
        let mut start = 0;
        for end in &self.ends {
            let frame = IoSlice::new(self.bytes.get(start..*end).unwrap_or(&[]));
            start = *end;
            if let Err(errno) = call::send_message(fd, &[frame], None, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                let count = failure.map_or(0, |failure| failure.count) + 1;
                failure = Some(LateFailure { count, errno });
            }
        }
        self.bytes.clear();
        self.ends.clear();
        failure.map_or(Ok(()), Err)
    }
}

impl Default for Staged {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_their_order_and_long_ones_are_refused() {
        let (ours, theirs) = call::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM).expect("a pair");
        let mut staged = Staged::new();
        assert!(staged.push(&[b"ab", b"c"]));
        assert!(staged.push(&[b"d"]));
        assert!(!staged.push(&[&[0; LONGEST + 1]]));
        assert_eq!(staged.send(ours), Ok(()));
        assert!(staged.is_empty());
        let mut buffer = [0; 8];
        for wanted in [&b"abc"[..], b"d"] {
            let length = call::receive(theirs, &mut buffer, libc::MSG_DONTWAIT).expect("a frame");
            assert_eq!(&buffer[..length], wanted);
        }
        let _ = call::close(ours);
        let _ = call::close(theirs);
    }

    #[test]
    fn there_is_room_for_so_many_and_what_fails_is_counted() {
        let mut staged = Staged::new();
        assert!((0..MOST).all(|_| staged.push(&[&[0; 100]])));
        assert!(!staged.push(&[&[0; 100]]));
        let failure = LateFailure { count: MOST as u64, errno: Errno(libc::EBADF) };
        assert_eq!(staged.send(Fd::NONE), Err(failure));
        assert!(staged.is_empty());
        assert!((0..ROOM / LONGEST).all(|_| staged.push(&[&[0; LONGEST]])));
        assert!(!staged.push(&[&[0; 1]]));
    }
}
