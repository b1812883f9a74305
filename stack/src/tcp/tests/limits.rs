//! Bounds: queues of a listener, binds, keepalive, user timeout.

use super::*;
use crate::socket::error::SocketFault;
use crate::socket::options::SetOption;

//= test REF L-02
#[test]
fn full_accept_queue_drops_and_counts_until_accept_makes_room() {
    let mut pair = Pair::with_settings(Settings { tcp_syncookies: 0, ..Settings::default() }, 65_535);
    let listener = pair.listen(false, 80, 1);
    let clients: Vec<SockId> = (0..4)
        .map(|_| {
            let client = pair.socket(true);
            let _ = pair.connect(true, client, 80);
            pair.run(Duration::from_millis(20));
            client
        })
        .collect();
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.poll(false, listener), Readiness::IN | Readiness::RDNORM);
    assert!(pair.right.counters.listen_overflows > 0);
    assert!(pair.right.counters.listen_drops >= pair.right.counters.listen_overflows);
    for _ in 0..4 {
        assert!(pair.accept(false, listener).is_some());
        pair.run(Duration::from_secs(8));
    }
    for client in clients {
        assert_eq!(pair.state(true, client), State::Established);
    }
}

#[test]
fn half_open_requests_are_bounded_and_expire() {
    let mut pair = Pair::with_settings(Settings { tcp_syncookies: 0, ..Settings::default() }, 0);
    let listener = pair.listen(false, 80, 16);
    pair.filter = Some(|packet, _| packet.source == LEFT);
    for port in 1..1_000 {
        let syn = Header { source_port: port, destination_port: 80, flags: Flags::SYN, ..Header::default() };
        pair.forge(false, &syn, &[]);
    }
    assert!(pair.right.counters.tcp_req_q_full_drop > 900);
    assert!(pair.right.tcp.memory() < 20_000);
    let sent = pair.log.len();
    pair.run(Duration::from_secs(70));
    // Each SYN-ACK and two repetitions; then the crowd has half of the listener's room and is thinned out, and the
    // eight that are left get three more.
    assert_eq!(pair.log.len() - sent, 17 * 3 + 8 * 3);
    pair.close(false, listener);
    assert!(pair.right.tcp.is_idle());
}

#[test]
fn bind_conflicts_follow_reuse_options() {
    let mut pair = Pair::new();
    let now = pair.now;
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7_000);
    let own = SocketAddr::new(LEFT, 7_000);
    let bind = |pair: &mut Pair, sock, address| pair.left.with(now, |tcp, net| tcp.bind(net, sock, address)).is_ok();
    let first = pair.socket(true);
    assert!(bind(&mut pair, first, own));
    let second = pair.socket(true);
    assert!(!bind(&mut pair, second, any));
    pair.left.tcp.options_mut(first).expect("sock").reuse_address = true;
    pair.left.tcp.options_mut(second).expect("sock").reuse_address = true;
    assert!(bind(&mut pair, second, any));
    // Two may be bound, one may listen.
    assert!(pair.left.with(now, |tcp, net| tcp.listen(net, first, 1)).is_ok());
    assert!(pair.left.with(now, |tcp, net| tcp.listen(net, second, 1)).is_err());
    assert_eq!(pair.state(true, second), State::Closed);
    let third = pair.socket(true);
    pair.left.tcp.options_mut(third).expect("sock").reuse_address = true;
    assert!(!bind(&mut pair, third, any));
}

#[test]
fn reuse_port_group_shares_the_connections() {
    let mut pair = Pair::new();
    let now = pair.now;
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80);
    let group: Vec<SockId> = (0..2)
        .map(|_| {
            let sock = pair.socket(false);
            pair.right.tcp.options_mut(sock).expect("sock").reuse_port = true;
            pair.right.with(now, |tcp, net| tcp.bind(net, sock, any)).expect("shared");
            pair.right.with(now, |tcp, net| tcp.listen(net, sock, 64)).expect("shared");
            sock
        })
        .collect();
    for _ in 0..40 {
        let client = pair.socket(true);
        let _ = pair.connect(true, client, 80);
    }
    pair.run(Duration::from_millis(100));
    for listener in group {
        let mut count = 0;
        while pair.accept(false, listener).is_some() {
            count += 1;
        }
        assert!((8..=32).contains(&count), "{count}");
    }
}

#[test]
fn child_reset_before_accept_is_still_accepted() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 4);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(50));
    pair.left.tcp.options_mut(client).expect("sock").linger = Some(Duration::ZERO);
    pair.close(true, client);
    pair.run(Duration::from_millis(50));
    let server = pair.accept(false, listener).expect("kept in the queue");
    assert_eq!(pair.receive(false, server, 1), Err(ReceiveError::Fault(SocketFault::ConnectionReset)));
}

//= test REF T-02
#[test]
fn keepalive_finds_a_dead_peer() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let now = pair.now;
    pair.left.tcp.options_mut(client).expect("sock").keepalive = true;
    for option in
        [SetOption::KeepIdle(10), SetOption::KeepInterval(5), SetOption::KeepCount(3), SetOption::KeepAlive(true)]
    {
        pair.left.with(now, |tcp, net| tcp.set_option(net, client, &option)).expect("option");
    }
    pair.run(Duration::from_secs(35));
    assert_eq!(pair.state(true, client), State::Established, "the peer answers");
    assert!(pair.left.counters.tcp_keep_alive >= 3);
    pair.filter = Some(|packet, _| packet.source == LEFT);
    let start = pair.now;
    while pair.state(true, client) == State::Established {
        let end = pair.now + Duration::from_secs(100);
        assert!(pair.step(end));
    }
    let took = pair.now.since(start).as_secs();
    assert!((15..=26).contains(&took), "{took}");
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::TimedOut));
}

//= test RFC 9293 §3.8.3 (MUST-21)
//= test REF T-02
#[test]
fn user_timeout_shortens_the_wait() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.set_option(net, client, &SetOption::UserTimeout(3_000))).expect("option");
    pair.filter = Some(|_, _| false);
    pair.send(true, client, b"lost").expect("room");
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.left.tcp.take_error(client), Some(SocketFault::TimedOut));
}

#[test]
fn option_ranges_are_linux() {
    let mut pair = Pair::new();
    let sock = pair.socket(true);
    let now = pair.now;
    let mut set = |option| pair.left.with(now, |tcp, net| tcp.set_option(net, sock, &option));
    assert!(set(SetOption::KeepIdle(0)).is_err());
    assert!(set(SetOption::KeepIdle(32_768)).is_err());
    assert!(set(SetOption::KeepCount(128)).is_err());
    assert!(set(SetOption::MaxSegment(87)).is_err());
    assert!(set(SetOption::MaxSegment(88)).is_ok());
    assert!(set(SetOption::UserTimeout(-1)).is_err());
    assert!(set(SetOption::Congestion("nonsense".into())).is_err());
    assert!(set(SetOption::Congestion("reno".into())).is_ok());
}

#[test]
fn an_orphan_gives_up_after_eight_repetitions_or_as_many_as_the_setting_says() {
    // 200 ms and 8 doublings are 102.2 s; 2 doublings 1.4 s.
    for (retries, ends) in [(0, 102), (2, 1)] {
        let mut pair = Pair::with_settings(Settings { tcp_orphan_retries: retries, ..Settings::default() }, 0);
        let (client, _) = pair.established();
        pair.filter = Some(|_, _| false);
        pair.send(true, client, b"lost").expect("room");
        pair.close(true, client);
        let closed = pair.now;
        while !pair.left.tcp.is_idle() {
            let end = pair.now + Duration::from_secs(300);
            assert!(pair.step(end));
        }
        let took = pair.now.since(closed).as_secs();
        assert!((ends..=2 * ends + 2).contains(&took), "{retries}: {took} s");
    }
}
