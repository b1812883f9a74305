//! The hand-over of the device and the doorbells under loom: the family's own `Roster`, and the steps of a waiting
//! thread (`wait::Waiting::{run, look, decide, sleep, leave}`) and of the keeper (`keeper::Keeper::{plan, sleep}`) around
//! it, with the kernel as frames in a queue, eventfds and a ppoll without timeouts: whoever sleeps too long sleeps for
//! good, which loom calls a deadlock. A keeper's tick is a step that others may come before.
//!
//! What is to be shown: each frame comes to the thread that waits for it, whoever is asleep, leaves, or is killed.

use super::super::keeper::Phase;
use super::super::member::SlotId;
use super::super::roster::{KEEPER_BELL, Roster, Ticks};
use crate::sys::testing::fails;
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use remora_stack::socket::protocol::Readiness;
use std::cell::Cell;

/// What is wrong with the steps around the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A bell is heard only by one who sleeps already.
    BellForgets,
    /// A bell is silenced after the look instead of before.
    SilencedTooLate,
    /// A driver that leaves rings no successor.
    NoSuccessor,
    /// A thread that looks does not answer: it is taken for rung from then on.
    NeverAnswered,
    /// Nobody rings again what a killed process had noted as rung.
    RingsDieToo,
    /// A keeper sleeps although callers come and go.
    KeeperOversleeps,
}

std::thread_local! {
    /// loom runs all threads of a model in one.
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

fn is(fault: Fault) -> bool {
    FAULT.get() == fault
}

/// Doorbells of two threads, and the keeper's.
const BELLS: usize = 3;
const KEEPER: usize = 2;

/// Frames that have arrived, by whom they are for, and the counts of the eventfds.
#[derive(Default)]
struct Kernel {
    frames: Vec<usize>,
    bells: [u32; BELLS],
    asleep: [bool; BELLS],
}

/// What the family shares.
struct Core {
    roster: Roster,
    /// What has come for each thread.
    got: [u32; BELLS],
    /// The bell of each thread that waits (`Description::waiters`).
    waiters: [Option<u32>; BELLS],
}

impl Core {
    /// `driver::Core::pump` and `pump_as_keeper`: frames are fed in, and those who wait are rung on leaving.
    fn take_in(&mut self, kernel: &Mutex<Kernel>) {
        let frames = std::mem::take(&mut guard(kernel).frames);
        for thread in frames {
            self.got[thread] += 1;
            if let Some(bell) = self.waiters[thread] {
                self.roster.ring(1 << bell);
            }
        }
    }

    fn leave(&mut self, thread: usize, bell: u32) {
        self.waiters[thread] = None;
        self.roster.give_bell_back(bell);
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics inside")
}

fn place_of(bell: u32) -> usize {
    if bell == KEEPER_BELL { KEEPER } else { bell as usize }
}

struct Family {
    core: Mutex<Core>,
    kernel: Mutex<Kernel>,
    changed: Condvar,
}

impl Family {
    fn new(phase: Phase) -> Arc<Self> {
        let mut roster = Roster::new();
        roster.set_bells(0b11);
        roster.phase = phase;
        let core = Mutex::new(Core { roster, got: [0; BELLS], waiters: [None; BELLS] });
        Arc::new(Self { core, kernel: Mutex::new(Kernel::default()), changed: Condvar::new() })
    }

    /// `Runtime::enter_as` up to the end of the lock; what is to be rung.
    fn inside<R>(&self, own: u64, body: impl FnOnce(&mut Core) -> R) -> (R, u64) {
        let mut core = guard(&self.core);
        core.roster.own = own;
        let result = body(&mut core);
        (result, core.roster.take_rings())
    }

    fn enter<R>(&self, own: u64, body: impl FnOnce(&mut Core) -> R) -> R {
        let (result, mut rings) = self.inside(own, body);
        while rings != 0 {
            self.ring(place_of(rings.trailing_zeros()));
            rings &= rings - 1;
        }
        result
    }

    fn ring(&self, place: usize) {
        let mut kernel = guard(&self.kernel);
        if kernel.asleep[place] || !is(Fault::BellForgets) {
            kernel.bells[place] += 1;
            self.changed.notify_all();
        }
    }

    fn arrives(&self, thread: usize) {
        guard(&self.kernel).frames.push(thread);
        self.changed.notify_all();
    }

    /// ppoll on a doorbell and, for who watches, the device; then the doorbell is silent again.
    fn sleep(&self, place: usize, packet: bool) {
        let mut kernel = guard(&self.kernel);
        kernel.asleep[place] = true;
        while kernel.bells[place] == 0 && (!packet || kernel.frames.is_empty()) {
            kernel = self.changed.wait(kernel).expect("nobody panics inside");
        }
        kernel.asleep[place] = false;
        if !is(Fault::SilencedTooLate) {
            kernel.bells[place] = 0;
        }
    }

    /// A thread's wait for `need` frames.
    fn wait(&self, thread: usize, need: u32) {
        let slot = SlotId::NONE;
        let mut bell: Option<u32> = None;
        loop {
            let own = bell.map_or(0, |bell| 1 << bell);
            let mut leaves = false;
            let look = |core: &mut Core| {
                if !is(Fault::NeverAnswered) {
                    core.roster.answer(own);
                }
                if core.got[thread] < need {
                    core.roster.note_pass();
                    core.take_in(&self.kernel);
                }
                if core.got[thread] >= need {
                    core.roster.own = 0;
                    if let Some(bell) = bell {
                        core.leave(thread, bell);
                    }
                    leaves = true;
                    return None;
                }
                let bell = *bell.get_or_insert_with(|| {
                    let bell = core.roster.take_bell(slot, Readiness::IN).expect("there are as many as threads");
                    core.waiters[thread] = Some(bell);
                    bell
                });
                let drives = core.roster.try_to_drive(bell, true);
                core.roster.own = 0;
                Some((bell, drives))
            };
            let (step, rings) = self.inside(own, look);
            let mut rings = if leaves && is(Fault::NoSuccessor) { 0 } else { rings };
            while rings != 0 {
                self.ring(place_of(rings.trailing_zeros()));
                rings &= rings - 1;
            }
            let Some((bell, drives)) = step else { return };
            if is(Fault::SilencedTooLate) {
                guard(&self.kernel).bells[bell as usize] = 0;
            }
            self.sleep(bell as usize, drives);
        }
    }

    /// The keeper, until a frame has come that nobody else was there for.
    fn keep(&self) {
        let mut ticks = Ticks::default();
        loop {
            let plan = |core: &mut Core| {
                core.roster.answer(1 << KEEPER_BELL);
                core.roster.keeper_looks(&mut ticks);
                if core.roster.phase == Phase::Polling {
                    core.take_in(&self.kernel);
                }
                (core.roster.phase, core.got[KEEPER] > 0)
            };
            match self.enter(1 << KEEPER_BELL, plan) {
                (_, true) => return,
                (Phase::Polling, _) => self.sleep(KEEPER, true),
                (Phase::Resting, _) => self.sleep(KEEPER, false),
                (Phase::Ticking | Phase::Absent, _) if is(Fault::KeeperOversleeps) => self.sleep(KEEPER, false),
                (Phase::Ticking | Phase::Absent, _) => thread::yield_now(),
            }
        }
    }
}

fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn in_thread(family: &Arc<Family>, body: impl FnOnce(&Family) + 'static) -> thread::JoinHandle<()> {
    let family = Arc::clone(family);
    thread::spawn(move || body(&family))
}

/// Two threads wait, one for two frames; whoever drives leaves the device to the other.
fn two_wait(fault: Fault) {
    FAULT.set(fault);
    explore(3, || {
        let family = Family::new(Phase::Absent);
        let threads = [in_thread(&family, |family| family.wait(0, 2)), in_thread(&family, |family| family.wait(1, 1))];
        for frame in [0, 1, 0] {
            family.arrives(frame);
        }
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_eq!(guard(&family.core).got, [2, 1, 0]);
        assert_eq!(guard(&family.core).roster.driver(), None);
    });
}

/// A thread waits and leaves; what comes then is the keeper's, in whatever it is doing.
fn caller_comes_and_goes(fault: Fault, phase: Phase) {
    FAULT.set(fault);
    explore(3, move || {
        let family = Family::new(phase);
        let threads = [in_thread(&family, |family| family.wait(0, 1)), in_thread(&family, Family::keep)];
        family.arrives(0);
        family.arrives(KEEPER);
        for thread in threads {
            thread.join().expect("it ends");
        }
    });
}

/// A process is killed between leaving the core and ringing the sleeper whose frame it has taken in.
fn ringer_is_killed(fault: Fault) {
    FAULT.set(fault);
    explore(3, || {
        let family = Family::new(Phase::Absent);
        let sleeper = in_thread(&family, |family| family.wait(0, 1));
        let killed = in_thread(&family, |family| {
            let ((), _never_rung) = family.inside(0, |core| {
                core.roster.note_pass();
                core.take_in(&family.kernel);
            });
        });
        family.arrives(0);
        killed.join().expect("it ends");
        // `member::Core::drop_member`.
        family.enter(0, |core| {
            if !is(Fault::RingsDieToo) {
                core.roster.ring_again();
            }
        });
        sleeper.join().expect("it ends");
    });
}

/// The driver is killed in its sleep: another takes over.
fn driver_is_killed(fault: Fault) {
    FAULT.set(fault);
    explore(3, || {
        let family = Family::new(Phase::Absent);
        // As it stands when the process of the first thread has gone.
        let dead = family.enter(0, |core| {
            let bell = core.roster.take_bell(SlotId::KEEPER, Readiness::IN).expect("one is free");
            assert!(core.roster.try_to_drive(bell, true));
            bell
        });
        let sleeper = in_thread(&family, |family| family.wait(1, 1));
        // `wait::Core::forget_sleepers_of`.
        let (bells, rings) = family.inside(0, |core| {
            let bells = core.roster.bells_of(SlotId::KEEPER);
            core.roster.give_bell_back(dead);
            bells
        });
        assert_eq!(bells, 1 << dead);
        if rings != 0 && !is(Fault::NoSuccessor) {
            family.ring(place_of(rings.trailing_zeros()));
        }
        family.arrives(1);
        sleeper.join().expect("it ends");
    });
}

#[test]
fn each_frame_comes_to_the_thread_that_waits_for_it() {
    two_wait(Fault::None);
}

#[test]
fn keeper_takes_over_from_the_last_caller_whatever_it_is_doing() {
    for phase in [Phase::Polling, Phase::Ticking, Phase::Resting] {
        caller_comes_and_goes(Fault::None, phase);
    }
}

#[test]
fn death_of_a_ringer_or_of_the_driver_leaves_nobody_asleep() {
    ringer_is_killed(Fault::None);
    driver_is_killed(Fault::None);
}

#[test]
fn model_finds_bells_that_forget() {
    assert!(fails(|| two_wait(Fault::BellForgets)));
}

#[test]
fn model_finds_bells_that_are_silenced_after_the_look() {
    assert!(fails(|| two_wait(Fault::SilencedTooLate)));
}

#[test]
fn model_finds_a_driver_without_a_successor() {
    assert!(fails(|| two_wait(Fault::NoSuccessor)));
    assert!(fails(|| driver_is_killed(Fault::NoSuccessor)));
}

#[test]
fn model_finds_sleepers_that_never_answer() {
    assert!(fails(|| two_wait(Fault::NeverAnswered)));
}

#[test]
fn model_finds_rings_that_die_with_the_ringer() {
    assert!(fails(|| ringer_is_killed(Fault::RingsDieToo)));
}

#[test]
fn model_finds_a_keeper_that_oversleeps() {
    assert!(fails(|| caller_comes_and_goes(Fault::KeeperOversleeps, Phase::Ticking)));
}
