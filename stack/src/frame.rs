//! What crosses the line between the core and a device: received frames with what the device said of them, and
//! frames to send as a header plus slices of the send buffer, so that segmentation offload needs no copy.

use alloc::vec::Vec;

/// What the device knows of the transport checksum of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: the stack verifies.
    #[default]
    Unverified,
    /// The sender left it to be filled in (a local veth); the data never crossed a wire, nothing to verify.
    Partial,
    /// The device has verified it.
    Valid,
}

/// What the device said of a received frame, beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxMeta {
    /// State of the transport checksum.
    pub checksum: RxChecksum,
    /// Segment size of a super-frame (GSO/GRO), in bytes of TCP payload; 0 for an ordinary frame.
    pub gso_size: u16,
    /// VLAN tag control information that the kernel stripped (PACKET_AUXDATA), if any.
    pub vlan: Option<u16>,
}

/// Whether frames carry an Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// Ethernet II / 802.3 frames with ARP.
    #[default]
    Ethernet,
    /// Bare IP packets (ARPHRD_NONE, tun): no link header, no ARP.
    Ip,
}

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceCapabilities {
    /// Framing of the device.
    pub medium: Medium,
    /// Largest IP packet in bytes that the link carries.
    pub mtu: u16,
    /// Largest IP packet in bytes that the device will segment for us (TSO); 0 when it will not.
    pub gso_max: u32,
    /// Whether the device fills in TCP and UDP checksums on send.
    pub checksum_tx: bool,
}

/// Asks the device to fill in a checksum, as virtio_net_hdr does: sum from `start`, store at `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that is summed, counted from the start of the frame.
    pub start: u16,
    /// Where the sum goes, counted from `start`.
    pub offset: u16,
}

/// What an outgoing frame is, for those who decide which of several families on one address may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Belongs to a socket of this stack.
    #[default]
    Own,
    /// Answers a packet to a port that no socket of this stack holds (TCP RST, ICMP port unreachable).
    ClosedPort {
        /// IP protocol number of the offending packet.
        protocol: u8,
        /// The local port it asked for.
        port: u16,
    },
    /// ICMP echo reply or another answer on behalf of the whole address.
    Address,
    /// ARP.
    Neighbour,
    /// A packet to an address of ours, for a port that no socket of this stack holds: another stack of this machine may
    /// have it (see [`crate::stack::Stack::handle_sibling`]). It has no link header and never goes to the link.
    Sibling {
        /// IP protocol number of the port.
        protocol: u8,
        /// The port it is for.
        port: u16,
        /// It answers a packet to this port, which no socket of this stack holds: see [`Purpose::ClosedPort`].
        closed: Option<u16>,
    },
    /// A copy, for all other stacks of this machine, of what goes to a group or to everybody. As [`Purpose::Sibling`].
    Siblings,
}

/// Most slices of payload that one frame is gathered from.
pub const MAX_PAYLOAD_SLICES: usize = 6;

/// One frame to send: `header` and then each slice of `payload`, in order.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Link header, IP header and transport header (or the whole frame).
    pub header: &'a [u8],
    /// Slices of the send buffer; unused ones are empty.
    pub payload: [&'a [u8]; MAX_PAYLOAD_SLICES],
    /// Checksum that the device fills in. `None`: the frame is complete.
    pub checksum: Option<PartialChecksum>,
    /// TCP payload bytes per segment when the frame must be segmented by the device; 0 otherwise.
    pub gso_size: u16,
    /// What the frame is for.
    pub purpose: Purpose,
}

impl Transmit<'_> {
    /// Length of the frame in bytes, link header included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.iter().fold(self.header.len(), |sum, slice| sum + slice.len())
    }

    /// Whether there is nothing to send, which a stack never asks for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole frame in one piece, for tests and for devices that cannot gather.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.len());
        whole.extend_from_slice(self.header);
        for slice in self.payload {
            whole.extend_from_slice(slice);
        }
        whole
    }
}
