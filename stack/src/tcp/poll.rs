//! The poll mask (`tcp_poll`, `inet_csk_listen_poll`), bit for bit.

use super::sock::Sock;
use super::state::State;
use super::urgent::UrgentByte;
use crate::settings::Settings;
use crate::socket::protocol::Readiness;

impl Sock {
    //= REF C-06
    pub(super) fn poll(&self, settings: &Settings) -> Readiness {
        let readable = Readiness::IN | Readiness::RDNORM;
        let writable = Readiness::OUT | Readiness::WRNORM;
        if self.state == State::Listen {
            let waiting = self.listen.as_ref().is_some_and(|listen| !listen.accept.is_empty());
            return if waiting { readable } else { Readiness::empty() };
        }
        let mut mask = Readiness::empty();
        if (self.shutdown_read && self.shutdown_write) || self.state == State::Closed {
            mask |= Readiness::HUP;
        }
        if self.shutdown_read {
            mask |= readable | Readiness::RDHUP;
        }
        if self.state == State::SynSent && self.fast_open.deferred {
            // A write makes the SYN go out (`tcp_poll`).
            mask |= writable;
        }
        if !matches!(self.state, State::SynSent | State::SynReceived) || self.is_open_early() {
            let target = (self.options.receive_low_water.max(1) as usize).min(self.options.receive_buffer as usize / 2);
            // The urgent byte that stands next is not for a read (unless it is inline).
            let target = target.max(1) + usize::from(self.is_at_mark() && !self.options.oob_inline);
            let available = self.queue.readable();
            let window_shut = available > 0 && self.receive_window() == 0;
            if available >= target || window_shut {
                mask |= readable;
            }
            if self.shutdown_write || self.is_writeable(settings) {
                mask |= writable;
            } else {
                self.no_space.set(true);
            }
        }
        if self.input_withheld {
            mask = mask.difference(readable);
        }
        if self.urgent.is_some_and(|urgent| matches!(urgent.byte, UrgentByte::Here(_))) {
            mask |= Readiness::PRI;
        }
        if self.error.is_some() || !self.reports.is_empty() {
            mask |= Readiness::ERR;
        }
        mask
    }
}
