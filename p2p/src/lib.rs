//! The NSN overlay: a libp2p network of its own, beside the chain's block network.
//!
//! Four kinds of work share one swarm, and each has a handle of its own:
//!
//! - **gossip** ([`GossipHandle`]): six topics over two gossipsub behaviours, `control` and `bulk`,
//!   because flood publish, size and queue are settings of a whole behaviour. Every message is one
//!   [`gossip::Envelope`]; peers are scored by their reputation on the chain.
//! - **dht** ([`DhtHandle`]): a Kademlia directory of who provides what. Records name peers, never
//!   addresses. libp2p keeps the routing table and answers queries; the lookups, the record store
//!   and the schedule of what is announced when are ours.
//! - **peers** ([`PeersHandle`]): connections, what is known of each peer, bans, and signed service
//!   records, which say where a peer's shard service listens. Who is let in is decided by
//!   [`connections`], before the handshake as far as the address tells.
//! - **nat** ([`NatHandle`]): where this node can be reached, found out by dial-backs, STUN, the
//!   router and what peers see; and how others are reached, directly, through holes punched into NATs,
//!   or through relays; see [`nat`].
//!
//! ```text
//!   caller ── GossipHandle ──┐ bounded                     ┌── gossip::Gossip
//!   caller ── DhtHandle ─────┼ channels ── Driver ── swarm ┼── dht::Dht
//!   caller ── PeersHandle ───┤ (one task)                  ├── peers::Peers
//!   caller ── NatHandle ─────┘                             ├── nat::Nat
//!                                                          └── bootstrap::Bootstrap
//! ```
//!
//! [`build`] makes the handles and the [`Driver`] and touches neither network nor disk. The driver
//! is one task: it selects an event or a command, hands it to the one domain that owns the state,
//! and applies what comes back. What is decided is decided by plain functions of state, input and
//! `now`: [`gossip::score`], [`gossip::validate`], [`gossip::ledger`], the directory's lookups,
//! [`dht::queries`], [`dht::Store`], [`peers::ServiceRecord`] and
//! [`bootstrap::Schedule`] hold no clock, socket or randomness.
//!
//! # Bounds
//!
//! Command channels hold [`Config::command_queue`] commands and refuse when full; that of the
//! directory holds as many as callers may wait for lookups, if these are more. Subscriptions keep
//! the newest messages and count what they drop. Every table states its bound and the worst case in
//! bytes where it is configured.
//!
//! # Chains never mix
//!
//! Protocol names carry the first eight hex digits of the genesis hash ([`Protocols`]); a peer of
//! another chain is disconnected as soon as it identifies itself.

mod address;
mod behaviour;
pub mod bootstrap;
mod builder;
mod config;
pub mod connections;
pub mod dht;
mod driver;
mod error;
mod file;
pub mod gossip;
pub mod identity;
mod metrics;
pub mod nat;
mod overlay;
pub mod peers;
mod protocols;
mod reputation;
pub mod testnet;
mod transport;

pub use address::AddressPolicy;
pub use builder::{Deps, build};
pub use config::Config;
pub use dht::DhtHandle;
pub use driver::Driver;
pub use error::{BuildError, Closed, RunError};
pub use gossip::GossipHandle;
pub use identity::{Identity, OverlayKey};
pub use libp2p::{Multiaddr, PeerId};
pub use metrics::Metrics;
pub use nat::NatHandle;
pub use overlay::Overlay;
pub use peers::PeersHandle;
pub use protocols::Protocols;
pub use reputation::{GRAYLIST_BELOW, Reputation, Standing};
