//! `remora counters`, `remora sockets`, `remora neighbours` and `remora routes`: what the programs that run on remora in this network namespace tell of
//! themselves, by way of their keepers.

use crate::{Failure, cli};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::ExitCode;
use std::time::Duration;

/// When to give up on a keeper that does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// One family's answer.
struct Family {
    text: String,
}

impl Family {
    /// The rest of every line that begins with `kind`.
    fn lines<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.text.lines().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
    }

    fn has_member(&self, pid: u32) -> bool {
        self.lines("member").any(|line| line.parse() == Ok(pid))
    }

    /// `curl[123], curl[124] 10.0.0.1/24`.
    fn title(&self) -> String {
        let members = self.lines("member").map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{}[{pid}]", name.trim())
        });
        let members: Vec<String> = members.collect();
        let who = if members.is_empty() { "ended".to_owned() } else { members.join(", ") };
        format!("{who} {}", self.lines("address").next().unwrap_or("without an address yet"))
    }
}

/// Asks every keeper of this network namespace.
fn families(pid: Option<u32>) -> Result<Vec<Family>, Failure> {
    let table = std::fs::read_to_string("/proc/net/unix").map_err(Failure::refused)?;
    let mut names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(7)?.strip_prefix('@'))
        .filter(|name| name.starts_with("remora/s/"))
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut found: Vec<Family> = names.into_iter().filter_map(ask).collect();
    if let Some(pid) = pid {
        found.retain(|family| family.has_member(pid));
    }
    if found.is_empty() {
        return Err(Failure::refused(match pid {
            Some(pid) => format!("process {pid} has no stack that has been used, or is another user's"),
            None => "no program of this network namespace runs on remora".to_owned(),
        }));
    }
    Ok(found)
}

fn ask(name: &str) -> Option<Family> {
    let address = SocketAddr::from_abstract_name(name).ok()?;
    let mut stream = UnixStream::connect_addr(&address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(Family { text })
}

fn print(text: &str) -> ExitCode {
    // A reader that has seen enough (head) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// `remora counters`.
pub fn counters(arguments: &cli::Watch) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for family in families(arguments.pid)? {
        let _ = writeln!(text, "# {}", family.title());
        for line in family.lines("counter") {
            let Some((name, value)) = line.split_once(' ') else { continue };
            if arguments.all || value != "0" {
                let _ = writeln!(text, "{name:<32} {value}");
            }
        }
    }
    Ok(print(&text))
}

/// `remora neighbours` and `remora routes`: the lines as they are told.
pub fn facts(arguments: &cli::Watch, kind: &str) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for family in families(arguments.pid)? {
        let _ = writeln!(text, "# {}", family.title());
        for line in family.lines(kind) {
            let _ = writeln!(text, "{line}");
        }
    }
    Ok(print(&text))
}

/// `remora sockets`.
pub fn sockets(arguments: &cli::Watch) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for family in families(arguments.pid)? {
        let _ = writeln!(text, "# {}", family.title());
        let _ = writeln!(text, "Netid State       Recv-Q Send-Q Local Address:Port     Peer Address:Port");
        for line in family.lines("socket") {
            let mut words = line.split_ascii_whitespace();
            let mut word = || words.next().unwrap_or("-");
            let (kind, state, input, output, local, peer) = (word(), word(), word(), word(), word(), word());
            let _ = writeln!(text, "{kind:<5} {state:<11} {input:<6} {output:<6} {local:<22} {peer}");
            let _holders = word();
            let details: Vec<&str> = words.collect();
            if arguments.info && !details.is_empty() {
                let _ = writeln!(text, "      {}", details.join(" "));
            }
        }
    }
    Ok(print(&text))
}
