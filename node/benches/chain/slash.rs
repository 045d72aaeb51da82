//! `chain.slash_to_score_ms`: how soon the overlay acts on what has become final.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use nsn_node::offchain::chain_view;
use nsn_p2p::{
    AddressPolicy, Config, Deps, Identity, Metrics, Overlay, PeerId,
    peers::PeerView,
    testnet::{self, StaticReputation},
};
use pallet_reputation_runtime_api::{Earned, OverlayKey, PeerChange, PeerEarned, Scores};
use prometheus_endpoint::Registry;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    Outcome, Outcomes,
    script::{self, DAY, Script},
    stats::{median, quantile, rounded},
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Other peers that the view holds.
const PEERS: usize = 100_000;
/// The component that is slashed: 50 % of the total, which a gossip score follows. From neutral to
/// this is a gossip score of 10 less, and no graylisting.
const SLASHED: u16 = 250;
/// Graylists.
const GRAYLISTED: u16 = 100;

type Failure = Box<dyn Error + Send + Sync>;

/// Two real overlays on loopback (QUIC, the default heartbeat of one second). One of them goes by the
/// view of a scripted chain, on which the other is slashed and pardoned again and again, and
/// graylisted at last. Measured is from the notification of the final block until the overlay's own
/// handle tells the lower gossip score, or the peer is gone.
pub(crate) fn run(quick: bool) -> Outcomes {
    let slashes = if quick { 20 } else { 50 };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(slash(slashes))
}

async fn slash(slashes: usize) -> Outcomes {
    let peer = Identity::from_secret([2; 32])?;
    let mut peers = script::peers(PEERS);
    peers.push(PeerEarned { key: peer.key(), earned: director(500) });
    let script = Script::new(peers);
    let (view, driver) = chain_view::build(script.clone(), script::metrics()?);
    let stop = CancellationToken::new();
    let follower = tokio::spawn(Arc::new(driver).run(stop.clone()));
    let deps = Deps {
        identity: Identity::from_secret([1; 32])?,
        genesis_hash: testnet::GENESIS,
        reputation_changed: view.changes(),
        reputation: Arc::new(view),
        metrics: Metrics::register(&Registry::new())?,
    };
    let (overlay, overlay_driver) = nsn_p2p::build(config()?, deps)?;
    let running = tokio::spawn(overlay_driver.run(stop.clone()));

    let mut other = config()?;
    other.bootstrap.bootnodes.push(address(&overlay).await?);
    let nobody = Arc::new(StaticReputation::default());
    let other = testnet::Node::start(other, peer.clone(), testnet::GENESIS, &nobody)?;
    let mut changes = overlay.peers.changes();
    timeout(PATIENCE, changes.wait_for(|c| c.connected == 1 && c.fewest_listeners == 1)).await??;

    let scene = Scene { script, overlay, key: peer.key(), peer: peer.peer_id() };
    let mut slashed = Vec::new();
    for _ in 0..slashes {
        slashed.push(
            scene.change(SLASHED, |then, now| now.is_some_and(|now| now < then - 5.0)).await?,
        );
        scene.change(500, |then, now| now.is_some_and(|now| now > then + 5.0)).await?;
    }
    let refused = scene.change(GRAYLISTED, |_, now| now.is_none()).await?;

    stop.cancel();
    follower.await?;
    running.await??;
    other.stop().await??;
    let heartbeat = Config::default().gossip.heartbeat.as_secs_f64() * 1e3;
    Ok(vec![Outcome {
        bench: "chain.slash_to_score_ms",
        value: rounded(quantile(&mut slashed, 1.0).max(refused)),
        unit: "ms",
        better: "lower",
        target: heartbeat + 100.0,
        detail: json!({
            "slashes": slashes,
            "p50_ms": rounded(median(&mut slashed)),
            "max_ms": rounded(quantile(&mut slashed, 1.0)),
            "graylisted_to_gone_ms": rounded(refused),
            "bound_peers": PEERS + 1,
        }),
    }])
}

fn director(score: u16) -> Earned {
    Earned::new(Scores { director: score, ..Scores::default() }, DAY)
}

fn config() -> Result<Config, Failure> {
    Ok(Config {
        listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse()?],
        address_policy: AddressPolicy::Any,
        ..Config::default()
    })
}

/// Where an overlay listens. Waits until it does.
async fn address(overlay: &Overlay) -> Result<nsn_p2p::Multiaddr, Failure> {
    let mut changes = overlay.peers.changes();
    let listening = timeout(PATIENCE, changes.wait_for(|c| !c.listen.is_empty())).await??;
    let addr = listening.listen.first().ok_or("it listens nowhere")?.clone();
    addr.with_p2p(overlay.peers.local()).map_err(|addr| format!("{addr} names another").into())
}

struct Scene {
    script: Script,
    overlay: Overlay,
    key: OverlayKey,
    peer: PeerId,
}

impl Scene {
    /// Makes a block final in which the peer's score is another, and gives back the milliseconds until
    /// `seen`, which gets the peer's gossip score from before and the one now, if it is connected.
    async fn change(
        &self,
        score: u16,
        seen: impl Fn(f64, Option<f64>) -> bool,
    ) -> Result<f64, Failure> {
        let then = self.score().await?.ok_or("the peer is gone")?;
        let change = PeerChange { key: self.key, earned: Some(director(score)) };
        let started = Instant::now();
        self.script.push(vec![change]);
        let seen = async {
            while !seen(then, self.score().await?) {}
            Ok::<_, Failure>(started.elapsed().as_secs_f64() * 1e3)
        };
        timeout(PATIENCE, seen).await?
    }

    async fn score(&self) -> Result<Option<f64>, Failure> {
        let peers = self.overlay.peers.list().await?;
        let is_it = |peer: &&PeerView| peer.peer_id == self.peer.to_string();
        Ok(peers.iter().find(is_it).map(|peer| peer.gossip_score))
    }
}
