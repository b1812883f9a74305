//! Epoll sets: which of our sockets a set watches and which of them are ready, as fs/eventpoll.c keeps it: a ready list
//! that `collect` walks once, level-triggered entries going back to its end. Sets are shared by forked members, as the
//! epoll file is. The kernel's own descriptors in the same set are left to the kernel's epoll, and sleeping to `wait`.

use super::description::Watch;
use super::table::Table;
use super::{Core, DescriptionId, Holders, ReadyEvent, SetError, SetId};
use remora_stack::socket::protocol::Readiness;
use std::collections::{BTreeMap, VecDeque};

/// Reported whether asked for or not (`do_epoll_ctl` adds them).
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
const WAKE_UP: u32 = libc::EPOLLWAKEUP as u32;
/// Bits that are no events (EP_PRIVATE_BITS).
const PRIVATE: u32 = EDGE | ONE_SHOT | EXCLUSIVE | WAKE_UP;
/// What may stand beside EPOLLEXCLUSIVE (EPOLLEXCLUSIVE_OK_BITS).
const EXCLUSIVE_OK: u32 = (libc::EPOLLIN | libc::EPOLLOUT) as u32 | ALWAYS | WAKE_UP | EDGE | EXCLUSIVE;

/// One watch: struct epitem.
#[derive(Debug)]
struct Entry {
    fd: i32,
    description: DescriptionId,
    /// The events asked for with their flags; only flags are left once a one-shot has fired.
    events: u32,
    data: u64,
    queued: bool,
}

impl Entry {
    /// What of a poll mask this watch reports.
    fn wanted(&self, readiness: Readiness) -> u32 {
        readiness.bits() & self.events & !PRIVATE
    }
}

/// A set: struct eventpoll.
#[derive(Debug)]
pub(super) struct EpollSet {
    pub(super) holders: Holders,
    /// Bells of those who sleep on the set.
    pub(super) waiters: u64,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Keys as the kernel's tree has them: (number, open file).
    by_key: BTreeMap<(i32, u32), u32>,
    ready: VecDeque<u32>,
}

impl EpollSet {
    pub(super) fn new(holders: Holders) -> Self {
        Self {
            holders,
            waiters: 0,
            entries: Vec::new(),
            free: Vec::new(),
            by_key: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    fn entry(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize).and_then(Option::as_ref)
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize).and_then(Option::as_mut)
    }

    fn queue(&mut self, index: u32) -> bool {
        let Some(entry) = self.entry_mut(index) else { return false };
        if entry.queued {
            return false;
        }
        entry.queued = true;
        self.ready.push_back(index);
        true
    }

    /// A description has changed (`ep_poll_callback`). Says whether sleepers are to be rung.
    pub(super) fn announce(&mut self, index: u32, readiness: Readiness) -> bool {
        let matches = self.entry(index).is_some_and(|entry| entry.wanted(readiness) != 0);
        if matches {
            self.queue(index);
        }
        matches
    }

    fn remove_entry(&mut self, index: u32) -> Option<Entry> {
        let entry = self.entries.get_mut(index as usize)?.take()?;
        self.by_key.remove(&(entry.fd, entry.description.index));
        if entry.queued {
            self.ready.retain(|queued| *queued != index);
        }
        self.free.push(index);
        Some(entry)
    }

    pub(super) fn drop_entry(&mut self, index: u32) {
        self.remove_entry(index);
    }

    pub(super) fn watched(&self) -> impl Iterator<Item = (u32, DescriptionId)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| entry.as_ref().map(|entry| (index as u32, entry.description)))
    }
}

impl Core {
    /// EPOLL_CTL_ADD (`ep_insert`).
    pub(super) fn set_add(
        &mut self,
        set: SetId,
        fd: i32,
        id: DescriptionId,
        events: u32,
        data: u64,
    ) -> Result<(), SetError> {
        if events & EXCLUSIVE != 0 && events & !EXCLUSIVE_OK != 0 {
            return Err(SetError::Invalid);
        }
        let description = self.descriptions.find_mut(id).ok_or(SetError::NotFound)?;
        let sets = self.sets.find_mut(set).ok_or(SetError::NotFound)?;
        if let Some(index) = sets.by_key.get(&(fd, id.index)).copied() {
            if sets.entry(index).is_some_and(|entry| entry.description == id) {
                return Err(SetError::Exists);
            }
            sets.remove_entry(index);
        }
        let entry = Entry { fd, description: id, events: events | ALWAYS, data, queued: false };
        let index = match sets.free.pop() {
            Some(index) => index,
            None => {
                sets.entries.push(None);
                u32::try_from(sets.entries.len() - 1).map_err(|_| SetError::NoMemory)?
            }
        };
        sets.by_key.insert((fd, id.index), index);
        if let Some(place) = sets.entries.get_mut(index as usize) {
            *place = Some(entry);
        }
        description.watches.push(Watch { set, entry: index });
        self.evaluate(set, index);
        Ok(())
    }

    /// EPOLL_CTL_MOD (`ep_modify`).
    pub(super) fn set_modify(
        &mut self,
        set: SetId,
        fd: i32,
        id: DescriptionId,
        events: u32,
        data: u64,
    ) -> Result<(), SetError> {
        let sets = self.sets.find_mut(set).ok_or(SetError::NotFound)?;
        let index = sets.by_key.get(&(fd, id.index)).copied().ok_or(SetError::NotFound)?;
        let entry = sets.entry_mut(index).filter(|entry| entry.description == id).ok_or(SetError::NotFound)?;
        if (events | entry.events) & EXCLUSIVE != 0 {
            return Err(SetError::Invalid);
        }
        entry.events = events | ALWAYS;
        entry.data = data;
        self.evaluate(set, index);
        Ok(())
    }

    /// EPOLL_CTL_DEL (`ep_remove`).
    pub(super) fn set_delete(&mut self, set: SetId, fd: i32, id: DescriptionId) -> Result<(), SetError> {
        let sets = self.sets.find_mut(set).ok_or(SetError::NotFound)?;
        let index = sets.by_key.get(&(fd, id.index)).copied().ok_or(SetError::NotFound)?;
        if sets.entry(index).is_none_or(|entry| entry.description != id) {
            return Err(SetError::NotFound);
        }
        sets.remove_entry(index);
        if let Some(description) = self.descriptions.find_mut(id) {
            description.watches.retain(|watch| *watch != Watch { set, entry: index });
        }
        Ok(())
    }

    /// Queues an entry that is ready as it is now, and rings those who sleep on its set.
    fn evaluate(&mut self, set: SetId, index: u32) {
        let Some(id) = self.sets.find(set).and_then(|sets| sets.entry(index)).map(|entry| entry.description) else {
            return;
        };
        let readiness = self.readiness(id);
        if let Some(sets) = self.sets.find_mut(set)
            && sets.announce(index, readiness)
        {
            let waiters = sets.waiters;
            self.ring(waiters);
        }
    }

    /// What an entry reports now; `None` when it is not ready.
    fn report(&self, set: SetId, index: u32) -> Option<ReadyEvent> {
        let entry = self.sets.find(set)?.entry(index)?;
        let events = entry.wanted(self.readiness(entry.description));
        (events != 0).then_some(ReadyEvent { events, data: entry.data })
    }

    /// Fills `out` with what is ready (`ep_send_events`) and returns how many there are. Each entry is looked at once.
    pub(super) fn set_collect(&mut self, set: SetId, out: &mut [ReadyEvent]) -> usize {
        let mut filled = 0;
        let Some(mut left) = self.sets.find(set).map(|sets| sets.ready.len()) else { return 0 };
        while let Some(place) = out.get_mut(filled)
            && left > 0
        {
            left -= 1;
            let Some(index) = self.sets.find_mut(set).and_then(|sets| sets.ready.pop_front()) else { break };
            let report = self.report(set, index);
            let Some(sets) = self.sets.find_mut(set) else { break };
            let Some(entry) = sets.entry_mut(index) else { continue };
            entry.queued = false;
            let Some(event) = report else { continue };
            *place = event;
            filled += 1;
            if entry.events & ONE_SHOT != 0 {
                entry.events &= PRIVATE;
            } else if entry.events & EDGE == 0 {
                sets.queue(index);
            }
        }
        filled
    }

    /// Whether a collect would give something; entries that are ready no more leave the list.
    pub(super) fn set_is_ready(&mut self, set: SetId) -> bool {
        while let Some(index) = self.sets.find(set).and_then(|sets| sets.ready.front().copied()) {
            if self.report(set, index).is_some() {
                return true;
            }
            if let Some(sets) = self.sets.find_mut(set) {
                sets.ready.pop_front();
                if let Some(entry) = sets.entry_mut(index) {
                    entry.queued = false;
                }
            }
        }
        false
    }

    /// The registrations of a description in a set, for its hand-over to the kernel's epoll: (number, events, data).
    pub(super) fn set_entries(&self, set: SetId, id: DescriptionId, visit: &mut dyn FnMut(i32, u32, u64)) {
        let Some(sets) = self.sets.find(set) else { return };
        for entry in sets.entries.iter().flatten().filter(|entry| entry.description == id) {
            visit(entry.fd, entry.events, entry.data);
        }
    }

    /// The last descriptor of a set has gone (`ep_free`).
    pub(super) fn destroy_set(&mut self, set: SetId) {
        let Some(sets) = self.sets.remove(set) else { return };
        for (entry, id) in sets.watched() {
            if let Some(description) = self.descriptions.find_mut(id) {
                description.watches.retain(|watch| *watch != Watch { set, entry });
            }
        }
        self.ring(sets.waiters);
    }
}

/// The sets of a family.
pub(super) type Sets = Table<EpollSet>;
