//! What a node answers, as far as it is judged. Every field may be missing, since an older node lacks
//! some, and none that is not known is in the way.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// How a question has ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Answer<T> {
    /// It was not asked.
    #[default]
    Unasked,
    /// An answer.
    Is(T),
    /// The service that would answer does not run; what the node says of it.
    Down(String),
    /// The node answers this only to those whom it trusts.
    Unsafe,
    /// No answer, or none that can be read; why.
    Failed(String),
}

impl<T> Answer<T> {
    pub(super) const fn is(&self) -> Option<&T> {
        match self {
            Self::Is(answer) => Some(answer),
            _ => None,
        }
    }
}

/// All answers of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// `system_chainType`.
    pub(super) chain_type: Answer<Value>,
    /// `system_health`.
    pub(super) health: Answer<Health>,
    /// The best block, by `chain_getHeader`.
    pub(super) head: Answer<Head>,
    /// Length of a slot in milliseconds, by the runtime.
    pub(super) slot_ms: Option<u64>,
    /// This machine's clock when the block was asked for, in milliseconds since 1970.
    pub(super) now_ms: u64,
    /// `p2p_v1_status`.
    pub(super) overlay: Answer<Overlay>,
    /// `p2p_v1_natStatus`.
    pub(super) nat: Answer<Nat>,
    /// `p2p_v1_breakers`.
    pub(super) breakers: Answer<Vec<Breaker>>,
    /// `relay_v1_status`.
    pub(super) shards: Answer<Shards>,
}

impl Answers {
    /// Whether it is a chain on which any address counts as reached.
    pub(super) fn for_tests(&self) -> bool {
        let kind = self.chain_type.is().and_then(Value::as_str);
        kind.is_some_and(|kind| ["Development", "Local"].contains(&kind))
    }
}

/// `system_health`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Health {
    pub(super) peers: u64,
    pub(super) is_syncing: bool,
    pub(super) should_have_peers: bool,
}

/// A block's header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Head {
    pub(super) number: String,
    pub(super) digest: Digest,
}

/// What stands in a header beside the roots.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Digest {
    /// `0x` and hexadecimal digits each.
    pub(super) logs: Vec<String>,
}

/// Digest item 6 (made before the block runs) of the engine `aura`, of 8 bytes.
const AURA_SLOT: &str = "0x066175726120";

impl Head {
    /// The slot that the block was made in; nothing for a genesis block.
    pub(super) fn slot(&self) -> Option<u64> {
        let slot = self.digest.logs.iter().find_map(|log| log.strip_prefix(AURA_SLOT))?;
        little_endian(slot)
    }
}

/// A u64 of SCALE in hexadecimal digits.
pub(super) fn little_endian(hex: &str) -> Option<u64> {
    let mut bytes = [0; 8];
    hex::decode_to_slice(hex.strip_prefix("0x").unwrap_or(hex), &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// `p2p_v1_status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Overlay {
    pub(super) peer_id: Option<String>,
    pub(super) listen_addrs: Vec<String>,
    pub(super) connected_peers: u64,
    pub(super) connections: u64,
    pub(super) connection_limit: u64,
    pub(super) admission: Admission,
    /// Missing with nodes that do not count them here.
    pub(super) refused: Option<BTreeMap<String, u64>>,
    pub(super) directory: Option<Directory>,
}

/// Who is let in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Admission {
    pub(super) inbound: u64,
    pub(super) inbound_limit: u64,
    pub(super) outbound: u64,
    pub(super) banned_peers: u64,
    pub(super) banned_sources: u64,
}

/// The directory.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Directory {
    pub(super) mode: String,
    pub(super) routing_table: u64,
    pub(super) provided: u64,
    pub(super) unannounced: u64,
    pub(super) records: u64,
    pub(super) sweep: Sweep,
}

/// How far announcing is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Sweep {
    pub(super) lag_seconds: u64,
    pub(super) network_size: Option<u64>,
}

/// `p2p_v1_natStatus`; and what is found without a node, as far as that goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Nat {
    pub(super) state: String,
    pub(super) confidence: u64,
    pub(super) nat: String,
    pub(super) public_ip: Option<String>,
    pub(super) dial_back_servers: bool,
    pub(super) addresses: Vec<Address>,
    pub(super) mappings: Vec<Mapping>,
    /// Missing with nodes that do not tell.
    pub(super) mapping_asks: Option<Vec<MappingAsk>>,
    pub(super) stun: Vec<Stun>,
    pub(super) connections: Vec<Connection>,
    pub(super) reservations: Vec<Value>,
    /// Missing with nodes that do not tell.
    pub(super) reservations_wanted: Option<u64>,
    pub(super) circuits: Circuits,
    /// Only without a node.
    pub(super) routers: Vec<Router>,
}

/// One address of the node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Address {
    pub(super) address: String,
    pub(super) standing: String,
    pub(super) for_secs: u64,
    pub(super) known_from: Vec<String>,
    pub(super) reached_by: u64,
    pub(super) failures: u64,
}

impl Address {
    /// Whether others are told it.
    pub(super) fn told(&self) -> bool {
        ["trusted", "confirmed", "failing"].contains(&self.standing.as_str())
    }

    pub(super) fn known_from(&self, whom: &str) -> bool {
        self.known_from.iter().any(|known| known == whom)
    }
}

/// One port that the router maps.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Mapping {
    pub(super) protocol: String,
    pub(super) transport: String,
    pub(super) port: u64,
    pub(super) external: String,
    pub(super) lease_left_secs: u64,
}

/// How the router was asked last.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct MappingAsk {
    pub(super) way: String,
    pub(super) last: Option<String>,
}

/// One STUN server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Stun {
    pub(super) server: String,
    pub(super) last: Option<String>,
    pub(super) mapped: Option<String>,
    pub(super) took_ms: Option<u64>,
}

/// One connected peer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Connection {
    pub(super) method: String,
}

/// What the node carries for others.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Circuits {
    pub(super) offered: bool,
    pub(super) reservations: u64,
    pub(super) carried: u64,
}

/// What the router answers to one who only looks.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Router {
    pub(super) protocol: String,
    pub(super) external_ip: Option<String>,
    pub(super) failed: Option<String>,
}

/// A peer that could not be reached.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Breaker {
    pub(super) state: String,
    pub(super) last_error: String,
}

/// `relay_v1_status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Shards {
    pub(super) phase: String,
    /// Why it stopped.
    pub(super) reason: Option<String>,
    pub(super) listen_addrs: Vec<String>,
    pub(super) region: Option<Region>,
    pub(super) viewers: u64,
    pub(super) bytes_served: u64,
    pub(super) origin: Option<Origin>,
    pub(super) relay: Option<Relay>,
}

/// The region of the node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) set: bool,
    pub(super) listed: bool,
}

/// What is kept for good.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Origin {
    pub(super) contents: u64,
    pub(super) bytes: u64,
}

/// What is cached.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Relay {
    pub(super) cache: Cache,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) evictions: u64,
}

/// How full the cache is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Cache {
    pub(super) bytes: u64,
    pub(super) capacity: u64,
    pub(super) pinned_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_slot_is_read_from_auras_item_alone() {
        let head = |logs: &[&str]| Head {
            digest: Digest { logs: logs.iter().map(|log| (*log).to_owned()).collect() },
            ..Head::default()
        };
        let seal = format!("0x0561757261{}", "00".repeat(65));
        let slot = "0x0661757261200100000000000000";
        assert_eq!(head(&[&seal, slot]).slot(), Some(1));
        for bad in ["0x06617572612001", "0x066175726120zz00000000000000", "0x06", "", "é"] {
            assert_eq!(head(&[bad]).slot(), None, "{bad}");
        }
        assert_eq!(head(&[]).slot(), None);
        assert_eq!(little_endian("0xb80b000000000000"), Some(3000));
    }

    #[test]
    fn missing_and_unknown_fields_are_no_hindrance() {
        let nat: Nat = serde_json::from_value(json!({ "state": "cone", "new": [1] })).unwrap();
        assert_eq!((nat.state.as_str(), nat.reservations_wanted), ("cone", None));
        serde_json::from_value::<Overlay>(json!({})).unwrap();
        serde_json::from_value::<Shards>(json!({ "phase": "serving" })).unwrap();
    }
}
