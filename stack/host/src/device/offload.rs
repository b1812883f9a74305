//! What hardware does for others, in software: completing transport checksums, and telling a partial checksum from a full
//! one where the kernel does not say. virtio_net_hdr's conventions: a partial checksum field holds the folded,
//! uninverted sum of the pseudo header (RFC 9293 §3.1).

use remora_stack::frame::{Medium, PartialChecksum};
use remora_stack::wire::checksum::sum;

/// Adds two folded sums, end-around.
const fn add(one: u16, other: u16) -> u16 {
    let (total, carry) = one.overflowing_add(other);
    total + carry as u16
}

/// Completes the checksum of a frame in place. False, and the frame as it was, when the request points outside of it.
pub fn complete(frame: &mut [u8], request: PartialChecksum) -> bool {
    let start = usize::from(request.start);
    let Some(covered) = frame.get_mut(start..) else { return false };
    // The field holds the pseudo header's sum, so summing over it takes that in.
    let total = !sum(covered);
    let Some(field) = covered.get_mut(usize::from(request.offset)..).and_then(<[u8]>::first_chunk_mut) else {
        return false;
    };
    // UDP: zero would mean "no checksum" (RFC 768); for TCP ones' complement has two zeros.
    *field = if total == 0 { [0xff, 0xff] } else { total.to_be_bytes() };
    true
}

/// The transport of an IPv4 or IPv6 frame: where it starts, where its checksum stands, and the pseudo header's sum.
struct Transport {
    checksum: PartialChecksum,
    pseudo: u16,
}

fn transport(frame: &[u8], medium: Medium) -> Option<Transport> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let network = match medium {
        Medium::Ip => 0,
        // Type field 0x8100 is left alone: the kernel strips tags.
        Medium::Ethernet => 14,
    };
    let packet = frame.get(network..)?;
    let (header, protocol, addresses, end) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 15) * 4;
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            // A fragment has no checksum of its own.
            if u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff != 0 || header < 20 {
                return None;
            }
            (header, *packet.get(9)?, packet.get(12..20)?, total)
        }
        6 => {
            let payload = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
            (40, *packet.get(6)?, packet.get(8..40)?, 40 + payload)
        }
        _ => return None,
    };
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let length = u16::try_from(end.checked_sub(header)?).ok()?;
    let start = u16::try_from(network + header).ok()?;
    let pseudo = add(add(sum(addresses), u16::from(protocol)), length);
    Some(Transport { checksum: PartialChecksum { start, offset }, pseudo })
}

/// Where the checksum of a frame is that came with a partial one; `None` when the field does not hold the pseudo header's
/// sum. One full checksum in 65536 looks the same.
#[must_use]
pub fn partial(frame: &[u8], medium: Medium) -> Option<PartialChecksum> {
    let found = transport(frame, medium)?;
    let place = usize::from(found.checksum.start) + usize::from(found.checksum.offset);
    let field = frame.get(place..)?.first_chunk().copied()?;
    (u16::from_be_bytes(field) == found.pseudo).then_some(found.checksum)
}

/// Whether the frame holds IPv6.
#[must_use]
pub fn is_ipv6(frame: &[u8], medium: Medium) -> bool {
    match medium {
        Medium::Ip => frame.first().is_some_and(|byte| byte >> 4 == 6),
        Medium::Ethernet => frame.get(12..14) == Some(&[0x86, 0xdd]),
    }
}

/// Whether the frame holds UDP over IPv4 or, without extension headers, IPv6.
#[must_use]
pub fn is_udp(frame: &[u8], medium: Medium) -> bool {
    transport(frame, medium).is_some_and(|found| found.checksum.offset == 6)
}

/// Frames for tests: IPv4, TCP or UDP, with full, partial or wrong checksums.
#[cfg(test)]
pub(crate) mod samples {
    use super::{add, sum};
    use std::net::Ipv4Addr;

    /// An Ethernet frame with a TCP segment whose checksum field holds the pseudo header's sum.
    pub(crate) fn tcp_partial(macs: ([u8; 6], [u8; 6]), addresses: (Ipv4Addr, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
        let (source, target) = addresses;
        let total = u16::try_from(40 + payload.len()).unwrap();
        let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip.extend_from_slice(&source.octets());
        ip.extend_from_slice(&target.octets());
        let check = !sum(&ip);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        let pseudo = add(add(sum(&ip[12..20]), 6), total - 20);
        let mut frame = Vec::new();
        frame.extend_from_slice(&macs.1);
        frame.extend_from_slice(&macs.0);
        frame.extend_from_slice(&[8, 0]);
        frame.extend_from_slice(&ip);
        frame.extend_from_slice(&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x7f, 0xff]);
        frame.extend_from_slice(&pseudo.to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(payload);
        frame
    }

    /// Whether the TCP checksum of such a frame is right.
    pub(crate) fn tcp_is_valid(frame: &[u8]) -> bool {
        let length = u16::try_from(frame.len() - 34).unwrap();
        add(add(add(sum(&frame[26..34]), 6), length), sum(&frame[34..])) == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn sample(payload: &[u8]) -> Vec<u8> {
        let addresses = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        samples::tcp_partial(([2; 6], [4; 6]), addresses, payload)
    }

    #[test]
    fn partial_checksum_is_recognised_and_completed() {
        for payload in [b"".as_slice(), b"x", b"even", &[7; 60_000]] {
            let mut frame = sample(payload);
            let request = partial(&frame, Medium::Ethernet).unwrap();
            assert_eq!(request, PartialChecksum { start: 34, offset: 16 });
            assert!(complete(&mut frame, request));
            assert!(samples::tcp_is_valid(&frame));
            assert_eq!(partial(&frame, Medium::Ethernet), None);
        }
    }

    #[test]
    fn bare_ip_and_short_frames() {
        let frame = sample(b"payload");
        assert_eq!(partial(&frame[14..], Medium::Ip), Some(PartialChecksum { start: 20, offset: 16 }));
        for length in 0..frame.len() - 7 {
            // Nothing to be found in a stump, and no panic.
            let _ = partial(&frame[..length], Medium::Ethernet);
        }
        assert_eq!(partial(&frame[..40], Medium::Ethernet), None);
        let mut fragment = frame.clone();
        fragment[20] = 0x20;
        assert_eq!(partial(&fragment, Medium::Ethernet), None);
        let mut short = [0u8; 20];
        assert!(!complete(&mut short, PartialChecksum { start: 21, offset: 0 }));
        assert!(!complete(&mut short, PartialChecksum { start: 10, offset: 9 }));
        assert!(!is_udp(&frame, Medium::Ethernet) && !is_ipv6(&frame, Medium::Ethernet));
    }
}
