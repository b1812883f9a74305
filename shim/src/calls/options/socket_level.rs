//! SOL_SOCKET: what is set and shown (`sk_setsockopt`, `sk_getsockopt`). Options that are one number are in option_rows.rs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::filter::Instruction;
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, SetOption, SocketOptions, Through};
use remora_stack::socket::protocol::{AddressFamily, SocketId, SocketType};
use remora_stack::stack::Stack;
use smallvec::SmallVec;

use super::{Bytes, Given, INVALID, SO_COOKIE, SO_NETNS_COOKIE, UNKNOWN, common, int, own};
use crate::calls::{gone, interfaces, option_rows};
use crate::errno;
use crate::fdtable::Handle;

/// The forms of the timeouts with 64-bit time, which are the same structure on 64-bit targets.
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_BUF_LOCK: i32 = 72;
const SO_DEVMEM_DONTNEED: i32 = 80;
/// Not in the libc crate for this target (asm-generic/socket.h).
const SO_BINDTOIFINDEX: i32 = 62;
const SO_ATTACH_BPF: i32 = 50;
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
const SO_TXTIME: i32 = 61;
const SO_MAX_PACING_RATE: i32 = 47;
/// Memory of a socket, in the order of linux/sock_diag.h.
const SO_MEMINFO: i32 = 55;

pub(super) fn set(handle: Handle, name: i32, given: &Given) -> Result<Option<SetOption>, Errno> {
    if name == libc::SO_BINDTODEVICE {
        return bind_to_device(given).map(Some);
    }
    Ok(Some(match name {
        libc::SO_REUSEADDR => SetOption::ReuseAddress(given.flag()?),
        libc::SO_REUSEPORT => SetOption::ReusePort(given.flag()?),
        libc::SO_KEEPALIVE => SetOption::KeepAlive(given.flag()?),
        libc::SO_BROADCAST => SetOption::Broadcast(given.flag()?),
        libc::SO_OOBINLINE => SetOption::OobInline(given.flag()?),
        libc::SO_DONTROUTE => SetOption::DontRoute(given.flag()?),
        libc::SO_LINGER => SetOption::Linger(given.linger()?),
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => SetOption::ReceiveTimeout(given.timeout()?),
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => SetOption::SendTimeout(given.timeout()?),
        libc::SO_RCVLOWAT => SetOption::ReceiveLowWater(given.int()?),
        libc::SO_RCVBUF => SetOption::ReceiveBuffer(given.int()?, false),
        libc::SO_RCVBUFFORCE => SetOption::ReceiveBuffer(given.int()?, true),
        libc::SO_SNDBUF => SetOption::SendBuffer(given.int()?, false),
        libc::SO_SNDBUFFORCE => SetOption::SendBuffer(given.int()?, true),
        libc::SO_PRIORITY => SetOption::Priority(given.int()?),
        libc::SO_MARK => SetOption::Mark(given.int()? as u32),
        libc::SO_TIMESTAMP => SetOption::Timestamp(u8::from(given.flag()?), false),
        libc::SO_TIMESTAMPNS => SetOption::Timestamp(2 * u8::from(given.flag()?), false),
        SO_TIMESTAMP_NEW => SetOption::Timestamp(u8::from(given.flag()?), true),
        SO_TIMESTAMPNS_NEW => SetOption::Timestamp(2 * u8::from(given.flag()?), true),
        // struct so_timestamping begins with its flags; there is no hardware clock that it could name.
        libc::SO_TIMESTAMPING => SetOption::Timestamping(given.int()?, false),
        SO_TIMESTAMPING_NEW => SetOption::Timestamping(given.int()?, true),
        SO_TXTIME => {
            let [clock, flags] = given.pair()?;
            SetOption::TxTime(clock, flags)
        }
        SO_BINDTOIFINDEX => {
            let index = given.int()?;
            SetOption::Device(call::interface_name(index).unwrap_or_default(), index, interfaces::through(index))
        }
        SO_BUF_LOCK => SetOption::BufferLock(given.int()?),
        libc::SO_ATTACH_FILTER => SetOption::Filter(Some(given.program()?)),
        libc::SO_DETACH_FILTER => SetOption::Filter(None),
        SO_ATTACH_REUSEPORT_CBPF => SetOption::GroupFilter(Some(given.program()?)),
        SO_DETACH_REUSEPORT_BPF => SetOption::GroupFilter(None),
        // Programs of eBPF are the kernel's: no descriptor is one that could be run here.
        SO_ATTACH_BPF | SO_ATTACH_REUSEPORT_EBPF => return Err(no_program(given)?),
        SO_DEVMEM_DONTNEED if !handle.is_stream() => return Err(Errno(libc::EBADF)),
        SO_DEVMEM_DONTNEED if given.length == 0 || !given.length.is_multiple_of(8) => return Err(INVALID),
        SO_DEVMEM_DONTNEED => return Ok(None),
        libc::SO_NO_CHECK => SetOption::NoCheck(given.flag()?),
        libc::SO_INCOMING_CPU => SetOption::IncomingCpu(given.int()?),
        SO_MAX_PACING_RATE => SetOption::MaxPacingRate(given.rate()?),
        _ => return Err(UNKNOWN),
    }))
}

pub(super) fn get(fd: i32, handle: Handle, runtime: &Runtime, name: i32) -> Result<Bytes, Errno> {
    let flag = |pick: fn(&SocketOptions) -> bool| common(fd, handle, runtime, pick).map(|value| int(value.into()));
    let number = |pick: fn(&SocketOptions) -> i32| common(fd, handle, runtime, pick).map(int);
    if let Some(found) = option_rows::get_fixed(name) {
        return found;
    }
    match name {
        // A socket under TCP_REPAIR shows SK_FORCE_REUSE.
        libc::SO_REUSEADDR if handle.is_stream() => match own(fd, handle, runtime, OptionName::Repair)?.first() {
            Some(1) => Ok(int(2)),
            _ => flag(|options| options.reuse_address),
        },
        libc::SO_REUSEADDR => flag(|options| options.reuse_address),
        libc::SO_REUSEPORT => flag(|options| options.reuse_port),
        libc::SO_KEEPALIVE => flag(|options| options.keepalive),
        libc::SO_BROADCAST => flag(|options| options.broadcast),
        libc::SO_OOBINLINE => flag(|options| options.oob_inline),
        libc::SO_DONTROUTE => flag(|options| options.dont_route),
        libc::SO_NO_CHECK => flag(|options| options.no_check),
        SO_MAX_PACING_RATE => common(fd, handle, runtime, |options| options.max_pacing_rate)
            .map(|rate| Bytes::from_slice(&rate.to_ne_bytes())),
        libc::SO_TIMESTAMP => flag(|options| options.timestamp == 1 && !options.kept.has(Kept::TimestampingNew)),
        libc::SO_TIMESTAMPNS => flag(|options| options.timestamp == 2 && !options.kept.has(Kept::TimestampingNew)),
        libc::SO_INCOMING_CPU => number(|options| options.incoming_cpu),
        libc::SO_PRIORITY => number(|options| options.priority),
        libc::SO_MARK => number(|options| options.mark as i32),
        libc::SO_RCVBUF => number(|options| options.receive_buffer as i32),
        libc::SO_SNDBUF => number(|options| options.send_buffer as i32),
        libc::SO_RCVLOWAT => number(|options| options.receive_low_water as i32),
        libc::SO_SNDLOWAT => Ok(int(1)),
        // SOCK_RCVTSTAMP is set for nanoseconds too.
        SO_TIMESTAMP_NEW => flag(|options| options.timestamp != 0 && options.kept.has(Kept::TimestampingNew)),
        SO_TIMESTAMPNS_NEW => flag(|options| options.timestamp == 2 && options.kept.has(Kept::TimestampingNew)),
        libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
            let (flags, new) = common(fd, handle, runtime, |options| {
                (options.kept.read(Kept::Timestamping), options.kept.has(Kept::TimestampingNew))
            })?;
            // `sk_getsockopt`: the older number shows what was set by the newer one too.
            let shown = if name == libc::SO_TIMESTAMPING || new { flags } else { 0 };
            Ok([shown, 0].iter().flat_map(|value| value.to_ne_bytes()).collect())
        }
        SO_BINDTOIFINDEX => number(|options| options.kept.read(Kept::BindToIfIndex)),
        // struct sock_txtime.
        SO_TXTIME => common(fd, handle, runtime, |options| {
            [options.kept.read(Kept::TxTimeClock), options.kept.read(Kept::TxTimeFlags)]
        })
        .map(|values| values.iter().flat_map(|value| value.to_ne_bytes()).collect()),
        SO_BUF_LOCK => {
            number(|options| i32::from(options.send_buffer_locked) | i32::from(options.receive_buffer_locked) << 1)
        }
        // Those of the descriptor's own socket: the numbers are the kernel's.
        SO_COOKIE | SO_NETNS_COOKIE => {
            let mut cookie = [0u8; 8];
            call::option(Fd(fd), libc::SOL_SOCKET, name, &mut cookie)?;
            Ok(Bytes::from_slice(&cookie))
        }
        libc::SO_PEERNAME if handle.is_stream() => {
            let found = own(fd, handle, runtime, OptionName::PeerName)?;
            let (port, address) = found.split_first_chunk::<2>().ok_or(Errno(libc::ENOTCONN))?;
            let address = match (address.first_chunk::<16>(), address.first_chunk::<4>()) {
                (Some(octets), _) => IpAddr::from(*octets),
                (None, Some(octets)) => IpAddr::from(*octets),
                (None, None) => return Err(Errno(libc::ENOTCONN)),
            };
            let name = SocketAddr::new(address, u16::from_be_bytes(*port));
            let (bytes, length) = crate::abi::address::encode(name, handle.family);
            Ok(Bytes::from_slice(bytes.get(..length).unwrap_or(&[])))
        }
        libc::SO_PEERNAME => {
            let name = runtime.with_socket(handle.id, |stack, socket, _| stack.peer_name(socket));
            let name = name.ok_or_else(|| gone(fd, handle.id))?.map_err(|_| Errno(libc::ENOTCONN))?;
            let (bytes, length) = crate::abi::address::encode(name, handle.family);
            Ok(Bytes::from_slice(bytes.get(..length).unwrap_or(&[])))
        }
        libc::SO_LINGER => common(fd, handle, runtime, |options| options.linger).map(|linger| {
            let mut bytes = int(linger.is_some().into());
            bytes.extend_from_slice(&(linger.unwrap_or_default().as_secs() as i32).to_ne_bytes());
            bytes
        }),
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => {
            common(fd, handle, runtime, |options| options.receive_timeout).map(timeval)
        }
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => common(fd, handle, runtime, |options| options.send_timeout).map(timeval),
        SO_MEMINFO => memory_information(fd, handle, runtime),
        libc::SO_TYPE => Ok(int(match handle.kind {
            SocketType::Stream => libc::SOCK_STREAM,
            SocketType::Datagram => libc::SOCK_DGRAM,
            SocketType::Raw => libc::SOCK_RAW,
        })),
        libc::SO_DOMAIN => Ok(int(match handle.family {
            AddressFamily::Inet => libc::AF_INET,
            AddressFamily::Inet6 => libc::AF_INET6,
        })),
        libc::SO_PROTOCOL => runtime
            .with_socket(handle.id, |stack, socket, _| stack.kind(socket))
            .flatten()
            .map(|(_, _, protocol)| int(protocol.into()))
            .ok_or_else(|| gone(fd, handle.id)),
        libc::SO_ACCEPTCONN => {
            let listening = runtime.with_socket(handle.id, |stack, socket, _| stack.is_listening(socket));
            Ok(int(listening.unwrap_or(false).into()))
        }
        //= REF C-06
        libc::SO_ERROR => {
            let error = runtime.with_socket(handle.id, |stack, socket, _| stack.take_error(socket));
            Ok(int(match error {
                Some(error) => error.map_or(0, |fault| errno::fault(fault).0),
                None => gone(fd, handle.id).0,
            }))
        }
        libc::SO_BINDTODEVICE => {
            let mut name = [0u8; 16];
            let index = common(fd, handle, runtime, |options| options.kept.read(Kept::BindToIfIndex))?;
            let length = common_device(fd, handle, runtime, &mut name)?;
            // `netdev_get_name`: a number that SO_BINDTOIFINDEX took, and that no device has.
            if length == 0 && index != 0 {
                return Err(Errno(libc::ENODEV));
            }
            Ok(Bytes::from_slice(name.get(..length).unwrap_or(&[])))
        }
        _ => Err(UNKNOWN),
    }
}

/// SO_BINDTODEVICE (`sock_setbindtodevice`): the name of a device that is there, or none.
fn bind_to_device(given: &Given) -> Result<SetOption, Errno> {
    let name = given.text(15)?;
    if name.is_empty() {
        return Ok(SetOption::Device(name, 0, Through::Any));
    }
    let device = call::interface(&name).map_err(|_| Errno(libc::ENODEV))?;
    Ok(SetOption::Device(name, device.index, interfaces::through(device.index)))
}

/// SO_GET_FILTER, whose length counts instructions (`sk_get_filter`): as many as there are, or their number alone.
pub(super) fn get_filter(fd: i32, handle: Handle, runtime: &Runtime, room: usize) -> Result<(Bytes, u32), Errno> {
    let program = common(fd, handle, runtime, |options| {
        options.filter.as_ref().map(|filter| SmallVec::<[Instruction; 32]>::from_slice(filter.instructions()))
    })?;
    let program = program.unwrap_or_default();
    let count = u32::try_from(program.len()).unwrap_or(u32::MAX);
    if room == 0 || program.is_empty() {
        return Ok((Bytes::new(), count));
    }
    if room < program.len() {
        return Err(INVALID);
    }
    let bytes = program.iter().flat_map(|one| {
        let [a, b] = one.code.to_ne_bytes();
        let [c, d, e, f] = one.k.to_ne_bytes();
        [a, b, one.jump_true, one.jump_false, c, d, e, f]
    });
    Ok((bytes.collect(), count))
}

/// The error for a descriptor that is no program (`bpf_prog_get_type`).
fn no_program(given: &Given) -> Result<Errno, Errno> {
    if given.length != size_of::<i32>() {
        return Ok(INVALID);
    }
    let fd = Fd(given.int()?);
    Ok(if call::fcntl(fd, libc::F_GETFD, 0).is_ok() { INVALID } else { Errno(libc::EBADF) })
}

/// SK_MEMINFO_RMEM_ALLOC, RCVBUF, WMEM_ALLOC, SNDBUF, FWD_ALLOC, WMEM_QUEUED, OPTMEM, BACKLOG, DROPS: bytes of data for
/// memory, and none where the stack keeps none.
fn memory_information(fd: i32, handle: Handle, runtime: &Runtime) -> Result<Bytes, Errno> {
    let (receive, send) = common(fd, handle, runtime, |options| (options.receive_buffer, options.send_buffer))?;
    let queued = |stack: &Stack, socket: SocketId| {
        [stack.queued_input(socket), stack.queued_output(socket)].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
    };
    let [input, output] =
        runtime.with_socket(handle.id, |stack, socket, _| queued(stack, socket)).ok_or_else(|| gone(fd, handle.id))?;
    let values = [input, receive, output, send, 0, output, 0, 0, 0];
    Ok(values.iter().flat_map(|value| value.to_ne_bytes()).collect())
}

/// The device's name with its zero, or nothing.
fn common_device(fd: i32, handle: Handle, runtime: &Runtime, name: &mut [u8; 16]) -> Result<usize, Errno> {
    runtime
        .with_socket(handle.id, |stack, socket, _| {
            let device = stack.options(socket)?.device.as_bytes();
            let length = device.len().min(15);
            name.get_mut(..length)?.copy_from_slice(device.get(..length)?);
            Some(if length == 0 { 0 } else { length + 1 })
        })
        .flatten()
        .ok_or_else(|| gone(fd, handle.id))
}

fn timeval(span: Option<Duration>) -> Bytes {
    let span = span.unwrap_or_default();
    let mut bytes = Bytes::from_slice(&(span.as_secs() as i64).to_ne_bytes());
    bytes.extend_from_slice(&i64::from(span.subsec_micros()).to_ne_bytes());
    bytes
}
