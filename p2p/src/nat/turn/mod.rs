//! TURN (RFC 8656): an address at a server, for peers that can be reached in no other way.
//!
//! ```text
//!   Session: Client (pure) ─ frames ─ Link ══ UDP or TCP ══ TURN server ══ UDP ══ any peer
//!      │ datagrams, two bounded queues
//!   Relayed (a socket) ── Endpoint of the transport's QUIC ── swarm
//!
//!   Part (in the overlay's task): Meetings (pure) ── /nsn/<chain>/turn/1 over a circuit ── peer
//!      └── orders: is an allocation wanted, who gets permission ──▶ Worker, which holds the Session
//! ```
//!
//! [`worker`] is one task with one socket to one server at a time ([`session`]). What it asks and what answers mean is
//! decided by [`client`] with [`peers`]; the bytes are those of [`message`] and [`frame`]. An
//! allocation becomes a socket ([`socket`], which says why it is that and no shim on loopback) on which
//! the transport listens as on any other, except that nobody is told of the address: it takes nothing
//! but from addresses that were given permission.
//!
//! Who gets it is agreed on over a circuit ([`meet`], [`wire`]): the two tell each other where they are
//! seen, and whoever has no relayed address of its own dials the other's. So a peer needs no TURN server
//! to be met at one.

mod client;
mod config;
mod credentials;
mod event;
mod frame;
mod link;
mod meet;
mod message;
mod metrics;
mod outcome;
mod part;
mod peers;
mod pending;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

pub use self::{
    config::{
        Carrier as TurnCarrier, Enabled as TurnEnabled, Server as TurnServer,
        ServerError as TurnServerError, Turn as TurnConfig, Upgrade as TurnUpgrade,
    },
    outcome::Outcome as TurnOutcome,
    part::TurnView,
};
pub(crate) use self::{
    metrics::TurnMetrics,
    part::{Over, Part, Talk, talk},
    socket::{Relayed, Sockets},
    wire::{Request, Response},
    worker::Told,
};
