//! Names: which name servers libc's resolver is to ask, for the length of a call, in place of those it knows. The server
//! in its list becomes a relay of the family's (`remora_host::runtime`, `relay`), which asks the server through the stack;
//! loopback servers stay the kernel's, and so do those that a rule gives to it. The list itself is `abi::resolver`'s.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use remora_host::config::Names;
use remora_host::config::rules::{Call, Query, Transport, Verdict};
use remora_host::runtime::{self, Runtime};
use smallvec::SmallVec;

use crate::config::{self, Settings};

/// As many as struct __res_state has room for (MAXNS).
pub(crate) const MOST_SERVERS: usize = 3;

/// A list of servers; `None` is one that is no IPv4 address.
pub(crate) type Servers = SmallVec<[Option<SocketAddrV4>; MOST_SERVERS]>;

/// A server that cannot be asked: sending to port 0 fails at once (EINVAL), and the resolver goes on to the next.
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// Whether the stack asks for names in this process.
pub(crate) fn is_wanted() -> bool {
    settings().is_some()
}

fn settings() -> Option<&'static Settings> {
    if super::strangers::is_locked_in() {
        return None;
    }
    config::active().filter(|settings| settings.config().names.value != Names::Kernel)
}

/// Whether a name is an address already, which no server is asked for.
pub(crate) fn is_address(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    text.parse::<IpAddr>().is_ok() || text == "localhost"
}

/// The servers to ask instead of `known`; `None` when they are to stay.
//= REF C-18
pub(crate) fn instead_of(known: &Servers) -> Option<Servers> {
    let settings = settings()?;
    let wanted: Servers = match &settings.config().names.value {
        Names::Servers(servers) => servers.iter().copied().map(Some).collect(),
        Names::Stack | Names::Kernel => known.clone(),
    };
    let runtime = runtime::start(settings.config()).ok()?;
    let mut up = None;
    let servers: Servers =
        wanted.iter().map(|server| server.map(|server| instead_of_one(settings, runtime, server, &mut up))).collect();
    (servers != *known).then_some(servers)
}

/// The address at which libc reaches a server.
fn instead_of_one(
    settings: &'static Settings,
    runtime: &'static Runtime,
    server: SocketAddrV4,
    up: &mut Option<bool>,
) -> SocketAddrV4 {
    let query = Query { call: Call::Send, transport: Transport::Udp, address: Some(SocketAddr::V4(server)) };
    let verdict = settings.rules().decide(&query).map_or(Verdict::Allow, |rule| rule.verdict);
    let is_local = server.ip().is_loopback() || server.ip().is_unspecified();
    match verdict {
        Verdict::Deny(_) => return NOBODY,
        Verdict::Kernel => return server,
        // A relay left in the list by a call that a signal handler has jumped out of.
        Verdict::Allow | Verdict::Stack if server.ip().is_loopback() && runtime.is_name_relay(server.port()) => {
            return server;
        }
        Verdict::Allow if is_local && !settings.loopback_in_stack() => return server,
        Verdict::Allow | Verdict::Stack => {}
    }
    let is_up = *up.get_or_insert_with(|| match runtime.bring_up(true) {
        Ok(()) => true,
        Err(error) => {
            log::warn!(target: "remora::names", "names cannot be asked for through the stack: {error}");
            false
        }
    });
    match is_up.then(|| runtime.name_relay(server)).flatten() {
        Some(port) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        None if settings.strict() => NOBODY,
        None => server,
    }
}
