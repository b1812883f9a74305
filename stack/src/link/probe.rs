//! Is our address ours? Probe before first use, announce, and defence afterwards (RFC 5227).
//!
//! The standard's timing takes 4 to 7 seconds before the first packet may go, which no program would bear at its
//! start. The default is two probes 50 ms apart and 50 ms of listening after the last: a station on the same link
//! answers within a few. Settings `address_probe_count` and `address_probe_interval_ms` give the standard's 3 and
//! 1000 to whoever wants them. Packets wait meanwhile. After a conflict the address is not used: what is sent fails
//! as if the host were unreachable, and after a rest the next packet begins a new probe. An address in use is
//! defended by at most one announcement in ten seconds and kept (RFC 5227 §2.4 (c)): connections hang on it.

use core::time::Duration;

use crate::settings::Settings;
use crate::time::Instant;

/// RFC 5227 §1.1: DEFEND_INTERVAL.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// Rest between a conflict and the next probe; below RFC 5227's RATE_LIMIT_INTERVAL of 60 s, which is for hosts
/// that try one address after the other.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// Nothing.
    Nothing,
    /// Send a probe.
    Probe,
    /// Send an announcement; the address may be used.
    Announce,
    /// The address is another's.
    GiveUp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No probe was wanted, or it is over.
    #[default]
    Usable,
    /// So many probes are still to be sent, the next one when the deadline comes; after the last one we listen on.
    Probing { left: u8, deadline: Instant },
    /// Another station has it; no new probe before `until`.
    Contested { until: Instant },
}

/// State of the probe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    state: State,
    defended: Option<Instant>,
}

impl Probe {
    /// A probe that begins now, if one is `wanted`.
    #[must_use]
    pub fn new(now: Instant, wanted: bool, settings: &Settings) -> Self {
        let count = settings.address_probe_count;
        let state = if wanted && count > 0 { State::Probing { left: count, deadline: now } } else { State::Usable };
        Self { state, defended: None }
    }

    /// Whether packets may be sent from the address.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.state == State::Usable
    }

    /// Whether the probe has found another station.
    #[must_use]
    pub const fn is_contested(&self) -> bool {
        matches!(self.state, State::Contested { .. })
    }

    /// What is due at `now`; call until it is nothing.
    pub fn advance(&mut self, now: Instant, settings: &Settings) -> ProbeAction {
        match self.state {
            State::Probing { left, deadline } if now >= deadline => {
                let Some(left) = left.checked_sub(1) else {
                    self.state = State::Usable;
                    return ProbeAction::Announce;
                };
                let interval = Duration::from_millis(u64::from(settings.address_probe_interval_ms));
                self.state = State::Probing { left, deadline: now + interval };
                ProbeAction::Probe
            }
            _ => ProbeAction::Nothing,
        }
    }

    /// Begins a new probe after a conflict, when the rest is over; says whether it did.
    pub fn retry(&mut self, now: Instant, settings: &Settings) -> bool {
        match self.state {
            State::Contested { until } if now >= until => {
                *self = Self::new(now, true, settings);
                true
            }
            _ => false,
        }
    }

    /// Another station was heard to use the address.
    pub fn conflict(&mut self, now: Instant) -> ProbeAction {
        match self.state {
            State::Probing { .. } => {
                self.state = State::Contested { until: now + RETRY_INTERVAL };
                ProbeAction::GiveUp
            }
            State::Contested { .. } => ProbeAction::Nothing,
            State::Usable => {
                if self.defended.is_some_and(|last| now < last + DEFEND_INTERVAL) {
                    return ProbeAction::Nothing;
                }
                self.defended = Some(now);
                ProbeAction::Announce
            }
        }
    }

    /// When to send the next probe or to end.
    #[must_use]
    pub const fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Probing { deadline, .. } => Some(deadline),
            State::Usable | State::Contested { .. } => None,
        }
    }
}
