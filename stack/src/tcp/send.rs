//! What goes out next (RFC 9293 §3.7, §3.8.6; `tcp_write_xmit`): repetitions first, then new data as congestion window,
//! peer's window, Nagle (RFC 9293 §3.7.4, Minshall's variant), TCP_CORK and MSG_MORE allow, in super-segments up to
//! what the device cuts up itself; else a bare ACK or probe.

use super::Shared;
use super::chrono::Chrono;
use super::congestion::{Event, INITIAL_WINDOW};
use super::header::{Flags, Header, HeaderBytes, TIMESTAMPS_LENGTH, Timestamps};
use super::path_probe::NextProbe;
use super::phase::Phase;
use super::rate::Stamp;
use super::refusal::Fresh;
use super::sack::{Mark, Range};
use super::segmentation::Push;
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use super::state::State;
use super::tx_times::TimedSend;
use crate::frame::MAX_PAYLOAD_SLICES;
use crate::io::Source;
use crate::settings::Settings;
use crate::socket::error::SendError;
use crate::socket::protocol::{Happened, Net, SendArguments, SendFlags};
use crate::time::Instant;

/// Why something is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It is taken for lost.
    Loss,
    /// The retransmission timer has fired, and has its next time already.
    Timer,
    /// To make the peer answer, which stands for no loss.
    Probe,
}

/// The buffer that is sent next.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Bytes left of it.
    length: u32,
    /// Nothing was written behind it.
    in_tail: bool,
}

/// A segment that was decided on: header, and which bytes of the send buffer follow.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub header: HeaderBytes,
    /// First byte, counted from the first unacknowledged one.
    pub from: usize,
    pub length: usize,
    /// Segment size when the device has to cut; else 0.
    pub gso_size: u16,
    /// What to do if the device refuses it.
    pub seq: Option<Seq>,
    /// It carries what was never sent before.
    pub fresh: Option<Fresh>,
    /// ECN bits of the TOS byte.
    pub ecn: u8,
    /// The program asks when it goes out.
    pub timed: Option<TimedSend>,
}

impl Sock {
    /// Takes bytes to send (`tcp_sendmsg`).
    pub(super) fn write(
        &mut self,
        net: &mut Net<'_>,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError> {
        if !matches!(self.state, State::Established | State::CloseWait) && !self.is_open_early() {
            if let Some(fault) = self.error.take() {
                return Err(SendError::Fault(fault));
            }
            //= REF C-21
            // `sk_stream_wait_connect` comes before the look at a shutdown.
            if matches!(self.state, State::SynSent | State::SynReceived) {
                self.write_pending |= arguments.flags.contains(SendFlags::WAITS);
                return Err(SendError::WouldBlock);
            }
            return Err(SendError::BrokenPipe);
        }
        if self.error.is_some() || self.shutdown_write {
            return Err(self.error.take().map_or(SendError::BrokenPipe, SendError::Fault));
        }
        self.note_program_limit();
        if let Some(which) = self.repair {
            return self.repair_write(net, source, which);
        }
        let wanted = source.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        // Who waits for room is woken when a third of the buffer is free (`sk_stream_wait_memory`).
        if arguments.flags.contains(SendFlags::WAITS) && self.no_space.get() && !self.is_writeable(net.settings) {
            return Err(SendError::WouldBlock);
        }
        // Whatever a full device has refused is tried again with the next send (`tcp_push`).
        self.refused = false;
        let taken = self.fill(net, source, wanted, arguments.flags)?;
        self.more = arguments.flags.contains(SendFlags::MORE) && taken == wanted;
        self.end_write(arguments.flags.contains(SendFlags::EOR) && taken == wanted);
        self.note_end_of_send(arguments, taken == wanted);
        if arguments.flags.contains(SendFlags::OOB) {
            //= RFC 9293 §3.8.5 (MUST-62): the pointer shows to the byte after the urgent ones, as everybody does it.
            self.snd_up = Some(self.data_end());
        }
        Ok(taken)
    }

    /// Whether so many unsent bytes leave room for more (TCP_NOTSENT_LOWAT, `__tcp_stream_memory_free`).
    fn is_below_low_water(&self, settings: &Settings, unsent: u32) -> bool {
        let own = self.tcp.not_sent_low_water;
        // Before and after a connection nothing counts as queued.
        let unsent = if self.state == State::Closed { 0 } else { unsent };
        unsent < if own > 0 { own } else { settings.tcp_notsent_lowat }
    }

    /// `sk_stream_memory_free`: a new buffer may be begun.
    pub(super) fn has_send_room(&self, settings: &Settings) -> bool {
        self.send_memory() < self.options.send_buffer as usize && self.is_below_low_water(settings, self.unsent())
    }

    /// `sk_stream_is_writeable`: a third of the buffer is free.
    pub(super) fn is_writeable(&self, settings: &Settings) -> bool {
        let used = self.send_memory();
        let space = (self.options.send_buffer as usize).saturating_sub(used);
        space >= used / 2 && space > 0 && self.is_below_low_water(settings, self.unsent().saturating_mul(2))
    }

    /// After an ACK and what it let go: tells the program that has found no room of it (`tcp_check_space`).
    pub(super) fn check_space(&mut self, shared: &mut Shared, net: &Net<'_>) {
        if !core::mem::take(&mut self.space_due) || !self.no_space.get() {
            return;
        }
        // What fills the congestion window needs no larger buffer (`tcp_should_expand_sndbuf`).
        if self.board.in_flight() < self.window.cwnd {
            self.expand_send_buffer(net.settings);
        }
        if self.is_writeable(net.settings) {
            self.no_space.set(false);
            self.chrono.stop(net.now, Chrono::Buffer, self.has_unacknowledged());
            self.wake(shared, Happened::ROOM);
        }
    }

    /// Something was written and is not acknowledged.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.board.packets_out > 0 || self.unsent() > 0
    }

    /// Whether `plan` may have something to give.
    pub(super) fn wants_to_send(&self) -> bool {
        if matches!(self.state, State::Closed | State::Listen) || self.paused_until.is_some() {
            return false;
        }
        self.syn_due
            || !self.planned.is_empty()
            || self.ack.now
            || self.probe_due
            || self.head_due
            || self.tail_due
            || (self.recovery.may_repeat && self.board.lost_out > self.board.repeated_out)
            || (self.may_transmit() && self.unsent() > 0 && (!self.refused || self.forced))
    }

    /// The next segment, or nothing. The state is advanced as if it was sent.
    pub(super) fn plan(&mut self, net: &mut Net<'_>) -> Option<Plan> {
        if matches!(self.state, State::Closed | State::Listen) || self.paused_until.is_some() {
            return None;
        }
        if let Some(plan) = self.take_planned() {
            return Some(plan);
        }
        if self.syn_due {
            return Some(self.plan_syn(net));
        }
        if self.recovery.new_first {
            if self.may_transmit()
                && let Some(plan) = self.plan_data(net, Push::No)
            {
                return Some(plan);
            }
            self.end_new_first();
        }
        // Until the SYN is answered it alone is repeated.
        if self.board.packets_out > 0
            && !matches!(self.state, State::SynSent | State::SynReceived)
            && let Some(plan) = self.plan_repetition(net)
        {
            return Some(plan);
        }
        if self.may_transmit() {
            match self.next_path_probe(net) {
                NextProbe::Now(plan) => return Some(plan),
                NextProbe::Later => {}
                //= RFC 6675 §4 (MUST-5)
                NextProbe::None => {
                    if let Some(plan) = self.plan_data(net, Push::No) {
                        return Some(plan);
                    }
                }
            }
        }
        if self.probe_due {
            self.probe_due = false;
            // A sequence number that the peer has seen makes it answer (`tcp_xmit_probe_skb`).
            //= RFC 9293 §3.8.4 (SHLD-12)
            return Some(self.plan_bare(net, self.snd_una - 1));
        }
        if self.ack.now && self.state != State::SynSent {
            return Some(self.plan_bare(net, self.snd_nxt));
        }
        None
    }

    /// SYN or SYN-ACK, first or repeated (`tcp_connect_init`, `tcp_syn_options`).
    //= REF C-13
    fn plan_syn(&mut self, net: &mut Net<'_>) -> Plan {
        self.syn_due = false;
        let answering = self.state != State::SynSent;
        let flags = if answering { Flags::SYN | Flags::ACK } else { Flags::SYN };
        let mut header = self.header(self.iss, flags);
        header.window = u16::try_from(self.rcv_wnd).unwrap_or(u16::MAX);
        if !answering {
            header.ack = Seq(0);
        }
        //= RFC 9293 §3.2 (MUST-65)
        //= RFC 9293 §3.7.1 (MUST-14, SHLD-5, MAY-3)
        header.options.mss = Some(self.mss_to_advertise());
        if self.timestamps {
            header.options.timestamps = Some(Timestamps { value: self.timestamp(net.now), echo: self.ts_recent });
        }
        header.options.sack_permitted = self.sack;
        //= RFC 7323 §2.2 (MAY-1, SHLD-1)
        header.options.window_scale = self.window_scaling.then_some(self.rcv_wscale);
        //= RFC 7413 §4.2.2 (SHLD-4)
        header.options.fast_open = self.fast_open.cookie.take().filter(|_| self.tries_fast_open(answering));
        let repeated = self.board.head().is_some_and(|head| head.mark.intersects(Mark::AMBIGUOUS | Mark::LOST))
            || self.retransmits > 0;
        if repeated {
            net.counters.tcp_retrans_segs += 1;
            self.total_retransmits += 1;
            self.board.repeated(self.iss, net.now, false);
        } else if self.board.packets_out == 0 {
            let end = self.iss + 1;
            self.board.push(Range {
                start: self.iss,
                end,
                sent_at: net.now,
                mss: 1,
                mark: Mark::SYN,
                stamp: Stamp::default(),
            });
            self.snd_nxt = self.snd_nxt.later(end);
            self.retransmit_since = Some(net.now);
            self.retransmit_at = Some((net.now + self.rtt.timeout(), RetransmitTimer::Repeat));
        }
        if answering {
            self.ack.sent();
        }
        let length = if answering || repeated { 0 } else { self.push_data_of_syn(net) };
        header.flags |= self.ecn_of_syn(net.settings, answering, repeated);
        let ecn = if self.algorithm.needs_ecn() { super::ecn::CAPABLE } else { 0 };
        let plan = self.finish(net, &header, (0, length), 0, Some(self.iss), repeated);
        Plan { ecn, ..plan }
    }

    /// Fast Open is for the first SYN; a repeated one does without (`tcp_send_syn_data`).
    const fn tries_fast_open(&self, answering: bool) -> bool {
        //= RFC 7413 §4.2.2 (SHLD-3)
        answering || (self.fast_open.tried && self.retransmits == 0)
    }

    /// What was written before the SYN goes with it.
    //= RFC 7413 §4.2.1
    fn push_data_of_syn(&mut self, net: &mut Net<'_>) -> u32 {
        let length = u32::try_from(self.buffer.len()).unwrap_or(0);
        if length == 0 || !self.fast_open.tried {
            return 0;
        }
        let (start, end) = (self.snd_nxt, self.snd_nxt + length);
        self.board.push(Range {
            start,
            end,
            sent_at: net.now,
            mss: self.last_mss,
            // What is sent again of it is pushed (`tcp_send_syn_data`).
            mark: Mark::PUSHED,
            stamp: Stamp::default(),
        });
        self.snd_nxt = end;
        self.bytes_sent += u64::from(length);
        self.fast_open.sent_data = true;
        net.counters.tcp_orig_data_sent += 1;
        length
    }

    //= RFC 6675 §4 (MUST-3)
    //= RFC 6675 §5 (MUST-15)
    fn plan_repetition(&mut self, net: &mut Net<'_>) -> Option<Plan> {
        let mss = self.current_mss(net.settings);
        //= RFC 6675 §5 (SHLD-5)
        //= RFC 8985 §9.3 (MUST-11)
        let quota = self.window.cwnd.saturating_sub(self.board.in_flight());
        self.last_mss = mss;
        if core::mem::take(&mut self.tail_due)
            && let Some(range) = self.board.tail_segment(mss)
            && !range.mark.contains(Mark::SYN)
        {
            let from = range.start.distance_from(self.data_start()) as usize;
            return self.repeat(net, range, from, Why::Probe);
        }
        let forced = core::mem::take(&mut self.head_due);
        let most = if forced { 1 } else { quota.min(self.paced_segments(net.settings, u32::from(mss))) };
        let wanted = self.recovery.may_repeat && self.board.lost_out > self.board.repeated_out;
        if most == 0 || (!forced && !wanted) {
            return None;
        }
        if !forced && self.is_held_by_pacing(net.now) {
            return None;
        }
        let most = most.saturating_mul(u32::from(mss));
        let why = if forced { Why::Timer } else { Why::Loss };
        let range = match self.board.next_lost(most, mss) {
            Some(range) => range,
            //= RFC 6298 §5 (SHLD-7)
            None if forced => self.board.head_segment(mss)?,
            None => return None,
        };
        if range.mark.contains(Mark::SYN) {
            return Some(self.plan_syn(net));
        }
        // Of what lies beyond a window that has shrunk the first segment alone goes out, as a probe (`tcp_retransmit_skb`).
        let window = (self.snd_una + self.snd_wnd).distance_from(range.start);
        //= RFC 9293 §3.8.6 (MAY-7)
        //= RFC 7323 §2.4 (MAY-5)
        if window == 0 && range.start != self.snd_una {
            return None;
        }
        let fin = range.mark.contains(Mark::FIN);
        let length = range.end.distance_from(range.start) - u32::from(fin);
        let full = u32::from(mss.max(1));
        //= RFC 9293 §3.8.6 (SHLD-16)
        let allowed = match window {
            0 => full,
            window if window > full => window - window % full,
            window => window,
        };
        let from = range.start.distance_from(self.data_start()) as usize;
        let (_, gathered) = self.buffer.gather(from, length.min(allowed) as usize);
        if gathered < length as usize {
            // More than the window takes, or in too many pieces for one go: repeat what fits.
            let fits = u32::try_from(gathered).unwrap_or(0);
            if fits == 0 {
                return None;
            }
            let whole = if fits > full { fits - fits % full } else { fits };
            return self.repeat(
                net,
                Range { end: range.start + whole, mark: range.mark - (Mark::FIN | Mark::PUSHED), ..range },
                from,
                why,
            );
        }
        self.repeat(net, range, from, why)
    }

    /// Sends a range again (`tcp_retransmit_skb`).
    fn repeat(&mut self, net: &mut Net<'_>, range: Range, from: usize, why: Why) -> Option<Plan> {
        let probe = why == Why::Probe;
        let fin = range.mark.contains(Mark::FIN);
        let length = range.end.distance_from(range.start) - u32::from(fin);
        self.path_probe.give_up();
        self.board.cut_at(range.start, range.end);
        let packets = range.packets();
        //= RFC 8985 §7.3 (MUST-7)
        self.board.repeated(range.start, net.now, probe);
        net.counters.tcp_retrans_segs += u64::from(packets);
        self.total_retransmits += packets;
        self.bytes_repeated += u64::from(length);
        if !probe {
            self.note_repetition(net, &range, packets, why);
        }
        Some(self.plan_segment(net, range.start, from, length, range.mark, false))
    }

    fn note_repetition(&mut self, net: &mut Net<'_>, range: &Range, packets: u32, why: Why) {
        self.retransmit_since = self.retransmit_since.or(Some(net.now));
        self.board.undo.repeated(packets);
        self.note_reduction_output(packets);
        if self.phase != Phase::Loss {
            net.counters.tcp_fast_retrans += u64::from(packets);
        } else if self.retransmits == 0 || range.start != self.snd_una {
            // What the timer repeats itself is counted with the timeouts only.
            net.counters.tcp_slow_start_retrans += u64::from(packets);
        }
        // The repetition of the first segment gets the time that it needs (`tcp_xmit_retransmit_queue`).
        let waits = matches!(self.retransmit_at, Some((_, RetransmitTimer::Reorder)));
        let first = range.start == self.snd_una && why == Why::Loss;
        if self.retransmit_at.is_none() || (first && !waits) {
            self.retransmit_at = Some((net.now + self.rtt.timeout(), RetransmitTimer::Repeat));
        }
    }

    /// Segments that one super-segment may hold.
    pub(super) fn segments_per_plan(&self, mss: u16) -> u32 {
        // A device that cuts would repeat the urgent pointer in every piece.
        // Nor could it sign them (`sk_gso_disable`).
        if self.snd_up.is_some() || self.is_signed() {
            return 1;
        }
        let headers = if self.tuple.remote.is_ipv4() { 20 } else { 40 } + 20 + u32::from(TIMESTAMPS_LENGTH) + 28;
        let headers = headers + u32::from(self.ip_options_length());
        let room = self.route.map_or(0, |route| route.gso_max.min(65_535)).saturating_sub(headers);
        (room / u32::from(mss.max(1))).max(1)
    }

    /// New data and FIN.
    pub(super) fn plan_data(&mut self, net: &mut Net<'_>, push: Push) -> Option<Plan> {
        let unsent = self.unsent();
        if unsent == 0 || (self.refused && !self.forced) {
            return None;
        }
        let mss = self.current_mss(net.settings);
        self.last_mss = mss;
        let mss = u32::from(mss);
        let forced = core::mem::take(&mut self.forced);
        let probing = forced && self.board.packets_out == 0;
        //= RFC 7413 §4.2.2 (MUST-11)
        let quota = self.window_quota(self.board.in_flight());
        // `tcp_cwnd_test` is not strict about the last segment with its FIN.
        let last = self.fin_queued && unsent <= mss;
        //= RFC 5681 §2 (MUST-1)
        if quota == 0 && !forced && !last {
            self.note_window_use(net, true);
            return None;
        }
        let data = self.data_end().distance_from(self.snd_nxt);
        //= RFC 9293 §3.8.6 (MUST-34)
        let room = (self.snd_una + self.snd_wnd).distance_from(self.snd_nxt);
        //= RFC 9293 §3.8.6 (SHLD-15)
        //= RFC 9293 §3.8.6.2.1 (MUST-38)
        //= RFC 5681 §2 (MUST-1)
        //= RFC 7323 §2.4 (MUST-12)
        let (end, in_tail) = self.boundaries.first().unwrap_or((self.data_end(), true));
        let buffer = Waiting { length: end.distance_from(self.snd_nxt).min(data), in_tail };
        if (buffer.length + u32::from(self.fin_queued && in_tail)).min(mss) > room && !forced {
            self.chrono.start(net.now, Chrono::Window);
            return None;
        }
        if !forced && self.is_held_by_pacing(net.now) {
            return None;
        }
        let mut length = if forced {
            buffer.length.min(room).min(mss)
        } else {
            self.chrono.stop(net.now, Chrono::Window, true);
            self.length_to_send(net, buffer, push, quota, room)?
        };
        let from = self.snd_nxt.distance_from(self.data_start()) as usize;
        let (_, gathered) = self.buffer.gather(from, length as usize);
        let gathered = u32::try_from(gathered).unwrap_or(0);
        if gathered < length {
            length = if gathered > mss { gathered - gathered % mss } else { gathered };
        }
        let fin = self.fin_queued && length == data && length < room.max(1);
        if length == 0 && !fin {
            return None;
        }
        Some(self.plan_new(net, length, fin, forced, probing))
    }

    /// Sends what was decided on: `length` new bytes in segments of `last_mss` (`tcp_event_new_data_sent`).
    pub(super) fn plan_new(&mut self, net: &mut Net<'_>, length: u32, fin: bool, forced: bool, probing: bool) -> Plan {
        let mss = u32::from(self.last_mss.max(1));
        let from = self.snd_nxt.distance_from(self.data_start()) as usize;
        let start = self.snd_nxt;
        let end = start + length + u32::from(fin);
        let fresh = self.before_new_data(start + length, probing);
        let (pushed, ends_record) = self.boundaries.marks_at(start + length);
        if !length.is_multiple_of(mss) {
            self.snd_sml = end;
        }
        let mut mark = if fin { Mark::FIN } else { Mark::empty() };
        // What a timer pushes out is pushed to the reader too (`tcp_write_wakeup`).
        if probing || pushed {
            mark |= Mark::PUSHED;
        }
        if ends_record {
            mark |= Mark::RECORD;
        }
        self.boundaries.sent(start + length);
        let first = self.board.packets_out == 0;
        if self.board.in_flight() == 0 {
            self.control_event(net.now, Event::TxStart);
        }
        self.board.push(Range { start, end, sent_at: net.now, mss: self.last_mss, mark, stamp: Stamp::default() });
        self.snd_nxt = end;
        self.bytes_sent += u64::from(length);
        net.counters.tcp_orig_data_sent += u64::from(length.div_ceil(mss).max(1));
        self.note_reduction_output(length.div_ceil(mss).max(1));
        let full = self.board.in_flight() >= self.window.cwnd;
        self.note_window_use(net, full);
        if first {
            self.retransmit_since = None;
        }
        // `tcp_event_new_data_sent`; a probe does not bring another one.
        //= RFC 6298 §5 (SHLD-4)
        if first || !matches!(self.retransmit_at, Some((_, RetransmitTimer::Repeat | RetransmitTimer::Reorder))) {
            self.rearm_timer(net.now);
        }
        if !forced {
            self.schedule_probe(net.now, net.settings, false);
        }
        let plan = self.plan_segment(net, start, from, length, mark, true);
        Plan { fresh: Some(fresh), ..plan }
    }

    /// Bytes of the next new segment, from the buffer that is next; `None`: nothing goes now (`tcp_write_xmit`,
    /// `tcp_mss_split_point`).
    fn length_to_send(&mut self, net: &Net<'_>, buffer: Waiting, push: Push, quota: u32, room: u32) -> Option<u32> {
        let mss = u32::from(self.last_mss);
        let Waiting { length, in_tail } = buffer;
        // Only the first segment of a super-segment would carry CWR: it goes alone.
        let most = if self.ecn.tell_reduced { 1 } else { self.paced_segments(net.settings, mss) };
        let ungated = push != Push::No;
        if length <= mss {
            // Only the last buffer may still be added to; a FIN ends it.
            let free = ungated || self.fin_queued || self.recovery.new_first;
            //= RFC 9293 §3.9.1.2 (SHLD-27)
            let held = in_tail && !free && self.is_held_by_nagle(length < mss);
            return (!held).then_some(length.min(room));
        }
        if push != Push::One && self.is_worth_waiting(net.settings, net.now, length, in_tail, most) {
            if quota.saturating_mul(mss) < room {
                self.note_window_use(net, true);
            } else {
                self.chrono.start(net.now, Chrono::Window);
            }
            return None;
        }
        if self.snd_up.is_some() {
            return Some(mss.min(room));
        }
        //= RFC 9293 §3.9.1.2 (SHLD-28)
        let longest = quota.min(most).max(1).saturating_mul(mss);
        if longest <= room && !in_tail {
            return Some(length.min(longest));
        }
        let needed = length.min(room);
        if longest <= needed {
            return Some(longest);
        }
        let partial = needed % mss;
        let free = ungated || (self.fin_queued && needed == length);
        let held = !free && self.is_held_by_nagle(partial != 0);
        Some(if held { needed - partial } else { needed })
    }

    /// `tcp_nagle_check` for a segment that is not full.
    //= RFC 9293 §3.7.4 (SHLD-7)
    //= RFC 9293 §3.9.1.2 (MAY-16)
    //= REF T-03
    fn is_held_by_nagle(&self, partial: bool) -> bool {
        if !partial || self.snd_up.is_some() {
            return false;
        }
        if self.more {
            return true;
        }
        if self.tcp.push_once {
            return false;
        }
        if self.tcp.cork {
            return true;
        }
        // Minshall: only a small segment in flight holds the next one back.
        let small_in_flight = self.snd_sml.after(self.snd_una) && !self.snd_sml.after(self.snd_nxt);
        //= RFC 9293 §3.7.4 (MUST-17)
        !self.tcp.no_delay && self.board.packets_out > 0 && small_in_flight
    }

    /// How much of the window was used in this round; a window that is not used for long shrinks (`tcp_cwnd_validate`,
    /// `tcp_cwnd_application_limited`). `limited`: it held something back.
    //= RFC 7661 §4.4.3 in spirit
    fn note_window_use(&mut self, net: &Net<'_>, limited: bool) {
        // `tcp_cwnd_validate`: all has gone, and the program could not write more.
        if !limited
            && self.no_space.get()
            && self.unsent() == 0
            && matches!(self.state, State::Established | State::CloseWait)
        {
            self.chrono.start(net.now, Chrono::Buffer);
        }
        let in_flight = self.board.packets_out;
        let more = !self.window_limited && in_flight > self.max_packets_out;
        if !self.snd_una.before(self.max_packets_seq) || limited || more {
            self.window_limited = limited;
            self.max_packets_out = in_flight;
            self.max_packets_seq = self.snd_nxt;
        }
        if self.is_cwnd_limited() {
            self.window_used = 0;
            self.window_used_at = net.now;
            return;
        }
        self.window_used = self.window_used.max(in_flight);
        if !net.settings.tcp_slow_start_after_idle
            || self.algorithm.has_cong_control()
            || net.now.since(self.window_used_at) < self.rtt.base()
        {
            return;
        }
        // Limited by the program or the peer, and not by the send buffer.
        if self.phase == Phase::Open && self.is_writeable(net.settings) {
            let used = self.window_used.max(INITIAL_WINDOW);
            if used < self.window.cwnd {
                self.window.ssthresh = self.current_threshold();
                self.window.cwnd = u32::midpoint(self.window.cwnd, used);
            }
            self.window_used = 0;
        }
        self.window_used_at = net.now;
    }

    /// `tcp_cwnd_restart`: a window that was not used for a while proves nothing (RFC 5681 §4.1).
    pub(super) fn restart_window_after_idle(&mut self, net: &Net<'_>) {
        if self.board.packets_out > 0 || !net.settings.tcp_slow_start_after_idle || self.algorithm.has_cong_control() {
            return;
        }
        let rto = self.rtt.base();
        let mut idle = net.now.since(self.last_sent);
        if idle <= rto {
            return;
        }
        self.control_event(net.now, Event::CwndRestart);
        let least = INITIAL_WINDOW.min(self.window.cwnd);
        let three_quarters = (self.window.cwnd >> 1) + (self.window.cwnd >> 2);
        self.window.ssthresh = self.window.ssthresh.max(three_quarters);
        while idle > rto && self.window.cwnd > least {
            self.window.cwnd >>= 1;
            idle = idle.saturating_sub(rto);
        }
        self.window.cwnd = self.window.cwnd.max(least);
        self.window.count = 0;
    }

    fn plan_segment(&mut self, net: &mut Net<'_>, seq: Seq, from: usize, length: u32, mark: Mark, fresh: bool) -> Plan {
        let window = self.update_window(net.counters);
        let mut flags = Flags::ACK;
        // A super-segment is pushed too, so that the receiver hands it on at once (`__tcp_transmit_skb`).
        //= RFC 9293 §3.9.1.2 (MUST-61)
        if length > u32::from(self.last_mss) || (length > 0 && mark.contains(Mark::PUSHED)) {
            flags |= Flags::PSH;
        }
        if mark.contains(Mark::FIN) {
            flags |= Flags::FIN;
        }
        let mut header = self.header(seq, flags);
        header.window = window;
        self.point_to_urgent(&mut header, seq);
        header.options = self.common_options(net.now, true);
        self.ack.sent();
        if length > 0 {
            self.note_sent_data(net.now);
        }
        let mss = u32::from(self.last_mss.max(1));
        let gso_size = if length > mss { self.last_mss } else { 0 };
        if length > 0 {
            self.pace(net.now, length, length.div_ceil(mss));
        }
        let (ecn, bits) = self.ecn_of_segment(fresh && length > 0);
        header.flags |= bits;
        let plan = self.finish(net, &header, (from, length), gso_size, Some(seq), !fresh);
        Plan { ecn, timed: self.timed_send(seq, seq + length), ..plan }
    }

    /// A segment without data: ACK or probe.
    fn plan_bare(&mut self, net: &mut Net<'_>, seq: Seq) -> Plan {
        let window = self.update_window(net.counters);
        let mut header = self.header(seq, Flags::ACK);
        self.point_to_urgent(&mut header, seq);
        header.window = window;
        header.options = self.common_options(net.now, true);
        let more = self.ack.owed > 1;
        self.ack.sent();
        self.ack.now = more;
        let (ecn, bits) = self.ecn_of_segment(false);
        header.flags |= bits;
        let plan = self.finish(net, &header, (0, 0), 0, None, false);
        Plan { ecn, ..plan }
    }

    fn finish(
        &mut self,
        net: &mut Net<'_>,
        header: &Header,
        (from, length): (usize, u32),
        gso_size: u16,
        seq: Option<Seq>,
        repeated: bool,
    ) -> Plan {
        let packets = if gso_size > 0 { length.div_ceil(u32::from(gso_size)) } else { 1 };
        // What goes out again is counted with TcpRetransSegs alone (`__tcp_transmit_skb`).
        if !repeated {
            net.counters.tcp_out_segs += u64::from(packets);
        }
        self.segments_out = self.segments_out.wrapping_add(packets);
        if length > 0 {
            self.data_segments_out = self.data_segments_out.wrapping_add(packets);
        }
        let payload = if length > 0 && self.is_signed() {
            self.buffer.gather(from, length as usize).0
        } else {
            [&[][..]; MAX_PAYLOAD_SLICES]
        };
        let header = self.sign_with(*header, &payload);
        Plan { header, from, length: length as usize, gso_size, seq, fresh: None, ecn: 0, timed: None }
    }

    /// After all that could be sent was sent: data that waits for a closed window needs a probe
    /// (`tcp_check_probe_timer`).
    pub(super) fn after_sending(&mut self, now: Instant) {
        // MSG_MORE is about the moment of the call: later events go by TCP_CORK and Nagle alone.
        self.more = false;
        if self.board.packets_out == 0 && self.may_transmit() && self.unsent() > 0 {
            self.arm_probe(now);
        }
    }
}
