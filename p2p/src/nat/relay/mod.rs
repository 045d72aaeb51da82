//! Circuit relays: being one for others (`server`), and being reached through others' while nobody
//! reaches this node directly (`reservations`).
//!
//! A reservation is a place at a relay: as long as it is held, the relay hands connections on to this
//! node. The address through the relay becomes an external address of the swarm, and so is told by
//! identify and by the directory's records. Which relays are asked is decided by [`Reservations`],
//! which is pure; libp2p's client asks them, and renews in time.

mod circuits;
mod config;
mod rates;
mod refusal;
mod reservations;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    circuits::Circuits,
    refusal::Refusal,
    reservations::{Action, Offer, Reservations},
    server::{Behaviour as Server, OUTCOMES},
};
pub use self::{
    config::{Client as ClientConfig, Config, Server as ServerConfig, Use},
    reservations::ReservationView,
};
