//! How a peer is reached: at its own addresses, through a hole punched into its NAT, or through a
//! relay.
//!
//! Whoever dials a peer (a service, the directory, the book) makes one dial, and any strategy may
//! make it succeed: [`Behaviour`] adds to it what is known of relays that the peer can be reached
//! through, and [`Paced`], around the transport, begins each address when its turn has come. What
//! begins when, which of two connections is the better one, and what is worth another attempt, is
//! decided by [`Paths`], which is pure; both share it behind a short lock ([`Shared`]).
//!
//! ```text
//!   dial ── Behaviour: + addresses through relays ── swarm ── Paced: waits its turn, counts ── transports
//!                 │                                             │
//!                 └──────────────── Shared(Paths) ──────────────┘
//! ```
//!
//! Holes are punched over a connection through a relay that is there already ([`Punch`]: DCUtR).

mod behaviour;
mod config;
mod paced;
mod paths;
mod punch;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    behaviour::{Behaviour, Shared},
    paced::Paced,
    paths::{CONNECTED, Known, REASONS},
    punch::Behaviour as Punch,
};
pub use self::{
    config::Config,
    paths::{AttemptView, Method, Strategy},
};
