//! The neighbour table: who on the link has which hardware address, with the states of Linux's neighbour.c.
//!
//! A neighbour that is only remembered (reachable, stale, failed) needs no timer: its age is judged when it is used,
//! so that an idle stack makes no wake-ups. Timers run while one is looked for (incomplete), is about to be checked
//! (delay) and is being checked (probe).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use super::LinkContext;
use crate::interface::MacAddress;
use crate::ip::output::Packet;
use crate::settings::Settings;
use crate::time::Instant;

/// Linux's gc_thresh3: most neighbours that are remembered.
const NEIGHBOUR_LIMIT: usize = 1_024;
/// Linux's locktime: a learnt address is not changed by another station's claim within this time.
const LOCK_TIME: Duration = Duration::from_secs(1);

/// Linux's NUD states; NONE is not being in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests are out; packets wait.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Used while stale: wait a while for a confirmation from above before asking.
    Delay,
    /// Asking at the known address.
    Probe,
    /// Did not answer.
    Failed,
}

#[derive(Debug)]
struct Neighbour {
    state: State,
    mac: MacAddress,
    /// When the state's timer is due; of meaning in Incomplete, Delay and Probe.
    deadline: Instant,
    /// Requests sent in this state.
    probes: u8,
    confirmed: Instant,
    used: Instant,
    updated: Instant,
    /// How long a confirmation counts; chosen anew for each neighbour (RFC 4861 §6.3.2's ReachableTime).
    reachable_time: Duration,
    queue: VecDeque<Packet>,
    queued: usize,
}

/// A request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicit {
    /// Who is looked for.
    pub address: Ipv4Addr,
    /// Ask there; `None`: ask everybody.
    pub unicast: Option<MacAddress>,
}

/// A neighbour did not answer.
#[derive(Debug)]
pub struct Failed {
    /// Who.
    pub address: Ipv4Addr,
    /// The packets that waited for it.
    pub packets: VecDeque<Packet>,
}

/// Where a packet for a neighbour goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To this hardware address.
    Known(MacAddress),
    /// It waits; perhaps a request is due at once.
    Unknown(Option<Solicit>),
}

/// All neighbours.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: BTreeMap<Ipv4Addr, Neighbour>,
    /// Entries in state Incomplete.
    resolving: usize,
    /// Entries with a timer.
    timed: usize,
}

const fn has_timer(state: State) -> bool {
    matches!(state, State::Incomplete | State::Delay | State::Probe)
}

impl Neighbours {
    /// Whether any neighbour is being looked for.
    #[must_use]
    pub const fn is_resolving(&self) -> bool {
        self.resolving > 0
    }

    /// Everybody in the table.
    pub fn each(&self) -> impl Iterator<Item = (Ipv4Addr, State, MacAddress)> {
        self.entries.iter().map(|(address, entry)| (*address, entry.state, entry.mac))
    }

    /// State of a neighbour, for tests and displays.
    #[must_use]
    pub fn state(&self, address: Ipv4Addr) -> Option<State> {
        self.entries.get(&address).map(|entry| entry.state)
    }

    /// Where a packet to `address` goes (`neigh_resolve_output`, `neigh_event_send`).
    //= REF N-04
    pub fn output(&mut self, context: &mut LinkContext<'_>, address: Ipv4Addr) -> Output {
        let now = context.now;
        let retransmit = Duration::from_millis(u64::from(context.settings.neigh_retrans_time_ms));
        if !self.entries.contains_key(&address) {
            self.make_room();
            let entry = Neighbour::new(context, State::Failed);
            self.entries.insert(address, entry);
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            return Output::Unknown(None);
        };
        let before = entry.state;
        entry.age(now, context.settings);
        let output = match entry.state {
            State::Incomplete => Output::Unknown(None),
            State::Failed => {
                entry.state = State::Incomplete;
                entry.probes = 1;
                entry.deadline = now + retransmit;
                Output::Unknown(Some(Solicit { address, unicast: None }))
            }
            State::Stale => {
                entry.state = State::Delay;
                entry.deadline = now + Duration::from_secs(u64::from(context.settings.neigh_delay_first_probe_time));
                Output::Known(entry.mac)
            }
            State::Reachable | State::Delay | State::Probe => Output::Known(entry.mac),
        };
        entry.used = now;
        let after = entry.state;
        self.account(before, after);
        output
    }

    /// Queues a packet for a neighbour that is being looked for; the oldest go when there is no room.
    pub fn enqueue(&mut self, context: &mut LinkContext<'_>, address: Ipv4Addr, packet: Packet) {
        let limit = usize::try_from(context.settings.neigh_unres_qlen_bytes).unwrap_or(usize::MAX);
        let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.state == State::Incomplete) else {
            context.counters.neighbour_queue_drops += 1;
            return;
        };
        entry.queued = entry.queued.saturating_add(packet.bytes.len());
        entry.queue.push_back(packet);
        while entry.queued > limit {
            let Some(oldest) = entry.queue.pop_front() else { break };
            entry.queued = entry.queued.saturating_sub(oldest.bytes.len());
            context.counters.neighbour_queue_drops += 1;
        }
    }

    /// A station says that `address` is at `mac` (`neigh_update`). `solicited`: it answered us; `create`: it asked us,
    /// so that we shall need it. Gives the packets that waited.
    pub fn learn(
        &mut self,
        context: &mut LinkContext<'_>,
        address: Ipv4Addr,
        mac: MacAddress,
        solicited: bool,
        create: bool,
    ) -> VecDeque<Packet> {
        let now = context.now;
        if !self.entries.contains_key(&address) {
            if !create {
                return VecDeque::new();
            }
            self.make_room();
            let entry = Neighbour::new(context, State::Failed);
            self.entries.insert(address, entry);
        }
        let Some(entry) = self.entries.get_mut(&address) else {
            return VecDeque::new();
        };
        let before = entry.state;
        entry.age(now, context.settings);
        let valid = !matches!(entry.state, State::Incomplete | State::Failed);
        if valid && entry.mac != mac && now < entry.updated + LOCK_TIME {
            return VecDeque::new();
        }
        let changed = entry.mac != mac || !valid;
        entry.mac = mac;
        if changed {
            entry.updated = now;
        }
        if solicited {
            entry.state = State::Reachable;
            entry.confirmed = now;
        } else if changed {
            entry.state = State::Stale;
        }
        entry.probes = 0;
        let mut freed = core::mem::take(&mut entry.queue);
        entry.queued = 0;
        let used = !freed.is_empty();
        let after = entry.state;
        self.account(before, after);
        if used && after == State::Stale {
            // What waited is sent to a stale neighbour, which therefore is checked soon.
            let _ = self.output(context, address);
        }
        freed.shrink_to_fit();
        freed
    }

    /// Proof from above that the neighbour is there.
    pub fn confirm(&mut self, now: Instant, address: Ipv4Addr) {
        if let Some(entry) = self.entries.get_mut(&address) {
            let before = entry.state;
            entry.confirmed = now;
            if matches!(entry.state, State::Stale | State::Delay) {
                entry.state = State::Reachable;
            }
            let after = entry.state;
            self.account(before, after);
        }
    }

    /// When to act next: the earliest deadline of those with a timer.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.timed == 0 {
            return None;
        }
        self.entries.values().filter(|entry| has_timer(entry.state)).map(|entry| entry.deadline).min()
    }

    /// Does what is due (`neigh_timer_handler`).
    //= RFC 1122 §3.3.1.4 (MUST-64)
    pub fn handle_timeout(&mut self, context: &mut LinkContext<'_>) -> (Vec<Solicit>, Vec<Failed>) {
        let (mut solicits, mut failed) = (Vec::new(), Vec::new());
        if self.timed == 0 {
            return (solicits, failed);
        }
        let retransmit = Duration::from_millis(u64::from(context.settings.neigh_retrans_time_ms));
        let (now, settings) = (context.now, context.settings);
        let (mut resolving, mut timed) = (0, 0);
        for (address, entry) in &mut self.entries {
            if has_timer(entry.state) && now >= entry.deadline {
                if entry.state == State::Delay {
                    entry.state = State::Probe;
                    entry.probes = 0;
                }
                let (limit, unicast) = match entry.state {
                    State::Probe => (settings.neigh_ucast_solicit, Some(entry.mac)),
                    _ => (settings.neigh_mcast_solicit, None),
                };
                if entry.probes >= limit {
                    entry.state = State::Failed;
                    entry.queued = 0;
                    context.counters.neighbour_failures += 1;
                    failed.push(Failed { address: *address, packets: core::mem::take(&mut entry.queue) });
                } else {
                    entry.probes += 1;
                    entry.deadline = now + retransmit;
                    solicits.push(Solicit { address: *address, unicast });
                }
            }
            resolving += usize::from(entry.state == State::Incomplete);
            timed += usize::from(has_timer(entry.state));
        }
        self.resolving = resolving;
        self.timed = timed;
        (solicits, failed)
    }

    /// Forgets everybody; gives the packets that waited.
    pub fn clear(&mut self) -> Vec<Packet> {
        let entries = core::mem::take(&mut self.entries);
        self.resolving = 0;
        self.timed = 0;
        entries.into_values().flat_map(|entry| entry.queue).collect()
    }

    /// Forgets the one that was used longest ago when the table is full (`neigh_forced_gc`).
    fn make_room(&mut self) {
        if self.entries.len() < NEIGHBOUR_LIMIT {
            return;
        }
        let idle = self.entries.iter().filter(|(_, entry)| entry.queue.is_empty());
        if let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(address, _)| *address)
            && let Some(entry) = self.entries.remove(&oldest)
        {
            self.account(entry.state, State::Failed);
        }
    }

    fn account(&mut self, before: State, after: State) {
        self.resolving = (self.resolving + usize::from(after == State::Incomplete))
            .saturating_sub(usize::from(before == State::Incomplete));
        self.timed = (self.timed + usize::from(has_timer(after))).saturating_sub(usize::from(has_timer(before)));
    }
}

impl Neighbour {
    fn new(context: &mut LinkContext<'_>, state: State) -> Self {
        let base = context.settings.neigh_base_reachable_time_ms;
        // `neigh_rand_reach_time`: between half and one and a half of the base.
        let reachable = u64::from(base / 2) + u64::from(context.random.below(base));
        Self {
            state,
            mac: MacAddress::default(),
            deadline: Instant::ZERO,
            probes: 0,
            confirmed: Instant::ZERO,
            used: context.now,
            updated: context.now,
            reachable_time: Duration::from_millis(reachable),
            queue: VecDeque::new(),
            queued: 0,
        }
    }

    /// What time has made of a state without a timer.
    //= RFC 1122 §3.3.1.4 (SHLD-22, MUST-65, MUST-66)
    fn age(&mut self, now: Instant, settings: &Settings) {
        if self.state == State::Reachable && now > self.confirmed + self.reachable_time {
            self.state = State::Stale;
        }
        let forget = Duration::from_secs(u64::from(settings.neigh_gc_stale_time));
        // Stale and long unused: Linux's garbage collection has dropped it, and the next packet asks anew.
        if self.state == State::Stale && now > self.used.max(self.confirmed) + forget {
            self.state = State::Failed;
        }
    }
}
