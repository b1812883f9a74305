//! System calls of other processes, handed over by a seccomp filter (seccomp_unotify(2)): the filter, what it tells, and
//! the answers to it.

use super::{Errno, Fd, invoke, word};

/// seccomp(2).
const SECCOMP_SET_MODE_FILTER: usize = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: usize = 1 << 3;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
/// linux/seccomp.h: the requests of ioctl() on the notifier.
const NOTIF_RECV: usize = 0xc050_2100;
const NOTIF_SEND: usize = 0xc018_2101;
const NOTIF_ID_VALID: usize = 0x4008_2102;
const NOTIF_ADDFD: usize = 0x4018_2103;
const FLAG_CONTINUE: u32 = 1;
const ADDFD_SETFD: u32 = 1;
const ADDFD_SEND: u32 = 2;
/// linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in struct seccomp_data.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

/// One instruction of classic BPF (struct sock_filter).
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    constant: u32,
}

const fn load(at: u32) -> Instruction {
    Instruction { code: 0x20, jump_true: 0, jump_false: 0, constant: at }
}

const fn jump_if_equal(constant: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code: 0x15, jump_true, jump_false, constant }
}

const fn give(action: u32) -> Instruction {
    Instruction { code: 0x06, jump_true: 0, jump_false: 0, constant: action }
}

/// Calls on sockets that are handed over whatever they are about: which descriptor is whose, no filter can tell.
const HANDED_OVER: [libc::c_long; 9] = [
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
];

/// Enters a filter, for the calling process and all that it becomes and makes, which hands the making and naming of
/// internet sockets over. The result is the notifier, for another process to answer by.
///
/// # Errors
/// As seccomp(2): EACCES without CAP_SYS_ADMIN or PR_SET_NO_NEW_PRIVS, EBUSY behind another such filter.
pub fn hand_over_sockets() -> Result<Fd, Errno> {
    let mut filter: Vec<Instruction> = vec![
        load(ARCHITECTURE_AT),
        jump_if_equal(ARCHITECTURE, 1, 0),
        give(RET_ALLOW),
        load(NUMBER_AT),
        // Three instructions each: skipped unless it is that call.
        jump_if_equal(libc::SYS_socket as u32, 0, 5),
        load(argument_at(0)),
        jump_if_equal(libc::AF_INET as u32, 1, 0),
        jump_if_equal(libc::AF_INET6 as u32, 0, 1),
        give(RET_USER_NOTIF),
        give(RET_ALLOW),
    ];
    for number in [libc::SYS_sendto, libc::SYS_recvfrom] {
        // With an address, whose pointer is the fifth argument, in two words.
        filter.extend([
            jump_if_equal(number as u32, 0, 6),
            load(argument_at(4)),
            jump_if_equal(0, 0, 2),
            load(argument_at(4) + 4),
            jump_if_equal(0, 1, 0),
            give(RET_USER_NOTIF),
            give(RET_ALLOW),
        ]);
    }
    for number in HANDED_OVER {
        filter.extend([jump_if_equal(number as u32, 0, 1), give(RET_USER_NOTIF)]);
    }
    filter.push(give(RET_ALLOW));
    // struct sock_fprog.
    let program: [usize; 2] = [filter.len(), filter.as_ptr() as usize];
    let arguments = [SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, program.as_ptr() as usize];
    // SAFETY: the kernel reads the structure and the instructions that it names.
    unsafe { invoke(libc::SYS_seccomp, arguments) }.map(|number| Fd(number as i32))
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names it.
    pub id: u64,
    /// The thread that has made it.
    pub thread: i32,
    /// Which call.
    pub number: libc::c_long,
    /// Its arguments.
    pub words: [u64; 6],
}

fn control(notifier: Fd, request: usize, structure: usize) -> Result<usize, Errno> {
    // SAFETY: every caller passes a structure of the size and kind that its request names.
    unsafe { invoke(libc::SYS_ioctl, [word(notifier.0), request, structure]) }
}

/// The next call; waits for one.
///
/// # Errors
/// ENOENT when it was interrupted meanwhile, EINTR.
pub fn notification(notifier: Fd) -> Result<Notification, Errno> {
    // struct seccomp_notif: id, thread and flags, number and architecture, instruction pointer, six arguments.
    let mut words = [0u64; 10];
    control(notifier, NOTIF_RECV, words.as_mut_ptr() as usize)?;
    let [id, thread, number, _, words @ ..] = words;
    Ok(Notification { id, thread: thread as i32, number: libc::c_long::from(number as i32), words })
}

/// struct seccomp_notif_resp.
fn respond(notifier: Fd, id: u64, value: i64, error: i32, flags: u32) -> Result<(), Errno> {
    let words = [id, value as u64, u64::from(error as u32) | u64::from(flags) << 32];
    control(notifier, NOTIF_SEND, words.as_ptr() as usize).map(drop)
}

/// Answers a call.
///
/// # Errors
/// ENOENT when nobody waits for the answer any more.
pub fn answer_call(notifier: Fd, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
    match result {
        Ok(value) => respond(notifier, id, value, 0, 0),
        Err(Errno(errno)) => respond(notifier, id, 0, -errno, 0),
    }
}

/// Has the kernel carry the call out as it stands.
///
/// # Errors
/// As [`answer_call`].
pub fn let_call_pass(notifier: Fd, id: u64) -> Result<(), Errno> {
    respond(notifier, id, 0, 0, FLAG_CONTINUE)
}

/// Whether somebody waits for the answer still: a signal ends that.
#[must_use]
pub fn is_awaited(notifier: Fd, id: u64) -> bool {
    control(notifier, NOTIF_ID_VALID, (&raw const id) as usize).is_ok()
}

/// Gives the caller a copy of `source`, as the call's result, under the lowest free number.
///
/// # Errors
/// As [`answer_call`]; EMFILE.
pub fn answer_with_descriptor(notifier: Fd, id: u64, source: Fd, close_on_exec: bool) -> Result<(), Errno> {
    add(notifier, id, source, None, close_on_exec).map(drop)
}

/// Puts a copy of `source` under a number of the caller's; the call still waits.
///
/// # Errors
/// As [`answer_call`].
pub fn replace_descriptor(notifier: Fd, id: u64, source: Fd, number: i32, close_on_exec: bool) -> Result<(), Errno> {
    add(notifier, id, source, Some(number), close_on_exec).map(drop)
}

fn add(notifier: Fd, id: u64, source: Fd, number: Option<i32>, close_on_exec: bool) -> Result<usize, Errno> {
    // struct seccomp_notif_addfd: id, flags and source, number and flags of the copy.
    let flags = if number.is_some() { ADDFD_SETFD } else { ADDFD_SEND };
    let copy = if close_on_exec { libc::O_CLOEXEC as u64 } else { 0 };
    let pair = |low: u32, high: u64| u64::from(low) | high << 32;
    let words = [id, pair(flags, source.0 as u32 as u64), pair(number.unwrap_or(0) as u32, copy)];
    control(notifier, NOTIF_ADDFD, words.as_ptr() as usize)
}
