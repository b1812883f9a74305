//! Sockets: creation, addresses, options, messages with control data, passing of descriptors.

use super::{Errno, Fd, invoke, word};
use std::io::{IoSlice, IoSliceMut};

/// A new socket. Close-on-exec and non-blocking come with `kind`.
///
/// # Errors
/// As socket(2).
pub fn socket(domain: i32, kind: i32, protocol: i32) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_socket, [word(domain), word(kind), word(protocol)]) }.map(|number| Fd(number as i32))
}

/// Two connected sockets.
///
/// # Errors
/// As socketpair(2).
pub fn socketpair(domain: i32, kind: i32) -> Result<(Fd, Fd), Errno> {
    let mut pair = [-1i32; 2];
    let arguments = [word(domain), word(kind), 0, pair.as_mut_ptr() as usize];
    // SAFETY: the kernel writes two ints.
    unsafe { invoke(libc::SYS_socketpair, arguments) }?;
    let [one, other] = pair;
    Ok((Fd(one), Fd(other)))
}

/// Gives a socket its address, as the bytes of a sockaddr.
///
/// # Errors
/// As bind(2).
pub fn bind(fd: Fd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` bytes of a slice.
    unsafe { invoke(libc::SYS_bind, [word(fd.0), address.as_ptr() as usize, address.len()]) }.map(drop)
}

/// Connects a socket.
///
/// # Errors
/// As connect(2).
pub fn connect(fd: Fd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` bytes of a slice.
    unsafe { invoke(libc::SYS_connect, [word(fd.0), address.as_ptr() as usize, address.len()]) }.map(drop)
}

/// Makes a socket listen.
///
/// # Errors
/// As listen(2).
pub fn listen(fd: Fd, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_listen, [word(fd.0), word(backlog)]) }.map(drop)
}

/// Takes a connection; the peer's address is of no interest here.
///
/// # Errors
/// As accept4(2).
pub fn accept(fd: Fd, flags: i32) -> Result<Fd, Errno> {
    // SAFETY: null pointers are allowed and nothing is written.
    unsafe { invoke(libc::SYS_accept4, [word(fd.0), 0, 0, word(flags)]) }.map(|number| Fd(number as i32))
}

/// Shuts one or both halves (SHUT_RD, SHUT_WR, SHUT_RDWR).
///
/// # Errors
/// As shutdown(2).
pub fn shutdown(fd: Fd, how: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_shutdown, [word(fd.0), word(how)]) }.map(drop)
}

/// What an AF_UNIX socket has sent and nobody has received yet (SIOCOUTQ): 0 for nothing, else more than the bytes.
///
/// # Errors
/// As ioctl(2).
pub fn queued_output(fd: Fd) -> Result<i32, Errno> {
    let mut queued = 0i32;
    let arguments = [word(fd.0), libc::TIOCOUTQ as usize, (&raw mut queued) as usize];
    // SAFETY: the request writes one int.
    unsafe { invoke(libc::SYS_ioctl, arguments) }?;
    Ok(queued)
}

/// Whether the next byte to read is an urgent one (SIOCATMARK).
#[must_use]
pub fn is_at_mark(fd: Fd) -> bool {
    const SIOCATMARK: usize = 0x8905;
    let mut mark = 0i32;
    let arguments = [word(fd.0), SIOCATMARK, (&raw mut mark) as usize];
    // SAFETY: the request writes one int.
    unsafe { invoke(libc::SYS_ioctl, arguments) }.is_ok() && mark != 0
}

/// The peer's address as the bytes of a sockaddr; returns its whole length, of which what fits is stored.
///
/// # Errors
/// As getpeername(2).
pub fn peer_name(fd: Fd, name: &mut [u8]) -> Result<usize, Errno> {
    name_of(libc::SYS_getpeername, fd, name)
}

/// The socket's own address as the bytes of a sockaddr; returns its whole length, of which what fits is stored.
///
/// # Errors
/// As getsockname(2).
pub fn local_name(fd: Fd, name: &mut [u8]) -> Result<usize, Errno> {
    name_of(libc::SYS_getsockname, fd, name)
}

fn name_of(number: i64, fd: Fd, name: &mut [u8]) -> Result<usize, Errno> {
    let mut length = name.len().min(i32::MAX as usize) as u32;
    let arguments = [word(fd.0), name.as_mut_ptr() as usize, (&raw mut length) as usize];
    // SAFETY: the kernel writes at most `length` bytes of an exclusive slice, and the length.
    unsafe { invoke(number, arguments) }?;
    Ok(length as usize)
}

/// The sockaddr of an AF_UNIX name: a path, or with a leading `@` a name in the abstract space.
///
/// # Errors
/// ENAMETOOLONG; EINVAL for an empty one.
pub fn unix_address(name: &str) -> Result<([u8; 110], usize), Errno> {
    let mut address = [0u8; 110];
    let (family, path) = address.split_at_mut(2);
    family.copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let (skip, bytes) = name.strip_prefix('@').map_or((0, name.as_bytes()), |rest| (1, rest.as_bytes()));
    if bytes.is_empty() {
        return Err(Errno(libc::EINVAL));
    }
    // A path needs its terminating zero, an abstract name its leading one: 107 bytes either way.
    let room = path.get_mut(skip..107 + skip).and_then(|room| room.get_mut(..bytes.len()));
    room.ok_or(Errno(libc::ENAMETOOLONG))?.copy_from_slice(bytes);
    // Abstract: family, zero, name. Path: family, path, zero.
    Ok((address, 2 + 1 + bytes.len()))
}

/// Sets a socket option.
///
/// # Errors
/// As setsockopt(2).
pub fn set_option(fd: Fd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let arguments = [word(fd.0), word(level), word(name), value.as_ptr() as usize, value.len()];
    // SAFETY: the kernel reads `len` bytes. An option whose value holds a pointer in turn (a filter program) is only
    // read through by the kernel, with its own checks.
    unsafe { invoke(libc::SYS_setsockopt, arguments) }.map(drop)
}

/// Sets an integer socket option.
///
/// # Errors
/// As setsockopt(2).
pub fn set_option_int(fd: Fd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

/// Reads a socket option and returns its length.
///
/// # Errors
/// As getsockopt(2).
pub fn option(fd: Fd, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
    let mut length = value.len().min(i32::MAX as usize) as u32;
    let arguments = [word(fd.0), word(level), word(name), value.as_mut_ptr() as usize, (&raw mut length) as usize];
    // SAFETY: the kernel writes at most `length` bytes of an exclusive slice, and the length.
    unsafe { invoke(libc::SYS_getsockopt, arguments) }?;
    Ok(length as usize)
}

/// Reads an integer socket option.
///
/// # Errors
/// As getsockopt(2).
pub fn option_int(fd: Fd, level: i32, name: i32) -> Result<i32, Errno> {
    let mut value = [0u8; 4];
    option(fd, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// Who connected a unix socket, or listened at its other end: process, as this pid namespace numbers it, and effective
/// user (SO_PEERCRED).
///
/// # Errors
/// As getsockopt(2).
pub fn peer_credentials(fd: Fd) -> Result<(i32, u32), Errno> {
    // struct ucred: pid, uid, gid.
    let mut bytes = [0u8; 12];
    option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut bytes)?;
    let [a, b, c, d, e, f, g, h, ..] = bytes;
    Ok((i32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])))
}

/// Attaches a classic BPF program that decides what the socket receives.
///
/// # Errors
/// EINVAL for a program that the kernel refuses, ENOMEM.
pub fn attach_filter(fd: Fd, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno(libc::EINVAL))?;
    let description = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>();
    let arguments =
        [word(fd.0), word(libc::SOL_SOCKET), word(libc::SO_ATTACH_FILTER), (&raw const description) as usize, size];
    // SAFETY: the description and the program outlive the call, and the kernel only reads them.
    unsafe { invoke(libc::SYS_setsockopt, arguments) }.map(drop)
}

/// What a message brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes stored; with MSG_TRUNC among the flags asked for, the length of the whole message.
    pub length: usize,
    /// Bytes of control data stored.
    pub control: usize,
    /// MSG_TRUNC, MSG_CTRUNC, ...
    pub flags: i32,
}

pub(super) const fn message(
    parts: *mut libc::iovec,
    count: usize,
    control: *mut u8,
    control_length: usize,
) -> libc::msghdr {
    // SAFETY: all zero is a valid msghdr: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = parts;
    header.msg_iovlen = count as _;
    header.msg_control = control.cast();
    header.msg_controllen = control_length as _;
    header
}

/// Receives a message into several buffers.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_message(
    fd: Fd,
    parts: &mut [IoSliceMut<'_>],
    control: &mut [u8],
    flags: i32,
) -> Result<Received, Errno> {
    let mut header = message(parts.as_mut_ptr().cast(), parts.len(), control.as_mut_ptr(), control.len());
    let arguments = [word(fd.0), (&raw mut header) as usize, word(flags)];
    // SAFETY: IoSliceMut is documented to have the layout of iovec; the kernel writes into exclusive slices.
    let length = unsafe { invoke(libc::SYS_recvmsg, arguments) }?;
    Ok(Received { length, control: header.msg_controllen, flags: header.msg_flags })
}

/// Receives a message whose first bytes go to `prefix` and the rest to `buffer`, at most `room` bytes, without
/// clearing the buffer first. `buffer` is left with what arrived.
///
/// # Errors
/// As recvmsg(2); then `buffer` is empty.
pub fn receive_into(
    fd: Fd,
    prefix: &mut [u8],
    buffer: &mut Vec<u8>,
    room: usize,
    control: &mut [u8],
    flags: i32,
) -> Result<Received, Errno> {
    buffer.clear();
    buffer.reserve(room);
    let mut parts = [
        libc::iovec { iov_base: prefix.as_mut_ptr().cast(), iov_len: prefix.len() },
        libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: room },
    ];
    let mut header = message(parts.as_mut_ptr(), parts.len(), control.as_mut_ptr(), control.len());
    let arguments = [word(fd.0), (&raw mut header) as usize, word(flags)];
    // SAFETY: `buffer` has room for `room` bytes (reserved above) and all pointers outlive the call.
    let length = unsafe { invoke(libc::SYS_recvmsg, arguments) }?;
    let stored = length.saturating_sub(prefix.len()).min(room);
    // SAFETY: the kernel has written `stored` bytes, and no more than `room` fit.
    unsafe { buffer.set_len(stored) };
    Ok(Received { length, control: header.msg_controllen, flags: header.msg_flags })
}

/// What a message brought that tells its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedFrom {
    /// Bytes of the sender's address.
    pub name: usize,
    /// MSG_TRUNC, ...
    pub flags: i32,
}

/// Receives a message into `buffer`, at most `room` bytes, and its sender's address into `sender`.
///
/// # Errors
/// As recvmsg(2); then `buffer` is empty.
pub fn receive_from_into(
    fd: Fd,
    sender: &mut [u8],
    buffer: &mut Vec<u8>,
    room: usize,
    flags: i32,
) -> Result<ReceivedFrom, Errno> {
    buffer.clear();
    buffer.reserve(room);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: room };
    let mut header = message(&raw mut part, 1, std::ptr::null_mut(), 0);
    header.msg_name = sender.as_mut_ptr().cast();
    header.msg_namelen = sender.len() as u32;
    let arguments = [word(fd.0), (&raw mut header) as usize, word(flags)];
    // SAFETY: `buffer` has room for `room` bytes (reserved above) and all pointers outlive the call.
    let length = unsafe { invoke(libc::SYS_recvmsg, arguments) }?;
    // SAFETY: the kernel has written that many bytes, and no more than `room` fit.
    unsafe { buffer.set_len(length.min(room)) };
    let name = (header.msg_namelen as usize).min(sender.len());
    Ok(ReceivedFrom { name, flags: header.msg_flags })
}

/// Sends a message gathered from several buffers, to `address` or to the peer.
///
/// # Errors
/// As sendmsg(2).
pub fn send_message(
    fd: Fd,
    parts: &[IoSlice<'_>],
    address: Option<&[u8]>,
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    let iovecs = parts.as_ptr().cast::<libc::iovec>().cast_mut();
    let mut header = message(iovecs, parts.len(), control.as_ptr().cast_mut(), control.len());
    if let Some(address) = address {
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len() as u32;
    }
    // SAFETY: IoSlice is documented to have the layout of iovec, and the kernel only reads what is pointed to.
    unsafe { invoke(libc::SYS_sendmsg, [word(fd.0), (&raw const header) as usize, word(flags)]) }
}

/// Receives into one buffer.
///
/// # Errors
/// As recv(2).
pub fn receive(fd: Fd, buffer: &mut [u8], flags: i32) -> Result<usize, Errno> {
    let arguments = [word(fd.0), buffer.as_mut_ptr() as usize, buffer.len(), word(flags), 0, 0];
    // SAFETY: the kernel writes at most `len` bytes of an exclusive slice; no address is asked for.
    unsafe { invoke(libc::SYS_recvfrom, arguments) }
}

/// Sends one buffer to the peer.
///
/// # Errors
/// As send(2).
pub fn send(fd: Fd, buffer: &[u8], flags: i32) -> Result<usize, Errno> {
    let arguments = [word(fd.0), buffer.as_ptr() as usize, buffer.len(), word(flags), 0, 0];
    // SAFETY: the kernel reads `len` bytes of a slice; no address is given.
    unsafe { invoke(libc::SYS_sendto, arguments) }
}

/// Alignment and header size of control messages (struct cmsghdr on 64-bit targets).
const CONTROL_ALIGN: usize = 8;
/// Bytes before the data of a control message.
pub const CONTROL_HEADER: usize = 16;

/// One control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMessage<'a> {
    /// SOL_SOCKET, SOL_PACKET, ...
    pub level: i32,
    /// SCM_RIGHTS, PACKET_AUXDATA, ...
    pub kind: i32,
    /// The payload.
    pub data: &'a [u8],
}

/// The control messages in a buffer that `receive_message` filled. Stops at the first malformed one.
pub fn control_messages(mut buffer: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(buffer.first_chunk().copied()?);
        let level = i32::from_ne_bytes(buffer.get(8..12)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(buffer.get(12..16)?.try_into().ok()?);
        let data = buffer.get(CONTROL_HEADER..length)?;
        buffer = buffer.get(length.next_multiple_of(CONTROL_ALIGN)..).unwrap_or(&[]);
        Some(ControlMessage { level, kind, data })
    })
}

/// Most descriptors that one message passes here.
pub const MAX_PASSED: usize = 8;

/// Sends bytes and up to [`MAX_PASSED`] descriptors over an AF_UNIX socket.
///
/// # Errors
/// As sendmsg(2); EINVAL for too many.
pub fn send_descriptors(fd: Fd, bytes: &[u8], passed: &[Fd], flags: i32) -> Result<usize, Errno> {
    let mut control = [0u8; CONTROL_HEADER + 4 * MAX_PASSED];
    if passed.len() > MAX_PASSED {
        return Err(Errno(libc::EINVAL));
    }
    let length = CONTROL_HEADER + 4 * passed.len();
    control[..8].copy_from_slice(&length.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
    for (slot, one) in control[CONTROL_HEADER..].chunks_exact_mut(4).zip(passed) {
        slot.copy_from_slice(&one.0.to_ne_bytes());
    }
    let used = if passed.is_empty() { 0 } else { length.next_multiple_of(CONTROL_ALIGN) };
    send_message(fd, &[IoSlice::new(bytes)], None, &control[..used], flags | libc::MSG_NOSIGNAL)
}

/// Receives bytes and up to [`MAX_PASSED`] descriptors, which are closed on exec. Returns the number of bytes and of
/// descriptors.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_descriptors(
    fd: Fd,
    bytes: &mut [u8],
    passed: &mut [Fd; MAX_PASSED],
    flags: i32,
) -> Result<(usize, usize), Errno> {
    let mut control = [0u8; CONTROL_HEADER + 4 * MAX_PASSED];
    let parts = &mut [IoSliceMut::new(bytes)];
    let received = receive_message(fd, parts, &mut control, flags | libc::MSG_CMSG_CLOEXEC)?;
    let mut count = 0;
    let stored = control.get(..received.control).unwrap_or(&[]);
    for message in control_messages(stored) {
        if (message.level, message.kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for number in message.data.as_chunks::<4>().0 {
                let received = Fd(i32::from_ne_bytes(*number));
                match passed.get_mut(count) {
                    Some(slot) => *slot = received,
                    None => drop(super::close(received)),
                }
                count = (count + 1).min(MAX_PASSED);
            }
        }
    }
    Ok((received.length, count))
}
