//! The directory: which peer provides which shard, content or region.
//!
//! libp2p's kad keeps the routing table and answers others. The rest is ours: the lookups (`lookup`,
//! pure; `searches`, those under way), the client side of the protocol on the wire (`client`), who
//! waits for which lookup ([`queries`]), the record store ([`Store`]), when what is announced to whom
//! (`sweep`, and `moves` after this node has moved), who enters the routing table and who leaves it (`admission`, `routing`), and what is
//! kept over a restart (`disk`).
//!
//! ```text
//!   caller ── queries ── searches ── lookup      plain state: shared, in turns, whom to ask
//!                │           │
//!                └─ finder ──┴── client ── peers  one stream carries many questions or records
//! ```

mod admission;
mod cache;
pub(crate) mod client;
mod config;
mod disk;
mod finder;
mod handle;
mod keeping;
mod key;
pub(crate) mod lookup;
mod metrics;
mod moves;
pub(crate) mod network;
pub mod queries;
mod routing;
pub(crate) mod searches;
pub(crate) mod space;
mod store;
pub(crate) mod sweep;
mod task;

pub(crate) use admission::REFUSALS as ROUTING_REFUSALS;
pub use config::Config;
pub(crate) use disk::{Disk, Kept};
pub(crate) use finder::QUERY_KINDS;
pub use handle::{Announced, Class, ClosestError, DhtHandle, FindError, ProvideError, Status};
pub(crate) use handle::{Command, channel};
pub(crate) use keeping::{DROPPED, open};
pub use key::Key;
pub(crate) use metrics::LookupMetrics;
pub use routing::Config as TableConfig;
pub(crate) use routing::{OUTCOMES, REFRESHES, Seen, Why};
pub(crate) use store::DISPLACED;
pub use store::{Limits as StoreLimits, Rank, Refused, Store};
pub(crate) use sweep::SweepMetrics;
pub use sweep::{Config as SweepConfig, Counts as SweepCounts, Quorum, SweepStatus};
pub(crate) use task::{Behaviour, Behaviours, Dht, Output, behaviour};
