//! How things stand, for whoever asks.

use super::{
    AddressView, CircuitsView, Command, ConnectionView, MappingAskView, MappingView, Method, Nat,
    Status, StunView,
    mapping::{Asked, Failed, Held, Leased},
    reachability::Shown,
};
use crate::{PeerId, behaviour::Behaviour};
use libp2p::Swarm;
use std::time::Instant;

impl Nat {
    pub(crate) fn on_command(&self, command: Command, swarm: &Swarm<Behaviour>, now: Instant) {
        match command {
            Command::Status { answer } => {
                let _ = answer.send(self.status(swarm, now));
            }
        }
    }

    fn status(&self, swarm: &Swarm<Behaviour>, now: Instant) -> Status {
        let secs = |since: Instant| now.saturating_duration_since(since).as_secs();
        let address = |shown: Shown<'_>| AddressView {
            address: shown.addr.to_string(),
            standing: shown.standing,
            for_secs: secs(shown.since),
            known_from: [
                (shown.operator, "operator"),
                (shown.listened, "listener"),
                (shown.mapped, "router"),
                (shown.observers > 0, "peers"),
            ]
            .into_iter()
            .filter_map(|(is, who)| is.then_some(who))
            .collect(),
            observed_by: shown.observers,
            reached_by: shown.reached_by,
            failures: shown.failures,
        };
        let mapping = |held: &Held| MappingView {
            protocol: held.by,
            transport: held.port.transport,
            port: held.port.port,
            external: held.external,
            lease_left_secs: held.ends.saturating_duration_since(now).as_secs(),
        };
        let ask = |asked: &Asked| MappingAskView {
            way: asked.way.label(),
            transport: asked.port.transport,
            port: asked.port.port,
            last: asked.last.map(|last| last.map_or_else(Failed::label, |_| "mapped")),
        };
        let stun = |name: &String| {
            let server = self.servers.get(name);
            StunView {
                server: name.clone(),
                last: server.map(|server| server.last),
                mapped: server.and_then(|server| server.mapped),
                took_ms: server
                    .filter(|server| server.mapped.is_some())
                    .map(|server| u64::try_from(server.took.as_millis()).unwrap_or(u64::MAX)),
                ago_secs: server.map(|server| secs(server.at)),
            }
        };
        let Leased { held, asked } = self.leased();
        let connection =
            |(peer, method): (PeerId, Method)| ConnectionView { peer_id: peer.to_string(), method };
        let (offered, reservations, carried) = swarm.behaviour().relay.view();
        Status {
            verdict: self.reachability.verdict(now),
            dial_back_servers: swarm.behaviour().autonat.has_servers(),
            addresses: self.reachability.shown().into_iter().map(address).collect(),
            mappings: held.iter().map(mapping).collect(),
            mapping_asks: asked.iter().map(ask).collect(),
            stun: self.stun_servers.iter().map(stun).collect(),
            connections: self.relayed.shared().methods().into_iter().map(connection).collect(),
            reservations: self.relayed.views(now),
            reservations_wanted: self.relayed.wanted(),
            circuits: CircuitsView { offered, reservations, carried },
            turn: self.turn.view(now),
        }
    }
}
