//! The configuration of this process, read once, at the first socket of an internet family, and what becomes of a
//! program without one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;
use remora_host::config::rules::Rules;
use remora_host::config::{Config, Loopback, NO_ADDRESS};
use remora_host::logging;
use remora_host::sys::order::{self, Rank};

/// The configuration of a process that has a stack of its own.
#[derive(Debug)]
pub(crate) struct Settings {
    config: Config,
    /// The file name of the program.
    program: String,
    /// The rules that can match in it.
    rules: Rules,
}

impl Settings {
    fn new(config: Config) -> Self {
        let program = std::env::current_exe().ok();
        let program =
            program.as_deref().and_then(Path::file_name).map_or_else(String::new, |name| name.to_string_lossy().into());
        Self { rules: config.rules.value.for_program(&program), program, config }
    }

    /// The program's name, as rules mean it.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// The rules of this program.
    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// REMORA_EXPLAIN.
    pub(crate) const fn explains(&self) -> bool {
        self.config.explain.value
    }

    /// REMORA_SUMMARY.
    pub(crate) const fn sums_up(&self) -> bool {
        self.config.summary.value
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// REMORA_STRICT: a missing stack is an error.
    pub(crate) const fn strict(&self) -> bool {
        self.config.strict.value
    }

    /// REMORA_LOOPBACK=stack.
    pub(crate) fn loopback_in_stack(&self) -> bool {
        self.config.loopback.value == Loopback::Stack
    }
}

/// What was found.
struct State {
    /// `None`: no address, the program is the kernel's.
    settings: Option<Settings>,
    strict: bool,
    /// The line that says what to do.
    complaint: String,
}

static STATE: OnceCell<State> = OnceCell::new();
/// The complaint has been made.
static COMPLAINED: AtomicBool = AtomicBool::new(false);

fn state() -> &'static State {
    STATE.get_or_init(|| {
        let _ordered = order::hold(Rank::Configuring);
        // A panic must not write to the program's stderr past the log.
        std::panic::set_hook(Box::new(|information| {
            log::error!(target: "remora::shim", "{information}");
        }));
        match Config::load() {
            Ok(config) => {
                // Without its file the log goes to stderr and says so itself.
                let _ = logging::install(&config);
                let strict = config.strict.value;
                let settings = config.wants_stack().then(|| Settings::new(config));
                State { settings, strict, complaint: NO_ADDRESS.to_owned() }
            }
            Err(error) => {
                let strict = std::env::var_os("REMORA_STRICT").is_some_and(|value| value == "1");
                let _ = logging::install(&Config::default());
                State { settings: None, strict, complaint: error.to_string() }
            }
        }
    })
}

/// The configuration; `None` where the program runs on the kernel's sockets.
pub(crate) fn active() -> Option<&'static Settings> {
    state().settings.as_ref()
}

/// The configuration, unless no socket has asked for it yet.
pub(crate) fn known() -> Option<&'static Settings> {
    STATE.get()?.settings.as_ref()
}

/// Whether the first use of an address still deserves the warning. Under REMORA_STRICT every use is refused.
pub(crate) fn wants_warning() -> bool {
    state().strict || !COMPLAINED.load(Ordering::Relaxed)
}

/// The first use of an internet address without a stack: one line that says what to set. Returns whether the call is
/// to be refused.
pub(crate) fn warn_unconfigured() -> bool {
    let state = state();
    if !COMPLAINED.swap(true, Ordering::Relaxed) {
        log::warn!(target: "remora", "{}", state.complaint);
    }
    state.strict
}
