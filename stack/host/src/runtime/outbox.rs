//! Sending after the lock was given up. A frame on a veth is handled by the peer's stack within the system call that sends
//! it, which takes several times what the stack itself does under the lock, and wakes the peer's program, which may then
//! have the processor. Where threads or processes wait for each other's turn, short frames are copied under the lock and
//! sent after it; nobody else waits meanwhile. What they are copied into is the process's own memory.
//!
//! Frames of one turn keep their order. Those of two turns on one connection may change places, as on any network. What
//! the device refuses then is lost, as on any network, too; from then on frames are sent under the lock for a while, where
//! TCP is told.

use super::family::{Core, Open};
use crate::device::Device;
use crate::device::staged::{LateFailure, Staged};
use crate::sys::Fd;
use remora_stack::frame::Transmit;
use std::cell::Cell;
use std::sync::Mutex;

/// So many turns after one that had to wait are taken for crowded.
const CROWDED_TURNS: u32 = 512;
/// So many turns after a failure nothing is put off.
pub(super) const PLAIN_TURNS: u32 = 4_096;
/// More threads of a process than this in a turn at once send under the lock.
const MOST_SPARE: usize = 64;

thread_local! {
    // Const and without Drop: touched where signal handlers and allocation are.
    static CARRIED: Cell<Option<&'static mut Staged>> = const { Cell::new(None) };
}

/// Empty ones of this process. Nobody waits for the mutex: who finds it taken, in a signal handler or a child whose parent
/// was forked within, sends under the lock.
static SPARE: Mutex<Vec<&'static mut Staged>> = Mutex::new(Vec::new());

/// For a turn about to begin: where it puts its frames, if turns have to wait for each other.
#[inline]
pub(super) fn fetch(open: &Open) -> Option<&'static mut Staged> {
    if open.crowd.load() == 0 { None } else { take_spare() }
}

#[cold]
fn take_spare() -> Option<&'static mut Staged> {
    let mut spare = SPARE.try_lock().ok()?;
    Some(spare.pop().unwrap_or_else(|| Box::leak(Box::default())))
}

/// After the turn.
pub(super) fn give_back(staged: &'static mut Staged) {
    if let Ok(mut spare) = SPARE.try_lock()
        && spare.len() < MOST_SPARE
    {
        spare.push(staged);
    }
}

/// The turn has begun.
#[inline]
pub(super) fn carry(staged: Option<&'static mut Staged>) {
    if staged.is_some() {
        CARRIED.set(staged);
    }
}

/// The turn ends: what is to be sent after it.
#[inline]
pub(super) fn put_down() -> Option<&'static mut Staged> {
    CARRIED.take()
}

/// What became of a frame that was to be put off.
pub(super) enum PutOff {
    /// It will be sent.
    Yes,
    /// It must be sent now; what was put off before has been.
    No(Result<(), LateFailure>),
}

/// Puts a frame off, if the turn does that and the device can.
#[inline]
pub(super) fn put_off(open: &Open, device: &mut dyn Device, frame: &Transmit<'_>) -> PutOff {
    let Some(staged) = CARRIED.take() else { return PutOff::No(Ok(())) };
    let taken = device.stage(frame, staged);
    let sent = if taken || staged.is_empty() { Ok(()) } else { open.consistently(|| staged.send(device.fd())) };
    CARRIED.set(Some(staged));
    if taken { PutOff::Yes } else { PutOff::No(sent) }
}

/// Sends what the turn has put off.
pub(super) fn send(staged: &'static mut Staged, device: Option<Fd>) -> Result<(), LateFailure> {
    let sent = match device {
        Some(fd) if !staged.is_empty() => staged.send(fd),
        _ => Ok(()),
    };
    give_back(staged);
    sent
}

impl Core {
    /// A turn has begun; `waited`: another's had to end first.
    #[inline]
    pub(super) fn note_turn(&mut self, open: &Open, waited: bool) {
        if self.plain_turns > 0 {
            self.plain_turns -= 1;
        } else if waited {
            open.crowd.store(CROWDED_TURNS);
        } else if open.crowd.load() > 0 {
            open.crowd.store(open.crowd.load() - 1);
        }
    }
}
