//! `overlay.graylist`: how soon a node reads a flooder no more, and whether it stays so.

use crate::{
    Failure, Outcome, Outcomes, keys,
    process::Load,
    stats::{real, rounded},
};
use nsn_p2p::{
    AddressPolicy, Config, Identity, Multiaddr, PeerId, Standing,
    gossip::{Subscription, Topic, score::THRESHOLDS},
    testnet::{GENESIS, Node, StaticReputation},
};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Honest peers, and messages a second of all of them.
const HONEST: u32 = 20;
const RATE: u32 = 40;
/// Invalid messages a second of the attacker.
const FLOOD: u32 = 200;
/// Seed of the attacker's key.
const SEED: u64 = 666;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the node calls a message that is no envelope.
const MALFORMED: &str =
    "nsn_p2p_gossipsub_messages_refused_total{reason=\"malformed\",topic=\"tasks\"}";

/// Two real nodes, the second of which hears honest peers only through the first, which the attacker
/// floods.
pub(crate) fn run(quick: bool) -> Outcomes {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(graylist(quick))
}

async fn graylist(quick: bool) -> Outcomes {
    let seconds = if quick { 10 } else { 30 };
    let reputation = Arc::new(StaticReputation::default());
    for index in 0..HONEST {
        let identity = Identity::from_secret(keys::secret(0, "honest", index))?;
        reputation.set(identity.key(), Some(Standing::NEUTRAL));
    }
    let first = start(1, &reputation, vec![])?;
    let address = first.address().await?;
    let second = start(2, &reputation, vec![address.clone()])?;
    let connected = second.wait_for("the first node", |c| c.fewest_listeners == 1);
    connected.await?;
    let heard = [&first, &second].map(|node| {
        let heard = Arc::new(AtomicU64::new(0));
        let subscription = node.overlay.gossip.subscribe(Topic::Tasks);
        tokio::spawn(count(subscription.ok(), heard.clone()));
        heard
    });
    let address = address.to_string();
    let honest = Load::start(
        &address,
        &format!("--peers {HONEST} --rate {RATE} --topic tasks --duration {seconds} --linger 1"),
    )?;
    sleep(Duration::from_secs(2)).await;

    let attacker = Identity::from_secret(keys::secret(SEED, "bad", 0))?.peer_id();
    let attack = |rate, time| {
        format!(
            "--peers 0 --misbehave malformed --bad-rate {rate} --topic tasks --seed {SEED} \
             --duration {time} --linger 0"
        )
    };
    let flood = Load::start(&address, &attack(FLOOD, 4))?;
    // It floods from the moment it is in.
    let begun = until(&first, |score| score.is_some(), attacker).await?;
    until(&first, |_| first.metric(MALFORMED) > 0.0, attacker).await?;
    let below = |score: Option<f64>| score.is_none_or(|score| score < THRESHOLDS.graylist);
    let graylisted = until(&first, below, attacker).await?;
    let read = first.metric(MALFORMED);
    let took = graylisted.duration_since(begun);
    tokio::task::spawn_blocking(|| flood.finish()).await??;
    while score(&first, attacker).await?.is_some() {
        sleep(Duration::from_millis(20)).await;
    }

    // The same key again, and now it says nothing.
    let silent = Load::start(&address, &attack(0, 3))?;
    let (mut best, mut seen) = (None::<f64>, false);
    let came_back = Instant::now();
    while came_back.elapsed() < Duration::from_secs(3) {
        if let Some(score) = score(&first, attacker).await? {
            (best, seen) = (Some(best.map_or(score, |best| best.max(score))), true);
        }
        sleep(Duration::from_millis(10)).await;
    }
    tokio::task::spawn_blocking(|| silent.finish()).await??;
    let honest = tokio::task::spawn_blocking(|| honest.finish()).await??;
    let published = honest.count("published");
    let heard = heard.map(|heard| heard.load(Relaxed));
    let heartbeat = Config::default().gossip.heartbeat.as_secs_f64();
    for node in [second, first] {
        node.stop().await??;
    }
    let share = |heard: u64| rounded(real(heard) / real(published.max(1)) * 100.0);
    Ok(vec![
        Outcome {
            bench: "overlay.graylist",
            value: rounded(took.as_secs_f64() / heartbeat),
            unit: "heartbeats",
            better: "lower",
            target: Some(3.0),
            detail: json!({
                "invalid_messages_read": read,
                "invalid_messages_per_second": FLOOD,
                "let_in_again": seen,
                "best_score_after_coming_back": best.map(rounded),
                "graylisted_after_coming_back": below(best),
            }),
        },
        Outcome {
            bench: "overlay.graylist.delivered",
            value: share(heard[0]).min(share(heard[1])),
            unit: "% of honest messages",
            better: "higher",
            target: Some(100.0),
            detail: json!({
                "published": published,
                "at_the_flooded_node": heard[0],
                "through_the_flooded_node": heard[1],
            }),
        },
    ])
}

fn start(
    n: u8,
    reputation: &Arc<StaticReputation>,
    bootnodes: Vec<Multiaddr>,
) -> Result<Node, Failure> {
    let mut config = Config {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        address_policy: AddressPolicy::Any,
        ..Config::default()
    };
    config.bootstrap.bootnodes = bootnodes;
    Ok(Node::start(config, Identity::from_secret([n; 32])?, GENESIS, reputation)?)
}

async fn count(subscription: Option<Subscription>, heard: Arc<AtomicU64>) {
    let Some(mut subscription) = subscription else { return };
    while subscription.recv().await.is_some() {
        heard.fetch_add(1, Relaxed);
    }
}

/// The gossip score of a peer, if it is connected.
async fn score(node: &Node, peer: PeerId) -> Result<Option<f64>, Failure> {
    let (peers, peer) = (node.overlay.peers.list().await?, peer.to_string());
    Ok(peers.into_iter().find(|p| p.peer_id == peer).map(|p| p.gossip_score))
}

/// Waits until the score of a peer is as wanted; when that was.
async fn until(
    node: &Node,
    wanted: impl Fn(Option<f64>) -> bool,
    peer: PeerId,
) -> Result<Instant, Failure> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if wanted(score(node, peer).await?) {
            return Ok(Instant::now());
        }
        sleep(Duration::from_millis(2)).await;
    }
    Err("the attacker was not seen, or not graylisted".into())
}
