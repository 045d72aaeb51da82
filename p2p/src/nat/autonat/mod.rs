//! AutoNAT v2: peers dial an address back, so that whoever asked knows that it works.

pub(crate) mod client;
mod handler;
pub(crate) mod server;
mod wire;
