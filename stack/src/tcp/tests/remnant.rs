//! A stack is given up; another with its address resets the peers.

use super::*;
use crate::socket::error::SocketFault;
use crate::tcp::Remnant;

/// Another stack takes the left one's place and resets what that one had.
fn replace_left(pair: &mut Pair) -> Vec<Remnant> {
    let remnants: Vec<Remnant> = pair.left.tcp.remnants().collect();
    pair.left = Host::new(LEFT, Settings::default(), 65_535);
    let now = pair.now;
    for remnant in &remnants {
        pair.left.with(now, |tcp, net| tcp.reset_remnant(net, remnant));
    }
    remnants
}

#[test]
fn peers_of_a_stack_given_up_are_reset_with_exact_numbers() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(true, client, b"forth"), Ok(5));
    assert_eq!(pair.send(false, server, b"and back"), Ok(8));
    pair.run(Duration::from_millis(100));
    let before = pair.log.len();
    assert_eq!(replace_left(&mut pair).len(), 1);
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.state(false, server), State::Closed);
    assert_eq!(pair.receive(false, server, 10).expect("what came before"), b"forth");
    assert_eq!(pair.receive(false, server, 1), Err(ReceiveError::Fault(SocketFault::ConnectionReset)));
    assert_eq!(pair.sent(true, before).len(), 1, "one reset says it");
    assert!(pair.sent(false, before).is_empty(), "it is not challenged");
}

//= test RFC 5961 §3.2
#[test]
fn peer_that_has_not_got_all_that_was_sent_is_reset_by_its_challenge() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.filter = Some(|packet, _| packet.payload().is_empty());
    assert_eq!(pair.send(true, client, b"lost"), Ok(4));
    pair.run(Duration::from_millis(20));
    pair.filter = None;
    let before = pair.log.len();
    replace_left(&mut pair);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.state(false, server), State::Closed);
    assert_eq!(pair.sent(true, before).len(), 2, "the second by the number of the challenge");
}

#[test]
fn closed_listening_and_waiting_sockets_leave_nothing_to_reset() {
    let mut pair = Pair::new();
    let _ = pair.listen(true, 81, 8);
    let _ = pair.socket(true);
    let (client, server) = pair.established();
    pair.close(true, client);
    pair.run(Duration::from_millis(50));
    pair.close(false, server);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.left.tcp.remnants().count(), 0);
}

#[test]
fn half_open_requests_are_reset_too() {
    let mut pair = Pair::new();
    let _ = pair.listen(true, 80, 8);
    let client = pair.socket(false);
    // The client's answer to the SYN-ACK is lost: it is connected, we are not.
    pair.filter = Some(|packet, _| {
        packet.is(Flags::SYN) || packet.is(Flags::SYN | Flags::ACK) || packet.is(Flags::RST | Flags::ACK)
    });
    assert_eq!(pair.connect(false, client, 80), Err(ConnectError::InProgress));
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.state(false, client), State::Established);
    assert_eq!(replace_left(&mut pair).len(), 1);
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.state(false, client), State::Closed);
}
