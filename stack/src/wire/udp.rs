//! The UDP header (RFC 768), and that of UDP-Lite (RFC 3828), which has the checksum's coverage in the place of the length.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{checksum, read_u16};
use crate::frame::RxChecksum;

/// Bytes of the header.
pub const HEADER_LENGTH: usize = 8;
/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: u16 = 6;
/// IP protocol number.
pub const PROTOCOL: u8 = 17;
/// IP protocol number of UDP-Lite.
pub const LITE: u8 = 136;

/// What is wrong with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpError {
    /// Shorter than the header.
    Truncated,
    /// A length below 8 or beyond what has arrived.
    Length,
    /// The checksum does not match.
    Checksum,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Bytes of header and payload; what has arrived beyond it is padding.
    pub length: usize,
}

impl Udp {
    /// Reads and verifies the header of `datagram` (`__udp4_lib_rcv`).
    ///
    /// # Errors
    /// See [`UdpError`].
    pub fn parse(datagram: &[u8], from: IpAddr, to: IpAddr, trust: RxChecksum) -> Result<Self, UdpError> {
        let head = datagram.get(..HEADER_LENGTH).ok_or(UdpError::Truncated)?;
        let word = |at| read_u16(head, at).ok_or(UdpError::Truncated);
        let length = usize::from(word(4)?);
        if length < HEADER_LENGTH {
            return Err(UdpError::Length);
        }
        let whole = datagram.get(..length).ok_or(UdpError::Length)?;
        //= RFC 768: a checksum of zero means that the sender made none.
        if word(6)? != 0 && trust == RxChecksum::Unverified {
            let mut sum = checksum::Accumulator::new(checksum::pseudo_header(from, to, PROTOCOL, length));
            sum.add(whole);
            if !sum.is_valid() {
                return Err(UdpError::Checksum);
            }
        }
        Ok(Self { source: word(0)?, destination: word(2)?, length })
    }

    /// Reads and verifies the header of a UDP-Lite packet (`udplite_checksum_init`), and how many bytes of it the checksum
    /// covers.
    ///
    /// # Errors
    /// See [`UdpError`]; `Checksum` also for a coverage that cannot be (RFC 3828 §3.1).
    pub fn parse_lite(packet: &[u8], from: IpAddr, to: IpAddr, trust: RxChecksum) -> Result<(Self, usize), UdpError> {
        let head = packet.get(..HEADER_LENGTH).ok_or(UdpError::Truncated)?;
        let word = |at| read_u16(head, at).ok_or(UdpError::Truncated);
        let coverage = match usize::from(word(4)?) {
            0 => packet.len(),
            given => given,
        };
        let covered = packet.get(..coverage).filter(|covered| covered.len() >= HEADER_LENGTH);
        let covered = covered.ok_or(UdpError::Checksum)?;
        //= RFC 3828 §3.1: the checksum is never left out.
        if word(6)? == 0 {
            return Err(UdpError::Checksum);
        }
        if trust == RxChecksum::Unverified {
            let mut sum = checksum::Accumulator::new(checksum::pseudo_header(from, to, LITE, packet.len()));
            sum.add(covered);
            if !sum.is_valid() {
                return Err(UdpError::Checksum);
            }
        }
        Ok((Self { source: word(0)?, destination: word(2)?, length: packet.len() }, coverage))
    }

    /// Appends the header with the given checksum.
    pub fn emit(&self, target: &mut Vec<u8>, sum: u16) {
        target.extend_from_slice(&self.to_bytes(sum));
    }

    /// The header with the given checksum.
    #[must_use]
    pub fn to_bytes(&self, sum: u16) -> [u8; HEADER_LENGTH] {
        let Self { source, destination, length } = self;
        // The sender has refused what does not fit (EMSGSIZE).
        let length = u16::try_from(*length).unwrap_or(u16::MAX).to_be_bytes();
        let ([a, b], [c, d], [e, f], [g, h]) =
            (source.to_be_bytes(), destination.to_be_bytes(), length, sum.to_be_bytes());
        [a, b, c, d, e, f, g, h]
    }
}

/// The checksum as it goes out: zero stands for "none", so a computed zero is sent as all ones (RFC 768).
#[must_use]
pub const fn on_the_wire(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const TO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn datagram() -> Vec<u8> {
        let header = Udp { source: 7, destination: 9, length: 11 };
        let mut bytes = Vec::new();
        header.emit(&mut bytes, 0);
        bytes.extend_from_slice(b"abc");
        let mut sum = checksum::Accumulator::new(checksum::pseudo_header(FROM, TO, PROTOCOL, 11));
        sum.add(&bytes);
        bytes[6..8].copy_from_slice(&on_the_wire(sum.finish()).to_be_bytes());
        bytes
    }

    #[test]
    //= test RFC 3828 §3.1
    fn what_a_lite_checksum_does_not_cover_may_be_damaged() {
        let lite = |coverage: u16, covered: usize| {
            let mut bytes = datagram();
            bytes[4..6].copy_from_slice(&coverage.to_be_bytes());
            bytes[6..8].fill(0);
            let mut sum = checksum::Accumulator::new(checksum::pseudo_header(FROM, TO, LITE, 11));
            sum.add(&bytes[..covered]);
            let sum = on_the_wire(sum.finish()).to_be_bytes();
            bytes[6..8].copy_from_slice(&sum);
            bytes
        };
        let parse = |bytes: &[u8]| {
            Udp::parse_lite(bytes, FROM, TO, RxChecksum::Unverified).map(|(header, coverage)| (header.length, coverage))
        };
        assert_eq!(parse(&lite(0, 11)), Ok((11, 11)));
        assert_eq!(parse(&lite(11, 11)), Ok((11, 11)));
        let mut partial = lite(8, 8);
        partial[10] ^= 1;
        assert_eq!(parse(&partial), Ok((11, 8)));
        partial[0] ^= 1;
        assert_eq!(parse(&partial), Err(UdpError::Checksum));
        for coverage in [1, 7, 12] {
            assert_eq!(parse(&lite(coverage, 11)), Err(UdpError::Checksum));
        }
        let mut none = lite(0, 11);
        none[6..8].fill(0);
        assert_eq!(parse(&none), Err(UdpError::Checksum));
    }

    #[test]
    fn each_fault_has_its_name() {
        let good = datagram();
        let parse = |bytes: &[u8]| Udp::parse(bytes, FROM, TO, RxChecksum::Unverified);
        assert_eq!(parse(&good), Ok(Udp { source: 7, destination: 9, length: 11 }));
        assert_eq!(parse(&good[..7]), Err(UdpError::Truncated));
        assert_eq!(parse(&good[..10]), Err(UdpError::Length));
        let mut bad = good.clone();
        bad[5] = 7;
        assert_eq!(parse(&bad), Err(UdpError::Length));
        let mut bad = good.clone();
        bad[9] ^= 1;
        assert_eq!(parse(&bad), Err(UdpError::Checksum));
        assert!(Udp::parse(&bad, FROM, TO, RxChecksum::Valid).is_ok());
        bad[6..8].fill(0);
        assert!(parse(&bad).is_ok(), "no checksum, nothing to verify");
    }
}
