//! Asynchronous sockets: the owner of a socket and the signal that it gets for an event (`sk_wake_async`, `send_sigio`,
//! `sk_send_sigurg`). Whoever processes the event sends the signal, after it has left the core. Only the kernel may send
//! a siginfo with the codes of SIGIO to another process, so these travel as SI_SIGIO with the code where errno stands;
//! the shim's trampoline puts them right.

use super::{Core, DescriptionId, Runtime};
use crate::sys::call;
use remora_stack::socket::protocol::{Happened, Readiness};

/// What an owner is, by fcntl's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerKind {
    /// F_OWNER_TID.
    Thread,
    /// F_OWNER_PID.
    Process,
    /// F_OWNER_PGRP.
    Group,
}

/// The owner of a socket as fcntl sets it: F_SETOWN, F_SETSIG, and O_ASYNC with the number that switched it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What `id` names.
    pub kind: OwnerKind,
    /// Thread, process or group; 0 is nobody.
    pub id: i32,
    /// The process that a thread belongs to.
    pub process: i32,
    /// The signal instead of SIGIO, which comes with number and band; 0 for SIGIO.
    pub signal: i32,
    /// Whether O_ASYNC is set: without it only urgent data signals.
    pub asynchronous: bool,
    /// The number that set O_ASYNC.
    pub fd: i32,
}

/// A signal that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    owner: Owner,
    signal: i32,
    code: i32,
    band: i64,
}

/// Signals sent by one who leaves the core; the rest is left to the next.
pub(super) const AT_A_TIME: usize = 4;

/// What `kill_fasync` calls the events, and their bands (`band_table`).
const EVENTS: [(Happened, i32, Readiness); 5] = [
    (Happened::INPUT, POLL_IN, Readiness::IN.union(Readiness::RDNORM)),
    (Happened::ROOM, POLL_OUT, Readiness::OUT.union(Readiness::WRNORM).union(Readiness::WRBAND)),
    (Happened::OPENED, POLL_OUT, Readiness::OUT.union(Readiness::WRNORM).union(Readiness::WRBAND)),
    (Happened::ERROR, POLL_ERR, Readiness::ERR),
    (Happened::HANG_UP, POLL_HUP, Readiness::HUP.union(Readiness::ERR)),
];
const POLL_IN: i32 = 1;
const POLL_OUT: i32 = 2;
const POLL_ERR: i32 = 4;
const POLL_PRI: i32 = 5;
const POLL_HUP: i32 = 6;
/// A signal of the kernel's without more to say.
const SI_KERNEL: i32 = 0x80;

impl Core {
    /// Notes the signals for what has happened to a description.
    pub(super) fn signal_owner(&mut self, id: DescriptionId, happened: Happened, readiness: Readiness) {
        let Some(owner) = self.descriptions.find(id).and_then(|description| description.owner) else { return };
        if !owner.asynchronous || owner.id == 0 {
            return;
        }
        for (event, code, band) in EVENTS {
            // Less input than SO_RCVLOWAT asks for is none (`tcp_data_ready`).
            let told = event != Happened::INPUT || readiness.contains(Readiness::IN);
            if happened.contains(event) && told {
                self.note_signal(owner, code, band);
            }
        }
    }

    /// Urgent data: SIGURG, and POLL_PRI for O_ASYNC.
    pub(super) fn signal_urgent(&mut self, id: DescriptionId) {
        let Some(owner) = self.descriptions.find(id).and_then(|description| description.owner) else { return };
        if owner.id == 0 {
            return;
        }
        self.signals.push(Due { owner, signal: libc::SIGURG, code: SI_KERNEL, band: 0 });
        if owner.asynchronous {
            self.note_signal(owner, POLL_PRI, Readiness::PRI | Readiness::RDBAND);
        }
    }

    fn note_signal(&mut self, owner: Owner, code: i32, band: Readiness) {
        let plain = owner.signal == 0;
        let signal = if plain { libc::SIGIO } else { owner.signal };
        let (code, band) = if plain { (SI_KERNEL, 0) } else { (code, i64::from(band.bits())) };
        self.signals.push(Due { owner, signal, code, band });
    }

    /// The signals to be sent on leaving.
    pub(super) fn take_signals(&mut self) -> [Option<Due>; AT_A_TIME] {
        let mut taken = [None; AT_A_TIME];
        let count = self.signals.len().min(AT_A_TIME);
        for (place, due) in taken.iter_mut().zip(self.signals.drain(..count)) {
            *place = Some(due);
        }
        taken
    }
}

/// Sends what is due, outside of the core.
pub(super) fn send_signals(due: [Option<Due>; AT_A_TIME]) {
    for Due { owner, signal, code, band } in due.into_iter().flatten() {
        let fd = if code == SI_KERNEL { 0 } else { owner.fd };
        // A signal that may not be sent, or to nobody any more, is lost, as in the kernel.
        let _ = match owner.kind {
            OwnerKind::Group => call::kill(-owner.id, signal),
            OwnerKind::Thread => call::signal_input(owner.process, Some(owner.id), signal, code, band, fd),
            OwnerKind::Process => call::signal_input(owner.id, None, signal, code, band, fd),
        };
    }
}

impl Runtime {
    /// Sets the owner of a socket.
    pub fn set_owner(&self, id: DescriptionId, owner: Option<Owner>) {
        let _ = self.enter(|core, _| {
            if let Some(description) = core.descriptions.find_mut(id) {
                description.owner = owner;
            }
        });
    }

    /// The owner of a socket.
    #[must_use]
    pub fn owner(&self, id: DescriptionId) -> Option<Owner> {
        self.enter(|core, _| core.descriptions.find(id).and_then(|description| description.owner)).ok().flatten()
    }
}
