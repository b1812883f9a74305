//! Requirements of RFC 9293 that no exchange of the other files shows: each test is named by what is required.

use super::*;
use crate::ip::route::{RouteAction, RouteEntry};
use crate::socket::error::SocketFault;
use crate::socket::options::SetOption;
use crate::socket::protocol::SendFlags;

fn set(pair: &mut Pair, left: bool, sock: SockId, option: &SetOption) {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.set_option(net, sock, option)).expect("an option");
}

/// A segment of the left side's peer that is acceptable now and carries nothing.
fn towards_left(pair: &Pair, sock: SockId) -> Header {
    let sock = pair.left.tcp.sock(sock.index).expect("a sock");
    Header {
        source_port: sock.tuple.remote_port,
        destination_port: sock.tuple.local_port,
        seq: sock.rcv_nxt,
        ack: sock.snd_nxt,
        flags: Flags::ACK,
        window: 500,
        ..Header::default()
    }
}

fn without_timestamps() -> Pair {
    Pair::with_settings(Settings { tcp_timestamps: 0, ..Settings::default() }, 0)
}

//= test RFC 9293 §3.1 (MUST-1, REC-1)
//= test RFC 7323 §2.3 (MUST-6)
#[test]
fn windows_are_unsigned_and_wider_than_sixteen_bits() {
    let mut pair = without_timestamps();
    let (client, _) = pair.established();
    let shift = pair.left.tcp.sock(client.index).expect("a sock").snd_wscale;
    assert!(shift > 0);
    for window in [0x7fff_u16, 0x8000, 0xffff] {
        let header = Header { window, ..towards_left(&pair, client) };
        pair.forge(true, &header, &[]);
        assert_eq!(pair.left.tcp.sock(client.index).expect("a sock").snd_wnd, u32::from(window) << shift);
    }
}

/// The kinds of the options in a header.
fn kinds(mut rest: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(kind) = rest.first() {
        kinds.push(*kind);
        rest = &rest[if *kind <= 1 { 1 } else { usize::from(rest[1]) }..];
    }
    kinds
}

//= test RFC 9293 §3.2 (MUST-65)
//= test RFC 9293 §3.9.1.1 (MUST-45)
//= test RFC 7323 §3.2 (MUST-15)
#[test]
fn options_of_the_handshake_stand_in_no_other_segment_and_addresses_stay() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.send(true, client, &pattern(30_000)).expect("room");
    pair.send(false, server, &pattern(30_000)).expect("room");
    pair.run(Duration::from_millis(200));
    pair.receive(true, client, 100_000).expect("data");
    pair.receive(false, server, 100_000).expect("data");
    pair.close(true, client);
    pair.close(false, server);
    pair.run(Duration::from_millis(200));
    assert!(pair.log.len() > 8);
    for (_, packet) in &pair.log {
        let options = packet.header().options;
        let syn = packet.header().flags.contains(Flags::SYN);
        assert_eq!(options.mss.is_some() && options.window_scale.is_some() && options.sack_permitted, syn);
        // The parser looks at them in a SYN only, so look at the bytes: timestamps, SACK and padding are allowed elsewhere.
        let allowed: &[u8] = if syn { &[1, 2, 3, 4, 8] } else { &[1, 5, 8] };
        assert!(kinds(&packet.bytes[20..packet.parsed().length]).iter().all(|kind| allowed.contains(kind)));
        assert!(options.timestamps.is_some());
        assert!(packet.source == LEFT || packet.source == RIGHT);
    }
}

//= test RFC 9293 §3.9.1.1 (MUST-41)
#[test]
fn listening_anew_leaves_older_connections_of_the_port_alone() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 8);
    pair.right.tcp.options_mut(listener).expect("sock").reuse_address = true;
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(50));
    let server = pair.accept(false, listener).expect("a connection");
    pair.right.tcp.options_mut(server).expect("sock").reuse_address = true;
    // One that cannot be: the first goes on listening.
    let other = pair.socket(false);
    pair.right.tcp.options_mut(other).expect("sock").reuse_address = true;
    let now = pair.now;
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80);
    let second =
        pair.right.with(now, |tcp, net| tcp.bind(net, other, any).is_ok() && tcp.listen(net, other, 8).is_ok());
    assert!(!second);
    assert_eq!(pair.state(false, listener), State::Listen);
    // One that can, after the first is gone: the connection does not notice.
    pair.close(false, listener);
    assert!(pair.right.with(now, |tcp, net| tcp.bind(net, other, any).is_ok() && tcp.listen(net, other, 8).is_ok()));
    pair.send(true, client, b"still here").expect("room");
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.receive(false, server, 100).expect("data"), b"still here");
}

//= test RFC 9293 §3.9.1.1 (MUST-42)
#[test]
fn a_port_can_be_listened_on_while_it_connects() {
    let mut pair = Pair::new();
    let now = pair.now;
    let connecting = pair.socket(true);
    let listener = pair.socket(true);
    for sock in [connecting, listener] {
        pair.left.tcp.options_mut(sock).expect("sock").reuse_address = true;
        pair.bind(true, sock, 5_000);
    }
    assert_eq!(pair.connect(true, connecting, 80), Err(ConnectError::InProgress));
    pair.flush();
    assert_eq!(pair.state(true, connecting), State::SynSent);
    assert!(pair.left.with(now, |tcp, net| tcp.listen(net, listener, 1)).is_ok());
    // Both work: the SYN was for a port that refuses; a caller of our port is let in.
    let caller = pair.socket(false);
    assert_eq!(pair.connect(false, caller, 5_000), Err(ConnectError::InProgress));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.left.tcp.take_error(connecting), Some(SocketFault::ConnectionRefused));
    assert!(pair.accept(true, listener).is_some());
}

//= test RFC 9293 §3.9.1.9 (MUST-48, SHLD-21, SHLD-22)
#[test]
fn the_differentiated_services_field_is_the_programs_and_may_change() {
    let mut pair = Pair::new();
    let (client, _) = pair.established();
    for tos in [0x48, 0xb8] {
        pair.left.tcp.options_mut(client).expect("sock").tos = tos;
        let from = pair.log.len();
        pair.send(true, client, b"marked").expect("room");
        pair.run(Duration::from_millis(50));
        let sent = pair.sent(true, from);
        assert!(!sent.is_empty() && sent.iter().all(|(_, packet)| packet.tos == tos));
    }
}

//= test RFC 9293 §3.10.7.4 (MUST-58, MUST-59)
//= test RFC 5681 §4.2 (MUST-22)
#[test]
fn segments_that_arrive_together_share_an_acknowledgment() {
    let mut pair = Pair::with_settings(Settings::default(), 0);
    let (client, server) = pair.established();
    let from = pair.log.len();
    pair.send(true, client, &pattern(1_448 * 4)).expect("room");
    // All are taken before anything is sent.
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.sent(true, from).iter().filter(|(_, packet)| !packet.payload().is_empty()).count(), 4);
    let answers = pair.sent(false, from);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1.header().ack, pair.sent(true, from)[0].1.header().seq + 1_448 * 4);
    assert_eq!(pair.receive(false, server, 10_000).expect("data").len(), 1_448 * 4);
}

//= test RFC 9293 §3.8.6.3 (SHLD-19)
#[test]
fn with_quick_acks_used_up_every_second_full_segment_is_acknowledged_at_once() {
    // Room enough: a window that unread data lets shrink is nothing to tell at once.
    let settings = Settings { tcp_rmem: [4_096, 1 << 20, 6 << 20], ..Settings::default() };
    let mut pair = Pair::with_settings(settings, 0);
    let (client, server) = pair.established();
    // A request and an answer make the exchange interactive.
    for _ in 0..3 {
        pair.send(true, client, b"question").expect("room");
        pair.run(Duration::from_millis(10));
        pair.receive(false, server, 100).expect("data");
        pair.send(false, server, b"answer").expect("room");
        pair.run(Duration::from_millis(10));
    }
    pair.run(Duration::from_millis(500));
    let from = pair.log.len();
    pair.send(true, client, &pattern(1_448)).expect("room");
    pair.run(Duration::from_millis(20));
    assert!(pair.sent(false, from).is_empty(), "the first waits for a second");
    pair.send(true, client, &pattern(1_448)).expect("room");
    pair.run(Duration::from_millis(10));
    let (sent, answers) = (pair.sent(true, from), pair.sent(false, from));
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].0, sent[1].0 + pair.latency);
    assert_eq!(answers[0].1.header().ack, sent[1].1.header().seq + 1_448);
}

//= test RFC 9293 §3.8.5 (MUST-31)
#[test]
fn urgent_data_may_be_longer_than_the_pointer_reaches() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.right.tcp.options_mut(server).expect("options").oob_inline = true;
    let data = pattern(100_000);
    let mut sent = 0;
    let mut got = Vec::new();
    let mut asked = 0;
    while got.len() < data.len() {
        let now = pair.now;
        let mut source = &data[sent..];
        let arguments = SendArguments { flags: SendFlags::OOB, ..SendArguments::default() };
        if sent < data.len()
            && let Ok(count) = pair.left.with(now, |tcp, net| tcp.send(net, client, &mut source, &arguments))
        {
            sent += count;
        }
        pair.run(Duration::from_millis(5));
        // The program is told of each advance, and learns by the mark that more is to come.
        asked += usize::from(pair.right.tcp.poll_urgent().is_some());
        if let Ok(bytes) = pair.receive(false, server, 1 << 20) {
            got.extend_from_slice(&bytes);
        }
    }
    assert!(got == data);
    assert!(asked >= 1);
    let pointers: Vec<_> = pair.sent(true, 0).iter().map(|(_, packet)| packet.header()).collect();
    assert!(pointers.iter().any(|header| header.flags.contains(Flags::URG)));
}

//= test RFC 9293 §3.4 (MUST-66)
#[test]
fn resets_and_urgent_pointers_count_even_when_the_window_is_shut() {
    let mut pair = without_timestamps();
    let (client, server) = pair.established();
    let data = pattern(400_000);
    let mut sent = 0;
    for _ in 0..1_000 {
        if let Ok(count) = pair.send(false, server, &data[sent..]) {
            sent += count;
        }
        pair.run(Duration::from_millis(1));
    }
    pair.run(Duration::from_secs(2));
    let window = |pair: &Pair| pair.left.tcp.sock(client.index).expect("a sock").receive_window();
    assert_eq!(window(&pair), 0);
    pair.filter = Some(|_, _| false);
    let urgent = Header { flags: Flags::ACK | Flags::URG, urgent: 100, ..towards_left(&pair, client) };
    pair.forge(true, &urgent, &[]);
    assert_eq!(pair.left.tcp.poll_urgent(), Some(OWNER));
    let reset = Header { flags: Flags::RST, ..towards_left(&pair, client) };
    pair.forge(true, &reset, &[]);
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::ConnectionReset));
}

//= test RFC 9293 §3.8.6 (SHLD-14)
//= test RFC 9293 §3.8.6.2.2 (MUST-39)
//= test RFC 7323 §2.4 (MUST-11)
#[test]
fn a_window_that_was_shut_opens_by_a_segment_at_least_and_the_right_edge_never_moves_left() {
    let mut pair = without_timestamps();
    let (client, server) = pair.established();
    let shift = pair.right.tcp.sock(server.index).expect("a sock").rcv_wscale;
    let from = pair.log.len();
    let data = pattern(400_000);
    let (mut sent, mut got) = (0, 0);
    let mut turn = 0;
    while got < data.len() {
        turn += 1;
        assert!(turn < 100_000, "{got}");
        if let Ok(count) = pair.send(true, client, &data[sent..]) {
            sent += count;
        }
        // The first 300 kB are read in drops, after the window is shut.
        let most = if got < 300_000 { 700 } else { 1 << 20 };
        if turn > 500
            && let Ok(bytes) = pair.receive(false, server, most)
        {
            got += bytes.len();
        }
        pair.run(Duration::from_millis(1));
    }
    let mut edge = None;
    let (mut shut, mut opened) = (false, 0);
    for (_, packet) in pair.sent(false, from) {
        let header = packet.header();
        let window = u32::from(header.window) << shift;
        assert!(!shut || window == 0 || window >= 1_460, "a silly window of {window}");
        opened += u32::from(shut && window > 0);
        shut = window == 0;
        let right = header.ack + window;
        assert!(edge.is_none_or(|edge| !right.before(edge)), "{header:?}");
        edge = Some(right);
    }
    assert!(opened > 0);
}

//= test RFC 9293 §3.8.6.1 (MAY-8, MUST-37)
#[test]
fn a_window_shut_for_hours_ends_nothing_while_probes_are_answered() {
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
    pair.run(Duration::from_secs(3 * 3_600));
    assert_eq!(pair.state(true, client), State::Established);
    // At most one in two minutes by then.
    assert!((90..150).contains(&pair.left.counters.tcp_win_probe), "{}", pair.left.counters.tcp_win_probe);
    assert!(pair.receive(false, server, 1 << 20).expect("data").len() > 60_000);
    // Silence is another thing.
    let (other, _) = {
        pair.filter = Some(|_, _| false);
        (client, server)
    };
    pair.run(Duration::from_secs(3 * 3_600));
    assert_eq!(pair.state(true, other), State::Closed);
}

//= test RFC 9293 §3.8.3 (MUST-20, SHLD-10)
#[test]
fn after_three_repetitions_the_route_is_looked_up_anew_and_much_later_the_connection_ends() {
    let mut pair = Pair::new();
    let (client, _) = pair.established();
    pair.filter = Some(|_, _| false);
    let gateway = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    let row = RouteEntry { gateway: Some(gateway), ..RouteEntry::new(RIGHT, 32, RouteAction::Unicast) };
    pair.left.ip.add_route(row);
    pair.send(true, client, b"lost").expect("room");
    let hop = |pair: &Pair| pair.left.tcp.sock(client.index).expect("a sock").route.map(|route| route.next_hop);
    let mut repetitions = 0;
    while hop(&pair) == Some(RIGHT) {
        repetitions = pair.left.counters.tcp_timeouts;
        let end = pair.now + Duration::from_secs(60);
        assert!(pair.step(end));
    }
    assert_eq!(hop(&pair), Some(gateway));
    // tcp_retries1 is 3: the look-up comes with the fourth timeout.
    assert_eq!(repetitions, 3);
    assert_eq!(pair.state(true, client), State::Established);
    let since = pair.now;
    while pair.state(true, client) == State::Established {
        let end = pair.now + Duration::from_secs(200);
        assert!(pair.step(end));
    }
    assert!(pair.now.since(since) >= Duration::from_secs(100));
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::TimedOut));
}

//= test RFC 9293 §3.9.2.2 (SHLD-25)
#[test]
fn a_connection_that_ends_for_want_of_answers_names_the_error_that_was_reported_before() {
    let mut pair = Pair::new();
    let (client, _) = pair.established();
    set(&mut pair, true, client, &SetOption::UserTimeout(2_000));
    pair.filter = Some(|_, _| false);
    let from = pair.log.len();
    pair.send(true, client, b"lost").expect("room");
    pair.flush();
    let data = pair.sent(true, from)[0].1.clone();
    pair.path_error(true, &data, 1, 0);
    assert_eq!(pair.state(true, client), State::Established);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::HostUnreachable));
}

//= test RFC 6298 §3 (MUST-7)
#[test]
fn every_round_trip_gives_a_sample_with_and_without_timestamps() {
    for timestamps in [0, 1] {
        // Probes of the tail would be repetitions, which give none.
        let settings = Settings { tcp_timestamps: timestamps, tcp_early_retrans: 0, ..Settings::default() };
        let mut pair = Pair::with_settings(settings, 0);
        let (client, _) = pair.established();
        let srtt = |pair: &Pair| pair.left.tcp.sock(client.index).expect("a sock").rtt.shown().0;
        pair.latency = Duration::from_millis(50);
        let mut last = srtt(&pair);
        for _ in 0..5 {
            // More than one segment, so that no ACK is held back.
            pair.send(true, client, &pattern(1_448 * 4)).expect("room");
            pair.run(Duration::from_millis(250));
            let new = srtt(&pair);
            assert!(new > last && new < 150_000, "{last} {new}");
            last = new;
        }
    }
}
