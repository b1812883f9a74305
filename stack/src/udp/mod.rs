//! UDP (RFC 768) as Linux's sockets show it: bind and look-up rules in `ports.rs`, sending in `send.rs`, receiving
//! and ICMP errors in `receive.rs`. What IP does with the datagrams is not seen here.

mod inbox;
mod membership;
mod ports;
mod receive;
mod send;
mod switch;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use crate::ip::PacketInfo;
use crate::socket::options::SocketOptions;
use crate::socket::protocol::{AddressFamily, Happened, Net, SockId, SocketId};
use crate::socket::table::Table;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;
use crate::wire::udp as wire;

pub(crate) use self::inbox::Inbox;
pub(crate) use self::membership::Memberships;
pub use self::receive::Disposition;
pub(crate) use self::switch::path_mtu;

/// A datagram that waits to be read.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) bytes: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) at: Instant,
    /// IP_PKTINFO or its kin was asked for when it came (`ipv4_pktinfo_prepare`).
    pub(crate) placed: bool,
    /// Dropped before it came.
    pub(crate) dropped: u32,
    /// Bytes of each datagram but the last, where several were joined; 0 for one.
    pub(crate) segment: u16,
    /// How many it is made of.
    pub(crate) parts: u16,
    /// It came to a socket with UDP_GRO: others may be joined to it.
    pub(crate) joins: bool,
    /// Options of its IP header, and those of an answer.
    pub(crate) options: Option<Box<(IpOptions, Option<IpOptions>)>>,
    /// Bytes of the largest fragment that it came in; 0 when it came whole.
    pub(crate) fragment: u16,
}

impl Datagram {
    /// What has come just now.
    pub(crate) fn new(net: &Net<'_>, info: &PacketInfo, port: u16, bytes: &[u8], placed: bool) -> Self {
        //= RFC 1122 §3.2.1.8 (MUST-20)
        //= RFC 1122 §3.4 (MUST-88)
        let options = (!info.options.is_empty())
            .then(|| Box::new((info.options, net.ip.echo_options(&info.options, info.source))));
        Self {
            bytes: bytes.to_vec(),
            from: SocketAddr::new(info.source, port),
            to: info.destination,
            ttl: info.ttl,
            tos: info.tos,
            at: net.now,
            placed,
            dropped: 0,
            segment: 0,
            parts: 1,
            joins: false,
            options,
            fragment: info.fragment,
        }
    }
}

/// What a datagram in a queue is charged with: payload and Linux's overhead for it, so that SO_RCVBUF holds as
/// many datagrams as it does there (`skb->truesize`: a 232-byte sk_buff padded to 256, headers, and a 320-byte
/// skb_shared_info, in a block of the allocator's next size).
pub(crate) fn true_size(payload: usize) -> usize {
    let block = payload.saturating_add(66 + 320);
    let block = if block <= 4_096 { block.next_power_of_two().max(512) } else { block.saturating_add(4_095) & !4_095 };
    block.saturating_add(256)
}

/// One UDP socket.
#[derive(Debug)]
pub(crate) struct UdpSock {
    pub(crate) owner: SocketId,
    pub(crate) family: AddressFamily,
    pub(crate) options: SocketOptions,
    /// Local address; unspecified while not bound to one.
    pub(crate) local: IpAddr,
    /// Local port; 0 while unbound.
    pub(crate) port: u16,
    /// The address was given to bind, not chosen by connect (SOCK_BINDADDR_LOCK).
    address_bound: bool,
    /// The port was given to bind (SOCK_BINDPORT_LOCK).
    port_bound: bool,
    pub(crate) peer: Option<SocketAddr>,
    /// The address that packets are sent from, where it is not the local one: a group or broadcast address that was bound
    /// is none to send from, and connect chooses one (`inet_saddr` beside `inet_rcv_saddr`).
    source: Option<IpAddr>,
    /// Where sends without an address go, and from where, while the way of the last one is remembered: what the last
    /// connect, or the last send under MSG_MORE, has left behind (`inet->cork.fl` beside `sk_dst_cache`).
    flow: Option<(SocketAddr, IpAddr)>,
    /// The way to the peer is remembered (`sk_dst_cache`).
    has_way: bool,
    inbox: Inbox,
    /// Data kept back by MSG_MORE, and what it was to be sent with.
    corked: Option<send::Corked>,
    groups: Memberships,
    /// Not yet asked for; not empty while the socket is queued.
    happened: Happened,
    /// A send found no room (SOCK_NOSPACE): not writable until some is made.
    no_space: bool,
}

/// All of UDP.
#[derive(Debug, Default)]
pub struct Udp {
    socks: Table<UdpSock>,
    /// Bound ports, the latest socket first.
    ports: BTreeMap<u16, SmallVec<[SockId; 2]>>,
    events: VecDeque<SockId>,
    /// Ephemeral ports come from these ranges only; empty: from the whole range of the settings.
    allowed: Vec<(u16, u16)>,
    /// Whether more ports may be had for the asking.
    may_grow: bool,
    /// The ports given back last: of few ports, one chosen again at once hears what was for its former holder.
    rested: VecDeque<u16>,
    /// Bytes that wait below for our address to be ours.
    held: usize,
    /// UDP-Lite (RFC 3828), which differs in what the checksum covers.
    lite: bool,
}

impl Udp {
    /// No sockets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// UDP-Lite, without sockets.
    #[must_use]
    pub fn lite() -> Self {
        Self { lite: true, ..Self::default() }
    }

    /// IP protocol number.
    const fn protocol(&self) -> u8 {
        if self.lite { wire::LITE } else { wire::PROTOCOL }
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

    /// Whether any socket holds this port.
    #[must_use]
    pub fn is_port_used(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// The ports that sockets hold.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// Ephemeral ports come from these inclusive ranges only; none: from the whole range.
    pub fn restrict_ports(&mut self, allowed: Vec<(u16, u16)>, may_grow: bool) {
        self.allowed = allowed;
        self.may_grow = may_grow;
    }

    /// Whether half of the ports that may be had are taken, and there are more for the asking: the next socket that
    /// sends unbound must find one.
    #[must_use]
    pub fn wants_ports(&self) -> bool {
        let size = |(first, last): &(u16, u16)| usize::from(last.saturating_sub(*first)) + 1;
        self.may_grow && self.ports.len() * 2 >= self.allowed.iter().map(size).sum()
    }

    /// Bytes charged to receive queues.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.socks.iter::<SockId>().fold(0, |sum, (_, sock)| sum.saturating_add(sock.inbox.charge()))
    }

    /// Whether there is no socket.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.socks.is_empty()
    }

    /// So many bytes wait below until the address may be used. When they have gone, senders may go on
    /// (`sock_def_write_space`).
    pub fn set_held(&mut self, held: usize) {
        if held >= core::mem::replace(&mut self.held, held) {
            return;
        }
        let waiting: SmallVec<[SockId; 8]> =
            self.socks.iter::<SockId>().filter(|(_, sock)| sock.no_space).map(|(id, _)| id).collect();
        for id in waiting {
            if let Some(sock) = self.socks.find_mut(id) {
                sock.no_space = false;
            }
            self.announce(id, Happened::ROOM);
        }
    }

    fn announce(&mut self, id: SockId, happened: Happened) {
        if let Some(sock) = self.socks.find_mut(id) {
            if sock.happened.is_empty() {
                self.events.push_back(id);
            }
            sock.happened |= happened;
        }
    }
}

/// The unspecified address of a family.
pub(crate) const fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
