//! TIME-WAIT (RFC 9293 §3.6.1, RFC 1122 §4.2.2.13, RFC 6191, RFC 1337): a small entry in the place of the sock, which
//! answers late segments and keeps the 4-tuple from being used too early (`tcp_timewait_state_process`). FIN-WAIT-2
//! without a program is kept here as well.

use alloc::boxed::Box;
use core::time::Duration;

use super::header::{Flags, Header, Timestamps};
use super::ports::Endpoint;
use super::receive::Incoming;
use super::sequence::Seq;
use super::sock::Sock;
use super::state::State;
use super::timer::TimerKey;
use super::{Reply, Shared, Tuple, isn, signature};
use crate::frame::Purpose;
use crate::ip::Route;
use crate::settings::Settings;
use crate::socket::protocol::Net;
use crate::time::Instant;
use crate::wire::ip_options::IpOptions;

/// Linux's TCP_TIMEWAIT_LEN.
//= RFC 9293 §3.6.1 (MUST-13)
pub const LIFETIME: Duration = Duration::from_secs(60);

/// One entry.
#[derive(Debug)]
pub struct TimeWait {
    pub tuple: Tuple,
    /// FIN-WAIT-2 or TIME-WAIT.
    pub state: State,
    pub snd_nxt: Seq,
    pub rcv_nxt: Seq,
    pub rcv_wnd: u32,
    pub rcv_wscale: u8,
    pub timestamps: bool,
    pub ts_recent: u32,
    pub ts_recent_at: Instant,
    pub timestamp_offset: u32,
    pub route: Option<Route>,
    pub tos: u8,
    /// Key that answers are signed with.
    pub key: Option<Box<[u8]>>,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub armed: Option<Instant>,
    pub deadline: Instant,
    pub last_answer: Option<Instant>,
}

/// What a segment for an entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitVerdict {
    /// Nothing.
    Done,
    /// An ACK.
    Answer,
    /// A RST; the entry is gone.
    Reset,
    /// The entry is over.
    Over,
    /// A SYN that may open the connection anew, with this initial sequence number.
    Reopen(Seq),
}

impl TimeWait {
    /// Whether a connect may take the 4-tuple over (`tcp_twsk_unique`, tcp_tw_reuse).
    //= REF C-11
    pub fn may_be_reused(&self, now: Instant, settings: &Settings, loopback: bool) -> bool {
        let allowed = match settings.tcp_tw_reuse {
            0 => false,
            2 => loopback,
            _ => true,
        };
        // A second must have passed, so that the new connection's timestamps are certainly larger.
        allowed && self.timestamps && now.since(self.ts_recent_at) > Duration::from_secs(1)
    }

    /// Initial sequence number beyond everything the old connection used.
    pub fn next_isn(&self) -> Seq {
        self.snd_nxt + (u32::from(u16::MAX) + 2)
    }

    /// PAWS (`tcp_paws_reject`): here a RST is held to it, too, as long as what is compared is not older than a minute.
    fn is_too_old(&self, now: Instant, incoming: &Incoming<'_>) -> bool {
        incoming
            .header
            .options
            .timestamps
            .is_some_and(|timestamps| self.timestamps && Seq(self.ts_recent).offset_from(Seq(timestamps.value)) > 0)
            && !(incoming.has(Flags::RST) && now.since(self.ts_recent_at) >= LIFETIME)
    }

    fn note_timestamp(&mut self, now: Instant, incoming: &Incoming<'_>) {
        if let Some(timestamps) = incoming.header.options.timestamps {
            self.ts_recent = timestamps.value;
            self.ts_recent_at = now;
        }
    }

    /// `tcp_timewait_state_process`.
    pub fn handle(&mut self, net: &mut Net<'_>, incoming: &Incoming<'_>) -> WaitVerdict {
        let header = &incoming.header;
        let too_old = self.is_too_old(net.now, incoming);
        if self.state == State::FinWait2 {
            return self.handle_in_fin_wait_2(net, incoming, too_old);
        }
        let reset = incoming.has(Flags::RST);
        if !too_old && header.seq == self.rcv_nxt && (header.seq == incoming.end || reset) {
            if reset {
                //= RFC 1337: a late RST must not end the wait, where that is asked for.
                if !net.settings.tcp_rfc1337 {
                    return WaitVerdict::Over;
                }
            } else {
                self.note_timestamp(net.now, incoming);
            }
            self.deadline = net.now + LIFETIME;
            return WaitVerdict::Done;
        }
        //= RFC 6191 §2
        if incoming.has(Flags::SYN) && !reset && !incoming.has(Flags::ACK) && !too_old {
            //= RFC 9293 §3.6.1 (SHLD-4)
            let newer_time = header.options.timestamps.is_some_and(|timestamps| {
                self.timestamps && Seq(self.ts_recent).offset_from(Seq(timestamps.value)) < 0
            });
            //= RFC 9293 §3.6.1 (MAY-2)
            if header.seq.after(self.rcv_nxt) || newer_time {
                return WaitVerdict::Reopen(self.next_isn());
            }
        }
        if too_old {
            net.counters.paws_timewait += 1;
        }
        if reset {
            return WaitVerdict::Done;
        }
        if too_old || incoming.has(Flags::ACK) {
            self.deadline = net.now + LIFETIME;
        }
        self.answer(net, incoming)
    }

    fn handle_in_fin_wait_2(&mut self, net: &mut Net<'_>, incoming: &Incoming<'_>, too_old: bool) -> WaitVerdict {
        let header = &incoming.header;
        let window_end = self.rcv_nxt + self.rcv_wnd;
        let outside = incoming.end.before(self.rcv_nxt) || header.seq.after(window_end);
        if too_old || outside {
            return if incoming.has(Flags::RST) { WaitVerdict::Done } else { self.answer(net, incoming) };
        }
        if incoming.has(Flags::RST) {
            return WaitVerdict::Over;
        }
        if incoming.has(Flags::SYN) && !header.seq.before(self.rcv_nxt) {
            return WaitVerdict::Reset;
        }
        if !incoming.has(Flags::ACK) || !incoming.end.after(self.rcv_nxt) || incoming.end == header.seq {
            return WaitVerdict::Done;
        }
        // New data for a program that has gone.
        if !incoming.has(Flags::FIN) || incoming.end != self.rcv_nxt + 1 {
            return WaitVerdict::Reset;
        }
        self.state = State::TimeWait;
        self.rcv_nxt = incoming.end;
        self.note_timestamp(net.now, incoming);
        self.deadline = net.now + LIFETIME;
        WaitVerdict::Answer
    }

    fn answer(&mut self, net: &mut Net<'_>, incoming: &Incoming<'_>) -> WaitVerdict {
        let limit = Duration::from_millis(u64::from(net.settings.tcp_invalid_ratelimit));
        let bare = incoming.length == 0;
        if bare && self.last_answer.is_some_and(|last| net.now.since(last) < limit) {
            if self.state == State::FinWait2 {
                net.counters.tcp_ack_skipped_fin_wait2 += 1;
            } else {
                net.counters.tcp_ack_skipped_time_wait += 1;
            }
            return WaitVerdict::Done;
        }
        self.last_answer = Some(net.now);
        WaitVerdict::Answer
    }

    /// The ACK that tells the peer where we are.
    pub fn acknowledgment(&self, now: Instant) -> Reply {
        let mut header = Header {
            source_port: self.tuple.local_port,
            destination_port: self.tuple.remote_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK,
            window: u16::try_from(self.rcv_wnd >> self.rcv_wscale).unwrap_or(u16::MAX),
            ..Header::default()
        };
        if self.timestamps {
            let value = isn::timestamp_clock(now).wrapping_add(self.timestamp_offset);
            header.options.timestamps = Some(Timestamps { value, echo: self.ts_recent });
        }
        Reply {
            source: self.tuple.local,
            destination: self.tuple.remote,
            route: self.route,
            ttl: None,
            tos: self.tos,
            options: IpOptions::NONE,
            header: signature::emit(header, self.tuple.local, self.tuple.remote, &[], self.key.as_deref()),
            purpose: Purpose::Own,
            identified: false,
        }
    }
}

impl Sock {
    /// The connection goes on as a TIME_WAIT entry (`tcp_time_wait`); the sock is closed.
    pub(super) fn become_time_wait(
        &mut self,
        shared: &mut Shared,
        net: &mut Net<'_>,
        state: State,
        lifetime: Duration,
    ) {
        if self.ack.now || self.ack.scheduled {
            self.send_final_ack(shared, net);
        }
        if shared.waits.len() < net.settings.tcp_max_tw_buckets as usize {
            let lifetime = if state == State::TimeWait { LIFETIME } else { lifetime.max(self.rtt.timeout()) };
            let deadline = net.now + lifetime;
            let index = shared.waits.insert(TimeWait {
                tuple: self.tuple,
                state,
                snd_nxt: self.snd_nxt,
                rcv_nxt: self.rcv_nxt,
                rcv_wnd: self.receive_window(),
                rcv_wscale: self.rcv_wscale,
                timestamps: self.timestamps,
                ts_recent: self.ts_recent,
                ts_recent_at: self.ts_recent_at,
                timestamp_offset: self.timestamp_offset,
                route: self.route,
                tos: self.options.tos,
                key: self.signatures.copy_of_key(self.tuple.remote),
                reuse_address: self.options.reuse_address,
                reuse_port: self.options.reuse_port,
                armed: None,
                deadline,
                last_answer: None,
            });
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.unhash(shared);
            shared.ports.hold(self.tuple.local_port, Endpoint::TimeWait(index), false);
            shared.established.insert(self.tuple, Endpoint::TimeWait(index));
            shared.arm_wait(index);
            log::debug!(
                target: "remora::tcp", "{}:{} {}:{} {} -> TIME_WAIT",
                self.tuple.local, self.shown_port, self.tuple.remote, self.tuple.remote_port, self.state.name()
            );
        } else {
            net.counters.tcp_time_wait_overflow += 1;
        }
        self.done(shared, net.counters, net.now);
    }

    fn send_final_ack(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        let window = self.update_window(net.counters);
        let mut header = self.header(self.snd_nxt, Flags::ACK);
        header.window = window;
        header.options = self.common_options(net.now, true);
        self.ack.sent();
        net.counters.tcp_out_segs += 1;
        shared.reply(
            net,
            Reply {
                source: self.tuple.local,
                destination: self.tuple.remote,
                route: self.route,
                ttl: self.options.ttl,
                tos: self.options.tos,
                options: *self.options.ip_options(),
                header: self.sign(header),
                purpose: Purpose::Own,
                identified: true,
            },
        );
    }
}

impl Shared {
    pub(super) fn arm_wait(&mut self, index: u32) {
        if let Some(wait) = self.waits.get_mut(index as usize) {
            self.timers.arm(TimerKey::TimeWait(index), &mut wait.armed, Some(wait.deadline));
        }
    }

    /// The entry is over: its 4-tuple and port are free.
    pub(super) fn end_wait(&mut self, index: u32) {
        if let Some(mut wait) = self.waits.try_remove(index as usize) {
            self.timers.disarm(TimerKey::TimeWait(index), &mut wait.armed);
            self.ports.release(wait.tuple.local_port, Endpoint::TimeWait(index));
            if self.established.get(&wait.tuple) == Some(&Endpoint::TimeWait(index)) {
                self.established.remove(&wait.tuple);
            }
        }
    }
}
