//! What begins when, and what stays, without a network.

use super::{
    Config, Known, Method, Strategy,
    paths::{Action, AttemptId, CONNECTED, Carrier, NotTried, Opened, Paths, Turn},
};
use crate::{Multiaddr, PeerId, identity::peer_id_of};
use libp2p::{multiaddr::Protocol, swarm::ConnectionId};
use proptest::{
    collection::vec, prelude::any, prop_assert, prop_assert_eq, prop_oneof, proptest,
    strategy::Strategy as _,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const HEAD_START: Duration = Duration::from_millis(300);
const NEXT_RELAY: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(2);

const RELAYED: Opened = Opened { relayed: true, inbound: false };
const DIALLED: Opened = Opened { relayed: false, inbound: false };
const ACCEPTED: Opened = Opened { relayed: false, inbound: true };

fn peer(n: u8) -> PeerId {
    peer_id_of(&[n; 32]).unwrap()
}

fn id(n: usize) -> ConnectionId {
    ConnectionId::new_unchecked(n)
}

fn direct(n: u8) -> Multiaddr {
    format!("/ip4/8.8.8.{n}/tcp/1").parse().unwrap()
}

fn circuit(relay: u8) -> Multiaddr {
    direct(relay).with(Protocol::P2p(peer(relay))).with(Protocol::P2pCircuit)
}

fn paths(tweak: impl FnOnce(&mut Config)) -> Paths {
    let mut config = Config::default();
    tweak(&mut config);
    Paths::new(&config)
}

fn attempt(paths: &mut Paths, relayed: bool) -> AttemptId {
    paths.attempt(peer(1), relayed, Carrier::Datagrams).unwrap().unwrap()
}

#[test]
fn own_addresses_begin_at_once_and_relays_one_after_the_other_later() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.dials(id(1), peer(1));
    // In whatever order the addresses are dialled.
    let first = attempt(&mut paths, true);
    let [a, b] = [(); 2].map(|()| attempt(&mut paths, false));
    let second = attempt(&mut paths, true);
    for own in [a, b] {
        assert_eq!(paths.turn(own, now, now), Turn::Now);
        assert_eq!(paths.begin(own, now), Some((Strategy::Direct, Duration::from_secs(5))));
    }
    assert_eq!(paths.turn(first, now, now), Turn::At(now + HEAD_START));
    assert_eq!(paths.turn(first, now, now + HEAD_START), Turn::Now);
    assert_eq!(paths.turn(second, now, now), Turn::At(now + HEAD_START + NEXT_RELAY));
}

#[test]
fn tcp_waits_a_moment_for_quic_and_not_once_that_has_failed() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.dials(id(1), peer(1));
    let made = [Carrier::Stream, Carrier::Datagrams];
    let [tcp, quic] = made.map(|over| paths.attempt(peer(1), false, over).unwrap().unwrap());
    let after = Config::default().tcp_after;
    assert_eq!(
        (paths.turn(tcp, now, now), paths.turn(quic, now, now)),
        (Turn::At(now + after), Turn::Now)
    );
    assert_eq!(paths.turn(tcp, now, now + after), Turn::Now);
    paths.begin(quic, now);
    paths.end(quic, "unreachable", now);
    assert_eq!(paths.turn(tcp, now, now), Turn::Now);
    // Both sides punch at the same time, whatever over.
    paths.punches(id(2));
    paths.dials(id(2), peer(1));
    let [tcp, _] = made.map(|over| paths.attempt(peer(1), false, over).unwrap().unwrap());
    assert_eq!(paths.turn(tcp, now, now), Turn::Now);
}

#[test]
fn a_relay_has_its_turn_at_once_when_what_goes_before_it_has_failed() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.dials(id(1), peer(1));
    let [own, first, second] = [false, true, true].map(|relayed| attempt(&mut paths, relayed));
    paths.begin(own, now);
    paths.end(own, "refused", now);
    assert_eq!(paths.turn(first, now, now), Turn::Now);
    paths.begin(first, now);
    assert_eq!(paths.turn(second, now, now), Turn::At(now + NEXT_RELAY));
    paths.end(first, "relay_full", now);
    assert_eq!(paths.turn(second, now, now), Turn::Now);
}

#[test]
fn a_peer_whose_own_addresses_failed_lately_gives_them_no_head_start() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.dials(id(1), peer(1));
    let own = attempt(&mut paths, false);
    paths.begin(own, now);
    paths.end(own, "timeout", now);
    paths.dials(id(2), peer(1));
    let own = attempt(&mut paths, false);
    let relayed = attempt(&mut paths, true);
    assert_eq!((paths.turn(own, now, now), paths.turn(relayed, now, now)), (Turn::Now, Turn::Now));
    let later = now + Config::default().forget_failure;
    assert_eq!(paths.turn(relayed, later, later), Turn::At(later + HEAD_START));
    // One that was only slower says nothing.
    paths.begin(own, later);
    paths.end(own, "overtaken", later);
    paths.dials(id(3), peer(1));
    attempt(&mut paths, false);
    let relayed = attempt(&mut paths, true);
    assert_eq!(paths.turn(relayed, later, later), Turn::At(later + HEAD_START));
}

#[test]
fn the_order_is_what_the_configuration_says() {
    let order = vec![Strategy::Relay, Strategy::Direct];
    let (mut paths, now) = (paths(|config| config.order = order), Instant::now());
    paths.dials(id(1), peer(1));
    let own = attempt(&mut paths, false);
    let relayed = attempt(&mut paths, true);
    assert_eq!(paths.turn(relayed, now, now), Turn::Now);
    assert_eq!(paths.turn(own, now, now), Turn::At(now + HEAD_START));
    // What is left out is not tried.
    paths.punches(id(2));
    paths.dials(id(2), peer(1));
    assert_eq!(paths.attempt(peer(1), false, Carrier::Datagrams), Err(NotTried));
}

#[test]
fn few_are_under_way_at_once_and_few_holes_are_punched() {
    let tweak = |config: &mut Config| {
        (config.max_attempts, config.max_punched_addresses) = (2, 3);
    };
    let (mut paths, now) = (paths(tweak), Instant::now());
    paths.dials(id(1), peer(1));
    let [a, b, c] = [(); 3].map(|()| attempt(&mut paths, false));
    paths.begin(a, now);
    paths.begin(b, now);
    assert_eq!(paths.turn(c, now, now), Turn::Later);
    paths.end(a, "refused", now);
    assert_eq!(paths.turn(c, now, now), Turn::Now);

    paths.punches(id(2));
    paths.dials(id(2), peer(2));
    for _ in 0..3 {
        paths.attempt(peer(2), false, Carrier::Datagrams).unwrap().unwrap();
    }
    assert_eq!(
        paths.attempt(peer(2), false, Carrier::Datagrams),
        Err(NotTried),
        "a peer names what is dialled"
    );
    assert_eq!(paths.attempt(peer(3), false, Carrier::Datagrams), Ok(None), "of another dial");
}

#[test]
fn attempts_are_remembered_with_their_outcome_and_time() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    for n in 0..10u64 {
        paths.dials(id(1), peer(1));
        let relayed = attempt(&mut paths, n == 9);
        paths.begin(relayed, now);
        let outcome = if n == 9 { CONNECTED } else { "timeout" };
        paths.end(relayed, outcome, now + Duration::from_millis(n));
    }
    let waits = attempt(&mut paths, false);
    assert_eq!(paths.end(waits, "overtaken", now), None, "it never began");
    let history = paths.history(&peer(1), now + Duration::from_secs(60));
    assert_eq!(history.len(), 8);
    let last = history.last().unwrap();
    assert_eq!((last.strategy, last.outcome, last.took_ms), (Strategy::Relay, CONNECTED, 9));
    assert_eq!((history[0].outcome, history[0].took_ms, history[0].ago_secs), ("timeout", 2, 59));
    assert_eq!(paths.attempts(), 0);
}

#[test]
fn relays_are_learned_if_they_are_the_peers_own_and_its_own_word_goes_first() {
    let mut paths = paths(|_| {});
    let known = |addresses: &[Multiaddr]| Known { peer: peer(1), addresses: addresses.to_vec() };
    let with = |n, of| circuit(n).with(Protocol::P2p(peer(of)));
    // One of another peer, one of no relay, and one of itself.
    paths.learn(&known(&[with(2, 1), circuit(3), with(4, 9), direct(5), circuit(1)]), false);
    assert_eq!(paths.circuits(&peer(1)), [circuit(2), circuit(3)]);
    paths.learn(&known(&[circuit(3)]), false);
    assert_eq!(paths.circuits(&peer(1)), [circuit(3), circuit(2)], "more say so");
    paths.learn(&known(&[circuit(6)]), true);
    assert_eq!(paths.circuits(&peer(1)), [circuit(6), circuit(3), circuit(2)]);
    paths.learn(&known(&[circuit(7)]), true);
    assert_eq!(paths.circuits(&peer(1)).first(), Some(&circuit(7)), "it has moved");
}

#[test]
fn one_that_lies_of_a_peers_relays_pushes_out_none_that_others_tell() {
    let mut paths = paths(|_| {});
    let known = |addresses: Vec<Multiaddr>| Known { peer: peer(1), addresses };
    for _ in 0..2 {
        paths.learn(&known(vec![circuit(2)]), false);
    }
    paths.learn(&known((10..30).map(circuit).collect()), false);
    let circuits = paths.circuits(&peer(1));
    assert_eq!((circuits.first(), circuits.len()), (Some(&circuit(2)), 6));
}

#[test]
fn a_relayed_connection_goes_once_a_better_one_has_lasted() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.opened(id(1), peer(1), RELAYED, now);
    assert_eq!(paths.methods()[&peer(1)], Method::Relayed);
    paths.punches(id(2));
    paths.opened(id(2), peer(1), DIALLED, now);
    assert_eq!(paths.methods()[&peer(1)], Method::Punched);
    assert_eq!(paths.poll(now + AFTER / 2), []);
    // Of another peer: nothing to do with it.
    paths.opened(id(3), peer(2), RELAYED, now);
    assert_eq!(paths.poll(now + AFTER), [Action::Close(peer(1), id(1))]);
    assert_eq!(paths.poll(now + AFTER), [], "once");
    paths.closed(id(1), now);
    assert_eq!(paths.methods()[&peer(1)], Method::Punched);
    assert_eq!(paths.count(Method::Relayed), 1);
}

#[test]
fn one_that_comes_in_while_a_relayed_one_is_there_came_through_a_hole() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.opened(id(1), peer(1), ACCEPTED, now);
    assert_eq!(paths.methods()[&peer(1)], Method::Direct);
    paths.opened(id(2), peer(2), RELAYED, now);
    paths.opened(id(3), peer(2), ACCEPTED, now);
    assert_eq!(paths.methods()[&peer(2)], Method::Punched);
}

#[test]
fn a_better_connection_that_breaks_at_once_costs_nothing() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.opened(id(1), peer(1), RELAYED, now);
    paths.opened(id(2), peer(1), DIALLED, now);
    paths.closed(id(2), now);
    assert_eq!(paths.poll(now + AFTER), []);
}

#[test]
fn a_peer_that_is_reached_through_a_relay_is_tried_where_it_says_it_is() {
    let (mut paths, now) = (paths(|config| config.retries = 3), Instant::now());
    paths.told(peer(1), &[direct(1)], now);
    assert_eq!(paths.poll(now), [], "it is not connected");
    paths.opened(id(1), peer(1), RELAYED, now);
    paths.told(peer(1), &[direct(1), circuit(2)], now);
    let dial = [Action::Dial(peer(1), vec![direct(1)])];
    assert_eq!(paths.poll(now), dial, "at once");
    let (mut at, mut dials) = (now, Vec::new());
    for second in 1..1000u64 {
        at = now + Duration::from_secs(second);
        if paths.poll(at) == dial {
            dials.push(second);
        }
    }
    assert_eq!(dials, [30, 90], "three times in all, the wait doubled");
    paths.told(peer(1), &[direct(7)], at);
    assert_eq!(paths.poll(at), [Action::Dial(peer(1), vec![direct(7)])], "it is elsewhere now");
    paths.opened(id(2), peer(1), DIALLED, at);
    assert!(paths.poll(at + AFTER).iter().all(|a| matches!(a, Action::Close(..))));
}

#[test]
fn a_peer_whose_better_connection_was_a_dial_back_is_tried_at_once() {
    let (mut paths, now) = (paths(|_| {}), Instant::now());
    paths.opened(id(1), peer(1), RELAYED, now);
    paths.opened(id(2), peer(1), ACCEPTED, now);
    paths.told(peer(1), &[direct(1)], now);
    assert_eq!(paths.poll(now), [], "it is there already");
    paths.closed(id(2), now);
    assert_eq!(paths.poll(now), [Action::Dial(peer(1), vec![direct(1)])]);
    // And the next time it is reached through a relay, although it tells nothing new.
    paths.closed(id(1), now);
    paths.opened(id(3), peer(1), RELAYED, now);
    paths.told(peer(1), &[direct(1)], now);
    assert_eq!(paths.poll(now), [Action::Dial(peer(1), vec![direct(1)])]);
}

#[derive(Clone, Debug)]
enum Step {
    Dial(u8, bool),
    Attempt(u8, bool),
    Begin(u64),
    End(u64, u8),
    Opened(usize, u8, bool),
    Closed(usize),
    Told(u8, u8),
    Wait(u16),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    prop_oneof![
        (1..5u8, any::<bool>()).prop_map(|(p, punches)| Step::Dial(p, punches)),
        (1..5u8, any::<bool>()).prop_map(|(p, relayed)| Step::Attempt(p, relayed)),
        (0..80u64).prop_map(Step::Begin),
        (0..80u64, 0..4u8).prop_map(|(id, how)| Step::End(id, how)),
        (0..12usize, 1..5u8, any::<bool>()).prop_map(|(n, p, r)| Step::Opened(n, p, r)),
        (0..12usize).prop_map(Step::Closed),
        (1..5u8, 1..9u8).prop_map(|(p, a)| Step::Told(p, a)),
        (0..20_000u16).prop_map(Step::Wait),
    ]
}

proptest! {
    /// In whatever order things happen: nobody waits for ever, no more are under way than may be, the
    /// last connection to a peer is never closed, and nothing grows past its bound.
    #[test]
    fn nobody_waits_for_ever_and_the_last_connection_stays(
        steps in vec(step(), 1..200),
    ) {
        let config = Config { max_attempts: 2, max_peers: 3, ..Config::default() };
        let mut paths = Paths::new(&config);
        let mut now = Instant::now();
        let mut made: BTreeMap<AttemptId, (u8, bool)> = BTreeMap::new();
        let mut open: BTreeMap<usize, u8> = BTreeMap::new();
        let mut dials = 100;
        for step in steps {
            match step {
                Step::Dial(p, punches) => {
                    dials += 1;
                    if punches {
                        paths.punches(id(dials));
                    }
                    paths.dials(id(dials), peer(p));
                }
                Step::Attempt(p, relayed) => {
                    let over = if p % 2 == 0 { Carrier::Datagrams } else { Carrier::Stream };
                    if let Ok(Some(new)) = paths.attempt(peer(p), relayed, over) {
                        made.insert(new, (p, false));
                    }
                }
                Step::Begin(which) => {
                    let wanted = made.get(&which).copied();
                    if let Some((p, false)) = wanted && paths.turn(which, now, now) == Turn::Now {
                        paths.begin(which, now);
                        made.insert(which, (p, true));
                    }
                }
                Step::End(which, how) => {
                    let how = ["refused", "timeout", "overtaken", CONNECTED][usize::from(how)];
                    let ended = paths.end(which, how, now).is_some();
                    let began = made.remove(&which).is_some_and(|(_, began)| began);
                    prop_assert_eq!(ended, began);
                }
                Step::Opened(n, p, relayed) => {
                    if open.insert(n, p).is_none_or(|before| before == p) {
                        let how = Opened { relayed, inbound: n % 2 == 0 };
                        paths.opened(id(n), peer(p), how, now);
                    } else {
                        open.remove(&n);
                        paths.closed(id(n), now);
                    }
                }
                Step::Closed(n) => {
                    open.remove(&n);
                    paths.closed(id(n), now);
                }
                Step::Told(p, a) => paths.told(peer(p), &[direct(a), circuit(a.max(5))], now),
                Step::Wait(ms) => now += Duration::from_millis(ms.into()),
            }
            for action in paths.poll(now) {
                if let Action::Close(gone, which) = action {
                    open.retain(|n, _| id(*n) != which);
                    paths.closed(which, now);
                    prop_assert!(open.values().any(|p| peer(*p) == gone), "the last one");
                }
            }
            for p in 1..5u8 {
                let under_way = made.values().filter(|(of, began)| *of == p && *began).count();
                prop_assert!(under_way <= 2);
                let waits = made.iter().filter(|(_, (of, began))| *of == p && !*began);
                for (which, _) in waits {
                    // Some time later it is its turn, or once another of the two has ended.
                    let turn = paths.turn(*which, now, now + Duration::from_secs(3600));
                    prop_assert!(turn == Turn::Now || (turn == Turn::Later && under_way == 2));
                }
                prop_assert!(paths.circuits(&peer(p)).len() <= 6);
                prop_assert!(paths.history(&peer(p), now).len() <= 8);
            }
            prop_assert_eq!(paths.attempts(), made.len());
            let peers: BTreeSet<u8> = open.values().copied().collect();
            prop_assert_eq!(paths.methods().len(), peers.len());
        }
    }
}
