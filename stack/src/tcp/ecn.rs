//! Explicit congestion notification (RFC 3168 §6.1; `tcp_ecn_*` in `tcp_input.c` and `tcp_output.c`): negotiated with
//! the SYN, new data is ECT, CE comes back as ECE until CWR confirms it. That ECE shrinks
//! the window once per round trip is in `recovery.rs`. The algorithms that need it (DCTCP) mark all their segments and echo each mark.

use super::congestion::Event;
use super::header::{Flags, Header};
use super::receive::Incoming;
use super::sequence::Seq;
use super::sock::Sock;
use super::{Reply, Shared};
use crate::frame::Purpose;
use crate::settings::Settings;
use crate::socket::protocol::Net;

/// ECT(0) in the TOS byte.
pub const CAPABLE: u8 = 2;
/// The bits of ECN in it.
pub const MASK: u8 = 3;
const EXPERIENCED: u8 = 3;
const NOT_CAPABLE: u8 = 0;

/// tcp_ecn: whom to ask. 3 and 4 ask for more than ECN (RFC 9768); they get ECN.
const fn asks(setting: u8) -> bool {
    matches!(setting, 1 | 3 | 4)
}

/// State of one connection (`ecn_flags`).
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct Ecn {
    /// Both sides do it; before the SYN-ACK: we ask for it.
    pub ok: bool,
    /// The next new data says that the window was reduced.
    pub tell_reduced: bool,
    /// ACKs say that congestion was experienced.
    pub echo: bool,
    /// The peer has sent ECT.
    pub seen: bool,
}

/// Whether a request for a connection is granted ECN (`tcp_ecn_create_request`).
pub fn is_granted(settings: &Settings, incoming: &Incoming<'_>, needed: bool) -> bool {
    let asked = incoming.header.flags.contains(Flags::ECE | Flags::CWR);
    // An ECT on the SYN itself comes from a path that is not to be trusted, or from a peer that needs ECN.
    let plain = incoming.info.tos & MASK == NOT_CAPABLE;
    asked && ((plain && settings.tcp_ecn != 0) || needed)
}

impl Sock {
    /// The bits for a SYN (`tcp_ecn_send_syn`, `tcp_ecn_clear_syn`). A repeated one asks no more: the first may have
    /// been lost because it asked.
    //= RFC 3168 §6.1.1.1
    //= RFC 9293 §3.8.2 (SHLD-8)
    pub(super) fn ecn_of_syn(&mut self, settings: &Settings, answering: bool, repeated: bool) -> Flags {
        if answering {
            return if self.ecn.ok { Flags::ECE } else { Flags::empty() };
        }
        self.ecn.ok = asks(settings.tcp_ecn) || self.algorithm.needs_ecn();
        let silent = repeated && settings.tcp_ecn_fallback;
        if self.ecn.ok && !silent { Flags::ECE | Flags::CWR } else { Flags::empty() }
    }

    /// The answer to our SYN (`tcp_ecn_rcv_synack`), or a crossing one (`tcp_ecn_rcv_syn`).
    pub(super) fn take_ecn_of_syn(&mut self, incoming: &Incoming<'_>) {
        let crossing = !incoming.has(Flags::ACK);
        self.ecn.ok &= incoming.has(Flags::ECE) && incoming.has(Flags::CWR) == crossing;
    }

    /// ECN bits of the TOS byte and of the header for a segment (`tcp_ecn_send`). `fresh`: it carries new data.
    //= RFC 3168 §6.1.4, §6.1.5: neither pure ACKs nor repetitions are ECT.
    pub(super) fn ecn_of_segment(&mut self, fresh: bool) -> (u8, Flags) {
        if !self.ecn.ok {
            return (if self.algorithm.needs_ecn() { CAPABLE } else { NOT_CAPABLE }, Flags::empty());
        }
        let mut flags = if self.ecn.echo { Flags::ECE } else { Flags::empty() };
        if fresh && core::mem::take(&mut self.ecn.tell_reduced) {
            flags |= Flags::CWR;
        }
        (if fresh || self.algorithm.needs_ecn() { CAPABLE } else { NOT_CAPABLE }, flags)
    }

    /// The peer has seen our echo (`tcp_ecn_accept_cwr`).
    pub(super) fn accept_cwr(&mut self, incoming: &Incoming<'_>) {
        if incoming.has(Flags::CWR) {
            self.ecn.echo = false;
            // The next CE shall not have to wait for a delayed ACK of this window.
            self.ack.now |= incoming.length > 0;
        }
    }

    /// A segment with data has come: has it experienced congestion (`tcp_data_ecn_check`)?
    pub(super) fn check_ecn(&mut self, shared: &mut Shared, net: &mut Net<'_>, tos: u8) {
        if !self.ecn.ok {
            return;
        }
        let needed = self.algorithm.needs_ecn();
        let window = self.receive_window();
        match tos & MASK {
            // A peer that sends ECT sends what it repeats without: it will be glad of quick ACKs.
            NOT_CAPABLE => {
                if self.ecn.seen {
                    self.ack.enter_quick(2, window);
                }
            }
            EXPERIENCED => {
                if needed {
                    self.ecn_event(shared, net, Event::EcnIsCe);
                }
                if !self.ecn.echo {
                    //= RFC 3168 §6.1.3
                    self.ack.enter_quick(2, window);
                    self.ecn.echo = true;
                }
                self.ecn.seen = true;
            }
            _ => {
                if needed {
                    self.ecn_event(shared, net, Event::EcnNoCe);
                }
                self.ecn.seen = true;
            }
        }
    }

    fn ecn_event(&mut self, shared: &mut Shared, net: &mut Net<'_>, event: Event) {
        let held_back = self.ack.deadline().is_some();
        let facts = self.facts(net.now);
        self.algorithm.cwnd_event(&mut self.window, &facts, event);
        if let Some((seq, echo)) = self.window.orders.ack_before.take()
            && held_back
        {
            self.ecn.echo = echo;
            self.acknowledge_up_to(shared, net, seq);
        }
        self.obey(None);
    }

    /// An ACK for what had come before `seq`, now (`__tcp_send_ack`).
    fn acknowledge_up_to(&mut self, shared: &mut Shared, net: &mut Net<'_>, seq: Seq) {
        let mut header = self.header(self.snd_nxt, Flags::ACK);
        header.ack = seq;
        if self.ecn.echo {
            header.flags |= Flags::ECE;
        }
        header.window = self.update_window(net.counters);
        header.options = self.common_options(net.now, false);
        net.counters.tcp_out_segs += 1;
        self.segments_out = self.segments_out.wrapping_add(1);
        let reply = Reply {
            source: self.tuple.local,
            destination: self.tuple.remote,
            route: self.route,
            ttl: self.options.ttl,
            tos: (self.options.tos & !MASK) | CAPABLE,
            options: *self.options.ip_options(),
            header: self.sign(header),
            purpose: Purpose::Own,
            identified: true,
        };
        shared.reply(net, reply);
    }

    /// Whether an ACK says that the network was congested (`tcp_ecn_rcv_ecn_echo`).
    pub(super) fn is_echo(&self, header: &Header) -> bool {
        self.ecn.ok && header.flags & (Flags::ECE | Flags::SYN) == Flags::ECE
    }
}
