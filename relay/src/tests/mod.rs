//! The whole service over loopback QUIC: every test here goes through the wire.

mod bad_input;
mod fetching;
mod flow;
mod lifecycle;
mod probing;
mod upstreams;
mod verified;
pub(crate) mod world;
