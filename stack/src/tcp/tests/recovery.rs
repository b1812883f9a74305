//! Loss and what follows from it: timer, fast retransmit, SACK.

use super::*;
use crate::stack::TransmitError;

fn is_data(packet: &Packet) -> bool {
    !packet.payload().is_empty()
}

//= test REF T-02
#[test]
fn lost_last_segment_is_repeated_by_timer_with_back_off() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.filter = Some(|packet, _| !is_data(packet));
    let from = pair.log.len();
    let start = pair.now;
    pair.send(true, client, b"lost").expect("room");
    pair.run(Duration::from_secs(4));
    let times: Vec<u64> =
        pair.sent(true, from).iter().map(|(at, _)| u64::try_from(at.since(start).as_millis()).unwrap()).collect();
    // Sent, tail loss probe, and then the timer (as Linux shows on the wire).
    assert_eq!(times.len(), 6, "{times:?}");
    assert_eq!(times[0], 0);
    assert!((200..=260).contains(&times[1]), "{times:?}");
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[1].abs_diff(gaps[0]) <= 2, "{gaps:?}");
    for pair in gaps[1..].windows(2) {
        assert!(pair[1].abs_diff(pair[0] * 2) <= 2, "{gaps:?}");
    }
}

//= test RFC 9293 §3.8.3 (SHLD-11)
#[test]
fn fifteen_retries_end_the_connection_after_the_modelled_time() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.filter = Some(|_, _| false);
    let start = pair.now;
    pair.send(true, client, b"lost").expect("room");
    while pair.state(true, client) == State::Established {
        let end = pair.now + Duration::from_secs(2_000);
        assert!(pair.step(end));
    }
    let took = pair.now.since(start).as_secs();
    assert!((924..=1_100).contains(&took), "{took}");
    assert_eq!(pair.receive(true, client, 1), Err(ReceiveError::Fault(crate::socket::error::SocketFault::TimedOut)));
}

//= test RFC 5681 §3.2 (SHLD-8)
//= test REF T-04
#[test]
fn one_loss_of_many_is_repeated_without_waiting_for_the_timer() {
    for sack in [true, false] {
        let settings = Settings { tcp_sack: sack, ..Settings::default() };
        let mut pair = Pair::with_settings(settings, 0);
        let (client, server) = pair.established();
        pair.filter = Some(|packet, count| !(is_data(packet) && count == 12));
        let start = pair.now;
        pair.count = 5;
        let data = pattern(1_448 * 10);
        pair.send(true, client, &data).expect("room");
        pair.run(Duration::from_millis(100));
        let got = pair.receive(false, server, 100_000).expect("data");
        assert!(got == data, "{} of {}", got.len(), data.len());
        assert_eq!(pair.left.counters.tcp_retrans_segs, 1, "sack {sack}");
        assert_eq!(pair.left.counters.tcp_timeouts, 0);
        assert_eq!(pair.left.counters.tcp_fast_retrans, 1);
        assert_eq!(pair.left.counters.tcp_sack_recovery + pair.left.counters.tcp_reno_recovery, 1);
        assert!(pair.now.since(start) <= Duration::from_millis(100));
    }
}

//= test RFC 2018 §4
#[test]
fn out_of_order_data_is_told_in_sack_blocks_at_once() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, _server) = pair.established();
    pair.filter = Some(|packet, count| !(is_data(packet) && count == 101));
    pair.count = 100;
    let from = pair.log.len();
    pair.send(true, client, &pattern(1_448 * 3)).expect("room");
    let start = pair.now;
    pair.run(Duration::from_millis(8));
    let acks = pair.sent(false, from);
    let first = acks[0].1.header();
    assert_eq!(acks[0].0, start + pair.latency);
    let seq = pair.sent(true, from)[0].1.header().seq;
    assert_eq!(first.ack, seq);
    assert_eq!(first.options.sack.as_slice()[0].start, seq + 1_448);
    assert_eq!(first.options.sack.as_slice()[0].end, seq + 1_448 * 3);
}

//= test RFC 2883 §4
#[test]
fn a_repetition_of_what_is_there_is_told_by_d_sack() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.send(true, client, b"twice").expect("room");
    pair.run(Duration::from_millis(100));
    let packet = pair.sent(true, 0).into_iter().find(|(_, packet)| is_data(packet)).expect("data").1;
    let from = pair.log.len();
    let now = pair.now;
    pair.right.inject(now, &packet);
    pair.flush();
    let answer = pair.sent(false, from)[0].1.header();
    let seq = packet.header().seq;
    assert_eq!(answer.options.sack.as_slice()[0], super::super::header::SackBlock { start: seq, end: seq + 5 });
}

//= test RFC 7323 §5.7 (MUST-28)
#[test]
fn smaller_path_mtu_cuts_and_repeats() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, server) = pair.established();
    pair.filter = Some(|packet, _| packet.bytes.len() + 20 <= 1_000);
    let from = pair.log.len();
    let data = pattern(6_000);
    pair.send(true, client, &data).expect("room");
    pair.flush();
    let big = pair.sent(true, from)[0].1.clone();
    assert!(big.bytes.len() > 1_000);
    pair.path_error(true, &big, 4, 1_000);
    pair.run(Duration::from_millis(500));
    assert!(pair.receive(false, server, 10_000).expect("data") == data);
    assert_eq!(pair.left.counters.tcp_timeouts, 0);
}

//= test REF C-17
#[test]
fn a_full_device_is_local_congestion_and_loses_nothing() {
    for error in [TransmitError::NoRoom, TransmitError::Busy] {
        let mut pair = Pair::new();
        let (client, server) = pair.established();
        let data = pattern(40_000);
        pair.send(true, client, &data).expect("room");
        let now = pair.now;
        assert!(pair.left.transmit(now).is_some());
        pair.left.with(now, |tcp, net| tcp.transmit_failed(net, error));
        assert!(pair.left.transmit(now).is_none());
        pair.run(Duration::from_millis(500));
        assert!(pair.receive(false, server, 100_000).expect("data") == data);
        assert_eq!(pair.left.counters.tcp_timeouts, 0);
    }
}

//= test REF C-17
#[test]
fn what_a_full_queue_refuses_was_not_sent() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.send(true, client, &pattern(2 * 1_448)).expect("room");
    pair.flush();
    let from = pair.log.len();
    pair.send(true, client, b"again").expect("room");
    let now = pair.now;
    assert!(pair.left.transmit(now).is_some_and(|packet| packet.payload() == b"again"));
    pair.left.with(now, |tcp, net| tcp.transmit_failed(net, TransmitError::NoRoom));
    assert_eq!(pair.left.tcp.unsent_output(client), 5);
    assert!(pair.left.transmit(now).is_none(), "it waits for an ACK");
    pair.run(Duration::from_millis(100));
    let sent = pair.sent(true, from);
    let (at, packet) = sent.first().expect("a segment");
    assert_eq!(packet.payload(), b"again");
    assert_eq!(at.since(now), pair.latency * 2, "which brings it along");
    assert_eq!(pair.left.counters.tcp_retrans_segs, 0);
    assert_eq!(pair.receive(false, server, 10_000).expect("data").len(), 2 * 1_448 + 5);
}

//= test REF C-17
#[test]
fn a_full_queue_is_asked_every_half_second_without_back_off() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.send(true, client, b"x").expect("room");
    let start = pair.now;
    let mut tries = Vec::new();
    while pair.now.since(start) < Duration::from_secs(3) {
        let now = pair.now;
        while pair.left.transmit(now).is_some() {
            tries.push(u64::try_from(now.since(start).as_millis()).unwrap());
            pair.left.with(now, |tcp, net| tcp.transmit_failed(net, TransmitError::NoRoom));
        }
        pair.now = pair.left.tcp.next_timeout().expect("a timer");
        let now = pair.now;
        pair.left.with(now, |tcp, net| tcp.handle_timeout(net));
    }
    // The first timer is the retransmission timeout, as for a closed window.
    let gaps: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((200..=260).contains(&gaps[0]), "{gaps:?}");
    assert!(gaps.len() >= 5 && gaps[1..].iter().all(|gap| *gap == 500), "{gaps:?}");
}

//= test RFC 8985 §7.3 (MUST-7, SHLD-13)
//= test REF T-04
#[test]
fn a_lost_tail_is_probed_before_the_timer_fires() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, server) = pair.established();
    // The last two of ten segments are lost.
    pair.filter = Some(|packet, count| !(is_data(packet) && (count == 1_017 || count == 1_018)));
    pair.count = 1_000;
    let data = pattern(1_448 * 10);
    pair.send(true, client, &data).expect("room");
    pair.run(Duration::from_millis(100));
    assert!(pair.receive(false, server, 100_000).expect("data") == data);
    assert_eq!(pair.left.counters.tcp_loss_probes, 1);
    assert_eq!(pair.left.counters.tcp_timeouts, 0);
    assert_eq!(pair.left.counters.tcp_retrans_segs, 2);
}

//= test RFC 8985 §6.2
#[test]
fn a_lost_repetition_does_not_wait_for_the_timer() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, server) = pair.established();
    // The first segment is lost, and its repetition too, twice.
    pair.filter = Some(|packet, count| {
        !(is_data(packet)
            && (count == 1_001 || (1_020..1_045).contains(&count))
            && packet.payload()[..8] == pattern(8)[..])
    });
    pair.count = 1_000;
    let data = pattern(1_448 * 30);
    pair.send(true, client, &data).expect("room");
    pair.run(Duration::from_millis(190));
    assert_eq!(pair.left.counters.tcp_lost_retransmit, 2);
    assert_eq!(pair.left.counters.tcp_timeouts, 0);
    assert!(pair.receive(false, server, 200_000).expect("data") == data);
}

//= test RFC 8985 §6.2
#[test]
fn a_passive_sides_first_loss_is_repeated_a_quarter_of_the_handshakes_round_trip_after_the_report() {
    let mut pair = Pair::new();
    let (_, server) = pair.established();
    let from = pair.log.len();
    // Three of four segments get lost.
    pair.count = 0;
    pair.filter = Some(|packet, count| !is_data(packet) || count > 3);
    assert_eq!(pair.send(false, server, &pattern(4 * 1_448)), Ok(4 * 1_448));
    pair.run(Duration::from_millis(400));
    let sent = pair.sent(false, from);
    let first = sent[0].1.header().seq;
    let times: Vec<Instant> =
        sent.iter().filter(|(_, packet)| is_data(packet) && packet.header().seq == first).map(|(at, _)| *at).collect();
    // The report is back after 10 ms; a quarter of that for reordering, and two ticks (TCP_TIMEOUT_MIN).
    let waited = times[1].since(times[0]);
    assert!((Duration::from_millis(20)..=Duration::from_millis(22)).contains(&waited), "{waited:?}");
}
