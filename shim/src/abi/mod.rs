//! The edge to C: how a hook is entered and left (errno, re-entry, panics), and how raw arguments become Rust values.
//! User memory is in `memory`, addresses in `address`, iovec and msghdr in `message`, signals in `signal`, processes in
//! `process`, stdio in `stdio`, calls past libc in `deep`. Nothing here knows what a call means.

pub(crate) mod address;
pub(crate) mod background;
pub(crate) mod control;
#[cfg(target_arch = "x86_64")]
pub(crate) mod deep;
#[cfg(not(target_arch = "x86_64"))]
#[path = "deep/absent.rs"]
pub(crate) mod deep;
pub(crate) mod exec;
pub(crate) mod interfaces;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod received;
pub(crate) mod resolver;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod stdio;
pub(crate) mod syscall;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use memory::User;
use remora_host::sys::Errno;

/// What a call came to.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// It concerned one of ours: the value, or the errno.
    Ours(Result<T, Errno>),
    /// It is libc's business; nothing has happened yet.
    PassThrough,
}

impl<T> Outcome<T> {
    /// Ours, and it failed.
    pub(crate) const fn fail(errno: i32) -> Self {
        Self::Ours(Err(Errno(errno)))
    }
}

impl<T> From<Result<T, Errno>> for Outcome<T> {
    fn from(result: Result<T, Errno>) -> Self {
        Self::Ours(result)
    }
}

/// The value with which a C function says that it failed.
pub(crate) trait CReturn {
    /// -1 or NULL.
    const FAILED: Self;
}

impl CReturn for i32 {
    const FAILED: Self = -1;
}
impl CReturn for i64 {
    const FAILED: Self = -1;
}
impl CReturn for isize {
    const FAILED: Self = -1;
}
impl CReturn for usize {
    /// SIG_ERR, (sighandler_t) -1.
    const FAILED: Self = usize::MAX;
}
impl<T> CReturn for *mut T {
    const FAILED: Self = std::ptr::null_mut();
}
impl CReturn for () {
    const FAILED: Self = ();
}

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In the program.
    Outside,
    /// In a call of ours: what the library itself calls of libc is libc's.
    Inside,
    /// In a signal handler that interrupted a call of ours, or somewhere that it has left to by siglongjmp.
    Interrupted,
}

thread_local! {
    static STANDING: Cell<Standing> = const { Cell::new(Standing::Outside) };
}

/// This thread's errno.
pub(crate) fn errno() -> i32 {
    // SAFETY: takes no argument and always succeeds.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: it points to this thread's errno, which nothing borrows.
    unsafe { *place }
}

/// Sets this thread's errno.
pub(crate) fn set_errno(value: i32) {
    // SAFETY: takes no argument and always succeeds.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: it points to this thread's errno, which nothing borrows.
    unsafe { *place = value }
}

/// Leaves the inside of a call for the length of a signal handler; the program's handler may use its sockets.
pub(crate) fn step_outside() -> Standing {
    let before = STANDING.get();
    if before == Standing::Inside {
        STANDING.set(Standing::Interrupted);
    }
    before
}

/// Back to what [`step_outside`] said.
pub(crate) fn step_back(before: Standing) {
    STANDING.set(before);
}

/// Runs a call of ours, or libc's when it is not ours. The original runs outside of `catch_unwind`: thread
/// cancellation unwinds through it and must not meet Rust's catch. A thread with asynchronous cancellation may be
/// unwound at any instruction of this function, which for that reason has nothing to clean up.
pub(crate) fn enter<T: CReturn>(ours: impl Fn() -> Outcome<T>, real: impl FnOnce() -> T) -> T {
    if STANDING.get() == Standing::Inside {
        return real();
    }
    let cancel_type = process::defer_cancel();
    let done = inside(ours);
    process::restore_cancel(cancel_type);
    match done {
        Some(value) => value,
        None => real(),
    }
}

/// The part of [`enter`] that is ours; `None` when the call is libc's. errno is as it is to be.
#[inline(never)]
fn inside<T: CReturn>(ours: impl Fn() -> Outcome<T>) -> Option<T> {
    let mut standing = STANDING.get();
    let before = errno();
    let outcome = loop {
        STANDING.set(Standing::Inside);
        if standing == Standing::Interrupted {
            crate::calls::abandon();
        }
        let outcome = catch_unwind(AssertUnwindSafe(&ours));
        STANDING.set(Standing::Outside);
        if !matches!(outcome, Ok(Outcome::Ours(Err(Errno(libc::EINTR))))) || !process::take_cancel() {
            break outcome;
        }
        // Everything of ours is given back: here a cancelled thread may end. One that has disabled it goes on.
        drop(outcome);
        process::test_cancel();
        standing = Standing::Outside;
    };
    match outcome {
        Ok(Outcome::PassThrough) => {
            set_errno(before);
            None
        }
        Ok(Outcome::Ours(Ok(value))) => {
            set_errno(before);
            Some(value)
        }
        Ok(Outcome::Ours(Err(Errno(errno)))) => {
            set_errno(errno);
            Some(T::FAILED)
        }
        Err(_panic) => {
            log::error!(target: "remora::shim", "a call failed inside the library; the program sees EIO");
            set_errno(libc::EIO);
            Some(T::FAILED)
        }
    }
}

/// Runs something of ours beside a call that is libc's all the same: errno stays, a panic ends it. `None` when it did not
/// run (the caller is inside already) or did not end.
pub(crate) fn aside<R>(body: impl FnOnce() -> R) -> Option<R> {
    let standing = STANDING.get();
    if standing == Standing::Inside {
        return None;
    }
    let cancel_type = process::defer_cancel();
    let result = aside_now(standing, body);
    process::restore_cancel(cancel_type);
    result
}

#[inline(never)]
fn aside_now<R>(standing: Standing, body: impl FnOnce() -> R) -> Option<R> {
    let before = errno();
    STANDING.set(Standing::Inside);
    if standing == Standing::Interrupted {
        crate::calls::abandon();
    }
    let result = catch_unwind(AssertUnwindSafe(body));
    STANDING.set(Standing::Outside);
    set_errno(before);
    if result.is_err() {
        log::error!(target: "remora::shim", "work beside a call failed inside the library");
    }
    result.ok()
}

/// A raw C argument on its way in: scalars are themselves, pointers become [`User`].
pub(crate) trait FromC {
    /// What the call sees.
    type Rust;
    /// # Safety
    /// `self` must be the argument exactly as the C caller passed it.
    unsafe fn into_rust(self) -> Self::Rust;
}

macro_rules! scalars {
    ($($kind:ty),*) => { $(impl FromC for $kind {
        type Rust = $kind;
        unsafe fn into_rust(self) -> $kind {
            self
        }
    })* };
}
scalars!(i32, u32, i64, usize);

impl<T> FromC for *const T {
    type Rust = User<T>;
    unsafe fn into_rust(self) -> User<T> {
        // SAFETY: the caller of into_rust says that C passed it.
        unsafe { User::new(self as usize) }
    }
}

impl<T> FromC for *mut T {
    type Rust = User<T>;
    unsafe fn into_rust(self) -> User<T> {
        // SAFETY: the caller of into_rust says that C passed it.
        unsafe { User::new(self as usize) }
    }
}

#[cfg(test)]
mod tests;
