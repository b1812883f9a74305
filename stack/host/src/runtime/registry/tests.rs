//! What families do to each other by their claims, without a stack.

use super::blocks::{BLOCK, LEFT_ALONE};
use super::names::Term;
use super::share::{GROUP_BELIEVED, Terms};
use super::*;
use crate::device::Ports;
use remora_stack::frame::Purpose;
use remora_stack::wire::flow::Flow;
use std::net::Ipv4Addr;
use std::net::SocketAddrV4;

const HERE: SlotId = SlotId::KEEPER;

fn registry(test: &str) -> Registry {
    let mut registry = Registry::new((32_768, 60_999));
    registry.locate(&format!("{test}-{}", call::getpid()), IpAddr::V4(Ipv4Addr::new(10, 99, 1, 1)));
    registry
}

fn port(port: u16) -> PortKey {
    PortKey { protocol: libc::IPPROTO_TCP as u8, port }
}

#[test]
fn claims_survive_the_channel_as_words() {
    let udp = PortKey { protocol: libc::IPPROTO_UDP as u8, port: 65_535 };
    let lingering = [false, true].map(|reusable| Claim::Lingering { key: port(60_999), reusable });
    let terms = [Term::Reuse, Term::Share(u32::MAX), Term::Listens].map(|term| Claim::Term(udp, 15, term));
    let all = [Claim::Answerer, Claim::Block(953), Claim::Mark(953, 7), Claim::Port(port(80), 0), Claim::Port(udp, 15)];
    let all = all.into_iter().chain(lingering).chain(terms);
    for claim in all {
        assert_eq!(Claim::unpack(claim.pack()), claim);
    }
}

#[test]
fn names_of_another_layout_at_the_same_place_are_seen() {
    let place = names::place("eth0", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    let line = |name: &str| format!("0000000000000000: 00000002 00000000 00000000 0002 01 31234 {name}\n");
    let seen = |name: &str| names::has_another_layout(line(name).as_bytes(), &place);
    assert!(!seen(&Claim::Block(512).name(&format!("@remora/eth0/10.0.0.1/{LAYOUT}"))));
    assert!(seen(&format!("@remora/eth0/10.0.0.1/{}/anything", LAYOUT + 1)));
    assert!(seen("@remora/eth0/10.0.0.1/block/512"), "before there were layouts");
    for elsewhere in ["@remora/eth1/10.0.0.1/9/x", "@remora/eth0/10.0.0.10/9/x", "/run/socket", "", "@remora/k/1"] {
        assert!(!seen(elsewhere), "{elsewhere}");
    }

    let mut ours = registry("layouts");
    assert_eq!(ours.claim(Claim::Answerer, HERE), Ok(()));
    assert!(!ours.meets_another_layout());
    let own = ours.prefix.clone().unwrap();
    let other = own.strip_suffix(&LAYOUT.to_string()).map(|place| format!("{place}{}", LAYOUT + 1)).unwrap();
    let name = take_name(&Claim::Answerer.name(&other)).unwrap();
    assert!(ours.meets_another_layout());
    ours.leave(HERE);
    let name_again = take_name(&Claim::Answerer.name(&own)).unwrap();
    for fd in [name, name_again] {
        call::close(fd).unwrap();
    }
    assert!(!ours.meets_another_layout());
}

#[test]
fn port_of_one_family_is_taken_for_another_until_it_is_given_up() {
    let (mut one, mut other) = (registry("ports"), registry("ports"));
    let claim = Claim::Port(port(80), 0);
    assert_eq!(one.claim(claim, HERE), Ok(()));
    // A second bound socket of the same family (SO_REUSEPORT) uses the claim once more.
    assert_eq!(one.claim(claim, HERE), Ok(()));
    assert_eq!(other.claim(claim, HERE), Err(ClaimError::Taken));
    let udp = PortKey { protocol: libc::IPPROTO_UDP as u8, port: 80 };
    assert_eq!(other.claim(Claim::Port(udp, 0), HERE), Ok(()));
    one.drop_claim(claim, HERE);
    assert_eq!(other.claim(claim, HERE), Err(ClaimError::Taken));
    one.drop_claim(claim, HERE);
    assert_eq!(other.claim(claim, HERE), Ok(()));
}

#[test]
fn families_choose_from_different_blocks_within_the_range() {
    let (mut one, mut other) = (registry("blocks"), registry("blocks"));
    for registry in [&mut one, &mut other] {
        for _ in 0..3 {
            assert_eq!(registry.claim_blocks(1, u32::MAX - 1, HERE), Ok(()));
        }
    }
    assert_eq!((one.block_count(), other.block_count()), (3, 3));
    let (first, second) = (one.ranges(), other.ranges());
    assert!(first.iter().all(|range| !second.contains(range)));
    let inside = |(low, high): &(u16, u16)| *low >= 32_768 && *high <= 60_999 && low <= high;
    assert!(first.iter().chain(&second).all(inside), "{first:?} {second:?}");
}

#[test]
fn blocks_taken_at_once_are_one_range() {
    let mut registry = registry("growth");
    assert_eq!(registry.claim_blocks(1, 5, HERE), Ok(()));
    assert_eq!(registry.claim_blocks(4, 100, HERE), Ok(()));
    let block = |number: u16| 32_768 + number * BLOCK;
    assert_eq!(registry.ranges(), [(block(5), block(6) - 1), (block(100), block(104) - 1)]);
    // What is left of the range, though it is less than was asked for.
    assert_eq!(registry.claim_blocks(1_000, 0, HERE), Ok(()));
    assert_eq!(registry.claim_blocks(1, 0, HERE), Err(ClaimError::Taken));
    assert_eq!(registry.block_count(), usize::from(registry.blocks().1));
}

#[test]
fn only_the_answerer_answers_and_never_for_a_port_of_another() {
    let (mut one, mut other) = (registry("answers"), registry("answers"));
    let now = Instant::from_millis(1);
    let closed = |port| Purpose::ClosedPort { protocol: libc::IPPROTO_TCP as u8, port };
    assert!(one.permits(Purpose::Address, HERE, now));
    assert!(!other.permits(Purpose::Address, HERE, now));
    assert!(!other.permits(closed(9), HERE, now));
    assert!(other.permits(Purpose::Own, HERE, now) && other.permits(Purpose::Neighbour, HERE, now));
    assert_eq!(other.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    assert_eq!(other.claim(Claim::Block(800), HERE), Ok(()));
    assert!(one.permits(closed(9), HERE, now));
    assert!(!one.permits(closed(80), HERE, now) && !one.permits(closed(800 * BLOCK + 7), HERE, now));
    // That a port was free is not believed any longer than it is asked for.
    assert!(one.permits(closed(81), HERE, now));
    assert_eq!(other.claim(Claim::Port(port(81), 0), HERE), Ok(()));
    assert!(!one.permits(closed(81), HERE, now) && other.permits(closed(81), HERE, now));
    other.drop_claim(Claim::Port(port(81), 0), HERE);
    assert!(one.permits(closed(81), HERE, now + BELIEVED));
    // The answerer goes: another becomes it, but does not look more than once a second.
    one.drop_claim(Claim::Answerer, HERE);
    assert!(!other.permits(Purpose::Address, HERE, now + Duration::from_millis(999)));
    assert!(other.permits(Purpose::Address, HERE, now + ANSWERER_RETRY));
}

#[test]
fn families_that_linger_on_one_port_both_hear_it_and_one_refuses_it() {
    let (mut one, mut other) = (registry("linger"), registry("linger"));
    let now = Instant::from_millis(1);
    for registry in [&mut one, &mut other] {
        assert_eq!(registry.claim_blocks(1, 0, HERE), Ok(()));
        registry.linger(port(80), true, HERE);
        let Some(Ports::Only { singles, others, .. }) = registry.take_ports(false) else { panic!("ports") };
        assert_eq!((singles, others), (vec![(6, 80)], false));
        assert_eq!(registry.take_ports(false), None, "nothing has changed");
    }
    let closed = Purpose::ClosedPort { protocol: libc::IPPROTO_TCP as u8, port: 80 };
    assert!(one.permits(closed, HERE, now) && !other.permits(closed, HERE, now));
    // A third one listens there again: what it has no connection for may belong to one that lingers.
    let mut third = registry("linger");
    assert_eq!(third.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    assert!(!one.permits(closed, HERE, now) && !third.permits(closed, HERE, now));
    other.drop_lingering(port(80), HERE);
    assert_eq!((other.lingering().count(), one.lingering().count()), (0, 1));
}

#[test]
fn filter_follows_the_claims() {
    let mut registry = registry("filter");
    assert_eq!(registry.take_ports(false), None);
    assert!(registry.try_to_answer(HERE, Instant::ZERO));
    // No block: the names have failed.
    assert_eq!(registry.take_ports(false), Some(Ports::All));
    for block in [800, 801, 803] {
        assert_eq!(registry.claim(Claim::Block(block), HERE), Ok(()));
    }
    assert_eq!(registry.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    assert_eq!(registry.claim(Claim::Port(port(801 * BLOCK), 0), HERE), Ok(()));
    let ranges = vec![(800 * BLOCK, 802 * BLOCK - 1), (803 * BLOCK, 804 * BLOCK - 1)];
    let ports = Ports::Only { ranges, singles: vec![(6, 80)], others: true };
    assert_eq!(registry.take_ports(false), Some(ports));
    registry.filter_again();
    assert_eq!(registry.take_ports(true), Some(Ports::All), "raw sockets hear all");
}

#[test]
fn port_given_up_and_taken_again_before_the_keeper_closed_it_passes_the_filter() {
    let mut registry = registry("again");
    assert_eq!(registry.claim(Claim::Block(800), HERE), Ok(()));
    assert_eq!(registry.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    let singles = |registry: &mut Registry| match registry.take_ports(false) {
        Some(Ports::Only { singles, .. }) => Some(singles),
        _ => None,
    };
    assert_eq!(singles(&mut registry), Some(vec![(6, 80)]));
    let descriptors: Vec<_> = std::iter::from_fn(|| registry.take_over(HERE)).collect();
    assert!(registry.drop_claim(Claim::Port(port(80), 0), HERE), "the keeper is to close it");
    assert_eq!(singles(&mut registry), Some(vec![]));
    assert_eq!(registry.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    assert_eq!(singles(&mut registry), Some(vec![(6, 80)]));
    assert!(!registry.may_close(Claim::Port(port(80), 0)));
    for (_, fd) in descriptors {
        let _ = call::close(fd);
    }
}

#[test]
fn names_of_a_dead_keeper_are_taken_again() {
    let mut one = registry("reclaim");
    assert_eq!(one.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    assert_eq!(one.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    let Some((claim, fd)) = one.take_over(HERE) else { panic!("a claim") };
    let _ = call::close(fd);
    one.reclaim(HERE);
    assert_eq!(registry("reclaim").claim(claim, HERE), Err(ClaimError::Taken));
    one.drop_claim(claim, HERE);
    assert!(one.has_name(claim));
    one.drop_claim(claim, HERE);
    assert_eq!(registry("reclaim").claim(claim, HERE), Ok(()));
}

#[test]
fn family_on_a_link_of_its_own_needs_no_names() {
    let mut registry = Registry::new((32_768, 60_999));
    assert!(registry.is_private() && registry.permits(Purpose::Address, HERE, Instant::ZERO));
    assert_eq!(registry.claim(Claim::Port(port(80), 0), HERE), Ok(()));
    assert!(registry.in_process(HERE).next().is_none());
}

const UDP: PortKey = PortKey { protocol: libc::IPPROTO_UDP as u8, port: 53 };
const ALONE: Terms = Terms { reuse: false, share: None, listens: false };
const REUSE: Terms = Terms { reuse: true, ..ALONE };
const SHARE: Terms = Terms { share: Some(1000), ..ALONE };

/// A family with a socket on a port; `None`: it may not be bound.
fn bound(test: &str, key: PortKey, terms: Terms) -> Option<Registry> {
    let mut registry = registry(test);
    registry.take_place(key, terms, HERE).ok()?;
    registry.set_terms(key, terms, HERE);
    Some(registry)
}

fn listens(mut registry: Registry, key: PortKey, terms: Terms) -> Option<Registry> {
    let terms = Terms { listens: true, ..terms };
    registry.may_have(key, terms).ok()?;
    registry.set_terms(key, terms, HERE);
    Some(registry)
}

/// Ends a family; nothing is left of it.
fn end(mut registry: Registry, key: PortKey) {
    registry.leave_place(key, HERE);
}

fn flow(key: PortKey, number: u16) -> Flow {
    Flow {
        protocol: key.protocol,
        from: SocketAddrV4::new(Ipv4Addr::new(10, 99, 1, 2), 40_000 + number),
        to: SocketAddrV4::new(Ipv4Addr::new(10, 99, 1, 1), key.port),
        opens: true,
    }
}

#[test]
fn a_port_is_shared_as_linux_shares_it() {
    let key = port(80);
    let other_user = Terms { share: Some(1001), ..ALONE };
    let both = Terms { reuse: true, ..SHARE };
    for (first, second, good) in [
        (ALONE, ALONE, false),
        (ALONE, REUSE, false),
        (REUSE, ALONE, false),
        (REUSE, REUSE, true),
        (SHARE, SHARE, true),
        (SHARE, other_user, false),
        (SHARE, REUSE, false),
        (both, SHARE, true),
        (both, REUSE, true),
    ] {
        let one = bound("shares", key, first).expect("the first is alone");
        let other = bound("shares", key, second);
        assert_eq!(other.is_some(), good, "{first:?} {second:?}");
        end(one, key);
        other.into_iter().for_each(|it| end(it, key));
    }
    // With SO_REUSEADDR several are bound, one listens, and then no more are bound.
    let (one, other) = (bound("shares", key, REUSE).expect("one"), bound("shares", key, REUSE).expect("other"));
    let one = listens(one, key, REUSE).expect("nobody listens");
    assert!(listens(other, key, REUSE).is_none());
    assert!(bound("shares", key, REUSE).is_none());
    let udp = bound("shares", UDP, REUSE).expect("UDP");
    assert!(bound("shares", UDP, ALONE).is_none(), "another protocol, the same rules");
    end(one, key);
    end(udp, UDP);
}

#[test]
fn what_opens_a_connection_is_for_one_of_those_who_listen() {
    let key = port(80);
    let now = call::now();
    let mut families: Vec<Registry> = Vec::new();
    for _ in 0..3 {
        let next = bound("spread", key, SHARE).expect("a place");
        families.push(listens(next, key, SHARE).expect("may listen"));
    }
    let mut bystander = bound("spread", key, SHARE).expect("bound only");
    while !families.is_empty() {
        let mut counts = vec![0; families.len()];
        for number in 0..200 {
            let takers: Vec<usize> =
                (0..families.len()).filter(|it| families[*it].takes(&flow(key, number), now)).collect();
            assert_eq!(takers.len(), 1, "flow {number}");
            counts[takers[0]] += 1;
        }
        assert!(counts.iter().all(|count| *count > 200 / families.len() / 2), "{counts:?}");
        // A segment of a connection is for who has it, and all look.
        let segment = Flow { opens: false, ..flow(key, 1) };
        assert!(families.iter_mut().all(|it| it.takes(&segment, now)));
        end(families.remove(0), key);
    }
    assert!(bystander.takes(&flow(key, 1), now), "nobody listens: it is refused");
    end(bystander, key);
}

#[test]
fn who_is_alone_on_a_port_looks_for_others_when_one_has_said_that_it_comes() {
    let key = port(80);
    let mut one = bound("company", key, SHARE).and_then(|it| listens(it, key, SHARE)).expect("one");
    let start = call::now();
    let later = start + LEFT_ALONE + Duration::from_secs(1);
    let takes_all = |it: &mut Registry, now| (0..50).all(|number| it.takes(&flow(key, number), now));
    assert!(takes_all(&mut one, later), "nobody is there");
    let other = bound("company", key, SHARE).and_then(|it| listens(it, key, SHARE)).expect("other");
    assert!(takes_all(&mut one, later), "nobody has said so");
    one.expect_company(80, later);
    assert!(!takes_all(&mut one, later));
    assert!(!takes_all(&mut one, later + LEFT_ALONE), "it is still there");
    end(other, key);
    assert!(takes_all(&mut one, later + LEFT_ALONE));
    end(one, key);
}

#[test]
fn datagrams_are_for_the_latest_or_spread_over_those_that_share() {
    let mut now = call::now();
    for (terms, takers) in [(REUSE, 1), (SHARE, 2)] {
        let mut one = bound("datagrams", UDP, terms).expect("one");
        let mut other = bound("datagrams", UDP, terms).expect("other");
        let mut counts = [0, 0];
        for number in 0..100 {
            let (first, second) = (one.takes(&flow(UDP, number), now), other.takes(&flow(UDP, number), now));
            assert!(first != second);
            counts[usize::from(second)] += 1;
        }
        assert_eq!(counts.iter().filter(|count| **count > 0).count(), takers, "{counts:?}");
        assert!(counts[1] > 0, "the latest");
        end(other, UDP);
        now += GROUP_BELIEVED;
        assert!((0..100).all(|number| one.takes(&flow(UDP, number), now)));
        end(one, UDP);
    }
}

#[test]
fn nobody_refuses_what_may_belong_to_a_connection_of_another() {
    let key = port(80);
    let now = Instant::from_millis(1);
    let closed = Purpose::ClosedPort { protocol: key.protocol, port: 80 };
    let mut old = registry("draining");
    old.linger(key, true, HERE);
    let mut new = bound("draining", key, REUSE).expect("it lingers with SO_REUSEADDR");
    assert!(!old.permits(closed, HERE, now) && !new.permits(closed, HERE, now));
    assert!(bound("draining", key, ALONE).is_none());
    old.drop_lingering(key, HERE);
    old.reclaim(HERE);
    for (_, fd) in old.in_process(HERE) {
        let _ = call::close(fd);
    }
    assert!(new.permits(closed, HERE, now + BELIEVED));
    end(new, key);
    // One that lingers without it keeps others away.
    let mut strict = registry("draining");
    strict.linger(key, false, HERE);
    assert!(bound("draining", key, REUSE).is_none());
}

#[test]
fn explicit_port_in_a_block_of_another_is_left_out_of_it() {
    let (mut one, mut other) = (registry("explicit"), registry("explicit"));
    let key = port(800 * BLOCK + 7);
    let start = Instant::from_millis(1);
    assert_eq!(one.claim(Claim::Block(800), HERE), Ok(()));
    assert_eq!(other.mark(key.port, HERE), Ok(()));
    assert_eq!(other.take_place(key, ALONE, HERE), Ok(()));
    assert!(one.exclude(key.port, start) && !one.exclude(key.port, start));
    assert_eq!(one.ranges(), [(800 * BLOCK, key.port - 1), (key.port + 1, 801 * BLOCK - 1)]);
    // The other refuses there, and the one that has the block does not.
    let closed = Purpose::ClosedPort { protocol: key.protocol, port: key.port };
    assert!(other.permits(closed, HERE, start) && !one.permits(closed, HERE, start));
    // Who takes the block after that finds the mark: last of all, and without the port.
    one.drop_claim(Claim::Block(800), HERE);
    let mut third = registry("explicit");
    let count = usize::from(third.blocks().1);
    assert_eq!(third.claim_blocks(count - 1, 800 - 512, HERE), Ok(()));
    assert!(!third.has_block_of(key.port) && third.block_count() == count - 1);
    assert_eq!(third.claim_blocks(1, 0, HERE), Ok(()));
    assert!(third.has_block_of(key.port) && third.is_excluded(key.port));
    third.take_back_excluded(start);
    assert!(third.is_excluded(key.port), "the other still has it");
    assert!(!other.leave_place(key, HERE), "nothing is left for a keeper to close");
    assert!(other.held.is_empty());
    third.take_back_excluded(start + LEFT_ALONE);
    assert!(!third.is_excluded(key.port));
    assert_eq!(
        third.ranges().iter().map(|(first, last)| u32::from(last - first) + 1).sum::<u32>(),
        60_999 - 32_768 + 1
    );
}
