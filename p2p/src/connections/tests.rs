//! Admission as a whole, with time handed in.

use super::{
    Admission, BanTarget, Direction, Entry, Refused,
    admission::Now,
    config::{Caps, Config},
    counts::Open,
};
use crate::{PeerId, Standing, identity::peer_id_of};
use libp2p::swarm::ConnectionId;
use proptest::prelude::*;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

fn peer(n: u16) -> PeerId {
    let [a, b] = n.to_be_bytes();
    let mut key = [7; 32];
    (key[0], key[1]) = (a, b);
    peer_id_of(&key).unwrap()
}

fn ip(n: u16) -> IpAddr {
    let [a, b] = n.to_be_bytes();
    [20 + a, 0, 0, b].into()
}

fn id(n: usize) -> ConnectionId {
    ConnectionId::new_unchecked(n)
}

const GOOD: Option<Standing> = Some(Standing::NEUTRAL);

/// Admission and its clock.
struct Scene {
    admission: Admission,
    now: Now,
    ids: usize,
}

impl Scene {
    fn new(tweak: impl FnOnce(&mut crate::Config)) -> Self {
        let mut config = crate::testnet::config();
        config.admission.caps_by_address = Caps::Off;
        tweak(&mut config);
        let now = Now { instant: Instant::now(), unix_ms: 1_000_000 };
        Self { admission: Admission::new(&config, peer(0), vec![], now), now, ids: 0 }
    }

    fn wait(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += u64::try_from(time.as_millis()).unwrap();
    }

    fn tick(&mut self) {
        self.admission.tick(|_| None, self.now);
    }

    /// A connection comes in and shakes hands.
    fn arrive(&mut self, from: IpAddr) -> Result<ConnectionId, Refused> {
        self.admission.incoming(Some(from), true, self.now)?;
        self.ids += 1;
        self.admission.counts.arrives(id(self.ids), Some(from));
        Ok(id(self.ids))
    }

    /// The same, to the end; what made room for it.
    fn enter(
        &mut self,
        who: PeerId,
        from: IpAddr,
        standing: Option<Standing>,
    ) -> Result<(ConnectionId, Option<ConnectionId>), Refused> {
        let new = self.arrive(from)?;
        let decision = self.admission.inbound(&who, Some(from), standing, self.now);
        let Ok(leaves) = decision else {
            self.admission.counts.settled(new);
            return Err(decision.unwrap_err());
        };
        let open = Open {
            peer: who,
            direction: Direction::Inbound,
            remote: Some(from),
            since: self.now.instant,
        };
        self.admission.opened(new, open, standing);
        Ok((new, leaves))
    }
}

#[test]
fn a_stranger_finds_the_door_closed_when_all_places_are_taken() {
    let mut scene = Scene::new(|config| config.peers.max_connections = 5);
    for n in 1..=4 {
        scene.enter(peer(n), ip(n), None).unwrap();
    }
    assert_eq!(scene.enter(peer(5), ip(5), None), Err(Refused::OutboundReserve));
    assert_eq!(scene.admission.dial(Some(&peer(6)), None, scene.now), Ok(()));
}

#[test]
fn a_known_peer_takes_the_place_of_the_youngest_stranger_of_the_largest_group() {
    let mut scene = Scene::new(|config| config.peers.max_connections = 5);
    let (known, _) = scene.enter(peer(1), ip(1), None).unwrap();
    scene.wait(Duration::from_secs(60));
    scene.tick();
    scene.admission.closed(known);

    let crowd: [IpAddr; 3] = [[9, 9, 0, 1].into(), [9, 9, 0, 2].into(), [9, 9, 0, 3].into()];
    let mut held = Vec::new();
    for (n, from) in (100..).zip(crowd) {
        scene.wait(Duration::from_secs(1));
        held.push(scene.enter(peer(n), from, None).unwrap().0);
    }
    scene.wait(Duration::from_secs(1));
    scene.enter(peer(200), ip(200), None).unwrap();

    let (_, left) = scene.enter(peer(1), ip(1), None).unwrap();
    assert_eq!(left, Some(held[2]), "not the youngest of all, which is alone in its network");
    // As long as that one is closing, the next known one takes another's.
    let (_, left) = scene.enter(peer(1), ip(1), None).unwrap();
    assert_eq!(left, Some(held[1]));
}

#[test]
fn whoever_stayed_for_a_while_makes_room_for_bound_peers_alone() {
    let mut scene = Scene::new(|config| config.peers.max_connections = 2);
    let (known, _) = scene.enter(peer(1), ip(1), None).unwrap();
    scene.wait(Duration::from_secs(60));
    scene.tick();
    scene.admission.closed(known);
    let (stays, _) = scene.enter(peer(2), ip(2), None).unwrap();
    scene.wait(Duration::from_secs(60));
    scene.tick();
    assert_eq!(scene.enter(peer(1), ip(1), None), Err(Refused::OutboundReserve));

    // Before the handshake, only a source that a bound peer was seen at gets so far.
    assert_eq!(scene.enter(peer(3), ip(3), GOOD), Err(Refused::OutboundReserve));
    scene.admission.closed(stays);
    let (seen, _) = scene.enter(peer(3), ip(3), GOOD).unwrap();
    scene.admission.closed(seen);
    let (stays, _) = scene.enter(peer(2), ip(2), None).unwrap();
    scene.wait(Duration::from_secs(60));
    scene.tick();
    let (_, left) = scene.enter(peer(3), ip(3), GOOD).unwrap();
    assert_eq!(left, Some(stays));
}

#[test]
fn forged_addresses_use_up_neither_rate_nor_places() {
    let mut scene = Scene::new(|_| {});
    let mut entered = 0;
    for n in 0..10_000u16 {
        scene.wait(Duration::from_millis(1));
        // Nobody at a forged address ever answers: a handshake stays until its time is over.
        if scene.admission.incoming(Some(ip(n)), false, scene.now) == Ok(Entry::Enter) {
            entered += 1;
            scene.admission.counts.arrives(id(entered), Some(ip(n)));
        }
    }
    assert_eq!(entered, 16, "a quarter of the places");
    scene.wait(Duration::from_secs(1));
    for n in 0..16 {
        assert_eq!(
            scene.admission.incoming(Some([9, 9, 9, n].into()), true, scene.now),
            Ok(Entry::Enter)
        );
    }
    // A single forged source does not use up its rate either.
    let mut scene = Scene::new(|config| config.admission.source_rate = 1);
    for n in 0..100 {
        if scene.admission.incoming(Some(ip(1)), false, scene.now) == Ok(Entry::Enter) {
            scene.admission.counts.arrives(id(n), Some(ip(1)));
        }
    }
    assert_eq!(scene.admission.incoming(Some(ip(1)), true, scene.now), Ok(Entry::Enter));
}

#[test]
fn one_source_cannot_take_all_places_for_handshakes() {
    let mut scene = Scene::new(|config| config.admission.source_burst = 100);
    for _ in 0..16 {
        scene.arrive(ip(1)).unwrap();
    }
    assert_eq!(scene.arrive(ip(1)), Err(Refused::Pending));
    for n in 2..18 {
        scene.arrive(ip(n)).unwrap();
    }
    assert_eq!(scene.arrive(ip(99)), Err(Refused::Pending), "the rest is for known sources");
}

#[test]
fn the_in_process_transport_has_neither_rates_nor_caps() {
    let mut scene = Scene::new(|config| {
        config.admission.burst = 2;
        config.admission.caps_by_address = Caps::On;
        config.admission.max_per_ip = 1;
    });
    for n in 0..64 {
        assert_eq!(scene.admission.incoming(None, true, scene.now), Ok(Entry::Enter));
        scene.admission.counts.arrives(id(n), None);
    }
    assert_eq!(scene.admission.incoming(None, true, scene.now), Err(Refused::Pending));
}

#[test]
fn a_ban_reaches_whoever_is_there_and_whoever_comes() {
    let mut scene = Scene::new(|_| {});
    for n in 1..=3 {
        scene.enter(peer(n), ip(n.min(2)), None).unwrap();
    }
    let ban = |scene: &mut Scene, target| {
        let time = Some(Duration::from_secs(10));
        scene.admission.ban(target, time, String::new(), scene.now).unwrap().1
    };
    assert_eq!(ban(&mut scene, BanTarget::Peer(peer(1))), [peer(1)].into());
    assert_eq!(ban(&mut scene, BanTarget::Peer(peer(9))), [].into());
    assert_eq!(ban(&mut scene, BanTarget::Ip(ip(2))), [peer(2), peer(3)].into());
    assert_eq!(scene.arrive(ip(2)), Err(Refused::Banned));
    assert!(!scene.admission.reachable(ip(2), scene.now));
    assert_eq!(scene.enter(peer(1), ip(7), None), Err(Refused::Banned));
    assert_eq!(scene.admission.dial(Some(&peer(9)), None, scene.now), Err(Refused::Banned));
    scene.wait(Duration::from_secs(10));
    assert_eq!(scene.admission.dial(Some(&peer(9)), None, scene.now), Ok(()));
    assert!(scene.admission.tick(|_| None, scene.now), "they are gone");
    assert!(!scene.admission.tick(|_| None, scene.now));
}

#[test]
fn dials_under_way_are_bounded() {
    let mut scene = Scene::new(|config| config.admission.max_pending_outbound = 2);
    for n in 0..2 {
        assert_eq!(scene.admission.dial(None, None, scene.now), Ok(()));
        scene.admission.counts.dials(id(n));
    }
    assert_eq!(scene.admission.dial(None, None, scene.now), Err(Refused::Pending));
    scene.admission.counts.settled(id(0));
    assert_eq!(scene.admission.dial(None, None, scene.now), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever comes and goes, from wherever: limits hold all the time, and once all have left and
    /// what is remembered is over, nothing is left.
    #[test]
    fn no_table_outlives_its_entries(
        steps in prop::collection::vec((0u16..600, 0u8..4, 0u64..3000, any::<bool>()), 1..600),
    ) {
        let mut scene = Scene::new(|config| {
            config.admission = Config { max_sources: 50, max_known: 20, ..config.admission.clone() };
            config.admission.caps_by_address = Caps::On;
            config.peers.max_connections = 40;
        });
        let mut held = Vec::new();
        for (n, what, wait_ms, bound) in steps {
            scene.wait(Duration::from_millis(wait_ms));
            let standing = if bound { GOOD } else { None };
            match what {
                0 if !held.is_empty() => {
                    let gone = held.swap_remove(usize::from(n) % held.len());
                    scene.admission.closed(gone);
                }
                1 => scene.tick(),
                2 => {
                    if let Ok(new) = scene.arrive(ip(n)) {
                        scene.admission.counts.settled(new);
                    }
                }
                _ => {
                    if let Ok((new, leaves)) = scene.enter(peer(n + 1), ip(n), standing) {
                        held.push(new);
                        if let Some(leaves) = leaves {
                            scene.admission.closed(leaves);
                            held.retain(|held| *held != leaves);
                        }
                    }
                }
            }
            let status = scene.admission.status(scene.now);
            prop_assert!(status.inbound <= status.inbound_limit, "{status:?}");
            prop_assert_eq!(status.inbound, held.len());
            prop_assert!(status.known_sources <= 20 && status.recent_sources <= 50);
        }
        for gone in held {
            scene.admission.closed(gone);
        }
        scene.wait(Duration::from_secs(86_400));
        scene.tick();
        let status = scene.admission.status(scene.now);
        prop_assert_eq!((status.known_sources, status.recent_sources), (0, 0));
        prop_assert!(scene.admission.counts.is_empty() && scene.admission.nobody_leaves());
    }
}

#[test]
fn who_dials_back_has_two_places_more_for_a_short_time() {
    let mut scene = Scene::new(|config| config.peers.max_per_peer = 1);
    let refused = Err(Refused::PerPeer);
    let dial = |scene: &Scene| scene.admission.dial(Some(&peer(1)), GOOD, scene.now);
    let open = |scene: &mut Scene| {
        scene.ids += 1;
        let since = scene.now.instant;
        let remote = Some(ip(1));
        let open = Open { peer: peer(1), direction: Direction::Outbound, remote, since };
        scene.admission.opened(id(scene.ids), open, GOOD);
    };
    open(&mut scene);
    assert_eq!(dial(&scene), refused);
    scene.admission.expect(&peer(1), scene.now.instant);
    for _ in 0..2 {
        assert_eq!(dial(&scene), Ok(()));
        open(&mut scene);
    }
    assert_eq!(dial(&scene), refused, "two, no more");
    assert!(scene.admission.inbound(&peer(1), Some(ip(1)), GOOD, scene.now).is_err());
    assert_eq!(scene.admission.dial(Some(&peer(2)), GOOD, scene.now), Ok(()));
    // One of the places is free again.
    scene.admission.closed(id(scene.ids));
    assert_eq!(dial(&scene), Ok(()));
    scene.wait(Duration::from_secs(30));
    assert_eq!(dial(&scene), refused);
}

#[test]
fn nobody_can_have_more_peers_expected_than_are_remembered() {
    let mut scene = Scene::new(|config| config.peers.max_per_peer = 0);
    for n in 1..=1000 {
        scene.admission.expect(&peer(n), scene.now.instant);
    }
    let expected = |scene: &Scene| {
        let dial = |n: u16| scene.admission.dial(Some(&peer(n)), GOOD, scene.now);
        (1..=1000).filter(|n| dial(*n).is_ok()).count()
    };
    assert_eq!(expected(&scene), 256);
    scene.wait(Duration::from_secs(30));
    assert_eq!(expected(&scene), 0);
    scene.admission.expect(&peer(1000), scene.now.instant);
    assert_eq!(expected(&scene), 1);
}

#[test]
fn dials_for_others_are_remembered_for_as_long_as_they_may_take() {
    let mut scene = Scene::new(|_| {});
    for n in 0..1000 {
        scene.admission.dials_back(id(n));
    }
    let remembered = (0..2000).filter(|n| scene.admission.is_dial_back(id(*n))).count();
    assert_eq!(remembered, 256);
    assert!(scene.admission.is_dial_back(id(999)), "the last ones");
}
