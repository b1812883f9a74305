//! TCP_REPAIR: a connection is taken out of one socket, its numbers, queues and options read, and put into another, in
//! silence (Linux's `tcp_repair_*`, `tcp_send_rcvq`, `tcp_peek_sndq`). Who may do so is for the caller to know.

use alloc::vec::Vec;

use super::header::TIMESTAMPS_LENGTH;
use super::isn;
use super::rate::Stamp;
use super::reassembly::Payload;
use super::sack::{Mark, Range};
use super::sequence::Seq;
use super::sock::{DEFAULT_MSS, Sock};
use super::state::State;
use crate::frame::MAX_PAYLOAD_SLICES;
use crate::io::{Sink, Source};
use crate::socket::error::{OptionError, ReceiveError, SendError};
use crate::socket::options::{OptionName, OptionValue, SetOption};
use crate::socket::protocol::{Net, ReceiveFlags, Received};
use crate::time::Instant;

/// RFC 7323 §2.3, as an error this time.
const LARGEST_SHIFT: u32 = 14;
/// TCP_REPAIR's values: TCP_REPAIR_ON, TCP_REPAIR_OFF, TCP_REPAIR_OFF_NO_WP.
const ON: i32 = 1;
const OFF: i32 = 0;
const OFF_WITHOUT_PROBE: i32 = -1;
/// Option kinds that TCP_REPAIR_OPTIONS takes.
const KIND_MSS: u32 = 2;
const KIND_WINDOW: u32 = 3;
const KIND_SACK: u32 = 4;
const KIND_TIMESTAMPS: u32 = 8;

/// Which queue reads, writes and TCP_QUEUE_SEQ mean (TCP_REPAIR_QUEUE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairQueue {
    /// TCP_NO_QUEUE.
    Neither,
    /// TCP_RECV_QUEUE.
    Receive,
    /// TCP_SEND_QUEUE.
    Send,
}

impl Sock {
    /// One of the options of repair.
    //= REF C-16
    pub(super) fn change_repair(&mut self, net: &Net<'_>, option: &SetOption) -> Result<(), OptionError> {
        match option {
            SetOption::Repair(_) if self.state == State::Listen => return Err(OptionError::NotPermitted),
            SetOption::Repair(ON) => self.repair = Some(RepairQueue::Neither),
            SetOption::Repair(OFF) => {
                self.repair = None;
                // SK_NO_REUSE.
                self.options.reuse_address = false;
                if self.state == State::Established {
                    // `tcp_send_window_probe`: what comes back tells the window, whatever was restored.
                    self.snd_wl1 = self.rcv_nxt - 1;
                    self.probe_due = true;
                }
            }
            SetOption::Repair(OFF_WITHOUT_PROBE) => {
                self.repair = None;
                self.options.reuse_address = false;
            }
            SetOption::Repair(_) => return Err(OptionError::Invalid),
            SetOption::RepairQueue(which) => {
                if self.repair.is_none() {
                    return Err(OptionError::NotPermitted);
                }
                self.repair = Some(match which {
                    0 => RepairQueue::Neither,
                    1 => RepairQueue::Receive,
                    2 => RepairQueue::Send,
                    _ => return Err(OptionError::Invalid),
                });
            }
            SetOption::QueueSeq(seq) => self.set_queue_seq(Seq(*seq))?,
            SetOption::RepairOptions(list) => {
                if self.repair.is_none() {
                    return Err(OptionError::Invalid);
                }
                if self.state != State::Established || self.bytes_sent > 0 {
                    return Err(OptionError::NotPermitted);
                }
                for (kind, value) in list {
                    self.repair_option(*kind, *value)?;
                }
                self.last_mss = self.current_mss(net.settings);
            }
            SetOption::RepairWindow(window) => self.set_repair_window(*window)?,
            SetOption::TcpTimestamp(value) => {
                if self.repair.is_none() {
                    return Err(OptionError::NotPermitted);
                }
                self.timestamp_offset = value.wrapping_sub(isn::timestamp_clock(net.now));
            }
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }

    fn set_queue_seq(&mut self, seq: Seq) -> Result<(), OptionError> {
        if self.state != State::Closed {
            return Err(OptionError::NotPermitted);
        }
        match self.repair {
            Some(RepairQueue::Send) => {
                self.iss = seq - 1;
                self.snd_una = seq;
                self.snd_nxt = seq;
            }
            Some(RepairQueue::Receive) if self.rcv_nxt != self.copied_seq => return Err(OptionError::NotPermitted),
            Some(RepairQueue::Receive) => {
                self.rcv_nxt = seq;
                self.copied_seq = seq;
            }
            _ => return Err(OptionError::Invalid),
        }
        Ok(())
    }

    /// `tcp_repair_options_est`.
    fn repair_option(&mut self, kind: u32, value: u32) -> Result<(), OptionError> {
        match kind {
            KIND_MSS => self.peer_mss = u16::try_from(value).unwrap_or(u16::MAX).max(1),
            KIND_WINDOW => {
                let (send, receive) = (value & 0xffff, value >> 16);
                if send > LARGEST_SHIFT || receive > LARGEST_SHIFT {
                    return Err(OptionError::TooBig);
                }
                self.snd_wscale = u8::try_from(send).unwrap_or(0);
                self.rcv_wscale = u8::try_from(receive).unwrap_or(0);
                self.window_scaling = true;
            }
            KIND_SACK if value == 0 => self.sack = true,
            KIND_TIMESTAMPS if value == 0 && !self.timestamps => {
                self.timestamps = true;
                self.advertised_mss = self.advertised_mss.saturating_sub(TIMESTAMPS_LENGTH);
            }
            KIND_SACK | KIND_TIMESTAMPS if value != 0 => return Err(OptionError::Invalid),
            _ => {}
        }
        Ok(())
    }

    /// `tcp_repair_set_window`: `snd_wl1`, `snd_wnd`, `max_window`, `rcv_wnd`, `rcv_wup`.
    fn set_repair_window(&mut self, window: [u32; 5]) -> Result<(), OptionError> {
        let [snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup] = window;
        if self.repair.is_none() {
            return Err(OptionError::NotPermitted);
        }
        if max_window < snd_wnd || Seq(snd_wl1).after(self.rcv_nxt + rcv_wnd) || Seq(rcv_wup).after(self.rcv_nxt) {
            return Err(OptionError::Invalid);
        }
        self.snd_wl1 = Seq(snd_wl1);
        self.snd_wnd = snd_wnd;
        self.max_window = max_window;
        self.rcv_wnd = rcv_wnd;
        self.rcv_wup = Seq(rcv_wup);
        Ok(())
    }

    /// Reads one of the options of repair.
    pub(super) fn read_repair(&self, now: Instant, name: OptionName) -> Result<OptionValue, OptionError> {
        let int = |value: u32| Ok(OptionValue::Int(value.cast_signed()));
        match (name, self.repair) {
            (OptionName::Repair, _) => int(u32::from(self.repair.is_some())),
            (OptionName::RepairQueue, None) => Err(OptionError::Invalid),
            (OptionName::RepairQueue, Some(which)) => int(match which {
                RepairQueue::Neither => 0,
                RepairQueue::Receive => 1,
                RepairQueue::Send => 2,
            }),
            (OptionName::QueueSeq, Some(RepairQueue::Send)) => int(self.write_end().0),
            (OptionName::QueueSeq, Some(RepairQueue::Receive)) => int(self.rcv_nxt.0),
            (OptionName::QueueSeq, _) => Err(OptionError::Invalid),
            (OptionName::RepairWindow, None) => Err(OptionError::NotPermitted),
            (OptionName::RepairWindow, Some(_)) => {
                let fields = [self.snd_wl1.0, self.snd_wnd, self.max_window, self.rcv_wnd, self.rcv_wup.0];
                Ok(OptionValue::Bytes(fields.into_iter().flat_map(u32::to_ne_bytes).collect()))
            }
            (OptionName::TcpTimestamp, _) => int(self.timestamp(now)),
            _ => Err(OptionError::Unknown),
        }
    }

    /// A connect in repair: nothing is sent, the connection stands (`tcp_connect` with `tp->repair`).
    pub(super) fn revive(&mut self, net: &mut Net<'_>) {
        let (iss, seq, received, offset) = (self.iss, self.snd_nxt, self.rcv_nxt, self.timestamp_offset);
        self.snd_una = seq;
        self.snd_sml = seq;
        self.high_seq = seq;
        self.iss = if iss == seq { seq - 1 } else { iss };
        self.snd_wnd = 0;
        self.max_window = 0;
        self.timestamps = false;
        self.timestamp_offset = offset;
        self.sack = false;
        self.window_scaling = false;
        self.snd_wscale = 0;
        self.peer_mss = DEFAULT_MSS;
        self.advertised_mss = self.mss_to_advertise();
        let window = self.initial_window(net, false);
        self.begin_window(window, received);
        self.begin_transfer(net);
    }

    /// A write in repair: into the receive queue, or into the send queue as if it was sent already.
    pub(super) fn repair_write(
        &mut self,
        net: &Net<'_>,
        source: &mut dyn Source,
        which: RepairQueue,
    ) -> Result<usize, SendError> {
        let wanted = source.remaining();
        match which {
            RepairQueue::Neither => Err(SendError::Invalid),
            RepairQueue::Receive => {
                let mut bytes = Vec::new();
                source.append_to(&mut bytes, wanted).map_err(|_| SendError::Memory)?;
                let end = bytes.len();
                let seq = self.rcv_nxt;
                self.queue.push_in_order(seq, Payload { buffer: &mut bytes, at: 0, end });
                self.rcv_nxt = seq + u32::try_from(end).unwrap_or(0);
                Ok(end)
            }
            RepairQueue::Send => {
                let room = (self.options.send_buffer as usize).saturating_sub(self.send_memory());
                if room == 0 {
                    return Err(SendError::WouldBlock);
                }
                let taken = self.buffer.append(source, wanted.min(room)).map_err(|_| SendError::Memory)?;
                let end = self.data_end();
                while self.snd_nxt.before(end) {
                    let step = end.distance_from(self.snd_nxt).min(u32::from(self.last_mss.max(1)));
                    let start = self.snd_nxt;
                    let mark = Mark::empty();
                    self.board.push(Range {
                        start,
                        end: start + step,
                        sent_at: net.now,
                        mss: self.last_mss,
                        mark,
                        stamp: Stamp::default(),
                    });
                    self.snd_nxt = start + step;
                }
                self.restart_timer(net.now, net.settings);
                Ok(taken)
            }
        }
    }

    /// A read in repair is a look at one of the queues; `None`: at the receive queue, as ever.
    pub(super) fn repair_read(
        &self,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
        which: RepairQueue,
    ) -> Option<Result<Received, ReceiveError>> {
        if !flags.contains(ReceiveFlags::PEEK) {
            return Some(Err(ReceiveError::NotPermitted));
        }
        match which {
            RepairQueue::Receive => None,
            RepairQueue::Neither => Some(Err(ReceiveError::Invalid)),
            RepairQueue::Send => Some(self.show_send_queue(sink)),
        }
    }

    /// `tcp_peek_sndq`.
    fn show_send_queue(&self, sink: &mut dyn Sink) -> Result<Received, ReceiveError> {
        let most = sink.room().min(self.buffer.len());
        let mut total = 0;
        while total < most {
            let (slices, count): ([&[u8]; MAX_PAYLOAD_SLICES], usize) = self.buffer.gather(total, most - total);
            if count == 0 {
                break;
            }
            for slice in slices {
                sink.put(slice).map_err(|_| ReceiveError::Memory)?;
            }
            total += count;
        }
        Ok(Received { length: total, ..Received::nothing(None) })
    }

    /// Bind ignores who else has the port (SK_FORCE_REUSE).
    pub(super) const fn takes_any_port(&self) -> bool {
        self.repair.is_some()
    }
}
