//! Sockets over exec and spawn. Before the image is replaced, each socket of ours that is not close-on-exec gets a parked
//! handle under its numbers in place of the placeholder: code without this library can use it, and an image under this
//! library takes it over (`adopt`). An exec that fails puts placeholders back, as if nothing had been. posix_spawn,
//! system and popen exec inside libc: their children inherit the handles, and the parent gets placeholders afterwards.

use std::sync::atomic::{AtomicBool, Ordering};

use remora_host::runtime::{self, DescriptionId, Expect, HandleId, HandleName, Runtime};
use remora_host::sys::{Fd, call};
use smallvec::SmallVec;

use super::adopt::{placeholder, stand_in};
use crate::fdtable::{self, Entry, Handle};

/// Numbers that are close-on-exec and were named in a spawn's file actions: a child may get them all the same.
static NAMED: [AtomicBool; fdtable::LIMIT] = [const { AtomicBool::new(false) }; fdtable::LIMIT];
static ANY_NAMED: AtomicBool = AtomicBool::new(false);

/// posix_spawn_file_actions_adddup2(): the child will have this number under another one, or without close-on-exec.
pub(crate) fn note_spawn_source(fd: i32) {
    if fdtable::socket(fd).is_some()
        && let Some(named) = NAMED.get(fd as usize)
    {
        named.store(true, Ordering::Relaxed);
        ANY_NAMED.store(true, Ordering::Release);
    }
}

/// A socket with its handle.
#[derive(Debug)]
struct Parked {
    handle: Handle,
    id: HandleId,
    numbers: SmallVec<[i32; 4]>,
}

/// What has handles under its numbers.
#[derive(Debug, Default)]
pub(crate) struct ParkedAll(SmallVec<[Parked; 4]>);

/// Whether a descriptor lives on in an image started by exec.
fn is_kept(number: i32) -> bool {
    call::fcntl(Fd(number), libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
}

/// Puts handles under all sockets that a new image inherits; `expect` is asked only when there are any. With `spawning`
/// also under those that file actions have named.
pub(crate) fn park(spawning: bool, expect: impl FnOnce() -> Expect) -> (ParkedAll, Expect) {
    let mut all = ParkedAll::default();
    let Some(runtime) = runtime::current() else { return (all, Expect::Ours) };
    let mut kept: SmallVec<[(Handle, i32); 8]> = SmallVec::new();
    let named = spawning && ANY_NAMED.swap(false, Ordering::AcqRel);
    for (number, entry) in fdtable::entries(0, i32::MAX) {
        let Entry::Socket(handle) = entry else { continue };
        let asked = named && NAMED.get(number as usize).is_some_and(|named| named.swap(false, Ordering::Relaxed));
        if (asked || is_kept(number)) && fdtable::is_fresh(number) {
            kept.push((handle, number));
        }
    }
    if kept.is_empty() {
        return (all, Expect::Ours);
    }
    let expect = expect();
    let mut done: SmallVec<[DescriptionId; 8]> = SmallVec::new();
    for (handle, _) in &kept {
        if done.contains(&handle.id) {
            continue;
        }
        done.push(handle.id);
        let numbers = kept.iter().filter(|(other, _)| other.id == handle.id).map(|(_, number)| *number).collect();
        if let Some(parked) = park_one(runtime, *handle, numbers) {
            all.0.push(parked);
        }
    }
    (all, expect)
}

fn park_one(runtime: &Runtime, handle: Handle, numbers: SmallVec<[i32; 4]>) -> Option<Parked> {
    let made = match runtime.make_handle(handle.id) {
        Ok(made) => made,
        Err(error) => {
            log::info!(target: "remora::shim", "a socket is lost over exec: {error:?}");
            return None;
        }
    };
    for number in &numbers {
        if stand_in(made.near, *number).is_ok() {
            fdtable::renew(*number);
        }
    }
    let _ = call::close(made.near);
    Some(Parked { handle, id: made.id, numbers })
}

impl ParkedAll {
    /// What happens to the handles once this image is gone.
    pub(crate) fn arm(&self, expect: Expect) {
        let Some(runtime) = runtime::current() else { return };
        for parked in &self.0 {
            runtime.start_handle_on_exec(parked.id, expect, parked.is_claimed());
        }
    }

    /// A child has the handles, or will have them at once.
    pub(crate) fn start(&self, expect: Expect) {
        let Some(runtime) = runtime::current() else { return };
        for parked in &self.0 {
            runtime.start_handle(parked.id, expect, parked.is_claimed());
        }
    }

    /// Placeholders again in this process; `cancel`: nobody has got the handles.
    pub(crate) fn unpark(self, cancel: bool) {
        let Some(runtime) = runtime::current() else { return };
        for parked in self.0 {
            let name = HandleName {
                family: runtime.family_id(),
                description: parked.handle.id,
                handle: parked.id,
                listener: false,
                datagrams: false,
            };
            let first = parked.numbers.first().and_then(|number| HandleName::of(Fd(*number)));
            parked.put_placeholder(runtime);
            if cancel {
                runtime.cancel_handle(parked.id);
            } else {
                runtime.handle_was_closed(&first.unwrap_or(name));
            }
        }
    }
}

impl Parked {
    /// Whether it stands where a program looks for its input and output: what arrives is meant for that program.
    fn is_claimed(&self) -> bool {
        self.numbers.iter().any(|number| (0..=2).contains(number))
    }

    fn put_placeholder(&self, runtime: &Runtime) {
        let nonblocking = runtime.nonblocking(self.handle.id);
        let Ok(fresh) = placeholder(self.handle, nonblocking) else { return };
        for number in &self.numbers {
            // Another thread may have closed or replaced it meanwhile.
            let same = fdtable::socket(*number).is_some_and(|handle| handle.id == self.handle.id);
            if same && fdtable::is_fresh(*number) && stand_in(fresh, *number).is_ok() {
                fdtable::renew(*number);
            }
        }
        let _ = call::close(fresh);
    }
}
