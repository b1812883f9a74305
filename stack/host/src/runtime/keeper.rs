//! The keeper: one small process of the family that drives when no caller is inside, watches the members by their
//! lifelines, keeps the family's claims on names, and goes on after the program has gone until the last socket, orphan
//! and TIME_WAIT is over. It polls the device only while no driver is inside; while drivers come and go it looks once a
//! millisecond; while one driver stays it rests. An idle family makes no wake-ups.
//!
//! It runs without the program's memory: shared state, this library's statics and its own small heap are all it has.

use super::adopt::Rendezvous;
use super::family::FAMILY;
use super::handle::HandleId;
use super::member::SlotId;
use super::owner::send_signals;
use super::pump::Pump;
use super::registry::{Claim, Questions};
use super::report::{self, Reporter};
use super::roster::{KEEPER_BELL, Ticks};
use super::watches::{Gone, WatchId, Watches};
use super::winding_up::wind_up;
use super::{Core, Inside, Open, admit};
use crate::sys::lock::Life;
use crate::sys::shared::{KeeperRegion, Shared, shed};
use crate::sys::{Errno, Fd, call};
use remora_stack::time::Instant;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The keeper's stack and records: driving the stack needs some room for frames and formatted log lines.
pub(super) const REGION: usize = 512 << 10;

/// When to look whether drivers still come and go; a frame that arrives while nobody is inside waits for two at most: the
/// first finds that somebody has been there since the last, the second takes in what has come, the third polls.
const TICK: Duration = Duration::from_millis(1);

/// How long a keeper waits for the first member.
const FIRST_MEMBER: Duration = Duration::from_secs(2);

/// Members without a lifeline that are taken up at a time.
const UNWATCHED: usize = 8;

/// When to look for members without a lifeline, which are known by their pid only.
const WITHOUT_LIFELINE_LOOK: Duration = Duration::from_secs(1);

/// What the keeper is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none.
    Absent,
    /// It waits for frames.
    Polling,
    /// It looks every millisecond whether callers still drive.
    Ticking,
    /// It sleeps until a driver leaves.
    Resting,
}

/// What members tell the keeper, each with one descriptor or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The far end of a lifeline.
    Join(SlotId),
    /// A name.
    Claim(Claim),
    /// A device opened anew, to be put under this number.
    Device(i32),
    /// The keeper's end of a handle, or for one that has none the process that made it.
    Handle(HandleId),
    /// The two sockets of a name relay, for this server.
    Relay(SocketAddrV4),
}

/// Bytes of a message: kind and argument.
const MESSAGE: usize = 12;

impl Message {
    fn encode(self) -> [u8; MESSAGE] {
        let (kind, argument) = match self {
            Self::Join(slot) => (1u32, u64::from(slot.pack())),
            Self::Claim(claim) => (2, claim.pack()),
            Self::Device(number) => (3, u64::from(number as u32)),
            Self::Handle(handle) => (4, handle.pack()),
            Self::Relay(server) => (5, u64::from(server.ip().to_bits()) << 16 | u64::from(server.port())),
        };
        let mut bytes = [0; MESSAGE];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..].copy_from_slice(&argument.to_ne_bytes());
        bytes
    }

    fn decode(bytes: [u8; MESSAGE]) -> Option<Self> {
        let (kind, argument) = bytes.split_first_chunk()?;
        let argument = u64::from_ne_bytes(argument.try_into().ok()?);
        match u32::from_ne_bytes(*kind) {
            1 => Some(Self::Join(SlotId::unpack(argument as u32))),
            2 => Some(Self::Claim(Claim::unpack(argument))),
            3 => Some(Self::Device(argument as i32)),
            4 => Some(Self::Handle(HandleId::unpack(argument))),
            5 => Some(Self::Relay(SocketAddrV4::new(Ipv4Addr::from_bits((argument >> 16) as u32), argument as u16))),
            _ => None,
        }
    }
}

/// Sends a message with descriptors; false when there is no room or no channel.
pub(super) fn send_to_keeper(open: &Open, message: Message, passed: &[Fd]) -> bool {
    let Some(channel) = open.channel(0) else { return false };
    call::send_descriptors(channel, &message.encode(), passed, libc::MSG_DONTWAIT) == Ok(MESSAGE)
}

impl Core {
    /// A process image has gone: what its slot held is released.
    fn member_gone(&mut self, slot: SlotId, now: Instant) {
        self.start_handles_of(slot, now);
        self.drop_member(now, slot);
    }

    /// Whether nothing is left to keep.
    fn is_over(&self) -> bool {
        self.descriptions.len() == 0 && self.stack.is_idle()
    }
}

/// Leaves a keeper behind.
pub(super) fn spawn(region: KeeperRegion, keep: &[Fd]) -> Result<i32, Errno> {
    region.spawn(keeper_main, keep)
}

extern "C" fn keeper_main(_: *mut ()) -> ! {
    shed();
    if let Some(family) = FAMILY.load() {
        family.open().keeper_line.register();
        Keeper::new(family).run();
    }
    call::exit_group(0)
}

/// A descriptor of a poll set that is watched for input.
const fn watched(fd: Fd) -> libc::pollfd {
    libc::pollfd { fd: fd.raw(), events: libc::POLLIN, revents: 0 }
}

/// Places in the poll set before the lifelines.
const SIGNALS: usize = 0;
const BELL: usize = 1;
const CHANNEL: usize = 2;
const PACKET: usize = 3;
// The pump's set is at 4.
const GUESTS: usize = 5;
const ASKERS: usize = 6;
const QUESTIONS: usize = 7;
const SIBLINGS: usize = 8;
const FIRST_LIFELINE: usize = 9;

/// What the keeper has for itself.
struct Keeper {
    family: &'static Shared<Open, Core>,
    watches: Watches,
    claims: Vec<(Claim, Fd)>,
    questions: Questions,
    has_questions: bool,
    pump: Pump,
    signals: Fd,
    /// When handles are to be looked at without being told.
    pump_at: Option<Instant>,
    rendezvous: Rendezvous,
    reporter: Reporter,
    started: Instant,
    has_seen_members: bool,
    ticks: Ticks,
}

/// How long to sleep, and whether for frames.
struct Plan {
    packet: [Option<Fd>; 2],
    until: Option<Instant>,
    over: bool,
}

impl Keeper {
    fn new(family: &'static Shared<Open, Core>) -> Self {
        let ending = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].iter().fold(0, |all, s| all | call::signal_bit(*s));
        let signals = call::signalfd(ending, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).unwrap_or(Fd::NONE);
        Self {
            family,
            watches: Watches::default(),
            claims: Vec::new(),
            questions: Questions::new(),
            has_questions: false,
            pump: Pump::new(),
            signals,
            pump_at: None,
            rendezvous: Rendezvous::open(family.open()),
            reporter: Reporter::open(family.open()),
            started: call::now(),
            has_seen_members: false,
            ticks: Ticks::default(),
        }
    }

    fn open(&self) -> &'static Open {
        self.family.open()
    }

    /// Under the lock, as callers enter; `None` when the family is broken.
    fn enter<R>(&self, body: impl FnOnce(&mut Core, Instant) -> R) -> Option<R> {
        let _inside = Inside::new();
        let open = self.open();
        let mut core = self.family.enter(admit).ok()?;
        core.here = core.device.is_some();
        core.roster.own = 1 << KEEPER_BELL;
        core.inside = SlotId::KEEPER;
        let now = call::now();
        let result = body(&mut core, now);
        core.settle(open, now);
        let mut rings = core.take_rings();
        let signals = if core.signals.is_empty() { None } else { Some(core.take_signals()) };
        drop(core);
        if let Some(due) = signals {
            send_signals(due);
        }
        while rings != 0 {
            let index = rings.trailing_zeros();
            rings &= rings - 1;
            if let Some(fd) = open.bell(index) {
                call::eventfd_ring(fd);
            }
        }
        Some(result)
    }

    fn run(&mut self) {
        let _ = self.enter(|core, _| core.roster.phase = Phase::Ticking);
        loop {
            self.take_own_claims();
            self.answer_questions();
            self.serve_handles();
            let Some(plan) = self.plan() else { return wind_up(self.family, &mut self.claims) };
            if plan.over {
                return;
            }
            if !self.sleep(&plan) {
                return;
            }
        }
    }

    /// Decides what to do until the next wake-up.
    fn plan(&mut self) -> Option<Plan> {
        let open = self.open();
        let mut ticks = self.ticks;
        let watches = &self.watches;
        let without_members = watches.tell_nothing();
        let mut unwatched = [None; UNWATCHED];
        let (started, seen) = (self.started, self.has_seen_members);
        let pump_at = self.pump_at.take();
        let mut plan = self.enter(|core, now| {
            core.roster.answer(1 << KEEPER_BELL);
            let waiting_for_first = !seen && now.since(started) < FIRST_MEMBER;
            if without_members && core.roster.phase == Phase::Polling {
                // What arrives may be the last thing waited for, so it comes before the question whether all is over.
                core.pump_as_keeper(open, now);
                core.settle(open, now);
            }
            if without_members && !waiting_for_first {
                core.drop_dead_members(now);
                core.drop_left_overs(now);
                if core.is_over() {
                    core.roster.phase = Phase::Absent;
                    return Plan { packet: [None; 2], until: None, over: true };
                }
                if core.descriptions.len() == 0 && core.member_count() == 0 {
                    core.give_back_blocks();
                }
            }
            if !waiting_for_first && core.member_count() != watches.len() {
                for (place, found) in unwatched.iter_mut().zip(core.members_not(|slot| watches.knows(slot))) {
                    *place = Some(found);
                }
            }
            // With no member left, the timers of what lingers are all there is to wait for.
            let look = match () {
                () if !without_members => None,
                () if waiting_for_first => Some(started + FIRST_MEMBER),
                () => (core.member_count() > 0).then(|| now + WITHOUT_LIFELINE_LOOK),
            };
            core.roster.keeper_looks(&mut ticks);
            let mut plan = match core.roster.phase {
                Phase::Polling => {
                    core.pump_as_keeper(open, now);
                    core.settle(open, now);
                    // Names to be given up, or the end: both come before the sleep.
                    let again =
                        core.registry.has_to_close() || (without_members && !waiting_for_first && core.is_over());
                    let again = (again || core.has_frames()).then_some(now);
                    let until = [again, core.next_timeout(open), look].into_iter().flatten().min();
                    core.roster.watch(until);
                    Plan { packet: core.frame_fds(), until, over: false }
                }
                Phase::Ticking | Phase::Absent => {
                    if ticks.is_alone() {
                        core.pump_as_keeper(open, now);
                        core.settle(open, now);
                    }
                    Plan { packet: [None; 2], until: Some(now + TICK), over: false }
                }
                Phase::Resting => Plan { packet: [None; 2], until: look, over: false },
            };
            // Strangers' sockets that have changed since they were served.
            if !core.handles.due.is_empty() {
                plan.until = Some(now);
            }
            plan
        })?;
        self.ticks = ticks;
        plan.until = [plan.until, pump_at].into_iter().flatten().min();
        for (slot, pid) in unwatched.into_iter().flatten() {
            self.watch_by_pid(slot, pid);
        }
        Some(plan)
    }

    /// A member that no lifeline tells of: a pidfd does, of its exit if not of an exec.
    fn watch_by_pid(&mut self, slot: SlotId, pid: i32) {
        match call::pidfd_open(pid, 0) {
            Err(Errno(libc::ESRCH)) => {
                // Its lifeline may be on the way, if it is a child's.
                self.take_messages(self.open().channel(1).unwrap_or(Fd::NONE));
                self.process_gone(slot, pid);
            }
            found => self.watches.watch_process(slot, pid, found.unwrap_or(Fd::NONE)),
        }
    }

    /// Sleeps as planned and sees to what woke it; false when it is told to end.
    fn sleep(&mut self, plan: &Plan) -> bool {
        let open = self.open();
        let bell = open.bell(KEEPER_BELL).unwrap_or(Fd::NONE);
        let channel = open.channel(1).unwrap_or(Fd::NONE);
        let mut set = Vec::with_capacity(FIRST_LIFELINE + self.watches.len());
        let [packet, siblings] = plan.packet.map(|fd| fd.unwrap_or(Fd::NONE));
        set.extend(
            [self.signals, bell, channel, packet, self.pump.fd(), self.rendezvous.fd(), self.reporter.fd()]
                .map(watched),
        );
        set.extend([self.questions.fd(), siblings].map(watched));
        set.extend(self.watches.fds().map(|(_, fd)| watched(fd)));
        let timeout = plan.until.map(|until| until.since(call::now()));
        let result = call::ppoll(&mut set, timeout, None);
        open.keeper_wakeups.fetch_add(1, Ordering::Relaxed);
        if !result.is_ok_and(|count| count > 0) {
            return true;
        }
        let happened = |place: usize| set.get(place).is_some_and(|fd| fd.revents != 0);
        if happened(SIGNALS) {
            return false;
        }
        if happened(BELL) {
            call::eventfd_drain(bell);
        }
        // A closed device would report for ever; frames are taken in `plan`.
        let _ = happened(PACKET);
        if happened(SIBLINGS) {
            open.call_siblings();
        }
        let members = self.watches.fds().zip(set.get(FIRST_LIFELINE..).unwrap_or(&[]));
        let gone: Vec<WatchId> = members.filter(|(_, fd)| fd.revents != 0).map(|((id, _), _)| id).collect();
        if happened(CHANNEL) {
            self.take_messages(channel);
        }
        if happened(GUESTS) {
            self.rendezvous.serve(open);
        }
        if happened(ASKERS) {
            self.report();
        }
        self.has_questions = happened(QUESTIONS);
        for id in gone {
            match self.watches.told(id) {
                Some(Gone::Member(slot)) => drop(self.enter(|core, now| core.member_gone(slot, now))),
                Some(Gone::Process(slot, pid)) => self.process_gone(slot, pid),
                None => {}
            }
        }
        true
    }

    /// Tells one asker of the family.
    fn report(&self) {
        let Some(guest) = self.reporter.next() else { return };
        let mut text = String::new();
        let _ = self.enter(|core, now| {
            let mut inside = String::new();
            core.describe_in(now, &mut inside);
            report::counter_lines(core.stack.counters(), &mut inside);
            let _private = crate::sys::alloc::leave_arena();
            text.push_str(&inside);
        });
        report::tell(guest, &text);
    }

    fn take_messages(&mut self, channel: Fd) {
        let mut bytes = [0u8; MESSAGE];
        let mut passed = [Fd::NONE; call::MAX_PASSED];
        while let Ok((length, count)) = call::receive_descriptors(channel, &mut bytes, &mut passed, libc::MSG_DONTWAIT)
        {
            if length == 0 && count == 0 {
                return;
            }
            let message = Message::decode(bytes).filter(|_| length == MESSAGE);
            let wanted = if matches!(message, Some(Message::Relay(_))) { 2 } else { 1 };
            let (first, rest) = passed.split_at(count.min(wanted));
            for extra in rest.iter().take(count.saturating_sub(wanted)) {
                let _ = call::close(*extra);
            }
            let Some(fd) = first.first().copied() else { continue };
            match message {
                Some(Message::Relay(server)) => match first.get(1) {
                    Some(connections) => self.pump.take_relay(server, fd, *connections),
                    None => drop(call::close(fd)),
                },
                Some(Message::Join(slot)) => {
                    self.has_seen_members = true;
                    self.watches.join(slot, fd);
                }
                Some(Message::Claim(claim)) => {
                    self.questions.hear(claim, fd);
                    self.claims.push((claim, fd));
                }
                Some(Message::Device(number)) => {
                    let _ = call::dup3(fd, Fd(number), libc::O_CLOEXEC);
                    let _ = call::close(fd);
                }
                Some(Message::Handle(handle)) => {
                    let family = self.family;
                    let _inside = Inside::new();
                    let mut held = family.enter(admit).ok();
                    let _private = crate::sys::alloc::leave_arena();
                    self.pump.take(held.as_deref_mut(), handle, fd);
                }
                None => drop(call::close(fd)),
            }
        }
    }

    /// A process has ended that a slot was said to be: what the slot held is released, unless it is another's by now or
    /// has a lifeline.
    fn process_gone(&self, slot: SlotId, pid: i32) {
        if !self.watches.has_lifeline(slot) {
            let _ = self.enter(|core, now| {
                if core.pid_of(slot) == Some(pid) {
                    core.member_gone(slot, now);
                }
            });
        }
    }

    /// Moves what strangers have written and what has come for them.
    fn serve_handles(&mut self) {
        if self.pump.is_empty() {
            return;
        }
        self.pump.hear();
        let mut pump = std::mem::replace(&mut self.pump, Pump::new());
        let open = self.open();
        self.pump_at = self.enter(|core, now| pump.run(core, open, now)).flatten();
        self.pump = pump;
    }

    /// Tells other families what they ask, after those who have gone have been seen to and their names given up.
    fn answer_questions(&mut self) {
        if !std::mem::take(&mut self.has_questions) {
            return;
        }
        for question in self.questions.take() {
            let port = question.key.port;
            let _ = self.enter(|core, now| core.make_known(port, now));
            question.answer();
        }
    }

    /// Claims that the keeper made itself under the lock, and claims to be given up.
    fn take_own_claims(&mut self) {
        let claims = &mut self.claims;
        let family = self.family;
        let _inside = Inside::new();
        let Ok(mut core) = family.enter(admit) else { return };
        while let Some((claim, fd)) = core.registry.take_over(SlotId::KEEPER) {
            let _private = crate::sys::alloc::leave_arena();
            self.questions.hear(claim, fd);
            claims.push((claim, fd));
        }
        claims.retain(|(claim, fd)| {
            let close = core.registry.may_close(*claim);
            if close {
                let _ = call::close(*fd);
            }
            !close
        });
    }
}

impl Open {
    /// Whether a keeper was left that has died since.
    pub(super) fn has_keeper_died(&self) -> bool {
        if self.keeper_state.load() != 2 {
            return false;
        }
        match self.keeper_line.state() {
            Life::Died => true,
            Life::Alive(_) => false,
            // It has not got as far as to register, or was killed before.
            Life::Free => call::kill(self.keeper_pid.load(Ordering::Relaxed), 0) == Err(Errno(libc::ESRCH)),
        }
    }
}
