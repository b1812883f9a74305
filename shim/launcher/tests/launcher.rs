//! What `remora` says and which status it ends with, against the real binary. The library is a dummy made by gcc: what
//! is tested here happens before it would do anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world must fail loudly")]

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// An address and a device that need nothing of the machine.
const UNIX: [&str; 4] = ["--addr", "10.99.7.1/24", "--device", "unix:@remora-launcher-test"];

/// A directory for one test, removed when it is over.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("remora-launcher-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Compiles a C source.
    fn compile(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let output = self.0.join(name);
        let input = self.file(&format!("{name}.c"), source.as_bytes(), 0o644);
        let status = Command::new("gcc").arg("-o").arg(&output).args(flags).arg(input).status().unwrap();
        assert!(status.success(), "gcc {flags:?}");
        output
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A shared library that does nothing but say, by a variable, that it was loaded.
fn library() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = Directory::new("library");
        let made = directory.compile(
            "dummy.so",
            "#include <stdlib.h>\n__attribute__((constructor)) static void on(void) { setenv(\"LOADED\", \"yes\", 1); }\n",
            &["-shared", "-fPIC"],
        );
        // In target/, so that it needs no removing.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libremora-dummy.so");
        std::fs::copy(made, &path).unwrap();
        path
    })
}

fn remora(arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REMORA_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).env("REMORA_LIB", library()).env_remove("LD_PRELOAD");
    command
}

fn run(arguments: &[&str]) -> Output {
    let arguments: Vec<&OsStr> = std::iter::once("run").chain(arguments.iter().copied()).map(OsStr::new).collect();
    remora(&arguments).output().unwrap()
}

/// Runs a program over the unix device.
fn run_program(program: &[&str]) -> Output {
    run(&[&UNIX, &["--"][..], program].concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts a refusal of status 2 whose single line begins with `remora: ` and holds all of `parts`.
fn refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("remora: ") && text.lines().count() == 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn exit_status_arguments_and_output_are_the_programs() {
    let output = run_program(&["sh", "-c", "echo \"$0 $1\"; exit 7", "a b", "--addr"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a b --addr\n");
    assert!(output.stderr.is_empty());
}

#[test]
fn a_signal_that_kills_the_program_is_seen() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run_program(&["sh", "-c", "kill -TERM $$"]).status.signal(), Some(libc::SIGTERM));
}

#[test]
fn flags_become_variables_and_the_library_is_first() {
    let flags = [
        "--gateway",
        "10.99.7.9",
        "--mac",
        "02:00:00:00:00:05",
        "--mtu",
        "1300",
        "--log",
        "debug",
        "--loopback",
        "stack",
        "--strict",
        "--sysctl",
        "net.ipv4.tcp_sack=0",
        "--sysctl",
        "net.ipv4.tcp_timestamps=0",
    ];
    let arguments: Vec<&OsStr> =
        ["run"].iter().chain(&UNIX).chain(&flags).chain(&["--", "env"]).map(OsStr::new).collect();
    let output = remora(&arguments)
        .env("LD_PRELOAD", "libc.so.6")
        .env("REMORA_MTU", "1200")
        .env("REMORA_SYSCTL", "net.ipv4.tcp_sack=1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let preload = format!("LD_PRELOAD={}:libc.so.6", library().display());
    for line in [
        preload.as_str(),
        "LOADED=yes",
        "REMORA_ADDR=10.99.7.1/24",
        "REMORA_DEVICE=unix:@remora-launcher-test",
        "REMORA_GATEWAY=10.99.7.9",
        "REMORA_MAC=02:00:00:00:00:05",
        "REMORA_MTU=1300",
        "REMORA_LOG=debug",
        "REMORA_LOOPBACK=stack",
        "REMORA_STRICT=1",
        "REMORA_SYSCTL=net.ipv4.tcp_sack=1;net.ipv4.tcp_sack=0;net.ipv4.tcp_timestamps=0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in:\n{text}{}", stderr(&output));
    }
}

#[test]
fn bad_values_are_refused_before_anything_starts() {
    let bad = |arguments: &[&str], parts: &[&str]| {
        refused(&run(&[arguments, &["--", "sh", "-c", "echo started"][..]].concat()), parts);
    };
    bad(&["--addr", "10.99.7.1"], &["REMORA_ADDR=10.99.7.1: allowed is a.b.c.d/len", "10.99.7.1/24"]);
    bad(&["--addr", "fd00::1/64"], &["IPv4 only for now"]);
    bad(&["--addr", "10.99.7.1/24", "--mtu", "9"], &["REMORA_MTU=9: allowed is a number of bytes from 68 to 65535"]);
    bad(&["--addr", "10.99.7.1/24", "--log", "loud"], &["REMORA_LOG=loud"]);
    bad(&[&UNIX[..], &["--sysctl", "net.ipv4.tcp_sack=x"]].concat(), &["REMORA_SYSCTL: net.ipv4.tcp_sack=x"]);
    bad(
        &[&UNIX[..], &["--config", "/nonexistent.toml"]].concat(),
        &["REMORA_CONFIG=/nonexistent.toml: cannot be read"],
    );
    bad(&[&UNIX[..], &["--pcap", "/nonexistent/x"]].concat(), &["REMORA_PCAP=/nonexistent/x: cannot be written"]);
    bad(&[], &["no address", "--addr", "--iface"]);
}

#[test]
fn a_missing_interface_is_named_with_those_that_exist() {
    refused(
        &run(&["--iface", "nosuch0", "--addr", "10.99.7.1/24", "true"]),
        &["REMORA_IFACE=nosuch0: no such interface: allowed is"],
    );
}

#[test]
fn a_missing_library_is_told_with_what_to_do() {
    let arguments: Vec<&OsStr> = ["run"].iter().chain(&UNIX).chain(&["true"]).map(OsStr::new).collect();
    let output = remora(&arguments).env("REMORA_LIB", "/nonexistent/libremora.so").output().unwrap();
    refused(&output, &["libremora.so is not at /nonexistent/libremora.so", "cargo build --release", "REMORA_LIB"]);
    let text_file = Directory::new("text");
    let path = text_file.file("libremora.so", b"text", 0o644);
    refused(&remora(&arguments).env("REMORA_LIB", path).output().unwrap(), &["not a shared library"]);
}

#[test]
fn not_found_is_127_and_not_executable_126() {
    let output = run_program(&["no-such-program-at-all"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(stderr(&output).contains("no-such-program-at-all: program not found on PATH"));
    assert_eq!(run_program(&["/no/such/program"]).status.code(), Some(127));
    let directory = Directory::new("plain");
    let plain = directory.file("plain", b"echo", 0o644);
    let output = run_program(&[plain.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(126));
    assert!(stderr(&output).contains("is not executable (chmod +x)"));
    assert_eq!(run_program(&["/tmp"]).status.code(), Some(126));
}

#[test]
fn a_static_program_is_refused_also_as_an_interpreter() {
    let directory = Directory::new("static");
    let program = directory.compile("static", "int main(void) { return 0; }\n", &["-static"]);
    let shown = program.to_str().unwrap();
    refused(&run_program(&[shown]), &[shown, "statically linked", "dynamically linked build"]);
    let pie = directory.compile("static-pie", "int main(void) { return 0; }\n", &["-static-pie"]);
    refused(&run_program(&[pie.to_str().unwrap()]), &["statically linked"]);
    let script = directory.file("script", format!("#!{shown} -x\n").as_bytes(), 0o755);
    refused(&run_program(&[script.to_str().unwrap()]), &["script: its interpreter: ", "statically linked"]);
    let through_env = directory.file("by-env", b"#!/usr/bin/env -S static -x\n", 0o755);
    let arguments: Vec<&OsStr> = ["run"].iter().chain(&UNIX).map(OsStr::new).chain([through_env.as_os_str()]).collect();
    let path = format!("{}:/usr/bin:/bin", directory.0.display());
    refused(
        &remora(&arguments).env("PATH", path).output().unwrap(),
        &["by-env: its interpreter: ", "statically linked"],
    );
}

#[test]
fn scripts_and_plain_text_run() {
    let directory = Directory::new("script");
    let script = directory.file("script", b"#!/bin/sh\nexit 3\n", 0o755);
    assert_eq!(run_program(&[script.to_str().unwrap()]).status.code(), Some(3));
    let text = directory.file("text", b"exit 4\n", 0o755);
    assert_eq!(run_program(&[text.to_str().unwrap()]).status.code(), Some(4));
    let lost = directory.file("lost", b"#!/no/such/interpreter\n", 0o755);
    let output = run_program(&[lost.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(127));
    assert!(stderr(&output).contains("its interpreter: /no/such/interpreter: program not found"));
}

#[test]
fn a_setuid_program_is_refused() {
    let directory = Directory::new("setuid");
    let copy = directory.file("setuid", &std::fs::read("/bin/true").unwrap(), 0o755);
    // Root can make one that belongs to another user; everybody else finds root's own on every system.
    let program = match std::os::unix::fs::chown(&copy, Some(65_534), None) {
        Ok(()) => {
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o4755)).unwrap();
            copy
        }
        Err(_) => PathBuf::from("/usr/bin/passwd"),
    };
    refused(
        &run_program(&[program.to_str().unwrap()]),
        &[program.to_str().unwrap(), "the setuid bit of another user", "the loader ignores preloaded libraries"],
    );
}

#[test]
fn a_32_bit_program_is_refused() {
    let directory = Directory::new("narrow");
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(52, 0);
    elf[18] = 3;
    let program = directory.file("narrow", &elf, 0o755);
    refused(&run_program(&[program.to_str().unwrap()]), &["is a 32-bit program and libremora.so is 64-bit"]);
}

#[test]
fn config_prints_values_with_their_sources() {
    let arguments: Vec<&OsStr> = ["config", "--mtu", "1300"].iter().chain(&UNIX).map(OsStr::new).collect();
    let output = remora(&arguments).env("REMORA_LOG", "debug").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let columns = |name: &str| {
        let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(name)).unwrap().to_owned();
        line.split_ascii_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(columns("REMORA_MTU"), "1300 command line");
    assert_eq!(columns("REMORA_LOG"), "debug environment REMORA_LOG");
    assert_eq!(columns("REMORA_STRICT"), "0 default");
    assert!(columns("net.ipv4.tcp_sack").ends_with(" /proc/sys"));
    let json: Vec<&OsStr> = ["config", "--json"].iter().chain(&UNIX).map(OsStr::new).collect();
    let text = String::from_utf8_lossy(&remora(&json).output().unwrap().stdout).into_owned();
    assert!(text.contains("\"REMORA_ADDR\": {\"value\": \"10.99.7.1/24\", \"source\": \"command line\"}"), "{text}");
}

#[test]
fn misspelt_variables_are_noted() {
    let arguments: Vec<&OsStr> = ["run"].iter().chain(&UNIX).chain(&["true"]).map(OsStr::new).collect();
    let output = remora(&arguments).env("REMORA_ADRESS", "x").output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("REMORA_ADRESS is not a variable of remora's"));
}

#[test]
fn manual_and_completions_are_generated() {
    let directory = Directory::new("generated");
    assert!(remora(&[OsStr::new("__generate"), directory.0.as_os_str()]).status().unwrap().success());
    let read = |name: &str| std::fs::read_to_string(directory.0.join(name)).unwrap();
    assert!(read("man/remora.1").contains("REMORA_IFACE") && read("man/remora-run.1").contains("Exit status"));
    for name in ["completions/remora.bash", "completions/remora.fish", "completions/_remora", "man/remora-demo.1"] {
        assert!(read(name).contains("remora"), "{name}");
    }
}

#[test]
fn help_teaches() {
    let output = remora(&[OsStr::new("--help")]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["Examples:", "remora demo", "REMORA_SYSCTL", "REMORA_STRICT"] {
        assert!(text.contains(part), "{part}");
    }
    let output = remora(&["run", "--help"].map(OsStr::new)).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("126  the program was found but cannot be run"));
}
