//! The whole service over loopback QUIC: every test here goes through the wire.

mod bad_input;
mod edge;
mod fetching;
mod flow;
mod fuzz;
mod keeping;
mod lifecycle;
pub(crate) mod mesh;
mod overlay;
mod probing;
mod regions;
mod upstreams;
mod verified;
mod warming;
pub(crate) mod world;
