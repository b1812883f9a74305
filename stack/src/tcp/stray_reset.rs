//! The RST for a segment that belongs to nobody, or that its receiver will not have (RFC 9293 §3.5.2, §3.10.7.1;
//! `tcp_v4_send_reset`). What decides on it is with the receivers.

use core::net::IpAddr;

use super::header::{Flags, Header};
use super::receive::Incoming;
use super::{Reply, Tcp, signature};
use crate::frame::Purpose;
use crate::socket::protocol::Net;
use crate::wire::ip_options::IpOptions;

/// The RST that would answer a segment, made while the segment is still there.
#[derive(Debug)]
pub(super) struct ResetAnswer {
    source: IpAddr,
    destination: IpAddr,
    /// Those of the segment.
    options: IpOptions,
    header: Header,
    was_reset: bool,
}

impl ResetAnswer {
    pub(super) fn of(incoming: &Incoming<'_>) -> Self {
        let from = &incoming.header;
        let mut header = Header {
            source_port: from.destination_port,
            destination_port: from.source_port,
            flags: Flags::RST,
            ..Header::default()
        };
        //= RFC 9293 §3.10.7.1
        if from.flags.contains(Flags::ACK) {
            header.seq = from.ack;
        } else {
            header.flags |= Flags::ACK;
            header.ack = incoming.end;
        }
        Self {
            //= RFC 1122 §3.3.4.2 (SHLD-27)
            source: incoming.info.destination,
            destination: incoming.info.source,
            options: incoming.info.options,
            header,
            was_reset: from.flags.contains(Flags::RST),
        }
    }
}

impl Tcp {
    /// RST in answer to a segment that nobody wants (RFC 9293 §3.5.2 group 1, `tcp_v4_send_reset`).
    pub(super) fn send_reset_for(
        &mut self,
        net: &mut Net<'_>,
        answer: &ResetAnswer,
        purpose: Purpose,
        key: Option<&[u8]>,
    ) {
        if answer.was_reset {
            return;
        }
        let Some(options) = net.ip.echo_options(&answer.options, answer.destination) else { return };
        net.counters.tcp_out_segs += 1;
        net.counters.tcp_out_rsts += 1;
        self.shared.reply(
            net,
            Reply {
                source: answer.source,
                destination: answer.destination,
                route: None,
                ttl: None,
                tos: 0,
                options,
                header: signature::emit(answer.header, answer.source, answer.destination, &[], key),
                purpose,
                identified: false,
            },
        );
    }
}
