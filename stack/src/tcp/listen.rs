//! Passive open (RFC 9293 §3.10.7.2, `tcp_conn_request`): who listens, what a SYN leads to, and the queue of connections
//! that wait for accept. What is half open is kept apart, in `request.rs`; a full half-open queue is answered with SYN
//! cookies (`cookie.rs`).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::IpAddr;

use super::ecn;
use super::fast_open::Served;
use super::header::Flags;
use super::isn::{self, bytes_of, purpose};
use super::ports::Endpoint;
use super::receive::{Incoming, Verdict};
use super::request::Request;
use super::sequence::Seq;
use super::sock::{DEFAULT_MSS, Sock};
use super::state::State;
use super::{Shared, Tcp, Tuple, cookie};
use crate::ip::{AddressKind, Route, RouteKey};
use crate::socket::error::{AcceptError, ListenError};
use crate::socket::filter::View;
use crate::socket::options::Through;
use crate::socket::protocol::{AddressFamily, Net, SockId};
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;

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
pub(super) struct Offer {
    pub isn: Seq,
    pub irs: Seq,
    pub peer_mss: u16,
    pub shift: Option<u8>,
    pub sack: bool,
    pub ecn: bool,
    /// The peer's timestamp, when both sides want them.
    pub stamp: Option<u32>,
    pub saved_syn: Option<Box<[u8]>>,
    /// Options that answer those of the SYN.
    pub options: Option<Box<IpOptions>>,
}

impl Listen {
    /// `sk_acceptq_is_full`: one more than the backlog is let in.
    pub fn is_full(&self) -> bool {
        self.accept.len() > self.backlog as usize
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

    /// Who has this connection and hears what comes this way (`inet_match`).
    pub(super) fn endpoint_of(&self, tuple: &Tuple, looped: bool) -> Option<Endpoint> {
        let found = self.shared.established.get(tuple).copied()?;
        let sock = match found {
            Endpoint::Sock(index) => Some(index),
            Endpoint::Request(place) => self.shared.requests.get(place as usize).map(|request| request.listener.index),
            Endpoint::TimeWait(_) => None,
        };
        let hears = sock.and_then(|index| self.sock(index)).is_none_or(|sock| sock.options.through.hears(looped));
        hears.then_some(found)
    }

    /// Who listens for a connection (`__inet_lookup_listener`): the most specific, or one of an SO_REUSEPORT group.
    pub(super) fn find_listener(
        &self,
        net: &Net<'_>,
        tuple: &Tuple,
        looped: bool,
        packet: Option<&View<'_>>,
    ) -> Option<u32> {
        let list = self.shared.listening.get(&tuple.local_port)?;
        let score = |index: &u32| -> Option<u8> {
            let sock = self.sock(*index)?;
            if sock.family == AddressFamily::Inet6 && sock.options.v6_only && tuple.local.is_ipv4() {
                return None;
            }
            if !sock.options.through.hears(looped) {
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
        let options = answering_options(net, &incoming);
        let Some(route) = route_back(net, tuple, options.as_deref()) else {
            net.counters.listen_drops += 1;
            return;
        };
        if route.broadcast || route.multicast {
            net.counters.listen_drops += 1;
            return;
        }
        let mut offer = offer_of(net, sock, tuple, &incoming, isn);
        offer.options = options;
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
        let options = answering_options(net, incoming);
        let route = route_back(net, tuple, options.as_deref())?;
        let offer = Offer {
            isn,
            irs,
            peer_mss,
            shift: remembered.shift,
            sack: remembered.sack,
            ecn: remembered.ecn && net.settings.tcp_ecn != 0,
            stamp: stamps.map(|stamps| stamps.value),
            saved_syn: None,
            options,
        };
        let mut request = self.make_request(net, index, tuple, offer, route)?;
        request.sent_at = None;
        request.from_cookie = true;
        Some(self.keep_request(index, request))
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

/// The options that answer those of a segment (`tcp_v4_save_options`).
fn answering_options(net: &Net<'_>, incoming: &Incoming<'_>) -> Option<Box<IpOptions>> {
    let options = net.ip.echo_options(&incoming.info.options, incoming.info.source)?;
    (!options.is_empty()).then(|| Box::new(options))
}

/// The route to a peer, or to the first hop of the way back (`inet_csk_route_req`).
fn route_back(net: &Net<'_>, tuple: &Tuple, options: Option<&IpOptions>) -> Option<Route> {
    let destination = options.and_then(IpOptions::first_hop).map_or(tuple.remote, IpAddr::V4);
    let key = RouteKey { destination, source: Some(tuple.local), on_link_only: false, through: Through::Any };
    let route = net.ip.route(&key).ok()?;
    let astray = options.is_some_and(IpOptions::is_strict) && route.next_hop != destination;
    (!astray).then_some(route)
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
        options: None,
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
