//! The order of locks, in one place. A thread takes a lock only while all that it holds stand before it in [`Rank`]; in
//! debug builds each taking is checked. Every lock of the library has its rank here; `ARCHITECTURE.md` says what each
//! guards. Nothing is taken inside the family's lock, and nothing that blocks is called there.

#[cfg(debug_assertions)]
use std::cell::Cell;

/// The locks, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// The reading of the configuration, once (`shim::config`).
    Configuring,
    /// The making of epoll sets, held over a fork (`shim::calls::epoll`).
    MakingSets,
    /// The list of nested epoll sets, used by who makes sets only.
    NestedSets,
    /// The making or finding of a family in this process (`runtime::family`).
    Starting,
    /// Device and keeper are each brought up by one thread of the family (`runtime::device_up`).
    BringingUp,
    /// Doorbells and channel are made by one thread of the family (`runtime::family`).
    Preparing,
    /// The family's lock (`sys::lock`).
    Family,
}

#[cfg(debug_assertions)]
thread_local! {
    /// A bit for each rank held. Const and without Drop. A forked child goes on with what its thread held.
    static HELD: Cell<u8> = const { Cell::new(0) };
}

/// The calling thread has taken a lock; it does so before it waits for it, so that a wrong order shows without a
/// deadlock.
#[inline]
pub fn take(rank: Rank) {
    #[cfg(debug_assertions)]
    {
        let held = HELD.get();
        assert!(held >> rank as u8 == 0, "{rank:?} is taken while the locks {held:#b} are held");
        HELD.set(held | 1 << rank as u8);
    }
    #[cfg(not(debug_assertions))]
    let _ = rank;
}

/// It has given the lock up, or not got it.
#[inline]
pub fn give(rank: Rank) {
    #[cfg(debug_assertions)]
    HELD.set(HELD.get() & !(1 << rank as u8));
    #[cfg(not(debug_assertions))]
    let _ = rank;
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Ordered(Rank);

/// Takes a rank until the result is dropped.
#[inline]
pub fn hold(rank: Rank) -> Ordered {
    take(rank);
    Ordered(rank)
}

impl Drop for Ordered {
    #[inline]
    fn drop(&mut self) {
        give(self.0);
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::sys::testing::fails;

    #[test]
    fn locks_are_taken_in_order_only() {
        let making = hold(Rank::MakingSets);
        drop(hold(Rank::Family));
        let starting = hold(Rank::Starting);
        assert!(fails(|| take(Rank::NestedSets)));
        assert!(fails(|| take(Rank::Starting)));
        drop(starting);
        take(Rank::NestedSets);
        give(Rank::NestedSets);
        drop(making);
    }

    #[test]
    fn nothing_is_taken_inside_the_familys_lock() {
        take(Rank::Family);
        for rank in [Rank::Configuring, Rank::MakingSets, Rank::Starting, Rank::Preparing, Rank::Family] {
            assert!(fails(|| take(rank)), "{rank:?}");
        }
        give(Rank::Family);
    }
}
