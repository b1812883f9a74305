//! Two stacks on a virtual segment carry data through the public socket calls, in virtual time, on clean and on bad
//! links. The seed of a failed run is in the message.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::error::{ConnectError, ReceiveError, SendError};
use remora_stack::socket::protocol::{
    AddressFamily, Readiness, ReceiveFlags, SendArguments, Shutdown, SocketId, SocketType,
};
use remora_stack::testkit::{Conditions, Network, address, interface};

const SERVER_PORT: u16 = 80;
const MEGABYTE: usize = 1 << 20;

/// The byte at `place` of the stream: not periodic in a power of two, so that a shifted copy is noticed.
fn pattern(place: usize) -> u8 {
    (place.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn last_octet(host: usize) -> u8 {
    u8::try_from(host + 1).unwrap()
}

/// Two hosts on a segment with these conditions; with `offload`, super-frames cross it whole.
fn two_hosts(seed: u64, conditions: Conditions, offload: bool) -> Network {
    let mut network = Network::new(seed);
    network.conditions = conditions;
    for host in 0..2 {
        let mut config = interface(last_octet(host));
        if offload {
            config.capabilities.gso_max = 65_536;
            config.capabilities.checksum_tx = true;
        }
        network.add_with(&config, Settings::default());
    }
    network
}

fn listener(network: &mut Network, host: usize) -> SocketId {
    let now = network.now;
    let stack = network.stack(host);
    let socket = stack.socket(now, AddressFamily::Inet, SocketType::Stream, 6).unwrap();
    stack.bind(now, socket, SocketAddr::new(address(last_octet(host)), SERVER_PORT)).unwrap();
    stack.listen(now, socket, 16).unwrap();
    socket
}

/// A connection from host 0 to host 1: the client's socket and the accepted one.
fn connected(network: &mut Network) -> (SocketId, SocketId) {
    let listening = listener(network, 1);
    let now = network.now;
    let client = network.stack(0).socket(now, AddressFamily::Inet, SocketType::Stream, 6).unwrap();
    let begun = network.stack(0).connect(now, client, SocketAddr::new(address(last_octet(1)), SERVER_PORT));
    assert_eq!(begun, Err(ConnectError::InProgress));
    let seed = network.seed();
    let mut accepted = None;
    let done = network.run_until(Duration::from_secs(120), |network| {
        let now = network.now;
        if accepted.is_none() {
            accepted = network.stack(1).accept(now, listening).ok().map(|(socket, _)| socket);
        }
        accepted.is_some() && network.stack(0).finish_connect(now, client) == Some(Ok(()))
    });
    assert!(done, "no connection, seed {seed}");
    (client, accepted.unwrap())
}

/// Moves `total` bytes from one socket to another and the end of the stream after them; returns the virtual time taken.
fn carry(
    network: &mut Network,
    from: (usize, SocketId),
    to: (usize, SocketId),
    total: usize,
    limit: Duration,
) -> Duration {
    let seed = network.seed();
    let began = network.now;
    let (mut written, mut read, mut shut, mut ended) = (0, 0, false, false);
    let done = network.run_until(limit, |network| {
        let now = network.now;
        while written < total {
            let piece: Vec<u8> = (written..total.min(written + 50_000)).map(pattern).collect();
            match network.stack(from.0).send(now, from.1, &mut piece.as_slice(), &SendArguments::default()) {
                Ok(count) => written += count,
                Err(SendError::WouldBlock) => break,
                Err(error) => panic!("send: {error:?}, seed {seed}"),
            }
        }
        if written == total && !shut {
            network.stack(from.0).shutdown(now, from.1, Shutdown::Write).unwrap();
            shut = true;
        }
        loop {
            let mut sink = Collect::new(65_536);
            match network.stack(to.0).receive(now, to.1, &mut sink, ReceiveFlags::empty()) {
                Ok(received) if received.length == 0 => {
                    ended = true;
                    break;
                }
                Ok(_) => {
                    for byte in &sink.bytes {
                        assert_eq!(*byte, pattern(read), "byte {read} is wrong, seed {seed}");
                        read += 1;
                    }
                }
                Err(ReceiveError::WouldBlock) => break,
                Err(error) => panic!("receive after {read} bytes: {error:?}, seed {seed}"),
            }
        }
        ended
    });
    if !done {
        std::fs::write(std::env::temp_dir().join("remora-transfer.pcap"), network.pcap()).unwrap();
    }
    assert!(done, "only {read} of {total} bytes (written {written}), seed {seed}");
    assert_eq!(read, total, "seed {seed}");
    network.now.since(began)
}

fn carries(seed: u64, link: Conditions, total: usize, limit: Duration) -> Duration {
    carries_over(two_hosts(seed, link, false), total, limit)
}

fn carries_over(mut network: Network, total: usize, limit: Duration) -> Duration {
    let (client, server) = connected(&mut network);
    carry(&mut network, (0, client), (1, server), total, limit)
}

//= test RFC 9293 §3.1 (MUST-2)
#[test]
fn ten_megabytes_cross_a_clean_link() {
    carries(1, Conditions::default(), 10 * MEGABYTE, Duration::from_secs(60));
}

#[test]
fn ten_megabytes_cross_a_link_with_offload() {
    carries_over(two_hosts(2, Conditions::default(), true), 10 * MEGABYTE, Duration::from_secs(60));
}

#[test]
fn ten_megabytes_cross_a_link_that_loses_one_percent_and_reorders() {
    let link = Conditions {
        loss: 10_000,
        reorder: 20_000,
        duplicate: 10_000,
        latency: Duration::from_millis(1),
        ..Conditions::default()
    };
    for seed in [3, 4, 5] {
        carries(seed, link, 10 * MEGABYTE, Duration::from_secs(600));
    }
}

#[test]
fn ten_megabytes_cross_a_link_that_loses_five_percent_and_reorders() {
    let link = Conditions {
        loss: 50_000,
        reorder: 50_000,
        duplicate: 20_000,
        latency: Duration::from_millis(1),
        ..Conditions::default()
    };
    for seed in [6, 7, 8] {
        carries(seed, link, 10 * MEGABYTE, Duration::from_secs(3_600));
    }
}

//= test RFC 9293 §3.1 (MUST-3)
#[test]
fn data_crosses_a_link_that_corrupts() {
    let link = Conditions { corrupt: 30_000, ..Conditions::default() };
    carries(9, link, MEGABYTE, Duration::from_secs(600));
}

#[test]
fn data_crosses_both_ways_and_each_half_closes_by_itself() {
    let mut network = two_hosts(10, Conditions { loss: 20_000, ..Conditions::default() }, false);
    let (client, server) = connected(&mut network);
    carry(&mut network, (0, client), (1, server), MEGABYTE, Duration::from_secs(600));
    // The other half is still open.
    carry(&mut network, (1, server), (0, client), MEGABYTE, Duration::from_secs(600));
    let now = network.now;
    assert!(network.stack(0).readiness(client).contains(Readiness::HUP | Readiness::IN));
    network.stack(0).close(now, client);
    network.stack(1).close(now, server);
    network.run_for(Duration::from_secs(300));
    assert_eq!(network.stack(0).counters().tcp_curr_estab, 0);
    assert_eq!(network.stack(1).counters().tcp_curr_estab, 0);
}

#[test]
fn rate_limited_link_is_filled() {
    // 100 Mbit/s, 10 ms each way: 10 MB take 0.84 s at the least.
    let link = Conditions { rate: 12_500_000, latency: Duration::from_millis(10), ..Conditions::default() };
    let taken = carries(11, link, 10 * MEGABYTE, Duration::from_secs(60));
    assert!(taken < Duration::from_millis(1_700), "{taken:?}");
}

/// Blocks of the long transfer; each begins with its place in the stream.
const BLOCK: usize = 1_000;

#[test]
fn stream_stays_whole_beyond_two_gigabytes() {
    // Sequence numbers pass 2^31 from their start: whatever is still compared with the start turns over.
    const TOTAL: usize = (1 << 31) + 50 * MEGABYTE / BLOCK * BLOCK;
    let mut network = two_hosts(12, Conditions::default(), true);
    let (client, server) = connected(&mut network);
    let mut piece = vec![0; 60 * BLOCK];
    let (mut written, mut read, mut rest) = (0_usize, 0_usize, Vec::new());
    let total = TOTAL / BLOCK * BLOCK;
    let done = network.run_until(Duration::from_secs(3_600), |network| {
        let now = network.now;
        while written < total {
            // A write may be cut anywhere: the piece begins at the block that `written` lies in.
            let start = written / BLOCK * BLOCK;
            for (number, block) in piece.chunks_exact_mut(BLOCK).enumerate() {
                block[..8].copy_from_slice(&(start + number * BLOCK).to_le_bytes());
            }
            let mut source = &piece[written - start..piece.len().min(total - start)];
            match network.stack(0).send(now, client, &mut source, &SendArguments::default()) {
                Ok(count) => written += count,
                Err(error) => {
                    assert_eq!(error, SendError::WouldBlock);
                    break;
                }
            }
        }
        loop {
            let mut sink = Collect::new(1 << 18);
            match network.stack(1).receive(now, server, &mut sink, ReceiveFlags::empty()) {
                Ok(_) => {
                    rest.extend_from_slice(&sink.bytes);
                    let whole = rest.len() / BLOCK * BLOCK;
                    for block in rest[..whole].chunks_exact(BLOCK) {
                        assert_eq!(block[..8], read.to_le_bytes(), "block at {read}");
                        read += BLOCK;
                    }
                    rest.drain(..whole);
                }
                Err(error) => {
                    assert_eq!(error, ReceiveError::WouldBlock);
                    break;
                }
            }
        }
        read == total
    });
    assert!(done, "{read} of {total} bytes, {written} written");
}
