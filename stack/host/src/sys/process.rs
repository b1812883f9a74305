//! The birth of the keeper: a process of its own session that lives on in the arena after the program has gone, unseen by
//! the program's wait, pipes and terminal. A stage that shares the program's memory (CLONE_VM|CLONE_VFORK, so it costs no
//! page tables and is over before the program goes on) closes the descriptors and then forks the keeper; where orphans
//! would come back to the program (a subreaper, pid 1) the keeper is a direct child without exit signal. What the
//! keeper does is left to the runtime.

use super::call::{self, Errno, Fd, invoke, word};
use super::lock::thread_id;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

mod shed;

pub use shed::{ShedError, prepare_to_shed, shed_program_memory};

/// Most descriptors that a keeper takes along.
pub const MAX_KEPT: usize = 128;

/// Stack of the stage, which only makes a few system calls.
const STAGE_STACK: usize = 32 << 10;

/// The least stack that a keeper is given.
const LEAST_STACK: usize = 64 << 10;

/// The least region: record, stage's stack and keeper's stack. A driver wants more: 512 KiB is ample.
pub const LEAST_REGION: usize = RECORD_SIZE + STAGE_STACK + LEAST_STACK;

/// How long a program waits for its direct child to have closed the descriptors.
const CLOSING_PATIENCE: Duration = Duration::from_millis(200);

/// What a new keeper runs; it never returns.
pub type KeeperEntry = extern "C" fn(*mut ()) -> !;

/// What stage and keeper have to know, at the start of their region in the arena.
#[repr(C)]
struct Record {
    entry: KeeperEntry,
    argument: *mut (),
    stack_top: usize,
    /// The keeper's pid, or a negative error number; 0 until known.
    outcome: AtomicI32,
    /// Set when a direct child has closed the program's descriptors.
    closed: AtomicU32,
    kept: [i32; MAX_KEPT],
    kept_count: usize,
    /// Room for a copy of the thread's dynamic thread vector.
    shed: shed::Room,
}

const RECORD_SIZE: usize = size_of::<Record>().next_multiple_of(4096);

/// The record of the keeper that this process is or has made, for `shed_program_memory`.
static RECORD: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());

/// What to make a keeper of.
#[derive(Clone, Copy, Debug)]
pub struct KeeperOrder<'a> {
    /// What it runs.
    pub entry: KeeperEntry,
    /// What it is handed; in the arena, for everything else may go.
    pub argument: *mut (),
    /// Memory in the arena for its stack, page aligned, [`LEAST_REGION`] at least. No other keeper may live in it.
    pub region: NonNull<[u8]>,
    /// Descriptors that it keeps, at the same numbers, from 3 on. All others are closed.
    pub keep: &'a [Fd],
}

/// Leaves a keeper behind and returns its pid. All signals are blocked in it, 0 to 2 are an O_PATH descriptor of the
/// root directory, the working directory is `/`, it dumps no core and is named `remora-keeper`.
///
/// # Errors
/// EINVAL for a bad order; what clone(2) says where no process can be made (EPERM, EAGAIN, ENOMEM): then the callers
/// alone drive.
///
/// # Safety
/// The region is shared memory (MAP_SHARED), used by nobody else as long as the keeper lives. The entry uses nothing of
/// the program's that another thread may hold half changed: no lock of libc, no `malloc`.
pub unsafe fn spawn_keeper(order: &KeeperOrder<'_>) -> Result<i32, Errno> {
    let base = order.region.cast::<u8>();
    let length = order.region.len();
    let aligned = (base.as_ptr() as usize).is_multiple_of(super::memory::PAGE);
    if !aligned || length < LEAST_REGION || order.keep.len() > MAX_KEPT {
        return Err(Errno(libc::EINVAL));
    }
    let mut kept = [0i32; MAX_KEPT];
    for (slot, fd) in kept.iter_mut().zip(order.keep) {
        *slot = fd.raw();
    }
    let numbers = &mut kept[..order.keep.len()];
    numbers.sort_unstable();
    if numbers.first().is_some_and(|number| *number < 3) {
        return Err(Errno(libc::EINVAL));
    }
    let top = (base.as_ptr() as usize + length) & !15;
    let record = Record {
        entry: order.entry,
        argument: order.argument,
        stack_top: top,
        outcome: AtomicI32::new(0),
        closed: AtomicU32::new(0),
        kept,
        kept_count: order.keep.len(),
        shed: shed::Room::new(),
    };
    let place = base.cast::<Record>();
    // SAFETY: the region is page aligned, long enough and ours alone.
    unsafe { place.write(record) };
    RECORD.store(place.as_ptr(), Ordering::Release);
    // The copy inherits the page and the caches of its memory: they must be right before it starts.
    let _ = thread_id();
    let old = call::signal_mask(libc::SIG_SETMASK, call::ALL_SIGNALS)?;
    let result = if call::is_subreaper() || call::getpid() == 1 {
        spawn_direct(place)
    } else {
        spawn_orphan(place, base.as_ptr() as usize + RECORD_SIZE + STAGE_STACK)
    };
    let _ = call::signal_mask(libc::SIG_SETMASK, old);
    result
}

fn spawn_orphan(record: NonNull<Record>, stage_top: usize) -> Result<i32, Errno> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_UNTRACED;
    // SAFETY: the stage runs on its own stack and this thread sleeps until it has gone.
    let stage = unsafe { clone_onto(flags, stage_top & !15, stage_body, record.as_ptr()) }?;
    while call::wait4(stage, libc::__WALL) == Err(Errno(libc::EINTR)) {}
    // SAFETY: written by `spawn_keeper`, and the region is shared.
    let record = unsafe { record.as_ref() };
    match record.outcome.load(Ordering::Acquire) {
        // Killed before it could say.
        0 => Err(Errno(libc::EAGAIN)),
        pid if pid > 0 => Ok(pid),
        errno => Err(Errno(-errno)),
    }
}

fn spawn_direct(record: NonNull<Record>) -> Result<i32, Errno> {
    // SAFETY: written by `spawn_keeper`, and the region is shared.
    let shared = unsafe { record.as_ref() };
    // SAFETY: a copy of this process on a stack of its own.
    let pid = unsafe { clone_onto(libc::CLONE_UNTRACED, shared.stack_top, direct_body, record.as_ptr()) }?;
    // Without CLONE_VFORK the program would go on while the copy still holds its pipes and ports.
    let deadline = call::now() + CLOSING_PATIENCE;
    while shared.closed.load(Ordering::Acquire) == 0 && call::now() < deadline {
        let _ = call::futex_wait(&shared.closed, 0, Some(Duration::from_millis(20)));
    }
    Ok(pid)
}

extern "C" fn stage_body(record: *mut Record) -> ! {
    // SAFETY: handed over by `spawn_orphan`, which waits.
    let shared = unsafe { &*record };
    let _ = call::setsid();
    close_others(shared);
    // SAFETY: a copy of the program on a stack of its own.
    let outcome = match unsafe { clone_onto(libc::CLONE_UNTRACED, shared.stack_top, keeper_body, record) } {
        Ok(pid) => pid,
        Err(Errno(errno)) => -errno,
    };
    shared.outcome.store(outcome, Ordering::Release);
    call::exit_group(0)
}

extern "C" fn direct_body(record: *mut Record) -> ! {
    // SAFETY: handed over by `spawn_direct`, in shared memory.
    let shared = unsafe { &*record };
    let _ = call::setsid();
    close_others(shared);
    shared.closed.store(1, Ordering::Release);
    call::futex_wake(&shared.closed, 1);
    keeper_body(record)
}

extern "C" fn keeper_body(record: *mut Record) -> ! {
    // SAFETY: in shared memory, which the keeper never gives up.
    let shared = unsafe { &*record };
    let _ = call::set_thread_name(c"remora-keeper");
    let _ = call::chdir(c"/");
    let _ = call::set_resource_limit(libc::RLIMIT_CORE as i32, call::ResourceLimit { soft: 0, hard: 0 });
    let disabled = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: the kernel reads one stack_t. The program's alternative stack is not the keeper's.
    let _ = unsafe { invoke(libc::SYS_sigaltstack, [(&raw const disabled) as usize, 0]) };
    (shared.entry)(shared.argument)
}

/// Closes all descriptors but the kept ones and fills 0 to 2.
fn close_others(record: &Record) {
    let kept = record.kept.get(..record.kept_count).unwrap_or(&[]);
    let mut first = 3u32;
    for number in kept.iter().map(|number| number.unsigned_abs()) {
        if number > first {
            close_all(first, number - 1);
        }
        first = first.max(number + 1);
    }
    close_all(first, u32::MAX);
    // Never readable, never writable, and there even in a chroot.
    if let Ok(filler) = call::open(c"/", libc::O_PATH, 0) {
        for number in 0..3 {
            if number != filler.raw() {
                let _ = call::dup3(filler, Fd(number), 0);
            }
        }
        if filler.raw() > 2 {
            let _ = call::close(filler);
        }
    } else {
        for number in 0..3 {
            let _ = call::close(Fd(number));
        }
    }
}

fn close_all(first: u32, last: u32) {
    if call::close_range(first, last, 0).is_ok() {
        return;
    }
    // Kernels before 5.9.
    let limit = call::resource_limit(libc::RLIMIT_NOFILE as i32).map_or(1024, |limit| limit.soft);
    let end = last.min(u32::try_from(limit).unwrap_or(u32::MAX).min(1 << 20));
    for number in first..=end {
        let _ = call::close(Fd(number as i32));
    }
}

/// clone(2) with `flags` and no exit signal; the child runs `body` on the stack that ends at `top`.
///
/// # Safety
/// `top` is 16-byte aligned and below it is enough memory of the child's own; `body` never returns and does nothing
/// that is wrong in a copy of this process, or beside it with CLONE_VM.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_onto(
    flags: i32,
    top: usize,
    body: extern "C" fn(*mut Record) -> !,
    record: *mut Record,
) -> Result<i32, Errno> {
    let result: isize;
    // SAFETY: the parent comes out as from any system call; the child has all registers but the stack pointer, clears
    // the frame pointer for backtraces, and calls.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => result,
            in("rdi") word(flags),
            in("rsi") top,
            in("rdx") 0usize,
            in("r10") 0usize,
            in("r8") 0usize,
            in("r12") body,
            in("r13") record,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as i32) }
}

/// As above.
///
/// # Safety
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn clone_onto(
    flags: i32,
    top: usize,
    body: extern "C" fn(*mut Record) -> !,
    record: *mut Record,
) -> Result<i32, Errno> {
    let result: isize;
    // SAFETY: as on x86_64.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x21",
            "blr x20",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone,
            inlateout("x0") word(flags) as isize => result,
            in("x1") top,
            in("x2") 0usize,
            in("x3") 0usize,
            in("x4") 0usize,
            in("x20") body,
            in("x21") record,
        );
    }
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests;
