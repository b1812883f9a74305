//! Sleeping and waking. A thread that has to wait registers with a doorbell, a descriptor that can stand in ppoll
//! beside the device and the program's own descriptors. The first takes the driver's role: it waits for frames and
//! timers too, and feeds them in; the others wait for their doorbell only. A driver that leaves rings a successor, or
//! the keeper. No signal is lost: all are blocked from the look at `interrupted` to the sleep, which has the caller's
//! mask.

use super::member::SlotId;
use super::roster::BELLS;
use super::{Broken, Core, DescriptionId, Runtime, SetId, WaitEnd};
use crate::sys::shared::kernel_mask;
use crate::sys::{Errno, Fd, call};
use remora_stack::socket::protocol::{Readiness, SocketId};
use remora_stack::stack::Stack;
use remora_stack::time::Instant;
use smallvec::SmallVec;
use std::cell::Cell;
use std::time::Duration;

/// How long those sleep who found no doorbell.
const SLICE: Duration = Duration::from_millis(1);

/// When to look whether the driver is still alive, where no keeper does.
const LOOK_AFTER_DRIVER: Duration = Duration::from_millis(500);

/// How long a driver looks for frames before it sleeps: about what a wake-up from a halted processor costs, on virtual
/// machines too, so that spinning at most doubles what it is to save.
const SPIN: Duration = Duration::from_micros(50);

/// Spins that paid are remembered up to this many; above zero spinning is done.
const SPIN_CREDIT: i32 = 4;

/// Short sleeps between two trials of spinning, doubled each time that a trial was in vain: where both ends share a
/// processor, spinning keeps the other from answering, and only a trial can tell.
const SPIN_PAUSE: (i32, i32) = (16, 4096);

/// What to wait for.
pub struct WaitSpec<'a> {
    /// Descriptions with the events asked for.
    pub descriptions: &'a [(DescriptionId, Readiness)],
    /// Epoll sets.
    pub sets: &'a [SetId],
    /// When to give up; `None`: never.
    pub deadline: Option<Instant>,
    /// Whether the events of the program's descriptors are to be filled in; else the caller asks for them afterwards.
    pub fills_in: bool,
    /// The signal mask while waiting, as ppoll's.
    pub sigmask: Option<&'a libc::sigset_t>,
    /// Whether a signal handler has run in this thread since the call began.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for WaitSpec<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WaitSpec")
            .field("descriptions", &self.descriptions)
            .field("sets", &self.sets)
            .field("deadline", &self.deadline)
            .field("fills_in", &self.fills_in)
            .finish_non_exhaustive()
    }
}

/// The core as a waiter sees it, under the lock.
#[derive(Debug)]
pub struct View<'a> {
    core: &'a mut Core,
}

impl<'a> View<'a> {
    pub(super) const fn of(core: &'a mut Core) -> Self {
        Self { core }
    }

    /// Whether the description is still there.
    #[must_use]
    pub fn exists(&self, id: DescriptionId) -> bool {
        self.core.descriptions.find(id).is_some()
    }

    /// The poll mask of a description.
    #[must_use]
    pub fn readiness(&self, id: DescriptionId) -> Readiness {
        self.core.readiness(id)
    }

    /// Whether a set has something to report.
    pub fn set_is_ready(&mut self, set: SetId) -> bool {
        self.core.set_is_ready(set)
    }

    /// As [`Runtime::set_collect`].
    pub fn set_collect(&mut self, set: SetId, out: &mut [super::ReadyEvent]) -> usize {
        self.core.set_collect(set, out)
    }
}

thread_local! {
    /// The bells that this thread's waits have. A wait whose bit is gone has been taken for abandoned: a signal handler
    /// that interrupted it made a call of its own, or left by siglongjmp. Const and without Drop.
    static BELLS_HELD: Cell<u64> = const { Cell::new(0) };
}

impl Core {
    /// Adds a sleeper's bell at what it waits for.
    fn enlist(&mut self, bell: u32, descriptions: &[(DescriptionId, Readiness)], sets: &[SetId]) {
        for (id, _) in descriptions {
            if let Some(description) = self.descriptions.find_mut(*id) {
                description.waiters |= 1 << bell;
            }
        }
        for id in sets {
            if let Some(set) = self.sets.find_mut(*id) {
                set.waiters |= 1 << bell;
                set.told &= !(1 << bell);
            }
        }
    }

    /// The reverse. What was closed meanwhile ends with the last who waits for it.
    fn delist(&mut self, now: Instant, bell: u32, descriptions: &[(DescriptionId, Readiness)], sets: &[SetId]) {
        let bit = 1u64 << bell;
        for (id, _) in descriptions {
            if let Some(description) = self.descriptions.find_mut(*id) {
                description.waiters &= !bit;
            }
            self.end_unless_awaited(now, *id);
        }
        for id in sets {
            if let Some(set) = self.sets.find_mut(*id) {
                set.waiters &= !bit;
                set.told &= !bit;
            }
        }
    }

    /// A sleeper is about to look at its sets: the next event is news to it.
    fn looked_at(&mut self, sets: &[SetId], own: u64) {
        for id in sets {
            if let Some(set) = self.sets.find_mut(*id) {
                set.told &= !own;
            }
        }
    }

    /// A process has died: its threads sleep no more.
    pub(super) fn forget_sleepers_of(&mut self, now: Instant, slot: SlotId) {
        let dead = self.roster.bells_of(slot);
        if dead != 0 {
            self.forget_bells(now, dead);
        }
    }

    /// Those who had these bells wait for nothing any more.
    fn forget_bells(&mut self, now: Instant, dead: u64) {
        for id in self.descriptions.names() {
            if let Some(description) = self.descriptions.find_mut(id).filter(|it| it.waiters & dead != 0) {
                description.waiters &= !dead;
                self.end_unless_awaited(now, id);
            }
        }
        for set in self.sets.values_mut() {
            set.waiters &= !dead;
        }
        for bell in (0..BELLS as u32).filter(|bell| dead & 1 << bell != 0) {
            self.roster.give_bell_back(bell);
        }
    }

    /// Where no keeper watches the members: forgets a driver whose process is gone.
    fn look_after_driver(&mut self, now: Instant) {
        let Some(sleeper) = self.roster.driver().and_then(|driver| self.roster.sleeper(driver)) else { return };
        let Some(member) = self.members.get(sleeper.slot.index as usize) else { return };
        if member.pid() > 0 && call::kill(member.pid(), 0) == Err(Errno(libc::ESRCH)) {
            self.drop_member(now, sleeper.slot);
        }
    }
}

/// How well spinning has paid lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SpinHistory {
    /// Above zero: spin. Below: short sleeps until the next trial.
    credit: i32,
    /// The pause after the next trial in vain.
    pause: i32,
}

impl SpinHistory {
    const fn pays(self) -> bool {
        self.credit > 0
    }

    /// What a spin has brought.
    fn spun(&mut self, paid: bool) {
        let (shortest, longest) = SPIN_PAUSE;
        if paid {
            self.credit = (self.credit + 1).min(SPIN_CREDIT);
            self.pause = shortest;
            return;
        }
        self.credit -= 2;
        if !self.pays() {
            let pause = self.pause.max(shortest);
            self.credit = -pause;
            self.pause = (pause * 2).min(longest);
        }
    }

    /// A sleep without a spin before it that was over so soon that a spin might have done.
    const fn slept_shortly(&mut self) {
        if !self.pays() {
            self.credit += 1;
        }
    }
}

/// What the look under the lock decided.
enum Step {
    Ready,
    TimedOut,
    Spin,
    Sleep { packet: [Option<Fd>; 2], until: Option<Instant> },
}

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Interrupted,
    /// Something happened: look.
    Look,
    /// One of the program's descriptors has events.
    Kernel,
}

/// One thread's wait, from its first look to its end.
struct Waiting<'a> {
    runtime: &'a Runtime,
    descriptions: &'a [(DescriptionId, Readiness)],
    sets: &'a [SetId],
    deadline: Option<Instant>,
    mask: Option<u64>,
    fills_in: bool,
    interrupted: &'a dyn Fn() -> bool,
    bell: Option<u32>,
    spin_until: Option<Instant>,
    /// Has spun in vain.
    spun: bool,
    slept_at: Option<Instant>,
}

impl Waiting<'_> {
    fn own(&self) -> u64 {
        self.bell.map_or(0, |bell| 1 << bell)
    }

    fn run(
        &mut self,
        kernel: &mut [libc::pollfd],
        look: &mut dyn FnMut(&mut Core, Instant) -> bool,
    ) -> Result<(), WaitEnd> {
        let mut kernel_ready = false;
        loop {
            self.runtime.look_for_device();
            let step = self.look(kernel_ready, look);
            match step {
                Err(Broken) => {
                    BELLS_HELD.set(BELLS_HELD.get() & !self.own());
                    return Err(WaitEnd::Broken);
                }
                Ok(Step::Ready) => {
                    if self.fills_in {
                        poll_now(kernel);
                    }
                    return Ok(());
                }
                Ok(Step::TimedOut) => {
                    // A deadline of now still looks once at the program's descriptors.
                    return if self.fills_in && poll_now(kernel) { Ok(()) } else { Err(WaitEnd::TimedOut) };
                }
                Ok(Step::Spin) => {
                    if (self.interrupted)() {
                        return self.leave(WaitEnd::Interrupted);
                    }
                    kernel_ready = poll_now(kernel);
                    std::hint::spin_loop();
                }
                Ok(Step::Sleep { packet, until }) => match self.sleep(packet, until, kernel) {
                    Woken::Interrupted => return self.leave(WaitEnd::Interrupted),
                    Woken::Look => {}
                    Woken::Kernel => kernel_ready = true,
                },
            }
        }
    }

    /// Forgets a bell that was given back in this wait's place.
    fn check_bell(&mut self) {
        if self.own() & !BELLS_HELD.get() != 0 {
            self.bell = None;
        }
    }

    /// Gives up: another drives.
    fn leave(&mut self, end: WaitEnd) -> Result<(), WaitEnd> {
        self.check_bell();
        let own = self.own();
        let Self { runtime, descriptions, sets, bell, .. } = self;
        if let Some(bell) = bell.take() {
            let _ = runtime.enter_as(own, |core, now| {
                // A handler may have run on the way in.
                if BELLS_HELD.get() & own != 0 {
                    core.delist(now, bell, descriptions, sets);
                    core.roster.give_bell_back(bell);
                    BELLS_HELD.set(BELLS_HELD.get() & !own);
                }
            });
        }
        Err(end)
    }

    fn look(&mut self, kernel_ready: bool, look: &mut dyn FnMut(&mut Core, Instant) -> bool) -> Result<Step, Broken> {
        let runtime = self.runtime;
        runtime.enter_as(self.own(), |core, now| {
            self.check_bell();
            core.roster.own = self.own();
            core.roster.answer(self.own());
            core.looked_at(self.sets, self.own());
            let mut ready = look(core, now);
            if !ready && core.pump(runtime.family.open(), now) {
                ready = look(core, now);
            }
            if ready || kernel_ready || self.deadline.is_some_and(|deadline| deadline <= now) {
                self.note_spin(core, now, ready);
                BELLS_HELD.set(BELLS_HELD.get() & !self.own());
                if let Some(bell) = self.bell.take() {
                    core.delist(now, bell, self.descriptions, self.sets);
                    core.roster.own = 0;
                    core.roster.give_bell_back(bell);
                }
                return if ready || kernel_ready { Step::Ready } else { Step::TimedOut };
            }
            if self.bell.is_none() {
                let interest = self.descriptions.iter().fold(Readiness::empty(), |all, (_, one)| all | *one);
                let interest = if self.sets.is_empty() { interest } else { Readiness::empty() };
                self.bell = core.roster.take_bell(runtime.slot(), interest);
                core.roster.own = self.own();
                BELLS_HELD.set(BELLS_HELD.get() | self.own());
                match self.bell {
                    Some(bell) => core.enlist(bell, self.descriptions, self.sets),
                    None => core.statistics.without_bell += 1,
                }
            }
            let step = self.decide(core, now);
            if matches!(step, Step::Sleep { .. }) {
                self.looks_no_more(core);
            }
            step
        })
    }

    /// What sending brings about, by way of a packet to ourselves or of a send buffer that grows, comes after the last
    /// look: it must ring us, too.
    fn looks_no_more(&self, core: &mut Core) {
        core.roster.own = 0;
        core.looked_at(self.sets, self.own());
    }

    /// Spin, drive or wait for the doorbell.
    fn decide(&mut self, core: &mut Core, now: Instant) -> Step {
        let until = |other: Option<Instant>| match (self.deadline, other) {
            (Some(deadline), Some(other)) => Some(deadline.min(other)),
            (deadline, other) => deadline.or(other),
        };
        let Some(bell) = self.bell else {
            return Step::Sleep { packet: [None; 2], until: until(Some(now + SLICE)) };
        };
        let able = core.here || core.device.is_none();
        if !core.roster.try_to_drive(bell, able) {
            if self.runtime.family.open().keeper_generation() != 0 {
                return Step::Sleep { packet: [None; 2], until: until(None) };
            }
            core.look_after_driver(now);
            if !core.roster.try_to_drive(bell, able) {
                return Step::Sleep { packet: [None; 2], until: until(Some(now + LOOK_AFTER_DRIVER)) };
            }
        }
        if core.may_spin && core.spin.pays() && core.device_fd().is_some() {
            match self.spin_until {
                None => {
                    self.spin_until = Some(now + SPIN);
                    return Step::Spin;
                }
                Some(end) if now < end => return Step::Spin,
                Some(_) => {
                    core.spin.spun(false);
                    self.spun = true;
                }
            }
        }
        self.spin_until = None;
        self.slept_at = Some(now);
        self.looks_no_more(core);
        core.settle(self.runtime.family.open(), now);
        let lost = self.runtime.look_for_device_at(now);
        let again = core.has_frames().then_some(now);
        let until = until([core.next_timeout(self.runtime.family.open()), lost, again].into_iter().flatten().min());
        core.roster.watch(until);
        core.statistics.sleeps += 1;
        Step::Sleep { packet: core.frame_fds(), until }
    }

    /// Remembers whether spinning pays: it did when the wait ends during a spin.
    fn note_spin(&mut self, core: &mut Core, now: Instant, ready: bool) {
        if !ready || !core.may_spin || self.bell.is_none() {
            return;
        }
        if self.spin_until.is_some() {
            core.spin.spun(true);
        } else if !self.spun && self.slept_at.is_some_and(|at| now.since(at) < SPIN * 2) {
            core.spin.slept_shortly();
        }
    }

    /// Sleeps until a doorbell, a frame, one of the program's descriptors, a signal or the time given.
    fn sleep(&self, packet: [Option<Fd>; 2], until: Option<Instant>, kernel: &mut [libc::pollfd]) -> Woken {
        let open = self.runtime.family.open();
        let here = self.runtime.family_fds.load() != 0;
        let bell = self.bell.and_then(|bell| open.bell(bell)).filter(|_| here);
        let [device, siblings] = packet;
        let own = [bell, device, siblings];
        let mut set: SmallVec<[libc::pollfd; 32]> = SmallVec::with_capacity(own.len() + kernel.len());
        for fd in own {
            set.push(libc::pollfd { fd: fd.unwrap_or(Fd::NONE).raw(), events: libc::POLLIN, revents: 0 });
        }
        set.extend_from_slice(kernel);
        let Ok(old) = call::signal_mask(libc::SIG_SETMASK, call::ALL_SIGNALS) else { return Woken::Look };
        if (self.interrupted)() {
            let _ = call::signal_mask(libc::SIG_SETMASK, old);
            return Woken::Interrupted;
        }
        let timeout = until.map(|until| until.since(call::now()));
        let result = call::ppoll(&mut set, timeout, Some(&self.mask.unwrap_or(old)));
        let _ = call::signal_mask(libc::SIG_SETMASK, old);
        if (self.interrupted)() {
            return Woken::Interrupted;
        }
        if result.is_err() {
            return Woken::Look;
        }
        if let Some(bell) = bell
            && set.first().is_some_and(|fd| fd.revents != 0)
        {
            call::eventfd_drain(bell);
        }
        if set.get(2).is_some_and(|fd| fd.revents != 0) {
            open.call_siblings();
        }
        let theirs = set.get(own.len()..).unwrap_or(&[]);
        let mut ready = false;
        for (place, fd) in kernel.iter_mut().zip(theirs) {
            place.revents = fd.revents;
            ready |= fd.revents != 0;
        }
        if ready { Woken::Kernel } else { Woken::Look }
    }
}

/// Fills in what the program's descriptors have now; says whether any has something.
fn poll_now(kernel: &mut [libc::pollfd]) -> bool {
    !kernel.is_empty() && call::ppoll(kernel, Some(Duration::ZERO), None).is_ok_and(|count| count > 0)
}

impl Runtime {
    /// Gives up whatever waits of this thread a signal handler has interrupted: it may never come back to them
    /// (siglongjmp). A wait that does go on finds out and begins anew.
    pub fn abandon_waits(&self) {
        let held = BELLS_HELD.replace(0);
        if held == 0 {
            return;
        }
        let _ = self.enter(|core, now| core.forget_bells(now, held));
    }

    /// Has all sleeping threads of this process look whether they are interrupted.
    pub fn wake_sleepers(&self) {
        let slot = self.slot();
        let _ = self.enter(|core, _| {
            let bells = core.roster.bells_of(slot);
            core.roster.ring(bells);
        });
    }

    fn waiting<'a>(
        &'a self,
        descriptions: &'a [(DescriptionId, Readiness)],
        sets: &'a [SetId],
        deadline: Option<Instant>,
        interrupted: &'a dyn Fn() -> bool,
    ) -> Waiting<'a> {
        self.prepare();
        self.join_keeper();
        Waiting {
            runtime: self,
            descriptions,
            sets,
            deadline,
            mask: None,
            fills_in: true,
            interrupted,
            bell: None,
            spin_until: None,
            spun: false,
            slept_at: None,
        }
    }

    /// Runs `body` until it gives something, sleeping between: the calling thread drives, or waits for its doorbell when
    /// another drives. `interest` is what it waits for. What `body` returns must not own memory.
    ///
    /// # Errors
    /// As [`WaitEnd`]; `Broken` also when the description is gone.
    pub fn block_on<R>(
        &self,
        id: DescriptionId,
        interest: Readiness,
        deadline: Option<Instant>,
        interrupted: &dyn Fn() -> bool,
        mut body: impl FnMut(&mut Stack, SocketId, Instant) -> Option<R>,
    ) -> Result<R, WaitEnd> {
        let mut result = None;
        let mut gone = false;
        let mut look = |core: &mut Core, now: Instant| {
            match core.socket_of(id) {
                Some(socket) => result = body(&mut core.stack, socket, now),
                None => gone = true,
            }
            gone || result.is_some()
        };
        let descriptions = [(id, interest)];
        self.waiting(&descriptions, &[], deadline, interrupted).run(&mut [], &mut look)?;
        result.ok_or(WaitEnd::Broken)
    }

    /// Sleeps until `ready` says so, a descriptor of `kernel` has events, the deadline passes or a signal comes. `ready`
    /// runs under the lock, at least once, and last of all when the wait succeeds; the events of `kernel` are filled in.
    ///
    /// # Errors
    /// As [`WaitEnd`].
    pub fn wait(
        &self,
        spec: &WaitSpec<'_>,
        kernel: &mut [libc::pollfd],
        ready: &mut dyn FnMut(&mut View<'_>) -> bool,
    ) -> Result<(), WaitEnd> {
        let mut look = |core: &mut Core, _: Instant| ready(&mut View::of(core));
        let mut waiting = self.waiting(spec.descriptions, spec.sets, spec.deadline, spec.interrupted);
        waiting.mask = spec.sigmask.map(kernel_mask);
        waiting.fills_in = spec.fills_in;
        waiting.run(kernel, &mut look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_in_vain_is_tried_again_less_and_less_often() {
        let mut history = SpinHistory::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let mut sleeps = 0;
            while !history.pays() {
                history.slept_shortly();
                sleeps += 1;
            }
            pauses.push(sleeps);
            history.spun(false);
        }
        assert_eq!(pauses, [1, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097]);
        while !history.pays() {
            history.slept_shortly();
        }
        for _ in 0..10 {
            history.spun(true);
        }
        // One late frame ends nothing, and two the spinning, for the shortest pause.
        history.spun(false);
        assert!(history.pays());
        history.spun(false);
        assert_eq!(history, SpinHistory { credit: -16, pause: 32 });
    }
}
