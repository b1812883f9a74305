//! Frames that are wrong: each kind moves the counter of its name and goes no further, and nothing panics.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use remora_stack::counters::Counters;
use remora_stack::frame::RxMeta;
use remora_stack::socket::protocol::{AddressFamily, SocketType};
use remora_stack::stack::Stack;
use remora_stack::testkit::{Network, address, interface};
use remora_stack::time::Instant;
use remora_stack::wire::checksum;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A stack 10.0.0.1 with a UDP socket on port 7 and a TCP listener on port 80.
fn stack() -> Stack {
    let mut stack = Stack::new(remora_stack::settings::Settings::default(), [7; 32]);
    let now = Instant::from_millis(1);
    stack.attach(now, interface(1));
    let id = stack.socket(now, AddressFamily::Inet, SocketType::Datagram, 0).unwrap();
    stack.bind(now, id, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 7)).unwrap();
    let id = stack.socket(now, AddressFamily::Inet, SocketType::Stream, 0).unwrap();
    stack.bind(now, id, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)).unwrap();
    stack.listen(now, id, 5).unwrap();
    stack
}

fn feed(stack: &mut Stack, frame: &[u8]) {
    let now = Instant::from_millis(2);
    stack.handle_frame(now, &mut frame.to_vec(), RxMeta::default());
    // Whatever the frame has caused to be sent must be sound too.
    for _ in 0..100 {
        if stack.poll_transmit(now).is_none() {
            break;
        }
    }
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [OURS, THEIRS].concat();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A packet from 10.0.0.2 with right checksum and lengths; `options` must be a multiple of four bytes.
fn ipv4(protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    ipv4_between([10, 0, 0, 2], [10, 0, 0, 1], protocol, options, payload)
}

fn ipv4_between(from: [u8; 4], to: [u8; 4], protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).unwrap().to_be_bytes();
    let first = 0x40 | u8::try_from(header / 4).unwrap();
    let mut packet = vec![first, 0, total[0], total[1], 1, 2, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&from);
    packet.extend_from_slice(&to);
    packet.extend_from_slice(options);
    seal(&mut packet);
    packet.extend_from_slice(payload);
    packet
}

fn seal(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    let header = header.min(packet.len());
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn udp(length: Option<u16>, payload: &[u8], good: bool) -> Vec<u8> {
    let real = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = vec![0, 9, 0, 7];
    datagram.extend_from_slice(&length.unwrap_or(real).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    let pseudo = checksum::pseudo_header(address(2), address(1), 17, datagram.len());
    let mut sum = checksum::Accumulator::new(pseudo);
    sum.add(&datagram);
    let sum = sum.finish() ^ u16::from(!good);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

fn icmp(kind: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&rest);
    message.extend_from_slice(body);
    let sum = checksum::of(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn changed(packet: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    seal(&mut packet);
    packet
}

type Count = fn(&Counters) -> u64;

//= test RFC 9293 §3.9.2.3 (MUST-63)
//= test RFC 1122 §3.1 (MUST-5, MUST-6, SHLD-2)
//= test RFC 1122 §3.2.1.1 (MUST-7)
//= test RFC 1122 §3.2.1.2 (MUST-8)
//= test RFC 1122 §3.2.1.3 (MUST-11, MUST-12)
//= test RFC 1122 §3.2.2 (MUST-27)
//= test RFC 1122 §3.2.2.1 (SHLD-7)
//= test RFC 1122 §3.2.2.2 (SHLD-10)
//= test RFC 1122 §3.2.2.5 (SHLD-12)
//= test RFC 1122 §3.4 (MUST-91)
#[test]
fn every_kind_of_damage_moves_its_own_counter() {
    let good = ipv4(17, &[], &udp(None, b"data", true));
    let arp = |at: usize, value: u8| {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
        packet.extend_from_slice(&THEIRS);
        packet.extend_from_slice(&[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        packet[at] = value;
        ethernet(0x0806, &packet)
    };
    let quoted = ipv4_between([10, 0, 0, 1], [10, 0, 0, 2], 17, &[], &[0; 8]);
    let table: Vec<(&str, Vec<u8>, &[Count])> = vec![
        ("frame of 13 bytes", vec![2; 13], &[|c| c.link_truncated]),
        ("empty frame", vec![], &[|c| c.link_truncated]),
        ("cut VLAN tag", ethernet(0x8100, &[0]), &[|c| c.link_bad_tag]),
        ("802.3 length beyond the frame", ethernet(100, &[0; 50]), &[|c| c.link_bad_length]),
        ("802.3 frame", ethernet(3, &[0xaa, 0xaa, 3]), &[|c| c.link_llc]),
        ("foreign VLAN", ethernet(0x8100, &[0, 5, 8, 0, 0x45]), &[|c| c.link_vlan_foreign]),
        ("unknown type", ethernet(0x88cc, &[0; 50]), &[|c| c.link_unknown_type]),
        ("IPv6", ethernet(0x86dd, &[0x60; 50]), &[|c| c.ipv6_ignored]),
        (
            "somebody else's frame",
            [&[2, 9, 9, 9, 9, 9][..], &ethernet(0x0800, &good)[6..]].concat(),
            &[|c| c.link_not_for_us],
        ),
        ("ARP cut short", ethernet(0x0806, &[0; 27]), &[|c| c.arp_malformed]),
        ("ARP for other hardware", arp(1, 7), &[|c| c.arp_malformed]),
        ("ARP for another protocol", arp(2, 7), &[|c| c.arp_malformed]),
        ("ARP with other lengths", arp(4, 7), &[|c| c.arp_malformed]),
        ("ARP with another operation", arp(7, 9), &[|c| c.arp_malformed]),
        ("ARP from a group", arp(8, 1), &[|c| c.arp_malformed]),
        ("packet of 19 bytes", ethernet(0x0800, &good[..19]), &[|c| c.ip_truncated, |c| c.ip_in_hdr_errors]),
        (
            "version 5",
            ethernet(0x0800, &changed(&good, |p| p[0] = 0x55)),
            &[|c| c.ip_bad_version, |c| c.ip_in_hdr_errors],
        ),
        (
            "header of 16 bytes",
            ethernet(0x0800, &changed(&good, |p| p[0] = 0x44)),
            &[|c| c.ip_bad_header_length, |c| c.ip_in_hdr_errors],
        ),
        (
            "header beyond the packet",
            ethernet(0x0800, &changed(&good, |p| p[0] = 0x4f)),
            &[|c| c.ip_truncated, |c| c.ip_in_hdr_errors],
        ),
        (
            "header checksum",
            ethernet(0x0800, &{
                let mut p = good.clone();
                p[8] ^= 1;
                p
            }),
            &[|c| c.ip_bad_checksum, |c| c.in_csum_errors, |c| c.ip_in_hdr_errors],
        ),
        (
            "total length beyond the frame",
            ethernet(0x0800, &changed(&good, |p| p[3] = 200)),
            &[|c| c.in_truncated_pkts],
        ),
        (
            "total length within the header",
            ethernet(0x0800, &changed(&good, |p| p[3] = 19)),
            &[|c| c.ip_bad_length, |c| c.ip_in_hdr_errors],
        ),
        (
            "option beyond the header",
            ethernet(0x0800, &ipv4(17, &[7, 9, 4, 0], &udp(None, b"", true))),
            &[|c| c.ip_bad_options, |c| c.ip_in_hdr_errors, |c| c.icmp_out_parm_probs],
        ),
        ("option of length 1", ethernet(0x0800, &ipv4(17, &[7, 1, 4, 0], &[])), &[|c| c.ip_bad_options]),
        ("option without a length", ethernet(0x0800, &ipv4(17, &[1, 1, 1, 7], &[])), &[|c| c.ip_bad_options]),
        (
            "source route",
            ethernet(0x0800, &ipv4(17, &[0x83, 3, 4, 0], &udp(None, b"", true))),
            &[|c| c.ip_source_route],
        ),
        (
            "from 127/8",
            ethernet(0x0800, &ipv4_between([127, 0, 0, 1], [10, 0, 0, 1], 17, &[], &[])),
            &[|c| c.ip_martian],
        ),
        ("to 127/8", ethernet(0x0800, &ipv4_between([10, 0, 0, 2], [127, 0, 0, 1], 17, &[], &[])), &[|c| c.ip_martian]),
        (
            "from a group",
            ethernet(0x0800, &ipv4_between([224, 0, 0, 9], [10, 0, 0, 1], 17, &[], &[])),
            &[|c| c.ip_martian],
        ),
        ("from everybody", ethernet(0x0800, &ipv4_between([255; 4], [10, 0, 0, 1], 17, &[], &[])), &[|c| c.ip_martian]),
        (
            "from ourselves",
            ethernet(0x0800, &ipv4_between([10, 0, 0, 1], [10, 0, 0, 1], 17, &[], &[])),
            &[|c| c.ip_martian],
        ),
        (
            "from 0.0.0.0 to us",
            ethernet(0x0800, &ipv4_between([0; 4], [10, 0, 0, 1], 17, &[], &[])),
            &[|c| c.ip_martian],
        ),
        (
            "for another host",
            ethernet(0x0800, &ipv4_between([10, 0, 0, 2], [10, 0, 0, 3], 17, &[], &[])),
            &[|c| c.ip_in_addr_errors],
        ),
        (
            "for a foreign group",
            ethernet(0x0800, &ipv4_between([10, 0, 0, 2], [239, 0, 0, 3], 17, &[], &[])),
            &[|c| c.ip_group_not_joined],
        ),
        (
            "unknown protocol",
            ethernet(0x0800, &ipv4(200, &[], &[0; 8])),
            &[|c| c.ip_in_unknown_protos, |c| c.icmp_out_dest_unreachs],
        ),
        ("UDP cut short", ethernet(0x0800, &ipv4(17, &[], &[0; 7])), &[|c| c.udp_bad_length, |c| c.udp_in_errors]),
        (
            "UDP length 7",
            ethernet(0x0800, &ipv4(17, &[], &udp(Some(7), b"", true))),
            &[|c| c.udp_bad_length, |c| c.udp_in_errors],
        ),
        (
            "UDP length beyond the packet",
            ethernet(0x0800, &ipv4(17, &[], &udp(Some(50), b"", true))),
            &[|c| c.udp_bad_length, |c| c.udp_in_errors],
        ),
        (
            "UDP checksum",
            ethernet(0x0800, &ipv4(17, &[], &udp(None, b"x", false))),
            &[|c| c.udp_in_csum_errors, |c| c.udp_in_errors],
        ),
        (
            "ICMP cut short",
            ethernet(0x0800, &ipv4(1, &[], &[0xff, 0xff])),
            &[|c| c.icmp_malformed, |c| c.icmp_in_errors],
        ),
        (
            "ICMP checksum",
            ethernet(0x0800, &ipv4(1, &[], &[8, 0, 0, 0, 0, 0, 0, 0])),
            &[|c| c.icmp_in_csum_errors, |c| c.icmp_in_errors],
        ),
        (
            "ICMP type 77",
            ethernet(0x0800, &ipv4(1, &[], &icmp(77, [0; 4], &[]))),
            &[|c| c.icmp_malformed, |c| c.icmp_in_errors],
        ),
        (
            "ICMP error that quotes nothing",
            ethernet(0x0800, &ipv4(1, &[], &icmp(3, [0; 4], &[]))),
            &[|c| c.icmp_malformed, |c| c.icmp_in_errors],
        ),
        (
            "ICMP error that quotes too little",
            ethernet(0x0800, &ipv4(1, &[], &icmp(3, [0; 4], &quoted[..27]))),
            &[|c| c.icmp_malformed],
        ),
        (
            "ICMP error about nobody's packet",
            ethernet(0x0800, &ipv4(1, &[], &icmp(3, [0; 4], &quoted))),
            &[|c| c.icmp_in_errors],
        ),
        (
            "ICMP redirect",
            ethernet(0x0800, &ipv4(1, &[], &icmp(5, [10, 0, 0, 9], &quoted))),
            &[|c| c.icmp_in_redirects],
        ),
        ("empty fragment", ethernet(0x0800, &changed(&ipv4(17, &[], &[]), |p| p[6] = 0x20)), &[|c| c.ip_reasm_fails]),
        (
            "fragment beyond 65535",
            ethernet(
                0x0800,
                &changed(&good, |p| {
                    p[6] = 0x1f;
                    p[7] = 0xff;
                }),
            ),
            &[|c| c.ip_reasm_fails],
        ),
        ("TCP cut short", ethernet(0x0800, &ipv4(6, &[], &[0; 19])), &[|c| c.tcp_in_errs, |c| c.tcp_bad_header]),
        (
            "TCP checksum",
            ethernet(0x0800, &ipv4(6, &[], &[0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0])),
            &[|c| c.tcp_in_csum_errors, |c| c.tcp_in_errs],
        ),
    ];
    for (name, frame, counts) in table {
        let mut stack = stack();
        let before = stack.counters().clone();
        feed(&mut stack, &frame);
        for (place, count) in counts.iter().enumerate() {
            assert_eq!(count(stack.counters()), count(&before) + 1, "{name}: counter {place}");
        }
        assert_eq!(stack.counters().udp_in_datagrams, 0, "{name} was delivered");
    }
}

//= test RFC 9293 §3.9.2 (MUST-50)
#[test]
fn the_undamaged_datagram_is_delivered() {
    let mut stack = stack();
    let good = ipv4(17, &[], &udp(None, b"data", true));
    feed(&mut stack, &ethernet(0x0800, &good));
    // With padding, in a priority tag, and with a harmless option.
    feed(&mut stack, &ethernet(0x0800, &[&good[..], &[0; 20]].concat()));
    feed(&mut stack, &ethernet(0x8100, &[&[0xe0, 0, 8, 0][..], &good].concat()));
    feed(&mut stack, &ethernet(0x0800, &ipv4(17, &[0x94, 4, 0, 0], &udp(None, b"data", true))));
    assert_eq!(stack.counters().udp_in_datagrams, 4);
}

//= test RFC 1122 §3.2.2 (MUST-30, MUST-31, MUST-32, MUST-34)
#[test]
fn errors_are_never_answered_by_errors_nor_are_groups_or_later_fragments() {
    let mut stack = stack();
    let closed = |p: &mut Vec<u8>| p[23] = 99;
    let mut broadcast = ipv4_between([10, 0, 0, 2], [10, 0, 0, 255], 200, &[], &[0; 8]);
    feed(&mut stack, &ethernet(0x0800, &broadcast));
    broadcast[19] = 1;
    let quoted = ipv4_between([10, 0, 0, 1], [10, 0, 0, 2], 1, &[], &[0; 8]);
    feed(&mut stack, &ethernet(0x0800, &ipv4(1, &[], &icmp(3, [0; 4], &quoted))));
    let mut group_frame = ethernet(0x0800, &changed(&ipv4(17, &[], &udp(None, b"", true)), closed));
    group_frame[..6].fill(0xff);
    feed(&mut stack, &group_frame);
    for source in [[224, 0, 0, 9], [255; 4], [10, 0, 0, 255], [127, 0, 0, 1], [0; 4]] {
        feed(&mut stack, &ethernet(0x0800, &ipv4_between(source, [10, 0, 0, 1], 200, &[], &[0; 8])));
    }
    assert_eq!(stack.counters().icmp_out_msgs, 0);
}

/// What a host at 10.0.0.2, which has made itself known, gets back for a frame.
fn answers(stack: &mut Stack, frame: &[u8]) -> Vec<Vec<u8>> {
    let now = Instant::from_millis(2);
    let mut known = vec![0, 1, 8, 0, 6, 4, 0, 1];
    known.extend_from_slice(&THEIRS);
    known.extend_from_slice(&[10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    feed(stack, &ethernet(0x0806, &known));
    stack.handle_frame(now, &mut frame.to_vec(), RxMeta::default());
    let mut frames = Vec::new();
    while let Some(transmit) = stack.poll_transmit(now) {
        frames.push(transmit.to_vec());
    }
    frames
}

//= test RFC 1122 §3.2.2 (MAY-6, MUST-28)
#[test]
fn an_error_quotes_what_came_byte_for_byte() {
    let mut datagram = udp(None, &[7; 100], true);
    datagram[3] = 99;
    datagram[6..8].fill(0);
    let packet = ipv4(17, &[], &datagram);
    let frames = answers(&mut stack(), &ethernet(0x0800, &packet));
    assert_eq!(frames.len(), 1);
    assert_eq!(&frames[0][34..36], [3, 3], "port unreachable");
    assert_eq!(frames[0][42..], packet);
}

//= test RFC 1122 §3.2.2 (MUST-33)
#[test]
fn later_fragments_that_stay_alone_are_given_up_silently() {
    let mut network = Network::new(3);
    let a = network.add(1);
    let later = changed(&ipv4(200, &[], &[0; 16]), |p| p[7] = 5);
    network.inject(a, &ethernet(0x0800, &later));
    network.run_for(std::time::Duration::from_secs(31));
    let counters = network.stack(a).counters();
    assert_eq!((counters.ip_reasm_timeout, counters.icmp_out_msgs), (1, 0));
}

//= test RFC 1122 §3.2.2.6 (MAY-9, MAY-10)
//= test RFC 1122 §3.2.2.7 (SHLD-15)
//= test RFC 1122 §3.2.2.8 (MAY-12, MAY-13)
//= test RFC 1122 §3.2.2.9 (MUST-56)
//= test RFC 1122 §3.3.7 (SHLD-35)
#[test]
fn requests_to_everybody_and_obsolete_ones_are_not_answered() {
    let mut stack = stack();
    let echo = icmp(8, [0, 1, 0, 1], b"hello");
    for (to, link) in [([10, 0, 0, 255], [0xff; 6]), ([224, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1])] {
        let mut frame = ethernet(0x0800, &ipv4_between([10, 0, 0, 2], to, 1, &[], &echo));
        frame[..6].copy_from_slice(&link);
        assert!(answers(&mut stack, &frame).is_empty());
    }
    assert_eq!(stack.counters().icmp_in_echos, 2, "they are heard: everybody is in the group of all hosts");
    // Timestamp, Information and Address Mask requests.
    for kind in [13, 15, 17] {
        assert!(answers(&mut stack, &ethernet(0x0800, &ipv4(1, &[], &icmp(kind, [0; 4], &[0; 12])))).is_empty());
    }
    assert_eq!(answers(&mut stack, &ethernet(0x0800, &ipv4(1, &[], &echo))).len(), 1);
}

//= test RFC 1122 §3.3.2 (MUST-73, SHLD-25)
#[test]
//= test REF N-01
fn overlapping_fragments_are_refused_and_old_ones_given_up() {
    let mut network = Network::new(3);
    let a = network.add(1);
    let piece = |offset: u8, more: bool, length: usize| {
        changed(&ipv4(17, &[], &vec![0; length]), |p| {
            p[6] = if more { 0x20 } else { 0 };
            p[7] = offset;
        })
    };
    network.inject(a, &ethernet(0x0800, &piece(0, true, 16)));
    // A copy does no harm.
    network.inject(a, &ethernet(0x0800, &piece(0, true, 16)));
    assert_eq!(network.stack(a).counters().reasm_overlaps, 0);
    network.inject(a, &ethernet(0x0800, &piece(1, true, 16)));
    assert_eq!((network.stack(a).counters().reasm_overlaps, network.stack(a).counters().ip_reasm_fails), (1, 1));
    assert_eq!(network.stack(a).memory(), 0);
    network.inject(a, &ethernet(0x0800, &piece(0, true, 16)));
    network.run_for(std::time::Duration::from_secs(31));
    let counters = network.stack(a).counters();
    assert_eq!((counters.ip_reasm_timeout, counters.ip_reasm_fails, counters.icmp_out_time_excds), (1, 2, 1));
    assert_eq!(network.stack(a).memory(), 0);
}

#[test]
//= test REF N-01
fn fragments_cannot_fill_memory() {
    let mut stack = stack();
    let before = stack.memory();
    for id in 0..60_000_u32 {
        let frame = ethernet(
            0x0800,
            &changed(&ipv4(17, &[], &[0; 8]), |p| {
                p[4..6].copy_from_slice(&u16::try_from(id).unwrap().to_be_bytes());
                p[6] = 0x20;
            }),
        );
        stack.handle_frame(Instant::from_millis(2), &mut frame.clone(), RxMeta::default());
    }
    assert!(stack.memory() - before <= 4_194_304, "{}", stack.memory());
    assert!(stack.counters().ip_reasm_fails > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_frames_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        feed(&mut stack(), &bytes);
    }

    #[test]
    fn random_payloads_of_every_protocol_do_no_harm(
        protocol in prop_oneof![Just(1_u8), Just(6), Just(17), any::<u8>()],
        words in 0_usize..10,
        fragment in any::<[u8; 2]>(),
        bytes in proptest::collection::vec(any::<u8>(), 40..160),
    ) {
        let mut packet = ipv4(protocol, &bytes[..words * 4], &bytes[words * 4..]);
        if fragment[0] & 0x80 != 0 {
            packet[6..8].copy_from_slice(&fragment);
            packet[6] &= 0x7f;
            seal(&mut packet);
        }
        feed(&mut stack(), &ethernet(0x0800, &packet));
    }

    #[test]
    fn sound_headers_with_one_byte_changed_do_no_harm(at in 0_usize..60, value in any::<u8>(), kind in 0_usize..4) {
        let quoted = ipv4_between([10, 0, 0, 1], [10, 0, 0, 2], 6, &[], &[0; 20]);
        let mut packet = match kind {
            0 => ipv4(17, &[], &udp(None, b"some data", true)),
            1 => ipv4(1, &[], &icmp(3, [0; 4], &quoted)),
            2 => ipv4(1, &[], &icmp(8, [1, 2, 3, 4], b"echo")),
            _ => ipv4(6, &[1, 1, 1, 0], &[0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x70, 2, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4, 3, 3, 7, 0]),
        };
        if let Some(byte) = packet.get_mut(at) {
            *byte = value;
        }
        if at < 20 {
            seal(&mut packet);
        }
        feed(&mut stack(), &ethernet(0x0800, &packet));
    }
}

#[test]
fn addresses_of_the_kit_are_what_these_frames_say() {
    assert_eq!(address(1), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(interface(1).mac.0, OURS);
}
