//! Agreement between families that use one address in one network namespace: names in the abstract AF_UNIX space, freed
//! by the kernel with the last descriptor, however a process ends. A family takes blocks of 64 ephemeral ports, single
//! ports by name at bind, and one family at a time is the answerer: it answers for the address (echo) and for ports
//! that nobody holds. Claims are handed to the keeper, who lives longest. A link of its own (the `unix` device) has no
//! other family on it and needs no names.
//!
//! Here: the claims that a family has and where their descriptors are. `names`: what they are called. `blocks`: ephemeral
//! ports. `share`: ports that several families have. `bind`: what a socket's calls do with all that.
//!
//! Anyone in the namespace can take a name: agreement, not protection.

mod ask;
mod bind;
mod blocks;
mod names;
mod share;
#[cfg(test)]
mod tests;

pub(super) use self::ask::Questions;
pub(super) use self::blocks::random_word;
pub(super) use self::names::{Claim, ClaimError, PortKey};

use self::blocks::Excluded;
use self::names::{LAYOUT, take_name};
use self::share::Shared;
use super::member::SlotId;
use crate::sys::{Fd, call};
use remora_stack::time::Instant;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// How often a family that is not the answerer tries to become it: the old one may have gone.
const ANSWERER_RETRY: Duration = Duration::from_secs(1);

/// How long it is believed that another family has a port. That none has it is never believed: it may be taken, and
/// listened on, before the next packet comes.
const BELIEVED: Duration = Duration::from_millis(100);

/// Ports of others remembered.
const MEMORY: usize = 64;

/// Where the descriptor of a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Keeper,
    Process(SlotId, Fd),
    /// The name is another family's, which lingers on the port, too: it stands for both.
    Nowhere,
}

/// A claim of this family.
#[derive(Clone, Copy, Debug)]
struct Held {
    claim: Claim,
    place: Where,
    /// Sockets that were bound by it.
    uses: u32,
    /// To be closed by whoever has the descriptor.
    dropped: bool,
}

/// A claim of another family.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    claim: Claim,
    until: Instant,
}

/// The claims of a family.
#[derive(Debug)]
pub(super) struct Registry {
    /// What all names begin with; `None`: no other family can be on the link.
    prefix: Option<String>,
    ephemeral: (u16, u16),
    /// Another block may be free.
    may_grow: bool,
    held: Vec<Held>,
    /// A block has been had: the names work.
    named: bool,
    /// The blocks that the last member left have been looked through.
    gave_back: bool,
    /// Ports in our blocks that are not ours to choose.
    excluded: Vec<Excluded>,
    answerer: bool,
    answerer_tried: Option<Instant>,
    remembered: Vec<Remembered>,
    /// Ports of ours that others may have, too.
    shared: Vec<Shared>,
    /// The device's filter does not know yet of what has been claimed or dropped.
    changed: bool,
    /// A process has a claim that its keeper ought to have.
    hand_over: bool,
}

impl Registry {
    pub(super) fn new(ephemeral: (u16, u16)) -> Self {
        Self {
            prefix: None,
            ephemeral,
            may_grow: true,
            held: Vec::new(),
            named: false,
            gave_back: false,
            excluded: Vec::new(),
            answerer: true,
            answerer_tried: None,
            remembered: Vec::new(),
            shared: Vec::new(),
            changed: false,
            hand_over: false,
        }
    }

    /// Says where the family is: on this interface with this address.
    pub(super) fn locate(&mut self, interface: &str, address: IpAddr) {
        let mut prefix = names::place(interface, address);
        let _ = write!(prefix, "{LAYOUT}");
        self.prefix = Some(prefix);
        self.answerer = false;
    }

    /// Whether a family that speaks otherwise has names where ours are. To be asked when we have some: of two that come
    /// at once, one at least sees the other.
    pub(super) fn meets_another_layout(&self) -> bool {
        let place = self.prefix.as_deref().and_then(|prefix| prefix.strip_suffix(&LAYOUT.to_string()));
        place.is_some_and(names::is_another_layout_at)
    }

    /// Gives up all names that this process has just taken.
    pub(super) fn leave(&mut self, slot: SlotId) {
        let own: Vec<Fd> = self.in_process(slot).map(|(_, fd)| fd).collect();
        for fd in own {
            let _ = call::close(fd);
        }
        let _ = self.lose_claims_of(slot);
    }

    fn find(&mut self, claim: Claim) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.claim == claim)
    }

    /// Takes a claim, or uses one more time what is taken already.
    fn claim(&mut self, claim: Claim, slot: SlotId) -> Result<(), ClaimError> {
        let Some(name) = self.prefix.as_deref().map(|prefix| claim.name(prefix)) else { return Ok(()) };
        if let Some(held) = self.find(claim) {
            held.uses += 1;
            // The filter may have been narrowed since it was given up.
            self.changed |= std::mem::take(&mut held.dropped);
            return Ok(());
        }
        let fd = take_name(&name)?;
        self.named |= matches!(claim, Claim::Block(_));
        self.held.push(Held { claim, place: Where::Process(slot, fd), uses: 1, dropped: false });
        self.changed = true;
        Ok(())
    }

    /// Gives up one use of a claim. Says whether the keeper has something to close.
    fn drop_claim(&mut self, claim: Claim, slot: SlotId) -> bool {
        let Some(held) = self.find(claim) else { return false };
        held.uses = held.uses.saturating_sub(1);
        if held.uses > 0 {
            return false;
        }
        held.dropped = true;
        let place = held.place;
        self.changed = true;
        match place {
            Where::Process(owner, fd) if owner == slot => {
                let _ = call::close(fd);
                self.held.retain(|held| held.claim != claim);
                false
            }
            Where::Process(..) => false,
            Where::Keeper => true,
            Where::Nowhere => {
                self.held.retain(|held| held.claim != claim);
                false
            }
        }
    }

    /// Whether no other family can be on the link.
    pub(super) fn is_private(&self) -> bool {
        self.prefix.is_none()
    }

    /// Whether this process has a claim under this number.
    pub(super) fn has_fd(&self, slot: SlotId, fd: i32) -> bool {
        self.in_process(slot).any(|(_, own)| own.raw() == fd)
    }

    /// A process has gone with the claims that it had; returns the ports among them.
    pub(super) fn lose_claims_of(&mut self, slot: SlotId) -> Vec<PortKey> {
        let before = self.held.len();
        let ports: Vec<PortKey> = self.in_process(slot).filter_map(|(claim, _)| claim.port()).collect();
        self.held.retain(|held| !matches!(held.place, Where::Process(owner, _) if owner == slot));
        self.changed |= self.held.len() != before;
        self.shared.retain(|shared| self.held.iter().any(|held| held.claim == shared.claim()));
        self.answerer = self.prefix.is_none() || self.find(Claim::Answerer).is_some();
        ports
    }

    pub(super) fn is_answerer(&self) -> bool {
        self.answerer
    }

    /// Tries to become the answerer, at most once a second: the old one goes without a word.
    pub(super) fn try_to_answer(&mut self, slot: SlotId, now: Instant) -> bool {
        if self.answerer {
            return true;
        }
        if self.answerer_tried.is_some_and(|tried| now.since(tried) < ANSWERER_RETRY) {
            return false;
        }
        self.answerer_tried = Some(now);
        self.answerer = self.claim(Claim::Answerer, slot).is_ok();
        self.hand_over |= self.answerer && slot != SlotId::KEEPER;
        self.answerer
    }

    /// Whether a process has to hand over what it has claimed in passing.
    pub(super) fn take_hand_over(&mut self) -> bool {
        std::mem::take(&mut self.hand_over)
    }

    /// Whether a name is ours.
    fn has_name(&mut self, claim: Claim) -> bool {
        self.find(claim).is_some_and(|held| !held.dropped && held.place != Where::Nowhere)
    }

    /// Claims that stand in the process of `slot` and ought to be the keeper's.
    fn in_process(&self, slot: SlotId) -> impl Iterator<Item = (Claim, Fd)> {
        self.held.iter().filter_map(move |held| match held.place {
            Where::Process(owner, fd) if owner == slot => Some((held.claim, fd)),
            _ => None,
        })
    }

    fn move_to_keeper(&mut self, claim: Claim) {
        if let Some(held) = self.find(claim) {
            held.place = Where::Keeper;
        }
    }

    /// Whether there are claims for the keeper to close.
    pub(super) fn has_to_close(&self) -> bool {
        self.held.iter().any(|held| held.dropped && held.place == Where::Keeper)
    }

    /// Whether the keeper is to close the descriptor of a claim; then the claim is forgotten.
    pub(super) fn may_close(&mut self, claim: Claim) -> bool {
        let dropped = self.find(claim).is_none_or(|held| held.dropped);
        if dropped {
            self.changed = true;
            self.held.retain(|held| held.claim != claim);
            if claim == Claim::Answerer {
                self.answerer = false;
            }
        }
        dropped
    }

    /// Keeper: its own claims, which it made itself, by their descriptors.
    pub(super) fn take_over(&mut self, slot: SlotId) -> Option<(Claim, Fd)> {
        let found = self.in_process(slot).next();
        if let Some((claim, _)) = found {
            self.move_to_keeper(claim);
        }
        found
    }

    /// A keeper has died, and the names that it had are free: takes them again. What another family has taken meanwhile
    /// is used without a name.
    pub(super) fn reclaim(&mut self, slot: SlotId) {
        let lost: Vec<Held> = self.held.iter().filter(|held| held.place == Where::Keeper).copied().collect();
        self.held.retain(|held| held.place != Where::Keeper);
        for held in lost.into_iter().filter(|held| !held.dropped) {
            match self.claim(held.claim, slot) {
                Ok(()) => {}
                Err(_) if held.claim == Claim::Answerer => {}
                Err(_) => self.held.push(Held { place: Where::Nowhere, ..held }),
            }
            if let Some(again) = self.find(held.claim) {
                again.uses = held.uses;
            }
        }
        self.changed = true;
        self.answerer = self.prefix.is_none() || self.find(Claim::Answerer).is_some();
    }
}
