//! Frames through an AF_PACKET socket with PACKET_VNET_HDR (packet(7), linux/virtio_net.h): super-frames and partial
//! checksums both ways, gathered from the stack's own buffers. Filter first, then bind, so that nothing foreign is ever
//! queued. Where the kernel refuses the vnet header, plain frames go on without offloads.

use super::staged::Staged;
use super::{
    Device, DeviceError, DeviceSpec, DeviceStatistics, MAX_FRAME, OpenError, Scope, TransmitError, filter, limits,
    offload,
};
use crate::sys::call::{self, Interface};
use crate::sys::{Errno, Fd};
use remora_stack::frame::{DeviceCapabilities, MAX_PAYLOAD_SLICES, Medium, RxChecksum, RxMeta, Transmit};
use std::io::IoSlice;

/// Receive buffer asked for: the traffic of a few milliseconds of a 10 Gbit/s link while nobody is looking. The kernel
/// counts what a frame occupies, several times its length for small ones.
const RECEIVE_BUFFER: i32 = 32 << 20;

/// Send buffer asked for: enough for many super-frames on their way through a queueing discipline.
const SEND_BUFFER: i32 = 4 << 20;

/// Largest IP packet: its length field has 16 bits.
const MAX_PACKET: u32 = 65_535;

/// struct virtio_net_hdr.
const VNET_HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// struct tpacket_auxdata and bits of its status (linux/if_packet.h).
const STATUS_CHECKSUM_NOT_READY: u32 = 1 << 3;
const STATUS_VLAN_VALID: u32 = 1 << 4;
const STATUS_CHECKSUM_VALID: u32 = 1 << 7;

/// Room for one control message of 20 bytes.
const CONTROL_ROOM: usize = 64;

/// Frames that `receive` throws away in one call before it says that there is none, so that a flood of overlong ones
/// cannot keep the caller.
const MAX_DISCARDS: u32 = 64;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct PacketDevice {
    fd: Fd,
    name: String,
    index: i32,
    vnet: bool,
    capabilities: DeviceCapabilities,
    mtu_wanted: Option<u16>,
    statistics: DeviceStatistics,
    arrived: Arrived,
}

/// Frames that one system call has brought. Killed in the middle of a change, a process leaves frames lost, as the
/// network may lose them, and nothing worse.
#[derive(Debug)]
struct Arrived {
    batch: call::Batch<VNET_HEADER, CONTROL_ROOM>,
    /// The next to be handed out.
    next: usize,
    filled: usize,
    /// How many to ask for: one more than there were, so that the answer says whether more wait.
    wanted: usize,
    /// No more waited.
    drained: bool,
}

impl Arrived {
    /// Takes its memory at once: where frames are received, none may be asked for.
    fn new() -> Self {
        let batch = call::Batch::new(MOST_WANTED, MAX_FRAME);
        Self { batch, next: 0, filled: 0, wanted: LEAST_WANTED, drained: false }
    }
}

/// One frame, and one look for a second.
const LEAST_WANTED: usize = 2;

/// From here on a call costs little beside its frames.
const MOST_WANTED: usize = 8;

/// Bare IP of cellular modems (linux/if_arp.h).
const ARPHRD_RAWIP: u16 = 519;

/// The framing of a kind of hardware (ARPHRD_*).
pub(super) fn medium_of(hardware: u16) -> Option<Medium> {
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Medium::Ethernet),
        libc::ARPHRD_NONE | libc::ARPHRD_PPP | ARPHRD_RAWIP => Some(Medium::Ip),
        _ => None,
    }
}

/// Asks the kernel for the interface and sees whether it is of use.
pub(super) fn usable_interface(name: &str) -> Result<(Interface, Medium), OpenError> {
    let interface = call::interface(name).map_err(|errno| match errno.0 {
        libc::ENODEV | libc::ENXIO => OpenError::NoInterface(name.to_owned()),
        _ => OpenError::Failed { what: "asking for the interface", errno },
    })?;
    if !interface.is_up() {
        return Err(OpenError::Down(name.to_owned()));
    }
    let medium =
        medium_of(interface.hardware).ok_or_else(|| OpenError::UnknownHardware(name.to_owned(), interface.hardware))?;
    Ok((interface, medium))
}

/// A packet socket that receives nothing yet.
pub(super) fn deaf_socket() -> Result<Fd, OpenError> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    call::socket(libc::AF_PACKET, kind, 0)
        .map_err(|errno| match errno.0 {
            libc::EPERM | libc::EACCES => OpenError::NoRight,
            _ => OpenError::Failed { what: "opening a packet socket", errno },
        })
        .and_then(|fd| {
            call::raise_high(fd, call::private_floor()).map_err(OpenError::failed("moving the packet socket"))
        })
}

/// struct sockaddr_ll.
pub(super) fn link_address(index: i32, protocol: u16) -> [u8; 20] {
    let mut address = [0u8; 20];
    address[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&protocol.to_be_bytes());
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    address
}

/// Lets the interface receive frames to a link address that is not its own (PACKET_MR_UNICAST).
pub(super) fn join_unicast(fd: Fd, index: i32, mac: [u8; 6]) -> Result<(), Errno> {
    let mut request = [0u8; 16];
    request[..4].copy_from_slice(&index.to_ne_bytes());
    request[4..6].copy_from_slice(&(libc::PACKET_MR_UNICAST as u16).to_ne_bytes());
    request[6..8].copy_from_slice(&6u16.to_ne_bytes());
    request[8..14].copy_from_slice(&mac);
    call::set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Large buffers, by right where we have it, else as large as the system allows.
pub(super) fn enlarge_buffers(fd: Fd) {
    for (forced, asked, size) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)]
    {
        if call::set_option_int(fd, libc::SOL_SOCKET, forced, size).is_err() {
            // Refused or cut down, the socket works all the same.
            let _ = call::set_option_int(fd, libc::SOL_SOCKET, asked, size);
        }
    }
}

/// The MTU to use: the interface's, or less if so wanted.
pub(super) fn usable_mtu(interface: &Interface, wanted: Option<u16>) -> u16 {
    let own = u16::try_from(interface.mtu).unwrap_or(u16::MAX);
    wanted.map_or(own, |wanted| wanted.min(own))
}

impl PacketDevice {
    /// Opens a packet socket on the interface.
    ///
    /// # Errors
    /// As [`OpenError`].
    pub fn open(spec: &DeviceSpec) -> Result<Self, OpenError> {
        let (interface, medium) = usable_interface(&spec.interface)?;
        let fd = deaf_socket()?;
        Self::set_up(fd, spec, &interface, medium).inspect_err(|_| {
            let _ = call::close(fd);
        })
    }

    fn set_up(fd: Fd, spec: &DeviceSpec, interface: &Interface, medium: Medium) -> Result<Self, OpenError> {
        let vnet = call::set_option_int(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1).is_ok();
        call::set_option_int(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)
            .map_err(OpenError::failed("asking for auxiliary data"))?;
        enlarge_buffers(fd);
        let mtu = usable_mtu(interface, spec.mtu);
        call::attach_filter(fd, &filter::program(medium, mtu, &Scope::of(&spec.addresses)))
            .map_err(OpenError::failed("attaching the filter"))?;
        // All protocols, not IPv4 and ARP alone: only then does the kernel hand over copies of what others here send.
        call::bind(fd, &link_address(interface.index, libc::ETH_P_ALL as u16)).map_err(|errno| match errno.0 {
            libc::ENODEV | libc::ENXIO => OpenError::NoInterface(spec.interface.clone()),
            libc::ENETDOWN => OpenError::Down(spec.interface.clone()),
            _ => OpenError::Failed { what: "binding to the interface", errno },
        })?;
        if let Some(mac) = spec.mac.filter(|mac| medium == Medium::Ethernet && *mac != interface.mac) {
            join_unicast(fd, interface.index, mac)
                .map_err(OpenError::failed("joining with a link address of our own"))?;
        }
        let capabilities = DeviceCapabilities {
            medium,
            mtu,
            // Without the hardware's help the kernel segments and sums in software, late, which still pays.
            gso_max: if vnet { limits::gso_max(interface.index).unwrap_or(MAX_PACKET).min(MAX_PACKET) } else { 0 },
            checksum_tx: vnet,
        };
        Ok(Self {
            fd,
            name: spec.interface.clone(),
            index: interface.index,
            vnet,
            capabilities,
            mtu_wanted: spec.mtu,
            statistics: DeviceStatistics::default(),
            arrived: Arrived::new(),
        })
    }

    /// Asks the kernel for frames; says whether there are any.
    fn look(&mut self) -> Result<bool, DeviceError> {
        let arrived = &mut self.arrived;
        (arrived.filled, arrived.next) = (0, 0);
        let received = arrived.batch.receive(self.fd, arrived.wanted, self.vnet, libc::MSG_DONTWAIT);
        let (filled, drained) = match received {
            Ok(received) => received,
            Err(errno) if errno.is_transient() => (0, true),
            Err(errno) => return Err(DeviceError::from_errno(errno)),
        };
        arrived.drained = drained;
        arrived.wanted = if filled < arrived.wanted { filled + 1 } else { arrived.wanted * 2 };
        arrived.wanted = arrived.wanted.clamp(LEAST_WANTED, MOST_WANTED);
        arrived.filled = filled;
        Ok(filled > 0)
    }

    /// The virtio_net_hdr of a frame to send.
    fn vnet_header(&self, frame: &Transmit<'_>) -> [u8; VNET_HEADER] {
        let mut header = [0u8; VNET_HEADER];
        if let Some(request) = frame.checksum {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&request.start.to_ne_bytes());
            header[8..10].copy_from_slice(&request.offset.to_ne_bytes());
        }
        let payload = frame.len() - frame.header.len();
        if frame.gso_size != 0 && payload > usize::from(frame.gso_size) {
            let medium = self.capabilities.medium;
            header[1] = if frame.checksum.is_some_and(|request| request.offset == 6) {
                GSO_UDP_L4
            } else if offload::is_ipv6(frame.header, medium) {
                GSO_TCPV6
            } else {
                GSO_TCPV4
            };
            let length = u16::try_from(frame.header.len()).unwrap_or(u16::MAX);
            header[2..4].copy_from_slice(&length.to_ne_bytes());
            header[4..6].copy_from_slice(&frame.gso_size.to_ne_bytes());
        }
        header
    }

    fn send(&self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let header = self.vnet_header(frame);
        let mut whole = Vec::new();
        let mut parts = [IoSlice::new(&[]); MAX_PAYLOAD_SLICES + 2];
        let mut count = 0;
        let mut add = |bytes| {
            if let Some(slot) = parts.get_mut(count) {
                *slot = IoSlice::new(bytes);
                count += 1;
            }
        };
        if self.vnet {
            add(&header);
        } else if let Some(request) = frame.checksum {
            // The stack was told that we do not do this; done all the same rather than sent wrong.
            whole = frame.to_vec();
            offload::complete(&mut whole, request);
        }
        if whole.is_empty() {
            add(frame.header);
            frame.payload.into_iter().filter(|slice| !slice.is_empty()).for_each(&mut add);
        } else {
            add(&whole);
        }
        // Bare IP has no type field that the kernel could read the protocol from.
        let protocol = if offload::is_ipv6(frame.header, Medium::Ip) { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
        let target = link_address(self.index, protocol as u16);
        let address = (self.capabilities.medium == Medium::Ip).then_some(target.as_slice());
        call::send_message(self.fd, &parts[..count], address, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .map(drop)
            .map_err(TransmitError::from_errno)
    }
}

/// What PACKET_AUXDATA says: the status bits and the stripped tag.
fn auxiliary(control: &[u8]) -> (u32, Option<u16>) {
    let data = call::control_messages(control)
        .find(|message| (message.level, message.kind) == (libc::SOL_PACKET, libc::PACKET_AUXDATA))
        .map_or(&[][..], |message| message.data);
    let status = data.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let tag = data.get(16..18).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_ne_bytes(*bytes));
    (status, tag.filter(|_| status & STATUS_VLAN_VALID != 0))
}

/// Puts together what header and auxiliary data say of a received frame.
fn meta_of(header: Option<[u8; VNET_HEADER]>, control: &[u8]) -> RxMeta {
    let (status, vlan) = auxiliary(control);
    let partial_or_valid = |partial, valid| match (partial, valid) {
        (true, _) => RxChecksum::Partial,
        (false, true) => RxChecksum::Valid,
        (false, false) => RxChecksum::Unverified,
    };
    let Some([flags, gso_type, _, _, size_low, size_high, ..]) = header else {
        let checksum = partial_or_valid(status & STATUS_CHECKSUM_NOT_READY != 0, status & STATUS_CHECKSUM_VALID != 0);
        return RxMeta { checksum, gso_size: 0, vlan };
    };
    let gso_size = if gso_type == 0 { 0 } else { u16::from_ne_bytes([size_low, size_high]) };
    RxMeta { checksum: partial_or_valid(flags & NEEDS_CHECKSUM != 0, flags & DATA_VALID != 0), gso_size, vlan }
}

impl Device for PacketDevice {
    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        for _ in 0..MAX_DISCARDS {
            if self.arrived.next >= self.arrived.filled && !self.look()? {
                break;
            }
            let Some(slot) = self.arrived.batch.slot(self.arrived.next) else { break };
            self.arrived.next += 1;
            if slot.received.flags & libc::MSG_TRUNC != 0 {
                self.statistics.rx_truncated += 1;
                continue;
            }
            std::mem::swap(buffer, &mut slot.buffer);
            self.statistics.count_receive(buffer.len());
            let told = slot.control.get(..slot.received.control).unwrap_or(&[]);
            return Ok(Some(meta_of(self.vnet.then_some(slot.prefix), told)));
        }
        buffer.clear();
        Ok(None)
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let outcome = self.send(frame);
        self.statistics.count_transmit(frame.len(), outcome);
        outcome
    }

    fn stage(&mut self, frame: &Transmit<'_>, staged: &mut Staged) -> bool {
        if !self.vnet || self.capabilities.medium == Medium::Ip {
            return false;
        }
        let header = self.vnet_header(frame);
        let mut parts: [&[u8]; MAX_PAYLOAD_SLICES + 2] = [&[]; MAX_PAYLOAD_SLICES + 2];
        let all = [&header[..], frame.header].into_iter().chain(frame.payload);
        parts.iter_mut().zip(all).for_each(|(place, part)| *place = part);
        let taken = staged.push(&parts);
        if taken {
            self.statistics.count_transmit(frame.len(), Ok(()));
        }
        taken
    }

    fn fd(&self) -> Fd {
        self.fd
    }

    fn has_frames(&self) -> bool {
        self.arrived.next < self.arrived.filled
    }

    fn is_drained(&self) -> bool {
        self.arrived.drained && !self.has_frames()
    }

    fn statistics(&mut self) -> DeviceStatistics {
        // struct tpacket_stats: frames, drops. Reading sets the kernel's counts to zero.
        let mut counts = [0u8; 8];
        if call::option(self.fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut counts).is_ok() {
            let [_, _, _, _, drops @ ..] = counts;
            self.statistics.rx_dropped += u64::from(u32::from_ne_bytes(drops));
        }
        self.statistics
    }

    fn set_scope(&mut self, scope: &Scope) -> Result<(), DeviceError> {
        let DeviceCapabilities { medium, mtu, .. } = self.capabilities;
        call::attach_filter(self.fd, &filter::program(medium, mtu, scope)).map_err(DeviceError::Failed)
    }

    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError> {
        // A member may have gone to another network namespace.
        let interface = call::interface_beside(self.fd, &self.name).map_err(|_| DeviceError::Gone)?;
        if interface.index != self.index {
            return Err(DeviceError::Gone);
        }
        self.capabilities.mtu = usable_mtu(&interface, self.mtu_wanted);
        if interface.is_up() { Ok(self.capabilities) } else { Err(DeviceError::Down) }
    }

    fn close(&mut self) {
        let _ = call::close(std::mem::replace(&mut self.fd, Fd::NONE));
    }
}

#[cfg(test)]
mod tests;
