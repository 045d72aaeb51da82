//! Networks of real nodes in this process, keys, and what a node counts.

use crate::Failure;
use futures::{StreamExt, stream};
use nsn_p2p::{
    Config, PeerId,
    dht::{Announced, Class, FindError, Key, ProvideError},
    testnet::Node,
};
use std::{future::Future, time::Duration};
use tokio::time::{sleep, timeout};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// How often a number that signals nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How the nodes of a network are changed from [`testnet::config`](nsn_p2p::testnet::config): they
/// keep house as often as by default, and gossip, which has nothing to say here, rarely does.
pub(crate) fn quiet(config: &mut Config) {
    config.tick = Config::default().tick;
    config.gossip.heartbeat = Duration::from_secs(30);
}

/// The `n`th key of a benchmark.
pub(crate) fn key(n: usize) -> Key {
    let mut id = [0xbe; 32];
    for (to, from) in id.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    Key::shard(&id)
}

/// Runs what is asynchronous on all cores.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// What a node's lookups of one kind took, since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) lookups: f64,
    /// Hops of all of them together.
    pub(crate) hops: f64,
    /// Questions that they asked.
    pub(crate) questions: f64,
}

impl Work {
    /// As the node counts it itself.
    pub(crate) fn of(node: &Node, kind: &str) -> Self {
        let sample = |what| node.metric(&format!("nsn_p2p_kademlia_{what}{{kind=\"{kind}\"}}"));
        Self {
            lookups: sample("query_questions_count"),
            hops: sample("query_hops_sum"),
            questions: sample("query_questions_sum"),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            lookups: self.lookups - before.lookups,
            hops: self.hops - before.hops,
            questions: self.questions - before.questions,
        }
    }

    /// Questions, and an answer to each.
    pub(crate) fn messages(&self) -> f64 {
        2.0 * self.questions
    }
}

/// Tells a node to provide keys; how many of them it has announced already.
pub(crate) async fn provide(
    node: &Node,
    keys: impl IntoIterator<Item = Key>,
) -> Result<usize, ProvideError> {
    let mut announced = 0;
    for key in keys {
        let told = node.overlay.dht.provide(key, Class::Kept).await?;
        announced += usize::from(told == Announced::Yes);
    }
    Ok(announced)
}

/// Waits until all that a node provides is announced, and the last of those who are to hold it were
/// told.
pub(crate) async fn all_announced(node: &Node) -> Result<(), Failure> {
    let announced = async {
        loop {
            let sweep = node.overlay.dht.status().await?.sweep;
            if sweep.unannounced == 0 && sweep.visits == 0 {
                return Ok::<_, FindError>(());
            }
            sleep(LOOK_EVERY).await;
        }
    };
    Ok(timeout(PATIENCE, announced).await.map_err(|_| "not all was announced in time")??)
}

/// Provides one key and waits until others hold its record.
pub(crate) async fn announce(node: &Node, key: Key) -> Result<(), Failure> {
    provide(node, [key]).await?;
    match timeout(PATIENCE, node.overlay.dht.announced(key)).await?? {
        Announced::Yes => Ok(()),
        Announced::Pending => Err("a key was not announced at the first try".into()),
    }
}

/// How many of the keys the nodes find `provider` for, each key asked of the next node; `at_once`
/// lookups are in flight.
pub(crate) async fn found(
    nodes: &[Node],
    keys: impl Iterator<Item = Key>,
    provider: PeerId,
    at_once: usize,
) -> usize {
    let asked = keys.zip(nodes.iter().cycle()).map(|(key, node)| async move {
        let found = node.overlay.dht.find_providers(key, 1).await;
        found.is_ok_and(|found| found.contains(&provider))
    });
    stream::iter(asked)
        .buffer_unordered(at_once)
        .filter(|found| std::future::ready(*found))
        .count()
        .await
}
