//! getaddrinfo_a, gai_suspend and gai_cancel: glibc's threads call getaddrinfo inside libc, where no hook is; these call
//! ours, so that names asked for in the background go through the stack as well. gai_error is libc's: it reads the
//! status that stands in the request.
//!
//! A list of requests has up to twenty threads, as glibc's have together, which end with it. Nothing is cancelled: what
//! is asked for is under way, or soon will be. As with glibc, a forked child has the threads no more.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use libc::{addrinfo, timespec};
use remora_host::sys::call;

use super::{aside, deep, resolver, set_errno};
use crate::calls::resolver::is_wanted;
use crate::hooks::real;

/// GAI_WAIT and GAI_NOWAIT (netdb.h).
const WAIT: c_int = 0;
const NOWAIT: c_int = 1;

/// glibc's codes beside those of getaddrinfo (netdb.h).
const IN_PROGRESS: c_int = -100;
const NOT_CANCELLED: c_int = -102;
const INTERRUPTED: c_int = -104;

/// As glibc's `optim.gai_threads`.
const MOST_THREADS: usize = 20;

/// struct gaicb (netdb.h).
#[repr(C)]
#[derive(Debug)]
pub struct Request {
    name: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    result: AtomicPtr<addrinfo>,
    status: AtomicI32,
    /// The first of the words that are libc's own.
    owner: AtomicU32,
    _reserved: [c_int; 4],
}

/// In `owner`: the request is one of ours and not done.
const OURS: u32 = 0x7265_6d6f;

impl Request {
    fn is_ours(&self) -> bool {
        self.owner.load(Ordering::Acquire) == OURS
    }

    fn is_in_progress(&self) -> bool {
        self.status.load(Ordering::Acquire) == IN_PROGRESS
    }
}

/// Counts requests that are done. Who waits for any of them sleeps on it.
static DONE: AtomicU32 = AtomicU32::new(0);

/// struct sigevent (sigevent(7)).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    value: *mut c_void,
    signal: c_int,
    kind: c_int,
    routine: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
    attributes: *const c_void,
}

impl Event {
    const NONE: Self =
        Self { value: ptr::null_mut(), signal: 0, kind: libc::SIGEV_NONE, routine: None, attributes: ptr::null() };

    /// Tells the program.
    fn notify(self) {
        match self.kind {
            libc::SIGEV_SIGNAL => self.send_signal(),
            libc::SIGEV_THREAD => self.start_thread(),
            _ => {}
        }
    }

    fn send_signal(self) {
        const SI_ASYNCNL: c_int = -60;
        /// siginfo_t of a queued signal, 128 bytes.
        #[repr(C)]
        struct Information {
            signal: c_int,
            errno: c_int,
            code: c_int,
            _pad: c_int,
            process: c_int,
            user: u32,
            value: *mut c_void,
            _rest: [u64; 12],
        }
        let process = call::getpid();
        let information = Information {
            signal: self.signal,
            errno: 0,
            code: SI_ASYNCNL,
            _pad: 0,
            process,
            // SAFETY: takes no argument and always succeeds.
            user: unsafe { libc::getuid() },
            value: self.value,
            _rest: [0; 12],
        };
        let words = [process as usize, self.signal as usize, ptr::from_ref(&information) as usize, 0, 0, 0];
        // SAFETY: the kernel copies a siginfo of 128 bytes, which outlives the call.
        let _ = unsafe { call::native(libc::SYS_rt_sigqueueinfo, words) };
    }

    /// The program's function, in a thread of its own with no signal blocked.
    fn start_thread(self) {
        let mask = call::signal_mask(libc::SIG_SETMASK, 0);
        let event = Box::into_raw(Box::new(self));
        if start(self.attributes, call_program, event.cast()) != 0 {
            // SAFETY: made above, and no thread has it.
            drop(unsafe { Box::from_raw(event) });
        }
        if let Ok(mask) = mask {
            let _ = call::signal_mask(libc::SIG_SETMASK, mask);
        }
    }
}

unsafe extern "C-unwind" fn call_program(event: *mut c_void) -> *mut c_void {
    // SAFETY: `start_thread` has made it for this thread alone.
    let event = *unsafe { Box::from_raw(event.cast::<Event>()) };
    if let Some(routine) = event.routine {
        // SAFETY: the program gave both for this.
        unsafe { routine(event.value) };
    }
    ptr::null_mut()
}

type Routine = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;

/// Starts a thread that nobody joins, unless its attributes say otherwise. The status is pthread_create's.
fn start(attributes: *const c_void, routine: Routine, argument: *mut c_void) -> c_int {
    let mut thread = 0usize;
    let result = deep::pthread_create(&raw mut thread, attributes, routine, argument);
    if result == 0 && attributes.is_null() {
        // SAFETY: just made, and joined by nobody.
        let _ = unsafe { libc::pthread_detach(thread as libc::pthread_t) };
    }
    result
}

/// The requests of one call.
struct Batch {
    requests: Box<[*mut Request]>,
    /// The next that nobody works on.
    next: AtomicUsize,
    /// How many are not done.
    left: AtomicUsize,
    event: Event,
}

// SAFETY: the pointers are the program's, which lets any thread of this list use them until each request is done; what
// changes in a request is atomic.
unsafe impl Send for Batch {}
// SAFETY: as above.
unsafe impl Sync for Batch {}

impl Batch {
    /// Answers requests until each is taken. The last one that is done tells the program.
    fn work(&self) {
        while let Some(request) = self.requests.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let mut found = ptr::null_mut();
            // SAFETY: the program keeps it until it is done.
            let asked = unsafe { &**request };
            let status = resolver::getaddrinfo(asked.name, asked.service, asked.hints, &raw mut found);
            asked.result.store(found, Ordering::Relaxed);
            asked.owner.store(0, Ordering::Release);
            asked.status.store(status, Ordering::Release);
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.event.notify();
            }
            DONE.fetch_add(1, Ordering::Release);
            call::futex_wake(&DONE, u32::MAX);
        }
    }

    /// Waits until all are done.
    fn wait(&self) {
        loop {
            let seen = DONE.load(Ordering::Acquire);
            if self.left.load(Ordering::Acquire) == 0 {
                return;
            }
            let _ = call::futex_wait(&DONE, seen, None);
        }
    }

    /// Starts so many threads; returns how many there are.
    fn start(self: &Arc<Self>, threads: usize) -> usize {
        // As glibc's, they take no signal of the program's.
        let mask = call::signal_mask(libc::SIG_SETMASK, call::ALL_SIGNALS);
        let mut started = 0;
        while started < threads {
            let share = Arc::into_raw(Arc::clone(self)).cast_mut();
            if start(ptr::null(), work_on, share.cast()) != 0 {
                // SAFETY: made above, and no thread has it.
                drop(unsafe { Arc::from_raw(share) });
                break;
            }
            started += 1;
        }
        if let Ok(mask) = mask {
            let _ = call::signal_mask(libc::SIG_SETMASK, mask);
        }
        started
    }
}

unsafe extern "C-unwind" fn work_on(batch: *mut c_void) -> *mut c_void {
    // SAFETY: `start` has made this share for this thread.
    let batch = unsafe { Arc::from_raw(batch.cast_const().cast::<Batch>()) };
    batch.work();
    ptr::null_mut()
}

/// The requests of a list that are there.
fn listed(list: *const *mut Request, count: c_int) -> Vec<*mut Request> {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the program's own list of so many pointers.
    let all = (0..count).map(|index| unsafe { list.wrapping_add(index).read_unaligned() });
    all.filter(|request| !request.is_null()).collect()
}

pub(crate) fn getaddrinfo_a(mode: c_int, list: *const *mut Request, count: c_int, event: *const Event) -> c_int {
    if !aside(is_wanted).unwrap_or(false) {
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        return unsafe { (real::getaddrinfo_a.get())(mode, list, count, event) };
    }
    if mode != WAIT && mode != NOWAIT {
        set_errno(libc::EINVAL);
        return libc::EAI_SYSTEM;
    }
    let event = if mode == WAIT || event.is_null() {
        Event::NONE
    } else {
        // SAFETY: not null, and passed to be read.
        unsafe { event.read_unaligned() }
    };
    let requests = listed(list, count).into_boxed_slice();
    if requests.is_empty() {
        event.notify();
        return 0;
    }
    for request in &requests {
        // SAFETY: the program's own, to be filled in.
        let request = unsafe { &**request };
        request.owner.store(OURS, Ordering::Relaxed);
        request.status.store(IN_PROGRESS, Ordering::Release);
    }
    let left = requests.len();
    let batch = Arc::new(Batch { requests, next: AtomicUsize::new(0), left: AtomicUsize::new(left), event });
    // Who waits does a share of the work; so does who gets no thread.
    let wanted = left.min(MOST_THREADS) - usize::from(mode == WAIT);
    if batch.start(wanted) == 0 || mode == WAIT {
        batch.work();
    }
    if mode == WAIT {
        batch.wait();
    }
    0
}

pub(crate) fn gai_suspend(list: *const *mut Request, count: c_int, timeout: *const timespec) -> c_int {
    // SAFETY: the program's own requests.
    let requests: Vec<&Request> = listed(list, count).into_iter().map(|request| unsafe { &*request }).collect();
    let waiting: Vec<&Request> =
        requests.into_iter().filter(|request| request.is_in_progress() && request.is_ours()).collect();
    if waiting.is_empty() {
        // Those of glibc's own, or none.
        // SAFETY: the caller's own arguments, to the function that it meant to call.
        return unsafe { (real::gai_suspend.get())(list, count, timeout) };
    }
    let deadline = if timeout.is_null() {
        None
    } else {
        // SAFETY: not null, and passed to be read.
        let time = unsafe { timeout.read_unaligned() };
        let span = std::time::Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0).min(999_999_999),
        );
        Some(call::now() + span)
    };
    loop {
        let seen = DONE.load(Ordering::Acquire);
        if !waiting.iter().all(|request| request.is_in_progress()) {
            return 0;
        }
        let patience = deadline.map(|deadline| deadline.since(call::now()));
        if patience.is_some_and(|patience| patience.is_zero()) {
            return libc::EAI_AGAIN;
        }
        if call::futex_wait(&DONE, seen, patience).is_err_and(|errno| errno.0 == libc::EINTR) {
            return INTERRUPTED;
        }
    }
}

pub(crate) fn gai_cancel(request: *mut Request) -> c_int {
    // SAFETY: the program's own request.
    let asked = unsafe { request.as_ref() };
    match asked {
        Some(asked) if asked.is_in_progress() && asked.is_ours() => NOT_CANCELLED,
        // SAFETY: the caller's own argument, to the function that it meant to call.
        _ => unsafe { (real::gai_cancel.get())(request) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_libcs_layout() {
        assert_eq!(size_of::<Request>(), 56);
        assert_eq!(std::mem::offset_of!(Request, status), 32);
        assert_eq!(size_of::<Event>(), 32);
    }
}
