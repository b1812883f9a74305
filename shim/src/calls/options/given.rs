//! The value of a setsockopt: how Linux reads it, level by level and kind by kind, with the errors of short ones.

use std::time::Duration;

use remora_host::sys::Errno;
use remora_stack::socket::filter::{Instruction, LONGEST as LONGEST_PROGRAM};
use smallvec::SmallVec;

use super::{INVALID, LONGEST};
use crate::abi::{User, control};

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

    /// Two ints and no more.
    pub(super) fn pair(&self) -> Result<[i32; 2], Errno> {
        if self.length != 8 {
            return Err(INVALID);
        }
        let values = self.place.cast::<i32>().read_many(2)?;
        Ok([values.first().copied().unwrap_or(0), values.get(1).copied().unwrap_or(0)])
    }

    /// A struct sock_fprog and the program that it names (`copy_bpf_fprog_from_user`, `bpf_check_basics_ok`).
    pub(super) fn program(&self) -> Result<Vec<Instruction>, Errno> {
        if self.length != size_of::<libc::sock_fprog>() {
            return Err(INVALID);
        }
        let words = self.place.cast::<usize>().read_many(2)?;
        let count = words.first().map_or(0, |word| usize::from(*word as u16));
        let place = words.get(1).copied().unwrap_or(0);
        if place == 0 || count == 0 || count > LONGEST_PROGRAM {
            return Err(INVALID);
        }
        let bytes = control::argument::<u8>(place).read_many(count * 8)?;
        let one = |bytes: &[u8]| {
            let &[a, b, jump_true, jump_false, c, d, e, f] = bytes.first_chunk::<8>()?;
            let (code, k) = (u16::from_ne_bytes([a, b]), u32::from_ne_bytes([c, d, e, f]));
            Some(Instruction { code, jump_true, jump_false, k })
        };
        Ok(bytes.chunks_exact(8).filter_map(one).collect())
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
