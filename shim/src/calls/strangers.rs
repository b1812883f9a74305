//! Where sockets reach code that never meets a hook: SCM_RIGHTS, and the process's own entry into a seccomp filter that
//! forbids what the library needs. Handles take the place of the placeholders there; the keeper serves them.

use std::sync::atomic::{AtomicBool, Ordering};

use remora_host::runtime::{self, Expect, Handle as Given, HandleKind, HandleName, Runtime};
use remora_host::sys::{Errno, Fd, call};
use smallvec::SmallVec;

use super::policy::{Registration, registrations};
use crate::abi::message::{Header, send_raw};
use crate::abi::{Outcome, User, deep, seccomp};
use crate::fdtable::{self, Entry, Handle};

/// This process has entered a filter under which the library cannot work: every call is libc's from then on.
static LOCKED_IN: AtomicBool = AtomicBool::new(false);

/// Whether every call of this process is libc's.
#[inline]
pub(crate) fn is_locked_in() -> bool {
    LOCKED_IN.load(Ordering::Relaxed)
}

/// Puts the program's end of a handle under a number, which keeps its close-on-exec flag.
pub(super) fn put_under(near: Fd, number: i32) -> Result<(), Errno> {
    let close_on_exec = call::fcntl(Fd(number), libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0;
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    call::dup3(near, Fd(number), flags).map(drop)
}

/// A message to a socket that is not ours. Descriptors of ours among its rights go as handles.
pub(super) fn send_rights(fd: i32, message: User<libc::msghdr>, flags: i32) -> Outcome<isize> {
    let Some(runtime) = runtime::current().filter(|_| !is_locked_in()) else { return Outcome::PassThrough };
    let Ok(header) = Header::read(message) else { return Outcome::PassThrough };
    let Ok(mut control) = header.control() else { return Outcome::PassThrough };
    let places = rights(&control);
    let ours = places.into_iter().filter(|(_, number)| fdtable::socket(*number).is_some());
    let ours: SmallVec<[(usize, i32); 8]> = ours.collect();
    if ours.is_empty() {
        return Outcome::PassThrough;
    }
    let mut given: SmallVec<[Given; 8]> = SmallVec::new();
    for (place, number) in ours {
        let Some(handle) = fdtable::socket(number) else { continue };
        match runtime.make_handle(handle.id) {
            Ok(made) => {
                if let Some(word) = control.get_mut(place..place + 4) {
                    word.copy_from_slice(&made.near.raw().to_ne_bytes());
                }
                given.push(made);
            }
            // Its receiver gets the placeholder, on which calls fail cleanly.
            Err(error) => {
                log::info!(target: "remora::shim", "descriptor {number} is passed without a handle: {error:?}")
            }
        }
    }
    let result = send_raw(fd, &header, &control, flags);
    for made in &given {
        match result {
            Ok(_) => runtime.start_handle(made.id, Expect::Stranger, true),
            Err(_) => runtime.cancel_handle(made.id),
        }
        // What is under way has its own hold of it.
        let _ = call::close(made.near);
    }
    super::traced(format_args!("sendmsg({fd}, {} handles)", given.len()), result)
}

/// Where descriptor numbers stand in control data, and which.
fn rights(control: &[u8]) -> SmallVec<[(usize, i32); 8]> {
    const HEADER: usize = 16;
    let mut found = SmallVec::new();
    let mut at = 0usize;
    while let Some(rest) = control.get(at..).filter(|rest| rest.len() >= HEADER) {
        let length = rest.first_chunk().copied().map_or(0, usize::from_ne_bytes);
        let int = |at: usize| rest.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, i32::from_ne_bytes);
        let Some(data) = rest.get(HEADER..length) else { break };
        if (int(8), int(12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let numbers = data.as_chunks::<4>().0.iter().map(|word| i32::from_ne_bytes(*word));
            found.extend(numbers.enumerate().map(|(index, number)| (at + HEADER + 4 * index, number)));
        }
        at = at.saturating_add(length.next_multiple_of(8));
    }
    found
}

/// prctl(): a filter may be entered by it.
pub(crate) fn prctl(option: i32, b: usize, c: usize, _d: usize, _e: usize) -> Outcome<i32> {
    if option == libc::PR_SET_SECCOMP {
        before_filter(b == libc::SECCOMP_MODE_STRICT as usize, c);
    }
    Outcome::PassThrough
}

/// seccomp(), which is called by number.
pub(crate) fn before_seccomp(operation: usize, program: usize) {
    match u32::try_from(operation) {
        Ok(libc::SECCOMP_SET_MODE_STRICT) => before_filter(true, program),
        Ok(libc::SECCOMP_SET_MODE_FILTER) => before_filter(false, program),
        _ => {}
    }
}

/// Before this process enters a filter. Where that forbids what the library needs, all sockets become handles now, while
/// they still can, and the library takes its hands off: it is as if it were not there.
fn before_filter(strict: bool, program: usize) {
    if !strict && !seccomp::allows_all(program, &[libc::SYS_recvmmsg]) {
        call::receive_one_at_a_time();
    }
    // Caught calls need the way back from a handler too.
    let needed = if deep::is_on() { [NEEDED, &[libc::SYS_rt_sigreturn]] } else { [NEEDED, &[]] };
    if is_locked_in() || (!strict && needed.iter().all(|numbers| seccomp::allows_all(program, numbers))) {
        return;
    }
    LOCKED_IN.store(true, Ordering::Release);
    let Some(runtime) = runtime::current() else { return };
    for (_, entry) in fdtable::entries(0, i32::MAX) {
        if let Entry::Socket(handle) = entry {
            make_strange(runtime, handle);
        }
    }
    for (fd, _) in fdtable::entries(0, i32::MAX) {
        fdtable::remove(fd);
    }
    runtime.retire();
    log::info!(target: "remora::shim", "a seccomp filter forbids what the library needs: the keeper serves this process");
}

/// Before this process lowers its limit of descriptor numbers. A sandboxed child does that just before its filter
/// (sshd's: to 1), and no handle could be made or put under a number then. So parked ones take the place of the
/// placeholders, which they are as good as, while they still can.
pub(super) fn before_descriptor_limit(limit: u64) {
    let Some(runtime) = runtime::current().filter(|_| !is_locked_in()) else { return };
    let highest = fdtable::entries(0, i32::MAX).map(|(number, _)| number).max().unwrap_or(-1);
    if limit > u64::try_from(highest + SPARE).unwrap_or(0) {
        return;
    }
    let sockets = fdtable::entries(0, i32::MAX).filter_map(|(number, entry)| match entry {
        Entry::Socket(handle) => Some((number, handle)),
        _ => None,
    });
    let sockets: SmallVec<[(i32, Handle); 8]> = sockets.collect();
    for (number, handle) in sockets {
        if parked_under(runtime, handle, number).is_some() {
            continue;
        }
        match runtime.make_handle(handle.id) {
            Ok(made) => {
                for number in fdtable::numbers_of(handle.id) {
                    let _ = put_under(made.near, number);
                    fdtable::renew(number);
                }
                let _ = call::close(made.near);
            }
            Err(error) => log::info!(target: "remora::shim", "no handle before a limit of numbers: {error:?}"),
        }
    }
}

/// The handle that stands under a number in place of a placeholder, see [`before_descriptor_limit`].
fn parked_under(runtime: &Runtime, handle: Handle, number: i32) -> Option<HandleName> {
    HandleName::of(Fd(number)).filter(|name| name.family == runtime.family_id() && name.description == handle.id)
}

/// Puts a handle under every number of a description, and its watches into the kernel's epoll sets.
fn make_strange(runtime: &Runtime, handle: Handle) {
    let numbers: SmallVec<[i32; 4]> = fdtable::numbers_of(handle.id).collect();
    let watches = registrations(runtime, handle);
    let parked = numbers.iter().find_map(|number| parked_under(runtime, handle, *number));
    let made = match parked {
        Some(name) => Ok((name.handle, name.listener, Fd::NONE)),
        None => runtime.make_handle(handle.id).map(|made| (made.id, made.kind == HandleKind::Listener, made.near)),
    };
    for number in &numbers {
        if let Ok((_, _, near)) = made
            && near.is_some()
        {
            let _ = put_under(near, *number);
        }
        fdtable::remove(*number);
    }
    for _ in &numbers {
        runtime.release(handle.id);
    }
    match made {
        Ok((id, listener, near)) => {
            // A listener's connections are for those who can still tell that they want them, while there are any.
            runtime.start_handle(id, Expect::Stranger, !listener);
            if near.is_some() {
                let _ = call::close(near);
            }
        }
        Err(error) => log::warn!(target: "remora::shim", "no handle for a socket under the filter: {error:?}"),
    }
    for Registration { set_fd, fd, events, data } in watches {
        let mut event = libc::epoll_event { events, u64: data };
        let _ = call::epoll_ctl(Fd(set_fd), libc::EPOLL_CTL_ADD, Fd(fd), Some(&mut event));
    }
}

/// Numbers that making a handle takes for a moment.
const SPARE: i32 = 4;

/// What the library calls of the kernel while a program uses sockets. A filter that lets all of it pass is no hindrance.
const NEEDED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_dup3,
    libc::SYS_clock_gettime,
    libc::SYS_mmap,
    libc::SYS_ftruncate,
    libc::SYS_rt_sigprocmask,
    libc::SYS_getpid,
    libc::SYS_kill,
    libc::SYS_ioctl,
    libc::SYS_bind,
    libc::SYS_setsockopt,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
];
