//! Parsers of single values: text in, a type that cannot be wrong out. An error is what is allowed, in words.

use log::LevelFilter;
use remora_stack::interface::MacAddress;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::PathBuf;

/// An IPv4 address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The host's address.
    pub address: Ipv4Addr,
    /// Length of the network prefix in bits, 1 to 32.
    pub prefix: u8,
}

impl Cidr {
    /// The network mask.
    #[must_use]
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    /// Whether `other` is in the same network.
    #[must_use]
    pub fn contains(self, other: Ipv4Addr) -> bool {
        (u32::from(self.address) ^ u32::from(other)) & self.mask() == 0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A network of either family, for rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// An address, alone or with the length of its prefix from 0 on.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, length) = text.split_once('/').map_or((text, None), |(host, length)| (host, Some(length)));
        let address: IpAddr = host.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = length.map_or(Some(width), decimal).filter(|prefix| *prefix <= width)?;
        Some(Self { address, prefix: u8::try_from(prefix).ok()? })
    }

    /// Whether the address is in the network; mapped IPv6 addresses count as IPv4.
    pub(super) fn contains(&self, other: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - prefix).is_none_or(|differing| differing == 0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - prefix).is_none_or(|differing| differing == 0)
            }
            _ => false,
        }
    }

    /// Whether some address of 127.0.0.0/8 is in the network.
    pub(super) fn meets_loopback(&self) -> bool {
        let loopback = Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 8 };
        self.contains(loopback.address) || loopback.contains(self.address)
    }
}

/// Device back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// AF_PACKET with offloads.
    Packet,
    /// pnet_datalink.
    Portable,
    /// Frames over an AF_UNIX SEQPACKET socket.
    Unix(UnixLink),
}

impl DeviceKind {
    /// Whether frames go through a network interface of the kernel.
    #[must_use]
    pub const fn needs_interface(&self) -> bool {
        matches!(self, Self::Packet | Self::Portable)
    }
}

/// How the `unix` back end finds its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixLink {
    /// A socket in the file system.
    Path(PathBuf),
    /// A name in the abstract namespace.
    Abstract(String),
    /// A connected socket that the program was started with.
    Descriptor(i32),
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet => f.write_str("packet"),
            Self::Portable => f.write_str("portable"),
            Self::Unix(UnixLink::Path(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(UnixLink::Abstract(name)) => write!(f, "unix:@{name}"),
            Self::Unix(UnixLink::Descriptor(fd)) => write!(f, "unix:fd:{fd}"),
        }
    }
}

/// Who serves 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// The kernel, so that the program reaches local services.
    Kernel,
    /// The stack itself.
    Stack,
}

impl fmt::Display for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Stack => "stack",
        })
    }
}

/// Whose interfaces and addresses a program is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// The stack's beside the kernel's.
    Both,
    /// The stack's and the kernel's loopback.
    Stack,
    /// The kernel's.
    Kernel,
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both",
            Self::Stack => "stack",
            Self::Kernel => "kernel",
        })
    }
}

pub(super) fn interfaces(text: &str) -> Result<Interfaces, String> {
    match text {
        "both" => Ok(Interfaces::Both),
        "stack" => Ok(Interfaces::Stack),
        "kernel" => Ok(Interfaces::Kernel),
        _ => Err("both, stack or kernel".to_owned()),
    }
}

/// Who asks name servers on behalf of libc's resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// The stack asks the servers of resolv.conf.
    Stack,
    /// The kernel does, as without the library.
    Kernel,
    /// The stack asks these servers instead, at most three.
    Servers(Vec<SocketAddrV4>),
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack => f.write_str("stack"),
            Self::Kernel => f.write_str("kernel"),
            Self::Servers(servers) => {
                for (place, server) in servers.iter().enumerate() {
                    let separator = if place == 0 { "" } else { "," };
                    match server.port() {
                        DNS_PORT => write!(f, "{separator}{}", server.ip())?,
                        _ => write!(f, "{separator}{server}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Port of name servers (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// As many servers as struct __res_state has room for (MAXNS).
const MOST_SERVERS: usize = 3;

pub(super) fn names(text: &str) -> Result<Names, String> {
    let server = |text: &str| {
        let alone = text.parse().map(|address| SocketAddrV4::new(address, DNS_PORT));
        alone.ok().or_else(|| text.parse().ok()).filter(|server| server.port() != 0)
    };
    let servers = || {
        let parts = text.split([',', ' ', '\n']).filter(|part| !part.is_empty());
        parts.map(server).collect::<Option<Vec<_>>>().filter(|all| (1..=MOST_SERVERS).contains(&all.len()))
    };
    match text {
        "stack" => Ok(Names::Stack),
        "kernel" => Ok(Names::Kernel),
        _ => servers().map(Names::Servers).ok_or_else(|| "stack, kernel or up to three a.b.c.d[:port]".to_owned()),
    }
}

/// Names have 1 to 15 bytes (IFNAMSIZ), no slash, no colon and no space (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let valid = text.len() <= 15
        && !matches!(text, "" | "." | "..")
        && !text.bytes().any(|byte| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0);
    if valid { Ok(text.to_owned()) } else { Err("the name of a network interface, 1 to 15 bytes".to_owned()) }
}

pub(super) fn address(text: &str) -> Result<Cidr, String> {
    const ALLOWED: &str = "a.b.c.d/len with len from 1 to 32, or iface";
    let (host, length) = text.split_once('/').map_or((text, None), |(host, length)| (host, Some(length)));
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("{ALLOWED} (IPv4 only for now)"));
    }
    let address: Ipv4Addr = host.parse().map_err(|_| ALLOWED.to_owned())?;
    let Some(length) = length else {
        return Err(format!("{ALLOWED} (the length of the network is missing, as in {address}/24)"));
    };
    let prefix = decimal(length).and_then(|length| u8::try_from(length).ok()).filter(|bits| (1..=32).contains(bits));
    let cidr = Cidr { address, prefix: prefix.ok_or(ALLOWED)? };
    unicast(address).map_err(|what| format!("{ALLOWED} ({address} is {what})"))?;
    if cidr.prefix < 31 {
        // RFC 1122 §3.2.1.3: all zeros and all ones in the host part are no host; RFC 3021 excepts /31.
        let host_bits = u32::from(address) & !cidr.mask();
        if host_bits == 0 {
            return Err(format!("a host's address ({text} is the network itself)"));
        }
        if host_bits == !cidr.mask() {
            return Err(format!("a host's address ({text} is the network's broadcast address)"));
        }
    }
    Ok(cidr)
}

pub(super) fn gateway(text: &str) -> Result<Ipv4Addr, String> {
    const ALLOWED: &str = "the IPv4 address a.b.c.d of a router";
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("{ALLOWED} (IPv4 only for now)"));
    }
    let address: Ipv4Addr = text.parse().map_err(|_| ALLOWED.to_owned())?;
    unicast(address).map_err(|what| format!("{ALLOWED} ({address} is {what})"))?;
    Ok(address)
}

/// Whether one host can have the address; else what it is.
fn unicast(address: Ipv4Addr) -> Result<(), &'static str> {
    if address.octets()[0] == 0 {
        Err("of the network 0.0.0.0/8, which no host has")
    } else if address.is_loopback() {
        Err("a loopback address")
    } else if address.is_multicast() {
        Err("a multicast address")
    } else if address.octets()[0] >= 240 {
        Err("reserved")
    } else {
        Ok(())
    }
}

pub(super) fn mac(text: &str) -> Result<MacAddress, String> {
    const ALLOWED: &str = "six hexadecimal bytes aa:bb:cc:dd:ee:ff";
    let mut bytes = [0u8; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| matches!(part.len(), 1 | 2)).ok_or(ALLOWED)?;
        *byte = part
            .bytes()
            .all(|digit| digit.is_ascii_hexdigit())
            .then(|| u8::from_str_radix(part, 16).ok())
            .flatten()
            .ok_or(ALLOWED)?;
    }
    if parts.next().is_some() {
        return Err(ALLOWED.to_owned());
    }
    // is_valid_ether_addr: neither a group nor all zeros.
    if bytes[0] & 1 != 0 || bytes == [0; 6] {
        return Err(format!("{ALLOWED} of one station (the lowest bit of the first byte clear, not all zeros)"));
    }
    Ok(MacAddress(bytes))
}

/// RFC 791 §3.2: every link carries 68 bytes; the total length field ends at 65535.
pub(super) fn mtu(text: &str) -> Result<u16, String> {
    decimal(text)
        .and_then(|mtu| u16::try_from(mtu).ok())
        .filter(|mtu| *mtu >= 68)
        .ok_or_else(|| "a number of bytes from 68 to 65535".to_owned())
}

pub(super) fn device(text: &str) -> Result<DeviceKind, String> {
    /// sun_path holds 108 bytes, one of them the zero at either end.
    const NAME_MAX: usize = 107;
    let allowed = || {
        format!(
            "packet, portable, unix:PATH, unix:@NAME or unix:fd:NUMBER (PATH and NAME have at most {NAME_MAX} bytes)"
        )
    };
    let fits = |name: &str| !name.is_empty() && name.len() <= NAME_MAX && !name.contains('\0');
    let kind = match text {
        "packet" => Some(DeviceKind::Packet),
        "portable" => Some(DeviceKind::Portable),
        _ => text.strip_prefix("unix:").and_then(|link| {
            let link = if let Some(number) = link.strip_prefix("fd:") {
                UnixLink::Descriptor(decimal(number).and_then(|number| i32::try_from(number).ok())?)
            } else if let Some(name) = link.strip_prefix('@') {
                UnixLink::Abstract(Some(name).filter(|name| fits(name))?.to_owned())
            } else {
                UnixLink::Path(PathBuf::from(Some(link).filter(|path| fits(path))?))
            };
            Some(DeviceKind::Unix(link))
        }),
    };
    kind.ok_or_else(allowed)
}

pub(super) fn loopback(text: &str) -> Result<Loopback, String> {
    match text {
        "kernel" => Ok(Loopback::Kernel),
        "stack" => Ok(Loopback::Stack),
        _ => Err("kernel or stack".to_owned()),
    }
}

pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "off, error, warn, info, debug or trace".to_owned())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') || text.ends_with('/') {
        return Err("the path of a file".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("0 or 1".to_owned()),
    }
}

/// A decimal number without a sign.
fn decimal(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
