//! Why a socket operation did not succeed: one enum per operation, a variant per cause.
//!
//! The errno of each stands at the edge (the shim), not here. Linux functions are named where the cause is theirs.

/// What happened to a socket on its own account: Linux's `sk_err`, reported once by SO_ERROR or by the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketFault {
    /// A RST answered our SYN, or ICMP port unreachable (ECONNREFUSED).
    ConnectionRefused,
    /// A RST ended the connection (ECONNRESET).
    ConnectionReset,
    /// Retransmissions, keepalive or the user timeout ran out (ETIMEDOUT).
    TimedOut,
    /// A reset in CLOSE-WAIT (EPIPE).
    BrokenPipe,
    /// ICMP host unreachable, or ARP found nobody (EHOSTUNREACH).
    HostUnreachable,
    /// ICMP network unreachable (ENETUNREACH).
    NetworkUnreachable,
    /// ICMP protocol unreachable (ENOPROTOOPT).
    ProtocolUnreachable,
    /// ICMP host or network unknown (EHOSTDOWN for host unknown).
    HostDown,
    /// ICMP host isolated (ENONET).
    NotOnNetwork,
    /// ICMP administratively prohibited (EACCES is for ... ; Linux gives EHOSTUNREACH for codes 9, 10 and 13: see `icmp_err_convert`).
    AccessDenied,
    /// ICMP fragmentation needed on a socket that wants to know (EMSGSIZE).
    MessageTooLong,
    /// ICMP source route failed (EOPNOTSUPP).
    SourceRouteFailed,
    /// ICMP parameter problem (EPROTO).
    Protocol,
    /// The interface went away (ENETDOWN).
    NetworkDown,
    /// Connection given up because of memory or the program's own abort (ECONNABORTED).
    Aborted,
}

/// socket() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// EAFNOSUPPORT.
    FamilyUnknown,
    /// ESOCKTNOSUPPORT.
    TypeUnknown,
    /// EINVAL: type or protocol out of range.
    Invalid,
    /// EPROTONOSUPPORT.
    ProtocolUnknown,
    /// EPERM: raw without the right.
    NotPermitted,
    /// EACCES: ping socket outside of ping_group_range.
    GroupNotAllowed,
    /// ENOBUFS: no memory for another socket.
    NoMemory,
}

/// Registering an address family or a protocol failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// ENOBUFS: family number out of range.
    OutOfRange,
    /// EEXIST: registered before.
    Exists,
}

/// bind() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// EINVAL: bound already, or not in a state to be bound.
    Invalid,
    /// EADDRNOTAVAIL: the address is not ours.
    AddressNotAvailable,
    /// EADDRINUSE.
    AddressInUse,
    /// EACCES: privileged port.
    NotPermitted,
    /// EAFNOSUPPORT.
    FamilyMismatch,
    /// ENODEV: the interface that the socket is bound to is not there.
    NoDevice,
}

/// connect() failed or has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The attempt has begun and goes on (EINPROGRESS for a non-blocking caller; a blocking one waits).
    InProgress,
    /// An attempt is under way (EALREADY for a non-blocking caller; a blocking one joins the wait).
    Already,
    /// EISCONN.
    IsConnected,
    /// EINVAL.
    Invalid,
    /// EAFNOSUPPORT.
    FamilyMismatch,
    /// ENETUNREACH: no route, or a kind of address that cannot be connected to.
    NetworkUnreachable,
    /// EHOSTUNREACH.
    HostUnreachable,
    /// EACCES: broadcast without SO_BROADCAST.
    NotPermitted,
    /// EADDRNOTAVAIL: no local port left for this destination.
    NoPort,
    /// EADDRINUSE.
    AddressInUse,
    /// ECONNABORTED: the attempt failed and its error was taken by someone else.
    Aborted,
    /// EOPNOTSUPP.
    NotSupported,
    /// ENODEV: bound to an interface that is not there.
    NoDevice,
    /// The attempt failed.
    Fault(SocketFault),
    /// ENOBUFS.
    NoMemory,
}

/// listen() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// EINVAL: connecting or connected.
    Invalid,
    /// EOPNOTSUPP: not a stream socket.
    NotSupported,
    /// EADDRINUSE.
    AddressInUse,
}

/// accept() did not give a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// EAGAIN: none is waiting.
    WouldBlock,
    /// EINVAL: not listening.
    Invalid,
    /// EOPNOTSUPP: not a stream socket.
    NotSupported,
    /// ECONNABORTED or another error of the connection.
    Fault(SocketFault),
    /// ENOBUFS.
    NoMemory,
}

/// A send did not take any byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// EAGAIN: no room, or a connection attempt is under way.
    WouldBlock,
    /// EPIPE (and SIGPIPE unless MSG_NOSIGNAL).
    BrokenPipe,
    /// ENOTCONN.
    NotConnected,
    /// EINPROGRESS: a connection was begun, and no byte went with its SYN (MSG_FASTOPEN).
    InProgress,
    /// The connection waits for this data (TCP_FASTOPEN_CONNECT): it is to be sent as with MSG_FASTOPEN.
    Deferred,
    /// EALREADY: MSG_FASTOPEN while a connection is being made.
    Already,
    /// EDESTADDRREQ.
    DestinationRequired,
    /// EISCONN: address given on a connected stream.
    IsConnected,
    /// EMSGSIZE.
    MessageTooLong,
    /// EINVAL.
    Invalid,
    /// EAFNOSUPPORT.
    FamilyMismatch,
    /// EACCES.
    NotPermitted,
    /// ENETUNREACH.
    NetworkUnreachable,
    /// EHOSTUNREACH.
    HostUnreachable,
    /// EADDRNOTAVAIL / EAGAIN: no local port left (autobind failed).
    NoPort,
    /// EOPNOTSUPP: flag not possible on this socket.
    NotSupported,
    /// EFAULT.
    Memory,
    /// ENOBUFS.
    NoMemory,
    /// ENODEV: bound to an interface that is not there.
    NoDevice,
    /// A pending error of the socket.
    Fault(SocketFault),
}

/// What a call that sends says when it was to connect first.
impl From<ConnectError> for SendError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NetworkUnreachable => Self::NetworkUnreachable,
            ConnectError::HostUnreachable => Self::HostUnreachable,
            ConnectError::NoPort | ConnectError::AddressInUse => Self::NoPort,
            ConnectError::NotPermitted => Self::NotPermitted,
            ConnectError::FamilyMismatch => Self::FamilyMismatch,
            ConnectError::IsConnected => Self::IsConnected,
            ConnectError::Already | ConnectError::InProgress => Self::Already,
            ConnectError::NotSupported => Self::NotSupported,
            ConnectError::NoMemory => Self::NoMemory,
            ConnectError::NoDevice => Self::NoDevice,
            ConnectError::Fault(fault) => Self::Fault(fault),
            ConnectError::Invalid | ConnectError::Aborted => Self::Invalid,
        }
    }
}

/// A receive gave no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// EAGAIN.
    WouldBlock,
    /// ENOTCONN.
    NotConnected,
    /// EINVAL (MSG_OOB with nothing urgent, for one).
    Invalid,
    /// EOPNOTSUPP.
    NotSupported,
    /// EPERM: taking bytes from a socket in repair.
    NotPermitted,
    /// EFAULT.
    Memory,
    /// A pending error of the socket.
    Fault(SocketFault),
}

/// shutdown() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownError {
    /// ENOTCONN.
    NotConnected,
    /// EINVAL: `how` out of range.
    Invalid,
}

/// getsockname() or getpeername() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// ENOTCONN.
    NotConnected,
}

/// setsockopt() or getsockopt() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// ENOPROTOOPT.
    Unknown,
    /// EINVAL.
    Invalid,
    /// EPERM.
    NotPermitted,
    /// ENOTCONN.
    NotConnected,
    /// EDOM (SO_RCVTIMEO with microseconds out of range).
    OutOfDomain,
    /// EISCONN.
    IsConnected,
    /// EADDRNOTAVAIL.
    AddressNotAvailable,
    /// EADDRINUSE.
    AddressInUse,
    /// ENODEV.
    NoDevice,
    /// EFBIG: a window scale beyond 14.
    TooBig,
    /// ENOENT: no such congestion control.
    NotFound,
    /// EOPNOTSUPP.
    NotSupported,
    /// ENOMEM: no more fits in net.core.optmem_max.
    OptionMemory,
    /// ENOBUFS.
    NoMemory,
}
