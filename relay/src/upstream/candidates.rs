//! Who may have a blob: the nodes that the operator named, the relays of the same region, and
//! whomever the directory names.
//!
//! All three are asked at once. The operator's super-nodes are there without a question, siblings
//! answer within a round trip, and the directory, which may have to ask half the network, comes last;
//! a fetch begins with whom it has.

use super::{Source, Upstream, rank::Candidate};
use crate::{
    client::Address,
    content::BlobId,
    wire::{Patience, Request, ask},
};
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream, FuturesUnordered},
};
use libp2p::PeerId;
use std::collections::BTreeMap;
use tokio::time::timeout;

/// The answer to whether one blob is held.
const ONE_BYTE: u64 = 1;

/// Nodes by their addresses, all addresses of each together.
pub(super) fn by_peer(addresses: &[Address]) -> Vec<Source> {
    let mut by_peer: BTreeMap<PeerId, Source> = BTreeMap::new();
    for Address { socket, peer } in addresses {
        // Trusted as somebody of whom no ill is known: by the operator who named them, or by the
        // node, which names only relays for whom an account answers.
        let new = || Source { peer: *peer, addrs: vec![], seeder_score: Some(500), load: None };
        by_peer.entry(*peer).or_insert_with(new).addrs.push(*socket);
    }
    by_peer.into_values().collect()
}

impl Upstream {
    /// Who may have a blob, as it becomes known. An error is a lookup that failed.
    pub(super) fn candidates(&self, id: BlobId) -> BoxStream<'_, Result<Vec<Candidate>, ()>> {
        let guess = |source: &Source| Candidate { source: source.clone(), named: false };
        let configured = stream::iter([Ok(self.super_nodes.iter().map(guess).collect())]);
        let siblings: FuturesUnordered<_> =
            self.siblings().into_iter().map(|sibling| self.ask_sibling(id, sibling)).collect();
        let siblings =
            siblings.filter_map(|held| std::future::ready(held.map(|one| Ok(vec![one]))));
        let directory = self.ask_directory(id).into_stream();
        configured.chain(stream::select(siblings, directory)).boxed()
    }

    /// The other relays of the region.
    pub(super) fn siblings(&self) -> Vec<Source> {
        let mut siblings = by_peer(&self.others.addresses());
        siblings.retain(|sibling| sibling.peer != self.us);
        siblings.truncate(self.config.siblings);
        siblings
    }

    /// Asks a relay of the same region whether it holds a blob, if there is a connection to it.
    async fn ask_sibling(&self, id: BlobId, source: Source) -> Option<Candidate> {
        let connection = self.reach.open_connection(source.peer)?;
        let within = self.config.sibling_timeout;
        let patience = Patience { header: within, stall: within };
        let asked = async {
            let answer = ask(&connection, &Request::Has { ids: vec![id] }, patience).await.ok()?;
            answer.body(ONE_BYTE, within, |_| {}).await.ok()
        };
        let held = timeout(within, asked).await.ok().flatten()?;
        held.contains(&1).then_some(Candidate { source, named: true })
    }

    async fn ask_directory(&self, id: BlobId) -> Result<Vec<Candidate>, ()> {
        let asked = timeout(self.config.directory_timeout, self.directory.sources(id)).await;
        let reason = match asked {
            Ok(Ok(sources)) => {
                let named = |source| Candidate { source, named: true };
                return Ok(sources.into_iter().map(named).collect());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.config.directory_timeout),
        };
        tracing::debug!("{id}: {reason}");
        self.metrics.directory_failures_total.with_label_values(&["sources"]).inc();
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_node_are_tried_together() {
        let [a, b] = [PeerId::random(), PeerId::random()];
        let at = |peer, port| Address { socket: ([127, 0, 0, 1], port).into(), peer };
        let mut sources = by_peer(&[at(a, 1), at(b, 2), at(a, 3)]);
        sources.sort_by_key(|source| source.addrs.len());
        assert_eq!(sources.len(), 2);
        assert_eq!((sources[0].peer, sources[1].peer), (b, a));
        assert_eq!(sources[1].addrs, [at(a, 1).socket, at(a, 3).socket]);
    }
}
