//! One handle of a stream or of a pair of packets: its bytes, urgent data, half-closes, reset and end, both ways.

use super::{CHUNK, LENT, Line, Nowhere, Piece, TURN, Turn, events_of};
use crate::runtime::{Core, Open};
use crate::sys::{Errno, call};
use remora_stack::socket::error::{ReceiveError, SendError};
use remora_stack::socket::protocol::{Readiness, ReceiveFlags, SendArguments, SendFlags, Shutdown, SocketId};
use remora_stack::time::Instant;
use std::io::IoSliceMut;

/// One handle being served.
pub(super) struct Stream<'a> {
    pub(super) core: &'a mut Core,
    pub(super) open: &'a Open,
    pub(super) now: Instant,
    pub(super) line: &'a mut Line,
    pub(super) socket: SocketId,
    pub(super) piece: &'a mut Vec<u8>,
}

impl Stream<'_> {
    pub(super) fn serve(&mut self, claimed: bool, shared: bool) -> Turn {
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
    pub(super) fn settle_lent(&mut self) {
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
    pub(super) fn serve_packets(&mut self, claimed: bool) -> Turn {
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
