//! Local ports: who holds which (Linux's bind hash), conflicts of bind (`inet_csk_bind_conflict`), and the choice of
//! a port (RFC 6056 §3.3.4, double hash, as `__inet_hash_connect` does it).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::IpAddr;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::isn::{bytes_of, purpose};
use super::sock::Sock;
use super::state::State;
use super::{Keyed, Tcp, Tuple};
use crate::random::Random;
use crate::settings::Settings;
use crate::socket::protocol::{AddressFamily, Net};

/// Who stands behind an entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A sock.
    Sock(u32),
    /// A half-open request.
    Request(u32),
    /// A TIME_WAIT entry.
    TimeWait(u32),
}

/// One held port.
#[derive(Debug, Default)]
struct Bucket {
    /// bind() has put somebody here: not to be shared with a connect that looks for a port (`fastreuse >= 0`).
    explicit: bool,
    owners: Owners,
}

/// So many owners are looked through one by one.
const FEW_OWNERS: usize = 16;

/// Who holds one port, each once. A server's is held by all its connections and those in TIME_WAIT, of which any may go
/// first: what that costs does not grow with them.
#[derive(Debug, Default)]
struct Owners {
    list: SmallVec<[Endpoint; 2]>,
    /// Where each stands in the list, once there are many.
    places: Option<Box<HashMap<Endpoint, usize, Keyed>>>,
}

impl Owners {
    fn push(&mut self, owner: Endpoint, keyed: &Keyed) {
        if let Some(places) = &mut self.places {
            places.insert(owner, self.list.len());
        }
        self.list.push(owner);
        if self.places.is_none() && self.list.len() > FEW_OWNERS {
            let mut places = HashMap::with_hasher(keyed.clone());
            places.extend(self.list.iter().enumerate().map(|(place, owner)| (*owner, place)));
            self.places = Some(Box::new(places));
        }
    }

    fn remove(&mut self, owner: Endpoint) {
        let place = match &mut self.places {
            Some(places) => places.remove(&owner),
            None => self.list.iter().position(|held| *held == owner),
        };
        let Some(place) = place else { return };
        self.list.swap_remove(place);
        if let (Some(places), Some(moved)) = (&mut self.places, self.list.get(place)) {
            places.insert(*moved, place);
        }
    }
}

/// How many moving hints there are.
const HINTS: usize = 64;

/// How many ports a connect tries before it asks for more: connections to one destination then fill at most some nine
/// tenths of the ports, and what a connect costs does not grow with those in TIME_WAIT.
const TRIES_BEFORE_GROWTH: usize = 16;

/// How many ports rest after a bind: of few ports, one that a program has just asked for and given back would soon be
/// chosen again, by a connect even as its own other end.
const RESTING: usize = 16;

/// Which ports a family may choose from.
pub type PortFilter = alloc::vec::Vec<(u16, u16)>;

/// All held ports.
#[derive(Debug)]
pub struct Ports {
    buckets: HashMap<u16, Bucket, Keyed>,
    /// Linux's table_perturb: where the last search for a class of destinations ended.
    hints: [u32; HINTS],
    allowed: PortFilter,
    /// How many ports the ranges up to each one of `allowed` have together: a search asks for one place after the other.
    ends: alloc::vec::Vec<u32>,
    /// Whether more ports may be had for the asking, so that a search need not try all of these.
    may_grow: bool,
    /// Bound ports that were given back last.
    rested: VecDeque<u16>,
}

impl Ports {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self {
            buckets: HashMap::with_hasher(keyed),
            hints: [0; HINTS],
            allowed: PortFilter::new(),
            ends: alloc::vec::Vec::new(),
            may_grow: false,
            rested: VecDeque::new(),
        }
    }

    pub(super) fn restrict(&mut self, allowed: PortFilter, may_grow: bool) {
        let add = |sum: &mut u32, range| {
            *sum += size_of_range(range);
            Some(*sum)
        };
        self.ends = allowed.iter().scan(0, add).collect();
        self.allowed = allowed;
        self.may_grow = may_grow;
    }

    /// The place of the first of the ports that came last.
    fn newest(&self) -> u32 {
        self.ends.iter().rev().nth(1).copied().unwrap_or(0)
    }

    /// How many ports a connect tries before it asks for more.
    fn patience(&self) -> usize {
        if self.may_grow { TRIES_BEFORE_GROWTH } else { usize::MAX }
    }

    pub(super) fn is_used(&self, port: u16) -> bool {
        self.buckets.contains_key(&port)
    }

    pub(super) fn hold(&mut self, port: u16, owner: Endpoint, explicit: bool) {
        let keyed = self.buckets.hasher().clone();
        let bucket = self.buckets.entry(port).or_default();
        bucket.explicit |= explicit;
        bucket.owners.push(owner, &keyed);
    }

    pub(super) fn release(&mut self, port: u16, owner: Endpoint) {
        if let Some(bucket) = self.buckets.get_mut(&port) {
            bucket.owners.remove(owner);
            if bucket.owners.list.is_empty() {
                let rests = bucket.explicit;
                self.buckets.remove(&port);
                if rests {
                    self.rested.truncate(RESTING - 1);
                    self.rested.push_front(port);
                }
            }
        }
    }

    /// How many ephemeral ports may be had, out of `count` from `first` on.
    fn size(&self, count: u32) -> u32 {
        self.ends.last().copied().unwrap_or(count)
    }

    /// The ephemeral port at a place in `0..size()`: a search visits only ports that may be had.
    fn at(&self, first: u32, place: u16) -> Option<u16> {
        let place = u32::from(place);
        if self.allowed.is_empty() {
            return u16::try_from(first + place).ok();
        }
        let which = self.ends.partition_point(|end| *end <= place);
        let range = self.allowed.get(which)?;
        let before = which.checked_sub(1).and_then(|which| self.ends.get(which)).copied().unwrap_or(0);
        u16::try_from(u32::from(range.0) + (place - before)).ok()
    }

    /// Whether a connect that looks for a port may share this one, if its 4-tuple is free.
    fn is_sharable(&self, port: u16) -> bool {
        self.buckets.get(&port).is_none_or(|bucket| !bucket.explicit)
    }

    /// Whether nobody holds the port, or has just bound it.
    fn is_long_free(&self, port: u16) -> bool {
        !self.is_used(port) && !self.rested.contains(&port)
    }

    fn owners(&self, port: u16) -> &[Endpoint] {
        self.buckets.get(&port).map_or(&[], |bucket| bucket.owners.list.as_slice())
    }
}

fn size_of_range(range: &(u16, u16)) -> u32 {
    u32::from(range.1.saturating_sub(range.0)) + 1
}

/// The range of ephemeral ports as first and count.
fn ephemeral(settings: &Settings) -> (u32, u32) {
    let (first, last) = settings.ip_local_port_range;
    (u32::from(first), u32::from(last).saturating_sub(u32::from(first)) + 1)
}

/// Candidates in the order of Linux: every second port from a starting point on, then the others.
fn candidates(first: u32, count: u32, offset: u32, odd_first: bool) -> impl Iterator<Item = u16> {
    let even = if count > 1 { count & !1 } else { count };
    let start = (offset % even.max(1)) & !1;
    let half = even.div_ceil(2);
    let pass = move |odd: u32| (0..half).map(move |step| first + (start + step * 2) % even.max(1) + odd);
    let (one, two) = if odd_first { (1, 0) } else { (0, 1) };
    let last = first + count - 1;
    pass(one).chain(pass(two)).filter(move |port| *port <= last).filter_map(|port| u16::try_from(port).ok())
}

/// How an address takes part in conflicts: unspecified meets all.
fn addresses_meet(ours: IpAddr, theirs: IpAddr) -> bool {
    ours.is_unspecified() || theirs.is_unspecified() || ours == theirs
}

fn is_six_only(sock: &Sock) -> bool {
    sock.family == AddressFamily::Inet6 && sock.options.v6_only && sock.tuple.local.is_unspecified()
}

impl Tcp {
    /// Whether somebody holds the port.
    #[must_use]
    pub fn is_port_used(&self, port: u16) -> bool {
        self.shared.ports.is_used(port)
    }

    /// Ports that are chosen from now on come from these ranges only; none given: all. Where they may grow, a connect
    /// gives up early (`NoPort`), so that the caller can add to them and try again.
    pub fn restrict_ports(&mut self, allowed: PortFilter, may_grow: bool) {
        self.shared.ports.restrict(allowed, may_grow);
    }

    /// Whether all on a port have SO_REUSEADDR, or all SO_REUSEPORT.
    #[must_use]
    pub fn is_port_reusable(&self, port: u16) -> bool {
        let options = |owner: &Endpoint| match *owner {
            Endpoint::Sock(index) => self.sock(index).map(|sock| (sock.options.reuse_address, sock.options.reuse_port)),
            Endpoint::TimeWait(index) => {
                self.shared.waits.get(index as usize).map(|wait| (wait.reuse_address, wait.reuse_port))
            }
            Endpoint::Request(_) => None,
        };
        let owners = self.shared.ports.owners(port);
        owners.iter().filter_map(options).all(|(address, _)| address)
            || owners.iter().filter_map(options).all(|(_, port)| port)
    }

    /// `inet_csk_bind_conflict`: whether `index` may not have `port` beside its holders. `relax` is off while a port
    /// is being looked for: then sharing by SO_REUSEADDR is not yet considered.
    fn conflicts(&self, index: u32, local: IpAddr, port: u16, relax: bool) -> bool {
        let Some(sock) = self.sock(index) else { return true };
        if sock.takes_any_port() {
            return false;
        }
        let reuse = sock.options.reuse_address;
        let reuse_port = sock.options.reuse_port;
        self.shared.ports.owners(port).iter().any(|owner| match *owner {
            Endpoint::Sock(other) if other == index => false,
            Endpoint::Sock(other) => {
                let Some(other) = self.sock(other) else { return false };
                if is_six_only(other) != is_six_only(sock) || !addresses_meet(local, other.tuple.local) {
                    return false;
                }
                //= RFC 9293 §3.9.1.1 (MUST-42)
                if reuse && other.options.reuse_address && other.state != State::Listen {
                    return !relax;
                }
                !(reuse_port && other.options.reuse_port && relax)
            }
            Endpoint::TimeWait(other) => {
                let Some(wait) = self.shared.waits.get(other as usize) else { return false };
                if !addresses_meet(local, wait.tuple.local) {
                    return false;
                }
                if reuse && wait.reuse_address {
                    return !relax;
                }
                !(reuse_port && wait.reuse_port && relax)
            }
            Endpoint::Request(_) => false,
        })
    }

    /// Takes `port`, or chooses one when it is 0, for a bind or a listen (`inet_csk_get_port`). False: in use.
    pub(super) fn take_port(&mut self, net: &mut Net<'_>, index: u32, local: IpAddr, port: u16) -> bool {
        let chosen = if port == 0 {
            self.find_free_port(net, index, local)
        } else {
            (!self.conflicts(index, local, port, true)).then_some(port)
        };
        let Some(port) = chosen else { return false };
        let Some(sock) = self.socks.get_mut(index as usize).map(|sock| &mut **sock) else { return false };
        if sock.tuple.local_port != port {
            self.shared.ports.hold(port, Endpoint::Sock(index), true);
            sock.tuple.local_port = port;
            sock.shown_port = port;
        }
        true
    }

    /// `inet_csk_find_open_port`: a random start, odd ports first so that connects find even ones. One that nobody has had
    /// lately is taken before one that may be shared: of few ports, others would soon meet there.
    fn find_free_port(&self, net: &mut Net<'_>, index: u32, local: IpAddr) -> Option<u16> {
        let (first, count) = ephemeral(net.settings);
        let ports = &self.shared.ports;
        let size = ports.size(count);
        let offset = net.random.below(size);
        let all = || candidates(0, size, offset, true).filter_map(|place| ports.at(first, place));
        all()
            .find(|port| ports.is_long_free(*port))
            .or_else(|| all().find(|port| !self.conflicts(index, local, *port, false)))
            .or_else(|| all().find(|port| !self.conflicts(index, local, *port, true)))
    }

    /// Chooses the local port of a connect (`__inet_hash_connect`): the 4-tuple must be free, the port itself may
    /// serve other destinations. `None`: no port is left (EADDRNOTAVAIL).
    //= REF C-10
    //= RFC 6056 §3.3.4
    pub(super) fn choose_port(&mut self, net: &mut Net<'_>, tuple: &Tuple) -> Option<u16> {
        let unported = Tuple { local_port: 0, ..*tuple };
        let (offset, hint) = offsets(net.random, &unported);
        let moving = self.shared.ports.hints.get(hint).copied().unwrap_or(0);
        let (first, count) = ephemeral(net.settings);
        let ports = &self.shared.ports;
        let (size, patience) = (ports.size(count), ports.patience());
        // After the ports that are due, the newest ones: they are the likeliest to be free.
        let starts = [moving.wrapping_add(offset), ports.newest()];
        let starts = starts.iter().take(1 + usize::from(ports.may_grow));
        let tries = starts.flat_map(|start| {
            let places = candidates(0, size, *start, false).take(patience);
            (0_u32..).zip(places).map(|(tried, place)| (start.wrapping_add(tried.wrapping_mul(2)), place))
        });
        let mut usable = tries
            .filter_map(|(reached, place)| Some((reached, ports.at(first, place)?)))
            .filter(|(_, port)| ports.is_sharable(*port))
            .filter(|(_, port)| self.is_tuple_free(net, &Tuple { local_port: *port, ..unported }));
        // Of few ports, the destination's own would soon be chosen, and the socket be connected with itself.
        let fitting = |(_, port): &(u32, u16)| *port != tuple.remote_port && !ports.rested.contains(port);
        let mut second = None;
        let best = usable.find(|found| {
            second.get_or_insert(*found);
            fitting(found)
        });
        let (reached, port) = best.or(second)?;
        // The hint moves past the port, by a random step so that others cannot count our connections.
        let step = 2 * (1 + net.random.below(8).min(net.random.below(8)));
        if let Some(hint) = self.shared.ports.hints.get_mut(hint) {
            *hint = reached.wrapping_sub(offset).wrapping_add(step);
        }
        Some(port)
    }

    /// Whether no connection has the 4-tuple (`__inet_check_established`); one in TIME_WAIT may be taken over when
    /// timestamps make it safe.
    pub(super) fn is_tuple_free(&self, net: &Net<'_>, tuple: &Tuple) -> bool {
        match self.shared.established.get(tuple) {
            None => true,
            Some(Endpoint::TimeWait(index)) => self
                .shared
                .waits
                .get(*index as usize)
                .is_some_and(|wait| wait.may_be_reused(net.now, net.settings, is_loopback(tuple))),
            Some(_) => false,
        }
    }
}

fn is_loopback(tuple: &Tuple) -> bool {
    tuple.remote.is_loopback() || tuple.local == tuple.remote
}

/// Start of the search, from the destination, and which hint moves it (RFC 6056's F and G).
fn offsets(random: &Random, tuple: &Tuple) -> (u32, usize) {
    let bytes = bytes_of(tuple);
    let offset = u32::try_from(random.keyed(purpose::PORT_OFFSET, &bytes) >> 32).unwrap_or(0);
    let hint = usize::try_from(random.keyed(purpose::PORT_HINT, &bytes) % HINTS as u64).unwrap_or(0);
    (offset, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn candidates_visit_each_port_of_the_range_once() {
        for count in [1, 2, 3, 10, 11] {
            for odd_first in [false, true] {
                for offset in 0..12 {
                    let all: alloc::vec::Vec<u16> = candidates(1_000, count, offset, odd_first).collect();
                    let set: BTreeSet<u16> = all.iter().copied().collect();
                    assert_eq!(set.len(), all.len());
                    // As on Linux, the last port of an odd range is left out, unless it is the only one.
                    assert_eq!(all.len() as u32, if count == 1 { 1 } else { count & !1 });
                }
            }
        }
    }

    #[test]
    fn an_owner_among_many_is_found_whoever_goes_first() {
        let mut ports = Ports::new(Keyed([1; 16]));
        let owner =
            |index: u32| if index.is_multiple_of(2) { Endpoint::Sock(index) } else { Endpoint::TimeWait(index) };
        for count in [FEW_OWNERS as u32, 100] {
            (0..count).for_each(|index| ports.hold(80, owner(index), false));
            // 7 and the counts have no common factor: each once, in no order.
            for turn in 0..count {
                assert_eq!(ports.owners(80).len() as u32, count - turn);
                ports.release(80, owner(turn * 7 % count));
                ports.release(80, Endpoint::Request(turn));
            }
            assert!(!ports.is_used(80));
        }
    }

    #[test]
    fn places_count_through_the_ranges_in_their_order() {
        let mut ports = Ports::new(Keyed([1; 16]));
        assert_eq!((ports.size(10), ports.at(1_000, 9), ports.newest()), (10, Some(1_009), 0));
        ports.restrict(alloc::vec![(100, 102), (50, 50), (200, 203)], true);
        let all: alloc::vec::Vec<Option<u16>> = (0..9).map(|place| ports.at(1_000, place)).collect();
        let wanted = [100, 101, 102, 50, 200, 201, 202, 203].map(Some);
        assert_eq!(all[..8], wanted);
        assert_eq!((all[8], ports.size(10), ports.newest()), (None, 8, 4));
    }
}
