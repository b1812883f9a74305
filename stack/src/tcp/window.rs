//! The receive window: how large it starts (`tcp_select_initial_window`), how it grows with data and with the reader's
//! pace, and silly-window avoidance (RFC 9293 §3.8.6.2.2, RFC 7323 §2; `__tcp_select_window`).

use core::time::Duration;

use super::sequence::Seq;
use super::sock::Sock;
use crate::counters::Counters;
use crate::settings::Settings;
use crate::time::Instant;

/// RFC 7323 §2.3.
const LARGEST_SHIFT: u8 = 14;
/// Payloads below this size do not let the window grow (`tcp_event_data_recv`).
const LEAST_GROWING: u32 = 128;

/// TCP_RMEM_TO_WIN_SCALE: the ratio of data to memory is in units of 1/256.
const RATIO_SHIFT: u32 = 8;
/// TCP_DEFAULT_SCALING_RATIO: half of the memory is data, until segments tell (tcp_adv_win_scale is without effect since
/// Linux 6.6).
pub const DEFAULT_RATIO: u8 = 128;
/// SOCK_MIN_RCVBUF / 2.
const LEAST_CLAMP: u32 = 1_152;
/// A round trip is never measured as nothing.
const LEAST_SAMPLE: Duration = Duration::from_micros(1);

/// `__tcp_win_from_space`.
fn window_from_space(space: u32, ratio: u8) -> u32 {
    u32::try_from((u64::from(space) * u64::from(ratio)) >> RATIO_SHIFT).unwrap_or(u32::MAX)
}

/// First window and the scale to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial {
    /// Window in bytes.
    pub window: u32,
    /// Largest window ever.
    pub clamp: u32,
    /// Shift to offer; 0 without scaling.
    pub shift: u8,
}

/// `tcp_select_initial_window`.
pub fn initial(settings: &Settings, buffer: u32, locked: bool, clamp: u32, mss: u16, scaling: bool) -> Initial {
    let mut space = window_from_space(buffer, DEFAULT_RATIO);
    let clamp = if clamp == 0 { u32::from(u16::MAX) << LARGEST_SHIFT } else { clamp };
    space = space.min(clamp);
    let mss = u32::from(mss.max(1));
    if space > mss {
        space -= space % mss;
    }
    //= REF C-13: the window of a SYN is never scaled.
    //= RFC 7323 §2.2 (MUST-3)
    let window = space.min(u32::from(u16::MAX));
    let mut shift = 0;
    if scaling {
        let [_, _, most] = settings.tcp_rmem;
        let reach = if locked { space } else { space.max(most).max(settings.rmem_max) }.min(clamp);
        let bits = u8::try_from(31_u32.saturating_sub(reach.max(1).leading_zeros())).unwrap_or(0);
        //= RFC 7323 §2.2 (MAY-2)
        //= RFC 7323 §2.3 (MUST-8)
        shift = bits.saturating_sub(15).min(LARGEST_SHIFT);
    }
    Initial { window, clamp: clamp.min(u32::from(u16::MAX) << shift), shift }
}

impl Sock {
    /// The window to offer now, without ever taking back what was offered (`tcp_select_window`).
    pub(super) fn update_window(&mut self, counters: &mut Counters) -> u16 {
        let old = self.rcv_wnd;
        if core::mem::take(&mut self.no_receive_memory) {
            self.rcv_wnd = 0;
            self.rcv_wup = self.rcv_nxt;
            counters.tcp_to_zero_window_adv += u64::from(old != 0);
            return 0;
        }
        let left = self.receive_window();
        let mut new = self.select_window();
        //= RFC 9293 §3.8.6 (SHLD-14): the right edge does not move to the left.
        //= RFC 9293 §3.8.6 (SHLD-14)
        //= RFC 7323 §2.4 (MUST-11)
        if new < left {
            if new == 0 {
                counters.tcp_want_zero_window_adv += 1;
            }
            let step = (1_u32 << self.rcv_wscale) - 1;
            new = left.saturating_add(step) & !step;
        }
        new = new.min(u32::from(u16::MAX) << self.rcv_wscale);
        self.rcv_wnd = new;
        self.rcv_wup = self.rcv_nxt;
        if new == 0 && old != 0 {
            counters.tcp_to_zero_window_adv += 1;
        } else if new != 0 && old == 0 {
            counters.tcp_from_zero_window_adv += 1;
        }
        //= RFC 7323 §2.3 (MUST-7)
        u16::try_from(new >> self.rcv_wscale).unwrap_or(u16::MAX)
    }

    /// `__tcp_select_window`.
    pub(super) fn select_window(&self) -> u32 {
        let mut free = self.free_space();
        let allowed = self.full_space();
        let full = allowed.min(self.window_clamp);
        let mss = u32::from(self.ack.rcv_mss.max(1)).min(full.max(1));
        if full == 0 {
            return 0;
        }
        if free < full / 2 {
            if self.supply.pressed {
                free = free.min(4 * u32::from(self.advertised_mss));
            }
            free &= !((1_u32 << self.rcv_wscale) - 1);
            //= RFC 9293 §3.8.6.1 (MAY-8)
            //= RFC 9293 §3.8.6.2.2 (MUST-39)
            if free < allowed >> 4 || free < mss {
                return 0;
            }
        }
        free = free.min(self.rcv_ssthresh);
        if self.rcv_wscale > 0 {
            let step = (1_u32 << self.rcv_wscale) - 1;
            free.saturating_add(step) & !step
        } else {
            let window = self.rcv_wnd;
            if window <= free.saturating_sub(mss) || window > free {
                free - free % mss
            } else if mss == full && free > window.saturating_add(full >> 1) {
                free
            } else {
                window
            }
        }
    }

    /// TCP_WINDOW_CLAMP, or what the receive buffer turns out to hold (`tcp_set_window_clamp`).
    pub(super) fn set_window_clamp(&mut self, clamp: u32) {
        let (old, new) = (self.window_clamp, clamp.max(LEAST_CLAMP));
        self.window_clamp = new;
        if new < old {
            self.rcv_ssthresh = self.rcv_ssthresh.min(new);
        } else if new > old {
            self.rcv_ssthresh = self.rcv_ssthresh.max(self.rcv_wnd.min(new));
        }
    }

    /// Segments of a new size have come: `length` bytes that count as `truesize` tell how much of the receive buffer is
    /// data (`tcp_measure_rcv_mss`).
    pub(super) fn measure_overhead(&mut self, length: u32, truesize: u32) {
        let ratio = (u64::from(length) << RATIO_SHIFT) / u64::from(truesize.max(1));
        let ratio = u8::try_from(ratio).unwrap_or(u8::MAX).max(1);
        if ratio != self.scaling_ratio {
            self.scaling_ratio = ratio;
            self.set_window_clamp(self.full_space());
            self.space = self.space.min(self.window_clamp);
        }
    }

    /// Data has shown that the peer uses the window: let it grow (`tcp_grow_window`).
    pub(super) fn grow_window(&mut self, settings: &Settings, length: u32, truesize: u32) {
        if length < LEAST_GROWING {
            return;
        }
        let room = self.window_clamp.min(self.free_space()).saturating_sub(self.rcv_ssthresh);
        if room == 0 {
            return;
        }
        if self.supply.pressed {
            self.shrink_under_pressure();
            return;
        }
        let step = if self.window_from_space(truesize) <= length {
            2 * u32::from(self.advertised_mss)
        } else {
            self.cautious_growth(settings, length, truesize)
        };
        if step > 0 {
            self.rcv_ssthresh = self.rcv_ssthresh.saturating_add(room.min(step.max(length.saturating_mul(2))));
            self.ack.expect_more();
        }
    }

    /// Segments that waste memory let the window grow only while it is small (`__tcp_grow_window`).
    fn cautious_growth(&self, settings: &Settings, length: u32, truesize: u32) -> u32 {
        let [_, _, most] = settings.tcp_rmem;
        let mut truesize = self.window_from_space(truesize) >> 1;
        let mut window = self.window_from_space(most) >> 1;
        while window > 0 && self.rcv_ssthresh <= window {
            if truesize <= length {
                return 2 * u32::from(self.ack.rcv_mss);
            }
            truesize >>= 1;
            window >>= 1;
        }
        0
    }

    /// The receive buffer has overflowed: it may become larger, or else less is offered (`tcp_clamp_window`).
    pub(super) fn clamp_after_overflow(&mut self, settings: &Settings) {
        self.ack.end_quick();
        let [_, _, most] = settings.tcp_rmem;
        let used = u32::try_from(self.charges.total()).unwrap_or(u32::MAX);
        if self.options.receive_buffer < most && !self.options.receive_buffer_locked && self.is_memory_ample() {
            self.options.receive_buffer = self.options.receive_buffer.max(used.min(most));
        }
        if used > self.options.receive_buffer {
            self.rcv_ssthresh = self.window_clamp.min(2 * u32::from(self.advertised_mss));
        }
    }

    /// Whether there is memory for what has come, now or when what can be spared is thrown away (`tcp_prune_queue`).
    //= REF T-06
    pub(super) fn has_receive_room(&mut self, settings: &Settings, counters: &mut Counters) -> bool {
        let is_full = |sock: &Self| sock.charges.total() > u64::from(sock.options.receive_buffer);
        if !is_full(self) && self.may_receive_more(settings) {
            return true;
        }
        counters.prune_called += 1;
        if is_full(self) {
            self.clamp_after_overflow(settings);
        } else if self.supply.pressed {
            self.shrink_under_pressure();
        }
        if is_full(self) {
            counters.tcp_rcv_collapsed += self.charges.collapse();
        }
        // Where it is all connections together that have too much, what lies ahead of a hole goes first.
        if !is_full(self) {
            if self.may_receive_more(settings) {
                return true;
            }
            if self.queue.has_hole() {
                counters.ofo_pruned += 1;
                self.queue.drop_ahead();
                self.charges.drop_ahead();
                return self.may_receive_more(settings);
            }
            return false;
        }
        if is_full(self) && self.queue.has_hole() {
            // SACK is only a promise to try (RFC 2018 §8).
            counters.ofo_pruned += 1;
            self.queue.drop_ahead();
            self.charges.drop_ahead();
        }
        let room = !is_full(self);
        counters.rcv_pruned += u64::from(!room);
        room
    }

    /// Starts the measurement (`tcp_init_buffer_space`).
    pub(super) fn begin_space(&mut self, now: Instant) {
        let mss = u32::from(self.advertised_mss);
        let most = self.full_space();
        self.window_clamp = self.window_clamp.min(most);
        // Room for one segment is kept back (net.ipv4.tcp_app_win).
        if self.window_clamp > 2 * mss && self.window_clamp + mss > most {
            self.window_clamp = most.saturating_sub(mss).max(2 * mss);
        }
        self.rcv_ssthresh = self.rcv_ssthresh.min(self.window_clamp);
        self.space = self.rcv_ssthresh.min(self.rcv_wnd).min(10 * mss);
        self.space_seq = self.copied_seq;
        self.space_since = now;
        self.rcv_rtt_since = now;
        self.rcv_rtt_seq = self.rcv_nxt;
    }

    /// Measures the round trip as the receiver sees it: by the time that a window takes (`tcp_rcv_rtt_measure`) and by
    /// the echo of our timestamps (`tcp_rcv_rtt_measure_ts`).
    pub(super) fn measure_receive_rtt(&mut self, now: Instant, echo: Option<u32>, length: u32) {
        if self.rcv_nxt.offset_from(self.rcv_rtt_seq) >= 0 {
            let sample = now.since(self.rcv_rtt_since).max(LEAST_SAMPLE);
            // A window is not always used: only less than what is known says something.
            self.rcv_rtt = Some(self.rcv_rtt.map_or(sample, |old| old.min(sample)));
            self.rcv_rtt_since = now;
            self.rcv_rtt_seq = self.rcv_nxt + self.rcv_wnd;
        }
        let Some(echo) = echo.filter(|echo| *echo != 0 && *echo != self.rcv_rtt_echo) else { return };
        self.rcv_rtt_echo = echo;
        let millis = self.timestamp(now).wrapping_sub(echo);
        if length < u32::from(self.ack.rcv_mss) || millis > 10_000 {
            return;
        }
        let sample = Duration::from_millis(u64::from(millis.max(1)));
        self.rcv_rtt = Some(self.rcv_rtt.map_or(sample, |old| (old * 7 + sample) / 8));
    }

    /// The program has read: when it keeps up with more than the window per round trip, enlarge the buffer
    /// (`tcp_rcv_space_adjust`).
    //= REF T-06
    pub(super) fn tune_receive_buffer(&mut self, now: Instant, settings: &Settings) {
        let Some(rtt) = self.rcv_rtt else { return };
        if now.since(self.space_since) < rtt {
            return;
        }
        // What is still unread was not copied in this round.
        let unread = self.rcv_nxt.distance_from(self.copied_seq);
        let copied = self.copied_seq.distance_from(self.space_seq).saturating_sub(unread);
        if copied > self.space {
            self.grow_receive_buffer(settings, copied);
        }
        self.space_seq = self.copied_seq;
        self.space_since = now;
    }

    /// So that a sender who doubles its rate fits, and what lies ahead of a hole as well (`tcp_rcvbuf_grow`).
    pub(super) fn grow_receive_buffer(&mut self, settings: &Settings, space: u32) {
        let old = u64::from(self.space.max(1));
        self.space = space;
        if !settings.tcp_moderate_rcvbuf || self.options.receive_buffer_locked {
            return;
        }
        let mut window = u64::from(space) * 2;
        window += window.saturating_mul(2).saturating_mul(u64::from(space).saturating_sub(old)) / old;
        if let Some(highest) = self.queue.highest() {
            window += u64::from(highest.distance_from(self.rcv_nxt));
        }
        let [_, _, most] = settings.tcp_rmem;
        let wanted = (window << RATIO_SHIFT) / u64::from(self.scaling_ratio.max(1));
        let buffer = u32::try_from(wanted).unwrap_or(u32::MAX).min(most);
        if buffer > self.options.receive_buffer {
            self.options.receive_buffer = buffer;
            self.window_clamp = self.window_from_space(buffer);
        }
    }

    /// `tcp_win_from_space`: the part of so much of the receive buffer that is data.
    pub(super) fn window_from_space(&self, space: u32) -> u32 {
        window_from_space(space, self.scaling_ratio)
    }

    /// Bytes that the receive buffer could advertise if it were empty (`tcp_full_space`).
    pub(super) fn full_space(&self) -> u32 {
        self.window_from_space(self.options.receive_buffer)
    }

    /// Bytes that the receive buffer can take now (`tcp_space`).
    pub(super) fn free_space(&self) -> u32 {
        let used = u32::try_from(self.charges.total()).unwrap_or(u32::MAX);
        self.window_from_space(self.options.receive_buffer.saturating_sub(used))
    }

    /// Takes over the first window of a connection.
    pub(super) const fn begin_window(&mut self, initial: Initial, rcv_nxt: Seq) {
        self.rcv_wnd = initial.window;
        self.rcv_ssthresh = initial.window;
        self.window_clamp = initial.clamp;
        self.rcv_wscale = initial.shift;
        self.rcv_nxt = rcv_nxt;
        self.rcv_wup = rcv_nxt;
        self.copied_seq = rcv_nxt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_buffers_give_linux_syn_window_and_scale() {
        let settings = Settings::default();
        let first = initial(&settings, 131_072, false, 0, 1_460, true);
        assert_eq!((first.window, first.shift), (64_240, 7));
        let small = initial(&settings, 4_096, true, 0, 1_460, true);
        assert_eq!((small.window, small.shift), (1_460, 0));
    }

    //= test RFC 7323 §2.3 (MUST-8)
    #[test]
    fn no_scale_is_larger_than_14() {
        let settings = Settings { tcp_rmem: [4_096, 131_072, u32::MAX], rmem_max: u32::MAX, ..Settings::default() };
        assert_eq!(initial(&settings, 131_072, false, 0, 1_460, true).shift, LARGEST_SHIFT);
    }
}
