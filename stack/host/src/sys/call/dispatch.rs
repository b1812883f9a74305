//! Syscall User Dispatch (prctl(2), Linux 5.11): system calls made outside of a range of addresses raise SIGSYS. And
//! a system call exactly as a program made it, for the handler of that signal.

use super::{Errno, invoke};

/// prctl(2): the option, and its two modes.
const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;

/// Has every system call that the calling thread makes by an instruction outside of the range raise SIGSYS instead of
/// entering the kernel. Threads and processes that it makes do not inherit this, and exec ends it.
///
/// # Errors
/// EINVAL from a kernel without it, or for a range that runs over the end of the address space.
pub fn dispatch_calls_outside(start: usize, length: usize) -> Result<(), Errno> {
    let arguments = [PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, start, length, 0];
    // SAFETY: no memory is passed: without a selector the range alone decides.
    unsafe { invoke(libc::SYS_prctl, arguments) }.map(drop)
}

/// Ends that for the calling thread.
///
/// # Errors
/// EINVAL from a kernel without it.
pub fn end_dispatch() -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_prctl, [PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0]) }.map(drop)
}

/// Makes a system call with the words of a program; the result is as the kernel leaves it, errors being negative.
///
/// # Safety
/// The words must be those of a program that meant to make this call, and the call must not take the ground from under
/// its caller's feet (rt_sigreturn, clone with a stack).
#[inline]
pub unsafe fn native(number: libc::c_long, words: [usize; 6]) -> isize {
    // SAFETY: the caller vouches for them.
    match unsafe { invoke(number, words) } {
        Ok(value) => value as isize,
        Err(Errno(errno)) => -(errno as isize),
    }
}
