//! Devices: what carries frames between the stack and a link. `open` makes one from its description. Everything about
//! protocols is left to the stack, and waiting to the driver.
//!
//! A device lives in the family's shared arena and is used by one thread at a time, under the family's lock, from any
//! member: it holds descriptor numbers (the same in all members, being opened before the fork) and plain data, no locks
//! and nothing of a thread. It is closed explicitly, since a member's end is not the family's.

use self::staged::Staged;
use crate::sys::{Errno, Fd};
use remora_stack::frame::{DeviceCapabilities, RxMeta, Transmit};
use std::fmt;
use std::net::Ipv4Addr;

pub mod fault;
mod filter;
mod limits;
pub mod offload;
pub mod packet;
pub mod pcap;
pub mod portable;
pub mod siblings;
pub mod staged;
#[cfg(test)]
pub(crate) mod testlab;
pub mod unix;

/// Largest frame that any device hands over: a super-frame of 64 KiB with its link header and some room.
pub const MAX_FRAME: usize = 65_536 + 64;

/// Why nothing could be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The link is down; it may come up again.
    Down,
    /// The interface or the peer is gone for good; the device has to be opened anew.
    Gone,
    /// Something else.
    Failed(Errno),
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitError {
    /// The queue of the interface is full (ENOBUFS): local congestion, nothing is wrong.
    NoRoom,
    /// Not now (EAGAIN): what was sent before has not left yet.
    Busy,
    /// The link is down (ENETDOWN, ENXIO): as on a cable without a link.
    Down,
    /// Something else.
    Failed(Errno),
}

impl TransmitError {
    /// What an error of a send means.
    #[must_use]
    pub const fn from_errno(errno: Errno) -> Self {
        match errno.0 {
            libc::ENOBUFS | libc::ENOMEM => Self::NoRoom,
            libc::EAGAIN | libc::EINTR => Self::Busy,
            libc::ENETDOWN | libc::ENXIO | libc::ENODEV => Self::Down,
            _ => Self::Failed(errno),
        }
    }
}

impl DeviceError {
    /// What an error of a receive means.
    #[must_use]
    pub const fn from_errno(errno: Errno) -> Self {
        match errno.0 {
            libc::ENETDOWN => Self::Down,
            libc::ENXIO | libc::ENODEV | libc::EBADF => Self::Gone,
            _ => Self::Failed(errno),
        }
    }
}

/// What a device has counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatistics {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that the kernel dropped for lack of room in our queue.
    pub rx_dropped: u64,
    /// Frames dropped because they were longer than any frame we know of.
    pub rx_truncated: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Sends refused for lack of room.
    pub tx_no_room: u64,
    /// Frames dropped because there was no link.
    pub tx_no_link: u64,
    /// Sends that failed otherwise.
    pub tx_failed: u64,
}

impl DeviceStatistics {
    /// Counts one send by its outcome.
    pub(crate) fn count_transmit(&mut self, length: usize, outcome: Result<(), TransmitError>) {
        match outcome {
            Ok(()) => {
                self.tx_frames += 1;
                self.tx_bytes += length as u64;
            }
            Err(TransmitError::NoRoom | TransmitError::Busy) => self.tx_no_room += 1,
            Err(TransmitError::Down) => self.tx_no_link += 1,
            Err(TransmitError::Failed(_)) => self.tx_failed += 1,
        }
    }

    /// Counts one received frame.
    pub(crate) fn count_receive(&mut self, length: usize) {
        self.rx_frames += 1;
        self.rx_bytes += length as u64;
    }
}

/// An address of the stack and the length of its network's prefix, for filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length in bits, 0 to 32.
    pub prefix: u8,
}

impl LocalAddress {
    /// The broadcast address of the network; `None` where there is none (/31 and /32, RFC 3021).
    #[must_use]
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        let host_bits = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
        (self.prefix < 31).then(|| Ipv4Addr::from_bits(self.address.to_bits() | host_bits))
    }
}

/// For which local ports of our addresses a device takes frames in. ICMP and fragments come in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// All of them, and all protocols.
    #[default]
    All,
    /// Some of them.
    Only {
        /// First and last port, of TCP and UDP, in order and apart from each other.
        ranges: Vec<(u16, u16)>,
        /// Protocol number and port.
        singles: Vec<(u8, u16)>,
        /// Other protocols, too, and of other ports what a single packet can carry: super-frames there belong to
        /// another stack's connection, and nothing is to be answered to them.
        others: bool,
    },
}

/// What is the stack's: all else may be kept away from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Its addresses.
    pub addresses: Vec<LocalAddress>,
    /// Its ports on them.
    pub ports: Ports,
}

impl Scope {
    /// These addresses with all ports.
    #[must_use]
    pub fn of(addresses: &[LocalAddress]) -> Self {
        Self { addresses: addresses.to_vec(), ports: Ports::All }
    }
}

/// What carries frames.
pub trait Device: fmt::Debug {
    /// What the device can do.
    fn capabilities(&self) -> DeviceCapabilities;

    /// Takes the next frame into `buffer`, whose length then is the frame's; `None` when none waits. Never blocks.
    ///
    /// # Errors
    /// As [`DeviceError`].
    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError>;

    /// Sends a frame. Never blocks.
    ///
    /// # Errors
    /// As [`TransmitError`].
    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError>;

    /// Copies a short frame to be sent later through `fd`, without the device; says whether it did.
    fn stage(&mut self, _frame: &Transmit<'_>, _staged: &mut Staged) -> bool {
        false
    }

    /// Readable when a frame waits (or the link's state has changed: `receive` tells). Stays the same for the life of the
    /// device.
    fn fd(&self) -> Fd;

    /// Whether frames wait in the device itself, of which `fd` does not tell.
    fn has_frames(&self) -> bool {
        false
    }

    /// Whether the last look has shown that nothing more waited then, so that another at once is for nothing.
    fn is_drained(&self) -> bool {
        false
    }

    /// The counts so far.
    fn statistics(&mut self) -> DeviceStatistics;

    /// Tells the device what is the stack's from now on, so that it may keep other frames away.
    ///
    /// # Errors
    /// When the filter is refused; then the former one stays.
    fn set_scope(&mut self, scope: &Scope) -> Result<(), DeviceError>;

    /// Looks at the interface again (its MTU may have changed, its link come up).
    ///
    /// # Errors
    /// `Down` or `Gone`.
    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError>;

    /// Closes the descriptors in this process.
    fn close(&mut self);
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn capabilities(&self) -> DeviceCapabilities {
        (**self).capabilities()
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        (**self).receive(buffer)
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        (**self).transmit(frame)
    }

    fn stage(&mut self, frame: &Transmit<'_>, staged: &mut Staged) -> bool {
        (**self).stage(frame, staged)
    }

    fn fd(&self) -> Fd {
        (**self).fd()
    }

    fn has_frames(&self) -> bool {
        (**self).has_frames()
    }

    fn is_drained(&self) -> bool {
        (**self).is_drained()
    }

    fn statistics(&mut self) -> DeviceStatistics {
        (**self).statistics()
    }

    fn set_scope(&mut self, scope: &Scope) -> Result<(), DeviceError> {
        (**self).set_scope(scope)
    }

    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError> {
        (**self).refresh()
    }

    fn close(&mut self) {
        (**self).close();
    }
}

/// The back ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// AF_PACKET with offloads.
    #[default]
    Packet,
    /// pnet_datalink, without offloads.
    Portable,
    /// Frames over an AF_UNIX socket.
    Unix,
}

/// What to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Which back end.
    pub kind: DeviceKind,
    /// The interface's name; for `Unix` the link: `fd:N`, `unix:/path` or `unix:@name`.
    pub interface: String,
    /// A link address of our own; `None` for the interface's.
    pub mac: Option<[u8; 6]>,
    /// The stack's addresses on it.
    pub addresses: Vec<LocalAddress>,
    /// A smaller MTU than the interface's; for `Unix` the MTU (1500 unless given).
    pub mtu: Option<u16>,
}

/// Why a device was not opened; `Display` says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no such interface in this network namespace.
    NoInterface(String),
    /// CAP_NET_RAW is missing.
    NoRight,
    /// The interface is administratively down.
    Down(String),
    /// Neither Ethernet nor bare IP.
    UnknownHardware(String, u16),
    /// The back end needs an Ethernet interface.
    NotEthernet(String),
    /// Not of the form `fd:N`, `unix:/path` or `unix:@name`, or no socket that keeps frames apart.
    BadLink(String),
    /// Two ends are on the link already.
    LinkTaken(String),
    /// A system call failed.
    Failed {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

impl OpenError {
    fn failed(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Failed { what, errno }
    }

    /// Whether trying again later may help without anyone changing the settings.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::NoInterface(_) | Self::Down(_) | Self::LinkTaken(_) | Self::Failed { .. })
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface(name) => write!(
                formatter,
                "there is no interface {name:?} in this network namespace; `ip link` lists those there are"
            ),
            Self::NoRight => write!(
                formatter,
                "no right to open a packet socket; run as root, give the program CAP_NET_RAW, or use the unix device"
            ),
            Self::Down(name) => {
                write!(formatter, "interface {name:?} is down; `ip link set {name} up` brings it up")
            }
            Self::UnknownHardware(name, hardware) => write!(
                formatter,
                "interface {name:?} is neither Ethernet nor bare IP (hardware type {hardware}); choose another"
            ),
            Self::NotEthernet(name) => {
                write!(
                    formatter,
                    "interface {name:?} is not Ethernet; the packet device carries it, the portable one not"
                )
            }
            Self::BadLink(link) => write!(
                formatter,
                "{link:?} is no link; use fd:N (an open AF_UNIX seqpacket or datagram socket), unix:/path or unix:@name"
            ),
            Self::LinkTaken(link) => {
                write!(formatter, "link {link:?} has two ends already; choose another name")
            }
            Self::Failed { what, errno } => write!(formatter, "{what} failed: {errno}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens the device that `spec` describes.
///
/// # Errors
/// As [`OpenError`].
pub fn open(spec: &DeviceSpec) -> Result<Box<dyn Device>, OpenError> {
    Ok(match spec.kind {
        DeviceKind::Packet => Box::new(packet::PacketDevice::open(spec)?),
        DeviceKind::Portable => Box::new(portable::PortableDevice::open(spec)?),
        DeviceKind::Unix => Box::new(unix::UnixDevice::open(spec)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_addresses() {
        let of = |address: [u8; 4], prefix| LocalAddress { address: address.into(), prefix }.broadcast();
        assert_eq!(of([10, 1, 2, 3], 24), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert_eq!(of([10, 1, 2, 3], 0), Some(Ipv4Addr::BROADCAST));
        assert_eq!(of([10, 1, 2, 3], 31), None);
        assert_eq!(of([10, 1, 2, 3], 32), None);
        assert_eq!(of([10, 1, 2, 3], 255), None);
    }

    #[test]
    fn missing_interface_and_bad_links_are_named() {
        for kind in [DeviceKind::Packet, DeviceKind::Portable] {
            let spec = DeviceSpec { kind, interface: "no-such-if0".to_owned(), ..DeviceSpec::default() };
            let error = open(&spec).expect_err("there is no such interface");
            assert_eq!(error, OpenError::NoInterface("no-such-if0".to_owned()));
            assert!(error.to_string().contains("ip link"));
        }
        for link in ["", "fd:", "fd:x", "fd:-1", "fd:1000000", "unix:", "unix:@", "eth0"] {
            let spec = DeviceSpec { kind: DeviceKind::Unix, interface: link.to_owned(), ..DeviceSpec::default() };
            assert_eq!(open(&spec).expect_err("no link"), OpenError::BadLink(link.to_owned()));
        }
    }
}
