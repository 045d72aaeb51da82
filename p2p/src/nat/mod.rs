//! Where this node can be reached from outside, and how it knows.
//!
//! ```text
//!   listeners, connections, identify ──┐
//!   AutoNAT v2 (dial-backs) ───────────┤ events            actions ┌─ external addresses of the swarm
//!   stun::Worker (one task) ───────────┼──────▶ Reachability ──────┼─ dial-backs to ask for
//!   mapping::Worker (one task) ────────┤        (pure)             ├─ STUN rounds to ask for
//!   interfaces (if-watch) ─────────────┘                           └─ mappings to ask for
//! ```
//!
//! Where nothing else works, [`turn`] gives this node an address at a server.
//!
//! [`Nat`] belongs to the overlay's one task: it turns what happens into events of
//! [`reachability`], and carries out what comes of them. What is an external address of the swarm
//! is what identify, the directory and service records tell, so an address that is withdrawn there
//! is told by nobody from then on.

mod autonat;
mod config;
mod handle;
mod kind;
mod mapping;
mod metrics;
mod rates;
mod reachability;
mod stun;
mod task;
mod turn;

pub(crate) use self::{
    autonat::{client, server},
    handle::{Command, channel},
    kind::mapping_of,
    metrics::NatMetrics,
    task::{Nat, News},
    turn::{Relayed, Sockets, Talk, talk},
};
pub use self::{
    config::{
        Config, Mapping as MappingConfig, Server as ServerConfig, Stun as StunConfig, Wait, When,
    },
    handle::{AddressView, MappingView, NatHandle, Status, StatusError, StunView},
    kind::{Filtering, Mapping, NatType},
    mapping::{By, Transport},
    reachability::{Standing, State, Verdict},
    stun::Outcome as StunOutcome,
    turn::{
        TurnCarrier, TurnConfig, TurnEnabled, TurnOutcome, TurnServer, TurnServerError,
        TurnUpgrade, TurnView,
    },
};
