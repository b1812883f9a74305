//! `remora demo`: one unmodified curl fetches one page over remora, and the connection's story is told from the log of
//! its calls and the capture of its frames. Needs no rights where user namespaces are allowed, and none at all over the
//! `unix` back end. Everything that it makes is removed again, and all of it is bounded in time.

mod frame;
mod narrate;
mod paint;
mod pcap;
pub mod serve;
pub mod stage;
mod trace;

use crate::cli::{Demo, Link};
use crate::{Failure, program, run};
use paint::Paint;
use remora_host::sys::{Fd, call};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// remora's end of the link and the server's.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const PREFIX: u8 = 24;

/// The whole demo ends by then, whatever happens.
const LIFE: Duration = Duration::from_secs(25);
/// How long curl may take (it is told so, and killed a little later).
const CLIENT_LIFE: Duration = Duration::from_secs(10);
/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(5);

/// Files in the demo's directory.
const LOG: &str = "remora.log";
const CAPTURE: &str = "remora.pcapng";
const PAGE: &str = "page.html";

/// Signals that end the demo early; blocked here so that it can clean up, delivered to its children as usual.
const ENDING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// Where they arrive.
static SIGNALS: OnceLock<Fd> = OnceLock::new();

/// Plays it.
pub fn play(arguments: &Demo) -> Result<ExitCode, Failure> {
    let library = run::find_library()?;
    let curl = program::find(OsStr::new("curl"))
        .map_err(|_| Failure::refused("the demo runs curl, which is not on PATH (apt install curl)"))?;
    program::check(&curl, &[], &library)?;
    catch_signals();

    let link = choose(arguments.link)?;
    let directory = Directory::make(arguments.keep.clone())?;
    let outcome = match &link {
        Chosen::Namespace { rootless } => play_in_namespace(*rootless, directory.path(), &library, &curl),
        Chosen::Unix(_) => play_over_unix(directory.path(), &library, &curl),
    }?;
    let paint = Paint::choose(arguments.color);
    let mut text = link.introduction(&paint);
    text += &narrate::story(directory.path(), &paint);
    text += &narrate::ending(directory.path(), &outcome, &paint);
    if arguments.keep.is_some() {
        text += &format!("Log, capture and page are in {}.\n", directory.path().display());
    }
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if outcome.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Turns the signals that end the demo into something that it can look at.
fn catch_signals() {
    let mask = ENDING.iter().fold(0, |mask, signal| mask | call::signal_bit(*signal));
    // Without them, an interrupted demo would only leave its directory behind.
    let fd = call::signal_mask(libc::SIG_BLOCK, mask)
        .and_then(|_| call::signalfd(mask, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC));
    if let Ok(fd) = fd {
        // The first one stays.
        let _ = SIGNALS.set(fd);
    }
}

/// Whether the demo has been told to end.
fn is_interrupted() -> bool {
    let mut signal = [0; 128];
    SIGNALS.get().is_some_and(|fd| call::read(*fd, &mut signal).is_ok())
}

/// How curl fared.
pub struct Outcome {
    success: bool,
    /// What it, or what started it, said.
    message: String,
}

/// The link that is used.
enum Chosen {
    Namespace {
        rootless: bool,
    },
    /// Why there is no namespace.
    Unix(String),
}

impl Chosen {
    fn introduction(&self, paint: &Paint) -> String {
        let (ours, theirs) = (OURS, THEIRS);
        let (wire, peer) = match self {
            Self::Namespace { .. } => ("a veth pair, frames by AF_PACKET", "the kernel's TCP in a network namespace"),
            Self::Unix(_) => ("a unix socket that carries Ethernet frames", "remora's own TCP in a second process"),
        };
        let mut text = format!(
            "{}\n  curl {ours}  ──  {wire}  ──  {theirs} {peer}\n",
            paint.bold("One unmodified curl, on a TCP/IP stack inside its own process")
        );
        if let Self::Unix(reason) = self
            && !reason.is_empty()
        {
            text += &format!("  (no network namespace: {reason})\n");
        }
        text + "\n"
    }
}

fn choose(asked: Link) -> Result<Chosen, Failure> {
    match asked {
        Link::Unix => Ok(Chosen::Unix(String::new())),
        Link::Namespace => {
            namespace().map_err(|reason| Failure::refused(format_args!("no network namespace: {reason}")))
        }
        Link::Auto => Ok(namespace().unwrap_or_else(Chosen::Unix)),
    }
}

/// Finds out whether a namespace can be made, and how.
fn namespace() -> Result<Chosen, String> {
    for (tool, package) in [("ip", "iproute2"), ("unshare", "util-linux")] {
        find_tool(tool).ok_or_else(|| format!("`{tool}` is not installed (apt install {package})"))?;
    }
    let mut reason = String::new();
    for rootless in [false, true] {
        let mut probe = unshare(rootless);
        probe.arg("true");
        match output_within(&mut probe, Duration::from_secs(5)) {
            Ok(output) if output.status.success() => return Ok(Chosen::Namespace { rootless }),
            Ok(output) => reason = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// A tool of the system, also where an ordinary user's PATH does not lead.
fn find_tool(name: &str) -> Option<PathBuf> {
    program::find(OsStr::new(name)).ok().or_else(|| {
        ["/usr/sbin", "/sbin"].iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
    })
}

fn tool(name: &str) -> Command {
    Command::new(find_tool(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// The start of a command line that runs the rest in a new network namespace.
fn unshare(rootless: bool) -> Command {
    let mut command = tool("unshare");
    if rootless {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--"]);
    command
}

/// This program.
fn own() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::refused(format_args!("cannot find myself: {error}")))
}

fn play_in_namespace(rootless: bool, directory: &Path, library: &Path, curl: &Path) -> Result<Outcome, Failure> {
    let mut command = unshare(rootless);
    command.arg(own()?).arg("__stage").args([directory, library, curl]);
    let output = output_within(&mut command, LIFE)
        .map_err(|error| Failure::refused(format_args!("the demo's stage: {error}")))?;
    Ok(Outcome::of(&output))
}

fn play_over_unix(directory: &Path, library: &Path, curl: &Path) -> Result<Outcome, Failure> {
    /// Ports below 1024 take a right that this way is meant to do without.
    const PORT: u16 = 8080;
    let failed = |what: &str, error: std::io::Error| Failure::refused(format_args!("{what}: {error}"));
    let link = format!("unix:{}", directory.join("wire").display());
    let mut server = Command::new(own()?);
    server.args(["__serve", &THEIRS.to_string(), &PORT.to_string()]);
    under_remora(&mut server, library, THEIRS, &link);
    server.env("REMORA_LOG", "warn");
    let mut server = serve::Server::start(&mut server).map_err(|error| failed("starting the server", error))?;
    server.wait_for("serving").map_err(|error| failed("the server", error))?;
    let output = fetch(directory, library, curl, PORT, &link).map_err(|error| failed("running curl", error))?;
    settle(directory);
    server.stop();
    Ok(Outcome::of(&output))
}

impl Outcome {
    fn of(output: &Output) -> Self {
        let text = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
        Self { success: output.status.success(), message: text.join("\n").trim().to_owned() }
    }
}

/// Sets the variables of a program that runs on remora.
fn under_remora(command: &mut Command, library: &Path, address: Ipv4Addr, link: &str) {
    // A demo must not depend on what the user's own configuration says.
    for name in remora_host::config::variable_names() {
        command.env_remove(name);
    }
    command
        .env("LD_PRELOAD", run::preload(library))
        .env("REMORA_ADDR", format!("{address}/{PREFIX}"))
        .env("REMORA_STRICT", "1")
        .env("REMORA_LOG", "trace");
    if link.starts_with("unix:") {
        command.env("REMORA_DEVICE", link);
    } else {
        command.env("REMORA_IFACE", link);
    }
}

/// Runs curl over `link` and returns what it said.
fn fetch(directory: &Path, library: &Path, curl: &Path, port: u16, link: &str) -> std::io::Result<Output> {
    let mut command = Command::new(curl);
    under_remora(&mut command, library, OURS, link);
    let url = if port == 80 { format!("http://{THEIRS}/") } else { format!("http://{THEIRS}:{port}/") };
    command
        .env("REMORA_LOG_FILE", directory.join(LOG))
        .env("REMORA_PCAP", directory.join(CAPTURE))
        // -q: no configuration of the user's.
        .args(["-q", "--silent", "--show-error", "--noproxy", "*", "--max-time"])
        .arg(CLIENT_LIFE.as_secs().to_string())
        .args(["--write-out", "%{http_code} %{size_download}", "--output"])
        .arg(directory.join(PAGE))
        .arg(url);
    output_within(&mut command, CLIENT_LIFE + Duration::from_secs(2))
}

/// Gives the keeper time to finish the close, so that the capture has all of it: until no frame has come for a while.
fn settle(directory: &Path) {
    /// A FIN and its acknowledgement on a local link take microseconds.
    const QUIET: Duration = Duration::from_millis(150);
    const LONGEST: Duration = Duration::from_secs(2);
    let size = || std::fs::metadata(directory.join(CAPTURE)).map_or(0, |metadata| metadata.len());
    let (start, mut last, mut since) = (Instant::now(), size(), Instant::now());
    while since.elapsed() < QUIET && start.elapsed() < LONGEST {
        std::thread::sleep(TICK);
        let now = size();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Runs a command to its end, or kills it when it has not ended in time. What it says must fit a pipe.
fn output_within(command: &mut Command, life: Duration) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if wait_within(&mut child, life)?.is_none() {
        child.kill()?;
        child.wait()?;
        return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "not ended in time"));
    }
    child.wait_with_output()
}

fn wait_within(child: &mut Child, life: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if is_interrupted() {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted"));
        }
        if start.elapsed() > life {
            return Ok(None);
        }
        std::thread::sleep(TICK);
    }
}

/// The demo's directory, removed at the end unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn make(keep: Option<PathBuf>) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let wanted = keep.clone().unwrap_or_else(|| {
            let mut name = OsString::from("remora-demo-");
            name.push(std::process::id().to_string());
            std::env::temp_dir().join(name)
        });
        // Only one that did not exist: it is removed again, and nobody else's links are followed.
        std::fs::DirBuilder::new().mode(0o700).create(&wanted).and_then(|()| wanted.canonicalize()).map_or_else(
            |error| Err(Failure::refused(format_args!("{}: cannot be made: {error}", wanted.display()))),
            |path| Ok(Self { path, keep: keep.is_some() }),
        )
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing more can be done about it than to leave it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
