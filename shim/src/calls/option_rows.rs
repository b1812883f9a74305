//! The options that are one number (`remora_stack::socket::kept`): level and name of each, how its value is read, and
//! which kinds of sockets refuse it with which errno.

use remora_host::runtime::Runtime;
use remora_host::sys::Errno;
use remora_stack::socket::kept::{Kept, KeptOptions};
use remora_stack::socket::options::{SetOption, SocketOptions};
use remora_stack::socket::protocol::SocketType;
use smallvec::SmallVec;

use super::options::{Bytes, Given, UNKNOWN, common, int};
use crate::fdtable::Handle;

/// How long the value must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// An int at least.
    Int,
    /// An int or a byte; nothing is 0.
    Short,
    /// An int or a byte.
    Byte,
    /// An int, neither less nor more.
    Exact,
    /// An int; less is 0.
    Lax,
}

/// Kinds of sockets.
#[derive(Clone, Copy)]
enum Who {
    Stream,
    NotStream,
    NotRaw,
    /// Raw and ping sockets.
    Bare,
    Everybody,
}

#[derive(Clone, Copy)]
struct Row {
    level: i32,
    name: i32,
    kept: Kept,
    length: Length,
    set_refused: Option<(Who, i32)>,
    get_refused: Option<(Who, i32)>,
}

impl Row {
    const fn new(level: i32, name: i32, kept: Kept, length: Length) -> Self {
        Self { level, name, kept, length, set_refused: None, get_refused: None }
    }

    const fn no_set(self, who: Who, errno: i32) -> Self {
        Self { set_refused: Some((who, errno)), ..self }
    }

    const fn no_get(self, who: Who, errno: i32) -> Self {
        Self { get_refused: Some((who, errno)), ..self }
    }
}

const fn socket(name: i32, kept: Kept) -> Row {
    Row::new(libc::SOL_SOCKET, name, kept, Length::Int)
}

const fn ip(name: i32, kept: Kept, length: Length) -> Row {
    Row::new(libc::IPPROTO_IP, name, kept, length)
}

const fn udp(name: i32, kept: Kept) -> Row {
    Row::new(libc::IPPROTO_UDP, name, kept, Length::Int)
}

const fn tcp(name: i32, kept: Kept) -> Row {
    Row::new(libc::IPPROTO_TCP, name, kept, Length::Int)
}

const fn v6(name: i32, kept: Kept) -> Row {
    Row::new(libc::IPPROTO_IPV6, name, kept, Length::Int)
}

const fn v6_lax(name: i32, kept: Kept) -> Row {
    Row::new(libc::IPPROTO_IPV6, name, kept, Length::Lax)
}

/// By the numbers of asm-generic/socket.h, linux/in.h, linux/tcp.h, linux/udp.h and linux/in6.h.
static ROWS: &[Row] = &[
    socket(1, Kept::Debug),
    socket(14, Kept::BsdCompat),
    socket(40, Kept::RxqOvfl),
    socket(41, Kept::WifiStatus),
    socket(42, Kept::PeekOff).no_set(Who::Bare, libc::EOPNOTSUPP).no_get(Who::Bare, libc::EOPNOTSUPP),
    socket(43, Kept::NoFcs),
    socket(44, Kept::LockFilter),
    socket(45, Kept::SelectErrQueue),
    socket(46, Kept::BusyPoll),
    socket(53, Kept::CnxAdvice).no_get(Who::Everybody, libc::ENOPROTOOPT),
    socket(60, Kept::ZeroCopy).no_set(Who::Bare, libc::EOPNOTSUPP),
    socket(69, Kept::PreferBusyPoll),
    socket(70, Kept::BusyPollBudget).no_get(Who::Everybody, libc::ENOPROTOOPT),
    socket(74, Kept::TxRehash).no_set(Who::NotStream, libc::EOPNOTSUPP).no_get(Who::NotStream, libc::EOPNOTSUPP),
    socket(75, Kept::RcvMark),
    socket(82, Kept::RcvPriority),
    ip(5, Kept::IpRouterAlert, Length::Short).no_set(Who::NotRaw, libc::EINVAL),
    ip(6, Kept::IpRecvOpts, Length::Short),
    ip(7, Kept::IpRetOpts, Length::Short),
    ip(18, Kept::IpPassSec, Length::Short),
    ip(19, Kept::IpTransparent, Length::Byte),
    ip(21, Kept::IpMinTtl, Length::Byte),
    ip(22, Kept::IpNoDefrag, Length::Short).no_set(Who::NotRaw, libc::ENOPROTOOPT),
    ip(23, Kept::IpChecksum, Length::Short),
    ip(25, Kept::IpRecvFragSize, Length::Short).no_set(Who::Stream, libc::EINVAL),
    ip(26, Kept::IpRecvErrRfc4884, Length::Short),
    ip(49, Kept::IpMulticastAll, Length::Byte),
    ip(51, Kept::IpLocalPortRange, Length::Exact),
    tcp(16, Kept::TcpThinLinearTimeouts),
    tcp(17, Kept::TcpThinDupack),
    tcp(37, Kept::TcpTxDelay),
    tcp(44, Kept::TcpRtoMaxMs),
    tcp(45, Kept::TcpRtoMinUs),
    tcp(46, Kept::TcpDelackMaxUs),
    udp(1, Kept::UdpCork),
    udp(101, Kept::UdpNoCheck6Tx),
    udp(102, Kept::UdpNoCheck6Rx),
    v6(2, Kept::V6OldPacketInfo),
    v6(3, Kept::V6OldHopOptions),
    v6(4, Kept::V6OldDestinationOptions),
    v6(5, Kept::V6OldRoutingHeader),
    v6(8, Kept::V6OldHopLimit),
    v6(11, Kept::V6FlowInfo),
    v6(16, Kept::V6UnicastHops),
    v6(18, Kept::V6MulticastHops).no_set(Who::Stream, libc::ENOPROTOOPT),
    v6(19, Kept::V6MulticastLoop),
    v6(23, Kept::V6MtuDiscover),
    v6(25, Kept::V6RecvErr),
    v6(29, Kept::V6MulticastAll),
    v6(30, Kept::V6RouterAlertIsolate),
    v6(31, Kept::V6RecvErrRfc4884),
    v6(33, Kept::V6FlowInfoSend),
    v6(49, Kept::V6RecvPacketInfo),
    v6(51, Kept::V6RecvHopLimit),
    v6(53, Kept::V6RecvHopOptions),
    v6(56, Kept::V6RecvRoutingHeader),
    v6(58, Kept::V6RecvDestinationOptions),
    v6(60, Kept::V6RecvPathMtu),
    v6_lax(62, Kept::V6DontFragment),
    v6(66, Kept::V6RecvTrafficClass),
    v6(67, Kept::V6TrafficClass),
    v6_lax(70, Kept::V6AutoFlowLabel),
    v6(73, Kept::V6MinHopCount),
    v6(74, Kept::V6OriginalDestination),
    // One flag for both families (`inet_sk(sk)->transparent`).
    v6(75, Kept::IpTransparent),
    v6_lax(77, Kept::V6RecvFragSize),
];

fn find(level: i32, name: i32) -> Option<&'static Row> {
    ROWS.iter().find(|row| (row.level, row.name) == (level, name))
}

/// The IP protocol of a socket: a datagram socket is UDP's or a ping socket.
pub(super) fn protocol(runtime: &Runtime, handle: Handle) -> u8 {
    runtime
        .with_socket(handle.id, |stack, socket, _| stack.kind(socket))
        .flatten()
        .map_or(0, |(_, _, protocol)| protocol)
}

pub(super) fn is_udp(runtime: &Runtime, handle: Handle) -> bool {
    handle.kind == SocketType::Datagram
        && matches!(i32::from(protocol(runtime, handle)), libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE)
}

impl Who {
    fn has(self, runtime: &Runtime, handle: Handle) -> bool {
        match self {
            Self::Everybody => true,
            Self::Stream => handle.is_stream(),
            Self::NotStream => !handle.is_stream(),
            Self::NotRaw => handle.kind != SocketType::Raw,
            Self::Bare => !handle.is_stream() && !is_udp(runtime, handle),
        }
    }
}

fn refused(rule: Option<(Who, i32)>, runtime: &Runtime, handle: Handle) -> Result<(), Errno> {
    match rule {
        Some((who, errno)) if who.has(runtime, handle) => Err(Errno(errno)),
        _ => Ok(()),
    }
}

/// The option as it is to be set; `None` when it is not one of these.
pub(super) fn set(
    runtime: &Runtime,
    handle: Handle,
    (level, name): (i32, i32),
    given: &Given,
) -> Option<Result<SetOption, Errno>> {
    let row = find(level, name)?;
    if level == libc::IPPROTO_IPV6
        && let Err(errno) = refused(row.set_refused, runtime, handle)
    {
        return Some(Err(errno));
    }
    let value = match row.length {
        Length::Int => given.int(),
        Length::Short => given.short_int(),
        Length::Byte => given.byte_or_int(),
        Length::Exact => given.exact_int(),
        Length::Lax => given.int().or(Ok(0)),
    };
    Some(value.and_then(|value| {
        refused(row.set_refused, runtime, handle)?;
        // The ECN bits of a stream are the protocol's.
        let value = if row.kept == Kept::V6TrafficClass && handle.is_stream() && (0..256).contains(&value) {
            value & !3
        } else {
            value
        };
        Ok(SetOption::Kept(row.kept, value))
    }))
}

/// What the option is set to; `None` when it is not one of these.
pub(super) fn get(
    fd: i32,
    runtime: &Runtime,
    handle: Handle,
    (level, name): (i32, i32),
) -> Option<Result<Bytes, Errno>> {
    let row = find(level, name)?;
    Some(
        refused(row.get_refused, runtime, handle)
            .and_then(|()| common(fd, handle, runtime, |options| options.kept.read(row.kept)))
            .map(int),
    )
}

/// Level, name and value of each option that differs from the default.
pub(super) fn changed(options: &KeptOptions) -> SmallVec<[(i32, i32, i32); 4]> {
    let rows = ROWS.iter().map(|row| (row.level, row.name, row.kept));
    let udp = [
        (libc::IPPROTO_UDP, 103, Kept::UdpSegment),
        (libc::IPPROTO_UDP, 104, Kept::UdpGro),
        (libc::IPPROTO_UDP, UDPLITE_SEND_CSCOV, Kept::UdpLiteSend),
        (libc::IPPROTO_UDP, UDPLITE_RECV_CSCOV, Kept::UdpLiteReceive),
    ];
    rows.chain(udp)
        .filter(|(.., kept)| options.is_changed(*kept))
        .map(|(level, name, kept)| (level, name, options.read(kept)))
        .collect()
}

/// Options of SOL_SOCKET that only answer: what AF_UNIX alone has, and what is read only.
pub(super) fn set_fixed(name: i32, given: &Given) -> Option<Errno> {
    Some(Errno(match name {
        // SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS: for AF_UNIX.
        16 | 34 | 76 | 83 => libc::EOPNOTSUPP,
        // SO_RESERVE_MEM: without memory accounting by group.
        73 if given.int().is_ok_and(|bytes| bytes < 0) => libc::EINVAL,
        73 => libc::EOPNOTSUPP,
        _ => return None,
    }))
}

/// As [`set_fixed`], for what is read.
pub(super) fn get_fixed(name: i32) -> Option<Result<Bytes, Errno>> {
    Some(match name {
        16 | 34 | 76 | 83 => Err(Errno(libc::EOPNOTSUPP)),
        // SO_PEERCRED of what is not AF_UNIX: no process, nobody.
        17 => Ok([0i32, -1, -1].iter().flat_map(|value| value.to_ne_bytes()).collect()),
        // SO_BPF_EXTENSIONS: those of classic programs (SKF_AD_MAX).
        48 => Ok(int(64)),
        // SO_INCOMING_NAPI_ID, SO_RESERVE_MEM.
        56 | 73 => Ok(int(0)),
        // SO_PEERGROUPS, SO_PEERPIDFD.
        59 | 77 => Err(Errno(libc::ENODATA)),
        _ => return None,
    })
}

/// linux/udp.h.
const UDPLITE_SEND_CSCOV: i32 = 10;
const UDPLITE_RECV_CSCOV: i32 = 11;

fn is_lite(runtime: &Runtime, handle: Handle) -> bool {
    i32::from(protocol(runtime, handle)) == libc::IPPROTO_UDPLITE
}

fn coverage(options: &SocketOptions, kept: Kept) -> Bytes {
    int(options.kept.read(kept).max(0))
}

/// IPPROTO_UDP of a UDP socket, where the options have not been found among the rows.
pub(super) fn set_udp(runtime: &Runtime, handle: Handle, name: i32, given: &Given) -> Result<SetOption, Errno> {
    let value = given.int()?;
    match name {
        UDPLITE_SEND_CSCOV if is_lite(runtime, handle) => Ok(SetOption::Kept(Kept::UdpLiteSend, value)),
        UDPLITE_RECV_CSCOV if is_lite(runtime, handle) => Ok(SetOption::Kept(Kept::UdpLiteReceive, value)),
        // UDP_ENCAP: off is what it is; IPsec in UDP needs the kernel's IPsec.
        100 if value == 0 => Ok(SetOption::Kept(Kept::BsdCompat, 0)),
        103 => Ok(SetOption::Kept(Kept::UdpSegment, value)),
        104 => Ok(SetOption::Kept(Kept::UdpGro, value)),
        _ => Err(UNKNOWN),
    }
}

/// As [`set_udp`], for what is read.
pub(super) fn get_udp(fd: i32, runtime: &Runtime, handle: Handle, name: i32) -> Result<Bytes, Errno> {
    match name {
        // What was never set shows as 0, on UDP sockets too.
        UDPLITE_SEND_CSCOV => common(fd, handle, runtime, |options| coverage(options, Kept::UdpLiteSend)),
        UDPLITE_RECV_CSCOV => common(fd, handle, runtime, |options| coverage(options, Kept::UdpLiteReceive)),
        // UDP_ENCAP.
        100 => Ok(int(0)),
        103 => common(fd, handle, runtime, |options| options.kept.read(Kept::UdpSegment)).map(int),
        104 => common(fd, handle, runtime, |options| options.kept.read(Kept::UdpGro)).map(int),
        _ => Err(UNKNOWN),
    }
}
