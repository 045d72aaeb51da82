//! All network behaviours of the overlay's swarm.

use crate::{
    Config, Identity, Metrics, Multiaddr, Protocols, Reputation, RunError,
    connections::{self, Door},
    dht, gossip, nat,
    peers::{Codec, dialling},
    shards,
};
use libp2p::{
    identify, mdns, ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use std::sync::Arc;

/// The behaviours; `connections` comes first, so that what it refuses costs the others nothing.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    connections: connections::Behaviour,
    /// After `connections`, so that a dial refused there is no breaker's trial.
    pub(crate) dialling: dialling::Behaviour,
    pub(crate) paths: nat::strategies::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) kad: dht::Behaviour,
    pub(crate) client: dht::client::Behaviour,
    control: gossip::Watched,
    bulk: gossip::Watched,
    pub(crate) services: request_response::Behaviour<Codec>,
    pub(crate) shards: shards::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) autonat: nat::client::Behaviour,
    dial_backs: Toggle<nat::server::Behaviour>,
    pub(crate) turn: nat::Talk,
    pub(crate) relay: nat::relay::Server,
    circuits: relay::client::Behaviour,
    punch: Toggle<nat::strategies::Punch>,
}

/// What the behaviours share with the transport.
pub(crate) struct Parts {
    pub(crate) reputation: Arc<dyn Reputation>,
    pub(crate) door: Door,
    pub(crate) paths: nat::strategies::Shared,
    /// The other half of the transport through relays.
    pub(crate) offer: shards::Offer,
    pub(crate) circuits: relay::client::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(
        config: &Config,
        identity: &Identity,
        protocols: &Protocols,
        parts: Parts,
        metrics: &Metrics,
    ) -> Result<Self, RunError> {
        let Parts { reputation, door, paths, circuits, offer } = parts;
        let local = identity.peer_id();
        let policy = config.address_policy;
        let gossip = |channel| {
            let limits = gossip::params::ControlLimits::OURS;
            let config = &config.gossip;
            gossip::params::behaviour(channel, config, policy, protocols, identity, metrics, limits)
        };
        // identify keeps no addresses for dialling: what may be dialled is kad's and ours to say.
        let identify =
            identify::Config::new(protocols.chain().to_owned(), identity.keypair().public())
                .with_agent_version(config.agent.clone())
                .with_push_listen_addr_updates(true)
                // Those that count are external addresses too. What is listened on at a relay is what
                // the relay says it is.
                .with_hide_listen_addrs(true)
                .with_cache_size(0);
        // A convenience of dev chains; a machine without multicast still has its bootnodes.
        let mdns = if config.bootstrap.mdns {
            mdns::tokio::Behaviour::new(mdns::Config::default(), local)
                .inspect_err(
                    |error| tracing::warn!(%error, "local peers are not looked for: no mDNS"),
                )
                .ok()
        } else {
            None
        };
        let dial_backs = config.nat.server.enabled.then(|| {
            let served = metrics.nat.served.clone();
            nat::server::Behaviour::new(&config.nat.server, door.clone(), served)
        });
        let punch = config
            .nat
            .strategies
            .order
            .contains(&nat::Strategy::Punch)
            .then(|| nat::strategies::Punch::new(local, policy, door.clone(), paths.clone()));
        let server = &config.nat.relay.server;
        Ok(Self {
            relay: nat::relay::Server::new(local, server, metrics.nat.clone()),
            circuits,
            punch: punch.into(),
            paths: nat::strategies::Behaviour::new(paths, door.clone()),
            autonat: nat::client::Behaviour::new(door.clone(), config.nat.test_timeout),
            dial_backs: dial_backs.into(),
            dialling: dialling::Behaviour::new(
                &config.peers.breaker,
                door.clone(),
                metrics.clone(),
            ),
            connections: connections::Behaviour::new(door, reputation),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new()),
            kad: dht::behaviour(local, &config.dht, policy, protocols),
            client: dht::client::Behaviour::new(&config.dht, policy, protocols, metrics),
            control: gossip(gossip::Channel::Control)?,
            bulk: gossip(gossip::Channel::Bulk)?,
            services: request_response::Behaviour::with_codec(
                Codec,
                [(protocols.services(), ProtocolSupport::Full)],
                request_response::Config::default()
                    .with_request_timeout(config.peers.service_timeout),
            ),
            shards: shards::Behaviour::new(local, &config.shards, protocols, offer, metrics),
            mdns: mdns.into(),
            turn: nat::talk(&config.nat.turn, protocols),
        })
    }

    /// The two behaviours of the directory.
    pub(crate) fn dht(&mut self) -> dht::Behaviours<'_> {
        dht::Behaviours { kad: &mut self.kad, client: &mut self.client }
    }

    /// A peer sees this node at an address, from a socket that it listens with.
    pub(crate) fn seen_at(&mut self, addr: &Multiaddr) {
        if let Some(punch) = self.punch.as_mut() {
            punch.seen_at(addr);
        }
    }

    /// The two gossip behaviours.
    pub(crate) fn gossip(&mut self) -> gossip::Behaviours<'_> {
        gossip::Behaviours { control: &mut self.control, bulk: &mut self.bulk }
    }
}
