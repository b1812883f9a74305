//! Ends: FIN in every order, resets, TIME_WAIT, linger.

use super::*;
use crate::socket::error::SocketFault;
use crate::socket::protocol::Shutdown;

fn shut(pair: &mut Pair, left: bool, sock: SockId, how: Shutdown) {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.shutdown(net, sock, how));
}

#[test]
fn half_close_lets_the_other_half_go_on() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.send(true, client, b"last words").expect("room");
    shut(&mut pair, true, client, Shutdown::Write);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.state(true, client), State::FinWait2);
    assert_eq!(pair.state(false, server), State::CloseWait);
    assert_eq!(pair.receive(false, server, 100).expect("data"), b"last words");
    assert_eq!(pair.receive(false, server, 100).expect("end"), b"");
    assert_eq!(pair.send(true, client, b"x"), Err(SendError::BrokenPipe));
    pair.send(false, server, &pattern(50_000)).expect("room");
    pair.run(Duration::from_millis(500));
    let got = pair.receive(true, client, 100_000).expect("data");
    assert!(got.len() > 10_000);
    pair.close(false, server);
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.poll(true, client).bits() & 0x2011, 0x2011);
}

//= test RFC 9293 §3.6.1 (MUST-13)
//= test REF T-02
#[test]
fn first_to_close_waits_sixty_seconds() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.close(true, client);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.receive(false, server, 1).expect("end"), b"");
    pair.close(false, server);
    pair.run(Duration::from_millis(100));
    assert!(pair.right.tcp.is_idle());
    assert!(!pair.left.tcp.is_idle());
    pair.run(Duration::from_secs(59));
    assert!(!pair.left.tcp.is_idle());
    pair.run(Duration::from_secs(2));
    assert!(pair.left.tcp.is_idle());
    assert_eq!(pair.left.counters.time_waited, 1);
    assert_eq!(pair.left.counters.tcp_curr_estab, 0);
    assert_eq!(pair.right.counters.tcp_curr_estab, 0);
}

//= test REF T-01
#[test]
fn simultaneous_close_goes_through_closing() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    shut(&mut pair, true, client, Shutdown::Write);
    shut(&mut pair, false, server, Shutdown::Write);
    pair.run(Duration::from_millis(5));
    assert_eq!(pair.state(true, client), State::Closing);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.state(false, server), State::Closed);
    assert_eq!(pair.left.tcp.peer_name(client), None);
    pair.close(true, client);
    pair.close(false, server);
    pair.run(Duration::from_secs(61));
    assert!(pair.left.tcp.is_idle() && pair.right.tcp.is_idle());
}

//= test REF T-10
//= test RFC 9293 §3.6.1 (SHLD-3)
#[test]
fn close_with_unread_data_resets() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.send(true, client, b"unread").expect("room");
    pair.run(Duration::from_millis(50));
    pair.close(false, server);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.right.counters.tcp_abort_on_close, 1);
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.poll(true, client).bits(), 0x215d);
    assert_eq!(pair.receive(true, client, 1), Err(ReceiveError::Fault(SocketFault::ConnectionReset)));
    assert_eq!(pair.receive(true, client, 1).expect("end"), b"");
    assert_eq!(pair.send(true, client, b"x"), Err(SendError::BrokenPipe));
    assert_eq!(pair.left.counters.tcp_estab_resets, 1);
}

#[test]
fn linger_zero_resets() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.left.tcp.options_mut(client).expect("sock").linger = Some(Duration::ZERO);
    pair.close(true, client);
    pair.run(Duration::from_millis(50));
    assert!(pair.left.tcp.is_idle());
    assert_eq!(pair.send(false, server, b"x"), Err(SendError::Fault(SocketFault::ConnectionReset)));
}

#[test]
fn data_for_a_program_that_has_gone_is_answered_by_reset() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.close(true, client);
    pair.run(Duration::from_millis(50));
    pair.send(false, server, b"too late").expect("room");
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.left.counters.tcp_out_rsts, 1);
    // A reset in CLOSE_WAIT is a broken pipe.
    assert_eq!(pair.right.tcp.take_error(server), Some(SocketFault::BrokenPipe));
    assert!(pair.left.tcp.is_idle());
}

//= test REF T-02
#[test]
fn orphan_in_fin_wait_2_goes_after_tcp_fin_timeout() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.close(true, client);
    pair.run(Duration::from_secs(59));
    assert!(!pair.left.tcp.is_idle());
    pair.run(Duration::from_secs(2));
    assert!(pair.left.tcp.is_idle());
}

//= test REF C-11
//= test RFC 9293 §3.6.1 (MAY-2)
#[test]
fn new_syn_reopens_a_connection_in_time_wait() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    pair.bind(true, client, 5_555);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(50));
    let server = pair.accept(false, listener).expect("a connection");
    pair.close(false, server);
    pair.run(Duration::from_millis(50));
    pair.close(true, client);
    pair.run(Duration::from_millis(1_500));
    assert!(!pair.right.tcp.is_idle());
    let client = pair.socket(true);
    pair.bind(true, client, 5_555);
    let _ = pair.connect(true, client, 80);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.state(true, client), State::Established);
}

#[test]
fn a_late_reset_kills_time_wait_unless_rfc1337_protects_it() {
    for protect in [false, true] {
        let settings = Settings { tcp_rfc1337: protect, ..Settings::default() };
        let mut pair = Pair::with_settings(settings, 0);
        let (client, server) = pair.established();
        pair.close(true, client);
        pair.run(Duration::from_millis(50));
        pair.close(false, server);
        pair.run(Duration::from_millis(50));
        let ack = pair.sent(true, 0).last().expect("an ACK").1.header();
        let reset = Header {
            source_port: ack.destination_port,
            destination_port: ack.source_port,
            seq: ack.ack,
            flags: Flags::RST,
            ..Header::default()
        };
        pair.forge(true, &reset, &[]);
        assert_eq!(pair.left.tcp.is_idle(), !protect);
    }
}

//= test REF C-20
#[test]
fn all_orders_of_closing_end_idle() {
    for order in 0..8 {
        let mut pair = Pair::new();
        let (client, server) = pair.established();
        if order & 1 != 0 {
            shut(&mut pair, true, client, Shutdown::Write);
        }
        if order & 2 != 0 {
            pair.run(Duration::from_millis(20));
        }
        if order & 4 != 0 {
            shut(&mut pair, false, server, Shutdown::Both);
            pair.run(Duration::from_millis(3));
        }
        pair.close(false, server);
        pair.close(true, client);
        pair.run(Duration::from_secs(130));
        assert!(pair.left.tcp.is_idle() && pair.right.tcp.is_idle(), "order {order}");
        assert_eq!(pair.left.tcp.memory(), 0);
    }
}

#[test]
fn a_reset_offers_the_same_window_as_an_ack() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let from = pair.log.len();
    pair.send(true, client, b"unread").expect("room");
    pair.run(Duration::from_millis(100));
    let acknowledgment = pair.sent(false, from)[0].1.header();
    let from = pair.log.len();
    pair.close(false, server);
    pair.run(Duration::from_millis(100));
    let reset = pair.sent(false, from)[0].1.header();
    assert!(reset.flags.contains(Flags::RST));
    assert_eq!(reset.window, acknowledgment.window);
}
