//! The states of RFC 9293 §3.3.2 and the one function that changes them, with what every change entails: counters,
//! tables, the port, the trace (C-20).

use super::ports::Endpoint;
use super::sock::Sock;
use super::{Shared, Tuple};
use crate::counters::Counters;
use crate::socket::protocol::Happened;
use crate::time::Instant;

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
//= REF T-01
pub enum State {
    /// No connection.
    Closed,
    /// Waits for a connection request.
    Listen,
    /// Waits for the answer to a connection request.
    SynSent,
    /// Waits for the acknowledgment of its own connection request, having received one.
    SynReceived,
    /// Open.
    Established,
    /// Waits for the acknowledgment of its FIN, or for a FIN.
    FinWait1,
    /// Waits for a FIN.
    FinWait2,
    /// Waits for the program to close.
    CloseWait,
    /// Waits for the acknowledgment of its FIN, having received one.
    Closing,
    /// Waits for the acknowledgment of its FIN, sent after having received one.
    LastAck,
    /// Waits until the peer must have seen the last acknowledgment.
    TimeWait,
}

impl State {
    /// Linux's name without its prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSE",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::CloseWait => "CLOSE_WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
        }
    }

    /// Linux's number in TCP_INFO.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynSent => 2,
            Self::SynReceived => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::TimeWait => 6,
            Self::Closed => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Listen => 10,
            Self::Closing => 11,
        }
    }

    /// A RST must tell the peer when the connection is thrown away (`tcp_need_reset`).
    #[must_use]
    pub const fn needs_reset(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait | Self::FinWait1 | Self::FinWait2 | Self::SynReceived)
    }

    /// Data or FIN may go out.
    #[must_use]
    pub const fn may_send(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait | Self::FinWait1 | Self::Closing | Self::LastAck)
    }

    const fn is_current(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait)
    }
}

impl Sock {
    /// Changes the state (`tcp_set_state`).
    //= REF C-20
    pub(super) fn set_state(&mut self, shared: &mut Shared, counters: &mut Counters, new: State) {
        let old = self.state;
        if old == new {
            return;
        }
        match (old.is_current(), new.is_current()) {
            (false, true) => counters.tcp_curr_estab += 1,
            (true, false) => counters.tcp_curr_estab = counters.tcp_curr_estab.saturating_sub(1),
            _ => {}
        }
        if new == State::Closed {
            if old.is_current() {
                counters.tcp_estab_resets += 1;
            }
            self.unhash(shared);
            if !self.port_locked {
                self.give_port_back(shared);
            }
        }
        if old == State::SynReceived
            && let Some(listener) = self.fast_open.listener.take()
        {
            shared.fast_open.opened(listener);
        }
        log::debug!(
            target: "remora::tcp",
            "{}:{} {}:{} {} -> {}",
            self.tuple.local, self.shown_port, self.tuple.remote, self.tuple.remote_port, old.name(), new.name()
        );
        self.state = new;
    }

    /// Takes the sock out of the tables of connections and listeners.
    pub(super) fn unhash(&mut self, shared: &mut Shared) {
        if self.hashed {
            self.hashed = false;
            if self.state == State::Listen {
                shared.remove_listener(self.tuple.local_port, self.index);
            } else if shared.established.get(&self.tuple) == Some(&Endpoint::Sock(self.index)) {
                shared.established.remove(&self.tuple);
            }
        }
    }

    /// Puts the sock into the table of connections.
    pub(super) fn hash(&mut self, shared: &mut Shared) {
        self.hashed = true;
        shared.established.insert(self.tuple, Endpoint::Sock(self.index));
    }

    /// Gives the port back (`inet_put_port`); getsockname goes on to show it.
    pub(super) fn give_port_back(&mut self, shared: &mut Shared) {
        if self.tuple.local_port != 0 {
            shared.ports.release(self.tuple.local_port, Endpoint::Sock(self.index));
            self.tuple = Tuple { local_port: 0, ..self.tuple };
        }
    }

    /// The connection is over (`tcp_done`).
    pub(super) fn done(&mut self, shared: &mut Shared, counters: &mut Counters, now: Instant) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            counters.tcp_attempt_fails += 1;
        }
        self.set_state(shared, counters, State::Closed);
        self.clear_timers();
        self.purge_output();
        self.release_all_copies(shared, now);
        self.shutdown_read = true;
        self.shutdown_write = true;
        // `tcp_reset`, `tcp_write_err`: the error is told beside the state.
        let error = if self.error.is_some() { Happened::ERROR } else { Happened::empty() };
        self.wake(shared, Happened::STATE | error);
    }
}
