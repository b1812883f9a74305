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
    let hash = low(random.keyed(purpose::ISN, &bytes_of(tuple)));
    Seq(hash.wrapping_add(low(now.nanos() >> 6)))
}

/// What is added to the millisecond clock in timestamps to and from this pair of addresses.
pub fn timestamp_offset(random: &Random, settings: &Settings, tuple: &Tuple) -> u32 {
    if settings.tcp_timestamps != 1 {
        return 0;
    }
    let pair = Tuple { local_port: 0, remote_port: 0, ..*tuple };
    low(random.keyed(purpose::TIMESTAMPS, &bytes_of(&pair)))
}

/// The clock of timestamps: one tick a millisecond (RFC 7323 §5.4).
pub fn timestamp_clock(now: Instant) -> u32 {
    low(now.millis())
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
