//! The network layer as transports see it: addresses, routes, path MTU.

use core::net::IpAddr;

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

/// A route look-up gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No route (ENETUNREACH); counted in `OutNoRoutes` by the caller that gives up.
    Unreachable,
    /// The source is not an address of ours, or a loopback source towards another network (EINVAL).
    BadSource,
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
}

/// The network layer's state.
#[derive(Debug, Default)]
pub struct Ip {}

impl Ip {
    /// What `address` is to this host.
    #[must_use]
    pub fn address_kind(&self, _address: IpAddr) -> AddressKind {
        AddressKind::Unicast
    }

    /// Looks up a route (`ip_route_output_key`).
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn route(&self, _key: &RouteKey) -> Result<Route, RouteError> {
        Err(RouteError::Unreachable)
    }

    /// Learns a smaller path MTU towards `destination` (`ip_rt_update_pmtu`); at least 552, or as settings say.
    pub fn learn_mtu(&mut self, _now: crate::time::Instant, _destination: IpAddr, _mtu: u16) {}

    /// The peer has shown that it is there (`dst_confirm_neigh`): an ACK moved forward.
    pub fn confirm_neighbour(&mut self, _next_hop: IpAddr) {}
}
