//! Connections: who is let in, how fast, and who is shut out.
//!
//! One state (`admission`) decides, and is shared behind a short lock by those who ask it (`door`):
//!
//! ```text
//!   TCP accept, QUIC Initial ── transport gate ──┐ by address: bans, limits, rates, caps.
//!                                                │ Refused here: no handshake, the swarm never hears.
//!   after the handshake, and before dialling ────┼─ behaviour: by peer: bans, key, reputation, limits.
//!                                                │ It alone counts, so nothing is counted twice.
//!   PeersHandle::ban, unban, bans, status ───────┘ peers
//! ```
//!
//! Bans are kept in `bans.json` by a writer of their own (`keep`).

mod admission;
mod bans;
mod behaviour;
mod buckets;
mod config;
mod counts;
mod door;
mod keep;
mod known;
mod refused;
#[cfg(test)]
mod tests;

use crate::peers::Direction;
use admission::Admission;
use serde::Serialize;

pub(crate) use admission::Entry;
pub use bans::{BadTarget, Ban, BanError, BanTarget, MAX_REASON, UnbanError};
pub(crate) use behaviour::Behaviour;
pub use config::{Caps, Config};
pub(crate) use door::Door;
pub(crate) use keep::{keep, load};
pub(crate) use refused::{OTHER_CHAIN, Refused};

/// Connections and admission, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Established connections that others opened.
    pub inbound: usize,
    /// Most of those.
    pub inbound_limit: usize,
    /// Established connections that this node opened.
    pub outbound: usize,
    /// Inbound connections that are shaking hands.
    pub pending_inbound: usize,
    /// Connections that this node is opening.
    pub pending_outbound: usize,
    /// Whether inbound connections are capped by address.
    pub capped_by_address: bool,
    /// New inbound connections that may come at once by now; half of `tokens_limit` of them only
    /// from known sources.
    pub tokens: f64,
    /// The same after a quiet time.
    pub tokens_limit: u32,
    /// Sources that used a part of their rate lately.
    pub recent_sources: usize,
    /// Sources that a good peer was seen at lately.
    pub known_sources: usize,
    /// Bans of peers.
    pub banned_peers: usize,
    /// Bans of addresses.
    pub banned_sources: usize,
}
