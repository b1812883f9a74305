//! Packetization-layer path MTU discovery (RFC 4821, `tcp_mtu_probe`, `tcp_mtu_probing`): a search for the largest packet
//! that the path takes, by segments of data that are longer than the others, and smaller segments when a path swallows
//! large ones in silence. What ICMP says of the path is in `path_error.rs`.

use core::time::Duration;

use super::header::{SIGNATURE_LENGTH, TIMESTAMPS_LENGTH};
use super::phase::Phase;
use super::retransmit::model_timeout;
use super::rto;
use super::send::Plan;
use super::sequence::Seq;
use super::sock::{Sock, ip_header};
use super::state::State;
use crate::settings::Settings;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// Segments that the congestion window must hold for a probe (`tcp_mtu_probe`).
const LEAST_WINDOW: u32 = 11;

/// The search of one connection (Linux's `icsk_mtup` and `mtu_probe`). Sizes are of whole packets.
#[derive(Clone, Copy, Debug)]
pub struct PathProbe {
    enabled: bool,
    /// The path is known to take so much.
    low: u16,
    /// And is not known to take more.
    high: u16,
    /// Size of the probe that is under way; 0: none.
    size: u16,
    start: Seq,
    end: Seq,
    /// When the search began last.
    since: Instant,
    /// MTU of the route when the connection was taken: its segment size stands until something changes.
    taken_at: Option<u16>,
}

impl Default for PathProbe {
    fn default() -> Self {
        Self {
            enabled: false,
            low: 0,
            high: 0,
            size: 0,
            start: Seq(0),
            end: Seq(0),
            since: Instant::ZERO,
            taken_at: None,
        }
    }
}

impl PathProbe {
    /// What of the path's MTU is used.
    pub fn limit(&self, mtu: u16) -> u16 {
        if self.enabled && self.taken_at != Some(mtu) { mtu.min(self.low) } else { mtu }
    }

    /// The probe itself is repeated: whether the path takes it will not be known (`__tcp_retransmit_skb`).
    pub const fn give_up(&mut self) {
        self.size = 0;
    }
}

/// What may go out instead of ordinary data.
pub enum NextProbe {
    /// No probe is due.
    None,
    /// One is, when the window has room; until then nothing goes out.
    Later,
    /// This one.
    Now(Plan),
}

impl Sock {
    /// Bytes of all headers of a segment without SACK blocks.
    fn header_bytes(&self) -> u16 {
        let timestamps = if self.timestamps { TIMESTAMPS_LENGTH } else { 0 };
        let signature = if self.is_signed() { SIGNATURE_LENGTH } else { 0 };
        ip_header(self.tuple.remote) + self.ip_options_length() + 20 + timestamps + signature
    }

    /// `tcp_mtup_init`.
    //= RFC 4821 §7.2
    pub(super) fn begin_path_probing(&mut self, now: Instant, settings: &Settings) {
        self.path_probe = PathProbe {
            enabled: settings.tcp_mtu_probing > 1,
            low: settings.tcp_base_mss.saturating_add(self.header_bytes()),
            high: self.largest_packet(),
            since: now,
            // `tcp_v4_syn_recv_sock` reckons before the search begins, `tcp_connect_init` after it has begun.
            taken_at: self.route.map(|route| route.mtu).filter(|_| self.state != State::SynSent),
            ..PathProbe::default()
        };
    }

    /// What the peer takes.
    fn largest_packet(&self) -> u16 {
        self.peer_mss.saturating_add(ip_header(self.tuple.remote) + 20)
    }

    /// A probe, if it is time for one (`tcp_mtu_probe`).
    //= REF T-07
    pub(super) fn next_path_probe(&mut self, net: &mut Net<'_>) -> NextProbe {
        let probe = self.path_probe;
        // The variable length of SACK blocks would spoil the sizes.
        if !probe.enabled
            || probe.size > 0
            || self.forced
            || self.phase != Phase::Open
            || self.window.cwnd < LEAST_WINDOW
            || (self.sack && self.queue.block_count() > 0)
        {
            return NextProbe::None;
        }
        let high = probe.high.min(self.route.map_or(u16::MAX, |route| route.mtu));
        self.path_probe.high = high;
        //= RFC 4821 §7.3: by halves.
        let length = self.path_mss(u16::midpoint(high, probe.low));
        let interval = u32::from(high).saturating_sub(u32::from(probe.low));
        if length > self.path_mss(high) || interval < net.settings.tcp_probe_threshold {
            self.search_again(net.now, net.settings);
            return NextProbe::None;
        }
        let mss = self.current_mss(net.settings);
        // So many behind it that its loss is noticed without the timer.
        let needed = u32::from(length).saturating_add((self.board.reordering + 1).saturating_mul(u32::from(mss)));
        let data = self.data_end().distance_from(self.snd_nxt);
        if data < needed || self.snd_wnd < needed || length <= mss {
            return NextProbe::None;
        }
        if (self.snd_nxt + needed).after(self.snd_una + self.snd_wnd) {
            return NextProbe::Later;
        }
        let in_flight = self.board.in_flight();
        if in_flight + 2 > self.window.cwnd {
            return if in_flight == 0 { NextProbe::None } else { NextProbe::Later };
        }
        // A record must not be joined to the next.
        let splits = self.boundaries.record_ends_before(self.snd_nxt + u32::from(length));
        let from = self.snd_nxt.distance_from(self.data_start()) as usize;
        let (_, gathered) = self.buffer.gather(from, usize::from(length));
        if splits || gathered < usize::from(length) {
            return NextProbe::None;
        }
        // It is worth two segments.
        self.window.cwnd -= 1;
        self.path_probe.start = self.snd_nxt;
        self.path_probe.end = self.snd_nxt + u32::from(length);
        self.path_probe.size = length + self.header_bytes();
        self.last_mss = length;
        let plan = self.plan_new(net, u32::from(length), false, false, false);
        self.last_mss = mss;
        NextProbe::Now(plan)
    }

    /// After a while the path may have changed (`tcp_mtu_check_reprobe`).
    //= RFC 4821 §7.4
    fn search_again(&mut self, now: Instant, settings: &Settings) {
        if now.since(self.path_probe.since) < Duration::from_secs(u64::from(settings.tcp_probe_interval)) {
            return;
        }
        let mss = self.current_mss(settings);
        self.path_probe.size = 0;
        self.path_probe.high = self.largest_packet();
        self.path_probe.low = mss.saturating_add(self.header_bytes());
        self.path_probe.since = now;
    }

    /// Everything up to `snd_una` has arrived: the probe too, perhaps (`tcp_mtup_probe_success`).
    pub(super) fn check_path_probe(&mut self, net: &mut Net<'_>) {
        let probe = self.path_probe;
        if probe.size == 0 || probe.end.after(self.snd_una) {
            return;
        }
        // The window is kept in bytes.
        let mss = self.current_mss(net.settings);
        let bytes = u64::from(self.window.cwnd) * u64::from(mss.saturating_add(self.header_bytes()));
        self.window.cwnd = u32::try_from(bytes / u64::from(probe.size)).unwrap_or(u32::MAX).max(1);
        self.window.count = 0;
        self.window_used_at = net.now;
        self.window.ssthresh = self.current_threshold();
        self.path_probe.low = probe.size;
        self.path_probe.size = 0;
        self.path_probe.taken_at = None;
        self.last_mss = self.current_mss(net.settings);
        net.counters.tcp_mtup_success += 1;
    }

    /// A loss was found. If it is the probe's, the path is too narrow for it, and not crowded: the window stays
    /// (`tcp_fastretrans_alert`, `tcp_mtup_probe_failed`). Says whether it is.
    //= RFC 4821 §7.5
    pub(super) fn has_lost_path_probe(&mut self, net: &mut Net<'_>) -> bool {
        let probe = self.path_probe;
        if self.phase >= Phase::Reduced || probe.size == 0 || self.snd_una != probe.start {
            return false;
        }
        self.path_probe.high = probe.size - 1;
        self.path_probe.size = 0;
        net.counters.tcp_mtup_fail += 1;
        self.window.cwnd += 1;
        let mss = self.current_mss(net.settings);
        self.last_mss = mss;
        if self.board.mark_oversized_lost(mss) {
            self.enter_oversized(net.now);
        }
        true
    }

    /// Nothing gets through any more: perhaps because it is too large (`tcp_mtu_probing`).
    //= RFC 4821 §7.7
    pub(super) fn suspect_path(&mut self, net: &Net<'_>) {
        let silent = self.retransmit_since.map_or(Duration::ZERO, |since| net.now.since(since));
        let limit = model_timeout(u32::from(net.settings.tcp_retries1), rto::LEAST);
        if net.settings.tcp_mtu_probing == 0 || self.retransmits == 0 || silent < limit {
            return;
        }
        self.path_probe.taken_at = None;
        if self.path_probe.enabled {
            let half = self.path_mss(self.path_probe.low) / 2;
            let mss = half
                .min(net.settings.tcp_base_mss)
                .max(net.settings.tcp_mtu_probe_floor)
                .max(net.settings.tcp_min_snd_mss);
            self.path_probe.low = mss.saturating_add(self.header_bytes());
        } else {
            self.path_probe.enabled = true;
            self.path_probe.since = net.now;
        }
        self.last_mss = self.current_mss(net.settings);
    }
}
