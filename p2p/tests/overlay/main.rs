//! The overlay through the wire: whole nodes on the in-process transport, two on real sockets, and
//! hostile peers that speak our protocols without our code.

// clippy.toml allows these in test functions; here everything is one. A node's configuration is some
// kilobytes, and futures of tests hold several; they are made once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::large_futures
)]

mod admission;
mod bare;
mod book;
mod circuits;
mod closing;
mod cost;
mod dht;
mod dialling;
mod gossip;
mod hidden;
mod hostile;
mod idle;
mod kept;
mod liar;
mod lookups;
mod nat;
mod network;
mod peers;
mod raw;
mod reachable;
mod records;
mod refusals;
mod routing;
mod shards;
mod simulated;
mod stranger;
mod swarm;
mod sweep;
mod teller;
mod turn;
