//! RLIMIT_AS: the arena's address space is the library's and not the program's, so a limit that the program sets is met
//! as if the arena were not there (vsftpd allows each session 200 MB). Limits set before the first socket are left to
//! the arena, which then takes less. RLIMIT_NOFILE: before it goes below what handles need, they are made. Raw prlimit64 calls and limits of other processes are the kernel's.

use std::sync::atomic::{AtomicU64, Ordering};

use remora_host::runtime;
use remora_host::sys::Errno;
use remora_host::sys::call::{self, ResourceLimit, getpid};

use crate::abi::{Outcome, User};

const ADDRESS_SPACE: i32 = libc::RLIMIT_AS as i32;

/// What was added to the limit in force.
static ADDED: AtomicU64 = AtomicU64::new(0);

fn raised(value: u64, by: u64) -> u64 {
    // RLIM_INFINITY is all ones.
    value.saturating_add(by)
}

fn lowered(value: u64, by: u64) -> u64 {
    if value == u64::MAX { value } else { value.saturating_sub(by) }
}

fn set(limit: ResourceLimit) -> Result<(), Errno> {
    let room = runtime::current().map_or(0, |runtime| runtime.address_space() as u64);
    let wider = ResourceLimit { soft: raised(limit.soft, room), hard: raised(limit.hard, room) };
    match call::set_resource_limit(ADDRESS_SPACE, wider) {
        // Without the right to raise a hard limit that was set before the arena was there.
        Err(Errno(libc::EPERM)) if room != 0 => {
            call::set_resource_limit(ADDRESS_SPACE, limit)?;
            ADDED.store(0, Ordering::Relaxed);
        }
        result => {
            result?;
            ADDED.store(room, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn limit() -> Result<ResourceLimit, Errno> {
    let by = ADDED.load(Ordering::Relaxed);
    call::resource_limit(ADDRESS_SPACE)
        .map(|real| ResourceLimit { soft: lowered(real.soft, by), hard: lowered(real.hard, by) })
}

/// struct rlimit: two words.
fn read(place: User<u64>) -> Result<ResourceLimit, Errno> {
    Ok(ResourceLimit { soft: place.read()?, hard: place.byte_add(size_of::<u64>()).read()? })
}

fn write(place: User<u64>, limit: ResourceLimit) -> Result<(), Errno> {
    place.write_many(&[limit.soft, limit.hard])
}

/// prlimit() for this process's address space; getrlimit and setrlimit are halves of it.
fn change(new: User<u64>, old: User<u64>) -> Result<i32, Errno> {
    let wanted = if new.is_null() { None } else { Some(read(new)?) };
    let before = limit()?;
    if let Some(wanted) = wanted {
        set(wanted)?;
    }
    if !old.is_null() {
        write(old, before)?;
    }
    Ok(0)
}

fn concerns_us(process: i32, resource: i32) -> bool {
    resource == ADDRESS_SPACE && runtime::current().is_some() && (process == 0 || process == getpid())
}

/// A limit of descriptor numbers may leave none for handles, and no dup3 to where a socket stands.
fn before_descriptors(process: i32, resource: i32, new: User<u64>) {
    let own = process == 0 || process == getpid();
    if resource == libc::RLIMIT_NOFILE as i32
        && own
        && !new.is_null()
        && let Ok(wanted) = read(new)
    {
        super::strangers::before_descriptor_limit(wanted.soft);
    }
}

pub(crate) fn getrlimit(resource: i32, old: User<u64>) -> Outcome<i32> {
    // NULL is EFAULT, which libc says.
    if concerns_us(0, resource) && !old.is_null() { change(User::null(), old).into() } else { Outcome::PassThrough }
}

pub(crate) fn setrlimit(resource: i32, new: User<u64>) -> Outcome<i32> {
    before_descriptors(0, resource, new);
    if concerns_us(0, resource) && !new.is_null() { change(new, User::null()).into() } else { Outcome::PassThrough }
}

pub(crate) fn prlimit(process: i32, resource: i32, new: User<u64>, old: User<u64>) -> Outcome<i32> {
    before_descriptors(process, resource, new);
    if concerns_us(process, resource) { change(new, old).into() } else { Outcome::PassThrough }
}
