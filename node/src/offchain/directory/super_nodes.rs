//! Super-nodes that say in which region they are, from which a relay takes its own.

use std::{collections::HashSet, time::Duration};

use futures::{StreamExt, stream};
use libp2p::PeerId;
use nsn_p2p::{
    Overlay,
    identity::key_of,
    peers::{PeerView, Roles},
};
use nsn_relay::upstream::{DirectoryError, Source, SuperNode};
use tokio::time::{sleep, timeout};

use super::{ASKED_AT_ONCE, Directory, RECORD_LIMIT, failed, socket_addr};

/// How long service records are waited for in all. Who has not answered by then is not measured this time.
const SEARCH: Duration = Duration::from_secs(6);

impl Directory {
    /// See [`nsn_relay::upstream::Directory::super_nodes`]. Asks twice `most` peers at most, eight at a
    /// time.
    pub(super) async fn find_super_nodes(
        &self,
        named: Vec<PeerId>,
        most: usize,
    ) -> Result<Vec<SuperNode>, DirectoryError> {
        let overlay = self.overlay()?;
        let connected = overlay.peers.list().await.map_err(failed)?;
        let bound = |peer: &PeerId| {
            let scores = key_of(peer).and_then(|key| self.chain.scores(&key));
            scores.is_some_and(|scores| !scores.graylisted())
        };
        let authors = self.announcements.authors();
        let mut peers = may_keep(named, roles(&connected), authors, bound);
        peers.retain(|peer| *peer != overlay.peers.local());
        // Some will turn out to be none.
        peers.truncate(most.saturating_mul(2));
        let found = stream::iter(peers)
            .map(|peer| {
                let (this, overlay) = (self.clone(), overlay.clone());
                async move { this.super_node(&overlay, peer).await }
            })
            .buffer_unordered(ASKED_AT_ONCE)
            .filter_map(std::future::ready)
            .take_until(sleep(SEARCH));
        Ok(found.take(most).collect().await)
    }

    /// A super-node that says in which region it is, if a peer is one that can be used.
    async fn super_node(&self, overlay: &Overlay, peer: PeerId) -> Option<SuperNode> {
        let record = timeout(RECORD_LIMIT, overlay.peers.service_record(peer)).await.ok()?.ok()?;
        let region = record.region.as_ref().filter(|_| record.roles.super_node)?;
        let region = region.as_str().parse().ok()?;
        let addrs: Vec<_> = self.usable(&record).iter().filter_map(socket_addr).collect();
        let source = Source { peer, addrs, seeder_score: None, load: Some(record.load) };
        (!source.addrs.is_empty()).then_some(SuperNode { source, region })
    }
}

/// What the connected peers are known to do.
fn roles(connected: &[PeerView]) -> impl Iterator<Item = (PeerId, Option<Roles>)> {
    connected.iter().filter_map(|view| Some((view.peer_id.parse().ok()?, view.roles)))
}

/// Peers that may be super-nodes, in the order in which they are worth asking: those of `named`, those of
/// whom it is known, those that announce content, and connected ones of whom nothing is known. An account
/// has to answer for all but the first (`bound`): keys cost nothing, and whoever is measured has a say in
/// where this node is.
fn may_keep(
    named: Vec<PeerId>,
    connected: impl Iterator<Item = (PeerId, Option<Roles>)>,
    authors: Vec<PeerId>,
    bound: impl Fn(&PeerId) -> bool,
) -> Vec<PeerId> {
    let (known, unknown): (Vec<_>, Vec<_>) = connected
        .filter(|(_, roles)| roles.is_none_or(|roles| roles.super_node))
        .partition(|(_, roles)| roles.is_some());
    let peer = |(peer, _)| peer;
    let others = known.into_iter().map(peer).chain(authors).chain(unknown.into_iter().map(peer));
    let mut seen = HashSet::new();
    let all = named.into_iter().chain(others.filter(bound));
    all.filter(|peer| seen.insert(*peer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn super_nodes_are_looked_for_where_they_are_likely_and_unbound_ones_only_if_named() {
        let [named, known, relay, author, unknown, unbound] =
            std::array::from_fn(|_| PeerId::random());
        let does = |super_node| Some(Roles { super_node, relay: !super_node });
        let connected =
            [(unknown, None), (relay, does(false)), (known, does(true)), (unbound, does(true))];
        let bound = |peer: &PeerId| ![unbound, named].contains(peer);
        let authors = vec![author, unbound, known];
        let found = may_keep(vec![named], connected.into_iter(), authors, bound);
        assert_eq!(found, [named, known, author, unknown]);
    }
}
