//! Copies between descriptors with one of our sockets at an end: sendfile and splice, through a buffer. Where Linux
//! refuses a socket (copy_file_range, tee, sendfile from one), so does this.

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, Fd, call};
use remora_stack::io::Collect;
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::SetOption;
use remora_stack::socket::protocol::{AddressFamily, Readiness};
use remora_stack::stack::Stack;

use super::io::{receive_bytes, send_bytes};
use super::{option_rows, socket_of, traced};
use crate::abi::{Outcome, User, control};
use crate::fdtable::{self, Handle};
use crate::placeholder;

/// Bytes moved at a time.
const CHUNK: usize = 65_536;
/// SPLICE_F_ALL.
const ALL_FLAGS: u32 = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;
/// What a pipe that polls writable takes without blocking (PIPE_BUF).
const PIPE_BUF: usize = 4096;

fn is_socket_of_ours(fd: i32) -> bool {
    fdtable::socket(fd).is_some()
}

pub(crate) fn sendfile(to: i32, from: i32, offset: User<i64>, count: usize) -> Outcome<isize> {
    // The source must be seekable (splice_direct_to_actor); with an offset the failure is that of the offset.
    if is_socket_of_ours(from) {
        return Outcome::fail(if offset.is_null() { libc::EINVAL } else { libc::ESPIPE });
    }
    let Some((handle, runtime)) = socket_of(to) else { return Outcome::PassThrough };
    let result = send_file(to, handle, runtime, from, offset, count.min(0x7fff_f000));
    traced(format_args!("sendfile({to}, {from}, {count})"), result.map(|sent| sent as isize))
}

fn send_file(
    to: i32,
    handle: Handle,
    runtime: &Runtime,
    from: i32,
    offset: User<i64>,
    count: usize,
) -> Result<usize, Errno> {
    // Without an offset the file's position is used, and moved by what was sent only.
    let start = if offset.is_null() { control::position(from)? } else { offset.read()? };
    if start < 0 {
        return Err(Errno(libc::EINVAL));
    }
    // `do_splice_direct`: nothing is added to the end of what has none.
    if appends(to) {
        return Err(Errno(libc::EINVAL));
    }
    let mut buffer = vec![0u8; CHUNK.min(count)];
    let (mut sent, mut held_back) = (0usize, false);
    let result = loop {
        let room = buffer.len().min(count - sent);
        let Some(room) = buffer.get_mut(..room).filter(|room| !room.is_empty()) else { break Ok(()) };
        let read = match control::read_at(from, room, start + sent as i64) {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(errno) => break Err(errno),
        };
        // `splice_direct_to_actor`: less than was asked for, and there may be more. At the end of the file a stream and
        // a UDP socket of AF_INET send what they have (`inet_splice_eof`); the others keep it back.
        let more = if sent + read < count { libc::MSG_MORE } else { 0 };
        match send_bytes(to, handle, runtime, buffer.get(..read).unwrap_or(&[]), more) {
            Ok(taken) => {
                sent += taken;
                held_back = more != 0;
                if taken < read {
                    break Ok(());
                }
            }
            Err(errno) => break Err(errno),
        }
    };
    if sent == 0 {
        result?;
    }
    // For more, which does not come.
    if held_back && handle.is_stream() {
        let _ = send_bytes(to, handle, runtime, &[], 0);
    } else if held_back && handle.family == AddressFamily::Inet && option_rows::is_udp(runtime, handle) {
        runtime.with_socket(handle.id, |stack, socket, now| {
            let corked = stack.options(socket).is_some_and(|options| options.kept.has(Kept::UdpCork));
            // `udp_splice_eof`; UDP_CORK off is what sends.
            if !corked {
                let _ = stack.set_option(now, socket, &SetOption::Kept(Kept::UdpCork, 0));
            }
        });
    }
    if offset.is_null() {
        control::set_position(from, start + sent as i64)?;
    } else {
        offset.write(start + sent as i64)?;
    }
    Ok(sent)
}

fn appends(fd: i32) -> bool {
    !placeholder::is_plain(fd) && call::fcntl(Fd(fd), libc::F_GETFL, 0).is_ok_and(|flags| flags & libc::O_APPEND != 0)
}

fn is_pipe(fd: i32) -> bool {
    call::fcntl(Fd(fd), libc::F_GETPIPE_SZ, 0).is_ok()
}

pub(crate) fn splice(
    from: i32,
    from_offset: User<i64>,
    to: i32,
    to_offset: User<i64>,
    count: usize,
    flags: u32,
) -> Outcome<isize> {
    let (source, target) = (socket_of(from), socket_of(to));
    if source.is_none() && target.is_none() {
        return Outcome::PassThrough;
    }
    let result = match (source, target) {
        _ if count == 0 => Ok(0),
        _ if flags & !ALL_FLAGS != 0 => Err(Errno(libc::EINVAL)),
        // One end must be a pipe, and neither a pipe nor a socket has a position.
        (Some(_), Some(_)) => Err(Errno(libc::EINVAL)),
        (Some(_), None) if !is_pipe(to) => Err(Errno(libc::EINVAL)),
        (None, Some(_)) if !is_pipe(from) => Err(Errno(libc::EINVAL)),
        (Some(_), None) if !to_offset.is_null() => Err(Errno(libc::ESPIPE)),
        (None, Some(_)) if !from_offset.is_null() => Err(Errno(libc::ESPIPE)),
        _ if !from_offset.is_null() => from_offset.read().and(Err(Errno(libc::EINVAL))),
        _ if !to_offset.is_null() => to_offset.read().and(Err(Errno(libc::EINVAL))),
        _ if target.is_some() && appends(to) => Err(Errno(libc::EINVAL)),
        // rw_verify_area.
        _ if isize::try_from(count).is_err() => Err(Errno(libc::EINVAL)),
        (Some((handle, runtime)), None) => to_pipe(from, handle, runtime, to, count, flags),
        (None, Some((handle, runtime))) => from_pipe(from, to, handle, runtime, count, flags),
        (None, None) => Err(Errno(libc::EINVAL)),
    };
    traced(format_args!("splice({from}, {to}, {count})"), result.map(|moved| moved as isize))
}

/// Waits for the pipe first, and takes no more from the socket than the pipe is sure to take. SPLICE_F_NONBLOCK is about
/// the pipe; for the socket O_NONBLOCK decides (`tcp_splice_read`).
fn to_pipe(from: i32, handle: Handle, runtime: &Runtime, to: i32, count: usize, flags: u32) -> Result<usize, Errno> {
    let wait = flags & libc::SPLICE_F_NONBLOCK == 0;
    let pipe_waits = wait && call::fcntl(Fd(to), libc::F_GETFL, 0).is_ok_and(|flags| flags & libc::O_NONBLOCK == 0);
    let mut set = [libc::pollfd { fd: to, events: libc::POLLOUT, revents: 0 }];
    let timeout = (!pipe_waits).then_some(std::time::Duration::ZERO);
    if call::ppoll(&mut set, timeout, None)? == 0 {
        return Err(Errno(libc::EAGAIN));
    }
    // `tcp_splice_read`: it does not go past the urgent byte, and does not wait at it.
    let stops =
        |stack: &mut Stack, socket, _| stack.at_mark(socket) && stack.readiness(socket).contains(Readiness::PRI);
    if handle.is_stream() && runtime.with_socket(handle.id, stops) == Some(true) {
        let waits = wait && !runtime.nonblocking(handle.id);
        return if waits { Ok(0) } else { Err(Errno(libc::EAGAIN)) };
    }
    let room = if pipe_waits { CHUNK } else { PIPE_BUF };
    let mut sink = Collect::new(room.min(count));
    receive_bytes(from, handle, runtime, &mut sink)?;
    let mut left = sink.bytes.as_slice();
    while !left.is_empty() {
        match call::write(Fd(to), left) {
            Ok(written) => left = left.get(written..).unwrap_or(&[]),
            // The bytes are taken: they must go into the pipe.
            Err(errno) if errno.is_transient() => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(sink.bytes.len())
}

/// Sees that the socket takes bytes before it takes them out of the pipe; what was taken out is sent whole.
fn from_pipe(from: i32, to: i32, handle: Handle, runtime: &Runtime, count: usize, flags: u32) -> Result<usize, Errno> {
    use remora_stack::socket::protocol::Readiness;
    let wait = flags & libc::SPLICE_F_NONBLOCK == 0;
    let listens = runtime.with_socket(handle.id, |stack, socket, _| stack.is_listening(socket)).unwrap_or(false);
    if (!wait || runtime.nonblocking(handle.id))
        && !listens
        && !runtime.readiness(handle.id).intersects(Readiness::OUT | Readiness::ERR | Readiness::HUP)
    {
        return Err(Errno(libc::EAGAIN));
    }
    if !wait {
        let mut set = [libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 }];
        if call::ppoll(&mut set, Some(std::time::Duration::ZERO), None)? == 0 {
            return Err(Errno(libc::EAGAIN));
        }
    }
    if handle.is_stream() {
        // What is sure to fail leaves the pipe as it is.
        send_bytes(to, handle, runtime, &[], 0)?;
    }
    let mut buffer = vec![0u8; CHUNK.min(count)];
    let read = call::read(Fd(from), &mut buffer)?;
    let more = if flags & libc::SPLICE_F_MORE == 0 { 0 } else { libc::MSG_MORE };
    let mut left = buffer.get(..read).unwrap_or(&[]);
    while !left.is_empty() {
        match send_bytes(to, handle, runtime, left, more) {
            Ok(taken) => left = left.get(taken..).unwrap_or(&[]),
            Err(Errno(libc::EAGAIN | libc::EINTR)) => {
                let mut ready = |view: &mut remora_host::runtime::View<'_>| {
                    view.readiness(handle.id).intersects(Readiness::OUT | Readiness::ERR | Readiness::HUP)
                };
                let spec = remora_host::runtime::WaitSpec {
                    descriptions: &[(handle.id, Readiness::OUT)],
                    sets: &[],
                    deadline: None,
                    fills_in: true,
                    sigmask: None,
                    interrupted: &|| false,
                };
                let _ = runtime.wait(&spec, &mut [], &mut ready);
            }
            Err(errno) if left.len() == read => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(read)
}

/// tee() is between pipes.
pub(crate) fn tee(from: i32, to: i32, _count: usize, _flags: u32) -> Outcome<isize> {
    if is_socket_of_ours(from) || is_socket_of_ours(to) { Outcome::fail(libc::EINVAL) } else { Outcome::PassThrough }
}

/// copy_file_range() is between regular files.
pub(crate) fn copy_file_range(
    from: i32,
    _from_offset: User<i64>,
    to: i32,
    _to_offset: User<i64>,
    _count: usize,
    _flags: u32,
) -> Outcome<isize> {
    if is_socket_of_ours(from) || is_socket_of_ours(to) { Outcome::fail(libc::EINVAL) } else { Outcome::PassThrough }
}
