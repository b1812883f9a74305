//! Siblings: stacks of other programs that share our address, and so are one host to the world. What one of them sends to
//! an address of its own may be for a socket of another: a packet to ourselves that no socket here has a use for is handed
//! out (`Purpose::Sibling`) instead of being refused, and what is for a group or for everybody is handed out as well
//! (`Purpose::Siblings`). Who has the port, and how the packet gets there, is the host's.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;

use super::PacketInfo;
use super::icmp;
use super::input::Arrival;
use crate::frame::{Purpose, RxChecksum, RxMeta};
use crate::stack::Stack;
use crate::time::Instant;
use crate::wire::icmpv4::{self, Icmp};
use crate::wire::ipv4::Ipv4;
use crate::wire::read_u16;
use crate::wire::udp as udp_wire;

const PROTOCOL_TCP: u8 = 6;

/// Most packets that wait to be handed out: the host takes them after each call, so that this is never reached by one.
const LIMIT: usize = 1_024;

/// Whether a packet has to do with siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sibling {
    /// From the link, or from this stack: it may be passed on.
    #[default]
    No,
    /// It comes from a sibling.
    From,
    /// No sibling has the port: what this stack says of it is the last word.
    Refused,
}

/// A packet on its way to a sibling.
#[derive(Debug)]
pub(crate) struct PassedOn {
    pub(crate) bytes: Vec<u8>,
    pub(crate) gso_size: u16,
    pub(crate) purpose: Purpose,
}

/// What is to be passed on.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    /// The host can reach them.
    pub(crate) are_there: bool,
    queue: VecDeque<PassedOn>,
}

impl Siblings {
    pub(crate) fn pass_on(&mut self, bytes: Vec<u8>, gso_size: u16, purpose: Purpose) {
        if self.queue.len() < LIMIT {
            self.queue.push_back(PassedOn { bytes, gso_size, purpose });
        }
    }

    pub(crate) fn next(&mut self) -> Option<PassedOn> {
        self.queue.pop_front()
    }
}

impl Stack {
    /// Says whether other stacks share the address and can be reached: then frames with [`Purpose::Sibling`] and
    /// [`Purpose::Siblings`] are among those that `poll_transmit` gives.
    pub fn set_siblings(&mut self, are_there: bool) {
        self.siblings.are_there = are_there;
        self.ip.has_siblings = are_there;
    }

    /// A packet that a sibling has sent to our common address, to a group or to everybody: IP header and payload at `buffer[at..]`.
    pub fn handle_sibling(&mut self, now: Instant, buffer: &mut Vec<u8>, at: usize, gso_size: u16) {
        self.take_looped(now, (buffer, at), gso_size, Sibling::From);
    }

    /// A packet that was handed out for a sibling, which none of them wants: it is refused here.
    pub fn refuse_for_siblings(&mut self, now: Instant, buffer: &mut Vec<u8>) {
        self.take_looped(now, (buffer, 0), 0, Sibling::Refused);
    }

    fn take_looped(&mut self, now: Instant, (buffer, at): (&mut Vec<u8>, usize), gso_size: u16, sibling: Sibling) {
        self.enter(now);
        // Whoever sent it is on this machine: nothing has happened to the bytes.
        let meta = RxMeta { checksum: RxChecksum::Partial, gso_size, vlan: None };
        let end = buffer.len();
        self.handle_ipv4(
            buffer,
            at,
            end,
            Arrival { meta, link_group: false, looped: true, sibling, purpose: Purpose::Own },
        );
    }

    /// What a packet to ourselves is handed out as, when no socket here has a use for it. An ICMP error is for the port
    /// that sent what it quotes.
    pub(super) fn purpose_for_sibling(
        &self,
        header: &Ipv4,
        info: &PacketInfo,
        bytes: &[u8],
        purpose: Purpose,
    ) -> Option<Purpose> {
        let closed = if let Purpose::ClosedPort { port, .. } = purpose { Some(port) } else { None };
        let sibling = |protocol, port| Some(Purpose::Sibling { protocol, port, closed });
        match header.protocol {
            PROTOCOL_TCP | udp_wire::PROTOCOL | udp_wire::LITE => {
                let from = SocketAddr::new(info.source, read_u16(bytes, 0)?);
                let to = SocketAddr::new(info.destination, read_u16(bytes, 2)?);
                let wanted = match header.protocol {
                    PROTOCOL_TCP => self.tcp.has_receiver(from, to),
                    udp_wire::LITE => self.udp_lite.has_receiver(from, to),
                    _ => self.udp.has_receiver(from, to),
                };
                if wanted { None } else { sibling(header.protocol, to.port()) }
            }
            icmp::PROTOCOL => {
                let message = Icmp::parse(bytes).ok()?;
                if !matches!(message.kind, icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM) {
                    return None;
                }
                let quoted = bytes.get(icmpv4::HEADER_LENGTH..)?;
                let inner = Ipv4::parse_quoted(quoted).ok()?;
                let port = read_u16(quoted, inner.header)?;
                let has_port = matches!(inner.protocol, PROTOCOL_TCP | udp_wire::PROTOCOL | udp_wire::LITE);
                if !has_port || self.is_port_used(inner.protocol, port) { None } else { sibling(inner.protocol, port) }
            }
            _ => None,
        }
    }
}
