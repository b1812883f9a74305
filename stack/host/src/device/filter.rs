//! The classic BPF program of a packet socket: ARP, and IPv4 to our addresses, to broadcast and to multicast. Copies of
//! what others on this host send through the interface pass only when they are for us, so that two stacks on one
//! interface can talk while the rest of the host's traffic stays away.

use super::LocalAddress;
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
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

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
        self.0.push(libc::sock_filter { code: JUMP_EQUAL as u16, jt: 0, jf: 1, k: value });
        self.push(RETURN, verdict);
    }

    /// Runs `section` when the accumulator equals `value`, goes on otherwise.
    fn section_if(&mut self, value: u32, section: Self) {
        let skip = section.0.len() as u8;
        self.0.push(libc::sock_filter { code: JUMP_EQUAL as u16, jt: 0, jf: skip, k: value });
        self.0.extend(section.0);
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
    section.0.push(libc::sock_filter { code: JUMP_EQUAL as u16, jt: 1, jf: 0, k: OUTGOING });
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

fn ipv4(link: u32, addresses: &[LocalAddress]) -> Program {
    let mut section = Program::default();
    section.push(LOAD_WORD, link + 16);
    section.accept_any(own(addresses));
    section.push(LOAD_WORD, PACKET_TYPE);
    section.return_if(OUTGOING, 0);
    section.push(LOAD_WORD, link + 16);
    section.return_if(u32::MAX, ACCEPT);
    section.accept_any(addresses.iter().take(MAX_ADDRESSES).filter_map(|local| local.broadcast()));
    // 224.0.0.0/4.
    section.push(AND, 0xf000_0000);
    section.return_if(0xe000_0000, ACCEPT);
    section.push(RETURN, 0);
    section
}

/// The program for these addresses.
pub(super) fn program(medium: Medium, addresses: &[LocalAddress]) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    match medium {
        Medium::Ethernet => {
            program.push(LOAD_HALF, 12);
            program.section_if(libc::ETH_P_ARP as u32, arp(14, addresses));
            program.section_if(libc::ETH_P_IP as u32, ipv4(14, addresses));
        }
        Medium::Ip => {
            program.push(LOAD_BYTE, 0);
            program.push(AND, 0xf0);
            program.section_if(0x40, ipv4(0, addresses));
        }
    }
    program.push(RETURN, 0);
    program.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Runs a program as the kernel would; `None` for a load beyond the frame, which drops it.
    fn run(program: &[libc::sock_filter], frame: &[u8], packet_type: u32) -> Option<u32> {
        let (mut at, mut accumulator) = (0usize, 0u32);
        for _ in 0..program.len() + 1 {
            let step = program[at];
            let k = step.k as usize;
            at += 1;
            match u32::from(step.code) {
                LOAD_WORD if step.k == PACKET_TYPE => accumulator = packet_type,
                LOAD_WORD => accumulator = u32::from_be_bytes(*frame.get(k..)?.first_chunk()?),
                LOAD_HALF => accumulator = u32::from(u16::from_be_bytes(*frame.get(k..)?.first_chunk()?)),
                LOAD_BYTE => accumulator = u32::from(*frame.get(k)?),
                AND => accumulator &= step.k,
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

    fn addresses() -> Vec<LocalAddress> {
        let local = |last, prefix| LocalAddress { address: Ipv4Addr::new(10, 7, 0, last), prefix };
        vec![local(5, 24), local(9, 32)]
    }

    #[test]
    fn filter_passes_what_is_ours_and_nothing_else() {
        let program = program(Medium::Ethernet, &addresses());
        let passes = |frame: &[u8], kind| run(&program, frame, kind).is_some_and(|verdict| verdict != 0);
        for kind in [HOST, OTHER, OUTGOING] {
            assert!(passes(&ip_to([10, 7, 0, 5]), kind));
            assert!(passes(&ip_to([10, 7, 0, 9]), kind));
            assert!(!passes(&ip_to([10, 7, 0, 6]), kind));
        }
        for shared in [[10, 7, 0, 255], [255; 4], [224, 0, 0, 251], [239, 1, 2, 3]] {
            assert!(passes(&ip_to(shared), HOST));
            assert!(!passes(&ip_to(shared), OUTGOING));
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
    fn bare_ip_has_no_link_header() {
        let program = program(Medium::Ip, &addresses());
        assert_eq!(run(&program, &ip_to([10, 7, 0, 5])[14..], HOST), Some(ACCEPT));
        assert_eq!(run(&program, &ip_to([10, 7, 0, 6])[14..], HOST), Some(0));
        assert_eq!(run(&program, &[0x60; 40], HOST), Some(0));
    }

    #[test]
    fn jumps_reach_with_as_many_addresses_as_there_may_be() {
        let many: Vec<LocalAddress> =
            (0..40).map(|last| LocalAddress { address: Ipv4Addr::new(10, 7, last, 1), prefix: 24 }).collect();
        let program = program(Medium::Ethernet, &many);
        assert_eq!(run(&program, &ip_to([10, 7, 31, 1]), HOST), Some(ACCEPT));
        assert_eq!(run(&program, &ip_to([10, 7, 31, 255]), HOST), Some(ACCEPT));
        assert_eq!(run(&program, &ip_to([10, 7, 32, 1]), HOST), Some(0));
        assert_eq!(run(&program, &arp_about([10, 7, 31, 1], [1; 4]), OUTGOING), Some(ACCEPT));
    }
}
