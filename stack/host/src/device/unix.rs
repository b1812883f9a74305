//! Frames over an AF_UNIX socket, one message a frame, for programs wired back to back without any right: a socket that
//! was inherited (`fd:N`, SEQPACKET or DGRAM), or a link by name (`unix:/path`, `unix:@name`) whose two ends find each
//! other: the first takes the name, the second connects to it and says so by an empty message.
//!
//! Links by name use datagram sockets: a connection that had to be accepted would be a new descriptor in one member of
//! the family only, while this socket, opened before the fork, becomes connected in all of them at once. Until the other
//! end is there, and after it has gone, frames are dropped as on a cable without a link. There are no offloads; full
//! checksums, and an MTU of 1500 unless told otherwise (up to 65535 works).
//!
//! A datagram socket whose send is refused loses what it has not read (`unix_dgram_disconnected`), and with it the last
//! frames of an end that has gone. So what waits is taken in before each send.

use super::{Device, DeviceError, DeviceSpec, DeviceStatistics, MAX_FRAME, OpenError, Scope, TransmitError, offload};
use crate::sys::call;
use crate::sys::{Errno, Fd};
use remora_stack::frame::{DeviceCapabilities, MAX_PAYLOAD_SLICES, Medium, RxMeta, Transmit};
use std::collections::VecDeque;
use std::io::IoSlice;

/// An Ethernet's.
const DEFAULT_MTU: u16 = 1500;

/// Buffers asked for, in bytes.
const BUFFER: i32 = 8 << 20;

/// Frames kept that were taken in before a send; beyond, the kernel's queue keeps them, at the risk described above.
const MAX_KEPT: usize = 1024;

/// Empty messages that `receive` takes in one call.
const MAX_HELLOS: u32 = 64;

/// sockaddr with only a family: unbinds, or asks for a name.
const NO_ADDRESS: [u8; 2] = (libc::AF_UNSPEC as u16).to_ne_bytes();
const ANY_NAME: [u8; 2] = (libc::AF_UNIX as u16).to_ne_bytes();

/// How the other end is found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// An inherited pair: it is there.
    Pair,
    /// We have the name and wait for a message.
    First,
    /// The name is the other's.
    Second(String),
}

/// One end of a link.
#[derive(Debug)]
pub struct UnixDevice {
    fd: Fd,
    role: Role,
    linked: bool,
    /// A datagram socket.
    forgetful: bool,
    /// Taken in before a send, the oldest first.
    kept: VecDeque<Vec<u8>>,
    scratch: Vec<u8>,
    capabilities: DeviceCapabilities,
    statistics: DeviceStatistics,
}

fn raise(fd: Fd) -> Result<Fd, OpenError> {
    call::raise_high(fd, call::private_floor()).map_err(OpenError::failed("moving the link's socket"))
}

/// An inherited descriptor, under a private number of ours; the old one stays as it was found.
fn open_inherited(number: &str, link: &str) -> Result<Fd, OpenError> {
    let bad = || OpenError::BadLink(link.to_owned());
    let inherited = Fd(number.parse().map_err(|_| bad())?);
    let kind = call::option_int(inherited, libc::SOL_SOCKET, libc::SO_TYPE).map_err(|_| bad())?;
    if !matches!(kind, libc::SOCK_SEQPACKET | libc::SOCK_DGRAM) {
        return Err(bad());
    }
    let floor = call::private_floor();
    call::duplicate_from(inherited, floor)
        .or_else(|_| call::duplicate_from(inherited, 3))
        .map_err(OpenError::failed("duplicating the link's socket"))
}

impl UnixDevice {
    /// Opens the link that `spec.interface` names.
    ///
    /// # Errors
    /// As [`OpenError`].
    pub fn open(spec: &DeviceSpec) -> Result<Self, OpenError> {
        let link = spec.interface.as_str();
        let (fd, role) = if let Some(number) = link.strip_prefix("fd:") {
            (open_inherited(number, link)?, Role::Pair)
        } else if let Some(name) = link.strip_prefix("unix:") {
            let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let fd = raise(
                call::socket(libc::AF_UNIX, kind, 0).map_err(OpenError::failed("opening a socket for the link"))?,
            )?;
            let role = meet(fd, name, link).inspect_err(|_| {
                let _ = call::close(fd);
            })?;
            (fd, role)
        } else {
            return Err(OpenError::BadLink(link.to_owned()));
        };
        for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            // Cut down to the system's limit, it works all the same.
            let _ = call::set_option_int(fd, libc::SOL_SOCKET, option, BUFFER);
        }
        let linked = role != Role::First;
        let capabilities = DeviceCapabilities {
            medium: Medium::Ethernet,
            mtu: spec.mtu.unwrap_or(DEFAULT_MTU),
            gso_max: 0,
            checksum_tx: false,
        };
        let forgetful = call::option_int(fd, libc::SOL_SOCKET, libc::SO_TYPE) == Ok(libc::SOCK_DGRAM);
        let statistics = DeviceStatistics::default();
        Ok(Self { fd, role, linked, forgetful, kept: VecDeque::new(), scratch: Vec::new(), capabilities, statistics })
    }

    /// Whether the other end is there, as far as we know.
    #[must_use]
    pub const fn is_linked(&self) -> bool {
        self.linked
    }

    /// The other end has gone.
    fn lose_link(&mut self) {
        self.linked = false;
        if self.role == Role::First {
            // Hear anyone again.
            let _ = call::connect(self.fd, &NO_ADDRESS);
        }
    }

    /// The second end looks for the first, which may have come back under its name.
    fn find_link(&mut self) {
        if let Role::Second(name) = &self.role
            && let Ok((address, length)) = call::unix_address(name)
        {
            self.linked = greet(self.fd, address.get(..length).unwrap_or(&[])).is_ok();
        }
    }

    /// Takes in what waits, before a refused send makes the kernel drop it.
    fn take_in(&mut self) {
        let mut frame = std::mem::take(&mut self.scratch);
        while self.kept.len() < MAX_KEPT {
            match self.receive_frame(&mut frame) {
                Ok(true) => self.kept.push_back(frame.as_slice().to_vec()),
                // What is wrong, `receive` will find as well.
                Ok(false) | Err(_) => break,
            }
        }
        self.scratch = frame;
    }

    /// The next frame from the socket; says whether there was one.
    fn receive_frame(&mut self, buffer: &mut Vec<u8>) -> Result<bool, DeviceError> {
        for _ in 0..MAX_HELLOS {
            let mut sender = [0u8; 110];
            let received = match call::receive_from_into(self.fd, &mut sender, buffer, MAX_FRAME, libc::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(Errno(libc::ECONNRESET | libc::ECONNREFUSED)) => {
                    self.lose_link();
                    continue;
                }
                Err(errno) if errno.is_transient() => return Ok(false),
                Err(errno) => return Err(DeviceError::from_errno(errno)),
            };
            if self.role == Role::First && !self.linked {
                // Whoever speaks first is the other end.
                let address = sender.get(..received.name).unwrap_or(&[]);
                self.linked = received.name > 2 && call::connect(self.fd, address).is_ok();
            }
            if received.flags & libc::MSG_TRUNC != 0 {
                self.statistics.rx_truncated += 1;
                continue;
            }
            if !buffer.is_empty() {
                self.statistics.count_receive(buffer.len());
                return Ok(true);
            }
            if self.role == Role::Pair {
                // End of file on a SEQPACKET pair stays readable for ever.
                self.linked = false;
                return Err(DeviceError::Gone);
            }
        }
        Ok(false)
    }

    fn send(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        if self.forgetful && self.linked {
            self.take_in();
        }
        if !self.linked {
            self.find_link();
            if !self.linked {
                return Err(TransmitError::Down);
            }
        }
        let mut whole = Vec::new();
        let mut parts = [IoSlice::new(&[]); MAX_PAYLOAD_SLICES + 1];
        if let Some(request) = frame.checksum {
            whole = frame.to_vec();
            offload::complete(&mut whole, request);
        }
        if whole.is_empty() {
            let slices = std::iter::once(frame.header).chain(frame.payload);
            for (slot, slice) in parts.iter_mut().zip(slices) {
                *slot = IoSlice::new(slice);
            }
        } else {
            parts[0] = IoSlice::new(&whole);
        }
        match call::send_message(self.fd, &parts, None, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno(libc::ECONNREFUSED | libc::ENOTCONN | libc::EPIPE | libc::ECONNRESET)) => {
                self.lose_link();
                Err(TransmitError::Down)
            }
            Err(errno) => Err(TransmitError::from_errno(errno)),
        }
    }
}

/// Connects to the other end and lets it know.
fn greet(fd: Fd, address: &[u8]) -> Result<(), Errno> {
    call::connect(fd, address)?;
    call::send(fd, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).map(drop)
}

/// Takes the name, or connects to who has it.
fn meet(fd: Fd, name: &str, link: &str) -> Result<Role, OpenError> {
    let (address, length) = call::unix_address(name).map_err(|_| OpenError::BadLink(link.to_owned()))?;
    let address = address.get(..length).unwrap_or(&[]);
    // Twice: a socket file left over from a dead first end is removed once.
    for _ in 0..2 {
        match call::bind(fd, address) {
            Ok(()) => return Ok(Role::First),
            Err(Errno(libc::EADDRINUSE)) => {}
            Err(errno) => return Err(OpenError::Failed { what: "taking the link's name", errno }),
        }
        // The first end answers to a name, so the second needs one, too.
        match greet_named(fd, address) {
            Ok(()) => return Ok(Role::Second(name.to_owned())),
            Err(Errno(libc::EPERM)) => return Err(OpenError::LinkTaken(link.to_owned())),
            Err(Errno(libc::ECONNREFUSED)) if !name.starts_with('@') => {
                call::unlink(name).map_err(OpenError::failed("removing a left-over socket file"))?;
            }
            // The first end has gone between the two calls: its name is free.
            Err(Errno(libc::ECONNREFUSED | libc::ENOENT)) => {}
            Err(errno) => return Err(OpenError::Failed { what: "connecting to the link's first end", errno }),
        }
    }
    Err(OpenError::LinkTaken(link.to_owned()))
}

fn greet_named(fd: Fd, address: &[u8]) -> Result<(), Errno> {
    call::connect(fd, address)?;
    // Named only once the other end is known to be there, since a name cannot be given back.
    call::bind(fd, &ANY_NAME)?;
    call::send(fd, &[], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).map(drop)
}

impl Device for UnixDevice {
    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RxMeta>, DeviceError> {
        if let Some(frame) = self.kept.pop_front() {
            *buffer = frame;
            return Ok(Some(RxMeta::default()));
        }
        if self.receive_frame(buffer)? {
            return Ok(Some(RxMeta::default()));
        }
        buffer.clear();
        Ok(None)
    }

    fn transmit(&mut self, frame: &Transmit<'_>) -> Result<(), TransmitError> {
        let outcome = self.send(frame);
        self.statistics.count_transmit(frame.len(), outcome);
        outcome
    }

    fn fd(&self) -> Fd {
        self.fd
    }

    fn has_frames(&self) -> bool {
        !self.kept.is_empty()
    }

    fn statistics(&mut self) -> DeviceStatistics {
        self.statistics
    }

    /// Nothing to keep away: only one other is on the link.
    fn set_scope(&mut self, _scope: &Scope) -> Result<(), DeviceError> {
        Ok(())
    }

    fn refresh(&mut self) -> Result<DeviceCapabilities, DeviceError> {
        if !self.linked {
            self.find_link();
        }
        Ok(self.capabilities)
    }

    fn close(&mut self) {
        let _ = call::close(std::mem::replace(&mut self.fd, Fd::NONE));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceKind, open};
    use super::*;
    use crate::device::testlab::{plain, receive_one};
    use crate::sys::testing::in_child;

    fn spec(link: &str, mtu: Option<u16>) -> DeviceSpec {
        DeviceSpec { kind: DeviceKind::Unix, interface: link.to_owned(), mtu, ..DeviceSpec::default() }
    }

    fn exchange(one: &mut dyn Device, other: &mut dyn Device) {
        for length in [60usize, 1514, 65_549] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31) as u8).collect();
            one.transmit(&plain(&bytes)).unwrap();
            assert_eq!(receive_one(other).0, bytes);
            other.transmit(&plain(&bytes)).unwrap();
            assert_eq!(receive_one(one).0, bytes);
        }
    }

    /// Sends until there is no link: other tests fork, and their children hold a closed end open for a moment.
    fn until_down(device: &mut dyn Device) {
        let deadline = call::now() + std::time::Duration::from_secs(5);
        while device.transmit(&plain(&[1; 60])) != Err(TransmitError::Down) {
            assert!(call::now() < deadline, "the link is down within 5 s");
            std::thread::yield_now();
        }
    }

    fn names() -> [String; 2] {
        let unique = format!("remora-test-{}-{:?}", call::getpid(), std::thread::current().id());
        let path = std::env::temp_dir().join(&unique);
        [format!("unix:@{unique}"), format!("unix:{}", path.to_str().unwrap())]
    }

    #[test]
    fn inherited_pairs_carry_frames_until_the_other_end_closes() {
        for kind in [libc::SOCK_SEQPACKET, libc::SOCK_DGRAM] {
            let (a, b) = call::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC).unwrap();
            let mut one = UnixDevice::open(&spec(&format!("fd:{}", a.raw()), Some(65_535))).unwrap();
            let mut other = UnixDevice::open(&spec(&format!("fd:{}", b.raw()), None)).unwrap();
            call::close(a).unwrap();
            call::close(b).unwrap();
            assert_eq!((one.capabilities().mtu, other.capabilities().mtu), (65_535, 1500));
            exchange(&mut one, &mut other);
            other.close();
            until_down(&mut one);
            one.close();
        }
        let (a, b) = call::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC).unwrap();
        assert!(matches!(UnixDevice::open(&spec(&format!("fd:{}", a.raw()), None)), Err(OpenError::BadLink(_))));
        call::close(a).unwrap();
        call::close(b).unwrap();
    }

    #[test]
    fn ends_of_a_named_link_find_each_other_whoever_comes_first() {
        for name in names() {
            let mut first = open(&spec(&name, None)).unwrap();
            assert_eq!(first.transmit(&plain(&[1; 60])), Err(TransmitError::Down), "no link yet");
            let mut second = open(&spec(&name, None)).unwrap();
            let mut buffer = Vec::new();
            assert_eq!(first.receive(&mut buffer), Ok(None), "the greeting is no frame");
            exchange(&mut *first, &mut *second);
            assert!(matches!(open(&spec(&name, None)), Err(OpenError::LinkTaken(_))));
            // Many small frames do not meet the short queue of unconnected datagram sockets.
            for _ in 0..100 {
                second.transmit(&plain(&[7; 60])).unwrap();
            }
            for _ in 0..100 {
                assert_eq!(receive_one(&mut *first).0, [7; 60]);
            }
            assert_eq!(first.statistics().tx_no_link, 1);
            // The second end goes and another comes.
            second.close();
            until_down(&mut *first);
            let mut third = open(&spec(&name, None)).unwrap();
            assert_eq!(first.receive(&mut buffer), Ok(None));
            exchange(&mut *first, &mut *third);
            // The first end goes and comes back under its name; the other finds it by itself.
            first.close();
            until_down(&mut *third);
            let mut again = open(&spec(&name, None)).unwrap();
            assert_eq!(third.refresh(), Ok(third.capabilities()));
            assert_eq!(again.receive(&mut buffer), Ok(None));
            exchange(&mut *again, &mut *third);
            again.close();
            third.close();
            if let Some(path) = name.strip_prefix("unix:/") {
                std::fs::remove_file(format!("/{path}")).unwrap();
            }
        }
    }

    #[test]
    fn last_frames_of_an_end_that_has_gone_are_read_after_a_refused_send() {
        for name in names() {
            let name = format!("{name}-last");
            let mut first = open(&spec(&name, None)).unwrap();
            let mut second = open(&spec(&name, None)).unwrap();
            let mut buffer = Vec::new();
            assert_eq!(first.receive(&mut buffer), Ok(None), "the greeting is no frame");
            for last in 1..=3 {
                second.transmit(&plain(&[last; 60])).unwrap();
            }
            second.close();
            until_down(&mut *first);
            assert!(first.has_frames());
            for last in 1..=3 {
                assert_eq!(receive_one(&mut *first).0, [last; 60]);
            }
            assert!(!first.has_frames());
            assert_eq!(first.receive(&mut buffer), Ok(None));
            first.close();
            if let Some(path) = name.strip_prefix("unix:/") {
                std::fs::remove_file(format!("/{path}")).unwrap();
            }
        }
    }

    #[test]
    fn link_that_comes_up_in_a_child_is_up_in_its_parent() {
        let [name, _] = names();
        let name = format!("{name}-fork");
        let mut first = UnixDevice::open(&spec(&name, None)).unwrap();
        let mut second = UnixDevice::open(&spec(&name, None)).unwrap();
        let status = in_child(|| {
            // In the family this flag lies in shared memory; the kernel's side is shared by nature.
            i32::from(first.receive(&mut Vec::new()) != Ok(None) || !first.is_linked())
        });
        assert_eq!(status, 0);
        first.linked = true;
        exchange(&mut first, &mut second);
        first.close();
        second.close();
    }
}
