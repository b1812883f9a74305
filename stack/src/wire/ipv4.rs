//! The IPv4 header (RFC 791); its options are in `ip_options.rs`. Checks are made in the order of Linux's `ip_rcv_core`, so that the
//! same counter moves for the same fault. What a packet is for is `ip`'s affair.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::{checksum, read_u16, read_u32};

/// Bytes of a header without options.
pub const HEADER_LENGTH: usize = 20;
/// Most bytes of a packet.
pub const LONGEST: usize = 65_535;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_BITS: u16 = 0x1fff;

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv4Error {
    /// Fewer than 20 bytes.
    Truncated,
    /// Version other than 4.
    Version,
    /// A header length below 20 bytes.
    HeaderLength,
    /// The header is longer than the packet.
    HeaderTruncated,
    /// The header checksum does not match.
    Checksum,
    /// The total length says more than has arrived.
    LengthBeyondPacket,
    /// The total length does not even cover the header.
    LengthWithinHeader,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Bytes of header, options included.
    pub header: usize,
    /// Bytes of the whole packet.
    pub total: usize,
    /// Type of service, ECN included.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// DF.
    pub dont_fragment: bool,
    /// MF.
    pub more_fragments: bool,
    /// Place of the payload in the datagram, in bytes.
    pub offset: usize,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Ipv4 {
    /// Reads and verifies the header of `packet`, which may have padding behind it.
    ///
    /// # Errors
    /// See [`Ipv4Error`].
    pub fn parse(packet: &[u8]) -> Result<Self, Ipv4Error> {
        let header = Self::parse_quoted(packet)?;
        let bytes = packet.get(..header.header).ok_or(Ipv4Error::HeaderTruncated)?;
        if checksum::sum(bytes) != 0xffff {
            //= RFC 1122 §3.2.1.2 (MUST-8)
            return Err(Ipv4Error::Checksum);
        }
        if header.total > packet.len() {
            return Err(Ipv4Error::LengthBeyondPacket);
        }
        if header.total < header.header {
            return Err(Ipv4Error::LengthWithinHeader);
        }
        Ok(header)
    }

    /// Reads the header that an ICMP error quotes: nothing but its shape is verified, for routers on the way may
    /// have changed it and the packet is cut short.
    ///
    /// # Errors
    /// `Truncated`, `Version`, `HeaderLength`.
    pub fn parse_quoted(packet: &[u8]) -> Result<Self, Ipv4Error> {
        let fixed = packet.get(..HEADER_LENGTH).ok_or(Ipv4Error::Truncated)?;
        let word = |at| read_u16(fixed, at).ok_or(Ipv4Error::Truncated);
        let address = |at| read_u32(fixed, at).map(Ipv4Addr::from_bits).ok_or(Ipv4Error::Truncated);
        let [first, tos] = word(0)?.to_be_bytes();
        if first >> 4 != 4 {
            //= RFC 1122 §3.2.1.1 (MUST-7)
            return Err(Ipv4Error::Version);
        }
        let header = usize::from(first & 0x0f) * 4;
        if header < HEADER_LENGTH {
            return Err(Ipv4Error::HeaderLength);
        }
        let fragment = word(6)?;
        let [ttl, protocol] = word(8)?.to_be_bytes();
        Ok(Self {
            header,
            total: usize::from(word(2)?),
            tos,
            id: word(4)?,
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
            offset: usize::from(fragment & OFFSET_BITS) * 8,
            ttl,
            protocol,
            source: address(12)?,
            destination: address(16)?,
        })
    }

    /// Whether the packet is a part of a datagram.
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.offset != 0
    }

    /// Appends a header without options; `total` counts it, `header` is ignored.
    pub fn emit(&self, target: &mut Vec<u8>) {
        target.extend_from_slice(&self.to_bytes());
    }

    /// Appends a header with options, whose bytes are a multiple of four; `total` counts them.
    pub fn emit_with(&self, options: &[u8], target: &mut Vec<u8>) {
        let mut bytes = self.to_bytes();
        if options.is_empty() {
            target.extend_from_slice(&bytes);
            return;
        }
        bytes[0] = bytes[0].wrapping_add(u8::try_from(options.len() / 4).unwrap_or(0));
        bytes[10] = 0;
        bytes[11] = 0;
        let start = target.len();
        target.extend_from_slice(&bytes);
        target.extend_from_slice(options);
        let sum = checksum::of(target.get(start..).unwrap_or(&[]));
        super::write_u16(target, start + 10, sum);
    }

    /// The header without options as it goes out, checksum filled in.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
        let Self {
            header: _,
            total,
            tos,
            id,
            dont_fragment,
            more_fragments,
            offset,
            ttl,
            protocol,
            source,
            destination,
        } = self;
        // A packet that the device will segment may say less than its length here; the device writes the right one.
        let total = u16::try_from(*total).unwrap_or(u16::MAX).to_be_bytes();
        let id = id.to_be_bytes();
        // The offset of a valid packet is below 65536 and a multiple of 8.
        let mut fragment = u16::try_from(offset / 8).unwrap_or(OFFSET_BITS) & OFFSET_BITS;
        if *dont_fragment {
            fragment |= DONT_FRAGMENT;
        }
        if *more_fragments {
            fragment |= MORE_FRAGMENTS;
        }
        let fragment = fragment.to_be_bytes();
        let source = source.octets();
        let destination = destination.octets();
        let mut bytes = [
            0x45,
            *tos,
            total[0],
            total[1],
            id[0],
            id[1],
            fragment[0],
            fragment[1],
            *ttl,
            *protocol,
            0,
            0,
            source[0],
            source[1],
            source[2],
            source[3],
            destination[0],
            destination[1],
            destination[2],
            destination[3],
        ];
        let sum = checksum::of(&bytes).to_be_bytes();
        bytes[10] = sum[0];
        bytes[11] = sum[1];
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ipv4 {
        Ipv4 {
            header: 20,
            total: 24,
            tos: 0x10,
            id: 0xbeef,
            dont_fragment: true,
            more_fragments: false,
            offset: 0,
            ttl: 64,
            protocol: 6,
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
        }
    }

    fn packet() -> Vec<u8> {
        let mut bytes = Vec::new();
        sample().emit(&mut bytes);
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes
    }

    fn with(change: impl Fn(&mut Vec<u8>)) -> Result<Ipv4, Ipv4Error> {
        let mut bytes = packet();
        change(&mut bytes);
        let header = (usize::from(bytes[0] & 15) * 4).min(bytes.len());
        if header >= 20 {
            bytes[10..12].fill(0);
            let sum = checksum::of(&bytes[..header]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Ipv4::parse(&bytes)
    }

    #[test]
    fn each_fault_has_its_name() {
        assert_eq!(Ipv4::parse(&packet()), Ok(sample()));
        assert_eq!(Ipv4::parse(&packet()[..19]), Err(Ipv4Error::Truncated));
        assert_eq!(with(|b| b[0] = 0x65), Err(Ipv4Error::Version));
        assert_eq!(with(|b| b[0] = 0x44), Err(Ipv4Error::HeaderLength));
        assert_eq!(with(|b| b[0] = 0x4f), Err(Ipv4Error::HeaderTruncated));
        assert_eq!(with(|b| b[3] = 25), Err(Ipv4Error::LengthBeyondPacket));
        assert_eq!(with(|b| b[3] = 19), Err(Ipv4Error::LengthWithinHeader));
        let mut bytes = packet();
        bytes[8] = 63;
        assert_eq!(Ipv4::parse(&bytes), Err(Ipv4Error::Checksum));
    }
}
