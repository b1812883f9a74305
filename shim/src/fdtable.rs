//! Which descriptor numbers of this process are ours, by one load. The table is private to the process and copied by
//! fork as the kernel's is; it lies in zeroed memory that costs nothing until it is touched.
//!
//! A number can be closed behind our back (inside libc, by a raw system call) and used again for something else. Each
//! entry therefore keeps the inode of its placeholder; slow paths compare it, and a number that the kernel has just
//! given out anew is purged before it is used.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use remora_host::runtime::{DescriptionId, SetId};
use remora_host::sys::{Fd, call};
use remora_stack::socket::protocol::{AddressFamily, SocketType};

use crate::placeholder;

/// Numbers from here on are never ours: a socket that gets one is the kernel's.
pub(crate) const LIMIT: usize = 1 << 18;

/// What a number stands for, with what a call needs to know before it takes the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A socket of the stack.
    Socket(Handle),
    /// A kernel epoll instance made through a hook. Copies of the descriptor share the serial number.
    Epoll(Epoll),
    /// A kernel socket of AF_INET or AF_INET6, made while no address is configured: its first use is worth a warning.
    Watched,
    /// A kernel socket that bound to 127.0.0.0/8: from there nothing leaves the machine.
    Loopback(Loopback),
}

/// A kernel socket bound to the loopback network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loopback {
    /// The family that its addresses come in.
    pub(crate) family: AddressFamily,
    /// Whether it is a byte stream.
    pub(crate) is_stream: bool,
}

/// A socket of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    /// The open file description.
    pub(crate) id: DescriptionId,
    /// The family its addresses are shown in.
    pub(crate) family: AddressFamily,
    /// Its type.
    pub(crate) kind: SocketType,
}

impl Handle {
    /// Whether it is a byte stream.
    pub(crate) const fn is_stream(self) -> bool {
        matches!(self.kind, SocketType::Stream)
    }
}

/// An epoll instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epoll {
    /// None of our sockets is in it; the number tells instances apart.
    Plain(u64),
    /// It holds sockets of ours, in this set.
    Mixed(SetId),
}

const FOREIGN: u8 = 0;
const SOCKET: u8 = 1;
const EPOLL_PLAIN: u8 = 2;
const EPOLL_MIXED: u8 = 3;
const WATCHED: u8 = 4;
const LOOPBACK: u8 = 5;
const TAG: u8 = 0x07;
const INET6: u8 = 0x08;
const DATAGRAM: u8 = 0x10;
const RAW: u8 = 0x20;

static KINDS: [AtomicU8; LIMIT] = [const { AtomicU8::new(FOREIGN) }; LIMIT];
static VALUES: [AtomicU64; LIMIT] = [const { AtomicU64::new(0) }; LIMIT];
static INODES: [AtomicU32; LIMIT] = [const { AtomicU32::new(0) }; LIMIT];
/// No number above this one was ever ours.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

fn kind_of(fd: i32) -> Option<&'static AtomicU8> {
    KINDS.get(usize::try_from(fd).ok()?)
}

/// Whether the number is anything of ours. The one load that a foreign descriptor costs.
#[inline]
pub(crate) fn is_ours(fd: i32) -> bool {
    // A negative number becomes a large index.
    KINDS.get(fd as usize).is_some_and(|kind| kind.load(Ordering::Acquire) != FOREIGN)
}

fn decode(kind: u8, value: u64) -> Option<Entry> {
    let (index, generation) = (value as u32, (value >> 32) as u32);
    match kind & TAG {
        SOCKET => Some(Entry::Socket(Handle {
            id: DescriptionId { index, generation },
            family: if kind & INET6 == 0 { AddressFamily::Inet } else { AddressFamily::Inet6 },
            kind: match kind & (DATAGRAM | RAW) {
                0 => SocketType::Stream,
                DATAGRAM => SocketType::Datagram,
                _ => SocketType::Raw,
            },
        })),
        EPOLL_PLAIN => Some(Entry::Epoll(Epoll::Plain(value))),
        EPOLL_MIXED => Some(Entry::Epoll(Epoll::Mixed(SetId { index, generation }))),
        WATCHED => Some(Entry::Watched),
        LOOPBACK => Some(Entry::Loopback(Loopback {
            family: if kind & INET6 == 0 { AddressFamily::Inet } else { AddressFamily::Inet6 },
            is_stream: kind & DATAGRAM == 0,
        })),
        _ => None,
    }
}

fn encode(entry: Entry) -> (u8, u64) {
    let pair = |index: u32, generation: u32| u64::from(index) | u64::from(generation) << 32;
    match entry {
        Entry::Socket(Handle { id, family, kind }) => {
            let family = if family == AddressFamily::Inet { 0 } else { INET6 };
            let kind = match kind {
                SocketType::Stream => 0,
                SocketType::Datagram => DATAGRAM,
                SocketType::Raw => RAW,
            };
            (SOCKET | family | kind, pair(id.index, id.generation))
        }
        Entry::Epoll(Epoll::Plain(serial)) => (EPOLL_PLAIN, serial),
        Entry::Epoll(Epoll::Mixed(set)) => (EPOLL_MIXED, pair(set.index, set.generation)),
        Entry::Watched => (WATCHED, 0),
        Entry::Loopback(Loopback { family, is_stream }) => {
            let family = if family == AddressFamily::Inet { 0 } else { INET6 };
            (LOOPBACK | family | if is_stream { 0 } else { DATAGRAM }, 0)
        }
    }
}

/// What the number stands for; `None` for a foreign one.
pub(crate) fn lookup(fd: i32) -> Option<Entry> {
    let kind = kind_of(fd)?.load(Ordering::Acquire);
    if kind == FOREIGN {
        return None;
    }
    let value = VALUES.get(fd as usize)?.load(Ordering::Acquire);
    decode(kind, value)
}

/// The socket that the number stands for.
pub(crate) fn socket(fd: i32) -> Option<Handle> {
    match lookup(fd) {
        Some(Entry::Socket(handle)) => Some(handle),
        _ => None,
    }
}

/// Whether the table has room for the number.
pub(crate) const fn fits(fd: i32) -> bool {
    fd >= 0 && (fd as usize) < LIMIT
}

/// Enters a number and returns what it stood for before (a stale entry, whose holder is to be released).
pub(crate) fn insert(fd: i32, entry: Entry) -> Option<Entry> {
    insert_file(fd, entry, inode(fd).unwrap_or(0))
}

/// The same for a number that has just been given out with this file behind it.
pub(crate) fn insert_file(fd: i32, entry: Entry, inode: u32) -> Option<Entry> {
    let place = kind_of(fd)?;
    let stale = take(fd);
    let (kind, value) = encode(entry);
    if let Some(slot) = VALUES.get(fd as usize) {
        slot.store(value, Ordering::Release);
    }
    if let Some(slot) = INODES.get(fd as usize) {
        slot.store(inode, Ordering::Relaxed);
    }
    HIGHEST.fetch_max(fd, Ordering::AcqRel);
    place.store(kind, Ordering::Release);
    stale
}

/// Makes a number foreign whose file is not its placeholder any more. Of several who try at once, one gets the entry.
pub(crate) fn remove(fd: i32) -> Option<Entry> {
    let entry = take(fd)?;
    placeholder::forget(fd);
    Some(entry)
}

/// Makes a number foreign that is about to be closed, or to be another's.
pub(crate) fn take(fd: i32) -> Option<Entry> {
    let place = kind_of(fd)?;
    if place.load(Ordering::Acquire) == FOREIGN {
        return None;
    }
    let value = VALUES.get(fd as usize)?.load(Ordering::Acquire);
    match place.swap(FOREIGN, Ordering::AcqRel) {
        FOREIGN => None,
        kind => decode(kind, value),
    }
}

/// The inode number behind a descriptor, as far as the table keeps it.
fn inode(fd: i32) -> Option<u32> {
    call::file_id(Fd(fd)).ok().map(|file| file.inode as u32)
}

/// Whether the number still is what was entered: its inode has not changed. For slow paths.
pub(crate) fn is_fresh(fd: i32) -> bool {
    let entered = INODES.get(fd as usize).map_or(0, |slot| slot.load(Ordering::Relaxed));
    inode(fd).is_some_and(|now| now == entered)
}

/// The placeholder under a number of ours has been replaced by another one.
pub(crate) fn renew(fd: i32) {
    placeholder::forget(fd);
    if let Some(slot) = INODES.get(fd as usize) {
        slot.store(inode(fd).unwrap_or(0), Ordering::Relaxed);
    }
}

/// All numbers that are ours, from `first` to `last`.
pub(crate) fn entries(first: i32, last: i32) -> impl Iterator<Item = (i32, Entry)> {
    let last = last.min(HIGHEST.load(Ordering::Acquire));
    (first.max(0)..=last).filter_map(|fd| lookup(fd).map(|entry| (fd, entry)))
}

/// The numbers that stand for one description.
pub(crate) fn numbers_of(id: DescriptionId) -> impl Iterator<Item = i32> {
    entries(0, i32::MAX)
        .filter(move |(_, entry)| matches!(entry, Entry::Socket(handle) if handle.id == id))
        .map(|(fd, _)| fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: Handle = Handle {
        id: DescriptionId { index: 7, generation: 0x8000_0001 },
        family: AddressFamily::Inet6,
        kind: SocketType::Datagram,
    };

    #[test]
    fn an_entry_comes_back_as_it_went_in() {
        let all = [
            Entry::Socket(HANDLE),
            Entry::Socket(Handle { family: AddressFamily::Inet, kind: SocketType::Raw, ..HANDLE }),
            Entry::Epoll(Epoll::Plain(12)),
            Entry::Epoll(Epoll::Mixed(SetId { index: 3, generation: 4 })),
            Entry::Watched,
            Entry::Loopback(Loopback { family: AddressFamily::Inet6, is_stream: false }),
            Entry::Loopback(Loopback { family: AddressFamily::Inet, is_stream: true }),
        ];
        for entry in all {
            let (kind, value) = encode(entry);
            assert_eq!(decode(kind, value), Some(entry));
        }
    }

    #[test]
    fn numbers_outside_of_the_table_are_foreign() {
        for fd in [-1, i32::MIN, i32::MAX, LIMIT as i32] {
            assert!(!is_ours(fd));
            assert_eq!(lookup(fd), None);
            assert_eq!(insert(fd, Entry::Watched), None);
            assert_eq!(remove(fd), None);
        }
    }

    #[test]
    fn only_one_remover_gets_the_entry() {
        let fd = 200_001;
        assert_eq!(insert(fd, Entry::Socket(HANDLE)), None);
        assert!(is_ours(fd));
        assert_eq!(numbers_of(HANDLE.id).collect::<Vec<_>>(), [fd]);
        assert_eq!(remove(fd), Some(Entry::Socket(HANDLE)));
        assert_eq!(remove(fd), None);
        assert!(!is_ours(fd));
    }

    #[test]
    fn a_number_that_was_closed_behind_our_back_is_not_fresh() {
        let fd = call::eventfd(0, 0).expect("an eventfd");
        insert(fd.0, Entry::Watched);
        assert!(is_fresh(fd.0));
        call::close(fd).expect("it is open");
        assert!(!is_fresh(fd.0));
        remove(fd.0);
    }
}
