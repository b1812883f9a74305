//! The protocol switch: (type, protocol) -> which protocol serves it (Linux's `inetsw`). A new protocol is a new
//! row; the operations of a row are those of [`crate::socket::protocol::Protocol`].

use smallvec::SmallVec;

use super::error::{CreateError, RegisterError};
use super::protocol::SocketType;

/// IPPROTO_IP: in a call it asks for the type's default; in a row it is the wildcard that takes every protocol.
pub const ANY: u8 = 0;
/// IPPROTO_ICMP.
pub const ICMP: u8 = 1;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_UDPLITE.
pub const UDP_LITE: u8 = 136;
/// IPPROTO_RAW: header included, nothing received.
pub const RAW: u8 = 255;

/// Who serves the sockets of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828).
    UdpLite,
    /// ICMP echo sockets.
    Ping,
    /// Raw IP.
    Raw,
}

/// One row of the switch (`struct inet_protosw`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Type of socket.
    pub kind: SocketType,
    /// Protocol, or [`ANY`].
    pub protocol: u8,
    /// Who serves it.
    pub transport: Transport,
}

/// The rows that every stack has.
//= REF S-04
const STANDARD: [Row; 5] = [
    Row { kind: SocketType::Stream, protocol: TCP, transport: Transport::Tcp },
    Row { kind: SocketType::Datagram, protocol: UDP, transport: Transport::Udp },
    Row { kind: SocketType::Datagram, protocol: UDP_LITE, transport: Transport::UdpLite },
    Row { kind: SocketType::Datagram, protocol: ICMP, transport: Transport::Ping },
    Row { kind: SocketType::Raw, protocol: ANY, transport: Transport::Raw },
];

/// The switch.
#[derive(Clone, Debug)]
pub struct ProtocolSwitch {
    rows: SmallVec<[Row; 7]>,
}

impl Default for ProtocolSwitch {
    fn default() -> Self {
        Self { rows: SmallVec::from_slice(&STANDARD) }
    }
}

impl ProtocolSwitch {
    /// Adds a row (`inet_register_protosw`). Rows with a protocol of their own go before the type's wildcard.
    ///
    /// # Errors
    /// `Exists` when type and protocol have a row.
    //= REF S-03
    pub fn register(&mut self, row: Row) -> Result<(), RegisterError> {
        if self.rows.iter().any(|old| (old.kind, old.protocol) == (row.kind, row.protocol)) {
            return Err(RegisterError::Exists);
        }
        let at = self.rows.iter().position(|old| old.kind == row.kind && old.protocol == ANY);
        self.rows.insert(at.unwrap_or(self.rows.len()), row);
        Ok(())
    }

    /// Finds the row for a call (`inet_create`) and the protocol number that the socket then has.
    ///
    /// # Errors
    /// `TypeUnknown` when the type has no row at all, `ProtocolUnknown` when it has none for the protocol.
    //= REF S-04
    pub fn find(&self, kind: SocketType, protocol: u8) -> Result<(Row, u8), CreateError> {
        let mut error = CreateError::TypeUnknown;
        for row in self.rows.iter().filter(|row| row.kind == kind) {
            match (protocol, row.protocol) {
                // RAW with protocol 0 asks for the wildcard's default, which it has not: EPROTONOSUPPORT as on Linux.
                (ANY, ANY) => {}
                (asked, offered) if asked == offered => return Ok((*row, offered)),
                (ANY, offered) => return Ok((*row, offered)),
                (asked, ANY) => return Ok((*row, asked)),
                _ => {}
            }
            error = CreateError::ProtocolUnknown;
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    //= test REF S-04
    fn protocol_zero_picks_the_default_of_the_type() {
        let switch = ProtocolSwitch::default();
        let find = |kind, protocol| switch.find(kind, protocol).map(|(row, number)| (row.transport, number));
        assert_eq!(find(SocketType::Stream, 0), Ok((Transport::Tcp, TCP)));
        assert_eq!(find(SocketType::Datagram, 0), Ok((Transport::Udp, UDP)));
        assert_eq!(find(SocketType::Datagram, UDP_LITE), Ok((Transport::UdpLite, UDP_LITE)));
        assert_eq!(find(SocketType::Datagram, ICMP), Ok((Transport::Ping, ICMP)));
        assert_eq!(find(SocketType::Raw, 89), Ok((Transport::Raw, 89)));
        assert_eq!(find(SocketType::Raw, RAW), Ok((Transport::Raw, RAW)));
        assert_eq!(find(SocketType::Stream, UDP), Err(CreateError::ProtocolUnknown));
        assert_eq!(find(SocketType::Raw, 0), Err(CreateError::ProtocolUnknown));
    }

    #[test]
    //= test REF S-03
    fn a_row_is_registered_once() {
        let mut switch = ProtocolSwitch::default();
        let row = Row { kind: SocketType::Raw, protocol: 132, transport: Transport::Raw };
        assert_eq!(switch.register(row), Ok(()));
        assert_eq!(switch.register(row), Err(RegisterError::Exists));
        assert_eq!(switch.find(SocketType::Raw, 132).unwrap().0, row);
    }
}
