//! Port mappings on the router: UPnP IGD, PCP and NAT-PMP at the same time.
//!
//! What a router says is a claim. It becomes a candidate of [`reachability`](super::reachability),
//! and is told to others once a peer has reached this node there. [`leases`] decides what is asked
//! for when; [`worker`] is the task that asks.

mod describe;
mod gateway;
mod http;
mod leases;
mod look;
mod pcp;
#[cfg(test)]
mod tests;
mod upnp;
mod worker;

pub use self::leases::{By, Transport};
pub(crate) use self::{
    leases::{Asked, Failed, Held, Leased, Port},
    look::{Found, look},
    worker::{Order, Told, Worker},
};
