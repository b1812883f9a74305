//! Socket options as typed values, and the block of them that every socket carries.
//!
//! The shim turns (level, name, bytes) into these and back; lengths and EFAULT are its business.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::filter::{Instruction, Program};
use super::kept::{Kept, KeptOptions};
use crate::wire::ip_options::IpOptions;

/// The interface that a socket is bound to (SO_BINDTODEVICE, SO_BINDTOIFINDEX), as the stack, which has one device, sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Through {
    /// None.
    #[default]
    Any,
    /// The stack's own.
    Device,
    /// The loopback: what goes from this host to itself.
    Loopback,
    /// Another of the host's, of which nothing comes here and by which nothing gets where it is to go.
    Elsewhere,
    /// One that is not there.
    Missing,
}

impl Through {
    /// Whether packets that came by the device, or those `looped` inside the host, are for the socket
    /// (`inet_sk_bound_dev_eq`).
    #[must_use]
    pub const fn hears(self, looped: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Device => !looped,
            Self::Loopback => looped,
            Self::Elsewhere | Self::Missing => false,
        }
    }
}

/// Options common to all protocols: Linux's `struct sock` and `struct inet_sock` parts of them.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct SocketOptions {
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// SO_BROADCAST.
    pub broadcast: bool,
    /// SO_OOBINLINE.
    pub oob_inline: bool,
    /// SO_DONTROUTE.
    pub dont_route: bool,
    /// SO_LINGER: `None` is off.
    pub linger: Option<Duration>,
    /// SO_RCVTIMEO: `None` waits for ever.
    pub receive_timeout: Option<Duration>,
    /// SO_SNDTIMEO: `None` waits for ever.
    pub send_timeout: Option<Duration>,
    /// SO_RCVLOWAT in bytes, at least 1.
    pub receive_low_water: u32,
    /// SO_RCVBUF as getsockopt shows it (doubled), in bytes.
    pub receive_buffer: u32,
    /// SO_SNDBUF as getsockopt shows it (doubled), in bytes.
    pub send_buffer: u32,
    /// The program has set SO_RCVBUF: no autotuning (SOCK_RCVBUF_LOCK).
    pub receive_buffer_locked: bool,
    /// The program has set SO_SNDBUF: no autotuning (SOCK_SNDBUF_LOCK).
    pub send_buffer_locked: bool,
    /// SO_PRIORITY.
    pub priority: i32,
    /// SO_MARK.
    pub mark: u32,
    /// SO_TIMESTAMP (1), SO_TIMESTAMPNS (2), off (0).
    pub timestamp: u8,
    /// SO_BINDTODEVICE; empty is none.
    pub device: String,
    /// What that means for packets.
    pub through: Through,
    /// IP_TTL; `None` takes the default.
    pub ttl: Option<u8>,
    /// IP_TOS.
    pub tos: u8,
    /// IP_MTU_DISCOVER (IP_PMTUDISC_*).
    pub mtu_discover: u8,
    /// IP_RECVERR.
    pub receive_errors: bool,
    /// IP_OPTIONS of what is sent; those of an accepted connection answer its SYN's.
    pub ip_options: Option<Box<IpOptions>>,
    /// IP_PKTINFO.
    pub packet_info: bool,
    /// IP_RECVTTL.
    pub receive_ttl: bool,
    /// IP_RECVTOS.
    pub receive_tos: bool,
    /// IP_RECVORIGDSTADDR.
    pub receive_original_destination: bool,
    /// IP_FREEBIND.
    pub free_bind: bool,
    /// IP_BIND_ADDRESS_NO_PORT.
    pub bind_address_no_port: bool,
    /// IP_MULTICAST_TTL.
    pub multicast_ttl: u8,
    /// IP_MULTICAST_LOOP.
    pub multicast_loop: bool,
    /// IP_MULTICAST_IF; `None` lets the route decide.
    pub multicast_interface: Option<IpAddr>,
    /// IP_MULTICAST_IF by number, for who is not bound to an interface.
    pub multicast_through: Through,
    /// IP_UNICAST_IF, in the same way.
    pub unicast_through: Through,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// SO_NO_CHECK (UDP without checksum on send).
    pub no_check: bool,
    /// SO_INCOMING_CPU; -1 is none. Kept: the stack does its work on the CPU of the caller.
    pub incoming_cpu: i32,
    /// SO_MAX_PACING_RATE in bytes per second; `u64::MAX` is without limit.
    pub max_pacing_rate: u64,
    /// Options that are one number.
    pub kept: KeptOptions,
    /// SO_ATTACH_FILTER.
    pub filter: Option<Program>,
    /// SO_ATTACH_REUSEPORT_CBPF: which socket of the group gets what comes.
    pub group_filter: Option<Program>,
}

/// A key of TCP_MD5SIG; one of no bytes deletes.
#[derive(Clone, PartialEq, Eq)]
pub struct SignatureKey {
    /// The peer, or the first of its prefix.
    pub address: IpAddr,
    /// How many of its bits count.
    pub prefix: u8,
    /// TCP_MD5SIG_FLAG_IFINDEX was given, with no L3 master device: another key than one without the flag.
    pub default_domain: bool,
    /// Up to 80 bytes.
    pub key: Vec<u8>,
}

impl core::fmt::Debug for SignatureKey {
    /// Without the secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SignatureKey({}/{}, {} bytes)", self.address, self.prefix, self.key.len())
    }
}

/// What becomes of one source of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceChange {
    /// IP_ADD_SOURCE_MEMBERSHIP.
    Add,
    /// IP_DROP_SOURCE_MEMBERSHIP.
    Drop,
    /// IP_BLOCK_SOURCE.
    Block,
    /// IP_UNBLOCK_SOURCE.
    Unblock,
}

/// One option with its new value (setsockopt).
#[derive(Clone, Debug, PartialEq)]
pub enum SetOption {
    /// SO_REUSEADDR.
    ReuseAddress(bool),
    /// SO_REUSEPORT.
    ReusePort(bool),
    /// SO_KEEPALIVE.
    KeepAlive(bool),
    /// SO_BROADCAST.
    Broadcast(bool),
    /// SO_OOBINLINE.
    OobInline(bool),
    /// SO_DONTROUTE.
    DontRoute(bool),
    /// SO_LINGER.
    Linger(Option<Duration>),
    /// SO_RCVTIMEO.
    ReceiveTimeout(Option<Duration>),
    /// SO_SNDTIMEO.
    SendTimeout(Option<Duration>),
    /// SO_RCVLOWAT.
    ReceiveLowWater(i32),
    /// SO_RCVBUF, in bytes as the program said; the flag: SO_RCVBUFFORCE.
    ReceiveBuffer(i32, bool),
    /// SO_SNDBUF, in bytes as the program said; the flag: SO_SNDBUFFORCE.
    SendBuffer(i32, bool),
    /// SO_PRIORITY.
    Priority(i32),
    /// SO_MARK.
    Mark(u32),
    /// SO_TIMESTAMP (1), SO_TIMESTAMPNS (2), off (0); and whether by the numbers with 64-bit time.
    Timestamp(u8, bool),
    /// An option that is one number.
    Kept(Kept, i32),
    /// SO_TIMESTAMPING with its flags; whether by the number with 64-bit times.
    Timestamping(i32, bool),
    /// SO_TXTIME: the clock and the flags of `struct sock_txtime`.
    TxTime(i32, i32),
    /// SO_BUF_LOCK: the send buffer (1) and the receive buffer (2) keep their sizes.
    BufferLock(i32),
    /// SO_BINDTODEVICE and SO_BINDTOIFINDEX: name and number of the device; empty and 0 is none; and which one it is.
    Device(String, i32, Through),
    /// SO_ATTACH_FILTER with a program; SO_DETACH_FILTER without.
    Filter(Option<Vec<Instruction>>),
    /// SO_ATTACH_REUSEPORT_CBPF with a program; SO_DETACH_REUSEPORT_BPF without.
    GroupFilter(Option<Vec<Instruction>>),
    /// SO_NO_CHECK.
    NoCheck(bool),
    /// SO_MAX_PACING_RATE, in bytes per second.
    MaxPacingRate(u64),
    /// IP_TTL (-1: default).
    Ttl(i32),
    /// IP_TOS.
    Tos(i32),
    /// IP_MTU_DISCOVER.
    MtuDiscover(i32),
    /// IP_RECVERR.
    ReceiveErrors(bool),
    /// IP_OPTIONS; whether the program may send any option there is.
    IpOptions(Vec<u8>, bool),
    /// IP_PKTINFO.
    PacketInfo(bool),
    /// IP_RECVTTL.
    ReceiveTtl(bool),
    /// IP_RECVTOS.
    ReceiveTos(bool),
    /// IP_RECVORIGDSTADDR.
    ReceiveOriginalDestination(bool),
    /// IP_FREEBIND.
    FreeBind(bool),
    /// IP_BIND_ADDRESS_NO_PORT.
    BindAddressNoPort(bool),
    /// IP_MULTICAST_TTL.
    MulticastTtl(i32),
    /// IP_MULTICAST_LOOP.
    MulticastLoop(bool),
    /// IP_MULTICAST_IF.
    MulticastInterface(Option<IpAddr>, Through),
    /// IP_UNICAST_IF: the value as it is shown, and which interface that is.
    UnicastInterface(i32, Through),
    /// IP_ADD_MEMBERSHIP / IP_DROP_MEMBERSHIP: group, local interface address, join.
    Membership(IpAddr, Option<IpAddr>, bool),
    /// One source of a group more or less: group, local interface address, source.
    Source(IpAddr, Option<IpAddr>, Ipv4Addr, SourceChange),
    /// All sources of a group: group, local interface address, whether these only or all but these.
    Sources(IpAddr, Option<IpAddr>, bool, Vec<Ipv4Addr>),
    /// IPV6_V6ONLY.
    V6Only(bool),
    /// TCP_NODELAY.
    NoDelay(bool),
    /// TCP_CORK.
    Cork(bool),
    /// TCP_MAXSEG.
    MaxSegment(i32),
    /// TCP_KEEPIDLE, in seconds.
    KeepIdle(i32),
    /// TCP_KEEPINTVL, in seconds.
    KeepInterval(i32),
    /// TCP_KEEPCNT.
    KeepCount(i32),
    /// TCP_SYNCNT.
    SynCount(i32),
    /// TCP_LINGER2, in seconds.
    Linger2(i32),
    /// TCP_DEFER_ACCEPT, in seconds.
    DeferAccept(i32),
    /// TCP_WINDOW_CLAMP, in bytes.
    WindowClamp(i32),
    /// TCP_QUICKACK.
    QuickAck(i32),
    /// TCP_CONGESTION.
    Congestion(String),
    /// TCP_USER_TIMEOUT, in milliseconds.
    UserTimeout(i32),
    /// TCP_NOTSENT_LOWAT, in bytes.
    NotSentLowWater(u32),
    /// TCP_REPAIR: 1 on, 0 off, -1 off without a window probe. Who may is for the caller to know.
    Repair(i32),
    /// TCP_REPAIR_QUEUE.
    RepairQueue(i32),
    /// TCP_QUEUE_SEQ.
    QueueSeq(u32),
    /// TCP_REPAIR_OPTIONS: option kinds and their values.
    RepairOptions(Vec<(u32, u32)>),
    /// TCP_REPAIR_WINDOW: the fields of Linux's `struct tcp_repair_window` in order.
    RepairWindow([u32; 5]),
    /// TCP_TIMESTAMP.
    TcpTimestamp(u32),
    /// TCP_SAVE_SYN: 0 off, 1 from the IP header on, 2 from the link's on.
    SaveSyn(i32),
    /// SO_INCOMING_CPU.
    IncomingCpu(i32),
    /// TCP_FASTOPEN: queue length.
    FastOpen(i32),
    /// TCP_FASTOPEN_CONNECT.
    FastOpenConnect(bool),
    /// TCP_INQ: 0 or 1.
    Inq(i32),
    /// TCP_FASTOPEN_NO_COOKIE.
    FastOpenNoCookie(bool),
    /// TCP_FASTOPEN_KEY: 16 bytes, or 32 with a key that is still taken.
    FastOpenKey(Vec<u8>),
    /// TCP_MD5SIG and TCP_MD5SIG_EXT.
    SignatureKey(SignatureKey),
    /// ICMP_FILTER on a raw socket: bit set = blocked.
    IcmpFilter(u32),
    /// IP_HDRINCL.
    HeaderIncluded(bool),
}

/// Which option to read (getsockopt): the protocol's own ones; SOL_SOCKET's are read off [`SocketOptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionName {
    /// IP_MTU: path MTU of a connected socket.
    Mtu,
    /// TCP_NODELAY.
    NoDelay,
    /// TCP_CORK.
    Cork,
    /// TCP_MAXSEG.
    MaxSegment,
    /// TCP_KEEPIDLE.
    KeepIdle,
    /// TCP_KEEPINTVL.
    KeepInterval,
    /// TCP_KEEPCNT.
    KeepCount,
    /// TCP_SYNCNT.
    SynCount,
    /// TCP_LINGER2.
    Linger2,
    /// TCP_DEFER_ACCEPT.
    DeferAccept,
    /// TCP_WINDOW_CLAMP.
    WindowClamp,
    /// TCP_QUICKACK.
    QuickAck,
    /// TCP_CONGESTION.
    Congestion,
    /// TCP_CC_INFO: the bytes of Linux's `union tcp_cc_info`, native endian; none if the algorithm tells nothing.
    CongestionInfo,
    /// TCP_USER_TIMEOUT.
    UserTimeout,
    /// TCP_NOTSENT_LOWAT.
    NotSentLowWater,
    /// TCP_REPAIR.
    Repair,
    /// TCP_REPAIR_QUEUE.
    RepairQueue,
    /// TCP_QUEUE_SEQ.
    QueueSeq,
    /// TCP_REPAIR_WINDOW: the bytes of Linux's `struct tcp_repair_window`, native endian.
    RepairWindow,
    /// TCP_TIMESTAMP.
    TcpTimestamp,
    /// The sources of a group: 1 for these only or 0 for all but these, as native-endian u32; then their addresses.
    SourceFilter {
        /// The group.
        group: Ipv4Addr,
    },
    /// SO_PEERNAME of a stream, which outlives the connection: port and address in network order.
    PeerName,
    /// TCP_SAVE_SYN.
    SaveSyn,
    /// TCP_SAVED_SYN: the headers of the SYN, if they fit; read once.
    SavedSyn {
        /// Bytes that the caller has room for.
        room: usize,
    },
    /// One of the keys of TCP_MD5SIG, for who takes the socket over: the bytes of Linux's `struct tcp_md5sig`, native
    /// endian, with IPv4 addresses in AF_INET's form.
    SignatureKey {
        /// Which, from 0 on, the oldest first.
        place: usize,
    },
    /// How many bytes TCP_SAVED_SYN has to give.
    SavedSynLength,
    /// TCP_FASTOPEN.
    FastOpen,
    /// TCP_FASTOPEN_CONNECT.
    FastOpenConnect,
    /// TCP_INQ.
    Inq,
    /// What TCP_INQ adds to a receive: bytes left to read, 1 for an end of stream alone; -1 when it was not asked for.
    InputHint,
    /// TCP_FASTOPEN_NO_COOKIE.
    FastOpenNoCookie,
    /// TCP_FASTOPEN_KEY.
    FastOpenKey,
    /// TCP_INFO: the bytes of Linux's `struct tcp_info`, native endian.
    Info,
    /// ICMP_FILTER.
    IcmpFilter,
    /// IP_HDRINCL.
    HeaderIncluded,
    /// TOS of the segment that opened an accepted connection, for IP_PKTOPTIONS; -1 on all others.
    ArrivalTos,
}

/// Value of an option that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// An int.
    Int(i32),
    /// A structure or a name, as bytes.
    Bytes(Vec<u8>),
}

impl SetOption {
    /// Whether setting it makes Linux forget the way to the peer (`sk_dst_reset`).
    #[must_use]
    pub fn forgets_way(&self, options: &SocketOptions) -> bool {
        match self {
            Self::DontRoute(_) | Self::Device(..) => true,
            Self::Mark(mark) => *mark != options.mark,
            Self::Tos(tos) => tos.to_le_bytes()[0] != options.tos,
            _ => false,
        }
    }
}

impl SocketOptions {
    /// The socket is bound to no interface any more (`__udp_disconnect`).
    pub(crate) fn forget_device(&mut self) {
        self.through = Through::Any;
        self.device.clear();
        // 0 is taken always.
        let _ = self.kept.write(Kept::BindToIfIndex, 0);
    }

    /// By which interface a datagram goes (`udp_sendmsg`): what the socket is bound to, else what was chosen for the kind of
    /// destination.
    #[must_use]
    pub const fn through_to(&self, multicast: bool) -> Through {
        match self.through {
            Through::Any if multicast => self.multicast_through,
            Through::Any => self.unicast_through,
            bound => bound,
        }
    }

    /// Whether a datagram is to be told with the interface that it came by (`ipv4_pktinfo_prepare`).
    #[must_use]
    pub fn wants_place(&self) -> bool {
        self.packet_info || self.kept.has(Kept::V6RecvPacketInfo) || self.kept.has(Kept::V6OldPacketInfo)
    }

    /// IP_OPTIONS of what is sent.
    #[must_use]
    pub fn ip_options(&self) -> &IpOptions {
        self.ip_options.as_deref().unwrap_or(&IpOptions::NONE)
    }

    /// Linux's defaults for a new socket with the given buffer sizes in bytes.
    #[must_use]
    pub const fn new(receive_buffer: u32, send_buffer: u32) -> Self {
        Self {
            reuse_address: false,
            reuse_port: false,
            keepalive: false,
            broadcast: false,
            oob_inline: false,
            dont_route: false,
            linger: None,
            receive_timeout: None,
            send_timeout: None,
            receive_low_water: 1,
            receive_buffer,
            send_buffer,
            receive_buffer_locked: false,
            send_buffer_locked: false,
            priority: 0,
            mark: 0,
            timestamp: 0,
            device: String::new(),
            through: Through::Any,
            ttl: None,
            tos: 0,
            mtu_discover: 1,
            receive_errors: false,
            ip_options: None,
            packet_info: false,
            receive_ttl: false,
            receive_tos: false,
            receive_original_destination: false,
            free_bind: false,
            bind_address_no_port: false,
            multicast_ttl: 1,
            multicast_loop: true,
            multicast_interface: None,
            multicast_through: Through::Any,
            unicast_through: Through::Any,
            v6_only: false,
            no_check: false,
            incoming_cpu: -1,
            max_pacing_rate: u64::MAX,
            kept: KeptOptions::EMPTY,
            filter: None,
            group_filter: None,
        }
    }
}
