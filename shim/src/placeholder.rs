//! The files behind our numbers: an AF_UNIX socket that nobody uses for each description. Making and closing one costs
//! the kernel about 6 µs, so the first ones of streams are kept, each under a high number of the library's beside the
//! program's, and given out again as a copy, which costs a tenth. While it is out a file belongs to one description of
//! this process, so that its inode tells a stale entry of the table from a live one.

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

/// For each number the place of its file in [`KEPT`], counted from 1, or [`NONE`].
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
        let wanted = if flags & libc::SOCK_NONBLOCK == 0 { 0 } else { libc::O_NONBLOCK };
        let ready = copy.and_then(|fd| {
            let same = call::file_id(fd).is_ok_and(|file| file.inode as u32 == self.inode.load(Ordering::Relaxed));
            let set = if same { call::fcntl(fd, libc::F_SETFL, wanted) } else { Err(Errno(libc::EBADF)) };
            set.map(|_| fd).inspect_err(|_| {
                let _ = call::close(fd);
            })
        });
        match ready {
            Ok(fd) => Some(fd),
            Err(Errno(libc::EMFILE)) => None,
            Err(_) => {
                self.number.store(-1, Ordering::Relaxed);
                None
            }
        }
    }
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
    let base = if stream { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let fd = call::socket(libc::AF_UNIX, base | flags, 0)?.raw();
    if !fdtable::fits(fd) {
        let _ = call::close(Fd(fd));
        return Err(Errno(libc::ERANGE));
    }
    became(fd, NONE);
    if let Some((index, place)) = claimed(false) {
        if place.keep(Fd(fd)) {
            became(fd, index as u8 + 1);
        } else {
            place.leave();
        }
    }
    Ok(fd)
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
    fd >= 0 && KEPT.iter().any(|place| place.number.load(Ordering::Relaxed) == fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(fd: i32) -> u64 {
        call::file_id(Fd(fd)).expect("it is open").inode
    }

    #[test]
    fn a_file_comes_back_to_one_socket_at_a_time_and_without_what_the_program_has_set() {
        let first = make(SocketType::Stream, libc::SOCK_NONBLOCK).expect("a placeholder");
        let file = inode(first);
        close(first).expect("it is open");
        let second = make(SocketType::Stream, libc::SOCK_CLOEXEC).expect("a placeholder");
        assert_eq!(inode(second), file, "kept and given out again");
        assert_eq!(call::fcntl(Fd(second), libc::F_GETFL, 0), Ok(libc::O_RDWR));
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
    fn a_file_that_was_closed_behind_our_back_is_not_given_out() {
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
