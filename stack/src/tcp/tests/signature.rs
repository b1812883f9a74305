//! MD5 signatures: every segment of a connection carries one, others are dropped and counted, room for options.

use super::*;
use crate::socket::error::OptionError;
use crate::socket::options::{OptionName, OptionValue, SetOption, SignatureKey};
use crate::tcp::sequence::Seq;

fn key(address: IpAddr, prefix: u8, key: &[u8]) -> SetOption {
    SetOption::SignatureKey(SignatureKey { address, prefix, default_domain: false, key: key.to_vec() })
}

fn set(pair: &mut Pair, left: bool, sock: SockId, option: &SetOption) -> Result<(), OptionError> {
    let now = pair.now;
    pair.side(left).with(now, |tcp, net| tcp.set_option(net, sock, option))
}

/// A listener on the right and a connect on the left, each with its key.
fn begun(ours: &[u8], theirs: &[u8]) -> (Pair, SockId, SockId) {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    if !theirs.is_empty() {
        set(&mut pair, false, listener, &key(LEFT, 24, theirs)).expect("a key");
    }
    if !ours.is_empty() {
        set(&mut pair, true, client, &key(RIGHT, 32, ours)).expect("a key");
    }
    assert_eq!(pair.connect(true, client, 80), Err(ConnectError::InProgress));
    pair.run(Duration::from_millis(50));
    (pair, client, listener)
}

fn all_signed(pair: &Pair) {
    for (_, packet) in &pair.log {
        assert!(packet.header().options.signature.is_some(), "{:?}", packet.header());
        assert!(packet.parsed().length <= 60);
    }
}

#[test]
//= test REF T-09
fn every_segment_from_syn_to_time_wait_is_signed() {
    let (mut pair, client, listener) = begun(b"secret", b"secret");
    let server = pair.accept(false, listener).expect("a connection");
    let data = pattern(30_000);
    assert_eq!(pair.send(true, client, &data), Ok(30_000));
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.receive(false, server, 40_000), Ok(data));
    pair.close(true, client);
    pair.run(Duration::from_millis(100));
    pair.close(false, server);
    // The answer to the FIN is lost: the FIN comes again and TIME_WAIT answers it.
    pair.filter = Some(|packet, _| packet.source != LEFT || !packet.payload().is_empty());
    pair.run(Duration::from_millis(100));
    pair.filter = None;
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.state(false, server), State::Closed);
    assert!(pair.right.counters.tcp_retrans_segs > 0);
    all_signed(&pair);
    // No timestamps, or SACK would not fit; segments of the size that is left, none for the device to cut.
    assert!(pair.log.iter().all(|(_, packet)| packet.header().options.timestamps.is_none() && packet.gso_size == 0));
    assert!(pair.log.iter().any(|(_, packet)| packet.payload().len() == 1_440));
    for host in [&pair.left, &pair.right] {
        let counters = &host.counters;
        assert_eq!((counters.tcp_md5_failure, counters.tcp_md5_not_found, counters.tcp_md5_unexpected), (0, 0, 0));
    }
}

#[test]
//= test REF T-09
fn wrong_missing_and_unexpected_signatures_are_dropped_and_counted() {
    for (ours, theirs, expected) in
        [(&b"one"[..], &b"two"[..], (1, 0, 0)), (b"", b"two", (0, 1, 0)), (b"one", b"", (0, 0, 1))]
    {
        let (mut pair, client, _) = begun(ours, theirs);
        assert_eq!(pair.state(true, client), State::SynSent);
        assert!(pair.sent(false, 0).is_empty());
        let counters = &pair.right.counters;
        let counted = (counters.tcp_md5_failure, counters.tcp_md5_not_found, counters.tcp_md5_unexpected);
        assert_eq!(counted, expected);
        pair.close(true, client);
    }
}

#[test]
fn a_reset_must_be_signed_to_be_believed() {
    let (mut pair, client, listener) = begun(b"secret", b"secret");
    let server = pair.accept(false, listener).expect("a connection");
    let last = pair.sent(true, 0).last().expect("an ACK").1.header();
    let reset = Header { flags: Flags::RST, options: Default::default(), ..last };
    pair.forge(false, &reset, b"");
    assert_eq!(pair.state(false, server), State::Established);
    let mut forged = reset;
    forged.options.signature = Some([7; 16]);
    pair.forge(false, &forged, b"");
    assert_eq!(pair.state(false, server), State::Established);
    assert_eq!((pair.right.counters.tcp_md5_not_found, pair.right.counters.tcp_md5_failure), (1, 1));
    // One that is owed is signed.
    set(&mut pair, true, client, &SetOption::Linger(Some(Duration::ZERO))).ok();
    pair.send(false, server, b"unread").expect("room");
    pair.run(Duration::from_millis(50));
    pair.close(true, client);
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.state(false, server), State::Closed);
    assert!(pair.log.last().expect("a reset").1.header().flags.contains(Flags::RST));
    all_signed(&pair);
}

#[test]
fn two_sack_blocks_fit_beside_a_signature_and_none_beside_timestamps_too() {
    let (mut pair, client, listener) = begun(b"secret", b"secret");
    let server = pair.accept(false, listener).expect("a connection");
    pair.send(true, client, &pattern(1_440 * 8)).expect("room");
    pair.filter = Some(|packet, count| packet.payload().is_empty() || count % 3 == 0);
    let from = pair.log.len();
    pair.run(Duration::from_millis(60));
    pair.filter = None;
    let most = pair.sent(false, from).iter().map(|(_, packet)| packet.header().options.sack.len()).max();
    assert_eq!(most, Some(2));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.receive(false, server, 20_000).map(|bytes| bytes.len()), Ok(1_440 * 8));
    all_signed(&pair);

    let mut header = pair.log[0].1.header();
    header.options.timestamps = Some(Default::default());
    header.options.sack.push(super::super::header::SackBlock { start: Seq(1), end: Seq(2) });
    assert!(header.emit().as_slice().len() <= 60);
}

#[test]
//= test REF T-09
fn the_longest_prefix_counts_and_keys_are_deleted_one_by_one() {
    let mut pair = Pair::new();
    let sock = pair.socket(true);
    assert_eq!(set(&mut pair, true, sock, &key(RIGHT, 32, b"")), Err(OptionError::NotFound));
    assert_eq!(set(&mut pair, true, sock, &key(RIGHT, 0, b"all")), Ok(()));
    assert_eq!(set(&mut pair, true, sock, &key(RIGHT, 24, b"net")), Ok(()));
    assert_eq!(set(&mut pair, true, sock, &key(RIGHT, 24, &[1; 81])), Err(OptionError::Invalid));
    assert_eq!(set(&mut pair, true, sock, &key(LEFT, 24, b"")), Err(OptionError::NotFound));
    let host = pair.side(true);
    let keys = |host: &Host, peer: IpAddr| {
        host.tcp.signatures(sock.index).and_then(|keys| keys.copy_of_key(peer)).map(|key| key.to_vec())
    };
    assert_eq!(keys(host, LEFT), Some(b"net".to_vec()));
    assert_eq!(keys(host, IpAddr::from([192, 0, 2, 1])), Some(b"all".to_vec()));
    let now = pair.now;
    let read = |pair: &mut Pair, place| {
        pair.left.with(now, |tcp, net| tcp.option(net, sock, OptionName::SignatureKey { place }))
    };
    let Ok(OptionValue::Bytes(second)) = read(&mut pair, 1) else { panic!("two keys") };
    assert_eq!(
        (second.len(), &second[4..8], &second[128..132], &second[136..140]),
        (216, &[10, 0, 0, 2][..], &[1, 24, 3, 0][..], &b"net\0"[..])
    );
    assert_eq!(read(&mut pair, 2), Err(OptionError::NotFound));
    assert_eq!(set(&mut pair, true, sock, &key(RIGHT, 24, b"")), Ok(()));
    assert_eq!(keys(pair.side(true), LEFT), Some(b"all".to_vec()));
}
