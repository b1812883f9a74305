//! TCP_REPAIR: a connection moves from one socket to another, and its peer notices nothing.

use super::*;
use crate::socket::error::OptionError;
use crate::socket::options::{OptionName, OptionValue, SetOption};

fn set(pair: &mut Pair, sock: SockId, option: &SetOption) -> Result<(), OptionError> {
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.set_option(net, sock, option))
}

fn read(pair: &mut Pair, sock: SockId, name: OptionName) -> Result<OptionValue, OptionError> {
    let now = pair.now;
    pair.left.with(now, |tcp, net| tcp.option(net, sock, name))
}

fn number(pair: &mut Pair, sock: SockId, name: OptionName) -> u32 {
    match read(pair, sock, name) {
        Ok(OptionValue::Int(value)) => value.cast_unsigned(),
        other => panic!("{other:?}"),
    }
}

fn peek(pair: &mut Pair, sock: SockId) -> Result<Vec<u8>, ReceiveError> {
    let now = pair.now;
    let mut sink = Collect::new(1 << 20);
    pair.left.with(now, |tcp, net| tcp.receive(net, sock, &mut sink, ReceiveFlags::PEEK))?;
    Ok(sink.bytes)
}

/// What a checkpoint holds.
struct Saved {
    port: u16,
    send: (u32, Vec<u8>),
    receive: (u32, Vec<u8>),
    window: [u32; 5],
    timestamp: u32,
}

fn save(pair: &mut Pair, sock: SockId) -> Saved {
    set(pair, sock, &SetOption::Repair(1)).expect("repair");
    let queue = |pair: &mut Pair, which: i32| {
        set(pair, sock, &SetOption::RepairQueue(which)).expect("a queue");
        let end = number(pair, sock, OptionName::QueueSeq);
        let bytes = peek(pair, sock).unwrap_or_default();
        (end.wrapping_sub(bytes.len() as u32), bytes)
    };
    let receive = queue(pair, 1);
    let send = queue(pair, 2);
    let Ok(OptionValue::Bytes(bytes)) = read(pair, sock, OptionName::RepairWindow) else { panic!("a window") };
    let mut window = [0; 5];
    for (field, bytes) in window.iter_mut().zip(bytes.chunks(4)) {
        *field = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    }
    let port = pair.left.tcp.local_name(sock).port();
    let timestamp = number(pair, sock, OptionName::TcpTimestamp);
    pair.close(true, sock);
    Saved { port, send, receive, window, timestamp }
}

fn revive(pair: &mut Pair, saved: &Saved) -> SockId {
    let sock = pair.socket(true);
    set(pair, sock, &SetOption::Repair(1)).expect("repair");
    for (which, seq) in [(1, saved.receive.0), (2, saved.send.0)] {
        set(pair, sock, &SetOption::RepairQueue(which)).expect("a queue");
        set(pair, sock, &SetOption::QueueSeq(seq)).expect("a number");
    }
    pair.bind(true, sock, saved.port);
    assert_eq!(pair.connect(true, sock, 80), Ok(()));
    assert_eq!(pair.state(true, sock), State::Established);
    let options = alloc::vec![(2, 1_460), (3, 7 | 7 << 16), (4, 0), (8, 0)];
    set(pair, sock, &SetOption::RepairOptions(options)).expect("options");
    set(pair, sock, &SetOption::TcpTimestamp(saved.timestamp)).expect("a timestamp");
    for (which, bytes) in [(1, &saved.receive.1), (2, &saved.send.1)] {
        set(pair, sock, &SetOption::RepairQueue(which)).expect("a queue");
        if !bytes.is_empty() {
            assert_eq!(pair.send(true, sock, bytes), Ok(bytes.len()));
        }
    }
    set(pair, sock, &SetOption::RepairWindow(saved.window)).expect("a window");
    set(pair, sock, &SetOption::Repair(0)).expect("no repair");
    sock
}

//= test REF C-16
#[test]
fn a_live_connection_is_saved_and_revived_with_both_queues() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(false, server, b"to be read later"), Ok(16));
    assert_eq!(pair.send(true, client, b"seen"), Ok(4));
    pair.run(Duration::from_millis(100));
    // What is in flight at that moment is lost on the way.
    pair.filter = Some(|_, _| false);
    assert_eq!(pair.send(true, client, b"lost on the way"), Ok(15));
    pair.run(Duration::from_millis(10));
    let from = pair.log.len();
    let saved = save(&mut pair, client);
    assert_eq!(saved.receive.1, b"to be read later");
    assert_eq!(saved.send.1, b"lost on the way");
    pair.flush();
    assert_eq!(pair.log.len(), from, "nobody is told");
    assert!(!pair.left.tcp.is_port_used(saved.port));

    pair.filter = None;
    let again = revive(&mut pair, &saved);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.receive(false, server, 100), Ok(b"seenlost on the way".to_vec()));
    assert_eq!(pair.receive(true, again, 100), Ok(b"to be read later".to_vec()));
    // And it goes on, both ways, to an orderly end.
    let data = pattern(200_000);
    for (from, to, left) in [(again, server, true), (server, again, false)] {
        let mut sent = 0;
        let mut got = Vec::new();
        for _ in 0..200 {
            sent += pair.send(left, from, &data[sent..]).unwrap_or(0);
            pair.run(Duration::from_millis(20));
            got.extend(pair.receive(!left, to, 1 << 20).unwrap_or_default());
        }
        assert_eq!(got, data);
    }
    pair.close(true, again);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.receive(false, server, 10), Ok(Vec::new()));
    assert_eq!(pair.right.counters.tcp_estab_resets, 0);
}

//= test REF C-16
#[test]
fn repair_keeps_to_linux_rules() {
    let mut pair = Pair::new();
    let sock = pair.socket(true);
    assert_eq!(set(&mut pair, sock, &SetOption::RepairQueue(1)), Err(OptionError::NotPermitted));
    assert_eq!(read(&mut pair, sock, OptionName::RepairQueue), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, sock, &SetOption::TcpTimestamp(1)), Err(OptionError::NotPermitted));
    assert_eq!(set(&mut pair, sock, &SetOption::RepairOptions(Vec::new())), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, sock, &SetOption::Repair(2)), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, sock, &SetOption::Repair(1)), Ok(()));
    assert_eq!(number(&mut pair, sock, OptionName::Repair), 1);
    assert_eq!(set(&mut pair, sock, &SetOption::QueueSeq(5)), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, sock, &SetOption::RepairQueue(3)), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, sock, &SetOption::RepairQueue(2)), Ok(()));
    assert_eq!(set(&mut pair, sock, &SetOption::QueueSeq(5)), Ok(()));
    assert_eq!(number(&mut pair, sock, OptionName::QueueSeq), 5);
    assert_eq!(set(&mut pair, sock, &SetOption::RepairOptions(Vec::new())), Err(OptionError::NotPermitted));
    let window = [0, 2, 1, 0, 0];
    assert_eq!(set(&mut pair, sock, &SetOption::RepairWindow(window)), Err(OptionError::Invalid));
    assert_eq!(pair.connect(true, sock, 80), Ok(()));
    assert_eq!(pair.receive(true, sock, 1), Err(ReceiveError::NotPermitted));
    assert_eq!(set(&mut pair, sock, &SetOption::QueueSeq(9)), Err(OptionError::NotPermitted));
    let scale = SetOption::RepairOptions(alloc::vec![(3, 15)]);
    assert_eq!(set(&mut pair, sock, &scale), Err(OptionError::TooBig));
    assert_eq!(set(&mut pair, sock, &SetOption::RepairOptions(alloc::vec![(4, 1)])), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, sock, &SetOption::RepairQueue(0)), Ok(()));
    assert_eq!(pair.send(true, sock, b"x"), Err(SendError::Invalid));
    assert_eq!(peek(&mut pair, sock), Err(ReceiveError::Invalid));
    let listener = pair.listen(true, 80, 1);
    assert_eq!(set(&mut pair, listener, &SetOption::Repair(1)), Err(OptionError::NotPermitted));
}
