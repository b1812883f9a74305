//! RACK-TLP (RFC 8985, `tcp_recovery.c`, `tcp_send_loss_probe`): a segment is lost when one that was sent later has
//! arrived and enough time has passed, repetitions included; and when nothing comes back, the tail is sent again
//! before the retransmission timer has to. The window for reordering is not adapted to D-SACK.

use core::time::Duration;

use super::recovery::Phase;
use super::sack::{Delivery, Mark, Range, Scoreboard};
use super::sequence::Seq;
use super::sock::{RetransmitTimer, Sock};
use crate::counters::Counters;
use crate::socket::protocol::Net;
use crate::time::Instant;

/// Linux's TCP_TIMEOUT_MIN: two jiffies.
const LEAST_PROBE: Duration = Duration::from_millis(8);
/// RFC 8985 §7.2: a receiver may hold the ACK of a single segment back; Linux adds its least RTO.
const DELAYED_ACK: Duration = super::rto::LEAST;

/// The segment sent last of those that have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rack {
    latest: Option<(Instant, Seq)>,
    /// Its round-trip time.
    rtt: Duration,
    /// Least round-trip time of the connection.
    pub least_rtt: Duration,
    /// The network has been seen to reorder.
    pub reordering_seen: bool,
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
        if self.latest.is_none_or(|latest| is_sent_after((range.sent_at, range.end), latest)) {
            self.latest = Some((range.sent_at, range.end));
            self.rtt = rtt;
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

impl Scoreboard {
    /// Takes for lost what was sent long enough before something that has arrived (`tcp_rack_detect_loss`).
    //= RFC 8985 §6.2, step 5
    pub fn find_late(&mut self, now: Instant, reordering_window: Duration) -> Late {
        let mut late = Late::default();
        let Some(latest) = self.rack.latest else { return late };
        let limit = self.rack.rtt + reordering_window;
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
            let age = now.since(range.sent_at);
            if age < limit {
                let rest = limit - age;
                late.wait = Some(late.wait.map_or(rest, |wait| wait.max(rest)));
                continue;
            }
            late.any = true;
            if range.mark.contains(Mark::REPEATED) {
                late.repetitions += range.packets();
            }
            self.remark(index, |range| range.mark = (range.mark | Mark::LOST) - Mark::REPEATED);
            self.search_from = None;
        }
        late
    }
}

impl Sock {
    /// Looks for losses by count and by time; says whether there are new ones.
    pub(super) fn find_losses(&mut self, now: Instant, counters: &mut Counters) -> bool {
        self.reordering_at = None;
        if self.board.packets_out == 0 {
            return false;
        }
        let by_count = self.board.sacked_out > 0 && self.board.mark_lost();
        let late = self.board.find_late(now, self.reordering_window());
        counters.tcp_lost_retransmit += u64::from(late.repetitions);
        self.reordering_at = late.wait.map(|wait| now + wait);
        by_count || late.any
    }

    /// `tcp_rack_reo_wnd`.
    fn reordering_window(&self) -> Duration {
        let rack = &self.board.rack;
        if !rack.reordering_seen
            && (matches!(self.phase, Phase::Recovery | Phase::Loss) || self.board.sacked_out >= self.board.reordering)
        {
            return Duration::ZERO;
        }
        (rack.least_rtt / 4).min(self.rtt.smoothed().unwrap_or_default())
    }

    /// The time for reordering is over (`tcp_rack_reo_timeout`).
    pub(super) fn reordering_due(&mut self, net: &mut Net<'_>) {
        if self.find_losses(net.now, net.counters)
            && matches!(self.phase, Phase::Open | Phase::Disorder | Phase::Reduced)
        {
            self.enter_recovery(net.now, net.counters);
        }
    }

    /// When to probe the tail, if it is to be probed: no later than `timeout`, when the retransmission timer would fire (`tcp_schedule_loss_probe`).
    //= RFC 8985 §7.2
    pub(super) fn probe_time(&self, now: Instant, timeout: Instant) -> Option<Instant> {
        if !self.sack || !matches!(self.phase, Phase::Open | Phase::Reduced) || self.tail_probe.is_some() {
            return None;
        }
        let smoothed = self.rtt.smoothed()?;
        let held_back = if self.board.packets_out == 1 { DELAYED_ACK } else { LEAST_PROBE };
        Some((now + smoothed * 2 + held_back).min(timeout))
    }

    /// Nothing has come back: new data, or the last segment again, makes the peer say what it has
    /// (`tcp_send_loss_probe`).
    //= RFC 8985 §7.3
    pub(super) fn tail_probe_due(&mut self, net: &mut Net<'_>) {
        if self.board.packets_out == 0 {
            return;
        }
        if self.state.may_send() && self.unsent() > 0 && self.fits_window() {
            self.forced = true;
            self.tail_probe = Some((self.snd_nxt + self.unsent().min(u32::from(self.last_mss)), false));
        } else {
            self.tail_due = true;
            self.tail_probe = Some((self.snd_nxt, true));
        }
        net.counters.tcp_loss_probes += 1;
        self.retransmit_at = Some((net.now + self.rtt.timeout(), RetransmitTimer::Repeat));
    }

    /// Whether the probe has repaired a loss (`tcp_process_tlp_ack`).
    //= RFC 8985 §7.4
    pub(super) fn digest_probe(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        delivery: &Delivery,
        not_duplicate: bool,
    ) {
        let Some((end, repeated)) = self.tail_probe else { return };
        if self.snd_una.before(end) {
            return;
        }
        if !repeated || delivery.duplicate {
            self.tail_probe = None;
        } else if self.snd_una.after(end) {
            // Data beyond the probe was acknowledged, and no duplicate told: the probe filled a hole.
            self.tail_probe = None;
            self.reduce_for_probe(now);
            counters.tcp_loss_probe_recovery += 1;
        } else if !not_duplicate && delivery.sacked == 0 {
            self.tail_probe = None;
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_was_sent_before_something_that_arrived_is_late_after_the_window() {
        let mut board = Scoreboard::default();
        for n in 0..3 {
            board.push(range(n * 100, n * 100 + 100, u64::from(n)));
        }
        let now = Instant::from_millis(41);
        let block = super::super::header::SackBlock { start: Seq(100), end: Seq(200) };
        board.report(&[block], Seq(0), Seq(300), now, &mut Delivery::default());
        let early = board.find_late(now, Duration::from_millis(10));
        assert!(!early.any);
        // Round trip 40 ms and window 10 ms; the first one was sent 41 ms ago.
        assert_eq!(early.wait, Some(Duration::from_millis(9)));
        assert!(board.find_late(now + Duration::from_millis(9), Duration::from_millis(10)).any);
        assert_eq!(board.lost_out, 1);
    }

    #[test]
    fn a_lost_repetition_is_noticed_when_something_sent_after_it_arrives() {
        let mut board = Scoreboard::default();
        board.push(range(0, 100, 0));
        board.push(range(100, 200, 0));
        let mut now = Instant::from_millis(40);
        let block = super::super::header::SackBlock { start: Seq(100), end: Seq(200) };
        board.report(&[block], Seq(0), Seq(200), now, &mut Delivery::default());
        assert!(board.find_late(now, Duration::ZERO).any);
        board.repeated(Seq(0), now);
        board.push(range(200, 300, 41));
        now = Instant::from_millis(81);
        assert!(!board.find_late(now, Duration::ZERO).any);
        let block = super::super::header::SackBlock { start: Seq(200), end: Seq(300) };
        board.report(&[block], Seq(0), Seq(300), now, &mut Delivery::default());
        let late = board.find_late(now, Duration::ZERO);
        assert!(late.any);
        assert_eq!(late.repetitions, 1);
    }

    #[test]
    fn the_tail_is_one_segment() {
        let mut board = Scoreboard::default();
        board.push(range(0, 250, 0));
        let tail = board.tail_segment(100).expect("a tail");
        assert_eq!((tail.start, tail.end), (Seq(200), Seq(250)));
        assert_eq!(board.packets_out, 3);
    }
}
