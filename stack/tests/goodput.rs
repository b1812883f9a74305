//! Goodput of the congestion control algorithms over virtual links, as a table that a change shows up in, and how two
//! flows share a bottleneck. Virtual time: the numbers are exact and the same on every machine. When they change for
//! a good reason, `REMORA_BLESS=1 scripts/check.sh --only simulation` writes the new table.
// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::testkit::{Conditions, Network, address, interface};

/// 20 Mbit/s in bytes per second.
const RATE: u64 = 2_500_000;
/// Every transfer goes on for so long.
const TIME: Duration = Duration::from_secs(10);
const LOSSES: [u32; 4] = [0, 1_000, 10_000, 30_000];
const ROUND_TRIPS: [u64; 4] = [1, 20, 100, 300];
const ALGORITHMS: [&str; 3] = ["cubic", "reno", "bbr"];

/// A sender and its receiver.
struct Flow {
    client: SocketId,
    server: SocketId,
    received: usize,
}

fn network(algorithm: &str, link: Conditions, seed: u64) -> Network {
    let mut network = Network::new(seed);
    network.conditions = link;
    for host in 1..=2 {
        let mut settings = Settings::default();
        settings.set("net.ipv4.tcp_congestion_control", algorithm).unwrap();
        network.add_with(&interface(host), settings);
    }
    network
}

fn connect(network: &mut Network, port: u16) -> Flow {
    let to = SocketAddr::new(address(2), port);
    let now = network.now;
    let listening = network.stack(1).socket(now, AddressFamily::Inet, SocketType::Stream, 6).unwrap();
    network.stack(1).bind(now, listening, to).unwrap();
    network.stack(1).listen(now, listening, 4).unwrap();
    let client = network.stack(0).socket(now, AddressFamily::Inet, SocketType::Stream, 6).unwrap();
    let _ = network.stack(0).connect(now, client, to);
    let mut server = None;
    let done = network.run_until(Duration::from_secs(60), |network| {
        let now = network.now;
        server = server.or_else(|| network.stack(1).accept(now, listening).ok().map(|(socket, _)| socket));
        server.is_some()
    });
    assert!(done, "no connection, seed {}", network.seed());
    Flow { client, server: server.unwrap(), received: 0 }
}

/// Lets the flows send all they can for `time`; counts what arrives.
fn run(network: &mut Network, flows: &mut [Flow], time: Duration) {
    let piece = vec![7; 65_536];
    let end = network.now + time;
    network.run_until(time, |network| {
        let now = network.now;
        for flow in flows.iter_mut() {
            while network.stack(0).send(now, flow.client, &mut piece.as_slice(), &SendArguments::default()).is_ok() {}
            let mut sink = Collect::new(1 << 20);
            if network.stack(1).receive(now, flow.server, &mut sink, ReceiveFlags::empty()).is_ok() {
                flow.received += sink.bytes.len();
            }
        }
        network.now >= end
    });
}

/// Goodput in per mille of the link's rate.
fn goodput(algorithm: &str, loss: u32, round_trip: u64) -> u64 {
    let latency = Duration::from_micros(round_trip * 500);
    // A bandwidth-delay product of 100 ms, as routers have it.
    let link = Conditions { rate: RATE, queue: RATE / 10, latency, loss, ..Conditions::default() };
    let mut network = network(algorithm, link, 1);
    let mut flows = [connect(&mut network, 80)];
    run(&mut network, &mut flows, TIME);
    flows[0].received as u64 * 1_000 / (RATE * TIME.as_secs())
}

//= test REF T-05
#[test]
#[ignore = "takes seconds: scripts/check.sh --only simulation runs it"]
fn goodput_is_what_it_was() {
    let mut table = String::from("algorithm loss%  rtt=1  20  100  300 ms (per mille of 20 Mbit/s in 10 s)\n");
    for algorithm in ALGORITHMS {
        for loss in LOSSES {
            let cells = ROUND_TRIPS.map(|round_trip| goodput(algorithm, loss, round_trip));
            let [a, b, c, d] = cells;
            writeln!(table, "{algorithm:9} {:5.1}  {a:5} {b:5} {c:5} {d:5}", f64::from(loss) / 10_000.0).unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goodput.txt");
    if std::env::var_os("REMORA_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(path).unwrap_or_default(), "the table has changed:\n{table}");
}

#[test]
#[ignore = "takes seconds: scripts/check.sh --only simulation runs it"]
fn two_flows_share_a_bottleneck() {
    for algorithm in ALGORITHMS {
        let link =
            Conditions { rate: RATE, queue: RATE / 20, latency: Duration::from_millis(10), ..Conditions::default() };
        let mut network = network(algorithm, link, 5);
        let first = connect(&mut network, 80);
        let second = connect(&mut network, 81);
        let mut flows = [first, second];
        run(&mut network, &mut flows, Duration::from_secs(30));
        let [a, b] = [flows[0].received as f64, flows[1].received as f64];
        // Jain's index: 1 is equal, 0.5 is all for one.
        let fairness = (a + b) * (a + b) / (2.0 * (a * a + b * b));
        let used = (a + b) / (RATE * 30) as f64;
        assert!(fairness > 0.85 && used > 0.85, "{algorithm}: {a} and {b}, fairness {fairness:.3}, used {used:.3}");
    }
}
