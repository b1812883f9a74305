//! How connections end from our side (RFC 9293 §3.6, §3.10.4, §3.10.5; `tcp_close`, `tcp_shutdown`, `tcp_disconnect`,
//! `tcp_abort`): FIN, half-close, reset when data is thrown away, linger, orphans.

use core::net::IpAddr;
use core::time::Duration;

use super::sequence::Seq;
use super::sock::{Fate, Sock};
use super::state::State;
use super::time_wait::LIFETIME;
use super::{Shared, Tcp};
use crate::settings::Settings;
use crate::socket::error::SocketFault;
use crate::socket::protocol::{AddressFamily, Happened, Net, Shutdown};

/// How long FIN-WAIT-2 lasts without a program (`tcp_fin_time`): TCP_LINGER2 or tcp_fin_timeout, at least 3.5 RTO.
//= REF T-02
pub fn fin_time(sock: &Sock, settings: &Settings) -> Duration {
    let set = if sock.tcp.linger2 > 0 { sock.tcp.linger2.unsigned_abs() } else { settings.tcp_fin_timeout };
    let rto = sock.rtt.base();
    Duration::from_secs(u64::from(set)).max(rto * 4 - rto / 2)
}

impl Sock {
    /// Moves to the state that a close of our half leads to, and queues the FIN (`tcp_close_state`, `tcp_send_fin`).
    pub(super) fn queue_fin_by_state(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        let next = match self.state {
            State::Established | State::SynReceived => State::FinWait1,
            State::CloseWait => State::LastAck,
            State::SynSent | State::Listen => {
                self.set_state(shared, net.counters, State::Closed);
                return;
            }
            _ => return,
        };
        self.set_state(shared, net.counters, next);
        self.fin_queued = true;
        self.more = false;
    }

    /// `tcp_shutdown` after `inet_shutdown` has set the flags.
    pub(super) fn shut(&mut self, shared: &mut Shared, net: &mut Net<'_>, how: Shutdown) {
        self.shutdown_read |= matches!(how, Shutdown::Read | Shutdown::Both);
        let write = matches!(how, Shutdown::Write | Shutdown::Both);
        self.shutdown_write |= write;
        if write && matches!(self.state, State::Established | State::CloseWait) {
            self.queue_fin_by_state(shared, net);
        }
        self.wake(shared, Happened::STATE);
    }

    /// `tcp_disconnect`: back to the start, the peer told if need be.
    //= REF C-02
    pub(super) fn abandon(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        let old = self.state;
        let unsent = self.unsent() > 0;
        if self.repair.is_some() {
            self.error = Some(SocketFault::Aborted);
        } else if old.needs_reset() || (unsent && matches!(old, State::Closing | State::LastAck)) {
            self.send_reset(shared, net);
            self.error = Some(SocketFault::ConnectionReset);
        } else if old == State::SynSent {
            self.error = Some(SocketFault::ConnectionReset);
        }
        self.set_state(shared, net.counters, State::Closed);
        self.start_afresh();
        self.release_all_copies(shared, net.now);
        self.wake(shared, Happened::STATE | Happened::ERROR);
    }

    /// Clears all that belonged to the connection; options stay.
    fn start_afresh(&mut self) {
        self.clear_timers();
        self.buffer.clear();
        self.boundaries.clear();
        self.planned.clear();
        self.chrono = super::chrono::Chronos::default();
        self.board.clear();
        self.queue.clear();
        self.charges.clear();
        self.scaling_ratio = super::window::DEFAULT_RATIO;
        self.tuple.remote_port = 0;
        if !self.address_locked {
            self.tuple.local = unspecified(self.family);
        }
        self.shutdown_read = false;
        self.shutdown_write = false;
        self.finished = false;
        self.fin_queued = false;
        self.fin_acked = false;
        self.fin_ahead = None;
        self.snd_up = None;
        self.urgent = None;
        self.fast_open = super::fast_open::FastOpen::default();
        self.soft_error = None;
        self.window_clamp = 0;
        self.tcp.window_clamp = 0;
        self.route = None;
        self.iss = Seq(0);
        self.snd_una = Seq(0);
        self.snd_nxt = Seq(0);
        self.rtt = super::rto::RoundTrip::default();
        self.timeouts = super::rto::Timeouts::default();
        self.limit_timers();
        self.window = super::congestion::Window::default();
        self.phase = super::recovery::Phase::Open;
        self.recovery = super::recovery::Recovery::default();
        self.duplicates_reported = 0;
        self.algorithm = self.algorithm.afresh();
        self.pacing = super::pacing::Pacing::default();
        self.ecn = super::ecn::Ecn::default();
        self.max_packets_out = 0;
        self.retransmits = 0;
        self.total_retransmits = 0;
        self.retransmit_since = None;
        self.probes_out = 0;
        self.probe_since = None;
        self.rcv_rtt = None;
        self.ack = super::delayed_ack::DelayedAck::default();
        self.received_data = false;
        self.more = false;
        self.forced = false;
        self.last_challenge = None;
        self.fate = Fate::Stays;
        self.bytes_sent = 0;
        self.bytes_acked = 0;
        self.bytes_received = 0;
    }
}

pub fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0_u16; 8]),
    }
}

impl Tcp {
    /// `tcp_close`: the program is gone, the connection finishes on its own.
    //= REF T-10
    pub(super) fn close_sock(&mut self, net: &mut Net<'_>, index: u32) {
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return };
        sock.owner = None;
        sock.shutdown_read = true;
        sock.shutdown_write = true;
        sock.orphan = true;
        if sock.state == State::Listen {
            sock.set_state(shared, net.counters, State::Closed);
            self.stop_listening(net, index);
            self.settle(net, index);
            return;
        }
        let unread = sock.queue.readable() > 0;
        if sock.state == State::Closed {
        } else if sock.repair.is_some() {
            // The connection lives on elsewhere: nobody is told.
            sock.abandon(shared, net);
        } else if unread {
            //= RFC 9293 §3.6.1 (SHLD-3): data that nobody will read is told by a reset.
            net.counters.tcp_abort_on_close += 1;
            if sock.state.needs_reset() || sock.state == State::Closing || sock.state == State::LastAck {
                sock.send_reset(shared, net);
            }
            sock.set_state(shared, net.counters, State::Closed);
        } else if sock.options.linger == Some(Duration::ZERO) {
            net.counters.tcp_abort_on_data += 1;
            sock.abandon(shared, net);
        } else {
            sock.queue_fin_by_state(shared, net);
        }
        sock.queue.clear();
        sock.charges.clear();
        if sock.state == State::FinWait2 {
            if sock.tcp.linger2 < 0 {
                net.counters.tcp_abort_on_linger += 1;
                sock.send_reset(shared, net);
                sock.set_state(shared, net.counters, State::Closed);
            } else {
                let wait = fin_time(sock, net.settings);
                if wait > LIFETIME {
                    sock.keepalive_at = Some(net.now + (wait - LIFETIME));
                } else {
                    sock.fate = Fate::Waits(State::FinWait2, wait);
                }
            }
        }
        let stays = sock.state != State::Closed && sock.fate == Fate::Stays;
        if stays && sock.is_one_orphan_too_many(shared, net) {
            sock.set_state(shared, net.counters, State::Closed);
            sock.send_reset(shared, net);
            net.counters.tcp_abort_on_memory += 1;
        }
        if sock.state == State::Closed {
            sock.clear_timers();
        }
        self.settle(net, index);
    }

    /// `tcp_disconnect`, listeners included.
    pub(super) fn disconnect_sock(&mut self, net: &mut Net<'_>, index: u32) {
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return };
        let listening = sock.state == State::Listen;
        sock.abandon(shared, net);
        if listening {
            self.stop_listening(net, index);
        }
        self.settle(net, index);
    }
}
