//! One TCP socket: the variables of RFC 9293 §3.3.1 under their names, and what Linux keeps beside them in
//! `struct tcp_sock`. What is done with them stands in the files of the topics.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::buffer::SendBuffer;
use super::charge::Charges;
use super::chrono::Chronos;
use super::congestion::{Algorithm, Window};
use super::delayed_ack::DelayedAck;
use super::ecn::Ecn;
use super::fast_open::FastOpen;
use super::header::{Flags, Header, HeaderBytes, Options, SIGNATURE_LENGTH, SackBlocks, TIMESTAMPS_LENGTH, Timestamps};
use super::listen::Listen;
use super::memory::Supply;
use super::options::TcpOptions;
use super::pacing::Pacing;
use super::path_probe::PathProbe;
use super::reassembly::Reassembly;
use super::recovery::{Phase, Recovery};
use super::repair::RepairQueue;
use super::rto::{RoundTrip, Timeouts};
use super::sack::Scoreboard;
use super::segmentation::Boundaries;
use super::send::Plan;
use super::sequence::Seq;
use super::signature::{self, Signatures};
use super::state::State;
use super::tx_times::TxTimes;
use super::urgent::Urgent;
use super::{Reply, Shared, Tuple, isn, window};
use crate::frame::Purpose;
use crate::ip::Route;
use crate::settings::Settings;
use crate::socket::error::SocketFault;
use crate::socket::errqueue::ErrorQueue;
use crate::socket::kept::KeptOptions;
use crate::socket::options::SocketOptions;
use crate::socket::protocol::{AddressFamily, Happened, Net, SockId, SocketId};
use crate::time::Instant;
use core::cell::Cell;

/// RFC 9293 §3.7.1 (MUST-15): segment size towards a peer that did not name one.
pub const DEFAULT_MSS: u16 = 536;

/// Which meaning the retransmission timer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetransmitTimer {
    /// Repeat the oldest segment.
    Repeat,
    /// Probe the tail.
    Tail,
    /// Probe a closed window.
    Probe,
    /// Take for lost what was overtaken long enough ago.
    Reorder,
}

/// What becomes of a sock after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// The connection goes on as a TIME_WAIT entry, in this state, for so long.
    Waits(State, Duration),
}

/// One socket.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct Sock {
    pub index: u32,
    pub generation: u32,
    pub family: AddressFamily,
    pub owner: Option<SocketId>,
    /// No program holds it any more (SOCK_DEAD).
    pub orphan: bool,
    /// Not yet asked for; not empty while the sock is in the event queue.
    pub happened: Happened,
    /// A send or a poll found no room (SOCK_NOSPACE): the program is to hear of it.
    pub no_space: Cell<bool>,
    pub urgent_queued: bool,
    pub send_queued: bool,
    pub hashed: bool,
    pub state: State,
    /// `local_port` is 0 when no port is held.
    pub tuple: Tuple,
    /// Port that getsockname shows (`inet_sport`).
    pub shown_port: u16,
    /// The program bound the address (SOCK_BINDADDR_LOCK).
    pub address_locked: bool,
    /// The program bound the port (SOCK_BINDPORT_LOCK).
    pub port_locked: bool,
    pub options: SocketOptions,
    pub tcp: TcpOptions,
    /// Keys of TCP_MD5SIG.
    pub signatures: Signatures,
    pub route: Option<Route>,
    pub error: Option<SocketFault>,
    pub soft_error: Option<SocketFault>,
    /// What ICMP quoted of our segments, for MSG_ERRQUEUE (`sk_error_queue`).
    pub reports: ErrorQueue,
    /// What the program is to hear of its sends.
    pub tx_times: TxTimes,
    pub shutdown_read: bool,
    pub shutdown_write: bool,
    /// The peer's FIN has been taken (SOCK_DONE).
    pub finished: bool,
    pub listen: Option<Box<Listen>>,
    /// Headers of the SYN that opened the connection (TCP_SAVED_SYN); read once.
    pub saved_syn: Option<Box<[u8]>>,
    /// TOS of the segment that opened it, if it was accepted (`rcv_tos`).
    pub arrival_tos: Option<u8>,

    pub iss: Seq,
    pub snd_una: Seq,
    pub snd_nxt: Seq,
    pub snd_wnd: u32,
    pub snd_wl1: Seq,
    /// Largest window that the peer ever offered.
    pub max_window: u32,
    pub snd_wscale: u8,
    /// End of the last small segment sent (Minshall's Nagle).
    pub snd_sml: Seq,
    /// Urgent pointer of data to send, while not acknowledged.
    pub snd_up: Option<Seq>,
    pub buffer: SendBuffer,
    /// A FIN follows the data.
    pub fin_queued: bool,
    /// The peer has acknowledged our FIN.
    pub fin_acked: bool,
    /// The SYN has to be sent, first or again.
    pub syn_due: bool,
    /// The last send said that more follows at once (MSG_MORE).
    pub more: bool,
    /// Where the unsent part of the stream is pushed and cut.
    pub boundaries: Boundaries,
    /// What was decided on in the middle of a send and is to go first.
    pub planned: VecDeque<Plan>,
    /// What holds the connection back, and since when.
    pub chrono: Chronos,
    /// A program waits with data for the connection to stand: the data carries the ACK of the SYN-ACK (`sk_write_pending`).
    pub write_pending: bool,
    /// An ACK has come: there may be room again for the program.
    pub space_due: bool,
    pub board: Scoreboard,
    pub window: Window,
    pub algorithm: Algorithm,
    pub phase: Phase,
    pub recovery: Recovery,
    /// Segments that D-SACKs have told of.
    pub duplicates_reported: u32,
    /// `snd_nxt` when the last loss was noticed (RFC 6582's recover).
    pub high_seq: Seq,
    /// The first segment goes out whatever the window says.
    pub head_due: bool,
    /// Most segments in flight in this window, and whether the window held more back.
    pub max_packets_out: u32,
    pub max_packets_seq: Seq,
    pub window_limited: bool,
    /// Most segments in flight since the window was filled last, and when that was (`snd_cwnd_used`, `snd_cwnd_stamp`).
    pub window_used: u32,
    pub window_used_at: Instant,
    pub rtt: RoundTrip,
    pub timeouts: Timeouts,
    /// When the first segment that is repeated now was sent first.
    pub retransmit_since: Option<Instant>,
    pub retransmits: u32,
    pub total_retransmits: u32,
    pub last_sent: Instant,
    pub peer_mss: u16,
    /// MSS that we advertised or use as our own (`advmss`).
    pub advertised_mss: u16,

    pub irs: Seq,
    pub rcv_nxt: Seq,
    /// `rcv_nxt` when the last ACK was sent.
    pub rcv_wup: Seq,
    pub rcv_wnd: u32,
    pub rcv_wscale: u8,
    pub window_clamp: u32,
    pub rcv_ssthresh: u32,
    pub queue: Reassembly,
    /// What is in it counts against the receive buffer.
    pub charges: Charges,
    /// Something could not be taken for want of memory: the next ACK offers no window.
    pub no_receive_memory: bool,
    /// How things stand with the memory of all connections; what is counted of it for this one.
    pub supply: Supply,
    pub counted_pages: u64,
    pub counted_orphan: bool,
    /// When a program that found none tries again.
    pub memory_wait_at: Option<Instant>,
    /// How much of the memory of segments is data, in 1/256 (`scaling_ratio`).
    pub scaling_ratio: u8,
    /// Sequence number of a FIN that came ahead of a hole.
    pub fin_ahead: Option<Seq>,
    /// First byte that the program has not read.
    pub copied_seq: Seq,
    /// Somebody else has been given what stands first in the queue, and may not have taken it: nobody reads meanwhile.
    pub input_withheld: bool,
    /// Urgent data of the peer.
    pub urgent: Option<Urgent>,
    /// TCP_REPAIR is on, and which queue is meant.
    pub repair: Option<RepairQueue>,
    pub fast_open: FastOpen,
    /// Receive autotuning: start of the measured round and bytes read in the last one.
    pub space_since: Instant,
    pub space_seq: Seq,
    pub space: u32,
    pub rcv_rtt: Option<Duration>,
    pub rcv_rtt_seq: Seq,
    /// Echo that was measured last: the same says nothing new.
    pub rcv_rtt_echo: u32,
    pub rcv_rtt_since: Instant,
    pub last_received: Instant,
    pub last_ack_received: Instant,
    pub received_data: bool,

    pub timestamps: bool,
    pub timestamp_offset: u32,
    pub ts_recent: u32,
    pub ts_recent_at: Instant,
    pub sack: bool,
    pub window_scaling: bool,

    pub ack: DelayedAck,
    pub last_challenge: Option<Instant>,
    //= RFC 8985 §8 (SHLD-15)
    pub retransmit_at: Option<(Instant, RetransmitTimer)>,
    /// A tail loss probe is on its way: what ends it, and whether it repeats.
    pub tail_probe: Option<(Seq, bool)>,
    /// The last segment goes out again.
    pub tail_due: bool,
    pub keepalive_at: Option<Instant>,
    /// The device was full: nothing goes out before.
    pub paused_until: Option<Instant>,
    pub pacing: Pacing,
    /// The search for the path's MTU.
    pub path_probe: PathProbe,
    pub ecn: Ecn,
    pub armed: Option<Instant>,
    pub probes_out: u32,
    pub probe_since: Option<Instant>,
    /// A segment without data goes out to make the peer answer.
    pub probe_due: bool,
    /// The device has refused what comes next: it waits for an ACK, a send or a timer.
    pub refused: bool,
    /// The next data goes out whatever Nagle and the size of the window say.
    pub forced: bool,
    /// Segment size used last.
    pub last_mss: u16,
    /// What has to be done with the sock when the current event is over.
    pub fate: Fate,
    pub bytes_sent: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segments_in: u32,
    pub segments_out: u32,
    /// Of these, those with data; and bytes of them that were sent again.
    pub data_segments_in: u32,
    pub data_segments_out: u32,
    pub bytes_repeated: u64,
    /// Segments that came ahead of a hole.
    pub out_of_order_in: u32,
}

pub const fn ip_header(address: IpAddr) -> u16 {
    if address.is_ipv4() { 20 } else { 40 }
}

impl Sock {
    pub fn new(settings: &Settings, generation: u32, family: AddressFamily, now: Instant) -> Self {
        let unspecified = match family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0_u16; 8]),
        };
        let [_, receive, _] = settings.tcp_rmem;
        let [_, send, _] = settings.tcp_wmem;
        let mut options = SocketOptions::new(receive, send);
        if family == AddressFamily::Inet6 {
            options.kept = KeptOptions::v6();
        }
        Self {
            index: 0,
            generation,
            family,
            owner: None,
            orphan: false,
            happened: Happened::empty(),
            no_space: Cell::new(false),
            urgent_queued: false,
            send_queued: false,
            hashed: false,
            state: State::Closed,
            tuple: Tuple { local: unspecified, local_port: 0, remote: unspecified, remote_port: 0 },
            shown_port: 0,
            address_locked: false,
            port_locked: false,
            options,
            tcp: TcpOptions::default(),
            signatures: Signatures::default(),
            route: None,
            error: None,
            soft_error: None,
            reports: ErrorQueue::EMPTY,
            tx_times: TxTimes::default(),
            shutdown_read: false,
            shutdown_write: false,
            finished: false,
            listen: None,
            saved_syn: None,
            arrival_tos: None,
            iss: Seq(0),
            snd_una: Seq(0),
            snd_nxt: Seq(0),
            snd_wnd: 0,
            snd_wl1: Seq(0),
            max_window: 0,
            snd_wscale: 0,
            snd_sml: Seq(0),
            snd_up: None,
            buffer: SendBuffer::default(),
            fin_queued: false,
            fin_acked: false,
            syn_due: false,
            more: false,
            boundaries: Boundaries::default(),
            planned: VecDeque::new(),
            chrono: Chronos::default(),
            write_pending: false,
            space_due: false,
            board: Scoreboard::new(settings.tcp_reordering),
            window: Window::default(),
            algorithm: Algorithm::from_setting(&settings.tcp_congestion_control),
            phase: Phase::Open,
            recovery: Recovery::default(),
            duplicates_reported: 0,
            high_seq: Seq(0),
            head_due: false,
            max_packets_out: 0,
            max_packets_seq: Seq(0),
            window_limited: false,
            window_used: 0,
            window_used_at: now,
            rtt: RoundTrip::default(),
            timeouts: Timeouts::default(),
            retransmit_since: None,
            retransmits: 0,
            total_retransmits: 0,
            last_sent: now,
            peer_mss: DEFAULT_MSS,
            advertised_mss: DEFAULT_MSS,
            irs: Seq(0),
            rcv_nxt: Seq(0),
            rcv_wup: Seq(0),
            rcv_wnd: 0,
            rcv_wscale: 0,
            window_clamp: 0,
            rcv_ssthresh: 0,
            queue: Reassembly::default(),
            charges: Charges::default(),
            no_receive_memory: false,
            supply: Supply::default(),
            counted_pages: 0,
            counted_orphan: false,
            memory_wait_at: None,
            scaling_ratio: window::DEFAULT_RATIO,
            fin_ahead: None,
            copied_seq: Seq(0),
            input_withheld: false,
            urgent: None,
            repair: None,
            fast_open: FastOpen::default(),
            space_since: now,
            space_seq: Seq(0),
            space: 0,
            rcv_rtt: None,
            rcv_rtt_seq: Seq(0),
            rcv_rtt_echo: 0,
            rcv_rtt_since: now,
            last_received: now,
            last_ack_received: now,
            received_data: false,
            timestamps: false,
            timestamp_offset: 0,
            ts_recent: 0,
            ts_recent_at: Instant::ZERO,
            sack: false,
            window_scaling: false,
            ack: DelayedAck::default(),
            last_challenge: None,
            retransmit_at: None,
            tail_probe: None,
            tail_due: false,
            keepalive_at: None,
            paused_until: None,
            pacing: Pacing::default(),
            path_probe: PathProbe::default(),
            ecn: Ecn::default(),
            armed: None,
            probes_out: 0,
            probe_since: None,
            probe_due: false,
            refused: false,
            forced: false,
            last_mss: DEFAULT_MSS,
            fate: Fate::Stays,
            bytes_sent: 0,
            bytes_acked: 0,
            bytes_received: 0,
            segments_in: 0,
            segments_out: 0,
            data_segments_in: 0,
            data_segments_out: 0,
            bytes_repeated: 0,
            out_of_order_in: 0,
        }
    }

    pub const fn id(&self) -> SockId {
        SockId { index: self.index, generation: self.generation }
    }

    /// Sequence number of the first byte in the send buffer.
    pub fn data_start(&self) -> Seq {
        let opening = matches!(self.state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
        // The SYN takes one number. `iss` says nothing any more once the connection has gone 2^31 bytes beyond it.
        if (opening || self.fast_open.passive) && self.snd_una == self.iss { self.iss + 1 } else { self.snd_una }
    }

    /// Sequence number after the last byte written.
    pub fn data_end(&self) -> Seq {
        self.data_start() + u32::try_from(self.buffer.len()).unwrap_or(u32::MAX)
    }

    /// Sequence number after all that was written, FIN included (`write_seq`).
    pub fn write_end(&self) -> Seq {
        if self.fin_acked { self.snd_una } else { self.data_end() + u32::from(self.fin_queued) }
    }

    /// Bytes and FIN that were never sent.
    pub fn unsent(&self) -> u32 {
        self.write_end().distance_from(self.snd_nxt)
    }

    /// Tells the owner what has happened.
    pub fn wake(&mut self, shared: &mut Shared, happened: Happened) {
        if self.owner.is_none() {
            return;
        }
        if self.happened.is_empty() {
            shared.events.push_back(self.id());
        }
        self.happened |= happened;
    }

    pub fn clear_timers(&mut self) {
        self.retransmit_at = None;
        self.tail_probe = None;
        self.tail_due = false;
        self.keepalive_at = None;
        self.ack.clear();
        self.paused_until = None;
        self.memory_wait_at = None;
        self.pacing.at = None;
        self.probe_due = false;
        self.head_due = false;
        self.syn_due = false;
    }

    /// Throws away what was not acknowledged (`tcp_write_queue_purge`).
    pub fn purge_output(&mut self) {
        self.buffer.clear();
        self.boundaries.clear();
        self.planned.clear();
        self.board.clear();
        self.snd_una = self.snd_nxt;
    }

    /// Next deadline of any of the timers.
    pub fn deadline(&self) -> Option<Instant> {
        let retransmit = self.retransmit_at.map(|(at, _)| at);
        [retransmit, self.keepalive_at, self.ack.deadline(), self.paused_until, self.pacing.at, self.memory_wait_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is left of the window that was offered last (`tcp_receive_window`).
    pub fn receive_window(&self) -> u32 {
        (self.rcv_wup + self.rcv_wnd).distance_from(self.rcv_nxt)
    }

    /// Segment size that the path allows, from MTU and options of every header.
    pub fn path_mss(&self, mtu: u16) -> u16 {
        let mss = mtu.saturating_sub(ip_header(self.tuple.remote) + 20);
        //= RFC 9293 §3.7.1 (MUST-16)
        let mss = mss.min(self.peer_mss);
        //= RFC 9293 §3.7.1 (MUST-16): options of the IP header take room, too (`icsk_ext_hdr_len`).
        let mss = mss.saturating_sub(self.ip_options_length());
        let mss = mss.saturating_sub(if self.timestamps { TIMESTAMPS_LENGTH } else { 0 });
        mss.saturating_sub(if self.is_signed() { SIGNATURE_LENGTH } else { 0 })
    }

    /// Bytes of IP_OPTIONS.
    pub fn ip_options_length(&self) -> u16 {
        u16::try_from(self.options.ip_options().len()).unwrap_or(0)
    }

    /// Where packets go first: to the peer, or to the first hop of a source route.
    pub fn first_hop(&self) -> IpAddr {
        self.options.ip_options().first_hop().map_or(self.tuple.remote, IpAddr::V4)
    }

    /// Payload bytes of a full segment now (`tcp_current_mss`).
    pub fn current_mss(&self, settings: &Settings) -> u16 {
        let mtu = self.path_probe.limit(self.route.map_or(1_500, |route| route.mtu));
        // `__tcp_mtu_to_mss`: the least is that of a segment with its options.
        let options =
            if self.timestamps { TIMESTAMPS_LENGTH } else { 0 } + if self.is_signed() { SIGNATURE_LENGTH } else { 0 };
        let mss = self.path_mss(mtu).max(settings.tcp_min_snd_mss.saturating_sub(options));
        // RFC 9293 §3.8.6.2.1: never more than half of the largest window, or a small window would never fill.
        let half = u32::from(if self.max_window > u32::from(DEFAULT_MSS) { 1_u16 } else { 0 });
        let cutoff = self.max_window >> half;
        let bounded = if cutoff > 0 && u32::from(mss) > cutoff {
            u16::try_from(cutoff.max(48)).unwrap_or(mss).min(mss)
        } else {
            mss
        };
        let most = match (self.is_signed(), self.timestamps) {
            (true, true) => 0,
            (true, false) => 2,
            (false, _) => 3,
        };
        let sack = if self.sack { u16::try_from(self.queue.block_count().min(most)).unwrap_or(0) } else { 0 };
        bounded.saturating_sub(if sack > 0 { 4 + 8 * sack } else { 0 }).max(16)
    }

    /// The segment size while the peer has not named one (`tcp_v4_connect`, `tcp_connect_init`): the default's, or
    /// TCP_MAXSEG's, less the options that are asked for.
    pub fn mss_before_an_answer(&self, settings: &Settings) -> u16 {
        let named = if self.tcp.max_segment > 0 { self.tcp.max_segment } else { DEFAULT_MSS };
        let options = match (self.is_signed(), settings.tcp_timestamps) {
            (true, _) => SIGNATURE_LENGTH,
            (false, 0) => 0,
            (false, _) => TIMESTAMPS_LENGTH,
        };
        self.path_mss(self.route.map_or(1_500, |route| route.mtu)).min(named).saturating_sub(options)
    }

    /// The MSS that a SYN of ours names (`tcp_advertise_mss`).
    pub fn mss_to_advertise(&self) -> u16 {
        let (mtu, advertised) = self.route.map_or((1_500, 0), |route| (route.mtu, route.advertised_mss));
        //= RFC 9293 §3.7.1 (MUST-67)
        let from_mtu = mtu.saturating_sub(ip_header(self.tuple.remote) + 20).max(256);
        let mss = if advertised > 0 { advertised.min(from_mtu) } else { from_mtu };
        if self.tcp.max_segment > 0 { mss.min(self.tcp.max_segment) } else { mss }
    }

    /// Whether segments to the peer are signed.
    pub fn is_signed(&self) -> bool {
        self.signatures.find(self.tuple.remote).is_some()
    }

    /// The bytes of a header without data, signed if there is a key for the peer.
    pub fn sign(&self, header: Header) -> HeaderBytes {
        self.sign_with(header, &[])
    }

    /// The bytes of a header before `payload`.
    pub fn sign_with(&self, header: Header, payload: &[&[u8]]) -> HeaderBytes {
        let key = self.signatures.key(self.tuple.remote);
        signature::emit(header, self.tuple.local, self.tuple.remote, payload, key)
    }

    /// What every segment but a SYN carries (`tcp_established_options`).
    pub fn common_options(&mut self, now: Instant, with_sack: bool) -> Options {
        let mut options = Options::default();
        if self.timestamps {
            //= RFC 7323 §3.2 (MUST-13, MUST-15)
            options.timestamps = Some(Timestamps { value: self.timestamp(now), echo: self.ts_recent });
        }
        if with_sack && self.sack && self.queue.block_count() > 0 {
            options.sack = self.queue.take_blocks(if self.timestamps { 3 } else { 4 }, true);
        } else {
            options.sack = SackBlocks::default();
        }
        options
    }

    pub fn timestamp(&self, now: Instant) -> u32 {
        isn::timestamp_clock(now).wrapping_add(self.timestamp_offset)
    }

    /// A header with what is common to all segments of this connection.
    pub fn header(&self, seq: Seq, flags: Flags) -> Header {
        Header {
            source_port: self.shown_port,
            destination_port: self.tuple.remote_port,
            seq,
            ack: self.rcv_nxt,
            flags,
            window: u16::try_from(self.rcv_wnd >> self.rcv_wscale).unwrap_or(u16::MAX),
            urgent: 0,
            options: Options::default(),
        }
    }

    /// Resets the peer (`tcp_send_active_reset`).
    pub fn send_reset(&mut self, shared: &mut Shared, net: &mut Net<'_>) {
        let mut header = self.header(self.snd_nxt, Flags::RST | Flags::ACK);
        if !self.state.needs_reset() && self.snd_nxt == self.iss {
            header.flags = Flags::RST;
        }
        header.window = self.update_window(net.counters);
        //= RFC 7323 §3.2 (SHLD-6)
        header.options = self.common_options(net.now, false);
        net.counters.tcp_out_segs += 1;
        net.counters.tcp_out_rsts += 1;
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

    /// What getsockname shows.
    pub fn local_name(&self) -> SocketAddr {
        SocketAddr::new(self.tuple.local, self.shown_port)
    }
}
