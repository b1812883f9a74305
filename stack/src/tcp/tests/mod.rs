//! Two TCPs and a wire between them in virtual time: latency, loss, reordering and duplication by a seed, and eyes on
//! every segment. The network layer is only asked for routes.

mod close;
mod congestion;
mod data;
mod fast_open;
mod handshake;
mod hostile;
mod limits;
mod listen;
mod memory;
mod path_probe;
mod ports;
mod queries;
mod recovery;
mod remnant;
mod repair;
mod requirements;
mod segmentation;
mod signature;
mod tx_times;
mod undo;
mod urgent;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;

use super::header::{Flags, Header, Parsed};
use super::{State, Tcp, TimedSend};
use crate::counters::Counters;
use crate::frame::{DeviceCapabilities, Medium, Purpose, RxChecksum};
use crate::interface::{InterfaceConfig, MacAddress};
use crate::io::Collect;
use crate::ip::{AddressKind, Ip, PacketInfo, PathError};
use crate::random::Random;
use crate::settings::Settings;
use crate::socket::error::{ConnectError, ReceiveError, SendError};
use crate::socket::protocol::{AddressFamily, Net, Protocol, Readiness, ReceiveFlags, SendArguments, SockId, SocketId};
use crate::time::Instant;

pub const LEFT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub const RIGHT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// One stack's TCP and what it stands on.
pub struct Host {
    pub tcp: Tcp,
    pub ip: Ip,
    pub counters: Counters,
    pub settings: Settings,
    pub random: Random,
    pub address: IpAddr,
}

impl Host {
    pub fn new(address: IpAddr, settings: Settings, gso_max: u32) -> Self {
        let mut secret = [7; 32];
        if let IpAddr::V4(address) = address {
            secret[0] = address.octets()[3];
            secret[20] = address.octets()[3];
        }
        let mut random = Random::new(secret);
        let mut ip = Ip::default();
        ip.configure(&InterfaceConfig {
            address,
            prefix: 24,
            gateway: None,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            capabilities: DeviceCapabilities { medium: Medium::Ethernet, mtu: 1_500, gso_max, checksum_tx: true },
            probe: false,
            loopback: false,
        });
        let tcp = Tcp::new(&settings, &mut random);
        Self { tcp, ip, counters: Counters::default(), settings, random, address }
    }

    /// Calls `f` with TCP and its environment.
    pub fn with<T>(&mut self, now: Instant, f: impl FnOnce(&mut Tcp, &mut Net<'_>) -> T) -> T {
        let Self { tcp, ip, counters, settings, random, .. } = self;
        f(tcp, &mut Net { now, ip, counters, settings, random })
    }

    fn inject(&mut self, now: Instant, packet: &Packet) {
        let info = PacketInfo {
            source: packet.source,
            destination: packet.destination,
            kind: if packet.destination == self.address { AddressKind::Local } else { AddressKind::Broadcast },
            ttl: 64,
            tos: packet.tos,
            checksum: RxChecksum::Valid,
            gso_size: packet.gso_size,
            looped: false,
            network_at: 0,
            options: crate::wire::ip_options::IpOptions::NONE,
            fragment: 0,
        };
        let mut buffer = packet.bytes.clone();
        let end = buffer.len();
        self.with(now, |tcp, net| tcp.handle_segment(net, &info, &mut buffer, 0, end));
    }

    fn transmit(&mut self, now: Instant) -> Option<Packet> {
        self.transmit_timed(now).map(|(packet, _)| packet)
    }

    fn transmit_timed(&mut self, now: Instant) -> Option<(Packet, Option<TimedSend>)> {
        self.with(now, |tcp, net| {
            let segment = tcp.poll_transmit(net)?;
            let mut bytes = segment.header.to_vec();
            for slice in segment.payload {
                bytes.extend_from_slice(slice);
            }
            let packet = Packet {
                source: segment.source,
                destination: segment.destination,
                bytes,
                gso_size: segment.gso_size,
                purpose: segment.purpose,
                tos: segment.tos,
            };
            Some((packet, segment.timed))
        })
    }
}

/// A segment on the wire.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub bytes: Vec<u8>,
    pub gso_size: u16,
    pub purpose: Purpose,
    pub tos: u8,
}

impl Packet {
    pub fn parsed(&self) -> Parsed {
        Header::parse(&self.bytes).expect("own segments are well-formed")
    }

    pub fn header(&self) -> Header {
        self.parsed().header
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.parsed().length..]
    }

    pub fn is(&self, flags: Flags) -> bool {
        self.header().flags - Flags::PSH == flags
    }
}

/// What the wire does to segments, in percent.
#[derive(Clone, Copy, Default)]
pub struct Trouble {
    pub loss: u64,
    pub reorder: u64,
    pub duplicate: u64,
}

/// The pair, the wire and the clock.
pub struct Pair {
    pub now: Instant,
    pub left: Host,
    pub right: Host,
    pub latency: Duration,
    pub trouble: Trouble,
    /// Segments in flight by time of arrival and order.
    flying: BTreeMap<(Instant, u64), Packet>,
    count: u64,
    seed: u64,
    /// Everything that was put on the wire, and when.
    pub log: Vec<(Instant, Packet)>,
    /// Which segments get through; by count, true: let pass.
    pub filter: Option<fn(&Packet, u64) -> bool>,
    /// So many of the next segments that are ECT get CE on the way.
    pub mark_next: u32,
    /// Super-segments are cut on the wire.
    pub cut: bool,
}

pub const OWNER: SocketId = SocketId { index: 1, generation: 1 };

impl Pair {
    pub fn new() -> Self {
        Self::with_settings(Settings::default(), 65_535)
    }

    pub fn with_settings(settings: Settings, gso_max: u32) -> Self {
        Self {
            now: Instant::from_millis(1_000_000),
            left: Host::new(LEFT, settings.clone(), gso_max),
            right: Host::new(RIGHT, settings, gso_max),
            latency: Duration::from_millis(5),
            trouble: Trouble::default(),
            flying: BTreeMap::new(),
            count: 0,
            seed: 1,
            log: Vec::new(),
            filter: None,
            mark_next: 0,
            cut: true,
        }
    }

    pub fn seeded(mut self, seed: u64, trouble: Trouble) -> Self {
        self.seed = seed;
        self.trouble = trouble;
        self
    }

    fn dice(&mut self, of: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % of
    }

    fn put(&mut self, packet: Packet) {
        self.log.push((self.now, packet.clone()));
        for mut packet in if self.cut { cut(&packet) } else { alloc::vec![packet] } {
            self.count += 1;
            if self.mark_next > 0 && packet.tos & 3 == 2 {
                self.mark_next -= 1;
                packet.tos |= 3;
            }
            if self.filter.is_some_and(|filter| !filter(&packet, self.count)) {
                continue;
            }
            if self.dice(100) < self.trouble.loss {
                continue;
            }
            let copies = if self.dice(100) < self.trouble.duplicate { 2 } else { 1 };
            for _ in 0..copies {
                let late = if self.dice(100) < self.trouble.reorder { self.dice(4_000_000) } else { 0 };
                let at = self.now + self.latency + Duration::from_nanos(late);
                self.count += 1;
                self.flying.insert((at, self.count), packet.clone());
            }
        }
    }

    /// Takes what both want to send.
    pub fn flush(&mut self) {
        for _ in 0..100_000 {
            let packet = match self.left.transmit(self.now) {
                Some(packet) => packet,
                None => match self.right.transmit(self.now) {
                    Some(packet) => packet,
                    None => return,
                },
            };
            self.put(packet);
        }
        panic!("a host never stops sending");
    }

    /// Goes to the next event; false: there is none before `end`.
    pub fn step(&mut self, end: Instant) -> bool {
        self.flush();
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let timers = [self.left.tcp.next_timeout(), self.right.tcp.next_timeout(), arrival];
        let Some(next) = timers.into_iter().flatten().min().filter(|next| *next <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        self.left.with(now, |tcp, net| tcp.handle_timeout(net));
        self.right.with(now, |tcp, net| tcp.handle_timeout(net));
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let packet = entry.remove();
            if packet.destination == LEFT {
                self.left.inject(now, &packet);
            } else {
                self.right.inject(now, &packet);
            }
        }
        self.flush();
        true
    }

    /// Lets `span` pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(steps < 2_000_000, "no end in sight");
        }
    }

    pub fn side(&mut self, left: bool) -> &mut Host {
        if left { &mut self.left } else { &mut self.right }
    }

    pub fn socket(&mut self, left: bool) -> SockId {
        let now = self.now;
        self.side(left).with(now, |tcp, net| tcp.create(net, OWNER, AddressFamily::Inet, 6)).expect("a sock")
    }

    pub fn bind(&mut self, left: bool, sock: SockId, port: u16) {
        let now = self.now;
        let host = self.side(left);
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        host.with(now, |tcp, net| tcp.bind(net, sock, address)).expect("a free port");
    }

    pub fn listen(&mut self, left: bool, port: u16, backlog: u32) -> SockId {
        let sock = self.socket(left);
        self.bind(left, sock, port);
        let now = self.now;
        self.side(left).with(now, |tcp, net| tcp.listen(net, sock, backlog)).expect("listening");
        sock
    }

    pub fn connect(&mut self, left: bool, sock: SockId, port: u16) -> Result<(), ConnectError> {
        let now = self.now;
        let to = SocketAddr::new(if left { RIGHT } else { LEFT }, port);
        self.side(left).with(now, |tcp, net| tcp.connect(net, sock, to))
    }

    pub fn accept(&mut self, left: bool, sock: SockId) -> Option<SockId> {
        let now = self.now;
        let child = self.side(left).with(now, |tcp, net| tcp.accept(net, sock)).ok()?;
        self.side(left).tcp.adopt(child, OWNER);
        Some(child)
    }

    /// A connection from the left to a listener on the right; both ends.
    pub fn established(&mut self) -> (SockId, SockId) {
        let listener = self.listen(false, 80, 8);
        let client = self.socket(true);
        assert_eq!(self.connect(true, client, 80), Err(ConnectError::InProgress));
        self.run(Duration::from_millis(50));
        let server = self.accept(false, listener).expect("a connection");
        assert_eq!(self.left.tcp.state(client), State::Established);
        assert_eq!(self.right.tcp.state(server), State::Established);
        self.close(false, listener);
        (client, server)
    }

    pub fn send(&mut self, left: bool, sock: SockId, bytes: &[u8]) -> Result<usize, SendError> {
        let now = self.now;
        let mut source = bytes;
        self.side(left).with(now, |tcp, net| tcp.send(net, sock, &mut source, &SendArguments::default()))
    }

    pub fn receive(&mut self, left: bool, sock: SockId, most: usize) -> Result<Vec<u8>, ReceiveError> {
        let now = self.now;
        let mut sink = Collect::new(most);
        self.side(left).with(now, |tcp, net| tcp.receive(net, sock, &mut sink, ReceiveFlags::empty()))?;
        Ok(sink.bytes)
    }

    pub fn close(&mut self, left: bool, sock: SockId) {
        let now = self.now;
        self.side(left).with(now, |tcp, net| tcp.close(net, sock));
    }

    pub fn state(&mut self, left: bool, sock: SockId) -> State {
        self.side(left).tcp.state(sock)
    }

    pub fn poll(&mut self, left: bool, sock: SockId) -> Readiness {
        self.side(left).tcp.readiness(sock)
    }

    /// Hands a made-up segment to a side.
    pub fn forge(&mut self, to_left: bool, header: &Header, payload: &[u8]) {
        let mut bytes = header.emit().as_slice().to_vec();
        bytes.extend_from_slice(payload);
        let (source, destination) = if to_left { (RIGHT, LEFT) } else { (LEFT, RIGHT) };
        let packet = Packet { source, destination, bytes, gso_size: 0, purpose: Purpose::Own, tos: 0 };
        let now = self.now;
        self.side(to_left).inject(now, &packet);
    }

    pub fn path_error(&mut self, left: bool, packet: &Packet, code: u8, mtu: u16) {
        let now = self.now;
        let error = PathError {
            local: packet.source,
            remote: packet.destination,
            reporter: packet.destination,
            kind: 3,
            code,
            mtu,
            transport: &packet.bytes[..8],
        };
        self.side(left).with(now, |tcp, net| tcp.handle_error(net, &error));
    }

    /// Segments sent by a side since `from` in the log.
    pub fn sent(&self, left: bool, from: usize) -> Vec<(Instant, Packet)> {
        let address = if left { LEFT } else { RIGHT };
        self.log[from..].iter().filter(|(_, packet)| packet.source == address).cloned().collect()
    }
}

/// What the network does to a super-segment.
fn cut(packet: &Packet) -> Vec<Packet> {
    let parsed = packet.parsed();
    let payload = packet.payload();
    let size = usize::from(packet.gso_size);
    if size == 0 || payload.len() <= size {
        return alloc::vec![Packet { gso_size: 0, ..packet.clone() }];
    }
    let mut header = parsed.header;
    let count = payload.chunks(size).count();
    payload
        .chunks(size)
        .enumerate()
        .map(|(place, part)| {
            header.seq = parsed.header.seq + u32::try_from(place * size).unwrap();
            header.flags = parsed.header.flags;
            if place + 1 < count {
                header.flags -= Flags::FIN | Flags::PSH;
            }
            let mut bytes = header.emit().as_slice().to_vec();
            bytes.extend_from_slice(part);
            Packet { bytes, gso_size: 0, ..packet.clone() }
        })
        .collect()
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ (n >> 11) as u8).collect()
}
