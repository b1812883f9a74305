//! The functions that the hooks stand in front of: looked up once, early, and never from inside malloc.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

/// One original. Null until it is looked up; a symbol that this libc lacks stays at [`missing`].
pub(crate) struct Symbol<F> {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
    kind: PhantomData<F>,
}

/// Stands in for a function that libc does not have: ENOSYS, as a kernel without the call answers. All functions of
/// the table return an integer or a pointer in the same register; -1 is the failure of the one kind, and the few that
/// return a pointer exist in every libc.
extern "C" fn missing() -> isize {
    crate::abi::set_errno(libc::ENOSYS);
    -1
}

impl<F: Copy> Symbol<F> {
    /// # Safety
    /// `F` must be the function pointer type of the C prototype of the symbol.
    pub(crate) const unsafe fn new(name: &'static CStr) -> Self {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        Self { name, at: AtomicPtr::new(std::ptr::null_mut()), kind: PhantomData }
    }

    /// The original, looked up now if `.init_array` has not come to it yet (a hook called by the constructor of
    /// another library).
    #[inline]
    pub(crate) fn get(&self) -> F {
        let mut at = self.at.load(Ordering::Acquire);
        if at.is_null() {
            at = self.resolve();
        }
        // SAFETY: the contract of `new`: the address is a function of type F (or takes no argument and returns in the
        // same register, which every caller convention allows); both have the size of a pointer.
        unsafe { std::mem::transmute_copy(&at) }
    }

    #[cold]
    pub(crate) fn resolve(&self) -> *mut c_void {
        // SAFETY: the name ends with a zero byte, and RTLD_NEXT is a handle that always exists.
        let mut at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if at.is_null() {
            at = missing as extern "C" fn() -> isize as *mut c_void;
        }
        self.at.store(at, Ordering::Release);
        at
    }
}

/// A symbol's name as C wants it, at compile time.
pub(crate) const fn name_of(with_nul: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_nul.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a symbol's name has a zero byte at its end and nowhere else"),
    }
}
