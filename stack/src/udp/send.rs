//! Sending datagrams (`udp_sendmsg`).

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::{Udp, UdpSock};
use crate::counters::OfDatagram;
use crate::frame::Purpose;
use crate::io::Source;
use crate::ip::output::{self, Header, OutputError};
use crate::ip::{AddressKind, Route, RouteError, RouteKey};
use crate::socket::error::{BindError, SendError, SocketFault};
use crate::socket::kept::Kept;
use crate::socket::options::SocketOptions;
use crate::socket::protocol::{AddressFamily, Happened, Net, Protocol, SendArguments, SendFlags, SockId};
use crate::socket::protosw::Transport;
use crate::tcp::TimedSend;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;
use crate::wire::{checksum, ipv4, udp as wire, write_u16};

/// IP_PMTUDISC_DONT: never set DF.
const PMTUDISC_DONT: u8 = 0;
/// IP_PMTUDISC_DO: set DF, and refuse what does not fit.
const PMTUDISC_DO: u8 = 2;
/// IP_PMTUDISC_PROBE: as DO, but the learnt path MTU is ignored.
const PMTUDISC_PROBE: u8 = 3;
/// Most bytes of payload: what IPv4 carries less both headers.
const LONGEST_PAYLOAD: usize = 65_535 - 20 - wire::HEADER_LENGTH;
/// Headers of a datagram at most: UDP's and those of the 45 fragments that the longest one makes on Ethernet.
const PACKET_OVERHEAD: usize = wire::HEADER_LENGTH + 45 * 20;

/// Data kept back by MSG_MORE (a corked socket).
#[derive(Clone, Debug)]
pub(super) struct Corked {
    bytes: Vec<u8>,
    to: SocketAddr,
    /// As the first part was sent.
    arguments: SendArguments,
    plan: Plan,
    /// MSG_ZEROCOPY sends among its parts, which complete when it goes.
    pub(super) zero_copies: u32,
}

impl Corked {
    /// connect writes its addresses to the flow of the datagram, too (`ip_route_connect` with `inet->cork.fl`).
    pub(super) fn redirect(&mut self, to: SocketAddr, from: IpAddr) {
        self.to = to;
        self.plan.source = from;
    }
}

impl Udp {
    /// Takes one datagram, or a part of one under MSG_MORE.
    //= REF D-03
    pub(super) fn send_datagram(
        &mut self,
        net: &mut Net<'_>,
        id: SockId,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        let (held, lite) = (self.held, self.lite);
        // `inet_send_prepare`: before anything is looked at.
        self.autobind(net, id);
        let sock = self.socks.find_mut(id).ok_or(SendError::NotConnected)?;
        let length = source.remaining();
        // `udpv6_sendmsg` looks where to before `udp_sendmsg` looks at the message.
        let nowhere = sock.corked.is_none() && arguments.to.is_none() && sock.peer.is_none();
        if sock.family == AddressFamily::Inet6 && nowhere {
            return Err(SendError::DestinationRequired);
        }
        if length > usize::from(u16::MAX) {
            return Err(SendError::MessageTooLong);
        }
        if arguments.flags.contains(SendFlags::OOB) {
            return Err(SendError::NotSupported);
        }
        if sock.corked.is_some() {
            return self.add_to_cork(net, id, source, arguments.flags);
        }
        let to = arguments.to.or(sock.peer).ok_or(SendError::DestinationRequired)?;
        // A peer with port 0, which connect allows, is sent to all the same.
        // Through a socket of AF_INET6 it is named to `udp_sendmsg` each time.
        if (arguments.to.is_some() || sock.family == AddressFamily::Inet6) && to.port() == 0 {
            return Err(SendError::Invalid);
        }
        check_family(sock, to.ip())?;
        if sock.port == 0 {
            self.choose_port(net, id)?;
        }
        let sock = self.socks.find_mut(id).ok_or(SendError::NotConnected)?;
        if to.ip().is_unspecified() && arguments.ip_options(net.ip, &sock.options)?.first_hop().is_some() {
            return Err(SendError::Invalid);
        }
        // `udpv6_sendmsg`: to a socket with an address of IPv4, `::` is the loopback's.
        let here = if to.is_ipv6() { None } else { sock.source() };
        let mut to = SocketAddr::new(net.ip.resolve_unspecified(to.ip(), here), to.port());
        let mut plan = plan(net, sock, to, arguments, lite)?;
        let more = arguments.flags.contains(SendFlags::MORE) || sock.options.kept.has(Kept::UdpCork);
        // While the way to the peer is remembered, nobody looks who it is: addresses are those of the last flow that was
        // written down, by connect or under MSG_MORE (`udp_sendmsg`, where `fl4` is `inet->cork.fl`).
        if sock.is_sending_to_peer(arguments) && plan.kind != AddressKind::Multicast {
            if !sock.has_way {
                sock.has_way = true;
            } else if let Some((destination, from)) = sock.flow {
                plan.source = from;
                // A cork begins with the peer's own address.
                if !more {
                    to = destination;
                }
            }
        }
        // `ip_make_skb`: a probe has found its way, and that was all.
        if arguments.flags.contains(SendFlags::PROBE) {
            return Ok(length);
        }
        if more {
            sock.flow = Some((to, plan.source));
        }
        if let Some(fault) = sock.inbox.fault.take() {
            return Err(SendError::Fault(fault));
        }
        if sock.inbox.shut_write {
            return Err(SendError::BrokenPipe);
        }
        // `sock_alloc_send_skb`: what the socket has in flight may not exceed its send buffer. Nor may what waits for our
        // address exceed the queue that it waits in: it would be dropped there.
        let bytes = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        let queued = net.ip.queued();
        let waiting = held.saturating_add(queued).saturating_add(length + PACKET_OVERHEAD);
        let full = held > 0 && waiting > bytes(sock.options.send_buffer.min(net.settings.neigh_unres_qlen_bytes));
        if full || queued > bytes(sock.options.send_buffer) {
            net.counters.count_datagram(lite, OfDatagram::SndbufErrors);
            sock.no_space = held > 0;
            return Err(SendError::WouldBlock);
        }
        if length > LONGEST_PAYLOAD - plan.options.len() {
            sock.refuse_length(net, &plan, to);
            return Err(SendError::MessageTooLong);
        }
        // Room for the IP header as well, which goes before it in the end.
        let mut datagram = Vec::with_capacity(ipv4::HEADER_LENGTH + wire::HEADER_LENGTH + length);
        // Room for the header, which is written when the length is known.
        datagram.resize(wire::HEADER_LENGTH, 0);
        if source.append_to(&mut datagram, length).is_err() {
            return Err(SendError::Memory);
        }
        if more {
            // `ip_setup_cork`: whether times are wanted is settled with the first part.
            let wanted = arguments.timestamping.unwrap_or(sock.options.kept.read(Kept::Timestamping));
            let arguments = SendArguments { timestamping: Some(wanted), ..*arguments };
            sock.corked = Some(Corked { bytes: datagram, to, arguments, plan, zero_copies: 0 });
            return Ok(length);
        }
        transmit(net, sock, id, &plan, (to, arguments), datagram)?;
        Ok(length)
    }

    /// Adds to what a cork keeps back, and sends it unless there is to be more: way and addresses are found already, and
    /// neither an error that waits nor a shutdown is looked at (`do_append_data`). A failure throws all of it away.
    fn add_to_cork(
        &mut self,
        net: &mut Net<'_>,
        id: SockId,
        source: &mut dyn Source,
        flags: SendFlags,
    ) -> Result<usize, SendError> {
        let sock = self.socks.find_mut(id).ok_or(SendError::NotConnected)?;
        let mut corked = sock.corked.take().ok_or(SendError::DestinationRequired)?;
        let length = source.remaining();
        let payload = corked.bytes.len().saturating_sub(wire::HEADER_LENGTH);
        if payload.saturating_add(length) > LONGEST_PAYLOAD - corked.plan.options.len() {
            sock.refuse_length(net, &corked.plan, corked.to);
            return Err(SendError::MessageTooLong);
        }
        if source.append_to(&mut corked.bytes, length).is_err() {
            return Err(SendError::Memory);
        }
        let more = flags.contains(SendFlags::MORE) || sock.options.kept.has(Kept::UdpCork);
        sock.corked = Some(corked);
        if !more {
            self.send_corked(net, id)?;
        }
        Ok(length)
    }

    fn send_corked(&mut self, net: &mut Net<'_>, id: SockId) -> Result<(), SendError> {
        let Some(sock) = self.socks.find_mut(id) else { return Ok(()) };
        let Some(Corked { bytes, to, arguments, plan, zero_copies }) = sock.corked.take() else { return Ok(()) };
        // `__ip_make_skb`: what no control message gave is the socket's, as it is now.
        let plan = Plan { ttl: ttl(net, sock, &plan.route, &arguments), tos: tos(sock, &arguments), ..plan };
        let result = transmit(net, sock, id, &plan, (to, &arguments), bytes);
        for _ in 0..zero_copies {
            self.complete_zero_copy(net, id);
        }
        result
    }

    /// Sends what a cork kept back (`udp_push_pending_frames`); nobody hears of an error.
    pub(super) fn push_corked(&mut self, net: &mut Net<'_>, id: SockId) {
        // Nobody asks.
        let _ = self.send_corked(net, id);
    }

    /// A datagram that somebody asked the time of has gone out: `packet`, from the link's header on.
    pub fn note_sent(&mut self, now: Instant, send: &TimedSend, packet: &[u8]) {
        let Some(sock) = self.socks.find_mut(send.sock) else { return };
        if sock.inbox.note_sent(now, &sock.options, send, packet) {
            self.announce(send.sock, Happened::ERROR);
        }
    }

    /// Binds an unbound socket to an ephemeral port (`inet_autobind`: EAGAIN when there is none).
    pub(super) fn choose_port(&mut self, net: &mut Net<'_>, id: SockId) -> Result<(), SendError> {
        let local = self.socks.find(id).ok_or(SendError::NotConnected)?.local;
        match self.take_port(net, id, local, 0) {
            Ok(_) => Ok(()),
            Err(BindError::AddressInUse) => Err(SendError::NoPort),
            Err(_) => Err(SendError::Invalid),
        }
    }
}

impl UdpSock {
    /// The address to send from, if there is one.
    pub(super) fn source(&self) -> Option<IpAddr> {
        let local = Some(self.local).filter(|local| !local.is_unspecified());
        match (self.family, local) {
            // `__inet_bind`: a group or broadcast address is none ("use device"); `__inet6_bind` has no such rule.
            (AddressFamily::Inet, Some(IpAddr::V4(local))) if local.is_multicast() || local.is_broadcast() => {
                self.source
            }
            _ => local,
        }
    }

    /// Whether a send goes to the peer, and by nothing but the way to it (`connected` in `udp_sendmsg`).
    fn is_sending_to_peer(&self, arguments: &SendArguments) -> bool {
        let SendArguments { to, flags, source, ttl, tos, segment, timestamping, options } = arguments;
        let by_itself = source.is_none() && ttl.is_none() && tos.is_none() && segment.is_none();
        self.family == AddressFamily::Inet
            && to.is_none()
            && by_itself
            && timestamping.is_none()
            && options.is_none()
            && !flags.intersects(SendFlags::DONTROUTE | SendFlags::CONTROL)
            && !self.options.dont_route
            && self.options.ip_options().first_hop().is_none()
    }

    /// A datagram is longer than the path takes, or than any may be: IP_RECVERR is told the MTU.
    fn refuse_length(&mut self, net: &Net<'_>, plan: &Plan, to: SocketAddr) {
        if self.options.receive_errors {
            let port = self.peer.map_or(0, |peer| peer.port());
            let destination = SocketAddr::new(to.ip(), port);
            let mtu = u32::from(plan.route.mtu);
            self.inbox.refuse(net.now, SocketFault::MessageTooLong, mtu, Some(destination), &self.options);
        }
    }
}

/// How one datagram goes.
#[derive(Clone, Debug)]
struct Plan {
    route: Route,
    source: IpAddr,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    kind: AddressKind,
    lite: bool,
    options: IpOptions,
}

fn check_family(sock: &UdpSock, to: IpAddr) -> Result<(), SendError> {
    match (sock.family, to) {
        (AddressFamily::Inet, IpAddr::V6(_)) => Err(SendError::FamilyMismatch),
        //= REF S-06: no IPv6 layer yet.
        (AddressFamily::Inet6, IpAddr::V6(to)) if !to.is_unspecified() => Err(SendError::NetworkUnreachable),
        // An AF_INET6 socket that takes no IPv4 does not reach it either (`udpv6_sendmsg`).
        (AddressFamily::Inet6, IpAddr::V4(_)) if sock.options.v6_only => Err(SendError::NetworkUnreachable),
        _ => Ok(()),
    }
}

fn plan(
    net: &mut Net<'_>,
    sock: &UdpSock,
    to: SocketAddr,
    arguments: &SendArguments,
    lite: bool,
) -> Result<Plan, SendError> {
    let ip_options = arguments.ip_options(net.ip, &sock.options)?;
    // The way begins at the first hop of a source route.
    //= RFC 1122 §3.2.1.8 (MUST-19)
    //= RFC 1122 §3.4 (MUST-86)
    //= REF C-09
    let towards = ip_options.first_hop().map_or(to.ip(), IpAddr::V4);
    let kind = net.ip.address_kind(towards);
    // IP_PKTINFO takes the place of what is bound, with the unspecified address, too (`ip_cmsg_send`).
    let mut source = arguments.source.or(sock.source()).filter(|source| !source.is_unspecified());
    if kind == AddressKind::Multicast && source.is_none() {
        source = sock.options.multicast_interface.filter(|interface| !interface.is_unspecified());
    }
    if !net.ip.is_up() && kind != AddressKind::Local {
        return Err(SendError::Fault(SocketFault::NetworkDown));
    }
    let through = sock.options.through_to(kind == AddressKind::Multicast);
    let on_link_only =
        sock.options.dont_route || arguments.flags.contains(SendFlags::DONTROUTE) || ip_options.is_strict();
    let judged = net.ip.source_to_judge(source, sock.options.kept.has(Kept::IpTransparent));
    let key = RouteKey { destination: towards, source: judged, on_link_only, through };
    let route = net.ip.route(&key).map_err(|error| match error {
        RouteError::Unreachable => {
            net.counters.ip_out_no_routes += 1;
            SendError::NetworkUnreachable
        }
        RouteError::BadSource => SendError::Invalid,
        RouteError::NoDevice => SendError::NoDevice,
    })?;
    //= REF C-07: broadcast only with SO_BROADCAST.
    if route.broadcast && !sock.options.broadcast {
        return Err(SendError::NotPermitted);
    }
    Ok(Plan {
        source: source.unwrap_or(route.source),
        ttl: ttl(net, sock, &route, arguments),
        tos: tos(sock, arguments),
        dont_fragment: matches!(sock.options.mtu_discover, PMTUDISC_DO | PMTUDISC_PROBE),
        kind,
        route,
        lite,
        options: ip_options,
    })
}

fn ttl(net: &Net<'_>, sock: &UdpSock, route: &Route, arguments: &SendArguments) -> u8 {
    let options: &SocketOptions = &sock.options;
    let default =
        if route.multicast { options.multicast_ttl } else { options.ttl.unwrap_or(net.settings.ip_default_ttl) };
    arguments.ttl.unwrap_or(default)
}

fn tos(sock: &UdpSock, arguments: &SendArguments) -> u8 {
    arguments.tos.unwrap_or(sock.options.tos)
}

/// Sends a datagram, or under UDP_SEGMENT as many as it takes (`udp_send_skb`).
//= REF D-03
fn transmit(
    net: &mut Net<'_>,
    sock: &mut UdpSock,
    id: SockId,
    plan: &Plan,
    (to, arguments): (SocketAddr, &SendArguments),
    datagram: Vec<u8>,
) -> Result<(), SendError> {
    /// Linux's UDP_MAX_SEGMENTS.
    const MOST_SEGMENTS: usize = 128;
    let by_option = usize::try_from(sock.options.kept.read(Kept::UdpSegment)).unwrap_or(0);
    let segment = arguments.segment.map_or(by_option, usize::from);
    let payload = datagram.len().saturating_sub(wire::HEADER_LENGTH);
    let transport = if plan.lite { Transport::UdpLite } else { Transport::Udp };
    if segment == 0 || plan.lite {
        let timed = sock.inbox.time_send((transport, id), &sock.options, arguments.timestamping);
        return transmit_one(net, sock, plan, (to, timed), datagram);
    }
    if 20 + plan.options.len() + wire::HEADER_LENGTH + payload.min(segment) > usize::from(plan.route.mtu) {
        return Err(SendError::MessageTooLong);
    }
    if payload > segment * MOST_SEGMENTS || sock.options.no_check {
        return Err(SendError::Invalid);
    }
    // `__udp_gso_segment`: the first carries the time of all.
    let mut timed = sock.inbox.time_send((transport, id), &sock.options, arguments.timestamping);
    if payload <= segment {
        return transmit_one(net, sock, plan, (to, timed), datagram);
    }
    for piece in datagram.get(wire::HEADER_LENGTH..).unwrap_or(&[]).chunks(segment) {
        let mut one = Vec::with_capacity(ipv4::HEADER_LENGTH + wire::HEADER_LENGTH + piece.len());
        one.resize(wire::HEADER_LENGTH, 0);
        one.extend_from_slice(piece);
        transmit_one(net, sock, plan, (to, timed.take()), one)?;
    }
    Ok(())
}

fn transmit_one(
    net: &mut Net<'_>,
    sock: &mut UdpSock,
    plan: &Plan,
    (to, timed): (SocketAddr, Option<TimedSend>),
    mut datagram: Vec<u8>,
) -> Result<(), SendError> {
    let header = wire::Udp { source: sock.port, destination: to.port(), length: datagram.len() };
    if let Some(place) = datagram.first_chunk_mut() {
        *place = header.to_bytes(0);
    }
    let protocol = if plan.lite { wire::LITE } else { wire::PROTOCOL };
    if plan.lite {
        cover(&mut datagram, (plan.source, to.ip()), sock.options.kept.read(Kept::UdpLiteSend));
    }
    let mut route = plan.route;
    if sock.options.mtu_discover == PMTUDISC_PROBE
        && let Some(interface) = net.ip.interface()
        && plan.kind != AddressKind::Local
    {
        route.mtu = interface.capabilities.mtu;
    }
    // IP_PMTUDISC_WANT: DF on what fits, none on what must be cut up (`__ip_make_skb`).
    let fits = datagram.len() + 20 + plan.options.len() <= usize::from(route.mtu);
    let dont_fragment =
        plan.dont_fragment || (fits && sock.options.mtu_discover != PMTUDISC_DONT && net.settings.ip_no_pmtu_disc == 0);
    let ip = Header {
        source: plan.source,
        destination: to.ip(),
        options: plan.options,
        protocol,
        ttl: plan.ttl,
        tos: plan.tos,
        dont_fragment,
        multicast_loop: sock.options.multicast_loop,
        purpose: Purpose::Own,
        timed,
    };
    match output::send(net, &route, &ip, datagram, sock.options.no_check) {
        Ok(()) => {
            net.counters.count_datagram(plan.lite, OfDatagram::OutDatagrams);
            Ok(())
        }
        Err(OutputError::TooLong) => {
            sock.refuse_length(net, plan, to);
            Err(SendError::MessageTooLong)
        }
        Err(OutputError::Version) => Err(SendError::NetworkUnreachable),
    }
}

/// Makes the checksum of a UDP-Lite packet, of as much as UDPLITE_SEND_CSCOV says (`udplite_csum`).
//= RFC 3828 §3.1
fn cover(packet: &mut [u8], (from, to): (IpAddr, IpAddr), asked: i32) {
    let mut covered = packet.len();
    if let Ok(asked) = u16::try_from(asked)
        && usize::from(asked) < covered
    {
        if asked > 0 {
            covered = usize::from(asked);
        }
        write_u16(packet, 4, asked);
    }
    let mut sum = checksum::Accumulator::new(checksum::pseudo_header(from, to, wire::LITE, packet.len()));
    sum.add(packet.get(..covered).unwrap_or(&[]));
    write_u16(packet, usize::from(wire::CHECKSUM_OFFSET), wire::on_the_wire(sum.finish()));
}
