//! IPPROTO_IP and ICMP_FILTER: what is set and shown (`do_ip_setsockopt`, `do_ip_getsockopt`, `raw_seticmpfilter`), with
//! the requests about groups. Options that are one number are in option_rows.rs.

use std::net::{IpAddr, Ipv4Addr};

use remora_host::runtime::Runtime;
use remora_host::sys::Errno;
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, SetOption, SocketOptions, SourceChange};
use remora_stack::socket::protocol::SocketType;

use super::{Bytes, Given, INVALID, UNKNOWN, common, int, own};
use crate::calls::gone;
use crate::fdtable::Handle;

const IP_MSFILTER: i32 = 41;

pub(super) fn set(runtime: &Runtime, handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
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
