//! Memory of all connections together (tcp_mem, `__sk_mem_raise_allocated`): how much of it is taken, when that is too much
//! (pressure, in which windows and buffers do not grow), and when there is none left (sends wait, segments are thrown away,
//! connections that no program holds are ended: `tcp_check_oom`). What one socket's buffers hold is its own affair.

use core::time::Duration;

use super::Shared;
use super::sock::Sock;
use super::state::State;
use super::time_wait::LIFETIME;
use crate::counters::Counters;
use crate::settings::Settings;
use crate::socket::protocol::{Happened, Net};
use crate::time::Instant;

/// Memory is counted in pages, as tcp_mem is.
const PAGE: u64 = 4_096;
/// SOCK_MIN_SNDBUF: who holds less is not the one to blame.
const LEAST_SEND_BUFFER: usize = 4_608;
/// `sk_stream_wait_memory` tries again after up to a fifth of a second and two ticks.
const LONGEST_WAIT: u32 = 200;
const LEAST_WAIT: Duration = Duration::from_millis(2);

/// What all connections take.
#[derive(Debug, Default)]
pub struct Memory {
    pages: u64,
    /// Since when there has been pressure.
    pressed_since: Option<Instant>,
    /// Connections without a program.
    orphans: u32,
}

/// How things stand, as a socket saw it at its last event.
#[derive(Clone, Copy, Debug)]
pub struct Supply {
    /// Pages that the others take.
    others: u64,
    /// tcp_mem: without a thought, and at most.
    low: u64,
    high: u64,
    /// More than the second number of tcp_mem has been taken, and not less than the first since
    /// (`tcp_memory_pressure`).
    pub pressed: bool,
    /// Pages that each socket may have under pressure, if all have the same.
    share: u64,
}

impl Default for Supply {
    /// Without end, until it is known better.
    fn default() -> Self {
        Self { others: 0, low: u64::MAX, high: u64::MAX, pressed: false, share: u64::MAX }
    }
}

impl Memory {
    /// Pages that are taken.
    #[cfg(test)]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// How things stand for one of so many sockets, for which so much is counted.
    pub fn supply(&self, settings: &Settings, sockets: usize, counted: u64) -> Supply {
        let [low, _, high] = settings.tcp_mem.map(u64::from);
        Supply {
            others: self.pages.saturating_sub(counted),
            low,
            high,
            pressed: self.pressed_since.is_some(),
            share: high / u64::try_from(sockets.max(1)).unwrap_or(u64::MAX),
        }
    }

    fn change(&mut self, settings: &Settings, counters: &mut Counters, now: Instant, (old, new): (u64, u64)) {
        self.pages = self.pages.saturating_sub(old).saturating_add(new);
        let [low, pressure, _] = settings.tcp_mem.map(u64::from);
        if self.pages <= low {
            if let Some(since) = self.pressed_since.take() {
                let millis = now.since(since).as_millis();
                counters.tcp_memory_pressures_chrono += u64::try_from(millis).unwrap_or(u64::MAX).max(1);
            }
        } else if self.pages > pressure {
            self.enter_pressure(counters, now);
        }
    }

    /// `tcp_enter_memory_pressure`.
    fn enter_pressure(&mut self, counters: &mut Counters, now: Instant) {
        if self.pressed_since.is_none() {
            self.pressed_since = Some(now);
            counters.tcp_memory_pressures += 1;
        }
    }

    /// `tcp_check_oom`: whether a connection that no program holds has to go. Each doubling makes its fault weigh more.
    fn is_too_much(&self, settings: &Settings, sock: &Sock, doublings: u32) -> bool {
        let orphans = u64::from(self.orphans) << doublings;
        if orphans > u64::from(settings.tcp_max_orphans) {
            log::info!(target: "remora::tcp", "too many orphaned sockets");
            return true;
        }
        let [_, _, high] = settings.tcp_mem.map(u64::from);
        let spent = sock.send_memory() > LEAST_SEND_BUFFER && self.pages > high;
        if spent {
            log::info!(target: "remora::tcp", "out of memory -- consider tuning tcp_mem");
        }
        spent
    }
}

impl Sock {
    fn pages(&self) -> u64 {
        let bytes = self.charges.total().saturating_add(u64::try_from(self.send_memory()).unwrap_or(u64::MAX));
        bytes.div_ceil(PAGE)
    }

    /// What the sock takes now is what is counted for it, and it learns how things stand. `sockets`: how many there are.
    //= REF T-06
    pub(super) fn account(&mut self, shared: &mut Shared, net: &mut Net<'_>, sockets: usize) {
        let pages = if self.state == State::Listen { 0 } else { self.pages() };
        let counted = core::mem::replace(&mut self.counted_pages, pages);
        if pages != counted {
            shared.memory.change(net.settings, net.counters, net.now, (counted, pages));
        }
        let orphan = self.orphan && self.state != State::Closed;
        if orphan != core::mem::replace(&mut self.counted_orphan, orphan) {
            let orphans = &mut shared.memory.orphans;
            *orphans = if orphan { orphans.saturating_add(1) } else { orphans.saturating_sub(1) };
        }
        self.supply = shared.memory.supply(net.settings, sockets, pages);
    }

    /// The sock is no more.
    pub(super) fn account_gone(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        let counted = core::mem::take(&mut self.counted_pages);
        shared.memory.change(net.settings, net.counters, net.now, (counted, 0));
        if core::mem::take(&mut self.counted_orphan) {
            shared.memory.orphans = shared.memory.orphans.saturating_sub(1);
        }
    }

    /// Buffers may grow beyond what they are (`tcp_should_expand_sndbuf`, `tcp_clamp_window`).
    pub(super) fn is_memory_ample(&self) -> bool {
        !self.supply.pressed && self.supply.others.saturating_add(self.counted_pages) < self.supply.low
    }

    /// Whether more may be taken, beyond what everybody is granted (`__sk_mem_raise_allocated`): `held` bytes of `least`
    /// are taken.
    fn may_take(&self, held: u64, least: u32) -> bool {
        let Supply { others, low, high, pressed, share } = self.supply;
        let pages = self.pages();
        let all = others.saturating_add(pages);
        all <= low || (all <= high && (held < u64::from(least) || !pressed || share > pages))
    }

    /// Whether there is memory for a segment that has come.
    pub(super) fn may_receive_more(&self, settings: &Settings) -> bool {
        let [least, ..] = settings.tcp_rmem;
        self.may_take(self.charges.total(), least)
    }

    /// Whether there is memory for more to send. Who has filled its buffer waits for that, not for memory.
    pub(super) fn may_send_more(&self, settings: &Settings) -> bool {
        let [least, ..] = settings.tcp_wmem;
        let held = self.send_memory();
        self.may_take(u64::try_from(held).unwrap_or(u64::MAX), least) || held >= self.options.send_buffer as usize
    }

    /// There was none for a send: the buffer becomes smaller, and the program tries again a little later
    /// (`tcp_stream_alloc_skb`, `sk_stream_moderate_sndbuf`, `sk_stream_wait_memory`).
    pub(super) fn wait_for_memory(&mut self, net: &mut Net<'_>) {
        if !self.options.send_buffer_locked {
            let half = u32::try_from(self.send_memory() / 2).unwrap_or(u32::MAX);
            let least = u32::try_from(LEAST_SEND_BUFFER).unwrap_or(u32::MAX);
            self.options.send_buffer = self.options.send_buffer.min(half).max(least);
        }
        let wait = LEAST_WAIT + Duration::from_millis(u64::from(net.random.below(LONGEST_WAIT)));
        self.memory_wait_at = self.memory_wait_at.or(Some(net.now + wait));
    }

    /// The program may try again.
    pub(super) fn memory_wait_over(&mut self, shared: &mut Shared) {
        self.memory_wait_at = None;
        if self.no_space.replace(false) {
            self.wake(shared, Happened::ROOM);
        }
    }

    /// Under pressure the window is a few segments at most (`tcp_adjust_rcv_ssthresh`).
    pub(super) fn shrink_under_pressure(&mut self) {
        self.rcv_ssthresh = self.rcv_ssthresh.min(4 * u32::from(self.advertised_mss));
    }

    /// The program has let go of the connection: whether there is room for one more such (`__tcp_close`).
    pub(super) fn is_one_orphan_too_many(&mut self, shared: &mut Shared, net: &Net<'_>) -> bool {
        if !core::mem::replace(&mut self.counted_orphan, true) {
            shared.memory.orphans = shared.memory.orphans.saturating_add(1);
        }
        shared.memory.is_too_much(net.settings, self, 0)
    }

    /// `tcp_out_of_resources`: a connection without a program whose timer has fired goes when there are too many, or too
    /// little memory. `reset`: its peer is to hear of it.
    pub(super) fn is_out_of_resources(&mut self, shared: &mut Shared, net: &mut Net<'_>, reset: bool) -> bool {
        let idle = net.now.since(self.last_sent);
        let slow = idle > self.rtt.most() * 2 || !reset;
        let doublings = u32::from(slow) + u32::from(self.soft_error.is_some());
        if !shared.memory.is_too_much(net.settings, self, doublings) {
            return false;
        }
        let closed_window = self.snd_wnd == 0 && self.board.packets_out == 0;
        if reset || idle <= LIFETIME || closed_window {
            self.send_reset(shared, net);
        }
        self.done(shared, net.counters, net.now);
        net.counters.tcp_abort_on_memory += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { tcp_mem: [100, 200, 300], ..Settings::default() }
    }

    #[test]
    fn pressure_begins_above_the_second_number_and_lasts_until_the_first() {
        let (mut memory, mut counters) = (Memory::default(), Counters::default());
        let at = Instant::from_millis;
        let mut change = |memory: &mut Memory, now, old, new| {
            memory.change(&settings(), &mut counters, at(now), (old, new));
            (
                memory.supply(&settings(), 1, 0).pressed,
                counters.tcp_memory_pressures,
                counters.tcp_memory_pressures_chrono,
            )
        };
        assert_eq!(change(&mut memory, 0, 0, 200), (false, 0, 0));
        assert_eq!(change(&mut memory, 10, 0, 1), (true, 1, 0));
        assert_eq!(change(&mut memory, 20, 100, 0), (true, 1, 0), "101 are left");
        assert_eq!(change(&mut memory, 25, 0, 150), (true, 1, 0), "still the same pressure");
        assert_eq!(change(&mut memory, 30, 151, 0), (false, 1, 20));
        assert_eq!(memory.pages(), 100);
        assert_eq!(change(&mut memory, 30, 0, 101), (true, 2, 20));
        assert_eq!(change(&mut memory, 30, 101, 0), (false, 2, 21), "a millisecond at least");
    }

    #[test]
    fn a_sock_is_told_what_the_others_have_and_what_each_may_have() {
        let mut memory = Memory::default();
        memory.change(&settings(), &mut Counters::default(), Instant::ZERO, (0, 90));
        let Supply { others, low, high, pressed, share } = memory.supply(&settings(), 4, 30);
        assert_eq!((others, low, high, pressed, share), (60, 100, 300, false, 75));
        assert_eq!(memory.supply(&settings(), 0, 100).others, 0);
        assert_eq!(memory.supply(&settings(), 0, 0).share, 300);
    }

    /// `__sk_mem_raise_allocated`.
    #[test]
    fn more_may_be_taken_by_who_has_little_or_less_than_its_share() {
        // Pages of others, held bytes, whether there is pressure, the share, and the answer; the sock itself has 10 pages.
        let table = [
            (90, 5_000, true, 1, true),
            (91, 5_000, true, 1, false),
            (91, 4_095, true, 1, true),
            (91, 4_096, true, 10, false),
            (91, 4_096, true, 11, true),
            (91, 5_000, false, 1, true),
            (290, 4_095, true, 1, true),
            (290, 5_000, false, 1, true),
            (291, 4_095, false, 11, false),
        ];
        for (others, held, pressed, share, may) in table {
            let family = crate::socket::protocol::AddressFamily::Inet;
            let mut sock = Sock::new(&settings(), 1, family, Instant::ZERO);
            let data = u32::try_from(10 * PAGE).expect("small");
            sock.charges.add(super::super::sequence::Seq(0), super::super::sequence::Seq(data), data, false);
            sock.supply = Supply { others, low: 100, high: 300, pressed, share };
            assert_eq!(sock.may_take(held, 4_096), may, "{others} {held} {pressed} {share}");
        }
    }

    #[test]
    fn too_many_orphans_or_too_much_memory_end_a_connection() {
        let settings = Settings { tcp_max_orphans: 8, ..settings() };
        let mut sock = Sock::new(&settings, 1, crate::socket::protocol::AddressFamily::Inet, Instant::ZERO);
        let mut memory = Memory { orphans: 8, ..Memory::default() };
        assert!(!memory.is_too_much(&settings, &sock, 0));
        memory.orphans = 9;
        assert!(memory.is_too_much(&settings, &sock, 0));
        memory.orphans = 4;
        assert!(!memory.is_too_much(&settings, &sock, 1));
        memory.orphans = 3;
        assert!(memory.is_too_much(&settings, &sock, 2), "each doubling counts");
        memory.orphans = 0;
        memory.pages = 301;
        assert!(!memory.is_too_much(&settings, &sock, 0), "what has little to send is not in the way");
        let mut bytes: &[u8] = &[0; 10_000];
        sock.buffer.append(&mut bytes, 10_000).expect("room");
        assert!(memory.is_too_much(&settings, &sock, 0));
        memory.pages = 300;
        assert!(!memory.is_too_much(&settings, &sock, 0));
    }
}
