//! The overlay's peers, who is let in, failing dials, and the directory.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Node, not_told};
use crate::client::doctor::{
    answers::{Answer, Breaker, Directory},
    report::{Finding, Verdict, count, span},
};

/// Failing peers that are not worth a warning, however few are connected: some always have left.
const FEW_BREAKERS: usize = 5;

/// An announcement may be so late, in seconds: the sweep renews within 12 h and paces itself.
const MAX_LAG_SECS: u64 = 3600;

pub(super) fn findings(node: &Node<'_>, breakers: &Answer<Vec<Breaker>>) -> Vec<Finding> {
    let mut findings = vec![peers(node)];
    findings.extend(admission(node));
    findings.push(match breakers {
        Answer::Is(breakers) => failing(node, breakers),
        other => not_told("breakers", other),
    });
    findings.extend(node.overlay.directory.as_ref().map(|known| directory(node, known)));
    findings
}

fn peers(node: &Node<'_>) -> Finding {
    let overlay = node.overlay;
    let admission = &overlay.admission;
    let places = format!(
        "{} that others opened (of at most {}), {} that this node opened",
        count(admission.inbound, "connection", "connections"),
        admission.inbound_limit,
        admission.outbound
    );
    let full = |taken: u64, limit: u64| limit > 0 && taken >= limit;
    let finding = if overlay.connected_peers == 0 {
        let verdict = if node.for_tests { Verdict::Note } else { Verdict::Problem };
        Finding::new("peers", verdict, "This node has no peer on the overlay.").advise(
            "name peers that run, with /p2p/, by --overlay-bootnodes, and let the overlay's UDP and TCP \
             ports (9000 unless set otherwise) out",
        )
    } else {
        let says = format!(
            "{}: {places}.",
            count(overlay.connected_peers, "overlay peer", "overlay peers")
        );
        if full(overlay.connections, overlay.connection_limit) {
            Finding::new("peers", Verdict::Warning, format!("{says} All places are taken."))
                .advise("raise overlay.peers.max_connections if the machine carries more")
        } else if full(admission.inbound, admission.inbound_limit) {
            let says = format!("{says} All places for those who come are taken.");
            Finding::new("peers", Verdict::Warning, says)
                .advise("raise overlay.peers.max_connections if the machine carries more")
        } else {
            Finding::new("peers", Verdict::Ok, says)
        }
    };
    finding.facts(json!({
        "connected_peers": overlay.connected_peers,
        "connections": overlay.connections,
        "connection_limit": overlay.connection_limit,
        "inbound": admission.inbound,
        "inbound_limit": admission.inbound_limit,
        "outbound": admission.outbound,
    }))
}

/// Nothing of nodes that do not tell.
fn admission(node: &Node<'_>) -> Option<Finding> {
    let refused = node.overlay.refused.as_ref()?;
    let total = refused.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let admission = &node.overlay.admission;
    let of = |reason: &str| refused.get(reason).copied().unwrap_or_default();
    let finding = if total == 0 {
        Finding::new("admission", Verdict::Ok, "No connection was refused since the start.")
    } else {
        let mut reasons: Vec<(&String, &u64)> = refused.iter().filter(|(_, n)| **n > 0).collect();
        reasons.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let named = reasons.iter().map(|(reason, n)| format!("{n} {}", why_refused(reason)));
        let named: Vec<String> = named.collect();
        let says = format!("Connections refused since the start: {}.", named.join(", "));
        if of("own_key") > 0 {
            Finding::new("admission", Verdict::Warning, says).advise(
                "take this node's own address out of --overlay-bootnodes; if it is not there, another \
                 node runs with a copy of this one's network key and must get its own",
            )
        } else if of("total") > 0 || of("outbound_reserve") > 0 {
            Finding::new("admission", Verdict::Warning, says)
                .advise("raise overlay.peers.max_connections if the machine carries more")
        } else if of("other_chain") > 0 {
            Finding::new("admission", Verdict::Note, says).advise(
                "some peers are of another chain: see that --overlay-bootnodes and --chain belong together",
            )
        } else {
            Finding::new("admission", Verdict::Note, says)
        }
    };
    Some(finding.facts(json!({
        "refused": refused,
        "banned_peers": admission.banned_peers,
        "banned_sources": admission.banned_sources,
    })))
}

fn why_refused(reason: &str) -> &str {
    match reason {
        "total" => "for want of a place",
        "outbound_reserve" => "for want of a place for those who come",
        "per_peer" => "of peers that have connections enough",
        "pending" => "while too many shook hands",
        "source_rate" => "of addresses that came too fast",
        "rate" => "while too many came",
        "ip" => "of addresses that have connections enough",
        "ip_group" => "of networks that have connections enough",
        "banned" => "of banned peers",
        "key_type" => "of peers without an ed25519 key",
        "graylisted" => "of graylisted peers",
        "own_key" => "of a peer with this node's own key",
        "other_chain" => "of peers of another chain",
        other => other,
    }
}

fn failing(node: &Node<'_>, breakers: &[Breaker]) -> Finding {
    let open: Vec<&Breaker> = breakers.iter().filter(|breaker| breaker.state != "closed").collect();
    let mut why = BTreeMap::<&str, u64>::new();
    for breaker in &open {
        *why.entry(breaker.last_error.as_str()).or_default() += 1;
    }
    let facts = json!({ "open": open.len(), "failing": breakers.len(), "last_errors": why });
    if open.is_empty() {
        let says = "No peer is left alone because it could not be reached.";
        return Finding::new("breakers", Verdict::Ok, says).facts(facts);
    }
    let named: Vec<String> = why.iter().map(|(error, n)| format!("{n} {error}")).collect();
    let open = open.len();
    let n = u64::try_from(open).unwrap_or(u64::MAX);
    let says = format!(
        "{} left alone for a while because dialling failed ({}).",
        count(n, "peer is", "peers are"),
        named.join(", ")
    );
    let finding = if open >= FEW_BREAKERS && n > node.overlay.connected_peers {
        Finding::new("breakers", Verdict::Warning, says).advise(
            "more peers fail than are connected: see that this machine's firewall and network let the \
             overlay's UDP and TCP out; p2p_v1_breakers names the peers",
        )
    } else {
        Finding::new("breakers", Verdict::Note, says)
    };
    finding.facts(facts)
}

fn directory(node: &Node<'_>, known: &Directory) -> Finding {
    let Directory { mode, routing_table, provided, unannounced, records, sweep } = known;
    let alone = *routing_table == 0 && node.overlay.connected_peers == 0;
    let has = format!(
        "{} in its table, {} held for others, {} of its own",
        count(*routing_table, "peer", "peers"),
        count(*records, "record", "records"),
        count(*provided, "key", "keys")
    );
    let finding = if *routing_table == 0 && !alone {
        let says = "The directory has nobody in its table, though peers are connected: nothing can be \
                    looked up or announced.";
        Finding::new("directory", Verdict::Warning, says).advise(
            "connect to a peer that is reached directly (--overlay-bootnodes): only those serve it",
        )
    } else if *routing_table == 0 {
        let says = format!("The directory has nobody to ask or to tell ({has}).");
        Finding::new("directory", Verdict::Note, says)
    } else if sweep.lag_seconds > MAX_LAG_SECS {
        let says = format!(
            "Announcing what this node has is {} late ({has}): others may not find it.",
            span(sweep.lag_seconds)
        );
        Finding::new("directory", Verdict::Warning, says)
            .advise("see whether peers of the directory can be reached (breakers, nat_type)")
    } else if *unannounced > 0 {
        let says = format!(
            "The directory works ({has}); {unannounced} of these keys are not announced yet."
        );
        Finding::new("directory", Verdict::Note, says)
    } else if mode == "client" {
        let says = format!("The directory is asked and told, and not served by this node ({has}).");
        Finding::new("directory", Verdict::Ok, says)
    } else {
        Finding::new("directory", Verdict::Ok, format!("The directory works ({has})."))
    };
    finding.facts(json!({
        "mode": mode,
        "routing_table": routing_table,
        "provided": provided,
        "unannounced": unannounced,
        "records": records,
        "lag_seconds": sweep.lag_seconds,
        "network_size": sweep.network_size,
    }))
}
