//! Stacks on a virtual network: virtual time, latency, rate, seeded loss, reordering, duplication and corruption.
//! Nothing here sleeps or reads a clock, so that a run with the same seed is the same run. A test prints
//! [`Network::seed`] when it fails; [`Network::pcap`] shows what went over the wire.

mod pcap;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use crate::frame::{DeviceCapabilities, Medium, RxChecksum, RxMeta};
use crate::interface::{InterfaceConfig, MacAddress};
use crate::settings::Settings;
use crate::stack::Stack;
use crate::time::Instant;

/// What the wire does to frames. Chances are in parts per million.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Time on the way.
    pub latency: Duration,
    /// Bytes per second; 0 is without limit.
    pub rate: u64,
    /// Bytes that wait for a transmitter with a rate; more vanish. 0 is without limit.
    pub queue: u64,
    /// Frames that vanish.
    pub loss: u32,
    /// Frames that are held up for another latency or two, so that later ones pass them.
    pub reorder: u32,
    /// Frames that arrive twice.
    pub duplicate: u32,
    /// Frames of which one bit flips. Only those whose checksum is complete can be so damaged.
    pub corrupt: u32,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { latency: Duration::from_micros(100), rate: 0, queue: 0, loss: 0, reorder: 0, duplicate: 0, corrupt: 0 }
    }
}

/// Pseudo-random numbers of a test (SplitMix64): reproducible, and of no use for anything else.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether something with a chance of so many in a million happens.
    pub const fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.next() % 1_000_000 < per_million as u64
    }
}

struct Flight {
    to: usize,
    frame: Vec<u8>,
    meta: RxMeta,
}

/// A network: all stacks hang on one segment.
pub struct Network {
    /// The time.
    pub now: Instant,
    /// What the wire does.
    pub conditions: Conditions,
    /// The stacks; names are their places.
    pub stacks: Vec<Stack>,
    seed: u64,
    random: Seeded,
    flights: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    /// When each stack's transmitter is free again.
    free: Vec<Instant>,
    capture: Option<Vec<(Instant, Vec<u8>)>>,
}

impl Network {
    /// An empty network whose accidents follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            // Not zero, so that a forgotten "never" in a stack shows.
            now: Instant::from_millis(1_000),
            conditions: Conditions::default(),
            stacks: Vec::new(),
            seed,
            random: Seeded::new(seed),
            flights: BTreeMap::new(),
            sent: 0,
            free: Vec::new(),
            capture: None,
        }
    }

    /// The seed, to print when a test fails.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a stack with an address 10.0.0.x/24, no probe, and no offloads.
    pub fn add(&mut self, last_octet: u8) -> usize {
        self.add_with(&interface(last_octet), Settings::default())
    }

    /// Adds a stack.
    pub fn add_with(&mut self, config: &InterfaceConfig, settings: Settings) -> usize {
        let mut secret = [0; 32];
        for part in secret.chunks_mut(8) {
            part.copy_from_slice(&self.random.next().to_le_bytes());
        }
        let mut stack = Stack::new(settings, secret);
        stack.attach(self.now, config.clone());
        self.stacks.push(stack);
        self.free.push(self.now);
        self.stacks.len() - 1
    }

    /// The stack of a name.
    ///
    /// # Panics
    /// When there is none: a mistake of the test.
    pub fn stack(&mut self, name: usize) -> &mut Stack {
        self.stacks.get_mut(name).expect("a stack that the test has added")
    }

    /// Keeps every frame for [`Network::pcap`].
    pub fn capture(&mut self) {
        self.capture = Some(Vec::new());
    }

    /// What was captured, as a pcap file.
    #[must_use]
    pub fn pcap(&self) -> Vec<u8> {
        pcap::file(self.capture.as_deref().unwrap_or(&[]))
    }

    /// Frames captured so far.
    #[must_use]
    pub fn captured(&self) -> &[(Instant, Vec<u8>)] {
        self.capture.as_deref().unwrap_or(&[])
    }

    /// Takes what the stacks want to send and puts it on the wire.
    pub fn transmit(&mut self) {
        for from in 0..self.stacks.len() {
            while let Some(transmit) = self.stacks.get_mut(from).and_then(|stack| stack.poll_transmit(self.now)) {
                let frame = transmit.to_vec();
                let partial = transmit.checksum.is_some();
                let checksum = if partial { RxChecksum::Partial } else { RxChecksum::Unverified };
                let meta = RxMeta { checksum, gso_size: transmit.gso_size, vlan: None };
                self.launch(from, &frame, meta);
            }
        }
    }

    fn launch(&mut self, from: usize, frame: &[u8], meta: RxMeta) {
        if let Some(capture) = &mut self.capture {
            capture.push((self.now, frame.to_vec()));
        }
        let mut departs = self.now;
        if self.conditions.rate > 0
            && let Some(free) = self.free.get_mut(from)
        {
            departs = departs.max(*free);
            let waits = u64::try_from(departs.since(self.now).as_nanos()).unwrap_or(u64::MAX);
            let queued = waits / 1_000 * self.conditions.rate / 1_000_000;
            if self.conditions.queue > 0 && queued + frame.len() as u64 > self.conditions.queue {
                return;
            }
            let nanos = (frame.len() as u64).saturating_mul(1_000_000_000) / self.conditions.rate;
            *free = departs + Duration::from_nanos(nanos);
            departs = *free;
        }
        for to in (0..self.stacks.len()).filter(|to| *to != from) {
            if self.random.happens(self.conditions.loss) {
                continue;
            }
            let copies = if self.random.happens(self.conditions.duplicate) { 2 } else { 1 };
            for _ in 0..copies {
                let mut frame = frame.to_vec();
                if meta.checksum == RxChecksum::Unverified && self.random.happens(self.conditions.corrupt) {
                    let bit = self.random.next();
                    let place = usize::try_from(bit >> 8).unwrap_or(0) % frame.len().max(1);
                    if let Some(byte) = frame.get_mut(place) {
                        *byte ^= 1 << (bit & 7);
                    }
                }
                let mut arrives = departs + self.conditions.latency;
                if self.random.happens(self.conditions.reorder) {
                    arrives += self.conditions.latency + Duration::from_nanos(self.random.next() % 1_000_000);
                }
                self.sent += 1;
                self.flights.insert((arrives, self.sent), Flight { to, frame, meta });
            }
        }
    }

    /// Puts a frame of the test's own making before a stack, now.
    pub fn inject(&mut self, to: usize, frame: &[u8]) {
        let now = self.now;
        self.stack(to).handle_frame(now, &mut frame.to_vec(), RxMeta::default());
    }

    /// Sends what is to be sent, then moves the time to the next thing that happens and lets it happen. `false`
    /// when nothing will ever happen again without the test's doing.
    pub fn step(&mut self) -> bool {
        self.transmit();
        let timer = self.stacks.iter().filter_map(Stack::next_timeout).min();
        let flight = self.flights.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = [timer, flight].into_iter().flatten().min() else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.flights.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let mut flight = entry.remove();
            if let Some(stack) = self.stacks.get_mut(flight.to) {
                stack.handle_frame(self.now, &mut flight.frame, flight.meta);
            }
        }
        for stack in &mut self.stacks {
            if stack.next_timeout().is_some_and(|at| at <= self.now) {
                stack.handle_timeout(self.now);
            }
        }
        true
    }

    /// Steps until `done`; `false` when the network went quiet or `limit` of virtual time went by before.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.now > end || !self.step() {
                return done(self);
            }
        }
    }

    /// Lets `time` go by.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.transmit();
            let timer = self.stacks.iter().filter_map(Stack::next_timeout).min();
            let flight = self.flights.first_key_value().map(|((at, _), _)| *at);
            if [timer, flight].into_iter().flatten().min().is_none_or(|next| next > end) {
                break;
            }
            self.step();
        }
        self.now = self.now.max(end);
    }
}

/// The interface of the stack 10.0.0.`last_octet`/24: Ethernet, MTU 1500, no offloads, no probe, loopback served.
#[must_use]
pub fn interface(last_octet: u8) -> InterfaceConfig {
    InterfaceConfig {
        address: address(last_octet),
        prefix: 24,
        gateway: None,
        mac: MacAddress([2, 0, 0, 0, 0, last_octet]),
        capabilities: DeviceCapabilities { medium: Medium::Ethernet, mtu: 1_500, gso_max: 0, checksum_tx: false },
        probe: false,
        loopback: true,
    }
}

/// 10.0.0.`last_octet`.
#[must_use]
pub const fn address(last_octet: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last_octet))
}
