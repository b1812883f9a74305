//! The runtime: one stack for a family of processes. A process and the children that it forks share the stack as they
//! share open files; the thread that has to wait drives the device, and a keeper does when nobody is inside.
//!
//! `family` lays out the shared state and starts it, `driver` moves frames, `wait` puts threads to sleep and wakes them,
//! `roster` says who sleeps, drives and is rung, `epoll` keeps sets, `member` counts processes through fork and death,
//! `keeper` is the process that stays, `watches` tells it who has gone, `handle` makes what code without hooks gets for a socket, `pump` serves it, `adopt` lets images in that come by exec,
//! `outbox` sends short frames after the lock where turns wait for each other, `report` tells of it, `relay` carries the queries of libc's resolver, `registry` agrees with other families on one
//! address, `device_up` opens the device, `winding_up` ends a lost family. Errno, descriptors of the program and signals
//! are the shim's.

mod adopt;
mod description;
mod device_up;
mod driver;
mod epoll;
mod family;
mod handle;
mod keeper;
mod member;
#[cfg(test)]
mod models;
mod outbox;
mod owner;
mod pump;
mod registry;
mod relay;
mod report;
mod roster;
mod table;
#[cfg(test)]
mod tests;
mod wait;
mod watches;
mod winding_up;

pub use adopt::{JoinError, Taken, join};
pub use description::SocketKind;
pub use device_up::BringUpError;
pub use family::{StartError, current, start};
pub use handle::{Expect, Handle, HandleError, HandleId, HandleKind, HandleName};
pub use member::{ForkTicket, SlotId};
pub use owner::{Owner, OwnerKind};
pub use wait::{View, WaitSpec};

use crate::config::Config;
use crate::device::staged::LateFailure;
use crate::sys::Fd;
use crate::sys::call;
use crate::sys::lock::{Acquired, LockError};
use crate::sys::shared::{Held, Shared};
use description::Holders;
use family::{Core, Open, Word};
use remora_stack::counters::Counters;
use remora_stack::socket::error::CreateError;
use remora_stack::socket::protocol::{AddressFamily, Readiness, SocketId, SocketType};
use remora_stack::stack::Stack;
use remora_stack::time::Instant;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names the open file description of one of our sockets. Zeroed, it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct DescriptionId {
    /// Place in the table.
    pub index: u32,
    /// How often the place was used before; never 0.
    pub generation: u32,
}

/// Names an epoll set that holds our sockets. Zeroed, it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SetId {
    /// Place in the table.
    pub index: u32,
    /// How often the place was used before; never 0.
    pub generation: u32,
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitEnd {
    /// The deadline has passed.
    TimedOut,
    /// A signal handler has run.
    Interrupted,
    /// A member died in the middle of a change: the family's connections are lost, or the description is closed.
    Broken,
}

/// The family's state is lost: a member died inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// epoll_ctl failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetError {
    /// EEXIST.
    Exists,
    /// ENOENT.
    NotFound,
    /// EINVAL: EPOLLEXCLUSIVE beside what it does not go with.
    Invalid,
    /// ENOMEM.
    NoMemory,
    /// ELOOP: a set in a set in itself.
    Loop,
}

/// One ready entry of an epoll set, as struct epoll_event has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadyEvent {
    /// The events.
    pub events: u32,
    /// What the program gave.
    pub data: u64,
}

/// What a family has counted.
#[derive(Clone, Debug, Default)]
pub struct FamilyStatistics {
    /// The stack's counters.
    pub stack: Counters,
    /// Open descriptions, epoll sets, members.
    pub descriptions: usize,
    /// Epoll sets.
    pub sets: usize,
    /// Member processes.
    pub members: usize,
    /// Bytes of the arena in use.
    pub arena_used: usize,
    /// Threads that found no doorbell and slept in slices.
    pub without_bell: u64,
    /// Doorbells rung.
    pub rings: u64,
    /// Times that the driver slept.
    pub sleeps: u64,
    /// Frames fed in by the keeper, and by callers.
    pub frames_by_keeper: u64,
    /// Frames fed in by callers.
    pub frames_by_callers: u64,
    /// Frames that belong to another family on this address to answer.
    pub left_to_others: u64,
    /// Frames that could not be sent.
    pub not_sent: u64,
    /// Times that the keeper woke up.
    pub keeper_wakeups: u64,
}

thread_local! {
    // Const and without Drop: touched by signal handlers and allocation.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static ON_LEAVE: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Whether the calling thread is inside the core: a signal handler that finds it so must not call into it.
#[inline]
#[must_use]
pub fn in_core() -> bool {
    DEPTH.get() > 0
}

/// Has `hook` run once, by the calling thread, as soon as it has left the core.
pub fn defer_to_leave(hook: fn()) {
    ON_LEAVE.set(Some(hook));
}

/// Marks the thread as inside; runs what was put off when it ends.
struct Inside;

impl Inside {
    #[inline]
    fn new() -> Self {
        DEPTH.set(DEPTH.get().saturating_add(1));
        Self
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
        if DEPTH.get() == 0
            && let Some(hook) = ON_LEAVE.take()
        {
            hook();
        }
    }
}

/// A panic inside leaves the state as it was in the middle of something: the family ends, the program goes on.
struct PanicWatch<'a>(&'a Open);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_broken();
        }
    }
}

/// Says whether a lock got like this may be used.
fn admit(open: &Open, taken: Result<Acquired, LockError>) -> Result<(), Broken> {
    match taken {
        Ok(Acquired::Clean) => {}
        Ok(Acquired::OwnerDied) if open.is_whole() => {
            log::info!(target: "remora::runtime", "a process of this family died inside the stack, at a point where it is whole");
        }
        Ok(Acquired::OwnerDied) => open.set_broken(),
        // A hook called from inside the core would wait for itself.
        Err(LockError::SelfDeadlock | LockError::Busy) => return Err(Broken),
    }
    if open.is_broken() { Err(Broken) } else { Ok(()) }
}

/// One process's view of its family.
#[derive(Debug)]
pub struct Runtime {
    family: &'static Shared<Open, Core>,
    config: &'static Config,
    /// This process's slot.
    slot: Word,
    /// Our end of the lifeline.
    lifeline: Word,
    /// Which keeper we have made ourselves known to.
    joined_keeper: Word,
    /// 1 when this process has the family's doorbells and channel under their numbers.
    family_fds: Word,
    /// Which device this process has the descriptors of.
    device_here: Word,
    /// When the settings were last read, in microseconds.
    settings_read: AtomicU64,
}

/// How old the settings may be that a new socket begins with. Reading them all takes a third of a millisecond.
const SETTINGS_AGE: Duration = Duration::from_millis(100);
/// The same for calls that are rare.
const REFRESHED_AGE: Duration = Duration::from_millis(1);

impl Runtime {
    /// The configuration that the family was started with.
    #[must_use]
    pub fn config(&self) -> &'static Config {
        self.config
    }

    fn slot(&self) -> SlotId {
        SlotId::unpack(self.slot.load())
    }

    fn set_slot(&self, slot: SlotId) {
        self.slot.store(slot.pack());
    }

    /// Whether the family is lost; the next `start` makes another.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.family.open().is_broken()
    }

    /// Runs `body` under the lock, sends what there is to send and rings who is to wake up.
    #[inline]
    fn enter<R>(&self, body: impl FnOnce(&mut Core, Instant) -> R) -> Result<R, Broken> {
        self.enter_as(0, body)
    }

    /// The same for the sleeper with the bell in `own`, which does not ring itself.
    fn enter_as<R>(&self, own: u64, body: impl FnOnce(&mut Core, Instant) -> R) -> Result<R, Broken> {
        let _inside = Inside::new();
        let open = self.family.open();
        let staged = outbox::fetch(open);
        let mut core: Held<Open, Core> = match self.family.enter(admit) {
            Ok(core) => core,
            Err(Broken) => {
                if let Some(staged) = staged {
                    outbox::give_back(staged);
                }
                self.tell_of_the_end();
                return Err(Broken);
            }
        };
        let watch = PanicWatch(open);
        outbox::carry(staged);
        let waited = core.has_waited();
        core.note_turn(open, waited);
        let now = call::now();
        core.here = self.device_here.load() == open.device_generation() && self.device_here.load() != 0;
        core.roster.own = own;
        core.inside = self.slot();
        let result = body(&mut core, now);
        // To copy what a program sends takes its time: what leaves or comes in now, does so now.
        let now = call::now();
        core.glance(open, now);
        core.settle(open, now);
        let rings = core.take_rings();
        let signals = if core.signals.is_empty() { None } else { Some(core.take_signals()) };
        let hand_over = core.registry.take_hand_over();
        let put_off = outbox::put_down().map(|staged| (staged, core.transmit_fd()));
        drop(watch);
        drop(core);
        let late = put_off.map_or(Ok(()), |(staged, device)| outbox::send(staged, device));
        self.ring(rings);
        if let Some(due) = signals {
            owner::send_signals(due);
        }
        if hand_over {
            self.hand_over_claims();
        }
        if let Err(failure) = late {
            self.tell_of_failure(failure);
        }
        Ok(result)
    }

    /// What the turn has sent after it has not left.
    #[cold]
    fn tell_of_failure(&self, failure: LateFailure) {
        if let Ok(mut core) = self.family.enter(admit) {
            core.here = self.device_here.load() == self.family.open().device_generation();
            core.inside = self.slot();
            core.sent_in_vain(self.family.open(), call::now(), failure);
        }
    }

    /// Runs `body` under the lock, which only looks: whoever is killed there leaves the family whole. It must not
    /// allocate.
    fn look<R>(&self, body: impl FnOnce(&Core) -> R) -> Result<R, Broken> {
        let _inside = Inside::new();
        match self.family.enter(admit) {
            Ok(core) => Ok(body(&core)),
            Err(Broken) => {
                self.tell_of_the_end();
                Err(Broken)
            }
        }
    }

    /// Has the keeper wind the family up, and those who sleep look, once.
    #[cold]
    fn tell_of_the_end(&self) {
        let open = self.family.open();
        if open.is_broken() && self.family_fds.load() != 0 && open.tell_once() {
            winding_up::ring_all(open);
        }
    }

    /// Rings doorbells, outside of the lock.
    fn ring(&self, mut rings: u64) {
        if self.family_fds.load() == 0 {
            return;
        }
        while rings != 0 {
            let index = rings.trailing_zeros();
            rings &= rings - 1;
            if let Some(fd) = self.family.open().bell(index) {
                call::eventfd_ring(fd);
            }
        }
    }

    /// Makes a socket and its description, which this process holds once.
    ///
    /// # Errors
    /// As the stack's `socket`; `NoMemory` when the family is broken.
    pub fn open(
        &self,
        family: AddressFamily,
        kind: SocketType,
        protocol: u8,
        nonblocking: bool,
    ) -> Result<DescriptionId, CreateError> {
        self.read_settings_again(SETTINGS_AGE);
        let slot = self.slot();
        self.enter(|core, now| {
            let socket = core.stack.socket(now, family, kind, protocol)?;
            let kind = SocketKind { family, kind, protocol };
            Ok(core.describe(self.family.open(), slot, socket, kind, nonblocking))
        })
        .unwrap_or(Err(CreateError::NoMemory))
    }

    /// A rare call that goes by /proc/sys as it is now: listen(), Fast Open.
    pub fn refresh_settings(&self) {
        self.read_settings_again(REFRESHED_AGE);
    }

    /// A new socket goes by /proc/sys as it is, not as it was when the family began (`tcp_init_sock`).
    fn read_settings_again(&self, age: Duration) {
        let now = call::now();
        let micros = now.micros();
        let read = self.settings_read.load(Ordering::Relaxed);
        if Duration::from_micros(micros.saturating_sub(read)) < age {
            return;
        }
        self.settings_read.store(micros, Ordering::Relaxed);
        let settings = self.config.settings_now();
        // The kernel's routes may have come or gone, too.
        let found = self.config.takes_interface_address.as_ref().and_then(|_| self.config.looked_up_again().ok());
        let _ = self.enter(|core, _| {
            core.stack.set_settings(settings);
            core.stack.set_wall_clock(now, call::wall_clock());
            if let Some(found) = found.filter(|_| core.device.is_some()) {
                core.stack.set_added_routes(&found.routes);
            }
        });
    }

    /// Makes a description for a socket that `accept` has given, held once by this process. `listener` is whose it was.
    pub fn adopt(&self, listener: DescriptionId, socket: SocketId, nonblocking: bool) -> Option<DescriptionId> {
        let slot = self.slot();
        self.enter(|core, _| {
            let kind = core.descriptions.find(listener)?.kind;
            Some(core.describe(self.family.open(), slot, socket, kind, nonblocking))
        })
        .ok()
        .flatten()
    }

    /// One descriptor more of this process (dup). Says whether the description is still there.
    pub fn hold(&self, id: DescriptionId) -> bool {
        let slot = self.slot();
        self.enter(|core, _| {
            let Some(description) = core.descriptions.find_mut(id) else { return false };
            description.holders.add(slot, 1);
            true
        })
        .unwrap_or(false)
    }

    /// One descriptor less of this process (close). The last one of all members closes the socket, and what that sends
    /// has gone out when this returns.
    pub fn release(&self, id: DescriptionId) {
        let slot = self.slot();
        let _ = self.enter(|core, now| core.release(now, slot, id));
    }

    /// How many descriptors of all members stand for the description.
    #[must_use]
    pub fn holders(&self, id: DescriptionId) -> u32 {
        self.enter(|core, _| core.descriptions.find(id).map_or(0, |description| description.holders.total()))
            .unwrap_or(0)
    }

    /// Drops a description that has become a kernel socket, with all its holders.
    pub fn forget(&self, id: DescriptionId) {
        let _ = self.enter(|core, now| core.forget(now, id));
    }

    /// O_NONBLOCK of a description.
    #[must_use]
    pub fn nonblocking(&self, id: DescriptionId) -> bool {
        match self.family.open().flags.read(id) {
            Some(flag) => flag,
            None => self.enter(|core, _| core.nonblocking(id)).unwrap_or(false),
        }
    }

    /// Sets O_NONBLOCK of a description.
    pub fn set_nonblocking(&self, id: DescriptionId, nonblocking: bool) {
        let _ = self.enter(|core, _| core.set_nonblocking(self.family.open(), id, nonblocking));
    }

    /// Whether the description is still there.
    #[must_use]
    pub fn exists(&self, id: DescriptionId) -> bool {
        self.enter(|core, _| core.descriptions.find(id).is_some()).unwrap_or(false)
    }

    /// Family, type and protocol that the socket was made with.
    #[must_use]
    pub fn kind(&self, id: DescriptionId) -> Option<SocketKind> {
        self.enter(|core, _| core.descriptions.find(id).map(|description| description.kind)).ok().flatten()
    }

    /// Runs `body` on the stack under the lock. What it returns must not own memory: that would be the arena's.
    ///
    /// # Errors
    /// `Broken`.
    pub fn call<R>(&self, body: impl FnOnce(&mut Stack, Instant) -> R) -> Result<R, Broken> {
        self.enter(|core, now| body(&mut core.stack, now))
    }

    /// Runs `body` on the description's socket under the lock; `None` when there is no such description or the family is
    /// broken. What it returns must not own memory.
    pub fn with_socket<R>(
        &self,
        id: DescriptionId,
        body: impl FnOnce(&mut Stack, SocketId, Instant) -> R,
    ) -> Option<R> {
        self.enter(|core, now| {
            let socket = core.socket_of(id)?;
            Some(body(&mut core.stack, socket, now))
        })
        .ok()
        .flatten()
    }

    /// Feeds in the frames that wait: under Linux what has arrived has been seen to when a call asks how things stand.
    pub fn take_arrivals(&self) {
        let _ = self.enter(|core, now| core.pump(self.family.open(), now));
    }

    /// Runs `body`; where it gives `None`, feeds in the frames that wait and runs it once more. `None` means that it
    /// would block. What it returns must not own memory.
    ///
    /// # Errors
    /// The description is gone, or the family broken.
    pub fn attempt<R>(
        &self,
        id: DescriptionId,
        mut body: impl FnMut(&mut Stack, SocketId, Instant) -> Option<R>,
    ) -> Result<Option<R>, Broken> {
        self.enter(|core, now| {
            let socket = core.socket_of(id).ok_or(Broken)?;
            let first = body(&mut core.stack, socket, now);
            if first.is_some() || !core.pump(self.family.open(), now) {
                return Ok(first);
            }
            Ok(body(&mut core.stack, socket, now))
        })
        .flatten()
    }

    /// Runs `body` on the core as a waiter sees it, under the lock. `None` when the family is broken.
    pub fn view<R>(&self, body: impl FnOnce(&mut View<'_>) -> R) -> Option<R> {
        self.enter(|core, _| body(&mut View::of(core))).ok()
    }

    /// The poll mask, after feeding in waiting frames when nothing is ready. A closed description is ERR and HUP.
    #[must_use]
    pub fn readiness(&self, id: DescriptionId) -> Readiness {
        self.enter(|core, now| {
            let quiet = Readiness::OUT | Readiness::WRNORM | Readiness::WRBAND;
            let first = core.readiness(id);
            if !quiet.contains(first) || !core.pump(self.family.open(), now) {
                return first;
            }
            core.readiness(id)
        })
        .unwrap_or(Readiness::ERR | Readiness::HUP)
    }

    /// A new epoll set, held once by this process. `None` when the family is broken.
    #[must_use]
    pub fn set_create(&self) -> Option<SetId> {
        let slot = self.slot();
        self.enter(|core, _| core.sets.insert(epoll::EpollSet::new(Holders::one(slot)))).ok()
    }

    /// The eventfd that is readable while something of the set is ready: to be put into the set's own kernel epoll when
    /// another set is to watch it. `None` when there are too many such sets.
    #[must_use]
    pub fn set_proxy(&self, set: SetId) -> Option<Fd> {
        if !self.prepare() {
            return None;
        }
        let open = self.family.open();
        let index = self.enter(|core, _| core.set_take_proxy(open, set)).ok().flatten()?;
        open.uses_proxies.store(1);
        open.proxy(index)
    }

    /// Has the kernel see of nested sets what is so now; to be called before it is asked about one.
    pub fn refresh_proxies(&self) {
        let open = self.family.open();
        if open.uses_proxies.load() != 0 {
            let _ = self.enter(|core, now| {
                core.pump(open, now);
                core.refresh_proxies(open);
            });
        }
    }

    /// One descriptor more of this process for a set.
    pub fn set_hold(&self, set: SetId) {
        let slot = self.slot();
        let _ = self.enter(|core, _| {
            if let Some(set) = core.sets.find_mut(set) {
                set.holders.add(slot, 1);
            }
        });
    }

    /// One descriptor less of this process for a set.
    pub fn set_release(&self, set: SetId) {
        let slot = self.slot();
        let _ = self.enter(|core, _| core.release_set(slot, set));
    }

    /// EPOLL_CTL_ADD of our socket under the number `fd`.
    ///
    /// # Errors
    /// As [`SetError`].
    pub fn set_add(&self, set: SetId, fd: i32, id: DescriptionId, events: u32, data: u64) -> Result<(), SetError> {
        self.enter(|core, _| core.set_add(set, fd, id, events, data)).unwrap_or(Err(SetError::NotFound))
    }

    /// EPOLL_CTL_MOD.
    ///
    /// # Errors
    /// As [`SetError`].
    pub fn set_modify(&self, set: SetId, fd: i32, id: DescriptionId, events: u32, data: u64) -> Result<(), SetError> {
        self.enter(|core, _| core.set_modify(set, fd, id, events, data)).unwrap_or(Err(SetError::NotFound))
    }

    /// EPOLL_CTL_DEL.
    ///
    /// # Errors
    /// As [`SetError`].
    pub fn set_delete(&self, set: SetId, fd: i32, id: DescriptionId) -> Result<(), SetError> {
        self.enter(|core, _| core.set_delete(set, fd, id)).unwrap_or(Err(SetError::NotFound))
    }

    /// Fills `out` with ready entries and returns how many, after feeding in waiting frames when there would be none;
    /// level-triggered ones stay queued, edge-triggered ones are reported once per event, one-shot ones are disarmed.
    pub fn set_collect(&self, set: SetId, out: &mut [ReadyEvent]) -> usize {
        self.look_for_device();
        self.enter(|core, now| match core.set_collect(set, out) {
            0 if core.pump(self.family.open(), now) => core.set_collect(set, out),
            count => count,
        })
        .unwrap_or(0)
    }

    /// Takes in what has arrived, unless another thread or process is at it.
    pub fn look_at_device(&self) {
        let _ = self.enter(|core, now| core.look(self.family.open(), now));
    }

    /// Whether a collect would give something, after feeding in waiting frames when it would not.
    #[must_use]
    pub fn set_is_ready(&self, set: SetId) -> bool {
        self.enter(|core, now| core.set_is_ready(set) || (core.pump(self.family.open(), now) && core.set_is_ready(set)))
            .unwrap_or(false)
    }

    /// Visits a description's registrations in a set: number, events, data. `visit` runs under the lock and must not
    /// allocate.
    pub fn set_entries(&self, set: SetId, id: DescriptionId, visit: &mut dyn FnMut(i32, u32, u64)) {
        let _ = self.enter(|core, _| core.set_entries(set, id, visit));
    }

    /// The sets that watch a description, filled into `out`; returns how many there are.
    pub fn sets_of(&self, id: DescriptionId, out: &mut [SetId]) -> usize {
        self.enter(|core, _| {
            let Some(description) = core.descriptions.find(id) else { return 0 };
            for (place, watch) in out.iter_mut().zip(&description.watches) {
                *place = watch.set;
            }
            description.watches.len()
        })
        .unwrap_or(0)
    }

    /// Address space of this process that the arena takes, in bytes.
    #[must_use]
    pub fn address_space(&self) -> usize {
        crate::sys::arena::Arena::active().map_or(0, crate::sys::arena::Arena::reserve)
    }

    /// Whether a descriptor of this process is one of ours, to be left alone by close, dup2, close_range, closefrom.
    #[must_use]
    pub fn is_private_fd(&self, fd: i32) -> bool {
        let open = self.family.open();
        if fd < 0 {
            return false;
        }
        let family = self.family_fds.load() != 0 && open.is_family_fd(fd);
        let device = self.device_here.load() != 0
            && self.device_here.load() == open.device_generation()
            && open.device_fds().any(|own| own.raw() == fd);
        let arena = crate::sys::arena::Arena::active().is_some_and(|arena| arena.fd().raw() == fd);
        let log = crate::logging::private_fd().is_some_and(|own| own.raw() == fd);
        if family || device || arena || log || self.lifeline_fd().raw() == fd {
            return true;
        }
        // With a keeper, the claims are its own.
        let slot = self.slot();
        fd > 2 && open.keeper_generation() == 0 && self.enter(|core, _| core.registry.has_fd(slot, fd)).unwrap_or(false)
    }

    fn lifeline_fd(&self) -> Fd {
        Fd(self.lifeline.load() as i32)
    }

    /// What the family has counted so far.
    #[must_use]
    pub fn family_statistics(&self) -> FamilyStatistics {
        let mut statistics = FamilyStatistics::default();
        let _ = self.enter(|core, _| {
            statistics.clone_from(&core.statistics);
            statistics.stack.clone_from(core.stack.counters());
            statistics.descriptions = core.descriptions.len();
            statistics.sets = core.sets.len();
            statistics.members = core.member_count();
        });
        statistics.arena_used = crate::sys::arena::Arena::active().map_or(0, crate::sys::arena::Arena::used);
        statistics.keeper_wakeups = self.family.open().keeper_wakeups.load(Ordering::Relaxed);
        statistics
    }
}
