//! The socket layer: families, types, states, options and errors; the protocol switch below it.
//!
//! A socket (Linux's `struct socket`) has a state of its own, apart from that of the protocol's sock (`struct
//! sock`) below it. //= REF S-05

pub mod error;
pub mod errqueue;
pub mod family;
pub mod filter;
pub mod inet;
pub mod kept;
pub mod options;
pub mod protocol;
pub mod protosw;
pub mod sockopt;
pub mod state;
pub mod table;
