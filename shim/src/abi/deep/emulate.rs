//! Caught calls that mean something else inside the handler than where they were made: those on signal masks and stacks
//! act on what the handler returns to, clone with a stack begins where the program stands, vfork is fork. And the
//! registers of a call (x86-64).

use libc::{
    REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP, c_int, siginfo_t, stack_t,
    ucontext_t,
};
use remora_host::sys::Errno;

use super::{Caught, SIGSYS_BIT, routed};
use crate::abi::memory::User;
use crate::abi::{Outcome, signal};

/// AUDIT_ARCH_I386 (linux/audit.h): the call came by `int 0x80`.
const ARCHITECTURE_NARROW: u32 = 0x4000_0003;
/// Where the kernel tells the architecture in a siginfo of SIGSYS (`_arch`, after the address and the number).
const ARCHITECTURE_AT: usize = 28;

fn register(context: &ucontext_t, which: c_int) -> usize {
    context.uc_mcontext.gregs.get(which as usize).copied().unwrap_or(0) as usize
}

/// The call that the context stands behind.
pub(super) fn caught(context: &ucontext_t) -> Caught {
    let words = [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9].map(|which| register(context, which));
    Caught { number: register(context, REG_RAX) as i64, words }
}

/// What the program finds as the result.
pub(super) fn set_result(context: &mut ucontext_t, result: isize) {
    if let Some(place) = context.uc_mcontext.gregs.get_mut(REG_RAX as usize) {
        *place = result as i64;
    }
}

/// Has the program make the call once more after the handler: the instruction is two bytes.
pub(super) fn repeat(context: &mut ucontext_t) {
    if let Some(place) = context.uc_mcontext.gregs.get_mut(REG_RIP as usize) {
        *place -= 2;
    }
}

/// Whether the call was made by the 32-bit entry.
///
/// # Safety
/// `information` must be that of a SIGSYS.
pub(super) unsafe fn is_narrow(information: *const siginfo_t) -> bool {
    // SAFETY: a siginfo is 128 bytes.
    let place = unsafe { information.byte_add(ARCHITECTURE_AT) }.cast::<u32>();
    // SAFETY: as above; the kernel has written it, aligned.
    unsafe { place.read() == ARCHITECTURE_NARROW }
}

/// Makes a call of the 32-bit entry again, as it was. Its numbers are others, and no compiler of 64-bit programs makes
/// any: it is the kernel's.
///
/// # Safety
/// The context must be that of such a call.
pub(super) unsafe fn narrow(context: &ucontext_t) -> isize {
    // SAFETY: the registers are the program's own; the kernel keeps all but rax.
    unsafe { enter_narrow(context.uc_mcontext.gregs.as_ptr()) }
}

/// Registers in a context: r8 to r15 are the first eight, then rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
#[unsafe(naked)]
unsafe extern "C" fn enter_narrow(registers: *const i64) -> isize {
    core::arch::naked_asm!(
        "push rbx",
        "push rbp",
        "mov r11, rdi",
        "mov rdi, [r11 + 8*8]",
        "mov rsi, [r11 + 9*8]",
        "mov rbp, [r11 + 10*8]",
        "mov rbx, [r11 + 11*8]",
        "mov rdx, [r11 + 12*8]",
        "mov rax, [r11 + 13*8]",
        "mov rcx, [r11 + 14*8]",
        "int 0x80",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// The calls that are this file's business; `None` for all others.
///
/// # Safety
/// The call must be one that the program has made, and the context that of the signal which says so.
pub(super) unsafe fn special(caught: Caught, context: &mut ucontext_t) -> Option<isize> {
    let Caught { number, words: [a, b, c, d, e, f] } = caught;
    let result = match number {
        libc::SYS_rt_sigprocmask => change_mask(context, a, b, c, d),
        libc::SYS_rt_sigaction => return set_action(a as i32, b, c, d),
        libc::SYS_sigaltstack => change_stack(context, a, b),
        // SAFETY: the program returns from a handler of its own, whose frame lies at its stack pointer.
        libc::SYS_rt_sigreturn => unsafe { return_from_handler(register(context, REG_RSP)) },
        libc::SYS_vfork => return routed(libc::SYS_fork, [0; 6]),
        libc::SYS_clone if b != 0 => {
            // SAFETY: the stack that the program gave for this.
            unsafe { clone_onto(context.uc_mcontext.gregs.as_ptr(), b) }
        }
        libc::SYS_clone if a & SHARING != 0 => return routed(number, [a & !SHARING, b, c, d, e, f]),
        libc::SYS_clone3 => {
            // SAFETY: the program's own words.
            return unsafe { clone3(context, a, b) };
        }
        _ => return None,
    };
    Some(result)
}

/// What makes a vfork of a fork. Its child may make calls that are ours, which must not happen in memory shared with its
/// parent; and the parent need not wait, as its memory is its own.
const SHARING: usize = (libc::CLONE_VM | libc::CLONE_VFORK) as usize;

/// Words of struct clone_args that there are (CLONE_ARGS_SIZE_VER2), and which of them are looked at.
const CLONE_WORDS: usize = 11;
const CLONE_FLAGS: usize = 0;
const CLONE_STACK: usize = 5;
const CLONE_STACK_SIZE: usize = 6;

/// # Safety
/// As of [`special`].
unsafe fn clone3(context: &ucontext_t, arguments: usize, size: usize) -> Option<isize> {
    let count = (size / size_of::<u64>()).min(CLONE_WORDS);
    // SAFETY: the program passed it for this.
    let mut words = unsafe { User::<u64>::new(arguments) }.read_many(count).ok()?;
    let at = |index: usize| words.get(index).copied().unwrap_or(0) as usize;
    let (stack, flags) = (at(CLONE_STACK).wrapping_add(at(CLONE_STACK_SIZE)), at(CLONE_FLAGS));
    if stack != 0 {
        // SAFETY: the stack that the program gave for this.
        return Some(unsafe { clone_onto(context.uc_mcontext.gregs.as_ptr(), stack) });
    }
    if flags & SHARING == 0 || size > CLONE_WORDS * size_of::<u64>() {
        return None;
    }
    if let Some(word) = words.get_mut(CLONE_FLAGS) {
        *word = (flags & !SHARING) as u64;
    }
    routed(libc::SYS_clone3, [words.as_ptr() as usize, size, 0, 0, 0, 0])
}

/// Makes the call in `registers` again, which is a clone whose child has a stack of its own: the child goes on in the
/// program, just behind the call, with the program's registers. Its calls are not caught: it may have thread-local
/// storage of a shape that this library knows nothing of, or share its maker's.
///
/// The child finds the address to go on at below its stack, where nothing is kept.
#[unsafe(naked)]
unsafe extern "C" fn clone_onto(registers: *const i64, stack: usize) -> isize {
    core::arch::naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rax, [rdi + {rip}*8]",
        "mov [rsi - 8], rax",
        "mov r11, rdi",
        "mov r8, [r11]",
        "mov r9, [r11 + 1*8]",
        "mov r10, [r11 + 2*8]",
        "mov r12, [r11 + 4*8]",
        "mov r13, [r11 + 5*8]",
        "mov r14, [r11 + 6*8]",
        "mov r15, [r11 + 7*8]",
        "mov rdi, [r11 + 8*8]",
        "mov rsi, [r11 + 9*8]",
        "mov rbp, [r11 + 10*8]",
        "mov rbx, [r11 + 11*8]",
        "mov rdx, [r11 + 12*8]",
        "mov rax, [r11 + 13*8]",
        "syscall",
        "test rax, rax",
        "jnz 2f",
        "jmp [rsp - 8]",
        "2:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        rip = const REG_RIP,
    )
}

/// rt_sigreturn with this stack pointer, at which a context lies.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn return_from_handler(stack: usize) -> ! {
    core::arch::naked_asm!("mov rsp, rdi", "mov eax, 15", "syscall", "ud2")
}

/// Signals that cannot be blocked: two by the kernel, one by us.
const NEVER_BLOCKED: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1) | SIGSYS_BIT;

/// rt_sigprocmask: the mask in force after the handler is the one in its context.
fn change_mask(context: &mut ucontext_t, how: usize, set: usize, old: usize, size: usize) -> isize {
    if size != size_of::<u64>() {
        return -(libc::EINVAL as isize);
    }
    let mask = (&raw mut context.uc_sigmask).cast::<u64>();
    // SAFETY: a set of the kernel's is the first 64 bits of libc's.
    let before = unsafe { mask.read() };
    if set != 0 {
        // SAFETY: the program passed it for this.
        let Ok(named) = unsafe { User::<u64>::new(set) }.read() else { return -(libc::EFAULT as isize) };
        let after = match how as i32 {
            libc::SIG_BLOCK => before | named,
            libc::SIG_UNBLOCK => before & !named,
            libc::SIG_SETMASK => named,
            _ => return -(libc::EINVAL as isize),
        };
        // SAFETY: as above.
        unsafe { mask.write(after & !NEVER_BLOCKED) };
    }
    // SAFETY: the program passed it for this.
    if old != 0 && unsafe { User::<u64>::new(old) }.write(before).is_err() {
        return -(libc::EFAULT as isize);
    }
    0
}

/// Words of the kernel's struct sigaction: handler, flags, restorer, mask.
const ACTION_WORDS: usize = 4;
/// The kernel's flag for a restorer, which is libc's now.
const SA_RESTORER: i32 = 0x0400_0000;

/// rt_sigaction: as sigaction() with our trampoline. `None` for what only the kernel can say.
fn set_action(number: i32, new: usize, old: usize, size: usize) -> Option<isize> {
    if size != size_of::<u64>() {
        return None;
    }
    // SAFETY: all zero is a valid sigaction.
    let mut wanted: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut previous = wanted;
    if new != 0 {
        // SAFETY: the program passed it for this.
        let words = unsafe { User::<usize>::new(new) }.read_many(ACTION_WORDS).ok()?;
        let [handler, flags, _, mask] = words.as_slice() else { return None };
        wanted.sa_sigaction = *handler;
        wanted.sa_flags = *flags as i32 & !SA_RESTORER;
        wanted.sa_mask = signal::set_of_bits(*mask as u64);
    }
    let wanted = if new == 0 { 0 } else { (&raw const wanted) as usize };
    // SAFETY: null, or a structure of ours.
    let wanted = unsafe { User::new(wanted) };
    // SAFETY: a structure of ours, writable for the call.
    let place = unsafe { User::new((&raw mut previous) as usize) };
    match crate::abi::aside(|| signal::set_action(number, wanted, place))? {
        Outcome::Ours(Ok(_)) => {}
        // Signals that libc keeps for itself.
        Outcome::Ours(Err(Errno(libc::EINVAL))) | Outcome::PassThrough => return None,
        Outcome::Ours(Err(Errno(errno))) => return Some(-(errno as isize)),
    }
    if old != 0 {
        // SAFETY: a set of the kernel's is the first 64 bits of libc's.
        let mask = unsafe { (&raw const previous.sa_mask).cast::<usize>().read() };
        let words = [previous.sa_sigaction, (previous.sa_flags & !SA_RESTORER) as usize, 0, mask];
        // SAFETY: the program passed it for this.
        if unsafe { User::<usize>::new(old) }.write_many(&words).is_err() {
            return Some(-(libc::EFAULT as isize));
        }
    }
    Some(0)
}

/// sigaltstack: what is in the context is in force after the handler (`restore_altstack`), as that has left the stack
/// of signals before it returns (`stack`).
fn change_stack(context: &mut ucontext_t, new: usize, old: usize) -> isize {
    const MODES: i32 = libc::SS_ONSTACK | libc::SS_DISABLE;
    let current = context.uc_stack;
    let pointer = register(context, REG_RSP);
    let base = current.ss_sp as usize;
    let inside = current.ss_size > 0 && pointer > base && pointer - base <= current.ss_size;
    if new != 0 {
        // SAFETY: the program passed it for this.
        let Ok(mut wanted) = unsafe { User::<stack_t>::new(new) }.read() else { return -(libc::EFAULT as isize) };
        if inside {
            return -(libc::EPERM as isize);
        }
        match wanted.ss_flags & MODES {
            libc::SS_DISABLE => (wanted.ss_sp, wanted.ss_size) = (std::ptr::null_mut(), 0),
            MODES => return -(libc::EINVAL as isize),
            _ if wanted.ss_size < libc::MINSIGSTKSZ => return -(libc::ENOMEM as isize),
            _ => {}
        }
        context.uc_stack = wanted;
    }
    if old != 0 {
        let mut told = current;
        told.ss_flags = match () {
            () if current.ss_size == 0 => libc::SS_DISABLE,
            () if inside => libc::SS_ONSTACK,
            () => 0,
        };
        // SAFETY: the program passed it for this.
        if unsafe { User::<stack_t>::new(old) }.write(told).is_err() {
            return -(libc::EFAULT as isize);
        }
    }
    0
}
