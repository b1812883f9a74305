//! Processes: fork handlers, the end of the program, and signals raised by a call.

use crate::calls::process as ours;

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

extern "C" fn start(
    _count: i32,
    arguments: *const *const std::ffi::c_char,
    _environment: *const *const std::ffi::c_char,
) {
    super::memory::note_main_stack(arguments as usize);
    crate::hooks::resolve_all();
    register_fork_handlers();
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
