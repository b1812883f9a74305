//! Blocks of ephemeral ports: which are this family's, how it gets more of them, and what of its ports the device's filter
//! passes.

use super::Registry;
use super::names::{Claim, ClaimError, MARKS, PLACES, PortKey, Probe};
use crate::device::Ports;
use crate::runtime::member::SlotId;
use crate::runtime::{Core, Runtime};
use crate::sys::call;
use remora_stack::time::Instant;
use std::time::Duration;

/// Ports of one block: enough for most programs, and few enough for hundreds of them, each of which leaves its block to
/// its TIME_WAIT for a minute.
pub(super) const BLOCK: u16 = 64;

/// Blocks taken at once at most by a family that grows: it takes as many as it has.
const MAX_GROWTH: usize = 16;

/// Ports of a block that may be in use when it is given up for names of these ports.
const FEW: usize = 8;

/// Single ports and ranges that a filter names; with more it passes all.
const MAX_FILTERED: usize = 256;

/// How long a port that another family has asked about is left alone before its names are looked at again: the other has
/// yet to take it.
pub(super) const LEFT_ALONE: Duration = Duration::from_secs(5);

/// A port in a block of ours that is not ours to choose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Excluded {
    port: u16,
    since: Instant,
}

impl Registry {
    pub(super) fn is_ephemeral(&self, port: u16) -> bool {
        let (first, last) = self.ephemeral;
        (first..=last).contains(&port)
    }

    /// The ephemeral ports that are ours.
    pub(super) fn ranges(&self) -> Vec<(u16, u16)> {
        let (first, last) = self.ephemeral;
        let blocks = self.held.iter().filter_map(|held| match held.claim {
            Claim::Block(block) => Some(block.saturating_mul(BLOCK)),
            _ => None,
        });
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for start in blocks {
            let (mut start, end) = (start.max(first), start.saturating_add(BLOCK - 1).min(last));
            let mut holes: Vec<u16> = self.excluded.iter().map(|it| it.port).collect();
            holes.retain(|port| (start..=end).contains(port));
            holes.sort_unstable();
            for hole in holes {
                if start < hole {
                    add_range(&mut ranges, (start, hole - 1));
                }
                start = hole.saturating_add(1);
            }
            if start <= end {
                add_range(&mut ranges, (start, end));
            }
        }
        ranges
    }

    /// Whether a port in a block of ours is left to others.
    pub(super) fn is_excluded(&self, port: u16) -> bool {
        self.excluded.iter().any(|it| it.port == port)
    }

    /// Chooses a port no more, for others to have. Says whether it was one to choose.
    pub(super) fn exclude(&mut self, port: u16, now: Instant) -> bool {
        let is_ours = self.is_ephemeral(port) && self.has_block_of(port);
        if !is_ours || self.is_excluded(port) {
            return false;
        }
        self.excluded.push(Excluded { port, since: now });
        self.changed = true;
        true
    }

    /// Chooses again from those of the ports left to others that nobody has now.
    pub(super) fn take_back_excluded(&mut self, now: Instant) {
        let probe = Probe::new();
        let mut kept = std::mem::take(&mut self.excluded);
        kept.retain(|it| now.since(it.since) < LEFT_ALONE || self.is_had(&probe, it.port));
        self.excluded = kept;
    }

    /// Whether anyone has a port by itself, or lingers on it.
    fn is_had(&self, probe: &Probe, port: u16) -> bool {
        PortKey::all(port).into_iter().any(|key| {
            let lingering = [false, true].map(|reusable| Claim::Lingering { key, reusable });
            let places = (0..PLACES).map(|place| Claim::Port(key, place));
            places.chain(lingering).any(|claim| self.is_another(probe, claim))
        })
    }

    pub(super) fn has_block_of(&self, port: u16) -> bool {
        let block = Claim::Block(port / BLOCK);
        self.held.iter().any(|held| held.claim == block && !held.dropped)
    }

    /// Marks the block of a port that is not this family's, for who takes the block to see.
    pub(super) fn mark(&mut self, port: u16, slot: SlotId) -> Result<(), ClaimError> {
        let block = port / BLOCK;
        if self.held.iter().any(|held| matches!(held.claim, Claim::Mark(of, _) if of == block && !held.dropped)) {
            return Ok(());
        }
        let mut result = Err(ClaimError::Taken);
        for mark in 0..MARKS {
            result = self.claim(Claim::Mark(block, mark), slot);
            if result != Err(ClaimError::Taken) {
                break;
            }
        }
        result
    }

    /// Gives up the marks of blocks that this family has no ports in. Says whether the keeper has something to close.
    pub(super) fn trim_marks(&mut self, slot: SlotId) -> bool {
        let has_port_in = |block: u16| {
            let live = self.held.iter().filter(|held| !held.dropped).filter_map(|held| held.claim.port());
            live.into_iter().any(|key| key.port / BLOCK == block)
        };
        let marks = self.held.iter().filter(|held| !held.dropped).filter_map(|held| match held.claim {
            Claim::Mark(block, _) if !has_port_in(block) => Some(held.claim),
            _ => None,
        });
        let idle: Vec<Claim> = marks.collect();
        idle.into_iter().fold(false, |ring, mark| self.drop_claim(mark, slot) | ring)
    }

    /// Whether others have ports in a block.
    fn is_marked(&self, block: u16) -> bool {
        let probe = Probe::new();
        let is_ours = |claim: Claim| self.held.iter().any(|held| held.claim == claim);
        (0..MARKS).map(|mark| Claim::Mark(block, mark)).any(|mark| !is_ours(mark) && self.is_another(&probe, mark))
    }

    /// How many blocks the range of ephemeral ports has, and the first of them.
    pub(super) fn blocks(&self) -> (u16, u16) {
        let (first, last) = (self.ephemeral.0 / BLOCK, self.ephemeral.1 / BLOCK);
        (first, last.saturating_sub(first).saturating_add(1))
    }

    /// Takes up to `wanted` blocks that nobody has, beginning the search at a random one. Those that others have ports in
    /// are the last choice, and without these ports.
    pub(super) fn claim_blocks(&mut self, wanted: usize, random: u32, slot: SlotId) -> Result<(), ClaimError> {
        let (first, count) = self.blocks();
        let mut taken = 0;
        let steps = (0..u32::from(count)).map(|step| (false, step));
        for (marked_too, step) in steps.chain((0..u32::from(count)).map(|step| (true, step))) {
            if taken >= wanted || (marked_too && taken > 0) {
                return Ok(());
            }
            let block = first + (random.wrapping_add(step) % u32::from(count)) as u16;
            if self.find(Claim::Block(block)).is_some() {
                continue;
            }
            match self.claim(Claim::Block(block), slot) {
                Err(ClaimError::Taken) => continue,
                Err(failed) if taken == 0 => return Err(failed),
                Err(_) => return Ok(()),
                Ok(()) => {}
            }
            if self.is_marked(block) {
                if !marked_too {
                    self.drop_claim(Claim::Block(block), slot);
                    continue;
                }
                self.exclude_had(block);
            }
            taken += 1;
        }
        if taken > 0 { Ok(()) } else { Err(ClaimError::Taken) }
    }

    /// Leaves those ports of a block to others that they have.
    fn exclude_had(&mut self, block: u16) {
        let probe = Probe::new();
        let start = block.saturating_mul(BLOCK);
        let since = Instant::ZERO;
        for port in start..=start.saturating_add(BLOCK - 1) {
            if !self.is_excluded(port) && self.is_had(&probe, port) {
                self.excluded.push(Excluded { port, since });
            }
        }
    }

    /// How many blocks are this family's.
    pub(super) fn block_count(&self) -> usize {
        self.held.iter().filter(|held| matches!(held.claim, Claim::Block(_))).count()
    }

    /// What the device's filter is to pass, when that has changed. `raw`: there are sockets that want all protocols.
    pub(in crate::runtime) fn take_ports(&mut self, raw: bool) -> Option<Ports> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut ranges = self.ranges();
        // Where the names failed the stack chooses from all ports.
        if raw || self.prefix.is_none() || !self.named {
            return Some(Ports::All);
        }
        ranges.sort_unstable();
        ranges.dedup_by(|next, former| {
            let adjacent = former.1.checked_add(1) == Some(next.0);
            if adjacent {
                former.1 = next.1;
            }
            adjacent
        });
        let mut singles: Vec<(u8, u16)> = self
            .held
            .iter()
            .filter(|held| !held.dropped)
            .filter_map(|held| held.claim.port().map(|key| (key.protocol, key.port)))
            .filter(|(_, port)| !ranges.iter().any(|(first, last)| (*first..=*last).contains(port)))
            .collect();
        singles.sort_unstable();
        singles.dedup();
        if ranges.len() + singles.len() > MAX_FILTERED {
            return Some(Ports::All);
        }
        Some(Ports::Only { ranges, singles, others: self.answerer })
    }

    /// The device has been opened anew, or sockets have come that want more than ports.
    pub(in crate::runtime) const fn filter_again(&mut self) {
        self.changed = true;
    }
}

impl Core {
    /// At bring-up: a block of ports and, if it is free, the answerer's role.
    pub(in crate::runtime) fn register(&mut self, slot: SlotId, random: u32, now: Instant) -> Result<(), ClaimError> {
        if self.registry.prefix.is_none() {
            return Ok(());
        }
        self.registry.try_to_answer(slot, now);
        // A datagram socket has had a port since it first tried to send (`inet_autobind`), maybe before there was a device.
        let mut chosen: Vec<u16> =
            self.stack.datagram_ports().filter(|port| self.registry.is_ephemeral(*port)).collect();
        chosen.retain(|port| !self.registry.has_block_of(*port));
        let first = self.registry.blocks().0;
        for port in &chosen {
            if !self.registry.has_block_of(*port) {
                self.registry.claim_blocks(1, u32::from((port / BLOCK).saturating_sub(first)), slot)?;
            }
        }
        if chosen.is_empty() {
            self.registry.claim_blocks(1, random, slot)?;
        }
        self.share_ports();
        Ok(())
    }

    /// Tells the stack which ports are ours.
    pub(super) fn share_ports(&mut self) {
        self.stack.restrict_ports(&self.registry.ranges(), self.registry.may_grow);
    }

    /// The last member has gone: what its connections in TIME_WAIT and its orphans need is their ports, not whole blocks.
    pub(in crate::runtime) fn give_back_blocks(&mut self) {
        if self.registry.prefix.is_none() || std::mem::replace(&mut self.registry.gave_back, true) {
            return;
        }
        let slot = self.inside;
        let held = self.registry.held.iter().filter(|held| !held.dropped).map(|held| held.claim);
        let blocks: Vec<Claim> = held.filter(|claim| matches!(claim, Claim::Block(_))).collect();
        for claim in blocks {
            let Claim::Block(block) = claim else { continue };
            let ports = block.saturating_mul(BLOCK)..=block.saturating_mul(BLOCK).saturating_add(BLOCK - 1);
            let keys = ports.flat_map(PortKey::all);
            let used: Vec<PortKey> = keys.filter(|key| self.stack.is_port_used(key.protocol, key.port)).collect();
            let marked = used.first().is_none_or(|key| self.registry.mark(key.port, slot).is_ok());
            if used.len() > FEW || !marked {
                continue;
            }
            for key in used {
                if !self.registry.lingering().any(|other| other == key) {
                    self.linger(key);
                }
            }
            self.registry.drop_claim(claim, slot);
        }
        self.registry.trim_marks(slot);
        self.roster.ring_keeper();
    }

    /// Another block of ephemeral ports. Where none is left, those that are ours are searched to the last one; says
    /// whether trying again makes sense.
    pub(in crate::runtime) fn extend_ports(&mut self, slot: SlotId, random: u32) -> bool {
        if self.registry.prefix.is_none() {
            return false;
        }
        self.registry.take_back_excluded(call::now());
        let searched_some = self.registry.may_grow;
        // Speed alone is no reason to take more than half of the ports from other families.
        let held = self.registry.block_count();
        let half = usize::from(self.registry.blocks().1) / 2;
        let most = if searched_some { half.saturating_sub(held) } else { MAX_GROWTH };
        let wanted = held.clamp(1, MAX_GROWTH).min(most);
        self.registry.may_grow = wanted > 0 && self.registry.claim_blocks(wanted, random, slot).is_ok();
        self.share_ports();
        self.registry.may_grow || searched_some
    }
}

impl Runtime {
    /// Takes another block of ephemeral ports, for a connect that found no port (`NoPort`). Says whether trying again
    /// makes sense.
    pub fn more_ports(&self) -> bool {
        let random = random_word();
        let slot = self.slot();
        let done = self.enter(|core, _| core.extend_ports(slot, random)).unwrap_or(false);
        self.hand_over_claims();
        done
    }
}

/// A random number; where the kernel has none to give, the clock's low bits spread the blocks well enough.
pub(in crate::runtime) fn random_word() -> u32 {
    let mut bytes = [0u8; 4];
    match call::random_bytes(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => call::now().nanos() as u32,
    }
}

/// Adds a range, to the last one where it goes on: blocks taken one after the other are searched, and filtered, as one.
fn add_range(ranges: &mut Vec<(u16, u16)>, next: (u16, u16)) {
    match ranges.last_mut() {
        Some(former) if former.1.checked_add(1) == Some(next.0) => former.1 = next.1,
        _ => ranges.push(next),
    }
}
