//! Counts of a direction, and the line of JSON that shows them. Every packet ends in exactly one of them, so that
//! `packets + duplicated` is the sum of `delivered`, the losses, the drops, what failed to be sent and `in_flight`.

use std::fmt::Write as _;
use std::time::Duration;

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames from the kernel, a super-frame counted once.
    pub frames: u64,
    /// Super-frames among them.
    pub super_frames: u64,
    /// Super-frames of a kind that could not be cut, carried whole.
    pub uncut: u64,
    /// Packets that entered the link.
    pub packets: u64,
    /// Their bytes, link headers included.
    pub bytes: u64,
    /// Dropped at the end of a full queue.
    pub dropped_queue: u64,
    /// Dropped because more was on its way than memory is meant for.
    pub dropped_memory: u64,
    /// Marked with Congestion Experienced.
    pub marked: u64,
    /// Lost by themselves.
    pub lost_alone: u64,
    /// Lost in bursts.
    pub lost_in_burst: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Copies with a bit turned over.
    pub corrupted: u64,
    /// Copies that were held back so that others overtake them.
    pub held_back: u64,
    /// Packets delivered after one that entered the link later.
    pub out_of_order: u64,
    /// Packets delivered.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets that the kernel refused for good.
    pub send_failed: u64,
    /// Packets for which the far interface was down.
    pub no_link: u64,
    /// Sends that were repeated because the kernel had no room.
    pub send_retries: u64,
    /// Packets on their way now.
    pub in_flight: u64,
    /// Most packets that waited for the link at once.
    pub queue_peak_packets: u64,
    /// Most bytes that waited for the link at once.
    pub queue_peak_bytes: u64,
    /// Nanoseconds, summed up, by which deliveries were late.
    pub late_total: u64,
    /// The latest delivery, in nanoseconds.
    pub late_most: u64,
}

/// Counts of what arrived from an interface and never reached the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndCounts {
    /// Frames that the kernel dropped for lack of room in our queue.
    pub kernel_dropped: u64,
    /// Frames longer than any frame we know of.
    pub truncated: u64,
    /// Frames that the kernel could not hand over.
    pub receive_errors: u64,
}

fn micros(nanos: u64) -> u64 {
    nanos / 1000
}

fn direction(counts: &Counts, end: &EndCounts) -> String {
    // All fields are named, so that a new one is not forgotten here.
    let Counts {
        frames,
        super_frames,
        uncut,
        packets,
        bytes,
        dropped_queue,
        dropped_memory,
        marked,
        lost_alone,
        lost_in_burst,
        duplicated,
        corrupted,
        held_back,
        out_of_order,
        delivered,
        delivered_bytes,
        send_failed,
        no_link,
        send_retries,
        in_flight,
        queue_peak_packets,
        queue_peak_bytes,
        late_total,
        late_most,
    } = *counts;
    let EndCounts { kernel_dropped, truncated, receive_errors } = *end;
    let late_mean = late_total.checked_div(delivered).unwrap_or(0);
    let fields = [
        ("frames", frames),
        ("super_frames", super_frames),
        ("uncut", uncut),
        ("packets", packets),
        ("bytes", bytes),
        ("dropped_queue", dropped_queue),
        ("dropped_memory", dropped_memory),
        ("marked", marked),
        ("lost_alone", lost_alone),
        ("lost_in_burst", lost_in_burst),
        ("duplicated", duplicated),
        ("corrupted", corrupted),
        ("held_back", held_back),
        ("out_of_order", out_of_order),
        ("delivered", delivered),
        ("delivered_bytes", delivered_bytes),
        ("send_failed", send_failed),
        ("no_link", no_link),
        ("send_retries", send_retries),
        ("in_flight", in_flight),
        ("queue_peak_packets", queue_peak_packets),
        ("queue_peak_bytes", queue_peak_bytes),
        ("late_mean_us", micros(late_mean)),
        ("late_most_us", micros(late_most)),
        ("kernel_dropped", kernel_dropped),
        ("truncated", truncated),
        ("receive_errors", receive_errors),
    ];
    let mut text = String::from("{");
    for (place, (name, value)) in fields.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}\"{name}\":{value}");
    }
    text.push('}');
    text
}

/// The line: the seed, the time since the start, and both directions.
#[must_use]
pub fn line(seed: u64, elapsed: Duration, a_to_b: (&Counts, &EndCounts), b_to_a: (&Counts, &EndCounts)) -> String {
    format!(
        "{{\"seed\":{seed},\"seconds\":{:.6},\"a_to_b\":{},\"b_to_a\":{}}}",
        elapsed.as_secs_f64(),
        direction(a_to_b.0, a_to_b.1),
        direction(b_to_a.0, b_to_a.1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_json_with_every_count() {
        let counts = Counts { packets: 3, delivered: 2, late_total: 9000, late_most: 5999, ..Counts::default() };
        let ends = EndCounts { kernel_dropped: 4, ..EndCounts::default() };
        let line = line(u64::MAX, Duration::from_millis(1500), (&counts, &ends), (&Counts::default(), &ends));
        assert!(line.starts_with("{\"seed\":18446744073709551615,\"seconds\":1.500000,\"a_to_b\":{\"frames\":0,"));
        assert!(line.contains("\"packets\":3,"));
        assert!(line.contains("\"late_mean_us\":4,\"late_most_us\":5,\"kernel_dropped\":4,"));
        assert!(line.ends_with("\"receive_errors\":0}}"));
        assert_eq!(line.matches('{').count(), line.matches('}').count());
        assert!(!line.contains('\n'));
    }
}
