//! getsockopt and setsockopt: (level, name, bytes) to typed options and back, with Linux's rules for short lengths.
//! An option that the stack does not have answers ENOPROTOOPT; none is taken and forgotten.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, OptionValue, SetOption, SignatureKey, SocketOptions, SourceChange};
use remora_stack::socket::protocol::{AddressFamily, SocketId, SocketType};
use remora_stack::stack::Stack;
use smallvec::SmallVec;

use super::{companion, gone, option_rows, socket_of, traced};
use crate::abi::{Outcome, User};
use crate::errno;
use crate::fdtable::Handle;

pub(super) const UNKNOWN: Errno = Errno(libc::ENOPROTOOPT);
const INVALID: Errno = Errno(libc::EINVAL);
/// The forms of the timeouts with 64-bit time, which are the same structure on 64-bit targets.
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const IP_MSFILTER: i32 = 41;
const SO_BUF_LOCK: i32 = 72;
const IPV6_UNICAST_IF: i32 = 76;
const SO_DEVMEM_DONTNEED: i32 = 80;
const SO_COOKIE: i32 = 57;
const SO_NETNS_COOKIE: i32 = 71;
/// Not in the libc crate for this target (asm-generic/socket.h, linux/tcp.h).
const SO_MAX_PACING_RATE: i32 = 47;
const TCP_CC_INFO: i32 = 26;
/// linux/tcp.h; its control message has the same number (TCP_CM_INQ).
pub(super) const TCP_INQ: i32 = 36;
/// Memory of a socket, in the order of linux/sock_diag.h.
const SO_MEMINFO: i32 = 55;
/// linux/tcp.h; libc has not all of them.
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_REPAIR_WINDOW: i32 = 29;
const TCP_MD5SIG_EXT: i32 = 32;
/// Flags of TCP_MD5SIG_EXT (linux/tcp.h).
const SIGNATURE_PREFIX: u8 = 1;
const SIGNATURE_INTERFACE: u8 = 2;
/// Size of Linux's `struct tcp_md5sig`, and its longest key.
const SIGNATURE_SIZE: usize = 216;
const SIGNATURE_LONGEST_KEY: usize = 80;
/// Longest value that is read: longer ones are cut, as names are, or have a fixed size anyway.
const LONGEST: usize = 256;

pub(super) type Bytes = SmallVec<[u8; 256]>;

/// The value of a setsockopt, not yet looked into.
pub(super) struct Given {
    place: User<u8>,
    length: usize,
}

impl Given {
    /// An int, as SOL_SOCKET and IPPROTO_TCP want it: no shorter.
    pub(super) fn int(&self) -> Result<i32, Errno> {
        if self.length < 4 {
            return Err(INVALID);
        }
        self.place.cast::<i32>().read()
    }

    /// An int or a byte, as IPPROTO_IP takes it; nothing is 0 (`do_ip_setsockopt`).
    pub(super) fn short_int(&self) -> Result<i32, Errno> {
        match self.length {
            0 => Ok(0),
            1..4 => self.place.read().map(i32::from),
            _ => self.int(),
        }
    }

    /// As [`Given::short_int`], where nothing is EINVAL.
    pub(super) fn byte_or_int(&self) -> Result<i32, Errno> {
        // The copy comes before the look at the length.
        self.short_int().and_then(|value| if self.length == 0 { Err(INVALID) } else { Ok(value) })
    }

    /// An int, neither less nor more.
    pub(super) fn exact_int(&self) -> Result<i32, Errno> {
        self.short_int().and_then(|value| if self.length == 4 { Ok(value) } else { Err(INVALID) })
    }

    /// SO_MAX_PACING_RATE: an int whose -1 is without limit, or, where there is room, a long.
    fn rate(&self) -> Result<u64, Errno> {
        if self.length >= size_of::<u64>() {
            return self.place.cast::<u64>().read();
        }
        let rate = self.int()?;
        Ok(if rate == -1 { u64::MAX } else { u64::from(rate as u32) })
    }

    fn flag(&self) -> Result<bool, Errno> {
        self.int().map(|value| value != 0)
    }

    fn short_flag(&self) -> Result<bool, Errno> {
        self.short_int().map(|value| value != 0)
    }

    fn bytes(&self, at_least: usize) -> Result<SmallVec<[u8; 8]>, Errno> {
        if self.length < at_least {
            return Err(INVALID);
        }
        self.place.read_many(self.length.min(LONGEST))
    }

    /// A name, which ends at a zero byte or with the value.
    fn text(&self, longest: usize) -> Result<String, Errno> {
        let bytes = self.place.read_many(self.length.min(longest))?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or(&[])).into_owned())
    }

    /// A struct timeval as a timeout (`sock_set_timeout`): zero is none, a negative one does not wait at all.
    fn timeout(&self) -> Result<Option<Duration>, Errno> {
        if self.length < size_of::<libc::timeval>() {
            return Err(INVALID);
        }
        let time = self.place.cast::<libc::timeval>().read()?;
        let micros = u32::try_from(time.tv_usec).ok().filter(|micros| *micros < 1_000_000);
        let micros = micros.ok_or(Errno(libc::EDOM))?;
        match u64::try_from(time.tv_sec) {
            Err(_) => Ok(Some(Duration::ZERO)),
            Ok(0) if micros == 0 => Ok(None),
            Ok(seconds) => Ok(Some(Duration::new(seconds, micros * 1000))),
        }
    }

    fn linger(&self) -> Result<Option<Duration>, Errno> {
        if self.length < size_of::<libc::linger>() {
            return Err(INVALID);
        }
        let linger = self.place.cast::<libc::linger>().read()?;
        let seconds = u64::try_from(linger.l_linger).unwrap_or(u64::from(u32::MAX));
        Ok((linger.l_onoff != 0).then(|| Duration::from_secs(seconds)))
    }
}

pub(crate) fn setsockopt(fd: i32, level: i32, name: i32, value: User<std::ffi::c_void>, length: u32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let result = if (length as i32) < 0 {
        Err(INVALID)
    } else {
        let given = Given { place: value.cast(), length: length as usize };
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

/// The typed option; `None` for one that is rightly without effect.
fn set(runtime: &Runtime, handle: Handle, level: i32, name: i32, given: &Given) -> Result<Option<SetOption>, Errno> {
    if level == libc::SOL_SOCKET && name != libc::SO_BINDTODEVICE {
        // sock_setsockopt reads an int for everything else before it looks at the name.
        given.int()?;
        if let Some(errno) = option_rows::set_fixed(name, given) {
            return Err(errno);
        }
    }
    let has_level = match level {
        libc::IPPROTO_UDP => option_rows::is_udp(runtime, handle),
        libc::IPPROTO_IPV6 => handle.family == AddressFamily::Inet6,
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
        libc::SOL_SOCKET => set_socket(handle, name, given),
        libc::IPPROTO_UDP => option_rows::set_udp(name, given).map(Some),
        libc::IPPROTO_IP => set_ip(runtime, handle, name, given).map(Some),
        libc::IPPROTO_IPV6 if handle.family == AddressFamily::Inet6 => set_ipv6(handle, name, given).map(Some),
        libc::IPPROTO_TCP if handle.is_stream() && matches!(name, libc::TCP_MD5SIG | TCP_MD5SIG_EXT) => {
            signature_key(handle, name, given).map(Some)
        }
        libc::IPPROTO_TCP if handle.is_stream() => set_tcp(name, given).map(Some),
        // SOL_RAW, option ICMP_FILTER.
        libc::SOL_RAW if handle.kind == SocketType::Raw && name == 1 => set_icmp_filter(runtime, handle, given),
        _ => Err(UNKNOWN),
    }
}

/// ICMP_FILTER: who gives less than an int changes the first bytes of it only (`raw_seticmpfilter`).
fn set_icmp_filter(runtime: &Runtime, handle: Handle, given: &Given) -> Result<Option<SetOption>, Errno> {
    let mut filter = own(-1, handle, runtime, OptionName::IcmpFilter)?;
    for (byte, new) in filter.iter_mut().zip(given.place.read_many(given.length.min(4))?) {
        *byte = new;
    }
    let filter = filter.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Ok(Some(SetOption::IcmpFilter(filter)))
}

fn set_socket(handle: Handle, name: i32, given: &Given) -> Result<Option<SetOption>, Errno> {
    if name == libc::SO_BINDTODEVICE {
        return given.text(15).map(|name| Some(SetOption::Device(name)));
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
        libc::SO_TIMESTAMP => SetOption::Timestamp(u8::from(given.flag()?)),
        libc::SO_TIMESTAMPNS => SetOption::Timestamp(if given.flag()? { 2 } else { 0 }),
        SO_TIMESTAMP_NEW => SetOption::Timestamp(if given.flag()? { 3 } else { 0 }),
        SO_TIMESTAMPNS_NEW => SetOption::Timestamp(if given.flag()? { 4 } else { 0 }),
        // struct so_timestamping begins with its flags; there is no hardware clock that it could name.
        libc::SO_TIMESTAMPING => SetOption::Timestamping(given.int()?, false),
        SO_TIMESTAMPING_NEW => SetOption::Timestamping(given.int()?, true),
        SO_BUF_LOCK => SetOption::BufferLock(given.int()?),
        libc::SO_DETACH_FILTER => return Err(Errno(libc::ENOENT)),
        libc::SO_ATTACH_FILTER if given.length != size_of::<libc::sock_fprog>() => return Err(INVALID),
        SO_DEVMEM_DONTNEED if !handle.is_stream() => return Err(Errno(libc::EBADF)),
        SO_DEVMEM_DONTNEED if given.length == 0 || !given.length.is_multiple_of(8) => return Err(INVALID),
        SO_DEVMEM_DONTNEED => return Ok(None),
        libc::SO_NO_CHECK => SetOption::NoCheck(given.flag()?),
        libc::SO_INCOMING_CPU => SetOption::IncomingCpu(given.int()?),
        SO_MAX_PACING_RATE => SetOption::MaxPacingRate(given.rate()?),
        _ => return Err(UNKNOWN),
    }))
}

fn set_ip(runtime: &Runtime, handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    Ok(match name {
        libc::IP_TTL => SetOption::Ttl(given.byte_or_int()?),
        // The ECN bits of a stream are the protocol's (`__ip_sock_set_tos`).
        libc::IP_TOS if handle.is_stream() => SetOption::Tos(given.short_int()? & !3),
        libc::IP_TOS => SetOption::Tos(given.short_int()?),
        libc::IP_MTU_DISCOVER => SetOption::MtuDiscover(given.short_int()?),
        libc::IP_RECVERR => SetOption::ReceiveErrors(given.short_flag()?),
        libc::IP_PKTINFO => SetOption::PacketInfo(given.short_flag()?),
        libc::IP_RECVTTL => SetOption::ReceiveTtl(given.short_flag()?),
        libc::IP_RECVTOS => SetOption::ReceiveTos(given.short_flag()?),
        libc::IP_RECVORIGDSTADDR => SetOption::ReceiveOriginalDestination(given.short_flag()?),
        libc::IP_FREEBIND => SetOption::FreeBind(given.byte_or_int()? != 0),
        libc::IP_BIND_ADDRESS_NO_PORT => SetOption::BindAddressNoPort(given.short_flag()?),
        libc::IP_MULTICAST_TTL if handle.is_stream() => return given.short_int().and(Err(INVALID)),
        libc::IP_MULTICAST_TTL => SetOption::MulticastTtl(given.byte_or_int()?),
        libc::IP_MULTICAST_LOOP => SetOption::MulticastLoop(given.byte_or_int()? != 0),
        libc::IP_MULTICAST_IF if handle.is_stream() => return Err(INVALID),
        libc::IP_MULTICAST_IF => SetOption::MulticastInterface(multicast_interface(given)?),
        libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP | 37..=47 => {
            let option = membership(handle, name, given)?;
            // Routers are told on the wire, and asked there.
            let _ = runtime.bring_up(true);
            option
        }
        // MCAST_MSFILTER.
        48 => return Err(INVALID),
        libc::IP_HDRINCL if handle.kind == SocketType::Raw => SetOption::HeaderIncluded(given.short_flag()?),
        libc::IP_HDRINCL => return given.short_int().and(Err(UNKNOWN)),
        // IP_UNICAST_IF: by number in network order; there is one device, and it is the one anyhow.
        50 => match given.exact_int()? {
            0 => SetOption::Kept(Kept::IpUnicastIf, 0),
            _ => return Err(Errno(libc::EADDRNOTAVAIL)),
        },
        _ => return Err(UNKNOWN),
    })
}

/// An IPv4 address at an offset of a structure; the unspecified one is none.
fn address_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    (!address.is_unspecified()).then_some(IpAddr::V4(address))
}

/// struct in_addr, ip_mreq or ip_mreqn.
fn multicast_interface(given: &Given) -> Result<Option<IpAddr>, Errno> {
    let bytes = given.bytes(4)?;
    Ok(address_at(&bytes, if bytes.len() >= 8 { 4 } else { 0 }))
}

/// The requests about groups: struct ip_mreq, ip_mreqn, ip_mreq_source, ip_msfilter, group_req and group_source_req. An
/// interface named by number is the stack's, which has one.
fn membership(handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    // struct sockaddr_in in a sockaddr_storage: the address is at 4.
    const GROUP: usize = 8 + 4;
    const SOURCE: usize = 136 + 4;
    let least = match name {
        libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP => 8,
        37..=40 => 12,
        IP_MSFILTER => 16,
        42 | 45 => 136,
        _ => 264,
    };
    // inet_test_bit(IS_ICSK): the oldest requests look at the kind of the socket first.
    if handle.is_stream() && least == 8 {
        return Err(Errno(libc::EPROTO));
    }
    if given.length < least || (least == 12 && given.length != 12) {
        return Err(INVALID);
    }
    let bytes = given.place.read_many(given.length.min(1_024))?;
    let v4 = |at: usize| match address_at(&bytes, at) {
        Some(IpAddr::V4(address)) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let source = |group: usize, interface: Option<IpAddr>, source: usize, change| {
        SetOption::Source(v4(group).into(), interface, v4(source), change)
    };
    let join = matches!(name, libc::IP_ADD_MEMBERSHIP | 42);
    Ok(match name {
        // Of no group that a stream could have joined.
        37..=40 if handle.is_stream() => return Err(INVALID),
        _ if handle.is_stream() => return Err(Errno(libc::EPROTO)),
        libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP => {
            let by_number = bytes.get(8..12).is_some_and(|number| number.iter().any(|byte| *byte != 0));
            SetOption::Membership(v4(0).into(), address_at(&bytes, 4).filter(|_| !by_number), join)
        }
        // In struct ip_mreq_source the interface stands before the source.
        37 => source(0, address_at(&bytes, 4), 8, SourceChange::Unblock),
        38 => source(0, address_at(&bytes, 4), 8, SourceChange::Block),
        39 => source(0, address_at(&bytes, 4), 8, SourceChange::Add),
        40 => source(0, address_at(&bytes, 4), 8, SourceChange::Drop),
        IP_MSFILTER => {
            let word = |at: usize| {
                bytes
                    .get(at..at + 4)
                    .and_then(|part| part.first_chunk::<4>())
                    .map_or(0, |part| u32::from_ne_bytes(*part))
            };
            let (mode, count) = (word(8), word(12) as usize);
            // igmp_max_msf.
            if count > 10 {
                return Err(Errno(libc::ENOBUFS));
            }
            if 16 + 4 * count > given.length || mode > 1 {
                return Err(INVALID);
            }
            let sources = (0..count).map(|place| v4(16 + 4 * place)).collect();
            SetOption::Sources(v4(0).into(), address_at(&bytes, 4), mode == 1, sources)
        }
        42 | 45 => SetOption::Membership(v4(GROUP).into(), None, join),
        43 => source(GROUP, None, SOURCE, SourceChange::Block),
        44 => source(GROUP, None, SOURCE, SourceChange::Unblock),
        46 => source(GROUP, None, SOURCE, SourceChange::Add),
        _ => source(GROUP, None, SOURCE, SourceChange::Drop),
    })
}

/// Options of IPv6 that are more than a number. Those that tune packets of IPv6 alone are kept apart from IPv4's, by
/// which packets to mapped addresses go.
fn set_ipv6(handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    // struct ipv6_mreq.
    const MEMBERSHIP: usize = 20;
    Ok(match name {
        libc::IPV6_V6ONLY => SetOption::V6Only(given.flag()?),
        libc::IPV6_FREEBIND => SetOption::FreeBind(given.flag()?),
        libc::IPV6_MTU => SetOption::Kept(Kept::V6Mtu, given.int()?),
        libc::IPV6_MULTICAST_IF if !handle.is_stream() => match given.int()? {
            0 | 1 => SetOption::Kept(Kept::BsdCompat, 0),
            _ => return Err(Errno(libc::ENODEV)),
        },
        libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP => {
            let bytes = given.bytes(MEMBERSHIP)?;
            let refusal = match bytes.first() {
                _ if handle.is_stream() => libc::EPROTO,
                //= REF S-06: there is no device for IPv6's groups.
                Some(0xff) => libc::ENODEV,
                _ => libc::EINVAL,
            };
            return Err(Errno(refusal));
        }
        libc::IPV6_ROUTER_ALERT => return given.int().and(Err(UNKNOWN)),
        libc::IPV6_JOIN_ANYCAST => return given.bytes(MEMBERSHIP).and(Err(Errno(libc::EADDRNOTAVAIL))),
        libc::IPV6_LEAVE_ANYCAST => return given.bytes(MEMBERSHIP).and(Err(Errno(libc::ENOENT))),
        IPV6_UNICAST_IF => match given.exact_int()? {
            0 => SetOption::Kept(Kept::BsdCompat, 0),
            _ => return Err(Errno(libc::EADDRNOTAVAIL)),
        },
        // IPV6_FLOWLABEL_MGR, the MCAST_ requests, ip6tables.
        32 | 42..=48 | 64 | 65 => return Err(INVALID),
        _ => return Err(UNKNOWN),
    })
}

/// Pairs of option kind and value.
fn repair_options(given: &Given) -> Result<Vec<(u32, u32)>, Errno> {
    let bytes = given.bytes(4)?;
    let word = |bytes: &[u8]| bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Ok(bytes.chunks_exact(8).map(|pair| (word(pair), word(pair.get(4..).unwrap_or(&[])))).collect())
}

/// A struct tcp_repair_window. Linux looks at the socket's mode before the size; the stack does so with a window that
/// no socket takes.
fn repair_window(given: &Given) -> Result<[u32; 5], Errno> {
    let bytes = given.bytes(4)?;
    let mut window = [0, 1, 0, 0, 0];
    if given.length == size_of_val(&window) {
        for (field, bytes) in window.iter_mut().zip(bytes.chunks_exact(4)) {
            *field = bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        }
    }
    Ok(window)
}

/// A struct tcp_md5sig: sockaddr_storage, flags, prefix length, key length (2 bytes), interface, key
/// (`tcp_v4_parse_md5_keys`, `tcp_v6_parse_md5_keys`).
fn signature_key(handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    given.int()?;
    let bytes = given.bytes(SIGNATURE_SIZE)?;
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let family = i32::from(u16::from_ne_bytes([byte(0), byte(1)]));
    let address = match handle.family {
        AddressFamily::Inet if family == libc::AF_INET => IpAddr::V4(Ipv4Addr::new(byte(4), byte(5), byte(6), byte(7))),
        AddressFamily::Inet6 if family == libc::AF_INET6 => {
            let octets: [u8; 16] = std::array::from_fn(|place| byte(8 + place));
            let address = Ipv6Addr::from(octets);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return Err(INVALID),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let (flags, extended) = (byte(128), name == TCP_MD5SIG_EXT);
    let prefix = if extended && flags & SIGNATURE_PREFIX != 0 { byte(129) } else { longest };
    let interface = u32::from_ne_bytes([byte(132), byte(133), byte(134), byte(135)]);
    // Only an L3 master device may be named, and there is none here.
    if prefix > longest || (extended && flags & SIGNATURE_INTERFACE != 0 && interface != 0) {
        return Err(INVALID);
    }
    let length = usize::from(u16::from_ne_bytes([byte(130), byte(131)]));
    if length > SIGNATURE_LONGEST_KEY {
        return Err(INVALID);
    }
    let key = bytes.get(136..136 + length).ok_or(INVALID)?.to_vec();
    let default_domain = flags & SIGNATURE_INTERFACE != 0;
    Ok(SetOption::SignatureKey(SignatureKey { address, prefix, default_domain, key }))
}

fn set_tcp(name: i32, given: &Given) -> Result<SetOption, Errno> {
    if name == libc::TCP_CONGESTION {
        if given.length < 1 {
            return Err(INVALID);
        }
        // TCP_CA_NAME_MAX is 16 with the zero.
        return given.text(15).map(SetOption::Congestion);
    }
    if name == libc::TCP_FASTOPEN_KEY {
        if !matches!(given.length, 16 | 32) {
            return Err(INVALID);
        }
        return Ok(SetOption::FastOpenKey(given.bytes(16)?.to_vec()));
    }
    let value = given.int()?;
    Ok(match name {
        libc::TCP_NODELAY => SetOption::NoDelay(value != 0),
        libc::TCP_CORK => SetOption::Cork(value != 0),
        libc::TCP_MAXSEG => SetOption::MaxSegment(value),
        libc::TCP_KEEPIDLE => SetOption::KeepIdle(value),
        libc::TCP_KEEPINTVL => SetOption::KeepInterval(value),
        libc::TCP_KEEPCNT => SetOption::KeepCount(value),
        libc::TCP_SYNCNT => SetOption::SynCount(value),
        libc::TCP_LINGER2 => SetOption::Linger2(value),
        libc::TCP_DEFER_ACCEPT => SetOption::DeferAccept(value),
        libc::TCP_WINDOW_CLAMP => SetOption::WindowClamp(value),
        libc::TCP_QUICKACK => SetOption::QuickAck(value),
        libc::TCP_USER_TIMEOUT => SetOption::UserTimeout(value),
        libc::TCP_NOTSENT_LOWAT => SetOption::NotSentLowWater(value as u32),
        TCP_REPAIR if !call::is_capable(call::NET_ADMIN) => return Err(Errno(libc::EPERM)),
        TCP_REPAIR => SetOption::Repair(value),
        TCP_REPAIR_QUEUE => SetOption::RepairQueue(value),
        TCP_QUEUE_SEQ => SetOption::QueueSeq(value as u32),
        TCP_REPAIR_OPTIONS => SetOption::RepairOptions(repair_options(given)?),
        TCP_REPAIR_WINDOW => SetOption::RepairWindow(repair_window(given)?),
        libc::TCP_TIMESTAMP => SetOption::TcpTimestamp(value as u32),
        libc::TCP_SAVE_SYN => SetOption::SaveSyn(value),
        libc::TCP_FASTOPEN => SetOption::FastOpen(value),
        TCP_INQ => SetOption::Inq(value),
        libc::TCP_FASTOPEN_CONNECT => match value {
            0 | 1 => SetOption::FastOpenConnect(value != 0),
            _ => return Err(INVALID),
        },
        libc::TCP_FASTOPEN_NO_COOKIE => match value {
            0 | 1 => SetOption::FastOpenNoCookie(value != 0),
            _ => return Err(INVALID),
        },
        _ => return Err(UNKNOWN),
    })
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
                saved_syn(fd, handle, runtime, room, length)?
            }
            (libc::IPPROTO_TCP, TCP_REPAIR_WINDOW) if handle.is_stream() && room != 20 => return Err(INVALID),
            // Neither is cut: the room must be there, or be just what it takes.
            (libc::SOL_SOCKET, SO_COOKIE) if room < 8 => return Err(INVALID),
            (libc::SOL_SOCKET, SO_NETNS_COOKIE) if room != 8 => return Err(INVALID),
            _ => get(fd, handle, runtime, level, name)?,
        };
        if (level, name) == (libc::SOL_SOCKET, libc::SO_PEERNAME) && room > found.len() {
            return Err(INVALID);
        }
        let bytes = match level {
            libc::IPPROTO_IP if name == libc::IP_MULTICAST_IF => found.get(..found.len().min(room)).unwrap_or(&[]),
            // do_ip_getsockopt gives a small value as one byte to one who has no room for an int.
            libc::IPPROTO_IP => shrink(&found, room),
            _ => found.get(..found.len().min(room)).unwrap_or(&[]),
        };
        value.cast::<u8>().write_many(bytes)?;
        length.write(bytes.len() as u32)
    });
    traced(format_args!("getsockopt({fd}, {level}, {name})"), result.map(|()| 0))
}

/// Whether the socket has options of this level to read; who has none is told so before the length is looked at.
fn has_level(runtime: &Runtime, handle: Handle, level: i32, name: i32) -> Result<(), Errno> {
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

/// TCP_SAVED_SYN: who has too little room is told how much it takes, and may ask again.
fn saved_syn(fd: i32, handle: Handle, runtime: &Runtime, room: usize, length: User<u32>) -> Result<Bytes, Errno> {
    let found = own(fd, handle, runtime, OptionName::SavedSyn { room });
    if found == Err(INVALID) {
        let needed = own(fd, handle, runtime, OptionName::SavedSynLength)?;
        length.write(needed.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))?;
    }
    found
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

fn get(fd: i32, handle: Handle, runtime: &Runtime, level: i32, name: i32) -> Result<Bytes, Errno> {
    if let Some(found) = option_rows::get(fd, runtime, handle, (level, name)) {
        return found;
    }
    match level {
        libc::SOL_SOCKET => get_socket(fd, handle, runtime, name),
        libc::IPPROTO_UDP => option_rows::get_udp(fd, runtime, handle, name),
        libc::IPPROTO_IP => get_ip(fd, handle, runtime, name),
        libc::IPPROTO_IPV6 if handle.family == AddressFamily::Inet6 => get_ipv6(fd, handle, runtime, name),
        libc::IPPROTO_TCP if handle.is_stream() => own(fd, handle, runtime, tcp_name(name).ok_or(UNKNOWN)?),
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

fn get_socket(fd: i32, handle: Handle, runtime: &Runtime, name: i32) -> Result<Bytes, Errno> {
    let flag = |pick: fn(&SocketOptions) -> bool| common(fd, handle, runtime, pick).map(|value| int(value.into()));
    let number = |pick: fn(&SocketOptions) -> i32| common(fd, handle, runtime, pick).map(int);
    if let Some(found) = option_rows::get_fixed(name) {
        return found;
    }
    match name {
        libc::SO_REUSEADDR => flag(|options| options.reuse_address),
        libc::SO_REUSEPORT => flag(|options| options.reuse_port),
        libc::SO_KEEPALIVE => flag(|options| options.keepalive),
        libc::SO_BROADCAST => flag(|options| options.broadcast),
        libc::SO_OOBINLINE => flag(|options| options.oob_inline),
        libc::SO_DONTROUTE => flag(|options| options.dont_route),
        libc::SO_NO_CHECK => flag(|options| options.no_check),
        SO_MAX_PACING_RATE => common(fd, handle, runtime, |options| options.max_pacing_rate)
            .map(|rate| Bytes::from_slice(&rate.to_ne_bytes())),
        libc::SO_TIMESTAMP => flag(|options| options.timestamp == 1),
        libc::SO_TIMESTAMPNS => flag(|options| options.timestamp == 2),
        libc::SO_INCOMING_CPU => number(|options| options.incoming_cpu),
        libc::SO_PRIORITY => number(|options| options.priority),
        libc::SO_MARK => number(|options| options.mark as i32),
        libc::SO_RCVBUF => number(|options| options.receive_buffer as i32),
        libc::SO_SNDBUF => number(|options| options.send_buffer as i32),
        libc::SO_RCVLOWAT => number(|options| options.receive_low_water as i32),
        libc::SO_SNDLOWAT => Ok(int(1)),
        SO_TIMESTAMP_NEW => flag(|options| options.timestamp == 3),
        SO_TIMESTAMPNS_NEW => flag(|options| options.timestamp == 4),
        libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
            let (flags, new) = common(fd, handle, runtime, |options| {
                (options.kept.read(Kept::Timestamping), options.kept.has(Kept::TimestampingNew))
            })?;
            // `sk_getsockopt`: the older number shows what was set by the newer one too.
            let shown = if name == libc::SO_TIMESTAMPING || new { flags } else { 0 };
            Ok([shown, 0].iter().flat_map(|value| value.to_ne_bytes()).collect())
        }
        SO_BUF_LOCK => {
            number(|options| i32::from(options.send_buffer_locked) | i32::from(options.receive_buffer_locked) << 1)
        }
        // No filter is attached.
        libc::SO_ATTACH_FILTER => Ok(Bytes::new()),
        // Those of the descriptor's own socket: the numbers are the kernel's.
        SO_COOKIE | SO_NETNS_COOKIE => {
            let mut cookie = [0u8; 8];
            call::option(Fd(fd), libc::SOL_SOCKET, name, &mut cookie)?;
            Ok(Bytes::from_slice(&cookie))
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
            let length = common_device(fd, handle, runtime, &mut name)?;
            Ok(Bytes::from_slice(name.get(..length).unwrap_or(&[])))
        }
        _ => Err(UNKNOWN),
    }
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

fn get_ip(fd: i32, handle: Handle, runtime: &Runtime, name: i32) -> Result<Bytes, Errno> {
    let flag = |pick: fn(&SocketOptions) -> bool| common(fd, handle, runtime, pick).map(|value| int(value.into()));
    let number = |pick: fn(&SocketOptions) -> i32| common(fd, handle, runtime, pick).map(int);
    match name {
        libc::IP_TTL => {
            let ttl = runtime.with_socket(handle.id, |stack, socket, _| {
                let default = stack.settings().ip_default_ttl;
                stack.options(socket).map(|options| options.ttl.unwrap_or(default))
            });
            ttl.flatten().map(|ttl| int(ttl.into())).ok_or_else(|| gone(fd, handle.id))
        }
        libc::IP_TOS => number(|options| options.tos.into()),
        libc::IP_MTU_DISCOVER => number(|options| options.mtu_discover.into()),
        libc::IP_RECVERR => flag(|options| options.receive_errors),
        libc::IP_PKTINFO => flag(|options| options.packet_info),
        libc::IP_RECVTTL => flag(|options| options.receive_ttl),
        libc::IP_RECVTOS => flag(|options| options.receive_tos),
        libc::IP_RECVORIGDSTADDR => flag(|options| options.receive_original_destination),
        libc::IP_FREEBIND => flag(|options| options.free_bind),
        libc::IP_BIND_ADDRESS_NO_PORT => flag(|options| options.bind_address_no_port),
        libc::IP_MULTICAST_TTL => number(|options| options.multicast_ttl.into()),
        libc::IP_MULTICAST_LOOP => flag(|options| options.multicast_loop),
        libc::IP_MULTICAST_IF => {
            common(fd, handle, runtime, |options| options.multicast_interface).map(|address| match address {
                Some(IpAddr::V4(address)) => Bytes::from_slice(&address.octets()),
                _ => Bytes::from_slice(&[0; 4]),
            })
        }
        // IP_PKTOPTIONS: of streams only, which receive none.
        9 if handle.is_stream() => Ok(Bytes::new()),
        // IP_PROTOCOL: Linux gives the number that the socket is bound to, which is a raw socket's protocol.
        52 => {
            let name = runtime.with_socket(handle.id, |stack, socket, _| stack.local_name(socket).ok()).flatten();
            Ok(int(name.map_or(0, |name| i32::from(name.port()))))
        }
        libc::IP_HDRINCL if handle.kind != SocketType::Raw => Ok(int(0)),
        50 => number(|options| options.kept.read(Kept::IpUnicastIf)),
        // No options are set: none can be.
        libc::IP_OPTIONS => Ok(Bytes::new()),
        libc::IP_MTU => own(fd, handle, runtime, OptionName::Mtu),
        libc::IP_HDRINCL if handle.kind == SocketType::Raw => own(fd, handle, runtime, OptionName::HeaderIncluded),
        _ => Err(UNKNOWN),
    }
}

fn get_ipv6(fd: i32, handle: Handle, runtime: &Runtime, name: i32) -> Result<Bytes, Errno> {
    let flag = |pick: fn(&SocketOptions) -> bool| common(fd, handle, runtime, pick).map(|value| int(value.into()));
    match name {
        libc::IPV6_V6ONLY => flag(|options| options.v6_only),
        libc::IPV6_FREEBIND => flag(|options| options.free_bind),
        libc::IPV6_MTU => own(fd, handle, runtime, OptionName::Mtu),
        libc::IPV6_MULTICAST_IF | libc::IPV6_ROUTER_ALERT | IPV6_UNICAST_IF => Ok(int(0)),
        libc::IPV6_ADDRFORM => Err(Errno(libc::ENOTCONN)),
        // IPV6_FLOWLABEL_MGR, MCAST_MSFILTER, ip6tables.
        32 | 48 | 64 | 65 | 68 | 69 => Err(INVALID),
        _ => Err(UNKNOWN),
    }
}

fn tcp_name(name: i32) -> Option<OptionName> {
    Some(match name {
        libc::TCP_NODELAY => OptionName::NoDelay,
        libc::TCP_CORK => OptionName::Cork,
        libc::TCP_MAXSEG => OptionName::MaxSegment,
        libc::TCP_KEEPIDLE => OptionName::KeepIdle,
        libc::TCP_KEEPINTVL => OptionName::KeepInterval,
        libc::TCP_KEEPCNT => OptionName::KeepCount,
        libc::TCP_SYNCNT => OptionName::SynCount,
        libc::TCP_LINGER2 => OptionName::Linger2,
        libc::TCP_DEFER_ACCEPT => OptionName::DeferAccept,
        libc::TCP_WINDOW_CLAMP => OptionName::WindowClamp,
        libc::TCP_QUICKACK => OptionName::QuickAck,
        libc::TCP_CONGESTION => OptionName::Congestion,
        TCP_CC_INFO => OptionName::CongestionInfo,
        libc::TCP_USER_TIMEOUT => OptionName::UserTimeout,
        libc::TCP_NOTSENT_LOWAT => OptionName::NotSentLowWater,
        TCP_REPAIR => OptionName::Repair,
        TCP_REPAIR_QUEUE => OptionName::RepairQueue,
        TCP_QUEUE_SEQ => OptionName::QueueSeq,
        TCP_REPAIR_WINDOW => OptionName::RepairWindow,
        libc::TCP_TIMESTAMP => OptionName::TcpTimestamp,
        libc::TCP_SAVE_SYN => OptionName::SaveSyn,
        libc::TCP_FASTOPEN => OptionName::FastOpen,
        libc::TCP_FASTOPEN_CONNECT => OptionName::FastOpenConnect,
        TCP_INQ => OptionName::Inq,
        libc::TCP_FASTOPEN_NO_COOKIE => OptionName::FastOpenNoCookie,
        libc::TCP_FASTOPEN_KEY => OptionName::FastOpenKey,
        libc::TCP_INFO => OptionName::Info,
        _ => return None,
    })
}

/// Options of IPPROTO_TCP that a hand-over carries to the kernel's socket, with the value a fresh one has there.
const REPLAYED: [i32; 7] = [
    libc::TCP_NODELAY,
    libc::TCP_CORK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_SYNCNT,
    libc::TCP_USER_TIMEOUT,
];

/// The value of one option as an int.
type Pick = fn(&SocketOptions) -> i32;

/// Keys of TCP_MD5SIG. A kernel's IPv6 socket wants IPv4 addresses in mapped form.
fn replay_signature_keys(runtime: &Runtime, handle: Handle, kernel: Fd) {
    for place in 0.. {
        let Ok(mut bytes) = own(-1, handle, runtime, OptionName::SignatureKey { place }) else { break };
        let family = (libc::AF_INET6 as u16).to_ne_bytes();
        if handle.family == AddressFamily::Inet6
            && bytes.first_chunk() != Some(&family)
            && let Some(octets) = bytes.get(4..8).and_then(|octets| octets.first_chunk::<4>().copied())
            && let Some(name) = bytes.get_mut(..24)
        {
            let mapped = Ipv4Addr::from(octets).to_ipv6_mapped().octets();
            let parts = family.into_iter().chain([0; 6]).chain(mapped);
            name.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        }
        let _ = call::set_option(kernel, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &bytes);
    }
}

/// Sets on a fresh kernel socket what the program has set on ours. What the kernel refuses was of no use to it.
pub(super) fn replay(runtime: &Runtime, handle: Handle, kernel: Fd) {
    let put = |level, name, value: i32| {
        if call::option_int(kernel, level, name) != Ok(value) {
            let _ = call::set_option_int(kernel, level, name, value);
        }
    };
    let socket = libc::SOL_SOCKET;
    let flags: [(i32, i32, Pick); 15] = [
        (socket, libc::SO_REUSEADDR, |options| options.reuse_address.into()),
        (socket, libc::SO_REUSEPORT, |options| options.reuse_port.into()),
        (socket, libc::SO_KEEPALIVE, |options| options.keepalive.into()),
        (socket, libc::SO_BROADCAST, |options| options.broadcast.into()),
        (socket, libc::SO_OOBINLINE, |options| options.oob_inline.into()),
        (socket, libc::SO_DONTROUTE, |options| options.dont_route.into()),
        (socket, libc::SO_PRIORITY, |options| options.priority),
        (socket, libc::SO_RCVLOWAT, |options| options.receive_low_water as i32),
        (libc::IPPROTO_IP, libc::IP_TOS, |options| options.tos.into()),
        (libc::IPPROTO_IP, libc::IP_RECVERR, |options| options.receive_errors.into()),
        (libc::IPPROTO_IP, libc::IP_PKTINFO, |options| options.packet_info.into()),
        (libc::IPPROTO_IP, libc::IP_RECVTTL, |options| options.receive_ttl.into()),
        (libc::IPPROTO_IP, libc::IP_FREEBIND, |options| options.free_bind.into()),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, |options| options.multicast_ttl.into()),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, |options| options.multicast_loop.into()),
    ];
    for (level, name, pick) in flags {
        if let Ok(value) = common(-1, handle, runtime, pick) {
            put(level, name, value);
        }
    }
    if handle.family == AddressFamily::Inet6
        && let Ok(only) = common(-1, handle, runtime, |options| options.v6_only)
    {
        put(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only.into());
    }
    if let Ok(kept) = common(-1, handle, runtime, |options| option_rows::changed(&options.kept)) {
        for (level, name, value) in kept {
            let _ = call::set_option_int(kernel, level, name, value);
        }
    }
    if let Ok(Some(ttl)) = common(-1, handle, runtime, |options| options.ttl) {
        put(libc::IPPROTO_IP, libc::IP_TTL, ttl.into());
    }
    let sizes = common(-1, handle, runtime, |options| {
        let receive = options.receive_buffer_locked.then_some(options.receive_buffer / 2);
        (receive, options.send_buffer_locked.then_some(options.send_buffer / 2))
    });
    if let Ok((receive, send)) = sizes {
        for (name, size) in [(libc::SO_RCVBUF, receive), (libc::SO_SNDBUF, send)] {
            if let Some(size) = size {
                let _ = call::set_option_int(kernel, socket, name, size as i32);
            }
        }
    }
    for name in [libc::SO_LINGER, libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        if let Ok(bytes) = get_socket(-1, handle, runtime, name)
            && bytes.iter().any(|byte| *byte != 0)
        {
            let _ = call::set_option(kernel, socket, name, &bytes);
        }
    }
    if handle.is_stream() {
        for name in REPLAYED {
            let value = tcp_name(name).and_then(|own_name| own(-1, handle, runtime, own_name).ok());
            if let Some(value) = value.as_deref().and_then(|bytes| bytes.first_chunk::<4>()) {
                put(libc::IPPROTO_TCP, name, i32::from_ne_bytes(*value));
            }
        }
        replay_signature_keys(runtime, handle, kernel);
    }
}
