//! The end of a family whose state is lost because a process died in the middle of a change. Its keeper reads the table
//! of connections once more, without changing or allocating anything there, and tells the peers: with a stack of its
//! own, of which only resets and what they need (ARP) go out. Should what it reads be damaged, the keeper may die of it;
//! it would have ended anyway. Members learn of the loss by their doorbells; ports and names are free at once.

use super::registry::Claim;
use super::roster::{BELLS, KEEPER_BELL};
use super::{Broken, Core, Inside, Open};
use crate::device::{Device, Ports, Scope};
use crate::sys::alloc::leave_arena;
use crate::sys::shared::Shared;
use crate::sys::{Fd, call};
use remora_stack::frame::{Medium, Purpose};
use remora_stack::random::Secret;
use remora_stack::stack::Stack;
use remora_stack::time::Instant;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Most connections that are reset: as many as a table in good order can have.
const MOST: usize = 1 << 20;

/// Resets sent between two looks at what has arrived; no more than wait for one neighbour's address.
const BATCH: usize = 32;

/// When to send the next batch although no neighbour has answered.
const BETWEEN: Duration = Duration::from_millis(20);

/// How long what peers still send is answered by a reset: more than a round trip and a delayed acknowledgment, for those
/// that challenge the first one (RFC 5961 §3.2).
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Peer and ports of a connection.
type Key = (Ipv4Addr, u16, u16);

/// Ends the family: rings its members, resets its peers and gives up its names.
pub(super) fn wind_up(family: &'static Shared<Open, Core>, claims: &mut Vec<(Claim, Fd)>) {
    ring_all(family.open());
    let estate = take_estate(family);
    let mut give_up_names = || {
        for (_, fd) in claims.drain(..) {
            let _ = call::close(fd);
        }
    };
    let Some(mut estate) = estate else { return give_up_names() };
    let count = estate.reset_all();
    give_up_names();
    log::warn!(target: "remora::runtime", "{count} connections of the lost family were reset");
    estate.answer_until(call::now() + AFTERWARDS);
    // Members may have the device's descriptors for as long as they live: nothing is to pile up there.
    let nothing = Ports::Only { ranges: Vec::new(), singles: Vec::new(), others: false };
    let _ = estate.device.set_scope(&Scope { addresses: Vec::new(), ports: nothing });
    // It lies in the lost arena, whose heap is not to be touched.
    std::mem::forget(estate.device);
}

/// Has everyone who sleeps look: they find the family lost.
pub(super) fn ring_all(open: &Open) {
    for index in (0..BELLS as u32).chain([KEEPER_BELL]) {
        if let Some(bell) = open.bell(index) {
            call::eventfd_ring(bell);
        }
    }
}

/// The device, the connections and the stack that resets them, in private memory.
struct Estate {
    device: Box<dyn Device>,
    stack: Stack,
    remnants: Vec<remora_stack::tcp::Remnant>,
    keys: BTreeSet<Key>,
    buffer: Vec<u8>,
}

/// Reads what is needed of the lost state, under its lock.
fn take_estate(family: &'static Shared<Open, Core>) -> Option<Estate> {
    let mut secret: Secret = [0; 32];
    call::random_bytes(&mut secret).ok()?;
    let _inside = Inside::new();
    let mut core = family.enter(|_, taken| taken.map(drop).map_err(|_| Broken)).ok()?;
    let private = leave_arena();
    let device = core.device.take()?;
    let mut interface = core.stack.interface()?.clone();
    interface.probe = false;
    let remnants: Vec<_> = core.stack.remnants().take(MOST).collect();
    let mut stack = Stack::new(core.stack.settings().clone(), secret);
    drop(private);
    drop(core);
    stack.attach(call::now(), interface);
    let keys = remnants.iter().filter_map(|one| match one.tuple.remote {
        IpAddr::V4(address) => Some((address, one.tuple.remote_port, one.tuple.local_port)),
        IpAddr::V6(_) => None,
    });
    let keys = keys.collect();
    Some(Estate { device, stack, remnants, keys, buffer: Vec::new() })
}

impl Estate {
    /// Sends a reset for each connection; says for how many.
    fn reset_all(&mut self) -> usize {
        let remnants = std::mem::take(&mut self.remnants);
        for batch in remnants.chunks(BATCH) {
            let now = call::now();
            for remnant in batch {
                self.stack.reset_remnant(now, remnant);
            }
            self.transmit(now);
            if batch.len() == BATCH {
                self.wait(now + BETWEEN);
                self.take_in();
            }
        }
        remnants.len()
    }

    fn answer_until(&mut self, end: Instant) {
        while !self.keys.is_empty() && call::now() < end {
            let due = self.stack.next_timeout().map_or(end, |at| at.min(end));
            self.wait(due);
            self.take_in();
            let now = call::now();
            self.stack.handle_timeout(now);
            self.transmit(now);
        }
    }

    fn wait(&self, until: Instant) {
        let mut set = [libc::pollfd { fd: self.device.fd().raw(), events: libc::POLLIN, revents: 0 }];
        let _ = call::ppoll(&mut set, Some(until.since(call::now())), None);
    }

    /// Takes in what concerns the connections, a bounded number of frames at a time.
    fn take_in(&mut self) {
        let now = call::now();
        let medium = self.device.capabilities().medium;
        for _ in 0..BATCH * 4 {
            self.buffer.clear();
            let Ok(Some(meta)) = self.device.receive(&mut self.buffer) else { break };
            if concerns(&self.keys, medium, &self.buffer) {
                self.stack.handle_frame(now, &mut self.buffer, meta);
            }
        }
        self.transmit(now);
    }

    fn transmit(&mut self, now: Instant) {
        let Self { stack, device, .. } = self;
        while let Some(frame) = stack.poll_transmit(now) {
            if frame.purpose != Purpose::Address {
                let _ = device.transmit(&frame);
            }
        }
    }
}

/// Whether a frame is ARP, or a segment of one of the connections and not the beginning of a new one.
fn concerns(keys: &BTreeSet<Key>, medium: Medium, frame: &[u8]) -> bool {
    let packet = match medium {
        Medium::Ip => frame,
        Medium::Ethernet => match frame.split_at_checked(14) {
            Some(([.., 0x08, 0x06], _)) => return true,
            Some(([.., 0x08, 0x00], packet)) => packet,
            _ => return false,
        },
    };
    let (Some(first), Some(6)) = (packet.first(), packet.get(9)) else { return false };
    let Some([a, b, c, d]) = packet.get(12..16).and_then(|bytes| bytes.first_chunk::<4>()) else { return false };
    let Some(segment) = packet.get(usize::from(first & 0x0f) * 4..).filter(|_| first >> 4 == 4) else { return false };
    let (Some([s, t, u, v]), Some(flags)) = (segment.first_chunk::<4>(), segment.get(13)) else { return false };
    // SYN without ACK.
    let opens = flags & 0x12 == 0x02;
    let key = (Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*s, *t]), u16::from_be_bytes([*u, *v]));
    !opens && keys.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, source: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let mut bytes = vec![0; 14 + 40];
        bytes[12] = 8;
        bytes[14] = 0x45;
        bytes[23] = 6;
        bytes[26..30].copy_from_slice(&source);
        bytes[34..36].copy_from_slice(&ports.0.to_be_bytes());
        bytes[36..38].copy_from_slice(&ports.1.to_be_bytes());
        bytes[47] = flags;
        bytes
    }

    #[test]
    fn only_segments_of_the_lost_connections_are_answered() {
        let keys = BTreeSet::from([(Ipv4Addr::new(10, 0, 0, 2), 80, 40_000)]);
        let is = |frame: &[u8]| concerns(&keys, Medium::Ethernet, frame);
        assert!(is(&frame(0x10, [10, 0, 0, 2], (80, 40_000))));
        assert!(is(&frame(0x12, [10, 0, 0, 2], (80, 40_000))), "SYN-ACK");
        assert!(!is(&frame(0x02, [10, 0, 0, 2], (80, 40_000))), "a new connection of the next family");
        assert!(!is(&frame(0x10, [10, 0, 0, 3], (80, 40_000))));
        assert!(!is(&frame(0x10, [10, 0, 0, 2], (81, 40_000))));
        assert!(!is(&frame(0x10, [10, 0, 0, 2], (80, 40_001))));
        let whole = frame(0x10, [10, 0, 0, 2], (80, 40_000));
        assert!((0..48).all(|length| !is(&whole[..length])), "cut frames concern nobody");
        assert!(concerns(&keys, Medium::Ip, &whole[14..]));
        let mut arp = whole;
        arp[13] = 6;
        assert!(is(&arp));
    }
}
