//! Address families: number -> who makes its sockets (Linux's `net_families`), and the checks that socket() makes
//! before any protocol is asked, in Linux's order.

use super::error::{CreateError, RegisterError};
use super::protocol::{AddressFamily, SocketType};
use super::protosw::{ProtocolSwitch, Transport};

/// Linux's NPROTO (AF_MAX).
const FAMILY_LIMIT: usize = 46;
/// Linux's SOCK_MAX.
const TYPE_LIMIT: i32 = 11;
/// Linux's IPPROTO_MAX: one above IPPROTO_MPTCP.
const PROTOCOL_LIMIT: i32 = 263;
const AF_INET: usize = 2;
const AF_INET6: usize = 10;

/// What the caller may do, as the host found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// CAP_NET_RAW: raw sockets.
    pub raw: bool,
    /// One of the caller's groups lies in net.ipv4.ping_group_range.
    pub ping: bool,
}

/// What socket() asks for, found to be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Address family.
    pub family: AddressFamily,
    /// Type.
    pub kind: SocketType,
    /// Protocol; never 0.
    pub protocol: u8,
}

/// The families of one stack.
#[derive(Clone, Debug)]
pub struct Families {
    rows: [Option<AddressFamily>; FAMILY_LIMIT],
}

impl Default for Families {
    fn default() -> Self {
        let mut rows = [None; FAMILY_LIMIT];
        rows[AF_INET] = Some(AddressFamily::Inet);
        //= REF S-06: IPv6 sockets ride on the IPv4 layer until there is another.
        rows[AF_INET6] = Some(AddressFamily::Inet6);
        Self { rows }
    }
}

impl Families {
    /// Registers a family (`sock_register`).
    ///
    /// # Errors
    /// `OutOfRange` for a number that no family can have, `Exists` when it is taken.
    //= REF S-03
    pub fn register(&mut self, number: usize, family: AddressFamily) -> Result<(), RegisterError> {
        match self.rows.get_mut(number) {
            None => Err(RegisterError::OutOfRange),
            Some(Some(_)) => Err(RegisterError::Exists),
            Some(row) => {
                *row = Some(family);
                Ok(())
            }
        }
    }

    /// The checks of `__sock_create` and `inet_create` on the program's own numbers.
    ///
    /// # Errors
    /// In Linux's order: family out of range, type out of range, family unknown, protocol out of range, type
    /// unknown, protocol unknown, not permitted.
    //= REF S-02
    pub fn resolve(
        &self,
        switch: &ProtocolSwitch,
        numbers: (i32, i32, i32),
        rights: Rights,
    ) -> Result<Wanted, CreateError> {
        let (family, kind, protocol) = numbers;
        let row = usize::try_from(family).ok().and_then(|number| self.rows.get(number));
        let row = row.ok_or(CreateError::FamilyUnknown)?;
        if !(0..TYPE_LIMIT).contains(&kind) {
            return Err(CreateError::Invalid);
        }
        let family = row.ok_or(CreateError::FamilyUnknown)?;
        if !(0..PROTOCOL_LIMIT).contains(&protocol) {
            return Err(CreateError::Invalid);
        }
        let kind = match kind {
            1 => SocketType::Stream,
            2 => SocketType::Datagram,
            3 => SocketType::Raw,
            _ => return Err(CreateError::TypeUnknown),
        };
        // IPPROTO_MPTCP (262) is not an IP protocol number and has no row here: a kernel without MPTCP says the same.
        let number = u8::try_from(protocol).map_err(|_| CreateError::ProtocolUnknown)?;
        let (row, protocol) = switch.find(kind, number)?;
        match row.transport {
            Transport::Raw if !rights.raw => Err(CreateError::NotPermitted),
            Transport::Ping if !rights.ping => Err(CreateError::GroupNotAllowed),
            _ => Ok(Wanted { family, kind, protocol }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    //= test REF S-02
    fn errors_come_in_the_order_of_linux() {
        let families = Families::default();
        let switch = ProtocolSwitch::default();
        let ask = |family, kind, protocol| {
            families.resolve(&switch, (family, kind, protocol), Rights::default()).unwrap_err()
        };
        assert_eq!(ask(-1, 99, -1), CreateError::FamilyUnknown);
        assert_eq!(ask(46, 1, 0), CreateError::FamilyUnknown);
        assert_eq!(ask(45, 11, 0), CreateError::Invalid);
        assert_eq!(ask(45, 1, 0), CreateError::FamilyUnknown);
        assert_eq!(ask(2, 11, 0), CreateError::Invalid);
        assert_eq!(ask(2, -1, 0), CreateError::Invalid);
        assert_eq!(ask(2, 1, -1), CreateError::Invalid);
        assert_eq!(ask(2, 1, 263), CreateError::Invalid);
        for kind in [0, 4, 5, 6, 10] {
            assert_eq!(ask(2, kind, 0), CreateError::TypeUnknown);
        }
        assert_eq!(ask(2, 1, 17), CreateError::ProtocolUnknown);
        assert_eq!(ask(2, 1, 262), CreateError::ProtocolUnknown);
        assert_eq!(ask(2, 3, 0), CreateError::ProtocolUnknown);
        assert_eq!(ask(2, 3, 1), CreateError::NotPermitted);
        assert_eq!(ask(2, 2, 1), CreateError::GroupNotAllowed);
        let all = Rights { raw: true, ping: true };
        let wanted = families.resolve(&switch, (10, 2, 0), all).unwrap();
        assert_eq!(wanted, Wanted { family: AddressFamily::Inet6, kind: SocketType::Datagram, protocol: 17 });
    }

    #[test]
    //= test REF S-03
    fn a_family_is_registered_once_and_within_range() {
        let mut families = Families::default();
        assert_eq!(families.register(2, AddressFamily::Inet), Err(RegisterError::Exists));
        assert_eq!(families.register(46, AddressFamily::Inet), Err(RegisterError::OutOfRange));
        assert_eq!(families.register(45, AddressFamily::Inet), Ok(()));
    }
}
