//! The overlay through the wire: whole nodes on the in-process transport, two on real sockets, and
//! hostile peers that speak our protocols without our code.

// clippy.toml allows these in test functions; here everything is one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod dht;
mod gossip;
mod hostile;
mod network;
mod peers;
mod stranger;
