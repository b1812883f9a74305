//! For tests: forked children whose exit status is the answer.

use super::call;
use super::call::{invoke, word};

/// Moves the calling thread to a network namespace of its own, which ends with the thread. Says whether it could.
pub(crate) fn leave_network_namespace() -> bool {
    // SAFETY: no memory is passed; only this thread moves.
    unsafe { call::invoke(libc::SYS_unshare, [libc::CLONE_NEWNET as usize]) }.is_ok()
}

/// Runs `body` in a child made by libc's fork and returns its exit status; -1 when it was killed.
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only runs `body` and leaves by exit_group, as each test's body takes care to be simple.
    let pid = unsafe { libc::fork() };
    finish(pid, body)
}

/// The same by a raw clone, of which libc knows nothing.
pub(crate) fn in_raw_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: without CLONE_VM this is fork; no memory is passed.
    let pid = unsafe { invoke(libc::SYS_clone, [word(libc::SIGCHLD), 0, 0, 0, 0]) };
    finish(pid.map_or(-1, |pid| pid as i32), body)
}

/// Whether `body` panics, in a child: loom ends the process when the threads of a model that has failed are taken down.
pub(crate) fn fails(body: impl FnOnce()) -> bool {
    let status = in_child(|| {
        std::panic::set_hook(Box::new(|_| {}));
        body();
        0
    });
    status != 0
}

/// Starts a child and returns its pid at once.
pub(crate) fn spawn_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: as in `in_child`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        call::exit_group(guarded(body));
    }
    pid
}

/// Waits for a child and returns its exit status; -1 when it was killed.
pub(crate) fn reap(pid: i32) -> i32 {
    loop {
        match call::wait4(pid, libc::__WALL) {
            Ok((_, status)) if libc::WIFEXITED(status) => return libc::WEXITSTATUS(status),
            Ok(_) => return -1,
            Err(call::Errno(libc::EINTR)) => {}
            Err(errno) => panic!("wait4: {errno}"),
        }
    }
}

fn finish(pid: i32, body: impl FnOnce() -> i32) -> i32 {
    assert!(pid >= 0, "no child could be made");
    if pid == 0 {
        call::exit_group(guarded(body));
    }
    reap(pid)
}

/// Status of a child whose body panicked.
const PANICKED: i32 = 101;

/// Runs a child's body. A panic must not leave it: the child has this one thread only, and a process whose last thread
/// ends by itself exits with status 0, which would count as success.
fn guarded(body: impl FnOnce() -> i32) -> i32 {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panic");
        // The harness's capture of output is lost with the child.
        let _ = call::write(call::Fd(2), format!("child: {text}\n").as_bytes());
        PANICKED
    })
}

/// libc's fork, for tests in which the child goes on with what the parent has.
pub(crate) fn fork() -> i32 {
    // SAFETY: as in `in_child`.
    unsafe { libc::fork() }
}

static ALARM: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

extern "C" fn note_alarm(_: i32) {
    ALARM.store(true, std::sync::atomic::Ordering::Release);
}

/// Has SIGALRM handled after `seconds`, for tests of interrupted sleeps; in a child only.
pub(crate) fn alarm_in(seconds: u32) {
    let handler = note_alarm as extern "C" fn(i32) as libc::sighandler_t;
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGALRM, handler) };
    // SAFETY: no memory is passed.
    unsafe { libc::alarm(seconds) };
}

/// Whether the alarm's handler has run.
pub(crate) fn alarm_rang() -> bool {
    ALARM.load(std::sync::atomic::Ordering::Acquire)
}

#[test]
fn panic_in_a_child_is_no_success() {
    assert_eq!(in_child(|| panic!("expected by this test")), PANICKED);
    assert_eq!(in_raw_child(|| panic!("expected by this test")), PANICKED);
    assert_eq!(reap(spawn_child(|| panic!("expected by this test"))), PANICKED);
    assert_eq!(in_child(|| 0), 0);
}
