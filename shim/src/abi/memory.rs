//! The program's memory: reads and writes that answer EFAULT where the kernel would, instead of dying.
//!
//! Structures and data buffers are copied plainly once their pages have been seen to be accessible; each thread remembers
//! the pages and the long range that it saw last, so that a call costs no system call for this.
//! A page that is unmapped after that faults, as it does in any library function that touches it. Long arrays go through
//! process_vm_readv/writev on ourselves, which is exact.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use remora_host::sys::{Errno, call};
use remora_stack::io::{Fault, Sink, Source};
use smallvec::SmallVec;

/// Below this no program has memory (vm.mmap_min_addr is 64 KiB).
const LOWEST: usize = 0x1_0000;
/// End of the user half of the address space on the 64-bit targets supported (x86_64 and arm64 with 48 bits).
const HIGHEST: usize = 0x0000_ffff_ffff_f000;
const PAGE: usize = 4096;
const EFAULT: Errno = Errno(libc::EFAULT);

/// A type of which every bit pattern is a value.
///
/// # Safety
/// That must be so, padding included in what may be read.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($kind:ty),* $(,)?) => { $(
        // SAFETY: integers, and C structures of integers and raw pointers.
        unsafe impl Plain for $kind {}
    )* };
}
plain!(
    u8,
    i32,
    u32,
    i64,
    u64,
    usize,
    libc::iovec,
    libc::msghdr,
    libc::mmsghdr,
    libc::timeval,
    libc::timespec,
    libc::pollfd,
    libc::epoll_event,
    libc::fd_set,
    libc::linger,
    libc::stat,
    libc::stack_t,
);

/// A pointer that the program passed: null, or as good as the program knows. An address only; every access checks.
pub(crate) struct User<T> {
    address: usize,
    kind: PhantomData<*const T>,
}

impl<T> Clone for User<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for User<T> {}

impl<T> User<T> {
    /// # Safety
    /// The address must be one that the program passed to a call for this use: where it is accessible, the library
    /// may read it, and write it if the call writes.
    pub(crate) const unsafe fn new(address: usize) -> Self {
        Self { address, kind: PhantomData }
    }

    /// The null pointer.
    pub(crate) const fn null() -> Self {
        Self { address: 0, kind: PhantomData }
    }

    pub(crate) const fn is_null(self) -> bool {
        self.address == 0
    }

    pub(crate) const fn address(self) -> usize {
        self.address
    }

    /// The same memory as another type.
    pub(crate) const fn cast<U>(self) -> User<U> {
        User { address: self.address, kind: PhantomData }
    }

    /// `bytes` further on.
    pub(crate) const fn byte_add(self, bytes: usize) -> Self {
        Self { address: self.address.wrapping_add(bytes), kind: PhantomData }
    }
}

impl<T: Plain> User<T> {
    /// Our own memory, for a call that this library makes itself.
    pub(crate) fn lend_all<R>(values: &mut [T], body: impl FnOnce(Self) -> R) -> R {
        // SAFETY: it is accessible and borrowed for as long as the call lasts.
        body(unsafe { Self::new(values.as_mut_ptr() as usize) })
    }

    /// Reads one value, exactly.
    pub(crate) fn read(self) -> Result<T, Errno> {
        let mut value = MaybeUninit::<T>::uninit();
        copy(self.address, value.as_mut_ptr() as usize, size_of::<T>(), Direction::In)?;
        // SAFETY: all bytes were copied in, and T is Plain.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes one value, exactly.
    pub(crate) fn write(self, value: T) -> Result<(), Errno> {
        copy(self.address, (&raw const value) as usize, size_of::<T>(), Direction::Out)
    }

    /// Reads `count` values.
    pub(crate) fn read_many(self, count: usize) -> Result<SmallVec<[T; 8]>, Errno> {
        let mut values = SmallVec::with_capacity(count);
        let bytes = count.checked_mul(size_of::<T>()).ok_or(EFAULT)?;
        if bytes != 0 {
            copy(self.address, values.as_mut_ptr() as usize, bytes, Direction::In)?;
        }
        // SAFETY: capacity for `count` was reserved, all of them were copied in, and T is Plain.
        unsafe { values.set_len(count) };
        Ok(values)
    }

    /// Writes values one after the other.
    pub(crate) fn write_many(self, values: &[T]) -> Result<(), Errno> {
        if values.is_empty() {
            return Ok(());
        }
        copy(self.address, values.as_ptr() as usize, size_of_val(values), Direction::Out)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// process_vm_* is refused here (seccomp, an old kernel): plain copies from then on.
static REFUSED: AtomicBool = AtomicBool::new(false);

const fn in_range(address: usize, length: usize) -> bool {
    address >= LOWEST && address < HIGHEST && length <= HIGHEST - address
}

/// Copies between user memory and ours. A bad page is an error.
fn copy(user: usize, ours: usize, length: usize, direction: Direction) -> Result<(), Errno> {
    if !in_range(user, length) {
        return Err(EFAULT);
    }
    if !is_on_own_stack(user, length) && !REFUSED.load(Ordering::Relaxed) {
        if length > SEVERAL_PAGES {
            return copy_by_kernel(user, ours, length, direction);
        }
        let first = user & !(PAGE - 1);
        if !(first..user + length).step_by(PAGE).all(|page| is_accessible(page, direction)) {
            return Err(EFAULT);
        }
    }
    let (from, to) = if direction == Direction::In { (user, ours) } else { (ours, user) };
    // SAFETY: `ours` is a value or reserved room of `length` bytes of the caller's. `user` is live stack of this thread,
    // memory whose pages were seen to be accessible, or memory that the program vouches for where the kernel cannot be
    // asked.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, length) };
    Ok(())
}

/// What is longer is not worth a look at each page.
const SEVERAL_PAGES: usize = 4 * PAGE;

/// Has the kernel copy, exactly.
fn copy_by_kernel(user: usize, ours: usize, length: usize, direction: Direction) -> Result<(), Errno> {
    let local = libc::iovec { iov_base: ours as *mut libc::c_void, iov_len: length };
    let remote = libc::iovec { iov_base: user as *mut libc::c_void, iov_len: length };
    let pid = call::getpid();
    let done = match direction {
        // SAFETY: the kernel writes `length` bytes of ours, and checks what it reads.
        Direction::In => unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) },
        // SAFETY: the kernel reads `length` bytes of ours; the user memory is what the program asked to be written.
        Direction::Out => unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) },
    };
    if done == length as isize {
        return Ok(());
    }
    if done < 0 && matches!(super::errno(), libc::ENOSYS | libc::EPERM | libc::ESRCH) {
        REFUSED.store(true, Ordering::Relaxed);
        return copy(user, ours, length, direction);
    }
    Err(EFAULT)
}

/// Where the main thread's stack begins (the argument vector lies there); 0 until the library is started.
static MAIN_STACK: AtomicUsize = AtomicUsize::new(0);

/// Takes note of the main thread's stack: `argv` as a constructor gets it.
pub(crate) fn note_main_stack(argv: usize) {
    MAIN_STACK.store(argv, Ordering::Relaxed);
}

/// Whether the range lies in the part of this thread's stack that is in use. That memory cannot be absent, so asking
/// the kernel would tell nothing.
fn is_on_own_stack(address: usize, length: usize) -> bool {
    /// glibc puts a thread's descriptor at the top of its stack, in the same mapping. No thread's stack is smaller
    /// than this in practice, so that a coroutine's, wherever it lies, is not taken for it.
    const THREAD_SPAN: usize = 64 * 1024;
    /// The default RLIMIT_STACK; the main stack has nothing near it.
    const MAIN_SPAN: usize = 8 * 1024 * 1024;
    let marker = 0u8;
    let here = (&raw const marker) as usize;
    let within = |top: usize, span: usize| top.checked_sub(here).is_some_and(|used| used <= span);
    // SAFETY: takes no argument and always succeeds.
    let thread = unsafe { libc::pthread_self() } as usize;
    let main = MAIN_STACK.load(Ordering::Relaxed);
    let top = match () {
        () if within(thread, THREAD_SPAN) => thread,
        () if within(main, MAIN_SPAN) => main,
        () => return false,
    };
    address >= here && address.checked_add(length).is_some_and(|end| end <= top)
}

/// Pages that each thread remembers.
const REMEMBERED: usize = 32;

thread_local! {
    static SEEN: [Cell<usize>; REMEMBERED] = const { [const { Cell::new(0) }; REMEMBERED] };
}

/// Whether the page of `address` can be accessed, asking the kernel when this thread does not remember.
fn is_accessible(address: usize, direction: Direction) -> bool {
    let page = address & !(PAGE - 1);
    let slot = (page / PAGE) % REMEMBERED;
    // Two marks in the low bits: seen readable, seen writable. Writable memory is readable on these targets.
    let wanted = if direction == Direction::In { 1 } else { 2 };
    let seen = SEEN.with(|all| all.get(slot).map_or(0, Cell::get));
    if seen & !(PAGE - 1) == page && seen & 3 >= wanted {
        return true;
    }
    if !ask(page, direction) {
        return false;
    }
    SEEN.with(|all| {
        if let Some(slot) = all.get(slot) {
            slot.set(page | wanted);
        }
    });
    true
}

/// Asks the kernel about one page.
fn ask(page: usize, direction: Direction) -> bool {
    ask_range(page, PAGE, direction)
}

/// Asks the kernel about whole pages. Writability is found out without writing: another thread may be writing there.
fn ask_range(page: usize, length: usize, direction: Direction) -> bool {
    let advice = if direction == Direction::In { MADV_POPULATE_READ } else { MADV_POPULATE_WRITE };
    // SAFETY: populating changes no content; a page that is not mapped is reported.
    let result = unsafe { libc::madvise(page as *mut libc::c_void, length, advice) };
    if result == 0 {
        return true;
    }
    match super::errno() {
        libc::EFAULT | libc::ENOMEM => false,
        // EINVAL where the protection forbids it (or the mapping is a device's, whose memory is no buffer here).
        _ if direction == Direction::Out && knows_populate() => false,
        // The same for reading, or Linux before 5.14: see whether each page can be read.
        _ => (page..page + length).step_by(PAGE).all(|page| {
            let mut byte = 0u8;
            copy_by_kernel(page, (&raw mut byte) as usize, 1, Direction::In).is_ok()
        }),
    }
}

/// Whether the kernel has MADV_POPULATE_WRITE (5.14): a page of the stack shows it.
fn knows_populate() -> bool {
    let marker = 0u8;
    let page = (&raw const marker) as usize & !(PAGE - 1);
    // SAFETY: populating changes no content, and the stack is there.
    unsafe { libc::madvise(page as *mut libc::c_void, PAGE, MADV_POPULATE_WRITE) == 0 }
}

const MADV_POPULATE_READ: i32 = 22;
const MADV_POPULATE_WRITE: i32 = 23;

thread_local! {
    /// The longest range that this thread saw last: first page, end, and the mark of `SEEN`.
    static SEEN_RANGE: Cell<(usize, usize, usize)> = const { Cell::new((0, 0, 0)) };
}

/// Whether a range that is about to be copied is accessible: of two pages each is remembered, of more the range.
fn check(address: usize, length: usize, direction: Direction) -> Result<(), Fault> {
    if length == 0 {
        return Ok(());
    }
    if !in_range(address, length) {
        return Err(Fault);
    }
    let last = address + (length - 1);
    let (first_page, last_page) = (address & !(PAGE - 1), last & !(PAGE - 1));
    let accessible = if last_page - first_page <= PAGE {
        is_accessible(first_page, direction) && (last_page == first_page || is_accessible(last_page, direction))
    } else {
        is_range_accessible(first_page, last_page + PAGE, direction)
    };
    if accessible { Ok(()) } else { Err(Fault) }
}

/// As [`is_accessible`], for all pages up to `end`, with one question to the kernel.
fn is_range_accessible(first_page: usize, end: usize, direction: Direction) -> bool {
    let wanted = if direction == Direction::In { 1 } else { 2 };
    let (seen_first, seen_end, mark) = SEEN_RANGE.with(Cell::get);
    if seen_first <= first_page && end <= seen_end && mark >= wanted {
        return true;
    }
    if !ask_range(first_page, end - first_page, direction) {
        return false;
    }
    // A stream is sent piece by piece: what follows on the last piece makes one range with it.
    let first =
        if seen_end >= first_page && seen_first <= first_page && mark == wanted { seen_first } else { first_page };
    SEEN_RANGE.with(|seen| seen.set((first, end, wanted)));
    true
}

/// One piece of a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    address: usize,
    length: usize,
}

/// The pieces of memory of one data call, walked from front to back: a [`Source`] and a [`Sink`].
pub(crate) struct Buffer {
    parts: SmallVec<[Part; 8]>,
    at: usize,
    left: usize,
}

impl Buffer {
    /// One contiguous buffer.
    pub(crate) fn single(start: User<u8>, length: usize) -> Self {
        let mut parts = SmallVec::new();
        parts.push(Part { address: start.address(), length });
        Self { parts, at: 0, left: length }
    }

    /// The buffers of an iovec list, no more than `limit` bytes in all (MAX_RW_COUNT).
    pub(crate) fn scattered(list: &[libc::iovec], limit: usize) -> Self {
        let mut left = limit;
        let mut parts = SmallVec::with_capacity(list.len());
        for one in list {
            let length = one.iov_len.min(left);
            left -= length;
            if length != 0 {
                parts.push(Part { address: one.iov_base as usize, length });
            }
        }
        Self { parts, at: 0, left: limit - left }
    }

    /// Bytes not yet walked over.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Whether the next `count` bytes are there and accessible.
    fn check_ahead(&self, count: usize, direction: Direction) -> Result<(), Fault> {
        let mut ahead = count;
        for part in self.parts.iter().skip(self.at) {
            let length = part.length.min(ahead);
            check(part.address, length, direction)?;
            ahead -= length;
            if ahead == 0 {
                break;
            }
        }
        if ahead == 0 { Ok(()) } else { Err(Fault) }
    }

    fn advance(&mut self, count: usize) {
        let Some(part) = self.parts.get_mut(self.at) else { return };
        part.address += count;
        part.length -= count;
        self.left -= count;
        if part.length == 0 {
            self.at += 1;
        }
    }
}

impl Source for Buffer {
    fn remaining(&self) -> usize {
        self.left
    }

    fn bytes_in_pieces(&self, pieces: usize) -> usize {
        let (mut used, mut bytes, mut end) = (0, 0, None);
        for part in self.parts.iter().skip(self.at) {
            let (mut address, mut length) = (part.address, part.length);
            while length > 0 {
                let here = length.min(PAGE - address % PAGE);
                // What goes on where the last piece ended, in the same page, is no piece of its own.
                if end != Some(address) || address.is_multiple_of(PAGE) {
                    used += 1;
                    if used > pieces {
                        return bytes;
                    }
                }
                bytes += here;
                address += here;
                length -= here;
                end = Some(address);
            }
        }
        bytes
    }

    fn append_to(&mut self, target: &mut Vec<u8>, count: usize) -> Result<(), Fault> {
        // All pieces are checked before the first is taken: a fault leaves source and target as they were.
        self.check_ahead(count, Direction::In)?;
        target.reserve(count);
        let mut left = count;
        while left > 0 {
            let Some(part) = self.parts.get(self.at).copied() else { return Err(Fault) };
            let length = part.length.min(left);
            let room = target.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: room for `count` bytes was reserved, `left` of it is unused; the piece was checked.
            unsafe { std::ptr::copy_nonoverlapping(part.address as *const u8, room, length) };
            let filled = target.len() + length;
            // SAFETY: the bytes up to `filled` have just been written, within the reserve.
            unsafe { target.set_len(filled) };
            self.advance(length);
            left -= length;
        }
        Ok(())
    }
}

impl Sink for Buffer {
    fn room(&self) -> usize {
        self.left
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut from = bytes;
        // All pieces are checked before the first is written: a fault leaves the bytes with the caller.
        self.check_ahead(bytes.len(), Direction::Out)?;
        while !from.is_empty() {
            let Some(part) = self.parts.get(self.at).copied() else { return Err(Fault) };
            let (now, later) = from.split_at(part.length.min(from.len()));
            // SAFETY: the piece was checked above, and the program asked for it to be written; a program that passes
            // memory of the library as its buffer is beyond help.
            unsafe { std::ptr::copy(now.as_ptr(), part.address as *mut u8, now.len()) };
            self.advance(now.len());
            from = later;
        }
        Ok(())
    }
}
