//! Sending from raw and ping sockets (`raw_sendmsg`, `ping_v4_sendmsg`).

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::{Kind, Raw, RawSock};
use crate::frame::Purpose;
use crate::io::Source;
use crate::ip::output::{self, Header, OutputError, Packet};
use crate::ip::{Route, RouteError, RouteKey, icmp};
use crate::socket::error::{SendError, SocketFault};
use crate::socket::kept::Kept;
use crate::socket::protocol::{Net, SendArguments, SendFlags, SockId};
use crate::socket::protosw::{self, Transport};
use crate::tcp::TimedSend;
use crate::wire::icmpv4::{self, Icmp};
use crate::wire::ip_options::IpOptions;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{checksum, write_u16};

/// IP_PMTUDISC_WANT: set DF, unless the path makes fragments.
const PMTUDISC_WANT: u8 = 1;
/// IP_PMTUDISC_DO: set DF, and refuse what does not fit.
const PMTUDISC_DO: u8 = 2;
/// IP_PMTUDISC_PROBE: as DO, but the learnt path MTU is ignored.
const PMTUDISC_PROBE: u8 = 3;
/// IP_PMTUDISC_INTERFACE: no DF, and what does not fit the device is refused.
const PMTUDISC_INTERFACE: u8 = 4;

/// What MSG_MORE keeps back of a packet (`struct inet_cork`).
#[derive(Clone, Debug)]
pub(super) struct Corked {
    message: Vec<u8>,
    /// Way and header as the first part was sent.
    route: Route,
    options: IpOptions,
    ttl: Option<u8>,
    tos: Option<u8>,
    timestamping: i32,
}

impl Raw {
    pub(super) fn send_message(
        &mut self,
        net: &mut Net<'_>,
        id: SockId,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        let sock = self.socks.find_mut(id).ok_or(SendError::NotConnected)?;
        let length = source.remaining();
        if length > ipv4::LONGEST {
            return Err(SendError::MessageTooLong);
        }
        let kind = sock.kind;
        // `inet_send_prepare`: whoever tries to send has an identifier from then on.
        if kind == Kind::Ping && sock.ident == 0 && !self.take_ident(net, id, 0) {
            return Err(SendError::NoPort);
        }
        let sock = self.socks.find_mut(id).ok_or(SendError::NotConnected)?;
        if kind == Kind::Ping && length < icmpv4::HEADER_LENGTH {
            return Err(SendError::Invalid);
        }
        if arguments.flags.contains(SendFlags::OOB) {
            return Err(SendError::NotSupported);
        }
        let mut message = Vec::with_capacity(length);
        if kind == Kind::Ping {
            // `ping_common_sendmsg` looks at the message before it looks where to.
            source.append_to(&mut message, length).map_err(|_| SendError::Memory)?;
            if message.get(..2) != Some(&[icmpv4::ECHO, 0]) {
                return Err(SendError::Invalid);
            }
        }
        let to = arguments.to.or(sock.peer).ok_or(SendError::DestinationRequired)?;
        if !to.is_ipv4() {
            return Err(SendError::FamilyMismatch);
        }
        let probe = arguments.flags.contains(SendFlags::PROBE);
        if net.ip.queued() > usize::try_from(sock.options.send_buffer).unwrap_or(usize::MAX) {
            return Err(SendError::WouldBlock);
        }
        // `raw_probe_proto_opt` looks at type and code of an ICMP message before it is known where to.
        let is_message = matches!(kind, Kind::Raw { protocol: icmp::PROTOCOL, header_included: false, .. });
        if is_message {
            source.append_to(&mut message, length).map_err(|_| SendError::Memory)?;
            if message.len() < 2 {
                return Err(SendError::Memory);
            }
        }
        let sock = self.socks.find(id).ok_or(SendError::NotConnected)?;
        let bound = sock.source();
        // IP_PKTINFO takes the place of what is bound, with the unspecified address, too (`ip_cmsg_send`).
        let wanted = arguments.source.or(bound).filter(|source| !source.is_unspecified());
        let options = arguments.ip_options(net.ip, &sock.options)?;
        // `raw_sendmsg`: who makes the header makes its options; a source route needs a destination.
        let header_included = matches!(kind, Kind::Raw { header_included: true, .. });
        if (header_included && !options.is_empty()) || (to.ip().is_unspecified() && options.first_hop().is_some()) {
            return Err(SendError::Invalid);
        }
        let to = SocketAddr::new(net.ip.resolve_unspecified(to.ip(), wanted), to.port());
        if !net.ip.is_up() && net.ip.address_kind(to.ip()) != crate::ip::AddressKind::Local {
            return Err(SendError::Fault(SocketFault::NetworkDown));
        }
        let on_link_only =
            sock.options.dont_route || arguments.flags.contains(SendFlags::DONTROUTE) || options.is_strict();
        let towards = options.first_hop().map_or(to.ip(), IpAddr::V4);
        let through = sock.options.through_to(towards.is_multicast());
        let any = header_included || sock.options.kept.has(Kept::IpTransparent);
        let source_judged = net.ip.source_to_judge(wanted, any);
        let key = RouteKey { destination: towards, source: source_judged, on_link_only, through };
        let route = net.ip.route(&key).map_err(|error| match error {
            RouteError::Unreachable => {
                net.counters.ip_out_no_routes += 1;
                SendError::NetworkUnreachable
            }
            RouteError::BadSource => SendError::Invalid,
            RouteError::NoDevice => SendError::NoDevice,
        })?;
        if route.broadcast && !sock.options.broadcast {
            return Err(SendError::NotPermitted);
        }
        // `raw_send_hdrinc`.
        if header_included {
            if length > usize::from(route.mtu) {
                self.refuse_length(net, id, to.ip(), route.mtu);
                return Err(SendError::MessageTooLong);
            }
            if length < ipv4::HEADER_LENGTH {
                return Err(SendError::Invalid);
            }
        }
        // `ip_append_data`, `raw_send_hdrinc`: a probe has found its way, and that was all.
        if probe {
            return Ok(length);
        }
        // `sock_alloc_send_skb`. Without a header of their own raw packets are allocated without a look at the socket's
        // error and shutdown, and so is what is added to a packet (`__ip_append_data`).
        let sock = self.socks.find_mut(id).ok_or(SendError::NotConnected)?;
        if header_included || kind == Kind::Ping {
            if let Some(fault) = sock.inbox.fault.take() {
                return Err(SendError::Fault(fault));
            }
            if sock.inbox.shut_write {
                return Err(SendError::BrokenPipe);
            }
        }
        if kind != Kind::Ping && !is_message && source.append_to(&mut message, length).is_err() {
            // `ip_flush_pending_frames`.
            sock.corked = sock.corked.take().filter(|_| header_included);
            return Err(SendError::Memory);
        }
        let from = wanted.unwrap_or(route.source);
        if let Kind::Raw { header_included: true, .. } = kind {
            let timed = sock.inbox.time_send((Transport::Raw, id), &sock.options, arguments.timestamping);
            return send_with_header(net, (from, to.ip()), &route, message, timed).map(|()| length);
        }
        let protocol = match kind {
            Kind::Raw { protocol, .. } => protocol,
            Kind::Ping => icmp::PROTOCOL,
        };
        let icmp_kind = message.first().copied().filter(|_| protocol == icmp::PROTOCOL);
        let mut corked = match sock.corked.take() {
            Some(mut corked) => {
                // A packet gets longer.
                corked.message.append(&mut message);
                corked
            }
            None => {
                if kind == Kind::Ping {
                    prepare_echo(&mut message, sock.ident);
                }
                let (ttl, tos) = (arguments.ttl, arguments.tos);
                // `ip_setup_cork`: whether times are wanted is settled with the first part.
                let timestamping = arguments.timestamping.unwrap_or(sock.options.kept.read(Kept::Timestamping));
                Corked { message, route, options, ttl, tos, timestamping }
            }
        };
        let whole = corked.message.len() + ipv4::HEADER_LENGTH + corked.options.len();
        // `ip_sk_ignore_df`: fragments are made unless the socket wants none.
        let discover = sock.options.mtu_discover;
        let unbroken = matches!(discover, PMTUDISC_DO | PMTUDISC_PROBE | PMTUDISC_INTERFACE);
        let most = if unbroken { usize::from(corked.route.mtu) } else { ipv4::LONGEST };
        if whole > most {
            self.refuse_length(net, id, to.ip(), corked.route.mtu);
            return Err(SendError::MessageTooLong);
        }
        // `ping_v4_sendmsg` knows nothing of MSG_MORE.
        if arguments.flags.contains(SendFlags::MORE) && kind != Kind::Ping {
            sock.corked = Some(corked);
            return Ok(length);
        }
        let transport = if kind == Kind::Ping { Transport::Ping } else { Transport::Raw };
        let timed = sock.inbox.time_send((transport, id), &sock.options, Some(corked.timestamping));
        // `__ip_make_skb`: the addresses are those of the last part. DF is set wherever no fragments are made, unless the
        // socket wants none of it.
        let fits = whole <= usize::from(corked.route.mtu);
        let header = Header {
            source: from,
            destination: to.ip(),
            options: corked.options,
            protocol,
            ttl: corked.ttl.or(sock.options.ttl).unwrap_or(if corked.route.multicast {
                sock.options.multicast_ttl
            } else {
                net.settings.ip_default_ttl
            }),
            tos: corked.tos.unwrap_or(sock.options.tos),
            dont_fragment: matches!(discover, PMTUDISC_DO | PMTUDISC_PROBE)
                || (fits && discover == PMTUDISC_WANT && net.settings.ip_no_pmtu_disc == 0),
            multicast_loop: sock.options.multicast_loop,
            purpose: Purpose::Own,
            timed,
        };
        let message = core::mem::take(&mut corked.message);
        // A raw UDP packet's checksum is the program's affair.
        match output::send(net, &corked.route, &header, message, true) {
            Ok(()) => {
                if let Some(kind) = icmp_kind {
                    icmp::count_out(net, kind);
                }
                Ok(length)
            }
            Err(OutputError::TooLong) => {
                self.refuse_length(net, id, to.ip(), corked.route.mtu);
                Err(SendError::MessageTooLong)
            }
            Err(OutputError::Version) => Err(SendError::NetworkUnreachable),
        }
    }

    /// A message is longer than the path takes: IP_RECVERR is told the MTU (`ip_local_error`).
    fn refuse_length(&mut self, net: &Net<'_>, id: SockId, to: IpAddr, mtu: u16) {
        if let Some(sock) = self.socks.find_mut(id).filter(|sock| sock.options.receive_errors) {
            let destination = SocketAddr::new(to, sock.peer.map_or(0, |peer| peer.port()));
            let RawSock { inbox, options, .. } = sock;
            inbox.refuse(net.now, SocketFault::MessageTooLong, u32::from(mtu), Some(destination), options);
        }
    }
}

/// A ping socket may send echo requests only, with its own identifier (`ping_supported`, `ping_v4_sendmsg`).
//= RFC 1122 §3.2.2.6 (SHLD-13)
fn prepare_echo(message: &mut [u8], ident: u16) {
    write_u16(message, 4, ident);
    write_u16(message, 2, 0);
    let sum = checksum::of(message);
    write_u16(message, 2, sum);
    debug_assert!(Icmp::parse(message).is_ok());
}

/// IP_HDRINCL: the packet goes as it is, but for what Linux fills in: total length and checksum always, source and
/// identification when they are zero (`raw_send_hdrinc`).
//= REF N-01
fn send_with_header(
    net: &mut Net<'_>,
    addresses: (IpAddr, IpAddr),
    route: &Route,
    mut message: Vec<u8>,
    timed: Option<TimedSend>,
) -> Result<(), SendError> {
    let header = Ipv4::parse_quoted(&message).map_err(|_| SendError::Invalid)?;
    if header.header > message.len() {
        return Err(SendError::Invalid);
    }
    let total = u16::try_from(message.len()).map_err(|_| SendError::MessageTooLong)?;
    write_u16(&mut message, 2, total);
    let (IpAddr::V4(from), to) = addresses else {
        return Err(SendError::NetworkUnreachable);
    };
    let from = if header.source.is_unspecified() { from } else { header.source };
    if let Some(field) = message.get_mut(12..16) {
        field.copy_from_slice(&from.octets());
    }
    if header.id == 0 {
        let id = net.ip.next_id(net.random, (from.into(), to, protosw::RAW), 1);
        write_u16(&mut message, 4, id);
    }
    write_u16(&mut message, 10, 0);
    let sum = checksum::of(message.get(..header.header).unwrap_or(&[]));
    write_u16(&mut message, 10, sum);
    net.counters.ip_out_requests += 1;
    net.ip.enqueue(Packet {
        bytes: message,
        next_hop: route.next_hop,
        delivery: output::delivery_of(route),
        purpose: Purpose::Own,
        checksum: None,
        gso_size: 0,
        segment: false,
        timed,
    });
    Ok(())
}
