//! Urgent data (RFC 9293 §3.8.5, RFC 6093) as Linux has it (`tcp_check_urg`, `tcp_urg`, `tcp_recv_urg`): one byte at a
//! mark, kept apart from the stream unless SO_OOBINLINE, the mark stopping reads. Whom SIGURG goes to is the host's.

use super::Shared;
use super::header::{Flags, Header};
use super::receive::Incoming;
use super::sequence::Seq;
use super::sock::Sock;
use super::state::State;
use crate::io::Sink;
use crate::settings::Settings;
use crate::socket::error::ReceiveError;
use crate::socket::protocol::{Happened, ReceiveFlags, Received};

/// What has become of the urgent byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrgentByte {
    /// Announced, not here yet (TCP_URG_NOTYET).
    Awaited,
    /// Here (TCP_URG_VALID).
    Here(u8),
    /// Taken by MSG_OOB (TCP_URG_READ).
    Taken,
}

/// The urgent byte of the peer and where in the stream it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgent {
    pub at: Seq,
    pub byte: UrgentByte,
}

/// What a read may take, for the mark's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Bytes to leave out at the front: the urgent one.
    pub skip: usize,
    /// Bytes to take at most.
    pub most: usize,
}

impl Sock {
    /// The urgent pointer of a segment, and the byte that it points to.
    //= REF T-08
    //= RFC 9293 §3.8.5 (MUST-30)
    pub(super) fn take_urgent(&mut self, shared: &mut Shared, settings: &Settings, incoming: &Incoming<'_>) {
        if incoming.has(Flags::URG) {
            self.check_urgent(shared, settings, &incoming.header);
        }
        let Some(urgent) = self.urgent.filter(|urgent| urgent.byte == UrgentByte::Awaited) else { return };
        let start = incoming.header.seq + u32::from(incoming.has(Flags::SYN));
        if urgent.at.before(start) {
            return;
        }
        let place = urgent.at.distance_from(start) as usize;
        if let Some(byte) = incoming.payload.bytes().get(place) {
            self.urgent = Some(Urgent { byte: UrgentByte::Here(*byte), ..urgent });
            self.wake(shared, Happened::INPUT);
        }
    }

    /// `tcp_check_urg`: a mark ahead of what was read and of the mark before is a new one.
    fn check_urgent(&mut self, shared: &mut Shared, settings: &Settings, header: &Header) {
        //= RFC 6093 §2.1: everybody but RFC 1122 has the pointer show to the byte after the urgent one.
        let back = u32::from(header.urgent != 0 && !settings.tcp_stdurg);
        let at = header.seq + u32::from(header.urgent) - back;
        if self.copied_seq.after(at) || at.before(self.rcv_nxt) {
            return;
        }
        if self.urgent.is_some_and(|old| !at.after(old.at)) {
            return;
        }
        if !self.urgent_queued && self.owner.is_some() {
            self.urgent_queued = true;
            //= RFC 9293 §3.8.5 (MUST-32)
            shared.urgent.push_back(self.id());
        }
        // The old mark is where the program stands: its byte is passed over now, as no mark will show it any more.
        if self.urgent.is_some_and(|old| old.at == self.copied_seq)
            && !self.options.oob_inline
            && self.copied_seq != self.rcv_nxt
        {
            self.queue.drop_front(1);
            self.copied_seq += 1;
        }
        self.urgent = Some(Urgent { at, byte: UrgentByte::Awaited });
    }

    /// How far a read may go: up to the mark, or over it when it stands there.
    pub(super) fn stretch(&self, most: usize) -> Stretch {
        let whole = Stretch { skip: 0, most };
        let Some(urgent) = self.urgent.filter(|urgent| !urgent.at.before(self.copied_seq)) else { return whole };
        match urgent.at.distance_from(self.copied_seq) as usize {
            ahead if ahead >= self.queue.readable() => whole,
            0 if self.options.oob_inline => whole,
            0 => Stretch { skip: 1, most },
            ahead => Stretch { skip: 0, most: most.min(ahead) },
        }
    }

    /// The program has read up to `copied_seq`: a mark behind it is past.
    pub(super) fn pass_mark(&mut self) {
        if self.urgent.is_some_and(|urgent| self.copied_seq.after(urgent.at)) {
            self.urgent = None;
        }
    }

    /// SIOCATMARK: the next byte to read is the urgent one.
    //= RFC 9293 §3.8.5 (MUST-33)
    pub(super) fn is_at_mark(&self) -> bool {
        self.urgent.is_some_and(|urgent| urgent.at == self.copied_seq)
    }

    /// Bytes that SIOCINQ tells (`tcp_inq`): those before the mark.
    pub(super) fn readable(&self) -> usize {
        match self.urgent {
            Some(urgent)
                if !self.options.oob_inline && !urgent.at.before(self.copied_seq) && urgent.at.before(self.rcv_nxt) =>
            {
                urgent.at.distance_from(self.copied_seq) as usize
            }
            _ => self.queue.readable(),
        }
    }

    /// MSG_OOB (`tcp_recv_urg`). It never waits.
    pub(super) fn read_urgent(&mut self, sink: &mut dyn Sink, flags: ReceiveFlags) -> Result<Received, ReceiveError> {
        let taken = |urgent: &Urgent| urgent.byte == UrgentByte::Taken;
        let Some(urgent) = self.urgent.filter(|urgent| !taken(urgent) && !self.options.oob_inline) else {
            return Err(ReceiveError::Invalid);
        };
        if self.state == State::Closed && !self.finished {
            return Err(ReceiveError::NotConnected);
        }
        if let UrgentByte::Here(byte) = urgent.byte {
            if !flags.contains(ReceiveFlags::PEEK) {
                self.urgent = Some(Urgent { byte: UrgentByte::Taken, ..urgent });
            }
            let room = sink.room() > 0;
            if room && !flags.contains(ReceiveFlags::TRUNC) {
                sink.put(&[byte]).map_err(|_| ReceiveError::Memory)?;
            }
            return Ok(Received {
                length: usize::from(room),
                truncated: !room,
                urgent: true,
                ..Received::nothing(None)
            });
        }
        if self.state == State::Closed || self.shutdown_read {
            return Ok(Received::nothing(None));
        }
        Err(ReceiveError::WouldBlock)
    }

    /// The urgent pointer of a segment that begins at `seq`, while urgent data is not acknowledged
    /// (`__tcp_transmit_skb`).
    //= RFC 9293 §3.8.5
    pub(super) fn point_to_urgent(&self, header: &mut Header, seq: Seq) {
        let Some(up) = self.snd_up.filter(|up| up.after(seq)) else { return };
        //= RFC 9293 §3.8.5 (MUST-31)
        match u16::try_from(up.distance_from(seq)) {
            Ok(pointer) => header.urgent = pointer,
            Err(_) if (seq + u32::from(u16::MAX)).after(self.snd_nxt) => header.urgent = u16::MAX,
            Err(_) => return,
        }
        header.flags |= Flags::URG;
    }
}
