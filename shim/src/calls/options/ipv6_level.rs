//! IPPROTO_IPV6 of AF_INET6 sockets: what is set and shown (`do_ipv6_setsockopt`, `do_ipv6_getsockopt`). Options that are
//! one number are in option_rows.rs.

use remora_host::runtime::Runtime;
use remora_host::sys::Errno;
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, SetOption, SocketOptions};

use super::{Bytes, Given, INVALID, UNKNOWN, common, int, own};
use crate::fdtable::Handle;

const IPV6_UNICAST_IF: i32 = 76;

/// Options of IPv6 that are more than a number. Those that tune packets of IPv6 alone are kept apart from IPv4's, by
/// which packets to mapped addresses go.
pub(super) fn set(handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
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

pub(super) fn get(fd: i32, handle: Handle, runtime: &Runtime, name: i32) -> Result<Bytes, Errno> {
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
