//! `dht.flood`: peers place as many records on one node as they can.

use crate::{
    Failure, Outcome, Outcomes,
    memory::live,
    net::{block_on, found, key, provide},
    raw,
    stats::{real, rounded},
};
use futures::{StreamExt, stream};
use nsn_p2p::{
    Identity, Multiaddr, Standing,
    dht::{Key, StoreLimits},
    testnet::{GENESIS, Node, StaticReputation, config, numbered},
};
use serde_json::json;
use std::{
    io::{Write as _, stderr},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// Keys that the node provides itself, and records of a bound peer that it holds.
const OWN: usize = 1_000;
const BOUND: usize = 1_000;
/// Records that one peer sends, and that each of many sends.
const OF_ONE: usize = 50_000;
const PEERS: usize = 1_000;
const OF_EACH: usize = 900;
const QUICK_PEERS: usize = 200;
/// Peers that send at the same time.
const AT_ONCE: usize = 50;
/// Longest that connections take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a store may take when it is full, by its own account ([`StoreLimits`]).
const BOUND_MB: f64 = 32.0;
/// First key of each kind.
const BOUND_KEYS: usize = 1 << 20;
const FLOOD_KEYS: usize = 1 << 24;

pub(crate) fn run(quick: bool) -> Outcomes {
    block_on(flood(quick))
}

/// A node that is flooded.
struct Flooded {
    node: Node,
    address: Multiaddr,
    chain: Arc<StaticReputation>,
    before: usize,
}

/// What the node holds after a flood.
struct Held {
    records: usize,
    refused: f64,
    bytes: usize,
}

impl Flooded {
    /// A node with keys of its own and records of a bound peer, at whose cost nothing must go.
    async fn start() -> Result<Self, Failure> {
        let chain = Arc::new(StaticReputation::default());
        let node = Node::start(config(), numbered(0)?, GENESIS, &chain)?;
        let address = node.address().await?;
        provide(&node, (0..OWN).map(key)).await?;
        let bound = Identity::from_secret(secret(0))?;
        chain.set(bound.key(), Some(Standing::NEUTRAL));
        let flooded = Self { node, address, chain, before: 0 };
        let keys = (BOUND_KEYS..BOUND_KEYS + BOUND).map(key);
        if !flooded.place(secret(0), keys).await? {
            return Err("the bound peer could not place its records".into());
        }
        flooded.quiet().await?;
        Ok(Self { before: live()?, ..flooded })
    }

    async fn place(
        &self,
        secret: [u8; 32],
        keys: impl Iterator<Item = Key>,
    ) -> Result<bool, Failure> {
        raw::place(secret, self.node.peer_id(), self.address.clone(), keys, key(0)).await
    }

    /// Waits until nobody is connected.
    async fn quiet(&self) -> Result<(), Failure> {
        let mut changes = self.node.overlay.peers.changes();
        let gone = changes.wait_for(|changes| changes.connected == 0);
        tokio::time::timeout(PATIENCE, gone).await.map_err(|_| "the peers have not left")??;
        Ok(())
    }

    async fn held(&self) -> Result<Held, Failure> {
        self.quiet().await?;
        // What the streams of the last peers hold goes with their tasks.
        sleep(Duration::from_millis(500)).await;
        let bytes = live()?.saturating_sub(self.before);
        let status = self.node.overlay.dht.status().await?;
        Ok(Held { records: status.records, refused: self.refused(), bytes })
    }

    fn refused(&self) -> f64 {
        ["rate", "per_provider", "providers", "total", "per_key"]
            .iter()
            .map(|reason| {
                let name = "nsn_p2p_kademlia_records_refused_total";
                self.node.metric(&format!("{name}{{reason=\"{reason}\"}}"))
            })
            .sum()
    }

    /// The share of its own keys, and of the bound peer's, that another node finds through it.
    async fn found(self) -> Result<(f64, f64), Failure> {
        let mut config = config();
        config.bootstrap.bootnodes = vec![self.address.clone()];
        // It keeps nothing itself, so that it has to ask.
        config.dht.store.per_provider = 1;
        let asker = Node::start(config, numbered(1)?, GENESIS, &self.chain)?;
        asker.wait_for("the flooded node", |c| c.routing_table >= 1).await?;
        let asker = [asker];
        let share = |found: usize, of: usize| -> Result<f64, Failure> {
            Ok(real(found.try_into()?) / real(of.try_into()?))
        };
        let own = found(&asker, (0..OWN).map(key), self.node.peer_id(), 16).await;
        let keys = (BOUND_KEYS..BOUND_KEYS + BOUND).map(key);
        let bound = found(&asker, keys, Identity::from_secret(secret(0))?.peer_id(), 16).await;
        for node in asker.into_iter().chain([self.node]) {
            node.stop().await??;
        }
        Ok((share(own, OWN)?, share(bound, BOUND)?))
    }
}

async fn flood(quick: bool) -> Outcomes {
    let peers = if quick { QUICK_PEERS } else { PEERS };
    let limits = StoreLimits::default();
    writeln!(stderr(), "  one peer sends {OF_ONE} records ...")?;
    let one = Flooded::start().await?;
    one.place(secret(1), (FLOOD_KEYS..FLOOD_KEYS + OF_ONE).map(key)).await?;
    let of_one = one.held().await?;
    let (one_own, one_bound) = Box::pin(one.found()).await?;

    writeln!(stderr(), "  {peers} peers send {OF_EACH} records each ...")?;
    let many = Flooded::start().await?;
    let sending = (0..peers).map(|n| {
        let first = FLOOD_KEYS + n * OF_EACH;
        many.place(secret(n + 1), (first..first + OF_EACH).map(key))
    });
    // Whoever is refused a connection is refused a flood, too.
    let sent = stream::iter(sending).buffer_unordered(AT_ONCE);
    let sent = sent.filter(|sent| std::future::ready(matches!(sent, Ok(true)))).count().await;
    let of_many = many.held().await?;
    let (many_own, many_bound) = Box::pin(many.found()).await?;
    let told = |held: &Held| {
        json!({
            "records_held": held.records,
            "records_refused": held.refused,
            "bytes": held.bytes,
        })
    };
    let most = of_one.bytes.max(of_many.bytes);
    Ok(vec![
        Outcome {
            bench: "dht.flood",
            value: rounded(real(most.try_into()?) / 1e6),
            unit: "MB",
            better: "lower",
            target: Some(BOUND_MB),
            detail: json!({
                "how": "a real node, and peers that speak kad by hand, on the in-process transport",
                "most_records": limits.total,
                "of_one_peer": told(&of_one),
                "of_many_peers": told(&of_many),
                "peers": peers,
                "peers_heard_out": sent,
                "records_of_each": OF_EACH,
            }),
        },
        Outcome {
            bench: "dht.flood.found",
            value: rounded(one_own.min(one_bound).min(many_own).min(many_bound)),
            unit: "share found",
            better: "higher",
            target: Some(1.0),
            detail: json!({
                "after_one_peer": { "own": one_own, "of_a_bound_peer": one_bound },
                "after_many_peers": { "own": many_own, "of_a_bound_peer": many_bound },
            }),
        },
    ])
}

/// The key of the `n`th peer that speaks by hand.
fn secret(n: usize) -> [u8; 32] {
    let mut secret = [0xf1; 32];
    for (to, from) in secret.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    secret
}
