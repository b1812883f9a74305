//! Unmapping the program's memory in its keeper, so that a program of gigabytes leaves a process of some hundred
//! kilobytes: everything goes but this library, libc, the dynamic linker, the vDSO, the thread's storage, the arena and
//! the page that tells of forks. x86_64 with glibc; elsewhere the keeper keeps what it has (copy on write).
//!
//! Afterwards libc's heap, environment, stdio and unwinding are gone: a panic ends the keeper.

use super::super::arena::Arena;
use super::super::{alloc, call, memory};
use super::{RECORD, Record};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Most ranges that stay.
const MAX_RANGES: usize = 24;

/// Entries of the dynamic thread vector that can be copied; one for each module with thread-local storage.
const MAX_MODULES: usize = 500;

/// What glibc registers, unless the kernel asks for more (AT_RSEQ_FEATURE_SIZE).
const RSEQ_SIZE: usize = 32;

/// The signature glibc registers rseq with on x86 (RSEQ_SIG).
const RSEQ_SIGNATURE: usize = 0x5305_3053;

/// Above the thread pointer lies glibc's struct pthread with the rseq area; two pages hold it whatever the version.
const THREAD_DESCRIPTOR: usize = 8192;

/// The vDSO's data pages lie this far below it at most.
const VDSO_DATA: usize = 0x10000;

/// The lowest address that a program may map, by the usual vm.mmap_min_addr.
const LOWEST: usize = 0x10000;

/// The end of what a program gets without asking for more, with 4-level page tables.
const HIGHEST: usize = 0x7fff_ffff_f000;

/// Why the program's memory stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedError {
    /// Not on this processor or C library.
    Unsupported,
    /// `prepare_to_shed` has not run or found more than it can hold.
    Unprepared,
    /// This process is no keeper.
    NoKeeper,
    /// No memory for the keeper's own heap.
    NoHeap,
}

/// Room in the keeper's record.
pub(super) struct Room {
    /// Written by the keeper only.
    vector: UnsafeCell<[usize; 2 * (MAX_MODULES + 2)]>,
}

impl Room {
    pub(super) const fn new() -> Self {
        Self { vector: UnsafeCell::new([0; 2 * (MAX_MODULES + 2)]) }
    }
}

/// What was found out in the program, where libc may still be asked. Written once.
struct Plan {
    ready: AtomicBool,
    starts: [AtomicUsize; MAX_RANGES],
    ends: [AtomicUsize; MAX_RANGES],
    count: AtomicUsize,
    overflow: AtomicBool,
    /// How far below the thread pointer the storage of the modules that stay reaches.
    storage: AtomicUsize,
    /// Offset of the rseq area from the thread pointer; 0 for none.
    rseq: AtomicUsize,
    busy: AtomicU32,
}

static PLAN: Plan = Plan {
    ready: AtomicBool::new(false),
    starts: [const { AtomicUsize::new(0) }; MAX_RANGES],
    ends: [const { AtomicUsize::new(0) }; MAX_RANGES],
    count: AtomicUsize::new(0),
    overflow: AtomicBool::new(false),
    storage: AtomicUsize::new(0),
    rseq: AtomicUsize::new(0),
    busy: AtomicU32::new(0),
};

/// Libraries that code of ours calls into, by the start of their file names.
const NEEDED: [&[u8]; 8] =
    [b"libc.so", b"libc-", b"ld-linux", b"ld-2", b"libgcc_s", b"libm.so", b"libpthread", b"libdl.so"];

/// Looks up which memory has to stay. To be called early in the program (it takes the dynamic linker's lock); later
/// calls do nothing.
pub fn prepare_to_shed() {
    if cfg!(not(all(target_arch = "x86_64", target_env = "gnu"))) || PLAN.busy.swap(1, Ordering::AcqRel) != 0 {
        return;
    }
    // SAFETY: the callback only reads the record it is handed.
    unsafe { libc::dl_iterate_phdr(Some(each_module), std::ptr::null_mut()) };
    // SAFETY: a C string; the default handle needs no opening.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    if !symbol.is_null() {
        // SAFETY: glibc's `__rseq_offset` is a constant of type ptrdiff_t.
        PLAN.rseq.store(unsafe { symbol.cast::<usize>().read() }, Ordering::Relaxed);
    }
    PLAN.ready.store(true, Ordering::Release);
}

unsafe extern "C" fn each_module(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _argument: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the dynamic linker hands over a valid record.
    let info = unsafe { &*info };
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: `dlpi_phnum` headers are mapped there.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    let here = each_module as *const () as usize;
    let (mut low, mut high, mut own) = (usize::MAX, 0, false);
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
        let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
        let end = start.wrapping_add(header.p_memsz as usize);
        low = low.min(start);
        high = high.max(end);
        own |= (start..end).contains(&here);
    }
    if high == 0 {
        return 0;
    }
    let path: &[u8] = if info.dlpi_name.is_null() {
        &[]
    } else {
        // SAFETY: a non-null name is a C string.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()
    };
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]);
    if file.starts_with(b"linux-vdso") {
        note_range(low.saturating_sub(VDSO_DATA), high);
    } else if own || NEEDED.iter().any(|name| file.starts_with(name)) {
        note_range(low, high);
        let below = thread_pointer().wrapping_sub(info.dlpi_tls_data as usize);
        // Storage elsewhere than below the thread pointer came later, by dlopen, and is not in the static block.
        if !info.dlpi_tls_data.is_null() && below < 1 << 20 {
            PLAN.storage.fetch_max(below, Ordering::Relaxed);
        }
    }
    0
}

fn note_range(low: usize, high: usize) {
    let index = PLAN.count.load(Ordering::Relaxed);
    match (PLAN.starts.get(index), PLAN.ends.get(index)) {
        (Some(start), Some(end)) => {
            start.store(low, Ordering::Relaxed);
            end.store(high, Ordering::Relaxed);
            PLAN.count.store(index + 1, Ordering::Relaxed);
        }
        _ => PLAN.overflow.store(true, Ordering::Relaxed),
    }
}

#[cfg(target_arch = "x86_64")]
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the x86_64 ABI keeps the thread pointer at its own address.
    unsafe { core::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags)) };
    pointer
}

#[cfg(not(target_arch = "x86_64"))]
fn thread_pointer() -> usize {
    0
}

/// Unmaps the program's memory. Only in a keeper, at the start of its entry; the arena must be active, and whatever the
/// keeper goes on to use must lie in it.
///
/// # Errors
/// As [`ShedError`]; then everything is as before.
///
/// # Safety
/// The keeper uses nothing of the program's heap, stacks, environment or other libraries from here on.
pub unsafe fn shed_program_memory() -> Result<(), ShedError> {
    if cfg!(not(all(target_arch = "x86_64", target_env = "gnu"))) {
        return Err(ShedError::Unsupported);
    }
    if !PLAN.ready.load(Ordering::Acquire) || PLAN.overflow.load(Ordering::Relaxed) {
        return Err(ShedError::Unprepared);
    }
    let record = RECORD.load(Ordering::Acquire);
    let (Some(arena), false) = (Arena::active(), record.is_null()) else { return Err(ShedError::NoKeeper) };
    if !arena.contains(record as usize) || !arena.contains((&raw const record) as usize) {
        // Not on the keeper's stack.
        return Err(ShedError::NoKeeper);
    }
    let pointer = thread_pointer();
    forget_rseq(pointer);
    // SAFETY: the record is the keeper's own, in the arena.
    if !unsafe { move_thread_vector(pointer, record) } {
        return Err(ShedError::Unprepared);
    }
    if !alloc::abandon_system_heap() {
        return Err(ShedError::NoHeap);
    }
    let mut ranges = [(0usize, 0usize); MAX_RANGES + 4];
    let mut count = 0;
    let mut stay = |low: usize, high: usize| {
        if let Some(slot) = ranges.get_mut(count) {
            *slot = (low & !(memory::PAGE - 1), high.next_multiple_of(memory::PAGE));
            count += 1;
        }
    };
    for (start, end) in PLAN.starts.iter().zip(&PLAN.ends).take(PLAN.count.load(Ordering::Relaxed)) {
        stay(start.load(Ordering::Relaxed), end.load(Ordering::Relaxed));
    }
    stay(pointer.saturating_sub(PLAN.storage.load(Ordering::Relaxed)), pointer + THREAD_DESCRIPTOR);
    stay(arena.base(), arena.base() + arena.reserve());
    if let Some((low, high)) = memory::wiped_page() {
        stay(low, high);
    }
    if let Some((low, high)) = alloc::shed_heap() {
        stay(low, high);
    }
    let ranges = ranges.get_mut(..count).unwrap_or(&mut []);
    ranges.sort_unstable();
    let mut at = LOWEST;
    for (low, high) in ranges.iter().copied().chain([(HIGHEST, HIGHEST)]) {
        if low > at {
            // SAFETY: nothing in between is used any more, by the caller's promise.
            let _ = unsafe { call::unmap(at, low - at) };
        }
        at = at.max(high);
    }
    Ok(())
}

/// Takes the thread's rseq area from the kernel, which writes to it at each preemption. The area's pages stay, so a
/// refusal does no harm.
fn forget_rseq(pointer: usize) {
    let offset = PLAN.rseq.load(Ordering::Relaxed);
    if offset != 0 {
        let arguments = [pointer.wrapping_add(offset), RSEQ_SIZE, 1, RSEQ_SIGNATURE];
        // SAFETY: unregistering what glibc has registered for this thread; nothing is written.
        let _ = unsafe { call::invoke(libc::SYS_rseq, arguments) };
    }
}

/// A thread's dynamic thread vector lies in libc's heap: copies it to the arena, or `__tls_get_addr` would fault.
///
/// # Safety
/// `record` is the keeper's own and `pointer` its thread pointer.
unsafe fn move_thread_vector(pointer: usize, record: *mut Record) -> bool {
    let slot = (pointer + size_of::<usize>()) as *mut *mut usize;
    // SAFETY: in glibc on x86_64 the second word behind the thread pointer is the vector's address.
    let vector = unsafe { slot.read() };
    // SAFETY: the number of entries stands two words in front of the first, in the same allocation.
    let source = unsafe { vector.sub(2) };
    // SAFETY: glibc keeps it there.
    let modules = unsafe { source.read() };
    if modules > MAX_MODULES {
        return false;
    }
    // SAFETY: the keeper's own record, in the arena.
    let record = unsafe { &*record };
    let target = record.shed.vector.get().cast::<usize>();
    // SAFETY: entry 0 and `modules` more of two words each follow the length; the room holds MAX_MODULES of them.
    unsafe { std::ptr::copy_nonoverlapping(source, target, 2 * (modules + 2)) };
    // SAFETY: two words into the room.
    let moved = unsafe { target.add(2) };
    // SAFETY: the slot is this thread's own.
    unsafe { slot.write(moved) };
    true
}
