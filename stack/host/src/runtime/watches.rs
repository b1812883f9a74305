//! Whom the keeper watches, and by what: a member's lifeline, which hangs up with its process image, or, of members that
//! made themselves known to no keeper (forked before there was one, or a moment ago), the process by its number. A slot
//! is made before its process: the number may be the parent's at first, whose end says nothing of the child.

use super::member::SlotId;
use crate::sys::{Fd, call};

/// Tells watches apart: descriptor numbers are used again, in the same turn even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatchId(u64);

/// By what a member is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Lifeline,
    /// Its process, by this number.
    Process(i32),
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    id: WatchId,
    slot: SlotId,
    by: By,
    /// A lifeline, or a pidfd, or `NONE` where there is none to be had.
    fd: Fd,
}

/// A member that has gone, as far as a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// The image of the slot.
    Member(SlotId),
    /// The process of this number, which the slot was said to be: it may be another by now, to be watched anew.
    Process(SlotId, i32),
}

/// The watched members.
#[derive(Debug, Default)]
pub(super) struct Watches {
    all: Vec<Watch>,
    made: u64,
}

impl Watches {
    fn add(&mut self, slot: SlotId, by: By, fd: Fd) {
        self.made += 1;
        self.all.push(Watch { id: WatchId(self.made), slot, by, fd });
    }

    /// A member has made itself known: its lifeline tells of it from now on.
    pub(super) fn join(&mut self, slot: SlotId, lifeline: Fd) {
        self.all.retain(|watch| {
            let stays = watch.slot != slot || watch.by == By::Lifeline;
            if !stays && watch.fd.is_some() {
                let _ = call::close(watch.fd);
            }
            stays
        });
        self.add(slot, By::Lifeline, lifeline);
    }

    /// Watches a member by its process.
    pub(super) fn watch_process(&mut self, slot: SlotId, pid: i32, fd: Fd) {
        self.add(slot, By::Process(pid), fd);
    }

    pub(super) fn knows(&self, slot: SlotId) -> bool {
        self.all.iter().any(|watch| watch.slot == slot)
    }

    pub(super) fn has_lifeline(&self, slot: SlotId) -> bool {
        self.all.iter().any(|watch| watch.slot == slot && watch.by == By::Lifeline)
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether no descriptor will tell of a member's end.
    pub(super) fn tell_nothing(&self) -> bool {
        self.all.iter().all(|watch| !watch.fd.is_some())
    }

    /// What is readable when a member has gone: nothing is ever sent on a lifeline.
    pub(super) fn fds(&self) -> impl Iterator<Item = (WatchId, Fd)> {
        self.all.iter().map(|watch| (watch.id, watch.fd))
    }

    /// A watch has told its end. `None` when it is over already, or a later lifeline speaks for the slot.
    pub(super) fn told(&mut self, id: WatchId) -> Option<Gone> {
        let place = self.all.iter().position(|watch| watch.id == id)?;
        let Watch { slot, by, fd, .. } = self.all.swap_remove(place);
        let _ = call::close(fd);
        match by {
            _ if self.has_lifeline(slot) => None,
            By::Lifeline => Some(Gone::Member(slot)),
            By::Process(pid) => Some(Gone::Process(slot, pid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn slot(index: u16) -> SlotId {
        SlotId { index, generation: 1 }
    }

    /// Numbers that no descriptor of the test has.
    const fn fd(number: i32) -> Fd {
        Fd(1_000_000 + number)
    }

    fn of(watches: &Watches, fd: Fd) -> WatchId {
        watches.fds().find(|(_, one)| *one == fd).unwrap().0
    }

    #[test]
    fn parent_that_ends_before_its_childs_lifeline_is_read_does_not_take_the_child_with_it() {
        let mut watches = Watches::default();
        // The slot is made, with the parent's number; the keeper looks; the lifeline comes as the parent ends.
        watches.watch_process(slot(1), 100, fd(1));
        let process = of(&watches, fd(1));
        watches.join(slot(1), fd(2));
        assert_eq!(watches.told(process), None);
        assert!(watches.has_lifeline(slot(1)) && watches.len() == 1);
        assert_eq!(watches.told(of(&watches, fd(2))), Some(Gone::Member(slot(1))));
        assert!(!watches.knows(slot(1)) && watches.tell_nothing());
    }

    #[test]
    fn number_of_a_watch_that_is_over_may_be_another_members() {
        let mut watches = Watches::default();
        watches.watch_process(slot(1), 100, fd(1));
        let process = of(&watches, fd(1));
        watches.join(slot(1), fd(2));
        watches.join(slot(2), fd(1));
        assert_eq!(watches.told(process), None);
        assert!(watches.has_lifeline(slot(2)));
    }

    #[test]
    fn later_lifeline_speaks_for_the_slot() {
        let mut watches = Watches::default();
        for (of, line) in [(0, 1), (1, 2), (1, 3)] {
            watches.join(slot(of), fd(line));
        }
        let [first, second, third] = [1, 2, 3].map(|line| of(&watches, fd(line)));
        assert_eq!(watches.told(first), Some(Gone::Member(slot(0))));
        assert_eq!((watches.told(second), watches.told(second)), (None, None));
        assert_eq!(watches.told(third), Some(Gone::Member(slot(1))));
    }

    #[test]
    fn process_without_a_lifeline_is_told_by_its_number() {
        let mut watches = Watches::default();
        watches.watch_process(slot(1), 100, Fd::NONE);
        assert!(watches.tell_nothing() && watches.knows(slot(1)));
        watches.watch_process(slot(2), 101, fd(1));
        assert_eq!(watches.told(of(&watches, fd(1))), Some(Gone::Process(slot(2), 101)));
    }
}
