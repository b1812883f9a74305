//! Where the bytes of a send come from and where the bytes of a receive go: user memory, which may fault.

use alloc::vec::Vec;

/// The other side's memory cannot be read or written (EFAULT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Bytes to send. Implemented over user memory by the shim and over slices here.
pub trait Source {
    /// Bytes not yet taken.
    fn remaining(&self) -> usize;

    /// How many bytes the next `pieces` pieces of memory hold, a piece being what is contiguous within one page.
    fn bytes_in_pieces(&self, pieces: usize) -> usize {
        let _ = pieces;
        self.remaining()
    }

    /// Appends exactly `count` bytes (at most `remaining()`) to `target`.
    ///
    /// # Errors
    /// `Fault` when the memory is not readable; then nothing was taken and `target` is as before.
    fn append_to(&mut self, target: &mut Vec<u8>, count: usize) -> Result<(), Fault>;
}

/// Room for received bytes. Implemented over user memory by the shim and over `Vec<u8>` here.
pub trait Sink {
    /// Bytes of room left.
    fn room(&self) -> usize;

    /// Stores all of `bytes` (at most `room()`) and moves on.
    ///
    /// # Errors
    /// `Fault` when the memory is not writable; then the caller keeps the bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault>;
}

impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn append_to(&mut self, target: &mut Vec<u8>, count: usize) -> Result<(), Fault> {
        let (now, later) = self.split_at_checked(count).ok_or(Fault)?;
        target.extend_from_slice(now);
        *self = later;
        Ok(())
    }
}

/// A sink that collects into a vector, up to a limit.
#[derive(Debug, Default)]
pub struct Collect {
    /// What has arrived.
    pub bytes: Vec<u8>,
    limit: usize,
}

impl Collect {
    /// A sink with room for `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }
}

impl Sink for Collect {
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.len() > self.room() {
            return Err(Fault);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
