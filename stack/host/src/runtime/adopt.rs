//! How an image that was started by exec comes back to its family. The keeper listens on the abstract name
//! `remora/k/FAMILY`; whoever runs as the same user (or as root) gets the arena and the family's descriptors from it,
//! maps the arena where it lies in all members, puts the descriptors under the family's numbers and takes a slot with a
//! lifeline. The arena holds addresses of this library's code and tables, so only the same build at the same address
//! may come in. The handles that the image has been left are then taken over (`take_over`). Which descriptors are
//! handles, and what is put under their numbers instead, is the shim's business; whoever cannot come in keeps its
//! handles, which the keeper pumps.

use super::family::{FAMILY, enrol, once};
use super::handle::{HandleKind, HandleName, HandleState, handle_address};
use super::{Core, DescriptionId, Open, Runtime, SocketKind};
use crate::config::Config;
use crate::sys::arena::{Arena, ArenaError};
use crate::sys::image::{self, Image};
use crate::sys::shared::Shared;
use crate::sys::{Errno, Fd, call};
use remora_stack::time::Instant;
use std::fmt;
use std::time::Duration;

/// When to give up waiting for the keeper. It answers in less than a millisecond, unless the machine is very busy; all
/// the while the new program has not begun.
const PATIENCE: Duration = Duration::from_millis(500);

/// When to try again at a keeper that does not listen yet.
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// Guests that the keeper serves at a time, so that nothing else waits long.
const AT_A_TIME: usize = 16;

/// Descriptors of a family: doorbells, channel, device, arena.
const MOST_DESCRIPTORS: usize = 128;

/// Why an image does not become a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// This process belongs to another family.
    OtherFamily,
    /// The keeper does not answer, or refuses.
    NoKeeper(Errno),
    /// The family was started by another build, or the library lies at another address there.
    OtherImage,
    /// The keeper runs as another user, or in another pid namespace.
    OtherWorld,
    /// A descriptor number of the family is taken here, or above the limit.
    NumberTaken(i32),
    /// The arena cannot be mapped where it has to be.
    Arena(ArenaError),
    /// The family is lost.
    Broken,
}

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherFamily => write!(formatter, "this process belongs to another family"),
            Self::NoKeeper(errno) => write!(formatter, "its keeper does not answer: {errno}"),
            Self::OtherImage => write!(formatter, "it runs another build of the library, or at another address"),
            Self::OtherWorld => write!(formatter, "its keeper is another user's, or in another pid namespace"),
            Self::NumberTaken(number) => write!(formatter, "descriptor number {number} cannot be had"),
            Self::Arena(error) => error.fmt(formatter),
            Self::Broken => write!(formatter, "a process of it died inside the stack"),
        }
    }
}

impl std::error::Error for JoinError {}

/// A socket that has been taken over: this process holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its description.
    pub id: DescriptionId,
    /// Family, type and protocol.
    pub kind: SocketKind,
    /// O_NONBLOCK.
    pub nonblocking: bool,
    /// The backlog, of a listener.
    pub listening: bool,
}

/// The keeper's name, as the bytes of a sockaddr.
fn keeper_address(family: u64) -> Result<([u8; 110], usize), Errno> {
    call::unix_address(&format!("@remora/k/{family:016x}"))
}

/// What the keeper says first; the descriptors follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Greeting {
    image: [u8; Image::SIZE],
    base: u64,
    reserve: u64,
    /// The keeper's pid as it sees it.
    pid: i32,
    device_generation: u32,
    descriptors: u32,
}

impl Greeting {
    const SIZE: usize = Image::SIZE + 8 + 8 + 4 + 4 + 4;

    fn encode(&self) -> [u8; Self::SIZE] {
        let Self { image, base, reserve, pid, device_generation, descriptors } = self;
        let mut bytes = [0; Self::SIZE];
        let parts: [&[u8]; 6] = [
            image,
            &base.to_ne_bytes(),
            &reserve.to_ne_bytes(),
            &pid.to_ne_bytes(),
            &device_generation.to_ne_bytes(),
            &descriptors.to_ne_bytes(),
        ];
        for (place, byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (image, rest) = bytes.split_first_chunk()?;
        let (base, rest) = rest.split_first_chunk()?;
        let (reserve, rest) = rest.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (descriptors, rest) = rest.split_first_chunk()?;
        rest.is_empty().then_some(Self {
            image: *image,
            base: u64::from_ne_bytes(*base),
            reserve: u64::from_ne_bytes(*reserve),
            pid: i32::from_ne_bytes(*pid),
            device_generation: u32::from_ne_bytes(*generation),
            descriptors: u32::from_ne_bytes(*descriptors),
        })
    }
}

/// Numbers of the descriptors that come with one message.
const PART: usize = 4 * call::MAX_PASSED;

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Rendezvous(Fd);

impl Rendezvous {
    /// Listens. Where that is not possible nobody comes in, and handles are pumped.
    pub(super) fn open(open: &Open) -> Self {
        Self(Self::listen(open).unwrap_or(Fd::NONE))
    }

    fn listen(open: &Open) -> Result<Fd, Errno> {
        let fd = call::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
        let (address, length) = keeper_address(open.identity)?;
        let ready =
            call::bind(fd, address.get(..length).unwrap_or(&[])).and_then(|()| call::listen(fd, AT_A_TIME as i32));
        match ready {
            Ok(()) => Ok(fd),
            Err(errno) => {
                let _ = call::close(fd);
                Err(errno)
            }
        }
    }

    /// To be watched for input.
    pub(super) fn fd(&self) -> Fd {
        self.0
    }

    /// Serves those who wait. Nothing here waits for a guest: what it does not take at once, it does not get.
    pub(super) fn serve(&self, open: &Open) {
        for _ in 0..AT_A_TIME {
            let Ok(guest) = call::accept(self.0, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) else { return };
            let own = call::effective_user();
            if call::peer_credentials(guest).is_ok_and(|(_, user)| user == own || user == 0) {
                let _ = Self::receive_guest(guest, open);
            }
            let _ = call::close(guest);
        }
    }

    fn receive_guest(guest: Fd, open: &Open) -> Result<(), Errno> {
        let arena = Arena::active().filter(|arena| arena.fd().is_some()).ok_or(Errno(libc::ENOTSUP))?;
        let mut all: Vec<Fd> = vec![arena.fd()];
        all.extend(open.family_fds());
        all.extend(open.device_fds());
        let greeting = Greeting {
            image: image::own().encode(),
            base: arena.base() as u64,
            reserve: arena.reserve() as u64,
            pid: call::getpid(),
            device_generation: open.device_generation(),
            descriptors: all.len() as u32,
        };
        call::send_descriptors(guest, &greeting.encode(), &[], libc::MSG_DONTWAIT)?;
        for part in all.chunks(call::MAX_PASSED) {
            let mut numbers = [0u8; PART];
            for (place, fd) in numbers.as_chunks_mut::<4>().0.iter_mut().zip(part) {
                *place = fd.raw().to_ne_bytes();
            }
            call::send_descriptors(guest, &numbers, part, libc::MSG_DONTWAIT)?;
        }
        Ok(())
    }
}

/// Descriptors on their way to their numbers; those that do not stay are closed.
struct Received(Vec<(Fd, i32)>);

impl Drop for Received {
    fn drop(&mut self) {
        for (fd, _) in &self.0 {
            let _ = call::close(*fd);
        }
    }
}

/// Makes this process a member of the family that a handle's name tells of, unless it is one.
///
/// # Errors
/// As [`JoinError`]; then nothing has changed.
pub fn join(family: u64, config: &Config) -> Result<&'static Runtime, JoinError> {
    once(|former| match former.filter(|runtime| !runtime.is_broken()) {
        Some(runtime) if runtime.family_id() == family => Ok(runtime),
        Some(_) => Err(JoinError::OtherFamily),
        None => come_in(family, config, former.is_some()),
    })
}

fn come_in(family: u64, config: &Config, instead: bool) -> Result<&'static Runtime, JoinError> {
    let until = call::now() + PATIENCE;
    let keeper = connect(family, until).map_err(JoinError::NoKeeper)?;
    let told = hear(keeper, until);
    let _ = call::close(keeper);
    let (greeting, mut received) = told?;
    let mut placed = Received(Vec::with_capacity(received.0.len()));
    while let Some((fd, number)) = received.0.pop() {
        let put = put_under(fd, number);
        let _ = call::close(fd);
        put.map_err(|_| JoinError::NumberTaken(number))?;
        placed.0.push((Fd(number), number));
    }
    // What came first is the arena.
    let arena = placed.0.last().map_or(Fd::NONE, |(fd, _)| *fd);
    let base = usize::try_from(greeting.base).unwrap_or(0);
    let reserve = usize::try_from(greeting.reserve).unwrap_or(0);
    let file = arena;
    let arena = Arena::map_again(base, reserve, file).map_err(JoinError::Arena)?;
    let shared = Shared::install_again(arena, instead).map_err(JoinError::Arena)?;
    arena.replace_fd(file);
    // The numbers are the family's from here on.
    placed.0.clear();
    FAMILY.store(shared);
    let runtime = enrol(shared, config, Some(greeting.device_generation));
    runtime.join_keeper();
    if runtime.is_broken() { Err(JoinError::Broken) } else { Ok(runtime) }
}

/// Connects to the keeper; one that has just been left may not listen yet.
fn connect(family: u64, until: Instant) -> Result<Fd, Errno> {
    let (address, length) = keeper_address(family)?;
    let name = address.get(..length).unwrap_or(&[]);
    loop {
        let fd = call::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
        let Err(errno) = call::connect(fd, name) else { return Ok(fd) };
        let _ = call::close(fd);
        if !matches!(errno.0, libc::ECONNREFUSED | libc::EAGAIN) || call::now() >= until {
            return Err(errno);
        }
        let _ = call::ppoll(&mut [], Some(TRY_AGAIN), None);
    }
}

/// Hears the keeper out.
fn hear(keeper: Fd, until: Instant) -> Result<(Greeting, Received), JoinError> {
    let lost = JoinError::NoKeeper(Errno(libc::EPROTO));
    // Abstract names are anybody's: what is mapped and run must come from ourselves or from root.
    let (pid, user) = call::peer_credentials(keeper).map_err(JoinError::NoKeeper)?;
    if user != call::effective_user() && user != 0 {
        return Err(JoinError::OtherWorld);
    }
    let mut bytes = [0u8; Greeting::SIZE];
    let mut passed = [Fd::NONE; call::MAX_PASSED];
    let length = next_message(keeper, &mut bytes, &mut passed, until)?.0;
    let greeting = bytes.get(..length).and_then(Greeting::decode).ok_or(lost)?;
    let own = image::own();
    if !own.is_known() || greeting.image != own.encode() {
        return Err(JoinError::OtherImage);
    }
    // The family's lock knows threads by their ids.
    if greeting.pid != pid {
        return Err(JoinError::OtherWorld);
    }
    let wanted = greeting.descriptors as usize;
    if wanted == 0 || wanted > MOST_DESCRIPTORS {
        return Err(lost);
    }
    let mut received = Received(Vec::with_capacity(wanted));
    while received.0.len() < wanted {
        let mut numbers = [0u8; PART];
        let (length, count) = next_message(keeper, &mut numbers, &mut passed, until)?;
        let numbers = numbers.as_chunks::<4>().0.iter().map(|number| i32::from_ne_bytes(*number));
        received.0.extend(passed.iter().copied().zip(numbers).take(count));
        if length != PART || count == 0 {
            return Err(lost);
        }
    }
    Ok((greeting, received))
}

fn next_message(
    keeper: Fd,
    bytes: &mut [u8],
    passed: &mut [Fd; call::MAX_PASSED],
    until: Instant,
) -> Result<(usize, usize), JoinError> {
    loop {
        match call::receive_descriptors(keeper, bytes, passed, libc::MSG_DONTWAIT) {
            Ok(message) => return Ok(message),
            Err(errno) if !errno.is_transient() || call::now() >= until => return Err(JoinError::NoKeeper(errno)),
            Err(_) => {}
        }
        let mut set = [libc::pollfd { fd: keeper.raw(), events: libc::POLLIN, revents: 0 }];
        let _ = call::ppoll(&mut set, Some(until.since(call::now())), None);
    }
}

/// A copy of `fd` under exactly this number, closed on exec; nobody's number is taken away.
fn put_under(fd: Fd, number: i32) -> Result<(), Errno> {
    let copy = call::duplicate_from(fd, number)?;
    if copy.raw() == number {
        return Ok(());
    }
    let _ = call::close(copy);
    Err(Errno(libc::EBUSY))
}

impl Core {
    /// Gives `slot` what a handle stands for, once. `None` when the handle is gone or its bytes are being moved.
    fn take_over(&mut self, slot: super::SlotId, name: &HandleName) -> Option<Taken> {
        let record = self.handles.table.find_mut(name.handle).filter(|it| it.description == name.description)?;
        match record.state {
            HandleState::Parked { .. } | HandleState::Expected { .. } => {
                // Nothing must be moved into it from here on.
                record.state = HandleState::TAKEN_OVER;
            }
            HandleState::Pumped => return None,
        }
        let listening = record.kind == HandleKind::Listener;
        let nonblocking = self.nonblocking(name.description);
        let description = self.descriptions.find_mut(name.description)?;
        description.holders.add(slot, 1);
        Some(Taken { id: name.description, kind: description.kind, nonblocking, listening })
    }
}

impl Runtime {
    /// Makes this process a holder of the socket that a handle of its family stands for. `None`: it stays a handle.
    #[must_use]
    pub fn take_over(&self, name: &HandleName) -> Option<Taken> {
        let slot = self.slot();
        self.enter(|core, _| core.take_over(slot, name)).ok().flatten()
    }

    /// To be called when a handle taken over is closed under all numbers of this process: one that has no other end in the
    /// keeper is given up at once, unless somebody else has it too.
    pub fn handle_was_closed(&self, name: &HandleName) {
        let kind = match (name.listener, name.datagrams) {
            (true, _) => HandleKind::Listener,
            (_, true) => HandleKind::Datagrams,
            // The keeper sees the other end hang up.
            _ => return,
        };
        let address = handle_address(self.family_id(), name.description, name.handle, kind);
        let Ok((address, length)) = address else { return };
        let socket_type = if name.listener { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
        let Ok(probe) = call::socket(libc::AF_UNIX, socket_type | libc::SOCK_CLOEXEC, 0) else { return };
        // A name that nobody holds can be had.
        let gone = call::bind(probe, address.get(..length).unwrap_or(&[])).is_ok();
        let _ = call::close(probe);
        if gone {
            let _ = self.enter(|core, now| core.drop_handle(now, name.handle));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_comes_back_as_it_went_out() {
        let greeting = Greeting {
            image: [7; Image::SIZE],
            base: 0x6f00_0000_0000,
            reserve: 4 << 30,
            pid: 12,
            device_generation: 3,
            descriptors: 54,
        };
        assert_eq!(Greeting::decode(&greeting.encode()), Some(greeting));
        assert_eq!(Greeting::decode(&greeting.encode()[1..]), None);
    }

    #[test]
    fn a_number_that_is_taken_is_left_alone() {
        let taken = call::eventfd(0, libc::EFD_CLOEXEC).expect("an eventfd");
        let other = call::eventfd(0, libc::EFD_CLOEXEC).expect("an eventfd");
        let before = call::file_id(taken).expect("it is open");
        assert_eq!(put_under(other, taken.raw()), Err(Errno(libc::EBUSY)));
        assert_eq!(call::file_id(taken), Ok(before));
        for fd in [taken, other] {
            call::close(fd).expect("it is open");
        }
    }

    #[test]
    fn nobody_joins_a_family_whose_keeper_is_not_there() {
        // Another test of this process may have started a family of its own.
        let result = join(0xdead_beef_0000_0001, &Config::default());
        assert!(matches!(result, Err(JoinError::NoKeeper(_) | JoinError::OtherFamily)), "{:?}", result.err());
    }
}
