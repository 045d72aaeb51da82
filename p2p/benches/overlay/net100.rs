//! `overlay.net100`: a hundred full nodes in one process on two cores.

use crate::{
    Failure, Outcome, Outcomes,
    node::cpu_us,
    stats::{quantile, real, rounded},
};
use nsn_p2p::{
    AddressPolicy, Config, Identity, Standing,
    gossip::{Subscription, Topic},
    testnet::{GENESIS, Node, StaticReputation},
};
use serde_json::json;
use std::{
    io::{Write as _, stderr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

/// Where nodes listen.
const IN_PROCESS: &str = "/memory/0";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
/// Messages a second of all nodes that must be carried, and payload in bytes.
const RATE: f64 = 30.0;
const SIZE: usize = 256;
/// By what the rate is raised until it is too much, and how often at most.
const RAISE: f64 = 1.5;
const RAISES: i32 = 12;
const QUICK_RAISES: i32 = 3;
/// Longest time that a message may take, by promise.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for the network to come together.
const PATIENCE: Duration = Duration::from_secs(240);
/// Fewest peers that a node hears on each topic, and has in each mesh, before anything is sent: the
/// least that a mesh wants.
const FEWEST: usize = 4;
/// How long the number of connections has to stand still, within a tenth of one a node.
const SETTLED: Duration = Duration::from_secs(5);
/// How long stragglers are waited for.
const DRAIN: Duration = Duration::from_secs(10);

/// Each node runs the real driver and is told of one bootnode.
pub(crate) fn run(quick: bool) -> Outcomes {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(net(quick))
}

struct Net {
    nodes: Vec<Node>,
    heard: Arc<Heard>,
}

/// What all subscribers of all nodes heard since the last reset.
struct Heard {
    /// What the stamps in messages count from.
    epoch: Instant,
    delivered: AtomicU64,
    /// At most 30 * 1.5^12 messages a second * 15 s * 99 nodes * 4 bytes = 23 MB.
    latencies_us: Mutex<Vec<u32>>,
}

impl Heard {
    fn new() -> Self {
        Self { epoch: Instant::now(), delivered: AtomicU64::new(0), latencies_us: Mutex::default() }
    }

    fn now_us(&self) -> u64 {
        self.epoch.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
    }

    fn latencies(&self) -> MutexGuard<'_, Vec<u32>> {
        self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self) {
        self.delivered.store(0, Relaxed);
        self.latencies().clear();
    }

    async fn listen(self: Arc<Self>, mut subscription: Subscription) {
        while let Some(message) = subscription.recv().await {
            let stamp = message.payload.first_chunk::<8>().map_or(0, |s| u64::from_be_bytes(*s));
            let took = self.now_us().saturating_sub(stamp);
            self.latencies().push(took.try_into().unwrap_or(u32::MAX));
            self.delivered.fetch_add(1, Relaxed);
        }
    }

    /// Waits for what is still under way; how much has come in all.
    async fn drained(&self, expected: u64) -> u64 {
        let started = Instant::now();
        loop {
            let delivered = self.delivered.load(Relaxed);
            if delivered >= expected || started.elapsed() > DRAIN {
                return delivered;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What one rate was carried at.
struct Measured {
    rate: f64,
    published: u64,
    not_published: u64,
    lost: u64,
    /// p50, p95, p99 and the longest, in seconds.
    took: [f64; 4],
    /// Share of two cores.
    busy: f64,
}

impl Measured {
    fn carried(&self) -> bool {
        self.lost == 0 && self.not_published == 0 && self.took[2] <= LIMIT.as_secs_f64()
    }

    fn told(&self) -> serde_json::Value {
        json!({
            "rate": rounded(self.rate),
            "published": self.published,
            "not_published": self.not_published,
            "lost": self.lost,
            "p50_s": rounded(self.took[0]),
            "p95_s": rounded(self.took[1]),
            "p99_s": rounded(self.took[2]),
            "max_s": rounded(self.took[3]),
            "cpu_share": rounded(self.busy),
        })
    }
}

async fn net(quick: bool) -> Outcomes {
    let (count, seconds, step, raises) =
        if quick { (30, 6, 3, QUICK_RAISES) } else { (100, 60, 15, RAISES) };
    let over_tcp = over_tcp(count, Duration::from_secs(seconds)).await?;
    let started = Instant::now();
    let net = Net::start(count, IN_PROCESS).await?;
    let together = started.elapsed();
    let idle = net.settled().await?;
    let settled = started.elapsed();
    let before = net.copies();
    let first = net.carry(RATE, Duration::from_secs(seconds)).await?;
    let copies = (net.copies() - before) / real(first.published.max(1));
    // A warm network does not become slower by being raised to what it cannot carry: the rate that
    // it is asked for at the end is the promised one again.
    let (mut ceiling, mut beyond) = (None, None);
    for n in 1..=raises {
        let measured = net.carry(RATE * RAISE.powi(n), Duration::from_secs(step)).await?;
        if !measured.carried() {
            beyond = Some(measured);
            break;
        }
        ceiling = Some(measured);
    }
    let again = net.carry(RATE, Duration::from_secs(step)).await?;
    let mut connected: Vec<f64> = Vec::new();
    for node in &net.nodes {
        let peers = node.overlay.peers.status().await?.connected_peers;
        connected.push(real(peers.try_into()?));
    }
    let ceiling_rate = match (&ceiling, first.carried()) {
        (Some(ceiling), _) => ceiling.rate,
        (None, true) => first.rate,
        (None, false) => 0.0,
    };
    let sets = match &beyond {
        Some(beyond) if beyond.busy > 0.9 => "the two cores",
        Some(_) => "not the cores: queues or limits, see lost and not_published",
        None => "not reached",
    };
    net.stop().await;
    let lost = first.lost + first.not_published;
    Ok(vec![
        Outcome {
            bench: "overlay.net100",
            value: rounded(first.took[2]),
            unit: "s",
            better: "lower",
            target: Some(LIMIT.as_secs_f64()),
            detail: json!({
                "nodes": count,
                "carried": first.told(),
                "after_too_much": again.told(),
                "over_tcp": over_tcp.told(),
                "seconds_to_come_together": rounded(together.as_secs_f64()),
                "seconds_to_settle": rounded(settled.as_secs_f64()),
                "cpu_share_without_messages": rounded(idle),
                "copies_of_a_message": rounded(copies),
                "connections_of_a_node_p50": quantile(&mut connected, 0.5),
                "connections_of_a_node_max": quantile(&mut connected, 1.0),
            }),
        },
        Outcome {
            bench: "overlay.net100.lost",
            value: real(lost),
            unit: "deliveries",
            better: "lower",
            target: Some(0.0),
            detail: json!({ "lost_after_too_much": again.lost + again.not_published }),
        },
        Outcome {
            bench: "overlay.net100.ceiling",
            value: rounded(ceiling_rate),
            unit: "messages/s",
            better: "higher",
            target: Some(RATE),
            detail: json!({
                "at_the_ceiling": ceiling.as_ref().map(Measured::told),
                "beyond_it": beyond.as_ref().map(Measured::told),
                "set_by": sets,
            }),
        },
    ])
}

/// The same network with a kernel's sockets between its nodes, and both their ends on the same two
/// cores.
async fn over_tcp(count: u8, time: Duration) -> Result<Measured, Failure> {
    let net = Net::start(count, TCP).await?;
    net.settled().await?;
    let measured = net.carry(RATE, time).await?;
    net.stop().await;
    Ok(measured)
}

impl Net {
    async fn start(count: u8, listen: &str) -> Result<Self, Failure> {
        let reputation = Arc::new(StaticReputation::default());
        let mut net = Self { nodes: Vec::new(), heard: Arc::new(Heard::new()) };
        let mut bootnodes = Vec::new();
        for n in 0..count {
            let mut config = Config {
                listen: vec![listen.parse()?],
                address_policy: AddressPolicy::Any,
                ..Config::default()
            };
            config.bootstrap.bootnodes = bootnodes.clone();
            let identity = Identity::from_secret([n + 1; 32])?;
            // So that all may speak on all topics.
            reputation.set_validator(identity.key(), true);
            reputation.set(identity.key(), Some(Standing::NEUTRAL));
            let node = Node::start(config, identity, GENESIS, &reputation)?;
            for topic in Topic::ALL {
                let subscription = node.overlay.gossip.subscribe(topic)?;
                tokio::spawn(net.heard.clone().listen(subscription));
            }
            if n == 0 {
                bootnodes.push(node.address().await?);
            }
            net.nodes.push(node);
            // A hundred processes do not start in the same moment.
            sleep(Duration::from_millis(50)).await;
        }
        timeout(PATIENCE, net.together())
            .await
            .map_err(|_| "the network did not come together")??;
        Ok(net)
    }

    async fn together(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            let mut changes = node.overlay.peers.changes();
            changes.wait_for(|c| c.fewest_listeners >= FEWEST).await?;
        }
        for node in &self.nodes {
            let meshed = || async {
                let topics = node.overlay.peers.status().await?.topics;
                Ok::<_, Failure>(topics.iter().all(|topic| topic.mesh >= FEWEST))
            };
            while !meshed().await? {
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// Waits until the nodes have all the connections they will have; the share of the two cores
    /// that the network takes then without any message.
    async fn settled(&self) -> Result<f64, Failure> {
        let connections = || async {
            let mut sum = 0;
            for node in &self.nodes {
                sum += node.overlay.peers.status().await?.connected_peers;
            }
            Ok::<usize, Failure>(sum)
        };
        let settle = async {
            let mut before = connections().await?;
            loop {
                let (started, cpu_before) = (Instant::now(), cpu_us()?);
                sleep(SETTLED).await;
                let cpu = real(cpu_us()? - cpu_before) / 1e6;
                let now = connections().await?;
                if now.abs_diff(before) <= self.nodes.len() / 10 {
                    return Ok(cpu / started.elapsed().as_secs_f64() / 2.0);
                }
                before = now;
            }
        };
        timeout(PATIENCE, settle).await.map_err(|_| "the network does not settle")?
    }

    /// Copies of messages that came to any node, new ones and duplicates.
    fn copies(&self) -> f64 {
        let families = self.nodes.iter().flat_map(|node| node.registry.gather());
        let counted = families.filter(|family| {
            ["nsn_p2p_gossipsub_messages_received_total", "nsn_p2p_gossipsub_duplicates_total"]
                .contains(&family.get_name())
        });
        let each = counted.flat_map(|family| family.get_metric().to_vec());
        each.map(|metric| metric.get_counter().get_value()).sum()
    }

    /// Publishes at a rate, each message by another node and on another topic than the one before.
    async fn carry(&self, rate: f64, time: Duration) -> Result<Measured, Failure> {
        writeln!(stderr(), "  {} nodes, {rate:.0} messages a second ...", self.nodes.len())?;
        self.heard.reset();
        let (started, cpu_before) = (Instant::now(), cpu_us()?);
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        // What a busy moment held up is made up for, so that the rate is what it says.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // A call waits for its node's turn, and the next author's does not wait for it. At most the
        // queues of all nodes: 100 * 64 tasks of about 1 KiB.
        let mut publishing = JoinSet::new();
        let authors = self.nodes.iter().zip(Topic::ALL.into_iter().cycle()).cycle();
        for (node, topic) in authors {
            ticks.tick().await;
            if started.elapsed() >= time {
                break;
            }
            let mut payload = self.heard.now_us().to_be_bytes().to_vec();
            payload.resize(SIZE, 0x55);
            let gossip = node.overlay.gossip.clone();
            publishing.spawn(async move { gossip.publish(topic, payload).await.is_ok() });
        }
        let calls = publishing.join_all().await;
        let not_published = calls.iter().filter(|published| !**published).count().try_into()?;
        let published = u64::try_from(calls.len())? - not_published;
        let busy = real(cpu_us()? - cpu_before) / 1e6 / started.elapsed().as_secs_f64() / 2.0;
        let others: u64 = self.nodes.len().saturating_sub(1).try_into()?;
        let expected = published * others;
        let delivered = self.heard.drained(expected).await;
        let mut took: Vec<f64> = {
            let latencies = self.heard.latencies();
            latencies.iter().map(|us| f64::from(*us) / 1e6).collect()
        };
        Ok(Measured {
            rate,
            published,
            not_published,
            lost: expected.saturating_sub(delivered),
            took: [0.5, 0.95, 0.99, 1.0].map(|part| quantile(&mut took, part)),
            busy,
        })
    }

    async fn stop(self) {
        // All at once: what they say of each other's leaving is of no interest.
        let leaving = self.nodes.into_iter().map(|node| tokio::spawn(node.stop()));
        futures::future::join_all(leaving).await;
    }
}
