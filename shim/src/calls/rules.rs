//! What the policy rules say about a call, the lines that explain each decision (REMORA_EXPLAIN), and the line at exit
//! that counts the sockets that went to the kernel (REMORA_SUMMARY). Who carries a decision out is `policy`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use remora_host::config::rules::{Call, Query, Rule, Transport, Verdict};
use remora_host::logging;
use remora_host::runtime::Runtime;
use remora_host::sys::call;
use remora_stack::socket::protocol::SocketType;

use super::policy::Purpose;
use crate::config::{self, Settings};
use crate::fdtable::Handle;

/// Why a socket is the kernel's although a stack is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason<'a> {
    /// It names an address of the kernel's loopback.
    Loopback,
    /// The device cannot be opened, and the configuration does not insist.
    NoDevice,
    /// The stack cannot be started.
    NoStack,
    /// Its number is beyond the table of descriptors.
    NumberOutOfRange,
    /// A rule sends it there.
    Rule(&'a Rule),
}

/// Counters of the reasons that are no rules.
const PLAIN: [Reason<'static>; 4] = [Reason::Loopback, Reason::NoDevice, Reason::NoStack, Reason::NumberOutOfRange];

/// How many rules are counted one by one; later ones share the last place.
const COUNTED_RULES: usize = 60;

/// How often each reason sent a socket to the kernel: the plain ones, then the rules by their numbers.
static HAND_OVERS: [AtomicU64; PLAIN.len() + COUNTED_RULES] =
    [const { AtomicU64::new(0) }; PLAIN.len() + COUNTED_RULES];

impl Reason<'_> {
    fn counter(&self) -> Option<&'static AtomicU64> {
        let place = match self {
            Self::Loopback => 0,
            Self::NoDevice => 1,
            Self::NoStack => 2,
            Self::NumberOutOfRange => 3,
            Self::Rule(rule) => PLAIN.len() + rule.number.clamp(1, COUNTED_RULES) - 1,
        };
        HAND_OVERS.get(place)
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::NoDevice => f.write_str("the device cannot be opened"),
            Self::NoStack => f.write_str("the stack cannot be started"),
            Self::NumberOutOfRange => f.write_str("descriptor number out of range"),
            Self::Rule(rule) => write!(f, "rule {}: {}", rule.number, rule.text),
        }
    }
}

/// Counts a socket that is the kernel's although a stack is configured.
pub(crate) fn count_hand_over(reason: Reason<'_>) {
    if let Some(counter) = reason.counter() {
        counter.fetch_add(1, Ordering::Relaxed);
    }
    log::info!(target: "remora::policy", "a socket goes to the kernel: {reason}");
}

/// The rule that a call hits.
pub(crate) fn decide(
    settings: &'static Settings,
    runtime: &Runtime,
    handle: Handle,
    address: Option<SocketAddr>,
    purpose: Purpose,
) -> Option<&'static Rule> {
    if settings.rules().is_empty() {
        return None;
    }
    // A listener is known by the name that it has.
    let address = address.or_else(|| {
        let name = runtime.with_socket(handle.id, |stack, socket, _| stack.local_name(socket).ok());
        name.flatten().filter(|name| name.port() != 0)
    });
    let call = call_of(purpose);
    settings.rules().decide(&Query { call, transport: transport(runtime, handle), address })
}

const fn call_of(purpose: Purpose) -> Call {
    match purpose {
        Purpose::Bind => Call::Bind,
        Purpose::Connect => Call::Connect,
        Purpose::Listen => Call::Listen,
        Purpose::Send => Call::Send,
    }
}

fn transport(runtime: &Runtime, handle: Handle) -> Transport {
    match handle.kind {
        SocketType::Stream => Transport::Tcp,
        SocketType::Raw => Transport::Raw,
        SocketType::Datagram => match runtime.kind(handle.id).map(|kind| i32::from(kind.protocol)) {
            Some(libc::IPPROTO_ICMP) => Transport::Icmp,
            _ => Transport::Udp,
        },
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision<'a> {
    Stack(Option<&'a Rule>),
    Kernel(Reason<'a>),
    Denied(&'a Rule),
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack(None) => f.write_str("stack (default)"),
            Self::Stack(Some(rule)) => write!(f, "stack ({})", Reason::Rule(rule)),
            Self::Kernel(reason) => write!(f, "kernel ({reason})"),
            Self::Denied(rule) => write!(f, "{} ({})", rule.verdict, Reason::Rule(rule)),
        }
    }
}

/// What was explained last, so that each datagram does not make a line: description, call and address as one number.
static LAST: AtomicU64 = AtomicU64::new(u64::MAX);

/// Says in a line what was decided, where that was asked for.
pub(crate) fn explain(
    settings: &Settings,
    runtime: &Runtime,
    (fd, handle): (i32, Handle),
    (address, purpose): (Option<SocketAddr>, Purpose),
    decision: Decision<'_>,
) {
    if !settings.explains() {
        return;
    }
    if purpose == Purpose::Send {
        let this = u64::from(handle.id.index) << 32 | u64::from(handle.id.generation);
        if LAST.swap(this, Ordering::Relaxed) == this {
            return;
        }
    }
    let transport = transport(runtime, handle);
    let (program, pid, call) = (settings.program(), call::getpid(), call_of(purpose));
    match address {
        Some(name) => logging::say(format_args!("{program}[{pid}] {fd}: {call} {transport} {name}: {decision}")),
        None => logging::say(format_args!("{program}[{pid}] {fd}: {call} {transport}: {decision}")),
    }
}

/// A child begins to count anew.
pub(crate) fn after_fork_child() {
    HAND_OVERS.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    SUMMED_UP.store(false, Ordering::Relaxed);
}

/// The line has been said: _exit() and the library's end both come here.
static SUMMED_UP: AtomicBool = AtomicBool::new(false);

/// At exit: how many sockets went to the kernel and why, where that was asked for.
pub(crate) fn sum_up() {
    tell_counters();
    let Some(settings) = config::known().filter(|settings| settings.sums_up()) else { return };
    if !SUMMED_UP.swap(true, Ordering::Relaxed) {
        logging::say(format_args!("{}[{}] {Summary}", settings.program(), call::getpid()));
    }
}

/// At exit: what the stack has counted, where that was asked for.
//= REF C-19
fn tell_counters() {
    let Some(settings) = config::known().filter(|settings| settings.config().counters.value) else { return };
    let Some(runtime) = remora_host::runtime::current().filter(|_| !COUNTERS_TOLD.swap(true, Ordering::Relaxed)) else {
        return;
    };
    let (program, pid) = (settings.program(), call::getpid());
    for (group, name, value) in runtime.family_statistics().stack.each().filter(|(_, _, value)| *value > 0) {
        logging::say(format_args!("{program}[{pid}] {group}{name} {value}"));
    }
}

/// The counters have been told.
static COUNTERS_TOLD: AtomicBool = AtomicBool::new(false);

/// The counters in words.
struct Summary;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = HAND_OVERS.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        let total: u64 = counted.iter().sum();
        match total {
            0 => return f.write_str("no socket went to the kernel"),
            1 => f.write_str("1 socket went to the kernel")?,
            _ => write!(f, "{total} sockets went to the kernel")?,
        }
        let mut separator = ": ";
        for (place, count) in counted.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            match PLAIN.get(place) {
                Some(reason) => write!(f, "{separator}{count} {reason}")?,
                None => write!(f, "{separator}{count} rule {}", place + 1 - PLAIN.len())?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// Whether a rule sends the call to the kernel.
pub(crate) fn sends_to_kernel(rule: Option<&'static Rule>) -> Option<Reason<'static>> {
    rule.filter(|rule| rule.verdict == Verdict::Kernel).map(Reason::Rule)
}
