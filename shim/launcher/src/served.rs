//! `remora run --static`: a seccomp filter for the program that hands its socket calls over, and a process beside it,
//! under the library, that answers them (`libremora.so`, `calls::supervisor`). The program takes this process's place and
//! knows nothing of that one.

use crate::cli;
use crate::overlay::Overlay;
use crate::{Failure, run};
use remora_host::sys::{Errno, Fd, call};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// PR_SET_NO_NEW_PRIVS (prctl(2)): without CAP_SYS_ADMIN a filter needs it.
const NO_NEW_PRIVILEGES: i32 = libc::PR_SET_NO_NEW_PRIVS;

/// What libremora.so looks for (`abi::process`).
const SUPERVISOR: &str = "REMORA_SUPERVISOR";

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::refused(format_args!("--static: {what}: {errno}"))
}

/// Starts the process beside the program, and enters the filter.
///
/// # Errors
/// A refusal with the reason.
pub fn begin(library: &Path, overlay: &Overlay) -> Result<(), Failure> {
    let (near, far) = call::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC)
        .map_err(|errno| failed("a pair of sockets", errno))?;
    // It crosses two images.
    let _ = call::fcntl(far, libc::F_SETFD, 0);
    let mut command = Command::new("/proc/self/exe");
    command.arg("__supervise").arg(far.raw().to_string()).arg(library);
    for (name, value) in overlay.variables() {
        command.env(name, value);
    }
    // It leaves the one that stays behind as an orphan: the program must not find a child that it has not made.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let _ = call::close(far);
    if !status.is_ok_and(|status| status.success()) {
        return Err(Failure::refused("--static: the process beside the program cannot be started"));
    }
    let notifier = match call::hand_over_sockets() {
        Err(Errno(libc::EACCES)) => {
            call::prctl(NO_NEW_PRIVILEGES, 1).map_err(|errno| failed("giving up new rights", errno))?;
            call::hand_over_sockets()
        }
        other => other,
    };
    let notifier = notifier.map_err(|errno| match errno {
        Errno(libc::EBUSY) => Failure::refused("--static: a filter with a notifier is there already (a container's?)"),
        errno => failed("the seccomp filter", errno),
    })?;
    let _ = call::send_descriptors(near, &[0], &[notifier], 0);
    let _ = call::close(notifier);
    let mut ready = [0];
    let heard = call::receive(near, &mut ready, 0);
    let _ = call::close(near);
    if heard != Ok(1) {
        return Err(Failure::refused("--static: the stack beside the program cannot be brought up (see the log)"));
    }
    Ok(())
}

/// Starts the one that stays, and goes.
///
/// # Errors
/// None but that it cannot be started.
pub fn supervise(arguments: &cli::Supervise) -> Result<ExitCode, Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.env("LD_PRELOAD", run::preload(&arguments.library)).env(SUPERVISOR, arguments.link.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let started = command.arg0("remora-static").spawn();
    let _ = call::close(Fd(arguments.link));
    started.map(|_| ExitCode::SUCCESS).map_err(|error| Failure::refused(format_args!("--static: {error}")))
}
