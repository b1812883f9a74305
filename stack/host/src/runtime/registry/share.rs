//! Ports that several families have: who may bind beside whom (`inet_csk_bind_conflict`, `udp_lib_lport_inuse`), which of
//! them a new connection or a datagram is for (`reuseport_select_sock`), and who refuses what is for nobody.
//!
//! All who have a port hear all that comes to it. Each works out by itself whose a SYN is, from the places that are taken at
//! that moment: who has joined before the frame came is seen by everyone, so no two take it. What belongs to a connection
//! goes to who has it, and nobody else answers.

use super::blocks::{BLOCK, LEFT_ALONE};
use super::names::{Claim, PLACES, PortKey, Probe, Term};
use super::{BELIEVED, Held, MEMORY, Registry, Remembered, Where};
use crate::runtime::member::SlotId;
use crate::sys::call;
use remora_stack::frame::Purpose;
use remora_stack::time::Instant;
use remora_stack::wire::flow::Flow;
use std::time::Duration;

/// How long it is believed who has a UDP port. Unlike a connection, a datagram that two take or none does no harm that UDP
/// does not do by itself.
pub(super) const GROUP_BELIEVED: Duration = Duration::from_millis(10);

const TCP: u8 = libc::IPPROTO_TCP as u8;

/// What others are to know of a family's sockets on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) reuse: bool,
    /// SO_REUSEPORT, and whose.
    pub(super) share: Option<u32>,
    pub(super) listens: bool,
}

impl Terms {
    /// Whether a socket with these may be bound, or listen, beside those of another family.
    fn go_with(self, other: Self, protocol: u8) -> bool {
        let reuse = self.reuse && other.reuse && !(protocol == TCP && other.listens);
        reuse || (self.share.is_some() && self.share == other.share)
    }

    fn all(self) -> impl Iterator<Item = Term> {
        let share = self.share.map(Term::Share);
        [self.reuse.then_some(Term::Reuse), share, self.listens.then_some(Term::Listens)].into_iter().flatten()
    }
}

/// A port of ours that others may have, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    key: PortKey,
    place: u8,
    terms: Terms,
    /// Others may have come; since then they are looked for. Whoever joins says so first (`ask`), so that who is alone
    /// looks for nobody.
    company: Option<Instant>,
    /// UDP: whose datagrams are, as last seen.
    group: Option<Group>,
}

impl Shared {
    /// The place on the port.
    pub(super) const fn claim(&self) -> Claim {
        Claim::Port(self.key, self.place)
    }
}

/// Those among whom what comes to a port is divided: a bit for each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    members: u32,
    until: Instant,
}

/// Which of the members a flow is for.
fn chosen(members: u32, flow: &Flow) -> Option<u8> {
    // As `reciprocal_scale` divides a hash.
    let nth = (u64::from(flow.hash()) * u64::from(members.count_ones())) >> 32;
    (0..PLACES).filter(|place| members >> place & 1 != 0).nth(usize::try_from(nth).ok()?)
}

impl Registry {
    /// The place that this family has on a port.
    pub(super) fn place_on(&self, key: PortKey) -> Option<u8> {
        self.held.iter().find_map(|held| match held.claim {
            Claim::Port(of, place) if of == key && !held.dropped => Some(place),
            _ => None,
        })
    }

    /// How many bound sockets this family has on a port.
    pub(super) fn uses_of(&self, key: PortKey) -> u32 {
        let is_it = |claim| matches!(claim, Claim::Port(of, _) if of == key);
        self.held.iter().filter(|held| is_it(held.claim) && !held.dropped).map(|held| held.uses).sum()
    }

    /// What another family lets know of its sockets on a port; of SO_REUSEPORT only whether it is the same `user`'s.
    fn terms_of(&self, probe: &Probe, key: PortKey, place: u8, user: Option<u32>) -> Terms {
        let known = |term| self.is_another(probe, Claim::Term(key, place, term));
        Terms {
            reuse: known(Term::Reuse),
            share: user.filter(|user| known(Term::Share(*user))),
            listens: key.protocol == TCP && known(Term::Listens),
        }
    }

    pub(super) fn is_another(&self, probe: &Probe, claim: Claim) -> bool {
        self.prefix.as_deref().is_some_and(|prefix| probe.is_taken(&claim.name(prefix)))
    }

    /// Whether sockets with these terms may be on a port beside what others have there. Says after which places theirs
    /// comes.
    ///
    /// # Errors
    /// The claim that is in the way.
    pub(super) fn may_have(&self, key: PortKey, terms: Terms) -> Result<u32, Claim> {
        let probe = Probe::new();
        let own = self.held.iter().filter_map(|held| match held.claim {
            Claim::Port(of, place) if of == key && held.place != Where::Nowhere => Some(place),
            _ => None,
        });
        let own: u32 = own.fold(0, |mask, place| mask | 1 << place);
        let mut others = 0;
        for place in (0..PLACES).filter(|place| own >> place & 1 == 0) {
            if !self.is_another(&probe, Claim::Port(key, place)) {
                continue;
            }
            if !terms.go_with(self.terms_of(&probe, key, place, terms.share), key.protocol) {
                return Err(Claim::Port(key, place));
            }
            others |= 1 << place;
        }
        // Those that linger there are no listeners: one option is enough, if they have it, too.
        let asks = terms.reuse || terms.share.is_some();
        for reusable in [false, true].into_iter().take(1 + usize::from(!asks)) {
            let claim = Claim::Lingering { key, reusable };
            let is_ours = self.held.iter().any(|held| held.claim == claim && held.place != Where::Nowhere);
            if !is_ours && self.is_another(&probe, claim) {
                return Err(claim);
            }
        }
        Ok(others)
    }

    /// Takes a place on a port for one more bound socket.
    ///
    /// # Errors
    /// The claim that is in the way.
    pub(super) fn take_place(&mut self, key: PortKey, terms: Terms, slot: SlotId) -> Result<(), Claim> {
        if self.prefix.is_none() {
            return Ok(());
        }
        let others = self.may_have(key, terms)?;
        if let Some(place) = self.place_on(key) {
            let claim = Claim::Port(key, place);
            return self.claim(claim, slot).map_err(|_| claim);
        }
        // The latest has the highest place, as long as there is one: of UDP sockets with SO_REUSEADDR it gets what comes.
        let after = (u32::BITS - others.leading_zeros()) as u8;
        let mut places = (after..PLACES).chain(0..after).filter(|place| others >> place & 1 == 0);
        let all_full = Claim::Port(key, PLACES - 1);
        let Some(claim) = places.next().map(|place| Claim::Port(key, place)) else { return Err(all_full) };
        self.claim(claim, slot).map_err(|_| claim)
    }

    /// Lets others know what the sockets on a port are. Says whether the keeper has something to close.
    pub(super) fn set_terms(&mut self, key: PortKey, terms: Terms, slot: SlotId) -> bool {
        let known = self.shared.iter().position(|shared| shared.key == key).map(|at| self.shared.swap_remove(at));
        let Some(place) = self.place_on(key) else { return false };
        if terms.share.is_some() || terms.reuse {
            let company = known.map_or_else(|| Some(call::now()), |known| known.company);
            self.shared.push(Shared { key, place, terms, company, group: None });
        }
        let former: Vec<Term> = self.terms_on(key).collect();
        let mut ring = false;
        for term in former.iter().filter(|term| !terms.all().any(|wanted| wanted == **term)) {
            ring |= self.drop_claim(Claim::Term(key, place, *term), slot);
        }
        for term in terms.all().filter(|term| !former.contains(term)) {
            // Without its name the port is had alone, which is no more than others were refused before.
            let _ = self.claim(Claim::Term(key, place, term), slot);
        }
        ring
    }

    fn terms_on(&self, key: PortKey) -> impl Iterator<Item = Term> {
        self.held.iter().filter_map(move |held| match held.claim {
            Claim::Term(of, _, term) if of == key && !held.dropped => Some(term),
            _ => None,
        })
    }

    /// Gives up one use of a port, and with the last one all that is known of it. Says whether the keeper has something to
    /// close.
    pub(super) fn leave_place(&mut self, key: PortKey, slot: SlotId) -> bool {
        let Some(place) = self.place_on(key) else { return false };
        let mut ring = self.drop_claim(Claim::Port(key, place), slot);
        if self.place_on(key).is_none() {
            let terms: Vec<Term> = self.terms_on(key).collect();
            for term in terms {
                ring |= self.drop_claim(Claim::Term(key, place, term), slot);
            }
            self.shared.retain(|shared| shared.key != key);
            ring |= self.trim_marks(slot);
        }
        ring
    }

    /// Whether there are ports that others may have, too.
    pub(in crate::runtime) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Another family is about to join us on a port.
    pub(super) fn expect_company(&mut self, port: u16, now: Instant) {
        for shared in self.shared.iter_mut().filter(|shared| shared.key.port == port) {
            shared.company = Some(now);
            shared.group = None;
        }
    }

    /// Whether another family has a place on the port. It is looked for no more when it has had time to come and is not
    /// there.
    fn has_company(&mut self, at: usize, now: Instant) -> bool {
        let Some((shared, since)) = self.shared.get(at).and_then(|it| Some((*it, it.company?))) else { return false };
        if now.since(since) < LEFT_ALONE {
            return true;
        }
        let probe = Probe::new();
        let mut others = (0..PLACES).filter(|place| *place != shared.place);
        let found = others.any(|place| self.is_another(&probe, Claim::Port(shared.key, place)));
        if let Some(shared) = self.shared.get_mut(at) {
            shared.company = found.then_some(now);
        }
        found
    }

    /// Whether what opens a connection, or a datagram, is for this family.
    pub(in crate::runtime) fn takes(&mut self, flow: &Flow, now: Instant) -> bool {
        let found = self.shared.iter().position(|it| it.key.protocol == flow.protocol && it.key.port == flow.to.port());
        let Some(shared) = found.and_then(|at| self.shared.get(at)).copied() else { return true };
        let is_asked = flow.protocol != TCP || (flow.opens && shared.terms.listens && shared.terms.share.is_some());
        if !is_asked || !found.is_some_and(|at| self.has_company(at, now)) {
            return true;
        }
        if flow.protocol != TCP {
            let group = shared
                .group
                .filter(|group| group.until > now)
                .unwrap_or_else(|| Group { members: self.datagram_group(&shared), until: now + GROUP_BELIEVED });
            if let Some(shared) = found.and_then(|at| self.shared.get_mut(at)) {
                shared.group = Some(group);
            }
            return chosen(group.members, flow).is_none_or(|place| place == shared.place);
        }
        let probe = Probe::new();
        let listens = |place: &u8| {
            *place == shared.place || self.is_another(&probe, Claim::Term(shared.key, *place, Term::Listens))
        };
        let members = (0..PLACES).filter(listens).fold(0, |mask, place| mask | 1 << place);
        chosen(members, flow) == Some(shared.place)
    }

    /// Among whom the datagrams to a port are divided: those with SO_REUSEPORT, if the latest is one of them, or the
    /// latest alone (`compute_score`).
    fn datagram_group(&self, shared: &Shared) -> u32 {
        let probe = Probe::new();
        let has = |place: u8| place == shared.place || self.is_another(&probe, Claim::Port(shared.key, place));
        let shares = |place: u8, user: u32| {
            let claim = Claim::Term(shared.key, place, Term::Share(user));
            place == shared.place || self.is_another(&probe, claim)
        };
        let members: Vec<u8> = (0..PLACES).filter(|place| has(*place)).collect();
        let Some(latest) = members.last().copied() else { return 0 };
        match shared.terms.share {
            Some(user) if shares(latest, user) => {
                members.into_iter().filter(|place| shares(*place, user)).fold(0, |mask, place| mask | 1 << place)
            }
            _ => 1 << latest,
        }
    }

    /// Whether a frame may be sent by this family.
    pub(in crate::runtime) fn permits(&mut self, purpose: Purpose, slot: SlotId, now: Instant) -> bool {
        match purpose {
            Purpose::Own | Purpose::Neighbour | Purpose::Sibling { .. } | Purpose::Siblings => true,
            Purpose::Address => self.prefix.is_none() || self.try_to_answer(slot, now),
            // What comes to a port that is ours, or that our connections linger on, is for us to refuse, and for the
            // answerer what comes to one that nobody has. Where another family has sockets or connections, too, it may be
            // for those.
            Purpose::ClosedPort { protocol, port } => {
                let key = PortKey { protocol, port };
                self.prefix.is_none()
                    || (self.is_in_own_block(port) && self.place_on(key).is_none())
                    || ((self.place_on(key).is_some() || self.lingers_on(key) || self.try_to_answer(slot, now))
                        && !self.is_held_by_others(key, now))
            }
        }
    }

    /// Interface and address, where other families can be.
    pub(in crate::runtime) fn place(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// Whether a packet for a port that no socket of this family wants may be another's.
    pub(in crate::runtime) fn is_for_others(&mut self, key: PortKey, now: Instant) -> bool {
        self.prefix.is_some() && self.is_held_by_others(key, now)
    }

    /// Whether the port is one of this family's to choose.
    fn is_in_own_block(&mut self, port: u16) -> bool {
        self.is_ephemeral(port) && self.has_name(Claim::Block(port / BLOCK)) && !self.is_excluded(port)
    }

    /// Whether this family has the name of a port that its connections linger on.
    fn lingers_on(&mut self, key: PortKey) -> bool {
        [false, true].into_iter().any(|reusable| self.has_name(Claim::Lingering { key, reusable }))
    }

    /// Whether another family has the port, by itself or by its block.
    fn is_held_by_others(&mut self, key: PortKey, now: Instant) -> bool {
        self.remembered.retain(|known| known.until > now);
        let by_block = self.is_ephemeral(key.port) && self.place_on(key).is_none();
        let block = by_block.then_some(Claim::Block(key.port / BLOCK));
        let places = (0..PLACES).map(|place| Claim::Port(key, place));
        let lingering = [false, true].map(|reusable| Claim::Lingering { key, reusable });
        let claims: Vec<Claim> = block.into_iter().chain(places).chain(lingering).collect();
        // A name that was given up is still ours until the keeper has closed it.
        let is_ours = |claim: &Claim| self.held.iter().any(|held| held.claim == *claim && held.place != Where::Nowhere);
        let theirs: Vec<Claim> = claims.into_iter().filter(|claim| !is_ours(claim)).collect();
        if theirs.iter().any(|claim| self.remembered.iter().any(|known| known.claim == *claim)) {
            return true;
        }
        let probe = Probe::new();
        if !probe.sees() {
            // A reset that does not come does less harm than one for the connection of another.
            return true;
        }
        let Some(claim) = theirs.into_iter().find(|claim| self.is_another(&probe, *claim)) else { return false };
        if self.remembered.len() >= MEMORY {
            self.remembered.swap_remove(0);
        }
        self.remembered.push(Remembered { claim, until: now + BELIEVED });
        true
    }

    /// Remembers that connections linger on a port, under its name if that is free.
    pub(super) fn linger(&mut self, key: PortKey, reusable: bool, slot: SlotId) {
        let claim = Claim::Lingering { key, reusable };
        // The process that closed the last socket may be gone before the connections are.
        self.hand_over |= slot != SlotId::KEEPER;
        if self.claim(claim, slot).is_err() {
            let held = Held { claim, place: Where::Nowhere, uses: 1, dropped: false };
            self.held.push(held);
            self.changed = true;
        }
    }

    /// Ports that connections linger on.
    pub(super) fn lingering(&self) -> impl Iterator<Item = PortKey> {
        self.held.iter().filter_map(|held| match held.claim {
            Claim::Lingering { key, .. } if !held.dropped => Some(key),
            _ => None,
        })
    }

    /// Nothing lingers on a port any more. The keeper has something to close.
    pub(super) fn drop_lingering(&mut self, key: PortKey, slot: SlotId) {
        let is_it = |held: &Held| matches!(held.claim, Claim::Lingering { key: of, .. } if of == key);
        for held in self.held.iter_mut().filter(|held| is_it(held)) {
            held.dropped = true;
            self.changed = true;
        }
        self.held.retain(|held| !is_it(held) || held.place != Where::Nowhere);
        self.trim_marks(slot);
    }
}
