//! Groups of the interface and how routers hear of them: IGMPv3 (RFC 3376, host side), and versions 2 (RFC 2236) and 1
//! while an older querier is there (`net/ipv4/igmp.c`). Which socket hears which datagram is the transports' business.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::output::{Delivery, Packet};
use crate::frame::Purpose;
use crate::random::Random;
use crate::socket::protocol::Net;
use crate::time::Instant;
use crate::wire::{checksum, write_u16};

/// IP protocol number.
pub const PROTOCOL: u8 = 2;
const QUERY: u8 = 0x11;
const REPORT_V1: u8 = 0x12;
const REPORT_V2: u8 = 0x16;
const LEAVE: u8 = 0x17;
const REPORT_V3: u8 = 0x22;
//= RFC 1122 §3.3.7 (SHLD-34)
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// RFC 3376 §4.2.14: where reports of version 3 go.
const ALL_V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
/// RFC 3376 §8.1: how often a change is reported.
const ROBUSTNESS: u8 = 2;
/// RFC 3376 §8.11: between reports of a change.
const UNSOLICITED_V3: Duration = Duration::from_secs(1);
/// RFC 2236 §8.10: the same of version 2.
const UNSOLICITED_V2: Duration = Duration::from_secs(10);
/// RFC 3376 §8.12: robustness times the query interval of 125 s and a response interval.
const OLDER_QUERIER: Duration = Duration::from_secs(260);
/// RFC 2236 §4: what a query of version 1 means.
const RESPONSE_V1: Duration = Duration::from_secs(10);
/// Most sources in one record, so that a report of one group always fits any link.
const MOST_SOURCES: usize = 128;

/// Which sources of a group are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFilter {
    /// INCLUDE: only these; else EXCLUDE: all but these.
    pub include: bool,
    /// The sources, in order.
    pub sources: Vec<Ipv4Addr>,
}

impl SourceFilter {
    /// Every source.
    pub const ALL: Self = Self { include: false, sources: Vec::new() };

    /// Whether datagrams of this source pass.
    #[must_use]
    pub fn passes(&self, source: Ipv4Addr) -> bool {
        self.sources.contains(&source) == self.include
    }

    /// What an interface wants whose sockets want these (RFC 3376 §3.2).
    fn merged(filters: &[Self]) -> Self {
        let mut included: Vec<Ipv4Addr> =
            filters.iter().filter(|filter| filter.include).flat_map(|filter| filter.sources.iter().copied()).collect();
        included.sort_unstable();
        included.dedup();
        let mut excluding = filters.iter().filter(|filter| !filter.include);
        let Some(first) = excluding.next() else { return Self { include: true, sources: included } };
        let mut sources = first.sources.clone();
        for filter in excluding {
            sources.retain(|source| filter.sources.contains(source));
        }
        sources.retain(|source| !included.contains(source));
        sources.sort_unstable();
        Self { include: false, sources }
    }
}

/// One group record of a report of version 3.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    kind: u8,
    group: Ipv4Addr,
    sources: Vec<Ipv4Addr>,
}

/// RFC 3376 §4.2.12.
const IS_INCLUDE: u8 = 1;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;
const ALLOW: u8 = 5;
const BLOCK: u8 = 6;

/// The groups of the interface.
#[derive(Debug, Default)]
pub struct Groups {
    members: BTreeMap<Ipv4Addr, Vec<SourceFilter>>,
    /// Changes to report, and how often still.
    changes: Vec<(Record, u8)>,
    change_at: Option<Instant>,
    /// When to answer a query about everything.
    general_at: Option<Instant>,
    /// When to report a group: a query about it, or the second report of a join.
    report_at: BTreeMap<Ipv4Addr, Instant>,
    /// Groups that we were the last to report (RFC 2236 §3): leaving is told.
    reported: Vec<Ipv4Addr>,
    v1_until: Option<Instant>,
    v2_until: Option<Instant>,
}

impl Groups {
    /// Whether anybody here wants datagrams of the group from this source; every host is in 224.0.0.1 (RFC 1112 §4).
    #[must_use]
    pub fn wants(&self, group: Ipv4Addr, source: Option<Ipv4Addr>) -> bool {
        //= RFC 1122 §3.3.7 (SHLD-35)
        group == ALL_HOSTS
            || self
                .members
                .get(&group)
                .is_some_and(|filters| source.is_none_or(|source| filters.iter().any(|filter| filter.passes(source))))
    }

    fn version(&self, now: Instant) -> u8 {
        match (self.v1_until, self.v2_until) {
            (Some(until), _) if now < until => 1,
            (_, Some(until)) if now < until => 2,
            _ => 3,
        }
    }

    /// When `handle_timeout` is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.change_at, self.general_at, self.report_at.values().min().copied()].into_iter().flatten().min()
    }
}

fn within(random: &mut Random, span: Duration) -> Duration {
    let most = u32::try_from(span.as_millis()).unwrap_or(u32::MAX).max(1);
    Duration::from_millis(u64::from(random.below(most)) + 1)
}

/// A socket's wish for a group changes: from none to some, from some to other, or to none (`ip_mc_join_group`,
/// `ip_mc_add_src`, `ip_mc_leave_group`).
//= REF D-03
pub(crate) fn change(net: &mut Net<'_>, group: IpAddr, before: Option<&SourceFilter>, after: Option<&SourceFilter>) {
    let IpAddr::V4(group) = group else { return };
    let groups = &mut net.ip.groups;
    let filters = groups.members.entry(group).or_default();
    let (was_member, old) = (!filters.is_empty(), SourceFilter::merged(filters));
    if let Some(before) = before
        && let Some(place) = filters.iter().position(|filter| filter == before)
    {
        filters.swap_remove(place);
    }
    filters.extend(after.cloned());
    let (is_member, new) = (!filters.is_empty(), SourceFilter::merged(filters));
    if !is_member {
        groups.members.remove(&group);
        groups.report_at.remove(&group);
    }
    if group == ALL_HOSTS {
        return;
    }
    if groups.version(net.now) < 3 {
        if is_member && !was_member {
            send_report(net, group);
            let again = net.now + within(net.random, UNSOLICITED_V2);
            net.ip.groups.report_at.insert(group, again);
        } else if was_member && !is_member {
            leave(net, group);
        }
        return;
    }
    for record in difference(group, &old, &new) {
        groups.changes.retain(|(queued, _)| queued.group != group || queued.kind == ALLOW || queued.kind == BLOCK);
        groups.changes.push((record, ROBUSTNESS));
    }
    if !groups.changes.is_empty() {
        send_changes(net);
    }
}

/// The records that tell a change (RFC 3376 §5.1).
fn difference(group: Ipv4Addr, old: &SourceFilter, new: &SourceFilter) -> Vec<Record> {
    let record = |kind, sources: Vec<Ipv4Addr>| Record { kind, group, sources };
    if old.include != new.include {
        let kind = if new.include { TO_INCLUDE } else { TO_EXCLUDE };
        return alloc::vec![record(kind, new.sources.clone())];
    }
    let only = |one: &SourceFilter, other: &SourceFilter| -> Vec<Ipv4Addr> {
        one.sources.iter().copied().filter(|source| !other.sources.contains(source)).collect()
    };
    let (added, gone) = (only(new, old), only(old, new));
    let (added, gone) = if new.include { (added, gone) } else { (gone, added) };
    let mut records = Vec::new();
    if !added.is_empty() {
        records.push(record(ALLOW, added));
    }
    if !gone.is_empty() {
        records.push(record(BLOCK, gone));
    }
    records
}

/// Sends what waits of changes; again soon, as often as robustness asks for.
fn send_changes(net: &mut Net<'_>) {
    let groups = &mut net.ip.groups;
    let records: Vec<Record> = groups.changes.iter().map(|(record, _)| record.clone()).collect();
    groups.changes.retain_mut(|(_, left)| {
        *left = left.saturating_sub(1);
        *left > 0
    });
    groups.change_at =
        if groups.changes.is_empty() { None } else { Some(net.now + within(net.random, UNSOLICITED_V3)) };
    send_records(net, &records);
}

fn send_records(net: &mut Net<'_>, records: &[Record]) {
    // Forty records without sources fit any link; those with sources go alone.
    for part in records.chunk_by(|one, other| one.sources.is_empty() && other.sources.is_empty()) {
        for part in part.chunks(40) {
            let mut message = alloc::vec![REPORT_V3, 0, 0, 0, 0, 0];
            message.extend_from_slice(&u16::try_from(part.len()).unwrap_or(0).to_be_bytes());
            for record in part {
                let sources = record.sources.get(..MOST_SOURCES).unwrap_or(&record.sources);
                message.extend_from_slice(&[record.kind, 0]);
                message.extend_from_slice(&u16::try_from(sources.len()).unwrap_or(0).to_be_bytes());
                message.extend_from_slice(&record.group.octets());
                for source in sources {
                    message.extend_from_slice(&source.octets());
                }
            }
            send(net, ALL_V3_ROUTERS, message);
        }
    }
}

/// Reports one group in the version that is spoken.
fn send_report(net: &mut Net<'_>, group: Ipv4Addr) {
    let groups = &mut net.ip.groups;
    let Some(filters) = groups.members.get(&group) else { return };
    let filter = SourceFilter::merged(filters);
    let kind = match groups.version(net.now) {
        1 => REPORT_V1,
        2 => REPORT_V2,
        _ => {
            let kind = if filter.include { IS_INCLUDE } else { IS_EXCLUDE };
            send_records(net, &[Record { kind, group, sources: filter.sources }]);
            return;
        }
    };
    if !groups.reported.contains(&group) {
        groups.reported.push(group);
    }
    let mut message = alloc::vec![kind, 0, 0, 0];
    message.extend_from_slice(&group.octets());
    send(net, group, message);
}

/// RFC 2236 §3: who reported the group last tells that it leaves; version 1 has no word for it.
fn leave(net: &mut Net<'_>, group: Ipv4Addr) {
    let groups = &mut net.ip.groups;
    let ours = groups.reported.iter().position(|reported| *reported == group);
    if let Some(place) = ours {
        groups.reported.swap_remove(place);
        if groups.version(net.now) == 2 {
            let mut message = alloc::vec![LEAVE, 0, 0, 0];
            message.extend_from_slice(&group.octets());
            send(net, ALL_ROUTERS, message);
        }
    }
}

/// Sends a message with what all of IGMP has in its IP header: TTL 1, precedence, the router alert option (RFC 2113).
fn send(net: &mut Net<'_>, to: Ipv4Addr, mut message: Vec<u8>) {
    let Some(IpAddr::V4(source)) = net.ip.interface().map(|interface| interface.address) else { return };
    if !net.ip.is_up() {
        return;
    }
    let sum = checksum::of(&message);
    write_u16(&mut message, 2, sum);
    let total = u16::try_from(24 + message.len()).unwrap_or(u16::MAX);
    let id = net.ip.next_id(net.random, (source.into(), to.into(), PROTOCOL), 1);
    let mut bytes = Vec::with_capacity(24 + message.len());
    bytes.extend_from_slice(&[0x46, 0xc0]);
    bytes.extend_from_slice(&total.to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&[0x40, 0, 1, PROTOCOL, 0, 0]);
    bytes.extend_from_slice(&source.octets());
    bytes.extend_from_slice(&to.octets());
    bytes.extend_from_slice(&[0x94, 4, 0, 0]);
    let sum = checksum::of(&bytes);
    write_u16(&mut bytes, 10, sum);
    bytes.extend_from_slice(&message);
    net.counters.ip_out_requests += 1;
    net.ip.enqueue(Packet {
        bytes,
        next_hop: to.into(),
        delivery: Delivery::Multicast,
        purpose: Purpose::Own,
        checksum: None,
        gso_size: 0,
        segment: false,
        timed: None,
    });
}

/// One IGMP message (`igmp_rcv`).
//= RFC 1122 §3.3.7 (MAY-26)
pub(crate) fn receive(net: &mut Net<'_>, message: &[u8]) {
    if message.len() < 8 || checksum::of(message) != 0 {
        net.counters.ip_in_discards += 1;
        return;
    }
    let group = message.get(4..8).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map_or(ALL_HOSTS, Ipv4Addr::from);
    match message.first() {
        Some(&QUERY) => answer(net, message, group),
        // RFC 2236 §3: another member has said it.
        Some(&(REPORT_V1 | REPORT_V2)) => {
            net.ip.groups.report_at.remove(&group);
            net.ip.groups.reported.retain(|reported| *reported != group);
        }
        _ => {}
    }
}

/// A querier asks (`igmp_heard_query`).
fn answer(net: &mut Net<'_>, message: &[u8], group: Ipv4Addr) {
    let code = message.get(1).copied().unwrap_or(0);
    let tenths = |tenths: u32| Duration::from_millis(u64::from(tenths) * 100);
    let longest = if message.len() == 8 && code == 0 {
        net.ip.groups.v1_until = Some(net.now + OLDER_QUERIER);
        RESPONSE_V1
    } else if message.len() == 8 {
        net.ip.groups.v2_until = Some(net.now + OLDER_QUERIER);
        tenths(u32::from(code))
    } else if code < 128 {
        tenths(u32::from(code))
    } else {
        //= RFC 3376 §4.1.1: a mantissa and an exponent.
        tenths((u32::from(code & 0xf) | 0x10) << (u32::from((code >> 4) & 7) + 3))
    };
    let groups = &mut net.ip.groups;
    if groups.version(net.now) < 3 {
        // RFC 3376 §7.2.1: what waits in the newer form is forgotten.
        groups.changes.clear();
        groups.change_at = None;
        groups.general_at = None;
    }
    let at = net.now + within(net.random, longest);
    if group.is_unspecified() && groups.version(net.now) == 3 {
        groups.general_at = Some(groups.general_at.map_or(at, |before| before.min(at)));
        return;
    }
    let asked: Vec<Ipv4Addr> =
        groups.members.keys().copied().filter(|member| group.is_unspecified() || *member == group).collect();
    for member in asked.into_iter().filter(|member| *member != ALL_HOSTS) {
        let at = net.now + within(net.random, longest);
        let place = net.ip.groups.report_at.entry(member).or_insert(at);
        *place = (*place).min(at);
    }
}

/// Sends the reports that are due.
pub(crate) fn handle_timeout(net: &mut Net<'_>) {
    let now = net.now;
    let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
    if due(net.ip.groups.change_at) {
        send_changes(net);
    }
    if due(net.ip.groups.general_at) {
        net.ip.groups.general_at = None;
        let records: Vec<Record> = net
            .ip
            .groups
            .members
            .iter()
            .filter(|(group, _)| **group != ALL_HOSTS)
            .map(|(group, filters)| {
                let filter = SourceFilter::merged(filters);
                Record {
                    kind: if filter.include { IS_INCLUDE } else { IS_EXCLUDE },
                    group: *group,
                    sources: filter.sources,
                }
            })
            .collect();
        send_records(net, &records);
    }
    let groups: Vec<Ipv4Addr> =
        net.ip.groups.report_at.iter().filter(|(_, at)| **at <= now).map(|(group, _)| *group).collect();
    for group in groups {
        net.ip.groups.report_at.remove(&group);
        send_report(net, group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: bool, sources: &[u8]) -> SourceFilter {
        SourceFilter { include, sources: sources.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last)).collect() }
    }

    #[test]
    //= test REF D-03
    fn an_interface_wants_what_any_of_its_sockets_wants() {
        assert_eq!(SourceFilter::merged(&[]), filter(true, &[]));
        assert_eq!(SourceFilter::merged(&[filter(true, &[2, 1]), filter(true, &[2])]), filter(true, &[1, 2]));
        assert_eq!(SourceFilter::merged(&[filter(false, &[1, 2, 3]), filter(false, &[2, 3])]), filter(false, &[2, 3]));
        assert_eq!(SourceFilter::merged(&[filter(false, &[1, 2]), filter(true, &[1])]), filter(false, &[2]));
    }

    //= test RFC 1122 §3.3.7 (MAY-26)
    #[test]
    //= test REF D-03
    fn a_change_is_told_as_a_new_mode_or_as_sources_more_and_less() {
        let group = Ipv4Addr::new(239, 1, 1, 1);
        let kinds = |old: &SourceFilter, new: &SourceFilter| -> Vec<(u8, usize)> {
            difference(group, old, new).iter().map(|record| (record.kind, record.sources.len())).collect()
        };
        assert_eq!(kinds(&filter(true, &[]), &SourceFilter::ALL), [(TO_EXCLUDE, 0)]);
        assert_eq!(kinds(&SourceFilter::ALL, &filter(true, &[])), [(TO_INCLUDE, 0)]);
        assert_eq!(kinds(&filter(true, &[1]), &filter(true, &[2, 3])), [(ALLOW, 2), (BLOCK, 1)]);
        assert_eq!(kinds(&filter(false, &[1]), &filter(false, &[])), [(ALLOW, 1)]);
        assert_eq!(kinds(&filter(false, &[1]), &filter(false, &[1])), []);
    }
}
