//! The protocol switch: what a transport protocol offers to the socket layer (Linux's `struct proto`), and what the
//! socket layer hands to it.

use core::net::{IpAddr, SocketAddr};

use bitflags::bitflags;

use crate::counters::Counters;
use crate::io::{Sink, Source};
use crate::ip::Ip;
use crate::random::Random;
use crate::settings::Settings;
use crate::socket::error::{
    AcceptError, BindError, ConnectError, CreateError, ListenError, OptionError, ReceiveError, SendError, SocketFault,
};
use crate::socket::errqueue::Report;
use crate::socket::options::{OptionName, OptionValue, SetOption, SocketOptions};
use crate::time::Instant;
use crate::wire::ip_options::{IpOptions, LONGEST};

/// Names a socket of the socket layer. Never reused for another socket while the first is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Place in the table.
    pub index: u32,
    /// How often the place was used before.
    pub generation: u32,
}

/// Names a protocol's own socket (Linux's `struct sock`) inside that protocol's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SockId {
    /// Place in the table.
    pub index: u32,
    /// How often the place was used before.
    pub generation: u32,
}

/// Address family of a socket. Both kinds are served by the IPv4 layer until there is an IPv6 one: an `Inet6`
/// socket bound to `::` without `v6_only` takes IPv4 too. Core addresses are always the real ones (never mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// AF_INET.
    Inet,
    /// AF_INET6.
    Inet6,
}

/// Type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
    /// SOCK_RAW.
    Raw,
}

/// What the environment of a call is: time, network layer, counters, settings, randomness.
pub struct Net<'a> {
    /// The time of the call.
    pub now: Instant,
    /// Network layer: routes, addresses, path MTU.
    pub ip: &'a mut Ip,
    /// Linux's counters.
    pub counters: &'a mut Counters,
    /// Tunables.
    pub settings: &'a Settings,
    /// Keyed hashes and random numbers.
    pub random: &'a mut Random,
}

bitflags! {
    /// Readiness of a socket: the bits of poll(2), with Linux's values.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Readiness: u32 {
        /// POLLIN.
        const IN = 0x001;
        /// POLLPRI.
        const PRI = 0x002;
        /// POLLOUT.
        const OUT = 0x004;
        /// POLLERR.
        const ERR = 0x008;
        /// POLLHUP.
        const HUP = 0x010;
        /// POLLRDNORM.
        const RDNORM = 0x040;
        /// POLLRDBAND.
        const RDBAND = 0x080;
        /// POLLWRNORM.
        const WRNORM = 0x100;
        /// POLLWRBAND.
        const WRBAND = 0x200;
        /// POLLRDHUP.
        const RDHUP = 0x2000;
    }

    /// What has happened to a socket, as Linux's callbacks tell a poll's sleepers (the key of a wake-up) and the owner
    /// of an asynchronous socket (`sk_wake_async`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Happened: u8 {
        /// Data, a connection, or the end of the stream to receive (`sk_data_ready`).
        const INPUT = 0x01;
        /// Room to send, on a socket that had none (`sk_write_space`).
        const ROOM = 0x02;
        /// Another state (`sk_state_change`): its wake-up has no key, every waiter looks.
        const STATE = 0x04;
        /// A pending error (`sk_error_report`).
        const ERROR = 0x08;
        /// The connection has been made.
        const OPENED = 0x10;
        /// Both directions have ended.
        const HANG_UP = 0x20;
    }

    /// Flags of a send that the core acts on.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SendFlags: u32 {
        /// MSG_OOB.
        const OOB = 0x1;
        /// MSG_DONTROUTE.
        const DONTROUTE = 0x4;
        /// MSG_PROBE.
        const PROBE = 0x10;
        /// MSG_EOR.
        const EOR = 0x80;
        /// MSG_MORE.
        const MORE = 0x8000;
        /// MSG_DONTWAIT or O_NONBLOCK: told only because Fast Open holds an ACK back for a caller that waits.
        const DONTWAIT = 0x40;
        /// MSG_ZEROCOPY: the buffers hold the program's pages on Linux, which shows in how the stream is cut.
        const ZEROCOPY = 0x400_0000;
        /// MSG_FASTOPEN.
        const FASTOPEN = 0x2000_0000;
        /// The caller sleeps until there is room; no flag of a program's.
        const WAITS = 0x0800_0000;
        /// Control messages came with it, whatever they say; no flag of a program's.
        const CONTROL = 0x0100_0000;
    }

    /// Flags of a receive that the core acts on (waiting is the caller's business).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ReceiveFlags: u32 {
        /// MSG_OOB.
        const OOB = 0x1;
        /// MSG_PEEK.
        const PEEK = 0x2;
        /// MSG_TRUNC: for TCP the bytes are thrown away instead of copied; for datagrams the real length is returned.
        const TRUNC = 0x20;
        /// MSG_DONTWAIT or O_NONBLOCK: told only because a datagram socket that was shut for reading answers a
        /// waiting caller with 0 and others with EAGAIN.
        const DONTWAIT = 0x40;
        /// MSG_ERRQUEUE.
        const ERRQUEUE = 0x2000;
        /// splice() goes as far as the urgent mark, and never past it (`tcp_read_sock`); no flag of a program's.
        const SPLICE = 0x0800_0000;
    }
}

/// Arguments of a send beside the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendArguments {
    /// Destination of sendto, if one was given.
    pub to: Option<SocketAddr>,
    /// Flags.
    pub flags: SendFlags,
    /// IP_PKTINFO source address, if given.
    pub source: Option<IpAddr>,
    /// IP_TTL for this datagram, if given.
    pub ttl: Option<u8>,
    /// IP_TOS for this datagram, if given.
    pub tos: Option<u8>,
    /// UDP_SEGMENT for this call, if given.
    pub segment: Option<u16>,
    /// SO_TIMESTAMPING's flags for this datagram, if given.
    pub timestamping: Option<i32>,
    /// IP_RETOPTS for this datagram, if given.
    pub options: Option<GivenOptions>,
}

/// Options of the IP header as a program gives them with one datagram, not yet looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenOptions {
    bytes: [u8; LONGEST],
    length: u8,
    privileged: bool,
}

impl GivenOptions {
    /// As many of the bytes as fit into a header; whether the program may send any option there is.
    #[must_use]
    pub fn new(given: &[u8], privileged: bool) -> Self {
        let mut bytes = [0; LONGEST];
        let mut length = 0;
        for (place, byte) in bytes.iter_mut().zip(given) {
            *place = *byte;
            length += 1;
        }
        Self { bytes, length, privileged }
    }

    /// What they mean.
    pub(crate) fn read(&self, ip: &Ip) -> Result<IpOptions, SendError> {
        let given = self.bytes.get(..usize::from(self.length)).unwrap_or(&[]);
        IpOptions::from_program(given, self.privileged, &|address| ip.is_unicast(address))
            .map_err(|_| SendError::Invalid)
    }
}

impl SendArguments {
    /// The options that a datagram of this socket goes with: those of the call, or the socket's.
    pub(crate) fn ip_options(&self, ip: &Ip, socket: &SocketOptions) -> Result<IpOptions, SendError> {
        self.options.map_or(Ok(*socket.ip_options()), |given| given.read(ip))
    }
}

/// What a receive gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes stored (or, for TRUNC, what the call returns).
    pub length: usize,
    /// Where a datagram came from.
    pub from: Option<SocketAddr>,
    /// The address the datagram was sent to, for IP_PKTINFO.
    pub to: Option<IpAddr>,
    /// The datagram did not fit (MSG_TRUNC in msg_flags).
    pub truncated: bool,
    /// These are urgent bytes (MSG_OOB in msg_flags).
    pub urgent: bool,
    /// TTL of the datagram.
    pub ttl: u8,
    /// TOS byte of the datagram.
    pub tos: u8,
    /// When it arrived.
    pub at: Instant,
    /// Which interface it came by was noted, as somebody had asked (IP_PKTINFO).
    pub placed: bool,
    /// What MSG_ERRQUEUE gave.
    pub report: Option<Report>,
    /// Datagrams that were dropped for want of room since the socket was made, until this one came (SO_RXQ_OVFL).
    pub dropped: u32,
    /// Bytes of each datagram but the last, where several were joined (UDP_GRO); 0 for one.
    pub segment: u16,
    /// Options of its IP header.
    pub options: IpOptions,
    /// Those of an answer; `None`: it cannot be answered so.
    pub return_options: Option<IpOptions>,
    /// Bytes of the largest fragment that it came in; 0 when it came whole.
    pub fragment: u16,
}

impl Received {
    /// No byte: end of stream, or the end of waiting on a socket that was shut.
    #[must_use]
    pub const fn nothing(from: Option<SocketAddr>) -> Self {
        Self {
            length: 0,
            from,
            to: None,
            truncated: false,
            urgent: false,
            ttl: 0,
            tos: 0,
            at: Instant::ZERO,
            placed: false,
            report: None,
            dropped: 0,
            segment: 0,
            options: IpOptions::NONE,
            return_options: None,
            fragment: 0,
        }
    }
}

/// Which half to shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SHUT_RD.
    Read,
    /// SHUT_WR.
    Write,
    /// SHUT_RDWR.
    Both,
}

impl Happened {
    /// The key of the wake-up: the events that those who asked for others do not hear of.
    #[must_use]
    pub fn key(self) -> Readiness {
        if self.intersects(Self::STATE | Self::OPENED | Self::HANG_UP) {
            return Readiness::all();
        }
        let mut key = Readiness::empty();
        if self.contains(Self::INPUT) {
            key |= Readiness::IN | Readiness::PRI | Readiness::RDNORM | Readiness::RDBAND;
        }
        if self.contains(Self::ROOM) {
            key |= Readiness::OUT | Readiness::WRNORM | Readiness::WRBAND;
        }
        if self.contains(Self::ERROR) {
            key |= Readiness::ERR;
        }
        key
    }
}

/// One transport protocol as the socket layer sees it: Linux's `struct proto`. Implemented by TCP, UDP and raw.
///
/// Every `SockId` handed in was given out by this protocol; an id that is no longer known must be answered as a
/// closed socket would be, never by a panic. No call waits: what would block returns the operation's `WouldBlock`,
/// `InProgress` or `Already`. A change of readiness of a sock with an owner is announced through the protocol's
/// event queue.
pub trait Protocol {
    /// Makes a sock in its first state (`inet_create`, `sk->sk_prot->init`).
    ///
    /// # Errors
    /// `NoMemory`, `NotPermitted`, `GroupNotAllowed`.
    fn create(
        &mut self,
        net: &mut Net<'_>,
        owner: SocketId,
        family: AddressFamily,
        protocol: u8,
    ) -> Result<SockId, CreateError>;

    /// The last descriptor has gone (`tcp_close`, `udp_lib_close`). The id is dead for the caller; the protocol
    /// finishes on its own (FIN, TIME_WAIT, reset when unread data is thrown away).
    fn close(&mut self, net: &mut Net<'_>, sock: SockId);

    /// Binds to an address of ours or the unspecified one and a port (0: choose) (`inet_bind`, `get_port`).
    /// Address kinds were checked by the socket layer.
    ///
    /// # Errors
    /// See [`BindError`].
    fn bind(&mut self, net: &mut Net<'_>, sock: SockId, address: SocketAddr) -> Result<(), BindError>;

    /// Begins to connect (`tcp_v4_connect`) or sets the peer (`ip4_datagram_connect`).
    ///
    /// # Errors
    /// Streams answer `InProgress` when the attempt has begun.
    fn connect(&mut self, net: &mut Net<'_>, sock: SockId, address: SocketAddr) -> Result<(), ConnectError>;

    /// connect(AF_UNSPEC) (`tcp_disconnect`, `__udp_disconnect`).
    fn disconnect(&mut self, net: &mut Net<'_>, sock: SockId);

    /// Starts listening or changes the backlog (`inet_csk_listen_start`).
    ///
    /// # Errors
    /// See [`ListenError`].
    fn listen(&mut self, net: &mut Net<'_>, sock: SockId, backlog: u32) -> Result<(), ListenError>;

    /// Takes one established connection off the queue (`inet_csk_accept`); the new sock has no owner yet.
    ///
    /// # Errors
    /// See [`AcceptError`].
    fn accept(&mut self, net: &mut Net<'_>, sock: SockId) -> Result<SockId, AcceptError>;

    /// Whose readiness the sock's events announce.
    fn adopt(&mut self, sock: SockId, owner: SocketId);

    /// Shuts one or both halves; state checks of `inet_shutdown` were made by the socket layer (`tcp_shutdown`).
    fn shutdown(&mut self, net: &mut Net<'_>, sock: SockId, how: Shutdown);

    /// Takes bytes to send (`tcp_sendmsg`, `udp_sendmsg`, `raw_sendmsg`). Returns how many.
    ///
    /// # Errors
    /// See [`SendError`]; `Memory` only when no byte was taken.
    fn send(
        &mut self,
        net: &mut Net<'_>,
        sock: SockId,
        source: &mut dyn Source,
        arguments: &SendArguments,
    ) -> Result<usize, SendError>;

    /// Gives received bytes (`tcp_recvmsg`, `udp_recvmsg`). Zero bytes mean end of stream (or an empty datagram).
    ///
    /// # Errors
    /// See [`ReceiveError`].
    fn receive(
        &mut self,
        net: &mut Net<'_>,
        sock: SockId,
        sink: &mut dyn Sink,
        flags: ReceiveFlags,
    ) -> Result<Received, ReceiveError>;

    /// Puts bytes back that `receive` gave and nobody has used, before all others. Datagrams do not come back.
    fn put_back(&mut self, _net: &mut Net<'_>, _sock: SockId, _bytes: &[u8]) {}

    /// While a stream's input is withheld, it shows none and gives none.
    fn withhold_input(&mut self, _net: &mut Net<'_>, _sock: SockId, _withheld: bool) {}

    /// The poll mask (`tcp_poll`, `udp_poll`, `datagram_poll`), bit for bit.
    fn readiness(&self, sock: SockId) -> Readiness;

    /// Local address and port as getsockname shows them.
    fn local_name(&self, sock: SockId) -> SocketAddr;

    /// Gives an unbound socket a port of its own, as every call does that sends (`inet_autobind`); nothing where there is
    /// no device yet, and ports cannot be told apart from other programs'.
    fn autobind(&mut self, _net: &mut Net<'_>, _sock: SockId) {}

    /// Whether data is kept back that what is sent next is added to (`udp_sock.pending`).
    fn is_corked(&self, _sock: SockId) -> bool {
        false
    }

    /// An option was set for which Linux forgets the way to the peer (`sk_dst_reset`).
    fn forget_way(&mut self, _sock: SockId) {}

    /// When the datagram came that was received last (`sk_stamp`).
    fn received_at(&self, _sock: SockId) -> Option<Instant> {
        None
    }

    /// The port that the socket holds (`inet_num`), which getsockname shows longer.
    fn held_port(&self, sock: SockId) -> u16 {
        self.local_name(sock).port()
    }

    /// Peer, when there is one as getpeername sees it.
    fn peer_name(&self, sock: SockId) -> Option<SocketAddr>;

    /// The options all protocols share.
    fn options(&self, sock: SockId) -> Option<&SocketOptions>;

    /// The options all protocols share, to change.
    fn options_mut(&mut self, sock: SockId) -> Option<&mut SocketOptions>;

    /// Sets an option of the protocol's own (or does what a common option's change needs).
    ///
    /// # Errors
    /// `Unknown` for one that the protocol has not.
    fn set_option(&mut self, net: &mut Net<'_>, sock: SockId, option: &SetOption) -> Result<(), OptionError>;

    /// Reads an option of the protocol's own.
    ///
    /// # Errors
    /// `Unknown` for one that the protocol has not.
    fn option(&mut self, net: &mut Net<'_>, sock: SockId, name: OptionName) -> Result<OptionValue, OptionError>;

    /// One MSG_ZEROCOPY send is complete: its bytes were copied.
    fn complete_zero_copy(&mut self, _net: &mut Net<'_>, _sock: SockId) {}

    /// Takes the pending error (SO_ERROR, `sock_error`): reports once and clears.
    fn take_error(&mut self, sock: SockId) -> Option<SocketFault>;

    /// Bytes that a receive would give now (SIOCINQ / FIONREAD); for datagrams the length of the next one.
    fn queued_input(&self, sock: SockId) -> usize;

    /// Whether the next byte to read is the urgent one (SIOCATMARK); only streams have a mark.
    fn at_mark(&self, _sock: SockId) -> bool {
        false
    }

    /// Bytes not yet acknowledged by the peer (SIOCOUTQ).
    fn queued_output(&self, sock: SockId) -> usize;

    /// Bytes not yet sent at all (SIOCOUTQNSD).
    fn unsent_output(&self, sock: SockId) -> usize;
}
