//! What ICMP says of our segments (RFC 9293 §3.9.2.2, RFC 5927; `tcp_v4_err`): soft errors, failed opens, a smaller
//! path MTU (RFC 1191), a break in the path that must not be taken for congestion (RFC 6069).

use core::net::SocketAddr;

use super::ports::Endpoint;
use super::sequence::Seq;
use super::sock::Sock;
use super::state::State;
use super::{Shared, Tcp, Tuple};
use crate::ip::PathError;
use crate::socket::error::SocketFault;
use crate::socket::protocol::{Happened, Net};

const UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 1;
const FRAGMENTATION_NEEDED: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// `icmp_err_convert`.
pub fn fault_of(kind: u8, code: u8) -> Option<SocketFault> {
    Some(match (kind, code) {
        (UNREACHABLE, 0 | 6 | 9 | 11) => SocketFault::NetworkUnreachable,
        //= RFC 1122 §3.2.2.4 (MUST-41)
        (UNREACHABLE, 1 | 10 | 12..=15) | (TIME_EXCEEDED, _) => SocketFault::HostUnreachable,
        (UNREACHABLE, 2) => SocketFault::ProtocolUnreachable,
        (UNREACHABLE, 3) => SocketFault::ConnectionRefused,
        (UNREACHABLE, 4) => SocketFault::MessageTooLong,
        (UNREACHABLE, 5) => SocketFault::SourceRouteFailed,
        (UNREACHABLE, 7) => SocketFault::HostDown,
        (UNREACHABLE, 8) => SocketFault::NotOnNetwork,
        //= RFC 1122 §3.2.2.5 (MUST-42, MAY-8)
        (PARAMETER_PROBLEM, _) => SocketFault::Protocol,
        _ => return None,
    })
}

impl Tcp {
    pub(super) fn take_path_error(&mut self, net: &mut Net<'_>, error: &PathError<'_>) {
        let Some(quoted) = error.transport.first_chunk::<8>() else { return };
        let tuple = Tuple {
            local: error.local,
            local_port: u16::from_be_bytes([quoted[0], quoted[1]]),
            remote: error.remote,
            remote_port: u16::from_be_bytes([quoted[2], quoted[3]]),
        };
        let seq = Seq(u32::from_be_bytes([quoted[4], quoted[5], quoted[6], quoted[7]]));
        //= RFC 9293 §3.9.2.2 (MUST-54)
        match self.shared.established.get(&tuple).copied() {
            Some(Endpoint::Sock(index)) => {
                let Self { socks, shared, .. } = self;
                if let Some(sock) = socks.get_mut(index as usize) {
                    sock.take_path_error(shared, net, error, seq);
                }
                self.settle(net, index);
            }
            Some(Endpoint::Request(place)) => {
                let ours = self.shared.requests.get(place as usize).is_some_and(|request| request.isn == seq);
                if !ours {
                    net.counters.out_of_window_icmps += 1;
                } else if error.kind == UNREACHABLE && error.code != FRAGMENTATION_NEEDED {
                    net.counters.listen_drops += 1;
                    self.drop_request(place);
                }
            }
            Some(Endpoint::TimeWait(_)) => {}
            None => net.counters.icmp_in_errors += 1,
        }
    }
}

impl Sock {
    fn take_path_error(&mut self, shared: &mut Shared, net: &mut Net<'_>, error: &PathError<'_>, seq: Seq) {
        //= RFC 5927 §4.1: it must quote something in flight.
        if !seq.is_between(self.snd_una, self.snd_nxt) {
            net.counters.out_of_window_icmps += 1;
            return;
        }
        if error.kind == UNREACHABLE && error.code == FRAGMENTATION_NEEDED {
            self.take_smaller_mtu(net, error.mtu);
            return;
        }
        if error.kind == UNREACHABLE && error.code <= HOST_UNREACHABLE {
            self.revert_back_off(shared, net, seq);
        }
        //= RFC 1122 §4.2.3.9 (SHLD-57, SHLD-58)
        let Some(fault) = fault_of(error.kind, error.code) else { return };
        //= REF C-05
        //= RFC 9293 §3.9.1.8 (SHLD-20)
        if matches!(self.state, State::SynSent | State::SynReceived) || self.options.receive_errors {
            self.error = Some(fault);
            // `ip_icmp_error`: the message waits for MSG_ERRQUEUE, and POLLERR stays until it is read.
            let destination = SocketAddr::new(self.tuple.remote, self.tuple.remote_port);
            //= RFC 9293 §3.9.1.8 (MUST-47)
            let charge = usize::try_from(self.charges.total()).unwrap_or(usize::MAX);
            let report = error.report(net.now, fault, Some(destination));
            self.reports.push(report, error.transport, charge, self.options.receive_buffer);
            if matches!(self.state, State::SynSent | State::SynReceived) {
                self.done(shared, net.counters, net.now);
            } else {
                self.wake(shared, Happened::ERROR);
            }
        } else {
            //= RFC 9293 §3.9.2.2 (MUST-56): a soft error alone ends nothing.
            self.soft_error = Some(fault);
        }
    }

    /// `tcp_v4_mtu_reduced`.
    //= REF T-07
    //= RFC 7323 §5.7 (MUST-28)
    fn take_smaller_mtu(&mut self, net: &mut Net<'_>, mtu: u16) {
        // IP_PMTUDISC_DONT: the program does not want to know.
        if self.options.mtu_discover == 0 || mtu == 0 {
            return;
        }
        net.ip.learn_mtu(net.now, self.tuple.remote, mtu);
        let old = self.current_mss(net.settings);
        self.look_up_route(net);
        let new = self.current_mss(net.settings);
        //= RFC 7413 §4.2.1: a SYN with data was too large for the path; the next one goes without, at once.
        if new < old && self.state == State::SynSent && self.fast_open.sent_data {
            self.board.mark_all_lost(net.now, false);
            self.enter_oversized(net.now);
            self.syn_due = true;
            return;
        }
        if new < old && self.board.mark_oversized_lost(new) {
            self.last_mss = new;
            self.enter_oversized(net.now);
        }
    }
}
