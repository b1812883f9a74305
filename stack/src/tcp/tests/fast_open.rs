//! Fast Open: cookies, data in the SYN, what happens without them, rotation of keys, bounds, black holes.

use super::*;
use crate::socket::options::{OptionName, OptionValue, SetOption};
use crate::socket::protocol::SendFlags;

fn settings() -> Settings {
    Settings { tcp_fastopen: 3, ..Settings::default() }
}

fn set(pair: &mut Pair, left: bool, sock: SockId, option: &SetOption) {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.set_option(net, sock, option)).expect("an option");
}

fn server(pair: &mut Pair) -> SockId {
    let listener = pair.listen(false, 80, 16);
    set(pair, false, listener, &SetOption::FastOpen(8));
    listener
}

/// sendto(MSG_FASTOPEN) that does not wait.
fn open(pair: &mut Pair, bytes: &[u8]) -> (SockId, Result<usize, SendError>) {
    let sock = pair.socket(true);
    let now = pair.now;
    let mut source = bytes;
    let to = Some(SocketAddr::new(RIGHT, 80));
    let arguments = SendArguments { to, flags: SendFlags::FASTOPEN | SendFlags::DONTWAIT, ..SendArguments::default() };
    let result = pair.left.with(now, |tcp, net| tcp.send(net, sock, &mut source, &arguments));
    (sock, result)
}

/// A pair whose left side has the right one's cookie.
fn acquainted() -> (Pair, SockId) {
    let mut pair = Pair::with_settings(settings(), 65_535);
    let listener = server(&mut pair);
    let (_, result) = open(&mut pair, b"first");
    assert_eq!(result, Err(SendError::InProgress));
    pair.run(Duration::from_millis(50));
    assert!(pair.accept(false, listener).is_some());
    assert_eq!(pair.right.counters.tcp_fast_open_cookie_reqd, 1);
    (pair, listener)
}

//= test REF C-15
//= test REF L-04
//= test RFC 7413 §4.1.3 (MUST-4)
//= test RFC 7413 §4.2.1 (MUST-9)
//= test RFC 7413 §4.2.2 (MUST-10, SHLD-5)
#[test]
fn a_cookie_is_asked_for_and_then_data_goes_with_the_syn_and_is_read_before_the_ack() {
    let (mut pair, listener) = acquainted();
    let asked = pair.log[0].1.header().options.fast_open.expect("a request");
    assert!(asked.is_empty());
    let given = pair.log[1].1.header().options.fast_open.expect("a cookie");
    assert_eq!(given.as_slice().len(), 8);

    let from = pair.log.len();
    let (client, result) = open(&mut pair, b"GET /");
    assert_eq!(result, Ok(5));
    pair.run(Duration::from_millis(6));
    let syn = pair.log[from].1.clone();
    assert!(syn.is(Flags::SYN));
    assert_eq!(syn.payload(), b"GET /");
    assert_eq!(syn.header().options.fast_open, Some(given));
    // The handshake is not over, and the program has data and answers it.
    let server = pair.accept(false, listener).expect("at once");
    assert_eq!(pair.state(false, server), State::SynReceived);
    assert!(pair.poll(false, server).contains(Readiness::IN | Readiness::OUT));
    assert_eq!(pair.receive(false, server, 100), Ok(b"GET /".to_vec()));
    assert_eq!(pair.send(false, server, b"200"), Ok(3));
    pair.run(Duration::from_millis(50));
    assert!(pair.log[from + 1].1.is(Flags::SYN | Flags::ACK));
    assert_eq!(pair.log[from + 1].1.header().ack, syn.header().seq + 6);
    assert_eq!(pair.receive(true, client, 100), Ok(b"200".to_vec()));
    assert_eq!(pair.state(false, server), State::Established);
    assert_eq!(pair.left.counters.tcp_fast_open_active, 1);
    assert_eq!(pair.right.counters.tcp_fast_open_passive, 1);
    // It goes on as any other.
    assert_eq!(pair.send(true, client, b"more"), Ok(4));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.receive(false, server, 100), Ok(b"more".to_vec()));
    assert_eq!(pair.left.counters.tcp_retrans_segs + pair.right.counters.tcp_retrans_segs, 0);
}

//= test RFC 7413 §4.2 (MUST-6)
//= test RFC 7413 §4.2.2 (SHLD-6)
#[test]
fn data_that_the_server_did_not_take_is_sent_again_at_once() {
    let (mut pair, listener) = acquainted();
    set(&mut pair, false, listener, &SetOption::FastOpen(0));
    let from = pair.log.len();
    let (_, result) = open(&mut pair, b"hello");
    assert_eq!(result, Ok(5));
    pair.run(Duration::from_millis(60));
    let again = pair.sent(true, from);
    let again = again.iter().skip(1).find(|(_, packet)| !packet.payload().is_empty()).expect("a repetition");
    assert!(again.1.header().flags.contains(Flags::PSH));
    assert_eq!(pair.left.counters.tcp_fast_open_active_fail, 1);
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(pair.receive(false, server, 100), Ok(b"hello".to_vec()));
}

//= test RFC 7413 §4.2.2 (SHLD-3)
#[test]
fn a_syn_whose_data_gets_lost_is_repeated_without_it() {
    let (mut pair, listener) = acquainted();
    pair.filter = Some(|packet, _| !packet.is(Flags::SYN) || packet.payload().is_empty());
    let from = pair.log.len();
    let (_, result) = open(&mut pair, b"hello");
    assert_eq!(result, Ok(5));
    pair.run(Duration::from_secs(3));
    let again = &pair.sent(true, from)[1].1;
    assert!(again.is(Flags::SYN) && again.payload().is_empty() && again.header().options.fast_open.is_none());
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(pair.receive(false, server, 100), Ok(b"hello".to_vec()));
    // The next one asks for a cookie anew.
    let from = pair.log.len();
    assert_eq!(open(&mut pair, b"x").1, Err(SendError::InProgress));
    pair.flush();
    assert!(pair.sent(true, from)[0].1.header().options.fast_open.is_some_and(|cookie| cookie.is_empty()));
}

//= test RFC 7413 §4.1.2 (SHLD-1)
//= test RFC 7413 §4.2.2 (MAY-3)
#[test]
fn the_old_key_is_still_taken_and_answered_with_a_new_cookie() {
    let (mut pair, listener) = acquainted();
    set(&mut pair, false, listener, &SetOption::FastOpenKey(alloc::vec![1; 16]));
    assert_eq!(open(&mut pair, b"a").1, Ok(1));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_fast_open_passive_fail, 1);
    let mut keys = alloc::vec![2; 16];
    keys.extend_from_slice(&[1; 16]);
    set(&mut pair, false, listener, &SetOption::FastOpenKey(keys.clone()));
    assert_eq!(open(&mut pair, b"b").1, Ok(1));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_fast_open_passive_alt_key, 1);
    assert_eq!(open(&mut pair, b"c").1, Ok(1));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_fast_open_passive, 2);
    assert_eq!(pair.right.counters.tcp_fast_open_passive_alt_key, 1);
    let now = pair.now;
    let shown = pair.right.with(now, |tcp, net| tcp.option(net, listener, OptionName::FastOpenKey));
    assert_eq!(shown, Ok(OptionValue::Bytes(keys)));
}

#[test]
fn deferred_connect_succeeds_and_the_first_write_opens() {
    let (mut pair, listener) = acquainted();
    let sock = pair.socket(true);
    set(&mut pair, true, sock, &SetOption::FastOpenConnect(true));
    let from = pair.log.len();
    assert_eq!(pair.connect(true, sock, 80), Ok(()));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.log.len(), from);
    assert!(pair.poll(true, sock).contains(Readiness::OUT));
    // The caller is told to send as with MSG_FASTOPEN, which may have to wait.
    assert_eq!(pair.send(true, sock, b"data"), Err(SendError::Deferred));
    let now = pair.now;
    let mut source = &b"data"[..];
    let arguments = SendArguments { flags: SendFlags::FASTOPEN | SendFlags::DONTWAIT, ..SendArguments::default() };
    assert_eq!(pair.left.with(now, |tcp, net| tcp.send(net, sock, &mut source, &arguments)), Ok(4));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.log[from].1.payload(), b"data");
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(pair.receive(false, server, 10), Ok(b"data".to_vec()));
    assert_eq!(pair.state(true, sock), State::Established);
}

#[test]
fn without_cookies_where_both_sides_say_so() {
    let mut pair = Pair::with_settings(Settings { tcp_fastopen: 0x207, ..Settings::default() }, 0);
    let listener = server(&mut pair);
    assert_eq!(open(&mut pair, b"now").1, Ok(3));
    pair.run(Duration::from_millis(50));
    let server = pair.accept(false, listener).expect("a connection");
    assert_eq!(pair.receive(false, server, 10), Ok(b"now".to_vec()));
    assert!(pair.log.iter().all(|(_, packet)| packet.header().options.fast_open.is_none()));
}

//= test RFC 7413 §4.2 (MUST-8)
#[test]
fn the_queue_of_early_connections_is_bounded_and_resets_count_on() {
    let (mut pair, listener) = acquainted();
    set(&mut pair, false, listener, &SetOption::FastOpen(1));
    let from = pair.log.len();
    let (client, _) = open(&mut pair, b"x");
    pair.run(Duration::from_millis(6));
    let answer = pair.sent(false, from)[0].1.header();
    let syn = pair.sent(true, from)[0].1.header();
    let reset = Header { flags: Flags::RST, seq: answer.ack, ..syn };
    pair.forge(false, &Header { options: super::super::header::Options::default(), ..reset }, &[]);
    pair.close(true, client);
    assert_eq!(open(&mut pair, b"y").1, Ok(1));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_fast_open_listen_overflow, 1);
    assert_eq!(pair.right.counters.tcp_fast_open_passive, 1);
    pair.run(Duration::from_secs(61));
    assert_eq!(open(&mut pair, b"z").1, Ok(1));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_fast_open_passive, 2);
}

#[test]
fn a_path_that_swallows_syns_with_data_is_left_alone_for_a_time_that_doubles() {
    let (mut pair, _) = acquainted();
    pair.left.settings.tcp_fastopen_blackhole_timeout_sec = 100;
    for (round, rest) in [(1, 100), (2, 200)] {
        pair.filter = Some(|_, _| false);
        let (sock, result) = open(&mut pair, b"x");
        assert_eq!(result, Ok(1));
        pair.run(Duration::from_secs(8));
        assert_eq!(pair.left.counters.tcp_fast_open_blackhole, round);
        pair.close(true, sock);
        pair.filter = None;
        assert_eq!(open(&mut pair, b"x").1, Err(SendError::InProgress));
        pair.run(Duration::from_secs(rest));
    }
}

#[test]
fn a_client_that_is_not_allowed_to_is_told() {
    let mut pair = Pair::with_settings(Settings { tcp_fastopen: 0, ..Settings::default() }, 0);
    assert_eq!(open(&mut pair, b"x").1, Err(SendError::NotSupported));
}

#[test]
fn the_key_of_the_settings_makes_the_cookie_of_linux() {
    let mut settings = settings();
    settings.set("net.ipv4.tcp_fastopen_key", "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4").expect("a key");
    let mut pair = Pair::with_settings(settings, 65_535);
    let listener = server(&mut pair);
    let bytes: Vec<u8> = [0xa1, 0xb2, 0xc3, 0xd4].iter().flat_map(|byte| [*byte; 4]).collect();
    let now = pair.now;
    // A listener without a key of its own shows the common one.
    let shown = pair.right.with(now, |tcp, net| tcp.option(net, listener, OptionName::FastOpenKey));
    assert_eq!(shown, Ok(OptionValue::Bytes(bytes.clone())));
    assert_eq!(open(&mut pair, b"").1, Ok(0));
    pair.run(Duration::from_millis(50));
    let common = pair.log[1].1.header().options.fast_open.expect("a cookie");
    // The same key as the listener's own gives the same cookie.
    set(&mut pair, false, listener, &SetOption::FastOpenKey(bytes));
    assert_eq!(open(&mut pair, b"data").1, Ok(4));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_fast_open_passive, 1);
    assert_eq!(pair.right.counters.tcp_fast_open_passive_fail, 0);
    assert_eq!(common.as_slice().len(), 8);
}

#[test]
fn tcp_info_tells_of_data_in_the_syn_on_both_sides() {
    let (mut pair, listener) = acquainted();
    let (client, result) = open(&mut pair, b"GET /");
    assert_eq!(result, Ok(5));
    pair.run(Duration::from_millis(50));
    let server = pair.accept(false, listener).expect("a connection");
    let now = pair.now;
    for (left, sock) in [(true, client), (false, server)] {
        let info = pair.side(left).with(now, |tcp, net| tcp.option(net, sock, OptionName::Info));
        let Ok(OptionValue::Bytes(info)) = info else { panic!("no TCP_INFO: {info:?}") };
        // TCPI_OPT_SYN_DATA
        assert_eq!(info[5] & 32, 32, "left: {left}");
    }
}

//= test RFC 7413 §4.2.2 (MUST-11)
#[test]
fn a_server_answers_early_with_a_first_window() {
    let (mut pair, listener) = acquainted();
    pair.filter = Some(|packet, _| packet.source == LEFT);
    let (_, result) = open(&mut pair, b"GET /");
    assert_eq!(result, Ok(5));
    pair.run(Duration::from_millis(6));
    let server = pair.accept(false, listener).expect("at once");
    let from = pair.log.len();
    pair.cut = false;
    assert!(pair.send(false, server, &pattern(30_000)).is_ok());
    pair.flush();
    assert_eq!(pair.state(false, server), State::SynReceived);
    let sent: usize = pair.sent(false, from).iter().map(|(_, packet)| packet.payload().len()).sum();
    // The SYN-ACK is the tenth segment of the window.
    assert_eq!(sent.div_ceil(1_448), 9, "{sent}");
}

//= test RFC 7413 §4.2.2 (SHLD-4)
#[test]
fn a_syn_ack_that_is_repeated_carries_no_cookie() {
    let (mut pair, listener) = acquainted();
    // The client's cookie is of the key before, so the answer carries a new one.
    set(&mut pair, false, listener, &SetOption::FastOpenKey(alloc::vec![1; 16]));
    assert_eq!(open(&mut pair, b"a").1, Ok(1));
    pair.run(Duration::from_millis(50));
    let mut keys = alloc::vec![2; 16];
    keys.extend_from_slice(&[1; 16]);
    set(&mut pair, false, listener, &SetOption::FastOpenKey(keys));
    let from = pair.log.len();
    pair.filter = Some(|packet, _| packet.source == LEFT);
    assert_eq!(open(&mut pair, b"b").1, Ok(1));
    pair.run(Duration::from_millis(1_500));
    let answers: Vec<Header> = pair.sent(false, from).iter().map(|(_, packet)| packet.header()).collect();
    let answers: Vec<&Header> = answers.iter().filter(|header| header.flags.contains(Flags::SYN)).collect();
    assert!(answers.len() >= 2, "{answers:?}");
    assert!(answers[0].options.fast_open.is_some());
    assert!(answers[1..].iter().all(|header| header.options.fast_open.is_none()));
}
