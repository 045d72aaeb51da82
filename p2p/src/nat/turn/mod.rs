//! TURN (RFC 8656).
mod client;
mod config;
mod credentials;
mod event;
mod frame;
mod link;
mod message;
mod metrics;
mod outcome;
mod peers;
mod pending;
mod socket;
mod worker;
pub use self::config::{Turn, Carrier, Server, Upgrade, Enabled};
