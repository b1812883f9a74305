//! Data: read, write, recv, send and their variants, and how a call waits.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use remora_host::runtime::{DescriptionId, Runtime, WaitEnd};
use remora_host::sys::{Errno, call};
use remora_stack::io::{Sink, Source};
use remora_stack::socket::error::{ReceiveError, SendError};
use remora_stack::socket::kept::Kept;
use remora_stack::socket::protocol::{
    AddressFamily, GivenOptions, Readiness, ReceiveFlags, Received, SendArguments, SendFlags, SocketId, SocketType,
};
use remora_stack::stack::Stack;
use remora_stack::time::Instant;

use super::policy::{self, Purpose, Side};
use super::{check_fresh, gone, socket_of, traced};
use crate::abi::address::{self, RawName};
use crate::abi::memory::Buffer;
use crate::abi::message::{MAX_BYTES, read_vectors};
use crate::abi::{Outcome, User, process, signal};
use crate::errno;
use crate::fdtable::Handle;

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    Never,
    /// Until then; `None` is for ever. A call with a timeout is not restarted after a signal.
    Until(Option<Instant>),
}

impl Patience {
    /// A blocking call under SO_RCVTIMEO or SO_SNDTIMEO.
    pub(crate) fn blocking(timeout: Option<Duration>) -> Self {
        Self::Until(timeout.map(|span| call::now() + span))
    }
}

/// Why a call ended without its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It would have to wait, or has waited long enough.
    WouldBlock,
    /// A signal handler has run, and the call is not to be restarted.
    Interrupted,
    /// The family is broken.
    Broken,
}

/// Tries `attempt` until it gives a result, as patiently as asked for. `progress` is what the attempts have moved so
/// far: a signal ends a call that has moved something.
//= REF C-04
pub(crate) fn until<R>(
    runtime: &Runtime,
    id: DescriptionId,
    interest: Readiness,
    patience: Patience,
    progress: &Cell<usize>,
    mut attempt: impl FnMut(&mut Stack, SocketId, Instant) -> Option<R>,
) -> Result<R, Stop> {
    let Patience::Until(deadline) = patience else {
        return match runtime.attempt(id, attempt) {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Stop::WouldBlock),
            Err(_) => Err(Stop::Broken),
        };
    };
    // As the kernel keeps the file of a call under way: a close by another thread does not end it.
    let _held = Held::new(runtime, id);
    loop {
        let handled = signal::handled();
        match runtime.block_on(id, interest, deadline, &|| handled.any_since(), &mut attempt) {
            Ok(result) => return Ok(result),
            Err(WaitEnd::TimedOut) => return Err(Stop::WouldBlock),
            Err(WaitEnd::Broken) => return Err(Stop::Broken),
            Err(WaitEnd::Interrupted) => {
                if progress.get() > 0 || deadline.is_some() || handled.without_restart_since() {
                    return Err(Stop::Interrupted);
                }
            }
        }
    }
}

/// One holder more of a description, for the length of a call. Within another of the same call it is nothing.
pub(super) struct Held<'a>(&'a Runtime, u64);

thread_local! {
    /// What this thread's call holds, with the number of the hold. A call inside a signal handler takes it away from the
    /// one that was interrupted, so one place is enough.
    static HOLD: Cell<Option<(DescriptionId, u64)>> = const { Cell::new(None) };
    static HOLDS: Cell<u64> = const { Cell::new(0) };
}

impl<'a> Held<'a> {
    pub(super) fn new(runtime: &'a Runtime, id: DescriptionId) -> Self {
        if HOLD.get().is_some_and(|(held, _)| held == id) {
            return Self(runtime, 0);
        }
        let number = HOLDS.get().wrapping_add(1).max(1);
        HOLDS.set(number);
        runtime.hold(id);
        HOLD.set(Some((id, number)));
        Self(runtime, number)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Gone when a handler's call has given it up.
        if HOLD.get().is_some_and(|(_, number)| number == self.1) {
            abandon_hold(self.0);
        }
    }
}

/// Gives up what a call of this thread holds.
pub(super) fn abandon_hold(runtime: &Runtime) {
    if let Some((id, _)) = HOLD.take() {
        runtime.release(id);
    }
}

/// What a receive brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathered {
    /// What the call returns.
    pub(crate) length: usize,
    /// The last piece, with the sender and the flags; `None` when nothing came.
    pub(crate) last: Option<Received>,
}

/// Whether the call must not wait.
fn is_nonblocking(runtime: &Runtime, handle: Handle, flags: i32) -> bool {
    flags & libc::MSG_DONTWAIT != 0 || runtime.nonblocking(handle.id)
}

/// One receive into `buffer`: a datagram, or bytes up to what SO_RCVLOWAT or MSG_WAITALL ask for.
//= REF D-02
pub(crate) fn receive(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    buffer: &mut Buffer,
    flags: i32,
) -> Result<Gathered, Errno> {
    policy::listen_raw(runtime, handle);
    let mut core_flags = ReceiveFlags::from_bits_truncate(flags as u32) - ReceiveFlags::SPLICE;
    let whole = handle.is_stream() && flags & libc::MSG_WAITALL != 0;
    let patient = !is_nonblocking(runtime, handle, flags);
    // O_NONBLOCK is MSG_DONTWAIT to a datagram socket that is shut for reading (`__skb_wait_for_more_packets`).
    core_flags.set(ReceiveFlags::DONTWAIT, !patient);
    let room = buffer.left();
    let total = Cell::new(0usize);
    let mut last = None;
    let mut step = |stack: &mut Stack, socket: SocketId, now: Instant| -> Option<Result<(), ReceiveError>> {
        if whole
            && patient
            && !stack.is_listening(socket)
            && core_flags.contains(ReceiveFlags::PEEK)
            && stack.queued_input(socket) < room
            && !stack.readiness(socket).intersects(Readiness::RDHUP | Readiness::HUP | Readiness::ERR)
        {
            return None;
        }
        loop {
            match stack.receive(now, socket, &mut *buffer, core_flags) {
                Ok(received) => {
                    total.set(total.get().saturating_add(received.length));
                    last = Some(received);
                    // A peek starts anew each time, and MSG_TRUNC uses no room.
                    let again = handle.is_stream()
                        && received.length > 0
                        && !core_flags.intersects(ReceiveFlags::PEEK | ReceiveFlags::TRUNC | ReceiveFlags::OOB)
                        && !stack.at_mark(socket)
                        // An error that waits is for the next call (`tcp_recvmsg_locked`).
                        && !stack.readiness(socket).intersects(Readiness::ERR)
                        && total.get() < wanted(stack, socket, whole, room);
                    if !again {
                        return Some(Ok(()));
                    }
                }
                Err(ReceiveError::WouldBlock) => return None,
                // What came before the error is returned; the error stays for the next call.
                Err(_) if total.get() > 0 => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            }
        }
    };
    // What has happened is asked for, up to this moment.
    if flags & libc::MSG_ERRQUEUE != 0 {
        runtime.look_at_device();
    }
    let mut result = until(runtime, handle.id, Readiness::IN, Patience::Never, &total, &mut step);
    // Neither the queue of errors nor the urgent byte is waited for (`tcp_recv_urg`).
    let at_once = flags & (libc::MSG_ERRQUEUE | libc::MSG_OOB) != 0;
    if result == Err(Stop::WouldBlock) && !at_once && patient {
        check_fresh(fd)?;
        let timeout = runtime
            .with_socket(handle.id, |stack, socket, _| {
                stack.options(socket).and_then(|options| options.receive_timeout)
            })
            .flatten();
        result = until(runtime, handle.id, Readiness::IN, Patience::blocking(timeout), &total, &mut step);
    }
    let length = total.get();
    match result {
        Ok(Ok(())) => Ok(Gathered { length, last }),
        Ok(Err(error)) => Err(errno::receive(error)),
        Err(_) if length > 0 => Ok(Gathered { length, last }),
        // Who wanted nothing has waited, and gets it.
        Err(Stop::WouldBlock) if handle.is_stream() && room == 0 && patient && !at_once => {
            Ok(Gathered { length, last })
        }
        Err(Stop::WouldBlock) => Err(Errno(libc::EAGAIN)),
        Err(Stop::Interrupted) => Err(Errno(libc::EINTR)),
        Err(Stop::Broken) => Err(gone(fd, handle.id)),
    }
}

/// How many bytes let a stream's receive return (`sock_rcvlowat`).
fn wanted(stack: &Stack, socket: SocketId, whole: bool, room: usize) -> usize {
    if whole {
        return room;
    }
    let low_water = stack.options(socket).map_or(1, |options| options.receive_low_water as usize);
    low_water.min(room).max(1)
}

/// Where a send goes, beside the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) to: Option<SocketAddr>,
    /// There were control messages.
    pub(crate) control: bool,
    pub(crate) source: Option<std::net::IpAddr>,
    pub(crate) ttl: Option<u8>,
    pub(crate) tos: Option<u8>,
    pub(crate) segment: Option<u16>,
    pub(crate) timestamping: Option<i32>,
    pub(crate) options: Option<GivenOptions>,
}

/// One send of all of `source`: a blocking one waits until all of it is taken.
//= REF D-01
pub(crate) fn send_all(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    source: &mut dyn Source,
    flags: i32,
    extras: Extras,
) -> Result<usize, Errno> {
    let Extras { to, control, source: from, ttl, tos, segment, timestamping, options } = extras;
    let mut core_flags = SendFlags::from_bits_truncate(flags as u32) - SendFlags::WAITS;
    core_flags.set(SendFlags::CONTROL, control);
    let arguments = SendArguments { to, flags: core_flags, source: from, ttl, tos, segment, timestamping, options };
    let total = Cell::new(0usize);
    let mut arguments = arguments;
    if handle.is_stream() {
        runtime.wait_for_strangers(handle.id);
    }
    if handle.is_stream() && arguments.flags.contains(SendFlags::FASTOPEN) {
        total.set(open_fast(fd, handle, runtime, source, flags, &arguments)?);
        if source.remaining() == 0 {
            return Ok(sent(handle, runtime, flags, total.get()));
        }
        arguments.flags -= SendFlags::FASTOPEN;
    }
    // Where a send ends that does not wait, its time is taken, too.
    arguments.flags.set(SendFlags::DONTWAIT, is_nonblocking(runtime, handle, flags));
    let waits = Cell::new(SendFlags::empty());
    let mut step = |stack: &mut Stack, socket: SocketId, now: Instant| -> Option<Result<(), SendError>> {
        loop {
            let arguments = SendArguments { flags: arguments.flags | waits.get(), ..arguments };
            match stack.send(now, socket, &mut *source, &arguments) {
                Ok(count) => {
                    total.set(total.get().saturating_add(count));
                    if !handle.is_stream() || source.remaining() == 0 {
                        return Some(Ok(()));
                    }
                    if count == 0 {
                        return None;
                    }
                }
                Err(SendError::WouldBlock) => return None,
                Err(_) if total.get() > 0 => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            }
        }
    };
    let mut result = until(runtime, handle.id, Readiness::OUT, Patience::Never, &total, &mut step);
    if result == Err(Stop::WouldBlock) && !is_nonblocking(runtime, handle, flags) {
        check_fresh(fd)?;
        let timeout = runtime
            .with_socket(handle.id, |stack, socket, _| stack.options(socket).and_then(|options| options.send_timeout))
            .flatten();
        waits.set(SendFlags::WAITS);
        result = until(runtime, handle.id, Readiness::OUT, Patience::blocking(timeout), &total, &mut step);
    }
    //= REF C-15: the first write after connect() with TCP_FASTOPEN_CONNECT does as one with MSG_FASTOPEN.
    if result == Ok(Err(SendError::Deferred)) {
        return send_all(fd, handle, runtime, source, flags | libc::MSG_FASTOPEN, extras);
    }
    let errno = match result {
        Ok(Ok(())) => return Ok(sent(handle, runtime, flags, total.get())),
        Err(_) if total.get() > 0 => return Ok(sent(handle, runtime, flags, total.get())),
        Ok(Err(error)) => errno::send(error),
        Err(Stop::WouldBlock) => Errno(libc::EAGAIN),
        Err(Stop::Interrupted) => Errno(libc::EINTR),
        Err(Stop::Broken) => gone(fd, handle.id),
    };
    //= REF T-10
    if errno.0 == libc::EPIPE && handle.is_stream() && flags & libc::MSG_NOSIGNAL == 0 {
        process::raise_broken_pipe();
    }
    Err(errno)
}

/// MSG_FASTOPEN (`tcp_sendmsg_fastopen`): begins to connect, with data in the SYN if a cookie is there; one that may wait
/// does so until the connection stands. Gives how much went with the SYN.
//= REF C-15
fn open_fast(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    source: &mut dyn Source,
    flags: i32,
    arguments: &SendArguments,
) -> Result<usize, Errno> {
    runtime.refresh_settings();
    let none = Cell::new(0usize);
    let waits = !is_nonblocking(runtime, handle, flags);
    let kind = if waits { SendFlags::empty() } else { SendFlags::DONTWAIT };
    let arguments = &SendArguments { flags: arguments.flags | kind, ..*arguments };
    let begun = until(runtime, handle.id, Readiness::OUT, Patience::Never, &none, |stack, socket, now| {
        Some(stack.send(now, socket, &mut *source, arguments))
    });
    let taken = match begun {
        Ok(Ok(taken)) => taken,
        Ok(Err(SendError::InProgress)) => 0,
        Ok(Err(error)) => {
            let errno = errno::send(error);
            // `sk_stream_error`.
            if errno.0 == libc::EPIPE && flags & libc::MSG_NOSIGNAL == 0 {
                process::raise_broken_pipe();
            }
            return Err(errno);
        }
        Err(_) => return Err(gone(fd, handle.id)),
    };
    if !waits {
        return if taken > 0 { Ok(taken) } else { Err(Errno(libc::EINPROGRESS)) };
    }
    let timeout = runtime
        .with_socket(handle.id, |stack, socket, _| stack.options(socket).and_then(|options| options.send_timeout))
        .flatten();
    let patience = Patience::blocking(timeout);
    match until(runtime, handle.id, Readiness::OUT, patience, &none, |stack, socket, now| {
        stack.finish_connect(now, socket)
    }) {
        Ok(Ok(())) => Ok(taken),
        Ok(Err(error)) => Err(errno::connect(error)),
        Err(_) if taken > 0 => Ok(taken),
        Err(Stop::WouldBlock) => Err(Errno(libc::EINPROGRESS)),
        Err(Stop::Interrupted) => Err(Errno(libc::EINTR)),
        Err(Stop::Broken) => Err(gone(fd, handle.id)),
    }
}

/// What follows a send that has taken bytes: under MSG_ZEROCOPY the program is told that it may have its memory back.
//= REF D-02
fn sent(handle: Handle, runtime: &Runtime, flags: i32, count: usize) -> usize {
    if flags & libc::MSG_ZEROCOPY != 0 && count > 0 {
        runtime.with_socket(handle.id, |stack, socket, now| {
            if stack.options(socket).is_some_and(|options| options.kept.has(Kept::ZeroCopy)) {
                stack.complete_zero_copy(now, socket);
            }
        });
    }
    count
}

/// Decides where a send with an address goes, and sends.
pub(crate) fn send_to(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    buffer: &mut Buffer,
    flags: i32,
    extras: Extras,
) -> Result<Side, Result<usize, Errno>> {
    if let Some(to) = extras.to
        && policy::settle(fd, handle, Some(to), Purpose::Send).map_err(Err)? == Side::Kernel
    {
        return Ok(Side::Kernel);
    }
    Err(send_all(fd, handle, runtime, buffer, flags, extras))
}

/// The destination of a send; streams look at one for Fast Open only (`tcp_sendmsg`).
pub(crate) fn destination<T>(
    handle: Handle,
    runtime: &Runtime,
    address: User<T>,
    length: u32,
    flags: i32,
) -> Result<Option<SocketAddr>, Errno> {
    // `raw_sendmsg` goes by the length, the others by the address.
    if address.is_null() || (length == 0 && handle.kind == SocketType::Raw) {
        return Ok(None);
    }
    let raw = RawName::read(address, length)?;
    let corked = || runtime.with_socket(handle.id, |stack, socket, _| stack.is_corked(socket)) == Some(true);
    if handle.is_stream() && flags & libc::MSG_FASTOPEN == 0 {
        return Ok(None);
    }
    let to = match raw.for_send(handle.family) {
        // `udpv6_sendmsg`: what is added to a datagram needs no address.
        Ok(None) if !handle.is_stream() && corked() => None,
        Ok(None) if !handle.is_stream() => {
            // `udpv6_sendmsg`: the way to the peer is one of IPv6 then, and there is none.
            let connected = runtime.with_socket(handle.id, |stack, socket, _| stack.has_peer(socket));
            let errno = if connected == Some(true) { libc::ENETUNREACH } else { libc::EDESTADDRREQ };
            return Err(bound_all_the_same(handle, runtime, Errno(errno)));
        }
        Ok(to) => to,
        // `udp_sendmsg`: what is added to a datagram goes where that goes.
        Err(_) if handle.family == AddressFamily::Inet && corked() => return Ok(None),
        Err(errno) => return Err(bound_all_the_same(handle, runtime, errno)),
    };
    if let Some(SocketAddr::V4(_)) = to
        && handle.family == AddressFamily::Inet6
        // `__inet_stream_connect` looks at the state first.
        && !super::socket::is_busy(runtime, handle)
        && policy::is_v6_only(runtime, handle)
    {
        return Err(bound_all_the_same(handle, runtime, Errno(libc::ENETUNREACH)));
    }
    Ok(to)
}

/// A datagram socket gets a port before a refused address is looked at (`inet_send_prepare`, `inet_dgram_connect`).
pub(super) fn bound_all_the_same(handle: Handle, runtime: &Runtime, errno: Errno) -> Errno {
    if !handle.is_stream() {
        runtime.with_socket(handle.id, |stack, socket, now| stack.autobind(now, socket));
    }
    errno
}

fn finish_receive(call: std::fmt::Arguments<'_>, result: Result<Gathered, Errno>) -> Outcome<isize> {
    traced(call, result.map(|gathered| gathered.length as isize))
}

/// read() and readv() of nothing return at once (`sock_read_iter`); recv of nothing waits for data.
fn read_into(name: &str, fd: i32, mut buffer: Buffer) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let size = buffer.left();
    let result =
        if size == 0 { Ok(Gathered { length: 0, last: None }) } else { receive(fd, handle, runtime, &mut buffer, 0) };
    finish_receive(format_args!("{name}({fd}, {size})"), result)
}

/// What cannot be the size of user memory is refused before anything else (`access_ok` in `vfs_read` and `vfs_write`).
const LONGEST_BUFFER: usize = isize::MAX as usize;

pub(crate) fn read(fd: i32, buffer: User<u8>, size: usize) -> Outcome<isize> {
    if size > LONGEST_BUFFER && crate::fdtable::socket(fd).is_some() {
        return Outcome::fail(libc::EFAULT);
    }
    read_into("read", fd, Buffer::single(buffer, size.min(MAX_BYTES)))
}

/// The checked variants abort in libc when the buffer is too small; that stays libc's business.
pub(crate) fn __read_chk(fd: i32, buffer: User<u8>, size: usize, room: usize) -> Outcome<isize> {
    if size > room { Outcome::PassThrough } else { read(fd, buffer, size) }
}

pub(crate) fn readv(fd: i32, list: User<libc::iovec>, count: i32) -> Outcome<isize> {
    match read_vectors(list, count) {
        Ok(buffer) => read_into("readv", fd, buffer),
        Err(errno) => Outcome::Ours(Err(errno)),
    }
}

/// A socket has no position: `ksys_pread64` and its kin.
fn no_position(offset: i64) -> Outcome<isize> {
    Outcome::fail(if offset < 0 { libc::EINVAL } else { libc::ESPIPE })
}

macro_rules! only_sockets {
    ($fd:ident) => {
        if crate::fdtable::socket($fd).is_none() {
            return Outcome::PassThrough;
        }
    };
}

pub(crate) fn pread(fd: i32, _buffer: User<u8>, _size: usize, offset: i64) -> Outcome<isize> {
    only_sockets!(fd);
    no_position(offset)
}

pub(crate) fn __pread_chk(fd: i32, buffer: User<u8>, size: usize, offset: i64, room: usize) -> Outcome<isize> {
    if size > room { Outcome::PassThrough } else { pread(fd, buffer, size, offset) }
}

pub(crate) fn preadv(fd: i32, _list: User<libc::iovec>, _count: i32, offset: i64) -> Outcome<isize> {
    only_sockets!(fd);
    no_position(offset)
}

/// Flags of preadv2 and pwritev2 that a socket takes: RWF_NOWAIT and RWF_HIPRI; others are EOPNOTSUPP.
const VECTOR_FLAGS: i32 = libc::RWF_NOWAIT | libc::RWF_HIPRI;

pub(crate) fn preadv2(fd: i32, list: User<libc::iovec>, count: i32, offset: i64, flags: i32) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    if offset != -1 {
        return no_position(offset);
    }
    if flags & !VECTOR_FLAGS != 0 {
        return Outcome::fail(libc::EOPNOTSUPP);
    }
    let wait = if flags & libc::RWF_NOWAIT == 0 { 0 } else { libc::MSG_DONTWAIT };
    let result = read_vectors(list, count).and_then(|mut buffer| match buffer.left() {
        0 => Ok(Gathered { length: 0, last: None }),
        _ => receive(fd, handle, runtime, &mut buffer, wait),
    });
    finish_receive(format_args!("preadv2({fd})"), result)
}

fn write_from(name: &str, fd: i32, mut buffer: Buffer, flags: i32) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let size = buffer.left();
    let result = send_all(fd, handle, runtime, &mut buffer, flags, Extras::default());
    traced(format_args!("{name}({fd}, {size})"), result.map(|count| count as isize))
}

pub(crate) fn write(fd: i32, buffer: User<u8>, size: usize) -> Outcome<isize> {
    if size > LONGEST_BUFFER && crate::fdtable::socket(fd).is_some() {
        return Outcome::fail(libc::EFAULT);
    }
    write_from("write", fd, Buffer::single(buffer, size.min(MAX_BYTES)), 0)
}

/// 0 for a socket of ours.
fn only_ours(fd: i32) -> Outcome<isize> {
    only_sockets!(fd);
    Outcome::Ours(Ok(0))
}

pub(crate) fn writev(fd: i32, list: User<libc::iovec>, count: i32) -> Outcome<isize> {
    match read_vectors(list, count) {
        // do_iter_write: nothing is not sent, where write() of nothing is an empty datagram.
        Ok(buffer) if buffer.left() == 0 => only_ours(fd),
        Ok(buffer) => write_from("writev", fd, buffer, 0),
        Err(errno) => Outcome::Ours(Err(errno)),
    }
}

pub(crate) fn pwrite(fd: i32, _buffer: User<u8>, _size: usize, offset: i64) -> Outcome<isize> {
    only_sockets!(fd);
    no_position(offset)
}

pub(crate) fn pwritev(fd: i32, _list: User<libc::iovec>, _count: i32, offset: i64) -> Outcome<isize> {
    only_sockets!(fd);
    no_position(offset)
}

pub(crate) fn pwritev2(fd: i32, list: User<libc::iovec>, count: i32, offset: i64, flags: i32) -> Outcome<isize> {
    only_sockets!(fd);
    if offset != -1 {
        return no_position(offset);
    }
    if flags & !VECTOR_FLAGS != 0 {
        return Outcome::fail(libc::EOPNOTSUPP);
    }
    let wait = if flags & libc::RWF_NOWAIT == 0 { 0 } else { libc::MSG_DONTWAIT };
    match read_vectors(list, count) {
        Ok(buffer) if buffer.left() == 0 => only_ours(fd),
        Ok(buffer) => write_from("pwritev2", fd, buffer, wait),
        Err(errno) => Outcome::Ours(Err(errno)),
    }
}

pub(crate) fn send(fd: i32, buffer: User<u8>, size: usize, flags: i32) -> Outcome<isize> {
    write_from("send", fd, Buffer::single(buffer, size.min(MAX_BYTES)), flags)
}

pub(crate) fn sendto(
    fd: i32,
    buffer: User<u8>,
    size: usize,
    flags: i32,
    address: User<libc::sockaddr>,
    length: u32,
) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else {
        return if address.is_null() {
            Outcome::PassThrough
        } else {
            policy::kernel_use(fd, address, length, Purpose::Send)
        };
    };
    let mut buffer = Buffer::single(buffer, size.min(MAX_BYTES));
    let to = match destination(handle, runtime, address, length, flags) {
        Ok(to) => to,
        Err(errno) => return traced(format_args!("sendto({fd}, {size})"), Err(errno)),
    };
    match send_to(fd, handle, runtime, &mut buffer, flags, Extras { to, ..Extras::default() }) {
        Ok(_kernel) => Outcome::PassThrough,
        Err(result) => {
            let result = result.map(|count| count as isize);
            match to {
                Some(to) => traced(format_args!("sendto({fd}, {size}, {to})"), result),
                None => traced(format_args!("send({fd}, {size})"), result),
            }
        }
    }
}

pub(crate) fn recv(fd: i32, buffer: User<u8>, size: usize, flags: i32) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let mut buffer = Buffer::single(buffer, size.min(MAX_BYTES));
    let result = receive(fd, handle, runtime, &mut buffer, flags);
    finish_receive(format_args!("recv({fd}, {size})"), result)
}

pub(crate) fn __recv_chk(fd: i32, buffer: User<u8>, size: usize, room: usize, flags: i32) -> Outcome<isize> {
    if size > room { Outcome::PassThrough } else { recv(fd, buffer, size, flags) }
}

pub(crate) fn recvfrom(
    fd: i32,
    buffer: User<u8>,
    size: usize,
    flags: i32,
    address: User<libc::sockaddr>,
    length: User<u32>,
) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let mut buffer = Buffer::single(buffer, size.min(MAX_BYTES));
    let result = receive(fd, handle, runtime, &mut buffer, flags).and_then(|gathered| {
        if !address.is_null() {
            match gathered.last.and_then(|last| last.from) {
                Some(from) => address::write(from, handle.family, address, length)?,
                // A stream has no sender to tell: the length says so (`inet_recvmsg` leaves msg_namelen at 0).
                None => address::write_none(length)?,
            }
        }
        Ok(gathered)
    });
    match result.as_ref().ok().and_then(|gathered| gathered.last).and_then(|last| last.from) {
        Some(from) => finish_receive(format_args!("recvfrom({fd}, {size}, {from})"), result),
        None => finish_receive(format_args!("recv({fd}, {size})"), result),
    }
}

#[allow(clippy::too_many_arguments, reason = "the C prototype")]
pub(crate) fn __recvfrom_chk(
    fd: i32,
    buffer: User<u8>,
    size: usize,
    room: usize,
    flags: i32,
    address: User<libc::sockaddr>,
    length: User<u32>,
) -> Outcome<isize> {
    if size > room { Outcome::PassThrough } else { recvfrom(fd, buffer, size, flags, address, length) }
}

/// vmsplice() wants a pipe.
pub(crate) fn vmsplice(fd: i32, _list: User<libc::iovec>, _count: usize, _flags: u32) -> Outcome<isize> {
    only_sockets!(fd);
    Outcome::fail(libc::EBADF)
}

/// dprintf's bytes.
#[cfg(target_arch = "x86_64")]
pub(crate) fn write_bytes(fd: i32, bytes: &[u8]) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::fail(libc::EBADF) };
    let result = send_bytes(fd, handle, runtime, bytes, 0);
    traced(format_args!("dprintf({fd}, {})", bytes.len()), result.map(|count| count as i32))
}

/// Bytes for one of our sockets that do not come from user memory.
pub(crate) fn send_bytes(fd: i32, handle: Handle, runtime: &Runtime, bytes: &[u8], flags: i32) -> Result<usize, Errno> {
    let mut source = bytes;
    send_all(fd, handle, runtime, &mut source, flags, Extras::default())
}

/// A sink that is no user memory, for the copies between descriptors.
pub(crate) fn receive_bytes(fd: i32, handle: Handle, runtime: &Runtime, sink: &mut dyn Sink) -> Result<usize, Errno> {
    let nothing = Cell::new(0);
    let at_once = runtime.nonblocking(handle.id);
    let flags = if at_once { ReceiveFlags::DONTWAIT } else { ReceiveFlags::empty() } | ReceiveFlags::SPLICE;
    let mut step =
        |stack: &mut Stack, socket: SocketId, now: Instant| match stack.receive(now, socket, &mut *sink, flags) {
            Err(ReceiveError::WouldBlock) => None,
            other => Some(other),
        };
    let timeout = || {
        runtime
            .with_socket(handle.id, |stack, socket, _| {
                stack.options(socket).and_then(|options| options.receive_timeout)
            })
            .flatten()
    };
    let patience = if at_once { Patience::Never } else { Patience::blocking(timeout()) };
    match until(runtime, handle.id, Readiness::IN, patience, &nothing, &mut step) {
        Ok(result) => result.map(|received| received.length).map_err(errno::receive),
        Err(Stop::WouldBlock) => Err(Errno(libc::EAGAIN)),
        Err(Stop::Interrupted) => Err(Errno(libc::EINTR)),
        Err(Stop::Broken) => Err(gone(fd, handle.id)),
    }
}
