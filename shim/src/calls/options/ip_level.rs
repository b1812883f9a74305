//! IPPROTO_IP and ICMP_FILTER: what is set and shown (`do_ip_setsockopt`, `do_ip_getsockopt`, `raw_seticmpfilter`), with
//! the requests about groups. Options that are one number are in option_rows.rs.

use std::net::{IpAddr, Ipv4Addr};

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, call};
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, SetOption, SocketOptions, SourceChange, Through};
use remora_stack::socket::protocol::{AddressFamily, SocketType};

use super::{Bytes, Given, INVALID, UNKNOWN, common, int, own};
use crate::abi::User;
use crate::calls::{control, gone, interfaces, option_rows};
use crate::fdtable::Handle;

pub(super) const IP_MSFILTER: i32 = 41;
pub(super) const MCAST_MSFILTER: i32 = 48;
/// Most bytes of options that an IP header takes.
const MOST_OPTIONS: usize = 40;
pub(super) const IP_IPSEC_POLICY: i32 = 16;
const IP_XFRM_POLICY: i32 = 17;

pub(super) fn set(runtime: &Runtime, handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    Ok(match name {
        libc::IP_OPTIONS if given.length > MOST_OPTIONS => return Err(INVALID),
        libc::IP_OPTIONS => {
            SetOption::IpOptions(given.place.read_many(given.length)?.to_vec(), call::is_capable(call::NET_RAW))
        }
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
        libc::IP_MULTICAST_IF => multicast_interface(runtime, handle, given)?,
        // IPsec's policies (`xfrm_user_policy`): none can be set on a socket that no key manager knows.
        IP_IPSEC_POLICY | IP_XFRM_POLICY if given.place.is_null() && given.length == 0 => {
            SetOption::Kept(Kept::BsdCompat, 0)
        }
        IP_IPSEC_POLICY | IP_XFRM_POLICY => return Err(policy(handle, name, given)),
        libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP | 37..=48 => {
            let option = membership(handle, name, given)?;
            // Routers are told on the wire, and asked there.
            let _ = runtime.bring_up(true);
            option
        }
        libc::IP_HDRINCL if handle.kind == SocketType::Raw => SetOption::HeaderIncluded(given.short_flag()?),
        libc::IP_HDRINCL => return given.short_int().and(Err(UNKNOWN)),
        // IP_UNICAST_IF.
        50 => unicast_interface(runtime, handle, given)?,
        _ => return Err(UNKNOWN),
    })
}

pub(super) fn get(fd: i32, handle: Handle, runtime: &Runtime, name: i32) -> Result<Bytes, Errno> {
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
        // IP_PKTOPTIONS: of streams only.
        9 if handle.is_stream() => Ok(control::of_stream(handle, runtime).whole()),
        // IP_PROTOCOL: Linux gives the number that the socket is bound to, which is a raw socket's protocol.
        52 if handle.kind == SocketType::Raw => Ok(int(option_rows::protocol(runtime, handle).into())),
        52 => {
            let port = runtime.with_socket(handle.id, |stack, socket, _| stack.held_port(socket));
            Ok(int(port.unwrap_or(0).into()))
        }
        libc::IP_HDRINCL if handle.kind != SocketType::Raw => Ok(int(0)),
        50 => number(|options| options.kept.read(Kept::IpUnicastIf)),
        libc::IP_OPTIONS => {
            common(fd, handle, runtime, |options| Bytes::from_slice(options.ip_options().undone().as_slice()))
        }
        libc::IP_MTU => own(fd, handle, runtime, OptionName::Mtu),
        libc::IP_HDRINCL if handle.kind == SocketType::Raw => own(fd, handle, runtime, OptionName::HeaderIncluded),
        _ => Err(UNKNOWN),
    }
}

/// ICMP_FILTER: who gives less than an int changes the first bytes of it only (`raw_seticmpfilter`).
pub(super) fn set_icmp_filter(runtime: &Runtime, handle: Handle, given: &Given) -> Result<Option<SetOption>, Errno> {
    let mut filter = own(-1, handle, runtime, OptionName::IcmpFilter)?;
    for (byte, new) in filter.iter_mut().zip(given.place.read_many(given.length.min(4))?) {
        *byte = new;
    }
    let filter = filter.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Ok(Some(SetOption::IcmpFilter(filter)))
}

/// An IPv4 address at an offset of a structure; the unspecified one is none.
fn address_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    (!address.is_unspecified()).then_some(IpAddr::V4(address))
}

/// The number of the interface that the socket is bound to, or 0.
fn bound_number(runtime: &Runtime, handle: Handle) -> Result<i32, Errno> {
    common(-1, handle, runtime, |options| options.kept.read(Kept::BindToIfIndex))
}

/// IP_UNICAST_IF: the number stands in network order; who is bound to an interface can have none besides.
fn unicast_interface(runtime: &Runtime, handle: Handle, given: &Given) -> Result<SetOption, Errno> {
    let value = given.exact_int()?;
    let number = i32::from_be(value);
    if number != 0 {
        call::interface_name(number).map_err(|_| Errno(libc::EADDRNOTAVAIL))?;
        if bound_number(runtime, handle)? != 0 {
            return Err(INVALID);
        }
    }
    Ok(SetOption::UnicastInterface(value, interfaces::through(number)))
}

/// struct in_addr, ip_mreq or ip_mreqn: an address of the host's, or the number of an interface.
fn multicast_interface(runtime: &Runtime, handle: Handle, given: &Given) -> Result<SetOption, Errno> {
    let bytes = given.bytes(4)?;
    let address = address_at(&bytes, if bytes.len() >= 8 { 4 } else { 0 });
    let number = bytes.get(8..12).and_then(|part| part.first_chunk::<4>()).map_or(0, |part| i32::from_ne_bytes(*part));
    let number = match (number, address) {
        (0, None) => 0,
        (0, Some(address)) if address.is_loopback() => interfaces::LOOPBACK,
        (0, Some(address)) if interfaces::address().is_none_or(|own| address == IpAddr::V4(own)) => interfaces::index(),
        (0, Some(_)) => return Err(Errno(libc::EADDRNOTAVAIL)),
        (number, _) if call::interface_name(number).is_ok() => number,
        _ => return Err(Errno(libc::EADDRNOTAVAIL)),
    };
    let bound = bound_number(runtime, handle)?;
    if number != 0 && bound != 0 && number != bound {
        return Err(INVALID);
    }
    // By the stack's own there is nothing to keep: it is where groups are anyhow.
    let through = Some(interfaces::through(number)).filter(|through| *through != Through::Device);
    Ok(SetOption::MulticastInterface(address, through.unwrap_or_default()))
}

pub(super) fn policy(handle: Handle, name: i32, given: &Given) -> Errno {
    match given.length {
        0 | 4_097.. => Errno(libc::EMSGSIZE),
        length if given.place.read_many(length).is_err() => Errno(libc::EFAULT),
        _ if name == IP_IPSEC_POLICY || handle.family == AddressFamily::Inet6 => Errno(libc::EOPNOTSUPP),
        _ => INVALID,
    }
}

/// IP_MSFILTER (struct ip_msfilter) and MCAST_MSFILTER (struct group_filter): the sources of a group, as many as there
/// is room for (`ip_mc_msfget`, `ip_mc_gsfget`).
pub(super) fn get_sources(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    name: i32,
    (value, room): (User<u8>, usize),
) -> Result<Bytes, Errno> {
    // Where group, mode, number and sources stand; how far apart sources are, and where in each the address is.
    let (group_at, mode_at, head, step, inner) =
        if name == IP_MSFILTER { (0, 8, 16, 4, 0) } else { (8 + 4, 136, 144, 128, 4) };
    if room < head {
        return Err(INVALID);
    }
    let mut bytes = Bytes::from_slice(&value.read_many(head)?);
    let group = match address_at(&bytes, group_at) {
        Some(IpAddr::V4(group)) if group.is_multicast() => group,
        _ => return Err(INVALID),
    };
    if name != IP_MSFILTER && bytes.get(8..10) != Some(&(libc::AF_INET as u16).to_ne_bytes()) {
        return Err(INVALID);
    }
    let wanted = bytes.get(mode_at + 4..mode_at + 8).and_then(|part| part.first_chunk::<4>());
    let wanted = wanted.map_or(0, |part| u32::from_ne_bytes(*part) as usize);
    let filter = own(fd, handle, runtime, OptionName::SourceFilter { group })?;
    let (mode, sources) = filter.split_first_chunk::<4>().ok_or(INVALID)?;
    let count = (sources.len() / 4) as u32;
    let told = mode.iter().copied().chain(count.to_ne_bytes());
    bytes.iter_mut().skip(mode_at).zip(told).for_each(|(to, from)| *to = from);
    for source in sources.chunks_exact(4).take(wanted.min((room - head) / step)) {
        let mut one = [0u8; 128];
        if inner > 0 {
            one.iter_mut().zip((libc::AF_INET as u16).to_ne_bytes()).for_each(|(to, from)| *to = from);
        }
        one.iter_mut().skip(inner).zip(source).for_each(|(to, from)| *to = *from);
        bytes.extend_from_slice(one.get(..step).unwrap_or(&[]));
    }
    Ok(bytes)
}

/// ENODEV for an interface that is not there (`ip_mc_find_dev`), EADDRNOTAVAIL where only memberships are looked
/// through for its number (`ip_mc_leave_group`).
fn known_interface(number: i32, needed: bool) -> Result<(), Errno> {
    match call::interface_name(number) {
        Ok(_) => Ok(()),
        Err(_) if needed => Err(Errno(libc::ENODEV)),
        Err(_) => Err(Errno(libc::EADDRNOTAVAIL)),
    }
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
        MCAST_MSFILTER => 144,
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
    let bytes = given.place.read_many(given.length.min(2_048))?;
    let v4 = |at: usize| match address_at(&bytes, at) {
        Some(IpAddr::V4(address)) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let source = |group: usize, interface: Option<IpAddr>, source: usize, change| {
        SetOption::Source(v4(group).into(), interface, v4(source), change)
    };
    let join = matches!(name, libc::IP_ADD_MEMBERSHIP | 42);
    // Where an interface is named by its number: struct ip_mreqn, group_req and group_source_req.
    let number = match name {
        libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP => bytes.get(8..12),
        42..=47 => bytes.get(..4),
        _ => None,
    };
    let number = number.and_then(|part| part.first_chunk::<4>()).map_or(0, |part| i32::from_ne_bytes(*part));
    if number != 0 && !handle.is_stream() && v4(if least == 8 { 0 } else { GROUP }).is_multicast() {
        known_interface(number, matches!(name, libc::IP_ADD_MEMBERSHIP | 42 | 43 | 44 | 46 | 47))?;
    }
    Ok(match name {
        // Of no group that a stream could have joined.
        37..=41 | MCAST_MSFILTER if handle.is_stream() => return Err(INVALID),
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
        IP_MSFILTER | MCAST_MSFILTER => {
            let (mode_at, head, step, inner) = if name == IP_MSFILTER { (8, 16, 4, 0) } else { (136, 144, 128, 4) };
            let word = |at: usize| {
                bytes
                    .get(at..at + 4)
                    .and_then(|part| part.first_chunk::<4>())
                    .map_or(0, |part| u32::from_ne_bytes(*part))
            };
            let (mode, count) = (word(mode_at), word(mode_at + 4) as usize);
            // igmp_max_msf.
            if count > 10 {
                return Err(Errno(libc::ENOBUFS));
            }
            if head + step * count > given.length || mode > 1 {
                return Err(INVALID);
            }
            let sources = (0..count).map(|place| v4(head + step * place + inner)).collect();
            let (group, interface) =
                if name == IP_MSFILTER { (v4(0), address_at(&bytes, 4)) } else { (v4(GROUP), None) };
            SetOption::Sources(group.into(), interface, mode == 1, sources)
        }
        42 | 45 => SetOption::Membership(v4(GROUP).into(), None, join),
        43 => source(GROUP, None, SOURCE, SourceChange::Block),
        44 => source(GROUP, None, SOURCE, SourceChange::Unblock),
        46 => source(GROUP, None, SOURCE, SourceChange::Add),
        _ => source(GROUP, None, SOURCE, SourceChange::Drop),
    })
}
