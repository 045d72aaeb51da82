//! Which relays are asked, without a network.

use super::{Action, ClientConfig as Config, Offer, Reservations};
use crate::{Multiaddr, PeerId, identity::peer_id_of};
use libp2p::{core::transport::ListenerId, multiaddr::Protocol};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

fn peer(n: u8) -> PeerId {
    peer_id_of(&[n; 32]).unwrap()
}

/// In a network of its own for each `group`.
fn addr(group: u8, host: u8) -> Multiaddr {
    format!("/ip4/8.{group}.0.{host}/tcp/1").parse().unwrap()
}

struct Scene {
    relays: Reservations,
    worth: BTreeMap<PeerId, u16>,
    now: Instant,
}

impl Scene {
    fn new(tweak: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        tweak(&mut config);
        Self { relays: Reservations::new(&config), worth: BTreeMap::new(), now: Instant::now() }
    }

    fn offers(&mut self, n: u8, group: u8, worth: Option<u16>, rtt_ms: u64) {
        let offer = Offer { relay: true, addr: Some(addr(group, n)) };
        self.relays.told(peer(n), offer, self.now);
        self.relays.pinged(&peer(n), Duration::from_millis(rtt_ms));
        match worth {
            Some(worth) => self.worth.insert(peer(n), worth),
            None => self.worth.remove(&peer(n)),
        };
    }

    fn poll(&mut self, needed: bool) -> Vec<Action> {
        let worth = &self.worth;
        self.relays.poll(needed, |peer| worth.get(peer).copied(), self.now)
    }

    /// The relays that are asked now, each by a listener of its own.
    fn asks(&mut self) -> Vec<(PeerId, ListenerId)> {
        let mut asked = Vec::new();
        for action in self.poll(true) {
            let Action::Reserve(peer, at) = action else { continue };
            assert!(at.iter().any(|part| part == Protocol::P2p(peer)));
            assert_eq!(at.iter().last(), Some(Protocol::P2pCircuit));
            let listener = ListenerId::next();
            self.relays.asked(&peer, Some(listener), self.now);
            asked.push((peer, listener));
        }
        asked
    }

    fn peers_asked(&mut self) -> Vec<PeerId> {
        self.asks().into_iter().map(|(peer, _)| peer).collect()
    }
}

#[test]
fn none_is_asked_before_it_is_clear_that_one_is_needed() {
    let mut scene = Scene::new(|config| config.ask_after = SECOND);
    scene.offers(1, 1, Some(500), 10);
    assert_eq!(scene.asks(), []);
    scene.now += SECOND;
    assert_eq!(scene.poll(false), [], "an address was confirmed");
    assert_eq!(scene.asks(), [], "it begins anew");
    scene.now += SECOND;
    assert_eq!(scene.peers_asked(), [peer(1)]);
}

#[test]
fn the_best_reputation_goes_first_then_the_nearest() {
    let mut scene = Scene::new(|config| config.reservations = 4);
    scene.offers(1, 1, Some(510), 50);
    scene.offers(2, 2, Some(560), 20);
    scene.offers(3, 3, Some(900), 200);
    scene.offers(4, 4, None, 1);
    scene.offers(5, 5, Some(0), 5);
    assert_eq!(scene.peers_asked(), [peer(3), peer(2), peer(1), peer(5)], "4 is not to be asked");
}

#[test]
fn another_network_goes_before_a_better_relay_in_the_same() {
    let mut scene = Scene::new(|_| {});
    scene.offers(1, 1, Some(900), 10);
    scene.offers(2, 1, Some(900), 10);
    scene.offers(3, 2, Some(100), 90);
    let asked = scene.peers_asked();
    assert_eq!(asked.len(), 2);
    assert!(asked.contains(&peer(3)), "{asked:?}");
}

#[test]
fn one_that_refuses_is_replaced_at_once_and_left_alone_for_longer_each_time() {
    let mut scene = Scene::new(|config| config.reservations = 1);
    scene.offers(1, 1, Some(900), 10);
    scene.offers(2, 2, Some(500), 10);
    let [(first, listener)] = scene.asks()[..] else { panic!() };
    assert_eq!(first, peer(1));
    assert_eq!(scene.relays.ended(listener, scene.now), Some(peer(1)));
    let [(second, listener)] = scene.asks()[..] else { panic!() };
    assert_eq!(second, peer(2));
    scene.relays.accepted(&second, scene.now);
    assert_eq!(scene.relays.held(), 1);
    assert_eq!(scene.asks(), [], "enough");
    // The connection to it is lost.
    assert_eq!(scene.relays.ended(listener, scene.now), Some(peer(2)));
    assert_eq!(scene.asks(), [], "both are left alone");
    scene.now += Config::default().retry;
    let [(again, listener)] = scene.asks()[..] else { panic!() };
    assert_eq!(again, peer(1), "the better one");
    scene.relays.ended(listener, scene.now);
    assert_eq!(scene.peers_asked(), [peer(2)]);
    assert_eq!(scene.relays.ended(ListenerId::next(), scene.now), None, "another listener");
}

#[test]
fn one_that_does_not_answer_is_not_waited_for() {
    let mut scene = Scene::new(|config| config.reservations = 1);
    scene.offers(1, 1, Some(900), 10);
    scene.offers(2, 2, Some(500), 10);
    let [(silent, _)] = scene.asks()[..] else { panic!() };
    assert_eq!(scene.asks(), []);
    scene.now += Config::default().timeout;
    assert_eq!(scene.peers_asked(), [peer(2)]);
    // What it says at last counts still.
    scene.relays.accepted(&silent, scene.now);
    scene.relays.accepted(&peer(2), scene.now);
    assert_eq!(scene.relays.held(), 2);
    let views = scene.relays.views(&peer(9), scene.now + SECOND);
    assert_eq!(views.len(), 2);
    assert!(views.iter().all(|view| view.held_secs == 1 && view.address.contains("p2p-circuit")));
}

#[test]
fn what_is_not_needed_any_more_is_given_back_one_by_one() {
    let mut scene = Scene::new(|_| {});
    for n in 1..=2 {
        scene.offers(n, n, Some(500), 10);
    }
    let held = scene.asks();
    for (peer, _) in &held {
        scene.relays.accepted(peer, scene.now);
    }
    assert_eq!(scene.poll(false), []);
    scene.now += Config::default().release_after;
    let [Action::Leave(first)] = scene.poll(false)[..] else { panic!() };
    let of_first = held.iter().find(|(peer, _)| *peer == first).unwrap();
    scene.relays.ended(of_first.1, scene.now);
    let [Action::Leave(second)] = scene.poll(false)[..] else { panic!() };
    assert_ne!(first, second);
}

#[derive(Clone, Debug)]
enum Step {
    Told(u8, bool, bool),
    Gone(u8),
    Accepted(u8),
    Ended(usize),
    Poll(bool),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..20u8, any::<bool>(), any::<bool>()).prop_map(|(n, r, a)| Step::Told(n, r, a)),
        1 => (0..20u8).prop_map(Step::Gone),
        2 => (0..20u8).prop_map(Step::Accepted),
        2 => (0..8usize).prop_map(Step::Ended),
        4 => any::<bool>().prop_map(Step::Poll),
        1 => (0..400u16).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens: a relay is asked once at a time, no more than wanted are waited for, and no
    /// more are remembered than may be.
    #[test]
    fn a_relay_is_asked_once_at_a_time_and_the_table_keeps_its_bound(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut scene = Scene::new(|config| {
            (config.reservations, config.max_relays) = (2, 6);
        });
        for n in 0..20 {
            scene.worth.insert(peer(n), u16::from(n) * 50);
        }
        let mut listeners: Vec<(PeerId, ListenerId, Instant)> = Vec::new();
        for step in steps {
            match step {
                Step::Told(n, relay, with) => {
                    let addr = with.then(|| addr(n, n));
                    scene.relays.told(peer(n), Offer { relay, addr }, scene.now);
                }
                Step::Gone(n) => scene.relays.disconnected(&peer(n), scene.now),
                Step::Accepted(n) => scene.relays.accepted(&peer(n), scene.now),
                Step::Ended(at) => {
                    if at < listeners.len() {
                        let (peer, listener, _) = listeners.remove(at);
                        prop_assert_eq!(scene.relays.ended(listener, scene.now), Some(peer));
                    }
                }
                Step::Wait(secs) => scene.now += Duration::from_secs(secs.into()),
                Step::Poll(needed) => {
                    for action in scene.poll(needed) {
                        match action {
                            Action::Reserve(peer, _) => {
                                prop_assert!(listeners.iter().all(|(other, ..)| *other != peer));
                                let listener = ListenerId::next();
                                listeners.push((peer, listener, scene.now));
                                scene.relays.asked(&peer, Some(listener), scene.now);
                            }
                            Action::Leave(peer) => {
                                let at = listeners.iter().position(|(held, ..)| *held == peer);
                                prop_assert!(at.is_some() && !needed);
                            }
                        }
                    }
                }
            }
            let young = listeners.iter().filter(|(.., at)| {
                scene.now.saturating_duration_since(*at) < Config::default().timeout
            });
            prop_assert!(young.count() <= 2);
            prop_assert!(scene.relays.held() <= listeners.len());
            prop_assert!(scene.relays.known() <= 6);
        }
    }
}
