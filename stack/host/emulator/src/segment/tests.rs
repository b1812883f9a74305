//! Super-frames built by hand, cut, and checked field by field.

use super::*;

const SIZE: usize = 1448;

struct Sample {
    frame: Vec<u8>,
    network: usize,
    transport: usize,
}

/// An Ethernet frame of TCP or UDP with `payload` and a partial checksum.
fn sample(version: Version, protocol: u8, tag: bool, payload: &[u8]) -> Sample {
    let mut frame = vec![2; 12];
    if tag {
        frame.extend_from_slice(&[0x81, 0, 0, 9]);
    }
    let transport_header = if protocol == PROTOCOL_TCP { 32 } else { 8 };
    let length = u16::try_from(transport_header + payload.len()).unwrap();
    let network = frame.len() + 2;
    match version {
        Version::V4 => {
            frame.extend_from_slice(&[8, 0, 0x45, 2]);
            frame.extend_from_slice(&(length + 20).to_be_bytes());
            frame.extend_from_slice(&[0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        Version::V6 => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0x20, 0, 0]);
            frame.extend_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(&[protocol, 64]);
            frame.extend_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
            frame.extend_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        }
    }
    let transport = frame.len();
    frame.extend_from_slice(&[0x30, 0x39, 0, 80]);
    if protocol == PROTOCOL_TCP {
        frame.extend_from_slice(&0xffff_fc00_u32.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 7, 0x80, TCP_FIN | TCP_PSH | TCP_CWR | 0x10, 1, 0, 0xaa, 0xaa, 0, 0]);
        frame.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&[0xaa, 0xaa]);
    }
    frame.extend_from_slice(payload);
    Sample { frame, network, transport }
}

fn offload(sample: &Sample, gso_type: u8) -> Offload {
    let offset = if gso_type == GSO_UDP_L4 { 6 } else { 16 };
    let start = u16::try_from(sample.transport).unwrap();
    Offload {
        checksum: Some(PartialChecksum { start, offset }),
        gso_type,
        gso_ecn: false,
        header_length: 0,
        gso_size: u16::try_from(SIZE).unwrap(),
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 7 + place / 251) as u8).collect()
}

fn cut(sample: &Sample, gso_type: u8) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    assert!(split(&sample.frame, offload(sample, gso_type), |packet| packets.push(packet)));
    packets
}

fn transport_is_valid(packet: &[u8], sample: &Sample, version: Version, protocol: u8) -> bool {
    let address = |at: usize, length: usize| packet[sample.network + at..sample.network + at + length].to_vec();
    let pseudo = match version {
        Version::V4 => [address(12, 8), vec![0, protocol]].concat(),
        Version::V6 => [address(8, 32), vec![0, protocol]].concat(),
    };
    let length = u16::try_from(packet.len() - sample.transport).unwrap().to_be_bytes();
    let message = [pseudo, length.to_vec(), packet[sample.transport..].to_vec()].concat();
    checksum::sum(&message) == 0xffff
}

#[test]
fn tcp_super_frames_become_packets_that_a_receiver_accepts() {
    for (version, gso_type, tag) in
        [(Version::V4, GSO_TCPV4, false), (Version::V4, GSO_TCPV4, true), (Version::V6, GSO_TCPV6, false)]
    {
        let data = payload(3 * SIZE + 100);
        let sample = sample(version, PROTOCOL_TCP, tag, &data);
        let packets = cut(&sample, gso_type);
        assert_eq!(packets.len(), 4);
        let mut collected = Vec::new();
        for (number, packet) in packets.iter().enumerate() {
            let ip = &packet[sample.network..];
            let tcp = &packet[sample.transport..];
            match version {
                Version::V4 => {
                    assert_eq!(usize::from(read_u16(ip, 2).unwrap()), ip.len());
                    assert_eq!(read_u16(ip, 4).unwrap(), 0xfffe_u16.wrapping_add(number as u16));
                    assert_eq!(checksum::sum(&ip[..20]), 0xffff);
                }
                Version::V6 => assert_eq!(usize::from(read_u16(ip, 4).unwrap()), ip.len() - 40),
            }
            // The sequence numbers pass 2^32 on their way.
            let expected = 0xffff_fc00_u32.wrapping_add((number * SIZE) as u32);
            assert_eq!(read_u32(tcp, 4), Some(expected));
            let first = if number == 0 { TCP_CWR } else { 0 };
            let last = if number == 3 { TCP_FIN | TCP_PSH } else { 0 };
            assert_eq!(tcp[13], 0x10 | first | last);
            assert!(transport_is_valid(packet, &sample, version, PROTOCOL_TCP));
            collected.extend_from_slice(&tcp[32..]);
        }
        assert_eq!(collected, data);
    }
}

#[test]
fn udp_super_frames_become_datagrams() {
    let data = payload(2 * SIZE + 1);
    let sample = sample(Version::V4, PROTOCOL_UDP, false, &data);
    let packets = cut(&sample, GSO_UDP_L4);
    assert_eq!(packets.iter().map(|packet| packet.len() - 42).collect::<Vec<_>>(), [SIZE, SIZE, 1]);
    for packet in &packets {
        assert_eq!(usize::from(read_u16(packet, sample.transport + 4).unwrap()), packet.len() - sample.transport);
        assert!(transport_is_valid(packet, &sample, Version::V4, PROTOCOL_UDP));
    }
}

#[test]
fn padding_of_the_link_is_not_data() {
    let mut sample = sample(Version::V4, PROTOCOL_TCP, false, &payload(SIZE + 5));
    sample.frame.extend_from_slice(&[0; 7]);
    let packets = cut(&sample, GSO_TCPV4);
    assert_eq!(packets[1].len(), sample.transport + 32 + 5);
}

#[test]
fn an_ordinary_frame_gets_its_checksum_and_stays_otherwise() {
    let mut sample = sample(Version::V4, PROTOCOL_TCP, false, b"data");
    let length = u16::try_from(sample.frame.len() - sample.transport).unwrap();
    let addresses = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
    let pseudo = checksum::pseudo_header(addresses.0, addresses.1, PROTOCOL_TCP, usize::from(length));
    write_u16(&mut sample.frame, sample.transport + 16, pseudo);
    let request = offload(&sample, GSO_NONE);
    let mut packets = Vec::new();
    assert!(split(&sample.frame, request, |packet| packets.push(packet)));
    assert_eq!(packets.len(), 1);
    assert!(transport_is_valid(&packets[0], &sample, Version::V4, PROTOCOL_TCP));
    packets.clear();
    assert!(split(&sample.frame, Offload::default(), |packet| packets.push(packet)));
    assert_eq!(packets[0], sample.frame);
}

#[test]
fn what_is_not_as_the_kernel_says_is_not_cut() {
    let sample = sample(Version::V4, PROTOCOL_TCP, false, &payload(3000));
    let refused = |frame: &[u8], offload| !split(frame, offload, |_| panic!("taken"));
    assert!(refused(&sample.frame, offload(&sample, GSO_TCPV6)));
    assert!(refused(&sample.frame, offload(&sample, GSO_UDP_L4)));
    assert!(refused(&sample.frame, offload(&sample, 3)));
    assert!(refused(&sample.frame, Offload { gso_size: 0, ..offload(&sample, GSO_TCPV4) }));
    for start in [0, 13, 33, 0xffff] {
        let checksum = Some(PartialChecksum { start, offset: 16 });
        assert!(refused(&sample.frame, Offload { checksum, ..offload(&sample, GSO_TCPV4) }));
    }
    for length in 0..sample.transport + 33 {
        assert!(refused(&sample.frame[..length], offload(&sample, GSO_TCPV4)), "{length}");
    }
}

#[test]
fn the_kernels_header_comes_back_as_it_was() {
    let header = [1, GSO_TCPV4 | GSO_ECN, 66, 0, 0xa8, 5, 34, 0, 16, 0];
    let mut parsed = Offload::parse(header);
    assert_eq!(parsed.to_bytes(), header);
    parsed.shift(4);
    assert_eq!(parsed.to_bytes(), [1, GSO_TCPV4 | GSO_ECN, 70, 0, 0xa8, 5, 38, 0, 16, 0]);
    assert_eq!(Offload::parse([0; VNET_HEADER]), Offload::default());
}
