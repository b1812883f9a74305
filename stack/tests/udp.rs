//! UDP sockets through the public calls, two stacks on a virtual network.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::error::{BindError, ConnectError, ReceiveError, SendError, ShutdownError, SocketFault};
use remora_stack::socket::options::SetOption;
use remora_stack::socket::protocol::{
    AddressFamily, Happened, Readiness, ReceiveFlags, Received, SendArguments, SendFlags, Shutdown, SocketId,
    SocketType,
};
use remora_stack::testkit::{Network, address, interface};

const SECOND: Duration = Duration::from_secs(1);

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(last), port)
}

fn socket(network: &mut Network, stack: usize) -> SocketId {
    let now = network.now;
    network.stack(stack).socket(now, AddressFamily::Inet, SocketType::Datagram, 0).unwrap()
}

fn bound(network: &mut Network, stack: usize, to: SocketAddr) -> SocketId {
    let id = socket(network, stack);
    let now = network.now;
    network.stack(stack).bind(now, id, to).unwrap();
    id
}

fn send(
    network: &mut Network,
    stack: usize,
    id: SocketId,
    mut bytes: &[u8],
    to: Option<SocketAddr>,
) -> Result<usize, SendError> {
    let now = network.now;
    network.stack(stack).send(now, id, &mut bytes, &SendArguments { to, ..SendArguments::default() })
}

fn receive(
    network: &mut Network,
    stack: usize,
    id: SocketId,
    room: usize,
    flags: ReceiveFlags,
) -> Result<(Received, Vec<u8>), ReceiveError> {
    let now = network.now;
    let mut sink = Collect::new(room);
    let received = network.stack(stack).receive(now, id, &mut sink, flags)?;
    Ok((received, sink.bytes))
}

fn pair() -> (Network, usize, usize) {
    let mut network = Network::new(1);
    let (a, b) = (network.add(1), network.add(2));
    (network, a, b)
}

fn set(network: &mut Network, stack: usize, id: SocketId, option: SetOption) {
    let now = network.now;
    network.stack(stack).set_option(now, id, &option).unwrap();
}

#[test]
fn chosen_ports_are_spread_over_the_few_that_are_allowed_and_shared_last() {
    let (mut network, left, _) = pair();
    network.stack(left).restrict_ports(&[(50_000, 50_003)], false);
    let mut ports = Vec::new();
    for _ in 0..5 {
        let id = socket(&mut network, left);
        set(&mut network, left, id, SetOption::ReuseAddress(true));
        let now = network.now;
        network.stack(left).bind(now, id, at(1, 0)).unwrap();
        ports.push(network.stack(left).local_name(id).unwrap().port());
    }
    let (mut four, fifth) = (ports[..4].to_vec(), ports[4]);
    four.sort_unstable();
    assert_eq!(four, [50_000, 50_001, 50_002, 50_003]);
    assert!((50_000..=50_003).contains(&fifth));
}

#[test]
fn a_port_that_was_given_back_rests_before_it_is_chosen_again() {
    let (mut network, left, _) = pair();
    network.stack(left).restrict_ports(&[(50_000, 50_039)], false);
    let mut ports = Vec::new();
    for _ in 0..33 {
        let id = socket(&mut network, left);
        let now = network.now;
        network.stack(left).bind(now, id, at(1, 0)).unwrap();
        ports.push(network.stack(left).local_name(id).unwrap().port());
        network.stack(left).close(now, id);
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 33);
}

#[test]
//= test REF D-03
fn datagrams_go_both_ways_and_zero_length_ones_too() {
    let (mut network, a, b) = pair();
    let server = bound(&mut network, b, at(2, 7));
    let client = socket(&mut network, a);
    for bytes in [&b"hello"[..], b"", b"x"] {
        assert_eq!(send(&mut network, a, client, bytes, Some(at(2, 7))), Ok(bytes.len()));
        network.run_for(SECOND);
        let (received, got) = receive(&mut network, b, server, 100, ReceiveFlags::empty()).unwrap();
        assert_eq!(got, bytes);
        let from = received.from.unwrap();
        assert_eq!((from.ip(), received.to), (address(1), Some(address(2))));
        assert_eq!(network.stack(a).local_name(client).unwrap().port(), from.port());
        assert!((32_768..=60_999).contains(&from.port()));
        send(&mut network, b, server, bytes, Some(from)).unwrap();
        network.run_for(SECOND);
        assert_eq!(receive(&mut network, a, client, 100, ReceiveFlags::empty()).unwrap().1, bytes);
    }
    assert_eq!(network.stack(b).counters().udp_in_datagrams, 3);
}

#[test]
//= test REF D-02
fn peek_and_trunc_keep_their_promises() {
    let (mut network, a, b) = pair();
    let server = bound(&mut network, b, at(2, 7));
    let client = socket(&mut network, a);
    send(&mut network, a, client, b"0123456789", Some(at(2, 7))).unwrap();
    network.run_for(SECOND);
    assert_eq!(network.stack(b).queued_input(server), 10);
    let (received, got) = receive(&mut network, b, server, 4, ReceiveFlags::PEEK).unwrap();
    assert_eq!((got.as_slice(), received.length, received.truncated), (&b"0123"[..], 4, true));
    let (received, got) = receive(&mut network, b, server, 4, ReceiveFlags::TRUNC).unwrap();
    assert_eq!((got.as_slice(), received.length, received.truncated), (&b"0123"[..], 10, true));
    assert_eq!(receive(&mut network, b, server, 4, ReceiveFlags::empty()).unwrap_err(), ReceiveError::WouldBlock);
}

//= test RFC 1122 §3.2.1.4 (MUST-13)
//= test RFC 1122 §3.3.2 (MUST-71, SHLD-24)
//= test RFC 1122 §3.3.3 (MAY-19, MUST-75)
#[test]
//= test REF N-01
fn large_datagrams_are_fragmented_and_put_together() {
    let (mut network, a, b) = pair();
    network.conditions.reorder = 300_000;
    let server = bound(&mut network, b, at(2, 7));
    let client = socket(&mut network, a);
    for length in [1_472_usize, 1_473, 9_000, 65_507] {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        assert_eq!(send(&mut network, a, client, &bytes, Some(at(2, 7))), Ok(length));
        network.run_for(SECOND);
        let (_, got) = receive(&mut network, b, server, 70_000, ReceiveFlags::empty()).unwrap();
        assert!(got == bytes, "{length} bytes differ, seed {}", network.seed());
    }
    let sent = network.stack(a).counters();
    assert_eq!((sent.ip_frag_oks, sent.ip_frag_creates), (3, 2 + 7 + 45));
    let received = network.stack(b).counters();
    assert_eq!((received.ip_reasm_oks, received.ip_reasm_reqds, received.ip_reasm_fails), (3, 2 + 7 + 45, 0));
    assert_eq!(send(&mut network, a, client, &[0; 65_508], Some(at(2, 7))), Err(SendError::MessageTooLong));
    set(&mut network, a, client, SetOption::MtuDiscover(2));
    assert_eq!(send(&mut network, a, client, &[0; 1_473], Some(at(2, 7))), Err(SendError::MessageTooLong));
    assert_eq!(send(&mut network, a, client, &[0; 1_472], Some(at(2, 7))), Ok(1_472));
}

#[test]
fn more_collects_one_datagram() {
    let (mut network, a, b) = pair();
    let server = bound(&mut network, b, at(2, 7));
    let client = socket(&mut network, a);
    let now = network.now;
    let more = SendArguments { to: Some(at(2, 7)), flags: SendFlags::MORE, ..SendArguments::default() };
    network.stack(a).send(now, client, &mut &b"one "[..], &more).unwrap();
    send(&mut network, a, client, b"two", Some(at(2, 7))).unwrap();
    network.run_for(SECOND);
    assert_eq!(receive(&mut network, b, server, 100, ReceiveFlags::empty()).unwrap().1, b"one two");
    assert!(receive(&mut network, b, server, 100, ReceiveFlags::empty()).is_err());
}

//= test RFC 1122 §3.3.8 (MUST-35)
//= test RFC 1122 §3.2.2.1 (SHLD-7)
//= test RFC 1122 §3.4 (MUST-89)
#[test]
//= test REF N-05
fn a_closed_port_refuses_a_connected_socket_only() {
    let (mut network, a, b) = pair();
    let free = socket(&mut network, a);
    send(&mut network, a, free, b"x", Some(at(2, 9))).unwrap();
    network.run_for(SECOND);
    assert_eq!(network.stack(a).take_error(free), None);
    let client = socket(&mut network, a);
    let now = network.now;
    network.stack(a).connect(now, client, at(2, 9)).unwrap();
    send(&mut network, a, client, b"x", None).unwrap();
    network.run_for(SECOND);
    assert_eq!(network.stack(b).counters().udp_no_ports, 2);
    assert_eq!(network.stack(b).counters().icmp_out_dest_unreachs, 2);
    assert!(network.stack(a).readiness(client).contains(Readiness::ERR));
    assert_eq!(
        receive(&mut network, a, client, 9, ReceiveFlags::empty()).unwrap_err(),
        ReceiveError::Fault(SocketFault::ConnectionRefused)
    );
    assert_eq!(receive(&mut network, a, client, 9, ReceiveFlags::empty()).unwrap_err(), ReceiveError::WouldBlock);
}

#[test]
//= test REF N-05
fn port_unreachable_is_rate_limited() {
    let (mut network, a, b) = pair();
    let client = socket(&mut network, a);
    send(&mut network, a, client, b"x", Some(at(2, 9))).unwrap();
    network.run_for(Duration::from_millis(10));
    for _ in 0..20 {
        send(&mut network, a, client, b"x", Some(at(2, 9))).unwrap();
    }
    network.run_for(Duration::from_millis(10));
    let counters = network.stack(b).counters();
    assert_eq!((counters.icmp_out_dest_unreachs, counters.icmp_out_rate_limit_host), (6, 15));
}

#[test]
//= test REF C-07
fn kinds_of_destination() {
    let (mut network, a, b) = pair();
    let _ = b;
    let client = socket(&mut network, a);
    let broadcast = SocketAddr::new(Ipv4Addr::BROADCAST.into(), 7);
    for to in [broadcast, at(255, 7)] {
        assert_eq!(send(&mut network, a, client, b"x", Some(to)), Err(SendError::NotPermitted));
        let now = network.now;
        assert_eq!(network.stack(a).connect(now, client, to), Err(ConnectError::NotPermitted));
    }
    let far = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 7);
    assert_eq!(send(&mut network, a, client, b"x", Some(far)), Err(SendError::NetworkUnreachable));
    assert_eq!(network.stack(a).counters().ip_out_no_routes, 1);
    assert_eq!(send(&mut network, a, client, b"x", Some(at(2, 0))), Err(SendError::Invalid));
    assert_eq!(send(&mut network, a, client, b"x", None), Err(SendError::DestinationRequired));
    let looped = bound(&mut network, a, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 70));
    assert_eq!(send(&mut network, a, looped, b"x", Some(at(2, 7))), Err(SendError::Invalid));
    // 0.0.0.0 is loopback for an unbound socket, and the bound address for a bound one.
    send(&mut network, a, client, b"zero", Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 70))).unwrap();
    network.run_for(SECOND);
    let (received, got) = receive(&mut network, a, looped, 9, ReceiveFlags::empty()).unwrap();
    assert_eq!((got.as_slice(), received.from.unwrap().ip()), (&b"zero"[..], IpAddr::V4(Ipv4Addr::LOCALHOST)));
}

//= test RFC 1122 §3.3.6 (SHLD-31, MUST-85)
#[test]
//= test REF D-03
fn broadcasts_reach_every_listener_and_the_sender_too() {
    let (mut network, a, b) = pair();
    let there = bound(&mut network, b, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7));
    let here = bound(&mut network, a, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7));
    let client = socket(&mut network, a);
    set(&mut network, a, client, SetOption::Broadcast(true));
    send(&mut network, a, client, b"all", Some(at(255, 7))).unwrap();
    network.run_for(SECOND);
    assert_eq!(receive(&mut network, b, there, 9, ReceiveFlags::empty()).unwrap().1, b"all");
    assert_eq!(receive(&mut network, a, here, 9, ReceiveFlags::empty()).unwrap().1, b"all");
    assert_eq!(network.stack(b).counters().in_bcast_pkts, 1);
}

//= test RFC 1122 §3.3.7 (SHLD-34)
#[test]
//= test REF D-03
fn multicast_reaches_members_only() {
    let (mut network, a, b) = pair();
    let group: IpAddr = Ipv4Addr::new(239, 1, 2, 3).into();
    let there = bound(&mut network, b, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7));
    let client = socket(&mut network, a);
    send(&mut network, a, client, b"1", Some(SocketAddr::new(group, 7))).unwrap();
    network.run_for(SECOND);
    assert!(receive(&mut network, b, there, 9, ReceiveFlags::empty()).is_err());
    assert_eq!(network.stack(b).counters().ip_group_not_joined, 1);
    set(&mut network, b, there, SetOption::Membership(group, None, true));
    send(&mut network, a, client, b"2", Some(SocketAddr::new(group, 7))).unwrap();
    network.run_for(SECOND);
    assert_eq!(receive(&mut network, b, there, 9, ReceiveFlags::empty()).unwrap().1, b"2");
}

#[test]
fn bind_conflicts_follow_reuse_and_the_latest_gets_the_datagrams() {
    let (mut network, a, b) = pair();
    let wild = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7);
    let first = bound(&mut network, b, wild);
    let second = socket(&mut network, b);
    let now = network.now;
    assert_eq!(network.stack(b).bind(now, second, at(2, 7)), Err(BindError::AddressInUse));
    assert_eq!(network.stack(b).bind(now, second, at(9, 7)), Err(BindError::AddressNotAvailable));
    set(&mut network, b, first, SetOption::ReuseAddress(true));
    assert_eq!(network.stack(b).bind(now, second, at(2, 7)), Err(BindError::AddressInUse));
    set(&mut network, b, second, SetOption::ReuseAddress(true));
    assert_eq!(network.stack(b).bind(now, second, wild), Ok(()));
    assert_eq!(network.stack(b).bind(now, second, wild), Err(BindError::Invalid));
    let client = socket(&mut network, a);
    send(&mut network, a, client, b"x", Some(at(2, 7))).unwrap();
    network.run_for(SECOND);
    assert!(receive(&mut network, b, second, 9, ReceiveFlags::empty()).is_ok());
    assert!(receive(&mut network, b, first, 9, ReceiveFlags::empty()).is_err());
}

#[test]
fn a_connected_socket_hears_its_peer_only_and_beats_the_others() {
    let (mut network, a, b) = pair();
    let wild = bound(&mut network, b, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7));
    let client = bound(&mut network, a, at(1, 5));
    let other = socket(&mut network, a);
    set(&mut network, b, wild, SetOption::ReuseAddress(true));
    let connected = socket(&mut network, b);
    set(&mut network, b, connected, SetOption::ReuseAddress(true));
    let now = network.now;
    network.stack(b).bind(now, connected, at(2, 7)).unwrap();
    network.stack(b).connect(now, connected, at(1, 5)).unwrap();
    assert_eq!(network.stack(b).peer_name(connected), Ok(at(1, 5)));
    send(&mut network, a, client, b"peer", Some(at(2, 7))).unwrap();
    send(&mut network, a, other, b"other", Some(at(2, 7))).unwrap();
    network.run_for(SECOND);
    assert_eq!(receive(&mut network, b, connected, 9, ReceiveFlags::empty()).unwrap().1, b"peer");
    assert_eq!(receive(&mut network, b, wild, 9, ReceiveFlags::empty()).unwrap().1, b"other");
    //= test REF C-02
    network.stack(b).disconnect(now, connected).unwrap();
    assert!(network.stack(b).peer_name(connected).is_err());
    assert_eq!(network.stack(b).local_name(connected), Ok(at(2, 7)));
}

#[test]
//= test REF C-21
fn shutting_a_fresh_socket_fails_and_yet_wakes() {
    let (mut network, a, _) = pair();
    let id = socket(&mut network, a);
    let now = network.now;
    while network.stack(a).poll_event().is_some() {}
    assert_eq!(network.stack(a).shutdown(now, id, Shutdown::Both), Err(ShutdownError::NotConnected));
    assert_eq!(network.stack(a).poll_event(), Some((id, Happened::STATE)));
    assert_eq!(network.stack(a).poll_event(), None);
    let mask = Readiness::IN | Readiness::OUT | Readiness::RDHUP | Readiness::HUP;
    assert!(network.stack(a).readiness(id).contains(mask));
    assert_eq!(send(&mut network, a, id, b"x", Some(at(2, 7))), Err(SendError::BrokenPipe));
    assert_eq!(receive(&mut network, a, id, 9, ReceiveFlags::empty()).unwrap().0.length, 0);
    assert_eq!(receive(&mut network, a, id, 9, ReceiveFlags::DONTWAIT).unwrap_err(), ReceiveError::WouldBlock);
}

#[test]
//= test REF T-06
fn the_receive_queue_is_bounded() {
    let (mut network, a, b) = pair();
    let server = bound(&mut network, b, at(2, 7));
    set(&mut network, b, server, SetOption::ReceiveBuffer(0, false));
    let client = socket(&mut network, a);
    for _ in 0..10 {
        send(&mut network, a, client, b"x", Some(at(2, 7))).unwrap();
    }
    network.run_for(SECOND);
    let counters = network.stack(b).counters();
    assert_eq!((counters.udp_in_datagrams, counters.udp_rcvbuf_errors, counters.udp_in_errors), (2, 8, 8));
    assert_eq!(network.stack(b).memory(), 2 * 768);
    let now = network.now;
    network.stack(b).close(now, server);
    network.stack(a).close(now, client);
    assert!(network.stack(a).is_idle() && network.stack(b).is_idle());
}

#[test]
fn a_device_that_has_gone_says_so() {
    let (mut network, a, _) = pair();
    let client = socket(&mut network, a);
    let now = network.now;
    network.stack(a).detach(now);
    assert_eq!(send(&mut network, a, client, b"x", Some(at(2, 7))), Err(SendError::Fault(SocketFault::NetworkDown)));
    network.stack(a).attach(now, interface(1));
    assert_eq!(send(&mut network, a, client, b"x", Some(at(2, 7))), Ok(1));
}

#[test]
fn an_inet6_socket_carries_ipv4() {
    let (mut network, a, b) = pair();
    let now = network.now;
    let six = network.stack(b).socket(now, AddressFamily::Inet6, SocketType::Datagram, 0).unwrap();
    network.stack(b).bind(now, six, "[::]:7".parse().unwrap()).unwrap();
    let four = socket(&mut network, b);
    assert_eq!(network.stack(b).bind(now, four, at(2, 7)), Err(BindError::AddressInUse));
    let client = socket(&mut network, a);
    send(&mut network, a, client, b"x", Some(at(2, 7))).unwrap();
    network.run_for(SECOND);
    assert_eq!(receive(&mut network, b, six, 9, ReceiveFlags::empty()).unwrap().0.from.unwrap().ip(), address(1));
    assert_eq!(
        send(&mut network, b, six, b"x", Some("[2001:db8::1]:7".parse().unwrap())),
        Err(SendError::NetworkUnreachable)
    );
}

#[test]
//= test REF D-03
fn a_flood_while_the_address_is_probed_waits_and_loses_nothing() {
    let mut network = Network::new(3);
    let mut config = interface(1);
    config.probe = true;
    let a = network.add_with(&config, Settings::default());
    let b = network.add(2);
    let server = bound(&mut network, b, at(2, 7));
    set(&mut network, b, server, SetOption::ReceiveBuffer(4 << 20, true));
    let client = socket(&mut network, a);
    let datagram = [7; 1_000];
    let (mut accepted, mut arrived) = (0, 0);
    loop {
        match send(&mut network, a, client, &datagram, Some(at(2, 7))) {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!(error, SendError::WouldBlock);
                break;
            }
        }
        assert!(accepted < 10_000, "nothing holds the sender back");
        network.run_for(Duration::from_micros(1));
    }
    assert!(accepted > 50, "{accepted} were taken");
    assert!(!network.stack(a).readiness(client).contains(Readiness::OUT));
    let done = network.run_until(SECOND, |network| {
        while receive(network, b, server, 2_000, ReceiveFlags::empty()).is_ok() {
            arrived += 1;
        }
        arrived == accepted
    });
    assert!(done, "{arrived} of {accepted} arrived");
    assert!(network.stack(a).readiness(client).contains(Readiness::OUT));
    assert!(send(&mut network, a, client, &datagram, Some(at(2, 7))).is_ok());
}

#[test]
//= test REF L-03
fn reuse_port_spreads_datagrams_evenly_and_a_sender_stays_with_one() {
    let (mut network, left, right) = pair();
    let group: Vec<SocketId> = (0..4)
        .map(|_| {
            let id = socket(&mut network, right);
            let now = network.now;
            network.stack(right).set_option(now, id, &SetOption::ReusePort(true)).unwrap();
            network.stack(right).bind(now, id, at(2, 5_000)).unwrap();
            id
        })
        .collect();
    let senders: Vec<SocketId> = (0..200).map(|port| bound(&mut network, left, at(1, 20_000 + port))).collect();
    for _ in 0..2 {
        for sender in &senders {
            send(&mut network, left, *sender, b"x", Some(at(2, 5_000))).unwrap();
        }
        network.run_for(SECOND);
    }
    let mut seen: Vec<Vec<u16>> = Vec::new();
    for id in group {
        let mut from = Vec::new();
        while let Ok((received, _)) = receive(&mut network, right, id, 10, ReceiveFlags::empty()) {
            from.push(received.from.unwrap().port());
        }
        seen.push(from);
    }
    assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), 400);
    for mut ports in seen {
        assert!((50..150).contains(&ports.len()), "{}", ports.len());
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len() * 2, all);
    }
}
