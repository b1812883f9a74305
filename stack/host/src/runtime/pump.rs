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

use super::handle::{HandleId, HandleKind, HandleRecord, HandleState, handle_address};
use super::member::SlotId;
use super::relay::{Flow, Relay};
use super::{Core, DescriptionId, Open};
use crate::sys::{Errno, Fd, call};
use datagrams::{Peer, Served};
use remora_stack::io::{Fault, Sink};
use remora_stack::socket::error::{ReceiveError, SendError};
use remora_stack::socket::options::SetOption;
use remora_stack::socket::protocol::{Readiness, ReceiveFlags, SendArguments, SendFlags, Shutdown, SocketId};
use remora_stack::time::Instant;
use std::io::IoSliceMut;
use std::time::Duration;

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

/// One handle being served.
struct Stream<'a> {
    core: &'a mut Core,
    open: &'a Open,
    now: Instant,
    line: &'a mut Line,
    socket: SocketId,
    piece: &'a mut Vec<u8>,
}

impl Stream<'_> {
    fn serve(&mut self, claimed: bool, shared: bool) -> Turn {
        // Before what was written is looked at: what came before the end is then all there.
        let seen = events_of(self.line.far);
        let hung_up = seen & libc::POLLHUP != 0;
        if hung_up && self.left_unread() {
            return Turn::Ends;
        }
        if hung_up {
            self.settle_lent();
        }
        let output = self.carry_output(seen);
        if output == Turn::Ends {
            return Turn::Ends;
        }
        let input = if hung_up { Turn::Rests } else { self.carry_input(claimed, shared) };
        match (output, input) {
            (_, Turn::Ends) => Turn::Ends,
            // Everything written has been carried on.
            (Turn::Rests, _) if hung_up && self.line.output_over => Turn::Ends,
            // Both halves are over: nothing is left to carry, and the program's end shows the rest by itself.
            (Turn::Rests, Turn::Rests) if self.line.is_over() => Turn::Ends,
            (Turn::Goes, _) | (_, Turn::Goes) => Turn::Goes,
            _ => Turn::Rests,
        }
    }

    /// Whether the program closed its end with bytes unread (`unix_release_sock`): a reset goes out.
    fn left_unread(&mut self) -> bool {
        if call::option_int(self.line.far, libc::SOL_SOCKET, libc::SO_ERROR) != Ok(libc::ECONNRESET) {
            return false;
        }
        let id = self.core.handles.table.find(self.line.handle).map(|record| record.description);
        if let Some(id) = id {
            self.core.abort_for_strangers(self.now, id, self.socket);
        }
        true
    }

    /// What the program has written goes to the stack, as far as it has room.
    fn carry_output(&mut self, seen: i16) -> Turn {
        if self.line.output_over {
            self.core.handle_is_drained(self.line.handle);
            return Turn::Rests;
        }
        for _ in 0..TURN {
            let far = self.line.far;
            if seen & libc::POLLPRI != 0 && self.is_at_urgent() {
                if !self.core.stack.readiness(self.socket).contains(Readiness::OUT) {
                    return Turn::Rests;
                }
                if self.carry_urgent() {
                    continue;
                }
            }
            let kept = self.line.kept;
            let open = self.open;
            let piece = &mut *self.piece;
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            let filled = open.consistently(|| call::receive(far, piece, flags)).unwrap_or_default();
            let mut fresh = self.piece.get(kept..filled).unwrap_or(&[]);
            if fresh.is_empty() {
                self.core.handle_is_drained(self.line.handle);
                if seen & libc::POLLRDHUP != 0 {
                    self.line.output_over = true;
                    if seen & libc::POLLHUP == 0 {
                        let _ = self.core.stack.shutdown(self.now, self.socket, Shutdown::Write);
                    }
                }
                return Turn::Rests;
            }
            let result = self.core.stack.send(self.now, self.socket, &mut fresh, &SendArguments::default());
            match result {
                Ok(0) | Err(SendError::WouldBlock | SendError::Memory) => return Turn::Rests,
                Ok(taken) => {
                    self.core.claim_handle(self.line.handle);
                    // All but the last byte carried on is taken out of the queue.
                    let done = (kept + taken).saturating_sub(1);
                    self.line.kept = 1;
                    let room = self.piece.get_mut(..done).unwrap_or(&mut []);
                    if !room.is_empty() {
                        let _ = call::receive(far, room, libc::MSG_DONTWAIT);
                    }
                }
                Err(error) => {
                    self.line.failed |= matches!(error, SendError::Fault(_));
                    self.line.output_over = true;
                    // The program's writes fail with EPIPE from here on.
                    let _ = call::shutdown(far, libc::SHUT_RD);
                    return Turn::Rests;
                }
            }
        }
        Turn::Goes
    }

    /// Whether the next byte that the program has written is an urgent one.
    fn is_at_urgent(&mut self) -> bool {
        // The byte kept stands before it.
        if self.line.kept > 0 {
            let mut two = [0u8; 2];
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            if call::receive(self.line.far, &mut two, flags) != Ok(1) {
                return false;
            }
            // It goes: while urgent data waits there is something unread anyway.
            let _ = call::receive(self.line.far, &mut [0], libc::MSG_DONTWAIT);
            self.line.kept = 0;
        }
        call::is_at_mark(self.line.far)
    }

    /// The urgent byte goes to the stack, which has room; says whether there was one that had not gone before.
    fn carry_urgent(&mut self) -> bool {
        let mut byte = [0u8];
        let flags = libc::MSG_OOB | libc::MSG_DONTWAIT;
        if call::receive(self.line.far, &mut byte, flags) != Ok(1) {
            return false;
        }
        let arguments = SendArguments { flags: SendFlags::OOB, ..SendArguments::default() };
        let _ = self.core.stack.send(self.now, self.socket, &mut byte.as_slice(), &arguments);
        self.core.claim_handle(self.line.handle);
        true
    }

    /// An urgent byte that is the next to be read goes to the program's end as one; false when it has no room.
    fn bring_urgent(&mut self) -> bool {
        let mut bytes = [0u8; 1];
        let mut sink = Piece { bytes: &mut bytes, length: 0 };
        let flags = ReceiveFlags::OOB | ReceiveFlags::PEEK | ReceiveFlags::DONTWAIT;
        // Read already, or to be read as any other.
        let Ok(1) = self.core.stack.receive(self.now, self.socket, &mut sink, flags).map(|it| it.length) else {
            return true;
        };
        let flags = libc::MSG_OOB | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if call::send(self.line.far, &bytes, flags).is_err() {
            return false;
        }
        let mut sink = Piece { bytes: &mut bytes, length: 0 };
        let flags = ReceiveFlags::OOB | ReceiveFlags::DONTWAIT;
        let _ = self.core.stack.receive(self.now, self.socket, &mut sink, flags);
        true
    }

    /// What was lent has been received: it leaves the stack's queue.
    fn settle_lent(&mut self) {
        let lent = std::mem::take(&mut self.line.lent);
        if lent > 0 {
            self.core.stack.withhold_input(self.now, self.socket, false);
            let flags = ReceiveFlags::TRUNC | ReceiveFlags::DONTWAIT;
            let _ = self.core.stack.receive(self.now, self.socket, &mut Nowhere(lent), flags);
        }
    }

    /// Whether the program's end has received all that it was sent. One that has just been closed has thrown it away;
    /// that shows before (`unix_release_sock`).
    fn has_received_all(&self) -> bool {
        let open = self.open;
        let far = self.line.far;
        open.consistently(|| call::queued_output(far)) == Ok(0) && events_of(far) & libc::POLLHUP == 0
    }

    /// What has arrived goes to the program's end, as far as it has room.
    fn carry_input(&mut self, claimed: bool, shared: bool) -> Turn {
        if self.line.lent > 0 {
            if !self.has_received_all() {
                return Turn::Rests;
            }
            self.settle_lent();
        }
        if self.line.input_over {
            return self.watch_for_failure();
        }
        if !claimed {
            return Turn::Rests;
        }
        for _ in 0..TURN {
            if self.core.stack.at_mark(self.socket) && !self.bring_urgent() {
                return Turn::Rests;
            }
            let most = if shared { LENT } else { CHUNK };
            let mut sink = Piece { bytes: self.piece.get_mut(..most).unwrap_or(&mut []), length: 0 };
            let flags = ReceiveFlags::PEEK | ReceiveFlags::DONTWAIT;
            match self.core.stack.receive(self.now, self.socket, &mut sink, flags) {
                Ok(received) if received.length == 0 => {
                    self.line.input_over = true;
                    let _ = call::shutdown(self.line.far, libc::SHUT_WR);
                    return Turn::Rests;
                }
                Ok(received) => {
                    let (far, open) = (self.line.far, self.open);
                    let bytes = self.piece.get(..received.length).unwrap_or(&[]);
                    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                    match open.consistently(|| call::send(far, bytes, flags)) {
                        Ok(sent) if shared => {
                            self.line.lent = sent;
                            self.core.stack.withhold_input(self.now, self.socket, true);
                            return Turn::Rests;
                        }
                        Ok(sent) => {
                            let _ = self.core.stack.receive(
                                self.now,
                                self.socket,
                                &mut Nowhere(sent),
                                ReceiveFlags::TRUNC | ReceiveFlags::DONTWAIT,
                            );
                            if sent < received.length {
                                return Turn::Rests;
                            }
                        }
                        // The program reads no more: as on TCP, what arrives stays where it is.
                        Err(Errno(libc::EPIPE)) => {
                            self.line.input_over = true;
                            let _ = self.core.stack.shutdown(self.now, self.socket, Shutdown::Read);
                            return Turn::Rests;
                        }
                        // Full: its end tells when it has been read from.
                        Err(_) => return Turn::Rests,
                    }
                }
                Err(ReceiveError::Fault(_)) => {
                    self.line.failed = true;
                    return self.show_failure();
                }
                Err(_) if self.line.failed => return self.show_failure(),
                Err(_) => return Turn::Rests,
            }
        }
        Turn::Goes
    }

    /// After the end of what arrives, a reset is still to be shown.
    fn watch_for_failure(&mut self) -> Turn {
        let failed = self.core.stack.take_error(self.socket).is_some();
        if failed || self.line.failed { self.show_failure() } else { Turn::Rests }
    }

    /// Our end is closed with a byte unread, so the program's shows ECONNRESET once.
    fn show_failure(&mut self) -> Turn {
        Turn::Ends
    }

    /// Datagrams, one for one, both ways.
    fn serve_packets(&mut self, claimed: bool) -> Turn {
        let seen = events_of(self.line.far);
        let mut goes = false;
        for turn in 0..=TURN {
            match self.packet_out() {
                Some(true) if turn < TURN => {}
                Some(moved) => {
                    goes |= moved;
                    break;
                }
                // The end of all packets.
                None if seen & libc::POLLHUP != 0 => return Turn::Ends,
                None => break,
            }
        }
        if seen & libc::POLLHUP != 0 {
            return if goes { Turn::Goes } else { Turn::Ends };
        }
        for turn in 0..=TURN {
            let moved = claimed && self.packet_in();
            if !moved {
                break;
            }
            goes |= turn == TURN;
        }
        if goes { Turn::Goes } else { Turn::Rests }
    }

    /// One datagram to the stack: whether one was moved, or `None` when there is none.
    fn packet_out(&mut self) -> Option<bool> {
        let mut control = [0u8; 64];
        let received = {
            let mut parts = [IoSliceMut::new(self.piece)];
            call::receive_message(self.line.far, &mut parts, &mut control, libc::MSG_PEEK | libc::MSG_DONTWAIT)
        };
        let Ok(received) = received else {
            self.core.handle_is_drained(self.line.handle);
            return None;
        };
        if received.control == 0 {
            self.core.handle_is_drained(self.line.handle);
            return None;
        }
        let mut bytes = self.piece.get(..received.length).unwrap_or(&[]);
        let sent = self.core.stack.send(self.now, self.socket, &mut bytes, &SendArguments::default());
        if sent == Err(SendError::WouldBlock) {
            return Some(false);
        }
        // What cannot be sent is lost, as a datagram is; an error that was waiting has been told by this.
        self.core.claim_handle(self.line.handle);
        let _ = call::receive(self.line.far, self.piece.get_mut(..1).unwrap_or(&mut []), libc::MSG_DONTWAIT);
        Some(true)
    }

    /// One datagram to the program's end: whether one was moved.
    fn packet_in(&mut self) -> bool {
        let mut sink = Piece { bytes: self.piece, length: 0 };
        let flags = ReceiveFlags::PEEK | ReceiveFlags::DONTWAIT;
        match self.core.stack.receive(self.now, self.socket, &mut sink, flags) {
            Ok(received) => {
                let bytes = self.piece.get(..received.length).unwrap_or(&[]);
                let sent = call::send(self.line.far, bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
                if sent.is_ok() {
                    let flags = ReceiveFlags::DONTWAIT;
                    let _ = self.core.stack.receive(self.now, self.socket, &mut Nowhere(0), flags);
                }
                sent.is_ok()
            }
            // An ICMP error has nowhere to be shown; what follows it has.
            Err(ReceiveError::Fault(_)) => true,
            Err(_) => false,
        }
    }
}
