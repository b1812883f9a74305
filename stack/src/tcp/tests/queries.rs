//! What others ask TCP for: whether somebody is there, what memory it takes, what a socket filter leaves of a segment.

use super::*;
use crate::socket::filter::{Instruction, Program};
use crate::socket::protocol::{Happened, Protocol as _};

const TO: SocketAddr = SocketAddr::new(RIGHT, 80);

/// A filter that takes so many bytes of each segment, counted from its header on (`BPF_RET | BPF_K`).
fn filter(pair: &mut Pair, left: bool, sock: SockId, bytes: u32) {
    let program = Program::new(&[Instruction { code: 6, k: bytes, ..Instruction::default() }]).expect("a program");
    pair.side(left).tcp.options_mut(sock).expect("options").filter = Some(program);
}

#[test]
fn a_filter_cuts_a_segment_and_what_is_cut_comes_again() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    // 20 bytes of header and 12 of timestamps come first.
    filter(&mut pair, false, server, 32 + 600);
    assert_eq!(pair.send(true, client, &pattern(1_000)), Ok(1_000));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.receive(false, server, 2_000), Ok(pattern(1_000)[..600].to_vec()));
    assert_eq!(pair.left.tcp.queued_output(client), 400, "what was cut is not acknowledged");
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.receive(false, server, 2_000), Ok(pattern(1_000)[600..].to_vec()));
    assert_eq!(pair.left.tcp.queued_output(client), 0);
}

#[test]
fn a_filter_may_take_all_or_nothing() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    filter(&mut pair, false, server, 32 + 100);
    assert_eq!(pair.send(true, client, &pattern(100)), Ok(100));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.receive(false, server, 200), Ok(pattern(100)), "to the byte");
    // The header is never cut: an ACK gets through.
    filter(&mut pair, true, client, 1);
    assert_eq!(pair.send(true, client, &pattern(50)), Ok(50));
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.left.tcp.queued_output(client), 0);
    assert_eq!(pair.send(false, server, &pattern(10)), Ok(10));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.receive(true, client, 100), Err(ReceiveError::WouldBlock), "but data is");
    // Nothing: dropped as if it had never come.
    filter(&mut pair, false, server, 0);
    let _ = pair.receive(false, server, 100);
    assert_eq!(pair.send(true, client, &pattern(10)), Ok(10));
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.receive(false, server, 100), Err(ReceiveError::WouldBlock));
}

#[test]
fn a_receiver_is_a_connection_or_a_listener_that_hears_the_address() {
    let mut pair = Pair::new();
    let from = SocketAddr::new(LEFT, 1_000);
    assert!(!pair.right.tcp.has_receiver(from, TO));
    let listener = pair.listen(false, 80, 4);
    assert!(pair.right.tcp.has_receiver(from, TO));
    assert!(!pair.right.tcp.has_receiver(from, SocketAddr::new(RIGHT, 81)));
    pair.close(false, listener);
    assert!(!pair.right.tcp.has_receiver(from, TO));
    let now = pair.now;
    let bind = |pair: &mut Pair, family, at: IpAddr, v6_only: bool| {
        pair.right.with(now, |tcp, net| {
            let sock = tcp.create(net, OWNER, family, 6).expect("a sock");
            tcp.options_mut(sock).expect("options").v6_only = v6_only;
            tcp.bind(net, sock, SocketAddr::new(at, 80)).expect("a port");
            tcp.listen(net, sock, 1).expect("listening");
            sock
        })
    };
    let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
    let sock = bind(&mut pair, AddressFamily::Inet, elsewhere, false);
    assert!(!pair.right.tcp.has_receiver(from, TO), "another address");
    pair.close(false, sock);
    let six = IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED);
    let sock = bind(&mut pair, AddressFamily::Inet6, six, true);
    assert!(!pair.right.tcp.has_receiver(from, TO), "IPv6 alone");
    pair.close(false, sock);
    bind(&mut pair, AddressFamily::Inet6, six, false);
    assert!(pair.right.tcp.has_receiver(from, TO));
}

#[test]
fn a_connection_is_there_for_its_peer_until_it_ends_and_its_peer_is_known_after_that() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let from = pair.left.tcp.local_name(client);
    assert!(pair.right.tcp.has_receiver(from, TO));
    assert!(!pair.right.tcp.has_receiver(SocketAddr::new(LEFT, from.port() ^ 1), TO));
    assert_eq!(pair.right.tcp.peer_name(server), Some(from));
    let now = pair.now;
    pair.left.with(now, |tcp, net| {
        tcp.options_mut(client).expect("options").linger = Some(Duration::ZERO);
        tcp.close(net, client);
    });
    pair.run(Duration::from_millis(20));
    assert!(!pair.right.tcp.has_receiver(from, TO));
    assert_eq!(pair.right.tcp.peer_name(server), None);
    assert_eq!(pair.right.tcp.last_peer(server), Some(from));
    assert_eq!(pair.left.tcp.last_peer(client), None, "the sock is gone");
}

#[test]
fn memory_is_what_sockets_requests_and_queues_take() {
    let mut pair = Pair::new();
    assert_eq!(pair.right.tcp.memory(), 0);
    let listener = pair.listen(false, 80, 4);
    let sock = pair.right.tcp.memory();
    assert!(sock > 100);
    let another = pair.socket(false);
    assert_eq!(pair.right.tcp.memory(), 2 * sock, "each the same");
    pair.close(false, another);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(50));
    let server = pair.accept(false, listener).expect("a connection");
    let (left, right) = (pair.left.tcp.memory(), pair.right.tcp.memory());
    assert_eq!(pair.send(true, client, &pattern(30_000)), Ok(30_000));
    assert!(pair.left.tcp.memory() >= left + 30_000);
    pair.run(Duration::from_secs(1));
    assert!(pair.right.tcp.memory() >= right + 30_000);
    assert!(pair.left.tcp.memory() < left + 30_000, "acknowledged");
    assert_eq!(pair.receive(false, server, 30_000).map(|bytes| bytes.len()), Ok(30_000));
    assert!(pair.right.tcp.memory() < right + 30_000, "read");
}

#[test]
fn input_that_is_withheld_is_neither_told_nor_read_until_it_is_given_back() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let withhold = |pair: &mut Pair, withheld: bool| {
        let now = pair.now;
        pair.right.with(now, |tcp, net| tcp.withhold_input(net, server, withheld));
        core::iter::from_fn(|| pair.right.tcp.poll_event()).any(|(_, happened)| happened.contains(Happened::INPUT))
    };
    assert_eq!(pair.send(true, client, b"ab"), Ok(2));
    pair.run(Duration::from_millis(20));
    while pair.right.tcp.poll_event().is_some() {}
    assert!(pair.poll(false, server).contains(Readiness::IN));
    assert!(!withhold(&mut pair, true));
    assert!(!pair.poll(false, server).intersects(Readiness::IN | Readiness::RDNORM));
    assert!(pair.poll(false, server).contains(Readiness::OUT));
    assert_eq!(pair.receive(false, server, 10), Err(ReceiveError::WouldBlock));
    assert!(!withhold(&mut pair, true));
    assert!(withhold(&mut pair, false), "whoever waits is told");
    assert!(!withhold(&mut pair, false), "once");
    assert_eq!(pair.receive(false, server, 10), Ok(b"ab".to_vec()));
}

#[test]
fn what_was_read_may_be_given_back() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(true, client, b"abcdef"), Ok(6));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.receive(false, server, 4), Ok(b"abcd".to_vec()));
    let now = pair.now;
    pair.right.with(now, |tcp, net| tcp.put_back(net, server, b"cd"));
    assert_eq!(pair.right.tcp.queued_input(server), 4);
    assert_eq!(pair.receive(false, server, 10), Ok(b"cdef".to_vec()));
    assert_eq!(pair.send(true, client, b"gh"), Ok(2));
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.receive(false, server, 10), Ok(b"gh".to_vec()));
    assert_eq!(pair.right.tcp.queued_input(server), 0);
}
