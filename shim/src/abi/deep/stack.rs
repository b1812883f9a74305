//! The stack that caught calls run on, one for each thread. A goroutine has no room for a call, and the stack of its
//! signals (32 KiB in the heap of Go) has none for a call with another signal on top. So the handler moves: what the
//! kernel saved is copied here, the call runs here, and from here the program is returned to.

use std::cell::Cell;
use std::ffi::c_void;

use libc::{REG_RSP, ucontext_t};
use once_cell::sync::OnceCell;
use remora_host::sys::{Errno, call};

use super::emulate;

/// Bytes of a stack: a call and some handlers of the program on top of it. Untouched pages cost nothing.
const SIZE: usize = 256 << 10;
/// The page below, which nothing may touch.
const GUARD: usize = 4096;

thread_local! {
    /// Where this thread's stack begins, downwards; 0: it has none.
    static TOP: Cell<usize> = const { Cell::new(0) };
    /// A handler of the program runs, which has interrupted a call on that stack.
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Takes a thread's stack away at its end.
static KEY: OnceCell<libc::pthread_key_t> = OnceCell::new();

unsafe extern "C" fn take_away(bottom: *mut c_void) {
    TOP.set(0);
    // SAFETY: mapped by prepare(); no call runs on it, as this is libc's end of the thread.
    let _ = unsafe { call::native(libc::SYS_munmap, [bottom as usize, SIZE, 0, 0, 0, 0]) };
}

/// Makes the calling thread's stack.
pub(super) fn prepare() -> Result<(), Errno> {
    if TOP.get() != 0 {
        return Ok(());
    }
    let bottom = call::map_private(SIZE, libc::MAP_NORESERVE)?.as_ptr() as usize;
    // SAFETY: the lowest page of what was mapped just now.
    let _ = unsafe { call::native(libc::SYS_mprotect, [bottom, GUARD, libc::PROT_NONE as usize, 0, 0, 0]) };
    let key = KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: libc writes one key; the function stays for good.
        let made = unsafe { libc::pthread_key_create(&raw mut key, Some(take_away)) };
        if made == 0 { key } else { libc::pthread_key_t::MAX }
    });
    // SAFETY: the key was made above, or is none, which libc refuses.
    let _ = unsafe { libc::pthread_setspecific(*key, bottom as *const c_void) };
    TOP.set(bottom + SIZE);
    Ok(())
}

fn is_own(pointer: usize) -> bool {
    let top = TOP.get();
    top != 0 && pointer < top && pointer >= top - SIZE
}

fn pointer_of(context: &ucontext_t) -> usize {
    context.uc_mcontext.gregs.get(REG_RSP as usize).copied().unwrap_or(0) as usize
}

/// A handler of the program is about to run; the result is for [`handler_is_done`].
///
/// # Safety
/// `context` must be that of the running handler.
pub(crate) unsafe fn interrupts(context: *const c_void) -> bool {
    // SAFETY: as of this function.
    let context = unsafe { &*context.cast::<ucontext_t>() };
    let before = INTERRUPTED.get();
    if is_own(pointer_of(context)) {
        INTERRUPTED.set(true);
    }
    before
}

/// It has come back.
pub(crate) fn handler_is_done(before: bool) {
    INTERRUPTED.set(before);
}

/// The kernel's part of a ucontext, with which libc's begins: flags, link, stack, registers, mask.
const CONTEXT_WORDS: usize = 38;
/// The registers of the floating point unit without extensions (`struct _fpstate_64`), and where in them the size with
/// extensions is told, after its magic number.
const PLAIN_UNIT: usize = 512;
const MAGIC_AT: usize = 464;
const MAGIC: u32 = 0x4650_5853;

/// Moves a caught call to this thread's stack, where it runs and from where the program is returned to. Comes back when
/// there is none, or a call on it has been interrupted by the handler that makes this one; the call then runs where it
/// is. (A handler on the stack of signals has interrupted one if it says so. One elsewhere has not: then the handler
/// has been left by siglongjmp, and the interrupted call with it.)
///
/// # Safety
/// The context must be that of a SIGSYS about a call, in whose handler this runs.
pub(super) unsafe fn leave_for_own(context: &mut ucontext_t, narrow: bool) {
    let (top, pointer) = (TOP.get(), pointer_of(context));
    let signals =
        context.uc_stack.ss_sp as usize..(context.uc_stack.ss_sp as usize).wrapping_add(context.uc_stack.ss_size);
    if top == 0 || is_own(pointer) || (INTERRUPTED.get() && signals.contains(&pointer)) {
        return;
    }
    INTERRUPTED.set(false);
    let unit = context.uc_mcontext.fpregs as usize;
    let mut lowest = top;
    if unit != 0 {
        let word = |at: usize| {
            let place = (unit + at) as *const u32;
            // SAFETY: the kernel has written at least the plain registers there.
            unsafe { place.read_unaligned() }
        };
        let size = if word(MAGIC_AT) == MAGIC { word(MAGIC_AT + 4) as usize } else { PLAIN_UNIT };
        if size > SIZE / 4 {
            return;
        }
        // XRSTOR wants 64 bytes of alignment.
        lowest = (lowest - size) & !63;
        // SAFETY: so many bytes lie there, and this stack is in nobody's use.
        unsafe { std::ptr::copy_nonoverlapping(unit as *const u8, lowest as *mut u8, size) };
        context.uc_mcontext.fpregs = lowest as *mut _;
    }
    lowest = (lowest - size_of::<ucontext_t>()) & !63;
    let copy = lowest as *mut u64;
    // SAFETY: the kernel's part is there, and this stack is in nobody's use.
    unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(context).cast::<u64>(), copy, CONTEXT_WORDS) };
    // SAFETY: what lies below is free.
    unsafe { begin(copy.cast(), narrow) };
}

/// Goes on in [`on_own`] with the stack below `context`.
#[unsafe(naked)]
unsafe extern "C" fn begin(context: *mut ucontext_t, narrow: bool) -> ! {
    core::arch::naked_asm!("mov rsp, rdi", "call {body}", "ud2", body = sym on_own)
}

unsafe extern "C" fn on_own(context: *mut ucontext_t, narrow: bool) -> ! {
    // SAFETY: the copy that was made above, on this stack.
    let own = unsafe { &mut *context };
    // SAFETY: a context as the kernel made it.
    unsafe { super::carry_out(own, narrow) };
    // SAFETY: as above; the kernel finds it at the stack pointer.
    unsafe { emulate::return_from_handler(context as usize) }
}
