//! Ethernet II and IEEE 802.3 frames with IEEE 802.1Q / 802.1ad tags. What the payload means is for others.

use alloc::vec::Vec;

use super::read_u16;
use crate::interface::MacAddress;

/// Bytes of an untagged header.
pub const HEADER_LENGTH: usize = 14;
/// Types at and above this are types; below they are 802.3 lengths (IEEE 802.3 §3.2.6).
const FIRST_TYPE: u16 = 0x0600;
const TAG_CUSTOMER: u16 = 0x8100;
const TAG_SERVICE: u16 = 0x88a8;
/// The VLAN identifier's bits of the tag control information; the rest is priority and drop eligibility.
const VLAN_BITS: u16 = 0x0fff;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    /// 0x0800.
    Ipv4,
    /// 0x0806.
    Arp,
    /// 0x86dd.
    Ipv6,
    /// Any other type.
    Other(u16),
    /// An 802.3 length instead of a type: LLC follows.
    Llc,
}

impl EtherType {
    const fn from_number(number: u16) -> Self {
        match number {
            0x0800 => Self::Ipv4,
            0x0806 => Self::Arp,
            0x86dd => Self::Ipv6,
            FIRST_TYPE.. => Self::Other(number),
            _ => Self::Llc,
        }
    }

    /// The number on the wire; 0 for LLC, which this stack never sends.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Arp => 0x0806,
            Self::Ipv6 => 0x86dd,
            Self::Other(number) => number,
            Self::Llc => 0,
        }
    }
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EthernetError {
    /// Shorter than addresses and type.
    Truncated,
    /// Ends inside a VLAN tag.
    TruncatedTag,
    /// An 802.3 length says more than the frame holds.
    LengthBeyondFrame,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Receiver.
    pub destination: MacAddress,
    /// Sender.
    pub source: MacAddress,
    /// What follows.
    pub kind: EtherType,
    /// First VLAN identifier other than 0 (0 is a priority tag and means no VLAN).
    pub vlan: Option<u16>,
    /// Where the payload begins.
    pub payload: usize,
    /// Where the payload ends: the frame's end, or what an 802.3 length says.
    pub end: usize,
}

impl Ethernet {
    /// Reads the header of `frame`.
    ///
    /// # Errors
    /// See [`EthernetError`].
    //= REF N-03
    pub fn parse(frame: &[u8]) -> Result<Self, EthernetError> {
        let destination = mac_at(frame, 0).ok_or(EthernetError::Truncated)?;
        let source = mac_at(frame, 6).ok_or(EthernetError::Truncated)?;
        let mut number = read_u16(frame, 12).ok_or(EthernetError::Truncated)?;
        let mut payload = HEADER_LENGTH;
        let mut vlan = None;
        // At most a service tag and a customer tag; a third is somebody's own affair and stays an unknown type.
        for _ in 0..2 {
            if number != TAG_CUSTOMER && number != TAG_SERVICE {
                break;
            }
            let control = read_u16(frame, payload).ok_or(EthernetError::TruncatedTag)?;
            number = read_u16(frame, payload + 2).ok_or(EthernetError::TruncatedTag)?;
            payload += 4;
            vlan = vlan.or(vlan_of(control));
        }
        let kind = EtherType::from_number(number);
        let end = if kind == EtherType::Llc { payload + usize::from(number) } else { frame.len() };
        if end > frame.len() {
            return Err(EthernetError::LengthBeyondFrame);
        }
        Ok(Self { destination, source, kind, vlan, payload, end })
    }
}

/// The VLAN that a tag names; `None` for a priority tag.
#[must_use]
pub const fn vlan_of(control: u16) -> Option<u16> {
    match control & VLAN_BITS {
        0 => None,
        vlan => Some(vlan),
    }
}

/// Appends a header.
pub fn emit(target: &mut Vec<u8>, destination: MacAddress, source: MacAddress, kind: EtherType) {
    target.extend_from_slice(&destination.0);
    target.extend_from_slice(&source.0);
    target.extend_from_slice(&kind.number().to_be_bytes());
}

pub(super) fn mac_at(bytes: &[u8], at: usize) -> Option<MacAddress> {
    let field = bytes.get(at..at.checked_add(6)?)?;
    Some(MacAddress(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tail: &[u8]) -> Vec<u8> {
        let mut frame = alloc::vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        frame.extend_from_slice(tail);
        frame
    }

    #[test]
    //= test REF N-03
    fn type_length_and_tags_are_told_apart() {
        let plain = Ethernet::parse(&frame(&[8, 0, 0x45])).unwrap();
        assert_eq!((plain.kind, plain.vlan, plain.payload, plain.end), (EtherType::Ipv4, None, 14, 15));
        let llc = Ethernet::parse(&frame(&[0, 3, 0xaa, 0xaa, 3, 0, 0])).unwrap();
        assert_eq!((llc.kind, llc.end), (EtherType::Llc, 17));
        let priority = Ethernet::parse(&frame(&[0x81, 0, 0xe0, 0, 8, 6, 0])).unwrap();
        assert_eq!((priority.kind, priority.vlan, priority.payload), (EtherType::Arp, None, 18));
        let double = Ethernet::parse(&frame(&[0x88, 0xa8, 0, 0, 0x81, 0, 0, 7, 8, 0])).unwrap();
        assert_eq!((double.kind, double.vlan, double.payload), (EtherType::Ipv4, Some(7), 22));
    }

    #[test]
    fn what_is_too_short_is_named() {
        assert_eq!(Ethernet::parse(&[0; 13]), Err(EthernetError::Truncated));
        assert_eq!(Ethernet::parse(&frame(&[0x81, 0, 0])), Err(EthernetError::TruncatedTag));
        assert_eq!(Ethernet::parse(&frame(&[0, 4, 1, 2])), Err(EthernetError::LengthBeyondFrame));
    }
}
