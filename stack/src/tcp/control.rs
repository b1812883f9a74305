//! Between a connection and its congestion control (`tcp_cong.c`, `tcp_cong_control`): what the algorithm is shown, when
//! it is asked, and what becomes of its answers. The algorithms are in `congestion/`; when something is lost is
//! decided in `recovery.rs`.

use super::congestion::{Algorithm, Event, Facts, Found, RateSample, UNPACED};
use super::recovery::{Acknowledged, Phase};
use super::sack::Delivery;
use super::sock::Sock;
use crate::counters::Counters;
use crate::settings::Settings;
use crate::socket::error::OptionError;
use crate::socket::protocol::Net;
use crate::time::Instant;

impl Sock {
    /// What the algorithm sees.
    pub(super) fn facts(&self, now: Instant) -> Facts {
        let (srtt, _) = self.rtt.shown();
        let rate = &self.board.rate;
        Facts {
            now,
            phase: self.phase,
            mss: u32::from(self.last_mss.max(1)),
            srtt,
            least_rtt: self.rtt.least,
            snd_una: self.snd_una,
            snd_nxt: self.snd_nxt,
            rcv_nxt: self.rcv_nxt,
            in_flight: self.board.in_flight(),
            delivered: rate.delivered,
            delivered_ce: rate.delivered_ce,
            delivered_at: rate.delivered_at,
            lost: rate.lost,
            departs: self.pacing.departs,
            last_sent: self.last_sent,
            is_cwnd_limited: self.is_cwnd_limited(),
            gso_max: self.route.map_or(0, |route| route.gso_max).max(1_500),
            is_app_limited: rate.app_limited > 0,
            ecn: self.ecn.ok,
        }
    }

    /// Does what the algorithm wants done beside changing the window.
    pub(super) fn obey(&mut self, counters: Option<&mut Counters>) {
        let orders = core::mem::take(&mut self.window.orders);
        if orders.app_limited {
            self.board.rate.limit(self.board.in_flight());
        }
        if let (Some(found), Some(counters)) = (orders.found, counters) {
            let cwnd = u64::from(self.window.cwnd);
            match found {
                Found::Train => {
                    counters.tcp_hystart_train_detect += 1;
                    counters.tcp_hystart_train_cwnd += cwnd;
                }
                Found::Delay => {
                    counters.tcp_hystart_delay_detect += 1;
                    counters.tcp_hystart_delay_cwnd += cwnd;
                }
            }
        }
        self.ack.now |= orders.ack_now;
        if let Some(echo) = orders.echo {
            self.ecn.echo = echo;
        }
    }

    /// `tcp_init_congestion_control`.
    pub(super) fn init_control(&mut self, now: Instant) {
        self.limit_pacing_rate();
        let facts = self.facts(now);
        self.algorithm.init(&mut self.window, &facts);
        self.obey(None);
    }

    /// Something happens that the algorithm may want to know (`tcp_ca_event`).
    pub(super) fn control_event(&mut self, now: Instant, event: Event) {
        let facts = self.facts(now);
        self.algorithm.cwnd_event(&mut self.window, &facts, event);
        self.obey(None);
    }

    /// The state of loss recovery changes (`tcp_set_ca_state`).
    pub(super) fn set_phase(&mut self, now: Instant, phase: Phase) {
        let facts = self.facts(now);
        self.algorithm.set_state(&mut self.window, &facts, phase);
        self.obey(None);
        // `tcp_enter_loss`: the peer learns that its echo was heeded, or would have been.
        self.ecn.tell_reduced |= self.ecn.ok && phase == Phase::Loss;
        if self.phase == Phase::Loss && phase != Phase::Loss {
            self.timeouts.end(now);
        }
        self.phase = phase;
    }

    /// The threshold after congestion, by the algorithm's rule.
    //= RFC 5681 §3.1 (MUST-8)
    //= RFC 5681 §3.2 (MUST-15)
    pub(super) fn lower_threshold(&mut self, now: Instant) {
        let facts = self.facts(now);
        self.window.ssthresh = self.algorithm.ssthresh(&mut self.window, &facts);
        self.obey(None);
    }

    /// `tcp_is_cwnd_limited`.
    pub(super) const fn is_cwnd_limited(&self) -> bool {
        self.window_limited || (self.window.is_slow_start() && self.window.cwnd < 2 * self.max_packets_out)
    }

    /// An ACK was digested: the window goes on by the algorithm's rules (`tcp_cong_control`).
    pub(super) fn control_window(&mut self, net: &mut Net<'_>, ack: &Acknowledged, delivery: &Delivery) {
        let acked_sacked = self.board.rate.delivered.wrapping_sub(ack.prior_delivered);
        let tells = RateSample {
            rtt: ack.rtt,
            losses: self.board.rate.lost.wrapping_sub(ack.prior_lost),
            acked_sacked,
            prior_in_flight: ack.prior_in_flight,
            is_ack_delayed: delivery.is_lone_runt,
            ..RateSample::default()
        };
        net.counters.tcp_delivered += u64::from(acked_sacked);
        if ack.congestion_echo {
            self.board.rate.delivered_ce = self.board.rate.delivered_ce.wrapping_add(acked_sacked);
            net.counters.tcp_delivered_ce += u64::from(acked_sacked);
        }
        let facts = self.facts(net.now);
        self.algorithm.in_ack_event(&mut self.window, &facts);
        let sample = self.board.rate.sample(net.now, self.rtt.least, false, tells);
        let facts = self.facts(net.now);
        if self.algorithm.has_cong_control() {
            self.algorithm.cong_control(&mut self.window, &facts, &sample);
        } else {
            // On a path that reorders much, arrival counts in whatever order (`tcp_may_raise_cwnd`).
            let disordered = self.board.reordering > net.settings.tcp_reordering && delivery.sacked > 0;
            if self.phase.is_reduction() {
                self.reduce(acked_sacked, tells.losses, ack.advanced);
            //= RFC 5681 §3.2 (MUST-12)
            } else if acked_sacked > 0 && (delivery.data_acked || disordered) {
                self.algorithm.cong_avoid(&mut self.window, &facts, acked_sacked);
            }
            self.update_pacing_rate(net.settings);
        }
        self.obey(Some(net.counters));
    }

    /// The program writes: if everything before has left, what is measured now is its rate, not the network's
    /// (`tcp_rate_check_app_limited`).
    pub(super) fn note_program_limit(&mut self) {
        let in_flight = self.board.in_flight();
        if self.unsent() < u32::from(self.last_mss)
            && in_flight < self.window.cwnd
            && self.board.lost_out <= self.board.repeated_out
        {
            self.board.rate.limit(in_flight);
        }
    }

    /// TCP_CONGESTION (`tcp_set_congestion_control`).
    pub(super) fn change_control(&mut self, now: Instant, name: &str) -> Result<(), OptionError> {
        //= RFC 9293 §3.8.2 (MAY-18)
        let new = Algorithm::by_name(name).ok_or(OptionError::NotFound)?;
        if new.name() == self.algorithm.name() {
            return Ok(());
        }
        self.algorithm = new;
        if !matches!(self.state, super::state::State::Closed | super::state::State::Listen) {
            self.init_control(now);
        }
        Ok(())
    }

    /// `tcp_update_pacing_rate`: a window per round trip, and a half or a fifth more.
    pub(super) fn update_pacing_rate(&mut self, settings: &Settings) {
        let (srtt, _) = self.rtt.shown();
        let ratio = if self.window.cwnd < self.window.ssthresh / 2 {
            settings.tcp_pacing_ss_ratio
        } else {
            settings.tcp_pacing_ca_ratio
        };
        let bytes = u64::from(self.last_mss.max(1)) * u64::from(self.window.cwnd.max(self.board.packets_out));
        let rate = bytes.saturating_mul(u64::from(ratio)).saturating_mul(10_000) / u64::from(srtt.max(1));
        let rate = if srtt == 0 { UNPACED } else { rate };
        self.window.pacing_rate = rate.min(self.window.most_pacing_rate);
    }
}
