//! From the stack's errors to Linux's errno: one match per operation, and the only place that knows both.

use remora_host::sys::Errno;
use remora_stack::socket::error::{
    AcceptError, BindError, ConnectError, CreateError, ListenError, NameError, OptionError, ReceiveError, SendError,
    ShutdownError, SocketFault,
};

/// What a socket's own error is called (`icmp_err_convert` for those that ICMP brought).
pub(crate) const fn fault(cause: SocketFault) -> Errno {
    Errno(match cause {
        SocketFault::ConnectionRefused => libc::ECONNREFUSED,
        SocketFault::ConnectionReset => libc::ECONNRESET,
        SocketFault::TimedOut => libc::ETIMEDOUT,
        SocketFault::BrokenPipe => libc::EPIPE,
        // Linux has no EACCES for ICMP: communication administratively prohibited is EHOSTUNREACH, too.
        SocketFault::HostUnreachable | SocketFault::AccessDenied => libc::EHOSTUNREACH,
        SocketFault::NetworkUnreachable => libc::ENETUNREACH,
        SocketFault::ProtocolUnreachable => libc::ENOPROTOOPT,
        SocketFault::HostDown => libc::EHOSTDOWN,
        SocketFault::NotOnNetwork => libc::ENONET,
        SocketFault::MessageTooLong => libc::EMSGSIZE,
        SocketFault::SourceRouteFailed => libc::EOPNOTSUPP,
        SocketFault::Protocol => libc::EPROTO,
        SocketFault::NetworkDown => libc::ENETDOWN,
        SocketFault::Aborted => libc::ECONNABORTED,
    })
}

/// socket().
//= REF S-02
pub(crate) const fn create(error: CreateError) -> Errno {
    Errno(match error {
        CreateError::FamilyUnknown => libc::EAFNOSUPPORT,
        CreateError::TypeUnknown => libc::ESOCKTNOSUPPORT,
        CreateError::Invalid => libc::EINVAL,
        CreateError::ProtocolUnknown => libc::EPROTONOSUPPORT,
        CreateError::NotPermitted => libc::EPERM,
        CreateError::GroupNotAllowed => libc::EACCES,
        CreateError::NoMemory => libc::ENOBUFS,
    })
}

/// bind().
pub(crate) const fn bind(error: BindError) -> Errno {
    Errno(match error {
        BindError::Invalid => libc::EINVAL,
        BindError::AddressNotAvailable => libc::EADDRNOTAVAIL,
        BindError::AddressInUse => libc::EADDRINUSE,
        BindError::NotPermitted => libc::EACCES,
        BindError::FamilyMismatch => libc::EAFNOSUPPORT,
        BindError::NoDevice => libc::ENODEV,
    })
}

/// connect().
//= REF C-05
pub(crate) const fn connect(error: ConnectError) -> Errno {
    Errno(match error {
        ConnectError::InProgress => libc::EINPROGRESS,
        ConnectError::Already => libc::EALREADY,
        ConnectError::IsConnected => libc::EISCONN,
        ConnectError::Invalid => libc::EINVAL,
        ConnectError::FamilyMismatch => libc::EAFNOSUPPORT,
        ConnectError::NetworkUnreachable => libc::ENETUNREACH,
        ConnectError::HostUnreachable => libc::EHOSTUNREACH,
        ConnectError::NotPermitted => libc::EACCES,
        ConnectError::NoPort => libc::EADDRNOTAVAIL,
        ConnectError::AddressInUse => libc::EADDRINUSE,
        ConnectError::Aborted => libc::ECONNABORTED,
        ConnectError::NotSupported => libc::EOPNOTSUPP,
        ConnectError::NoDevice => libc::ENODEV,
        ConnectError::Fault(cause) => return fault(cause),
        ConnectError::NoMemory => libc::ENOBUFS,
    })
}

/// listen().
pub(crate) const fn listen(error: ListenError) -> Errno {
    Errno(match error {
        ListenError::Invalid => libc::EINVAL,
        ListenError::NotSupported => libc::EOPNOTSUPP,
        ListenError::AddressInUse => libc::EADDRINUSE,
    })
}

/// accept().
pub(crate) const fn accept(error: AcceptError) -> Errno {
    Errno(match error {
        AcceptError::WouldBlock => libc::EAGAIN,
        AcceptError::Invalid => libc::EINVAL,
        AcceptError::NotSupported => libc::EOPNOTSUPP,
        AcceptError::Fault(cause) => return fault(cause),
        AcceptError::NoMemory => libc::ENOBUFS,
    })
}

/// send(), write() and their kin.
pub(crate) const fn send(error: SendError) -> Errno {
    Errno(match error {
        // `udp_sendmsg` answers EAGAIN when no port is left to bind to by itself.
        SendError::WouldBlock | SendError::NoPort => libc::EAGAIN,
        SendError::BrokenPipe => libc::EPIPE,
        SendError::InProgress | SendError::Deferred => libc::EINPROGRESS,
        SendError::Already => libc::EALREADY,
        SendError::NotConnected => libc::ENOTCONN,
        SendError::DestinationRequired => libc::EDESTADDRREQ,
        SendError::IsConnected => libc::EISCONN,
        SendError::MessageTooLong => libc::EMSGSIZE,
        SendError::Invalid => libc::EINVAL,
        SendError::FamilyMismatch => libc::EAFNOSUPPORT,
        SendError::NotPermitted => libc::EACCES,
        SendError::NetworkUnreachable => libc::ENETUNREACH,
        SendError::HostUnreachable => libc::EHOSTUNREACH,
        SendError::NotSupported => libc::EOPNOTSUPP,
        SendError::Memory => libc::EFAULT,
        SendError::NoMemory => libc::ENOBUFS,
        SendError::NoDevice => libc::ENODEV,
        SendError::Fault(cause) => return fault(cause),
    })
}

/// recv(), read() and their kin.
pub(crate) const fn receive(error: ReceiveError) -> Errno {
    Errno(match error {
        ReceiveError::WouldBlock => libc::EAGAIN,
        ReceiveError::NotConnected => libc::ENOTCONN,
        ReceiveError::Invalid => libc::EINVAL,
        ReceiveError::NotSupported => libc::EOPNOTSUPP,
        ReceiveError::NotPermitted => libc::EPERM,
        ReceiveError::Memory => libc::EFAULT,
        ReceiveError::Fault(cause) => return fault(cause),
    })
}

/// shutdown().
pub(crate) const fn shutdown(error: ShutdownError) -> Errno {
    Errno(match error {
        ShutdownError::NotConnected => libc::ENOTCONN,
        ShutdownError::Invalid => libc::EINVAL,
    })
}

/// getsockname() and getpeername().
pub(crate) const fn name(error: NameError) -> Errno {
    Errno(match error {
        NameError::NotConnected => libc::ENOTCONN,
    })
}

/// getsockopt() and setsockopt().
pub(crate) const fn option(error: OptionError) -> Errno {
    Errno(match error {
        OptionError::Unknown => libc::ENOPROTOOPT,
        OptionError::Invalid => libc::EINVAL,
        OptionError::NotPermitted => libc::EPERM,
        OptionError::NotConnected => libc::ENOTCONN,
        OptionError::OutOfDomain => libc::EDOM,
        OptionError::IsConnected => libc::EISCONN,
        OptionError::AddressNotAvailable => libc::EADDRNOTAVAIL,
        OptionError::AddressInUse => libc::EADDRINUSE,
        OptionError::NoDevice => libc::ENODEV,
        OptionError::TooBig => libc::EFBIG,
        OptionError::NotFound => libc::ENOENT,
        OptionError::NotSupported => libc::EOPNOTSUPP,
        OptionError::OptionMemory => libc::ENOMEM,
        OptionError::NoMemory => libc::ENOBUFS,
    })
}

/// An errno by its name, for the call trace.
pub(crate) struct Label(pub(crate) Errno);

impl std::fmt::Display for Label {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::EBADF => "EBADF",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENFILE => "ENFILE",
            libc::EMFILE => "EMFILE",
            libc::ENOTTY => "ENOTTY",
            libc::ESPIPE => "ESPIPE",
            libc::EPIPE => "EPIPE",
            libc::EDOM => "EDOM",
            libc::ENOSYS => "ENOSYS",
            libc::ELOOP => "ELOOP",
            libc::ENONET => "ENONET",
            libc::EPROTO => "EPROTO",
            libc::ENOTSOCK => "ENOTSOCK",
            libc::EDESTADDRREQ => "EDESTADDRREQ",
            libc::EMSGSIZE => "EMSGSIZE",
            libc::EPROTOTYPE => "EPROTOTYPE",
            libc::ENOPROTOOPT => "ENOPROTOOPT",
            libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
            libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            libc::EAFNOSUPPORT => "EAFNOSUPPORT",
            libc::EADDRINUSE => "EADDRINUSE",
            libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            libc::ENETDOWN => "ENETDOWN",
            libc::ENETUNREACH => "ENETUNREACH",
            libc::ECONNABORTED => "ECONNABORTED",
            libc::ECONNRESET => "ECONNRESET",
            libc::ENOBUFS => "ENOBUFS",
            libc::EISCONN => "EISCONN",
            libc::ENOTCONN => "ENOTCONN",
            libc::ETIMEDOUT => "ETIMEDOUT",
            libc::ECONNREFUSED => "ECONNREFUSED",
            libc::EHOSTDOWN => "EHOSTDOWN",
            libc::EHOSTUNREACH => "EHOSTUNREACH",
            libc::EALREADY => "EALREADY",
            libc::EINPROGRESS => "EINPROGRESS",
            other => return write!(formatter, "errno {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_errors_are_linuxs() {
        //= test REF C-05
        assert_eq!(connect(ConnectError::Fault(SocketFault::ConnectionRefused)).0, libc::ECONNREFUSED);
        assert_eq!(connect(ConnectError::Fault(SocketFault::TimedOut)).0, libc::ETIMEDOUT);
        assert_eq!(connect(ConnectError::Aborted).0, libc::ECONNABORTED);
        assert_eq!(connect(ConnectError::NoPort).0, libc::EADDRNOTAVAIL);
        assert_eq!(connect(ConnectError::InProgress).0, libc::EINPROGRESS);
    }

    #[test]
    fn administratively_prohibited_is_host_unreachable() {
        assert_eq!(fault(SocketFault::AccessDenied).0, libc::EHOSTUNREACH);
    }

    #[test]
    fn would_block_is_eagain_everywhere() {
        assert_eq!(send(SendError::WouldBlock).0, libc::EAGAIN);
        assert_eq!(receive(ReceiveError::WouldBlock).0, libc::EAGAIN);
        assert_eq!(accept(AcceptError::WouldBlock).0, libc::EAGAIN);
    }
}
