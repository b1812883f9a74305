//! What the stack's work costs, for counting instructions: `core WORK TIMES` does a piece of work so often on two stacks
//! whose frames go from hand to hand, in virtual time. `scripts/bench-core.sh` runs it under callgrind, twice with
//! different times: the difference is what one piece costs, to the instruction.
// A work that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use remora_stack::frame::{RxChecksum, RxMeta};
use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::stack::Stack;
use remora_stack::testkit::{address, interface};
use remora_stack::time::Instant;
use remora_stack::wire::checksum;

const PORT: u16 = 80;
/// Between two pieces of work.
const PAUSE: Duration = Duration::from_micros(50);

struct Pair {
    now: Instant,
    stacks: [Stack; 2],
    frame: Vec<u8>,
}

impl Pair {
    fn new(offload: bool) -> Self {
        let now = Instant::from_millis(1_000);
        let make = |octet: u8| {
            let mut stack = Stack::new(Settings::default(), [octet; 32]);
            let mut config = interface(octet);
            if offload {
                config.capabilities.gso_max = 65_536;
                config.capabilities.checksum_tx = true;
            }
            stack.attach(now, config);
            stack
        };
        Self { now, stacks: [make(1), make(2)], frame: Vec::with_capacity(70_000) }
    }

    /// Hands frames over until nobody has any, as a driver does.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in 0..2 {
                let [one, other] = &mut self.stacks;
                let (sender, receiver) = if from == 0 { (one, other) } else { (other, one) };
                while let Some(transmit) = sender.poll_transmit(self.now) {
                    self.frame.clear();
                    self.frame.reserve(70_000);
                    self.frame.extend_from_slice(transmit.header);
                    transmit.payload.iter().for_each(|slice| self.frame.extend_from_slice(slice));
                    let checksum =
                        if transmit.checksum.is_some() { RxChecksum::Partial } else { RxChecksum::Unverified };
                    let meta = RxMeta { checksum, gso_size: transmit.gso_size, vlan: None };
                    receiver.handle_frame(self.now, &mut self.frame, meta);
                    moved = true;
                }
                while sender.poll_event().is_some() {}
                if sender.next_timeout().is_some_and(|at| at <= self.now) {
                    sender.handle_timeout(self.now);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    fn socket(&mut self, host: usize, kind: SocketType, protocol: u8) -> SocketId {
        self.stacks[host].socket(self.now, AddressFamily::Inet, kind, protocol).unwrap()
    }

    fn listener(&mut self) -> SocketId {
        let socket = self.socket(1, SocketType::Stream, 6);
        self.stacks[1].bind(self.now, socket, SocketAddr::new(address(2), PORT)).unwrap();
        self.stacks[1].listen(self.now, socket, 4_096).unwrap();
        socket
    }

    fn connect(&mut self, listener: SocketId) -> (SocketId, SocketId) {
        let client = self.socket(0, SocketType::Stream, 6);
        // It is under way.
        let _ = self.stacks[0].connect(self.now, client, SocketAddr::new(address(2), PORT));
        self.pass(PAUSE);
        let (server, _) = self.stacks[1].accept(self.now, listener).unwrap();
        (client, server)
    }

    fn send(&mut self, host: usize, socket: SocketId, bytes: &[u8]) {
        let mut source = bytes;
        assert_eq!(self.stacks[host].send(self.now, socket, &mut source, &SendArguments::default()), Ok(bytes.len()));
        self.settle();
    }

    fn receive(&mut self, host: usize, socket: SocketId, sink: &mut Collect, length: usize) {
        sink.bytes.clear();
        while sink.bytes.len() < length {
            self.stacks[host].receive(self.now, socket, sink, ReceiveFlags::empty()).unwrap();
        }
        self.settle();
    }

    fn exchange(&mut self, (client, server): (SocketId, SocketId), bytes: &[u8], sink: &mut Collect) {
        self.send(0, client, bytes);
        self.receive(1, server, sink, bytes.len());
        self.send(1, server, bytes);
        self.receive(0, client, sink, bytes.len());
        self.pass(PAUSE);
    }
}

/// Connections from one client side by side: each takes a port of the client's.
fn crowd(pair: &mut Pair, count: usize) -> Vec<(SocketId, SocketId)> {
    let listener = pair.listener();
    (0..count).map(|_| pair.connect(listener)).collect()
}

fn requests(times: usize, beside: usize) {
    let mut pair = Pair::new(true);
    let all = crowd(&mut pair, beside + 1);
    let mut sink = Collect::new(1 << 17);
    for time in 0..times {
        // Those beside are asked, too, in the work of that name, so that each is cold.
        pair.exchange(all[time * 7 % all.len()], &[7; 512], &mut sink);
    }
}

fn bulk(times: usize, offload: bool) {
    let mut pair = Pair::new(offload);
    let connection = crowd(&mut pair, 1)[0];
    let mut sink = Collect::new(1 << 17);
    let piece = vec![9; 32_768];
    for _ in 0..times {
        pair.send(0, connection.0, &piece);
        pair.pass(PAUSE);
        pair.receive(1, connection.1, &mut sink, piece.len());
    }
}

fn connections(times: usize) {
    let mut pair = Pair::new(true);
    let listener = pair.listener();
    for _ in 0..times {
        let (client, server) = pair.connect(listener);
        pair.stacks[0].close(pair.now, client);
        pair.settle();
        pair.stacks[1].close(pair.now, server);
        pair.pass(PAUSE);
    }
}

fn datagrams(times: usize) {
    let mut pair = Pair::new(true);
    let (client, server) = (pair.socket(0, SocketType::Datagram, 17), pair.socket(1, SocketType::Datagram, 17));
    pair.stacks[1].bind(pair.now, server, SocketAddr::new(address(2), PORT)).unwrap();
    pair.stacks[0].connect(pair.now, client, SocketAddr::new(address(2), PORT)).unwrap();
    let mut sink = Collect::new(1 << 17);
    for _ in 0..times {
        pair.send(0, client, &[7; 64]);
        pair.receive(1, server, &mut sink, 64);
    }
}

fn checksums(times: usize) {
    let bytes = vec![0x5a; 1_500];
    let mut all = 0u32;
    for _ in 0..times {
        all = all.wrapping_add(u32::from(checksum::sum(std::hint::black_box(&bytes))));
    }
    std::hint::black_box(all);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [work, times] = words.as_slice() else {
        // `cargo test --benches` and the like: nothing to do without a work.
        return;
    };
    let times: usize = times.parse().expect("a number of times");
    match work.as_str() {
        "request" => requests(times, 0),
        "request-1000" => requests(times, 999),
        "request-10000" => requests(times, 9_999),
        "bulk" => bulk(times, true),
        "bulk-plain" => bulk(times, false),
        "connection" => connections(times),
        "datagram" => datagrams(times),
        "checksum" => checksums(times),
        other => panic!("no work {other}"),
    }
}
