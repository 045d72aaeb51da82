//! `dht.lookup.n10`, `.n100`, `.n1000`, `.n10000`: what a lookup takes as the network grows, and when a
//! quarter of it vanishes.

use crate::{
    Failure, Outcome, Outcomes,
    net::{Work, announce, block_on, key, quiet},
    stats::rounded,
};
use nsn_p2p::testnet::{
    Testnet,
    sim::{Churn, LookupReport, Scenario, Spread, lookups},
};
use serde_json::{Value, json};
use std::{
    io::{Write as _, stderr},
    time::{Duration, Instant},
};
use tokio::time::{Instant as Clock, sleep_until};

/// The share of nodes that vanish, and the time in which they do.
const GONE: f64 = 0.25;
const WITHIN: Duration = Duration::from_secs(60);
/// Targets: the share found without churn, and with it.
const ALL: f64 = 1.0;
const MOST: f64 = 0.99;

/// By how much the simulation's hops and messages may differ from those of so many real nodes.
const TOLERANCE: f64 = 0.25;
const CHECKED: u32 = 100;

/// A size of the network, and how it is measured.
struct Size {
    bench: &'static str,
    churned: &'static str,
    nodes: u32,
    /// Real nodes in this process too.
    real: bool,
    /// Lookups, simulated and by real nodes.
    simulated: usize,
    asked: usize,
    within: Duration,
}

fn sizes(quick: bool) -> [Size; 4] {
    let within = if quick { WITHIN / 12 } else { WITHIN };
    let size = |bench, churned, nodes, real, simulated, asked| Size {
        bench,
        churned,
        nodes,
        real,
        simulated,
        asked,
        within,
    };
    let n10 = "dht.lookup.n10";
    let n100 = "dht.lookup.n100";
    let n1000 = "dht.lookup.n1000";
    let n10000 = "dht.lookup.n10000";
    let of = |all: usize, few: usize| if quick { few } else { all };
    [
        size(n10, "dht.lookup.n10.churn", 10, true, of(2_000, 500), of(200, 50)),
        size(n100, "dht.lookup.n100.churn", 100, true, of(2_000, 500), of(500, 50)),
        size(n1000, "dht.lookup.n1000.churn", 1_000, !quick, of(2_000, 500), 1_000),
        size(n10000, "dht.lookup.n10000.churn", 10_000, false, of(2_000, 200), 0),
    ]
}

pub(crate) fn run(quick: bool) -> Outcomes {
    let mut outcomes = Vec::new();
    for size in sizes(quick) {
        let scenario = Scenario { nodes: size.nodes.try_into()?, ..Scenario::default() };
        writeln!(stderr(), "  {} nodes simulated ...", size.nodes)?;
        let calm = lookups(&scenario, size.simulated);
        let churn = Some(Churn { share: GONE, within: WITHIN });
        let churned = lookups(&Scenario { churn, ..scenario }, size.simulated);
        let real = if size.real { Some(block_on(real(&size))?) } else { None };
        let ways = |report: &LookupReport, real: Option<&Seen>| {
            json!({
                "nodes": size.nodes,
                "real": real.map(Seen::told),
                "simulated": told(report),
                "simulated_hops_a_bit": rounded(report.hops.mean / f64::from(size.nodes).log2()),
                "real_vs_simulated": real.map(|real| json!({
                    "hops": rounded(real.hops() / report.hops.mean),
                    "messages": rounded(real.messages() / report.messages.mean),
                })),
            })
        };
        let share = |real: Option<&Seen>, report: &LookupReport| match real {
            Some(real) => real.success(),
            None => report.success(),
        };
        let (before, after) = (real.as_ref().map(|r| &r.0), real.as_ref().map(|r| &r.1));
        if size.nodes == CHECKED
            && let Some(real) = before
        {
            let off = |real: f64, simulated: f64| (real / simulated - 1.0).abs();
            let hops = off(real.hops(), calm.hops.mean);
            let messages = off(real.messages(), calm.messages.mean);
            outcomes.push(Outcome {
                bench: "dht.lookup.simulation_off",
                value: rounded(hops.max(messages)),
                unit: "x what real nodes take",
                better: "lower",
                target: Some(TOLERANCE),
                detail: json!({ "nodes": CHECKED, "hops": hops, "messages": messages }),
            });
        }
        outcomes.push(Outcome {
            bench: size.bench,
            value: rounded(share(before, &calm)),
            unit: "share found",
            better: "higher",
            target: Some(ALL),
            detail: ways(&calm, before),
        });
        outcomes.push(Outcome {
            bench: size.churned,
            value: rounded(share(after, &churned)),
            unit: "share found",
            better: "higher",
            target: Some(MOST),
            detail: ways(&churned, after),
        });
    }
    Ok(outcomes)
}

fn told(report: &LookupReport) -> Value {
    json!({
        "found": rounded(report.success()),
        "lookups": report.lookups,
        "hops": spread(&report.hops),
        "messages": spread(&report.messages),
        "ms": spread(&report.millis),
        "announcing_found_of_the_nearest": rounded(report.nearest_found),
        "announcing_messages": spread(&report.nearest_messages),
        "announcing_ms": spread(&report.nearest_millis),
    })
}

fn spread(spread: &Spread) -> Value {
    let Spread { mean, p50, p95, p99, max } = spread;
    json!({
        "mean": rounded(*mean), "p50": rounded(*p50), "p95": rounded(*p95), "p99": rounded(*p99),
        "max": rounded(*max),
    })
}

/// What lookups of real nodes took.
#[derive(Default)]
struct Seen {
    asked: usize,
    found: usize,
    hops: Vec<f64>,
    messages: Vec<f64>,
    ms: Vec<f64>,
}

impl Seen {
    fn success(&self) -> f64 {
        self.found as f64 / self.asked.max(1) as f64
    }

    fn hops(&self) -> f64 {
        Spread::of(self.hops.clone()).mean
    }

    fn messages(&self) -> f64 {
        Spread::of(self.messages.clone()).mean
    }

    fn told(&self) -> Value {
        json!({
            "found": rounded(self.success()),
            "lookups": self.asked,
            "hops": spread(&Spread::of(self.hops.clone())),
            "messages": spread(&Spread::of(self.messages.clone())),
            "ms": spread(&Spread::of(self.ms.clone())),
        })
    }

    /// One node looks for a key that another provides.
    async fn ask(&mut self, net: &Testnet, key_number: usize, by: usize) -> Result<(), Failure> {
        let node = net.nodes.get(by % net.nodes.len().max(1)).ok_or("nobody is left to ask")?;
        let (before, began) = (Work::of(node, "find"), Instant::now());
        let found = node.overlay.dht.find_providers(key(key_number), 1).await;
        self.ms.push(began.elapsed().as_secs_f64() * 1e3);
        let work = Work::of(node, "find").since(before);
        self.asked += 1;
        self.found += usize::from(found.is_ok_and(|found| !found.is_empty()));
        // One that a provider asked, or that the node knew of by itself, was no lookup.
        if work.lookups > 0.0 {
            self.hops.push(work.hops);
            self.messages.push(work.messages());
        }
        Ok(())
    }
}

/// Lookups of real nodes: in peace, and while and after a quarter of the nodes vanish.
async fn real(size: &Size) -> Result<(Seen, Seen), Failure> {
    writeln!(stderr(), "  {} real nodes ...", size.nodes)?;
    let mut net = Testnet::join(size.nodes, quiet).await?;
    let keys = size.asked.max(1);
    // Each key is announced by another node, and looked for by the one half a network away.
    let providers = net.nodes.iter().cycle().zip(0..keys);
    let announced = providers.map(|(node, n)| announce(node, key(n)));
    for announced in futures::future::join_all(announced).await {
        announced?;
    }
    writeln!(stderr(), "  {keys} lookups ...")?;
    let mut calm = Seen::default();
    let half = net.nodes.len() / 2;
    for n in 0..keys {
        calm.ask(&net, n, n + half).await?;
    }
    let mut churned = Seen::default();
    let leaving = net.nodes.len() / 4;
    writeln!(stderr(), "  {keys} lookups while {leaving} nodes vanish ...")?;
    let (began, mut left) = (Clock::now(), 0);
    for n in 0..keys {
        // Evenly over twice the time in which they vanish.
        let part = n as f64 / keys as f64 * 2.0;
        sleep_until(began + size.within.mul_f64(part)).await;
        while left < leaving && left as f64 / leaving as f64 <= part {
            left += 1;
            // Every fourth, as it were; the last one in the list takes its place.
            let at = (left * 3) % net.nodes.len();
            net.nodes.swap_remove(at).vanish();
        }
        churned.ask(&net, n, n + half + 1).await?;
    }
    net.stop().await?;
    Ok((calm, churned))
}
