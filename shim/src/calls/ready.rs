//! poll, ppoll, select, pselect: any mix of our sockets and the kernel's descriptors in one sleep.

use std::time::Duration;

use remora_host::runtime::{self, DescriptionId, Runtime, SetId, View, WaitEnd, WaitSpec};
use remora_host::sys::{Errno, call};
use remora_stack::socket::protocol::Readiness;
use remora_stack::time::Instant;
use smallvec::SmallVec;

use super::{companion, epoll, policy};
use crate::abi::{Outcome, User, signal};
use crate::fdtable::{self, Entry};

/// What a set of descriptors comes to, sorted by who answers.
#[derive(Default)]
pub(super) struct Sorted {
    kernel: SmallVec<[libc::pollfd; 16]>,
    /// For each entry of the program's: where its answer comes from.
    places: SmallVec<[Place; 16]>,
    descriptions: SmallVec<[(DescriptionId, Readiness); 16]>,
    sets: SmallVec<[SetId; 4]>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// A negative number: no answer.
    Ignored,
    /// The kernel, at this index.
    Kernel(usize),
    /// An epoll descriptor: the kernel's answer at this index, or what is ready in our set.
    Set(usize, SetId),
    /// One of our sockets; from this index on the kernel answers for so many companions of it.
    Ours(DescriptionId, u32, usize, usize),
}

/// The bits of events that poll has; ERR and HUP always count.
fn wanted(events: i16) -> u32 {
    u32::from(events as u16) | (Readiness::ERR | Readiness::HUP).bits()
}

impl Sorted {
    fn new(runtime: &Runtime, entries: &[libc::pollfd], hide: bool) -> Self {
        let mut sorted = Self::default();
        for entry in entries {
            let place = if entry.fd < 0 {
                Place::Ignored
            } else {
                match fdtable::lookup(entry.fd) {
                    Some(Entry::Socket(handle)) => {
                        policy::listen_raw(runtime, handle);
                        let wanted = wanted(entry.events);
                        sorted.descriptions.push((handle.id, Readiness::from_bits_truncate(wanted)));
                        let start = sorted.kernel.len();
                        for fd in companion::of(handle.id) {
                            sorted.add_kernel(&libc::pollfd { fd: fd.raw(), events: entry.events, revents: 0 });
                        }
                        Place::Ours(handle.id, wanted, start, sorted.kernel.len() - start)
                    }
                    // A socket may be put into the set while this call sleeps.
                    Some(Entry::Epoll(_)) if let Ok(set) = epoll::make_set(runtime, entry.fd) => {
                        sorted.sets.push(set);
                        Place::Set(sorted.add_kernel(entry), set)
                    }
                    // The library's own numbers are closed ones to the program.
                    _ if hide && super::fdops::is_private(entry.fd) => {
                        Place::Kernel(sorted.add_kernel(&libc::pollfd { fd: i32::MAX, ..*entry }))
                    }
                    _ => Place::Kernel(sorted.add_kernel(entry)),
                }
            };
            sorted.places.push(place);
        }
        sorted
    }

    /// Whether some number stands for another file than when it was looked at.
    fn is_renumbered(&self, entries: &[libc::pollfd]) -> bool {
        entries.iter().zip(&self.places).any(|(entry, place)| match *place {
            Place::Ours(id, ..) => fdtable::socket(entry.fd).is_none_or(|handle| handle.id != id),
            Place::Set(..) => !matches!(fdtable::lookup(entry.fd), Some(Entry::Epoll(_))),
            Place::Ignored | Place::Kernel(_) => false,
        })
    }

    fn add_kernel(&mut self, entry: &libc::pollfd) -> usize {
        self.kernel.push(libc::pollfd { revents: 0, ..*entry });
        self.kernel.len() - 1
    }

    /// Whether libc can answer alone.
    fn is_foreign(&self) -> bool {
        self.descriptions.is_empty() && self.sets.is_empty()
    }

    /// Fills in what is ready now; returns how many entries are.
    fn fill(&self, runtime: &Runtime, entries: &mut [libc::pollfd]) -> usize {
        runtime
            .view(|view| self.fill_under_lock(Some(view), entries))
            .unwrap_or_else(|| self.fill_under_lock(None, entries))
    }

    /// The same; without a view the family is broken.
    fn fill_under_lock(&self, mut view: Option<&mut View<'_>>, entries: &mut [libc::pollfd]) -> usize {
        let kernel = |index: usize| self.kernel.get(index).map_or(0, |entry| entry.revents);
        let mut count = 0;
        for (entry, place) in entries.iter_mut().zip(&self.places) {
            entry.revents = match *place {
                Place::Ignored => 0,
                Place::Kernel(index) => kernel(index),
                Place::Set(index, set) => {
                    let ready = view.as_mut().is_some_and(|view| view.set_is_ready(set));
                    kernel(index) | if ready { entry.events & (libc::POLLIN | libc::POLLRDNORM) } else { 0 }
                }
                Place::Ours(id, wanted, start, count) => match view.as_ref().filter(|view| view.exists(id)) {
                    Some(view) => {
                        let companions = (start..start + count).fold(0, |all, index| all | kernel(index));
                        (view.readiness(id).bits() & wanted) as i16 | companions & !libc::POLLNVAL
                    }
                    // The family has broken: as after a reset.
                    None => (wanted & (Readiness::IN | Readiness::OUT | Readiness::ERR | Readiness::HUP).bits()) as i16,
                },
            };
            count += usize::from(entry.revents != 0);
        }
        count
    }
}

/// Whether one of ours is known to be ready, without a look at the device.
fn is_ready(runtime: &Runtime, sorted: &Sorted) -> bool {
    let ready = |view: &View<'_>, (id, wanted): &(DescriptionId, Readiness)| view.readiness(*id).intersects(*wanted);
    runtime.view(|view| sorted.descriptions.iter().any(|one| ready(view, one))).unwrap_or(true)
}

/// Before a sleep: whether some of the numbers were closed unseen. Of a large set only the first few are looked at, and
/// the table in turns.
fn notice_closed(entries: &[libc::pollfd]) -> bool {
    const MOST: usize = 16;
    let ours = entries.iter().filter(|entry| fdtable::socket(entry.fd).is_some());
    let closed = ours.take(MOST).filter(|entry| super::check_fresh(entry.fd).is_err()).count();
    if entries.len() > MOST {
        super::sweep();
    }
    closed > 0
}

/// Sleeps until one of the entries is ready. `None`: all of them are the kernel's, and the library's numbers need not be
/// hidden (`hide`).
fn wait(
    entries: &mut [libc::pollfd],
    hide: bool,
    deadline: Option<Instant>,
    mask: Option<&libc::sigset_t>,
) -> Option<Result<usize, Errno>> {
    let runtime = runtime::current()?;
    let mut sorted = Sorted::new(runtime, entries, hide);
    if sorted.is_foreign() && !hide {
        return None;
    }
    let sleeps = deadline.is_none_or(|deadline| call::now() < deadline);
    if sleeps && !is_ready(runtime, &sorted) && notice_closed(entries) {
        sorted = Sorted::new(runtime, entries, hide);
        if sorted.is_foreign() && !hide {
            return None;
        }
    }
    let handled = signal::handled();
    let interrupted = || handled.any_since();
    let mut renumbered = false;
    loop {
        if !sorted.sets.is_empty() {
            runtime.refresh_proxies();
        }
        let descriptions = std::mem::take(&mut sorted.descriptions);
        let sets = std::mem::take(&mut sorted.sets);
        let spec = WaitSpec {
            descriptions: &descriptions,
            sets: &sets,
            deadline,
            fills_in: true,
            sigmask: mask,
            interrupted: &interrupted,
        };
        let end = runtime.wait(&spec, &mut sorted.kernel, &mut |view| {
            descriptions.iter().any(|(id, wanted)| view.readiness(*id).intersects(*wanted))
                || sets.iter().any(|set| view.set_is_ready(*set))
        });
        // do_poll, do_select: who is woken looks at what stands under the numbers now.
        if end == Ok(()) && sorted.is_renumbered(entries) {
            sorted = Sorted::new(runtime, entries, hide);
            renumbered = true;
            continue;
        }
        let count = sorted.fill(runtime, entries);
        if renumbered && hide {
            // A number that was closed during a select counts as all that was asked (POLLIN_SET and its kin).
            for entry in entries.iter_mut().filter(|entry| entry.revents & libc::POLLNVAL != 0) {
                entry.revents = libc::POLLERR | libc::POLLPRI;
            }
        }
        match end {
            _ if count > 0 => return Some(Ok(count)),
            Err(WaitEnd::Interrupted) => return Some(Err(Errno(libc::EINTR))),
            Err(WaitEnd::TimedOut) => return Some(Ok(0)),
            Err(WaitEnd::Broken) => return Some(Ok(sorted.fill(runtime, entries))),
            // Someone else took what was ready.
            Ok(()) if deadline.is_some_and(|deadline| call::now() >= deadline) => return Some(Ok(0)),
            Ok(()) => {
                sorted.descriptions = descriptions;
                sorted.sets = sets;
            }
        }
    }
}

/// The deadline of a timeout in milliseconds; negative is none.
pub(super) fn deadline_of_millis(timeout: i32) -> Option<Instant> {
    let millis = u64::try_from(timeout).ok()?;
    Some(call::now() + Duration::from_millis(millis))
}

/// A struct timespec as a span; EINVAL for one that is none (`timespec64_valid`).
pub(super) fn span_of_timespec(time: libc::timespec) -> Result<Duration, Errno> {
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// The deadline of an optional struct timespec.
pub(super) fn deadline_of_timespec(time: User<libc::timespec>) -> Result<Option<Instant>, Errno> {
    if time.is_null() {
        return Ok(None);
    }
    let span = span_of_timespec(time.read()?)?;
    Ok(Some(call::now() + span))
}

/// Whether any of the numbers is one that the hooks answer for.
fn any_of_ours(set: User<libc::pollfd>, count: usize) -> Option<SmallVec<[libc::pollfd; 8]>> {
    runtime::current()?;
    /// More entries than there can be descriptors is EINVAL (RLIMIT_NOFILE); libc says so.
    const MOST: usize = 1 << 20;
    if count == 0 || count > MOST {
        return None;
    }
    // do_sys_poll: more entries than RLIMIT_NOFILE are EINVAL, which libc says.
    const FEW: usize = 8;
    if count > FEW && call::resource_limit(libc::RLIMIT_NOFILE as i32).is_ok_and(|limit| count as u64 > limit.soft) {
        return None;
    }
    let entries = set.read_many(count).ok()?;
    entries.iter().any(|entry| fdtable::is_ours(entry.fd)).then_some(entries)
}

fn poll_all(
    set: User<libc::pollfd>,
    mut entries: SmallVec<[libc::pollfd; 8]>,
    deadline: Option<Instant>,
    mask: Option<&libc::sigset_t>,
) -> Outcome<i32> {
    let Some(result) = wait(&mut entries, false, deadline, mask) else { return Outcome::PassThrough };
    if result.is_ok()
        && let Err(errno) = set.write_many(&entries)
    {
        return Outcome::Ours(Err(errno));
    }
    Outcome::Ours(result.map(|count| count as i32))
}

pub(crate) fn poll(set: User<libc::pollfd>, count: usize, timeout: i32) -> Outcome<i32> {
    let Some(entries) = any_of_ours(set, count) else { return Outcome::PassThrough };
    poll_all(set, entries, deadline_of_millis(timeout), None)
}

pub(crate) fn __poll_chk(set: User<libc::pollfd>, count: usize, timeout: i32, room: usize) -> Outcome<i32> {
    if room / size_of::<libc::pollfd>() < count { Outcome::PassThrough } else { poll(set, count, timeout) }
}

pub(crate) fn ppoll(
    set: User<libc::pollfd>,
    count: usize,
    timeout: User<libc::timespec>,
    mask: User<libc::sigset_t>,
) -> Outcome<i32> {
    let Some(entries) = any_of_ours(set, count) else { return Outcome::PassThrough };
    let ready = deadline_of_timespec(timeout).and_then(|deadline| Ok((deadline, read_mask(mask)?)));
    match ready {
        Ok((deadline, mask)) => poll_all(set, entries, deadline, mask.as_ref()),
        Err(errno) => Outcome::Ours(Err(errno)),
    }
}

pub(crate) fn __ppoll_chk(
    set: User<libc::pollfd>,
    count: usize,
    timeout: User<libc::timespec>,
    mask: User<libc::sigset_t>,
    room: usize,
) -> Outcome<i32> {
    if room / size_of::<libc::pollfd>() < count { Outcome::PassThrough } else { ppoll(set, count, timeout, mask) }
}

/// An optional signal mask. The kernel reads 8 bytes of it only; so does this.
pub(super) fn read_mask(mask: User<libc::sigset_t>) -> Result<Option<libc::sigset_t>, Errno> {
    if mask.is_null() {
        return Ok(None);
    }
    let bits = mask.cast::<u64>().read()?;
    Ok(Some(signal::set_of_bits(bits)))
}

/// The bits of poll that make a descriptor count as readable, writable, exceptional (`POLLIN_SET` and its kin).
const READ_BITS: i16 = libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLIN | libc::POLLHUP | libc::POLLERR;
const WRITE_BITS: i16 = libc::POLLWRBAND | libc::POLLWRNORM | libc::POLLOUT | libc::POLLERR;
const EXCEPT_BITS: i16 = libc::POLLPRI;

/// The three sets of a select, as the program's bits.
struct Bits {
    places: [User<u64>; 3],
    words: [SmallVec<[u64; 8]>; 3],
}

impl Bits {
    /// Reads as many words as `count` numbers take; an absent set is empty. The program's sets may be larger than
    /// FD_SETSIZE.
    fn read(count: usize, sets: [User<libc::fd_set>; 3]) -> Result<Self, Errno> {
        let words = count.div_ceil(64);
        let places = sets.map(User::cast::<u64>);
        let mut read: [SmallVec<[u64; 8]>; 3] = Default::default();
        for (place, into) in places.iter().zip(&mut read) {
            if !place.is_null() {
                *into = place.read_many(words)?;
            }
        }
        Ok(Self { places, words: read })
    }

    fn has(&self, set: usize, fd: usize) -> bool {
        let word = self.words.get(set).and_then(|words| words.get(fd / 64)).copied().unwrap_or(0);
        word >> (fd % 64) & 1 != 0
    }

    /// The entries of a poll that asks the same; numbers from `count` on do not take part.
    fn entries(&self, count: usize) -> SmallVec<[libc::pollfd; 16]> {
        let mut entries = SmallVec::new();
        for word in 0..count.div_ceil(64) {
            let any = self.words.iter().fold(0, |any, words| any | words.get(word).copied().unwrap_or(0));
            let mut rest = any;
            while rest != 0 {
                let fd = word * 64 + rest.trailing_zeros() as usize;
                rest &= rest - 1;
                if fd >= count {
                    break;
                }
                let mut events = 0;
                if self.has(0, fd) {
                    events |= READ_BITS;
                }
                if self.has(1, fd) {
                    events |= WRITE_BITS;
                }
                if self.has(2, fd) {
                    events |= EXCEPT_BITS;
                }
                entries.push(libc::pollfd { fd: fd as i32, events, revents: 0 });
            }
        }
        entries
    }

    /// Writes the answers back and returns how many bits are set.
    fn write(&mut self, entries: &[libc::pollfd]) -> Result<i32, Errno> {
        let before = self.words.clone();
        for words in &mut self.words {
            words.fill(0);
        }
        let mut count = 0;
        for entry in entries {
            let fd = entry.fd as usize;
            for (set, bits) in [READ_BITS, WRITE_BITS, EXCEPT_BITS].into_iter().enumerate() {
                let asked =
                    before.get(set).and_then(|words| words.get(fd / 64)).is_some_and(|word| word >> (fd % 64) & 1 != 0);
                if asked
                    && entry.revents & bits != 0
                    && let Some(word) = self.words.get_mut(set).and_then(|words| words.get_mut(fd / 64))
                {
                    *word |= 1 << (fd % 64);
                    count += 1;
                }
            }
        }
        for (place, words) in self.places.iter().zip(&self.words) {
            if !place.is_null() {
                place.write_many(words)?;
            }
        }
        Ok(count)
    }
}

/// A select with one of ours in it. `None`: there is none, or libc is to say what is wrong with the arguments.
fn select_bits(count: i32, sets: [User<libc::fd_set>; 3]) -> Option<(Bits, SmallVec<[libc::pollfd; 16]>)> {
    runtime::current()?;
    let mut count = usize::try_from(count).ok()?;
    if count > libc::FD_SETSIZE {
        // Nothing is read beyond the kernel's table.
        count = count.min(usize::try_from(table_size()).ok()?);
    }
    let bits = Bits::read(count, sets).ok()?;
    let entries = bits.entries(count);
    (entries.iter().any(|entry| fdtable::is_ours(entry.fd)) || are_beyond(&entries)).then_some((bits, entries))
}

/// Whether numbers take part that are closed or the library's own, and might lie beyond the table that the kernel would
/// have without the library: then the kernel's EBADF could be wrong.
fn are_beyond(entries: &[libc::pollfd]) -> bool {
    /// The smallest table (NR_OPEN_DEFAULT).
    const FIRST: i32 = 64;
    let mut high: SmallVec<[libc::pollfd; 16]> = entries.iter().filter(|entry| entry.fd >= FIRST).copied().collect();
    if high.is_empty() {
        return false;
    }
    let private = high.iter().any(|entry| super::fdops::is_private(entry.fd));
    let closed = |entry: &libc::pollfd| entry.revents & libc::POLLNVAL != 0;
    private || (call::ppoll(&mut high, Some(Duration::ZERO), None).is_ok() && high.iter().any(closed))
}

fn select_all(
    mut bits: Bits,
    mut entries: SmallVec<[libc::pollfd; 16]>,
    deadline: Option<Instant>,
    mask: Option<&libc::sigset_t>,
) -> Outcome<i32> {
    loop {
        let result = match wait(&mut entries, true, deadline, mask) {
            None => return Outcome::PassThrough,
            Some(result) => result,
        };
        let is_closed = |entry: &libc::pollfd| entry.revents & libc::POLLNVAL != 0;
        if !entries.iter().any(is_closed) {
            return Outcome::Ours(result.and_then(|_| bits.write(&entries)));
        }
        // What lies beyond the kernel's table takes no part (core_sys_select).
        let size = table_size();
        if entries.iter().any(|entry| is_closed(entry) && entry.fd < size) {
            return Outcome::fail(libc::EBADF);
        }
        entries.retain(|entry| !is_closed(entry));
    }
}

/// How large the kernel's table of this process would be without the library's own numbers, which lie above the
/// program's: it grows from 64 by `alloc_fdtable`'s steps. Slow, for a select that fails.
fn table_size() -> i32 {
    const FIRST: i32 = 64;
    const STEP: i32 = 128;
    let Ok(list) = std::fs::read_dir("/proc/self/fd") else { return i32::MAX };
    let numbers = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let highest = numbers.filter(|fd: &i32| !super::fdops::is_private(*fd)).max().unwrap_or(0);
    if highest < FIRST {
        return FIRST;
    }
    let steps = (highest / STEP + 1) as u32;
    i32::try_from(steps.next_power_of_two()).map_or(i32::MAX, |steps| steps.saturating_mul(STEP))
}

pub(crate) fn select(
    count: i32,
    read: User<libc::fd_set>,
    write: User<libc::fd_set>,
    except: User<libc::fd_set>,
    timeout: User<libc::timeval>,
) -> Outcome<i32> {
    let Some((bits, entries)) = select_bits(count, [read, write, except]) else { return Outcome::PassThrough };
    let mut deadline = None;
    if !timeout.is_null() {
        let span = timeout.read().and_then(|time| {
            // kern_select lets microseconds run over into seconds.
            let micros = u64::try_from(time.tv_usec).map_err(|_| Errno(libc::EINVAL))?;
            let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno(libc::EINVAL))?;
            Ok(Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros)))
        });
        match span {
            Ok(span) => deadline = Some(call::now() + span),
            Err(errno) => return Outcome::Ours(Err(errno)),
        }
    }
    let outcome = select_all(bits, entries, deadline, None);
    // Linux writes back what is left of the time (poll_select_finish), an interrupted call included.
    if let (Some(deadline), Outcome::Ours(_)) = (deadline, &outcome) {
        let left = deadline.since(call::now());
        let _ =
            timeout.write(libc::timeval { tv_sec: left.as_secs() as i64, tv_usec: i64::from(left.subsec_micros()) });
    }
    outcome
}

pub(crate) fn pselect(
    count: i32,
    read: User<libc::fd_set>,
    write: User<libc::fd_set>,
    except: User<libc::fd_set>,
    timeout: User<libc::timespec>,
    mask: User<libc::sigset_t>,
) -> Outcome<i32> {
    let Some((bits, entries)) = select_bits(count, [read, write, except]) else { return Outcome::PassThrough };
    let ready = deadline_of_timespec(timeout).and_then(|deadline| Ok((deadline, read_mask(mask)?)));
    match ready {
        Ok((deadline, mask)) => select_all(bits, entries, deadline, mask.as_ref()),
        Err(errno) => Outcome::Ours(Err(errno)),
    }
}
