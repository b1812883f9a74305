//! TCP's own socket options with Linux's ranges and errors (`do_tcp_setsockopt`, `do_tcp_getsockopt`), and what the
//! common ones need of TCP. TCP_INFO is in `info.rs`.

use alloc::vec::Vec;
use core::time::Duration;

use super::Tcp;
use super::fast_open::Keys;
use super::sock::Sock;
use super::state::State;
use crate::settings::Settings;
use crate::socket::error::OptionError;
use crate::socket::kept::Kept;
use crate::socket::options::{OptionName, OptionValue, SetOption};
use crate::socket::protocol::Net;
use crate::socket::sockopt::timestamping;

/// Linux's MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL, in seconds.
const MOST_KEEP: i32 = 32_767;
/// Linux's MAX_TCP_KEEPCNT and MAX_TCP_SYNCNT.
const MOST_COUNT: i32 = 127;
/// Linux's TCP_FIN_TIMEOUT_MAX, in seconds.
const MOST_LINGER2: i32 = 120;
/// Linux's TCP_MIN_MSS and MAX_TCP_WINDOW.
const MSS_RANGE: core::ops::RangeInclusive<i32> = 88..=32_767;
/// SOCK_MIN_RCVBUF / 2.
const LEAST_CLAMP: u32 = 1_152;

/// TCP's own options.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct TcpOptions {
    pub no_delay: bool,
    pub cork: bool,
    /// What is queued goes out once although Nagle would hold it (TCP_NODELAY was set just now).
    pub push_once: bool,
    /// TCP_MAXSEG; 0 is not set.
    pub max_segment: u16,
    /// In seconds; 0 is the setting's.
    pub keep_idle: u32,
    pub keep_interval: u32,
    pub keep_count: u8,
    pub syn_count: u8,
    /// In seconds; 0 is the setting's, negative: no FIN-WAIT-2 without a program.
    pub linger2: i32,
    /// In seconds.
    pub defer_accept: u32,
    pub window_clamp: u32,
    /// In milliseconds.
    pub user_timeout: u32,
    pub not_sent_low_water: u32,
    /// TCP_SAVE_SYN: 0 off, 1 from the IP header on, 2 from the link's on.
    pub save_syn: u8,
    pub fast_open: i32,
    pub fast_open_connect: bool,
    /// TCP_INQ.
    pub inq: bool,
    pub fast_open_no_cookie: bool,
    /// Keys of this listener's own (TCP_FASTOPEN_KEY).
    pub fast_open_keys: Option<Keys>,
}

fn ranged(value: i32, most: i32) -> Result<u32, OptionError> {
    if (1..=most).contains(&value) { Ok(value.unsigned_abs()) } else { Err(OptionError::Invalid) }
}

impl Tcp {
    pub(super) fn change_option(
        &mut self,
        net: &mut Net<'_>,
        index: u32,
        option: &SetOption,
    ) -> Result<(), OptionError> {
        let Some(sock) = self.sock_mut(index) else { return Err(OptionError::Invalid) };
        let result = sock.change_option(net, option);
        self.settle(net, index);
        result
    }
}

impl Sock {
    fn change_option(&mut self, net: &mut Net<'_>, option: &SetOption) -> Result<(), OptionError> {
        match option {
            SetOption::NoDelay(on) => {
                self.tcp.no_delay = *on;
                if *on {
                    self.tcp.push_once = true;
                }
            }
            SetOption::Cork(on) => {
                self.tcp.cork = *on;
                if !*on {
                    // What was corked goes out, small or not (`__tcp_sock_set_cork`).
                    self.more = false;
                    self.tcp.push_once = self.tcp.no_delay;
                }
            }
            SetOption::MaxSegment(0) => self.tcp.max_segment = 0,
            SetOption::MaxSegment(value) => {
                if !MSS_RANGE.contains(value) {
                    return Err(OptionError::Invalid);
                }
                self.tcp.max_segment = u16::try_from(*value).unwrap_or(u16::MAX);
            }
            //= RFC 9293 §3.8.4 (MUST-27)
            SetOption::KeepIdle(value) => {
                self.tcp.keep_idle = ranged(*value, MOST_KEEP)?;
                self.restart_keepalive(net);
            }
            SetOption::KeepInterval(value) => self.tcp.keep_interval = ranged(*value, MOST_KEEP)?,
            SetOption::KeepCount(value) => self.tcp.keep_count = small(ranged(*value, MOST_COUNT)?),
            SetOption::SynCount(value) => self.tcp.syn_count = small(ranged(*value, MOST_COUNT)?),
            SetOption::Linger2(value) => {
                self.tcp.linger2 = match *value {
                    ..0 => -1,
                    value if value > MOST_LINGER2 => MOST_LINGER2,
                    value => value,
                };
            }
            SetOption::DeferAccept(value) => self.tcp.defer_accept = value.max(&0).unsigned_abs(),
            SetOption::WindowClamp(value) => self.clamp_window(*value)?,
            SetOption::QuickAck(value) => self.set_quick_ack(*value),
            SetOption::Congestion(name) => self.change_control(net.now, name)?,
            SetOption::UserTimeout(value) => {
                if *value < 0 {
                    return Err(OptionError::Invalid);
                }
                self.tcp.user_timeout = value.unsigned_abs();
            }
            SetOption::NotSentLowWater(value) => self.tcp.not_sent_low_water = *value,
            SetOption::Repair(_)
            | SetOption::RepairQueue(_)
            | SetOption::QueueSeq(_)
            | SetOption::RepairOptions(_)
            | SetOption::RepairWindow(_)
            | SetOption::TcpTimestamp(_) => self.change_repair(net, option)?,
            SetOption::SaveSyn(value) => {
                self.tcp.save_syn =
                    u8::try_from(*value).ok().filter(|value| *value <= 2).ok_or(OptionError::Invalid)?;
            }
            SetOption::FastOpen(value) => {
                if *value < 0 || !matches!(self.state, State::Closed | State::Listen) {
                    return Err(OptionError::Invalid);
                }
                self.tcp.fast_open = (*value).min(i32::try_from(net.settings.somaxconn).unwrap_or(i32::MAX));
            }
            SetOption::FastOpenConnect(on) => {
                if !super::fast_open::is_client(net.settings) {
                    return Err(OptionError::NotSupported);
                }
                if self.state != State::Closed {
                    return Err(OptionError::Invalid);
                }
                self.tcp.fast_open_connect = *on;
            }
            SetOption::Inq(value) => match value {
                0 | 1 => self.tcp.inq = *value == 1,
                _ => return Err(OptionError::Invalid),
            },
            SetOption::FastOpenNoCookie(on) => {
                if !matches!(self.state, State::Closed | State::Listen) {
                    return Err(OptionError::Invalid);
                }
                self.tcp.fast_open_no_cookie = *on;
            }
            SetOption::FastOpenKey(bytes) => {
                self.tcp.fast_open_keys = Some(Keys::from_bytes(bytes).ok_or(OptionError::Invalid)?);
            }
            SetOption::ReceiveErrors(false) => self.reports.clear(),
            SetOption::ReceiveLowWater(_) => self.limit_low_water(net.settings),
            // `sock_set_timestamping`: bytes are counted from here, which a connection only can do.
            SetOption::Device(..) if self.route.is_some() => self.look_up_route(net),
            SetOption::Timestamping(flags, _)
                if flags & timestamping::OPT_ID != 0 && matches!(self.state, State::Closed | State::Listen) =>
            {
                return Err(OptionError::Invalid);
            }
            SetOption::Timestamping(flags, _) => self.number_bytes(*flags),
            SetOption::IpOptions(..) => self.change_ip_options(net),
            SetOption::SignatureKey(key) => {
                self.signatures.change(key)?;
                self.last_mss = self.current_mss(net.settings);
            }
            SetOption::Kept(Kept::TcpRtoMaxMs | Kept::TcpRtoMinUs | Kept::TcpDelackMaxUs, _) => self.limit_timers(),
            //= RFC 9293 §3.8.4 (MUST-24)
            SetOption::KeepAlive(_) => self.restart_keepalive(net),
            SetOption::MaxPacingRate(_) => self.limit_pacing_rate(),
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }

    /// The program's own limits of the timers; an accepted connection has its listener's.
    pub(super) fn limit_timers(&mut self) {
        let read = |option| u64::from(self.options.kept.read(option).unsigned_abs());
        let least = Duration::from_micros(read(Kept::TcpRtoMinUs));
        let most = Duration::from_millis(read(Kept::TcpRtoMaxMs));
        self.ack.most = Some(Duration::from_micros(read(Kept::TcpDelackMaxUs)));
        self.rtt.limit(least, most);
    }

    /// `tcp_set_rcvlowat`: no more than the buffer can ever hold.
    fn limit_low_water(&mut self, settings: &Settings) {
        let most = if self.options.receive_buffer_locked {
            self.options.receive_buffer
        } else {
            let [_, _, most] = settings.tcp_rmem;
            most
        };
        self.options.receive_low_water = self.options.receive_low_water.min((most / 2).max(1));
        // The buffer holds at least that much, and the window lets it come.
        let low = self.options.receive_low_water;
        let space = low.saturating_mul(2);
        if !self.options.receive_buffer_locked && space > self.options.receive_buffer {
            self.options.receive_buffer = space;
            self.window_clamp = self.window_clamp.max(low);
        }
    }

    fn clamp_window(&mut self, value: i32) -> Result<(), OptionError> {
        // What is negative is less than the least, no error.
        let (none, value) = (value == 0, value.max(0).unsigned_abs());
        if none {
            if self.state != State::Closed {
                return Err(OptionError::Invalid);
            }
            self.tcp.window_clamp = 0;
            self.window_clamp = 0;
            return Ok(());
        }
        self.tcp.window_clamp = value.max(LEAST_CLAMP);
        if matches!(self.state, State::Closed | State::Listen) {
            self.window_clamp = 0;
        } else {
            self.set_window_clamp(self.tcp.window_clamp);
        }
        Ok(())
    }

    /// IP_OPTIONS were set: segments are smaller from now on (`icsk_sync_mss`). The route stays, as on Linux: where a new
    /// source route leads is asked when the next one is needed.
    fn change_ip_options(&mut self, net: &Net<'_>) {
        if !matches!(self.state, State::Closed | State::Listen) {
            self.last_mss = self.current_mss(net.settings);
        }
    }

    /// TCP_SAVED_SYN: given once, whole or not at all.
    pub(super) fn take_saved_syn(&mut self, room: usize) -> Result<OptionValue, OptionError> {
        if self.saved_syn.as_ref().is_some_and(|bytes| bytes.len() > room) {
            return Err(OptionError::Invalid);
        }
        Ok(OptionValue::Bytes(self.saved_syn.take().map(Vec::from).unwrap_or_default()))
    }

    /// `__tcp_sock_set_quickack`.
    fn set_quick_ack(&mut self, value: i32) {
        if value == 0 {
            self.ack.set_quick_option(false);
            return;
        }
        self.ack.set_quick_option(true);
        if self.ack.scheduled && matches!(self.state, State::Established | State::CloseWait) {
            // As if the program had read: what it has not read yet is not acknowledged for it.
            self.ack.push();
            self.check_ack_after_read(1);
            // For this once.
            if value & 1 == 0 {
                self.ack.set_quick_option(false);
            }
        }
    }

    pub(super) fn read_option(
        &self,
        settings: &Settings,
        net: &mut Net<'_>,
        name: OptionName,
    ) -> Result<OptionValue, OptionError> {
        let int = |value: u32| OptionValue::Int(i32::try_from(value).unwrap_or(i32::MAX));
        Ok(match name {
            OptionName::NoDelay => int(u32::from(self.tcp.no_delay)),
            OptionName::Cork => int(u32::from(self.tcp.cork)),
            OptionName::MaxSegment => {
                let idle = matches!(self.state, State::Closed | State::Listen);
                // Under repair it is the peer's, which a fresh socket has not heard of.
                let repaired = self.repair.is_some() && self.state == State::Closed;
                let current = if repaired { 0 } else { self.last_mss };
                let idle = idle && !repaired;
                int(u32::from(if idle && self.tcp.max_segment > 0 { self.tcp.max_segment } else { current }))
            }
            OptionName::KeepIdle => int(whole_seconds(self.keepalive_idle(settings))),
            OptionName::KeepInterval => int(whole_seconds(self.keepalive_interval(settings))),
            OptionName::KeepCount => int(u32::from(self.keepalive_count(settings))),
            OptionName::SynCount => {
                let own = self.tcp.syn_count;
                int(u32::from(if own > 0 { own } else { settings.tcp_syn_retries }))
            }
            OptionName::Linger2 => match self.tcp.linger2 {
                0 => int(settings.tcp_fin_timeout),
                own => OptionValue::Int(own),
            },
            OptionName::DeferAccept => int(deferred_seconds(self.tcp.defer_accept)),
            OptionName::WindowClamp => {
                let idle = matches!(self.state, State::Closed | State::Listen);
                // That of a connection outlives it, but not a disconnect.
                int(if idle && self.window_clamp == 0 { self.tcp.window_clamp } else { self.window_clamp })
            }
            OptionName::QuickAck => int(u32::from(!self.ack.pingpong)),
            OptionName::Congestion => {
                let mut bytes = alloc::vec![0; 16];
                for (place, byte) in bytes.iter_mut().zip(self.algorithm.name().bytes()) {
                    *place = byte;
                }
                OptionValue::Bytes(bytes)
            }
            // An algorithm that has not begun tells nothing but its structure.
            OptionName::CongestionInfo if self.rtt.smoothed().is_none() => {
                let length = self.algorithm.get_info(&self.window, &self.facts(net.now)).len();
                OptionValue::Bytes(alloc::vec![0; length])
            }
            OptionName::CongestionInfo => {
                OptionValue::Bytes(self.algorithm.get_info(&self.window, &self.facts(net.now)))
            }
            OptionName::UserTimeout => int(self.tcp.user_timeout),
            OptionName::NotSentLowWater => OptionValue::Int(self.tcp.not_sent_low_water.cast_signed()),
            OptionName::Repair
            | OptionName::RepairQueue
            | OptionName::QueueSeq
            | OptionName::RepairWindow
            | OptionName::TcpTimestamp => self.read_repair(net.now, name)?,
            OptionName::PeerName => match self.tuple.remote {
                _ if self.tuple.remote_port == 0 => return Err(OptionError::NotConnected),
                address => {
                    let mut bytes = self.tuple.remote_port.to_be_bytes().to_vec();
                    match address {
                        core::net::IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
                        core::net::IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
                    }
                    OptionValue::Bytes(bytes)
                }
            },
            OptionName::ArrivalTos => OptionValue::Int(self.arrival_tos.map_or(-1, i32::from)),
            OptionName::SaveSyn => int(u32::from(self.tcp.save_syn)),
            OptionName::SignatureKey { place } => {
                OptionValue::Bytes(self.signatures.exported(place).ok_or(OptionError::NotFound)?)
            }
            OptionName::SavedSynLength => {
                int(self.saved_syn.as_ref().and_then(|bytes| u32::try_from(bytes.len()).ok()).unwrap_or(0))
            }
            OptionName::FastOpen => OptionValue::Int(self.tcp.fast_open),
            OptionName::FastOpenNoCookie => int(u32::from(self.tcp.fast_open_no_cookie)),
            OptionName::FastOpenKey => {
                let keys = self.tcp.fast_open_keys.clone().or_else(|| Keys::of_settings(net.settings));
                OptionValue::Bytes(keys.as_ref().map(Keys::bytes).unwrap_or_default())
            }
            OptionName::FastOpenConnect => int(u32::from(self.tcp.fast_open_connect)),
            OptionName::Inq => int(u32::from(self.tcp.inq)),
            OptionName::InputHint if !self.tcp.inq => OptionValue::Int(-1),
            // `tcp_inq_hint`: the end of the stream is worth a read too.
            OptionName::InputHint => int(match u32::try_from(self.queue.readable()).unwrap_or(u32::MAX) {
                0 => u32::from(self.finished),
                bytes => bytes,
            }),
            OptionName::Info => OptionValue::Bytes(self.info(net.now)),
            OptionName::Mtu => match self.route {
                // `sk_dst_get`: the route outlives a reset.
                Some(route) if self.state != State::Listen => int(u32::from(route.mtu)),
                _ => return Err(OptionError::NotConnected),
            },
            // A stream joins no group.
            OptionName::SourceFilter { .. } => return Err(OptionError::AddressNotAvailable),
            OptionName::SavedSyn { .. } | OptionName::IcmpFilter | OptionName::HeaderIncluded => {
                return Err(OptionError::Unknown);
            }
        })
    }
}

fn small(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn whole_seconds(span: core::time::Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

/// What getsockopt gives back for TCP_DEFER_ACCEPT: the time of as many timeouts as the value stood for.
fn deferred_seconds(seconds: u32) -> u32 {
    let (mut total, mut wait) = (0_u32, 1_u32);
    for _ in 0..super::request::timeouts_in(seconds) {
        total = total.saturating_add(wait);
        wait = (wait * 2).min(120);
    }
    total
}
