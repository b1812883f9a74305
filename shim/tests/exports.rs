//! The symbols that libremora.so exports are those of the hook table: no row is lost, and nothing else leaks out into
//! the program's name space.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// What is exported beside the table: the variadic entries that are written in assembler.
const BESIDE: [&str; 5] = ["dprintf", "__dprintf_chk", "execl", "execlp", "execle"];

/// The library of this test's own profile. Cargo builds a cdylib for nobody who does not ask, so this asks; the test's
/// place in the target directory (`deps`) tells where.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test.ancestors().nth(2).expect("the test stands in deps");
    let target = profile.parent().expect("a profile stands in the target directory");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--lib", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .arg("--target-dir")
        .arg(target)
        .status();
    assert!(status.expect("cargo runs").success(), "the library builds");
    let library = target.join("debug").join("libremora.so");
    assert!(library.exists(), "{}", library.display());
    library
}

/// Names of the table: `fn name(...) -> type | alias | alias;` in the invocation of `hooks!`.
fn rows() -> BTreeSet<String> {
    let source = include_str!("../src/hooks.rs");
    let (_, table) = source.split_once("\nhooks! {").expect("the table is there");
    let mut names = BTreeSet::new();
    for row in table.split(";\n") {
        let Some((_, row)) = row.split_once("fn ") else { continue };
        let (name, rest) = row.split_once('(').expect("a prototype");
        names.insert(name.trim().to_owned());
        let (_, result) = rest.rsplit_once("->").expect("a result");
        names.extend(result.split('|').skip(1).map(|alias| alias.trim().to_owned()));
    }
    names
}

#[test]
fn the_library_exports_the_table_and_nothing_else() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().expect("nm runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("symbols are text");
    let exported: BTreeSet<String> =
        text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect();
    let mut expected = rows();
    assert!(expected.len() > 90, "the table is read: {} rows", expected.len());
    if cfg!(target_arch = "x86_64") {
        expected.extend(BESIDE.map(str::to_owned));
    }
    let lost: Vec<_> = expected.difference(&exported).collect();
    let leaked: Vec<_> = exported.difference(&expected).collect();
    assert!(lost.is_empty() && leaked.is_empty(), "not exported: {lost:?}; exported beside: {leaked:?}");
}
