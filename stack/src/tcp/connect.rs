//! Active open (RFC 9293 §3.10.1, `tcp_v4_connect`, `tcp_connect`) and the segments that arrive in SYN-SENT
//! (§3.10.7.3, `tcp_rcv_synsent_state_process`), simultaneous open included.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use smallvec::SmallVec;

use super::header::Flags;
use super::ports::Endpoint;
use super::receive::{Incoming, Verdict};
use super::sequence::Seq;
use super::sock::{DEFAULT_MSS, RetransmitTimer, Sock};
use super::state::State;
use super::{Shared, Tcp, Tuple, isn, window};
use crate::ip::{Route, RouteError, RouteKey};
use crate::socket::error::ConnectError;
use crate::socket::protocol::{AddressFamily, Happened, Net};
use crate::time::Instant;

/// Linux's TCP_TIMEOUT_MIN.
const SOON: Duration = Duration::from_millis(8);

impl Tcp {
    /// SYNs that the conflict probe of our address has held leave now: Linux has its address before it connects, and
    /// neither round trips nor time-outs count the wait.
    pub(crate) fn syns_leave_now(&mut self, net: &mut Net<'_>) {
        let held = |sock: &Sock| sock.state == State::SynSent && sock.retransmits == 0 && sock.board.packets_out == 1;
        let held: SmallVec<[usize; 4]> =
            self.socks.iter().filter(|(_, sock)| held(sock)).map(|(index, _)| index).collect();
        for index in held {
            if let Some(sock) = self.socks.get_mut(index) {
                sock.board.leaves_now(net.now);
                sock.rearm_timer(net.now);
            }
            self.settle(net, index as u32);
        }
    }

    /// Begins to connect.
    pub(super) fn begin_connect(
        &mut self,
        net: &mut Net<'_>,
        index: u32,
        address: SocketAddr,
    ) -> Result<(), ConnectError> {
        let Some(sock) = self.sock(index) else { return Err(ConnectError::Invalid) };
        if sock.state != State::Closed {
            return Err(ConnectError::IsConnected);
        }
        // `inet_bind`: a group or broadcast address is no source, the device's is.
        let bound = match sock.tuple.local {
            // `__inet6_bind` makes no such difference.
            bound if sock.family == AddressFamily::Inet6 => bound,
            IpAddr::V4(group) if group.is_multicast() || group.is_broadcast() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            bound => bound,
        };
        let (on_link_only, through) = (sock.options.dont_route, sock.options.through);
        let port = sock.tuple.local_port;
        let first_hop = sock.options.ip_options().first_hop().map(IpAddr::V4);
        //= REF C-09
        if first_hop.is_some() && address.ip().is_unspecified() {
            return Err(ConnectError::Invalid);
        }
        let destination = net.ip.resolve_unspecified(address.ip(), (!bound.is_unspecified()).then_some(bound));
        // The way begins at the first hop of a source route.
        //= RFC 9293 §3.9.2.1 (MUST-51, MUST-52)
        let towards = first_hop.unwrap_or(destination);
        //= REF C-08: once for the source address, once more when the ports are known.
        let source = (!bound.is_unspecified()).then_some(bound);
        //= RFC 9293 §3.9.1.1 (MUST-44)
        let route = find_route(net, &RouteKey { destination: towards, source, on_link_only, through })?;
        //= RFC 9293 §3.9.1.1 (MUST-43)
        let local = if bound.is_unspecified() { route.source } else { bound };
        let mut tuple = Tuple { local, local_port: port, remote: destination, remote_port: address.port() };
        if port == 0 {
            tuple.local_port = self.choose_port(net, &tuple).ok_or(ConnectError::NoPort)?;
        } else if !self.is_tuple_free(net, &tuple) {
            return Err(ConnectError::NoPort);
        }
        let route = find_route(net, &RouteKey { destination: towards, source: Some(local), on_link_only, through })?;
        let reused = self.take_over_wait(net, &tuple);
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return Err(ConnectError::Invalid) };
        if port == 0 {
            shared.ports.hold(tuple.local_port, Endpoint::Sock(index), false);
        }
        sock.tuple = tuple;
        sock.shown_port = tuple.local_port;
        sock.route = Some(route);
        sock.last_mss = sock.mss_before_an_answer(net.settings);
        sock.open(shared, net, reused);
        if sock.state == State::Established || self.defer_connect(net, index) {
            return Ok(());
        }
        Err(ConnectError::InProgress)
    }

    /// Ends the TIME_WAIT entry of a 4-tuple that is used anew; says from where on sequence numbers are safe.
    //= REF C-11
    fn take_over_wait(&mut self, net: &mut Net<'_>, tuple: &Tuple) -> Option<(Seq, u32, Instant)> {
        let Some(Endpoint::TimeWait(wait)) = self.shared.established.get(tuple).copied() else { return None };
        let reused =
            self.shared.waits.get(wait as usize).map(|wait| (wait.next_isn(), wait.ts_recent, wait.ts_recent_at));
        self.shared.end_wait(wait);
        net.counters.tw_recycled += 1;
        reused
    }
}

/// `ip_route_connect` with the error that connect gives.
//= REF C-07
fn find_route(net: &mut Net<'_>, key: &RouteKey) -> Result<Route, ConnectError> {
    match net.ip.route(key) {
        //= RFC 9293 §3.9.1.1 (MUST-46)
        Ok(route) if route.broadcast || route.multicast => Err(ConnectError::NetworkUnreachable),
        Ok(route) => Ok(route),
        Err(RouteError::Unreachable) => {
            net.counters.ip_out_no_routes += 1;
            Err(ConnectError::NetworkUnreachable)
        }
        Err(RouteError::BadSource) => Err(ConnectError::Invalid),
        Err(RouteError::NoDevice) => Err(ConnectError::NoDevice),
    }
}

impl Sock {
    /// `tcp_connect`: everything is set for the SYN.
    fn open(&mut self, shared: &mut Shared, net: &mut Net<'_>, reused: Option<(Seq, u32, Instant)>) {
        self.error = None;
        self.soft_error = None;
        if self.repair.is_some() {
            self.revive(net);
            net.counters.tcp_active_opens += 1;
            self.hash(shared);
            self.set_state(shared, net.counters, State::Established);
            self.wake(shared, Happened::STATE | Happened::OPENED);
            return;
        }
        self.iss = isn::initial(net.random, net.now, &self.tuple);
        //= RFC 7323 §3.2 (SHLD-5)
        self.ts_recent = 0;
        if let Some((iss, ts_recent, at)) = reused {
            self.iss = iss;
            self.ts_recent = ts_recent;
            self.ts_recent_at = at;
        }
        self.snd_una = self.iss;
        self.snd_nxt = self.iss;
        self.snd_sml = self.iss;
        self.high_seq = self.iss;
        self.snd_wnd = 0;
        self.max_window = 0;
        // They would leave no room for SACK beside a signature (`tcp_syn_options`).
        //= RFC 7323 §3.2 (MAY-6)
        self.timestamps = net.settings.tcp_timestamps != 0 && !self.is_signed();
        self.timestamp_offset = isn::timestamp_offset(net.random, net.settings, &self.tuple);
        self.sack = net.settings.tcp_sack;
        self.window_scaling = net.settings.tcp_window_scaling;
        self.peer_mss = u16::MAX;
        self.advertised_mss = self.mss_to_advertise();
        self.begin_window(self.initial_window(net, self.window_scaling), Seq(0));
        net.counters.tcp_active_opens += 1;
        self.set_state(shared, net.counters, State::SynSent);
        self.hash(shared);
        //= REF C-14
        self.syn_due = true;
    }

    pub(super) fn initial_window(&self, net: &Net<'_>, scaling: bool) -> window::Initial {
        let route_clamp = self.route.map_or(0, |route| route.window);
        let clamp = match (self.tcp.window_clamp, route_clamp) {
            (0, clamp) | (clamp, 0) => clamp,
            (own, route) => own.min(route),
        };
        let mss = self.advertised_mss.saturating_sub(if self.timestamps { 12 } else { 0 });
        // Linux rounds by the MSS it advertises, less the timestamps only when they are certain (a SYN: not yet).
        let mss = if self.state == State::Closed { self.advertised_mss } else { mss };
        let locked = self.options.receive_buffer_locked;
        window::initial(net.settings, self.options.receive_buffer, locked, clamp, mss, scaling)
    }

    /// A segment in SYN-SENT.
    pub(super) fn handle_in_syn_sent(
        &mut self,
        shared: &mut Shared,
        net: &mut Net<'_>,
        incoming: Incoming<'_>,
    ) -> Verdict {
        let header = incoming.header;
        //= RFC 7323 §3.2 (MUST-14)
        if incoming.has(Flags::ACK) {
            //= RFC 9293 §3.10.7.3 "first, check the ACK bit"
            //= RFC 5961 §3.2 (MUST-5)
            if !header.ack.after(self.snd_una) || header.ack.after(self.snd_nxt) {
                // Perhaps an old connection's: the next SYN, which may do better, need not wait for the timeout.
                if self.retransmits == 0 {
                    self.retransmit_at = Some((net.now + SOON, RetransmitTimer::Repeat));
                }
                return if incoming.has(Flags::RST) { Verdict::Done } else { Verdict::Reset };
            }
            //= RFC 7323 §5.4: an echo that we never sent, from before the first SYN or from what is still to come.
            let first = Seq(self.timestamp(self.retransmit_since.unwrap_or(net.now)));
            if let Some(timestamps) = header.options.timestamps
                && self.timestamps
                && timestamps.echo != 0
                && (Seq(timestamps.echo).before(first) || Seq(timestamps.echo).after(Seq(self.timestamp(net.now))))
            {
                net.counters.paws_active += 1;
                return if incoming.has(Flags::RST) { Verdict::Done } else { Verdict::Reset };
            }
            if incoming.has(Flags::RST) {
                self.reset(shared, net);
                return Verdict::Done;
            }
            if !incoming.has(Flags::SYN) {
                return Verdict::Done;
            }
            self.take_syn_ack(shared, net, incoming);
            return Verdict::Done;
        }
        if incoming.has(Flags::RST) || !incoming.has(Flags::SYN) {
            return Verdict::Done;
        }
        self.take_crossing_syn(shared, net, &incoming);
        Verdict::Done
    }

    /// What the peer's SYN says of options (`tcp_parse_options` and what follows from it).
    fn take_syn_options(&mut self, now: Instant, incoming: &Incoming<'_>) {
        let options = &incoming.header.options;
        //= RFC 7323 §2.2, §3.2: only if both sides offer it.
        //= RFC 7323 §3.2 (SHLD-7)
        self.timestamps &= options.timestamps.is_some();
        if let Some(timestamps) = options.timestamps.filter(|_| self.timestamps) {
            self.ts_recent = timestamps.value;
            self.ts_recent_at = now;
        }
        self.sack &= options.sack_permitted;
        self.take_ecn_of_syn(incoming);
        //= RFC 7323 §2.2 (MUST-1)
        self.window_scaling &= options.window_scale.is_some();
        if self.window_scaling {
            //= RFC 7323 §2.3 (MUST-5)
            self.snd_wscale = options.window_scale.unwrap_or(0);
        } else {
            self.snd_wscale = 0;
            self.rcv_wscale = 0;
            self.window_clamp = self.window_clamp.min(u32::from(u16::MAX));
        }
        //= RFC 9293 §3.7.1 (MUST-15)
        self.peer_mss = options.mss.unwrap_or(DEFAULT_MSS);
        if self.tcp.max_segment > 0 {
            self.peer_mss = self.peer_mss.min(self.tcp.max_segment);
        }
        self.irs = incoming.header.seq;
        self.rcv_nxt = self.irs + 1;
        self.rcv_wup = self.rcv_nxt;
        self.copied_seq = self.rcv_nxt;
        self.snd_wl1 = self.irs;
    }

    fn take_syn_ack(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: Incoming<'_>) {
        self.take_syn_options(net.now, &incoming);
        self.acknowledge(shared, net, &incoming, false);
        self.snd_wnd = u32::from(incoming.header.window);
        self.max_window = self.max_window.max(self.snd_wnd);
        self.rtt.backoff = 0;
        self.begin_transfer(net);
        self.learn_fast_open(shared, net, &incoming);
        self.set_state(shared, net.counters, State::Established);
        self.wake(shared, Happened::STATE | Happened::OPENED);
        self.ack.scheduled = true;
        //= RFC 9293 §3.10.7.3: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, unless it is to wait for data.
        if self.tcp.defer_accept > 0 || self.ack.pingpong || core::mem::take(&mut self.write_pending) {
            let window = self.receive_window();
            self.ack.enter_quick(16, window);
            self.ack.pingpong = true;
            self.check_ack(net.now);
        } else {
            self.ack.now = true;
        }
        self.take_data_of_syn(shared, net, incoming);
    }

    /// Data or FIN in the same segment as the SYN is taken as if it came right after.
    fn take_data_of_syn(&mut self, shared: &mut Shared, net: &mut Net<'_>, mut incoming: Incoming<'_>) {
        if incoming.end != self.rcv_nxt {
            incoming.header.seq = self.rcv_nxt;
            incoming.header.flags -= Flags::SYN;
            self.queue_data(shared, net, incoming);
        }
    }

    /// Simultaneous open.
    //= RFC 9293 §3.5 (MUST-10)
    fn take_crossing_syn(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: &Incoming<'_>) {
        if self.is_too_old_syn(incoming) {
            return;
        }
        self.take_syn_options(net.now, incoming);
        self.snd_wnd = u32::from(incoming.header.window);
        self.max_window = self.snd_wnd;
        //= RFC 9293 §3.5 (MUST-11)
        self.set_state(shared, net.counters, State::SynReceived);
        self.syn_due = true;
    }

    fn is_too_old_syn(&self, incoming: &Incoming<'_>) -> bool {
        incoming.header.options.timestamps.is_some_and(|timestamps| {
            self.timestamps && self.ts_recent != 0 && Seq(self.ts_recent).offset_from(Seq(timestamps.value)) > 0
        })
    }
}
