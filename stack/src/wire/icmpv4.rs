//! ICMP for IPv4 (RFC 792, RFC 1191). What follows from a message is for `ip/icmp.rs`.

use alloc::vec::Vec;

use super::{checksum, read_u16};

/// Bytes of the fixed part.
pub const HEADER_LENGTH: usize = 8;
/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench, which is ignored (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of UNREACHABLE: host.
pub const CODE_HOST: u8 = 1;
/// Code of UNREACHABLE: protocol.
pub const CODE_PROTOCOL: u8 = 2;
/// Code of UNREACHABLE: port.
pub const CODE_PORT: u8 = 3;
/// Code of UNREACHABLE: fragmentation needed and DF set.
pub const CODE_FRAGMENTATION: u8 = 4;
/// Code of TIME_EXCEEDED: reassembly.
pub const CODE_REASSEMBLY: u8 = 1;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// Shorter than 8 bytes.
    Truncated,
    /// The checksum does not match.
    Checksum,
}

/// The fixed part of a message; the body follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes after the checksum: identifier and sequence, gateway, pointer or MTU.
    pub rest: [u8; 4],
}

impl Icmp {
    /// Reads and verifies a message.
    ///
    /// # Errors
    /// See [`IcmpError`].
    pub fn parse(message: &[u8]) -> Result<Self, IcmpError> {
        // Linux verifies the sum before it looks at the length (`icmp_rcv`).
        if checksum::sum(message) != 0xffff {
            return Err(if message.len() < HEADER_LENGTH { IcmpError::Truncated } else { IcmpError::Checksum });
        }
        match message.get(..HEADER_LENGTH) {
            Some(&[kind, code, _, _, a, b, c, d]) => Ok(Self { kind, code, rest: [a, b, c, d] }),
            _ => Err(IcmpError::Truncated),
        }
    }

    /// The next-hop MTU of "fragmentation needed" (RFC 1191 §4).
    #[must_use]
    pub const fn next_hop_mtu(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The identifier of an echo message.
    #[must_use]
    pub const fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Whether the message reports an error; such are never answered by another (RFC 1122 §3.2.2).
    #[must_use]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// Appends the message with its body, checksum filled in.
    pub fn emit(&self, target: &mut Vec<u8>, body: &[u8]) {
        let Self { kind, code, rest } = self;
        let mut head = [*kind, *code, 0, 0, rest[0], rest[1], rest[2], rest[3]];
        let mut sum = checksum::Accumulator::new(0);
        sum.add(&head);
        sum.add(body);
        let sum = sum.finish().to_be_bytes();
        head[2] = sum[0];
        head[3] = sum[1];
        target.extend_from_slice(&head);
        target.extend_from_slice(body);
    }
}

/// The type of a message of which perhaps only a part is there, as in a quoted packet.
#[must_use]
pub fn kind_of(message: &[u8]) -> Option<u8> {
    message.first().copied()
}

/// The identifier of an echo message that is quoted by an error.
#[must_use]
pub fn quoted_identifier(message: &[u8]) -> Option<u16> {
    read_u16(message, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_and_damage_is_named() {
        let echo = Icmp { kind: ECHO, code: 0, rest: [0x12, 0x34, 0, 1] };
        for body in [&b""[..], b"x", b"data"] {
            let mut bytes = Vec::new();
            echo.emit(&mut bytes, body);
            assert_eq!(Icmp::parse(&bytes), Ok(echo));
            assert_eq!(echo.identifier(), 0x1234);
            bytes[4] ^= 1;
            assert_eq!(Icmp::parse(&bytes), Err(IcmpError::Checksum));
        }
        assert_eq!(Icmp::parse(&[0xff, 0xff]), Err(IcmpError::Truncated));
        assert_eq!(Icmp::parse(&[]), Err(IcmpError::Truncated));
    }
}
