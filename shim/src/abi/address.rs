//! Socket addresses between C and Rust: struct sockaddr_in and sockaddr_in6, with Linux's order of checks on the way in
//! and its truncation rule on the way out. IPv4 rides in AF_INET6 sockets as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use remora_host::sys::Errno;
use remora_stack::socket::protocol::AddressFamily;

use super::memory::User;

/// Size of struct sockaddr_storage: the longest address that the kernel copies.
const LONGEST: usize = 128;
/// Size of struct sockaddr_in.
pub(crate) const INET_SIZE: usize = 16;
/// Size of struct sockaddr_in6.
pub(crate) const INET6_SIZE: usize = 28;
/// struct sockaddr_in6 without the scope (SIN6_LEN_RFC2133): enough for Linux.
const INET6_SHORT: usize = 24;

/// An address as the program gave it: copied, not yet looked into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawName {
    bytes: [u8; LONGEST],
    length: usize,
}

impl RawName {
    /// Copies it from user memory (`move_addr_to_kernel`).
    //= REF C-01
    pub(crate) fn read<T>(address: User<T>, length: u32) -> Result<Self, Errno> {
        // The kernel takes an int: what is above INT_MAX is negative there.
        let length = length as usize;
        if length > LONGEST {
            return Err(Errno(libc::EINVAL));
        }
        let mut name = Self { bytes: [0; LONGEST], length };
        let copied = address.cast::<u8>().read_many(length)?;
        if let Some(room) = name.bytes.get_mut(..length) {
            room.copy_from_slice(&copied);
        }
        Ok(name)
    }

    /// The bytes as they were given.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// `sa_family`, when there are bytes enough for one.
    pub(crate) fn family(&self) -> Option<i32> {
        let bytes = self.bytes().first_chunk::<2>()?;
        Some(i32::from(u16::from_ne_bytes(*bytes)))
    }

    /// As bind of a raw socket takes it: `raw_bind` does not look at the family.
    pub(crate) fn for_raw_bind(&self) -> Result<SocketAddr, Errno> {
        if self.length < INET_SIZE {
            return Err(Errno(libc::EINVAL));
        }
        Ok(self.inet())
    }

    /// The struct sockaddr_in in it. The length must have been checked.
    fn inet(&self) -> SocketAddr {
        let [_, _, p, q, a, b, c, d, ..] = self.bytes;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), u16::from_be_bytes([p, q]))
    }

    /// The struct sockaddr_in6 in it.
    fn inet6(&self) -> SocketAddrV6 {
        let [_, _, p, q, f0, f1, f2, f3, rest @ ..] = self.bytes;
        let mut octets = [0u8; 16];
        octets.copy_from_slice(rest.get(..16).unwrap_or(&[0; 16]));
        let [_, .., _] = octets;
        let scope = rest.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let scope = if self.length >= INET6_SIZE { scope } else { 0 };
        SocketAddrV6::new(
            Ipv6Addr::from(octets),
            u16::from_be_bytes([p, q]),
            u32::from_be_bytes([f0, f1, f2, f3]),
            scope,
        )
    }

    /// As bind takes it (`inet_bind`, `inet6_bind`).
    pub(crate) fn for_bind(&self, family: AddressFamily) -> Result<SocketAddr, Errno> {
        match family {
            AddressFamily::Inet => {
                if self.length < INET_SIZE {
                    return Err(Errno(libc::EINVAL));
                }
                let name = self.inet();
                match self.family() {
                    Some(libc::AF_INET) => Ok(name),
                    // Compatibility in __inet_bind: AF_UNSPEC is good for INADDR_ANY.
                    Some(libc::AF_UNSPEC) if name.ip().is_unspecified() => Ok(name),
                    _ => Err(Errno(libc::EAFNOSUPPORT)),
                }
            }
            AddressFamily::Inet6 => self.need_inet6(),
        }
    }

    /// As connect takes it, AF_UNSPEC apart (`tcp_v4_connect`, `__ip4_datagram_connect` and their IPv6 kin). A
    /// datagram socket of AF_INET6 takes struct sockaddr_in too.
    //= REF C-01
    pub(crate) fn for_connect(&self, family: AddressFamily, is_stream: bool) -> Result<SocketAddr, Errno> {
        match family {
            AddressFamily::Inet => self.need_inet(),
            AddressFamily::Inet6 if !is_stream && self.family() == Some(libc::AF_INET) => self.need_inet(),
            AddressFamily::Inet6 => self.need_inet6(),
        }
    }

    /// As sendto takes it (`udp_sendmsg`: AF_UNSPEC passes for AF_INET; `udpv6_sendmsg` sorts by family).
    /// `None` means that the address is to be ignored.
    pub(crate) fn for_send(&self, family: AddressFamily) -> Result<Option<SocketAddr>, Errno> {
        match (family, self.family()) {
            (AddressFamily::Inet, _) if self.length < INET_SIZE => Err(Errno(libc::EINVAL)),
            (AddressFamily::Inet, Some(libc::AF_INET | libc::AF_UNSPEC)) => Ok(Some(self.inet())),
            (AddressFamily::Inet, _) => Err(Errno(libc::EAFNOSUPPORT)),
            (AddressFamily::Inet6, None) => Err(Errno(libc::EINVAL)),
            (AddressFamily::Inet6, Some(libc::AF_INET)) => self.need_inet().map(Some),
            (AddressFamily::Inet6, Some(libc::AF_INET6)) => self.need_inet6().map(Some),
            (AddressFamily::Inet6, Some(libc::AF_UNSPEC)) => Ok(None),
            (AddressFamily::Inet6, Some(_)) => Err(Errno(libc::EINVAL)),
        }
    }

    fn need_inet(&self) -> Result<SocketAddr, Errno> {
        if self.length < INET_SIZE {
            return Err(Errno(libc::EINVAL));
        }
        if self.family() != Some(libc::AF_INET) {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        Ok(self.inet())
    }

    fn need_inet6(&self) -> Result<SocketAddr, Errno> {
        if self.length < INET6_SHORT {
            return Err(Errno(libc::EINVAL));
        }
        if self.family() != Some(libc::AF_INET6) {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        let name = self.inet6();
        // The core knows real addresses only.
        Ok(name.ip().to_ipv4_mapped().map_or(SocketAddr::V6(name), |v4| SocketAddr::new(IpAddr::V4(v4), name.port())))
    }
}

/// The bytes of a name in a socket's family, and how many they are.
pub(crate) fn encode(name: SocketAddr, family: AddressFamily) -> ([u8; INET6_SIZE], usize) {
    let mut bytes = [0u8; INET6_SIZE];
    let mut put = |at: usize, part: &[u8]| {
        if let Some(room) = bytes.get_mut(at..at + part.len()) {
            room.copy_from_slice(part);
        }
    };
    put(2, &name.port().to_be_bytes());
    match (family, name.ip()) {
        (AddressFamily::Inet, ip) => {
            put(0, &(libc::AF_INET as u16).to_ne_bytes());
            if let IpAddr::V4(v4) = ip {
                put(4, &v4.octets());
            }
            (bytes, INET_SIZE)
        }
        (AddressFamily::Inet6, ip) => {
            put(0, &(libc::AF_INET6 as u16).to_ne_bytes());
            let v6 = match ip {
                // An unbound or wildcard socket shows `::`, not ::ffff:0.0.0.0.
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            put(8, &v6.octets());
            if let SocketAddr::V6(full) = name {
                put(4, &full.flowinfo().to_be_bytes());
                put(24, &full.scope_id().to_ne_bytes());
            }
            (bytes, INET6_SIZE)
        }
    }
}

/// No name at all: the length says so, and must not have been negative.
pub(crate) fn write_none(length: User<u32>) -> Result<(), Errno> {
    if (length.read()? as i32) < 0 {
        return Err(Errno(libc::EINVAL));
    }
    length.write(0)
}

/// Writes a name where accept, getsockname and recvfrom want it (`move_addr_to_user`): the length that it really has,
/// then as much as fits.
//= REF L-03
pub(crate) fn write(
    name: SocketAddr,
    family: AddressFamily,
    target: User<libc::sockaddr>,
    length: User<u32>,
) -> Result<(), Errno> {
    let room = length.read()? as i32;
    let room = usize::try_from(room).map_err(|_| Errno(libc::EINVAL))?;
    let (bytes, full) = encode(name, family);
    length.write(full as u32)?;
    target.cast::<u8>().write_many(bytes.get(..full.min(room)).unwrap_or(&[]))
}
