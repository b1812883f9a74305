//! libc's resolver functions: for the length of a call the name servers in struct __res_state are those that
//! `calls::resolver` says, then what the program had there is put back. The originals run outside of everything of ours,
//! with nsswitch, /etc/hosts, search lists and time-outs as they are.
//!
//! Left to the kernel: IPv6 servers. getaddrinfo_a, whose threads call getaddrinfo inside libc, is `background`'s.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::{Ipv4Addr, SocketAddrV4};

use libc::{addrinfo, hostent, sockaddr};

pub(crate) use super::background::{gai_cancel, gai_suspend, getaddrinfo_a};
use super::{aside, errno, set_errno};
use crate::calls::resolver::{self, MOST_SERVERS, Servers};
use crate::hooks::real;

/// struct __res_state (resolv.h), as far as it is looked at. glibc keeps its layout for programs of all ages.
mod layout {
    pub(super) const OPTIONS: usize = 8;
    pub(super) const SERVER_COUNT: usize = 16;
    pub(super) const SERVERS: usize = 20;
    /// struct sockaddr_in.
    pub(super) const SERVER: usize = 16;
    /// RES_INIT.
    pub(super) const INITIALISED: u64 = 1;
    /// RES_NORELOAD: a change of resolv.conf does not bring the servers back in the middle of a call.
    pub(super) const NO_RELOAD: u64 = 0x0200_0000;
}

unsafe extern "C" {
    fn __res_state() -> *mut c_void;
    fn res_mkquery(
        operation: c_int,
        name: *const c_char,
        class: c_int,
        kind: c_int,
        data: *const u8,
        length: c_int,
        new: *const u8,
        buffer: *mut u8,
        room: c_int,
    ) -> c_int;
}

/// The servers' part of a struct __res_state: its count and its list.
#[derive(Clone, Copy)]
struct List {
    count: c_int,
    servers: [[u8; layout::SERVER]; MOST_SERVERS],
}

/// A struct __res_state: the thread's own, or one of the program's.
#[derive(Clone, Copy)]
struct State(*mut u8);

impl State {
    /// The calling thread's, brought up to date with resolv.conf as each call of the resolver begins.
    fn own() -> Self {
        let mut query = [0u8; 64];
        let (room, name) = (query.len() as c_int, c"a".as_ptr());
        let (data, buffer) = (std::ptr::null(), query.as_mut_ptr());
        let before = errno();
        // SAFETY: makes a query of a few bytes in the room given; no data goes with it.
        let _ = unsafe { res_mkquery(0, name, 1, 1, data, 0, data, buffer, room) };
        set_errno(before);
        // SAFETY: takes no argument and always succeeds.
        Self(unsafe { __res_state() }.cast())
    }

    fn options(self) -> u64 {
        let at = self.0.wrapping_add(layout::OPTIONS).cast::<u64>();
        // SAFETY: the structure is the thread's own, or one that the program passed to be used.
        unsafe { at.read_unaligned() }
    }

    fn set_options(self, options: u64) {
        let at = self.0.wrapping_add(layout::OPTIONS).cast::<u64>();
        // SAFETY: as in `options`.
        unsafe { at.write_unaligned(options) }
    }

    fn list(self) -> List {
        let count = self.0.wrapping_add(layout::SERVER_COUNT).cast::<c_int>();
        let servers = self.0.wrapping_add(layout::SERVERS).cast::<[[u8; layout::SERVER]; MOST_SERVERS]>();
        List {
            // SAFETY: as in `options`.
            count: unsafe { count.read_unaligned() },
            // SAFETY: as in `options`; any bytes are valid.
            servers: unsafe { servers.read_unaligned() },
        }
    }

    fn set_list(self, list: List) {
        let count = self.0.wrapping_add(layout::SERVER_COUNT).cast::<c_int>();
        let servers = self.0.wrapping_add(layout::SERVERS).cast::<[[u8; layout::SERVER]; MOST_SERVERS]>();
        // SAFETY: as in `options`.
        unsafe { count.write_unaligned(list.count) };
        // SAFETY: as in `options`.
        unsafe { servers.write_unaligned(list.servers) };
    }
}

fn decode(bytes: &[u8; layout::SERVER]) -> Option<SocketAddrV4> {
    let [first, second, high, low, a, b, c, d, ..] = *bytes;
    let family = c_int::from(u16::from_ne_bytes([first, second]));
    let port = u16::from_be_bytes([high, low]);
    (family == libc::AF_INET).then(|| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

fn encode(server: SocketAddrV4) -> [u8; layout::SERVER] {
    let [first, second] = (libc::AF_INET as u16).to_ne_bytes();
    let [high, low] = server.port().to_be_bytes();
    let [a, b, c, d] = server.ip().octets();
    [first, second, high, low, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// What the program had in its structure, to be put back.
struct Saved {
    state: State,
    list: List,
    options: u64,
}

/// Points a structure to the relays; `None` when it is to stay.
fn redirect(state: State) -> Option<Saved> {
    let options = state.options();
    if options & layout::INITIALISED == 0 {
        return None;
    }
    let list = state.list();
    let count = usize::try_from(list.count).unwrap_or(0).min(MOST_SERVERS);
    let replaced = aside(|| {
        let known: Servers = list.servers.iter().take(count).map(decode).collect();
        resolver::instead_of(&known)
    });
    let replaced = replaced.flatten()?;
    let mut changed = List { count: replaced.len() as c_int, ..list };
    for (place, server) in changed.servers.iter_mut().zip(&replaced) {
        if let Some(server) = server {
            *place = encode(*server);
        }
    }
    state.set_list(changed);
    state.set_options(options | layout::NO_RELOAD);
    Some(Saved { state, list, options })
}

/// Runs an original with the servers changed. A thread that is cancelled inside has no further use for its list.
fn through<R>(state: impl FnOnce() -> State, original: impl FnOnce() -> R) -> R {
    let wanted = aside(resolver::is_wanted).unwrap_or(false);
    let saved = if wanted { redirect(state()) } else { None };
    let result = original();
    if let Some(Saved { state, list, options }) = saved {
        state.set_list(list);
        // What the call itself has set stays.
        state.set_options(state.options() & !layout::NO_RELOAD | options & layout::NO_RELOAD);
    }
    result
}

/// Runs an original that asks for a name, unless that is an address.
fn for_name<R>(name: *const c_char, original: impl FnOnce() -> R) -> R {
    if name.is_null() || is_address(name) { original() } else { through(State::own, original) }
}

/// Whether a name is an address in text, or localhost.
fn is_address(name: *const c_char) -> bool {
    // SAFETY: not null, and a C string that the caller passes to a function that reads it at once.
    resolver::is_address(unsafe { CStr::from_ptr(name) }.to_bytes())
}

pub(crate) fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    result: *mut *mut addrinfo,
) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    let call = |hints: *const addrinfo| unsafe { (real::getaddrinfo.get())(node, service, hints, result) };
    if !aside(resolver::is_wanted).unwrap_or(false) {
        return call(hints);
    }
    let given = if hints.is_null() {
        None
    } else {
        // SAFETY: not null, and passed for the original to read.
        Some(unsafe { hints.read_unaligned() })
    };
    // glibc's own hints, when there are none, are these flags.
    let flags = given.map_or(libc::AI_ADDRCONFIG | libc::AI_V4MAPPED, |hints| hints.ai_flags);
    if flags & libc::AI_ADDRCONFIG == 0 {
        return for_name(node, || call(hints));
    }
    // It asks for addresses of families that the host has an address of: the kernel's are not the program's, whose
    // one is the stack's, of IPv4. Addresses in text and localhost are found in any case.
    // SAFETY: all zero is a valid addrinfo: null pointers and zero numbers.
    let mut own = given.unwrap_or_else(|| unsafe { std::mem::zeroed() });
    own.ai_flags = flags & !libc::AI_ADDRCONFIG;
    let is_asked_for = !node.is_null() && flags & libc::AI_NUMERICHOST == 0 && !is_address(node);
    if own.ai_family == libc::AF_UNSPEC && is_asked_for {
        own.ai_family = libc::AF_INET;
    }
    for_name(node, || call(&raw const own))
}

pub(crate) fn getnameinfo(
    address: *const sockaddr,
    length: u32,
    host: *mut c_char,
    host_room: u32,
    service: *mut c_char,
    service_room: u32,
    flags: c_int,
) -> c_int {
    let original = || {
        let call = real::getnameinfo.get();
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        unsafe { call(address, length, host, host_room, service, service_room, flags) }
    };
    if host.is_null() || host_room == 0 || flags & libc::NI_NUMERICHOST != 0 {
        return original();
    }
    through(State::own, original)
}

macro_rules! by_name {
    ($($name:ident($first:ident $(, $argument:ident : $kind:ty)*) -> $result:ty;)*) => {
        $(pub(crate) fn $name($first: *const c_char $(, $argument: $kind)*) -> $result {
            // SAFETY: the caller's own arguments, to the function that it meant to call.
            for_name($first, || unsafe { (real::$name.get())($first $(, $argument)*) })
        })*
    };
}

macro_rules! by_thread {
    ($($name:ident($($argument:ident : $kind:ty),*) -> $result:ty;)*) => {
        $(#[allow(clippy::too_many_arguments, reason = "C's prototype")]
        pub(crate) fn $name($($argument: $kind),*) -> $result {
            // SAFETY: the caller's own arguments, to the function that it meant to call.
            through(State::own, || unsafe { (real::$name.get())($($argument),*) })
        })*
    };
}

macro_rules! by_state {
    ($($name:ident($state:ident $(, $argument:ident : $kind:ty)*) -> $result:ty;)*) => {
        $(pub(crate) fn $name($state: *mut c_void $(, $argument: $kind)*) -> $result {
            // SAFETY: the caller's own arguments, to the function that it meant to call.
            let original = || unsafe { (real::$name.get())($state $(, $argument)*) };
            if $state.is_null() { original() } else { through(|| State($state.cast()), original) }
        })*
    };
}

type Entry = *mut hostent;
type Room = *mut c_char;

by_name! {
    gethostbyname(name) -> Entry;
    gethostbyname2(name, family: c_int) -> Entry;
    gethostbyname_r(name, entry: Entry, room: Room, size: usize, result: *mut Entry, error: *mut c_int) -> c_int;
    gethostbyname2_r(name, family: c_int, entry: Entry, room: Room, size: usize, result: *mut Entry,
        error: *mut c_int) -> c_int;
}

by_thread! {
    gethostbyaddr(address: *const c_void, length: u32, family: c_int) -> Entry;
    gethostbyaddr_r(address: *const c_void, length: u32, family: c_int, entry: Entry, room: Room, size: usize,
        result: *mut Entry, error: *mut c_int) -> c_int;
    res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, room: c_int) -> c_int;
    res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, room: c_int) -> c_int;
    res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8,
        room: c_int) -> c_int;
    res_send(query: *const u8, length: c_int, answer: *mut u8, room: c_int) -> c_int;
}

by_state! {
    res_nquery(state, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, room: c_int) -> c_int;
    res_nsearch(state, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, room: c_int) -> c_int;
    res_nquerydomain(state, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int,
        answer: *mut u8, room: c_int) -> c_int;
    res_nsend(state, query: *const u8, length: c_int, answer: *mut u8, room: c_int) -> c_int;
}
