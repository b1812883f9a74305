//! Memory mappings.

use super::{Errno, Fd, invoke, word};
use std::ptr::NonNull;

fn map(address: usize, length: usize, flags: i32, fd: Fd) -> Result<NonNull<u8>, Errno> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let arguments = [address, length, word(protection), word(flags), word(fd.0), 0];
    // SAFETY: none of the callers passes MAP_FIXED, so no mapping that exists is changed.
    let result = unsafe { invoke(libc::SYS_mmap, arguments) }?;
    NonNull::new(result as *mut u8).ok_or(Errno(libc::ENOMEM))
}

/// Maps private zeroed memory; `flags` are added (MAP_NORESERVE, ...).
///
/// # Errors
/// As mmap(2).
pub fn map_private(length: usize, flags: i32) -> Result<NonNull<u8>, Errno> {
    map(0, length, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags) & !libc::MAP_FIXED, Fd::NONE)
}

/// Maps shared memory without reserving it: of `fd` from its start, or anonymous for `Fd::NONE`. `address` 0 lets the
/// kernel choose; any other is taken only when nothing lies there (EEXIST).
///
/// # Errors
/// As mmap(2).
pub fn map_shared(address: usize, length: usize, fd: Fd) -> Result<NonNull<u8>, Errno> {
    let mut flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    if !fd.is_some() {
        flags |= libc::MAP_ANONYMOUS;
    }
    if address != 0 {
        flags |= libc::MAP_FIXED_NOREPLACE;
    }
    let mapped = map(address, length, flags, fd)?;
    // Kernels before 4.17 take MAP_FIXED_NOREPLACE for a hint.
    if address != 0 && mapped.as_ptr() as usize != address {
        // SAFETY: mapped just above and known to nobody.
        let _ = unsafe { unmap(mapped.as_ptr() as usize, length) };
        return Err(Errno(libc::EEXIST));
    }
    Ok(mapped)
}

/// Removes all mappings in a range.
///
/// # Safety
/// Nothing in the range may be used any more.
///
/// # Errors
/// As munmap(2).
pub unsafe fn unmap(address: usize, length: usize) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the range.
    unsafe { invoke(libc::SYS_munmap, [address, length]) }.map(drop)
}

/// Advises the kernel about a range.
///
/// # Safety
/// Advice that discards contents (MADV_REMOVE, MADV_DONTNEED, MADV_WIPEONFORK) must be welcome in the whole range.
///
/// # Errors
/// As madvise(2).
pub unsafe fn advise(address: usize, length: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the range.
    unsafe { invoke(libc::SYS_madvise, [address, length, word(advice)]) }.map(drop)
}

/// Copies from another process's memory, or from our own where the address may be bad: EFAULT instead of a signal.
/// Returns the number of bytes copied, which is less than asked for when the readable part ends.
///
/// # Errors
/// EFAULT, EPERM, ESRCH, ENOSYS.
pub fn read_process_memory(pid: i32, address: usize, target: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: target.as_mut_ptr().cast(), iov_len: target.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: target.len() };
    let arguments = [word(pid), (&raw const local) as usize, 1, (&raw const remote) as usize, 1, 0];
    // SAFETY: the kernel writes into the exclusive slice only; the remote address is checked by the kernel.
    unsafe { invoke(libc::SYS_process_vm_readv, arguments) }
}

/// Copies to another process's memory. Returns the number of bytes copied, which is less than asked for when the
/// writable part ends.
///
/// # Errors
/// As [`read_process_memory`].
pub fn write_process_memory(pid: i32, address: usize, bytes: &[u8]) -> Result<usize, Errno> {
    if pid == super::getpid() {
        return Err(Errno(libc::EPERM));
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    let arguments = [word(pid), (&raw const local) as usize, 1, (&raw const remote) as usize, 1, 0];
    // SAFETY: the kernel reads the slice, and writes memory that is not this process's.
    unsafe { invoke(libc::SYS_process_vm_writev, arguments) }
}
