//! Whether a program can carry a preloaded library: found on PATH, dynamic, of the library's kind, without rights of its
//! own (ld.so(8), "secure-execution mode"), and scripts through to their interpreter.

use crate::{Failure, NOT_EXECUTABLE, NOT_FOUND};
use remora_host::sys::call;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a shell finds without PATH (`_PATH_DEFPATH`).
const DEFAULT_PATH: &str = "/usr/bin:/bin";
/// The kernel looks at this much of a script (BINPRM_BUF_SIZE) and follows this many interpreters.
const SCRIPT_HEAD: usize = 256;
const SCRIPT_DEPTH: u32 = 5;
/// A program header table larger than this is no program's.
const HEADERS_MAX: usize = 64 * 1024;
const PT_INTERP: u32 = 3;

/// Looks a program up as execvp(3) does.
///
/// # Errors
/// With the status of env(1): not found, or found but not executable.
pub fn find(name: &OsStr) -> Result<PathBuf, Failure> {
    let shown = name.to_string_lossy();
    let not_found = || Failure { status: NOT_FOUND, text: format!("{shown}: program not found") };
    if name.is_empty() {
        return Err(not_found());
    }
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match path.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found()),
            Err(error) => Err(Failure { status: NOT_EXECUTABLE, text: format!("{shown}: {error}") }),
            Ok(metadata) => runnable(&metadata).map(|()| path).map_err(|why| not_executable(&shown, why)),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut reason = None;
    for candidate in std::env::split_paths(&path).map(|directory| directory.join(name)) {
        match candidate.metadata().map(|metadata| runnable(&metadata)) {
            Ok(Ok(())) => return Ok(candidate),
            Ok(Err(why)) => reason = reason.or(Some((candidate, why))),
            Err(_) => {}
        }
    }
    Err(reason.map_or_else(
        || Failure { status: NOT_FOUND, text: format!("{shown}: program not found on PATH") },
        |(path, why)| not_executable(&path.to_string_lossy(), why),
    ))
}

fn runnable(metadata: &std::fs::Metadata) -> Result<(), &'static str> {
    if metadata.is_dir() {
        Err("is a directory")
    } else if metadata.permissions().mode() & 0o111 == 0 {
        Err("is not executable (chmod +x)")
    } else {
        Ok(())
    }
}

fn not_executable(name: &str, why: &str) -> Failure {
    Failure { status: NOT_EXECUTABLE, text: format!("{name} {why}") }
}

/// Says why the program at `path`, started with `arguments`, cannot run with `library` preloaded.
///
/// # Errors
/// A refusal with what to do instead.
pub fn check(path: &Path, arguments: &[OsString], library: &Path) -> Result<(), Failure> {
    let library_kind = Elf::read(library)
        .ok()
        .flatten()
        .ok_or_else(|| Failure::refused(format_args!("{}: not a shared library", library.display())))?;
    check_at(path, arguments, &library_kind, SCRIPT_DEPTH)
}

/// Says why the program at `path` cannot be served from beside it.
///
/// # Errors
/// A refusal with what to do instead.
pub fn check_served(path: &Path, library: &Path) -> Result<(), Failure> {
    let kind = |path: &Path| Elf::read(path).ok().flatten();
    let (Some(program), Some(library)) = (kind(path), kind(library)) else { return Ok(()) };
    if (program.wide, program.machine) != (library.wide, library.machine) {
        return Err(Failure::refused(format_args!(
            "{}: built for another processor, or with 32 bits: its system calls have other numbers than those that \
             --static catches; use a build like libremora.so's",
            path.display()
        )));
    }
    match own_rights(path) {
        Some(rights) if !call::is_root() => Err(Failure::refused(format_args!(
            "{} has {rights}: behind a seccomp filter it would not get them; run it as the user it belongs to",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn check_at(path: &Path, arguments: &[OsString], library: &Elf, depth: u32) -> Result<(), Failure> {
    let shown = path.display();
    let Some(elf) = Elf::read(path).ok().flatten() else {
        // Neither script nor ELF, or not readable: exec decides, and hands plain text to /bin/sh.
        let Some(script) = script(path) else { return Ok(()) };
        let rest = depth
            .checked_sub(1)
            .ok_or_else(|| Failure::refused(format_args!("{shown}: too many interpreters of interpreters")))?;
        return check_script(path, &script, arguments, library, rest);
    };
    if elf.wide != library.wide {
        let bits = |wide| if wide { "64-bit" } else { "32-bit" };
        return Err(Failure::refused(format_args!(
            "{shown} is a {} program and libremora.so is {}: they cannot share a process; use a {} build of the program",
            bits(elf.wide),
            bits(library.wide),
            bits(library.wide)
        )));
    }
    if elf.machine != library.machine {
        return Err(Failure::refused(format_args!(
            "{shown} is built for another processor (ELF machine {}) than libremora.so ({})",
            elf.machine, library.machine
        )));
    }
    match elf.interpreter.as_deref() {
        None => {
            return Err(Failure::refused(format_args!(
                "{shown} is statically linked: it has no dynamic loader that could preload libremora.so; use a \
                 dynamically linked build of the program, or --static"
            )));
        }
        Some(loader) if loader.contains("ld-musl") => {
            return Err(Failure::refused(format_args!(
                "{shown} is linked with musl ({loader}) and libremora.so with glibc: use a glibc build of the program"
            )));
        }
        Some(_) => {}
    }
    match own_rights(path) {
        None => Ok(()),
        Some(rights) => Err(Failure::refused(format_args!(
            "{shown} has {rights}: the loader ignores preloaded libraries for it; run a copy without (cp makes one), or \
             run it as the user it belongs to"
        ))),
    }
}

/// A script runs as its interpreter; `env` runs what follows it.
fn check_script(
    path: &Path,
    script: &Script,
    arguments: &[OsString],
    library: &Elf,
    depth: u32,
) -> Result<(), Failure> {
    let interpreter = Path::new(&script.interpreter);
    let because = |failure: Failure| Failure {
        status: failure.status,
        text: format!("{}: its interpreter: {}", path.display(), failure.text),
    };
    find(interpreter.as_os_str()).map_err(because)?;
    check_at(interpreter, arguments, library, depth).map_err(because)?;
    if interpreter.file_name() != Some(OsStr::new("env")) {
        return Ok(());
    }
    let words = script.argument.iter().flat_map(|argument| argument.split_ascii_whitespace());
    let Some(program) = words.clone().find(|word| !word.starts_with('-') && !word.contains('=')) else {
        return Ok(());
    };
    let found = find(OsStr::new(program)).map_err(because)?;
    check_at(&found, arguments, library, depth).map_err(because)
}

/// The first line of a script.
struct Script {
    interpreter: String,
    argument: Option<String>,
}

fn script(path: &Path) -> Option<Script> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(SCRIPT_HEAD as u64).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line).trim().to_owned();
    let (interpreter, argument) = match line.split_once([' ', '\t']) {
        Some((interpreter, rest)) => (interpreter.to_owned(), Some(rest.trim().to_owned())),
        None => (line, None),
    };
    (!interpreter.is_empty()).then_some(Script { interpreter, argument })
}

/// Rights that the program would gain, for which the loader goes into secure-execution mode.
fn own_rights(path: &Path) -> Option<&'static str> {
    let metadata = path.metadata().ok()?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // PR_SET_NO_NEW_PRIVS: nothing is gained, so nothing is secure.
    if field(&status, "NoNewPrivs:").next() == Some("1") {
        return None;
    }
    // Real, effective, saved, file system.
    let user: Option<u32> = field(&status, "Uid:").next().and_then(|id| id.parse().ok());
    let group: Option<u32> = field(&status, "Gid:").next().and_then(|id| id.parse().ok());
    let mode = metadata.mode();
    if mode & libc::S_ISUID != 0 && user != Some(metadata.uid()) {
        return Some("the setuid bit of another user");
    }
    // Without group execution the bit means something else (mandatory locking, once).
    if mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP && group != Some(metadata.gid()) {
        return Some("the setgid bit of another group");
    }
    // cap_bprm_creds_from_file: a real root gains nothing by capabilities.
    let attribute = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    (user != Some(0) && call::has_attribute(&attribute, c"security.capability")).then_some("file capabilities")
}

/// The words after a label of /proc/self/status.
fn field<'a>(status: &'a str, label: &str) -> impl Iterator<Item = &'a str> {
    status.lines().find_map(|line| line.strip_prefix(label)).unwrap_or("").split_ascii_whitespace()
}

/// What an ELF file is (elf(5)).
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    /// 64-bit.
    wide: bool,
    /// Processor, as e_machine.
    machine: u16,
    /// The dynamic loader that it asks for.
    interpreter: Option<String>,
}

impl Elf {
    /// Reads the headers; `None` for a file that is not ELF.
    fn read(path: &Path) -> std::io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        file.by_ref().take(64).read_to_end(&mut head)?;
        let Some(head) = Header::parse(&head) else { return Ok(None) };
        let mut table = vec![0; usize::from(head.entry_size) * usize::from(head.entries)];
        if table.len() > HEADERS_MAX {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(head.table))?;
        file.read_exact(&mut table)?;
        let entry = table
            .chunks_exact(usize::from(head.entry_size).max(1))
            .find(|entry| head.bytes.word32(entry, 0) == Some(PT_INTERP));
        let place = entry.and_then(|entry| {
            if head.wide {
                Some((head.bytes.word64(entry, 8)?, head.bytes.word64(entry, 32)?))
            } else {
                Some((head.bytes.word32(entry, 4)?.into(), head.bytes.word32(entry, 16)?.into()))
            }
        });
        let interpreter = match place {
            Some((offset, size)) => {
                file.seek(SeekFrom::Start(offset))?;
                let mut text = Vec::new();
                file.take(size.min(libc::PATH_MAX as u64)).read_to_end(&mut text)?;
                Some(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
            }
            None => None,
        };
        Ok(Some(Self { wide: head.wide, machine: head.machine, interpreter }))
    }
}

/// Byte order of a file.
#[derive(Clone, Copy)]
struct Bytes {
    big: bool,
}

impl Bytes {
    fn at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..)?.first_chunk().copied()
    }

    fn word16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let word = Self::at(bytes, at)?;
        Some(if self.big { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) })
    }

    fn word32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = Self::at(bytes, at)?;
        Some(if self.big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }

    fn word64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let word = Self::at(bytes, at)?;
        Some(if self.big { u64::from_be_bytes(word) } else { u64::from_le_bytes(word) })
    }
}

/// The ELF header, as far as it leads to the program headers.
struct Header {
    bytes: Bytes,
    wide: bool,
    machine: u16,
    table: u64,
    entry_size: u16,
    entries: u16,
}

impl Header {
    fn parse(head: &[u8]) -> Option<Self> {
        let [b'\x7f', b'E', b'L', b'F', class, order, ..] = *head else { return None };
        let bytes = Bytes { big: order == 2 };
        let wide = class == 2;
        let machine = bytes.word16(head, 18)?;
        let (table, sizes) = if wide { (bytes.word64(head, 32)?, 54) } else { (bytes.word32(head, 28)?.into(), 42) };
        let entry_size = bytes.word16(head, sizes)?;
        let entries = bytes.word16(head, sizes + 2)?;
        Some(Self { bytes, wide, machine, table, entry_size, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_elf() -> Elf {
        Elf::read(&std::env::current_exe().unwrap()).unwrap().unwrap()
    }

    #[test]
    fn this_test_program_is_dynamic() {
        let elf = own_elf();
        assert!(elf.wide && elf.interpreter.unwrap().contains("ld-linux"));
    }

    #[test]
    fn damaged_headers_are_no_elf_and_never_panic() {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("remora-elf-{}", std::process::id()));
        for length in 0..80 {
            std::fs::write(&path, &whole[..length]).unwrap();
            let _ = Elf::read(&path);
        }
        let mut wild = whole[..64].to_vec();
        wild[32..64].fill(0xff);
        std::fs::write(&path, &wild).unwrap();
        let _ = Elf::read(&path);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn scripts_name_their_interpreter_and_its_argument() {
        let path = std::env::temp_dir().join(format!("remora-script-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            script(&path).map(|script| (script.interpreter, script.argument))
        };
        assert_eq!(read("#!/bin/sh\n"), Some(("/bin/sh".to_owned(), None)));
        assert_eq!(
            read("#! /usr/bin/env -S python3 -u\nx"),
            Some(("/usr/bin/env".to_owned(), Some("-S python3 -u".to_owned())))
        );
        assert_eq!(read("#!\n"), None);
        assert_eq!(read("echo"), None);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        assert_eq!(find(OsStr::new("no-such-program-at-all")).unwrap_err().status, NOT_FOUND);
        assert_eq!(find(OsStr::new("/no/such/program")).unwrap_err().status, NOT_FOUND);
        assert_eq!(find(OsStr::new("/etc/passwd")).unwrap_err().status, NOT_EXECUTABLE);
        assert_eq!(find(OsStr::new("/etc")).unwrap_err().status, NOT_EXECUTABLE);
        assert!(find(OsStr::new("sh")).is_ok());
    }
}
