//! What goes out, frame by frame: ARP first, then datagrams that are ready, then TCP's segments.
//!
//! A segment to a known neighbour goes out as TCP gave it, a header and slices of its send buffer. One that is for
//! ourselves or must wait for its neighbour is copied. Rust cannot give a borrow away and, in the other branch, ask
//! TCP for the next segment; so segments are taken by copy until one could have gone directly, and directly until
//! one could not: that one is copied and the host is told to come again at once (`next_timeout`).

use alloc::vec::Vec;
use core::net::IpAddr;

use log::trace;

use super::Stack;
use crate::frame::{DeviceCapabilities, MAX_PAYLOAD_SLICES, PartialChecksum, Purpose, RxChecksum, RxMeta, Transmit};
use crate::interface::MacAddress;
use crate::ip::input::Arrival;
use crate::ip::output::{Delivery, Packet, count_output, delivery_of, fill_transport_checksum};
use crate::ip::sibling::{PassedOn, Sibling};
use crate::ip::{Route, RouteKey};
use crate::link::{Fate, LinkContext, Ready};
use crate::socket::options::Through;
use crate::socket::protocol::Net;
use crate::socket::protosw::Transport;
use crate::tcp::{Segment, TimedSend};
use crate::time::Instant;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::{checksum, write_u16};

const PROTOCOL_TCP: u8 = 6;
/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM_OFFSET: u16 = 16;
/// Most packets to ourselves that one call delivers before the host gets its turn.
const LOCAL_BUDGET: u32 = 256;

/// Why a device did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitError {
    /// The queue of the interface is full (ENOBUFS): local congestion.
    NoRoom,
    /// Not now (EAGAIN): what was sent before has not left yet.
    Busy,
    /// Anything else.
    Other,
}

/// What the frame handed out last was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Nothing,
    Datagram,
    Segment,
}

/// Buffers and state of sending.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Headers of the frame handed out, reused.
    header: Vec<u8>,
    /// The packet or whole frame handed out, if it is not TCP's own memory.
    packet: Vec<u8>,
    checksum: Option<PartialChecksum>,
    gso_size: u16,
    purpose: Purpose,
    last: Last,
    /// The last segment went to a known neighbour: the next one is taken directly.
    direct: bool,
    /// Something was put off: the host is to come again at once.
    again: bool,
    /// Who asked when the frame handed out goes out, and a copy of it.
    timed: Option<(TimedSend, Vec<u8>)>,
}

impl Outgoing {
    pub(super) const fn is_waiting(&self) -> bool {
        self.again
    }
}

impl Stack {
    /// The next frame to send, or `None`. Call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_>> {
        self.enter(now);
        self.outgoing.again = false;
        self.outgoing.last = Last::Nothing;
        self.report_sent();
        let mut budget = LOCAL_BUDGET;
        loop {
            self.drain_outbox(&mut budget);
            if budget == 0 {
                self.outgoing.again = true;
                return None;
            }
            if self.take_frame() {
                return Some(self.owned());
            }
            if self.outgoing.direct && self.link.is_settled() {
                break;
            }
            if !self.stage_segment() {
                return None;
            }
        }
        self.direct_segment()
    }

    /// Tells the sender of the frame handed out before that it has gone out.
    //= REF D-05
    fn report_sent(&mut self) {
        if let Some((send, frame)) = self.outgoing.timed.take() {
            self.note_sent(&send, &frame);
        }
    }

    fn note_sent(&mut self, send: &TimedSend, frame: &[u8]) {
        match send.transport {
            Transport::Tcp => self.tcp.note_sent(self.now, send, frame),
            Transport::Udp => self.udp.note_sent(self.now, send, frame),
            Transport::UdpLite => self.udp_lite.note_sent(self.now, send, frame),
            Transport::Ping | Transport::Raw => self.raw.note_sent(self.now, send, frame),
        }
    }

    /// Tells the sender of a packet that no device of the stack's takes that it has gone.
    fn report_sent_elsewhere(&mut self, packet: &Packet) {
        if let Some(send) = packet.timed {
            // The loopback interface has Ethernet headers, without addresses.
            let mut frame = Vec::new();
            ethernet::emit(&mut frame, MacAddress([0; 6]), MacAddress([0; 6]), EtherType::Ipv4);
            frame.extend_from_slice(&packet.bytes);
            self.note_sent(&send, &frame);
        }
    }

    /// The device did not take the frame last handed out.
    //= REF C-17
    pub fn transmit_failed(&mut self, now: Instant, error: TransmitError) {
        self.enter(now);
        self.outgoing.timed = None;
        match error {
            TransmitError::NoRoom | TransmitError::Busy => self.counters.transmit_no_room += 1,
            TransmitError::Other => self.counters.transmit_errors += 1,
        }
        if core::mem::take(&mut self.outgoing.last) == Last::Segment {
            let mut net = Net {
                now: self.now,
                ip: &mut self.ip,
                counters: &mut self.counters,
                settings: &self.settings,
                random: &mut self.random,
            };
            self.tcp.transmit_failed(&mut net, error);
        } else {
            self.counters.ip_out_discards += 1;
        }
    }

    /// Hands queued packets to ourselves or to the link.
    fn drain_outbox(&mut self, budget: &mut u32) {
        while *budget > 0 {
            let Some(packet) = self.ip.dequeue() else { break };
            *budget -= 1;
            if packet.delivery == Delivery::Local {
                self.loop_back(packet);
                continue;
            }
            if packet.delivery == Delivery::Nowhere {
                self.report_sent_elsewhere(&packet);
                continue;
            }
            if packet.delivery == Delivery::Siblings {
                self.siblings.pass_on(packet.bytes, packet.gso_size, Purpose::Siblings);
                continue;
            }
            if !self.ip.is_up() {
                self.counters.ip_out_discards += 1;
                continue;
            }
            let mut context = LinkContext {
                now: self.now,
                settings: &self.settings,
                counters: &mut self.counters,
                random: &mut self.random,
            };
            match self.link.fate(&mut context, packet.next_hop, packet.delivery) {
                Fate::Send(mac) => self.link.push_ready(Ready { packet, mac }),
                Fate::Wait => self.link.wait(&mut context, packet),
                Fate::Unreachable => self.report_undelivered(&packet.bytes),
            }
        }
        self.report_failed();
        if self.link.take_release() {
            let mut net = Net {
                now: self.now,
                ip: &mut self.ip,
                counters: &mut self.counters,
                settings: &self.settings,
                random: &mut self.random,
            };
            self.tcp.syns_leave_now(&mut net);
        }
    }

    /// Delivers a packet to ourselves, without a link.
    fn loop_back(&mut self, packet: Packet) {
        self.report_sent_elsewhere(&packet);
        count_output(&mut self.counters, packet.delivery, packet.bytes.len());
        let meta = RxMeta { checksum: RxChecksum::Partial, gso_size: packet.gso_size, vlan: None };
        let mut bytes = packet.bytes;
        let end = bytes.len();
        self.handle_ipv4(
            &mut bytes,
            0,
            end,
            Arrival { meta, link_group: false, looped: true, sibling: Sibling::No, purpose: packet.purpose },
        );
    }

    /// Makes the next ARP frame or ready packet the one to hand out.
    fn take_frame(&mut self) -> bool {
        let outgoing = &mut self.outgoing;
        outgoing.header.clear();
        outgoing.checksum = None;
        outgoing.gso_size = 0;
        if let Some(PassedOn { bytes, gso_size, purpose }) = self.siblings.next() {
            outgoing.packet = bytes;
            outgoing.gso_size = gso_size;
            outgoing.purpose = purpose;
            outgoing.last = Last::Datagram;
            return true;
        }
        if let Some(frame) = self.link.next_frame() {
            outgoing.packet = frame;
            outgoing.purpose = Purpose::Neighbour;
            outgoing.last = Last::Datagram;
            return true;
        }
        let Some(Ready { mut packet, mac }) = self.link.next_ready() else {
            return false;
        };
        self.link.emit_header(&mut outgoing.header, mac, EtherType::Ipv4);
        if let Some(partial) = packet.checksum {
            let device = self.ip.interface().map(|interface| interface.capabilities);
            if packet.gso_size > 0 || device.is_some_and(|device| device.checksum_tx) {
                let start = partial.start.saturating_add(header_length(&outgoing.header));
                outgoing.checksum = Some(PartialChecksum { start, ..partial });
            } else {
                fill_transport_checksum(&mut packet.bytes, partial);
            }
        }
        count_output(&mut self.counters, packet.delivery, packet.bytes.len());
        outgoing.gso_size = packet.gso_size;
        outgoing.purpose = packet.purpose;
        outgoing.last = if packet.segment { Last::Segment } else { Last::Datagram };
        outgoing.timed = packet.timed.map(|send| (send, [outgoing.header.as_slice(), &packet.bytes].concat()));
        outgoing.packet = packet.bytes;
        true
    }

    /// The frame that `take_frame` made.
    fn owned(&self) -> Transmit<'_> {
        let outgoing = &self.outgoing;
        let mut payload: [&[u8]; MAX_PAYLOAD_SLICES] = [&[]; MAX_PAYLOAD_SLICES];
        // A frame without a header of its own stands whole in the packet.
        let header = if outgoing.header.is_empty() { &outgoing.packet } else { &outgoing.header };
        if !outgoing.header.is_empty()
            && let Some(first) = payload.first_mut()
        {
            *first = &outgoing.packet;
        }
        trace!(target: "remora::ethernet", "send {} bytes {:?}", outgoing.header.len() + outgoing.packet.len(), outgoing.purpose);
        Transmit {
            header,
            payload,
            checksum: outgoing.checksum,
            gso_size: outgoing.gso_size,
            purpose: outgoing.purpose,
        }
    }

    /// Copies TCP's next segment into the outbox; `false` when TCP has none.
    fn stage_segment(&mut self) -> bool {
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        let Some(segment) = self.tcp.poll_transmit(&mut net) else {
            return false;
        };
        let Some(route) = route_of(&mut net, &segment) else {
            return true;
        };
        self.outgoing.direct = delivery_of(&route) == Delivery::Neighbour;
        copy_segment(&mut net, &segment, &route);
        true
    }

    /// Hands out TCP's next segment without a copy.
    fn direct_segment(&mut self) -> Option<Transmit<'_>> {
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        let segment = self.tcp.poll_transmit(&mut net)?;
        let Some(route) = route_of(&mut net, &segment) else {
            self.outgoing.again = true;
            return None;
        };
        let delivery = delivery_of(&route);
        let mut context =
            LinkContext { now: net.now, settings: net.settings, counters: net.counters, random: net.random };
        let fate = match delivery {
            Delivery::Neighbour if net.ip.is_up() => self.link.fate(&mut context, route.next_hop, delivery),
            _ => Fate::Wait,
        };
        let Fate::Send(mac) = fate else {
            copy_segment(&mut net, &segment, &route);
            self.outgoing.direct = false;
            self.outgoing.again = true;
            return None;
        };
        let device = net.ip.interface().map(|interface| interface.capabilities);
        let outgoing = &mut self.outgoing;
        outgoing.header.clear();
        self.link.emit_header(&mut outgoing.header, mac, EtherType::Ipv4);
        let partial = assemble(&mut net, &segment, &mut outgoing.header, device)?;
        count_output(net.counters, delivery, total_length(&segment));
        outgoing.last = Last::Segment;
        outgoing.timed = segment.timed.map(|send| {
            let mut frame = outgoing.header.clone();
            segment.payload.iter().for_each(|slice| frame.extend_from_slice(slice));
            (send, frame)
        });
        trace!(target: "remora::ethernet", "send {mac} {} bytes", outgoing.header.len() + payload_length(&segment));
        Some(Transmit {
            header: &outgoing.header,
            payload: segment.payload,
            checksum: partial,
            gso_size: segment.gso_size,
            purpose: segment.purpose,
        })
    }
}

fn header_length(header: &[u8]) -> u16 {
    u16::try_from(header.len()).unwrap_or(0)
}

fn payload_length(segment: &Segment<'_>) -> usize {
    segment.payload.iter().map(|slice| slice.len()).sum()
}

fn total_length(segment: &Segment<'_>) -> usize {
    ipv4::HEADER_LENGTH + segment.options.len() + segment.header.len() + payload_length(segment)
}

/// The route of a segment; `None`, counted, when it has none any more.
fn route_of(net: &mut Net<'_>, segment: &Segment<'_>) -> Option<Route> {
    let destination = segment.options.first_hop().map_or(segment.destination, IpAddr::V4);
    let key = RouteKey { destination, source: Some(segment.source), on_link_only: false, through: Through::Any };
    let route = segment.route.or_else(|| net.ip.route(&key).ok());
    // `__ip_queue_xmit`: the first hop of a strict route is a neighbour.
    let route = route.filter(|route| !segment.options.is_strict() || route.local || route.next_hop == destination);
    if route.is_none() {
        net.counters.ip_out_no_routes += 1;
    }
    route
}

/// Appends IP and TCP headers to `target`, with the checksum made or left to the device.
fn assemble(
    net: &mut Net<'_>,
    segment: &Segment<'_>,
    target: &mut Vec<u8>,
    device: Option<DeviceCapabilities>,
) -> Option<Option<PartialChecksum>> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (segment.source, segment.destination) else {
        return None;
    };
    let payload = payload_length(segment);
    let segments = match usize::from(segment.gso_size) {
        0 => 1,
        size => u16::try_from(payload.div_ceil(size)).unwrap_or(u16::MAX),
    };
    //= RFC 6864 §4.1: the identification of an unfragmentable packet means nothing.
    let id = if segment.identified || !segment.dont_fragment {
        net.ip.next_id(net.random, (segment.source, segment.destination, PROTOCOL_TCP), segments)
    } else {
        0
    };
    net.counters.ip_out_requests += 1;
    let header = Ipv4 {
        header: ipv4::HEADER_LENGTH,
        total: total_length(segment),
        tos: segment.tos,
        id,
        dont_fragment: segment.dont_fragment,
        more_fragments: false,
        offset: 0,
        //= RFC 1122 §3.2.1.7 (MUST-18)
        ttl: segment.ttl.unwrap_or(net.settings.ip_default_ttl),
        protocol: PROTOCOL_TCP,
        source,
        destination,
    };
    if segment.options.is_empty() {
        header.emit(target);
    } else {
        let options = segment.options.built(source, destination, net.ip.time_of_day());
        let destination = options.first_hop().unwrap_or(destination);
        Ipv4 { destination, ..header }.emit_with(options.as_slice(), target);
    }
    let start = target.len();
    target.extend_from_slice(segment.header);
    let pseudo =
        checksum::pseudo_header(segment.source, segment.destination, PROTOCOL_TCP, segment.header.len() + payload);
    let field = start + usize::from(TCP_CHECKSUM_OFFSET);
    if segment.gso_size > 0 || device.is_some_and(|device| device.checksum_tx) {
        // As Linux leaves it for CHECKSUM_PARTIAL: the pseudo header's sum, not complemented.
        write_u16(target, field, pseudo);
        return Some(Some(PartialChecksum { start: header_length(target.get(..start)?), offset: TCP_CHECKSUM_OFFSET }));
    }
    //= RFC 9293 §3.1 (MUST-2)
    let mut sum = checksum::Accumulator::new(pseudo);
    sum.add(segment.header);
    for slice in segment.payload {
        sum.add(slice);
    }
    write_u16(target, field, sum.finish());
    Some(None)
}

/// Copies a segment into the outbox, its checksum left for later: to ourselves it is never needed.
fn copy_segment(net: &mut Net<'_>, segment: &Segment<'_>, route: &Route) {
    let mut bytes = Vec::with_capacity(total_length(segment));
    let mut device = net.ip.interface().map(|interface| interface.capabilities);
    if let Some(device) = &mut device {
        device.checksum_tx = true;
    }
    let Some(partial) = assemble(net, segment, &mut bytes, device) else { return };
    for slice in segment.payload {
        bytes.extend_from_slice(slice);
    }
    net.ip.enqueue(Packet {
        bytes,
        next_hop: route.next_hop,
        delivery: delivery_of(route),
        purpose: segment.purpose,
        checksum: partial,
        gso_size: segment.gso_size,
        segment: true,
        timed: segment.timed,
    });
}
