//! The classic BPF program of a packet socket: ARP, and IPv4 to our addresses, to broadcast and to multicast. Copies of
//! what others on this host send through the interface pass only when they are for us or for all, so that two stacks on
//! one interface can talk while the rest of the host's traffic stays away. Stacks that share an address each take in their
//! own ports only, all of them ICMP and fragments, which name no port, and one of them the rest.

use super::{LocalAddress, Ports, Scope};
use remora_stack::frame::Medium;

/// Room in the filter; addresses beyond it would need far jumps, and nobody has them on one interface.
pub(super) const MAX_ADDRESSES: usize = 32;

/// The whole frame.
const ACCEPT: u32 = u32::MAX;
/// skb->pkt_type (SKF_AD_OFF + SKF_AD_PKTTYPE).
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
/// A copy of a frame on its way out.
const OUTGOING: u32 = libc::PACKET_OUTGOING as u32;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF_INDEXED: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_LENGTH: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
/// Four times the low half of a byte: an IPv4 header's length.
const LOAD_HEADER_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_ABOVE: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const JUMP_FROM: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_ANY: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// More-fragments flag and fragment offset.
const FRAGMENT: u32 = 0x3fff;

/// A link header with a tag, and what checks the frame behind the packet.
const LINK_ROOM: u32 = 64;

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// A program under construction.
#[derive(Default)]
struct Program(Vec<libc::sock_filter>);

impl Program {
    fn push(&mut self, code: u32, k: u32) {
        self.0.push(instruction(code, k));
    }

    /// Returns `verdict` when the accumulator equals `value`, goes on otherwise.
    fn return_if(&mut self, value: u32, verdict: u32) {
        self.jump(JUMP_EQUAL, value, 0, 1);
        self.push(RETURN, verdict);
    }

    fn jump(&mut self, code: u32, k: u32, yes: u8, no: u8) {
        self.0.push(libc::sock_filter { code: code as u16, jt: yes, jf: no, k });
    }

    /// Runs `section` when the accumulator equals one of `values`, goes on otherwise.
    fn section_if_any(&mut self, values: &[u32], section: Self) {
        for (step, value) in values.iter().enumerate() {
            self.jump(JUMP_EQUAL, *value, (values.len() - step) as u8, 0);
        }
        // Far jumps have no condition.
        self.push(JUMP, section.0.len() as u32);
        self.0.extend(section.0);
    }

    /// Runs `section` when the accumulator equals `value`, goes on otherwise.
    fn section_if(&mut self, value: u32, section: Self) {
        self.section_if_any(&[value], section);
    }

    /// Accepts when the accumulator is within the bounds, goes on otherwise.
    fn accept_between(&mut self, first: u16, last: u16) {
        self.jump(JUMP_FROM, first.into(), 0, 2);
        self.jump(JUMP_ABOVE, last.into(), 1, 0);
        self.push(RETURN, ACCEPT);
    }

    fn accept_any(&mut self, addresses: impl Iterator<Item = std::net::Ipv4Addr>) {
        for address in addresses {
            self.return_if(address.to_bits(), ACCEPT);
        }
    }
}

fn own(addresses: &[LocalAddress]) -> impl Iterator<Item = std::net::Ipv4Addr> {
    addresses.iter().take(MAX_ADDRESSES).map(|local| local.address)
}

fn arp(link: u32, addresses: &[LocalAddress]) -> Program {
    let mut section = Program::default();
    // From the wire: all of it.
    section.push(LOAD_WORD, PACKET_TYPE);
    section.jump(JUMP_EQUAL, OUTGOING, 1, 0);
    section.push(RETURN, ACCEPT);
    // From a neighbour on this host. One that speaks for our own address is another family on that address, which is
    // no conflict (RFC 5227 is about strangers); others may ask for us.
    section.push(LOAD_WORD, link + 14);
    for address in own(addresses) {
        section.return_if(address.to_bits(), 0);
    }
    section.push(LOAD_WORD, link + 24);
    section.accept_any(own(addresses));
    section.push(RETURN, 0);
    section
}

/// TCP, UDP or UDP-Lite to one of our addresses: the ports that are ours, and what else is small if `others`.
fn transport(link: u32, mtu: u16, protocol: u8, ports: &Ports) -> Program {
    let mut section = Program::default();
    let Ports::Only { ranges, singles, others } = ports else { return section };
    section.push(LOAD_HEADER_LENGTH, link);
    // The destination port stands behind the source port.
    section.push(LOAD_HALF_INDEXED, link + 2);
    for (first, last) in ranges {
        section.accept_between(*first, *last);
    }
    for (_, port) in singles.iter().filter(|(of, _)| *of == protocol) {
        section.return_if(u32::from(*port), ACCEPT);
    }
    if *others {
        section.push(LOAD_LENGTH, 0);
        section.jump(JUMP_ABOVE, u32::from(mtu) + LINK_ROOM, 1, 0);
        section.push(RETURN, ACCEPT);
    }
    section.push(RETURN, 0);
    section
}

/// IPv4 to one of our addresses.
fn to_us(link: u32, mtu: u16, ports: &Ports) -> Program {
    let mut section = Program::default();
    if let Ports::Only { others, .. } = ports {
        section.push(LOAD_HALF, link + 6);
        section.jump(JUMP_ANY, FRAGMENT, 0, 1);
        section.push(RETURN, ACCEPT);
        section.push(LOAD_BYTE, link + 9);
        section.return_if(libc::IPPROTO_ICMP as u32, ACCEPT);
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE] {
            section.section_if(protocol as u32, transport(link, mtu, protocol as u8, ports));
        }
        section.push(RETURN, if *others { ACCEPT } else { 0 });
    } else {
        section.push(RETURN, ACCEPT);
    }
    section
}

fn ipv4(link: u32, mtu: u16, Scope { addresses, ports }: &Scope) -> Program {
    let mut section = Program::default();
    section.push(LOAD_WORD, link + 16);
    let ours: Vec<u32> = own(addresses).map(std::net::Ipv4Addr::to_bits).collect();
    section.section_if_any(&ours, to_us(link, mtu, ports));
    // Of what goes out to a group or to everybody, we hear what others on this host send. Families with our address
    // have a way of their own (`siblings`), which IP_MULTICAST_LOOP shuts.
    let mut outgoing = Program::default();
    outgoing.push(LOAD_WORD, link + 12);
    for address in own(addresses) {
        outgoing.return_if(address.to_bits(), 0);
    }
    section.push(LOAD_WORD, PACKET_TYPE);
    section.section_if(OUTGOING, outgoing);
    section.push(LOAD_WORD, link + 16);
    section.return_if(u32::MAX, ACCEPT);
    section.accept_any(addresses.iter().take(MAX_ADDRESSES).filter_map(|local| local.broadcast()));
    // 224.0.0.0/4.
    section.push(AND, 0xf000_0000);
    section.return_if(0xe000_0000, ACCEPT);
    section.push(RETURN, 0);
    section
}

/// The program for what is the stack's, on a link with this MTU.
pub(super) fn program(medium: Medium, mtu: u16, scope: &Scope) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    match medium {
        Medium::Ethernet => {
            program.push(LOAD_HALF, 12);
            program.section_if(libc::ETH_P_ARP as u32, arp(14, &scope.addresses));
            program.section_if(libc::ETH_P_IP as u32, ipv4(14, mtu, scope));
        }
        Medium::Ip => {
            program.push(LOAD_BYTE, 0);
            program.push(AND, 0xf0);
            program.section_if(0x40, ipv4(0, mtu, scope));
        }
    }
    program.push(RETURN, 0);
    program.0
}

/// The program for packets of other families with our address, in frames to `station`, and not from us. They name no link of ours, and
/// no other stack answers for what nobody has: `others` means nothing here.
pub(super) fn siblings(station: [u8; 6], sender: [u8; 4], ports: &Ports) -> Vec<libc::sock_filter> {
    let [a, b, c, d, e, f] = station;
    let mut section = Program::default();
    section.push(LOAD_HALF, 4);
    let ports = match ports {
        Ports::All => Ports::All,
        Ports::Only { ranges, singles, .. } => {
            Ports::Only { ranges: ranges.clone(), singles: singles.clone(), others: false }
        }
    };
    section.section_if(u32::from(u16::from_be_bytes([e, f])), to_us(14, u16::MAX, &ports));
    let mut program = Program::default();
    program.push(LOAD_WORD, 6);
    program.return_if(u32::from_be_bytes(sender), 0);
    program.push(LOAD_WORD, 0);
    program.section_if(u32::from_be_bytes([a, b, c, d]), section);
    program.push(RETURN, 0);
    program.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Runs a program as the kernel would; `None` for a load beyond the frame, which drops it.
    fn run(program: &[libc::sock_filter], frame: &[u8], packet_type: u32) -> Option<u32> {
        run_with_length(program, frame, packet_type, frame.len() as u32)
    }

    fn run_with_length(program: &[libc::sock_filter], frame: &[u8], packet_type: u32, length: u32) -> Option<u32> {
        let (mut at, mut accumulator, mut index) = (0usize, 0u32, 0usize);
        for _ in 0..program.len() + 1 {
            let step = program[at];
            let k = step.k as usize;
            at += 1;
            match u32::from(step.code) {
                LOAD_WORD if step.k == PACKET_TYPE => accumulator = packet_type,
                LOAD_WORD => accumulator = u32::from_be_bytes(*frame.get(k..)?.first_chunk()?),
                LOAD_HALF => accumulator = u32::from(u16::from_be_bytes(*frame.get(k..)?.first_chunk()?)),
                LOAD_BYTE => accumulator = u32::from(*frame.get(k)?),
                LOAD_HALF_INDEXED => {
                    accumulator = u32::from(u16::from_be_bytes(*frame.get(index + k..)?.first_chunk()?));
                }
                LOAD_LENGTH => accumulator = length,
                LOAD_HEADER_LENGTH => index = usize::from(*frame.get(k)? & 15) * 4,
                AND => accumulator &= step.k,
                JUMP => at += k,
                JUMP_ABOVE => at += usize::from(if accumulator > step.k { step.jt } else { step.jf }),
                JUMP_FROM => at += usize::from(if accumulator >= step.k { step.jt } else { step.jf }),
                JUMP_ANY => at += usize::from(if accumulator & step.k != 0 { step.jt } else { step.jf }),
                JUMP_EQUAL => at += usize::from(if accumulator == step.k { step.jt } else { step.jf }),
                RETURN => return Some(step.k),
                other => panic!("instruction {other}"),
            }
        }
        panic!("no end");
    }

    const HOST: u32 = libc::PACKET_HOST as u32;
    const OTHER: u32 = libc::PACKET_OTHERHOST as u32;

    fn ip_to(target: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0u8; 34];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[30..34].copy_from_slice(&target);
        frame
    }

    fn arp_about(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0u8; 42];
        frame[12..14].copy_from_slice(&[8, 6]);
        frame[28..32].copy_from_slice(&sender);
        frame[38..42].copy_from_slice(&target);
        frame
    }

    fn addresses() -> Scope {
        let local = |last, prefix| LocalAddress { address: Ipv4Addr::new(10, 7, 0, last), prefix };
        Scope::of(&[local(5, 24), local(9, 32)])
    }

    /// A packet of a protocol to one of our ports, behind `options` words of IP options.
    fn to_port(protocol: i32, port: u16, options: u8) -> Vec<u8> {
        let mut frame = ip_to([10, 7, 0, 9]);
        frame[14] += options;
        frame[23] = protocol as u8;
        frame.resize(frame.len() + usize::from(options) * 4 + 20, 0);
        let at = 34 + usize::from(options) * 4;
        frame[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
        frame
    }

    #[test]
    fn of_a_shared_address_only_the_ports_pass_that_are_ours() {
        let (tcp, udp, icmp, other) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_GRE);
        for others in [false, true] {
            let mut scope = addresses();
            let ranges = vec![(32_768, 33_023), (40_000, 65_535)];
            scope.ports = Ports::Only { ranges, singles: vec![(tcp as u8, 80), (udp as u8, 53)], others };
            let program = program(Medium::Ethernet, 1500, &scope);
            let passes = |frame: &[u8]| run(&program, frame, HOST).is_some_and(|verdict| verdict != 0);
            for options in [0, 1, 10] {
                for (protocol, port) in [(tcp, 80), (udp, 53), (tcp, 32_768), (udp, 33_023), (tcp, 65_535)] {
                    assert!(passes(&to_port(protocol, port, options)), "{protocol} {port}");
                }
                for (protocol, port) in [(udp, 80), (tcp, 53), (tcp, 32_767), (udp, 33_024), (tcp, 39_999), (tcp, 0)] {
                    assert_eq!(passes(&to_port(protocol, port, options)), others, "{protocol} {port}");
                }
            }
            assert!(passes(&to_port(icmp, 81, 0)));
            assert_eq!(passes(&to_port(other, 81, 0)), others);
            // Fragments: more to come, or not the first.
            for fragment in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
                let mut frame = to_port(tcp, 81, 0);
                frame[20..22].copy_from_slice(&fragment);
                assert!(passes(&frame));
            }
            let mut whole = to_port(tcp, 81, 0);
            whole[20] = 0x40;
            assert_eq!(passes(&whole), others, "don't fragment");
            // A super-frame to a port of another.
            let verdict = |port| run_with_length(&program, &to_port(tcp, port, 0), HOST, 9_000);
            assert_eq!((verdict(81), verdict(80)), (Some(0), Some(ACCEPT)));
            // Without its ports it is nobody's; not for us at all.
            assert!(!passes(&to_port(tcp, 80, 0)[..36]));
            assert!(!passes(&ip_to([10, 7, 0, 6])));
            assert!(passes(&ip_to([10, 7, 0, 255])) && passes(&arp_about([10, 7, 0, 1], [10, 7, 0, 77])));
        }
    }

    #[test]
    fn filter_passes_what_is_ours_and_nothing_else() {
        let program = program(Medium::Ethernet, 1500, &addresses());
        let passes = |frame: &[u8], kind| run(&program, frame, kind).is_some_and(|verdict| verdict != 0);
        for kind in [HOST, OTHER, OUTGOING] {
            assert!(passes(&ip_to([10, 7, 0, 5]), kind));
            assert!(passes(&ip_to([10, 7, 0, 9]), kind));
            assert!(!passes(&ip_to([10, 7, 0, 6]), kind));
        }
        for shared in [[10, 7, 0, 255], [255; 4], [224, 0, 0, 251], [239, 1, 2, 3]] {
            assert!(passes(&ip_to(shared), HOST));
            assert!(passes(&ip_to(shared), OUTGOING), "from another address of this host");
            let mut own = ip_to(shared);
            own[26..30].copy_from_slice(&[10, 7, 0, 9]);
            assert!(!passes(&own, OUTGOING));
        }
        assert!(!passes(&ip_to([240, 0, 0, 1]), HOST));
        assert!(passes(&arp_about([10, 7, 0, 1], [10, 7, 0, 77]), HOST));
        assert!(!passes(&arp_about([10, 7, 0, 1], [10, 7, 0, 77]), OUTGOING));
        assert!(passes(&arp_about([10, 7, 0, 1], [10, 7, 0, 5]), OUTGOING));
        assert!(!passes(&arp_about([10, 7, 0, 5], [10, 7, 0, 5]), OUTGOING));
        assert!(!passes(&arp_about([10, 7, 0, 5], [10, 7, 0, 9]), OUTGOING));
        let mut ipv6 = ip_to([10, 7, 0, 5]);
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert!(!passes(&ipv6, HOST));
        assert!(!passes(&ip_to([10, 7, 0, 5])[..20], HOST));
    }

    #[test]
    fn of_what_siblings_send_only_our_station_and_ports_pass() {
        let (tcp, udp, icmp) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP);
        let ports = Ports::Only { ranges: vec![(32_768, 33_023)], singles: vec![(tcp as u8, 80)], others: true };
        let program = siblings([2, 1, 2, 3, 4, 5], [2, 7, 7, 7], &ports);
        let passes = |station: [u8; 6], protocol, port| {
            let mut frame = to_port(protocol, port, 0);
            frame[..6].copy_from_slice(&station);
            run(&program, &frame, OTHER).is_some_and(|verdict| verdict != 0)
        };
        for (protocol, port, wanted) in
            [(tcp, 80, true), (udp, 80, false), (udp, 32_768, true), (tcp, 33_024, false), (icmp, 7, true)]
        {
            assert_eq!(passes([2, 1, 2, 3, 4, 5], protocol, port), wanted, "{protocol} {port}");
            let mut own = to_port(protocol, port, 0);
            own[..10].copy_from_slice(&[2, 1, 2, 3, 4, 5, 2, 7, 7, 7]);
            assert_eq!(run(&program, &own, OTHER), Some(0), "our own");
            assert!(!passes([2, 1, 2, 3, 4, 6], protocol, port) && !passes([6, 1, 2, 3, 4, 5], protocol, port));
        }
    }

    #[test]
    fn bare_ip_has_no_link_header() {
        let program = program(Medium::Ip, 1500, &addresses());
        assert_eq!(run(&program, &ip_to([10, 7, 0, 5])[14..], HOST), Some(ACCEPT));
        assert_eq!(run(&program, &ip_to([10, 7, 0, 6])[14..], HOST), Some(0));
        assert_eq!(run(&program, &[0x60; 40], HOST), Some(0));
    }

    #[test]
    fn jumps_reach_with_as_many_addresses_as_there_may_be() {
        let many: Vec<LocalAddress> =
            (0..40).map(|last| LocalAddress { address: Ipv4Addr::new(10, 7, last, 1), prefix: 24 }).collect();
        let program = program(Medium::Ethernet, 1500, &Scope::of(&many));
        assert_eq!(run(&program, &ip_to([10, 7, 31, 1]), HOST), Some(ACCEPT));
        assert_eq!(run(&program, &ip_to([10, 7, 31, 255]), HOST), Some(ACCEPT));
        assert_eq!(run(&program, &ip_to([10, 7, 32, 1]), HOST), Some(0));
        assert_eq!(run(&program, &arp_about([1; 4], [10, 7, 31, 1]), OUTGOING), Some(ACCEPT));
    }
}
