//! A client over smoltcp and its raw socket, as a peer of remora in bench.sh's table: `send`, `receive`, `roundtrip` and
//! `connect` of ours.c, with the same other end (peer.c) and the same figures on standard output.
//!
//! `bench-smoltcp MODE INTERFACE MAC ADDRESS PEER PORT SECONDS`; it sleeps in select(2) whenever there is nothing to do.

use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Medium, RawSocket, wait};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};

/// What a socket holds each way: more than the veth pair has in flight.
const BUFFER: usize = 1 << 20;
/// Of a call, as BULK_BYTES in common.h.
const BULK: usize = 128 * 1024;
/// Servers' ports that connections take in turn, as CONNECT_PORTS in common.h.
const PORTS: u32 = 16;
/// A run whose peer is gone ends all the same.
const PATIENCE: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error>;

struct Client {
    interface: Interface,
    device: RawSocket,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    peer: (Ipv4Address, u16),
    next_port: u16,
}

impl Client {
    fn new(name: &str, mac: &str, address: &str, peer: (Ipv4Address, u16)) -> Result<Self, Failure> {
        let mut device = RawSocket::new(name, Medium::Ethernet)?;
        let mac = EthernetAddress::from_str(mac).map_err(|()| "the MAC address")?;
        let config = Config::new(HardwareAddress::Ethernet(mac));
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::now());
        let cidr = IpCidr::from_str(address).map_err(|()| "the address")?;
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(cidr);
        });
        let room = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(tcp::Socket::new(room(), room()));
        Ok(Self { interface, device, sockets, handle, peer, next_port: 0 })
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Moves frames until `done` gives something, asleep while there are none.
    fn until<R>(&mut self, mut done: impl FnMut(&mut tcp::Socket<'static>) -> Option<R>) -> Result<R, Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = smoltcp::time::Instant::now();
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            if let Some(result) = done(self.sockets.get_mut(self.handle)) {
                // What that has made ready to send goes out now.
                self.interface.poll(now, &mut self.device, &mut self.sockets);
                return Ok(result);
            }
            if Instant::now() > end {
                return Err("the peer is silent".into());
            }
            let most = smoltcp::time::Duration::from_millis(100);
            let delay = self.interface.poll_delay(now, &self.sockets).map_or(most, |delay| delay.min(most));
            wait(self.device.as_raw_fd(), Some(delay))?;
        }
    }

    fn connect(&mut self, offset: u16) -> Result<(), Failure> {
        self.next_port = (self.next_port + 1) % 16_000;
        let local = 40_000 + self.next_port;
        let to = (self.peer.0, self.peer.1 + offset);
        let Self { interface, sockets, handle, .. } = self;
        sockets.get_mut::<tcp::Socket<'_>>(*handle).connect(interface.context(), to, local)?;
        self.socket().set_nagle_enabled(false);
        self.until(|socket| if socket.may_send() { Some(true) } else { (!socket.is_open()).then_some(false) })?
            .then_some(())
            .ok_or_else(|| "refused".into())
    }

    fn send(&mut self, data: &[u8]) -> Result<(), Failure> {
        let mut rest = data;
        self.until(|socket| {
            let count = socket.send_slice(rest).unwrap_or(0);
            rest = &rest[count..];
            rest.is_empty().then_some(())
        })
    }

    fn receive(&mut self, data: &mut [u8]) -> Result<(), Failure> {
        let mut filled = 0;
        self.until(|socket| {
            while let Ok(count @ 1..) = socket.recv_slice(&mut data[filled..]) {
                filled += count;
            }
            (filled == data.len()).then_some(())
        })
    }
}

fn figure(name: &str, value: f64) {
    println!("{name} {value}");
}

fn send(client: &mut Client, span: Duration) -> Result<(), Failure> {
    client.connect(0)?;
    let (data, start, mut total) = (vec![b'b'; BULK], Instant::now(), 0u64);
    while start.elapsed() < span {
        client.send(&data)?;
        total += data.len() as u64;
    }
    client.socket().close();
    let mut arrived = [0; 8];
    client.receive(&mut arrived)?;
    if u64::from_ne_bytes(arrived) != total {
        return Err("the peer got something else".into());
    }
    figure("bytes_per_second", total as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn receive(client: &mut Client, span: Duration) -> Result<(), Failure> {
    client.connect(0)?;
    let (mut data, start, mut total) = (vec![0; BULK], Instant::now(), 0);
    while start.elapsed() < span {
        total += client.until(|socket| socket.recv_slice(&mut data).ok().filter(|count| *count > 0))?;
    }
    figure("bytes_per_second", total as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn round_trips(client: &mut Client, span: Duration) -> Result<(), Failure> {
    client.connect(0)?;
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed() < span {
        let before = Instant::now();
        client.send(b"b")?;
        client.receive(&mut [0])?;
        samples.push(before.elapsed().as_secs_f64() * 1e6);
    }
    samples.sort_by(f64::total_cmp);
    for (name, part) in [("p50", 0.50), ("p99", 0.99)] {
        figure(name, samples[((samples.len() - 1) as f64 * part) as usize]);
    }
    figure("mean", samples.iter().sum::<f64>() / samples.len() as f64);
    Ok(())
}

/// Its TIME-WAIT would keep the one socket: a connection is over for us when the peer has closed too.
fn connections(client: &mut Client, span: Duration) -> Result<(), Failure> {
    let (start, mut count) = (Instant::now(), 0u32);
    while start.elapsed() < span {
        client.connect((count % PORTS) as u16)?;
        client.send(b"x")?;
        client.receive(&mut [0])?;
        client.socket().close();
        client.until(|socket| (!socket.may_recv()).then_some(()))?;
        client.socket().abort();
        client.until(|socket| (!socket.is_open()).then_some(()))?;
        count += 1;
    }
    figure("per_second", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().collect();
    let [_, mode, name, mac, address, peer, port, seconds] = words.as_slice() else {
        return Err("usage: bench-smoltcp MODE INTERFACE MAC ADDRESS/PREFIX PEER PORT SECONDS".into());
    };
    let mut client = Client::new(name, mac, address, (peer.parse()?, port.parse()?))?;
    let span = Duration::from_secs_f64(seconds.parse()?);
    match mode.as_str() {
        "send" => send(&mut client, span),
        "receive" => receive(&mut client, span),
        "roundtrip" => round_trips(&mut client, span),
        "connect" => connections(&mut client, span),
        _ => Err("no such mode".into()),
    }
}
