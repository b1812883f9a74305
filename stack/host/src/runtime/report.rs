//! What a family tells of itself while it runs: counters under Linux's names, and its sockets as ss(8) lists them. The
//! keeper listens on the abstract name `remora/s/FAMILY` and gives whoever connects, if he is the same user or root, the
//! whole text at once, one fact a line. Who asks and prints is the launcher.

use super::{Core, DescriptionId, Open};
use crate::sys::{Errno, Fd, call};
use remora_stack::counters::Counters;
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::SocketType;
use remora_stack::time::Instant;
use std::fmt::Write;

/// Askers that wait.
const BACKLOG: i32 = 8;

/// Room for the answer, which is given without waiting.
const ANSWER_ROOM: i32 = 4 << 20;

/// Linux's names of TCP states by their numbers (tcp_states.h), as ss prints them.
const TCP_STATES: [&str; 13] = [
    "UNCONN",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "SYN-RECV",
];

/// The keeper's listening socket.
#[derive(Debug)]
pub(super) struct Reporter(Fd);

impl Reporter {
    /// Listens; where that is not possible nobody is told anything.
    pub(super) fn open(open: &Open) -> Self {
        Self(Self::listen(open).unwrap_or(Fd::NONE))
    }

    fn listen(open: &Open) -> Result<Fd, Errno> {
        let fd = call::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)?;
        let (address, length) = call::unix_address(&format!("@remora/s/{:016x}", open.identity))?;
        let ready = call::bind(fd, address.get(..length).unwrap_or(&[])).and_then(|()| call::listen(fd, BACKLOG));
        match ready {
            Ok(()) => Ok(fd),
            Err(errno) => {
                let _ = call::close(fd);
                Err(errno)
            }
        }
    }

    /// To be watched for input.
    pub(super) const fn fd(&self) -> Fd {
        self.0
    }

    /// The next asker who may be told.
    pub(super) fn next(&self) -> Option<Fd> {
        let guest = call::accept(self.0, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).ok()?;
        let own = call::effective_user();
        if call::peer_credentials(guest).is_ok_and(|(_, user)| user == own || user == 0) {
            return Some(guest);
        }
        let _ = call::close(guest);
        None
    }
}

/// Tells an asker.
pub(super) fn tell(guest: Fd, text: &str) {
    let _ = call::set_option_int(guest, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, ANSWER_ROOM)
        .or_else(|_| call::set_option_int(guest, libc::SOL_SOCKET, libc::SO_SNDBUF, ANSWER_ROOM));
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match call::send(guest, rest, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(sent @ 1..) => rest = rest.get(sent..).unwrap_or(&[]),
            _ => break,
        }
    }
    let _ = call::close(guest);
}

/// Every counter as a line, `counter TcpActiveOpens 3`.
pub(super) fn counter_lines(counters: &Counters, text: &mut String) {
    for (group, name, value) in counters.each() {
        let _ = writeln!(text, "counter {group}{name} {value}");
    }
}

impl Core {
    /// The members, the address and the sockets.
    pub(super) fn describe_in(&mut self, now: Instant, text: &mut String) {
        for member in self.members.iter().filter(|member| member.is_taken()) {
            let _ = writeln!(text, "member {}", member.pid);
        }
        if let Some(interface) = self.stack.interface() {
            let _ = writeln!(text, "address {}/{} {}", interface.address, interface.prefix, interface.mac);
        }
        for id in self.descriptions.names() {
            self.describe_socket(now, id, text);
        }
    }

    fn describe_socket(&mut self, now: Instant, id: DescriptionId, text: &mut String) {
        let Some(description) = self.descriptions.find(id) else { return };
        let (socket, kind, holders) = (description.socket, description.kind, description.holders.total());
        let local = self.stack.local_name(socket).ok();
        let peer = self.stack.peer_name(socket).ok();
        let (name, state) = match kind.kind {
            SocketType::Stream => {
                // The state is the first byte of struct tcp_info.
                let state = match self.stack.option(now, socket, OptionName::Info) {
                    Ok(OptionValue::Bytes(bytes)) => bytes.first().copied().unwrap_or(0),
                    _ => 0,
                };
                ("tcp", TCP_STATES.get(usize::from(state)).copied().unwrap_or("UNCONN"))
            }
            SocketType::Datagram if i32::from(kind.protocol) == libc::IPPROTO_ICMP => {
                ("icmp", connected(peer.is_some()))
            }
            SocketType::Datagram => ("udp", connected(peer.is_some())),
            SocketType::Raw => ("raw", connected(peer.is_some())),
        };
        let (input, output) = (self.stack.queued_input(socket), self.stack.queued_output(socket));
        let shown = |address: Option<std::net::SocketAddr>| match address {
            Some(address) if address.port() != 0 => address.to_string(),
            Some(address) => format!("{}:*", address.ip()),
            None => "*:*".to_owned(),
        };
        let (local, peer) = (shown(local), shown(peer));
        let _ = writeln!(text, "socket {name} {state} {input} {output} {local} {peer} {holders}");
    }
}

const fn connected(is_connected: bool) -> &'static str {
    if is_connected { "ESTAB" } else { "UNCONN" }
}
