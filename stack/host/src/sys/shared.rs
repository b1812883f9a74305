//! Typed access to what a family shares: a value in the arena, reached under the family's lock and with the allocation
//! guard held; the private static that names it; the keeper's region and birth. What is shared, and what happens when a
//! holder has died, is left to the runtime.

use super::alloc::{ArenaGuard, enter_arena};
use super::arena::{Arena, ArenaError};
use super::call::{Errno, Fd};
use super::lock::{Acquired, LockError, RobustLock};
use super::order::{self, Rank};
use super::process::{self, KeeperEntry, KeeperOrder};
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What the open part knows of the core: whether it is being changed, for whoever finds that the holder of the lock has
/// died.
pub trait ChangeMark {
    /// The holder may change the core from now on.
    fn change_begins(&self);
    /// The core is whole, and is not changed before the next call of `change_begins`.
    fn change_ends(&self);
}

/// What lies in the arena: an open part of atomics, for everyone at any time, and a core behind the lock.
#[derive(Debug)]
pub struct Shared<S, C> {
    lock: &'static RobustLock,
    open: S,
    core: UnsafeCell<C>,
}

// SAFETY: the core is reached through `Held` only, which is exclusive by the lock.
unsafe impl<S: Sync, C> Sync for Shared<S, C> {}

impl<S: ChangeMark + Sync + 'static, C: 'static> Shared<S, C> {
    /// Makes the value in `arena`, which becomes the process's active one, and returns where it lies in all members.
    ///
    /// # Errors
    /// `AlreadyActive` when another thread was faster.
    pub fn install(arena: Arena, make: impl FnOnce() -> (S, C)) -> Result<&'static Self, ArenaError> {
        arena.activate()?;
        Ok(Self::place(arena, make))
    }

    /// The same for a process whose former family is broken: its arena stays mapped, and is never entered again.
    pub fn install_instead(arena: Arena, make: impl FnOnce() -> (S, C)) -> &'static Self {
        arena.activate_instead();
        Self::place(arena, make)
    }

    /// Names what lies in an arena that was made by another process of the same build with the library at the same
    /// address, which becomes the process's active one. `instead` as with [`Shared::install_instead`].
    ///
    /// # Errors
    /// `AlreadyActive` when another thread was faster.
    pub fn install_again(arena: Arena, instead: bool) -> Result<&'static Self, ArenaError> {
        let root = NonNull::new(arena.root().cast::<Self>()).ok_or(ArenaError::NoSpace(Errno(libc::EINVAL)))?;
        if !arena.contains(root.as_ptr() as usize) {
            return Err(ArenaError::NoSpace(Errno(libc::EINVAL)));
        }
        if instead {
            arena.activate_instead();
        } else {
            arena.activate()?;
        }
        // SAFETY: `place` of the same build has set it, and what it names lives as long as the arena.
        Ok(unsafe { root.as_ref() })
    }

    fn place(arena: Arena, make: impl FnOnce() -> (S, C)) -> &'static Self {
        let lock = arena.lock();
        // Nobody else knows the arena yet: the lock is free, and the heap is used under it as always.
        let taken = lock.lock();
        let guard = enter_arena();
        let (open, core) = make();
        let place = Box::leak(Box::new(Self { lock, open, core: UnsafeCell::new(core) }));
        arena.set_root(std::ptr::from_mut(place).cast());
        drop(guard);
        if taken.is_ok() {
            lock.unlock();
        }
        place
    }

    /// The open part.
    #[inline]
    #[must_use]
    pub fn open(&self) -> &S {
        &self.open
    }

    /// Takes the lock and, if `admit` agrees to how it was got, enters the arena.
    ///
    /// # Errors
    /// What `admit` says, also of a thread that holds the lock already.
    #[inline]
    pub fn enter<E>(
        &'static self,
        admit: impl FnOnce(&S, Result<Acquired, LockError>) -> Result<(), E>,
    ) -> Result<Held<S, C>, E> {
        let taken = self.lock.try_lock();
        let waited = matches!(taken, Err(LockError::Busy));
        let taken = if waited { self.lock.lock() } else { taken };
        let inside = taken.is_ok();
        if inside {
            order::take(Rank::Family);
        }
        match admit(&self.open, taken) {
            Ok(()) if inside => Ok(Held { shared: self, guard: Some(enter_arena()), waited, local: PhantomData }),
            Ok(()) => unreachable!("admitted without the lock"),
            Err(refused) => {
                if inside {
                    order::give(Rank::Family);
                    self.lock.unlock();
                }
                Err(refused)
            }
        }
    }

    /// Whether the calling thread is inside.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.lock.is_mine()
    }
}

/// The lock and the allocation guard, held until dropped, by the thread that took them. While nobody has asked for the
/// core to change it, its mark says that it is whole; what is allocated in the arena changes it, too.
#[derive(Debug)]
#[must_use]
pub struct Held<S: ChangeMark + Sync + 'static, C: 'static> {
    shared: &'static Shared<S, C>,
    guard: Option<ArenaGuard>,
    waited: bool,
    local: PhantomData<*mut ()>,
}

impl<S: ChangeMark + Sync, C> Held<S, C> {
    /// Whether another thread had to let go of the lock first.
    #[inline]
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.waited
    }
}

impl<S: ChangeMark + Sync, C> Deref for Held<S, C> {
    type Target = C;
    #[inline]
    fn deref(&self) -> &C {
        // SAFETY: the lock is held, so no other reference lives.
        unsafe { &*self.shared.core.get() }
    }
}

impl<S: ChangeMark + Sync, C> DerefMut for Held<S, C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut C {
        self.shared.open.change_begins();
        // SAFETY: the lock is held and `self` is borrowed exclusively.
        unsafe { &mut *self.shared.core.get() }
    }
}

impl<S: ChangeMark + Sync + 'static, C: 'static> Drop for Held<S, C> {
    #[inline]
    fn drop(&mut self) {
        // The last allocation happens before the lock is free.
        drop(self.guard.take());
        self.shared.open.change_ends();
        order::give(Rank::Family);
        self.shared.lock.unlock();
    }
}

/// A private static that names something that lives for good. Survives fork as it is.
#[derive(Debug)]
pub struct Named<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Named<T> {
    /// Names nothing.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// What is named.
    #[inline]
    #[must_use]
    pub fn load(&self) -> Option<&'static T> {
        // SAFETY: only `store` writes, and what it writes lives for good.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Names something else.
    pub fn store(&self, value: &'static T) {
        self.0.store(std::ptr::from_ref(value).cast_mut(), Ordering::Release);
    }
}

/// Memory in the arena for a keeper's stack. Kept for as long as the arena.
#[derive(Clone, Copy, Debug)]
pub struct KeeperRegion {
    address: usize,
    length: usize,
}

impl KeeperRegion {
    /// Takes the memory; to be called inside the arena. `None` when there is none.
    #[must_use]
    pub fn allocate(length: usize) -> Option<Self> {
        let layout = Layout::from_size_align(length.max(process::LEAST_REGION), super::memory::PAGE).ok()?;
        // SAFETY: the layout is not empty.
        let block = unsafe { std::alloc::alloc(layout) };
        let found = Arena::active().is_some_and(|arena| arena.contains(block as usize));
        (found && !block.is_null()).then_some(Self { address: block.expose_provenance(), length: layout.size() })
    }

    /// Leaves a keeper behind that runs `entry`, and returns its pid. The former keeper of this region must be dead.
    ///
    /// # Errors
    /// As [`process::spawn_keeper`].
    pub fn spawn(self, entry: KeeperEntry, keep: &[Fd]) -> Result<i32, Errno> {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.address);
        let region = NonNull::new(start).ok_or(Errno(libc::EINVAL))?;
        let region = NonNull::slice_from_raw_parts(region, self.length);
        let order = KeeperOrder { entry, argument: std::ptr::null_mut(), region, keep };
        // SAFETY: the region was allocated in the arena for keepers, one at a time; the runtime's entry uses the arena
        // and its own heap only.
        unsafe { process::spawn_keeper(&order) }
    }
}

/// In a new keeper: lets the program's memory go. Where that is not possible the keeper keeps it, copy on write.
pub fn shed() -> bool {
    // SAFETY: called by the keeper's entry first of all: nothing of the program's is used afterwards but what the
    // function spares.
    unsafe { process::shed_program_memory() }.is_ok()
}

/// The kernel's form of a signal set: its first 64 bits.
#[must_use]
pub fn kernel_mask(set: &libc::sigset_t) -> u64 {
    const { assert!(size_of::<libc::sigset_t>() >= 8) };
    // SAFETY: a sigset_t is at least eight bytes of plain data.
    unsafe { std::ptr::from_ref(set).cast::<u64>().read_unaligned() }
}
