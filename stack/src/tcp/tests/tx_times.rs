//! Times of sending and acknowledgment (SO_TIMESTAMPING), completions of MSG_ZEROCOPY.

use super::*;
use crate::socket::errqueue::{Origin, Report};
use crate::socket::kept::Kept;
use crate::socket::options::SetOption;
use crate::socket::protocol::SendFlags;
use crate::socket::sockopt::timestamping;

const ALL: i32 = timestamping::TX_SCHED | timestamping::TX_SOFTWARE | timestamping::TX_ACK | timestamping::SOFTWARE;
/// Payload of a full segment here: what Nagle does not hold back.
const MSS: usize = 1_448;
const SENT: u32 = 0;
const SCHEDULED: u32 = 1;
const ACKNOWLEDGED: u32 = 2;

impl Pair {
    /// SO_TIMESTAMPING on the left, as the socket layer sets it.
    fn time(&mut self, sock: SockId, flags: i32) {
        let now = self.now;
        self.left.with(now, |tcp, net| {
            let asked = tcp.set_option(net, sock, &SetOption::Timestamping(flags, false));
            assert_eq!(asked, Ok(()));
            tcp.options_mut(sock).expect("options").kept.write(Kept::Timestamping, flags).expect("a value");
        });
    }

    fn send_with(&mut self, sock: SockId, bytes: &[u8], flags: SendFlags) -> usize {
        let now = self.now;
        let mut source = bytes;
        let arguments = SendArguments { flags, ..SendArguments::default() };
        self.left.with(now, |tcp, net| tcp.send(net, sock, &mut source, &arguments)).expect("room")
    }

    /// Puts what the left has to send on the wire and tells it of the times, as the stack does.
    fn flush_timed(&mut self) {
        let now = self.now;
        while let Some((packet, timed)) = self.left.transmit_timed(now) {
            if let Some(timed) = timed {
                self.left.tcp.note_sent(now, &timed, &packet.bytes);
            }
            self.put(packet);
        }
    }

    fn report(&mut self, sock: SockId) -> Option<(Report, Vec<u8>)> {
        let now = self.now;
        let mut sink = Collect::new(100_000);
        let taken = self.left.with(now, |tcp, net| tcp.receive(net, sock, &mut sink, ReceiveFlags::ERRQUEUE));
        taken.ok().and_then(|received| received.report).map(|report| (report, sink.bytes))
    }

    fn reports(&mut self, sock: SockId) -> Vec<(u32, u32)> {
        core::iter::from_fn(|| self.report(sock)).map(|(report, _)| (report.info, report.data)).collect()
    }
}

//= test REF D-05
#[test]
fn the_last_byte_of_each_send_is_told_of() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.time(client, ALL | timestamping::OPT_ID);
    pair.send_with(client, &[7; 2 * MSS], SendFlags::empty());
    pair.flush_timed();
    assert_eq!(pair.reports(client), [(SCHEDULED, 2_895), (SENT, 2_895)]);
    assert!(!pair.poll(true, client).contains(Readiness::ERR), "the queue is empty");
    pair.send_with(client, &[7; 500], SendFlags::empty());
    pair.flush_timed();
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.reports(client), [(SCHEDULED, 3_395), (SENT, 3_395), (ACKNOWLEDGED, 2_895), (ACKNOWLEDGED, 3_395)]);
}

//= test REF D-05
#[test]
fn bytes_are_counted_from_where_numbering_was_asked_for() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.send_with(client, &[7; 100], SendFlags::empty());
    // OPT_ID: from the first byte that is not acknowledged; OPT_ID_TCP: from the next byte written.
    pair.time(client, ALL | timestamping::OPT_ID);
    pair.send_with(client, &[7; 10], SendFlags::empty());
    pair.flush_timed();
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.reports(client), [(SCHEDULED, 109), (SENT, 109), (ACKNOWLEDGED, 109)]);
    pair.time(client, ALL);
    pair.time(client, ALL | timestamping::OPT_ID | timestamping::OPT_ID_TCP);
    pair.send_with(client, &[7; 10], SendFlags::empty());
    pair.flush_timed();
    assert_eq!(pair.reports(client), [(SCHEDULED, 9), (SENT, 9)]);
}

//= test REF D-05
#[test]
fn sends_that_share_a_buffer_are_told_of_once() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.time(client, ALL | timestamping::OPT_ID);
    pair.send_with(client, &[7; 10], SendFlags::MORE);
    pair.send_with(client, &[7; 10], SendFlags::MORE);
    pair.send_with(client, &[7; 10], SendFlags::empty());
    pair.flush_timed();
    assert_eq!(pair.reports(client), [(SCHEDULED, 29), (SENT, 29)]);
}

//= test REF D-05
#[test]
fn a_report_quotes_the_packet_unless_only_the_time_is_wanted() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.time(client, ALL);
    pair.send_with(client, b"quoted", SendFlags::empty());
    pair.flush_timed();
    pair.run(Duration::from_millis(100));
    let (first, bytes) = pair.report(client).expect("a report");
    assert!(matches!(first.origin, Origin::Timestamping(_)));
    assert_eq!(first.data, 0, "without OPT_ID nothing is numbered");
    assert!(bytes.len() > 6 && bytes.ends_with(b"quoted"), "headers and payload");
    pair.report(client).expect("sent");
    let (last, bytes) = pair.report(client).expect("acknowledged");
    assert_eq!((last.info, bytes.as_slice()), (ACKNOWLEDGED, &b"quoted"[..]), "the payload, as it waits for its ACK");
    pair.time(client, ALL | timestamping::OPT_TSONLY);
    pair.send_with(client, b"unquoted", SendFlags::empty());
    pair.flush_timed();
    pair.run(Duration::from_millis(100));
    for _ in 0..3 {
        assert!(pair.report(client).expect("a report").1.is_empty());
    }
}

//= test REF D-05
#[test]
fn a_repetition_is_told_of_again() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.time(client, ALL | timestamping::OPT_ID);
    pair.send_with(client, b"lost", SendFlags::empty());
    let now = pair.now;
    while let Some((packet, timed)) = pair.left.transmit_timed(now) {
        pair.left.tcp.note_sent(now, &timed.expect("timed"), &packet.bytes);
    }
    assert_eq!(pair.reports(client), [(SCHEDULED, 3), (SENT, 3)]);
    pair.now += Duration::from_millis(300);
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.handle_timeout(net));
    pair.flush_timed();
    assert_eq!(pair.reports(client), [(SCHEDULED, 3), (SENT, 3)]);
}

impl Pair {
    fn send_zero_copy(&mut self, sock: SockId, bytes: &[u8]) {
        let now = self.now;
        self.send_with(sock, bytes, SendFlags::ZEROCOPY);
        self.left.with(now, |tcp, net| tcp.complete_zero_copy(net, sock));
    }
}

//= test REF D-02
#[test]
fn memory_is_given_back_when_the_last_byte_is_acknowledged() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    pair.send_zero_copy(client, &[7; 4_000]);
    pair.flush();
    assert!(pair.report(client).is_none(), "on its way");
    pair.send_zero_copy(client, &[7; 4_000]);
    pair.run(Duration::from_millis(100));
    assert!(pair.poll(true, client).contains(Readiness::ERR));
    assert_eq!(pair.reports(client), [(0, 1)], "two sends, one report");
    pair.send_zero_copy(client, &[7; 10]);
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.reports(client), [(2, 2)]);
}

//= test REF D-02
#[test]
fn memory_is_given_back_when_the_connection_is_reset() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    pair.filter = Some(|packet, _| packet.payload().is_empty());
    pair.send_zero_copy(client, &[7; 4_000]);
    pair.run(Duration::from_millis(20));
    let now = pair.now;
    pair.right.with(now, |tcp, net| tcp.disconnect(net, server));
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.state(true, client), State::Closed);
    assert_eq!(pair.reports(client), [(0, 0)]);
}

/// Memory in pieces of `size` bytes.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl crate::io::Source for Pieces<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn bytes_in_pieces(&self, pieces: usize) -> usize {
        (pieces * self.size).min(self.bytes.len())
    }

    fn append_to(&mut self, target: &mut Vec<u8>, count: usize) -> Result<(), crate::io::Fault> {
        self.bytes.append_to(target, count)
    }
}

//= test REF D-02
#[test]
fn a_buffer_holds_seventeen_pieces_of_pinned_memory() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let arguments = SendArguments { flags: SendFlags::ZEROCOPY, ..SendArguments::default() };
    let bytes = [7; 40];
    let from = pair.log.len();
    let send = |pair: &mut Pair| {
        let (now, mut source) = (pair.now, Pieces { bytes: &bytes, size: 1 });
        let sent = pair.left.with(now, |tcp, net| tcp.send(net, client, &mut source, &arguments));
        assert_eq!(sent, Ok(40));
        pair.run(Duration::from_millis(100));
    };
    // The socket option decides whether memory is pinned at all.
    send(&mut pair);
    pair.left.tcp.options_mut(client).expect("options").kept.write(Kept::ZeroCopy, 1).expect("a value");
    send(&mut pair);
    let sent: Vec<(usize, bool)> = pair
        .sent(true, from)
        .iter()
        .filter(|(_, packet)| !packet.payload().is_empty())
        .map(|(_, packet)| (packet.payload().len(), packet.header().flags.contains(Flags::PSH)))
        .collect();
    assert_eq!(sent, [(40, true), (17, true), (17, true), (6, true)]);
    assert_eq!(pair.receive(false, server, 100).expect("data").len(), 80);
}
