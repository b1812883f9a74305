//! The route table (Linux's fib): connected networks, gateways, hosts, local and broadcast addresses, by prefix
//! length and metric, and what is learnt of path MTUs (RFC 1191). Where packets go then is `output.rs`.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::{Route, RouteError, RouteKey};
use crate::frame::DeviceCapabilities;
use crate::interface::InterfaceConfig;
use crate::time::Instant;

/// Linux's ip_rt_mtu_expires: a learnt path MTU is forgotten after ten minutes (RFC 1191 §6.3).
const LEARNT_MTU_LIFETIME: Duration = Duration::from_secs(600);
/// Linux's ip_rt_min_pmtu: 512 bytes of payload and the two headers. Less than this is not believed.
const LEAST_PATH_MTU: u16 = 552;
/// Most paths whose MTU is remembered; beyond it the one that expires first is forgotten.
const LEARNT_MTU_LIMIT: usize = 2_048;
/// MTU of what stays inside the stack: as much as an IPv4 packet can hold.
const LOOPBACK_MTU: u16 = u16::MAX;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Hand it to the link, to the gateway if there is one (RTN_UNICAST).
    Unicast,
    /// Deliver it here (RTN_LOCAL).
    Local,
    /// Link-layer broadcast (RTN_BROADCAST).
    Broadcast,
    /// Refuse it (RTN_UNREACHABLE).
    Unreachable,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Network or host.
    pub destination: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Whom to hand packets to; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// What is done with packets.
    pub action: RouteAction,
    /// The lower one wins among equal prefixes.
    pub metric: u32,
    /// Preferred source address (RTA_PREFSRC).
    pub source: Option<IpAddr>,
    /// RTAX_MTU in bytes; 0 is the device's.
    pub mtu: u16,
    /// RTAX_WINDOW in bytes; 0 is none.
    pub window: u32,
    /// RTAX_ADVMSS in bytes; 0 is from the MTU.
    pub advertised_mss: u16,
    /// RTAX_INITCWND in segments; 0 is the default.
    pub initial_cwnd: u32,
}

impl RouteEntry {
    /// A route with no metrics of its own.
    #[must_use]
    pub const fn new(destination: IpAddr, prefix: u8, action: RouteAction) -> Self {
        Self {
            destination,
            prefix,
            gateway: None,
            action,
            metric: 0,
            source: None,
            mtu: 0,
            window: 0,
            advertised_mss: 0,
            initial_cwnd: 0,
        }
    }

    fn matches(&self, address: IpAddr) -> bool {
        is_in_network(address, self.destination, self.prefix)
    }
}

/// The routes of one stack.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Longest prefix first, then lowest metric, then oldest.
    rows: Vec<RouteEntry>,
    /// Those of the rows that do not follow from the interface.
    added: Vec<RouteEntry>,
    learnt: BTreeMap<IpAddr, (u16, Instant)>,
}

impl RouteTable {
    /// Adds a row that stays when the interface is configured again.
    //= RFC 1122 §3.3.1.2 (MAY-16)
    pub fn add(&mut self, row: RouteEntry) {
        self.added.retain(|old| (old.destination, old.prefix, old.metric) != (row.destination, row.prefix, row.metric));
        self.added.push(row);
        self.insert(row);
    }

    /// Whether just these rows were added, in this order.
    #[must_use]
    pub fn has_added(&self, rows: &[RouteEntry]) -> bool {
        self.added == rows
    }

    /// The next [`RouteTable::configure`] leaves those rows out that were added.
    pub fn forget_added(&mut self) {
        self.added.clear();
    }

    /// Adds a row (`fib_table_insert`). An equal prefix with the same metric is replaced.
    pub fn insert(&mut self, row: RouteEntry) {
        let key = |row: &RouteEntry| (u8::MAX - row.prefix, row.metric);
        self.rows.retain(|old| (old.destination, old.prefix, old.metric) != (row.destination, row.prefix, row.metric));
        let at = self.rows.partition_point(|old| key(old) <= key(&row));
        self.rows.insert(at, row);
    }

    /// Takes a row away; says whether there was one.
    pub fn remove(&mut self, destination: IpAddr, prefix: u8) -> bool {
        self.added.retain(|row| (row.destination, row.prefix) != (destination, prefix));
        let before = self.rows.len();
        self.rows.retain(|row| (row.destination, row.prefix) != (destination, prefix));
        self.rows.len() != before
    }

    /// All rows in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &RouteEntry> {
        self.rows.iter()
    }

    /// Puts the rows that an interface's address brings with it (`fib_add_ifaddr`) and its default route.
    pub fn configure(&mut self, interface: &InterfaceConfig) {
        self.rows.clear();
        self.learnt.clear();
        let address = interface.address;
        self.insert(RouteEntry::new(address, full_length(address), RouteAction::Local));
        let connected = RouteEntry {
            source: Some(address),
            //= RFC 1122 §3.2.2.9 (MUST-53)
            ..RouteEntry::new(network_of(address, interface.prefix), interface.prefix, RouteAction::Unicast)
        };
        if interface.prefix < full_length(address) {
            self.insert(connected);
        }
        if let IpAddr::V4(address) = address {
            // RFC 3021: a /31 link has no broadcast address; a /32 has no network at all.
            if interface.prefix < 31 {
                let broadcast = broadcast_of(address, interface.prefix);
                self.insert(RouteEntry::new(broadcast.into(), 32, RouteAction::Broadcast));
            }
            if interface.loopback {
                self.insert(RouteEntry {
                    source: Some(Ipv4Addr::LOCALHOST.into()),
                    ..RouteEntry::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8, RouteAction::Local)
                });
            }
        }
        //= RFC 1122 §3.3.1.1 (MUST-60)
        if let Some(gateway) = interface.gateway {
            if !is_in_network(gateway, address, interface.prefix) {
                // A gateway outside of the network is taken to be on the link, as `ip route add ... onlink` does.
                self.insert(RouteEntry {
                    source: Some(address),
                    ..RouteEntry::new(gateway, full_length(gateway), RouteAction::Unicast)
                });
            }
            self.insert(RouteEntry {
                gateway: Some(gateway),
                source: Some(address),
                //= RFC 1122 §3.3.1.2 (MUST-62)
                ..RouteEntry::new(unspecified_like(gateway), 0, RouteAction::Unicast)
            });
        }
        for row in self.added.clone() {
            self.insert(row);
        }
    }

    /// The row for an address (`fib_lookup`).
    #[must_use]
    //= RFC 1122 §3.3.1.1 (MUST-59)
    pub fn find(&self, destination: IpAddr, on_link_only: bool) -> Option<&RouteEntry> {
        self.rows.iter().find(|row| row.matches(destination) && !(on_link_only && row.gateway.is_some()))
    }

    /// Remembers a smaller MTU of a path (`ip_rt_update_pmtu`).
    pub fn learn_mtu(&mut self, now: Instant, destination: IpAddr, mtu: u16) {
        //= RFC 1191 §3: an MTU below 68 is impossible; Linux believes nothing below ip_rt_min_pmtu.
        let mtu = mtu.max(LEAST_PATH_MTU);
        if !self.learnt.contains_key(&destination) && self.learnt.len() >= LEARNT_MTU_LIMIT {
            let first = self.learnt.iter().min_by_key(|(_, (_, expires))| *expires).map(|(address, _)| *address);
            if let Some(first) = first {
                self.learnt.remove(&first);
            }
        }
        self.learnt.insert(destination, (mtu, now + LEARNT_MTU_LIFETIME));
    }

    /// The MTU learnt for a path, if it has not expired.
    #[must_use]
    pub fn learnt_mtu(&self, now: Instant, destination: IpAddr) -> Option<u16> {
        self.learnt.get(&destination).filter(|(_, expires)| now < *expires).map(|(mtu, _)| *mtu)
    }

    /// The full answer for one destination that is neither unspecified nor a group (`ip_route_output_key_hash`).
    pub(super) fn resolve(
        &self,
        now: Instant,
        key: &RouteKey,
        address: IpAddr,
        device: &DeviceCapabilities,
    ) -> Result<Route, RouteError> {
        let row = self.find(key.destination, key.on_link_only).ok_or(RouteError::Unreachable)?;
        let mut route = Route {
            source: key.source.or(row.source).unwrap_or(address),
            next_hop: row.gateway.unwrap_or(key.destination),
            local: false,
            lost: false,
            broadcast: false,
            multicast: false,
            mtu: device.mtu,
            gso_max: 0,
            window: row.window,
            advertised_mss: row.advertised_mss,
            initial_cwnd: row.initial_cwnd,
        };
        match row.action {
            RouteAction::Unreachable => return Err(RouteError::Unreachable),
            RouteAction::Local => {
                route.local = true;
                route.mtu = LOOPBACK_MTU;
                // To one of our addresses, that address is also the natural source; 127.1.2.3 is answered from 127.0.0.1.
                route.source = key.source.or(row.source).unwrap_or(key.destination);
                route.gso_max = u32::from(LOOPBACK_MTU);
            }
            RouteAction::Broadcast => route.broadcast = true,
            RouteAction::Unicast => {}
        }
        if row.mtu != 0 {
            route.mtu = route.mtu.min(row.mtu);
        }
        if !route.local {
            if let Some(learnt) = self.learnt_mtu(now, key.destination) {
                route.mtu = route.mtu.min(learnt);
            }
            // An IPv4 packet, and a super-packet too, has at most 65535 bytes.
            route.gso_max = device.gso_max.min(u32::from(u16::MAX)).max(u32::from(route.mtu));
        }
        Ok(route)
    }
}

/// Bits in an address of this version.
pub(super) const fn full_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// Whether `address` lies in the network that `network` and `prefix` name.
#[must_use]
//= RFC 1122 §3.2.1.3 (MUST-9)
pub fn is_in_network(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (address.to_bits() ^ network.to_bits()) & mask(prefix) == 0,
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits() ^ network.to_bits()) & mask6(prefix) == 0,
        _ => false,
    }
}

fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & mask(prefix)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & mask6(prefix)).into(),
    }
}

/// The directed broadcast address of a network.
#[must_use]
//= RFC 1122 §3.3.6 (SHLD-31)
pub fn broadcast_of(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() | !mask(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Medium;
    use crate::interface::MacAddress;

    //= test RFC 1122 §3.3.1.2 (MAY-16)
    #[test]
    fn added_rows_stay_when_the_interface_is_configured_again() {
        let interface = InterfaceConfig {
            address: Ipv4Addr::new(192, 168, 0, 1).into(),
            prefix: 16,
            gateway: None,
            mac: MacAddress::default(),
            capabilities: DeviceCapabilities { medium: Medium::Ip, mtu: 1_500, gso_max: 0, checksum_tx: false },
            probe: false,
            loopback: false,
        };
        let remote = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let row = RouteEntry::new(remote, 32, RouteAction::Unicast);
        let mut table = RouteTable::default();
        table.configure(&interface);
        assert!(table.find(remote, false).is_none() && table.has_added(&[]));
        table.add(row);
        table.configure(&interface);
        assert_eq!(table.find(remote, false), Some(&row));
        assert!(table.has_added(&[row]));
        table.forget_added();
        table.configure(&interface);
        assert!(table.find(remote, false).is_none());
    }
}
