//! IPPROTO_IPV6 of AF_INET6 sockets: what is set and shown (`do_ipv6_setsockopt`, `do_ipv6_getsockopt`). Options that are
//! one number are in option_rows.rs.

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, call};
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, SetOption, SocketOptions};

use super::{Bytes, Given, INVALID, UNKNOWN, common, int, ip_level, own};
use crate::fdtable::Handle;

/// Not in the libc crate for this target (linux/in6.h).
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_IPSEC_POLICY: i32 = 34;
const IPV6_XFRM_POLICY: i32 = 35;
const IPV6_PATHMTU: i32 = 61;
/// Size of struct cmsghdr.
const CONTROL_HEADER: usize = 16;
/// Size of struct group_filter without sources.
const GROUP_FILTER: usize = 144;

/// Options of IPv6 that are more than a number. Those that tune packets of IPv6 alone are kept apart from IPv4's, by
/// which packets to mapped addresses go.
pub(super) fn set(runtime: &Runtime, handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    // struct ipv6_mreq.
    const MEMBERSHIP: usize = 20;
    Ok(match name {
        libc::IPV6_V6ONLY => SetOption::V6Only(given.flag()?),
        libc::IPV6_FREEBIND => SetOption::FreeBind(given.flag()?),
        libc::IPV6_MTU => SetOption::Kept(Kept::V6Mtu, given.int()?),
        libc::IPV6_MULTICAST_IF if !handle.is_stream() => {
            let number = given.int()?;
            if number != 0 {
                let bound = common(-1, handle, runtime, |options| options.kept.read(Kept::BindToIfIndex))?;
                if bound != 0 && bound != number {
                    return Err(INVALID);
                }
                call::interface_name(number).map_err(|_| Errno(libc::ENODEV))?;
            }
            SetOption::Kept(Kept::V6MulticastIf, number)
        }
        // To become a socket of AF_INET: one with a peer could, and is not made to.
        libc::IPV6_ADDRFORM => match given.int()? {
            libc::AF_INET if is_connected(runtime, handle) => return Err(UNKNOWN),
            libc::AF_INET => return Err(Errno(libc::ENOTCONN)),
            _ => return Err(INVALID),
        },
        // Control messages, as many as fit in.
        IPV6_2292PKTOPTIONS if given.length < CONTROL_HEADER => SetOption::Kept(Kept::BsdCompat, 0),
        IPV6_IPSEC_POLICY | IPV6_XFRM_POLICY if given.place.is_null() && given.length == 0 => {
            SetOption::Kept(Kept::BsdCompat, 0)
        }
        IPV6_IPSEC_POLICY => return Err(ip_level::policy(handle, ip_level::IP_IPSEC_POLICY, given)),
        IPV6_XFRM_POLICY => {
            let errno = ip_level::policy(handle, ip_level::IP_IPSEC_POLICY, given);
            return Err(if errno.0 == libc::EOPNOTSUPP { INVALID } else { errno });
        }
        // struct in6_pktinfo, which is for packets of IPv6.
        libc::IPV6_PKTINFO => given.bytes(MEMBERSHIP).map(|_| SetOption::Kept(Kept::BsdCompat, 0))?,
        // `ipv6_set_opt_hdr`: extension headers in units of 8 bytes; none takes them away.
        libc::IPV6_HOPOPTS | libc::IPV6_RTHDRDSTOPTS | libc::IPV6_RTHDR | libc::IPV6_DSTOPTS => match given.length {
            0 => SetOption::Kept(Kept::BsdCompat, 0),
            length if length % 8 != 0 || length > 8 * 255 => return Err(INVALID),
            _ => return Err(UNKNOWN),
        },
        libc::IPV6_ADDR_PREFERENCES => SetOption::Kept(Kept::V6AddressPreferences, preferences(given.int()?)?),
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

pub(super) fn get(fd: i32, handle: Handle, runtime: &Runtime, name: i32, room: usize) -> Result<Bytes, Errno> {
    let flag = |pick: fn(&SocketOptions) -> bool| common(fd, handle, runtime, pick).map(|value| int(value.into()));
    match name {
        libc::IPV6_V6ONLY => flag(|options| options.v6_only),
        libc::IPV6_FREEBIND => flag(|options| options.free_bind),
        libc::IPV6_MTU => own(fd, handle, runtime, OptionName::Mtu),
        libc::IPV6_MULTICAST_IF => common(fd, handle, runtime, |options| int(options.kept.read(Kept::V6MulticastIf))),
        libc::IPV6_ADDR_PREFERENCES => {
            common(fd, handle, runtime, |options| int(options.kept.read(Kept::V6AddressPreferences)))
        }
        libc::IPV6_ROUTER_ALERT | IPV6_UNICAST_IF => Ok(int(0)),
        libc::IPV6_ADDRFORM if is_connected(runtime, handle) => Ok(int(libc::AF_INET6)),
        libc::IPV6_ADDRFORM => Err(Errno(libc::ENOTCONN)),
        // No packet of IPv6 has left anything.
        IPV6_2292PKTOPTIONS if handle.is_stream() => Ok(Bytes::new()),
        libc::IPV6_HOPOPTS | libc::IPV6_RTHDRDSTOPTS | libc::IPV6_RTHDR | libc::IPV6_DSTOPTS => Ok(Bytes::new()),
        // struct ip6_mtuinfo: an address, which stays empty, and the MTU.
        IPV6_PATHMTU if room >= 32 => {
            let mtu = own(fd, handle, runtime, OptionName::Mtu).map_err(|_| Errno(libc::ENOTCONN))?;
            let mut bytes = Bytes::from_slice(&[0; 28]);
            bytes.extend_from_slice(&mtu);
            Ok(bytes)
        }
        // MCAST_MSFILTER of a group that is none of IPv6's.
        48 if (GROUP_FILTER..=i32::MAX as usize).contains(&room) => Err(Errno(libc::EADDRNOTAVAIL)),
        IPV6_PATHMTU => Err(INVALID),
        // IPV6_FLOWLABEL_MGR, MCAST_MSFILTER, ip6tables.
        32 | 48 | 64 | 65 | 68 | 69 => Err(INVALID),
        _ => Err(UNKNOWN),
    }
}

/// Whether the socket is TCP_ESTABLISHED, which a connected datagram socket is, too.
fn is_connected(runtime: &Runtime, handle: Handle) -> bool {
    /// As TCP_INFO shows it.
    const ESTABLISHED: u8 = 1;
    if handle.is_stream() {
        let state = own(-1, handle, runtime, OptionName::Info).ok();
        return state.and_then(|bytes| bytes.first().copied()) == Some(ESTABLISHED);
    }
    runtime.with_socket(handle.id, |stack, socket, _| stack.has_peer(socket)).unwrap_or(false)
}

/// What IPV6_ADDR_PREFERENCES shows after `value` has been set (`__ip6_sock_set_addr_preferences`; nothing stays of what
/// was set before).
fn preferences(value: i32) -> Result<i32, Errno> {
    // IPV6_PREFER_SRC_*.
    const TEMPORARY: i32 = 1;
    const PUBLIC: i32 = 2;
    const CARE_OF: i32 = 4;
    const CGA: i32 = 8;
    const DEFAULT: i32 = 0x100;
    const HOME: i32 = 0x400;
    const NOT_CGA: i32 = 0x800;
    let address = match value & (PUBLIC | TEMPORARY | DEFAULT) {
        0 => DEFAULT,
        one @ (PUBLIC | TEMPORARY | DEFAULT) => one,
        _ => return Err(INVALID),
    };
    let place = match value & (HOME | CARE_OF) {
        0 => HOME,
        one @ (HOME | CARE_OF) => one,
        _ => return Err(INVALID),
    };
    match value & (CGA | NOT_CGA) {
        0 | CGA | NOT_CGA => Ok(address | place),
        _ => Err(INVALID),
    }
}
