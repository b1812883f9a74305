//! The value of a setsockopt: how Linux reads it, level by level and kind by kind, with the errors of short ones.

use std::time::Duration;

use remora_host::sys::Errno;
use smallvec::SmallVec;

use super::{INVALID, LONGEST};
use crate::abi::User;

/// The value of a setsockopt, not yet looked into.
pub(in crate::calls) struct Given {
    pub(super) place: User<u8>,
    pub(super) length: usize,
}

impl Given {
    /// An int, as SOL_SOCKET and IPPROTO_TCP want it: no shorter.
    pub(in crate::calls) fn int(&self) -> Result<i32, Errno> {
        if self.length < 4 {
            return Err(INVALID);
        }
        self.place.cast::<i32>().read()
    }

    /// An int or a byte, as IPPROTO_IP takes it; nothing is 0 (`do_ip_setsockopt`).
    pub(in crate::calls) fn short_int(&self) -> Result<i32, Errno> {
        match self.length {
            0 => Ok(0),
            1..4 => self.place.read().map(i32::from),
            _ => self.int(),
        }
    }

    /// As [`Given::short_int`], where nothing is EINVAL.
    pub(in crate::calls) fn byte_or_int(&self) -> Result<i32, Errno> {
        // The copy comes before the look at the length.
        self.short_int().and_then(|value| if self.length == 0 { Err(INVALID) } else { Ok(value) })
    }

    /// An int, neither less nor more.
    pub(in crate::calls) fn exact_int(&self) -> Result<i32, Errno> {
        self.short_int().and_then(|value| if self.length == 4 { Ok(value) } else { Err(INVALID) })
    }

    /// SO_MAX_PACING_RATE: an int whose -1 is without limit, or, where there is room, a long.
    pub(super) fn rate(&self) -> Result<u64, Errno> {
        if self.length >= size_of::<u64>() {
            return self.place.cast::<u64>().read();
        }
        let rate = self.int()?;
        Ok(if rate == -1 { u64::MAX } else { u64::from(rate as u32) })
    }

    pub(super) fn flag(&self) -> Result<bool, Errno> {
        self.int().map(|value| value != 0)
    }

    pub(super) fn short_flag(&self) -> Result<bool, Errno> {
        self.short_int().map(|value| value != 0)
    }

    pub(super) fn bytes(&self, at_least: usize) -> Result<SmallVec<[u8; 8]>, Errno> {
        if self.length < at_least {
            return Err(INVALID);
        }
        self.place.read_many(self.length.min(LONGEST))
    }

    /// A name, which ends at a zero byte or with the value.
    pub(super) fn text(&self, longest: usize) -> Result<String, Errno> {
        let bytes = self.place.read_many(self.length.min(longest))?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or(&[])).into_owned())
    }

    /// A struct timeval as a timeout (`sock_set_timeout`): zero is none, a negative one does not wait at all.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Errno> {
        if self.length < size_of::<libc::timeval>() {
            return Err(INVALID);
        }
        let time = self.place.cast::<libc::timeval>().read()?;
        let micros = u32::try_from(time.tv_usec).ok().filter(|micros| *micros < 1_000_000);
        let micros = micros.ok_or(Errno(libc::EDOM))?;
        match u64::try_from(time.tv_sec) {
            Err(_) => Ok(Some(Duration::ZERO)),
            Ok(0) if micros == 0 => Ok(None),
            Ok(seconds) => Ok(Some(Duration::new(seconds, micros * 1000))),
        }
    }

    pub(super) fn linger(&self) -> Result<Option<Duration>, Errno> {
        if self.length < size_of::<libc::linger>() {
            return Err(INVALID);
        }
        let linger = self.place.cast::<libc::linger>().read()?;
        let seconds = u64::try_from(linger.l_linger).unwrap_or(u64::from(u32::MAX));
        Ok((linger.l_onoff != 0).then(|| Duration::from_secs(seconds)))
    }
}
