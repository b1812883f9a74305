//! The TOML file that `REMORA_CONFIG` names. Its keys are those of [`super::VARIABLES`] and the table `[sysctl]`.

use super::{Config, ConfigError, Origin, Source, VARIABLES};
use std::path::Path;
use toml::{Table, Value};

/// Larger files are a mistake (a device, a log); they are not read to the end.
const SIZE_MAX: u64 = 1 << 20;

/// Reads and takes over the whole file.
pub(super) fn read(config: &mut Config, path: &Path) -> Result<(), ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("not a regular file".to_owned()));
    }
    if metadata.len() > SIZE_MAX {
        return Err(unreadable("larger than 1 MiB".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    take(config, path, &text)
}

/// Takes over the text of a file.
pub(super) fn take(config: &mut Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        reason: error.message().to_owned(),
    })?;
    for (key, value) in &table {
        if key == "sysctl" {
            let Value::Table(settings) = value else {
                return Err(refused(path, key, value, "a table of settings, as in [sysctl]"));
            };
            take_settings(config, path, "", settings)?;
            continue;
        }
        let Some(variable) = VARIABLES.iter().find(|variable| variable.key == key) else {
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key: key.clone() });
        };
        let Some(text) = plain(value) else {
            return Err(refused(
                path,
                key,
                value,
                "a string, a number, a truth value or, for rules, an array of strings",
            ));
        };
        (variable.take)(config, text.trim(), Source::File(path.to_owned()))
            .map_err(|allowed| refused(path, key, value, &allowed))?;
    }
    Ok(())
}

/// Settings may be written with quoted names or, as TOML reads bare dots, as tables within tables.
fn take_settings(config: &mut Config, path: &Path, prefix: &str, table: &Table) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Value::Table(inner) = value {
            take_settings(config, path, &name, inner)?;
            continue;
        }
        let Some(text) = plain(value) else {
            return Err(refused(path, &name, value, "a string, a number, a truth value or an array of numbers"));
        };
        config.take_override(&name, &text, Source::File(path.to_owned())).map_err(|error| ConfigError::Setting {
            origin: Origin::Key { path: path.to_owned(), key: "sysctl".to_owned() },
            error,
        })?;
    }
    Ok(())
}

/// The value as the variable of the same meaning would hold it.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(u8::from(*flag).to_string()),
        Value::Array(parts) if parts.iter().all(Value::is_str) => {
            Some(parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
        }
        Value::Array(parts) => parts
            .iter()
            .map(|part| part.as_integer().map(|number| number.to_string()))
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.join(" ")),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn refused(path: &Path, key: &str, value: &Value, allowed: &str) -> ConfigError {
    ConfigError::Value {
        origin: Origin::Key { path: path.to_owned(), key: key.to_owned() },
        value: value.to_string(),
        allowed: allowed.to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
