//! Half-open connections (Linux's request socks; `inet_csk_reqsk_queue_add`, `tcp_check_req`, `reqsk_timer_handler`): small
//! and bounded, with a timer that repeats the SYN-ACK; the final ACK makes a sock of one (`tcp_v4_syn_recv_sock`). What a
//! SYN leads to is in `listen.rs`.

use alloc::boxed::Box;
use core::time::Duration;

use super::header::{Cookie, Flags, Header, Timestamps};
use super::isn;
use super::listen::{Listen, Offer};
use super::ports::Endpoint;
use super::receive::{Incoming, Verdict};
use super::sequence::Seq;
use super::sock::Sock;
use super::state::State;
use super::timer::TimerKey;
use super::window::Initial;
use super::{Reply, Shared, Tcp, Tuple, cookie, ecn, rto, signature};
use crate::frame::Purpose;
use crate::ip::Route;
use crate::socket::protocol::{Happened, Net, SockId};
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;

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
    pub(super) sent_at: Option<Instant>,
    /// Our timestamps of the first SYN-ACK and of the last one: an ACK echoes one of them.
    stamps: (u32, u32),
    /// The final ACK came while the accept queue was full, or while data is waited for.
    acked: bool,
    /// Made from a cookie: nothing waits for it, no timer runs.
    pub(super) from_cookie: bool,
    /// The Fast Open cookie that the SYN-ACK carries.
    pub(super) fast_open: Option<Cookie>,
    /// Options that answer those of the SYN.
    options: Option<Box<IpOptions>>,
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

    pub(super) fn syn_ack(&mut self, now: Instant) -> Reply {
        let stamp = self.stamp(now);
        let (first, _) = self.stamps;
        self.stamps = (if first == 0 { stamp.value } else { first }, stamp.value);
        self.syn_ack_with(stamp)
    }

    pub(super) fn syn_ack_with(&self, stamp: Timestamps) -> Reply {
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

    /// Whether an echo is of a SYN-ACK of ours; 0 is no echo, nor is one of a SYN-ACK that another sent (Fast Open).
    const fn has_sent(&self, echo: u32) -> bool {
        let (first, last) = self.stamps;
        echo == 0 || first == 0 || last.wrapping_sub(first) >= echo.wrapping_sub(first)
    }

    /// The timestamp that holds the options for a cookie.
    pub(super) fn cookie_stamp(&self, now: Instant) -> Timestamps {
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
            options: self.options.as_deref().copied().unwrap_or(IpOptions::NONE),
            header: signature::emit(header, self.tuple.local, self.tuple.remote, &[], self.key.as_deref()),
            purpose: Purpose::Own,
            identified: false,
        }
    }
}

impl Shared {
    pub(super) fn arm_request(&mut self, index: u32) {
        if let Some(request) = self.requests.get_mut(index as usize) {
            self.timers.arm(TimerKey::Request(index), &mut request.armed, Some(request.deadline));
        }
    }
}

impl Tcp {
    pub(super) fn make_request(
        &self,
        net: &mut Net<'_>,
        index: u32,
        tuple: &Tuple,
        offer: Offer,
        route: Route,
    ) -> Option<Request> {
        let sock = self.sock(index)?;
        let Offer { isn, irs, peer_mss, shift, sack, ecn: ecn_ok, stamp, saved_syn, options } = offer;
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
            stamps: (0, 0),
            acked: false,
            from_cookie: false,
            fast_open: None,
            options,
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
                // Again it is sent, and again made (`tcp_rtx_synack`, `tcp_make_synack`).
                net.counters.tcp_out_segs += 1;
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
        let false_echo = !request.from_cookie
            && request.timestamps
            && header.options.timestamps.is_some_and(|timestamps| !request.has_sent(timestamps.echo));
        let outside = incoming.end.before(rcv_nxt) || header.seq.after(rcv_nxt + request.window.window);
        if too_old || false_echo || outside {
            if !incoming.has(Flags::RST) && may_answer(net, &mut request.last_answer) {
                let reply = request.acknowledgment(net.now);
                net.counters.tcp_out_segs += 1;
                self.shared.reply(net, reply);
            }
            if too_old {
                net.counters.paws_estab += 1;
            } else if false_echo {
                net.counters.ts_ecr_rejected += 1;
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
    pub(super) fn complete_request(&mut self, net: &mut Net<'_>, place: u32, incoming: Incoming<'_>) -> Verdict {
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
            Some(sock) => {
                // `tcp_v4_syn_recv_sock`: as far as the peer is, groups may be.
                sock.options.multicast_ttl = incoming.info.ttl;
                sock.options.kept.note_hops(incoming.info.ttl);
                sock.arrival_tos = Some(incoming.info.tos);
                sock.handle(shared, net, incoming)
            }
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
        //= RFC 9293 §3.9.2.1 (MUST-53)
        child.options.ip_options = request.options.clone();
        child.limit_timers();
        child.tcp = parent.tcp.clone();
        child.signatures = parent.signatures.inherited(request.tuple.remote);
        child.algorithm = parent.algorithm.afresh();
        // Not the lock of the port (`sk_clone_lock`): when the connection is over, the port is given back.
        child.address_locked = parent.address_locked;
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
            child.rtt.note_least(net.now, net.settings.tcp_min_rtt_wlen, rtt);
        }
        if let Some(sent_at) = request.sent_at.filter(|_| request.timeouts > 0) {
            child.timeouts.note_of_request(net.now, request.timeouts, sent_at);
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
            net.counters.tcp_out_segs += 1;
            self.shared.reply(net, reply);
        }
        self.shared.arm_request(place);
    }
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
