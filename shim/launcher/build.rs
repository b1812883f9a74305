//! Makes the man pages and the shell completions from the command line's own description; `remora __generate` writes
//! them where they are wanted.

#[path = "src/cli.rs"]
#[allow(dead_code, reason = "only the description of the command line is needed here")]
mod cli;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=src/cli.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        return Err(std::io::Error::other("OUT_DIR is not set"));
    };
    let mut command = cli::Cli::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command, "remora", &out)?;
    }
    // Hidden subcommands get no page.
    clap_mangen::generate_to(command, &out)
}
