//! Initial sequence numbers (RFC 6528) and timestamp offsets (RFC 7323 §7.1): keyed hashes of the connection, plus a
//! clock for the former, so that neither can be guessed nor shows the uptime of the host.

use core::net::IpAddr;

use super::Tuple;
use super::sequence::Seq;
use crate::random::Random;
use crate::settings::Settings;
use crate::time::Instant;

/// Domains of the keyed hashes of TCP.
pub mod purpose {
    /// Initial sequence numbers.
    pub const ISN: u64 = 0x7463_7000;
    /// Timestamp offsets.
    pub const TIMESTAMPS: u64 = 0x7463_7001;
    /// Where the search for a local port starts.
    pub const PORT_OFFSET: u64 = 0x7463_7002;
    /// Which of the moving hints the search uses.
    pub const PORT_HINT: u64 = 0x7463_7003;
    /// Hash tables.
    pub const TABLES: u64 = 0x7463_7004;
    /// Spread over SO_REUSEPORT groups.
    pub const SPREAD: u64 = 0x7463_7005;
    /// The key of Fast Open cookies.
    pub const FAST_OPEN: u64 = 0x7463_7008;
    /// SYN cookies: the part that does not change.
    pub const COOKIE: u64 = 0x7463_7006;
    /// SYN cookies: the part that changes every minute.
    pub const COOKIE_COUNTED: u64 = 0x7463_7007;
}

/// Bytes that name a connection, for a keyed hash.
pub fn bytes_of(tuple: &Tuple) -> [u8; 36] {
    let mut bytes = [0; 36];
    write_address(&mut bytes, 0, tuple.local);
    write_address(&mut bytes, 16, tuple.remote);
    let [a, b] = tuple.local_port.to_be_bytes();
    let [c, d] = tuple.remote_port.to_be_bytes();
    for (place, byte) in bytes.iter_mut().skip(32).zip([a, b, c, d]) {
        *place = byte;
    }
    bytes
}

fn write_address(bytes: &mut [u8; 36], at: usize, address: IpAddr) {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    for (place, byte) in bytes.iter_mut().skip(at).zip(octets) {
        *place = byte;
    }
}

/// The initial sequence number: F(tuple, secret) + M, where M ticks every 64 ns as Linux's `seq_scale`.
//= REF C-12
//= RFC 9293 §3.4.1 (MUST-8)
pub fn initial(random: &Random, now: Instant, tuple: &Tuple) -> Seq {
    //= RFC 9293 §3.4.1 (SHLD-1, MUST-9)
    //= RFC 6528 §3 (SHLD-1, MUST-1)
    let hash = low(random.keyed(purpose::ISN, &bytes_of(tuple)));
    Seq(hash.wrapping_add(low(now.nanos() >> 6)))
}

/// What is added to the millisecond clock in timestamps to and from this pair of addresses.
//= RFC 7323 §7 (SHLD-17)
pub fn timestamp_offset(random: &Random, settings: &Settings, tuple: &Tuple) -> u32 {
    if settings.tcp_timestamps != 1 {
        return 0;
    }
    let pair = Tuple { local_port: 0, remote_port: 0, ..*tuple };
    low(random.keyed(purpose::TIMESTAMPS, &bytes_of(&pair)))
}

/// The clock of timestamps: one tick a millisecond (RFC 7323 §5.4).
//= RFC 7323 §4.1 (MUST-18)
//= RFC 7323 §5.4 (MUST-26, SHLD-16, MUST-27)
pub fn timestamp_clock(now: Instant) -> u32 {
    low(now.millis())
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use core::time::Duration;

    use super::*;

    fn tuple(port: u16) -> Tuple {
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        Tuple { local: address(1), local_port: port, remote: address(2), remote_port: 80 }
    }

    //= test RFC 9293 §3.4.1 (MUST-8, SHLD-1)
    //= test RFC 6528 §3 (SHLD-1)
    #[test]
    fn numbers_of_one_connection_go_up_with_the_clock() {
        let random = Random::new([1; 32]);
        let now = Instant::from_millis(5_000);
        let first = initial(&random, now, &tuple(1_000));
        let later = initial(&random, now + Duration::from_micros(64), &tuple(1_000));
        assert_eq!(later.offset_from(first), 1_000);
        // Less than half of the space in a maximum segment lifetime of 2 minutes.
        let much_later = initial(&random, now + Duration::from_secs(120), &tuple(1_000));
        assert_eq!(much_later.offset_from(first), 1_875_000_000);
    }

    //= test RFC 9293 §3.4.1 (SHLD-1, MUST-9)
    //= test REF C-12
    //= test RFC 6528 §3 (SHLD-1, MUST-1)
    #[test]
    fn neither_another_connection_nor_another_secret_tells_the_number() {
        let now = Instant::from_millis(5_000);
        let random = Random::new([1; 32]);
        let mut seen: alloc::vec::Vec<u32> = (1_000..1_100).map(|port| initial(&random, now, &tuple(port)).0).collect();
        let steps: alloc::vec::Vec<u32> = seen.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        assert!(steps.windows(2).all(|pair| pair[0] != pair[1]), "no pattern from port to port");
        seen.extend((0..100).map(|secret| initial(&Random::new([secret + 2; 32]), now, &tuple(1_000)).0));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 200);
    }

    //= test REF C-12
    //= test RFC 7323 §4.1 (MUST-18)
    //= test RFC 7323 §5.4 (MUST-26, SHLD-16, MUST-27)
    //= test RFC 7323 §7 (SHLD-17)
    #[test]
    fn timestamps_begin_elsewhere_for_each_pair_of_hosts_and_secret() {
        let settings = Settings::default();
        let offset = |secret, tuple: &Tuple| timestamp_offset(&Random::new([secret; 32]), &settings, tuple);
        let other = Tuple { remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)), ..tuple(1) };
        assert_eq!(offset(1, &tuple(1)), offset(1, &tuple(2)));
        assert_ne!(offset(1, &tuple(1)), offset(1, &other));
        assert_ne!(offset(1, &tuple(1)), offset(2, &tuple(1)));
        // 1 ms, whatever the connection.
        let (now, later) = (Instant::from_millis(7_000), Instant::from_millis(7_250));
        assert_eq!(timestamp_clock(later) - timestamp_clock(now), 250);
    }
}
