//! Packets on their way out: header, identification, fragmentation (RFC 791 §3.2), and the queue from which the
//! stack hands them to the link (`ip_output`, `ip_fragment`). TCP's segments do not pass through the queue: the
//! stack asks for them one by one and uses [`Ip::next_id`] and `fill_transport_checksum` only.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{Ip, Route};
use crate::counters::Counters;
use crate::frame::{PartialChecksum, Purpose};
use crate::random::Random;
use crate::socket::protocol::Net;
use crate::tcp::TimedSend;
use crate::wire::ip_options::IpOptions;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{checksum, udp};

/// Counters of identification; a destination shares one with few others (Linux's ip_idents).
pub(super) const ID_COUNTERS: usize = 256;
/// Keeps the hash for identifications apart from all others.
const ID_DOMAIN: u64 = 0x6970_6964;

/// Who gets a packet at the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The neighbour `next_hop`.
    Neighbour,
    /// Everybody on the link.
    Broadcast,
    /// The members of a group.
    Multicast,
    /// Ourselves.
    Local,
    /// The other stacks of this host.
    Siblings,
    /// Nobody: it leaves by an interface that is not the stack's.
    Nowhere,
}

/// A whole IP packet to send.
#[derive(Clone, Debug)]
pub struct Packet {
    /// IP header and payload.
    pub bytes: Vec<u8>,
    /// Neighbour to hand it to.
    pub next_hop: IpAddr,
    /// Who gets it.
    pub delivery: Delivery,
    /// What it is for.
    pub purpose: Purpose,
    /// Transport checksum that is still to be made, counted from the start of the IP header.
    pub checksum: Option<PartialChecksum>,
    /// TCP payload bytes per segment of a super-packet; 0 otherwise.
    pub gso_size: u16,
    /// A TCP segment: TCP wants to know when the device has no room for it.
    pub segment: bool,
    /// Its sender asks when it goes out.
    pub timed: Option<TimedSend>,
}

/// What a datagram's sender decides about its IP header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Options; with a source route the packet goes to its first hop, to which the route must lead.
    pub options: IpOptions,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// May not be fragmented: neither here nor on the way.
    pub dont_fragment: bool,
    /// Sent to a group with IP_MULTICAST_LOOP: our own members get it too.
    pub multicast_loop: bool,
    /// What it is for.
    pub purpose: Purpose,
    /// Its sender asks when it goes out; of fragments, when the first does.
    pub timed: Option<TimedSend>,
}

/// A datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputError {
    /// Larger than the path takes and not to be fragmented, or than IP can carry (EMSGSIZE).
    TooLong,
    /// There is no IPv6 layer.
    Version,
}

impl Ip {
    /// The next identification for packets from `source` to `destination`; `count` of them are taken. A stranger
    /// cannot foresee it, nor count our packets to others (C-12).
    pub fn next_id(&mut self, random: &mut Random, header: (IpAddr, IpAddr, u8), count: u16) -> u16 {
        let mut input = [0; 33];
        let (source, destination, protocol) = header;
        if let Some((known, start, which)) = self.last_id
            && known == header
        {
            return self.count_id(start, which, count);
        }
        for (field, address) in input.chunks_exact_mut(16).zip([source, destination]) {
            match address {
                IpAddr::V4(address) => field.iter_mut().zip(address.octets()).for_each(|(to, from)| *to = from),
                IpAddr::V6(address) => field.copy_from_slice(&address.octets()),
            }
        }
        if let Some(last) = input.last_mut() {
            *last = protocol;
        }
        let [low, high, which, ..] = random.keyed(ID_DOMAIN, &input).to_le_bytes();
        let start = u16::from_le_bytes([low, high]);
        self.last_id = Some((header, start, which));
        self.count_id(start, which, count)
    }

    fn count_id(&mut self, start: u16, which: u8, count: u16) -> u16 {
        let Some(counter) = self.ids.get_mut(usize::from(which)) else {
            return start;
        };
        let id = start.wrapping_add(*counter);
        *counter = counter.wrapping_add(count.max(1));
        id
    }

    /// Queues a packet for the link.
    pub(crate) fn enqueue(&mut self, packet: Packet) {
        // What is lost has a time of sending all the same.
        if packet.delivery == Delivery::Nowhere && packet.timed.is_none() {
            return;
        }
        self.queued = self.queued.saturating_add(packet.bytes.len());
        self.outbox.push_back(packet);
    }

    /// Takes the next packet for the link.
    pub(crate) fn dequeue(&mut self) -> Option<Packet> {
        let packet = self.outbox.pop_front()?;
        self.queued = self.queued.saturating_sub(packet.bytes.len());
        Some(packet)
    }

    /// Bytes of packets that wait for the link.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.queued
    }
}

/// Sends one datagram: `transport` is its header and payload; a TCP or UDP checksum is filled in unless
/// `no_checksum` (`ip_send_skb` and what follows).
///
/// # Errors
/// See [`OutputError`]; the sender makes an error of it.
pub fn send(
    net: &mut Net<'_>,
    route: &Route,
    header: &Header,
    mut transport: Vec<u8>,
    no_checksum: bool,
) -> Result<(), OutputError> {
    let head = ipv4::HEADER_LENGTH + header.options.len();
    let total = head.saturating_add(transport.len());
    if total > ipv4::LONGEST {
        return Err(OutputError::TooLong);
    }
    let fits = total <= usize::from(route.mtu);
    //= RFC 1122 §3.3.3 (MUST-75)
    if !fits && header.dont_fragment {
        net.counters.ip_frag_fails += 1;
        return Err(OutputError::TooLong);
    }
    if !no_checksum && header.protocol == udp::PROTOCOL {
        fill_udp_checksum(header, &mut transport);
    }
    let header = &header.with_options_built(net);
    net.counters.ip_out_requests += 1;
    let id = net.ip.next_id(net.random, (header.source, header.destination, header.protocol), 1);
    if fits {
        let packet = whole(header, id, transport)?;
        dispatch(net, route, header, packet);
        return Ok(());
    }
    // The device does not sum up fragments, hence the checksum above; each but the last carries a multiple of 8 bytes.
    //= RFC 1122 §3.3.3 (MAY-19)
    let room = usize::from(route.mtu).saturating_sub(head) & !7;
    if room == 0 {
        net.counters.ip_frag_fails += 1;
        return Err(OutputError::TooLong);
    }
    let mut offset = 0;
    let mut pieces = transport.chunks(room).peekable();
    while let Some(piece) = pieces.next() {
        // Options without the copy bit are in the first fragment only.
        let options = if offset == 0 { header.options } else { header.options.for_later_fragments() };
        let mut ip = ip_header(header, id, piece.len())?;
        ip.dont_fragment = false;
        ip.offset = offset;
        ip.more_fragments = pieces.peek().is_some();
        let mut bytes = Vec::with_capacity(ip.total);
        ip.emit_with(options.as_slice(), &mut bytes);
        bytes.extend_from_slice(piece);
        offset += piece.len();
        net.counters.ip_frag_creates += 1;
        let timed = header.timed.filter(|_| offset == piece.len());
        dispatch(net, route, &Header { timed, ..*header }, bytes);
    }
    net.counters.ip_frag_oks += 1;
    Ok(())
}

fn ip_header(header: &Header, id: u16, payload: usize) -> Result<Ipv4, OutputError> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (header.source, header.destination) else {
        return Err(OutputError::Version);
    };
    Ok(Ipv4 {
        header: ipv4::HEADER_LENGTH,
        total: ipv4::HEADER_LENGTH + header.options.len() + payload,
        tos: header.tos,
        id,
        dont_fragment: header.dont_fragment,
        more_fragments: false,
        offset: 0,
        ttl: header.ttl,
        protocol: header.protocol,
        source,
        destination: header.options.first_hop().unwrap_or(destination),
    })
}

impl Header {
    /// The header of one packet: what its options have to say of it is in them.
    fn with_options_built(&self, net: &Net<'_>) -> Self {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) if !self.options.is_empty() => {
                Self { options: self.options.built(source, destination, net.ip.time_of_day()), ..*self }
            }
            _ => *self,
        }
    }
}

/// Puts the IP header before what it carries, in the same memory.
fn whole(header: &Header, id: u16, mut bytes: Vec<u8>) -> Result<Vec<u8>, OutputError> {
    let payload = bytes.len();
    let ip = ip_header(header, id, payload)?;
    if !header.options.is_empty() {
        let mut head = Vec::with_capacity(ip.total);
        ip.emit_with(header.options.as_slice(), &mut head);
        head.append(&mut bytes);
        return Ok(head);
    }
    bytes.resize(ip.total, 0);
    bytes.copy_within(..payload, ipv4::HEADER_LENGTH);
    if let Some(place) = bytes.first_chunk_mut() {
        *place = ip.to_bytes();
    }
    Ok(bytes)
}

/// Hands a finished packet to whoever gets it: the link, ourselves, or both (`ip_mc_output`).
pub(super) fn dispatch(net: &mut Net<'_>, route: &Route, header: &Header, bytes: Vec<u8>) {
    let delivery = delivery_of(route);
    let heard_here = match delivery {
        Delivery::Multicast => header.multicast_loop,
        // This host's listeners hear its broadcasts (`ip_mc_output`, RTCF_LOCAL).
        Delivery::Broadcast => true,
        Delivery::Local | Delivery::Neighbour | Delivery::Siblings | Delivery::Nowhere => false,
    };
    let to_self = heard_here && (delivery == Delivery::Broadcast || net.ip.is_member(header.destination, None));
    let packet = Packet {
        bytes,
        next_hop: route.next_hop,
        delivery,
        purpose: header.purpose,
        checksum: None,
        gso_size: 0,
        segment: false,
        timed: header.timed,
    };
    if to_self {
        net.ip.enqueue(Packet { delivery: Delivery::Local, timed: None, ..packet.clone() });
    }
    if heard_here && net.ip.has_siblings {
        net.ip.enqueue(Packet { delivery: Delivery::Siblings, timed: None, ..packet.clone() });
    }
    // A TTL of 0 does not leave the machine.
    if delivery == Delivery::Multicast && header.ttl == 0 {
        return;
    }
    net.ip.enqueue(packet);
}

/// Who gets packets of this route.
#[must_use]
//= RFC 1122 §3.3.6 (MUST-85)
pub const fn delivery_of(route: &Route) -> Delivery {
    if route.lost {
        Delivery::Nowhere
    } else if route.local {
        Delivery::Local
    } else if route.broadcast {
        Delivery::Broadcast
    } else if route.multicast {
        Delivery::Multicast
    } else {
        Delivery::Neighbour
    }
}

/// Counts a packet that goes to the link or to ourselves.
pub(crate) fn count_output(counters: &mut Counters, delivery: Delivery, bytes: usize) {
    counters.ip_out_transmits += 1;
    let bytes = bytes as u64;
    counters.out_octets += bytes;
    match delivery {
        Delivery::Multicast => {
            counters.out_mcast_pkts += 1;
            counters.out_mcast_octets += bytes;
        }
        Delivery::Broadcast => {
            counters.out_bcast_pkts += 1;
            counters.out_bcast_octets += bytes;
        }
        Delivery::Neighbour | Delivery::Local | Delivery::Siblings | Delivery::Nowhere => {}
    }
}

fn fill_udp_checksum(header: &Header, datagram: &mut [u8]) {
    let start = checksum::pseudo_header(header.source, header.destination, header.protocol, datagram.len());
    let mut sum = checksum::Accumulator::new(start);
    sum.add(datagram);
    crate::wire::write_u16(datagram, usize::from(udp::CHECKSUM_OFFSET), udp::on_the_wire(sum.finish()));
}

/// Finishes a checksum that was left to the device, counted from the start of `packet`.
pub(crate) fn fill_transport_checksum(packet: &mut [u8], partial: PartialChecksum) {
    let start = usize::from(partial.start);
    // The field holds the pseudo header's sum, so that summing all of it gives the right answer.
    if let Some(transport) = packet.get(start..) {
        let sum = checksum::of(transport);
        crate::wire::write_u16(packet, start + usize::from(partial.offset), sum);
    }
}
