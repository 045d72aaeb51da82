//! `nat.leak`: what is left of many cycles of STUN, UPnP and TURN against servers that are no help.

use crate::{
    Failure, Outcome, Outcomes, block_on,
    liars::{self, Lie, Stream},
    memory::{Peak, live},
};
use nsn_p2p::{
    Config,
    nat::{TurnEnabled, Wait, When},
    testnet::{GENESIS, Node, StaticReputation, config, numbered},
};
use serde_json::json;
use std::{
    io::{Write as _, stderr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Cycles of each that are measured, and those before, in which tables and pools fill.
const CYCLES: u32 = 1000;
const QUICK_CYCLES: u32 = 150;
const WARM: u32 = 100;

/// Longest that it may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Looks at what is held, of which the least counts: attempts under way hold something too.
const LOOKS: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Memory that may come to be held beside a leak: a table that doubles, what threads keep for their
/// next allocations. In kB.
const SLACK_KB: f64 = 64.0;

pub(crate) fn run(quick: bool) -> Outcomes {
    block_on(leak(if quick { QUICK_CYCLES } else { CYCLES }))
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    bytes: usize,
}

impl Held {
    /// The least of many looks.
    async fn look() -> Result<Self, Failure> {
        let mut least = Self { descriptors: usize::MAX, bytes: usize::MAX };
        for _ in 0..LOOKS {
            let descriptors = std::fs::read_dir("/proc/self/fd")?.count();
            least.descriptors = least.descriptors.min(descriptors);
            least.bytes = least.bytes.min(live()?);
            sleep(LOOK_EVERY).await;
        }
        Ok(least)
    }
}

/// How often each was tried and had failed.
#[derive(Clone, Copy, Debug)]
struct Tried {
    stun: f64,
    upnp: f64,
    turn: f64,
}

impl Tried {
    fn of(node: &Node, stun_servers: usize) -> Result<Self, Failure> {
        let sum = |name: &str, label: &str, values: &[&str]| -> f64 {
            let sample = |value| node.metric(&format!("nsn_p2p_{name}{{{label}=\"{value}\"}}"));
            values.iter().map(sample).sum()
        };
        let servers = f64::from(u32::try_from(stun_servers)?);
        let lost = ["timeout", "unreachable", "malformed"];
        let mapped = ["no_router", "timeout", "io", "refused", "malformed", "impossible"];
        Ok(Self {
            stun: sum("nat_stun_answers_total", "outcome", &["timeout"]) / servers,
            upnp: sum("nat_mapping_answers_total", "outcome", &mapped),
            turn: sum("nat_turn_allocations_lost_total", "reason", &lost),
        })
    }

    fn least(self) -> f64 {
        self.stun.min(self.upnp).min(self.turn)
    }
}

/// A node that asks all of them as often as it can.
async fn settings() -> Result<Config, Failure> {
    let listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"];
    let listen = listen.iter().map(|addr| addr.parse()).collect::<Result<_, _>>()?;
    let mut config = Config { listen, tick: Duration::from_millis(5), ..config() };
    let soon = Duration::from_millis(5);
    let stun = &mut config.nat.stun;
    for lie in [Lie::Silence, Lie::Garbage, Lie::Short, Lie::Another] {
        stun.servers.push(liars::udp(lie).await?.to_string());
    }
    stun.servers.push(liars::dead().await?.to_string());
    stun.retransmit = vec![Wait(soon); 2];
    (stun.every, stun.discover_every) = (soon, 4 * soon);
    let mapping = &mut config.nat.mapping;
    (mapping.enabled, mapping.pcp) = (When::On, false);
    mapping.upnp_search = liars::router().await?;
    (mapping.timeout, mapping.retry, mapping.retry_max) = (4 * soon, soon, soon);
    let turn = &mut config.nat.turn;
    turn.enabled = TurnEnabled::Always;
    let mut servers = Vec::new();
    for lie in [Lie::Silence, Lie::Garbage, Lie::Short, Lie::Another] {
        servers.push(format!("turn:{}", liars::udp(lie).await?));
    }
    for behaves in [Stream::Silent, Stream::HangsUp, Stream::Endless] {
        servers.push(format!("turn:{}?transport=tcp", liars::tcp(behaves).await?));
    }
    servers.push(format!("turn:{}?transport=tcp", liars::dead().await?));
    turn.servers = servers.iter().map(|server| server.parse()).collect::<Result<_, _>>()?;
    turn.retransmit = vec![Wait(soon); 2];
    (turn.timeout, turn.retry, turn.retry_max) = (4 * soon, soon, soon);
    Ok(config)
}

async fn leak(cycles: u32) -> Outcomes {
    let config = settings().await?;
    let stun_servers = config.nat.stun.servers.len();
    let chain = Arc::new(StaticReputation::default());
    let node = Node::start(config, numbered(0)?, GENESIS, &chain)?;
    let began = Instant::now();
    let reach = async |least: u32| -> Result<Tried, Failure> {
        loop {
            let tried = Tried::of(&node, stun_servers)?;
            if tried.least() >= f64::from(least) {
                return Ok(tried);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("too slow: {tried:?}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    writeln!(stderr(), "  {WARM} cycles of STUN, UPnP and TURN, and {cycles} more ...")?;
    let before = reach(WARM).await?;
    let held_before = Held::look().await?;
    let peak = Peak::begin()?;
    let after = reach(WARM + cycles).await?;
    let most = peak.most()?;
    let held_after = Held::look().await?;
    let took = began.elapsed();
    node.stop().await??;
    let grown = |before: usize, after: usize| -> Result<f64, Failure> {
        Ok(f64::from(u32::try_from(after)?) - f64::from(u32::try_from(before)?))
    };
    let descriptors = grown(held_before.descriptors, held_after.descriptors)?;
    let kb = (grown(held_before.bytes, held_after.bytes)? / 100.0).round() / 10.0;
    let detail = json!({
        "how": "one node against 5 STUN servers, a UPnP router and 8 TURN servers, all dead, silent or \
                lying; the least of 100 looks, before and after",
        "stun_rounds": after.stun - before.stun,
        "upnp_calls": after.upnp - before.upnp,
        "turn_servers_left": after.turn - before.turn,
        "descriptors": [held_before.descriptors, held_after.descriptors],
        "bytes": [held_before.bytes, held_after.bytes],
        "most_bytes": most,
        "seconds": took.as_secs(),
    });
    Ok(vec![
        Outcome {
            bench: "nat.leak",
            value: descriptors,
            unit: "descriptors grown",
            better: "lower",
            target: Some(0.0),
            detail,
        },
        Outcome {
            bench: "nat.leak.kb",
            value: kb,
            unit: "kB grown",
            better: "lower",
            target: Some(SLACK_KB),
            detail: json!({ "cycles": cycles }),
        },
    ])
}
