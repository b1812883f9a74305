//! ICMP (RFC 792, RFC 1122 §3.2.2): which error means what to a socket, echo replies, and errors of our own with
//! their rules and rate limits. Delivery to sockets is `input.rs`.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use log::trace;

use super::output::{self, Header};
use super::{AddressKind, RouteKey};
use crate::frame::Purpose;
use crate::socket::error::SocketFault;
use crate::socket::options::Through;
use crate::socket::protocol::Net;
use crate::time::Instant;
use crate::wire::icmpv4::{self, Icmp};
use crate::wire::ip_options::IpOptions;
use crate::wire::ipv4::Ipv4;

/// IP protocol number.
pub const PROTOCOL: u8 = 1;
/// RFC 1812 §4.3.2.3 and Linux: an error quotes as much as fits into 576 bytes.
const LONGEST_ERROR: usize = 576;
/// IPTOS_PREC_INTERNETCONTROL: errors travel with this precedence (RFC 1812 §4.3.2.5).
const INTERNET_CONTROL: u8 = 0xc0;
/// The bits of TOS that an error keeps of the packet that it is about.
const TOS_BITS: u8 = 0x1e;
/// Linux's XRLIM_BURST_FACTOR: errors to one host that may go at once.
const HOST_BURST: u64 = 6;
/// Linux's icmp_msgs_per_sec and icmp_msgs_burst: errors to all hosts together.
const GLOBAL_PER_SECOND: u64 = 1_000;
const GLOBAL_BURST: u64 = 50;
/// Most hosts whose allowance is remembered.
const HOST_LIMIT: usize = 1_024;

/// What an ICMP error means to the socket that sent the packet (`icmp_err_convert`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing (source quench, redirects, codes that do not exist).
    Nothing,
    /// Fragmentation needed: the path's MTU is smaller.
    MtuLearnt,
    /// An error; `true` when it is hard and ends an attempt, else it may pass.
    Fault(SocketFault, bool),
}

/// Judges type and code of an ICMP error (RFC 1122 §4.2.3.9 as Linux reads it).
#[must_use]
pub const fn verdict(kind: u8, code: u8) -> Verdict {
    match (kind, code) {
        (icmpv4::UNREACHABLE, icmpv4::CODE_FRAGMENTATION) => Verdict::MtuLearnt,
        (icmpv4::UNREACHABLE, code) => match code {
            0 | 11 => Verdict::Fault(SocketFault::NetworkUnreachable, false),
            6 | 9 => Verdict::Fault(SocketFault::NetworkUnreachable, true),
            1 | 12 => Verdict::Fault(SocketFault::HostUnreachable, false),
            10 | 13 | 14 | 15 => Verdict::Fault(SocketFault::HostUnreachable, true),
            2 => Verdict::Fault(SocketFault::ProtocolUnreachable, true),
            3 => Verdict::Fault(SocketFault::ConnectionRefused, true),
            5 => Verdict::Fault(SocketFault::SourceRouteFailed, false),
            7 => Verdict::Fault(SocketFault::HostDown, true),
            8 => Verdict::Fault(SocketFault::NotOnNetwork, true),
            _ => Verdict::Nothing,
        },
        (icmpv4::TIME_EXCEEDED, _) => Verdict::Fault(SocketFault::HostUnreachable, false),
        (icmpv4::PARAMETER_PROBLEM, _) => Verdict::Fault(SocketFault::Protocol, true),
        _ => Verdict::Nothing,
    }
}

/// Allowances for sending errors (`icmpv4_xrlim_allow`, `icmp_global_allow`).
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    /// Per host: allowance in nanoseconds, and when it was last reckoned.
    hosts: BTreeMap<IpAddr, (u64, Instant)>,
    /// For all: messages left, and when that was last reckoned.
    global: Option<(u64, Instant)>,
}

enum Limited {
    No,
    ByHost,
    Globally,
}

impl RateLimit {
    fn judge(&mut self, now: Instant, to: IpAddr, per_message: u64) -> Limited {
        if per_message == 0 {
            return Limited::No;
        }
        let (left, since) = self.global.unwrap_or((GLOBAL_BURST, now));
        let nanos = u64::try_from(now.since(since).as_nanos()).unwrap_or(u64::MAX);
        let earned = nanos.min(1_000_000_000) / (1_000_000_000 / GLOBAL_PER_SECOND);
        let left = left.saturating_add(earned).min(GLOBAL_BURST);
        let since = if earned > 0 { now } else { since };
        if left == 0 {
            self.global = Some((0, since));
            return Limited::Globally;
        }
        self.global = Some((left - 1, since));
        if !self.hosts.contains_key(&to) && self.hosts.len() >= HOST_LIMIT {
            let oldest = self.hosts.iter().min_by_key(|(_, (_, at))| *at).map(|(host, _)| *host);
            if let Some(oldest) = oldest {
                self.hosts.remove(&oldest);
            }
        }
        let burst = per_message.saturating_mul(HOST_BURST);
        let (tokens, at) = self.hosts.get(&to).copied().unwrap_or((burst, now));
        let passed = u64::try_from(now.since(at).as_nanos()).unwrap_or(u64::MAX);
        let tokens = tokens.saturating_add(passed).min(burst);
        let rest = tokens.checked_sub(per_message);
        self.hosts.insert(to, (rest.unwrap_or(tokens), now));
        if rest.is_some() { Limited::No } else { Limited::ByHost }
    }
}

/// An error to report to the sender of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The four bytes after the checksum.
    pub rest: [u8; 4],
    /// For whom the answer goes out.
    pub purpose: Purpose,
}

/// Sends an error about `packet`, a whole received IP packet whose header is `header`, unless the rules forbid it
/// (`__icmp_send`).
//= REF N-05
pub fn send_error(
    net: &mut Net<'_>,
    (header, received): (&Ipv4, &IpOptions),
    packet: &[u8],
    report: &Report,
    link_group: bool,
) {
    //= RFC 1122 §3.2.2: never about a broadcast, a fragment other than the first, an ICMP error, or to a group.
    let source = IpAddr::V4(header.source);
    let destination = IpAddr::V4(header.destination);
    let about_group = link_group || net.ip.address_kind(destination) != AddressKind::Local;
    let to_one = matches!(net.ip.address_kind(source), AddressKind::Unicast | AddressKind::Local);
    //= RFC 1122 §3.2.2 (MUST-31, MUST-32, MUST-33, MUST-34)
    if about_group || !to_one || header.offset != 0 {
        return;
    }
    if header.protocol == PROTOCOL {
        let kind = packet.get(header.header..).and_then(icmpv4::kind_of);
        // Linux: types above 18 do not exist and may be errors for all we know.
        //= RFC 1122 §3.2.2 (MUST-30)
        if kind.is_none_or(|kind| Icmp::is_error(kind) || kind > 18) {
            return;
        }
    }
    let Some(options) = net.ip.echo_options(received, source) else { return };
    let towards = options.first_hop().map_or(source, IpAddr::V4);
    let Ok(route) = net.ip.route(&RouteKey {
        destination: towards,
        source: Some(destination),
        on_link_only: false,
        through: Through::Any,
    }) else {
        net.counters.ip_out_no_routes += 1;
        return;
    };
    if !route.local {
        let per_message = u64::from(net.settings.icmp_ratelimit).saturating_mul(1_000_000);
        match net.ip.icmp_limit.judge(net.now, source, per_message) {
            Limited::No => {}
            Limited::ByHost => {
                net.counters.icmp_out_rate_limit_host += 1;
                return;
            }
            Limited::Globally => {
                net.counters.icmp_out_rate_limit_global += 1;
                return;
            }
        }
    }
    //= RFC 1122 §3.2.2 (MAY-6)
    let room = LONGEST_ERROR.min(usize::from(route.mtu)).saturating_sub(28 + options.len());
    let whole = packet.get(..header.total).unwrap_or(packet);
    //= RFC 1122 §3.2.2 (MUST-28)
    let quoted = whole.get(..room).unwrap_or(whole);
    let mut message = Vec::with_capacity(icmpv4::HEADER_LENGTH + quoted.len());
    Icmp { kind: report.kind, code: report.code, rest: report.rest }.emit(&mut message, quoted);
    let answer = Header {
        source: destination,
        destination: source,
        options,
        protocol: PROTOCOL,
        ttl: net.settings.ip_default_ttl,
        tos: (header.tos & TOS_BITS) | INTERNET_CONTROL,
        dont_fragment: false,
        multicast_loop: false,
        purpose: report.purpose,
        timed: None,
    };
    trace!(target: "remora::ip", "icmp type {} code {} to {source}", report.kind, report.code);
    if output::send(net, &route, &answer, message, true).is_ok() {
        count_out(net, report.kind);
    }
}

/// Answers an echo request (`icmp_echo`, `icmp_reply`). `message` is the whole ICMP message.
//= RFC 1122 §3.2.2.6 (MUST-43)
pub(super) fn send_echo_reply(
    net: &mut Net<'_>,
    (header, received): (&Ipv4, &IpOptions),
    request: &Icmp,
    message: &[u8],
) {
    let destination = IpAddr::V4(header.source);
    // A request to a broadcast address is answered from our own.
    let source =
        //= RFC 1122 §3.2.2.6 (MUST-44)
        Some(IpAddr::V4(header.destination)).filter(|address| net.ip.address_kind(*address) == AddressKind::Local);
    //= RFC 1122 §3.2.2.6 (SHLD-14, MUST-47)
    let Some(options) = net.ip.echo_options(received, destination) else { return };
    let towards = options.first_hop().map_or(destination, IpAddr::V4);
    let Ok(route) =
        net.ip.route(&RouteKey { destination: towards, source, on_link_only: false, through: Through::Any })
    else {
        net.counters.ip_out_no_routes += 1;
        return;
    };
    if route.broadcast || route.multicast {
        return;
    }
    let body = message.get(icmpv4::HEADER_LENGTH..).unwrap_or(&[]);
    let mut reply = Vec::with_capacity(message.len());
    //= RFC 1122 §3.2.2.6 (MUST-45)
    Icmp { kind: icmpv4::ECHO_REPLY, code: 0, rest: request.rest }.emit(&mut reply, body);
    let answer = Header {
        source: source.unwrap_or(route.source),
        destination,
        options,
        protocol: PROTOCOL,
        ttl: net.settings.ip_default_ttl,
        tos: header.tos,
        dont_fragment: false,
        multicast_loop: false,
        purpose: Purpose::Address,
        timed: None,
    };
    if output::send(net, &route, &answer, reply, true).is_ok() {
        count_out(net, icmpv4::ECHO_REPLY);
    }
}

/// Counts a message that goes out.
pub(crate) fn count_out(net: &mut Net<'_>, kind: u8) {
    let counters = &mut *net.counters;
    counters.icmp_out_msgs += 1;
    counters.count_icmp_type(kind, true);
    match kind {
        icmpv4::ECHO_REPLY => counters.icmp_out_echo_reps += 1,
        icmpv4::ECHO => counters.icmp_out_echos += 1,
        icmpv4::UNREACHABLE => counters.icmp_out_dest_unreachs += 1,
        icmpv4::TIME_EXCEEDED => counters.icmp_out_time_excds += 1,
        icmpv4::PARAMETER_PROBLEM => counters.icmp_out_parm_probs += 1,
        _ => {}
    }
}
