//! TCP Fast Open (RFC 7413; Linux's tcp_fastopen.c): cookies that servers hand out and clients keep, data in the SYN both
//! ways, what happens when a path or a peer does not bear it. The option's bytes are in `header.rs`.

use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;
use siphasher::sip::SipHasher24;

use super::header::Cookie;
use super::isn::purpose;
use super::receive::Incoming;
use super::sock::{DEFAULT_MSS, Sock};
use super::state::State;
use super::{Keyed, Shared, Tcp, Tuple};
use crate::counters::Counters;
use crate::io::Source;
use crate::random::Random;
use crate::settings::Settings;
use crate::socket::error::{ConnectError, SendError};
use crate::socket::protocol::{Happened, Net, SendArguments, SendFlags, SockId};
use crate::time::Instant;

/// Bits of net.ipv4.tcp_fastopen.
const CLIENT: u32 = 0x1;
const SERVER: u32 = 0x2;
const CLIENT_WITHOUT_COOKIE: u32 = 0x4;
const SERVER_WITHOUT_COOKIE: u32 = 0x200;
const SERVER_WITHOUT_OPTION: u32 = 0x400;
/// Destinations whose cookies are kept; the map is emptied when it is full, and cookies are asked for anew.
const MOST_DESTINATIONS: usize = 1_024;
/// MAX_TCP_OPTION_SPACE: data in a SYN leaves room for all options.
const OPTION_SPACE: u16 = 40;
/// How long a connection that was reset counts against its listener's queue (`reqsk_fastopen_remove`).
const RESET_COUNTS: Duration = Duration::from_secs(60);
/// The time without Fast Open doubles at most this often.
const MOST_DOUBLINGS: u32 = 6;

/// The part of Fast Open that a sock has.
#[derive(Clone, Debug, Default)]
pub struct FastOpen {
    /// What the next SYN or SYN-ACK carries; an empty cookie asks for one.
    pub cookie: Option<Cookie>,
    /// The next SYN carries data, at most so many bytes.
    pub room: usize,
    /// connect() has succeeded, the SYN waits for the first data (TCP_FASTOPEN_CONNECT).
    pub deferred: bool,
    /// Fast Open was tried here (`syn_fastopen`).
    pub tried: bool,
    /// The SYN has asked for a cookie by the experimental option.
    pub experimental: bool,
    /// The SYN carried data.
    pub sent_data: bool,
    /// The data was acknowledged with the SYN.
    pub data_acked: bool,
    /// Opened by a SYN with a cookie; the listener that counts it while it is half-open.
    pub listener: Option<SockId>,
    /// Data goes both ways although the handshake is not over.
    pub passive: bool,
}

/// What is known of a destination.
#[derive(Clone, Copy, Debug, Default)]
struct Destination {
    cookie: Option<Cookie>,
    mss: u16,
    /// Which option was answered by nothing: that of RFC 7413 (1), then the experimental one (2), or neither.
    unanswered: u8,
}

/// Keys of a server's cookies: the one that makes them, and one that is still taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<[u8; 16]>);

impl Keys {
    /// From the 16 or 32 bytes of TCP_FASTOPEN_KEY.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let keys: Vec<[u8; 16]> = bytes.chunks_exact(16).filter_map(|key| key.try_into().ok()).collect();
        matches!(bytes.len(), 16 | 32).then_some(Self(keys))
    }

    /// Those of net.ipv4.tcp_fastopen_key, if any are set there.
    pub fn of_settings(settings: &Settings) -> Option<Self> {
        let (first, second) = settings.tcp_fastopen_key.split_at(16);
        let both = second.iter().any(|byte| *byte != 0);
        let set = both || first.iter().any(|byte| *byte != 0);
        set.then(|| Self::from_bytes(if both { &settings.tcp_fastopen_key } else { first })).flatten()
    }

    /// As TCP_FASTOPEN_KEY shows them.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// The cookie for a client (`__tcp_fastopen_cookie_gen_cipher`).
    //= RFC 7413 §4.1.2 (SHLD-1)
    fn cookie(key: &[u8; 16], tuple: &Tuple) -> Cookie {
        let mut hasher = SipHasher24::new_with_key(key);
        let mut bytes = Vec::new();
        for address in [tuple.remote, tuple.local] {
            match address {
                IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
            }
        }
        hasher.write(&bytes);
        Cookie::new(&hasher.finish().to_le_bytes(), false)
    }
}

/// The part of Fast Open that all socks share.
#[derive(Debug)]
pub struct FastOpenShared {
    destinations: HashMap<IpAddr, Destination, Keyed>,
    keys: Keys,
    /// Half-open connections of listeners, those that were reset until a time.
    pending: Vec<(SockId, Option<Instant>)>,
    /// Since when, and how often in a row, paths were found to swallow data in SYNs.
    swallowed: Option<(Instant, u32)>,
}

impl FastOpenShared {
    pub fn new(random: &Random, keyed: Keyed) -> Self {
        let mut key = [0; 16];
        let halves = [b"first", b"other"].map(|half| random.keyed(purpose::FAST_OPEN, half).to_le_bytes());
        for (place, byte) in key.iter_mut().zip(halves.concat()) {
            *place = byte;
        }
        let keys = alloc::vec![key];
        Self { destinations: HashMap::with_hasher(keyed), keys: Keys(keys), pending: Vec::new(), swallowed: None }
    }

    /// The connection is no longer half-open (`reqsk_fastopen_remove`).
    pub fn opened(&mut self, listener: SockId) {
        if let Some(at) = self.pending.iter().position(|entry| *entry == (listener, None)) {
            self.pending.swap_remove(at);
        }
    }

    /// A half-open connection was reset: for a while it counts on, so that nobody gains by spoofed resets.
    //= RFC 7413 §5.1
    pub fn was_reset(&mut self, now: Instant, listener: SockId) {
        if let Some(entry) = self.pending.iter_mut().find(|entry| **entry == (listener, None)) {
            entry.1 = Some(now + RESET_COUNTS);
        }
    }

    /// Whether the listener's queue has room (`tcp_fastopen_queue_check`).
    fn has_room(&mut self, now: Instant, counters: &mut Counters, listener: SockId, most: u32) -> bool {
        self.pending.retain(|(_, until)| until.is_none_or(|until| until > now));
        let count = self.pending.iter().filter(|(held, _)| *held == listener).count();
        //= RFC 7413 §4.2 (MUST-8)
        let room = count < most as usize;
        if !room && most > 0 {
            counters.tcp_fast_open_listen_overflow += 1;
        }
        room
    }

    /// Paths that swallow data: no Fast Open for a time that doubles (`tcp_fastopen_active_should_disable`).
    fn is_disabled(&self, now: Instant, settings: &Settings) -> bool {
        let base = Duration::from_secs(u64::from(settings.tcp_fastopen_blackhole_timeout_sec));
        self.swallowed.is_some_and(|(since, times)| {
            !base.is_zero() && now.since(since) < base.saturating_mul(1 << times.saturating_sub(1).min(MOST_DOUBLINGS))
        })
    }

    fn disable(&mut self, now: Instant, counters: &mut Counters, settings: &Settings) {
        if settings.tcp_fastopen_blackhole_timeout_sec > 0 {
            let times = self.swallowed.map_or(0, |(_, times)| times);
            self.swallowed = Some((now, times.saturating_add(1)));
            counters.tcp_fast_open_blackhole += 1;
        }
    }
}

/// net.ipv4.tcp_fastopen lets programs send data with a SYN.
pub const fn is_client(settings: &Settings) -> bool {
    settings.tcp_fastopen & CLIENT != 0
}

/// What a SYN with Fast Open leads to.
pub enum Served {
    /// An ordinary handshake; the cookie, if any, goes into the SYN-ACK.
    Ordinary(Option<Cookie>),
    /// A connection at once.
    AtOnce(Option<Cookie>),
}

impl Tcp {
    /// `tcp_try_fastopen`.
    //= REF L-04
    pub(super) fn try_fast_open(
        &mut self,
        net: &mut Net<'_>,
        index: u32,
        tuple: &Tuple,
        incoming: &Incoming<'_>,
    ) -> Served {
        let setting = net.settings.tcp_fastopen;
        let cookie = incoming.header.options.fast_open;
        if cookie.is_some_and(|cookie| cookie.is_empty()) {
            net.counters.tcp_fast_open_cookie_reqd += 1;
        }
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get(index as usize) else { return Served::Ordinary(None) };
        //= RFC 7413 §2 (MUST-1)
        //= RFC 7413 §4.2 (MUST-6)
        let most = sock.tcp.fast_open.unsigned_abs();
        let wanted = setting & SERVER != 0 && (incoming.length > 0 || cookie.is_some());
        //= RFC 7413 §4.2 (MUST-7)
        if !wanted || !shared.fast_open.has_room(net.now, net.counters, sock.id(), most) {
            return Served::Ordinary(None);
        }
        if setting & SERVER_WITHOUT_COOKIE != 0 || sock.tcp.fast_open_no_cookie {
            net.counters.tcp_fast_open_passive += 1;
            return Served::AtOnce(None);
        }
        let Some(offered) = cookie else { return Served::Ordinary(None) };
        // A listener's own go before those of the namespace.
        let common = Keys::of_settings(net.settings);
        let keys = sock.tcp.fast_open_keys.as_ref().or(common.as_ref()).unwrap_or(&shared.fast_open.keys);
        let made: Vec<Cookie> = keys.0.iter().map(|key| Keys::cookie(key, tuple)).collect();
        let answer = made.first().map(|cookie| Cookie::new(cookie.as_slice(), offered.experimental));
        if offered.is_empty() {
            return Served::Ordinary(answer);
        }
        match made.iter().position(|cookie| cookie.as_slice() == offered.as_slice()) {
            Some(0) => {
                net.counters.tcp_fast_open_passive += 1;
                Served::AtOnce(None)
            }
            // The key was changed since: the client gets a cookie of the new one.
            Some(_) => {
                net.counters.tcp_fast_open_passive_alt_key += 1;
                net.counters.tcp_fast_open_passive += 1;
                //= RFC 7413 §4.2.2 (MAY-3)
                Served::AtOnce(answer)
            }
            None => {
                net.counters.tcp_fast_open_passive_fail += 1;
                Served::Ordinary(answer)
            }
        }
    }

    /// The child of a SYN with a valid cookie: its data can be read, and answered, at once
    /// (`tcp_fastopen_create_child`).
    pub(super) fn open_at_once(
        &mut self,
        net: &mut Net<'_>,
        listener: SockId,
        place: u32,
        mut incoming: Incoming<'_>,
        cookie: Option<Cookie>,
    ) {
        use super::header::Flags;
        let Some(child) = self.make_child(net, place) else {
            net.counters.listen_drops += 1;
            return;
        };
        let Self { socks, shared, .. } = self;
        if let Some(sock) = socks.get_mut(child as usize) {
            sock.snd_una = sock.iss;
            sock.snd_nxt = sock.iss;
            // The SYN is no small segment that Nagle's algorithm would wait for.
            sock.snd_sml = sock.iss;
            sock.snd_wnd = u32::from(incoming.header.window);
            sock.max_window = sock.snd_wnd;
            sock.rtt = super::rto::RoundTrip::default();
            sock.fast_open = FastOpen { cookie, listener: Some(listener), passive: true, ..FastOpen::default() };
            shared.fast_open.pending.push((listener, None));
            sock.syn_due = true;
            // `tcp_fastopen_add_skb`
            sock.fast_open.data_acked = incoming.length > 0;
            incoming.header.seq = sock.rcv_nxt;
            incoming.header.flags -= Flags::SYN;
            sock.queue_data(shared, net, incoming);
            // That was no segment of the connection's that an estimate could rest on (`tcp_fastopen_add_skb`).
            sock.ack.forget();
            sock.received_data = false;
        }
        if let Some(sock) = socks.get_mut(listener.index as usize) {
            if let Some(listen) = &mut sock.listen {
                listen.accept.push_back(child);
            }
            sock.wake(shared, Happened::INPUT);
        }
        self.settle(net, child);
    }

    /// listen() turns Fast Open on by itself where the setting says so (`inet_listen`).
    pub(super) fn listen_fast_open(&mut self, settings: &Settings, index: u32, backlog: u32) {
        let both = SERVER | SERVER_WITHOUT_OPTION;
        if let Some(sock) = self.sock_mut(index)
            && settings.tcp_fastopen & both == both
            && sock.tcp.fast_open == 0
        {
            sock.tcp.fast_open = i32::try_from(backlog).unwrap_or(i32::MAX);
        }
    }

    /// sendto(MSG_FASTOPEN) on a socket without connection (`tcp_sendmsg_fastopen`): the SYN takes what fits. Gives the
    /// bytes taken; `InProgress`: none.
    //= REF C-15
    pub(super) fn send_opening(
        &mut self,
        net: &mut Net<'_>,
        index: u32,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        if net.settings.tcp_fastopen & CLIENT == 0 {
            return Err(SendError::NotSupported);
        }
        let deferred = self.sock(index).is_some_and(|sock| sock.fast_open.deferred);
        if !deferred {
            let Some(to) = arguments.to else { return Err(SendError::Invalid) };
            if let Some(sock) = self.sock_mut(index) {
                sock.fast_open = FastOpen { tried: true, ..FastOpen::default() };
            }
            match self.begin_connect(net, index, to) {
                Ok(()) | Err(ConnectError::InProgress) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ready = self.prepare_fast_open(net, index);
        let Some(sock) = self.sock_mut(index) else { return Err(SendError::BrokenPipe) };
        sock.fast_open.deferred = false;
        sock.syn_due = true;
        let taken = if ready {
            let wanted = source.remaining().min(sock.fast_open.room);
            sock.buffer.append(source, wanted).unwrap_or(0)
        } else {
            0
        };
        sock.write_pending = source.remaining() > 0 && !arguments.flags.contains(SendFlags::DONTWAIT);
        if taken > 0 || (source.remaining() == 0 && !deferred) { Ok(taken) } else { Err(SendError::InProgress) }
    }

    /// connect() with TCP_FASTOPEN_CONNECT (`tcp_fastopen_defer_connect`). True: the SYN waits for data.
    pub(super) fn defer_connect(&mut self, net: &mut Net<'_>, index: u32) -> bool {
        if net.settings.tcp_fastopen & CLIENT == 0 || !self.sock(index).is_some_and(|sock| sock.tcp.fast_open_connect) {
            return false;
        }
        let ready = self.prepare_fast_open(net, index);
        if let Some(sock) = self.sock_mut(index) {
            sock.fast_open.deferred = ready;
            sock.syn_due = !ready;
        }
        ready
    }

    /// Looks for a cookie (`tcp_fastopen_cookie_check`). False: the SYN asks for one, or does without Fast Open.
    fn prepare_fast_open(&mut self, net: &mut Net<'_>, index: u32) -> bool {
        let Self { socks, shared, .. } = self;
        let Some(sock) = socks.get_mut(index as usize) else { return false };
        let known = shared.fast_open.destinations.get(&sock.tuple.remote).copied().unwrap_or_default();
        sock.fast_open.tried = true;
        if shared.fast_open.is_disabled(net.now, net.settings) {
            sock.fast_open.tried = false;
            return false;
        }
        let mss = if known.mss > 0 { known.mss.min(sock.mss_to_advertise()) } else { sock.mss_to_advertise() };
        sock.fast_open.room = usize::from(mss.saturating_sub(OPTION_SPACE));
        sock.last_mss = mss;
        if net.settings.tcp_fastopen & CLIENT_WITHOUT_COOKIE != 0 || sock.tcp.fast_open_no_cookie {
            sock.fast_open.cookie = None;
            return true;
        }
        // The experimental option is tried once where that of RFC 7413 brought nothing (`tcp_fastopen_cache_get`).
        let empty = Cookie::new(&[], known.unanswered == 1);
        sock.fast_open.experimental = known.cookie.is_none() && known.unanswered == 1;
        //= RFC 7413 §4.2.1 (MUST-9)
        sock.fast_open.cookie = Some(known.cookie.unwrap_or(empty));
        //= RFC 7413 §4.2.2 (MUST-10)
        known.cookie.is_some()
    }
}

impl Sock {
    /// The SYN-ACK is here and its ACK taken (`tcp_rcv_fastopen_synack`).
    pub(super) fn learn_fast_open(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: &Incoming<'_>) {
        if !self.fast_open.tried {
            return;
        }
        let unacked = self.fast_open.sent_data && self.snd_una.before(self.snd_nxt);
        let offered = incoming.header.options.fast_open.filter(|cookie| !cookie.is_empty());
        let dropped = self.total_retransmits > 0 && offered.is_none() && unacked;
        let cache = &mut shared.fast_open.destinations;
        if cache.len() >= MOST_DESTINATIONS && !cache.contains_key(&self.tuple.remote) {
            cache.clear();
        }
        let known = cache.entry(self.tuple.remote).or_default();
        // What the peer takes, whatever TCP_MAXSEG says.
        //= RFC 7413 §4.2.2 (SHLD-5)
        known.mss = incoming.header.options.mss.unwrap_or(DEFAULT_MSS);
        if self.total_retransmits == 0 && offered.is_none() && !self.fast_open.sent_data && known.cookie.is_none() {
            known.unanswered = known.unanswered.max(if self.fast_open.experimental { 2 } else { 1 });
        }
        if offered.is_some() {
            //= RFC 7413 §4.1.3 (MUST-4)
            known.cookie = offered;
        } else if dropped {
            // Data in the SYN was lost with it, twice as far as one can tell: ask anew before it is tried again.
            known.cookie = None;
        }
        if unacked {
            //= RFC 7413 §4.2.2 (SHLD-6): what the server did not take is sent again at once.
            net.counters.tcp_fast_open_active_fail += 1;
            self.board.mark_all_lost(net.now, false);
            self.enter_oversized(net.now);
        } else if self.fast_open.sent_data {
            self.fast_open.data_acked = true;
            // SYN and data were one segment (`tcp_rcv_fastopen_synack`).
            if self.board.rate.delivered > 1 {
                self.board.rate.delivered -= 1;
            }
            net.counters.tcp_fast_open_active += 1;
        }
    }

    /// A timer of a connection that was opened fast has fired (`tcp_fastopen_active_detect_blackhole`).
    pub(super) fn detect_black_hole(&self, shared: &mut Shared, net: &mut Net<'_>, expired: bool) {
        if self.fast_open.tried && (self.retransmits == 2 || (self.retransmits < 2 && expired)) {
            shared.fast_open.disable(net.now, net.counters, net.settings);
        }
    }

    /// Data may go out: the connection stands, or was opened fast.
    pub(super) const fn may_transmit(&self) -> bool {
        self.state.may_send() || self.is_open_early()
    }

    /// A half-open connection whose SYN had a valid cookie (`tcp_passive_fastopen`).
    pub(super) const fn is_open_early(&self) -> bool {
        matches!(self.state, State::SynReceived) && self.fast_open.passive
    }
}
