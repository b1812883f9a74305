//! What a seccomp filter says to system calls: the classic BPF program that a process is about to enter is run here, on
//! what the kernel would hand it (`struct seccomp_data`), before the kernel does.

use super::User;

/// Most instructions of a filter (BPF_MAXINSNS).
const MOST_INSTRUCTIONS: usize = 4096;
/// Words of the scratch memory (BPF_MEMWORDS).
const MEMORY: usize = 16;

/// SECCOMP_RET_ALLOW and SECCOMP_RET_LOG: the call goes through.
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
/// SECCOMP_RET_ACTION_FULL.
const ACTION: u32 = 0xffff_0000;

/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// One instruction (struct sock_filter): code, jumps, constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    constant: u32,
}

impl Instruction {
    const fn unpack(word: u64) -> Self {
        Self {
            code: word as u16,
            jump_true: (word >> 16) as u8,
            jump_false: (word >> 24) as u8,
            constant: (word >> 32) as u32,
        }
    }
}

/// Whether the filter at `program` (struct sock_fprog) lets all of these calls pass, as far as it can be told without
/// their arguments. One that cannot be read, or that the kernel will refuse, does not matter: it is not entered.
pub(crate) fn allows_all(program: usize, numbers: &[i64]) -> bool {
    // SAFETY: the program passed the address for the kernel to read a struct sock_fprog there: a length and a pointer.
    let head = unsafe { User::<u64>::new(program) };
    let (Ok(length), Ok(at)) = (head.read(), head.byte_add(size_of::<u64>()).read()) else { return true };
    let length = usize::from(length as u16);
    if length == 0 || length > MOST_INSTRUCTIONS {
        return true;
    }
    // SAFETY: the pointer stands in the structure that the program passed for this use.
    let code = unsafe { User::<u64>::new(at as usize) };
    let Ok(words) = code.read_many(length) else { return true };
    let instructions: Vec<Instruction> = words.iter().map(|word| Instruction::unpack(*word)).collect();
    numbers.iter().all(|number| {
        let action = run(&instructions, *number as u32).map(|result| result & ACTION);
        matches!(action, Some(ALLOW | LOG))
    })
}

/// What the filter answers to a call with all arguments zero; `None` for a program that the kernel would refuse.
fn run(instructions: &[Instruction], number: u32) -> Option<u32> {
    let load = |offset: u32| match offset {
        0 => Some(number),
        4 => Some(ARCHITECTURE),
        // Instruction pointer and arguments.
        8..=60 if offset.is_multiple_of(4) => Some(0),
        _ => None,
    };
    let (mut a, mut x) = (0u32, 0u32);
    let mut memory = [0u32; MEMORY];
    let mut at = 0usize;
    // Jumps go forward only, so each instruction runs once at most.
    for _ in 0..instructions.len() {
        let Instruction { code, jump_true, jump_false, constant } = *instructions.get(at)?;
        at += 1;
        let operand = if code & 0x08 == 0 { constant } else { x };
        match code & 0x07 {
            // BPF_LD, BPF_LDX: absolute, immediate, memory, length of the data.
            0x00 | 0x01 => {
                let value = match code & 0xe0 {
                    0x20 => load(constant)?,
                    0x00 => constant,
                    0x60 => *memory.get(constant as usize)?,
                    0x80 => 64,
                    _ => return None,
                };
                if code & 0x07 == 0 { a = value } else { x = value }
            }
            // BPF_ST, BPF_STX.
            0x02 => *memory.get_mut(constant as usize)? = a,
            0x03 => *memory.get_mut(constant as usize)? = x,
            // BPF_ALU.
            0x04 => {
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(operand),
                    0x10 => a.wrapping_sub(operand),
                    0x20 => a.wrapping_mul(operand),
                    0x30 => a.checked_div(operand)?,
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => a.checked_shl(operand)?,
                    0x70 => a.checked_shr(operand)?,
                    0x80 => a.wrapping_neg(),
                    0xa0 => a ^ operand,
                    _ => return None,
                };
            }
            // BPF_JMP.
            0x05 => {
                let holds = match code & 0xf0 {
                    0x00 => {
                        at = at.checked_add(constant as usize)?;
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    0x40 => a & operand != 0,
                    _ => return None,
                };
                at += usize::from(if holds { jump_true } else { jump_false });
            }
            // BPF_RET: a constant, or the accumulator.
            0x06 => return Some(if code & 0x18 == 0x10 { a } else { constant }),
            // BPF_MISC: TAX, TXA.
            _ => {
                if code & 0xf8 == 0 {
                    x = a;
                } else {
                    a = x;
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rows: &[(u16, u8, u8, u32)]) -> Vec<Instruction> {
        let one = |&(code, jump_true, jump_false, constant)| Instruction { code, jump_true, jump_false, constant };
        rows.iter().map(one).collect()
    }

    #[test]
    fn a_list_of_allowed_calls_allows_these() {
        let rows = [(0x20, 0, 0, 0), (0x15, 1, 0, 5), (0x15, 0, 1, 7), (0x06, 0, 0, ALLOW), (0x06, 0, 0, 0x8000_0000)];
        let filter = filter(&rows);
        assert_eq!(run(&filter, 5), Some(ALLOW));
        assert_eq!(run(&filter, 7), Some(ALLOW));
        assert_eq!(run(&filter, 6), Some(0x8000_0000));
    }

    #[test]
    fn arithmetic_and_memory_are_the_kernels() {
        let rows = [
            (0x20, 0, 0, 4),
            (0x02, 0, 0, 3),
            (0x54, 0, 0, 0xff),
            (0x07, 0, 0, 0),
            (0x60, 0, 0, 3),
            (0x1c, 0, 0, 0),
            (0x16, 0, 0, 0),
        ];
        assert_eq!(run(&filter(&rows), 1), Some(ARCHITECTURE & !0xff));
    }

    #[test]
    fn a_program_that_runs_off_its_end_is_none() {
        assert_eq!(run(&filter(&[(0x05, 0, 0, 9)]), 1), None);
        assert_eq!(run(&filter(&[(0x20, 0, 0, 63)]), 1), None);
        assert_eq!(run(&[], 1), None);
    }
}
