//! One allocator, two heaps: the shared arena while the calling thread is inside a core guard, private memory otherwise;
//! memory goes back by its address. The static stands in the program (`#[global_allocator]`), with the shim and with
//! tests. That the family's lock is held inside a guard is left to the runtime.
//!
//! Inside a guard nothing may be initialised that outlives it and belongs to one process (standard streams, thread
//! handles, loggers): it would land in shared memory. `leave_arena` makes room for such things.

use super::arena::Arena;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    // Const and without Drop: touching it never allocates. A count, since guards nest.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Address space of the heap that takes over from libc's once a keeper has unmapped that.
const SHED_RESERVE: usize = 64 << 20;

/// Where that heap lies; 0 until then. Private to the keeper.
static SHED_BASE: AtomicUsize = AtomicUsize::new(0);

type ShedHeap = rlsf::Tlsf<'static, u32, u32, 24, 16>;

struct Shed(UnsafeCell<ShedHeap>);

// SAFETY: used in the keeper only, which has one thread.
unsafe impl Sync for Shed {}

static SHED: Shed = Shed(UnsafeCell::new(ShedHeap::new()));

/// While this lives, the thread allocates from the arena.
#[derive(Debug)]
#[must_use]
pub struct ArenaGuard(PhantomData<*mut ()>);

/// Lets the calling thread allocate from the process's arena until the guard is dropped. Nests.
#[inline]
pub fn enter_arena() -> ArenaGuard {
    DEPTH.set(DEPTH.get().saturating_add(1));
    ArenaGuard(PhantomData)
}

impl Drop for ArenaGuard {
    #[inline]
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

/// While this lives, the thread allocates private memory although it is inside a guard.
#[derive(Debug)]
#[must_use]
pub struct PrivateGuard(u32, PhantomData<*mut ()>);

/// Suspends the guards of the calling thread until the result is dropped.
pub fn leave_arena() -> PrivateGuard {
    PrivateGuard(DEPTH.replace(0), PhantomData)
}

impl Drop for PrivateGuard {
    fn drop(&mut self) {
        DEPTH.set(self.0);
    }
}

/// Whether the calling thread allocates from the arena.
#[inline]
#[must_use]
pub fn in_arena() -> bool {
    DEPTH.get() > 0
}

/// The allocator.
#[derive(Debug, Default)]
pub struct FamilyAllocator;

/// Who owns an address.
enum Owner {
    Arena(Arena),
    System,
    Shed,
    /// An arena that this process has given up: readable, and otherwise left alone.
    Retired,
    /// libc's heap, which the keeper has unmapped.
    Gone,
}

impl FamilyAllocator {
    #[inline]
    fn target() -> Owner {
        match Arena::active() {
            Some(arena) if in_arena() => Owner::Arena(arena),
            _ if SHED_BASE.load(Ordering::Relaxed) != 0 => Owner::Shed,
            _ => Owner::System,
        }
    }

    #[inline]
    fn owner(address: usize) -> Owner {
        if let Some(arena) = Arena::active()
            && arena.contains(address)
        {
            return Owner::Arena(arena);
        }
        if Arena::is_retired(address) {
            return Owner::Retired;
        }
        match SHED_BASE.load(Ordering::Relaxed) {
            0 => Owner::System,
            base if address.wrapping_sub(base) < SHED_RESERVE => Owner::Shed,
            _ => Owner::Gone,
        }
    }
}

// SAFETY: each block goes back to the heap whose addresses it has; the arena is used under the lock that the guard's
// holder has, and libc's heap locks itself.
unsafe impl GlobalAlloc for FamilyAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Self::target() {
            // SAFETY: inside a guard the caller holds the arena's lock.
            Owner::Arena(arena) => unsafe { arena.allocate(layout) },
            // SAFETY: the caller's promise about the layout.
            Owner::System | Owner::Gone | Owner::Retired => unsafe { System.alloc(layout) },
            Owner::Shed => shed_allocate(layout),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if matches!(Self::target(), Owner::System) {
            // SAFETY: the caller's promise about the layout; large blocks come zeroed from the kernel.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise about the layout.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block is `size` bytes long.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(place) = NonNull::new(block) else { return };
        match Self::owner(block as usize) {
            // SAFETY: inside a guard the caller holds the arena's lock; the block is the arena's.
            Owner::Arena(arena) if in_arena() => unsafe { arena.deallocate(place, layout) },
            // Without the lock the heap may be in the middle of another member's change: leaking is the lesser harm.
            Owner::Arena(arena) => arena.count_stray(),
            // SAFETY: the caller's promise about the block.
            Owner::System => unsafe { System.dealloc(block, layout) },
            Owner::Shed => shed_free(place, layout),
            Owner::Gone | Owner::Retired => {}
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(place) = NonNull::new(block) else { return std::ptr::null_mut() };
        match Self::owner(block as usize) {
            // SAFETY: inside a guard the caller holds the arena's lock; the block is the arena's.
            Owner::Arena(arena) if in_arena() => unsafe { arena.reallocate(place, layout, size) },
            // SAFETY: the caller's promise about the block and the size. Private stays private, guard or not.
            Owner::System => unsafe { System.realloc(block, layout, size) },
            Owner::Gone => std::ptr::null_mut(),
            Owner::Arena(_) | Owner::Shed | Owner::Retired => {
                let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
                    return std::ptr::null_mut();
                };
                // SAFETY: a layout of non-zero size, by the caller's promise about `size`.
                let fresh = unsafe { self.alloc(wanted) };
                if !fresh.is_null() {
                    let count = layout.size().min(size);
                    // SAFETY: both blocks are at least `count` long and do not overlap.
                    unsafe { std::ptr::copy_nonoverlapping(block, fresh, count) };
                    // SAFETY: the contents have moved; a stray arena block is counted there.
                    unsafe { self.dealloc(block, layout) };
                }
                fresh
            }
        }
    }
}

/// From now on private memory comes from a small heap of this process's own: libc's is about to be unmapped.
pub(super) fn abandon_system_heap() -> bool {
    let Ok(base) = super::call::map_private(SHED_RESERVE, libc::MAP_NORESERVE) else { return false };
    // SAFETY: one thread, by the contract of the keeper; no other reference lives.
    let heap = unsafe { &mut *SHED.0.get() };
    let range = NonNull::slice_from_raw_parts(base, SHED_RESERVE);
    // SAFETY: mapped just above for good and known to nobody else.
    unsafe { heap.insert_free_block_ptr(range) };
    SHED_BASE.store(base.as_ptr() as usize, Ordering::Relaxed);
    true
}

/// The range of that heap, for those who unmap everything else.
pub(super) fn shed_heap() -> Option<(usize, usize)> {
    let base = SHED_BASE.load(Ordering::Relaxed);
    (base != 0).then_some((base, base + SHED_RESERVE))
}

fn shed_allocate(layout: Layout) -> *mut u8 {
    // SAFETY: one thread, by the contract of the keeper; no other reference lives.
    let heap = unsafe { &mut *SHED.0.get() };
    heap.allocate(layout).map_or(std::ptr::null_mut(), NonNull::as_ptr)
}

fn shed_free(block: NonNull<u8>, layout: Layout) {
    // SAFETY: one thread, by the contract of the keeper; no other reference lives.
    let heap = unsafe { &mut *SHED.0.get() };
    // SAFETY: the block's address is this heap's, and its caller gives it up.
    unsafe { heap.deallocate(block, layout.align()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::arena::DEFAULT_RESERVE;
    use crate::sys::testing::in_child;

    // The allocator of this crate's tests: without an active arena it is libc's.
    #[global_allocator]
    static ALLOCATOR: FamilyAllocator = FamilyAllocator;

    /// Runs `body` in a child with an active arena, and fails when it returns something.
    fn with_active(body: impl FnOnce(Arena) -> Result<(), &'static str>) {
        let status = in_child(|| {
            let arena = Arena::map(DEFAULT_RESERVE).unwrap();
            arena.activate().unwrap();
            match body(arena) {
                Ok(()) => 0,
                Err(text) => {
                    let _ = super::super::call::write(crate::sys::Fd(2), text.as_bytes());
                    1
                }
            }
        });
        assert_eq!(status, 0);
    }

    fn expect(condition: bool, text: &'static str) -> Result<(), &'static str> {
        condition.then_some(()).ok_or(text)
    }

    #[test]
    fn guard_decides_where_memory_comes_from_and_nests() {
        with_active(|arena| {
            let outside = vec![1u8; 100];
            let within = |vector: &Vec<u8>| arena.contains(vector.as_ptr() as usize);
            let guard = enter_arena();
            let inner = enter_arena();
            let shared = vec![2u8; 100];
            drop(inner);
            let mut also = vec![3u8; 100];
            let suspended = leave_arena();
            let private = vec![4u8; 100];
            drop(suspended);
            also.extend_from_slice(&[5; 10_000]);
            expect(!within(&outside) && within(&shared) && within(&also) && !within(&private), "wrong heap")?;
            // A private block may grow and go back inside a guard, and stays private.
            let mut grown = outside;
            grown.extend_from_slice(&[6; 1000]);
            expect(!within(&grown), "a private block has moved into the arena")?;
            drop(grown);
            drop(private);
            let before = arena.used();
            drop(shared);
            drop(also);
            expect(arena.used() < before, "nothing was given back")?;
            drop(guard);
            expect(!in_arena() && !within(&vec![7u8; 100]), "the guard has outlived itself")?;
            expect(arena.strays() == 0, "strays")
        });
    }

    #[test]
    fn arena_block_freed_outside_is_counted_and_leaked() {
        with_active(|arena| {
            let guard = enter_arena();
            let stray = vec![1u8; 100];
            let mut moved = vec![2u8; 100];
            let kept: Vec<Vec<u8>> = (0..100).map(|byte| vec![byte; 50]).collect();
            drop(guard);
            let used = arena.used();
            drop(stray);
            moved.extend_from_slice(&[2; 100_000]);
            expect(moved.iter().all(|byte| *byte == 2), "contents lost")?;
            expect(!arena.contains(moved.as_ptr() as usize), "grown in the arena without a guard")?;
            expect(arena.strays() == 2 && arena.used() == used, "not counted, or not leaked")?;
            let _guard = enter_arena();
            expect(kept.iter().zip(0u8..).all(|(vector, byte)| vector.iter().all(|b| *b == byte)), "corrupt")?;
            drop(kept);
            let zeroed = vec![0u8; 4096];
            expect(zeroed.iter().all(|byte| *byte == 0), "not zeroed")
        });
    }

    #[test]
    fn blocks_of_an_arena_given_up_are_leaked_and_can_be_read() {
        with_active(|old| {
            let guard = enter_arena();
            let dropped = vec![1u8; 100];
            let mut moved = vec![2u8; 100];
            let new = Arena::map(DEFAULT_RESERVE).map_err(|_| "no second arena")?;
            new.activate_instead();
            drop(dropped);
            moved.extend_from_slice(&[2; 10_000]);
            drop(guard);
            let address = moved.as_ptr() as usize;
            expect(new.contains(address) && !old.contains(address), "not moved to the new arena")?;
            expect(moved.iter().all(|byte| *byte == 2), "contents lost")
        });
    }

    #[test]
    fn heap_of_a_keeper_takes_over_and_forgets_libcs_blocks() {
        with_active(|_| {
            let old = vec![1u8; 100];
            expect(abandon_system_heap(), "no heap")?;
            let base = SHED_BASE.load(Ordering::Relaxed);
            let mut new = vec![2u8; 100];
            new.extend_from_slice(&[2; 100_000]);
            expect((new.as_ptr() as usize).wrapping_sub(base) < SHED_RESERVE, "not there")?;
            expect(new.iter().all(|byte| *byte == 2), "contents lost")?;
            drop(old);
            drop(new);
            Ok(())
        });
    }
}
