//! ECN, pacing and the choice of an algorithm, from segment to segment.

use alloc::string::String;
use core::time::Duration;

use super::*;
use crate::socket::error::OptionError;
use crate::socket::options::{OptionName, OptionValue, SetOption};

/// A pair whose left side asks for ECN and whose right side grants it (the default).
fn asking() -> Pair {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    pair.left.settings.tcp_ecn = 1;
    pair
}

fn set(pair: &mut Pair, left: bool, sock: SockId, option: &SetOption) -> Result<(), OptionError> {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.set_option(net, sock, option))
}

fn name_of(pair: &mut Pair, sock: SockId) -> String {
    let now = pair.now;
    let value = pair.left.with(now, |tcp, net| tcp.option(net, sock, OptionName::Congestion)).expect("a name");
    let OptionValue::Bytes(bytes) = value else { panic!("{value:?}") };
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..length].to_vec()).expect("letters")
}

fn cwnd(pair: &mut Pair, sock: SockId) -> u32 {
    pair.left.tcp.sock(sock.index).expect("a sock").window.cwnd
}

//= test RFC 3168 §6.1.1
//= test REF C-13
//= test RFC 9293 §3.8.2 (SHLD-8)
#[test]
fn ecn_is_asked_for_and_granted() {
    let mut pair = asking();
    pair.established();
    assert!(pair.log[0].1.is(Flags::SYN | Flags::ECE | Flags::CWR));
    assert!(pair.log[1].1.is(Flags::SYN | Flags::ACK | Flags::ECE));
    assert_eq!((pair.log[0].1.tos & 3, pair.log[1].1.tos & 3), (0, 0), "control segments are not ECT");
}

#[test]
fn by_default_ecn_is_granted_and_not_asked_for() {
    let mut pair = Pair::new();
    pair.established();
    assert!(pair.log[0].1.is(Flags::SYN));
    assert!(pair.log[1].1.is(Flags::SYN | Flags::ACK));
}

//= test RFC 3168 §6.1.1.1
#[test]
fn a_repeated_syn_asks_no_more() {
    let mut pair = asking();
    pair.filter = Some(|_, count| count > 1);
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    assert!(pair.connect(true, client, 80).is_err());
    pair.run(Duration::from_secs(2));
    pair.accept(false, listener).expect("a connection");
    let syns: Vec<_> =
        pair.sent(true, 0).into_iter().filter(|(_, packet)| packet.header().flags.contains(Flags::SYN)).collect();
    assert!(syns[0].1.is(Flags::SYN | Flags::ECE | Flags::CWR) && syns[1].1.is(Flags::SYN));
}

//= test RFC 3168 §6.1.2, §6.1.3, §6.1.4
//= test RFC 9293 §3.8.2 (SHLD-8)
//= test RFC 1122 §3.2.1.6 (SHLD-3)
#[test]
fn a_mark_is_echoed_until_the_sender_says_that_it_has_slowed_down_and_shrinks_the_window_once() {
    let mut pair = asking();
    let (client, server) = pair.established();
    let from = pair.log.len();
    pair.mark_next = 1;
    let before = cwnd(&mut pair, client);
    assert_eq!(pair.send(true, client, &pattern(20_000)), Ok(20_000));
    pair.run(Duration::from_millis(300));
    let data = pair.sent(true, from);
    assert!(data.iter().filter(|(_, packet)| !packet.payload().is_empty()).all(|(_, packet)| packet.tos & 3 == 2));
    assert_eq!(data.iter().filter(|(_, packet)| packet.header().flags.contains(Flags::CWR)).count(), 1);
    let answers = pair.sent(false, from);
    let echoes: Vec<_> = answers.iter().map(|(_, packet)| packet.header().flags.contains(Flags::ECE)).collect();
    assert!(echoes.contains(&true) && echoes.last() == Some(&false), "{echoes:?}");
    assert!(answers.iter().all(|(_, packet)| packet.tos & 3 == 0), "pure ACKs are not ECT");
    assert!(cwnd(&mut pair, client) < before, "{before}");
    assert!(pair.left.counters.tcp_delivered_ce > 0);
    assert_eq!(pair.left.counters.tcp_retrans_segs, 0);
    assert_eq!(pair.receive(false, server, 100_000).map(|bytes| bytes.len()), Ok(20_000));
}

//= test RFC 3168 §6.1.5
#[test]
fn what_is_repeated_is_not_ect() {
    let mut pair = asking();
    let (client, _) = pair.established();
    let from = pair.log.len();
    pair.filter = Some(|packet, _| packet.payload().len() != 777);
    assert_eq!(pair.send(true, client, &pattern(777)), Ok(777));
    pair.run(Duration::from_millis(100));
    pair.filter = None;
    pair.run(Duration::from_secs(1));
    let sent = pair.sent(true, from);
    assert_eq!((sent[0].1.tos & 3, sent[1].1.tos & 3), (2, 0));
}

//= test REF T-05
//= test RFC 9293 §3.8.2 (MAY-18)
#[test]
fn the_algorithm_is_chosen_by_name_at_any_time_and_an_unknown_one_is_refused() {
    let mut pair = Pair::new();
    let (client, _) = pair.established();
    assert_eq!(name_of(&mut pair, client), "cubic");
    for name in ["reno", "bbr", "cubic"] {
        assert_eq!(set(&mut pair, true, client, &SetOption::Congestion(name.into())), Ok(()));
        assert_eq!(name_of(&mut pair, client), name);
    }
    assert_eq!(set(&mut pair, true, client, &SetOption::Congestion("none".into())), Err(OptionError::NotFound));
    assert_eq!(name_of(&mut pair, client), "cubic");
}

#[test]
fn an_accepted_connection_has_the_algorithm_of_its_listener() {
    let mut pair = Pair::new();
    let listener = pair.listen(true, 80, 8);
    assert_eq!(set(&mut pair, true, listener, &SetOption::Congestion("reno".into())), Ok(()));
    let client = pair.socket(false);
    assert!(pair.connect(false, client, 80).is_err());
    pair.run(Duration::from_millis(50));
    let child = pair.accept(true, listener).expect("a connection");
    assert_eq!(name_of(&mut pair, child), "reno");
}

#[test]
fn the_most_pacing_rate_is_kept() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, server) = pair.established();
    // 100 kB/s.
    pair.left.tcp.sock_mut(client.index).expect("a sock").options.max_pacing_rate = 100_000;
    assert_eq!(set(&mut pair, true, client, &SetOption::MaxPacingRate(100_000)), Ok(()));
    let began = pair.now;
    assert_eq!(pair.send(true, client, &pattern(40_000)), Ok(40_000));
    let mut taken = 0;
    while taken < 40_000 && pair.now.since(began) < Duration::from_secs(5) {
        pair.run(Duration::from_millis(10));
        taken += pair.receive(false, server, 100_000).map_or(0, |bytes| bytes.len());
    }
    let span = pair.now.since(began);
    // The first ten segments are free.
    assert!((Duration::from_millis(200)..Duration::from_millis(400)).contains(&span), "{span:?}");
}
