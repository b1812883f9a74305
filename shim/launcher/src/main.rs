//! `remora`: runs programs on remora's stack, shows the configuration, plays the demo.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a command line program talks to its user")]

mod cli;
mod configuration;
mod demo;
mod overlay;
mod program;
mod run;
mod served;
mod watch;

use clap::Parser;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;

/// Something is missing or wrong: nothing was started.
const REFUSED: u8 = 2;
/// The program was found but cannot be run, as of env(1).
const NOT_EXECUTABLE: u8 = 126;
/// The program was not found, as of env(1).
const NOT_FOUND: u8 = 127;

/// Why a command ended early: a line for the user and the exit status.
#[derive(Debug)]
struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// A refusal that says what is wrong and what to do.
    fn refused(text: impl fmt::Display) -> Self {
        Self { status: REFUSED, text: text.to_string() }
    }
}

fn main() -> ExitCode {
    let result = match cli::Cli::parse().command {
        cli::Command::Run(arguments) => run::run(&arguments),
        cli::Command::Config(arguments) => configuration::show(&arguments),
        cli::Command::Demo(arguments) => demo::play(&arguments),
        cli::Command::Counters(arguments) => watch::counters(&arguments),
        cli::Command::Sockets(arguments) => watch::sockets(&arguments),
        cli::Command::Neighbours(arguments) => watch::facts(&arguments, "neighbour"),
        cli::Command::Routes(arguments) => watch::facts(&arguments, "route"),
        cli::Command::Stage(arguments) => demo::stage::play(&arguments),
        cli::Command::Supervise(arguments) => served::supervise(&arguments),
        cli::Command::Serve(arguments) => demo::serve::serve(&arguments),
        cli::Command::Generate { directory } => generate(&directory),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("remora: {}", failure.text);
        ExitCode::from(failure.status)
    })
}

/// What the build made of the command line's description.
const GENERATED: &[(&str, &[u8])] = &[
    ("man/remora.1", include_bytes!(concat!(env!("OUT_DIR"), "/remora.1"))),
    ("man/remora-run.1", include_bytes!(concat!(env!("OUT_DIR"), "/remora-run.1"))),
    ("man/remora-config.1", include_bytes!(concat!(env!("OUT_DIR"), "/remora-config.1"))),
    ("man/remora-demo.1", include_bytes!(concat!(env!("OUT_DIR"), "/remora-demo.1"))),
    ("completions/remora.bash", include_bytes!(concat!(env!("OUT_DIR"), "/remora.bash"))),
    ("completions/remora.fish", include_bytes!(concat!(env!("OUT_DIR"), "/remora.fish"))),
    ("completions/_remora", include_bytes!(concat!(env!("OUT_DIR"), "/_remora"))),
];

fn generate(directory: &Path) -> Result<ExitCode, Failure> {
    for (name, content) in GENERATED {
        let path = directory.join(name);
        path.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, content))
            .map_err(|error| Failure::refused(format_args!("{}: {error}", path.display())))?;
    }
    Ok(ExitCode::SUCCESS)
}
