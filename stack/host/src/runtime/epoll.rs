//! Epoll sets: which of our sockets a set watches and which of them are ready, as fs/eventpoll.c keeps it: a ready list
//! that `collect` walks once, level-triggered entries going back to its end. Sets are shared by forked members, as the
//! epoll file is. The kernel's own descriptors in the same set are left to the kernel's epoll, and sleeping to `wait`.

use super::description::Watch;
use super::table::Table;
use super::{Core, DescriptionId, Holders, Open, ReadyEvent, SetError, SetId};
use crate::sys::call;
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
/// EPOLLINOUT_BITS.
const IN_OUT: u32 = (libc::EPOLLIN | libc::EPOLLOUT) as u32;
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
    /// Those of them that were told of an event and have not looked since.
    pub(super) told: u64,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Keys as the kernel's tree has them: (number, open file).
    by_key: BTreeMap<(i32, u32), u32>,
    ready: VecDeque<u32>,
    /// The eventfd that stands for the ready list in the kernel's part of the set, which another set watches.
    proxy: Option<u32>,
    /// Whether that eventfd is readable.
    proxy_rung: bool,
}

/// What an announcement did to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    /// The entry does not ask for it.
    Nothing,
    /// The entry is queued.
    Queued,
    /// So it is, and it is one with EPOLLEXCLUSIVE that uses up the wake-up if anyone sleeps on the set.
    Exclusive,
}

impl EpollSet {
    pub(super) fn new(holders: Holders) -> Self {
        Self {
            holders,
            waiters: 0,
            told: 0,
            entries: Vec::new(),
            free: Vec::new(),
            by_key: BTreeMap::new(),
            ready: VecDeque::new(),
            proxy: None,
            proxy_rung: false,
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

    /// Something has happened to a description (`ep_poll_callback`). `key` tells what, and who asked for other events
    /// does not hear of it; `readiness` is how the description is now.
    pub(super) fn announce(&mut self, index: u32, key: Readiness, readiness: Readiness) -> Announced {
        let Some(entry) = self.entry(index) else { return Announced::Nothing };
        if entry.wanted(key) == 0 || entry.wanted(readiness) == 0 {
            return Announced::Nothing;
        }
        let exclusive = entry.events & EXCLUSIVE != 0
            && match key.bits() & IN_OUT {
                0 | IN_OUT => true,
                one => entry.events & one != 0,
            };
        self.queue(index);
        if exclusive { Announced::Exclusive } else { Announced::Queued }
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
        let Some(sets) = self.sets.find_mut(set) else { return };
        if sets.announce(index, Readiness::all(), readiness) != Announced::Nothing {
            let (waiters, proxy) = (sets.waiters, sets.proxy);
            self.roster.ring(waiters);
            self.proxies_to_ring |= proxy.map_or(0, |proxy| 1 << proxy);
        }
    }

    /// Tells all sets that watch a description what has happened to it. Of entries with EPOLLEXCLUSIVE those after the
    /// first with a sleeper hear nothing (`__wake_up_common`).
    pub(super) fn announce_to_sets(&mut self, id: DescriptionId, key: Readiness, readiness: Readiness) {
        let Some(description) = self.descriptions.find(id) else { return };
        let mut used_up = false;
        for watch in &description.watches {
            let Some(set) = self.sets.find_mut(watch.set) else { continue };
            if used_up && set.entry(watch.entry).is_some_and(|entry| entry.events & EXCLUSIVE != 0) {
                continue;
            }
            let announced = set.announce(watch.entry, key, readiness);
            if announced == Announced::Nothing {
                continue;
            }
            // Who was told before and has not looked since sleeps no more.
            let asleep = set.waiters & !set.told;
            set.told |= set.waiters;
            self.roster.ring(set.waiters);
            self.proxies_to_ring |= set.proxy.map_or(0, |proxy| 1 << proxy);
            used_up |= announced == Announced::Exclusive && asleep != 0;
        }
    }

    /// Gives a set an eventfd to be seen by in the kernel's epoll; `None` when there is none left.
    pub(super) fn set_take_proxy(&mut self, open: &Open, set: SetId) -> Option<u32> {
        let sets = self.sets.find_mut(set)?;
        if sets.proxy.is_some() {
            return sets.proxy;
        }
        let index = self.free_proxies.trailing_zeros();
        if index >= u64::BITS {
            return None;
        }
        self.free_proxies &= !(1 << index);
        if let Some(fd) = open.proxy(index) {
            // What it still had from a former set.
            open.consistently(|| call::eventfd_drain(fd));
        }
        sets.proxy = Some(index);
        if !sets.ready.is_empty() {
            self.proxies_to_ring |= 1 << index;
        }
        Some(index)
    }

    /// Makes the eventfds of sets readable to whose ready list something has come. Each write is an edge, as each event
    /// of the inner set is.
    pub(super) fn ring_proxies(&mut self, open: &Open) {
        let rings = std::mem::take(&mut self.proxies_to_ring);
        if rings == 0 {
            return;
        }
        for set in self.sets.values_mut() {
            let Some(index) = set.proxy.filter(|index| rings & 1 << index != 0) else { continue };
            if let Some(fd) = open.proxy(index) {
                set.proxy_rung = true;
                open.consistently(|| call::eventfd_ring(fd));
            }
        }
    }

    /// Makes the eventfds of sets unreadable that have nothing ready any more: to be called before the kernel is asked.
    pub(super) fn refresh_proxies(&mut self, open: &Open) {
        for index in 0..self.sets.places() {
            let Some(id) = self.sets.name_at::<SetId>(index) else { continue };
            let Some(set) = self.sets.find(id).filter(|set| set.proxy_rung) else { continue };
            let Some(fd) = set.proxy.and_then(|proxy| open.proxy(proxy)) else { continue };
            if !self.set_is_ready(id) {
                open.consistently(|| call::eventfd_drain(fd));
                if let Some(set) = self.sets.find_mut(id) {
                    set.proxy_rung = false;
                }
            }
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
        if let Some(proxy) = sets.proxy {
            self.free_proxies |= 1 << proxy;
            self.proxies_to_ring &= !(1 << proxy);
        }
        for (entry, id) in sets.watched() {
            if let Some(description) = self.descriptions.find_mut(id) {
                description.watches.retain(|watch| *watch != Watch { set, entry });
            }
        }
        self.roster.ring(sets.waiters);
    }
}

/// The sets of a family.
pub(super) type Sets = Table<EpollSet>;
