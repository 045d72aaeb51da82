//! Streams for the shard service over the overlay's connections: `/nsn/<chain>/shard/1`.
//!
//! A shard service listens on a port of its own, which is not reached where a NAT lies between. The
//! overlay's port may be, or another node may pass its connections on; so requests for shards also go
//! over substreams of these. What is said on them is the shard service's matter: here they are opened,
//! taken, bounded and handed on.
//!
//! ```text
//!   ShardsHandle::open ──▶ Behaviour ─── connected: its best connection ──▶ Handler ──▶ Substream
//!                              └──────── else: dial; look in the directory where it is; dial again
//!
//!   ShardsHandle::serve ◀── bounded queue ◀── Handler ◀── other nodes
//! ```
//!
//! Nodes whose shard service does not [`serve`](ShardsHandle::serve) do not offer the protocol.

mod behaviour;
mod config;
mod counts;
mod handle;
mod handler;

pub(crate) use behaviour::{Behaviour, Event};
pub use config::Config;
pub(crate) use handle::{Command, Ends, Offer, channel};
pub use handle::{OpenError, ShardsHandle, Substream};

/// Why a stream was not opened or not taken, as metrics label it; dashboards see all from the start.
pub(crate) mod reason {
    /// As many as allowed are open.
    pub(crate) const LIMIT: &str = "limit";
    /// The shard service takes them too slowly.
    pub(crate) const QUEUE: &str = "queue";
    /// No connection could be made.
    pub(crate) const UNREACHABLE: &str = "unreachable";
    /// The other side serves no shards.
    pub(crate) const NOT_OFFERED: &str = "not_offered";
    /// The connection broke.
    pub(crate) const BROKEN: &str = "broken";
    /// It took too long.
    pub(crate) const TIMEOUT: &str = "timeout";

    /// All of them.
    pub(crate) const ALL: [&str; 6] = [LIMIT, QUEUE, UNREACHABLE, NOT_OFFERED, BROKEN, TIMEOUT];
}
