//! IPPROTO_TCP: what is set and the names of what is shown (`do_tcp_setsockopt`, `do_tcp_getsockopt`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use remora_host::runtime::Runtime;
use remora_host::sys::{Errno, call};
use remora_stack::socket::options::{OptionName, SetOption, SignatureKey};
use remora_stack::socket::protocol::AddressFamily;

use super::{Bytes, Given, INVALID, TCP_INQ, TCP_MD5SIG_EXT, TCP_REPAIR_WINDOW, UNKNOWN, own};
use crate::abi::User;
use crate::fdtable::Handle;

const TCP_CC_INFO: i32 = 26;
/// linux/tcp.h; libc has not all of them.
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
/// Flags of TCP_MD5SIG_EXT (linux/tcp.h).
const SIGNATURE_PREFIX: u8 = 1;
const SIGNATURE_INTERFACE: u8 = 2;
/// Size of Linux's `struct tcp_md5sig`, and its longest key.
const SIGNATURE_SIZE: usize = 216;
const SIGNATURE_LONGEST_KEY: usize = 80;

/// TCP_IS_MPTCP: never (S-02).
pub(super) const TCP_IS_MPTCP: i32 = 43;

pub(super) fn set(name: i32, given: &Given) -> Result<SetOption, Errno> {
    if name == libc::TCP_CONGESTION {
        if given.length < 1 {
            return Err(INVALID);
        }
        // TCP_CA_NAME_MAX is 16 with the zero.
        return given.text(15).map(SetOption::Congestion);
    }
    if name == libc::TCP_FASTOPEN_KEY {
        if !matches!(given.length, 16 | 32) {
            return Err(INVALID);
        }
        return Ok(SetOption::FastOpenKey(given.bytes(16)?.to_vec()));
    }
    if name == libc::TCP_ULP {
        // `tcp_set_ulp`: no protocol above TCP has a name here.
        return Err(if given.length < 1 {
            INVALID
        } else {
            given.text(15).map_or_else(|errno| errno, |_| Errno(libc::ENOENT))
        });
    }
    let value = given.int()?;
    Ok(match name {
        libc::TCP_NODELAY => SetOption::NoDelay(value != 0),
        libc::TCP_CORK => SetOption::Cork(value != 0),
        libc::TCP_MAXSEG => SetOption::MaxSegment(value),
        libc::TCP_KEEPIDLE => SetOption::KeepIdle(value),
        libc::TCP_KEEPINTVL => SetOption::KeepInterval(value),
        libc::TCP_KEEPCNT => SetOption::KeepCount(value),
        libc::TCP_SYNCNT => SetOption::SynCount(value),
        libc::TCP_LINGER2 => SetOption::Linger2(value),
        libc::TCP_DEFER_ACCEPT => SetOption::DeferAccept(value),
        libc::TCP_WINDOW_CLAMP => SetOption::WindowClamp(value),
        libc::TCP_QUICKACK => SetOption::QuickAck(value),
        libc::TCP_USER_TIMEOUT => SetOption::UserTimeout(value),
        libc::TCP_NOTSENT_LOWAT => SetOption::NotSentLowWater(value as u32),
        TCP_REPAIR if !call::is_capable(call::NET_ADMIN) => return Err(Errno(libc::EPERM)),
        TCP_REPAIR => SetOption::Repair(value),
        TCP_REPAIR_QUEUE => SetOption::RepairQueue(value),
        TCP_QUEUE_SEQ => SetOption::QueueSeq(value as u32),
        TCP_REPAIR_OPTIONS => SetOption::RepairOptions(repair_options(given)?),
        TCP_REPAIR_WINDOW => SetOption::RepairWindow(repair_window(given)?),
        libc::TCP_TIMESTAMP => SetOption::TcpTimestamp(value as u32),
        libc::TCP_SAVE_SYN => SetOption::SaveSyn(value),
        libc::TCP_FASTOPEN => SetOption::FastOpen(value),
        TCP_INQ => SetOption::Inq(value),
        libc::TCP_FASTOPEN_CONNECT => match value {
            0 | 1 => SetOption::FastOpenConnect(value != 0),
            _ => return Err(INVALID),
        },
        libc::TCP_FASTOPEN_NO_COOKIE => match value {
            0 | 1 => SetOption::FastOpenNoCookie(value != 0),
            _ => return Err(INVALID),
        },
        _ => return Err(UNKNOWN),
    })
}

pub(super) fn name_of(name: i32) -> Option<OptionName> {
    Some(match name {
        libc::TCP_NODELAY => OptionName::NoDelay,
        libc::TCP_CORK => OptionName::Cork,
        libc::TCP_MAXSEG => OptionName::MaxSegment,
        libc::TCP_KEEPIDLE => OptionName::KeepIdle,
        libc::TCP_KEEPINTVL => OptionName::KeepInterval,
        libc::TCP_KEEPCNT => OptionName::KeepCount,
        libc::TCP_SYNCNT => OptionName::SynCount,
        libc::TCP_LINGER2 => OptionName::Linger2,
        libc::TCP_DEFER_ACCEPT => OptionName::DeferAccept,
        libc::TCP_WINDOW_CLAMP => OptionName::WindowClamp,
        libc::TCP_QUICKACK => OptionName::QuickAck,
        libc::TCP_CONGESTION => OptionName::Congestion,
        TCP_CC_INFO => OptionName::CongestionInfo,
        libc::TCP_USER_TIMEOUT => OptionName::UserTimeout,
        libc::TCP_NOTSENT_LOWAT => OptionName::NotSentLowWater,
        TCP_REPAIR => OptionName::Repair,
        TCP_REPAIR_QUEUE => OptionName::RepairQueue,
        TCP_QUEUE_SEQ => OptionName::QueueSeq,
        TCP_REPAIR_WINDOW => OptionName::RepairWindow,
        libc::TCP_TIMESTAMP => OptionName::TcpTimestamp,
        libc::TCP_SAVE_SYN => OptionName::SaveSyn,
        libc::TCP_FASTOPEN => OptionName::FastOpen,
        libc::TCP_FASTOPEN_CONNECT => OptionName::FastOpenConnect,
        TCP_INQ => OptionName::Inq,
        libc::TCP_FASTOPEN_NO_COOKIE => OptionName::FastOpenNoCookie,
        libc::TCP_FASTOPEN_KEY => OptionName::FastOpenKey,
        libc::TCP_INFO => OptionName::Info,
        _ => return None,
    })
}

/// TCP_SAVED_SYN: who has too little room is told how much it takes, and may ask again.
pub(super) fn saved_syn(
    fd: i32,
    handle: Handle,
    runtime: &Runtime,
    room: usize,
    length: User<u32>,
) -> Result<Bytes, Errno> {
    let found = own(fd, handle, runtime, OptionName::SavedSyn { room });
    if found == Err(INVALID) {
        let needed = own(fd, handle, runtime, OptionName::SavedSynLength)?;
        length.write(needed.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))?;
    }
    found
}

/// A struct tcp_md5sig: sockaddr_storage, flags, prefix length, key length (2 bytes), interface, key
/// (`tcp_v4_parse_md5_keys`, `tcp_v6_parse_md5_keys`).
pub(super) fn signature_key(handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    given.int()?;
    let bytes = given.bytes(SIGNATURE_SIZE)?;
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let family = i32::from(u16::from_ne_bytes([byte(0), byte(1)]));
    let address = match handle.family {
        AddressFamily::Inet if family == libc::AF_INET => IpAddr::V4(Ipv4Addr::new(byte(4), byte(5), byte(6), byte(7))),
        AddressFamily::Inet6 if family == libc::AF_INET6 => {
            let octets: [u8; 16] = std::array::from_fn(|place| byte(8 + place));
            let address = Ipv6Addr::from(octets);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return Err(INVALID),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let (flags, extended) = (byte(128), name == TCP_MD5SIG_EXT);
    let prefix = if extended && flags & SIGNATURE_PREFIX != 0 { byte(129) } else { longest };
    let interface = u32::from_ne_bytes([byte(132), byte(133), byte(134), byte(135)]);
    // Only an L3 master device may be named, and there is none here.
    if prefix > longest || (extended && flags & SIGNATURE_INTERFACE != 0 && interface != 0) {
        return Err(INVALID);
    }
    let length = usize::from(u16::from_ne_bytes([byte(130), byte(131)]));
    if length > SIGNATURE_LONGEST_KEY {
        return Err(INVALID);
    }
    let key = bytes.get(136..136 + length).ok_or(INVALID)?.to_vec();
    let default_domain = flags & SIGNATURE_INTERFACE != 0;
    Ok(SetOption::SignatureKey(SignatureKey { address, prefix, default_domain, key }))
}

/// Pairs of option kind and value.
fn repair_options(given: &Given) -> Result<Vec<(u32, u32)>, Errno> {
    let bytes = given.bytes(4)?;
    let word = |bytes: &[u8]| bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    Ok(bytes.chunks_exact(8).map(|pair| (word(pair), word(pair.get(4..).unwrap_or(&[])))).collect())
}

/// A struct tcp_repair_window. Linux looks at the socket's mode before the size; the stack does so with a window that
/// no socket takes.
fn repair_window(given: &Given) -> Result<[u32; 5], Errno> {
    let bytes = given.bytes(4)?;
    let mut window = [0, 1, 0, 0, 0];
    if given.length == size_of_val(&window) {
        for (field, bytes) in window.iter_mut().zip(bytes.chunks_exact(4)) {
            *field = bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        }
    }
    Ok(window)
}
