//! Open file descriptions of our sockets: what fork and dup share. Each counts its holders per process slot, so that the
//! last close among all members closes the socket, and knows who sleeps on it and which epoll sets watch it.

use super::epoll::EpollSet;
use super::handle::HandleId;
use super::member::SlotId;
use super::owner::Owner;
use super::registry::PortKey;
use super::table::Table;
use super::{Core, DescriptionId, Open, SetId};
use remora_stack::socket::protocol::{AddressFamily, Readiness, SocketId, SocketType};
use remora_stack::time::Instant;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU32, Ordering};

/// Who holds something, and how often: (slot, count). Most things have one holder.
#[derive(Debug, Default)]
pub(super) struct Holders(SmallVec<[(SlotId, u32); 2]>);

impl Holders {
    pub(super) fn one(slot: SlotId) -> Self {
        let mut holders = Self::default();
        holders.add(slot, 1);
        holders
    }

    pub(super) fn add(&mut self, slot: SlotId, count: u32) {
        match self.0.iter_mut().find(|(who, _)| *who == slot) {
            Some((_, held)) => *held = held.saturating_add(count),
            None if count > 0 => self.0.push((slot, count)),
            None => {}
        }
    }

    /// One less; says whether nobody is left.
    pub(super) fn drop_one(&mut self, slot: SlotId) -> bool {
        if let Some((_, held)) = self.0.iter_mut().find(|(who, _)| *who == slot) {
            *held = held.saturating_sub(1);
        }
        self.0.retain(|(_, held)| *held > 0);
        self.0.is_empty()
    }

    pub(super) fn count(&self, slot: SlotId) -> u32 {
        self.0.iter().find(|(who, _)| *who == slot).map_or(0, |(_, held)| *held)
    }

    /// How many descriptors there are in all members together.
    pub(super) fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, (_, held)| sum.saturating_add(*held))
    }

    /// Sets what a slot holds; says whether nobody is left.
    pub(super) fn set(&mut self, slot: SlotId, count: u32) -> bool {
        self.0.retain(|(who, _)| *who != slot);
        self.add(slot, count);
        self.0.is_empty()
    }
}

/// One watch of an epoll set on a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) set: SetId,
    pub(super) entry: u32,
}

/// What a socket is, for hand-overs and bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKind {
    /// Its address family.
    pub family: AddressFamily,
    /// Its type.
    pub kind: SocketType,
    /// Its protocol number as given or found.
    pub protocol: u8,
}

/// An open file description.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) socket: SocketId,
    pub(super) kind: SocketKind,
    pub(super) holders: Holders,
    /// Bells of those who sleep on it.
    pub(super) waiters: u64,
    pub(super) watches: SmallVec<[Watch; 1]>,
    /// Handles that the keeper pumps for it.
    pub(super) handles: SmallVec<[HandleId; 1]>,
    /// The port that it was bound to by name, if any.
    pub(super) claim: Option<PortKey>,
    /// Whom its events signal.
    pub(super) owner: Option<Owner>,
    nonblocking: bool,
}

/// How many descriptions have their O_NONBLOCK where it can be read without the lock.
const FAST_FLAGS: usize = 2048;

/// O_NONBLOCK of the first descriptions: generation and flag in one word, readable without the lock.
#[derive(Debug)]
pub(super) struct FastFlags(Box<[AtomicU32]>);

impl FastFlags {
    pub(super) fn new() -> Self {
        Self((0..FAST_FLAGS).map(|_| AtomicU32::new(0)).collect())
    }

    fn set(&self, id: DescriptionId, nonblocking: bool) {
        if let Some(word) = self.0.get(id.index as usize) {
            word.store(id.generation << 1 | u32::from(nonblocking), Ordering::Release);
        }
    }

    /// The flag, unless it has to be looked up.
    pub(super) fn read(&self, id: DescriptionId) -> Option<bool> {
        let word = self.0.get(id.index as usize)?.load(Ordering::Acquire);
        (word >> 1 == id.generation << 1 >> 1).then_some(word & 1 != 0)
    }
}

/// All descriptions of a family.
#[derive(Debug)]
pub(super) struct Descriptions {
    table: Table<Description>,
    /// Which description a socket belongs to, by the socket's place: index and generation of the description.
    by_socket: Vec<Option<DescriptionId>>,
}

impl Descriptions {
    pub(super) const fn new() -> Self {
        Self { table: Table::new(), by_socket: Vec::new() }
    }

    pub(super) fn find(&self, id: DescriptionId) -> Option<&Description> {
        self.table.find(id)
    }

    pub(super) fn find_mut(&mut self, id: DescriptionId) -> Option<&mut Description> {
        self.table.find_mut(id)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// All with their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (DescriptionId, &Description)> {
        let names = (0..self.table.places()).filter_map(|index| self.table.name_at(index));
        names.filter_map(|id| Some((id, self.table.find(id)?)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Description> {
        self.table.values()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Description> {
        self.table.values_mut()
    }

    /// All names, for walks that change the table.
    pub(super) fn names(&self) -> impl Iterator<Item = DescriptionId> + use<> {
        let names: Vec<DescriptionId> =
            (0..self.table.places()).filter_map(|index| self.table.name_at(index)).collect();
        names.into_iter()
    }

    /// Whose socket this is.
    pub(super) fn owner(&self, socket: SocketId) -> Option<DescriptionId> {
        let id = self.by_socket.get(socket.index as usize).copied().flatten()?;
        self.find(id).filter(|description| description.socket == socket).map(|_| id)
    }

    fn insert(&mut self, description: Description) -> DescriptionId {
        let place = description.socket.index as usize;
        let id = self.table.insert(description);
        if self.by_socket.len() <= place {
            self.by_socket.resize(place + 1, None);
        }
        if let Some(owner) = self.by_socket.get_mut(place) {
            *owner = Some(id);
        }
        id
    }
}

impl Core {
    /// Makes a description for a socket, held once by `slot`.
    pub(super) fn describe(
        &mut self,
        open: &Open,
        slot: SlotId,
        socket: SocketId,
        kind: SocketKind,
        nonblocking: bool,
    ) -> DescriptionId {
        if kind.kind == SocketType::Raw {
            self.raw_sockets += 1;
            self.registry.filter_again();
        }
        let id = self.descriptions.insert(Description {
            socket,
            kind,
            holders: Holders::one(slot),
            waiters: 0,
            watches: SmallVec::new(),
            handles: SmallVec::new(),
            claim: None,
            owner: None,
            nonblocking,
        });
        open.flags.set(id, nonblocking);
        id
    }

    pub(super) fn nonblocking(&self, id: DescriptionId) -> bool {
        self.descriptions.find(id).is_some_and(|description| description.nonblocking)
    }

    pub(super) fn set_nonblocking(&mut self, open: &Open, id: DescriptionId, nonblocking: bool) {
        if let Some(description) = self.descriptions.find_mut(id) {
            description.nonblocking = nonblocking;
            open.flags.set(id, nonblocking);
        }
    }

    pub(super) fn socket_of(&self, id: DescriptionId) -> Option<SocketId> {
        self.descriptions.find(id).map(|description| description.socket)
    }

    /// The poll mask of a description; a closed one is an error and hung up.
    pub(super) fn readiness(&self, id: DescriptionId) -> Readiness {
        match self.socket_of(id) {
            Some(socket) => self.stack.readiness(socket),
            None => Readiness::ERR | Readiness::HUP,
        }
    }

    /// One descriptor of this process has been closed.
    pub(super) fn release(&mut self, now: Instant, slot: SlotId, id: DescriptionId) {
        let Some(description) = self.descriptions.find_mut(id) else { return };
        if description.holders.drop_one(slot) {
            self.end_unless_awaited(now, id);
        } else {
            self.handles_are_due(id);
        }
    }

    /// Who holds a description has changed, and with it who may take what arrives.
    pub(super) fn handles_are_due(&mut self, id: DescriptionId) {
        let Some(description) = self.descriptions.find(id).filter(|description| !description.handles.is_empty()) else {
            return;
        };
        for handle in description.handles.clone() {
            self.handle_is_due(handle);
        }
    }

    pub(super) fn release_set(&mut self, slot: SlotId, id: SetId) {
        let Some(set): Option<&mut EpollSet> = self.sets.find_mut(id) else { return };
        if set.holders.drop_one(slot) {
            self.destroy_set(id);
        }
    }

    /// A description without holders ends, unless somebody sleeps on it: as the kernel keeps the file of a poll under way,
    /// the last of them ends it.
    pub(super) fn end_unless_awaited(&mut self, now: Instant, id: DescriptionId) {
        let found = self.descriptions.find(id);
        if found.is_some_and(|description| description.waiters == 0 && description.holders.total() == 0) {
            self.destroy(now, id);
        }
    }

    /// The last holder has gone: closes the socket as Linux's `sock_close` does.
    pub(super) fn destroy(&mut self, now: Instant, id: DescriptionId) {
        let Some(description) = self.descriptions.table.remove(id) else { return };
        for Watch { set, entry } in description.watches {
            if let Some(set) = self.sets.find_mut(set) {
                set.drop_entry(entry);
            }
        }
        self.roster.ring(description.waiters);
        if description.kind.kind == SocketType::Raw {
            self.raw_sockets = self.raw_sockets.saturating_sub(1);
            self.registry.filter_again();
        }
        self.stack.close(now, description.socket);
        if let Some(owner) = self.descriptions.by_socket.get_mut(description.socket.index as usize)
            && *owner == Some(id)
        {
            *owner = None;
        }
        if let Some(key) = description.claim {
            self.release_port(key);
        }
    }

    /// Forgets a description whose socket lives on in the kernel: nothing goes out on the wire for a fresh socket.
    pub(super) fn forget(&mut self, now: Instant, id: DescriptionId) {
        self.destroy(now, id);
    }
}
