//! Name relays: the way of glibc's resolver to a name server through the stack. The sockets inside libc cannot be
//! interposed; but for the length of a call its list of servers can name a socket of the kernel's on 127.0.0.1, which the
//! keeper has, with a TCP listener beside it under the same number. The keeper sends each client's queries on from a
//! socket of the stack of their own, and the answers back. So nsswitch, /etc/hosts, search, time-outs, EDNS and the step
//! from a cut answer to TCP (RFC 7766 §5) stay libc's. Who points libc to a relay is the shim.

use super::description::SocketKind;
use super::handle::{HandleId, HandleKind, HandleRecord, HandleState};
use super::keeper::{Message, send_to_keeper};
use super::member::SlotId;
use super::pump::{Piece, Pump};
use super::{Core, Open, Runtime};
use crate::sys::alloc::leave_arena;
use crate::sys::{Errno, Fd, call};
use remora_stack::socket::error::{ConnectError, ReceiveError};
use remora_stack::socket::options::SetOption;
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::time::Instant;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// How often another port is tried that is free for UDP and for TCP.
const PORT_TRIES: usize = 16;

/// Connections that wait for the keeper.
const BACKLOG: i32 = 16;

/// Queries moved before the device has its turn.
const QUERIES_AT_A_TIME: usize = 32;

/// Largest query taken.
const MOST_QUERY: usize = 65_535;

/// Clients that the keeper serves at a time; the one that came first makes room.
const MOST_FLOWS: usize = 512;

/// Largest UDP query that is kept to be answered with SERVFAIL (RFC 1035 §4.2.1); A and AAAA go out as a pair.
const KEPT_QUERY: usize = 512;
const KEPT_QUERIES: usize = 2;

/// When to look whether a client's socket is still there: a UDP socket tells nobody of its end.
const CLIENT_LOOK: Duration = Duration::from_secs(1);

/// What the family knows of a relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelayRecord {
    server: SocketAddrV4,
    port: u16,
    /// Which keeper has it.
    keeper: u32,
}

/// A relay as the keeper has it.
#[derive(Debug)]
pub(super) struct Relay {
    server: SocketAddrV4,
    queries: Fd,
    connections: Fd,
    /// Something may have come.
    pub(super) ready: bool,
}

/// One client that asks by UDP.
#[derive(Debug)]
pub(super) struct Flow {
    relay: usize,
    client: SocketAddrV4,
    pub(super) handle: HandleId,
    look: Instant,
    /// Something may have come from the server.
    pub(super) ready: bool,
    /// The last queries.
    asked: Vec<Vec<u8>>,
}

/// A struct sockaddr_in.
fn encode(name: SocketAddrV4) -> [u8; 16] {
    let mut bytes = [0; 16];
    let [high, low] = name.port().to_be_bytes();
    let [a, b, c, d] = name.ip().octets();
    let [first, second] = (libc::AF_INET as u16).to_ne_bytes();
    for (place, byte) in bytes.iter_mut().zip([first, second, high, low, a, b, c, d]) {
        *place = byte;
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [first, second, high, low, a, b, c, d] = *bytes.first_chunk()?;
    let family = i32::from(u16::from_ne_bytes([first, second]));
    (family == libc::AF_INET).then(|| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
}

/// A kernel socket on 127.0.0.1.
fn local_socket(kind: i32, port: u16) -> Result<Fd, Errno> {
    let fd = call::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
    match call::bind(fd, &encode(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            let _ = call::close(fd);
            Err(errno)
        }
    }
}

/// A UDP socket and a TCP listener under one number.
fn local_pair() -> Result<(Fd, Fd, u16), Errno> {
    let mut last = Errno(libc::EADDRINUSE);
    for _ in 0..PORT_TRIES {
        let queries = local_socket(libc::SOCK_DGRAM, 0)?;
        let mut name = [0; 16];
        let port = call::local_name(queries, &mut name).ok().and_then(|_| decode(&name)).map_or(0, |name| name.port());
        let connections = local_socket(libc::SOCK_STREAM, port);
        match connections.and_then(|fd| call::listen(fd, BACKLOG).map(|()| fd)) {
            Ok(connections) => return Ok((queries, connections, port)),
            Err(errno) => last = errno,
        }
        if let Ok(fd) = connections {
            let _ = call::close(fd);
        }
        let _ = call::close(queries);
    }
    Err(last)
}

impl Runtime {
    /// The port of 127.0.0.1 at which queries for a name server go through the stack. The device and the keeper must have
    /// been brought up; without a keeper there are no relays.
    #[must_use]
    pub fn name_relay(&self, server: SocketAddrV4) -> Option<u16> {
        let open = self.family.open();
        self.await_keeper();
        let keeper = open.keeper_generation();
        if keeper == 0 {
            return None;
        }
        let known = self.enter(|core, _| {
            core.relays.iter().find(|relay| relay.server == server && relay.keeper == keeper).map(|relay| relay.port)
        });
        if let Some(port) = known.ok()? {
            return Some(port);
        }
        let (queries, connections, port) = match local_pair() {
            Ok(pair) => pair,
            Err(errno) => {
                log::warn!(target: "remora::names", "no relay for {server}: 127.0.0.1 cannot be used: errno {}", errno.0);
                return None;
            }
        };
        let sent = send_to_keeper(open, Message::Relay(server), &[queries, connections]);
        let _ = call::close(queries);
        let _ = call::close(connections);
        if !sent {
            return None;
        }
        let record = RelayRecord { server, port, keeper };
        self.enter(|core, _| {
            core.relays.retain(|relay| relay.keeper == keeper);
            core.relays.push(record);
        })
        .ok()?;
        log::info!(target: "remora::names", "queries for {server} go by way of 127.0.0.1:{port}");
        Some(port)
    }

    /// Whether a port of 127.0.0.1 is a relay's.
    #[must_use]
    pub fn is_name_relay(&self, port: u16) -> bool {
        self.enter(|core, _| core.relays.iter().any(|relay| relay.port == port)).unwrap_or(false)
    }
}

impl Core {
    /// A socket of the stack for a client, with a description that is the strangers' and a handle by which its events
    /// reach the keeper.
    fn open_for_client(
        &mut self,
        open: &Open,
        now: Instant,
        server: SocketAddrV4,
        kind: SocketType,
    ) -> Option<HandleId> {
        let socket = self.stack.socket(now, AddressFamily::Inet, kind, 0).ok()?;
        // libc's own sockets have IP_RECVERR (`__res_enable_icmp`): a network or a host that cannot be reached is heard of,
        // too, not only a closed port.
        let _ = self.stack.set_option(now, socket, &SetOption::ReceiveErrors(true));
        let result = self.stack.connect(now, socket, SocketAddr::V4(server));
        let protocol = if kind == SocketType::Stream { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP } as u8;
        let kind = SocketKind { family: AddressFamily::Inet, kind, protocol };
        let id = self.describe(open, SlotId::STRANGERS, socket, kind, true);
        if !matches!(result, Ok(()) | Err(ConnectError::InProgress)) {
            self.release(now, SlotId::STRANGERS, id);
            return None;
        }
        let kind = if kind.kind == SocketType::Stream { HandleKind::Stream } else { HandleKind::Packets };
        let handle = self.handles.table.insert(HandleRecord {
            description: id,
            kind,
            state: HandleState::Pumped,
            claimed: true,
            known: true,
            due: false,
            draining: false,
            wanders: false,
            returns_to: SlotId::NONE,
            awaited: false,
        });
        if let Some(description) = self.descriptions.find_mut(id) {
            description.handles.push(handle);
        }
        Some(handle)
    }

    fn socket_of_handle(&self, handle: HandleId) -> Option<SocketId> {
        self.socket_of(self.handles.table.find(handle)?.description)
    }
}

/// The answer to a query that cannot be sent on: SERVFAIL, at which a resolver asks the next server (RFC 1035 §4.1.1).
fn refuse(relay: &Relay, client: SocketAddrV4, query: &mut [u8]) {
    const RESPONSE: u8 = 0x80;
    const SERVFAIL: u8 = 2;
    /// Bytes of the header.
    const HEADER: usize = 12;
    if query.len() < HEADER {
        return;
    }
    if let Some(flags) = query.get_mut(2) {
        *flags |= RESPONSE;
    }
    if let Some(code) = query.get_mut(3) {
        *code = SERVFAIL;
    }
    answer(relay, client, query);
}

fn answer(relay: &Relay, client: SocketAddrV4, bytes: &[u8]) {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // One that finds no room is lost, as a datagram is; the client asks again.
    let _ = call::send_message(relay.queries, &[IoSlice::new(bytes)], Some(&encode(client)), &[], flags);
}

/// Whether a client's UDP socket has been closed: its port of 127.0.0.1 can be had.
fn has_gone(client: SocketAddrV4) -> bool {
    match local_socket(libc::SOCK_DGRAM, client.port()) {
        Ok(probe) => {
            let _ = call::close(probe);
            true
        }
        Err(_) => false,
    }
}

impl Pump {
    /// A member has made a relay.
    pub(super) fn take_relay(&mut self, server: SocketAddrV4, queries: Fd, connections: Fd) {
        let index = u32::try_from(self.relays.len()).unwrap_or(u32::MAX);
        // No handle has generation 0.
        let name = HandleId { index, generation: 0 };
        self.prepare();
        self.query.reserve(MOST_QUERY);
        self.watch(name, queries);
        self.watch(name, connections);
        self.relays.push(Relay { server, queries, connections, ready: true });
    }

    /// Moves queries and answers; says when to come again without being told. Runs under the lock, without waiting.
    pub(super) fn run_relays(&mut self, core: &mut Core, open: &Open, now: Instant) -> Option<Instant> {
        if self.relays.is_empty() {
            return None;
        }
        // The last client has gone with the last member.
        if core.member_count() == 0 {
            for flow in self.flows.drain(..) {
                core.drop_handle(now, flow.handle);
            }
            for relay in self.relays.drain(..) {
                let _ = call::close(relay.queries);
                let _ = call::close(relay.connections);
            }
            core.relays.clear();
            return None;
        }
        let mut next = None;
        for index in 0..self.relays.len() {
            if self.relays.get(index).is_some_and(|relay| relay.ready) && self.take_queries(core, open, now, index) {
                next = Some(now);
            }
        }
        let mut index = 0;
        while let Some(flow) = self.flows.get_mut(index) {
            if std::mem::take(&mut flow.ready) {
                serve_flow(core, now, self.relays.get(flow.relay), flow, &mut self.piece);
            }
            if flow.ready {
                next = Some(now);
            }
            if flow.look <= now {
                if has_gone(flow.client) {
                    let flow = self.flows.swap_remove(index);
                    core.drop_handle(now, flow.handle);
                    continue;
                }
                flow.look = now + CLIENT_LOOK;
            }
            next = [next, Some(flow.look)].into_iter().flatten().min();
            index += 1;
        }
        next
    }

    /// Sends on what clients ask: says whether there may be more.
    fn take_queries(&mut self, core: &mut Core, open: &Open, now: Instant, index: usize) -> bool {
        let Some(relay) = self.relays.get_mut(index) else { return false };
        relay.ready = false;
        let (server, queries, connections) = (relay.server, relay.queries, relay.connections);
        while let Ok(client) = call::accept(connections, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
            match core.open_for_client(open, now, server, SocketType::Stream) {
                Some(handle) => {
                    let _private = leave_arena();
                    self.add(handle, client, 0);
                }
                None => drop(call::close(client)),
            }
        }
        for _ in 0..QUERIES_AT_A_TIME {
            let mut name = [0; 16];
            let mut query = std::mem::take(&mut self.query);
            let received = call::receive_from_into(queries, &mut name, &mut query, MOST_QUERY, libc::MSG_DONTWAIT);
            let client = decode(&name);
            if let (Ok(_), Some(client)) = (received, client) {
                self.send_on(core, open, now, index, client, &mut query);
            }
            self.query = query;
            if received.is_err() {
                return false;
            }
        }
        if let Some(relay) = self.relays.get_mut(index) {
            relay.ready = true;
        }
        true
    }

    fn send_on(
        &mut self,
        core: &mut Core,
        open: &Open,
        now: Instant,
        index: usize,
        client: SocketAddrV4,
        query: &mut [u8],
    ) {
        let Some(relay) = self.relays.get(index) else { return };
        let known = self.flows.iter_mut().find(|flow| flow.relay == index && flow.client == client);
        let flow = match known {
            Some(flow) => flow,
            None => {
                if self.flows.len() >= MOST_FLOWS {
                    let first = self.flows.remove(0);
                    core.drop_handle(now, first.handle);
                }
                let Some(handle) = core.open_for_client(open, now, relay.server, SocketType::Datagram) else {
                    return refuse(relay, client, query);
                };
                let look = now + CLIENT_LOOK;
                let _private = leave_arena();
                self.flows.push(Flow { relay: index, client, handle, look, ready: false, asked: Vec::new() });
                let Some(flow) = self.flows.last_mut() else { return };
                flow
            }
        };
        if query.len() <= KEPT_QUERY {
            if flow.asked.len() == KEPT_QUERIES {
                flow.asked.remove(0);
            }
            let _private = leave_arena();
            flow.asked.push(query.to_vec());
        }
        let socket = core.socket_of_handle(flow.handle);
        let sent =
            socket.is_some_and(|socket| core.stack.send(now, socket, &mut &*query, &SendArguments::default()).is_ok());
        if !sent {
            refuse(relay, client, query);
        }
    }
}

/// What has come from the server for one client.
fn serve_flow(core: &mut Core, now: Instant, relay: Option<&Relay>, flow: &mut Flow, piece: &mut [u8]) {
    let (Some(relay), Some(socket)) = (relay, core.socket_of_handle(flow.handle)) else { return };
    for _ in 0..QUERIES_AT_A_TIME {
        let mut sink = Piece { bytes: piece, length: 0 };
        match core.stack.receive(now, socket, &mut sink, ReceiveFlags::DONTWAIT) {
            Ok(received) => answer(relay, flow.client, piece.get(..received.length).unwrap_or(&[])),
            // The server, or the way to it, has said no.
            Err(ReceiveError::Fault(_)) => {
                for mut query in flow.asked.drain(..) {
                    refuse(relay, flow.client, &mut query);
                }
            }
            Err(_) => return,
        }
    }
    flow.ready = true;
}
