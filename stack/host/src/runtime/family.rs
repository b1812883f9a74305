//! What a family shares and how it starts: the open part (atomics that anyone may read), the core behind the lock, and
//! the private words of a process. Starting makes arena and core only, with no device, no descriptor and no process, so
//! that a program pays little for a socket that it never uses.

use super::description::{Descriptions, FastFlags};
use super::epoll::Sets;
use super::handle::Handles;
use super::member::{Member, SlotId};
use super::owner::Due;
use super::registry::Registry;
use super::relay::RelayRecord;
use super::roster::{BELLS, KEEPER_BELL, Roster};
use super::wait::SpinHistory;
use super::{FamilyStatistics, Runtime};
use crate::config::Config;
use crate::device::Device;
use crate::device::siblings::SiblingLink;
use crate::sys::arena::{Arena, ArenaError, DEFAULT_RESERVE};
use crate::sys::lock::{Life, LifeLine};
use crate::sys::order::{self, Rank};
use crate::sys::shared::{ChangeMark, KeeperRegion, Named, Shared};
use crate::sys::{Errno, Fd, call};
use remora_stack::random::Secret;
use remora_stack::stack::Stack;
use remora_stack::time::Instant;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering, compiler_fence};
use std::time::Duration;

/// Why there is no family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// No address space or memory for the arena.
    Arena(ArenaError),
    /// The kernel gives no randomness.
    NoRandomness(Errno),
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(error) => error.fmt(formatter),
            Self::NoRandomness(errno) => write!(formatter, "no random numbers for sequence numbers and ports: {errno}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A private word of this process, shared by its threads and copied by fork.
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU32);

impl Word {
    pub(super) const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    pub(super) fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn store(&self, value: u32) {
        self.0.store(value, Ordering::Release);
    }

    pub(super) fn swap(&self, value: u32) -> u32 {
        self.0.swap(value, Ordering::AcqRel)
    }

    pub(super) fn claim(&self, from: u32, to: u32) -> Result<(), u32> {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

/// Eventfds for epoll sets inside other sets, so the number of such sets in a family.
const PROXIES: usize = 32;

/// Most descriptors of a device (socket, capture file) and of the way to the siblings.
pub(super) const DEVICE_FDS: usize = 3;

/// The open part of the shared state.
#[derive(Debug)]
pub struct Open {
    /// Tells families apart in names.
    pub(super) identity: u64,
    pub(super) flags: FastFlags,
    broken: AtomicBool,
    /// Those who sleep have been told that it is.
    told: AtomicBool,
    /// Set while the holder of the lock changes the core: should it die, nobody can say what is left.
    changing: AtomicBool,
    /// Descriptor numbers of the doorbells, the keeper's last; -1 for none.
    bells: [AtomicI32; BELLS + 1],
    /// Descriptor numbers of the eventfds that stand for epoll sets inside others; -1 for none.
    proxies: [AtomicI32; PROXIES],
    /// The channel to the keeper: our end, the keeper's.
    channel: [AtomicI32; 2],
    /// 0: no doorbells and channel yet, 1: being made, 2: made, under the same numbers in all who were forked since.
    pub(super) prepared: Word,
    /// Whether any set of the family has had a proxy.
    pub(super) uses_proxies: Word,
    /// 0: no device, 1: being opened, 2: there.
    pub(super) device_state: Word,
    siblings_call: AtomicBool,
    /// The interface has gone; the next bring-up opens it anew.
    device_lost: AtomicBool,
    /// The interface was down when it was last looked at.
    link_down: AtomicBool,
    /// Counts devices opened.
    device_generation: Word,
    device_fds: [AtomicI32; DEVICE_FDS],
    /// 0: none, 1: being made, 2: there.
    pub(super) keeper_state: Word,
    /// Counts keepers; what a member compares to know whether it has joined.
    pub(super) keeper_count: Word,
    pub(super) keeper_pid: AtomicI32,
    /// Whether a handle was ever made here: others need not look whether a stranger has written something before them.
    pub(super) had_handles: AtomicBool,
    pub(super) keeper_line: LifeLine,
    pub(super) keeper_wakeups: AtomicU64,
    /// Turns that are still taken for crowded; see `outbox`.
    pub(super) crowd: Word,
}

impl Open {
    fn new(identity: u64) -> Self {
        Self {
            identity,
            flags: FastFlags::new(),
            broken: AtomicBool::new(false),
            told: AtomicBool::new(false),
            changing: AtomicBool::new(false),
            bells: [const { AtomicI32::new(-1) }; BELLS + 1],
            proxies: [const { AtomicI32::new(-1) }; PROXIES],
            channel: [const { AtomicI32::new(-1) }; 2],
            prepared: Word::new(0),
            uses_proxies: Word::new(0),
            device_state: Word::new(0),
            siblings_call: AtomicBool::new(false),
            device_lost: AtomicBool::new(false),
            link_down: AtomicBool::new(false),
            device_generation: Word::new(0),
            device_fds: [const { AtomicI32::new(-1) }; DEVICE_FDS],
            keeper_state: Word::new(0),
            keeper_count: Word::new(0),
            keeper_pid: AtomicI32::new(0),
            had_handles: AtomicBool::new(false),
            keeper_line: LifeLine::new(),
            keeper_wakeups: AtomicU64::new(0),
            crowd: Word::new(0),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn set_broken(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            log::error!(
                target: "remora::runtime",
                "a process of this family died inside the stack: its connections are lost, new sockets start afresh"
            );
        }
    }

    /// Whether the holder that died left the core whole.
    pub(super) fn is_whole(&self) -> bool {
        !self.changing.load(Ordering::Acquire)
    }

    /// Says whether the caller is the first to tell that the family is lost.
    pub(super) fn tell_once(&self) -> bool {
        !self.told.swap(true, Ordering::AcqRel)
    }

    /// Runs what changes nothing, in the midst of changes, while the core is whole: a system call of the device, a look.
    /// Whoever is killed there leaves it so: memory is taken before.
    #[inline]
    pub(super) fn consistently<R>(&self, body: impl FnOnce() -> R) -> R {
        let changing = self.changing.load(Ordering::Relaxed);
        self.change_ends();
        let result = body();
        if changing {
            self.change_begins();
        }
        result
    }

    pub(super) fn bell(&self, index: u32) -> Option<Fd> {
        let place = if index == KEEPER_BELL { BELLS } else { index as usize };
        let fd = Fd(self.bells.get(place)?.load(Ordering::Acquire));
        fd.is_some().then_some(fd)
    }

    pub(super) fn proxy(&self, index: u32) -> Option<Fd> {
        let fd = Fd(self.proxies.get(index as usize)?.load(Ordering::Acquire));
        fd.is_some().then_some(fd)
    }

    pub(super) fn channel(&self, end: usize) -> Option<Fd> {
        let fd = Fd(self.channel.get(end)?.load(Ordering::Acquire));
        fd.is_some().then_some(fd)
    }

    /// All descriptors that every member has under the same number.
    pub(super) fn family_fds(&self) -> impl Iterator<Item = Fd> {
        self.bells
            .iter()
            .chain(&self.proxies)
            .chain(&self.channel)
            .map(|fd| Fd(fd.load(Ordering::Acquire)))
            .filter(|fd| fd.is_some())
    }

    pub(super) fn is_family_fd(&self, fd: i32) -> bool {
        self.bells.iter().chain(&self.proxies).chain(&self.channel).any(|own| own.load(Ordering::Acquire) == fd)
    }

    /// Frames of siblings wait: said by whom the kernel has told.
    pub(super) fn call_siblings(&self) {
        self.siblings_call.store(true, Ordering::Release);
    }

    pub(super) fn take_siblings_call(&self) -> bool {
        self.siblings_call.load(Ordering::Acquire) && self.siblings_call.swap(false, Ordering::AcqRel)
    }

    pub(super) fn is_device_lost(&self) -> bool {
        self.device_lost.load(Ordering::Acquire)
    }

    pub(super) fn set_device_lost(&self, lost: bool) {
        self.device_lost.store(lost, Ordering::Release);
    }

    pub(super) fn is_link_down(&self) -> bool {
        self.link_down.load(Ordering::Acquire)
    }

    pub(super) fn set_link_down(&self, down: bool) {
        self.link_down.store(down, Ordering::Release);
    }

    pub(super) fn device_generation(&self) -> u32 {
        self.device_generation.load()
    }

    pub(super) fn device_fds(&self) -> impl Iterator<Item = Fd> {
        self.device_fds.iter().map(|fd| Fd(fd.load(Ordering::Acquire))).filter(|fd| fd.is_some())
    }

    /// A device has been opened; returns its generation.
    pub(super) fn set_device(&self, fds: [Fd; DEVICE_FDS]) -> u32 {
        for (place, fd) in self.device_fds.iter().zip(fds) {
            place.store(fd.raw(), Ordering::Release);
        }
        let generation = self.device_generation.load().wrapping_add(1).max(1);
        self.device_generation.store(generation);
        generation
    }

    /// The keeper that members have to know, 0 for none.
    pub(super) fn keeper_generation(&self) -> u32 {
        if self.keeper_state.load() == 2 && self.keeper_line.state() != Life::Died {
            self.keeper_count.load()
        } else {
            0
        }
    }

    /// Makes doorbells, the channel and the eventfds of nested sets; returns masks of the doorbells and of the eventfds.
    pub(super) fn make_family_fds(&self) -> (u64, u64) {
        let floor = call::private_floor();
        let mut mask = 0;
        // The keeper's first: it is needed most.
        for index in std::iter::once(BELLS).chain(0..BELLS) {
            let made = call::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            let Ok(fd) = made.and_then(|fd| call::raise_high(fd, floor)) else { break };
            if let Some(place) = self.bells.get(index) {
                place.store(fd.raw(), Ordering::Release);
            }
            if index < BELLS {
                mask |= 1 << index;
            }
        }
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        if let Ok((near, far)) = call::socketpair(libc::AF_UNIX, kind) {
            for (place, fd) in self.channel.iter().zip([near, far]) {
                if let Ok(fd) = call::raise_high(fd, floor) {
                    place.store(fd.raw(), Ordering::Release);
                }
            }
        }
        let mut proxies = 0;
        for (index, place) in self.proxies.iter().enumerate() {
            let made = call::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            let Ok(fd) = made.and_then(|fd| call::raise_high(fd, floor)) else { break };
            place.store(fd.raw(), Ordering::Release);
            proxies |= 1 << index;
        }
        (mask, proxies)
    }
}

impl ChangeMark for Open {
    #[inline]
    fn change_begins(&self) {
        self.changing.store(true, Ordering::Relaxed);
        // Read after this thread's death: the order in its program is all that matters.
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn change_ends(&self) {
        compiler_fence(Ordering::SeqCst);
        self.changing.store(false, Ordering::Release);
    }
}

/// The state behind the lock.
#[derive(Debug)]
pub struct Core {
    pub(super) stack: Stack,
    pub(super) device: Option<Box<dyn Device>>,
    /// The way to the other families on our address.
    pub(super) siblings: Option<SiblingLink>,
    /// When they were last heard or spoken to.
    pub(super) heard_siblings: Option<Instant>,
    pub(super) looked_for_siblings: Option<Instant>,
    pub(super) descriptions: Descriptions,
    pub(super) sets: Sets,
    pub(super) members: Vec<Member>,
    pub(super) registry: Registry,
    pub(super) handles: Handles,
    /// Name relays.
    pub(super) relays: Vec<RelayRecord>,
    /// How many descriptions are raw sockets, which want frames of all protocols.
    pub(super) raw_sockets: usize,
    /// When frames were last asked for.
    pub(super) received_at: Option<Instant>,
    /// Turns in which nothing is put off, after a device has refused what was.
    pub(super) plain_turns: u32,
    /// When it was last looked at what nobody tells of.
    pub(super) looked_around: Option<Instant>,
    /// When the interface was last asked for its state.
    pub(super) looked_at_link: Option<Instant>,
    pub(super) statistics: FamilyStatistics,
    pub(super) region: Option<KeeperRegion>,
    /// The frame being received.
    pub(super) buffer: Vec<u8>,
    /// Whether the process inside has the device's descriptors; set on entering.
    pub(super) here: bool,
    /// The slot of the process inside; set on entering.
    pub(super) inside: SlotId,
    pub(super) roster: Roster,
    /// Signals to owners of sockets, to be sent on leaving.
    pub(super) signals: Vec<Due>,
    /// Eventfds for nested sets that no set has.
    pub(super) free_proxies: u64,
    /// Those to be made readable on leaving.
    pub(super) proxies_to_ring: u64,
    pub(super) spin: SpinHistory,
    /// Whether more than one processor is there to spin on.
    pub(super) may_spin: bool,
}

impl Core {
    fn new(config: &Config, secret: Secret) -> Self {
        Self {
            stack: Stack::new(config.settings.clone(), secret),
            device: None,
            siblings: None,
            heard_siblings: None,
            looked_for_siblings: None,
            descriptions: Descriptions::new(),
            sets: Sets::new(),
            members: Vec::new(),
            registry: Registry::new(config.settings.ip_local_port_range),
            handles: Handles::new(),
            relays: Vec::new(),
            raw_sockets: 0,
            received_at: None,
            plain_turns: 0,
            looked_around: None,
            looked_at_link: None,
            statistics: FamilyStatistics::default(),
            region: None,
            buffer: Vec::new(),
            here: false,
            inside: SlotId::NONE,
            roster: Roster::new(),
            signals: Vec::new(),
            free_proxies: 0,
            proxies_to_ring: 0,
            spin: SpinHistory::default(),
            may_spin: false,
        }
    }
}

/// This process's runtime. Private memory, inherited by fork.
static CURRENT: Named<Runtime> = Named::nothing();

/// The same for the keeper, which has lost the program's memory and with it the runtime.
pub(super) static FAMILY: Named<Shared<Open, Core>> = Named::nothing();

/// One thread at a time makes a family; a child forked meanwhile waits in vain, but not for long.
static STARTING: AtomicBool = AtomicBool::new(false);
const STARTING_PATIENCE: Duration = Duration::from_millis(200);

/// The runtime made in this process or inherited from the one that forked it.
#[inline]
#[must_use]
pub fn current() -> Option<&'static Runtime> {
    CURRENT.load()
}

/// Makes this process the first of a family, unless it belongs to one that is whole.
///
/// # Errors
/// As [`StartError`].
pub fn start(config: &Config) -> Result<&'static Runtime, StartError> {
    if let Some(runtime) = current().filter(|runtime| !runtime.is_broken()) {
        return Ok(runtime);
    }
    once(|former| match former {
        Some(runtime) if !runtime.is_broken() => Ok(runtime),
        former => make(config, former.is_some()),
    })
}

/// Runs `body`, which makes or finds a family, while no other thread does; it is told of the one that is there.
pub(super) fn once<R>(body: impl FnOnce(Option<&'static Runtime>) -> R) -> R {
    let _ordered = order::hold(Rank::Starting);
    let patience = call::now() + STARTING_PATIENCE;
    while STARTING.swap(true, Ordering::AcqRel) && call::now() < patience {
        std::thread::yield_now();
    }
    let result = body(current());
    STARTING.store(false, Ordering::Release);
    result
}

fn make(config: &Config, instead: bool) -> Result<&'static Runtime, StartError> {
    let mut secret: Secret = [0; 32];
    //= RFC 6528 §4 (MUST-2)
    call::random_bytes(&mut secret).map_err(StartError::NoRandomness)?;
    let mut identity = [0u8; 8];
    call::random_bytes(&mut identity).map_err(StartError::NoRandomness)?;
    let arena = Arena::map(DEFAULT_RESERVE).map_err(StartError::Arena)?;
    let shared = || (Open::new(u64::from_ne_bytes(identity)), Core::new(config, secret));
    let family = if instead {
        Shared::install_instead(arena, shared)
    } else {
        Shared::install(arena, shared).map_err(StartError::Arena)?
    };
    FAMILY.store(family);
    Ok(enrol(family, config, None))
}

/// Makes this process a member of a family that it has mapped. `device`: it has the family's descriptors, and those of
/// the device of this generation.
pub(super) fn enrol(family: &'static Shared<Open, Core>, config: &Config, device: Option<u32>) -> &'static Runtime {
    // Private memory: it holds paths and texts that only this process needs.
    let config: &'static Config = Box::leak(Box::new(config.clone()));
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime {
        family,
        config,
        slot: Word::new(SlotId::NONE.pack()),
        lifeline: Word::new(u32::MAX),
        joined_keeper: Word::new(0),
        family_fds: Word::new(u32::from(device.is_some())),
        device_here: Word::new(device.unwrap_or(0)),
        settings_read: AtomicU64::new(call::now().micros()),
    }));
    let slot = runtime.enter(|core, _| core.take_slot(call::getpid())).unwrap_or(SlotId::NONE);
    runtime.set_slot(slot);
    CURRENT.store(runtime);
    runtime
}

impl Runtime {
    /// Makes doorbells and channel, once for the family. Says whether this process has them.
    pub(super) fn prepare(&self) -> bool {
        if self.family_fds.load() != 0 {
            return true;
        }
        let _ordered = order::hold(Rank::Preparing);
        let open = self.family.open();
        let patience = call::now() + STARTING_PATIENCE;
        loop {
            match open.prepared.claim(0, 1) {
                Ok(()) => {
                    let (bells, proxies) = open.make_family_fds();
                    self.family_fds.store(1);
                    let _ = self.enter(|core, _| {
                        core.roster.set_bells(bells);
                        core.free_proxies = proxies;
                    });
                    open.prepared.store(2);
                    return true;
                }
                // Made by a process that was not our ancestor then: the numbers are not ours.
                Err(2) => return self.family_fds.load() != 0,
                Err(_) if call::now() >= patience => return false,
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}
