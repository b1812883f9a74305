//! The instruction that enters the kernel.

use super::Errno;

/// Largest error number that a system call returns (MAX_ERRNO in the kernel).
const MAX_ERRNO: isize = 4095;

/// Sign-extends a C int to a register.
pub(crate) const fn word(value: i32) -> usize {
    value as isize as usize
}

/// Enters the kernel with up to six arguments.
///
/// # Safety
/// The arguments must be what the call expects: each pointer among them valid for what the kernel does with it.
#[inline]
pub(crate) unsafe fn invoke<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    let mut all = [0usize; 6];
    for (slot, argument) in all.iter_mut().zip(arguments) {
        *slot = argument;
    }
    // SAFETY: the caller vouches for the arguments.
    let result = unsafe { enter(number, all) };
    if (-MAX_ERRNO..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn enter(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention for x86_64; rcx and r11 are clobbered and said so, and memory is assumed
    // to change.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
#[inline]
unsafe fn enter(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention for arm64; memory is assumed to change.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}
