//! Bringing the family's device up at the first bind, connect, listen or send, leaving the keeper, and looking again at
//! a link that has changed. Opening is retried as long as it fails: an interface may come later.

use super::family::DEVICE_FDS;
use super::keeper::{self, Message, Phase, send_to_keeper};
use super::registry::{ClaimError, random_word};
use super::{Core, Open, Runtime};
use crate::config::{Config, ConfigError};
use crate::device::pcap::{PcapTee, PcapWriter};
use crate::device::siblings::SiblingLink;
use crate::device::{self, Device, DeviceError, DeviceKind, OpenError};
use crate::sys::alloc::leave_arena;
use crate::sys::arena::Arena;
use crate::sys::order::{self, Rank};
use crate::sys::shared::KeeperRegion;
use crate::sys::{Fd, call};
use remora_stack::interface::InterfaceConfig;
use remora_stack::time::Instant;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BringUpError {
    /// No address is configured: the program runs on the kernel's sockets.
    NotConfigured,
    /// The interface is not there yet or has no address, or the configuration does not fit it.
    Interface(ConfigError),
    /// The device cannot be opened; the text says what to do.
    Device(OpenError),
    /// Other families on this address hold all port blocks.
    NoPorts,
    /// Families of a build that shares addresses otherwise are on this one.
    OtherLayout,
    /// Another process of the family has been opening the device for too long.
    Busy,
    /// The family is lost.
    Broken,
}

impl fmt::Display for BringUpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => write!(formatter, "{}", crate::config::NO_ADDRESS),
            Self::Interface(error) => error.fmt(formatter),
            Self::Device(error) => error.fmt(formatter),
            Self::NoPorts => {
                write!(
                    formatter,
                    "other programs under remora hold all port blocks of this address; use another address"
                )
            }
            Self::OtherLayout => {
                write!(
                    formatter,
                    "programs under another version of remora use this address; end them, or use another address"
                )
            }
            Self::Busy => write!(formatter, "another process is still opening the device"),
            Self::Broken => write!(formatter, "a process of this family died inside the stack"),
        }
    }
}

impl std::error::Error for BringUpError {}

/// States of `Open::device_state` and `Open::keeper_state`.
const NONE: u32 = 0;
const MAKING: u32 = 1;
const THERE: u32 = 2;

/// When to look again for an interface that has gone or is down.
const LOOK_FOR_DEVICE: Duration = Duration::from_millis(500);

/// How long one thread waits for another that opens the device.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens the device; memory comes from where the caller stands.
fn open_device(config: &Config) -> Result<(Box<dyn Device>, [Fd; DEVICE_FDS]), OpenError> {
    let spec = config.device_spec().ok_or_else(|| OpenError::NoInterface(String::new()))?;
    let device = device::open(&spec)?;
    let socket = device.fd();
    let Some(path) = &config.pcap else { return Ok((device, [socket, Fd::NONE, Fd::NONE])) };
    let medium = device.capabilities().medium;
    match PcapWriter::open(&path.value.to_string_lossy(), &spec.interface, medium) {
        Ok(writer) => {
            let file = writer.fd();
            Ok((Box::new(PcapTee::new(device, writer)), [socket, file, Fd::NONE]))
        }
        Err(errno) => {
            log::warn!(
                target: "remora::runtime",
                "REMORA_PCAP: {} cannot be written ({errno}); no capture is made", path.value.display()
            );
            Ok((device, [socket, Fd::NONE, Fd::NONE]))
        }
    }
}

impl Core {
    /// The link may be up again, or down, or have another MTU, or be another one under the same name.
    pub(super) fn link_changed(&mut self, open: &Open, now: Instant) {
        let Some(device) = self.device.as_mut().filter(|_| self.here) else { return };
        self.looked_at_link = Some(now);
        let capabilities = match device.refresh() {
            Ok(capabilities) => capabilities,
            Err(DeviceError::Down | DeviceError::Failed(_)) => return open.set_link_down(true),
            Err(DeviceError::Gone) => return self.lose_device(open, now),
        };
        open.set_link_down(false);
        if let Some(interface) = self.stack.interface().filter(|interface| interface.capabilities != capabilities) {
            // The address has been ours all the time: nothing to probe.
            let interface = InterfaceConfig { capabilities, probe: false, ..interface.clone() };
            self.stack.attach(now, interface);
            self.stack.set_wall_clock(now, call::wall_clock());
            // The filter knows the MTU.
            self.registry.filter_again();
        }
    }

    /// An interface that is down may be removed without a further word: the packet socket told of it when it went down.
    fn look_at_link(&mut self, open: &Open, now: Instant) {
        if self.looked_at_link.is_none_or(|looked| now.since(looked) >= LOOK_FOR_DEVICE) {
            self.link_changed(open, now);
        }
    }

    /// The interface has gone for good: sockets survive, and the next bring-up opens it anew.
    pub(super) fn lose_device(&mut self, open: &Open, now: Instant) {
        if let Some(mut device) = self.device.take() {
            device.close();
            if let Some(mut siblings) = self.siblings.take() {
                siblings.close();
            }
            self.stack.detach(now);
            open.set_device_lost(true);
            open.set_link_down(false);
            log::warn!(target: "remora::runtime", "the network interface has gone; it is opened again when it is back");
        }
    }
}

impl Core {
    /// Opens the way to the other families on the address, where there can be any. Without it they do not reach each
    /// other, and each works by itself.
    fn meet_siblings(&mut self) {
        self.siblings = self.registry.place().and_then(|place| match SiblingLink::open(place, random_word()) {
            Ok(link) => Some(link),
            Err(errno) => {
                log::info!(
                    target: "remora::runtime",
                    "no way to other programs on this address by the loopback interface ({errno})"
                );
                None
            }
        });
        self.stack.set_siblings(self.siblings.is_some());
    }
}

impl Runtime {
    /// Makes sure that the family has its device and, if `need_keeper`, its keeper. Cheap when it has.
    ///
    /// # Errors
    /// As [`BringUpError`]. Without a keeper callers drive alone, which is no error.
    pub fn bring_up(&self, need_keeper: bool) -> Result<(), BringUpError> {
        let open = self.family.open();
        if open.is_broken() {
            return Err(BringUpError::Broken);
        }
        if open.device_state.load() != THERE || open.is_device_lost() {
            self.bring_device_up()?;
        }
        if need_keeper && (open.keeper_state.load() != THERE || open.has_keeper_died()) {
            self.leave_keeper();
        }
        self.join_keeper();
        Ok(())
    }

    /// When a driver has to look again at an interface that is down or has gone.
    pub(super) fn look_for_device_at(&self, now: Instant) -> Option<Instant> {
        let open = self.family.open();
        (open.is_device_lost() || open.is_link_down()).then(|| now + LOOK_FOR_DEVICE)
    }

    /// Looks whether an interface that is down has gone, and opens a device anew whose interface had gone, if it is back.
    pub(super) fn look_for_device(&self) {
        let open = self.family.open();
        if open.is_link_down() {
            let _ = self.enter(|core, now| core.look_at_link(open, now));
        }
        if open.is_device_lost() && !open.is_broken() {
            let _ = self.bring_device_up();
        }
    }

    fn bring_device_up(&self) -> Result<(), BringUpError> {
        let _ordered = order::hold(Rank::BringingUp);
        let open = self.family.open();
        let patience = call::now() + PATIENCE;
        loop {
            if open.is_device_lost() {
                let _ = open.device_state.claim(THERE, NONE);
            }
            match open.device_state.claim(NONE, MAKING) {
                Ok(()) => {
                    let result = self.open_and_attach();
                    open.device_state.store(if result.is_ok() { THERE } else { NONE });
                    return result;
                }
                Err(THERE) => return Ok(()),
                Err(_) if call::now() >= patience => {
                    // Whoever was at it has died, or is stuck: the next caller may try.
                    let _ = open.device_state.claim(MAKING, NONE);
                    return Err(BringUpError::Busy);
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn open_and_attach(&self) -> Result<(), BringUpError> {
        if !self.config.wants_stack() {
            return Err(BringUpError::NotConfigured);
        }
        // The interface may have come, changed or got its address since the family was started.
        let config = &self.config.looked_up_again().map_err(BringUpError::Interface)?;
        self.prepare();
        let open = self.family.open();
        let random = random_word();
        // Not those that this thread may use: the other end may be on another one. The history tells.
        let may_spin = call::online_processors() > 1;
        let slot = self.slot();
        let mut generation = 0;
        let _raised = call::raise_capability(call::NET_RAW);
        // Opening allocates in the arena, hence under the lock; it makes system calls that do not wait for anyone.
        let result = self.enter(|core, now| {
            let (device, mut fds) = open_device(config).map_err(|error| {
                let private = leave_arena();
                let copy = error.clone();
                drop(private);
                BringUpError::Device(copy)
            })?;
            let Some(mut interface) = config.interface_config(device.capabilities()) else {
                return Err(BringUpError::NotConfigured);
            };
            if let Some(spec) = config.device_spec()
                && spec.kind != DeviceKind::Unix
                && core.registry.is_private()
            {
                core.registry.locate(&spec.interface, interface.address);
            }
            match core.register(slot, random, now) {
                Ok(()) => {}
                Err(ClaimError::Taken) => {
                    let mut device = device;
                    device.close();
                    return Err(BringUpError::NoPorts);
                }
                // Without names the family has the address for itself, as far as it knows.
                Err(ClaimError::Failed) => {}
            }
            if core.registry.meets_another_layout() {
                core.registry.leave(slot);
                let mut device = device;
                device.close();
                return Err(BringUpError::OtherLayout);
            }
            core.meet_siblings();
            if let (Some(siblings), Some(last)) = (&core.siblings, fds.last_mut()) {
                *last = siblings.fd();
            }
            // Another family that has the address would look like a conflict.
            interface.probe &= core.registry.is_answerer();
            generation = open.set_device(fds);
            if generation > 1 {
                for fd in fds.iter().filter(|fd| fd.is_some()) {
                    send_to_keeper(open, Message::Device(fd.raw()), &[*fd]);
                }
            }
            core.device = Some(device);
            open.set_device_lost(false);
            core.here = true;
            core.may_spin = may_spin;
            core.stack.attach(now, interface);
            core.stack.set_wall_clock(now, call::wall_clock());
            core.stack.set_added_routes(&config.routes);
            core.registry.filter_again();
            core.roster.ring_keeper();
            Ok(())
        });
        if generation != 0 {
            self.device_here.store(generation);
        }
        self.hand_over_claims();
        result.unwrap_or(Err(BringUpError::Broken))
    }

    /// Leaves a keeper, unless another thread is at it. Where there can be none, callers drive alone.
    fn leave_keeper(&self) {
        let _ordered = order::hold(Rank::BringingUp);
        let open = self.family.open();
        if open.has_keeper_died() {
            let _ = open.keeper_state.claim(THERE, NONE);
        }
        if open.keeper_state.claim(NONE, MAKING).is_err() {
            return;
        }
        let spawned = self.prepare() && self.spawn_keeper();
        open.keeper_state.store(if spawned { THERE } else { NONE });
        if spawned {
            self.join_keeper();
            self.hand_over_claims();
        }
    }

    /// Waits while another thread leaves the keeper behind, for what cannot do without one.
    pub(super) fn await_keeper(&self) {
        let patience = call::now() + PATIENCE;
        while self.family.open().keeper_state.load() == MAKING && call::now() < patience {
            std::thread::yield_now();
        }
    }

    fn spawn_keeper(&self) -> bool {
        let open = self.family.open();
        if open.channel(1).is_none() || open.bell(super::roster::KEEPER_BELL).is_none() {
            return false;
        }
        crate::sys::process::prepare_to_shed();
        open.keeper_line.clear();
        let slot = self.slot();
        let region = self.enter(|core, _| {
            core.roster.phase = Phase::Absent;
            core.registry.reclaim(slot);
            if core.region.is_none() {
                core.region = KeeperRegion::allocate(keeper::REGION);
            }
            core.region
        });
        let Ok(Some(region)) = region else { return false };
        let arena = Arena::active().map_or(Fd::NONE, Arena::fd);
        let mut keep: Vec<Fd> = open.family_fds().collect();
        keep.extend(open.device_fds());
        keep.extend([arena, crate::logging::private_fd().unwrap_or(Fd::NONE)]);
        keep.retain(|fd| fd.is_some());
        keep.sort_unstable_by_key(|fd| fd.raw());
        keep.dedup();
        match keeper::spawn(region, &keep) {
            Ok(pid) => {
                open.keeper_pid.store(pid, Ordering::Relaxed);
                open.keeper_count.store(open.keeper_count.load().wrapping_add(1).max(1));
                // Until it says otherwise it watches: sleepers need not look after the driver.
                let _ = self.enter(|core, _| core.roster.phase = Phase::Ticking);
                true
            }
            Err(errno) => {
                log::warn!(target: "remora::runtime", "no keeper can be left ({errno}): callers drive alone");
                false
            }
        }
    }

    /// Before a fork: what the child must have under the same numbers is made now. A socket that has no device yet
    /// brings it up, or parent and child could not both use it.
    pub(super) fn prepare_for_fork(&self) {
        self.prepare();
        let open = self.family.open();
        let needed =
            open.device_state.load() == NONE && self.enter(|core, _| core.descriptions.len() > 0).unwrap_or(false);
        if needed {
            // Without a device the child will find the same reason at its own first use.
            let _ = self.bring_up(false);
        }
    }

    /// Gives up all that this process holds, at once: exit and its kin. What was sent is finished by the keeper or, where
    /// there is none, here, for a bounded time.
    pub fn leave(&self) {
        let slot = self.slot();
        let alone = self.enter(|core, now| {
            core.drop_member(now, slot);
            core.roster.ring_keeper();
            !core.roster.keeper_is_there() && core.device.is_some() && core.member_count() == 0
        });
        if alone == Ok(true) {
            self.finish_alone();
        }
    }

    /// Leaves the family for good while the process goes on, without a descriptor or a lock that it would need again.
    pub fn retire(&self) {
        let slot = self.slot();
        let _ = self.enter(|core, now| {
            core.drop_member(now, slot);
            core.roster.ring_keeper();
        });
        self.set_slot(super::member::SlotId::NONE);
        let open = self.family.open();
        let arena = Arena::active().map_or(Fd::NONE, Arena::fd);
        let device: Vec<Fd> = if self.device_here.swap(0) == 0 { Vec::new() } else { open.device_fds().collect() };
        let family: Vec<Fd> = if self.family_fds.swap(0) == 0 { Vec::new() } else { open.family_fds().collect() };
        for fd in device.into_iter().chain(family).chain([arena, self.lifeline_fd()]).filter(|fd| fd.is_some()) {
            let _ = call::close(fd);
        }
    }

    /// Drives until all data is acknowledged and all connections are closed or wait for their time to pass.
    fn finish_alone(&self) {
        let deadline = call::now() + LEAVING_PATIENCE;
        loop {
            let open = self.family.open();
            let step = self.enter(|core, now| {
                core.pump(open, now);
                core.settle(open, now);
                let over = core.stack.is_idle() || core.stack.memory() == 0;
                (over, core.frame_fds(), core.stack.next_timeout())
            });
            let now = call::now();
            let Ok((false, fds @ [Some(_), _], next)) = step else { return };
            if now >= deadline {
                return;
            }
            let until = next.unwrap_or(deadline).min(deadline);
            let mut set =
                fds.map(|fd| libc::pollfd { fd: fd.unwrap_or(Fd::NONE).raw(), events: libc::POLLIN, revents: 0 });
            let _ = call::ppoll(&mut set, Some(until.since(now)), Some(&call::ALL_SIGNALS));
        }
    }
}

/// How long exit waits for acknowledgements where no keeper can be left: most of a retransmission or two.
const LEAVING_PATIENCE: Duration = Duration::from_secs(3);
