//! Peers: connections and their limits, what is known of each peer, and service records.
//!
//! Peers that were connected are kept in a book that outlives the process ([`BookView`]), so that a
//! restart finds the network without a bootnode; peers that cannot be reached are left alone for
//! longer and longer ([`BreakerView`]).
//!
//! A service record says where a peer's shard service listens. It is signed by the overlay key, so
//! it is believed whoever hands it over, but it is asked for at the peer itself: fresh, and bound to
//! one chain by its signature ([`ServiceRecord`]).

mod book;
mod breaker;
pub(crate) mod budget;
mod codec;
mod config;
pub(crate) mod dialling;
mod handle;
mod lookups;
mod record;
mod region;
mod services;
mod table;
mod task;

pub(crate) use self::codec::Codec;
pub(crate) use book::{Book, DROPPED, Saver};
pub use book::{BookView, Config as BookConfig};
pub use breaker::{BreakerView, Config as BreakerConfig};
pub use config::Config;
pub use handle::{
    Changes, ConnectError, KnownPeer, PeerView, PeersHandle, ServiceError, Status, StatusError,
};
pub(crate) use handle::{Command, Ends, channel};
pub use record::{LocalServices, RecordError, Roles, ServiceRecord, Validity};
pub use region::{BadRegion, Region};
pub(crate) use table::Direction;
pub(crate) use task::{Context, FAILURES, Parts, Peers, listens};
