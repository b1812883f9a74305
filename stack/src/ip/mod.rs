//! The network layer as transports see it: addresses, routes, path MTU, and the queue of packets on their way out.
//!
//! Input is in `input.rs`, output in `output.rs`, reassembly in `reassembly.rs`, ICMP in `icmp.rs`, the table of
//! routes in `route.rs`. Everything here is version neutral; IPv6 adds rows, not another layer.

pub mod icmp;
pub mod igmp;
pub(crate) mod input;
pub mod output;
pub mod reassembly;
pub mod route;
pub(crate) mod sibling;

use alloc::collections::VecDeque;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use smallvec::SmallVec;

use self::output::{ID_COUNTERS, Packet};
use self::route::{RouteEntry, RouteTable, broadcast_of};
use crate::interface::InterfaceConfig;
use crate::socket::error::SocketFault;
use crate::socket::errqueue::{Origin, Report};
use crate::socket::options::Through;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;

/// What an address is to this host (`inet_addr_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// 0.0.0.0 or ::.
    Unspecified,
    /// Configured on this stack (127.0.0.0/8 when the stack serves loopback).
    Local,
    /// 255.255.255.255 or a connected network's broadcast address.
    Broadcast,
    /// 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// Anybody else.
    Unicast,
}

/// What to look a route up for (`struct flowi4`).
#[derive(Clone, Copy, Debug)]
pub struct RouteKey {
    /// Destination.
    pub destination: IpAddr,
    /// Bound source address, if any.
    pub source: Option<IpAddr>,
    /// SO_DONTROUTE: only directly connected destinations.
    pub on_link_only: bool,
    /// The interface that the socket is bound to (`flowi_oif`).
    pub through: Through,
}

/// Answer of a route look-up (`struct rtable` and its metrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Source address to use.
    pub source: IpAddr,
    /// Neighbour to send to.
    pub next_hop: IpAddr,
    /// Delivered inside the stack.
    pub local: bool,
    /// Leaves by another interface than the stack's, on which nobody answers: such packets are lost.
    pub lost: bool,
    /// Destination is a broadcast address.
    pub broadcast: bool,
    /// Destination is a multicast address.
    pub multicast: bool,
    /// Largest packet for this path in bytes (device MTU, route MTU, learnt path MTU, whichever is least).
    pub mtu: u16,
    /// Largest super-packet in bytes that may be handed down (device segmentation); `mtu` when there is none.
    pub gso_max: u32,
    /// RTAX_WINDOW: clamp of the advertised window in bytes; 0 is none.
    pub window: u32,
    /// RTAX_ADVMSS in bytes; 0 means from the MTU.
    pub advertised_mss: u16,
    /// RTAX_INITCWND in segments; 0 is the default.
    pub initial_cwnd: u32,
}

impl Route {
    /// One by an interface that is not the stack's.
    const fn lost(destination: IpAddr, source: IpAddr, mtu: u16, kind: AddressKind) -> Self {
        Self {
            source,
            next_hop: destination,
            local: false,
            lost: true,
            broadcast: matches!(kind, AddressKind::Broadcast),
            multicast: matches!(kind, AddressKind::Multicast),
            mtu,
            gso_max: mtu as u32,
            window: 0,
            advertised_mss: 0,
            initial_cwnd: 0,
        }
    }
}

/// A route look-up gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No route, or the source is another's (ENETUNREACH); counted in `OutNoRoutes` by the caller that gives up.
    Unreachable,
    /// The source is nobody's to send from, or a loopback source towards another network (EINVAL).
    BadSource,
    /// The interface that the socket is bound to is not there (ENODEV).
    NoDevice,
}

/// An ICMP error (or a failed neighbour) about a packet that one of our sockets sent.
#[derive(Clone, Copy, Debug)]
pub struct PathError<'a> {
    /// Source of the offending packet: our address.
    pub local: IpAddr,
    /// Destination of the offending packet.
    pub remote: IpAddr,
    /// Who reported it; equal to `local` when it was ourselves (neighbour failure).
    pub reporter: IpAddr,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// Next-hop MTU of "fragmentation needed", in bytes; 0 when not given.
    pub mtu: u16,
    /// Transport header of the offending packet as far as it was quoted (at least 8 bytes).
    pub transport: &'a [u8],
}

impl PathError<'_> {
    /// The report that IP_RECVERR asks for (`ip_icmp_error`).
    #[must_use]
    pub fn report(&self, at: Instant, fault: SocketFault, destination: Option<SocketAddr>) -> Report {
        Report {
            origin: Origin::Icmp(self.reporter),
            fault: Some(fault),
            kind: self.kind,
            code: self.code,
            info: u32::from(self.mtu),
            data: 0,
            destination,
            at,
        }
    }
}

/// What the IP layer says of a packet that it delivers to a transport.
#[derive(Clone, Copy, Debug)]
pub struct PacketInfo {
    /// Source address.
    pub source: IpAddr,
    /// Destination address: ours, or broadcast or multicast.
    pub destination: IpAddr,
    /// Kind of the destination (Local, Broadcast, Multicast).
    pub kind: AddressKind,
    /// Time to live.
    pub ttl: u8,
    /// TOS byte, ECN bits included.
    pub tos: u8,
    /// Checksum state of the transport checksum.
    pub checksum: crate::frame::RxChecksum,
    /// Segment size of a super-packet; 0 for an ordinary one.
    pub gso_size: u16,
    /// It never left this host.
    pub looped: bool,
    /// Where the packet's own header begins in its buffer; the link's is before it.
    pub network_at: usize,
    /// Its options, with what was put into them here.
    pub options: IpOptions,
    /// Bytes of the largest fragment that it came in; 0 when it came whole.
    pub fragment: u16,
}

/// Milliseconds of a day.
const DAY: u128 = 86_400_000;
/// Most neighbours whose proof of life waits to be handed to the link layer; more than one is rare.
const CONFIRMED_LIMIT: usize = 16;

/// The network layer's state.
#[derive(Debug)]
pub struct Ip {
    interface: Option<InterfaceConfig>,
    up: bool,
    now: Instant,
    routes: RouteTable,
    /// Multicast groups joined (`ip_mc_list`).
    groups: igmp::Groups,
    /// Other stacks share the address: they hear what is for groups and for everybody.
    pub(crate) has_siblings: bool,
    confirmed: SmallVec<[IpAddr; 4]>,
    /// Identification counters; see [`Ip::next_id`].
    ids: [u16; ID_COUNTERS],
    /// Where the identification of the packet sent last came from: the hash of a destination does not change.
    last_id: Option<((IpAddr, IpAddr, u8), u16, u8)>,
    outbox: VecDeque<Packet>,
    /// Bytes in `outbox`.
    queued: usize,
    icmp_limit: icmp::RateLimit,
    /// The time of day at the clock's zero, in milliseconds; `None`: nobody has told it.
    time_of_zero: Option<u32>,
}

impl Default for Ip {
    fn default() -> Self {
        Self {
            interface: None,
            up: false,
            now: Instant::ZERO,
            routes: RouteTable::default(),
            groups: igmp::Groups::default(),
            has_siblings: false,
            confirmed: SmallVec::new(),
            ids: [0; ID_COUNTERS],
            last_id: None,
            outbox: VecDeque::new(),
            queued: 0,
            icmp_limit: icmp::RateLimit::default(),
            time_of_zero: None,
        }
    }
}

impl Ip {
    /// Takes over the interface's address and makes the routes that follow from it (`inet_set_ifa`, `fib_add_ifaddr`).
    /// Routes added by hand are forgotten when the device had gone down or has another address, and survive a change of
    /// its MTU or abilities.
    pub fn configure(&mut self, interface: &InterfaceConfig) {
        let place = |interface: &InterfaceConfig| (interface.address, interface.prefix);
        if !self.up || self.interface.as_ref().map(place) != Some(place(interface)) {
            self.routes.forget_added();
        }
        self.routes.configure(interface);
        self.interface = Some(interface.clone());
        self.up = true;
    }

    /// The device has gone: nothing can be sent, the address stays ours.
    pub fn take_down(&mut self) {
        self.up = false;
    }

    /// Whether there is a device.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// The interface, whether up or not.
    #[must_use]
    pub const fn interface(&self) -> Option<&InterfaceConfig> {
        self.interface.as_ref()
    }

    /// Adds a route (`ip route add`).
    pub fn add_route(&mut self, entry: RouteEntry) {
        self.routes.add(entry);
    }

    /// Has these routes instead of those that were added before, if they are others.
    pub fn set_added_routes(&mut self, rows: &[RouteEntry]) {
        if self.routes.has_added(rows) {
            return;
        }
        self.routes.forget_added();
        if let Some(interface) = &self.interface {
            self.routes.configure(interface);
        }
        rows.iter().for_each(|row| self.routes.add(*row));
    }

    /// Takes a route away; says whether there was one.
    pub fn remove_route(&mut self, destination: IpAddr, prefix: u8) -> bool {
        self.routes.remove(destination, prefix)
    }

    /// The table of routes.
    #[must_use]
    pub const fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// The time at which learnt path MTUs are judged; set by the stack at each entry.
    pub const fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// The wall clock shows so much since 1970 at `now`.
    pub fn set_wall_clock(&mut self, now: Instant, shown: Duration) {
        let at_zero = shown.as_millis().saturating_sub(u128::from(now.nanos() / 1_000_000));
        self.time_of_zero = u32::try_from(at_zero % DAY).ok();
    }

    /// Milliseconds since midnight UT, as the timestamp option has them (RFC 791 §3.1, `inet_current_timestamp`); with
    /// the high bit set they are of another clock.
    #[must_use]
    pub fn time_of_day(&self) -> u32 {
        let millis = u128::from(self.now.nanos() / 1_000_000);
        match self.time_of_zero {
            Some(zero) => u32::try_from((millis + u128::from(zero)) % DAY).unwrap_or(0),
            None => u32::try_from(millis & 0x7fff_ffff).unwrap_or(0) | 0x8000_0000,
        }
    }

    /// Whether an address is another host's (`inet_addr_type`).
    #[must_use]
    pub fn is_unicast(&self, address: Ipv4Addr) -> bool {
        self.address_kind(address.into()) == AddressKind::Unicast
    }

    /// The options of an answer to a packet with these; `None`: it cannot be answered.
    #[must_use]
    pub fn echo_options(&self, options: &IpOptions, sender: IpAddr) -> Option<IpOptions> {
        match sender {
            IpAddr::V4(sender) if !options.is_empty() => options.echoed(sender, &|address| self.is_unicast(address)),
            _ => Some(IpOptions::NONE),
        }
    }

    /// What `address` is to this host.
    #[must_use]
    pub fn address_kind(&self, address: IpAddr) -> AddressKind {
        if address.is_unspecified() {
            return AddressKind::Unspecified;
        }
        if address.is_multicast() {
            return AddressKind::Multicast;
        }
        let Some(interface) = &self.interface else {
            return match address {
                IpAddr::V4(Ipv4Addr::BROADCAST) => AddressKind::Broadcast,
                _ => AddressKind::Unicast,
            };
        };
        if address == interface.address {
            return AddressKind::Local;
        }
        if let IpAddr::V4(address) = address {
            // `inet_addr_type` counts all of 0.0.0.0/8 as broadcast.
            if address.is_broadcast() || address.octets()[0] == 0 {
                return AddressKind::Broadcast;
            }
            if address.is_loopback() && interface.loopback {
                return AddressKind::Local;
            }
            if let IpAddr::V4(ours) = interface.address
                && interface.prefix < 31
                && address == broadcast_of(ours, interface.prefix)
            {
                return AddressKind::Broadcast;
            }
        }
        AddressKind::Unicast
    }

    /// What a destination of 0.0.0.0 (or ::) stands for: the bound address, or else loopback
    /// (`ip_route_output_key_hash`). Where loopback is not served here, our own address is the nearest to it.
    //= REF C-07
    #[must_use]
    pub fn resolve_unspecified(&self, destination: IpAddr, bound: Option<IpAddr>) -> IpAddr {
        if !destination.is_unspecified() {
            return destination;
        }
        if let Some(bound) = bound.filter(|bound| !bound.is_unspecified()) {
            return bound;
        }
        match &self.interface {
            Some(interface) if !interface.loopback => interface.address,
            _ => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// The source that a way is looked for with: under IP_TRANSPARENT, or with a header of the program's own, another's
    /// address is none to judge (FLOWI_FLAG_ANYSRC).
    #[must_use]
    pub fn source_to_judge(&self, source: Option<IpAddr>, any: bool) -> Option<IpAddr> {
        source.filter(|source| !any || self.address_kind(*source) != AddressKind::Unicast)
    }

    /// Looks up a route (`ip_route_output_key`). For the unspecified destination, `next_hop` of the answer is the
    /// address that it stands for.
    ///
    /// # Errors
    /// See [`RouteError`].
    //= REF C-08
    pub fn route(&self, key: &RouteKey) -> Result<Route, RouteError> {
        let Some(interface) = &self.interface else {
            return Err(RouteError::Unreachable);
        };
        let source = key.source.filter(|source| !source.is_unspecified());
        let destination = self.resolve_unspecified(key.destination, source);
        let kind = self.address_kind(destination);
        if let Some(source) = source {
            //= RFC 1122 §3.2.1.3 (MUST-10, MUST-83)
            // `ip_route_output_key_hash_rcu`: what is nobody's to send from, and what is another's.
            let nobodys = match source {
                IpAddr::V4(source) => source.is_multicast() || source.is_broadcast() || source.octets()[0] == 0,
                IpAddr::V6(_) => false,
            };
            if source.is_ipv4() != destination.is_ipv4() || nobodys {
                return Err(RouteError::BadSource);
            }
            if self.address_kind(source) != AddressKind::Local {
                return Err(RouteError::Unreachable);
            }
            let limited =
                matches!(destination, IpAddr::V4(address) if address.is_broadcast() || address.is_multicast());
            //= REF N-02: a loopback source never leaves the machine. To everybody, and to groups, it goes by lo.
            if source.is_loopback() && limited {
                return Ok(Route::lost(destination, source, interface.capabilities.mtu, kind));
            }
            if source.is_loopback() && kind != AddressKind::Local {
                return Err(RouteError::BadSource);
            }
        }
        // `ip_route_output_key_hash_rcu`: by a device to which no route leads, all are taken to be on its link.
        let lost = match key.through {
            Through::Any | Through::Device => false,
            Through::Loopback => kind != AddressKind::Local,
            Through::Elsewhere => true,
            Through::Missing => return Err(RouteError::NoDevice),
        };
        if lost {
            let source = source.unwrap_or(interface.address);
            return Ok(Route::lost(destination, source, interface.capabilities.mtu, kind));
        }
        let key = RouteKey { destination, source, ..*key };
        if !self.up && kind != AddressKind::Local {
            return Err(RouteError::Unreachable);
        }
        match (kind, destination) {
            (AddressKind::Broadcast | AddressKind::Multicast, IpAddr::V4(group)) => {
                if group.octets()[0] == 0 {
                    // `__mkroute_output`: zero network destinations are invalid.
                    return Err(RouteError::BadSource);
                }
                // SO_DONTROUTE without a source that would tell the device: only a gateway leads there.
                if key.on_link_only && source.is_none() && (group.is_multicast() || group.is_broadcast()) {
                    return Err(RouteError::Unreachable);
                }
                Ok(Route {
                    source: source.unwrap_or(interface.address),
                    next_hop: destination,
                    local: false,
                    lost: false,
                    broadcast: kind == AddressKind::Broadcast,
                    multicast: kind == AddressKind::Multicast,
                    mtu: interface.capabilities.mtu,
                    gso_max: interface.capabilities.gso_max.max(u32::from(interface.capabilities.mtu)),
                    window: 0,
                    advertised_mss: 0,
                    initial_cwnd: 0,
                })
            }
            // 127/8 that is not served here goes nowhere, least of all to a gateway.
            (AddressKind::Unicast, IpAddr::V4(host)) if host.is_loopback() => Err(RouteError::Unreachable),
            _ => self.routes.resolve(self.now, &key, interface.address, &interface.capabilities),
        }
    }

    /// Learns a smaller path MTU towards `destination` (`ip_rt_update_pmtu`); never less than 552 bytes.
    pub fn learn_mtu(&mut self, now: Instant, destination: IpAddr, mtu: u16) {
        self.now = self.now.max(now);
        self.routes.learn_mtu(now, destination, mtu);
    }

    /// The peer has shown that it is there (`dst_confirm_neigh`): an ACK moved forward.
    pub fn confirm_neighbour(&mut self, next_hop: IpAddr) {
        if self.confirmed.len() < CONFIRMED_LIMIT && !self.confirmed.contains(&next_hop) {
            self.confirmed.push(next_hop);
        }
    }

    /// The neighbours confirmed since the last call.
    pub(crate) fn take_confirmed(&mut self) -> SmallVec<[IpAddr; 4]> {
        core::mem::take(&mut self.confirmed)
    }

    /// Whether datagrams of this source to this group are wanted here (`ip_check_mc_rcu`).
    #[must_use]
    pub fn is_member(&self, group: IpAddr, source: Option<IpAddr>) -> bool {
        let v4 = |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        v4(group).is_some_and(|group| self.groups.wants(group, source.and_then(v4)))
    }

    /// When reports about groups are due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.groups.next_timeout()
    }
}
