//! Reads the log of a traced program: lines `SECONDS.NANOSECONDS pid LEVEL target text`, and groups them into calls with
//! the lines of the layers that each passed. Lines of another form are passed over.

/// Target of the lines that end a call.
const CALL: &str = "remora::call";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The process that wrote it.
    pub process: u32,
    /// Who wrote it.
    pub target: String,
    /// What it says.
    pub text: String,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let (seconds, nanoseconds) = words.next()?.split_once('.')?;
        let (seconds, nanoseconds): (u64, u64) = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
        let process = words.next()?.parse().ok()?;
        let _level = words.next()?;
        let target = words.next()?.to_owned();
        let text = words.next()?.to_owned();
        let time = seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)?;
        Some(Self { time, process, target, text })
    }

    /// The layer that wrote the line, as it is called in the story; `None` for what is none.
    pub fn layer(&self) -> Option<&'static str> {
        Some(match self.target.strip_prefix("remora::")? {
            "socket" => "socket layer",
            "protosw" => "protocol switch",
            "tcp" => "TCP",
            "udp" => "UDP",
            "ip" => "IP",
            "arp" => "ARP",
            "ethernet" => "Ethernet",
            "policy" => "policy",
            "keeper" => "keeper",
            _ => return None,
        })
    }

    /// Whether a call enters the stack here: the socket layer comes first, but for the call that brings the interface
    /// up. A change of state, which the socket layer logs as well, can also be the work of a frame.
    fn enters(&self) -> bool {
        if self.target == "remora::ip" && self.text.starts_with("attach ") {
            return true;
        }
        let is_change = || {
            let said = self.text.split_once(": ").map_or(self.text.as_str(), |(_, said)| said);
            said.split_once(" -> ").is_some_and(|(from, _)| !from.contains(' '))
        };
        self.target == "remora::socket" && !is_change()
    }
}

/// What happened in one process between two calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call with the layers that it passed, in order.
    Call {
        /// When it entered the first layer, or ended where it passed none.
        start: u64,
        /// When it ended.
        end: u64,
        /// `connect(3, 10.99.0.2:80)`.
        call: String,
        /// `0`, `-1 EINPROGRESS`.
        result: String,
        /// Lines of the layers.
        layers: Vec<Line>,
    },
    /// Lines outside a call: frames and timers that a waiting program or the keeper takes care of.
    Between {
        /// Whether it was another process than the one that makes the calls.
        keeper: bool,
        /// Lines of the layers.
        layers: Vec<Line>,
    },
}

/// All events of a log, each process's in order.
pub fn events(log: &str) -> Vec<Event> {
    let lines: Vec<Line> = log.lines().filter_map(Line::parse).collect();
    let caller = lines.iter().find(|line| line.target == CALL).map(|line| line.process);
    let mut events = Vec::new();
    let mut waiting: Vec<(u32, Vec<Line>)> = Vec::new();
    for line in lines {
        let at = waiting.iter().position(|(process, _)| *process == line.process).unwrap_or_else(|| {
            waiting.push((line.process, Vec::new()));
            waiting.len() - 1
        });
        let Some((_, pending)) = waiting.get_mut(at) else { continue };
        if line.target == CALL {
            let mut before = std::mem::take(pending);
            let entered = before.iter().position(Line::enters).unwrap_or(before.len());
            let layers = before.split_off(entered);
            if !before.is_empty() {
                events.push(Event::Between { keeper: false, layers: before });
            }
            let (call, result) = line.text.rsplit_once(" = ").unwrap_or((line.text.as_str(), ""));
            events.push(Event::Call {
                start: layers.first().map_or(line.time, |first| first.time),
                end: line.time,
                call: call.to_owned(),
                result: result.to_owned(),
                layers,
            });
        } else if line.layer().is_some() {
            pending.push(line);
        }
    }
    for (process, layers) in waiting.into_iter().filter(|(_, layers)| !layers.is_empty()) {
        events.push(Event::Between { keeper: Some(process) != caller, layers });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
100.000000001 7 DEBUG remora::call socket(AF_INET, SOCK_STREAM, 6) = 3
nonsense
100.000000010 7 TRACE remora::socket socket 0: connect 10.99.0.2:80 (Unconnected)
100.000000011 7 TRACE remora::protosw socket 0: Tcp.connect 10.99.0.2:80
100.000000012 7 DEBUG remora::tcp socket 0: CLOSED -> SYN_SENT
100.000000013 7 DEBUG remora::call connect(3, 10.99.0.2:80) = -1 EINPROGRESS
100.000000020 7 TRACE remora::ethernet receive
100.000000021 7 TRACE remora::socket socket 0: Connecting -> Connected
100.000000030 7 TRACE remora::socket socket 0: send 9 bytes
100.000000031 7 DEBUG remora::call send(3, 9) = 9
100.000000040 8 DEBUG remora::tcp socket 0: LAST_ACK -> CLOSED
100.000000041 8 INFO remora::config note
";

    #[test]
    fn calls_own_the_layers_since_they_entered() {
        let events = events(LOG);
        let shape: Vec<(String, usize)> = events
            .iter()
            .map(|event| match event {
                Event::Call { call, result, layers, .. } => (format!("{call}={result}"), layers.len()),
                Event::Between { keeper, layers } => (format!("keeper {keeper}"), layers.len()),
            })
            .collect();
        let expected = [
            ("socket(AF_INET, SOCK_STREAM, 6)=3", 0),
            ("connect(3, 10.99.0.2:80)=-1 EINPROGRESS", 3),
            ("keeper false", 2),
            ("send(3, 9)=9", 1),
            ("keeper true", 1),
        ];
        assert_eq!(shape, expected.map(|(text, count)| (text.to_owned(), count)));
        assert!(matches!(&events[1], Event::Call { start, end, .. } if *end - *start == 3));
    }

    #[test]
    fn an_empty_or_foreign_log_has_no_events() {
        assert!(events("").is_empty());
        assert!(events("a b c\n1.x 2 3 4 5\n").is_empty());
    }
}
