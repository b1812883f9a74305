//! `remora run`: checks what can be checked, says plainly what is wrong and what to do, then becomes the program.

use crate::cli;
use crate::overlay::{Overlay, unknown_variables};
use crate::{Failure, NOT_EXECUTABLE, NOT_FOUND, program, served};
use remora_host::config::{Config, Source, System, Value};
use remora_host::sys::Errno;
use remora_host::sys::call;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The library's file name.
const LIBRARY: &str = "libremora.so";

/// Does it. Only failures return.
pub fn run(arguments: &cli::Run) -> Result<ExitCode, Failure> {
    let overlay = Overlay::new(&arguments.network);
    let mut config = Config::from_environment(&|name| overlay.value(name)).map_err(Failure::refused)?;
    for name in unknown_variables() {
        eprintln!("remora: note: {name} is not a variable of remora's (remora --help lists them)");
    }
    if config.address.is_none() && config.takes_interface_address.is_none() {
        return Err(Failure::refused(
            "no address: give --addr A.B.C.D/LEN (a free address of the interface's network) and --iface NAME, or set \
             REMORA_ADDR and REMORA_IFACE; `remora demo` needs neither",
        ));
    }
    if config.deep.value && call::end_dispatch().is_err() {
        return Err(Failure::refused(
            "--deep: this kernel cannot hand a program's own system calls over (Syscall User Dispatch: Linux 5.11, x86-64)",
        ));
    }
    let library = find_library()?;
    check_network(&mut config)?;
    for (file, name) in [(&config.log_file, "REMORA_LOG_FILE"), (&config.pcap, "REMORA_PCAP")] {
        check_writable(file.as_ref(), name)?;
    }
    let (name, rest) = arguments.program.split_first().ok_or_else(|| Failure::refused("no program"))?;
    let path = program::find(name)?;
    let mut command = Command::new(&path);
    command.arg0(name).args(rest);
    if arguments.served {
        program::check_served(&path, &library)?;
        served::begin(&library, &overlay)?;
    } else {
        program::check(&path, rest, &library)?;
        command.env("LD_PRELOAD", preload(&library));
    }
    for (name, value) in overlay.variables() {
        command.env(name, value);
    }
    let error = command.exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    Err(Failure { status, text: format!("{}: {error}", path.display()) })
}

/// The value of LD_PRELOAD with the library before those that are there already.
pub fn preload(library: &Path) -> OsString {
    let mut list = library.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        list.push(":");
        list.push(others);
    }
    list
}

/// The library that `REMORA_LIB` names, or the one beside this program or in ../lib.
pub fn find_library() -> Result<PathBuf, Failure> {
    let candidates = match std::env::var_os("REMORA_LIB").filter(|path| !path.is_empty()) {
        Some(path) => vec![PathBuf::from(path)],
        None => {
            let own = std::env::current_exe()
                .map_err(|error| Failure::refused(format_args!("cannot tell where remora is installed: {error}")))?;
            let directory = own.parent().unwrap_or(Path::new("/"));
            vec![directory.join(LIBRARY), directory.join("../lib").join(LIBRARY)]
        }
    };
    let found = candidates.iter().find(|path| path.is_file()).and_then(|path| path.canonicalize().ok());
    let Some(library) = found else {
        let places = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ");
        return Err(Failure::refused(format_args!(
            "{LIBRARY} is not at {places}: build it (cargo build --release), or set REMORA_LIB to where it is"
        )));
    };
    // ld.so parts the list at both, and knows no quoting.
    if library.to_string_lossy().contains([' ', ':']) {
        return Err(Failure::refused(format_args!(
            "{}: LD_PRELOAD cannot name a path with a space or a colon: install the library elsewhere and set REMORA_LIB",
            library.display()
        )));
    }
    Ok(library)
}

fn check_network(config: &mut Config) -> Result<(), Failure> {
    let system = System::host();
    config.resolve(&system).map_err(Failure::refused)?;
    let Some(facts) = config.require_interface(&system).map_err(Failure::refused)? else { return Ok(()) };
    let name = config.interface.as_ref().map_or("", |name| name.value.as_str());
    if !facts.is_up() {
        return Err(Failure::refused(format_args!("{name} is down: bring it up with `ip link set {name} up`")));
    }
    let ours = config.address.as_ref().filter(|address| address.source != Source::Interface);
    if let (Some(ours), Some((kernels, _))) = (ours, facts.address)
        && ours.value.address == kernels
    {
        return Err(Failure::refused(format_args!(
            "REMORA_ADDR={}: the kernel has {kernels} on {name} and would answer our peers with resets: choose a free \
             address of the same network, or give --addr iface to share it knowingly",
            ours.value
        )));
    }
    check_right()
}

/// Both back ends that use an interface open AF_PACKET, which takes CAP_NET_RAW in the namespace's user namespace.
fn check_right() -> Result<(), Failure> {
    // Protocol 0 receives nothing.
    match call::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) {
        Ok(fd) => {
            let _ = call::close(fd);
            Ok(())
        }
        Err(Errno(libc::EPERM | libc::EACCES)) => Err(Failure::refused(
            "no right to open AF_PACKET sockets (CAP_NET_RAW): run as root (sudo remora run ...), in a namespace of your \
             own (unshare -Urn), or without an interface (--device unix:@NAME)",
        )),
        Err(Errno(libc::EAFNOSUPPORT)) => Err(Failure::refused(
            "this kernel has no AF_PACKET sockets (modprobe af_packet), or a sandbox refuses them",
        )),
        Err(error) => Err(Failure::refused(format_args!("opening an AF_PACKET socket: {error}"))),
    }
}

fn check_writable(file: Option<&Value<PathBuf>>, name: &str) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    std::fs::OpenOptions::new().append(true).create(true).open(&file.value).map(drop).map_err(|error| {
        Failure::refused(format_args!(
            "{name}={}: cannot be written: {error}: allowed is a file in a directory that you may write to",
            file.value.display()
        ))
    })
}
