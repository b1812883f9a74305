//! The word that ioctl takes: a pointer or a number, as the request has it.

use remora_host::sys::Errno;

use super::memory::User;
use crate::hooks::real;

/// The word as a pointer.
pub(crate) fn argument<T>(word: usize) -> User<T> {
    // SAFETY: the program passed it to ioctl for a request that reads or writes a T there.
    unsafe { User::new(word) }
}

/// A request of the program's, on another descriptor.
pub(crate) fn ioctl(fd: i32, request: usize, word: usize) -> Result<i32, Errno> {
    // SAFETY: the original, with the program's own request and argument.
    let result = unsafe { (real::ioctl.get())(fd, request, word) };
    if result < 0 { Err(Errno(super::errno())) } else { Ok(result) }
}

/// A command of the program's on a placeholder.
pub(crate) fn fcntl(fd: i32, command: i32, word: usize) -> Result<i32, Errno> {
    // SAFETY: the original, with the program's own command and argument.
    let result = unsafe { (real::fcntl.get())(fd, command, word) };
    if result < 0 { Err(Errno(super::errno())) } else { Ok(result) }
}

/// struct f_owner_ex of a descriptor: type and number.
pub(crate) fn owner(fd: i32) -> Result<[i32; 2], Errno> {
    const F_GETOWN_EX: i32 = 16;
    let mut owner = [0i32; 2];
    // SAFETY: the original; the kernel writes the two words of a structure of ours.
    let result = unsafe { (real::fcntl.get())(fd, F_GETOWN_EX, owner.as_mut_ptr()) };
    if result < 0 { Err(Errno(super::errno())) } else { Ok(owner) }
}

/// accept4() on a kernel socket of the library's, for the program: the kernel stores the name where the program wants it.
pub(crate) fn accept(fd: i32, name: User<libc::sockaddr>, length: User<u32>, flags: i32) -> Result<i32, Errno> {
    let (name, length) = (name.address() as *mut libc::sockaddr, length.address() as *mut u32);
    // SAFETY: the original, with the pointers that the program passed for this use; the kernel checks them.
    let number = unsafe { (real::accept4.get())(fd, name, length, flags) };
    if number < 0 { Err(Errno(super::errno())) } else { Ok(number) }
}

/// The position of an open file; ESPIPE for what has none.
pub(crate) fn position(fd: i32) -> Result<i64, Errno> {
    // SAFETY: no memory is passed.
    let at = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
    if at < 0 { Err(Errno(libc::EINVAL)) } else { Ok(at) }
}

/// Moves the position of an open file.
pub(crate) fn set_position(fd: i32, at: i64) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    let at = unsafe { libc::lseek(fd, at, libc::SEEK_SET) };
    if at < 0 { Err(Errno(super::errno())) } else { Ok(()) }
}

/// Reads from a position of an open file.
pub(crate) fn read_at(fd: i32, buffer: &mut [u8], at: i64) -> Result<usize, Errno> {
    // SAFETY: the original writes at most `len` bytes of an exclusive slice.
    let count = unsafe { (real::pread.get())(fd, buffer.as_mut_ptr(), buffer.len(), at) };
    usize::try_from(count).map_err(|_| Errno(super::errno()))
}
