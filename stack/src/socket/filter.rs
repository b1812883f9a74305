//! Classic BPF programs on sockets (SO_ATTACH_FILTER; `net/core/filter.c`): what is a program (`bpf_check_classic`), and
//! what it says of a packet (`bpf_prog_run`): how many bytes of it the socket gets. Programs of eBPF are the kernel's.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ip::{AddressKind, PacketInfo};

/// BPF_MAXINSNS.
pub const LONGEST: usize = 4_096;
/// BPF_MEMWORDS.
const WORDS: usize = 16;
/// Offsets from here on are not into the packet: SKF_AD_OFF, SKF_NET_OFF, SKF_LL_OFF.
const ANCILLARY: i64 = -0x1000;
const NETWORK: i64 = -0x10_0000;
const LINK: i64 = -0x20_0000;
/// ETH_P_IP, ARPHRD_ETHER.
const PROTOCOL_IP: u32 = 0x0800;
const HARDWARE_ETHERNET: u32 = 1;

/// One instruction, as Linux's `struct sock_filter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How far to jump if so.
    pub jump_true: u8,
    /// How far to jump if not.
    pub jump_false: u8,
    /// The constant.
    pub k: u32,
}

/// A program that was found to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// A packet as a program sees it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// From the header that the socket's protocol begins with.
    pub data: &'a [u8],
    /// The IP header; its identification and fragment fields may be zero where they are known no more.
    pub network: &'a [u8],
    /// PACKET_HOST, PACKET_BROADCAST or PACKET_MULTICAST.
    pub packet_type: u32,
    /// Where the payload begins in `data`.
    pub payload: usize,
}

impl<'a> View<'a> {
    /// A transport's segment or datagram; `header` gets the IP header that it came with.
    #[must_use]
    pub fn transport(
        info: &PacketInfo,
        protocol: u8,
        data: &'a [u8],
        payload: usize,
        header: &'a mut [u8; 20],
    ) -> Self {
        let length = u16::try_from(data.len() + header.len()).unwrap_or(u16::MAX).to_be_bytes();
        *header = [0x45, info.tos, 0, 0, 0, 0, 0x40, 0, info.ttl, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let addresses = [info.source, info.destination].into_iter().flat_map(|address| match address {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => [0; 4],
        });
        header.iter_mut().skip(2).zip(length).for_each(|(to, from)| *to = from);
        header.iter_mut().skip(12).zip(addresses).for_each(|(to, from)| *to = from);
        Self { data, network: header, packet_type: packet_type(info.kind), payload }
    }
}

/// How the packet was addressed, as AF_PACKET numbers it.
#[must_use]
pub const fn packet_type(kind: AddressKind) -> u32 {
    match kind {
        AddressKind::Broadcast => 1,
        AddressKind::Multicast => 2,
        _ => 0,
    }
}

/// The operations that there are (`codes` in `chk_code_allowed`).
const fn is_operation(code: u16) -> bool {
    let (class, low) = (code & 7, code & 0xf8);
    match class {
        // LD: W, H, B of ABS and IND; IMM, LEN and MEM of words.
        0 => matches!(low, 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0x00 | 0x80 | 0x60) && code < 0x100,
        // LDX: IMM, LEN, MEM, and MSH of a byte.
        1 => matches!(low, 0x00 | 0x80 | 0x60 | 0xb0) && code < 0x100,
        2 | 3 => low == 0 && code < 0x100,
        // ALU with K or X; NEG.
        4 => (low & 0xf0 <= 0x70 || low & 0xf0 == 0x90 || low & 0xf0 == 0xa0 || low == 0x80) && code < 0x100,
        // JA; JEQ, JGT, JGE, JSET with K or X.
        5 => (low == 0 || (low & 0xf0 >= 0x10 && low & 0xf0 <= 0x40)) && code < 0x100,
        // RET of K or A.
        6 => matches!(low, 0x00 | 0x10) && code < 0x100,
        // TAX, TXA.
        _ => matches!(low, 0x00 | 0x80) && code < 0x100,
    }
}

/// The ancillary loads that there are (SKF_AD_PROTOCOL to SKF_AD_VLAN_TPID).
const fn is_ancillary(offset: i64) -> bool {
    offset >= 0 && offset <= 60 && offset % 4 == 0
}

fn signed(k: u32) -> i64 {
    i64::from(k.cast_signed())
}

impl Program {
    /// Judges a program (`bpf_check_basics_ok`, `bpf_check_classic`); `None` for what is none.
    #[must_use]
    pub fn new(instructions: &[Instruction]) -> Option<Self> {
        let count = instructions.len();
        if count == 0 || count > LONGEST {
            return None;
        }
        for (at, one) in instructions.iter().enumerate() {
            if !is_operation(one.code) {
                return None;
            }
            let after = count - at - 1;
            let good = match one.code {
                // Division by a constant of 0; shifts of all bits and more.
                0x34 | 0x94 => one.k != 0,
                0x64 | 0x74 => one.k < 32,
                // Memory words.
                0x60 | 0x61 | 0x02 | 0x03 => usize::try_from(one.k).is_ok_and(|word| word < WORDS),
                0x05 => usize::try_from(one.k).is_ok_and(|steps| steps < after),
                code if code & 7 == 5 => usize::from(one.jump_true.max(one.jump_false)) < after,
                0x20 | 0x28 | 0x30 => {
                    signed(one.k) < ANCILLARY || signed(one.k) >= 0 || is_ancillary(signed(one.k) - ANCILLARY)
                }
                _ => true,
            };
            if !good {
                return None;
            }
        }
        let ends = instructions.last().is_some_and(|last| matches!(last.code, 0x06 | 0x16));
        (ends && loads_what_was_stored(instructions)).then(|| Self(instructions.to_vec()))
    }

    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// How many bytes of the packet are wanted; 0 drops it. A load outside the packet drops it, too.
    #[must_use]
    pub fn run(&self, view: &View<'_>) -> u32 {
        self.execute(view).unwrap_or(0)
    }

    fn execute(&self, view: &View<'_>) -> Option<u32> {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; WORDS], 0_usize);
        // Jumps lead forward only, so that the loop ends with the program.
        loop {
            let one = self.0.get(at)?;
            at += 1;
            let word = usize::try_from(one.k).unwrap_or(usize::MAX);
            match one.code {
                0x00 => a = one.k,
                0x01 => x = one.k,
                0x80 => a = u32::try_from(view.data.len()).unwrap_or(u32::MAX),
                0x81 => x = u32::try_from(view.data.len()).unwrap_or(u32::MAX),
                0x60 => a = *memory.get(word)?,
                0x61 => x = *memory.get(word)?,
                0x02 => *memory.get_mut(word)? = a,
                0x03 => *memory.get_mut(word)? = x,
                0x20 | 0x28 | 0x30 => a = load(view, signed(one.k), size_of_load(one.code), (a, x))?,
                0x40 | 0x48 | 0x50 => {
                    let offset = signed(one.k.wrapping_add(x));
                    // What is known of the packet has no computed place.
                    if (ANCILLARY..0).contains(&offset) {
                        return None;
                    }
                    a = load(view, offset, size_of_load(one.code), (a, x))?;
                }
                0xb1 => x = (load(view, signed(one.k), 1, (a, x))? & 0xf) << 2,
                0x07 => x = a,
                0x87 => a = x,
                0x06 => return Some(one.k),
                0x16 => return Some(a),
                0x05 => at += word,
                code if code & 7 == 5 => {
                    let operand = if code & 8 == 0 { one.k } else { x };
                    let holds = match code & 0xf0 {
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        _ => a & operand != 0,
                    };
                    at += usize::from(if holds { one.jump_true } else { one.jump_false });
                }
                code => a = calculate(code, a, if code & 8 == 0 { one.k } else { x })?,
            }
        }
    }
}

const fn size_of_load(code: u16) -> usize {
    match code & 0x18 {
        0x08 => 2,
        0x10 => 1,
        _ => 4,
    }
}

/// Arithmetic; `None` for a division by zero, which ends the program with 0.
const fn calculate(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & 0xf0 {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => match a.checked_div(operand) {
            Some(value) => value,
            None => return None,
        },
        0x40 => a | operand,
        0x50 => a & operand,
        // eBPF's 32-bit shifts, which these become, look at five bits.
        0x60 => a.wrapping_shl(operand),
        0x70 => a.wrapping_shr(operand),
        0x80 => a.wrapping_neg(),
        0x90 => match a.checked_rem(operand) {
            Some(value) => value,
            None => return None,
        },
        _ => a ^ operand,
    })
}

/// A load from the packet, its IP header, or what is known of it.
fn load(view: &View<'_>, offset: i64, size: usize, (a, x): (u32, u32)) -> Option<u32> {
    let (bytes, at) = match offset {
        0.. => (view.data, offset),
        ANCILLARY..0 => return ancillary(view, offset - ANCILLARY, (a, x)),
        NETWORK..ANCILLARY => (view.network, offset - NETWORK),
        // The link's header is gone.
        LINK.. => return None,
        _ => return None,
    };
    let at = usize::try_from(at).ok()?;
    // Beyond the IP header lies the rest of the packet.
    if bytes.len() == view.network.len() && at >= bytes.len() && offset < 0 {
        return load(view, i64::try_from(at - bytes.len()).ok()?, size, (a, x));
    }
    let part = bytes.get(at..at.checked_add(size)?)?;
    Some(part.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

fn ancillary(view: &View<'_>, which: i64, (a, x): (u32, u32)) -> Option<u32> {
    Some(match which {
        0 => PROTOCOL_IP,
        4 => view.packet_type,
        28 => HARDWARE_ETHERNET,
        40 => a ^ x,
        52 => u32::try_from(view.payload).unwrap_or(u32::MAX),
        // Netlink attributes, mark, queue, hash, processor, VLAN: none.
        which if is_ancillary(which) => 0,
        _ => return None,
    })
}

/// Whether every memory word is written on all ways to where it is read (`check_load_and_stores`).
fn loads_what_was_stored(instructions: &[Instruction]) -> bool {
    // Words written on all ways that lead here by a jump.
    let mut arriving = alloc::vec![u16::MAX; instructions.len()];
    let mut written = 0_u16;
    for (at, one) in instructions.iter().enumerate() {
        written &= arriving.get(at).copied().unwrap_or(0);
        let bit = 1_u16.checked_shl(one.k).unwrap_or(0);
        let mut jump = |steps: usize| {
            if let Some(place) = arriving.get_mut(at + 1 + steps) {
                *place &= written;
            }
        };
        match one.code {
            0x02 | 0x03 => written |= bit,
            0x60 | 0x61 if written & bit == 0 => return false,
            0x05 => {
                jump(usize::try_from(one.k).unwrap_or(usize::MAX));
                written = u16::MAX;
            }
            code if code & 7 == 5 => {
                jump(usize::from(one.jump_true));
                jump(usize::from(one.jump_false));
                written = u16::MAX;
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(lines: &[(u16, u8, u8, u32)]) -> Option<Program> {
        let instructions: Vec<Instruction> = lines
            .iter()
            .map(|&(code, jump_true, jump_false, k)| Instruction { code, jump_true, jump_false, k })
            .collect();
        Program::new(&instructions)
    }

    fn view(data: &[u8]) -> View<'_> {
        View { data, network: &[0x45, 0, 0, 24], packet_type: 0, payload: 2 }
    }

    #[test]
    //= test REF D-06
    fn what_is_no_program_is_refused() {
        for lines in [
            &[][..],
            // No RET at the end; an unknown operation; a jump too far; a division by 0; a shift by 32.
            &[(0x00, 0, 0, 1)],
            &[(0xff, 0, 0, 1), (0x06, 0, 0, 1)],
            &[(0x05, 0, 0, 1), (0x06, 0, 0, 1)],
            &[(0x15, 1, 0, 0), (0x06, 0, 0, 1)],
            &[(0x34, 0, 0, 0), (0x06, 0, 0, 1)],
            &[(0x64, 0, 0, 32), (0x06, 0, 0, 1)],
            // A word of memory that nobody wrote, or one way only did; one that is not there.
            &[(0x60, 0, 0, 0), (0x16, 0, 0, 0)],
            &[(0x15, 0, 1, 0), (0x02, 0, 0, 3), (0x60, 0, 0, 3), (0x16, 0, 0, 0)],
            &[(0x02, 0, 0, 16), (0x06, 0, 0, 1)],
            // SKF_AD_OFF + 1 and + 64.
            &[(0x20, 0, 0, 0xffff_f001), (0x06, 0, 0, 1)],
            &[(0x20, 0, 0, 0xffff_f040), (0x06, 0, 0, 1)],
        ] {
            assert_eq!(program(lines), None, "{lines:?}");
        }
        assert!(program(&[(0x02, 0, 0, 3), (0x60, 0, 0, 3), (0x16, 0, 0, 0)]).is_some());
    }

    #[test]
    //= test REF D-06
    fn programs_load_compare_and_calculate() {
        // ldh [2]; jeq 0x1234 ? ret 100 : ret 0
        let equals = program(&[(0x28, 0, 0, 2), (0x15, 0, 1, 0x1234), (0x06, 0, 0, 100), (0x06, 0, 0, 0)]).unwrap();
        assert_eq!(equals.run(&view(&[0, 0, 0x12, 0x34])), 100);
        assert_eq!(equals.run(&view(&[0, 0, 0x12, 0x35])), 0);
        // What lies outside the packet drops it.
        assert_eq!(equals.run(&view(&[0, 0, 0x12])), 0);
        // ldx 4*([0]&0xf); ldb [x + 0]; add 5; ret A
        let indexed = program(&[(0xb1, 0, 0, 0), (0x50, 0, 0, 0), (0x04, 0, 0, 5), (0x16, 0, 0, 0)]).unwrap();
        assert_eq!(indexed.run(&view(&[0x41, 0, 0, 0, 7])), 12);
        // A division by X = 0.
        let divides = program(&[(0x3c, 0, 0, 0), (0x06, 0, 0, 1)]).unwrap();
        assert_eq!(divides.run(&view(&[])), 0);
        // ld len; ret A
        assert_eq!(program(&[(0x80, 0, 0, 0), (0x16, 0, 0, 0)]).unwrap().run(&view(&[1, 2, 3])), 3);
    }

    #[test]
    //= test REF D-06
    fn ip_header_and_what_is_known_of_the_packet_can_be_loaded() {
        let net = |offset: u32| program(&[(0x30, 0, 0, 0xfff0_0000 + offset), (0x16, 0, 0, 0)]).unwrap();
        assert_eq!(net(0).run(&view(&[9, 8])), 0x45);
        assert_eq!(net(5).run(&view(&[9, 8])), 8);
        assert_eq!(net(6).run(&view(&[9, 8])), 0);
        let known = |which: u32| program(&[(0x20, 0, 0, 0xffff_f000 + which), (0x16, 0, 0, 0)]).unwrap();
        assert_eq!(known(0).run(&view(&[])), 0x800);
        assert_eq!(known(52).run(&view(&[])), 2);
    }
}
