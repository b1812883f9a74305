//! Threads begin with their calls caught: the kernel does not hand that on.

use std::ffi::c_void;

use super::{enable_thread, is_on};
use crate::hooks::real;

/// What a thread is to run, with the word that it gets.
struct Start<F> {
    routine: F,
    argument: *mut c_void,
}

type Routine = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type ShortRoutine = unsafe extern "C-unwind" fn(*mut c_void) -> i32;

/// Takes a thread's start out of its box and has its calls caught.
///
/// # Safety
/// `start` must come from [`boxed`], once.
unsafe fn begin<F>(start: *mut c_void) -> Start<F> {
    // SAFETY: as of this function.
    let start = unsafe { Box::from_raw(start.cast::<Start<F>>()) };
    enable_thread();
    *start
}

fn boxed<F>(routine: F, argument: *mut c_void) -> *mut c_void {
    Box::into_raw(Box::new(Start { routine, argument })).cast()
}

/// # Safety
/// `start` must come from [`boxed`] with the same type, and nobody else have it.
unsafe fn discard<F>(start: *mut c_void) {
    // SAFETY: as of this function.
    drop(unsafe { Box::from_raw(start.cast::<Start<F>>()) });
}

unsafe extern "C-unwind" fn run(start: *mut c_void) -> *mut c_void {
    // SAFETY: the box that pthread_create made for this thread.
    let Start { routine, argument } = unsafe { begin::<Routine>(start) };
    // SAFETY: the program gave both for this.
    unsafe { routine(argument) }
}

unsafe extern "C-unwind" fn run_short(start: *mut c_void) -> i32 {
    // SAFETY: the box that thrd_create made for this thread.
    let Start { routine, argument } = unsafe { begin::<ShortRoutine>(start) };
    // SAFETY: the program gave both for this.
    unsafe { routine(argument) }
}

/// pthread_create().
pub(crate) fn pthread_create(
    thread: *mut usize,
    attributes: *const c_void,
    routine: Routine,
    argument: *mut c_void,
) -> i32 {
    if !is_on() {
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        return unsafe { (real::pthread_create.get())(thread, attributes, routine, argument) };
    }
    let start = boxed(routine, argument);
    // SAFETY: the caller's own arguments, but for the routine, which calls the caller's.
    let result = unsafe { (real::pthread_create.get())(thread, attributes, run, start) };
    if result != 0 {
        // SAFETY: no thread has it.
        unsafe { discard::<Routine>(start) };
    }
    result
}

/// thrd_create(), of C11.
pub(crate) fn thrd_create(thread: *mut usize, routine: ShortRoutine, argument: *mut c_void) -> i32 {
    if !is_on() {
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        return unsafe { (real::thrd_create.get())(thread, routine, argument) };
    }
    let start = boxed(routine, argument);
    // SAFETY: the caller's own arguments, but for the routine, which calls the caller's.
    let result = unsafe { (real::thrd_create.get())(thread, run_short, start) };
    // thrd_success is 0.
    if result != 0 {
        // SAFETY: no thread has it.
        unsafe { discard::<ShortRoutine>(start) };
    }
    result
}
