//! The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words, over pieces of any length.
//!
//! Sums are kept as the number that big-endian words would give, so that they can be added to header fields as
//! they stand in the RFCs.

use core::net::IpAddr;

/// Ones' complement sum of `bytes` as big-endian 16-bit words, folded; an odd last byte is padded with a zero
/// (RFC 1071 §4.1).
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // Eight bytes at a time in the machine's own order: the sum is independent of byte order but for one swap at
    // the end (RFC 1071 §2 (B)). Two chains, so that one addition does not wait for the other's carry.
    let (words, rest) = bytes.as_chunks::<8>();
    let (pairs, single) = words.as_chunks::<2>();
    let (mut even, mut odd) = (0_u64, 0_u64);
    for [first, second] in pairs {
        even = add_with_carry(even, u64::from_ne_bytes(*first));
        odd = add_with_carry(odd, u64::from_ne_bytes(*second));
    }
    let mut total = add_with_carry(even, odd);
    for word in single {
        total = add_with_carry(total, u64::from_ne_bytes(*word));
    }
    total = add_with_carry(total, tail(rest));
    u16::from_be_bytes(fold(total).to_ne_bytes())
}

/// Reads fewer than eight bytes in the machine's order, the missing ones as zero.
fn tail(rest: &[u8]) -> u64 {
    let mut bytes = [0_u8; 8];
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_ne_bytes(bytes)
}

const fn add_with_carry(sum: u64, word: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(word);
    // Cannot overflow: after a carry the sum is at most 2^64 - 2.
    sum + carry as u64
}

/// Folds a sum of words to 16 bits with end-around carry.
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let mut sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    // Three folds bring 33 bits down to 16.
    (sum & 0xffff) as u16
}

/// Sum of the pseudo header of TCP and UDP (RFC 9293 §3.1, RFC 768; RFC 8200 §8.1 for IPv6). `length` is that of
/// the transport header and its payload, in bytes.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            u64::from(sum(&source.octets())) + u64::from(sum(&destination.octets()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            u64::from(sum(&source.octets())) + u64::from(sum(&destination.octets()))
        }
        // A packet has addresses of one version; a mixed pair cannot be summed right and fails every check.
        _ => 0,
    };
    fold(addresses + u64::from(protocol) + length as u64)
}

/// Adds up pieces of a message, whatever their lengths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accumulator {
    sum: u64,
    odd: bool,
}

impl Accumulator {
    /// Starts from a sum, such as that of a pseudo header.
    #[must_use]
    pub const fn new(start: u16) -> Self {
        Self { sum: start as u64, odd: false }
    }

    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        let part = sum(piece);
        // A piece that begins at an odd place contributes with its bytes exchanged (RFC 1071 §2 (B)).
        self.sum += u64::from(if self.odd { part.swap_bytes() } else { part });
        self.odd ^= piece.len() & 1 == 1;
    }

    /// The folded sum, not complemented: what a checksum field holds when the device shall finish it.
    #[must_use]
    pub const fn partial(&self) -> u16 {
        fold(self.sum)
    }

    /// The checksum to store in a header whose checksum field was zero.
    #[must_use]
    pub const fn finish(&self) -> u16 {
        !fold(self.sum)
    }

    /// Whether the message, its checksum field included, is intact.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        fold(self.sum) == 0xffff
    }
}

/// Checksum of one contiguous message whose checksum field is zero.
#[must_use]
pub fn of(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in bytes.chunks(2) {
            total += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let bytes: Vec<u8> = (0..200_u16).map(|n| (n.wrapping_mul(167) >> 1) as u8 | 0x80).collect();
        for length in 0..bytes.len() {
            assert_eq!(sum(&bytes[..length]), slow(&bytes[..length]), "length {length}");
        }
        assert_eq!(sum(&[0xff; 65_535]), slow(&[0xff; 65_535]));
    }

    #[test]
    fn pieces_of_odd_length_add_up() {
        let bytes: Vec<u8> = (0..=255).collect();
        for first in 0..40 {
            for second in 0..40 {
                let mut accumulator = Accumulator::new(0);
                accumulator.add(&bytes[..first]);
                accumulator.add(&bytes[first..first + second]);
                accumulator.add(&bytes[first + second..]);
                assert_eq!(accumulator.partial(), slow(&bytes));
            }
        }
    }
}
