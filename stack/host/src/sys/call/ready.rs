//! Waiting: ppoll, epoll, futex.

use super::{Errno, Fd, invoke, word};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Bytes of the kernel's signal set.
pub(super) const SIGNAL_SET_SIZE: usize = 8;

/// A span as the kernel counts it.
pub(super) fn kernel_time(span: Duration) -> libc::timespec {
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    libc::timespec { tv_sec: seconds, tv_nsec: i64::from(span.subsec_nanos()) }
}

/// The address of an optional argument, 0 for none.
fn address_of<T>(value: Option<&T>) -> usize {
    value.map_or(0, |value| std::ptr::from_ref(value) as usize)
}

/// Waits for one of `set`; `None` waits without end. `mask`, when given, is the signal mask while waiting.
///
/// # Errors
/// EINTR and the others of ppoll(2).
pub fn ppoll(set: &mut [libc::pollfd], timeout: Option<Duration>, mask: Option<&u64>) -> Result<usize, Errno> {
    let mut time = timeout.map(kernel_time);
    let time_address = time.as_mut().map_or(0, |time| std::ptr::from_mut(time) as usize);
    let arguments = [set.as_mut_ptr() as usize, set.len(), time_address, address_of(mask), SIGNAL_SET_SIZE];
    // SAFETY: the kernel writes into the exclusive slice and into the timespec, both alive across the call.
    unsafe { invoke(libc::SYS_ppoll, arguments) }
}

/// A new epoll set.
///
/// # Errors
/// As epoll_create1(2).
pub fn epoll_create(flags: i32) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_epoll_create1, [word(flags)]) }.map(|number| Fd(number as i32))
}

/// Adds, changes or removes one watch.
///
/// # Errors
/// As epoll_ctl(2).
pub fn epoll_ctl(set: Fd, operation: i32, fd: Fd, event: Option<&mut libc::epoll_event>) -> Result<(), Errno> {
    let address = event.map_or(0, |event| std::ptr::from_mut(event) as usize);
    // SAFETY: the event outlives the call; the kernel only reads it.
    unsafe { invoke(libc::SYS_epoll_ctl, [word(set.0), word(operation), word(fd.0), address]) }.map(drop)
}

/// Waits on an epoll set; the timeout is in milliseconds, -1 for none.
///
/// # Errors
/// As epoll_pwait(2).
pub fn epoll_pwait(
    set: Fd,
    events: &mut [libc::epoll_event],
    timeout_ms: i32,
    mask: Option<&u64>,
) -> Result<usize, Errno> {
    let room = events.len().min(i32::MAX as usize);
    let address = events.as_mut_ptr() as usize;
    let arguments = [word(set.0), address, room, word(timeout_ms), address_of(mask), SIGNAL_SET_SIZE];
    // SAFETY: the kernel writes at most `room` events into the exclusive slice.
    unsafe { invoke(libc::SYS_epoll_pwait, arguments) }
}

/// Sleeps while `word` is `expected`, at most for `timeout`. The futex is shared between processes.
///
/// # Errors
/// EAGAIN when the value was another already, ETIMEDOUT, EINTR.
pub fn futex_wait(futex: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Result<(), Errno> {
    let time = timeout.map(kernel_time);
    let arguments =
        [futex.as_ptr() as usize, libc::FUTEX_WAIT as usize, expected as usize, address_of(time.as_ref()), 0, 0];
    // SAFETY: the word and the timespec outlive the call.
    unsafe { invoke(libc::SYS_futex, arguments) }.map(drop)
}

/// Wakes at most `count` sleepers and returns how many there were.
pub fn futex_wake(futex: &AtomicU32, count: u32) -> usize {
    let arguments = [futex.as_ptr() as usize, libc::FUTEX_WAKE as usize, count.min(i32::MAX as u32) as usize];
    // SAFETY: the kernel uses the address as a key only.
    unsafe { invoke(libc::SYS_futex, arguments) }.unwrap_or(0)
}
