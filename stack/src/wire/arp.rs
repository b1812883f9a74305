//! ARP for IPv4 over Ethernet (RFC 826). Who answers whom is `link`'s affair.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::ethernet::mac_at;
use super::{read_u16, read_u32};
use crate::interface::MacAddress;

/// Bytes of a packet.
pub const LENGTH: usize = 28;
const HARDWARE_ETHERNET: u16 = 1;
/// IEEE 802 networks: Linux takes it on Ethernet devices too (RFC 1042, `arp_process`).
const HARDWARE_IEEE_802: u16 = 6;
const PROTOCOL_IPV4: u16 = 0x0800;

/// What a packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has `target`?
    Request,
    /// `sender` is at its hardware address.
    Reply,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpError {
    /// Shorter than 28 bytes.
    Truncated,
    /// Hardware other than Ethernet.
    HardwareType,
    /// Protocol other than IPv4.
    ProtocolType,
    /// Address lengths other than 6 and 4.
    AddressLengths,
    /// Neither request nor reply.
    Operation,
    /// The sender's hardware address is a group.
    SenderHardware,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Sender's hardware address.
    pub sender_mac: MacAddress,
    /// Sender's protocol address; 0.0.0.0 in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// Target's hardware address; of no meaning in a request.
    pub target_mac: MacAddress,
    /// Target's protocol address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a packet; what follows it is padding.
    ///
    /// # Errors
    /// See [`ArpError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ArpError> {
        let bytes = bytes.get(..LENGTH).ok_or(ArpError::Truncated)?;
        let word = |at| read_u16(bytes, at).ok_or(ArpError::Truncated);
        let address = |at| read_u32(bytes, at).map(Ipv4Addr::from_bits).ok_or(ArpError::Truncated);
        let mac = |at| mac_at(bytes, at).ok_or(ArpError::Truncated);
        if !matches!(word(0)?, HARDWARE_ETHERNET | HARDWARE_IEEE_802) {
            return Err(ArpError::HardwareType);
        }
        if word(2)? != PROTOCOL_IPV4 {
            return Err(ArpError::ProtocolType);
        }
        if word(4)? != 0x0604 {
            return Err(ArpError::AddressLengths);
        }
        let operation = match word(6)? {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(ArpError::Operation),
        };
        let sender_mac = mac(8)?;
        if sender_mac.is_group() {
            return Err(ArpError::SenderHardware);
        }
        Ok(Self { operation, sender_mac, sender: address(14)?, target_mac: mac(18)?, target: address(24)? })
    }

    /// Appends the packet.
    pub fn emit(&self, target: &mut Vec<u8>) {
        let Self { operation, sender_mac, sender, target_mac, target: wanted } = self;
        let operation: u8 = match operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        target.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
        target.extend_from_slice(&sender_mac.0);
        target.extend_from_slice(&sender.octets());
        target.extend_from_slice(&target_mac.0);
        target.extend_from_slice(&wanted.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Vec<u8> {
        let arp = Arp {
            operation: Operation::Request,
            sender_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            sender: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: MacAddress::default(),
            target: Ipv4Addr::new(10, 0, 0, 2),
        };
        let mut bytes = Vec::new();
        arp.emit(&mut bytes);
        assert_eq!(Arp::parse(&bytes), Ok(arp));
        bytes
    }

    #[test]
    fn each_field_that_can_be_wrong_is_named() {
        let table = [
            (0, 9, ArpError::HardwareType),
            (2, 9, ArpError::ProtocolType),
            (4, 9, ArpError::AddressLengths),
            (5, 9, ArpError::AddressLengths),
            (7, 9, ArpError::Operation),
            (8, 3, ArpError::SenderHardware),
        ];
        for (at, value, error) in table {
            let mut bytes = request();
            bytes[at] = value;
            assert_eq!(Arp::parse(&bytes), Err(error), "byte {at}");
        }
        assert_eq!(Arp::parse(&request()[..27]), Err(ArpError::Truncated));
    }
}
