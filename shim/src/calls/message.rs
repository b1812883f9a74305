//! sendmsg, recvmsg and their many-message forms: names, control messages and flags around the data.

use std::net::SocketAddr;
use std::time::Duration;

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, call};
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::SocketType;

use super::io::{Extras, Gathered, bound_all_the_same, destination, receive, send_to};
use super::options::TCP_INQ;
use super::policy::{Purpose, Side};
use super::{ancillary, control, option_rows, policy, socket_of, strangers, traced};
use crate::abi::memory::User;
use crate::abi::message::{ControlWriter, Header};
use crate::abi::{Outcome, address, process};
use crate::errno;
use crate::fdtable::{self, Handle};

/// MSG_CMSG_COMPAT: 32-bit structures, which no 64-bit program has.
const COMPAT: i32 = i32::MIN;
/// The size of one struct mmsghdr: a msghdr and the length that was moved.
const MULTI_SIZE: usize = size_of::<libc::mmsghdr>();
/// Where msg_len stands in it.
const MULTI_LENGTH: usize = size_of::<libc::msghdr>();

/// A message on a kernel socket: its destination, if it has one, may be of interest.
fn kernel_message<T>(fd: i32, message: User<libc::msghdr>) -> Outcome<T> {
    match Header::read(message).ok().and_then(|header| header.name()) {
        Some((name, length)) => policy::kernel_use(fd, name, length, Purpose::Send),
        None => policy::watched_use(fd),
    }
}

pub(crate) fn sendmsg(fd: i32, message: User<libc::msghdr>, flags: i32) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else {
        let foreign = fdtable::lookup(fd).is_none();
        return if foreign { strangers::send_rights(fd, message, flags) } else { kernel_message(fd, message) };
    };
    match send_one(fd, handle, runtime, message, flags) {
        Ok(Side::Kernel) => Outcome::PassThrough,
        Ok(Side::Stack) => Outcome::PassThrough,
        Err(result) => traced(format_args!("sendmsg({fd})"), result.map(|count| count as isize)),
    }
}

/// Sends one message; `Ok` means that the socket has gone to the kernel.
fn send_one(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    message: User<libc::msghdr>,
    flags: i32,
) -> Result<Side, Result<usize, Errno>> {
    if flags & COMPAT != 0 {
        return Err(Err(Errno(libc::EINVAL)));
    }
    let header = Header::read(message).map_err(Err)?;
    let mut buffer = header.buffer().map_err(Err)?;
    let to = match header.destination() {
        Some((name, length)) => destination(handle, runtime, name, length, flags).map_err(Err)?,
        None => None,
    };
    let control = header.control().map_err(Err)?;
    let mut extras = match ancillary::extras(handle, runtime, &control) {
        Ok(extras) => extras,
        // What is added to a datagram goes as that goes.
        Err(_) if runtime.with_socket(handle.id, |stack, socket, _| stack.is_corked(socket)) == Some(true) => {
            Extras::default()
        }
        Err(errno) => {
            let errno = without_destination(handle, runtime, to, buffer.left()).unwrap_or(errno);
            return Err(Err(bound_all_the_same(handle, runtime, errno)));
        }
    };
    extras.to = to;
    send_to(fd, handle, runtime, &mut buffer, flags, extras)
}

/// A socket that has nobody to send to says so before it looks at control messages (`sk_stream_wait_connect`,
/// `udp_sendmsg`).
fn without_destination(handle: Handle, runtime: &Runtime, to: Option<SocketAddr>, length: usize) -> Option<Errno> {
    // `ping_common_sendmsg`: less than a header is no message.
    let is_ping = handle.kind == SocketType::Datagram && !option_rows::is_udp(runtime, handle);
    let named = runtime
        .with_socket(
            handle.id,
            |stack, socket, _| {
                if handle.is_stream() { stack.may_send(socket) } else { stack.has_peer(socket) }
            },
        )
        .unwrap_or(true);
    if named || to.is_some() || (is_ping && length < ECHO_HEADER) {
        return None;
    }
    if !handle.is_stream() {
        return Some(Errno(libc::EDESTADDRREQ));
    }
    // `sk_stream_wait_connect`: an error that is pending comes first.
    if let Some(fault) = runtime.with_socket(handle.id, |stack, socket, _| stack.take_error(socket)).flatten() {
        let errno = errno::fault(fault);
        if errno.0 == libc::EPIPE {
            process::raise_broken_pipe();
        }
        return Some(errno);
    }
    let is_under_way = runtime.with_socket(handle.id, |stack, socket, _| stack.is_connecting(socket));
    if is_under_way == Some(true) {
        return Some(Errno(libc::EAGAIN));
    }
    process::raise_broken_pipe();
    Some(Errno(libc::EPIPE))
}

/// Size of an ICMP echo header.
const ECHO_HEADER: usize = 8;

pub(crate) fn sendmmsg(fd: i32, messages: User<libc::mmsghdr>, count: u32, flags: i32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return kernel_message(fd, messages.cast()) };
    // UIO_MAXIOV caps the number without an error.
    let count = count.min(1024) as usize;
    let mut done = 0i32;
    let mut failure = None;
    for index in 0..count {
        let one = messages.byte_add(index * MULTI_SIZE);
        match send_one(fd, handle, runtime, one.cast(), flags) {
            Ok(_) if done == 0 => return Outcome::PassThrough,
            Ok(_) => break,
            Err(Ok(length)) => {
                if let Err(errno) = one.byte_add(MULTI_LENGTH).cast::<u32>().write(length as u32) {
                    failure = Some(errno);
                    break;
                }
                done += 1;
            }
            Err(Err(errno)) => {
                failure = Some(errno);
                break;
            }
        }
    }
    traced(format_args!("sendmmsg({fd}, {count})"), many(done, failure))
}

/// The result of a many-message call: what was done before an error counts.
fn many(done: i32, failure: Option<Errno>) -> Result<i32, Errno> {
    match failure {
        Some(errno) if done == 0 => Err(errno),
        _ => Ok(done),
    }
}

pub(crate) fn recvmsg(fd: i32, message: User<libc::msghdr>, flags: i32) -> Outcome<isize> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let result = receive_one(fd, handle, runtime, message, flags);
    traced(format_args!("recvmsg({fd})"), result.map(|length| length as isize))
}

fn receive_one(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    message: User<libc::msghdr>,
    flags: i32,
) -> Result<usize, Errno> {
    if flags & COMPAT != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let header = Header::read(message)?;
    let mut buffer = header.buffer()?;
    let Gathered { length, last } = receive(fd, handle, runtime, &mut buffer, flags)?;
    // MSG_CMSG_CLOEXEC comes back among the flags, as the kernel leaves it there.
    let mut shown = flags & libc::MSG_CMSG_CLOEXEC;
    let mut control = ControlWriter::default();
    let mut name = None;
    if let Some(last) = last {
        if last.truncated {
            shown |= libc::MSG_TRUNC;
        }
        if last.urgent {
            shown |= libc::MSG_OOB;
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            shown |= libc::MSG_ERRQUEUE;
        }
        if !handle.is_stream() || last.report.is_some() {
            control::fill(handle, runtime, &last, &mut control);
        }
        if handle.is_stream() && flags & libc::MSG_ERRQUEUE == 0 {
            hint_at_input(handle, runtime, &mut control);
        }
        name = last.from.map(|from| address::encode(from, handle.family));
    } else if handle.is_stream() {
        // Who has waited for nothing is told what there is, too (`tcp_recvmsg`).
        hint_at_input(handle, runtime, &mut control);
    }
    let name = name.as_ref().map(|(bytes, length)| bytes.get(..*length).unwrap_or(&[]));
    header.give_back(name, &control, shown)?;
    Ok(length)
}

/// TCP_INQ: how much there is left to read.
fn hint_at_input(handle: Handle, runtime: &Runtime, control: &mut ControlWriter) {
    let hint =
        runtime.with_socket(handle.id, |stack, socket, now| match stack.option(now, socket, OptionName::InputHint) {
            Ok(OptionValue::Int(hint)) => hint,
            _ => -1,
        });
    if let Some(hint) = hint.filter(|hint| *hint >= 0) {
        control.push(libc::IPPROTO_TCP, TCP_INQ, &hint.to_ne_bytes());
    }
}

/// recvmmsg(): MSG_WAITFORONE stops waiting after the first; the timeout is looked at between messages only, as in
/// the kernel.
pub(crate) fn recvmmsg(
    fd: i32,
    messages: User<libc::mmsghdr>,
    count: u32,
    flags: i32,
    timeout: User<libc::timespec>,
) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let mut until = None;
    if !timeout.is_null() {
        match timeout.read().and_then(super::ready::span_of_timespec) {
            Ok(span) => until = Some(call::now() + span),
            Err(errno) => return Outcome::Ours(Err(errno)),
        }
    }
    // `do_recvmmsg`: an error that is pending comes before the messages are looked at.
    let fault = runtime.with_socket(handle.id, |stack, socket, _| stack.take_error(socket)).flatten();
    if let Some(fault) = fault {
        return traced(format_args!("recvmmsg({fd}, {count})"), Err(errno::fault(fault)));
    }
    let mut done = 0i32;
    let mut failure = None;
    let mut now_flags = flags & !libc::MSG_WAITFORONE;
    for index in 0..count.min(1024) as usize {
        let one = messages.byte_add(index * MULTI_SIZE);
        let received = receive_one(fd, handle, runtime, one.cast(), now_flags)
            .and_then(|length| one.byte_add(MULTI_LENGTH).cast::<u32>().write(length as u32));
        if let Err(errno) = received {
            failure = Some(errno);
            break;
        }
        done += 1;
        if flags & libc::MSG_WAITFORONE != 0 {
            now_flags |= libc::MSG_DONTWAIT;
        }
        if until.is_some_and(|until| call::now() >= until) {
            break;
        }
    }
    if let Some(until) = until {
        let left = until.since(call::now());
        let _ = timeout.write(timespec_of(left));
    }
    traced(format_args!("recvmmsg({fd}, {count})"), many(done, failure))
}

fn timespec_of(span: Duration) -> libc::timespec {
    libc::timespec { tv_sec: span.as_secs() as i64, tv_nsec: i64::from(span.subsec_nanos()) }
}
