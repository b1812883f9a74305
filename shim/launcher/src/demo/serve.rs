//! The demo's web server: one page, few requests, a bounded life. It talks to its parent by lines: "waiting" before its
//! interface is there, "serving" once it listens; it ends when its stdin does.

use super::{LIFE, stage};
use crate::Failure;
use crate::cli::Serve;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PAGE: &str =
    "<!doctype html><title>remora</title>\n<p>This page came over a TCP/IP stack that lives inside curl.\n";
/// A request's head may be this long.
const REQUEST_MAX: u64 = 16 * 1024;
/// How long one peer may keep the server busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until stdin ends or the demo's time is over.
pub fn serve(arguments: &Serve) -> Result<ExitCode, Failure> {
    std::thread::spawn(|| {
        std::thread::sleep(LIFE);
        std::process::exit(1);
    });
    let mut input = BufReader::new(std::io::stdin());
    if let Some(interface) = &arguments.interface {
        say("waiting");
        // End of file here means that the stage has failed.
        if input.read_line(&mut String::new()).unwrap_or(0) == 0 {
            return Ok(ExitCode::FAILURE);
        }
        stage::set_up(interface)?;
    }
    let address = (arguments.address, arguments.port);
    let listener = TcpListener::bind(address)
        .map_err(|error| Failure::refused(format_args!("{}:{}: {error}", address.0, address.1)))?;
    say("serving");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A peer that goes away has had what it wanted.
            let _ = answer(&stream);
        }
    });
    let _ = input.read_to_end(&mut Vec::new());
    Ok(ExitCode::SUCCESS)
}

fn say(word: &str) {
    // A parent that is gone shows as the end of stdin.
    let _ = writeln!(std::io::stdout(), "{word}");
}

/// Answers one request and closes first, so that TIME_WAIT is this side's.
fn answer(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.take(REQUEST_MAX));
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    )?;
    stream.flush()
}

/// The server as its parent sees it.
pub struct Server {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Server {
    /// Starts it.
    pub fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let input = child.stdin.take();
        Ok(Self { child, input, lines })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says `word`.
    pub fn wait_for(&self, word: &str) -> std::io::Result<()> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) if line == word => Ok(()),
            Ok(line) => Err(Error::other(format!("it said \"{line}\" instead of \"{word}\""))),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, format!("it never got to \"{word}\""))),
        }
    }

    /// Tells it that its interface is there.
    pub fn go_on(&mut self) -> std::io::Result<()> {
        self.input.as_mut().map_or(Ok(()), |input| input.write_all(b"go\n"))
    }

    /// Ends it.
    pub fn stop(&mut self) {
        // The end of its stdin ends it; the kill is for one that is stuck.
        self.input = None;
        if !matches!(super::wait_within(&mut self.child, Duration::from_secs(1)), Ok(Some(_))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
