//! getsockopt and setsockopt: (level, name, bytes) to typed options and back, with Linux's rules for short lengths.
//! An option that the stack does not have answers ENOPROTOOPT; none is taken and forgotten.

mod given;
mod hand_over;
mod ip_level;
mod ipv6_level;
mod socket_level;
mod tcp_level;

use remora_host::runtime::Runtime;
use remora_host::sys::Errno;
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, OptionValue, SetOption, SocketOptions};
use remora_stack::socket::protocol::{AddressFamily, SocketType};
use smallvec::SmallVec;

pub(super) use self::given::Given;
pub(super) use self::hand_over::replay;
use super::{companion, gone, interfaces, option_rows, socket_of, traced};
use crate::abi::message::ControlWriter;
use crate::abi::{Outcome, User};
use crate::errno;
use crate::fdtable::Handle;

pub(super) const UNKNOWN: Errno = Errno(libc::ENOPROTOOPT);
const INVALID: Errno = Errno(libc::EINVAL);
const SO_COOKIE: i32 = 57;
const SO_NETNS_COOKIE: i32 = 71;
/// linux/tcp.h; its control message has the same number (TCP_CM_INQ).
pub(super) const TCP_INQ: i32 = 36;
const TCP_REPAIR_WINDOW: i32 = 29;
const TCP_MD5SIG_EXT: i32 = 32;
const TCP_AO_REPAIR: i32 = 42;
/// Longest value that is read: longer ones are cut, as names are, or have a fixed size anyway.
const LONGEST: usize = 256;

pub(super) type Bytes = SmallVec<[u8; 256]>;

pub(crate) fn setsockopt(fd: i32, level: i32, name: i32, value: User<std::ffi::c_void>, length: u32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let result = if (length as i32) < 0 {
        Err(INVALID)
    } else {
        let given = Given { place: value.cast(), length: length as usize };
        if level == libc::IPPROTO_TCP && name == libc::TCP_FASTOPEN_CONNECT {
            runtime.refresh_settings();
        }
        set(runtime, handle, level, name, &given).and_then(|option| match option {
            None => Ok(()),
            Some(option) => runtime
                .with_socket(handle.id, |stack, socket, now| stack.set_option(now, socket, &option))
                .ok_or_else(|| gone(fd, handle.id))
                .and_then(|result| result.map_err(errno::option)),
        })
    };
    if result.is_ok()
        && handle.is_stream()
        && !companion::of(handle.id).is_empty()
        && let Ok(bytes) = value.cast::<u8>().read_many((length as usize).min(LONGEST))
    {
        companion::follow_option(handle.id, level, name, &bytes);
    }
    traced(format_args!("setsockopt({fd}, {level}, {name})"), result.map(|()| 0))
}

/// SOL_UDPLITE's options are those of IPPROTO_UDP, of either kind of socket (`udp_setsockopt`).
const fn without_alias(level: i32) -> i32 {
    if level == libc::IPPROTO_UDPLITE { libc::IPPROTO_UDP } else { level }
}

/// The typed option; `None` for one that is rightly without effect.
fn set(runtime: &Runtime, handle: Handle, level: i32, name: i32, given: &Given) -> Result<Option<SetOption>, Errno> {
    let level = without_alias(level);
    if level == libc::SOL_SOCKET && name != libc::SO_BINDTODEVICE {
        // sock_setsockopt reads an int for everything else before it looks at the name.
        given.int()?;
        if let Some(errno) = option_rows::set_fixed(name, given) {
            return Err(errno);
        }
    }
    // A locked filter is found out before the program is looked at (`__get_filter`, `__get_bpf`).
    let sizes: &[usize] = if matches!(name, 50 | 52) { &[4] } else { &[16] };
    if level == libc::SOL_SOCKET
        && matches!(name, libc::SO_ATTACH_FILTER | 50..=52)
        && sizes.contains(&given.length)
        && common(-1, handle, runtime, |options| options.kept.has(Kept::LockFilter))?
    {
        return Err(Errno(libc::EPERM));
    }
    let has_level = match level {
        libc::IPPROTO_UDP => option_rows::is_udp(runtime, handle),
        libc::IPPROTO_IPV6 => handle.family == AddressFamily::Inet6,
        libc::IPPROTO_TCP => handle.is_stream(),
        _ => true,
    };
    if !has_level {
        return Err(UNKNOWN);
    }
    // do_ipv6_setsockopt reads what has the length of an int before it looks at the name.
    if level == libc::IPPROTO_IPV6 && given.length >= size_of::<i32>() {
        given.int()?;
    }
    if let Some(option) = option_rows::set(runtime, handle, (level, name), given) {
        return option.map(Some);
    }
    match level {
        libc::SOL_SOCKET => socket_level::set(handle, name, given),
        libc::IPPROTO_UDP => option_rows::set_udp(runtime, handle, name, given).map(Some),
        libc::IPPROTO_IP => ip_level::set(runtime, handle, name, given).map(Some),
        libc::IPPROTO_IPV6 if handle.family == AddressFamily::Inet6 => {
            ipv6_level::set(runtime, handle, name, given).map(Some)
        }
        libc::IPPROTO_TCP if name == TCP_AO_REPAIR && is_listening(runtime, handle) => Err(Errno(libc::EPERM)),
        libc::IPPROTO_TCP if handle.is_stream() && matches!(name, libc::TCP_MD5SIG | TCP_MD5SIG_EXT) => {
            tcp_level::signature_key(handle, name, given).map(Some)
        }
        libc::IPPROTO_TCP if handle.is_stream() => tcp_level::set(name, given).map(Some),
        // SOL_RAW, option ICMP_FILTER.
        libc::SOL_RAW if handle.kind == SocketType::Raw && name == 1 => {
            ip_level::set_icmp_filter(runtime, handle, given)
        }
        _ => Err(UNKNOWN),
    }
}

//= REF D-06
pub(crate) fn getsockopt(
    fd: i32,
    level: i32,
    name: i32,
    value: User<std::ffi::c_void>,
    length: User<u32>,
) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let result = has_level(runtime, handle, level, name).and_then(|()| length.read()).and_then(|room| {
        // do_ipv6_getsockopt compares lengths as unsigned ones.
        let room = match level {
            libc::IPPROTO_IPV6 => room as usize,
            _ => usize::try_from(room as i32).map_err(|_| INVALID)?,
        };
        let found = match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_SAVED_SYN) if handle.is_stream() => {
                tcp_level::saved_syn(fd, handle, runtime, room, length)?
            }
            (libc::IPPROTO_TCP, tcp_level::TCP_IS_MPTCP) if handle.is_stream() => int(0),
            // No protocol above TCP.
            (libc::IPPROTO_TCP, libc::TCP_ULP) if handle.is_stream() => Bytes::new(),
            // The memory that it asks for is a mapping of a socket, and none can be mapped here.
            (libc::IPPROTO_TCP, libc::TCP_ZEROCOPY_RECEIVE) if handle.is_stream() => return Err(INVALID),
            (libc::IPPROTO_TCP, TCP_AO_REPAIR) if handle.is_stream() && is_listening(runtime, handle) => {
                return Err(Errno(libc::EPERM));
            }
            (libc::IPPROTO_TCP, TCP_REPAIR_WINDOW) if handle.is_stream() && room != 20 => return Err(INVALID),
            // Neither is cut: the room must be there, or be just what it takes.
            (libc::SOL_SOCKET, SO_COOKIE) if room < 8 => return Err(INVALID),
            (libc::SOL_SOCKET, SO_NETNS_COOKIE) if room != 8 => return Err(INVALID),
            (libc::IPPROTO_IP, ip_level::IP_MSFILTER | ip_level::MCAST_MSFILTER) => {
                ip_level::get_sources(fd, handle, runtime, name, (value.cast(), room))?
            }
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) => {
                let (program, count) = socket_level::get_filter(fd, handle, runtime, room)?;
                value.cast::<u8>().write_many(&program)?;
                return length.write(count);
            }
            // `sock_getbindtodevice`: a name needs all of its room.
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE)
                if room < interfaces::NAME
                    && common(fd, handle, runtime, |options| options.kept.has(Kept::BindToIfIndex))? =>
            {
                return Err(INVALID);
            }
            _ => get(fd, handle, runtime, (level, name), room)?,
        };
        if (level, name) == (libc::SOL_SOCKET, libc::SO_PEERNAME) && room > found.len() {
            return Err(INVALID);
        }
        // IP_PKTOPTIONS.
        if (level, name) == (libc::IPPROTO_IP, 9) {
            let (told, stored) = ControlWriter::room_for(&found, room);
            value.cast::<u8>().write_many(found.get(..stored).unwrap_or(&[]))?;
            return length.write(told as u32);
        }
        let bytes = match level {
            libc::IPPROTO_IP if matches!(name, libc::IP_MULTICAST_IF | libc::IP_OPTIONS) => {
                found.get(..found.len().min(room)).unwrap_or(&[])
            }
            // do_ip_getsockopt gives a small value as one byte to one who has no room for an int.
            libc::IPPROTO_IP => shrink(&found, room),
            _ => found.get(..found.len().min(room)).unwrap_or(&[]),
        };
        value.cast::<u8>().write_many(bytes)?;
        length.write(bytes.len() as u32)
    });
    traced(format_args!("getsockopt({fd}, {level}, {name})"), result.map(|()| 0))
}

/// Whether TCP_REPAIR and its kin are refused before anything else (`tcp_can_repair_sock`).
fn is_listening(runtime: &Runtime, handle: Handle) -> bool {
    runtime.with_socket(handle.id, |stack, socket, _| stack.is_listening(socket)).unwrap_or(false)
}

/// Whether the socket has options of this level to read; who has none is told so before the length is looked at.
fn has_level(runtime: &Runtime, handle: Handle, level: i32, name: i32) -> Result<(), Errno> {
    let level = without_alias(level);
    // raw_getsockopt, raw_geticmpfilter.
    if level == libc::SOL_RAW && handle.kind == SocketType::Raw {
        return match own(-1, handle, runtime, OptionName::IcmpFilter) {
            _ if name != 1 => Err(UNKNOWN),
            Err(errno) if errno.0 == libc::EOPNOTSUPP => Err(errno),
            _ => Ok(()),
        };
    }
    let has = match level {
        libc::SOL_SOCKET | libc::IPPROTO_IP => true,
        libc::IPPROTO_IPV6 => handle.family == AddressFamily::Inet6,
        libc::IPPROTO_TCP => handle.is_stream(),
        libc::IPPROTO_UDP => option_rows::is_udp(runtime, handle),
        _ => false,
    };
    match handle.family {
        _ if has => Ok(()),
        // ip_getsockopt; ipv6_getsockopt says ENOPROTOOPT.
        AddressFamily::Inet => Err(Errno(libc::EOPNOTSUPP)),
        AddressFamily::Inet6 => Err(UNKNOWN),
    }
}

fn shrink(found: &Bytes, room: usize) -> &[u8] {
    let value = found.first_chunk::<4>().filter(|_| found.len() == 4).map(|bytes| i32::from_ne_bytes(*bytes));
    match value {
        Some(0..=255) if (1..4).contains(&room) => {
            let at = if cfg!(target_endian = "little") { 0 } else { 3 };
            found.get(at..=at).unwrap_or(&[])
        }
        _ => found.get(..found.len().min(room)).unwrap_or(&[]),
    }
}

pub(super) fn int(value: i32) -> Bytes {
    Bytes::from_slice(&value.to_ne_bytes())
}

fn get(fd: i32, handle: Handle, runtime: &Runtime, (level, name): (i32, i32), room: usize) -> Result<Bytes, Errno> {
    let level = without_alias(level);
    if let Some(found) = option_rows::get(fd, runtime, handle, (level, name)) {
        return found;
    }
    match level {
        libc::SOL_SOCKET => socket_level::get(fd, handle, runtime, name),
        libc::IPPROTO_UDP => option_rows::get_udp(fd, runtime, handle, name),
        libc::IPPROTO_IP => ip_level::get(fd, handle, runtime, name),
        libc::IPPROTO_IPV6 if handle.family == AddressFamily::Inet6 => ipv6_level::get(fd, handle, runtime, name, room),
        libc::IPPROTO_TCP if handle.is_stream() => own(fd, handle, runtime, tcp_level::name_of(name).ok_or(UNKNOWN)?),
        libc::SOL_RAW if handle.kind == SocketType::Raw && name == 1 => {
            own(fd, handle, runtime, OptionName::IcmpFilter)
        }
        _ => Err(UNKNOWN),
    }
}

/// Reads a common option.
pub(super) fn common<R>(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    pick: impl Fn(&SocketOptions) -> R,
) -> Result<R, Errno> {
    runtime
        .with_socket(handle.id, |stack, socket, _| stack.options(socket).map(&pick))
        .flatten()
        .ok_or_else(|| gone(fd, handle.id))
}

/// Reads an option of the protocol's own. Its bytes are copied out of the core's memory.
fn own(fd: i32, handle: Handle, runtime: &Runtime, name: OptionName) -> Result<Bytes, Errno> {
    if matches!(name, OptionName::Info | OptionName::CongestionInfo) {
        runtime.take_arrivals();
    }
    let mut buffer = [0u8; 320];
    let length = runtime
        .with_socket(handle.id, |stack, socket, now| {
            stack.option(now, socket, name).map(|value| {
                let mut store = |bytes: &[u8]| {
                    let length = bytes.len().min(buffer.len());
                    if let (Some(room), Some(bytes)) = (buffer.get_mut(..length), bytes.get(..length)) {
                        room.copy_from_slice(bytes);
                    }
                    length
                };
                match value {
                    OptionValue::Int(value) => store(&value.to_ne_bytes()),
                    OptionValue::Bytes(bytes) => store(&bytes),
                }
            })
        })
        .ok_or_else(|| gone(fd, handle.id))?
        .map_err(errno::option)?;
    let bytes = Bytes::from_slice(buffer.get(..length).unwrap_or(&[]));
    if name == OptionName::Congestion {
        // TCP_CA_NAME_MAX bytes, zeros at the end.
        let mut padded = bytes;
        padded.resize(16, 0);
        return Ok(padded);
    }
    Ok(bytes)
}
