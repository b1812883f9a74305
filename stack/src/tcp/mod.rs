//! TCP (RFC 9293) as Linux does it: sockets, half-open requests and TIME_WAIT entries in their tables, and the way of
//! segments, timers and calls to them. Each topic has its file; IP, neighbours and checksums are the network layer's.

mod acknowledge;
mod buffer;
mod charge;
mod chrono;
mod close;
mod congestion;
mod connect;
mod control;
mod cookie;
mod delayed_ack;
mod duplicate;
mod ecn;
mod fast_open;
pub mod header;
mod info;
mod isn;
mod keepalive;
mod listen;
mod loss;
mod memory;
mod options;
mod pacing;
mod path_error;
mod path_probe;
mod phase;
mod poll;
mod ports;
mod rack;
mod rate;
mod reassembly;
mod receive;
mod recovery;
mod reduction;
mod refusal;
mod remnant;
mod repair;
mod request;
mod retransmit;
mod rto;
mod sack;
mod segmentation;
mod send;
mod sequence;
mod signature;
mod sock;
mod spares;
mod state;
mod stray_reset;
mod switch;
mod tail_probe;
mod time_wait;
mod timer;
mod tx_times;
mod undo;
mod urgent;
mod window;

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use slab::Slab;
use smallvec::SmallVec;

use self::header::{Flags, Header, HeaderBytes};
use self::memory::Memory;
use self::ports::{Endpoint, Ports};
use self::reassembly::Payload;
use self::receive::{Incoming, Verdict};
use self::refusal::HandedOut;
use self::request::Request;
use self::send::Plan;
use self::sock::{Fate, Sock};
use self::spares::Spares;
use self::stray_reset::ResetAnswer;
use self::time_wait::{TimeWait, WaitVerdict};
use self::timer::{TimerKey, Timers};
use crate::frame::{MAX_PAYLOAD_SLICES, Purpose, RxChecksum};
use crate::ip::{AddressKind, PacketInfo, PathError, Route};
use crate::random::Random;
use crate::settings::Settings;
use crate::socket::kept::Kept;
use crate::socket::protocol::{AddressFamily, Happened, Net, SockId, SocketId};
use crate::stack::TransmitError;
use crate::time::Instant;
use crate::wire::checksum;
use crate::wire::ip_options::IpOptions;

pub use self::congestion::NAMES as CONGESTION_CONTROLS;
pub use self::ports::PortFilter;
pub use self::remnant::Remnant;
pub use self::state::State;
pub use self::tx_times::TimedSend;

/// IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Answers that wait to be sent; more are dropped, as a full device queue would.
const MOST_REPLIES: usize = 4_096;
/// IP_PMTUDISC_DONT: the only mode in which segments may be fragmented on their way.
const PMTUDISC_DONT: u8 = 0;

/// The 4-tuple of a connection, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Our address.
    pub local: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's port.
    pub remote_port: u16,
}

/// Hashes keyed by the stack's secret, so that nobody can choose colliding 4-tuples.
#[derive(Clone, Debug)]
struct Keyed([u8; 16]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

/// A segment on its way to the network layer, which fills the checksum and prepends the IP header.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The route; `None`: to be looked up.
    pub route: Option<Route>,
    /// IP_TTL, if set.
    pub ttl: Option<u8>,
    /// TOS byte.
    pub tos: u8,
    /// Options of the IP header; with a source route it goes to the first hop, to which `route` must lead.
    pub options: &'a IpOptions,
    /// Routers must not fragment it.
    pub dont_fragment: bool,
    /// TCP header with options; checksum zero.
    pub header: &'a [u8],
    /// Payload.
    pub payload: [&'a [u8]; MAX_PAYLOAD_SLICES],
    /// Payload bytes per segment when the device must cut it; 0: one segment.
    pub gso_size: u16,
    /// What it is for.
    pub purpose: Purpose,
    /// It has an identification of its own; else 0, which an unfragmentable packet may have (RFC 6864 §4.1).
    pub identified: bool,
    /// Its sender asks when it goes out.
    pub timed: Option<TimedSend>,
}

/// A segment without data and without a sock that could rebuild it.
#[derive(Clone, Copy, Debug)]
struct Reply {
    source: IpAddr,
    destination: IpAddr,
    route: Option<Route>,
    ttl: Option<u8>,
    tos: u8,
    options: IpOptions,
    header: HeaderBytes,
    purpose: Purpose,
    /// A full socket sends it (`ip_queue_xmit`); what requests, TIME_WAIT entries and closed ports answer has
    /// identification 0 on Linux (`ip_build_and_send_pkt`, `ip_send_unicast_reply`).
    identified: bool,
}

/// All but the socks: what a sock's functions may touch beside the sock itself.
#[derive(Debug)]
struct Shared {
    established: HashMap<Tuple, Endpoint, Keyed>,
    listening: HashMap<u16, SmallVec<[u32; 2]>, Keyed>,
    ports: Ports,
    requests: Slab<Request>,
    waits: Slab<TimeWait>,
    timers: Timers,
    ready: VecDeque<u32>,
    replies: VecDeque<Reply>,
    events: VecDeque<SockId>,
    /// Whose peer has announced urgent data (SIGURG); each is queued at most once.
    urgent: VecDeque<SockId>,
    fast_open: fast_open::FastOpenShared,
    memory: Memory,
    spares: Spares,
    challenge_since: Instant,
    challenges: u32,
}

impl Shared {
    fn reply(&mut self, net: &mut Net<'_>, reply: Reply) {
        if self.replies.len() < MOST_REPLIES {
            self.replies.push_back(reply);
        } else {
            net.counters.memory_refused += 1;
        }
    }

    /// tcp_challenge_ack_limit: for all connections together, per second. How many are left is not to be guessed, or
    /// somebody who is not on the path could tell whether a connection exists (CVE-2016-5696).
    fn may_challenge(&mut self, net: &mut Net<'_>) -> bool {
        //= RFC 5961 §7 (SHLD-4)
        let limit = net.settings.tcp_challenge_ack_limit;
        if limit == i32::MAX.unsigned_abs() {
            return true;
        }
        if net.now.since(self.challenge_since) >= Duration::from_secs(1) {
            self.challenge_since = net.now;
            let half = limit.div_ceil(2);
            let span = u64::from(limit.max(1));
            self.challenges = half + u32::try_from(net.random.next() % span).unwrap_or(0);
        }
        let allowed = self.challenges > 0;
        self.challenges = self.challenges.saturating_sub(1);
        allowed
    }
}

/// What `poll_transmit` handed out last, in case the device refuses it.
#[derive(Clone, Copy, Debug)]
enum Last {
    Reply,
    Sock(u32, HandedOut),
}

/// All of TCP.
#[derive(Debug)]
pub struct Tcp {
    socks: Slab<Box<Sock>>,
    generation: u32,
    shared: Shared,
    /// The segment that is being handed out.
    outgoing: Option<Reply>,
    plan: Option<Plan>,
    last: Option<Last>,
    settings: Settings,
}

impl Tcp {
    /// An empty set of tables.
    #[must_use]
    pub fn new(settings: &Settings, random: &mut Random) -> Self {
        let mut key = [0; 16];
        let first = random.keyed(isn::purpose::TABLES, b"first").to_ne_bytes();
        let second = random.next().to_ne_bytes();
        for (place, byte) in key.iter_mut().zip(first.into_iter().chain(second)) {
            *place = byte;
        }
        let keyed = Keyed(key);
        Self {
            socks: Slab::new(),
            generation: 0,
            shared: Shared {
                established: HashMap::with_hasher(keyed.clone()),
                listening: HashMap::with_hasher(keyed.clone()),
                fast_open: fast_open::FastOpenShared::new(random, keyed.clone()),
                ports: Ports::new(keyed),
                requests: Slab::new(),
                waits: Slab::new(),
                timers: Timers::default(),
                ready: VecDeque::new(),
                replies: VecDeque::new(),
                events: VecDeque::new(),
                urgent: VecDeque::new(),
                memory: Memory::default(),
                spares: Spares::default(),
                challenge_since: Instant::ZERO,
                challenges: 0,
            },
            outgoing: None,
            plan: None,
            last: None,
            settings: settings.clone(),
        }
    }

    /// The tunables have changed.
    pub fn set_settings(&mut self, settings: &Settings) {
        self.settings = settings.clone();
    }

    fn sock(&self, index: u32) -> Option<&Sock> {
        self.socks.get(index as usize).map(|sock| &**sock)
    }

    fn sock_mut(&mut self, index: u32) -> Option<&mut Sock> {
        self.socks.get_mut(index as usize).map(|sock| &mut **sock)
    }

    /// The place of a sock that is still the one meant.
    fn place(&self, id: SockId) -> Option<u32> {
        self.sock(id.index).filter(|sock| sock.generation == id.generation && !sock.orphan).map(|sock| sock.index)
    }

    const fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// State of a sock; one that is not known is closed.
    #[must_use]
    pub fn state(&self, sock: SockId) -> State {
        self.place(sock).and_then(|index| self.sock(index)).map_or(State::Closed, |sock| sock.state)
    }

    /// The peer of a sock, also of one whose connection is over (`inet_getname` for accept).
    #[must_use]
    pub fn last_peer(&self, sock: SockId) -> Option<SocketAddr> {
        let tuple = self.place(sock).and_then(|index| self.sock(index))?.tuple;
        Some(SocketAddr::new(tuple.remote, tuple.remote_port))
    }

    /// Whether a connect with TCP_FASTOPEN_CONNECT waits for the first data.
    #[must_use]
    pub fn is_connect_deferred(&self, sock: SockId) -> bool {
        self.place(sock).and_then(|index| self.sock(index)).is_some_and(|sock| sock.fast_open.deferred)
    }

    /// A TCP packet has arrived: `buffer[at..end]` is header and payload. The buffer may be taken.
    pub fn handle_segment(
        &mut self,
        net: &mut Net<'_>,
        info: &PacketInfo,
        buffer: &mut Vec<u8>,
        at: usize,
        end: usize,
    ) {
        let end = end.min(buffer.len());
        let bytes = buffer.get(at..end).unwrap_or_default();
        let parsed = match Header::parse(bytes) {
            Ok(parsed) => parsed,
            Err(_) => {
                net.counters.tcp_in_segs += 1;
                net.counters.tcp_bad_header += 1;
                net.counters.tcp_in_errs += 1;
                return;
            }
        };
        if info.checksum == RxChecksum::Unverified {
            let mut sum = checksum::Accumulator::new(checksum::pseudo_header(
                info.source,
                info.destination,
                PROTOCOL,
                bytes.len(),
            ));
            sum.add(bytes);
            //= RFC 9293 §3.1 (MUST-3)
            if !sum.is_valid() {
                net.counters.tcp_in_segs += 1;
                net.counters.tcp_in_csum_errors += 1;
                net.counters.tcp_in_errs += 1;
                return;
            }
        }
        if parsed.bad_options {
            net.counters.tcp_bad_options += 1;
        }
        let header = parsed.header;
        let length = u32::try_from(bytes.len() - parsed.length).unwrap_or(0);
        let controls = u32::from(header.flags.contains(Flags::SYN)) + u32::from(header.flags.contains(Flags::FIN));
        let incoming = Incoming {
            header,
            header_at: at,
            length,
            end: header.seq + length + controls,
            payload: Payload { buffer, at: at + parsed.length, end },
            info,
        };
        net.counters.tcp_in_segs += incoming.segments();
        // Broadcast and multicast are not for TCP (RFC 9293 §3.9.2.3, MUST-57).
        //= RFC 9293 §3.9.2.3 (MUST-57)
        if info.kind == AddressKind::Local {
            self.dispatch(net, incoming);
        }
    }

    /// IP_MINTTL and SO_ATTACH_FILTER: whether the socket wants the segment, which its program may shorten (`tcp_v4_rcv`,
    /// `tcp_filter`).
    //= REF D-06
    fn passes_filter(&self, net: &mut Net<'_>, index: u32, incoming: &mut Incoming<'_>) -> bool {
        let Some(sock) = self.sock(index) else { return true };
        if i32::from(incoming.info.ttl) < sock.options.kept.read(Kept::IpMinTtl) {
            net.counters.tcp_min_ttl_drop += 1;
            return false;
        }
        sock.options.filter.as_ref().is_none_or(|filter| incoming.is_wanted(filter))
    }

    fn dispatch(&mut self, net: &mut Net<'_>, mut incoming: Incoming<'_>) {
        let header = incoming.header;
        let answer = ResetAnswer::of(&incoming);
        let tuple = Tuple {
            local: incoming.info.destination,
            local_port: header.destination_port,
            remote: incoming.info.source,
            remote_port: header.source_port,
        };
        let mut key = None;
        let closed = Purpose::ClosedPort { protocol: PROTOCOL, port: tuple.local_port };
        let mut purpose = Purpose::Own;
        let verdict = match self.endpoint_of(&tuple, incoming.info.looped) {
            Some(Endpoint::Sock(index)) => {
                if let Some(signatures) = self.signatures(index) {
                    if !incoming.is_signed_right(net, signatures) {
                        return;
                    }
                    key = signatures.copy_of_key(tuple.remote);
                }
                if !self.passes_filter(net, index, &mut incoming) {
                    return;
                }
                let Self { socks, shared, .. } = self;
                let sockets = socks.len();
                let verdict = match socks.get_mut(index as usize) {
                    Some(sock) => {
                        sock.supply = shared.memory.supply(net.settings, sockets, sock.counted_pages);
                        sock.handle(shared, net, incoming)
                    }
                    None => Verdict::Done,
                };
                self.settle(net, index);
                verdict
            }
            Some(Endpoint::Request(place)) => {
                let listener = self.shared.requests.get(place as usize).map(|request| request.listener.index);
                if let Some(signatures) = listener.and_then(|index| self.signatures(index)) {
                    if !incoming.is_signed_right(net, signatures) {
                        return;
                    }
                    key = signatures.copy_of_key(tuple.remote);
                }
                if listener.is_some_and(|index| !self.passes_filter(net, index, &mut incoming)) {
                    return;
                }
                self.handle_request(net, place, incoming)
            }
            Some(Endpoint::TimeWait(place)) => {
                let stray = self.key_for_stray(net, &tuple, &incoming);
                let verdict = self.handle_wait(net, place, &tuple, incoming);
                match stray {
                    Ok(found) => key = found,
                    Err(()) => return,
                }
                verdict
            }
            None => match self.find_listener(net, &tuple, incoming.info.looped, Some(&incoming.view(true))) {
                Some(index) => {
                    if let Some(signatures) = self.signatures(index) {
                        if !incoming.is_signed_right(net, signatures) {
                            return;
                        }
                        key = signatures.copy_of_key(tuple.remote);
                    }
                    if !self.passes_filter(net, index, &mut incoming) {
                        return;
                    }
                    let verdict = self.handle_in_listen(net, index, &tuple, incoming, None);
                    self.settle(net, index);
                    // Another stack that has the port, too, may have the connection.
                    purpose = closed;
                    verdict
                }
                None => {
                    if let Ok(key) = self.key_for_stray(net, &tuple, &incoming) {
                        self.send_reset_for(net, &answer, closed, key.as_deref());
                    }
                    return;
                }
            },
        };
        if verdict == Verdict::Reset {
            self.send_reset_for(net, &answer, purpose, key.as_deref());
        }
    }

    fn handle_wait(&mut self, net: &mut Net<'_>, place: u32, tuple: &Tuple, incoming: Incoming<'_>) -> Verdict {
        let Some(wait) = self.shared.waits.get_mut(place as usize) else { return Verdict::Done };
        let looped = incoming.info.looped;
        let verdict = wait.handle(net, &incoming);
        match verdict {
            WaitVerdict::Done => {}
            WaitVerdict::Answer => {
                let mut reply = wait.acknowledgment(net.now);
                let info = incoming.info;
                if !info.options.is_empty() {
                    // `ip_send_unicast_reply`: the answer goes the way that the segment came.
                    let Some(options) = net.ip.echo_options(&info.options, info.source) else { return Verdict::Done };
                    reply = Reply { options, route: None, ..reply };
                }
                net.counters.tcp_out_segs += 1;
                self.shared.reply(net, reply);
            }
            WaitVerdict::Reset => {
                self.shared.end_wait(place);
                return Verdict::Reset;
            }
            WaitVerdict::Over => {
                net.counters.tw_killed += 1;
                self.shared.end_wait(place);
                return Verdict::Done;
            }
            WaitVerdict::Reopen(isn) => match self.find_listener(net, tuple, looped, None) {
                Some(index) => {
                    if self.signatures(index).is_some_and(|keys| !incoming.is_signed_right(net, keys)) {
                        return Verdict::Done;
                    }
                    self.shared.end_wait(place);
                    let verdict = self.handle_in_listen(net, index, tuple, incoming, Some(isn));
                    self.settle(net, index);
                    return verdict;
                }
                None => {
                    let reply = wait_reply(&self.shared, place, net.now);
                    if let Some(reply) = reply {
                        net.counters.tcp_out_segs += 1;
                        self.shared.reply(net, reply);
                    }
                }
            },
        }
        self.shared.arm_wait(place);
        Verdict::Done
    }

    /// An ICMP error or a failed neighbour concerns one of our segments.
    pub fn handle_error(&mut self, net: &mut Net<'_>, error: &PathError<'_>) {
        self.take_path_error(net, error);
    }

    /// Does what is due at `net.now`.
    pub fn handle_timeout(&mut self, net: &mut Net<'_>) {
        while let Some(key) = self.shared.timers.take_due(net.now) {
            match key {
                TimerKey::Sock(index) => self.sock_due(net, index),
                TimerKey::Request(place) => self.request_due(net, place),
                TimerKey::TimeWait(place) => self.wait_due(net, place),
            }
        }
    }

    fn sock_due(&mut self, net: &mut Net<'_>, index: u32) {
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return };
        sock.armed = None;
        if sock.paused_until.is_some_and(|at| at <= net.now) {
            sock.paused_until = None;
        }
        if sock.pacing.at.is_some_and(|at| at <= net.now) {
            sock.pacing.at = None;
        }
        if let Some((at, timer)) = sock.retransmit_at
            && at <= net.now
        {
            sock.retransmit_due(shared, net, timer);
        }
        if sock.ack.deadline().is_some_and(|at| at <= net.now) {
            sock.delayed_ack_due(net.counters);
        }
        if sock.keepalive_at.is_some_and(|at| at <= net.now) {
            sock.keepalive_due(shared, net);
        }
        if sock.memory_wait_at.is_some_and(|at| at <= net.now) {
            sock.memory_wait_over(shared);
        }
        self.settle(net, index);
    }

    fn wait_due(&mut self, net: &mut Net<'_>, place: u32) {
        let Some(wait) = self.shared.waits.get_mut(place as usize) else { return };
        wait.armed = None;
        if net.now < wait.deadline {
            self.shared.arm_wait(place);
        } else {
            net.counters.time_waited += 1;
            self.shared.end_wait(place);
        }
    }

    /// The earliest time at which `handle_timeout` has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.shared.timers.next()
    }

    /// After every event of a sock: it is removed, queued for sending, and its timer set, as need be.
    //= RFC 9293 §3.10.7.4 (MUST-59)
    fn settle(&mut self, net: &mut Net<'_>, index: u32) {
        let Self { socks, shared, .. } = self;
        let sockets = socks.len();
        let Some(sock) = socks.get_mut(index as usize) else { return };
        sock.queue.give_back(&mut shared.spares);
        sock.buffer.give_back(&mut shared.spares);
        if let Fate::Waits(state, lifetime) = core::mem::replace(&mut sock.fate, Fate::Stays) {
            sock.become_time_wait(shared, net, state, lifetime);
        }
        sock.account(shared, net, sockets);
        if sock.state == State::Closed && sock.orphan {
            self.remove(net, index);
            return;
        }
        if !sock.send_queued && sock.wants_to_send() {
            sock.send_queued = true;
            shared.ready.push_back(index);
        }
        if !sock.send_queued {
            sock.check_space(shared, net);
        }
        let deadline = sock.deadline();
        shared.timers.arm(TimerKey::Sock(index), &mut sock.armed, deadline);
    }

    fn remove(&mut self, net: &mut Net<'_>, index: u32) {
        let Some(mut sock) = self.socks.try_remove(index as usize) else { return };
        self.shared.timers.disarm(TimerKey::Sock(index), &mut sock.armed);
        sock.account_gone(&mut self.shared, net);
        sock.unhash(&mut self.shared);
        sock.give_port_back(&mut self.shared);
        if sock.send_queued {
            // The place may be used anew: the new sock must not find itself queued already.
            self.shared.ready.retain(|queued| *queued != index);
        }
    }

    /// The next segment for the network layer, or nothing. Called until there is nothing.
    pub fn poll_transmit(&mut self, net: &mut Net<'_>) -> Option<Segment<'_>> {
        if let Some(reply) = self.shared.replies.pop_front() {
            self.last = Some(Last::Reply);
            let reply = self.outgoing.insert(reply);
            return Some(Segment {
                source: reply.source,
                destination: reply.destination,
                route: reply.route,
                ttl: reply.ttl,
                tos: reply.tos,
                options: &reply.options,
                dont_fragment: true,
                header: reply.header.as_slice(),
                payload: [&[]; MAX_PAYLOAD_SLICES],
                gso_size: 0,
                purpose: reply.purpose,
                identified: reply.identified,
                timed: None,
            });
        }
        let index = self.plan_next(net)?;
        let Self { socks, plan, .. } = self;
        let plan = plan.as_ref()?;
        let sock = socks.get(index as usize)?;
        let payload =
            if plan.length == 0 { [&[][..]; MAX_PAYLOAD_SLICES] } else { sock.buffer.gather(plan.from, plan.length).0 };
        Some(Segment {
            //= RFC 9293 §3.9.1.1 (MUST-45)
            source: sock.tuple.local,
            destination: sock.tuple.remote,
            route: sock.route,
            //= RFC 9293 §3.9.2 (MUST-49)
            ttl: sock.options.ttl,
            //= RFC 9293 §3.9.1.9 (MUST-48, SHLD-21, SHLD-22)
            tos: (sock.options.tos & !ecn::MASK) | plan.ecn,
            options: sock.options.ip_options(),
            dont_fragment: sock.options.mtu_discover != PMTUDISC_DONT,
            header: plan.header.as_slice(),
            payload,
            gso_size: plan.gso_size,
            purpose: Purpose::Own,
            identified: true,
            timed: plan.timed,
        })
    }

    /// Finds a sock with something to send; socks take turns.
    fn plan_next(&mut self, net: &mut Net<'_>) -> Option<u32> {
        while let Some(index) = self.shared.ready.pop_front() {
            let Self { socks, shared, .. } = self;
            let Some(sock) = socks.get_mut(index as usize) else { continue };
            if let Some(plan) = sock.plan(net) {
                self.last = Some(Last::Sock(index, HandedOut::of(&plan)));
                self.plan = Some(plan);
                shared.ready.push_back(index);
                let deadline = sock.deadline();
                shared.timers.arm(TimerKey::Sock(index), &mut sock.armed, deadline);
                return Some(index);
            }
            sock.send_queued = false;
            sock.after_sending(net.now);
            sock.check_space(shared, net);
            let deadline = sock.deadline();
            shared.timers.arm(TimerKey::Sock(index), &mut sock.armed, deadline);
        }
        None
    }

    /// The device had no room for the segment handed out last.
    pub fn transmit_failed(&mut self, net: &mut Net<'_>, error: TransmitError) {
        if let Some(Last::Sock(index, segment)) = self.last.take() {
            if let Some(sock) = self.sock_mut(index) {
                sock.take_refusal(net.now, segment, error);
            }
            self.settle(net, index);
        }
    }

    /// A segment that somebody asked the time of has gone out: `packet`, from the link's header on.
    pub fn note_sent(&mut self, now: Instant, send: &TimedSend, packet: &[u8]) {
        let Self { socks, shared, .. } = self;
        if let Some(sock) = socks.get_mut(send.sock.index as usize)
            && sock.generation == send.sock.generation
        {
            sock.note_sending_time(shared, now, send, packet);
        }
    }

    /// An owner to whose socket something has happened; each is queued at most once.
    pub fn poll_event(&mut self) -> Option<(SocketId, Happened)> {
        while let Some(id) = self.shared.events.pop_front() {
            let Some(sock) = self.sock_mut(id.index).filter(|sock| sock.generation == id.generation) else { continue };
            let happened = core::mem::take(&mut sock.happened);
            if let Some(owner) = sock.owner {
                return Some((owner, happened));
            }
        }
        None
    }

    /// An owner whose peer has announced urgent data: time for SIGURG.
    pub fn poll_urgent(&mut self) -> Option<SocketId> {
        while let Some(id) = self.shared.urgent.pop_front() {
            let Some(sock) = self.sock_mut(id.index).filter(|sock| sock.generation == id.generation) else { continue };
            sock.urgent_queued = false;
            if let Some(owner) = sock.owner {
                return Some(owner);
            }
        }
        None
    }

    /// Whether no connection, listener, orphan or TIME_WAIT entry is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shared.requests.is_empty()
            && self.shared.waits.is_empty()
            && self.shared.replies.is_empty()
            && self.socks.iter().all(|(_, sock)| sock.state == State::Closed)
    }

    /// Whether a connection or a listener is there for a segment (`__inet_lookup`).
    pub(crate) fn has_receiver(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let tuple = Tuple { local: to.ip(), local_port: to.port(), remote: from.ip(), remote_port: from.port() };
        let listens = |index: &u32| {
            self.sock(*index).is_some_and(|sock| {
                let refuses_v4 = sock.family == AddressFamily::Inet6 && sock.options.v6_only && to.is_ipv4();
                !refuses_v4 && (sock.tuple.local == to.ip() || sock.tuple.local.is_unspecified())
            })
        };
        self.shared.established.contains_key(&tuple)
            || self.shared.listening.get(&to.port()).is_some_and(|list| list.iter().any(listens))
    }

    /// Bytes held in queues.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.socks
            .iter()
            .map(|(_, sock)| sock.buffer.memory() + sock.queue.memory() + sock.board.memory() + size_of::<Sock>())
            .sum::<usize>()
            + self.shared.requests.len() * size_of::<Request>()
            + self.shared.waits.len() * size_of::<TimeWait>()
    }
}

fn wait_reply(shared: &Shared, place: u32, now: Instant) -> Option<Reply> {
    shared.waits.get(place as usize).map(|wait| wait.acknowledgment(now))
}
