//! Who may have a port beside whom (`inet_csk_bind_conflict`), and which listener hears a SYN (`compute_score`).

use core::net::Ipv6Addr;

use super::*;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_SIX: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// What a socket has set before it is bound.
#[derive(Clone, Copy, Default)]
struct Wish {
    reuse_address: bool,
    reuse_port: bool,
    v6_only: bool,
}

const PLAIN: Wish = Wish { reuse_address: false, reuse_port: false, v6_only: false };
const ADDRESS: Wish = Wish { reuse_address: true, ..PLAIN };
const PORT: Wish = Wish { reuse_port: true, ..PLAIN };

fn bound(pair: &mut Pair, at: IpAddr, wish: Wish) -> Option<SockId> {
    let now = pair.now;
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    pair.right.with(now, |tcp, net| {
        let sock = tcp.create(net, OWNER, family, 6).expect("a sock");
        let options = tcp.options_mut(sock).expect("options");
        options.reuse_address = wish.reuse_address;
        options.reuse_port = wish.reuse_port;
        options.v6_only = wish.v6_only;
        tcp.bind(net, sock, SocketAddr::new(at, 80)).ok().map(|()| sock)
    })
}

fn listen(pair: &mut Pair, sock: SockId) -> bool {
    let now = pair.now;
    pair.right.with(now, |tcp, net| tcp.listen(net, sock, 4)).is_ok()
}

#[test]
fn a_port_is_shared_by_those_who_all_agree() {
    // First, does it listen, second, may the second have the port too.
    let table = [
        (PLAIN, false, PLAIN, false),
        (ADDRESS, false, PLAIN, false),
        (PLAIN, false, ADDRESS, false),
        (ADDRESS, false, ADDRESS, true),
        (ADDRESS, true, ADDRESS, false),
        (PORT, false, PLAIN, false),
        (PLAIN, false, PORT, false),
        (PORT, false, PORT, true),
        (PORT, true, PORT, true),
        (PORT, false, ADDRESS, false),
        (ADDRESS, false, PORT, false),
    ];
    for (row, (first, listens, second, fits)) in table.into_iter().enumerate() {
        let mut pair = Pair::new();
        let sock = bound(&mut pair, RIGHT, first).expect("a free port");
        assert!(!listens || listen(&mut pair, sock));
        assert_eq!(bound(&mut pair, RIGHT, second).is_some(), fits, "row {row}");
    }
}

#[test]
fn addresses_that_do_not_meet_share_a_port() {
    let six_only = Wish { v6_only: true, ..PLAIN };
    let table = [
        (RIGHT, PLAIN, OTHER, PLAIN, true),
        (RIGHT, PLAIN, ANY, PLAIN, false),
        (ANY, PLAIN, OTHER, PLAIN, false),
        // `::` takes IPv4's, too, unless IPV6_V6ONLY is set.
        (ANY_SIX, PLAIN, ANY, PLAIN, false),
        (ANY_SIX, six_only, ANY, PLAIN, true),
        (ANY, PLAIN, ANY_SIX, six_only, true),
        (ANY_SIX, six_only, ANY_SIX, six_only, false),
        (ANY_SIX, PLAIN, OTHER, PLAIN, false),
        (ANY_SIX, six_only, OTHER, PLAIN, true),
    ];
    for (row, (first, wish, second, other, fits)) in table.into_iter().enumerate() {
        let mut pair = Pair::new();
        bound(&mut pair, first, wish).expect("a free port");
        assert_eq!(bound(&mut pair, second, other).is_some(), fits, "row {row}");
    }
}

#[test]
fn a_port_in_time_wait_is_free_for_those_who_agree() {
    for (first, second, fits) in [
        (PLAIN, PLAIN, false),
        (ADDRESS, PLAIN, false),
        (PLAIN, ADDRESS, false),
        (ADDRESS, ADDRESS, true),
        (PORT, PORT, true),
        (PORT, PLAIN, false),
        (PLAIN, PORT, false),
    ] {
        let mut pair = Pair::new();
        let listener = bound(&mut pair, RIGHT, first).expect("a free port");
        assert!(listen(&mut pair, listener));
        let client = pair.socket(true);
        let _ = pair.connect(true, client, 80);
        pair.run(Duration::from_millis(50));
        let server = pair.accept(false, listener).expect("a connection");
        pair.close(false, listener);
        pair.close(false, server);
        pair.run(Duration::from_millis(50));
        pair.close(true, client);
        pair.run(Duration::from_millis(200));
        assert!(pair.right.tcp.is_port_used(80));
        assert_eq!(pair.right.tcp.is_port_reusable(80), first.reuse_address || first.reuse_port);
        assert!(bound(&mut pair, OTHER, PLAIN).is_some(), "another address meets nobody");
        assert_eq!(bound(&mut pair, RIGHT, second).is_some(), fits);
    }
}

#[test]
fn a_port_is_reusable_when_all_on_it_say_so() {
    let mut pair = Pair::new();
    assert!(pair.right.tcp.is_port_reusable(80));
    bound(&mut pair, RIGHT, ADDRESS).expect("a free port");
    assert!(pair.right.tcp.is_port_reusable(80));
    bound(&mut pair, OTHER, PORT).expect("another address");
    assert!(!pair.right.tcp.is_port_reusable(80), "one shares the one way, one the other");
    let mut pair = Pair::new();
    bound(&mut pair, RIGHT, PLAIN).expect("a free port");
    assert!(!pair.right.tcp.is_port_reusable(80));
}

/// Which of the listeners, by their number, has the connection.
fn taker(listeners: &[(IpAddr, Wish)]) -> Option<usize> {
    let mut pair = Pair::new();
    let mut socks = Vec::new();
    for (at, wish) in listeners {
        let sock = bound(&mut pair, *at, Wish { reuse_address: true, reuse_port: true, ..*wish }).expect("a port");
        assert!(listen(&mut pair, sock));
        socks.push(sock);
    }
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(50));
    socks.iter().position(|sock| pair.accept(false, *sock).is_some())
}

#[test]
fn the_most_specific_listener_hears_a_syn() {
    let six_only = Wish { v6_only: true, ..PLAIN };
    assert_eq!(taker(&[(ANY, PLAIN), (RIGHT, PLAIN)]), Some(1));
    assert_eq!(taker(&[(RIGHT, PLAIN), (ANY, PLAIN)]), Some(0));
    assert_eq!(taker(&[(OTHER, PLAIN), (ANY, PLAIN)]), Some(1));
    assert_eq!(taker(&[(OTHER, PLAIN)]), None);
    // One of IPv4 before one of both.
    assert_eq!(taker(&[(ANY_SIX, PLAIN), (ANY, PLAIN)]), Some(1));
    assert_eq!(taker(&[(ANY, PLAIN), (ANY_SIX, PLAIN)]), Some(0));
    // An address of one's own outweighs the family.
    assert_eq!(taker(&[(ANY_SIX, PLAIN), (RIGHT, PLAIN)]), Some(1));
    assert_eq!(taker(&[(ANY_SIX, PLAIN)]), Some(0));
    assert_eq!(taker(&[(ANY_SIX, six_only)]), None);
    assert_eq!(taker(&[(ANY_SIX, six_only), (ANY, PLAIN)]), Some(1));
}

#[test]
fn a_group_of_listeners_shares_connections_until_one_leaves() {
    let mut pair = Pair::new();
    let listeners: Vec<SockId> = (0..2)
        .map(|_| {
            let sock = bound(&mut pair, ANY, PORT).expect("a port");
            assert!(listen(&mut pair, sock));
            sock
        })
        .collect();
    let connect = |pair: &mut Pair, count: usize| {
        for _ in 0..count {
            let client = pair.socket(true);
            let _ = pair.connect(true, client, 80);
            pair.run(Duration::from_millis(20));
        }
        let mut taken = [0; 2];
        for (number, listener) in listeners.iter().enumerate() {
            while pair.accept(false, *listener).is_some() {
                taken[number] += 1;
            }
        }
        taken
    };
    let mut all = [0; 2];
    for _ in 0..8 {
        let taken = connect(&mut pair, 3);
        all = [all[0] + taken[0], all[1] + taken[1]];
    }
    assert_eq!(all[0] + all[1], 24);
    assert!(all.iter().all(|count| *count > 3), "{all:?}");
    pair.close(false, listeners[0]);
    assert_eq!(connect(&mut pair, 3), [0, 3]);
}

#[test]
fn a_socket_is_bound_once() {
    let mut pair = Pair::new();
    let sock = bound(&mut pair, RIGHT, PLAIN).expect("a free port");
    let now = pair.now;
    let mut again =
        |sock, port| pair.right.with(now, |tcp, net| tcp.bind(net, sock, SocketAddr::new(OTHER, port)).is_ok());
    assert!(!again(sock, 81));
    assert!(!again(sock, 80));
    // What failed leaves the socket as it was.
    let other = bound(&mut pair, OTHER, PLAIN).expect("another address");
    assert_eq!(pair.right.tcp.local_name(sock), SocketAddr::new(RIGHT, 80));
    assert_eq!(pair.right.tcp.local_name(other), SocketAddr::new(OTHER, 80));
}

#[test]
fn a_bind_that_fails_leaves_no_address() {
    let mut pair = Pair::new();
    bound(&mut pair, RIGHT, PLAIN).expect("a free port");
    let now = pair.now;
    let sock = pair.socket(false);
    let result = pair.right.with(now, |tcp, net| tcp.bind(net, sock, SocketAddr::new(RIGHT, 80)));
    assert!(result.is_err());
    assert_eq!(pair.right.tcp.local_name(sock), SocketAddr::new(ANY, 0));
    // Port 0 with IP_BIND_ADDRESS_NO_PORT: the port is chosen by connect.
    let now = pair.now;
    pair.right.with(now, |tcp, _| tcp.options_mut(sock).expect("options").bind_address_no_port = true);
    pair.right.with(now, |tcp, net| tcp.bind(net, sock, SocketAddr::new(RIGHT, 0))).expect("no port");
    assert_eq!(pair.right.tcp.held_port(sock), 0);
}
