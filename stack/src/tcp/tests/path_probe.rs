//! Probing for the path's MTU over paths that swallow what is too large without a word.

use super::*;

fn narrow<const MTU: usize>(packet: &Packet, _: u64) -> bool {
    packet.bytes.len() + 20 <= MTU
}

/// Sends `size` bytes over a path with `filter` within `span`; what was there by then, and the pair.
fn transfer(probing: u8, filter: Option<fn(&Packet, u64) -> bool>, size: usize, span: Duration) -> (usize, Pair) {
    let settings = Settings { tcp_mtu_probing: probing, ..Settings::default() };
    let mut pair = Pair::with_settings(settings, 65_535);
    let (client, server) = pair.established();
    pair.filter = filter;
    let data = pattern(size);
    let (mut sent, mut got) = (0, Vec::new());
    let end = pair.now + span;
    while got.len() < size && pair.now < end {
        if let Ok(taken) = pair.send(true, client, &data[sent..]) {
            sent += taken;
        }
        pair.run(Duration::from_millis(10));
        if let Ok(bytes) = pair.receive(false, server, 1_000_000) {
            got.extend(bytes);
        }
    }
    assert_eq!(got, data[..got.len()]);
    (got.len(), pair)
}

/// Payload of the longest segments among the last twenty that were sent.
fn longest(pair: &Pair) -> usize {
    longest_of(pair, 20)
}

fn longest_of(pair: &Pair, last: usize) -> usize {
    let sent = pair.sent(true, 0);
    let full = |packet: &Packet| match packet.gso_size {
        0 => packet.payload().len(),
        size => usize::from(size),
    };
    sent.iter().rev().take(last).map(|(_, packet)| full(packet)).max().unwrap_or(0)
}

#[test]
//= test REF T-07
fn the_search_starts_low_and_finds_what_the_path_takes() {
    let (got, pair) = transfer(2, None, 1_500_000, Duration::from_secs(20));
    assert_eq!(got, 1_500_000);
    let first = pair.sent(true, 0).into_iter().map(|(_, packet)| packet).find(|packet| !packet.payload().is_empty());
    let first = first.expect("data");
    assert_eq!(if first.gso_size > 0 { usize::from(first.gso_size) } else { first.payload().len() }, 1_024);
    assert!((1_440..=1_448).contains(&longest(&pair)), "{}", longest(&pair));
    assert!(pair.left.counters.tcp_mtup_success > 3);
    assert_eq!(pair.left.counters.tcp_mtup_fail, 0);
    assert_eq!(pair.left.counters.tcp_retrans_segs, 0);
}

#[test]
//= test REF T-07
fn a_lost_probe_narrows_the_search_and_does_not_cost_the_window() {
    let (got, pair) = transfer(2, Some(narrow::<1_300>), 3_000_000, Duration::from_secs(20));
    assert_eq!(got, 3_000_000);
    // 52 bytes of headers; the search ends within 8 bytes.
    assert!((1_240..=1_248).contains(&longest(&pair)), "{}", longest(&pair));
    let counters = &pair.left.counters;
    assert!(counters.tcp_mtup_success > 0 && counters.tcp_mtup_fail > 0);
    assert_eq!((counters.tcp_timeouts, counters.tcp_sack_recovery), (0, 0));
}

#[test]
//= test REF T-07
fn a_path_that_swallows_large_packets_is_noticed_after_tcp_retries1() {
    let (got, pair) = transfer(1, Some(narrow::<1_200>), 200_000, Duration::from_secs(20));
    assert_eq!(got, 200_000);
    assert!((1_024..=1_148).contains(&longest(&pair)), "{}", longest(&pair));
    let first = pair.sent(true, 0).into_iter().find(|(_, packet)| packet.gso_size == 1_448).expect("full segments").0;
    let small = pair.sent(true, 0).into_iter().find(|(_, packet)| packet.payload().len() == 1_024).expect("less").0;
    let wait = small.since(first);
    assert!(wait >= Duration::from_secs(3) && wait < Duration::from_secs(8), "{wait:?}");

    let (got, _) = transfer(0, Some(narrow::<1_200>), 200_000, Duration::from_secs(20));
    assert_eq!(got, 0);
}

#[test]
fn what_is_tried_is_halved_until_something_gets_through() {
    let (got, pair) = transfer(1, Some(narrow::<400>), 5_000, Duration::from_secs(60));
    assert_eq!(got, 5_000);
    assert!(longest_of(&pair, 3) <= 348);
    assert!(pair.left.counters.tcp_timeouts >= 5);
}

#[test]
fn a_finished_search_begins_anew_after_tcp_probe_interval() {
    let settings = Settings { tcp_mtu_probing: 2, tcp_probe_interval: 2, ..Settings::default() };
    let mut pair = Pair::with_settings(settings, 65_535);
    let (client, server) = pair.established();
    pair.filter = Some(narrow::<1_300>);
    for round in 0..800 {
        if round == 100 {
            pair.filter = None;
        }
        pair.send(true, client, &pattern(60_000)).ok();
        pair.run(Duration::from_millis(10));
        pair.receive(false, server, 1_000_000).ok();
    }
    assert!(longest(&pair) >= 1_440, "{}", longest(&pair));
}
