//! The interface as programs see it: on sockets of ours the SIOCGIF requests give the stack's address, mask, broadcast
//! address, link address and MTU for the interface that it uses (`dev_ioctl`, `devinet_ioctl`), and the list of
//! interfaces has the stack's address beside the kernel's, as REMORA_INTERFACES says. Index, name, flags, metric and
//! queue length are the device's own, which the kernel knows. getifaddrs is `abi::interfaces`'s.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicI32, Ordering};

use remora_host::config::{Cidr, Interfaces};
use remora_host::runtime;
use remora_host::sys::{Errno, call};
use remora_stack::socket::options::Through;

use crate::abi::{User, control};
use crate::config;

pub(super) const SIOCGIFCONF: usize = 0x8912;
const SIOCGIFADDR: usize = 0x8915;
const SIOCGIFDSTADDR: usize = 0x8917;
const SIOCGIFBRDADDR: usize = 0x8919;
const SIOCGIFNETMASK: usize = 0x891b;
const SIOCGIFMTU: usize = 0x8921;
const SIOCGIFHWADDR: usize = 0x8927;

const SIOCGIFPFLAGS: usize = 0x8935;

/// Whether sockets of AF_INET alone know the request (`inet_ioctl`).
pub(super) const fn is_inet_only(request: usize) -> bool {
    matches!(request, SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFPFLAGS)
}

/// Refuses a request of sockets, which is read all the same (`get_user_ifreq`).
pub(super) fn refuse(argument: usize, errno: Errno) -> Result<i32, Errno> {
    control::argument::<u8>(argument).read_many(REQUEST)?;
    Err(errno)
}

/// IFNAMSIZ.
pub(crate) const NAME: usize = 16;
/// Size of struct ifreq on 64-bit targets.
const REQUEST: usize = 40;
/// Where the buffer's address stands in struct ifconf.
const BUFFER: usize = 8;

/// The stack's interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Its name, with zeroes after it.
    pub(crate) name: [u8; NAME],
    /// Address and prefix.
    pub(crate) address: Cidr,
    mac: [u8; 6],
    mtu: u32,
}

impl View {
    pub(crate) fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.mask())
    }

    /// The broadcast address; networks of 31 and 32 bits have none (`inet_insert_ifa`), and show 0.0.0.0 by ioctl.
    pub(crate) fn broadcast(&self) -> Option<Ipv4Addr> {
        let bits = self.address.address.to_bits() | !self.address.mask();
        (self.address.prefix < 31).then(|| Ipv4Addr::from_bits(bits))
    }
}

/// A struct sockaddr_in without a port.
pub(crate) fn name_of(address: Ipv4Addr) -> [u8; 16] {
    let [first, second] = (libc::AF_INET as u16).to_ne_bytes();
    let [a, b, c, d] = address.octets();
    [first, second, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// What is to be shown.
pub(crate) fn shown() -> Interfaces {
    config::active().map_or(Interfaces::Kernel, |settings| settings.config().interfaces.value)
}

/// The kernel's number of the stack's interface, once it was asked for.
static INDEX: AtomicI32 = AtomicI32::new(0);

/// The kernel's number of the stack's interface; 1 where the kernel has none for it.
pub(super) fn index() -> i32 {
    let known = INDEX.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let settings = config::active();
    let name = settings.as_ref().and_then(|settings| settings.config().interface.as_ref());
    let found = name.and_then(|name| call::interface(&name.value).ok()).map_or(1, |interface| interface.index);
    INDEX.store(found, Ordering::Relaxed);
    found
}

/// The kernel's number of the loopback interface.
pub(super) const LOOPBACK: i32 = 1;

/// What being bound to the interface of this number means to the stack.
pub(super) fn through(number: i32) -> Through {
    match number {
        0 => Through::Any,
        // A stack without a device of the kernel's has but one number for both.
        LOOPBACK if index() == LOOPBACK => Through::Any,
        LOOPBACK => Through::Loopback,
        number if number == index() => Through::Device,
        number if call::interface_name(number).is_ok() => Through::Elsewhere,
        _ => Through::Missing,
    }
}

/// The stack's address, in use or to be.
pub(super) fn address() -> Option<Ipv4Addr> {
    stack_view().map(|view| view.address.address)
}

/// The stack's interface, unless it is to be hidden; `None` too when it has no device of the kernel's.
pub(crate) fn view() -> Option<View> {
    if shown() == Interfaces::Kernel { None } else { stack_view() }
}

fn stack_view() -> Option<View> {
    let settings = config::active()?;
    let config = settings.config();
    let text = &config.interface.as_ref()?.value;
    let mut name = [0; NAME];
    name.get_mut(..text.len()).filter(|room| room.len() < NAME)?.copy_from_slice(text.as_bytes());
    // The stack's own word, once it has a device; before, what it will be.
    let attached = runtime::current().and_then(|runtime| {
        let found = runtime.call(|stack, _| {
            let interface = stack.interface()?;
            let IpAddr::V4(address) = interface.address else { return None };
            let address = Cidr { address, prefix: interface.prefix };
            Some((address, interface.mac.0, u32::from(interface.capabilities.mtu)))
        });
        found.ok().flatten()
    });
    let (address, mac, mtu) = match attached {
        Some(found) => found,
        None => {
            let mac = config.mac.as_ref().map_or([0; 6], |mac| mac.value.0);
            let mtu = config.mtu.as_ref().map_or(0, |mtu| u32::from(mtu.value));
            (config.address.as_ref()?.value, mac, mtu)
        }
    };
    Some(View { name, address, mac, mtu })
}

/// Answers a request of the SIOCGIF family; `None` is for the kernel to answer.
pub(super) fn answer(request: usize, argument: usize) -> Option<Result<i32, Errno>> {
    if !matches!(request, SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFMTU | SIOCGIFHWADDR) {
        return None;
    }
    let view = view()?;
    let place = control::argument::<u8>(argument);
    let asked = place.read_many(NAME).ok()?;
    let length = asked.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    let own = view.name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    if asked.get(..length)? != view.name.get(..own)? {
        return None;
    }
    let address = |address: Ipv4Addr| place.byte_add(NAME).write_many(&name_of(address));
    let result = match request {
        SIOCGIFADDR | SIOCGIFDSTADDR => address(view.address.address),
        SIOCGIFNETMASK => address(view.mask()),
        SIOCGIFBRDADDR => address(view.broadcast().unwrap_or(Ipv4Addr::UNSPECIFIED)),
        SIOCGIFMTU => place.byte_add(NAME).write_many(&view.mtu.to_ne_bytes()),
        // struct sockaddr: ARPHRD_ETHER and the address.
        _ => {
            let [first, second] = libc::ARPHRD_ETHER.to_ne_bytes();
            let [a, b, c, d, e, f] = view.mac;
            place.byte_add(NAME).write_many(&[first, second, a, b, c, d, e, f])
        }
    };
    Some(result.map(|()| 0))
}

/// SIOCGIFCONF: the kernel's list, asked for by `kernel`, with the stack's address in it (`dev_ifconf`).
pub(super) fn list(argument: usize, kernel: impl FnOnce() -> Result<i32, Errno>) -> Result<i32, Errno> {
    let length_at = control::argument::<u32>(argument);
    let room = length_at.read()? as usize;
    let result = kernel()?;
    let Some(view) = view() else { return Ok(result) };
    let buffer: User<u8> = control::argument(length_at.cast::<usize>().byte_add(BUFFER).read()?);
    let mut own = [0u8; REQUEST];
    for (place, byte) in own.iter_mut().zip(view.name.into_iter().chain(name_of(view.address.address))) {
        *place = byte;
    }
    let length = length_at.read()? as usize;
    let told = |length: usize| length_at.write(u32::try_from(length).unwrap_or(u32::MAX)).map(|()| 0);
    if buffer.is_null() {
        return told(length + REQUEST);
    }
    let bytes = buffer.read_many(length.min(room))?;
    let kept = bytes.chunks_exact(REQUEST).filter(|entry| {
        let is_same = entry.get(NAME + 4..NAME + 8) == Some(&view.address.address.octets());
        // 127.0.0.0/8.
        let is_loopback = entry.get(NAME + 4) == Some(&127);
        !is_same && (is_loopback || shown() == Interfaces::Both)
    });
    let mut whole: Vec<u8> = kept.flatten().copied().collect();
    if whole.len() + REQUEST <= room {
        whole.extend_from_slice(&own);
    }
    buffer.write_many(&whole)?;
    told(whole.len())
}
