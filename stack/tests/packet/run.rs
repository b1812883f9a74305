//! Plays a script: the stack on one side in virtual time, the script's packets on the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use remora_stack::frame::{DeviceCapabilities, Medium, RxMeta};
use remora_stack::interface::{InterfaceConfig, MacAddress};
use remora_stack::settings::Settings;
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::{SocketId, SocketType};
use remora_stack::stack::Stack;
use remora_stack::time::Instant;
use remora_stack::wire::icmpv4::Icmp;
use remora_stack::wire::ipv4::{HEADER_LENGTH, Ipv4};

use crate::calls::perform;
use crate::script::{Action, Event, Time};
use crate::segment::{
    ACK, Body, Opt, PSH, Packet, RST, SYN, Segment, fill_checksum, ip_packet, option_bytes, read_options, stream,
};

/// The stack's address.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// The script's.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What sockets are bound to, and the port that is connected to.
pub const LOCAL_PORT: u16 = 8_080;
/// Connection n of a listener comes from this port plus n.
const REMOTE_PORTS: u16 = 40_000;
/// How far a packet may be from its time: packetdrill's default, which also covers Linux's rounding to ticks.
const TOLERANCE: i64 = 4_000;
/// Ticks of a timestamp that may lie between what is expected and what is seen, for the same reason.
const STAMP_TOLERANCE: u32 = 5;

/// An open descriptor of the script.
#[derive(Clone, Debug)]
pub struct Descriptor {
    pub id: SocketId,
    pub nonblocking: bool,
    /// A connect waits.
    pub waiting: bool,
    /// Where the next byte written and read stand in their streams.
    pub written: u32,
    pub read: u32,
    /// What the waiting write has got rid of.
    pub taken: u32,
    /// What is read is compared; not after urgent bytes.
    pub checked: bool,
}

impl Descriptor {
    pub const fn new(id: SocketId) -> Self {
        Self { id, nonblocking: false, waiting: false, written: 1, read: 1, taken: 0, checked: true }
    }
}

/// What was learned of a connection.
#[derive(Clone, Debug, Default)]
struct Connection {
    remote_port: u16,
    local_port: u16,
    /// The stack's initial sequence number.
    initial: Option<u32>,
    /// What the script's last SYN began with.
    remote_initial: Option<u32>,
    /// From a script's timestamp of the stack to the real one.
    stamp_offset: Option<u32>,
}

/// A packet of the stack that the script has not yet spoken of.
#[derive(Clone, Debug)]
struct Sent {
    at: Instant,
    ip: Ipv4,
    bytes: Vec<u8>,
    gso_size: u32,
}

/// A script in progress.
pub struct Play {
    pub stack: Stack,
    pub now: Instant,
    pub descriptors: BTreeMap<i64, Descriptor>,
    begin: Instant,
    last: i64,
    sent: VecDeque<Sent>,
    connections: BTreeMap<usize, Connection>,
    variables: BTreeMap<String, String>,
    /// A call that waits: its line, name, arguments, expected result, errno and the time when it must return.
    waiting: Option<(String, String, Vec<String>, i64, String, i64)>,
    tally: Tally,
    trace: bool,
}

/// What has gone over the wire, which Linux's counters of segments must agree with.
#[derive(Default)]
struct Tally {
    arrived: u64,
    damaged: u64,
    sent: u64,
    resets: u64,
    /// SYN-ACKs by port and number. A listener's that goes out again is counted as sent and as repeated (`tcp_make_synack`,
    /// `tcp_rtx_synack`).
    answers: BTreeSet<(u16, u32)>,
    answered_again: u64,
}

impl Tally {
    fn note(&mut self, bytes: &[u8], gso_size: u32) {
        let payload = bytes.len() - usize::from(bytes[12] >> 4) * 4;
        self.sent += if gso_size == 0 { 1 } else { payload.div_ceil(gso_size as usize).max(1) as u64 };
        self.resets += u64::from(bytes[13] & RST != 0);
        if bytes[13] & (SYN | ACK) == SYN | ACK && !self.answers.insert((half(bytes, 2), word(bytes, 4))) {
            self.answered_again += 1;
        }
    }

    fn check(&self, counter: impl Fn(&str) -> u64) -> Result<(), String> {
        let rows = [
            ("TcpInSegs", counter("InSegs"), self.arrived),
            ("TcpInCsumErrors", counter("InCsumErrors"), self.damaged),
            ("TcpOutRsts", counter("OutRsts"), self.resets),
        ];
        for (name, found, seen) in rows {
            if found != seen {
                return Err(format!("{name} is {found}, and {seen} went over the wire"));
            }
        }
        // That a full socket repeats is counted once as anything else is.
        let told = counter("OutSegs") + counter("RetransSegs");
        if told != self.sent && told != self.sent + self.answered_again {
            return Err(format!("TcpOutSegs and TcpRetransSegs are {told} together, and {} were sent", self.sent));
        }
        Ok(())
    }
}

/// Plays a script to its end.
pub fn play(events: &[Event]) -> Result<(), String> {
    let mut settings = Settings::default();
    for event in events {
        if let Action::Setting(name, value) = &event.action {
            settings.set(name, value).map_err(|error| format!("{}: {error}", event.place))?;
        }
    }
    let mut play = Play::new(settings);
    for event in events {
        play.event(event).map_err(|error| format!("{}: {error}", event.place))?;
    }
    if let Some((place, name, ..)) = &play.waiting {
        return Err(format!("{place}: {name} has not returned"));
    }
    play.collect();
    let place = events.last().map_or("", |event| event.place.as_str());
    if let Some(sent) = play.sent.front() {
        return Err(format!("{place}: the script has ended, but {}", play.show(sent)));
    }
    let counters = play.stack.counters();
    let counter =
        |name: &str| counters.each().find(|(group, known, _)| (*group, *known) == ("Tcp", name)).map_or(0, |(.., n)| n);
    play.tally.check(counter).map_err(|error| format!("{place}: at the end {error}"))
}

/// What one event does to the connection that a script has brought into a state: the packets it is answered with
/// within 50 ms, a call's result, and the state after.
pub fn outcome(script: &[Event], event: &Event) -> Result<String, String> {
    let mut play = Play::new(Settings::default());
    for event in script {
        play.event(event).map_err(|error| format!("{}: {error}", event.place))?;
    }
    play.sent.clear();
    let open = play.descriptors.len();
    let mut told = Vec::new();
    match &event.action {
        Action::Inject(packet) => play.inject(packet)?,
        Action::Call(name, parts, ..) => match perform(&mut play, name, parts)? {
            Some((value, errno)) => told.push(format!("= {value} {errno}").trim().to_string()),
            None => told.push("waits".to_string()),
        },
        _ => return Err("an event is a packet or a call".to_string()),
    }
    play.advance(play.now + Duration::from_millis(50), false)?;
    for sent in &play.sent {
        let text = play.show(sent);
        let text = text.split_once("] ").map_or(text.as_str(), |(_, segment)| segment);
        told.push(format!("> {}", text.split(" win").next().unwrap_or(text)));
    }
    let state = match play.state() {
        Some(number) if play.descriptors.len() == open => {
            const NAMES: [&str; 12] = [
                "-",
                "ESTABLISHED",
                "SYN_SENT",
                "SYN_RECV",
                "FIN_WAIT1",
                "FIN_WAIT2",
                "TIME_WAIT",
                "CLOSE",
                "CLOSE_WAIT",
                "LAST_ACK",
                "LISTEN",
                "CLOSING",
            ];
            NAMES.get(usize::from(number)).copied().unwrap_or("?")
        }
        _ => "(closed)",
    };
    told.push(state.to_string());
    Ok(told.join("; "))
}

impl Play {
    /// The state in TCP_INFO of the descriptor last made.
    fn state(&mut self) -> Option<u8> {
        let id = self.descriptors.values().next_back()?.id;
        match self.stack.option(self.now, id, OptionName::Info) {
            Ok(OptionValue::Bytes(bytes)) => bytes.first().copied(),
            _ => None,
        }
    }

    fn new(settings: Settings) -> Self {
        // Not zero, so that a forgotten "never" in the stack shows.
        let begin = Instant::from_millis(100_000);
        let mut stack = Stack::new(settings, [0x5a; 32]);
        let capabilities = DeviceCapabilities { medium: Medium::Ip, mtu: 1_500, gso_max: 65_536, checksum_tx: true };
        stack.attach(
            begin,
            InterfaceConfig {
                address: LOCAL.into(),
                prefix: 16,
                gateway: Some(Ipv4Addr::new(192, 168, 0, 2).into()),
                mac: MacAddress([2, 0, 0, 0, 0, 1]),
                capabilities,
                probe: false,
                loopback: false,
            },
        );
        Self {
            stack,
            now: begin,
            descriptors: BTreeMap::new(),
            begin,
            last: 0,
            sent: VecDeque::new(),
            connections: BTreeMap::new(),
            variables: BTreeMap::new(),
            waiting: None,
            tally: Tally::default(),
            trace: std::env::var_os("PACKET_TRACE").is_some(),
        }
    }

    /// The lowest free number for a new descriptor.
    pub fn place(&mut self, descriptor: Descriptor) -> i64 {
        let number = (3..).find(|number| !self.descriptors.contains_key(number)).unwrap_or(3);
        self.descriptors.insert(number, descriptor);
        number
    }

    pub fn descriptor(&mut self, fd: i64) -> Result<&mut Descriptor, String> {
        self.descriptors.get_mut(&fd).ok_or_else(|| format!("no descriptor {fd}"))
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.now.since(self.begin).as_micros()).unwrap_or(i64::MAX)
    }

    fn micros(&self, time: Time) -> i64 {
        match time {
            Time::Absolute(at) => at,
            Time::Relative(after) => self.last + after,
            Time::Any => self.elapsed(),
        }
    }

    /// Takes what the stack wants to send.
    fn collect(&mut self) {
        while let Some(transmit) = self.stack.poll_transmit(self.now) {
            let bytes = transmit.to_vec();
            let ip = Ipv4::parse(&bytes).expect("the stack's packets are well-formed");
            let gso_size = u32::from(transmit.gso_size);
            let bytes = bytes[ip.header..ip.total].to_vec();
            if ip.protocol == 6 {
                self.tally.note(&bytes, gso_size);
            }
            let sent = Sent { at: self.now, ip, bytes, gso_size };
            if self.trace {
                eprintln!("{}", self.show(&sent));
            }
            self.sent.push_back(sent);
        }
        while self.stack.poll_event().is_some() {}
    }

    fn retry(&mut self) -> Result<(), String> {
        let Some((place, name, parts, wanted, errno, at)) = self.waiting.take() else { return Ok(()) };
        match perform(self, &name, &parts).map_err(|error| format!("({place}) {error}"))? {
            None => self.waiting = Some((place, name, parts, wanted, errno, at)),
            Some(answer) => {
                self.collect();
                let elapsed = self.elapsed();
                if (elapsed - at).abs() > TOLERANCE {
                    return Err(format!("({place}) {name} returned at {elapsed} us and not at {at} us"));
                }
                compare(&name, &answer, wanted, &errno).map_err(|error| format!("({place}) {error}"))?;
            }
        }
        Ok(())
    }

    /// Lets time go by until `end`, or until the stack has sent something.
    fn advance(&mut self, end: Instant, until_sent: bool) -> Result<(), String> {
        for _ in 0..1_000_000 {
            self.collect();
            self.retry()?;
            if until_sent && !self.sent.is_empty() {
                return Ok(());
            }
            match self.stack.next_timeout() {
                Some(next) if next <= end => {
                    self.now = self.now.max(next);
                    self.stack.handle_timeout(self.now);
                }
                _ => {
                    self.now = self.now.max(end);
                    return Ok(());
                }
            }
        }
        Err("the stack's timers run for ever".to_string())
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        if matches!(event.action, Action::Setting(..)) {
            return Ok(());
        }
        let start = self.micros(event.start);
        let end = event.end.map(|time| self.micros(time));
        if let Action::Expect(packet) = &event.action {
            return self.expect(packet, event.start == Time::Any, start, end.unwrap_or(start));
        }
        self.advance(self.begin + Duration::from_micros(u64::try_from(start).unwrap_or(0)), false)?;
        self.last = start;
        if let (Some(sent), Action::Inject(_) | Action::Call(..)) = (self.sent.front(), &event.action) {
            return Err(format!("not expected: {}", self.show(sent)));
        }
        match &event.action {
            Action::Inject(packet) => self.inject(packet),
            Action::Call(name, parts, wanted, errno) => match perform(self, name, parts)? {
                Some(answer) if end.is_none() => compare(name, &answer, *wanted, errno),
                Some(_) => Err(format!("{name} does not wait")),
                None => {
                    let at = end.ok_or_else(|| format!("{name} waits"))?;
                    let (place, name) = (event.place.clone(), name.clone());
                    self.waiting = Some((place, name, parts.clone(), *wanted, errno.clone(), at));
                    Ok(())
                }
            },
            Action::Assert(assertions) => assertions.iter().try_for_each(|assertion| self.assert(assertion)),
            Action::Counter(name, wanted) => {
                let found = self
                    .stack
                    .counters()
                    .each()
                    .find(|(group, known, _)| known == name || name.split_once('.') == Some((*group, *known)));
                let (_, _, found) = found.ok_or_else(|| format!("{name}: no such counter"))?;
                if found == *wanted { Ok(()) } else { Err(format!("{name}: expected {wanted}, got {found}")) }
            }
            Action::Setting(..) | Action::Expect(_) => Ok(()),
        }
    }

    /// A field of TCP_INFO of the descriptor last made.
    fn assert(&mut self, (field, relation, value): &(String, String, i64)) -> Result<(), String> {
        let now = self.now;
        let (at, length) = field_place(field).ok_or_else(|| format!("{field}: no such field"))?;
        let stack = &self.stack;
        let is_stream = |open: &&Descriptor| stack.kind(open.id).is_some_and(|(_, kind, _)| kind == SocketType::Stream);
        let id = self.descriptors.values().rev().find(is_stream).ok_or("no stream socket")?.id;
        let Ok(OptionValue::Bytes(bytes)) = self.stack.option(now, id, OptionName::Info) else {
            return Err("TCP_INFO cannot be read".to_string());
        };
        let mut wide = [0; 8];
        wide[..length].copy_from_slice(&bytes[at..at + length]);
        let found = i64::from_le_bytes(wide);
        let holds = match relation.as_str() {
            "==" => found == *value,
            "!=" => found != *value,
            ">=" => found >= *value,
            "<=" => found <= *value,
            ">" => found > *value,
            "<" => found < *value,
            _ => return Err(format!("{relation}: no such comparison")),
        };
        if holds { Ok(()) } else { Err(format!("{field} {relation} {value} does not hold: it is {found}")) }
    }

    fn connection(&mut self, number: usize) -> &mut Connection {
        let remote_port = REMOTE_PORTS + u16::try_from(number).unwrap_or(0);
        let fresh = Connection { remote_port, local_port: LOCAL_PORT, ..Connection::default() };
        self.connections.entry(number).or_insert(fresh)
    }

    fn inject(&mut self, packet: &Packet) -> Result<(), String> {
        let variables = self.variables.clone();
        let connection = self.connection(packet.connection);
        let (remote, local) = (connection.remote_port, connection.local_port);
        let initial = connection.initial.unwrap_or(0);
        let (protocol, payload) = match &packet.body {
            Body::Tcp(segment) => {
                if segment.flags & SYN != 0 && connection.remote_initial.replace(segment.seq) != Some(segment.seq) {
                    // A SYN of another connection with the same name: what was learned is void, if it is answered so.
                    if segment.flags & ACK == 0 && connection.initial.is_some() && segment.seq != 0 {
                        connection.stamp_offset = None;
                    }
                }
                let offset = connection.stamp_offset.unwrap_or(0);
                (6, tcp_bytes(segment, (remote, local), initial, offset, packet.bad_checksum, &variables)?)
            }
            Body::Udp(length) => {
                let mut bytes = udp_header(remote, local, *length);
                bytes.extend(stream(1, *length));
                fill_checksum(REMOTE, LOCAL, 17, 6, &mut bytes);
                (17, bytes)
            }
            Body::Icmp(kind, code, mtu, quoted) => {
                let quoted = match quoted {
                    Some((Some(first), length)) => {
                        let mut head = ports(local, remote).to_vec();
                        head.extend(first.wrapping_add(initial).to_be_bytes());
                        (6, head, 20 + length)
                    }
                    Some((None, length)) => (17, udp_header(local, remote, *length), 8 + length),
                    None => return Err("an ICMP error quotes a packet".to_string()),
                };
                let (protocol, head, length) = quoted;
                let total = vec![0; length as usize];
                let mut body = ip_packet(LOCAL, REMOTE, protocol, 0, 60, &total);
                body.truncate(HEADER_LENGTH);
                body.extend(head);
                let [high, low] = mtu.to_be_bytes();
                let mut message = Vec::new();
                Icmp { kind: *kind, code: *code, rest: [0, 0, high, low] }.emit(&mut message, &body);
                (1, message)
            }
        };
        self.tally.arrived += u64::from(protocol == 6);
        self.tally.damaged += u64::from(protocol == 6 && packet.bad_checksum);
        let ttl = packet.ttl.unwrap_or(64);
        let mut frame = ip_packet(REMOTE, LOCAL, protocol, packet.ecn.unwrap_or(0), ttl, &payload);
        if self.trace {
            eprintln!("{:.6} < {:?}", self.elapsed() as f64 / 1e6, packet.body);
        }
        self.stack.handle_frame(self.now, &mut frame, RxMeta::default());
        self.collect();
        self.retry()
    }

    fn expect(&mut self, packet: &Packet, any: bool, start: i64, end: i64) -> Result<(), String> {
        let limit = if any { end + 1_000_000_000 } else { end + TOLERANCE };
        let limit_at = self.begin + Duration::from_micros(u64::try_from(limit).unwrap_or(0));
        self.advance(self.now, true)?;
        if self.sent.is_empty() {
            self.advance(limit_at, true)?;
        }
        let Some(mut sent) = self.sent.pop_front() else {
            return Err(format!("nothing was sent until {limit} us"));
        };
        let at = i64::try_from(sent.at.since(self.begin).as_micros()).unwrap_or(i64::MAX);
        if !any && (at < start - TOLERANCE || at > limit) {
            return Err(format!("expected at {start} us, came at {at} us: {}", self.show(&sent)));
        }
        self.last = if any || end != start { at } else { start };
        if packet.ecn.is_some_and(|ecn| ecn != sent.ip.tos & 3) {
            return Err(format!("the ECN bits are {}: {}", sent.ip.tos & 3, self.show(&sent)));
        }
        if packet.ttl.is_some_and(|ttl| ttl != sent.ip.ttl) {
            return Err(format!("the TTL is {}: {}", sent.ip.ttl, self.show(&sent)));
        }
        match &packet.body {
            Body::Tcp(wanted) if sent.ip.protocol == 6 => {
                self.fit(&mut sent, wanted.length);
                self.compare_segment(packet.connection, wanted, &sent)
            }
            Body::Udp(length) if sent.ip.protocol == 17 => {
                let found = sent.bytes.len() - 8;
                if found == *length as usize { Ok(()) } else { Err(format!("expected {length} bytes, got {found}")) }
            }
            Body::Icmp(kind, code, ..) if sent.ip.protocol == 1 => {
                let found = (sent.bytes[0], sent.bytes[1]);
                if found == (*kind, *code) { Ok(()) } else { Err(format!("expected {kind}/{code}, got {found:?}")) }
            }
            _ => Err(format!("expected another protocol: {}", self.show(&sent))),
        }
    }

    /// A script may show a super-segment as one packet or as several: makes `sent` what it speaks of.
    fn fit(&mut self, sent: &mut Sent, wanted: u32) {
        let header = usize::from(sent.bytes[12] >> 4) * 4;
        let gso = sent.gso_size;
        let wanted = wanted as usize;
        if gso > 0 && wanted > 0 && wanted.is_multiple_of(gso as usize) && sent.bytes.len() - header > wanted {
            let mut rest = sent.clone();
            rest.bytes.drain(header..header + wanted);
            let seq = word(&rest.bytes, 4).wrapping_add(u32::try_from(wanted).unwrap());
            rest.bytes[4..8].copy_from_slice(&seq.to_be_bytes());
            sent.bytes.truncate(header + wanted);
            sent.bytes[13] &= !PSH & !1;
            self.sent.push_front(rest);
        }
        while sent.bytes.len() - header < wanted {
            let Some(next) = self.sent.front().filter(|next| next.ip.protocol == 6 && next.at == sent.at) else {
                return;
            };
            let follows = word(&sent.bytes, 4).wrapping_add(u32::try_from(sent.bytes.len() - header).unwrap());
            if word(&next.bytes, 4) != follows || next.bytes.len() <= header {
                return;
            }
            sent.bytes.extend_from_slice(&next.bytes[header..]);
            sent.bytes[13] |= next.bytes[13];
            self.sent.pop_front();
        }
    }

    fn compare_segment(&mut self, number: usize, wanted: &Segment, sent: &Sent) -> Result<(), String> {
        let bytes = &sent.bytes;
        let (local_port, remote_port) = (half(bytes, 0), half(bytes, 2));
        let fresh = !self.connections.contains_key(&number);
        let connection = self.connection(number);
        let begins = wanted.flags & SYN != 0;
        if fresh && begins && wanted.flags & ACK == 0 {
            (connection.local_port, connection.remote_port) = (local_port, remote_port);
        }
        if (connection.local_port, connection.remote_port) != (local_port, remote_port) {
            return Err(format!("expected {wanted} of connection {number}, got {}", self.show(sent)));
        }
        if begins && connection.initial.is_none() {
            connection.initial = Some(word(bytes, 4).wrapping_sub(wanted.seq));
        }
        let (initial, offset) = (connection.initial.unwrap_or(0), connection.stamp_offset);
        let mut found = decode(bytes, initial);
        if found.flags & SYN == 0 || found.flags & RST != 0 {
            // nothing is learned
        } else if offset.is_none()
            && let Some(Opt::Stamps(real, _)) = stamps(found.options.as_ref())
            && let Some(Opt::Stamps(value, _)) = stamps(wanted.options.as_ref())
        {
            self.connection(number).stamp_offset = Some(real.wrapping_sub(value));
        }
        self.settle_options(number, wanted, &mut found);
        if wanted.ack.is_none() {
            found.ack = None;
        }
        if wanted.window.is_none() {
            found.window = None;
        }
        if wanted.urgent.is_none() && wanted.flags & 0x20 == 0 {
            found.urgent = None;
        }
        if wanted.options.is_none() {
            found.options = None;
        }
        if wanted.to_string() != found.to_string() {
            return Err(format!("expected {wanted}\n      got {}", self.show(sent)));
        }
        let header = usize::from(bytes[12] >> 4) * 4;
        let first = found.seq.wrapping_add(u32::from(begins));
        if bytes[header..] != stream(first, found.length) {
            return Err(format!("{wanted}: the payload is not what was written"));
        }
        Ok(())
    }

    /// Timestamps within tolerance and cookies that the script gives a name to count as what was expected.
    fn settle_options(&mut self, number: usize, wanted: &Segment, found: &mut Segment) {
        let offset = self.connection(number).stamp_offset.unwrap_or(0);
        let (Some(wanted), Some(found)) = (&wanted.options, &mut found.options) else { return };
        for (wanted, found) in wanted.iter().zip(found) {
            match (wanted, found) {
                (Opt::Stamps(value, _), Opt::Stamps(real, _)) => {
                    let seen = real.wrapping_sub(offset);
                    let close = seen.wrapping_sub(*value).min(value.wrapping_sub(seen)) <= STAMP_TOLERANCE;
                    *real = if close { *value } else { seen };
                }
                (Opt::FastOpen(_, name), Opt::FastOpen(_, cookie)) if name.starts_with('$') && !cookie.is_empty() => {
                    let known = self.variables.entry(name.clone()).or_insert_with(|| cookie.clone());
                    if known == cookie {
                        cookie.clone_from(name);
                    }
                }
                _ => {}
            }
        }
    }

    /// A packet of the stack, as a script would write it.
    fn show(&self, sent: &Sent) -> String {
        let at = sent.at.since(self.begin).as_secs_f64();
        let bytes = &sent.bytes;
        match sent.ip.protocol {
            6 => {
                let name = (half(bytes, 0), half(bytes, 2));
                let mut all = self.connections.iter();
                let known = all.find(|(_, connection)| (connection.local_port, connection.remote_port) == name);
                let initial = known.and_then(|(_, connection)| connection.initial).unwrap_or(0);
                let offset = known.and_then(|(_, connection)| connection.stamp_offset).unwrap_or(0);
                let mut segment = decode(bytes, initial);
                for option in segment.options.iter_mut().flatten() {
                    if let Opt::Stamps(value, _) = option {
                        *value = value.wrapping_sub(offset);
                    }
                }
                let number = known.map_or(0, |(number, _)| *number);
                format!("{at:.6} > @{number} [ecn {}] {segment}", sent.ip.tos & 3)
            }
            17 => format!("{at:.6} > udp ({})", bytes.len() - 8),
            protocol => format!("{at:.6} > protocol {protocol} {:?}", &bytes[..8.min(bytes.len())]),
        }
    }
}

fn stamps(options: Option<&Vec<Opt>>) -> Option<Opt> {
    options?.iter().find(|option| matches!(option, Opt::Stamps(..))).cloned()
}

fn compare(name: &str, answer: &(i64, String), wanted: i64, errno: &str) -> Result<(), String> {
    let (found, found_errno) = answer;
    if *found != wanted || found_errno != errno {
        return Err(format!("{name}: expected {wanted} {errno}, got {found} {found_errno}")
            .replace(" ,", ",")
            .trim()
            .to_string());
    }
    Ok(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn ports(from: u16, to: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d]
}

fn udp_header(from: u16, to: u16, length: u32) -> Vec<u8> {
    let mut bytes = ports(from, to).to_vec();
    bytes.extend(u16::try_from(8 + length).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn decode(bytes: &[u8], initial: u32) -> Segment {
    let header = usize::from(bytes[12] >> 4) * 4;
    let flags = bytes[13];
    Segment {
        flags,
        seq: word(bytes, 4).wrapping_sub(initial),
        length: u32::try_from(bytes.len() - header).unwrap_or(0),
        ack: (flags & ACK != 0).then(|| word(bytes, 8)),
        window: Some(half(bytes, 14)),
        urgent: (flags & 0x20 != 0).then(|| half(bytes, 18)),
        options: Some(read_options(&bytes[20..header])),
    }
}

fn tcp_bytes(
    segment: &Segment,
    (from, to): (u16, u16),
    initial: u32,
    stamp_offset: u32,
    bad_checksum: bool,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
    let mut options = segment.options.clone().unwrap_or_default();
    for option in &mut options {
        match option {
            Opt::Stamps(_, echo) if *echo != 0 => *echo = echo.wrapping_add(stamp_offset),
            Opt::Sack(blocks) => {
                for (start, end) in blocks {
                    *start = start.wrapping_add(initial);
                    *end = end.wrapping_add(initial);
                }
            }
            Opt::FastOpen(_, name) if name.starts_with('$') => {
                *name = variables.get(name).cloned().ok_or_else(|| format!("{name} is not known yet"))?;
            }
            _ => {}
        }
    }
    let options = option_bytes(&options);
    let mut bytes = ports(from, to).to_vec();
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.map_or(0, |ack| ack.wrapping_add(initial)).to_be_bytes());
    bytes.extend([u8::try_from(5 + options.len() / 4).map_err(|_| "too many options")? << 4, segment.flags]);
    bytes.extend(segment.window.unwrap_or(0).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(segment.urgent.unwrap_or(0).to_be_bytes());
    bytes.extend(options);
    bytes.extend(stream(segment.seq.wrapping_add(u32::from(segment.flags & SYN != 0)), segment.length));
    fill_checksum(REMOTE, LOCAL, 6, 16, &mut bytes);
    if bad_checksum {
        bytes[16] ^= 0xff;
    }
    Ok(bytes)
}

/// Where a field of Linux's `struct tcp_info` is, and how long.
fn field_place(field: &str) -> Option<(usize, usize)> {
    const FIELDS: &[(&str, usize, usize)] = &[
        ("tcpi_snd_wnd", 228, 4),
        ("tcpi_rcv_wnd", 232, 4),
        ("tcpi_state", 0, 1),
        ("tcpi_ca_state", 1, 1),
        ("tcpi_retransmits", 2, 1),
        ("tcpi_probes", 3, 1),
        ("tcpi_backoff", 4, 1),
        ("tcpi_options", 5, 1),
        ("tcpi_rto", 8, 4),
        ("tcpi_snd_mss", 16, 4),
        ("tcpi_rcv_mss", 20, 4),
        ("tcpi_unacked", 24, 4),
        ("tcpi_sacked", 28, 4),
        ("tcpi_lost", 32, 4),
        ("tcpi_retrans", 36, 4),
        ("tcpi_pmtu", 60, 4),
        ("tcpi_rtt", 68, 4),
        ("tcpi_snd_ssthresh", 76, 4),
        ("tcpi_snd_cwnd", 80, 4),
        ("tcpi_advmss", 84, 4),
        ("tcpi_reordering", 88, 4),
        ("tcpi_total_retrans", 100, 4),
        ("tcpi_bytes_acked", 120, 8),
        ("tcpi_bytes_received", 128, 8),
        ("tcpi_notsent_bytes", 144, 4),
        ("tcpi_min_rtt", 148, 4),
        ("tcpi_busy_time", 168, 8),
        ("tcpi_rwnd_limited", 176, 8),
        ("tcpi_sndbuf_limited", 184, 8),
        ("tcpi_delivered", 192, 4),
        ("tcpi_delivered_ce", 196, 4),
        ("tcpi_bytes_sent", 200, 8),
        ("tcpi_bytes_retrans", 208, 8),
        ("tcpi_dsack_dups", 216, 4),
        ("tcpi_reord_seen", 220, 4),
    ];
    FIELDS.iter().find(|(name, ..)| *name == field).map(|(_, at, length)| (*at, *length))
}
