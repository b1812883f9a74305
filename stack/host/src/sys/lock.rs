//! The family's lock: a robust futex shared between processes, beside glibc's robust list instead of in it. The word is
//! named in the calling thread's `list_op_pending` while it is held, so the kernel marks it FUTEX_OWNER_DIED when the
//! holder dies (futex(2), kernel/futex/core.c `exit_robust_list`), and glibc's list stays as it is. A lock is held
//! for microseconds and never across a system call that blocks. What to do about a dead holder is left to the caller.
//!
//! Thread ids are relative to the pid namespace: members of one family share one.

mod robust;

pub use robust::{Acquired, LockError, RobustLock};

use super::call::{self, invoke};
use super::memory::{ForkMark, forked_since};
use robust::{OWNER_DIED, RobustHead, TID_MASK};
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, compiler_fence};

/// What the lock is made of here; its model has its own.
mod sync {
    use super::call;
    pub(super) use std::hint::spin_loop as spin;
    pub(super) use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, compiler_fence};
    use std::time::Duration;

    /// Looks at the word this often before sleeping: a critical section is shorter than a futex call.
    const SPINS: u32 = 100;

    pub(super) const fn may_spin(spins: u32) -> bool {
        spins < SPINS
    }

    /// Sleeps while the word says so. Whatever woke the caller, the word tells.
    pub(super) fn futex_wait(word: &AtomicU32, expected: u32, patience: Duration) {
        let _ = call::futex_wait(word, expected, Some(patience));
    }

    pub(super) fn futex_wake(word: &AtomicU32) {
        call::futex_wake(word, 1);
    }
}

impl RobustHead {
    const fn new() -> Self {
        Self { list: AtomicUsize::new(0), futex_offset: AtomicUsize::new(0), pending: AtomicUsize::new(0) }
    }
}

/// What a thread knows of itself; refreshed after a fork.
struct ThreadSelf {
    mark: Cell<ForkMark>,
    tid: Cell<u32>,
    head: Cell<*const RobustHead>,
    own: UnsafeCell<RobustHead>,
}

thread_local! {
    // Const and without Drop: the first touch neither allocates nor registers a destructor.
    static THREAD: ThreadSelf = const {
        ThreadSelf {
            mark: Cell::new(ForkMark::NEVER),
            tid: Cell::new(0),
            head: Cell::new(std::ptr::null()),
            own: UnsafeCell::new(RobustHead::new()),
        }
    };
}

/// Runs `body` with the thread's id and robust list head.
#[inline]
fn with_thread<R>(body: impl FnOnce(u32, &RobustHead) -> R) -> R {
    THREAD.with(|thread| {
        if forked_since(thread.mark.get()) {
            refresh(thread);
        }
        // SAFETY: the head is glibc's in the thread's own descriptor, or ours in the thread's storage: both live as
        // long as the thread.
        let head = unsafe { &*thread.head.get() };
        body(thread.tid.get(), head)
    })
}

#[cold]
fn refresh(thread: &ThreadSelf) {
    let mut head: *const RobustHead = std::ptr::null();
    let mut length = 0usize;
    let arguments = [0, (&raw mut head) as usize, (&raw mut length) as usize];
    // SAFETY: the kernel writes a pointer and a length.
    let known = unsafe { invoke(libc::SYS_get_robust_list, arguments) };
    if known.is_err() || head.is_null() {
        // A thread made by raw clone: the kernel knows no list of it.
        head = thread.own.get();
        // SAFETY: `own` lives in the thread's storage and is only ever shared.
        let own = unsafe { &*head };
        own.list.store((&raw const own.list) as usize, Ordering::Relaxed);
        own.futex_offset.store(0, Ordering::Relaxed);
        own.pending.store(0, Ordering::Relaxed);
        register(own);
    }
    thread.head.set(head);
    thread.tid.set(call::gettid());
    thread.mark.set(ForkMark::now());
}

fn register(head: &RobustHead) {
    // SAFETY: the head lives as long as the thread, which is how long the kernel looks at it. Where the call is refused
    // (seccomp), a death goes unnoticed by the word, and the pidfd tells.
    let _ = unsafe { invoke(libc::SYS_set_robust_list, [std::ptr::from_ref(head) as usize, size_of::<RobustHead>()]) };
}

/// The calling thread's id, cached.
#[must_use]
pub fn thread_id() -> u32 {
    with_thread(|tid, _| tid)
}

impl RobustLock {
    /// An unlocked lock.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0), saved: AtomicUsize::new(0) }
    }

    /// Takes the lock, waiting for it as long as it takes.
    ///
    /// # Errors
    /// `SelfDeadlock` when the calling thread holds it.
    #[inline]
    pub fn lock(&self) -> Result<Acquired, LockError> {
        with_thread(|tid, head| self.acquire(tid, head, true))
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// `Busy`, or `SelfDeadlock` when the calling thread holds it.
    #[inline]
    pub fn try_lock(&self) -> Result<Acquired, LockError> {
        with_thread(|tid, head| self.acquire(tid, head, false))
    }

    /// Lets go. A call by a thread that does not hold the lock changes nothing.
    #[inline]
    pub fn unlock(&self) {
        with_thread(|tid, head| self.release(tid, head));
    }

    /// The thread id of the holder; `None` when free or when the holder has died.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        let tid = self.word.load(Ordering::Relaxed) & TID_MASK;
        (tid != 0).then_some(tid)
    }

    /// Whether the calling thread holds the lock.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.holder() == Some(thread_id())
    }
}

/// What a life mark tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Nobody holds it.
    Free,
    /// The thread of this id does.
    Alive(u32),
    /// The kernel has seen its holder die.
    Died,
}

fn life_of(word: u32) -> Life {
    if word & OWNER_DIED != 0 {
        Life::Died
    } else if word & TID_MASK == 0 {
        Life::Free
    } else {
        Life::Alive(word & TID_MASK)
    }
}

/// A word that tells of the death of the thread that holds it, even while that thread sleeps in ppoll. It shares
/// `list_op_pending` with the lock: while the holder is inside a lock, the lock's word tells instead.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct LifeMark {
    word: AtomicU32,
    saved: AtomicUsize,
}

impl LifeMark {
    /// A free mark; zeroed memory is one, too.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0), saved: AtomicUsize::new(0) }
    }

    /// Takes the mark for the calling thread, whatever it said before. The caller makes sure that one thread at a time
    /// uses a mark (a slot's own, or under the lock), and that marks and locks nest.
    pub fn hold(&self) {
        with_thread(|tid, head| {
            let saved = head.pending.load(Ordering::Relaxed);
            head.pending.store(head.entry_of(&self.word), Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            self.word.store(tid, Ordering::Release);
            self.saved.store(saved, Ordering::Relaxed);
        });
    }

    /// Gives the mark up.
    pub fn release(&self) {
        with_thread(|tid, head| {
            if self.word.load(Ordering::Relaxed) & TID_MASK == tid {
                let saved = self.saved.load(Ordering::Relaxed);
                self.word.store(0, Ordering::Release);
                compiler_fence(Ordering::SeqCst);
                head.pending.store(saved, Ordering::Relaxed);
            }
        });
    }

    /// What the mark says now.
    #[must_use]
    pub fn state(&self) -> Life {
        life_of(self.word.load(Ordering::Acquire))
    }

    /// Clears the mark of a dead holder.
    pub fn clear(&self) {
        self.word.store(0, Ordering::Release);
    }
}

/// A keeper's mark: in a robust list of its own, so that it tells of the death whether the keeper is inside a lock or
/// not. For a thread made by raw clone, which has no other list.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct LifeLine {
    word: AtomicU32,
    node: AtomicUsize,
    list: AtomicUsize,
    futex_offset: AtomicUsize,
    pending: AtomicUsize,
}

impl LifeLine {
    /// A line that nobody holds; zeroed memory is one, too.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            node: AtomicUsize::new(0),
            list: AtomicUsize::new(0),
            futex_offset: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
        }
    }

    /// Registers the line as the calling thread's robust list and takes it. The line must stay mapped for as long as
    /// the thread lives, hence `'static`.
    pub fn register(&'static self) {
        let list = (&raw const self.list) as usize;
        let node = (&raw const self.node) as usize;
        self.list.store(node, Ordering::Relaxed);
        self.node.store(list, Ordering::Relaxed);
        self.futex_offset.store((self.word.as_ptr() as usize).wrapping_sub(node), Ordering::Relaxed);
        self.pending.store(0, Ordering::Relaxed);
        // SAFETY: list, futex_offset and pending follow each other as in struct robust_list_head, and are 'static.
        let _ = unsafe { invoke(libc::SYS_set_robust_list, [list, size_of::<RobustHead>()]) };
        // The thread's cached head is the old one.
        THREAD.with(|thread| thread.mark.set(ForkMark::NEVER));
        self.word.store(thread_id(), Ordering::Release);
    }

    /// What the line says now.
    #[must_use]
    pub fn state(&self) -> Life {
        life_of(self.word.load(Ordering::Acquire))
    }

    /// Clears the line of a dead keeper before another takes it.
    pub fn clear(&self) {
        self.word.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
