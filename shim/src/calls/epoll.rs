//! epoll: the program holds a real kernel epoll descriptor; our sockets in it stand in a set of the runtime, made when
//! the first of them is added. A wait merges both.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use remora_host::runtime::{self, ReadyEvent, Runtime, SetError, SetId, WaitEnd, WaitSpec};
use remora_host::sys::{Errno, Fd, call};
use remora_stack::time::Instant;
use smallvec::SmallVec;

use super::ready::{deadline_of_millis, deadline_of_timespec, read_mask};
use super::{companion, traced};
use crate::abi::{Outcome, User, signal};
use crate::fdtable::{self, Entry, Epoll};

/// Serial numbers of epoll instances.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// One of our epoll descriptors inside another: the kernel's part nests by itself, ours is looked up here.
#[derive(Clone, Copy, Debug)]
struct Nested {
    outer: i32,
    inner: i32,
    events: u32,
    data: u64,
}

static NESTED: Mutex<Vec<Nested>> = Mutex::new(Vec::new());
/// Entries of [`NESTED`]: none costs a wait one load.
static NESTED_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Making a set for an epoll descriptor is done by one thread at a time.
static MAKING: Mutex<()> = Mutex::new(());

pub(crate) fn epoll_create(size: i32) -> Outcome<i32> {
    if size <= 0 {
        return Outcome::PassThrough;
    }
    epoll_create1(0)
}

pub(crate) fn epoll_create1(flags: i32) -> Outcome<i32> {
    match call::epoll_create(flags) {
        Ok(fd) => {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            if let Some(stale) = fdtable::insert(fd.raw(), Entry::Epoll(Epoll::Plain(serial))) {
                super::release_entry(stale);
            }
            Outcome::Ours(Ok(fd.raw()))
        }
        Err(errno) => Outcome::Ours(Err(errno)),
    }
}

pub(crate) fn epoll_ctl(set: i32, operation: i32, fd: i32, event: User<libc::epoll_event>) -> Outcome<i32> {
    match fdtable::lookup(fd) {
        Some(Entry::Socket(handle)) => {
            let Some(runtime) = runtime::current() else { return Outcome::PassThrough };
            let result = control(runtime, set, operation, fd, handle.id, event);
            let name = match operation {
                libc::EPOLL_CTL_ADD => "EPOLL_CTL_ADD",
                libc::EPOLL_CTL_MOD => "EPOLL_CTL_MOD",
                _ => "EPOLL_CTL_DEL",
            };
            traced(format_args!("epoll_ctl({set}, {name}, {fd})"), result.map(|()| 0))
        }
        Some(Entry::Epoll(_)) if fdtable::is_ours(set) => Outcome::Ours(nest(set, operation, fd, event).map(|()| 0)),
        _ => Outcome::PassThrough,
    }
}

fn control(
    runtime: &Runtime,
    set: i32,
    operation: i32,
    fd: i32,
    id: runtime::DescriptionId,
    event: User<libc::epoll_event>,
) -> Result<(), Errno> {
    // do_epoll_ctl: the event is read first, for all but DEL.
    let event = match operation {
        libc::EPOLL_CTL_DEL => libc::epoll_event { events: 0, u64: 0 },
        libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD => event.read()?,
        _ => return Err(Errno(libc::EINVAL)),
    };
    let (events, data) = (event.events, event.u64);
    let mixed = match fdtable::lookup(set) {
        Some(Entry::Epoll(Epoll::Mixed(mixed))) => mixed,
        Some(Entry::Epoll(Epoll::Plain(_))) => make_set(runtime, set)?,
        Some(_) => return Err(Errno(libc::EINVAL)),
        None => adopt(runtime, set, fd)?,
    };
    let result = match operation {
        libc::EPOLL_CTL_ADD => runtime.set_add(mixed, fd, id, events, data),
        libc::EPOLL_CTL_MOD => runtime.set_modify(mixed, fd, id, events, data),
        _ => runtime.set_delete(mixed, fd, id),
    };
    if result.is_ok() {
        companion::follow_epoll(set, operation, id, events, data);
    }
    result.map_err(|error| {
        Errno(match error {
            SetError::Exists => libc::EEXIST,
            SetError::NotFound => libc::ENOENT,
            SetError::Invalid => libc::EINVAL,
            SetError::NoMemory => libc::ENOMEM,
            SetError::Loop => libc::ELOOP,
        })
    })
}

/// An epoll descriptor that was made without a hook (before the library came, by a raw system call): the kernel says
/// whether it is one.
fn adopt(runtime: &Runtime, set: i32, fd: i32) -> Result<SetId, Errno> {
    match call::epoll_ctl(Fd(set), libc::EPOLL_CTL_DEL, Fd(fd), None) {
        Ok(()) | Err(Errno(libc::ENOENT)) => {}
        Err(errno) => return Err(errno),
    }
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    fdtable::insert(set, Entry::Epoll(Epoll::Plain(serial)));
    make_set(runtime, set)
}

/// Makes the set of an epoll instance and enters it for each of its descriptors.
fn make_set(runtime: &Runtime, set: i32) -> Result<SetId, Errno> {
    let _hold = signal::hold();
    let _making = MAKING.lock();
    let serial = match fdtable::lookup(set) {
        Some(Entry::Epoll(Epoll::Plain(serial))) => serial,
        Some(Entry::Epoll(Epoll::Mixed(made))) => return Ok(made),
        _ => return Err(Errno(libc::EBADF)),
    };
    let made = runtime.set_create().ok_or(Errno(libc::ENOMEM))?;
    let mut first = true;
    for (fd, entry) in fdtable::entries(0, i32::MAX) {
        if entry == Entry::Epoll(Epoll::Plain(serial)) {
            if !first {
                runtime.set_hold(made);
            }
            first = false;
            fdtable::insert(fd, Entry::Epoll(Epoll::Mixed(made)));
        }
    }
    Ok(made)
}

/// Tells the kernel of one epoll descriptor inside another, and remembers what it has agreed to.
fn nest(outer: i32, operation: i32, inner: i32, event: User<libc::epoll_event>) -> Result<(), Errno> {
    let deleted = operation == libc::EPOLL_CTL_DEL;
    let mut told = if deleted { None } else { Some(event.read()?) };
    call::epoll_ctl(Fd(outer), operation, Fd(inner), told.as_mut())?;
    let _hold = signal::hold();
    let mut nested = NESTED.lock();
    nested.retain(|one| (one.outer, one.inner) != (outer, inner));
    if let Some(event) = told {
        nested.push(Nested { outer, inner, events: event.events, data: event.u64 });
    }
    NESTED_COUNT.store(nested.len(), Ordering::Release);
    Ok(())
}

/// Forgets an epoll descriptor that is closed.
pub(super) fn forget_nesting(fd: i32) {
    if NESTED_COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    let _hold = signal::hold();
    let mut nested = NESTED.lock();
    nested.retain(|one| one.outer != fd && one.inner != fd);
    NESTED_COUNT.store(nested.len(), Ordering::Release);
}

/// The sets of ours inside an epoll descriptor.
fn nested_in(outer: i32) -> SmallVec<[(SetId, Nested); 4]> {
    if NESTED_COUNT.load(Ordering::Acquire) == 0 {
        return SmallVec::new();
    }
    let _hold = signal::hold();
    let nested = NESTED.lock();
    nested
        .iter()
        .filter(|one| one.outer == outer)
        .filter_map(|one| match fdtable::lookup(one.inner) {
            Some(Entry::Epoll(Epoll::Mixed(set))) => Some((set, *one)),
            _ => None,
        })
        .collect()
}

/// Events of one call at most; a larger buffer is filled by the next calls.
const MOST: usize = 1024;
type Events = SmallVec<[libc::epoll_event; 64]>;

/// One wait in progress.
struct Wait<'a> {
    runtime: &'a Runtime,
    fd: i32,
    own: Option<SetId>,
    nested: SmallVec<[(SetId, Nested); 4]>,
    room: usize,
}

impl Wait<'_> {
    /// What is ready now, without sleeping. Neither side may starve the other: they take turns in going first, and the
    /// first leaves a quarter of the room.
    fn collect(&self) -> Result<Events, Errno> {
        static KERNEL_FIRST: AtomicBool = AtomicBool::new(false);
        let kernel_first = KERNEL_FIRST.fetch_not(Ordering::Relaxed);
        let mut events = Events::new();
        let first_room = self.room - self.room / 4;
        if kernel_first {
            self.collect_kernel(first_room, &mut events)?;
            self.collect_own(self.room - events.len(), &mut events);
        } else {
            self.collect_own(first_room, &mut events);
            self.collect_kernel(self.room - events.len(), &mut events)?;
        }
        for (set, nested) in &self.nested {
            let told = nested.events & libc::EPOLLIN as u32;
            let known = events.iter().any(|event| { event.u64 } == nested.data);
            if events.len() < self.room && told != 0 && !known && self.runtime.set_is_ready(*set) {
                events.push(libc::epoll_event { events: told, u64: nested.data });
            }
        }
        Ok(events)
    }

    fn collect_kernel(&self, room: usize, events: &mut Events) -> Result<(), Errno> {
        if room == 0 {
            return Ok(());
        }
        let start = events.len();
        events.resize(start + room, libc::epoll_event { events: 0, u64: 0 });
        let count = call::epoll_pwait(Fd(self.fd), events.get_mut(start..).unwrap_or(&mut []), 0, None);
        events.truncate(start + count.as_ref().copied().unwrap_or(0));
        match count {
            Ok(_) | Err(Errno(libc::EINTR)) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn collect_own(&self, room: usize, events: &mut Events) {
        let Some(set) = self.own else { return };
        let mut ready: SmallVec<[ReadyEvent; 64]> = SmallVec::new();
        ready.resize(room, ReadyEvent { events: 0, data: 0 });
        let count = self.runtime.set_collect(set, &mut ready);
        for one in ready.iter().take(count) {
            events.push(libc::epoll_event { events: one.events, u64: one.data });
        }
    }

    fn run(&self, deadline: Option<Instant>, mask: Option<&libc::sigset_t>) -> Result<Events, Errno> {
        let handled = signal::handled();
        let interrupted = || handled.any_since();
        let sets: SmallVec<[SetId; 4]> = self.own.into_iter().chain(self.nested.iter().map(|(set, _)| *set)).collect();
        let mut kernel = [libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 }];
        loop {
            let events = self.collect()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if deadline.is_none_or(|deadline| call::now() < deadline) {
                super::sweep();
            }
            let spec = WaitSpec { descriptions: &[], sets: &sets, deadline, sigmask: mask, interrupted: &interrupted };
            let end = self.runtime.wait(&spec, &mut kernel, &mut |view| sets.iter().any(|set| view.set_is_ready(*set)));
            match end {
                Ok(()) if deadline.is_none_or(|deadline| call::now() < deadline) => {}
                Err(WaitEnd::Interrupted) => return Err(Errno(libc::EINTR)),
                Ok(()) | Err(WaitEnd::TimedOut | WaitEnd::Broken) => return self.collect(),
            }
        }
    }
}

fn wait(
    fd: i32,
    target: User<libc::epoll_event>,
    room: i32,
    deadline: impl FnOnce() -> Result<Option<Instant>, Errno>,
    mask: User<libc::sigset_t>,
) -> Outcome<i32> {
    let own = match fdtable::lookup(fd) {
        Some(Entry::Epoll(Epoll::Mixed(set))) => Some(set),
        Some(Entry::Epoll(Epoll::Plain(_))) => None,
        _ => return Outcome::PassThrough,
    };
    let nested = nested_in(fd);
    if own.is_none() && nested.is_empty() {
        return Outcome::PassThrough;
    }
    let Some(runtime) = runtime::current() else { return Outcome::PassThrough };
    let room = match usize::try_from(room) {
        Ok(room @ 1..) if room <= i32::MAX as usize / size_of::<libc::epoll_event>() => room.min(MOST),
        _ => return Outcome::fail(libc::EINVAL),
    };
    let result = deadline().and_then(|deadline| {
        let mask = read_mask(mask)?;
        let events = Wait { runtime, fd, own, nested, room }.run(deadline, mask.as_ref())?;
        target.write_many(&events)?;
        Ok(events.len() as i32)
    });
    Outcome::Ours(result)
}

pub(crate) fn epoll_wait(fd: i32, events: User<libc::epoll_event>, room: i32, timeout: i32) -> Outcome<i32> {
    wait(fd, events, room, || Ok(deadline_of_millis(timeout)), User::null())
}

pub(crate) fn epoll_pwait(
    fd: i32,
    events: User<libc::epoll_event>,
    room: i32,
    timeout: i32,
    mask: User<libc::sigset_t>,
) -> Outcome<i32> {
    wait(fd, events, room, || Ok(deadline_of_millis(timeout)), mask)
}

pub(crate) fn epoll_pwait2(
    fd: i32,
    events: User<libc::epoll_event>,
    room: i32,
    timeout: User<libc::timespec>,
    mask: User<libc::sigset_t>,
) -> Outcome<i32> {
    wait(fd, events, room, || deadline_of_timespec(timeout), mask)
}
