//! The direction in virtual time: rate, delay, queue, order, copies, and the sum that every packet is in.

use super::*;

const START: Instant = Instant::from_millis(1000);

fn direction(text: &str) -> Direction {
    Direction::new(Impairments::parse([text]).unwrap(), 42, 0)
}

/// A frame of `length` bytes that knows its number.
fn frame(number: u32, length: usize) -> Frame {
    let mut bytes = vec![0; length];
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    Frame { bytes, offload: Offload::default() }
}

fn number(frame: &Frame) -> u32 {
    u32::from_be_bytes(frame.bytes[14..18].try_into().unwrap())
}

/// Delivers all that is on its way, each at its time: when, and which.
fn drain(direction: &mut Direction) -> Vec<(Duration, u32)> {
    let mut arrivals = Vec::new();
    while let Some(due) = direction.next_due() {
        let frame = direction.due(due).unwrap();
        arrivals.push((due.since(START), number(frame)));
        direction.settle(due, Outcome::Delivered);
    }
    arrivals
}

/// Offers `count` frames of 1000 bytes, `gap` apart.
fn offer(direction: &mut Direction, count: u32, gap: Duration) {
    for number in 0..count {
        direction.offer(START + gap * number, frame(number, 1000));
    }
}

fn is_balanced(counts: &Counts) -> bool {
    let gone = counts.lost_alone + counts.lost_in_burst + counts.dropped_queue + counts.dropped_memory;
    let sent = counts.delivered + counts.send_failed + counts.no_link;
    counts.packets + counts.duplicated == gone + sent + counts.in_flight
}

#[test]
fn without_settings_frames_pass_at_once_and_in_order() {
    let mut link = direction("");
    offer(&mut link, 5, Duration::ZERO);
    assert_eq!(drain(&mut link), (0..5).map(|number| (Duration::ZERO, number)).collect::<Vec<_>>());
    assert_eq!(link.next_due(), None);
    assert!(link.due(START).is_none());
}

#[test]
fn the_rate_spaces_packets_by_their_time_on_the_link() {
    let mut link = direction("rate=8mbit,delay=10ms");
    offer(&mut link, 4, Duration::ZERO);
    // 1000 bytes take 1 ms at 8 Mbit/s; the first is on its way at once.
    let times: Vec<_> = drain(&mut link).into_iter().map(|(time, _)| time.as_millis()).collect();
    assert_eq!(times, [11, 12, 13, 14]);
    // After a pause the link is free again: nothing is saved up.
    link.offer(START + Duration::from_millis(100), frame(9, 1000));
    assert_eq!(drain(&mut link), [(Duration::from_millis(111), 9)]);
}

#[test]
fn the_rate_is_exact_in_the_long_run() {
    // 1000 bytes at 7 Mbit/s take 1142857 1/7 ns: the sevenths must not be lost.
    let mut link = direction("rate=7mbit,limit=100000p");
    offer(&mut link, 70_000, Duration::ZERO);
    let (last, _) = drain(&mut link).pop().unwrap();
    assert_eq!(last, Duration::from_secs(80));
}

#[test]
fn overhead_takes_time_on_the_link() {
    let mut link = direction("rate=8mbit,overhead=24b");
    offer(&mut link, 2, Duration::ZERO);
    assert_eq!(drain(&mut link).pop().unwrap().0, Duration::from_micros(2048));
}

#[test]
fn a_full_queue_drops_the_last_to_come() {
    let mut link = direction("rate=8mbit,limit=3p");
    offer(&mut link, 5, Duration::ZERO);
    // One leaves after a millisecond and makes room for one.
    link.offer(START + Duration::from_millis(1), frame(5, 1000));
    link.offer(START + Duration::from_millis(1), frame(6, 1000));
    let arrived: Vec<_> = drain(&mut link).into_iter().map(|(_, number)| number).collect();
    assert_eq!(arrived, [0, 1, 2, 5]);
    let counts = link.counts();
    assert_eq!((counts.dropped_queue, counts.queue_peak_packets, counts.queue_peak_bytes), (3, 3, 3000));
    assert!(is_balanced(&counts));
}

#[test]
fn a_limit_in_bytes_counts_bytes() {
    let mut link = direction("rate=8mbit,limit=2500b");
    link.offer(START, frame(0, 1000));
    link.offer(START, frame(1, 1000));
    link.offer(START, frame(2, 1000));
    link.offer(START, frame(3, 400));
    let arrived: Vec<_> = drain(&mut link).into_iter().map(|(_, number)| number).collect();
    assert_eq!(arrived, [0, 1, 3]);
    // A packet longer than the limit still passes an empty queue.
    link.offer(START + Duration::from_secs(1), frame(4, 3000));
    assert_eq!(drain(&mut link).len(), 1);
}

#[test]
fn packets_on_the_wire_do_not_fill_the_queue() {
    // 100 ms of wire at 1 packet per ms hold 100 packets; the queue of two never sees more than one.
    let mut link = direction("rate=8mbit,limit=2p,delay=100ms");
    offer(&mut link, 1000, Duration::from_millis(1));
    assert_eq!(link.counts().dropped_queue, 0);
    assert_eq!(drain(&mut link).len(), 1000);
}

//= test RFC 3168 §5
#[test]
fn a_long_queue_marks_instead_of_dropping() {
    let mut link = direction("rate=8mbit,ecn=2p");
    for _ in 0..4 {
        let mut bytes = vec![2; 12];
        bytes.extend_from_slice(&[8, 0, 0x45, 2, 3, 0xd8]);
        bytes.resize(1000, 0);
        link.offer(START, Frame { bytes, offload: Offload::default() });
    }
    let mut fields = Vec::new();
    while let Some(due) = link.next_due() {
        fields.push(link.due(due).unwrap().bytes[15]);
        link.settle(due, Outcome::Delivered);
    }
    assert_eq!(fields, [2, 2, 3, 3]);
    assert_eq!(link.counts().marked, 2);
}

#[test]
fn jitter_stays_in_its_bounds_and_keeps_the_order() {
    let mut link = direction("delay=20ms,jitter=5ms");
    offer(&mut link, 5000, Duration::from_millis(1));
    let arrivals = drain(&mut link);
    assert!(arrivals.windows(2).all(|pair| pair[0].1 < pair[1].1));
    let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
    for (time, number) in &arrivals {
        let delay = *time - Duration::from_millis(1) * *number;
        (least, most) = (least.min(delay), most.max(delay));
    }
    assert!(least >= Duration::from_millis(15) && most <= Duration::from_millis(25), "{least:?} {most:?}");
    assert!(least < Duration::from_micros(17_000) && most > Duration::from_micros(24_900), "{least:?} {most:?}");
    assert_eq!(link.counts().out_of_order, 0);
}

#[test]
fn jitter_may_disorder_when_told_so() {
    let mut link = direction("delay=20ms,jitter=5ms,order=free");
    offer(&mut link, 1000, Duration::from_millis(1));
    let arrivals = drain(&mut link);
    assert!(arrivals.windows(2).any(|pair| pair[0].1 > pair[1].1));
    assert!(link.counts().out_of_order > 100);
}

#[test]
fn packets_held_back_are_overtaken_by_just_those_of_the_time() {
    let mut link = direction("delay=10ms,reorder=10%/3500us");
    offer(&mut link, 10_000, Duration::from_millis(1));
    let arrivals = drain(&mut link);
    let held: Vec<_> =
        arrivals.iter().filter(|(time, number)| *time > Duration::from_millis(10 + u64::from(*number))).collect();
    let counts = link.counts();
    assert_eq!(held.len() as u64, counts.held_back);
    assert!((900..1100).contains(&counts.held_back), "{}", counts.held_back);
    for (time, number) in held {
        assert_eq!(*time, Duration::from_micros(1000 * u64::from(*number) + 13_500));
    }
    // Held back by three and a half packets' time: overtaken unless the next three were held back as well.
    assert!(counts.out_of_order >= counts.held_back * 95 / 100);
    assert_eq!(arrivals.len(), 10_000);
}

#[test]
fn copies_arrive_with_their_originals_and_are_counted() {
    let mut link = direction("delay=1ms,duplicate=20%");
    offer(&mut link, 5000, Duration::from_micros(100));
    let arrivals = drain(&mut link);
    let counts = link.counts();
    assert_eq!(arrivals.len() as u64, 5000 + counts.duplicated);
    assert!((900..1100).contains(&counts.duplicated), "{}", counts.duplicated);
    assert!(arrivals.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    assert_eq!(counts.out_of_order, 0);
}

#[test]
fn corruption_has_the_share_that_was_asked_for() {
    let mut link = direction("corrupt=10%");
    offer(&mut link, 5000, Duration::ZERO);
    let clean = frame(0, 1000).bytes;
    let mut damaged = 0;
    while let Some(due) = link.next_due() {
        let bytes = &link.due(due).unwrap().bytes;
        // Numbers apart, a clean frame is all zero; damage to a number shows as well, as one of the places.
        let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
        damaged += u64::from(bytes[18..] != clean[18..] || ones > 13);
        link.settle(due, Outcome::Delivered);
    }
    let counts = link.counts();
    assert!((400..600).contains(&counts.corrupted), "{}", counts.corrupted);
    assert!(damaged <= counts.corrupted && damaged > counts.corrupted * 9 / 10, "{damaged}");
}

#[test]
fn a_lost_packet_has_used_the_link() {
    let mut link = direction("rate=8mbit,loss=100%");
    offer(&mut link, 3, Duration::ZERO);
    assert_eq!((link.counts().lost_alone, link.counts().queue_peak_packets), (3, 3));
    assert!(drain(&mut link).is_empty());
}

#[test]
fn a_seed_repeats_everything_and_another_does_not() {
    let text = "rate=50mbit,delay=5ms,jitter=2ms,order=free,loss=2%,burst=1%/30%,reorder=3%,duplicate=2%,corrupt=1%";
    let run = |seed| {
        let mut link = Direction::new(Impairments::parse([text]).unwrap(), seed, 0);
        offer(&mut link, 2000, Duration::from_micros(200));
        let arrivals = drain(&mut link);
        assert!(is_balanced(&link.counts()));
        arrivals
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_kernel_without_room_is_asked_again_in_order() {
    let mut link = direction("");
    offer(&mut link, 2, Duration::ZERO);
    link.settle(START, Outcome::NoRoom);
    assert!(link.due(START).is_none());
    let later = link.next_due().unwrap();
    assert_eq!(later.since(START), RETRY_AFTER);
    assert_eq!(number(link.due(later).unwrap()), 0);
    link.settle(later, Outcome::Delivered);
    // It gives up on one that is refused for ever.
    let mut now = later;
    while link.counts().send_failed == 0 {
        now += RETRY_AFTER;
        assert!(now.since(START) < Duration::from_secs(1));
        link.settle(now, Outcome::NoRoom);
    }
    assert_eq!(link.next_due(), None);
    assert!(is_balanced(&link.counts()));
}

#[test]
fn memory_is_bounded() {
    let mut link = direction("delay=10s");
    for number in 0..5000 {
        link.offer(START, frame(number, 60_000));
    }
    let counts = link.counts();
    assert_eq!(counts.in_flight, MEMORY / 60_000);
    assert_eq!(counts.dropped_memory, 5000 - counts.in_flight);
    assert!(is_balanced(&counts));
}

#[test]
fn clocks_that_step_back_do_not_disorder() {
    let mut link = direction("rate=8mbit,delay=1ms");
    link.offer(START + Duration::from_millis(5), frame(0, 1000));
    link.offer(START, frame(1, 1000));
    let arrivals = drain(&mut link);
    assert_eq!(arrivals, [(Duration::from_millis(7), 0), (Duration::from_millis(8), 1)]);
}
