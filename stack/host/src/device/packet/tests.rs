//! Tests of the packet and portable devices on a real veth, each in a network namespace of its own; skipped with a line
//! on standard error where namespaces cannot be made.

use super::*;
use crate::device::LocalAddress;
use crate::device::testlab::{ip, plain, receive_one, with_veth};
use crate::device::{DeviceKind, open};
use remora_stack::frame::{PartialChecksum, Purpose};
use std::net::Ipv4Addr;

const A: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const MAC_A: [u8; 6] = [2, 0, 0, 0, 1, 1];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 1, 2];
const REQUEST: PartialChecksum = PartialChecksum { start: 34, offset: 16 };

fn spec(kind: DeviceKind, interface: &str, mac: [u8; 6], address: Ipv4Addr) -> DeviceSpec {
    DeviceSpec {
        kind,
        interface: interface.to_owned(),
        mac: Some(mac),
        addresses: vec![LocalAddress { address, prefix: 24 }],
        mtu: None,
    }
}

fn pair(kind: DeviceKind) -> (Box<dyn Device>, Box<dyn Device>) {
    let one = open(&spec(kind, "va", MAC_A, A)).unwrap();
    let other = open(&spec(kind, "vb", MAC_B, B)).unwrap();
    (one, other)
}

fn complete(payload: &[u8]) -> Vec<u8> {
    let mut frame = offload::samples::tcp_partial((MAC_A, MAC_B), (A, B), payload);
    assert!(offload::complete(&mut frame, REQUEST));
    frame
}

fn nothing_waits(device: &mut dyn Device) {
    assert_eq!(device.receive(&mut Vec::new()), Ok(None));
}

#[test]
fn plain_frames_cross_the_veth_both_ways() {
    with_veth("plain_frames_cross_the_veth_both_ways", || {
        for kind in [DeviceKind::Packet, DeviceKind::Portable] {
            let (mut one, mut other) = pair(kind);
            assert!(one.fd().raw() >= call::private_floor());
            assert_eq!(one.capabilities().mtu, 1500);
            nothing_waits(&mut *other);
            for payload in [b"x".as_slice(), &[5; 1460]] {
                let frame = complete(payload);
                one.transmit(&plain(&frame)).unwrap();
                assert_eq!(receive_one(&mut *other).0, frame);
                // Back, with the addresses exchanged: to us by our own link address.
                let mut back = offload::samples::tcp_partial((MAC_B, MAC_A), (B, A), payload);
                offload::complete(&mut back, REQUEST);
                other.transmit(&plain(&back)).unwrap();
                assert_eq!(receive_one(&mut *one).0, back);
            }
            nothing_waits(&mut *one);
            let too_long = complete(&[5; 1461 + 4]);
            assert_eq!(one.transmit(&plain(&too_long)), Err(TransmitError::Failed(Errno(libc::EMSGSIZE))));
            let counts = one.statistics();
            assert_eq!((counts.tx_frames, counts.tx_failed, counts.rx_frames, counts.rx_dropped), (2, 1, 2, 0));
            one.close();
            other.close();
        }
    });
}

#[test]
fn gathered_super_frame_arrives_whole_with_its_segment_size() {
    with_veth("gathered_super_frame_arrives_whole_with_its_segment_size", || {
        let (mut one, mut other) = pair(DeviceKind::Packet);
        let capabilities = one.capabilities();
        assert!(capabilities.checksum_tx && capabilities.gso_max > 60_000, "{capabilities:?}");
        let payload: Vec<u8> = (0..64_000u32).map(|at| (at * 7) as u8).collect();
        let frame = offload::samples::tcp_partial((MAC_A, MAC_B), (A, B), &payload);
        let (header, rest) = frame.split_at(54);
        let mut slices = [&[][..]; MAX_PAYLOAD_SLICES];
        for (slot, slice) in slices.iter_mut().zip(rest.chunks(rest.len().div_ceil(MAX_PAYLOAD_SLICES))) {
            *slot = slice;
        }
        let transmit =
            Transmit { header, payload: slices, checksum: Some(REQUEST), gso_size: 1460, purpose: Purpose::Own };
        one.transmit(&transmit).unwrap();
        let (received, meta) = receive_one(&mut *other);
        assert_eq!(received, frame);
        assert_eq!(meta, RxMeta { checksum: RxChecksum::Partial, gso_size: 1460, vlan: None });
        // A single segment asks for no segmentation.
        let small = offload::samples::tcp_partial((MAC_A, MAC_B), (A, B), b"one segment");
        let transmit = Transmit { checksum: Some(REQUEST), gso_size: 1460, ..plain(&small) };
        one.transmit(&transmit).unwrap();
        let (received, meta) = receive_one(&mut *other);
        assert_eq!((received, meta.gso_size, meta.checksum), (small, 0, RxChecksum::Partial));
        one.close();
        other.close();
    });
}

#[test]
fn super_frame_is_cut_up_for_a_device_without_segmentation() {
    with_veth("super_frame_is_cut_up_for_a_device_without_segmentation", || {
        let features = "tx off sg off tso off gso off gro off";
        for interface in ["va", "vb"] {
            let done = std::process::Command::new("ethtool")
                .args(["-K", interface])
                .args(features.split_whitespace())
                .output();
            if !done.is_ok_and(|output| output.status.success()) {
                let _ = call::write(Fd(2), b"skipped: cutting up a super-frame needs ethtool\n");
                return;
            }
        }
        let (mut one, mut other) = pair(DeviceKind::Packet);
        let frame = offload::samples::tcp_partial((MAC_A, MAC_B), (A, B), &[9; 4000]);
        let (header, payload) = frame.split_at(54);
        let mut transmit = Transmit { checksum: Some(REQUEST), gso_size: 1460, ..plain(header) };
        transmit.payload[0] = payload;
        one.transmit(&transmit).unwrap();
        for length in [1460, 1460, 1080] {
            let (segment, meta) = receive_one(&mut *other);
            assert_eq!((segment.len(), meta.gso_size), (54 + length, 0));
            assert!(meta.checksum == RxChecksum::Partial || offload::samples::tcp_is_valid(&segment));
        }
        one.close();
        other.close();
    });
}

#[test]
fn portable_device_sees_a_neighbours_partial_checksum() {
    with_veth("portable_device_sees_a_neighbours_partial_checksum", || {
        let mut one = open(&spec(DeviceKind::Packet, "va", MAC_A, A)).unwrap();
        let mut other = open(&spec(DeviceKind::Portable, "vb", MAC_B, B)).unwrap();
        let frame = offload::samples::tcp_partial((MAC_A, MAC_B), (A, B), b"partial");
        one.transmit(&Transmit { checksum: Some(REQUEST), ..plain(&frame) }).unwrap();
        assert_eq!(receive_one(&mut *other).1.checksum, RxChecksum::Partial);
        one.transmit(&plain(&complete(b"full"))).unwrap();
        assert_eq!(receive_one(&mut *other).1.checksum, RxChecksum::Unverified);
        one.close();
        drop(other);
    });
}

#[test]
fn filter_keeps_others_traffic_away_and_follows_the_addresses() {
    with_veth("filter_keeps_others_traffic_away_and_follows_the_addresses", || {
        let (mut one, mut other) = pair(DeviceKind::Packet);
        let stranger = Ipv4Addr::new(10, 9, 0, 77);
        let to = |address| {
            let mut frame = offload::samples::tcp_partial((MAC_A, MAC_B), (A, address), b"to");
            offload::complete(&mut frame, REQUEST);
            frame
        };
        one.transmit(&plain(&to(stranger))).unwrap();
        one.transmit(&plain(&to(B))).unwrap();
        assert_eq!(receive_one(&mut *other).0, to(B));
        nothing_waits(&mut *other);
        other.set_scope(&Scope::of(&[LocalAddress { address: stranger, prefix: 24 }])).unwrap();
        one.transmit(&plain(&to(B))).unwrap();
        one.transmit(&plain(&to(stranger))).unwrap();
        one.transmit(&plain(&to(Ipv4Addr::new(10, 9, 0, 255)))).unwrap();
        assert_eq!(receive_one(&mut *other).0, to(stranger));
        assert_eq!(receive_one(&mut *other).0, to(Ipv4Addr::new(10, 9, 0, 255)));
        nothing_waits(&mut *other);
        one.close();
        other.close();
    });
}

#[test]
fn two_stacks_on_one_interface_hear_each_other_and_not_the_rest() {
    with_veth("two_stacks_on_one_interface_hear_each_other_and_not_the_rest", || {
        let mut one = open(&spec(DeviceKind::Packet, "va", MAC_A, A)).unwrap();
        let mut other = open(&spec(DeviceKind::Packet, "va", MAC_B, B)).unwrap();
        let frame = complete(b"neighbour");
        one.transmit(&plain(&frame)).unwrap();
        assert_eq!(receive_one(&mut *other).0, frame);
        nothing_waits(&mut *one);
        one.close();
        other.close();
    });
}

#[test]
fn vlan_tag_comes_from_the_auxiliary_data() {
    with_veth("vlan_tag_comes_from_the_auxiliary_data", || {
        let (mut one, mut other) = pair(DeviceKind::Packet);
        let frame = complete(b"tagged");
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0x20, 5]);
        one.transmit(&plain(&tagged)).unwrap();
        let (received, meta) = receive_one(&mut *other);
        assert_eq!((received, meta.vlan), (frame, Some(0x2005)));
        one.close();
        other.close();
    });
}

#[test]
fn link_down_mtu_change_and_removal_are_told_apart() {
    with_veth("link_down_mtu_change_and_removal_are_told_apart", || {
        let (mut one, mut other) = pair(DeviceKind::Packet);
        assert!(ip("link set va mtu 1400"));
        assert_eq!(one.refresh().unwrap().mtu, 1400);
        assert!(ip("link set va down"));
        assert_eq!(one.receive(&mut Vec::new()), Err(DeviceError::Down));
        assert_eq!(one.refresh(), Err(DeviceError::Down));
        assert_eq!(one.transmit(&plain(&complete(b"down"))), Err(TransmitError::Down));
        let error = open(&spec(DeviceKind::Packet, "va", MAC_A, A)).expect_err("down");
        assert_eq!(error, OpenError::Down("va".to_owned()));
        assert!(ip("link set va up"));
        assert!(one.refresh().is_ok());
        nothing_waits(&mut *one);
        one.transmit(&plain(&complete(b"up again"))).unwrap();
        assert_eq!(receive_one(&mut *other).0, complete(b"up again"));
        assert!(ip("link del va"));
        assert_eq!(one.refresh(), Err(DeviceError::Gone));
        assert_eq!(one.transmit(&plain(&complete(b"gone"))), Err(TransmitError::Down));
        one.close();
        other.close();
    });
}

#[test]
fn bare_ip_device_carries_packets_without_a_link_header() {
    with_veth("bare_ip_device_carries_packets_without_a_link_header", || {
        // An IPIP tunnel over the veth: ARPHRD_TUNNEL is refused by name; a tun needs no more than a descriptor.
        if !ip("tuntap add dev tun9 mode tun") || !ip("link set tun9 up") {
            let _ = call::write(Fd(2), b"skipped: bare IP needs /dev/net/tun\n");
            return;
        }
        let device = open(&spec(DeviceKind::Packet, "tun9", MAC_A, A)).unwrap();
        assert_eq!(device.capabilities().medium, Medium::Ip);
        let error = open(&spec(DeviceKind::Portable, "tun9", MAC_A, A)).expect_err("no Ethernet");
        assert_eq!(error, OpenError::NotEthernet("tun9".to_owned()));
    });
}

#[test]
fn meta_is_read_from_header_and_auxiliary_data() {
    let meta = |flags, gso_type| meta_of(Some([flags, gso_type, 0, 0, 0xb4, 5, 0, 0, 0, 0]), &[]);
    assert_eq!(meta(0, 0), RxMeta::default());
    assert_eq!(meta(DATA_VALID, 0).checksum, RxChecksum::Valid);
    assert_eq!(meta(NEEDS_CHECKSUM, GSO_TCPV4).gso_size, 1460);
    // Without a vnet header the auxiliary data tells.
    let mut control = [0u8; 40];
    control[..8].copy_from_slice(&36usize.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_PACKET.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::PACKET_AUXDATA.to_ne_bytes());
    control[16..20].copy_from_slice(&(STATUS_CHECKSUM_NOT_READY | STATUS_VLAN_VALID).to_ne_bytes());
    control[32..34].copy_from_slice(&7u16.to_ne_bytes());
    assert_eq!(meta_of(None, &control), RxMeta { checksum: RxChecksum::Partial, gso_size: 0, vlan: Some(7) });
    assert_eq!(meta_of(None, &control[..20]), RxMeta::default());
    assert_eq!(meta_of(None, &[]), RxMeta::default());
}
