//! The operating system, raw: system calls, the shared arena and its allocator, the robust lock, fork detection and the
//! birth of the keeper. All `unsafe` of this crate stands here, one operation a block. Nothing here allocates (the
//! allocator itself apart), and everything is async-signal-safe. Policy is left to `device` and `runtime`.

pub mod alloc;
pub mod arena;
pub mod call;
pub mod image;
pub mod lock;
pub mod memory;
pub mod order;
pub mod process;
pub mod shared;
#[cfg(test)]
pub(crate) mod testing;

pub use call::{Errno, Fd};
