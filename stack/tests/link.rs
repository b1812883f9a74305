//! Neighbours, the conflict probe, echo, loopback and path MTU between stacks on a virtual network.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use remora_stack::interface::InterfaceConfig;
use remora_stack::io::Collect;
use remora_stack::ip::{Ip, RouteError, RouteKey};
use remora_stack::settings::Settings;
use remora_stack::socket::error::{ReceiveError, SocketFault};
use remora_stack::socket::options::{OptionName, OptionValue, SetOption, Through};
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::testkit::{Network, address, interface};

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(last), port)
}

fn client(network: &mut Network, stack: usize) -> SocketId {
    let now = network.now;
    network.stack(stack).socket(now, AddressFamily::Inet, SocketType::Datagram, 0).unwrap()
}

fn server(network: &mut Network, stack: usize) -> SocketId {
    let id = client(network, stack);
    let now = network.now;
    network.stack(stack).bind(now, id, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7)).unwrap();
    id
}

fn send(network: &mut Network, stack: usize, id: SocketId, to: SocketAddr, length: usize) {
    let now = network.now;
    let bytes = vec![1; length];
    let arguments = SendArguments { to: Some(to), ..SendArguments::default() };
    network.stack(stack).send(now, id, &mut bytes.as_slice(), &arguments).unwrap();
}

fn arp_frames(network: &Network) -> usize {
    network.captured().iter().filter(|(_, frame)| frame.get(12..14) == Some(&[8, 6])).count()
}

fn probing(last: u8) -> InterfaceConfig {
    InterfaceConfig { probe: true, ..interface(last) }
}

//= test RFC 1122 §3.3.1.1 (MUST-60)
//= test RFC 1122 §3.3.1.4 (SHLD-22, MUST-65, MUST-66)
#[test]
//= test REF N-04
fn packets_wait_for_one_request_and_go_in_order() {
    let mut network = Network::new(1);
    let (a, b) = (network.add(1), network.add(2));
    network.capture();
    let (from, to) = (client(&mut network, a), server(&mut network, b));
    for length in 1..=3 {
        send(&mut network, a, from, at(2, 7), length);
    }
    network.run_for(Duration::from_millis(1));
    assert_eq!(arp_frames(&network), 2, "one request, one reply");
    for length in 1..=3 {
        assert_eq!(network.stack(b).queued_input(to), length);
        let now = network.now;
        network.stack(b).receive(now, to, &mut Collect::new(9), ReceiveFlags::empty()).unwrap();
    }
    // The reply's way back needs no request: the asker was learnt. An idle stack has no deadline.
    send(&mut network, b, to, at(1, 99), 1);
    network.run_for(Duration::from_millis(1));
    assert_eq!(network.stack(a).next_timeout(), None);
    assert_eq!(arp_frames(&network), 2);
    // It is stale, however, so it is checked 5 s after its use.
    network.run_for(Duration::from_secs(6));
    assert_eq!(arp_frames(&network), 4);
    assert_eq!(network.stack(b).next_timeout(), None);
}

//= test RFC 1122 §3.3.1.4 (MUST-64)
#[test]
//= test REF N-04
fn a_silent_neighbour_is_asked_three_times_and_then_unreachable() {
    let mut network = Network::new(1);
    let a = network.add(1);
    network.capture();
    let id = client(&mut network, a);
    let now = network.now;
    network.stack(a).connect(now, id, at(9, 7)).unwrap();
    network.stack(a).set_option(now, id, &SetOption::ReceiveErrors(true)).unwrap();
    send(&mut network, a, id, at(9, 7), 1);
    network.run_for(Duration::from_millis(2_900));
    assert_eq!(arp_frames(&network), 3);
    assert_eq!(network.stack(a).take_error(id), None);
    network.run_for(Duration::from_millis(200));
    assert_eq!(network.stack(a).take_error(id), Some(SocketFault::HostUnreachable));
    assert_eq!(network.stack(a).counters().neighbour_failures, 1);
    assert_eq!(network.stack(a).next_timeout(), None);
}

#[test]
//= test REF N-04
fn the_queue_for_a_neighbour_is_bounded_and_loses_the_oldest() {
    let mut network = Network::new(1);
    let a = network.add_with(&interface(1), Settings { neigh_unres_qlen_bytes: 3_000, ..Settings::default() });
    let b = network.add(2);
    let (from, to) = (client(&mut network, a), server(&mut network, b));
    for length in [1_001, 1_002, 1_003, 1_004] {
        send(&mut network, a, from, at(2, 7), length);
    }
    network.run_for(Duration::from_millis(1));
    assert_eq!(network.stack(a).counters().neighbour_queue_drops, 2);
    assert_eq!(network.stack(b).queued_input(to), 1_003);
}

#[test]
//= test REF N-04
fn only_our_own_address_is_answered() {
    let mut network = Network::new(1);
    let (a, _) = (network.add(1), network.add(2));
    network.capture();
    let from = client(&mut network, a);
    send(&mut network, a, from, at(3, 7), 1);
    network.run_for(Duration::from_millis(500));
    assert_eq!(arp_frames(&network), 1);
}

#[test]
//= test REF N-04
fn the_address_is_probed_announced_and_then_used() {
    let mut network = Network::new(1);
    let b = network.add(2);
    network.capture();
    let a = network.add_with(&probing(1), Settings::default());
    let (from, to) = (client(&mut network, a), server(&mut network, b));
    send(&mut network, a, from, at(2, 7), 5);
    network.run_for(Duration::from_millis(99));
    assert_eq!(arp_frames(&network), 2, "two probes");
    assert_eq!(network.stack(b).queued_input(to), 0);
    network.run_for(Duration::from_millis(3));
    assert_eq!(arp_frames(&network), 5, "announcement, request, reply");
    assert_eq!(network.stack(b).queued_input(to), 5);
    let probe = &network.captured()[0].1;
    assert_eq!((&probe[28..32], &probe[38..42]), (&[0; 4][..], &[10, 0, 0, 1][..]));
    assert!(!network.stack(a).is_address_contested());
}

/// tcpi_rtt and tcpi_rto, in microseconds.
fn round_trip(network: &mut Network, stack: usize, id: SocketId) -> (u32, u32) {
    let now = network.now;
    let Ok(OptionValue::Bytes(info)) = network.stack(stack).option(now, id, OptionName::Info) else {
        panic!("no TCP_INFO");
    };
    let field = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap());
    (field(68), field(8))
}

#[test]
//= test REF N-04
fn the_wait_for_our_own_address_is_no_round_trip() {
    let mut network = Network::new(1);
    let b = network.add(2);
    let a = network.add_with(&probing(1), Settings::default());
    let now = network.now;
    let listening = network.stack(b).socket(now, AddressFamily::Inet, SocketType::Stream, 0).unwrap();
    network.stack(b).bind(now, listening, at(2, 80)).unwrap();
    network.stack(b).listen(now, listening, 5).unwrap();
    let id = network.stack(a).socket(now, AddressFamily::Inet, SocketType::Stream, 0).unwrap();
    let _ = network.stack(a).connect(now, id, at(2, 80));
    network.run_for(Duration::from_millis(150));
    let now = network.now;
    assert_eq!(network.stack(a).finish_connect(now, id), Some(Ok(())));
    let (rtt, rto) = round_trip(&mut network, a, id);
    assert!(rtt < 20_000, "{rtt} us");
    assert!(rto <= 220_000, "{rto} us");
}

#[test]
//= test REF N-04
fn an_address_that_another_has_is_not_used() {
    let mut network = Network::new(1);
    let first = network.add(1);
    let mut second = probing(1);
    second.mac.0[0] = 0x06;
    let second = network.add_with(&second, Settings::default());
    let id = client(&mut network, second);
    let now = network.now;
    network.stack(second).set_option(now, id, &SetOption::ReceiveErrors(true)).unwrap();
    send(&mut network, second, id, at(2, 7), 5);
    network.run_for(Duration::from_millis(200));
    assert!(network.stack(second).is_address_contested());
    assert_eq!(network.stack(second).counters().arp_conflicts, 1);
    let error = network.stack(second).receive(now, id, &mut Collect::new(1), ReceiveFlags::empty()).unwrap_err();
    assert_eq!(error, ReceiveError::Fault(SocketFault::HostUnreachable));
    assert!(!network.stack(first).is_address_contested());
}

#[test]
//= test REF N-04
fn a_claim_on_our_address_is_answered_by_one_announcement_in_ten_seconds() {
    let mut network = Network::new(1);
    let a = network.add(1);
    network.capture();
    let mut claim = vec![0xff; 6];
    claim.extend_from_slice(&[2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9, 10, 0, 0, 1]);
    claim.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    for _ in 0..3 {
        network.inject(a, &claim);
        network.run_for(Duration::from_secs(1));
    }
    assert_eq!((network.stack(a).counters().arp_conflicts, arp_frames(&network)), (3, 1));
    network.run_for(Duration::from_secs(10));
    network.inject(a, &claim);
    network.run_for(Duration::from_secs(1));
    assert_eq!(arp_frames(&network), 2);
}

//= test RFC 1122 §3.1 (MUST-1)
//= test RFC 1122 §3.2.2.6 (MUST-43, SHLD-13, MUST-44, MUST-45, MUST-46)
//= test RFC 1122 §3.3.4.2 (SHLD-27)
#[test]
//= test REF D-04
fn ping_and_raw_sockets_exchange_echoes() {
    let mut network = Network::new(1);
    let (a, b) = (network.add(1), network.add(2));
    let now = network.now;
    let ping = network.stack(a).socket(now, AddressFamily::Inet, SocketType::Datagram, 1).unwrap();
    let raw = network.stack(a).socket(now, AddressFamily::Inet, SocketType::Raw, 1).unwrap();
    let arguments = SendArguments { to: Some(at(2, 0)), ..SendArguments::default() };
    let echo = [8, 0, 0, 0, 0, 0, 0, 1, b'h', b'i'];
    network.stack(a).send(now, ping, &mut &echo[..], &arguments).unwrap();
    network.run_for(Duration::from_millis(5));
    let mut sink = Collect::new(100);
    let now = network.now;
    network.stack(a).receive(now, ping, &mut sink, ReceiveFlags::empty()).unwrap();
    let ident = network.stack(a).local_name(ping).unwrap().port().to_be_bytes();
    assert_eq!((sink.bytes[0], &sink.bytes[4..6], &sink.bytes[8..]), (0, &ident[..], &b"hi"[..]));
    let mut sink = Collect::new(100);
    let received = network.stack(a).receive(now, raw, &mut sink, ReceiveFlags::empty()).unwrap();
    assert_eq!((sink.bytes[0], sink.bytes.len(), received.from.unwrap().ip()), (0x45, 30, address(2)));
    let counters = network.stack(b).counters();
    assert_eq!((counters.icmp_in_echos, counters.icmp_out_echo_reps), (1, 1));
    // A filter on echo replies keeps them away.
    network.stack(a).set_option(now, raw, &SetOption::IcmpFilter(1)).unwrap();
    network.stack(a).send(now, ping, &mut &echo[..], &arguments).unwrap();
    network.run_for(Duration::from_millis(5));
    assert_eq!(network.stack(a).queued_input(raw), 0);
}

#[test]
//= test REF N-02
fn loopback_stays_inside() {
    let mut network = Network::new(1);
    let a = network.add(1);
    network.capture();
    let (from, to) = (client(&mut network, a), server(&mut network, a));
    for (length, target) in
        [(1, Ipv4Addr::LOCALHOST), (2, Ipv4Addr::new(127, 9, 9, 9)), (3, Ipv4Addr::new(10, 0, 0, 1))]
    {
        send(&mut network, a, from, SocketAddr::new(target.into(), 7), length);
        network.run_for(Duration::from_millis(1));
        let now = network.now;
        let received = network.stack(a).receive(now, to, &mut Collect::new(9), ReceiveFlags::empty()).unwrap();
        assert_eq!((received.length, received.to), (length, Some(IpAddr::V4(target))));
    }
    assert!(network.captured().is_empty());
}

#[test]
//= test REF T-07
fn fragmentation_needed_lowers_the_path_mtu_for_a_while() {
    let mut network = Network::new(1);
    let mut config = interface(1);
    config.gateway = Some(address(254));
    let a = network.add_with(&config, Settings::default());
    let id = client(&mut network, a);
    let now = network.now;
    let far = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 7).into(), 7);
    network.stack(a).connect(now, id, far).unwrap();
    let mtu = |network: &mut Network| {
        let now = network.now;
        network.stack(a).option(now, id, remora_stack::socket::options::OptionName::Mtu).unwrap()
    };
    assert_eq!(mtu(&mut network), remora_stack::socket::options::OptionValue::Int(1_500));
    let port = network.stack(a).local_name(id).unwrap().port().to_be_bytes();
    // What a router at 10.0.0.254 says about our datagram.
    let mut quoted = vec![0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7];
    quoted.extend_from_slice(&[port[0], port[1], 0, 7, 5, 0xc8, 0, 0]);
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0x14];
    message.extend_from_slice(&quoted);
    let sum = remora_stack::wire::checksum::of(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let total = u8::try_from(20 + message.len()).unwrap();
    let mut packet = vec![0x45, 0, 0, total, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 254, 10, 0, 0, 1];
    let sum = remora_stack::wire::checksum::of(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(&message);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 254, 8, 0];
    frame.extend_from_slice(&packet);
    network.inject(a, &frame);
    assert_eq!(mtu(&mut network), remora_stack::socket::options::OptionValue::Int(1_300));
    assert_eq!(network.stack(a).take_error(id), Some(SocketFault::MessageTooLong));
    network.run_for(Duration::from_secs(601));
    assert_eq!(mtu(&mut network), remora_stack::socket::options::OptionValue::Int(1_500));
}

//= test RFC 1122 §3.3.1.2 (MUST-62)
#[test]
fn strangers_are_reached_by_the_default_gateway() {
    let mut network = Network::new(1);
    let mut config = interface(1);
    config.gateway = Some(address(254));
    let a = network.add_with(&config, Settings::default());
    network.capture();
    let id = client(&mut network, a);
    for (to, asked) in [(Ipv4Addr::new(192, 0, 2, 7), [10, 0, 0, 254]), (Ipv4Addr::new(10, 0, 0, 9), [10, 0, 0, 9])] {
        let from = network.captured().len();
        send(&mut network, a, id, SocketAddr::new(to.into(), 7), 1);
        network.run_for(Duration::from_millis(1));
        let frame = &network.captured()[from].1;
        assert_eq!((&frame[12..14], &frame[38..42]), (&[8, 6][..], &asked[..]));
    }
}

//= test RFC 1122 §3.2.1.3 (MUST-10, MUST-83)
#[test]
fn a_source_that_is_not_ours_is_refused() {
    let mut ip = Ip::default();
    ip.configure(&interface(1));
    for (source, answer) in [(1, None), (77, Some(RouteError::Unreachable)), (255, Some(RouteError::Unreachable))] {
        let key = RouteKey {
            destination: address(2),
            source: Some(address(source)),
            on_link_only: false,
            through: Through::Any,
        };
        assert_eq!(ip.route(&key).err(), answer);
    }
}
