//! System calls as safe functions where no memory of the caller can be harmed. They enter the kernel directly: libc's
//! functions of the same name (`syscall` included) are interposed by libremora. They never touch `errno`: the error
//! comes back as a value. Alloc-free and async-signal-safe.

mod attribute;
mod batch;
mod dispatch;
mod file;
mod interface;
mod map;
mod notify;
mod raw;
mod ready;
mod socket;
mod task;

pub use attribute::*;
pub use batch::*;
pub use dispatch::*;
pub use file::*;
pub use interface::*;
pub use map::*;
pub use notify::*;
pub(crate) use raw::{invoke, word};
pub use ready::*;
pub use socket::*;
pub use task::*;

use std::fmt;

/// An error number of the kernel (`libc::EAGAIN`, ...).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Whether a later try may succeed without anything being wrong (EAGAIN, EINTR).
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self.0, libc::EAGAIN | libc::EINTR)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // std's table of messages; it formats into its own buffer and does not touch errno.
        fmt::Display::fmt(&std::io::Error::from_raw_os_error(self.0), formatter)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// A file descriptor number. Copy and without Drop: it may stand in the shared arena, where one process's closing is
/// not another's. Closing is explicit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Fd(pub i32);

impl Fd {
    /// No descriptor.
    pub const NONE: Self = Self(-1);

    /// The number, for poll sets and messages.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Whether this could name a descriptor at all.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

#[cfg(test)]
mod tests;
