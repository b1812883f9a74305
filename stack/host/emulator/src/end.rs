//! One end of the link: a packet socket on an interface, that hears all frames that arrive there (and none of those that
//! leave), with the kernel's time of their arrival and its account of unfinished work (PACKET_VNET_HDR). A VLAN tag that the
//! kernel has taken out is put back.

use crate::model::{Frame, Outcome};
use crate::packet;
use crate::segment::{Offload, VNET_HEADER};
use crate::statistics::EndCounts;
use remora_host::device::MAX_FRAME;
use remora_host::sys::{Errno, Fd, call};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::time::Duration;

/// Receive buffer asked for: what a fast sender has on its way while the emulator is not scheduled.
const RECEIVE_BUFFER: i32 = 64 << 20;

/// Send buffer asked for: several super-frames.
const SEND_BUFFER: i32 = 4 << 20;

/// Room for the control messages: a timestamp and PACKET_AUXDATA, with their headers.
const CONTROL_ROOM: usize = 128;

/// linux/if_packet.h.
const STATUS_VLAN_VALID: u32 = 1 << 4;
const STATUS_TAG_TYPE_VALID: u32 = 1 << 6;
/// Customer tag (802.1Q), where the kernel does not say which.
const TAG_TYPE: u16 = 0x8100;

/// The kernel's time of arrival is believed up to this age. It is wall-clock time: when that is set between arrival and
/// reading, the age is nonsense, and this bounds the harm to one packet.
const OLDEST: Duration = Duration::from_millis(100);

/// What the kernel told of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// How long ago it arrived.
    pub age: Duration,
    /// Unfinished work.
    pub offload: Offload,
}

/// What a receive brought.
#[derive(Clone, Copy, Debug)]
pub enum Received {
    /// A frame is in the buffer.
    Frame(Arrival),
    /// Something was there, but no frame; there may be more.
    Nothing,
    /// No frame waits.
    Empty,
}

/// One end.
#[derive(Debug)]
pub struct End {
    fd: Fd,
    counts: EndCounts,
}

/// Does `work` in the named network namespace (`ip netns`), and comes back.
fn within<T>(namespace: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let open = |path: &str| File::open(path).map_err(|error| format!("{path}: {error}"));
    let own = open("/proc/thread-self/ns/net")?;
    let other = open(&format!("/run/netns/{namespace}"))?;
    let enter = |target: &File| {
        move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| format!("entering network namespace {namespace}: {error}"))
    };
    enter(&other)?;
    let result = work();
    enter(&own)?;
    result
}

/// struct sockaddr_ll.
fn link_address(index: i32) -> [u8; 20] {
    let mut address = [0; 20];
    address[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&(libc::ETH_P_ALL as u16).to_be_bytes());
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    address
}

/// struct packet_mreq for promiscuous mode.
fn promiscuous(index: i32) -> [u8; 16] {
    let mut request = [0; 16];
    request[..4].copy_from_slice(&index.to_ne_bytes());
    request[4..6].copy_from_slice(&(libc::PACKET_MR_PROMISC as u16).to_ne_bytes());
    request
}

impl End {
    /// Opens the interface, in the named network namespace or in ours.
    ///
    /// # Errors
    /// A line that says what is wrong and what to do.
    pub fn open(name: &str, namespace: Option<&str>) -> Result<Self, String> {
        match namespace {
            Some(namespace) => within(namespace, || Self::open_here(name)),
            None => Self::open_here(name),
        }
    }

    fn open_here(name: &str) -> Result<Self, String> {
        let interface = call::interface(name).map_err(|errno| match errno.0 {
            libc::ENODEV | libc::ENXIO => {
                format!("there is no interface {name:?} here; `ip link` lists those there are")
            }
            _ => format!("interface {name:?}: {errno}"),
        })?;
        if !matches!(interface.hardware, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) {
            return Err(format!("interface {name:?} is not Ethernet; use a veth, a tap or a network card"));
        }
        if !interface.is_up() {
            return Err(format!("interface {name:?} is down; `ip link set {name} up` brings it up"));
        }
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = call::socket(libc::AF_PACKET, kind, 0).map_err(|errno| match errno.0 {
            libc::EPERM | libc::EACCES => {
                "no right to open a packet socket; run as root, in a user namespace (unshare -Urn), or with CAP_NET_RAW"
                    .to_owned()
            }
            _ => format!("packet socket: {errno}"),
        })?;
        Self::set_up(fd, interface.index).map_err(|(what, errno)| {
            let _ = call::close(fd);
            format!("interface {name:?}: {what}: {errno}")
        })
    }

    fn set_up(fd: Fd, index: i32) -> Result<Self, (&'static str, Errno)> {
        let option =
            |what, level, name, value| call::set_option_int(fd, level, name, value).map_err(|errno| (what, errno));
        option("unfinished work (PACKET_VNET_HDR)", libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        option("auxiliary data (PACKET_AUXDATA)", libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        // What the other direction sends here must not come back as an arrival.
        option("PACKET_IGNORE_OUTGOING", libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        option("time of arrival (SO_TIMESTAMPNS)", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        for (forced, asked, size) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER),
        ] {
            if call::set_option_int(fd, libc::SOL_SOCKET, forced, size).is_err() {
                // Cut down by the system's limit, the socket works all the same; drops are counted.
                let _ = call::set_option_int(fd, libc::SOL_SOCKET, asked, size);
            }
        }
        call::set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous(index))
            .map_err(|errno| ("promiscuous mode", errno))?;
        call::bind(fd, &link_address(index)).map_err(|errno| ("binding", errno))?;
        Ok(Self { fd, counts: EndCounts::default() })
    }

    /// Readable when a frame waits.
    #[must_use]
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// Takes the next frame.
    pub fn receive(&mut self, buffer: &mut Vec<u8>) -> Received {
        let mut header = [0; VNET_HEADER];
        let mut control = [0; CONTROL_ROOM];
        let flags = libc::MSG_DONTWAIT;
        let received = match call::receive_into(self.fd, &mut header, buffer, MAX_FRAME, &mut control, flags) {
            Ok(received) => received,
            Err(errno) if errno.is_transient() => return Received::Empty,
            Err(_) => {
                // ENETDOWN once when the interface goes down; EINVAL for a super-frame that has no virtio name.
                self.counts.receive_errors += 1;
                return Received::Nothing;
            }
        };
        if received.flags & libc::MSG_TRUNC != 0 {
            self.counts.truncated += 1;
            return Received::Nothing;
        }
        let mut offload = Offload::parse(header);
        let mut age = Duration::ZERO;
        for message in call::control_messages(control.get(..received.control).unwrap_or(&[])) {
            match (message.level, message.kind) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let stamp = since_1970(message.data);
                    age = stamp.map_or(age, |stamp| call::wall_clock().saturating_sub(stamp).min(OLDEST));
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => put_tag_back(message.data, buffer, &mut offload),
                _ => {}
            }
        }
        Received::Frame(Arrival { age, offload })
    }

    /// Sends a frame.
    #[must_use]
    pub fn send(&self, frame: &Frame) -> Outcome {
        let header = frame.offload.to_bytes();
        let parts = [IoSlice::new(&header), IoSlice::new(&frame.bytes)];
        match call::send_message(self.fd, &parts, None, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(_) => Outcome::Delivered,
            Err(Errno(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM | libc::EINTR)) => Outcome::NoRoom,
            Err(Errno(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)) => Outcome::NoLink,
            Err(_) => Outcome::Failed,
        }
    }

    /// The counts so far.
    pub fn counts(&mut self) -> EndCounts {
        // struct tpacket_stats: frames, drops. Reading sets the kernel's counts to zero.
        let mut told = [0; 8];
        if call::option(self.fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut told).is_ok() {
            let [_, _, _, _, drops @ ..] = told;
            self.counts.kernel_dropped += u64::from(u32::from_ne_bytes(drops));
        }
        self.counts
    }
}

/// struct timespec.
fn since_1970(data: &[u8]) -> Option<Duration> {
    let seconds = i64::from_ne_bytes(*data.first_chunk()?);
    let nanos = i64::from_ne_bytes(*data.get(8..)?.first_chunk()?);
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?))
}

/// Undoes what the kernel does to tagged frames: the tag goes back behind the addresses.
fn put_tag_back(auxiliary: &[u8], frame: &mut Vec<u8>, offload: &mut Offload) {
    // struct tpacket_auxdata: status, three lengths and places, tag control information at 16, tag type at 18.
    let word = |at: usize| auxiliary.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
    let status = auxiliary.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let Some(control) = word(16).filter(|_| status & STATUS_VLAN_VALID != 0) else { return };
    if frame.len() < packet::ETHERNET {
        return;
    }
    let kind = word(18).filter(|_| status & STATUS_TAG_TYPE_VALID != 0).unwrap_or(TAG_TYPE);
    let [k0, k1] = kind.to_be_bytes();
    let [c0, c1] = control.to_be_bytes();
    frame.splice(packet::TYPE_AT..packet::TYPE_AT, [k0, k1, c0, c1]);
    offload.shift(packet::TAG as u16);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_the_kernel_took_out_is_put_back() {
        let mut auxiliary = [0; 20];
        auxiliary[..4].copy_from_slice(&(STATUS_VLAN_VALID | STATUS_TAG_TYPE_VALID).to_ne_bytes());
        auxiliary[16..18].copy_from_slice(&0x2005_u16.to_ne_bytes());
        auxiliary[18..20].copy_from_slice(&0x88a8_u16.to_ne_bytes());
        let mut frame = vec![1; 12];
        frame.extend_from_slice(&[8, 0, 0x45]);
        let mut offload = Offload::parse([1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
        put_tag_back(&auxiliary, &mut frame, &mut offload);
        assert_eq!(frame[12..], [0x88, 0xa8, 0x20, 5, 8, 0, 0x45]);
        assert_eq!(offload.checksum.map(|request| request.start), Some(38));
        let before = frame.clone();
        put_tag_back(&[0; 20], &mut frame, &mut offload);
        put_tag_back(&auxiliary[..7], &mut frame, &mut offload);
        put_tag_back(&[], &mut frame, &mut offload);
        assert_eq!(frame, before);
    }

    #[test]
    fn nonsense_in_place_of_a_time_is_no_time() {
        assert_eq!(since_1970(&[0; 15]), None);
        assert_eq!(since_1970(&[0xff; 16]), None);
        let mut data = [0; 16];
        data[..8].copy_from_slice(&5_i64.to_ne_bytes());
        data[8..].copy_from_slice(&7_i64.to_ne_bytes());
        assert_eq!(since_1970(&data), Some(Duration::new(5, 7)));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(End::open("no-such-if0", None).unwrap_err().contains("ip link"));
        assert!(End::open("lo", Some("no-such-namespace")).unwrap_err().contains("/run/netns/no-such-namespace"));
    }
}
