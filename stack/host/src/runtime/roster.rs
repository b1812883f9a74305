//! Who sleeps, who drives, what the keeper does meanwhile, and whose doorbell is to be rung. Plain state under the
//! family's lock: no call in here sleeps, rings or looks at a clock, so that `models` can try every order in which
//! threads come to it. Doorbells themselves, and what is waited for, are left to `wait` and `keeper`.

use super::keeper::Phase;
use super::member::SlotId;
use remora_stack::socket::protocol::Readiness;
use remora_stack::time::Instant;

/// Doorbells, so the number of threads of a family that sleep at once without slicing; bits of a word.
pub(super) const BELLS: usize = 48;

/// The bit of the keeper's doorbell.
pub(super) const KEEPER_BELL: u32 = 63;

/// Ticks without any caller after which the keeper polls.
const TICKS_TO_POLL: u32 = 2;

/// Ticks with the same driver inside after which the keeper rests.
const TICKS_TO_REST: u32 = 4;

/// A thread that sleeps (or is about to).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleeper {
    pub(super) slot: SlotId,
    /// What wakes it; empty: anything.
    pub(super) interest: Readiness,
}

/// What a ticking keeper saw last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ticks {
    passes: u64,
    idle: u32,
    same: u32,
}

impl Ticks {
    /// Nobody has been inside since the last tick.
    pub(super) const fn is_alone(&self) -> bool {
        self.idle > 0
    }
}

/// The sleepers of a family.
#[derive(Debug)]
pub(super) struct Roster {
    /// The bell of the thread inside, which it does not ring; set on entering.
    pub(super) own: u64,
    sleepers: [Option<Sleeper>; BELLS],
    /// Doorbells that nobody has.
    free_bells: u64,
    /// Doorbells to be rung on leaving.
    to_ring: u64,
    /// Doorbells rung that have not been answered.
    rung: u64,
    /// The sleeper that drives.
    driver: Option<u32>,
    /// When the driver or the polling keeper will look at the timers; `None`: when it is rung.
    watch_until: Option<Instant>,
    /// Counts what callers did about the device: the keeper rests while it moves.
    passes: u64,
    pub(super) phase: Phase,
}

impl Roster {
    pub(super) const fn new() -> Self {
        Self {
            own: 0,
            sleepers: [const { None }; BELLS],
            free_bells: 0,
            to_ring: 0,
            rung: 0,
            driver: None,
            watch_until: None,
            passes: 0,
            phase: Phase::Absent,
        }
    }

    /// The doorbells that have been made.
    pub(super) const fn set_bells(&mut self, bells: u64) {
        self.free_bells = bells;
    }

    pub(super) const fn driver(&self) -> Option<u32> {
        self.driver
    }

    pub(super) fn sleeper(&self, bell: u32) -> Option<Sleeper> {
        self.sleepers.get(bell as usize).copied().flatten()
    }

    /// The bells of a process's sleepers.
    pub(super) fn bells_of(&self, slot: SlotId) -> u64 {
        let all = self.sleepers.iter().enumerate();
        let own = all.filter(|(_, place)| place.is_some_and(|sleeper| sleeper.slot == slot));
        own.fold(0, |bells, (index, _)| bells | 1 << index)
    }

    pub(super) fn take_bell(&mut self, slot: SlotId, interest: Readiness) -> Option<u32> {
        let index = self.free_bells.trailing_zeros();
        let place = self.sleepers.get_mut(index as usize)?;
        *place = Some(Sleeper { slot, interest });
        self.free_bells &= !(1 << index);
        self.rung &= !(1 << index);
        Some(index)
    }

    pub(super) fn give_bell_back(&mut self, bell: u32) {
        if let Some(place) = self.sleepers.get_mut(bell as usize)
            && place.take().is_some()
        {
            self.free_bells |= 1 << bell;
            self.rung &= !(1 << bell);
            self.to_ring &= !(1 << bell);
        }
        if self.driver == Some(bell) {
            self.driver = None;
            self.watch_until = None;
        }
        self.find_successor();
    }

    /// Without a driver, another sleeper takes over, or else the keeper.
    fn find_successor(&mut self) {
        if self.driver.is_some() {
            return;
        }
        match self.sleepers.iter().position(Option::is_some) {
            Some(index) => self.ring(1 << index),
            None => self.keeper_takes_over(),
        }
    }

    /// The thread with this bell becomes the driver if there is none and it can be.
    pub(super) fn try_to_drive(&mut self, bell: u32, able: bool) -> bool {
        match self.driver {
            Some(driver) => driver == bell,
            None if able => {
                self.driver = Some(bell);
                self.note_pass();
                true
            }
            None => false,
        }
    }

    /// Who has these bells looks at what it waits for: what rang them is answered.
    pub(super) const fn answer(&mut self, bells: u64) {
        self.rung &= !bells;
    }

    /// Who watches goes to sleep, and looks at the timers then; `None`: when it is rung.
    pub(super) fn watch(&mut self, until: Option<Instant>) {
        self.watch_until = Some(until.unwrap_or(Instant::from_nanos(u64::MAX)));
    }

    /// A timer may be due before the one who watches looks again.
    pub(super) fn check_watch(&mut self, next: Option<Instant>) {
        if let Some(next) = next
            && self.watch_until.is_none_or(|until| next < until)
        {
            self.ring_watcher();
        }
    }

    /// Wakes whoever watches the device. The thread inside will look by itself.
    pub(super) fn ring_watcher(&mut self) {
        match self.driver {
            Some(driver) => self.ring(1 << driver),
            None => self.ring_polling_keeper(),
        }
    }

    /// Has bells rung on leaving.
    pub(super) const fn ring(&mut self, bells: u64) {
        self.to_ring |= bells & !self.own;
    }

    /// What is to be rung now. Nobody is rung twice before it has looked.
    pub(super) fn take_rings(&mut self) -> u64 {
        let rings = std::mem::take(&mut self.to_ring) & !self.rung;
        self.rung |= rings;
        rings
    }

    /// A process has gone, perhaps between leaving the core and ringing those whom it had noted as rung.
    pub(super) fn ring_again(&mut self) {
        let noted = std::mem::take(&mut self.rung);
        self.ring(noted);
    }

    /// Whether a keeper watches over the members.
    pub(super) fn keeper_is_there(&self) -> bool {
        self.phase != Phase::Absent
    }

    pub(super) fn ring_keeper(&mut self) {
        if self.keeper_is_there() {
            self.ring(1 << KEEPER_BELL);
        }
    }

    /// A caller looks after the device: a polling keeper leaves it to the callers.
    pub(super) fn note_pass(&mut self) {
        self.passes = self.passes.wrapping_add(1);
        if self.phase == Phase::Polling {
            self.phase = Phase::Ticking;
            self.ring_keeper();
        }
    }

    /// The last driver has gone and nobody else sleeps: a resting keeper has to look again.
    fn keeper_takes_over(&mut self) {
        if self.phase == Phase::Resting {
            self.phase = Phase::Ticking;
            self.ring_keeper();
        }
    }

    /// A timer has come nearer or a frame is left to send: whoever polls must know. A ticking one looks soon anyway.
    fn ring_polling_keeper(&mut self) {
        if self.phase == Phase::Polling {
            self.ring_keeper();
        }
    }

    /// A keeper that does not poll looks whether it should.
    pub(super) fn keeper_looks(&mut self, ticks: &mut Ticks) {
        if self.phase == Phase::Polling {
            return;
        }
        let moved = self.passes != ticks.passes;
        ticks.passes = self.passes;
        let driven = self.driver.is_some();
        ticks.idle = if moved || driven { 0 } else { ticks.idle + 1 };
        ticks.same = if driven && !moved { ticks.same + 1 } else { 0 };
        self.phase = match self.phase {
            Phase::Resting if driven => Phase::Resting,
            _ if ticks.idle >= TICKS_TO_POLL => Phase::Polling,
            _ if ticks.same >= TICKS_TO_REST => Phase::Resting,
            _ => Phase::Ticking,
        };
        if self.phase == Phase::Polling {
            ticks.idle = 0;
        }
    }
}
