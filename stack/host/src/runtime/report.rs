//! What a family tells of itself while it runs: counters under Linux's names, its neighbours,
//! its routes, and its sockets as ss(8) lists them. The
//! keeper listens on the abstract name `remora/s/FAMILY` and gives whoever connects, if he is the same user or root, the
//! whole text at once, one fact a line. Who asks and prints is the launcher.

use super::{Core, DescriptionId, Open};
use crate::sys::{Errno, Fd, call};
use remora_stack::counters::Counters;
use remora_stack::ip::route::{RouteAction, RouteEntry};
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
    /// The members, the address, neighbours, routes and sockets.
    pub(super) fn describe_in(&mut self, now: Instant, text: &mut String) {
        for member in self.members.iter().filter(|member| member.is_taken()) {
            let _ = writeln!(text, "member {}", member.pid());
        }
        if let Some(interface) = self.stack.interface() {
            let _ = writeln!(text, "address {}/{} {}", interface.address, interface.prefix, interface.mac);
        }
        for (address, state, mac) in self.stack.neighbours() {
            let state = format!("{state:?}").to_uppercase();
            match state.as_str() {
                "INCOMPLETE" | "FAILED" => writeln!(text, "neighbour {address} {state}"),
                _ => writeln!(text, "neighbour {address} lladdr {mac} {state}"),
            }
            .unwrap_or_default();
        }
        for row in self.stack.routes() {
            describe_route(row, text);
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
        let mut more = String::new();
        let (name, state) = match kind.kind {
            SocketType::Stream => {
                // The state is the first byte of struct tcp_info.
                let state = match self.stack.option(now, socket, OptionName::Info) {
                    Ok(OptionValue::Bytes(bytes)) => {
                        let state = bytes.first().copied().unwrap_or(0);
                        if !matches!(state, 7 | 10) {
                            more = details(&bytes);
                        }
                        state
                    }
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
        let _ = writeln!(text, "socket {name} {state} {input} {output} {local} {peer} {holders} {more}");
    }
}

/// One route as `ip route show table all` has it.
fn describe_route(row: &RouteEntry, text: &mut String) {
    let kind = match row.action {
        RouteAction::Unicast => "",
        RouteAction::Local => "local ",
        RouteAction::Broadcast => "broadcast ",
        RouteAction::Unreachable => "unreachable ",
    };
    let _ = match row.prefix {
        0 => write!(text, "route {kind}default"),
        32 if row.destination.is_ipv4() => write!(text, "route {kind}{}", row.destination),
        prefix => write!(text, "route {kind}{}/{prefix}", row.destination),
    };
    if let Some(gateway) = row.gateway {
        let _ = write!(text, " via {gateway}");
    }
    if let Some(source) = row.source {
        let _ = write!(text, " src {source}");
    }
    let numbers = [
        ("metric", row.metric),
        ("mtu", row.mtu.into()),
        ("window", row.window),
        ("advmss", row.advertised_mss.into()),
        ("initcwnd", row.initial_cwnd),
    ];
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        let _ = write!(text, " {name} {number}");
    }
    text.push('\n');
}

/// What ss -i shows of a connection, from the bytes of struct tcp_info.
fn details(bytes: &[u8]) -> String {
    let word = |at: usize| {
        bytes.get(at..at + 4).and_then(|part| part.first_chunk::<4>()).map_or(0, |part| u32::from_ne_bytes(*part))
    };
    let milliseconds = |at: usize| f64::from(word(at)) / 1_000.0;
    format!(
        "rto:{} rtt:{:.3}/{:.3} mss:{} cwnd:{} ssthresh:{} unacked:{} lost:{} retrans:{}/{} rcv_space:{} backoff:{} probes:{}",
        word(8) / 1_000,
        milliseconds(68),
        milliseconds(72),
        word(16),
        word(80),
        word(76),
        word(24),
        word(32),
        word(36),
        word(100),
        word(96),
        bytes.get(4).copied().unwrap_or(0),
        bytes.get(3).copied().unwrap_or(0),
    )
}

const fn connected(is_connected: bool) -> &'static str {
    if is_connected { "ESTAB" } else { "UNCONN" }
}
