//! Arrival of a segment on a connection (RFC 9293 §3.10.7.3 and §3.10.7.4, in their order, with Linux's choices:
//! `tcp_rcv_state_process`, `tcp_validate_incoming`, `tcp_data_queue`, `tcp_fin`), and RFC 5961.

use core::time::Duration;

use super::acknowledge::AckResult;
use super::congestion::INITIAL_WINDOW;
use super::header::{Flags, Header};
use super::reassembly::{Ahead, Payload};
use super::sequence::Seq;
use super::sock::{Fate, Sock};
use super::state::State;
use super::time_wait::LIFETIME;
use super::{Shared, charge, close};
use crate::ip::PacketInfo;
use crate::socket::error::SocketFault;
use crate::socket::filter::{self, Program, View};
use crate::socket::protocol::{Happened, Net};
use crate::time::Instant;

/// RFC 7323 §5.5: a timestamp this old is no longer believed (TCP_PAWS_24DAYS).
const TIMESTAMP_LIFETIME: Duration = Duration::from_secs(24 * 24 * 3_600);

/// A segment that was understood and belongs to somebody.
pub struct Incoming<'a> {
    pub header: Header,
    /// Where its bytes begin in the buffer of the payload.
    pub header_at: usize,
    /// Bytes of payload.
    pub length: u32,
    /// Sequence number after the segment, SYN and FIN counted.
    pub end: Seq,
    pub payload: Payload<'a>,
    pub info: &'a PacketInfo,
}

impl Incoming<'_> {
    pub const fn has(&self, flags: Flags) -> bool {
        self.header.flags.contains(flags)
    }

    /// Sequence number after the payload, FIN not counted.
    pub fn data_end(&self) -> Seq {
        self.end - u32::from(self.has(Flags::FIN))
    }

    /// What a socket's program says of it, which may take bytes off its end (`tcp_filter`).
    pub fn is_wanted(&mut self, filter: &Program) -> bool {
        let wanted = usize::try_from(filter.run(&self.view(false))).unwrap_or(usize::MAX);
        let header = self.payload.at - self.header_at;
        let whole = self.payload.end - self.header_at;
        let end = wanted.max(header).min(whole);
        if wanted > 0 && end < whole {
            self.payload.end = self.header_at + end;
            let cut = u32::try_from(whole - end).unwrap_or(0);
            self.length -= cut.min(self.length);
            self.end = self.end - cut;
        }
        wanted > 0
    }

    /// The segment for a program: from its header on, or its payload alone.
    pub fn view(&self, payload_only: bool) -> View<'_> {
        let at = if payload_only { self.payload.at } else { self.header_at };
        View {
            data: self.payload.buffer.get(at..self.payload.end).unwrap_or(&[]),
            network: self.payload.buffer.get(self.info.network_at..self.header_at).unwrap_or(&[]),
            packet_type: filter::packet_type(self.info.kind),
            payload: self.payload.at - at,
        }
    }

    /// Size of one of its segments.
    fn segment_size(&self) -> u32 {
        if self.info.gso_size > 0 { u32::from(self.info.gso_size).min(self.length) } else { self.length }
    }
}

/// What the caller has to do after a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Done,
    /// Answer with RST as to a closed port.
    Reset,
}

impl Sock {
    /// A segment for a connection that is neither listening nor closed.
    pub(super) fn handle(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: Incoming<'_>) -> Verdict {
        self.segments_in = self.segments_in.wrapping_add(1);
        if incoming.length > 0 {
            let segments = u32::try_from(incoming.segments()).unwrap_or(u32::MAX);
            self.data_segments_in = self.data_segments_in.wrapping_add(segments);
        }
        if self.state == State::SynSent {
            return self.handle_in_syn_sent(shared, net, incoming);
        }
        if !incoming.header.flags.intersects(Flags::ACK | Flags::RST | Flags::SYN) {
            return Verdict::Done;
        }
        // The client's SYN came again: our answer was lost.
        let opening = incoming.header.flags & (Flags::SYN | Flags::RST | Flags::ACK) == Flags::SYN;
        if self.is_open_early() && opening && incoming.header.seq == self.irs {
            self.syn_due = true;
            return Verdict::Done;
        }
        if !self.is_acceptable(shared, net, &incoming) {
            return Verdict::Done;
        }
        if !incoming.has(Flags::ACK) {
            return Verdict::Done;
        }
        let established = self.state == State::Established;
        match self.acknowledge(shared, net, &incoming, established) {
            AckResult::Taken => {}
            AckResult::Old | AckResult::Invalid if self.state == State::SynReceived => return Verdict::Reset,
            AckResult::Old => {}
            AckResult::Invalid => {
                //= RFC 9293 §3.10.7.4: an ACK for what was not sent yet is answered, since Linux 6.18 in ESTABLISHED, too.
                //= RFC 5961 §5.2 (MUST-10)
                self.challenge_ack(shared, net);
                return Verdict::Done;
            }
        }
        if self.state == State::SynReceived {
            self.finish_opening(shared, net, &incoming);
        }
        let verdict = self.handle_ack_of_fin(shared, net, &incoming);
        if verdict == Verdict::Reset || self.state == State::Closed || self.fate != Fate::Stays {
            return verdict;
        }
        self.take_urgent(shared, net.settings, &incoming);
        self.handle_payload(shared, net, incoming)
    }

    fn handle_payload(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: Incoming<'_>) -> Verdict {
        let ended = matches!(self.state, State::CloseWait | State::Closing | State::LastAck);
        if ended && !incoming.header.seq.before(self.rcv_nxt) {
            // Nothing can follow the peer's FIN.
            self.check_ack(net.now);
            return Verdict::Done;
        }
        //= RFC 9293 §3.6.1 (MAY-1)
        if self.shutdown_read && self.is_closing() {
            //= RFC 9293 §3.6.1: data after close() is thrown away, and the peer is told (RFC 1122 §4.2.2.13).
            if incoming.end != incoming.header.seq && incoming.data_end().after(self.rcv_nxt) {
                //= RFC 9293 §3.6.1 (SHLD-3)
                net.counters.tcp_abort_on_data += 1;
                self.reset(shared, net);
                return Verdict::Reset;
            }
        }
        self.queue_data(shared, net, incoming);
        if self.state != State::Closed {
            self.check_ack(net.now);
        }
        Verdict::Done
    }

    const fn is_closing(&self) -> bool {
        matches!(self.state, State::FinWait1 | State::FinWait2 | State::CloseWait | State::Closing | State::LastAck)
    }

    /// Sequence number, RST and SYN (`tcp_validate_incoming`).
    fn is_acceptable(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: &Incoming<'_>) -> bool {
        let header = incoming.header;
        let reset = incoming.has(Flags::RST);
        // A RST need not pass PAWS (RFC 7323 §5.2).
        //= RFC 7323 §5.2 (MUST-21)
        //= RFC 7323 §5.3 (MUST-24, MUST-25)
        if self.is_too_old(net.now, incoming) && !reset {
            if incoming.has(Flags::SYN) {
                self.answer_syn(shared, net);
                return false;
            }
            // Old ACKs that were overtaken are common, and need no answer (`tcp_disordered_ack_check`).
            if incoming.has(Flags::ACK) && incoming.end == header.seq && header.seq.before(self.rcv_nxt) {
                net.counters.paws_old_ack += 1;
                return false;
            }
            //= RFC 7323 §5.3 (R1)
            //= RFC 7323 §5.3 (MUST-23)
            net.counters.paws_estab += 1;
            if self.may_answer_invalid(net, incoming) {
                self.duplicate_ack(incoming);
            } else {
                net.counters.tcp_ack_skipped_paws += 1;
            }
            return false;
        }
        //= RFC 9293 §3.10.7.4 "first, check sequence number"
        //= RFC 9293 §3.4 (MUST-66)
        let window_end = self.rcv_nxt + self.receive_window();
        // What goes beyond the window is taken only while nothing waits to be read (`tcp_sequence`).
        let overlong = incoming.end.after(window_end) && self.queue.readable() > 0;
        if incoming.end.before(self.rcv_wup) || header.seq.after(window_end) || overlong {
            if reset {
                // `tcp_reset_check`: our FIN's answer may be one off.
                //= RFC 5961 §3.2 (MUST-1)
                if self.is_reset_after_fin(incoming) {
                    self.reset(shared, net);
                }
            } else if incoming.has(Flags::SYN) {
                self.answer_syn(shared, net);
            } else {
                net.counters.beyond_window += u64::from(!incoming.end.before(self.rcv_wup));
                if self.may_answer_invalid(net, incoming) {
                    self.duplicate_ack(incoming);
                } else {
                    net.counters.tcp_ack_skipped_seq += 1;
                }
            }
            return false;
        }
        //= RFC 5961 §3.2: only an exact match resets.
        if reset {
            //= RFC 9293 §3.5.3 (SHLD-2)
            //= RFC 5961 §3.2 (SHLD-2)
            let exact = header.seq == self.rcv_nxt
                || self.is_reset_after_fin(incoming)
                || (self.sack && self.queue.highest() == Some(header.seq));
            //= RFC 5961 §3.2 (MUST-2, MUST-3, MUST-4)
            //= RFC 5961 §4.2 (MUST-8)
            //= RFC 7323 §5.2 (MUST-22)
            if exact {
                self.reset(shared, net);
            } else {
                self.challenge_ack(shared, net);
            }
            return false;
        }
        //= RFC 5961 §4.2
        if incoming.has(Flags::SYN) {
            let answers_ours = self.state == State::SynReceived
                && incoming.has(Flags::ACK)
                && header.seq + 1 == incoming.end
                && incoming.end == self.rcv_nxt
                && header.ack == self.snd_nxt;
            //= RFC 5961 §4.2 (SHLD-3, MUST-6, MUST-7)
            if !answers_ours {
                self.answer_syn(shared, net);
                return false;
            }
        }
        true
    }

    fn answer_syn(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        net.counters.tcp_syn_challenge += 1;
        self.challenge_ack(shared, net);
    }

    fn is_reset_after_fin(&self, incoming: &Incoming<'_>) -> bool {
        incoming.header.seq + 1 == self.rcv_nxt
            && matches!(self.state, State::CloseWait | State::LastAck | State::Closing)
    }

    /// An ACK tells the peer where we are (`tcp_send_dupack`), with a D-SACK when it repeated itself.
    fn duplicate_ack(&mut self, incoming: &Incoming<'_>) {
        let seq = incoming.header.seq;
        if incoming.end != seq && seq.before(self.rcv_nxt) {
            if self.sack {
                self.queue.note_duplicate(seq, incoming.end.earlier(self.rcv_nxt));
            }
            let window = self.receive_window();
            self.ack.enter_quick(16, window);
        }
        self.owe_ack();
    }

    /// An ACK of its own for this segment, for peers that count duplicates.
    //= RFC 5681 §4.2 (MUST-22)
    fn owe_ack(&mut self) {
        self.ack.now = true;
        // Bounded: more than a few say nothing more.
        self.ack.owed = if self.sack { 1 } else { self.ack.owed.saturating_add(1).min(8) };
    }

    /// Out-of-window segments without data are answered only so often (tcp_invalid_ratelimit).
    fn may_answer_invalid(&mut self, net: &Net<'_>, incoming: &Incoming<'_>) -> bool {
        if incoming.length > 0 && !incoming.has(Flags::SYN) {
            return true;
        }
        let limit = Duration::from_millis(u64::from(net.settings.tcp_invalid_ratelimit));
        if self.last_challenge.is_some_and(|last| net.now.since(last) < limit) {
            return false;
        }
        self.last_challenge = Some(net.now);
        true
    }

    //= RFC 5961 §7 (SHLD-4, SHLD-5): the rate of challenge ACKs is limited.
    //= REF T-01
    pub(super) fn challenge_ack(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        let limit = Duration::from_millis(u64::from(net.settings.tcp_invalid_ratelimit));
        if self.last_challenge.is_some_and(|last| net.now.since(last) < limit) {
            net.counters.tcp_ack_skipped_challenge += 1;
            return;
        }
        self.last_challenge = Some(net.now);
        if !shared.may_challenge(net) {
            return;
        }
        net.counters.tcp_challenge_ack += 1;
        self.ack.now = true;
    }

    /// Whether the timestamp is older than the last one heard (RFC 7323 §5.3, `tcp_paws_discard`).
    fn is_too_old(&self, now: Instant, incoming: &Incoming<'_>) -> bool {
        //= RFC 7323 §3.2 (MUST-16, MUST-17)
        let Some(timestamps) = incoming.header.options.timestamps.filter(|_| self.timestamps) else { return false };
        let age = Seq(self.ts_recent).offset_from(Seq(timestamps.value));
        //= RFC 7323 §5.5 (MAY-11)
        if age <= 1 || self.ts_recent == 0 || now.since(self.ts_recent_at) >= TIMESTAMP_LIFETIME {
            return false;
        }
        !self.is_disordered_ack(incoming, age)
    }

    /// A pure ACK that was overtaken does no harm (`tcp_disordered_ack`).
    fn is_disordered_ack(&self, incoming: &Incoming<'_>, age: i32) -> bool {
        let header = &incoming.header;
        // The peer's clock may tick at up to 1200 Hz (`tcp_tsval_replay`).
        let replay = self.rtt.timeout().as_millis() * 1_200 / 1_000;
        header.flags.contains(Flags::ACK)
            && header.seq == self.rcv_nxt
            && incoming.end == header.seq
            && header.ack == self.snd_una
            && !self.is_newer_window(incoming)
            && u128::from(age.unsigned_abs()) <= replay
    }

    /// `tcp_replace_ts_recent`.
    //= RFC 7323 §4.3
    pub(super) fn update_ts_recent(&mut self, now: Instant, incoming: &Incoming<'_>) {
        if let Some(timestamps) = incoming.header.options.timestamps
            && self.timestamps
            //= RFC 7323 §4.3 (SHLD-10, SHLD-11, MUST-19)
            && !incoming.header.seq.after(self.rcv_wup)
            //= RFC 7323 §5.2 (MUST-20)
            && Seq(self.ts_recent).offset_from(Seq(timestamps.value)) <= 0
        {
            self.ts_recent = timestamps.value;
            self.ts_recent_at = now;
        }
    }

    /// A valid RST (`tcp_reset`).
    pub(super) fn reset(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        if self.is_open_early()
            && let Some(listener) = self.fast_open.listener
        {
            shared.fast_open.was_reset(net.now, listener);
        }
        //= RFC 9293 §3.6 (MUST-12)
        self.error = Some(match self.state {
            State::Closed => return,
            State::SynSent => SocketFault::ConnectionRefused,
            //= REF T-10
            State::CloseWait => SocketFault::BrokenPipe,
            _ => SocketFault::ConnectionReset,
        });
        self.done(shared, net.counters, net.now);
    }

    /// Our FIN may have been acknowledged (RFC 9293 §3.10.7.4 "fifth", FIN-WAIT-1, CLOSING and LAST-ACK).
    fn handle_ack_of_fin(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: &Incoming<'_>) -> Verdict {
        if !self.fin_acked {
            return Verdict::Done;
        }
        match self.state {
            State::FinWait1 => {
                self.set_state(shared, net.counters, State::FinWait2);
                self.shutdown_write = true;
                if !self.orphan {
                    self.wake(shared, Happened::STATE);
                    return Verdict::Done;
                }
                let beyond = incoming.end != incoming.header.seq && incoming.data_end().after(self.rcv_nxt);
                if self.tcp.linger2 < 0 || beyond {
                    net.counters.tcp_abort_on_data += 1;
                    self.done(shared, net.counters, net.now);
                    return Verdict::Reset;
                }
                let wait = close::fin_time(self, net.settings);
                if wait > LIFETIME {
                    self.keepalive_at = Some(net.now + (wait - LIFETIME));
                } else if incoming.has(Flags::FIN) {
                    // The FIN is taken below, and leads to TIME_WAIT itself.
                    self.keepalive_at = Some(net.now + wait);
                } else {
                    self.fate = Fate::Waits(State::FinWait2, wait);
                }
            }
            State::Closing => self.fate = Fate::Waits(State::TimeWait, LIFETIME),
            State::LastAck => self.done(shared, net.counters, net.now),
            _ => {}
        }
        Verdict::Done
    }

    /// `tcp_data_queue`.
    pub(super) fn queue_data(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: Incoming<'_>) {
        self.accept_cwr(&incoming);
        let Incoming { header, header_at: _, length, end, mut payload, info } = incoming;
        let fin = header.flags.contains(Flags::FIN);
        let mut seq = header.seq;
        if seq == end {
            return;
        }
        let opening = u32::from(header.flags.contains(Flags::SYN));
        let data_end = seq + opening + length;
        let segment = if info.gso_size > 0 { u32::from(info.gso_size).min(length) } else { length };
        if !end.after(self.rcv_nxt) {
            net.counters.delayed_ack_lost += 1;
            if self.sack && net.settings.tcp_dsack {
                net.counters.tcp_dsack_old_sent += 1;
                self.queue.note_duplicate(seq, end);
            }
            self.ack_out_of_window();
            return;
        }
        // The answer to a SYN of ours that crossed the peer's repeats the peer's SYN: old data, told above.
        seq += opening;
        let fin_alone = fin && length == 0 && seq == self.rcv_nxt;
        if !seq.before(self.rcv_nxt + self.receive_window()) && !fin_alone {
            if self.receive_window() == 0 {
                net.counters.tcp_zero_window_drop += 1;
            }
            self.ack_out_of_window();
            return;
        }
        if seq.after(self.rcv_nxt) {
            self.check_ecn(shared, net, info.tos);
            self.queue_ahead(net, seq, payload, fin.then_some(data_end), (segment, info.gso_size > 0));
            return;
        }
        if seq.before(self.rcv_nxt) {
            let known = self.rcv_nxt.distance_from(seq);
            if self.sack && net.settings.tcp_dsack {
                net.counters.tcp_dsack_old_sent += 1;
                self.queue.note_duplicate(seq, self.rcv_nxt);
            }
            payload.at = payload.at.saturating_add(known as usize).min(payload.end);
            seq = self.rcv_nxt;
        }
        if !self.has_receive_room(net.settings, net.counters) && self.queue.readable() > 0 && length > 0 {
            // The peer learns that there is nothing left of the window (ICSK_ACK_NOMEM).
            net.counters.tcp_rcv_q_drop += 1;
            self.no_receive_memory = true;
            self.ack.scheduled = true;
            self.ack.now = true;
            self.wake(shared, Happened::INPUT);
            return;
        }
        let taken = u32::try_from(payload.len()).unwrap_or(0);
        let had_hole = self.queue.has_hole() || self.fin_ahead.is_some();
        let cut = info.gso_size > 0;
        let truesize = charge::truesize(length, cut);
        if taken > 0 {
            if !self.shutdown_read || !self.orphan {
                self.queue.borrow(&mut shared.spares, payload.len());
                self.queue.push_in_order(seq, payload);
                self.charges.add(seq, seq + taken, truesize, cut);
            }
            self.bytes_received += u64::from(taken);
        }
        self.rcv_nxt = self.queue.advance(seq + taken);
        self.charges.advance(self.rcv_nxt);
        if taken > 0 {
            self.note_data(net.now, segment.max(1), length, truesize);
            let echo = header.options.timestamps.filter(|_| self.timestamps).map(|timestamps| timestamps.echo);
            self.measure_receive_rtt(net.now, echo, length);
            self.check_ecn(shared, net, info.tos);
            self.grow_window(net.settings, length, truesize);
        }
        //= RFC 5681 §3.2 (SHLD-7)
        if had_hole {
            //= RFC 5681 §4.2: a segment that fills a hole is acknowledged at once.
            self.ack.now = true;
        }
        if fin || self.fin_ahead == Some(self.rcv_nxt) {
            self.take_fin(shared, net);
        }
        self.wake(shared, Happened::INPUT);
    }

    fn ack_out_of_window(&mut self) {
        let window = self.receive_window();
        self.ack.enter_quick(16, window);
        self.ack.scheduled = true;
        self.owe_ack();
    }

    /// `tcp_data_queue_ofo`.
    //= RFC 9293 §3.10.7.4 (SHLD-31)
    fn queue_ahead(
        &mut self,
        net: &mut Net<'_>,
        seq: Seq,
        payload: Payload<'_>,
        fin: Option<Seq>,
        (segment, cut): (u32, bool),
    ) {
        net.counters.tcp_ofo_queue += 1;
        let segments = payload.len().div_ceil(segment.max(1) as usize).max(1);
        self.out_of_order_in = self.out_of_order_in.wrapping_add(u32::try_from(segments).unwrap_or(u32::MAX));
        let length = u32::try_from(payload.len()).unwrap_or(0);
        let truesize = charge::truesize(length, cut);
        if !self.has_receive_room(net.settings, net.counters) {
            net.counters.tcp_ofo_drop += 1;
            self.no_receive_memory = true;
            self.owe_ack();
            return;
        }
        if let Some(fin) = fin {
            self.fin_ahead = Some(fin);
        }
        if length > 0 || fin.is_some() {
            let limit = (self.options.receive_buffer as usize).saturating_mul(2);
            match self.queue.push_ahead(seq, payload, fin.is_some(), limit) {
                Ahead::Queued => self.charges.add_ahead(seq, seq + length, truesize, cut),
                Ahead::Merged => {
                    self.charges.add_ahead(seq, seq + length, truesize, cut);
                    net.counters.tcp_ofo_merge += 1;
                }
                Ahead::Duplicate => net.counters.tcp_dsack_ofo_sent += 1,
                Ahead::Refused => net.counters.tcp_ofo_drop += 1,
            }
            if !net.settings.tcp_dsack || !self.sack {
                self.queue.forget_duplicate();
            }
        }
        // `tcp_data_queue_ofo`: what is ahead of a hole shall not take room from what fills it.
        if !self.orphan {
            self.grow_receive_buffer(net.settings, self.space);
        }
        self.note_data(net.now, segment.max(1), length, truesize);
        self.grow_window(net.settings, length, truesize);
        //= RFC 5681 §4.2
        //= RFC 9293 §3.10.7.4 (MAY-13)
        //= RFC 5681 §3.2 (SHLD-6)
        self.owe_ack();
    }

    /// `tcp_fin`.
    //= RFC 9293 §3.10.7.4 "eighth, check the FIN bit"
    //= RFC 9293 §3.6 (MUST-12)
    fn take_fin(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        self.rcv_nxt += 1;
        self.fin_ahead = None;
        self.ack.scheduled = true;
        self.shutdown_read = true;
        self.finished = true;
        self.queue.drop_ahead();
        self.charges.drop_ahead();
        match self.state {
            State::SynReceived | State::Established => {
                self.set_state(shared, net.counters, State::CloseWait);
                self.ack.pingpong = true;
            }
            State::FinWait1 => {
                self.ack.now = true;
                self.set_state(shared, net.counters, State::Closing);
            }
            State::FinWait2 => {
                self.ack.now = true;
                self.fate = Fate::Waits(State::TimeWait, LIFETIME);
            }
            _ => {}
        }
        let both = self.shutdown_write || self.state == State::Closed;
        self.wake(shared, Happened::STATE | if both { Happened::HANG_UP } else { Happened::INPUT });
    }

    /// The connection stands (`tcp_init_transfer` and what stands around it).
    pub(super) fn begin_transfer(&mut self, net: &mut Net<'_>) {
        self.max_packets_seq = self.snd_nxt;
        self.last_received = net.now;
        self.last_ack_received = net.now;
        self.last_sent = net.now;
        if self.timestamps {
            self.advertised_mss = self.advertised_mss.saturating_sub(super::header::TIMESTAMPS_LENGTH);
        }
        self.begin_path_probing(net.now, net.settings);
        self.last_mss = self.current_mss(net.settings);
        self.ack.rcv_mss = self.last_mss.min(self.advertised_mss).clamp(1, super::sock::DEFAULT_MSS);
        let initial = self.route.map_or(0, |route| route.initial_cwnd);
        self.window.cwnd = if initial > 0 { initial } else { INITIAL_WINDOW };
        if self.rtt.smoothed().is_none() && self.retransmits_of_syn() {
            //= RFC 6298 (5.7)
            //= RFC 6298 §5 (MUST-11)
            self.rtt.fall_back();
        }
        // Since the first timeout is one second only, one SYN more proves no congestion (`tcp_init_transfer`).
        //= RFC 6928 §2: one segment after a lost SYN.
        //= RFC 5681 §3.1 (MUST-7)
        if self.total_retransmits > 1 {
            self.window.cwnd = 1;
        }
        //= RFC 5681 §3.1 (MUST-6)
        self.init_control(net.now);
        // The handshake has told a round-trip time: the first flight is cut by it already (`tcp_rcv_state_process`).
        if !self.algorithm.has_cong_control() {
            self.update_pacing_rate(net.settings);
        }
        self.expand_send_buffer(net.settings);
        self.begin_space(net.now);
        if self.options.keepalive {
            self.restart_keepalive(net);
        }
    }

    const fn retransmits_of_syn(&self) -> bool {
        self.total_retransmits > 0
    }

    /// SYN-RECEIVED becomes ESTABLISHED (simultaneous open; the passive one goes through a request).
    fn finish_opening(&mut self, shared: &mut Shared, net: &mut Net<'_>, incoming: &Incoming<'_>) {
        self.snd_wnd = u32::from(incoming.header.window) << if incoming.has(Flags::SYN) { 0 } else { self.snd_wscale };
        self.max_window = self.max_window.max(self.snd_wnd);
        self.snd_wl1 = incoming.header.seq;
        self.begin_transfer(net);
        if !self.fast_open.passive {
            self.copied_seq = self.rcv_nxt;
        }
        self.fast_open.passive = false;
        self.set_state(shared, net.counters, State::Established);
        self.wake(shared, Happened::STATE | Happened::OPENED);
        if self.shutdown_write {
            self.queue_fin_by_state(shared, net);
        }
    }
}

impl Incoming<'_> {
    /// How many segments of the wire it stands for, for TcpInSegs.
    pub fn segments(&self) -> u64 {
        u64::from(self.length.div_ceil(self.segment_size().max(1)).max(1))
    }
}
