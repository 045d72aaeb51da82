//! The handles, one for each domain.

use crate::{DhtHandle, GossipHandle, NatHandle, PeersHandle};

/// A running overlay, as its callers see it. Cheap to clone.
#[derive(Clone)]
pub struct Overlay {
    /// Publishes and subscribes.
    pub gossip: GossipHandle,
    /// Asks and tells the directory.
    pub dht: DhtHandle,
    /// Looks at peers and reaches them.
    pub peers: PeersHandle,
    /// Looks at how this node can be reached.
    pub nat: NatHandle,
}
