//! Serving handles, in the keeper: bytes, datagrams, connections, half-closes, resets and ends are carried between a
//! socket of the stack and the AF_UNIX socket that a stranger has for it. Nothing is taken from either side before the
//! other has taken it, so both queues keep their limits and push back, and nothing is lost when a handle is given up.
//!
//! A byte stays unread in the keeper's end of a stream: first the one put there when the pair was made, then the last
//! one that was carried on. Closing an end with something unread is what shows a reset to the other one
//! (`unix_release_sock`). It would make a level-triggered poll fire for ever, so the ends are watched edge-triggered.
//!
//! While members hold the socket too, a stranger is lent a small piece at a time, which stays first in the stack's queue
//! (`Stack::withhold_input`) until it has been received: what the stranger leaves unread when it ends is theirs, as sshd's
//! child leaves to its parent what comes after the authentication.
//!
//! A stranger who merely inherited a socket that members still hold takes nothing that arrives for them: see
//! [`HandleRecord::claimed`].

mod datagrams;
mod stream;

use super::handle::{HandleId, HandleKind, HandleRecord, HandleState, handle_address};
use super::member::SlotId;
use super::relay::{Flow, Relay};
use super::{Core, DescriptionId, Open};
use crate::sys::{Errno, Fd, call};
use datagrams::{Peer, Served};
use remora_stack::io::{Fault, Sink};
use remora_stack::socket::options::SetOption;
use remora_stack::socket::protocol::{Readiness, SocketId};
use remora_stack::time::Instant;
use std::time::Duration;
use stream::Stream;

/// Bytes moved in one piece; a datagram fits.
const CHUNK: usize = 64 << 10;

/// Most that a stranger is lent at a time. What reads less before it ends has read nothing.
const LENT: usize = 8 << 10;

/// Pieces moved for one handle before others, and the device, have their turn.
const TURN: usize = 4;

/// Events asked for at once.
const EVENTS: usize = 32;

/// When to try again to hand over a connection that a stranger's full queue did not take: accept tells nobody.
const QUEUE_LOOK: Duration = Duration::from_millis(5);

/// When to look again whether a socket that tells nobody of its end is still there, once the process that it was made
/// for has gone or is not known.
const END_LOOK: Duration = Duration::from_secs(1);

/// One handle as the keeper has it.
#[derive(Debug)]
struct Line {
    handle: HandleId,
    /// Our end; of a listener or a datagram socket without a peer, the process that it was made for.
    far: Fd,
    /// Bytes at the head of our queue that have been carried on already: 0 or 1.
    kept: usize,
    /// Bytes that the program's end has been sent and that stand in the stack's queue still.
    lent: usize,
    /// The program's end is told that nothing more comes.
    input_over: bool,
    /// Nothing more is taken from the program's end.
    output_over: bool,
    /// Set when the stack has told of a failure that the program's end has not been shown.
    failed: bool,
    /// Something may be done now.
    ready: bool,
    /// When to look without being told.
    look: Option<Instant>,
}

impl Line {
    /// Both halves have ended as they should.
    const fn is_over(&self) -> bool {
        self.input_over && self.output_over && !self.failed
    }
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing more can be done until something happens.
    Rests,
    /// There may be more to move.
    Goes,
    /// The handle has ended.
    Ends,
}

/// The keeper's part of all handles.
#[derive(Debug)]
pub(super) struct Pump {
    /// Watches our ends, edge-triggered.
    set: Fd,
    lines: Vec<Line>,
    /// Senders of datagrams, for handles without a peer.
    peers: Vec<Peer>,
    /// One piece on its way.
    pub(super) piece: Vec<u8>,
    /// Name relays and their clients.
    pub(super) relays: Vec<Relay>,
    pub(super) flows: Vec<Flow>,
    /// A query on its way.
    pub(super) query: Vec<u8>,
}

/// Room for one piece.
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) length: usize,
}

impl Sink for Piece<'_> {
    fn room(&self) -> usize {
        self.bytes.len() - self.length
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let room = self.bytes.get_mut(self.length..).and_then(|rest| rest.get_mut(..bytes.len())).ok_or(Fault)?;
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }
}

/// Room for so many bytes that are thrown away.
struct Nowhere(usize);

impl Sink for Nowhere {
    fn room(&self) -> usize {
        self.0
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.0 = self.0.saturating_sub(bytes.len());
        Ok(())
    }
}

/// The events of a descriptor now.
fn events_of(fd: Fd) -> i16 {
    let events = libc::POLLIN | libc::POLLPRI | libc::POLLOUT | libc::POLLRDHUP;
    let mut set = [libc::pollfd { fd: fd.raw(), events, revents: 0 }];
    match call::ppoll(&mut set, Some(Duration::ZERO), None) {
        Ok(_) => set.first().map_or(0, |one| one.revents),
        Err(_) => 0,
    }
}

impl Pump {
    pub(super) const fn new() -> Self {
        Self {
            set: Fd::NONE,
            lines: Vec::new(),
            peers: Vec::new(),
            piece: Vec::new(),
            relays: Vec::new(),
            flows: Vec::new(),
            query: Vec::new(),
        }
    }

    /// What to watch for input beside the rest; none while there are no handles.
    pub(super) const fn fd(&self) -> Fd {
        self.set
    }

    /// A member has handed over our end of a handle.
    pub(super) fn take(&mut self, core: Option<&mut Core>, handle: HandleId, far: Fd) {
        let record = core.and_then(|core| core.handles.table.find_mut(handle));
        let Some(record) = record else {
            let _ = call::close(far);
            return;
        };
        record.known = true;
        let kept = usize::from(record.kind == HandleKind::Stream);
        self.add(handle, far, kept);
    }

    /// Makes what serving needs.
    pub(super) fn prepare(&mut self) {
        if !self.set.is_some() {
            let made = call::epoll_create(libc::EPOLL_CLOEXEC);
            self.set = made.and_then(|fd| call::raise_high(fd, 3)).unwrap_or(Fd::NONE);
        }
        if self.piece.is_empty() {
            self.piece.resize(CHUNK, 0);
        }
    }

    pub(super) fn add(&mut self, handle: HandleId, far: Fd, kept: usize) {
        self.prepare();
        self.watch(handle, far);
        self.lines.push(Line {
            handle,
            far,
            kept,
            lent: 0,
            input_over: false,
            output_over: false,
            failed: false,
            ready: true,
            look: None,
        });
    }

    /// Has the line of a handle served when something happens to a descriptor.
    pub(super) fn watch(&self, handle: HandleId, fd: Fd) {
        let events = libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: handle.pack() };
        let _ = call::epoll_ctl(self.set, libc::EPOLL_CTL_ADD, fd, Some(&mut event));
    }

    /// Notes what has happened to our ends.
    pub(super) fn hear(&mut self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        while let Ok(count @ 1..) = call::epoll_pwait(self.set, &mut events, 0, None) {
            for event in events.iter().take(count) {
                let handle = HandleId::unpack(event.u64);
                if let Some(line) = self.lines.iter_mut().find(|line| line.handle == handle) {
                    line.ready = true;
                } else if handle.generation == 0
                    && let Some(relay) = self.relays.get_mut(handle.index as usize)
                {
                    relay.ready = true;
                }
            }
            if count < EVENTS {
                break;
            }
        }
    }

    /// Whether there is anything to serve.
    pub(super) const fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.relays.is_empty()
    }

    /// Moves what can be moved; says when to come again without being told. Runs under the lock: the system calls that it
    /// makes do not wait, and between them the state is whole.
    pub(super) fn run(&mut self, core: &mut Core, open: &Open, now: Instant) -> Option<Instant> {
        let expected = core.next_expected(now);
        let due = std::mem::take(&mut core.handles.due);
        for handle in &due {
            if let Some(record) = core.handles.table.find_mut(*handle) {
                record.due = false;
            }
            if let Some(line) = self.lines.iter_mut().find(|line| line.handle == *handle) {
                line.ready = true;
            } else if let Some(flow) = self.flows.iter_mut().find(|flow| flow.handle == *handle) {
                flow.ready = true;
            }
        }
        // The vector is the arena's.
        drop(due);
        let mut next = [expected, self.run_relays(core, open, now)].into_iter().flatten().min();
        let mut index = 0;
        while let Some(line) = self.lines.get_mut(index) {
            let is_time = line.look.is_some_and(|look| look <= now);
            let known = core.handles.table.find(line.handle).is_some();
            if known && !line.ready && !is_time {
                next = [next, line.look].into_iter().flatten().min();
                index += 1;
                continue;
            }
            line.ready = false;
            line.look = None;
            let turn = if known { self.serve(core, open, now, index) } else { Turn::Ends };
            let Some(line) = self.lines.get_mut(index) else { break };
            match turn {
                Turn::Rests => next = [next, line.look].into_iter().flatten().min(),
                Turn::Goes => {
                    line.ready = true;
                    next = Some(now);
                }
                Turn::Ends => {
                    let line = self.lines.swap_remove(index);
                    if line.lent > 0 {
                        core.give_back(now, line.handle);
                    }
                    if line.kept > 0 && !line.failed {
                        // With nothing unread, closing shows no reset.
                        let _ = call::receive(line.far, &mut [0], libc::MSG_DONTWAIT);
                    }
                    let _ = call::close(line.far);
                    self.drop_peers(line.handle);
                    core.drop_handle(now, line.handle);
                    continue;
                }
            }
            index += 1;
        }
        next
    }

    fn serve(&mut self, core: &mut Core, open: &Open, now: Instant, index: usize) -> Turn {
        let Some(line) = self.lines.get_mut(index) else { return Turn::Ends };
        let Some(record) = core.handles.table.find(line.handle) else { return Turn::Ends };
        let HandleRecord { description: id, kind, state, wanders, draining, .. } = *record;
        let Some(socket) = core.socket_of(id) else { return Turn::Ends };
        let pumped = state == HandleState::Pumped;
        match kind {
            HandleKind::Listener | HandleKind::Datagrams => {
                let gone = wanders || events_of(line.far) & libc::POLLIN != 0;
                if gone && is_free(open.identity, id, line.handle, kind) {
                    return Turn::Ends;
                }
                if gone {
                    line.look = Some(now + END_LOOK);
                }
                match kind {
                    HandleKind::Listener if pumped => self.hand_over(core, open, now, index, (id, socket)),
                    HandleKind::Datagrams if pumped => {
                        let handle = line.handle;
                        let claimed = core.may_take_input(handle, id);
                        self.serve_datagrams(core, now, Served { family: open.identity, id, handle, socket, claimed })
                    }
                    _ => Turn::Rests,
                }
            }
            HandleKind::Stream | HandleKind::Packets if !pumped => {
                // Closed before it was started.
                if events_of(line.far) & libc::POLLHUP == 0 { Turn::Rests } else { Turn::Ends }
            }
            HandleKind::Stream => {
                let claimed = core.may_take_input(line.handle, id);
                let shared = core.is_held_directly(id);
                let mut stream = Stream { core, open, now, line, socket, piece: &mut self.piece };
                if draining {
                    // Whoever takes the handle back puts back what is unread in it.
                    stream.settle_lent();
                }
                stream.serve(claimed, shared)
            }
            HandleKind::Packets => {
                let claimed = core.may_take_input(line.handle, id);
                let mut stream = Stream { core, open, now, line, socket, piece: &mut self.piece };
                stream.serve_packets(claimed)
            }
        }
    }

    /// Connections that have come in go to the stranger's queue, as many as it takes.
    fn hand_over(
        &mut self,
        core: &mut Core,
        open: &Open,
        now: Instant,
        index: usize,
        (listener, socket): (DescriptionId, SocketId),
    ) -> Turn {
        for _ in 0..TURN {
            let Some(line) = self.lines.get_mut(index) else { return Turn::Ends };
            let handle = line.handle;
            let waiting = core.stack.readiness(socket).contains(Readiness::IN);
            if !waiting || !core.may_take_input(handle, listener) {
                return Turn::Rests;
            }
            let reached = connect_to(open.identity, listener, handle);
            let far = match reached {
                Ok(far) => far,
                // Full; who accepts from it tells nobody.
                Err(Errno(libc::EAGAIN | libc::EINTR)) => {
                    line.look = Some(now + QUEUE_LOOK);
                    return Turn::Rests;
                }
                // The last copy of it has been closed.
                Err(Errno(libc::ECONNREFUSED)) => return Turn::Ends,
                Err(_) => {
                    line.look = Some(now + END_LOOK);
                    return Turn::Rests;
                }
            };
            let accepted = core.accept_for_strangers(open, now, listener, socket);
            let Some((id, new)) = accepted else {
                let _ = call::close(far);
                return Turn::Rests;
            };
            if let Ok((name, length)) = handle_address(open.identity, id, new, HandleKind::Stream) {
                let _ = call::bind(far, name.get(..length).unwrap_or(&[]));
            }
            let _private = crate::sys::alloc::leave_arena();
            self.add(new, far, 0);
        }
        Turn::Goes
    }
}

/// Whether nobody has the socket of this name any more.
fn is_free(family: u64, id: DescriptionId, handle: HandleId, kind: HandleKind) -> bool {
    let Ok((name, length)) = handle_address(family, id, handle, kind) else { return false };
    // Streams and datagrams share the names (`unix_find_bsd`, `unix_bind_abstract` look at the type too).
    let socket_type = if kind == HandleKind::Listener { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let Ok(probe) = call::socket(libc::AF_UNIX, socket_type | libc::SOCK_CLOEXEC, 0) else { return false };
    let free = call::bind(probe, name.get(..length).unwrap_or(&[])).is_ok();
    let _ = call::close(probe);
    free
}

/// A connection to a listener's handle.
fn connect_to(family: u64, listener: DescriptionId, handle: HandleId) -> Result<Fd, Errno> {
    let (name, length) = handle_address(family, listener, handle, HandleKind::Listener)?;
    let far = call::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
    match call::connect(far, name.get(..length).unwrap_or(&[])) {
        Ok(()) => Ok(far),
        Err(errno) => {
            let _ = call::close(far);
            Err(errno)
        }
    }
}

impl Core {
    /// Whether a handle may take what arrives: nobody else could, or it is meant to.
    fn may_take_input(&self, handle: HandleId, id: DescriptionId) -> bool {
        let Some(record) = self.handles.table.find(handle) else { return false };
        record.returns_to == SlotId::NONE && (record.claimed || !self.is_held_directly(id))
    }

    /// Whether members have the socket too.
    fn is_held_directly(&self, id: DescriptionId) -> bool {
        let found = self.descriptions.find(id);
        found.is_some_and(|description| description.holders.total() > description.holders.count(SlotId::STRANGERS))
    }

    /// What a handle was lent, and has not been received, is everybody's again.
    fn give_back(&mut self, now: Instant, handle: HandleId) {
        let id = self.handles.table.find(handle).map(|record| record.description);
        if let Some(socket) = id.and_then(|id| self.socket_of(id)) {
            self.stack.withhold_input(now, socket, false);
        }
    }

    /// The stranger has used the handle: what arrives is for it too.
    fn claim_handle(&mut self, handle: HandleId) {
        if let Some(record) = self.handles.table.find_mut(handle) {
            record.claimed = !record.draining;
        }
    }

    /// All that was written to the handle has been carried on.
    fn handle_is_drained(&mut self, handle: HandleId) {
        if let Some(record) = self.handles.table.find_mut(handle) {
            record.draining = false;
            record.awaited = false;
        }
    }

    /// Takes a connection for whoever has the listener's handle.
    fn accept_for_strangers(
        &mut self,
        open: &Open,
        now: Instant,
        listener: DescriptionId,
        socket: SocketId,
    ) -> Option<(DescriptionId, HandleId)> {
        let kind = self.descriptions.find(listener)?.kind;
        let (accepted, _) = self.stack.accept(now, socket).ok()?;
        let id = self.describe(open, SlotId::STRANGERS, accepted, kind, false);
        let handle = self.handles.table.insert(HandleRecord {
            description: id,
            kind: HandleKind::Stream,
            state: HandleState::Pumped,
            claimed: true,
            known: true,
            wanders: true,
            returns_to: SlotId::NONE,
            awaited: false,
            due: false,
            draining: false,
        });
        if let Some(description) = self.descriptions.find_mut(id) {
            description.handles.push(handle);
        }
        Some((id, handle))
    }

    /// Closes the connection as a process does that leaves data unread: with a reset. Others who hold it keep it.
    fn abort_for_strangers(&mut self, now: Instant, id: DescriptionId, socket: SocketId) {
        let last = self.descriptions.find(id).is_some_and(|description| description.holders.total() <= 1);
        if last {
            let _ = self.stack.set_option(now, socket, &SetOption::Linger(Some(Duration::ZERO)));
        }
    }
}
