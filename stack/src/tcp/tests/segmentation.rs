//! How the stream is cut and pushed: PSH, MSG_EOR, MSG_MORE, TCP_CORK, TCP_NODELAY, and the size of super-segments.

use super::*;
use crate::socket::options::SetOption;
use crate::socket::protocol::SendFlags;

const MSS: usize = 1_448;

/// A connection whose super-segments reach the other side whole, and where its log begins.
fn whole() -> (Pair, SockId, SockId, usize) {
    let mut pair = Pair::new();
    pair.cut = false;
    let (client, server) = pair.established();
    let from = pair.log.len();
    (pair, client, server, from)
}

fn send_with(pair: &mut Pair, sock: SockId, length: usize, flags: SendFlags) {
    let now = pair.now;
    let bytes = pattern(length);
    let mut source = &bytes[..];
    let arguments = SendArguments { flags, ..SendArguments::default() };
    let taken = pair.left.with(now, |tcp, net| tcp.send(net, sock, &mut source, &arguments));
    assert_eq!(taken, Ok(length));
    pair.flush();
}

fn set(pair: &mut Pair, sock: SockId, option: &SetOption) {
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.set_option(net, sock, option)).expect("a known option");
    pair.flush();
}

/// Length and PSH of each segment with data that the left side has sent.
fn shapes(pair: &Pair, from: usize) -> Vec<(usize, bool)> {
    pair.sent(true, from)
        .iter()
        .filter(|(_, packet)| !packet.payload().is_empty())
        .map(|(_, packet)| (packet.payload().len(), packet.header().flags.contains(Flags::PSH)))
        .collect()
}

//= test RFC 9293 §3.9.1.2 (MUST-61)
#[test]
fn super_segments_are_pushed_and_single_ones_at_the_end_of_a_write() {
    let (mut pair, client, _, from) = whole();
    set(&mut pair, client, &SetOption::NoDelay(true));
    send_with(&mut pair, client, 100, SendFlags::empty());
    send_with(&mut pair, client, MSS, SendFlags::MORE);
    send_with(&mut pair, client, 2 * MSS, SendFlags::MORE);
    assert_eq!(shapes(&pair, from), [(100, true), (MSS, false), (2 * MSS, true)]);
}

#[test]
fn msg_more_holds_a_partial_segment_for_the_call_only() {
    let (mut pair, client, _, from) = whole();
    set(&mut pair, client, &SetOption::NoDelay(true));
    send_with(&mut pair, client, MSS + 50, SendFlags::MORE);
    assert_eq!(shapes(&pair, from), [(MSS, false)]);
    // The acknowledgment of the first goes by TCP_NODELAY, and nobody has asked for a push.
    pair.run(Duration::from_millis(60));
    assert_eq!(shapes(&pair, from), [(MSS, false), (50, false)]);
}

#[test]
fn no_delay_pushes_through_a_cork_what_is_queued_and_no_more() {
    let (mut pair, client, _, from) = whole();
    set(&mut pair, client, &SetOption::Cork(true));
    send_with(&mut pair, client, 40, SendFlags::empty());
    send_with(&mut pair, client, 40, SendFlags::empty());
    assert_eq!(shapes(&pair, from), []);
    set(&mut pair, client, &SetOption::NoDelay(true));
    assert_eq!(shapes(&pair, from), [(80, true)]);
    send_with(&mut pair, client, 30, SendFlags::empty());
    assert_eq!(shapes(&pair, from).len(), 1);
    set(&mut pair, client, &SetOption::Cork(false));
    assert_eq!(shapes(&pair, from), [(80, true), (30, true)]);
}

#[test]
fn nothing_is_joined_to_a_record() {
    let (mut pair, client, _, from) = whole();
    // One segment in flight, the small rest held back by Nagle.
    send_with(&mut pair, client, 10, SendFlags::empty());
    send_with(&mut pair, client, 20, SendFlags::EOR);
    send_with(&mut pair, client, 30, SendFlags::empty());
    send_with(&mut pair, client, 40, SendFlags::empty());
    pair.run(Duration::from_millis(200));
    assert_eq!(shapes(&pair, from), [(10, true), (20, true), (70, true)]);
}

#[test]
fn a_timer_pushes_what_msg_more_has_left_behind() {
    let (mut pair, client, server, from) = whole();
    send_with(&mut pair, client, 40, SendFlags::MORE);
    assert_eq!(shapes(&pair, from), []);
    pair.run(Duration::from_millis(500));
    assert_eq!(shapes(&pair, from), [(40, true)]);
    assert_eq!(pair.receive(false, server, 100).map(|bytes| bytes.len()), Ok(40));
}

#[test]
fn a_long_path_gets_small_super_segments_and_a_short_one_large_ones() {
    for (latency, segments) in [(100, 2), (0, 5)] {
        let mut pair = Pair::new();
        pair.cut = false;
        pair.latency = Duration::from_millis(latency);
        let listener = pair.listen(false, 80, 8);
        let client = pair.socket(true);
        assert_eq!(pair.connect(true, client, 80), Err(ConnectError::InProgress));
        pair.run(Duration::from_millis(500));
        pair.accept(false, listener).expect("a connection");
        let from = pair.log.len();
        send_with(&mut pair, client, 20 * MSS, SendFlags::empty());
        // Half of the window at most in each, two at least by the rate of the path.
        assert_eq!(shapes(&pair, from).first(), Some(&(segments * MSS, true)), "{latency} ms");
    }
}

#[test]
fn a_servers_first_flight_is_cut_by_the_round_trip_of_the_handshake() {
    let mut pair = Pair::new();
    pair.cut = false;
    let (_, server) = pair.established();
    let from = pair.log.len();
    assert_eq!(pair.send(false, server, &pattern(4 * MSS)), Ok(4 * MSS));
    pair.flush();
    let lengths: Vec<usize> = pair.sent(false, from).iter().map(|(_, packet)| packet.payload().len()).collect();
    // 2 * 10 * 1448 bytes in a round trip: a millisecond's worth is less than tcp_min_tso_segs.
    assert_eq!(lengths, [2 * MSS, 2 * MSS]);
}
