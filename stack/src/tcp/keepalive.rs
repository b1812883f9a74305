//! Keepalive (RFC 9293 §3.8.4) and the end of FIN-WAIT-2 without a program: they share a timer (`tcp_keepalive_timer`).

use core::time::Duration;

use super::Shared;
use super::close;
use super::sock::{Fate, Sock};
use super::state::State;
use super::time_wait::LIFETIME;
use crate::settings::Settings;
use crate::socket::protocol::Net;

impl Sock {
    pub(super) fn keepalive_idle(&self, settings: &Settings) -> Duration {
        seconds(self.tcp.keep_idle, settings.tcp_keepalive_time)
    }

    pub(super) fn keepalive_interval(&self, settings: &Settings) -> Duration {
        seconds(self.tcp.keep_interval, settings.tcp_keepalive_intvl)
    }

    pub(super) fn keepalive_count(&self, settings: &Settings) -> u8 {
        if self.tcp.keep_count > 0 { self.tcp.keep_count } else { settings.tcp_keepalive_probes }
    }

    /// SO_KEEPALIVE was set, its times changed, or the connection has begun.
    pub(super) fn restart_keepalive(&mut self, net: &Net<'_>) {
        //= RFC 9293 §3.8.4 (MUST-25)
        if self.options.keepalive && !matches!(self.state, State::Closed | State::Listen) {
            let last = self.last_received.max(self.last_ack_received);
            self.keepalive_at = Some((last + self.keepalive_idle(net.settings)).max(net.now));
        } else if !(self.orphan && self.state == State::FinWait2) {
            self.keepalive_at = None;
        }
    }

    //= RFC 9293 §3.8.4 (MAY-5)
    //= REF T-02
    pub(super) fn keepalive_due(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        self.keepalive_at = None;
        if self.state == State::FinWait2 && self.orphan {
            let wait = close::fin_time(self, net.settings);
            if self.tcp.linger2 >= 0 && wait > LIFETIME {
                self.fate = Fate::Waits(State::FinWait2, LIFETIME);
            } else {
                self.send_reset(shared, net);
                self.done(shared, net.counters, net.now);
            }
            return;
        }
        if !self.options.keepalive || matches!(self.state, State::Closed | State::Listen) {
            return;
        }
        let idle = self.keepalive_idle(net.settings);
        //= RFC 9293 §3.8.4 (MUST-26)
        if self.state == State::SynSent || self.board.packets_out > 0 || self.unsent() > 0 {
            self.keepalive_at = Some(net.now + idle);
            return;
        }
        let last = self.last_received.max(self.last_ack_received);
        let elapsed = net.now.since(last);
        //= RFC 9293 §3.8.4 (MUST-26)
        if elapsed < idle {
            self.keepalive_at = Some(net.now + (idle - elapsed));
            return;
        }
        let limit = Duration::from_millis(u64::from(self.tcp.user_timeout));
        let over = if limit.is_zero() {
            //= RFC 9293 §3.8.4 (MUST-29)
            self.probes_out >= u32::from(self.keepalive_count(net.settings))
        } else {
            elapsed >= limit && self.probes_out > 0
        };
        if over {
            self.send_reset(shared, net);
            self.give_up(shared, net);
            return;
        }
        self.probes_out += 1;
        net.counters.tcp_keep_alive += 1;
        self.probe_due = true;
        self.keepalive_at = Some(net.now + self.keepalive_interval(net.settings));
    }
}

fn seconds(own: u32, default: u32) -> Duration {
    Duration::from_secs(u64::from(if own > 0 { own } else { default }))
}
