//! Processes, threads, time, limits, signals.

use super::ready::SIGNAL_SET_SIZE as SET_SIZE;
use super::{Errno, Fd, invoke, word};
use remora_stack::time::Instant;
use std::time::Duration;

/// The process id. Not cached: after a raw clone a cache would lie.
#[must_use]
pub fn getpid() -> i32 {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_getpid, []) }.unwrap_or(0) as i32
}

/// The effective user id.
#[must_use]
pub fn effective_user() -> u32 {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_geteuid, []) }.unwrap_or(0) as u32
}

/// The effective group id.
#[must_use]
pub fn effective_group() -> u32 {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_getegid, []) }.unwrap_or(0) as u32
}

/// The parent's process id.
#[must_use]
pub fn getppid() -> i32 {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_getppid, []) }.unwrap_or(0) as i32
}

/// Whether the thread acts as root.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: no memory is passed.
    let user = unsafe { invoke(libc::SYS_geteuid, []) };
    user == Ok(0)
}

/// CAP_NET_ADMIN.
pub const NET_ADMIN: u32 = 12;

/// Whether this thread has a capability (`capable`), in its own user namespace.
#[must_use]
pub fn is_capable(capability: u32) -> bool {
    let Some([low, _, _, high, _, _]) = capability_sets() else { return false };
    let effective = u64::from(low) | u64::from(high) << 32;
    effective >> capability & 1 == 1
}

/// CAP_NET_RAW.
pub const NET_RAW: u32 = 13;

/// A capability that the thread was permitted and has put into effect; it is out of effect again when this goes.
#[derive(Debug)]
#[must_use]
pub struct Raised([u32; 6]);

/// The thread's capability sets: effective, permitted, inheritable of the lower 32, then of the upper.
fn capability_sets() -> Option<[u32; 6]> {
    // _LINUX_CAPABILITY_VERSION_3, and this thread.
    let mut header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: the kernel reads and writes two words of header and writes six of sets.
    let result = unsafe { invoke(libc::SYS_capget, [header.as_mut_ptr() as usize, sets.as_mut_ptr() as usize]) };
    result.is_ok().then_some(sets)
}

fn set_capability_sets(sets: &[u32; 6]) -> Result<(), Errno> {
    let mut header = [0x2008_0522_u32, 0];
    // SAFETY: the kernel reads and writes two words of header and reads six of sets.
    unsafe { invoke(libc::SYS_capset, [header.as_mut_ptr() as usize, sets.as_ptr() as usize]) }.map(drop)
}

/// Whether this thread is permitted a capability of the lower 32.
#[must_use]
pub fn is_permitted(capability: u32) -> bool {
    capability_sets().is_some_and(|[_, permitted, ..]| permitted >> capability & 1 != 0)
}

/// Puts a capability of the lower 32 into effect that this thread is permitted and does without (ping does, between its
/// sockets). `None` when it is in effect already or not permitted.
#[must_use]
pub fn raise_capability(capability: u32) -> Option<Raised> {
    let before = capability_sets()?;
    let [effective, permitted, rest @ ..] = before;
    let bit = 1_u32.checked_shl(capability)?;
    if effective & bit != 0 || permitted & bit == 0 {
        return None;
    }
    let [inheritable, high @ ..] = rest;
    let [high_effective, high_permitted, high_inheritable] = high;
    let raised = [effective | bit, permitted, inheritable, high_effective, high_permitted, high_inheritable];
    set_capability_sets(&raised).ok()?;
    Some(Raised(before))
}

impl Drop for Raised {
    fn drop(&mut self) {
        let _ = set_capability_sets(&self.0);
    }
}

/// The thread id, as seen in the thread's own pid namespace.
#[must_use]
pub fn gettid() -> u32 {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_gettid, []) }.unwrap_or(0) as u32
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: libc fills in the timespec; this function is not interposed and reads the vDSO without a system call.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// The monotonic clock, which the whole stack lives by.
#[must_use]
pub fn now() -> Instant {
    Instant::from_nanos(u64::try_from(clock(libc::CLOCK_MONOTONIC).as_nanos()).unwrap_or(u64::MAX))
}

/// Time since 1970, for captures and logs.
#[must_use]
pub fn wall_clock() -> Duration {
    clock(libc::CLOCK_REALTIME)
}

/// Fills `target` with the kernel's randomness.
///
/// # Errors
/// EAGAIN before the pool is ready, which never lasts on a booted system; ENOSYS.
pub fn random_bytes(target: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = target.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the kernel writes at most `len` bytes of an exclusive slice.
        match unsafe { invoke(libc::SYS_getrandom, [rest.as_mut_ptr() as usize, rest.len(), 0]) } {
            Ok(count) => done += count,
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A descriptor that becomes readable when the process has ended.
///
/// # Errors
/// As pidfd_open(2).
pub fn pidfd_open(pid: i32, flags: u32) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_pidfd_open, [word(pid), flags as usize]) }.map(|number| Fd(number as i32))
}

/// A copy of another process's descriptor.
///
/// # Errors
/// As pidfd_getfd(2).
pub fn pidfd_getfd(pidfd: Fd, target: Fd) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_pidfd_getfd, [word(pidfd.0), word(target.0), 0]) }.map(|number| Fd(number as i32))
}

/// Sends a signal; 0 only asks whether the process exists.
///
/// # Errors
/// As kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_kill, [word(pid), word(signal)]) }.map(drop)
}

/// The siginfo of SIGIO: struct siginfo with `_sigpoll`.
#[repr(C)]
struct PollInformation {
    signal: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    band: i64,
    fd: i32,
    _rest: [i32; 25],
}

/// Sends a signal of input to a process or one of its threads. The code stands where errno does, the code itself being
/// SI_SIGIO: the kernel lets nobody else give out its own.
///
/// # Errors
/// As rt_sigqueueinfo(2).
pub fn signal_input(
    process: i32,
    thread: Option<i32>,
    signal: i32,
    code: i32,
    band: i64,
    fd: i32,
) -> Result<(), Errno> {
    const SI_SIGIO: i32 = -5;
    let information = PollInformation { signal, errno: code, code: SI_SIGIO, _pad: 0, band, fd, _rest: [0; 25] };
    let address = std::ptr::from_ref(&information) as usize;
    match thread {
        // SAFETY: the kernel reads a siginfo of 128 bytes, which outlives the call.
        Some(thread) => unsafe {
            invoke(libc::SYS_rt_tgsigqueueinfo, [word(process), word(thread), word(signal), address])
        },
        // SAFETY: as above.
        None => unsafe { invoke(libc::SYS_rt_sigqueueinfo, [word(process), word(signal), address]) },
    }
    .map(drop)
}

/// prctl with an integer argument.
///
/// # Errors
/// As prctl(2); EINVAL for an option that takes a pointer.
pub fn prctl(option: i32, argument: i32) -> Result<i32, Errno> {
    let integer = matches!(
        option,
        libc::PR_SET_DUMPABLE
            | libc::PR_GET_DUMPABLE
            | libc::PR_SET_PDEATHSIG
            | libc::PR_SET_CHILD_SUBREAPER
            | libc::PR_SET_NO_NEW_PRIVS
            | libc::PR_GET_NO_NEW_PRIVS
            | libc::PR_SET_TIMERSLACK
    );
    if !integer {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: the options let through take an integer, no memory.
    unsafe { invoke(libc::SYS_prctl, [word(option), word(argument), 0, 0, 0]) }.map(|value| value as i32)
}

/// Names the calling thread (15 bytes are used).
///
/// # Errors
/// As prctl(2).
pub fn set_thread_name(name: &std::ffi::CStr) -> Result<(), Errno> {
    // SAFETY: a CStr ends with a zero byte; the kernel copies at most 16 bytes of it.
    unsafe { invoke(libc::SYS_prctl, [word(libc::PR_SET_NAME), name.as_ptr() as usize, 0, 0, 0]) }.map(drop)
}

/// Whether orphans of this process's descendants come back to it.
#[must_use]
pub fn is_subreaper() -> bool {
    let mut flag: i32 = 0;
    let arguments = [word(libc::PR_GET_CHILD_SUBREAPER), (&raw mut flag) as usize, 0, 0, 0];
    // SAFETY: the kernel writes one int.
    let result = unsafe { invoke(libc::SYS_prctl, arguments) };
    result.is_ok() && flag != 0
}

/// Leaves the session and the process group.
///
/// # Errors
/// EPERM for a group leader.
pub fn setsid() -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { invoke(libc::SYS_setsid, []) }.map(drop)
}

/// Changes the working directory.
///
/// # Errors
/// As chdir(2).
pub fn chdir(path: &std::ffi::CStr) -> Result<(), Errno> {
    // SAFETY: a CStr ends with a zero byte.
    unsafe { invoke(libc::SYS_chdir, [path.as_ptr() as usize]) }.map(drop)
}

/// Waits for a child; `options` as of wait4(2) (`__WALL`, WNOHANG). Returns the pid (0 for none yet) and the status.
///
/// # Errors
/// ECHILD, EINTR.
pub fn wait4(pid: i32, options: i32) -> Result<(i32, i32), Errno> {
    let mut status: i32 = 0;
    let arguments = [word(pid), (&raw mut status) as usize, word(options), 0];
    // SAFETY: the kernel writes one int.
    let result = unsafe { invoke(libc::SYS_wait4, arguments) }?;
    Ok((result as i32, status))
}

/// Ends the process at once: no handler, no destructor.
pub fn exit_group(status: i32) -> ! {
    loop {
        // SAFETY: no memory is passed; the call does not return.
        let _ = unsafe { invoke(libc::SYS_exit_group, [word(status)]) };
    }
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ResourceLimit {
    /// What holds now; `u64::MAX` for no limit.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// Reads a limit of this process (RLIMIT_NOFILE, ...).
///
/// # Errors
/// As prlimit(2).
pub fn resource_limit(resource: i32) -> Result<ResourceLimit, Errno> {
    let mut limit = ResourceLimit { soft: 0, hard: 0 };
    // SAFETY: the kernel writes two 64-bit words, the layout of ResourceLimit.
    unsafe { invoke(libc::SYS_prlimit64, [0, word(resource), 0, (&raw mut limit) as usize]) }?;
    Ok(limit)
}

/// Sets a limit of this process.
///
/// # Errors
/// As prlimit(2).
pub fn set_resource_limit(resource: i32, limit: ResourceLimit) -> Result<(), Errno> {
    // SAFETY: the kernel reads two 64-bit words, the layout of ResourceLimit.
    unsafe { invoke(libc::SYS_prlimit64, [0, word(resource), (&raw const limit) as usize, 0]) }.map(drop)
}

/// All signals, as a mask.
pub const ALL_SIGNALS: u64 = u64::MAX;

/// The bit of one signal in a mask; 0 for a number that is none.
#[must_use]
pub const fn signal_bit(signal: i32) -> u64 {
    if signal < 1 || signal > 64 { 0 } else { 1 << (signal - 1) }
}

/// Changes the calling thread's signal mask (SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK) and returns the old one.
///
/// # Errors
/// EINVAL.
pub fn signal_mask(how: i32, mask: u64) -> Result<u64, Errno> {
    let mut old = 0u64;
    let arguments = [word(how), (&raw const mask) as usize, (&raw mut old) as usize, SET_SIZE];
    // SAFETY: the kernel reads and writes sets of 8 bytes.
    unsafe { invoke(libc::SYS_rt_sigprocmask, arguments) }?;
    Ok(old)
}

/// A descriptor that delivers the signals of `mask`, which must be blocked.
///
/// # Errors
/// As signalfd4(2).
pub fn signalfd(mask: u64, flags: i32) -> Result<Fd, Errno> {
    let arguments = [word(-1), (&raw const mask) as usize, SET_SIZE, word(flags)];
    // SAFETY: the kernel reads a set of 8 bytes.
    unsafe { invoke(libc::SYS_signalfd4, arguments) }.map(|number| Fd(number as i32))
}

/// How many processors are online, whichever of them this thread may use.
#[must_use]
pub fn online_processors() -> usize {
    // SAFETY: takes a number and touches no memory of ours.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(1)
}
