//! Signal handlers of the program, called through a trampoline of ours. It counts what ran in which thread, so that a
//! sleeping call can tell EINTR from a restart as Linux does, and it puts off a handler that arrives while its thread
//! holds the core: that handler may use a socket, and would wait for itself.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use remora_host::runtime;
use remora_host::sys::{Errno, call};

use super::Outcome;
use super::memory::{Plain, User};
use crate::hooks::real;

// SAFETY: a C structure of integers and addresses.
unsafe impl Plain for libc::sigaction {}

/// What the program set for one signal.
struct Slot {
    handler: AtomicUsize,
    flags: AtomicI32,
}

/// Signal numbers are 1 to 64.
const SIGNALS: usize = 65;
static SLOTS: [Slot; SIGNALS] =
    [const { Slot { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0) } }; SIGNALS];

fn slot(signal: i32) -> Option<&'static Slot> {
    SLOTS.get(usize::try_from(signal).ok()?).filter(|_| signal > 0)
}

/// Handlers that ran in a thread: how many, and how many of them without SA_RESTART.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    all: u32,
    without_restart: u32,
}

impl Handled {
    /// Whether any handler has run in this thread since, or it has been cancelled.
    pub(crate) fn any_since(self) -> bool {
        HANDLED.get().all != self.all || super::process::is_cancelled()
    }

    /// Whether a handler without SA_RESTART has run in this thread since, or it has been cancelled.
    pub(crate) fn without_restart_since(self) -> bool {
        HANDLED.get().without_restart != self.without_restart || super::process::is_cancelled()
    }
}

thread_local! {
    /// How many [`Hold`]s this thread has.
    static HELD: Cell<u32> = const { Cell::new(0) };
    static HANDLED: Cell<Handled> = const { Cell::new(Handled { all: 0, without_restart: 0 }) };
    /// The one signal put off in this thread, and the signal mask to go back to.
    static PUT_OFF: Cell<Option<(MaybeUninit<libc::siginfo_t>, u64)>> = const { Cell::new(None) };
}

/// While this lives, handlers of this thread are put off: it holds a lock that a handler could ask for.
#[must_use]
pub(crate) struct Hold(());

/// Puts handlers off until the result is dropped.
pub(crate) fn hold() -> Hold {
    HELD.set(HELD.get() + 1);
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        let left = HELD.get() - 1;
        HELD.set(left);
        if left == 0 && !runtime::in_core() {
            deliver_put_off();
        }
    }
}

/// A signal set of the kernel's 64 bits.
pub(crate) fn set_of_bits(bits: u64) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a sigset_t is an array of words, of which the kernel uses the first 64 bits.
    unsafe { set.as_mut_ptr().cast::<u64>().write(bits) };
    // SAFETY: zeroed, and every bit pattern is a set.
    unsafe { set.assume_init() }
}

/// How many handlers have run in this thread up to now.
pub(crate) fn handled() -> Handled {
    HANDLED.get()
}

type Information = unsafe extern "C-unwind" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
type Simple = unsafe extern "C-unwind" fn(i32);

fn trampoline_address() -> usize {
    trampoline as Information as usize
}

/// Whether this signal is ours alone: the program's handler for it is kept in the table, and the kernel not told.
fn is_kept(signal: i32) -> bool {
    signal == libc::SIGSYS && super::deep::is_on()
}

/// Whether the program ignores a signal that is ours.
pub(crate) fn is_ignored(signal: i32) -> bool {
    slot(signal).is_some_and(|slot| slot.handler.load(Ordering::Acquire) == libc::SIG_IGN)
}

/// Runs the program's handler for a signal that is ours; says whether it has one.
///
/// # Safety
/// The arguments must be those of the running handler.
pub(crate) unsafe fn run_program_handler(
    signal: i32,
    information: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) -> bool {
    let handler = slot(signal).map_or(libc::SIG_DFL, |slot| slot.handler.load(Ordering::Acquire));
    if matches!(handler, libc::SIG_DFL | libc::SIG_IGN) {
        return false;
    }
    // SAFETY: as of this function.
    unsafe { trampoline(signal, information, context) };
    true
}

/// Signals that tell of the very instruction they interrupt (or end the process): never put off.
const fn is_synchronous(signal: i32) -> bool {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    matches!(signal, SIGSEGV | SIGBUS | SIGFPE | SIGILL | SIGTRAP | SIGABRT | SIGSYS)
}

unsafe extern "C-unwind" fn trampoline(signal: i32, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(slot) = slot(signal) else { return };
    if (runtime::in_core() || HELD.get() > 0) && !is_synchronous(signal) {
        // SAFETY: the kernel passes both to a handler with SA_SIGINFO, which the trampoline always is.
        unsafe { put_off(information, context) };
        return;
    }
    let handler = slot.handler.load(Ordering::Acquire);
    let flags = slot.flags.load(Ordering::Acquire);
    if flags & libc::SA_RESETHAND != 0 {
        reset(signal);
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    let mut counted = HANDLED.get();
    counted.all = counted.all.wrapping_add(1);
    if flags & libc::SA_RESTART == 0 {
        counted.without_restart = counted.without_restart.wrapping_add(1);
    }
    HANDLED.set(counted);
    super::deep::before_handler();
    // SAFETY: the context of this handler.
    let over = unsafe { super::deep::interrupts(context) };
    let inside = super::step_outside();
    if flags & libc::SA_SIGINFO == 0 {
        // SAFETY: the program gave this address as its handler, of this type.
        let handler = unsafe { std::mem::transmute::<usize, Simple>(handler) };
        // SAFETY: called as the kernel would have called it.
        unsafe { handler(signal) };
    } else {
        // SAFETY: the kernel's own siginfo, of full size.
        unsafe { tell_code(information) };
        // SAFETY: the program gave this address as its handler, of this type.
        let handler = unsafe { std::mem::transmute::<usize, Information>(handler) };
        // SAFETY: called as the kernel would have called it.
        unsafe { handler(signal, information, context) };
    }
    super::step_back(inside);
    super::deep::handler_is_done(over);
}

/// A signal for an event of a socket of ours: the code that the kernel would have given stands in the place of errno,
/// as nobody else may send it.
///
/// # Safety
/// The argument must be that of the running handler.
unsafe fn tell_code(information: *mut libc::siginfo_t) {
    const SI_SIGIO: i32 = -5;
    // SAFETY: the kernel filled it in.
    let code = unsafe { (*information).si_code };
    // SAFETY: as above.
    let errno = unsafe { (*information).si_errno };
    if code == SI_SIGIO && errno != 0 {
        // SAFETY: it lies on this thread's stack, for the handler to use.
        unsafe { (*information).si_code = errno };
        // SAFETY: as above.
        unsafe { (*information).si_errno = 0 };
    }
}

/// SA_RESETHAND: the kernel does not see it, since a signal that is put off is delivered twice.
fn reset(signal: i32) {
    if is_kept(signal) {
        if let Some(slot) = slot(signal) {
            slot.handler.store(libc::SIG_DFL, Ordering::Release);
        }
        return;
    }
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zero is SIG_DFL without flags and with an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = libc::SIG_DFL;
    let before = super::errno();
    // SAFETY: the original, with a structure of ours.
    let _ = unsafe { (real::sigaction.get())(signal, action, std::ptr::null_mut()) };
    super::set_errno(before);
}

/// Keeps a signal for later and blocks all others until then, so that one place is enough.
///
/// # Safety
/// The arguments must be those of the running handler.
unsafe fn put_off(information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passed a siginfo of full size.
    let kept = unsafe { information.cast::<MaybeUninit<libc::siginfo_t>>().read() };
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the context is that of the running handler; its mask is what is restored when the handler returns. The
    // kernel's set is the first 64 bits.
    let mask = unsafe { &raw mut (*context).uc_sigmask }.cast::<u64>();
    // SAFETY: as above.
    let before = unsafe { mask.read() };
    PUT_OFF.set(Some((kept, before)));
    // SAFETY: as above.
    unsafe { mask.write(call::ALL_SIGNALS) };
    // Whichever is left last delivers it.
    if runtime::in_core() {
        runtime::defer_to_leave(leave_hook);
    }
}

/// After the core is left; a [`Hold`] still there delivers when it goes.
fn leave_hook() {
    if HELD.get() == 0 {
        deliver_put_off();
    }
}

/// Sends the signal that was put off to this thread again, now that the core is left, and restores the mask.
fn deliver_put_off() {
    let Some((mut information, mask)) = PUT_OFF.take() else { return };
    let pointer = information.as_mut_ptr();
    // SAFETY: it was written by the kernel.
    let signal = unsafe { (*pointer).si_signo };
    let words = [call::getpid() as usize, call::gettid() as usize, signal as usize, pointer as usize, 0, 0];
    // SAFETY: the kernel copies the siginfo; a process may send itself any.
    let _ = unsafe { call::native(libc::SYS_rt_tgsigqueueinfo, words) };
    let _ = call::signal_mask(libc::SIG_SETMASK, mask);
}

/// sigaction(): the handler goes into the table, the trampoline into the kernel.
pub(crate) fn set_action(signal: i32, action: User<libc::sigaction>, old: User<libc::sigaction>) -> Outcome<i32> {
    let Some(slot) = slot(signal) else { return Outcome::PassThrough };
    let mut wanted = None;
    if !action.is_null() {
        // Libc reads it in user space and faults; so it will.
        let Ok(read) = action.read() else { return Outcome::PassThrough };
        wanted = Some(read);
    }
    let before = (slot.handler.load(Ordering::Acquire), slot.flags.load(Ordering::Acquire));
    if is_kept(signal) {
        if let Some(action) = wanted {
            slot.handler.store(action.sa_sigaction, Ordering::Release);
            slot.flags.store(action.sa_flags, Ordering::Release);
        }
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all zero is a valid sigaction.
        let previous_action = unsafe { previous.assume_init_mut() };
        (previous_action.sa_sigaction, previous_action.sa_flags) = before;
        let told = if old.is_null() { Ok(()) } else { old.write(*previous_action) };
        return Outcome::Ours(told.map(|()| 0));
    }
    if let Some(action) = wanted.as_mut().filter(|action| !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN))
    {
        if action.sa_sigaction != trampoline_address() {
            slot.handler.store(action.sa_sigaction, Ordering::Release);
            slot.flags.store(action.sa_flags, Ordering::Release);
        }
        action.sa_sigaction = trampoline_address();
        action.sa_flags = (action.sa_flags | libc::SA_SIGINFO) & !libc::SA_RESETHAND;
    }
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    let pointer = wanted.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the original, with structures of ours.
    let result = unsafe { (real::sigaction.get())(signal, pointer, previous.as_mut_ptr()) };
    if result != 0 {
        slot.handler.store(before.0, Ordering::Release);
        slot.flags.store(before.1, Ordering::Release);
        return Outcome::fail(super::errno());
    }
    // SAFETY: zeroed, and filled in by the call.
    let mut previous = unsafe { previous.assume_init() };
    if previous.sa_sigaction == trampoline_address() {
        (previous.sa_sigaction, previous.sa_flags) = before;
    }
    if !old.is_null()
        && let Err(errno) = old.write(previous)
    {
        return Outcome::Ours(Err(errno));
    }
    Outcome::Ours(Ok(0))
}

/// signal(), bsd_signal() and sigset(): libc decides on flags and mask, `install` being its function.
pub(crate) fn set_handler(
    signal: i32,
    handler: usize,
    install: unsafe extern "C-unwind" fn(i32, usize) -> usize,
) -> Outcome<usize> {
    /// sigset() blocks the signal instead of handling it.
    const SIG_HOLD: usize = 2;
    let Some(slot) = slot(signal) else { return Outcome::PassThrough };
    let before = slot.handler.load(Ordering::Acquire);
    let is_handler = !matches!(handler, libc::SIG_DFL | libc::SIG_IGN | SIG_HOLD | libc::SIG_ERR);
    if is_kept(signal) {
        if handler != SIG_HOLD {
            slot.handler.store(handler, Ordering::Release);
            slot.flags.store(libc::SA_RESTART, Ordering::Release);
        }
        return Outcome::Ours(Ok(before));
    }
    if is_handler {
        slot.handler.store(handler, Ordering::Release);
        // Without SA_SIGINFO until the flags are read back: both types of handler get the number first.
        slot.flags.fetch_and(!(libc::SA_SIGINFO | libc::SA_RESETHAND), Ordering::AcqRel);
    }
    let installed = if is_handler { trampoline_address() } else { handler };
    // SAFETY: libc's function, with a handler of the type that it calls (the trampoline ignores what it needs not).
    let previous = unsafe { install(signal, installed) };
    if previous == libc::SIG_ERR {
        slot.handler.store(before, Ordering::Release);
        return Outcome::fail(super::errno());
    }
    if is_handler {
        adopt_flags(signal, slot);
    }
    Outcome::Ours(Ok(if previous == trampoline_address() { before } else { previous }))
}

/// Takes the flags that libc chose from the kernel, and has it pass a siginfo to the trampoline from now on.
fn adopt_flags(signal: i32, slot: &Slot) {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the original, with a structure of ours.
    if unsafe { (real::sigaction.get())(signal, std::ptr::null(), current.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: zeroed, and filled in by the call.
    let mut current = unsafe { current.assume_init() };
    slot.flags.store(current.sa_flags & !libc::SA_SIGINFO, Ordering::Release);
    current.sa_flags |= libc::SA_SIGINFO;
    // SAFETY: the original, with a structure of ours.
    let _ = unsafe { (real::sigaction.get())(signal, &raw const current, std::ptr::null_mut()) };
}

/// siginterrupt(): after libc's own, the restart flag of the table follows.
pub(crate) fn set_interrupt(signal: i32, flag: i32) -> Outcome<i32> {
    let Some(slot) = slot(signal) else { return Outcome::PassThrough };
    // SAFETY: the original, with the program's arguments.
    if unsafe { (real::siginterrupt.get())(signal, flag) } != 0 {
        return Outcome::fail(super::errno());
    }
    if flag == 0 {
        slot.flags.fetch_or(libc::SA_RESTART, Ordering::AcqRel);
    } else {
        slot.flags.fetch_and(!libc::SA_RESTART, Ordering::AcqRel);
    }
    Outcome::Ours(Ok(0))
}

/// sysv_signal(): the handler is used once, with its signal not blocked and calls not restarted.
pub(crate) fn set_once(signal: i32, handler: usize) -> Outcome<usize> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zero is a valid sigaction.
    let set = unsafe { action.assume_init_mut() };
    set.sa_sigaction = handler;
    set.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
    // SAFETY: a structure of ours, readable for the call.
    let new = unsafe { User::new(action.as_ptr() as usize) };
    // SAFETY: a structure of ours, writable for the call.
    let old = unsafe { User::new(previous.as_mut_ptr() as usize) };
    match set_action(signal, new, old) {
        // SAFETY: zeroed, and filled in by the call.
        Outcome::Ours(Ok(_)) => Outcome::Ours(Ok(unsafe { previous.assume_init() }.sa_sigaction)),
        Outcome::Ours(Err(errno)) => Outcome::Ours(Err(errno)),
        Outcome::PassThrough => Outcome::Ours(Err(Errno(libc::EINVAL))),
    }
}
