//! The companion of a wildcard TCP listener: a kernel socket that listens on the same port of the kernel's loopback, so
//! that 127.0.0.1 finds the server as it would under Linux (design decision: loopback is the kernel's by default). Its
//! descriptors are private and high; they go through fork as they are and end with the listener. A connection that comes
//! in this way is a kernel socket from the start. A listener on `::` has one for 127.0.0.1 and one for ::1.
//!
//! The table is the process's own: a listener that a child makes listen after the fork has its companion there only.
//! UDP wildcard sockets have none: their datagrams from loopback stay with the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use remora_host::runtime::{DescriptionId, Runtime};
use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::protocol::AddressFamily;
use smallvec::SmallVec;

use super::policy::{is_v6_only, registrations};
use crate::abi::{User, address, control};
use crate::config;
use crate::fdtable::{self, Handle};

/// Wildcard listeners of one process that can have companions; later ones have none.
const PLACES: usize = 64;
const NONE: i32 = -1;
const FREE: u64 = 0;
/// No description has generation 0.
const BUSY: u64 = 1;

/// One listener's companions. Claimed by its owner's name, read without a lock: fork may happen at any time.
struct Place {
    owner: AtomicU64,
    fds: [AtomicI32; 2],
}

static TABLE: [Place; PLACES] =
    [const { Place { owner: AtomicU64::new(FREE), fds: [const { AtomicI32::new(NONE) }; 2] } }; PLACES];
/// No place from here on was ever used.
static END: AtomicUsize = AtomicUsize::new(0);

/// The companions of one listener.
pub(super) type Companions = SmallVec<[Fd; 2]>;

fn word(id: DescriptionId) -> u64 {
    u64::from(id.index) | u64::from(id.generation) << 32
}

fn used() -> impl Iterator<Item = &'static Place> {
    TABLE.iter().take(END.load(Ordering::Acquire))
}

fn place_of(id: DescriptionId) -> Option<&'static Place> {
    used().find(|place| place.owner.load(Ordering::Acquire) == word(id))
}

/// The companions of a description; mostly none.
#[inline]
pub(super) fn of(id: DescriptionId) -> Companions {
    let Some(place) = place_of(id) else { return Companions::new() };
    place.fds.iter().map(|fd| fd.load(Ordering::Acquire)).filter(|fd| *fd != NONE).map(Fd).collect()
}

/// Whether a number is a companion's, which the program never opened.
pub(super) fn is_companion(number: i32) -> bool {
    number >= 0 && used().any(|place| place.fds.iter().any(|fd| fd.load(Ordering::Acquire) == number))
}

/// After a successful listen: makes the companions of a wildcard listener, or tells those it has of the new backlog.
pub(super) fn follow_listen(runtime: &Runtime, handle: Handle, backlog: i32) {
    if let Some(place) = place_of(handle.id) {
        for fd in &place.fds {
            let fd = fd.load(Ordering::Acquire);
            if fd != NONE {
                let _ = call::listen(Fd(fd), backlog);
            }
        }
        return;
    }
    let Some(settings) = config::active().filter(|_| handle.is_stream()) else { return };
    let local = runtime.with_socket(handle.id, |stack, socket, _| stack.local_name(socket).ok()).flatten();
    let Some(local) = local.filter(|local| local.ip().is_unspecified()) else { return };
    let Some(place) = claim() else {
        log::info!(target: "remora::policy", "too many wildcard listeners: this one is not reached from 127.0.0.1");
        return;
    };
    let mut made = Companions::new();
    let v6_only = is_v6_only(runtime, handle);
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for (slot, ip) in place.fds.iter().zip(addresses) {
        // 127.0.0.1 may be the stack's own; ::1 never is.
        let wanted = if ip.is_ipv4() {
            !v6_only && !settings.loopback_in_stack()
        } else {
            handle.family == AddressFamily::Inet6
        };
        if !wanted {
            continue;
        }
        let name = SocketAddr::new(ip, local.port());
        match make(runtime, handle, name, backlog) {
            Ok(fd) => {
                slot.store(fd.raw(), Ordering::Release);
                made.push(fd);
            }
            // No IPv6 on the kernel's side is nothing to talk of.
            Err(_) if ip.is_ipv6() => {}
            Err(errno) => log::info!(
                target: "remora::policy",
                "the listener is not reached from loopback, {name} cannot be had: {}", crate::errno::Label(errno)
            ),
        }
    }
    if made.is_empty() {
        place.owner.store(FREE, Ordering::Release);
        return;
    }
    place.owner.store(word(handle.id), Ordering::Release);
    // Epoll sets that watch the listener already watch its companions from now on.
    for watch in registrations(runtime, handle) {
        for fd in &made {
            let mut event = libc::epoll_event { events: watch.events, u64: watch.data };
            let _ = call::epoll_ctl(Fd(watch.set_fd), libc::EPOLL_CTL_ADD, *fd, Some(&mut event));
        }
    }
}

/// Makes the companions of a listener that has been taken over from another image, whose own went with it.
pub(super) fn adopt(runtime: &Runtime, handle: Handle) {
    follow_listen(runtime, handle, ADOPTED_BACKLOG);
}

/// The backlog of a companion whose listener's is not at hand: the kernel cuts it to its own limit.
const ADOPTED_BACKLOG: i32 = 4096;

/// A free place, marked as taken.
fn claim() -> Option<&'static Place> {
    let (index, place) = TABLE
        .iter()
        .enumerate()
        .find(|(_, place)| place.owner.compare_exchange(FREE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
    END.fetch_max(index + 1, Ordering::AcqRel);
    Some(place)
}

/// One kernel socket with the listener's options that listens on `name`.
fn make(runtime: &Runtime, handle: Handle, name: SocketAddr, backlog: i32) -> Result<Fd, Errno> {
    let domain = if handle.family == AddressFamily::Inet { libc::AF_INET } else { libc::AF_INET6 };
    let socket = call::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
    super::options::replay(runtime, handle, socket);
    let (bytes, length) = address::encode(name, handle.family);
    let ready = call::bind(socket, bytes.get(..length).unwrap_or(&[])).and_then(|()| call::listen(socket, backlog));
    match ready {
        Ok(()) => call::raise_high(socket, call::private_floor()),
        Err(errno) => {
            let _ = call::close(socket);
            Err(errno)
        }
    }
}

/// The listener listens no more in this process: closed, shut down or disconnected.
pub(super) fn end(id: DescriptionId) {
    let Some(place) = place_of(id) else { return };
    for fd in &place.fds {
        let fd = fd.swap(NONE, Ordering::AcqRel);
        if fd != NONE {
            let _ = call::close(Fd(fd));
        }
    }
    place.owner.store(FREE, Ordering::Release);
}

/// After the close of one number: the companions go with the last.
pub(super) fn end_with_last(id: DescriptionId) {
    if place_of(id).is_some() && fdtable::numbers_of(id).next().is_none() {
        end(id);
    }
}

/// An option set on the listener is set on its companions, for the connections that inherit it.
pub(super) fn follow_option(id: DescriptionId, level: i32, name: i32, value: &[u8]) {
    for fd in of(id) {
        let _ = call::set_option(fd, level, name, value);
    }
}

/// epoll_ctl on a listener holds for its companions too, which report under the same data. What the kernel says is
/// of no interest: ours has said it.
pub(super) fn follow_epoll(set: i32, operation: i32, id: DescriptionId, events: u32, data: u64) {
    for fd in of(id) {
        let mut event = libc::epoll_event { events, u64: data };
        let _ = call::epoll_ctl(Fd(set), operation, fd, Some(&mut event));
    }
}

/// Takes a connection from one of the companions under the number that the kernel gives it; its name goes where the
/// program wants it. `None`: there is none.
pub(super) fn accept(
    companions: &[Fd],
    flags: i32,
    target: User<libc::sockaddr>,
    length: User<u32>,
) -> Option<Result<i32, Errno>> {
    for fd in companions {
        match control::accept(fd.raw(), target, length, flags) {
            Err(Errno(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED)) => {}
            Ok(number) => {
                // What the number stood for before was closed unseen.
                if let Some(stale) = fdtable::remove(number) {
                    super::release_entry(stale);
                }
                return Some(Ok(number));
            }
            Err(errno) => return Some(Err(errno)),
        }
    }
    None
}
