//! Members of a family: the process and the children that it forks, each with a slot. A slot says what its process
//! holds. The keeper holds the other end of each member's lifeline, a socket pair that is closed with the process image
//! (exit, kill, exec), and gives up what the slot held. A child's slot is made before the fork, so that nothing is
//! closed between the parent's last close and the child's first step.

use super::keeper::{Message, send_to_keeper};
use super::{Core, DescriptionId, Runtime, SetId};
use crate::sys::{Errno, Fd, call};
use remora_stack::time::Instant;
use std::sync::atomic::{AtomicI32, Ordering};

/// Most processes of one family at a time.
pub(super) const MAX_MEMBERS: usize = 4096;

/// A process slot. Used again only after the generation has moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId {
    pub(super) index: u16,
    pub(super) generation: u16,
}

impl SlotId {
    /// No slot: holds nothing.
    pub(super) const NONE: Self = Self { index: u16::MAX, generation: 0 };

    /// The keeper, which is no member.
    pub(super) const KEEPER: Self = Self { index: u16::MAX - 1, generation: 0 };

    /// All who hold handles, together; no member either.
    pub(super) const STRANGERS: Self = Self { index: u16::MAX - 2, generation: 0 };

    pub(super) const fn pack(self) -> u32 {
        (self.index as u32) << 16 | self.generation as u32
    }

    pub(super) const fn unpack(word: u32) -> Self {
        Self { index: (word >> 16) as u16, generation: word as u16 }
    }
}

/// A slot in the table.
#[derive(Debug)]
pub(super) struct Member {
    generation: u16,
    taken: bool,
    /// One word, so that a process that is killed while it says who it is leaves the table whole.
    pid: AtomicI32,
}

/// What a fork needs to remember from before to after; both processes have it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ForkTicket {
    slot: SlotId,
    lifeline: Fd,
    parent: i32,
}

impl Member {
    pub(super) const fn is_taken(&self) -> bool {
        self.taken
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }
}

impl Core {
    /// A free slot; `NONE` when there are too many members (then its process's death is not noticed).
    pub(super) fn take_slot(&mut self, pid: i32) -> SlotId {
        let free = self.members.iter().position(|member| !member.taken);
        let index = match free {
            Some(index) => index,
            None if self.members.len() < MAX_MEMBERS => {
                self.members.push(Member { generation: 0, taken: false, pid: AtomicI32::new(0) });
                self.members.len() - 1
            }
            None => return SlotId::NONE,
        };
        let Some(member) = self.members.get_mut(index) else { return SlotId::NONE };
        let generation = member.generation.wrapping_add(1);
        *member = Member { generation, taken: true, pid: AtomicI32::new(pid) };
        SlotId { index: index as u16, generation: member.generation }
    }

    pub(super) fn is_member(&self, slot: SlotId) -> bool {
        self.members.get(slot.index as usize).is_some_and(|m| m.taken && m.generation == slot.generation)
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.iter().filter(|member| member.taken).count()
    }

    /// Members with their processes, but for those that `known` tells of.
    pub(super) fn members_not(&self, known: impl Fn(SlotId) -> bool) -> impl Iterator<Item = (SlotId, i32)> {
        (0u16..)
            .zip(&self.members)
            .filter(|(_, member)| member.taken && member.pid() > 0)
            .map(|(index, member)| (SlotId { index, generation: member.generation }, member.pid()))
            .filter(move |(slot, _)| !known(*slot))
    }

    /// Without a member, only strangers hold anything: what else is left was held by a process that had no slot, or
    /// died while it got one.
    pub(super) fn drop_left_overs(&mut self, now: Instant) {
        if self.member_count() > 0 {
            return;
        }
        for id in self.descriptions.names() {
            let held = self.descriptions.find(id).is_some_and(|it| it.holders.count(SlotId::STRANGERS) > 0);
            if !held {
                self.destroy(now, id);
            }
        }
    }

    pub(super) fn pid_of(&self, slot: SlotId) -> Option<i32> {
        self.members.get(slot.index as usize).filter(|_| self.is_member(slot)).map(Member::pid)
    }

    fn set_pid(&self, slot: SlotId, pid: i32) {
        if let Some(member) = self.members.get(slot.index as usize).filter(|_| self.is_member(slot)) {
            member.pid.store(pid, Ordering::Relaxed);
        }
    }

    /// Gives `child` all that `parent` holds.
    fn copy_holdings(&mut self, parent: SlotId, child: SlotId) {
        for description in self.descriptions.values_mut() {
            let count = description.holders.count(parent);
            description.holders.add(child, count);
        }
        for set in self.sets.values_mut() {
            let count = set.holders.count(parent);
            set.holders.add(child, count);
        }
    }

    /// Gives up what processes held that are gone by their pid, where no lifeline tells of them.
    pub(super) fn drop_dead_members(&mut self, now: Instant) {
        let dead: Vec<SlotId> = (0u16..)
            .zip(&self.members)
            .filter(|(_, member)| member.taken && member.pid() > 0)
            .filter(|(_, member)| call::kill(member.pid(), 0) == Err(Errno(libc::ESRCH)))
            .map(|(index, member)| SlotId { index, generation: member.generation })
            .collect();
        for slot in dead {
            self.drop_member(now, slot);
        }
    }

    /// A process has gone: what it alone held is closed, its sleepers are forgotten, its slot is free.
    pub(super) fn drop_member(&mut self, now: Instant, slot: SlotId) {
        if !self.is_member(slot) {
            return;
        }
        self.forget_sleepers_of(now, slot);
        self.roster.ring_again();
        let lost = self.registry.lose_claims_of(slot);
        let gone: Vec<DescriptionId> = self
            .descriptions
            .names()
            .filter(|id| {
                self.descriptions.find_mut(*id).is_some_and(|it| it.holders.count(slot) > 0 && it.holders.set(slot, 0))
            })
            .collect();
        for id in gone {
            self.end_unless_awaited(now, id);
        }
        self.keep_lingering(&lost);
        if !self.handles.is_empty() {
            for id in self.descriptions.names() {
                self.handles_are_due(id);
            }
        }
        for index in 0..self.sets.places() {
            let Some(id) = self.sets.name_at::<SetId>(index) else { continue };
            let gone = self.sets.find_mut(id).is_some_and(|it| it.holders.count(slot) > 0 && it.holders.set(slot, 0));
            if gone {
                self.destroy_set(id);
            }
        }
        if let Some(member) = self.members.get_mut(slot.index as usize) {
            member.taken = false;
        }
    }
}

impl Runtime {
    /// Makes this process known to the keeper, once for each keeper.
    pub(super) fn join_keeper(&self) {
        let keeper = self.family.open().keeper_generation();
        if keeper == 0 || self.joined_keeper.swap(keeper) == keeper {
            return;
        }
        let Some(lifeline) = self.make_lifeline(self.slot()) else { return };
        let old = Fd(self.lifeline.swap(lifeline.raw() as u32) as i32);
        if old.is_some() {
            let _ = call::close(old);
        }
        self.hand_over_claims();
    }

    /// A lifeline whose other end the keeper has.
    fn make_lifeline(&self, slot: SlotId) -> Option<Fd> {
        let (near, far) =
            call::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).ok()?;
        let near = call::raise_high(near, call::private_floor());
        let sent = send_to_keeper(self.family.open(), Message::Join(slot), &[far]);
        let _ = call::close(far);
        match near {
            Ok(near) if sent => Some(near),
            Ok(near) => {
                let _ = call::close(near);
                None
            }
            Err(_) => None,
        }
    }

    /// To be called before fork: makes a slot for the child that holds what this process holds.
    pub fn before_fork(&self) -> ForkTicket {
        self.prepare_for_fork();
        // Until there is a child, its slot lives and dies with this process.
        let (own, parent) = (self.slot(), call::getpid());
        let slot = self
            .enter(|core, _| {
                let slot = core.take_slot(parent);
                core.copy_holdings(own, slot);
                slot
            })
            .unwrap_or(SlotId::NONE);
        let keeper = self.family.open().keeper_generation();
        let lifeline = if keeper == 0 { None } else { self.make_lifeline(slot) };
        ForkTicket { slot, lifeline: lifeline.unwrap_or(Fd::NONE), parent }
    }

    /// To be called after fork in the parent; `None` when there is no child: then the child's slot is given back.
    pub fn after_fork_parent(&self, ticket: ForkTicket, child: Option<i32>) {
        let ForkTicket { slot, lifeline, .. } = ticket;
        let _ = match child {
            // A fork inside libc does not tell: the child says it.
            Some(0) => Ok(()),
            Some(pid) => self.look(|core| core.set_pid(slot, pid)),
            None => self.enter(|core, now| core.drop_member(now, slot)),
        };
        if lifeline.is_some() {
            let _ = call::close(lifeline);
        }
    }

    /// To be called after fork in the child, which becomes a member of its own. Nothing is changed under the lock but
    /// the number of the process: whoever is killed as soon as it is there leaves the family whole.
    pub fn after_fork_child(&self, ticket: ForkTicket) {
        let ForkTicket { slot, lifeline, parent } = ticket;
        self.set_slot(slot);
        let parents = Fd(self.lifeline.swap(lifeline.raw() as u32) as i32);
        if parents.is_some() {
            let _ = call::close(parents);
        }
        self.joined_keeper.store(if lifeline.is_some() { self.family.open().keeper_generation() } else { 0 });
        // The parent says so too, and has the last word: it counts processes as the keeper does, which a child that
        // sees no parent, in a pid namespace of its own, does not.
        let pid = call::getpid();
        if call::getppid() != 0 {
            let _ = self.look(|core| {
                if core.pid_of(slot) == Some(parent) {
                    core.set_pid(slot, pid);
                }
            });
        }
        self.join_keeper();
    }

    /// Puts right what this process holds, from its own list: after a fork beside which other threads opened or closed
    /// descriptors. `next` gives each description once with its number of descriptors.
    pub fn reconcile(&self, next: &mut dyn FnMut() -> Option<(DescriptionId, u32)>) {
        let slot = self.slot();
        let mut listed: Vec<(DescriptionId, u32)> = Vec::new();
        while let Some(one) = next() {
            listed.push(one);
        }
        let count_of = |id| listed.iter().find(|(name, _)| *name == id).map_or(0, |(_, count)| *count);
        let is_right = self.look(|core| core.descriptions.all().all(|(id, it)| it.holders.count(slot) == count_of(id)));
        if is_right == Ok(true) {
            return;
        }
        let _ = self.enter(|core, now| {
            for id in core.descriptions.names() {
                let count = count_of(id);
                let gone = core
                    .descriptions
                    .find_mut(id)
                    .is_some_and(|it| it.holders.count(slot) != count && it.holders.set(slot, count));
                if gone {
                    core.destroy(now, id);
                }
            }
        });
    }
}
