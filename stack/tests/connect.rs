//! The connect path through the public calls: socket layer, protocol switch, TCP, IP, ARP and Ethernet, and what a
//! program sees when it fails.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use remora_stack::io::Collect;
use remora_stack::socket::error::{AcceptError, ConnectError, ListenError, ReceiveError, SendError, SocketFault};
use remora_stack::socket::protocol::{
    AddressFamily, Readiness, ReceiveFlags, SendArguments, Shutdown, SocketId, SocketType,
};
use remora_stack::socket::state::SocketState;
use remora_stack::testkit::{Network, address, interface};

const SECOND: Duration = Duration::from_secs(1);

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(last), port)
}

fn stream(network: &mut Network, stack: usize) -> SocketId {
    let now = network.now;
    network.stack(stack).socket(now, AddressFamily::Inet, SocketType::Stream, 0).unwrap()
}

fn listener(network: &mut Network, stack: usize) -> SocketId {
    let id = stream(network, stack);
    let now = network.now;
    network.stack(stack).bind(now, id, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)).unwrap();
    network.stack(stack).listen(now, id, 5).unwrap();
    id
}

fn connect(network: &mut Network, stack: usize, id: SocketId, to: SocketAddr) -> Result<(), ConnectError> {
    let now = network.now;
    network.stack(stack).connect(now, id, to)
}

fn pair() -> (Network, usize, usize) {
    let mut network = Network::new(1);
    let (a, b) = (network.add(1), network.add(2));
    (network, a, b)
}

/// A connection and the listener's side of it.
fn connected(network: &mut Network, a: usize, b: usize) -> (SocketId, SocketId) {
    let listening = listener(network, b);
    let id = stream(network, a);
    assert_eq!(connect(network, a, id, at(2, 80)), Err(ConnectError::InProgress));
    network.run_for(SECOND);
    let now = network.now;
    assert_eq!(network.stack(a).finish_connect(now, id), Some(Ok(())));
    let (accepted, from) = network.stack(b).accept(now, listening).unwrap();
    assert_eq!(from.ip(), address(1));
    (id, accepted)
}

#[test]
//= test REF C-03
fn connect_says_what_linux_says_at_each_stage() {
    let (mut network, a, b) = pair();
    let listening = listener(&mut network, b);
    let id = stream(&mut network, a);
    assert_eq!(network.stack(a).socket_state(id), SocketState::Unconnected);
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::InProgress));
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::Already));
    let now = network.now;
    assert_eq!(network.stack(a).finish_connect(now, id), None);
    assert_eq!(network.stack(b).accept(now, listening).unwrap_err(), AcceptError::WouldBlock);
    network.run_for(SECOND);
    assert!(network.stack(a).readiness(id).contains(Readiness::OUT | Readiness::WRNORM));
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Ok(()));
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::IsConnected));
    assert_eq!(network.stack(a).peer_name(id), Ok(at(2, 80)));
    let now = network.now;
    assert_eq!(network.stack(a).listen(now, id, 1), Err(ListenError::Invalid));
    assert_eq!(connect(&mut network, b, listening, at(1, 80)), Err(ConnectError::IsConnected));
    assert_eq!(network.stack(a).counters().tcp_active_opens, 1);
    assert_eq!(network.stack(b).counters().tcp_passive_opens, 1);
}

#[test]
fn bytes_are_echoed_and_both_sides_close() {
    let (mut network, a, b) = pair();
    let (client, server) = connected(&mut network, a, b);
    let now = network.now;
    network.stack(a).send(now, client, &mut &b"hello"[..], &SendArguments::default()).unwrap();
    network.run_for(SECOND);
    let mut sink = Collect::new(100);
    let now = network.now;
    network.stack(b).receive(now, server, &mut sink, ReceiveFlags::empty()).unwrap();
    network.stack(b).send(now, server, &mut sink.bytes.as_slice(), &SendArguments::default()).unwrap();
    network.stack(b).shutdown(now, server, Shutdown::Write).unwrap();
    network.run_for(SECOND);
    let mut sink = Collect::new(100);
    let now = network.now;
    network.stack(a).receive(now, client, &mut sink, ReceiveFlags::empty()).unwrap();
    assert_eq!(sink.bytes, b"hello");
    assert_eq!(network.stack(a).receive(now, client, &mut sink, ReceiveFlags::empty()).unwrap().length, 0);
    network.stack(a).close(now, client);
    network.run_for(SECOND);
    let now = network.now;
    network.stack(b).close(now, server);
    network.run_for(Duration::from_secs(120));
    assert!(network.stack(a).is_idle(), "TIME_WAIT is over");
    assert_eq!(network.stack(a).next_timeout(), None);
    assert_eq!(network.stack(b).counters().tcp_curr_estab, 0);
}

#[test]
//= test REF C-05, S-05
fn a_refused_attempt_reports_once_and_the_socket_can_try_again() {
    let (mut network, a, b) = pair();
    let id = stream(&mut network, a);
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::InProgress));
    network.run_for(SECOND);
    let now = network.now;
    let refused = ConnectError::Fault(SocketFault::ConnectionRefused);
    assert_eq!(network.stack(a).finish_connect(now, id), Some(Err(refused)));
    assert_eq!(network.stack(a).socket_state(id), SocketState::Unconnected);
    // SO_ERROR takes the error, so that connect has none left to report.
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::InProgress));
    network.run_for(SECOND);
    assert_eq!(network.stack(a).take_error(id), Some(SocketFault::ConnectionRefused));
    assert_eq!(network.stack(a).take_error(id), None);
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::Aborted));
    listener(&mut network, b);
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::InProgress));
    network.run_for(SECOND);
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Ok(()));
}

#[test]
//= test REF C-05
fn a_host_that_is_not_there_is_unreachable_after_three_requests() {
    let (mut network, a, _) = pair();
    let id = stream(&mut network, a);
    assert_eq!(connect(&mut network, a, id, at(9, 80)), Err(ConnectError::InProgress));
    network.run_for(Duration::from_secs(4));
    let now = network.now;
    let unreachable = ConnectError::Fault(SocketFault::HostUnreachable);
    assert_eq!(network.stack(a).finish_connect(now, id), Some(Err(unreachable)));
}

//= test RFC 9293 §3.9.1.1 (MUST-46)
//= test RFC 1122 §3.2.1.3 (MUST-9)
//= test RFC 1122 §3.2.2.9 (MUST-53)
//= test RFC 1122 §3.3.1.1 (MUST-59)
#[test]
//= test REF C-07
fn kinds_of_destination_that_cannot_be_connected_to() {
    let (mut network, a, _) = pair();
    for to in
        [Ipv4Addr::new(224, 0, 0, 5), Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(192, 0, 2, 1)]
    {
        let id = stream(&mut network, a);
        let to = SocketAddr::new(to.into(), 80);
        assert_eq!(connect(&mut network, a, id, to), Err(ConnectError::NetworkUnreachable), "{to}");
    }
    assert_eq!(network.stack(a).counters().ip_out_no_routes, 1);
    let id = stream(&mut network, a);
    let now = network.now;
    network.stack(a).bind(now, id, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
    assert_eq!(connect(&mut network, a, id, at(2, 80)), Err(ConnectError::Invalid));
}

#[test]
//= test REF C-21
fn in_syn_sent_each_call_answers_as_linux_does() {
    let (mut network, a, _) = pair();
    let id = stream(&mut network, a);
    assert_eq!(connect(&mut network, a, id, at(9, 80)), Err(ConnectError::InProgress));
    let now = network.now;
    let mut sink = Collect::new(1);
    let read = network.stack(a).receive(now, id, &mut sink, ReceiveFlags::empty());
    assert_eq!(read.unwrap_err(), ReceiveError::WouldBlock);
    let written = network.stack(a).send(now, id, &mut &b"x"[..], &SendArguments::default());
    assert_eq!(written, Err(SendError::WouldBlock));
    assert_eq!(network.stack(a).listen(now, id, 1), Err(ListenError::Invalid));
    assert_eq!(network.stack(a).shutdown(now, id, Shutdown::Both), Ok(()));
    assert_eq!(network.stack(a).take_error(id), Some(SocketFault::ConnectionReset));
}

#[test]
//= test REF N-02
fn a_connection_to_ourselves_never_touches_the_wire() {
    let mut network = Network::new(5);
    let a = network.add(1);
    network.capture();
    let listening = listener(&mut network, a);
    for to in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 1)] {
        let id = stream(&mut network, a);
        let begun = connect(&mut network, a, id, SocketAddr::new(to.into(), 80));
        assert_eq!(begun, Err(ConnectError::InProgress));
        network.run_for(SECOND);
        let now = network.now;
        assert_eq!(network.stack(a).finish_connect(now, id), Some(Ok(())), "{to}");
        let (accepted, _) = network.stack(a).accept(now, listening).unwrap();
        let bytes = vec![7; 50_000];
        network.stack(a).send(now, id, &mut bytes.as_slice(), &SendArguments::default()).unwrap();
        network.run_for(SECOND);
        let mut sink = Collect::new(60_000);
        let now = network.now;
        network.stack(a).receive(now, accepted, &mut sink, ReceiveFlags::empty()).unwrap();
        assert!(sink.bytes == bytes, "{to}");
    }
    assert!(network.captured().is_empty());
}

#[test]
fn bulk_data_leaves_as_a_header_and_slices_of_the_send_buffer() {
    let mut network = Network::new(6);
    let mut config = interface(1);
    config.capabilities.gso_max = 65_536;
    config.capabilities.checksum_tx = true;
    let a = network.add_with(&config, remora_stack::settings::Settings::default());
    let mut other = config.clone();
    other.address = address(2);
    other.mac.0[5] = 2;
    let b = network.add_with(&other, remora_stack::settings::Settings::default());
    let (client, server) = connected(&mut network, a, b);
    // Opens the congestion window.
    for _ in 0..20 {
        let now = network.now;
        let bytes = vec![1; 30_000];
        let _ = network.stack(a).send(now, client, &mut bytes.as_slice(), &SendArguments::default());
        network.run_for(Duration::from_millis(10));
        let now = network.now;
        let _ = network.stack(b).receive(now, server, &mut Collect::new(1 << 20), ReceiveFlags::empty());
    }
    let now = network.now;
    let bytes = vec![1; 60_000];
    network.stack(a).send(now, client, &mut bytes.as_slice(), &SendArguments::default()).unwrap();
    let mut frames = Vec::new();
    while let Some(transmit) = network.stack(a).poll_transmit(now) {
        frames.push((transmit.header.len(), transmit.len(), transmit.gso_size, transmit.checksum.is_some()));
    }
    // Ethernet, IP, TCP with timestamps; a copied packet would have the link header alone in front.
    let direct = |frame: &&(usize, usize, u16, bool)| frame.0 == 14 + 20 + 32 && frame.1 > 10_000;
    let super_frame = frames.iter().find(direct);
    assert!(super_frame.is_some_and(|frame| frame.2 == 1_448 && frame.3), "{frames:?}");
}

#[test]
fn what_no_socket_sends_has_no_identification() {
    let (mut network, a, b) = pair();
    network.capture();
    let (id, _accepted) = connected(&mut network, a, b);
    let now = network.now;
    network.stack(a).close(now, id);
    let refused = stream(&mut network, a);
    assert_eq!(connect(&mut network, a, refused, at(2, 81)), Err(ConnectError::InProgress));
    network.run_for(SECOND);
    let (mut answers, mut own) = (0, 0);
    for (_, frame) in network.captured() {
        // Ethernet, then IPv4 without options, then TCP.
        if frame[12..14] != [8, 0] {
            continue;
        }
        let identification = u16::from_be_bytes([frame[18], frame[19]]);
        let flags = frame[47];
        // SYN with ACK is from a request, RST from a closed port.
        if flags & 0x12 == 0x12 || flags & 0x04 != 0 {
            assert_eq!(identification, 0);
            answers += 1;
        } else {
            assert_ne!(identification, 0);
            own += 1;
        }
    }
    assert_eq!(answers, 2);
    assert!(own >= 3);
}

//= test RFC 1122 §3.3.1.4 (MUST-67, SHLD-23)
#[test]
fn progress_of_a_connection_spares_questions_for_its_neighbour() {
    let (mut network, a, b) = pair();
    let (client, server) = connected(&mut network, a, b);
    network.run_for(Duration::from_secs(10));
    network.capture();
    for _ in 0..120 {
        for (from, sender, to, receiver) in [(a, client, b, server), (b, server, a, client)] {
            let now = network.now;
            network.stack(from).send(now, sender, &mut &b"x"[..], &SendArguments::default()).unwrap();
            network.run_for(SECOND);
            let now = network.now;
            network.stack(to).receive(now, receiver, &mut Collect::new(9), ReceiveFlags::empty()).unwrap();
        }
    }
    let asked = network.captured().iter().filter(|(_, frame)| frame.get(12..14) == Some(&[8, 6])).count();
    assert_eq!(asked, 0);
}
