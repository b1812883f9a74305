//! What a program hears of its sends through the queue of errors: times at which the last byte of each was handed to the
//! device and acknowledged (SO_TIMESTAMPING; `tcp_tx_timestamp`, `tcp_ack_tstamp`), and that the memory of MSG_ZEROCOPY
//! sends may be used again, which Linux says when the last byte is acknowledged (`msg_zerocopy_callback`). How the reports
//! wait and are read is in `socket/errqueue.rs`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::Shared;
use super::sequence::Seq;
use super::sock::Sock;
use crate::socket::errqueue::{Report, source_of};
use crate::socket::kept::Kept;
use crate::socket::protocol::{Happened, SendArguments, SendFlags, SockId};
use crate::socket::protosw::Transport;
use crate::socket::sockopt::timestamping;
use crate::time::Instant;

/// SCM_TSTAMP_SND, SCM_TSTAMP_SCHED and SCM_TSTAMP_ACK (linux/errqueue.h).
const SENT: u32 = 0;
const SCHEDULED: u32 = 1;
const ACKNOWLEDGED: u32 = 2;
/// What is told when a segment goes out.
const ON_SENDING: i32 = timestamping::TX_SCHED | timestamping::TX_SOFTWARE;

/// The last byte of a send whose times are asked for (`tskey`).
#[derive(Clone, Copy, Debug)]
struct TimedByte {
    seq: Seq,
    /// TX_SCHED, TX_SOFTWARE and TX_ACK of SO_TIMESTAMPING.
    wanted: i32,
}

/// MSG_ZEROCOPY sends, numbered, whose bytes up to `end` are not all acknowledged.
#[derive(Clone, Copy, Debug)]
struct Pinned {
    first: u32,
    last: u32,
    end: Seq,
}

/// What one connection owes its program.
#[derive(Debug, Default)]
pub struct TxTimes {
    /// Where bytes are counted from (`sk_tskey`).
    base: Option<Seq>,
    /// In the order of the stream.
    bytes: VecDeque<TimedByte>,
    /// Number of the next MSG_ZEROCOPY send (`sk_zckey`).
    next_number: u32,
    pinned: VecDeque<Pinned>,
}

/// A packet whose time of sending is asked for: of TCP a segment that carries the byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedSend {
    /// Of which protocol.
    pub transport: Transport,
    /// Whose.
    pub sock: SockId,
    /// TX_SCHED and TX_SOFTWARE of SO_TIMESTAMPING.
    pub(crate) wanted: i32,
    /// Its number.
    pub(crate) data: u32,
}

impl TimedSend {
    /// What is told when it goes out: SCM_TSTAMP_SCHED and SCM_TSTAMP_SND (`__skb_tstamp_tx`).
    pub(crate) fn kinds(&self) -> impl Iterator<Item = u32> + use<> {
        let wanted = self.wanted;
        [(timestamping::TX_SCHED, SCHEDULED), (timestamping::TX_SOFTWARE, SENT)]
            .into_iter()
            .filter(move |(flag, _)| wanted & flag != 0)
            .map(|(_, kind)| kind)
    }
}

impl Sock {
    fn timestamping(&self) -> i32 {
        self.options.kept.read(Kept::Timestamping)
    }

    /// SO_TIMESTAMPING is set: OPT_ID counts bytes from now on (`sock_set_tskey`). Called before the option changes.
    pub(super) fn number_bytes(&mut self, flags: i32) {
        if flags & !self.timestamping() & timestamping::OPT_ID != 0 {
            self.tx_times.base =
                Some(if flags & timestamping::OPT_ID_TCP != 0 { self.write_end() } else { self.snd_una });
        }
    }

    /// A send has ended here (`tcp_tx_timestamp`). A buffer tells of one byte: the last that was asked for.
    //= REF D-05
    pub(super) fn note_end_of_send(&mut self, arguments: &SendArguments, whole: bool) {
        const RECORD: i32 = ON_SENDING | timestamping::TX_ACK;
        let wanted = arguments.timestamping.unwrap_or_else(|| self.timestamping()) & RECORD;
        // Who waits for room goes on with the same send.
        if wanted == 0 || !(whole || arguments.flags.contains(SendFlags::DONTWAIT)) {
            return;
        }
        let seq = self.data_end() - 1;
        let begin = self.boundaries.start_of_last(self.snd_nxt);
        let mut joined = 0;
        while let Some(last) =
            self.tx_times.bytes.back().filter(|last| begin.is_some_and(|begin| !last.seq.before(begin)))
        {
            joined |= last.wanted;
            self.tx_times.bytes.pop_back();
        }
        self.tx_times.bytes.push_back(TimedByte { seq, wanted: wanted | joined });
    }

    /// Number of a byte, as the program is told it (`ee_data`).
    fn number_of_byte(&self, seq: Seq) -> u32 {
        match self.tx_times.base {
            Some(base) if self.timestamping() & timestamping::OPT_ID != 0 => seq.distance_from(base),
            _ => 0,
        }
    }

    /// Whether a segment carries a byte whose time of sending is asked for; a repetition is told of again.
    pub(super) fn timed_send(&self, start: Seq, end: Seq) -> Option<TimedSend> {
        let within = |byte: &&TimedByte| !byte.seq.before(start) && byte.seq.before(end);
        let byte = self.tx_times.bytes.iter().rev().find(within).filter(|byte| byte.wanted & ON_SENDING != 0)?;
        Some(TimedSend {
            transport: Transport::Tcp,
            sock: self.id(),
            wanted: byte.wanted,
            data: self.number_of_byte(byte.seq),
        })
    }

    /// A segment has gone out (`__skb_tstamp_tx`). `packet`: all of it, from the link's header on.
    pub(super) fn note_sending_time(&mut self, shared: &mut Shared, now: Instant, send: &TimedSend, packet: &[u8]) {
        for info in send.kinds() {
            self.report_time(shared, now, info, send.data, packet, source_of(packet));
        }
    }

    /// Bytes up to `ack` have arrived; they are still in the send buffer (`tcp_ack_tstamp`).
    pub(super) fn note_acknowledged_times(&mut self, shared: &mut Shared, now: Instant, ack: Seq) {
        while let Some(byte) = self.tx_times.bytes.front().copied().filter(|byte| byte.seq.before(ack)) {
            self.tx_times.bytes.pop_front();
            if byte.wanted & timestamping::TX_ACK != 0 {
                let (data, quoted) = (self.number_of_byte(byte.seq), self.bytes_around(byte.seq));
                self.report_time(shared, now, ACKNOWLEDGED, data, &quoted, None);
            }
        }
    }

    /// The bytes that lie in one buffer with `seq`: the packet that Linux quotes is the one of the retransmission queue,
    /// which has no headers.
    fn bytes_around(&self, seq: Seq) -> Vec<u8> {
        if self.timestamping() & timestamping::OPT_TSONLY != 0 {
            return Vec::new();
        }
        let Some(range) = self.board.range_of(seq) else { return Vec::new() };
        let start = range.start.later(self.data_start());
        let from = start.distance_from(self.data_start()) as usize;
        let (slices, _) = self.buffer.gather(from, range.end.distance_from(start) as usize);
        slices.concat()
    }

    fn report_time(
        &mut self,
        shared: &mut Shared,
        at: Instant,
        info: u32,
        data: u32,
        packet: &[u8],
        source: Option<IpAddr>,
    ) {
        let time_only = self.timestamping() & timestamping::OPT_TSONLY != 0;
        let (quoted, source) = if time_only { (&[][..], None) } else { (packet, source) };
        let charge = usize::try_from(self.charges.total()).unwrap_or(usize::MAX);
        if self.reports.push(Report::sent(at, info, data, source), quoted, charge, self.options.receive_buffer) {
            self.wake(shared, Happened::ERROR);
        }
    }

    /// A MSG_ZEROCOPY send has ended here: its memory counts as pinned until its last byte is acknowledged
    /// (`msg_zerocopy_realloc`).
    //= REF D-02
    pub(super) fn note_zero_copy(&mut self, shared: &mut Shared, now: Instant) {
        let number = self.tx_times.next_number;
        self.tx_times.next_number = number.wrapping_add(1);
        let end = self.data_end();
        let unsent = self.snd_nxt;
        match self.tx_times.pinned.back_mut() {
            // What goes into a buffer that was not sent yet is let go with it.
            Some(last) if last.end.after(unsent) => (last.last, last.end) = (number, end),
            _ => self.tx_times.pinned.push_back(Pinned { first: number, last: number, end }),
        }
        let acknowledged = self.snd_una;
        self.release_zero_copies(shared, now, |pinned| !pinned.end.after(acknowledged));
    }

    /// All bytes before `ack` are acknowledged.
    pub(super) fn release_acknowledged_copies(&mut self, shared: &mut Shared, now: Instant, ack: Seq) {
        self.release_zero_copies(shared, now, |pinned| !pinned.end.after(ack));
    }

    /// What was written is thrown away (`tcp_write_queue_purge`).
    pub(super) fn release_all_copies(&mut self, shared: &mut Shared, now: Instant) {
        self.tx_times.bytes.clear();
        self.release_zero_copies(shared, now, |_| true);
    }

    fn release_zero_copies(&mut self, shared: &mut Shared, now: Instant, done: impl Fn(&Pinned) -> bool) {
        while let Some(pinned) = self.tx_times.pinned.front().copied().filter(|pinned| done(pinned)) {
            self.tx_times.pinned.pop_front();
            self.reports.push_completion(pinned.first, pinned.last, now);
            self.wake(shared, Happened::ERROR);
        }
    }
}
