//! The acknowledgment field, the window and SACK of an incoming segment (RFC 9293 §3.10.7.4 "fifth", `tcp_ack`): what
//! it frees, and samples of the round-trip time (RFC 6298 §3, RFC 7323 §4).

use core::time::Duration;

use super::Shared;
use super::congestion::AckSample;
use super::header::Flags;
use super::receive::Incoming;
use super::recovery::AckKind;
use super::sack::Delivery;
use super::sock::{RetransmitTimer, Sock};
use super::state::State;
use crate::socket::protocol::Net;

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
        let before = self.board.packets_out;
        let prior = self.before_ack();
        let mut delivery = Delivery::default();
        self.board.begin_ack(Duration::from_micros(u64::from(self.rtt.least)));
        if header.ack.before(self.snd_una) {
            //= RFC 5961 §5.2: snd_una - max_window <= ack
            if header.ack.before(self.snd_una - self.max_window) {
                if challenge {
                    self.challenge_ack(shared, net);
                }
                return AckResult::Invalid;
            }
            if self.sack && !header.options.sack.is_empty() {
                self.board.report(header.options.sack.as_slice(), self.snd_una, self.snd_nxt, net.now, &mut delivery);
                let kind = AckKind { advanced: false, not_duplicate: true };
                self.after_ack(net.now, net.counters, kind, &delivery);
                self.control_window(net, &prior, &delivery, None);
            }
            return AckResult::Old;
        }
        if header.ack.after(self.snd_nxt) {
            return AckResult::Invalid;
        }
        let advanced = header.ack.after(self.snd_una);
        if advanced {
            self.retransmits = 0;
            self.bytes_acked += u64::from(header.ack.distance_from(self.snd_una));
        }
        self.update_ts_recent(net.now, incoming);
        let window_moved = self.update_send_window(incoming);
        let acked_before = self.snd_una;
        if advanced {
            self.free_acknowledged(incoming);
        }
        if self.sack && !header.options.sack.is_empty() {
            self.board.report(header.options.sack.as_slice(), header.ack, self.snd_nxt, net.now, &mut delivery);
            if delivery.duplicate {
                net.counters.tcp_dsack_recv += 1;
            }
        }
        self.soft_error = None;
        self.probes_out = 0;
        self.last_ack_received = net.now;
        if before > 0 {
            self.board.acknowledge(self.snd_una, net.now, &mut delivery);
            let from_echo = self.sample_round_trip(net, incoming, &delivery, advanced);
            let rtt = delivery.latest_rtt.or(from_echo);
            let facts = self.facts(net.now);
            self.algorithm.pkts_acked(&mut self.window, &facts, &AckSample { acked: delivery.acked, rtt });
            let not_duplicate = advanced || window_moved || incoming.length > 0 || delivery.duplicate;
            self.digest_probe(net.now, net.counters, &delivery, not_duplicate);
            let kind = AckKind { advanced, not_duplicate };
            self.after_ack(net.now, net.counters, kind, &delivery);
            self.control_window(net, &prior, &delivery, rtt);
            net.counters.tcp_delivered +=
                u64::from(delivery.acked - delivery.acked_sacked.min(delivery.acked)) + u64::from(delivery.sacked);
            if delivery.acked > 0 {
                //= RFC 6298 (5.3)
                self.restart_timer(net.now);
            }
        }
        if let Some(route) = self.route
            && advanced
            && !route.local
        {
            net.ip.confirm_neighbour(route.next_hop);
        }
        self.check_probe(net.now);
        if advanced && self.snd_una != acked_before {
            // What MSG_MORE held back goes out with the next ACK, as on Linux.
            self.more = false;
            self.expand_send_buffer(net.settings);
            if self.is_writeable(net.settings) {
                self.wake(shared);
            }
        }
        AckResult::Taken
    }

    /// Frees what `ack` covers from the send buffer and moves `snd_una`.
    fn free_acknowledged(&mut self, incoming: &Incoming<'_>) {
        let ack = incoming.header.ack;
        let end = self.data_end();
        let data = ack.earlier(end).distance_from(self.data_start());
        self.buffer.acknowledge(data as usize);
        if self.fin_queued && ack.after(end) {
            self.fin_acked = true;
        }
        self.snd_una = ack;
        if self.snd_up.is_some_and(|up| !up.after(ack)) {
            self.snd_up = None;
        }
    }

    /// `tcp_ack_update_window`.
    pub(super) fn update_send_window(&mut self, incoming: &Incoming<'_>) -> bool {
        let header = incoming.header;
        let shift = if header.flags.contains(Flags::SYN) { 0 } else { self.snd_wscale };
        let window = u32::from(header.window) << shift;
        let newer = header.ack.after(self.snd_una)
            || header.seq.after(self.snd_wl1)
            || (header.seq == self.snd_wl1 && (window > self.snd_wnd || window == 0));
        if !newer {
            return false;
        }
        self.snd_wl1 = header.seq;
        let moved = self.snd_wnd != window;
        self.snd_wnd = window;
        self.max_window = self.max_window.max(window);
        moved
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
        let rtt = match (delivery.rtt, echo) {
            (Some(rtt), _) => Some(rtt),
            //= RFC 7323 §4.1 (RTTM): only an ACK that moves the left edge gives a sample.
            (None, Some(echo)) if self.timestamps && advanced && delivery.ambiguous => {
                let millis = self.timestamp(net.now).wrapping_sub(echo);
                (millis < 0x1000_0000).then(|| Duration::from_millis(u64::from(millis.max(1))))
            }
            _ => None,
        };
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt, self.snd_una, self.snd_nxt);
        }
        rtt.filter(|_| delivery.rtt.is_none())
    }

    /// `tcp_rearm_rto`.
    pub(super) fn restart_timer(&mut self, now: crate::time::Instant) {
        if self.board.packets_out == 0 {
            self.retransmit_at = None;
            self.retransmit_since = None;
            self.reordering_at = None;
        } else {
            let timeout = now + self.rtt.timeout();
            self.retransmit_at = Some(match self.probe_time(now, timeout) {
                Some(at) => (at, RetransmitTimer::Tail),
                None => (timeout, RetransmitTimer::Repeat),
            });
        }
    }

    /// `tcp_ack_probe`: the window has opened, or stays closed while data waits.
    fn check_probe(&mut self, now: crate::time::Instant) {
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
    pub(super) fn expand_send_buffer(&mut self, settings: &crate::settings::Settings) {
        if self.options.send_buffer_locked || self.state == State::Closed {
            return;
        }
        let mss = u32::from(self.current_mss(settings));
        // Linux counts the memory of a segment: payload and headers rounded up to a power of two, and a descriptor.
        let per_segment = mss.saturating_add(640).checked_next_power_of_two().unwrap_or(mss) + 256;
        let segments = self.window.cwnd.max(self.board.reordering + 1).max(super::congestion::INITIAL_WINDOW);
        let [_, _, most] = settings.tcp_wmem;
        let wanted = segments.saturating_mul(per_segment).saturating_mul(2).min(most);
        self.options.send_buffer = self.options.send_buffer.max(wanted);
    }
}
