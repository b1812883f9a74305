//! The language of packet scripts. One event a line: a time, and what happens or must happen then.
//!
//! ```text
//! // a comment
//! include server.inc                         lines of include/server.inc stand here
//! `sysctl -q net.ipv4.tcp_sack=0`            a setting, before anything else
//! +.1 < S 0:0(0) win 1000 <mss 1460>         100 ms later the peer sends this
//! +0 > S. 0:0(0) ack 1 <...>                 the stack must have sent this, now; `<...>`: whatever options
//! +.2~+.3 > P. 1:11(10) ack 1                ... or in this range
//! +0 read(4, ..., 100) = 10                  a call and its result, or -1 and the errno
//! +0...0.5 connect(3, ..., ...) = 0          a call that waits so long
//! +0 %{ assert tcpi_snd_cwnd == 10 }%        a field of TCP_INFO of the connection last made
//! +0 counter TCPTimeouts = 1                 one of Linux's counters
//! ```
//! Times: `0.5` from the start, `+.5` from the event before, `*` whenever. `@2` after `<` or `>` is the second
//! connection. Sequence numbers count from the first number of each side, timestamps of the stack from the first
//! that it sent. Every packet of the stack must be expected, in its order.

use std::path::Path;

use crate::segment::{Packet, parse_packet};

/// When something happens, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Absolute(i64),
    Relative(i64),
    Any,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Action {
    Setting(String, String),
    Inject(Packet),
    Expect(Packet),
    /// Name, arguments, result, errno.
    Call(String, Vec<String>, i64, String),
    /// Field, comparison, value.
    Assert(Vec<(String, String, i64)>),
    Counter(String, u64),
}

/// One line.
#[derive(Clone, Debug)]
pub struct Event {
    pub place: String,
    pub start: Time,
    pub end: Option<Time>,
    pub action: Action,
}

/// Reads a script from a file; `root` is where `include/` is.
pub fn read(path: &Path, root: &Path) -> Result<Vec<Event>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&path.display().to_string(), &text, root)
}

/// Reads a script from its text.
pub fn parse(name: &str, text: &str, root: &Path) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let line = line.split_once("//").map_or(line, |(before, _)| before).trim();
        if line.is_empty() {
            continue;
        }
        if let Some(file) = line.strip_prefix("include ") {
            events.extend(
                read(&root.join("include").join(file.trim()), root).map_err(|error| format!("{place}: {error}"))?,
            );
        } else if let Some(command) = line.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
            for setting in settings(command).ok_or_else(|| format!("{place}: only sysctl -q NAME=VALUE... is known"))? {
                let action = Action::Setting(setting.0, setting.1);
                events.push(Event { place: place.clone(), start: Time::Relative(0), end: None, action });
            }
        } else {
            events.push(event(&place, line).map_err(|error| format!("{place}: {error}"))?);
        }
    }
    Ok(events)
}

fn settings(command: &str) -> Option<Vec<(String, String)>> {
    let mut words = Vec::new();
    let mut quoted = false;
    let mut word = String::new();
    for letter in command.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    let rest = words.strip_prefix(&["sysctl".to_string(), "-q".to_string()])?;
    rest.iter().map(|word| word.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()))).collect()
}

fn time(text: &str) -> Result<Time, String> {
    let (relative, number) = text.strip_prefix('+').map_or((false, text), |rest| (true, rest));
    if text == "*" {
        return Ok(Time::Any);
    }
    let seconds: f64 = number.parse().map_err(|_| format!("{text} is no time"))?;
    #[allow(clippy::cast_possible_truncation)]
    let micros = (seconds * 1e6).round() as i64;
    Ok(if relative { Time::Relative(micros) } else { Time::Absolute(micros) })
}

fn event(place: &str, line: &str) -> Result<Event, String> {
    let (times, rest) = line.split_once(char::is_whitespace).ok_or("a time and an event are needed")?;
    let (first, last) = times
        .split_once("...")
        .or_else(|| times.split_once('~'))
        .map_or((times, None), |(first, last)| (first, Some(last)));
    let rest = rest.trim();
    let action = if let Some(packet) = rest.strip_prefix('<') {
        Action::Inject(parse_packet(packet.trim())?)
    } else if let Some(packet) = rest.strip_prefix('>') {
        Action::Expect(parse_packet(packet.trim())?)
    } else if let Some(code) = rest.strip_prefix("%{").and_then(|rest| rest.strip_suffix("}%")) {
        Action::Assert(code.split(';').filter(|part| !part.trim().is_empty()).map(assertion).collect::<Result<_, _>>()?)
    } else if let Some(counter) = rest.strip_prefix("counter ") {
        let (name, value) = counter.split_once('=').ok_or("counter NAME = VALUE")?;
        Action::Counter(name.trim().to_string(), value.trim().parse().map_err(|_| format!("{value} is no number"))?)
    } else {
        call(rest)?
    };
    let start = time(first)?;
    let end = last.map(time).transpose()?.map(|end| match (start, end) {
        // As packetdrill: where the beginning is relative the end is, too.
        (Time::Relative(_), Time::Absolute(micros)) => Time::Relative(micros),
        _ => end,
    });
    Ok(Event { place: place.to_string(), start, end, action })
}

/// `assert tcpi_field == 3` (what follows a comma is for a reader).
fn assertion(text: &str) -> Result<(String, String, i64), String> {
    let text = text.trim();
    let text = text.split_once(',').map_or(text, |(first, _)| first);
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["assert", field, relation, value] = words[..] else { return Err(format!("{text}: assert FIELD == VALUE")) };
    let value = match value {
        "TCP_CA_Open" => 0,
        "TCP_CA_Disorder" => 1,
        "TCP_CA_CWR" => 2,
        "TCP_CA_Recovery" => 3,
        "TCP_CA_Loss" => 4,
        "TCP_INFINITE_SSTHRESH" => 0x7fff_ffff,
        number => number.parse().map_err(|_| format!("{number} is no number"))?,
    };
    Ok((field.to_string(), relation.to_string(), value))
}

fn call(text: &str) -> Result<Action, String> {
    let (name, rest) = text.split_once('(').ok_or_else(|| format!("{text}: neither packet nor call"))?;
    let close = closing(rest).ok_or("a bracket is missing")?;
    let result = rest[close + 1..].trim().strip_prefix('=').ok_or("the result is missing")?.trim();
    let mut words = result.split_whitespace();
    let value = words.next().unwrap_or_default().parse().map_err(|_| format!("{result} is no result"))?;
    Ok(Action::Call(name.to_string(), arguments(&rest[..close]), value, words.next().unwrap_or_default().to_string()))
}

fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Splits at the commas that no bracket encloses.
pub fn arguments(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for letter in text.chars() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    parts.iter().map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
}
