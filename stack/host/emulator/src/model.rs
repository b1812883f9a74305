//! One direction of the link, in whatever time the caller lives by: a queue before a transmitter of a given rate, and a
//! wire behind it that delays, loses, repeats, damages and disorders. Frames go in with the time of their arrival and come
//! out when they are due; clocks, sockets and the cutting of super-frames are left to others.
//!
//! The order of things is that of a real path: a packet first finds room in the queue or is dropped (drop-tail), is marked
//! there (ECN), takes its time on the transmitter, and only then may be lost. So a lost packet has used the link.

use crate::chance::{Dice, Purpose};
use crate::impairments::Impairments;
use crate::loss::{Fate, Loss};
use crate::packet;
use crate::segment::Offload;
use crate::statistics::Counts;
use crate::units::Size;
use remora_stack::time::Instant;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// Bytes on their way at most in one direction: a second of 2 Gbit/s. Beyond it memory would be used up by a sender that
/// nothing slows.
const MEMORY: u64 = 256 << 20;

/// Until a send that found no room in the kernel is repeated.
const RETRY_AFTER: Duration = Duration::from_micros(50);

/// Sends of one packet at most: with the pause, a tenth of a second.
const MAX_ATTEMPTS: u32 = 2000;

/// What travels: bytes, and work that the kernel still has to do on them (none for packets cut here).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the link header on.
    pub bytes: Vec<u8>,
    /// Unfinished work.
    pub offload: Offload,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has it.
    Delivered,
    /// The kernel has no room now.
    NoRoom,
    /// The interface is down or gone.
    NoLink,
    /// The kernel will never take it.
    Failed,
}

/// A frame on its way.
#[derive(Debug)]
struct Flight {
    due: Instant,
    /// Place among those of the same time.
    order: u64,
    /// Number of the packet as it entered the link; that of a copy is its original's.
    number: u64,
    frame: Frame,
}

impl Flight {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.order)
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The transmitter and what waits for it.
#[derive(Debug, Default)]
struct Queue {
    /// When each packet's last bit leaves, and the packet's bytes; the first is on the transmitter.
    waiting: VecDeque<(Instant, u64)>,
    bytes: u64,
    busy_until: Instant,
    /// Parts of a nanosecond, in units of 1 / rate, that earlier packets have left over.
    remainder: u64,
}

impl Queue {
    /// Lets go what has left by `now`.
    fn advance(&mut self, now: Instant) {
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(leaves, _)| *leaves <= now) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Whether a packet of `bytes` finds room.
    fn has_room(&self, settings: &Impairments, bytes: u64) -> bool {
        let packets = self.waiting.len() as u64;
        let enough = |limit: Option<u64>, needed: u64| limit.is_none_or(|limit| needed <= limit);
        // A queue of bytes that is shorter than one packet would never pass any.
        enough(settings.limit_packets, packets + 1)
            && (self.waiting.is_empty() || enough(settings.limit_bytes, self.bytes.saturating_add(bytes)))
    }

    /// Whether a packet that joins now finds more waiting than `threshold`.
    fn is_beyond(&self, threshold: Size) -> bool {
        match threshold {
            Size::Packets(count) => self.waiting.len() as u64 >= count,
            Size::Bytes(count) => self.bytes >= count,
        }
    }

    /// Adds a packet and says when its last bit leaves.
    fn join(&mut self, now: Instant, rate: u64, bytes: u64, overhead: u64) -> Instant {
        if self.busy_until < now {
            (self.busy_until, self.remainder) = (now, 0);
        }
        let bits = u128::from(bytes.saturating_add(overhead)) * 8;
        let total = bits * 1_000_000_000 + u128::from(self.remainder);
        // The rate is not zero (units), and the quotient of a frame of 64 KiB at one bit per second still fits.
        let nanos = u64::try_from(total / u128::from(rate)).unwrap_or(u64::MAX);
        self.remainder = (total % u128::from(rate)) as u64;
        self.busy_until += Duration::from_nanos(nanos);
        self.waiting.push_back((self.busy_until, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        self.busy_until
    }
}

/// The dice of the wire.
#[derive(Debug)]
struct WireDice {
    jitter: Dice,
    reorder: Dice,
    duplicate: Dice,
    corrupt: Dice,
}

/// One direction.
#[derive(Debug)]
pub struct Direction {
    settings: Impairments,
    queue: Queue,
    loss: Loss,
    dice: WireDice,
    flights: BinaryHeap<Reverse<Flight>>,
    bytes_in_flight: u64,
    order: u64,
    last_arrival: Instant,
    last_due: Instant,
    last_delivered: u64,
    stalled_until: Instant,
    attempts: u32,
    counts: Counts,
}

impl Direction {
    /// Direction number `direction` of the link; `seed` decides everything that is random.
    #[must_use]
    pub fn new(settings: Impairments, seed: u64, direction: u64) -> Self {
        let dice = |purpose| Dice::new(seed, direction, purpose);
        Self {
            queue: Queue::default(),
            loss: Loss::new(&settings, seed, direction),
            dice: WireDice {
                jitter: dice(Purpose::Jitter),
                reorder: dice(Purpose::Reorder),
                duplicate: dice(Purpose::Duplicate),
                corrupt: dice(Purpose::Corrupt),
            },
            settings,
            flights: BinaryHeap::new(),
            bytes_in_flight: 0,
            order: 0,
            last_arrival: Instant::ZERO,
            last_due: Instant::ZERO,
            last_delivered: 0,
            stalled_until: Instant::ZERO,
            attempts: 0,
            counts: Counts::default(),
        }
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { in_flight: self.flights.len() as u64, ..self.counts }
    }

    /// Counts a frame as the kernel handed it over, before it is cut.
    pub fn count_frame(&mut self, offload: Offload, was_cut: bool) {
        self.counts.frames += 1;
        self.counts.super_frames += u64::from(offload.is_super());
        self.counts.uncut += u64::from(!was_cut);
    }

    /// A frame arrives at the near end at `arrival`. Times before that of an earlier frame are taken as that one's.
    pub fn offer(&mut self, arrival: Instant, mut frame: Frame) {
        self.last_arrival = self.last_arrival.max(arrival);
        let arrival = self.last_arrival;
        let bytes = frame.bytes.len() as u64;
        self.counts.packets += 1;
        self.counts.bytes += bytes;
        let number = self.counts.packets;
        let leaves = match self.settings.rate {
            Some(rate) => {
                self.queue.advance(arrival);
                if !self.queue.has_room(&self.settings, bytes) {
                    self.counts.dropped_queue += 1;
                    return;
                }
                if self.settings.ecn.is_some_and(|threshold| self.queue.is_beyond(threshold)) {
                    self.counts.marked += u64::from(packet::mark_congestion(&mut frame.bytes));
                }
                let leaves = self.queue.join(arrival, rate, bytes, self.settings.overhead);
                let counts = &mut self.counts;
                counts.queue_peak_packets = counts.queue_peak_packets.max(self.queue.waiting.len() as u64);
                counts.queue_peak_bytes = counts.queue_peak_bytes.max(self.queue.bytes);
                leaves
            }
            None => arrival,
        };
        match self.loss.decide() {
            Fate::Kept => self.travel(leaves, number, frame),
            Fate::LostAlone => self.counts.lost_alone += 1,
            Fate::LostInBurst => self.counts.lost_in_burst += 1,
        }
    }

    /// The packet is on the wire: when does it arrive, how often, and how?
    fn travel(&mut self, leaves: Instant, number: u64, frame: Frame) {
        if self.bytes_in_flight.saturating_add(frame.bytes.len() as u64) > MEMORY {
            self.counts.dropped_memory += 1;
            return;
        }
        let due = self.arrival_time(leaves);
        if self.dice.duplicate.happens(self.settings.duplicate) {
            self.counts.duplicated += 1;
            self.fly(due, number, frame.clone());
        }
        self.fly(due, number, frame);
    }

    fn arrival_time(&mut self, leaves: Instant) -> Instant {
        let mut due = leaves + self.settings.delay;
        let jitter = u64::try_from(self.settings.jitter.as_nanos()).unwrap_or(u64::MAX);
        if jitter > 0 {
            // Even in [-jitter, +jitter]; the delay is at least the jitter (impairments).
            let spread = self.dice.jitter.below(jitter.saturating_mul(2).saturating_add(1));
            due = due - self.settings.jitter + Duration::from_nanos(spread);
        }
        if !self.settings.free_order {
            due = due.max(self.last_due);
        }
        if self.dice.reorder.happens(self.settings.reorder) {
            self.counts.held_back += 1;
            // Nobody waits for this one.
            return due + self.settings.hold;
        }
        self.last_due = due;
        due
    }

    fn fly(&mut self, due: Instant, number: u64, mut frame: Frame) {
        if self.dice.corrupt.happens(self.settings.corrupt) {
            self.counts.corrupted += u64::from(packet::corrupt(&mut frame.bytes, &mut self.dice.corrupt));
        }
        self.bytes_in_flight = self.bytes_in_flight.saturating_add(frame.bytes.len() as u64);
        self.order += 1;
        self.flights.push(Reverse(Flight { due, order: self.order, number, frame }));
    }

    /// When the next frame is to be delivered; `None` when none is on its way.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.flights.peek().map(|flight| flight.0.due.max(self.stalled_until))
    }

    /// The frame that is to be delivered now, if any. It stays until `settle` says what became of it.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<&Frame> {
        let flight = self.flights.peek().filter(|_| self.next_due().is_some_and(|due| due <= now))?;
        Some(&flight.0.frame)
    }

    /// What became of the frame that `due` has shown.
    pub fn settle(&mut self, now: Instant, outcome: Outcome) {
        if outcome == Outcome::NoRoom && self.attempts < MAX_ATTEMPTS {
            self.attempts += 1;
            self.counts.send_retries += 1;
            self.stalled_until = now + RETRY_AFTER;
            return;
        }
        self.attempts = 0;
        let Some(Reverse(flight)) = self.flights.pop() else { return };
        let bytes = flight.frame.bytes.len() as u64;
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
        let counts = &mut self.counts;
        match outcome {
            Outcome::Delivered => {
                counts.delivered += 1;
                counts.delivered_bytes += bytes;
                counts.out_of_order += u64::from(flight.number < self.last_delivered);
                self.last_delivered = self.last_delivered.max(flight.number);
                let late = u64::try_from(now.since(flight.due).as_nanos()).unwrap_or(u64::MAX);
                counts.late_total = counts.late_total.saturating_add(late);
                counts.late_most = counts.late_most.max(late);
            }
            Outcome::NoLink => counts.no_link += 1,
            Outcome::NoRoom | Outcome::Failed => counts.send_failed += 1,
        }
    }
}

#[cfg(test)]
mod tests;
