//! The state machine as a whole, with time handed in.

use super::*;
use crate::{
    identity::peer_id_of,
    nat::{Filtering, Mapping, NatType, stun::Outcome},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

/// An address of this node from outside, one of 256 in each of a few networks.
fn outside(network: u8, port: u8) -> Multiaddr {
    addr(&format!("/ip4/8.8.8.{network}/udp/{}/quic-v1", 1000 + u16::from(port)))
}

fn server(n: u8) -> PeerId {
    peer_id_of(&[n; 32]).unwrap()
}

fn network(n: u8) -> IpGroup {
    IpGroup::of([20, n, 0, 1].into())
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What servers saw, each at an address of its own.
fn report(seen: &[Option<&str>]) -> stun::Report {
    let said = seen.iter().zip(1..).map(|(mapped, n)| stun::Said {
        server: SocketAddr::new([9, 9, 9, n].into(), 3478),
        result: mapped.map_or(Err(Outcome::Timeout), |mapped| Ok(mapped.parse().unwrap())),
        took: Duration::ZERO,
    });
    let said: Vec<_> = said.collect();
    let seen = said.iter().filter_map(|said| said.result.ok());
    stun::Report { mapping: crate::nat::mapping_of(seen), filtering: None, said }
}

/// The machine, its clock, and what is told.
struct Scene {
    machine: Reachability,
    now: Instant,
    told: BTreeSet<Multiaddr>,
    tests: Vec<(Multiaddr, Vec<PeerId>)>,
    stun: Vec<bool>,
    maps: usize,
}

impl Scene {
    fn with(config: Config, policy: AddressPolicy, given: &[Multiaddr]) -> Self {
        let now = Instant::now();
        let machine = Reachability::new(&config, policy, given, now);
        let mut scene =
            Self { machine, now, told: BTreeSet::new(), tests: vec![], stun: vec![], maps: 0 };
        scene.poll();
        scene
    }

    fn new() -> Self {
        let mut config = Config::default();
        config.stun.servers = vec!["a:1".to_owned(), "b:1".to_owned()];
        Self::with(config, AddressPolicy::Global, &[])
    }

    fn on(&mut self, event: Event) {
        self.machine.on(event, self.now);
        self.poll();
    }

    fn poll(&mut self) {
        for action in self.machine.poll(true, self.now) {
            match action {
                Action::Test { addr, avoid } => self.tests.push((addr, avoid)),
                Action::Confirm(addr) => assert!(self.told.insert(addr), "told twice"),
                Action::Withdraw(addr) => assert!(self.told.remove(&addr), "was not told"),
                Action::AskStun { discover } => self.stun.push(discover),
                Action::Map => self.maps += 1,
            }
        }
    }

    /// Time passes, by the overlay's tick.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += secs(1);
            self.poll();
        }
    }

    fn ended(&mut self, addr: &Multiaddr, ended: DialBack) {
        self.tests.retain(|(tested, _)| tested != addr);
        self.on(Event::DialBack { addr: addr.clone(), ended });
    }

    fn observed(&mut self, addr: &Multiaddr, by: u8) {
        self.on(Event::Observed { addr: addr.clone(), by: network(by) });
    }

    fn standing(&self, addr: &Multiaddr) -> Option<Standing> {
        let shown = self.machine.shown();
        shown.iter().find(|shown| shown.addr == addr).map(|shown| shown.standing)
    }

    fn verdict(&self) -> Verdict {
        self.machine.verdict(self.now)
    }

    fn is_tested(&self, addr: &Multiaddr) -> bool {
        self.tests.iter().any(|(tested, _)| tested == addr)
    }
}

#[test]
fn a_mapping_is_a_candidate_until_it_is_dialled_back() {
    let mut scene = Scene::new();
    let mapped = outside(1, 1);
    scene.on(Event::Mapped(mapped.clone()));
    assert_eq!(scene.standing(&mapped), Some(Standing::Candidate));
    assert!(scene.told.is_empty());
    assert!(scene.is_tested(&mapped), "at once");
    scene.ended(&mapped, DialBack::Reached(server(1)));
    assert_eq!(scene.standing(&mapped), Some(Standing::Confirmed));
    assert!(scene.told.contains(&mapped));
    let verdict = scene.verdict();
    assert_eq!((verdict.state, verdict.confidence), (State::Mapped, 50));
}

#[test]
fn what_is_listened_on_is_told_until_dial_backs_fail_and_again_once_one_succeeds() {
    let mut scene = Scene::new();
    let (own, private) = (addr("/ip4/8.8.8.8/tcp/9000"), addr("/ip4/10.0.0.1/tcp/9000"));
    scene.on(Event::Listens(private));
    scene.on(Event::Listens(own.clone()));
    assert_eq!(scene.told, BTreeSet::from([own.clone()]));
    assert_eq!(scene.verdict().state, State::Public);
    scene.ended(&own, DialBack::Failed(server(1)));
    assert_eq!(scene.standing(&own), Some(Standing::Failing));
    assert!(scene.told.contains(&own), "one may be wrong");
    scene.wait(secs(10));
    assert_eq!(scene.tests, [(own.clone(), vec![server(1)])], "another is asked");
    scene.ended(&own, DialBack::Failed(server(2)));
    assert!(scene.told.is_empty());
    scene.wait(secs(20));
    scene.ended(&own, DialBack::Reached(server(3)));
    assert_eq!(scene.standing(&own), Some(Standing::Trusted));
    assert!(scene.told.contains(&own));
    scene.on(Event::Silent(own.clone()));
    assert!(scene.told.is_empty(), "nobody answers there");
}

#[test]
fn the_operators_word_stands_whatever_dial_backs_say() {
    let given = addr("/ip4/9.9.9.9/tcp/9000");
    let mut scene =
        Scene::with(Config::default(), AddressPolicy::Global, std::slice::from_ref(&given));
    assert!(scene.told.contains(&given));
    for n in 0..10 {
        scene.ended(&given, DialBack::Failed(server(n)));
        scene.wait(secs(600));
    }
    scene.on(Event::NetworkChanged);
    scene.wait(secs(3600));
    assert!(scene.told.contains(&given));
    assert_eq!((scene.verdict().state, scene.verdict().confidence), (State::Offline, 50));
    scene.on(Event::Connections { open: 1, udp: 1 });
    assert_eq!((scene.verdict().state, scene.verdict().confidence), (State::Public, 100));
}

#[test]
fn on_local_chains_what_is_listened_on_is_not_tested() {
    let mut scene = Scene::with(Config::default(), AddressPolicy::Any, &[]);
    let own = addr("/ip4/127.0.0.1/tcp/9000");
    scene.on(Event::Listens(own.clone()));
    // The port of an outgoing connection, which nobody listens on.
    scene.observed(&addr("/ip4/127.0.0.1/tcp/41234"), 1);
    scene.wait(secs(3600));
    assert_eq!(scene.told, BTreeSet::from([own]));
    assert!(scene.tests.is_empty(), "{:?}", scene.tests);
}

#[test]
fn on_local_chains_a_private_address_behind_a_nat_is_told_and_not_called_public() {
    let mut scene = Scene::with(Config::default(), AddressPolicy::Any, &[]);
    scene.on(Event::Connections { open: 2, udp: 2 });
    let own = addr("/ip4/10.0.0.1/udp/9000/quic-v1");
    scene.on(Event::Listens(own.clone()));
    assert_eq!(scene.verdict().state, State::Public, "nobody says otherwise");
    for by in 1..=2 {
        scene.observed(&outside(1, by), by);
    }
    assert_eq!(scene.verdict().state, State::Symmetric);
    assert!(scene.told.contains(&own));
}

#[test]
fn a_dial_back_nobody_asked_for_confirms_nothing() {
    let mut scene = Scene::new();
    let seen = outside(1, 1);
    scene.ended(&seen, DialBack::Reached(server(1)));
    assert_eq!(scene.standing(&seen), None);
    scene.observed(&seen, 1);
    scene.ended(&seen, DialBack::Failed(server(1)));
    // Its test is over; this one comes late.
    scene.ended(&seen, DialBack::Reached(server(2)));
    assert!(scene.told.is_empty());
}

#[test]
fn a_confirmed_address_is_tested_again_and_leaves_when_it_fails() {
    let mut scene = Scene::new();
    let seen = outside(1, 1);
    scene.on(Event::Mapped(seen.clone()));
    scene.ended(&seen, DialBack::Reached(server(1)));
    scene.wait(secs(299));
    assert!(!scene.is_tested(&seen));
    scene.wait(secs(1));
    assert!(scene.is_tested(&seen));
    scene.ended(&seen, DialBack::Failed(server(1)));
    assert_eq!(scene.standing(&seen), Some(Standing::Failing));
    scene.wait(secs(10));
    scene.ended(&seen, DialBack::Failed(server(2)));
    assert_eq!(scene.standing(&seen), Some(Standing::Withdrawn));
    assert!(scene.told.is_empty());
}

#[test]
fn answers_that_never_come_keep_an_address_no_longer_than_promised() {
    let mut scene = Scene::new();
    let seen = outside(1, 1);
    scene.on(Event::Mapped(seen.clone()));
    scene.ended(&seen, DialBack::Reached(server(1)));
    scene.wait(secs(899));
    assert!(scene.told.contains(&seen));
    scene.wait(secs(1));
    assert!(scene.told.is_empty());
}

#[test]
fn another_public_address_on_which_two_servers_agree_withdraws_what_was_before() {
    let mut scene = Scene::new();
    let before = outside(1, 1);
    scene.on(Event::Mapped(before.clone()));
    scene.ended(&before, DialBack::Reached(server(1)));
    scene.on(Event::Stun(report(&[Some("8.8.8.1:5"), Some("8.8.8.1:5")])));
    assert!(scene.told.contains(&before));
    scene.on(Event::Stun(report(&[Some("8.8.8.2:5"), Some("8.8.8.2:5")])));
    assert!(scene.told.is_empty());
    assert_eq!(scene.maps, 1, "the router is asked anew");
}

#[test]
fn one_server_that_lies_costs_an_address_no_more_than_a_dial_back() {
    let mut scene = Scene::new();
    let before = outside(1, 1);
    scene.on(Event::Mapped(before.clone()));
    scene.ended(&before, DialBack::Reached(server(1)));
    scene.on(Event::Stun(report(&[Some("8.8.8.66:5"), None])));
    assert!(scene.told.contains(&before) && scene.is_tested(&before));
    scene.ended(&before, DialBack::Reached(server(2)));
    scene.wait(secs(60));
    assert!(scene.told.contains(&before));
    // If it was right, the address is gone in time.
    scene.on(Event::Stun(report(&[Some("8.8.8.66:5"), None])));
    scene.wait(secs(20));
    assert!(scene.told.is_empty());
    // Two that contradict each other show nothing.
    let mut scene = Scene::new();
    scene.on(Event::Mapped(before.clone()));
    scene.ended(&before, DialBack::Reached(server(1)));
    scene.on(Event::Stun(report(&[Some("8.8.8.66:5"), Some("8.8.8.1:5")])));
    assert!(!scene.is_tested(&before));
}

#[test]
fn after_a_network_change_all_is_tested_at_once_and_what_fails_is_gone_within_its_time() {
    let mut scene = Scene::new();
    let (stays, goes) = (outside(1, 1), outside(1, 2));
    for seen in [&stays, &goes] {
        scene.on(Event::Mapped(seen.clone()));
        scene.ended(seen, DialBack::Reached(server(1)));
    }
    scene.stun.clear();
    scene.on(Event::NetworkChanged);
    assert!(scene.is_tested(&stays) && scene.is_tested(&goes));
    assert_eq!((scene.stun.as_slice(), scene.maps), (&[true][..], 1));
    scene.ended(&stays, DialBack::Reached(server(2)));
    scene.wait(secs(20));
    assert_eq!(scene.told, BTreeSet::from([stays]));
}

#[test]
fn losing_all_connections_puts_everything_in_doubt() {
    let mut scene = Scene::new();
    let seen = outside(1, 1);
    scene.on(Event::Connections { open: 2, udp: 2 });
    scene.on(Event::Mapped(seen.clone()));
    scene.ended(&seen, DialBack::Reached(server(1)));
    scene.on(Event::Connections { open: 1, udp: 1 });
    assert!(!scene.is_tested(&seen));
    scene.stun.clear();
    scene.on(Event::Connections { open: 0, udp: 0 });
    assert!(scene.is_tested(&seen));
    assert_eq!(scene.stun, [false]);
    scene.wait(secs(20));
    assert!(scene.told.is_empty());
}

#[test]
fn nothing_is_asked_where_nobody_can_answer() {
    let mut config = Config::default();
    config.stun.servers.clear();
    let mut machine = Reachability::new(&config, AddressPolicy::Global, &[], Instant::now());
    let now = Instant::now();
    machine.on(Event::Mapped(outside(1, 1)), now);
    machine.on(Event::NetworkChanged, now);
    assert_eq!(machine.poll(false, now), [Action::Map]);
    assert!(matches!(machine.poll(true, now).as_slice(), [Action::Test { .. }]));
}

#[test]
fn stun_is_asked_on_schedule_and_the_kind_of_nat_more_rarely() {
    let mut scene = Scene::new();
    assert_eq!(scene.stun, [true], "at once");
    scene.wait(secs(1800));
    assert_eq!(scene.stun.len(), 91);
    assert_eq!(scene.stun.iter().filter(|discover| **discover).count(), 2);
}

#[test]
fn private_addresses_and_such_as_cannot_be_dialled_are_no_candidates() {
    let mut scene = Scene::new();
    for bad in [
        "/ip4/192.168.1.7/tcp/9000",
        "/ip4/100.64.0.1/udp/9000/quic-v1",
        "/ip4/8.8.8.8/tcp/0",
        "/memory/7",
        "/ip4/8.8.8.8/tcp/1/p2p-circuit",
    ] {
        scene.observed(&addr(bad), 1);
        scene.on(Event::Mapped(addr(bad)));
    }
    assert!(scene.machine.shown().is_empty() && scene.tests.is_empty());
}

#[test]
fn peers_alone_show_what_kind_of_nat_there_is() {
    let mut scene = Scene::new();
    scene.on(Event::Connections { open: 2, udp: 2 });
    scene.observed(&outside(1, 1), 1);
    assert_eq!(scene.verdict().state, State::Unknown);
    scene.observed(&outside(1, 1), 2);
    let verdict = scene.verdict();
    assert_eq!((verdict.state, verdict.nat, verdict.confidence), (State::Cone, NatType::Cone, 75));
    assert_eq!(verdict.public_ip, Some([8, 8, 8, 1].into()));

    let mut scene = Scene::new();
    scene.on(Event::Connections { open: 3, udp: 3 });
    for n in 1..=3 {
        scene.observed(&outside(1, n), n);
    }
    let verdict = scene.verdict();
    assert_eq!((verdict.state, verdict.confidence), (State::Symmetric, 88));
    assert_eq!(verdict.mapping, Some(Mapping::Dependent));
    // What peers saw long ago counts no longer.
    scene.wait(secs(600));
    assert_eq!(scene.verdict().state, State::Unknown);
}

#[test]
fn stun_tells_nats_apart_where_peers_have_not() {
    let mut scene = Scene::new();
    scene.on(Event::Connections { open: 1, udp: 1 });
    scene.on(Event::Stun(report(&[Some("8.8.8.1:5"), Some("8.8.8.1:5")])));
    assert_eq!((scene.verdict().state, scene.verdict().nat), (State::Cone, NatType::Cone));
    let filtering = Some(Filtering::PortDependent);
    let discovered = report(&[Some("8.8.8.1:5"), Some("8.8.8.1:5")]);
    scene.on(Event::Stun(stun::Report { filtering, ..discovered }));
    assert_eq!(scene.verdict().nat, NatType::PortRestrictedCone);
    // A round that asks for the address alone takes nothing back.
    scene.on(Event::Stun(stun::Report { mapping: None, ..report(&[Some("8.8.8.1:5"), None]) }));
    assert_eq!(scene.verdict().nat, NatType::PortRestrictedCone);
    scene.on(Event::Stun(report(&[Some("8.8.8.2:5"), Some("8.8.8.2:6")])));
    assert_eq!(
        (scene.verdict().state, scene.verdict().nat),
        (State::Symmetric, NatType::Symmetric)
    );
}

#[test]
fn silence_of_all_servers_with_tcp_open_means_that_udp_is_blocked() {
    let mut scene = Scene::new();
    scene.on(Event::Connections { open: 2, udp: 0 });
    scene.on(Event::Stun(report(&[None, None])));
    let verdict = scene.verdict();
    assert_eq!((verdict.state, verdict.nat), (State::UdpBlocked, NatType::UdpBlocked));
    assert_eq!(verdict.confidence, 50);
    scene.on(Event::Stun(report(&[None, None])));
    assert_eq!(scene.verdict().confidence, 75);
    // A connection over UDP proves the contrary: it is the servers that are dead.
    scene.on(Event::Connections { open: 2, udp: 1 });
    assert_eq!(scene.verdict().state, State::Unknown);
}

#[test]
fn without_connections_and_answers_a_node_is_offline_after_a_while() {
    let mut scene = Scene::new();
    scene.on(Event::Stun(report(&[None, None])));
    assert_eq!(scene.verdict().state, State::Unknown);
    scene.wait(secs(30));
    let verdict = scene.verdict();
    assert_eq!((verdict.state, verdict.confidence), (State::Offline, 75));
    scene.on(Event::Stun(report(&[Some("8.8.8.1:5"), Some("8.8.8.1:5")])));
    assert_eq!(scene.verdict().state, State::Cone, "there is a way out");
}

#[test]
fn an_own_public_address_behind_a_firewall_is_like_a_cone() {
    let mut scene = Scene::new();
    scene.on(Event::Connections { open: 1, udp: 1 });
    let own = addr("/ip4/8.8.8.1/udp/9000/quic-v1");
    scene.on(Event::Listens(own.clone()));
    scene.on(Event::Stun(report(&[Some("8.8.8.1:5"), None])));
    assert_eq!((scene.verdict().state, scene.verdict().nat), (State::Public, NatType::None));
    for n in 1..=2 {
        scene.wait(secs(10));
        scene.ended(&own, DialBack::Failed(server(n)));
    }
    assert_eq!((scene.verdict().state, scene.verdict().nat), (State::Cone, NatType::None));
}

#[test]
fn a_liar_with_many_addresses_crowds_out_nothing_that_works() {
    let config = Config { max_candidates: 4, ..Config::default() };
    let mut scene = Scene::with(config, AddressPolicy::Global, &[]);
    let (works, seen) = (outside(1, 1), outside(1, 2));
    scene.on(Event::Mapped(works.clone()));
    scene.ended(&works, DialBack::Reached(server(1)));
    for n in 1..=3 {
        scene.observed(&seen, n);
    }
    for port in 10..200 {
        scene.observed(&outside(7, port), 9);
    }
    assert_eq!(scene.machine.shown().len(), 4);
    assert_eq!(scene.standing(&works), Some(Standing::Confirmed));
    assert_eq!(scene.standing(&seen), Some(Standing::Candidate));
    // One that was never reached makes room for a mapping.
    let mapped = outside(1, 3);
    scene.on(Event::Mapped(mapped.clone()));
    assert_eq!(scene.standing(&mapped), Some(Standing::Candidate));
}

#[derive(Clone, Debug)]
enum Step {
    Observed(u8, u8, u8),
    Mapped(u8, u8),
    Unmapped(u8, u8),
    Listens(u8),
    Silent(u8),
    DialBack(usize, u8, u8),
    Unasked(u8, u8),
    Stun(Vec<Option<u8>>),
    Connections(usize, usize),
    NetworkChanged,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..4u8, 0..40u8, 0..6u8).prop_map(|(a, b, c)| Step::Observed(a, b, c)),
        1 => (0..4u8, 0..40u8).prop_map(|(a, b)| Step::Mapped(a, b)),
        1 => (0..4u8, 0..40u8).prop_map(|(a, b)| Step::Unmapped(a, b)),
        1 => (0..4u8).prop_map(Step::Listens),
        1 => (0..4u8).prop_map(Step::Silent),
        3 => (any::<usize>(), 0..3u8, 0..5u8).prop_map(|(a, b, c)| Step::DialBack(a, b, c)),
        1 => (0..4u8, 0..40u8).prop_map(|(a, b)| Step::Unasked(a, b)),
        1 => proptest::collection::vec(proptest::option::of(0..4u8), 0..4).prop_map(Step::Stun),
        1 => (0..5usize, 0..5usize).prop_map(|(a, b)| Step::Connections(a, b.min(a))),
        1 => Just(Step::NetworkChanged),
        3 => (0..400u16).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: what is told was reached, or is listened on; it was
    /// reached not too long ago; what was in doubt is proved or gone in time; all is bounded.
    #[test]
    fn nothing_is_told_that_was_not_dialled_back_or_no_longer_works(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let config = Config { max_candidates: 8, ..Config::default() };
        let mut scene = Scene::with(config.clone(), AddressPolicy::Global, &[]);
        let mut reached = HashMap::<Multiaddr, Instant>::new();
        let mut failed = HashMap::<Multiaddr, u32>::new();
        let mut listened = HashMap::<Multiaddr, usize>::new();
        let mut doubted: Option<(Instant, BTreeSet<Multiaddr>)> = None;
        for step in steps {
            match step {
                Step::Observed(ip, port, by) => scene.observed(&outside(ip, port), by),
                Step::Mapped(ip, port) => scene.on(Event::Mapped(outside(ip, port))),
                Step::Unmapped(ip, port) => scene.on(Event::Unmapped(outside(ip, port))),
                Step::Listens(ip) => {
                    *listened.entry(outside(100 + ip, 0)).or_default() += 1;
                    scene.on(Event::Listens(outside(100 + ip, 0)));
                }
                Step::Silent(ip) => {
                    if listened.remove(&outside(100 + ip, 0)).is_some() {
                        scene.on(Event::Silent(outside(100 + ip, 0)));
                    }
                }
                Step::DialBack(which, how, by) => {
                    let count = scene.tests.len();
                    let Some(at) = which.checked_rem(count) else { continue };
                    let (tested, _) = scene.tests[at].clone();
                    let ended = match how {
                        0 => {
                            reached.insert(tested.clone(), scene.now);
                            failed.remove(&tested);
                            if let Some((_, doubted)) = &mut doubted {
                                doubted.remove(&tested);
                            }
                            DialBack::Reached(server(by))
                        }
                        1 => {
                            *failed.entry(tested.clone()).or_default() += 1;
                            DialBack::Failed(server(by))
                        }
                        _ => DialBack::Unanswered,
                    };
                    scene.ended(&tested, ended);
                }
                Step::Unasked(ip, port) => {
                    let unasked = outside(ip, port);
                    if !scene.is_tested(&unasked) {
                        scene.ended(&unasked, DialBack::Reached(server(9)));
                    }
                }
                Step::Stun(seen) => {
                    let seen: Vec<_> =
                        seen.iter().map(|ip| ip.map(|ip| format!("8.8.8.{ip}:5"))).collect();
                    let seen: Vec<_> = seen.iter().map(Option::as_deref).collect();
                    scene.on(Event::Stun(report(&seen)));
                }
                Step::Connections(open, udp) => scene.on(Event::Connections { open, udp }),
                Step::NetworkChanged => {
                    let learned =
                        scene.told.iter().filter(|a| !listened.contains_key(*a)).cloned();
                    doubted.get_or_insert((scene.now, learned.collect()));
                    scene.on(Event::NetworkChanged);
                }
                Step::Wait(time) => scene.wait(secs(time.into())),
            }
            // A test that has run out of time is asked for again; its answer would be another's.
            let Scene { machine, tests, .. } = &mut scene;
            tests.retain(|(a, _)| machine.entries.get(a).is_some_and(|e| e.testing.is_some()));
            tests.dedup_by(|a, b| a.0 == b.0);

            for addr in &scene.told {
                let proof = reached.get(addr).is_some_and(|at| {
                    scene.now.saturating_duration_since(*at) <= config.proof_lasts
                });
                prop_assert!(proof || listened.contains_key(addr), "{addr} is told");
            }
            if let Some((since, addrs)) = &doubted
                && scene.now.saturating_duration_since(*since) > config.prove_within
            {
                prop_assert!(addrs.iter().all(|a| !scene.told.contains(a)), "in doubt");
                doubted = None;
            }
            let learned = scene.machine.entries.values().filter(|entry| !entry.ours()).count();
            prop_assert!(learned <= config.max_candidates + 4, "{learned} learned");
            let under_way =
                scene.machine.entries.values().filter(|entry| entry.testing.is_some()).count();
            prop_assert!(under_way <= config.max_tests);
            let verdict = scene.verdict();
            prop_assert!(verdict.confidence <= 100);
            prop_assert_eq!(verdict.confidence == 0, verdict.state == State::Unknown);
        }
    }
}
