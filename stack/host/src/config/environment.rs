//! The environment that the configuration is read from: the program's at its first socket, or, where it has thrown that
//! away by then (exim), the one that it was started with.

use std::ffi::OsString;
use std::sync::OnceLock;

/// The variables of ours that the program was started with, if any.
static AT_START: OnceLock<Vec<(OsString, OsString)>> = OnceLock::new();

fn own() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"REMORA_")).collect()
}

/// Keeps the variables of ours. To be called before the program runs.
pub fn remember() {
    let own = own();
    if !own.is_empty() {
        let _ = AT_START.set(own);
    }
}

/// What variables of ours hold. Those of this moment, unless there is none: what the program sets itself counts.
pub(super) fn reader() -> impl Fn(&str) -> Option<String> {
    let mut own = own();
    if own.is_empty()
        && let Some(first) = AT_START.get()
    {
        own.clone_from(first);
    }
    move |name| own.iter().find(|(known, _)| known == name).map(|(_, value)| value.to_string_lossy().into_owned())
}
