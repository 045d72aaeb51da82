//! The directory: which peer provides which shard, content or region.
//!
//! libp2p's kad keeps the routing table, serves queries and makes lookups. What it does badly at
//! scale is ours: the record store ([`Store`]), when to announce what ([`Schedule`]), who waits for
//! which lookup ([`queries`]), and who enters the routing table (`admission`).

mod admission;
mod config;
mod handle;
mod key;
pub mod queries;
mod routing;
mod schedule;
mod store;
mod task;

pub(crate) use admission::REFUSALS as ROUTING_REFUSALS;
pub use config::Config;
pub use handle::{Announced, DhtHandle, FindError, ProvideError, Status};
pub(crate) use handle::{Command, channel};
pub use key::Key;
pub use schedule::{Full, Inserted, Schedule};
pub use store::{Limits as StoreLimits, Refused, Store};
pub(crate) use task::{Behaviour, Dht, Output, QUERY_KINDS, behaviour};
