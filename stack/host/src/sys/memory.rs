//! Knowing that a fork has happened, by one load: a page that the kernel gives back zeroed in every kind of forked child
//! (MADV_WIPEONFORK), raw clone included. Per-thread caches (thread id, robust list) and per-process marks hang on it.

use super::call;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Size of a page on the targets supported (arm64 kernels with larger pages round the mapping up themselves).
pub const PAGE: usize = 4096;

/// The wiped page: one word, zero after each fork. Null before the first use.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// The last epoch given out by this process's line of ancestors; private memory, so a child goes on from its parent's.
static LAST: AtomicU32 = AtomicU32::new(0);

/// Where no page can be wiped (old kernels, seccomp), the process id tells processes apart: a system call instead of a
/// load.
static FALLBACK: AtomicU32 = AtomicU32::new(0);

/// A memory of which process one is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkMark(u32);

impl ForkMark {
    /// A mark of no process: always older than now.
    pub const NEVER: Self = Self(0);

    /// The mark of this process.
    #[must_use]
    pub fn now() -> Self {
        Self(epoch())
    }
}

/// Whether the mark was made by another process, which means that a fork has happened since.
#[must_use]
pub fn forked_since(mark: ForkMark) -> bool {
    epoch() != mark.0
}

fn epoch() -> u32 {
    let page = WORD.load(Ordering::Acquire);
    if page.is_null() {
        return first_use();
    }
    // SAFETY: a non-null WORD points to a page that is mapped for good.
    let word = unsafe { &*page };
    match word.load(Ordering::Relaxed) {
        0 => new_epoch(word),
        epoch => epoch,
    }
}

#[cold]
fn new_epoch(word: &AtomicU32) -> u32 {
    let mine = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    match word.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => mine,
        Err(other_thread) => other_thread,
    }
}

#[cold]
fn first_use() -> u32 {
    if FALLBACK.load(Ordering::Relaxed) == 0
        && let Ok(page) = call::map_private(PAGE, 0)
    {
        let address = page.as_ptr() as usize;
        // SAFETY: the page was mapped just above; losing its contents in children is what it is for.
        if unsafe { call::advise(address, PAGE, libc::MADV_WIPEONFORK) }.is_ok() {
            let ours = page.as_ptr().cast::<AtomicU32>();
            if WORD.compare_exchange(std::ptr::null_mut(), ours, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return epoch();
            }
        }
        // SAFETY: mapped above and not published.
        let _ = unsafe { call::unmap(address, PAGE) };
        if !WORD.load(Ordering::Acquire).is_null() {
            return epoch();
        }
    }
    FALLBACK.store(1, Ordering::Relaxed);
    call::getpid() as u32
}

/// The address range of the wiped page, for those who unmap everything else.
pub(super) fn wiped_page() -> Option<(usize, usize)> {
    let page = WORD.load(Ordering::Acquire) as usize;
    (page != 0).then_some((page, page + PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, in_raw_child};

    #[test]
    fn mark_holds_within_a_process_and_fails_in_each_kind_of_child() {
        let mark = ForkMark::now();
        assert!(!forked_since(mark));
        assert!(forked_since(ForkMark::NEVER));
        assert_eq!(in_child(|| i32::from(forked_since(mark))), 1);
        assert_eq!(in_raw_child(|| i32::from(forked_since(mark))), 1);
        // A grandchild differs from the child, too.
        let nested = in_child(|| {
            let child = ForkMark::now();
            in_child(move || i32::from(forked_since(child) && forked_since(mark)))
        });
        assert_eq!(nested, 1);
        assert!(!forked_since(mark));
    }
}
