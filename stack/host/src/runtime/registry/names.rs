//! What families claim, how a claim is called in the abstract AF_UNIX space, and how such names are taken and looked at.

use crate::sys::{Errno, Fd, call};
use std::fmt::Write as _;

/// How families on an address speak to each other: what names stand for, questions, whose a SYN is, packets over the
/// loopback interface. It stands in all names; who changes any of that takes the next number. Families of another layout
/// would misread these, so no two layouts share an address.
pub(super) const LAYOUT: u32 = 1;

/// Where the kernel lists all names of the namespace that the calling thread is in.
const ALL_NAMES: &std::ffi::CStr = c"/proc/thread-self/net/unix";

/// How many families can have ports in a block that is not theirs.
pub(super) const MARKS: u8 = 8;

/// How many families can have one port at a time, by SO_REUSEADDR or SO_REUSEPORT.
pub(in crate::runtime) const PLACES: u8 = 16;

/// A port of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct PortKey {
    pub(in crate::runtime) protocol: u8,
    pub(in crate::runtime) port: u16,
}

impl PortKey {
    /// A port of each protocol that has ports.
    pub(super) fn all(port: u16) -> [Self; 3] {
        PROTOCOLS.map(|protocol| Self { protocol: protocol as u8, port })
    }
}

/// Those that have ports, and what they are called in names.
const PROTOCOLS: [i32; 3] = [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE];
const CALLED: [&str; 3] = ["tcp", "udp", "udplite"];

fn place_of(protocol: u8) -> usize {
    PROTOCOLS.iter().position(|one| *one == i32::from(protocol)).unwrap_or(0)
}

/// What others are to know of a family's sockets on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Term {
    /// All have SO_REUSEADDR.
    Reuse,
    /// All have SO_REUSEPORT, and this user made them.
    Share(u32),
    /// One listens.
    Listens,
}

/// What can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Claim {
    Answerer,
    /// Ports N*64 to N*64+63 of TCP and UDP.
    Block(u16),
    /// One of the marks on a block that others have ports in: explicit ones, or such as connections linger on.
    Mark(u16, u8),
    /// One of the places on a port, for bound sockets.
    Port(PortKey, u8),
    /// What others are to know of who has the place.
    Term(PortKey, u8, Term),
    /// Connections without a bound socket are left on the port: accepted ones, TIME_WAIT, orphans. `reusable`: all of them
    /// let others bind it who ask to.
    Lingering {
        key: PortKey,
        reusable: bool,
    },
}

impl Claim {
    /// As a word, for the channel to the keeper: user (32 bits), port (16), place (6), protocol (2), kind (4).
    pub(in crate::runtime) fn pack(self) -> u64 {
        let of_port = |kind: u64, key: PortKey, place: u8, user: u32| {
            let protocol = place_of(key.protocol) as u64;
            u64::from(user) << 32 | u64::from(key.port) << 16 | u64::from(place) << 8 | protocol << 4 | kind
        };
        match self {
            Self::Answerer => 0,
            Self::Block(block) => u64::from(block) << 16 | 1,
            Self::Mark(block, mark) => u64::from(block) << 16 | u64::from(mark) << 8 | 7,
            Self::Port(key, place) => of_port(2, key, place, 0),
            Self::Lingering { key, reusable } => of_port(3, key, reusable.into(), 0),
            Self::Term(key, place, Term::Reuse) => of_port(4, key, place, 0),
            Self::Term(key, place, Term::Share(user)) => of_port(5, key, place, user),
            Self::Term(key, place, Term::Listens) => of_port(6, key, place, 0),
        }
    }

    pub(in crate::runtime) const fn unpack(word: u64) -> Self {
        let protocol = match word >> 4 & 3 {
            1 => libc::IPPROTO_UDP,
            2 => libc::IPPROTO_UDPLITE,
            _ => libc::IPPROTO_TCP,
        } as u8;
        let key = PortKey { protocol, port: (word >> 16) as u16 };
        let place = (word >> 8) as u8;
        match word & 0xf {
            0 => Self::Answerer,
            1 => Self::Block((word >> 16) as u16),
            2 => Self::Port(key, place),
            3 => Self::Lingering { key, reusable: place != 0 },
            4 => Self::Term(key, place, Term::Reuse),
            7 => Self::Mark((word >> 16) as u16, place),
            5 => Self::Term(key, place, Term::Share((word >> 32) as u32)),
            _ => Self::Term(key, place, Term::Listens),
        }
    }

    /// Its name, behind what all names of the address begin with.
    pub(super) fn name(self, prefix: &str) -> String {
        let mut name = String::from(prefix);
        let protocol = |key: PortKey| CALLED.get(place_of(key.protocol)).copied().unwrap_or_default();
        let _ = match self {
            Self::Answerer => write!(name, "/answerer"),
            Self::Block(block) => write!(name, "/block/{block}"),
            Self::Mark(block, mark) => write!(name, "/block/{block}/{mark}"),
            Self::Port(key, place) => write!(name, "/{}/{}/{place}", protocol(key), key.port),
            Self::Term(key, place, term) => {
                let _ = write!(name, "/{}/{}/{place}", protocol(key), key.port);
                match term {
                    Term::Reuse => write!(name, "/reuse"),
                    Term::Share(user) => write!(name, "/share/{user}"),
                    Term::Listens => write!(name, "/listens"),
                }
            }
            Self::Lingering { key, reusable } => {
                let kind = if reusable { "lingering/reusable" } else { "lingering" };
                write!(name, "/{}/{}/{kind}", protocol(key), key.port)
            }
        };
        name
    }

    /// The port that it is about, if it is one.
    pub(super) const fn port(self) -> Option<PortKey> {
        match self {
            Self::Port(key, _) | Self::Lingering { key, .. } => Some(key),
            Self::Answerer | Self::Block(_) | Self::Mark(..) | Self::Term(..) => None,
        }
    }
}

/// Why a port was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum ClaimError {
    /// Another family has it.
    Taken,
    /// No socket for the name (EMFILE, ...).
    Failed,
}

pub(super) fn datagram_socket() -> Result<Fd, Errno> {
    call::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
}

/// Binds a name; the descriptor is the claim.
pub(super) fn take_name(name: &str) -> Result<Fd, ClaimError> {
    let (address, length) = call::unix_address(name).map_err(|_| ClaimError::Failed)?;
    let fd = datagram_socket().map_err(|_| ClaimError::Failed)?;
    match call::bind(fd, address.get(..length).unwrap_or(&[])) {
        Ok(()) => call::raise_high(fd, call::private_floor()).map_err(|_| ClaimError::Failed),
        Err(errno) => {
            let _ = call::close(fd);
            Err(if errno == Errno(libc::EADDRINUSE) { ClaimError::Taken } else { ClaimError::Failed })
        }
    }
}

/// What all names of an address begin with, but for the layout.
pub(super) fn place(interface: &str, address: std::net::IpAddr) -> String {
    format!("@remora/{interface}/{address}/")
}

/// Whether another layout has names at a place. Where /proc cannot be read nobody is seen.
pub(super) fn is_another_layout_at(place: &str) -> bool {
    let Ok(file) = call::open(ALL_NAMES, libc::O_RDONLY | libc::O_CLOEXEC, 0) else { return false };
    let (mut list, mut page) = (Vec::new(), [0u8; 4096]);
    while let Ok(count @ 1..) = call::read(file, &mut page) {
        list.extend_from_slice(page.get(..count).unwrap_or(&[]));
    }
    let _ = call::close(file);
    has_another_layout(&list, place)
}

/// The same of the kernel's list.
pub(super) fn has_another_layout(list: &[u8], place: &str) -> bool {
    let names = list.split(|byte| *byte == b'\n').filter_map(|line| line.rsplit(|byte| *byte == b' ').next());
    let layouts = names.filter_map(|name| name.strip_prefix(place.as_bytes())?.split(|byte| *byte == b'/').next());
    layouts.into_iter().any(|layout| layout != LAYOUT.to_string().as_bytes())
}

/// Looks at names: a datagram socket connects to a bound one, ECONNREFUSED tells of none.
pub(super) struct Probe(Option<Fd>);

impl Probe {
    pub(super) fn new() -> Self {
        Self(datagram_socket().ok())
    }

    /// Whether it can look at all: without a descriptor (EMFILE) it sees nobody.
    pub(super) const fn sees(&self) -> bool {
        self.0.is_some()
    }

    /// Whether anyone holds a name.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        let (Some(fd), Ok((address, length))) = (self.0, call::unix_address(name)) else { return false };
        call::connect(fd, address.get(..length).unwrap_or(&[])) != Err(Errno(libc::ECONNREFUSED))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(fd) = self.0 {
            let _ = call::close(fd);
        }
    }
}
