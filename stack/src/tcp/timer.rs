//! When to look at whom next: one ordered set of deadlines for all sockets, half-open requests and TIME_WAIT
//! entries. Insertion, removal and the next deadline cost O(log n). What a deadline means is its owner's business.

use alloc::collections::BTreeSet;

use crate::time::Instant;

/// Whose deadline it is, by place in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// A socket.
    Sock(u32),
    /// A half-open request.
    Request(u32),
    /// A TIME_WAIT entry.
    TimeWait(u32),
}

/// All deadlines.
#[derive(Debug, Default)]
pub struct Timers {
    set: BTreeSet<(Instant, TimerKey)>,
}

impl Timers {
    /// Moves the deadline of `key` from `armed` (as returned by the last call) to `wanted`.
    ///
    /// A later deadline is left until the earlier one fires: a retransmission timer that moves with every ACK costs
    /// nothing so.
    pub fn arm(&mut self, key: TimerKey, armed: &mut Option<Instant>, wanted: Option<Instant>) {
        match (*armed, wanted) {
            (Some(old), Some(new)) if old <= new => {}
            (None, None) => {}
            (Some(old), None) => {
                self.set.remove(&(old, key));
                *armed = None;
            }
            (old, Some(new)) => {
                if let Some(old) = old {
                    self.set.remove(&(old, key));
                }
                self.set.insert((new, key));
                *armed = Some(new);
            }
        }
    }

    /// Forgets the deadline of `key`.
    pub fn disarm(&mut self, key: TimerKey, armed: &mut Option<Instant>) {
        if let Some(old) = armed.take() {
            self.set.remove(&(old, key));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.set.first().map(|(when, _)| *when)
    }

    /// Takes one deadline that is due; the owner's `armed` must be cleared by the caller.
    pub fn take_due(&mut self, now: Instant) -> Option<TimerKey> {
        let (when, _) = self.set.first()?;
        if *when > now {
            return None;
        }
        self.set.pop_first().map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_deadline_waits_for_the_earlier_to_fire() {
        let mut timers = Timers::default();
        let mut armed = None;
        timers.arm(TimerKey::Sock(1), &mut armed, Some(Instant::from_millis(10)));
        timers.arm(TimerKey::Sock(1), &mut armed, Some(Instant::from_millis(20)));
        assert_eq!(timers.next(), Some(Instant::from_millis(10)));
        timers.arm(TimerKey::Sock(1), &mut armed, Some(Instant::from_millis(5)));
        assert_eq!(timers.next(), Some(Instant::from_millis(5)));
        assert_eq!(timers.take_due(Instant::from_millis(4)), None);
        assert_eq!(timers.take_due(Instant::from_millis(5)), Some(TimerKey::Sock(1)));
        assert_eq!(timers.next(), None);
    }
}
