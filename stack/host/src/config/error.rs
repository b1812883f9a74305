//! Why a configuration was refused: always one line that names the place, the value and what is allowed.

use super::Source;
use remora_stack::settings_text::SettingError;
use std::fmt;
use std::path::PathBuf;

/// The place of a value that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An environment variable.
    Variable(&'static str),
    /// A key of the configuration file.
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

impl Origin {
    /// The place that a value of this source was read from: the variable or the key that stand for it.
    pub(super) fn of(source: &Source, variable: &'static str, key: &str) -> Self {
        match source {
            Source::File(path) => Self::Key { path: path.clone(), key: key.to_owned() },
            Source::Environment(_) | Source::Proc | Source::Interface | Source::Derived | Source::Default => {
                Self::Variable(variable)
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::Key { path, key } => write!(f, "{}: {key}", path.display()),
        }
    }
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A value that is not allowed.
    Value {
        /// Where it stands.
        origin: Origin,
        /// The value as it was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// An override of a setting that does not exist or does not take the value.
    Setting {
        /// Where it stands.
        origin: Origin,
        /// What is wrong with it.
        error: SettingError,
    },
    /// The file could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The file is not TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The parser's reason.
        reason: String,
    },
    /// A key of the file that means nothing.
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// No interface is named and none can be chosen.
    NoInterface {
        /// Names of the interfaces that are up, the loopback left out.
        candidates: Vec<String>,
    },
    /// The interface has no IPv4 address that could be taken.
    NoInterfaceAddress {
        /// The interface.
        interface: String,
    },
    /// The interface that must exist does not.
    InterfaceMissing {
        /// Where it is named.
        origin: Origin,
        /// The interface.
        interface: String,
        /// Names of those that are up.
        candidates: Vec<String>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { origin: Origin::Variable(name), value, allowed } => {
                write!(f, "{name}={}: allowed is {allowed}", one_line(value))
            }
            Self::Value { origin: key @ Origin::Key { .. }, value, allowed } => {
                write!(f, "{key} = {}: allowed is {allowed}", one_line(value))
            }
            Self::Setting { origin, error } => write!(f, "{origin}: {}", one_line(&error.to_string())),
            Self::Unreadable { path, reason } => write!(
                f,
                "REMORA_CONFIG={}: cannot be read: {reason}: allowed is the path of a TOML file",
                path.display()
            ),
            Self::Syntax { path, line, reason } => {
                write!(f, "{}: line {line} is not TOML: {}", path.display(), one_line(reason))
            }
            Self::UnknownKey { path, key } => {
                write!(f, "{}: {key}: no such key: allowed are ", path.display())?;
                for variable in super::VARIABLES {
                    write!(f, "{}, ", variable.key)?;
                }
                f.write_str("sysctl")
            }
            Self::NoInterface { candidates } if candidates.is_empty() => f.write_str(
                "REMORA_IFACE is not set and no interface but the loopback is up: set it to the name of an interface \
                 and bring that up (ip link set NAME up)",
            ),
            Self::NoInterface { candidates } => {
                write!(
                    f,
                    "REMORA_IFACE is not set and several interfaces are up: allowed is one of {}",
                    candidates.join(", ")
                )
            }
            Self::NoInterfaceAddress { interface } => write!(
                f,
                "REMORA_ADDR=iface: {interface} has no IPv4 address: allowed is a.b.c.d/len, or iface for an interface \
                 that has one"
            ),
            Self::InterfaceMissing { origin, interface, candidates } => {
                write!(f, "{origin}={interface}: no such interface: allowed is ")?;
                if candidates.is_empty() {
                    f.write_str("the name of an interface, but none except the loopback is up")
                } else {
                    write!(f, "one of {}", candidates.join(", "))
                }
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Control characters would break the line, or the terminal.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
