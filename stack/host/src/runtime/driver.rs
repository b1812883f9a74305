//! Moving frames: from the device into the stack, from the stack to the device, and the stack's events to those who
//! wait for them. All of it under the lock; nothing here blocks.

use super::outbox::{self, PutOff};
use super::registry::{PortKey, Registry, random_word};
use super::{Core, Open};
use crate::device::siblings::{HEADER as SIBLING_HEADER, SiblingLink};
use crate::device::staged::LateFailure;
use crate::device::{DeviceError, LocalAddress, MAX_FRAME, Ports, Scope, TransmitError};
use crate::sys::{Errno, Fd, call};
use remora_stack::frame::{Medium, Purpose};
use remora_stack::socket::protocol::{Happened, Readiness, SocketId};
use remora_stack::stack::{Stack, TransmitError as TransmitFailure};
use remora_stack::time::Instant;
use remora_stack::wire::flow::Flow;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Frames taken from the device before what they cause is sent: acknowledgements must not wait for the end of a burst.
const BATCH: usize = 16;

/// Times that the stack is asked again for output before the lock is given to others.
const ROUNDS: usize = 4;

/// When to look at what nobody tells of, while frames arrive.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// How old what waits on the device may become while a caller only sends: less than a queue for an unresolved neighbour
/// takes to fill with small datagrams.
const GLANCE: Duration = Duration::from_micros(200);

/// How long siblings that have been heard are looked after at each turn.
const SIBLINGS_BUSY: Duration = Duration::from_millis(100);

/// How often a caller that never sleeps looks for siblings that have been quiet.
const SIBLINGS_LOOK: Duration = Duration::from_millis(1);

/// Batches handled before the lock is given to others.
const BATCHES: usize = 8;

impl Core {
    /// Feeds in what waits on the device and fires the timers that are due. Says whether anything was done.
    pub(super) fn pump(&mut self, open: &Open, now: Instant) -> bool {
        self.roster.note_pass();
        let frames = if self.here { self.take_in(open, now) } else { 0 };
        self.statistics.frames_by_callers += frames as u64;
        if frames > 0 {
            self.look_around(open, now);
        }
        let due = self.fire_timers(open, now);
        // Who looks next must find what has come in its epoll sets: a thread does not ring itself.
        self.announce_events();
        frames > 0 || due
    }

    /// The same for the keeper.
    pub(super) fn pump_as_keeper(&mut self, open: &Open, now: Instant) {
        let frames = self.take_in(open, now);
        self.statistics.frames_by_keeper += frames as u64;
        if frames > 0 {
            self.look_around(open, now);
        }
        self.fire_timers(open, now);
    }

    /// Takes in what has arrived behind the back of a caller that only sends: ARP replies, ICMP errors. No driver is
    /// inside then, and the keeper may be waiting for the very processor that the caller keeps busy.
    pub(super) fn glance(&mut self, open: &Open, now: Instant) {
        let lately = self.received_at.is_some_and(|received| now.since(received) < GLANCE);
        if self.here && !lately && self.roster.driver().is_none() {
            // A caller who looks often enough needs no keeper beside it, which would be in its way.
            self.roster.note_pass();
            self.statistics.frames_by_callers += self.receive_batch(open, now) as u64;
        }
    }

    /// Takes in what has arrived, unless another driver is inside.
    pub(super) fn look(&mut self, open: &Open, now: Instant) {
        if self.here && self.roster.driver().is_none() {
            self.statistics.frames_by_callers += self.receive_batch(open, now) as u64;
        }
    }

    /// What nobody tells of is looked at while there is traffic, and not on a timer that would wake an idle family:
    /// whether the answerer has gone, and whether the interface has another MTU.
    fn look_around(&mut self, open: &Open, now: Instant) {
        if self.looked_around.is_some_and(|looked| now.since(looked) < LOOK_AROUND) {
            return;
        }
        self.looked_around = Some(now);
        self.registry.try_to_answer(self.inside, now);
        self.link_changed(open, now);
    }

    /// When the stack is to be asked again.
    pub(super) fn next_timeout(&self, open: &Open) -> Option<Instant> {
        open.consistently(|| self.stack.next_timeout())
    }

    fn fire_timers(&mut self, open: &Open, now: Instant) -> bool {
        let due = self.next_timeout(open).is_some_and(|at| at <= now);
        if due {
            self.stack.handle_timeout(now);
        }
        due
    }

    /// Feeds in what waits on the device, a batch at a time. Says how many frames.
    fn take_in(&mut self, open: &Open, now: Instant) -> usize {
        let (mut frames, mut now) = (0, now);
        for _ in 0..BATCHES {
            let batch = self.receive_batch(open, now);
            frames += batch;
            if batch < BATCH {
                break;
            }
            self.settle(open, now);
            now = call::now();
        }
        frames
    }

    fn receive_batch(&mut self, open: &Open, now: Instant) -> usize {
        self.received_at = Some(now);
        let frames = self.receive_from_siblings(open, now);
        if frames > 0 {
            return frames;
        }
        // What an earlier call left says nothing about now.
        let fresh = !self.has_frames();
        for count in 0..BATCH {
            let Some(device) = self.device.as_mut() else { return count };
            if fresh && count > 0 && device.is_drained() {
                return count;
            }
            // The stack may have kept the former buffer. Room is made here, where dying would be noticed.
            self.buffer.clear();
            self.buffer.reserve(MAX_FRAME);
            let buffer = &mut self.buffer;
            // The kernel joins no packets of a device without Ethernet (GRO): each is answered by itself.
            let alone = device.capabilities().medium == Medium::Ip;
            match open.consistently(|| device.receive(buffer)) {
                Ok(Some(meta)) => {
                    let Self { registry, stack, buffer, .. } = self;
                    if !registry.has_shared() || is_for_us(registry, stack, buffer, now) {
                        stack.handle_frame(now, buffer, meta);
                    }
                    if alone {
                        self.transmit(open, now);
                    }
                }
                Ok(None) => return count,
                Err(error) => {
                    self.device_failed(open, now, error);
                    return count;
                }
            }
        }
        BATCH
    }

    /// Takes in what other families on this address have sent. While they are quiet it costs a system call a
    /// millisecond at most; a sleeper is told by the descriptor itself.
    fn receive_from_siblings(&mut self, open: &Open, now: Instant) -> usize {
        let Some(siblings) = self.siblings.as_mut() else { return 0 };
        let busy = self.heard_siblings.is_some_and(|heard| now.since(heard) < SIBLINGS_BUSY);
        let looked = self.looked_for_siblings.is_some_and(|looked| now.since(looked) < SIBLINGS_LOOK);
        if !open.take_siblings_call() && looked && !busy {
            return 0;
        }
        self.looked_for_siblings = Some(now);
        for count in 0..BATCH {
            self.buffer.clear();
            self.buffer.reserve(MAX_FRAME);
            let buffer = &mut self.buffer;
            let Some(gso_size) = open.consistently(|| siblings.receive(buffer)) else { return count };
            self.heard_siblings = Some(now);
            let Self { registry, stack, buffer, .. } = self;
            let flow = Flow::of(Medium::Ip, buffer.get(SIBLING_HEADER..).unwrap_or(&[]));
            // What is for a group or for everybody is for each family that has the port.
            let for_one = flow.filter(|flow| is_of_host(stack, flow.to.ip()));
            if !registry.has_shared() || for_one.is_none_or(|flow| registry.takes(&flow, now)) {
                stack.handle_sibling(now, buffer, SIBLING_HEADER, gso_size);
            }
        }
        // There may be more.
        open.call_siblings();
        BATCH
    }

    fn device_failed(&mut self, open: &Open, now: Instant, error: DeviceError) {
        match error {
            // The link's state is looked at again by `refresh`; sockets survive.
            DeviceError::Down | DeviceError::Failed(_) => self.link_changed(open, now),
            DeviceError::Gone => self.lose_device(open, now),
        }
    }

    /// Sends all that the stack has to send, and tells those who wait what has changed.
    pub(super) fn settle(&mut self, open: &Open, now: Instant) {
        for _ in 0..ROUNDS {
            self.transmit(open, now);
            // The stack may want to be asked again at once.
            if self.next_timeout(open).is_none_or(|at| at > now) {
                break;
            }
            self.stack.handle_timeout(now);
        }
        self.announce_events();
        self.ring_proxies(open);
        self.release_lingering();
        if self.stack.wants_ports() {
            self.extend_ports(self.inside, random_word());
        }
        if self.has_frames() {
            self.roster.ring_watcher();
        }
        self.roster.check_watch(self.next_timeout(open));
        self.adjust_filter(open);
    }

    /// Has the device pass what is this family's now. A process without the device leaves it to one that has it.
    fn adjust_filter(&mut self, open: &Open) {
        if !self.here {
            return;
        }
        let raw = self.raw_sockets > 0;
        let Some(ports) = self.registry.take_ports(raw) else { return };
        let (Some(device), Some(interface)) = (self.device.as_mut(), self.stack.interface()) else { return };
        let IpAddr::V4(address) = interface.address else { return };
        let addresses = vec![LocalAddress { address, prefix: interface.prefix }];
        let scope = Scope { addresses, ports };
        if let Some(siblings) = self.siblings.as_mut() {
            let failed = open.consistently(|| siblings.set_ports(&scope.ports)).is_err();
            if failed {
                let _ = open.consistently(|| siblings.set_ports(&Ports::All));
            }
        }
        let result = open.consistently(|| device.set_scope(&scope));
        if result.is_err() {
            // The former filter may keep away what has become ours since: better one that passes too much.
            let scope = Scope { ports: Ports::All, ..scope };
            let _ = open.consistently(|| device.set_scope(&scope));
        }
    }

    fn transmit(&mut self, open: &Open, now: Instant) {
        if self.device.is_some() && !self.here {
            // A process without the device's descriptors leaves sending to one that has them.
            self.roster.ring_watcher();
            return;
        }
        let (slot, mut now) = (self.inside, now);
        let mut late = None;
        loop {
            if let Some(failure) = late.take() {
                self.sent_in_vain(open, now, failure);
            }
            let Self { stack, device, registry, .. } = self;
            let Some(frame) = stack.poll_transmit(now) else { return };
            if frame.purpose == Purpose::Siblings {
                if let Some(siblings) = &mut self.siblings {
                    let _ = open.consistently(|| siblings.transmit(&frame));
                }
                continue;
            }
            if let Purpose::Sibling { protocol, port, closed } = frame.purpose {
                // To our own address, for a port that is not ours: to the family that has it, or back to be refused.
                if closed.is_some_and(|port| !registry.permits(Purpose::ClosedPort { protocol, port }, slot, now)) {
                    self.statistics.left_to_others += 1;
                } else if registry.is_for_others(PortKey { protocol, port }, now)
                    && let Some(siblings) = &mut self.siblings
                {
                    self.heard_siblings = Some(now);
                    // A full queue is a lost packet, as on any link.
                    let _ = open.consistently(|| siblings.transmit(&frame));
                } else {
                    let mut bytes = frame.to_vec();
                    stack.refuse_for_siblings(now, &mut bytes);
                }
                continue;
            }
            let outcome = match device.as_mut() {
                None => Err(TransmitError::Down),
                Some(_) if !registry.permits(frame.purpose, slot, now) => {
                    self.statistics.left_to_others += 1;
                    continue;
                }
                Some(device) => match outbox::put_off(open, device, &frame) {
                    PutOff::Yes => continue,
                    PutOff::No(before) => {
                        let outcome = open.consistently(|| device.transmit(&frame));
                        late = late.or(before.err());
                        outcome
                    }
                },
            };
            let failure = match outcome {
                // The next one leaves later, and is to say so: a device takes its time.
                Ok(()) => {
                    now = call::now();
                    continue;
                }
                Err(TransmitError::NoRoom) => TransmitFailure::NoRoom,
                Err(TransmitError::Busy) => TransmitFailure::Busy,
                Err(TransmitError::Down | TransmitError::Failed(_)) => TransmitFailure::Other,
            };
            self.statistics.not_sent += 1;
            self.stack.transmit_failed(now, failure);
            if matches!(failure, TransmitFailure::NoRoom | TransmitFailure::Busy) {
                return;
            }
            // The MTU has become smaller, or the interface is down or has gone.
            if matches!(
                outcome,
                Err(TransmitError::Down | TransmitError::Failed(Errno(libc::EMSGSIZE | libc::ENXIO | libc::ENODEV)))
            ) {
                self.link_changed(open, now);
            }
        }
    }

    /// What was put off has not left. It is lost, like what the network loses; for a while nothing is put off.
    pub(super) fn sent_in_vain(&mut self, open: &Open, now: Instant, failure: LateFailure) {
        self.statistics.not_sent += failure.count;
        self.plain_turns = outbox::PLAIN_TURNS;
        open.crowd.store(0);
        if matches!(failure.errno.0, libc::EMSGSIZE | libc::ENXIO | libc::ENODEV | libc::ENETDOWN) {
            self.link_changed(open, now);
        }
    }

    /// Where frames are sent from outside of the lock.
    pub(super) fn transmit_fd(&self) -> Option<Fd> {
        self.device.as_ref().filter(|_| self.here).map(|device| device.fd())
    }

    /// Tells sets and sleepers what the stack has reported.
    fn announce_events(&mut self) {
        while let Some((socket, happened)) = self.stack.poll_event() {
            self.announce(socket, happened);
        }
        while let Some(socket) = self.stack.poll_urgent() {
            if let Some(id) = self.descriptions.owner(socket) {
                self.signal_urgent(id);
            }
        }
    }

    /// Something has happened to a socket.
    fn announce(&mut self, socket: SocketId, happened: Happened) {
        let Some(id) = self.descriptions.owner(socket) else { return };
        let readiness = self.stack.readiness(socket);
        self.announce_to_sets(id, happened.key(), readiness);
        self.signal_owner(id, happened, readiness);
        let Some(description) = self.descriptions.find(id) else { return };
        let mut waiters = description.waiters;
        let has_handles = !description.handles.is_empty();
        while waiters != 0 {
            let index = waiters.trailing_zeros();
            waiters &= waiters - 1;
            let Some(sleeper) = self.roster.sleeper(index) else { continue };
            let always = Readiness::ERR | Readiness::HUP;
            if sleeper.interest.is_empty() || readiness.intersects(sleeper.interest | always) {
                self.roster.ring(1 << index);
            }
        }
        if has_handles {
            self.handles_are_due(id);
        }
    }

    pub(super) fn take_rings(&mut self) -> u64 {
        let rings = self.roster.take_rings();
        self.statistics.rings += u64::from(rings.count_ones());
        rings
    }

    /// Whether the device has frames that its descriptor does not tell of.
    pub(super) fn has_frames(&self) -> bool {
        self.here && self.device.as_ref().is_some_and(|device| device.has_frames())
    }

    /// Where frames arrive, for ppoll.
    pub(super) fn device_fd(&self) -> Option<Fd> {
        self.device.as_ref().filter(|_| self.here).map(|device| device.fd())
    }

    /// The same, and where those of the siblings do.
    pub(super) fn frame_fds(&self) -> [Option<Fd>; 2] {
        [self.device_fd(), self.siblings.as_ref().filter(|_| self.here).map(SiblingLink::fd)]
    }
}

/// Whether an address is this host's alone.
fn is_of_host(stack: &Stack, address: &Ipv4Addr) -> bool {
    address.is_loopback() || stack.interface().is_some_and(|interface| interface.address == *address)
}

/// Whether a frame is for this family and not for another that has the port, too.
fn is_for_us(registry: &mut Registry, stack: &Stack, frame: &[u8], now: Instant) -> bool {
    let Some(interface) = stack.interface() else { return true };
    let flow = Flow::of(interface.capabilities.medium, frame);
    let ours = flow.filter(|flow| interface.address == *flow.to.ip());
    ours.is_none_or(|flow| registry.takes(&flow, now))
}
