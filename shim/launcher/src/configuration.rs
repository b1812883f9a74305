//! `remora config`: every value with its source, as a table or as JSON.

use crate::cli;
use crate::overlay::Overlay;
use crate::{Failure, overlay};
use remora_host::config::{Config, NO_ADDRESS, Row, Source, System};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// Prints the configuration that a program would run with.
pub fn show(arguments: &cli::Config) -> Result<ExitCode, Failure> {
    let overlay = Overlay::new(&arguments.network);
    let mut config = Config::from_environment(&|name| overlay.value(name)).map_err(Failure::refused)?;
    let unresolved = config.resolve(&System::host()).err();
    let mut rows = vec![(
        Row { name: "REMORA_CONFIG", value: overlay.value("REMORA_CONFIG"), source: Source::Default },
        String::new(),
    )];
    if let Some((row, _)) = rows.first_mut().filter(|(row, _)| row.value.is_some()) {
        row.source = Source::Environment("REMORA_CONFIG");
    }
    rows.extend(config.rows().into_iter().map(|row| (row, String::new())));
    for (row, source) in &mut rows {
        *source = match &row.source {
            Source::Environment(name) if overlay.is_flag(name).is_some() => "command line".to_owned(),
            Source::Default if row.value.is_none() => String::new(),
            other => other.to_string(),
        };
    }
    let text = if arguments.json { json(&rows) } else { table(&rows) };
    // A reader that has seen enough (head) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    for (_, note) in &config.notes {
        eprintln!("remora: note: {note}");
    }
    for name in overlay::unknown_variables() {
        eprintln!("remora: note: {name} is not a variable of remora's");
    }
    match unresolved {
        Some(error) => Err(Failure::refused(error)),
        None => {
            if config.address.is_none() {
                eprintln!("remora: note: {NO_ADDRESS}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn table(rows: &[(Row, String)]) -> String {
    const UNSET: &str = "-";
    let shown = |row: &Row| row.value.clone().unwrap_or_else(|| UNSET.to_owned());
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let name_width = width(&mut rows.iter().map(|(row, _)| row.name.len()));
    let value_width = width(&mut rows.iter().map(|(row, _)| shown(row).chars().count())).min(48);
    let mut text = format!("{:name_width$}  {:value_width$}  SOURCE\n", "NAME", "VALUE");
    for (row, source) in rows {
        let line = format!("{:name_width$}  {:value_width$}  {source}", row.name, shown(row));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn json(rows: &[(Row, String)]) -> String {
    let mut text = "{\n".to_owned();
    for (at, (row, source)) in rows.iter().enumerate() {
        let value = row.value.as_deref().map_or_else(|| "null".to_owned(), quoted);
        let source = if source.is_empty() { "null".to_owned() } else { quoted(source) };
        let comma = if at + 1 == rows.len() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}: {{\"value\": {value}, \"source\": {source}}}{comma}", quoted(row.name));
    }
    text + "}\n"
}

/// A JSON string (RFC 8259 §7).
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, value: Option<&str>, source: &str) -> (Row, String) {
        (Row { name, value: value.map(str::to_owned), source: Source::Default }, source.to_owned())
    }

    #[test]
    fn the_table_is_aligned_and_shows_a_dash_for_nothing() {
        let rows = [row("A", Some("long value"), "default"), row("LONG", None, "")];
        assert_eq!(table(&rows), "NAME  VALUE       SOURCE\nA     long value  default\nLONG  -\n");
    }

    #[test]
    fn json_escapes_and_ends_without_a_comma() {
        let rows = [row("A", Some("a\"\\\n"), "default"), row("B", None, "")];
        assert_eq!(
            json(&rows),
            "{\n  \"A\": {\"value\": \"a\\\"\\\\\\u000a\", \"source\": \"default\"},\n  \
             \"B\": {\"value\": null, \"source\": null}\n}\n"
        );
    }
}
