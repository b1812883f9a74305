//! What the socket calls of a program come to: safe Rust between the hook table and the stack. `socket` and `names` are
//! about the socket itself, `io` about data, `options` about options, `ready` and `epoll` about waiting, `fdops` about
//! descriptor numbers, `transfer` about copies between descriptors, `strangers` about code without hooks, `supervisor` about programs that no library can be loaded into, `resolver` about name servers, `interfaces` about what programs see
//! of the device. `policy` decides
//! between kernel and stack, `process` sees to fork, change of user and exit, `limits` to the address space that is not
//! the program's, `exec` to sockets that another image inherits, `adopt` to those that this one was left, and `program`
//! guesses what an image will be.
#![forbid(unsafe_code)]

pub(crate) mod adopt;
mod ancillary;
mod companion;
mod control;
mod epoll;
pub(crate) mod exec;
mod fdops;
pub(crate) mod interfaces;
mod io;
mod limits;
mod message;
mod names;
mod option_rows;
mod options;
mod policy;
pub(crate) mod process;
pub(crate) mod program;
mod ready;
pub(crate) mod resolver;
pub(crate) mod rules;
mod socket;
mod strangers;
pub(crate) mod supervisor;
mod transfer;

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use remora_host::runtime::{self, DescriptionId, Runtime};
use remora_host::sys::{Errno, call};

use crate::abi::Outcome;
pub(crate) use crate::abi::signal::{set_action as sigaction, set_interrupt as siginterrupt, set_once as sysv_signal};
pub(crate) use crate::abi::stdio::{number_of as fileno, open as open_stream};
pub(crate) use crate::abi::syscall::route as syscall;
pub(crate) use epoll::*;
pub(crate) use fdops::*;
pub(crate) use io::*;
pub(crate) use limits::*;
pub(crate) use message::*;
pub(crate) use names::*;
pub(crate) use options::*;
pub(crate) use process::{
    _exit, capset, pthread_cancel, pthread_setcanceltype, quick_exit, seteuid, setresuid, setreuid, setuid,
};
pub(crate) use ready::*;
pub(crate) use socket::*;
pub(crate) use strangers::{before_seccomp, is_locked_in, prctl};
pub(crate) use transfer::*;

use crate::abi::User;
use crate::abi::signal::set_handler;
use crate::fdtable::{self, Entry, Epoll, Handle};
use crate::hooks::real;

/// The log target of the call trace.
const TRACE: &str = "remora::call";

/// The number was closed behind our back and is another file's now: the call is libc's. Not an errno.
const STALE: Errno = Errno(i32::MIN);

/// To be asked before a call sleeps: whether the number still is the socket's. A stale entry is given up.
fn check_fresh(fd: i32) -> Result<(), Errno> {
    if fdtable::is_fresh(fd) {
        return Ok(());
    }
    if let Some(entry) = fdtable::remove(fd) {
        log::info!(target: "remora::shim", "descriptor {fd} was closed unseen");
        release_entry(entry);
    }
    Err(STALE)
}

/// To be called before a sleep on several descriptors: looks at a few numbers of the table, each time at others, and
/// gives up those that were closed unseen, so that their sockets end.
fn sweep() {
    /// A look costs a system call.
    const AT_A_TIME: usize = 4;
    /// When to look again, so that short sleeps pay little for it.
    const AGAIN: u64 = Duration::from_millis(1).as_nanos() as u64;
    static LOOKED: AtomicU64 = AtomicU64::new(0);
    let now = call::now().nanos();
    if now.saturating_sub(LOOKED.load(Ordering::Relaxed)) < AGAIN {
        return;
    }
    LOOKED.store(now, Ordering::Relaxed);
    static NEXT: AtomicI32 = AtomicI32::new(0);
    let start = NEXT.load(Ordering::Relaxed);
    let mut looked = 0;
    let mut next = 0;
    for (fd, entry) in fdtable::entries(start, i32::MAX).chain(fdtable::entries(0, start - 1)) {
        if looked == AT_A_TIME {
            next = fd;
            break;
        }
        if matches!(entry, Entry::Socket(_) | Entry::Epoll(Epoll::Mixed(_))) {
            looked += 1;
            let _ = check_fresh(fd);
        }
    }
    NEXT.store(next, Ordering::Relaxed);
}

/// A call begins while another of this thread, which a signal handler interrupted, has not ended and may never do so
/// (siglongjmp): what that one had is given up. Should it go on, it takes it anew.
pub(crate) fn abandon() {
    if let Some(runtime) = runtime::current() {
        runtime.abandon_waits();
        abandon_hold(runtime);
    }
}

/// Ends a call on a socket of ours: one line of trace when that is on.
fn traced<T: Copy + fmt::Display>(call: fmt::Arguments<'_>, result: Result<T, Errno>) -> Outcome<T> {
    if matches!(result, Err(STALE)) {
        return Outcome::PassThrough;
    }
    if log::log_enabled!(target: TRACE, log::Level::Debug) {
        match result {
            Ok(value) => log::debug!(target: TRACE, "{call} = {value}"),
            Err(errno) => log::debug!(target: TRACE, "{call} = -1 {}", crate::errno::Label(errno)),
        }
    }
    Outcome::Ours(result)
}

/// The runtime of a socket of ours. It exists: the socket was made in it. (EBADF after `leave`.)
fn running() -> Result<&'static Runtime, Errno> {
    runtime::current().ok_or(Errno(libc::EBADF))
}

/// The socket behind a number and the runtime that holds it.
fn socket_of(fd: i32) -> Option<(Handle, &'static Runtime)> {
    Some((fdtable::socket(fd)?, runtime::current()?))
}

/// What a description that is gone answers: its family broke (decision 5), or the number was closed just now.
fn gone(fd: i32, id: DescriptionId) -> Errno {
    let reused = fdtable::socket(fd).is_none_or(|handle| handle.id != id);
    Errno(if reused { libc::EBADF } else { libc::ECONNRESET })
}

pub(crate) fn signal(signal: i32, handler: usize) -> Outcome<usize> {
    set_handler(signal, handler, real::signal.get())
}

pub(crate) fn sigset(signal: i32, handler: usize) -> Outcome<usize> {
    set_handler(signal, handler, real::sigset.get())
}

/// fdopen(): a stream over a socket of ours needs functions of ours.
pub(crate) fn fdopen(fd: i32, mode: User<std::ffi::c_char>) -> Outcome<*mut libc::FILE> {
    match fdtable::socket(fd) {
        Some(_) => open_stream(fd, mode),
        None => Outcome::PassThrough,
    }
}
