//! BBR version 1, as Linux's `tcp_bbr.c` has it (draft-cardwell-iccrg-bbr-congestion-control-00): a model of the path,
//! the greatest delivery rate of ten rounds and the least round-trip time of ten seconds, sets pacing rate and window.
//! Losses by themselves do not shrink the window. Rates in segments per microsecond, times 2^24; gains in 256ths.

use alloc::vec::Vec;
use core::time::Duration;

use super::super::recovery::Phase;
use super::super::sequence::Seq;
use super::minmax::WindowedMax;
use super::{CongestionControl, Event, Facts, INFINITE, INITIAL_WINDOW, RateSample, Window};
use crate::time::Instant;

/// Bits of a rate after the point.
const RATE_BITS: u32 = 24;
/// A gain of one.
const UNIT: u32 = 1 << 8;
/// 2/ln 2: the least gain with which paced sending doubles the rate every round.
const HIGH_GAIN: u32 = UNIT * 2_885 / 1_000 + 1;
/// Its inverse: the queue of start-up is drained in a round.
const DRAIN_GAIN: u32 = UNIT * 1_000 / 2_885;
/// The window holds two bandwidth-delay products, for ACKs that come late and together.
const CWND_GAIN: u32 = UNIT * 2;
/// A cycle probes for more, drains what that has queued, and cruises for six round trips.
const CYCLE: [u32; 8] = [UNIT * 5 / 4, UNIT * 3 / 4, UNIT, UNIT, UNIT, UNIT, UNIT, UNIT];
/// A cycle begins anywhere but with the drain.
const CYCLE_STARTS: u32 = 7;
/// Rounds that the rate filter looks back.
const RATE_ROUNDS: u32 = 8 + 2;
/// How long a least round-trip time holds.
const LEAST_RTT_LIFETIME: Duration = Duration::from_secs(10);
/// How long the pipe is kept empty to measure another.
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Segments in flight meanwhile, and the least window at all.
const LEAST_CWND: u32 = 4;
/// Below this rate in bytes per second super-segments of one segment are allowed.
const LEAST_TSO_RATE: u64 = 1_200_000 / 8;
/// The pipe is full after three rounds in which the rate did not grow by a quarter.
const FULL_GROWTH: u32 = UNIT * 5 / 4;
const FULL_ROUNDS: u32 = 3;
/// Pacing stays 1 % below the rate, so that queues drain.
const PACING_PERCENT: u64 = 99;
/// A policer: rounds of an interval at least, losses in 256ths of deliveries, and how alike two intervals must be.
const POLICED_ROUNDS: u32 = 4;
const POLICED_LOSS: u32 = 50;
const POLICED_RATIO: u32 = UNIT / 8;
const POLICED_DIFFERENCE: u64 = 4_000 / 8;
/// Rounds for which its rate is believed.
const POLICED_LIFETIME: u32 = 48;
/// Rounds after which the other half of the record of aggregated ACKs is begun.
const AGGREGATION_ROUNDS: u32 = 5;
/// An epoch of more segments than this is begun anew.
const AGGREGATION_MOST: u32 = 1 << 20;
/// Aggregation adds no more to the window than this time is worth.
const AGGREGATION_TIME: u64 = 100_000;
/// A super-segment's bytes at most, and its segments (`GSO_MAX_SIZE`, 7 bits).
const TSO_BYTES: u64 = 65_536 - 1 - 320;
const TSO_SEGMENTS: u64 = 0x7f;
/// Data for this share of a second goes into a super-segment (`sk_pacing_shift`).
const TSO_SHIFT: u32 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Rate doubles every round until the pipe is full.
    #[default]
    Startup,
    /// The queue of start-up drains.
    Drain,
    /// Cycles around the estimated rate.
    ProbeBandwidth,
    /// The pipe is nearly empty, to measure the path.
    ProbeRtt,
}

/// The model, and where in its life it is.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct Bbr {
    mode: Mode,
    least_rtt: Option<Duration>,
    least_rtt_at: Instant,
    /// When PROBE_RTT may end, once the pipe is empty.
    probe_rtt_done: Option<Instant>,
    probe_rtt_round_done: bool,
    rate: WindowedMax,
    rounds: u32,
    /// `delivered` at which the round ends.
    round_end: u32,
    round_start: bool,
    prior_phase: Phase,
    packet_conservation: bool,
    idle_restart: bool,
    has_seen_rtt: bool,
    pacing_gain: u32,
    cwnd_gain: u32,
    full: bool,
    full_rate: u32,
    full_rounds: u32,
    cycle: usize,
    cycle_began: Instant,
    prior_cwnd: u32,
    policer: Policer,
    aggregation: Aggregation,
}

/// Long-term sampling: does somebody drop what is above a rate?
#[derive(Clone, Copy, Debug, Default)]
struct Policer {
    is_sampling: bool,
    is_believed: bool,
    rate: u32,
    rounds: u32,
    began: Instant,
    delivered: u32,
    lost: u32,
}

/// How many more segments are acknowledged at once than the rate explains.
#[derive(Clone, Copy, Debug, Default)]
struct Aggregation {
    began: Instant,
    acked: u32,
    most: [u32; 2],
    second: bool,
    rounds: u32,
}

impl Default for Bbr {
    fn default() -> Self {
        Self {
            mode: Mode::Startup,
            least_rtt: None,
            least_rtt_at: Instant::ZERO,
            probe_rtt_done: None,
            probe_rtt_round_done: false,
            rate: WindowedMax::default(),
            rounds: 0,
            round_end: 0,
            round_start: false,
            prior_phase: Phase::Open,
            packet_conservation: false,
            idle_restart: false,
            has_seen_rtt: false,
            // Until the first ACK of data; the first rate is made with the high gain all the same.
            pacing_gain: UNIT,
            cwnd_gain: UNIT,
            full: false,
            full_rate: 0,
            full_rounds: 0,
            cycle: 0,
            cycle_began: Instant::ZERO,
            prior_cwnd: 0,
            policer: Policer::default(),
            aggregation: Aggregation::default(),
        }
    }
}

const fn in_recovery(phase: Phase) -> bool {
    matches!(phase, Phase::Recovery | Phase::Loss)
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Bytes per second of a rate with a gain, less the margin.
fn bytes_per_second(facts: &Facts, rate: u32, gain: u32) -> u64 {
    let scaled = u128::from(rate) * u128::from(facts.mss) * u128::from(gain) / u128::from(UNIT);
    u64::try_from((scaled * u128::from(10_000 * PACING_PERCENT)) >> RATE_BITS).unwrap_or(u64::MAX)
}

/// Segments over a time, as a rate.
fn rate_of(segments: u32, span: Duration) -> u32 {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
    narrow((u64::from(segments) << RATE_BITS) / micros)
}

/// Segments that a rate delivers in a time.
fn delivered_in(rate: u32, span: Duration) -> u32 {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    narrow(u64::from(rate).saturating_mul(micros) >> RATE_BITS)
}

fn tso_goal(window: &Window, facts: &Facts) -> u32 {
    let bytes = (window.pacing_rate >> TSO_SHIFT).min(TSO_BYTES);
    let least = if window.pacing_rate < LEAST_TSO_RATE { 1 } else { 2 };
    narrow((bytes / u64::from(facts.mss.max(1))).max(least).min(TSO_SEGMENTS))
}

impl Bbr {
    /// The rate that is believed (`bbr_bw`).
    const fn bandwidth(&self) -> u32 {
        if self.policer.is_believed { self.policer.rate } else { self.rate.value() }
    }

    fn first_rate(&mut self, window: &mut Window, facts: &Facts) {
        let micros = if facts.srtt > 0 {
            self.has_seen_rtt = true;
            facts.srtt
        } else {
            1_000
        };
        let rate = rate_of(window.cwnd, Duration::from_micros(u64::from(micros)));
        window.pacing_rate = bytes_per_second(facts, rate, HIGH_GAIN).min(window.most_pacing_rate);
    }

    fn pace(&mut self, window: &mut Window, facts: &Facts, rate: u32, gain: u32) {
        if !self.has_seen_rtt && facts.srtt > 0 {
            self.first_rate(window, facts);
        }
        let rate = bytes_per_second(facts, rate, gain).min(window.most_pacing_rate);
        if self.full || rate > window.pacing_rate {
            window.pacing_rate = rate;
        }
    }

    /// The bandwidth-delay product with a gain, rounded up.
    fn product(&self, rate: u32, gain: u32) -> u32 {
        let Some(least) = self.least_rtt else {
            // No sample yet: nothing is known of the path.
            return INITIAL_WINDOW;
        };
        let scaled = u128::from(rate) * least.as_micros() * u128::from(gain) / u128::from(UNIT);
        u32::try_from(scaled.div_ceil(1 << RATE_BITS)).unwrap_or(u32::MAX)
    }

    /// Room for super-segments on both sides (`bbr_quantization_budget`).
    fn with_budget(&self, window: &Window, facts: &Facts, cwnd: u32) -> u32 {
        let mut cwnd = cwnd.saturating_add(3 * tso_goal(window, facts));
        cwnd = cwnd.saturating_add(1) & !1;
        if self.mode == Mode::ProbeBandwidth && self.cycle == 0 {
            cwnd = cwnd.saturating_add(2);
        }
        cwnd
    }

    fn inflight(&self, window: &Window, facts: &Facts, gain: u32) -> u32 {
        self.with_budget(window, facts, self.product(self.rate.value(), gain))
    }

    /// Segments in the network when pacing lets the next one go (`bbr_packets_in_net_at_edt`).
    fn in_network(&self, window: &Window, facts: &Facts, in_flight: u32) -> u32 {
        let wait = facts.departs.since(facts.now);
        let gone = delivered_in(self.bandwidth(), wait);
        let next = if self.pacing_gain > UNIT { tso_goal(window, facts) } else { 0 };
        (in_flight + next).saturating_sub(gone)
    }

    fn save_cwnd(&mut self, window: &Window) {
        let whole = !in_recovery(self.prior_phase) && self.mode != Mode::ProbeRtt;
        self.prior_cwnd = if whole { window.cwnd } else { self.prior_cwnd.max(window.cwnd) };
    }

    fn enter_probe_bandwidth(&mut self, facts: &Facts) {
        self.mode = Mode::ProbeBandwidth;
        // Flows that share a path should not probe in step; an attacker gains nothing by knowing it.
        let mix = (facts.now.nanos() ^ u64::from(facts.snd_nxt.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let back = usize::try_from(mix % u64::from(CYCLE_STARTS)).unwrap_or(0);
        self.cycle = CYCLE.len() - 1 - back;
        self.advance_cycle(facts);
    }

    fn advance_cycle(&mut self, facts: &Facts) {
        self.cycle = (self.cycle + 1) % CYCLE.len();
        self.cycle_began = facts.delivered_at;
    }

    fn reset_mode(&mut self, facts: &Facts) {
        if self.full {
            self.enter_probe_bandwidth(facts);
        } else {
            self.mode = Mode::Startup;
        }
    }

    fn update_rate(&mut self, facts: &Facts, sample: &RateSample) {
        self.round_start = false;
        let (Some(delivered), Some(interval)) = (sample.delivered, sample.interval.filter(|span| !span.is_zero()))
        else {
            return;
        };
        if !Seq(sample.prior_delivered).before(Seq(self.round_end)) {
            self.round_end = facts.delivered;
            self.rounds = self.rounds.wrapping_add(1);
            self.round_start = true;
            self.packet_conservation = false;
        }
        self.look_for_policer(facts, sample.losses, sample.is_app_limited);
        let rate = rate_of(delivered, interval);
        // A sample that the program has limited says nothing, unless it is better than what is known.
        if !sample.is_app_limited || rate >= self.rate.value() {
            self.rate.take(RATE_ROUNDS, self.rounds, rate);
        }
    }

    /// `bbr_lt_bw_sampling`.
    fn look_for_policer(&mut self, facts: &Facts, losses: u32, is_app_limited: bool) {
        if self.policer.is_believed {
            if self.mode == Mode::ProbeBandwidth && self.round_start {
                self.policer.rounds += 1;
                if self.policer.rounds >= POLICED_LIFETIME {
                    self.policer = Policer::beginning(facts);
                    self.enter_probe_bandwidth(facts);
                }
            }
            return;
        }
        if !self.policer.is_sampling {
            // The bucket's tokens are gone with the first loss.
            if losses == 0 {
                return;
            }
            let rate = self.policer.rate;
            self.policer = Policer { is_sampling: true, rate, ..Policer::beginning(facts) };
        }
        if is_app_limited {
            self.policer = Policer::beginning(facts);
            return;
        }
        self.policer.rounds += u32::from(self.round_start);
        if self.policer.rounds < POLICED_ROUNDS {
            return;
        }
        if self.policer.rounds > 4 * POLICED_ROUNDS {
            self.policer = Policer::beginning(facts);
            return;
        }
        if losses == 0 {
            return;
        }
        let lost = facts.lost.wrapping_sub(self.policer.lost);
        let delivered = facts.delivered.wrapping_sub(self.policer.delivered);
        let span = facts.delivered_at.since(self.policer.began);
        let lossy = u64::from(lost) * u64::from(UNIT) >= u64::from(POLICED_LOSS) * u64::from(delivered);
        if delivered == 0 || !lossy || span < Duration::from_millis(1) {
            return;
        }
        let rate = rate_of(delivered, span);
        let before = self.policer.rate;
        if before > 0 {
            let difference = rate.abs_diff(before);
            let alike = u64::from(difference) * u64::from(UNIT) <= u64::from(POLICED_RATIO) * u64::from(before)
                || bytes_per_second(facts, difference, UNIT) <= POLICED_DIFFERENCE;
            if alike {
                self.policer.rate = rate.midpoint(before);
                self.policer.is_believed = true;
                self.policer.rounds = 0;
                self.pacing_gain = UNIT;
                return;
            }
        }
        self.policer = Policer { is_sampling: true, rate, ..Policer::beginning(facts) };
    }

    fn update_aggregation(&mut self, window: &Window, facts: &Facts, sample: &RateSample) {
        if sample.acked_sacked == 0 || sample.delivered.is_none() || sample.interval.is_none() {
            return;
        }
        let rate = self.bandwidth();
        let record = &mut self.aggregation;
        if self.round_start {
            record.rounds += 1;
            if record.rounds >= AGGREGATION_ROUNDS {
                record.rounds = 0;
                record.second = !record.second;
                record.set(0);
            }
        }
        let mut expected = delivered_in(rate, facts.delivered_at.since(record.began));
        if record.acked <= expected || record.acked.saturating_add(sample.acked_sacked) >= AGGREGATION_MOST {
            record.acked = 0;
            record.began = facts.delivered_at;
            expected = 0;
        }
        record.acked = record.acked.saturating_add(sample.acked_sacked).min(AGGREGATION_MOST - 1);
        let extra = record.acked.saturating_sub(expected).min(window.cwnd).min(u32::from(u16::MAX));
        let [first, second] = record.most;
        if extra > if record.second { second } else { first } {
            record.set(extra);
        }
    }

    fn update_cycle(&mut self, window: &Window, facts: &Facts, sample: &RateSample) {
        if self.mode != Mode::ProbeBandwidth {
            return;
        }
        let whole = facts.delivered_at.since(self.cycle_began) > self.least_rtt.unwrap_or(Duration::MAX);
        let in_network = self.in_network(window, facts, sample.prior_in_flight);
        let over = match self.pacing_gain {
            UNIT => whole,
            // Probing goes on until it has had its effect, or losses say that it does not fit.
            gain if gain > UNIT => whole && (sample.losses > 0 || in_network >= self.inflight(window, facts, gain)),
            _ => whole || in_network <= self.inflight(window, facts, UNIT),
        };
        if over {
            self.advance_cycle(facts);
        }
    }

    fn check_full(&mut self, sample: &RateSample) {
        if self.full || !self.round_start || sample.is_app_limited {
            return;
        }
        let wanted = narrow(u64::from(self.full_rate) * u64::from(FULL_GROWTH) / u64::from(UNIT));
        if self.rate.value() >= wanted {
            self.full_rate = self.rate.value();
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        self.full = self.full_rounds >= FULL_ROUNDS;
    }

    fn check_drain(&mut self, window: &mut Window, facts: &Facts) {
        if self.mode == Mode::Startup && self.full {
            self.mode = Mode::Drain;
            window.ssthresh = self.inflight(window, facts, UNIT);
        }
        if self.mode == Mode::Drain
            && self.in_network(window, facts, facts.in_flight) <= self.inflight(window, facts, UNIT)
        {
            self.enter_probe_bandwidth(facts);
        }
    }

    fn check_probe_rtt_done(&mut self, window: &mut Window, facts: &Facts) {
        if self.probe_rtt_done.is_some_and(|at| facts.now > at) {
            self.least_rtt_at = facts.now;
            window.cwnd = window.cwnd.max(self.prior_cwnd);
            self.reset_mode(facts);
        }
    }

    fn update_least_rtt(&mut self, window: &mut Window, facts: &Facts, sample: &RateSample) {
        let expired = facts.now.since(self.least_rtt_at) > LEAST_RTT_LIFETIME;
        if let Some(rtt) = sample.rtt
            && (self.least_rtt.is_none_or(|least| rtt <= least) || (expired && !sample.is_ack_delayed))
        {
            self.least_rtt = Some(rtt);
            self.least_rtt_at = facts.now;
        }
        if expired && !self.idle_restart && self.mode != Mode::ProbeRtt {
            self.save_cwnd(window);
            self.mode = Mode::ProbeRtt;
            self.probe_rtt_done = None;
        }
        if self.mode == Mode::ProbeRtt {
            // So low a rate says nothing of the path.
            window.orders.app_limited = true;
            if self.probe_rtt_done.is_some() {
                self.probe_rtt_round_done |= self.round_start;
                if self.probe_rtt_round_done {
                    self.check_probe_rtt_done(window, facts);
                }
            } else if facts.in_flight <= LEAST_CWND {
                self.probe_rtt_done = Some(facts.now + PROBE_RTT_TIME);
                self.probe_rtt_round_done = false;
                self.round_end = facts.delivered;
            }
        }
        if sample.delivered.is_some_and(|delivered| delivered > 0) {
            self.idle_restart = false;
        }
    }

    fn update_gains(&mut self) {
        (self.pacing_gain, self.cwnd_gain) = match self.mode {
            Mode::Startup => (HIGH_GAIN, HIGH_GAIN),
            Mode::Drain => (DRAIN_GAIN, HIGH_GAIN),
            Mode::ProbeBandwidth if self.policer.is_believed => (UNIT, CWND_GAIN),
            Mode::ProbeBandwidth => (CYCLE.get(self.cycle).copied().unwrap_or(UNIT), CWND_GAIN),
            Mode::ProbeRtt => (UNIT, UNIT),
        };
    }

    /// In the first round of a recovery as much is sent as was delivered; afterwards the window is that of before.
    fn recover_or_restore(&mut self, window: &Window, facts: &Facts, sample: &RateSample) -> (u32, bool) {
        let (before, now) = (self.prior_phase, facts.phase);
        let mut cwnd = window.cwnd;
        if sample.losses > 0 {
            cwnd = cwnd.saturating_sub(sample.losses).max(1);
        }
        if now == Phase::Recovery && before != Phase::Recovery {
            self.packet_conservation = true;
            self.round_end = facts.delivered;
            cwnd = facts.in_flight + sample.acked_sacked;
        } else if in_recovery(before) && !in_recovery(now) {
            cwnd = cwnd.max(self.prior_cwnd);
            self.packet_conservation = false;
        }
        self.prior_phase = now;
        if self.packet_conservation {
            return (cwnd.max(facts.in_flight + sample.acked_sacked), true);
        }
        (cwnd, false)
    }

    fn set_cwnd(&mut self, window: &mut Window, facts: &Facts, sample: &RateSample) {
        let acked = sample.acked_sacked;
        let mut cwnd = window.cwnd;
        if acked > 0 {
            let (kept, conserved) = self.recover_or_restore(window, facts, sample);
            cwnd = kept;
            if !conserved {
                let target = self.product(self.bandwidth(), self.cwnd_gain).saturating_add(self.aggregation_room());
                let target = self.with_budget(window, facts, target);
                if self.full {
                    cwnd = cwnd.saturating_add(acked).min(target);
                } else if cwnd < target || facts.delivered < INITIAL_WINDOW {
                    cwnd = cwnd.saturating_add(acked);
                }
                cwnd = cwnd.max(LEAST_CWND);
            }
        }
        window.cwnd = cwnd.min(window.clamp);
        if self.mode == Mode::ProbeRtt {
            window.cwnd = window.cwnd.min(LEAST_CWND);
        }
    }

    fn aggregation_room(&self) -> u32 {
        if !self.full {
            return 0;
        }
        let [first, second] = self.aggregation.most;
        first.max(second).min(narrow((u64::from(self.bandwidth()) * AGGREGATION_TIME) >> RATE_BITS))
    }
}

impl Policer {
    fn beginning(facts: &Facts) -> Self {
        Self { began: facts.delivered_at, delivered: facts.delivered, lost: facts.lost, ..Self::default() }
    }
}

impl Aggregation {
    const fn set(&mut self, extra: u32) {
        let [first, second] = &mut self.most;
        *if self.second { second } else { first } = extra;
    }
}

impl CongestionControl for Bbr {
    fn name(&self) -> &'static str {
        "bbr"
    }

    fn init(&mut self, window: &mut Window, facts: &Facts) {
        *self = Self {
            least_rtt: (facts.least_rtt != u32::MAX).then(|| Duration::from_micros(u64::from(facts.least_rtt))),
            least_rtt_at: facts.now,
            policer: Policer::beginning(facts),
            aggregation: Aggregation { began: facts.now, ..Aggregation::default() },
            ..Self::default()
        };
        window.ssthresh = INFINITE;
        self.first_rate(window, facts);
        window.is_paced = true;
    }

    fn ssthresh(&mut self, window: &mut Window, _facts: &Facts) -> u32 {
        self.save_cwnd(window);
        window.ssthresh
    }

    fn cong_avoid(&mut self, _window: &mut Window, _facts: &Facts, _acked: u32) {}

    fn undo_cwnd(&mut self, window: &mut Window, facts: &Facts) -> u32 {
        self.full_rate = 0;
        self.full_rounds = 0;
        self.policer = Policer::beginning(facts);
        window.cwnd
    }

    fn has_cong_control(&self) -> bool {
        true
    }

    fn cong_control(&mut self, window: &mut Window, facts: &Facts, rate: &RateSample) {
        self.update_rate(facts, rate);
        self.update_aggregation(window, facts, rate);
        self.update_cycle(window, facts, rate);
        self.check_full(rate);
        self.check_drain(window, facts);
        self.update_least_rtt(window, facts, rate);
        self.update_gains();
        self.pace(window, facts, self.bandwidth(), self.pacing_gain);
        self.set_cwnd(window, facts, rate);
    }

    fn set_state(&mut self, _window: &mut Window, facts: &Facts, new: Phase) {
        if new == Phase::Loss {
            self.prior_phase = Phase::Loss;
            self.full_rate = 0;
            // A timeout is the end of a round.
            self.round_start = true;
            self.look_for_policer(facts, 1, false);
        }
    }

    fn cwnd_event(&mut self, window: &mut Window, facts: &Facts, event: Event) {
        if event == Event::TxStart && facts.is_app_limited {
            self.idle_restart = true;
            self.aggregation.began = facts.now;
            self.aggregation.acked = 0;
            if self.mode == Mode::ProbeBandwidth {
                // After idling there is no need to be faster than the path.
                self.pace(window, facts, self.bandwidth(), UNIT);
            } else if self.mode == Mode::ProbeRtt {
                self.check_probe_rtt_done(window, facts);
            }
        }
    }

    fn min_tso_segs(&self, window: &Window) -> Option<u32> {
        Some(if window.pacing_rate < LEAST_TSO_RATE { 1 } else { 2 })
    }

    fn sndbuf_expand(&self) -> u32 {
        3
    }

    /// `struct tcp_bbr_info`.
    fn get_info(&self, _window: &Window, facts: &Facts) -> Vec<u8> {
        let bandwidth = (u128::from(self.bandwidth()) * u128::from(facts.mss) * 1_000_000) >> RATE_BITS;
        let bandwidth = u64::try_from(bandwidth).unwrap_or(u64::MAX);
        let least = self.least_rtt.map_or(u32::MAX, |least| u32::try_from(least.as_micros()).unwrap_or(u32::MAX));
        let halves = [narrow(bandwidth & 0xffff_ffff), narrow(bandwidth >> 32)];
        let fields = halves.into_iter().chain([least, self.pacing_gain, self.cwnd_gain]);
        fields.flat_map(u32::to_ne_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with this rate (segments per ms) and round-trip time, and a queue without end, in steps of 1 ms.
    struct Path {
        bbr: Bbr,
        window: Window,
        facts: Facts,
        /// What was sent in each millisecond, and `delivered` then.
        sent: Vec<(u32, u32)>,
        rtt: u64,
        rate: u32,
    }

    impl Path {
        fn new(rate: u32, rtt: u64) -> Self {
            let mut facts = super::super::facts(Instant::from_millis(10_000));
            facts.srtt = u32::try_from(rtt * 1_000).unwrap();
            facts.least_rtt = facts.srtt;
            let mut path = Self { bbr: Bbr::default(), window: Window::default(), facts, sent: Vec::new(), rtt, rate };
            path.bbr.init(&mut path.window, &path.facts);
            path
        }

        fn tick(&mut self) {
            self.facts.now += Duration::from_millis(1);
            let paced = u32::try_from(self.window.pacing_rate / 1_000 / 1_448).unwrap_or(u32::MAX).max(1);
            let most = if self.sent.is_empty() { 10 } else { paced };
            let new = self.window.cwnd.saturating_sub(self.facts.in_flight).min(most);
            let all = self.sent.last().map_or(0, |(all, _)| *all);
            self.sent.push((all + new, self.facts.delivered));
            self.facts.in_flight += new;
            // What has been under way for a round trip at least arrives, as fast as the path goes.
            let under_way = self.sent.len().checked_sub(usize::try_from(self.rtt).unwrap());
            let arrivable = under_way.map_or(0, |at| self.sent[at].0);
            let acked = arrivable.saturating_sub(self.facts.delivered).min(self.rate);
            if acked == 0 {
                return;
            }
            self.facts.delivered += acked;
            self.facts.delivered_at = self.facts.now;
            let prior_in_flight = self.facts.in_flight;
            self.facts.in_flight -= acked;
            let at = self.sent.partition_point(|(all, _)| *all < self.facts.delivered);
            let prior_delivered = self.sent[at].1;
            let took = Duration::from_millis(u64::try_from(self.sent.len() - at).unwrap());
            let sample = RateSample {
                delivered: Some(self.facts.delivered - prior_delivered),
                prior_delivered,
                interval: Some(took),
                rtt: Some(took),
                acked_sacked: acked,
                prior_in_flight,
                ..RateSample::default()
            };
            self.bbr.cong_control(&mut self.window, &self.facts, &sample);
        }
    }

    #[test]
    fn start_up_finds_the_rate_and_the_window_becomes_two_products() {
        let mut path = Path::new(10, 20);
        for _ in 0..1_500 {
            path.tick();
        }
        assert_eq!(path.bbr.mode, Mode::ProbeBandwidth);
        let rate = bytes_per_second(&path.facts, path.bbr.bandwidth(), UNIT);
        let true_rate = 10_u64 * 1_448 * 1_000;
        assert!((true_rate * 95 / 100..=true_rate * 105 / 100).contains(&rate), "{rate}");
        // Two products are 400 segments; super-segments and aggregation have their part.
        assert!((400..=480).contains(&path.window.cwnd), "{}", path.window.cwnd);
    }

    #[test]
    fn pacing_goes_through_the_gains_of_the_cycle() {
        let mut path = Path::new(10, 20);
        let mut gains = Vec::new();
        for _ in 0..2_000 {
            path.tick();
            if path.bbr.mode == Mode::ProbeBandwidth && gains.last() != Some(&path.bbr.pacing_gain) {
                gains.push(path.bbr.pacing_gain);
            }
        }
        assert!(gains.windows(3).any(|three| three == [320, 192, 256]), "{gains:?}");
    }

    #[test]
    fn every_ten_seconds_the_pipe_is_emptied_for_200_ms() {
        let mut path = Path::new(10, 20);
        for _ in 0..1_500 {
            path.tick();
        }
        // The path gets longer: its old least time is forgotten only after ten seconds.
        path.rtt = 21;
        for _ in 0..9_000 {
            path.tick();
            assert!(path.bbr.mode != Mode::ProbeRtt);
        }
        let mut low = 0;
        for _ in 0..3_000 {
            path.tick();
            low += u32::from(path.window.cwnd == LEAST_CWND);
        }
        assert!((200..400).contains(&low), "{low}");
        assert_eq!(path.bbr.mode, Mode::ProbeBandwidth);
        assert_eq!(path.bbr.least_rtt, Some(Duration::from_millis(21)));
    }

    #[test]
    fn losses_do_not_shrink_the_window_for_long() {
        let mut path = Path::new(10, 20);
        for _ in 0..1_500 {
            path.tick();
        }
        let before = path.window.cwnd;
        let threshold = path.window.ssthresh;
        assert_eq!(path.bbr.ssthresh(&mut path.window, &path.facts), threshold);
        path.facts.phase = Phase::Recovery;
        for _ in 0..40 {
            path.tick();
        }
        path.facts.phase = Phase::Open;
        for _ in 0..40 {
            path.tick();
        }
        assert!(path.window.cwnd + 20 >= before, "{} {before}", path.window.cwnd);
    }

    #[test]
    fn a_policer_is_recognised_by_two_alike_lossy_intervals() {
        let mut path = Path::new(10, 20);
        for _ in 0..1_500 {
            path.tick();
        }
        for round in 0..20 {
            path.facts.lost += 60;
            path.bbr.round_start = true;
            path.bbr.look_for_policer(&path.facts, 60, false);
            if path.bbr.policer.is_believed {
                assert!(round >= 7, "two intervals of four rounds");
                return;
            }
            for _ in 0..20 {
                path.facts.now += Duration::from_millis(1);
                path.facts.delivered += 10;
                path.facts.delivered_at = path.facts.now;
            }
        }
        panic!("{:?}", path.bbr.policer);
    }

    fn at(millis: u64) -> Facts {
        super::super::facts(Instant::from_millis(millis))
    }

    /// A rate of so many segments a millisecond.
    fn rate(segments: u32) -> u32 {
        rate_of(segments * 1_000, Duration::from_secs(1))
    }

    /// `bbr_tso_segs_goal`: what goes in 1/1024 s, one segment at least below 1.2 Mbit/s and two above, 127 at most.
    #[test]
    fn super_segments_hold_a_millisecond_s_worth() {
        let facts = Facts { mss: 1_000, ..at(0) };
        let goal = |pacing_rate| tso_goal(&Window { pacing_rate, ..Window::default() }, &facts);
        assert_eq!((goal(149_999), goal(150_000)), (1, 2));
        assert_eq!((goal(3 << 20), goal((3 << 20) * 1_000 / 1_024)), (3, 3));
        assert_eq!((goal(10_240_000), goal(10_239_999)), (10, 9));
        // 65,215 bytes at most.
        assert_eq!(goal(u64::MAX), 65);
        let small = Facts { mss: 100, ..at(0) };
        assert_eq!(tso_goal(&Window { pacing_rate: u64::MAX, ..Window::default() }, &small), 127);
    }

    /// `bbr_bdp`, `bbr_quantization_budget`: rounded up, three super-segments more, even, two more in the probing phase.
    #[test]
    fn the_window_has_room_for_super_segments() {
        let window = Window { pacing_rate: 100_000, ..Window::default() };
        let facts = Facts { mss: 1_000, ..at(0) };
        let mut bbr = Bbr::default();
        assert_eq!(bbr.product(rate(1), UNIT), INITIAL_WINDOW, "without a round trip nothing is known");
        bbr.least_rtt = Some(Duration::from_millis(20));
        assert_eq!((bbr.product(rate(1), UNIT), bbr.product(rate(1), 2 * UNIT)), (20, 40));
        assert_eq!(bbr.product(rate(1) + 1, UNIT), 21, "what is begun counts");
        bbr.mode = Mode::Startup;
        assert_eq!(bbr.with_budget(&window, &facts, 20), 24);
        assert_eq!(bbr.with_budget(&window, &facts, 21), 24);
        bbr.mode = Mode::ProbeBandwidth;
        assert_eq!(bbr.with_budget(&window, &facts, 20), 26);
        bbr.cycle = 1;
        assert_eq!(bbr.with_budget(&window, &facts, 20), 24);
        bbr.mode = Mode::Startup;
        bbr.cycle = 0;
        assert_eq!(bbr.with_budget(&window, &facts, 20), 24);
    }

    /// `bbr_packets_in_net_at_edt`: until the next segment may go, some of what is in flight arrives.
    #[test]
    fn what_arrives_before_the_next_departure_is_not_in_the_network() {
        let window = Window { pacing_rate: 100_000, ..Window::default() };
        let mut bbr = Bbr::default();
        bbr.rate.take(RATE_ROUNDS, 0, rate(2) + 1);
        let facts = Facts { mss: 1_000, departs: Instant::from_millis(1_005), ..at(1_000) };
        bbr.pacing_gain = UNIT;
        assert_eq!(bbr.in_network(&window, &facts, 30), 20);
        assert_eq!(bbr.in_network(&window, &facts, 5), 0);
        bbr.pacing_gain = CYCLE[0];
        assert_eq!(bbr.in_network(&window, &facts, 30), 21, "and what probes is on its way");
    }

    /// `bbr_check_full_bw_reached`: three rounds without a quarter more, rounds that the program limits not counted.
    #[test]
    fn the_pipe_is_full_after_three_rounds_without_growth() {
        let mut bbr = Bbr::default();
        let open = RateSample::default();
        let round = |bbr: &mut Bbr, rounds: u32, value: u32, sample: &RateSample| {
            bbr.rate.take(RATE_ROUNDS, rounds, value);
            bbr.round_start = true;
            bbr.check_full(sample);
            bbr.full
        };
        assert!(!round(&mut bbr, 1, 1_000, &open));
        assert!(!round(&mut bbr, 2, 1_250, &open), "a quarter is growth");
        for number in 3..5 {
            assert!(!round(&mut bbr, number, 1_561, &open));
        }
        assert!(!round(&mut bbr, 5, 1_561, &RateSample { is_app_limited: true, ..open }));
        bbr.round_start = false;
        bbr.check_full(&open);
        assert!(!bbr.full, "within a round nothing is decided");
        assert!(round(&mut bbr, 6, 1_561, &open));
    }

    fn policed(bbr: &mut Bbr, facts: &mut Facts, rounds: u32, delivered: u32, lost: u32) {
        for number in 1..=rounds {
            facts.now += Duration::from_millis(100);
            facts.delivered_at = facts.now;
            facts.delivered += delivered / rounds;
            facts.lost += lost / rounds;
            bbr.round_start = true;
            bbr.look_for_policer(facts, u32::from(number == rounds) * lost, false);
        }
    }

    /// `bbr_lt_bw_sampling`: intervals of four rounds at least, a fifth (50 of 256) of them lost, alike to an eighth.
    #[test]
    fn a_policer_is_believed_by_the_numbers_of_linux() {
        let interval = |second: u32, lost: u32, rounds: u32| {
            let mut bbr = Bbr { mode: Mode::ProbeBandwidth, ..Bbr::default() };
            let mut facts = Facts { mss: 1_000, ..at(10_000) };
            bbr.look_for_policer(&facts, 1, false);
            assert!(bbr.policer.is_sampling, "the first loss begins an interval");
            policed(&mut bbr, &mut facts, 4, 2_560, 512);
            assert!(!bbr.policer.is_believed && bbr.policer.rate > 0);
            policed(&mut bbr, &mut facts, rounds, second, lost);
            bbr
        };
        assert!(interval(2_560, 512, 4).policer.is_believed);
        assert!(interval(2_560, 500, 4).policer.is_believed, "50 of 256");
        assert!(!interval(2_560, 496, 4).policer.is_believed);
        assert!(interval(2_880, 600, 4).policer.is_believed, "an eighth more");
        assert!(!interval(2_884, 600, 4).policer.is_believed);
        assert!(interval(2_244, 600, 4).policer.is_believed, "an eighth less");
        assert!(!interval(2_236, 600, 4).policer.is_believed);
        assert!(!interval(2_559, 600, 3).policer.is_believed, "three rounds are too few");
        let believed = interval(2_880, 600, 4);
        assert_eq!(
            believed.bandwidth(),
            rate_of(2_560, Duration::from_millis(400)).midpoint(rate_of(2_880, Duration::from_millis(400)))
        );
        assert_eq!(believed.pacing_gain, UNIT);
    }

    #[test]
    fn a_policer_is_forgotten_after_48_rounds_and_an_interval_after_16() {
        let mut bbr = Bbr { mode: Mode::ProbeBandwidth, ..Bbr::default() };
        bbr.policer = Policer { is_believed: true, rate: 1, ..Policer::default() };
        let mut facts = at(10_000);
        policed(&mut bbr, &mut facts, 47, 0, 0);
        assert!(bbr.policer.is_believed);
        bbr.round_start = false;
        bbr.look_for_policer(&facts, 0, false);
        assert!(bbr.policer.is_believed, "rounds count");
        policed(&mut bbr, &mut facts, 1, 0, 0);
        assert!(!bbr.policer.is_believed);
        bbr.round_start = false;
        bbr.look_for_policer(&facts, 0, false);
        assert!(!bbr.policer.is_sampling, "without a loss none begins");
        bbr.look_for_policer(&facts, 1, false);
        policed(&mut bbr, &mut facts, 16, 160, 0);
        assert!(bbr.policer.is_sampling);
        policed(&mut bbr, &mut facts, 1, 10, 0);
        assert!(!bbr.policer.is_sampling, "too long");
        bbr.look_for_policer(&facts, 1, false);
        bbr.look_for_policer(&facts, 1, true);
        assert!(!bbr.policer.is_sampling, "the program was the limit");
    }

    /// `bbr_set_cwnd_to_recover_or_restore`.
    #[test]
    fn a_recovery_begins_with_what_is_delivered_and_ends_with_the_window_of_before() {
        let mut bbr = Bbr { prior_cwnd: 60, ..Bbr::default() };
        let window = Window { cwnd: 50, ..Window::default() };
        let sample = RateSample { acked_sacked: 3, losses: 2, ..RateSample::default() };
        let begins = Facts { phase: Phase::Recovery, in_flight: 20, delivered: 77, ..at(0) };
        assert_eq!(bbr.recover_or_restore(&window, &begins, &sample), (23, true));
        assert_eq!(bbr.round_end, 77);
        // Within the first round it goes down with losses, but not below what is delivered.
        assert_eq!(bbr.recover_or_restore(&window, &begins, &sample), (48, true));
        bbr.packet_conservation = false;
        let many = RateSample { losses: 60, ..sample };
        assert_eq!(bbr.recover_or_restore(&window, &begins, &many), (1, false));
        let over = Facts { phase: Phase::Open, ..begins };
        assert_eq!(bbr.recover_or_restore(&window, &over, &RateSample::default()), (60, false));
    }

    /// `bbr_update_min_rtt`: ten seconds, then the pipe is emptied; an ACK that was held back is no new least.
    #[test]
    fn the_least_round_trip_holds_for_ten_seconds() {
        let mut bbr = Bbr::default();
        let mut window = Window { cwnd: 40, ..Window::default() };
        let millis = Duration::from_millis;
        let sample = |rtt| RateSample { rtt: Some(millis(rtt)), delivered: Some(1), ..RateSample::default() };
        bbr.least_rtt_at = Instant::from_millis(1_000);
        bbr.least_rtt = Some(millis(20));
        let mut update = |bbr: &mut Bbr, now, sample: &RateSample| {
            bbr.update_least_rtt(&mut window, &Facts { in_flight: 30, ..at(now) }, sample);
            bbr.least_rtt
        };
        assert_eq!(update(&mut bbr, 11_000, &sample(30)), Some(millis(20)));
        assert_eq!(bbr.mode, Mode::Startup);
        let held_back = RateSample { is_ack_delayed: true, ..sample(30) };
        assert_eq!(update(&mut bbr, 11_001, &held_back), Some(millis(20)));
        assert_eq!(bbr.mode, Mode::ProbeRtt);
        assert_eq!(update(&mut bbr, 11_001, &sample(30)), Some(millis(30)));
        assert_eq!(update(&mut bbr, 11_002, &sample(30)), Some(millis(30)));
        assert_eq!(bbr.least_rtt_at, Instant::from_millis(11_002), "an equal one is as good");
        assert_eq!(bbr.probe_rtt_done, None, "more than four segments are in flight");
        bbr.update_least_rtt(&mut window, &Facts { in_flight: 4, ..at(11_003) }, &sample(30));
        assert_eq!(bbr.probe_rtt_done, Some(Instant::from_millis(11_203)));
        // A flow that was idle has emptied the pipe already.
        let mut idle = Bbr { idle_restart: true, least_rtt: Some(millis(20)), ..Bbr::default() };
        idle.update_least_rtt(&mut window, &at(20_000), &sample(25));
        assert_eq!((idle.mode, idle.idle_restart), (Mode::Startup, false));
    }

    /// `bbr_update_ack_aggregation`: what comes beyond the rate makes room, for ten rounds, 100 ms' worth at most.
    #[test]
    fn acks_that_come_together_make_room() {
        let mut bbr = Bbr { full: true, ..Bbr::default() };
        bbr.rate.take(RATE_ROUNDS, 0, rate(1) + 1);
        let window = Window { cwnd: 200, ..Window::default() };
        let ack = |bbr: &mut Bbr, millis: u64, acked: u32, new_round: bool| {
            bbr.round_start = new_round;
            let facts = Facts { delivered_at: Instant::from_millis(millis), ..at(millis) };
            let sample = RateSample {
                acked_sacked: acked,
                delivered: Some(acked),
                interval: Some(Duration::from_millis(1)),
                ..RateSample::default()
            };
            bbr.update_aggregation(&window, &facts, &sample);
            bbr.aggregation_room()
        };
        assert_eq!(ack(&mut bbr, 1_000, 10, false), 10);
        // As fast as the rate: nothing new.
        assert_eq!(ack(&mut bbr, 1_005, 5, false), 10);
        assert_eq!(ack(&mut bbr, 1_006, 30, false), 39);
        for round in 0..4 {
            assert_eq!(ack(&mut bbr, 2_000 + round * 1_000, 1, true), 39, "round {round}");
        }
        // The other half of the record begins empty; the first is still looked at, and gone after five rounds more.
        assert_eq!(ack(&mut bbr, 6_000, 1, true), 39);
        for round in 0..4 {
            assert_eq!(ack(&mut bbr, 7_000 + round * 1_000, 1, true), 39);
        }
        assert_eq!(ack(&mut bbr, 11_000, 1, true), 1);
        // 100 ms of the rate at most, and nothing while the pipe is not known to be full.
        assert_eq!(ack(&mut bbr, 11_001, 150, false), 100);
        bbr.full = false;
        assert_eq!(bbr.aggregation_room(), 0);
    }
}
