//! The link layer: Ethernet framing, neighbours (ARP, `neighbour.rs`), and the conflict probe of our address
//! (`probe.rs`). It knows packets only by where they go. A medium without link headers has no neighbours.

pub mod neighbour;
pub mod probe;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use log::{debug, error, trace};

use self::neighbour::{Failed, Neighbours, Output, Solicit};
use self::probe::{Probe, ProbeAction};
use crate::counters::Counters;
use crate::frame::Medium;
use crate::interface::{InterfaceConfig, MacAddress};
use crate::ip::output::{Delivery, Packet};
use crate::random::Random;
use crate::settings::Settings;
use crate::time::Instant;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, EtherType};

/// What the link layer says of a packet that it is asked to send.
#[derive(Debug)]
pub enum Fate {
    /// Goes out now, to this hardware address (of no meaning without link headers).
    Send(MacAddress),
    /// Waits for the neighbour, or for the end of the conflict probe.
    Wait,
    /// Cannot go: the neighbour is not there, or the address is another's.
    Unreachable,
}

/// A packet whose neighbour has been found.
#[derive(Debug)]
pub struct Ready {
    /// The packet.
    pub packet: Packet,
    /// Where to.
    pub mac: MacAddress,
}

/// Environment of a call: time, settings, counters, randomness.
pub struct LinkContext<'a> {
    /// The time of the call.
    pub now: Instant,
    /// Tunables.
    pub settings: &'a Settings,
    /// Counters.
    pub counters: &'a mut Counters,
    /// Random numbers, for the reachable time.
    pub random: &'a mut Random,
}

/// The link layer of one interface.
#[derive(Debug, Default)]
pub struct Link {
    medium: Medium,
    mac: MacAddress,
    address: Option<Ipv4Addr>,
    neighbours: Neighbours,
    probe: Probe,
    /// ARP frames to send.
    frames: VecDeque<Vec<u8>>,
    /// Packets that may go now.
    ready: VecDeque<Ready>,
    /// Packets kept while the address is probed.
    held: VecDeque<Packet>,
    held_bytes: usize,
    /// Packets that cannot go.
    failed: VecDeque<Packet>,
    /// The probe has ended well, and nobody was told yet.
    released: bool,
}

impl Link {
    /// The device is there, or has changed. Neighbours are forgotten when the link may be another one.
    pub fn attach(&mut self, context: &mut LinkContext<'_>, interface: &InterfaceConfig) {
        let address = match interface.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let same = self.mac == interface.mac && self.address == address && self.medium == interface.capabilities.medium;
        self.medium = interface.capabilities.medium;
        self.mac = interface.mac;
        self.address = address;
        if same && self.probe.is_usable() {
            // Only capabilities or MTU changed.
            return;
        }
        self.neighbours = Neighbours::default();
        let wanted = interface.probe && self.medium == Medium::Ethernet && address.is_some();
        self.probe = Probe::new(context.now, wanted, context.settings);
        self.run_probe(context);
    }

    /// The device has gone: what waits cannot go.
    pub fn detach(&mut self) {
        self.failed.extend(self.neighbours.clear());
        self.failed.extend(self.held.drain(..));
        self.failed.extend(self.ready.drain(..).map(|ready| ready.packet));
        self.held_bytes = 0;
        self.frames.clear();
        self.probe = Probe::default();
    }

    /// Whether another station claims our address.
    #[must_use]
    pub const fn is_contested(&self) -> bool {
        self.probe.is_contested()
    }

    /// The neighbour table.
    #[must_use]
    pub const fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Whether every packet to a known neighbour goes out at once: no probe is on and nobody is being looked for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.medium == Medium::Ip || (self.probe.is_usable() && !self.neighbours.is_resolving())
    }

    /// Asks what becomes of a packet to `next_hop`. After `Wait` hand a copy to [`Link::wait`].
    pub fn fate(&mut self, context: &mut LinkContext<'_>, next_hop: IpAddr, delivery: Delivery) -> Fate {
        if self.medium == Medium::Ip {
            return Fate::Send(MacAddress::default());
        }
        if !self.probe.is_usable() {
            if self.probe.is_contested() && !self.probe.retry(context.now, context.settings) {
                return Fate::Unreachable;
            }
            self.run_probe(context);
            return Fate::Wait;
        }
        let IpAddr::V4(next_hop) = next_hop else {
            return Fate::Unreachable;
        };
        match delivery {
            Delivery::Broadcast => Fate::Send(MacAddress::BROADCAST),
            Delivery::Multicast => Fate::Send(multicast_mac(next_hop)),
            Delivery::Local | Delivery::Siblings | Delivery::Nowhere => Fate::Unreachable,
            Delivery::Neighbour => match self.neighbours.output(context, next_hop) {
                Output::Known(mac) => Fate::Send(mac),
                Output::Unknown(solicit) => {
                    if let Some(solicit) = solicit {
                        self.solicit(context, solicit);
                    }
                    Fate::Wait
                }
            },
        }
    }

    /// Queues a packet whose fate is to wait. The oldest ones go when there is no room (N-04).
    pub fn wait(&mut self, context: &mut LinkContext<'_>, packet: Packet) {
        if !self.probe.is_usable() {
            let limit = usize::try_from(context.settings.neigh_unres_qlen_bytes).unwrap_or(usize::MAX);
            self.held_bytes = self.held_bytes.saturating_add(packet.bytes.len());
            self.held.push_back(packet);
            while self.held_bytes > limit {
                let Some(oldest) = self.held.pop_front() else { break };
                self.held_bytes = self.held_bytes.saturating_sub(oldest.bytes.len());
                context.counters.neighbour_queue_drops += 1;
            }
            return;
        }
        if let IpAddr::V4(next_hop) = packet.next_hop {
            self.neighbours.enqueue(context, next_hop, packet);
        }
    }

    /// Whether packets that waited for the end of the conflict probe leave now; true once.
    pub(crate) const fn take_release(&mut self) -> bool {
        core::mem::replace(&mut self.released, false)
    }

    /// Bytes of packets that wait until our address may be used.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The next ARP frame to send.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// Queues a packet that may go now.
    pub(crate) fn push_ready(&mut self, ready: Ready) {
        self.ready.push_back(ready);
    }

    /// The next packet that has waited for its neighbour and may go.
    pub fn next_ready(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    /// The next packet whose neighbour is not there.
    pub fn next_failed(&mut self) -> Option<Packet> {
        self.failed.pop_front()
    }

    /// Appends the link header for a packet to `mac`; nothing on a medium without one.
    pub fn emit_header(&self, target: &mut Vec<u8>, mac: MacAddress, kind: EtherType) {
        if self.medium == Medium::Ethernet {
            ethernet::emit(target, mac, self.mac, kind);
        }
    }

    /// Whether a frame's destination is ours: our address, a group or everybody.
    #[must_use]
    pub fn is_for_us(&self, destination: MacAddress) -> bool {
        destination == self.mac || destination.is_group()
    }

    /// Framing of the device.
    #[must_use]
    pub const fn medium(&self) -> Medium {
        self.medium
    }

    /// The transport has proof that a neighbour is there (`neigh_confirm`).
    pub fn confirm(&mut self, now: Instant, next_hop: IpAddr) {
        if let IpAddr::V4(next_hop) = next_hop {
            self.neighbours.confirm(now, next_hop);
        }
    }

    /// An ARP packet that has arrived (`arp_process`). `to_us` says that the frame was for our hardware address.
    //= REF N-04
    pub fn handle_arp(&mut self, context: &mut LinkContext<'_>, arp: &Arp, to_us: bool) {
        let Some(ours) = self.address else { return };
        context.counters.arp_in += 1;
        trace!(target: "remora::arp", "{:?} {} at {} for {}", arp.operation, arp.sender, arp.sender_mac, arp.target);
        if arp.sender_mac != self.mac && self.is_conflict(ours, arp) {
            self.handle_conflict(context, arp);
            return;
        }
        // `arp_process`: addresses that no neighbour can have. 0.0.0.0 is a probe and is answered, not learnt.
        if arp.target.is_multicast()
            || arp.target.is_loopback()
            || arp.sender.is_multicast()
            || arp.sender.is_broadcast()
        {
            context.counters.arp_malformed += 1;
            return;
        }
        let for_us = arp.operation == Operation::Request && arp.target == ours;
        if for_us && self.probe.is_usable() {
            //= RFC 5227 §2.1.1: while we probe, the address is not ours to answer for.
            self.push_arp(context, arp.sender_mac, Operation::Reply, (ours, arp.sender_mac, arp.sender));
        }
        if arp.sender.is_unspecified() || arp.sender == ours {
            return;
        }
        let solicited = arp.operation == Operation::Reply && to_us && arp.sender != arp.target;
        // A request for us makes an entry; anything else only changes one that is there (arp_accept = 0).
        let freed = self.neighbours.learn(context, arp.sender, arp.sender_mac, solicited, for_us);
        self.ready.extend(freed.into_iter().map(|packet| Ready { packet, mac: arp.sender_mac }));
    }

    fn is_conflict(&self, ours: Ipv4Addr, arp: &Arp) -> bool {
        //= RFC 5227 §2.1.1: while probing, a probe of another station for the same address is a conflict too.
        let rival = !self.probe.is_usable()
            && arp.operation == Operation::Request
            && arp.sender.is_unspecified()
            && arp.target == ours;
        arp.sender == ours || rival
    }

    fn handle_conflict(&mut self, context: &mut LinkContext<'_>, arp: &Arp) {
        context.counters.arp_conflicts += 1;
        error!(target: "remora::arp", "address {} is also used by {}", arp.sender, arp.sender_mac);
        match self.probe.conflict(context.now) {
            ProbeAction::GiveUp => {
                self.failed.extend(self.held.drain(..));
                self.held_bytes = 0;
            }
            ProbeAction::Announce => self.announce(context),
            ProbeAction::Probe | ProbeAction::Nothing => {}
        }
    }

    /// When to probe, ask again or give up on a neighbour.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.neighbours.next_timeout(), self.probe.next_timeout()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, context: &mut LinkContext<'_>) {
        self.run_probe(context);
        let (solicits, failed) = self.neighbours.handle_timeout(context);
        for solicit in solicits {
            self.solicit(context, solicit);
        }
        for Failed { address, packets } in failed {
            debug!(target: "remora::arp", "{address}: no answer, {} packets given up", packets.len());
            self.failed.extend(packets);
        }
    }

    fn run_probe(&mut self, context: &mut LinkContext<'_>) {
        // Bounded: each turn moves the probe's deadline into the future or ends it.
        loop {
            match self.probe.advance(context.now, context.settings) {
                ProbeAction::Probe => {
                    if let Some(ours) = self.address {
                        let probe = (Ipv4Addr::UNSPECIFIED, MacAddress::default(), ours);
                        self.push_arp(context, MacAddress::BROADCAST, Operation::Request, probe);
                    }
                }
                ProbeAction::Announce => {
                    self.announce(context);
                    self.release_held(context);
                    self.released = true;
                }
                ProbeAction::Nothing | ProbeAction::GiveUp => return,
            }
        }
    }

    /// Gratuitous ARP (RFC 5227 §2.3).
    fn announce(&mut self, context: &mut LinkContext<'_>) {
        if let Some(ours) = self.address {
            let announcement = (ours, MacAddress::default(), ours);
            self.push_arp(context, MacAddress::BROADCAST, Operation::Request, announcement);
        }
    }

    fn release_held(&mut self, context: &mut LinkContext<'_>) {
        self.held_bytes = 0;
        for packet in core::mem::take(&mut self.held) {
            match self.fate(context, packet.next_hop, packet.delivery) {
                Fate::Send(mac) => self.ready.push_back(Ready { packet, mac }),
                Fate::Wait => self.wait(context, packet),
                Fate::Unreachable => self.failed.push_back(packet),
            }
        }
    }

    fn solicit(&mut self, context: &mut LinkContext<'_>, solicit: Solicit) {
        if let Some(ours) = self.address {
            let to = solicit.unicast.unwrap_or(MacAddress::BROADCAST);
            self.push_arp(context, to, Operation::Request, (ours, MacAddress::default(), solicit.address));
        }
    }

    fn push_arp(
        &mut self,
        context: &mut LinkContext<'_>,
        to: MacAddress,
        operation: Operation,
        fields: (Ipv4Addr, MacAddress, Ipv4Addr),
    ) {
        let (sender, target_mac, target) = fields;
        let mut frame = Vec::with_capacity(ethernet::HEADER_LENGTH + crate::wire::arp::LENGTH);
        ethernet::emit(&mut frame, to, self.mac, EtherType::Arp);
        Arp { operation, sender_mac: self.mac, sender, target_mac, target }.emit(&mut frame);
        context.counters.arp_out += 1;
        trace!(target: "remora::arp", "send {operation:?} {sender} for {target} to {to}");
        self.frames.push_back(frame);
    }
}

/// The group hardware address of an IPv4 group (RFC 1112 §6.4).
#[must_use]
pub const fn multicast_mac(group: Ipv4Addr) -> MacAddress {
    let [_, b, c, d] = group.octets();
    MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d])
}
