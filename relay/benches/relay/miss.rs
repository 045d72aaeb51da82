//! Misses: what a relay that lacks a shard costs its viewer, against going to the super-node directly;
//! and what becomes of a miss when a source is slow, or dies.
//!
//! The way to the super-nodes leads through a [`Shim`], for the viewer that goes there directly as for
//! the relay. The relay is near: nothing stands between it and the viewer.

use crate::{
    Failure, Outcome, Outcomes,
    node::{Node, config, noise, threads},
    stats::{median, quantile, real, rounded},
};
use nsn_relay::{
    BlobId, Source,
    client::Address,
    load::{Dialler, Link, Pulled, Shim, pull},
    wire::{Encoding, Patience, Request, get_groups},
};
use quinn::Connection;
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

const SHARD: usize = 1024 * 1024;
const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };
const FAR: Duration = Duration::from_millis(20);
/// Longer than anything here takes to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// A super-node and the path to it.
struct Far {
    origin: Node,
    shim: Shim,
}

impl Far {
    async fn start(bytes: &[u8], link: Link) -> Result<(Self, Vec<BlobId>), Failure> {
        let origin = Node::origin(config()).await?;
        let (_, ids) = origin.publish(bytes).await?;
        let shim = Shim::start(origin.address.socket, link)?;
        Ok((Self { origin, shim }, ids))
    }

    fn address(&self) -> Address {
        Address { socket: self.shim.addr(), peer: self.origin.address.peer }
    }

    /// As a directory names it: at the end of the path.
    fn source(&self) -> Source {
        Source { addrs: vec![self.shim.addr()], ..self.origin.source() }
    }
}

/// Super-nodes that all have the same shards, each behind a path.
async fn several(
    count: usize,
    bytes: &[u8],
    link: Link,
) -> Result<(Vec<Far>, Vec<BlobId>), Failure> {
    let (mut all, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (far, found) = Far::start(bytes, link).await?;
        all.push(far);
        ids = found;
    }
    Ok((all, ids))
}

fn dialler() -> Result<Dialler, Failure> {
    Ok(Dialler::bind(IpAddr::from(Ipv4Addr::LOCALHOST))?)
}

fn request(id: BlobId) -> Request {
    Request::Get { id, range: None, encoding: Encoding::Verified, fill: true }
}

async fn fetch(connection: &Connection, id: BlobId) -> Result<Pulled, Failure> {
    Ok(pull(connection, &request(id), PATIENCE, |_| {}).await?)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds at quantiles.
fn spread(values: &mut [f64]) -> serde_json::Value {
    json!({
        "p50": rounded(quantile(values, 0.5)),
        "p95": rounded(quantile(values, 0.95)),
        "p99": rounded(quantile(values, 0.99)),
        "max": rounded(quantile(values, 1.0)),
        "count": values.len(),
    })
}

pub(crate) fn run(quick: bool) -> Outcomes {
    let rounds = if quick { 20 } else { 60 };
    let (serving, viewing) = (threads("service")?, threads("viewers")?);
    // In each round a shard for each: warm and cold, by the relay and directly.
    let bytes = noise(4 * rounds * SHARD, 11);
    let (far, ids) = serving.block_on(Far::start(&bytes, Link::delay(FAR)))?;
    let relay = serving.block_on(Node::relay(config(), vec![far.source()]))?;
    let took = viewing.block_on(rounds_of(&ids, &relay, &far))?;
    let Took { mut warm, mut direct, mut cold, mut cold_direct } = took;
    let ratio = |ours: &mut [f64], theirs: &mut [f64]| rounded(median(ours) / median(theirs));
    let mut outcomes = Vec::new();
    for (bench, better, target, ours, theirs) in [
        ("relay.miss.ttfb", "lower", 1.25, &mut warm.first, &mut direct.first),
        ("relay.miss.whole", "lower", 1.15, &mut warm.whole, &mut direct.whole),
        ("relay.miss.cold", "lower", 0.70, &mut cold.whole, &mut cold_direct.whole),
    ] {
        let detail = json!({
            "relay_ms": spread(ours),
            "direct_ms": spread(theirs),
            "one_way_ms": ms(FAR),
            "above_500_ms": ours.iter().filter(|ms| **ms > 500.0).count(),
        });
        let value = ratio(ours, theirs);
        let unit = "x direct";
        outcomes.push(Outcome { bench, value, unit, better, target: Some(target), detail });
    }
    serving.block_on(async move {
        relay.stop().await?;
        far.origin.stop().await
    })?;
    Ok(outcomes)
}

/// Milliseconds to the first byte and to the last.
#[derive(Default)]
struct Times {
    first: Vec<f64>,
    whole: Vec<f64>,
}

#[derive(Default)]
struct Took {
    warm: Times,
    direct: Times,
    cold: Times,
    cold_direct: Times,
}

async fn rounds_of(ids: &[BlobId], relay: &Node, far: &Far) -> Result<Took, Failure> {
    let mut took = Took::default();
    let dialler = dialler()?;
    let near = dialler.connect(relay.address, CONNECT).await?;
    let there = dialler.connect(far.address(), CONNECT).await?;
    let mut ids = ids.iter();
    let mut next = || ids.next().copied().ok_or("too few shards");
    // Connections and congestion windows settle first.
    for _ in 0..4 {
        fetch(&near, next()?).await?;
        fetch(&there, next()?).await?;
    }
    let add = |times: &mut Times, began: Instant, pulled: &Pulled| {
        // A cold viewer pays for its handshake too.
        let whole = ms(began.elapsed());
        times.whole.push(whole);
        times.first.push(whole - ms(pulled.took) + ms(pulled.first_byte));
    };
    while let (Ok(a), Ok(b), Ok(c), Ok(d)) = (next(), next(), next(), next()) {
        let began = Instant::now();
        add(&mut took.warm, began, &fetch(&near, a).await?);
        let began = Instant::now();
        add(&mut took.direct, began, &fetch(&there, b).await?);
        for (address, id, times) in
            [(relay.address, c, &mut took.cold), (far.address(), d, &mut took.cold_direct)]
        {
            let began = Instant::now();
            let cold = dialler.connect(address, CONNECT).await?;
            add(times, began, &fetch(&cold, id).await?);
            cold.close(0u32.into(), b"");
        }
    }
    Ok(took)
}

/// Many viewers ask for one cold shard at once.
pub(crate) fn coalesce(quick: bool) -> Outcomes {
    let (viewers, rounds) = (100, if quick { 2 } else { 10 });
    let (serving, viewing) = (threads("service")?, threads("viewers")?);
    let bytes = noise(rounds * SHARD, 12);
    let (far, ids) = serving.block_on(Far::start(&bytes, Link::delay(FAR)))?;
    let relay = serving.block_on(Node::relay(config(), vec![far.source()]))?;
    let fetches = || relay.metrics.upstream_fetches_total.get();
    let mut most = 0;
    let mut last = Vec::new();
    for id in ids {
        let before = fetches();
        let took = viewing.block_on(async {
            let dialler = dialler()?;
            let mut open = Vec::new();
            for _ in 0..viewers {
                open.push(dialler.connect(relay.address, CONNECT).await?);
            }
            let began = Instant::now();
            let all = open.iter().map(|connection| fetch(connection, id));
            futures::future::try_join_all(all).await?;
            Ok::<_, Failure>(ms(began.elapsed()))
        })?;
        last.push(took);
        most = most.max(fetches() - before);
    }
    serving.block_on(async move {
        relay.stop().await?;
        far.origin.stop().await
    })?;
    let value = real(most);
    let detail =
        json!({ "viewers": viewers, "shards": rounds, "last_viewer_ms": spread(&mut last) });
    Ok(vec![Outcome {
        bench: "relay.coalesce",
        value,
        unit: "upstream fetches",
        better: "lower",
        target: Some(1.0),
        detail,
    }])
}

/// The source dies in the middle of a shard.
pub(crate) fn failover(quick: bool) -> Outcomes {
    let rounds = if quick { 3 } else { 20 };
    let (serving, viewing) = (threads("service")?, threads("viewers")?);
    // A shard takes a quarter of a second, so that there is a middle.
    let link = Link { delay: FAR, rate: Some(4 * 1024 * 1024), queue: 256 * 1024 };
    let bytes = noise(4 * SHARD, 13);
    let (far, ids) = serving.block_on(several(2, &bytes, link))?;
    let mut gaps = Vec::new();
    for round in 0..rounds {
        // A relay that knows nothing yet, so that either may be the one that it asks.
        let sources = far.iter().map(Far::source).collect();
        let relay = serving.block_on(Node::relay(config(), sources))?;
        let id = ids.get(round % ids.len()).copied().ok_or("no shard")?;
        let at = round % ids.len() * SHARD;
        let expected = bytes.get(at..at + SHARD).ok_or("no shard")?;
        gaps.push(viewing.block_on(killed(&relay, &far, id, expected))?);
        serving.block_on(relay.stop())?;
    }
    serving.block_on(async move {
        for far in far {
            far.origin.stop().await?;
        }
        Ok::<_, Failure>(())
    })?;
    let value = rounded(quantile(&mut gaps, 1.0));
    Ok(vec![Outcome {
        bench: "relay.failover_ms",
        value,
        unit: "ms, the longest gap",
        better: "lower",
        target: Some(1000.0),
        detail: json!({ "gap_ms": spread(&mut gaps), "one_way_ms": ms(FAR) }),
    }])
}

/// Kills the source that sends after a quarter of the shard, and gives the longest wait for a group.
async fn killed(relay: &Node, far: &[Far], id: BlobId, bytes: &[u8]) -> Result<f64, Failure> {
    let dialler = dialler()?;
    let connection = dialler.connect(relay.address, CONNECT).await?;
    let served = |far: &Far| far.origin.metrics.viewer_connections.get();
    // Connections of the last round end a moment later.
    while far.iter().any(|far| served(far) > 0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut groups = get_groups(&connection, id, None, true, PATIENCE).await?;
    let (mut got, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    let mut killed = None;
    while let Some((group, rest)) = groups.next().await? {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        got.extend_from_slice(&group.bytes);
        if group.index == 16 {
            // The one that has a connection is the one that sends.
            killed = far.iter().find(|far| served(far) > 0);
            killed.ok_or("no source has a connection")?.shim.cut(true);
        }
        groups = rest;
    }
    if let Some(far) = killed {
        far.shim.cut(false);
    }
    if got != bytes {
        return Err("the viewer got wrong bytes".into());
    }
    Ok(ms(longest))
}

/// One of three super-nodes becomes twenty times slower.
pub(crate) fn hedge(quick: bool) -> Outcomes {
    let misses = if quick { 60 } else { 400 };
    let (serving, viewing) = (threads("service")?, threads("viewers")?);
    let bytes = noise(2 * misses * SHARD / 4, 14);
    let mut settings = config();
    settings.publish.shard_len = 256 * 1024;
    let shard_len = 256 * 1024;
    let link = Link { delay: FAR, rate: Some(32 * 1024 * 1024), queue: 4 * 1024 * 1024 };
    let (far, ids) = serving.block_on(async {
        let (mut all, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let origin = Node::origin(settings.clone()).await?;
            ids = origin.publish(&bytes).await?.1;
            let shim = Shim::start(origin.address.socket, link)?;
            all.push(Far { origin, shim });
        }
        Ok::<_, Failure>((all, ids))
    })?;
    let sources: Vec<_> = far.iter().map(Far::source).collect();
    let relay = serving.block_on(Node::relay(config(), sources))?;
    let (healthy, slow) = ids.split_at(ids.len() / 2);
    let mut before = viewing.block_on(one_by_one(&relay, healthy))?;
    // The first few connect.
    before.drain(..8.min(before.len()));
    if let Some(first) = far.first() {
        let rate = link.rate.map(|rate| rate / 20);
        first.shim.set(Link { delay: FAR * 20, rate, ..link });
    }
    let mut after = viewing.block_on(one_by_one(&relay, slow))?;
    let hedges = |outcome| relay.metrics.hedges_total.with_label_values(&[outcome]).get();
    let detail = json!({
        "healthy_ms": spread(&mut before),
        "one_slow_ms": spread(&mut after),
        "hedges": { "asked": hedges("asked"), "won": hedges("won"), "lost": hedges("lost") },
        "fetches": relay.metrics.upstream_fetches_total.get(),
        "shard_bytes": shard_len,
    });
    let value = rounded(quantile(&mut after, 0.99) / quantile(&mut before, 0.99));
    serving.block_on(async move {
        relay.stop().await?;
        for far in far {
            far.origin.stop().await?;
        }
        Ok::<_, Failure>(())
    })?;
    Ok(vec![Outcome {
        bench: "relay.hedge",
        value,
        unit: "x healthy p99",
        better: "lower",
        target: Some(1.3),
        detail,
    }])
}

async fn one_by_one(relay: &Node, ids: &[BlobId]) -> Result<Vec<f64>, Failure> {
    let dialler = dialler()?;
    let connection = dialler.connect(relay.address, CONNECT).await?;
    let mut took = Vec::new();
    for id in ids {
        took.push(ms(fetch(&connection, *id).await?.took));
    }
    Ok(took)
}
