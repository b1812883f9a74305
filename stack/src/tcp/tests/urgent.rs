//! Urgent data: the byte apart or inline, the mark, poll, SIOCINQ, the pointer on the wire.

use super::*;
use crate::socket::options::SetOption;
use crate::socket::protocol::SendFlags;

fn urgent(pair: &mut Pair, left: bool, sock: SockId, bytes: &[u8]) {
    let now = pair.now;
    let mut source = bytes;
    let arguments = SendArguments { flags: SendFlags::OOB, ..SendArguments::default() };
    let sent = pair.side(left).with(now, |tcp, net| tcp.send(net, sock, &mut source, &arguments));
    assert_eq!(sent, Ok(bytes.len()));
}

fn take(pair: &mut Pair, sock: SockId, most: usize, flags: ReceiveFlags) -> Result<Vec<u8>, ReceiveError> {
    let now = pair.now;
    let mut sink = Collect::new(most);
    pair.right.with(now, |tcp, net| tcp.receive(net, sock, &mut sink, flags))?;
    Ok(sink.bytes)
}

/// "ab", urgent "c", "de" on their way to the right.
fn abcde() -> (Pair, SockId, SockId) {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(true, client, b"ab"), Ok(2));
    urgent(&mut pair, true, client, b"c");
    pair.run(Duration::from_millis(20));
    assert_eq!(pair.send(true, client, b"de"), Ok(2));
    pair.run(Duration::from_millis(20));
    (pair, client, server)
}

//= test REF T-08
//= test RFC 9293 §3.8.5 (MUST-32, MUST-33)
#[test]
fn urgent_byte_is_apart_and_the_mark_stops_a_read() {
    let (mut pair, _, server) = abcde();
    assert_eq!(pair.right.tcp.poll_urgent(), Some(OWNER));
    assert_eq!(pair.right.tcp.poll_urgent(), None);
    assert!(pair.poll(false, server).contains(Readiness::PRI | Readiness::IN));
    assert_eq!(pair.right.tcp.queued_input(server), 2);
    assert!(!pair.right.tcp.at_mark(server));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::PEEK), Ok(b"ab".to_vec()));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::empty()), Ok(b"ab".to_vec()));
    assert!(pair.right.tcp.at_mark(server));
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB | ReceiveFlags::PEEK), Ok(b"c".to_vec()));
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Ok(b"c".to_vec()));
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Err(ReceiveError::Invalid));
    assert!(!pair.poll(false, server).contains(Readiness::PRI));
    assert!(pair.right.tcp.at_mark(server));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::PEEK), Ok(b"de".to_vec()));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::empty()), Ok(b"de".to_vec()));
    assert!(!pair.right.tcp.at_mark(server));
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Err(ReceiveError::Invalid));
}

#[test]
fn inline_the_byte_stays_in_the_stream_and_the_mark_still_stops() {
    let (mut pair, _, server) = abcde();
    let now = pair.now;
    pair.right.tcp.options_mut(server).expect("options").oob_inline = true;
    pair.right.with(now, |tcp, net| tcp.set_option(net, server, &SetOption::OobInline(true))).unwrap_or(());
    assert_eq!(pair.right.tcp.queued_input(server), 5);
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Err(ReceiveError::Invalid));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::empty()), Ok(b"ab".to_vec()));
    assert!(pair.right.tcp.at_mark(server));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::empty()), Ok(b"cde".to_vec()));
}

#[test]
fn the_urgent_byte_alone_is_nothing_to_read() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    urgent(&mut pair, true, client, b"!");
    pair.run(Duration::from_millis(20));
    assert!(!pair.poll(false, server).contains(Readiness::IN));
    assert!(pair.poll(false, server).contains(Readiness::PRI));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::empty()), Err(ReceiveError::WouldBlock));
    // The read has passed the mark, and the byte is gone for MSG_OOB too.
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Err(ReceiveError::Invalid));
}

#[test]
fn a_second_mark_replaces_the_first_whose_byte_is_passed_over() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    urgent(&mut pair, true, client, b"1");
    pair.run(Duration::from_millis(20));
    urgent(&mut pair, true, client, b"ab2");
    pair.run(Duration::from_millis(20));
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Ok(b"2".to_vec()));
    assert_eq!(take(&mut pair, server, 100, ReceiveFlags::empty()), Ok(b"ab".to_vec()));
}

//= test RFC 9293 §3.8.5 (MUST-32)
#[test]
fn the_pointer_goes_ahead_of_data_that_the_window_holds_back() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    let data = pattern(60_000);
    assert!(pair.send(true, client, &data).is_ok());
    pair.run(Duration::from_millis(100));
    let from = pair.log.len();
    urgent(&mut pair, true, client, b"xyz");
    pair.run(Duration::from_millis(20));
    let header = pair.sent(true, from)[0].1.header();
    assert!(header.flags.contains(Flags::URG));
    assert_eq!(header.urgent, 3);
    // RFC 1122's reading, by setting: the byte after.
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Ok(b"z".to_vec()));
    // Announced and not yet there: MSG_OOB does not wait.
    let mut ahead = header;
    ahead.seq = header.seq + 3;
    ahead.urgent = 500;
    ahead.flags = Flags::ACK | Flags::URG;
    pair.forge(false, &ahead, &[]);
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Err(ReceiveError::WouldBlock));
    assert_eq!(pair.right.tcp.poll_urgent(), Some(OWNER));
}

#[test]
fn stdurg_points_to_the_byte_itself() {
    let mut pair = Pair::with_settings(Settings { tcp_stdurg: true, ..Settings::default() }, 0);
    let (client, server) = pair.established();
    urgent(&mut pair, true, client, b"x");
    assert_eq!(pair.send(true, client, b"y"), Ok(1));
    pair.run(Duration::from_millis(100));
    assert_eq!(take(&mut pair, server, 1, ReceiveFlags::OOB), Ok(b"y".to_vec()));
}
