//! Options that go with a socket when the kernel takes it over: each is set on the kernel's socket as the program has set
//! it on ours.

use std::net::{Ipv4Addr, SocketAddr};

use remora_host::runtime::Runtime;
use remora_host::sys::{Fd, call};
use remora_stack::socket::options::{OptionName, SocketOptions};
use remora_stack::socket::protocol::{AddressFamily, SocketType};

use super::{Bytes, TCP_MD5SIG_EXT, common, own, socket_level, tcp_level};
use crate::abi::address;
use crate::calls::option_rows;
use crate::fdtable::Handle;

/// Options of IPPROTO_TCP that a hand-over carries to the kernel's socket, with the value a fresh one has there.
const REPLAYED: [i32; 7] = [
    libc::TCP_NODELAY,
    libc::TCP_CORK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_SYNCNT,
    libc::TCP_USER_TIMEOUT,
];

/// The value of one option as an int.
type Pick = fn(&SocketOptions) -> i32;

/// Sets on a fresh kernel socket what the program has set on ours. What the kernel refuses was of no use to it.
pub(in crate::calls) fn replay(runtime: &Runtime, handle: Handle, kernel: Fd) {
    let put = |level, name, value: i32| {
        if call::option_int(kernel, level, name) != Ok(value) {
            let _ = call::set_option_int(kernel, level, name, value);
        }
    };
    let socket = libc::SOL_SOCKET;
    let flags: [(i32, i32, Pick); 15] = [
        (socket, libc::SO_REUSEADDR, |options| options.reuse_address.into()),
        (socket, libc::SO_REUSEPORT, |options| options.reuse_port.into()),
        (socket, libc::SO_KEEPALIVE, |options| options.keepalive.into()),
        (socket, libc::SO_BROADCAST, |options| options.broadcast.into()),
        (socket, libc::SO_OOBINLINE, |options| options.oob_inline.into()),
        (socket, libc::SO_DONTROUTE, |options| options.dont_route.into()),
        (socket, libc::SO_PRIORITY, |options| options.priority),
        (socket, libc::SO_RCVLOWAT, |options| options.receive_low_water as i32),
        (libc::IPPROTO_IP, libc::IP_TOS, |options| options.tos.into()),
        (libc::IPPROTO_IP, libc::IP_RECVERR, |options| options.receive_errors.into()),
        (libc::IPPROTO_IP, libc::IP_PKTINFO, |options| options.packet_info.into()),
        (libc::IPPROTO_IP, libc::IP_RECVTTL, |options| options.receive_ttl.into()),
        (libc::IPPROTO_IP, libc::IP_FREEBIND, |options| options.free_bind.into()),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, |options| options.multicast_ttl.into()),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, |options| options.multicast_loop.into()),
    ];
    for (level, name, pick) in flags {
        if let Ok(value) = common(-1, handle, runtime, pick) {
            put(level, name, value);
        }
    }
    if handle.family == AddressFamily::Inet6
        && let Ok(only) = common(-1, handle, runtime, |options| options.v6_only)
    {
        put(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only.into());
    }
    if let Ok(kept) = common(-1, handle, runtime, |options| option_rows::changed(&options.kept)) {
        for (level, name, value) in kept {
            let _ = call::set_option_int(kernel, level, name, value);
        }
    }
    if let Ok(Some(ttl)) = common(-1, handle, runtime, |options| options.ttl) {
        put(libc::IPPROTO_IP, libc::IP_TTL, ttl.into());
    }
    let options = common(-1, handle, runtime, |options| Bytes::from_slice(options.ip_options().undone().as_slice()));
    if let Ok(options) = options
        && !options.is_empty()
    {
        let _ = call::set_option(kernel, libc::IPPROTO_IP, libc::IP_OPTIONS, &options);
    }
    let sizes = common(-1, handle, runtime, |options| {
        let receive = options.receive_buffer_locked.then_some(options.receive_buffer / 2);
        (receive, options.send_buffer_locked.then_some(options.send_buffer / 2))
    });
    if let Ok((receive, send)) = sizes {
        for (name, size) in [(libc::SO_RCVBUF, receive), (libc::SO_SNDBUF, send)] {
            if let Some(size) = size {
                let _ = call::set_option_int(kernel, socket, name, size as i32);
            }
        }
    }
    for name in [libc::SO_LINGER, libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        if let Ok(bytes) = socket_level::get(-1, handle, runtime, name)
            && bytes.iter().any(|byte| *byte != 0)
        {
            let _ = call::set_option(kernel, socket, name, &bytes);
        }
    }
    if handle.kind == SocketType::Raw
        && let Some(true) = runtime
            .with_socket(handle.id, |stack, socket, _| stack.local_name(socket).is_ok_and(|name| name.port() == 0))
        && option_rows::protocol(runtime, handle) != 0
    {
        // One that was disconnected hears nothing any more.
        let (name, length) = address::encode(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), AddressFamily::Inet);
        let _ = call::connect(kernel, name.get(..length).unwrap_or(&[]));
        let _ = call::connect(kernel, &[0; 16]);
    }
    if handle.is_stream() {
        for name in REPLAYED {
            let value = tcp_level::name_of(name).and_then(|own_name| own(-1, handle, runtime, own_name).ok());
            if let Some(value) = value.as_deref().and_then(|bytes| bytes.first_chunk::<4>()) {
                put(libc::IPPROTO_TCP, name, i32::from_ne_bytes(*value));
            }
        }
        replay_signature_keys(runtime, handle, kernel);
    }
}

/// Keys of TCP_MD5SIG. A kernel's IPv6 socket wants IPv4 addresses in mapped form.
fn replay_signature_keys(runtime: &Runtime, handle: Handle, kernel: Fd) {
    for place in 0.. {
        let Ok(mut bytes) = own(-1, handle, runtime, OptionName::SignatureKey { place }) else { break };
        let family = (libc::AF_INET6 as u16).to_ne_bytes();
        if handle.family == AddressFamily::Inet6
            && bytes.first_chunk() != Some(&family)
            && let Some(octets) = bytes.get(4..8).and_then(|octets| octets.first_chunk::<4>().copied())
            && let Some(name) = bytes.get_mut(..24)
        {
            let mapped = Ipv4Addr::from(octets).to_ipv6_mapped().octets();
            let parts = family.into_iter().chain([0; 6]).chain(mapped);
            name.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        }
        let _ = call::set_option(kernel, libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &bytes);
    }
}
