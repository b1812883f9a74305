//! Socket calls that go straight through the protocol switch: send, receive, readiness, options.

use alloc::boxed::Box;

use log::trace;

use super::Stack;
use crate::interface::MacAddress;
use crate::io::{Sink, Source};
use crate::ip::route::RouteEntry;
use crate::socket::error::{ConnectError, OptionError, ReceiveError, SendError, SocketFault};
use crate::socket::options::{OptionName, OptionValue, SetOption, SocketOptions};
use crate::socket::protocol::{
    Net, Protocol, Readiness, ReceiveFlags, Received, SendArguments, SendFlags, SocketId, SocketType,
};
use crate::socket::protosw::Transport;
use crate::socket::sockopt::{self, Outcome};
use crate::socket::state::SocketState;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;

impl Stack {
    /// Takes bytes to send (`inet_sendmsg`). Returns how many.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(
        &mut self,
        now: Instant,
        id: SocketId,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        self.enter(now);
        let socket = self.known(id).ok_or(SendError::NotConnected)?;
        trace!(target: "remora::socket", "socket {}: send {} bytes", id.index, source.remaining());
        trace!(target: "remora::protosw", "socket {}: {:?}.sendmsg", id.index, socket.transport);
        let mut begins = true;
        let opening = socket.kind == SocketType::Stream && arguments.flags.contains(SendFlags::FASTOPEN);
        if opening {
            match socket.state {
                SocketState::Connected => return Err(SendError::IsConnected),
                // `__inet_stream_connect`: a listener is not unconnected enough.
                SocketState::Unconnected if self.is_listening(id) => return Err(SendError::IsConnected),
                SocketState::Unconnected => {}
                // One that has come to its end by now counts as connected, or fails.
                // What TCP_FASTOPEN_CONNECT has put off begins now.
                SocketState::Connecting if self.is_connect_deferred(&socket) => {}
                SocketState::Connecting => match self.finish_connect(now, id) {
                    None => return Err(SendError::Already),
                    Some(Ok(())) => begins = false,
                    Some(Err(ConnectError::Fault(fault))) => return Err(SendError::Fault(fault)),
                    Some(Err(ConnectError::Aborted)) => return Err(SendError::Fault(SocketFault::Aborted)),
                    Some(Err(_)) => return Err(SendError::BrokenPipe),
                },
                SocketState::Disconnecting => return Err(SendError::Invalid),
            }
        }
        let (below, mut net) = self.below(socket.transport);
        let result = below.send(&mut net, socket.sock, source, arguments);
        if opening && begins && matches!(result, Ok(_) | Err(SendError::InProgress)) {
            self.note_connecting(id);
        }
        result
    }

    /// Gives received bytes (`inet_recvmsg`).
    ///
    /// # Errors
    /// See [`ReceiveError`].
    pub fn receive(
        &mut self,
        now: Instant,
        id: SocketId,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError> {
        self.enter(now);
        let socket = self.known(id).ok_or(ReceiveError::NotConnected)?;
        let (below, mut net) = self.below(socket.transport);
        let received = below.receive(&mut net, socket.sock, sink, flags);
        trace!(target: "remora::socket", "socket {}: receive {:?}", id.index, received.map(|received| received.length));
        received
    }

    /// Puts bytes of a stream back that were received and that nobody has used: they are received again, first.
    pub fn put_back(&mut self, now: Instant, id: SocketId, bytes: &[u8]) {
        self.enter(now);
        let Some(socket) = self.known(id) else { return };
        let (below, mut net) = self.below(socket.transport);
        below.put_back(&mut net, socket.sock, bytes);
    }

    /// Makes what has arrived on a stream invisible, as if somebody else had received it, or visible again.
    pub fn withhold_input(&mut self, now: Instant, id: SocketId, withheld: bool) {
        self.enter(now);
        let Some(socket) = self.known(id) else { return };
        let (below, mut net) = self.below(socket.transport);
        below.withhold_input(&mut net, socket.sock, withheld);
    }

    /// The poll mask; empty for a socket that is not there.
    #[must_use]
    pub fn readiness(&self, id: SocketId) -> Readiness {
        self.sockets
            .find(id)
            .map_or(Readiness::empty(), |socket| self.below_ref(socket.transport).readiness(socket.sock))
    }

    /// Sets an option (`sock_setsockopt` and the protocol's).
    ///
    /// # Errors
    /// See [`OptionError`].
    //= REF D-06
    pub fn set_option(&mut self, now: Instant, id: SocketId, option: &SetOption) -> Result<(), OptionError> {
        self.enter(now);
        let socket = self.known(id).ok_or(OptionError::Unknown)?;
        let bound = self.below_ref(socket.transport).held_port(socket.sock) != 0;
        // `do_ipv6_setsockopt`: IPV6_V6ONLY may not change once the socket has a port.
        if matches!(option, SetOption::V6Only(_)) && bound {
            return Err(OptionError::Invalid);
        }
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        let below: &mut dyn Protocol = match socket.transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Udp => &mut self.udp,
            Transport::UdpLite => &mut self.udp_lite,
            Transport::Ping | Transport::Raw => &mut self.raw,
        };
        if let SetOption::IpOptions(bytes, privileged) = option {
            let is_unicast = |address| net.ip.is_unicast(address);
            let read = IpOptions::from_program(bytes, *privileged, &is_unicast).map_err(|_| OptionError::Invalid)?;
            let options = below.options_mut(socket.sock).ok_or(OptionError::Unknown)?;
            options.ip_options = (!read.is_empty()).then(|| Box::new(read));
        }
        // A protocol may refuse what all of them have.
        if matches!(option, SetOption::Timestamping(..))
            && let Err(OptionError::Invalid) = below.set_option(&mut net, socket.sock, option)
        {
            return Err(OptionError::Invalid);
        }
        let options = below.options_mut(socket.sock).ok_or(OptionError::Unknown)?;
        let forgets_way = option.forgets_way(options);
        let outcome = sockopt::set_common(options, net.settings, option)?;
        if forgets_way {
            below.forget_way(socket.sock);
        }
        match outcome {
            Outcome::NotCommon if matches!(option, SetOption::IpOptions(..)) => {
                match below.set_option(&mut net, socket.sock, option) {
                    Err(OptionError::Unknown) => Ok(()),
                    other => other,
                }
            }
            Outcome::NotCommon => below.set_option(&mut net, socket.sock, option),
            // The protocol hears of it, and need not care.
            Outcome::Set => match below.set_option(&mut net, socket.sock, option) {
                Err(OptionError::Unknown) => Ok(()),
                other => other,
            },
        }
    }

    /// Reads an option of the protocol's own.
    ///
    /// # Errors
    /// See [`OptionError`].
    pub fn option(&mut self, now: Instant, id: SocketId, name: OptionName) -> Result<OptionValue, OptionError> {
        self.enter(now);
        let socket = self.known(id).ok_or(OptionError::Unknown)?;
        let (below, mut net) = self.below(socket.transport);
        below.option(&mut net, socket.sock, name)
    }

    /// The options that all protocols share.
    #[must_use]
    pub fn options(&self, id: SocketId) -> Option<&SocketOptions> {
        let socket = self.sockets.find(id)?;
        self.below_ref(socket.transport).options(socket.sock)
    }

    /// A MSG_ZEROCOPY send has taken all that it will: the program may have its memory back.
    pub fn complete_zero_copy(&mut self, now: Instant, id: SocketId) {
        self.enter(now);
        let Some(socket) = self.known(id) else { return };
        let (below, mut net) = self.below(socket.transport);
        below.complete_zero_copy(&mut net, socket.sock);
    }

    /// Takes the pending error (SO_ERROR).
    //= REF C-06
    pub fn take_error(&mut self, id: SocketId) -> Option<SocketFault> {
        let socket = self.known(id)?;
        let (below, _) = self.below(socket.transport);
        below.take_error(socket.sock)
    }

    /// Whether a datagram is kept back (MSG_MORE, UDP_CORK), to which is added whatever is sent next.
    #[must_use]
    pub fn is_corked(&self, id: SocketId) -> bool {
        self.sockets.find(id).is_some_and(|socket| self.below_ref(socket.transport).is_corked(socket.sock))
    }

    /// When the datagram came that was received last (SIOCGSTAMP).
    #[must_use]
    pub fn received_at(&self, id: SocketId) -> Option<Instant> {
        let socket = self.sockets.find(id)?;
        self.below_ref(socket.transport).received_at(socket.sock)
    }

    /// Bytes that a receive would give (SIOCINQ).
    #[must_use]
    pub fn queued_input(&self, id: SocketId) -> usize {
        self.sockets.find(id).map_or(0, |socket| self.below_ref(socket.transport).queued_input(socket.sock))
    }

    /// Whether the next byte to read is the urgent one (SIOCATMARK).
    #[must_use]
    pub fn at_mark(&self, id: SocketId) -> bool {
        self.sockets.find(id).is_some_and(|socket| self.below_ref(socket.transport).at_mark(socket.sock))
    }

    /// Bytes not yet acknowledged (SIOCOUTQ).
    #[must_use]
    pub fn queued_output(&self, id: SocketId) -> usize {
        self.sockets.find(id).map_or(0, |socket| self.below_ref(socket.transport).queued_output(socket.sock))
    }

    /// Bytes not yet sent (SIOCOUTQNSD).
    #[must_use]
    pub fn unsent_output(&self, id: SocketId) -> usize {
        self.sockets.find(id).map_or(0, |socket| self.below_ref(socket.transport).unsent_output(socket.sock))
    }

    /// Whom the stack knows on the link, with the state of each and its address there.
    pub fn neighbours(&self) -> impl Iterator<Item = (core::net::Ipv4Addr, crate::link::neighbour::State, MacAddress)> {
        self.link.neighbours().each()
    }

    /// The routes, in the order in which they are tried.
    pub fn routes(&self) -> impl Iterator<Item = &RouteEntry> {
        self.ip.routes().iter()
    }

    /// The protocol below a socket, and the environment of a call to it.
    pub(crate) fn below(&mut self, transport: Transport) -> (&mut dyn Protocol, Net<'_>) {
        let net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        let below: &mut dyn Protocol = match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Udp => &mut self.udp,
            Transport::UdpLite => &mut self.udp_lite,
            Transport::Ping | Transport::Raw => &mut self.raw,
        };
        (below, net)
    }

    /// The protocol below a socket, to look at.
    pub(crate) fn below_ref(&self, transport: Transport) -> &dyn Protocol {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
            Transport::UdpLite => &self.udp_lite,
            Transport::Ping | Transport::Raw => &self.raw,
        }
    }
}
