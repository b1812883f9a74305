//! Descriptors that come by SCM_RIGHTS over sockets that are not ours: one of them may be a handle of a family. Looked
//! at after libc's recvmsg, when a message has brought any.

use remora_host::sys::call;
use smallvec::SmallVec;

/// Most descriptors of one message (SCM_MAX_FD).
const MOST: usize = 253;

/// After a recvmsg(): `message` is what the kernel has filled in if it has succeeded.
#[inline]
pub(crate) fn recvmsg(message: *const libc::msghdr, result: isize) {
    if result >= 0 {
        one(message);
    }
}

#[inline]
fn one(message: *const libc::msghdr) {
    // SAFETY: the kernel has just read and written it.
    let message = unsafe { &*message };
    if message.msg_controllen > call::CONTROL_HEADER && !message.msg_control.is_null() {
        look(message.msg_control.cast(), message.msg_controllen);
    }
}

/// After a recvmmsg() that has received `count` messages.
#[inline]
pub(crate) fn recvmmsg(messages: *const libc::mmsghdr, count: i32) {
    for place in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the kernel has filled in `count` of them.
        let message = unsafe { messages.add(place) };
        // SAFETY: as above.
        one(unsafe { &raw const (*message).msg_hdr });
    }
}

#[cold]
fn look(control: *const u8, length: usize) {
    // SAFETY: the kernel has written so many bytes there.
    let control = unsafe { std::slice::from_raw_parts(control, length) };
    let mut numbers: SmallVec<[i32; 16]> = SmallVec::new();
    for message in call::control_messages(control) {
        if (message.level, message.kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            numbers.extend(message.data.as_chunks::<4>().0.iter().take(MOST).map(|number| i32::from_ne_bytes(*number)));
        }
    }
    if !numbers.is_empty() {
        super::aside(|| crate::calls::adopt::look_at_received(&numbers));
    }
}
