//! Kernel or stack: decided at the first call that names or needs an address, and the hand-over of a socket to the
//! kernel.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use remora_host::config::rules::Verdict;
use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::protocol::{AddressFamily, SocketType};

use remora_host::runtime::SetId;
use smallvec::SmallVec;

use super::rules::{self, Decision, Reason};
use super::running;
use crate::abi::address::RawName;
use crate::abi::{Outcome, User, address};
use crate::config;
use crate::fdtable::{self, Entry, Epoll, Handle, Loopback};

/// What needs the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Bind,
    Connect,
    Listen,
    Send,
}

/// Who serves the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Stack,
    Kernel,
}

/// A call with an address on a kernel socket made without configuration: the warning, or the refusal.
pub(crate) fn watched_use<T>(fd: i32) -> Outcome<T> {
    if fdtable::lookup(fd) != Some(Entry::Watched) {
        return Outcome::PassThrough;
    }
    fdtable::remove(fd);
    if config::warn_unconfigured() { Outcome::fail(libc::ENETDOWN) } else { Outcome::PassThrough }
}

/// A call that names a destination on a kernel socket. One that is bound to the loopback network reaches this machine
/// only; the kernel cannot say so (EINVAL, `__mkroute_output`) where the route to elsewhere is the stack's alone.
//= REF C-07
pub(crate) fn kernel_use<A, T>(fd: i32, address: User<A>, length: u32, purpose: Purpose) -> Outcome<T> {
    let Some(Entry::Loopback(socket)) = fdtable::lookup(fd) else { return watched_use(fd) };
    if !fdtable::is_fresh(fd) {
        fdtable::remove(fd);
        return Outcome::PassThrough;
    }
    // A stream takes a destination from connect alone, and only while it is closed.
    if socket.is_stream && (purpose != Purpose::Connect || !is_closed_stream(fd)) {
        return Outcome::PassThrough;
    }
    let Ok(raw) = RawName::read(address, length) else { return Outcome::PassThrough };
    match raw.for_connect(socket.family, socket.is_stream) {
        Ok(to) if leaves_the_machine(to.ip()) => Outcome::fail(libc::EINVAL),
        _ => Outcome::PassThrough,
    }
}

/// Whether a kernel socket is a TCP socket in CLOSE. (The state is the first byte of struct tcp_info.)
fn is_closed_stream(fd: i32) -> bool {
    const TCP_CLOSE: u8 = 7;
    let mut state = [0u8; 1];
    call::option(Fd(fd), libc::IPPROTO_TCP, libc::TCP_INFO, &mut state).is_ok() && state == [TCP_CLOSE]
}

/// Whether a destination is neither loopback nor an address of the kernel's own. Groups and broadcasts are left to the
/// kernel's judgement.
fn leaves_the_machine(ip: IpAddr) -> bool {
    let IpAddr::V4(v4) = ip else { return false };
    if v4.is_loopback() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() {
        return false;
    }
    // Only an address of its own can be bound.
    let Ok(probe) = call::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) else { return false };
    let (bytes, length) = address::encode(SocketAddr::new(ip, 0), AddressFamily::Inet);
    let result = call::bind(probe, bytes.get(..length).unwrap_or(&[]));
    let _ = call::close(probe);
    result == Err(Errno(libc::EADDRNOTAVAIL))
}

/// Binds a socket that has gone to the kernel, and marks it when the address is of the loopback network.
pub(crate) fn bind_in_kernel(fd: i32, handle: Handle, raw: &RawName, name: SocketAddr) -> Result<(), Errno> {
    call::bind(Fd(fd), raw.bytes())?;
    if matches!(name.ip(), IpAddr::V4(v4) if v4.is_loopback()) {
        let mark = Loopback { family: handle.family, is_stream: handle.is_stream() };
        if let Some(stale) = fdtable::insert(fd, Entry::Loopback(mark)) {
            super::release_entry(stale);
        }
    }
    Ok(())
}

/// IPV6_V6ONLY of the socket.
pub(crate) fn is_v6_only(runtime: &Runtime, handle: Handle) -> bool {
    let flag =
        runtime.with_socket(handle.id, |stack, socket, _| stack.options(socket).is_some_and(|options| options.v6_only));
    flag.unwrap_or(false)
}

/// Where a socket's state stands, as far as a hand-over is concerned.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// Never connected, not listening, nothing queued.
    movable: bool,
    local: Option<SocketAddr>,
}

fn standing(runtime: &Runtime, handle: Handle) -> Standing {
    use remora_stack::socket::state::SocketState;
    runtime
        .with_socket(handle.id, |stack, socket, _| Standing {
            movable: stack.socket_state(socket) == SocketState::Unconnected
                && !stack.is_listening(socket)
                && stack.queued_input(socket) == 0
                && stack.peer_name(socket).is_err(),
            local: stack.local_name(socket).ok(),
        })
        .unwrap_or(Standing { movable: false, local: None })
}

/// Decides who serves the socket, brings the stack up when it is to be the stack, and hands the socket over when it is
/// to be the kernel. After `Side::Kernel` the call goes on as libc's, on what is now a kernel socket.
//= REF C-18
pub(crate) fn settle(fd: i32, handle: Handle, address: Option<SocketAddr>, purpose: Purpose) -> Result<Side, Errno> {
    let runtime = running()?;
    let Some(settings) = config::active() else { return Ok(Side::Stack) };
    let rule = rules::decide(settings, runtime, handle, address, purpose);
    let explain = |decision: Decision<'_>| {
        rules::explain(settings, runtime, (fd, handle), (address, purpose), decision);
    };
    if let Some(rule) = rule
        && let Verdict::Deny(errno) = rule.verdict
    {
        explain(Decision::Denied(rule));
        return Err(Errno(errno));
    }
    let by_default = || {
        let name = address.filter(|_| rule.is_none_or(|rule| rule.verdict == Verdict::Allow))?;
        // ::1 has no place in a stack without IPv6: it stays the kernel's.
        let is_kernels =
            |name: SocketAddr| name.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) || !settings.loopback_in_stack();
        (is_kernels(name) && is_loopback(runtime, handle, name, purpose)).then_some(Reason::Loopback)
    };
    if let Some(reason) = rules::sends_to_kernel(rule).or_else(by_default) {
        let standing = standing(runtime, handle);
        // An IPv4 source has no way there (`ip6_dst_lookup_tail`).
        if purpose == Purpose::Send
            && !handle.is_stream()
            && address.is_some_and(|to| to.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST))
            && standing.local.is_some_and(|local| local.is_ipv4())
        {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        if standing.movable {
            explain(Decision::Kernel(reason));
            materialise(fd, handle, standing, reason)?;
            return Ok(Side::Kernel);
        }
        log::warn!(target: "remora::policy", "descriptor {fd} is in use on the stack and stays there ({reason})");
    }
    if let Some(IpAddr::V6(v6)) = address.map(|name| name.ip())
        && !v6.is_unspecified()
    {
        //= REF S-06
        let errno = if purpose == Purpose::Bind { libc::EADDRNOTAVAIL } else { libc::ENETUNREACH };
        return Err(Errno(errno));
    }
    // A bound port is one that others may ask about, and the keeper answers them.
    let Err(error) = runtime.bring_up(true) else {
        explain(Decision::Stack(rule.filter(|rule| rule.verdict != Verdict::Kernel)));
        return Ok(Side::Stack);
    };
    let standing = standing(runtime, handle);
    if settings.strict() || !standing.movable {
        log::error!(target: "remora::policy", "the stack cannot be used: {error}");
        return Err(Errno(libc::ENETDOWN));
    }
    log::warn!(target: "remora::policy", "the stack cannot be used, the kernel's is: {error}");
    explain(Decision::Kernel(Reason::NoDevice));
    materialise(fd, handle, standing, Reason::NoDevice)?;
    Ok(Side::Kernel)
}

/// A raw socket hears what comes for its protocol from its making on, without a name: who waits on one brings the stack
/// up. Not socket() itself, for most programs name a destination first, which may be the kernel's.
//= REF D-04
pub(crate) fn listen_raw(runtime: &Runtime, handle: Handle) {
    if handle.kind == SocketType::Raw
        && let Err(error) = runtime.bring_up(true)
    {
        log::debug!(target: "remora::policy", "a raw socket hears nothing: {error}");
    }
}

/// Whether an address is on this machine for the kernel's loopback: 127.0.0.0/8, ::1, and as a destination the
/// unspecified address of a socket that is not bound to another.
//= REF C-07
fn is_loopback(runtime: &Runtime, handle: Handle, name: SocketAddr, purpose: Purpose) -> bool {
    let ip = name.ip();
    if ip.is_loopback() {
        return true;
    }
    if !ip.is_unspecified() || purpose == Purpose::Bind {
        return false;
    }
    standing(runtime, handle).local.is_none_or(|local| local.ip().is_unspecified() || local.ip().is_loopback())
}

/// Makes a kernel socket of the same kind with the same options, puts it in place of every number of the description,
/// moves epoll registrations to the kernel's sets, and forgets the description.
fn materialise(fd: i32, handle: Handle, standing: Standing, reason: Reason<'_>) -> Result<(), Errno> {
    let runtime = running()?;
    let domain = if handle.family == AddressFamily::Inet { libc::AF_INET } else { libc::AF_INET6 };
    let kind = match handle.kind {
        SocketType::Stream => libc::SOCK_STREAM,
        SocketType::Datagram => libc::SOCK_DGRAM,
        SocketType::Raw => libc::SOCK_RAW,
    };
    let protocol = runtime.kind(handle.id).map_or(0, |kind| i32::from(kind.protocol));
    let kernel = call::socket(domain, kind | libc::SOCK_CLOEXEC, protocol)?;
    super::options::replay(runtime, handle, kernel);
    if runtime.nonblocking(handle.id)
        && let Ok(flags) = call::fcntl(kernel, libc::F_GETFL, 0)
    {
        let _ = call::fcntl(kernel, libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
    if let Some(local) = standing.local.filter(|local| local.port() != 0) {
        let (bytes, length) = address::encode(local, handle.family);
        if let Err(errno) = call::bind(kernel, bytes.get(..length).unwrap_or(&[])) {
            let _ = call::close(kernel);
            return Err(errno);
        }
    }
    rules::count_hand_over(reason);
    let numbers: Vec<i32> = fdtable::numbers_of(handle.id).collect();
    let registrations = registrations(runtime, handle);
    for number in numbers {
        let close_on_exec = call::fcntl(Fd(number), libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0);
        let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
        if call::dup3(kernel, Fd(number), flags).is_ok() {
            fdtable::remove(number);
        }
    }
    runtime.forget(handle.id);
    for Registration { set_fd, fd, events, data } in registrations {
        let mut event = libc::epoll_event { events, u64: data };
        let _ = call::epoll_ctl(Fd(set_fd), libc::EPOLL_CTL_ADD, Fd(fd), Some(&mut event));
    }
    log::debug!(target: "remora::policy", "descriptor {fd} is the kernel's now");
    call::close(kernel)
}

/// One watch of an epoll descriptor of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Registration {
    pub(super) set_fd: i32,
    pub(super) fd: i32,
    pub(super) events: u32,
    pub(super) data: u64,
}

/// Every registration of the description in an epoll set of this process. (They end with the description.)
pub(super) fn registrations(runtime: &Runtime, handle: Handle) -> SmallVec<[Registration; 8]> {
    let mut found = SmallVec::new();
    let mut seen: SmallVec<[SetId; 4]> = SmallVec::new();
    for (set_fd, entry) in fdtable::entries(0, i32::MAX) {
        let Entry::Epoll(Epoll::Mixed(set)) = entry else { continue };
        if seen.contains(&set) {
            continue;
        }
        seen.push(set);
        // Filled under the lock, where nothing may be allocated for this process: a fixed number at a time.
        let mut few = [Registration::default(); 8];
        let mut count = 0;
        runtime.set_entries(set, handle.id, &mut |fd, events, data| {
            if let Some(place) = few.get_mut(count) {
                *place = Registration { set_fd, fd, events, data };
                count += 1;
            }
        });
        found.extend(few.into_iter().take(count));
    }
    found
}
