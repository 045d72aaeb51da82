//! What puts a shard service under load: for `nsn-load`, and for the benchmarks.
//!
//! [`Dialler`] connects as a viewer does, from a source address of its own; [`pull`] asks for a body
//! and throws it away, so that the asking side costs as little as it can. [`Baseline`] serves the same
//! bytes over the same wire with the same QUIC and nothing else: what a service is measured against.
//! A [`Shim`] stands in front of a service and makes it far away.

mod baseline;
mod dial;
mod pull;
mod shim;

pub use baseline::{Baseline, BaselineError};
pub use dial::Dialler;
pub use pull::{Pulled, pull};
pub use shim::{Link, Shim};
