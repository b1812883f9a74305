//! A sender alone with ACKs that are made up: how the window shrinks, when it was not called for, and what counts.
//! Segments are counted from 0; each carries 1448 bytes, or 1460 without timestamps.

use super::super::header::SackBlock;
use super::super::phase::Phase;
use super::super::sequence::Seq;
use super::super::sock::Sock;
use super::*;

/// A connection whose segments get nowhere; what comes back is made up.
struct Sender {
    pair: Pair,
    client: SockId,
    /// The header of the first data segment.
    first: Header,
    mss: u32,
    seen: usize,
}

impl Sender {
    /// Ten segments are in flight, which is the window, and `more` wait. The round trip takes 10 ms.
    fn new(settings: Settings, more: usize) -> Self {
        let mss = if settings.tcp_timestamps > 0 { 1_448 } else { 1_460 };
        let mut pair = Pair::with_settings(settings, 0);
        let (client, _) = pair.established();
        pair.run(Duration::from_millis(100));
        pair.filter = Some(|_, _| false);
        let seen = pair.log.len();
        pair.send(true, client, &pattern(mss * (10 + more))).expect("room");
        pair.flush();
        let first = pair.sent(true, seen)[0].1.header();
        let mut sender = Self { pair, client, first, mss: u32::try_from(mss).expect("small"), seen };
        assert_eq!(sender.sent(), (0..10).collect::<Vec<_>>());
        sender
    }

    fn without_timestamps(more: usize) -> Self {
        Self::new(Settings { tcp_timestamps: 0, ..Settings::default() }, more)
    }

    fn sock(&self) -> &Sock {
        self.pair.left.tcp.sock(self.client.index).expect("a sock")
    }

    fn seq(&self, segment: u32) -> Seq {
        self.first.seq + segment * self.mss
    }

    /// Segments sent since this was asked last.
    fn sent(&mut self) -> Vec<u32> {
        self.pair.flush();
        let sent = self.pair.sent(true, self.seen);
        self.seen = self.pair.log.len();
        let mss = self.mss;
        sent.iter()
            .filter(|(_, packet)| !packet.payload().is_empty())
            .map(|(_, packet)| packet.header().seq.distance_from(self.first.seq) / mss)
            .collect()
    }

    /// An ACK for all before segment `next` that reports `sack`; `age`: how long ago what it echoes was sent.
    fn ack_of_age(&mut self, next: u32, sack: &[(u32, u32)], age: u32) {
        let mut header = Header {
            source_port: self.first.destination_port,
            destination_port: self.first.source_port,
            seq: self.first.ack,
            ack: self.seq(next),
            flags: Flags::ACK,
            window: u16::MAX,
            ..Header::default()
        };
        if let Some(mut timestamps) = self.first.options.timestamps {
            let sock = self.sock();
            timestamps.echo = sock.timestamp(self.pair.now).wrapping_sub(age);
            timestamps.value = sock.ts_recent;
            header.options.timestamps = Some(timestamps);
        }
        for (start, end) in sack {
            header.options.sack.push(SackBlock { start: self.seq(*start), end: self.seq(*end) });
        }
        self.pair.forge(true, &header, &[]);
    }

    fn ack(&mut self, next: u32, sack: &[(u32, u32)]) {
        self.ack_of_age(next, sack, 10);
    }

    fn pass(&mut self, millis: u64) {
        self.pair.run(Duration::from_millis(millis));
    }

    fn counters(&self) -> &Counters {
        &self.pair.left.counters
    }
}

//= test RFC 3042 §2
//= test RFC 5681 §3.2 (SHLD-9, MUST-12)
#[test]
fn the_first_two_reports_send_new_data_and_leave_the_window() {
    let mut sender = Sender::new(Settings::default(), 20);
    sender.pass(10);
    sender.ack(0, &[(1, 2)]);
    assert_eq!(sender.sent(), [10]);
    sender.ack(0, &[(1, 3)]);
    assert_eq!(sender.sent(), [11]);
    assert_eq!((sender.sock().phase, sender.sock().window.cwnd), (Phase::Disorder, 10));
}

//= test RFC 6937 §3
//= test REF T-04
//= test RFC 5681 §3.2 (MUST-15, SHLD-10)
//= test RFC 6675 §4 (MUST-2, MUST-5)
//= test RFC 6675 §5 (MUST-12, MUST-13, MUST-14, SHLD-5)
//= test RFC 8985 §3.3.2 (SHLD-2)
//= test RFC 8985 §9.3 (SHLD-16)
//= test RFC 9438 §4.6 (MUST-4)
#[test]
fn the_window_shrinks_evenly_while_losses_are_repeated() {
    let mut sender = Sender::new(Settings::default(), 20);
    sender.pass(10);
    sender.ack(0, &[(1, 2)]);
    sender.ack(0, &[(1, 3)]);
    assert_eq!(sender.sent(), [10, 11]);
    sender.ack(0, &[(1, 4)]);
    assert_eq!((sender.sock().phase, sender.sock().window.ssthresh), (Phase::Recovery, 7));
    // 8 are in flight. Of those delivered from now on 7/10 may be sent, rounded up, the repetition first.
    assert_eq!(sender.sent(), [0]);
    sender.ack(0, &[(1, 5)]);
    assert_eq!(sender.sent(), [12]);
    sender.ack(0, &[(1, 6)]);
    assert_eq!(sender.sent(), [13]);
    for end in [7, 8] {
        sender.ack(0, &[(1, end)]);
        assert_eq!(sender.sent(), Vec::<u32>::new());
    }
    // At the threshold one goes out for each that arrives.
    for end in 9..=10 {
        sender.ack(0, &[(1, end)]);
        assert_eq!(sender.sent().len(), 1);
        assert_eq!(sender.sock().board.in_flight(), 7);
    }
    sender.pass(10);
    sender.ack(12, &[]);
    assert_eq!(sender.sock().phase, Phase::Open);
    assert!((7..=8).contains(&sender.sock().window.cwnd), "{}", sender.sock().window.cwnd);
    assert_eq!(sender.counters().tcp_sack_recovery, 1);
}

//= test RFC 4015 §3
//= test REF T-04
//= test RFC 6675 §4 (MUST-8)
//= test RFC 9438 §4.9.2 (MAY-3)
#[test]
fn an_echo_of_the_first_copy_takes_the_reduction_back() {
    let mut sender = Sender::new(Settings::default(), 0);
    sender.pass(10);
    sender.ack(0, &[(1, 4)]);
    assert_eq!(sender.sent(), [0]);
    assert_eq!(sender.sock().window.ssthresh, 7);
    sender.pass(5);
    // The first copy of segment 0 has arrived late: the echo is older than the repetition.
    sender.ack_of_age(10, &[], 15);
    assert_eq!(sender.sock().phase, Phase::Open);
    assert_eq!(sender.counters().tcp_full_undo, 1);
    // The window of before, and slow start goes on with the seven that were delivered.
    assert_eq!(sender.sock().window.cwnd, 10 + 7);
    assert!(sender.sock().window.is_slow_start());
}

#[test]
fn an_echo_of_the_repetition_lets_the_reduction_stand() {
    let mut sender = Sender::new(Settings::default(), 0);
    sender.pass(10);
    sender.ack(0, &[(1, 4)]);
    assert_eq!(sender.sent(), [0]);
    sender.pass(10);
    sender.ack_of_age(10, &[], 10);
    assert_eq!(sender.sock().phase, Phase::Open);
    assert!((7..=8).contains(&sender.sock().window.cwnd));
    assert_eq!(sender.counters().tcp_full_undo, 0);
}

//= test RFC 3708 §3
//= test RFC 9438 §4.9.2 (MAY-3)
#[test]
fn d_sacks_for_all_repetitions_take_the_reduction_back() {
    let mut sender = Sender::without_timestamps(0);
    sender.pass(10);
    sender.ack(0, &[(2, 5)]);
    assert_eq!(sender.sent(), [0, 1]);
    sender.pass(3);
    sender.ack(10, &[]);
    assert!((7..=8).contains(&sender.sock().window.cwnd));
    sender.pass(7);
    sender.ack(10, &[(0, 1)]);
    assert_eq!(sender.counters().tcp_dsack_undo, 0);
    sender.ack(10, &[(1, 2)]);
    assert_eq!(sender.counters().tcp_dsack_undo, 1);
    assert_eq!(sender.counters().tcp_dsack_recv, 2);
    assert_eq!(sender.sock().window.cwnd, 10);
}

#[test]
fn d_sacks_of_what_was_never_repeated_are_not_believed() {
    let mut sender = Sender::without_timestamps(0);
    sender.pass(10);
    sender.ack(5, &[(0, 1)]);
    assert_eq!(sender.counters().tcp_dsack_ignored_dubious, 1);
    assert_eq!(sender.counters().tcp_dsack_recv_segs, 0);
}

//= test RFC 5682 §3.1
//= test REF T-04
//= test RFC 5681 §3.1 (MUST-11)
//= test RFC 9438 §4.9.1 (MAY-1, MAY-2)
#[test]
fn a_timeout_is_spurious_when_what_was_not_repeated_arrives() {
    let mut sender = Sender::without_timestamps(20);
    // A delay, not a loss: probe of the tail, then the timer.
    sender.pass(400);
    assert_eq!(sender.sock().phase, Phase::Loss);
    assert_eq!(sender.sock().window.cwnd, 1);
    assert!(sender.sock().recovery.frto);
    let sent = sender.sent();
    assert_eq!(sent.last(), Some(&0));
    // The first copies arrive: new data goes out instead of repetitions.
    sender.ack(1, &[]);
    assert!(sender.sent().iter().all(|segment| *segment >= 10));
    sender.ack(3, &[]);
    assert_eq!(sender.counters().tcp_spurious_rtos, 1);
    assert_eq!(sender.counters().tcp_loss_undo, 1);
    assert_eq!(sender.sock().phase, Phase::Open);
    assert!(sender.sock().window.cwnd >= 10, "{}", sender.sock().window.cwnd);
    assert_eq!(sender.sock().board.lost_out, 0);
}

#[test]
fn a_timeout_is_real_when_only_new_data_arrives() {
    let mut sender = Sender::without_timestamps(20);
    sender.pass(400);
    sender.sent();
    sender.ack(1, &[]);
    let new = sender.sent();
    let first = *new.first().expect("new data");
    assert!(first >= 10);
    sender.ack(1, &[(first, first + 1)]);
    assert!(!sender.sock().recovery.frto);
    assert_eq!(sender.sock().phase, Phase::Loss);
    assert_eq!(sender.sent().first(), Some(&1));
    assert_eq!(sender.counters().tcp_spurious_rtos, 0);
    assert!(sender.counters().tcp_slow_start_retrans >= 1);
}

//= test RFC 8985 §9.3 (MUST-11)
#[test]
fn tcp_frto_off_repeats_at_once() {
    let settings = Settings { tcp_frto: 0, tcp_timestamps: 0, ..Settings::default() };
    let mut sender = Sender::new(settings, 20);
    sender.pass(400);
    sender.sent();
    sender.ack(1, &[]);
    assert_eq!(sender.sent(), [1, 2]);
}

//= test RFC 9438 §4.9.1 (MAY-2)
#[test]
fn an_old_echo_ends_a_timeout_as_well() {
    let mut sender = Sender::new(Settings::default(), 0);
    sender.pass(400);
    assert_eq!(sender.sock().phase, Phase::Loss);
    sender.ack_of_age(1, &[], 400);
    assert_eq!((sender.sock().phase, sender.counters().tcp_loss_undo), (Phase::Open, 1));
    assert_eq!(sender.sock().window.cwnd, 10 + 1);
}

//= test RFC 8985 §7.4
//= test RFC 8985 §7.2 (MAY-1, SHLD-11)
//= test RFC 8985 §7.4.2 (MUST-9, SHLD-14)
#[test]
fn a_probe_that_filled_a_hole_counts_as_congestion() {
    for duplicate in [false, true] {
        let mut sender = Sender::without_timestamps(0);
        sender.pass(10);
        sender.ack(9, &[]);
        // One segment is left: twice the round trip and 200 ms for an ACK that is held back, but the timer's 210 ms at most.
        sender.pass(209);
        assert_eq!(sender.sent(), Vec::<u32>::new());
        sender.pass(1);
        assert_eq!(sender.sent(), [9]);
        assert_eq!(sender.counters().tcp_loss_probes, 1);
        let bytes = pattern(1_460);
        sender.pair.send(true, sender.client, &bytes).expect("room");
        assert_eq!(sender.sent(), [10]);
        sender.pass(10);
        sender.ack(if duplicate { 10 } else { 11 }, if duplicate { &[(9, 10)] } else { &[] });
        assert_eq!(sender.counters().tcp_loss_probe_recovery, u64::from(!duplicate));
        assert_eq!(sender.sock().window.ssthresh < 20, !duplicate);
        assert_eq!(sender.counters().tcp_fast_retrans, 0);
        assert_eq!(sender.counters().tcp_retrans_segs, 1);
    }
}

#[test]
fn tcp_early_retrans_off_means_no_probes() {
    let settings = Settings { tcp_early_retrans: 0, ..Settings::default() };
    let mut sender = Sender::new(settings, 0);
    sender.pass(205);
    assert_eq!(sender.counters().tcp_loss_probes, 0);
    sender.pass(10);
    assert_eq!(sender.counters().tcp_timeouts, 1);
    assert_eq!(sender.sent(), [0]);
}

//= test RFC 6298 §5 (MUST-9, SHLD-6)
#[test]
fn an_ack_of_new_data_starts_the_timer_anew() {
    let settings = Settings { tcp_early_retrans: 0, ..Settings::default() };
    let mut sender = Sender::new(settings, 0);
    sender.pass(150);
    sender.ack_of_age(1, &[], 150);
    sender.pass(199);
    assert_eq!(sender.counters().tcp_timeouts, 0);
    // A report alone that tells of nothing later than the first segment does not.
    sender.pass(1_000);
    assert!(sender.counters().tcp_timeouts >= 1);
}

//= test RFC 2018 §8
//= test RFC 6675 §4 (MUST-1)
#[test]
fn a_peer_that_takes_its_report_back_gets_everything_again() {
    let mut sender = Sender::new(Settings::default(), 0);
    sender.pass(10);
    sender.ack(0, &[(2, 4)]);
    sender.ack(2, &[(3, 4)]);
    sender.pass(30);
    assert_eq!(sender.counters().tcp_sack_reneging, 1);
    assert_eq!(sender.sock().board.sacked_out, 0);
    assert_eq!(sender.sent().last(), Some(&2));
}

//= test RFC 6675 §5
//= test RFC 8985 §9.2 (MUST-10)
#[test]
fn without_rack_three_reported_segments_prove_a_loss() {
    let settings = Settings { tcp_recovery: 0, ..Settings::default() };
    let mut sender = Sender::new(settings, 0);
    sender.pass(10);
    sender.ack(0, &[(1, 3)]);
    assert_eq!(sender.sock().phase, Phase::Disorder);
    sender.pass(100);
    sender.sent();
    assert_eq!(sender.sock().phase, Phase::Disorder, "time proves nothing");
    sender.ack(0, &[(1, 4)]);
    assert_eq!(sender.sock().phase, Phase::Recovery);
    assert_eq!(sender.sent(), [0]);
}

//= test RFC 8985 §6.2 (SHLD-8)
//= test RFC 8985 §1 (SHLD-1)
//= test RFC 8985 §3.3.2 (SHLD-3)
#[test]
fn a_quarter_of_the_least_round_trip_is_waited_for_what_was_overtaken() {
    let mut sender = Sender::new(Settings::default(), 0);
    sender.pass(10);
    sender.ack(0, &[(1, 2)]);
    assert_eq!(sender.sock().phase, Phase::Disorder);
    // 2.5 ms, and two jiffies.
    sender.pass(10);
    assert_eq!(sender.sent(), Vec::<u32>::new());
    sender.pass(1);
    assert_eq!(sender.sent(), [0]);
    assert_eq!(sender.sock().phase, Phase::Recovery);
}

//= test RFC 6069 §4
#[test]
fn a_broken_path_takes_one_back_off_back() {
    let settings = Settings { tcp_early_retrans: 0, ..Settings::default() };
    let mut sender = Sender::new(settings, 0);
    // 210 ms, then 420 ms.
    sender.pass(700);
    assert_eq!(sender.sock().rtt.backoff, 2);
    let sent = sender.pair.sent(true, 0);
    let last = sent.last().expect("a repetition").1.clone();
    sender.pair.path_error(true, &last, 1, 0);
    assert_eq!(sender.sock().rtt.backoff, 1);
    assert_eq!(sender.sock().rtt.timeout(), Duration::from_millis(420));
    // Not for what is no repetition of the first segment, and never below none.
    sender.pair.path_error(true, &last, 3, 0);
    assert_eq!(sender.sock().rtt.backoff, 1);
    sender.pair.path_error(true, &last, 0, 0);
    sender.pair.path_error(true, &last, 0, 0);
    assert!(sender.sock().rtt.backoff <= 1);
}

//= test RFC 5681 §3.1 (SHLD-1)
#[test]
fn a_smaller_path_mtu_leaves_the_window() {
    let mut sender = Sender::new(Settings::default(), 0);
    let big = sender.pair.sent(true, 0).last().expect("a segment").1.clone();
    sender.pair.path_error(true, &big, 4, 1_000);
    assert_eq!((sender.sock().phase, sender.sock().window.cwnd), (Phase::Loss, 10));
    assert!(!sender.sent().is_empty());
    assert_eq!(sender.counters().tcp_timeouts, 0);
}

//= test RFC 7661 §4.4.3
#[test]
fn a_window_that_is_not_used_shrinks_to_what_is() {
    let mut sender = Sender::new(Settings::default(), 30);
    let mut next = 0;
    for _ in 0..5 {
        sender.pass(10);
        next += sender.sock().board.packets_out;
        sender.ack(next, &[]);
        sender.sent();
    }
    let full = sender.sock().window.cwnd;
    assert!(full >= 20, "{full}");
    let bytes = pattern(100);
    for _ in 0..40 {
        sender.pair.send(true, sender.client, &bytes).expect("room");
        sender.pass(20);
        let end = sender.sock().snd_nxt;
        let mut header = sender.pair.sent(true, 0).last().expect("data").1.header();
        core::mem::swap(&mut header.source_port, &mut header.destination_port);
        header.seq = sender.first.ack;
        header.ack = end;
        if let Some(timestamps) = &mut header.options.timestamps {
            core::mem::swap(&mut timestamps.value, &mut timestamps.echo);
        }
        sender.pair.forge(true, &header, &[]);
        sender.pair.flush();
    }
    assert!(sender.sock().window.cwnd < full, "{} of {full}", sender.sock().window.cwnd);
    assert!(sender.sock().window.cwnd >= 10);
}

//= test RFC 6675 §5 (SHLD-4)
#[test]
fn reports_beyond_the_recovery_point_outlive_the_recovery() {
    let mut sender = Sender::new(Settings::default(), 20);
    sender.pass(10);
    sender.ack(0, &[(1, 4)]);
    let mut sent = sender.sent();
    assert_eq!((sender.sock().phase, sent.first()), (Phase::Recovery, Some(&0)));
    for end in 5..=10 {
        sender.ack(0, &[(1, end)]);
        sent.extend(sender.sent());
    }
    assert!(sent.contains(&11), "{sent:?}");
    // All up to the recovery point is there, segment 10 is not, 11 is.
    sender.pass(10);
    sender.ack(10, &[(11, 12)]);
    assert_ne!(sender.sock().phase, Phase::Recovery);
    assert_eq!(sender.sock().board.sacked_out, 1);
}

//= test RFC 6675 §5.1 (SHLD-7, MUST-18, SHLD-8, SHLD-9)
#[test]
fn after_a_timeout_what_is_reported_is_not_repeated() {
    let mut sender = Sender::without_timestamps(0);
    sender.pass(10);
    sender.ack(0, &[(4, 6)]);
    sender.pass(1_000);
    assert_eq!(sender.sock().phase, Phase::Loss);
    assert_eq!(sender.sock().high_seq, sender.sock().snd_nxt);
    sender.sent();
    // What is reported now counts as well as what was reported before.
    sender.ack(1, &[(7, 8), (4, 6)]);
    let mut sent = sender.sent();
    for next in [2, 3, 4] {
        sender.pass(10);
        sender.ack(next, &[(7, 8), (4, 6)]);
        sent.extend(sender.sent());
    }
    assert!([4, 5, 7].iter().all(|segment| !sent.contains(segment)), "{sent:?}");
    assert!([1, 2, 3, 6].iter().all(|segment| sent.contains(segment)), "{sent:?}");
}

//= test RFC 7323 §4.1 (MAY-9)
#[test]
fn an_echo_in_a_report_alone_gives_no_sample() {
    let mut sender = Sender::new(Settings::default(), 0);
    sender.pass(10);
    sender.ack_of_age(0, &[(1, 2)], 500);
    let (srtt, _) = sender.sock().rtt.shown();
    assert!((9_000..11_000).contains(&srtt), "{srtt}");
}

//= test RFC 8985 §7.2 (SHLD-9, SHLD-11)
//= test RFC 8985 §7.3 (SHLD-12, MUST-8)
//= test RFC 8985 §8 (SHLD-15)
#[test]
fn a_probe_of_the_tail_is_new_data_where_there_is_some() {
    let mut sender = Sender::new(Settings::default(), 20);
    // Two round trips of 10 ms and two ticks.
    sender.pass(27);
    assert_eq!(sender.sent(), Vec::<u32>::new());
    sender.pass(2);
    assert_eq!(sender.sent(), [10]);
    assert_eq!(sender.counters().tcp_loss_probes, 1);
    // The timer that runs then is that of retransmission: no second probe.
    sender.pass(250);
    assert_eq!(sender.counters().tcp_loss_probes, 1);
    assert_eq!(sender.counters().tcp_timeouts, 1);
}

//= test RFC 8985 §3.3.2 (MUST-1, SHLD-5)
//= test RFC 8985 §9.2 (MUST-10)
#[test]
fn the_window_for_reordering_is_a_round_trip_at_most() {
    let mut sender = Sender::new(Settings::default(), 0);
    let sock = sender.pair.left.tcp.sock_mut(sender.client.index).expect("a sock");
    sock.board.rack.window_steps = 200;
    sock.board.rack.reordering_seen = 1;
    sender.pass(10);
    sender.ack(0, &[(1, 4)]);
    assert_eq!(sender.sent(), Vec::<u32>::new());
    // A round trip of 10 ms more, and two ticks; 200 quarters of it would be half a second.
    sender.pass(20);
    assert_eq!(sender.sent(), [0]);
    assert_eq!(sender.counters().tcp_timeouts, 0);
}
