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
//! How others are reached is a matter of [`strategies`], and who is reached through whom, of [`relay`];
//! where nothing else carries for long, [`turn`] gives this node an address at a server.
//!
//! [`Nat`] belongs to the overlay's one task: it turns what happens into events of
//! [`reachability`], and carries out what comes of them. What is an external address of the swarm
//! is what identify, the directory and service records tell, so an address that is withdrawn there
//! is told by nobody from then on.

mod autonat;
mod config;
mod handle;
mod held;
mod kind;
mod mapping;
mod metrics;
mod probe;
mod rates;
mod reachability;
pub(crate) mod relay;
mod relayed;
mod status;
pub(crate) mod strategies;
mod stun;
mod task;
mod turn;

pub(crate) use self::{
    autonat::{client, server},
    handle::{Command, channel},
    kind::mapping_of,
    metrics::NatMetrics,
    relayed::Parts,
    task::{Nat, News},
    turn::{Relayed, Sockets, Talk, talk},
};
pub use self::{
    config::{
        Config, Mapping as MappingConfig, Server as ServerConfig, Stun as StunConfig, Wait, When,
    },
    handle::{
        AddressView, CircuitsView, ConnectionView, MappingAskView, MappingView, NatHandle, Status,
        StatusError, StunView,
    },
    kind::{Filtering, Mapping, NatType},
    mapping::{By, Transport},
    probe::{Probe, RouterView, probe},
    reachability::{Standing, State, Verdict},
    relay::{
        ClientConfig as RelayClientConfig, Config as RelayConfig, ReservationView,
        ServerConfig as RelayServerConfig, Use,
    },
    strategies::{AttemptView, Config as StrategiesConfig, Method, Strategy},
    stun::Outcome as StunOutcome,
    turn::{
        TurnCarrier, TurnConfig, TurnEnabled, TurnOutcome, TurnServer, TurnServerError,
        TurnUpgrade, TurnView,
    },
};
