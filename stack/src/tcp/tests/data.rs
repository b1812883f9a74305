//! Data in motion: both ways, under trouble, windows, delayed ACKs, Nagle.

use super::*;
use crate::socket::error::OptionError;
use crate::socket::options::{OptionName, OptionValue, SetOption};

/// Carries `length` bytes each way and returns how long it took.
fn carry(pair: &mut Pair, length: usize) -> Duration {
    let (client, server) = pair.established();
    let start = pair.now;
    let data = pattern(length);
    let mut sent = [0, 0];
    let mut got = [Vec::new(), Vec::new()];
    let ends = [(true, client), (false, server)];
    let limit = pair.now + Duration::from_secs(4_000);
    let seed = pair.seed;
    while got.iter().any(|got| got.len() < length) {
        for (place, (left, sock)) in ends.into_iter().enumerate() {
            while sent[place] < length {
                match pair.send(left, sock, &data[sent[place]..length.min(sent[place] + 16_384)]) {
                    Ok(count) => sent[place] += count,
                    Err(SendError::WouldBlock) => break,
                    Err(error) => panic!("seed {seed}: send: {error:?}"),
                }
            }
            match pair.receive(left, sock, 1 << 20) {
                Ok(bytes) => got[place].extend_from_slice(&bytes),
                Err(ReceiveError::WouldBlock) => {}
                Err(error) => panic!("seed {seed}: receive: {error:?}"),
            }
        }
        if got.iter().all(|got| got.len() == length) {
            break;
        }
        assert!(pair.step(limit), "seed {seed}: it stalls at {} {}", got[0].len(), got[1].len());
        pair.log.clear();
    }
    assert!(got.iter().all(|got| *got == data), "the bytes are the same");
    let took = pair.now.since(start);
    pair.close(true, client);
    pair.close(false, server);
    pair.run(Duration::from_secs(200));
    assert!(pair.left.tcp.is_idle() && pair.right.tcp.is_idle());
    assert_eq!(pair.left.tcp.memory() + pair.right.tcp.memory(), 0);
    took
}

#[test]
fn a_megabyte_goes_both_ways_cut_or_whole() {
    for (cut, gso_max) in [(true, 0), (true, 65_535), (false, 65_535)] {
        let mut pair = Pair::with_settings(Settings::default(), gso_max);
        pair.cut = cut;
        let took = carry(&mut pair, 1 << 20);
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(pair.left.counters.tcp_retrans_segs, 0);
    }
}

#[test]
fn a_megabyte_survives_loss_reordering_and_duplication() {
    for seed in 1..=8 {
        for sack in [true, false] {
            let settings = Settings { tcp_sack: sack, tcp_timestamps: u8::from(seed % 2 == 0), ..Settings::default() };
            let trouble = Trouble { loss: seed % 6, reorder: 10, duplicate: 3 };
            let mut pair = Pair::with_settings(settings, 65_535).seeded(seed, trouble);
            carry_under(&mut pair, 1 << 20);
        }
    }
}

#[test]
fn goodput_under_random_loss_is_what_the_square_root_rule_says() {
    // Mathis, Semke, Mahdavi, Ott 1997: MSS / RTT x sqrt(3/2 / p), for Reno; timeouts take a part of it.
    for (loss, rule) in [(1, 443_000_u128), (3, 256_000)] {
        let mut took = Duration::ZERO;
        for seed in 1..=6 {
            let mut pair = Pair::new().seeded(seed, Trouble { loss, ..Trouble::default() });
            pair.latency = Duration::from_millis(20);
            let start = pair.now;
            carry_under(&mut pair, 3_000_000);
            took += pair.now.since(start);
        }
        let bytes_per_second = 6 * 3_000_000 * 1_000 / took.as_millis();
        let percent = bytes_per_second * 100 / rule;
        assert!((75..=160).contains(&percent), "{loss} % loss: {percent} % of the rule");
    }
}

/// Carries `length` bytes to the right; the trouble begins after the handshake.
fn carry_under(pair: &mut Pair, length: usize) {
    let trouble = core::mem::take(&mut pair.trouble);
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(pair.latency * 10);
    let server = pair.accept(false, listener).expect("a connection");
    pair.trouble = trouble;
    let data = pattern(length);
    let (mut sent, mut got) = (0, Vec::new());
    let limit = pair.now + Duration::from_secs(2_000);
    let seed = pair.seed;
    while got.len() < length {
        while sent < length {
            match pair.send(true, client, &data[sent..]) {
                Ok(count) => sent += count,
                Err(SendError::WouldBlock) => break,
                Err(error) => panic!("seed {seed}: {error:?}"),
            }
        }
        if let Ok(bytes) = pair.receive(false, server, 70_000) {
            got.extend_from_slice(&bytes);
        }
        if got.len() == length {
            break;
        }
        assert!(pair.step(limit), "seed {seed}: it stalls at {}", got.len());
        pair.log.clear();
    }
    assert!(got == data);
}

//= test RFC 9293 §3.8.6.1 (MUST-36)
#[test]
fn a_closed_window_is_probed_and_opens_again() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let data = pattern(400_000);
    let mut sent = 0;
    for _ in 0..2_000 {
        if let Ok(count) = pair.send(true, client, &data[sent..]) {
            sent += count;
        }
        pair.run(Duration::from_millis(1));
    }
    pair.run(Duration::from_secs(5));
    assert!(pair.left.counters.tcp_win_probe >= 3, "{}", pair.left.counters.tcp_win_probe);
    assert!(pair.right.counters.tcp_to_zero_window_adv >= 1);
    let held = pair.right.tcp.queued_input(server);
    assert!((60_000..140_000).contains(&held), "{held}");
    let mut got = Vec::new();
    for _ in 0..5_000 {
        while sent < data.len() {
            match pair.send(true, client, &data[sent..]) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        if let Ok(bytes) = pair.receive(false, server, 10_000) {
            got.extend_from_slice(&bytes);
        }
        pair.run(Duration::from_millis(1));
    }
    assert!(got == data, "{} of {}", got.len(), data.len());
}

//= test REF T-03
//= test RFC 9293 §3.8.6.3 (MUST-40)
#[test]
fn lone_data_is_acknowledged_late_once_quick_acks_are_used_up() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    // A request and an answer make the exchange interactive.
    for _ in 0..3 {
        pair.send(true, client, b"question").expect("room");
        pair.run(Duration::from_millis(10));
        pair.receive(false, server, 100).expect("data");
        pair.send(false, server, b"answer").expect("room");
        pair.run(Duration::from_millis(10));
        pair.receive(true, client, 100).expect("data");
    }
    pair.run(Duration::from_millis(500));
    let from = pair.log.len();
    pair.send(true, client, b"question").expect("room");
    pair.run(Duration::from_millis(500));
    let asked = pair.sent(true, from)[0].0;
    let answers = pair.sent(false, from);
    assert_eq!(answers.len(), 1, "one ACK");
    let late = answers[0].0.since(asked + pair.latency);
    assert!(late >= Duration::from_millis(40) && late <= Duration::from_millis(200), "{late:?}");
}

//= test RFC 5681 §4.2
#[test]
fn every_second_full_segment_is_acknowledged() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, server) = pair.established();
    pair.right.with(Instant::ZERO, |tcp, net| tcp.set_option(net, server, &SetOption::QuickAck(0))).expect("option");
    let from = pair.log.len();
    pair.send(true, client, &pattern(1_448 * 10)).expect("room");
    pair.run(Duration::from_millis(500));
    let acks = pair.sent(false, from).len();
    // All arrive at once here: they share ACKs, but none may be left over.
    assert!((1..=6).contains(&acks), "{acks}");
}

//= test RFC 9293 §3.7.4 (MUST-17, SHLD-7)
#[test]
fn nagle_joins_small_writes_and_nodelay_does_not() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let from = pair.log.len();
    for _ in 0..10 {
        pair.send(true, client, b"x").expect("room");
        pair.flush();
    }
    pair.run(Duration::from_millis(5));
    let first = pair.sent(true, from);
    assert_eq!(first.iter().filter(|(_, packet)| !packet.payload().is_empty()).count(), 1);
    pair.run(Duration::from_millis(300));
    let all: Vec<usize> =
        pair.sent(true, from).iter().map(|(_, packet)| packet.payload().len()).filter(|n| *n > 0).collect();
    assert_eq!(all, [1, 9]);
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.set_option(net, client, &SetOption::NoDelay(true))).expect("option");
    let from = pair.log.len();
    for _ in 0..10 {
        pair.send(true, client, b"x").expect("room");
        pair.flush();
    }
    let packets = pair.sent(true, from).iter().filter(|(_, packet)| packet.payload().len() == 1).count();
    assert_eq!(packets, 10);
    pair.run(Duration::from_millis(300));
    assert_eq!(pair.receive(false, server, 100).expect("data").len(), 20);
}

//= test REF T-03
#[test]
fn cork_holds_until_full_or_pulled() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.set_option(net, client, &SetOption::Cork(true))).expect("option");
    let from = pair.log.len();
    pair.send(true, client, b"head").expect("room");
    pair.run(Duration::from_millis(100));
    assert!(pair.sent(true, from).is_empty());
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.set_option(net, client, &SetOption::Cork(false))).expect("option");
    pair.flush();
    assert_eq!(pair.sent(true, from)[0].1.payload(), b"head");
    // A cork that is forgotten lets go after 200 ms.
    let now = pair.now + Duration::from_millis(50);
    pair.run(Duration::from_millis(50));
    pair.left.with(now, |tcp, net| tcp.set_option(net, client, &SetOption::Cork(true))).expect("option");
    let from = pair.log.len();
    pair.send(true, client, b"tail").expect("room");
    pair.run(Duration::from_millis(400));
    let sent = pair.sent(true, from);
    assert_eq!(sent[0].1.payload(), b"tail");
    assert!(sent[0].0.since(now) >= Duration::from_millis(190), "{:?}", sent[0].0.since(now));
}

#[test]
fn a_full_buffer_takes_what_fits_and_then_blocks() {
    let mut pair = Pair::new();
    pair.filter = Some(|packet, _| packet.header().flags.contains(Flags::SYN) || packet.payload().is_empty());
    let (client, _server) = pair.established();
    let data = pattern(1 << 20);
    let taken = pair.send(true, client, &data).expect("room");
    assert!(taken > 16_384 && taken < data.len(), "{taken}");
    assert_eq!(pair.send(true, client, &data), Err(SendError::WouldBlock));
    assert_eq!(pair.poll(true, client), Readiness::empty());
    assert_eq!(pair.left.tcp.queued_output(client), taken);
}

#[test]
fn receive_buffer_grows_with_a_fast_reader() {
    let mut pair = Pair::new();
    pair.latency = Duration::from_millis(20);
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(200));
    let server = pair.accept(false, listener).expect("a connection");
    let before = pair.right.tcp.options(server).expect("sock").receive_buffer;
    let data = pattern(8 << 20);
    let (mut sent, mut got) = (0, 0);
    let limit = pair.now + Duration::from_secs(100);
    while got < data.len() {
        while let Ok(count) = pair.send(true, client, &data[sent..]) {
            sent += count;
            if sent == data.len() || count == 0 {
                break;
            }
        }
        if let Ok(bytes) = pair.receive(false, server, 1 << 20) {
            got += bytes.len();
        }
        if got == data.len() {
            break;
        }
        assert!(pair.step(limit));
        pair.log.clear();
    }
    let after = pair.right.tcp.options(server).expect("sock").receive_buffer;
    assert!(after > 4 * before, "{before} {after}");
}

/// When the last data of the left side was acknowledged by the right one, counted from its arrival.
fn acknowledged_after(pair: &Pair, from_left: bool, from: usize) -> Duration {
    let sent = pair.sent(from_left, from);
    let answers = pair.sent(!from_left, from);
    answers[0].0.since(sent[0].0 + pair.latency)
}

#[test]
fn first_data_for_a_client_is_acknowledged_at_once() {
    let mut pair = Pair::new();
    let (_client, server) = pair.established();
    let from = pair.log.len();
    pair.send(false, server, b"220 ready").expect("room");
    pair.run(Duration::from_millis(300));
    assert_eq!(acknowledged_after(&pair, false, from), Duration::ZERO);
}

#[test]
fn a_fin_without_data_is_acknowledged_at_the_next_tick() {
    let mut pair = Pair::new();
    let (_client, server) = pair.established();
    let from = pair.log.len();
    pair.close(false, server);
    pair.run(Duration::from_millis(300));
    assert!(acknowledged_after(&pair, false, from) <= Duration::from_millis(4));
}

#[test]
fn a_fin_after_data_waits_for_the_delayed_ack() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.send(true, client, b"request").expect("room");
    pair.run(Duration::from_millis(300));
    let from = pair.log.len();
    pair.close(true, client);
    pair.run(Duration::from_millis(300));
    assert_eq!(acknowledged_after(&pair, true, from), Duration::from_millis(40));
}

//= test RFC 9293 §3.9.1.2 (MUST-60)
#[test]
fn what_msg_more_held_back_is_pushed_when_the_timer_sends_it() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let from = pair.log.len();
    let now = pair.now;
    let arguments = SendArguments { flags: crate::socket::protocol::SendFlags::MORE, ..SendArguments::default() };
    let mut source: &[u8] = b"held";
    pair.left.with(now, |tcp, net| tcp.send(net, client, &mut source, &arguments)).expect("room");
    pair.run(Duration::from_millis(300));
    let sent = pair.sent(true, from);
    assert_eq!(sent.len(), 1);
    assert!(sent[0].1.header().flags.contains(Flags::PSH));
}

#[test]
fn tcp_inq_says_what_is_left_and_counts_the_end_of_the_stream_as_one() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let hint = |pair: &mut Pair| {
        let now = pair.now;
        match pair.right.with(now, |tcp, net| tcp.option(net, server, OptionName::InputHint)) {
            Ok(OptionValue::Int(hint)) => hint,
            other => panic!("{other:?}"),
        }
    };
    let set = |pair: &mut Pair, value| {
        let now = pair.now;
        pair.right.with(now, |tcp, net| tcp.set_option(net, server, &SetOption::Inq(value)))
    };
    assert_eq!(hint(&mut pair), -1);
    assert_eq!(set(&mut pair, 2), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, 1), Ok(()));
    assert_eq!(pair.send(true, client, &pattern(1_000)), Ok(1_000));
    pair.close(true, client);
    pair.run(Duration::from_millis(50));
    assert_eq!(hint(&mut pair), 1_000);
    assert_eq!(pair.receive(false, server, 400).map(|bytes| bytes.len()), Ok(400));
    assert_eq!(hint(&mut pair), 600);
    assert_eq!(pair.receive(false, server, 600).map(|bytes| bytes.len()), Ok(600));
    assert_eq!(hint(&mut pair), 1);
}

#[test]
fn tcp_info_counts_segments_with_data_and_tells_the_delivery_rate() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(true, client, &pattern(3_000)), Ok(3_000));
    pair.run(Duration::from_millis(100));
    let now = pair.now;
    let mut info =
        |left: bool, sock| match pair.side(left).with(now, |tcp, net| tcp.option(net, sock, OptionName::Info)) {
            Ok(OptionValue::Bytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
    let (sender, receiver) = (info(true, client), info(false, server));
    let number = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(sender.len(), 280);
    assert_eq!(number(&sender, 156), 3, "tcpi_data_segs_out");
    assert_eq!(number(&receiver, 152), 3, "tcpi_data_segs_in");
    assert_eq!((long(&sender, 200), long(&sender, 208)), (3_000, 0), "tcpi_bytes_sent, tcpi_bytes_retrans");
    // Three segments in a round trip of 10 ms.
    assert_eq!(long(&sender, 160), 3 * 1_448 * 100, "tcpi_delivery_rate");
    assert!(number(&receiver, 232) >= 60_000, "tcpi_rcv_wnd");
}
