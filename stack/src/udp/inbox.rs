//! What a datagram socket of any protocol has received and not read: datagrams, the pending error, the queue of errors
//! (`sk_receive_queue`, `sk_err`, `sk_error_queue`), and how a receive takes from them (`__skb_recv_udp`).

use alloc::collections::VecDeque;
use core::net::SocketAddr;

use super::{Datagram, true_size};
use crate::io::Sink;
use crate::socket::error::{ReceiveError, SocketFault};
use crate::socket::errqueue::{ErrorQueue, Origin, Report, source_of};
use crate::socket::kept::Kept;
use crate::socket::options::SocketOptions;
use crate::socket::protocol::{Readiness, ReceiveFlags, Received, Shutdown, SockId};
use crate::socket::protosw::Transport;
use crate::socket::sockopt::timestamping;
use crate::tcp::TimedSend;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;

/// Most bytes, and most datagrams, that UDP_GRO joins (`udp_gro_receive`, UDP_GRO_CNT_MAX).
const MOST_JOINED: usize = 65_507;
const MOST_PARTS: u16 = 64;

/// The receiving side of a datagram socket.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: VecDeque<Datagram>,
    /// Charge of `queue` in bytes.
    charge: usize,
    /// Datagrams dropped for want of room (`sk_drops`).
    dropped: u32,
    pub(crate) fault: Option<SocketFault>,
    pub(crate) errors: ErrorQueue,
    /// Number of the next MSG_ZEROCOPY send (`sk_zckey`).
    zero_copies: u32,
    /// Number of the next timestamped send (`sk_tskey`).
    pub(crate) timestamps: u32,
    /// When the datagram came that was received last.
    pub(crate) received_at: Option<Instant>,
    pub(crate) shut_read: bool,
    pub(crate) shut_write: bool,
}

impl Inbox {
    /// Bytes charged to the queue.
    pub(crate) const fn charge(&self) -> usize {
        self.charge
    }

    /// Length of the oldest datagram.
    pub(crate) fn next_length(&self) -> usize {
        self.queue.front().map_or(0, |datagram| datagram.bytes.len())
    }

    /// Queues a datagram if there is room; says whether. `full_at`: whether one that fills the buffer to the brim is one
    /// too many, as UDP has it.
    pub(crate) fn push(&mut self, options: &SocketOptions, mut datagram: Datagram, full_at: bool) -> bool {
        let charge = true_size(datagram.bytes.len());
        let limit = usize::try_from(options.receive_buffer).unwrap_or(usize::MAX);
        let after = self.charge.saturating_add(charge);
        // `__udp_enqueue_schedule_skb` (seen on Linux 6.18): one datagram always fits, others while there is room left.
        if !self.queue.is_empty() && (after > limit || (full_at && after == limit)) {
            self.dropped = self.dropped.wrapping_add(1);
            return false;
        }
        datagram.joins = options.kept.has(Kept::UdpGro);
        if datagram.joins && self.join(&datagram) {
            return true;
        }
        self.charge = after;
        datagram.dropped = self.dropped;
        self.queue.push_back(datagram);
        true
    }

    /// Adds a datagram to the last one, if it goes on where that ends: from the same sender, to the same address, of the
    /// same size; a shorter one is the last (`udp_gro_receive_segment`).
    fn join(&mut self, datagram: &Datagram) -> bool {
        let Some(last) = self.queue.back_mut() else { return false };
        let size = if last.segment == 0 { last.bytes.len() } else { usize::from(last.segment) };
        let fits = size > 0
            && last.joins
            && last.bytes.len().is_multiple_of(size)
            && !datagram.bytes.is_empty()
            && datagram.bytes.len() <= size
            && datagram.segment == 0
            // `inet_gro_receive` joins no packets with options.
            && datagram.options.is_none()
            && last.options.is_none()
            && last.parts < MOST_PARTS
            && last.bytes.len() + datagram.bytes.len() <= MOST_JOINED;
        let alike = |datagram: &Datagram| (datagram.from, datagram.to, datagram.ttl, datagram.tos);
        let Ok(segment) = u16::try_from(size) else { return false };
        if !fits || alike(last) != alike(datagram) {
            return false;
        }
        self.charge = self.charge.saturating_sub(true_size(last.bytes.len()));
        last.bytes.extend_from_slice(&datagram.bytes);
        last.segment = segment;
        last.parts += 1;
        self.charge = self.charge.saturating_add(true_size(last.bytes.len()));
        true
    }

    /// Takes, or looks at, the oldest datagram (`__skb_recv_datagram`).
    //= REF D-02
    pub(crate) fn take(
        &mut self,
        options: &mut SocketOptions,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError> {
        if flags.contains(ReceiveFlags::ERRQUEUE) {
            return self.errors.take(sink, &mut self.fault);
        }
        // `__skb_recv_udp`: a pending error comes before data.
        if let Some(fault) = self.fault.take() {
            return Err(ReceiveError::Fault(fault));
        }
        let peek = flags.contains(ReceiveFlags::PEEK);
        let offset = usize::try_from(options.kept.read(Kept::PeekOff)).ok();
        // `__skb_try_recv_from_queue`: a peek with an offset goes past what was peeked at.
        let (place, skip) = match offset.filter(|offset| peek && *offset > 0) {
            Some(offset) => self.place_of(offset),
            None => (0, 0),
        };
        let Some(datagram) = self.queue.get(place) else {
            // A caller that waits is told the end (`__skb_wait_for_more_packets`); one that does not gets EAGAIN.
            return if self.shut_read && !flags.contains(ReceiveFlags::DONTWAIT) {
                Ok(Received::nothing(None))
            } else {
                Err(ReceiveError::WouldBlock)
            };
        };
        let whole = datagram.bytes.len();
        let received = deliver(datagram, skip, sink, flags);
        // One that meets unreadable memory is gone too (`udp_recvmsg`).
        if !peek && self.queue.pop_front().is_some() {
            self.charge = self.charge.saturating_sub(true_size(whole));
        }
        let received = received?;
        // `sock_recv_timestamp`: a socket that tells times by control messages keeps none for SIOCGSTAMP.
        let told = options.timestamp != 0 || options.kept.read(Kept::Timestamping) & timestamping::SOFTWARE != 0;
        if !told {
            self.received_at = Some(received.at);
        }
        if let Some(offset) = offset {
            let moved = if peek {
                offset.saturating_add(received.length.min(whole.saturating_sub(skip)))
            } else {
                offset.saturating_sub(whole)
            };
            let moved = i32::try_from(moved).unwrap_or(i32::MAX);
            options.kept.write(Kept::PeekOff, moved).map_err(|_| ReceiveError::Invalid)?;
        }
        Ok(received)
    }

    /// Which datagram a peek offset lies in, and where in it.
    fn place_of(&self, mut offset: usize) -> (usize, usize) {
        for (place, datagram) in self.queue.iter().enumerate() {
            if offset < datagram.bytes.len() {
                return (place, offset);
            }
            offset -= datagram.bytes.len();
        }
        (self.queue.len(), 0)
    }

    /// A call was refused here: IP_RECVERR hears of it (`ip_local_error`).
    pub(crate) fn refuse(
        &mut self,
        at: Instant,
        fault: SocketFault,
        info: u32,
        destination: Option<SocketAddr>,
        options: &SocketOptions,
    ) {
        let report =
            Report { origin: Origin::Local, fault: Some(fault), kind: 0, code: 0, info, data: 0, destination, at };
        self.push_report(report, &[], options);
    }

    /// Queues a report; says whether the receive buffer had room for it.
    pub(crate) fn push_report(&mut self, report: Report, quoted: &[u8], options: &SocketOptions) -> bool {
        self.errors.push(report, quoted, self.charge, options.receive_buffer)
    }

    /// SO_TIMESTAMPING: a datagram is about to go (`__ip_append_data`). Says whether anybody wants to know when it has.
    //= REF D-05
    pub(crate) fn time_send(
        &mut self,
        (transport, sock): (Transport, SockId),
        options: &SocketOptions,
        given: Option<i32>,
    ) -> Option<TimedSend> {
        let flags = options.kept.read(Kept::Timestamping);
        let wanted = given.unwrap_or(flags) & (timestamping::TX_SCHED | timestamping::TX_SOFTWARE);
        if wanted == 0 {
            return None;
        }
        let mut data = 0;
        if flags & timestamping::OPT_ID != 0 {
            data = self.timestamps;
            self.timestamps = data.wrapping_add(1);
        }
        Some(TimedSend { transport, sock, wanted, data })
    }

    /// It has gone out (`__skb_tstamp_tx`). `packet`: all of it, from the link's header on.
    //= REF D-05
    pub(crate) fn note_sent(&mut self, at: Instant, options: &SocketOptions, send: &TimedSend, packet: &[u8]) -> bool {
        let time_only = options.kept.read(Kept::Timestamping) & timestamping::OPT_TSONLY != 0;
        let (quoted, source) = if time_only { (&[][..], None) } else { (packet, source_of(packet)) };
        let mut told = false;
        for info in send.kinds() {
            told |= self.push_report(Report::sent(at, info, send.data, source), quoted, options);
        }
        told
    }

    /// The bytes of one more MSG_ZEROCOPY send were copied.
    pub(crate) fn complete_zero_copy(&mut self, at: Instant) {
        self.errors.push_completion(self.zero_copies, self.zero_copies, at);
        self.zero_copies = self.zero_copies.wrapping_add(1);
    }

    pub(crate) fn shut(&mut self, how: Shutdown) {
        self.shut_read |= how != Shutdown::Write;
        self.shut_write |= how != Shutdown::Read;
    }

    /// The mask of `datagram_poll`.
    pub(crate) fn readiness(&self, options: &SocketOptions) -> Readiness {
        let mut mask = Readiness::OUT | Readiness::WRNORM | Readiness::WRBAND;
        if self.fault.is_some() || !self.errors.is_empty() {
            mask |= Readiness::ERR;
        }
        if (self.fault.is_some() || !self.errors.is_empty()) && options.kept.has(Kept::SelectErrQueue) {
            mask |= Readiness::PRI;
        }
        if self.shut_read {
            mask |= Readiness::RDHUP | Readiness::IN | Readiness::RDNORM;
        }
        if self.shut_read && self.shut_write {
            mask |= Readiness::HUP;
        }
        if !self.queue.is_empty() {
            mask |= Readiness::IN | Readiness::RDNORM;
        }
        mask
    }
}

/// Stores a datagram from `skip` on as far as there is room; it is whole or truncated, never in two parts.
fn deliver(
    datagram: &Datagram,
    skip: usize,
    sink: &mut dyn Sink,
    flags: ReceiveFlags,
) -> Result<Received, ReceiveError> {
    let bytes = datagram.bytes.get(skip..).unwrap_or(&[]);
    let stored = bytes.get(..sink.room()).unwrap_or(bytes);
    sink.put(stored).map_err(|_| ReceiveError::Memory)?;
    let truncated = stored.len() < bytes.len();
    let length = if flags.contains(ReceiveFlags::TRUNC) { datagram.bytes.len() } else { stored.len() };
    Ok(Received {
        length,
        to: Some(datagram.to),
        truncated,
        ttl: datagram.ttl,
        tos: datagram.tos,
        at: datagram.at,
        placed: datagram.placed,
        dropped: datagram.dropped,
        segment: datagram.segment,
        options: datagram.options.as_ref().map_or(IpOptions::NONE, |options| options.0),
        return_options: datagram.options.as_ref().and_then(|options| options.1),
        fragment: datagram.fragment,
        ..Received::nothing(Some(datagram.from))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Collect;
    use alloc::vec;

    fn datagram(bytes: &[u8]) -> Datagram {
        let address = core::net::IpAddr::from([10, 0, 0, 1]);
        Datagram {
            bytes: bytes.to_vec(),
            from: SocketAddr::new(address, 9),
            to: address,
            ttl: 64,
            tos: 0,
            at: Instant::ZERO,
            placed: false,
            dropped: 0,
            segment: 0,
            parts: 1,
            joins: false,
            options: None,
            fragment: 0,
        }
    }

    fn take(inbox: &mut Inbox, options: &mut SocketOptions, flags: ReceiveFlags) -> Option<(alloc::vec::Vec<u8>, u16)> {
        let mut sink = Collect::new(64);
        let received = inbox.take(options, &mut sink, flags).ok()?;
        Some((sink.bytes, received.segment))
    }

    #[test]
    //= test REF D-03
    fn datagrams_of_one_size_are_joined_and_a_shorter_one_ends_them() {
        let mut options = SocketOptions::new(212_992, 212_992);
        options.kept.write(Kept::UdpGro, 1).unwrap();
        let mut inbox = Inbox::default();
        for bytes in [&b"abc"[..], b"def", b"g", b"hij", b"klmn"] {
            assert!(inbox.push(&options, datagram(bytes), true));
        }
        let none = ReceiveFlags::empty();
        assert_eq!(take(&mut inbox, &mut options, none), Some((b"abcdefg".to_vec(), 3)));
        assert_eq!(take(&mut inbox, &mut options, none), Some((b"hij".to_vec(), 0)));
        assert_eq!(take(&mut inbox, &mut options, none), Some((b"klmn".to_vec(), 0)));
        assert_eq!(inbox.charge(), 0);
    }

    #[test]
    //= test REF D-02
    fn a_peek_offset_goes_on_with_each_peek_and_back_with_each_read() {
        let mut options = SocketOptions::new(212_992, 212_992);
        options.kept.write(Kept::PeekOff, 1).unwrap();
        let mut inbox = Inbox::default();
        for bytes in [&b"abc"[..], b"def"] {
            inbox.push(&options, datagram(bytes), true);
        }
        let seen = |inbox: &mut Inbox, options: &mut SocketOptions, flags| take(inbox, options, flags).map(|(b, _)| b);
        assert_eq!(seen(&mut inbox, &mut options, ReceiveFlags::PEEK), Some(vec![b'b', b'c']));
        assert_eq!(seen(&mut inbox, &mut options, ReceiveFlags::PEEK), Some(b"def".to_vec()));
        assert_eq!(seen(&mut inbox, &mut options, ReceiveFlags::PEEK), None);
        assert_eq!(seen(&mut inbox, &mut options, ReceiveFlags::empty()), Some(b"abc".to_vec()));
        assert_eq!(options.kept.read(Kept::PeekOff), 3);
    }

    #[test]
    //= test REF D-05
    fn what_was_dropped_is_told_with_the_next_datagram() {
        let mut options = SocketOptions::new(2_000, 2_000);
        let mut inbox = Inbox::default();
        assert!(inbox.push(&options, datagram(&[0; 600]), true));
        assert!(!inbox.push(&options, datagram(&[0; 600]), true));
        take(&mut inbox, &mut options, ReceiveFlags::TRUNC);
        assert!(inbox.push(&options, datagram(b"x"), true));
        let mut sink = Collect::new(8);
        assert_eq!(inbox.take(&mut options, &mut sink, ReceiveFlags::empty()).unwrap().dropped, 1);
    }
}
