//! What holds a connection back, and for how long (Linux's `tcp_chrono`): it has data at all, the peer's window is shut, or
//! the send buffer is too small. TCP_INFO shows the sums.

use core::time::Duration;

use crate::time::Instant;

/// What is measured; a later one takes precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chrono {
    /// There is data that is not acknowledged.
    Busy,
    /// The peer's window holds data back.
    Window,
    /// The send buffer is what keeps the program from writing.
    Buffer,
}

/// The sums, and what is running.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chronos {
    running: Option<(Chrono, Instant)>,
    sums: [Duration; 3],
}

const fn place(kind: Chrono) -> usize {
    match kind {
        Chrono::Busy => 0,
        Chrono::Window => 1,
        Chrono::Buffer => 2,
    }
}

impl Chronos {
    fn set(&mut self, now: Instant, next: Option<Chrono>) {
        if let Some((kind, since)) = self.running
            && let Some(sum) = self.sums.get_mut(place(kind))
        {
            *sum += now.since(since);
        }
        self.running = next.map(|kind| (kind, now));
    }

    /// It begins (`tcp_chrono_start`).
    pub fn start(&mut self, now: Instant, kind: Chrono) {
        if self.running.is_none_or(|(old, _)| kind > old) {
            self.set(now, Some(kind));
        }
    }

    /// It is over; without data nothing is (`tcp_chrono_stop`).
    pub fn stop(&mut self, now: Instant, kind: Chrono, has_data: bool) {
        if !has_data {
            if self.running.is_some() {
                self.set(now, None);
            }
        } else if self.running.is_some_and(|(old, _)| old == kind) {
            self.set(now, Some(Chrono::Busy));
        }
    }

    /// Microseconds of `tcpi_busy_time`, `tcpi_rwnd_limited` and `tcpi_sndbuf_limited` (`tcp_get_info_chrono_stats`).
    pub fn shown(&self, now: Instant) -> [u64; 3] {
        let mut now_is = *self;
        now_is.set(now, None);
        let micros = |kind| now_is.sums.get(place(kind)).map_or(0, |sum| u64::try_from(sum.as_micros()).unwrap_or(0));
        let (busy, window, buffer) = (micros(Chrono::Busy), micros(Chrono::Window), micros(Chrono::Buffer));
        [busy + window + buffer, window, buffer]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tcp_chrono_start`, `tcp_chrono_stop`: the worse reason goes on, and the time busy is that of all reasons together.
    #[test]
    fn each_moment_counts_for_one_reason_and_all_of_them_as_busy() {
        let at = Instant::from_millis;
        let mut chronos = Chronos::default();
        assert_eq!(chronos.shown(at(5)), [0, 0, 0]);
        chronos.start(at(10), Chrono::Busy);
        assert_eq!(chronos.shown(at(13)), [3_000, 0, 0], "what runs still counts");
        chronos.start(at(20), Chrono::Window);
        // Less than what runs begins nothing.
        chronos.start(at(25), Chrono::Busy);
        chronos.start(at(40), Chrono::Buffer);
        chronos.start(at(45), Chrono::Window);
        // Only what runs can be over.
        chronos.stop(at(50), Chrono::Window, true);
        assert_eq!(chronos.shown(at(60)), [50_000, 20_000, 20_000]);
        chronos.stop(at(60), Chrono::Buffer, true);
        assert_eq!(chronos.shown(at(65)), [55_000, 20_000, 20_000]);
        chronos.stop(at(70), Chrono::Window, false);
        assert_eq!(chronos.shown(at(100)), [60_000, 20_000, 20_000], "without data nothing is busy");
        chronos.stop(at(110), Chrono::Busy, false);
        chronos.start(at(110), Chrono::Window);
        assert_eq!(chronos.shown(at(111)), [61_000, 21_000, 20_000]);
    }
}
