//! The shard service: relay, super-node, or both.

use serde_json::json;

use super::sentence;
use crate::client::doctor::{
    answers::{Answer, Relay, Shards},
    report::{Finding, Verdict, count},
};

/// What is pinned may take so much of the cache, in percent, until there is little left to cache in.
const MAX_PINNED_PERCENT: u128 = 90;

/// Nothing but the first for a node that is neither.
pub(super) fn findings(answer: &Answer<Shards>, overlay_runs: bool) -> Vec<Finding> {
    let shards = match answer {
        Answer::Is(shards) => shards,
        Answer::Down(_) if overlay_runs => {
            let says = "This node runs no shard service: it was started without --relay and --super-node, \
                        or the service is starting.";
            return vec![Finding::new("shard_service", Verdict::Note, says)];
        }
        // What is wrong with the overlay is said already.
        Answer::Down(_) => return Vec::new(),
        other => return vec![super::not_told("shard_service", other)],
    };
    let mut findings = vec![service(shards)];
    if let Some(relay) = &shards.relay {
        findings.push(cache(relay));
        findings.push(region(shards));
    }
    findings
}

fn service(shards: &Shards) -> Finding {
    let roles = match (&shards.relay, &shards.origin) {
        (Some(_), Some(_)) => "relay and super-node",
        (Some(_), None) => "relay",
        (None, _) => "super-node",
    };
    let finding = match shards.phase.as_str() {
        "serving" => {
            let says = format!(
                "The shard service serves as {roles}, with {}.",
                count(shards.viewers, "connection", "connections")
            );
            Finding::new("shard_service", Verdict::Ok, says)
        }
        "starting" => {
            let says = "The shard service is starting and does not listen yet.";
            Finding::new("shard_service", Verdict::Warning, says).advise(
                "if this lasts, its port may be held: the log names it; free it or give another by \
                 --shard-listen-addr",
            )
        }
        "draining" | "drained" => {
            let says = "The shard service was drained (relay_v1_drain) and serves nobody.";
            Finding::new("shard_service", Verdict::Warning, says)
                .advise("start the node again to serve")
        }
        "stopped" => {
            let says = match &shards.reason {
                Some(reason) => format!("The shard service has stopped: {}", sentence(reason)),
                None => "The shard service has stopped.".to_owned(),
            };
            Finding::new("shard_service", Verdict::Problem, says)
                .advise("mend what the node's log names; the service is started again by itself")
        }
        other => {
            let says = format!(
                "The shard service is in a phase that this program does not know: {other}."
            );
            Finding::new("shard_service", Verdict::Unknown, says)
        }
    };
    finding.facts(json!({
        "phase": shards.phase,
        "listen_addrs": shards.listen_addrs,
        "viewers": shards.viewers,
        "bytes_served": shards.bytes_served,
        "contents": shards.origin.as_ref().map(|origin| origin.contents),
        "origin_bytes": shards.origin.as_ref().map(|origin| origin.bytes),
    }))
}

fn cache(relay: &Relay) -> Finding {
    let cache = &relay.cache;
    let pinned =
        u128::from(cache.pinned_bytes) * 100 >= u128::from(cache.capacity) * MAX_PINNED_PERCENT;
    let (held, may) = (size(cache.bytes), size(cache.capacity));
    let finding = if cache.capacity == 0 {
        let says = "The disk leaves the cache no room at all.";
        Finding::new("cache", Verdict::Problem, says)
            .advise("free space where the base path is, or lower --relay-cache-size")
    } else if pinned {
        let says =
            format!("What is pinned fills the cache ({} of {may}).", size(cache.pinned_bytes));
        Finding::new("cache", Verdict::Warning, says)
            .advise("unpin what is needed no longer (relay_v1_unpin), or raise --relay-cache-size")
    } else {
        let asked = relay.hits.saturating_add(relay.misses);
        let rate = (u128::from(relay.hits) * 100).checked_div(u128::from(asked));
        let rate = rate.map(|rate| format!("; {rate} % of requests were answered from it"));
        let full = if relay.evictions > 0 { ", and the oldest make room" } else { "" };
        let says = format!("The cache holds {held} of {may}{full}{}.", rate.unwrap_or_default());
        Finding::new("cache", Verdict::Ok, says)
    };
    finding.facts(json!({
        "bytes": cache.bytes,
        "capacity": cache.capacity,
        "pinned_bytes": cache.pinned_bytes,
        "hits": relay.hits,
        "misses": relay.misses,
        "evictions": relay.evictions,
    }))
}

fn region(shards: &Shards) -> Finding {
    let facts = json!({
        "region": shards.region.as_ref().map(|region| &region.name),
        "set": shards.region.as_ref().is_some_and(|region| region.set),
        "listed": shards.region.as_ref().is_some_and(|region| region.listed),
    });
    let finding = match &shards.region {
        None => {
            let says = "This relay is in no region, so viewers do not find it by one.";
            Finding::new("region", Verdict::Note, says)
                .advise("name one by --region; without it, that of the nearest super-node is taken once known")
        }
        Some(region) if region.listed => {
            let says = format!("Viewers find this relay in region {}.", region.name);
            Finding::new("region", Verdict::Ok, says)
        }
        Some(region) => {
            let says = format!("The directory does not list this relay in region {}.", region.name);
            Finding::new("region", Verdict::Note, says).advise(
                "it is listed once an account answers for its key (nsn-node peer bind-proof) and no \
                 component of its reputation is below 200",
            )
        }
    };
    finding.facts(facts)
}

/// Bytes for people: rounded down.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
