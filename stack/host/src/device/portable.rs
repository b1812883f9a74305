//! Frames through pnet_datalink's channel: no offloads, one frame a call. Its channel is given a socket of ours, so that
//! the descriptor is private and known; waiting is done outside of it, since its own calls would wait.

use super::packet::{deaf_socket, enlarge_buffers, join_unicast, usable_interface, usable_mtu};
use super::{
    Device, DeviceError, DeviceSpec, DeviceStatistics, MAX_FRAME, OpenError, Scope, TransmitError, filter, offload,
};
use crate::sys::call;
use crate::sys::{Errno, Fd};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, MacAddr, NetworkInterface};
use remora_stack::frame::{DeviceCapabilities, Medium, RxChecksum, RxMeta, Transmit};
use std::time::Duration;

/// A channel of pnet_datalink.
pub struct PortableDevice {
    fd: Fd,
    name: String,
    index: i32,
    capabilities: DeviceCapabilities,
    mtu_wanted: Option<u16>,
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    statistics: DeviceStatistics,
}

impl std::fmt::Debug for PortableDevice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PortableDevice")
            .field("fd", &self.fd)
            .field("name", &self.name)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    let fallback = if error.kind() == std::io::ErrorKind::TimedOut { libc::EAGAIN } else { libc::EIO };
    Errno(error.raw_os_error().unwrap_or(fallback))
}

impl PortableDevice {
    /// Opens a channel on the interface.
    ///
    /// # Errors
    /// As [`OpenError`].
    pub fn open(spec: &DeviceSpec) -> Result<Self, OpenError> {
        let (interface, medium) = usable_interface(&spec.interface)?;
        if medium != Medium::Ethernet {
            return Err(OpenError::NotEthernet(spec.interface.clone()));
        }
        let fd = deaf_socket()?;
        enlarge_buffers(fd);
        let close = |error| {
            let _ = call::close(fd);
            error
        };
        let mtu = usable_mtu(&interface, spec.mtu);
        call::attach_filter(fd, &filter::program(medium, mtu, &Scope::of(&spec.addresses)))
            .map_err(|errno| close(OpenError::Failed { what: "attaching the filter", errno }))?;
        if let Some(mac) = spec.mac.filter(|mac| *mac != interface.mac) {
            join_unicast(fd, interface.index, mac)
                .map_err(|errno| close(OpenError::Failed { what: "joining with a link address of our own", errno }))?;
        }
        let described = NetworkInterface {
            name: spec.interface.clone(),
            description: String::new(),
            index: interface.index.unsigned_abs(),
            mac: Some(MacAddr::from(interface.mac)),
            ips: Vec::new(),
            flags: u32::from(interface.flags),
        };
        let config = Config {
            write_buffer_size: MAX_FRAME,
            read_buffer_size: MAX_FRAME,
            read_timeout: Some(Duration::ZERO),
            write_timeout: Some(Duration::ZERO),
            promiscuous: false,
            socket_fd: Some(fd.raw()),
            ..Config::default()
        };
        // On failure the channel closes the socket itself.
        let (sender, receiver) = match pnet_datalink::channel(&described, config) {
            Ok(Channel::Ethernet(sender, receiver)) => (sender, receiver),
            Ok(_) => return Err(OpenError::NotEthernet(spec.interface.clone())),
            Err(error) => {
                return Err(OpenError::Failed { what: "opening the channel", errno: errno_of(&error) });
            }
        };
        Ok(Self {
            fd,
            name: spec.interface.clone(),
            index: interface.index,
            capabilities: DeviceCapabilities { medium, mtu, gso_max: 0, checksum_tx: false },
            mtu_wanted: spec.mtu,
            sender,
            receiver,
            statistics: DeviceStatistics::default(),
        })
    }

    fn is_ready(&self, events: i16) -> bool {
        let mut set = [libc::pollfd { fd: self.fd.raw(), events, revents: 0 }];
        call::ppoll(&mut set, Some(Duration::ZERO), None) == Ok(1)
    }

    fn send(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let mut whole = frame.to_vec();
        if let Some(request) = frame.checksum {
            offload::complete(&mut whole, request);
        }
        match self.sender.send_to(&whole, None) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(TransmitError::from_errno(errno_of(&error))),
            None => Err(TransmitError::Failed(Errno(libc::EMSGSIZE))),
        }
    }
}

impl Device for PortableDevice {
    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        buffer.clear();
        // Asked here first: the channel makes an error of "nothing there", which costs an allocation.
        if !self.is_ready(libc::POLLIN) {
            return Ok(None);
        }
        match self.receiver.next() {
            Ok(frame) => {
                buffer.extend_from_slice(frame);
                self.statistics.count_receive(frame.len());
                // A neighbour on this host sends partial checksums, and the channel does not say so: the field does.
                let partial = offload::partial(frame, self.capabilities.medium).is_some();
                let checksum = if partial { RxChecksum::Partial } else { RxChecksum::Unverified };
                Ok(Some(RxMeta { checksum, ..RxMeta::default() }))
            }
            Err(error) => match errno_of(&error) {
                errno if errno.is_transient() => Ok(None),
                errno => Err(DeviceError::from_errno(errno)),
            },
        }
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let outcome = self.send(frame);
        self.statistics.count_transmit(frame.len(), outcome);
        outcome
    }

    fn fd(&self) -> Fd {
        self.fd
    }

    fn statistics(&mut self) -> DeviceStatistics {
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

    /// Nothing: the channel closes its socket when it is dropped, and closing twice could hit a stranger.
    fn close(&mut self) {}
}
