//! Receiving datagrams and the ICMP errors about those sent (`__udp4_lib_rcv`, `udp_queue_rcv_skb`, `__udp4_lib_err`).

use alloc::collections::VecDeque;
use core::net::SocketAddr;

use super::{Datagram, Udp, UdpSock, true_size};
use crate::io::Sink;
use crate::ip::icmp::{Verdict, verdict};
use crate::ip::{AddressKind, PacketInfo, PathError};
use crate::socket::error::{ReceiveError, SocketFault};
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
        let header = match wire::Udp::parse(bytes, info.source, info.destination, info.checksum) {
            Ok(header) => header,
            Err(error) => {
                net.counters.udp_in_errors += 1;
                match error {
                    UdpError::Truncated | UdpError::Length => net.counters.udp_bad_length += 1,
                    UdpError::Checksum => net.counters.udp_in_csum_errors += 1,
                }
                return Disposition::Done;
            }
        };
        let from = SocketAddr::new(info.source, header.source);
        let to = SocketAddr::new(info.destination, header.destination);
        let payload = bytes.get(wire::HEADER_LENGTH..header.length).unwrap_or(&[]);
        if matches!(info.kind, AddressKind::Broadcast | AddressKind::Multicast) {
            let receivers = self.find_all(from, to);
            if receivers.is_empty() {
                net.counters.udp_ignored_multi += 1;
            }
            for id in receivers {
                self.queue(net, info, id, from, payload);
            }
            return Disposition::Done;
        }
        if let Some(id) = self.find(net, from, to) {
            self.queue(net, info, id, from, payload);
            return Disposition::Done;
        }
        net.counters.udp_no_ports += 1;
        Disposition::NoPort(header.destination)
    }

    fn queue(&mut self, net: &mut Net<'_>, info: &PacketInfo, id: SockId, from: SocketAddr, payload: &[u8]) {
        let Some(sock) = self.socks.find_mut(id) else { return };
        let charge = true_size(payload.len());
        let limit = usize::try_from(sock.options.receive_buffer).unwrap_or(usize::MAX);
        // `__udp_enqueue_schedule_skb` (seen on Linux 6.18): one datagram always fits, others while there is room left.
        if !sock.queue.is_empty() && sock.charge.saturating_add(charge) >= limit {
            net.counters.udp_rcvbuf_errors += 1;
            net.counters.udp_in_errors += 1;
            return;
        }
        net.counters.udp_in_datagrams += 1;
        sock.charge += charge;
        sock.queue.push_back(Datagram {
            bytes: payload.to_vec(),
            from,
            to: info.destination,
            ttl: info.ttl,
            tos: info.tos,
            at: net.now,
        });
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
        let Some(id) = self.find(net, from, SocketAddr::new(error.local, local)) else {
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
        sock.fault = Some(fault);
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
        let UdpSock { queue, charge, fault, shut_read, peer, .. } = sock;
        Inbox { queue, charge, fault, shut_read: *shut_read, peer: *peer }.take(sink, flags)
    }
}

/// What a receive of a datagram socket looks at, whatever its protocol.
pub(crate) struct Inbox<'a> {
    pub(crate) queue: &'a mut VecDeque<Datagram>,
    pub(crate) charge: &'a mut usize,
    pub(crate) fault: &'a mut Option<SocketFault>,
    pub(crate) shut_read: bool,
    pub(crate) peer: Option<SocketAddr>,
}

impl Inbox<'_> {
    /// Takes, or looks at, the oldest datagram (`__skb_recv_datagram`).
    pub(crate) fn take(self, sink: &mut dyn Sink, flags: ReceiveFlags) -> Result<Received, ReceiveError> {
        if flags.contains(ReceiveFlags::ERRQUEUE) {
            return Err(ReceiveError::WouldBlock);
        }
        // `__skb_recv_udp`: a pending error comes before data.
        if let Some(fault) = self.fault.take() {
            return Err(ReceiveError::Fault(fault));
        }
        let Some(datagram) = self.queue.front() else {
            // A caller that waits is told the end (`__skb_wait_for_more_packets`); one that does not gets EAGAIN.
            return if self.shut_read && !flags.contains(ReceiveFlags::DONTWAIT) {
                Ok(Received::nothing(self.peer))
            } else {
                Err(ReceiveError::WouldBlock)
            };
        };
        let received = deliver(datagram, sink, flags)?;
        if !flags.contains(ReceiveFlags::PEEK)
            && let Some(datagram) = self.queue.pop_front()
        {
            *self.charge = self.charge.saturating_sub(true_size(datagram.bytes.len()));
        }
        Ok(received)
    }
}

/// Stores a datagram as far as there is room; it is whole or truncated, never in two parts.
fn deliver(datagram: &Datagram, sink: &mut dyn Sink, flags: ReceiveFlags) -> Result<Received, ReceiveError> {
    let stored = datagram.bytes.get(..sink.room()).unwrap_or(&datagram.bytes);
    // Linux frees the datagram of a recvmsg that faults; keeping it loses nothing that a program could rely on.
    sink.put(stored).map_err(|_| ReceiveError::Memory)?;
    let truncated = stored.len() < datagram.bytes.len();
    let length = if flags.contains(ReceiveFlags::TRUNC) { datagram.bytes.len() } else { stored.len() };
    Ok(Received {
        length,
        from: Some(datagram.from),
        to: Some(datagram.to),
        truncated,
        urgent: false,
        ttl: datagram.ttl,
        tos: datagram.tos,
        at: datagram.at,
    })
}
