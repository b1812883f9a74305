//! Options of the IP header on bare packets: source routes that come in and the way back, what is sent, what is refused.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};

use remora_stack::frame::{Medium, RxMeta};
use remora_stack::interface::InterfaceConfig;
use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::error::{ConnectError, SendError};
use remora_stack::socket::options::{OptionName, OptionValue, SetOption};
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::stack::Stack;
use remora_stack::testkit::{address, interface};
use remora_stack::time::Instant;
use remora_stack::wire::checksum;

const THEIRS: [u8; 4] = [10, 0, 0, 2];
const OURS: [u8; 4] = [10, 0, 0, 1];
/// From 10.0.0.2 by 10.0.0.9, which was passed.
const PASSED: [u8; 8] = [0x83, 7, 8, 10, 0, 0, 9, 0];

fn now() -> Instant {
    Instant::from_millis(5)
}

/// 10.0.0.1 on a device that takes bare packets.
fn stack(settings: Settings) -> Stack {
    let mut stack = Stack::new(settings, [7; 32]);
    let config = interface(1);
    let mut capabilities = config.capabilities;
    capabilities.medium = Medium::Ip;
    stack.attach(now(), InterfaceConfig { capabilities, ..config });
    stack
}

fn accepting() -> Stack {
    stack(Settings { accept_source_route: true, ..Settings::default() })
}

fn packet(to: [u8; 4], protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).unwrap().to_be_bytes();
    let mut packet =
        vec![0x40 | u8::try_from(header / 4).unwrap(), 0, total[0], total[1], 1, 2, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&THEIRS);
    packet.extend_from_slice(&to);
    packet.extend_from_slice(options);
    let sum = checksum::of(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(payload);
    packet
}

/// A segment from port 4000 to port 80.
fn segment(flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut bytes = vec![0x0f, 0xa0, 0, 80];
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(&ack.to_be_bytes());
    bytes.extend_from_slice(&[0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let mut sum = checksum::Accumulator::new(checksum::pseudo_header(address(2), address(1), 6, bytes.len()));
    sum.add(&bytes);
    let sum = sum.finish().to_be_bytes();
    bytes[16..18].copy_from_slice(&sum);
    bytes
}

fn feed(stack: &mut Stack, packet: &[u8]) {
    stack.handle_frame(now(), &mut packet.to_vec(), RxMeta::default());
}

fn sent(stack: &mut Stack) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(frame) = stack.poll_transmit(now()).map(|frame| frame.to_vec()) {
        all.push(frame);
        assert!(all.len() < 100);
    }
    all
}

fn options_of(packet: &[u8]) -> &[u8] {
    &packet[20..usize::from(packet[0] & 15) * 4]
}

fn socket(stack: &mut Stack, kind: SocketType) -> SocketId {
    stack.socket(now(), AddressFamily::Inet, kind, 0).unwrap()
}

fn set(stack: &mut Stack, id: SocketId, bytes: &[u8]) {
    stack.set_option(now(), id, &SetOption::IpOptions(bytes.to_vec(), true)).unwrap();
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(last), port)
}

fn listener(stack: &mut Stack) -> SocketId {
    let id = socket(stack, SocketType::Stream);
    stack.bind(now(), id, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)).unwrap();
    stack.listen(now(), id, 5).unwrap();
    id
}

//= test RFC 9293 §3.9.2.1 (MUST-53)
//= test REF C-09
#[test]
fn a_connection_that_came_by_a_route_is_answered_by_the_way_back() {
    let mut stack = accepting();
    let listener = listener(&mut stack);
    feed(&mut stack, &packet(OURS, 6, &PASSED, &segment(2, 100, 0)));
    let out = sent(&mut stack);
    // The SYN-ACK goes to the hop, and the peer is the last of the way.
    let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(syn_ack[16..20], [10, 0, 0, 9]);
    assert_eq!(options_of(syn_ack), [0x83, 7, 4, 10, 0, 0, 2, 0]);
    let seq = u32::from_be_bytes(syn_ack[32..36].try_into().unwrap());
    feed(&mut stack, &packet(OURS, 6, &PASSED, &segment(16, 101, seq + 1)));
    let (child, _) = stack.accept(now(), listener).unwrap();
    let mut bytes: &[u8] = b"hello";
    stack.send(now(), child, &mut bytes, &SendArguments::default()).unwrap();
    let out = sent(&mut stack);
    let data = out.last().unwrap();
    assert_eq!((&data[16..20], options_of(data)), (&[10, 0, 0, 9][..], &[0x83, 7, 4, 10, 0, 0, 2, 0][..]));
    assert!(data.ends_with(b"hello"));
    // The checksum is of the real ends, wherever the header says that it goes (RFC 9293 §3.1).
    let mut sum = checksum::Accumulator::new(checksum::pseudo_header(address(1), address(2), 6, data.len() - 28));
    sum.add(&data[28..]);
    assert!(sum.is_valid());
}

//= test REF C-09
#[test]
fn packets_with_a_route_are_dropped_and_counted_by_default() {
    let mut stack = stack(Settings::default());
    listener(&mut stack);
    feed(&mut stack, &packet(OURS, 6, &PASSED, &segment(2, 100, 0)));
    assert_eq!(sent(&mut stack), Vec::<Vec<u8>>::new());
    assert_eq!(stack.counters().ip_source_route, 1);
}

//= test REF C-09
#[test]
fn a_route_that_goes_on_ends_here_and_hops_that_are_ours_are_passed() {
    let mut stack = accepting();
    listener(&mut stack);
    feed(&mut stack, &packet(OURS, 6, &[0x83, 7, 4, 10, 0, 0, 9, 0], &segment(2, 100, 0)));
    assert_eq!((sent(&mut stack).len(), stack.counters().ip_source_route), (0, 1));
    feed(&mut stack, &packet(OURS, 6, &[0x83, 7, 4, 10, 0, 0, 1, 0], &segment(2, 100, 0)));
    assert_eq!(sent(&mut stack).len(), 1);
    // The last hop is cut off: its place is told.
    feed(&mut stack, &packet(OURS, 6, &[0x83, 6, 4, 10, 0, 0, 0, 0], &segment(2, 100, 0)));
    let out = sent(&mut stack);
    let problem = out.last().unwrap();
    let at = usize::from(problem[0] & 15) * 4;
    assert_eq!((problem[at], problem[at + 4]), (12, 22));
}

//= test RFC 1122 §3.2.2.6 (SHLD-14, MUST-47)
//= test RFC 9293 §3.9.2 (MAY-10, MAY-11)
#[test]
fn an_echo_comes_back_by_the_way_that_it_came_with_route_and_time_recorded() {
    let mut stack = accepting();
    let mut echo = vec![8, 0, 0, 0, 1, 2, 0, 1];
    let sum = checksum::of(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&sum);
    feed(&mut stack, &packet(OURS, 1, &PASSED, &echo));
    let out = sent(&mut stack);
    assert_eq!((out[0][16..20].to_vec(), options_of(&out[0])), (vec![10, 0, 0, 9], &[0x83, 7, 4, 10, 0, 0, 2, 0][..]));
    feed(&mut stack, &packet(OURS, 1, &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0], &echo));
    let out = sent(&mut stack);
    assert_eq!(options_of(&out[0]), [7, 11, 12, 10, 0, 0, 1, 10, 0, 0, 1, 0]);
    stack.set_wall_clock(now(), core::time::Duration::from_secs(86_400 * 3 + 61));
    feed(&mut stack, &packet(OURS, 1, &[0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], &echo));
    let out = sent(&mut stack);
    let time = 61_000_u32.to_be_bytes();
    assert_eq!(options_of(&out[0]), [&[0x44, 12, 13, 0][..], &time, &time].concat());
}

//= test RFC 9293 §3.9.2.1 (MUST-51, MUST-52)
//= test REF C-09
#[test]
fn a_connect_goes_to_the_first_hop_of_the_route_that_the_program_gave() {
    let mut stack = accepting();
    let id = socket(&mut stack, SocketType::Stream);
    set(&mut stack, id, &[0x89, 11, 4, 10, 0, 0, 7, 10, 0, 0, 8]);
    let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80);
    assert_eq!(stack.connect(now(), id, nobody), Err(ConnectError::Invalid));
    assert_eq!(stack.connect(now(), id, at(2, 80)), Err(ConnectError::InProgress));
    let out = sent(&mut stack);
    assert_eq!(out[0][16..20], [10, 0, 0, 7]);
    assert_eq!(options_of(&out[0]), [0x89, 11, 4, 10, 0, 0, 8, 10, 0, 0, 2, 0]);
    assert_eq!(stack.peer_name(id).ok(), None);
    let shown = stack.options(id).unwrap().ip_options().undone();
    assert_eq!(shown.as_slice().get(..11), Some(&[0x89, 11, 4, 10, 0, 0, 7, 10, 0, 0, 8][..]));
}

//= test RFC 1122 §3.2.1.8 (MUST-19)
//= test RFC 1122 §3.4 (MUST-86)
//= test REF N-01
#[test]
fn a_datagram_in_fragments_has_the_options_with_the_copy_bit_in_each() {
    let mut stack = accepting();
    let id = socket(&mut stack, SocketType::Datagram);
    set(&mut stack, id, &[7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0]);
    let data = vec![1; 4_000];
    let arguments = SendArguments { to: Some(at(2, 9)), ..SendArguments::default() };
    stack.set_option(now(), id, &SetOption::MtuDiscover(0)).unwrap();
    assert_eq!(stack.send(now(), id, &mut data.as_slice(), &arguments), Ok(4_000));
    let out = sent(&mut stack);
    assert_eq!(out.len(), 3);
    assert_eq!(options_of(&out[0]), [7, 7, 8, 10, 0, 0, 1, 0x94, 4, 0, 0, 0]);
    for piece in &out[1..] {
        assert_eq!(options_of(piece), [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0]);
    }
    assert!(out.iter().all(|piece| piece.len() <= 1_500 && checksum::sum(&piece[..32]) == 0xffff));
}

//= test RFC 1122 §3.2.1.8 (MUST-20)
//= test RFC 1122 §3.4 (MUST-88)
#[test]
fn a_program_sees_the_options_and_the_largest_fragment_of_what_it_receives() {
    let mut stack = accepting();
    let id = socket(&mut stack, SocketType::Datagram);
    stack.bind(now(), id, at(1, 7)).unwrap();
    // A UDP header of 32 bytes of payload without a checksum, in two fragments.
    let mut datagram = vec![0, 9, 0, 7, 0, 40, 0, 0];
    datagram.extend_from_slice(&[5; 32]);
    let alert = [0x94, 4, 0, 0];
    let mut first = packet(OURS, 17, &alert, &datagram[..24]);
    let mut second = packet(OURS, 17, &alert, &datagram[24..]);
    for (piece, field) in [(&mut first, [0x20, 0]), (&mut second, [0, 3])] {
        piece[6..8].copy_from_slice(&field);
        piece[10..12].fill(0);
        let sum = checksum::of(&piece[..24]).to_be_bytes();
        piece[10..12].copy_from_slice(&sum);
    }
    feed(&mut stack, &second);
    feed(&mut stack, &first);
    let mut sink = Collect::new(64);
    let received = stack.receive(now(), id, &mut sink, ReceiveFlags::empty()).unwrap();
    assert_eq!((received.length, received.fragment), (32, 48));
    assert_eq!(received.options.as_slice(), alert);
    // Router alert is not for answers.
    assert!(received.return_options.is_some_and(|options| options.is_empty()));
}

//= test REF C-09
#[test]
fn a_strict_route_begins_at_a_neighbour() {
    let mut stack = accepting();
    let id = socket(&mut stack, SocketType::Datagram);
    set(&mut stack, id, &[0x89, 7, 4, 192, 0, 2, 1]);
    let arguments = SendArguments { to: Some(at(2, 9)), ..SendArguments::default() };
    assert_eq!(stack.send(now(), id, &mut &b"x"[..], &arguments), Err(SendError::NetworkUnreachable));
    let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 9);
    let arguments = SendArguments { to: Some(nobody), ..SendArguments::default() };
    assert_eq!(stack.send(now(), id, &mut &b"x"[..], &arguments), Err(SendError::Invalid));
}

//= test REF C-09
#[test]
fn options_make_segments_smaller() {
    let mut stack = accepting();
    let id = socket(&mut stack, SocketType::Stream);
    set(&mut stack, id, &[1; 40]);
    assert_eq!(stack.connect(now(), id, at(2, 80)), Err(ConnectError::InProgress));
    let out = sent(&mut stack);
    let seq = u32::from_be_bytes(out[0][64..68].try_into().unwrap());
    let port = u16::from_be_bytes(out[0][60..62].try_into().unwrap());
    let mut bytes = vec![0, 80];
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&7_u32.to_be_bytes());
    bytes.extend_from_slice(&(seq + 1).to_be_bytes());
    bytes.extend_from_slice(&[0x60, 0x12, 0x20, 0, 0, 0, 0, 0, 2, 4, 5, 180]);
    let mut sum = checksum::Accumulator::new(checksum::pseudo_header(address(2), address(1), 6, bytes.len()));
    sum.add(&bytes);
    let sum = sum.finish().to_be_bytes();
    bytes[16..18].copy_from_slice(&sum);
    feed(&mut stack, &packet(OURS, 6, &[], &bytes));
    assert_eq!(stack.option(now(), id, OptionName::MaxSegment), Ok(OptionValue::Int(1_420)));
    set(&mut stack, id, &[]);
    assert_eq!(stack.option(now(), id, OptionName::MaxSegment), Ok(OptionValue::Int(1_460)));
}
