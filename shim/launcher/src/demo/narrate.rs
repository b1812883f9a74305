//! The story: calls and the layers that they pass on the left, frames on the right, one clock for both.

use super::frame::Decoder;
use super::paint::{Ink, Paint};
use super::trace::{self, Event, Line};
use super::{CAPTURE, LOG, Outcome, PAGE, pcap};
use std::path::Path;

/// Width of the left column where the terminal does not say how wide it is.
const LEFT: usize = 66;
const LEFT_MIN: usize = 40;
/// What a frame's line takes at most, and the clock's column.
const RIGHT: usize = 56;
const CLOCK: usize = 11;
/// A frame and the layer's line about it belong together when they are no further apart, in nanoseconds.
const TOGETHER: u64 = 200_000;

/// What stands on one side of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    ink: Ink,
    text: String,
}

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    time: u64,
    left: Option<Cell>,
    right: Option<Cell>,
    /// The left side is a layer that meets frames: the frame may stand beside it.
    meets_frames: bool,
    /// The left side is the heading of what follows, which a frame must not be parted from.
    heads: bool,
    /// How many like it are told by this one.
    times: usize,
}

/// Tells the story of what is in the directory.
pub fn story(directory: &Path, paint: &Paint) -> String {
    let log = std::fs::read_to_string(directory.join(LOG)).unwrap_or_default();
    let capture = std::fs::read(directory.join(CAPTURE)).unwrap_or_default();
    let width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse::<usize>().ok());
    let left = width.map_or(LEFT, |width| width.saturating_sub(CLOCK + RIGHT).max(LEFT_MIN));
    tell(&log, &capture, left, paint)
}

fn tell(log: &str, capture: &[u8], left_width: usize, paint: &Paint) -> String {
    let mut rows: Vec<Row> = trace::events(log).iter().flat_map(rows_of).collect();
    let mut decoder = Decoder::default();
    rows.extend(pcap::read(capture).iter().filter_map(|frame| {
        let text = decoder.describe(&frame.bytes, frame.ethernet)?;
        let (arrow, ink) = if frame.outbound.unwrap_or(true) { ("->", Ink::Out) } else { ("<-", Ink::In) };
        Some(row(frame.time, None, Some(Cell { ink, text: format!("{arrow} {text}") })))
    }));
    if rows.is_empty() {
        return "There is nothing to tell: no call was traced and no frame captured.\n".to_owned();
    }
    // Stable: rows of one call stay in order where the clock does not tell them apart.
    rows.sort_by_key(|row| row.time);
    let rows = join(rows);
    let start = rows.first().map_or(0, |row| row.time);
    let mut text = format!(
        "{}\n",
        paint.bold(&format!(
            "{:>8}   {}  frames on the wire",
            "ms",
            fitted("calls, and the layers that they pass", left_width)
        ))
    );
    for row in &rows {
        let nanoseconds = row.time - start;
        let clock = format!("{:>4}.{:03}   ", nanoseconds / 1_000_000, nanoseconds / 1_000 % 1_000);
        let left = row.left.as_ref().map_or_else(String::new, |cell| match row.times {
            1 => cell.text.clone(),
            times => format!("{} (x{times})", cell.text),
        });
        let ink = row.left.as_ref().map_or(Ink::Faint, |cell| cell.ink);
        text += &paint.ink(Ink::Faint, &clock);
        match &row.right {
            Some(right) => {
                text += &paint.ink(ink, &fitted(&left, left_width));
                text += &format!("  {}\n", paint.ink(right.ink, &right.text));
            }
            None => {
                // Nothing beside it: it may be as long as it is.
                text += &paint.ink(ink, &left);
                text.push('\n');
            }
        }
    }
    text
}

fn row(time: u64, left: Option<Cell>, right: Option<Cell>) -> Row {
    Row { time, left, right, meets_frames: false, heads: false, times: 1 }
}

fn rows_of(event: &Event) -> Vec<Row> {
    let cell = |ink, text: String| Some(Cell { ink, text });
    match event {
        Event::Call { end, call, result, layers, .. } if layers.is_empty() => {
            vec![row(*end, cell(Ink::Call, format!("{call} = {result}")), None)]
        }
        Event::Call { start, end, call, result, layers } => {
            let mut rows = vec![row(*start, cell(Ink::Call, call.clone()), None)];
            rows.extend(layers.iter().map(|line| layer_row(line, "│")));
            rows.push(row(*end, cell(Ink::Call, format!("└ = {result}")), None));
            rows
        }
        Event::Between { keeper, layers } => {
            let who =
                if *keeper { "(the keeper, after the program)" } else { "(frames and timers while the program waits)" };
            let heading = |first: &Line| Row { heads: true, ..row(first.time, cell(Ink::Faint, who.to_owned()), None) };
            let mut rows: Vec<Row> = layers.first().map(heading).into_iter().collect();
            rows.extend(layers.iter().map(|line| layer_row(line, "·")));
            rows
        }
    }
}

fn layer_row(line: &Line, edge: &str) -> Row {
    let layer = line.layer().unwrap_or("");
    let left = Cell { ink: Ink::Layer, text: format!("{edge} {layer:<15} {}", line.text) };
    Row { meets_frames: matches!(layer, "Ethernet" | "ARP"), ..row(line.time, Some(left), None) }
}

/// Puts a frame beside the layer's line about it, and tells what repeats itself once.
fn join(rows: Vec<Row>) -> Vec<Row> {
    let mut joined: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(last) = joined.last_mut() {
            let near = row.time.saturating_sub(last.time) <= TOGETHER;
            if near && row.left.is_none() && last.right.is_none() && last.meets_frames && last.times == 1 {
                last.right = row.right;
                continue;
            }
            if near && row.heads && last.left.is_none() {
                let frame = std::mem::replace(last, Row { time: last.time, ..row });
                joined.push(frame);
                continue;
            }
            if near && last.left.is_none() && row.right.is_none() && row.meets_frames {
                (last.left, last.meets_frames) = (row.left, true);
                continue;
            }
            if row.right.is_none() && last.right.is_none() && row.left == last.left {
                last.times += 1;
                continue;
            }
        }
        joined.push(row);
    }
    joined
}

/// The text in exactly that many columns; what is cut is marked.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:width$}");
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// How it ended.
pub fn ending(directory: &Path, outcome: &Outcome, paint: &Paint) -> String {
    let page = std::fs::read_to_string(directory.join(PAGE)).unwrap_or_default();
    if !outcome.success {
        return format!("\n{}\n", paint.bold(&format!("curl failed: {}", outcome.message)));
    }
    let frames = pcap::read(&std::fs::read(directory.join(CAPTURE)).unwrap_or_default());
    let sent = frames.iter().filter(|frame| frame.outbound == Some(true)).count();
    let mut words = outcome.message.split_ascii_whitespace();
    let (status, size) = (words.next().unwrap_or("?"), words.next().unwrap_or("?"));
    let quoted = page.lines().map(|line| format!("  {line}\n")).collect::<String>();
    format!(
        "\n{}\n{quoted}{sent} frames sent and {} received by remora; the kernel's TCP on curl's side saw none of them.\n",
        paint.bold(&format!("HTTP {status}, {size} bytes:")),
        frames.len() - sent,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
100.000000000 7 DEBUG remora::call socket(AF_INET, SOCK_STREAM, 6) = 3
100.001000000 7 TRACE remora::socket socket 0: connect 10.99.0.2:80
100.001010000 7 TRACE remora::ethernet send 42 bytes
100.002000000 7 DEBUG remora::call connect(3, 10.99.0.2:80) = 0
100.003000000 7 DEBUG remora::call getsockopt(3, 1, 4) = 0
100.003100000 7 DEBUG remora::call getsockopt(3, 1, 4) = 0
";

    #[test]
    fn rows_are_aligned_on_one_clock_and_repeats_are_counted() {
        let text = tell(LOG, &[], 40, &Paint::plain());
        let expected = "      ms   calls, and the layers that they pass      frames on the wire
   0.000   socket(AF_INET, SOCK_STREAM, 6) = 3
   1.000   connect(3, 10.99.0.2:80)
   1.000   │ socket layer    socket 0: connect 10.99.0.2:80
   1.010   │ Ethernet        send 42 bytes
   2.000   └ = 0
   3.000   getsockopt(3, 1, 4) = 0 (x2)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_frame_stands_beside_the_layer_that_met_it() {
        let cell = |text: &str| Some(Cell { ink: Ink::Layer, text: text.to_owned() });
        let layer = |time| Row { meets_frames: true, ..row(time, cell("layer"), None) };
        let frame = |time| row(time, None, cell("frame"));
        let shape = |rows: Vec<Row>| -> Vec<(bool, bool)> {
            join(rows).iter().map(|row| (row.left.is_some(), row.right.is_some())).collect()
        };
        assert_eq!(shape(vec![layer(5), frame(6)]), [(true, true)]);
        assert_eq!(shape(vec![frame(5), layer(6)]), [(true, true)]);
        assert_eq!(shape(vec![frame(5), frame(6), layer(7)]), [(false, true), (true, true)]);
        let heading = Row { heads: true, ..row(6, cell("heading"), None) };
        assert_eq!(shape(vec![frame(5), heading, layer(7)]), [(true, false), (true, true)]);
        assert_eq!(shape(vec![layer(5), frame(5 + TOGETHER + 1)]), [(true, false), (false, true)]);
    }

    #[test]
    fn texts_are_cut_to_their_column() {
        assert_eq!(fitted("abc", 5), "abc  ");
        assert_eq!(fitted("│bcdef", 5), "│bcd…");
    }

    #[test]
    fn nothing_to_tell_is_said() {
        assert!(tell("", &[], 40, &Paint::plain()).contains("nothing to tell"));
    }
}
