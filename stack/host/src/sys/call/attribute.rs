//! Extended attributes of files, as far as programs with rights of their own are told by them.

use super::invoke;
use std::ffi::CStr;

/// Whether the file has an attribute of that name (`security.capability`).
#[must_use]
pub fn has_attribute(path: &CStr, name: &CStr) -> bool {
    let arguments = [path.as_ptr() as usize, name.as_ptr() as usize, 0, 0];
    // SAFETY: both strings end with a zero byte; with a size of 0 nothing is written.
    unsafe { invoke(libc::SYS_getxattr, arguments) }.is_ok()
}
