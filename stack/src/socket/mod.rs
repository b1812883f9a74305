//! The socket layer: families, types, states, options and errors; the protocol switch below it.

pub mod error;
pub mod options;
pub mod protocol;
