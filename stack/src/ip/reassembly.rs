//! Putting fragments together (RFC 791 §3.2, RFC 815), with Linux's limits in time and memory, and its refusal of
//! fragments that overlap (RFC 5722 for IPv6, taken over for IPv4; an overlap is an attack or an accident).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use crate::counters::Counters;
use crate::settings::Settings;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;
use crate::wire::ipv4::{HEADER_LENGTH, Ipv4, LONGEST};
use crate::wire::{checksum, write_u16};

/// What a fragment costs beside its bytes, so that very small ones cannot fill memory unnoticed.
const FRAGMENT_OVERHEAD: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    id: u16,
    protocol: u8,
}

#[derive(Debug)]
struct Pending {
    /// When to give up.
    expires: Instant,
    /// Payload by its place in the datagram; no two overlap.
    pieces: BTreeMap<usize, Vec<u8>>,
    /// Length of the whole payload, once the last fragment is there.
    total: Option<usize>,
    /// Payload bytes that have arrived.
    arrived: usize,
    /// Header and the first bytes of the first fragment, as ICMP would quote them.
    head: Option<Vec<u8>>,
    /// Bytes of the header in `head`.
    header: usize,
    /// Whether any of them had the congestion mark (RFC 3168 §5.3).
    congested: bool,
    /// Options of the first fragment.
    options: IpOptions,
    /// Bytes of the largest fragment.
    largest: u16,
}

/// A datagram that is complete.
#[derive(Debug)]
pub struct Whole {
    /// Header and payload.
    pub packet: Vec<u8>,
    /// Options as the first fragment had them.
    pub options: IpOptions,
    /// Bytes of the largest fragment.
    pub largest: u16,
}

/// A datagram that was given up and whose sender is to be told: its first fragment.
#[derive(Debug)]
//= RFC 1122 §3.3.2 (MUST-73)
pub struct Expired {
    /// The first fragment, header and all.
    pub packet: Vec<u8>,
    /// Its options.
    pub options: IpOptions,
}

/// Datagrams in pieces.
#[derive(Debug, Default)]
pub struct Reassembly {
    pending: BTreeMap<Key, Pending>,
    bytes: usize,
    /// No datagram expires before this. It may have been completed meanwhile, which costs one idle look.
    earliest: Option<Instant>,
}

enum Refused {
    /// A copy of what is there.
    Duplicate,
    /// Overlaps what is there.
    Overlap,
    /// Contradicts what is there, or makes no sense.
    Bad,
}

impl Reassembly {
    /// Adds a fragment; gives the whole packet when it was the last one missing (`ip_defrag`).
    //= REF N-01
    //= RFC 1122 §3.2.1.4 (MUST-13)
    pub fn add(
        &mut self,
        now: Instant,
        settings: &Settings,
        counters: &mut Counters,
        (header, options): (&Ipv4, &IpOptions),
        packet: &[u8],
    ) -> Option<Whole> {
        counters.ip_reasm_reqds += 1;
        let payload = packet.get(header.header..header.total)?;
        let key =
            Key { source: header.source, destination: header.destination, id: header.id, protocol: header.protocol };
        let cost = payload.len().saturating_add(FRAGMENT_OVERHEAD);
        //= RFC 1122 §3.3.2 (MUST-71, SHLD-24)
        let limit = usize::try_from(settings.ipfrag_high_thresh).unwrap_or(usize::MAX);
        if self.bytes.saturating_add(cost) > limit {
            // `inet_frag_find`: beyond the limit nothing new is taken until old ones have gone.
            counters.ip_reasm_fails += 1;
            return None;
        }
        //= RFC 1122 §3.3.2 (SHLD-25)
        let expires = now + Duration::from_secs(u64::from(settings.ipfrag_time));
        self.earliest = Some(self.earliest.map_or(expires, |earliest| earliest.min(expires)));
        let pending = self.pending.entry(key).or_insert_with(|| Pending {
            expires,
            pieces: BTreeMap::new(),
            total: None,
            arrived: 0,
            head: None,
            header: HEADER_LENGTH,
            congested: false,
            options: IpOptions::NONE,
            largest: 0,
        });
        if header.offset == 0 {
            pending.options = *options;
        }
        pending.largest = pending.largest.max(u16::try_from(header.total).unwrap_or(u16::MAX));
        match pending.add(header, packet, payload) {
            Ok(added) => self.bytes = self.bytes.saturating_add(added),
            Err(Refused::Duplicate) => return None,
            Err(refused) => {
                if matches!(refused, Refused::Overlap) {
                    counters.reasm_overlaps += 1;
                }
                counters.ip_reasm_fails += 1;
                self.forget(key);
                return None;
            }
        }
        if !pending.is_complete() {
            return None;
        }
        let pending = self.forget(key)?;
        let (options, largest) = (pending.options, pending.largest);
        match pending.join() {
            Some(packet) => {
                counters.ip_reasm_oks += 1;
                Some(Whole { packet, options, largest })
            }
            None => {
                counters.ip_reasm_fails += 1;
                None
            }
        }
    }

    /// Gives up what has waited too long (`ip_expire`). Senders whose first fragment arrived are to be told.
    pub fn handle_timeout(&mut self, now: Instant, counters: &mut Counters) -> Vec<Expired> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let late: Vec<Key> = self.pending.iter().filter(|(_, one)| now >= one.expires).map(|(key, _)| *key).collect();
        let mut expired = Vec::new();
        for key in late {
            counters.ip_reasm_timeout += 1;
            counters.ip_reasm_fails += 1;
            if let Some(Pending { head: Some(packet), options, .. }) = self.forget(key) {
                expired.push(Expired { packet, options });
            }
        }
        self.earliest = self.pending.values().map(|pending| pending.expires).min();
        expired
    }

    /// When to give up next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.earliest.filter(|_| !self.pending.is_empty())
    }

    /// Bytes held.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, key: Key) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        let held = pending.arrived.saturating_add(pending.pieces.len().saturating_mul(FRAGMENT_OVERHEAD));
        self.bytes = self.bytes.saturating_sub(held);
        Some(pending)
    }
}

impl Pending {
    /// Adds one piece; says how much memory it takes (`ip_frag_queue`).
    fn add(&mut self, header: &Ipv4, packet: &[u8], payload: &[u8]) -> Result<usize, Refused> {
        let start = header.offset;
        // A piece that is not the last has a multiple of 8 bytes; what is over is cut off.
        let length = if header.more_fragments { payload.len() & !7 } else { payload.len() };
        let payload = payload.get(..length).unwrap_or(&[]);
        let end = start.saturating_add(length);
        if length == 0 || end.saturating_add(HEADER_LENGTH) > LONGEST {
            return Err(Refused::Bad);
        }
        let highest = self.pieces.last_key_value().map_or(0, |(place, piece)| place + piece.len());
        match (header.more_fragments, self.total) {
            (false, Some(total)) if total != end => return Err(Refused::Bad),
            (false, _) if end < highest => return Err(Refused::Bad),
            (true, Some(total)) if end > total => return Err(Refused::Bad),
            _ => {}
        }
        if let Some((before, piece)) = self.pieces.range(..end).next_back()
            && before + piece.len() > start
        {
            let covered = *before <= start && before + piece.len() >= end;
            return Err(if covered { Refused::Duplicate } else { Refused::Overlap });
        }
        if !header.more_fragments {
            self.total = Some(end);
        }
        self.congested |= header.tos & 3 == 3;
        if start == 0 {
            self.header = header.header;
            self.head = packet.get(..header.total.min(packet.len())).map(<[u8]>::to_vec);
        }
        self.arrived += length;
        self.pieces.insert(start, payload.to_vec());
        Ok(length.saturating_add(FRAGMENT_OVERHEAD))
    }

    fn is_complete(&self) -> bool {
        self.head.is_some() && self.total == Some(self.arrived)
    }

    /// The datagram as if it had never been in pieces: the first fragment's header over all the payload.
    fn join(self) -> Option<Vec<u8>> {
        let mut whole = self.head?;
        whole.truncate(self.header);
        let total = u16::try_from(self.header.checked_add(self.arrived)?).ok()?;
        for piece in self.pieces.values() {
            whole.extend_from_slice(piece);
        }
        if self.congested {
            //= RFC 3168 §5.3
            *whole.get_mut(1)? |= 3;
        }
        write_u16(&mut whole, 2, total);
        write_u16(&mut whole, 6, 0);
        write_u16(&mut whole, 10, 0);
        let sum = checksum::of(whole.get(..self.header)?);
        write_u16(&mut whole, 10, sum);
        Some(whole)
    }
}
