//! Receiving datagrams and the ICMP errors about those sent (`__udp4_lib_rcv`, `udp_queue_rcv_skb`, `__udp4_lib_err`).

use core::net::SocketAddr;

use super::{Datagram, Udp, UdpSock};
use crate::counters::OfDatagram;
use crate::io::Sink;
use crate::ip::icmp::{Verdict, verdict};
use crate::ip::{AddressKind, PacketInfo, PathError};
use crate::socket::error::{ReceiveError, SocketFault};
use crate::socket::filter::View;
use crate::socket::kept::Kept;
use crate::socket::protocol::{Happened, Net, ReceiveFlags, Received, SockId};
use crate::wire::read_u16;
use crate::wire::udp::{self as wire, UdpError};

/// IP_PMTUDISC_DONT: a path's MTU is of no interest to the socket.
const PMTUDISC_DONT: u8 = 0;

/// What became of a datagram, for the layer below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Delivered, or dropped with a counter.
    Done,
    /// Nobody holds the port: ICMP port unreachable is due.
    NoPort(u16),
}

impl Udp {
    /// One datagram from the network layer; `bytes` begins with the UDP header.
    pub fn handle_datagram(&mut self, net: &mut Net<'_>, info: &PacketInfo, bytes: &[u8]) -> Disposition {
        let lite = self.lite;
        let parsed = if lite {
            wire::Udp::parse_lite(bytes, info.source, info.destination, info.checksum)
        } else {
            wire::Udp::parse(bytes, info.source, info.destination, info.checksum).map(|header| (header, header.length))
        };
        let (header, coverage) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                net.counters.count_datagram(lite, OfDatagram::InErrors);
                match error {
                    UdpError::Truncated | UdpError::Length => net.counters.udp_bad_length += 1,
                    UdpError::Checksum => net.counters.count_datagram(lite, OfDatagram::InCsumErrors),
                }
                return Disposition::Done;
            }
        };
        let from = SocketAddr::new(info.source, header.source);
        let to = SocketAddr::new(info.destination, header.destination);
        let datagram = bytes.get(..header.length).unwrap_or(&[]);
        let partial = (coverage < header.length).then_some(coverage);
        if matches!(info.kind, AddressKind::Broadcast | AddressKind::Multicast) {
            let receivers = self.find_all(from, to, info.looped);
            if receivers.is_empty() {
                net.counters.count_datagram(lite, OfDatagram::IgnoredMulti);
            }
            for id in receivers {
                self.queue(net, info, id, (from, datagram, partial));
            }
            return Disposition::Done;
        }
        let protocol = self.protocol();
        let mut network = [0; 20];
        let payload = datagram.get(wire::HEADER_LENGTH..).unwrap_or(&[]);
        let view = View::transport(info, protocol, payload, 0, &mut network);
        if let Some(id) = self.find(net, from, to, info.looped, Some(&view)) {
            self.queue(net, info, id, (from, datagram, partial));
            return Disposition::Done;
        }
        net.counters.count_datagram(lite, OfDatagram::NoPorts);
        Disposition::NoPort(header.destination)
    }

    /// `partial`: how many bytes of a UDP-Lite packet are covered, when it is not all of them.
    fn queue(
        &mut self,
        net: &mut Net<'_>,
        info: &PacketInfo,
        id: SockId,
        (from, whole, partial): (SocketAddr, &[u8], Option<usize>),
    ) {
        let (protocol, lite) = (self.protocol(), self.lite);
        let Some(sock) = self.socks.find_mut(id) else { return };
        // `udp_queue_rcv_one_skb`: UDPLITE_RECV_CSCOV asks for as much, or with 0 for all; without it anything will do.
        if let (Some(covered), Ok(asked)) = (partial, usize::try_from(sock.options.kept.read(Kept::UdpLiteReceive)))
            && (asked == 0 || covered < asked)
        {
            net.counters.count_datagram(lite, OfDatagram::InErrors);
            return;
        }
        let mut end = whole.len();
        if let Some(filter) = &sock.options.filter {
            let mut header = [0; 20];
            let view = View::transport(info, protocol, whole, wire::HEADER_LENGTH, &mut header);
            let wanted = usize::try_from(filter.run(&view)).unwrap_or(usize::MAX);
            if wanted == 0 {
                net.counters.count_datagram(lite, OfDatagram::InErrors);
                return;
            }
            end = end.min(wanted.max(wire::HEADER_LENGTH));
        }
        let payload = whole.get(wire::HEADER_LENGTH..end).unwrap_or(&[]);
        let datagram = Datagram::new(net, info, from.port(), payload, sock.options.wants_place());
        if !sock.inbox.push(&sock.options, datagram, true) {
            net.counters.count_datagram(lite, OfDatagram::RcvbufErrors);
            net.counters.count_datagram(lite, OfDatagram::InErrors);
            return;
        }
        net.counters.count_datagram(lite, OfDatagram::InDatagrams);
        self.announce(id, Happened::INPUT);
    }

    /// An ICMP error about a datagram of ours.
    //= REF N-05
    pub fn handle_error(&mut self, net: &mut Net<'_>, error: &PathError<'_>) {
        let (Some(local), Some(remote)) = (read_u16(error.transport, 0), read_u16(error.transport, 2)) else {
            net.counters.icmp_in_errors += 1;
            return;
        };
        let from = SocketAddr::new(error.remote, remote);
        let Some(id) = self.find(net, from, SocketAddr::new(error.local, local), error.remote == error.local, None)
        else {
            net.counters.icmp_in_errors += 1;
            return;
        };
        let Some(sock) = self.socks.find_mut(id) else { return };
        if verdict(error.kind, error.code) == Verdict::MtuLearnt {
            net.ip.learn_mtu(net.now, error.remote, error.mtu);
        }
        let (fault, hard) = match verdict(error.kind, error.code) {
            Verdict::Nothing => return,
            Verdict::MtuLearnt if sock.options.mtu_discover == PMTUDISC_DONT => return,
            Verdict::MtuLearnt => (SocketFault::MessageTooLong, true),
            Verdict::Fault(fault, hard) => (fault, hard),
        };
        //= RFC 1122 §4.1.3.3: only a socket that has a peer, or asked for them, hears of errors.
        if !sock.options.receive_errors && (!hard || sock.peer.is_none()) {
            return;
        }
        if sock.options.receive_errors {
            let quoted = error.transport.get(wire::HEADER_LENGTH..).unwrap_or(&[]);
            sock.inbox.push_report(error.report(net.now, fault, Some(from)), quoted, &sock.options);
        }
        sock.inbox.fault = Some(fault);
        self.announce(id, Happened::ERROR);
    }

    /// Takes, or looks at, the oldest datagram (`udp_recvmsg`).
    //= REF D-02
    pub(super) fn take_datagram(
        &mut self,
        id: SockId,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError> {
        let sock = self.socks.find_mut(id).ok_or(ReceiveError::NotConnected)?;
        let UdpSock { inbox, options, .. } = sock;
        inbox.take(options, sink, flags)
    }
}
