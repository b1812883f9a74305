//! What is left of connections whose stack is given up, because a process died in the middle of a change: 4-tuples and
//! exact sequence numbers are read there, and another stack with the same address resets the peers with them (RFC 9293
//! §3.5.2; RFC 5961 §3.2: a reset is believed at exactly the next sequence number). Nothing is changed here in the stack
//! that is given up, and nothing in it is believed beyond the table of connections itself.

use super::header::{Flags, Header, Options};
use super::sequence::Seq;
use super::{Reply, Tcp, Tuple};
use crate::frame::Purpose;
use crate::ip::Route;
use crate::socket::protocol::Net;
use crate::tcp::state::State;
use crate::wire::ip_options::IpOptions;

/// A connection as its peer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// Who talks to whom.
    pub tuple: Tuple,
    /// The next sequence number that we would have sent.
    pub snd_nxt: u32,
    /// The next one expected of the peer.
    pub rcv_nxt: u32,
    /// The way to the peer, if it was known.
    pub route: Option<Route>,
}

impl Tcp {
    /// The connections whose peers do not know yet that they are over, half-open ones among them.
    pub fn remnants(&self) -> impl Iterator<Item = Remnant> + '_ {
        let socks = self.socks.iter().filter(|(_, sock)| is_known_to_peer(sock.state)).map(|(_, sock)| Remnant {
            tuple: sock.tuple,
            snd_nxt: sock.snd_nxt.0,
            rcv_nxt: sock.rcv_nxt.0,
            route: sock.route,
        });
        // The SYN-ACK takes one number.
        let requests = self.shared.requests.iter().map(|(_, request)| Remnant {
            tuple: request.tuple,
            snd_nxt: (request.isn + 1).0,
            rcv_nxt: (request.irs + 1).0,
            route: None,
        });
        socks.chain(requests)
    }

    /// Sends the reset of a connection that was another stack's.
    pub fn reset_remnant(&mut self, net: &mut Net<'_>, remnant: &Remnant) {
        let Remnant { tuple, snd_nxt, rcv_nxt, route } = *remnant;
        net.counters.tcp_out_segs += 1;
        net.counters.tcp_out_rsts += 1;
        let header = Header {
            source_port: tuple.local_port,
            destination_port: tuple.remote_port,
            seq: Seq(snd_nxt),
            ack: Seq(rcv_nxt),
            flags: Flags::RST | Flags::ACK,
            window: 0,
            urgent: 0,
            options: Options::default(),
        };
        let (source, destination) = (tuple.local, tuple.remote);
        let reply = Reply {
            source,
            destination,
            route,
            ttl: None,
            tos: 0,
            options: IpOptions::NONE,
            header: header.emit(),
            purpose: Purpose::Own,
            identified: false,
        };
        self.shared.reply(net, reply);
    }
}

/// Beside those of `tcp_need_reset`, the states in which the peer still waits for the last acknowledgment.
const fn is_known_to_peer(state: State) -> bool {
    state.needs_reset() || matches!(state, State::SynSent | State::Closing | State::LastAck)
}
