//! Handles: what stands under a number of ours for code that never meets a hook. A handle is one end of an AF_UNIX pair
//! (a stream for TCP, packets for a datagram socket with a peer), whose other end the keeper has, or a listening
//! AF_UNIX socket. Each has a name in the abstract space, `remora/h/FAMILY/INDEX.GENERATION.SERIAL` (a listener's with
//! `.l` after it, a datagram socket's without a peer with `.d`), which any process can read from it: a pair's with
//! getpeername, the two others' with getsockname.
//!
//! A handle is first parked: nothing moves, and it can be given up again without a trace. Started, it is pumped by the
//! keeper (`pump`). It counts as one holder of its description until the last copy of its end is closed. Who puts it
//! under which number, and when, is the caller's business.

use super::member::SlotId;
use super::table::{Name, Table};
use super::{Core, DescriptionId, Runtime};
use crate::sys::{Errno, Fd, call};
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::{Readiness, SocketType};
use remora_stack::time::Instant;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::keeper::{Message, send_to_keeper};

/// When to start a handle that a new image under this library was expected to take over, and has not.
pub(super) const ADOPTION_PATIENCE: Duration = Duration::from_millis(250);

/// How long a handle that is taken back may take to be rid of what strangers have written: as long as the peer leaves
/// the stack without room.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
const DRAIN_LOOK: Duration = Duration::from_micros(100);

/// How long a member's write waits at most for what a stranger wrote before it.
const ORDER_PATIENCE: Duration = Duration::from_millis(100);

/// Room for what is on its way through a pair, each way; the kernel doubles it.
const PAIR_BUFFER: i32 = 212_992;

/// Longest name of a handle.
const NAME_ROOM: usize = 110;

/// Names a handle of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct HandleId {
    /// Place in the table.
    pub index: u32,
    /// How often the place was used before; never 0.
    pub generation: u32,
}

impl HandleId {
    pub(super) const fn pack(self) -> u64 {
        self.index as u64 | (self.generation as u64) << 32
    }

    pub(super) const fn unpack(word: u64) -> Self {
        Self { index: word as u32, generation: (word >> 32) as u32 }
    }
}

impl Name for HandleId {
    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }
    fn index(self) -> u32 {
        self.index
    }
    fn generation(self) -> u32 {
        self.generation
    }
}

/// What a handle is to its holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleKind {
    /// One end of a stream pair.
    Stream,
    /// One end of a pair of packets: a datagram or raw socket that has a peer.
    Packets,
    /// A datagram socket of its own with a name: one that has no peer. What comes from each sender comes from a name of
    /// the keeper's that stands for it, and can be answered there.
    Datagrams,
    /// A listening socket.
    Listener,
}

/// Whom a handle is meant for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Code without this library: pumped at once.
    Stranger,
    /// An image under this library, which takes it over; pumped if it has not after a while.
    Ours,
}

/// A handle just made. `near` is the program's end, closed on exec, for the caller to put under numbers and to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// Its name in the family.
    pub id: HandleId,
    /// The program's end.
    pub near: Fd,
    /// What it is.
    pub kind: HandleKind,
}

/// What the name of a handle says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandleName {
    /// The family, as [`Runtime::family_id`].
    pub family: u64,
    /// The description that it stands for.
    pub description: DescriptionId,
    /// The handle.
    pub handle: HandleId,
    /// Whether it is a listener.
    pub listener: bool,
    /// Whether it is a datagram socket without a peer.
    pub datagrams: bool,
}

/// Why there is no handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleError {
    /// No such description.
    Gone,
    /// There is no keeper to serve it.
    NoKeeper,
    /// The kernel gave no socket.
    Failed(Errno),
}

/// Where a handle stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HandleState {
    /// Nothing moves. What happens when the image that made it is gone.
    Parked { owner: SlotId, armed: Option<Expect> },
    /// It is to be taken over until then; afterwards it is pumped.
    Expected { until: Instant },
    /// The keeper moves bytes.
    Pumped,
}

impl HandleState {
    /// A member has taken it over. Its end is closed soon; the one who made it may hold it until a child ends (system).
    pub(super) const TAKEN_OVER: Self = Self::Parked { owner: SlotId::NONE, armed: None };
}

/// What the family knows of a handle.
#[derive(Debug)]
pub(super) struct HandleRecord {
    pub(super) description: DescriptionId,
    pub(super) kind: HandleKind,
    pub(super) state: HandleState,
    /// Whether it may take what members that hold the socket too could read: it stands as 0, 1 or 2, was passed on
    /// purpose, or has been written to.
    pub(super) claimed: bool,
    /// The keeper has its end.
    pub(super) known: bool,
    /// It stands in `Handles::due`.
    pub(super) due: bool,
    /// A member takes it over and waits until all that was written to it has been carried on.
    pub(super) draining: bool,
    /// A member that writes too waits until all that was written to it before has been carried on.
    pub(super) awaited: bool,
    /// Who has it is not the process that made it: of one that tells nobody of its end, it is looked at now and then.
    pub(super) wanders: bool,
    /// The member that takes it back and has not yet put back what was unread in it: until then nothing goes into it,
    /// whoever claims it, or what is put back would come before what the stack lends.
    pub(super) returns_to: SlotId,
}

impl HandleRecord {
    /// A member has it already, without a byte moved: see `adopt`.
    pub(super) fn is_taken_over(&self) -> bool {
        self.state == HandleState::TAKEN_OVER
    }
}

/// All handles of a family.
#[derive(Debug)]
pub(super) struct Handles {
    pub(super) table: Table<HandleRecord>,
    /// Those that the keeper has to look at.
    pub(super) due: Vec<HandleId>,
}

impl Handles {
    pub(super) const fn new() -> Self {
        Self { table: Table::new(), due: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    pub(super) fn names(&self) -> impl Iterator<Item = HandleId> + use<> {
        let names: Vec<HandleId> = (0..self.table.places()).filter_map(|index| self.table.name_at(index)).collect();
        names.into_iter()
    }
}

/// The name of a handle, as the bytes of a sockaddr.
pub(super) fn handle_address(
    family: u64,
    description: DescriptionId,
    handle: HandleId,
    kind: HandleKind,
) -> Result<([u8; 110], usize), Errno> {
    use std::fmt::Write;
    let suffix = match kind {
        HandleKind::Listener => ".l",
        HandleKind::Datagrams => ".d",
        HandleKind::Stream | HandleKind::Packets => "",
    };
    let mut text = Text::new();
    let (index, generation) = (description.index, description.generation);
    let serial = handle.pack();
    write!(text, "@remora/h/{family:016x}/{index}.{generation}.{serial}{suffix}")
        .map_err(|_| Errno(libc::ENAMETOOLONG))?;
    call::unix_address(text.as_str())
}

/// Text on the stack: it is made inside and outside of the arena.
pub(super) struct Text(SmallVec<[u8; 128]>);

impl Text {
    pub(super) fn new() -> Self {
        Self(SmallVec::new())
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > NAME_ROOM {
            return Err(std::fmt::Error);
        }
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl HandleName {
    /// Reads a name, from the bytes of a sockaddr; `None` for what is no handle's.
    #[must_use]
    pub fn parse(address: &[u8]) -> Option<Self> {
        let family = u16::from_ne_bytes(*address.first_chunk()?);
        if i32::from(family) != libc::AF_UNIX {
            return None;
        }
        let text = std::str::from_utf8(address.get(2..)?).ok()?.strip_prefix("\0remora/h/")?;
        let (family, rest) = text.split_once('/')?;
        let mut parts = rest.split('.');
        let index = parts.next()?.parse().ok()?;
        let generation = parts.next()?.parse().ok()?;
        let serial = parts.next()?.parse().ok()?;
        let (listener, datagrams) = match parts.next() {
            None => (false, false),
            Some("l") => (true, false),
            Some("d") => (false, true),
            Some(_) => return None,
        };
        Some(Self {
            family: u64::from_str_radix(family, 16).ok()?,
            description: DescriptionId { index, generation },
            handle: HandleId::unpack(serial),
            listener,
            datagrams,
        })
    }

    /// The name of the handle under a number: a few hundred nanoseconds. `None` for what is no handle.
    #[must_use]
    pub fn of(fd: Fd) -> Option<Self> {
        let mut name = [0u8; NAME_ROOM];
        let peer = call::peer_name(fd, &mut name).ok().and_then(|length| Self::parse(name.get(..length)?));
        peer.or_else(|| {
            let length = call::local_name(fd, &mut name).ok()?;
            Self::parse(name.get(..length)?).filter(|found| found.listener || found.datagrams)
        })
    }
}

/// What has to be known to make the ends of a handle.
#[derive(Clone, Copy)]
struct Plan {
    id: HandleId,
    kind: HandleKind,
    nonblocking: bool,
    backlog: i32,
}

impl Core {
    fn plan_handle(&mut self, slot: SlotId, id: DescriptionId, now: Instant) -> Option<Plan> {
        let description = self.descriptions.find_mut(id)?;
        description.holders.add(SlotId::STRANGERS, 1);
        let (socket, socket_type) = (description.socket, description.kind.kind);
        let kind = match socket_type {
            SocketType::Stream if self.stack.is_listening(socket) => HandleKind::Listener,
            SocketType::Stream => HandleKind::Stream,
            SocketType::Datagram | SocketType::Raw if self.stack.peer_name(socket).is_ok() => HandleKind::Packets,
            SocketType::Datagram | SocketType::Raw => HandleKind::Datagrams,
        };
        // `tcp_get_info`: a listener shows its backlog as tcpi_sacked.
        const SACKED: std::ops::Range<usize> = 28..32;
        let backlog = match self.stack.option(now, socket, OptionName::Info) {
            Ok(OptionValue::Bytes(bytes)) => {
                bytes.get(SACKED).and_then(|part| part.try_into().ok()).map_or(0, u32::from_ne_bytes)
            }
            _ => 0,
        };
        let nonblocking = self.nonblocking(id);
        let state = HandleState::Parked { owner: slot, armed: None };
        let handle = self.handles.table.insert(HandleRecord {
            description: id,
            kind,
            state,
            claimed: false,
            known: false,
            due: false,
            draining: false,
            wanders: false,
            returns_to: SlotId::NONE,
            awaited: false,
        });
        Some(Plan { id: handle, kind, nonblocking, backlog: i32::try_from(backlog).unwrap_or(i32::MAX) })
    }

    /// Forgets a handle and gives up what it held.
    pub(super) fn drop_handle(&mut self, now: Instant, handle: HandleId) {
        let Some(record) = self.handles.table.remove(handle) else { return };
        if let Some(description) = self.descriptions.find_mut(record.description) {
            description.handles.retain(|other| *other != handle);
        }
        self.release(now, SlotId::STRANGERS, record.description);
        self.roster.ring_keeper();
    }

    /// Has the keeper look at a handle.
    pub(super) fn handle_is_due(&mut self, handle: HandleId) {
        let Some(record) = self.handles.table.find_mut(handle) else { return };
        if !std::mem::replace(&mut record.due, true) {
            self.handles.due.push(handle);
            self.roster.ring_keeper();
        }
    }

    /// The keeper moves bytes from now on.
    pub(super) fn pump_handle(&mut self, handle: HandleId) {
        let Some(record) = self.handles.table.find_mut(handle) else { return };
        record.state = HandleState::Pumped;
        let id = record.description;
        if let Some(description) = self.descriptions.find_mut(id)
            && !description.handles.contains(&handle)
        {
            description.handles.push(handle);
        }
        self.handle_is_due(handle);
    }

    fn start_handle(&mut self, handle: HandleId, expect: Expect, now: Instant) {
        let Some(record) = self.handles.table.find_mut(handle) else { return };
        // Whoever was sent it may be faster than the sender: what has been taken over must not be moved into the handle.
        if record.state == HandleState::Pumped || record.is_taken_over() {
            return;
        }
        match expect {
            Expect::Stranger => self.pump_handle(handle),
            Expect::Ours => {
                record.state = HandleState::Expected { until: now + ADOPTION_PATIENCE };
                self.roster.ring_keeper();
            }
        }
    }

    /// The image that made parked handles is gone: replaced, or dead. Who has them now is served.
    pub(super) fn start_handles_of(&mut self, slot: SlotId, now: Instant) {
        for handle in self.handles.names() {
            let Some(record) = self.handles.table.find_mut(handle) else { continue };
            if record.returns_to == slot {
                record.returns_to = SlotId::NONE;
            }
            if let HandleState::Parked { owner, armed } = record.state
                && owner == slot
            {
                self.start_handle(handle, armed.unwrap_or(Expect::Stranger), now);
            }
        }
    }

    /// When the next handle's time to be taken over is up.
    pub(super) fn next_expected(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        if self.handles.is_empty() {
            return None;
        }
        for handle in self.handles.names() {
            match self.handles.table.find(handle).map(|record| record.state) {
                Some(HandleState::Expected { until }) if until <= now => self.pump_handle(handle),
                Some(HandleState::Expected { until }) => next = Some(next.map_or(until, |other| other.min(until))),
                _ => {}
            }
        }
        next
    }
}

impl Runtime {
    /// Tells families apart in the names of handles.
    #[must_use]
    pub fn family_id(&self) -> u64 {
        self.family.open().identity
    }

    /// Makes a parked handle for a description. Brings up device and keeper if they are not there.
    ///
    /// # Errors
    /// As [`HandleError`]; then nothing has changed.
    pub fn make_handle(&self, id: DescriptionId) -> Result<Handle, HandleError> {
        if self.bring_up(true).is_err() || self.family.open().keeper_generation() == 0 {
            return Err(HandleError::NoKeeper);
        }
        self.family.open().had_handles.store(true, Ordering::Relaxed);
        let slot = self.slot();
        let plan = self.enter(|core, now| core.plan_handle(slot, id, now)).ok().flatten();
        let plan = plan.ok_or(HandleError::Gone)?;
        match self.make_ends(id, plan) {
            Ok(near) => Ok(Handle { id: plan.id, near, kind: plan.kind }),
            Err(errno) => {
                self.cancel_handle(plan.id);
                Err(HandleError::Failed(errno))
            }
        }
    }

    /// Makes a handle of a pair that a process has the one end of already, under its numbers: `far` is the other end, and
    /// the keeper's from now on. A stream's has one byte to read, which nobody gets.
    ///
    /// # Errors
    /// As [`HandleError`]; then nothing has changed.
    pub fn make_handle_of(&self, id: DescriptionId, far: Fd) -> Result<HandleId, HandleError> {
        if self.bring_up(true).is_err() || self.family.open().keeper_generation() == 0 {
            return Err(HandleError::NoKeeper);
        }
        self.family.open().had_handles.store(true, Ordering::Relaxed);
        let slot = self.slot();
        let plan = self.enter(|core, now| core.plan_handle(slot, id, now)).ok().flatten().ok_or(HandleError::Gone)?;
        let given = (|| {
            let (name, length) = handle_address(self.family_id(), id, plan.id, plan.kind)?;
            let flags = call::fcntl(far, libc::F_GETFL, 0)?;
            call::fcntl(far, libc::F_SETFL, flags | libc::O_NONBLOCK)?;
            if plan.kind == HandleKind::Packets {
                call::set_option_int(far, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)?;
            }
            call::bind(far, name.get(..length).unwrap_or(&[]))?;
            let sent = send_to_keeper(self.family.open(), Message::Handle(plan.id), &[far]);
            if sent { Ok(()) } else { Err(Errno(libc::EAGAIN)) }
        })();
        match given {
            Ok(()) => {
                let _ = call::close(far);
                Ok(plan.id)
            }
            Err(errno) => {
                self.cancel_handle(plan.id);
                Err(HandleError::Failed(errno))
            }
        }
    }

    /// Makes both ends and gives the keeper its own.
    fn make_ends(&self, id: DescriptionId, plan: Plan) -> Result<Fd, Errno> {
        let open = self.family.open();
        let (name, length) = handle_address(self.family_id(), id, plan.id, plan.kind)?;
        let name = name.get(..length).unwrap_or(&[]);
        let nonblocking = if plan.nonblocking { libc::SOCK_NONBLOCK } else { 0 };
        let flags = libc::SOCK_CLOEXEC | nonblocking;
        let (near, far) = match plan.kind {
            HandleKind::Stream => call::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | flags)?,
            HandleKind::Packets => call::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | flags)?,
            HandleKind::Datagrams => (call::socket(libc::AF_UNIX, libc::SOCK_DGRAM | flags, 0)?, Fd::NONE),
            HandleKind::Listener => (call::socket(libc::AF_UNIX, libc::SOCK_STREAM | flags, 0)?, Fd::NONE),
        };
        let made = (|| {
            match plan.kind {
                HandleKind::Stream | HandleKind::Packets => {
                    prepare_pair(near, far, plan.kind)?;
                    call::bind(far, name)?;
                }
                HandleKind::Datagrams => call::bind(near, name)?,
                HandleKind::Listener => {
                    call::bind(near, name)?;
                    call::listen(near, plan.backlog)?;
                }
            }
            // Of what has no other end the keeper gets this process, at whose end it looks whether the name is gone.
            let passed = if far.is_some() { far } else { call::pidfd_open(call::getpid(), 0)? };
            let sent = send_to_keeper(open, Message::Handle(plan.id), &[passed]);
            if !far.is_some() {
                let _ = call::close(passed);
            }
            if sent { Ok(()) } else { Err(Errno(libc::EAGAIN)) }
        })();
        if far.is_some() {
            let _ = call::close(far);
        }
        match made {
            Ok(()) => Ok(near),
            Err(errno) => {
                let _ = call::close(near);
                Err(errno)
            }
        }
    }

    /// Says what happens to a parked handle when this process's image is replaced (or ends). `claimed`: it will stand as
    /// 0, 1 or 2, so it may take what arrives although members hold the socket too.
    pub fn start_handle_on_exec(&self, handle: HandleId, expect: Expect, claimed: bool) {
        let slot = self.slot();
        let _ = self.enter(|core, _| {
            if let Some(record) = core.handles.table.find_mut(handle)
                && matches!(record.state, HandleState::Parked { .. })
            {
                record.state = HandleState::Parked { owner: slot, armed: Some(expect) };
                record.claimed |= claimed;
            }
        });
    }

    /// Starts a parked handle now.
    pub fn start_handle(&self, handle: HandleId, expect: Expect, claimed: bool) {
        let _ = self.enter(|core, now| {
            if let Some(record) = core.handles.table.find_mut(handle) {
                record.claimed |= claimed;
                record.wanders = true;
            }
            core.start_handle(handle, expect, now);
        });
    }

    /// Takes a handle back: what it stands for is held by this process from now on (once), and what a stranger has not
    /// read is put back, before what arrives later. `near` is the program's end. Other strangers who have copies of it
    /// are served on. `None` when it is no handle of this family's, or what strangers wrote finds no room in time; then
    /// nothing has changed.
    pub fn take_back(&self, handle: HandleId, near: Fd) -> Option<DescriptionId> {
        let slot = self.slot();
        let (id, kind) = self
            .enter(|core, _| {
                let record = core.handles.table.find_mut(handle)?;
                record.claimed = false;
                record.draining = true;
                record.returns_to = slot;
                let (id, kind) = (record.description, record.kind);
                core.descriptions.find_mut(id)?.holders.add(slot, 1);
                core.pump_handle(handle);
                Some((id, kind))
            })
            .ok()
            .flatten()?;
        // From here on nothing arrives at the program's end: this process holds the socket.
        let drained = matches!(kind, HandleKind::Listener | HandleKind::Datagrams) || self.wait_until_drained(handle);
        if !drained {
            let _ = self.enter(|core, now| {
                if let Some(record) = core.handles.table.find_mut(handle) {
                    record.claimed = true;
                    record.draining = false;
                    record.returns_to = SlotId::NONE;
                }
                core.release(now, slot, id);
                core.handle_is_due(handle);
            });
            return None;
        }
        if kind == HandleKind::Stream {
            self.put_back(id, near);
        }
        let _ = self.enter(|core, _| {
            if let Some(record) = core.handles.table.find_mut(handle) {
                record.returns_to = SlotId::NONE;
            }
            core.handle_is_due(handle);
        });
        Some(id)
    }

    /// Waits for the keeper to have carried on all that strangers have written.
    fn wait_until_drained(&self, handle: HandleId) -> bool {
        let deadline = call::now() + DRAIN_PATIENCE;
        loop {
            let draining = self.enter(|core, _| core.handles.table.find(handle).map(|record| record.draining));
            match draining {
                Ok(Some(true)) if call::now() < deadline => {
                    let _ = call::ppoll(&mut [], Some(DRAIN_LOOK), Some(&call::ALL_SIGNALS));
                }
                Ok(Some(still)) => return !still,
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Before a member writes: what strangers have written to the same socket before goes out first, as sshd's child says
    /// that the authentication has succeeded before its parent goes on. Those that have never used it are not asked, and
    /// when there is no room nobody writes now.
    pub fn wait_for_strangers(&self, id: DescriptionId) {
        if !self.family.open().had_handles.load(Ordering::Relaxed) || !self.await_handles(id, true) {
            return;
        }
        let deadline = call::now() + ORDER_PATIENCE;
        while call::now() < deadline {
            let _ = call::ppoll(&mut [], Some(DRAIN_LOOK), Some(&call::ALL_SIGNALS));
            if !self.await_handles(id, false) {
                return;
            }
        }
    }

    /// Whether strangers' handles of a description are still awaited; `begin` asks the keeper for it.
    fn await_handles(&self, id: DescriptionId, begin: bool) -> bool {
        let body = |core: &mut Core, _: Instant| {
            let handles = core.descriptions.find(id).map(|description| &description.handles)?;
            let handles: SmallVec<[HandleId; 4]> = handles.iter().copied().collect();
            let mut any = false;
            for handle in handles {
                let Some(record) = core.handles.table.find_mut(handle).filter(|record| record.claimed) else {
                    continue;
                };
                record.awaited |= begin && record.kind == HandleKind::Stream;
                any |= record.awaited;
                if begin && record.awaited {
                    core.handle_is_due(handle);
                }
            }
            Some(any && core.readiness(id).contains(Readiness::OUT))
        };
        self.enter(body).ok().flatten().unwrap_or(false)
    }

    /// What a stranger has not read goes back to the head of the stack's queue.
    fn put_back(&self, id: DescriptionId, near: Fd) {
        const PIECE: usize = 4096;
        let mut all: Vec<u8> = Vec::new();
        let mut piece = [0u8; PIECE];
        while let Ok(count @ 1..) = call::receive(near, &mut piece, libc::MSG_DONTWAIT) {
            all.extend_from_slice(piece.get(..count).unwrap_or(&[]));
        }
        if !all.is_empty() {
            self.with_socket(id, |stack, socket, now| stack.put_back(now, socket, &all));
        }
    }

    /// Gives up a handle that was never started: nothing has moved.
    pub fn cancel_handle(&self, handle: HandleId) {
        let _ = self.enter(|core, now| {
            let parked = core.handles.table.find(handle).is_some_and(|record| record.state != HandleState::Pumped);
            if parked {
                core.drop_handle(now, handle);
            }
        });
    }
}

/// Buffers on both ends, and a first byte on a stream's way to the keeper. It stays there unread, so that closing the
/// keeper's end can show a reset to the other one (`unix_release_sock`); see `pump`.
fn prepare_pair(near: Fd, far: Fd, kind: HandleKind) -> Result<(), Errno> {
    for end in [near, far] {
        // Less than asked for is enough.
        let _ = call::set_option_int(end, libc::SOL_SOCKET, libc::SO_SNDBUF, PAIR_BUFFER);
    }
    // The keeper's end is the only one that must not wait.
    let flags = call::fcntl(far, libc::F_GETFL, 0)?;
    call::fcntl(far, libc::F_SETFL, flags | libc::O_NONBLOCK)?;
    match kind {
        HandleKind::Stream => call::send(near, &[0], libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT).map(drop),
        // An empty packet is told from the end of all packets by what comes with it.
        _ => call::set_option_int(far, libc::SOL_SOCKET, libc::SO_PASSCRED, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: DescriptionId = DescriptionId { index: 12, generation: 3 };
    const HANDLE: HandleId = HandleId { index: 7, generation: 0x8000_0001 };

    #[test]
    fn a_name_says_what_it_was_made_of() {
        for kind in [HandleKind::Stream, HandleKind::Packets, HandleKind::Datagrams, HandleKind::Listener] {
            let (address, length) = handle_address(0x0123_4567_89ab_cdef, DESCRIPTION, HANDLE, kind).expect("it fits");
            let name = HandleName::parse(&address[..length]).expect("a handle's name");
            assert_eq!((name.family, name.description, name.handle), (0x0123_4567_89ab_cdef, DESCRIPTION, HANDLE));
            assert_eq!(name.listener, kind == HandleKind::Listener);
            assert_eq!(name.datagrams, kind == HandleKind::Datagrams);
        }
    }

    #[test]
    fn other_names_are_no_handles() {
        let names =
            ["@remora/k/1/2", "@remora/h/1/2.3", "@remora/h/x/2.3.4", "@remora/h/1/2.3.4.x", "/remora/h/1/2.3.4"];
        for text in names {
            let (address, length) = call::unix_address(text).expect("it fits");
            assert_eq!(HandleName::parse(&address[..length]), None, "{text}");
        }
        assert_eq!(HandleName::parse(&[]), None);
        assert_eq!(HandleName::parse(&[1, 0]), None);
    }

    #[test]
    fn the_name_of_a_pair_is_read_from_its_other_end() {
        let (near, far) = call::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC).expect("a pair");
        assert_eq!(HandleName::of(near), None);
        let family = u64::from(call::getpid().unsigned_abs()) << 32;
        let (address, length) = handle_address(family, DESCRIPTION, HANDLE, HandleKind::Stream).expect("it fits");
        call::bind(far, &address[..length]).expect("the name is free");
        assert_eq!(HandleName::of(near).map(|name| name.handle), Some(HANDLE));
        assert_eq!(HandleName::of(far), None);
        for fd in [near, far] {
            call::close(fd).expect("it is open");
        }
    }
}
