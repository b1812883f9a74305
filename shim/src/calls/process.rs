//! Fork, change of user and exit: the runtime hears of each exactly once. fork() and its kin are hooks, which know the
//! child's number; fork handlers catch the forks inside libc (daemon, forkpty). exec is `exec`'s, and what a new image
//! does about the sockets it was left is `adopt`'s: the keeper sees the old image go.

use std::cell::Cell;

use remora_host::runtime::{self, DescriptionId, ForkTicket, Runtime};
use remora_host::sys::call;

use crate::abi::process::{cancel, note_cancel_type};
use crate::abi::{Outcome, User};
use crate::config;
use crate::fdtable::{self, Entry};

thread_local! {
    /// The fork of this thread that is under way.
    static TICKET: Cell<Option<ForkTicket>> = const { Cell::new(None) };
    /// A hook sees to this thread's fork: the fork handlers have nothing to do.
    static HOOKED: Cell<bool> = const { Cell::new(false) };
}

/// Before a fork, by a fork handler.
pub(crate) fn before_fork() {
    if !HOOKED.get() {
        prepare();
    }
}

/// After a fork in the parent, by a fork handler: it does not know the child. (A fork that failed is put right by the
/// keeper, to which the child never spoke.)
pub(crate) fn after_fork_parent() {
    if !HOOKED.get() {
        finish_parent(Some(0));
    }
}

/// After a fork in the child, by a fork handler.
pub(crate) fn after_fork_child() {
    if !HOOKED.get() {
        finish_child();
    }
}

fn prepare() {
    let runtime = runtime::current().filter(|_| !super::strangers::is_locked_in());
    if let Some(runtime) = runtime {
        super::epoll::share_sets(runtime);
    }
    super::epoll::stop_making();
    if let Some(runtime) = runtime {
        TICKET.set(Some(runtime.before_fork()));
    }
}

fn finish_parent(child: Option<i32>) {
    super::epoll::go_on_making();
    if let (Some(runtime), Some(ticket)) = (runtime::current(), TICKET.take()) {
        runtime.after_fork_parent(ticket, child);
    }
}

fn finish_child() {
    crate::abi::deep::enable_thread();
    super::epoll::go_on_making();
    super::epoll::forget_sleepers();
    if let (Some(runtime), Some(ticket)) = (runtime::current(), TICKET.take()) {
        runtime.after_fork_child(ticket);
        super::rules::after_fork_child();
        reconcile(runtime);
    }
}

/// Tells the runtime what this child really holds: other threads of the parent, which are not here, held what they were
/// waiting on, and may have opened and closed descriptors meanwhile.
fn reconcile(runtime: &Runtime) {
    let mut sockets: Vec<DescriptionId> = fdtable::entries(0, i32::MAX)
        .filter_map(|(_, entry)| match entry {
            Entry::Socket(handle) => Some(handle.id),
            _ => None,
        })
        .collect();
    sockets.sort_unstable_by_key(|id| (id.index, id.generation));
    let mut left = sockets.as_slice();
    runtime.reconcile(&mut || {
        let first = *left.first()?;
        let count = left.iter().take_while(|id| **id == first).count();
        left = left.get(count..).unwrap_or(&[]);
        Some((first, count as u32))
    });
}

/// fork(), _Fork() or vfork() by a hook. vfork is fork: its child may run hooks (python's subprocess closes
/// descriptors in it), which must not happen in memory shared with the parent.
pub(crate) fn fork(real: impl FnOnce() -> i32) -> i32 {
    HOOKED.set(true);
    prepare();
    let child = real();
    match child {
        0 => finish_child(),
        _ => finish_parent((child > 0).then_some(child)),
    }
    HOOKED.set(false);
    child
}

/// The last moment with the right to open a packet socket: a daemon that gives up root first and makes its sockets
/// afterwards (memcached) has the same sockets as on Linux. A failure shows at the first bind or connect, which tries
/// again. `users` are what the call sets; all ones leaves one as it is.
fn before_user_change<T>(users: &[u32]) -> Outcome<T> {
    if users.iter().any(|user| !matches!(*user, 0 | u32::MAX)) && call::is_root() {
        open_device();
    }
    Outcome::PassThrough
}

/// capset(): a daemon gives up the right alone and stays root (named).
pub(crate) fn capset(_header: User<u32>, data: User<u32>) -> Outcome<i32> {
    /// The second word of struct __user_cap_data_struct.
    const PERMITTED: usize = 1;
    let permitted = data.read_many(PERMITTED + 1).ok().and_then(|words| words.get(PERMITTED).copied());
    if permitted.is_some_and(|permitted| permitted >> call::NET_RAW & 1 == 0) && call::is_permitted(call::NET_RAW) {
        open_device();
    }
    Outcome::PassThrough
}

fn open_device() {
    if let Some(settings) = config::active()
        && let Ok(runtime) = runtime::start(settings.config())
    {
        let _ = runtime.bring_up(false);
    }
}

pub(crate) fn setuid(user: u32) -> Outcome<i32> {
    before_user_change(&[user])
}

pub(crate) fn seteuid(effective: u32) -> Outcome<i32> {
    before_user_change(&[effective])
}

pub(crate) fn setreuid(real: u32, effective: u32) -> Outcome<i32> {
    before_user_change(&[real, effective])
}

pub(crate) fn setresuid(real: u32, effective: u32, saved: u32) -> Outcome<i32> {
    before_user_change(&[real, effective, saved])
}

/// The process ends: everything that it holds is given up, at once.
pub(crate) fn leave() {
    super::rules::sum_up();
    if let Some(runtime) = runtime::current().filter(|_| !super::strangers::is_locked_in()) {
        runtime.leave();
    }
}

pub(crate) fn pthread_cancel(thread: usize) -> Outcome<i32> {
    // The result is the error itself; errno is left alone.
    Outcome::Ours(Ok(cancel(thread)))
}

/// pthread_setcanceltype(): libc's own is outside of everything of ours, as it may end the thread.
pub(crate) fn pthread_setcanceltype(kind: i32, _before: User<i32>) -> Outcome<i32> {
    note_cancel_type(kind);
    Outcome::PassThrough
}

pub(crate) fn _exit(_status: i32) -> Outcome<()> {
    leave();
    Outcome::PassThrough
}

/// quick_exit() runs the handlers of at_quick_exit after this; none of them is known to use a socket.
pub(crate) fn quick_exit(status: i32) -> Outcome<()> {
    _exit(status)
}
