//! Descriptor numbers: close, dup and their kin, fcntl and ioctl.

use std::time::Duration;

use remora_host::runtime::{self, Owner, OwnerKind, WaitEnd};
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::{AddressFamily, Readiness, Shutdown, SocketId};
use remora_stack::stack::Stack;
use remora_stack::time::Instant;

use super::interfaces;
use super::{adopt, check_fresh, companion, gone, socket_of, traced};
use crate::abi::{Outcome, User, control, signal, stdio};
use crate::fdtable::{self, Entry, Epoll};
use crate::placeholder;

/// Gives up what an entry held.
pub(super) fn release_entry(entry: Entry) {
    let Some(runtime) = runtime::current() else { return };
    match entry {
        Entry::Socket(handle) => {
            companion::end_with_last(handle.id);
            runtime.release(handle.id);
        }
        Entry::Epoll(Epoll::Mixed(set)) => runtime.set_release(set),
        Entry::Epoll(Epoll::Plain(_)) | Entry::Watched | Entry::Loopback(_) => {}
    }
}

/// Whether a number is the library's own, which the program never opened.
pub(super) fn is_private(fd: i32) -> bool {
    !super::strangers::is_locked_in()
        && (companion::is_companion(fd)
            || placeholder::is_kept(fd)
            || runtime::current().is_some_and(|runtime| runtime.is_private_fd(fd)))
}

/// Makes `number`, a new copy of `fd` with this entry, stand for the same. Where another thread has closed `fd` or put
/// something else there meanwhile, it is not known what was copied: that thread was first.
fn copy_entry(fd: i32, entry: Entry, number: i32) -> Result<i32, Errno> {
    if matches!(entry, Entry::Socket(_)) {
        stdio::take_standard(number);
    }
    if !fdtable::fits(number) {
        let _ = call::close(Fd(number));
        return Err(Errno(libc::EMFILE));
    }
    if let Some(runtime) = runtime::current() {
        match entry {
            Entry::Socket(handle) => {
                let held = runtime.hold(handle.id);
                if fdtable::lookup(fd) != Some(entry) {
                    let _ = call::close(Fd(number));
                    if held {
                        runtime.release(handle.id);
                    }
                    return Err(Errno(libc::EBADF));
                }
            }
            Entry::Epoll(Epoll::Mixed(set)) => runtime.set_hold(set),
            Entry::Epoll(Epoll::Plain(_)) | Entry::Watched | Entry::Loopback(_) => {}
        }
    }
    if let Some(stale) = fdtable::insert(number, entry) {
        release_entry(stale);
    }
    placeholder::copied(fd, number);
    Ok(number)
}

pub(crate) fn close(fd: i32) -> Outcome<i32> {
    let Some(entry) = fdtable::take(fd) else {
        return if is_private(fd) { Outcome::fail(libc::EBADF) } else { Outcome::PassThrough };
    };
    // The number is free at once, however long the rest takes.
    let result = match entry {
        Entry::Socket(_) => placeholder::close(fd),
        _ => call::close(Fd(fd)),
    };
    let result = result.map(|()| 0);
    linger(entry);
    release_entry(entry);
    if matches!(entry, Entry::Socket(_)) { traced(format_args!("close({fd})"), result) } else { Outcome::Ours(result) }
}

/// SO_LINGER with a time: the last close of a connection waits until the peer has acknowledged data and FIN, or the time
/// has passed, or a signal comes (`tcp_close`, `sk_stream_wait_close`). O_NONBLOCK makes no difference.
//= REF T-10
fn linger(entry: Entry) {
    let Entry::Socket(handle) = entry else { return };
    let Some(runtime) = runtime::current().filter(|_| handle.is_stream()) else { return };
    let span = runtime.with_socket(handle.id, |stack, socket, now| {
        let span = stack.options(socket)?.linger.filter(|span| !span.is_zero())?;
        // What was not read is thrown away with a reset, which waits for nothing.
        let leaves = stack.queued_input(socket) == 0 && is_connection(tcp_state(stack, socket, now)?);
        leaves.then_some(span)
    });
    let Some(span) = span.flatten().filter(|_| runtime.holders(handle.id) == 1) else { return };
    let _ = runtime.with_socket(handle.id, |stack, socket, now| stack.shutdown(now, socket, Shutdown::Write));
    let end = call::now() + span;
    let handled = signal::handled();
    loop {
        // Not every acknowledgement is an event to sleepers: looked for again after a while.
        let until = end.min(call::now() + LINGER_LOOK);
        let left = runtime.block_on(
            handle.id,
            Readiness::empty(),
            Some(until),
            &|| handled.any_since(),
            |stack, socket, now| (!tcp_state(stack, socket, now).is_some_and(is_closing)).then_some(()),
        );
        if left != Err(WaitEnd::TimedOut) || call::now() >= end {
            return;
        }
    }
}

/// When to look again how a close stands, while it waits.
const LINGER_LOOK: Duration = Duration::from_millis(20);

/// The state in struct tcp_info's first byte.
fn tcp_state(stack: &mut Stack, socket: SocketId, now: Instant) -> Option<u8> {
    match stack.option(now, socket, OptionName::Info) {
        Ok(OptionValue::Bytes(bytes)) => bytes.first().copied(),
        _ => None,
    }
}

/// Whether the state has a peer that is still to be told of the close.
fn is_connection(state: u8) -> bool {
    matches!(state, TCP_ESTABLISHED | TCP_CLOSE_WAIT) || is_closing(state)
}

/// Whether a FIN is on its way and not acknowledged (`closing`).
fn is_closing(state: u8) -> bool {
    matches!(state, TCP_FIN_WAIT1 | TCP_CLOSING | TCP_LAST_ACK)
}

/// States as <netinet/tcp.h> numbers them.
const TCP_ESTABLISHED: u8 = 1;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// Where numbers of ours end; private ones sit below (they go to the top of the limit, which is capped).
const PRIVATE_END: u32 = 1 << 16;

/// Closes a range around the numbers that are the library's own. `first_flags` is for the first call only.
pub(crate) fn close_range(first: u32, last: u32, flags: i32) -> Outcome<i32> {
    const UNSHARE: i32 = libc::CLOSE_RANGE_UNSHARE as i32;
    const CLOSE_ON_EXEC: i32 = libc::CLOSE_RANGE_CLOEXEC as i32;
    if first > last || flags & !(UNSHARE | CLOSE_ON_EXEC) != 0 {
        return Outcome::PassThrough;
    }
    // Only marks: private descriptors have the mark already.
    if flags & CLOSE_ON_EXEC != 0 || runtime::current().is_none() && !any_entry(first, last) {
        return Outcome::PassThrough;
    }
    Outcome::Ours(close_around(first, last, flags as u32))
}

fn any_entry(first: u32, last: u32) -> bool {
    fdtable::entries(number(first), number(last)).next().is_some()
}

fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn close_around(first: u32, last: u32, flags: u32) -> Result<i32, Errno> {
    for (fd, _) in fdtable::entries(number(first), number(last)) {
        let _ = close(fd);
    }
    let mut flags = flags;
    let mut start = first;
    for guarded in (first..=last.min(PRIVATE_END)).filter(|fd| is_private(*fd as i32)) {
        if guarded > start {
            call::close_range(start, guarded - 1, flags)?;
            flags = 0;
        }
        start = guarded + 1;
    }
    if start <= last {
        call::close_range(start, last, flags)?;
    }
    Ok(0)
}

pub(crate) fn closefrom(first: i32) -> Outcome<()> {
    let first = first.max(0) as u32;
    if runtime::current().is_none() && !any_entry(first, u32::MAX) {
        return Outcome::PassThrough;
    }
    // Libc's closefrom ends the program when it fails; close_range cannot fail for a whole range.
    match close_around(first, u32::MAX, 0) {
        Ok(_) => Outcome::Ours(Ok(())),
        Err(_) => Outcome::PassThrough,
    }
}

pub(crate) fn dup(fd: i32) -> Outcome<i32> {
    duplicate(fd, libc::F_DUPFD, 0)
}

/// dup and F_DUPFD: the kernel picks the number, the entry follows.
fn duplicate(fd: i32, command: i32, floor: i32) -> Outcome<i32> {
    let Some(entry) = fdtable::lookup(fd) else { return Outcome::PassThrough };
    let result = call::fcntl(Fd(fd), command, floor).and_then(|number| copy_entry(fd, entry, number));
    match entry {
        Entry::Socket(_) => traced(format_args!("dup({fd})"), result),
        _ => Outcome::Ours(result),
    }
}

pub(crate) fn dup2(fd: i32, target: i32) -> Outcome<i32> {
    // The same number: only whether it is open is asked.
    if fd == target {
        return Outcome::PassThrough;
    }
    replace(fd, target, 0)
}

pub(crate) fn dup3(fd: i32, target: i32, flags: i32) -> Outcome<i32> {
    replace(fd, target, flags)
}

fn replace(fd: i32, target: i32, flags: i32) -> Outcome<i32> {
    let entry = fdtable::lookup(fd);
    if entry.is_none() && !fdtable::is_ours(target) {
        return if is_private(target) { Outcome::fail(libc::EBADF) } else { Outcome::PassThrough };
    }
    if is_private(target) {
        return Outcome::fail(libc::EBADF);
    }
    if matches!(entry, Some(Entry::Socket(_))) {
        stdio::take_standard(target);
    }
    let result = call::dup3(Fd(fd), Fd(target), flags).map(Fd::raw).and_then(|number| {
        // What the number stood for is closed by the kernel; so it is here.
        if let Some(old) = fdtable::remove(number) {
            linger(old);
            release_entry(old);
        }
        match entry {
            Some(entry) => copy_entry(fd, entry, number),
            None => Ok(number),
        }
    });
    match entry {
        Some(Entry::Socket(_)) => traced(format_args!("dup2({fd}, {target})"), result),
        _ => Outcome::Ours(result),
    }
}

pub(crate) fn fcntl(fd: i32, command: i32, argument: usize) -> Outcome<i32> {
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicate(fd, command, argument as i32),
        libc::F_GETFL if placeholder::is_lent(fd) => {
            let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
            let result = check_fresh(fd).and_then(|()| call::fcntl(Fd(fd), libc::F_GETFL, 0));
            let nonblocking = if runtime.nonblocking(handle.id) { libc::O_NONBLOCK } else { 0 };
            traced(format_args!("fcntl({fd}, F_GETFL)"), result.map(|flags| flags & !libc::O_NONBLOCK | nonblocking))
        }
        libc::F_SETFL if placeholder::is_shared(fd) && argument as i32 & KEPT_BY_FILES == 0 => {
            let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
            let result = check_fresh(fd).map(|()| {
                runtime.set_nonblocking(handle.id, argument as i32 & libc::O_NONBLOCK != 0);
                0
            });
            traced(format_args!("fcntl({fd}, F_SETFL, {argument:#x})"), result)
        }
        // The placeholder keeps the flags and shares them as a socket would; the description is told of O_NONBLOCK.
        libc::F_SETFL => {
            let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
            leave_crowd(fd);
            let before = call::fcntl(Fd(fd), libc::F_GETFL, 0).unwrap_or(0);
            let result = call::fcntl(Fd(fd), command, argument as i32);
            if result.is_ok() {
                if (before ^ argument as i32) & KEPT_BY_FILES != 0 {
                    placeholder::spoil(fd);
                }
                if (before ^ argument as i32) & libc::O_ASYNC != 0 {
                    follow_owner(fd, handle, runtime, true);
                }
                runtime.set_nonblocking(handle.id, argument as i32 & libc::O_NONBLOCK != 0);
            }
            traced(format_args!("fcntl({fd}, F_SETFL, {argument:#x})"), result)
        }
        // The placeholder keeps the owner, as the kernel checks it; the description is told.
        F_SETOWN | F_SETSIG | F_SETOWN_EX => {
            let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
            leave_crowd(fd);
            let result = control::fcntl(fd, command, argument);
            placeholder::spoil(fd);
            if result.is_ok() {
                follow_owner(fd, handle, runtime, false);
            }
            traced(format_args!("fcntl({fd}, {command}, {argument:#x})"), result)
        }
        libc::F_GETFL | libc::F_GETFD | libc::F_SETFD | F_GETOWN | F_GETSIG => Outcome::PassThrough,
        // Leases and locks: the placeholder answers as a socket does.
        _ => {
            leave_crowd(fd);
            placeholder::spoil(fd);
            Outcome::PassThrough
        }
    }
}

/// Flags that F_SETFL sets and that only a file can keep (`SETFL_MASK` in fs/fcntl.c, without O_NONBLOCK).
const KEPT_BY_FILES: i32 = libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME;

/// Gives a socket that shares its file with others one of its own, under all its numbers, before something is asked for
/// that goes with the file. Where there is no number for one, it goes with the crowd's.
fn leave_crowd(fd: i32) {
    if !placeholder::is_shared(fd) {
        return;
    }
    let Some((handle, runtime)) = socket_of(fd) else { return };
    let Ok(fresh) = adopt::placeholder(handle, runtime.nonblocking(handle.id)) else { return };
    for number in fdtable::numbers_of(handle.id) {
        if fdtable::is_fresh(number) && adopt::stand_in(fresh, number).is_ok() {
            fdtable::renew(number);
        }
    }
    let _ = call::close(fresh);
}

/// fstat(): who shares a file shows an inode of its own, which no file of the kernel's sockets has (they have 32 bits).
//= REF S-01
pub(crate) fn fstat(fd: i32, status: User<libc::stat>) -> Outcome<i32> {
    const OURS: u64 = 1 << 62;
    let Some(handle) = fdtable::socket(fd).filter(|_| placeholder::is_shared(fd)) else { return Outcome::PassThrough };
    let result = check_fresh(fd).and_then(|()| call::status(Fd(fd))).and_then(|mut found| {
        let generation = u64::from(handle.id.generation & 0x3fff_ffff);
        found.st_ino = OURS | generation << 32 | u64::from(handle.id.index);
        status.write(found).map(|()| 0)
    });
    traced(format_args!("fstat({fd})"), result)
}

const F_SETOWN: i32 = 8;
const F_GETOWN: i32 = 9;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;

/// Tells the description what the placeholder knows of owner, signal and O_ASYNC. `switched`: O_ASYNC has changed by
/// this number.
fn follow_owner(fd: i32, handle: fdtable::Handle, runtime: &runtime::Runtime, switched: bool) {
    let Ok([kind, id]) = control::owner(fd) else { return };
    let kind = match kind {
        0 => OwnerKind::Thread,
        1 => OwnerKind::Process,
        _ => OwnerKind::Group,
    };
    let signal = control::fcntl(fd, F_GETSIG, 0).unwrap_or(0);
    let asynchronous = call::fcntl(Fd(fd), libc::F_GETFL, 0).is_ok_and(|flags| flags & libc::O_ASYNC != 0);
    let number = if switched { fd } else { runtime.owner(handle.id).map_or(fd, |owner| owner.fd) };
    let owner = Owner { kind, id, process: call::getpid(), signal, asynchronous, fd: number };
    runtime.set_owner(handle.id, Some(owner));
}

/// Requests on sockets (asm-generic/sockios.h, linux/sockios.h).
const SIOCATMARK: usize = 0x8905;
const SIOCOUTQNSD: usize = 0x894b;
const SIOCINQ: usize = libc::FIONREAD as usize;
const SIOCOUTQ: usize = libc::TIOCOUTQ as usize;
const FIONBIO: usize = libc::FIONBIO as usize;
const FIOASYNC: usize = libc::FIOASYNC as usize;
const FIOSETOWN: usize = 0x8901;
const SIOCSPGRP: usize = 0x8902;
/// SIOCGSTAMP_OLD and SIOCGSTAMPNS_OLD.
const SIOCGSTAMP: usize = 0x8906;
const SIOCGSTAMPNS: usize = 0x8907;
/// The forms with 64-bit time, which are the same structures on 64-bit targets.
const SIOCGSTAMP_NEW: usize = 0x8010_8906;
const SIOCGSTAMPNS_NEW: usize = 0x8010_8907;
/// Requests about interfaces, routes and the ARP table lie in this range.
const SIOC_FIRST: usize = 0x890b;
const SIOC_LAST: usize = 0x89ff;

//= REF T-11
pub(crate) fn ioctl(fd: i32, request: usize, argument: usize) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    // The request is an unsigned int in the kernel.
    let request = request & 0xffff_ffff;
    let ask = |what: fn(&remora_stack::stack::Stack, remora_stack::socket::protocol::SocketId) -> usize| {
        runtime.with_socket(handle.id, |stack, socket, _| what(stack, socket)).ok_or_else(|| gone(fd, handle.id))
    };
    let tell = |value: Result<usize, Errno>| {
        let value = i32::try_from(value?).unwrap_or(i32::MAX);
        control::argument::<i32>(argument).write(value).map(|()| 0)
    };
    let listening = || runtime.with_socket(handle.id, |stack, socket, _| stack.is_listening(socket)).unwrap_or(false);
    let result = match request {
        SIOCINQ | SIOCOUTQ | SIOCOUTQNSD if handle.is_stream() && listening() => Err(Errno(libc::EINVAL)),
        // Ping sockets have none of these (`ping_prot`); the mark is a stream's, and the request one of interfaces to
        // others, which do not know it.
        SIOCINQ | SIOCOUTQ if is_ping(handle, runtime) => Err(Errno(libc::ENOTTY)),
        SIOCATMARK if !handle.is_stream() => control::argument::<i32>(argument).read().and(Err(Errno(libc::ENOTTY))),
        SIOCINQ => tell(ask(|stack, socket| stack.queued_input(socket))),
        SIOCOUTQ => tell(ask(|stack, socket| stack.queued_output(socket))),
        SIOCOUTQNSD if handle.is_stream() => tell(ask(|stack, socket| stack.unsent_output(socket))),
        SIOCATMARK if handle.is_stream() => tell(at_mark(runtime, handle.id)),
        SIOCGSTAMP | SIOCGSTAMP_NEW => tell_time(runtime, handle, argument, 1_000),
        SIOCGSTAMPNS | SIOCGSTAMPNS_NEW => tell_time(runtime, handle, argument, 1),
        FIONBIO => control::argument::<i32>(argument).read().and_then(|value| {
            if placeholder::is_shared(fd) {
                check_fresh(fd)?;
                runtime.set_nonblocking(handle.id, value != 0);
                return Ok(0);
            }
            let flags = call::fcntl(Fd(fd), libc::F_GETFL, 0)?;
            let wanted = if value == 0 { flags & !libc::O_NONBLOCK } else { flags | libc::O_NONBLOCK };
            call::fcntl(Fd(fd), libc::F_SETFL, wanted)?;
            runtime.set_nonblocking(handle.id, value != 0);
            Ok(0)
        }),
        FIOASYNC | FIOSETOWN | SIOCSPGRP => {
            leave_crowd(fd);
            control::ioctl(fd, request, argument).inspect(|_| {
                placeholder::spoil(fd);
                follow_owner(fd, handle, runtime, request == FIOASYNC);
            })
        }
        // What the stack does not know of its interface, the kernel does: any socket of the family may ask.
        interfaces::SIOCGIFCONF => interfaces::list(argument, || ask_kernel(request, argument)),
        // `inet6_ioctl` has none of those about addresses of IPv4.
        _ if handle.family == AddressFamily::Inet6 && interfaces::is_inet_only(request) => {
            interfaces::refuse(argument, Errno(libc::ENOTTY))
        }
        SIOC_FIRST..=SIOC_LAST => {
            interfaces::answer(request, argument).unwrap_or_else(|| ask_kernel(request, argument))
        }
        // FIOCLEX and what is no request of sockets: the placeholder.
        _ => return Outcome::PassThrough,
    };
    traced(format_args!("ioctl({fd}, {request:#x})"), result)
}

/// The time of the datagram that was received last, with its fraction in units of `unit` nanoseconds (`sock_gettstamp`).
fn tell_time(runtime: &runtime::Runtime, handle: fdtable::Handle, argument: usize, unit: u32) -> Result<i32, Errno> {
    let at = runtime.with_socket(handle.id, |stack, socket, _| stack.received_at(socket)).flatten();
    let at = at.ok_or(Errno(libc::ENOENT))?;
    let wall = call::wall_clock().saturating_sub(call::now().since(at));
    let fields = [wall.as_secs(), u64::from(wall.subsec_nanos() / unit)];
    control::argument::<u64>(argument).write_many(&fields).map(|()| 0)
}

/// Whether it is a datagram socket of ICMP.
fn is_ping(handle: crate::fdtable::Handle, runtime: &runtime::Runtime) -> bool {
    handle.kind == remora_stack::socket::protocol::SocketType::Datagram
        && i32::from(super::option_rows::protocol(runtime, handle)) == libc::IPPROTO_ICMP
}

/// Whether the next byte to read is the urgent one.
fn at_mark(runtime: &runtime::Runtime, id: runtime::DescriptionId) -> Result<usize, Errno> {
    let mark = runtime.with_socket(id, |stack, socket, _| stack.at_mark(socket));
    Ok(usize::from(mark.unwrap_or(false)))
}

fn ask_kernel(request: usize, argument: usize) -> Result<i32, Errno> {
    let socket = call::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
    let result = control::ioctl(socket.raw(), request, argument);
    let _ = call::close(socket);
    result
}

/// sockatmark() asks by an ioctl that no hook sees.
pub(crate) fn sockatmark(fd: i32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    if !handle.is_stream() {
        return Outcome::fail(libc::ENOTTY);
    }
    Outcome::Ours(at_mark(runtime, handle.id).map(|mark| mark as i32))
}

/// vdprintf() to one of ours.
pub(crate) fn vdprintf(fd: i32, format: User<std::ffi::c_char>, list: User<std::ffi::c_void>) -> Outcome<i32> {
    // Elsewhere the structure of a va_list is another; libc's own fails on the placeholder.
    #[cfg(target_arch = "x86_64")]
    if fdtable::socket(fd).is_some() {
        return crate::abi::stdio::print(fd, format, list);
    }
    let _ = (fd, format, list);
    Outcome::PassThrough
}

pub(crate) fn __vdprintf_chk(
    fd: i32,
    _flag: i32,
    format: User<std::ffi::c_char>,
    list: User<std::ffi::c_void>,
) -> Outcome<i32> {
    vdprintf(fd, format, list)
}
