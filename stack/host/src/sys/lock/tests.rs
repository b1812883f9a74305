//! Tests of the robust lock, with real processes and threads.

use super::*;
use crate::sys::testing::{in_child, in_raw_child, reap, spawn_child};
use robust::WAITERS;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Shared {
    lock: RobustLock,
    other: RobustLock,
    mark: LifeMark,
    line: LifeLine,
    ready: AtomicU32,
    count: AtomicU64,
}

/// Zeroed shared memory, left to the end of the test process.
fn shared() -> &'static Shared {
    let memory = call::map_shared(0, size_of::<Shared>(), call::Fd::NONE).unwrap();
    // SAFETY: zeroed, page aligned, large enough, never unmapped, and Shared is valid when zeroed.
    unsafe { memory.cast::<Shared>().as_ref() }
}

fn count_up(shared: &Shared, rounds: u64) {
    for _ in 0..rounds {
        assert_eq!(shared.lock.lock(), Ok(Acquired::Clean));
        // Not an atomic addition, so that two inside at once would lose counts.
        let value = shared.count.load(Ordering::Relaxed);
        shared.count.store(value + 1, Ordering::Relaxed);
        shared.lock.unlock();
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within 10 s");
        std::thread::yield_now();
    }
}

#[test]
fn two_processes_and_four_threads_count_exactly() {
    const ROUNDS: u64 = 50_000;
    let shared = shared();
    let child = spawn_child(|| {
        count_up(shared, ROUNDS);
        0
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| count_up(shared, ROUNDS));
        }
    });
    assert_eq!(reap(child), 0);
    assert_eq!(shared.count.load(Ordering::Relaxed), 5 * ROUNDS);
    assert_eq!(shared.lock.holder(), None);
}

#[test]
fn killed_holder_is_noticed_within_a_second() {
    let shared = shared();
    for raw in [false, true] {
        shared.ready.store(0, Ordering::Relaxed);
        let started = Instant::now();
        let body = || {
            let _ = shared.lock.lock();
            shared.ready.store(1, Ordering::Release);
            let _ = call::kill(call::getpid(), libc::SIGKILL);
            0
        };
        let status = if raw { in_raw_child(body) } else { in_child(body) };
        assert_eq!(status, -1);
        assert_eq!(shared.ready.load(Ordering::Acquire), 1);
        assert_eq!(shared.lock.lock(), Ok(Acquired::OwnerDied), "raw {raw}");
        assert!(started.elapsed() < Duration::from_secs(1));
        shared.lock.unlock();
        assert_eq!(shared.lock.lock(), Ok(Acquired::Clean));
        shared.lock.unlock();
    }
}

#[test]
fn sleeper_is_woken_by_the_death_of_the_holder() {
    let shared = shared();
    let child = spawn_child(|| {
        let _ = shared.lock.lock();
        shared.ready.store(1, Ordering::Release);
        loop {
            let _ = call::ppoll(&mut [], None, None);
        }
    });
    wait_for("the child holds the lock", || shared.ready.load(Ordering::Acquire) == 1);
    assert_eq!(shared.lock.holder(), Some(child as u32));
    assert_eq!(shared.lock.try_lock(), Err(LockError::Busy));
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let got = shared.lock.lock();
            shared.lock.unlock();
            got
        });
        wait_for("the sleeper sleeps", || shared.lock.word.load(Ordering::Relaxed) & WAITERS != 0);
        call::kill(child, libc::SIGKILL).unwrap();
        assert_eq!(sleeper.join().unwrap(), Ok(Acquired::OwnerDied));
    });
    reap(child);
}

#[test]
fn own_lock_is_an_error_and_not_a_hang() {
    let shared = shared();
    assert_eq!(shared.lock.lock(), Ok(Acquired::Clean));
    assert!(shared.lock.is_mine());
    assert_eq!(shared.lock.lock(), Err(LockError::SelfDeadlock));
    assert_eq!(shared.lock.try_lock(), Err(LockError::SelfDeadlock));
    // Another lock nests, and the death mark of the first survives it.
    assert_eq!(shared.other.lock(), Ok(Acquired::Clean));
    shared.other.unlock();
    shared.lock.unlock();
    assert_eq!(shared.lock.holder(), None);
    let status = in_child(|| {
        let _ = shared.lock.lock();
        let _ = shared.other.lock();
        shared.other.unlock();
        let _ = call::kill(call::getpid(), libc::SIGKILL);
        0
    });
    assert_eq!(status, -1);
    assert_eq!(shared.other.lock(), Ok(Acquired::Clean));
    shared.other.unlock();
    assert_eq!(shared.lock.lock(), Ok(Acquired::OwnerDied));
    shared.lock.unlock();
}

#[test]
fn exited_thread_leaves_its_lock_as_died() {
    let shared = shared();
    std::thread::spawn(move || {
        let _ = shared.lock.lock();
    })
    .join()
    .unwrap();
    wait_for("the kernel marks it", || shared.lock.word.load(Ordering::Relaxed) & OWNER_DIED != 0);
    assert_eq!(shared.lock.try_lock(), Ok(Acquired::OwnerDied));
    shared.lock.unlock();
}

#[test]
fn pthread_robust_mutex_of_the_program_is_undisturbed() {
    let shared = shared();
    let memory = call::map_shared(0, 4096, call::Fd::NONE).unwrap();
    let mutex: *mut libc::pthread_mutex_t = memory.as_ptr().cast();
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    // SAFETY: room for the attributes.
    unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
    // SAFETY: initialised above.
    unsafe { libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) };
    // SAFETY: initialised above.
    unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST) };
    // SAFETY: the mutex lies in shared memory of one page.
    unsafe { libc::pthread_mutex_init(mutex, attributes.as_ptr()) };
    let status = in_child(|| {
        // SAFETY: initialised above.
        unsafe { libc::pthread_mutex_lock(mutex) };
        let _ = shared.lock.lock();
        let _ = call::kill(call::getpid(), libc::SIGKILL);
        0
    });
    assert_eq!(status, -1);
    // SAFETY: initialised above.
    assert_eq!(unsafe { libc::pthread_mutex_lock(mutex) }, libc::EOWNERDEAD);
    assert_eq!(shared.lock.lock(), Ok(Acquired::OwnerDied));
    shared.lock.unlock();
    // SAFETY: held by us in the inconsistent state.
    unsafe { libc::pthread_mutex_consistent(mutex) };
    // SAFETY: held by us.
    unsafe { libc::pthread_mutex_unlock(mutex) };
    // Ours inside theirs, both let go: nothing stays behind.
    // SAFETY: initialised above.
    assert_eq!(unsafe { libc::pthread_mutex_lock(mutex) }, 0);
    assert_eq!(shared.lock.lock(), Ok(Acquired::Clean));
    shared.lock.unlock();
    // SAFETY: held by us.
    assert_eq!(unsafe { libc::pthread_mutex_unlock(mutex) }, 0);
}

#[test]
fn life_mark_tells_of_a_death_outside_the_lock() {
    let shared = shared();
    assert_eq!(shared.mark.state(), Life::Free);
    let child = spawn_child(|| {
        shared.mark.hold();
        // A lock in between leaves the mark standing.
        let _ = shared.lock.lock();
        shared.lock.unlock();
        shared.ready.store(1, Ordering::Release);
        loop {
            let _ = call::ppoll(&mut [], None, None);
        }
    });
    wait_for("the child is ready", || shared.ready.load(Ordering::Acquire) == 1);
    assert_eq!(shared.mark.state(), Life::Alive(child as u32));
    call::kill(child, libc::SIGKILL).unwrap();
    reap(child);
    assert_eq!(shared.mark.state(), Life::Died);
    shared.mark.clear();
    shared.mark.hold();
    shared.mark.release();
    assert_eq!(shared.mark.state(), Life::Free);
}

#[test]
fn life_line_and_lock_both_tell_of_a_keeper_killed_inside() {
    let shared = shared();
    let status = in_raw_child(|| {
        // Used before the line is registered, as a careless keeper might.
        let _ = shared.lock.lock();
        shared.lock.unlock();
        shared.line.register();
        if shared.line.state() != Life::Alive(call::gettid()) {
            return 1;
        }
        let _ = shared.lock.lock();
        let _ = call::kill(call::getpid(), libc::SIGKILL);
        0
    });
    assert_eq!(status, -1);
    assert_eq!(shared.line.state(), Life::Died);
    assert_eq!(shared.lock.lock(), Ok(Acquired::OwnerDied));
    shared.lock.unlock();
}
