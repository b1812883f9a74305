//! stdio over our sockets. libc's streams make system calls of their own that no hook sees, so fdopen makes a cookie
//! stream whose functions call the hooks. fileno() of a cookie stream is -1 in libc; the hook knows the number.
//! The three standard
//! streams are replaced by such streams when a socket of ours comes to stand under their numbers. dprintf is variadic: a trampoline builds its va_list.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use super::Outcome;
use crate::hooks::real;

#[repr(C)]
#[derive(Clone, Copy)]
struct CookieFunctions {
    read: unsafe extern "C-unwind" fn(*mut c_void, *mut c_char, usize) -> isize,
    write: unsafe extern "C-unwind" fn(*mut c_void, *const c_char, usize) -> isize,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, i32) -> i32>,
    close: unsafe extern "C-unwind" fn(*mut c_void) -> i32,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: CookieFunctions) -> *mut libc::FILE;
    #[cfg(target_arch = "x86_64")]
    fn vsnprintf(target: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> i32;
}

/// Streams whose number fileno() can tell; one more than these answers -1, as a cookie stream does anyway.
const STREAMS: usize = 256;
struct Stream {
    file: AtomicPtr<libc::FILE>,
    fd: AtomicI32,
}
static OPEN: [Stream; STREAMS] =
    [const { Stream { file: AtomicPtr::new(std::ptr::null_mut()), fd: AtomicI32::new(-1) } }; STREAMS];
/// Streams made so far: none costs fileno() one load.
static MADE: AtomicI32 = AtomicI32::new(0);

unsafe extern "C-unwind" fn cookie_read(cookie: *mut c_void, buffer: *mut c_char, size: usize) -> isize {
    // SAFETY: libc's buffer, through the hook.
    unsafe { libc::read(cookie as usize as i32, buffer.cast(), size) }
}

unsafe extern "C-unwind" fn cookie_write(cookie: *mut c_void, buffer: *const c_char, size: usize) -> isize {
    let mut done = 0usize;
    while done < size {
        // SAFETY: within libc's buffer.
        let from = unsafe { buffer.add(done) };
        // SAFETY: libc's buffer, through the hook.
        let count = unsafe { libc::write(cookie as usize as i32, from.cast(), size - done) };
        // A short count tells libc of the error.
        let Ok(count @ 1..) = usize::try_from(count) else { break };
        done += count;
    }
    done as isize
}

unsafe extern "C-unwind" fn cookie_close(cookie: *mut c_void) -> i32 {
    let fd = cookie as usize as i32;
    for stream in &OPEN {
        if stream.fd.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            stream.file.store(std::ptr::null_mut(), Ordering::Release);
        }
    }
    // SAFETY: closes the descriptor that the stream owns, through the hook.
    unsafe { libc::close(fd) }
}

/// fdopen() of a socket of ours.
pub(crate) fn open(fd: i32, mode: super::User<c_char>) -> Outcome<*mut libc::FILE> {
    let functions = CookieFunctions { read: cookie_read, write: cookie_write, seek: None, close: cookie_close };
    let cookie = fd as usize as *mut c_void;
    // SAFETY: the mode is the program's string; the functions stay for good.
    let file = unsafe { fopencookie(cookie, mode.address() as *const c_char, functions) };
    if file.is_null() {
        return Outcome::fail(super::errno());
    }
    remember(file, fd);
    Outcome::Ours(Ok(file))
}

/// For fileno().
fn remember(file: *mut libc::FILE, fd: i32) {
    for stream in &OPEN {
        if stream.fd.compare_exchange(-1, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            stream.file.store(file, Ordering::Release);
            MADE.fetch_add(1, Ordering::Release);
            break;
        }
    }
}

unsafe extern "C" {
    static mut stdin: *mut libc::FILE;
    static mut stdout: *mut libc::FILE;
    static mut stderr: *mut libc::FILE;
    fn __fpurge(file: *mut libc::FILE);
}

/// The start of glibc's struct _IO_FILE, which programs are compiled against (bits/types/struct_FILE.h).
#[repr(C)]
struct FileHead {
    flags: i32,
    read_next: *const u8,
    read_end: *const u8,
    read_base: *const u8,
    write_base: *const u8,
    write_next: *const u8,
}

/// Which of the three standard streams go through the hooks.
static STANDARD: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// One of ours is to stand as 0, 1 or 2: libc's stream for that number would pass the hooks by, so a stream of ours
/// takes its place, with what its buffer holds. It serves the number for good, whatever stands there later. To be called
/// before the number changes hands.
pub(crate) fn take_standard(number: i32) {
    let Some(taken) = usize::try_from(number).ok().and_then(|place| STANDARD.get(place)) else { return };
    if taken.swap(true, Ordering::AcqRel) {
        return;
    }
    let place = match number {
        0 => &raw mut stdin,
        1 => &raw mut stdout,
        _ => &raw mut stderr,
    };
    // SAFETY: libc's variable, or the program's copy of it; programs that assign to it do so for themselves.
    let old = unsafe { place.read() };
    // SAFETY: a stream of the program, or null.
    if old.is_null() || unsafe { (real::fileno.get())(old) } != number {
        return;
    }
    let functions = CookieFunctions { read: cookie_read, write: cookie_write, seek: None, close: cookie_close };
    let mode = if number == 0 { c"r" } else { c"w" };
    // SAFETY: the mode is a C string; the functions stay for good.
    let new = unsafe { fopencookie(number as usize as *mut c_void, mode.as_ptr(), functions) };
    if new.is_null() {
        return;
    }
    // SAFETY: asks about a number.
    let is_terminal = unsafe { libc::isatty(number) } == 1;
    let buffering = match number {
        2 => libc::_IONBF,
        _ if is_terminal => libc::_IOLBF,
        _ => libc::_IOFBF,
    };
    let waiting = unsent(old);
    let room = waiting.saturating_add(libc::BUFSIZ as usize);
    // What waits must not be written in the middle of this: it gets a buffer that it does not fill, made for good.
    // SAFETY: a length; the buffer is libc's to make otherwise.
    let buffer = if waiting == 0 { std::ptr::null_mut() } else { unsafe { libc::malloc(room) } };
    // SAFETY: a stream that nobody has used yet, and no buffer or one of so many bytes.
    unsafe { libc::setvbuf(new, buffer.cast(), buffering, room) };
    // SAFETY: both streams exist.
    unsafe { move_buffer(old, new) };
    remember(new, number);
    // SAFETY: as when it was read.
    unsafe { place.write(new) };
}

/// How many bytes a stream has been given and not sent.
fn unsent(file: *mut libc::FILE) -> usize {
    // SAFETY: every stream of glibc begins so.
    let head = unsafe { file.cast::<FileHead>().read() };
    if head.write_base.is_null() {
        return 0;
    }
    (head.write_next as usize).saturating_sub(head.write_base as usize)
}

/// What was read and not asked for, or written and not sent, goes along, as it would with the number.
///
/// # Safety
/// Two streams; the new one is unused.
unsafe fn move_buffer(old: *mut libc::FILE, new: *mut libc::FILE) {
    // SAFETY: every stream of glibc begins so.
    let head = unsafe { old.cast::<FileHead>().read() };
    let unsent = unsent(old);
    if unsent > 0 {
        // SAFETY: the bytes lie in the old stream's buffer.
        unsafe { libc::fwrite(head.write_base.cast(), 1, unsent, new) };
        // SAFETY: a stream; its bytes are the new one's now.
        unsafe { __fpurge(old) };
        return;
    }
    let unread = (head.read_end as usize).saturating_sub(head.read_next as usize);
    if head.read_next.is_null() {
        return;
    }
    for back in 0..unread {
        // SAFETY: within what the old stream has read.
        let at = unsafe { head.read_end.sub(back + 1) };
        // SAFETY: as above.
        let byte = unsafe { at.read() };
        // SAFETY: glibc takes any number back.
        if unsafe { libc::ungetc(i32::from(byte), new) } < 0 {
            return;
        }
    }
}

/// fileno(): the socket's number for a stream made here.
pub(crate) fn number_of(file: super::User<libc::FILE>) -> Outcome<i32> {
    if MADE.load(Ordering::Acquire) == 0 || file.is_null() {
        return Outcome::PassThrough;
    }
    for stream in &OPEN {
        if stream.file.load(Ordering::Acquire) as usize == file.address() {
            return Outcome::Ours(Ok(stream.fd.load(Ordering::Acquire)));
        }
    }
    Outcome::PassThrough
}

/// A va_list of x86_64 (System V ABI, 3.5.7); vdprintf gets a pointer to one.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
#[derive(Clone, Copy)]
struct VaList {
    general: u32,
    floating: u32,
    overflow: *mut c_void,
    saved: *mut c_void,
}

/// vdprintf() to a socket of ours: formatted here, written by the hook.
#[cfg(target_arch = "x86_64")]
pub(crate) fn print(fd: i32, format: super::User<c_char>, arguments: super::User<c_void>) -> Outcome<i32> {
    let format = format.address() as *const c_char;
    // SAFETY: the caller passed a va_list, which is this structure.
    let mut list = unsafe { (arguments.address() as *const VaList).read() };
    let mut again = list;
    let mut short = [0u8; 1024];
    // SAFETY: the format and its arguments are the program's; the buffer is ours.
    let length = unsafe { vsnprintf(short.as_mut_ptr().cast(), short.len(), format, (&raw mut list).cast()) };
    let Ok(length) = usize::try_from(length) else { return Outcome::fail(super::errno()) };
    let mut long = Vec::new();
    let bytes = if length < short.len() {
        short.get(..length)
    } else {
        long.resize(length + 1, 0u8);
        // SAFETY: as above, with a copy of the arguments that was not used yet.
        unsafe { vsnprintf(long.as_mut_ptr().cast(), long.len(), format, (&raw mut again).cast()) };
        long.get(..length)
    };
    crate::calls::write_bytes(fd, bytes.unwrap_or(&[]))
}

/// dprintf() after the trampoline has saved the registers: a va_list of what follows fd and format.
#[cfg(target_arch = "x86_64")]
unsafe extern "C-unwind" fn print_saved(
    fd: i32,
    format: *const c_char,
    saved: *mut c_void,
    overflow: *mut c_void,
) -> i32 {
    let mut list = VaList { general: 16, floating: 48, overflow, saved };
    // SAFETY: the program's format, and a va_list of its arguments.
    unsafe { crate::hooks::vdprintf(fd, format, (&raw mut list).cast()) }
}

/// As [`print_saved`], for `__dprintf_chk`, whose arguments begin one later.
#[cfg(target_arch = "x86_64")]
unsafe extern "C-unwind" fn print_saved_checked(
    fd: i32,
    format: *const c_char,
    saved: *mut c_void,
    overflow: *mut c_void,
) -> i32 {
    let mut list = VaList { general: 24, floating: 48, overflow, saved };
    // SAFETY: the program's format, and a va_list of its arguments.
    unsafe { crate::hooks::vdprintf(fd, format, (&raw mut list).cast()) }
}

/// The variadic entries. On other architectures than x86_64 dprintf is libc's, and fails on a socket of ours: their
/// va_list needs a trampoline of its own.
#[cfg(target_arch = "x86_64")]
macro_rules! save_registers {
    ($format:literal, $body:ident) => {
        core::arch::naked_asm!(
            "push rbp",
            "mov rbp, rsp",
            "sub rsp, 176",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            "mov [rsp + 24], rcx",
            "mov [rsp + 32], r8",
            "mov [rsp + 40], r9",
            "movaps [rsp + 48], xmm0",
            "movaps [rsp + 64], xmm1",
            "movaps [rsp + 80], xmm2",
            "movaps [rsp + 96], xmm3",
            "movaps [rsp + 112], xmm4",
            "movaps [rsp + 128], xmm5",
            "movaps [rsp + 144], xmm6",
            "movaps [rsp + 160], xmm7",
            $format,
            "mov rdx, rsp",
            "lea rcx, [rbp + 16]",
            "call {body}",
            "leave",
            "ret",
            body = sym $body,
        )
    };
}

/// dprintf(fd, format, ...).
///
/// # Safety
/// As dprintf(3).
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn dprintf() {
    save_registers!("nop", print_saved)
}

/// __dprintf_chk(fd, flag, format, ...).
///
/// # Safety
/// As dprintf(3).
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn __dprintf_chk() {
    save_registers!("mov rsi, rdx", print_saved_checked)
}
