//! Relays within the overlay's task: who is one, which hold a place for this node, and what follows
//! from being reached directly or not.

use super::{
    NatMetrics, Sockets, Use,
    relay::{Action, Offer, Refusal, Reservations},
    strategies::{Known, Shared},
};
use crate::{
    AddressPolicy, Multiaddr, PeerId, Reputation,
    address::{is_circuit, without_peer},
    behaviour::Behaviour,
    identity::key_of,
    metrics::gauge,
};
use libp2p::{
    Swarm, core::transport::ListenerId, identify, kad::Mode, relay, relay::HOP_PROTOCOL_NAME,
};
use std::{collections::HashSet, io, sync::Arc, time::Instant};

/// What relays and TURN need of the rest.
pub(crate) struct Parts {
    pub(crate) local: PeerId,
    pub(crate) reputation: Arc<dyn Reputation>,
    pub(crate) shared: Shared,
    pub(crate) sockets: Sockets,
}

pub(super) struct Relayed {
    local: PeerId,
    policy: AddressPolicy,
    when: Use,
    /// Only these, and peers that an account answers for, are asked; none if anybody is.
    trusted: Option<HashSet<PeerId>>,
    reputation: Arc<dyn Reputation>,
    reservations: Reservations,
    shared: Shared,
    /// Whether this node is told to be reached directly; nothing before that was looked at.
    direct: Option<bool>,
}

impl Relayed {
    pub(super) fn new(config: &crate::Config, parts: Parts) -> Self {
        let Parts { local, reputation, shared, .. } = parts;
        let (policy, client) = (config.address_policy, &config.nat.relay.client);
        let bootnodes = || config.bootstrap.nodes().into_iter().map(|(peer, _)| peer).collect();
        Self {
            local,
            policy,
            when: client.enabled,
            trusted: client.bound_only.applies(policy).then(bootnodes),
            reputation,
            reservations: Reservations::new(client),
            shared,
            direct: None,
        }
    }

    /// A peer says who it is; `dialled` is where this node reached it.
    pub(super) fn on_identified(
        &mut self,
        peer: PeerId,
        info: &identify::Info,
        dialled: Option<&Multiaddr>,
        now: Instant,
    ) {
        let policy = self.policy;
        let told = info.listen_addrs.iter();
        let told = told.filter(|addr| policy.allows(addr) || policy.allows_circuit(addr));
        let told: Vec<Multiaddr> = told.map(without_peer).collect();
        self.shared.told(peer, &told, now);
        let direct = dialled.filter(|addr| policy.allows(addr)).map(without_peer);
        let first = || told.iter().find(|addr| !is_circuit(addr)).cloned();
        let relay = info.protocols.contains(&HOP_PROTOCOL_NAME);
        self.reservations.told(peer, Offer { relay, addr: direct.or_else(first) }, now);
    }

    pub(super) fn reservations(&mut self) -> &mut Reservations {
        &mut self.reservations
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn views(&self, now: Instant) -> Vec<super::ReservationView> {
        self.reservations.views(&self.local, now)
    }

    pub(super) fn wanted(&self) -> usize {
        self.reservations.wanted()
    }

    /// The directory says through which relays a peer is reached.
    pub(super) fn learn(&self, known: Known) {
        let policy = self.policy;
        let allowed = known.addresses.into_iter().filter(|addr| policy.allows_circuit(addr));
        self.shared.learn(&Known { peer: known.peer, addresses: allowed.collect() });
    }

    pub(super) fn on_circuits(&mut self, event: &relay::client::Event, now: Instant) {
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } = event {
            if !renewal {
                tracing::info!(relay = %relay_peer_id, "a relay holds a place for this node");
            }
            self.reservations.accepted(relay_peer_id, now);
        }
    }

    /// Whether the listener was for a reservation.
    pub(super) fn on_listener_closed(
        &mut self,
        listener: ListenerId,
        reason: &Result<(), io::Error>,
        metrics: &NatMetrics,
        now: Instant,
    ) -> bool {
        let Some(relay) = self.reservations.ended(listener, now) else { return false };
        let error = reason.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let refusal = Refusal::find(&error);
        let label = refusal.map_or("lost", Refusal::label);
        metrics.reservations_ended.with_label_values(&[label]).inc();
        tracing::info!(%relay, reason = label, "a relay holds no place for this node");
        true
    }

    /// What follows from the addresses that are told now.
    pub(super) fn advance(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        metrics: &NatMetrics,
        now: Instant,
    ) {
        let direct = swarm.external_addresses().any(|addr| !is_circuit(addr));
        if self.direct != Some(direct) {
            self.direct = Some(direct);
            // An address through a relay is none at which to serve the directory or be a relay.
            let mode = if direct { Mode::Server } else { Mode::Client };
            swarm.behaviour_mut().kad.set_mode(Some(mode));
            swarm.behaviour_mut().relay.on_reachable(direct);
        }
        let needed = match self.when {
            Use::Auto => !direct,
            Use::Always => true,
            Use::Never => false,
        };
        let (reputation, trusted) = (&self.reputation, &self.trusted);
        let worth = |peer: &PeerId| {
            let standing = key_of(peer).and_then(|key| reputation.standing(&key));
            match standing {
                Some(standing) => (!standing.graylisted()).then_some(standing.total),
                None => trusted.as_ref().is_none_or(|peers| peers.contains(peer)).then_some(0),
            }
        };
        for action in self.reservations.poll(needed, worth, now) {
            match action {
                Action::Reserve(peer, addr) => {
                    let listener = swarm.listen_on(addr).inspect_err(
                        |error| tracing::debug!(relay = %peer, %error, "a relay cannot be asked"),
                    );
                    self.reservations.asked(&peer, listener.ok(), now);
                }
                Action::Leave(peer) => {
                    tracing::info!(relay = %peer, "a relay is needed no longer");
                    // Fails only if it has gone meanwhile.
                    let _ = swarm.disconnect_peer_id(peer);
                }
            }
        }
        metrics.reservations.set(gauge(self.reservations.held()));
    }
}
