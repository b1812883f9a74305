//! A lock for short, rare work of one process that is held over a fork, so that the child never finds it taken by a
//! thread that it does not have. It keeps nothing but a flag: a lock with a queue of sleepers would take the parent's
//! sleepers, and its own inner locks, into the child. Its place in the order of
//! locks is given to it.

use remora_host::sys::call;
use remora_host::sys::lock::thread_id;
use remora_host::sys::order::{self, Rank};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Looks with the processor given to others between before sleeping instead.
const YIELDS: u32 = 100;

/// How long a sleep takes that lets a holder with less priority finish.
const PAUSE: Duration = Duration::from_micros(50);

/// The lock. Not re-entrant; signal handlers that may take it are to be held off by the holder, except over a fork: a
/// handler that interrupts the forking thread has the lock with it.
#[derive(Debug)]
pub(crate) struct SmallLock {
    taken: AtomicBool,
    /// The thread that forks.
    forking: AtomicU32,
    rank: Rank,
}

/// Gives the lock up when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Taken<'a>(Option<&'a SmallLock>);

impl SmallLock {
    pub(crate) const fn new(rank: Rank) -> Self {
        Self { taken: AtomicBool::new(false), forking: AtomicU32::new(0), rank }
    }

    pub(crate) fn lock(&self) -> Taken<'_> {
        if self.forking.load(Ordering::Relaxed) == thread_id() {
            return Taken(None);
        }
        order::take(self.rank);
        let mut looks = 0;
        while self.taken.swap(true, Ordering::Acquire) {
            looks += 1;
            if looks < YIELDS {
                std::thread::yield_now();
            } else {
                let _ = call::ppoll(&mut [], Some(PAUSE), None);
            }
        }
        Taken(Some(self))
    }

    /// Takes the lock until [`SmallLock::after_fork`], which both processes call.
    pub(crate) fn before_fork(&self) {
        std::mem::forget(self.lock());
        self.forking.store(thread_id(), Ordering::Relaxed);
    }

    pub(crate) fn after_fork(&self) {
        self.forking.store(0, Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
        order::give(self.rank);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.0 {
            lock.taken.store(false, Ordering::Release);
            order::give(lock.rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn one_thread_at_a_time_is_inside() {
        static LOCK: SmallLock = SmallLock::new(Rank::MakingSets);
        static INSIDE: AtomicBool = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let taken = LOCK.lock();
                        assert!(!INSIDE.swap(true, Ordering::Relaxed));
                        INSIDE.store(false, Ordering::Relaxed);
                        drop(taken);
                    }
                });
            }
        });
    }

    #[test]
    fn lock_taken_for_a_fork_is_the_forking_threads_and_free_afterwards() {
        let lock = SmallLock::new(Rank::MakingSets);
        lock.before_fork();
        drop(lock.lock());
        lock.after_fork();
        let reached = Cell::new(false);
        let taken = lock.lock();
        reached.set(true);
        drop(taken);
        assert!(reached.get());
    }
}
