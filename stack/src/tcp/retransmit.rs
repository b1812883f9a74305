//! The retransmission timer (RFC 6298 §5, RFC 9293 §3.8.1, §3.8.3) and the zero-window probe (§3.8.6.1), and when they
//! give up: tcp_retries2, tcp_orphan_retries, TCP_SYNCNT, TCP_USER_TIMEOUT (RFC 5482).

use core::time::Duration;

use super::Shared;
use super::recovery::Phase;
use super::rto;
use super::sack::Mark;
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use super::state::State;
use crate::ip::{RouteError, RouteKey};
use crate::socket::error::SocketFault;
use crate::socket::kept::Kept;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// `tcp_model_timeout`: how long `count` repetitions take, backing off from `base`.
pub fn model_timeout(count: u32, base: Duration) -> Duration {
    let linear = (rto::MOST.as_millis() / base.as_millis().max(1)).max(1).ilog2();
    let doubled = count.min(linear);
    let factor = (2_u32 << doubled.min(30)) - 1;
    base.saturating_mul(factor) + rto::MOST.saturating_mul(count - doubled)
}

impl Sock {
    /// The timer has fired.
    pub(super) fn retransmit_due(&mut self, shared: &mut Shared, net: &mut Net<'_>, timer: RetransmitTimer) {
        self.retransmit_at = None;
        match timer {
            RetransmitTimer::Repeat => self.repeat_due(shared, net),
            RetransmitTimer::Tail => self.tail_probe_due(net),
            RetransmitTimer::Probe => self.probe_timer_due(shared, net),
            RetransmitTimer::Reorder => {
                self.retransmit_at = Some((net.now, timer));
                self.reordering_due(net);
            }
        }
    }

    /// `tcp_retransmit_timer`.
    //= REF T-02
    fn repeat_due(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        if self.board.packets_out == 0 {
            return;
        }
        self.tail_probe = None;
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        //= RFC 9293 §3.8.6 (SHLD-17, MUST-35)
        if self.snd_wnd == 0 && !self.orphan && !opening {
            // The peer has shrunk its window to nothing: repetitions become probes, and go on while it answers.
            if self.is_silent_behind_closed_window(net.now) {
                self.give_up(shared, net);
                return;
            }
            self.enter_loss(net);
            self.look_up_route(net);
        } else {
            net.counters.tcp_timeouts += 1;
            let expired = self.is_given_up(net);
            self.detect_black_hole(shared, net, expired);
            if self.orphan && !opening && self.is_out_of_resources(shared, net, !expired) {
                return;
            }
            if expired {
                self.give_up(shared, net);
                return;
            }
            self.count_failure(net);
            self.timeouts.note(net.now, self.retransmits == 0);
            // `sk_rethink_txhash`: where paths are chosen by a hash of the flow, another is tried.
            if self.options.kept.has(Kept::TxRehash) {
                self.timeouts.rehashed = self.timeouts.rehashed.wrapping_add(1);
                net.counters.tcp_timeout_rehash += 1;
            }
            self.suspect_path(net);
            //= RFC 9293 §3.8.3 (MUST-20)
            if self.retransmits >= u32::from(net.settings.tcp_retries1) {
                // The path may have changed: look for another (RFC 9293 §3.8.3 R1).
                self.look_up_route(net);
            }
            self.enter_loss(net);
        }
        self.retransmits += 1;
        //= RFC 6298 (5.5)
        //= RFC 9293 §3.8.2 (MUST-19)
        //= RFC 6298 §5 (MUST-10)
        if self.is_thin_and_linear() {
            self.rtt.backoff = 0;
        } else if self.state != State::SynSent || self.timeouts.total > u16::from(net.settings.tcp_syn_linear_timeouts)
        {
            //= REF C-14: the first repetitions of a SYN come at the same pace (tcp_syn_linear_timeouts).
            self.rtt.back_off();
        }
        if self.board.head().is_some_and(|head| head.mark.contains(Mark::SYN)) {
            self.syn_due = true;
            if opening {
                net.counters.tcp_syn_retrans += 1;
            }
        } else {
            self.head_due = true;
        }
        //= RFC 6298 (5.6)
        //= RFC 6298 §5 (SHLD-8)
        self.retransmit_at = Some((net.now + self.timeout_within_user_timeout(net.now), RetransmitTimer::Repeat));
    }

    /// TCP_THIN_LINEAR_TIMEOUTS: a stream of few packets, which would wait long for each, repeats six times at the same
    /// pace (`tcp_retransmit_timer`, TCP_THIN_LINEAR_RETRIES).
    fn is_thin_and_linear(&self) -> bool {
        self.state == State::Established
            && self.options.kept.has(Kept::TcpThinLinearTimeouts)
            && self.board.packets_out < 4
            && !self.window.is_in_initial_slow_start()
            && self.retransmits <= 6
    }

    /// A router had no way for the repetition that begins at `seq`: it was no congestion that lost it, so the timer need
    /// not have backed off (`tcp_ld_RTO_revert`).
    //= RFC 6069 §4
    pub(super) fn revert_back_off(&mut self, shared: &mut Shared, net: &mut Net<'_>, seq: Seq) {
        let opening = matches!(self.state, State::SynSent | State::SynReceived);
        if opening || seq != self.snd_una || self.retransmits == 0 || self.rtt.backoff == 0 {
            return;
        }
        let Some(sent_at) = self.board.head().map(|head| head.sent_at) else { return };
        self.rtt.backoff -= 1;
        let due = sent_at + self.rtt.timeout();
        if due > net.now {
            self.retransmit_at = Some((due, RetransmitTimer::Repeat));
        } else {
            self.repeat_due(shared, net);
        }
    }

    /// What the timeout says of the recovery that it interrupts.
    fn count_failure(&self, net: &mut Net<'_>) {
        if self.retransmits > 0 {
            return;
        }
        let counters = &mut *net.counters;
        let disordered = self.phase == Phase::Disorder || self.board.sacked_out > 0;
        match (self.phase, self.sack) {
            (Phase::Recovery, true) => counters.tcp_sack_recovery_fail += 1,
            (Phase::Recovery, false) => counters.tcp_reno_recovery_fail += 1,
            (Phase::Loss, _) => counters.tcp_loss_failures += 1,
            (_, true) if disordered => counters.tcp_sack_failures += 1,
            (_, false) if disordered => counters.tcp_reno_failures += 1,
            _ => {}
        }
    }

    /// `tcp_rtx_probe0_timed_out`.
    fn is_silent_behind_closed_window(&self, now: Instant) -> bool {
        let since = self.retransmit_since.or(self.board.head().map(|head| head.sent_at)).unwrap_or(now);
        let repeating = now.since(since);
        let mut limit = self.rtt.most() * 2;
        if self.tcp.user_timeout > 0 {
            let user = Duration::from_millis(u64::from(self.tcp.user_timeout));
            // The program does not want a closed window to keep the connection alive.
            if repeating > user {
                return true;
            }
            limit = limit.min(user);
        }
        now.since(self.last_ack_received) > limit && repeating > limit
    }

    /// `tcp_clamp_rto_to_user_timeout`.
    fn timeout_within_user_timeout(&self, now: Instant) -> Duration {
        let timeout = self.rtt.timeout();
        if self.tcp.user_timeout == 0 {
            return timeout;
        }
        let limit = Duration::from_millis(u64::from(self.tcp.user_timeout));
        let left = limit.saturating_sub(self.retransmit_since.map_or(Duration::ZERO, |since| now.since(since)));
        timeout.min(left.max(Duration::from_millis(1)))
    }

    /// `tcp_clamp_probe0_to_user_timeout`.
    pub(super) fn probe_within_user_timeout(&self, now: Instant, wait: Duration) -> Duration {
        let (Some(since), true) = (self.probe_since, self.tcp.user_timeout > 0) else { return wait };
        let limit = Duration::from_millis(u64::from(self.tcp.user_timeout));
        wait.min(limit.saturating_sub(now.since(since)).max(Duration::from_millis(1)))
    }

    /// `tcp_write_timeout`.
    fn is_given_up(&self, net: &Net<'_>) -> bool {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            let default = if self.fast_open.passive {
                // `tcp_fastopen_synack_timer`: the child's SYN-ACK gets one more.
                net.settings.tcp_synack_retries.saturating_add(1)
            } else {
                net.settings.tcp_syn_retries
            };
            //= RFC 9293 §3.8.3 (MUST-22)
            let most = u32::from(if self.tcp.syn_count > 0 { self.tcp.syn_count } else { default });
            // Those that come before the time between two is doubled are not counted, but all together take no longer than
            // so many would that double it from the first (`retransmits_timed_out`).
            let linear = if self.state == State::SynSent { net.settings.tcp_syn_linear_timeouts } else { 0 };
            let late = self.tcp.user_timeout == 0
                && linear > 0
                && self.retransmits > 0
                && self.retransmit_since.is_some_and(|since| net.now.since(since) >= model_timeout(most, rto::INITIAL));
            return self.retransmits >= most + u32::from(linear) || late || self.is_past_user_timeout(net.now);
        }
        //= RFC 9293 §3.8.3 (MUST-20)
        let mut retries = u32::from(net.settings.tcp_retries2);
        if self.orphan {
            let alive = self.rtt.timeout() < self.rtt.most();
            retries = self.orphan_retries(net, alive);
        }
        let Some(since) = self.retransmit_since else { return false };
        if self.retransmits == 0 {
            return false;
        }
        //= RFC 9293 §3.8.3 (MUST-21)
        let limit = if self.tcp.user_timeout > 0 {
            Duration::from_millis(u64::from(self.tcp.user_timeout))
        } else {
            model_timeout(retries, rto::LEAST)
        };
        net.now.since(since) >= limit
    }

    fn is_past_user_timeout(&self, now: Instant) -> bool {
        self.tcp.user_timeout > 0
            && self
                .retransmit_since
                .is_some_and(|since| now.since(since) >= Duration::from_millis(u64::from(self.tcp.user_timeout)))
    }

    /// `tcp_orphan_retries`.
    fn orphan_retries(&self, net: &Net<'_>, alive: bool) -> u32 {
        match u32::from(net.settings.tcp_orphan_retries) {
            _ if self.soft_error.is_some() && !alive => 0,
            0 if alive => 8,
            retries => retries,
        }
    }

    /// `tcp_write_err`.
    pub(super) fn give_up(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        //= RFC 9293 §3.9.2.2 (SHLD-25)
        self.error = Some(self.soft_error.take().unwrap_or(SocketFault::TimedOut));
        net.counters.tcp_abort_on_timeout += 1;
        self.done(shared, net.counters, net.now);
    }

    /// The first unsent segment lies inside the peer's window.
    pub(super) fn fits_window(&self) -> bool {
        let mss = u32::from(self.last_mss.max(1));
        let length = self.unsent().min(mss);
        (self.snd_nxt + length).offset_from(self.snd_una + self.snd_wnd) <= 0
    }

    /// Data waits and nothing is in flight that would bring an ACK (`tcp_check_probe_timer`).
    pub(super) fn arm_probe(&mut self, now: Instant) {
        if self.retransmit_at.is_none() {
            //= RFC 9293 §3.8.6.1 (SHLD-29)
            let wait = self.rtt.timeout().max(rto::LEAST);
            self.retransmit_at = Some((now + wait, RetransmitTimer::Probe));
        }
    }

    /// `tcp_probe_timer`.
    //= RFC 9293 §3.8.6.1 (MUST-36)
    fn probe_timer_due(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        if self.board.packets_out > 0 || self.unsent() == 0 {
            self.probes_out = 0;
            self.probe_since = None;
            return;
        }
        let since = *self.probe_since.get_or_insert(net.now);
        let timeout = Duration::from_millis(u64::from(self.tcp.user_timeout));
        let mut most = u32::from(net.settings.tcp_retries2);
        let mut over = self.tcp.user_timeout > 0 && net.now.since(since) >= timeout;
        if self.orphan {
            let alive = self.rtt.timeout() < self.rtt.most();
            most = self.orphan_retries(net, alive);
            over |= !alive && self.rtt.backoff >= most;
        }
        if self.orphan && !over && self.is_out_of_resources(shared, net, true) {
            return;
        }
        if over || self.probes_out >= most {
            self.give_up(shared, net);
            return;
        }
        self.probes_out += 1;
        //= RFC 9293 §3.8.6.1 (SHLD-30)
        self.rtt.back_off();
        self.send_probe(net);
        self.retransmit_at = Some((net.now + self.rtt.timeout(), RetransmitTimer::Probe));
    }

    /// Makes the peer answer: with data if the window has room, else with a segment that it has seen
    /// (`tcp_write_wakeup`).
    //= RFC 9293 §3.9.1.2 (MUST-60)
    pub(super) fn send_probe(&mut self, net: &mut Net<'_>) {
        let room = (self.snd_una + self.snd_wnd).distance_from(self.snd_nxt);
        if self.unsent() > 0 && room > 0 && self.state.may_send() {
            self.forced = true;
        } else {
            self.probe_due = true;
            net.counters.tcp_win_probe += 1;
        }
    }

    /// Looks the route up again, keeping the old one when there is none now.
    pub(super) fn look_up_route(&mut self, net: &mut Net<'_>) {
        let key = RouteKey {
            destination: self.first_hop(),
            source: Some(self.tuple.local),
            on_link_only: self.options.dont_route,
            through: self.options.through,
        };
        match (net.ip.route(&key), &mut self.route) {
            (Ok(route), _) => self.route = Some(route),
            // `__ip_queue_xmit`: what is sent by a device that is not there is lost.
            (Err(RouteError::NoDevice), Some(route)) => route.lost = true,
            (Err(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_retries_model_the_924_6_seconds_of_the_manual() {
        assert_eq!(model_timeout(15, rto::LEAST), Duration::from_millis(924_600));
        assert_eq!(model_timeout(3, rto::LEAST), Duration::from_millis(3_000));
    }
}
