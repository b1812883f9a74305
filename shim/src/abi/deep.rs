//! System calls that the program makes itself, past libc (`--deep`): runtimes such as Go's, and assembler. Syscall User
//! Dispatch has the kernel raise SIGSYS for each one that is not made from the range where the kernel maps shared
//! libraries; the handler gives it to the function of its name (`syscall`) or makes it in the program's place. What
//! concerns signals, processes and threads is in `emulate`. SIGSYS stays ours: unblocked, and out of the program's sight.
//!
//! Not a seccomp filter, although that could tell numbers apart: a filter outlives exec while its handler does not, so
//! that the dynamic linker of the next image, or a static program, would be killed at its first call.

mod emulate;
mod stack;
mod threads;

use std::sync::atomic::{AtomicBool, Ordering};

use remora_host::config::Config;
use remora_host::sys::{Errno, call};

use super::Outcome;
use crate::hooks::real;
use crate::{calls, fdtable};

pub(crate) use stack::{handler_is_done, interrupts};
pub(crate) use threads::{pthread_create, thrd_create};

/// System calls from here on are let through: the library's own address is the lowest (build.rs), and the kernel maps
/// shared libraries and the vDSO below the stack. Programs, position-independent or not, lie lower, as does the heap.
const LIBRARIES: usize = 0x6c00_0000_0000;
/// The end of a program's address space with four levels of page tables.
const END: usize = 0x8000_0000_0000;

/// SYS_USER_DISPATCH and SYS_SECCOMP (asm-generic/siginfo.h): why SIGSYS came.
const BY_DISPATCH: i32 = 2;
const BY_SECCOMP: i32 = 1;

/// The program's own calls are caught in this process.
static ON: AtomicBool = AtomicBool::new(false);

/// Whether the program's own calls are caught.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// At the start of an image: catches the program's calls if the configuration says so.
pub(crate) fn start() {
    if std::env::var_os("REMORA_DEEP").is_none() && std::env::var_os("REMORA_CONFIG").is_none() {
        return;
    }
    let read = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    // What is wrong with it is said at the first socket.
    let Ok(config) = Config::from_environment(&read) else { return };
    if !config.deep.value || !config.wants_stack() {
        return;
    }
    let begun = check_layout().and_then(|()| {
        catch_signal().map_err(|_| "SIGSYS cannot be handled")?;
        enable().map_err(|_| "the kernel has no Syscall User Dispatch (Linux 5.11, x86-64)")
    });
    match begun {
        Ok(()) => ON.store(true, Ordering::Relaxed),
        Err(why) => {
            // Starts the log.
            let _ = crate::config::active();
            log::warn!(target: "remora", "--deep: calls past libc stay the kernel's: {why}");
        }
    }
}

/// Whether libraries and program lie where they are looked for.
fn check_layout() -> Result<(), &'static str> {
    // SAFETY: reads what the kernel told this process at its start.
    let told = |kind| unsafe { libc::getauxval(kind) } as usize;
    let libc_lies = real::read.get() as *const () as usize;
    let libraries = [start as *const () as usize, libc_lies, told(libc::AT_BASE), told(libc::AT_SYSINFO_EHDR)];
    if libraries.iter().any(|at| *at != 0 && *at < LIBRARIES) {
        return Err("shared libraries lie below the program (an unlimited stack: ulimit -s)");
    }
    if told(libc::AT_ENTRY) >= LIBRARIES || told(libc::AT_BASE) == 0 {
        return Err("the program lies among the shared libraries (started by way of ld.so)");
    }
    Ok(())
}

/// Makes SIGSYS ours.
fn catch_signal() -> Result<(), Errno> {
    // SAFETY: all zero is a valid sigaction, with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    // A handler of the program that runs inside of a caught call makes calls of its own; a goroutine's stack is too
    // small for a signal; and a sleep in a caught call goes on as the program's other handlers say.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the original, with a structure of ours.
    match unsafe { (real::sigaction.get())(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Errno(super::errno())),
    }
}

/// The bit of SIGSYS in the kernel's sets. A call that finds it blocked ends the process.
const SIGSYS_BIT: u64 = 1 << (libc::SIGSYS - 1);

/// Catches the calls of the calling thread.
fn enable() -> Result<(), Errno> {
    stack::prepare()?;
    call::signal_mask(libc::SIG_UNBLOCK, SIGSYS_BIT)?;
    call::dispatch_calls_outside(LIBRARIES, END - LIBRARIES)
}

/// In a new thread and in a forked child, neither of which inherits it.
pub(crate) fn enable_thread() {
    if is_on() && enable().is_err() {
        log::info!(target: "remora::shim", "the calls of a thread are not caught");
    }
}

/// Before a handler of the program runs: whichever masks are in force (its own, or that of a ppoll or sigsuspend that it
/// interrupts), it may make calls.
#[inline]
pub(crate) fn before_handler() {
    if is_on() {
        let _ = call::signal_mask(libc::SIG_UNBLOCK, SIGSYS_BIT);
    }
}

/// The process is behind a filter of its own, under which the library cannot work: calls are the kernel's again.
fn give_up() {
    ON.store(false, Ordering::Relaxed);
    let _ = call::end_dispatch();
}

/// The words of a caught call.
#[derive(Clone, Copy, Debug)]
struct Caught {
    number: i64,
    words: [usize; 6],
}

unsafe extern "C" fn on_signal(signal: i32, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel filled it in.
    let code = unsafe { (*information).si_code };
    if code != BY_DISPATCH {
        // SAFETY: the arguments of this handler.
        unsafe { pass_on(signal, code, information, context) };
        return;
    }
    // SAFETY: the context of this handler, which it alone uses.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    if calls::is_locked_in() {
        give_up();
        emulate::repeat(context);
        return;
    }
    // SAFETY: the kernel's words about the call that this handler stands in for.
    let narrow = unsafe { emulate::is_narrow(information) };
    // SAFETY: the context of this handler; it does not come back, unless there is no room.
    unsafe { stack::leave_for_own(context, narrow) };
    // SAFETY: as above.
    unsafe { carry_out(context, narrow) };
}

/// Carries out the call that a context stands behind.
///
/// # Safety
/// The context must be that of the signal which says so.
unsafe fn carry_out(context: &mut libc::ucontext_t, narrow: bool) {
    let caught = emulate::caught(context);
    let result = if narrow {
        // SAFETY: as of this function.
        unsafe { emulate::narrow(context) }
    } else {
        // SAFETY: as of this function.
        unsafe { answer(caught, context) }
    };
    emulate::set_result(context, result);
}

/// A SIGSYS that is the program's own: from a filter of its own, or sent.
///
/// # Safety
/// The arguments must be those of the running handler.
unsafe fn pass_on(signal: i32, code: i32, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the caller's own.
    if unsafe { super::signal::run_program_handler(signal, information, context) } {
        return;
    }
    if code != BY_SECCOMP && super::signal::is_ignored(signal) {
        return;
    }
    // The default: the process ends by this signal.
    // SAFETY: libc's function; SIG_DFL is no handler.
    unsafe { (real::signal.get())(signal, libc::SIG_DFL) };
    // SAFETY: no memory is passed.
    unsafe { libc::raise(signal) };
}

/// Carries out a caught call; the result is as the kernel leaves it.
///
/// # Safety
/// The call must be one that the program has made, and the context that of the signal which says so.
unsafe fn answer(caught: Caught, context: &mut libc::ucontext_t) -> isize {
    let Caught { number, words } = caught;
    let [a, b, c, d, ..] = words;
    // SAFETY: as of this function.
    if let Some(result) = unsafe { emulate::special(caught, context) } {
        return result;
    }
    match number {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 if fdtable::is_ours(a as i32) => {
            wait_epoll(number, words)
        }
        libc::SYS_recvmsg if !fdtable::is_ours(a as i32) => {
            let result = plain(number, words);
            super::received::recvmsg(b as *const libc::msghdr, result);
            result
        }
        libc::SYS_recvmmsg if !fdtable::is_ours(a as i32) => {
            let result = plain(number, words);
            super::received::recvmmsg(b as *const libc::mmsghdr, result as i32);
            result
        }
        libc::SYS_prctl | libc::SYS_seccomp => {
            let result = routed(number, words);
            if calls::is_locked_in() {
                // Behind the filter there may be no way back from a handler: the program makes the call itself.
                give_up();
                emulate::repeat(context);
                return number as isize;
            }
            result.unwrap_or_else(|| plain(number, words))
        }
        // These begin and end their work beside the call themselves.
        libc::SYS_execve => of_libc(|| super::exec::execve(a as *const _, b as *const _, c as *const _)),
        libc::SYS_execveat => {
            let [.., e, _] = words;
            of_libc(|| super::exec::execveat(a as i32, b as *const _, c as *const _, d as *const _, e as i32))
        }
        libc::SYS_exit_group => {
            super::aside(calls::process::leave);
            plain(number, words)
        }
        _ => routed(number, words).unwrap_or_else(|| plain(number, words)),
    }
}

/// A function of libc's kind, as a system call.
fn of_libc(function: impl FnOnce() -> i32) -> isize {
    let before = super::errno();
    let result = function();
    let errno = super::errno();
    super::set_errno(before);
    if result == -1 { -(errno as isize) } else { result as isize }
}

/// The call as the program made it.
fn plain(number: i64, words: [usize; 6]) -> isize {
    // SAFETY: the program's own call; those that need their own stack are `emulate`'s.
    unsafe { call::native(number, words) }
}

/// What our function of that name says; `None` when the call is the kernel's.
fn routed(number: i64, [a, b, c, d, e, f]: [usize; 6]) -> Option<isize> {
    match super::aside(|| super::syscall::route(number, a, b, c, d, e, f))? {
        Outcome::PassThrough => None,
        Outcome::Ours(Ok(value)) => Some(value as isize),
        Outcome::Ours(Err(Errno(errno))) => Some(-(errno as isize)),
    }
}

/// As the hooks of the epoll calls wait.
fn wait_epoll(number: i64, words: [usize; 6]) -> isize {
    let [set, events, ..] = words;
    let set = set as i32;
    loop {
        calls::before_epoll(set);
        let result = routed(number, words).unwrap_or_else(|| plain(number, words));
        let mut count = i32::try_from(result.max(-1)).unwrap_or(-1);
        // SAFETY: exactly what the program passed.
        let events = unsafe { super::User::new(events) };
        if !calls::after_epoll(set, events, &mut count) {
            return if result < 0 { result } else { count as isize };
        }
    }
}

/// sigprocmask(): SIGSYS stays unblocked.
pub(crate) fn sigprocmask(how: i32, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> i32 {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    without_sigsys(set, |set| unsafe { (real::sigprocmask.get())(how, set, old) })
}

/// pthread_sigmask(): the same.
pub(crate) fn pthread_sigmask(how: i32, set: *const libc::sigset_t, old: *mut libc::sigset_t) -> i32 {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    without_sigsys(set, |set| unsafe { (real::pthread_sigmask.get())(how, set, old) })
}

fn without_sigsys(set: *const libc::sigset_t, real: impl FnOnce(*const libc::sigset_t) -> i32) -> i32 {
    if !is_on() || set.is_null() {
        return real(set);
    }
    // SAFETY: libc reads it in the same way.
    let mut copy = unsafe { set.read() };
    // SAFETY: a set of ours and a signal that there is.
    unsafe { libc::sigdelset(&raw mut copy, libc::SIGSYS) };
    real(&raw const copy)
}

/// A set of 32 signals without SIGSYS.
fn without_sigsys_bit(mask: i32) -> i32 {
    if is_on() { mask & !(SIGSYS_BIT as i32) } else { mask }
}

/// sigblock(), of 4.2BSD.
pub(crate) fn sigblock(mask: i32) -> i32 {
    // SAFETY: libc's own, with an integer.
    unsafe { (real::sigblock.get())(without_sigsys_bit(mask)) }
}

/// sigsetmask(), of 4.2BSD.
pub(crate) fn sigsetmask(mask: i32) -> i32 {
    // SAFETY: libc's own, with an integer.
    unsafe { (real::sigsetmask.get())(without_sigsys_bit(mask)) }
}
