//! Rounds against NATs and servers of every kind: simulated, and over real sockets.

use super::{
    message::Change,
    message::testing::{read_request, refusal, success},
    round::{Outcome, Round, Rules, Send},
    worker::{Ask, Heard, Worker},
};
use crate::{
    AddressPolicy, Metrics,
    nat::{
        self, Filtering, Mapping, NatType,
        config::{Stun, Wait},
    },
};
use prometheus_endpoint::{CounterVec, U64};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, sync::mpsc};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn rules() -> Rules {
    let retransmit = [250, 500, 1000].map(Duration::from_millis).to_vec();
    Rules { retransmit, redirects: 2, policy: AddressPolicy::Global }
}

/// How a simulated server answers.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Plain,
    /// With RFC 5780, at this other address.
    Full(SocketAddr),
    Silent,
    Refuses,
    SendsOnTo(SocketAddr),
    From(SocketAddr),
    OtherId,
    Says(SocketAddr),
    Garbage,
    Endless,
}

/// A NAT with servers behind it.
struct World {
    mapping: Mapping,
    filtering: Filtering,
    servers: BTreeMap<SocketAddr, Manner>,
    /// Public port by destination, as the NAT maps.
    ports: BTreeMap<(std::net::IpAddr, u16), u16>,
    sent_to: BTreeSet<SocketAddr>,
    /// Requests that are lost until then.
    lost: usize,
}

const PUBLIC: [u8; 4] = [8, 8, 8, 8];

impl World {
    fn new(mapping: Mapping, filtering: Filtering) -> Self {
        Self {
            mapping,
            filtering,
            servers: BTreeMap::new(),
            ports: BTreeMap::new(),
            sent_to: BTreeSet::new(),
            lost: 0,
        }
    }

    /// The public address for a destination.
    fn public(&mut self, to: SocketAddr) -> SocketAddr {
        let key = match self.mapping {
            Mapping::Independent => ([0, 0, 0, 0].into(), 0),
            Mapping::AddressDependent => (to.ip(), 0),
            Mapping::PortDependent | Mapping::Dependent => (to.ip(), to.port()),
        };
        let next = 1000 + u16::try_from(self.ports.len()).unwrap();
        SocketAddr::new(PUBLIC.into(), *self.ports.entry(key).or_insert(next))
    }

    fn lets_in(&self, from: SocketAddr) -> bool {
        match self.filtering {
            Filtering::Independent => true,
            Filtering::AddressDependent => self.sent_to.iter().any(|to| to.ip() == from.ip()),
            Filtering::PortDependent => self.sent_to.contains(&from),
        }
    }

    /// What comes back for a datagram, and from where.
    fn answer(&mut self, Send { to, bytes }: &Send) -> Option<(SocketAddr, Vec<u8>)> {
        self.sent_to.insert(*to);
        if self.lost > 0 {
            self.lost -= 1;
            return None;
        }
        let (id, change) = read_request(bytes).expect("a request");
        let mapped = self.public(*to);
        let (primary, manner) = self.servers.iter().find_map(|(at, manner)| match manner {
            Manner::Full(other) => {
                let its = [at.ip(), other.ip()].contains(&to.ip())
                    && [at.port(), other.port()].contains(&to.port());
                its.then_some((*at, *manner))
            }
            _ => (at == to).then_some((*at, *manner)),
        })?;
        let (from, bytes) = match manner {
            Manner::Silent => return None,
            Manner::Plain => (*to, success(id, Some(mapped), None)),
            Manner::Full(other) => {
                let flip = |now: SocketAddr, ip: bool| {
                    let port = if now.port() == primary.port() { other } else { primary }.port();
                    let other_ip = if now.ip() == primary.ip() { other } else { primary }.ip();
                    SocketAddr::new(if ip { other_ip } else { now.ip() }, port)
                };
                let from = match change {
                    Change::Nothing => *to,
                    Change::Port => flip(*to, false),
                    Change::Both => flip(*to, true),
                };
                (from, success(id, Some(mapped), Some(other)))
            }
            Manner::Refuses => (*to, refusal(id, 420, None)),
            Manner::SendsOnTo(next) => (*to, refusal(id, 300, Some(next))),
            Manner::From(elsewhere) => (elsewhere, success(id, Some(mapped), None)),
            Manner::OtherId => (*to, success([7; 12], Some(mapped), None)),
            Manner::Says(lie) => (*to, success(id, Some(lie), None)),
            Manner::Garbage => (*to, vec![0xff; 30]),
            Manner::Endless => (*to, vec![0; 5000]),
        };
        // A wrong address reaches this node where the NAT lets everything in.
        self.lets_in(from).then_some((from, bytes))
    }
}

struct Ran {
    round: Round,
    took: Duration,
    outcomes: Vec<Outcome>,
    sent: usize,
}

/// Runs a round to its end; answers come after 10 ms.
fn run(world: &mut World, servers: &[SocketAddr], discover: bool, rules: Rules) -> Ran {
    let began = Instant::now();
    let mut now = began;
    let mut round = Round::new(rules, servers, discover, [5; 32], now);
    let (mut outcomes, mut sent) = (Vec::new(), 0);
    let mut coming: VecDeque<(Instant, SocketAddr, Vec<u8>)> = VecDeque::new();
    loop {
        for send in round.poll(now) {
            sent += 1;
            if let Some((from, bytes)) = world.answer(&send) {
                coming.push_back((now + Duration::from_millis(10), from, bytes));
            }
        }
        outcomes.extend(round.outcomes());
        let Some(wakes_at) = round.wakes_at() else { break };
        match coming.pop_front() {
            Some((arrives, from, bytes)) if arrives <= wakes_at => {
                now = arrives;
                round.on_datagram(from, &bytes, now);
            }
            Some(later) => {
                coming.push_front(later);
                now = wakes_at;
            }
            None => now = wakes_at,
        }
    }
    Ran { round, took: now - began, outcomes, sent }
}

#[test]
fn servers_are_asked_at_once_and_a_lost_question_again() {
    let mut world = World::new(Mapping::Independent, Filtering::PortDependent);
    let servers = [at("9.9.9.1:3478"), at("9.9.9.2:3478"), at("9.9.9.3:3478")];
    for server in servers {
        world.servers.insert(server, Manner::Plain);
    }
    world.lost = 1;
    let ran = run(&mut world, &servers, false, rules());
    assert_eq!((ran.sent, ran.took), (4, Duration::from_millis(260)));
    let report = ran.round.report();
    assert!(report.said.iter().all(|said| said.result == Ok(at("8.8.8.8:1000"))));
    assert_eq!(report.mapping, Some(Mapping::Independent), "two servers agree");
    assert_eq!(ran.outcomes, [Outcome::Answered; 3]);
}

#[test]
fn dead_servers_are_given_up_after_the_last_wait() {
    let mut world = World::new(Mapping::Independent, Filtering::Independent);
    let ran = run(&mut world, &[at("9.9.9.1:1"), at("9.9.9.2:1")], true, rules());
    assert_eq!((ran.sent, ran.took), (6, Duration::from_millis(1750)));
    assert_eq!(ran.outcomes, [Outcome::Timeout; 2]);
    assert_eq!(ran.round.report().mapping, None);
}

#[test]
fn every_kind_of_nat_is_told_by_one_server_that_offers_it() {
    for mapping in [Mapping::Independent, Mapping::AddressDependent, Mapping::PortDependent] {
        for filtering in
            [Filtering::Independent, Filtering::AddressDependent, Filtering::PortDependent]
        {
            let mut world = World::new(mapping, filtering);
            let server = at("9.9.9.1:3478");
            world.servers.insert(server, Manner::Full(at("7.7.7.7:3479")));
            let ran = run(&mut world, &[server], true, rules());
            let report = ran.round.report();
            let found = (report.mapping, report.filtering);
            assert_eq!(found, (Some(mapping), Some(filtering)));
            assert!(ran.took < Duration::from_secs(2), "{:?}", ran.took);
        }
    }
}

#[test]
fn two_plain_servers_tell_a_symmetric_nat() {
    let mut world = World::new(Mapping::PortDependent, Filtering::PortDependent);
    let servers = [at("9.9.9.1:3478"), at("9.9.9.2:3478")];
    for server in servers {
        world.servers.insert(server, Manner::Plain);
    }
    let report = run(&mut world, &servers, true, rules()).round.report();
    assert_eq!((report.mapping, report.filtering), (Some(Mapping::Dependent), None));
    assert_eq!(NatType::of(report.mapping, report.filtering), NatType::Symmetric);
}

#[test]
fn the_kind_is_not_asked_for_where_it_would_be_wrong() {
    // The other address is one that this node sends to anyway.
    let mut world = World::new(Mapping::Independent, Filtering::PortDependent);
    let servers = [at("9.9.9.1:3478"), at("7.7.7.7:3478")];
    world.servers.insert(servers[0], Manner::Full(at("7.7.7.7:3479")));
    let report = run(&mut world, &servers, true, rules()).round.report();
    assert_eq!(report.filtering, None);
    // An address where nobody may be, or the same again.
    for other in ["192.168.1.1:3479", "9.9.9.1:3479", "7.7.7.7:3478", "7.7.7.7:0"] {
        let mut world = World::new(Mapping::Independent, Filtering::Independent);
        world.servers.insert(servers[0], Manner::Full(at(other)));
        let ran = run(&mut world, &servers[..1], true, rules());
        assert_eq!((ran.sent, ran.round.report().filtering), (1, None), "{other}");
    }
}

#[test]
fn each_lie_is_counted_by_its_reason_and_ends_in_time() {
    let server = at("9.9.9.1:3478");
    let circle = at("9.9.9.2:3478");
    for (manner, wanted, times) in [
        (Manner::Silent, Outcome::Timeout, 1),
        (Manner::Refuses, Outcome::Refused, 1),
        (Manner::SendsOnTo(server), Outcome::Redirect, 1),
        (Manner::SendsOnTo(at("10.0.0.1:3478")), Outcome::Redirect, 1),
        (Manner::SendsOnTo(at("[2606::1]:3478")), Outcome::Redirect, 1),
        (Manner::SendsOnTo(circle), Outcome::Redirect, 1),
        (Manner::From(at("9.9.9.1:3479")), Outcome::WrongAddress, 3),
        (Manner::OtherId, Outcome::WrongTransaction, 3),
        (Manner::Garbage, Outcome::Malformed, 3),
        (Manner::Endless, Outcome::Oversized, 3),
        (Manner::Says(at("192.168.1.1:5")), Outcome::Impossible, 1),
        (Manner::Says(at("0.0.0.0:5")), Outcome::Impossible, 1),
        (Manner::Says(at("1.1.1.1:0")), Outcome::Impossible, 1),
    ] {
        let mut world = World::new(Mapping::Independent, Filtering::Independent);
        world.servers.insert(server, manner);
        world.servers.insert(circle, Manner::SendsOnTo(server));
        let ran = run(&mut world, &[server], true, rules());
        let counted = ran.outcomes.iter().filter(|outcome| **outcome == wanted).count();
        assert_eq!(counted, times, "{manner:?}: {:?}", ran.outcomes);
        assert!(ran.took <= Duration::from_millis(1760), "{manner:?}");
        assert!(ran.round.report().said.iter().all(|said| said.result.is_err()), "{manner:?}");
    }
}

#[test]
fn a_server_may_send_on_to_another_but_not_for_ever() {
    let mut world = World::new(Mapping::Independent, Filtering::Independent);
    let chain: Vec<SocketAddr> = (1..=9).map(|n| at(&format!("9.9.9.{n}:1"))).collect();
    for pair in chain.windows(2) {
        world.servers.insert(pair[0], Manner::SendsOnTo(pair[1]));
    }
    let ran = run(&mut world, &chain[..1], true, rules());
    assert_eq!((ran.sent, ran.outcomes), (3, vec![Outcome::Redirect]));
    world.servers.insert(chain[2], Manner::Plain);
    let report = run(&mut world, &chain[..1], true, rules()).round.report();
    assert_eq!(report.said[0].server, chain[0], "by the name it was asked under");
    assert!(report.said[0].result.is_ok());
}

proptest! {
    /// However servers behave: the round ends, sends no more than it may, and says something of
    /// each.
    #[test]
    fn a_round_always_ends(
        manners in proptest::collection::vec((0..10u8, 1..9u8), 1..8),
        lost in 0..20usize,
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
    ) {
        let mut world = World::new(Mapping::PortDependent, Filtering::AddressDependent);
        world.lost = lost;
        let mut servers = Vec::new();
        for ((manner, other), n) in manners.iter().zip(1..) {
            let server = at(&format!("9.9.{n}.1:3478"));
            let other_at = at(&format!("9.9.{other}.1:3478"));
            servers.push(server);
            world.servers.insert(server, match manner {
                0 => Manner::Plain,
                1 => Manner::Full(at(&format!("9.7.{other}.1:3479"))),
                2 => Manner::Silent,
                3 => Manner::Refuses,
                4 => Manner::SendsOnTo(other_at),
                5 => Manner::From(other_at),
                6 => Manner::OtherId,
                7 => Manner::Says(other_at),
                8 => Manner::Garbage,
                _ => Manner::Endless,
            });
        }
        let mut round = Round::new(rules(), &servers, true, [1; 32], Instant::now());
        for bytes in &datagrams {
            round.on_datagram(servers[0], bytes, Instant::now());
        }
        let ran = run(&mut world, &servers, true, rules());
        // Each server and two to which it sends on, four questions of a study, three times each.
        prop_assert!(ran.sent <= (servers.len() * 3 + 4) * 3);
        // Three servers after each other, or three steps of a study.
        prop_assert!(ran.took <= Duration::from_millis(1760 * 6));
        prop_assert_eq!(ran.round.report().said.len(), servers.len());
    }
}

// Over real sockets.

/// What a server on loopback does with a request.
type Answers = dyn Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + std::marker::Send + Sync;

/// A server on loopback that answers as told, until the test ends.
async fn server(answers: Arc<Answers>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            for answer in answers(&buffer[..length], from) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    address
}

fn honest() -> Arc<Answers> {
    Arc::new(|bytes, from| {
        let (id, _) = read_request(bytes).unwrap();
        vec![success(id, Some(from), None)]
    })
}

struct Running {
    asks: Option<mpsc::Sender<Ask>>,
    heard: mpsc::Receiver<Heard>,
    outcomes: CounterVec<U64>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(servers: Vec<String>, waits: &[u64]) -> Self {
        let config = Stun {
            servers,
            retransmit: waits.iter().map(|ms| Wait(Duration::from_millis(*ms))).collect(),
            ..Stun::default()
        };
        let outcomes = Metrics::unregistered().unwrap().nat.stun_answers.clone();
        let ((asks, asked), (hear, heard)) = (mpsc::channel(1), mpsc::channel(1));
        let worker = Worker::new(&config, AddressPolicy::Any, asked, hear, outcomes.clone());
        Self { asks: Some(asks), heard, outcomes, task: tokio::spawn(worker.run()) }
    }

    async fn ask(&mut self, discover: bool) -> Heard {
        self.asks.as_ref().unwrap().send(Ask { discover }).await.unwrap();
        self.heard.recv().await.unwrap()
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.with_label_values(&[outcome.label()]).get()
    }

    async fn stop(mut self) {
        self.asks = None;
        self.heard.close();
        self.task.await.unwrap();
    }
}

/// UDP sockets that this process has open.
fn udp_sockets() -> usize {
    let inodes: BTreeSet<String> = ["/proc/self/net/udp", "/proc/self/net/udp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| {
            let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
            table.lines().skip(1).filter_map(inode).collect::<Vec<_>>()
        })
        .collect();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|to| {
            let to = to.to_str()?.to_owned();
            to.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        })
        .filter(|inode| inodes.contains(inode))
        .count()
}

#[tokio::test]
async fn honest_servers_agree_over_one_socket_that_is_reused_and_then_closed() {
    let servers = [server(honest()).await, server(honest()).await];
    let before = udp_sockets();
    let mut running = Running::start(servers.map(|at| at.to_string()).to_vec(), &[500]);
    let first = running.ask(true).await;
    let seen: BTreeSet<_> = first.report.said.iter().map(|said| said.result.unwrap()).collect();
    assert_eq!(seen.len(), 1, "one socket asks both");
    assert_eq!(udp_sockets(), before + 1);
    let again = running.ask(false).await;
    assert_eq!(again.report.said[0].result, first.report.said[0].result, "the same socket");
    let anew = running.ask(true).await;
    assert_ne!(anew.report.said[0].result, first.report.said[0].result, "another one");
    assert_eq!(udp_sockets(), before + 1, "in place of the first");
    running.stop().await;
    assert_eq!(udp_sockets(), before);
}

#[tokio::test]
async fn liars_over_real_sockets_are_counted_by_reason_and_leave_no_socket() {
    let elsewhere = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let from_elsewhere: Arc<Answers> = {
        let elsewhere = elsewhere.clone();
        Arc::new(move |bytes, from| {
            let (id, _) = read_request(bytes).unwrap();
            elsewhere.send_to(&success(id, Some(from), None), from).unwrap();
            vec![]
        })
    };
    let to_itself = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
    let circle: Arc<Answers> = {
        let to_itself = to_itself.clone();
        Arc::new(move |bytes, _| {
            let (id, _) = read_request(bytes).unwrap();
            vec![refusal(id, 300, to_itself.get().copied())]
        })
    };
    let truncated: Arc<Answers> = Arc::new(|bytes, from| {
        let (id, _) = read_request(bytes).unwrap();
        vec![success(id, Some(from), None)[..25].to_vec()]
    });
    let oversized: Arc<Answers> = Arc::new(|_, _| vec![vec![0; 9000]]);
    let wrong_id: Arc<Answers> = Arc::new(|_, from| vec![success([1; 12], Some(from), None)]);
    let flood: Arc<Answers> = Arc::new(|_, _| vec![vec![0xff; 100]; 200]);
    let circular = server(circle).await;
    to_itself.set(circular).unwrap();
    let servers = [
        server(from_elsewhere).await,
        circular,
        server(truncated).await,
        server(oversized).await,
        server(wrong_id).await,
        server(flood).await,
    ];
    let before = udp_sockets();
    let mut running = Running::start(servers.map(|at| at.to_string()).to_vec(), &[300]);
    let heard = running.ask(true).await;
    assert!(heard.report.said.iter().all(|said| said.result.is_err()));
    for (outcome, least) in [
        (Outcome::WrongAddress, 1),
        (Outcome::Redirect, 1),
        (Outcome::Malformed, 1),
        (Outcome::Oversized, 1),
        (Outcome::WrongTransaction, 1),
        (Outcome::Timeout, 5),
    ] {
        assert!(running.count(outcome) >= least, "{outcome:?}: {}", running.count(outcome));
    }
    assert_eq!(udp_sockets(), before, "a socket over which nothing came is not kept");
    running.stop().await;
    assert_eq!(udp_sockets(), before);
}

#[tokio::test]
async fn many_rounds_against_dead_slow_and_lying_servers_leave_nothing_behind() {
    let lies: Arc<Answers> = Arc::new(|_, _| vec![vec![0xff; 40]]);
    // Nobody listens there: the kernel says so.
    let dead = {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    };
    let silent: Arc<Answers> = Arc::new(|_, _| vec![]);
    let servers =
        [dead, server(lies).await, server(silent).await].map(|at| at.to_string()).to_vec();
    let before = udp_sockets();
    let mut running = Running::start(servers, &[2]);
    for round in 0..200 {
        running.ask(round % 3 == 0).await;
        assert!(udp_sockets() <= before + 1);
    }
    running.stop().await;
    assert_eq!(udp_sockets(), before);
}

#[tokio::test]
async fn a_round_ends_with_whoever_asked_for_it() {
    let silent: Arc<Answers> = Arc::new(|_, _| vec![]);
    let before = udp_sockets();
    let named = server(silent).await.to_string();
    let running = Running::start(vec![named], &[10_000]);
    running.asks.as_ref().unwrap().send(Ask { discover: true }).await.unwrap();
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(udp_sockets(), before + 1, "only the server's");
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_told() {
    let named = server(honest()).await;
    let servers = vec!["nobody.invalid:3478".to_owned(), named.to_string()];
    let mut running = Running::start(servers, &[500]);
    let heard = running.ask(true).await;
    assert_eq!(heard.unresolved, ["nobody.invalid:3478"]);
    assert_eq!(running.count(Outcome::Unresolved), 1);
    assert!(heard.report.said[0].result.is_ok());
    running.stop().await;
}

/// Against coturn, which offers all of RFC 5780 where it has two addresses: on loopback there is no
/// NAT, so everything is independent.
#[tokio::test]
async fn a_real_server_tells_how_addresses_are_mapped_and_filtered() {
    let free = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().port()
    };
    let (port, other) = (free(), free());
    let folder = tempfile::tempdir().unwrap();
    let coturn = tokio::process::Command::new("turnserver")
        .args(["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"])
        .args(["-L", "127.0.0.1", "-L", "127.0.0.2"])
        .args(["--listening-port", &port.to_string(), "--alt-listening-port", &other.to_string()])
        .arg("--pidfile")
        .arg(folder.path().join("pid"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let _coturn = match coturn {
        Ok(running) => running,
        Err(error) => {
            let required = std::env::var("NSN_REQUIRE_NATLAB").is_ok_and(|value| value == "1");
            assert!(!required, "turnserver (Debian package coturn) does not run: {error}");
            eprintln!("not tested: turnserver (Debian package coturn) does not run: {error}");
            return;
        }
    };
    let mut running = Running::start(vec![format!("127.0.0.1:{port}")], &[100, 200]);
    let began = Instant::now();
    // It takes a moment to listen.
    let report = loop {
        let report = running.ask(true).await.report;
        if report.filtering.is_some() && report.mapping.is_some() {
            break report;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{report:?}");
    };
    assert_eq!(report.said[0].result.unwrap().ip(), at("127.0.0.1:1").ip());
    assert_eq!(report.mapping, Some(Mapping::Independent));
    assert_eq!(report.filtering, Some(Filtering::Independent));
    running.stop().await;
}

#[tokio::test]
async fn a_probe_without_a_node_tells_each_server() {
    let good = server(honest()).await;
    let silent = server(Arc::new(|_, _| Vec::new())).await;
    let mut config = nat::Config::default();
    config.stun.servers = vec![silent.to_string(), good.to_string(), "none.invalid:1".to_owned()];
    config.stun.retransmit = vec![Wait(Duration::from_millis(50))];
    config.mapping.enabled = nat::When::Off;
    let probe = nat::probe(&config, AddressPolicy::Any).await.unwrap();
    let last: Vec<_> = probe.stun.iter().map(|server| server.last.unwrap()).collect();
    assert_eq!(last, [Outcome::Timeout, Outcome::Answered, Outcome::Unresolved]);
    assert_eq!(probe.stun[1].mapped.unwrap().ip(), good.ip());
    assert_eq!(probe.nat, NatType::None, "loopback is this machine's own");
    assert_eq!(probe.routers, []);
}
