//! Peers: connections and their limits, what is known of each peer, and service records.
//!
//! A service record says where a peer's shard service listens. It is signed by the overlay key, so
//! it is believed whoever hands it over, but it is asked for at the peer itself: fresh, and bound to
//! one chain by its signature ([`ServiceRecord`]).

mod codec;
mod config;
mod handle;
pub(crate) mod limits;
mod lookups;
mod record;
mod region;
mod services;
mod table;
mod task;

pub(crate) use self::codec::Codec;
pub use config::Config;
pub use handle::{Changes, ConnectError, PeerView, PeersHandle, ServiceError, Status, StatusError};
pub(crate) use handle::{Command, Ends, channel};
pub use record::{LocalServices, RecordError, Roles, ServiceRecord, Validity};
pub use region::{BadRegion, Region};
pub(crate) use task::{Context, FAILURES, Peers};
