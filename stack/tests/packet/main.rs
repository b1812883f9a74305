//! Packet scripts in virtual time: each `TOPIC/NAME.pkt` is one exchange between the stack and a peer that the script
//! plays, in a language close to packetdrill's (see `script.rs`). `PACKET=part-of-a-path` runs those only;
//! `PACKET_TRACE=1` shows every packet.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod calls;
mod run;
mod script;
mod segment;
mod states;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scripts(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "pkt") {
            found.push(path);
        }
    }
}

#[test]
fn every_script_goes_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packet");
    let only = std::env::var("PACKET").unwrap_or_default();
    let mut all = Vec::new();
    scripts(&root, &mut all);
    all.retain(|path| path.to_string_lossy().contains(&only));
    all.sort();
    assert!(!all.is_empty(), "no script is named like {only}");
    let mut report = String::new();
    let mut failed = 0;
    for path in &all {
        if let Err(error) = script::read(path, &root).and_then(|events| run::play(&events)) {
            failed += 1;
            let _ = writeln!(report, "{}", error.replace(&format!("{}/", root.display()), ""));
        }
    }
    assert!(failed == 0, "{failed} of {} scripts failed:\n{report}", all.len());
}

/// The runner itself: a script that says what does not happen must fail, and say where.
#[test]
fn a_wrong_script_fails_with_its_line() {
    let wrong = [
        ("+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 4", "w:1: socket: expected 4, got 3"),
        ("+0 < S 0:0(0) win 1000\n+0 > S. 0:0(0) ack 1 <...>", "w:2: expected"),
        ("+0 < S 0:0(0) win 1000", "w:1: the script has ended, but"),
        ("+0 > . 1:1(0) ack 1", "w:1: nothing was sent"),
        ("+0 read(9, ..., 1) = 0", "w:1: no descriptor 9"),
        ("+0 < S 0:0(3) win 1000", "w:1: 0:0(3): the numbers do not fit"),
        ("+0 socket(..., SOCK_STREAM, 0) = 3\n+0 frobnicate(3) = 0", "w:2: unknown call frobnicate"),
    ];
    for (text, expected) in wrong {
        let result = script::parse("w", text, Path::new(".")).and_then(|events| run::play(&events));
        let error = result.expect_err(text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}
