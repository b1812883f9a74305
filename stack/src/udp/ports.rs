//! Who holds which port, who may hold it beside others, and whose a datagram is (`udp_lib_get_port`,
//! `inet_rcv_saddr_equal`, `compute_score`).

use core::net::{IpAddr, SocketAddr};

use super::{Udp, UdpSock};
use crate::socket::error::BindError;
use crate::socket::filter::View;
use crate::socket::kept::Kept;
use crate::socket::protocol::{AddressFamily, Net, SockId};

/// Keeps the hash that spreads datagrams over an SO_REUSEPORT group apart from all others.
const SPREAD_DOMAIN: u64 = 0x7564_7073;
/// How many ports rest after their use: half of the smallest block of ports.
const RESTING: usize = 32;

/// Whether two sockets' local addresses meet, a wildcard meeting all of its versions.
fn addresses_meet(one: &UdpSock, address: IpAddr, other: &UdpSock) -> bool {
    let takes_v4 = |sock: &UdpSock, address: IpAddr| {
        address.is_ipv4() || (sock.family == AddressFamily::Inet6 && address.is_unspecified() && !sock.options.v6_only)
    };
    let (wild, other_wild) = (address.is_unspecified(), other.local.is_unspecified());
    match (address, other.local) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => wild || other_wild || address == other.local,
        (IpAddr::V6(_), IpAddr::V4(_)) => takes_v4(one, address),
        (IpAddr::V4(_), IpAddr::V6(_)) => takes_v4(other, other.local),
    }
}

impl Udp {
    /// Whether `sock` may not have this address and port because of another (`udp_lib_lport_inuse`).
    fn is_taken(&self, id: SockId, sock: &UdpSock, address: IpAddr, port: u16) -> bool {
        let holders = self.ports.get(&port).map_or(&[][..], |holders| holders.as_slice());
        holders.iter().filter(|holder| **holder != id).filter_map(|holder| self.socks.find(*holder)).any(|other| {
            let both_reuse = sock.options.reuse_address && other.options.reuse_address;
            let both_share = sock.options.reuse_port && other.options.reuse_port;
            let devices_meet = sock.options.device.is_empty()
                || other.options.device.is_empty()
                || sock.options.device == other.options.device;
            !both_reuse && !both_share && devices_meet && addresses_meet(sock, address, other)
        })
    }

    /// Gives `id` the port, or an ephemeral one when it is 0 (`udp_v4_get_port`).
    pub(super) fn take_port(
        &mut self,
        net: &mut Net<'_>,
        id: SockId,
        address: IpAddr,
        port: u16,
    ) -> Result<u16, BindError> {
        let sock = self.socks.find(id).ok_or(BindError::Invalid)?;
        let port = if port == 0 {
            self.ephemeral(net, id, sock, address).ok_or(BindError::AddressInUse)?
        } else if self.is_taken(id, sock, address, port) {
            return Err(BindError::AddressInUse);
        } else {
            port
        };
        // The latest comes first, and so gets the datagrams among equals, as at the head of Linux's hash chain.
        self.ports.entry(port).or_default().insert(0, id);
        if let Some(sock) = self.socks.find_mut(id) {
            sock.port = port;
        }
        Ok(port)
    }

    /// A free port at a random place of those that may be chosen, then the next ones in turn (RFC 6056 §3.3.1). One that
    /// others would share (SO_REUSEADDR, SO_REUSEPORT) is chosen only when no other is left: of few ports, two sockets
    /// would soon have one where Linux has the whole range to choose from.
    fn ephemeral(&self, net: &mut Net<'_>, id: SockId, sock: &UdpSock, address: IpAddr) -> Option<u16> {
        let (first, last) = net.settings.ip_local_port_range;
        let whole = [(first, last)];
        let ranges = if self.allowed.is_empty() { &whole[..] } else { &self.allowed };
        let within = ranges.iter().map(|(low, high)| (*low).max(first)..=(*high).min(last));
        let count = within.clone().fold(0u32, |sum, range| sum.saturating_add(range.len() as u32));
        if count == 0 {
            return None;
        }
        let start = net.random.below(count) as usize;
        let from_start = within.clone().flatten().skip(start).chain(within.flatten().take(start));
        let free = |port: &u16| !self.is_taken(id, sock, address, *port);
        let nobodys = |port: &u16| !self.ports.contains_key(port);
        let long_free = |port: &u16| nobodys(port) && !self.rested.contains(port);
        let chosen = from_start.clone().find(long_free).or_else(|| from_start.clone().find(nobodys));
        chosen.or_else(|| from_start.clone().find(free))
    }

    /// Gives the port of `id` back (`udp_lib_unhash`).
    pub(super) fn release_port(&mut self, id: SockId) {
        let Some(sock) = self.socks.find_mut(id) else { return };
        let port = core::mem::take(&mut sock.port);
        if let Some(holders) = self.ports.get_mut(&port) {
            holders.retain(|holder| *holder != id);
            if holders.is_empty() {
                self.ports.remove(&port);
                self.rested.truncate(RESTING - 1);
                self.rested.push_front(port);
            }
        }
    }

    /// The one socket that a datagram to one of our addresses is for (`__udp4_lib_lookup`): the best score, the
    /// latest among equals, spread by hash within an SO_REUSEPORT group.
    pub(super) fn find(
        &self,
        net: &Net<'_>,
        from: SocketAddr,
        to: SocketAddr,
        looped: bool,
        packet: Option<&View<'_>>,
    ) -> Option<SockId> {
        let holders = self.ports.get(&to.port())?;
        let mut best: Option<(u32, SockId)> = None;
        let mut group = smallvec::SmallVec::<[SockId; 8]>::new();
        for id in holders {
            let Some(sock) = self.socks.find(*id) else { continue };
            let Some(score) = score(sock, from, to.ip(), looped) else { continue };
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, *id));
                group.clear();
            }
            if best.is_some_and(|(highest, _)| score == highest) && sock.options.reuse_port && sock.peer.is_none() {
                group.push(*id);
            }
        }
        let (_, best) = best?;
        if group.len() < 2 || !group.contains(&best) {
            return Some(best);
        }
        //= REF D-06: SO_ATTACH_REUSEPORT_CBPF picks, as long as it names one that is there (`reuseport_select_sock`).
        let program = group.iter().find_map(|id| self.socks.find(*id)?.options.group_filter.as_ref());
        if let Some((program, packet)) = program.zip(packet)
            && let Some(chosen) = usize::try_from(program.run(packet)).ok().and_then(|at| group.iter().rev().nth(at))
        {
            // The list has the latest first, the program counts from the oldest.
            return Some(*chosen);
        }
        let hash = net.random.keyed(SPREAD_DOMAIN, &tuple_bytes(from, to));
        let scaled = ((hash >> 32).wrapping_mul(group.len() as u64)) >> 32;
        usize::try_from(scaled).ok().and_then(|at| group.get(at)).copied().or(Some(best))
    }

    /// Whether any socket would take a datagram (`find` without the choice between several).
    pub(crate) fn has_receiver(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let holders = self.ports.get(&to.port()).map_or(&[][..], |holders| holders);
        holders.iter().filter_map(|id| self.socks.find(*id)).any(|sock| score(sock, from, to.ip(), true).is_some())
    }

    /// Every socket that a broadcast or multicast datagram is for (`__udp4_lib_mcast_deliver`).
    pub(super) fn find_all(&self, from: SocketAddr, to: SocketAddr, looped: bool) -> smallvec::SmallVec<[SockId; 8]> {
        let holders = self.ports.get(&to.port()).map_or(&[][..], |holders| holders.as_slice());
        holders
            .iter()
            .copied()
            .filter(|id| {
                self.socks.find(*id).is_some_and(|sock| {
                    let all = sock.options.kept.has(Kept::IpMulticastAll);
                    let member = !to.ip().is_multicast() || sock.groups.allow(to.ip(), from.ip(), all);
                    member && score(sock, from, to.ip(), looped).is_some()
                })
            })
            .collect()
    }
}

/// How well a socket fits a datagram; `None`: not at all (`compute_score`).
fn score(sock: &UdpSock, from: SocketAddr, to: IpAddr, looped: bool) -> Option<u32> {
    if !sock.options.through.hears(looped) {
        return None;
    }
    let mut score = match (sock.family, to) {
        (AddressFamily::Inet, IpAddr::V4(_)) => 2,
        (AddressFamily::Inet6, IpAddr::V4(_)) if !sock.options.v6_only => 1,
        (AddressFamily::Inet6, IpAddr::V6(_)) => 2,
        _ => return None,
    };
    if !sock.local.is_unspecified() {
        if sock.local != to {
            return None;
        }
        score += 4;
    }
    if let Some(peer) = sock.peer {
        // `compute_score`: a peer without a port is any of that address.
        if peer.ip() != from.ip() || (peer.port() != 0 && peer.port() != from.port()) {
            return None;
        }
        score += if peer.port() == 0 { 4 } else { 8 };
    }
    if !sock.options.device.is_empty() {
        score += 4;
    }
    Some(score)
}

fn tuple_bytes(from: SocketAddr, to: SocketAddr) -> smallvec::SmallVec<[u8; 64]> {
    let mut bytes = smallvec::SmallVec::new();
    for address in [from, to] {
        match address.ip() {
            IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
        }
        bytes.extend_from_slice(&address.port().to_be_bytes());
    }
    bytes
}
