//! `dht.eclipse`: whether a provider is found although Sybils surround its key, and what they cost.

use crate::{Failure, Outcome, Outcomes, stats::rounded};
use libp2p::kad::KBucketKey;
use nsn_p2p::{
    Identity,
    testnet::sim::{Conduct, EclipseReport, Scenario, Sybils, eclipse},
};
use serde_json::{Value, json};
use std::{
    hint::black_box,
    io::{Write as _, stderr},
    time::{Duration, Instant},
};

/// Honest nodes, and the networks (/16) that they are in.
const HONEST: usize = 500;
const NETWORKS: usize = 200;
/// Sybils, and the networks that they are in.
const SYBILS: usize = 50;
const SYBIL_NETWORKS: usize = 5;
/// Providers that a relay looks for.
const WANTED: usize = 8;
/// The share of lookups that must find an honest provider.
const TARGET: f64 = 0.95;
/// How long keys are made to find out how fast that goes.
const GRINDING: Duration = Duration::from_secs(2);

/// Simulated: the node's own lookup in networks of virtual time, each with another key.
pub(crate) fn run(quick: bool) -> Outcomes {
    let (networks, lookups) = if quick { (10, 20) } else { (100, 50) };
    let mut detail = Vec::new();
    let mut least = 1.0_f64;
    let mut tries = 0.0;
    for conduct in [Conduct::Hides, Conduct::Lies, Conduct::Invents] {
        for limit in [1, WANTED] {
            writeln!(stderr(), "  Sybils that {conduct:?}, {limit} providers wanted ...")?;
            let with = eclipse(&defended(conduct), networks, lookups, limit);
            let without = eclipse(&open(conduct), networks, lookups, limit);
            least = least.min(with.success());
            tries = with.tries_an_id.mean;
            detail.push(json!({
                "sybils": format!("{conduct:?}").to_lowercase(),
                "wanted": limit,
                "with_defences": told(&with),
                "without": told(&without),
            }));
        }
    }
    let rate = keys_a_second()?;
    Ok(vec![Outcome {
        bench: "dht.eclipse",
        value: rounded(least),
        unit: "share found",
        better: "higher",
        target: Some(TARGET),
        detail: json!({
            "how": "simulated",
            "honest": HONEST,
            "honest_networks": NETWORKS,
            "sybils": SYBILS,
            "sybil_networks": SYBIL_NETWORKS,
            "cases": detail,
            "grinding": {
                "keys_a_second_a_core": rounded(rate),
                "tries_an_id": rounded(tries),
                "core_seconds_for_all": rounded(tries * SYBILS as f64 / rate),
            },
        }),
    }])
}

fn told(report: &EclipseReport) -> Value {
    json!({
        "found": rounded(report.success()),
        "lookups": report.lookups,
        "honest_records_kept_p50": report.kept_by.p50,
        "providers_found_p50": report.providers.p50,
        "ms_p50": rounded(report.millis.p50),
        "ms_p95": rounded(report.millis.p95),
    })
}

fn open(conduct: Conduct) -> Scenario {
    let sybils = Sybils { count: SYBILS, networks: SYBIL_NETWORKS, conduct };
    Scenario { nodes: HONEST, networks: NETWORKS, sybils: Some(sybils), ..Scenario::default() }
        .undefended()
}

fn defended(conduct: Conduct) -> Scenario {
    open(conduct).defended()
}

/// How many ids an attacker can try a second on one core: an ed25519 key and the hash that places it.
fn keys_a_second() -> Result<f64, Failure> {
    let (started, mut made) = (Instant::now(), 0_u64);
    while started.elapsed() < GRINDING {
        for _ in 0..100 {
            made += 1;
            let mut secret = [0; 32];
            for (to, from) in secret.iter_mut().zip(made.to_be_bytes()) {
                *to = from;
            }
            let identity = Identity::from_secret(secret)?;
            black_box(KBucketKey::from(identity.peer_id()));
        }
    }
    Ok(made as f64 / started.elapsed().as_secs_f64())
}
