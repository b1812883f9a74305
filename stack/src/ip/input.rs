//! Packets that arrive: the checks of `ip_rcv`, martian addresses, options, reassembly, and delivery to the
//! transports (`ip_local_deliver`). What is dropped moves the counter that Linux moves, and one of ours that says why.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use log::trace;

use super::icmp::{self, Report};
use super::igmp;
use super::reassembly::Whole;
use super::sibling::Sibling;
use super::{AddressKind, PacketInfo, PathError};
use crate::frame::{Purpose, RxChecksum, RxMeta};
use crate::socket::protocol::Net;
use crate::stack::Stack;
use crate::udp::Disposition;
use crate::wire::icmpv4::{self, Icmp, IcmpError};
use crate::wire::ip_options::{IpOptions, Reader};
use crate::wire::ipv4::{self, Ipv4, Ipv4Error};
use crate::wire::udp as udp_wire;

const PROTOCOL_TCP: u8 = 6;

/// How a packet came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// What the device said.
    pub(crate) meta: RxMeta,
    /// The frame was for a group or for everybody.
    pub(crate) link_group: bool,
    /// It was sent on this machine: by this stack itself or by a sibling.
    pub(crate) looped: bool,
    /// Whether it has to do with siblings.
    pub(crate) sibling: Sibling,
    /// What it was sent for, when it was sent here.
    pub(crate) purpose: Purpose,
}

impl Stack {
    /// One IPv4 packet at `buffer[at..end]`, padding included (`ip_rcv`).
    //= RFC 1122 §3.1 (MUST-1)
    pub(crate) fn handle_ipv4(&mut self, buffer: &mut Vec<u8>, at: usize, end: usize, arrival: Arrival) {
        let packet = buffer.get(at..end).unwrap_or(&[]);
        self.counters.ip_in_receives += 1;
        self.counters.in_octets += packet.len() as u64;
        let mut header = match Ipv4::parse(packet) {
            Ok(header) => header,
            Err(error) => return self.count_bad_header(error),
        };
        match header.tos & 3 {
            0 => self.counters.in_noect_pkts += 1,
            1 => self.counters.in_ect1_pkts += 1,
            2 => self.counters.in_ect0_pkts += 1,
            _ => self.counters.in_ce_pkts += 1,
        }
        let Some(kind) = self.judge_addresses(&header, arrival.looped) else { return };
        let mut options = IpOptions::NONE;
        if header.header > ipv4::HEADER_LENGTH {
            let packet = buffer.get_mut(at..end).unwrap_or(&mut []);
            match self.take_options(&mut header, packet, arrival) {
                Some(taken) => options = taken,
                None => return,
            }
        }
        let packet = buffer.get(at..end).unwrap_or(&[]);
        match kind {
            AddressKind::Multicast => {
                self.counters.in_mcast_pkts += 1;
                self.counters.in_mcast_octets += header.total as u64;
            }
            AddressKind::Broadcast => {
                self.counters.in_bcast_pkts += 1;
                self.counters.in_bcast_octets += header.total as u64;
            }
            _ => {}
        }
        if !header.is_fragment() {
            return self.deliver((buffer, at), (&header, &options, 0), kind, arrival);
        }
        let parts = (&header, &options);
        if let Some(whole) = self.reassembly.add(self.now, &self.settings, &mut self.counters, parts, packet)
            && let Ok(header) = Ipv4::parse(&whole.packet)
        {
            let Whole { mut packet, options, largest } = whole;
            // The device has seen only pieces: whatever it said of the checksum, it is verified here.
            let meta = RxMeta { checksum: RxChecksum::Unverified, gso_size: 0, ..arrival.meta };
            self.deliver((&mut packet, 0), (&header, &options, largest), kind, Arrival { meta, ..arrival });
        }
    }

    //= RFC 1122 §3.1 (SHLD-2)
    fn count_bad_header(&mut self, error: Ipv4Error) {
        trace!(target: "remora::ip", "dropped: {error:?}");
        let counters = &mut self.counters;
        // `ip_rcv_core`: a packet cut short is not a header error to Linux, but counted apart.
        if error == Ipv4Error::LengthBeyondPacket {
            counters.in_truncated_pkts += 1;
            return;
        }
        counters.ip_in_hdr_errors += 1;
        match error {
            Ipv4Error::Truncated | Ipv4Error::HeaderTruncated => counters.ip_truncated += 1,
            Ipv4Error::Version => counters.ip_bad_version += 1,
            Ipv4Error::HeaderLength => counters.ip_bad_header_length += 1,
            Ipv4Error::Checksum => {
                counters.ip_bad_checksum += 1;
                counters.in_csum_errors += 1;
            }
            Ipv4Error::LengthWithinHeader | Ipv4Error::LengthBeyondPacket => counters.ip_bad_length += 1,
        }
    }

    /// What the destination is to us, unless the packet must be dropped (`ip_route_input_slow`).
    fn judge_addresses(&mut self, header: &Ipv4, looped: bool) -> Option<AddressKind> {
        let (source, destination) = (header.source, header.destination);
        let kind = self.ip.address_kind(IpAddr::V4(destination));
        let zero = |address: Ipv4Addr| address.octets()[0] == 0;
        let martian_source = source.is_multicast()
            || source.is_broadcast()
            // 0.0.0.0 may speak to everybody only, as DHCP does.
            || (zero(source) && !(source.is_unspecified() && destination.is_broadcast()))
            || (!looped && source.is_loopback())
            // Our own address from outside is a forgery or a conflict.
            || (!looped && self.ip.address_kind(IpAddr::V4(source)) == AddressKind::Local)
            || self.ip.address_kind(IpAddr::V4(source)) == AddressKind::Broadcast && !zero(source);
        let martian_destination = zero(destination) || (!looped && destination.is_loopback());
        //= RFC 9293 §3.9.2.3 (MUST-63)
        //= RFC 1122 §3.2.1.3 (MUST-12)
        if martian_source || martian_destination {
            trace!(target: "remora::ip", "martian {source} -> {destination}");
            self.counters.ip_martian += 1;
            return None;
        }
        match kind {
            AddressKind::Local | AddressKind::Broadcast => Some(kind),
            AddressKind::Multicast if self.ip.is_member(IpAddr::V4(destination), Some(IpAddr::V4(source))) => {
                Some(kind)
            }
            AddressKind::Multicast => {
                self.counters.ip_group_not_joined += 1;
                None
            }
            // Not ours, and we do not forward.
            //= RFC 1122 §3.1 (MUST-5, MUST-6)
            //= RFC 1122 §3.2.1.3 (MUST-11)
            AddressKind::Unicast | AddressKind::Unspecified => {
                self.counters.ip_in_addr_errors += 1;
                None
            }
        }
    }

    /// Reads the options, and puts address and time into those that ask for them (`ip_rcv_options`). `None`: the packet
    /// goes no further.
    fn take_options(&mut self, header: &mut Ipv4, packet: &mut [u8], arrival: Arrival) -> Option<IpOptions> {
        // `fib_compute_spec_dst`: what came to everybody is recorded under our own address.
        let own = match (self.ip.address_kind(header.destination.into()), self.ip.interface()) {
            (AddressKind::Local, _) | (_, None) => header.destination,
            (_, Some(interface)) => match interface.address {
                IpAddr::V4(address) => address,
                IpAddr::V6(_) => header.destination,
            },
        };
        let reader = Reader::Packet(own, self.ip.time_of_day());
        let bytes = packet.get_mut(..header.header)?;
        //= RFC 9293 §3.9.2 (MUST-50, MAY-10, MAY-11)
        match IpOptions::from_packet(bytes, reader, &|address| self.ip.is_unicast(address)) {
            Ok(options) => {
                for (place, byte) in bytes.iter_mut().skip(ipv4::HEADER_LENGTH).zip(options.as_slice()) {
                    *place = *byte;
                }
                let passes = options.hops_left().is_none() || self.take_source_route(header, packet, &options, arrival);
                passes.then_some(options)
            }
            Err((error, options)) => {
                self.counters.ip_in_hdr_errors += 1;
                self.counters.ip_bad_options += 1;
                self.report_parameter((header, &options), packet, error.at, arrival);
                None
            }
        }
    }

    fn report_parameter(&mut self, (header, options): (&Ipv4, &IpOptions), packet: &[u8], at: u8, arrival: Arrival) {
        let report = Report {
            //= RFC 1122 §3.2.2.5 (SHLD-12)
            kind: icmpv4::PARAMETER_PROBLEM,
            code: 0,
            rest: [at, 0, 0, 0],
            purpose: Purpose::Address,
        };
        icmp::send_error(&mut self.net(), (header, options), packet, &report, arrival.link_group);
    }

    /// A packet with a source route: whether its way ends here (`ip_options_rcv_srr`). Hops that are ourselves are
    /// passed at once.
    //= REF C-09
    fn take_source_route(
        &mut self,
        header: &mut Ipv4,
        packet: &mut [u8],
        options: &IpOptions,
        arrival: Arrival,
    ) -> bool {
        // accept_source_route is off by default (RFC 6274 §3.13.2.3).
        let is_ours = self.ip.address_kind(header.destination.into()) == AddressKind::Local;
        if !self.settings.accept_source_route || arrival.link_group || !is_ours {
            self.counters.ip_source_route += 1;
            return false;
        }
        let Some(mut left) = options.hops_left() else { return true };
        while left.pointer <= left.length {
            if left.pointer + 3 > left.length {
                let at = u8::try_from(ipv4::HEADER_LENGTH + left.at + 2).unwrap_or(u8::MAX);
                self.report_parameter((header, options), packet, at, arrival);
                self.counters.ip_bad_options += 1;
                return false;
            }
            let hop = options.hop(&left).unwrap_or(Ipv4Addr::UNSPECIFIED);
            if self.ip.address_kind(hop.into()) != AddressKind::Local {
                // It is for another host, and nothing is forwarded.
                self.counters.ip_source_route += 1;
                return false;
            }
            header.destination = hop;
            if let Some(place) = packet.get_mut(16..20) {
                place.copy_from_slice(&hop.octets());
            }
            left.pointer += 4;
        }
        true
    }

    /// Hands a whole datagram to raw sockets and to its transport (`ip_protocol_deliver_rcu`), with its options and the
    /// size of its largest fragment.
    fn deliver(
        &mut self,
        (buffer, at): (&mut Vec<u8>, usize),
        (header, options, fragment): (&Ipv4, &IpOptions, u16),
        kind: AddressKind,
        arrival: Arrival,
    ) {
        let (transport, end) = (at + header.header, at + header.total);
        let info = PacketInfo {
            source: header.source.into(),
            destination: header.destination.into(),
            kind,
            //= RFC 1122 §3.2.1.7 (MUST-16)
            ttl: header.ttl,
            //= RFC 1122 §3.2.1.6 (SHLD-3)
            tos: header.tos,
            checksum: arrival.meta.checksum,
            gso_size: arrival.meta.gso_size,
            looped: arrival.looped,
            network_at: at,
            options: *options,
            fragment,
        };
        trace!(
            target: "remora::ip", "{} -> {} protocol {} {} bytes", header.source, header.destination, header.protocol, header.total
        );
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        let mut raw_wanted = false;
        // Raw sockets have had their copy of what comes back.
        if !self.raw.is_idle() && arrival.sibling != Sibling::Refused {
            let packet = buffer.get(at..end).unwrap_or(&[]);
            raw_wanted = self.raw.handle_packet(&mut net, &info, header.protocol, packet, header.header);
        }
        if self.siblings.are_there && arrival.looped && arrival.sibling == Sibling::No && kind == AddressKind::Local {
            let bytes = buffer.get(transport..end).unwrap_or(&[]);
            if let Some(purpose) = self.purpose_for_sibling(header, &info, bytes, arrival.purpose) {
                let bytes = core::mem::take(buffer);
                return self.siblings.pass_on(bytes, arrival.meta.gso_size, purpose);
            }
        }
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        match header.protocol {
            PROTOCOL_TCP => {
                net.counters.ip_in_delivers += 1;
                // `tcp_v4_rcv` takes nothing that was for a group, at either layer.
                if kind == AddressKind::Local && !arrival.link_group {
                    self.tcp.handle_segment(&mut net, &info, buffer, transport, end);
                } else {
                    net.counters.ip_in_discards += 1;
                }
            }
            udp_wire::PROTOCOL | udp_wire::LITE => {
                net.counters.ip_in_delivers += 1;
                let datagram = buffer.get(transport..end).unwrap_or(&[]);
                let udp = if header.protocol == udp_wire::LITE { &mut self.udp_lite } else { &mut self.udp };
                //= RFC 1122 §3.4 (MUST-89)
                if let Disposition::NoPort(port) = udp.handle_datagram(&mut net, &info, datagram) {
                    let report = Report {
                        kind: icmpv4::UNREACHABLE,
                        //= RFC 1122 §3.2.2.1 (SHLD-7)
                        code: icmpv4::CODE_PORT,
                        rest: [0; 4],
                        purpose: Purpose::ClosedPort { protocol: header.protocol, port },
                    };
                    let packet = buffer.get(at..end).unwrap_or(&[]);
                    //= RFC 1122 §3.3.8 (MUST-35)
                    icmp::send_error(&mut net, (header, options), packet, &report, arrival.link_group);
                }
            }
            icmp::PROTOCOL => {
                net.counters.ip_in_delivers += 1;
                let message = buffer.get(transport..end).unwrap_or(&[]);
                self.handle_icmp(header, message, &info);
            }
            igmp::PROTOCOL => {
                net.counters.ip_in_delivers += 1;
                igmp::receive(&mut net, buffer.get(transport..end).unwrap_or(&[]));
            }
            _ if raw_wanted => net.counters.ip_in_delivers += 1,
            _ => {
                net.counters.ip_in_unknown_protos += 1;
                let report = Report {
                    kind: icmpv4::UNREACHABLE,
                    //= RFC 1122 §3.2.2.1 (SHLD-7)
                    code: icmpv4::CODE_PROTOCOL,
                    rest: [0; 4],
                    purpose: Purpose::Address,
                };
                let packet = buffer.get(at..end).unwrap_or(&[]);
                icmp::send_error(&mut net, (header, options), packet, &report, arrival.link_group);
            }
        }
    }

    /// One ICMP message (`icmp_rcv`).
    //= REF N-05
    fn handle_icmp(&mut self, header: &Ipv4, bytes: &[u8], info: &PacketInfo) {
        self.counters.icmp_in_msgs += 1;
        let message = match Icmp::parse(bytes) {
            Ok(message) => message,
            Err(error) => {
                self.counters.icmp_in_errors += 1;
                match error {
                    IcmpError::Checksum => self.counters.icmp_in_csum_errors += 1,
                    IcmpError::Truncated => self.counters.icmp_malformed += 1,
                }
                return;
            }
        };
        self.counters.count_icmp_type(message.kind, false);
        let to_group = info.kind != AddressKind::Local;
        match message.kind {
            icmpv4::ECHO => {
                self.counters.icmp_in_echos += 1;
                let ignored =
                    //= RFC 1122 §3.2.2.6 (MAY-9, MAY-10)
                    self.settings.icmp_echo_ignore_all || (to_group && self.settings.icmp_echo_ignore_broadcasts);
                if !ignored {
                    icmp::send_echo_reply(&mut self.net(), (header, &info.options), &message, bytes);
                }
            }
            icmpv4::ECHO_REPLY => {
                self.counters.icmp_in_echo_reps += 1;
                let mut net = Net {
                    now: self.now,
                    ip: &mut self.ip,
                    counters: &mut self.counters,
                    settings: &self.settings,
                    random: &mut self.random,
                };
                //= RFC 1122 §3.2.2.6 (MUST-46)
                self.raw.handle_echo_reply(&mut net, info, &message, bytes);
            }
            // Redirects are ignored: this host has one link, and forged ones are an old attack.
            //= RFC 1122 §3.2.2.2 (SHLD-10)
            icmpv4::REDIRECT => self.counters.icmp_in_redirects += 1,
            icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM if !to_group => {
                match message.kind {
                    icmpv4::UNREACHABLE => self.counters.icmp_in_dest_unreachs += 1,
                    icmpv4::TIME_EXCEEDED => self.counters.icmp_in_time_excds += 1,
                    _ => self.counters.icmp_in_parm_probs += 1,
                }
                let quoted = bytes.get(icmpv4::HEADER_LENGTH..).unwrap_or(&[]);
                self.handle_icmp_error(&message, quoted, info.source);
            }
            // Timestamps, address masks and their like are obsolete (RFC 6918); source quench is (RFC 6633).
            //= RFC 9293 §3.9.2.2 (MUST-55)
            //= RFC 1122 §3.2.2.7 (SHLD-15)
            //= RFC 1122 §3.2.2.8 (MAY-12, MAY-13)
            //= RFC 1122 §3.2.2.9 (MUST-56)
            kind @ 1..=18 => match kind {
                4 => self.counters.icmp_in_src_quenchs += 1,
                13 => self.counters.icmp_in_timestamps += 1,
                14 => self.counters.icmp_in_timestamp_reps += 1,
                17 => self.counters.icmp_in_addr_masks += 1,
                18 => self.counters.icmp_in_addr_mask_reps += 1,
                _ => {}
            },
            //= RFC 1122 §3.2.2 (MUST-27)
            _ => {
                self.counters.icmp_in_errors += 1;
                self.counters.icmp_malformed += 1;
            }
        }
    }

    /// An ICMP error: finds out whose packet it is about (`icmp_unreach`, `icmp_socket_deliver`).
    fn handle_icmp_error(&mut self, message: &Icmp, quoted: &[u8], reporter: IpAddr) {
        let Ok(offending) = Ipv4::parse_quoted(quoted) else {
            self.counters.icmp_in_errors += 1;
            self.counters.icmp_malformed += 1;
            return;
        };
        let transport = quoted.get(offending.header..).unwrap_or(&[]);
        //= RFC 792: the header and at least 64 bits of the payload are quoted.
        //= RFC 1122 §3.4 (MUST-91)
        if transport.len() < 8 || offending.offset != 0 {
            self.counters.icmp_in_errors += 1;
            self.counters.icmp_malformed += 1;
            return;
        }
        let error = PathError {
            local: offending.source.into(),
            remote: offending.destination.into(),
            reporter,
            kind: message.kind,
            code: message.code,
            mtu: if message.code == icmpv4::CODE_FRAGMENTATION { message.next_hop_mtu() } else { 0 },
            transport,
        };
        if self.ip.address_kind(error.local) != AddressKind::Local {
            self.counters.icmp_in_errors += 1;
            return;
        }
        self.report_path_error(offending.protocol, &error);
    }

    /// Tells the transport whose packet did not get through.
    pub(crate) fn report_path_error(&mut self, protocol: u8, error: &PathError<'_>) {
        let mut net = Net {
            now: self.now,
            ip: &mut self.ip,
            counters: &mut self.counters,
            settings: &self.settings,
            random: &mut self.random,
        };
        self.raw.handle_error(&mut net, protocol, error);
        match protocol {
            PROTOCOL_TCP => self.tcp.handle_error(&mut net, error),
            udp_wire::PROTOCOL => self.udp.handle_error(&mut net, error),
            udp_wire::LITE => self.udp_lite.handle_error(&mut net, error),
            _ => {}
        }
    }

    /// A packet of ours that the link could not deliver: its socket hears of it as of a host unreachable from
    /// ourselves (`ipv4_link_failure`).
    //= REF N-04
    pub(crate) fn report_undelivered(&mut self, packet: &[u8]) {
        let Ok(header) = Ipv4::parse_quoted(packet) else { return };
        let Some(transport) = packet.get(header.header..).filter(|transport| transport.len() >= 8) else { return };
        if header.offset != 0 {
            return;
        }
        let error = PathError {
            local: header.source.into(),
            remote: header.destination.into(),
            reporter: header.source.into(),
            kind: icmpv4::UNREACHABLE,
            code: icmpv4::CODE_HOST,
            mtu: 0,
            transport,
        };
        self.report_path_error(header.protocol, &error);
    }
}
