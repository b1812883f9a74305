//! TCP_INFO: the bytes of Linux's `struct tcp_info`, native endian, with the fields that are known here; the others
//! are zero. The reader cuts to the length that it asked for.

use alloc::vec::Vec;

use super::congestion::INFINITE;
use super::sock::Sock;
use crate::time::Instant;

/// Length of the structure in Linux 6.18.
const LENGTH: usize = 280;

/// TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE, TCPI_OPT_ECN, TCPI_OPT_ECN_SEEN, TCPI_OPT_SYN_DATA.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const WINDOW_SCALE: u8 = 4;
const ECN: u8 = 8;
const ECN_SEEN: u8 = 16;
const SYN_DATA: u8 = 32;

struct Writer(Vec<u8>);

impl Writer {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.0.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_ne_bytes());
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }
}

impl Sock {
    //= REF T-11
    pub(super) fn info(&self, now: Instant) -> Vec<u8> {
        let mut out = Writer(alloc::vec![0; LENGTH]);
        let since = |then: Instant| u32::try_from(now.since(then).as_millis()).unwrap_or(u32::MAX);
        let micros = |span: core::time::Duration| u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        let small = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
        let options = u8::from(self.timestamps) * TIMESTAMPS
            + u8::from(self.sack) * SACK
            + u8::from(self.window_scaling) * WINDOW_SCALE
            + u8::from(self.ecn.ok) * ECN
            + u8::from(self.ecn.seen) * ECN_SEEN
            + u8::from(self.fast_open.data_acked) * SYN_DATA;
        let (delivery_rate, is_app_limited) = self.board.rate.shown(u32::from(self.last_mss));
        out.put(
            0,
            &[
                self.state.number(),
                self.phase.number(),
                small(self.retransmits),
                small(self.probes_out),
                small(self.rtt.backoff),
                options,
                (self.snd_wscale & 0xf) | (self.rcv_wscale << 4),
                u8::from(is_app_limited),
            ],
        );
        let (rtt, variance) = self.rtt.shown();
        out.put32(8, micros(self.rtt.timeout()));
        out.put32(12, micros(self.ack.estimate()));
        out.put32(16, u32::from(self.last_mss));
        out.put32(20, u32::from(self.ack.rcv_mss));
        let listening = self.listen.as_ref();
        out.put32(
            24,
            listening.map_or(self.board.packets_out, |listen| u32::try_from(listen.accept.len()).unwrap_or(0)),
        );
        out.put32(28, listening.map_or(self.board.sacked_out, |listen| listen.backlog));
        out.put32(32, self.board.lost_out);
        out.put32(36, self.board.repeated_out);
        out.put32(44, since(self.last_sent));
        out.put32(52, since(self.last_received));
        out.put32(56, since(self.last_ack_received));
        out.put32(60, self.route.map_or(0, |route| u32::from(route.mtu)));
        out.put32(64, self.rcv_ssthresh);
        out.put32(68, rtt);
        out.put32(72, variance);
        out.put32(76, if self.window.ssthresh >= INFINITE { INFINITE } else { self.window.ssthresh });
        out.put32(80, self.window.cwnd);
        out.put32(84, u32::from(self.advertised_mss));
        out.put32(88, self.board.reordering);
        out.put32(92, self.rcv_rtt.map_or(0, micros));
        out.put32(96, self.space);
        out.put32(100, self.total_retransmits);
        // A rate without bound is all ones.
        out.put64(104, self.window.pacing_rate);
        out.put64(112, self.window.most_pacing_rate);
        out.put64(120, self.bytes_acked);
        out.put64(128, self.bytes_received);
        out.put32(136, self.segments_out);
        out.put32(140, self.segments_in);
        out.put32(144, self.unsent());
        out.put32(148, if self.rtt.least == u32::MAX { 0 } else { self.rtt.least });
        out.put32(152, self.data_segments_in);
        out.put32(156, self.data_segments_out);
        out.put64(160, delivery_rate);
        let [busy, window_limited, buffer_limited] = self.chrono.shown(now);
        out.put64(168, busy);
        out.put64(176, window_limited);
        out.put64(184, buffer_limited);
        out.put32(192, self.board.rate.delivered);
        out.put32(196, self.board.rate.delivered_ce);
        // `bytes_sent` counts repetitions, too.
        out.put64(200, self.bytes_sent + self.bytes_repeated);
        out.put64(208, self.bytes_repeated);
        out.put32(216, self.duplicates_reported);
        out.put32(220, self.board.rack.reordering_seen);
        out.put32(224, self.out_of_order_in);
        out.put32(228, self.snd_wnd);
        out.put32(232, self.rcv_wnd);
        out.put32(236, self.timeouts.rehashed);
        out.put(240, &self.timeouts.total.to_ne_bytes());
        out.put(242, &self.timeouts.recoveries.to_ne_bytes());
        out.put32(244, self.timeouts.millis(now));
        out.0
    }
}
