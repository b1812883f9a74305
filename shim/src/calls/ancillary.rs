//! The control messages of a send: what they ask for, in Linux's order of checks (`sock_cmsg_send`, `udp_cmsg_send`,
//! `ip_cmsg_send`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, call};
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::SocketOptions;
use remora_stack::socket::protocol::{AddressFamily, GivenOptions};
use remora_stack::socket::sockopt::timestamping;

use super::io::Extras;
use super::option_rows;
use crate::abi::message::{Control, controls};
use crate::fdtable::Handle;

/// Numbers that the libc crate does not have (asm-generic/socket.h, linux/in.h, linux/udp.h).
const SO_TIMESTAMPING_NEW: i32 = 65;
const SCM_TS_OPT_ID: i32 = 81;
const IP_PROTOCOL: i32 = 52;
const UDP_SEGMENT: i32 = 103;
/// Least size of struct in6_pktinfo, and where its interface stands.
const PACKET_INFO6: usize = 20;

const INVALID: Errno = Errno(libc::EINVAL);

/// Sorts them.
//= REF D-05
pub(super) fn extras(handle: Handle, runtime: &Runtime, control: &[u8]) -> Result<Extras, Errno> {
    let mut extras = Extras::default();
    if control.is_empty() {
        return Ok(extras);
    }
    extras.control = true;
    let is_udp = option_rows::is_udp(runtime, handle);
    for one in controls(control) {
        let one = one?;
        match one.level {
            libc::SOL_SOCKET => of_socket(handle, runtime, one, &mut extras)?,
            // A stream looks at those of SOL_SOCKET only.
            _ if handle.is_stream() => {}
            libc::IPPROTO_UDP if is_udp => {
                let size = Some(one.data).filter(|_| one.kind == UDP_SEGMENT).ok_or(INVALID)?;
                extras.segment = Some(u16::from_ne_bytes(size.try_into().map_err(|_| INVALID)?));
            }
            libc::IPPROTO_IPV6 if handle.family == AddressFamily::Inet6 && one.kind == libc::IPV6_PKTINFO => {
                extras.source = mapped_source(one.data)?;
            }
            libc::IPPROTO_IP => of_ip(one, &mut extras)?,
            _ => {}
        }
    }
    Ok(extras)
}

fn int(data: &[u8]) -> Result<i32, Errno> {
    data.try_into().map(i32::from_ne_bytes).map_err(|_| INVALID)
}

/// `__sock_cmsg_send`.
fn of_socket(handle: Handle, runtime: &Runtime, one: Control<'_>, extras: &mut Extras) -> Result<(), Errno> {
    let option = |pick: fn(&SocketOptions) -> bool| {
        runtime.with_socket(handle.id, |stack, socket, _| stack.options(socket).map(pick)).flatten().unwrap_or(false)
    };
    match one.kind {
        // Rights and credentials mean something to AF_UNIX only.
        libc::SCM_RIGHTS | libc::SCM_CREDENTIALS => {}
        // The device has no use for either.
        libc::SO_MARK | libc::SO_PRIORITY => drop(int(one.data)?),
        libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
            let flags = int(one.data)?;
            if flags & !timestamping::TX_RECORD != 0 {
                return Err(INVALID);
            }
            extras.timestamping = Some(flags);
        }
        libc::SCM_TXTIME if option(|options| options.kept.has(Kept::TxTime)) && one.data.len() == 8 => {}
        SCM_TS_OPT_ID
            if !handle.is_stream()
                && one.data.len() == 4
                && option(|options| options.kept.read(Kept::Timestamping) & timestamping::OPT_ID != 0) => {}
        _ => return Err(INVALID),
    }
    Ok(())
}

/// `ip_cmsg_send`.
fn of_ip(one: Control<'_>, extras: &mut Extras) -> Result<(), Errno> {
    match one.kind {
        libc::IP_RETOPTS => {
            extras.options = Some(GivenOptions::new(one.data, call::is_capable(call::NET_RAW)));
        }
        libc::IP_PKTINFO => {
            // struct in_pktinfo: interface, address to send from, address in the header.
            let info: [u8; 12] = one.data.try_into().map_err(|_| INVALID)?;
            let [_, _, _, _, a, b, c, d, ..] = info;
            let source = Ipv4Addr::new(a, b, c, d);
            extras.source = Some(IpAddr::V4(source));
        }
        libc::IP_TTL => extras.ttl = Some(u8::try_from(int(one.data)?).ok().filter(|ttl| *ttl > 0).ok_or(INVALID)?),
        libc::IP_TOS => {
            let value = match one.data {
                [byte] => i32::from(*byte),
                data => int(data)?,
            };
            extras.tos = Some(u8::try_from(value).map_err(|_| INVALID)?);
        }
        // For packets whose header the program writes; others have the socket's.
        IP_PROTOCOL => drop(u8::try_from(int(one.data)?).ok().filter(|number| *number > 0).ok_or(INVALID)?),
        _ => return Err(INVALID),
    }
    Ok(())
}

/// IPV6_PKTINFO on the way to an IPv4 address: the address to send from must be one of IPv4 too.
fn mapped_source(data: &[u8]) -> Result<Option<IpAddr>, Errno> {
    let octets: &[u8; 16] = data.first_chunk().filter(|_| data.len() >= PACKET_INFO6).ok_or(INVALID)?;
    let source = Ipv6Addr::from(*octets).to_ipv4_mapped().ok_or(INVALID)?;
    Ok(Some(IpAddr::V4(source)))
}
