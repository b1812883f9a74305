//! When to acknowledge (RFC 9293 §3.8.6.3, RFC 5681 §4.2): at once at the start of a connection, out of order and for
//! every second full segment; else later, in the hope of data to carry it (`tcp_send_delayed_ack`, `__tcp_ack_snd_check`).

use core::time::Duration;

use super::rto;
use super::sock::Sock;
use crate::counters::Counters;
use crate::time::{Instant, JIFFY};

/// Linux's TCP_DELACK_MIN, also TCP_ATO_MIN.
const LEAST: Duration = Duration::from_millis(40);
/// Linux's TCP_DELACK_MAX.
const MOST: Duration = Duration::from_millis(200);
/// Linux's TCP_MAX_QUICKACKS: ACKs sent at once, at the start or after a pause.
const MOST_QUICK: u32 = 16;

/// State of the decision.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct DelayedAck {
    /// Something waits to be acknowledged.
    pub scheduled: bool,
    /// An ACK goes out at the next chance.
    pub now: bool,
    /// ACKs still owed one by one: a peer without SACK counts duplicates.
    pub owed: u8,
    /// A short segment came: the reader's next call acknowledges.
    pushed: bool,
    /// A second short segment came.
    pushed_twice: bool,
    /// ACKs that go out at once.
    quick: u32,
    /// Data flows both ways in turns: answers carry the ACKs.
    pub pingpong: bool,
    /// Estimated gap between segments.
    ato: Duration,
    deadline: Option<Instant>,
    /// TCP_DELACK_MAX_US.
    pub most: Option<Duration>,
    /// Estimated size of the peer's segments.
    pub rcv_mss: u16,
}

impl DelayedAck {
    /// The estimated gap between segments (ATO).
    pub const fn estimate(&self) -> Duration {
        self.ato
    }

    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn clear(&mut self) {
        self.scheduled = false;
        self.now = false;
        self.owed = 0;
        self.deadline = None;
        self.pushed = false;
        self.pushed_twice = false;
    }

    /// Back to the start, but for the estimate of the peer's segments.
    pub fn forget(&mut self) {
        *self = Self { rcv_mss: self.rcv_mss, ..Self::default() };
    }

    pub const fn is_quick(&self) -> bool {
        self.quick > 0 && !self.pingpong
    }

    /// Next ACKs go out at once (`tcp_enter_quickack_mode`).
    pub fn enter_quick(&mut self, most: u32, window: u32) {
        self.increase_quick(most, window);
        self.pingpong = false;
        self.ato = LEAST;
    }

    fn increase_quick(&mut self, most: u32, window: u32) {
        let segments = (window / (2 * u32::from(self.rcv_mss.max(1)))).max(2);
        self.quick = self.quick.max(segments.min(most));
    }

    /// More will come: at least one ACK goes out at once.
    pub fn expect_more(&mut self) {
        self.quick = self.quick.max(1);
    }

    /// No ACK goes out at once only because the connection is young.
    pub const fn end_quick(&mut self) {
        self.quick = 0;
    }

    /// A short segment has come, or is taken to have (ICSK_ACK_PUSHED).
    pub const fn push(&mut self) {
        self.pushed = true;
    }

    /// TCP_QUICKACK.
    pub const fn set_quick_option(&mut self, quick: bool) {
        self.pingpong = !quick;
    }

    /// `packets` ACKs are on their way (`tcp_event_ack_sent`).
    pub fn sent(&mut self) {
        // `tcp_dec_quickack_mode`: an ACK outside quick mode (that of the SYN-ACK, too) leaves the estimate alone.
        if self.quick > 0 && self.scheduled {
            self.quick -= 1;
            if self.quick == 0 {
                self.ato = LEAST;
            }
        }
        self.scheduled = false;
        self.now = false;
        self.owed = self.owed.saturating_sub(1);
        self.deadline = None;
        self.pushed = false;
        self.pushed_twice = false;
    }
}

impl Sock {
    /// Data came in (`tcp_event_data_recv`); `segment` is the size of one segment of it.
    pub(super) fn note_data(&mut self, now: Instant, segment: u32, length: u32, truesize: u32) {
        self.ack.scheduled = true;
        let size = u16::try_from(segment).unwrap_or(u16::MAX);
        if size >= self.ack.rcv_mss {
            if size != self.ack.rcv_mss {
                self.measure_overhead(length, truesize);
            }
            self.ack.rcv_mss = size.min(self.advertised_mss).max(1);
        } else {
            self.ack.pushed_twice |= self.ack.pushed;
            self.ack.pushed = true;
        }
        let window = self.receive_window();
        if self.ack.ato.is_zero() {
            self.ack.increase_quick(MOST_QUICK, window);
            self.ack.ato = LEAST;
        } else {
            let gap = now.since(self.last_received);
            if gap <= LEAST / 2 {
                self.ack.ato = self.ack.ato / 2 + LEAST / 2;
            } else if gap < self.ack.ato {
                self.ack.ato = (self.ack.ato / 2 + gap).min(self.rtt.timeout());
            } else if gap > self.rtt.timeout() {
                // The sender has restarted from a small window; it wants quick answers.
                self.ack.increase_quick(MOST_QUICK, window);
            }
        }
        self.last_received = now;
        self.received_data = true;
    }

    /// Data goes out soon after data came: an interactive exchange (`tcp_event_data_sent`).
    pub(super) fn note_sent_data(&mut self, now: Instant) {
        if self.received_data && now.since(self.last_received) < self.ack.ato {
            self.ack.pingpong = true;
        }
        self.last_sent = now;
    }

    /// Decides what to do about what waits to be acknowledged (`__tcp_ack_snd_check`).
    //= RFC 9293 §3.10.7.4 (MUST-58)
    //= REF T-03
    pub(super) fn check_ack(&mut self, now: Instant) {
        if !self.ack.scheduled || self.ack.now {
            return;
        }
        let unread = self.rcv_nxt.distance_from(self.copied_seq);
        //= RFC 9293 §3.8.6.3 (SHLD-19)
        let two_segments = self.rcv_nxt.distance_from(self.rcv_wup) > u32::from(self.ack.rcv_mss)
            && (unread < self.options.receive_low_water || self.select_window() >= self.rcv_wnd);
        //= RFC 5681 §4.2: out of order is acknowledged at once.
        if two_segments || self.ack.is_quick() || self.queue.has_hole() {
            self.ack.now = true;
            return;
        }
        self.delay_ack(now);
    }

    //= RFC 9293 §3.8.6.3 (SHLD-18)
    fn delay_ack(&mut self, now: Instant) {
        // Without data there is no estimate: a FIN alone waits for the next tick only.
        let mut ato = self.ack.ato.max(JIFFY);
        if ato > LEAST {
            let mut most = Duration::from_millis(500);
            if self.ack.pingpong || self.ack.pushed {
                most = MOST;
            }
            if let Some(rtt) = self.rtt.smoothed() {
                most = most.min(rtt.max(LEAST));
            }
            ato = ato.min(most);
        }
        //= RFC 9293 §3.8.6.3 (MUST-40)
        let mut deadline = now + ato.min(self.ack.most.unwrap_or(MOST));
        if let Some(old) = self.ack.deadline {
            if old <= now + ato / 4 {
                self.ack.now = true;
                return;
            }
            deadline = deadline.min(old);
        }
        self.ack.deadline = Some(deadline);
    }

    /// The delayed ACK is due (`tcp_delack_timer_handler`).
    pub(super) fn delayed_ack_due(&mut self, counters: &mut Counters) {
        self.ack.deadline = None;
        if !self.ack.scheduled {
            return;
        }
        if self.ack.pingpong {
            // Nothing carried it: the exchange was not interactive after all.
            self.ack.pingpong = false;
            self.ack.ato = LEAST;
        } else {
            self.ack.ato = (self.ack.ato * 2).min(self.rtt.timeout()).min(rto::MOST);
        }
        self.ack.now = true;
        counters.delayed_acks += 1;
    }

    /// The program has read `copied` bytes: acknowledge now if that tells the peer much (`__tcp_cleanup_rbuf`).
    pub(super) fn check_ack_after_read(&mut self, copied: usize) {
        let mut due = false;
        if self.ack.scheduled {
            let emptied = self.charges.total() == 0;
            due = self.rcv_nxt.distance_from(self.rcv_wup) > u32::from(self.ack.rcv_mss)
                || (copied > 0 && emptied && (self.ack.pushed_twice || (self.ack.pushed && !self.ack.pingpong)));
        }
        //= RFC 9293 §3.8.6.2.2: a window that has at least doubled is told.
        if copied > 0 && !due && !self.shutdown_read {
            let window = self.receive_window();
            if window.saturating_mul(2) <= self.window_clamp {
                let new = self.select_window();
                due = new > 0 && new >= window.saturating_mul(2);
            }
        }
        if due {
            self.ack.now = true;
        }
    }
}
