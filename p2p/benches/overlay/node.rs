//! The node that is measured, in a process of its own: it is asked on standard input and answers on
//! standard output, one JSON object a line, its address first.

use crate::{
    Failure, bare, keys,
    memory::{Peak, live},
    stats::quantile,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use nsn_p2p::{
    AddressPolicy, Config, Identity, Multiaddr, Standing,
    connections::Caps,
    gossip::{Channel, Subscription, Topic},
    testnet::{GENESIS, Node, StaticReputation},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    io::{Write as _, stdout},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// Latencies that are kept between two resets, at most: 4 MB.
const KEPT: usize = 1_000_000;

/// What kind of node, and what it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// gossipsub alone instead of an overlay.
    pub(crate) bare: bool,
    /// Address to listen on.
    pub(crate) listen: Multiaddr,
    /// Light peers of `seed` that are bound to accounts of neutral standing, so that they publish
    /// and connect as peers do that others answer for.
    pub(crate) bound: u32,
    pub(crate) seed: u64,
    /// Whether connections are limited by where they come from.
    pub(crate) limited: bool,
}

impl Setup {
    /// An overlay on TCP without peers that it knows.
    pub(crate) fn tcp() -> Result<Self, Failure> {
        Ok(Self {
            bare: false,
            listen: "/ip4/127.0.0.1/tcp/0".parse()?,
            bound: 0,
            seed: 0,
            limited: false,
        })
    }
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// CPU time of the process since its start, in microseconds, the kernel's share included.
    pub(crate) cpu_us: u64,
    /// Bytes that live in the allocator, and the most that did since the last reset.
    pub(crate) live: u64,
    pub(crate) peak: u64,
    /// Peers connected.
    pub(crate) connected: u64,
    /// Messages that local subscribers had since the start, and missed.
    pub(crate) delivered: u64,
    pub(crate) missed: u64,
    /// Of messages since the last reset: milliseconds from before their author signed them until a
    /// local subscriber had them.
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// What local subscribers heard.
#[derive(Clone)]
pub(crate) struct Heard {
    counts: Arc<Mutex<Counts>>,
    peak: Arc<Mutex<Peak>>,
}

#[derive(Default)]
struct Counts {
    delivered: u64,
    missed: u64,
    latencies_us: Vec<u32>,
}

impl Heard {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self { counts: Arc::default(), peak: Arc::new(Mutex::new(Peak::begin()?)) })
    }

    /// A message whose payload begins with the nanoseconds at which it was made.
    pub(crate) fn message(&self, payload: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = payload.first_chunk::<8>().map_or(0, |stamp| u64::from_be_bytes(*stamp));
        let took = now.saturating_sub(Duration::from_nanos(stamp));
        let mut counts = self.counts();
        counts.delivered += 1;
        if counts.latencies_us.len() < KEPT {
            counts.latencies_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self, mut subscription: Subscription) {
        let mut missed = 0;
        while let Some(message) = subscription.recv().await {
            self.message(&message.payload);
            let now = subscription.missed();
            self.counts().missed += now - missed;
            missed = now;
        }
    }

    fn reset(&self) -> Result<(), Failure> {
        self.counts().latencies_us.clear();
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner) = Peak::begin()?;
        Ok(())
    }

    fn report(&self, connected: u64) -> Result<Report, Failure> {
        // Taken first: working out quantiles is no part of what is measured.
        let (cpu_us, live) = (cpu_us()?, live()?.try_into()?);
        let peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner).most()?.try_into()?;
        let (delivered, missed, latencies) = {
            let counts = self.counts();
            (counts.delivered, counts.missed, counts.latencies_us.clone())
        };
        let mut ms: Vec<f64> = latencies.into_iter().map(|us| f64::from(us) / 1e3).collect();
        Ok(Report {
            cpu_us,
            live,
            peak,
            connected,
            delivered,
            missed,
            p50_ms: quantile(&mut ms, 0.5),
            p95_ms: quantile(&mut ms, 0.95),
            p99_ms: quantile(&mut ms, 0.99),
            max_ms: quantile(&mut ms, 1.0),
        })
    }
}

/// CPU time of this process so far, in microseconds.
pub(crate) fn cpu_us() -> Result<u64, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Ok((us(usage.user_time()) + us(usage.system_time())).try_into()?)
}

/// The topics that anybody may speak on over `control`, which is what light peers do.
pub(crate) fn topics() -> impl Iterator<Item = Topic> {
    let open = |topic: &Topic| topic.channel() == Channel::Control && *topic != Topic::Bft;
    Topic::ALL.into_iter().filter(open)
}

/// Runs a node until standard input ends.
pub(crate) fn serve(setup: &str) -> Result<(), Failure> {
    let setup: Setup = serde_json::from_str(setup)?;
    // As many threads as cores that it may use.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        if setup.bare { bare::serve(&setup).await } else { overlay(&setup).await }
    })
}

async fn overlay(setup: &Setup) -> Result<(), Failure> {
    let reputation = Arc::new(StaticReputation::default());
    for index in 0..setup.bound {
        let identity = Identity::from_secret(keys::secret(setup.seed, "honest", index))?;
        reputation.set(identity.key(), Some(Standing::NEUTRAL));
    }
    let identity = Identity::from_secret([1; 32])?;
    let node = Node::start(config(setup), identity, GENESIS, &reputation)?;
    let heard = Heard::new()?;
    for topic in topics() {
        tokio::spawn(heard.clone().listen(node.overlay.gossip.subscribe(topic)?));
    }
    let changes = node.overlay.peers.changes();
    answer(&node.address().await?, &heard, || changes.borrow().connected).await
}

fn config(setup: &Setup) -> Config {
    let mut config = Config {
        listen: vec![setup.listen.clone()],
        address_policy: AddressPolicy::Any,
        ..Config::default()
    };
    // Light peers hold their connections by nothing but gossip, and not all are in a mesh.
    config.peers.idle_timeout = Duration::from_secs(3600);
    if setup.limited {
        limit_by_source(&mut config);
    }
    config
}

/// Turns on what `AddressPolicy::Any` leaves off: limits by where connections come from. A peer that
/// stayed for a second is a known one here, since the benchmark does not take minutes.
fn limit_by_source(config: &mut Config) {
    config.admission.caps_by_address = Caps::On;
    config.admission.known_after = Duration::from_secs(1);
}

/// Says where the node is, and answers `report` and `reset` until standard input ends.
pub(crate) async fn answer(
    address: &Multiaddr,
    heard: &Heard,
    connected: impl Fn() -> usize,
) -> Result<(), Failure> {
    writeln!(stdout(), "{}", json!({ "address": address.to_string() }))?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.as_str() {
            "reset" => heard.reset()?,
            _ => {
                let report = heard.report(connected().try_into()?)?;
                writeln!(stdout(), "{}", serde_json::to_string(&report)?)?;
            }
        }
    }
    Ok(())
}
