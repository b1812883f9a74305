//! Opening: options, ports, refusal, timing, simultaneous open, what poll and the names say.

use super::*;
use crate::socket::error::SocketFault;

//= test REF C-13
//= test RFC 9293 §3.7.1 (MUST-67)
//= test RFC 7323 §2.2 (MUST-3)
#[test]
fn syn_carries_linux_options_and_an_unscaled_window() {
    let mut pair = Pair::new();
    let client = pair.socket(true);
    assert_eq!(pair.connect(true, client, 80), Err(ConnectError::InProgress));
    assert_eq!(pair.poll(true, client), Readiness::empty());
    pair.flush();
    let syn = pair.log[0].1.header();
    assert_eq!(syn.flags, Flags::SYN);
    assert_eq!(syn.window, 64_240);
    assert_eq!(syn.options.mss, Some(1_460));
    assert_eq!(syn.options.window_scale, Some(7));
    assert!(syn.options.sack_permitted);
    assert!(syn.options.timestamps.is_some_and(|timestamps| timestamps.echo == 0));
}

//= test REF C-19
#[test]
fn three_segments_open_a_connection_and_the_counters_know() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.log.len(), 3);
    assert!(pair.log[1].1.is(Flags::SYN | Flags::ACK));
    assert!(pair.log[2].1.is(Flags::ACK));
    assert_eq!(pair.left.counters.tcp_active_opens, 1);
    assert_eq!(pair.right.counters.tcp_passive_opens, 1);
    assert_eq!(pair.left.counters.tcp_curr_estab, 1);
    assert_eq!(pair.right.counters.tcp_curr_estab, 1);
    assert_eq!(pair.poll(true, client), Readiness::OUT | Readiness::WRNORM);
    assert_eq!(pair.left.tcp.peer_name(client), Some(SocketAddr::new(RIGHT, 80)));
    assert_eq!(pair.right.tcp.local_name(server), SocketAddr::new(RIGHT, 80));
}

//= test REF C-05
#[test]
fn refused_connect_leaves_error_names_and_poll_as_linux() {
    let mut pair = Pair::new();
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 81);
    let port = pair.left.tcp.local_name(client).port();
    pair.run(Duration::from_millis(20));
    let reset = &pair.log[1].1;
    assert!(reset.is(Flags::RST | Flags::ACK));
    assert_eq!(reset.purpose, Purpose::ClosedPort { protocol: 6, port: 81 });
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.poll(true, client).bits(), 0x215d & !0x1 | 0x1);
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::ConnectionRefused));
    assert_eq!(pair.left.counters.tcp_attempt_fails, 1);
    // What the socket layer does after a failed connect.
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.disconnect(net, client));
    assert_eq!(pair.left.tcp.take_error(client), None);
    assert_eq!(pair.poll(true, client).bits(), 0x114);
    assert_eq!(pair.left.tcp.local_name(client), SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    assert!(!pair.left.tcp.is_port_used(port));
    // And it can connect again.
    pair.listen(false, 82, 1);
    assert_eq!(pair.connect(true, client, 82), Err(ConnectError::InProgress));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.state(true, client), State::Established);
}

//= test REF C-14
//= test RFC 9293 §3.8.3 (MUST-22)
#[test]
fn syn_is_repeated_after_1_2_4_seconds_and_given_up_after_six() {
    let mut pair = Pair::with_settings(Settings { tcp_syn_linear_timeouts: 0, ..Settings::default() }, 65_535);
    pair.filter = Some(|_, _| false);
    let start = pair.now;
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_secs(300));
    let times: Vec<u64> = pair.log.iter().map(|(at, _)| u64::try_from(at.since(start).as_millis()).unwrap()).collect();
    assert_eq!(times, [0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000]);
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::TimedOut));
    assert_eq!(pair.left.counters.tcp_abort_on_timeout, 1);
}

#[test]
fn repeated_syn_starts_data_with_one_segment() {
    let mut pair = Pair::new();
    pair.filter = Some(|_, count| count > 1);
    pair.listen(false, 80, 1);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(1_100));
    assert_eq!(pair.state(true, client), State::Established);
    assert_eq!(pair.left.counters.tcp_syn_retrans, 1);
}

//= test REF C-05
//= test RFC 9293 §3.9.2.2 (MUST-54)
#[test]
fn icmp_in_syn_sent_ends_the_attempt_with_the_mapped_error() {
    for (code, fault) in [
        (0, SocketFault::NetworkUnreachable),
        (1, SocketFault::HostUnreachable),
        (3, SocketFault::ConnectionRefused),
        (9, SocketFault::NetworkUnreachable),
        (10, SocketFault::HostUnreachable),
        (13, SocketFault::HostUnreachable),
    ] {
        let mut pair = Pair::new();
        let client = pair.socket(true);
        let _ = pair.connect(true, client, 80);
        pair.flush();
        let syn = pair.log[0].1.clone();
        pair.path_error(true, &syn, code, 0);
        assert_eq!(pair.state(true, client), State::Closed);
        assert_eq!(pair.left.tcp.take_error(client), Some(fault), "code {code}");
        // The message waits for MSG_ERRQUEUE, so the mask keeps its ERR.
        assert!(pair.left.tcp.readiness(client).contains(Readiness::ERR), "code {code}");
    }
}

#[test]
fn icmp_quoting_nothing_in_flight_is_ignored() {
    let mut pair = Pair::new();
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.flush();
    let mut syn = pair.log[0].1.clone();
    syn.bytes[4] ^= 0x40;
    pair.path_error(true, &syn, 3, 0);
    assert_eq!(pair.state(true, client), State::SynSent);
    assert_eq!(pair.left.counters.out_of_window_icmps, 1);
}

//= test RFC 9293 §3.5 (MUST-10)
#[test]
fn simultaneous_open_gives_one_connection() {
    let mut pair = Pair::new();
    let left = pair.socket(true);
    let right = pair.socket(false);
    pair.bind(true, left, 5_000);
    pair.bind(false, right, 5_001);
    let _ = pair.connect(true, left, 5_001);
    let _ = pair.connect(false, right, 5_000);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.state(true, left), State::Established);
    assert_eq!(pair.state(false, right), State::Established);
    pair.send(true, left, b"crossing").expect("room");
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.receive(false, right, 100).expect("data"), b"crossing");
}

#[test]
fn a_socket_can_connect_to_itself() {
    let mut host = Host::new(LEFT, Settings::default(), 0);
    let now = Instant::from_millis(5_000);
    let sock = host.with(now, |tcp, net| tcp.create(net, OWNER, AddressFamily::Inet, 6)).expect("a sock");
    let address = SocketAddr::new(LEFT, 34_567);
    host.with(now, |tcp, net| tcp.bind(net, sock, address)).expect("free");
    assert_eq!(host.with(now, |tcp, net| tcp.connect(net, sock, address)), Err(ConnectError::InProgress));
    for _ in 0..20 {
        while let Some(packet) = host.transmit(now) {
            host.inject(now, &packet);
        }
    }
    assert_eq!(host.tcp.state(sock), State::Established);
    let mut source: &[u8] = b"me";
    host.with(now, |tcp, net| tcp.send(net, sock, &mut source, &SendArguments::default())).expect("room");
    while let Some(packet) = host.transmit(now) {
        host.inject(now, &packet);
    }
    assert_eq!(host.tcp.queued_input(sock), 2);
}

//= test RFC 9293 §3.7.1 (MUST-15, MUST-16)
#[test]
fn silent_peer_gets_536_byte_segments() {
    let mut pair = Pair::new();
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.flush();
    let syn = pair.log[0].1.header();
    let answer = Header {
        source_port: 80,
        destination_port: syn.source_port,
        seq: super::super::sequence::Seq(77),
        ack: syn.seq + 1,
        flags: Flags::SYN | Flags::ACK,
        window: 65_000,
        ..Header::default()
    };
    pair.forge(true, &answer, &[]);
    assert_eq!(pair.state(true, client), State::Established);
    pair.send(true, client, &pattern(3_000)).expect("room");
    let from = pair.log.len();
    pair.flush();
    for (_, packet) in pair.sent(true, from) {
        if !packet.payload().is_empty() {
            assert!(packet.gso_size == 536 || packet.payload().len() <= 536);
            assert!(packet.header().options.timestamps.is_none());
        }
    }
}

//= test REF C-10
#[test]
fn ports_run_out_only_per_destination() {
    let settings = Settings { ip_local_port_range: (40_000, 40_003), ..Settings::default() };
    let mut pair = Pair::with_settings(settings, 0);
    let mut ports = Vec::new();
    for _ in 0..4 {
        let sock = pair.socket(true);
        assert_eq!(pair.connect(true, sock, 80), Err(ConnectError::InProgress));
        ports.push(pair.left.tcp.local_name(sock).port());
    }
    ports.sort_unstable();
    assert_eq!(ports, [40_000, 40_001, 40_002, 40_003]);
    let sock = pair.socket(true);
    assert_eq!(pair.connect(true, sock, 80), Err(ConnectError::NoPort));
    assert_eq!(pair.connect(true, sock, 81), Err(ConnectError::InProgress));
}

#[test]
fn restricted_ports_are_kept_to() {
    let mut pair = Pair::new();
    pair.left.tcp.restrict_ports(alloc::vec![(40_000, 40_001)], false);
    for port in [80, 80] {
        let sock = pair.socket(true);
        assert_eq!(pair.connect(true, sock, port), Err(ConnectError::InProgress));
        assert!((40_000..=40_001).contains(&pair.left.tcp.local_name(sock).port()));
    }
    let sock = pair.socket(true);
    assert_eq!(pair.connect(true, sock, 80), Err(ConnectError::NoPort));
    let now = pair.now;
    let any = SocketAddr::new(LEFT, 0);
    let other = pair.socket(true);
    assert!(pair.left.with(now, |tcp, net| tcp.bind(net, other, any)).is_err());
}

#[test]
fn of_few_ports_a_connect_takes_the_destinations_own_and_those_just_bound_last() {
    let mut pair = Pair::new();
    pair.left.tcp.restrict_ports(alloc::vec![(40_000, 40_003)], false);
    let now = pair.now;
    let bound = pair.socket(true);
    let any = SocketAddr::new(LEFT, 0);
    pair.left.with(now, |tcp, net| tcp.bind(net, bound, any)).unwrap();
    let just_bound = pair.left.tcp.local_name(bound).port();
    pair.left.with(now, |tcp, net| tcp.close(net, bound));
    let own = if just_bound == 40_002 { 40_000 } else { 40_002 };
    let ports = [(); 4].map(|()| {
        let sock = pair.socket(true);
        assert_eq!(pair.connect(true, sock, own), Err(ConnectError::InProgress));
        pair.left.tcp.local_name(sock).port()
    });
    assert!(!ports[..2].contains(&own) && !ports[..2].contains(&just_bound), "{ports:?}");
    let other = pair.socket(true);
    assert_eq!(pair.connect(true, other, own), Err(ConnectError::NoPort));
}

#[test]
fn where_ports_may_grow_a_connect_asks_for_more_before_it_has_tried_all() {
    let mut pair = Pair::new();
    let mut ranges = alloc::vec![(40_000, 40_127)];
    pair.left.tcp.restrict_ports(ranges.clone(), true);
    let connect = |pair: &mut Pair| {
        let sock = pair.socket(true);
        pair.connect(true, sock, 80)
    };
    let mut opened = 0;
    while connect(&mut pair) == Err(ConnectError::InProgress) {
        opened += 1;
    }
    assert!((16..128).contains(&opened), "{opened} before the first refusal");
    ranges.push((50_000, 50_127));
    pair.left.tcp.restrict_ports(ranges.clone(), true);
    assert_eq!(connect(&mut pair), Err(ConnectError::InProgress), "the new ports are tried at once");
    // No more are to be had: now all are tried.
    pair.left.tcp.restrict_ports(ranges, false);
    opened += 1;
    while connect(&mut pair) == Err(ConnectError::InProgress) {
        opened += 1;
    }
    assert_eq!(opened, 256);
}

//= test RFC 5961 §3.2 (MUST-5)
#[test]
fn acceptable_ack_alone_does_not_open_and_wrong_ack_is_reset() {
    let mut pair = Pair::new();
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.flush();
    let syn = pair.log[0].1.header();
    let mut ack = Header {
        source_port: 80,
        destination_port: syn.source_port,
        ack: syn.seq + 2,
        flags: Flags::ACK,
        ..Header::default()
    };
    pair.forge(true, &ack, &[]);
    pair.flush();
    assert!(pair.log[1].1.is(Flags::RST));
    assert_eq!(pair.log[1].1.header().seq, syn.seq + 2);
    ack.ack = syn.seq + 1;
    pair.forge(true, &ack, &[]);
    assert_eq!(pair.state(true, client), State::SynSent);
    // A RST whose ACK does not fit is no refusal.
    let reset = Header { flags: Flags::RST | Flags::ACK, ack: syn.seq + 5, ..ack };
    pair.forge(true, &reset, &[]);
    assert_eq!(pair.state(true, client), State::SynSent);
}

#[test]
fn disconnect_in_syn_sent_leaves_econnreset() {
    let mut pair = Pair::new();
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.disconnect(net, client));
    assert_eq!(pair.poll(true, client).bits(), 0x11c);
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::ConnectionReset));
    assert_eq!(pair.left.counters.tcp_attempt_fails, 0);
}
