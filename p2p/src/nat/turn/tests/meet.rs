//! Peers that meet, two machines face to face.

use crate::{
    AddressPolicy, PeerId,
    identity::peer_id_of,
    nat::turn::{
        config::Upgrade,
        meet::{Action, Here, Meetings},
        metrics::Met,
        wire::{Place, Refusal, Response},
    },
};
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn peer(n: u8) -> PeerId {
    peer_id_of(&[n; 32]).unwrap()
}

/// Two peers in the order of their ids.
fn two() -> [PeerId; 2] {
    let mut both = [peer(1), peer(2)];
    both.sort_unstable();
    both
}

fn here(seen_at: &str, relayed: Option<&str>) -> Here {
    Here { seen_at: vec![at(seen_at)], relayed: relayed.map(at), udp: true }
}

/// Who dialled whom at which address, and whether from its own relayed one.
type Dialled = (usize, SocketAddr, bool);

/// Two nodes that are connected over a circuit.
struct Scene {
    ids: [PeerId; 2],
    nodes: [Meetings; 2],
    now: Instant,
    dialled: Vec<Dialled>,
    /// Who gave permission to which addresses.
    permitted: Vec<(usize, Vec<String>)>,
    ended: Vec<(usize, bool, Met)>,
    grants: bool,
    reached: bool,
    deaf: bool,
}

impl Scene {
    fn new(places: [Here; 2]) -> Self {
        let (ids, now) = (two(), Instant::now());
        let config = Upgrade::default();
        let nodes = ids.map(|id| Meetings::new(&config, id, AddressPolicy::Global));
        let mut scene = Self {
            ids,
            nodes,
            now,
            dialled: Vec::new(),
            permitted: Vec::new(),
            ended: Vec::new(),
            grants: true,
            reached: true,
            deaf: false,
        };
        for (n, here) in places.into_iter().enumerate() {
            scene.nodes[n].on_here(here);
            let other = scene.ids[1 - n];
            scene.nodes[n].on_connected(other, true, now);
        }
        scene
    }

    /// Lets so much time pass, with a tick each second.
    fn run(&mut self, time: u64) {
        for _ in 0..time {
            self.now += secs(1);
            for n in [0, 1] {
                self.nodes[n].on_tick(self.now);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        let mut asked: VecDeque<(usize, Place)> = VecDeque::new();
        loop {
            let mut idle = true;
            for n in [0, 1] {
                for action in self.nodes[n].actions() {
                    idle = false;
                    self.act(n, action, &mut asked);
                }
            }
            if let Some((n, place)) = asked.pop_front() {
                idle = false;
                let from = self.ids[1 - n];
                self.nodes[n].on_request(from, &place, self.now);
            }
            if idle {
                return;
            }
        }
    }

    fn act(&mut self, n: usize, action: Action, asked: &mut VecDeque<(usize, Place)>) {
        let (now, other) = (self.now, 1 - n);
        match action {
            Action::Ask(to, place) => {
                assert_eq!(to, self.ids[other]);
                if !self.deaf {
                    asked.push_back((other, place));
                }
            }
            Action::Answer(to, response) => {
                assert_eq!(to, self.ids[other]);
                let from = self.ids[n];
                self.nodes[other].on_response(&from, &response, now);
            }
            Action::Permit(token, ips) => {
                let any = self.grants && !ips.is_empty();
                self.permitted.push((n, ips.iter().map(ToString::to_string).collect()));
                self.nodes[n].on_permitted(token, any, now);
            }
            Action::Dial { peer, to, through } => {
                assert_eq!(peer, self.ids[other]);
                self.dialled.push((n, to, through));
                if self.reached {
                    for n in [0, 1] {
                        let other = self.ids[1 - n];
                        self.nodes[n].on_connected(other, false, now);
                    }
                } else {
                    self.nodes[n].on_dial_failed(&peer, now);
                }
            }
            Action::Ended { by_peer, met } => self.ended.push((n, by_peer, met)),
        }
    }
}

#[test]
fn the_one_without_a_relayed_address_dials_the_others_whoever_asks() {
    for with in [0, 1] {
        let mut places = [here("7.7.7.7:1", None), here("8.8.8.8:1", None)];
        places[with].relayed = Some(at("9.9.9.9:5000"));
        let seen = places[1 - with].seen_at[0].ip().to_string();
        let mut scene = Scene::new(places);
        scene.run(4);
        assert_eq!(scene.dialled, [], "a hole may be punched first");
        scene.run(2);
        assert_eq!(scene.dialled, [(1 - with, at("9.9.9.9:5000"), false)]);
        assert_eq!(scene.permitted, [(with, vec![seen])]);
        let ended = [(with, false, Met::Connected), (1 - with, true, Met::Connected)];
        assert!(ended.iter().all(|end| scene.ended.contains(end)), "{:?}", scene.ended);
        scene.run(600);
        assert_eq!(scene.dialled.len(), 1, "they are connected");
    }
}

#[test]
fn of_two_with_relayed_addresses_one_asks_and_dials() {
    let places = [here("7.7.7.7:1", Some("9.9.9.1:1")), here("8.8.8.8:1", Some("9.9.9.2:2"))];
    let mut scene = Scene::new(places);
    scene.run(60);
    assert_eq!(scene.dialled, [(0, at("9.9.9.2:2"), false)]);
    assert_eq!(scene.permitted, [(1, vec!["7.7.7.7".to_owned(), "9.9.9.1".to_owned()])]);
}

#[test]
fn where_udp_does_not_get_out_both_go_over_their_servers() {
    let mut places = [here("7.7.7.7:1", Some("9.9.9.1:1")), here("8.8.8.8:1", Some("9.9.9.2:2"))];
    for place in &mut places {
        place.udp = false;
    }
    let mut scene = Scene::new(places);
    scene.run(60);
    assert_eq!(scene.dialled, [(0, at("9.9.9.2:2"), true)]);
    let both = ["7.7.7.7", "9.9.9.1"].map(str::to_owned).to_vec();
    assert_eq!(scene.permitted, [(1, both), (0, vec!["9.9.9.2".to_owned()])]);
    // And where one of them has none, there is no way.
    let mut places = [here("7.7.7.7:1", None), here("8.8.8.8:1", Some("9.9.9.2:2"))];
    places[0].udp = false;
    let mut scene = Scene::new(places);
    scene.run(10);
    assert_eq!(scene.dialled, []);
    assert!(scene.ended.contains(&(1, false, Met::Refused)), "{:?}", scene.ended);
}

#[test]
fn without_any_relayed_address_nobody_asks() {
    let mut scene = Scene::new([here("7.7.7.7:1", None), here("8.8.8.8:1", None)]);
    scene.run(60);
    assert_eq!((scene.dialled.len(), scene.ended.len()), (0, 0));
    let ids = scene.ids;
    scene.nodes[0].on_request(ids[1], &Place::default(), scene.now);
    let refused = Action::Answer(ids[1], Response::Refused(Refusal::NoRelay));
    assert!(scene.nodes[0].actions().contains(&refused));
}

#[test]
fn what_fails_is_tried_again_ever_less_often() {
    let failing = |change: fn(&mut Scene), met: Met| {
        let places = [here("7.7.7.7:1", None), here("8.8.8.8:1", Some("9.9.9.2:2"))];
        let mut scene = Scene::new(places);
        change(&mut scene);
        scene.run(3600);
        let tries = scene.ended.iter().filter(|end| end.0 == 1 && end.2 == met).count();
        // After 30 s, 1, 2, 4, 8 and then each 10 minutes.
        assert!((8..=10).contains(&tries), "{met:?}: {tries} {:?}", scene.ended);
        scene
    };
    let not_permitted = |scene: &mut Scene| (scene.grants, scene.reached) = (false, false);
    failing(not_permitted, Met::NotPermitted);
    failing(|scene| scene.deaf = true, Met::Timeout);
    // Whoever asked waits until its time is over: it cannot know that it is dialled in vain.
    let mut scene = failing(|scene| scene.reached = false, Met::Timeout);
    assert!(scene.ended.contains(&(0, true, Met::DialFailed)));
    scene.reached = true;
    scene.run(700);
    assert!(scene.ended.contains(&(1, false, Met::Connected)));
}

#[test]
fn a_peer_that_asks_too_often_is_refused() {
    let ids = two();
    let now = Instant::now();
    let mut node = Meetings::new(&Upgrade::default(), ids[0], AddressPolicy::Global);
    node.on_here(here("7.7.7.7:1", Some("9.9.9.1:1")));
    let place = Place::new([at("8.8.8.8:1")], None);
    let mut busy = 0;
    for _ in 0..20 {
        node.on_request(ids[1], &place, now);
        for action in node.actions() {
            match action {
                Action::Permit(token, _) => node.on_permitted(token, false, now),
                Action::Answer(_, Response::Refused(Refusal::Busy)) => busy += 1,
                _ => {}
            }
        }
    }
    assert_eq!(busy, 14, "six a minute");
}

#[test]
fn more_peers_than_there_is_room_for_wait_for_their_turn() {
    let config = Upgrade { max_attempts: 2, max_peers: 5, ..Upgrade::default() };
    let mut now = Instant::now();
    let mut node = Meetings::new(&config, peer(0), AddressPolicy::Global);
    node.on_here(here("7.7.7.7:1", Some("9.9.9.1:1")));
    for n in 1..20 {
        node.on_connected(peer(n), true, now);
    }
    now += secs(5);
    node.on_tick(now);
    let asked = |node: &mut Meetings| {
        node.actions().iter().filter(|action| matches!(action, Action::Ask(..))).count()
    };
    assert_eq!((asked(&mut node), node.underway()), (2, 2));
    // Those time out, others get their turn, and no more than five are known at all.
    now += secs(10);
    node.on_tick(now);
    assert_eq!((asked(&mut node), node.underway()), (2, 2));
    now += secs(10);
    node.on_tick(now);
    assert_eq!((asked(&mut node), node.underway()), (1, 1));
}

#[test]
fn an_allocation_that_is_lost_or_a_peer_that_goes_ends_what_was_begun() {
    let ids = two();
    let now = Instant::now();
    let node = || {
        let mut node = Meetings::new(&Upgrade::default(), ids[0], AddressPolicy::Global);
        node.on_here(here("7.7.7.7:1", Some("9.9.9.1:1")));
        node.on_connected(ids[1], true, now);
        node.on_request(ids[1], &Place::new([at("8.8.8.8:1")], None), now);
        assert_eq!(node.underway(), 1);
        node.actions();
        node
    };
    let over = |mut node: Meetings| {
        let ended = Action::Ended { by_peer: true, met: Met::Gone };
        assert!(node.actions().contains(&ended));
        assert_eq!(node.underway(), 0);
    };
    let mut lost = node();
    lost.on_here(here("7.7.7.7:1", None));
    over(lost);
    let mut gone = node();
    gone.on_closed(&ids[1], true, now);
    over(gone);
}

proptest! {
    /// Whatever peers do in whichever order, tables keep their bounds and each request is answered at
    /// most once.
    #[test]
    fn tables_keep_their_bounds(
        steps in proptest::collection::vec((0..9u8, 0..12u8, any::<bool>(), 0..20u64), 1..200),
    ) {
        let config = Upgrade { max_attempts: 3, max_peers: 5, ..Upgrade::default() };
        let mut now = Instant::now();
        let mut node = Meetings::new(&config, peer(50), AddressPolicy::Global);
        let mut tokens = Vec::new();
        let mut open = std::collections::HashMap::<PeerId, usize>::new();
        for (what, n, flag, wait) in steps {
            now += secs(wait);
            let who = peer(n);
            let place = Place::new([at("8.8.8.8:1")], flag.then(|| at("9.9.9.9:1")));
            match what {
                0 => node.on_connected(who, flag, now),
                1 => node.on_closed(&who, flag, now),
                2 => {
                    // As the swarm does: one at a time.
                    if open.get(&who).copied().unwrap_or_default() == 0 {
                        *open.entry(who).or_default() += 1;
                        node.on_request(who, &place, now);
                    }
                }
                3 => node.on_response(&who, &Response::Meets(place), now),
                4 => node.on_no_response(&who, Met::Protocol, now),
                5 => node.on_here(here("7.7.7.7:1", flag.then_some("9.9.9.1:1"))),
                6 => node.on_dial_failed(&who, now),
                7 => if let Some(token) = tokens.pop() { node.on_permitted(token, flag, now) },
                _ => node.on_tick(now),
            }
            for action in node.actions() {
                match action {
                    Action::Permit(token, _) => tokens.push(token),
                    Action::Answer(to, _) => {
                        let asked = open.get_mut(&to).filter(|count| **count > 0);
                        prop_assert!(asked.is_some(), "an answer to nobody");
                        *asked.unwrap() -= 1;
                    }
                    _ => {}
                }
            }
            prop_assert!(node.underway() <= 3);
        }
    }
}
