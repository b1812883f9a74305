//! RACK (RFC 8985 §6, `tcp_recovery.c`): a segment is lost when one that was sent later has arrived and enough time has
//! passed, repetitions included; how long depends on the reordering that was seen and on D-SACKs. Without SACK the first
//! segment is lost after enough duplicate ACKs (RFC 6582). The probe of the tail is in `tail_probe.rs`.

use core::time::Duration;

use super::phase::Phase;
use super::recovery::RACK_LOSS_DETECTION;
use super::sack::{Mark, Range, Scoreboard};
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use super::tail_probe::LEAST_TIMEOUT;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// RFC 8985 §6.2 step 4: a wider window is kept for so many recoveries (TCP_RACK_RECOVERY_THRESH).
pub const RECOVERIES_TO_PERSIST: u8 = 16;
/// net.ipv4.tcp_recovery: the window for reordering stays as it is.
const STATIC_WINDOW: u8 = 0x2;
/// net.ipv4.tcp_recovery: the number of reported segments does not close the window.
const NO_DUPLICATE_THRESHOLD: u8 = 0x4;

/// What RACK knows (RFC 8985 §5.2).
#[derive(Clone, Copy, Debug)]
pub struct Rack {
    /// The segment sent last of those that have arrived.
    latest: Option<(Instant, Seq)>,
    /// Round-trip time of the one that arrived last.
    rtt: Duration,
    /// Something has arrived since losses were looked for last.
    pub advanced: bool,
    /// Least round-trip time of the connection.
    pub least_rtt: Duration,
    /// How often the network has been seen to reorder.
    pub reordering_seen: u32,
    /// The window for reordering, in quarters of the least round-trip time.
    pub window_steps: u8,
    /// Recoveries that the window is still kept for.
    pub window_persist: u8,
    /// A D-SACK asks for a wider window.
    pub duplicate_seen: bool,
    /// Segments delivered when the window was widened last.
    last_delivered: u32,
}

impl Default for Rack {
    fn default() -> Self {
        Self {
            latest: None,
            rtt: Duration::ZERO,
            advanced: false,
            least_rtt: Duration::ZERO,
            reordering_seen: 0,
            window_steps: 1,
            window_persist: 0,
            duplicate_seen: false,
            last_delivered: 0,
        }
    }
}

impl Rack {
    /// `tcp_rack_advance`.
    //= RFC 8985 §6.2, step 2
    pub fn delivered(&mut self, range: &Range, now: Instant) {
        let rtt = now.since(range.sent_at);
        if range.mark.contains(Mark::AMBIGUOUS) && rtt < self.least_rtt {
            // It was the first copy that arrived.
            return;
        }
        self.advanced = true;
        self.rtt = rtt;
        if self.latest.is_none_or(|latest| is_sent_after((range.sent_at, range.end), latest)) {
            self.latest = Some((range.sent_at, range.end));
        }
    }

    /// How long until what was sent at `sent_at` is lost; none: it is (`tcp_rack_skb_timeout`).
    pub fn remaining(&self, sent_at: Instant, window: Duration, now: Instant) -> Option<Duration> {
        (self.rtt + window).checked_sub(now.since(sent_at)).filter(|left| !left.is_zero())
    }

    /// Adapts the window to D-SACKs (`tcp_rack_update_reo_wnd`). `prior_delivered`: when the segment that was delivered
    /// last had been sent.
    //= RFC 8985 §6.2, step 4
    fn adapt(&mut self, delivered: u32, prior_delivered: u32) {
        // Not more than once in a round trip: what is reported now must have been sent with the window of now.
        if Seq(prior_delivered).before(Seq(self.last_delivered)) {
            self.duplicate_seen = false;
        }
        //= RFC 8985 §3.3.2 (SHLD-4)
        if self.duplicate_seen {
            self.window_steps = self.window_steps.saturating_add(1);
            self.duplicate_seen = false;
            self.last_delivered = delivered;
            self.window_persist = RECOVERIES_TO_PERSIST;
        } else if self.window_persist == 0 {
            self.window_steps = 1;
        }
    }
}

fn is_sent_after(one: (Instant, Seq), other: (Instant, Seq)) -> bool {
    one.0 > other.0 || (one.0 == other.0 && one.1.after(other.1))
}

/// What `find_late` found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Late {
    /// Something is lost that was not before.
    pub any: bool,
    /// Repetitions among it.
    pub repetitions: u32,
    /// How long to wait until the next may be taken for lost.
    pub wait: Option<Duration>,
}

/// What `find_losses` did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// A repetition was lost.
    pub repetition_lost: bool,
    /// The timer was set to look again.
    pub timer_set: bool,
}

impl Scoreboard {
    /// Takes for lost what was sent long enough before something that has arrived (`tcp_rack_detect_loss`).
    //= RFC 8985 §6.2, step 5
    //= REF T-04
    pub fn find_late(&mut self, now: Instant, reordering_window: Duration) -> Late {
        let mut late = Late::default();
        let Some(latest) = self.rack.latest else { return late };
        // Without holes and repetitions the order of sending is that of the sequence numbers.
        let ordered = self.sacked_out == 0 && self.repeated_out == 0;
        for index in 0..self.ranges.len() {
            let Some(range) = self.ranges.get(index).copied() else { break };
            let waits = range.mark.contains(Mark::LOST) && !range.mark.contains(Mark::REPEATED);
            if waits || range.mark.contains(Mark::SACKED) {
                continue;
            }
            if !is_sent_after(latest, (range.sent_at, range.end)) {
                if ordered {
                    break;
                }
                continue;
            }
            if let Some(rest) = self.rack.remaining(range.sent_at, reordering_window, now) {
                late.wait = Some(late.wait.map_or(rest, |wait| wait.max(rest)));
                continue;
            }
            late.any = true;
            late.repetitions += self.take_for_lost(index);
        }
        late
    }
}

impl Sock {
    /// Looks for losses (`tcp_identify_packet_loss`).
    //= RFC 8985 §1 (SHLD-1)
    pub(super) fn find_losses(&mut self, net: &mut Net<'_>, advanced: bool) -> Found {
        let mut found = Found::default();
        if self.board.packets_out == 0 {
            return found;
        }
        if !self.sack {
            self.find_loss_by_duplicates(advanced);
        } else if net.settings.tcp_recovery & RACK_LOSS_DETECTION != 0 && core::mem::take(&mut self.board.rack.advanced)
        {
            let late = self.take_late(net);
            found.repetition_lost = late.repetitions > 0;
            if let Some(wait) = late.wait {
                let wait = (wait + LEAST_TIMEOUT).min(self.rtt.timeout());
                self.retransmit_at = Some((net.now + wait, RetransmitTimer::Reorder));
                found.timer_set = true;
            }
        }
        found
    }

    fn take_late(&mut self, net: &mut Net<'_>) -> Late {
        let window = self.reordering_window(net.settings.tcp_recovery);
        let late = self.board.find_late(net.now, window);
        net.counters.tcp_lost_retransmit += u64::from(late.repetitions);
        late
    }

    /// `tcp_newreno_mark_lost`.
    //= RFC 6582 §3.2
    //= RFC 5681 §3.2 (MUST-16)
    fn find_loss_by_duplicates(&mut self, advanced: bool) {
        if (self.phase < Phase::Recovery && self.board.sacked_out >= self.board.reordering)
            || (self.phase == Phase::Recovery && advanced)
        {
            self.board.mark_head_lost();
        }
    }

    /// `tcp_rack_reo_wnd`.
    fn reordering_window(&self, mode: u8) -> Duration {
        let rack = &self.board.rack;
        //= RFC 8985 §3.3.2 (SHLD-2)
        if rack.reordering_seen == 0 {
            if self.phase >= Phase::Recovery {
                return Duration::ZERO;
            }
            if self.board.sacked_out >= self.board.reordering && mode & NO_DUPLICATE_THRESHOLD == 0 {
                return Duration::ZERO;
            }
        }
        // The least round trip, that of this ACK included (`tcp_min_rtt`).
        let least = Duration::from_micros(u64::from(self.rtt.least));
        //= RFC 8985 §3.3.2 (SHLD-3, MUST-1, SHLD-5)
        (least / 4 * u32::from(rack.window_steps)).min(self.rtt.smoothed().unwrap_or_default())
    }

    /// After an ACK; `prior_delivered` as for a rate sample (none: nothing was delivered).
    pub(super) fn adapt_reordering_window(&mut self, mode: u8, prior_delivered: Option<u32>) {
        if let Some(prior) = prior_delivered.filter(|prior| *prior > 0 && mode & STATIC_WINDOW == 0) {
            let delivered = self.board.rate.delivered;
            self.board.rack.adapt(delivered, prior);
        }
    }

    /// The time for reordering is over (`tcp_rack_reo_timeout`).
    //= RFC 8985 §6.2 (SHLD-8)
    pub(super) fn reordering_due(&mut self, net: &mut Net<'_>) {
        let (lost, in_flight) = (self.board.rate.lost, self.board.in_flight());
        self.take_late(net);
        if self.board.in_flight() != in_flight {
            if self.phase != Phase::Recovery {
                self.enter_recovery(net, false);
                if !self.algorithm.has_cong_control() {
                    self.reduce(1, self.board.rate.lost.wrapping_sub(lost), false);
                }
            }
            self.recovery.may_repeat = true;
        }
        self.rearm_timer(net.now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::SackBlock;
    use super::super::sack::Delivery;
    use super::*;

    fn range(start: u32, end: u32, at: u64) -> Range {
        Range {
            start: Seq(start),
            end: Seq(end),
            sent_at: Instant::from_millis(at),
            mss: 100,
            mark: Mark::empty(),
            stamp: Default::default(),
        }
    }

    fn report(board: &mut Scoreboard, start: u32, end: u32, now: Instant) {
        let block = SackBlock { start: Seq(start), end: Seq(end) };
        board.report(block, Seq(0), Seq(0), now, &mut Delivery::default());
    }

    //= test RFC 8985 §4 (MUST-3)
    #[test]
    fn what_was_sent_before_something_that_arrived_is_late_after_the_window() {
        let mut board = Scoreboard::default();
        for n in 0..3 {
            board.push(range(n * 100, n * 100 + 100, u64::from(n)));
        }
        let now = Instant::from_millis(41);
        report(&mut board, 100, 200, now);
        let early = board.find_late(now, Duration::from_millis(10));
        assert!(!early.any);
        // Round trip 40 ms and window 10 ms; the first one was sent 41 ms ago.
        assert_eq!(early.wait, Some(Duration::from_millis(9)));
        assert!(board.find_late(now + Duration::from_millis(9), Duration::from_millis(10)).any);
        assert_eq!(board.lost_out, 1);
    }

    //= test RFC 8985 §4 (MUST-4)
    #[test]
    fn a_lost_repetition_is_noticed_when_something_sent_after_it_arrives() {
        let mut board = Scoreboard::default();
        board.push(range(0, 100, 0));
        board.push(range(100, 200, 0));
        let mut now = Instant::from_millis(40);
        report(&mut board, 100, 200, now);
        assert!(board.find_late(now, Duration::ZERO).any);
        board.repeated(Seq(0), now, false);
        board.push(range(200, 300, 41));
        now = Instant::from_millis(81);
        assert!(!board.find_late(now, Duration::ZERO).any);
        report(&mut board, 200, 300, now);
        let late = board.find_late(now, Duration::ZERO);
        assert!(late.any);
        assert_eq!(late.repetitions, 1);
    }

    //= test RFC 8985 §6.2
    //= test RFC 8985 §3.3.2 (SHLD-4)
    #[test]
    fn the_window_widens_once_in_a_round_trip_and_lasts_sixteen_recoveries() {
        let mut rack = Rack { reordering_seen: 1, ..Rack::default() };
        let duplicate = |rack: &mut Rack, delivered, prior| {
            rack.duplicate_seen = true;
            rack.adapt(delivered, prior);
            rack.window_steps
        };
        assert_eq!(duplicate(&mut rack, 100, 50), 2);
        // Sent before the window was widened: says nothing of it.
        assert_eq!(duplicate(&mut rack, 120, 99), 2);
        assert_eq!(duplicate(&mut rack, 150, 100), 3);
        assert_eq!(rack.window_persist, RECOVERIES_TO_PERSIST);
        rack.window_persist = 1;
        rack.adapt(160, 150);
        assert_eq!(rack.window_steps, 3);
        rack.window_persist = 0;
        rack.adapt(170, 160);
        assert_eq!(rack.window_steps, 1);
    }
}
