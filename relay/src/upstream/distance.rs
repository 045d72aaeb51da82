//! How far super-nodes are.

use super::{Source, SuperNode, Upstream};
use crate::wire::Way;
use std::{collections::HashSet, time::Duration};
use tokio::time::timeout;

impl Upstream {
    /// The super-nodes whose region is known, at most `most`, those that the operator named in front.
    /// None while the directory cannot be asked.
    pub(crate) async fn super_nodes(&self, most: usize) -> Vec<SuperNode> {
        let named = self.super_nodes.iter().map(|source| source.peer).collect();
        let asked = self.directory.super_nodes(named, most);
        let found = match timeout(self.config.directory_timeout, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!("No super-nodes to measure: {error}");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        let mut seen = HashSet::new();
        let (mut nodes, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .filter(|node| node.source.peer != self.us && seen.insert(node.source.peer))
            .map(|node| self.at_its_address(node))
            .partition(|node| self.is_named(&node.source));
        nodes.extend(others);
        nodes.truncate(most);
        nodes
    }

    /// Where the operator says that a super-node is, it is looked for alone.
    fn at_its_address(&self, node: SuperNode) -> SuperNode {
        let named = self.super_nodes.iter().find(|named| named.peer == node.source.peer);
        let source = named.cloned().unwrap_or(node.source);
        SuperNode { source, region: node.region }
    }

    fn is_named(&self, source: &Source) -> bool {
        self.super_nodes.iter().any(|named| named.peer == source.peer)
    }

    /// Round trips to a source: the answers to `samples` questions, one after the other, each within
    /// `within`. Ends at the first that is not answered.
    pub(crate) async fn round_trips(
        &self,
        source: &Source,
        samples: usize,
        within: Duration,
    ) -> Vec<Duration> {
        // Its own port where it has one: that is the way that viewers of the region take.
        let way = if self.reach.offered(source).quic { Way::Quic } else { Way::Overlay };
        let mut round_trips = Vec::with_capacity(samples);
        for _ in 0..samples {
            match timeout(within, self.status(source, way, within)).await {
                Ok(Ok(took)) => round_trips.push(took),
                Ok(Err(reason)) => {
                    tracing::debug!("{} was not measured: {reason}", source.peer);
                    break;
                }
                Err(_) => break,
            }
        }
        round_trips
    }
}
