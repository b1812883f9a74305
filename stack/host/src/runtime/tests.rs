//! Tests of the runtime with real processes: each family lives in a forked child of its own, wired to another by the
//! `unix` device. Waits have deadlines; an exit status names the step that failed.

use super::*;
use crate::config::{Cidr, DeviceKind, Override, Source, UnixLink, Value};
use crate::sys::testing::{alarm_in, alarm_rang, in_child, reap, spawn_child};
use remora_stack::io::{Fault, Sink};
use remora_stack::socket::error::{AcceptError, ConnectError, ReceiveError, SendError};
use remora_stack::socket::protocol::{Readiness, ReceiveFlags, SendArguments, Shutdown};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(8);

fn soon() -> Option<Instant> {
    Some(call::now() + LIMIT)
}

fn quiet() -> bool {
    false
}

/// A fixed buffer: what leaves the lock must not be the arena's.
struct Buffer {
    bytes: [u8; 65_536],
    length: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: [0; 65_536], length: 0 }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Sink for Buffer {
    fn room(&self) -> usize {
        self.bytes.len() - self.length
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let place = self.bytes.get_mut(self.length..self.length + bytes.len()).ok_or(Fault)?;
        place.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }
}

/// A link of this test's own.
fn link(test: &str) -> String {
    format!("remora-test-{test}-{}", call::getpid())
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host)
}

fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from((address(host), port))
}

/// The first process of a family with address 10.99.0.`host` on the link.
fn family(link: &str, host: u8) -> &'static Runtime {
    let mut config = Config {
        address: Some(Value::new(Cidr { address: address(host), prefix: 24 }, Source::Default)),
        device: Value::new(DeviceKind::Unix(UnixLink::Abstract(link.to_owned())), Source::Default),
        ..Config::default()
    };
    // Probing the address takes a while, which no test here is about.
    config.overrides.push(Override {
        name: "remora.address_probe_count",
        value: "0".to_owned(),
        source: Source::Default,
    });
    start(&config).expect("there is memory")
}

fn udp(runtime: &Runtime, port: u16) -> DescriptionId {
    let id = runtime.open(AddressFamily::Inet, SocketType::Datagram, 0, false).expect("a socket");
    runtime.bring_up(false).expect("a device");
    runtime.bind(id, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).expect("a port");
    id
}

fn send_to(runtime: &Runtime, id: DescriptionId, to: SocketAddr, bytes: &[u8]) -> Result<usize, SendError> {
    let arguments = SendArguments { to: Some(to), ..SendArguments::default() };
    runtime
        .with_socket(id, |stack, socket, now| {
            let mut source = bytes;
            stack.send(now, socket, &mut source, &arguments)
        })
        .expect("the description is there")
}

fn receive(
    runtime: &Runtime,
    id: DescriptionId,
    buffer: &mut Buffer,
    deadline: Option<Instant>,
) -> Result<Option<SocketAddr>, WaitEnd> {
    buffer.length = 0;
    let got = runtime.block_on(id, Readiness::IN, deadline, &quiet, |stack, socket, now| {
        match stack.receive(now, socket, buffer, ReceiveFlags::empty()) {
            Err(ReceiveError::WouldBlock) => None,
            other => Some(other),
        }
    })?;
    Ok(got.ok().and_then(|received| received.from))
}

/// Polls with a deadline.
fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = call::now() + LIMIT;
    while call::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// Sends to a peer until it answers: it may not be there yet.
fn ask(runtime: &Runtime, id: DescriptionId, to: SocketAddr, question: &[u8], buffer: &mut Buffer) -> bool {
    eventually(|| {
        let _ = send_to(runtime, id, to, question);
        // A late answer of another is no answer of this one.
        receive(runtime, id, buffer, Some(call::now() + Duration::from_millis(50))) == Ok(Some(to))
    })
}

fn echo_once(runtime: &Runtime, id: DescriptionId, buffer: &mut Buffer) -> bool {
    let Ok(Some(from)) = receive(runtime, id, buffer, soon()) else { return false };
    let reply = buffer.filled().to_vec();
    send_to(runtime, id, from, &reply).is_ok()
}

/// Answers until nothing has been heard for a while. An end that goes right after its answer takes the link with it: once
/// the other's send is refused, the kernel drops what that one has not read yet (`unix_dgram_disconnected`).
fn echo_until_quiet(runtime: &Runtime, id: DescriptionId, buffer: &mut Buffer) -> bool {
    const QUIET: Duration = Duration::from_millis(300);
    let mut good = echo_once(runtime, id, buffer);
    while good && let Ok(Some(from)) = receive(runtime, id, buffer, Some(call::now() + QUIET)) {
        good = send_to(runtime, id, from, buffer.filled()).is_ok();
    }
    good
}

/// Runs both ends in children and expects both to end well.
fn both(test: &str, one: impl FnOnce(&str) -> i32, other: impl FnOnce(&str) -> i32) {
    let link = link(test);
    let first = spawn_child(|| one(&link));
    let second = spawn_child(|| other(&link));
    assert_eq!((reap(first), reap(second)), (0, 0), "exit status of both ends");
}

#[test]
fn datagrams_pass_between_two_families_and_blocked_callers_drive() {
    both(
        "datagrams",
        |link| {
            let runtime = family(link, 1);
            let id = udp(runtime, 7);
            let mut buffer = Buffer::new();
            if echo_until_quiet(runtime, id, &mut buffer) { 0 } else { 1 }
        },
        |link| {
            let runtime = family(link, 2);
            let id = udp(runtime, 0);
            let mut buffer = Buffer::new();
            let answered = ask(runtime, id, at(1, 7), b"anyone?", &mut buffer);
            if answered && buffer.filled() == b"anyone?" { 0 } else { 1 }
        },
    );
}

#[test]
fn wait_ends_at_its_deadline_and_at_an_interruption() {
    let status = in_child(|| {
        let runtime = family(&link("deadline"), 1);
        let id = udp(runtime, 7);
        let mut buffer = Buffer::new();
        let began = call::now();
        let ended = receive(runtime, id, &mut buffer, Some(began + Duration::from_millis(30)));
        let took = call::now().since(began);
        if ended != Err(WaitEnd::TimedOut) || took < Duration::from_millis(30) {
            return 1;
        }
        // A real signal, which has to end the sleep itself.
        alarm_in(1);
        let ended = runtime.block_on(id, Readiness::IN, soon(), &alarm_rang, |_, _, _| None::<()>);
        let took = call::now().since(began);
        let statistics = runtime.family_statistics();
        i32::from(ended != Err(WaitEnd::Interrupted) || statistics.sleeps == 0 || took > Duration::from_secs(3)) * 2
    });
    assert_eq!(status, 0);
}

#[test]
fn kernel_descriptors_and_sockets_are_waited_for_together() {
    both(
        "mixed",
        |link| {
            let runtime = family(link, 1);
            let id = udp(runtime, 7);
            let event = call::eventfd(0, libc::EFD_NONBLOCK).expect("an eventfd");
            let mut kernel = [libc::pollfd { fd: event.raw(), events: libc::POLLIN, revents: 0 }];
            let descriptions = [(id, Readiness::IN)];
            let spec = |deadline| WaitSpec {
                descriptions: &descriptions,
                sets: &[],
                deadline,
                fills_in: true,
                sigmask: None,
                interrupted: &quiet,
            };
            let mut ready = |view: &mut View<'_>| view.readiness(id).contains(Readiness::IN);
            if runtime.wait(&spec(Some(call::now())), &mut kernel, &mut ready) != Err(WaitEnd::TimedOut) {
                return 1;
            }
            call::eventfd_ring(event);
            if runtime.wait(&spec(Some(call::now())), &mut kernel, &mut ready).is_err() || kernel[0].revents == 0 {
                return 2;
            }
            if runtime.wait(&spec(soon()), &mut kernel, &mut ready).is_err() || kernel[0].revents == 0 {
                return 3;
            }
            call::eventfd_drain(event);
            if runtime.wait(&spec(soon()), &mut kernel, &mut ready).is_err() || kernel[0].revents != 0 {
                return 4;
            }
            let mut buffer = Buffer::new();
            if echo_until_quiet(runtime, id, &mut buffer) { 0 } else { 5 }
        },
        |link| {
            let runtime = family(link, 2);
            let id = udp(runtime, 0);
            let mut buffer = Buffer::new();
            i32::from(!ask(runtime, id, at(1, 7), b"x", &mut buffer))
        },
    );
}

#[test]
fn driver_hands_over_to_the_thread_that_still_sleeps() {
    both(
        "threads",
        |link| {
            let runtime = family(link, 1);
            let ids: Vec<DescriptionId> = (7..10).map(|port| udp(runtime, port)).collect();
            let done = std::thread::scope(|scope| {
                let threads: Vec<_> = ids
                    .into_iter()
                    .map(|id| {
                        std::thread::Builder::new()
                            .stack_size(1 << 20)
                            .spawn_scoped(scope, move || echo_until_quiet(runtime, id, &mut Buffer::new()))
                            .expect("a thread")
                    })
                    .collect();
                threads.into_iter().all(|thread| thread.join().is_ok_and(|good| good))
            });
            i32::from(!done)
        },
        |link| {
            let runtime = family(link, 2);
            let id = udp(runtime, 0);
            let mut buffer = Buffer::new();
            // Whichever of them drives: each leaves when it has been answered, and the next must still hear.
            let all = [8, 7, 9].into_iter().all(|port| ask(runtime, id, at(1, port), b"x", &mut buffer));
            i32::from(!all)
        },
    );
}

#[test]
fn parent_and_child_use_one_socket_in_turns() {
    both(
        "turns",
        |link| {
            let runtime = family(link, 1);
            let id = udp(runtime, 7);
            let mut buffer = Buffer::new();
            if !echo_once(runtime, id, &mut buffer) {
                return 1;
            }
            let ticket = runtime.before_fork();
            let child = crate::sys::testing::fork();
            if child == 0 {
                runtime.after_fork_child(ticket);
                let good = echo_once(runtime, id, &mut buffer);
                runtime.release(id);
                call::exit_group(i32::from(!good));
            }
            runtime.after_fork_parent(ticket, Some(child));
            if reap(child) != 0 {
                return 2;
            }
            if !runtime.exists(id) {
                return 3;
            }
            i32::from(!echo_until_quiet(runtime, id, &mut buffer)) * 4
        },
        |link| {
            let runtime = family(link, 2);
            let id = udp(runtime, 0);
            let mut buffer = Buffer::new();
            i32::from(!(0..3).all(|_| ask(runtime, id, at(1, 7), b"x", &mut buffer)))
        },
    );
}

#[test]
fn last_holder_closes_the_socket_whoever_it_is() {
    let status = in_child(|| {
        let runtime = family(&link("holders"), 1);
        let id = udp(runtime, 7);
        runtime.hold(id);
        runtime.release(id);
        let ticket = runtime.before_fork();
        let child = crate::sys::testing::fork();
        if child == 0 {
            runtime.after_fork_child(ticket);
            runtime.release(id);
            if !runtime.exists(id) {
                call::exit_group(1);
            }
            call::exit_group(0);
        }
        runtime.after_fork_parent(ticket, Some(child));
        if reap(child) != 0 || !runtime.exists(id) {
            return 1;
        }
        runtime.release(id);
        if runtime.exists(id) || runtime.family_statistics().descriptions != 0 {
            return 2;
        }
        // A fork that fails gives the slot back.
        let id = udp(runtime, 8);
        let ticket = runtime.before_fork();
        if runtime.family_statistics().members != 3 {
            return 3;
        }
        runtime.after_fork_parent(ticket, None);
        runtime.release(id);
        i32::from(runtime.exists(id)) * 4
    });
    assert_eq!(status, 0);
}

#[test]
fn what_a_killed_member_held_is_closed_by_the_keeper() {
    let status = in_child(|| {
        let runtime = family(&link("killed"), 1);
        let kept = udp(runtime, 7);
        if runtime.bring_up(true).is_err() || runtime.family.open().keeper_generation() == 0 {
            return 1;
        }
        let ticket = runtime.before_fork();
        let child = crate::sys::testing::fork();
        if child == 0 {
            runtime.after_fork_child(ticket);
            let _only_mine = udp(runtime, 8);
            let mut buffer = Buffer::new();
            // Killed as the driver, asleep.
            let _ = receive(runtime, kept, &mut buffer, soon());
            call::exit_group(1);
        }
        runtime.after_fork_parent(ticket, Some(child));
        if !eventually(|| runtime.family_statistics().descriptions == 2) {
            return 2;
        }
        let _ = call::kill(child, libc::SIGKILL);
        let _ = reap(child);
        if !eventually(|| runtime.family_statistics().descriptions == 1) {
            return 3;
        }
        if runtime.family_statistics().members != 1 || !runtime.exists(kept) {
            return 4;
        }
        // The driver's role is free again.
        let mut buffer = Buffer::new();
        let ended = receive(runtime, kept, &mut buffer, Some(call::now() + Duration::from_millis(20)));
        if ended != Err(WaitEnd::TimedOut) {
            return 5;
        }
        runtime.leave();
        0
    });
    assert_eq!(status, 0);
}

#[test]
fn keeper_answers_while_no_caller_is_inside_and_ends_with_the_family() {
    let link = link("keeper");
    let (near, far) = call::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET).expect("a pair");
    let first = spawn_child(|| {
        let runtime = family(&link, 1);
        let _bound = udp(runtime, 7);
        if runtime.bring_up(true).is_err() {
            return 1;
        }
        let keeper = runtime.family.open().keeper_pid.load(Ordering::Relaxed);
        // Outside of the stack until the other end has been answered.
        let mut bytes = [0u8; 8];
        let _ = call::send(far, b"ready", 0);
        let mut set = [libc::pollfd { fd: far.raw(), events: libc::POLLIN, revents: 0 }];
        let _ = call::ppoll(&mut set, Some(LIMIT), None);
        if call::receive(far, &mut bytes, libc::MSG_DONTWAIT) != Ok(4) {
            return 2;
        }
        if runtime.family_statistics().frames_by_keeper == 0 {
            return 3;
        }
        runtime.leave();
        let _ = call::send(far, &keeper.to_ne_bytes(), 0);
        0
    });
    let second = spawn_child(|| {
        let mut bytes = [0u8; 8];
        if call::receive(near, &mut bytes, 0) != Ok(5) {
            return 1;
        }
        let runtime = family(&link, 2);
        let id = udp(runtime, 0);
        // Nobody is on port 9: the answer is an ICMP error, which only the keeper can have sent.
        let connected = runtime.with_socket(id, |stack, socket, now| stack.connect(now, socket, at(1, 9)));
        if connected != Some(Ok(())) {
            return 2;
        }
        let refused = eventually(|| {
            let _ = runtime.with_socket(id, |stack, socket, now| {
                let mut source: &[u8] = b"x";
                stack.send(now, socket, &mut source, &SendArguments::default())
            });
            let until = Some(call::now() + Duration::from_millis(20));
            let got = runtime.block_on(id, Readiness::IN, until, &quiet, |stack, socket, now| {
                match stack.receive(now, socket, &mut Buffer::new(), ReceiveFlags::empty()) {
                    Err(ReceiveError::WouldBlock) => None,
                    other => Some(other.is_err()),
                }
            });
            got == Ok(true)
        });
        if !refused {
            return 3;
        }
        let _ = call::send(near, b"done", 0);
        let mut pid = [0u8; 4];
        let mut set = [libc::pollfd { fd: near.raw(), events: libc::POLLIN, revents: 0 }];
        let _ = call::ppoll(&mut set, Some(LIMIT), None);
        if call::receive(near, &mut pid, libc::MSG_DONTWAIT) != Ok(4) {
            return 4;
        }
        let keeper = i32::from_ne_bytes(pid);
        let gone = eventually(|| call::kill(keeper, 0).is_err() || is_zombie(keeper));
        i32::from(!gone) * 5
    });
    assert_eq!((reap(first), reap(second)), (0, 0));
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn family_goes_on_when_its_first_process_has_gone() {
    both(
        "daemon",
        |link| {
            let runtime = family(link, 1);
            let id = udp(runtime, 7);
            if runtime.bring_up(true).is_err() {
                return 1;
            }
            // Twice, as a daemon does.
            for _ in 0..2 {
                let ticket = runtime.before_fork();
                let child = crate::sys::testing::fork();
                if child != 0 {
                    runtime.after_fork_parent(ticket, Some(child));
                    runtime.leave();
                    return 0;
                }
                runtime.after_fork_child(ticket);
            }
            let good = echo_until_quiet(runtime, id, &mut Buffer::new());
            runtime.leave();
            call::exit_group(i32::from(!good));
        },
        |link| {
            let runtime = family(link, 2);
            let id = udp(runtime, 0);
            i32::from(!ask(runtime, id, at(1, 7), b"still there?", &mut Buffer::new()))
        },
    );
}

#[test]
fn member_that_dies_inside_breaks_its_family_and_the_next_start_makes_another() {
    let status = in_child(|| {
        let link = link("broken");
        let runtime = family(&link, 1);
        let id = udp(runtime, 7);
        let ticket = runtime.before_fork();
        let child = crate::sys::testing::fork();
        if child == 0 {
            runtime.after_fork_child(ticket);
            let _ = runtime.call(|_, _| call::exit_group(0));
        }
        runtime.after_fork_parent(ticket, Some(child));
        let _ = reap(child);
        let ended = receive(runtime, id, &mut Buffer::new(), soon());
        if ended != Err(WaitEnd::Broken) || !runtime.is_broken() {
            return 1;
        }
        if runtime.readiness(id) != Readiness::ERR | Readiness::HUP {
            return 2;
        }
        let fresh = family(&link, 1);
        let other = fresh.open(AddressFamily::Inet, SocketType::Datagram, 0, false);
        i32::from(fresh.is_broken() || other.is_err()) * 3
    });
    assert_eq!(status, 0);
}

#[test]
fn epoll_set_reports_levels_edges_and_one_shots() {
    let link = link("epoll");
    let status = in_child(|| {
        let runtime = family(&link, 1);
        let (level, edge, once) = (udp(runtime, 7), udp(runtime, 8), udp(runtime, 9));
        let Some(set) = runtime.set_create() else { return 1 };
        let input = libc::EPOLLIN as u32;
        let added = [
            runtime.set_add(set, 10, level, input, 1),
            runtime.set_add(set, 11, edge, input | libc::EPOLLET as u32, 2),
            runtime.set_add(set, 12, once, input | libc::EPOLLONESHOT as u32, 3),
        ];
        if added != [Ok(()); 3] || runtime.set_add(set, 10, level, input, 1) != Err(SetError::Exists) {
            return 2;
        }
        let mut out = [ReadyEvent::default(); 8];
        if runtime.set_collect(set, &mut out) != 0 {
            return 3;
        }
        let sender = udp(runtime, 6);
        let collect = |expected: &[u64]| {
            let mut out = [ReadyEvent::default(); 8];
            let count = runtime.set_collect(set, &mut out);
            let mut data: Vec<u64> = out[..count].iter().map(|event| event.data).collect();
            data.sort_unstable();
            data == expected
        };
        for port in 7..10 {
            let _ = send_to(runtime, sender, at(1, port), b"x");
        }
        if !collect(&[1, 2, 3]) {
            return 4;
        }
        if !collect(&[1]) {
            return 5;
        }
        for port in 7..10 {
            let _ = send_to(runtime, sender, at(1, port), b"x");
        }
        if !collect(&[1, 2]) {
            return 6;
        }
        if runtime.set_modify(set, 12, once, input | libc::EPOLLONESHOT as u32, 4) != Ok(()) || !collect(&[1, 4]) {
            return 7;
        }
        if runtime.set_delete(set, 10, level) != Ok(()) || !collect(&[]) {
            return 8;
        }
        runtime.release(once);
        runtime.release(edge);
        let mut sets = [set; 4];
        if runtime.sets_of(level, &mut sets) != 0 || runtime.set_is_ready(set) {
            return 9;
        }
        runtime.set_release(set);
        i32::from(runtime.family_statistics().sets != 0) * 10
    });
    assert_eq!(status, 0);
}

#[test]
fn private_descriptors_are_known_and_program_descriptors_are_not() {
    let status = in_child(|| {
        let runtime = family(&link("private"), 1);
        let _id = udp(runtime, 7);
        if runtime.bring_up(true).is_err() {
            return 1;
        }
        let open = runtime.family.open();
        let all = open.family_fds().chain(open.device_fds()).chain([runtime.lifeline_fd()]);
        let guarded = all.map(|fd| fd.raw()).all(|fd| fd > 2 && runtime.is_private_fd(fd));
        let event = call::eventfd(0, 0).expect("an eventfd");
        let foreign = [0, 1, 2, -1, event.raw()].into_iter().any(|fd| runtime.is_private_fd(fd));
        runtime.leave();
        i32::from(!guarded || foreign) * 2
    });
    assert_eq!(status, 0);
}

#[test]
fn hook_that_was_put_off_runs_once_on_leaving() {
    static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let status = in_child(|| {
        let runtime = family(&link("hook"), 1);
        let inside = runtime.call(|_, _| {
            defer_to_leave(|| {
                RUNS.fetch_add(1, Ordering::Relaxed);
            });
            in_core() && RUNS.load(Ordering::Relaxed) == 0
        });
        let _ = runtime.call(|_, _| ());
        i32::from(inside != Ok(true) || in_core() || RUNS.load(Ordering::Relaxed) != 1)
    });
    assert_eq!(status, 0);
}

const MEGABYTE: usize = 1 << 20;

fn pattern(index: usize) -> u8 {
    (index.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Says whether the family's keeper goes away.
fn keeper_ends(runtime: &Runtime) -> bool {
    let keeper = runtime.family.open().keeper_pid.load(Ordering::Relaxed);
    keeper > 0 && eventually(|| call::kill(keeper, 0).is_err() || is_zombie(keeper))
}

#[test]
fn keeper_ends_after_the_last_thing_that_only_it_could_finish() {
    both(
        "finish",
        |link| {
            let runtime = family(link, 1);
            let listener = runtime.open(AddressFamily::Inet, SocketType::Stream, 0, false).expect("a socket");
            if runtime.bring_up(true).is_err() || runtime.bind(listener, at(1, 80)).is_err() {
                return 1;
            }
            let listening = runtime.with_socket(listener, |stack, socket, now| stack.listen(now, socket, 5));
            let accepted = runtime.block_on(listener, Readiness::IN, soon(), &quiet, |stack, socket, now| match stack
                .accept(now, socket)
            {
                Err(AcceptError::WouldBlock) => None,
                other => Some(other),
            });
            if listening != Some(Ok(())) || !matches!(accepted, Ok(Ok(_))) {
                return 2;
            }
            let Ok(Ok((socket, _))) = accepted else { return 3 };
            let Some(id) = runtime.adopt(listener, socket, false) else { return 4 };
            // The peer closes first: our end is LAST-ACK, over with its final ACK and without any TIME_WAIT.
            let ended = runtime.block_on(id, Readiness::IN, soon(), &quiet, |stack, socket, now| {
                match stack.receive(now, socket, &mut Buffer::new(), ReceiveFlags::empty()) {
                    Err(ReceiveError::WouldBlock) => None,
                    other => Some(other.is_ok_and(|received| received.length == 0)),
                }
            });
            if ended != Ok(true) {
                return 5;
            }
            runtime.leave();
            let lifeline = Fd(runtime.lifeline.swap(u32::MAX) as i32);
            let _ = call::close(lifeline);
            i32::from(!keeper_ends(runtime)) * 6
        },
        |link| {
            let runtime = family(link, 2);
            let Some(id) = connected(runtime) else { return 1 };
            runtime.release(id);
            // Stays for the other's FIN.
            std::thread::sleep(Duration::from_millis(500));
            runtime.leave();
            0
        },
    );
}

#[test]
fn a_megabyte_passes_over_tcp_between_two_processes() {
    both("megabyte", serve_a_megabyte, fetch_a_megabyte);
}

fn serve_a_megabyte(link: &str) -> i32 {
    let runtime = family(link, 1);
    let listener = runtime.open(AddressFamily::Inet, SocketType::Stream, 0, false).expect("a socket");
    if runtime.bring_up(true).is_err() || runtime.bind(listener, at(1, 80)).is_err() {
        return 1;
    }
    if runtime.with_socket(listener, |stack, socket, now| stack.listen(now, socket, 5)) != Some(Ok(())) {
        return 2;
    }
    let accepted = runtime.block_on(listener, Readiness::IN, soon(), &quiet, |stack, socket, now| {
        match stack.accept(now, socket) {
            Err(AcceptError::WouldBlock) => None,
            other => Some(other),
        }
    });
    let Ok(Ok((socket, _))) = accepted else { return 3 };
    let Some(id) = runtime.adopt(listener, socket, false) else { return 4 };
    let all: Vec<u8> = (0..MEGABYTE).map(pattern).collect();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let sent = runtime.block_on(id, Readiness::OUT, soon(), &quiet, |stack, socket, now| {
            match stack.send(now, socket, &mut rest, &SendArguments::default()) {
                Err(SendError::WouldBlock) => None,
                other => Some(other),
            }
        });
        if !matches!(sent, Ok(Ok(_))) {
            return 5;
        }
    }
    // At once: the keeper has to finish what is left to send.
    runtime.leave();
    0
}

/// A connection to 10.99.0.1:80, which may not listen yet.
fn connected(runtime: &Runtime) -> Option<DescriptionId> {
    let mut found = None;
    eventually(|| {
        let id = runtime.open(AddressFamily::Inet, SocketType::Stream, 0, false).expect("a socket");
        runtime.bring_up(true).expect("a device");
        let begun = runtime.with_socket(id, |stack, socket, now| stack.connect(now, socket, at(1, 80)));
        let done = begun == Some(Err(ConnectError::InProgress))
            && runtime
                .block_on(id, Readiness::OUT, soon(), &quiet, |stack, socket, now| stack.finish_connect(now, socket))
                == Ok(Ok(()));
        if done {
            found = Some(id);
        } else {
            runtime.release(id);
        }
        done
    });
    found
}

fn fetch_a_megabyte(link: &str) -> i32 {
    let runtime = family(link, 2);
    let Some(id) = connected(runtime) else { return 1 };
    let mut count = 0;
    let mut buffer = Buffer::new();
    loop {
        buffer.length = 0;
        let got = runtime.block_on(id, Readiness::IN, soon(), &quiet, |stack, socket, now| {
            match stack.receive(now, socket, &mut buffer, ReceiveFlags::empty()) {
                Err(ReceiveError::WouldBlock) => None,
                other => Some(other),
            }
        });
        match got {
            Ok(Ok(received)) if received.length == 0 => break,
            Ok(Ok(_)) => {}
            _ => return 2,
        }
        if !buffer.filled().iter().enumerate().all(|(index, byte)| *byte == pattern(count + index)) {
            return 3;
        }
        count += buffer.length;
    }
    let _ = runtime.with_socket(id, |stack, socket, now| stack.shutdown(now, socket, Shutdown::Both));
    runtime.release(id);
    runtime.leave();
    i32::from(count != MEGABYTE) * 4
}
