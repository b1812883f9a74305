//! The robust lock itself: what is done to the word, to `list_op_pending` and with the futex, for a thread whose id and
//! list head the caller gives. All of it goes through `sync`, so that the same source is run by the model (`model.rs`)
//! with atomics and a futex whose every order of steps is tried. Who a thread is, and marks of life, are left to `lock`.

use super::sync::{AtomicU32, AtomicUsize, Ordering, compiler_fence, futex_wait, futex_wake, may_spin, spin};
use std::time::Duration;

/// Set by the kernel when the holder has died.
pub(super) const OWNER_DIED: u32 = libc::FUTEX_OWNER_DIED;
/// Set by those who sleep.
pub(super) const WAITERS: u32 = libc::FUTEX_WAITERS;
/// The holder's thread id.
pub(super) const TID_MASK: u32 = libc::FUTEX_TID_MASK;

/// When to look again although nobody has woken us: a woken sleeper that is killed before it takes the lock takes its
/// wake-up with it while a third holds the word without the waiters' bit. Costs nothing while the lock is free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a lock was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// The last holder had let go: the state is whole.
    Clean,
    /// The last holder died inside: the state may be half changed. The mark is gone, the caller must repair.
    OwnerDied,
}

/// Why a lock was not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// Another thread holds it (`try_lock` only).
    Busy,
    /// The calling thread holds it already: waiting would never end.
    SelfDeadlock,
}

/// struct robust_list_head.
#[derive(Debug)]
#[repr(C)]
pub(super) struct RobustHead {
    pub(super) list: AtomicUsize,
    pub(super) futex_offset: AtomicUsize,
    pub(super) pending: AtomicUsize,
}

impl RobustHead {
    /// What stands in `list_op_pending` to name a word.
    pub(super) fn entry_of(&self, word: &AtomicU32) -> usize {
        (std::ptr::from_ref(word) as usize).wrapping_sub(self.futex_offset.load(Ordering::Relaxed))
    }
}

/// The lock. Zeroed memory is an unlocked one. A cache line of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct RobustLock {
    pub(super) word: AtomicU32,
    /// The holder's former `list_op_pending`; touched by the holder only.
    pub(super) saved: AtomicUsize,
}

impl RobustLock {
    /// Takes the lock for the thread `tid`, whose list head is `head`.
    #[inline]
    pub(super) fn acquire(&self, tid: u32, head: &RobustHead, wait: bool) -> Result<Acquired, LockError> {
        let saved = head.pending.load(Ordering::Relaxed);
        head.pending.store(head.entry_of(&self.word), Ordering::Relaxed);
        // The kernel reads `pending` when this thread dies: the order in this thread's program is all that matters.
        compiler_fence(Ordering::SeqCst);
        let taken = match self.word.compare_exchange(0, tid, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Acquired::Clean),
            Err(_) => self.acquire_contended(tid, wait),
        };
        if taken.is_ok() {
            self.saved.store(saved, Ordering::Relaxed);
        } else {
            head.pending.store(saved, Ordering::Relaxed);
        }
        taken
    }

    #[cold]
    fn acquire_contended(&self, tid: u32, wait: bool) -> Result<Acquired, LockError> {
        let mut mine = tid;
        let mut spins = 0;
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & TID_MASK == 0 {
                let wanted = mine | (seen & WAITERS);
                let taken = self.word.compare_exchange(seen, wanted, Ordering::Acquire, Ordering::Relaxed);
                if taken.is_ok() {
                    return Ok(if seen & OWNER_DIED == 0 { Acquired::Clean } else { Acquired::OwnerDied });
                }
                continue;
            }
            if seen & TID_MASK == tid {
                return Err(LockError::SelfDeadlock);
            }
            if !wait {
                return Err(LockError::Busy);
            }
            if may_spin(spins) {
                spins += 1;
                spin();
                continue;
            }
            let sleeping = seen | WAITERS;
            if seen != sleeping
                && self.word.compare_exchange(seen, sleeping, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            // Whatever woke us, the word tells.
            futex_wait(&self.word, sleeping, LOOK_AGAIN);
            // Others may sleep as well: keep the bit when taking the lock.
            mine = tid | WAITERS;
        }
    }

    /// Lets go for the thread `tid`. A call by a thread that does not hold the lock changes nothing.
    #[inline]
    pub(super) fn release(&self, tid: u32, head: &RobustHead) {
        if self.word.load(Ordering::Relaxed) & TID_MASK != tid {
            debug_assert!(false, "unlock by a thread that does not hold the lock");
            return;
        }
        let saved = self.saved.load(Ordering::Relaxed);
        if self.word.swap(0, Ordering::Release) & WAITERS != 0 {
            futex_wake(&self.word);
        }
        // Killed before this store, the kernel finds the word free and wakes a sleeper in our place.
        compiler_fence(Ordering::SeqCst);
        head.pending.store(saved, Ordering::Relaxed);
    }
}
