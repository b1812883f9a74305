//! Agreement between families that use one address in one network namespace: names in the abstract AF_UNIX space, freed
//! by the kernel with the last descriptor, however a process ends. A family takes blocks of 64 ephemeral ports, single
//! ports by name at bind, and one family at a time is the answerer: it answers for the address (echo) and for ports
//! that nobody holds. Claims are handed to the keeper, who lives longest. A link of its own (the `unix` device) has no
//! other family on it and needs no names.
//!
//! Anyone in the namespace can take a name: agreement, not protection.

use super::keeper::{Message, send_to_keeper};
use super::member::SlotId;
use super::{Core, Open, Runtime};
use crate::device::Ports;
use crate::sys::{Errno, Fd, call};
use remora_stack::frame::Purpose;
use remora_stack::socket::error::{BindError, ListenError};
use remora_stack::socket::protocol::SocketType;
use remora_stack::time::Instant;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// Ports of one block: enough for most programs, and few enough for hundreds of them, each of which leaves its block to
/// its TIME_WAIT for a minute.
const BLOCK: u16 = 64;

/// Blocks taken at once at most by a family that grows: it takes as many as it has.
const MAX_GROWTH: usize = 16;

/// How often a family that is not the answerer tries to become it: the old one may have gone.
const ANSWERER_RETRY: Duration = Duration::from_secs(1);

/// How long it is believed that another family has a port. That none has it is never believed: it may be taken, and
/// listened on, before the next packet comes.
const BELIEVED: Duration = Duration::from_millis(100);

/// Ports of others remembered.
const MEMORY: usize = 64;

/// Single ports and ranges that a filter names; with more it passes all.
const MAX_FILTERED: usize = 256;

/// A port of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortKey {
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// What can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Answerer,
    /// Ports N*64 to N*64+63 of TCP and UDP.
    Block(u16),
    Port(PortKey),
    /// Connections without a bound socket are left on the port: accepted ones, TIME_WAIT, orphans.
    Lingering(PortKey),
}

impl Claim {
    /// As a word, for the channel to the keeper.
    pub(super) const fn pack(self) -> u32 {
        let (kind, protocol, number) = match self {
            Self::Answerer => (0, 0, 0),
            Self::Block(block) => (1, 0, block),
            Self::Port(key) => (2, key.protocol, key.port),
            Self::Lingering(key) => (3, key.protocol, key.port),
        };
        (kind as u32) << 24 | (protocol as u32) << 16 | number as u32
    }

    pub(super) const fn unpack(word: u32) -> Self {
        let key = PortKey { protocol: (word >> 16) as u8, port: word as u16 };
        match word >> 24 {
            0 => Self::Answerer,
            1 => Self::Block(word as u16),
            2 => Self::Port(key),
            _ => Self::Lingering(key),
        }
    }
}

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
    answerer: bool,
    answerer_tried: Option<Instant>,
    remembered: Vec<Remembered>,
    /// The device's filter does not know yet of what has been claimed or dropped.
    changed: bool,
    /// A process has a claim that its keeper ought to have.
    hand_over: bool,
}

/// Why a port was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimError {
    /// Another family has it.
    Taken,
    /// No socket for the name (EMFILE, ...).
    Failed,
}

fn protocol_name(protocol: u8) -> &'static str {
    if i32::from(protocol) == libc::IPPROTO_UDP { "udp" } else { "tcp" }
}

/// Binds a name; the descriptor is the claim.
fn take_name(name: &str) -> Result<Fd, ClaimError> {
    let (address, length) = call::unix_address(name).map_err(|_| ClaimError::Failed)?;
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = call::socket(libc::AF_UNIX, kind, 0).map_err(|_| ClaimError::Failed)?;
    match call::bind(fd, address.get(..length).unwrap_or(&[])) {
        Ok(()) => call::raise_high(fd, call::private_floor()).map_err(|_| ClaimError::Failed),
        Err(errno) => {
            let _ = call::close(fd);
            Err(if errno == Errno(libc::EADDRINUSE) { ClaimError::Taken } else { ClaimError::Failed })
        }
    }
}

/// Whether anyone holds a name: a datagram socket connects to a bound one, ECONNREFUSED tells of none.
fn is_name_taken(name: &str) -> bool {
    let Ok((address, length)) = call::unix_address(name) else { return false };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let Ok(fd) = call::socket(libc::AF_UNIX, kind, 0) else { return false };
    let result = call::connect(fd, address.get(..length).unwrap_or(&[]));
    let _ = call::close(fd);
    result != Err(Errno(libc::ECONNREFUSED))
}

impl Registry {
    pub(super) fn new(ephemeral: (u16, u16)) -> Self {
        Self {
            prefix: None,
            ephemeral,
            may_grow: true,
            held: Vec::new(),
            answerer: true,
            answerer_tried: None,
            remembered: Vec::new(),
            changed: false,
            hand_over: false,
        }
    }

    /// Says where the family is: on this interface with this address.
    pub(super) fn locate(&mut self, interface: &str, address: IpAddr) {
        let mut prefix = String::new();
        let _ = write!(prefix, "@remora/{interface}/{address}");
        self.prefix = Some(prefix);
        self.answerer = false;
    }

    fn name(&self, claim: Claim) -> Option<String> {
        let mut name = self.prefix.clone()?;
        let _ = match claim {
            Claim::Answerer => write!(name, "/answerer"),
            Claim::Block(block) => write!(name, "/block/{block}"),
            Claim::Port(key) => write!(name, "/{}/{}", protocol_name(key.protocol), key.port),
            Claim::Lingering(key) => write!(name, "/{}/{}/lingering", protocol_name(key.protocol), key.port),
        };
        Some(name)
    }

    fn is_ephemeral(&self, port: u16) -> bool {
        let (first, last) = self.ephemeral;
        (first..=last).contains(&port)
    }

    fn find(&mut self, claim: Claim) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.claim == claim)
    }

    fn has(&mut self, claim: Claim) -> bool {
        self.find(claim).is_some_and(|held| !held.dropped)
    }

    /// Takes a claim, or uses one more time what is taken already.
    fn claim(&mut self, claim: Claim, slot: SlotId) -> Result<(), ClaimError> {
        let Some(name) = self.name(claim) else { return Ok(()) };
        if let Some(held) = self.find(claim) {
            held.uses += 1;
            // The filter may have been narrowed since it was given up.
            self.changed |= std::mem::take(&mut held.dropped);
            return Ok(());
        }
        let fd = take_name(&name)?;
        self.held.push(Held { claim, place: Where::Process(slot, fd), uses: 1, dropped: false });
        self.changed = true;
        Ok(())
    }

    /// Remembers that connections linger on a port, under its name if that is free.
    fn linger(&mut self, key: PortKey, slot: SlotId) {
        let claim = Claim::Lingering(key);
        // The process that closed the last socket may be gone before the connections are.
        self.hand_over |= slot != SlotId::KEEPER;
        if self.claim(claim, slot).is_err() {
            self.held.push(Held { claim, place: Where::Nowhere, uses: 1, dropped: false });
            self.changed = true;
        }
    }

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
        let ports = self.in_process(slot).filter_map(|(claim, _)| match claim {
            Claim::Port(key) | Claim::Lingering(key) => Some(key),
            Claim::Answerer | Claim::Block(_) => None,
        });
        let ports: Vec<PortKey> = ports.collect();
        self.held.retain(|held| !matches!(held.place, Where::Process(owner, _) if owner == slot));
        self.changed |= self.held.len() != before;
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

    /// Whether a frame may be sent by this family.
    pub(super) fn permits(&mut self, purpose: Purpose, slot: SlotId, now: Instant) -> bool {
        match purpose {
            Purpose::Own | Purpose::Neighbour => true,
            Purpose::Address => self.prefix.is_none() || self.try_to_answer(slot, now),
            // A port that is ours, by itself or by its block, is for us to refuse, one that our connections linger on if
            // nobody else has bound it; one that nobody has, for the answerer.
            Purpose::ClosedPort { protocol, port } => {
                let key = PortKey { protocol, port };
                self.prefix.is_none()
                    || self.is_held_by_us(key)
                    || ((self.has_name(Claim::Lingering(key)) || self.try_to_answer(slot, now))
                        && !self.is_held_by_others(key, now))
            }
        }
    }

    /// Whether a name is ours.
    fn has_name(&mut self, claim: Claim) -> bool {
        self.find(claim).is_some_and(|held| !held.dropped && held.place != Where::Nowhere)
    }

    /// Whether this family has the port, by itself or by its block.
    fn is_held_by_us(&mut self, key: PortKey) -> bool {
        let block = Claim::Block(key.port / BLOCK);
        (self.is_ephemeral(key.port) && self.has_name(block)) || self.has_name(Claim::Port(key))
    }

    /// Whether another family has the port, by itself or by its block.
    fn is_held_by_others(&mut self, key: PortKey, now: Instant) -> bool {
        let block = Claim::Block(key.port / BLOCK);
        (self.is_ephemeral(key.port) && self.is_foreign(block, now))
            || self.is_foreign(Claim::Port(key), now)
            || self.is_foreign(Claim::Lingering(key), now)
    }

    fn is_foreign(&mut self, claim: Claim, now: Instant) -> bool {
        // A name that was given up is still ours until the keeper has closed it.
        if self.find(claim).is_some_and(|held| held.place != Where::Nowhere) {
            return false;
        }
        self.remembered.retain(|known| known.until > now);
        if self.remembered.iter().any(|known| known.claim == claim) {
            return true;
        }
        let Some(name) = self.name(claim) else { return false };
        let held = is_name_taken(&name);
        if held {
            if self.remembered.len() >= MEMORY {
                self.remembered.swap_remove(0);
            }
            self.remembered.push(Remembered { claim, until: now + BELIEVED });
        }
        held
    }

    /// What the device's filter is to pass, when that has changed. `raw`: there are sockets that want all protocols.
    pub(super) fn take_ports(&mut self, raw: bool) -> Option<Ports> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut ranges = self.ranges();
        // Without a block the names failed, and the stack chooses from all ports.
        if raw || self.prefix.is_none() || ranges.is_empty() {
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
            .filter_map(|held| match held.claim {
                Claim::Port(key) | Claim::Lingering(key) => Some((key.protocol, key.port)),
                Claim::Answerer | Claim::Block(_) => None,
            })
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
    pub(super) const fn filter_again(&mut self) {
        self.changed = true;
    }

    /// The ephemeral ports that are ours.
    fn ranges(&self) -> Vec<(u16, u16)> {
        let (first, last) = self.ephemeral;
        let blocks = self.held.iter().filter_map(|held| match held.claim {
            Claim::Block(block) => Some(block.saturating_mul(BLOCK)),
            _ => None,
        });
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for start in blocks {
            let (start, end) = (start.max(first), start.saturating_add(BLOCK - 1).min(last));
            // Blocks taken one after the other are one range: it is searched, and filtered, as a whole.
            match ranges.last_mut() {
                Some(former) if former.1.checked_add(1) == Some(start) => former.1 = end,
                _ => ranges.push((start, end)),
            }
        }
        ranges
    }

    /// How many blocks the range of ephemeral ports has, and the first of them.
    fn blocks(&self) -> (u16, u16) {
        let (first, last) = (self.ephemeral.0 / BLOCK, self.ephemeral.1 / BLOCK);
        (first, last.saturating_sub(first).saturating_add(1))
    }

    /// Takes up to `wanted` blocks that nobody has, beginning the search at a random one.
    fn claim_blocks(&mut self, wanted: usize, random: u32, slot: SlotId) -> Result<(), ClaimError> {
        let (first, count) = self.blocks();
        let mut taken = 0;
        for step in 0..u32::from(count) {
            let block = Claim::Block(first + (random.wrapping_add(step) % u32::from(count)) as u16);
            if self.find(block).is_none() {
                match self.claim(block, slot) {
                    Err(ClaimError::Taken) => {}
                    Err(failed) if taken == 0 => return Err(failed),
                    Err(_) => return Ok(()),
                    Ok(()) => taken += 1,
                }
            }
            if taken >= wanted {
                return Ok(());
            }
        }
        if taken > 0 { Ok(()) } else { Err(ClaimError::Taken) }
    }

    /// How many blocks are this family's.
    fn block_count(&self) -> usize {
        self.held.iter().filter(|held| matches!(held.claim, Claim::Block(_))).count()
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

    /// Ports that connections linger on.
    fn lingering(&self) -> impl Iterator<Item = PortKey> {
        self.held.iter().filter_map(|held| match held.claim {
            Claim::Lingering(key) if !held.dropped => Some(key),
            _ => None,
        })
    }

    fn drop_lingering(&mut self, key: PortKey) {
        let claim = Claim::Lingering(key);
        if let Some(held) = self.find(claim) {
            held.dropped = true;
            self.changed = true;
        }
        self.held.retain(|held| held.claim != claim || held.place != Where::Nowhere);
    }
}

impl Core {
    /// At bring-up: a block of ports and, if it is free, the answerer's role.
    pub(super) fn register(&mut self, slot: SlotId, random: u32, now: Instant) -> Result<(), ClaimError> {
        if self.registry.prefix.is_none() {
            return Ok(());
        }
        self.registry.try_to_answer(slot, now);
        self.registry.claim_blocks(1, random, slot)?;
        self.share_ports();
        Ok(())
    }

    /// Tells the stack which ports are ours.
    fn share_ports(&mut self) {
        self.stack.restrict_ports(&self.registry.ranges(), self.registry.may_grow);
    }

    /// Another block of ephemeral ports. Where none is left, those that are ours are searched to the last one; says
    /// whether trying again makes sense.
    pub(super) fn extend_ports(&mut self, slot: SlotId, random: u32) -> bool {
        if self.registry.prefix.is_none() {
            return false;
        }
        let searched_some = self.registry.may_grow;
        // Speed alone is no reason to take more than half of the ports from other families.
        let held = self.registry.block_count();
        let half = usize::from(self.registry.blocks().1) / 2;
        let wanted = held.clamp(1, MAX_GROWTH);
        let for_speed = searched_some && held + wanted > half;
        self.registry.may_grow = !for_speed && self.registry.claim_blocks(wanted, random, slot).is_ok();
        self.share_ports();
        self.registry.may_grow || searched_some
    }

    /// Claims a port for bind. An ephemeral one comes with its block, so that no other family chooses it. Without
    /// `reuse`, connections of another family that linger on the port stand in the way, as in `inet_csk_get_port`.
    fn claim_port(&mut self, key: PortKey, reuse: bool, slot: SlotId, now: Instant) -> Result<(), ClaimError> {
        if self.registry.is_ephemeral(key.port) {
            let block = Claim::Block(key.port / BLOCK);
            if self.registry.find(block).is_none() {
                self.registry.claim(block, slot)?;
                self.share_ports();
            }
        }
        self.registry.remembered.clear();
        if !reuse && self.registry.is_foreign(Claim::Lingering(key), now) {
            return Err(ClaimError::Taken);
        }
        self.registry.claim(Claim::Port(key), slot)
    }

    /// Gives up the names of ports that nothing lingers on any more.
    pub(super) fn release_lingering(&mut self) {
        loop {
            let over = self.registry.lingering().find(|key| !self.stack.is_port_used(key.protocol, key.port));
            let Some(key) = over else { return };
            self.registry.drop_lingering(key);
            self.roster.ring_keeper();
        }
    }

    /// Ports whose claims have gone with a process while connections of others go on.
    pub(super) fn keep_lingering(&mut self, ports: &[PortKey]) {
        let slot = self.inside;
        for key in ports {
            let claimed = [Claim::Port(*key), Claim::Lingering(*key)].into_iter().any(|claim| self.registry.has(claim));
            if !claimed && self.stack.is_port_used(key.protocol, key.port) {
                self.registry.linger(*key, slot);
            }
        }
    }

    /// A bound socket has gone. What it leaves on the port lingers under another name.
    pub(super) fn release_port(&mut self, key: PortKey) {
        let last = self.registry.find(Claim::Port(key)).is_some_and(|held| held.uses == 1);
        let slot = self.inside;
        if last && self.stack.is_port_used(key.protocol, key.port) {
            self.registry.linger(key, slot);
        }
        if self.registry.drop_claim(Claim::Port(key), slot) {
            self.roster.ring_keeper();
        }
    }
}

impl Runtime {
    /// Binds a socket, after claiming its port from the other families on the address.
    ///
    /// # Errors
    /// As the stack's `bind`; `AddressInUse` also for a port of another family. `Invalid` when the description is gone.
    pub fn bind(&self, id: super::DescriptionId, address: std::net::SocketAddr) -> Result<(), BindError> {
        let (slot, random) = (self.slot(), random_word());
        let result = self.enter(|core, now| {
            let description = core.descriptions.find(id).ok_or(BindError::Invalid)?;
            let (socket, kind) = (description.socket, description.kind.kind);
            let protocol = match kind {
                SocketType::Stream => libc::IPPROTO_TCP,
                SocketType::Datagram => libc::IPPROTO_UDP,
                SocketType::Raw => return core.stack.bind(now, socket, address),
            };
            let key = PortKey { protocol: protocol as u8, port: address.port() };
            let reuse = core.stack.options(socket).is_some_and(|options| options.reuse_address || options.reuse_port);
            let claimed = key.port != 0 && !address.ip().is_loopback() && core.registry.prefix.is_some();
            if claimed {
                core.claim_port(key, reuse, slot, now).map_err(|_| BindError::AddressInUse)?;
            }
            let mut result = core.stack.bind(now, socket, address);
            // One that asks for any port, of those that this family has or may have.
            while result == Err(BindError::AddressInUse) && key.port == 0 && core.extend_ports(slot, random) {
                result = core.stack.bind(now, socket, address);
            }
            match core.descriptions.find_mut(id) {
                Some(description) if claimed && result.is_ok() => description.claim = Some(key),
                _ if claimed => core.release_port(key),
                _ => {}
            }
            result
        });
        self.hand_over_claims();
        result.unwrap_or(Err(BindError::Invalid))
    }

    /// Puts a socket into LISTEN; one that is not bound gets an ephemeral port (`inet_autobind`).
    ///
    /// # Errors
    /// As the stack's `listen`; `None` when the description is gone.
    pub fn listen(&self, id: super::DescriptionId, backlog: i32) -> Option<Result<(), ListenError>> {
        let (slot, random) = (self.slot(), random_word());
        let result = self.enter(|core, now| {
            let socket = core.socket_of(id)?;
            let unbound = core.stack.local_name(socket).is_ok_and(|name| name.port() == 0);
            let mut result = core.stack.listen(now, socket, backlog);
            while result == Err(ListenError::AddressInUse) && unbound && core.extend_ports(slot, random) {
                result = core.stack.listen(now, socket, backlog);
            }
            Some(result)
        });
        self.hand_over_claims();
        result.ok().flatten()
    }

    /// Takes another block of ephemeral ports, for a connect that found no port (`NoPort`). Says whether trying again
    /// makes sense.
    pub fn more_ports(&self) -> bool {
        let random = random_word();
        let slot = self.slot();
        let done = self.enter(|core, _| core.extend_ports(slot, random)).unwrap_or(false);
        self.hand_over_claims();
        done
    }

    /// Gives the keeper the claims that this process has.
    pub(super) fn hand_over_claims(&self) {
        let slot = self.slot();
        let open: &Open = self.family.open();
        if open.keeper_generation() == 0 {
            return;
        }
        let _ = self.enter(|core, _| {
            let claims: Vec<(Claim, Fd)> = core.registry.in_process(slot).collect();
            for (claim, fd) in claims {
                if send_to_keeper(open, Message::Claim(claim), &[fd]) {
                    core.registry.move_to_keeper(claim);
                    let _ = call::close(fd);
                }
            }
        });
    }
}

/// A random number; where the kernel has none to give, the clock's low bits spread the blocks well enough.
pub(super) fn random_word() -> u32 {
    let mut bytes = [0u8; 4];
    match call::random_bytes(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => call::now().nanos() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: SlotId = SlotId::KEEPER;

    fn registry(test: &str) -> Registry {
        let mut registry = Registry::new((32_768, 60_999));
        registry.locate(&format!("{test}-{}", call::getpid()), IpAddr::V4(Ipv4Addr::new(10, 99, 1, 1)));
        registry
    }

    fn port(port: u16) -> PortKey {
        PortKey { protocol: libc::IPPROTO_TCP as u8, port }
    }

    #[test]
    fn claims_survive_the_channel_as_words() {
        let all = [Claim::Answerer, Claim::Block(953), Claim::Port(port(80)), Claim::Lingering(port(60_999))];
        for claim in all {
            assert_eq!(Claim::unpack(claim.pack()), claim);
        }
    }

    #[test]
    fn port_of_one_family_is_taken_for_another_until_it_is_given_up() {
        let (mut one, mut other) = (registry("ports"), registry("ports"));
        let claim = Claim::Port(port(80));
        assert_eq!(one.claim(claim, HERE), Ok(()));
        // A second bound socket of the same family (SO_REUSEPORT) uses the claim once more.
        assert_eq!(one.claim(claim, HERE), Ok(()));
        assert_eq!(other.claim(claim, HERE), Err(ClaimError::Taken));
        let udp = PortKey { protocol: libc::IPPROTO_UDP as u8, port: 80 };
        assert_eq!(other.claim(Claim::Port(udp), HERE), Ok(()));
        one.drop_claim(claim, HERE);
        assert_eq!(other.claim(claim, HERE), Err(ClaimError::Taken));
        one.drop_claim(claim, HERE);
        assert_eq!(other.claim(claim, HERE), Ok(()));
    }

    #[test]
    fn families_choose_from_different_blocks_within_the_range() {
        let (mut one, mut other) = (registry("blocks"), registry("blocks"));
        for registry in [&mut one, &mut other] {
            for _ in 0..3 {
                assert_eq!(registry.claim_blocks(1, u32::MAX - 1, HERE), Ok(()));
            }
        }
        assert_eq!((one.block_count(), other.block_count()), (3, 3));
        let (first, second) = (one.ranges(), other.ranges());
        assert!(first.iter().all(|range| !second.contains(range)));
        let inside = |(low, high): &(u16, u16)| *low >= 32_768 && *high <= 60_999 && low <= high;
        assert!(first.iter().chain(&second).all(inside), "{first:?} {second:?}");
    }

    #[test]
    fn blocks_taken_at_once_are_one_range() {
        let mut registry = registry("growth");
        assert_eq!(registry.claim_blocks(1, 5, HERE), Ok(()));
        assert_eq!(registry.claim_blocks(4, 100, HERE), Ok(()));
        let block = |number: u16| 32_768 + number * BLOCK;
        assert_eq!(registry.ranges(), [(block(5), block(6) - 1), (block(100), block(104) - 1)]);
        // What is left of the range, though it is less than was asked for.
        assert_eq!(registry.claim_blocks(1_000, 0, HERE), Ok(()));
        assert_eq!(registry.claim_blocks(1, 0, HERE), Err(ClaimError::Taken));
        assert_eq!(registry.block_count(), usize::from(registry.blocks().1));
    }

    #[test]
    fn only_the_answerer_answers_and_never_for_a_port_of_another() {
        let (mut one, mut other) = (registry("answers"), registry("answers"));
        let now = Instant::from_millis(1);
        let closed = |port| Purpose::ClosedPort { protocol: libc::IPPROTO_TCP as u8, port };
        assert!(one.permits(Purpose::Address, HERE, now));
        assert!(!other.permits(Purpose::Address, HERE, now));
        assert!(!other.permits(closed(9), HERE, now));
        assert!(other.permits(Purpose::Own, HERE, now) && other.permits(Purpose::Neighbour, HERE, now));
        assert_eq!(other.claim(Claim::Port(port(80)), HERE), Ok(()));
        assert_eq!(other.claim(Claim::Block(800), HERE), Ok(()));
        assert!(one.permits(closed(9), HERE, now));
        assert!(!one.permits(closed(80), HERE, now) && !one.permits(closed(800 * BLOCK + 7), HERE, now));
        // That a port was free is not believed any longer than it is asked for.
        assert!(one.permits(closed(81), HERE, now));
        assert_eq!(other.claim(Claim::Port(port(81)), HERE), Ok(()));
        assert!(!one.permits(closed(81), HERE, now) && other.permits(closed(81), HERE, now));
        other.drop_claim(Claim::Port(port(81)), HERE);
        assert!(one.permits(closed(81), HERE, now + BELIEVED));
        // The answerer goes: another becomes it, but does not look more than once a second.
        one.drop_claim(Claim::Answerer, HERE);
        assert!(!other.permits(Purpose::Address, HERE, now + Duration::from_millis(999)));
        assert!(other.permits(Purpose::Address, HERE, now + ANSWERER_RETRY));
    }

    #[test]
    fn families_that_linger_on_one_port_both_hear_it_and_one_refuses_it() {
        let (mut one, mut other) = (registry("linger"), registry("linger"));
        let now = Instant::from_millis(1);
        for registry in [&mut one, &mut other] {
            assert_eq!(registry.claim_blocks(1, 0, HERE), Ok(()));
            registry.linger(port(80), HERE);
            let Some(Ports::Only { singles, others, .. }) = registry.take_ports(false) else { panic!("ports") };
            assert_eq!((singles, others), (vec![(6, 80)], false));
            assert_eq!(registry.take_ports(false), None, "nothing has changed");
        }
        let closed = Purpose::ClosedPort { protocol: libc::IPPROTO_TCP as u8, port: 80 };
        assert!(one.permits(closed, HERE, now) && !other.permits(closed, HERE, now));
        // A third one listens there again.
        let mut third = registry("linger");
        assert_eq!(third.claim(Claim::Port(port(80)), HERE), Ok(()));
        assert!(!one.permits(closed, HERE, now) && third.permits(closed, HERE, now));
        other.drop_lingering(port(80));
        assert_eq!((other.lingering().count(), one.lingering().count()), (0, 1));
    }

    #[test]
    fn filter_follows_the_claims() {
        let mut registry = registry("filter");
        assert_eq!(registry.take_ports(false), None);
        assert!(registry.try_to_answer(HERE, Instant::ZERO));
        // No block: the names have failed.
        assert_eq!(registry.take_ports(false), Some(Ports::All));
        for block in [800, 801, 803] {
            assert_eq!(registry.claim(Claim::Block(block), HERE), Ok(()));
        }
        assert_eq!(registry.claim(Claim::Port(port(80)), HERE), Ok(()));
        assert_eq!(registry.claim(Claim::Port(port(801 * BLOCK)), HERE), Ok(()));
        let ranges = vec![(800 * BLOCK, 802 * BLOCK - 1), (803 * BLOCK, 804 * BLOCK - 1)];
        let ports = Ports::Only { ranges, singles: vec![(6, 80)], others: true };
        assert_eq!(registry.take_ports(false), Some(ports));
        registry.filter_again();
        assert_eq!(registry.take_ports(true), Some(Ports::All), "raw sockets hear all");
    }

    #[test]
    fn port_given_up_and_taken_again_before_the_keeper_closed_it_passes_the_filter() {
        let mut registry = registry("again");
        assert_eq!(registry.claim(Claim::Block(800), HERE), Ok(()));
        assert_eq!(registry.claim(Claim::Port(port(80)), HERE), Ok(()));
        let singles = |registry: &mut Registry| match registry.take_ports(false) {
            Some(Ports::Only { singles, .. }) => Some(singles),
            _ => None,
        };
        assert_eq!(singles(&mut registry), Some(vec![(6, 80)]));
        let descriptors: Vec<_> = std::iter::from_fn(|| registry.take_over(HERE)).collect();
        assert!(registry.drop_claim(Claim::Port(port(80)), HERE), "the keeper is to close it");
        assert_eq!(singles(&mut registry), Some(vec![]));
        assert_eq!(registry.claim(Claim::Port(port(80)), HERE), Ok(()));
        assert_eq!(singles(&mut registry), Some(vec![(6, 80)]));
        assert!(!registry.may_close(Claim::Port(port(80))));
        for (_, fd) in descriptors {
            let _ = call::close(fd);
        }
    }

    #[test]
    fn names_of_a_dead_keeper_are_taken_again() {
        let mut one = registry("reclaim");
        assert_eq!(one.claim(Claim::Port(port(80)), HERE), Ok(()));
        assert_eq!(one.claim(Claim::Port(port(80)), HERE), Ok(()));
        let Some((claim, fd)) = one.take_over(HERE) else { panic!("a claim") };
        let _ = call::close(fd);
        one.reclaim(HERE);
        assert_eq!(registry("reclaim").claim(claim, HERE), Err(ClaimError::Taken));
        one.drop_claim(claim, HERE);
        assert!(one.has_name(claim));
        one.drop_claim(claim, HERE);
        assert_eq!(registry("reclaim").claim(claim, HERE), Ok(()));
    }

    #[test]
    fn family_on_a_link_of_its_own_needs_no_names() {
        let mut registry = Registry::new((32_768, 60_999));
        assert!(registry.is_private() && registry.permits(Purpose::Address, HERE, Instant::ZERO));
        assert_eq!(registry.claim(Claim::Port(port(80)), HERE), Ok(()));
        assert!(registry.in_process(HERE).next().is_none());
    }
}
