//! epoll: the program holds a real kernel epoll descriptor; our sockets in it stand in a set of the runtime, made when
//! the first of them is added. A wait merges both.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use remora_host::runtime::{self, ReadyEvent, Runtime, SetError, SetId, WaitEnd, WaitSpec};
use remora_host::sys::order::{self, Rank};
use remora_host::sys::{Errno, Fd, call};
use remora_stack::time::Instant;
use smallvec::SmallVec;

use super::ready::{deadline_of_millis, deadline_of_timespec, read_mask};
use super::{companion, policy, traced};
use crate::abi::{Outcome, User, signal};
use crate::fdtable::{self, Entry, Epoll};
use crate::small_lock::SmallLock;

/// Serial numbers of epoll instances; the process's number stands above them, for sets that forked processes share.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The data under which the library's own descriptors stand in a kernel epoll set: a number that no program uses.
const OWN: u64 = 0x9d3c_72e1_5b06_a84f;

/// Epoll instances inside others while there is no runtime: (outer, inner) by serial number.
static NESTED: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());
/// Making a set for an epoll descriptor is done by one thread at a time, and so is what is done to `NESTED`, whose own
/// lock nobody ever waits for.
static MAKING: SmallLock = SmallLock::new(Rank::MakingSets);

/// Serial numbers of the instances without sockets of ours on which threads sleep in the kernel; 0 is nobody. More
/// sleepers than places are not woken when the first socket comes.
static ASLEEP: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

thread_local! {
    /// This thread's place in [`ASLEEP`], given back or left behind by siglongjmp.
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    /// When the wait in the kernel began.
    static BEGAN: Cell<Instant> = const { Cell::new(Instant::ZERO) };
    /// The wait is one that was sent back from the kernel: it began then.
    static RESUMED: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn new_serial() -> u64 {
    u64::from(call::getpid().unsigned_abs()) << 32 | SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Before a hook waits: notes a sleep in the kernel, where the set has none of our sockets.
pub(crate) fn before_epoll(set: i32) {
    let place = PLACE.get().and_then(|place| ASLEEP.get(place));
    let Some(Entry::Epoll(Epoll::Plain(serial))) = fdtable::lookup(set) else {
        if let Some(place) = place {
            place.store(0, Ordering::SeqCst);
            PLACE.set(None);
        }
        return;
    };
    BEGAN.set(call::now());
    if let Some(place) = place {
        place.store(serial, Ordering::SeqCst);
        return;
    }
    let free = |place: &AtomicU64| place.compare_exchange(0, serial, Ordering::SeqCst, Ordering::Relaxed).is_ok();
    PLACE.set(ASLEEP.iter().position(free));
}

/// After it: says whether to wait again. Events of the library's own are taken out of what the program sees.
pub(crate) fn after_epoll(set: i32, events: User<libc::epoll_event>, count: &mut i32) -> bool {
    let Some(place) = PLACE.take().and_then(|place| ASLEEP.get(place)) else { return false };
    place.store(0, Ordering::SeqCst);
    if !matches!(fdtable::lookup(set), Some(Entry::Epoll(Epoll::Mixed(_)))) {
        return false;
    }
    let Some(filled) = usize::try_from(*count).ok().filter(|count| *count > 0) else { return false };
    let Ok(mut got) = events.read_many(filled) else { return false };
    got.retain(|event| { event.u64 } != OWN);
    if got.len() == filled {
        return false;
    }
    if got.is_empty() {
        RESUMED.set(Some(BEGAN.get()));
        return true;
    }
    *count = got.len() as i32;
    let _ = events.write_many(&got);
    false
}

/// Sends threads that sleep on an instance in the kernel back to where they hear of our sockets too. A set with an
/// exclusive sleeper queue wakes one at a time.
fn wake_plain_sleepers(set: i32, serial: u64) {
    const ROUNDS: usize = 512;
    let asleep = || ASLEEP.iter().any(|place| place.load(Ordering::SeqCst) == serial);
    if !asleep() {
        return;
    }
    let made = call::eventfd(1, libc::EFD_CLOEXEC).and_then(|fd| call::raise_high(fd, call::private_floor()));
    let Ok(fd) = made else { return };
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLONESHOT) as u32, u64: OWN };
    let mut told = call::epoll_ctl(Fd(set), libc::EPOLL_CTL_ADD, fd, Some(&mut event));
    for _ in 0..ROUNDS {
        if told.is_err() || !asleep() {
            break;
        }
        let _ = call::ppoll(&mut [], Some(PAUSE), None);
        told = call::epoll_ctl(Fd(set), libc::EPOLL_CTL_MOD, fd, Some(&mut event));
    }
    let _ = call::epoll_ctl(Fd(set), libc::EPOLL_CTL_DEL, fd, None);
    let _ = call::close(fd);
}

/// When to wake the next sleeper.
const PAUSE: Duration = Duration::from_micros(20);

/// After fork: the threads that slept are the parent's.
pub(super) fn forget_sleepers() {
    for place in &ASLEEP {
        place.store(0, Ordering::Relaxed);
    }
    PLACE.set(None);
}

/// Before fork, last of all that may make a set: no other thread is at it when the child's memory is copied.
pub(super) fn stop_making() {
    MAKING.before_fork();
}

/// After fork, in both processes.
pub(super) fn go_on_making() {
    MAKING.after_fork();
}

/// Before fork: both processes are to find the same set behind an epoll descriptor, so it is made now.
pub(super) fn share_sets(runtime: &Runtime) {
    for (fd, entry) in fdtable::entries(0, i32::MAX) {
        if matches!(entry, Entry::Epoll(Epoll::Plain(_))) {
            let _ = make_set(runtime, fd);
        }
    }
}

pub(crate) fn epoll_create(size: i32) -> Outcome<i32> {
    if size <= 0 {
        return Outcome::PassThrough;
    }
    epoll_create1(0)
}

pub(crate) fn epoll_create1(flags: i32) -> Outcome<i32> {
    match call::epoll_create(flags) {
        Ok(fd) => {
            if let Some(stale) = fdtable::insert(fd.raw(), Entry::Epoll(Epoll::Plain(new_serial()))) {
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
            policy::listen_raw(runtime, handle);
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
    fdtable::insert(set, Entry::Epoll(Epoll::Plain(new_serial())));
    make_set(runtime, set)
}

/// Makes the set of an epoll instance and enters it for each of its descriptors.
pub(super) fn make_set(runtime: &Runtime, set: i32) -> Result<SetId, Errno> {
    let _hold = signal::hold();
    let making = MAKING.lock();
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
    wake_plain_sleepers(set, serial);
    let mut outer: SmallVec<[u64; 4]> = SmallVec::new();
    let ordered = order::hold(Rank::NestedSets);
    let mut nested = NESTED.lock();
    outer.extend(nested.iter().filter(|(_, inner)| *inner == serial).map(|(outer, _)| *outer));
    nested.retain(|(_, inner)| *inner != serial);
    drop(nested);
    drop(ordered);
    drop(making);
    if !outer.is_empty() {
        show_to_kernel(runtime, set, made)?;
    }
    for serial in outer {
        let plain = |(fd, entry): (i32, Entry)| (entry == Entry::Epoll(Epoll::Plain(serial))).then_some(fd);
        if let Some(fd) = fdtable::entries(0, i32::MAX).find_map(plain) {
            make_set(runtime, fd)?;
        }
    }
    Ok(made)
}

/// Puts the set's eventfd into the kernel's part of it, for the sets around it.
fn show_to_kernel(runtime: &Runtime, fd: i32, set: SetId) -> Result<(), Errno> {
    let proxy = runtime.set_proxy(set).ok_or(Errno(libc::ENOSPC))?;
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: OWN };
    match call::epoll_ctl(Fd(fd), libc::EPOLL_CTL_ADD, proxy, Some(&mut event)) {
        Ok(()) | Err(Errno(libc::EEXIST)) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The kernel nests its part of the sets, and sees of ours an eventfd in the inner one.
fn nest(outer: i32, operation: i32, inner: i32, event: User<libc::epoll_event>) -> Result<(), Errno> {
    let mut told = if operation == libc::EPOLL_CTL_DEL { None } else { Some(event.read()?) };
    call::epoll_ctl(Fd(outer), operation, Fd(inner), told.as_mut())?;
    if operation != libc::EPOLL_CTL_ADD {
        return Ok(());
    }
    let Some(runtime) = runtime::current() else {
        if let (Some(outer), Some(inner)) = (plain_serial(outer), plain_serial(inner)) {
            let _hold = signal::hold();
            let _making = MAKING.lock();
            let _ordered = order::hold(Rank::NestedSets);
            NESTED.lock().push((outer, inner));
        }
        return Ok(());
    };
    let made = make_set(runtime, outer)
        .and_then(|_| make_set(runtime, inner))
        .and_then(|set| show_to_kernel(runtime, inner, set));
    if made.is_err() {
        let _ = call::epoll_ctl(Fd(outer), libc::EPOLL_CTL_DEL, Fd(inner), None);
    }
    made
}

fn plain_serial(fd: i32) -> Option<u64> {
    match fdtable::lookup(fd) {
        Some(Entry::Epoll(Epoll::Plain(serial))) => Some(serial),
        _ => None,
    }
}

/// Events of one call at most; a larger buffer is filled by the next calls.
const MOST: usize = 1024;
type Events = SmallVec<[libc::epoll_event; 64]>;

/// One wait in progress.
struct Wait<'a> {
    runtime: &'a Runtime,
    fd: i32,
    own: SetId,
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
        self.runtime.refresh_proxies();
        if kernel_first {
            self.collect_kernel(first_room, &mut events)?;
            self.collect_own(self.room - events.len(), &mut events);
        } else {
            self.collect_own(first_room, &mut events);
            self.collect_kernel(self.room - events.len(), &mut events)?;
        }
        Ok(events)
    }

    fn collect_kernel(&self, room: usize, events: &mut Events) -> Result<(), Errno> {
        let start = events.len();
        // The library's own event may take the room of another: then the kernel is asked again, and has it last.
        for _ in 0..2 {
            let room = room - (events.len() - start);
            if room == 0 {
                break;
            }
            let from = events.len();
            events.resize(from + room, libc::epoll_event { events: 0, u64: 0 });
            let count = call::epoll_pwait(Fd(self.fd), events.get_mut(from..).unwrap_or(&mut []), 0, None);
            let count = match count {
                Ok(count) => count,
                Err(Errno(libc::EINTR)) => 0,
                Err(errno) => return Err(errno),
            };
            events.truncate(from + count);
            let mut index = 0;
            events.retain(|event| {
                index += 1;
                index <= from || { event.u64 } != OWN
            });
            if events.len() == from + count {
                break;
            }
        }
        Ok(())
    }

    fn collect_own(&self, room: usize, events: &mut Events) {
        let mut ready: SmallVec<[ReadyEvent; 64]> = SmallVec::new();
        ready.resize(room, ReadyEvent { events: 0, data: 0 });
        let count = self.runtime.set_collect(self.own, &mut ready);
        for one in ready.iter().take(count) {
            events.push(libc::epoll_event { events: one.events, u64: one.data });
        }
    }

    fn run(&self, deadline: Option<Instant>, mask: Option<&libc::sigset_t>) -> Result<Events, Errno> {
        let handled = signal::handled();
        let interrupted = || handled.any_since();
        let sets = [self.own];
        let mut kernel = [libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 }];
        // Who does not wait asks how things stand at this moment, whatever is known already.
        if deadline.is_some_and(|deadline| call::now() >= deadline) {
            self.runtime.look_at_device();
        }
        loop {
            let events = self.collect()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if deadline.is_some_and(|deadline| call::now() >= deadline) {
                return Ok(events);
            }
            super::sweep();
            let spec = WaitSpec {
                descriptions: &[],
                sets: &sets,
                deadline,
                fills_in: false,
                sigmask: mask,
                interrupted: &interrupted,
            };
            let end = self.runtime.wait(&spec, &mut kernel, &mut |view| view.set_is_ready(self.own));
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
    let Some(Entry::Epoll(Epoll::Mixed(own))) = fdtable::lookup(fd) else { return Outcome::PassThrough };
    let Some(runtime) = runtime::current() else { return Outcome::PassThrough };
    let room = match usize::try_from(room) {
        Ok(room @ 1..) if room <= i32::MAX as usize / size_of::<libc::epoll_event>() => room.min(MOST),
        _ => return Outcome::fail(libc::EINVAL),
    };
    let passed = RESUMED.take().map_or(Duration::ZERO, |began| call::now().since(began));
    let result = deadline().and_then(|deadline| {
        let deadline = deadline.map(|at| Instant::from_nanos(at.nanos().saturating_sub(passed.as_nanos() as u64)));
        let mask = read_mask(mask)?;
        let events = Wait { runtime, fd, own, room }.run(deadline, mask.as_ref())?;
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
