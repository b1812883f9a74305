//! The files behind our numbers: an AF_UNIX socket that nobody uses. Making and closing one costs the kernel about 6 µs,
//! so the first ones of streams are kept, each under a high number of the library's beside the program's, and given out
//! again as a copy, which costs a tenth. While it is out such a file belongs to one description of this process, so that
//! its inode tells a stale entry of the table from a live one. O_NONBLOCK is the description's: a kept file may say
//! anything.
//!
//! Streams beyond those are copies of one file, the crowd's, which costs the kernel nothing for each of them. What comes
//! with a file is then not the socket's own: fstat shows an inode made from the description, and a socket that gets an
//! owner, a lock or another flag gets a file of its own first (`calls::fdops`). A number of the crowd that was closed
//! unseen is told from any other file that has come there since.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};

use remora_host::sys::{Errno, Fd, call};
use remora_stack::socket::protocol::SocketType;

use crate::fdtable::{self, LIMIT};

/// Files that are kept at most: as many connections as come and go side by side in a busy server, and few enough to
/// leave room between the program's numbers and the limit (`call::private_floor`).
const PLACES: usize = 32;

/// The number's file is not kept.
const NONE: u8 = 0;

/// A kept file.
struct Place {
    /// Its private number; -1 for none.
    number: AtomicI32,
    inode: AtomicU32,
    /// How many of the program's numbers stand for it, and one for whoever is at work on the place.
    users: AtomicU32,
    /// Not to be given out again: the program has changed what comes with the file.
    spoilt: AtomicBool,
}

static KEPT: [Place; PLACES] = [const {
    Place {
        number: AtomicI32::new(-1),
        inode: AtomicU32::new(0),
        users: AtomicU32::new(0),
        spoilt: AtomicBool::new(false),
    }
}; PLACES];

/// The number is a copy of the crowd's file.
const CROWD: u8 = u8::MAX;

/// The crowd's file. Nobody claims it, and it is never given up.
static SHARED: Place = Place {
    number: AtomicI32::new(-1),
    inode: AtomicU32::new(0),
    users: AtomicU32::new(0),
    spoilt: AtomicBool::new(false),
};

/// For each number the place of its file in [`KEPT`], counted from 1, [`CROWD`] or [`NONE`].
static FILES: [AtomicU8; LIMIT] = [const { AtomicU8::new(NONE) }; LIMIT];

fn file_of(fd: i32) -> Option<&'static AtomicU8> {
    FILES.get(usize::try_from(fd).ok()?)
}

fn place_of(file: u8) -> Option<&'static Place> {
    KEPT.get(usize::from(file).checked_sub(1)?)
}

impl Place {
    /// Gets hold of a place that nobody uses.
    fn claim(&self) -> bool {
        self.users.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// One user less.
    fn leave(&self) {
        if self.spoilt.load(Ordering::Relaxed) && self.users.load(Ordering::Relaxed) == 1 {
            self.spoilt.store(false, Ordering::Relaxed);
            self.give_up();
        }
        self.users.fetch_sub(1, Ordering::Release);
    }

    fn give_up(&self) {
        let number = self.number.swap(-1, Ordering::Relaxed);
        if number >= 0 {
            let _ = call::close(Fd(number));
        }
    }

    /// Keeps a file under a private number beside the program's; says whether there is room for it.
    fn keep(&self, fd: Fd) -> bool {
        let Ok(copy) = call::duplicate_from(fd, call::private_floor()) else { return false };
        match call::file_id(copy) {
            Ok(file) => {
                self.inode.store(file.inode as u32, Ordering::Relaxed);
                self.number.store(copy.raw(), Ordering::Relaxed);
                true
            }
            Err(_) => {
                let _ = call::close(copy);
                false
            }
        }
    }

    /// A copy of the file under the lowest free number.
    fn copy(&self, flags: i32) -> Option<Fd> {
        let number = Fd(self.number.load(Ordering::Relaxed));
        let command = if flags & libc::SOCK_CLOEXEC == 0 { libc::F_DUPFD } else { libc::F_DUPFD_CLOEXEC };
        let copy = call::fcntl(number, command, 0).map(Fd);
        // The private number may have been closed behind our back, and given out again.
        let ready = copy.and_then(|fd| {
            let same = call::file_id(fd).is_ok_and(|file| file.inode as u32 == self.inode.load(Ordering::Relaxed));
            if same {
                return Ok(fd);
            }
            let _ = call::close(fd);
            Err(Errno(libc::EBADF))
        });
        match ready {
            Ok(fd) => Some(fd),
            Err(Errno(libc::EMFILE)) => None,
            Err(_) => {
                let _ = self.number.compare_exchange(number.raw(), -1, Ordering::Relaxed, Ordering::Relaxed);
                None
            }
        }
    }
}

/// One more of the crowd; `None` where no copy can be had.
fn join_crowd(flags: i32) -> Option<Fd> {
    if SHARED.number.load(Ordering::Acquire) < 0 {
        let first = call::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).ok()?;
        let file = call::raise_high(first, call::private_floor()).ok()?;
        let inode = call::file_id(file).map_or(0, |id| id.inode as u32);
        // Whoever is first has made the file: the inode counts once the number does.
        let mine = SHARED.users.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !mine || SHARED.number.load(Ordering::Acquire) >= 0 {
            let _ = call::close(file);
        } else {
            SHARED.inode.store(inode, Ordering::Relaxed);
            SHARED.number.store(file.raw(), Ordering::Release);
        }
        if mine {
            SHARED.users.store(0, Ordering::Release);
        } else {
            return None;
        }
    }
    SHARED.copy(flags)
}

/// A placeholder for a socket of this type under the lowest free number; SOCK_CLOEXEC and SOCK_NONBLOCK are in `flags`.
/// The number is not in the table yet.
///
/// # Errors
/// As socket(2); ERANGE when the number does not fit the table, which then is free again.
pub(crate) fn make(kind: SocketType, flags: i32) -> Result<i32, Errno> {
    let stream = matches!(kind, SocketType::Stream);
    let claimed = |kept: bool| {
        let fits = move |place: &Place| (place.number.load(Ordering::Relaxed) >= 0) == kept && place.claim();
        KEPT.iter().enumerate().filter(|_| stream).find(move |(_, place)| fits(place))
    };
    if let Some((index, place)) = claimed(true) {
        if let Some(fd) = place.copy(flags)
            && fdtable::fits(fd.raw())
        {
            became(fd.raw(), index as u8 + 1);
            return Ok(fd.raw());
        }
        place.leave();
    }
    let vacant = claimed(false);
    if stream
        && vacant.is_none()
        && let Some(fd) = join_crowd(flags)
    {
        if fdtable::fits(fd.raw()) {
            became(fd.raw(), CROWD);
            return Ok(fd.raw());
        }
        let _ = call::close(fd);
        return Err(Errno(libc::ERANGE));
    }
    let base = if stream { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let made = call::socket(libc::AF_UNIX, base | flags, 0).map(Fd::raw).and_then(|fd| {
        if fdtable::fits(fd) {
            return Ok(fd);
        }
        let _ = call::close(Fd(fd));
        Err(Errno(libc::ERANGE))
    });
    if let Ok(fd) = made {
        became(fd, NONE);
    }
    if let Some((index, place)) = vacant {
        match made {
            Ok(fd) if place.keep(Fd(fd)) => became(fd, index as u8 + 1),
            _ => place.leave(),
        }
    }
    made
}

/// Whether the number's file was given out before, or is to be again: its flags say nothing of O_NONBLOCK.
pub(crate) fn is_lent(fd: i32) -> bool {
    file_of(fd).is_some_and(|file| file.load(Ordering::Relaxed) != NONE)
}

/// The inode of a number's file, where it is known without a system call.
pub(crate) fn inode(fd: i32) -> Option<u32> {
    let place = match file_of(fd)?.load(Ordering::Relaxed) {
        CROWD => &SHARED,
        file => place_of(file)?,
    };
    Some(place.inode.load(Ordering::Relaxed))
}

/// Whether the number's file is the crowd's.
pub(crate) fn is_shared(fd: i32) -> bool {
    file_of(fd).is_some_and(|file| file.load(Ordering::Relaxed) == CROWD)
}

/// Whether it is known without a system call that the program has given the number's file no flag but O_NONBLOCK.
pub(crate) fn is_plain(fd: i32) -> bool {
    let file = file_of(fd).map_or(NONE, |file| file.load(Ordering::Relaxed));
    file == CROWD || place_of(file).is_some_and(|place| !place.spoilt.load(Ordering::Relaxed))
}

/// Closes a number of ours.
///
/// # Errors
/// As close(2).
pub(crate) fn close(fd: i32) -> Result<(), Errno> {
    let file = file_of(fd).map_or(NONE, |file| file.swap(NONE, Ordering::Relaxed));
    let result = call::close(Fd(fd));
    if let Some(place) = place_of(file) {
        place.leave();
    }
    result
}

/// The number has got a file; what it had before was closed unseen.
fn became(fd: i32, file: u8) {
    let former = file_of(fd).map_or(NONE, |place| place.swap(file, Ordering::Relaxed));
    if let Some(place) = place_of(former) {
        place.leave();
    }
}

/// `copy` has become another number for the file of `fd`.
pub(crate) fn copied(fd: i32, copy: i32) {
    let file = file_of(fd).map_or(NONE, |file| file.load(Ordering::Relaxed));
    if let Some(place) = place_of(file) {
        place.users.fetch_add(1, Ordering::Relaxed);
    }
    became(copy, file);
}

/// The number stands for something else now.
pub(crate) fn forget(fd: i32) {
    became(fd, NONE);
}

/// The program has given the file an owner, a signal or a lock, which no other socket is to inherit.
pub(crate) fn spoil(fd: i32) {
    let file = file_of(fd).map_or(NONE, |file| file.load(Ordering::Relaxed));
    if let Some(place) = place_of(file) {
        place.spoilt.store(true, Ordering::Relaxed);
    }
}

/// Whether a number is one of those that the program does not see.
pub(crate) fn is_kept(fd: i32) -> bool {
    fd >= 0 && KEPT.iter().chain([&SHARED]).any(|place| place.number.load(Ordering::Relaxed) == fd)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// The places are the process's: one test at a time has them.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inode(fd: i32) -> u64 {
        let file = call::file_id(Fd(fd)).expect("it is open").inode;
        assert!(super::inode(fd).is_none_or(|known| known == file as u32));
        file
    }

    #[test]
    fn a_file_comes_back_to_one_socket_at_a_time_and_without_what_the_program_has_set() {
        let _alone = alone();
        let first = make(SocketType::Stream, libc::SOCK_NONBLOCK).expect("a placeholder");
        let file = inode(first);
        close(first).expect("it is open");
        let second = make(SocketType::Stream, libc::SOCK_CLOEXEC).expect("a placeholder");
        assert_eq!(inode(second), file, "kept and given out again");
        assert!(is_lent(second), "its O_NONBLOCK is that of the socket before");
        assert_eq!(call::fcntl(Fd(second), libc::F_GETFD, 0), Ok(libc::FD_CLOEXEC));
        let copy = call::fcntl(Fd(second), libc::F_DUPFD, 0).expect("a copy");
        copied(second, copy);
        close(second).expect("it is open");
        let third = make(SocketType::Stream, 0).expect("a placeholder");
        assert_ne!(inode(third), file, "the copy still stands for it");
        spoil(copy);
        close(copy).expect("it is open");
        let fourth = make(SocketType::Stream, 0).expect("a placeholder");
        assert_ne!(inode(fourth), file, "changed by the program");
        for fd in [third, fourth] {
            forget(fd);
            call::close(Fd(fd)).expect("it is open");
        }
    }

    #[test]
    fn beyond_the_kept_ones_all_share_a_file() {
        let _alone = alone();
        let all: Vec<i32> =
            (0..PLACES + 8).map(|_| make(SocketType::Stream, libc::SOCK_NONBLOCK).expect("a placeholder")).collect();
        let shared: Vec<i32> = all.iter().copied().filter(|fd| is_shared(*fd)).collect();
        assert!(shared.len() >= 8, "{} share", shared.len());
        assert!(shared.iter().all(|fd| inode(*fd) == inode(shared[0])));
        assert_eq!(call::fcntl(Fd(shared[0]), libc::F_GETFL, 0), Ok(libc::O_RDWR), "the description has O_NONBLOCK");
        let datagram = make(SocketType::Datagram, 0).expect("a placeholder");
        assert!(!is_shared(datagram));
        let file = SHARED.number.load(Ordering::Relaxed);
        assert!(is_kept(file));
        for fd in all.into_iter().chain([datagram]) {
            close(fd).expect("it is open");
            assert!(!is_shared(fd));
        }
        assert!(call::is_open(Fd(file)), "it stays for the next");
    }

    #[test]
    fn a_file_that_was_closed_behind_our_back_is_not_given_out() {
        let _alone = alone();
        let first = make(SocketType::Stream, 0).expect("a placeholder");
        close(first).expect("it is open");
        let kept: Vec<i32> =
            KEPT.iter().map(|place| place.number.load(Ordering::Relaxed)).filter(|number| *number >= 0).collect();
        for number in kept {
            assert!(is_kept(number));
            let other = call::eventfd(0, 0).expect("an eventfd");
            call::dup3(other, Fd(number), 0).expect("put in its place");
            call::close(other).expect("it is open");
        }
        let second = make(SocketType::Stream, 0).expect("a placeholder");
        let mut name = [0u8; 2];
        assert!(call::local_name(Fd(second), &mut name).is_ok(), "a socket");
        close(second).expect("it is open");
    }
}
