//! Raw sockets (`net/ipv4/raw.c`) and ping sockets (`net/ipv4/ping.c`): both get copies of what the network layer
//! receives, and send what the program made. Whether a program may have one was decided before.

mod send;
mod switch;

use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};

use crate::ip::icmp::{self, Verdict, verdict};
use crate::ip::{PacketInfo, PathError};
use crate::socket::error::SocketFault;
use crate::socket::filter::{self, View};
use crate::socket::kept::Kept;
use crate::socket::options::SocketOptions;
use crate::socket::protocol::{AddressFamily, Happened, Net, SockId, SocketId};
use crate::socket::table::Table;
use crate::tcp::TimedSend;
use crate::time::Instant;
use crate::udp::{Datagram, Inbox, Memberships};
use crate::wire::icmpv4::{self, Icmp};

/// What kind of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// SOCK_RAW: whole IP packets of one protocol.
    Raw {
        protocol: u8,
        /// IP_HDRINCL: the program makes the IP header.
        header_included: bool,
        /// ICMP_FILTER: types that are not wanted.
        filter: u32,
    },
    /// SOCK_DGRAM of ICMP: echo messages with an identifier of ours.
    Ping,
}

#[derive(Debug)]
struct RawSock {
    owner: SocketId,
    family: AddressFamily,
    kind: Kind,
    options: SocketOptions,
    local: IpAddr,
    /// What connect chose to send from, where the local address is none for that (`inet_saddr`).
    chosen: Option<IpAddr>,
    address_bound: bool,
    /// The echo identifier of a ping socket; 0 while it has none.
    ident: u16,
    ident_bound: bool,
    /// A raw socket that was disconnected hears nothing any more.
    deaf: bool,
    peer: Option<SocketAddr>,
    inbox: Inbox,
    /// Kept back by MSG_MORE.
    corked: Option<send::Corked>,
    groups: Memberships,
    /// Not yet asked for; not empty while the socket is queued.
    happened: Happened,
}

/// All raw and ping sockets.
#[derive(Debug, Default)]
pub struct Raw {
    socks: Table<RawSock>,
    events: VecDeque<SockId>,
}

impl Raw {
    /// No sockets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next socket to which something has happened; each is queued at most once.
    pub fn poll_event(&mut self) -> Option<(SocketId, Happened)> {
        while let Some(id) = self.events.pop_front() {
            if let Some(sock) = self.socks.find_mut(id) {
                let happened = core::mem::take(&mut sock.happened);
                return Some((sock.owner, happened));
            }
        }
        None
    }

    /// Whether there is no socket.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.socks.is_empty()
    }

    /// Bytes charged to receive queues.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.socks.iter::<SockId>().fold(0, |sum, (_, sock)| sum.saturating_add(sock.inbox.charge()))
    }

    /// Gives a copy of a whole IP packet to every raw socket that wants it (`raw_local_deliver`). `transport` is where
    /// the payload begins. Says whether any socket is for the protocol, so that it is not unknown here.
    //= REF D-04
    pub fn handle_packet(
        &mut self,
        net: &mut Net<'_>,
        info: &PacketInfo,
        protocol: u8,
        packet: &[u8],
        transport: usize,
    ) -> bool {
        let mut wanted = false;
        let mut takers = smallvec::SmallVec::<[SockId; 4]>::new();
        for (id, sock) in self.socks.iter::<SockId>() {
            let Kind::Raw { protocol: own, filter, .. } = sock.kind else { continue };
            if own != protocol || !sock.matches(info.source, info.destination, info.looped) {
                continue;
            }
            wanted = true;
            let kind = packet.get(transport..).and_then(icmpv4::kind_of);
            // `icmp_filter`: only types below 32 can be filtered; less than a header is no message.
            let short = packet.len().saturating_sub(transport) < icmpv4::HEADER_LENGTH;
            let filtered = protocol == icmp::PROTOCOL
                && (short || kind.is_some_and(|kind| kind < 32 && filter & 1_u32.wrapping_shl(u32::from(kind)) != 0));
            if !filtered {
                takers.push(id);
            }
        }
        for id in takers {
            self.queue(net, info, id, packet, 0);
        }
        wanted
    }

    /// Gives an echo reply to the ping socket whose identifier it has (`ping_rcv`).
    pub fn handle_echo_reply(&mut self, net: &mut Net<'_>, info: &PacketInfo, reply: &Icmp, message: &[u8]) {
        if let Some(id) = self.find_ping(reply.identifier(), info) {
            self.queue(net, info, id, message, 0);
        }
    }

    /// An ICMP error about a packet of ours (`raw_icmp_error`, `ping_err`).
    pub fn handle_error(&mut self, net: &mut Net<'_>, protocol: u8, error: &PathError<'_>) {
        let ident = if protocol == icmp::PROTOCOL { icmpv4::quoted_identifier(error.transport) } else { None };
        let fault = match verdict(error.kind, error.code) {
            Verdict::Nothing => return,
            Verdict::MtuLearnt => (SocketFault::MessageTooLong, true),
            Verdict::Fault(fault, hard) => (fault, hard),
        };
        let hit: smallvec::SmallVec<[SockId; 4]> = self
            .socks
            .iter::<SockId>()
            .filter(|(_, sock)| {
                let own = match sock.kind {
                    Kind::Raw { protocol: own, .. } => own == protocol,
                    Kind::Ping => Some(sock.ident) == ident && sock.ident != 0,
                };
                // `raw_err`, `ping_err`: only a socket with a peer, or one that asked, hears of hard errors.
                let told = sock.options.receive_errors || (sock.peer.is_some() && fault.1);
                let looped = error.remote == error.local;
                let about = match sock.kind {
                    Kind::Raw { .. } => sock.matches(error.remote, error.local, looped),
                    Kind::Ping => sock.is_at(error.local, looped),
                };
                own && told && about
            })
            .map(|(id, _)| id)
            .collect();
        for id in hit {
            if let Some(sock) = self.socks.find_mut(id) {
                if sock.options.receive_errors {
                    let destination = SocketAddr::new(error.remote, 0);
                    let report = error.report(net.now, fault.0, Some(destination));
                    sock.inbox.push_report(report, error.transport, &sock.options);
                }
                sock.inbox.fault = Some(fault.0);
            }
            self.announce(id, Happened::ERROR);
        }
    }

    /// A packet that somebody asked the time of has gone out: `packet`, from the link's header on.
    pub fn note_sent(&mut self, now: Instant, send: &TimedSend, packet: &[u8]) {
        let Some(sock) = self.socks.find_mut(send.sock) else { return };
        if sock.inbox.note_sent(now, &sock.options, send, packet) {
            self.announce(send.sock, Happened::ERROR);
        }
    }

    fn find_ping(&self, ident: u16, info: &PacketInfo) -> Option<SockId> {
        self.socks
            .iter::<SockId>()
            .find(|(_, sock)| {
                sock.kind == Kind::Ping
                    && sock.ident != 0
                    && sock.ident == ident
                    && sock.is_at(info.destination, info.looped)
            })
            .map(|(id, _)| id)
    }

    fn queue(&mut self, net: &mut Net<'_>, info: &PacketInfo, id: SockId, bytes: &[u8], port: u16) {
        let Some(sock) = self.socks.find_mut(id) else { return };
        let mut bytes = bytes;
        if let Some(filter) = &sock.options.filter {
            let mut header = [0; 20];
            let view = match sock.kind {
                Kind::Raw { .. } => {
                    View { data: bytes, network: bytes, packet_type: filter::packet_type(info.kind), payload: 0 }
                }
                Kind::Ping => View::transport(info, icmp::PROTOCOL, bytes, 0, &mut header),
            };
            let wanted = usize::try_from(filter.run(&view)).unwrap_or(usize::MAX);
            if wanted == 0 {
                return;
            }
            bytes = bytes.get(..wanted.min(bytes.len())).unwrap_or(bytes);
        }
        let placed = sock.kind == Kind::Ping || sock.options.wants_place();
        let datagram = Datagram::new(net, info, port, bytes, placed);
        if !sock.inbox.push(&sock.options, datagram, false) {
            net.counters.raw_queue_drops += 1;
            return;
        }
        self.announce(id, Happened::INPUT);
    }

    fn announce(&mut self, id: SockId, happened: Happened) {
        if let Some(sock) = self.socks.find_mut(id) {
            if sock.happened.is_empty() {
                self.events.push_back(id);
            }
            sock.happened |= happened;
        }
    }

    /// An identifier that no other ping socket has, at random (`ping_get_port`).
    fn take_ident(&mut self, net: &mut Net<'_>, id: SockId, wanted: u16) -> bool {
        let taken = |raw: &Self, ident: u16| {
            raw.socks
                .iter::<SockId>()
                .any(|(other, sock)| other != id && sock.kind == Kind::Ping && sock.ident == ident)
        };
        let ident = if wanted == 0 {
            let start = u16::try_from(net.random.below(u32::from(u16::MAX))).unwrap_or(0);
            let Some(free) =
                (0..u16::MAX).map(|step| start.wrapping_add(step)).find(|ident| *ident != 0 && !taken(self, *ident))
            else {
                return false;
            };
            free
        } else if taken(self, wanted) {
            return false;
        } else {
            wanted
        };
        if let Some(sock) = self.socks.find_mut(id) {
            sock.ident = ident;
        }
        true
    }
}

impl RawSock {
    /// The address to send from, if there is one: a group or broadcast address is none (`raw_bind`).
    fn source(&self) -> Option<IpAddr> {
        match self.local {
            IpAddr::V4(local) if local.is_multicast() || local.is_broadcast() => self.chosen,
            local => Some(local).filter(|local| !local.is_unspecified()),
        }
    }

    /// Whether what came to an address is for this ping socket, whoever has sent it (`ping_lookup`).
    fn is_at(&self, to: IpAddr, looped: bool) -> bool {
        self.options.through.hears(looped) && (self.local.is_unspecified() || self.local == to)
    }

    /// Whether a packet between these addresses is for this socket (`raw_v4_match`).
    fn matches(&self, from: IpAddr, to: IpAddr, looped: bool) -> bool {
        let local = self.local.is_unspecified() || self.local == to;
        let peer = self.peer.is_none_or(|peer| peer.ip() == from);
        let all = self.options.kept.has(Kept::IpMulticastAll);
        self.options.through.hears(looped)
            && !self.deaf
            && local
            && peer
            && (!to.is_multicast() || self.groups.allow(to, from, all))
    }
}
