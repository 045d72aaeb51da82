//! From configuration to handles and driver, without I/O.

use crate::{
    BuildError, Config, Driver, Identity, Metrics, Overlay, Reputation, dht, gossip, nat, peers,
};
use std::sync::Arc;
use tokio::sync::watch;

/// What the overlay needs of the node.
pub struct Deps {
    /// The node's network key.
    pub identity: Identity,
    /// Hash of the chain's genesis block.
    pub genesis_hash: [u8; 32],
    /// The chain's reputation.
    pub reputation: Arc<dyn Reputation>,
    /// Changes whenever what `reputation` answers has changed.
    pub reputation_changed: watch::Receiver<u64>,
    /// Where to count. Registered once, shared by every overlay that is built after it.
    pub metrics: Metrics,
}

/// Makes the handles and the driver. Nothing happens until [`Driver::run`]; commands wait for it.
pub fn build(config: Config, deps: Deps) -> Result<(Overlay, Driver), BuildError> {
    config.validate()?;
    let metrics = &deps.metrics;
    let (gossip, gossip_ends) = gossip::channels(&config.gossip, metrics);
    // As many as may wait may come at once.
    let dht_queue = config.command_queue.max(config.dht.max_waiting);
    let (dht, dht_commands) = dht::channel(dht_queue, metrics);
    let (peers, peers_ends) =
        peers::channel(config.command_queue, deps.identity.peer_id(), metrics);
    let (nat, nat_commands) = nat::channel(config.command_queue, metrics);
    let driver = Driver::new(config, deps, gossip_ends, dht_commands, peers_ends, nat_commands);
    Ok((Overlay { gossip, dht, peers, nat }, driver))
}
