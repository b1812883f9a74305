//! The program behind a call that was handed over: its memory and its descriptors.

use std::os::unix::fs::MetadataExt;

use remora_host::sys::{Errno, Fd, call};
use smallvec::SmallVec;

/// Room for a socket's name (struct sockaddr_storage).
pub(super) const NAME_ROOM: usize = 128;

/// PIDFD_THREAD (Linux 6.9): any thread names its process.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

const FAULT: Errno = Errno(libc::EFAULT);

/// A socket's name, as the bytes of a sockaddr.
pub(super) type Name = SmallVec<[u8; NAME_ROOM]>;

/// Who calls, and with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) id: u64,
    pub(super) thread: i32,
    pub(super) words: [u64; 6],
}

impl Caller {
    /// The first argument.
    pub(super) const fn descriptor(&self) -> i32 {
        let [first, ..] = self.words;
        first as i32
    }

    /// What stands under that number.
    pub(super) fn inode(&self) -> Option<u64> {
        let path = format!("/proc/{}/fd/{}", self.thread, self.descriptor());
        std::fs::metadata(path).ok().map(|found| found.ino())
    }

    /// Its flags (O_NONBLOCK, O_CLOEXEC).
    pub(super) fn flags(&self) -> i32 {
        let path = format!("/proc/{}/fdinfo/{}", self.thread, self.descriptor());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0)
    }

    /// A copy of the descriptor.
    pub(super) fn copy(&self) -> Result<Fd, Errno> {
        let opened = call::pidfd_open(self.thread, 0).or_else(|_| call::pidfd_open(self.thread, PIDFD_THREAD));
        let process = opened.or_else(|errno| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.thread)).map_err(|_| errno)?;
            let leader = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
            call::pidfd_open(leader.ok_or(errno)?, 0)
        })?;
        let copy = call::pidfd_getfd(process, Fd(self.descriptor()));
        let _ = call::close(process);
        copy
    }

    /// Copies from the program's memory, exactly.
    pub(super) fn fetch(&self, address: u64, target: &mut [u8]) -> Result<(), Errno> {
        if target.is_empty() {
            return Ok(());
        }
        let copied = call::read_process_memory(self.thread, address as usize, target);
        if copied.is_ok_and(|count| count == target.len()) { Ok(()) } else { Err(FAULT) }
    }

    /// Copies to the program's memory, exactly.
    pub(super) fn store(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        let copied = call::write_process_memory(self.thread, address as usize, bytes);
        if copied.is_ok_and(|count| count == bytes.len()) { Ok(()) } else { Err(FAULT) }
    }

    /// A 32-bit word of it.
    pub(super) fn word(&self, address: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.fetch(address, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// A name that the program gives (`move_addr_to_kernel`).
    pub(super) fn name(&self, address: u64, length: u64) -> Result<Name, Errno> {
        let length = length as u32 as usize;
        if length > NAME_ROOM {
            return Err(Errno(libc::EINVAL));
        }
        let mut name = Name::from_elem(0, length);
        self.fetch(address, &mut name)?;
        Ok(name)
    }

    /// Stores a name as the kernel does (`move_addr_to_user`): as much as there is room for, and its whole length.
    pub(super) fn store_name(&self, address: u64, length: u64, name: &[u8]) -> Result<(), Errno> {
        let room = self.word(length)?;
        if (room as i32) < 0 {
            return Err(Errno(libc::EINVAL));
        }
        self.store(address, name.get(..room as usize).unwrap_or(name))?;
        self.store(length, &(name.len() as u32).to_ne_bytes())
    }
}
