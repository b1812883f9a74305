//! The IPv4 header and its options (RFC 791). Checks are made in the order of Linux's `ip_rcv_core`, so that the
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

/// What the options of a received header say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Loose or strict source route (RFC 791 §3.1).
    pub source_route: bool,
    /// Router alert (RFC 2113).
    pub router_alert: bool,
}

/// An option is wrong; `at` counts from the start of the header, as ICMP's parameter problem does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// Place of the bad byte.
    pub at: u8,
}

/// Reads the options of a verified header (`__ip_options_compile`).
///
/// # Errors
/// The place of the first byte that is wrong.
pub fn parse_options(header: &[u8]) -> Result<Options, OptionError> {
    let mut options = Options::default();
    let mut at = HEADER_LENGTH;
    // A header has at most 60 bytes, so every place fits.
    let wrong = |at: usize| OptionError { at: u8::try_from(at).unwrap_or(u8::MAX) };
    let (mut seen_route, mut seen_record, mut seen_time) = (false, false, false);
    while let Some(&kind) = header.get(at) {
        match kind {
            // End of options: the rest is padding.
            0 => break,
            1 => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let length = usize::from(*header.get(at + 1).ok_or(wrong(at))?);
        let option = match header.get(at..at + length) {
            Some(option) if length >= 2 => option,
            _ => return Err(wrong(at)),
        };
        match kind {
            0x83 | 0x89 => {
                if length < 3 {
                    return Err(wrong(at + 1));
                }
                if option.get(2).is_none_or(|pointer| *pointer < 4) {
                    return Err(wrong(at + 2));
                }
                // Only one source route may be given.
                if seen_route {
                    return Err(wrong(at));
                }
                seen_route = true;
                options.source_route = true;
            }
            0x07 => check_recording(option, at, 4, &mut seen_record)?,
            0x44 => check_recording(option, at, 5, &mut seen_time)?,
            0x94 => {
                if length < 4 {
                    return Err(wrong(at + 1));
                }
                options.router_alert = option.get(2..4) == Some(&[0, 0]);
            }
            // Others, commercial security among them, pass without meaning.
            _ => {}
        }
        at += length;
    }
    Ok(options)
}

/// Record route and timestamp: one of each, long enough, and a pointer behind the fixed part.
fn check_recording(option: &[u8], at: usize, least_pointer: u8, seen: &mut bool) -> Result<(), OptionError> {
    let wrong = |at: usize| OptionError { at: u8::try_from(at).unwrap_or(u8::MAX) };
    if core::mem::replace(seen, true) {
        return Err(wrong(at));
    }
    if option.len() < usize::from(least_pointer) - 1 {
        return Err(wrong(at + 1));
    }
    match option.get(2) {
        Some(pointer) if *pointer >= least_pointer => Ok(()),
        _ => Err(wrong(at + 2)),
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

    #[test]
    fn options_are_read_to_the_byte_that_is_wrong() {
        let read = |options: &[u8]| {
            let mut header = packet()[..20].to_vec();
            header.extend_from_slice(options);
            parse_options(&header)
        };
        assert_eq!(read(&[1, 1, 0, 9]), Ok(Options::default()));
        assert_eq!(read(&[0x94, 4, 0, 0]), Ok(Options { router_alert: true, source_route: false }));
        assert!(read(&[0x83, 7, 4, 10, 0, 0, 9, 0]).unwrap().source_route);
        assert_eq!(read(&[1, 1, 1, 0x83]), Err(OptionError { at: 23 }));
        assert_eq!(read(&[0x07, 9, 4, 0]), Err(OptionError { at: 20 }));
        assert_eq!(read(&[0x07, 1, 4, 0]), Err(OptionError { at: 20 }));
        assert_eq!(read(&[0x07, 3, 2, 0]), Err(OptionError { at: 22 }));
        assert_eq!(read(&[0x83, 3, 4, 0x89, 3, 4, 0, 0]), Err(OptionError { at: 23 }));
    }
}
