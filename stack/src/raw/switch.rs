//! The rows of raw and ping sockets in the protocol switch (`struct proto raw_prot`, `ping_prot`).

use core::net::{IpAddr, SocketAddr};

use super::{Kind, Raw, RawSock};
use crate::io::{Sink, Source};
use crate::ip::{AddressKind, RouteError, RouteKey};
use crate::socket::error::{
    AcceptError, BindError, ConnectError, CreateError, ListenError, OptionError, ReceiveError, SendError, SocketFault,
};
use crate::socket::kept::{Kept, KeptOptions};
use crate::socket::options::{OptionName, OptionValue, SetOption, SocketOptions};
use crate::socket::protocol::{
    AddressFamily, Happened, Net, Protocol, Readiness, ReceiveFlags, Received, SendArguments, Shutdown, SockId,
    SocketId,
};
use crate::socket::protosw;
use crate::socket::sockopt::timestamping;
use crate::socket::table::Table;
use crate::time::Instant;
use crate::udp::{Inbox, Memberships, path_mtu, unspecified};

/// The protocol number under which the socket layer asks for a ping socket here; no raw socket has number 0.
pub(crate) const PING: u8 = protosw::ANY;

impl Protocol for Raw {
    fn create(
        &mut self,
        net: &mut Net<'_>,
        owner: SocketId,
        family: AddressFamily,
        protocol: u8,
    ) -> Result<SockId, CreateError> {
        let mut options = SocketOptions::new(net.settings.rmem_default, net.settings.wmem_default);
        if family == AddressFamily::Inet6 {
            options.kept = KeptOptions::v6();
        }
        // INET_PROTOSW_REUSE.
        options.reuse_address = true;
        let kind = match protocol {
            PING => Kind::Ping,
            protocol => Kind::Raw { protocol, header_included: protocol == protosw::RAW, filter: 0 },
        };
        Table::insert_with(&mut self.socks, |_: SockId| RawSock {
            owner,
            family,
            kind,
            options,
            local: unspecified(family),
            address_bound: false,
            ident: 0,
            ident_bound: false,
            deaf: false,
            peer: None,
            inbox: Inbox::default(),
            corked: None,
            chosen: None,
            groups: Memberships::default(),
            happened: Happened::empty(),
        })
        .ok_or(CreateError::NoMemory)
    }

    fn close(&mut self, net: &mut Net<'_>, sock: SockId) {
        if let Some(mut sock) = self.socks.remove(sock) {
            sock.groups.leave_all(net);
        }
    }

    fn bind(&mut self, net: &mut Net<'_>, id: SockId, address: SocketAddr) -> Result<(), BindError> {
        let sock = self.socks.find(id).ok_or(BindError::Invalid)?;
        let kind = net.ip.address_kind(address.ip());
        // `ping_check_bind_addr`: addresses of more than one host are nobody's to bind here.
        if sock.kind == Kind::Ping && matches!(kind, AddressKind::Broadcast | AddressKind::Multicast) {
            return Err(BindError::AddressNotAvailable);
        }
        if sock.peer.is_some() || (sock.kind == Kind::Ping && sock.ident != 0) {
            return Err(BindError::Invalid);
        }
        // `raw_bind` looks at the address after the state.
        if sock.kind != Kind::Ping
            && kind == AddressKind::Unicast
            && !sock.options.free_bind
            && !sock.options.kept.has(Kept::IpTransparent)
        {
            return Err(BindError::AddressNotAvailable);
        }
        // The port of a ping socket is its identifier.
        if sock.kind == Kind::Ping && !self.take_ident(net, id, address.port()) {
            return Err(BindError::AddressInUse);
        }
        if let Some(sock) = self.socks.find_mut(id) {
            sock.local = address.ip();
            // `raw_bind` takes no note of it (SOCK_BINDADDR_LOCK).
            sock.address_bound = sock.kind == Kind::Ping && !address.ip().is_unspecified();
            sock.ident_bound = sock.kind == Kind::Ping && address.port() != 0;
        }
        Ok(())
    }

    fn received_at(&self, sock: SockId) -> Option<Instant> {
        self.socks.find(sock)?.inbox.received_at
    }

    fn autobind(&mut self, net: &mut Net<'_>, id: SockId) {
        if self.socks.find(id).is_some_and(|sock| sock.kind == Kind::Ping && sock.ident == 0) {
            // Who cannot have one is told when the call is good for anything.
            let _ = self.take_ident(net, id, 0);
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
            _ => {}
        }
        let source = sock.source();
        let destination = net.ip.resolve_unspecified(address.ip(), source);
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
        })?;
        if route.broadcast && !sock.options.broadcast {
            return Err(ConnectError::NotPermitted);
        }
        if sock.kind == Kind::Ping && sock.ident == 0 && !self.take_ident(net, id, 0) {
            return Err(ConnectError::NoPort);
        }
        let sock = self.socks.find_mut(id).ok_or(ConnectError::Invalid)?;
        // The source of an earlier connect stays (`__ip4_datagram_connect`).
        if sock.local.is_unspecified() {
            sock.local = route.source;
        }
        if sock.source().is_none() {
            sock.chosen = Some(route.source);
        }
        sock.peer = Some(SocketAddr::new(destination, address.port()));
        Ok(())
    }

    fn disconnect(&mut self, _net: &mut Net<'_>, id: SockId) {
        let Some(sock) = self.socks.find_mut(id) else { return };
        sock.peer = None;
        sock.options.forget_device();
        if !sock.address_bound {
            sock.local = unspecified(sock.family);
            sock.chosen = None;
        }
        // `__udp_disconnect` unhashes what no port was bound for; a raw socket is never hashed again.
        if !sock.ident_bound {
            sock.ident = 0;
            sock.deaf = sock.kind != Kind::Ping;
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
        self.send_message(net, sock, source, arguments)
    }

    fn receive(
        &mut self,
        _net: &mut Net<'_>,
        id: SockId,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError> {
        let sock = self.socks.find_mut(id).ok_or(ReceiveError::NotConnected)?;
        if flags.contains(ReceiveFlags::OOB) {
            return Err(ReceiveError::NotSupported);
        }
        let RawSock { inbox, options, kind, .. } = sock;
        // `ping_recvmsg` does not tell the length of what it cuts.
        let flags = if *kind == Kind::Ping { flags - ReceiveFlags::TRUNC } else { flags };
        inbox.take(options, sink, flags)
    }

    fn readiness(&self, sock: SockId) -> Readiness {
        let Some(sock) = self.socks.find(sock) else {
            return Readiness::IN | Readiness::OUT | Readiness::HUP;
        };
        sock.inbox.readiness(&sock.options)
    }

    fn local_name(&self, sock: SockId) -> SocketAddr {
        self.socks.find(sock).map_or(SocketAddr::new(unspecified(AddressFamily::Inet), 0), |sock| {
            let port = match sock.kind {
                // `inet_num` of a raw socket is its protocol, and getsockname shows it as the port.
                Kind::Raw { .. } if sock.deaf => 0,
                Kind::Raw { protocol, .. } => u16::from(protocol),
                Kind::Ping => sock.ident,
            };
            SocketAddr::new(sock.local, port)
        })
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
        let sock = self.socks.find_mut(id).ok_or(OptionError::Unknown)?;
        match (option, &mut sock.kind) {
            (SetOption::ReceiveErrors(false), _) => sock.inbox.errors.clear(),
            (SetOption::Timestamping(flags, _), _) => {
                // Numbers count from where they were asked for.
                let before = sock.options.kept.read(Kept::Timestamping);
                if flags & !before & timestamping::OPT_ID != 0 {
                    sock.inbox.timestamps = 0;
                }
            }
            (SetOption::HeaderIncluded(on), Kind::Raw { header_included, .. }) => *header_included = *on,
            (SetOption::IcmpFilter(types), Kind::Raw { protocol: protosw::ICMP, filter, .. }) => *filter = *types,
            (SetOption::IcmpFilter(_), Kind::Raw { .. }) => return Err(OptionError::NotSupported),
            _ => return sock.groups.set_option(net, option),
        }
        Ok(())
    }

    fn option(&mut self, net: &mut Net<'_>, sock: SockId, name: OptionName) -> Result<OptionValue, OptionError> {
        let sock = self.socks.find(sock).ok_or(OptionError::Unknown)?;
        match (name, sock.kind) {
            (OptionName::Mtu, _) => path_mtu(net, sock.peer, sock.source().unwrap_or(unspecified(sock.family))),
            (OptionName::SourceFilter { group }, _) => sock.groups.filter_of(net, group),
            (OptionName::HeaderIncluded, Kind::Raw { header_included, .. }) => {
                Ok(OptionValue::Int(i32::from(header_included)))
            }
            (OptionName::IcmpFilter, Kind::Raw { protocol: protosw::ICMP, filter, .. }) => {
                Ok(OptionValue::Bytes(filter.to_ne_bytes().to_vec()))
            }
            (OptionName::IcmpFilter, Kind::Raw { .. }) => Err(OptionError::NotSupported),
            _ => Err(OptionError::Unknown),
        }
    }

    fn take_error(&mut self, sock: SockId) -> Option<SocketFault> {
        self.socks.find_mut(sock)?.inbox.fault.take()
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
