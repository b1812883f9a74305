//! Descriptors and files: open, close, dup, fcntl, read, write, stat, memfd, eventfd.

use super::{Errno, Fd, invoke, word};
use std::ffi::CStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;

/// Closes a descriptor. After EINTR it is closed too, as always on Linux.
///
/// # Errors
/// EBADF when it was not open.
pub fn close(fd: Fd) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_close, [word(fd.0)]) }.map(drop)
}

/// Makes `target` another name of `fd`, closing what `target` was.
///
/// # Errors
/// As dup3(2); EINVAL when both are the same.
pub fn dup3(fd: Fd, target: Fd, flags: i32) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_dup3, [word(fd.0), word(target.0), word(flags)]) }.map(|number| Fd(number as i32))
}

/// fcntl with an integer argument (F_GETFD, F_SETFL, F_DUPFD_CLOEXEC, F_ADD_SEALS, ...).
///
/// # Errors
/// As fcntl(2); EINVAL for a command that takes a pointer.
pub fn fcntl(fd: Fd, command: i32, argument: i32) -> Result<i32, Errno> {
    let integer = matches!(
        command,
        libc::F_DUPFD
            | libc::F_DUPFD_CLOEXEC
            | libc::F_GETFD
            | libc::F_SETFD
            | libc::F_GETFL
            | libc::F_SETFL
            | libc::F_GETOWN
            | libc::F_SETOWN
            | libc::F_ADD_SEALS
            | libc::F_GET_SEALS
            | libc::F_GETPIPE_SZ
            | libc::F_SETPIPE_SZ
    );
    if !integer {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: the commands let through take an integer, no memory.
    unsafe { invoke(libc::SYS_fcntl, [word(fd.0), word(command), word(argument)]) }.map(|value| value as i32)
}

/// A copy of `fd` at the lowest free number from `floor` on, closed on exec.
///
/// # Errors
/// EMFILE or EINVAL when there is no number from `floor` on below the limit.
pub fn duplicate_from(fd: Fd, floor: i32) -> Result<Fd, Errno> {
    fcntl(fd, libc::F_DUPFD_CLOEXEC, floor).map(Fd)
}

/// Whether the descriptor is open in this process.
#[must_use]
pub fn is_open(fd: Fd) -> bool {
    fd.is_some() && fcntl(fd, libc::F_GETFD, 0).is_ok()
}

/// Where private descriptors go: out of the way of programs that count on low numbers and of those that close a few.
#[must_use]
pub fn private_floor() -> i32 {
    /// Above this, a large limit would make the kernel grow the descriptor table for nothing.
    const CEILING: u64 = 16_384;
    /// Numbers kept below the limit for descriptors of ours.
    const ROOM: u64 = 256;
    let limit = super::resource_limit(libc::RLIMIT_NOFILE as i32).map_or(1024, |limit| limit.soft);
    limit.min(CEILING).saturating_sub(ROOM).max(3) as i32
}

/// Moves `fd` to a number of `floor` or above, closed on exec; where there is none, to any number from 3 on, so that
/// a private descriptor never stands in for stdin, stdout or stderr. The old number is closed.
///
/// # Errors
/// EMFILE when there is no number from 3 on; then `fd` is closed too.
pub fn raise_high(fd: Fd, floor: i32) -> Result<Fd, Errno> {
    let raised = duplicate_from(fd, floor.max(3)).or_else(|_| {
        if fd.0 >= 3 { fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC).map(|_| fd) } else { duplicate_from(fd, 3) }
    });
    if raised != Ok(fd) {
        // The number is not needed any more, moved or not.
        let _ = close(fd);
    }
    raised
}

/// Reads into a buffer.
///
/// # Errors
/// As read(2).
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `len` bytes of an exclusive slice.
    unsafe { invoke(libc::SYS_read, [word(fd.0), buffer.as_mut_ptr() as usize, buffer.len()]) }
}

/// Writes from a buffer.
///
/// # Errors
/// As write(2).
pub fn write(fd: Fd, buffer: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads `len` bytes of a slice.
    unsafe { invoke(libc::SYS_write, [word(fd.0), buffer.as_ptr() as usize, buffer.len()]) }
}

/// Writes several buffers in one call, so that a file opened for appending gets them in one piece.
///
/// # Errors
/// As writev(2).
pub fn write_vectored(fd: Fd, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
    // SAFETY: IoSlice is documented to have the layout of iovec, and the kernel only reads the slices.
    unsafe { invoke(libc::SYS_writev, [word(fd.0), parts.as_ptr() as usize, parts.len()]) }
}

/// What stat(2) gives as the size of a path.
///
/// # Errors
/// As stat(2).
pub fn path_size(path: &CStr) -> Result<u64, Errno> {
    path_status(path).map(|status| status.st_size as u64)
}

/// What stat(2) says of a path.
///
/// # Errors
/// As stat(2).
pub fn path_status(path: &CStr) -> Result<libc::stat, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let arguments = [word(libc::AT_FDCWD), path.as_ptr() as usize, status.as_mut_ptr() as usize, 0];
    // SAFETY: the kernel reads a C string and writes one struct stat.
    unsafe { invoke(libc::SYS_newfstatat, arguments) }?;
    // SAFETY: written by the kernel.
    Ok(unsafe { status.assume_init() })
}

/// Reads at an offset.
///
/// # Errors
/// As pread(2).
pub fn pread(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let arguments = [word(fd.0), buffer.as_mut_ptr() as usize, buffer.len(), offset as usize];
    // SAFETY: the kernel writes at most `len` bytes of an exclusive slice.
    unsafe { invoke(libc::SYS_pread64, arguments) }
}

/// Writes at an offset.
///
/// # Errors
/// As pwrite(2).
pub fn pwrite(fd: Fd, buffer: &[u8], offset: u64) -> Result<usize, Errno> {
    let arguments = [word(fd.0), buffer.as_ptr() as usize, buffer.len(), offset as usize];
    // SAFETY: the kernel reads `len` bytes of a slice.
    unsafe { invoke(libc::SYS_pwrite64, arguments) }
}

/// Opens a path from the working directory.
///
/// # Errors
/// As open(2).
pub fn open(path: &CStr, flags: i32, mode: u32) -> Result<Fd, Errno> {
    let arguments = [word(libc::AT_FDCWD), path.as_ptr() as usize, word(flags), mode as usize];
    // SAFETY: a CStr ends with a zero byte.
    unsafe { invoke(libc::SYS_openat, arguments) }.map(|number| Fd(number as i32))
}

/// Removes a file by its path.
///
/// # Errors
/// As unlink(2); ENAMETOOLONG, EINVAL for a path with a zero byte.
pub fn unlink(path: &str) -> Result<(), Errno> {
    with_path(path, |path| {
        // SAFETY: a CStr ends with a zero byte.
        unsafe { invoke(libc::SYS_unlinkat, [word(libc::AT_FDCWD), path.as_ptr() as usize, 0]) }.map(drop)
    })
}

/// Hands `path` to `body` with its terminating zero, without allocating.
///
/// # Errors
/// ENAMETOOLONG, EINVAL for a path with a zero byte, and those of `body`.
pub fn with_path<R>(path: &str, body: impl FnOnce(&CStr) -> Result<R, Errno>) -> Result<R, Errno> {
    let mut bytes = [0u8; libc::PATH_MAX as usize];
    let room = bytes.get_mut(..path.len()).filter(|room| room.len() < libc::PATH_MAX as usize);
    room.ok_or(Errno(libc::ENAMETOOLONG))?.copy_from_slice(path.as_bytes());
    let terminated = bytes.get(..=path.len()).unwrap_or(&[]);
    body(CStr::from_bytes_with_nul(terminated).map_err(|_| Errno(libc::EINVAL))?)
}

/// Reads a whole small file (a line of /sys or /proc) into `buffer` and returns the part read.
///
/// # Errors
/// As open(2) and read(2).
pub fn read_small_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let fd = open(path, libc::O_RDONLY | libc::O_CLOEXEC, 0)?;
    let result = read(fd, buffer);
    let _ = close(fd);
    let count = result?;
    Ok(buffer.get(..count).unwrap_or(&[]))
}

/// What identifies an open file: the device and inode behind a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number on the device.
    pub inode: u64,
}

/// The file behind a descriptor, to see whether a number is still ours.
///
/// # Errors
/// EBADF.
pub fn file_id(fd: Fd) -> Result<FileId, Errno> {
    status(fd).map(|status| FileId { device: status.st_dev, inode: status.st_ino })
}

/// What fstat(2) says of a descriptor.
///
/// # Errors
/// As fstat(2).
pub fn status(fd: Fd) -> Result<libc::stat, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills in a struct stat, whose layout is libc's on the 64-bit targets supported here.
    unsafe { invoke(libc::SYS_fstat, [word(fd.0), status.as_mut_ptr() as usize]) }?;
    // SAFETY: fstat has succeeded, so all of it is written.
    Ok(unsafe { status.assume_init() })
}

/// Sets the length of a file.
///
/// # Errors
/// As ftruncate(2). The caller keeps below RLIMIT_FSIZE, where the kernel sends SIGXFSZ.
pub fn ftruncate(fd: Fd, length: u64) -> Result<(), Errno> {
    // SAFETY: no memory is passed; a mapping cut short faults, as documented at the arena, which only grows.
    unsafe { invoke(libc::SYS_ftruncate, [word(fd.0), length as usize]) }.map(drop)
}

/// A file in memory.
///
/// # Errors
/// As memfd_create(2).
pub fn memfd_create(name: &CStr, flags: u32) -> Result<Fd, Errno> {
    // SAFETY: a CStr ends with a zero byte.
    unsafe { invoke(libc::SYS_memfd_create, [name.as_ptr() as usize, flags as usize]) }.map(|number| Fd(number as i32))
}

/// A counter that can be polled.
///
/// # Errors
/// As eventfd2(2).
pub fn eventfd(initial: u32, flags: i32) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_eventfd2, [initial as usize, word(flags)]) }.map(|number| Fd(number as i32))
}

/// Adds one to an eventfd. A full counter is as good as a rung one.
pub fn eventfd_ring(fd: Fd) {
    let _ = write(fd, &1u64.to_ne_bytes());
}

/// Empties a non-blocking eventfd and says whether it was rung.
pub fn eventfd_drain(fd: Fd) -> bool {
    let mut value = [0u8; 8];
    read(fd, &mut value) == Ok(8)
}

/// Closes all descriptors from `first` to `last`, both included.
///
/// # Errors
/// ENOSYS on kernels before 5.9.
pub fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_close_range, [first as usize, last as usize, flags as usize]) }.map(drop)
}
