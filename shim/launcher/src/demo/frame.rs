//! One line about a frame: ARP (RFC 826), IPv4 (RFC 791), TCP (RFC 9293) with its options, the rest by name.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Remembers where each direction of each connection began, so that sequence numbers can be shown from 0.
#[derive(Default)]
pub struct Decoder {
    first: HashMap<(Ipv4Addr, u16, Ipv4Addr, u16), u32>,
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().copied().map(Ipv4Addr::from)
}

impl Decoder {
    /// What the frame is. Frames that are no IPv4 or ARP, which only share the link with us, give `None`.
    pub fn describe(&mut self, frame: &[u8], ethernet: bool) -> Option<String> {
        if !ethernet {
            return (frame.first()? >> 4 == 4).then(|| self.ip(frame).unwrap_or_else(|| "IP, cut short".to_owned()));
        }
        let mut kind = word16(frame, 12)?;
        let mut payload = frame.get(14..)?;
        if kind == 0x8100 {
            kind = word16(payload, 2)?;
            payload = payload.get(4..)?;
        }
        match kind {
            0x0806 => Some(arp(payload).unwrap_or_else(|| "ARP, cut short".to_owned())),
            0x0800 => Some(self.ip(payload).unwrap_or_else(|| "IP, cut short".to_owned())),
            _ => None,
        }
    }

    fn ip(&mut self, packet: &[u8]) -> Option<String> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let total = usize::from(word16(packet, 2)?);
        let (source, destination) = (address(packet, 12)?, address(packet, 16)?);
        // A super-frame for the device to segment may leave the field at 0.
        let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
        let body = packet.get(header..end)?;
        match packet.get(9)? {
            6 => self.tcp(source, destination, body),
            17 => {
                Some(format!("UDP {} > {}  {} bytes", word16(body, 0)?, word16(body, 2)?, body.len().checked_sub(8)?))
            }
            1 => Some(format!("ICMP {source} > {destination} type {} code {}", body.first()?, body.get(1)?)),
            protocol => Some(format!("IP {source} > {destination} protocol {protocol}")),
        }
    }

    fn tcp(&mut self, source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> Option<String> {
        let (from, to) = (word16(segment, 0)?, word16(segment, 2)?);
        let (seq, ack, window) = (word32(segment, 4)?, word32(segment, 8)?, word16(segment, 14)?);
        let header = usize::from(segment.get(12)? >> 4) * 4;
        let flags = *segment.get(13)?;
        let options = segment.get(20..header)?;
        let payload = segment.len().checked_sub(header)?;
        let (here, there) = ((source, from, destination, to), (destination, to, source, from));
        if flags & SYN != 0 {
            self.first.insert(here, seq);
        }
        let relative = |number: u32, side| number.wrapping_sub(self.first.get(&side).copied().unwrap_or(0));
        let mut text = format!("TCP {from} > {to} [{}] seq {}", flag_names(flags), relative(seq, here));
        // Writing to a String cannot fail.
        if flags & ACK != 0 {
            let _ = write!(text, " ack {}", relative(ack, there));
        }
        if payload > 0 {
            let _ = write!(text, " len {payload}");
        }
        let _ = write!(text, " win {window}{}", option_names(options));
        if let Some(words) = segment.get(header..).and_then(first_line) {
            let _ = write!(text, " \"{words}\"");
        }
        Some(text)
    }
}

/// The first line of a payload that begins as text does, cut to what fits beside a frame.
fn first_line(payload: &[u8]) -> Option<&str> {
    const LONGEST: usize = 24;
    let line = payload.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let shown = line.get(..line.len().min(LONGEST))?;
    let is_text = shown.len() > 2 && shown.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_text.then(|| core::str::from_utf8(shown).ok()).flatten()
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn flag_names(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    // The order in which they are usually said: SYN, then the rest, ACK last.
    let order = [1, 0, 2, 3, 5, 6, 7, 4];
    let set: Vec<&str> =
        order.iter().filter(|bit| flags & (1u8 << **bit) != 0).filter_map(|bit| names.get(*bit).copied()).collect();
    set.join(",")
}

fn option_names(mut options: &[u8]) -> String {
    let mut text = String::new();
    while let Some((kind, rest)) = options.split_first() {
        match kind {
            0 => break,
            1 => options = rest,
            kind => {
                let Some(length) = rest.first().map(|length| usize::from(*length)).filter(|length| *length >= 2) else {
                    text.push_str(" (bad option)");
                    break;
                };
                let Some(value) = options.get(2..length) else {
                    text.push_str(" (cut option)");
                    break;
                };
                match kind {
                    2 => text.extend(word16(value, 0).map(|size| format!(" mss {size}"))),
                    3 => text.extend(value.first().map(|shift| format!(" wscale {shift}"))),
                    4 => text.push_str(" sackOK"),
                    5 => text.push_str(" sack"),
                    8 => text.push_str(" ts"),
                    34 => text.push_str(" tfo"),
                    other => {
                        let _ = write!(text, " option {other}");
                    }
                }
                options = options.get(length..).unwrap_or(&[]);
            }
        }
    }
    text
}

fn arp(packet: &[u8]) -> Option<String> {
    let (sender, target) = (address(packet, 14)?, address(packet, 24)?);
    Some(match word16(packet, 6)? {
        1 if sender.is_unspecified() => format!("ARP is {target} in use?"),
        1 if sender == target => format!("ARP {sender} is mine"),
        1 => format!("ARP who has {target}? tell {sender}"),
        2 => {
            let mac = packet.get(8..14)?.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            format!("ARP {sender} is at {mac}")
        }
        other => format!("ARP operation {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&[0u8; 12][..], &kind.to_be_bytes(), payload].concat()
    }

    fn tcp(flags: u8, seq: u32, ack: u32, options: &[u8], payload: usize, reply: bool) -> Vec<u8> {
        let (mut ends, mut ports) = ([[10, 99, 0, 1], [10, 99, 0, 2]], [[0x9c, 0x40], [0, 80]]);
        if reply {
            ends.reverse();
            ports.reverse();
        }
        let length = (40 + options.len() + payload) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(ends.concat());
        packet.extend(ports.concat());
        packet.extend(seq.to_be_bytes());
        packet.extend(ack.to_be_bytes());
        packet.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        packet.extend(options);
        packet.extend(vec![0; payload]);
        // Padding of short frames is no payload.
        packet.resize(packet.len().max(46), 0);
        ethernet(0x0800, &packet)
    }

    #[test]
    fn a_handshake_reads_from_zero() {
        let mut decoder = Decoder::default();
        let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let mut line = |frame: Vec<u8>| decoder.describe(&frame, true).unwrap();
        assert_eq!(
            line(tcp(0x02, 1000, 0, &options, 0, false)),
            "TCP 40000 > 80 [SYN] seq 0 win 64240 mss 1460 sackOK ts wscale 7"
        );
        assert_eq!(line(tcp(0x12, 5000, 1001, &[], 0, true)), "TCP 80 > 40000 [SYN,ACK] seq 0 ack 1 win 64240");
        assert_eq!(line(tcp(0x10, 1001, 5001, &[], 0, false)), "TCP 40000 > 80 [ACK] seq 1 ack 1 win 64240");
        assert_eq!(line(tcp(0x18, 1001, 5001, &[], 9, false)), "TCP 40000 > 80 [PSH,ACK] seq 1 ack 1 len 9 win 64240");
        assert_eq!(line(tcp(0x11, 5001, 1010, &[], 0, true)), "TCP 80 > 40000 [FIN,ACK] seq 1 ack 10 win 64240");
    }

    #[test]
    fn arp_is_told_in_words() {
        let packet = |operation: u8, sender: [u8; 4], target: [u8; 4]| {
            let head = [0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 9];
            ethernet(0x0806, &[&head[..], &sender, &[0; 6], &target].concat())
        };
        let line = |frame: Vec<u8>| Decoder::default().describe(&frame, true).unwrap();
        assert_eq!(line(packet(1, [10, 99, 0, 1], [10, 99, 0, 2])), "ARP who has 10.99.0.2? tell 10.99.0.1");
        assert_eq!(line(packet(2, [10, 99, 0, 2], [10, 99, 0, 1])), "ARP 10.99.0.2 is at 02:00:00:00:00:09");
        assert_eq!(line(packet(1, [0; 4], [10, 99, 0, 1])), "ARP is 10.99.0.1 in use?");
    }

    #[test]
    fn cut_and_damaged_frames_never_panic() {
        let mut whole = tcp(0x02, 1, 0, &[2, 4, 5, 0xb4], 5, false);
        for length in 0..whole.len() {
            let _ = Decoder::default().describe(&whole[..length], true);
        }
        for at in 0..whole.len() {
            for value in [0, 0x0f, 0xff] {
                let old = std::mem::replace(&mut whole[at], value);
                let _ = Decoder::default().describe(&whole, true);
                whole[at] = old;
            }
        }
        assert_eq!(Decoder::default().describe(&ethernet(0x86dd, &[0; 40]), true), None);
    }
}
