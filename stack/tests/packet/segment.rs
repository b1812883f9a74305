//! Packets as scripts write them, and the same packets on the wire.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use remora_stack::wire::checksum;
use remora_stack::wire::ipv4::{HEADER_LENGTH, Ipv4};

/// Letters of the control bits, from FIN on.
const LETTERS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// One TCP option. Edges of SACK blocks are as in the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opt {
    Nop,
    End,
    Mss(u16),
    Scale(u8),
    SackOk,
    Sack(Vec<(u32, u32)>),
    Stamps(u32, u32),
    /// Kind, and bytes as hexadecimal digits or the name of a variable (`$c`).
    FastOpen(bool, String),
    Other(u8, Vec<u8>),
}

/// A TCP segment as a script writes it.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub length: u32,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    pub urgent: Option<u16>,
    /// `None`: whatever.
    pub options: Option<Vec<Opt>>,
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub enum Body {
    Tcp(Segment),
    Udp(u32),
    /// Type, code, next-hop MTU, and the quoted packet: a segment's first number and length, or a datagram's length.
    Icmp(u8, u8, u16, Option<(Option<u32>, u32)>),
}

/// A packet as a script writes it.
#[derive(Clone, Debug)]
pub struct Packet {
    pub connection: usize,
    /// ECN bits, where the script says them.
    pub ecn: Option<u8>,
    pub ttl: Option<u8>,
    pub bad_checksum: bool,
    pub body: Body,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut order: Vec<usize> = vec![1, 0, 2, 3, 5, 6, 7, 4];
        order.retain(|bit| self.flags & (1 << bit) != 0);
        let letters: String = order.iter().map(|bit| LETTERS[*bit]).collect();
        let end = self.seq.wrapping_add(self.length);
        write!(f, "{} {}:{end}({})", if letters.is_empty() { "-" } else { &letters }, self.seq, self.length)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        if let Some(window) = self.window {
            write!(f, " win {window}")?;
        }
        if let Some(urgent) = self.urgent {
            write!(f, " urg {urgent}")?;
        }
        match &self.options {
            None => write!(f, " <...>"),
            Some(options) if options.is_empty() => Ok(()),
            Some(options) => {
                let texts: Vec<String> = options.iter().map(ToString::to_string).collect();
                write!(f, " <{}>", texts.join(","))
            }
        }
    }
}

impl fmt::Display for Opt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nop => write!(f, "nop"),
            Self::End => write!(f, "eol"),
            Self::Mss(mss) => write!(f, "mss {mss}"),
            Self::Scale(shift) => write!(f, "wscale {shift}"),
            Self::SackOk => write!(f, "sackOK"),
            Self::Sack(blocks) => {
                write!(f, "sack")?;
                blocks.iter().try_for_each(|(start, end)| write!(f, " {start}:{end}"))
            }
            Self::Stamps(value, echo) => write!(f, "TS val {value} ecr {echo}"),
            Self::FastOpen(false, cookie) => write!(f, "FO {cookie}"),
            Self::FastOpen(true, cookie) => write!(f, "FOEXP {cookie}"),
            Self::Other(kind, bytes) => write!(f, "opt {kind} {bytes:?}"),
        }
    }
}

fn number<T: std::str::FromStr>(word: Option<&str>) -> Result<T, String> {
    let word = word.unwrap_or("nothing");
    word.parse().map_err(|_| format!("{word} is no such number"))
}

/// `1:11(10)`.
fn range(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(':').and_then(|(first, rest)| Some((first, rest.strip_suffix(')')?.split_once('(')?)));
    let (first, (last, length)) = parts.ok_or_else(|| format!("{text}: FIRST:LAST(LENGTH)"))?;
    let (first, last, length): (u32, u32, u32) = (number(Some(first))?, number(Some(last))?, number(Some(length))?);
    if first.wrapping_add(length) != last {
        return Err(format!("{text}: the numbers do not fit"));
    }
    Ok((first, length))
}

/// Reads a packet of a script.
pub fn parse_packet(text: &str) -> Result<Packet, String> {
    let body = Body::Udp(0);
    let mut packet = Packet { connection: 1, ecn: None, ttl: None, bad_checksum: false, body };
    let mut rest = text.trim();
    if let Some(after) = rest.strip_prefix('@') {
        let (name, after) = after.split_once(' ').ok_or("a packet is missing")?;
        packet.connection = number(Some(name))?;
        rest = after.trim();
    }
    if let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        for word in inside.split(',').map(str::trim) {
            match word.split_once(' ') {
                Some(("ttl", value)) => packet.ttl = Some(number(Some(value))?),
                _ if word == "badsum" => packet.bad_checksum = true,
                _ => {
                    let place = ["noecn", "ect1", "ect0", "ce"].iter().position(|name| *name == word);
                    packet.ecn = Some(place.ok_or_else(|| format!("{word}: no such IP property"))? as u8);
                }
            }
        }
        rest = after.trim();
    }
    packet.body = if let Some(rest) = rest.strip_prefix("udp") {
        Body::Udp(number(rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')))?)
    } else if let Some(rest) = rest.strip_prefix("icmp ") {
        icmp(rest.trim())?
    } else {
        Body::Tcp(segment(rest)?)
    };
    Ok(packet)
}

fn icmp(text: &str) -> Result<Body, String> {
    let (head, quoted) = text.split_once('[').map_or((text, None), |(head, rest)| (head, rest.strip_suffix(']')));
    let mut words = head.split_whitespace();
    let kind = match words.next() {
        Some("unreachable") => 3,
        Some("source_quench") => 4,
        Some("time_exceeded") => 11,
        Some("parameter_problem") => 12,
        other => return Err(format!("{other:?}: no such ICMP type")),
    };
    let (mut code, mut mtu) = (0, 0);
    while let Some(word) = words.next() {
        let names = [
            "net_unreachable",
            "host_unreachable",
            "protocol_unreachable",
            "port_unreachable",
            "frag_needed",
            "source_route_failed",
            "net_unknown",
            "host_unknown",
            "source_host_isolated",
            "net_prohibited",
            "host_prohibited",
            "net_unreachable_for_tos",
            "host_unreachable_for_tos",
            "packet_filtered",
            "precedence_violation",
            "precedence_cutoff",
        ];
        if word == "mtu" {
            mtu = number(words.next())?;
        } else if let Some(place) = names.iter().position(|name| *name == word) {
            code = u8::try_from(place).unwrap_or(0);
        } else {
            code = number(Some(word))?;
        }
    }
    let quoted = match quoted {
        None => None,
        Some(inside) if inside.starts_with("udp") => {
            let length = inside.trim_start_matches("udp").trim().trim_matches(|letter| letter == '(' || letter == ')');
            Some((None, number(Some(length))?))
        }
        Some(inside) => range(inside.trim()).map(|(first, length)| Some((Some(first), length)))?,
    };
    Ok(Body::Icmp(kind, code, mtu, quoted))
}

fn segment(text: &str) -> Result<Segment, String> {
    let (head, options) = match text.split_once('<') {
        None => (text, Some(Vec::new())),
        Some((head, rest)) => {
            let inside = rest.trim().strip_suffix('>').ok_or("> is missing")?.trim();
            (head, if inside == "..." { None } else { Some(options(inside)?) })
        }
    };
    let mut words = head.split_whitespace();
    let mut segment = Segment { options, ..Segment::default() };
    for letter in words.next().unwrap_or_default().chars().filter(|letter| *letter != '-') {
        let bit = LETTERS.iter().position(|known| *known == letter).ok_or_else(|| format!("{letter} is no flag"))?;
        segment.flags |= 1 << bit;
    }
    (segment.seq, segment.length) = range(words.next().unwrap_or_default())?;
    while let Some(word) = words.next() {
        match word {
            "ack" => segment.ack = Some(number(words.next())?),
            "win" => segment.window = Some(number(words.next())?),
            "urg" => segment.urgent = Some(number(words.next())?),
            _ => return Err(format!("{word}: ack, win, urg or options come here")),
        }
    }
    Ok(segment)
}

fn options(text: &str) -> Result<Vec<Opt>, String> {
    text.split(',')
        .map(|option| {
            let words: Vec<&str> = option.split_whitespace().collect();
            Ok(match words[..] {
                ["nop"] => Opt::Nop,
                ["eol"] => Opt::End,
                ["sackOK"] => Opt::SackOk,
                ["mss", value] => Opt::Mss(number(Some(value))?),
                ["wscale", value] => Opt::Scale(number(Some(value))?),
                ["TS", "val", value, "ecr", echo] => Opt::Stamps(number(Some(value))?, number(Some(echo))?),
                ["FO"] => Opt::FastOpen(false, String::new()),
                ["FO", cookie] => Opt::FastOpen(false, cookie.to_string()),
                ["FOEXP"] => Opt::FastOpen(true, String::new()),
                ["FOEXP", cookie] => Opt::FastOpen(true, cookie.to_string()),
                ["sack", ref blocks @ ..] => {
                    let edge = |block: &&str| {
                        let (start, end) = block.split_once(':').ok_or_else(|| format!("{block}: START:END"))?;
                        Ok::<_, String>((number(Some(start))?, number(Some(end))?))
                    };
                    Opt::Sack(blocks.iter().map(edge).collect::<Result<_, _>>()?)
                }
                ["opt", kind, ref bytes @ ..] => {
                    let bytes = bytes.iter().map(|byte| number(Some(byte))).collect::<Result<_, _>>()?;
                    Opt::Other(number(Some(kind))?, bytes)
                }
                _ => return Err(format!("{option}: no such option")),
            })
        })
        .collect()
}

/// What a program or the peer sends at a place of its stream, so that what arrives can be checked.
pub const fn pattern(at: u32) -> u8 {
    (at % 251) as u8
}

/// Bytes of a stream from `at` on.
pub fn stream(at: u32, length: u32) -> Vec<u8> {
    (0..length).map(|offset| pattern(at.wrapping_add(offset))).collect()
}

/// The bytes of options, padded to words with EOL.
pub fn option_bytes(options: &[Opt]) -> Vec<u8> {
    let mut out = Vec::new();
    for option in options {
        match option {
            Opt::Nop => out.push(1),
            Opt::End => out.push(0),
            Opt::Mss(mss) => {
                out.extend([2, 4]);
                out.extend(mss.to_be_bytes());
            }
            Opt::Scale(shift) => out.extend([3, 3, *shift]),
            Opt::SackOk => out.extend([4, 2]),
            Opt::Sack(blocks) => {
                out.extend([5, u8::try_from(2 + 8 * blocks.len()).unwrap()]);
                for (start, end) in blocks {
                    out.extend(start.to_be_bytes());
                    out.extend(end.to_be_bytes());
                }
            }
            Opt::Stamps(value, echo) => {
                out.extend([8, 10]);
                out.extend(value.to_be_bytes());
                out.extend(echo.to_be_bytes());
            }
            Opt::FastOpen(experimental, cookie) => {
                let bytes: Vec<u8> = (0..cookie.len() / 2)
                    .map(|at| u8::from_str_radix(&cookie[2 * at..2 * at + 2], 16).expect("hexadecimal digits"))
                    .collect();
                if *experimental {
                    out.extend([254, u8::try_from(4 + bytes.len()).unwrap(), 0xf9, 0x89]);
                } else {
                    out.extend([34, u8::try_from(2 + bytes.len()).unwrap()]);
                }
                out.extend(bytes);
            }
            Opt::Other(kind, bytes) => {
                out.push(*kind);
                out.extend(bytes);
            }
        }
    }
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
    out
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The options of a segment of the stack, as they stand on the wire.
pub fn read_options(mut rest: &[u8]) -> Vec<Opt> {
    let mut options = Vec::new();
    while let [kind, tail @ ..] = rest {
        if *kind < 2 {
            options.push(if *kind == 1 { Opt::Nop } else { Opt::End });
            rest = tail;
            continue;
        }
        let (option, after) = rest.split_at(usize::from(rest[1]));
        rest = after;
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        options.push(match kind {
            2 => Opt::Mss(u16::from_be_bytes([option[2], option[3]])),
            3 => Opt::Scale(option[2]),
            4 => Opt::SackOk,
            5 => Opt::Sack(option[2..].chunks(8).map(|block| (word(block, 0), word(block, 4))).collect()),
            8 => Opt::Stamps(word(option, 2), word(option, 6)),
            34 => Opt::FastOpen(false, hexadecimal(&option[2..])),
            254 => Opt::FastOpen(true, hexadecimal(&option[4..])),
            _ => Opt::Other(*kind, option[1..].to_vec()),
        });
    }
    options
}

/// Puts an IP header before a payload.
pub fn ip_packet(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, tos: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4 {
        header: HEADER_LENGTH,
        total: HEADER_LENGTH + payload.len(),
        tos,
        id: 1,
        dont_fragment: true,
        more_fragments: false,
        offset: 0,
        ttl,
        protocol,
        source: from,
        destination: to,
    };
    let mut packet = Vec::new();
    header.emit(&mut packet);
    packet.extend_from_slice(payload);
    packet
}

/// Fills in the checksum of TCP (field at 16) or UDP (at 6).
pub fn fill_checksum(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, at: usize, bytes: &mut [u8]) {
    let (from, to) = (IpAddr::V4(from), IpAddr::V4(to));
    let mut sum = checksum::Accumulator::new(checksum::pseudo_header(from, to, protocol, bytes.len()));
    sum.add(bytes);
    bytes[at..at + 2].copy_from_slice(&sum.finish().to_be_bytes());
}
