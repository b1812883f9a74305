//! Super-frames cut into packets, as a network card with segmentation offload does it (RFC 9293 §3.7, RFC 768; Linux's
//! tcp_gso_segment and __udp_gso_segment): a link carries packets, and loses, delays and queues them one by one. Partial
//! checksums are completed, so that damage on the link is seen by the receiver.

use crate::packet::{self, Version};
use remora_host::device::offload;
use remora_stack::frame::PartialChecksum;
use remora_stack::wire::checksum::{self, Accumulator};
use remora_stack::wire::{read_u16, read_u32, write_u16};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// struct virtio_net_hdr (linux/virtio_net.h), in the machine's byte order.
pub const VNET_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// What the kernel says of a frame's unfinished work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum that is still to be filled in.
    pub checksum: Option<PartialChecksum>,
    /// The kind of super-frame, without the ECN bit; 0 for an ordinary frame.
    gso_type: u8,
    gso_ecn: bool,
    header_length: u16,
    gso_size: u16,
}

impl Offload {
    /// From the kernel's header.
    #[must_use]
    pub fn parse(header: [u8; VNET_HEADER]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = header;
        let number = |low, high| u16::from_ne_bytes([low, high]);
        let request = PartialChecksum { start: number(s0, s1), offset: number(o0, o1) };
        Self {
            checksum: (flags & NEEDS_CHECKSUM != 0).then_some(request),
            gso_type: gso_type & !GSO_ECN,
            gso_ecn: gso_type & GSO_ECN != 0,
            header_length: number(h0, h1),
            gso_size: number(g0, g1),
        }
    }

    /// For the kernel.
    #[must_use]
    pub fn to_bytes(self) -> [u8; VNET_HEADER] {
        let Self { checksum, gso_type, gso_ecn, header_length, gso_size } = self;
        let request = checksum.unwrap_or(PartialChecksum { start: 0, offset: 0 });
        let mut header = [0; VNET_HEADER];
        header[0] = if checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        header[1] = gso_type | if gso_ecn { GSO_ECN } else { 0 };
        let words = [header_length, gso_size, request.start, request.offset];
        for (place, word) in header[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        header
    }

    /// Whether the frame stands for several packets.
    #[must_use]
    pub const fn is_super(self) -> bool {
        self.gso_type != GSO_NONE
    }

    /// Everything behind the Ethernet addresses has moved by the length of a tag.
    pub fn shift(&mut self, bytes: u16) {
        if let Some(request) = &mut self.checksum {
            request.start = request.start.saturating_add(bytes);
        }
        if self.header_length != 0 {
            self.header_length = self.header_length.saturating_add(bytes);
        }
    }
}

/// Hands each packet that `frame` stands for to `take`, ready for the wire. False when the frame is a super-frame of a
/// kind that is not known here, or not what the kernel says; then nothing was taken.
pub fn split(frame: &[u8], offload: Offload, mut take: impl FnMut(Vec<u8>)) -> bool {
    if offload.is_super() {
        return Super::parse(frame, offload).is_some_and(|whole| whole.cut(frame, take));
    }
    let mut packet = frame.to_vec();
    if let Some(request) = offload.checksum {
        offload::complete(&mut packet, request);
    }
    take(packet);
    true
}

/// The outline of a super-frame.
#[derive(Clone, Copy, Debug)]
struct Super {
    network: usize,
    version: Version,
    transport: usize,
    protocol: u8,
    /// Bytes before the payload.
    header: usize,
    /// Bytes of frame that belong to the IP packet; padding of the link may follow.
    end: usize,
    size: usize,
    source: IpAddr,
    destination: IpAddr,
}

impl Super {
    fn parse(frame: &[u8], offload: Offload) -> Option<Self> {
        let (network, version) = packet::network(frame)?;
        let (wanted, protocol) = match offload.gso_type {
            GSO_TCPV4 => (Some(Version::V4), PROTOCOL_TCP),
            GSO_TCPV6 => (Some(Version::V6), PROTOCOL_TCP),
            GSO_UDP_L4 => (None, PROTOCOL_UDP),
            _ => return None,
        };
        if wanted.is_some_and(|wanted| wanted != version) || offload.gso_size == 0 {
            return None;
        }
        let ip = frame.get(network..)?;
        let (plain, length, source, destination) = match version {
            Version::V4 => {
                let header = usize::from(ip.first()? & 15) * 4;
                if header < IPV4_HEADER || *ip.get(9)? != protocol {
                    return None;
                }
                let address = |at| read_u32(ip, at).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
                (header, usize::from(read_u16(ip, 2)?), address(12)?, address(16)?)
            }
            Version::V6 => {
                let address = |at: usize| {
                    let octets: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
                    Some(IpAddr::V6(Ipv6Addr::from(octets)))
                };
                (IPV6_HEADER, usize::from(read_u16(ip, 4)?) + IPV6_HEADER, address(8)?, address(24)?)
            }
        };
        // Behind extension headers the kernel knows the place, since their checksum is always left to the device.
        let transport = offload.checksum.map_or(network + plain, |request| usize::from(request.start));
        let header = transport
            + match protocol {
                PROTOCOL_TCP => usize::from(frame.get(transport.checked_add(12)?)? >> 4) * 4,
                _ => UDP_HEADER,
            };
        let end = (network + length).min(frame.len());
        let is_sound = transport >= network + plain && header >= transport + UDP_HEADER && header < end;
        let size = usize::from(offload.gso_size);
        let outline = Self { network, version, transport, protocol, header, end, size, source, destination };
        is_sound.then_some(outline)
    }

    fn cut(&self, frame: &[u8], take: impl FnMut(Vec<u8>)) -> bool {
        let (Some(header), Some(payload)) = (frame.get(..self.header), frame.get(self.header..self.end)) else {
            return false;
        };
        let last = payload.len().div_ceil(self.size).saturating_sub(1);
        let mut packets = Vec::with_capacity(last + 1);
        for (number, piece) in payload.chunks(self.size).enumerate() {
            let mut packet = Vec::with_capacity(header.len() + piece.len());
            packet.extend_from_slice(header);
            packet.extend_from_slice(piece);
            if self.adapt(&mut packet, number, number == last).is_none() {
                return false;
            }
            packets.push(packet);
        }
        packets.into_iter().for_each(take);
        true
    }

    /// Makes the headers of the super-frame those of its packet number `number`.
    fn adapt(&self, packet: &mut [u8], number: usize, is_last: bool) -> Option<()> {
        let put = |packet: &mut [u8], at, value| write_u16(packet, at, value).then_some(());
        match self.version {
            Version::V4 => {
                let length = u16::try_from(packet.len() - self.network).ok()?;
                put(packet, self.network + 2, length)?;
                // One identification per packet, counted on (RFC 791 §3.2).
                let identification = read_u16(packet, self.network + 4)?.wrapping_add(number as u16);
                put(packet, self.network + 4, identification)?;
                put(packet, self.network + 10, 0)?;
                let words = usize::from(packet.get(self.network)? & 15) * 4;
                let sum = checksum::of(packet.get(self.network..self.network + words)?);
                put(packet, self.network + 10, sum)?;
            }
            Version::V6 => {
                let length = packet.len().checked_sub(self.network + IPV6_HEADER)?;
                put(packet, self.network + 4, u16::try_from(length).ok()?)?;
            }
        }
        let checksum_at = if self.protocol == PROTOCOL_TCP {
            let sequence = read_u32(packet, self.transport + 4)?;
            // Sequence numbers count modulo 2^32; a super-frame has at most 64 KiB.
            let sequence = sequence.wrapping_add((number * self.size) as u32);
            packet.get_mut(self.transport + 4..self.transport + 8)?.copy_from_slice(&sequence.to_be_bytes());
            let flags = packet.get_mut(self.transport + 13)?;
            // FIN and PSH belong to the end of the data, CWR to its first packet (RFC 3168 §6.1.2).
            if !is_last {
                *flags &= !(TCP_FIN | TCP_PSH);
            }
            if number > 0 {
                *flags &= !TCP_CWR;
            }
            self.transport + 16
        } else {
            let length = u16::try_from(packet.len() - self.transport).ok()?;
            put(packet, self.transport + 4, length)?;
            self.transport + 6
        };
        put(packet, checksum_at, 0)?;
        let covered = packet.get(self.transport..)?;
        let pseudo = checksum::pseudo_header(self.source, self.destination, self.protocol, covered.len());
        let mut sum = Accumulator::new(pseudo);
        sum.add(covered);
        let sum = match sum.finish() {
            // UDP: zero would mean "no checksum" (RFC 768).
            0 if self.protocol == PROTOCOL_UDP => 0xffff,
            sum => sum,
        };
        put(packet, checksum_at, sum)
    }
}

#[cfg(test)]
mod tests;
