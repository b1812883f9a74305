//! TCP's row in the protocol switch (Linux's `tcp_prot`): each call finds its sock and goes to the file of its topic.

use alloc::boxed::Box;
use core::net::SocketAddr;

use super::sock::Sock;
use super::state::State;
use super::urgent::Stretch;
use super::{Tcp, close};
use crate::io::{Sink, Source};
use crate::socket::error::{
    AcceptError, BindError, ConnectError, CreateError, ListenError, OptionError, ReceiveError, SendError, SocketFault,
};
use crate::socket::kept::Kept;
use crate::socket::options::{OptionName, OptionValue, SetOption, SocketOptions};
use crate::socket::protocol::{
    AddressFamily, Happened, Net, Protocol, Readiness, ReceiveFlags, Received, SendArguments, SendFlags, Shutdown,
    SockId, SocketId,
};

impl Protocol for Tcp {
    fn create(
        &mut self,
        net: &mut Net<'_>,
        owner: SocketId,
        family: AddressFamily,
        _protocol: u8,
    ) -> Result<SockId, CreateError> {
        let generation = self.next_generation();
        let mut sock = Box::new(Sock::new(net.settings, generation, family, net.now));
        sock.owner = Some(owner);
        let entry = self.socks.vacant_entry();
        sock.index = u32::try_from(entry.key()).map_err(|_| CreateError::NoMemory)?;
        let id = sock.id();
        entry.insert(sock);
        Ok(id)
    }

    fn close(&mut self, net: &mut Net<'_>, sock: SockId) {
        if let Some(index) = self.place(sock) {
            self.close_sock(net, index);
        }
    }

    fn bind(&mut self, net: &mut Net<'_>, sock: SockId, address: SocketAddr) -> Result<(), BindError> {
        let Some(index) = self.place(sock) else { return Err(BindError::Invalid) };
        let Some(sock) = self.sock_mut(index) else { return Err(BindError::Invalid) };
        // `__inet_bind`: active socket, or bound already.
        if sock.state != State::Closed || sock.tuple.local_port != 0 {
            return Err(BindError::Invalid);
        }
        let old = sock.tuple.local;
        sock.tuple.local = address.ip();
        let late = sock.options.bind_address_no_port && address.port() == 0;
        if !late && !self.take_port(net, index, address.ip(), address.port()) {
            if let Some(sock) = self.sock_mut(index) {
                sock.tuple.local = old;
            }
            return Err(BindError::AddressInUse);
        }
        if let Some(sock) = self.sock_mut(index) {
            sock.address_locked = !address.ip().is_unspecified();
            sock.port_locked = address.port() != 0;
            // `__inet_bind`: whoever was the peer before is forgotten.
            sock.tuple.remote = close::unspecified(sock.family);
            sock.tuple.remote_port = 0;
        }
        Ok(())
    }

    fn connect(&mut self, net: &mut Net<'_>, sock: SockId, address: SocketAddr) -> Result<(), ConnectError> {
        let Some(index) = self.place(sock) else { return Err(ConnectError::Invalid) };
        let result = self.begin_connect(net, index, address);
        self.settle(net, index);
        result
    }

    fn disconnect(&mut self, net: &mut Net<'_>, sock: SockId) {
        if let Some(index) = self.place(sock) {
            self.disconnect_sock(net, index);
        }
    }

    fn listen(&mut self, net: &mut Net<'_>, sock: SockId, backlog: u32) -> Result<(), ListenError> {
        let Some(index) = self.place(sock) else { return Err(ListenError::Invalid) };
        self.start_listening(net, index, backlog)
    }

    fn accept(&mut self, _net: &mut Net<'_>, sock: SockId) -> Result<SockId, AcceptError> {
        let Some(index) = self.place(sock) else { return Err(AcceptError::Invalid) };
        self.take_accepted(index)
    }

    fn adopt(&mut self, sock: SockId, owner: SocketId) {
        if let Some(index) = self.place(sock)
            && let Some(sock) = self.sock_mut(index)
        {
            sock.owner = Some(owner);
        }
    }

    fn shutdown(&mut self, net: &mut Net<'_>, sock: SockId, how: Shutdown) {
        let Some(index) = self.place(sock) else { return };
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return };
        match (sock.state, how) {
            (State::Listen, Shutdown::Write) => {}
            (State::Listen | State::SynSent, _) => {
                self.disconnect_sock(net, index);
                return;
            }
            _ => sock.shut(shared, net, how),
        }
        self.settle(net, index);
    }

    fn send(
        &mut self,
        net: &mut Net<'_>,
        sock: SockId,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        let Some(index) = self.place(sock) else { return Err(SendError::BrokenPipe) };
        let Some(sock) = self.sock(index) else { return Err(SendError::BrokenPipe) };
        //= RFC 7413 §2 (MUST-1)
        let opening = arguments.flags.contains(SendFlags::FASTOPEN) && sock.state == State::Closed;
        if sock.fast_open.deferred && sock.repair.is_none() && !arguments.flags.contains(SendFlags::FASTOPEN) {
            return Err(SendError::Deferred);
        }
        if (opening || sock.fast_open.deferred) && sock.repair.is_none() {
            let result = self.send_opening(net, index, source, arguments);
            self.settle(net, index);
            return result;
        }
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return Err(SendError::BrokenPipe) };
        sock.buffer.borrow(&mut shared.spares);
        let result = sock.write(net, source, arguments);
        self.settle(net, index);
        result
    }

    fn receive(
        &mut self,
        net: &mut Net<'_>,
        sock: SockId,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError> {
        let Some(index) = self.place(sock) else { return Err(ReceiveError::NotConnected) };
        let Some(sock) = self.sock_mut(index) else { return Err(ReceiveError::NotConnected) };
        let result = sock.read(net, sink, flags);
        self.settle(net, index);
        result
    }

    fn put_back(&mut self, net: &mut Net<'_>, sock: SockId, bytes: &[u8]) {
        let Some(index) = self.place(sock) else { return };
        let Some(sock) = self.sock_mut(index) else { return };
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        sock.copied_seq = sock.copied_seq - length;
        if sock.copied_seq.before(sock.space_seq) {
            sock.space_seq = sock.copied_seq;
        }
        sock.queue.put_back(sock.copied_seq, bytes);
        sock.charges.put_back(sock.copied_seq, length);
        self.settle(net, index);
    }

    fn withhold_input(&mut self, net: &mut Net<'_>, sock: SockId, withheld: bool) {
        let Some(index) = self.place(sock) else { return };
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return };
        if sock.input_withheld && !withheld {
            sock.wake(shared, Happened::INPUT);
        }
        sock.input_withheld = withheld;
        self.settle(net, index);
    }

    fn readiness(&self, sock: SockId) -> Readiness {
        match self.place(sock).and_then(|index| self.sock(index)) {
            Some(sock) => sock.poll(&self.settings),
            None => Readiness::OUT | Readiness::WRNORM | Readiness::HUP,
        }
    }

    fn local_name(&self, sock: SockId) -> SocketAddr {
        match self.place(sock).and_then(|index| self.sock(index)) {
            Some(sock) => sock.local_name(),
            None => SocketAddr::new(close::unspecified(AddressFamily::Inet), 0),
        }
    }

    fn held_port(&self, sock: SockId) -> u16 {
        self.place(sock).and_then(|index| self.sock(index)).map_or(0, |sock| sock.tuple.local_port)
    }

    fn peer_name(&self, sock: SockId) -> Option<SocketAddr> {
        let sock = self.place(sock).and_then(|index| self.sock(index))?;
        // `inet_getname`: there is no peer before and after the connection.
        let connected = !matches!(sock.state, State::Closed | State::SynSent | State::Listen);
        connected.then(|| SocketAddr::new(sock.tuple.remote, sock.tuple.remote_port))
    }

    fn options(&self, sock: SockId) -> Option<&SocketOptions> {
        self.place(sock).and_then(|index| self.sock(index)).map(|sock| &sock.options)
    }

    fn options_mut(&mut self, sock: SockId) -> Option<&mut SocketOptions> {
        self.place(sock).and_then(|index| self.sock_mut(index)).map(|sock| &mut sock.options)
    }

    fn set_option(&mut self, net: &mut Net<'_>, sock: SockId, option: &SetOption) -> Result<(), OptionError> {
        let Some(index) = self.place(sock) else { return Err(OptionError::Invalid) };
        self.change_option(net, index, option)
    }

    fn option(&mut self, net: &mut Net<'_>, sock: SockId, name: OptionName) -> Result<OptionValue, OptionError> {
        let index = self.place(sock).ok_or(OptionError::Invalid)?;
        let sock = self.sock_mut(index).ok_or(OptionError::Invalid)?;
        if let OptionName::SavedSyn { room } = name {
            return sock.take_saved_syn(room);
        }
        let settings = net.settings;
        sock.read_option(settings, net, name)
    }

    fn complete_zero_copy(&mut self, net: &mut Net<'_>, sock: SockId) {
        let Some(index) = self.place(sock) else { return };
        let Self { socks, shared, .. } = self;
        if let Some(sock) = socks.get_mut(index as usize) {
            sock.note_zero_copy(shared, net.now);
        }
    }

    fn take_error(&mut self, sock: SockId) -> Option<SocketFault> {
        let index = self.place(sock)?;
        self.sock_mut(index).and_then(|sock| sock.error.take())
    }

    fn queued_input(&self, sock: SockId) -> usize {
        self.place(sock).and_then(|index| self.sock(index)).map_or(0, Sock::readable)
    }

    fn at_mark(&self, sock: SockId) -> bool {
        self.place(sock).and_then(|index| self.sock(index)).is_some_and(Sock::is_at_mark)
    }

    fn queued_output(&self, sock: SockId) -> usize {
        let Some(sock) = self.place(sock).and_then(|index| self.sock(index)) else { return 0 };
        if !sock.has_sent() {
            return 0;
        }
        sock.write_end().distance_from(sock.snd_una) as usize
    }

    fn unsent_output(&self, sock: SockId) -> usize {
        let sock = self.place(sock).and_then(|index| self.sock(index)).filter(|sock| sock.has_sent());
        sock.map_or(0, |sock| sock.unsent() as usize)
    }
}

impl Sock {
    /// Whether SIOCOUTQ has anything to count: nothing before the connection (`tcp_ioctl`).
    fn has_sent(&self) -> bool {
        match self.state {
            State::SynSent | State::SynReceived => false,
            State::Closed => self.tuple.remote_port != 0,
            _ => true,
        }
    }

    /// What was looked at, or read, moves the offset of SO_PEEK_OFF (`sk_peek_offset_fwd`, `sk_peek_offset_bwd`).
    fn move_peek_offset(&mut self, length: usize, peek: bool) {
        let offset = self.options.kept.read(Kept::PeekOff);
        if offset < 0 || length == 0 {
            return;
        }
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        let moved = if peek { offset.saturating_add(length) } else { (offset - length).max(0) };
        // Any number is taken for it.
        let _ = self.options.kept.write(Kept::PeekOff, moved);
    }

    /// `tcp_recvmsg`.
    fn read(&mut self, net: &mut Net<'_>, sink: &mut dyn Sink, flags: ReceiveFlags) -> Result<Received, ReceiveError> {
        if flags.contains(ReceiveFlags::ERRQUEUE) {
            return self.reports.take(sink, &mut self.error);
        }
        if self.state == State::Listen {
            return Err(ReceiveError::NotConnected);
        }
        // `tcp_splice_read` knows nothing of TCP_REPAIR.
        if let Some(which) = self.repair.filter(|_| !flags.contains(ReceiveFlags::SPLICE))
            && let Some(result) = self.repair_read(sink, flags, which)
        {
            return result;
        }
        if flags.contains(ReceiveFlags::OOB) {
            return self.read_urgent(sink, flags);
        }
        if self.input_withheld {
            return Err(ReceiveError::WouldBlock);
        }
        if flags.contains(ReceiveFlags::SPLICE) && self.is_at_mark() && self.error.is_none() && !self.shutdown_read {
            return Err(ReceiveError::WouldBlock);
        }
        let peek = flags.contains(ReceiveFlags::PEEK);
        // Room for nothing asks how things stand all the same, unless there is data.
        // An urgent byte that stands next is data, too.
        let asks = sink.room() == 0 && self.queue.readable() == 0;
        // SO_PEEK_OFF: a look begins behind what was looked at before.
        let ahead = usize::try_from(self.options.kept.read(Kept::PeekOff)).ok().filter(|_| peek).unwrap_or(0);
        let Stretch { skip, most } = self.stretch(sink.room().saturating_add(ahead));
        let most = most.saturating_sub(ahead);
        let discard = flags.contains(ReceiveFlags::TRUNC);
        let target = if discard { None } else { Some(sink) };
        let length = if peek {
            self.queue.show(skip + ahead, target, most)
        } else {
            if skip > 0 && most > 0 {
                self.queue.drop_front(skip);
                self.copied_seq += 1;
                self.pass_mark();
            }
            self.queue.read(target, most, false)
        }
        .map_err(|_| ReceiveError::Memory)?;
        self.move_peek_offset(length, peek);
        if length == 0 && (most > 0 || ahead > 0 || asks) && !self.finished {
            //= REF T-10
            if let Some(fault) = self.error.take() {
                return Err(ReceiveError::Fault(fault));
            }
            if !self.shutdown_read {
                return Err(if self.state == State::Closed {
                    ReceiveError::NotConnected
                } else {
                    ReceiveError::WouldBlock
                });
            }
        }
        if length > 0 && !peek {
            self.copied_seq += u32::try_from(length).unwrap_or(0);
            self.pass_mark();
            self.charges.release(self.copied_seq);
            self.tune_receive_buffer(net.now, net.settings);
        }
        if !peek && !matches!(self.state, State::Closed | State::SynSent) {
            self.check_ack_after_read(length);
        }
        Ok(Received { length, at: self.last_received, ..Received::nothing(None) })
    }
}
