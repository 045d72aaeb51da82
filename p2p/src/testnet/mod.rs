//! Test support: whole overlays in one process, on libp2p's in-process transport.
//!
//! Every node runs the real driver with the real behaviours; only the transport and the chain are
//! stand-ins. The nodes of a [`Testnet`] know nothing but one bootnode, and waiting is done on
//! [`PeersHandle::changes`](crate::PeersHandle::changes), never by sleeping.

pub mod sim;

use crate::{
    AddressPolicy, BuildError, Config, Deps, Identity, Metrics, Multiaddr, Overlay, OverlayKey,
    PeerId, Reputation, RunError, Standing, build, identity::IdentityError, peers::Changes,
};
use libp2p::multiaddr::Protocol;
use prometheus_endpoint::{Registry, prometheus::TextEncoder};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// Longest time a testnet waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes of a large testnet for each of its bootnodes, and those that join at the same time.
const NODES_A_BOOTNODE: u32 = 64;
const JOIN_AT_ONCE: usize = 50;

/// How fast nodes of a large testnet look whether newcomers can be reached, and how soon one lookup of
/// a refresh follows another.
const JOIN_CHECKS: u32 = 1000;
const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// A testnet has settled when each routing table has at least so many peers, or all there are, and none
/// has grown in so many looks, this far apart. Nodes look around more often than that.
const SETTLED_TABLE: usize = 10;
const SETTLED_LOOKS: usize = 8;
const SETTLED_EVERY: Duration = Duration::from_millis(250);

/// Genesis hash of the testnet's chain.
pub const GENESIS: [u8; 32] = [0x7e; 32];

/// A chain whose reputation is what a test says it is.
#[derive(Debug)]
pub struct StaticReputation {
    standings: RwLock<HashMap<OverlayKey, Standing>>,
    validators: RwLock<HashSet<OverlayKey>>,
    changed: watch::Sender<u64>,
}

impl Default for StaticReputation {
    fn default() -> Self {
        Self {
            standings: RwLock::default(),
            validators: RwLock::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl StaticReputation {
    /// Binds a key to an account of this standing, or unbinds it.
    pub fn set(&self, key: OverlayKey, standing: Option<Standing>) {
        {
            let mut standings = self.standings.write().unwrap_or_else(PoisonError::into_inner);
            match standing {
                Some(standing) => standings.insert(key, standing),
                None => standings.remove(&key),
            };
        }
        self.changed.send_modify(|revision| *revision += 1);
    }

    /// Makes a key one of a current validator, or not.
    pub fn set_validator(&self, key: OverlayKey, is_validator: bool) {
        {
            let mut validators = self.validators.write().unwrap_or_else(PoisonError::into_inner);
            if is_validator {
                validators.insert(key);
            } else {
                validators.remove(&key);
            }
        }
        self.changed.send_modify(|revision| *revision += 1);
    }

    /// Changes with every change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Reputation for StaticReputation {
    fn standing(&self, key: &OverlayKey) -> Option<Standing> {
        self.standings.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn is_validator(&self, key: &OverlayKey) -> bool {
        self.validators.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

/// What can go wrong in a testnet.
#[derive(Debug, Error)]
pub enum Error {
    /// A node's configuration is wrong.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A node's key is wrong.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Metrics could not be made.
    #[error(transparent)]
    Metrics(#[from] prometheus_endpoint::PrometheusError),
    /// What was waited for did not happen.
    #[error("waited in vain for {0}")]
    Patience(&'static str),
    /// A node's driver ended when it should not have.
    #[error("a node has ended")]
    Ended,
}

/// One running node.
pub struct Node {
    /// Its handles.
    pub overlay: Overlay,
    /// Its key.
    pub identity: Identity,
    /// Where it counts.
    pub registry: Registry,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Node {
    /// Starts a node of its own on the current tokio runtime.
    pub fn start(
        config: Config,
        identity: Identity,
        genesis_hash: [u8; 32],
        reputation: &Arc<StaticReputation>,
    ) -> Result<Self, Error> {
        let registry = Registry::new();
        let deps = Deps {
            identity: identity.clone(),
            genesis_hash,
            reputation: reputation.clone(),
            reputation_changed: reputation.changed(),
            metrics: Metrics::register(&registry)?,
        };
        let (overlay, driver) = build(config, deps)?;
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(driver.run(shutdown.clone()));
        Ok(Self { overlay, identity, registry, shutdown, task })
    }

    /// Its PeerId.
    pub fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// Waits until what the node shows of itself is as wanted; `what` says so in the error.
    pub async fn wait_for(
        &self,
        what: &'static str,
        wanted: impl FnMut(&Changes) -> bool,
    ) -> Result<Changes, Error> {
        let mut changes = self.overlay.peers.changes();
        match timeout(PATIENCE, changes.wait_for(wanted)).await {
            Ok(Ok(changes)) => Ok(changes.clone()),
            Ok(Err(_)) => Err(Error::Ended),
            Err(_) => Err(Error::Patience(what)),
        }
    }

    /// Peers in its routing table.
    pub fn routing_table(&self) -> usize {
        self.overlay.peers.changes().borrow().routing_table
    }

    /// An address it listens on, with its PeerId. Waits until there is one.
    pub async fn address(&self) -> Result<Multiaddr, Error> {
        let changes = self.wait_for("a listen address", |c| !c.listen.is_empty()).await?;
        let addr = changes.listen.first().cloned().ok_or(Error::Ended)?;
        Ok(addr.with(Protocol::P2p(self.peer_id())))
    }

    /// The value of one of the node's metrics, as Prometheus would read it; `sample` is the name
    /// with its labels, for example `nsn_p2p_connections_refused_total{reason="total"}`. 0 if there
    /// is none.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default();
        let value = |line: &str| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap_or_default()
    }

    /// Waits until a metric has reached a value. Metrics signal nothing, so this looks every 10 ms.
    pub async fn wait_for_metric(&self, sample: &'static str, at_least: f64) -> Result<(), Error> {
        let reached = async {
            while self.metric(sample) < at_least {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, reached).await.map_err(|_| Error::Patience(sample))
    }

    /// How the driver has ended, once it has.
    pub async fn ended(self) -> Result<Result<(), RunError>, Error> {
        match timeout(PATIENCE, self.task).await {
            Ok(Ok(ended)) => Ok(ended),
            Ok(Err(_)) => Err(Error::Ended),
            Err(_) => Err(Error::Patience("the driver's end")),
        }
    }

    /// Ends the node without a word to anybody.
    pub fn vanish(self) {
        self.task.abort();
    }

    /// Shuts the node down as an operator would, and gives back how its driver ended.
    pub async fn stop(self) -> Result<Result<(), RunError>, Error> {
        self.shutdown.cancel();
        self.ended().await
    }
}

/// Nodes that know each other through one bootnode, the first of them.
pub struct Testnet {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The chain they all see.
    pub reputation: Arc<StaticReputation>,
}

impl Testnet {
    /// Starts `count` nodes, their configuration as [`config`] changed by `tweak`, and waits until
    /// every node is connected to every other and hears it on every topic.
    pub async fn start(count: u8, tweak: impl Fn(&mut Config)) -> Result<Self, Error> {
        let mut testnet =
            Self { nodes: Vec::new(), reputation: Arc::new(StaticReputation::default()) };
        let mut bootnodes = Vec::new();
        for n in 0..count {
            let mut config = config();
            tweak(&mut config);
            config.bootstrap.bootnodes = bootnodes.clone();
            // Any set of bytes is a key; a test may print which node did what.
            let identity = Identity::from_secret([n.wrapping_add(1); 32])?;
            let node = Node::start(config, identity, GENESIS, &testnet.reputation)?;
            if n == 0 {
                bootnodes.push(node.address().await?);
            }
            testnet.nodes.push(node);
        }
        testnet.wait_connected().await?;
        Ok(testnet)
    }

    /// Starts `count` nodes that are told of bootnodes and nothing else, their configuration as
    /// [`config`] changed by `tweak`, and waits until their routing tables have settled. They are not
    /// all connected to each other; a network may have up to 1,000.
    ///
    /// There is one bootnode, and one more for every 64 nodes: one alone has too few connections for
    /// all of them.
    pub async fn join(count: u32, tweak: impl Fn(&mut Config)) -> Result<Self, Error> {
        let mut testnet =
            Self { nodes: Vec::new(), reputation: Arc::new(StaticReputation::default()) };
        let mut bootnodes = Vec::new();
        for n in 0..count {
            let mut config = config();
            // All come within seconds of each other, and not over weeks.
            config.dht.table.check_rate = JOIN_CHECKS;
            config.dht.table.refresh_pause = JOIN_PAUSE;
            tweak(&mut config);
            config.bootstrap.bootnodes = bootnodes.clone();
            let node = Node::start(config, numbered(n)?, GENESIS, &testnet.reputation)?;
            if n <= count / NODES_A_BOOTNODE {
                bootnodes.push(node.address().await?);
            }
            testnet.nodes.push(node);
            // So many join at the same time; they share the cores.
            if testnet.nodes.len().is_multiple_of(JOIN_AT_ONCE) {
                testnet.wait_known(1).await?;
            }
        }
        testnet.wait_settled().await?;
        Ok(testnet)
    }

    /// Waits until every routing table has at least so many peers.
    async fn wait_known(&self, least: usize) -> Result<(), Error> {
        let others = self.nodes.len().saturating_sub(1);
        for node in &self.nodes {
            let wanted = least.min(others);
            node.wait_for("peers in the routing table", |c| c.routing_table >= wanted).await?;
        }
        Ok(())
    }

    /// Waits until no routing table has grown for a while, and none is nearly empty. That something
    /// no longer happens is no event to wait for, so this looks at the sizes again and again.
    pub async fn wait_settled(&self) -> Result<(), Error> {
        self.wait_known(SETTLED_TABLE).await?;
        let known = || self.nodes.iter().map(Node::routing_table).sum::<usize>();
        let settled = async {
            let (mut before, mut same) = (known(), 0);
            while same < SETTLED_LOOKS {
                tokio::time::sleep(SETTLED_EVERY).await;
                let now = known();
                same = if now > before { 0 } else { same + 1 };
                before = now;
            }
        };
        timeout(PATIENCE, settled).await.map_err(|_| Error::Patience("the tables to settle"))
    }

    /// Waits until every node is connected to every other and hears it on every topic.
    pub async fn wait_connected(&self) -> Result<(), Error> {
        let others = self.nodes.len().saturating_sub(1);
        for node in &self.nodes {
            node.wait_for("all nodes to know each other", |c| {
                c.connected >= others && c.fewest_listeners >= others && c.routing_table >= others
            })
            .await?;
        }
        Ok(())
    }

    /// Shuts all nodes down.
    pub async fn stop(self) -> Result<(), Error> {
        for node in &self.nodes {
            // All at once, so that none sees the others leave one by one.
            node.shutdown.cancel();
        }
        for node in self.nodes {
            node.ended().await?.map_err(|_| Error::Ended)?;
        }
        Ok(())
    }
}

/// The key of the node of a large testnet that has this number.
pub fn numbered(n: u32) -> Result<Identity, IdentityError> {
    let mut secret = [0x6e; 32];
    for (to, from) in secret.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    Identity::from_secret(secret)
}

/// The configuration of a testnet's node: in-process transport on a free port, any address, and a
/// quicker clock where the default would make a test wait.
pub fn config() -> Config {
    let mut config = Config {
        listen: vec![Multiaddr::empty().with(Protocol::Memory(0))],
        address_policy: AddressPolicy::Any,
        tick: Duration::from_millis(100),
        ..Config::default()
    };
    config.bootstrap.retry_base = Duration::from_millis(200);
    config.bootstrap.ask_every = Duration::from_secs(1);
    config.dht.retry_base = Duration::from_millis(200);
    config.dht.sweep.collect = Duration::from_millis(50);
    config.dht.sweep.moved_settle = Duration::from_millis(200);
    config.dht.sweep.moved_apart = Duration::from_secs(1);
    config.peers.breaker.base = Duration::from_millis(200);
    config.peers.breaker.max_alone = Duration::from_secs(1);
    config.peers.breaker.max = Duration::from_secs(2);
    config.peers.breaker.settle = Duration::from_millis(500);
    config.gossip.heartbeat = Duration::from_millis(200);
    config
}
