//! Datagram sockets without a peer in a stranger's hands. Each sender is a socket of the keeper's with a name of its own,
//! short enough for the room of a struct sockaddr_in, from which its datagrams come; what the stranger sends back to that
//! name goes to that sender. So a server that answers whoever asked works, although the addresses that it sees mean
//! nothing to it.

use super::{Core, DescriptionId, HandleId, Nowhere, Piece, Pump, TURN, Turn};
use crate::runtime::handle::{HandleKind, Text, handle_address};
use crate::sys::{Errno, Fd, call};
use remora_stack::socket::error::{ReceiveError, SendError};
use remora_stack::socket::protocol::{ReceiveFlags, SendArguments, SocketId};
use remora_stack::time::Instant;
use std::fmt::Write;
use std::net::SocketAddr;

/// Senders that one handle can answer at a time; the one that came first makes room.
const MOST_PEERS: usize = 64;

/// A sender, as the stranger sees it.
#[derive(Debug)]
pub(super) struct Peer {
    handle: HandleId,
    address: SocketAddr,
    fd: Fd,
}

/// What is served.
#[derive(Clone, Copy)]
pub(super) struct Served {
    pub(super) family: u64,
    pub(super) id: DescriptionId,
    pub(super) handle: HandleId,
    pub(super) socket: SocketId,
    pub(super) claimed: bool,
}

/// A socket that stands for a sender: 13 bytes of name and one zero before them fill sin_port to sin_zero.
fn make_peer(served: Served) -> Result<Fd, Errno> {
    let mut random = [0u8; 8];
    call::random_bytes(&mut random)?;
    let mut name = Text::new();
    write!(name, "@rm{:011x}", u64::from_ne_bytes(random) >> 20).map_err(|_| Errno(libc::ENAMETOOLONG))?;
    let (own, own_length) = call::unix_address(name.as_str())?;
    let (near, near_length) = handle_address(served.family, served.id, served.handle, HandleKind::Datagrams)?;
    let fd = call::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
    let result = call::bind(fd, own.get(..own_length).unwrap_or(&[]))
        .and_then(|()| call::connect(fd, near.get(..near_length).unwrap_or(&[])));
    match result {
        Ok(()) => Ok(fd),
        Err(errno) => {
            let _ = call::close(fd);
            Err(errno)
        }
    }
}

impl Pump {
    /// Forgets the senders of a handle that has ended.
    pub(super) fn drop_peers(&mut self, handle: HandleId) {
        self.peers.retain(|peer| {
            if peer.handle == handle {
                let _ = call::close(peer.fd);
            }
            peer.handle != handle
        });
    }

    /// The socket for a sender.
    fn peer(&mut self, served: Served, address: SocketAddr) -> Result<Fd, Errno> {
        let known = self.peers.iter().find(|peer| peer.handle == served.handle && peer.address == address);
        if let Some(peer) = known {
            return Ok(peer.fd);
        }
        let fd = make_peer(served)?;
        let _private = crate::sys::alloc::leave_arena();
        self.watch(served.handle, fd);
        if self.peers.iter().filter(|peer| peer.handle == served.handle).count() >= MOST_PEERS
            && let Some(first) = self.peers.iter().position(|peer| peer.handle == served.handle)
        {
            let _ = call::close(self.peers.remove(first).fd);
        }
        self.peers.push(Peer { handle: served.handle, address, fd });
        Ok(fd)
    }

    /// Moves datagrams both ways.
    pub(super) fn serve_datagrams(&mut self, core: &mut Core, now: Instant, served: Served) -> Turn {
        let mut goes = self.answers_out(core, now, served);
        if !served.claimed {
            return if goes { Turn::Goes } else { Turn::Rests };
        }
        for turn in 0..=TURN {
            match self.datagram_in(core, now, served) {
                Ok(true) => goes |= turn == TURN,
                Ok(false) => break,
                // The last copy of the stranger's socket has been closed.
                Err(Errno(libc::ECONNREFUSED)) => return Turn::Ends,
                Err(_) => break,
            }
        }
        if goes { Turn::Goes } else { Turn::Rests }
    }

    /// What the stranger has sent to senders: says whether there may be more.
    fn answers_out(&mut self, core: &mut Core, now: Instant, served: Served) -> bool {
        let mut goes = false;
        for Peer { address, fd, .. } in self.peers.iter().filter(|peer| peer.handle == served.handle) {
            for turn in 0..=TURN {
                let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
                let Ok(length) = call::receive(*fd, &mut self.piece, flags) else { break };
                let mut bytes = self.piece.get(..length).unwrap_or(&[]);
                let arguments = SendArguments { to: Some(*address), ..SendArguments::default() };
                if core.stack.send(now, served.socket, &mut bytes, &arguments) == Err(SendError::WouldBlock) {
                    break;
                }
                core.claim_handle(served.handle);
                let _ = call::receive(*fd, &mut [0], libc::MSG_DONTWAIT);
                goes |= turn == TURN;
            }
        }
        goes
    }

    /// One datagram to the stranger: whether one was moved.
    fn datagram_in(&mut self, core: &mut Core, now: Instant, served: Served) -> Result<bool, Errno> {
        let mut sink = Piece { bytes: &mut self.piece, length: 0 };
        let flags = ReceiveFlags::PEEK | ReceiveFlags::DONTWAIT;
        let received = match core.stack.receive(now, served.socket, &mut sink, flags) {
            Ok(received) => received,
            // An ICMP error has nowhere to be shown; what follows it has.
            Err(ReceiveError::Fault(_)) => return Ok(true),
            Err(_) => return Ok(false),
        };
        let Some(from) = received.from else { return Ok(false) };
        let fd = self.peer(served, from)?;
        let bytes = self.piece.get(..received.length).unwrap_or(&[]);
        call::send(fd, bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)?;
        let _ = core.stack.receive(now, served.socket, &mut Nowhere(0), ReceiveFlags::DONTWAIT);
        Ok(true)
    }
}
