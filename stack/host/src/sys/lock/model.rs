//! The robust lock under loom: `robust.rs` compiled once more, with atomics whose every order of steps and every value
//! that the memory model allows is tried (up to three preemptions), a futex, and a kernel that does for a dead thread
//! what `exit_robust_list` and `handle_futex_death` do (kernel/futex/core.c). A thread can be killed before each of its
//! steps. The futex never times out by itself: what would only go on by `LOOK_AGAIN` shows as a deadlock.
//!
//! That the model can fail is shown by faults planted in what the lock is made of.

#[path = "robust.rs"]
#[expect(clippy::duplicate_mod, reason = "it is to be run with what the model gives it")]
mod robust;

use crate::sys::testing::fails;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use robust::{Acquired, OWNER_DIED, RobustHead, RobustLock, TID_MASK, WAITERS};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What is wrong with the lock's surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Letting go does not publish what was done inside.
    ReleaseIsRelaxed,
    /// A sleeper that takes the lock forgets that others sleep.
    WaitersForgotten,
    /// The mark of a dead holder is not seen.
    DeathUnseen,
    /// Nobody is woken for one who was killed between letting go and waking.
    NoWakeForTheDead,
    /// The word is looked at and then slept on in two steps.
    FutexInTwoSteps,
}

std::thread_local! {
    /// loom runs all threads of a model in one.
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
    /// Whether anybody was killed in any order of steps.
    static KILLED: Cell<bool> = const { Cell::new(false) };
}

loom::thread_local! {
    /// Steps that the thread has left to live.
    static LIFE: Cell<Option<u32>> = Cell::new(None);
}

/// A thread ends like this when it is killed.
struct Killed;

/// One step of a thread: it may be killed instead.
fn step() {
    LIFE.with(|life| match life.get() {
        Some(0) => {
            KILLED.set(true);
            resume_unwind(Box::new(Killed));
        }
        Some(left) => life.set(Some(left - 1)),
        None => {}
    });
}

/// What the lock is made of.
mod sync {
    use super::{BUCKET, FAULT, Fault, TID_MASK, WAITERS, step};
    pub(super) use std::sync::atomic::Ordering;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(super) struct AtomicU32(pub(super) loom::sync::atomic::AtomicU32);

    impl AtomicU32 {
        pub(super) fn load(&self, order: Ordering) -> u32 {
            step();
            self.0.load(order)
        }

        pub(super) fn compare_exchange(&self, old: u32, new: u32, ok: Ordering, bad: Ordering) -> Result<u32, u32> {
            step();
            let takes = old & TID_MASK == 0;
            let forgets = takes && FAULT.get() == Fault::WaitersForgotten;
            self.0.compare_exchange(old, if forgets { new & !WAITERS } else { new }, ok, bad)
        }

        pub(super) fn swap(&self, new: u32, order: Ordering) -> u32 {
            step();
            let order = if FAULT.get() == Fault::ReleaseIsRelaxed { Ordering::Relaxed } else { order };
            self.0.swap(new, order)
        }
    }

    #[derive(Debug, Default)]
    pub(super) struct AtomicUsize(loom::sync::atomic::AtomicUsize);

    impl AtomicUsize {
        pub(super) fn load(&self, order: Ordering) -> usize {
            step();
            self.0.load(order)
        }

        pub(super) fn store(&self, new: usize, order: Ordering) {
            step();
            self.0.store(new, order);
        }
    }

    /// Holds for the thread's own end only, which comes between two steps here.
    pub(super) fn compiler_fence(_: Ordering) {}

    pub(super) fn may_spin(_: u32) -> bool {
        false
    }

    pub(super) fn spin() {}

    pub(super) fn futex_wait(word: &AtomicU32, expected: u32, _: Duration) {
        step();
        BUCKET.wait(word, expected);
        step();
    }

    pub(super) fn futex_wake(_: &AtomicU32) {
        step();
        BUCKET.wake();
    }
}

/// The kernel's list of those who sleep on the word, in order.
#[derive(Default)]
struct Bucket {
    asleep: Mutex<(u32, Vec<u32>)>,
    changed: Condvar,
}

loom::lazy_static! {
    static ref BUCKET: Bucket = Bucket::default();
}

impl Bucket {
    fn wait(&self, word: &sync::AtomicU32, expected: u32) {
        let differs = || word.0.load(sync::Ordering::Relaxed) != expected;
        if FAULT.get() == Fault::FutexInTwoSteps && differs() {
            return;
        }
        let mut asleep = self.asleep.lock().expect("nobody panics inside");
        if FAULT.get() != Fault::FutexInTwoSteps && differs() {
            return;
        }
        let own = asleep.0;
        asleep.0 += 1;
        asleep.1.push(own);
        while asleep.1.contains(&own) {
            asleep = self.changed.wait(asleep).expect("nobody panics inside");
        }
    }

    fn wake(&self) {
        let mut asleep = self.asleep.lock().expect("nobody panics inside");
        if !asleep.1.is_empty() {
            asleep.1.remove(0);
            self.changed.notify_all();
        }
    }

    /// Everybody's patience is at its end.
    fn time_passes(&self) {
        self.asleep.lock().expect("nobody panics inside").1.clear();
        self.changed.notify_all();
    }
}

/// What the lock guards: two numbers that are the same whenever nobody is inside.
struct Guarded {
    lock: RobustLock,
    pair: UnsafeCell<[u32; 2]>,
    /// Times that a taker was told of a death.
    told: loom::sync::atomic::AtomicU32,
}

impl Guarded {
    fn new() -> Arc<Self> {
        let (lock, pair) = (RobustLock::default(), UnsafeCell::new([0; 2]));
        Arc::new(Self { lock, pair, told: loom::sync::atomic::AtomicU32::new(0) })
    }

    /// One visit of a thread, which changes both numbers.
    fn visit(&self, tid: u32, head: &RobustHead) {
        let taken = self.lock.acquire(tid, head, true).expect("it waits");
        self.pair.with_mut(|pair| {
            // SAFETY: loom checks that nobody else is at it; that it finds none is what is to be shown.
            let pair = unsafe { &mut *pair };
            if taken == Acquired::OwnerDied {
                self.told.fetch_add(1, sync::Ordering::Relaxed);
                pair[1] = pair[0];
            }
            assert_eq!(pair[0], pair[1], "a lock that was got cleanly guards what is whole");
            pair[0] += 1;
            step();
            pair[1] += 1;
        });
        self.lock.release(tid, head);
    }

    /// What the kernel does for a thread that has ended; says whether it was inside.
    fn bury(&self, tid: u32, head: &RobustHead) -> bool {
        if head.pending.load(sync::Ordering::Relaxed) != head.entry_of(&self.lock.word) {
            return false;
        }
        let word = &self.lock.word.0;
        let mut seen = word.load(sync::Ordering::Relaxed);
        loop {
            if seen & TID_MASK == 0 {
                if FAULT.get() != Fault::NoWakeForTheDead {
                    BUCKET.wake();
                }
                return false;
            }
            if seen & TID_MASK != tid {
                return false;
            }
            let flag = if FAULT.get() == Fault::DeathUnseen { 0 } else { OWNER_DIED };
            let marked = seen & WAITERS | flag;
            match word.compare_exchange(seen, marked, sync::Ordering::SeqCst, sync::Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if seen & WAITERS != 0 {
            BUCKET.wake();
        }
        true
    }
}

fn head() -> RobustHead {
    let zero = sync::AtomicUsize::default;
    RobustHead { list: zero(), futex_offset: zero(), pending: zero() }
}

fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Three threads go in; then all is as if they had done so one after the other.
fn three_visit(fault: Fault) {
    FAULT.set(fault);
    explore(3, || {
        let guarded = Guarded::new();
        let others: Vec<_> = (2..4)
            .map(|tid| {
                let guarded = Arc::clone(&guarded);
                thread::spawn(move || guarded.visit(tid, &head()))
            })
            .collect();
        guarded.visit(1, &head());
        for other in others {
            other.join().expect("it ends");
        }
        guarded.visit(1, &head());
        assert_eq!(guarded.told.load(sync::Ordering::Relaxed), 0);
    });
}

/// One of three is killed before its step number `life`; the others go on, and one of them is told if it was inside.
/// Says whether any order of steps has so many.
fn one_is_killed(fault: Fault, life: u32, patience: bool) -> bool {
    FAULT.set(fault);
    KILLED.set(false);
    explore(2, move || {
        let guarded = Guarded::new();
        let victim = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || {
                let head = head();
                LIFE.with(|left| left.set(Some(life)));
                let ended = catch_unwind(AssertUnwindSafe(|| guarded.visit(2, &head)));
                LIFE.with(|left| left.set(None));
                match ended {
                    Ok(()) => false,
                    Err(cause) if cause.is::<Killed>() => guarded.bury(2, &head),
                    Err(cause) => resume_unwind(cause),
                }
            })
        };
        let other = {
            let guarded = Arc::clone(&guarded);
            thread::spawn(move || guarded.visit(3, &head()))
        };
        guarded.visit(1, &head());
        let inside = victim.join().expect("it is killed, and no more");
        if patience {
            BUCKET.time_passes();
        }
        other.join().expect("it ends");
        guarded.visit(1, &head());
        assert_eq!(guarded.told.load(sync::Ordering::Relaxed), u32::from(inside), "a death inside is told once");
    });
    KILLED.get()
}

/// A visit has fewer steps than this, however long it waits.
const MOST_STEPS: u32 = 60;

#[test]
fn threads_exclude_each_other_and_none_sleeps_for_good() {
    three_visit(Fault::None);
}

#[test]
fn death_at_any_step_is_told_once_and_nobody_waits_for_the_dead() {
    let mut life = 0;
    while one_is_killed(Fault::None, life, true) {
        life += 1;
        assert!(life < MOST_STEPS);
    }
    assert!(life > 10, "{life} steps");
}

#[test]
fn model_finds_a_release_that_does_not_publish() {
    assert!(fails(|| three_visit(Fault::ReleaseIsRelaxed)));
}

#[test]
fn model_finds_forgotten_waiters() {
    assert!(fails(|| three_visit(Fault::WaitersForgotten)));
}

#[test]
fn model_finds_a_look_and_a_sleep_in_two_steps() {
    assert!(fails(|| three_visit(Fault::FutexInTwoSteps)));
}

#[test]
fn model_finds_an_unseen_death() {
    assert!(fails(|| {
        for life in 0..MOST_STEPS {
            let _ = one_is_killed(Fault::DeathUnseen, life, true);
        }
    }));
}

#[test]
fn model_finds_that_nobody_is_woken_for_the_dead() {
    assert!(fails(|| {
        for life in 0..MOST_STEPS {
            let _ = one_is_killed(Fault::NoWakeForTheDead, life, false);
        }
    }));
}
