//! Lookups in a network of peers that only exist on paper.

use super::{candidates::IN_VAIN, *};
use crate::{dht::network::Failure, identity::peer_id_of};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet, VecDeque};

const PATIENCE: Duration = Duration::from_millis(500);

fn settings(paths: usize) -> Settings {
    Settings { width: 20, parallelism: 6, paths, max_group: None, timeout: Duration::from_secs(10) }
}

fn peer(n: u32) -> PeerId {
    peer_id_of(blake3::hash(&n.to_le_bytes()).as_bytes()).unwrap()
}

fn target(n: u32) -> Point {
    Point::of_bytes(&n.to_be_bytes())
}

/// In the network `8.group`.
fn contact(n: u32, group: u8) -> Contact {
    let [_, _, c, d] = n.to_be_bytes();
    Contact {
        peer: peer(n),
        addresses: vec![format!("/ip4/8.{group}.{c}.{d}/tcp/1").parse().unwrap()],
    }
}

fn reached(contact: &Contact) -> Option<IpGroup> {
    crate::dht::admission::group_of(contact.addresses.first()?)
}

fn group(n: u8) -> Option<IpGroup> {
    Some(IpGroup::of(std::net::Ipv4Addr::new(8, n, 0, 1).into()))
}

/// Peers that know each other as kad's buckets would have it.
struct Net {
    tables: HashMap<PeerId, Vec<(Point, Contact)>>,
    points: Vec<(Point, PeerId)>,
}

impl Net {
    fn new(size: u32) -> Self {
        let all: Vec<_> = (0..size).map(|n| (Point::of_peer(&peer(n)), contact(n, 1))).collect();
        let mut tables = HashMap::new();
        for (own, who) in &all {
            let mut buckets: HashMap<u32, Vec<(Point, Contact)>> = HashMap::new();
            for (point, other) in all.iter().filter(|(point, _)| point != own) {
                let bucket = buckets.entry(own.common_prefix(point)).or_default();
                if bucket.len() < 20 {
                    bucket.push((*point, other.clone()));
                }
            }
            tables.insert(who.peer, buckets.into_values().flatten().collect());
        }
        Self { tables, points: all.iter().map(|(point, who)| (*point, who.peer)).collect() }
    }

    fn nearest<'a>(known: &'a [(Point, Contact)], target: &Point) -> Vec<&'a Contact> {
        let mut known: Vec<_> = known.iter().collect();
        known.sort_by_key(|(point, _)| point.distance(target));
        known.into_iter().take(20).map(|(_, contact)| contact).collect()
    }

    fn answer(&self, peer: &PeerId, target: &Point) -> Answer {
        let closer = Self::nearest(&self.tables[peer], target).into_iter().cloned().collect();
        Answer { closer, ..Answer::default() }
    }

    fn seeds(&self, of: &PeerId, target: &Point) -> Vec<Contact> {
        self.answer(of, target).closer
    }

    /// The nearest peers there are, but for one.
    fn truth(&self, target: &Point, without: &PeerId) -> Vec<PeerId> {
        let mut points: Vec<_> = self.points.iter().filter(|(_, p)| p != without).collect();
        points.sort_by_key(|(point, _)| point.distance(target));
        points.into_iter().take(20).map(|(_, peer)| *peer).collect()
    }
}

fn drive(
    lookup: &mut Lookup,
    mut now: Instant,
    mut answer: impl FnMut(&Contact) -> Option<Answer>,
) -> (Outcome, Vec<PeerId>) {
    let mut asked = Vec::new();
    let mut in_flight: VecDeque<Contact> = VecDeque::new();
    loop {
        while let Some(contact) = lookup.next(now, |_| PATIENCE) {
            assert!(!asked.contains(&contact.peer), "asked twice");
            asked.push(contact.peer);
            in_flight.push_back(contact);
            assert!(lookup.waiting.len() <= 160 && lookup.candidates.len() <= 340);
        }
        if let Some(end) = lookup.end(now) {
            return (lookup.outcome(end), asked);
        }
        match in_flight.pop_front() {
            Some(contact) => match answer(&contact) {
                // It is reached where it was said to be.
                Some(answer) => lookup.on_answer(&contact.peer, reached(&contact), answer, |_| {}),
                // Nothing comes: time goes by, and in the end the question has failed.
                None => {
                    now = lookup.wakes_at(now);
                    if in_flight.is_empty() {
                        lookup.on_failure(&contact.peer);
                    } else {
                        in_flight.push_back(contact);
                    }
                }
            },
            None => now = lookup.wakes_at(now),
        }
    }
}

#[test]
fn the_result_is_the_true_nearest() {
    let net = Net::new(400);
    let local = peer(0);
    for paths in [1, 3] {
        for n in 0..20 {
            let target = target(n);
            let seeds = net.seeds(&local, &target);
            let goal = Goal::Closest;
            let mut lookup =
                Lookup::new(settings(paths), goal, local, target, seeds, Instant::now());
            let (outcome, asked) =
                drive(&mut lookup, Instant::now(), |c| Some(net.answer(&c.peer, &target)));
            let found: Vec<PeerId> = outcome.closest.iter().map(|c| c.peer).collect();
            assert_eq!(found, net.truth(&target, &local), "{paths} paths, target {n}");
            assert_eq!(outcome.end, End::Converged);
            assert_eq!((outcome.asked, outcome.answered), (asked.len(), asked.len()));
            assert!(outcome.asked <= 60 && outcome.hops <= 4, "{outcome:?}");
        }
    }
}

#[test]
fn peers_that_have_gone_are_passed_over() {
    let net = Net::new(300);
    let (local, target) = (peer(0), target(1));
    let seeds = net.seeds(&local, &target);
    let truth = net.truth(&target, &local);
    let gone: HashSet<PeerId> = truth.iter().step_by(3).copied().collect();
    let now = Instant::now();
    let mut lookup = Lookup::new(settings(1), Goal::Closest, local, target, seeds, now);
    let mut failed = Vec::new();
    let mut asked = Vec::new();
    let outcome = loop {
        if let Some(end) = lookup.end(now) {
            break lookup.outcome(end);
        }
        let contact = lookup.next(now, |_| PATIENCE).expect("it has not ended");
        asked.push(contact.peer);
        if gone.contains(&contact.peer) {
            failed.push(contact.peer);
            lookup.on_failure(&contact.peer);
        } else {
            let answer = net.answer(&contact.peer, &target);
            lookup.on_answer(&contact.peer, None, answer, |_| {});
        }
    };
    assert_eq!(outcome.end, End::Converged);
    assert_eq!(outcome.closest.len(), 20);
    assert_eq!(failed.len(), gone.len(), "all of those that are gone were among the nearest");
    for peer in truth.iter().filter(|peer| !gone.contains(peer)) {
        assert!(outcome.closest.iter().any(|c| c.peer == *peer));
    }
}

#[test]
fn it_ends_when_enough_providers_are_known() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let seeds = (1..10).map(|n| contact(n, 1));
    let mut lookup = Lookup::new(settings(3), Goal::Providers(2), local, target, seeds, now);
    lookup.knows(peer(90));
    let first = lookup.next(now, |_| PATIENCE).unwrap();
    let providers = |ns: &[u32]| Answer {
        providers: ns.iter().map(|n| contact(*n, 1)).collect(),
        ..Answer::default()
    };
    lookup.on_answer(&first.peer, None, providers(&[90]), |_| {});
    assert_eq!(lookup.end(now), None, "one provider, named twice");
    let second = lookup.next(now, |_| PATIENCE).unwrap();
    lookup.on_answer(&second.peer, None, providers(&[90, 91, 92]), |_| {});
    assert_eq!(lookup.end(now), Some(End::Enough));
    assert_eq!(lookup.next(now, |_| PATIENCE), None);
    let outcome = lookup.outcome(End::Enough);
    assert_eq!((outcome.providers, outcome.hops), (vec![peer(90), peer(91)], 1));
    lookup.want(3);
    assert_eq!(lookup.end(now), None, "somebody wants more");
}

#[test]
fn one_path_alone_does_not_fill_what_is_wanted() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let seeds = (1..4).map(|n| contact(n, 1));
    let mut lookup = Lookup::new(settings(3), Goal::Providers(6), local, target, seeds, now);
    let asked: Vec<PeerId> = (0..3).map(|_| lookup.next(now, |_| PATIENCE).unwrap().peer).collect();
    let providers = |ns: std::ops::Range<u32>| Answer {
        providers: ns.map(|n| contact(n, 1)).collect(),
        ..Answer::default()
    };
    lookup.on_answer(&asked[0], None, providers(1000..1020), |_| {});
    assert_eq!(lookup.end(now), None, "a liar has told twenty");
    assert_eq!(lookup.providers(), [peer(1000), peer(1001)]);
    lookup.on_answer(&asked[1], None, providers(50..51), |_| {});
    lookup.on_answer(&asked[2], None, Answer::default(), |_| {});
    assert_eq!(lookup.end(now), Some(End::Converged));
    let found = lookup.outcome(End::Converged).providers;
    assert_eq!(found.len(), 6);
    assert_eq!(found[..3], [peer(1000), peer(1001), peer(50)]);
}

#[test]
fn it_ends_when_the_peer_that_is_wanted_was_asked() {
    let (local, now) = (peer(0), Instant::now());
    let target = Point::of_peer(&peer(5));
    let seeds = (1..10).map(|n| contact(n, 1));
    let mut lookup = Lookup::new(settings(1), Goal::Peer(peer(5)), local, target, seeds, now);
    assert_eq!(lookup.next(now, |_| PATIENCE).unwrap().peer, peer(5));
    assert_eq!(lookup.end(now), None);
    lookup.on_failure(&peer(5));
    assert_eq!(lookup.end(now), Some(End::Enough));
    assert!(lookup.outcome(End::Enough).closest.is_empty());
}

#[test]
fn a_late_answer_gives_its_slot_away_and_still_counts() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let one = Settings { width: 2, parallelism: 1, ..settings(1) };
    let seeds = (1..4).map(|n| contact(n, 1));
    let mut lookup = Lookup::new(one, Goal::Closest, local, target, seeds, now);
    let first = lookup.next(now, |_| PATIENCE).unwrap();
    assert_eq!(lookup.next(now, |_| PATIENCE), None, "one at a time");
    assert_eq!(lookup.wakes_at(now), now + PATIENCE);
    let late = now + PATIENCE;
    let second = lookup.next(late, |_| PATIENCE).expect("the slot is free");
    lookup.on_answer(&second.peer, None, Answer::default(), |_| {});
    lookup.on_answer(&first.peer, None, Answer::default(), |_| {});
    assert_eq!(lookup.end(late), Some(End::Converged));
    let closest = lookup.outcome(End::Converged).closest;
    assert_eq!(closest, [first, second], "the nearer first, though it came late");
}

#[test]
fn where_nobody_else_is_left_the_late_are_waited_for() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let seeds = [contact(1, 1), contact(2, 2)];
    let mut lookup = Lookup::new(settings(1), Goal::Closest, local, target, seeds, now);
    let answers = lookup.next(now, |_| PATIENCE).unwrap().peer;
    let silent = lookup.next(now, |_| PATIENCE).unwrap().peer;
    lookup.on_answer(&answers, None, Answer::default(), |_| {});
    let late = now + PATIENCE;
    assert_eq!(lookup.end(late), None);
    assert_eq!(lookup.wakes_at(late), now + PATIENCE * LAST_HOPE);
    assert_eq!(lookup.end(now + PATIENCE * LAST_HOPE), Some(End::Converged));
    lookup.on_answer(&silent, None, Answer::default(), |_| {});
    assert_eq!(lookup.outcome(End::Converged).answered, 2);
}

#[test]
fn where_nobody_has_answered_nobody_is_given_up_before_the_question_has_failed() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let seeds = [contact(1, 1), contact(2, 2)];
    let mut lookup = Lookup::new(settings(1), Goal::Closest, local, target, seeds, now);
    let asked = [(); 2].map(|()| lookup.next(now, |_| PATIENCE).unwrap().peer);
    let later = now + PATIENCE * LAST_HOPE;
    assert_eq!(lookup.end(later), None);
    assert_eq!(lookup.wakes_at(later), now + Duration::from_secs(10));
    for peer in asked {
        assert_eq!(lookup.end(later), None);
        lookup.on_failure(&peer);
    }
    assert_eq!(lookup.end(later), Some(End::Converged));
}

#[test]
fn the_time_is_up_when_it_is_up() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let seeds = (1..50).map(|n| contact(n, 1));
    let mut lookup = Lookup::new(settings(1), Goal::Closest, local, target, seeds, now);
    lookup.next(now, |_| Duration::from_secs(100)).unwrap();
    assert_eq!(lookup.wakes_at(now), now + Duration::from_secs(10));
    assert_eq!(lookup.end(now + Duration::from_secs(10)), Some(End::Timeout));
}

#[test]
fn nobody_to_ask_is_an_end() {
    let now = Instant::now();
    let seeds = [contact(0, 1)];
    let lookup = Lookup::new(settings(1), Goal::Closest, peer(0), target(1), seeds, now);
    assert_eq!(lookup.end(now), Some(End::Converged));
    assert_eq!(lookup.outcome(End::Converged).asked, 0);
}

#[test]
fn few_of_one_network_count() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let mut by_distance: Vec<u32> = (1..200).collect();
    by_distance.sort_by_key(|n| Point::of_peer(&peer(*n)).distance(&target));
    // The 50 nearest are all in one network, the rest each in its own.
    let contacts: Vec<Contact> = by_distance
        .iter()
        .enumerate()
        .map(|(at, n)| contact(*n, if at < 50 { 0 } else { u8::try_from(at).unwrap() }))
        .collect();
    let diverse = Settings { max_group: Some(2), ..settings(3) };
    let seeds = contacts.iter().skip(60).take(3).cloned();
    let mut lookup = Lookup::new(diverse, Goal::Closest, local, target, seeds, now);
    let (outcome, asked) = drive(&mut lookup, now, |_| {
        Some(Answer { closer: contacts.iter().take(80).cloned().collect(), ..Answer::default() })
    });
    assert_eq!(outcome.closest.len(), 20);
    let of_one = outcome.closest.iter().filter(|c| contacts[..50].contains(c)).count();
    assert_eq!(of_one, 2);
    assert!(outcome.closest.iter().skip(2).eq(contacts[50..68].iter()), "the next nearest");
    let sybils = asked.iter().filter(|p| contacts[..50].iter().any(|c| c.peer == **p)).count();
    assert!(sybils <= 4, "{sybils} of them were asked");
}

#[test]
fn who_invents_providers_does_not_end_a_lookup_alone() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let diverse = Settings { max_group: Some(2), parallelism: 1, ..settings(1) };
    let invented: Vec<u32> = (100..120).collect();
    for (wanted, counted) in [(8, 1), (16, 2)] {
        let seeds = [contact(1, 1), contact(2, 1), contact(3, 2)];
        let goal = Goal::Providers(wanted);
        let mut lookup = Lookup::new(diverse.clone(), goal, local, target, seeds, now);
        let (outcome, asked) = drive(&mut lookup, now, |who| {
            let named = if who.peer == peer(3) { &[90][..] } else { &invented };
            let providers = named.iter().map(|n| contact(*n, 1)).collect();
            Some(Answer { providers, ..Answer::default() })
        });
        assert_eq!((outcome.end, asked.len()), (End::Converged, 3), "nobody was left to be asked");
        assert_eq!(outcome.providers.len(), wanted, "what else was named makes up the number");
        let at = outcome.providers.iter().position(|provider| *provider == peer(90)).unwrap();
        assert!(at <= counted, "the honest one is among those that count");
    }
}

#[test]
fn who_names_peers_that_are_not_there_is_not_followed_for_long() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let mut by_distance: Vec<u32> = (1..200).collect();
    by_distance.sort_by_key(|n| Point::of_peer(&peer(*n)).distance(&target));
    // The 100 nearest are not there. A liar names them, each in another network; others name the rest.
    let in_network = |at: usize| contact(by_distance[at], u8::try_from(at).unwrap());
    let (invented, honest): (Vec<Contact>, Vec<Contact>) =
        ((0..100).map(in_network).collect(), (100..199).map(in_network).collect());
    let liar = honest[40].peer;
    let seeds = [honest[40].clone(), honest[41].clone(), honest[42].clone()];
    let diverse = Settings { max_group: Some(2), ..settings(3) };
    let mut lookup = Lookup::new(diverse, Goal::Closest, local, target, seeds, now);
    let mut vain = HashSet::new();
    let (outcome, _) = drive(&mut lookup, now, |who| {
        if invented.contains(who) {
            vain.insert(who.peer);
            return None;
        }
        let named = if who.peer == liar { &invented[..20] } else { &honest[..20] };
        Some(Answer { closer: named.to_vec(), ..Answer::default() })
    });
    assert_eq!(outcome.end, End::Converged);
    // Some honest ones are late when time goes by, and passed over.
    assert_eq!(outcome.closest.len(), 20);
    assert!(outcome.closest.iter().all(|contact| honest.contains(contact)));
    assert_eq!(outcome.closest[..10], honest[..10]);
    assert!(vain.len() <= IN_VAIN + settings(3).parallelism, "{} were asked", vain.len());
}

#[test]
fn where_a_peer_was_reached_counts_and_not_where_it_was_said_to_be() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let diverse = Settings { max_group: Some(1), width: 3, ..settings(1) };
    // All say that they are somewhere else, and are in the same network.
    let seeds = (1..4u8).map(|n| contact(n.into(), n));
    let mut lookup = Lookup::new(diverse, Goal::Closest, local, target, seeds, now);
    while let Some(contact) = lookup.next(now, |_| PATIENCE) {
        lookup.on_answer(&contact.peer, group(9), Answer::default(), |_| {});
    }
    assert_eq!(lookup.outcome(End::Converged).closest.len(), 1);
}

#[test]
fn who_is_said_to_be_in_a_full_network_by_a_liar_is_asked_where_others_say_it_is() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let diverse = Settings { max_group: Some(1), parallelism: 1, ..settings(1) };
    let mut near: Vec<u32> = (1..4).collect();
    near.sort_by_key(|n| Point::of_peer(&peer(*n)).distance(&target));
    let [first, second, third] = near[..] else { panic!() };
    let seeds = [contact(first, 1), contact(third, 3)];
    let mut lookup = Lookup::new(diverse, Goal::Closest, local, target, seeds, now);
    let says = |group| Answer { closer: vec![contact(second, group)], ..Answer::default() };
    assert_eq!(lookup.next(now, |_| PATIENCE).unwrap().peer, peer(first));
    lookup.on_answer(&peer(first), group(1), says(1), |_| {});
    assert_eq!(lookup.next(now, |_| PATIENCE).unwrap().peer, peer(third), "2 seems to be in 1");
    lookup.on_answer(&peer(third), group(3), says(2), |_| {});
    let asked = lookup.next(now, |_| PATIENCE).unwrap();
    assert_eq!((asked.peer, asked.addresses.len()), (peer(second), 2));
}

#[test]
fn what_is_not_taken_of_an_answer_is_told() {
    let (local, target, now) = (peer(0), target(1), Instant::now());
    let seeds = [contact(1, 1)];
    let narrow = Settings { width: 1, ..settings(1) };
    let mut lookup = Lookup::new(narrow, Goal::Closest, local, target, seeds, now);
    lookup.next(now, |_| PATIENCE).unwrap();
    let mut others: Vec<u32> = (2..6).collect();
    others.sort_by_key(|n| Point::of_peer(&peer(*n)).distance(&target));
    let closer = [0, 1].into_iter().chain(others).map(|n| contact(n, 1)).collect();
    let mut dropped = Vec::new();
    let answer = Answer { closer, ..Answer::default() };
    lookup.on_answer(&peer(1), None, answer.clone(), |reason| dropped.push(reason));
    // Three are kept of the four others.
    assert_eq!(dropped, [Dropped::Local, Dropped::Itself, Dropped::Far]);
    assert_eq!(lookup.candidates.len(), 4);
    lookup.on_answer(&peer(2), None, answer, |_| panic!("it was not asked"));
    assert_eq!(lookup.outcome(End::Converged).answered, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    Answer(usize, Vec<u32>),
    Fail(usize),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let named = proptest::collection::vec(0u32..400, 0..30);
    prop_oneof![
        4 => Just(Step::Ask),
        4 => (any::<usize>(), named).prop_map(|(who, named)| Step::Answer(who, named)),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => any::<u16>().prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever peers say and whenever they say it: nobody is asked twice, no more are asked at a
    /// time than may be, a peer stays on its path, all stays within its bounds, and it ends.
    #[test]
    fn whatever_comes_it_stays_within_its_bounds_and_ends(
        steps in proptest::collection::vec(step(), 0..300),
        paths in 1usize..5,
        diverse: bool,
    ) {
        let begun = Instant::now();
        let mut now = begun;
        let settings = Settings {
            width: 4,
            parallelism: 3,
            max_group: diverse.then_some(2),
            ..settings(paths)
        };
        let of = |n: u32| contact(n, n.to_le_bytes()[0] % 16);
        let seeds = (1..6).map(of);
        let mut lookup = Lookup::new(settings, Goal::Closest, peer(0), target(1), seeds, now);
        let mut asked: HashMap<PeerId, usize> = HashMap::new();
        let mut open: Vec<PeerId> = Vec::new();
        for step in steps {
            match step {
                Step::Ask => if let Some(contact) = lookup.next(now, |_| PATIENCE) {
                    let path = lookup.candidates.of_peer_mut(&contact.peer).unwrap().path;
                    prop_assert!(asked.insert(contact.peer, path).is_none(), "asked twice");
                    open.push(contact.peer);
                },
                Step::Answer(who, named) => if !open.is_empty() {
                    let peer = open.swap_remove(who % open.len());
                    let closer = named.into_iter().map(of).collect();
                    lookup.on_answer(&peer, None, Answer { closer, ..Answer::default() }, |_| {});
                },
                Step::Fail(who) => if !open.is_empty() {
                    lookup.on_failure(&open.swap_remove(who % open.len()));
                },
                Step::Wait(ms) => now += Duration::from_millis((ms % 300).into()),
            }
            let on_time = lookup.waiting.iter().filter(|w| w.late_at > now).count();
            prop_assert!(on_time <= 3 && asked.len() <= 32);
            prop_assert!(lookup.candidates.len() <= 32 + paths * 12);
            for (peer, path) in &asked {
                prop_assert_eq!(lookup.candidates.of_peer_mut(peer).unwrap().path, *path);
            }
            prop_assert!(lookup.wakes_at(now) > now || lookup.end(now).is_some());
        }
        // From here on nobody answers any more.
        while lookup.end(now).is_none() {
            match lookup.next(now, |_| PATIENCE) {
                Some(_) => {}
                None => now = lookup.wakes_at(now),
            }
            prop_assert!(now <= begun + Duration::from_secs(10));
        }
    }

    /// Two paths never ask the same peer, and what one path is told does not reach another.
    #[test]
    fn paths_are_disjoint(named in proptest::collection::vec((0usize..3, 10u32..60), 1..80)) {
        let now = Instant::now();
        let seeds = (1..4).map(|n| contact(n, 1));
        let mut lookup = Lookup::new(settings(3), Goal::Closest, peer(0), target(1), seeds, now);
        let first: Vec<PeerId> =
            (0..3).map(|_| lookup.next(now, |_| PATIENCE).unwrap().peer).collect();
        let path_of = |lookup: &mut Lookup, peer: &PeerId| {
            lookup.candidates.of_peer_mut(peer).map(|c| c.path)
        };
        let paths: Vec<_> = first.iter().map(|p| path_of(&mut lookup, p).unwrap()).collect();
        prop_assert_eq!(paths.iter().collect::<HashSet<_>>().len(), 3, "each asks one of its own");
        let mut owner: HashMap<u32, usize> = HashMap::new();
        for (path, peer) in first.iter().enumerate() {
            let told: Vec<u32> =
                named.iter().filter(|(by, _)| *by == path).map(|(_, n)| *n).collect();
            for n in &told {
                owner.entry(*n).or_insert(paths[path]);
            }
            let closer = told.into_iter().map(|n| contact(n, 1)).collect();
            lookup.on_answer(peer, None, Answer { closer, ..Answer::default() }, |_| {});
        }
        for (n, path) in owner {
            prop_assert_eq!(path_of(&mut lookup, &peer(n)), Some(path));
        }
    }
}

#[test]
fn every_reason_has_a_label_of_its_own() {
    let labels: HashSet<&str> = Dropped::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), Dropped::ALL.len());
    let labels: HashSet<&str> = Failure::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), Failure::ALL.len());
}
