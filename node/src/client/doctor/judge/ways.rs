//! What helps to be reached: STUN servers, the router, relays; and how peers are connected.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::Node;
use crate::client::doctor::{
    answers::{Mapping, Nat, Stun},
    report::{Finding, Verdict, count, span},
};

pub(super) fn findings(node: &Node<'_>) -> Vec<Finding> {
    let mut findings = vec![stun(node.nat), port_mapping(node), reservations(node), circuits(node)];
    findings.extend(connections(node));
    findings
}

/// The same for servers that were asked without a node.
pub(super) fn stun(nat: &Nat) -> Finding {
    let servers = &nat.stun;
    let facts = servers.iter().map(|server| {
        let Stun { server, last, mapped, took_ms } = server;
        json!({ "server": server, "last": last, "mapped": mapped, "took_ms": took_ms })
    });
    let facts = json!({ "servers": facts.collect::<Vec<_>>() });
    let answered = |server: &&Stun| server.last.as_deref() == Some("answered");
    let good = servers.iter().filter(answered).count();
    let silent: Vec<String> = servers
        .iter()
        .filter(|server| !answered(server))
        .filter_map(|server| {
            Some(format!("{} ({})", server.server, why_no_stun(server.last.as_deref()?)))
        })
        .collect();
    let seen: BTreeSet<&str> =
        servers.iter().filter_map(|server| host_of(server.mapped.as_deref()?)).collect();
    let finding = if servers.is_empty() {
        let says = "No STUN server is named, so the kind of NAT shows only by what peers see.";
        Finding::new("stun", Verdict::Note, says).advise(
            "if you want it known sooner, name two at different addresses: overlay.nat.stun.servers = \
             [\"host:port\", \"host:port\"]. They learn this node's address",
        )
    } else if !silent.is_empty() {
        let says = match good {
            0 => format!("No STUN server answers: {}.", silent.join(", ")),
            _ => format!(
                "{good} of {} STUN servers answer; not: {}.",
                servers.len(),
                silent.join(", ")
            ),
        };
        Finding::new("stun", Verdict::Warning, says).advise(match good {
            0 => {
                "see that UDP gets out of this network and that the names are right \
                  (overlay.nat.stun.servers)"
            }
            _ => "name others instead in overlay.nat.stun.servers",
        })
    } else if good == 0 {
        Finding::new("stun", Verdict::Unknown, "The STUN servers were not asked yet.")
    } else if seen.len() > 1 {
        let seen: Vec<&str> = seen.into_iter().collect();
        let says =
            format!("The STUN servers see this node at different addresses: {}.", seen.join(", "));
        Finding::new("stun", Verdict::Warning, says).advise(
            "if this network has one way out only, one of the servers is wrong: name others in \
             overlay.nat.stun.servers",
        )
    } else {
        let at = seen.first().map(|ip| format!(" and see {ip}")).unwrap_or_default();
        let says = match good {
            1 => format!("The STUN server answers{at}."),
            _ => format!("All {good} STUN servers answer{at}."),
        };
        Finding::new("stun", Verdict::Ok, says)
    };
    finding.facts(facts)
}

/// The host of `host:port`.
fn host_of(at: &str) -> Option<&str> {
    at.rsplit_once(':').map(|(host, _)| host)
}

fn why_no_stun(last: &str) -> &str {
    match last {
        "timeout" => "no answer",
        "refused" => "it answers with an error",
        "redirect" => "it sends on without end",
        "impossible" => "it sees an address that nobody can have here",
        "malformed" | "oversized" | "wrong_address" | "wrong_transaction" => {
            "its answers make no sense"
        }
        "unresolved" => "its name leads nowhere",
        "unsent" => "it could not be asked",
        other => other,
    }
}

pub(super) fn protocol(name: &str) -> &str {
    match name {
        "upnp" => "UPnP",
        "pcp" => "PCP",
        "nat_pmp" => "NAT-PMP",
        other => other,
    }
}

/// Why the router maps nothing.
pub(super) fn why_no_mapping(failed: &str) -> &str {
    match failed {
        "no_router" => "no router speaks it",
        "timeout" => "no answer",
        "refused" => "the router refuses",
        "malformed" => "the router's answers make no sense",
        "io" => "the router cannot be spoken to",
        "impossible" => "the router has no public address itself: it is behind another NAT",
        other => other,
    }
}

fn port_mapping(node: &Node<'_>) -> Finding {
    let nat = node.nat;
    let asks = nat.mapping_asks.as_deref();
    // Each way with each of its answers, once: ports differ little.
    let answers: BTreeSet<(&str, &str)> = asks
        .unwrap_or_default()
        .iter()
        .filter_map(|ask| Some((ask.way.as_str(), ask.last.as_deref()?)))
        .collect();
    let failed: Vec<String> = answers
        .iter()
        .filter(|(_, last)| *last != "mapped")
        .map(|(way, last)| {
            let name = if *way == "pcp" { "PCP and NAT-PMP" } else { protocol(way) };
            format!("{name}: {}", why_no_mapping(last))
        })
        .collect();
    // What the router says was tried, and nobody came through.
    let broken = nat.addresses.iter().any(|address| {
        address.known_from("router") && address.reached_by == 0 && address.failures > 0
    });
    let direct = !node.told().is_empty();
    let finding = if !nat.mappings.is_empty() {
        let mapped: Vec<String> = nat.mappings.iter().map(describe).collect();
        let says = format!("The router maps {}.", mapped.join(", "));
        if broken && !direct {
            let says = format!("{says} But nobody gets through: dial-backs to it fail.");
            Finding::new("port_mapping", Verdict::Warning, says).advise(
                "there is another NAT or a firewall before the router: switch it to bridge mode, forward \
                 the port there too, or ask the provider for a public address",
            )
        } else {
            Finding::new("port_mapping", Verdict::Ok, says)
        }
    } else if direct {
        let says = "No router maps a port, and none has to: this node is reached without.";
        Finding::new("port_mapping", Verdict::Ok, says)
    } else if asks.is_some_and(<[_]>::is_empty) {
        let says = "No router is asked to map a port: overlay.nat.mapping.enabled is off (auto asks on \
                    public chains only), or only loopback is listened on.";
        Finding::new("port_mapping", Verdict::Note, says)
            .advise(format!("set overlay.nat.mapping.enabled = \"on\", or {}", node.by_hand()))
    } else if failed.is_empty() && asks.is_some() {
        Finding::new("port_mapping", Verdict::Unknown, "The router has not answered yet.")
    } else {
        let says = match failed.is_empty() {
            true => "No router maps a port of this node.".to_owned(),
            false => format!("No router maps a port of this node ({}).", failed.join("; ")),
        };
        let behind = answers.iter().any(|(_, last)| *last == "impossible");
        let advice = match behind {
            true => "ask the provider for a public address, or forward the ports on the outer router too; \
                     until then this node is reached through holes and relays"
                .to_owned(),
            false => format!("switch on UPnP, NAT-PMP or PCP on the router, or {}", node.by_hand()),
        };
        Finding::new("port_mapping", Verdict::Warning, says).advise(advice)
    };
    finding.facts(json!({
        "mappings": nat.mappings.iter().map(|mapping| json!({
            "protocol": mapping.protocol,
            "transport": mapping.transport,
            "port": mapping.port,
            "external": mapping.external,
            "lease_left_secs": mapping.lease_left_secs,
        })).collect::<Vec<_>>(),
        "answers": answers.iter().map(|(way, last)| json!({ "way": way, "last": last }))
            .collect::<Vec<_>>(),
        "ports": node.ports(),
    }))
}

fn describe(mapping: &Mapping) -> String {
    format!(
        "{} {} to {} by {} (for {} yet)",
        mapping.transport.to_uppercase(),
        mapping.port,
        mapping.external,
        protocol(&mapping.protocol),
        span(mapping.lease_left_secs)
    )
}

fn reservations(node: &Node<'_>) -> Finding {
    let (held, wanted) = (node.relayed(), node.nat.reservations_wanted);
    let facts = json!({ "held": held, "wanted": wanted });
    let direct = !node.told().is_empty();
    let finding = match wanted {
        Some(0) if held == 0 && direct => {
            let says = "No relay has to hold a place for this node: it is reached directly.";
            Finding::new("reservations", Verdict::Ok, says)
        }
        Some(0) if held == 0 => {
            let says = "No relay is asked to hold a place for this node.";
            Finding::new("reservations", Verdict::Note, says)
                .advise("see overlay.nat.relay.client.enabled, unless the node has just started")
        }
        None if held == 0 && direct => {
            Finding::new("reservations", Verdict::Ok, "No relay holds a place for this node.")
        }
        Some(wanted) if held < wanted => {
            let says =
                format!("{held} of {wanted} relays that are wanted hold a place for this node.");
            let verdict = if held == 0 { Verdict::Warning } else { Verdict::Note };
            Finding::new("reservations", verdict, says).advise(
                "connect to more peers that are reached directly (--overlay-bootnodes); on public chains \
                 only bootnodes and peers that an account in good standing answers for are asked",
            )
        }
        None if held == 0 => {
            let says = "No relay holds a place for this node.";
            Finding::new("reservations", Verdict::Warning, says)
                .advise("connect to more peers that are reached directly (--overlay-bootnodes)")
        }
        _ => {
            let says =
                format!("{} a place for this node.", count(held, "relay holds", "relays hold"));
            Finding::new("reservations", Verdict::Ok, says)
        }
    };
    finding.facts(facts)
}

fn circuits(node: &Node<'_>) -> Finding {
    let circuits = &node.nat.circuits;
    let finding = if circuits.offered {
        let says = format!(
            "This node is a relay for others: it holds {} and carries {}.",
            count(circuits.reservations, "place", "places"),
            count(circuits.carried, "connection", "connections")
        );
        Finding::new("circuits", Verdict::Ok, says)
    } else {
        let says = "This node is no relay for others: it is not known to be reached directly, or \
                    overlay.nat.relay.server.enabled is off.";
        Finding::new("circuits", Verdict::Note, says)
    };
    finding.facts(json!({
        "offered": circuits.offered,
        "reservations": circuits.reservations,
        "carried": circuits.carried,
    }))
}

/// Nothing where nobody is connected.
fn connections(node: &Node<'_>) -> Option<Finding> {
    let mut methods = BTreeMap::<&str, u64>::new();
    for connection in &node.nat.connections {
        *methods.entry(connection.method.as_str()).or_default() += 1;
    }
    if methods.is_empty() {
        return None;
    }
    let named: Vec<String> = methods.iter().map(|(method, n)| format!("{n} {method}")).collect();
    let says = format!("How peers are connected: {}.", named.join(", "));
    let finding = if methods.keys().all(|method| *method == "relayed") {
        Finding::new("connections", Verdict::Warning, says).advise(
            "every connection goes through a relay, which is slow and limited: let UDP out, and see \
             nat_type and port_mapping",
        )
    } else {
        Finding::new("connections", Verdict::Ok, says)
    };
    Some(finding.facts(json!({ "methods": methods })))
}
