//! Memory of all connections: what pressure does to windows and sends, and who has to go when nothing is left.

use super::*;
use crate::socket::kept::Kept;
use crate::socket::options::{OptionName, OptionValue, SetOption};
use crate::socket::protocol::Happened;

/// Connections whose memory may be so many pages.
fn pair(tcp_mem: [u32; 3]) -> Pair {
    Pair::with_settings(Settings { tcp_mem, ..Settings::default() }, 65_535)
}

/// More than any test takes.
const AMPLE: [u32; 3] = [10_000, 20_000, 30_000];

/// Sends so many bytes from the left, in as many calls as it takes, and lets them arrive.
fn write(pair: &mut Pair, client: SockId, count: usize) {
    let bytes = pattern(count);
    let mut from = 0;
    for _ in 0..100 {
        from += pair.send(true, client, &bytes[from..]).unwrap_or(0);
        pair.run(Duration::from_millis(50));
        if from == count {
            return;
        }
    }
    panic!("{from} of {count} bytes were taken");
}

fn window(pair: &mut Pair, left: bool) -> u32 {
    let log = pair.sent(left, 0);
    let (_, last) = log.last().expect("something was sent");
    u32::from(last.header().window) << 7
}

//= test REF T-06
#[test]
fn pressure_begins_above_the_second_number_and_ends_below_the_first() {
    let mut pair = pair([10, 20, 10_000]);
    pair.left.settings.tcp_mem = AMPLE;
    let (client, server) = pair.established();
    // What nobody reads takes memory on the right.
    write(&mut pair, client, 20_000);
    assert_eq!((pair.right.counters.tcp_memory_pressures, pair.right.tcp.shared.memory.pages()), (0, 8));
    write(&mut pair, client, 40_000);
    assert_eq!(pair.right.counters.tcp_memory_pressures, 1, "{} pages", pair.right.tcp.shared.memory.pages());
    assert_eq!(pair.right.counters.tcp_memory_pressures_chrono, 0);
    for _ in 0..100 {
        let _ = pair.receive(false, server, 100_000);
        pair.run(Duration::from_millis(100));
    }
    assert!(pair.right.counters.tcp_memory_pressures_chrono >= 10);
    assert_eq!(pair.right.tcp.shared.memory.pages(), 0);
}

//= test REF T-06
#[test]
fn under_pressure_the_window_is_a_few_segments() {
    let mut pair = pair([1, 2, 10_000]);
    pair.left.settings.tcp_mem = AMPLE;
    let (client, server) = pair.established();
    let listener = pair.listen(false, 81, 8);
    let other = pair.socket(true);
    let _ = pair.connect(true, other, 81);
    pair.run(Duration::from_millis(50));
    pair.accept(false, listener).expect("a connection");
    // One that holds memory puts all under pressure.
    write(&mut pair, other, 20_000);
    for _ in 0..20 {
        let _ = pair.send(true, client, &pattern(4_000));
        pair.run(Duration::from_millis(100));
        while pair.receive(false, server, 100_000).is_ok_and(|bytes| !bytes.is_empty()) {}
    }
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.right.counters.tcp_memory_pressures, 1);
    let calm = {
        let mut pair = Pair::new();
        let (client, server) = pair.established();
        for _ in 0..20 {
            let _ = pair.send(true, client, &pattern(4_000));
            pair.run(Duration::from_millis(100));
            while pair.receive(false, server, 100_000).is_ok_and(|bytes| !bytes.is_empty()) {}
        }
        window(&mut pair, false)
    };
    let pressed = window(&mut pair, false);
    assert!(pressed * 2 < calm, "{pressed} and {calm}");
}

//= test REF T-06
#[test]
fn beyond_the_third_number_a_send_waits_and_tries_again() {
    let mut pair = pair([2, 3, 4]);
    let (client, _server) = pair.established();
    // The buffer is not what there is too little of.
    let options = pair.left.tcp.options_mut(client).expect("a sock");
    (options.send_buffer, options.send_buffer_locked) = (400_000, true);
    // Nothing arrives: what is written stays.
    pair.filter = Some(|_, _| false);
    let mut written = 0;
    for _ in 0..100 {
        match pair.send(true, client, &pattern(4_096)) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error, SendError::WouldBlock);
                break;
            }
        }
    }
    assert!((4_096..=80_000).contains(&written), "{written}");
    while pair.left.tcp.poll_event().is_some() {}
    pair.run(Duration::from_millis(210));
    // The program is told to try again, though no acknowledgment has come.
    assert!(core::iter::from_fn(|| pair.left.tcp.poll_event()).any(|(_, happened)| happened.contains(Happened::ROOM)));
}

//= test REF T-06
#[test]
fn beyond_the_third_number_what_comes_is_thrown_away_unless_nothing_is_there() {
    let mut pair = pair([1, 2, 3]);
    pair.left.settings.tcp_mem = AMPLE;
    let (client, server) = pair.established();
    write(&mut pair, client, 40_000);
    pair.run(Duration::from_secs(1));
    let counters = &pair.right.counters;
    assert!(counters.prune_called > 0 && counters.rcv_pruned + counters.tcp_rcv_q_drop > 0, "{counters:?}");
    // A reader gets all of it in the end.
    let mut all = Vec::new();
    for _ in 0..400 {
        if let Ok(bytes) = pair.receive(false, server, 100_000) {
            all.extend_from_slice(&bytes);
        }
        pair.run(Duration::from_millis(500));
    }
    assert_eq!(all, pattern(40_000));
}

//= test REF T-06
#[test]
fn a_connection_without_a_program_is_ended_when_memory_is_spent_or_there_are_too_many() {
    let mut pair = pair([1, 2, 3]);
    pair.right.settings.tcp_mem = AMPLE;
    let (client, _server) = pair.established();
    pair.filter = Some(|packet, _| packet.source == LEFT);
    let written = pair.send(true, client, &pattern(30_000)).expect("some of it");
    assert!(written > 8_000);
    pair.close(true, client);
    assert_eq!(pair.left.counters.tcp_abort_on_memory, 1);
    pair.run(Duration::from_millis(50));
    assert!(pair.sent(true, 0).iter().any(|(_, packet)| packet.header().flags.contains(Flags::RST)));
    assert!(pair.left.tcp.is_idle());

    let mut pair = Pair::with_settings(Settings { tcp_max_orphans: 1, ..Settings::default() }, 65_535);
    pair.listen(false, 80, 8);
    let clients: Vec<SockId> = (0..2)
        .map(|_| {
            let client = pair.socket(true);
            let _ = pair.connect(true, client, 80);
            client
        })
        .collect();
    pair.run(Duration::from_millis(100));
    pair.filter = Some(|packet, _| packet.source == LEFT);
    for client in &clients {
        pair.close(true, *client);
    }
    assert_eq!(pair.left.counters.tcp_abort_on_memory, 1);
}

//= test REF T-11
#[test]
fn timeouts_are_counted_and_timed_in_tcp_info() {
    let mut pair = Pair::new();
    let (client, _server) = pair.established();
    let info = |pair: &mut Pair| {
        let now = pair.now;
        let value = pair.left.with(now, |tcp, net| tcp.option(net, client, OptionName::Info)).expect("a connection");
        let OptionValue::Bytes(bytes) = value else { panic!("TCP_INFO is bytes") };
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (word(236), short(240), short(242), word(244))
    };
    assert_eq!(info(&mut pair), (0, 0, 0, 0));
    pair.filter = Some(|packet, _| packet.source == RIGHT);
    assert_eq!(pair.send(true, client, b"x"), Ok(1));
    pair.run(Duration::from_millis(1_000));
    let (rehashed, total, recoveries, millis) = info(&mut pair);
    assert!(total >= 2 && recoveries == 1 && rehashed == u32::from(total), "{total} {recoveries}");
    assert!((500..=900).contains(&millis), "{millis}");
    pair.filter = None;
    pair.run(Duration::from_secs(3));
    let (_, _, _, over) = info(&mut pair);
    pair.run(Duration::from_secs(3));
    assert_eq!(info(&mut pair).3, over, "the recovery is over");
    let rehashed = u64::from(info(&mut pair).0);
    assert_eq!(pair.left.counters.tcp_timeout_rehash, rehashed);
}

//= test RFC 8985 §6.2 (SHLD-7)
#[test]
fn the_least_round_trip_is_that_of_the_last_minutes() {
    let mut pair = Pair::with_settings(Settings { tcp_min_rtt_wlen: 10, ..Settings::default() }, 65_535);
    let (client, server) = pair.established();
    let least = |pair: &mut Pair| {
        let now = pair.now;
        match pair.left.with(now, |tcp, net| tcp.option(net, client, OptionName::Info)) {
            Ok(OptionValue::Bytes(bytes)) => u32::from_ne_bytes([bytes[148], bytes[149], bytes[150], bytes[151]]),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(least(&mut pair), 10_000);
    pair.latency = Duration::from_millis(20);
    for second in 0..12 {
        assert_eq!(pair.send(true, client, &[1; 6_000]), Ok(6_000));
        pair.run(Duration::from_secs(1));
        let _ = pair.receive(false, server, 8_000);
        assert_eq!(least(&mut pair) > 30_000, second >= 10, "after {second} s");
    }
}

//= test REF D-02
#[test]
fn a_peek_goes_on_where_the_last_one_ended() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(true, client, b"abcdef"), Ok(6));
    pair.run(Duration::from_millis(50));
    let set = SetOption::Kept(Kept::PeekOff, 1);
    let options = pair.right.tcp.options_mut(server).expect("a sock");
    crate::socket::sockopt::set_common(options, &Settings::default(), &set).expect("any number is taken");
    let now = pair.now;
    let peek = |pair: &mut Pair, most: usize| {
        let mut sink = Collect::new(most);
        let received = pair.right.with(now, |tcp, net| tcp.receive(net, server, &mut sink, ReceiveFlags::PEEK));
        received.map(|_| sink.bytes)
    };
    assert_eq!(peek(&mut pair, 2), Ok(b"bc".to_vec()));
    assert_eq!(peek(&mut pair, 2), Ok(b"de".to_vec()));
    assert_eq!(pair.receive(false, server, 2), Ok(b"ab".to_vec()));
    assert_eq!(peek(&mut pair, 9), Ok(b"f".to_vec()));
    assert_eq!(peek(&mut pair, 9), Err(ReceiveError::WouldBlock));
    assert_eq!(pair.receive(false, server, 9), Ok(b"cdef".to_vec()));
}

//= test REF C-19
#[test]
fn an_echo_that_was_never_sent_is_refused_and_counted() {
    let mut pair = Pair::new();
    let listener = pair.listen(false, 80, 8);
    let client = pair.socket(true);
    let _ = pair.connect(true, client, 80);
    pair.flush();
    pair.filter = Some(|packet, _| packet.source == LEFT && !packet.is(Flags::ACK));
    pair.run(Duration::from_millis(20));
    let answer = pair.sent(false, 0).first().expect("a SYN-ACK").1.header();
    let stamps = answer.options.timestamps.expect("both want them");
    let mut last = Header {
        source_port: answer.destination_port,
        destination_port: 80,
        seq: answer.ack,
        ack: answer.seq + 1,
        flags: Flags::ACK,
        window: 1_000,
        ..Header::default()
    };
    last.options.timestamps =
        Some(crate::tcp::header::Timestamps { value: stamps.echo, echo: stamps.value.wrapping_add(9) });
    pair.forge(false, &last, &[]);
    assert_eq!(pair.right.counters.ts_ecr_rejected, 1);
    assert!(pair.accept(false, listener).is_none());
    last.options.timestamps = Some(crate::tcp::header::Timestamps { value: stamps.echo, echo: stamps.value });
    pair.forge(false, &last, &[]);
    assert!(pair.accept(false, listener).is_some());
}

#[test]
fn beyond_the_window_is_counted_and_old_acks_are_not_answered() {
    let mut pair = Pair::new();
    let (client, server) = pair.established();
    assert_eq!(pair.send(true, client, b"abc"), Ok(3));
    pair.run(Duration::from_millis(100));
    let log = pair.sent(true, 0);
    let old = log.iter().find(|(_, packet)| packet.payload() == b"abc").expect("the data").1.header();
    let mut beyond = old;
    beyond.seq = old.seq + 1_000_000_000;
    pair.forge(false, &beyond, b"x");
    assert_eq!(pair.right.counters.beyond_window, 1);
    // An ACK from before the data, with an older time.
    let mut late = old;
    late.flags = Flags::ACK;
    let stamps = old.options.timestamps.expect("both have them");
    late.options.timestamps =
        Some(crate::tcp::header::Timestamps { value: stamps.value.wrapping_sub(100_000), ..stamps });
    pair.run(Duration::from_secs(1));
    let before = pair.log.len();
    pair.forge(false, &late, &[]);
    pair.run(Duration::from_millis(100));
    assert_eq!((pair.right.counters.paws_old_ack, pair.right.counters.paws_estab), (1, 0));
    assert_eq!(pair.log.len(), before);
    assert_eq!(pair.state(false, server), State::Established);
}
