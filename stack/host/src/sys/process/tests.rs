//! Tests of the keeper's birth, with a real program: this test binary, started again for the ignored test below.

use super::*;
use crate::sys::alloc::enter_arena;
use crate::sys::arena::{Arena, DEFAULT_RESERVE};
use crate::sys::lock::{Acquired, Life, LifeLine};
use std::alloc::Layout;
use std::process::Command;
use std::time::Instant;

/// What the program and its keeper share, in the arena.
struct State {
    line: LifeLine,
    text: String,
    report: Fd,
    shed: bool,
}

const VARIABLE: &str = "REMORA_KEEPER_TEST";

extern "C" fn keeper(argument: *mut ()) -> ! {
    // SAFETY: the program has made it, in the arena, and goes on to use only what is meant for both.
    let state: &'static mut State = unsafe { &mut *argument.cast::<State>() };
    let mut outcome = 0u8;
    // SAFETY: the keeper uses nothing of the program's.
    if state.shed && unsafe { shed_program_memory() }.is_err() {
        outcome = 1;
    }
    state.line.register();
    let arena = Arena::active().expect("made by the program");
    let locked = arena.lock().lock();
    {
        let _guard = enter_arena();
        state.text.push_str(" and the keeper");
        let boxed: Vec<u8> = vec![7; 100_000];
        if locked != Ok(Acquired::Clean) || !arena.contains(boxed.as_ptr() as usize) {
            outcome = 2;
        }
    }
    arena.lock().unlock();
    // Outside of a guard: the keeper's own heap.
    let private = vec![outcome; 1000];
    let mut go = [0u8; 8];
    while call::receive(state.report, &mut go, 0) == Err(Errno(libc::EINTR)) {}
    let mut reply = [0u8; 64];
    reply[0] = private[999];
    let length = state.text.len().min(60);
    reply[1..=length].copy_from_slice(&state.text.as_bytes()[..length]);
    let _ = call::send(state.report, &reply[..=length], libc::MSG_NOSIGNAL);
    // Once more, so that the test can see what is left; its end of the pair closes when it has.
    let _ = call::receive(state.report, &mut go, 0);
    call::exit_group(0)
}

/// The program: "mode fd", where the fd is inherited.
#[test]
#[ignore = "run by the tests below as a program of its own"]
fn program() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let (mode, number) = order.split_once(' ').unwrap();
    let report = call::duplicate_from(Fd(number.parse().unwrap()), 100).unwrap();
    if mode == "subreaper" {
        call::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).unwrap();
    }
    // Memory that is to go.
    let ballast = vec![1u8; 64 << 20];
    let arena = Arena::map(DEFAULT_RESERVE).unwrap();
    arena.activate().unwrap();
    prepare_to_shed();
    let _ = arena.lock().lock();
    let guard = enter_arena();
    let state = Box::leak(Box::new(State {
        line: LifeLine::new(),
        text: "the program".to_owned(),
        report,
        shed: mode != "whole",
    }));
    let layout = Layout::from_size_align(512 << 10, 4096).unwrap();
    // SAFETY: a layout of non-zero size.
    let region = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
    drop(guard);
    arena.lock().unlock();
    let (one, other) = call::socketpair(libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
    let order = KeeperOrder {
        entry: keeper,
        argument: std::ptr::from_mut(state).cast(),
        region: NonNull::slice_from_raw_parts(region, layout.size()),
        keep: &[report, arena.fd()],
    };
    let started = Instant::now();
    // SAFETY: the region was allocated above and is in the arena.
    let pid = unsafe { spawn_keeper(&order) }.unwrap();
    let taken = started.elapsed();
    // Ours is the only copy of the other end: closing it is seen at once.
    call::close(other).unwrap();
    let end = call::receive(one, &mut [0], libc::MSG_DONTWAIT);
    let children = call::wait4(-1, libc::WNOHANG);
    // SAFETY: the order is only looked at.
    let refused = unsafe { spawn_keeper(&KeeperOrder { keep: &[Fd(2)], ..order }) };
    assert_eq!(refused, Err(Errno(libc::EINVAL)));
    let text = format!("{pid} {end:?} {children:?} {}", taken.as_micros());
    call::send(report, text.as_bytes(), 0).unwrap();
    drop(ballast);
    call::exit_group(0);
}

/// What /proc says of a process, by key.
fn status(pid: i32, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within 10 s");
        std::thread::yield_now();
    }
}

fn run(mode: &str) {
    // Inherited by the program, so not closed on exec; any other child of a test that gets it holds it only shortly.
    let (ours, theirs) = call::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET).unwrap();
    call::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC).unwrap();
    let timeout = [10u64.to_ne_bytes(), 0u64.to_ne_bytes()].concat();
    call::set_option(ours, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout).unwrap();
    let name = "sys::process::tests::program";
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(VARIABLE, format!("{mode} {}", theirs.raw()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    call::close(theirs).unwrap();
    let mut buffer = [0u8; 256];
    let length = call::receive(ours, &mut buffer, 0).unwrap();
    let text = std::str::from_utf8(&buffer[..length]).unwrap().to_owned();
    assert!(program.wait().unwrap().success());
    let mut words = text.splitn(2, ' ');
    let pid: i32 = words.next().unwrap().parse().unwrap();
    let said = words.next().unwrap();
    assert!(said.starts_with("Ok(0) Err(Errno(10)) "), "end of file and ECHILD, not {said}");
    // The program has gone, the keeper has not.
    wait_until("the keeper has its name", || status(pid, "Name").as_deref() == Some("remora-keeper"));
    assert_eq!(call::send(ours, b"go", 0), Ok(2));
    let length = call::receive(ours, &mut buffer, 0).unwrap();
    assert_eq!(buffer[0], 0, "the keeper met an obstacle");
    assert_eq!(&buffer[1..length], b"the program and the keeper");
    let parent = status(pid, "PPid").unwrap();
    assert_ne!(parent, program.id().to_string());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let mut open: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    assert_eq!(open.len(), 5, "0 to 2, the report and the arena, not {open:?}");
    assert_eq!(open[..3], [0, 1, 2]);
    let resident = status(pid, "VmRSS").unwrap();
    let kilobytes: usize = resident.split_whitespace().next().unwrap().parse().unwrap();
    if mode == "whole" {
        assert!(kilobytes > 60_000, "{resident}: the ballast is still there");
    } else {
        assert!(kilobytes < 8_000, "{resident} after the program's memory has been unmapped");
    }
    call::close(ours).unwrap();
    wait_until("the keeper has ended", || status(pid, "State").is_none_or(|state| state.starts_with('Z')));
}

#[test]
fn keeper_outlives_its_program_unseen_by_wait_and_pipes() {
    run("orphan");
}

#[test]
fn keeper_may_keep_the_programs_memory() {
    run("whole");
}

#[test]
fn keeper_of_a_subreaper_is_a_direct_child_unseen_by_wait() {
    run("subreaper");
}

#[test]
fn bad_orders_are_refused() {
    let memory = call::map_shared(0, LEAST_REGION, Fd::NONE).unwrap();
    let order = KeeperOrder {
        entry: keeper,
        argument: std::ptr::null_mut(),
        region: NonNull::slice_from_raw_parts(memory, LEAST_REGION - 1),
        keep: &[],
    };
    // SAFETY: refused before anything is touched.
    assert_eq!(unsafe { spawn_keeper(&order) }, Err(Errno(libc::EINVAL)));
    let many = [Fd(9); MAX_KEPT + 1];
    let region = NonNull::slice_from_raw_parts(memory, LEAST_REGION);
    // SAFETY: refused before anything is touched.
    assert_eq!(unsafe { spawn_keeper(&KeeperOrder { keep: &many, region, ..order }) }, Err(Errno(libc::EINVAL)));
    // SAFETY: not a keeper, so refused.
    assert!(unsafe { shed_program_memory() }.is_err());
    assert_eq!(LifeLine::new().state(), Life::Free);
}
