//! The family's memory: one shared mapping, made before the first fork and so at the same address in every member, with
//! a header (lock, root pointer, counters) and a heap. Backed by a sparse memfd that grows by ftruncate, which all
//! members see at once; untouched pages cost nothing, and mlockall takes only what has grown. Who may allocate when is
//! left to `alloc` and to the runtime: the heap is used under the header's lock.
//!
//! The heap is rlsf's TLSF: constant time, its whole state one plain structure that lies in the arena, and pools that
//! join when memory is appended. Measured against talc 5 on four million operations of mixed sizes with 10,000 live
//! blocks: 36-44 ns against 39-43 ns each, 38.6 MiB resident against 42.0, and rlsf alone has no linear worst case.

use super::call::{self, Errno, Fd, FileId};
use super::lock::RobustLock;
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// "remoraAR", little endian.
const MAGIC: u64 = u64::from_le_bytes(*b"remoraAR");

/// Changes whenever the header's layout does.
const VERSION: u32 = 1;

/// Where the arena goes: far from where the kernel puts the heap, libraries and stacks, also under ASLR. The first that
/// is free; else wherever the kernel likes, since forked children have it at the same place anyway.
const ADDRESSES: [usize; 5] = [0x6f00_0000_0000, 0x6e00_0000_0000, 0x6d00_0000_0000, 0x5f00_0000_0000, 0];

/// Address space taken unless told otherwise.
pub const DEFAULT_RESERVE: usize = 4 << 30;

/// The least that is of use to a busy server: halving ends here.
pub const MINIMUM_RESERVE: usize = 64 << 20;

/// The file's length at first and the least that it grows by.
const STEP: usize = 1 << 20;

/// A freed block of this size gives its pages back: about a microsecond per page, so not for small ones.
const GIVE_BACK: usize = 1 << 20;

/// What each block costs beside its own bytes (rlsf's header, rounded to its granularity by `footprint`).
const BLOCK_HEADER: usize = 16;
const GRANULARITY: usize = rlsf::GRANULARITY;

/// First level 59 of 64 bits less the granularity: pools of any size, which is what lets appended memory join the last.
type Heap = rlsf::Tlsf<'static, u64, u32, 59, 32>;

/// Why there is no arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaError {
    /// No address space for even the smallest one (RLIMIT_AS, locked memory).
    NoSpace(Errno),
    /// This process has one.
    AlreadyActive,
}

impl std::fmt::Display for ArenaError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSpace(errno) => write!(
                formatter,
                "no {} MiB of address space for shared state ({errno}); raise `ulimit -v` or `ulimit -l`",
                MINIMUM_RESERVE >> 20
            ),
            Self::AlreadyActive => write!(formatter, "this process has its arena already"),
        }
    }
}

impl std::error::Error for ArenaError {}

/// The start of the arena.
#[repr(C)]
struct Header {
    magic: u64,
    version: u32,
    /// The memfd's number where the arena was made; -1 for anonymous memory, which does not grow.
    fd: i32,
    id: FileId,
    reserve: usize,
    /// Bytes of the reserve that may be touched.
    grown: AtomicUsize,
    /// How far growing can go: the reserve, until growing is refused.
    limit: AtomicUsize,
    used: AtomicUsize,
    strays: AtomicU64,
    root: AtomicPtr<()>,
    lock: RobustLock,
    heap: UnsafeCell<Heap>,
}

// SAFETY: everything is atomic or constant but the heap, which is only touched under the contract of `allocate`.
unsafe impl Sync for Header {}

/// The arena that this process's allocator serves from; the mapping is inherited by fork, and this pointer with it.
static ACTIVE: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());

/// Arenas that this process has given up: what is freed there is leaked, not handed to libc.
static RETIRED: [AtomicPtr<Header>; 8] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 8];
static RETIRED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// The memfd's number in this process, where it differs from the header's.
static OWN_FD: AtomicI32 = AtomicI32::new(-1);

/// A mapped arena.
#[derive(Clone, Copy)]
pub struct Arena {
    header: &'static Header,
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Arena")
            .field("base", &self.base())
            .field("reserve", &self.reserve())
            .field("used", &self.used())
            .finish()
    }
}

/// The reserve that the process's limits allow.
fn affordable(reserve: usize) -> usize {
    let limit = call::resource_limit(libc::RLIMIT_AS as i32).map_or(u64::MAX, |limit| limit.soft);
    // A program with a limit on its address space has plans for most of it.
    let share = usize::try_from(limit / 8).unwrap_or(usize::MAX);
    if limit == u64::MAX { reserve } else { reserve.min(share & !(STEP - 1)).max(MINIMUM_RESERVE) }
}

/// How long a file this process may make.
fn file_size_limit() -> usize {
    let limit = call::resource_limit(libc::RLIMIT_FSIZE as i32).map_or(u64::MAX, |limit| limit.soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// A memfd of the first step's length at a high number.
fn backing_file() -> Result<(Fd, FileId), Errno> {
    let low = call::memfd_create(c"remora-arena", libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)?;
    let fd = call::raise_high(low, call::private_floor())?;
    let prepared = call::ftruncate(fd, STEP as u64)
        // Cutting the file short would kill every member by SIGBUS.
        .and_then(|()| call::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK))
        .and_then(|_| call::file_id(fd));
    match prepared {
        Ok(id) => Ok((fd, id)),
        Err(errno) => {
            let _ = call::close(fd);
            Err(errno)
        }
    }
}

/// Maps `reserve` bytes or, when there is no room, half of it, and so on.
fn map_somewhere(mut reserve: usize, fd: Fd) -> Result<(NonNull<u8>, usize), Errno> {
    loop {
        let mut last = Errno(libc::ENOMEM);
        for address in ADDRESSES {
            match call::map_shared(address, reserve, fd) {
                Ok(base) => return Ok((base, reserve)),
                Err(errno) => last = errno,
            }
        }
        if reserve / 2 < MINIMUM_RESERVE {
            return Err(last);
        }
        reserve /= 2;
    }
}

impl Arena {
    /// Maps a new arena of at most `reserve` bytes, whole mebibytes. It is not yet the process's own: see
    /// [`Arena::activate`].
    ///
    /// # Errors
    /// `NoSpace` when not even the smallest one fits.
    pub fn map(reserve: usize) -> Result<Self, ArenaError> {
        let wanted = affordable(reserve.next_multiple_of(STEP));
        let in_file = wanted.min(file_size_limit() & !(STEP - 1));
        let backing = if in_file >= wanted.min(MINIMUM_RESERVE) { backing_file().ok() } else { None };
        let (fd, id, wanted) = match backing {
            Some((fd, id)) => (fd, id, in_file),
            None => (Fd::NONE, FileId { device: 0, inode: 0 }, wanted),
        };
        let (base, reserve) = map_somewhere(wanted, fd).map_err(|errno| {
            let _ = call::close(fd);
            ArenaError::NoSpace(errno)
        })?;
        let grown = if fd.is_some() { STEP } else { reserve };
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            fd: fd.raw(),
            id,
            reserve,
            grown: AtomicUsize::new(grown),
            limit: AtomicUsize::new(reserve),
            used: AtomicUsize::new(0),
            strays: AtomicU64::new(0),
            root: AtomicPtr::new(std::ptr::null_mut()),
            lock: RobustLock::new(),
            heap: UnsafeCell::new(Heap::new()),
        };
        let place = base.cast::<Header>();
        // SAFETY: fresh memory, page aligned, and a step is much longer than the header.
        unsafe { place.write(header) };
        // SAFETY: written just above; an arena that is in use is never unmapped.
        let header = unsafe { place.as_ref() };
        let arena = Self { header };
        let first = size_of::<Header>().next_multiple_of(64);
        // SAFETY: the range is the arena's, behind the header, and has grown; nobody else knows the heap yet.
        unsafe { arena.give_to_heap(first, grown, false) };
        Ok(arena)
    }

    /// Maps an arena that another process has made, at the address where it lies there. It is not yet the process's own.
    ///
    /// # Errors
    /// `NoSpace` when the range is taken or beyond a limit, or the file is no arena of this layout: then nothing is
    /// mapped.
    pub fn map_again(base: usize, reserve: usize, fd: Fd) -> Result<Self, ArenaError> {
        let refused = ArenaError::NoSpace(Errno(libc::EINVAL));
        let plausible = base != 0 && base.is_multiple_of(STEP) && reserve >= STEP && reserve.is_multiple_of(STEP);
        if !plausible || affordable(reserve) < reserve {
            return Err(refused);
        }
        let id = call::file_id(fd).map_err(ArenaError::NoSpace)?;
        let mut head = [0u8; size_of::<Header>()];
        // Shorter than a header: no page of the mapping could be read.
        if call::pread(fd, &mut head, 0) != Ok(head.len()) {
            return Err(refused);
        }
        let place = call::map_shared(base, reserve, fd).map_err(ArenaError::NoSpace)?;
        // SAFETY: mapped just above, page aligned, and the file is longer than a header; an arena is never unmapped.
        let arena = Self { header: unsafe { place.cast::<Header>().as_ref() } };
        let header = arena.header;
        if arena.is_sound() && header.id == id && header.reserve == reserve && !arena.root().is_null() {
            return Ok(arena);
        }
        // SAFETY: mapped just above and known to nobody.
        let _ = unsafe { call::unmap(base, reserve) };
        Err(refused)
    }

    /// Makes this the arena that the process's allocator serves from while a guard is held.
    ///
    /// # Errors
    /// `AlreadyActive`.
    pub fn activate(self) -> Result<(), ArenaError> {
        let header = std::ptr::from_ref(self.header).cast_mut();
        ACTIVE
            .compare_exchange(std::ptr::null_mut(), header, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|_| ArenaError::AlreadyActive)
    }

    /// Makes this the active arena in place of another whose family is broken: the old one stays mapped, but nothing in it
    /// may be freed or grown any more.
    pub fn activate_instead(self) {
        OWN_FD.store(-1, Ordering::Relaxed);
        let old = ACTIVE.swap(std::ptr::from_ref(self.header).cast_mut(), Ordering::AcqRel);
        if !old.is_null() {
            let next = RETIRED_COUNT.fetch_add(1, Ordering::AcqRel);
            // More broken families than slots: the oldest is forgotten.
            if let Some(slot) = RETIRED.get(next % RETIRED.len()) {
                slot.store(old, Ordering::Release);
            }
        }
    }

    /// Whether an address lies in an arena that this process has given up.
    #[must_use]
    pub(super) fn is_retired(address: usize) -> bool {
        RETIRED_COUNT.load(Ordering::Relaxed) != 0
            && RETIRED.iter().any(|slot| {
                // SAFETY: null, or the header of an arena, which is never unmapped once active.
                let header = unsafe { slot.load(Ordering::Acquire).as_ref() };
                header.is_some_and(|header| Self { header }.contains(address))
            })
    }

    /// The process's own arena.
    #[inline]
    #[must_use]
    pub fn active() -> Option<Self> {
        let header = ACTIVE.load(Ordering::Acquire);
        // SAFETY: what is stored there is the header of an arena, never unmapped.
        unsafe { header.as_ref() }.map(|header| Self { header })
    }

    /// Where the arena begins.
    #[must_use]
    pub fn base(self) -> usize {
        std::ptr::from_ref(self.header) as usize
    }

    /// Address space taken, in bytes.
    #[must_use]
    pub fn reserve(self) -> usize {
        self.header.reserve
    }

    /// Whether an address lies in the arena.
    #[inline]
    #[must_use]
    pub fn contains(self, address: usize) -> bool {
        address.wrapping_sub(self.base()) < self.header.reserve
    }

    /// Layout version, for those who find an arena by its descriptor.
    #[must_use]
    pub fn version(self) -> u32 {
        self.header.version
    }

    /// Whether the header is what it should be.
    #[must_use]
    pub fn is_sound(self) -> bool {
        self.header.magic == MAGIC && self.header.version == VERSION
    }

    /// The family's lock.
    #[must_use]
    pub fn lock(self) -> &'static RobustLock {
        &self.header.lock
    }

    /// What the runtime hangs its state on; null at first.
    #[must_use]
    pub fn root(self) -> *mut () {
        self.header.root.load(Ordering::Acquire)
    }

    /// Sets the root pointer, for all members.
    pub fn set_root(self, root: *mut ()) {
        self.header.root.store(root, Ordering::Release);
    }

    /// Bytes in use, block headers included.
    #[must_use]
    pub fn used(self) -> usize {
        self.header.used.load(Ordering::Relaxed)
    }

    /// Bytes still to be had, fragmentation apart: whoever plans a large allocation asks long before the end, because an
    /// allocation that fails ends the process.
    #[must_use]
    pub fn available(self) -> usize {
        self.header.limit.load(Ordering::Relaxed).saturating_sub(self.used()).saturating_sub(size_of::<Header>())
    }

    /// Bytes of backing memory behind the reserve so far.
    #[must_use]
    pub fn grown(self) -> usize {
        self.header.grown.load(Ordering::Relaxed)
    }

    /// Blocks that were freed without a guard, and so leaked: each is a bug.
    #[must_use]
    pub fn strays(self) -> u64 {
        self.header.strays.load(Ordering::Relaxed)
    }

    pub(super) fn count_stray(self) {
        self.header.strays.fetch_add(1, Ordering::Relaxed);
    }

    /// The memfd in this process, to be guarded and handed on; `Fd::NONE` for an arena without one.
    #[must_use]
    pub fn fd(self) -> Fd {
        match OWN_FD.load(Ordering::Relaxed) {
            -1 => Fd(self.header.fd),
            own => Fd(own),
        }
    }

    /// Tells where the memfd is in this process now, after the program has closed or overwritten the old number.
    pub fn replace_fd(self, fd: Fd) {
        OWN_FD.store(fd.raw(), Ordering::Relaxed);
    }

    /// Whether `fd` is this arena's memfd.
    #[must_use]
    pub fn is_backed_by(self, fd: Fd) -> bool {
        self.header.fd >= 0 && call::file_id(fd) == Ok(self.header.id)
    }

    /// A block of memory, or null.
    ///
    /// # Safety
    /// One thread at a time: under the arena's lock, or before anyone else knows the arena.
    pub unsafe fn allocate(self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps others out.
        let first = unsafe { self.try_allocate(layout) };
        let Some(block) = first.or_else(|| {
            // SAFETY: the caller keeps others out.
            let grown = unsafe { self.grow(layout.size().saturating_add(layout.align())) };
            // SAFETY: the caller keeps others out.
            if grown { unsafe { self.try_allocate(layout) } } else { None }
        }) else {
            return std::ptr::null_mut();
        };
        let used = &self.header.used;
        used.store(used.load(Ordering::Relaxed).saturating_add(footprint(layout)), Ordering::Relaxed);
        block.as_ptr()
    }

    unsafe fn try_allocate(self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller keeps others out of the heap.
        let heap = unsafe { &mut *self.header.heap.get() };
        heap.allocate(layout)
    }

    /// Gives a block back.
    ///
    /// # Safety
    /// As `allocate`; the block came from there with the same layout and is not used any more.
    pub unsafe fn deallocate(self, block: NonNull<u8>, layout: Layout) {
        if layout.size() >= GIVE_BACK {
            self.give_pages_back(block, layout.size());
        }
        // SAFETY: the caller keeps others out of the heap.
        let heap = unsafe { &mut *self.header.heap.get() };
        // SAFETY: the caller vouches for the block.
        unsafe { heap.deallocate(block, layout.align()) };
        let used = &self.header.used;
        used.store(used.load(Ordering::Relaxed).saturating_sub(footprint(layout)), Ordering::Relaxed);
    }

    /// Changes the size of a block, moving it where it must; null when there is no room, and then the block stays.
    ///
    /// # Safety
    /// As `deallocate`; `size` rounded up to the alignment does not overflow.
    pub unsafe fn reallocate(self, block: NonNull<u8>, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the caller keeps others out of the heap.
        let heap = unsafe { &mut *self.header.heap.get() };
        // SAFETY: the caller vouches for the block; on failure it stays as it was.
        if let Some(moved) = unsafe { heap.reallocate(block, wanted) } {
            let used = &self.header.used;
            let without = used.load(Ordering::Relaxed).saturating_sub(footprint(layout));
            used.store(without.saturating_add(footprint(wanted)), Ordering::Relaxed);
            return moved.as_ptr();
        }
        // SAFETY: as the caller promised for this call.
        let fresh = unsafe { self.allocate(wanted) };
        if !fresh.is_null() {
            let count = layout.size().min(size);
            // SAFETY: both blocks are at least `count` long, and a fresh one overlaps nothing.
            unsafe { std::ptr::copy_nonoverlapping(block.as_ptr(), fresh, count) };
            // SAFETY: as the caller promised for this call; the contents have moved.
            unsafe { self.deallocate(block, layout) };
        }
        fresh
    }

    /// Returns the whole pages inside a dead block to the system.
    fn give_pages_back(self, block: NonNull<u8>, size: usize) {
        const PAGE: usize = super::memory::PAGE;
        let start = (block.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (block.as_ptr() as usize).saturating_add(size) & !(PAGE - 1);
        if end > start {
            // SAFETY: the pages lie inside a block that is being freed: the heap's own data stands before and behind
            // it. Where the advice is refused (locked memory), they just stay.
            let _ = unsafe { call::advise(start, end - start, libc::MADV_REMOVE) };
        }
    }

    /// Makes room for at least `needed` bytes more.
    ///
    /// # Safety
    /// As `allocate`.
    #[cold]
    unsafe fn grow(self, needed: usize) -> bool {
        let grown = self.grown();
        let step = needed.saturating_add(STEP / 4).max(grown / 4).max(STEP).next_multiple_of(STEP);
        let least = grown.saturating_add(needed).saturating_add(STEP / 4);
        let limit = self.header.reserve.min(file_size_limit());
        let target = grown.saturating_add(step).min(limit & !(STEP - 1));
        let fd = self.fd();
        if target <= grown || target < least || !self.is_backed_by(fd) {
            self.header.limit.store(grown, Ordering::Relaxed);
            return false;
        }
        // Another member may have grown the file and died before it said so: longer is as good.
        if call::ftruncate(fd, target as u64).is_err() {
            self.header.limit.store(grown, Ordering::Relaxed);
            return false;
        }
        self.header.grown.store(target, Ordering::Relaxed);
        // SAFETY: the range follows the last pool, has just come into being and belongs to nobody.
        unsafe { self.give_to_heap(grown, target, true) };
        true
    }

    /// Hands the bytes from offset `from` to `to` to the heap; `joining`: they follow those handed over last.
    unsafe fn give_to_heap(self, from: usize, to: usize, joining: bool) {
        let first = std::ptr::with_exposed_provenance_mut::<u8>(self.base() + from);
        let Some(first) = NonNull::new(first) else { return };
        let range = NonNull::slice_from_raw_parts(first, to - from);
        // SAFETY: the caller keeps others out of the heap.
        let heap = unsafe { &mut *self.header.heap.get() };
        if joining {
            // SAFETY: offsets are multiples of a step and the first range ended at one, so the pools are adjacent.
            unsafe { heap.append_free_block_ptr(range) };
        } else {
            // SAFETY: the caller gives the range away for good.
            unsafe { heap.insert_free_block_ptr(range) };
        }
    }

    /// Unmaps an arena that was never activated and closes its file.
    ///
    /// # Safety
    /// Nothing in it may be used any more, nor any copy of this handle.
    pub unsafe fn unmap(self) {
        let (base, reserve, fd) = (self.base(), self.reserve(), Fd(self.header.fd));
        // SAFETY: the caller vouches that nobody uses it.
        let _ = unsafe { call::unmap(base, reserve) };
        if fd.is_some() {
            let _ = call::close(fd);
        }
    }
}

/// What a block takes from the heap.
fn footprint(layout: Layout) -> usize {
    layout.size().saturating_add(BLOCK_HEADER).checked_next_multiple_of(GRANULARITY).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
