//! What the link looks at and changes in a packet: where its IP header is, the ECN field (RFC 3168 §5, RFC 8200 §7), a bit
//! turned over. Segmentation is left to `segment`.

use crate::chance::Dice;
use remora_stack::wire::{read_u16, write_u16};

/// Ethernet header.
pub const ETHERNET: usize = 14;
/// 802.1Q tag: two bytes of type and two of control information.
pub const TAG: usize = 4;
/// Where the type stands in an Ethernet header, and a tag is put.
pub const TYPE_AT: usize = 12;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Tags that are looked through (802.1ad has two).
const MAX_TAGS: usize = 2;

/// The version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Where the IP header begins, and its version; `None` for other protocols and for stumps.
#[must_use]
pub fn network(frame: &[u8]) -> Option<(usize, Version)> {
    let mut type_at = TYPE_AT;
    for _ in 0..=MAX_TAGS {
        let kind = read_u16(frame, type_at)?;
        if TYPE_TAGS.contains(&kind) {
            type_at += TAG;
            continue;
        }
        let at = type_at + 2;
        let version = frame.get(at)? >> 4;
        return match (kind, version) {
            (TYPE_IPV4, 4) => Some((at, Version::V4)),
            (TYPE_IPV6, 6) => Some((at, Version::V6)),
            _ => None,
        };
    }
    None
}

/// Sets Congestion Experienced in the packet of an ECN-capable sender (RFC 3168 §5: ECT(0), ECT(1)). Says whether the
/// packet carries the mark now.
pub fn mark_congestion(frame: &mut [u8]) -> bool {
    match network(frame) {
        Some((at, Version::V4)) => mark_ipv4(frame, at).unwrap_or(false),
        // The field is the low half of the traffic class: bits 4 and 5 of the second byte.
        Some((at, Version::V6)) => match frame.get_mut(at + 1) {
            Some(byte) if *byte & 0x30 != 0 => {
                *byte |= 0x30;
                true
            }
            _ => false,
        },
        None => false,
    }
}

fn mark_ipv4(frame: &mut [u8], at: usize) -> Option<bool> {
    let old = read_u16(frame, at)?;
    if old & 3 == 0 {
        return Some(false);
    }
    let new = old | 3;
    // RFC 1624 §3: HC' = ~(~HC + ~m + m').
    let sum = u32::from(!read_u16(frame, at + 10)?) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    // Two folds of a sum of three 16-bit numbers leave 16 bits.
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    Some(write_u16(frame, at, new) && write_u16(frame, at + 10, !sum))
}

/// Turns one bit over. Behind the link header: damage on the link itself would not get past the frame check sequence.
/// Says whether there was anything to damage.
pub fn corrupt(frame: &mut [u8], dice: &mut Dice) -> bool {
    let Some(packet) = frame.get_mut(ETHERNET..) else { return false };
    let place = dice.below(packet.len() as u64);
    let bit = dice.below(8);
    match usize::try_from(place).ok().and_then(|place| packet.get_mut(place)) {
        Some(byte) => {
            *byte ^= 1 << bit;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Purpose;
    use remora_stack::wire::checksum;

    fn ipv4(ecn: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[8, 0, 0x45, ecn, 0, 40, 1, 2, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.resize(54, 0x55);
        frame
    }

    //= test RFC 3168 §5
    #[test]
    fn only_packets_of_ecn_capable_senders_are_marked() {
        for (before, marked) in [(0xb8, false), (0xb9, true), (0xba, true), (0xbb, true)] {
            let mut frame = ipv4(before);
            assert_eq!(mark_congestion(&mut frame), marked);
            assert_eq!(frame[15], if marked { 0xbb } else { before });
            assert_eq!(checksum::sum(&frame[14..34]), 0xffff, "header checksum");
            let mut tagged = ipv4(before);
            tagged.splice(12..12, [0x81, 0, 0, 5]);
            assert_eq!(mark_congestion(&mut tagged), marked);
        }
        let mut six = vec![2; 12];
        six.extend_from_slice(&[0x86, 0xdd, 0x6b, 0x80, 0, 0]);
        assert!(!mark_congestion(&mut six));
        six[15] = 0xa0;
        assert!(mark_congestion(&mut six));
        assert_eq!(six[14..16], [0x6b, 0xb0]);
    }

    #[test]
    fn stumps_and_other_protocols_are_left_alone() {
        let whole = ipv4(1);
        for length in 0..26 {
            let mut stump = whole[..length].to_vec();
            assert!(!mark_congestion(&mut stump));
            assert_eq!(stump, whole[..length]);
        }
        let mut arp = whole.clone();
        arp[13] = 6;
        assert!(!mark_congestion(&mut arp));
        let mut tags = vec![2; 12];
        tags.extend_from_slice(&[0x81, 0, 0, 1].repeat(30));
        assert_eq!(network(&tags), None);
    }

    #[test]
    fn just_one_bit_is_turned_and_never_in_the_link_header() {
        let mut dice = Dice::new(5, 0, Purpose::Corrupt);
        let whole = ipv4(1);
        for _ in 0..1000 {
            let mut frame = whole.clone();
            assert!(corrupt(&mut frame, &mut dice));
            assert_eq!(frame[..14], whole[..14]);
            let turned: u32 = frame.iter().zip(&whole).map(|(one, other)| (one ^ other).count_ones()).sum();
            assert_eq!(turned, 1);
        }
        assert!(!corrupt(&mut [0; 14], &mut dice));
        assert!(!corrupt(&mut [0; 3], &mut dice));
    }
}
