//! The demo's stage: runs in a fresh network namespace, makes the veth pair whose other end goes to the server's
//! namespace, runs curl, and takes the pair down again. Its exit status and output are curl's.

use super::{PREFIX, THEIRS, fetch, own, serve, settle, tool, unshare};
use crate::Failure;
use crate::cli::Stage;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The pair's two ends.
const OURS: &str = "remora0";
const THEIR_END: &str = "remora1";
const PORT: u16 = 80;

/// Plays it.
pub fn play(arguments: &Stage) -> Result<ExitCode, Failure> {
    let failed = |what: &str, error: std::io::Error| Failure::refused(format_args!("{what}: {error}"));
    // Namespaces within ours need no further user namespace: we are root in this one.
    let mut server = unshare(false);
    server.arg(own()?).args(["__serve", "--interface", THEIR_END, &THEIRS.to_string(), &PORT.to_string()]);
    let mut server = serve::Server::start(&mut server).map_err(|error| failed("starting the server", error))?;
    server.wait_for("waiting").map_err(|error| failed("the server", error))?;
    let namespace = server.id().to_string();
    ip(&["link", "add", OURS, "type", "veth", "peer", "name", THEIR_END, "netns", &namespace])?;
    ip(&["link", "set", OURS, "up"])?;
    server.go_on().and_then(|()| server.wait_for("serving")).map_err(|error| failed("the server", error))?;

    let result = fetch(&arguments.directory, &arguments.library, &arguments.curl, PORT, OURS);
    settle(&arguments.directory);
    server.stop();
    // The keeper may outlive us by a moment and would hold the namespace; the link goes at once. It may have gone
    // already, with the server's namespace.
    let _ = ip(&["link", "delete", OURS]);
    let output = result.map_err(|error| failed("running curl", error))?;
    let _ = std::io::stdout().write_all(&output.stdout);
    let _ = std::io::stderr().write_all(&output.stderr);
    Ok(if output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets up the server's end, called in its namespace.
pub(super) fn set_up(interface: &str) -> Result<(), Failure> {
    ip(&["address", "add", &format!("{THEIRS}/{PREFIX}"), "dev", interface])?;
    ip(&["link", "set", interface, "up"])
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let mut command: Command = tool("ip");
    let output = super::output_within(command.args(arguments), Duration::from_secs(5))
        .map_err(|error| Failure::refused(format_args!("ip {}: {error}", arguments.join(" "))))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Failure::refused(format_args!("ip {}: {}", arguments.join(" "), reason.trim())))
}
