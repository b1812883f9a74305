//! syscall(number, ...): the numbers that name a socket, data, readiness or descriptor call go where the function of
//! that name goes; everything else is libc's. The kernel's signatures differ from libc's in a few places (signal masks
//! with their size, close_range's flags), which are put right here.

use super::{FromC, Outcome, User};
use crate::hooks::real;
use crate::{calls, fdtable};

/// Turns a register into the argument that the call expects.
macro_rules! cast {
    ($word:ident as i32) => {
        $word as i32
    };
    ($word:ident as u32) => {
        $word as u32
    };
    ($word:ident as i64) => {
        $word as i64
    };
    ($word:ident as usize) => {
        $word
    };
    ($word:ident as ptr) => {
        // SAFETY: the word is the pointer that the program passed to this system call.
        unsafe { FromC::into_rust($word as *mut _) }
    };
}

fn widen<T: Into<i64>>(outcome: Outcome<T>) -> Outcome<i64> {
    match outcome {
        Outcome::Ours(result) => Outcome::Ours(result.map(Into::into)),
        Outcome::PassThrough => Outcome::PassThrough,
    }
}

fn size(outcome: Outcome<isize>) -> Outcome<i64> {
    match outcome {
        Outcome::Ours(result) => Outcome::Ours(result.map(|value| value as i64)),
        Outcome::PassThrough => Outcome::PassThrough,
    }
}

/// Whether a raw call makes a process with memory of its own that goes on where its parent stands: a fork by another
/// name (vsftpd makes its sessions so). Threads, and children on a stack of their own, are not.
fn is_fork(number: i64, a: usize, b: usize) -> bool {
    let copies = |flags: usize, stack: usize| stack == 0 && flags & (libc::CLONE_VM as usize) == 0;
    match number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork => true,
        libc::SYS_clone => copies(a, b),
        libc::SYS_clone3 => {
            // struct clone_args: flags is the first word, stack the sixth.
            let word = |index: usize| {
                let place = a.wrapping_add(index * size_of::<u64>());
                // SAFETY: the kernel is about to read the same structure; copy() says if it cannot.
                unsafe { User::<u64>::new(place) }.read().map(|value| value as usize)
            };
            matches!((word(0), word(5)), (Ok(flags), Ok(stack)) if copies(flags, stack))
        }
        _ => false,
    }
}

/// Makes the process, and has the runtime told of it as of every fork.
fn fork(number: i64, words: [usize; 6]) -> Outcome<i64> {
    let [a, b, c, d, e, f] = words;
    // SAFETY: the caller's own words, to the function that it meant to call.
    let child = calls::process::fork(|| unsafe { (real::syscall.get())(number, a, b, c, d, e, f) } as i32);
    if child < 0 { Outcome::fail(super::errno()) } else { Outcome::Ours(Ok(child.into())) }
}

/// Routes one raw system call.
#[allow(clippy::too_many_lines, reason = "a table")]
pub(crate) fn route(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> Outcome<i64> {
    let fd = a as i32;
    // Calls on one descriptor: a foreign one is the kernel's at once.
    let on_descriptor = || fdtable::is_ours(fd);
    match number {
        _ if is_fork(number, a, b) => fork(number, [a, b, c, d, e, f]),
        libc::SYS_socket => widen(calls::socket(fd, b as i32, c as i32)),
        libc::SYS_seccomp => {
            calls::before_seccomp(a, c);
            Outcome::PassThrough
        }
        libc::SYS_prctl => widen(calls::prctl(fd, b, c, d, e)),
        libc::SYS_close => widen(calls::close(fd)),
        libc::SYS_close_range => widen(calls::close_range(a as u32, b as u32, c as i32)),
        libc::SYS_fstat if on_descriptor() => widen(calls::fstat(fd, cast!(b as ptr))),
        libc::SYS_dup3 => widen(calls::dup3(fd, b as i32, c as i32)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_dup2 => widen(calls::dup2(fd, b as i32)),
        libc::SYS_sendfile => size(calls::sendfile(fd, b as i32, cast!(c as ptr), d)),
        libc::SYS_splice => size(calls::splice(fd, cast!(b as ptr), c as i32, cast!(d as ptr), e, f as u32)),
        libc::SYS_epoll_create1 => widen(calls::epoll_create1(fd)),
        libc::SYS_epoll_ctl => widen(calls::epoll_ctl(fd, b as i32, c as i32, cast!(d as ptr))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => widen(calls::poll(cast!(a as ptr), b, c as i32)),
        libc::SYS_ppoll => widen(calls::ppoll(cast!(a as ptr), b, cast!(c as ptr), cast!(d as ptr))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => {
            let [read, write, except] = [cast!(b as ptr), cast!(c as ptr), cast!(d as ptr)];
            widen(calls::select(fd, read, write, except, cast!(e as ptr)))
        }
        libc::SYS_pselect6 => {
            // The sixth word points to the mask's address and size.
            // SAFETY: the program passed it for this.
            let mask = if f == 0 { Ok(0) } else { unsafe { User::<usize>::new(f) }.read() };
            let Ok(mask) = mask else { return Outcome::fail(libc::EFAULT) };
            let [read, write, except] = [cast!(b as ptr), cast!(c as ptr), cast!(d as ptr)];
            widen(calls::pselect(fd, read, write, except, cast!(e as ptr), cast!(mask as ptr)))
        }
        libc::SYS_getrlimit => widen(calls::getrlimit(fd, cast!(b as ptr))),
        libc::SYS_setrlimit => widen(calls::setrlimit(fd, cast!(b as ptr))),
        libc::SYS_prlimit64 => widen(calls::prlimit(fd, b as i32, cast!(c as ptr), cast!(d as ptr))),
        libc::SYS_capset => widen(calls::capset(cast!(a as ptr), cast!(b as ptr))),
        libc::SYS_setuid => widen(calls::setuid(a as u32)),
        libc::SYS_setreuid => widen(calls::setreuid(a as u32, b as u32)),
        libc::SYS_setresuid => widen(calls::setresuid(a as u32, b as u32, c as u32)),
        libc::SYS_tee => size(calls::tee(fd, b as i32, c, d as u32)),
        libc::SYS_copy_file_range => {
            size(calls::copy_file_range(fd, cast!(b as ptr), c as i32, cast!(d as ptr), e, f as u32))
        }
        libc::SYS_sendmsg => size(calls::sendmsg(fd, cast!(b as ptr), c as i32)),
        _ if !on_descriptor() => Outcome::PassThrough,
        libc::SYS_dup => widen(calls::dup(fd)),
        libc::SYS_fcntl => widen(calls::fcntl(fd, b as i32, c)),
        libc::SYS_ioctl => widen(calls::ioctl(fd, b, c)),
        libc::SYS_bind => widen(calls::bind(fd, cast!(b as ptr), c as u32)),
        libc::SYS_connect => widen(calls::connect(fd, cast!(b as ptr), c as u32)),
        libc::SYS_listen => widen(calls::listen(fd, b as i32)),
        libc::SYS_accept => widen(calls::accept(fd, cast!(b as ptr), cast!(c as ptr))),
        libc::SYS_accept4 => widen(calls::accept4(fd, cast!(b as ptr), cast!(c as ptr), d as i32)),
        libc::SYS_shutdown => widen(calls::shutdown(fd, b as i32)),
        libc::SYS_getsockname => widen(calls::getsockname(fd, cast!(b as ptr), cast!(c as ptr))),
        libc::SYS_getpeername => widen(calls::getpeername(fd, cast!(b as ptr), cast!(c as ptr))),
        libc::SYS_getsockopt => widen(calls::getsockopt(fd, b as i32, c as i32, cast!(d as ptr), cast!(e as ptr))),
        libc::SYS_setsockopt => widen(calls::setsockopt(fd, b as i32, c as i32, cast!(d as ptr), e as u32)),
        libc::SYS_read => size(calls::read(fd, cast!(b as ptr), c)),
        libc::SYS_readv => size(calls::readv(fd, cast!(b as ptr), c as i32)),
        libc::SYS_write => size(calls::write(fd, cast!(b as ptr), c)),
        libc::SYS_writev => size(calls::writev(fd, cast!(b as ptr), c as i32)),
        libc::SYS_preadv2 => size(calls::preadv2(fd, cast!(b as ptr), c as i32, d as i64, f as i32)),
        libc::SYS_pwritev2 => size(calls::pwritev2(fd, cast!(b as ptr), c as i32, d as i64, f as i32)),
        libc::SYS_vmsplice => size(calls::vmsplice(fd, cast!(b as ptr), c, d as u32)),
        libc::SYS_sendto => size(calls::sendto(fd, cast!(b as ptr), c, d as i32, cast!(e as ptr), f as u32)),
        libc::SYS_sendmmsg => widen(calls::sendmmsg(fd, cast!(b as ptr), c as u32, d as i32)),
        libc::SYS_recvfrom => size(calls::recvfrom(fd, cast!(b as ptr), c, d as i32, cast!(e as ptr), cast!(f as ptr))),
        libc::SYS_recvmsg => size(calls::recvmsg(fd, cast!(b as ptr), c as i32)),
        libc::SYS_recvmmsg => widen(calls::recvmmsg(fd, cast!(b as ptr), c as u32, d as i32, cast!(e as ptr))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => widen(calls::epoll_wait(fd, cast!(b as ptr), c as i32, d as i32)),
        libc::SYS_epoll_pwait => widen(calls::epoll_pwait(fd, cast!(b as ptr), c as i32, d as i32, cast!(e as ptr))),
        libc::SYS_epoll_pwait2 => {
            widen(calls::epoll_pwait2(fd, cast!(b as ptr), c as i32, cast!(d as ptr), cast!(e as ptr)))
        }
        _ => Outcome::PassThrough,
    }
}
