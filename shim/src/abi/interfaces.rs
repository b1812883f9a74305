//! getifaddrs: the stack's address beside the kernel's, as one entry more at the end of the list that libc has made.
//! libc frees its list as one block, so ours is taken out of it first. if_nameindex: the stack's interface is in the
//! kernel's list; the others are taken out of it where only the stack is to be shown.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use libc::ifaddrs;
use remora_host::config::Interfaces;

use super::aside;
use crate::calls::interfaces::{self, NAME, View, name_of};
use crate::hooks::real;

/// Marks an entry as ours. libc's entries have a struct sockaddr there, whose family this is not.
const MARK: u64 = 0x6172_6f6d_6572_ffff;

/// An entry and all that it points to.
#[repr(C)]
struct Entry {
    links: ifaddrs,
    mark: u64,
    address: [u8; 16],
    mask: [u8; 16],
    broadcast: [u8; 16],
    name: [u8; NAME],
}

/// A place in the list that says where the next entry is.
struct Cursor(*mut *mut ifaddrs);

impl Cursor {
    /// The entry here; null at the end.
    fn entry(&self) -> *mut ifaddrs {
        // SAFETY: the program's place for the list, or a link of an entry of a list that is whole.
        unsafe { self.0.read() }
    }

    fn set(&self, entry: *mut ifaddrs) {
        // SAFETY: as in `entry`.
        unsafe { self.0.write(entry) }
    }

    fn next(&self) -> Self {
        // SAFETY: the entry is not null: callers look first. It lives as long as the list.
        Self(unsafe { &raw mut (*self.entry()).ifa_next })
    }

    /// Whether the entry is of a kernel's interface other than loopback.
    fn is_outward(&self) -> bool {
        // SAFETY: as in `next`.
        let links = unsafe { self.entry().read() };
        if links.ifa_addr.is_null() || links.ifa_flags & libc::IFF_LOOPBACK as u32 != 0 {
            return false;
        }
        // SAFETY: an address that is not null is a whole struct sockaddr.
        let family = unsafe { (*links.ifa_addr).sa_family };
        matches!(c_int::from(family), libc::AF_INET | libc::AF_INET6)
    }

    fn is_ours(&self) -> bool {
        let mark = self.entry().wrapping_add(1).cast::<u64>();
        // SAFETY: behind each entry of libc's lies room for an address, behind ours the mark.
        unsafe { mark.read_unaligned() == MARK }
    }
}

fn make(view: &View, flags: u32) -> *mut ifaddrs {
    let flat = |address: Option<std::net::Ipv4Addr>| address.map_or([0; 16], name_of);
    let links = ifaddrs {
        ifa_next: ptr::null_mut(),
        ifa_name: ptr::null_mut(),
        ifa_flags: flags,
        ifa_addr: ptr::null_mut(),
        ifa_netmask: ptr::null_mut(),
        ifa_ifu: ptr::null_mut(),
        ifa_data: ptr::null_mut::<c_void>(),
    };
    let entry = Box::into_raw(Box::new(Entry {
        links,
        mark: MARK,
        address: name_of(view.address.address),
        mask: name_of(view.mask()),
        broadcast: flat(view.broadcast()),
        name: view.name,
    }));
    // SAFETY: just made and nobody else's yet; the fields are in the same block as the entry.
    let whole = unsafe { &mut *entry };
    whole.links.ifa_name = whole.name.as_mut_ptr().cast::<c_char>();
    whole.links.ifa_addr = whole.address.as_mut_ptr().cast();
    whole.links.ifa_netmask = whole.mask.as_mut_ptr().cast();
    if view.broadcast().is_some() {
        whole.links.ifa_ifu = whole.broadcast.as_mut_ptr().cast();
    }
    entry.cast()
}

/// Whether a C string is the name of the stack's interface.
fn is_name_of(view: &View, name: &CStr) -> bool {
    view.name.get(..name.count_bytes()) == Some(name.to_bytes())
        && view.name.get(name.count_bytes()).is_none_or(|byte| *byte == 0)
}

/// The flags of the interface as libc's list has them; up and running when it is not there.
fn flags_of(list: *mut *mut ifaddrs, view: &View) -> u32 {
    let mut at = Cursor(list);
    while !at.entry().is_null() {
        // SAFETY: the entry is not null and of a whole list.
        let links = unsafe { at.entry().read() };
        // SAFETY: every entry has a name, which is a C string.
        let name = unsafe { CStr::from_ptr(links.ifa_name) };
        if is_name_of(view, name) {
            return links.ifa_flags;
        }
        at = at.next();
    }
    //= RFC 1122 §3.3.7 (SHLD-36)
    (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_BROADCAST | libc::IFF_MULTICAST) as u32
}

pub(crate) fn getifaddrs(list: *mut *mut ifaddrs) -> c_int {
    // SAFETY: the caller's own argument, to the function that it meant to call.
    let result = unsafe { (real::getifaddrs.get())(list) };
    if result != 0 || list.is_null() {
        return result;
    }
    let shown = aside(interfaces::shown).unwrap_or(Interfaces::Kernel);
    let Some(Some(view)) = aside(interfaces::view) else { return result };
    let own = make(&view, flags_of(list, &view));
    let mut at = Cursor(list);
    // The head stays: it is the block that is freed.
    let mut is_head = true;
    while !at.entry().is_null() {
        if shown == Interfaces::Stack && !is_head && at.is_outward() {
            at.set(at.next().entry());
            continue;
        }
        is_head = false;
        at = at.next();
    }
    at.set(own);
    result
}

pub(crate) fn freeifaddrs(list: *mut ifaddrs) {
    let mut head = list;
    let mut at = Cursor(&raw mut head);
    while !at.entry().is_null() {
        if at.is_ours() {
            let own = at.entry();
            at.set(at.next().entry());
            // SAFETY: it was made by `make` and is in no list any more.
            drop(unsafe { Box::from_raw(own.cast::<Entry>()) });
            continue;
        }
        at = at.next();
    }
    if !head.is_null() {
        // SAFETY: what libc has made, to the function that the caller meant to call.
        unsafe { (real::freeifaddrs.get())(head) };
    }
}

pub(crate) fn if_nameindex() -> *mut libc::if_nameindex {
    // SAFETY: the function that the caller meant to call.
    let list = unsafe { (real::if_nameindex.get())() };
    let shown = aside(interfaces::shown).unwrap_or(Interfaces::Kernel);
    if list.is_null() || shown != Interfaces::Stack {
        return list;
    }
    let Some(Some(view)) = aside(interfaces::view) else { return list };
    let (mut from, mut to) = (list, list);
    loop {
        // SAFETY: within the list, whose end has a null name and is not passed.
        let entry = unsafe { from.read() };
        if entry.if_name.is_null() {
            // SAFETY: not beyond the end.
            unsafe { to.write(entry) };
            return list;
        }
        from = from.wrapping_add(1);
        // SAFETY: every entry but the last has a name, which is a C string.
        let name = unsafe { CStr::from_ptr(entry.if_name) };
        // The kernel gives the loopback interface its number before all others (LOOPBACK_IFINDEX).
        if entry.if_index == 1 || is_name_of(&view, name) {
            // SAFETY: at or before the entry that was read.
            unsafe { to.write(entry) };
            to = to.wrapping_add(1);
        } else {
            // SAFETY: libc has made the name for this list, and frees what is left in it one by one.
            unsafe { libc::free(entry.if_name.cast()) };
        }
    }
}
