//! UDP's row of the protocol switch: what the socket layer calls (`struct proto udp_prot`).

use core::net::{IpAddr, SocketAddr};

use super::{Inbox, Memberships, Udp, UdpSock, unspecified};
use crate::io::{Sink, Source};
use crate::ip::{AddressKind, RouteError, RouteKey};
use crate::socket::error::{
    AcceptError, BindError, ConnectError, CreateError, ListenError, OptionError, ReceiveError, SendError, SocketFault,
};
use crate::socket::kept::{Kept, KeptOptions};
use crate::socket::options::{OptionName, OptionValue, SetOption, SocketOptions, Through};
use crate::socket::protocol::{
    AddressFamily, Happened, Net, Protocol, Readiness, ReceiveFlags, Received, SendArguments, Shutdown, SockId,
    SocketId,
};
use crate::socket::sockopt::timestamping;
use crate::socket::table::Table;
use crate::time::Instant;

impl Protocol for Udp {
    fn create(
        &mut self,
        net: &mut Net<'_>,
        owner: SocketId,
        family: AddressFamily,
        _protocol: u8,
    ) -> Result<SockId, CreateError> {
        let mut options = SocketOptions::new(net.settings.rmem_default, net.settings.wmem_default);
        if family == AddressFamily::Inet6 {
            options.kept = KeptOptions::v6();
        }
        Table::insert_with(&mut self.socks, |_: SockId| UdpSock {
            owner,
            family,
            options,
            local: unspecified(family),
            port: 0,
            address_bound: false,
            port_bound: false,
            peer: None,
            source: None,
            flow: None,
            has_way: false,
            inbox: Inbox::default(),
            corked: None,
            groups: Memberships::default(),
            happened: Happened::empty(),
            no_space: false,
        })
        .ok_or(CreateError::NoMemory)
    }

    fn close(&mut self, net: &mut Net<'_>, sock: SockId) {
        self.release_port(sock);
        if let Some(mut sock) = self.socks.remove(sock) {
            sock.groups.leave_all(net);
        }
    }

    fn bind(&mut self, net: &mut Net<'_>, id: SockId, address: SocketAddr) -> Result<(), BindError> {
        let sock = self.socks.find(id).ok_or(BindError::Invalid)?;
        if sock.port != 0 || sock.peer.is_some() {
            return Err(BindError::Invalid);
        }
        // IP_BIND_ADDRESS_NO_PORT is for TCP; UDP takes the port here as Linux does without an early demux user.
        self.take_port(net, id, address.ip(), address.port())?;
        if let Some(sock) = self.socks.find_mut(id) {
            sock.local = address.ip();
            sock.address_bound = !address.ip().is_unspecified();
            sock.port_bound = address.port() != 0;
        }
        Ok(())
    }

    fn is_corked(&self, sock: SockId) -> bool {
        self.socks.find(sock).is_some_and(|sock| sock.corked.is_some())
    }

    fn forget_way(&mut self, sock: SockId) {
        if let Some(sock) = self.socks.find_mut(sock) {
            sock.has_way = false;
        }
    }

    fn received_at(&self, sock: SockId) -> Option<Instant> {
        self.socks.find(sock)?.inbox.received_at
    }

    fn autobind(&mut self, net: &mut Net<'_>, id: SockId) {
        if net.ip.is_up() && self.socks.find(id).is_some_and(|sock| sock.port == 0) {
            // Who cannot have one is told when the call is good for anything.
            let _ = self.choose_port(net, id);
        }
    }

    fn connect(&mut self, net: &mut Net<'_>, id: SockId, address: SocketAddr) -> Result<(), ConnectError> {
        // `inet_dgram_connect`: before the address is looked at.
        self.autobind(net, id);
        let sock = self.socks.find(id).ok_or(ConnectError::Invalid)?;
        match (sock.family, address.ip()) {
            (AddressFamily::Inet, IpAddr::V6(_)) => return Err(ConnectError::FamilyMismatch),
            (AddressFamily::Inet6, IpAddr::V6(to)) if !to.is_unspecified() => {
                return Err(ConnectError::NetworkUnreachable);
            }
            (AddressFamily::Inet6, IpAddr::V4(_)) if sock.options.v6_only => {
                return Err(ConnectError::NetworkUnreachable);
            }
            _ => {}
        }
        // `ip4_datagram_connect`: the old route is dropped; the local address stays, bound or from an earlier connect.
        let bound = Some(sock.local).filter(|local| !local.is_unspecified());
        let mut source = sock.source();
        // `__ip6_datagram_connect`: from an address of IPv4, `::` is the loopback's.
        let here = if address.is_ipv6() { None } else { bound };
        let destination = net.ip.resolve_unspecified(address.ip(), here);
        if net.ip.address_kind(destination) == AddressKind::Multicast && source.is_none() {
            source = sock.options.multicast_interface.filter(|interface| !interface.is_unspecified());
        }
        // `__ip4_datagram_connect`.
        let through = sock.options.through_to(destination.is_multicast());
        let key = RouteKey { destination, source, on_link_only: sock.options.dont_route, through };
        let route = net.ip.route(&key).map_err(|error| match error {
            RouteError::Unreachable => {
                net.counters.ip_out_no_routes += 1;
                ConnectError::NetworkUnreachable
            }
            RouteError::BadSource => ConnectError::Invalid,
            RouteError::NoDevice => ConnectError::NoDevice,
        });
        // `ip_route_connect` writes to the flow that a cork uses, too, whatever comes of it.
        let from = source.or(route.ok().map(|route| route.source)).unwrap_or(unspecified(AddressFamily::Inet));
        if let Some(sock) = self.socks.find_mut(id) {
            let to = SocketAddr::new(destination, address.port());
            sock.has_way = false;
            sock.flow = Some((to, from));
            if let Some(corked) = &mut sock.corked {
                corked.redirect(to, from);
            }
        }
        let route = route?;
        let sock = self.socks.find(id).ok_or(ConnectError::Invalid)?;
        //= REF C-07
        if route.broadcast && !sock.options.broadcast {
            return Err(ConnectError::NotPermitted);
        }
        if sock.port == 0 {
            self.choose_port(net, id).map_err(|_| ConnectError::NoPort)?;
        }
        let sock = self.socks.find_mut(id).ok_or(ConnectError::Invalid)?;
        if bound.is_none() {
            sock.local = route.source;
        }
        if sock.source().is_none() {
            sock.source = Some(route.source);
        }
        sock.peer = Some(SocketAddr::new(destination, address.port()));
        sock.has_way = true;
        Ok(())
    }

    //= REF C-02
    fn disconnect(&mut self, _net: &mut Net<'_>, id: SockId) {
        let Some(sock) = self.socks.find_mut(id) else { return };
        sock.peer = None;
        sock.has_way = false;
        sock.options.forget_device();
        // `__udp_disconnect`: what was not bound by the program is forgotten.
        if !sock.address_bound {
            sock.local = unspecified(sock.family);
            sock.source = None;
        }
        if !sock.port_bound {
            self.release_port(id);
        }
    }

    fn listen(&mut self, _net: &mut Net<'_>, _sock: SockId, _backlog: u32) -> Result<(), ListenError> {
        Err(ListenError::NotSupported)
    }

    fn accept(&mut self, _net: &mut Net<'_>, _sock: SockId) -> Result<SockId, AcceptError> {
        Err(AcceptError::NotSupported)
    }

    fn adopt(&mut self, sock: SockId, owner: SocketId) {
        if let Some(sock) = self.socks.find_mut(sock) {
            sock.owner = owner;
        }
    }

    //= REF C-21: even a fresh socket's waiters wake, though the caller gets ENOTCONN.
    fn shutdown(&mut self, _net: &mut Net<'_>, id: SockId, how: Shutdown) {
        let Some(sock) = self.socks.find_mut(id) else { return };
        sock.inbox.shut(how);
        self.announce(id, Happened::STATE);
    }

    fn send(
        &mut self,
        net: &mut Net<'_>,
        sock: SockId,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        self.send_datagram(net, sock, source, arguments)
    }

    fn receive(
        &mut self,
        _net: &mut Net<'_>,
        sock: SockId,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError> {
        self.take_datagram(sock, sink, flags)
    }

    //= REF C-06
    fn readiness(&self, sock: SockId) -> Readiness {
        let Some(sock) = self.socks.find(sock) else {
            return Readiness::IN | Readiness::OUT | Readiness::HUP;
        };
        let readiness = sock.inbox.readiness(&sock.options);
        let writable = Readiness::OUT | Readiness::WRNORM | Readiness::WRBAND;
        if sock.no_space { readiness - writable } else { readiness }
    }

    fn local_name(&self, sock: SockId) -> SocketAddr {
        self.socks
            .find(sock)
            .map_or(SocketAddr::new(unspecified(AddressFamily::Inet), 0), |sock| SocketAddr::new(sock.local, sock.port))
    }

    fn peer_name(&self, sock: SockId) -> Option<SocketAddr> {
        self.socks.find(sock)?.peer
    }

    fn options(&self, sock: SockId) -> Option<&SocketOptions> {
        self.socks.find(sock).map(|sock| &sock.options)
    }

    fn options_mut(&mut self, sock: SockId) -> Option<&mut SocketOptions> {
        self.socks.find_mut(sock).map(|sock| &mut sock.options)
    }

    fn set_option(&mut self, net: &mut Net<'_>, id: SockId, option: &SetOption) -> Result<(), OptionError> {
        match option {
            SetOption::Kept(Kept::UdpCork, 0) => {
                self.push_corked(net, id);
                Ok(())
            }
            SetOption::Timestamping(flags, _) => {
                // Numbers count from where they were asked for.
                if let Some(sock) = self.socks.find_mut(id)
                    && flags & timestamping::OPT_ID != 0
                    && sock.options.kept.read(Kept::Timestamping) & timestamping::OPT_ID == 0
                {
                    sock.inbox.timestamps = 0;
                }
                Ok(())
            }
            SetOption::ReceiveErrors(false) => {
                if let Some(sock) = self.socks.find_mut(id) {
                    sock.inbox.errors.clear();
                }
                Ok(())
            }
            _ => self.socks.find_mut(id).ok_or(OptionError::Unknown)?.groups.set_option(net, option),
        }
    }

    fn option(&mut self, net: &mut Net<'_>, sock: SockId, name: OptionName) -> Result<OptionValue, OptionError> {
        let sock = self.socks.find(sock).ok_or(OptionError::Unknown)?;
        match name {
            // `do_ip_getsockopt`: that of the way that is remembered.
            OptionName::Mtu => {
                path_mtu(net, sock.peer.filter(|_| sock.has_way), sock.source().unwrap_or(unspecified(sock.family)))
            }
            OptionName::SourceFilter { group } => sock.groups.filter_of(net, group),
            _ => Err(OptionError::Unknown),
        }
    }

    fn take_error(&mut self, sock: SockId) -> Option<SocketFault> {
        self.socks.find_mut(sock)?.inbox.fault.take()
    }

    fn complete_zero_copy(&mut self, net: &mut Net<'_>, id: SockId) {
        if let Some(sock) = self.socks.find_mut(id) {
            if let Some(corked) = &mut sock.corked {
                corked.zero_copies += 1;
                return;
            }
            sock.inbox.complete_zero_copy(net.now);
            self.announce(id, Happened::ERROR);
        }
    }

    fn queued_input(&self, sock: SockId) -> usize {
        self.socks.find(sock).map_or(0, |sock| sock.inbox.next_length())
    }

    fn queued_output(&self, _sock: SockId) -> usize {
        0
    }

    fn unsent_output(&self, _sock: SockId) -> usize {
        0
    }
}

/// IP_MTU of a connected socket.
pub(crate) fn path_mtu(net: &Net<'_>, peer: Option<SocketAddr>, local: IpAddr) -> Result<OptionValue, OptionError> {
    let destination = peer.ok_or(OptionError::NotConnected)?.ip();
    let key = RouteKey { destination, source: Some(local), on_link_only: false, through: Through::Any };
    let route = net.ip.route(&key).map_err(|_| OptionError::NotConnected)?;
    Ok(OptionValue::Int(i32::from(route.mtu)))
}
