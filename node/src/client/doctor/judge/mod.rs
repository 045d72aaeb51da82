//! From answers to findings. Pure: no clock, socket or randomness.

mod chain;
pub(super) mod local;
mod overlay;
mod reach;
mod shards;
#[cfg(test)]
mod tests;
mod ways;

use super::{
    answers::{Address, Answer, Answers, Nat, Overlay},
    report::{Finding, Verdict},
};

/// What there is to say of a node that answers.
pub(super) fn judge(answers: &Answers) -> Vec<Finding> {
    let (overlay, nat) = (answers.overlay.is(), answers.nat.is());
    let (no_overlay, no_nat) = Default::default();
    let node = Node {
        overlay: overlay.unwrap_or(&no_overlay),
        nat: nat.unwrap_or(&no_nat),
        for_tests: answers.for_tests(),
    };
    let mut findings = chain::findings(answers);
    match overlay {
        Some(_) => findings.extend(overlay::findings(&node, &answers.breakers)),
        None => findings.push(not_told("overlay", &answers.overlay)),
    }
    if nat.is_some() {
        findings.extend(reach::findings(&node, answers.shards.is().is_some()));
        findings.extend(ways::findings(&node));
    } else if overlay.is_some() {
        findings.push(not_told("reachability", &answers.nat));
    }
    findings.extend(shards::findings(&answers.shards, answers.overlay.is().is_some()));
    findings
}

/// The overlay as the node tells of it.
struct Node<'a> {
    overlay: &'a Overlay,
    nat: &'a Nat,
    /// The chain is one on which any address counts as reached.
    for_tests: bool,
}

impl Node<'_> {
    /// The ports that are to be let through, as `UDP 9000`, each once.
    fn ports(&self) -> Vec<String> {
        let mut ports = Vec::new();
        for port in self.overlay.listen_addrs.iter().filter_map(|addr| port_of(addr)) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// How to let others in by hand.
    fn by_hand(&self) -> String {
        let ports = self.ports();
        let named = if ports.is_empty() {
            "the overlay's port (UDP and TCP 9000 unless set otherwise)".to_owned()
        } else {
            ports.join(" and ")
        };
        let udp = ports.iter().find_map(|port| port.strip_prefix("UDP ")).unwrap_or("9000");
        let ip = self.nat.public_ip.as_deref().unwrap_or("PUBLIC_IP");
        let family = if ip.contains(':') { "ip6" } else { "ip4" };
        format!(
            "forward {named} on the router to this machine, let them through its firewall, and start \
             the node with --overlay-public-addr /{family}/{ip}/udp/{udp}/quic-v1"
        )
    }

    /// Addresses that others are told.
    fn told(&self) -> Vec<&Address> {
        self.nat.addresses.iter().filter(|address| address.told()).collect()
    }

    fn relayed(&self) -> u64 {
        u64::try_from(self.nat.reservations.len()).unwrap_or(u64::MAX)
    }
}

/// The port of a listen address: its third and fourth part.
fn port_of(addr: &str) -> Option<String> {
    let mut parts = addr.split('/').skip(1);
    let host = parts.next().filter(|host| ["ip4", "ip6"].contains(host));
    host.and(parts.next())?;
    let transport = parts.next().filter(|transport| ["udp", "tcp"].contains(transport))?;
    let port: u16 = parts.next()?.parse().ok()?;
    Some(format!("{} {port}", transport.to_uppercase()))
}

/// The finding of something that the node did not tell.
fn not_told<T>(check: &'static str, answer: &Answer<T>) -> Finding {
    match answer {
        Answer::Down(says) => Finding::new(check, Verdict::Warning, sentence(says)).advise(
            "if the node was not started with --no-overlay, look in its log for lines of the overlay: \
             they say why it does not run",
        ),
        Answer::Unsafe => Finding::new(
            check,
            Verdict::Unknown,
            "The node tells this only to those whom it trusts.",
        )
        .advise("run this where the node runs, without --rpc-methods safe"),
        Answer::Failed(why) => {
            Finding::new(check, Verdict::Unknown, format!("The node gave no answer to this: {why}."))
        }
        Answer::Unasked | Answer::Is(_) => {
            Finding::new(check, Verdict::Unknown, "The node was not asked.")
        }
    }
}

/// As a sentence: with a capital, and a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
