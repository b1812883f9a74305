//! The socket layer's own state of a socket (Linux's `socket_state`), apart from the protocol's.

/// Where a socket stands between the program and its protocol.
//= REF S-05
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketState {
    /// Not connected (SS_UNCONNECTED). A listening socket stays here.
    #[default]
    Unconnected,
    /// A connect is under way (SS_CONNECTING).
    Connecting,
    /// Connected (SS_CONNECTED), until it is closed, whatever the peer does.
    Connected,
    /// A connect was shut down half way (SS_DISCONNECTING).
    Disconnecting,
}
