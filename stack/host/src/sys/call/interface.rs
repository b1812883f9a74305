//! What the kernel says of a network interface, asked by ioctl by name.

use super::{Errno, Fd, close, invoke, socket, word};
use std::net::Ipv4Addr;

/// Size of a name in struct ifreq, with its terminating zero.
const NAME_SIZE: usize = 16;
/// Size of struct ifreq on 64-bit targets.
const REQUEST_SIZE: usize = 40;
/// Where the answer begins.
const ANSWER: usize = NAME_SIZE;

/// One question about one interface: a struct ifreq as bytes.
fn ask(fd: Fd, request: libc::c_ulong, name: &str) -> Result<[u8; REQUEST_SIZE - ANSWER], Errno> {
    let mut bytes = [0u8; REQUEST_SIZE];
    if name.is_empty() || name.len() >= NAME_SIZE {
        return Err(Errno(libc::ENODEV));
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the requests of this file read and write one struct ifreq of 40 bytes.
    unsafe { invoke(libc::SYS_ioctl, [word(fd.0), request as usize, bytes.as_mut_ptr() as usize]) }?;
    let mut answer = [0u8; REQUEST_SIZE - ANSWER];
    answer.copy_from_slice(&bytes[ANSWER..]);
    Ok(answer)
}

fn int(answer: [u8; REQUEST_SIZE - ANSWER]) -> i32 {
    let [a, b, c, d, ..] = answer;
    i32::from_ne_bytes([a, b, c, d])
}

fn ipv4(answer: [u8; REQUEST_SIZE - ANSWER]) -> Ipv4Addr {
    // struct sockaddr_in: family, port, address.
    let [_, _, _, _, a, b, c, d, ..] = answer;
    Ipv4Addr::new(a, b, c, d)
}

/// The name of the interface with that number.
///
/// # Errors
/// ENODEV when there is none; the errors of socket(2).
pub fn interface_name(index: i32) -> Result<String, Errno> {
    let fd = socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)?;
    let mut bytes = [0u8; REQUEST_SIZE];
    bytes[ANSWER..ANSWER + 4].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: SIOCGIFNAME reads and writes one struct ifreq of 40 bytes.
    let result =
        unsafe { invoke(libc::SYS_ioctl, [word(fd.0), libc::SIOCGIFNAME as usize, bytes.as_mut_ptr() as usize]) };
    let _ = close(fd);
    result?;
    let length = bytes.iter().take(NAME_SIZE).position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// An interface as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index, as sockaddr_ll wants it.
    pub index: i32,
    /// ARPHRD_ETHER, ARPHRD_LOOPBACK, ARPHRD_NONE, ...
    pub hardware: u16,
    /// The link address; meaningful for Ethernet-like hardware.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// IFF_UP, IFF_RUNNING, ...
    pub flags: u16,
    /// The first IPv4 address and its mask, if the kernel has one there.
    pub address: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Interface {
    /// Whether the interface is administratively up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u16 != 0
    }
}

/// Asks the kernel all about the interface of that name.
///
/// # Errors
/// ENODEV when there is none; the errors of socket(2).
pub fn interface(name: &str) -> Result<Interface, Errno> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
        .or_else(|_| socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
    let result = interface_beside(fd, name);
    let _ = close(fd);
    result
}

/// The same in the network namespace of a socket (inet or packet), whatever namespace the caller is in by now.
///
/// # Errors
/// ENODEV when there is none.
pub fn interface_beside(fd: Fd, name: &str) -> Result<Interface, Errno> {
    let index = int(ask(fd, libc::SIOCGIFINDEX as _, name)?);
    let hardware = ask(fd, libc::SIOCGIFHWADDR as _, name)?;
    let [h0, h1, mac @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = hardware;
    let mtu = int(ask(fd, libc::SIOCGIFMTU as _, name)?);
    let [f0, f1, ..] = ask(fd, libc::SIOCGIFFLAGS as _, name)?;
    let address = ask(fd, libc::SIOCGIFADDR as _, name).ok().map(ipv4);
    let mask = ask(fd, libc::SIOCGIFNETMASK as _, name).ok().map(ipv4);
    Ok(Interface {
        index,
        hardware: u16::from_ne_bytes([h0, h1]),
        mac,
        mtu: u32::try_from(mtu).unwrap_or(0),
        flags: u16::from_ne_bytes([f0, f1]),
        address: address.zip(mask),
    })
}
