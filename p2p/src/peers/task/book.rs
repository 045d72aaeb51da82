//! The driver's part of the peer book.

use super::{Context, Peers, standing};
use crate::{
    Multiaddr, PeerId, Standing,
    peers::{KnownPeer, book::Worth},
};
use std::time::Duration;

impl Peers {
    pub(super) fn known(&self, peer: &PeerId, cx: &Context<'_>) -> KnownPeer {
        KnownPeer {
            peer_id: peer.to_string(),
            connected: self.table.contains(peer),
            reputation: standing(&*self.reputation, peer),
            book: self.book.view(peer),
            breaker: cx.swarm.behaviour().dialling.view(peer, cx.now),
            attempts: cx.swarm.behaviour().paths.history(peer, cx.now),
        }
    }

    /// Those connected are seen.
    pub(super) fn refresh_book(&mut self, now_ms: u64) {
        for (peer, _) in self.table.iter() {
            self.book.seen(peer, now_ms);
        }
    }

    /// Up to `count` peers of the book to dial now, the best first.
    pub(crate) fn pick_from_book(
        &mut self,
        count: usize,
        retry: Duration,
        cx: &Context<'_>,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let dialling = &cx.swarm.behaviour().dialling;
        let (table, reputation) = (&self.table, &*self.reputation);
        let worth = |peer: &PeerId| {
            if table.contains(peer) || dialling.refuses(peer, cx.now) {
                return Worth::No;
            }
            match standing(reputation, peer) {
                Some(standing) if standing.graylisted() => Worth::No,
                Some(standing) if standing.total >= Standing::NEUTRAL.total => Worth::Good,
                _ => Worth::Usable,
            }
        };
        let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
        self.book.pick(count, retry_ms, worth, cx.now_ms)
    }

    /// Writes what is not written yet.
    pub(crate) async fn save(&mut self, now_ms: u64) {
        self.refresh_book(now_ms);
        if let Some(saver) = self.saver.take() {
            saver.finish(&mut self.book).await;
        }
    }
}
