//! Listening: SYN cookies, full queues, SYN-ACK timer, TCP_DEFER_ACCEPT, TCP_SAVE_SYN, SO_REUSEPORT's spread.

use super::*;
use crate::socket::options::{OptionName, OptionValue, SetOption};
use crate::socket::protocol::Shutdown;

fn syn(port: u16) -> Header {
    let mut header = Header {
        source_port: port,
        destination_port: 80,
        seq: super::super::sequence::Seq(u32::from(port) * 1_000),
        flags: Flags::SYN,
        window: 64_240,
        ..Header::default()
    };
    header.options.mss = Some(1_460);
    header
}

/// SYNs from nowhere, until the half-open queue of a backlog of one is full.
fn flood(pair: &mut Pair, count: u16) {
    for port in 0..count {
        pair.forge(false, &syn(1_000 + port), &[]);
    }
    pair.flush();
}

fn set(pair: &mut Pair, left: bool, sock: SockId, option: &SetOption) {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.set_option(net, sock, option)).expect("an option");
}

fn read(
    pair: &mut Pair,
    left: bool,
    sock: SockId,
    name: OptionName,
) -> Result<OptionValue, crate::socket::error::OptionError> {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.option(net, sock, name))
}

//= test REF L-02
#[test]
fn a_flood_is_answered_with_cookies_and_a_connection_made_from_one_keeps_its_options() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 1);
    flood(&mut pair, 10);
    assert_eq!(pair.right.counters.tcp_req_q_full_do_cookies, 8);
    assert_eq!(pair.right.counters.syncookies_sent, 8);
    let from = pair.log.len();
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(20));
    let answer = pair.sent(false, from)[0].1.header();
    assert!(answer.options.sack_permitted && answer.options.window_scale.is_some());
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(pair.right.counters.syncookies_recv, 1);
    assert_eq!(pair.right.counters.syncookies_failed, 0);
    // The scale and SACK came back through the timestamp.
    let index = server.index as usize;
    let sock = &pair.right.tcp.socks[index];
    assert_eq!((sock.snd_wscale, sock.sack, sock.timestamps, sock.peer_mss), (7, true, true, 1_460));
    let data = pattern(300_000);
    let mut sent = 0;
    let mut got = Vec::new();
    while got.len() < data.len() {
        sent += pair.send(true, client, &data[sent..]).unwrap_or(0);
        pair.run(Duration::from_millis(20));
        got.extend(pair.receive(false, server, 1 << 20).unwrap_or_default());
    }
    assert_eq!(got, data);
}

#[test]
fn a_cookie_without_timestamps_gives_up_scale_and_sack() {
    let settings = Settings { tcp_timestamps: 0, tcp_syncookies: 2, ..Settings::default() };
    let mut pair = Pair::with_settings(settings, 65_535);
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(20));
    let answer = pair.log[1].1.header();
    assert!(!answer.options.sack_permitted && answer.options.window_scale.is_none());
    assert_eq!(pair.right.tcp.shared.requests.len(), 0);
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(pair.send(true, client, b"hello"), Ok(5));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.receive(false, server, 10), Ok(b"hello".to_vec()));
}

#[test]
fn a_forged_cookie_is_counted_and_reset_and_none_is_looked_at_without_recent_cookies() {
    let mut pair = Pair::new();
    pair.listen(false, 80, 1);
    let mut ack = syn(5_000);
    ack.flags = Flags::ACK;
    ack.ack = super::super::sequence::Seq(12_345);
    pair.forge(false, &ack, &[]);
    pair.flush();
    assert_eq!(pair.right.counters.syncookies_failed, 0);
    flood(&mut pair, 4);
    let from = pair.log.len();
    pair.forge(false, &ack, &[]);
    pair.flush();
    assert_eq!(pair.right.counters.syncookies_failed, 1);
    assert!(pair.log[from].1.is(Flags::RST));
    pair.run(Duration::from_secs(150));
    pair.forge(false, &ack, &[]);
    assert_eq!(pair.right.counters.syncookies_failed, 1);
}

#[test]
fn without_cookies_a_full_queue_drops() {
    let mut pair = Pair::with_settings(Settings { tcp_syncookies: 0, ..Settings::default() }, 0);
    pair.listen(false, 80, 1);
    flood(&mut pair, 10);
    // Linux lets the queue grow to one more than the backlog.
    assert_eq!(pair.right.tcp.shared.requests.len(), 2);
    assert_eq!(pair.log.len(), 2);
    assert_eq!(pair.right.counters.tcp_req_q_full_drop, 8);
    assert_eq!(pair.right.counters.listen_drops, 8);
}

//= test REF L-02
#[test]
fn overflow_keeps_the_request_or_resets_it_as_the_setting_says() {
    for abort in [false, true] {
        let mut pair = Pair::with_settings(Settings { tcp_abort_on_overflow: abort, ..Settings::default() }, 65_535);
        let listener = pair.listen(false, 80, 1);
        let clients: Vec<SockId> = (0..3).map(|_| pair.socket(true)).collect();
        let _ = pair.connect(true, clients[0], 80);
        pair.run(Duration::from_millis(100));
        // Two at once: both are let in as requests, and there is room for one connection more.
        let _ = pair.connect(true, clients[1], 80);
        let _ = pair.connect(true, clients[2], 80);
        pair.run(Duration::from_millis(100));
        let (first, second) = (clients[1], clients[2]);
        assert_eq!(pair.state(true, first), State::Established);
        assert_eq!(pair.right.counters.listen_overflows, 1);
        if abort {
            assert_eq!(pair.state(true, second), State::Closed);
            assert_eq!(pair.right.counters.embryonic_rsts, 1);
        } else {
            assert_eq!(pair.state(true, second), State::Established);
            assert!(pair.accept(false, listener).is_some());
            assert!(pair.accept(false, listener).is_some());
            assert!(pair.accept(false, listener).is_none());
            // The SYN-ACK comes again, its ACK finds room.
            pair.run(Duration::from_secs(4));
            assert!(pair.accept(false, listener).is_some());
        }
    }
}

#[test]
fn syn_ack_is_repeated_at_1_3_7_15_31_seconds_and_the_request_dropped_after_63() {
    let mut pair = Pair::new();
    pair.listen(false, 80, 8);
    let start = pair.now;
    pair.forge(false, &syn(999), &[]);
    pair.filter = Some(|_, _| false);
    pair.run(Duration::from_secs(62));
    let times: Vec<u128> = pair.log.iter().map(|(at, _)| at.since(start).as_millis()).collect();
    assert_eq!(times, [0, 1_000, 3_000, 7_000, 15_000, 31_000]);
    assert_eq!(pair.right.tcp.shared.requests.len(), 1);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.right.tcp.shared.requests.len(), 0);
    assert_eq!(pair.right.counters.tcp_timeouts, 6);
}

//= test REF L-03
#[test]
fn deferred_accept_waits_for_data_and_asks_again_at_its_end() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 8);
    set(&mut pair, false, listener, &SetOption::DeferAccept(5));
    assert_eq!(read(&mut pair, false, listener, OptionName::DeferAccept), Ok(OptionValue::Int(7)));
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.state(true, client), State::Established);
    assert!(pair.accept(false, listener).is_none());
    assert_eq!(pair.right.counters.tcp_defer_accept_drop, 1);
    assert_eq!(pair.send(true, client, b"GET"), Ok(3));
    pair.run(Duration::from_millis(20));
    let server = pair.accept(false, listener).expect("with data");
    assert_eq!(pair.receive(false, server, 10), Ok(b"GET".to_vec()));

    // One that stays silent is given a last chance after three timeouts.
    let silent = pair.socket(true);
    let _ = pair.connect(true, silent, 80);
    let from = pair.log.len();
    pair.run(Duration::from_millis(6_900));
    assert!(pair.accept(false, listener).is_none());
    let again = pair.sent(false, from).iter().filter(|(_, packet)| packet.is(Flags::SYN | Flags::ACK)).count();
    assert_eq!(again, 1);
    pair.run(Duration::from_secs(10));
    assert!(pair.accept(false, listener).is_some());
}

#[test]
fn saved_syn_is_given_whole_once() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 8);
    set(&mut pair, false, listener, &SetOption::SaveSyn(1));
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(20));
    let syn = pair.log[0].1.bytes.clone();
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(read(&mut pair, false, server, OptionName::SavedSynLength), Ok(OptionValue::Int(40)));
    assert!(read(&mut pair, false, server, OptionName::SavedSyn { room: 39 }).is_err());
    assert_eq!(read(&mut pair, false, server, OptionName::SavedSyn { room: 100 }), Ok(OptionValue::Bytes(syn)));
    let nothing = Ok(OptionValue::Bytes(Vec::new()));
    assert_eq!(read(&mut pair, false, server, OptionName::SavedSyn { room: 100 }), nothing);
}

#[test]
fn reuse_port_spreads_evenly_and_keeps_a_connection_where_it_began() {
    let mut pair = Pair::new();
    let group: Vec<SockId> = (0..4)
        .map(|_| {
            let sock = pair.socket(false);
            let now = pair.now;
            pair.right.tcp.options_mut(sock).expect("options").reuse_port = true;
            pair.bind(false, sock, 80);
            pair.right.with(now, |tcp, net| tcp.listen(net, sock, 4_096)).expect("listening");
            sock
        })
        .collect();
    for port in 0..2_000 {
        pair.forge(false, &syn(1_000 + port), &[]);
    }
    let counts: Vec<u32> = group
        .iter()
        .map(|sock| pair.right.tcp.socks[sock.index as usize].listen.as_ref().expect("a listener").half_open)
        .collect();
    assert_eq!(counts.iter().sum::<u32>(), 2_000);
    assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    // A listener that shuts down leaves its share to the others.
    let now = pair.now;
    pair.right.with(now, |tcp, net| tcp.shutdown(net, group[0], Shutdown::Both));
    assert_eq!(pair.right.tcp.shared.requests.len() as u32, 2_000 - counts[0]);
}
