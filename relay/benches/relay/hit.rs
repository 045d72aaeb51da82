//! Hits against bare quinn: the same blobs, settings and viewers, one side after the other.

use crate::{
    Failure, Outcome, Outcomes,
    node::{Node, config, noise, threads},
    stats::{median, real, rounded},
};
use bytes::Bytes;
use libp2p::identity::Keypair;
use nsn_relay::{
    BlobId,
    client::Address,
    load::{Baseline, Dialler, pull},
    wire::{Encoding, Patience, Request, get_groups},
};
use quinn::Connection;
use serde_json::json;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Length of a shard by default.
const SHARD: usize = 1024 * 1024;
/// Streams that all connections have open together, at least one each.
const STREAMS: usize = 4;
const MIB: f64 = 1024.0 * 1024.0;
const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };

/// How a viewer asks.
#[derive(Clone, Copy)]
enum How {
    /// The bytes alone, thrown away.
    Raw,
    /// Every 16 KiB verified as it arrives.
    Verified,
}

/// How long and how often.
struct Effort {
    shards: usize,
    rounds: usize,
    each: Duration,
}

pub(crate) fn run(quick: bool) -> Outcomes {
    let effort = match quick {
        true => Effort { shards: 32, rounds: 3, each: Duration::from_millis(700) },
        false => Effort { shards: 128, rounds: 7, each: Duration::from_secs(2) },
    };
    let (serving, viewing) = (threads("service")?, threads("viewers")?);
    let sides = serving.block_on(Sides::start(effort.shards))?;
    let mut outcomes = Vec::new();
    for (bench, connections, relay, how, target) in [
        ("relay.hit.memory.c1", 1, sides.memory.address, How::Raw, 0.90),
        ("relay.hit.memory.c16", 16, sides.memory.address, How::Raw, 0.90),
        ("relay.hit.disk.c16", 16, sides.disk.address, How::Raw, 0.75),
        ("relay.hit.verified.c1", 1, sides.memory.address, How::Verified, 0.65),
    ] {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            bare.push(measure(&viewing, &sides, sides.bare, connections, How::Raw, effort.each)?);
            ours.push(measure(&viewing, &sides, relay, connections, how, effort.each)?);
        }
        let detail = json!({
            "mib_per_second": rounded(median(&mut ours)),
            "bare_mib_per_second": rounded(median(&mut bare)),
            "all": ours.iter().map(|rate| rounded(*rate)).collect::<Vec<_>>(),
            "bare_all": bare.iter().map(|rate| rounded(*rate)).collect::<Vec<_>>(),
            "connections": connections,
            "streams": STREAMS.max(connections),
            "shards": effort.shards,
        });
        outcomes.push(Outcome {
            bench,
            value: rounded(median(&mut ours) / median(&mut bare)),
            unit: "x bare quinn",
            better: "higher",
            target: Some(target),
            detail,
        });
    }
    serving.block_on(sides.stop())?;
    Ok(outcomes)
}

/// What is held against each other.
struct Sides {
    ids: Arc<Vec<BlobId>>,
    bare: Address,
    stop_bare: CancellationToken,
    /// A relay that has all blobs in memory.
    memory: Node,
    /// A relay that has all blobs on disk alone.
    disk: Node,
    origin: Node,
}

impl Sides {
    async fn start(shards: usize) -> Result<Self, Failure> {
        let bytes = Bytes::from(noise(shards * SHARD, 1));
        let origin = Node::origin(config()).await?;
        let (_, ids) = origin.publish(&bytes).await?;
        let mut blobs = HashMap::new();
        for (n, id) in ids.iter().enumerate() {
            blobs.insert(*id, bytes.slice(n * SHARD..(n + 1) * SHARD));
        }
        let identity = Keypair::generate_ed25519();
        let bare = Baseline::bind(&identity, &config().server, blobs)?;
        let address = bare.address();
        let stop_bare = CancellationToken::new();
        tokio::spawn(bare.run(stop_bare.clone()));
        let memory = Node::relay(config(), vec![origin.source()]).await?;
        let mut without_memory = config();
        without_memory.cache.memory = 0;
        let disk = Node::relay(without_memory, vec![origin.source()]).await?;
        for relay in [&memory, &disk] {
            relay.warm(&ids).await?;
        }
        Ok(Self { ids: Arc::new(ids), bare: address, stop_bare, memory, disk, origin })
    }

    async fn stop(self) -> Result<(), Failure> {
        self.stop_bare.cancel();
        for node in [self.memory, self.disk, self.origin] {
            node.stop().await?;
        }
        Ok(())
    }
}

/// MiB a second that `connections` viewers get together.
fn measure(
    viewing: &Runtime,
    sides: &Sides,
    address: Address,
    connections: usize,
    how: How,
    each: Duration,
) -> Result<f64, Failure> {
    let ids = Arc::clone(&sides.ids);
    viewing.block_on(async move {
        let mut open = Vec::new();
        // A socket for each, since one socket is one task.
        for _ in 0..connections {
            let dialler = Dialler::bind(IpAddr::from(Ipv4Addr::LOCALHOST))?;
            open.push((dialler.connect(address, Duration::from_secs(5)).await?, dialler));
        }
        let streams = STREAMS.div_ceil(connections);
        // Congestion windows and caches settle first.
        fetch(&open, streams, &ids, how, each / 4).await?;
        let rate = fetch(&open, streams, &ids, how, each).await?;
        for (connection, _) in &open {
            connection.close(0u32.into(), b"");
        }
        Ok(rate)
    })
}

/// Fetches one shard after the other on every stream for a while; MiB a second.
async fn fetch(
    open: &[(Connection, Dialler)],
    streams: usize,
    ids: &Arc<Vec<BlobId>>,
    how: How,
    each: Duration,
) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (n, (connection, _)) in open.iter().enumerate() {
        for stream in 0..streams {
            let (connection, ids) = (connection.clone(), Arc::clone(ids));
            running.spawn(async move {
                let mut bytes = 0;
                // Each begins at another shard.
                let from = (n * streams + stream) * 7 % ids.len().max(1);
                for id in ids.iter().cycle().skip(from) {
                    if began.elapsed() >= each {
                        break;
                    }
                    bytes += one(&connection, *id, how).await?;
                }
                Ok::<u64, Failure>(bytes)
            });
        }
    }
    let mut bytes = 0;
    while let Some(ended) = running.join_next().await {
        bytes += ended??;
    }
    Ok(real(bytes) / MIB / began.elapsed().as_secs_f64())
}

/// Fetches one shard and says how long it is.
async fn one(connection: &Connection, id: BlobId, how: How) -> Result<u64, Failure> {
    match how {
        How::Raw => {
            let request = Request::Get { id, range: None, encoding: Encoding::Raw, fill: false };
            Ok(pull(connection, &request, PATIENCE, |_| {}).await?.header.length)
        }
        How::Verified => {
            let mut groups = get_groups(connection, id, None, false, PATIENCE).await?;
            let mut bytes = 0;
            while let Some((group, rest)) = groups.next().await? {
                bytes += u64::try_from(group.bytes.len())?;
                groups = rest;
            }
            Ok(bytes)
        }
    }
}
