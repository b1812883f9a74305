//! socket, bind, connect, listen, accept, shutdown.

use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use remora_host::runtime::{self, WaitEnd, WaitSpec};
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::error::{AcceptError, ConnectError};
use remora_stack::socket::protocol::{AddressFamily, Readiness, Shutdown, SocketType};
use remora_stack::time::Instant;
use smallvec::SmallVec;

use super::io::{Held, Patience, Stop, bound_all_the_same, until};
use super::policy::{self, Purpose, Side};
use super::rules::{self, Reason};
use super::{companion, gone, socket_of, traced};
use crate::abi::address::{self, RawName};
use crate::abi::{Outcome, User, signal, stdio};
use crate::fdtable::{self, Entry, Handle};
use crate::{config, errno, placeholder};

/// The type bits of socket()'s second argument.
const TYPE_MASK: i32 = 0xf;
const TYPE_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
/// Obsolete way to a packet socket; the kernel's.
const SOCK_PACKET: i32 = 10;

//= REF S-01
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Outcome<i32> {
    let core_family = match (family, kind & TYPE_MASK) {
        (libc::AF_INET, SOCK_PACKET) | (libc::AF_INET6, libc::SOCK_RAW) => return Outcome::PassThrough,
        (libc::AF_INET, _) => AddressFamily::Inet,
        (libc::AF_INET6, _) => AddressFamily::Inet6,
        _ => return Outcome::PassThrough,
    };
    if super::strangers::is_locked_in() {
        return Outcome::PassThrough;
    }
    let Some(settings) = config::active() else {
        return watched(family, kind, protocol);
    };
    let result = create(core_family, kind, protocol, settings);
    if let Err(Fallback::Kernel(reason)) = result {
        rules::count_hand_over(reason);
        return Outcome::PassThrough;
    }
    let result = result.map_err(|fallback| match fallback {
        Fallback::Errno(errno) => errno,
        Fallback::Kernel(_) => Errno(libc::ENETDOWN),
    });
    traced(format_args!("socket({}, {}, {protocol})", family_name(family), type_name(kind)), result)
}

const fn family_name(family: i32) -> &'static str {
    if family == libc::AF_INET6 { "AF_INET6" } else { "AF_INET" }
}

const fn type_name(kind: i32) -> &'static str {
    match kind & TYPE_MASK {
        libc::SOCK_STREAM => "SOCK_STREAM",
        libc::SOCK_DGRAM => "SOCK_DGRAM",
        libc::SOCK_RAW => "SOCK_RAW",
        _ => "?",
    }
}

/// Without an address of ours the socket is the kernel's; the first use of an address on it is worth a warning.
fn watched(family: i32, kind: i32, protocol: i32) -> Outcome<i32> {
    if !config::wants_warning() {
        return Outcome::PassThrough;
    }
    let result = call::socket(family, kind, protocol).map(Fd::raw);
    if let Ok(fd) = result {
        fdtable::insert(fd, Entry::Watched);
    }
    Outcome::Ours(result)
}

enum Fallback {
    Errno(Errno),
    Kernel(Reason<'static>),
}

fn create(
    family: AddressFamily,
    kind: i32,
    protocol: i32,
    settings: &'static config::Settings,
) -> Result<i32, Fallback> {
    let fail = |errno| Err(Fallback::Errno(Errno(errno)));
    if kind & !(TYPE_MASK | TYPE_FLAGS) != 0 {
        return fail(libc::EINVAL);
    }
    let socket_type = match kind & TYPE_MASK {
        libc::SOCK_STREAM => SocketType::Stream,
        libc::SOCK_DGRAM => SocketType::Datagram,
        libc::SOCK_RAW => SocketType::Raw,
        // SOCK_MAX is 11: types below it that the family has not, and numbers that are none.
        //= REF S-02
        0..=10 => return fail(libc::ESOCKTNOSUPPORT),
        _ => return fail(libc::EINVAL),
    };
    // IPPROTO_MAX (inet_create). MPTCP (262) is a protocol of its own that the stack does not have; programs that ask
    // for it fall back on TCP when they hear EPROTONOSUPPORT.
    const PROTOCOLS: i32 = 263;
    if !(0..PROTOCOLS).contains(&protocol) {
        return fail(libc::EINVAL);
    }
    let Ok(protocol) = u8::try_from(protocol) else { return fail(libc::EPROTONOSUPPORT) };
    // Asked once there is such a protocol, and 0 is none (`inet_create`).
    //= REF D-04
    if socket_type == SocketType::Raw && protocol != 0 && !call::is_capable(call::NET_RAW) {
        return fail(libc::EPERM);
    }
    let runtime = match runtime::start(settings.config()) {
        Ok(runtime) => runtime,
        Err(error) => {
            log::error!(target: "remora::shim", "the stack cannot be started: {error}");
            return if settings.strict() { fail(libc::ENETDOWN) } else { Err(Fallback::Kernel(Reason::NoStack)) };
        }
    };
    let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
    let id = runtime
        .open(family, socket_type, protocol, nonblocking)
        .map_err(|error| Fallback::Errno(errno::create(error)))?;
    let handle = Handle { id, family, kind: socket_type };
    match place(handle, kind & TYPE_FLAGS) {
        Ok(fd) => Ok(fd),
        Err(error) => {
            runtime.release(id);
            // Numbers beyond the table are the kernel's.
            if error.0 == libc::ERANGE {
                Err(Fallback::Kernel(Reason::NumberOutOfRange))
            } else {
                Err(Fallback::Errno(error))
            }
        }
    }
}

/// Makes the placeholder of a description and enters its number. ERANGE when the number does not fit the table.
fn place(handle: Handle, flags: i32) -> Result<i32, Errno> {
    let fd = placeholder::make(handle.kind, flags)?;
    enter(fd, handle);
    Ok(fd)
}

/// Enters a number that has just got its placeholder.
fn enter(fd: i32, handle: Handle) {
    stdio::take_standard(fd);
    let stale = match placeholder::inode(fd) {
        Some(inode) => fdtable::insert_file(fd, Entry::Socket(handle), inode),
        None => fdtable::insert(fd, Entry::Socket(handle)),
    };
    if let Some(stale) = stale {
        super::release_entry(stale);
    }
}

pub(crate) fn bind(fd: i32, address: User<libc::sockaddr>, length: u32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return policy::watched_use(fd) };
    let raw_socket = handle.kind == SocketType::Raw && handle.family == AddressFamily::Inet;
    let given = RawName::read(address, length).and_then(|raw| {
        let name = if raw_socket { raw.for_raw_bind() } else { raw.for_bind(handle.family) };
        Ok((raw, name?))
    });
    let (raw, name) = match given {
        Ok(given) => given,
        Err(errno) => return traced(format_args!("bind({fd}, ?)"), Err(errno)),
    };
    let result = match policy::settle(fd, handle, Some(name), Purpose::Bind) {
        Ok(Side::Kernel) => policy::bind_in_kernel(fd, handle, &raw, name),
        Ok(Side::Stack) => runtime.bind(handle.id, name).map_err(errno::bind),
        Err(errno) => Err(errno),
    };
    traced(format_args!("bind({fd}, {name})"), result.map(|()| 0))
}

//= REF C-01
pub(crate) fn connect(fd: i32, address: User<libc::sockaddr>, length: u32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else {
        return policy::kernel_use(fd, address, length, Purpose::Connect);
    };
    let raw = match RawName::read(address, length) {
        Ok(raw) => raw,
        Err(errno) => return traced(format_args!("connect({fd}, ?)"), Err(errno)),
    };
    if raw.length() < 2 {
        return traced(format_args!("connect({fd}, ?)"), Err(Errno(libc::EINVAL)));
    }
    //= REF C-02
    if raw.family() == Some(libc::AF_UNSPEC) {
        let result = runtime
            .with_socket(handle.id, |stack, socket, now| stack.disconnect(now, socket))
            .ok_or_else(|| gone(fd, handle.id))
            .and_then(|result| result.map_err(errno::connect));
        if result.is_ok() {
            companion::end(handle.id);
        }
        return traced(format_args!("connect({fd}, AF_UNSPEC)"), result.map(|()| 0));
    }
    let name = match raw.for_connect(handle.family, handle.is_stream()) {
        Ok(name) => name,
        // A stream that is connecting or connected never looks at the address (__inet_stream_connect): any valid one
        // makes the core say what state it is in.
        Err(_) if is_busy(runtime, handle) => {
            let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
            let result = begin(fd, handle, runtime, any);
            return traced(format_args!("connect({fd}, ?)"), result.map(|()| 0));
        }
        Err(errno) => {
            let errno = bound_all_the_same(handle, runtime, errno);
            return traced(format_args!("connect({fd}, ?)"), Err(errno));
        }
    };
    if let SocketAddr::V4(_) = name
        && handle.family == AddressFamily::Inet6
        && policy::is_v6_only(runtime, handle)
        && !is_busy(runtime, handle)
    {
        // `__ip6_datagram_connect` tells an address of AF_INET from one of IPv4 in IPv6.
        let is_inet = !handle.is_stream() && raw.family() == Some(libc::AF_INET);
        let errno = Errno(if is_inet { libc::EAFNOSUPPORT } else { libc::ENETUNREACH });
        let errno = bound_all_the_same(handle, runtime, errno);
        return traced(format_args!("connect({fd}, {name})"), Err(errno));
    }
    let result = match policy::settle(fd, handle, Some(name), Purpose::Connect) {
        Ok(Side::Kernel) => return Outcome::PassThrough,
        Ok(Side::Stack) => begin(fd, handle, runtime, name),
        Err(errno) => Err(errno),
    };
    traced(format_args!("connect({fd}, {name})"), result.map(|()| 0))
}

/// Whether a stream is connecting, connected, shut down after an attempt that failed, or listening.
pub(super) fn is_busy(runtime: &runtime::Runtime, handle: Handle) -> bool {
    use remora_stack::socket::state::SocketState;
    handle.is_stream()
        && runtime
            .with_socket(handle.id, |stack, socket, _| {
                let state = stack.socket_state(socket);
                state != SocketState::Unconnected || stack.is_listening(socket)
            })
            .unwrap_or(false)
}

fn begin(fd: i32, handle: Handle, runtime: &'static runtime::Runtime, name: SocketAddr) -> Result<(), Errno> {
    let attempt = || {
        runtime
            .with_socket(handle.id, |stack, socket, now| stack.connect(now, socket, name))
            .ok_or_else(|| gone(fd, handle.id))
    };
    let bound = || {
        runtime
            .with_socket(handle.id, |stack, socket, _| stack.local_name(socket).is_ok_and(|name| name.port() != 0))
            .unwrap_or(false)
    };
    let mut first = attempt()?;
    // The ports that this family holds are used up, or nearly: more may be had. One whose own port is taken towards this
    // destination gains nothing by them.
    while first == Err(ConnectError::NoPort) && !bound() && runtime.more_ports() {
        first = attempt()?;
    }
    let waiting = match first {
        Ok(()) => return Ok(()),
        Err(error @ (ConnectError::InProgress | ConnectError::Already)) => error,
        Err(error) => return Err(errno::connect(error)),
    };
    if runtime.nonblocking(handle.id) {
        return Err(errno::connect(waiting));
    }
    //= REF C-04
    let timeout = runtime
        .with_socket(handle.id, |stack, socket, _| stack.options(socket).and_then(|options| options.send_timeout))
        .flatten();
    let patience = Patience::blocking(timeout);
    let nothing = Cell::new(0);
    let result = until(runtime, handle.id, Readiness::OUT, patience, &nothing, |stack, socket, now| {
        stack.finish_connect(now, socket)
    });
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(errno::connect(error)),
        Err(Stop::WouldBlock) => Err(errno::connect(waiting)),
        Err(Stop::Interrupted) => Err(Errno(libc::EINTR)),
        Err(Stop::Broken) => Err(gone(fd, handle.id)),
    }
}

//= REF L-01
pub(crate) fn listen(fd: i32, backlog: i32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return policy::watched_use(fd) };
    let result = match policy::settle(fd, handle, None, Purpose::Listen) {
        Ok(Side::Kernel) => return Outcome::PassThrough,
        Ok(Side::Stack) => {
            runtime.refresh_settings();
            runtime
                .listen(handle.id, backlog)
                .ok_or_else(|| gone(fd, handle.id))
                .and_then(|result| result.map_err(errno::listen))
        }
        Err(errno) => Err(errno),
    };
    if result.is_ok() {
        companion::follow_listen(runtime, handle, backlog);
    }
    traced(format_args!("listen({fd}, {backlog})"), result.map(|()| 0))
}

pub(crate) fn accept(fd: i32, address: User<libc::sockaddr>, length: User<u32>) -> Outcome<i32> {
    accept4(fd, address, length, 0)
}

//= REF L-03
pub(crate) fn accept4(fd: i32, address: User<libc::sockaddr>, length: User<u32>, flags: i32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let mut peer = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    let result = take_either(fd, handle, runtime, flags, (address, length), &mut peer);
    traced(format_args!("accept({fd}, {peer})"), result)
}

/// Where the program wants the name of the peer.
type NameTarget = (User<libc::sockaddr>, User<u32>);

/// Takes a connection from the stack's queue or from the kernel's loopback, whichever has one. Neither starves the
/// other: they take turns in going first.
fn take_either(
    fd: i32,
    handle: Handle,
    runtime: &'static runtime::Runtime,
    flags: i32,
    (address, length): NameTarget,
    peer: &mut SocketAddr,
) -> Result<i32, Errno> {
    static KERNEL_FIRST: AtomicBool = AtomicBool::new(false);
    if flags & !TYPE_FLAGS != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let patience = accept_patience(handle, runtime);
    let mut from_stack = |patience| {
        let new = take(fd, handle, runtime, flags, patience, peer)?;
        if !address.is_null() {
            // do_accept: the number is given back when the name cannot be stored.
            if let Err(errno) = address::write(*peer, handle.family, address, length) {
                let _ = super::close(new);
                return Err(errno);
            }
        }
        Ok(new)
    };
    // As the kernel keeps the file of a call under way, from the first sleep on.
    let mut held = None;
    loop {
        // Asked each time: the listener may be closed meanwhile.
        let companions = companion::of(handle.id);
        if companions.is_empty() {
            return from_stack(patience);
        }
        let kernel_first = KERNEL_FIRST.fetch_not(Ordering::Relaxed);
        let from_kernel = || companion::accept(&companions, flags, address, length);
        if kernel_first && let Some(result) = from_kernel() {
            return result;
        }
        match from_stack(Patience::Never) {
            Err(Errno(libc::EAGAIN)) => {}
            result => return result,
        }
        if !kernel_first && let Some(result) = from_kernel() {
            return result;
        }
        let Patience::Until(deadline) = patience else { return Err(Errno(libc::EAGAIN)) };
        held.get_or_insert_with(|| Held::new(runtime, handle.id));
        wait_for_either(handle, runtime, &companions, deadline)?;
    }
}

/// Sleeps until the stack or the kernel's loopback has a connection.
fn wait_for_either(
    handle: Handle,
    runtime: &'static runtime::Runtime,
    companions: &[Fd],
    deadline: Option<Instant>,
) -> Result<(), Errno> {
    let mut kernel: SmallVec<[libc::pollfd; 2]> =
        companions.iter().map(|fd| libc::pollfd { fd: fd.raw(), events: libc::POLLIN, revents: 0 }).collect();
    let wanted = Readiness::IN | Readiness::ERR | Readiness::HUP;
    let handled = signal::handled();
    let spec = WaitSpec {
        descriptions: &[(handle.id, wanted)],
        sets: &[],
        deadline,
        fills_in: true,
        sigmask: None,
        interrupted: &|| handled.any_since(),
    };
    match runtime.wait(&spec, &mut kernel, &mut |view| view.readiness(handle.id).intersects(wanted)) {
        Ok(()) => Ok(()),
        Err(WaitEnd::TimedOut) => Err(Errno(libc::EAGAIN)),
        Err(WaitEnd::Interrupted) if deadline.is_some() || handled.without_restart_since() => Err(Errno(libc::EINTR)),
        // Restarted, or the stack's side says what has become of it.
        Err(WaitEnd::Interrupted | WaitEnd::Broken) => Ok(()),
    }
}

/// How long accept waits.
fn accept_patience(handle: Handle, runtime: &runtime::Runtime) -> Patience {
    if runtime.nonblocking(handle.id) {
        return Patience::Never;
    }
    let timeout = runtime
        .with_socket(handle.id, |stack, socket, _| stack.options(socket).and_then(|options| options.receive_timeout))
        .flatten();
    Patience::blocking(timeout)
}

fn take(
    fd: i32,
    handle: Handle,
    runtime: &'static runtime::Runtime,
    flags: i32,
    patience: Patience,
    peer: &mut SocketAddr,
) -> Result<i32, Errno> {
    // The number comes first, as in the kernel: without one the connection stays in the queue.
    let beyond = |errno: Errno| if errno.0 == libc::ERANGE { Errno(libc::EMFILE) } else { errno };
    let number = placeholder::make(handle.kind, flags).map_err(beyond)?;
    let nonblocking = flags & libc::SOCK_NONBLOCK != 0;
    let result = next_connection(fd, handle, runtime, patience, nonblocking);
    match result {
        Ok((id, name)) => {
            *peer = name;
            enter(number, Handle { id, family: handle.family, kind: handle.kind });
            Ok(number)
        }
        Err(errno) => {
            let _ = placeholder::close(number);
            Err(errno)
        }
    }
}

fn next_connection(
    fd: i32,
    handle: Handle,
    runtime: &'static runtime::Runtime,
    patience: Patience,
    nonblocking: bool,
) -> Result<(runtime::DescriptionId, SocketAddr), Errno> {
    let nothing = Cell::new(0);
    // Until the connection has been taken: the listener may be closed while this sleeps.
    let _held = matches!(patience, Patience::Until(_)).then(|| Held::new(runtime, handle.id));
    let accepted = until(runtime, handle.id, Readiness::IN, patience, &nothing, |stack, socket, now| {
        match stack.accept(now, socket) {
            Err(AcceptError::WouldBlock) => None,
            other => Some(other),
        }
    });
    match accepted {
        Ok(Ok((socket, name))) => {
            let id = runtime.adopt(handle.id, socket, nonblocking).ok_or_else(|| gone(fd, handle.id))?;
            Ok((id, name))
        }
        Ok(Err(error)) => Err(errno::accept(error)),
        Err(Stop::WouldBlock) => Err(Errno(libc::EAGAIN)),
        Err(Stop::Interrupted) => Err(Errno(libc::EINTR)),
        Err(Stop::Broken) => Err(gone(fd, handle.id)),
    }
}

pub(crate) fn shutdown(fd: i32, how: i32) -> Outcome<i32> {
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let half = match how {
        libc::SHUT_RD => Ok(Shutdown::Read),
        libc::SHUT_WR => Ok(Shutdown::Write),
        libc::SHUT_RDWR => Ok(Shutdown::Both),
        _ => Err(Errno(libc::EINVAL)),
    };
    let result = half.and_then(|half| {
        runtime
            .shutdown(handle.id, half)
            .ok_or_else(|| gone(fd, handle.id))
            .and_then(|result| result.map_err(errno::shutdown))
    });
    // A listener that is shut down for reading listens no more (`inet_shutdown`).
    if result.is_ok() && how != libc::SHUT_WR {
        companion::end(handle.id);
    }
    let name = match how {
        libc::SHUT_RD => "SHUT_RD",
        libc::SHUT_WR => "SHUT_WR",
        libc::SHUT_RDWR => "SHUT_RDWR",
        _ => "?",
    };
    traced(format_args!("shutdown({fd}, {name})"), result.map(|()| 0))
}

/// bindresvport(): the first free port of 600 to 1023, as libc tries them.
pub(crate) fn bindresvport(fd: i32, address: User<libc::sockaddr>) -> Outcome<i32> {
    const FIRST: u16 = 600;
    const LAST: u16 = 1023;
    let Some((handle, runtime)) = socket_of(fd) else { return Outcome::PassThrough };
    let ip = if address.is_null() {
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
    } else {
        match RawName::read(address, address::INET_SIZE as u32).and_then(|raw| raw.for_bind(AddressFamily::Inet)) {
            Ok(name) => name.ip(),
            Err(errno) => return Outcome::Ours(Err(errno)),
        }
    };
    match policy::settle(fd, handle, Some(SocketAddr::new(ip, FIRST)), Purpose::Bind) {
        Ok(Side::Kernel) => return Outcome::PassThrough,
        Ok(Side::Stack) => {}
        Err(errno) => return Outcome::Ours(Err(errno)),
    }
    let mut last = Errno(libc::EADDRINUSE);
    for port in FIRST..=LAST {
        let name = SocketAddr::new(ip, port);
        match runtime.bind(handle.id, name) {
            Ok(()) => return Outcome::Ours(Ok(0)),
            Err(error) => last = errno::bind(error),
        }
        if last.0 != libc::EADDRINUSE {
            break;
        }
    }
    Outcome::Ours(Err(last))
}
