//! The program's own system calls on processors for which the kernel has no Syscall User Dispatch: they cannot be
//! caught, which is said; the hooks are libc's functions.

use std::ffi::c_void;

use crate::hooks::real;

type Routine = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type ShortRoutine = unsafe extern "C-unwind" fn(*mut c_void) -> i32;

pub(crate) const fn is_on() -> bool {
    false
}

pub(crate) fn start() {
    if std::env::var_os("REMORA_DEEP").is_some_and(|value| value == "1") {
        let _ = crate::config::active();
        log::warn!(target: "remora", "--deep: calls past libc stay the kernel's: not on this processor");
    }
}

pub(crate) const fn enable_thread() {}

pub(crate) const fn before_handler() {}

pub(crate) fn sigprocmask(how: i32, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> i32 {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    unsafe { (real::sigprocmask.get())(how, set, old) }
}

pub(crate) fn pthread_sigmask(how: i32, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> i32 {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    unsafe { (real::pthread_sigmask.get())(how, set, old) }
}

pub(crate) fn sigblock(mask: i32) -> i32 {
    // SAFETY: libc's own, with an integer.
    unsafe { (real::sigblock.get())(mask) }
}

pub(crate) fn sigsetmask(mask: i32) -> i32 {
    // SAFETY: libc's own, with an integer.
    unsafe { (real::sigsetmask.get())(mask) }
}

pub(crate) fn pthread_create(
    thread: *mut usize,
    attributes: *const c_void,
    routine: Routine,
    argument: *mut c_void,
) -> i32 {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    unsafe { (real::pthread_create.get())(thread, attributes, routine, argument) }
}

pub(crate) fn thrd_create(thread: *mut usize, routine: ShortRoutine, argument: *mut c_void) -> i32 {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    unsafe { (real::thrd_create.get())(thread, routine, argument) }
}

/// # Safety
/// None here.
pub(crate) const unsafe fn interrupts(_context: *const c_void) -> bool {
    false
}

pub(crate) const fn handler_is_done(_before: bool) {}
