//! What lets the families that share an address on one interface reach each other: packets to 127.0.0.0/8 and to the
//! address itself, which never touch the wire, and copies of what goes to groups and to everybody. They cross the kernel's loopback interface in frames of a private type
//! that the kernel's own stack has no use for. A filter passes those for this address and for the family's ports.
//! Everybody with the right to open a packet socket here can send such frames: agreement, not protection.

use super::{MAX_FRAME, Ports, TransmitError, filter, packet};
use crate::sys::{Errno, Fd, call};
use remora_stack::frame::Transmit;
use std::io::IoSlice;

/// IEEE 802 local experimental EtherType 2: what nobody speaks on a loopback interface.
const ETHERTYPE: u16 = 0x88b6;

/// Destination and source address, type.
pub const HEADER: usize = 14;

/// struct virtio_net_hdr; it has the kernel take long packets in pieces.
const VNET_HEADER: usize = 10;

/// Bytes of a frame for which memory in one piece is no burden: link, IP and TCP header with all options.
const LINEAR: u16 = 14 + 60 + 60;

const LOOPBACK: &str = "lo";

/// The way to the families that have our address.
#[derive(Debug)]
pub struct SiblingLink {
    fd: Fd,
    index: i32,
    /// Stands for interface and address: the destination of all frames.
    station: [u8; 6],
    /// Begins the source address of our own frames, which the kernel hands to us as well.
    sender: [u8; 4],
    vnet: bool,
}

/// A locally administered group of our own for all families on an interface and address (FNV-1a).
fn station_of(place: &str) -> [u8; 6] {
    let hash = place
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
    [(a | 2) & !1, b, c, d, e, f]
}

impl SiblingLink {
    /// Opens the way for the families at a place: an interface and an address on it. `random` tells this one from them.
    ///
    /// # Errors
    /// The kernel's; then the families of this address cannot reach each other.
    pub fn open(place: &str, random: u32) -> Result<Self, Errno> {
        let interface = call::interface(LOOPBACK)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = call::raise_high(call::socket(libc::AF_PACKET, kind, 0)?, call::private_floor())?;
        let vnet = call::set_option_int(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1).is_ok();
        packet::enlarge_buffers(fd);
        let [_, a, b, c] = random.to_be_bytes();
        let link = Self { fd, index: interface.index, station: station_of(place), sender: [2, a, b, c], vnet };
        let ready = call::attach_filter(fd, &filter::siblings(link.station, link.sender, &Ports::All))
            .and_then(|()| call::bind(fd, &packet::link_address(link.index, ETHERTYPE)));
        match ready {
            Ok(()) => Ok(link),
            Err(errno) => {
                let _ = call::close(fd);
                Err(errno)
            }
        }
    }

    /// Readable when a frame waits.
    #[must_use]
    pub const fn fd(&self) -> Fd {
        self.fd
    }

    /// Takes the next frame: its packet begins at [`HEADER`], and its segment size is returned. `None` when none waits.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> Option<u16> {
        let mut header = [0u8; VNET_HEADER];
        let prefix = if self.vnet { &mut header[..] } else { &mut [] };
        call::receive_into(self.fd, prefix, buffer, MAX_FRAME, &mut [], libc::MSG_DONTWAIT).ok()?;
        // The source address carries what the frame has no other place for.
        Some(buffer.get(10..12).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes)))
    }

    /// Sends a packet without a link header.
    ///
    /// # Errors
    /// As [`TransmitError`].
    pub fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let mut vnet = [0u8; VNET_HEADER];
        let length = HEADER + frame.len();
        let linear = LINEAR.min(u16::try_from(length).unwrap_or(LINEAR));
        vnet[2..4].copy_from_slice(&linear.to_ne_bytes());
        let mut header = [0u8; HEADER];
        header[..6].copy_from_slice(&self.station);
        header[6..10].copy_from_slice(&self.sender);
        header[10..12].copy_from_slice(&frame.gso_size.to_be_bytes());
        header[12..].copy_from_slice(&ETHERTYPE.to_be_bytes());
        let mut parts = vec![IoSlice::new(&header), IoSlice::new(frame.header)];
        if self.vnet {
            parts.insert(0, IoSlice::new(&vnet));
        }
        parts.extend(frame.payload.iter().filter(|slice| !slice.is_empty()).map(|slice| IoSlice::new(slice)));
        call::send_message(self.fd, &parts, None, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .map(drop)
            .map_err(TransmitError::from_errno)
    }

    /// Tells which ports are the family's.
    ///
    /// # Errors
    /// When the filter is refused; then the former one stays.
    pub fn set_ports(&mut self, ports: &Ports) -> Result<(), Errno> {
        call::attach_filter(self.fd, &filter::siblings(self.station, self.sender, ports))
    }

    /// Closes the descriptor in this process.
    pub fn close(&mut self) {
        let _ = call::close(std::mem::replace(&mut self.fd, Fd::NONE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_one_place_have_one_station_and_no_group() {
        assert_eq!(station_of("@remora/eth0/10.0.0.1"), station_of("@remora/eth0/10.0.0.1"));
        assert_ne!(station_of("@remora/eth0/10.0.0.1"), station_of("@remora/eth0/10.0.0.2"));
        assert_eq!(station_of("x")[0] & 3, 2);
    }
}
