//! The acknowledgment field, the window and SACK of an incoming segment (RFC 9293 §3.10.7.4 "fifth", `tcp_ack`): what
//! it frees, and samples of the round-trip time (RFC 6298 §3, RFC 7323 §4).

use core::time::Duration;

use super::Shared;
use super::chrono::Chrono;
use super::congestion::AckSample;
use super::header::{Flags, Header};
use super::receive::Incoming;
use super::recovery::Acknowledged;
use super::sack::Delivery;
use super::segmentation::HEADER_ROOM;
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use super::state::State;
use super::undo::Echo;
use crate::settings::Settings;
use crate::socket::protocol::Net;
use crate::time::{Instant, JIFFY};

/// What `acknowledge` made of the ACK field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckResult {
    /// Acceptable.
    Taken,
    /// Older than what is known; nothing new, harmless.
    Old,
    /// For something never sent, or far too old.
    Invalid,
}

impl Sock {
    /// Takes the ACK of a segment. `challenge`: too old an ACK is answered here (RFC 5961 §5.2).
    pub(super) fn acknowledge(
        &mut self,
        shared: &mut Shared,
        net: &mut Net<'_>,
        incoming: &Incoming<'_>,
        challenge: bool,
    ) -> AckResult {
        let header = incoming.header;
        let mut delivery = Delivery::default();
        let mut ack = self.before_ack(&header);
        if header.ack.before(self.snd_una) {
            //= RFC 5961 §5.2: snd_una - max_window <= ack, and nothing is acknowledged that was never sent.
            let reach = u64::from(self.max_window).min(self.bytes_acked);
            //= RFC 9293 §3.10.7.4 (MAY-12)
            //= RFC 5961 §5.2 (MAY-2, MUST-9)
            if header.ack.before(self.snd_una - u32::try_from(reach).unwrap_or(u32::MAX)) {
                if challenge {
                    //= RFC 5961 §5.2 (MUST-10)
                    self.challenge_ack(shared, net);
                }
                return AckResult::Invalid;
            }
            if self.sack && !header.options.sack.is_empty() {
                self.take_reports(net, header.options.sack.as_slice(), header.ack, self.snd_una, &mut delivery);
                ack.not_duplicate = true;
                self.conclude(net, &ack, &delivery);
            }
            return AckResult::Old;
        }
        if header.ack.after(self.snd_nxt) {
            return AckResult::Invalid;
        }
        ack.advanced = header.ack.after(self.snd_una);
        if ack.advanced {
            self.retransmits = 0;
            self.bytes_acked += u64::from(header.ack.distance_from(self.snd_una));
        }
        let before = self.board.packets_out;
        let prior_high = self.board.highest_sacked(self.snd_una);
        self.update_ts_recent(net.now, incoming);
        let window_newer = self.update_send_window(net, incoming);
        ack.not_duplicate = ack.advanced || window_newer || incoming.length > 0;
        if ack.advanced {
            self.note_acknowledged_times(shared, net.now, header.ack);
            self.free_acknowledged(incoming);
            self.release_acknowledged_copies(shared, net.now, header.ack);
        }
        //= RFC 6675 §5 (MUST-9)
        //= RFC 6675 §5.1 (SHLD-8)
        if self.sack && !header.options.sack.is_empty() {
            self.take_reports(net, header.options.sack.as_slice(), header.ack, ack.prior_una, &mut delivery);
        }
        self.soft_error = None;
        //= RFC 9293 §3.8.6.1 (MUST-37)
        self.probes_out = 0;
        self.last_ack_received = net.now;
        if before > 0 {
            self.digest(net, incoming, &mut ack, &mut delivery, prior_high);
        } else {
            // What was sent is all acknowledged, and yet a D-SACK may call a repetition needless.
            if delivery.duplicate {
                self.conclude(net, &ack, &delivery);
            }
            self.digest_probe(net, &ack, &delivery);
        }
        if let Some(route) = self.route
            && ack.advanced
            && !route.local
        {
            //= RFC 1122 §3.3.1.4 (MUST-67, SHLD-23)
            net.ip.confirm_neighbour(route.next_hop);
        }
        self.check_probe(net.now);
        if ack.advanced {
            // What MSG_MORE held back goes out with the next ACK, as on Linux.
            self.more = false;
            if !self.has_unacknowledged() {
                self.chrono.stop(net.now, Chrono::Busy, false);
            }
        }
        self.space_due = true;
        self.refused = false;
        AckResult::Taken
    }

    /// What has to be known of the time before an ACK.
    fn before_ack(&mut self, header: &Header) -> Acknowledged {
        self.board.begin_ack(Duration::from_micros(u64::from(self.rtt.least)));
        let echo = header.options.timestamps.map(|timestamps| timestamps.echo);
        Acknowledged {
            advanced: false,
            not_duplicate: false,
            congestion_echo: self.is_echo(header),
            prior_una: self.snd_una,
            prior_lost: self.board.rate.lost,
            prior_delivered: self.board.rate.delivered,
            prior_in_flight: self.board.in_flight(),
            rtt: None,
            echo: echo
                .filter(|echo| self.timestamps && *echo != 0)
                .map(|value| Echo { value, offset: self.timestamp_offset }),
        }
    }

    /// The part of `tcp_ack` for segments in flight: what has arrived, what is lost, what the window becomes.
    fn digest(
        &mut self,
        net: &mut Net<'_>,
        incoming: &Incoming<'_>,
        ack: &mut Acknowledged,
        delivery: &mut Delivery,
        prior_high: Seq,
    ) {
        self.board.acknowledge(self.snd_una, (self.high_seq, prior_high), net.now, ack.echo, delivery);
        self.check_path_probe(net);
        if delivery.syn {
            self.retransmit_since = None;
        }
        let from_echo = self.sample_round_trip(net, incoming, delivery, ack.advanced);
        ack.rtt = delivery.latest_rtt.or(from_echo);
        self.board.count_delivered(self.sack, delivery);
        if self.sack {
            if let Some(late) = delivery.late
                && self.note_reordering(late, net.settings.tcp_max_reordering)
            {
                net.counters.tcp_sack_reorder += 1;
            }
        } else if delivery.acked > 0 {
            if self.board.uncount_duplicates(delivery.acked, net.settings.tcp_max_reordering) {
                net.counters.tcp_reno_reorder += 1;
            }
            // Without SACK it is not known which copy it was.
            delivery.original &= !delivery.ambiguous;
        }
        let facts = self.facts(net.now);
        self.algorithm.pkts_acked(&mut self.window, &facts, &AckSample { acked: delivery.acked, rtt: ack.rtt });
        self.adapt_reordering_window(net.settings.tcp_recovery, self.board.rate.prior_delivered());
        self.digest_probe(net, ack, delivery);
        let may_set = self.conclude(net, ack, delivery);
        if may_set && (delivery.acked > 0 || delivery.outlasts_head) {
            self.restart_timer(net.now, net.settings);
        }
        self.control_window(net, ack, delivery);
    }

    /// Frees what `ack` covers from the send buffer and moves `snd_una`.
    fn free_acknowledged(&mut self, incoming: &Incoming<'_>) {
        let ack = incoming.header.ack;
        let end = self.data_end();
        let data = ack.earlier(end).distance_from(self.data_start());
        //= RFC 6675 §4 (MUST-1)
        self.buffer.acknowledge(data as usize);
        if self.fin_queued && ack.after(end) {
            self.fin_acked = true;
        }
        self.snd_una = ack;
        if self.snd_up.is_some_and(|up| !up.after(ack)) {
            self.snd_up = None;
        }
    }

    //= RFC 9293 §3.1 (REC-1)
    fn window_of(&self, incoming: &Incoming<'_>) -> u32 {
        //= RFC 7323 §2.2 (MUST-3)
        let shift = if incoming.has(Flags::SYN) { 0 } else { self.snd_wscale };
        //= RFC 7323 §2.3 (MUST-6)
        u32::from(incoming.header.window) << shift
    }

    /// Whether this segment tells of the window later than the last one did (`tcp_may_update_window`).
    pub(super) fn is_newer_window(&self, incoming: &Incoming<'_>) -> bool {
        let header = &incoming.header;
        let window = self.window_of(incoming);
        header.ack.after(self.snd_una)
            || header.seq.after(self.snd_wl1)
            || (header.seq == self.snd_wl1 && (window > self.snd_wnd || window == 0))
    }

    /// Takes over the window if this segment is the newer one (`tcp_ack_update_window`); says whether it is.
    pub(super) fn update_send_window(&mut self, net: &Net<'_>, incoming: &Incoming<'_>) -> bool {
        if !self.is_newer_window(incoming) {
            return false;
        }
        let window = self.window_of(incoming);
        self.snd_wl1 = incoming.header.seq;
        if self.snd_wnd != window && self.unsent() > 0 {
            self.restart_window_after_idle(net);
        }
        self.snd_wnd = window;
        self.max_window = self.max_window.max(window);
        true
    }

    /// `tcp_ack_update_rtt`: from the time of sending, or from timestamps where that is ambiguous.
    fn sample_round_trip(
        &mut self,
        net: &Net<'_>,
        incoming: &Incoming<'_>,
        delivery: &Delivery,
        advanced: bool,
    ) -> Option<Duration> {
        let echo = incoming.header.options.timestamps.map(|timestamps| timestamps.echo).filter(|echo| *echo != 0);
        //= RFC 9293 §3.8.1 (MUST-18)
        //= RFC 6298 §3 (MUST-6)
        let rtt = match (delivery.rtt, echo) {
            (Some(rtt), _) => Some(rtt),
            //= RFC 7323 §4.1 (RTTM): only an ACK that moves the left edge gives a sample.
            //= RFC 7323 §4.1 (MAY-9)
            (None, Some(echo)) if self.timestamps && advanced && delivery.ambiguous => {
                let millis = self.timestamp(net.now).wrapping_sub(echo);
                (millis < 0x1000_0000).then(|| Duration::from_millis(u64::from(millis.max(1))))
            }
            _ => None,
        };
        if let Some(rtt) = rtt {
            //= RFC 6298 §3 (MUST-7)
            self.rtt.sample(rtt, self.snd_una, self.snd_nxt);
            let latest = delivery.latest_rtt.unwrap_or(rtt);
            // An ACK that the receiver held back tells nothing of the path.
            if !(delivery.is_lone_runt && self.rtt.is_above_least(latest)) {
                self.rtt.note_least(net.now, net.settings.tcp_min_rtt_wlen, latest);
            }
        }
        rtt.filter(|_| delivery.rtt.is_none())
    }

    /// Starts the timer anew after progress, for a tail loss probe if possible (`tcp_set_xmit_timer`).
    //= RFC 6298 (5.3)
    //= RFC 6298 §5 (MUST-9, SHLD-6)
    pub(super) fn restart_timer(&mut self, now: Instant, settings: &Settings) {
        if !self.schedule_probe(now, settings, true) {
            self.rearm_timer(now);
        }
    }

    /// When the oldest segment times out (`tcp_rto_delta_us`).
    pub(super) fn head_timeout(&self, now: Instant) -> Instant {
        self.board.head().map_or(now, |head| head.sent_at) + self.rtt.timeout()
    }

    /// Starts the retransmission timer; after the timers of RACK and TLP it fires when it would have without them
    /// (`tcp_rearm_rto`).
    pub(super) fn rearm_timer(&mut self, now: Instant) {
        // A timer whose time has passed fires with the next jiffy.
        //= RFC 6298 §5 (SHLD-5)
        self.retransmit_at = if self.board.packets_out == 0 {
            None
        } else if matches!(self.retransmit_at, Some((_, RetransmitTimer::Reorder | RetransmitTimer::Tail))) {
            Some((self.head_timeout(now).max(now + JIFFY), RetransmitTimer::Repeat))
        } else {
            Some((now + self.rtt.timeout(), RetransmitTimer::Repeat))
        };
    }

    /// `tcp_ack_probe`: the window has opened, or stays closed while data waits.
    fn check_probe(&mut self, now: Instant) {
        if self.board.packets_out > 0 || self.unsent() == 0 || !self.state.may_send() {
            return;
        }
        if self.fits_window() {
            self.rtt.backoff = 0;
            self.probe_since = None;
            if matches!(self.retransmit_at, Some((_, RetransmitTimer::Probe))) {
                self.retransmit_at = None;
            }
        } else {
            self.arm_probe(now);
        }
    }

    /// `tcp_sndbuf_expand`: room for twice the congestion window.
    //= REF T-06
    pub(super) fn expand_send_buffer(&mut self, settings: &Settings) {
        if self.options.send_buffer_locked || self.state == State::Closed || !self.is_memory_ample() {
            return;
        }
        let mss = u32::from(self.current_mss(settings).max(self.peer_mss));
        // Linux counts the memory of a segment: payload, headers and shared part rounded up to a power of two, and an skb.
        let per_segment = mss.saturating_add(HEADER_ROOM + 320).checked_next_power_of_two().unwrap_or(mss) + 256;
        let segments = self.window.cwnd.max(self.board.reordering + 1).max(super::congestion::INITIAL_WINDOW);
        let [_, _, most] = settings.tcp_wmem;
        let wanted = segments.saturating_mul(per_segment).saturating_mul(self.algorithm.sndbuf_expand()).min(most);
        self.options.send_buffer = self.options.send_buffer.max(wanted);
    }
}
