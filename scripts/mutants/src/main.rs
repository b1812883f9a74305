//! Puts all faults that cargo-mutants lists into one build, each behind a switch: with `REMORA_FAULT=N` in its environment
//! a test sees fault N, without it the code as it is. So a fault costs a run of the tests and no build.
//!
//! `mutant-schema LIST TREE OUT`: LIST is what `cargo mutants --list --json` printed, TREE a copy of the sources that may
//! be spoilt, and OUT gets a line for each fault that can be switched: its number, its name without the place, and the
//! code it changes. The compiler says which faults do not build; those are taken out until the rest does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use proc_macro2::LineColumn;
use serde_json::Value;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

type Failure = Box<dyn std::error::Error>;
/// Where text is in a file, in bytes.
type Place = Range<usize>;

/// Type errors hide borrow errors, and each of both a few more: so many builds are enough.
const MOST_BUILDS: usize = 20;
/// The library's end: which fault is on. Without one it is a number that no fault has.
const SWITCH: &str = "
extern crate std;
pub(crate) fn fault() -> usize {
    static FAULT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *FAULT.get_or_init(|| std::env::var(\"REMORA_FAULT\").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX))
}
";

/// A fault: what stands in place of the text at `at`.
struct Fault {
    number: usize,
    name: String,
    file: String,
    genre: String,
    at: Place,
    replacement: String,
}

/// What the code around a fault must be for the switch to stand before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Binary,
    Unary,
    Match,
    Struct,
}

/// Expressions that a switch can stand before, and `const` of functions, which cannot ask for the switch.
#[derive(Default)]
struct Sites {
    expressions: Vec<(Kind, Place)>,
    constants: Vec<(String, Place)>,
    lines: Lines,
}

/// Offsets of lines, to go from a line and a column to a byte.
#[derive(Default)]
struct Lines {
    text: String,
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text: text.to_string(), starts }
    }

    /// Lines from 1, columns in characters from 0.
    fn byte(&self, at: LineColumn) -> usize {
        let start = self.starts[at.line - 1];
        start + self.text[start..].chars().take(at.column).map(char::len_utf8).sum::<usize>()
    }

    fn place(&self, part: &impl Spanned) -> Place {
        self.byte(part.span().start())..self.byte(part.span().end())
    }
}

impl Sites {
    fn read(text: &str) -> Result<Self, Failure> {
        let mut sites = Self { lines: Lines::new(text), ..Self::default() };
        sites.visit_file(&syn::parse_file(text)?);
        Ok(sites)
    }

    fn constant(&mut self, signature: &syn::Signature) {
        if let Some(word) = &signature.constness {
            self.constants.push((signature.ident.to_string(), self.lines.place(word)));
        }
    }
}

/// `let` in a chain of conditions must stay where it is.
fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Sites {
    fn visit_expr(&mut self, expression: &'ast syn::Expr) {
        let kind = match expression {
            syn::Expr::Binary(_) if !has_let(expression) => Some(Kind::Binary),
            syn::Expr::Unary(_) => Some(Kind::Unary),
            syn::Expr::Match(_) => Some(Kind::Match),
            syn::Expr::Struct(_) => Some(Kind::Struct),
            _ => None,
        };
        self.expressions.extend(kind.map(|kind| (kind, self.lines.place(expression))));
        visit::visit_expr(self, expression);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.constant(&function.sig);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.constant(&function.sig);
        visit::visit_impl_item_fn(self, function);
    }
}

/// Where a switch stands: start, end, and the expression that it stands before or none for the body of a function. What is
/// around another comes first.
type Key = (usize, Reverse<usize>, Option<Kind>);

/// A file with its faults: the text of before, where switches stand and which faults each turns on.
struct Source {
    text: String,
    switches: BTreeMap<Key, Vec<Fault>>,
    constants: Vec<(String, Place)>,
}

/// What is left out so that the rest builds.
#[derive(Default)]
struct Without {
    faults: BTreeSet<usize>,
    /// Functions that a constant needs stay `const`.
    constant: BTreeSet<String>,
}

/// A file as it is written, and which faults a complaint about a place in it means.
#[derive(Default)]
struct Written {
    text: String,
    blame: Vec<(Place, Vec<usize>)>,
}

impl Source {
    fn read(text: String, faults: Vec<Fault>) -> Result<Self, Failure> {
        let sites = Sites::read(&text)?;
        let mut switches = BTreeMap::new();
        for fault in faults {
            let kind = match fault.genre.as_str() {
                "FnValue" => None,
                "BinaryOperator" => Some(Kind::Binary),
                "UnaryOperator" => Some(Kind::Unary),
                "MatchArm" | "MatchArmGuard" => Some(Kind::Match),
                "StructField" => Some(Kind::Struct),
                _ => continue,
            };
            let around = |place: &Place| place.start <= fault.at.start && fault.at.end <= place.end;
            let place = match kind {
                None => Some(fault.at.clone()),
                Some(kind) => sites
                    .expressions
                    .iter()
                    .filter(|(known, place)| *known == kind && around(place))
                    .map(|(_, place)| place.clone())
                    .min_by_key(Range::len),
            };
            if let Some(place) = place {
                switches.entry((place.start, Reverse(place.end), kind)).or_insert_with(Vec::new).push(fault);
            }
        }
        Ok(Self { text, switches, constants: sites.constants })
    }

    fn write(&self, without: &Without) -> Written {
        let mut written = Written::default();
        self.part(0..self.text.len(), None, &mut written, without);
        written
    }

    /// Writes a part of the text with its switches; `above` is the switch that it stands behind.
    fn part(&self, part: Place, above: Option<&Key>, written: &mut Written, without: &Without) {
        let mut at = part.start;
        for (key, faults) in self.switches.range((part.start, Reverse(usize::MAX), None)..) {
            let kind = key.2;
            let place = key.0..key.1.0;
            let mut on = faults.iter().filter(|fault| !without.faults.contains(&fault.number)).peekable();
            if place.start < at
                || place.end > part.end
                || above.is_some_and(|above| above >= key)
                || on.peek().is_none()
            {
                continue;
            }
            self.plain(at..place.start, written, without);
            let begin = written.text.len();
            // A match in brackets would be no statement any more.
            let (open, close) = if kind == Some(Kind::Match) || kind.is_none() { ("", "") } else { ("(", ")") };
            written.text += &format!("{open}match crate::fault() {{ ");
            let mut numbers = Vec::new();
            for fault in on {
                numbers.push(fault.number);
                let from = written.text.len();
                let change = match kind {
                    None => format!("return {}", fault.replacement),
                    Some(_) => {
                        let before = &self.text[place.start..fault.at.start];
                        let after = &self.text[fault.at.end..place.end];
                        format!("({before}{}{after})", fault.replacement)
                    }
                };
                written.text += &format!("{} => {change}, ", fault.number);
                written.blame.push((from..written.text.len(), vec![fault.number]));
            }
            if kind.is_none() {
                written.text += "_ => {} } ";
                written.blame.push((begin..written.text.len(), numbers));
                self.part(place.clone(), Some(key), written, without);
            } else {
                written.text += "_ => ";
                self.part(place.clone(), Some(key), written, without);
                written.text += &format!(" }}{close}");
                written.blame.push((begin..written.text.len(), numbers));
            }
            at = place.end;
        }
        self.plain(at..part.end, written, without);
    }

    fn plain(&self, part: Place, written: &mut Written, without: &Without) {
        let mut at = part.start;
        for (name, place) in &self.constants {
            if at <= place.start && place.end <= part.end && !without.constant.contains(name) {
                written.text += &self.text[at..place.start];
                at = place.end;
            }
        }
        written.text += &self.text[at..part.end];
    }
}

fn faults(list: &str, tree: &Path) -> Result<BTreeMap<String, Vec<Fault>>, Failure> {
    let list: Value = serde_json::from_str(list)?;
    let mut files: BTreeMap<String, Vec<Fault>> = BTreeMap::new();
    let mut lines: BTreeMap<String, Lines> = BTreeMap::new();
    for (number, entry) in list.as_array().ok_or("no list")?.iter().enumerate() {
        let text = |name: &str| entry[name].as_str().map(str::to_string).ok_or(format!("{name} is missing"));
        let file = text("file")?;
        if !lines.contains_key(&file) {
            lines.insert(file.clone(), Lines::new(&std::fs::read_to_string(tree.join(&file))?));
        }
        let edge = |name: &str| {
            let number = |part: &str| entry["span"][name][part].as_u64().and_then(|value| usize::try_from(value).ok());
            let (line, column) = (number("line")?, number("column")?);
            Some(lines[&file].byte(LineColumn { line, column: column - 1 }))
        };
        // Of an opaque type there is one value alone.
        let genre = text("genre")?;
        if genre == "FnValue" && entry["function"]["return_type"].as_str().is_some_and(|kind| kind.contains("impl ")) {
            continue;
        }
        let at = edge("start").ok_or("no start")?..edge("end").ok_or("no end")?;
        // FILE:LINE:COLUMN: WHAT; lines move.
        let name = text("name")?.splitn(4, ':').last().unwrap_or_default().trim().to_string();
        let fault = Fault { number, name, file: file.clone(), genre, at, replacement: text("replacement")? };
        files.entry(file).or_default().push(fault);
    }
    Ok(files)
}

/// A complaint of the compiler: the places that it points to, the one it is about first, and all that it says.
struct Complaint {
    places: Vec<(String, Place)>,
    message: Value,
}

fn complaints(tree: &Path) -> Result<Vec<Complaint>, Failure> {
    let output = Command::new("cargo")
        .args(["check", "-p", "remora-stack", "--tests", "--message-format=json", "--quiet", "--keep-going"])
        .current_dir(tree)
        .env("RUSTFLAGS", "--cap-lints=allow")
        .stderr(Stdio::null())
        .output()?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message = serde_json::from_str::<Value>(line)?["message"].take();
        let Some(spans) = message["spans"].as_array().filter(|_| message["level"] == "error") else { continue };
        let mut spans: Vec<&Value> = spans.iter().collect();
        spans.sort_by_key(|span| span["is_primary"] != true);
        let places = spans.iter().filter_map(|span| {
            let byte = |name: &str| span[name].as_u64().and_then(|value| usize::try_from(value).ok());
            Some((span["file_name"].as_str()?.to_string(), byte("byte_start")?..byte("byte_end")?))
        });
        let places: Vec<_> = places.collect();
        if !places.is_empty() {
            found.push(Complaint { places, message });
        }
    }
    if found.is_empty() && !output.status.success() {
        return Err("cargo check failed without a complaint about a place".into());
    }
    Ok(found)
}

/// Writes the tree and takes out what does not build, until all does. The numbers that were taken out.
fn settle(sources: &BTreeMap<String, Source>, tree: &Path) -> Result<BTreeSet<usize>, Failure> {
    let mut without = Without::default();
    for _ in 0..MOST_BUILDS {
        let mut all = BTreeMap::new();
        for (file, source) in sources {
            let written = source.write(&without);
            std::fs::write(tree.join(file), &written.text)?;
            all.insert(file.clone(), written);
        }
        let found = complaints(tree)?;
        if found.is_empty() {
            return Ok(without.faults);
        }
        for Complaint { places, message } in found {
            let blamed = places.iter().find_map(|(file, place)| {
                let blame = all.get(file)?.blame.iter();
                blame
                    .filter(|(whole, _)| whole.start <= place.start && place.end <= whole.end)
                    .min_by_key(|(whole, _)| whole.len())
            });
            // `cannot call non-const method `Type::name` in constants`.
            let callee = message["message"].as_str().and_then(|text| text.split('`').nth(1)).unwrap_or_default();
            let callee = callee.split(['(', '<']).next().and_then(|path| path.rsplit("::").next()).unwrap_or_default();
            match blamed {
                Some((_, numbers)) => without.faults.extend(numbers),
                None if message["code"]["code"] == "E0015" => {
                    without.constant.insert(callee.to_string());
                }
                None => return Err(message["rendered"].as_str().unwrap_or("a complaint").into()),
            }
        }
        eprintln!("{} faults do not build", without.faults.len());
    }
    Err("it does not settle".into())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [list, tree, out] = &arguments[..] else { return Err("usage: mutant-schema LIST TREE OUT".into()) };
    let tree = Path::new(tree);
    let mut sources = BTreeMap::new();
    for (file, faults) in faults(&std::fs::read_to_string(list)?, tree)? {
        let text = std::fs::read_to_string(tree.join(&file))?;
        sources.insert(file, Source::read(text, faults)?);
    }
    let library = tree.join("stack/src/lib.rs");
    let text = std::fs::read_to_string(&library)?;
    std::fs::write(&library, text + SWITCH)?;
    let gone = settle(&sources, tree)?;
    let mut lines = BTreeMap::new();
    for source in sources.values() {
        for (key, faults) in &source.switches {
            let code = if key.2.is_some() { &source.text[key.0..key.1.0] } else { "" };
            let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
            for fault in faults.iter().filter(|fault| !gone.contains(&fault.number)) {
                lines.insert(fault.number, format!("{}\t{}: {}\t{code}\n", fault.number, fault.file, fault.name));
            }
        }
    }
    std::fs::write(out, lines.into_values().collect::<String>())?;
    Ok(())
}
