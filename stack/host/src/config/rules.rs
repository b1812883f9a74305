//! Policy rules (`REMORA_RULES`, the key `rules`, `--rule`): which calls are allowed, refused, or served by the kernel or
//! by the stack. Text in, checked rules out; who asks them is the shim.
//!
//! A rule is `VERDICT [KEY=VALUE[,VALUE...]]...`; rules are parted by `;` or new lines, and the first that matches wins.

use super::value::Network;
use std::fmt;
use std::net::SocketAddr;

/// What is allowed, for messages.
const ALLOWED: &str = "rules VERDICT [KEY=VALUE,...]..., parted by `;`, with VERDICT allow, deny, deny=ERRNO, kernel or \
                       stack, and KEY call (connect, bind, listen, send), protocol (tcp, udp, icmp, raw), address \
                       (a.b.c.d[/len] or IPv6), port (number or first-last) or program (name, * for any ending)";

/// The call that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// connect(): the address is the destination.
    Connect,
    /// bind(): the address is the local one.
    Bind,
    /// listen(): the address is the one bound to.
    Listen,
    /// sendto() and sendmsg() with a destination.
    Send,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
            Self::Listen => "listen",
            Self::Send => "send",
        })
    }
}

/// The protocol that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Ping sockets.
    Icmp,
    /// Raw sockets.
    Raw,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Raw => "raw",
        })
    }
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As without rules: loopback as configured, the rest to the stack.
    Allow,
    /// The call fails with this errno.
    Deny(i32),
    /// The kernel serves the socket.
    Kernel,
    /// The stack serves the socket.
    Stack,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Deny(number) => match ERRORS.iter().find(|(_, known)| known == number) {
                Some((name, _)) => write!(f, "deny={name}"),
                None => write!(f, "deny={number}"),
            },
            Self::Kernel => f.write_str("kernel"),
            Self::Stack => f.write_str("stack"),
        }
    }
}

/// Errors that a network call may give; others go by number.
const ERRORS: &[(&str, i32)] = &[
    ("EACCES", libc::EACCES),
    ("EPERM", libc::EPERM),
    ("ECONNREFUSED", libc::ECONNREFUSED),
    ("ECONNRESET", libc::ECONNRESET),
    ("ECONNABORTED", libc::ECONNABORTED),
    ("ENETUNREACH", libc::ENETUNREACH),
    ("ENETDOWN", libc::ENETDOWN),
    ("EHOSTUNREACH", libc::EHOSTUNREACH),
    ("EHOSTDOWN", libc::EHOSTDOWN),
    ("ETIMEDOUT", libc::ETIMEDOUT),
    ("EADDRINUSE", libc::EADDRINUSE),
    ("EADDRNOTAVAIL", libc::EADDRNOTAVAIL),
    ("EAFNOSUPPORT", libc::EAFNOSUPPORT),
    ("EINVAL", libc::EINVAL),
    ("EINTR", libc::EINTR),
    ("ENOBUFS", libc::ENOBUFS),
    ("ENOMEM", libc::ENOMEM),
];

/// The largest errno (asm-generic/errno.h).
const ERRNO_MAX: i32 = 133;

/// What a rule is asked.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The call.
    pub call: Call,
    /// The socket's protocol.
    pub transport: Transport,
    /// The address named, mapped IPv6 addresses as IPv4; `None` for listen on a socket without a name.
    pub address: Option<SocketAddr>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the list, from 1.
    pub number: usize,
    /// As it was written.
    pub text: String,
    /// What it decides.
    pub verdict: Verdict,
    calls: Vec<Call>,
    transports: Vec<Transport>,
    networks: Vec<Network>,
    ports: Vec<(u16, u16)>,
    programs: Vec<String>,
}

/// A list of rules. Empty criteria match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Reads a list; the error is what is allowed, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split([';', '\n']).map(str::trim).filter(|part| !part.is_empty());
        parts.enumerate().map(|(place, part)| Rule::parse(place + 1, part)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules that can match in a program of this name, with the numbers that they have among all.
    #[must_use]
    pub fn for_program(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|rule| rule.is_for(name)).cloned().collect())
    }

    /// The first rule that matches.
    #[must_use]
    pub fn decide(&self, query: &Query) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.matches(query))
    }

    /// Whether a rule sends something to the stack that loopback would keep from it.
    #[must_use]
    pub fn want_loopback_in_stack(&self) -> bool {
        self.0.iter().any(|rule| {
            rule.verdict == Verdict::Stack
                && (rule.networks.is_empty() || rule.networks.iter().any(Network::meets_loopback))
        })
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, rule) in self.0.iter().enumerate() {
            write!(f, "{}{}", if place > 0 { "; " } else { "" }, rule.text)?;
        }
        Ok(())
    }
}

impl Rule {
    fn parse(number: usize, text: &str) -> Result<Self, String> {
        let fault = |what: &str| format!("{ALLOWED}; rule {number} (`{text}`): {what}");
        let mut words = text.split_ascii_whitespace();
        let verdict = verdict(words.next().unwrap_or("")).map_err(|what| fault(&what))?;
        let mut rule = Self {
            number,
            text: text.to_owned(),
            verdict,
            calls: Vec::new(),
            transports: Vec::new(),
            networks: Vec::new(),
            ports: Vec::new(),
            programs: Vec::new(),
        };
        for word in words {
            let (key, values) = word.split_once('=').ok_or_else(|| fault(&format!("`{word}` is no KEY=VALUE")))?;
            for value in values.split(',') {
                rule.take(key, value).map_err(|what| fault(&what))?;
            }
        }
        Ok(rule)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        let no = |what: &str| format!("`{value}` is no {what}");
        match key {
            "call" => self.calls.push(match value {
                "connect" => Call::Connect,
                "bind" => Call::Bind,
                "listen" => Call::Listen,
                "send" | "sendto" => Call::Send,
                _ => return Err(no("call")),
            }),
            "protocol" | "proto" => self.transports.push(match value {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                "icmp" => Transport::Icmp,
                "raw" => Transport::Raw,
                _ => return Err(no("protocol")),
            }),
            "address" | "addr" => self.networks.push(Network::parse(value).ok_or_else(|| no("address or network"))?),
            "port" => self.ports.push(ports(value).ok_or_else(|| no("port or range of ports"))?),
            "program" if value.is_empty() || value.contains('/') => return Err(no("program's name")),
            "program" => self.programs.push(value.to_owned()),
            _ => return Err(format!("`{key}` is no key")),
        }
        Ok(())
    }

    fn is_for(&self, program: &str) -> bool {
        let is_it = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => program.starts_with(beginning),
            None => program == pattern,
        };
        self.programs.is_empty() || self.programs.iter().any(is_it)
    }

    fn matches(&self, query: &Query) -> bool {
        let by_address = |test: &dyn Fn(SocketAddr) -> bool| query.address.is_some_and(test);
        (self.calls.is_empty() || self.calls.contains(&query.call))
            && (self.transports.is_empty() || self.transports.contains(&query.transport))
            && (self.networks.is_empty()
                || by_address(&|name| self.networks.iter().any(|network| network.contains(name.ip()))))
            && (self.ports.is_empty()
                || by_address(&|name| self.ports.iter().any(|(low, high)| (*low..=*high).contains(&name.port()))))
    }
}

fn verdict(word: &str) -> Result<Verdict, String> {
    match word {
        "allow" => Ok(Verdict::Allow),
        // A security module that refuses a connect says EACCES (security_socket_connect).
        "deny" => Ok(Verdict::Deny(libc::EACCES)),
        "kernel" => Ok(Verdict::Kernel),
        "stack" => Ok(Verdict::Stack),
        _ => match word.strip_prefix("deny=") {
            Some(error) => errno(error).map(Verdict::Deny).ok_or_else(|| format!("`{error}` is no errno")),
            None => Err(format!("`{word}` is no verdict")),
        },
    }
}

fn errno(text: &str) -> Option<i32> {
    let named = ERRORS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| text.parse().ok()).filter(|number| (1..=ERRNO_MAX).contains(number))
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(call: Call, transport: Transport, address: &str) -> Query {
        Query { call, transport, address: Some(address.parse().unwrap()) }
    }

    fn decided(rules: &str, query: &Query) -> Option<(usize, Verdict)> {
        Rules::parse(rules).unwrap().decide(query).map(|rule| (rule.number, rule.verdict))
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let rules = "deny=ECONNREFUSED call=connect protocol=tcp address=10.0.0.0/8 port=25,8000-8080; \
                     kernel address=10.0.0.1; stack";
        let port_25 = query(Call::Connect, Transport::Tcp, "10.0.0.1:25");
        assert_eq!(decided(rules, &port_25), Some((1, Verdict::Deny(libc::ECONNREFUSED))));
        let in_range = query(Call::Connect, Transport::Tcp, "10.9.9.9:8080");
        assert_eq!(decided(rules, &in_range), Some((1, Verdict::Deny(libc::ECONNREFUSED))));
        let other_port = query(Call::Connect, Transport::Tcp, "10.0.0.1:26");
        assert_eq!(decided(rules, &other_port), Some((2, Verdict::Kernel)));
        let by_udp = query(Call::Send, Transport::Udp, "10.0.0.2:25");
        assert_eq!(decided(rules, &by_udp), Some((3, Verdict::Stack)));
    }

    #[test]
    fn without_a_match_nothing_is_decided() {
        let rules = "deny address=fe80::/10 ; deny call=listen port=80";
        assert_eq!(decided(rules, &query(Call::Connect, Transport::Tcp, "10.0.0.1:80")), None);
        assert_eq!(decided(rules, &query(Call::Connect, Transport::Tcp, "[fe80::1]:80")).map(|found| found.0), Some(1));
        // A listener without a name has no port that could match.
        let nameless = Query { call: Call::Listen, transport: Transport::Tcp, address: None };
        assert_eq!(decided(rules, &nameless), None);
        assert_eq!(decided("deny call=listen", &nameless), Some((1, Verdict::Deny(libc::EACCES))));
    }

    #[test]
    fn rules_of_other_programs_are_left_out_and_numbers_stay() {
        let rules = Rules::parse("deny program=nginx,apache*\nkernel program=curl").unwrap();
        let numbers = |name| rules.for_program(name).0.iter().map(|rule| rule.number).collect::<Vec<_>>();
        assert_eq!(numbers("apache2"), [1]);
        assert_eq!(numbers("curl"), [2]);
        assert_eq!(numbers("curlew"), []);
    }

    #[test]
    fn a_rule_that_cannot_be_read_names_itself() {
        for (rules, what) in [
            ("refuse", "`refuse` is no verdict"),
            ("deny=EWHAT", "`EWHAT` is no errno"),
            ("deny=0", "`0` is no errno"),
            ("deny=134", "`134` is no errno"),
            ("stack; deny port=80-", "rule 2 (`deny port=80-`): `80-` is no port"),
            ("deny port=90-80", "is no port"),
            ("deny port=65536", "is no port"),
            ("deny address=10.0.0.0/33", "is no address"),
            ("deny address=10.0.0.0/", "is no address"),
            ("deny call=read", "`read` is no call"),
            ("deny protocol=sctp", "`sctp` is no protocol"),
            ("deny program=/usr/bin/curl", "is no program's name"),
            ("deny colour=red", "`colour` is no key"),
            ("deny all", "`all` is no KEY=VALUE"),
        ] {
            let fault = Rules::parse(rules).unwrap_err();
            assert!(fault.contains(what), "{rules}: {fault}");
            assert!(!fault.contains('\n'));
        }
    }

    #[test]
    fn loopback_in_the_stack_is_wanted_only_where_a_rule_can_send_it_there() {
        let wants = |rules| Rules::parse(rules).unwrap().want_loopback_in_stack();
        assert!(wants("stack") && wants("stack address=127.0.0.0/8") && wants("stack address=0.0.0.0/0"));
        assert!(!wants("stack address=10.0.0.0/8") && !wants("kernel address=127.0.0.1") && !wants(""));
    }

    #[test]
    fn rules_are_shown_as_they_were_written() {
        assert_eq!(Rules::parse(" deny  port=1 ;; stack \n").unwrap().to_string(), "deny  port=1; stack");
        assert_eq!(Verdict::Deny(libc::EPERM).to_string(), "deny=EPERM");
        assert_eq!(Verdict::Deny(libc::EIO).to_string(), "deny=5");
    }
}
