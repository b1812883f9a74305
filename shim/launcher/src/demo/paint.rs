//! Colour for terminals (ECMA-48 SGR), or none.

use crate::cli::Color;
use std::io::IsTerminal;

/// A brush that may be dry.
pub struct Paint {
    on: bool,
}

/// What a colour stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// A call of the program.
    Call,
    /// A layer that it passes.
    Layer,
    /// A frame that leaves.
    Out,
    /// A frame that comes.
    In,
    /// Less important.
    Faint,
}

impl Paint {
    /// Decides by the flag, NO_COLOR (no-color.org) and whether stdout is a terminal.
    pub fn choose(asked: Color) -> Self {
        let automatic = || {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
                && std::io::stdout().is_terminal()
        };
        Self {
            on: match asked {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => automatic(),
            },
        }
    }

    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { on: false }
    }

    fn wrap(&self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Bold text.
    pub fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Text in the colour of its meaning.
    pub fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Call => "1",
            Ink::Layer => "36",
            Ink::Out => "32",
            Ink::In => "33",
            Ink::Faint => "2",
        };
        self.wrap(code, text)
    }
}
