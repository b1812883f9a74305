//! What bind, listen, shutdown and the last close of a socket do with the family's claims, and what is left to others of a
//! port that connections linger on.

use super::ask::{Answer, ask};
use super::blocks::BLOCK;
use super::names::{Claim, ClaimError, PLACES, PortKey, Probe, take_name};
use super::random_word;
use super::share::Terms;
use crate::runtime::keeper::{Message, send_to_keeper};
use crate::runtime::member::SlotId;
use crate::runtime::{Broken, Core, DescriptionId, Open, Runtime, SocketKind};
use crate::sys::{Fd, call};
use remora_stack::socket::error::{BindError, ListenError, ShutdownError};
use remora_stack::socket::protocol::{Shutdown, SocketId, SocketType};
use remora_stack::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a bind waits for that of another family to end: it takes some hundred microseconds, unless its process is
/// stopped in the middle, which must not stop all others.
const TURN: Duration = Duration::from_secs(1);

/// When to look again whether it has ended.
const TURN_LOOK: Duration = Duration::from_micros(200);

/// The right to look at names and take some before anyone else does; given up when dropped.
struct Turn(Option<Fd>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(fd) = self.0 {
            let _ = call::close(fd);
        }
    }
}

/// What became of a call that takes names.
enum Attempt<R> {
    Done(R),
    /// Another family has this claim, which keeps us from the port.
    InTheWay(Claim, PortKey),
}

/// How often others are asked for one call, at most: all who have a port, and some whose claims go meanwhile.
const QUESTIONS: usize = PLACES as usize + 8;

fn protocol_of(kind: SocketKind) -> Option<u8> {
    match kind.kind {
        SocketType::Stream => Some(libc::IPPROTO_TCP as u8),
        SocketType::Datagram if i32::from(kind.protocol) == libc::IPPROTO_UDPLITE => Some(kind.protocol),
        SocketType::Datagram => Some(libc::IPPROTO_UDP as u8),
        SocketType::Raw => None,
    }
}

impl Core {
    /// Takes the turn at the address's ports; `None` while another family has it.
    fn take_turn(&self, waited: bool) -> Option<Turn> {
        let Some(prefix) = self.registry.prefix.as_deref() else { return Some(Turn(None)) };
        match take_name(&format!("{prefix}/turn")) {
            Ok(fd) => Some(Turn(Some(fd))),
            Err(ClaimError::Taken) if !waited => None,
            Err(_) => Some(Turn(None)),
        }
    }

    /// What others are to know of the sockets that are bound to a port, and of one more that is about to be.
    fn terms_with(&self, key: PortKey, one_more: Option<SocketId>) -> Terms {
        let bound = self.descriptions.values().filter(|description| description.claim == Some(key));
        let sockets = bound.map(|description| description.socket).chain(one_more);
        let mut terms = Terms { reuse: true, share: Some(0), listens: false };
        for socket in sockets {
            let Some(options) = self.stack.options(socket) else { continue };
            terms.reuse &= options.reuse_address;
            terms.share = terms.share.filter(|_| options.reuse_port);
            terms.listens |= self.stack.is_listening(socket);
        }
        terms.share = terms.share.map(|_| call::effective_user());
        terms
    }

    /// Claims a port for a bind. Whoever has the block of an ephemeral one is asked first (`asked`).
    fn claim_port(&mut self, key: PortKey, socket: SocketId, slot: SlotId, asked: &[Claim]) -> Result<(), Claim> {
        self.registry.remembered.clear();
        if self.registry.is_ephemeral(key.port) && !self.registry.has_block_of(key.port) {
            let block = Claim::Block(key.port / BLOCK);
            // Marked before it is looked for: who takes the block meanwhile sees the mark.
            self.registry.mark(key.port, slot).map_err(|_| block)?;
            let is_ours = self.registry.find(block).is_some();
            if !is_ours && !asked.contains(&block) && self.registry.is_another(&Probe::new(), block) {
                self.registry.trim_marks(slot);
                return Err(block);
            }
        }
        let terms = self.terms_with(key, Some(socket));
        let result = match self.registry.may_have(key, terms) {
            // Whoever is there is told before we come: from then on it looks who else is there.
            Ok(others) => match (0..PLACES).find(|it| others >> it & 1 != 0 && !asked.contains(&Claim::Port(key, *it)))
            {
                Some(place) => Err(Claim::Port(key, place)),
                None => self.registry.take_place(key, terms, slot),
            },
            Err(claim) => Err(claim),
        };
        if result.is_err() {
            self.registry.trim_marks(slot);
        }
        result
    }

    /// Another family wants a port, or a place on it: lets it know what sockets this one has there, chosen or bound, and chooses it no more.
    pub(in crate::runtime) fn make_known(&mut self, port: u16, now: Instant) {
        self.registry.expect_company(port, now);
        if !self.registry.exclude(port, now) {
            return;
        }
        self.share_ports();
        let slot = self.inside;
        for key in PortKey::all(port) {
            let unclaimed = self.descriptions.names().filter(|id| self.is_unclaimed_on(*id, key));
            let unclaimed: Vec<DescriptionId> = unclaimed.collect();
            for id in &unclaimed {
                let Some(socket) = self.socket_of(*id) else { continue };
                let terms = self.terms_with(key, Some(socket));
                if self.registry.take_place(key, terms, slot).is_ok()
                    && let Some(description) = self.descriptions.find_mut(*id)
                {
                    description.claim = Some(key);
                }
            }
            if !unclaimed.is_empty() {
                self.announce_terms(key);
            } else if self.registry.place_on(key).is_none() {
                self.linger(key);
            }
        }
    }

    fn is_unclaimed_on(&self, id: DescriptionId, key: PortKey) -> bool {
        let Some(description) = self.descriptions.find(id) else { return false };
        protocol_of(description.kind) == Some(key.protocol)
            && description.claim.is_none()
            && self.stack.local_name(description.socket).is_ok_and(|name| name.port() == key.port)
    }

    /// Tells the others what the sockets on a port are now.
    fn announce_terms(&mut self, key: PortKey) {
        let terms = self.terms_with(key, None);
        if self.registry.set_terms(key, terms, self.inside) {
            self.roster.ring_keeper();
        }
    }

    fn bind_claimed(
        &mut self,
        id: DescriptionId,
        address: SocketAddr,
        now: Instant,
        (asked, random): (&[Claim], u32),
    ) -> Attempt<Result<(), BindError>> {
        let Some(description) = self.descriptions.find(id) else { return Attempt::Done(Err(BindError::Invalid)) };
        let (socket, slot) = (description.socket, self.inside);
        let Some(protocol) = protocol_of(description.kind) else {
            return Attempt::Done(self.stack.bind(now, socket, address));
        };
        let key = PortKey { protocol, port: address.port() };
        let claimed = key.port != 0 && self.registry.prefix.is_some();
        if claimed && let Err(claim) = self.claim_port(key, socket, slot, asked) {
            return Attempt::InTheWay(claim, key);
        }
        let mut result = self.stack.bind(now, socket, address);
        // One that asks for any port, of those that this family has or may have.
        while result == Err(BindError::AddressInUse) && key.port == 0 && self.extend_ports(slot, random) {
            result = self.stack.bind(now, socket, address);
        }
        match self.descriptions.find_mut(id) {
            Some(description) if claimed && result.is_ok() => {
                description.claim = Some(key);
                self.announce_terms(key);
            }
            _ if claimed => self.release_port(key),
            _ => {}
        }
        Attempt::Done(result)
    }

    fn listen_claimed(
        &mut self,
        id: DescriptionId,
        backlog: i32,
        now: Instant,
        random: u32,
    ) -> Attempt<Option<Result<(), ListenError>>> {
        let Some(description) = self.descriptions.find(id) else { return Attempt::Done(None) };
        let (socket, key, slot) = (description.socket, description.claim, self.inside);
        if let Some(key) = key.filter(|_| !self.stack.is_listening(socket)) {
            // Two that have SO_REUSEADDR may be bound, and only one of them may listen.
            let terms = Terms { listens: true, ..self.terms_with(key, None) };
            if let Err(claim) = self.registry.may_have(key, terms) {
                return Attempt::InTheWay(claim, key);
            }
        }
        let unbound = self.stack.local_name(socket).is_ok_and(|name| name.port() == 0);
        let mut result = self.stack.listen(now, socket, backlog);
        while result == Err(ListenError::AddressInUse) && unbound && self.extend_ports(slot, random) {
            result = self.stack.listen(now, socket, backlog);
        }
        if let Some(key) = key.filter(|_| result.is_ok()) {
            self.announce_terms(key);
        }
        Attempt::Done(Some(result))
    }

    /// Gives up the names of ports that nothing lingers on any more.
    pub(in crate::runtime) fn release_lingering(&mut self) {
        loop {
            let over = self.registry.lingering().find(|key| !self.stack.is_port_used(key.protocol, key.port));
            let Some(key) = over else { return };
            self.registry.drop_lingering(key, self.inside);
            self.roster.ring_keeper();
        }
    }

    /// Ports whose claims have gone with a process while connections of others go on.
    pub(in crate::runtime) fn keep_lingering(&mut self, ports: &[PortKey]) {
        for key in ports {
            let claimed =
                self.registry.place_on(*key).is_some() || self.registry.lingering().any(|other| other == *key);
            if !claimed {
                self.linger(*key);
            }
        }
    }

    pub(super) fn linger(&mut self, key: PortKey) {
        if self.stack.is_port_used(key.protocol, key.port) {
            let reusable = self.stack.is_port_reusable(key.protocol, key.port);
            self.registry.linger(key, reusable, self.inside);
        }
    }

    /// A bound socket has gone. What it leaves on the port lingers under another name.
    pub(in crate::runtime) fn release_port(&mut self, key: PortKey) {
        let slot = self.inside;
        if self.registry.uses_of(key) == 1 {
            self.linger(key);
        }
        if self.registry.leave_place(key, slot) {
            self.roster.ring_keeper();
        }
        if self.registry.place_on(key).is_some() {
            self.announce_terms(key);
        }
    }
}

impl Runtime {
    /// Does what looks at the names of others and takes some: in turn with other families.
    fn in_turn<R>(&self, mut body: impl FnMut(&mut Core, Instant) -> R) -> Result<R, Broken> {
        let end = call::now() + TURN;
        loop {
            let waited = call::now() >= end;
            let done = self.enter(|core, now| {
                let _turn = core.take_turn(waited)?;
                Some(body(core, now))
            })?;
            if let Some(result) = done {
                self.hand_over_claims();
                return Ok(result);
            }
            let _ = call::ppoll(&mut [], Some(TURN_LOOK), None);
        }
    }

    /// The same, asking those whose claims are in the way. `None`: they stay there.
    fn agreed<R>(&self, mut body: impl FnMut(&mut Core, Instant, &[Claim]) -> Attempt<R>) -> Result<Option<R>, Broken> {
        let mut asked: Vec<Claim> = Vec::new();
        for _ in 0..QUESTIONS {
            let (claim, key) = match self.in_turn(|core, now| body(core, now, &asked))? {
                Attempt::Done(result) => return Ok(Some(result)),
                Attempt::InTheWay(claim, key) => (claim, key),
            };
            if asked.contains(&claim) {
                break;
            }
            let name = self.enter(|core, _| {
                let _private = crate::sys::alloc::leave_arena();
                core.registry.prefix.as_deref().map(|prefix| claim.name(prefix))
            })?;
            match name.map_or(Answer::None, |name| ask(&name, key)) {
                Answer::Stands => asked.push(claim),
                Answer::Gone => {}
                Answer::None => break,
            }
        }
        Ok(None)
    }

    /// Binds a socket, after claiming its port from the other families on the address.
    ///
    /// # Errors
    /// As the stack's `bind`; `AddressInUse` also for a port of another family. `Invalid` when the description is gone.
    pub fn bind(&self, id: DescriptionId, address: SocketAddr) -> Result<(), BindError> {
        let random = random_word();
        match self.agreed(|core, now, asked| core.bind_claimed(id, address, now, (asked, random))) {
            Ok(result) => result.unwrap_or(Err(BindError::AddressInUse)),
            Err(Broken) => Err(BindError::Invalid),
        }
    }

    /// Puts a socket into LISTEN; one that is not bound gets an ephemeral port (`inet_autobind`).
    ///
    /// # Errors
    /// As the stack's `listen`; `None` when the description is gone.
    pub fn listen(&self, id: DescriptionId, backlog: i32) -> Option<Result<(), ListenError>> {
        let random = random_word();
        match self.agreed(|core, now, _| core.listen_claimed(id, backlog, now, random)) {
            Ok(result) => result.unwrap_or(Some(Err(ListenError::AddressInUse))),
            Err(Broken) => None,
        }
    }

    /// Shuts a socket down. A listener that is shut down for reading listens no more: its port is for others to serve.
    ///
    /// # Errors
    /// As the stack's `shutdown`; `None` when the description is gone.
    pub fn shutdown(&self, id: DescriptionId, half: Shutdown) -> Option<Result<(), ShutdownError>> {
        self.enter(|core, now| {
            let description = core.descriptions.find(id)?;
            let (socket, key) = (description.socket, description.claim);
            let listened = core.stack.is_listening(socket);
            let result = core.stack.shutdown(now, socket, half);
            if let Some(key) = key.filter(|_| listened && !core.stack.is_listening(socket)) {
                core.announce_terms(key);
            }
            Some(result)
        })
        .ok()
        .flatten()
    }

    /// Gives the keeper the claims that this process has.
    pub(in crate::runtime) fn hand_over_claims(&self) {
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
