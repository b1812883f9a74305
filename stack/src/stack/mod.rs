//! The stack as its host sees it: frames, time and socket calls in; frames, events and the next deadline out.
//!
//! A host calls `handle_frame`, `handle_timeout` or a socket call, then `poll_transmit` until it gives nothing, then
//! `poll_event` until it gives nothing, and sleeps until `next_timeout` or the next frame. The socket calls are in
//! `calls.rs` and `socket/inet.rs`, what goes out is assembled in `output.rs`.

mod calls;
mod output;

use alloc::vec::Vec;
use core::time::Duration;

use log::{debug, trace};

use self::output::Outgoing;
pub use self::output::TransmitError;
use crate::counters::Counters;
use crate::frame::{Medium, Purpose, RxMeta};
use crate::interface::InterfaceConfig;
use crate::ip::icmp::{self, Report};
use crate::ip::igmp;
use crate::ip::input::Arrival;
use crate::ip::reassembly::Reassembly;
use crate::ip::sibling::{Sibling, Siblings};
use crate::ip::{Ip, route::RouteEntry};
use crate::link::{Link, LinkContext};
use crate::random::{Random, Secret};
use crate::raw::Raw;
use crate::settings::Settings;
use crate::socket::family::Families;
use crate::socket::inet::Socket;
use crate::socket::protocol::{Happened, Net, SocketId};
use crate::socket::protosw::ProtocolSwitch;
use crate::socket::table::Table;
use crate::tcp::{Remnant, Tcp};
use crate::time::Instant;
use crate::udp::Udp;
use crate::wire::arp::Arp;
use crate::wire::ethernet::{EtherType, Ethernet, EthernetError, vlan_of};
use crate::wire::icmpv4;
use crate::wire::ipv4::Ipv4;

/// A whole TCP/IP stack with one external interface.
#[derive(Debug)]
pub struct Stack {
    pub(crate) now: Instant,
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    pub(crate) counters: Counters,
    pub(crate) ip: Ip,
    pub(crate) reassembly: Reassembly,
    pub(crate) siblings: Siblings,
    pub(crate) tcp: Tcp,
    pub(crate) udp: Udp,
    pub(crate) udp_lite: Udp,
    pub(crate) raw: Raw,
    pub(crate) sockets: Table<Socket>,
    pub(crate) switch: ProtocolSwitch,
    families: Families,
    link: Link,
    outgoing: Outgoing,
}

impl Stack {
    /// A stack without a device, with no sockets.
    #[must_use]
    pub fn new(settings: Settings, secret: Secret) -> Self {
        let mut random = Random::new(secret);
        let tcp = Tcp::new(&settings, &mut random);
        let mut counters = Counters::default();
        counters.show_settings(&settings);
        Self {
            now: Instant::ZERO,
            settings,
            random,
            counters,
            ip: Ip::default(),
            reassembly: Reassembly::default(),
            siblings: Siblings::default(),
            tcp,
            udp: Udp::new(),
            udp_lite: Udp::lite(),
            raw: Raw::new(),
            sockets: Table::default(),
            switch: ProtocolSwitch::default(),
            families: Families::default(),
            link: Link::default(),
            outgoing: Outgoing::default(),
        }
    }

    /// The device is there, again or for the first time, or its MTU or capabilities have changed.
    pub fn attach(&mut self, now: Instant, interface: InterfaceConfig) {
        self.enter(now);
        debug!(target: "remora::ip", "attach {}/{} {} mtu {}", interface.address, interface.prefix, interface.mac, interface.capabilities.mtu);
        self.ip.configure(&interface);
        let (link, mut context) = self.link_parts();
        link.attach(&mut context, &interface);
    }

    /// The wall clock shows so much since 1970 at `now`: IP's timestamp option has the time of day.
    pub fn set_wall_clock(&mut self, now: Instant, shown: Duration) {
        self.ip.set_wall_clock(now, shown);
    }

    /// The device has gone: nothing can be sent, the sockets stay.
    pub fn detach(&mut self, now: Instant) {
        self.enter(now);
        debug!(target: "remora::ip", "detach");
        self.ip.take_down();
        self.link.detach();
        self.report_failed();
    }

    /// The interface, unless it has gone.
    #[must_use]
    pub fn interface(&self) -> Option<&InterfaceConfig> {
        self.ip.interface().filter(|_| self.ip.is_up())
    }

    /// Adds a route beside those that the interface brings.
    pub fn add_route(&mut self, entry: RouteEntry) {
        self.ip.add_route(entry);
    }

    /// Has these routes beside those that the interface brings, and no others.
    pub fn set_added_routes(&mut self, rows: &[RouteEntry]) {
        self.ip.set_added_routes(rows);
    }

    /// One received frame. The buffer may be taken: what is then left is an empty one.
    pub fn handle_frame(&mut self, now: Instant, buffer: &mut Vec<u8>, meta: RxMeta) {
        self.enter(now);
        if !self.ip.is_up() {
            self.counters.link_down_drops += 1;
            return;
        }
        if meta.vlan.is_some_and(|control| vlan_of(control).is_some()) {
            self.counters.link_vlan_foreign += 1;
            return;
        }
        let end = buffer.len();
        if self.link.medium() == Medium::Ip {
            // Bare IP packets: the version says which.
            match buffer.first().map(|byte| byte >> 4) {
                Some(6) => self.counters.ipv6_ignored += 1,
                _ => self.handle_ipv4(
                    buffer,
                    0,
                    end,
                    Arrival { meta, link_group: false, looped: false, sibling: Sibling::No, purpose: Purpose::Own },
                ),
            }
            return;
        }
        let frame = match Ethernet::parse(buffer) {
            Ok(frame) => frame,
            Err(error) => {
                match error {
                    EthernetError::Truncated => self.counters.link_truncated += 1,
                    EthernetError::TruncatedTag => self.counters.link_bad_tag += 1,
                    EthernetError::LengthBeyondFrame => self.counters.link_bad_length += 1,
                }
                return;
            }
        };
        trace!(target: "remora::ethernet", "receive {} <- {} {:?} {end} bytes", frame.destination, frame.source, frame.kind);
        if frame.vlan.is_some() {
            self.counters.link_vlan_foreign += 1;
            return;
        }
        if !self.link.is_for_us(frame.destination) {
            self.counters.link_not_for_us += 1;
            return;
        }
        let link_group = frame.destination.is_group();
        match frame.kind {
            EtherType::Ipv4 => self.handle_ipv4(
                buffer,
                frame.payload,
                frame.end,
                Arrival { meta, link_group, looped: false, sibling: Sibling::No, purpose: Purpose::Own },
            ),
            EtherType::Arp => match Arp::parse(buffer.get(frame.payload..frame.end).unwrap_or(&[])) {
                Ok(arp) => {
                    let (link, mut context) = self.link_parts();
                    link.handle_arp(&mut context, &arp, !link_group);
                }
                Err(error) => {
                    trace!(target: "remora::arp", "dropped: {error:?}");
                    self.counters.arp_malformed += 1;
                }
            },
            EtherType::Ipv6 => self.counters.ipv6_ignored += 1,
            EtherType::Llc => self.counters.link_llc += 1,
            EtherType::Other(_) => self.counters.link_unknown_type += 1,
        }
    }

    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.enter(now);
        {
            let (link, mut context) = self.link_parts();
            link.handle_timeout(&mut context);
        }
        self.report_failed();
        for expired in self.reassembly.handle_timeout(now, &mut self.counters) {
            if let Ok(header) = Ipv4::parse_quoted(&expired.packet) {
                let report = Report {
                    kind: icmpv4::TIME_EXCEEDED,
                    code: icmpv4::CODE_REASSEMBLY,
                    rest: [0; 4],
                    purpose: crate::frame::Purpose::Address,
                };
                icmp::send_error(&mut self.net(), (&header, &expired.options), &expired.packet, &report, false);
            }
        }
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        igmp::handle_timeout(&mut net);
        self.tcp.handle_timeout(&mut net);
    }

    /// When to call [`Stack::handle_timeout`] (and then [`Stack::poll_transmit`]) next, if nothing happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let again = self.outgoing.is_waiting().then_some(self.now);
        [
            again,
            self.tcp.next_timeout(),
            self.link.next_timeout(),
            self.reassembly.next_timeout(),
            self.ip.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next socket to which something has happened; each is announced at most once until it is asked for, with all
    /// that has happened since.
    pub fn poll_event(&mut self) -> Option<(SocketId, Happened)> {
        self.udp.set_held(self.link.held_bytes());
        self.udp_lite.set_held(self.link.held_bytes());
        let transports = self.tcp.poll_event().or_else(|| self.udp.poll_event());
        transports.or_else(|| self.udp_lite.poll_event()).or_else(|| self.raw.poll_event())
    }

    /// The next socket whose peer has announced urgent data: its owner gets SIGURG (`sk_send_sigurg`).
    pub fn poll_urgent(&mut self) -> Option<SocketId> {
        self.tcp.poll_urgent()
    }

    /// Linux's counters, and ours.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The tunables.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes the tunables. Sockets take their defaults from them when they are made.
    pub fn set_settings(&mut self, settings: Settings) {
        self.tcp.set_settings(&settings);
        self.counters.show_settings(&settings);
        self.settings = settings;
    }

    /// The address families, to look numbers up or to register more.
    pub const fn families(&mut self) -> &mut Families {
        &mut self.families
    }

    /// The protocol switch, to look rows up or to register more.
    pub const fn protocol_switch(&mut self) -> &mut ProtocolSwitch {
        &mut self.switch
    }

    /// The network layer: addresses and routes.
    #[must_use]
    pub const fn ip(&self) -> &Ip {
        &self.ip
    }

    /// Whether nothing is left that must be finished: no socket, no connection, no TIME_WAIT.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sockets.is_empty()
            && self.tcp.is_idle()
            && self.udp.is_idle()
            && self.udp_lite.is_idle()
            && self.raw.is_idle()
            && self.ip.queued() == 0
    }

    /// Bytes held in queues.
    #[must_use]
    pub fn memory(&self) -> usize {
        let datagrams = self.udp.memory() + self.udp_lite.memory() + self.raw.memory();
        self.tcp.memory() + datagrams + self.reassembly.memory() + self.ip.queued()
    }

    /// Ephemeral ports come from these inclusive ranges only (several families share one address); none: from the
    /// whole range of the settings. Where they may grow, a connect tries some only and then fails with `NoPort`, so
    /// that the caller can add to them and try again.
    pub fn restrict_ports(&mut self, allowed: &[(u16, u16)], may_grow: bool) {
        self.tcp.restrict_ports(allowed.to_vec(), may_grow);
        self.udp.restrict_ports(allowed.to_vec(), may_grow);
        self.udp_lite.restrict_ports(allowed.to_vec(), may_grow);
    }

    /// Whether more ports ought to be had before the next socket asks for one.
    #[must_use]
    pub fn wants_ports(&self) -> bool {
        self.udp.wants_ports() || self.udp_lite.wants_ports()
    }

    /// The local ports of UDP and UDP-Lite sockets.
    pub fn datagram_ports(&self) -> impl Iterator<Item = u16> {
        self.udp.ports().chain(self.udp_lite.ports())
    }

    /// Whether any socket holds this local port, of TCP (6), UDP (17) or UDP-Lite (136).
    #[must_use]
    pub fn is_port_used(&self, protocol: u8, port: u16) -> bool {
        match protocol {
            6 => self.tcp.is_port_used(port),
            17 => self.udp.is_port_used(port),
            136 => self.udp_lite.is_port_used(port),
            _ => false,
        }
    }

    /// Whether all that is on a TCP port lets others bind it who ask to (SO_REUSEADDR or SO_REUSEPORT).
    #[must_use]
    pub fn is_port_reusable(&self, protocol: u8, port: u16) -> bool {
        protocol == 6 && self.tcp.is_port_reusable(port)
    }

    /// The connections of a stack that is given up, for [`Stack::reset_remnant`] of another with the same address.
    pub fn remnants(&self) -> impl Iterator<Item = Remnant> + '_ {
        self.tcp.remnants()
    }

    /// Resets the peer of a connection that another stack with our address had.
    pub fn reset_remnant(&mut self, now: Instant, remnant: &Remnant) {
        self.enter(now);
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        self.tcp.reset_remnant(&mut net, remnant);
    }

    /// Whether the conflict probe has found another station with our address (RFC 5227). What is sent then fails as
    /// if the host were unreachable; the probe is tried again later. See `link/probe.rs`.
    #[must_use]
    pub const fn is_address_contested(&self) -> bool {
        self.link.is_contested()
    }

    /// The time goes on, and what the last call left for the link layer is handed down.
    pub(crate) fn enter(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.ip.set_time(self.now);
        self.udp.set_held(self.link.held_bytes());
        self.udp_lite.set_held(self.link.held_bytes());
        for neighbour in self.ip.take_confirmed() {
            self.link.confirm(self.now, neighbour);
        }
    }

    /// The environment of a call, where no transport takes part.
    pub(crate) fn net(&mut self) -> Net<'_> {
        Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        }
    }

    fn link_parts(&mut self) -> (&mut Link, LinkContext<'_>) {
        let context = LinkContext {
            now: self.now,
            settings: &self.settings,
            counters: &mut self.counters,
            random: &mut self.random,
        };
        (&mut self.link, context)
    }

    /// Tells the sockets whose packets the link gave up.
    fn report_failed(&mut self) {
        while let Some(packet) = self.link.next_failed() {
            self.report_undelivered(&packet.bytes);
        }
    }

    /// How long until `next_timeout`, for hosts that count so; `None` when nothing is due at all.
    #[must_use]
    pub fn wait_time(&self, now: Instant) -> Option<Duration> {
        self.next_timeout().map(|at| at.since(now))
    }
}
