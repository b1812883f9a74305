//! Whose a received frame is: the two ends that it names, and whether it opens a connection. For those who divide what comes
//! to one address among several stacks; the stack itself reads the headers with more care.

use core::net::SocketAddrV4;

use super::ethernet::{EtherType, Ethernet};
use super::ipv4::Ipv4;
use super::read_u16;
use crate::frame::Medium;

/// TCP's and UDP's protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the flags stand in a TCP header, and those of a connection's first segment: SYN, and neither ACK nor RST.
const FLAGS: usize = 13;
const OPENING: u8 = 0x16;
const SYN: u8 = 0x02;

/// A segment or a datagram, as far as its ends go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// TCP or UDP.
    pub protocol: u8,
    /// Who sends.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// It is a SYN that opens a connection.
    pub opens: bool,
}

impl Flow {
    /// Reads a frame; `None` for what has no ports, the later fragments of a datagram among it.
    #[must_use]
    pub fn of(medium: Medium, frame: &[u8]) -> Option<Self> {
        let start = match medium {
            Medium::Ip => 0,
            Medium::Ethernet => Ethernet::parse(frame).ok().filter(|it| it.kind == EtherType::Ipv4)?.payload,
        };
        let packet = frame.get(start..)?;
        let header = Ipv4::parse_quoted(packet).ok()?;
        if header.offset != 0 || !matches!(header.protocol, TCP | UDP) {
            return None;
        }
        let transport = packet.get(header.header..)?;
        Some(Self {
            protocol: header.protocol,
            from: SocketAddrV4::new(header.source, read_u16(transport, 0)?),
            to: SocketAddrV4::new(header.destination, read_u16(transport, 2)?),
            opens: header.protocol == TCP && transport.get(FLAGS)? & OPENING == SYN,
        })
    }

    /// A hash of the two ends, the same in every process (the finish of MurmurHash3 between words).
    #[must_use]
    pub fn hash(&self) -> u32 {
        let ports = u32::from(self.from.port()) << 16 | u32::from(self.to.port());
        [self.from.ip().to_bits(), self.to.ip().to_bits(), ports].into_iter().fold(0x9e37_79b9, |hash, word| {
            let mixed = (hash ^ word).wrapping_mul(0x85eb_ca6b);
            let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
            mixed ^ mixed >> 16
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::net::Ipv4Addr;

    fn packet(protocol: u8, flags: u8, offset: u8) -> Vec<u8> {
        let mut bytes = alloc::vec![0x45, 0, 0, 40, 0, 0, 0, offset, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        bytes.extend([0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn only_a_syn_by_itself_opens_a_connection() {
        for (flags, opens) in [(0x02, true), (0xc2, true), (0x12, false), (0x10, false), (0x06, false), (0x0a, true)] {
            assert_eq!(Flow::of(Medium::Ip, &packet(TCP, flags, 0)).map(|flow| flow.opens), Some(opens), "{flags:#x}");
        }
        assert_eq!(Flow::of(Medium::Ip, &packet(UDP, 0x02, 0)).map(|flow| flow.opens), Some(false));
    }

    #[test]
    fn what_names_no_ports_is_no_flow() {
        assert_eq!(Flow::of(Medium::Ip, &packet(1, 2, 0)), None);
        assert_eq!(Flow::of(Medium::Ip, &packet(UDP, 2, 1)), None, "a later fragment");
        let whole = packet(TCP, 2, 0);
        for length in 0..34 {
            assert_eq!(Flow::of(Medium::Ip, &whole[..length]), None);
        }
        let mut framed = alloc::vec![0; 12];
        framed.extend([8, 0]);
        framed.extend(&whole);
        assert_eq!(Flow::of(Medium::Ethernet, &framed), Flow::of(Medium::Ip, &whole));
        framed[13] = 6;
        assert_eq!(Flow::of(Medium::Ethernet, &framed), None, "ARP");
    }

    #[test]
    fn hash_spreads_neighbouring_ports_evenly() {
        let mut counts = [0; 3];
        for port in 40_000..40_300 {
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), port);
            let to = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 80);
            let flow = Flow { protocol: TCP, from, to, opens: true };
            counts[((u64::from(flow.hash()) * 3) >> 32) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (70..=130).contains(count)), "{counts:?}");
    }
}
