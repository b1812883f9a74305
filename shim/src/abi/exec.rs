//! The calls that start another image: exec*, posix_spawn, system, popen. Here their C arguments are read as far as a
//! guess about the new image needs; what becomes of the sockets is `calls::exec`'s business. The original runs outside of
//! everything of ours. execl and its kin are variadic: a trampoline finds their words.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use remora_host::runtime::Expect;
use smallvec::SmallVec;

use super::User;
use crate::calls::exec::{self as sockets, ParkedAll};
use crate::calls::program::{self, Target};
use crate::hooks::real;

/// A list of C strings that ends with a null pointer.
type Strings = *const *const c_char;

unsafe extern "C" {
    static environ: Strings;
}

/// Longest path or variable that is looked at.
const LONGEST: usize = 64 << 10;

/// Most variables of an environment that are looked at.
const VARIABLES: usize = 16 << 10;

/// A C string of the program; `None` where it cannot be read, which the original will say.
fn text(address: *const c_char) -> Option<CString> {
    // SAFETY: the program passed it for this.
    let source = unsafe { User::<u8>::new(address as usize) };
    let mut bytes: Vec<u8> = Vec::new();
    while !source.is_null() && bytes.len() < LONGEST {
        // Never over a page that the string does not reach.
        let at = source.byte_add(bytes.len());
        let piece = at.read_many(256 - at.address() % 256).ok()?;
        match piece.iter().position(|byte| *byte == 0) {
            Some(end) => {
                bytes.extend(piece.get(..end)?);
                return CString::new(bytes).ok();
            }
            None => bytes.extend_from_slice(&piece),
        }
    }
    None
}

/// Whether an environment has this library preloaded.
fn is_preloaded(environment: Strings) -> bool {
    let Some(own) = own_file_name() else { return true };
    // SAFETY: the program passed it for this.
    let list = unsafe { User::<usize>::new(environment as usize) };
    if list.is_null() {
        return false;
    }
    for place in 0..VARIABLES {
        let Ok(entry @ 1..) = list.byte_add(place * size_of::<usize>()).read() else { return false };
        let Some(variable) = text(entry as *const c_char) else { continue };
        if let Some(value) = variable.to_bytes().strip_prefix(b"LD_PRELOAD=") {
            return value
                .split(|byte| matches!(byte, b' ' | b':'))
                .any(|path| path.rsplit(|byte| *byte == b'/').next() == Some(own));
        }
    }
    false
}

/// The file name of this library.
fn own_file_name() -> Option<&'static [u8]> {
    let mut information = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let here = own_file_name as *const () as *const c_void;
    // SAFETY: an address of this library and a place for the answer.
    let found = unsafe { libc::dladdr(here, information.as_mut_ptr()) };
    // SAFETY: zeroed or filled in; all of its fields are pointers.
    let information = unsafe { information.assume_init() };
    if found == 0 || information.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a C string of the dynamic linker's, there for as long as the library.
    let path = unsafe { CStr::from_ptr(information.dli_fname) };
    path.to_bytes().rsplit(|byte| *byte == b'/').next()
}

fn own_environment() -> Strings {
    // SAFETY: libc's variable; exec reads it in the same way.
    unsafe { environ }
}

fn path(address: *const c_char) -> Target {
    text(address).map_or(Target::Unknown, Target::Path)
}

fn search(address: *const c_char) -> Target {
    text(address).map_or(Target::Unknown, Target::Search)
}

/// What a call of this kind starts, and with which environment; asked only when there are sockets to hand on.
trait Guess: FnOnce() -> (Target, Strings) {}
impl<F: FnOnce() -> (Target, Strings)> Guess for F {}

fn park(spawning: bool, guess: impl Guess) -> Option<(ParkedAll, Expect)> {
    super::aside(|| {
        sockets::park(spawning, || {
            let (target, environment) = guess();
            program::expect(&target, is_preloaded(environment))
        })
    })
}

/// exec: comes back only when it has failed, and then everything is as before.
fn replace(guess: impl Guess, real: impl FnOnce() -> c_int) -> c_int {
    let Some((parked, expect)) = park(false, guess) else { return real() };
    super::aside(|| parked.arm(expect));
    let result = real();
    super::aside(|| parked.unpark(true));
    result
}

/// posix_spawn: when it comes back the child's image is there, or has failed to be.
fn spawn(guess: impl Guess, real: impl FnOnce() -> c_int) -> c_int {
    let Some((parked, expect)) = park(true, guess) else { return real() };
    let result = real();
    super::aside(|| {
        if result == 0 {
            parked.start(expect);
        }
        parked.unpark(result != 0);
    });
    result
}

/// system and popen: a shell is started somewhere inside.
fn shell<R>(real: impl FnOnce() -> R) -> R {
    let guess = || (Target::Path(c"/bin/sh".to_owned()), own_environment());
    let Some((parked, expect)) = park(false, guess) else { return real() };
    super::aside(|| parked.start(expect));
    let result = real();
    super::aside(|| parked.unpark(false));
    result
}

pub(crate) fn execve(file: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    replace(|| (path(file), environment), || unsafe { (real::execve.get())(file, arguments, environment) })
}

pub(crate) fn execv(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    replace(|| (path(file), own_environment()), || unsafe { (real::execv.get())(file, arguments) })
}

pub(crate) fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    replace(|| (search(file), own_environment()), || unsafe { (real::execvp.get())(file, arguments) })
}

pub(crate) fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    replace(|| (search(file), environment), || unsafe { (real::execvpe.get())(file, arguments, environment) })
}

pub(crate) fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    replace(|| (Target::Descriptor(fd), environment), || unsafe { (real::fexecve.get())(fd, arguments, environment) })
}

pub(crate) fn execveat(
    directory: c_int,
    file: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
) -> c_int {
    let target = || match text(file) {
        Some(name) if name.is_empty() && flags & libc::AT_EMPTY_PATH != 0 => Target::Descriptor(directory),
        Some(name) if directory == libc::AT_FDCWD || name.to_bytes().starts_with(b"/") => Target::Path(name),
        _ => Target::Unknown,
    };
    replace(
        || (target(), environment),
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        || unsafe { (real::execveat.get())(directory, file, arguments, environment, flags) },
    )
}

pub(crate) fn posix_spawn(
    pid: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    spawn(
        || (path(file), environment),
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        || unsafe { (real::posix_spawn.get())(pid, file, actions, attributes, arguments, environment) },
    )
}

pub(crate) fn posix_spawnp(
    pid: *mut c_int,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    spawn(
        || (search(file), environment),
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        || unsafe { (real::posix_spawnp.get())(pid, file, actions, attributes, arguments, environment) },
    )
}

pub(crate) fn posix_spawn_file_actions_adddup2(actions: *mut c_void, fd: c_int, target: c_int) -> c_int {
    super::aside(|| sockets::note_spawn_source(fd));
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    unsafe { (real::posix_spawn_file_actions_adddup2.get())(actions, fd, target) }
}

pub(crate) fn system(command: *const c_char) -> c_int {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    shell(|| unsafe { (real::system.get())(command) })
}

pub(crate) fn popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    // SAFETY: the caller's own arguments, to the function that it meant to call.
    shell(|| unsafe { (real::popen.get())(command, mode) })
}

/// Words of a variadic call that come in registers.
const REGISTERS: usize = if cfg!(target_arch = "x86_64") { 6 } else { 8 };

/// The words of a variadic call.
struct Words {
    saved: *const usize,
    stack: *const usize,
    next: usize,
}

impl Words {
    fn next(&mut self) -> usize {
        let from = if self.next < REGISTERS { self.saved } else { self.stack };
        let index = if self.next < REGISTERS { self.next } else { self.next - REGISTERS };
        self.next += 1;
        // SAFETY: the registers are saved there, and what follows them on the stack is the caller's, up to the null
        // pointer (and execle's environment) that it passed.
        let place = unsafe { from.add(index) };
        // SAFETY: as above.
        unsafe { place.read() }
    }

    /// The list up to its null pointer, which is in it.
    fn list(&mut self) -> SmallVec<[*const c_char; 64]> {
        let mut list = SmallVec::new();
        loop {
            let word = self.next();
            list.push(word as *const c_char);
            if word == 0 {
                return list;
            }
        }
    }
}

macro_rules! variadic {
    ($(#[$about:meta])* $name:ident, $body:ident, $words:ident, $file:ident, $list:ident => $call:expr) => {
        extern "C" fn $body(saved: *const usize, stack: *const usize) -> c_int {
            let mut $words = Words { saved, stack, next: 0 };
            let $file = $words.next() as *const c_char;
            let $list = $words.list();
            $call
        }

        $(#[$about])*
        ///
        /// # Safety
        /// As execl(3).
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "sub rsp, 56",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "mov rdi, rsp",
                "lea rsi, [rsp + 64]",
                "call {body}",
                "add rsp, 56",
                "ret",
                body = sym $body,
            )
        }

        $(#[$about])*
        ///
        /// # Safety
        /// As execl(3).
        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "sub sp, sp, #80",
                "stp x0, x1, [sp]",
                "stp x2, x3, [sp, #16]",
                "stp x4, x5, [sp, #32]",
                "stp x6, x7, [sp, #48]",
                "str x30, [sp, #64]",
                "mov x0, sp",
                "add x1, sp, #80",
                "bl {body}",
                "ldr x30, [sp, #64]",
                "add sp, sp, #80",
                "ret",
                body = sym $body,
            )
        }
    };
}

variadic!(
    /// execl(path, argument, ..., NULL).
    execl, execl_body, words, file, list => execv(file, list.as_ptr())
);
variadic!(
    /// execlp(file, argument, ..., NULL).
    execlp, execlp_body, words, file, list => execvp(file, list.as_ptr())
);
variadic!(
    /// execle(path, argument, ..., NULL, environment).
    execle, execle_body, words, file, list => execve(file, list.as_ptr(), words.next() as Strings)
);
