//! The receive window: how large it starts (`tcp_select_initial_window`), how it grows with data and with the reader's
//! pace, and silly-window avoidance (RFC 9293 §3.8.6.2.2, RFC 7323 §2; `__tcp_select_window`).

use core::time::Duration;

use super::sequence::Seq;
use super::sock::{Sock, window_from_space};
use crate::counters::Counters;
use crate::settings::Settings;
use crate::time::Instant;

/// RFC 7323 §2.3.
const LARGEST_SHIFT: u8 = 14;
/// Payloads below this size do not let the window grow (`tcp_event_data_recv`).
const LEAST_GROWING: u32 = 128;

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
    let mut space = window_from_space(settings, buffer);
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
    pub(super) fn update_window(&mut self, settings: &Settings, counters: &mut Counters) -> u16 {
        let old = self.rcv_wnd;
        let left = self.receive_window();
        let mut new = self.select_window(settings);
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
    //= REF T-03
    pub(super) fn select_window(&self, settings: &Settings) -> u32 {
        let mut free = self.free_space(settings);
        let full = self.full_space(settings).min(self.window_clamp);
        let mss = u32::from(self.ack.rcv_mss.max(1)).min(full.max(1));
        if full == 0 {
            return 0;
        }
        if free < full / 2 {
            free &= !((1_u32 << self.rcv_wscale) - 1);
            //= RFC 9293 §3.8.6.1 (MAY-8)
            //= RFC 9293 §3.8.6.2.2 (MUST-39)
            if free < full >> 4 || free < mss {
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

    /// Data has shown that the peer uses the window: let it grow (`tcp_grow_window`).
    pub(super) fn grow_window(&mut self, settings: &Settings, length: u32) {
        if length < LEAST_GROWING {
            return;
        }
        let room = self.window_clamp.min(self.free_space(settings)).saturating_sub(self.rcv_ssthresh);
        let step = (2 * u32::from(self.advertised_mss)).max(length.saturating_mul(2));
        self.rcv_ssthresh = self.rcv_ssthresh.saturating_add(room.min(step));
    }

    /// Starts the measurement (`tcp_init_buffer_space`).
    pub(super) fn begin_space(&mut self, now: Instant, settings: &Settings) {
        let (most, segment) = (self.full_space(settings), u32::from(self.advertised_mss));
        self.window_clamp = self.window_clamp.min(most);
        // Room for one segment is kept back (net.ipv4.tcp_app_win).
        if self.window_clamp > 2 * segment && self.window_clamp + segment > most {
            self.window_clamp = (2 * segment).max(most - segment);
        }
        self.rcv_ssthresh = self.rcv_ssthresh.min(self.window_clamp);
        self.space = self.rcv_ssthresh.min(self.rcv_wnd).min(10 * u32::from(self.advertised_mss));
        self.space_seq = self.copied_seq;
        self.space_since = now;
        self.rcv_rtt_since = now;
        self.rcv_rtt_seq = self.rcv_nxt;
    }

    /// Measures the round trip as the receiver sees it: by the echo of our timestamps, else by the time that a
    /// window takes (`tcp_rcv_rtt_measure`).
    pub(super) fn measure_receive_rtt(&mut self, now: Instant, echo: Option<u32>) {
        let sample = match echo {
            Some(echo) if echo != 0 => {
                if echo == self.rcv_rtt_echo {
                    return;
                }
                self.rcv_rtt_echo = echo;
                let millis = self.timestamp(now).wrapping_sub(echo);
                if millis > 10_000 {
                    return;
                }
                Duration::from_millis(u64::from(millis.max(1)))
            }
            _ => {
                if !self.rcv_nxt.after(self.rcv_rtt_seq) {
                    return;
                }
                let sample = now.since(self.rcv_rtt_since);
                self.rcv_rtt_since = now;
                self.rcv_rtt_seq = self.rcv_nxt + self.rcv_wnd;
                sample
            }
        };
        self.rcv_rtt = Some(match self.rcv_rtt {
            Some(old) => (old * 7 + sample) / 8,
            None => sample,
        });
    }

    /// The program has read: when it keeps up with more than the window per round trip, enlarge the buffer
    /// (`tcp_rcv_space_adjust`).
    //= REF T-06
    pub(super) fn tune_receive_buffer(&mut self, now: Instant, settings: &Settings) {
        let Some(rtt) = self.rcv_rtt else { return };
        if now.since(self.space_since) < rtt {
            return;
        }
        let copied = self.copied_seq.distance_from(self.space_seq);
        if copied > self.space {
            let [_, _, most] = settings.tcp_rmem;
            if settings.tcp_moderate_rcvbuf && !self.options.receive_buffer_locked {
                let mut wanted = u64::from(copied) * 2 + 16 * u64::from(self.advertised_mss);
                // The sender may double its window in the next round: leave room for that.
                let growth = wanted * u64::from(copied - self.space) / u64::from(self.space.max(1));
                wanted = wanted.saturating_add(growth.saturating_mul(2));
                let buffer = u32::try_from(wanted.saturating_mul(2)).unwrap_or(u32::MAX).min(most);
                if buffer > self.options.receive_buffer {
                    self.options.receive_buffer = buffer;
                    self.window_clamp = window_from_space(settings, buffer).min(u32::from(u16::MAX) << self.rcv_wscale);
                }
            }
            self.space = copied;
        }
        self.space_seq = self.copied_seq;
        self.space_since = now;
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
