//! TCP MD5 signatures (RFC 2385; TCP_MD5SIG, TCP_MD5SIG_EXT): the keys of a socket, the digest of a segment, and what
//! becomes of a segment that comes without the right one (`tcp_inbound_hash`). Where the option stands among the others
//! is in `header.rs`. An interface number is not kept: only that of an L3 master device means something to Linux.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use md5::{Digest, Md5};

use super::header::{BASE_LENGTH, Header, HeaderBytes};
use super::receive::Incoming;
use super::{PROTOCOL, Tcp, Tuple};
use crate::socket::error::OptionError;
use crate::socket::options::SignatureKey;
use crate::socket::protocol::Net;

/// Linux's TCP_MD5SIG_MAXKEYLEN.
const LONGEST_KEY: usize = 80;
/// As many as net.core.optmem_max (128 KiB) has room for: 136 bytes each (`struct tcp_md5sig_key`).
const MOST_KEYS: usize = 963;

/// Linux's address families, flags of TCP_MD5SIG_EXT, and the size of its `struct tcp_md5sig`.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const FLAG_PREFIX: u8 = 1;
const FLAG_IFINDEX: u8 = 2;
const SIGNATURE_SIZE: usize = 216;

/// The keys of one socket, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Signatures(Vec<SignatureKey>);

impl Signatures {
    /// Sets, replaces or (a key of no bytes) deletes a key (`tcp_md5_do_add`, `tcp_md5_do_del`).
    //= REF T-09
    pub fn change(&mut self, new: &SignatureKey) -> Result<(), OptionError> {
        let same = |old: &SignatureKey| {
            old.address == new.address && old.prefix == new.prefix && old.default_domain == new.default_domain
        };
        let place = self.0.iter().position(same);
        if new.key.is_empty() {
            self.0.remove(place.ok_or(OptionError::NotFound)?);
            return Ok(());
        }
        if new.key.len() > LONGEST_KEY {
            return Err(OptionError::Invalid);
        }
        if let Some(old) = place.and_then(|place| self.0.get_mut(place)) {
            old.key.clone_from(&new.key);
            return Ok(());
        }
        if self.0.len() >= MOST_KEYS {
            return Err(OptionError::OptionMemory);
        }
        self.0.insert(0, new.clone());
        Ok(())
    }

    /// The key for a peer: that of the longest prefix (`tcp_md5_do_lookup`).
    pub fn find(&self, peer: IpAddr) -> Option<&SignatureKey> {
        let mut best: Option<&SignatureKey> = None;
        for key in self.0.iter().filter(|key| covers(key, peer)) {
            if best.is_none_or(|best| best.prefix < key.prefix) {
                best = Some(key);
            }
        }
        best
    }

    /// The bytes of the key for a peer.
    pub fn key(&self, peer: IpAddr) -> Option<&[u8]> {
        self.find(peer).map(|key| key.key.as_slice())
    }

    /// A key as Linux's `struct tcp_md5sig` has it, counted from the oldest.
    pub fn exported(&self, place: usize) -> Option<Vec<u8>> {
        let key = self.0.iter().rev().nth(place)?;
        let mut bytes = Vec::with_capacity(SIGNATURE_SIZE);
        match key.address {
            IpAddr::V4(address) => {
                bytes.extend_from_slice(&AF_INET.to_ne_bytes());
                bytes.extend_from_slice(&[0; 2]);
                bytes.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes.extend_from_slice(&AF_INET6.to_ne_bytes());
                bytes.extend_from_slice(&[0; 6]);
                bytes.extend_from_slice(&address.octets());
            }
        }
        // struct sockaddr_storage.
        bytes.resize(128, 0);
        bytes.push(FLAG_PREFIX | if key.default_domain { FLAG_IFINDEX } else { 0 });
        bytes.push(key.prefix);
        bytes.extend_from_slice(&u16::try_from(key.key.len()).ok()?.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&key.key);
        bytes.resize(SIGNATURE_SIZE, 0);
        Some(bytes)
    }

    /// What outlives the socket or is there before it.
    pub fn copy_of_key(&self, peer: IpAddr) -> Option<Box<[u8]>> {
        self.key(peer).map(Box::from)
    }

    /// What a connection from `peer` gets of its listener's keys: the one that counts (`tcp_v4_syn_recv_sock`).
    pub fn inherited(&self, peer: IpAddr) -> Self {
        let own = |key: &SignatureKey| SignatureKey {
            address: peer,
            prefix: if peer.is_ipv4() { 32 } else { 128 },
            ..key.clone()
        };
        Self(self.find(peer).map(own).into_iter().collect())
    }
}

fn covers(key: &SignatureKey, peer: IpAddr) -> bool {
    let differs = match (key.address, peer) {
        (IpAddr::V4(address), IpAddr::V4(peer)) => {
            u128::from(address.to_bits() ^ peer.to_bits()).checked_shr(32_u32.saturating_sub(u32::from(key.prefix)))
        }
        (IpAddr::V6(address), IpAddr::V6(peer)) => {
            (address.to_bits() ^ peer.to_bits()).checked_shr(128_u32.saturating_sub(u32::from(key.prefix)))
        }
        _ => return false,
    };
    // No bits are left to compare: prefix 0 covers all.
    differs.unwrap_or(0) == 0
}

/// The digest of a segment whose header begins with `base` (checksum left out) and which has `length` bytes in all.
//= RFC 2385 §2.0
fn digest<'a>(
    (source, destination): (IpAddr, IpAddr),
    base: &[u8],
    length: usize,
    payload: impl Iterator<Item = &'a [u8]>,
    key: &[u8],
) -> [u8; 16] {
    let mut hash = Md5::new();
    let length = u32::try_from(length).unwrap_or(0);
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            hash.update(source.octets());
            hash.update(destination.octets());
            hash.update(length.to_be_bytes());
            hash.update([0, 0, 0, PROTOCOL]);
        }
        (source, destination) => {
            for address in [source, destination] {
                if let IpAddr::V4(address) = address {
                    hash.update(address.octets());
                }
            }
            hash.update([0, PROTOCOL]);
            hash.update(u16::try_from(length).unwrap_or(0).to_be_bytes());
        }
    }
    hash.update(base.get(..16).unwrap_or_default());
    hash.update([0, 0]);
    hash.update(base.get(18..BASE_LENGTH).unwrap_or_default());
    for part in payload {
        hash.update(part);
    }
    hash.update(key);
    hash.finalize().into()
}

/// The bytes of a header, signed if there is a key.
pub fn emit(
    mut header: Header,
    source: IpAddr,
    destination: IpAddr,
    payload: &[&[u8]],
    key: Option<&[u8]>,
) -> HeaderBytes {
    let Some(key) = key else { return header.emit() };
    header.options.signature = Some([0; 16]);
    let bytes = header.emit();
    let length = bytes.as_slice().len() + payload.iter().map(|part| part.len()).sum::<usize>();
    let signed = digest((source, destination), bytes.as_slice(), length, payload.iter().copied(), key);
    header.options.signature = Some(signed);
    header.emit()
}

impl Incoming<'_> {
    /// Whether the signature that it carries was made with `key`.
    fn is_signed_with(&self, key: &[u8]) -> bool {
        let whole = self.payload.buffer.get(self.header_at..self.payload.end).unwrap_or_default();
        let data = self.payload.buffer.get(self.payload.at..self.payload.end).unwrap_or_default();
        let ends = (self.info.source, self.info.destination);
        let right = digest(ends, whole, whole.len(), core::iter::once(data), key);
        // In the same time wherever they differ.
        let given = self.header.options.signature.unwrap_or_default();
        let differs = right.iter().zip(given).fold(0, |differs, (right, given)| differs | (right ^ given));
        differs == 0 && self.header.options.signature.is_some()
    }

    /// Whether a segment has the signature that it has to have, and none otherwise (`tcp_inbound_hash`).
    //= REF T-09
    pub fn is_signed_right(&self, net: &mut Net<'_>, signatures: &Signatures) -> bool {
        match (signatures.key(self.info.source), self.header.options.signature) {
            (None, None) => true,
            (Some(_), None) => {
                net.counters.tcp_md5_not_found += 1;
                false
            }
            (None, Some(_)) => {
                net.counters.tcp_md5_unexpected += 1;
                false
            }
            (Some(key), Some(_)) => {
                let right = self.is_signed_with(key);
                net.counters.tcp_md5_failure += u64::from(!right);
                right
            }
        }
    }
}

impl Tcp {
    /// The keys of a socket that `index` names, or none.
    pub(super) fn signatures(&self, index: u32) -> Option<&Signatures> {
        self.sock(index).map(|sock| &sock.signatures)
    }

    /// A signed segment that belongs to nobody: its peer takes only a signed RST. A listener on the peer's port knows
    /// the key if anybody does (`tcp_v4_send_reset`). `Err`: no RST at all.
    pub(super) fn key_for_stray(
        &self,
        net: &Net<'_>,
        tuple: &Tuple,
        incoming: &Incoming<'_>,
    ) -> Result<Option<Box<[u8]>>, ()> {
        if incoming.header.options.signature.is_none() {
            return Ok(None);
        }
        let other = Tuple { local_port: tuple.remote_port, ..*tuple };
        let key = self
            .find_listener(net, &other, incoming.info.looped, None)
            .and_then(|index| self.signatures(index)?.copy_of_key(tuple.remote));
        match key {
            Some(key) if incoming.is_signed_with(&key) => Ok(Some(key)),
            _ => Err(()),
        }
    }
}
