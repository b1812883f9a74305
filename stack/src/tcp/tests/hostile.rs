//! What a peer may send without right: blind resets and SYNs, old timestamps, nonsense. Nothing panics, memory stays
//! bounded.

use proptest::prelude::*;

use super::super::header::{Options, SackBlock, SackBlocks, Timestamps};
use super::super::sequence::Seq;
use super::*;
use crate::socket::protocol::Shutdown;

fn towards_client(pair: &mut Pair) -> Header {
    let last = pair.sent(true, 0).last().expect("a segment").1.header();
    Header {
        source_port: last.destination_port,
        destination_port: last.source_port,
        seq: last.ack,
        ack: last.seq,
        flags: Flags::ACK,
        window: 500,
        urgent: 0,
        options: Options::default(),
    }
}

//= test RFC 5961 §3.2 (SHLD-2)
#[test]
fn reset_inside_the_window_is_challenged_and_exact_one_is_obeyed() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let mut reset = towards_client(&mut pair);
    reset.flags = Flags::RST;
    let exact = reset.seq;
    reset.seq = exact + 100;
    pair.forge(true, &reset, &[]);
    assert_eq!(pair.state(true, client), State::Established);
    assert_eq!(pair.left.counters.tcp_challenge_ack, 1);
    pair.forge(true, &reset, &[]);
    assert_eq!(pair.left.counters.tcp_ack_skipped_challenge, 1);
    reset.seq = exact + 1_000_000;
    pair.forge(true, &reset, &[]);
    assert_eq!(pair.state(true, client), State::Established);
    reset.seq = exact;
    pair.forge(true, &reset, &[]);
    assert_eq!(pair.state(true, client), State::Closed);
}

//= test RFC 5961 §4.2
#[test]
fn syn_on_an_open_connection_is_challenged() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let mut syn = towards_client(&mut pair);
    syn.flags = Flags::SYN;
    let from = pair.log.len();
    pair.forge(true, &syn, &[]);
    pair.flush();
    assert_eq!(pair.state(true, client), State::Established);
    assert!(pair.sent(true, from)[0].1.is(Flags::ACK));
    assert_eq!(pair.left.counters.tcp_syn_challenge, 1);
}

//= test RFC 7323 §5.3 (R1)
//= test RFC 7323 §5.3 (MUST-23)
#[test]
fn old_timestamp_is_dropped_and_answered() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.send(false, server, b"first").expect("room");
    pair.run(Duration::from_millis(100));
    let good = pair.sent(false, 0).last().expect("a segment").1.header();
    let mut old = towards_client(&mut pair);
    old.options.timestamps = good
        .options
        .timestamps
        .map(|timestamps| Timestamps { value: timestamps.value.wrapping_sub(10_000), echo: timestamps.echo });
    let from = pair.log.len();
    pair.forge(true, &old, b"stale");
    pair.flush();
    assert_eq!(pair.left.counters.paws_estab, 1);
    assert_eq!(pair.left.tcp.queued_input(client), 5);
    assert!(pair.sent(true, from)[0].1.is(Flags::ACK));
}

#[test]
fn malformed_headers_are_counted_and_dropped() {
    let mut pair = Pair::new();
    let now = pair.now;
    for bytes in [&[][..], &[0; 19], &[0; 20], &[0xff; 24]] {
        let packet = Packet {
            source: LEFT,
            destination: RIGHT,
            bytes: bytes.to_vec(),
            gso_size: 0,
            purpose: Purpose::Own,
            tos: 0,
        };
        pair.right.inject(now, &packet);
    }
    assert_eq!(pair.right.counters.tcp_bad_header, 4);
    assert_eq!(pair.right.counters.tcp_in_errs, 4);
    assert!(pair.right.transmit(now).is_none());
}

//= test RFC 9293 §3.9.2.3 (MUST-57)
#[test]
fn reset_never_answers_a_reset_nor_a_broadcast() {
    let mut pair = Pair::new();
    let header = Header { source_port: 1, destination_port: 2, flags: Flags::RST, ..Header::default() };
    pair.forge(false, &header, &[]);
    let now = pair.now;
    assert!(pair.right.transmit(now).is_none());
    let packet = Packet {
        source: LEFT,
        destination: IpAddr::V4(Ipv4Addr::BROADCAST),
        bytes: Header { flags: Flags::SYN, ..header }.emit().as_slice().to_vec(),
        gso_size: 0,
        purpose: Purpose::Own,
        tos: 0,
    };
    pair.right.inject(now, &packet);
    assert!(pair.right.transmit(now).is_none());
}

/// Brings a pair into one of the states; the sock on the left is the one under fire.
fn in_state(which: u8) -> (Pair, SockId) {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    match which % 10 {
        0 => {
            let client = pair.socket(true);
            let _ = pair.connect(true, client, 80);
            pair.flush();
            (pair, client)
        }
        1 => {
            let listener = pair.listen(true, 80, 3);
            let syn = Header {
                source_port: 1_000,
                destination_port: 80,
                flags: Flags::SYN,
                window: 100,
                ..Header::default()
            };
            pair.forge(true, &syn, &[]);
            pair.flush();
            (pair, listener)
        }
        which => {
            let (client, server) = pair.established();
            let now = pair.now;
            let _ = pair.send(true, client, &pattern(30_000));
            let shut = |pair: &mut Pair, left, sock| {
                pair.side(left).with(now, |tcp, net| tcp.shutdown(net, sock, Shutdown::Write));
            };
            match which {
                2 => pair.flush(),
                3 => shut(&mut pair, true, client),
                4 => {
                    shut(&mut pair, true, client);
                    pair.run(Duration::from_millis(100));
                }
                5 => {
                    shut(&mut pair, false, server);
                    pair.run(Duration::from_millis(100));
                }
                6 => {
                    shut(&mut pair, false, server);
                    pair.run(Duration::from_millis(100));
                    shut(&mut pair, true, client);
                    pair.flush();
                }
                7 => {
                    shut(&mut pair, false, server);
                    shut(&mut pair, true, client);
                    pair.run(Duration::from_millis(5));
                }
                8 => {
                    pair.close(true, client);
                    pair.close(false, server);
                    pair.run(Duration::from_millis(300));
                }
                _ => pair.run(Duration::from_millis(100)),
            }
            (pair, client)
        }
    }
}

#[derive(Clone, Debug)]
struct Shot {
    flags: u8,
    seq: i32,
    ack: i32,
    window: u16,
    urgent: u16,
    length: usize,
    options: u8,
    block: (i32, i32, i32, i32),
    stamp: (i32, u32),
    wait: u16,
    read: bool,
}

fn near() -> impl Strategy<Value = i32> {
    prop_oneof![5 => -20i32..20, 3 => -70_000i32..70_000, 1 => any::<i32>()]
}

fn shot() -> impl Strategy<Value = Shot> {
    (
        prop_oneof![3 => Just(0x10u8), 1 => any::<u8>()],
        near(),
        near(),
        any::<u16>(),
        any::<u16>(),
        prop_oneof![Just(0usize), 1usize..3_000],
        any::<u8>(),
        (near(), near(), near(), near()),
        (near(), any::<u32>()),
        (0u16..400, any::<bool>()),
    )
        .prop_map(|(flags, seq, ack, window, urgent, length, options, block, stamp, (wait, read))| Shot {
            flags,
            seq,
            ack,
            window,
            urgent,
            length,
            options,
            block,
            stamp,
            wait,
            read,
        })
}

fn fire(pair: &mut Pair, sock: SockId, base: &Header, shot: &Shot) {
    let last = pair.sent(true, 0).last().map_or(*base, |(_, packet)| packet.header());
    let move_by = |seq: Seq, by: i32| Seq(seq.0.wrapping_add(by.cast_unsigned()));
    let mut options = Options::default();
    if shot.options & 1 != 0 {
        options.mss = Some(shot.urgent);
    }
    if shot.options & 2 != 0 {
        options.window_scale = Some(shot.options >> 4);
    }
    if shot.options & 4 != 0 {
        options.timestamps = Some(Timestamps {
            value: base.options.timestamps.map_or(0, |stamps| stamps.echo).wrapping_add(shot.stamp.0.cast_unsigned()),
            echo: shot.stamp.1,
        });
    }
    if shot.options & 8 != 0 {
        let mut blocks = SackBlocks::default();
        let (a, b, c, d) = shot.block;
        blocks.push(SackBlock { start: move_by(last.seq, a), end: move_by(last.seq, b) });
        blocks.push(SackBlock { start: move_by(last.seq, c), end: move_by(last.seq, d) });
        options.sack = blocks;
    }
    let header = Header {
        source_port: last.destination_port,
        destination_port: last.source_port,
        seq: move_by(last.ack, shot.seq),
        ack: move_by(last.seq, shot.ack),
        flags: Flags::from_bits_truncate(shot.flags),
        window: shot.window,
        urgent: shot.urgent,
        options,
    };
    pair.forge(true, &header, &pattern(shot.length));
    if shot.read {
        let _ = pair.receive(true, sock, 1_000);
        let _ = pair.send(true, sock, b"more");
    }
    pair.flush();
    pair.run(Duration::from_millis(u64::from(shot.wait)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_segment_panics_in_any_state_and_memory_stays_bounded(
        which in 0u8..10,
        shots in proptest::collection::vec(shot(), 1..60),
    ) {
        let (mut pair, sock) = in_state(which);
        pair.filter = Some(|_, _| false);
        let base = pair.log.last().map(|(_, packet)| packet.header()).unwrap_or_default();
        for shot in &shots {
            fire(&mut pair, sock, &base, shot);
        }
        prop_assert!(pair.left.tcp.memory() < 2_000_000);
        pair.close(true, sock);
        pair.run(Duration::from_secs(3_000));
        prop_assert!(pair.left.tcp.is_idle(), "{:?}", pair.left.tcp);
    }

    #[test]
    fn no_bytes_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Header::parse(&bytes);
    }
}

//= test RFC 5961 §7 (SHLD-4, SHLD-5)
#[test]
fn challenges_of_all_connections_together_are_limited_and_not_to_be_counted_out() {
    let settings = Settings { tcp_challenge_ack_limit: 20, tcp_invalid_ratelimit: 0, ..Settings::default() };
    let mut pair = Pair::with_settings(settings, 0);
    let (client, _server) = pair.established();
    let mut answered = Vec::new();
    for _ in 0..8 {
        let before = pair.left.counters.tcp_challenge_ack;
        for _ in 0..100 {
            let header = reset_within(&pair, client);
            pair.forge(true, &header, &[]);
            pair.flush();
        }
        answered.push(pair.left.counters.tcp_challenge_ack - before);
        pair.run(Duration::from_secs(1));
    }
    assert!(answered.iter().all(|count| (10..30).contains(count)), "{answered:?}");
    assert!(answered.iter().any(|count| *count != answered[0]), "{answered:?}");
    assert_eq!(pair.left.counters.tcp_ack_skipped_challenge, 0);
}

//= test RFC 7323 §5.2 (MUST-21)
//= test RFC 7323 §5.3 (MUST-24)
#[test]
fn an_old_timestamp_stops_data_and_not_a_reset() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.send(false, server, b"hello").expect("room");
    pair.run(Duration::from_millis(50));
    let (rcv_nxt, old) = {
        let sock = pair.left.tcp.sock(client.index).expect("a sock");
        (sock.rcv_nxt, sock.ts_recent.wrapping_sub(10_000))
    };
    let mut header = reset_within(&pair, client);
    header.seq = rcv_nxt;
    header.options.timestamps = Some(super::super::header::Timestamps { value: old, echo: 0 });
    header.flags = Flags::ACK;
    pair.forge(true, &header, b"old");
    assert_eq!(pair.left.counters.paws_estab, 1);
    header.flags = Flags::SYN;
    pair.forge(true, &header, &[]);
    assert_eq!((pair.left.counters.paws_estab, pair.left.counters.tcp_syn_challenge), (1, 1));
    header.flags = Flags::RST;
    pair.forge(true, &header, &[]);
    assert_eq!(pair.state(true, client), State::Closed);
}

/// A RST inside the window, but not where the next byte is due.
fn reset_within(pair: &Pair, client: SockId) -> Header {
    let sock = pair.left.tcp.sock(client.index).expect("a sock");
    Header {
        source_port: sock.tuple.remote_port,
        destination_port: sock.tuple.local_port,
        seq: sock.rcv_nxt + 10,
        ack: sock.snd_nxt,
        flags: Flags::RST,
        window: 1_000,
        ..Header::default()
    }
}
