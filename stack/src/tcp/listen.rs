//! Passive open (RFC 9293 §3.10.7.2, `tcp_conn_request`, `tcp_check_req`): half-open requests, small and bounded, and
//! the queue of connections that wait for accept, kept apart. There are no SYN cookies: a full half-open queue drops
//! the SYN.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::IpAddr;
use core::time::Duration;

use super::header::{Flags, Header, Timestamps};
use super::isn::{self, bytes_of, purpose};
use super::ports::Endpoint;
use super::receive::{Incoming, Verdict};
use super::sequence::Seq;
use super::sock::{DEFAULT_MSS, Sock};
use super::state::State;
use super::timer::TimerKey;
use super::window::Initial;
use super::{Reply, Shared, Tcp, Tuple, rto};
use crate::frame::Purpose;
use crate::ip::{AddressKind, Route, RouteKey};
use crate::settings::Settings;
use crate::socket::error::{AcceptError, ListenError};
use crate::socket::protocol::{AddressFamily, Net, SockId};
use crate::time::Instant;

/// What a listening sock has beside the rest.
#[derive(Debug, Default)]
pub struct Listen {
    pub backlog: u32,
    /// Connections that wait for accept, by place.
    pub accept: VecDeque<u32>,
    /// Half-open requests.
    pub half_open: u32,
}

impl Listen {
    /// `sk_acceptq_is_full`: one more than the backlog is let in.
    pub fn is_full(&self) -> bool {
        self.accept.len() > self.backlog as usize
    }
}

/// A half-open connection (Linux's request sock).
#[derive(Debug)]
pub struct Request {
    pub tuple: Tuple,
    pub listener: SockId,
    pub isn: Seq,
    pub irs: Seq,
    peer_mss: u16,
    advertised_mss: u16,
    /// The peer's shift, when both scale windows.
    shift: Option<u8>,
    sack: bool,
    timestamps: bool,
    ts_recent: u32,
    timestamp_offset: u32,
    window: Initial,
    route: Option<Route>,
    tos: u8,
    retransmits: u32,
    sent_at: Instant,
    /// The final ACK came while the accept queue was full.
    acked: bool,
    pub armed: Option<Instant>,
    deadline: Instant,
    last_answer: Option<Instant>,
}

impl Request {
    fn syn_ack(&self, now: Instant) -> Reply {
        let mut header = Header {
            source_port: self.tuple.local_port,
            destination_port: self.tuple.remote_port,
            seq: self.isn,
            ack: self.irs + 1,
            flags: Flags::SYN | Flags::ACK,
            window: u16::try_from(self.window.window).unwrap_or(u16::MAX),
            ..Header::default()
        };
        header.options.mss = Some(self.advertised_mss);
        header.options.timestamps = self.timestamps.then(|| self.stamp(now));
        header.options.sack_permitted = self.sack;
        header.options.window_scale = self.shift.map(|_| self.window.shift);
        self.reply(header)
    }

    fn stamp(&self, now: Instant) -> Timestamps {
        Timestamps { value: isn::timestamp_clock(now).wrapping_add(self.timestamp_offset), echo: self.ts_recent }
    }

    fn acknowledgment(&self, now: Instant) -> Reply {
        let shift = if self.shift.is_some() { self.window.shift } else { 0 };
        let mut header = Header {
            source_port: self.tuple.local_port,
            destination_port: self.tuple.remote_port,
            seq: self.isn + 1,
            ack: self.irs + 1,
            flags: Flags::ACK,
            window: u16::try_from(self.window.window >> shift).unwrap_or(u16::MAX),
            ..Header::default()
        };
        header.options.timestamps = self.timestamps.then(|| self.stamp(now));
        self.reply(header)
    }

    fn reply(&self, header: Header) -> Reply {
        Reply {
            source: self.tuple.local,
            destination: self.tuple.remote,
            route: self.route,
            ttl: None,
            tos: self.tos,
            header: header.emit(),
            purpose: Purpose::Own,
            identified: false,
        }
    }
}

impl Shared {
    pub(super) fn remove_listener(&mut self, port: u16, index: u32) {
        if let Some(list) = self.listening.get_mut(&port) {
            list.retain(|held| *held != index);
            if list.is_empty() {
                self.listening.remove(&port);
            }
        }
    }

    pub(super) fn arm_request(&mut self, index: u32) {
        if let Some(request) = self.requests.get_mut(index as usize) {
            self.timers.arm(TimerKey::Request(index), &mut request.armed, Some(request.deadline));
        }
    }
}

impl Tcp {
    /// `inet_csk_listen_start`.
    pub(super) fn start_listening(&mut self, net: &mut Net<'_>, index: u32, backlog: u32) -> Result<(), ListenError> {
        let backlog = backlog.min(net.settings.somaxconn);
        let Some(sock) = self.sock_mut(index) else { return Err(ListenError::Invalid) };
        match sock.state {
            State::Listen => {
                if let Some(listen) = &mut sock.listen {
                    listen.backlog = backlog;
                }
                return Ok(());
            }
            State::Closed => {}
            _ => return Err(ListenError::Invalid),
        }
        let (local, port) = (sock.tuple.local, sock.tuple.local_port);
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return Err(ListenError::Invalid) };
        sock.listen = Some(Box::new(Listen { backlog, ..Listen::default() }));
        sock.set_state(shared, net.counters, State::Listen);
        sock.shutdown_read = false;
        sock.shutdown_write = false;
        // Asked again while in LISTEN: two listeners conflict even with SO_REUSEADDR.
        if !self.take_port_to_listen(net, index, local, port) {
            let Self { socks, shared, .. } = self;
            if let Some(sock) = socks.get_mut(index as usize) {
                sock.listen = None;
                sock.set_state(shared, net.counters, State::Closed);
            }
            return Err(ListenError::AddressInUse);
        }
        let Self { socks, shared, .. } = self;
        if let Some(sock) = socks.get_mut(index as usize) {
            sock.hashed = true;
            shared.listening.entry(sock.tuple.local_port).or_default().push(index);
        }
        Ok(())
    }

    fn take_port_to_listen(&mut self, net: &mut Net<'_>, index: u32, local: IpAddr, port: u16) -> bool {
        self.take_port(net, index, local, port)
    }

    /// Who listens for a connection (`__inet_lookup_listener`): the most specific, or one of an SO_REUSEPORT group.
    pub(super) fn find_listener(&self, net: &Net<'_>, tuple: &Tuple) -> Option<u32> {
        let list = self.shared.listening.get(&tuple.local_port)?;
        let score = |index: &u32| -> Option<u8> {
            let sock = self.sock(*index)?;
            if sock.family == AddressFamily::Inet6 && sock.options.v6_only && tuple.local.is_ipv4() {
                return None;
            }
            let exact = sock.tuple.local == tuple.local;
            if !exact && !sock.tuple.local.is_unspecified() {
                return None;
            }
            let same_family = (sock.family == AddressFamily::Inet) == tuple.local.is_ipv4();
            Some(u8::from(exact) * 2 + u8::from(same_family))
        };
        let best = list.iter().filter_map(score).max()?;
        let count = list.iter().filter(|index| score(index) == Some(best)).count();
        let mut group = list.iter().filter(|index| score(index) == Some(best)).copied();
        let first = group.next()?;
        if count == 1 || !self.sock(first)?.options.reuse_port {
            return Some(first);
        }
        let hash = net.random.keyed(purpose::SPREAD, &bytes_of(tuple));
        let pick = usize::try_from(hash % count as u64).unwrap_or(0);
        if pick == 0 { Some(first) } else { group.nth(pick - 1) }
    }

    /// A segment for a listener (RFC 9293 §3.10.7.2).
    pub(super) fn handle_in_listen(
        &mut self,
        net: &mut Net<'_>,
        index: u32,
        tuple: &Tuple,
        incoming: &Incoming<'_>,
        isn: Option<Seq>,
    ) -> Verdict {
        if incoming.has(Flags::RST) {
            return Verdict::Done;
        }
        if incoming.has(Flags::ACK) {
            return Verdict::Reset;
        }
        if incoming.has(Flags::SYN) && !incoming.has(Flags::FIN) && incoming.info.kind == AddressKind::Local {
            self.take_syn(net, index, tuple, incoming, isn);
        }
        Verdict::Done
    }

    /// `tcp_conn_request`.
    fn take_syn(&mut self, net: &mut Net<'_>, index: u32, tuple: &Tuple, incoming: &Incoming<'_>, isn: Option<Seq>) {
        let Some(sock) = self.sock(index) else { return };
        let Some(listen) = &sock.listen else { return };
        if listen.half_open >= most_requests(listen, net.settings) {
            net.counters.tcp_req_q_full_drop += 1;
            net.counters.listen_drops += 1;
            return;
        }
        //= REF L-02
        if listen.is_full() {
            net.counters.listen_overflows += 1;
            net.counters.listen_drops += 1;
            return;
        }
        let key = RouteKey { destination: tuple.remote, source: Some(tuple.local), on_link_only: false };
        let Ok(route) = net.ip.route(&key) else {
            net.counters.listen_drops += 1;
            return;
        };
        if route.broadcast || route.multicast {
            net.counters.listen_drops += 1;
            return;
        }
        let request = self.make_request(net, index, tuple, incoming, isn, route);
        let Some(request) = request else { return };
        let reply = request.syn_ack(net.now);
        let place = u32::try_from(self.shared.requests.insert(request)).unwrap_or(u32::MAX);
        self.shared.established.insert(*tuple, Endpoint::Request(place));
        self.shared.arm_request(place);
        if let Some(listen) = self.sock_mut(index).and_then(|sock| sock.listen.as_mut()) {
            listen.half_open += 1;
        }
        net.counters.tcp_out_segs += 1;
        self.shared.reply(net, reply);
    }

    fn make_request(
        &self,
        net: &mut Net<'_>,
        index: u32,
        tuple: &Tuple,
        incoming: &Incoming<'_>,
        isn: Option<Seq>,
        route: Route,
    ) -> Option<Request> {
        let sock = self.sock(index)?;
        let options = &incoming.header.options;
        let timestamps = net.settings.tcp_timestamps != 0 && options.timestamps.is_some();
        let shift = options.window_scale.filter(|_| net.settings.tcp_window_scaling);
        let mut peer_mss = options.mss.unwrap_or(DEFAULT_MSS);
        if sock.tcp.max_segment > 0 {
            peer_mss = peer_mss.min(sock.tcp.max_segment);
        }
        // What the child will advertise follows from the listener's options and the route of this peer.
        let mut model = Sock::new(net.settings, 0, sock.family, net.now);
        model.tuple = *tuple;
        model.route = Some(route);
        model.options = sock.options.clone();
        model.tcp = sock.tcp.clone();
        model.timestamps = timestamps;
        model.advertised_mss = model.mss_to_advertise();
        model.state = State::SynReceived;
        let window = model.initial_window(net, shift.is_some());
        Some(Request {
            tuple: *tuple,
            listener: sock.id(),
            isn: isn.unwrap_or_else(|| isn::initial(net.random, net.now, tuple)),
            irs: incoming.header.seq,
            peer_mss,
            advertised_mss: model.advertised_mss,
            shift,
            sack: net.settings.tcp_sack && options.sack_permitted,
            timestamps,
            ts_recent: options.timestamps.map_or(0, |timestamps| timestamps.value),
            timestamp_offset: isn::timestamp_offset(net.random, net.settings, tuple),
            window,
            route: Some(route),
            tos: sock.options.tos,
            retransmits: 0,
            sent_at: net.now,
            acked: false,
            armed: None,
            deadline: net.now + rto::INITIAL,
            last_answer: None,
        })
    }

    /// A segment for a half-open connection (`tcp_check_req`).
    pub(super) fn handle_request(&mut self, net: &mut Net<'_>, place: u32, incoming: Incoming<'_>) -> Verdict {
        let Some(request) = self.shared.requests.get_mut(place as usize) else { return Verdict::Done };
        let header = incoming.header;
        let too_old = header.options.timestamps.is_some_and(|timestamps| {
            request.timestamps && Seq(request.ts_recent).offset_from(Seq(timestamps.value)) > 0
        });
        // The SYN came again: our answer was lost.
        let opening = header.flags & (Flags::SYN | Flags::RST | Flags::ACK) == Flags::SYN;
        if header.seq == request.irs && opening && !too_old {
            if may_answer(net, &mut request.last_answer) {
                let reply = request.syn_ack(net.now);
                net.counters.tcp_retrans_segs += 1;
                self.shared.reply(net, reply);
            } else {
                net.counters.tcp_ack_skipped_syn_recv += 1;
            }
            return Verdict::Done;
        }
        if incoming.has(Flags::ACK) && !incoming.has(Flags::RST) && header.ack != request.isn + 1 {
            return Verdict::Reset;
        }
        let rcv_nxt = request.irs + 1;
        let outside = incoming.end.before(rcv_nxt) || header.seq.after(rcv_nxt + request.window.window);
        if too_old || outside {
            if !incoming.has(Flags::RST) && may_answer(net, &mut request.last_answer) {
                let reply = request.acknowledgment(net.now);
                self.shared.reply(net, reply);
            }
            if too_old {
                net.counters.paws_estab += 1;
            }
            return Verdict::Done;
        }
        if let Some(timestamps) = header.options.timestamps
            && request.timestamps
            && !header.seq.after(rcv_nxt)
        {
            request.ts_recent = timestamps.value;
        }
        if incoming.header.flags.intersects(Flags::RST | Flags::SYN) {
            let tuple_is_reset = incoming.has(Flags::RST);
            if tuple_is_reset && header.seq != rcv_nxt {
                return Verdict::Done;
            }
            net.counters.tcp_attempt_fails += 1;
            net.counters.embryonic_rsts += 1;
            self.drop_request(place);
            return if tuple_is_reset { Verdict::Done } else { Verdict::Reset };
        }
        if !incoming.has(Flags::ACK) {
            return Verdict::Done;
        }
        self.complete_request(net, place, incoming)
    }

    /// The final ACK: the child is made (`tcp_v4_syn_recv_sock`).
    fn complete_request(&mut self, net: &mut Net<'_>, place: u32, incoming: Incoming<'_>) -> Verdict {
        let Some(request) = self.shared.requests.get(place as usize) else { return Verdict::Done };
        let listener = request.listener.index;
        let Some(sock) =
            self.socks.get(listener as usize).filter(|sock| sock.generation == request.listener.generation)
        else {
            self.drop_request(place);
            return Verdict::Reset;
        };
        let Some(listen) = &sock.listen else {
            self.drop_request(place);
            return Verdict::Reset;
        };
        let bare = incoming.end == request.irs + 1;
        let full = listen.is_full();
        let deferred = request.retransmits < timeouts_in(sock.tcp.defer_accept) && bare;
        if deferred {
            net.counters.tcp_defer_accept_drop += 1;
        }
        if full && !deferred {
            net.counters.listen_overflows += 1;
            net.counters.listen_drops += 1;
            if net.settings.tcp_abort_on_overflow {
                net.counters.embryonic_rsts += 1;
                self.drop_request(place);
                return Verdict::Reset;
            }
        }
        if full || deferred {
            if let Some(request) = self.shared.requests.get_mut(place as usize) {
                request.acked = true;
            }
            return Verdict::Done;
        }
        let Some(child) = self.make_child(net, place) else {
            net.counters.listen_drops += 1;
            return Verdict::Done;
        };
        let Self { socks, shared, .. } = self;
        if let Some(sock) = socks.get_mut(listener as usize) {
            if let Some(listen) = &mut sock.listen {
                listen.accept.push_back(child);
            }
            sock.wake(shared);
        }
        let verdict = match socks.get_mut(child as usize) {
            Some(sock) => sock.handle(shared, net, incoming),
            None => Verdict::Done,
        };
        self.settle(net, child);
        verdict
    }

    fn make_child(&mut self, net: &mut Net<'_>, place: u32) -> Option<u32> {
        let generation = self.next_generation();
        let Self { socks, shared, .. } = self;
        let request = shared.requests.get(place as usize)?;
        let parent = socks.get(request.listener.index as usize)?;
        let mut child = Box::new(Sock::new(net.settings, generation, parent.family, net.now));
        child.options = parent.options.clone();
        child.tcp = parent.tcp.clone();
        child.algorithm = parent.algorithm.afresh();
        child.port_locked = parent.port_locked;
        child.address_locked = true;
        child.tuple = request.tuple;
        child.shown_port = request.tuple.local_port;
        child.route = request.route;
        child.timestamps = request.timestamps;
        child.timestamp_offset = request.timestamp_offset;
        child.ts_recent = request.ts_recent;
        child.ts_recent_at = net.now;
        child.sack = request.sack;
        child.window_scaling = request.shift.is_some();
        child.snd_wscale = request.shift.unwrap_or(0);
        child.peer_mss = request.peer_mss;
        child.advertised_mss = request.advertised_mss;
        child.iss = request.isn;
        child.snd_una = request.isn + 1;
        child.snd_nxt = request.isn + 1;
        child.snd_sml = child.snd_una;
        child.high_seq = child.snd_una;
        child.irs = request.irs;
        child.snd_wl1 = request.irs;
        let window =
            Initial { shift: if request.shift.is_some() { request.window.shift } else { 0 }, ..request.window };
        child.begin_window(window, request.irs + 1);
        child.total_retransmits = request.retransmits;
        if request.retransmits == 0 {
            child.rtt.sample(net.now.since(request.sent_at), child.snd_una, child.snd_nxt);
        }
        child.state = State::SynReceived;
        let tuple = request.tuple;
        let index = u32::try_from(socks.insert(child)).ok()?;
        shared.ports.hold(tuple.local_port, Endpoint::Sock(index), false);
        net.counters.tcp_passive_opens += 1;
        self.drop_request(place);
        let Self { socks, shared, .. } = self;
        let child = socks.get_mut(index as usize)?;
        child.index = index;
        child.hash(shared);
        Some(index)
    }

    /// Forgets a half-open request.
    pub(super) fn drop_request(&mut self, place: u32) {
        let Some(mut request) = self.shared.requests.try_remove(place as usize) else { return };
        self.shared.timers.disarm(TimerKey::Request(place), &mut request.armed);
        if self.shared.established.get(&request.tuple) == Some(&Endpoint::Request(place)) {
            self.shared.established.remove(&request.tuple);
        }
        let listener = self.socks.get_mut(request.listener.index as usize);
        if let Some(listener) = listener.filter(|sock| sock.generation == request.listener.generation)
            && let Some(listen) = &mut listener.listen
        {
            listen.half_open = listen.half_open.saturating_sub(1);
        }
    }

    /// The SYN-ACK was not answered (`reqsk_timer_handler`).
    pub(super) fn request_due(&mut self, net: &mut Net<'_>, place: u32) {
        let Some(request) = self.shared.requests.get_mut(place as usize) else { return };
        request.armed = None;
        if net.now < request.deadline {
            self.shared.arm_request(place);
            return;
        }
        let listener = request.listener;
        let retransmits = request.retransmits;
        let own = self.socks.get(listener.index as usize).map_or(0, |sock| sock.tcp.syn_count);
        let most = if own > 0 { own } else { net.settings.tcp_synack_retries };
        if retransmits >= u32::from(most) {
            net.counters.tcp_attempt_fails += 1;
            self.drop_request(place);
            return;
        }
        let Some(request) = self.shared.requests.get_mut(place as usize) else { return };
        request.retransmits += 1;
        request.deadline = net.now + rto::INITIAL.saturating_mul(1 << request.retransmits.min(7)).min(rto::MOST);
        let reply = request.syn_ack(net.now);
        net.counters.tcp_timeouts += 1;
        net.counters.tcp_syn_retrans += 1;
        net.counters.tcp_retrans_segs += 1;
        self.shared.reply(net, reply);
        self.shared.arm_request(place);
    }

    /// `inet_csk_accept`.
    pub(super) fn take_accepted(&mut self, index: u32) -> Result<SockId, AcceptError> {
        let Some(sock) = self.sock_mut(index) else { return Err(AcceptError::Invalid) };
        let Some(listen) = sock.listen.as_mut().filter(|_| sock.state == State::Listen) else {
            return Err(AcceptError::Invalid);
        };
        let child = listen.accept.pop_front().ok_or(AcceptError::WouldBlock)?;
        self.sock(child).map(Sock::id).ok_or(AcceptError::WouldBlock)
    }

    /// The listener has gone: whoever waits in its queues is turned away (`inet_csk_listen_stop`).
    pub(super) fn stop_listening(&mut self, net: &mut Net<'_>, index: u32) {
        let Some(sock) = self.sock_mut(index) else { return };
        let id = sock.id();
        let Some(listen) = sock.listen.take() else { return };
        for child in listen.accept {
            let Self { socks, shared, .. } = self;
            if let Some(child) = socks.get_mut(child as usize) {
                child.abandon(shared, net);
                child.orphan = true;
            }
            self.settle(net, child);
        }
        if listen.half_open > 0 {
            let orphans: alloc::vec::Vec<u32> = self
                .shared
                .requests
                .iter()
                .filter(|(_, request)| request.listener == id)
                .filter_map(|(place, _)| u32::try_from(place).ok())
                .collect();
            for place in orphans {
                self.drop_request(place);
            }
        }
    }
}

/// How many half-open requests a listener may have (`inet_csk_reqsk_queue_is_full`). Where Linux would go on with SYN
/// cookies, a request is kept instead, up to tcp_max_syn_backlog.
fn most_requests(listen: &Listen, settings: &Settings) -> u32 {
    if settings.tcp_syncookies == 0 { listen.backlog } else { listen.backlog.max(settings.tcp_max_syn_backlog) }
}

/// Repeated segments of a half-open connection are answered only so often (tcp_invalid_ratelimit).
fn may_answer(net: &Net<'_>, last: &mut Option<Instant>) -> bool {
    let limit = Duration::from_millis(u64::from(net.settings.tcp_invalid_ratelimit));
    if last.is_some_and(|last| net.now.since(last) < limit) {
        return false;
    }
    *last = Some(net.now);
    true
}

/// How many timeouts of the SYN-ACK fit in `seconds` of TCP_DEFER_ACCEPT (`secs_to_retrans`).
pub fn timeouts_in(seconds: u32) -> u32 {
    let mut count = 0;
    let (mut total, mut wait) = (0, 1);
    while total < seconds && count < 255 {
        total += wait;
        wait = (wait * 2).min(120);
        count += 1;
    }
    count
}
