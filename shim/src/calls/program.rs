//! Whether an image that is about to be started will have this library: it is preloaded in its environment, and the
//! program is a dynamic one of the same kind that gains no rights by it (ld.so(8), secure-execution mode), or a script
//! whose interpreter is. A guess: where nothing can be read the answer is yes, and an image that then does not come
//! costs its first bytes a quarter of a second.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use remora_host::runtime::Expect;
use remora_host::sys::{Fd, call};

/// What exec is given.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A path.
    Path(CString),
    /// A name that is looked up on PATH.
    Search(CString),
    /// An open file.
    Descriptor(i32),
    /// Not to be read; exec will say why.
    Unknown,
}

/// What a shell finds without PATH (`_PATH_DEFPATH`, confstr(_CS_PATH)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// The kernel looks at this much of a script (BINPRM_BUF_SIZE) and follows this many interpreters.
const SCRIPT_HEAD: usize = 256;
const SCRIPT_DEPTH: u32 = 5;
/// Program headers that are looked at.
const HEADERS: usize = 64;
/// Size of one (Elf64_Phdr).
const HEADER_SIZE: usize = 56;
const PT_INTERP: u32 = 3;
/// e_machine of this library.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// Guesses who the new image will be. `preloaded`: its environment has the library.
pub(crate) fn expect(target: &Target, preloaded: bool) -> Expect {
    if preloaded && carries(target) { Expect::Ours } else { Expect::Stranger }
}

fn carries(target: &Target) -> bool {
    match target {
        Target::Path(path) => carries_path(path, SCRIPT_DEPTH),
        Target::Search(name) => find(name).is_none_or(|path| carries_path(&path, SCRIPT_DEPTH)),
        Target::Descriptor(fd) => is_plain(Fd(*fd)) && carries_file(Fd(*fd), SCRIPT_DEPTH),
        Target::Unknown => true,
    }
}

/// Looks a name up as execvp(3) does; `None` when it is not found.
fn find(name: &CStr) -> Option<CString> {
    if name.to_bytes().contains(&b'/') {
        return Some(name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path)
        .filter_map(|directory| {
            let candidate = Path::new(&directory).join(OsStr::from_bytes(name.to_bytes()));
            CString::new(candidate.into_os_string().into_vec()).ok()
        })
        .find(|candidate| {
            call::path_status(candidate)
                .is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFREG && status.st_mode & 0o111 != 0)
        })
}

fn carries_path(path: &CStr, depth: u32) -> bool {
    let Ok(fd) = call::open(path, libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK, 0) else { return true };
    let result = is_plain(fd) && carries_file(fd, depth);
    let _ = call::close(fd);
    result
}

/// Whether the program gains no rights of a file's owner or group.
fn is_plain(fd: Fd) -> bool {
    let Ok(status) = call::status(fd) else { return true };
    let gains_user = status.st_mode & libc::S_ISUID != 0 && status.st_uid != call::effective_user();
    // Without group execution the bit means something else.
    let both = libc::S_ISGID | libc::S_IXGRP;
    let gains_group = status.st_mode & both == both && status.st_gid != call::effective_group();
    !gains_user && !gains_group
}

fn carries_file(fd: Fd, depth: u32) -> bool {
    let mut head = [0u8; SCRIPT_HEAD];
    let Ok(length) = call::pread(fd, &mut head, 0) else { return true };
    let head = head.get(..length).unwrap_or(&[]);
    if let Some(line) = head.strip_prefix(b"#!") {
        let Some(rest) = depth.checked_sub(1) else { return true };
        return interpreter(line).is_none_or(|path| carries_path(&path, rest));
    }
    if !head.starts_with(b"\x7fELF") {
        // Plain text: execvp and shells hand it to a shell.
        return true;
    }
    is_dynamic(fd, head).unwrap_or(true)
}

/// The interpreter in the first line of a script.
fn interpreter(line: &[u8]) -> Option<CString> {
    let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let path = line.split(|byte| matches!(byte, b' ' | b'\t')).next().filter(|path| !path.is_empty())?;
    CString::new(path).ok()
}

/// Whether an ELF file is of this library's kind and asks for a dynamic loader that it can live with.
fn is_dynamic(fd: Fd, head: &[u8]) -> Option<bool> {
    const CLASS_64: u8 = 2;
    const LITTLE: u8 = 1;
    let word16 = |at: usize| Some(u16::from_le_bytes(*head.get(at..)?.first_chunk()?));
    if (*head.get(4)?, *head.get(5)?, word16(18)?) != (CLASS_64, LITTLE, MACHINE) {
        return Some(false);
    }
    let table = u64::from_le_bytes(*head.get(32..)?.first_chunk()?);
    let (size, count) = (usize::from(word16(54)?), usize::from(word16(56)?));
    if size != HEADER_SIZE || count > HEADERS {
        return None;
    }
    let mut headers = [0u8; HEADERS * HEADER_SIZE];
    let wanted = headers.get_mut(..count * HEADER_SIZE)?;
    if call::pread(fd, wanted, table).ok()? != count * HEADER_SIZE {
        return None;
    }
    let loader = wanted
        .as_chunks::<HEADER_SIZE>()
        .0
        .iter()
        .find(|entry| entry.first_chunk().copied().map(u32::from_le_bytes) == Some(PT_INTERP));
    let Some(entry) = loader else { return Some(false) };
    let offset = u64::from_le_bytes(*entry.get(8..)?.first_chunk()?);
    let mut name = [0u8; 64];
    let length = call::pread(fd, &mut name, offset).ok()?;
    let name = name.get(..length)?;
    // musl is another C library.
    Some(!name.windows(7).any(|part| part == b"ld-musl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(path: &str) -> Expect {
        expect(&Target::Path(CString::new(path).expect("no zero")), true)
    }

    #[test]
    fn a_dynamic_program_and_a_script_for_one_are_expected() {
        assert_eq!(guess("/bin/sh"), Expect::Ours);
        assert_eq!(guess(std::env::current_exe().expect("it runs").to_str().expect("text")), Expect::Ours);
        assert_eq!(expect(&Target::Search(c"sh".to_owned()), true), Expect::Ours);
        let path = std::env::temp_dir().join(format!("remora-guess-{}", std::process::id()));
        std::fs::write(&path, "#! /bin/sh -e\n").expect("it can be written");
        assert_eq!(guess(path.to_str().expect("text")), Expect::Ours);
        std::fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn a_program_without_loader_or_environment_is_a_stranger() {
        assert_eq!(expect(&Target::Path(c"/bin/sh".to_owned()), false), Expect::Stranger);
        // The same program with its request for a loader taken away.
        let mut bytes = std::fs::read("/bin/sh").expect("there is a shell");
        let table = u64::from_le_bytes(*bytes[32..].first_chunk().expect("a header")) as usize;
        let count = u16::from_le_bytes(*bytes[56..].first_chunk().expect("a header")) as usize;
        for entry in 0..count {
            let at = table + entry * HEADER_SIZE;
            if bytes[at..at + 4] == PT_INTERP.to_le_bytes() {
                bytes[at] = 0;
            }
        }
        let path = std::env::temp_dir().join(format!("remora-static-{}", std::process::id()));
        std::fs::write(&path, &bytes).expect("it can be written");
        assert_eq!(guess(path.to_str().expect("text")), Expect::Stranger);
        std::fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn what_cannot_be_read_is_expected() {
        assert_eq!(guess("/no/such/program"), Expect::Ours);
        assert_eq!(expect(&Target::Unknown, true), Expect::Ours);
        assert_eq!(expect(&Target::Search(c"no-such-program-at-all".to_owned()), true), Expect::Ours);
    }
}
