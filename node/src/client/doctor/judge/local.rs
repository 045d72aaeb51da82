//! What can be told without a node.

use serde_json::json;

use super::{
    Node, sentence,
    ways::{protocol, stun, why_no_mapping},
};
use crate::client::doctor::{
    answers::{Nat, Overlay, Router},
    report::{Finding, Verdict},
};

/// What was seen on this machine.
#[derive(Clone, Debug, Default)]
pub(in crate::client::doctor) struct Local {
    /// Where the overlay would listen.
    pub(in crate::client::doctor) listen_addrs: Vec<String>,
    /// What a node would bind, and whether it could.
    pub(in crate::client::doctor) ports: Vec<Port>,
    /// STUN servers and router.
    pub(in crate::client::doctor) nat: Nat,
}

/// One port that a node would bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::client::doctor) struct Port {
    /// For example `UDP 0.0.0.0:9000`.
    pub(in crate::client::doctor) name: String,
    /// The option that gives another.
    pub(in crate::client::doctor) flag: &'static str,
    pub(in crate::client::doctor) state: PortState,
}

/// Whether it could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::client::doctor) enum PortState {
    Free,
    /// Another program has it.
    Held,
    /// It cannot be bound by this user or on this machine; why.
    Barred(String),
}

/// That no node answers.
pub(in crate::client::doctor) fn unreachable(url: &str, why: &str) -> Finding {
    Finding::new("node", Verdict::Problem, format!("No node answers at {url}: {}", sentence(why)))
        .advise(
            "start it, or give by --rpc-url what its log says after \"Running JSON-RPC server\"; what \
             follows was seen without it",
        )
        .facts(json!({ "url": url }))
}

/// Whether the settings can be used.
pub(in crate::client::doctor) fn settings(read: Result<(), String>) -> Finding {
    match read {
        Ok(()) => Finding::new("settings", Verdict::Ok, "The settings can be read and used."),
        Err(why) => Finding::new("settings", Verdict::Problem, sentence(&why))
            .advise("mend it: a node with these settings does not start"),
    }
}

/// What there is to say where settings could be read.
pub(in crate::client::doctor) fn findings(local: &Local) -> Vec<Finding> {
    let overlay = Overlay { listen_addrs: local.listen_addrs.clone(), ..Overlay::default() };
    let node = Node { overlay: &overlay, nat: &local.nat, for_tests: false };
    let mut findings = vec![ports(&local.ports)];
    if !local.nat.stun.is_empty() {
        findings.push(stun(&local.nat));
        findings.push(super::reach::nat_type(&node));
    }
    findings.extend(routers(&node));
    findings
}

fn ports(ports: &[Port]) -> Finding {
    let facts = ports.iter().map(|port| {
        let (state, why) = match &port.state {
            PortState::Free => ("free", None),
            PortState::Held => ("held", None),
            PortState::Barred(why) => ("barred", Some(why)),
        };
        json!({ "port": port.name, "state": state, "why": why })
    });
    let facts = json!({ "ports": facts.collect::<Vec<_>>() });
    let these = |wanted: fn(&PortState) -> bool| ports.iter().filter(move |p| wanted(&p.state));
    let barred: Vec<String> = ports
        .iter()
        .filter_map(|port| match &port.state {
            PortState::Barred(why) => Some(format!("{} ({why})", port.name)),
            _ => None,
        })
        .collect();
    let held: Vec<&str> =
        these(|state| *state == PortState::Held).map(|port| port.name.as_str()).collect();
    let mut flags: Vec<&str> =
        these(|state| *state != PortState::Free).map(|port| port.flag).collect();
    flags.dedup();
    let flags = flags.join(" and ");
    let finding = if !barred.is_empty() {
        let says = format!("A node could not listen here: {}.", barred.join(", "));
        Finding::new("ports", Verdict::Problem, says)
            .advise(format!("give other addresses by {flags}"))
    } else if !held.is_empty() {
        let says = format!("Held by another program: {}.", held.join(", "));
        Finding::new("ports", Verdict::Warning, says).advise(format!(
            "if that is the node, ask it at its own --rpc-url; if not, end that program or give other \
             addresses by {flags}"
        ))
    } else {
        Finding::new("ports", Verdict::Ok, "All ports that the settings name are free.")
    };
    finding.facts(facts)
}

/// Nothing where the settings have no router asked.
fn routers(node: &Node<'_>) -> Option<Finding> {
    let routers = &node.nat.routers;
    let name = |router: &Router| protocol(&router.protocol).to_owned();
    let good: Vec<String> = routers
        .iter()
        .filter(|router| router.failed.is_none())
        .map(|router| match &router.external_ip {
            Some(ip) => format!("{} (its address: {ip})", name(router)),
            None => name(router),
        })
        .collect();
    let failed: Vec<String> = routers
        .iter()
        .filter_map(|router| {
            Some(format!("{}: {}", name(router), why_no_mapping(router.failed.as_deref()?)))
        })
        .collect();
    let facts = routers.iter().map(|router| {
        let Router { protocol, external_ip, failed } = router;
        json!({ "protocol": protocol, "external_ip": external_ip, "failed": failed })
    });
    let facts = json!({ "routers": facts.collect::<Vec<_>>(), "ports": node.ports() });
    let finding = match (good.is_empty(), failed.is_empty()) {
        (true, true) => return None,
        (false, _) => {
            let says = format!(
                "The router can be asked to map ports by {}; a node does so by itself.",
                good.join(" and ")
            );
            Finding::new("port_mapping", Verdict::Ok, says)
        }
        (true, false) => {
            let says = format!("No router maps ports ({}).", failed.join("; "));
            let behind = routers.iter().any(|r| r.failed.as_deref() == Some("impossible"));
            let advice = match behind {
                true => "ask the provider for a public address, or forward the ports on the outer router \
                         too"
                    .to_owned(),
                false => format!("switch on UPnP, NAT-PMP or PCP on the router, or {}", node.by_hand()),
            };
            Finding::new("port_mapping", Verdict::Warning, says)
                .advise(format!("unless this machine has a public address: {advice}"))
        }
    };
    Some(finding.facts(facts))
}
