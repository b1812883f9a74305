//! struct iovec, msghdr, mmsghdr and control messages.

use remora_host::sys::Errno;
use smallvec::SmallVec;

use super::memory::{Buffer, User};

/// UIO_MAXIOV: the most buffers of one call.
const IOV_MAX: usize = 1024;
/// MAX_RW_COUNT: the most bytes of one call.
pub(crate) const MAX_BYTES: usize = 0x7fff_f000;
/// Size of struct cmsghdr on 64-bit targets, which is its alignment's multiple too.
const CONTROL_HEADER: usize = 16;
/// Size of struct sockaddr_storage.
const LONGEST_NAME: u32 = 128;
/// optmem_max of a default kernel bounds control data; more is ENOBUFS there.
const CONTROL_MAX: usize = 131_072;

/// Reads an iovec list (`import_iovec`); `too_many` is the errno for more than 1024.
fn vectors(list: User<libc::iovec>, count: usize, too_many: i32) -> Result<SmallVec<[libc::iovec; 8]>, Errno> {
    if count > IOV_MAX {
        return Err(Errno(too_many));
    }
    let list = list.read_many(count)?;
    // A length that is negative as ssize_t.
    if list.iter().any(|one| one.iov_len > isize::MAX as usize) {
        return Err(Errno(libc::EINVAL));
    }
    Ok(list)
}

/// The buffers of readv and writev.
pub(crate) fn read_vectors(list: User<libc::iovec>, count: i32) -> Result<Buffer, Errno> {
    let count = usize::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
    Ok(Buffer::scattered(&vectors(list, count, libc::EINVAL)?, MAX_BYTES))
}

/// A struct msghdr, copied.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    at: User<libc::msghdr>,
    raw: libc::msghdr,
}

impl Header {
    /// Copies it from user memory (`copy_msghdr_from_user`).
    pub(crate) fn read(at: User<libc::msghdr>) -> Result<Self, Errno> {
        let raw = at.read()?;
        // The kernel takes an int, and none of the length of a name that is not there.
        if !raw.msg_name.is_null() && (raw.msg_namelen as i32) < 0 {
            return Err(Errno(libc::EINVAL));
        }
        Ok(Self { at, raw })
    }

    /// The destination: a length of 0 is none, and no more is copied than a struct sockaddr_storage holds
    /// (`copy_msghdr_from_user`).
    pub(crate) fn destination(&self) -> Option<(User<libc::sockaddr>, u32)> {
        let (name, length) = self.name()?;
        (length > 0).then_some((name, length.min(LONGEST_NAME)))
    }

    /// The data buffers; more than 1024 are EMSGSIZE here.
    pub(crate) fn buffer(&self) -> Result<Buffer, Errno> {
        // SAFETY: the pointer stands in a structure that the program passed for this use.
        let list = unsafe { User::new(self.raw.msg_iov as usize) };
        Ok(Buffer::scattered(&vectors(list, self.raw.msg_iovlen, libc::EMSGSIZE)?, MAX_BYTES))
    }

    /// The name's place and its room; `None` where there is none.
    pub(crate) fn name(&self) -> Option<(User<libc::sockaddr>, u32)> {
        // SAFETY: the pointer stands in a structure that the program passed for this use.
        let name = unsafe { User::new(self.raw.msg_name as usize) };
        (!name.is_null()).then_some((name, self.raw.msg_namelen))
    }

    /// The control data, copied.
    pub(crate) fn control(&self) -> Result<Vec<u8>, Errno> {
        let length = self.raw.msg_controllen;
        if length == 0 {
            return Ok(Vec::new());
        }
        if length > CONTROL_MAX {
            return Err(Errno(libc::ENOBUFS));
        }
        // SAFETY: the pointer stands in a structure that the program passed for this use.
        let control = unsafe { User::<u8>::new(self.raw.msg_control as usize) };
        Ok(control.read_many(length)?.to_vec())
    }

    /// Fills in what recvmsg gives back beside the bytes: the name, the control messages and the flags
    /// (`____sys_recvmsg`, `put_cmsg`).
    pub(crate) fn give_back(&self, name: Option<&[u8]>, control: &ControlWriter, flags: i32) -> Result<(), Errno> {
        let mut raw = self.raw;
        let mut flags = flags;
        if let Some((at, room)) = self.name() {
            let bytes = name.unwrap_or(&[]);
            at.cast::<u8>().write_many(bytes.get(..bytes.len().min(room as usize)).unwrap_or(&[]))?;
            raw.msg_namelen = bytes.len() as u32;
        }
        let room = if raw.msg_control.is_null() { 0 } else { raw.msg_controllen };
        let stored = control.bytes.len().min(room);
        // A message whose header does not fit is left out whole; one whose data does not fit is cut.
        let stored = control.cut(stored);
        if stored < control.bytes.len() || control.incomplete {
            flags |= libc::MSG_CTRUNC;
        }
        // SAFETY: the pointer stands in a structure that the program passed for this use.
        let target = unsafe { User::<u8>::new(raw.msg_control as usize) };
        // `put_cmsg`: what cannot be stored is lost, the call is not.
        let written = target.write_many(&control.stored(stored)).is_ok();
        raw.msg_controllen = if written { stored } else { 0 };
        raw.msg_flags = flags;
        self.at.write(raw)
    }
}

/// Sends a message of the program's to a descriptor that is not ours, with other control data than it had. By number:
/// that is no cancellation point, at which a thread could not end inside a call of ours.
pub(crate) fn send_raw(fd: i32, header: &Header, control: &[u8], flags: i32) -> Result<isize, Errno> {
    let mut raw = header.raw;
    raw.msg_control = control.as_ptr().cast_mut().cast();
    raw.msg_controllen = control.len();
    let syscall = crate::hooks::real::syscall.get();
    let message = (&raw const raw) as usize;
    // SAFETY: the original, with the program's own buffers and control data that outlives the call.
    let sent = unsafe { syscall(libc::SYS_sendmsg, fd as usize, message, flags as usize, 0, 0, 0) };
    if sent < 0 { Err(Errno(super::errno())) } else { Ok(sent as isize) }
}

/// Control messages being put together.
#[derive(Debug, Default)]
pub(crate) struct ControlWriter {
    bytes: SmallVec<[u8; 128]>,
    starts: SmallVec<[usize; 4]>,
    /// One could not be made at all.
    incomplete: bool,
}

impl ControlWriter {
    /// Adds one message.
    pub(crate) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&(CONTROL_HEADER + data.len()).to_ne_bytes());
        self.bytes.extend_from_slice(&level.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        // CMSG_SPACE: the next one is aligned.
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// The messages as IP_PKTOPTIONS gives them.
    pub(crate) fn whole(self) -> SmallVec<[u8; 256]> {
        SmallVec::from_slice(&self.bytes)
    }

    /// How much of them IP_PKTOPTIONS tells in `room` bytes, and how much it stores: not what would align one more.
    pub(crate) fn room_for(bytes: &[u8], room: usize) -> (usize, usize) {
        let (mut at, mut stored) = (0, 0);
        while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map(usize::from_ne_bytes)
        {
            let next = at + length.next_multiple_of(8);
            if next > room {
                return if room < at + CONTROL_HEADER { (at, stored) } else { (room, room.min(at + length)) };
            }
            stored = at + length;
            at = next;
        }
        (at, stored)
    }

    /// One message is missing (MSG_CTRUNC).
    pub(crate) const fn omit(&mut self) {
        self.incomplete = true;
    }

    /// The messages as they will be stored.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first bytes; the header of a message that is cut tells the length that it has left.
    fn stored(&self, length: usize) -> SmallVec<[u8; 128]> {
        let mut bytes = SmallVec::from_slice(self.bytes.get(..length).unwrap_or(&[]));
        let last = self.starts.iter().rev().find(|start| *start + CONTROL_HEADER <= length).copied();
        if let Some(last) = last.filter(|_| length < self.bytes.len())
            && let Some(told) = bytes.get_mut(last..last + size_of::<usize>())
            && let Some(whole) = told.first_chunk().copied().map(usize::from_ne_bytes)
        {
            told.copy_from_slice(&whole.min(length - last).to_ne_bytes());
        }
        bytes
    }

    /// How much of it can be stored in `room` bytes.
    fn cut(&self, room: usize) -> usize {
        if room >= self.bytes.len() {
            return self.bytes.len();
        }
        let last = self.starts.iter().rev().find(|start| **start <= room).copied().unwrap_or(0);
        if room < last + CONTROL_HEADER { last } else { room }
    }
}

/// One control message of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control<'a> {
    pub(crate) level: i32,
    pub(crate) kind: i32,
    pub(crate) data: &'a [u8],
}

/// The control messages of a send; EINVAL for a malformed one (`CMSG_OK`).
pub(crate) fn controls(mut bytes: &[u8]) -> impl Iterator<Item = Result<Control<'_>, Errno>> {
    std::iter::from_fn(move || {
        // CMSG_FIRSTHDR: less than a header is nothing.
        if bytes.len() < CONTROL_HEADER {
            return None;
        }
        let length = bytes.first_chunk().copied().map_or(0, usize::from_ne_bytes);
        let int = |at: usize| bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, i32::from_ne_bytes);
        let (level, kind) = (int(8), int(12));
        let Some(data) = bytes.get(CONTROL_HEADER..length) else {
            bytes = &[];
            return Some(Err(Errno(libc::EINVAL)));
        };
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or(&[]);
        Some(Ok(Control { level, kind, data }))
    })
}
