//! What a new image does about the sockets that it was left as handles: at its start it looks through its descriptors,
//! and through those that it gets by SCM_RIGHTS as they come; it joins the family that their names tell of, takes them
//! over and puts placeholders under their numbers. A program that was left none pays for one poll() and a few names.
//! What cannot be taken over stays a handle, an AF_UNIX socket that the keeper pumps.

use remora_host::runtime::{self, HandleId, HandleName, JoinError, Runtime, Taken};
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::protocol::SocketType;
use smallvec::SmallVec;

use super::companion;
use crate::abi::stdio;
use crate::config;
use crate::fdtable::{self, Entry, Handle};

/// Numbers looked at by one poll().
const BLOCK: usize = 256;

/// The last number that is looked at. Programs that keep sockets over exec keep them low.
const LAST: usize = 1 << 16;

/// Found handles, by number.
type Found = SmallVec<[(i32, HandleName); 8]>;

/// Looks for handles among the descriptors that this image was started with.
pub(crate) fn scan() {
    let mut found = Found::new();
    let mut first = 0;
    let mut open = 0;
    // Since Linux 6.2 the directory's size is the number of open descriptors; before, and without /proc, it is 0.
    let total = call::path_size(c"/proc/self/fd").unwrap_or(0);
    while first < LAST {
        let in_block = scan_block(first, &mut found);
        open += in_block;
        first += BLOCK;
        if if total == 0 { in_block == 0 } else { open as u64 >= total } {
            break;
        }
    }
    if !found.is_empty() {
        take_over_all(&found);
    }
}

/// Looks at one block of numbers; returns how many of them are open.
fn scan_block(first: usize, found: &mut Found) -> usize {
    let mut set: [libc::pollfd; BLOCK] =
        std::array::from_fn(|place| libc::pollfd { fd: (first + place) as i32, events: 0, revents: 0 });
    // More than RLIMIT_NOFILE at once is refused: then as many as there can be.
    let limit = call::resource_limit(libc::RLIMIT_NOFILE as i32).map_or(BLOCK as u64, |limit| limit.soft);
    let count = BLOCK.min(usize::try_from(limit).unwrap_or(BLOCK));
    let Some(part) = set.get_mut(..count) else { return 0 };
    if call::ppoll(part, Some(std::time::Duration::ZERO), None).is_err() {
        return 0;
    }
    let mut open = 0;
    for polled in part.iter().filter(|polled| polled.revents & libc::POLLNVAL == 0) {
        open += 1;
        if let Some(name) = HandleName::of(Fd(polled.fd)) {
            found.push((polled.fd, name));
        }
    }
    open
}

/// A descriptor that has come by SCM_RIGHTS may be a handle.
pub(crate) fn look_at_received(numbers: &[i32]) {
    if super::strangers::is_locked_in() {
        return;
    }
    let found: Found = numbers.iter().filter_map(|fd| Some((*fd, HandleName::of(Fd(*fd))?))).collect();
    if !found.is_empty() {
        take_over_all(&found);
    }
}

/// Joins the family and takes over its handles. A process can belong to one family.
fn take_over_all(found: &[(i32, HandleName)]) {
    let Some(settings) = config::active() else { return };
    let mut refused: Option<JoinError> = None;
    let mut done: SmallVec<[HandleId; 8]> = SmallVec::new();
    for (_, name) in found {
        if done.contains(&name.handle) {
            continue;
        }
        done.push(name.handle);
        match runtime::join(name.family, settings.config()) {
            Ok(runtime) => take_over(runtime, name, found),
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        log::info!(target: "remora::shim", "a socket from another process stays with its keeper: {error}");
    }
}

/// Takes over one handle under all numbers that it has here, so that they share one placeholder.
fn take_over(runtime: &'static Runtime, name: &HandleName, found: &[(i32, HandleName)]) {
    let near = found.iter().find(|(_, other)| other == name).map_or(Fd::NONE, |(number, _)| Fd(*number));
    let Some(taken) = runtime.take_over(name).or_else(|| take_back(runtime, name, near)) else {
        log::info!(target: "remora::shim", "a socket from another process stays with its keeper: it is in use there");
        return;
    };
    let handle = Handle { id: taken.id, family: taken.kind.family, kind: taken.kind.kind };
    let placeholder = match placeholder(handle, taken.nonblocking) {
        Ok(fd) => fd,
        Err(_) => return runtime.release(taken.id),
    };
    for (number, _) in found.iter().filter(|(_, other)| other == name) {
        if fdtable::fits(*number) && stand_in(placeholder, *number).is_ok() {
            runtime.hold(taken.id);
            stdio::take_standard(*number);
            if let Some(stale) = fdtable::insert(*number, Entry::Socket(handle)) {
                super::release_entry(stale);
            }
        }
    }
    let _ = call::close(placeholder);
    // The hold that came with the take-over: each number has its own now.
    runtime.release(taken.id);
    runtime.handle_was_closed(name);
    if taken.listening {
        companion::adopt(runtime, handle);
    }
    log::debug!(target: "remora::shim", "a socket of the program before this one is taken over: {:?}", taken.id);
}

/// The same for a handle whose bytes the keeper moves already. A stream's come back; connections and datagrams that wait
/// in the handle cannot be put back into the stack, so such a one stays.
fn take_back(runtime: &Runtime, name: &HandleName, near: Fd) -> Option<Taken> {
    let id = runtime.take_back(name.handle, near)?;
    let kind = runtime.kind(id)?;
    let mut set = [libc::pollfd { fd: near.raw(), events: libc::POLLIN, revents: 0 }];
    let waits = kind.kind != SocketType::Stream || name.listener;
    if waits && call::ppoll(&mut set, Some(std::time::Duration::ZERO), None).is_ok_and(|count| count > 0) {
        runtime.release(id);
        return None;
    }
    Some(Taken { id, kind, nonblocking: runtime.nonblocking(id), listening: name.listener })
}

/// A descriptor that nobody uses, for a number of ours. Closed on exec.
pub(super) fn placeholder(handle: Handle, nonblocking: bool) -> Result<Fd, Errno> {
    let kind = if handle.kind == SocketType::Stream { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let flags = if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    call::socket(libc::AF_UNIX, kind | flags | libc::SOCK_CLOEXEC, 0)
}

/// Puts `fd` under a number in place of what stands there, close-on-exec as that was.
pub(super) fn stand_in(fd: Fd, number: i32) -> Result<(), Errno> {
    let flags = call::fcntl(Fd(number), libc::F_GETFD, 0)?;
    let flag = if flags & libc::FD_CLOEXEC == 0 { 0 } else { libc::O_CLOEXEC };
    call::dup3(fd, Fd(number), flag).map(drop)
}
