//! SYN cookies (RFC 4987 §3.6, Linux's syncookies.c): when a listener's half-open requests are too many, the initial
//! sequence number of the answer holds what must be remembered, and the timestamp holds the options. What is made of a
//! valid cookie is the business of `listen.rs`.

use core::time::Duration;

use super::Tuple;
use super::isn::{bytes_of, purpose};
use super::sequence::Seq;
use crate::random::Random;
use crate::settings::Settings;
use crate::time::Instant;

/// Segment sizes that a cookie can tell, in order (`msstab`).
const SIZES: [u16; 4] = [536, 1_300, 1_440, 1_460];
/// The count of minutes stands above these bits.
const COUNT_SHIFT: u32 = 24;
const LOW_BITS: u32 = (1 << COUNT_SHIFT) - 1;
/// Linux's TCP_SYNCOOKIE_PERIOD: seconds per step of the count.
const PERIOD: u64 = 60;
/// Linux's MAX_SYNCOOKIE_AGE, in steps.
const OLDEST: u32 = 2;
/// Linux's TCP_SYNCOOKIE_VALID: for how long after the last cookie an ACK is looked at as one.
pub const VALID: Duration = Duration::from_secs(PERIOD * OLDEST as u64);
/// Bits of a timestamp that hold options: four of window scale (all set: none), SACK, ECN.
const OPTION_BITS: u32 = 6;
const NO_SCALE: u32 = 0xf;
const SACK: u32 = 1 << 4;
const ECN: u32 = 1 << 5;

/// Options of a SYN that a timestamp can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The peer's window scale.
    pub shift: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// The peer wants ECN.
    pub ecn: bool,
}

fn count(now: Instant) -> u32 {
    u32::try_from((now.nanos() / 1_000_000_000 / PERIOD) & u64::from(u32::MAX)).unwrap_or(0)
}

/// Keyed hash of the connection and a count.
fn hash(random: &Random, domain: u64, tuple: &Tuple, count: u32) -> u32 {
    let mut bytes = [0; 40];
    for (place, byte) in bytes.iter_mut().zip(bytes_of(tuple).into_iter().chain(count.to_be_bytes())) {
        *place = byte;
    }
    u32::try_from(random.keyed(domain, &bytes) >> 32).unwrap_or(0)
}

/// The cookie for a SYN with sequence number `irs`, and the segment size that it stands for (`secure_tcp_syn_cookie`).
//= RFC 4987 §3.6
pub fn make(random: &Random, now: Instant, tuple: &Tuple, irs: Seq, mss: u16) -> (Seq, u16) {
    let place = SIZES.iter().rposition(|size| *size <= mss).unwrap_or(0);
    let size = SIZES.get(place).copied().unwrap_or(536);
    let count = count(now);
    let data = u32::try_from(place).unwrap_or(0);
    let low = hash(random, purpose::COOKIE_COUNTED, tuple, count).wrapping_add(data) & LOW_BITS;
    let cookie = hash(random, purpose::COOKIE, tuple, 0)
        .wrapping_add(irs.0)
        .wrapping_add(count << COUNT_SHIFT)
        .wrapping_add(low);
    (Seq(cookie), size)
}

/// The segment size that a cookie stands for, if it is one of ours and not too old (`check_tcp_syn_cookie`).
pub fn check(random: &Random, now: Instant, tuple: &Tuple, irs: Seq, cookie: Seq) -> Option<u16> {
    let count = count(now);
    let rest = cookie.0.wrapping_sub(hash(random, purpose::COOKIE, tuple, 0).wrapping_add(irs.0));
    let age = count.wrapping_sub(rest >> COUNT_SHIFT) & (u32::MAX >> COUNT_SHIFT);
    if age >= OLDEST {
        return None;
    }
    let data = rest.wrapping_sub(hash(random, purpose::COOKIE_COUNTED, tuple, count.wrapping_sub(age))) & LOW_BITS;
    SIZES.get(data as usize).copied()
}

/// A timestamp not after `clock` that holds options (`cookie_init_timestamp`).
pub const fn encode(clock: u32, remembered: Remembered) -> u32 {
    let mut bits = match remembered.shift {
        Some(shift) => shift as u32 & NO_SCALE,
        None => NO_SCALE,
    };
    if remembered.sack {
        bits |= SACK;
    }
    if remembered.ecn {
        bits |= ECN;
    }
    let stamp = (clock >> OPTION_BITS << OPTION_BITS) | bits;
    if stamp > clock { stamp.wrapping_sub(1 << OPTION_BITS) } else { stamp }
}

/// The options that an echoed timestamp holds; `None`: they are not possible here (`cookie_timestamp_decode`).
pub fn decode(settings: &Settings, echo: u32) -> Option<Remembered> {
    let sack = echo & SACK != 0;
    let scale = echo & NO_SCALE;
    let shift = u8::try_from(scale).ok().filter(|_| scale != NO_SCALE);
    let possible = settings.tcp_timestamps != 0
        && (!sack || settings.tcp_sack)
        && (shift.is_none() || settings.tcp_window_scaling);
    possible.then_some(Remembered { shift, sack, ecn: echo & ECN != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(remote_port: u16) -> Tuple {
        Tuple {
            local: core::net::IpAddr::from([10, 0, 0, 2]),
            local_port: 80,
            remote: core::net::IpAddr::from([10, 0, 0, 1]),
            remote_port,
        }
    }

    #[test]
    //= test REF L-02
    fn a_cookie_tells_the_segment_size_for_one_to_two_minutes_and_to_its_connection_only() {
        let random = Random::new([3; 32]);
        let now = Instant::from_millis(600_000);
        for (offered, told) in [(1_460, 1_460), (9_000, 1_460), (1_452, 1_440), (1_439, 1_300), (100, 536)] {
            let (cookie, size) = make(&random, now, &tuple(1_000), Seq(77), offered);
            assert_eq!(size, told);
            let later = now + Duration::from_secs(119);
            assert_eq!(check(&random, later, &tuple(1_000), Seq(77), cookie), Some(told));
            assert_eq!(check(&random, now + Duration::from_secs(120), &tuple(1_000), Seq(77), cookie), None);
            assert_ne!(check(&random, now, &tuple(1_001), Seq(77), cookie), Some(told));
            assert_ne!(check(&random, now, &tuple(1_000), Seq(78), cookie), Some(told));
        }
    }

    #[test]
    fn options_survive_in_a_timestamp_that_is_never_ahead_of_the_clock() {
        let settings = Settings::default();
        for clock in [100_u32, 0x1234_5678, 0x1234_567f, 0x1234_5640] {
            for remembered in [
                Remembered { shift: Some(7), sack: true, ecn: false },
                Remembered { shift: None, sack: false, ecn: true },
                Remembered { shift: Some(14), sack: true, ecn: true },
            ] {
                let stamp = encode(clock, remembered);
                assert!(stamp <= clock && clock - stamp < 64);
                assert_eq!(decode(&settings, stamp), Some(remembered));
            }
        }
        let without = Settings { tcp_sack: false, ..Settings::default() };
        assert_eq!(decode(&without, encode(500, Remembered { shift: None, sack: true, ecn: false })), None);
    }
}
