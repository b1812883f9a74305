//! The switch of a stream from its member to a stranger and back, under loom: what `Runtime::take_back` and
//! `Runtime::put_back` (`handle`) do, with a copy of the keeper's steps in `pump::Stream::{serve, carry_output,
//! carry_input, settle_lent}`. The keeper's steps are under the family's lock; those on the pair are one system call
//! each, between which strangers read and write. The pair and the stack take little at a time, so that nothing fits at
//! once.
//!
//! What is to be shown: whoever reads, member, stranger or the member again, the bytes that arrived are read once, in
//! order; what was written goes out once, in order, whatever another stranger with a copy of the handle writes between.

use crate::sys::testing::fails;
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use std::cell::Cell;
use std::collections::VecDeque;

/// What is wrong with the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Whoever takes the handle back does not wait for what was written to it.
    NotDrained,
    /// What was not read is put back behind what came later.
    PutBackLast,
    /// It may do so before what was unread in it has been put back: what was lent is then not the head of the queue.
    LentTooSoon,
    /// What was lent can be read by members, too.
    LentTwice,
    /// Bytes are taken from the stack before the pair has taken them.
    InputTakenFirst,
    /// Bytes are taken from the pair before the stack has taken them.
    OutputTakenFirst,
}

std::thread_local! {
    /// loom runs all threads of a model in one.
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

fn is(fault: Fault) -> bool {
    FAULT.get() == fault
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics inside")
}

/// What the pair takes towards the stranger, and what the stack takes at a time.
const PAIR_ROOM: usize = 2;
const STACK_ROOM: usize = 1;
/// `pump::LENT`.
const LENT: usize = 1;
/// `pump::TURN`.
const TURN: usize = 2;

/// What a handle's pair starts with: the byte that stays in the keeper's end.
const FIRST: u8 = 0;
/// What arrives, and what is written by turns as a member, a stranger and a member again.
const ARRIVES: [u8; 4] = [1, 2, 3, 4];
const WRITTEN: [u8; 4] = [11, 12, 13, 14];
/// What another stranger writes.
const OTHER: u8 = 99;

/// Under the family's lock: the stack's queues and the handle's record and line.
struct Core {
    arrived: VecDeque<u8>,
    withheld: bool,
    sent: Vec<u8>,
    /// Descriptors of members.
    holders: u32,
    claimed: bool,
    draining: bool,
    returning: bool,
    kept: usize,
    lent: usize,
}

impl Core {
    /// A member's read.
    fn receive(&mut self) -> Option<u8> {
        if self.withheld && !is(Fault::LentTwice) { None } else { self.arrived.pop_front() }
    }
}

/// The kernel's queues between the two ends.
struct Pair {
    to_keeper: VecDeque<u8>,
    to_stranger: VecDeque<u8>,
}

/// Who has to look again.
#[derive(Default)]
struct Due {
    keeper: bool,
    member: bool,
    over: bool,
}

struct World {
    core: Mutex<Core>,
    pair: Mutex<Pair>,
    due: Mutex<Due>,
    changed: Condvar,
}

impl World {
    fn new() -> Arc<Self> {
        let core = Core {
            arrived: VecDeque::new(),
            withheld: false,
            sent: Vec::new(),
            holders: 1,
            claimed: false,
            draining: false,
            returning: false,
            kept: 1,
            lent: 0,
        };
        let pair = Pair { to_keeper: VecDeque::from([FIRST]), to_stranger: VecDeque::new() };
        let due = Mutex::new(Due::default());
        Arc::new(Self { core: Mutex::new(core), pair: Mutex::new(pair), due, changed: Condvar::new() })
    }

    fn all_look(&self) {
        let mut due = guard(&self.due);
        (due.keeper, due.member) = (true, true);
        self.changed.notify_all();
    }

    /// The peer sends.
    fn arrives(&self, bytes: &[u8]) {
        guard(&self.core).arrived.extend(bytes);
        self.all_look();
    }

    fn stranger_writes(&self, byte: u8) {
        guard(&self.pair).to_keeper.push_back(byte);
        self.all_look();
    }

    fn stranger_reads(&self) -> Option<u8> {
        let byte = guard(&self.pair).to_stranger.pop_front();
        if byte.is_some() {
            self.all_look();
        }
        byte
    }

    /// The keeper, until it is told that all is over.
    fn keep(&self) {
        loop {
            {
                let mut due = guard(&self.due);
                while !due.keeper && !due.over {
                    due = self.changed.wait(due).expect("nobody panics inside");
                }
                if due.over {
                    return;
                }
                due.keeper = false;
            }
            if self.serve() {
                self.all_look();
            }
        }
    }

    /// `Stream::serve`; says whether anything was moved.
    fn serve(&self) -> bool {
        let core = &mut *guard(&self.core);
        // `Core::may_take_input` and `Core::is_held_directly`, as `Pump::serve` asks them.
        let shared = core.holders > 0;
        let claimed = (!core.returning || is(Fault::LentTooSoon)) && (core.claimed || !shared);
        if core.draining {
            self.settle_lent(core);
        }
        let out = self.carry_output(core);
        self.carry_input(core, claimed, shared) || out
    }

    fn carry_output(&self, core: &mut Core) -> bool {
        let mut moved = false;
        for _ in 0..TURN {
            let seen: Vec<u8> = guard(&self.pair).to_keeper.iter().copied().collect();
            let fresh = seen.get(core.kept..).unwrap_or(&[]);
            if fresh.is_empty() {
                moved |= std::mem::replace(&mut core.draining, false);
                return moved;
            }
            if is(Fault::OutputTakenFirst) {
                guard(&self.pair).to_keeper.drain(..seen.len() - 1);
            }
            let taken = fresh.len().min(STACK_ROOM);
            core.sent.extend(&fresh[..taken]);
            core.claimed = !core.draining;
            let done = core.kept + taken - 1;
            core.kept = 1;
            if !is(Fault::OutputTakenFirst) {
                guard(&self.pair).to_keeper.drain(..done);
            }
            moved = true;
        }
        moved
    }

    fn settle_lent(&self, core: &mut Core) {
        let lent = std::mem::take(&mut core.lent);
        if lent > 0 {
            core.withheld = false;
            core.arrived.drain(..lent.min(core.arrived.len()));
        }
    }

    fn carry_input(&self, core: &mut Core, claimed: bool, shared: bool) -> bool {
        let mut moved = false;
        if core.lent > 0 {
            // `has_received_all`: SIOCOUTQ is zero.
            if !guard(&self.pair).to_stranger.is_empty() {
                return false;
            }
            self.settle_lent(core);
            moved = true;
        }
        if !claimed || core.arrived.is_empty() {
            return moved;
        }
        let most = if shared { LENT } else { core.arrived.len() };
        let bytes: Vec<u8> = core.arrived.iter().copied().take(most).collect();
        if is(Fault::InputTakenFirst) && !shared {
            core.arrived.clear();
        }
        let mut pair = guard(&self.pair);
        let sent = bytes.len().min(PAIR_ROOM - pair.to_stranger.len());
        pair.to_stranger.extend(&bytes[..sent]);
        drop(pair);
        if shared {
            core.lent = sent;
            core.withheld = sent > 0;
        } else if !is(Fault::InputTakenFirst) {
            core.arrived.drain(..sent);
        }
        moved || sent > 0
    }

    /// The member's image is replaced by a stranger's.
    fn becomes_a_stranger(&self) {
        guard(&self.core).holders -= 1;
        self.all_look();
    }

    /// `Runtime::take_back`, `wait_until_drained` and `put_back`.
    fn take_back(&self) {
        {
            let mut core = guard(&self.core);
            core.claimed = false;
            core.draining = true;
            core.returning = true;
            core.holders += 1;
        }
        self.all_look();
        while guard(&self.core).draining && !is(Fault::NotDrained) {
            self.member_sleeps();
        }
        let mut unread: Vec<u8> = Vec::new();
        while let Some(byte) = guard(&self.pair).to_stranger.pop_front() {
            unread.push(byte);
        }
        let mut core = guard(&self.core);
        if is(Fault::PutBackLast) {
            core.arrived.extend(unread);
        } else {
            unread.into_iter().rev().for_each(|byte| core.arrived.push_front(byte));
        }
        drop(core);
        guard(&self.core).returning = false;
        self.all_look();
    }

    fn member_sleeps(&self) {
        let mut due = guard(&self.due);
        while !due.member {
            due = self.changed.wait(due).expect("nobody panics inside");
        }
        due.member = false;
    }

    fn member_reads(&self) -> u8 {
        loop {
            if let Some(byte) = guard(&self.core).receive() {
                return byte;
            }
            self.member_sleeps();
        }
    }

    fn member_writes(&self, byte: u8) {
        guard(&self.core).sent.push(byte);
    }

    /// Everything that one descriptor goes through.
    fn life(&self) {
        let mut read = vec![self.member_reads()];
        self.member_writes(WRITTEN[0]);
        self.becomes_a_stranger();
        self.stranger_writes(WRITTEN[1]);
        read.extend(self.stranger_reads());
        self.stranger_writes(WRITTEN[2]);
        self.take_back();
        self.member_writes(WRITTEN[3]);
        while read.len() < ARRIVES.len() {
            read.push(self.member_reads());
        }
        assert_eq!(read, ARRIVES);
    }

    fn end(&self) {
        guard(&self.due).over = true;
        self.changed.notify_all();
    }

    /// What went out, but for what another stranger wrote; and whether that did.
    fn sent(&self) -> (Vec<u8>, usize) {
        let core = guard(&self.core);
        let others = core.sent.iter().filter(|byte| **byte == OTHER).count();
        (core.sent.iter().copied().filter(|byte| *byte != OTHER).collect(), others)
    }
}

fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn in_thread(world: &Arc<World>, body: impl FnOnce(&World) + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || body(&world))
}

/// There and back while the peer sends.
fn there_and_back(fault: Fault) {
    FAULT.set(fault);
    explore(2, || {
        let world = World::new();
        world.arrives(&ARRIVES[..2]);
        let keeper = in_thread(&world, World::keep);
        let peer = in_thread(&world, |world| world.arrives(&ARRIVES[2..]));
        world.life();
        peer.join().expect("it ends");
        world.end();
        keeper.join().expect("it ends");
        assert_eq!(world.sent().0, WRITTEN);
    });
}

/// The same while another stranger writes to a copy of the handle, by which it claims what arrives; a member that
/// reads meanwhile has it in order, but for what that stranger was lent and would have read.
fn with_another_stranger(fault: Fault) {
    FAULT.set(fault);
    explore(2, || {
        let world = World::new();
        world.arrives(&ARRIVES[..1]);
        let keeper = in_thread(&world, World::keep);
        let read = world.member_reads();
        world.member_writes(WRITTEN[0]);
        world.becomes_a_stranger();
        let other = in_thread(&world, |world| world.stranger_writes(OTHER));
        world.stranger_writes(WRITTEN[1]);
        world.arrives(&ARRIVES[1..3]);
        world.take_back();
        world.member_writes(WRITTEN[2]);
        // The other stranger and the member share what arrives from here on.
        let mut all = vec![read];
        while all.len() < 3 {
            let lent = world.stranger_reads();
            match lent.or_else(|| guard(&world.core).receive()) {
                Some(byte) => all.push(byte),
                None => world.member_sleeps(),
            }
        }
        other.join().expect("it ends");
        world.end();
        keeper.join().expect("it ends");
        assert_eq!(all, ARRIVES[..3]);
        assert_eq!(world.sent().0, WRITTEN[..3]);
    });
}

#[test]
fn switch_there_and_back_loses_repeats_and_reorders_nothing() {
    there_and_back(Fault::None);
}

#[test]
fn another_strangers_copy_does_not_disturb_the_switch() {
    with_another_stranger(Fault::None);
}

#[test]
fn model_finds_faults_of_the_switch() {
    for fault in [Fault::NotDrained, Fault::PutBackLast, Fault::InputTakenFirst, Fault::OutputTakenFirst] {
        assert!(fails(|| there_and_back(fault)), "{fault:?}");
    }
}

#[test]
fn model_finds_faults_of_what_is_shared() {
    for fault in [Fault::LentTooSoon, Fault::LentTwice] {
        assert!(fails(|| with_another_stranger(fault)), "{fault:?}");
    }
}
