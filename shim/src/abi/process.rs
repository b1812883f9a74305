//! Processes: fork handlers, the end of the program, and signals raised by a call.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora_host::config::environment;
use remora_host::runtime;
use remora_host::sys::Fd;

use crate::calls::process as ours;
use crate::hooks::real;

/// Threads that were cancelled and have not heard of it in a call of ours; 0 is nobody. More than can sleep in one.
static CANCELLED: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
/// How many have been put there; the next one's place. Threads that end elsewhere leave theirs to later ones.
static CANCELS: AtomicUsize = AtomicUsize::new(0);

const ASYNCHRONOUS: i32 = 1;
const DEFERRED: i32 = 0;

thread_local! {
    /// The thread has chosen to be cancelled at any instruction.
    static ASYNCHRONOUSLY: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C-unwind" {
    /// Ends the thread by unwinding, if it is cancelled; declared here for that.
    fn pthread_testcancel();
}

/// pthread_cancel(): libc's own ends a thread inside its blocking calls only. One that sleeps in a call of ours is woken;
/// it leaves the call first, so that nothing of ours stays taken.
pub(crate) fn cancel(thread: usize) -> i32 {
    // SAFETY: the original, with the program's argument.
    let result = unsafe { (real::pthread_cancel.get())(thread) };
    let Some(runtime) = runtime::current().filter(|_| result == 0) else { return result };
    let place = CANCELS.fetch_add(1, Ordering::AcqRel) % CANCELLED.len();
    if let Some(place) = CANCELLED.get(place) {
        place.store(thread, Ordering::Release);
    }
    runtime.wake_sleepers();
    result
}

/// The program chooses when its thread may be cancelled.
pub(crate) fn note_cancel_type(kind: i32) {
    if matches!(kind, ASYNCHRONOUS | DEFERRED) {
        ASYNCHRONOUSLY.set(kind == ASYNCHRONOUS);
    }
}

/// A thread that may be cancelled at any instruction may not within a call of ours, which has to give back what it took
/// first. The result is for [`restore_cancel`].
#[inline]
pub(crate) fn defer_cancel() -> i32 {
    if ASYNCHRONOUSLY.get() { set_cancel_type(DEFERRED) } else { DEFERRED }
}

/// After the call: a thread that was cancelled meanwhile ends here, where nothing of ours is left to be given back.
#[inline]
pub(crate) fn restore_cancel(before: i32) {
    if before == ASYNCHRONOUS {
        set_cancel_type(ASYNCHRONOUS);
    }
}

fn set_cancel_type(kind: i32) -> i32 {
    let mut before = DEFERRED;
    // SAFETY: the original, with a place of ours.
    let _ = unsafe { (real::pthread_setcanceltype.get())(kind, &raw mut before) };
    before
}

fn own_cancel() -> Option<&'static AtomicUsize> {
    if CANCELS.load(Ordering::Acquire) == 0 {
        return None;
    }
    // SAFETY: takes no argument and always succeeds.
    let own = unsafe { libc::pthread_self() } as usize;
    CANCELLED.iter().find(|place| place.load(Ordering::Acquire) == own)
}

/// Whether this thread has been cancelled and is yet to be told.
pub(crate) fn is_cancelled() -> bool {
    own_cancel().is_some()
}

/// The same, once.
pub(crate) fn take_cancel() -> bool {
    let Some(place) = own_cancel() else { return false };
    place.store(0, Ordering::Release);
    true
}

/// Ends the calling thread if it is cancelled and has not disabled that.
pub(crate) fn test_cancel() {
    // SAFETY: takes no argument; it may unwind, and no frame from here to the program's has anything to drop.
    unsafe { pthread_testcancel() };
}

unsafe extern "C" fn prepare() {
    ours::before_fork();
}

unsafe extern "C" fn parent() {
    ours::after_fork_parent();
}

unsafe extern "C" fn child() {
    ours::after_fork_child();
}

/// Has the runtime told of every fork() from here on, those inside daemon() and forkpty() included.
pub(crate) fn register_fork_handlers() {
    // SAFETY: three functions that stay for good (the library is never unloaded).
    let _ = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// Flushes the program's stdio: what it wrote to a stream over one of our sockets must leave before the sockets do.
pub(crate) fn flush_stdio() {
    // SAFETY: NULL means every stream.
    let _ = unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Raises SIGPIPE in the calling thread, as a write to a broken stream does.
pub(crate) fn raise_broken_pipe() {
    // SAFETY: takes no argument and always succeeds.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: this thread exists.
    let _ = unsafe { libc::pthread_kill(thread, libc::SIGPIPE) };
}

/// Names the descriptor over which `remora run --static` hands its program's system calls to this process.
const SUPERVISOR: &str = "REMORA_SUPERVISOR";

/// This process is nothing else: it ends here.
fn supervise(link: &std::ffi::OsStr) -> ! {
    let number = link.to_str().and_then(|text| text.parse().ok());
    super::aside(|| {
        if let Some(number) = number {
            crate::calls::supervisor::serve(Fd(number));
        }
    });
    // SAFETY: no memory is passed.
    unsafe { libc::_exit(0) }
}

extern "C" fn start(
    _count: i32,
    arguments: *const *const std::ffi::c_char,
    _environment: *const *const std::ffi::c_char,
) {
    super::memory::note_main_stack(arguments as usize);
    crate::hooks::resolve_all();
    register_fork_handlers();
    super::aside(environment::remember);
    super::aside(crate::calls::adopt::scan);
    super::aside(super::deep::start);
    if let Some(link) = std::env::var_os(SUPERVISOR) {
        supervise(&link);
    }
}

extern "C" fn end() {
    let before = super::errno();
    flush_stdio();
    ours::leave();
    super::set_errno(before);
}

/// glibc passes constructors what main gets.
type Constructor = extern "C" fn(i32, *const *const std::ffi::c_char, *const *const std::ffi::c_char);

/// Runs when the library is loaded, before the program; other libraries' constructors may run hooks even earlier.
#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static START: Constructor = start;

/// Runs at exit() and when main returns. `exit` itself is no hook: handlers of atexit still use their sockets.
#[used]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static END: extern "C" fn() = end;
