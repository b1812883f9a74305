//! The queue of errors of a socket (`sk_error_queue`): what MSG_ERRQUEUE gives. ICMP messages and refusals of our own
//! under IP_RECVERR (`ip_icmp_error`, `ip_local_error`), completions of MSG_ZEROCOPY (`__msg_zerocopy_callback`) and
//! times of sending (`__skb_complete_tx_timestamp`). Who puts what in is the protocols' business.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::error::{ReceiveError, SocketFault};
use super::protocol::Received;
use crate::io::Sink;
use crate::time::Instant;
use crate::udp::true_size;

/// Where a report comes from: SO_EE_ORIGIN_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A call of the program was refused here.
    Local,
    /// An ICMP message, from this address.
    Icmp(IpAddr),
    /// A time of sending; where a copy of the packet comes with it, the address that it was sent from.
    Timestamping(Option<IpAddr>),
    /// Memory of a MSG_ZEROCOPY send may be used again.
    ZeroCopy,
}

/// One report: struct sock_extended_err, and what recvmsg tells beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where it comes from.
    pub origin: Origin,
    /// The error; none for what is no error.
    pub fault: Option<SocketFault>,
    /// ee_type.
    pub kind: u8,
    /// ee_code.
    pub code: u8,
    /// ee_info.
    pub info: u32,
    /// ee_data.
    pub data: u32,
    /// Where the packet that it is about was sent to.
    pub destination: Option<SocketAddr>,
    /// When it came.
    pub at: Instant,
}

impl Report {
    /// A time of sending: `info` is SCM_TSTAMP_*, `data` the number of the send or of its last byte.
    #[must_use]
    pub const fn sent(at: Instant, info: u32, data: u32, source: Option<IpAddr>) -> Self {
        let origin = Origin::Timestamping(source);
        Self { origin, fault: None, kind: 0, code: 0, info, data, destination: None, at }
    }
}

/// The address that a packet, quoted from the link's header on, was sent from.
#[must_use]
pub fn source_of(packet: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = packet.get(14 + 12..14 + 16)?.try_into().ok()?;
    Some(IpAddr::from(octets))
}

/// The reports of one socket that wait to be read.
#[derive(Clone, Debug, Default)]
pub struct ErrorQueue(VecDeque<(Report, Vec<u8>)>);

impl ErrorQueue {
    /// An empty one.
    pub const EMPTY: Self = Self(VecDeque::new());

    /// Whether nothing waits; while something does, poll says POLLERR.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that are charged for what waits.
    #[must_use]
    pub fn charge(&self) -> usize {
        self.0.iter().fold(0, |sum, (_, quoted)| sum.saturating_add(true_size(quoted.len())))
    }

    /// Queues a report with what it quotes of the packet (`sock_queue_err_skb`). Says whether there was room: the receive
    /// buffer, of `limit` bytes, holds `charge` of data beside all that waits here.
    pub fn push(&mut self, report: Report, quoted: &[u8], charge: usize, limit: u32) -> bool {
        let after = charge.saturating_add(self.charge()).saturating_add(true_size(quoted.len()));
        let room = after < usize::try_from(limit).unwrap_or(usize::MAX);
        if room {
            self.0.push_back((report, quoted.to_vec()));
        }
        room
    }

    /// MSG_ZEROCOPY sends, `first` to `last`, are complete; neighbours in number make one report (`skb_zerocopy_notify_extend`).
    pub fn push_completion(&mut self, first: u32, last: u32, at: Instant) {
        /// SO_EE_CODE_ZEROCOPY_COPIED: the bytes were copied after all.
        const COPIED: u8 = 1;
        if let Some((before, _)) = self.0.back_mut()
            && before.origin == Origin::ZeroCopy
            && before.data.wrapping_add(1) == first
        {
            before.data = last;
            return;
        }
        let report = Report {
            origin: Origin::ZeroCopy,
            fault: None,
            kind: 0,
            code: COPIED,
            info: first,
            data: last,
            destination: None,
            at,
        };
        // No look at the receive buffer: the memory was counted when the send was made.
        self.0.push_back((report, Vec::new()));
    }

    /// Throws errors away (`skb_errqueue_purge`, when IP_RECVERR is set to 0); what a send asked for stays.
    pub fn clear(&mut self) {
        self.0.retain(|(report, _)| matches!(report.origin, Origin::Timestamping(_) | Origin::ZeroCopy));
    }

    /// Gives the oldest report (`inet_recv_error`, `sock_dequeue_err_skb`): then the next ICMP error, if that is what
    /// comes next, is pending in its place.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits, `Memory` when the bytes cannot be stored.
    pub fn take(&mut self, sink: &mut dyn Sink, pending: &mut Option<SocketFault>) -> Result<Received, ReceiveError> {
        let (report, quoted) = self.0.front().ok_or(ReceiveError::WouldBlock)?;
        let shown = quoted.get(..sink.room()).unwrap_or(quoted);
        let (length, truncated) = (shown.len(), shown.len() < quoted.len());
        let report = *report;
        sink.put(shown).map_err(|_| ReceiveError::Memory)?;
        self.0.pop_front();
        let is_icmp = |report: &Report| matches!(report.origin, Origin::Icmp(_));
        match self.0.front() {
            Some((next, _)) if is_icmp(next) => *pending = next.fault,
            _ if is_icmp(&report) => *pending = None,
            _ => {}
        }
        Ok(Received { length, truncated, report: Some(report), at: report.at, ..Received::nothing(report.destination) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Collect;

    fn icmp(fault: SocketFault) -> Report {
        let router = IpAddr::from([10, 0, 0, 9]);
        Report {
            origin: Origin::Icmp(router),
            fault: Some(fault),
            kind: 3,
            code: 1,
            info: 0,
            data: 0,
            destination: None,
            at: Instant::ZERO,
        }
    }

    #[test]
    //= test REF D-02
    fn reading_a_report_makes_the_next_error_the_pending_one() {
        let mut queue = ErrorQueue::default();
        let mut pending = Some(SocketFault::HostUnreachable);
        queue.push(icmp(SocketFault::ConnectionRefused), b"abc", 0, 212_992);
        queue.push(icmp(SocketFault::HostUnreachable), b"", 0, 212_992);
        let mut sink = Collect::new(2);
        let first = queue.take(&mut sink, &mut pending).unwrap();
        assert_eq!((first.length, first.truncated), (2, true));
        assert_eq!(pending, Some(SocketFault::HostUnreachable));
        queue.take(&mut sink, &mut pending).unwrap();
        assert_eq!(pending, None);
        assert_eq!(queue.take(&mut sink, &mut pending), Err(ReceiveError::WouldBlock));
    }

    #[test]
    //= test REF D-02
    fn reports_are_charged_to_the_receive_buffer() {
        let mut queue = ErrorQueue::default();
        // SOCK_MIN_RCVBUF, and 768 bytes for each small packet.
        let mut push = |charge| queue.push(icmp(SocketFault::HostUnreachable), b"abc", charge, 2_304);
        assert!(!push(1_536), "the buffer is full of data");
        assert_eq!([push(0), push(0), push(0)], [true, true, false]);
    }

    #[test]
    //= test REF D-02
    fn completions_in_a_row_are_one_report() {
        let mut queue = ErrorQueue::default();
        for number in [0, 1, 2, 4] {
            queue.push_completion(number, number, Instant::ZERO);
        }
        let mut pending = Some(SocketFault::TimedOut);
        let mut sink = Collect::new(0);
        let mut take = || queue.take(&mut sink, &mut pending).unwrap().report.map(|report| (report.info, report.data));
        assert_eq!((take(), take()), (Some((0, 2)), Some((4, 4))));
        assert_eq!(pending, Some(SocketFault::TimedOut));
    }
}
