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

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn key(address: IpAddr, prefix: u8, bytes: &[u8]) -> SignatureKey {
        SignatureKey { address, prefix, default_domain: false, key: bytes.to_vec() }
    }

    fn four(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn six(last: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
    }

    #[test]
    fn the_key_of_the_longest_prefix_counts_whichever_was_set_first() {
        let mut keys = Signatures::default();
        assert_eq!(keys.key(four(1)), None);
        for (address, prefix, bytes) in [
            (four(0), 24, b"net"),
            (four(1), 32, b"own"),
            (four(0), 0, b"all"),
            (six(0), 112, b"six"),
            (six(7), 128, b"one"),
        ] {
            keys.change(&key(address, prefix, bytes)).expect("a key");
        }
        assert_eq!(keys.key(four(1)), Some(&b"own"[..]));
        assert_eq!(keys.key(four(2)), Some(&b"net"[..]));
        assert_eq!(keys.key(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1))), Some(&b"all"[..]));
        assert_eq!(keys.key(six(7)), Some(&b"one"[..]));
        assert_eq!(keys.key(six(8)), Some(&b"six"[..]));
        // The prefix of IPv4 covers nothing of IPv6, and the other way round.
        assert_eq!(keys.key(IpAddr::V6(Ipv6Addr::LOCALHOST)), None);
    }

    #[test]
    fn a_key_is_replaced_and_deleted_by_its_name() {
        let mut keys = Signatures::default();
        keys.change(&key(four(1), 32, b"first")).expect("a key");
        keys.change(&key(four(1), 32, b"second")).expect("another");
        keys.change(&key(four(1), 24, b"wider")).expect("a third");
        assert_eq!(keys.key(four(1)), Some(&b"second"[..]));
        // The oldest first.
        assert_eq!(keys.exported(0).map(|bytes| bytes[129]), Some(32));
        assert_eq!(keys.exported(1).map(|bytes| bytes[129]), Some(24));
        assert_eq!(keys.exported(2), None);
        assert_eq!(keys.change(&key(four(2), 32, b"")), Err(OptionError::NotFound));
        keys.change(&key(four(1), 32, b"")).expect("deleted");
        assert_eq!(keys.key(four(1)), Some(&b"wider"[..]));
        assert_eq!(keys.change(&key(four(1), 32, b"")), Err(OptionError::NotFound));
    }

    #[test]
    fn a_key_has_80_bytes_and_a_socket_963_keys_at_most() {
        let mut keys = Signatures::default();
        assert_eq!(keys.change(&key(four(1), 32, &[1; 81])), Err(OptionError::Invalid));
        keys.change(&key(four(1), 32, &[1; 80])).expect("the longest");
        for number in 1..963 {
            keys.change(&key(six(number), 128, b"k")).expect("there is room");
        }
        assert_eq!(keys.change(&key(six(0), 128, b"k")), Err(OptionError::OptionMemory));
        // One that is there may still change.
        keys.change(&key(four(1), 32, b"short")).expect("no new one");
    }

    #[test]
    fn a_connection_inherits_the_key_that_counts_as_one_of_its_peer_s() {
        let mut keys = Signatures::default();
        keys.change(&key(four(0), 24, b"net")).expect("a key");
        keys.change(&key(six(0), 64, b"six")).expect("a key");
        let own = keys.inherited(four(9));
        assert_eq!((own.key(four(9)), own.key(four(8)), own.key(six(0))), (Some(&b"net"[..]), None, None));
        let own = keys.inherited(six(9));
        assert_eq!((own.key(six(9)), own.key(six(8))), (Some(&b"six"[..]), None));
        assert_eq!(keys.inherited(IpAddr::V4(Ipv4Addr::LOCALHOST)).exported(0), None);
    }

    /// `struct tcp_md5sig`: the address as the kernel's `struct sockaddr_storage`, flags, prefix, length, key.
    #[test]
    fn a_key_is_shown_as_the_kernel_s_structure() {
        let mut keys = Signatures::default();
        keys.change(&SignatureKey { default_domain: true, ..key(four(5), 32, b"abc") }).expect("a key");
        keys.change(&key(six(5), 128, b"abcd")).expect("a key");
        let bytes = keys.exported(0).expect("the older");
        assert_eq!(bytes.len(), 216);
        assert_eq!(bytes[..8], [2, 0, 0, 0, 10, 0, 0, 5]);
        assert_eq!(bytes[128..139], [3, 32, 3, 0, 0, 0, 0, 0, b'a', b'b', b'c']);
        let bytes = keys.exported(1).expect("the newer");
        assert_eq!((bytes[0], bytes[8], bytes[9], bytes[23]), (10, 0x20, 0x01, 5));
        assert_eq!((bytes[128], bytes[129], bytes[130]), (1, 128, 4));
    }
}
