//! The INET socket layer: connect, bind, listen, accept, shutdown and names with the socket's own state, above the
//! protocol switch (Linux's af_inet.c). Nothing here waits; a blocking caller polls what it began.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use log::{debug, trace};

use super::error::{AcceptError, BindError, ConnectError, CreateError, ListenError, NameError, ShutdownError};
use super::kept::Kept;
use super::options::Through;
use super::protocol::{AddressFamily, Shutdown, SockId, SocketId, SocketType};
use super::protosw::Transport;
use super::state::SocketState;
use crate::ip::AddressKind;
use crate::stack::Stack;
use crate::tcp::State;
use crate::time::Instant;

/// A socket of the socket layer (`struct socket`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    pub(crate) family: AddressFamily,
    pub(crate) kind: SocketType,
    pub(crate) protocol: u8,
    pub(crate) transport: Transport,
    /// The protocol's own socket below.
    pub(crate) sock: SockId,
    pub(crate) state: SocketState,
}

/// What the protocol below a socket is doing, as far as the socket layer asks (`1 << sk->sk_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Closed,
    Listening,
    SynSent,
    SynReceived,
    /// Any other state: a connection, or what is left of one.
    Open,
}

impl Stack {
    /// Makes a socket (`inet_create`). The program's numbers were judged by [`super::family::Families::resolve`].
    ///
    /// # Errors
    /// See [`CreateError`].
    //= REF S-03
    pub fn socket(
        &mut self,
        now: Instant,
        family: AddressFamily,
        kind: SocketType,
        protocol: u8,
    ) -> Result<SocketId, CreateError> {
        self.enter(now);
        let (row, protocol) = self.switch.find(kind, protocol)?;
        let id = self
            .sockets
            .insert_with(|_: SocketId| Socket {
                family,
                kind,
                protocol,
                transport: row.transport,
                sock: SockId { index: 0, generation: 0 },
                state: SocketState::Unconnected,
            })
            .ok_or(CreateError::NoMemory)?;
        // Ping and raw sockets share a table; see `raw/switch.rs`.
        let served = if row.transport == Transport::Ping { super::protosw::ANY } else { protocol };
        let (below, mut net) = self.below(row.transport);
        match below.create(&mut net, id, family, served) {
            Ok(sock) => {
                if let Some(socket) = self.sockets.find_mut(id) {
                    socket.sock = sock;
                }
                trace!(target: "remora::socket", "socket {}: {family:?} {kind:?} protocol {protocol} -> {:?}", id.index, row.transport);
                Ok(id)
            }
            Err(error) => {
                self.sockets.remove(id);
                Err(error)
            }
        }
    }

    /// The last descriptor of a socket has gone (`inet_release`).
    pub fn close(&mut self, now: Instant, id: SocketId) {
        self.enter(now);
        if let Some(socket) = self.sockets.remove(id) {
            trace!(target: "remora::socket", "socket {}: close", id.index);
            trace!(target: "remora::protosw", "socket {}: {:?}.close", id.index, socket.transport);
            let (below, mut net) = self.below(socket.transport);
            below.close(&mut net, socket.sock);
        }
    }

    /// Binds (`__inet_bind`). Who may use a port below net.ipv4.ip_unprivileged_port_start is for the caller to know.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(&mut self, now: Instant, id: SocketId, address: SocketAddr) -> Result<(), BindError> {
        self.enter(now);
        let socket = self.known(id).ok_or(BindError::Invalid)?;
        trace!(target: "remora::socket", "socket {}: bind {address}", id.index);
        let wildcard = address.ip().is_unspecified();
        // `__inet6_bind`: the state comes before the address.
        if socket.family == AddressFamily::Inet6
            && (self.below_state(&socket) != Below::Closed || self.held_port(id) != 0)
        {
            return Err(BindError::Invalid);
        }
        match (socket.family, address.ip()) {
            // `__inet_bind`: AF_INET6 addresses on AF_INET sockets are another family's; `::` on AF_INET6 is the wildcard.
            (AddressFamily::Inet, IpAddr::V6(_)) => return Err(BindError::FamilyMismatch),
            (AddressFamily::Inet6, IpAddr::V6(_)) if !wildcard => return Err(BindError::AddressNotAvailable),
            _ => {}
        }
        let (below, _) = self.below(socket.transport);
        let options = below.options(socket.sock);
        let free = options.is_some_and(|options| options.free_bind || options.kept.has(Kept::IpTransparent));
        // `__inet6_bind` of an IPv4 address: not where IPv4 is not taken, nor by an interface that is not there.
        if socket.family == AddressFamily::Inet6 && address.is_ipv4() && !wildcard {
            if options.is_some_and(|options| options.v6_only) {
                return Err(BindError::Invalid);
            }
            if options.is_some_and(|options| options.through == Through::Missing) {
                return Err(BindError::NoDevice);
            }
        }
        // A raw socket looks at its state first.
        let late = socket.kind == SocketType::Raw;
        if self.ip.address_kind(address.ip()) == AddressKind::Unicast && !free && !late {
            return Err(BindError::AddressNotAvailable);
        }
        if self.below_state(&socket) != Below::Closed {
            return Err(BindError::Invalid);
        }
        let (below, mut net) = self.below(socket.transport);
        below.bind(&mut net, socket.sock, address)
    }

    /// Begins to connect, or looks how a connect under way stands (`__inet_stream_connect`, `inet_dgram_connect`).
    ///
    /// # Errors
    /// `InProgress` when it has begun, `Already` while it is under way; else see [`ConnectError`].
    //= REF C-03
    pub fn connect(&mut self, now: Instant, id: SocketId, address: SocketAddr) -> Result<(), ConnectError> {
        self.enter(now);
        let socket = self.known(id).ok_or(ConnectError::Invalid)?;
        trace!(target: "remora::socket", "socket {}: connect {address} ({:?})", id.index, socket.state);
        if socket.kind != SocketType::Stream {
            let (below, mut net) = self.below(socket.transport);
            return below.connect(&mut net, socket.sock, address);
        }
        match socket.state {
            SocketState::Connected => Err(ConnectError::IsConnected),
            // `__inet_stream_connect`: one that waits for data has succeeded.
            SocketState::Connecting if self.is_connect_deferred(&socket) => Err(ConnectError::IsConnected),
            SocketState::Connecting => match self.below_state(&socket) {
                Below::SynSent | Below::SynReceived => Err(ConnectError::Already),
                _ => self.conclude(id, &socket),
            },
            SocketState::Disconnecting => Err(ConnectError::Invalid),
            SocketState::Unconnected => {
                if self.below_state(&socket) != Below::Closed {
                    return Err(ConnectError::IsConnected);
                }
                self.begin_connect(id, &socket, address)
            }
        }
    }

    fn begin_connect(&mut self, id: SocketId, socket: &Socket, address: SocketAddr) -> Result<(), ConnectError> {
        match (socket.family, address.ip()) {
            (AddressFamily::Inet, IpAddr::V6(_)) => return Err(ConnectError::FamilyMismatch),
            //= REF S-06: no IPv6 layer yet; `::` means loopback, as 0.0.0.0 does.
            (AddressFamily::Inet6, IpAddr::V6(to)) if !to.is_unspecified() => {
                return Err(ConnectError::NetworkUnreachable);
            }
            _ => {}
        }
        //= REF C-07
        let (below, _) = self.below(socket.transport);
        let local = below.local_name(socket.sock).ip();
        // `inet_bind`: a group or broadcast address is none to send from; `__inet6_bind` makes no such difference.
        let local = match local {
            IpAddr::V4(group)
                if socket.family == AddressFamily::Inet && (group.is_multicast() || group.is_broadcast()) =>
            {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            }
            local => local,
        };
        let v6_only = below.options(socket.sock).is_some_and(|options| options.v6_only);
        if v6_only && address.is_ipv4() {
            return Err(ConnectError::NetworkUnreachable);
        }
        // With a source route 0.0.0.0 stands for nobody: TCP says so.
        let options = self.below_ref(socket.transport).options(socket.sock);
        let routed = options.is_some_and(|options| options.ip_options().first_hop().is_some());
        let host = if routed { address.ip() } else { self.ip.resolve_unspecified(address.ip(), Some(local)) };
        let destination = SocketAddr::new(host, address.port());
        trace!(target: "remora::protosw", "socket {}: {:?}.connect {destination}", id.index, socket.transport);
        let (below, mut net) = self.below(socket.transport);
        match below.connect(&mut net, socket.sock, destination) {
            Ok(()) => {
                self.set_state(id, SocketState::Connecting);
                match self.below_state(socket) {
                    // TCP_FASTOPEN_CONNECT: the SYN waits for the first data.
                    Below::SynSent | Below::SynReceived => Ok(()),
                    // TCP_REPAIR goes straight to ESTABLISHED.
                    Below::Open => self.conclude(id, socket),
                    Below::Closed | Below::Listening => Ok(()),
                }
            }
            Err(ConnectError::InProgress) => {
                self.set_state(id, SocketState::Connecting);
                Err(ConnectError::InProgress)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the outcome of an attempt that is no longer under way.
    //= REF C-05
    fn conclude(&mut self, id: SocketId, socket: &Socket) -> Result<(), ConnectError> {
        if self.below_state(socket) != Below::Closed {
            self.set_state(id, SocketState::Connected);
            return Ok(());
        }
        let (below, mut net) = self.below(socket.transport);
        let fault = below.take_error(socket.sock);
        below.disconnect(&mut net, socket.sock);
        self.set_state(id, SocketState::Unconnected);
        Err(fault.map_or(ConnectError::Aborted, ConnectError::Fault))
    }

    /// How an attempt that this caller began or joined has ended; `None` while it is under way.
    pub fn finish_connect(&mut self, now: Instant, id: SocketId) -> Option<Result<(), ConnectError>> {
        self.enter(now);
        let Some(socket) = self.known(id) else {
            return Some(Err(ConnectError::Invalid));
        };
        match socket.state {
            SocketState::Connected => Some(Ok(())),
            SocketState::Connecting => match self.below_state(&socket) {
                Below::SynSent | Below::SynReceived => None,
                _ => Some(self.conclude(id, &socket)),
            },
            // Somebody else took the outcome, or shut the attempt down.
            SocketState::Unconnected | SocketState::Disconnecting => {
                let (below, _) = self.below(socket.transport);
                Some(Err(below.take_error(socket.sock).map_or(ConnectError::Aborted, ConnectError::Fault)))
            }
        }
    }

    /// connect(AF_UNSPEC).
    ///
    /// # Errors
    /// `Invalid` for a socket that is not there.
    //= REF C-02
    pub fn disconnect(&mut self, now: Instant, id: SocketId) -> Result<(), ConnectError> {
        self.enter(now);
        let socket = self.known(id).ok_or(ConnectError::Invalid)?;
        trace!(target: "remora::socket", "socket {}: disconnect", id.index);
        let (below, mut net) = self.below(socket.transport);
        below.disconnect(&mut net, socket.sock);
        self.set_state(id, SocketState::Unconnected);
        Ok(())
    }

    /// Listens, or changes the backlog (`inet_listen`).
    ///
    /// # Errors
    /// See [`ListenError`].
    //= REF L-01
    pub fn listen(&mut self, now: Instant, id: SocketId, backlog: i32) -> Result<(), ListenError> {
        self.enter(now);
        let socket = self.known(id).ok_or(ListenError::Invalid)?;
        if socket.kind != SocketType::Stream {
            return Err(ListenError::NotSupported);
        }
        if socket.state != SocketState::Unconnected {
            return Err(ListenError::Invalid);
        }
        if !matches!(self.below_state(&socket), Below::Closed | Below::Listening) {
            return Err(ListenError::Invalid);
        }
        // `__sys_listen` compares unsigned: a negative backlog is a huge one.
        let backlog = backlog.cast_unsigned().min(self.settings.somaxconn);
        trace!(target: "remora::protosw", "socket {}: {:?}.listen {backlog}", id.index, socket.transport);
        let (below, mut net) = self.below(socket.transport);
        below.listen(&mut net, socket.sock, backlog)
    }

    /// Takes a connection off a listener's queue (`inet_accept`).
    ///
    /// # Errors
    /// See [`AcceptError`].
    //= REF L-03
    pub fn accept(&mut self, now: Instant, id: SocketId) -> Result<(SocketId, SocketAddr), AcceptError> {
        self.enter(now);
        let listener = self.known(id).ok_or(AcceptError::Invalid)?;
        if listener.kind != SocketType::Stream {
            return Err(AcceptError::NotSupported);
        }
        let (below, mut net) = self.below(listener.transport);
        let sock = below.accept(&mut net, listener.sock)?;
        let new = Socket { sock, state: SocketState::Connected, ..listener };
        let Some(id) = self.sockets.insert_with(|_: SocketId| new) else {
            let (below, mut net) = self.below(listener.transport);
            below.close(&mut net, sock);
            return Err(AcceptError::NoMemory);
        };
        let (below, _) = self.below(listener.transport);
        below.adopt(sock, id);
        // A connection that was reset while it waited has no peer any more; Linux shows its address all the same.
        let peer = below.peer_name(sock).or_else(|| self.tcp.last_peer(sock));
        let peer = peer.unwrap_or_else(|| unspecified_name(listener.family));
        debug!(target: "remora::socket", "socket {}: accepted {peer}", id.index);
        Ok((id, peer))
    }

    /// Shuts one or both halves (`inet_shutdown`).
    ///
    /// # Errors
    /// See [`ShutdownError`].
    //= REF C-21
    pub fn shutdown(&mut self, now: Instant, id: SocketId, how: Shutdown) -> Result<(), ShutdownError> {
        self.enter(now);
        let socket = self.known(id).ok_or(ShutdownError::NotConnected)?;
        trace!(target: "remora::socket", "socket {}: shutdown {how:?}", id.index);
        let state = self.below_state(&socket);
        if socket.state == SocketState::Connecting {
            let still = matches!(state, Below::SynSent | Below::SynReceived | Below::Closed);
            self.set_state(id, if still { SocketState::Disconnecting } else { SocketState::Connected });
        }
        let (below, mut net) = self.below(socket.transport);
        match state {
            Below::Closed => {
                // "Hack to wake up other listeners, who can poll for EPOLLHUP": the mask is set all the same.
                below.shutdown(&mut net, socket.sock, how);
                Err(ShutdownError::NotConnected)
            }
            Below::Listening if how == Shutdown::Write => Ok(()),
            Below::Listening | Below::SynSent => {
                below.disconnect(&mut net, socket.sock);
                self.set_state(id, SocketState::Unconnected);
                Ok(())
            }
            Below::SynReceived | Below::Open => {
                below.shutdown(&mut net, socket.sock, how);
                Ok(())
            }
        }
    }

    /// Local address and port (`inet_getname`).
    ///
    /// # Errors
    /// `NotConnected` for a socket that is not there.
    pub fn local_name(&self, id: SocketId) -> Result<SocketAddr, NameError> {
        let socket = self.sockets.find(id).ok_or(NameError::NotConnected)?;
        Ok(self.below_ref(socket.transport).local_name(socket.sock))
    }

    /// Gives an unbound datagram socket a port of its own (`inet_autobind`): for a call that is refused before it comes
    /// here, and does so in Linux all the same.
    pub fn autobind(&mut self, now: Instant, id: SocketId) {
        self.enter(now);
        let Some(socket) = self.known(id) else { return };
        let (below, mut net) = self.below(socket.transport);
        below.autobind(&mut net, socket.sock);
    }

    /// The port that a socket holds, or 0 (`inet_num`); [`Stack::local_name`] shows it longer.
    #[must_use]
    pub fn held_port(&self, id: SocketId) -> u16 {
        self.sockets.find(id).map_or(0, |socket| self.below_ref(socket.transport).held_port(socket.sock))
    }

    /// Peer's address and port (`inet_getname` with `peer`).
    ///
    /// # Errors
    /// `NotConnected` when there is none, or not yet, or no more.
    pub fn peer_name(&self, id: SocketId) -> Result<SocketAddr, NameError> {
        let socket = self.sockets.find(id).ok_or(NameError::NotConnected)?;
        let peer = self.below_ref(socket.transport).peer_name(socket.sock);
        // `inet_getname`: a peer without a port is none.
        peer.filter(|peer| peer.port() != 0).ok_or(NameError::NotConnected)
    }

    /// Whether the socket is connected to somebody, with or without a port.
    #[must_use]
    pub fn has_peer(&self, id: SocketId) -> bool {
        self.sockets.find(id).is_some_and(|socket| self.below_ref(socket.transport).peer_name(socket.sock).is_some())
    }

    /// Whether a stream is connected and not shut for writing (ESTABLISHED and CLOSE-WAIT).
    #[must_use]
    pub fn may_send(&self, id: SocketId) -> bool {
        self.sockets.find(id).is_some_and(|socket| {
            socket.transport == Transport::Tcp
                && matches!(self.tcp.state(socket.sock), State::Established | State::CloseWait)
        })
    }

    /// The socket layer's state of a socket.
    #[must_use]
    pub fn socket_state(&self, id: SocketId) -> SocketState {
        self.sockets.find(id).map_or(SocketState::Unconnected, |socket| socket.state)
    }

    /// Whether the socket listens (SO_ACCEPTCONN).
    #[must_use]
    pub fn is_listening(&self, id: SocketId) -> bool {
        self.sockets.find(id).is_some_and(|socket| self.below_state(socket) == Below::Listening)
    }

    /// Family, type and protocol of a socket (SO_DOMAIN, SO_TYPE, SO_PROTOCOL).
    #[must_use]
    pub fn kind(&self, id: SocketId) -> Option<(AddressFamily, SocketType, u8)> {
        self.sockets.find(id).map(|socket| (socket.family, socket.kind, socket.protocol))
    }

    /// Whether an attempt to connect is under way (SYN-SENT and SYN-RECEIVED).
    #[must_use]
    pub fn is_connecting(&self, id: SocketId) -> bool {
        self.sockets
            .find(id)
            .is_some_and(|socket| matches!(self.below_state(socket), Below::SynSent | Below::SynReceived))
    }

    /// Whether a connect waits for the first data.
    pub(crate) fn is_connect_deferred(&self, socket: &Socket) -> bool {
        socket.transport == Transport::Tcp && self.tcp.is_connect_deferred(socket.sock)
    }

    /// MSG_FASTOPEN has begun to connect.
    pub(crate) fn note_connecting(&mut self, id: SocketId) {
        self.set_state(id, SocketState::Connecting);
    }

    pub(crate) fn known(&self, id: SocketId) -> Option<Socket> {
        self.sockets.find(id).copied()
    }

    fn set_state(&mut self, id: SocketId, state: SocketState) {
        if let Some(socket) = self.sockets.find_mut(id)
            && socket.state != state
        {
            trace!(target: "remora::socket", "socket {}: {:?} -> {state:?}", id.index, socket.state);
            socket.state = state;
        }
    }

    fn below_state(&self, socket: &Socket) -> Below {
        match socket.transport {
            Transport::Tcp => match self.tcp.state(socket.sock) {
                State::Closed => Below::Closed,
                State::Listen => Below::Listening,
                State::SynSent => Below::SynSent,
                State::SynReceived => Below::SynReceived,
                _ => Below::Open,
            },
            // A datagram socket with a peer is TCP_ESTABLISHED to Linux.
            other => match self.below_ref(other).peer_name(socket.sock) {
                Some(_) => Below::Open,
                None => Below::Closed,
            },
        }
    }
}

fn unspecified_name(family: AddressFamily) -> SocketAddr {
    SocketAddr::new(crate::udp::unspecified(family), 0)
}
