//! Passive open (RFC 9293 §3.10.7.2, `tcp_conn_request`, `tcp_check_req`): half-open requests, small and bounded, and
//! the queue of connections that wait for accept, kept apart. A full half-open queue is answered with SYN cookies
//! (`cookie.rs`).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::IpAddr;
use core::time::Duration;

use super::ecn;
use super::fast_open::Served;
use super::header::{Cookie, Flags, Header, Timestamps};
use super::isn::{self, bytes_of, purpose};
use super::ports::Endpoint;
use super::receive::{Incoming, Verdict};
use super::sequence::Seq;
use super::sock::{DEFAULT_MSS, Sock};
use super::state::State;
use super::timer::TimerKey;
use super::window::Initial;
use super::{Reply, Shared, Tcp, Tuple, cookie, rto, signature};
use crate::frame::Purpose;
use crate::ip::{AddressKind, Route, RouteKey};
use crate::socket::error::{AcceptError, ListenError};
use crate::socket::filter::View;
use crate::socket::protocol::{AddressFamily, Happened, Net, SockId};
use crate::time::Instant;

/// What a listening sock has beside the rest.
#[derive(Debug, Default)]
pub struct Listen {
    pub backlog: u32,
    /// Connections that wait for accept, by place.
    pub accept: VecDeque<u32>,
    /// Half-open requests.
    pub half_open: u32,
    /// Those whose SYN-ACK was never repeated by the timer.
    pub young: u32,
    /// When a SYN was last answered with a cookie.
    cookies_at: Option<Instant>,
}

/// What is known of a connection request, from its SYN or from a cookie.
struct Offer {
    isn: Seq,
    irs: Seq,
    peer_mss: u16,
    shift: Option<u8>,
    sack: bool,
    ecn: bool,
    /// The peer's timestamp, when both sides want them.
    stamp: Option<u32>,
    saved_syn: Option<Box<[u8]>>,
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
    /// ECN is granted.
    ecn: bool,
    /// How often the SYN-ACK was repeated.
    retransmits: u32,
    /// How often the timer has fired.
    timeouts: u32,
    /// When the first SYN-ACK was sent; `None`: nobody remembers (a cookie).
    sent_at: Option<Instant>,
    /// The final ACK came while the accept queue was full, or while data is waited for.
    acked: bool,
    /// Made from a cookie: nothing waits for it, no timer runs.
    from_cookie: bool,
    /// The Fast Open cookie that the SYN-ACK carries.
    fast_open: Option<Cookie>,
    /// TCP_SAVE_SYN.
    saved_syn: Option<Box<[u8]>>,
    /// Key that answers are signed with.
    key: Option<Box<[u8]>>,
    pub armed: Option<Instant>,
    deadline: Instant,
    last_answer: Option<Instant>,
}

impl Request {
    /// How long the SYN-ACK may go unanswered now (`tcp_reqsk_timeout`).
    fn timeout(&self) -> Duration {
        rto::INITIAL.saturating_mul(1 << self.timeouts.min(7)).min(rto::MOST)
    }

    fn syn_ack(&self, now: Instant) -> Reply {
        self.syn_ack_with(self.stamp(now))
    }

    fn syn_ack_with(&self, stamp: Timestamps) -> Reply {
        let mut header = Header {
            source_port: self.tuple.local_port,
            destination_port: self.tuple.remote_port,
            seq: self.isn,
            ack: self.irs + 1,
            flags: Flags::SYN | Flags::ACK,
            window: u16::try_from(self.window.window).unwrap_or(u16::MAX),
            ..Header::default()
        };
        if self.ecn {
            header.flags |= Flags::ECE;
        }
        //= RFC 9293 §3.7.1 (SHLD-5)
        header.options.mss = Some(self.advertised_mss);
        //= RFC 7323 §3.2 (MAY-7)
        header.options.timestamps = self.timestamps.then_some(stamp);
        header.options.sack_permitted = self.sack;
        //= RFC 7323 §2.2 (MAY-4)
        //= RFC 7323 §2.3 (MUST-4)
        header.options.window_scale = self.shift.map(|_| self.window.shift);
        header.options.fast_open = self.fast_open;
        self.reply(header)
    }

    /// The timestamp that holds the options for a cookie.
    fn cookie_stamp(&self, now: Instant) -> Timestamps {
        let remembered = cookie::Remembered { shift: self.shift, sack: self.sack, ecn: self.ecn };
        let value = cookie::encode(isn::timestamp_clock(now), remembered);
        Timestamps { value: value.wrapping_add(self.timestamp_offset), echo: self.ts_recent }
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
            header: signature::emit(header, self.tuple.local, self.tuple.remote, &[], self.key.as_deref()),
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
        //= RFC 9293 §3.9.1.1 (MUST-41)
        if !self.take_port_to_listen(net, index, local, port) {
            let Self { socks, shared, .. } = self;
            if let Some(sock) = socks.get_mut(index as usize) {
                sock.listen = None;
                sock.set_state(shared, net.counters, State::Closed);
            }
            return Err(ListenError::AddressInUse);
        }
        self.listen_fast_open(net.settings, index, backlog);
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
    pub(super) fn find_listener(&self, net: &Net<'_>, tuple: &Tuple, packet: Option<&View<'_>>) -> Option<u32> {
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
        //= REF D-06: SO_ATTACH_REUSEPORT_CBPF picks, as long as it names one that is there (`reuseport_select_sock`).
        let program = group.clone().chain([first]).find_map(|index| self.sock(index)?.options.group_filter.as_ref());
        let chosen = program.zip(packet).and_then(|(program, packet)| usize::try_from(program.run(packet)).ok());
        let pick = chosen.filter(|pick| *pick < count).unwrap_or_else(|| {
            let hash = net.random.keyed(purpose::SPREAD, &bytes_of(tuple));
            usize::try_from(hash % count as u64).unwrap_or(0)
        });
        if pick == 0 { Some(first) } else { group.nth(pick - 1) }
    }

    /// A segment for a listener (RFC 9293 §3.10.7.2).
    pub(super) fn handle_in_listen(
        &mut self,
        net: &mut Net<'_>,
        index: u32,
        tuple: &Tuple,
        incoming: Incoming<'_>,
        isn: Option<Seq>,
    ) -> Verdict {
        if incoming.has(Flags::RST) {
            return Verdict::Done;
        }
        if incoming.has(Flags::ACK) {
            if incoming.has(Flags::SYN) {
                return Verdict::Reset;
            }
            return match self.take_cookie(net, index, tuple, &incoming) {
                Some(place) => self.complete_request(net, place, incoming),
                None => Verdict::Reset,
            };
        }
        if incoming.has(Flags::SYN) && !incoming.has(Flags::FIN) && incoming.info.kind == AddressKind::Local {
            self.take_syn(net, index, tuple, incoming, isn);
        }
        Verdict::Done
    }

    /// `tcp_conn_request`.
    fn take_syn(&mut self, net: &mut Net<'_>, index: u32, tuple: &Tuple, incoming: Incoming<'_>, isn: Option<Seq>) {
        let Some(sock) = self.sock(index) else { return };
        let Some(listen) = &sock.listen else { return };
        // `tcp_syn_flood_action`
        let crowded = listen.half_open > listen.backlog;
        let cookie = (net.settings.tcp_syncookies == 2 || crowded) && isn.is_none();
        if cookie && net.settings.tcp_syncookies == 0 {
            net.counters.tcp_req_q_full_drop += 1;
            net.counters.listen_drops += 1;
            return;
        }
        net.counters.tcp_req_q_full_do_cookies += u64::from(cookie);
        //= REF L-02
        if listen.is_full() {
            net.counters.listen_overflows += 1;
            net.counters.listen_drops += 1;
            return;
        }
        // Without cookies the last quarter of the room is for peers that are known to be alive, and none is.
        let room = net.settings.tcp_max_syn_backlog.saturating_sub(listen.half_open);
        if isn.is_none() && net.settings.tcp_syncookies == 0 && room < net.settings.tcp_max_syn_backlog >> 2 {
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
        let mut offer = offer_of(net, sock, tuple, &incoming, isn);
        if cookie {
            if offer.stamp.is_none() {
                offer.shift = None;
                offer.sack = false;
                offer.ecn = false;
            }
            (offer.isn, offer.peer_mss) = cookie::make(net.random, net.now, tuple, offer.irs, offer.peer_mss);
            offer.saved_syn = None;
            self.answer_with_cookie(net, index, tuple, offer, route);
            return;
        }
        // Timestamps, a signature and SACK blocks do not fit in one header (`tcp_synack_options`).
        if offer.sack && sock.signatures.find(tuple.remote).is_some() {
            offer.stamp = None;
        }
        let served = self.try_fast_open(net, index, tuple, &incoming);
        let Some(mut request) = self.make_request(net, index, tuple, offer, route) else { return };
        let cookie = match served {
            Served::Ordinary(cookie) => cookie,
            Served::AtOnce(cookie) => {
                let listener = request.listener;
                let place = self.keep_request(index, request);
                self.open_at_once(net, listener, place, incoming, cookie);
                return;
            }
        };
        request.fast_open = cookie;
        let reply = request.syn_ack(net.now);
        let place = self.keep_request(index, request);
        self.shared.arm_request(place);
        net.counters.tcp_out_segs += 1;
        self.shared.reply(net, reply);
    }

    /// Puts a request into its tables.
    fn keep_request(&mut self, index: u32, request: Request) -> u32 {
        let tuple = request.tuple;
        let place = u32::try_from(self.shared.requests.insert(request)).unwrap_or(u32::MAX);
        self.shared.established.insert(tuple, Endpoint::Request(place));
        if let Some(listen) = self.sock_mut(index).and_then(|sock| sock.listen.as_mut()) {
            listen.half_open += 1;
            listen.young += 1;
        }
        place
    }

    /// The SYN is answered and forgotten.
    fn answer_with_cookie(&mut self, net: &mut Net<'_>, index: u32, tuple: &Tuple, offer: Offer, route: Route) {
        let Some(request) = self.make_request(net, index, tuple, offer, route) else { return };
        if let Some(listen) = self.sock_mut(index).and_then(|sock| sock.listen.as_mut()) {
            listen.cookies_at = Some(net.now);
        }
        net.counters.syncookies_sent += 1;
        net.counters.tcp_out_segs += 1;
        let reply = request.syn_ack_with(request.cookie_stamp(net.now));
        self.shared.reply(net, reply);
    }

    /// The ACK of a SYN-ACK that nobody remembers (`cookie_v4_check`). `None`: it is not one.
    //= REF L-02
    fn take_cookie(&mut self, net: &mut Net<'_>, index: u32, tuple: &Tuple, incoming: &Incoming<'_>) -> Option<u32> {
        let listen = self.sock(index)?.listen.as_ref()?;
        let recent = listen.cookies_at.is_some_and(|at| net.now.since(at) < cookie::VALID);
        if net.settings.tcp_syncookies == 0 || !recent {
            return None;
        }
        let (isn, irs) = (incoming.header.ack - 1, incoming.header.seq - 1);
        let Some(peer_mss) = cookie::check(net.random, net.now, tuple, irs, isn) else {
            net.counters.syncookies_failed += 1;
            return None;
        };
        net.counters.syncookies_recv += 1;
        let stamps = incoming.header.options.timestamps;
        let remembered = match stamps {
            Some(stamps) => {
                let offset = if stamps.echo == 0 { 0 } else { isn::timestamp_offset(net.random, net.settings, tuple) };
                cookie::decode(net.settings, stamps.echo.wrapping_sub(offset))?
            }
            None => cookie::Remembered { shift: None, sack: false, ecn: false },
        };
        let key = RouteKey { destination: tuple.remote, source: Some(tuple.local), on_link_only: false };
        let route = net.ip.route(&key).ok()?;
        let offer = Offer {
            isn,
            irs,
            peer_mss,
            shift: remembered.shift,
            sack: remembered.sack,
            ecn: remembered.ecn && net.settings.tcp_ecn != 0,
            stamp: stamps.map(|stamps| stamps.value),
            saved_syn: None,
        };
        let mut request = self.make_request(net, index, tuple, offer, route)?;
        request.sent_at = None;
        request.from_cookie = true;
        Some(self.keep_request(index, request))
    }

    fn make_request(
        &self,
        net: &mut Net<'_>,
        index: u32,
        tuple: &Tuple,
        offer: Offer,
        route: Route,
    ) -> Option<Request> {
        let sock = self.sock(index)?;
        let Offer { isn, irs, peer_mss, shift, sack, ecn: ecn_ok, stamp, saved_syn } = offer;
        // What the child will advertise follows from the listener's options and the route of this peer.
        let mut model = Sock::new(net.settings, 0, sock.family, net.now);
        model.tuple = *tuple;
        model.route = Some(route);
        model.options = sock.options.clone();
        model.tcp = sock.tcp.clone();
        model.timestamps = stamp.is_some();
        model.advertised_mss = model.mss_to_advertise();
        model.state = State::SynReceived;
        let window = model.initial_window(net, shift.is_some());
        let needs_ecn = sock.algorithm.needs_ecn();
        let key = sock.signatures.copy_of_key(tuple.remote);
        Some(Request {
            tuple: *tuple,
            listener: sock.id(),
            isn,
            irs,
            peer_mss,
            advertised_mss: model.advertised_mss,
            shift,
            sack,
            timestamps: stamp.is_some(),
            ts_recent: stamp.unwrap_or(0),
            timestamp_offset: isn::timestamp_offset(net.random, net.settings, tuple),
            window,
            route: Some(route),
            tos: (sock.options.tos & !ecn::MASK) | if needs_ecn { ecn::CAPABLE } else { 0 },
            ecn: ecn_ok,
            retransmits: 0,
            timeouts: 0,
            sent_at: Some(net.now),
            acked: false,
            from_cookie: false,
            fast_open: None,
            saved_syn,
            key,
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
                request.retransmits += 1;
                request.deadline = net.now + request.timeout();
                net.counters.tcp_retrans_segs += 1;
                net.counters.tcp_syn_retrans += 1;
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
            //= RFC 9293 §3.5 (MUST-11)
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
        let from_cookie = request.from_cookie;
        if !from_cookie && bare && request.timeouts < timeouts_in(sock.tcp.defer_accept) {
            net.counters.tcp_defer_accept_drop += 1;
            self.note_acked(place);
            return Verdict::Done;
        }
        if listen.is_full() {
            net.counters.listen_overflows += 1;
            net.counters.listen_drops += 1;
            if from_cookie {
                self.drop_request(place);
            } else if net.settings.tcp_abort_on_overflow {
                net.counters.embryonic_rsts += 1;
                self.drop_request(place);
                return Verdict::Reset;
            } else {
                self.note_acked(place);
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
            sock.wake(shared, Happened::INPUT);
        }
        let verdict = match socks.get_mut(child as usize) {
            Some(sock) => sock.handle(shared, net, incoming),
            None => Verdict::Done,
        };
        self.settle(net, child);
        verdict
    }

    fn note_acked(&mut self, place: u32) {
        if let Some(request) = self.shared.requests.get_mut(place as usize) {
            request.acked = true;
        }
    }

    pub(super) fn make_child(&mut self, net: &mut Net<'_>, place: u32) -> Option<u32> {
        let generation = self.next_generation();
        let Self { socks, shared, .. } = self;
        let request = shared.requests.get(place as usize)?;
        let parent = socks.get(request.listener.index as usize)?;
        let mut child = Box::new(Sock::new(net.settings, generation, parent.family, net.now));
        child.options = parent.options.clone();
        child.limit_timers();
        child.tcp = parent.tcp.clone();
        child.signatures = parent.signatures.inherited(request.tuple.remote);
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
        child.ecn.ok = request.ecn;
        child.window_scaling = request.shift.is_some();
        //= RFC 7323 §2.3 (MUST-5)
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
        if request.retransmits == 0
            && let Some(sent_at) = request.sent_at
        {
            // `tcp_synack_rtt_meas`
            let rtt = net.now.since(sent_at);
            child.rtt.sample(rtt, child.snd_una, child.snd_nxt);
            child.rtt.note_least(rtt);
        }
        child.saved_syn = request.saved_syn.clone();
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
            if request.timeouts == 0 {
                listen.young = listen.young.saturating_sub(1);
            }
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
        let id = request.listener;
        let listener = self.socks.get_mut(id.index as usize).filter(|sock| sock.generation == id.generation);
        let Some((sock, listen)) = listener.and_then(|sock| {
            let own = (sock.tcp.syn_count, sock.tcp.defer_accept);
            sock.listen.as_mut().map(|listen| (own, listen))
        }) else {
            self.drop_request(place);
            return;
        };
        let (own, defer_accept) = sock;
        let own = if own > 0 { own } else { net.settings.tcp_synack_retries };
        let most = fewer_when_crowded(listen, u32::from(own));
        let deferred = timeouts_in(defer_accept);
        let Some(request) = self.shared.requests.get_mut(place as usize) else { return };
        // `syn_ack_recalc`: while data is waited for, the SYN-ACK is repeated once, at the end.
        let spent = request.timeouts >= most;
        let waits = deferred > 0 && request.acked && request.timeouts < deferred;
        let resend = deferred == 0 || !request.acked || request.timeouts >= deferred - 1;
        net.counters.tcp_timeouts += 1;
        if spent && !waits {
            self.drop_request(place);
            return;
        }
        if request.timeouts == 0 {
            listen.young = listen.young.saturating_sub(1);
        }
        request.timeouts += 1;
        request.deadline = net.now + request.timeout();
        if resend {
            request.retransmits += 1;
            let reply = request.syn_ack(net.now);
            net.counters.tcp_syn_retrans += 1;
            net.counters.tcp_retrans_segs += 1;
            self.shared.reply(net, reply);
        }
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

/// What a SYN offers.
fn offer_of(net: &mut Net<'_>, sock: &Sock, tuple: &Tuple, incoming: &Incoming<'_>, isn: Option<Seq>) -> Offer {
    let options = &incoming.header.options;
    //= RFC 9293 §3.7.1 (MUST-14)
    let mut peer_mss = options.mss.unwrap_or(DEFAULT_MSS);
    if sock.tcp.max_segment > 0 {
        peer_mss = peer_mss.min(sock.tcp.max_segment);
    }
    let stamp = options.timestamps.filter(|_| net.settings.tcp_timestamps != 0).map(|stamps| stamps.value);
    Offer {
        isn: isn.unwrap_or_else(|| isn::initial(net.random, net.now, tuple)),
        irs: incoming.header.seq,
        peer_mss,
        //= RFC 7323 §2.3 (SHLD-2)
        shift: options.window_scale.filter(|_| net.settings.tcp_window_scaling),
        sack: net.settings.tcp_sack && options.sack_permitted,
        ecn: ecn::is_granted(net.settings, incoming, sock.algorithm.needs_ecn()),
        stamp,
        saved_syn: save_syn(sock, incoming),
    }
}

/// TCP_SAVE_SYN: the headers of the SYN, from the IP header or (2) from the link's on (`tcp_reqsk_record_syn`).
fn save_syn(sock: &Sock, incoming: &Incoming<'_>) -> Option<Box<[u8]>> {
    let from = match sock.tcp.save_syn {
        0 => return None,
        1 => incoming.info.network_at,
        _ => 0,
    };
    incoming.payload.buffer.get(from..incoming.payload.at).map(Box::from)
}

/// A crowded listener gives up sooner on those that do not answer (`reqsk_timer_handler`).
fn fewer_when_crowded(listen: &Listen, mut most: u32) -> u32 {
    if listen.half_open << 1 > listen.backlog.max(8) {
        let mut young = listen.young << 1;
        while most > 2 && listen.half_open >= young {
            most -= 1;
            young <<= 1;
        }
    }
    most
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
