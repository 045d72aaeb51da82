//! The peer book as it is written. Nothing in the file is believed: each peer is checked as if a
//! stranger had told of it.

use super::{Book, Config, Entry, Known};
use crate::{
    AddressPolicy, Multiaddr, PeerId,
    address::{MAX_ADDRESS_BYTES, without_peer},
    identity::key_of,
};
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

/// Longest text of an address that is parsed: a character takes at most as many bytes, and names of
/// protocols come on top.
const MAX_ADDRESS_TEXT: usize = 2 * MAX_ADDRESS_BYTES;

/// The labels of what is dropped at loading, which dashboards see from the start.
pub(crate) const DROPPED: [&str; 5] = ["malformed", "key_type", "own_key", "no_address", "surplus"];

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// The last connected first. Kept as values, so that one that is wrong costs no other.
    peers: Vec<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct SavedPeer {
    peer: String,
    last_success_ms: u64,
    successes: u64,
    failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    addresses: Vec<SavedAddress>,
}

#[derive(Serialize, Deserialize)]
struct SavedAddress {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    worked_ms: Option<u64>,
}

impl Book {
    /// What to write, if anything has changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Option<Saved> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut entries: Vec<(&PeerId, &Entry)> = self.entries.iter().collect();
        entries.sort_by_key(|(peer, entry)| (Reverse(entry.last_success_ms), **peer));
        let peers = entries.into_iter().filter_map(|(peer, entry)| {
            let addresses = entry.addresses.iter().map(|known| SavedAddress {
                address: known.addr.to_string(),
                worked_ms: known.worked_ms,
            });
            // Cannot fail: text and numbers alone.
            serde_json::to_value(SavedPeer {
                peer: peer.to_string(),
                last_success_ms: entry.last_success_ms,
                successes: entry.successes,
                failures: entry.failures,
                ip: entry.ip,
                addresses: addresses.collect(),
            })
            .ok()
        });
        Some(Saved { peers: peers.collect() })
    }

    /// The book as it was written, without what cannot be used; `dropped` hears of each peer that
    /// was left out, by the reason.
    pub(crate) fn load(
        config: &Config,
        policy: AddressPolicy,
        local: &PeerId,
        saved: Saved,
        now_ms: u64,
        mut dropped: impl FnMut(&'static str),
    ) -> Self {
        let mut entries = HashMap::new();
        for value in saved.peers {
            if entries.len() >= config.peers {
                dropped("surplus");
                continue;
            }
            match entry(value, config, policy, local, now_ms) {
                Ok((peer, entry)) => {
                    entries.insert(peer, entry);
                }
                Err(reason) => dropped(reason),
            }
        }
        let mut book = Self { config: config.clone(), policy, entries, changed: false };
        book.expire(now_ms);
        book
    }
}

fn entry(
    value: serde_json::Value,
    config: &Config,
    policy: AddressPolicy,
    local: &PeerId,
    now_ms: u64,
) -> Result<(PeerId, Entry), &'static str> {
    let saved: SavedPeer = serde_json::from_value(value).map_err(|_| "malformed")?;
    let peer: PeerId = saved.peer.parse().map_err(|_| "malformed")?;
    if key_of(&peer).is_none() {
        return Err("key_type");
    }
    if peer == *local {
        return Err("own_key");
    }
    let mut addresses: Vec<Known> = Vec::new();
    for saved in saved.addresses {
        if addresses.len() == config.addresses {
            break;
        }
        if saved.address.len() > MAX_ADDRESS_TEXT {
            continue;
        }
        let Ok(addr) = saved.address.parse::<Multiaddr>() else { continue };
        let own = !addr.iter().any(|part| matches!(part, Protocol::P2p(p) if p != peer));
        let addr = without_peer(&addr);
        if own && policy.allows(&addr) && addresses.iter().all(|known| known.addr != addr) {
            addresses.push(Known { addr, worked_ms: saved.worked_ms.map(|at| at.min(now_ms)) });
        }
    }
    if addresses.is_empty() {
        return Err("no_address");
    }
    let entry = Entry {
        addresses,
        // The clock may have been set back since.
        last_success_ms: saved.last_success_ms.min(now_ms),
        successes: saved.successes,
        failures: saved.failures,
        ip: saved.ip,
        tried_ms: None,
    };
    Ok((peer, entry))
}

#[cfg(test)]
impl Saved {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{addr, book, met, peer},
        *,
    };
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: u64 = 1_000_000;

    fn load(peers: Vec<serde_json::Value>, config: &Config) -> (Book, Vec<&'static str>) {
        let mut dropped = Vec::new();
        let (local, saved) = (peer(0), Saved { peers });
        let book = Book::load(config, AddressPolicy::Global, &local, saved, NOW, |reason| {
            dropped.push(reason);
        });
        (book, dropped)
    }

    fn saved(peer: &str, address: &str) -> serde_json::Value {
        json!({
            "peer": peer, "last_success_ms": NOW, "successes": 1, "failures": 0,
            "addresses": [{ "address": address }],
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let mut book = book(10, 100);
        assert!(book.take_changes().is_none(), "nothing to write yet");
        for n in 1..=5 {
            met(&mut book, n, 1, n > 2, &[addr(2, 1), addr(3, 1)], n.into());
            book.failed(&peer(n));
        }
        let written = serde_json::to_vec(&book.take_changes().unwrap()).unwrap();
        assert!(book.take_changes().is_none());
        let read: Saved = serde_json::from_slice(&written).unwrap();
        let (again, dropped) = load(read.peers, &book.config);
        assert_eq!(again.entries, book.entries);
        assert!(dropped.is_empty(), "{dropped:?}");
    }

    #[test]
    fn what_is_odd_is_dropped_by_its_reason_and_costs_no_other() {
        let (own, one, two) = (peer(0).to_string(), peer(1).to_string(), peer(2).to_string());
        let good = "/ip4/8.8.8.8/tcp/1";
        let rsa = libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap();
        let rsa = PeerId::from_multihash(rsa).unwrap().to_string();
        let others = format!("{good}/p2p/{two}");
        let long = format!("/dns/{}/tcp/1", "a".repeat(5000));
        let future = json!({
            "peer": one, "last_success_ms": u64::MAX, "successes": 1, "failures": 0,
            "addresses": [{ "address": good, "worked_ms": u64::MAX }],
        });
        let peers = vec![
            json!(17),
            json!({ "peer": one }),
            saved("nobody", good),
            saved(&rsa, good),
            saved(&own, good),
            saved(&one, "/ip4/10.0.0.1/tcp/1"),
            saved(&one, "rubbish"),
            saved(&one, &others),
            saved(&one, &long),
            future,
            saved(&two, good),
            saved(&peer(3).to_string(), good),
        ];
        let (book, dropped) =
            load(peers, &Config { peers: 2, group_percent: 100, ..Config::default() });
        let mut wanted = vec!["malformed"; 3];
        wanted.extend(["key_type", "own_key"]);
        wanted.extend(["no_address"; 4]);
        wanted.push("surplus");
        assert_eq!(dropped, wanted);
        assert!(wanted.iter().all(|reason| DROPPED.contains(reason)));
        assert_eq!(book.len(), 2);
        assert_eq!(book.view(&peer(1)).unwrap().last_success_ms, NOW, "not in the future");
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<u64>().prop_map(|n| json!(n)),
            any::<i64>().prop_map(|n| json!(n)),
            ".{0,40}".prop_map(|text| json!(text)),
            (1..9u16).prop_map(|n| json!(peer(n).to_string())),
            (1..9u8).prop_map(|n| json!(addr(n, n).to_string())),
        ];
        leaf.prop_recursive(4, 64, 5, |inner| {
            let name = prop_oneof![
                Just("peer"),
                Just("addresses"),
                Just("address"),
                Just("worked_ms"),
                Just("ip"),
                Just("last_success_ms"),
                Just("successes"),
                Just("failures"),
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(|list| json!(list)),
                proptest::collection::hash_map(name, inner, 0..7).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_file_is_a_panic_and_none_breaks_a_bound(
            peers in proptest::collection::vec(value(), 0..40)
        ) {
            let config = Config { peers: 3, addresses: 2, ..Config::default() };
            let count = peers.len();
            let (book, dropped) = load(peers, &config);
            prop_assert!(book.len() <= 3);
            prop_assert!(book.len() + dropped.len() <= count);
            prop_assert!(book.entries.values().all(|e| (1..=2).contains(&e.addresses.len())));
        }

        #[test]
        fn whatever_a_peer_tells_can_be_written_and_read(
            told in proptest::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..6)
        ) {
            let mut book = book(10, 100);
            let told: Vec<Multiaddr> = told
                .into_iter()
                .map(|(ip, port)| Multiaddr::from(std::net::Ipv4Addr::from(ip)).with(Protocol::Udp(port)))
                .collect();
            met(&mut book, 1, 1, false, &told, NOW);
            let saved = book.take_changes().unwrap();
            let (again, dropped) = load(saved.peers, &book.config);
            prop_assert_eq!(again.entries, book.entries);
            prop_assert!(dropped.is_empty());
        }
    }
}
