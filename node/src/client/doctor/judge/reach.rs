//! Whether others can reach the node, and what stands in the way.

use serde_json::json;

use super::Node;
use crate::client::doctor::{
    answers::Address,
    report::{Finding, Verdict, count},
};

/// Addresses that a sentence names; the facts have all.
const NAMED: usize = 3;

pub(super) fn findings(node: &Node<'_>, serves_shards: bool) -> Vec<Finding> {
    let mut findings = vec![reachability(node), addresses(node)];
    findings.extend(dial_back(node));
    findings.push(nat_type(node));
    findings.extend(udp(node, serves_shards));
    findings
}

fn reachability(node: &Node<'_>) -> Finding {
    let nat = node.nat;
    let (told, relayed) = (node.told(), node.relayed());
    let sure = format!("{} % sure", nat.confidence);
    let with_relays = match relayed {
        0 => "and no relay holds a place for it, so nobody reaches it".to_owned(),
        n => format!(
            "but {} a place for it, through which others do",
            count(n, "relay holds", "relays hold")
        ),
    };
    // Those that depend on relays.
    let indirect = |why: &str| {
        let verdict = if relayed == 0 { Verdict::Problem } else { Verdict::Warning };
        let says =
            format!("Others cannot reach this node directly ({why}; {sure}), {with_relays}.");
        Finding::new("reachability", verdict, says).advise(node.by_hand())
    };
    let finding = match nat.state.as_str() {
        "offline" => {
            let says = format!("This node is offline: it reaches nobody ({sure}).");
            Finding::new("reachability", Verdict::Problem, says).advise(
                "see that the machine has a network and that the overlay's UDP and TCP ports are let out; \
                 if it has, see `peers`",
            )
        }
        "public" | "mapped" => {
            let how = match nat.state.as_str() {
                "public" => "at an address of its own",
                _ => "at an address that its router maps",
            };
            let proof = if told.iter().any(|address| address.reached_by > 0) {
                "others have dialled it back"
            } else if told.iter().any(|address| address.known_from("operator")) {
                "on your word, nobody has dialled it back yet"
            } else if node.for_tests {
                "any address counts on a development or local chain"
            } else {
                "nobody has dialled it back yet"
            };
            let says = format!("Others can reach this node {how} ({proof}; {sure}).");
            Finding::new("reachability", Verdict::Ok, says)
        }
        // A NAT that lets everybody in.
        "cone" | "symmetric" if !told.is_empty() => {
            let says = format!(
                "Others can reach this node through a NAT that lets everybody in ({sure})."
            );
            Finding::new("reachability", Verdict::Ok, says)
        }
        "cone" => indirect("it is behind a NAT or a firewall through which holes can be punched"),
        "symmetric" => indirect("it is behind a NAT that gives another port for each destination"),
        "udp_blocked" => indirect("UDP does not get out"),
        "unknown" | "" => {
            let rest = match (relayed, told.is_empty()) {
                (0, true) => String::new(),
                (0, false) => " where it says it is".to_owned(),
                (_, _) => format!(", {with_relays}"),
            };
            let says = format!("It is not known yet whether others can reach this node{rest}.");
            Finding::new("reachability", Verdict::Unknown, says)
                .advise("wait a minute after the start; it takes a connected peer, or STUN servers")
        }
        other => {
            let says = format!("The node is in a state that this program does not know: {other}.");
            Finding::new("reachability", Verdict::Unknown, says)
        }
    };
    finding.facts(json!({
        "state": nat.state,
        "confidence": nat.confidence,
        "public_ip": nat.public_ip,
        "reservations": relayed,
    }))
}

fn addresses(node: &Node<'_>) -> Finding {
    let all = &node.nat.addresses;
    let told = node.told();
    let describe = |address: &&Address| {
        let proof = match (address.reached_by, address.known_from("operator")) {
            (0, true) => "on your word".to_owned(),
            (0, false) => "proved by nobody".to_owned(),
            (n, _) => format!("reached by {}", count(n, "peer", "peers")),
        };
        format!("{} ({proof})", address.address)
    };
    let list = |some: &[&Address]| {
        let mut named: Vec<String> = some.iter().take(NAMED).map(describe).collect();
        let more = some.len().saturating_sub(NAMED);
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        named.join(", ")
    };
    let failing: Vec<&Address> =
        told.iter().copied().filter(|address| address.failures > 0).collect();
    let dropped: Vec<&Address> = all.iter().filter(|a| a.standing == "withdrawn").collect();
    let finding = if !failing.is_empty() {
        let says =
            format!("Dial-backs to addresses that others are told fail: {}.", list(&failing));
        Finding::new("addresses", Verdict::Warning, says).advise(format!(
            "see that these are right, take out a --overlay-public-addr that is not, and {}",
            node.by_hand()
        ))
    } else if !told.is_empty() {
        let says = format!("Others are told: {}.", list(&told));
        Finding::new("addresses", Verdict::Ok, says)
    } else if !dropped.is_empty() {
        let says = format!(
            "Others are told no address of this node's own: dial-backs reached none of {}.",
            list(&dropped)
        );
        Finding::new("addresses", Verdict::Note, says)
    } else if all.is_empty() {
        Finding::new(
            "addresses",
            Verdict::Note,
            "No address of this node is known that others could dial.",
        )
    } else {
        let candidates: Vec<&Address> = all.iter().collect();
        let says = format!("Addresses that nobody has dialled back yet: {}.", list(&candidates));
        Finding::new("addresses", Verdict::Note, says)
    };
    let facts = all.iter().map(|address| {
        json!({
            "address": address.address,
            "standing": address.standing,
            "for_secs": address.for_secs,
            "known_from": address.known_from,
            "reached_by": address.reached_by,
            "failures": address.failures,
        })
    });
    finding.facts(json!({ "addresses": facts.collect::<Vec<_>>() }))
}

/// Nothing where nothing has to be proved, or nobody is there to prove it.
fn dial_back(node: &Node<'_>) -> Option<Finding> {
    let facts = json!({ "dial_back_servers": node.nat.dial_back_servers });
    if node.nat.dial_back_servers {
        let says = "A connected peer dials back, so addresses can be proved.";
        return Some(Finding::new("dial_back", Verdict::Ok, says).facts(facts));
    }
    let proved = node.told().iter().any(|address| address.reached_by > 0);
    if node.for_tests || proved || node.overlay.connected_peers == 0 {
        return None;
    }
    let says = "No connected peer dials back, so no address of this node can be proved.";
    let finding = Finding::new("dial_back", Verdict::Warning, says).advise(
        "connect to a peer that is reached directly and whose overlay.nat.server is on, by \
         --overlay-bootnodes",
    );
    Some(finding.facts(facts))
}

/// What the NAT lets be done, by RFC 4787: two that map independently of the destination find each
/// other; one that does not finds only those that filter by address at most.
pub(super) fn nat_type(node: &Node<'_>) -> Finding {
    let finding = match node.nat.nat.as_str() {
        "none" => Finding::new(
            "nat_type",
            Verdict::Ok,
            "No NAT translates this node's addresses: every kind of peer can be reached, those behind \
             NATs by punched holes.",
        ),
        "full_cone" => Finding::new(
            "nat_type",
            Verdict::Ok,
            "The NAT gives one port to all and lets everybody in (full cone): every kind of peer can be \
             reached, directly or by punched holes.",
        ),
        "restricted_cone" => Finding::new(
            "nat_type",
            Verdict::Note,
            "The NAT gives one port to all and lets in whom was sent to (restricted cone): public peers \
             are reached directly, all others by punched holes.",
        ),
        kind @ ("port_restricted_cone" | "cone") => {
            let how = match kind {
                "cone" => "whom it lets in is not known",
                _ => "it lets in the ports that were sent to: port restricted cone",
            };
            let says = format!(
                "The NAT gives one port to all ({how}): public peers are reached directly, those behind \
                 NATs by punched holes, and those behind symmetric NATs through relays only."
            );
            Finding::new("nat_type", Verdict::Note, says)
        }
        "symmetric" => Finding::new(
            "nat_type",
            Verdict::Warning,
            "The NAT gives another port for each destination (symmetric): public peers are reached \
             directly, those behind NATs that filter by address at most by punched holes, and all others \
             through relays only.",
        )
        .advise(format!("switch on UPnP, NAT-PMP or PCP on the router, or {}", node.by_hand())),
        "udp_blocked" => Finding::new(
            "nat_type",
            Verdict::Note,
            "Nothing is known of a NAT, since UDP does not get out: peers are reached over TCP, or through \
             relays.",
        ),
        _ => {
            let finding =
                Finding::new("nat_type", Verdict::Unknown, "What kind of NAT there is is not known yet.");
            if node.for_tests {
                finding
            } else {
                finding.advise(
                    "name two STUN servers at different addresses in overlay.nat.stun.servers, or wait for \
                     more peers: two in different networks tell",
                )
            }
        }
    };
    finding.facts(json!({ "nat": node.nat.nat }))
}

/// Nothing where nothing shows it.
fn udp(node: &Node<'_>, serves_shards: bool) -> Option<Finding> {
    let nat = node.nat;
    let answered =
        nat.stun.iter().filter(|server| server.last.as_deref() == Some("answered")).count();
    let facts = json!({ "stun_answers": answered });
    if nat.state == "udp_blocked" || nat.nat == "udp_blocked" {
        let (verdict, cost) = match serves_shards {
            true => (
                Verdict::Problem,
                "shards are served over UDP, so viewers beyond this network cannot come",
            ),
            false => {
                (Verdict::Warning, "peers are reached over TCP alone, and no holes are punched")
            }
        };
        let says = format!("UDP does not get out of this network: {cost}.");
        let finding = Finding::new("udp", verdict, says).advise(
            "let UDP out on the firewall of this machine and of its network, or ask who runs it; nothing \
             on the node can",
        );
        return Some(finding.facts(facts));
    }
    (answered > 0).then(|| {
        Finding::new("udp", Verdict::Ok, "UDP gets out: STUN servers answer.").facts(facts)
    })
}
