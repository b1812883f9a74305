//! The control messages of a receive: those that the socket's options ask for (`sock_recv_cmsgs`, `udp_cmsg_recv`,
//! `ip_cmsg_recv_offset`), and what goes with a report of the error queue (`ip_recv_error`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use remora_host::runtime::Runtime;
use remora_host::sys::call;
use remora_stack::socket::errqueue::{Origin, Report};
use remora_stack::socket::kept::Kept;
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::{AddressFamily, Received, SocketType};
use remora_stack::socket::sockopt::timestamping;

use super::{interfaces, option_rows};
use crate::abi::address;
use crate::abi::message::ControlWriter;
use crate::errno;
use crate::fdtable::Handle;

/// The forms with 64-bit times, which are the same structures on 64-bit targets (asm-generic/socket.h).
const SCM_TIMESTAMP_NEW: i32 = 63;
const SCM_TIMESTAMPNS_NEW: i32 = 64;
const SCM_TIMESTAMPING_NEW: i32 = 65;
const UDP_GRO: i32 = 104;
const IP_RECVFRAGSIZE: i32 = 25;

/// Options of a socket that ask for control messages with what is received.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "one per option")]
struct Asked {
    packet_info: bool,
    packet_info6: bool,
    ttl: bool,
    tos: bool,
    original_destination: bool,
    timestamp: u8,
    timestamping: i32,
    timestamping_new: bool,
    overflow: bool,
    mark: bool,
    priority: bool,
    gro: bool,
    /// The address to answer from is not told.
    spare_source: bool,
    options: bool,
    return_options: bool,
    fragment: bool,
}

fn asked(handle: Handle, runtime: &Runtime) -> Asked {
    runtime
        .with_socket(handle.id, |stack, socket, _| {
            stack.options(socket).map_or(Asked::default(), |options| Asked {
                packet_info: options.packet_info,
                packet_info6: options.kept.has(Kept::V6RecvPacketInfo),
                ttl: options.receive_ttl,
                tos: options.receive_tos,
                original_destination: options.receive_original_destination,
                timestamp: options.timestamp,
                timestamping: options.kept.read(Kept::Timestamping),
                timestamping_new: options.kept.has(Kept::TimestampingNew),
                overflow: options.kept.has(Kept::RxqOvfl),
                mark: options.kept.has(Kept::RcvMark),
                priority: options.kept.has(Kept::RcvPriority),
                gro: options.kept.has(Kept::UdpGro),
                spare_source: false,
                options: options.kept.has(Kept::IpRecvOpts),
                return_options: options.kept.has(Kept::IpRetOpts),
                fragment: options.kept.has(Kept::IpRecvFragSize),
            })
        })
        .unwrap_or_default()
}

/// IP_PKTOPTIONS of a stream: where the segment that opened it was sent to, its TTL and TOS, as far as they were asked for.
pub(super) fn of_stream(handle: Handle, runtime: &Runtime) -> ControlWriter {
    let asked = asked(handle, runtime);
    let mut control = ControlWriter::default();
    let arrival = runtime
        .with_socket(handle.id, |stack, socket, now| {
            let local = stack.local_name(socket).map(|name| name.ip()).ok();
            let ttl = stack.options(socket).map_or(0, |options| options.multicast_ttl);
            match stack.option(now, socket, OptionName::ArrivalTos) {
                Ok(OptionValue::Int(tos)) => (local, ttl, tos),
                _ => (local, ttl, -1),
            }
        })
        .unwrap_or((None, 0, -1));
    let (local, ttl, tos) = arrival;
    if asked.packet_info {
        // Only what was accepted has come from somewhere.
        let interface = match local {
            _ if tos < 0 => 0,
            Some(address) if address.is_loopback() => interfaces::LOOPBACK,
            _ => interfaces::index(),
        };
        let address = match local {
            Some(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let mut data = interface.to_ne_bytes().to_vec();
        data.extend_from_slice(&address.octets());
        data.extend_from_slice(&address.octets());
        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
    }
    if asked.ttl {
        control.push(libc::IPPROTO_IP, libc::IP_TTL, &i32::from(ttl).to_ne_bytes());
    }
    if asked.tos {
        control.push(libc::IPPROTO_IP, libc::IP_TOS, &tos.max(0).to_ne_bytes());
    }
    control
}

/// Adds the messages in Linux's order.
//= REF D-05
pub(super) fn fill(handle: Handle, runtime: &Runtime, received: &Received, control: &mut ControlWriter) {
    // The end of a socket that was shut down brings nothing with it.
    if received.to.is_none() && received.report.is_none() && !handle.is_stream() {
        return;
    }
    let asked = asked(handle, runtime);
    fill_times(&asked, received, control);
    if let Some(report) = &received.report {
        if matches!(report.origin, Origin::Icmp(_)) {
            fill_ip(handle, runtime, &asked, received, control);
        }
        fill_report(handle, report, control);
        return;
    }
    // `ping_recvmsg` gives times and what IP has to say.
    let is_ping = handle.kind == SocketType::Datagram && !option_rows::is_udp(runtime, handle);
    if is_ping {
        fill_ip(handle, runtime, &Asked { spare_source: true, ..asked }, received, control);
        return;
    }
    if asked.overflow && received.dropped > 0 {
        control.push(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &received.dropped.to_ne_bytes());
    }
    // No packet that comes in is marked here, nor has it a priority.
    if asked.mark {
        control.push(libc::SOL_SOCKET, libc::SO_MARK, &0u32.to_ne_bytes());
    }
    if asked.priority {
        control.push(libc::SOL_SOCKET, libc::SO_PRIORITY, &0u32.to_ne_bytes());
    }
    if asked.gro && received.segment > 0 {
        control.push(libc::IPPROTO_UDP, UDP_GRO, &i32::from(received.segment).to_ne_bytes());
    }
    fill_ip(handle, runtime, &asked, received, control);
}

fn push_time(bytes: &mut Vec<u8>, seconds: u64, fraction: u64) {
    bytes.extend_from_slice(&seconds.to_ne_bytes());
    bytes.extend_from_slice(&fraction.to_ne_bytes());
}

/// `__sock_recv_timestamp`.
fn fill_times(asked: &Asked, received: &Received, control: &mut ControlWriter) {
    let wall = call::wall_clock().saturating_sub(call::now().since(received.at));
    let (seconds, nanos) = (wall.as_secs(), u64::from(wall.subsec_nanos()));
    if asked.timestamp != 0 {
        let (kind, fraction) = match (asked.timestamp, asked.timestamping_new) {
            (1, false) => (libc::SCM_TIMESTAMP, u64::from(wall.subsec_micros())),
            (1, true) => (SCM_TIMESTAMP_NEW, u64::from(wall.subsec_micros())),
            (_, false) => (libc::SCM_TIMESTAMPNS, nanos),
            (_, true) => (SCM_TIMESTAMPNS_NEW, nanos),
        };
        let mut data = Vec::with_capacity(16);
        push_time(&mut data, seconds, fraction);
        control.push(libc::SOL_SOCKET, kind, &data);
    }
    let taken = match &received.report {
        // What the kernel stamps on arrival it stamps for everybody who waits for times of any kind.
        Some(report) if matches!(report.origin, Origin::Icmp(_)) => {
            asked.timestamp != 0 || asked.timestamping & timestamping::RX_SOFTWARE != 0
        }
        Some(report) => matches!(report.origin, Origin::Timestamping(_)) || asked.timestamp != 0,
        None => asked.timestamping & timestamping::RX_SOFTWARE != 0,
    };
    if asked.timestamping & timestamping::SOFTWARE != 0 && taken && wall > Duration::ZERO {
        // struct scm_timestamping: by software, nothing, by hardware.
        let mut data = Vec::with_capacity(48);
        push_time(&mut data, seconds, nanos);
        data.resize(48, 0);
        let kind = if asked.timestamping_new { SCM_TIMESTAMPING_NEW } else { libc::SCM_TIMESTAMPING };
        control.push(libc::SOL_SOCKET, kind, &data);
    }
}

fn fill_ip(handle: Handle, runtime: &Runtime, asked: &Asked, received: &Received, control: &mut ControlWriter) {
    let to = match received.to {
        Some(IpAddr::V4(to)) => to,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    // What never left the machine came by loopback.
    // Which interface that was is noted for who has asked for it by then (`ipv4_pktinfo_prepare`).
    let interface = match to.is_loopback() {
        _ if !received.placed && received.report.is_none() => 0,
        true => interfaces::LOOPBACK,
        false => interfaces::index(),
    };
    if asked.packet_info6 && handle.family == AddressFamily::Inet6 {
        // struct in6_pktinfo.
        let mut data = to.to_ipv6_mapped().octets().to_vec();
        data.extend_from_slice(&interface.to_ne_bytes());
        control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
    }
    if asked.packet_info {
        // struct in_pktinfo: interface, the address it came to as the host sees it, the one in the header.
        let specific = match to {
            _ if interface == 0 || asked.spare_source => Ipv4Addr::UNSPECIFIED,
            to if to.is_multicast() || to.is_broadcast() => own_address(handle, runtime).unwrap_or(to),
            to => to,
        };
        let mut data = interface.to_ne_bytes().to_vec();
        data.extend_from_slice(&specific.octets());
        data.extend_from_slice(&to.octets());
        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
    }
    if asked.ttl {
        control.push(libc::IPPROTO_IP, libc::IP_TTL, &i32::from(received.ttl).to_ne_bytes());
    }
    if asked.tos {
        control.push(libc::IPPROTO_IP, libc::IP_TOS, &[received.tos]);
    }
    if !received.options.is_empty() {
        if asked.options {
            control.push(libc::IPPROTO_IP, libc::IP_RECVOPTS, received.options.as_slice());
        }
        match received.return_options.map(|options| options.undone()) {
            Some(options) if asked.return_options => {
                control.push(libc::IPPROTO_IP, libc::IP_RETOPTS, options.as_slice());
            }
            None if asked.return_options => control.omit(),
            _ => {}
        }
    }
    if asked.original_destination {
        let local = runtime.with_socket(handle.id, |stack, socket, _| stack.local_name(socket).ok()).flatten();
        let name = SocketAddr::new(IpAddr::V4(to), local.map_or(0, |name| name.port()));
        let (bytes, length) = address::encode(name, AddressFamily::Inet);
        control.push(libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, bytes.get(..length).unwrap_or(&[]));
    }
    if asked.fragment && received.fragment > 0 {
        control.push(libc::IPPROTO_IP, IP_RECVFRAGSIZE, &i32::from(received.fragment).to_ne_bytes());
    }
}

fn own_address(handle: Handle, runtime: &Runtime) -> Option<Ipv4Addr> {
    let address =
        runtime.with_socket(handle.id, |stack, _, _| stack.interface().map(|interface| interface.address)).flatten();
    match address? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// struct sock_extended_err and the address of who reported it.
//= REF D-02
fn fill_report(handle: Handle, report: &Report, control: &mut ControlWriter) {
    let origin = match report.origin {
        Origin::Local => 1u8,
        Origin::Icmp(_) => 2,
        Origin::Timestamping(_) => 4,
        Origin::ZeroCopy => 5,
    };
    let number = match (report.fault, report.origin) {
        (Some(fault), _) => errno::fault(fault).0,
        (None, Origin::Timestamping(_)) => libc::ENOMSG,
        (None, _) => 0,
    };
    let mut data = Vec::with_capacity(44);
    data.extend_from_slice(&number.to_ne_bytes());
    data.extend_from_slice(&[origin, report.kind, report.code, 0]);
    data.extend_from_slice(&report.info.to_ne_bytes());
    data.extend_from_slice(&report.data.to_ne_bytes());
    let room = if handle.family == AddressFamily::Inet { 32 } else { 44 };
    if let Origin::Icmp(reporter) = report.origin {
        let (bytes, length) = address::encode(SocketAddr::new(reporter, 0), handle.family);
        data.extend_from_slice(bytes.get(..length).unwrap_or(&[]));
    }
    // `ipv6_recv_error`: who sent the packet that is quoted; `ip_recv_error` does so for ICMP only.
    if let (Origin::Timestamping(Some(source)), AddressFamily::Inet6) = (report.origin, handle.family) {
        let (bytes, length) = address::encode(SocketAddr::new(source, 0), handle.family);
        data.extend_from_slice(bytes.get(..length).unwrap_or(&[]));
    }
    data.resize(room, 0);
    let (level, kind) = match handle.family {
        AddressFamily::Inet => (libc::IPPROTO_IP, libc::IP_RECVERR),
        AddressFamily::Inet6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    control.push(level, kind, &data);
}
