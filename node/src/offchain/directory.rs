//! The overlay as the directory of shards: who holds what, and where they serve it.
//!
//! A provider record names a peer and no address; the address is asked of that peer, whose answer it
//! signed. So a lookup is two steps, and the second runs for all providers at once.

mod super_nodes;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use nsn_p2p::{
    AddressPolicy, Overlay,
    dht::{self, Key, ProvideError},
    identity::key_of,
    peers::ServiceRecord,
};
use nsn_relay::{
    BlobId, ContentId,
    upstream::{Class, DirectoryError, Record, Source, SuperNode, TellError},
};
use tokio::{sync::watch, time::timeout};

use super::{Slot, announcements::Announcements, chain_view::ChainView};

/// Providers looked for on a miss; the race among sources uses fewer.
const SOURCES: usize = 8;

/// Service records asked for at the same time.
const ASKED_AT_ONCE: usize = 8;

/// Longest wait for one provider's service record, dialling it included. One that needs longer is no
/// good source for somebody who waits.
pub(super) const RECORD_LIMIT: Duration = Duration::from_secs(3);

/// Once one provider can be used, how long the others are still waited for: they are for the race and
/// in case it fails, and one that is gone must not hold up everybody's miss.
const OTHERS: Duration = Duration::from_millis(300);

/// Somebody who says that they hold a blob, and what is known of them.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Who.
    pub peer: PeerId,
    /// Seeder component of their reputation at the best block, if an account answers for them.
    pub seeder_score: Option<u16>,
    /// Where they serve shards, by their signed record; empty when none could be had, and when they
    /// serve them over the overlay alone.
    pub shard_addrs: Vec<Multiaddr>,
    /// How busy they say they are, 0 idle to 255 full; `None` without a record.
    pub load: Option<u8>,
}

/// The directory. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    overlay: Slot<Overlay>,
    chain: ChainView,
    policy: AddressPolicy,
    max_cached: usize,
    announcements: Announcements,
}

impl Directory {
    /// Of an overlay that provides at most `max_cached` cached keys, and on which new content is
    /// announced.
    pub(super) fn new(
        overlay: Slot<Overlay>,
        chain: ChainView,
        policy: AddressPolicy,
        max_cached: usize,
        announcements: Announcements,
    ) -> Self {
        Self { overlay, chain, policy, max_cached, announcements }
    }

    /// Who provides a content, at most `limit` of them, with their service records.
    ///
    /// # Errors
    /// When the overlay is down, or its lookup failed.
    pub async fn providers_of_content(
        &self,
        content: ContentId,
        limit: usize,
    ) -> Result<Vec<Provider>, DirectoryError> {
        let overlay = self.overlay()?;
        let mut found =
            overlay.dht.find_providers(content_key(content), limit).await.map_err(failed)?;
        found.retain(|peer| !self.graylisted(peer));
        Ok(self.with_records(&overlay, found).collect().await)
    }

    /// Whether a peer is no source at all: a penalty, so by the finalised state.
    fn graylisted(&self, peer: &PeerId) -> bool {
        let scores = key_of(peer).and_then(|key| self.chain.scores(&key));
        scores.is_some_and(|scores| scores.graylisted())
    }

    fn overlay(&self) -> Result<Overlay, DirectoryError> {
        self.overlay.current().ok_or_else(|| failed("the overlay is not running"))
    }

    /// Asks each of `peers` for its service record, several at once; in the order of the answers.
    fn with_records(
        &self,
        overlay: &Overlay,
        peers: Vec<PeerId>,
    ) -> impl Stream<Item = Provider> + Send + use<> {
        let (this, overlay) = (self.clone(), overlay.clone());
        stream::iter(peers)
            .map(move |peer| {
                let (this, overlay) = (this.clone(), overlay.clone());
                async move { this.with_record(&overlay, peer).await }
            })
            .buffer_unordered(ASKED_AT_ONCE)
    }

    async fn with_record(&self, overlay: &Overlay, peer: PeerId) -> Provider {
        let record = timeout(RECORD_LIMIT, overlay.peers.service_record(peer)).await;
        let (shard_addrs, load) = match record {
            Ok(Ok(record)) => (self.usable(&record), Some(record.load)),
            Ok(Err(error)) => {
                tracing::debug!(target: "nsn::directory", %peer, "no service record: {error}");
                (Vec::new(), None)
            }
            Err(_) => {
                tracing::debug!(target: "nsn::directory", %peer, "no service record in time");
                (Vec::new(), None)
            }
        };
        // It only ranks, so the newest is best: what a reorg undoes was a hint.
        let seeder_score =
            key_of(&peer).and_then(|key| self.chain.hint(&key)).map(|scores| scores.seeder);
        Provider { peer, seeder_score, shard_addrs, load }
    }

    /// The addresses of a record that this node may dial.
    fn usable(&self, record: &ServiceRecord) -> Vec<Multiaddr> {
        record.shard_addrs.iter().filter(|addr| self.policy.allows(addr)).cloned().collect()
    }
}

impl nsn_relay::Standing for Directory {
    fn score(&self, viewer: &PeerId) -> Option<u16> {
        // It only weighs, so the newest is best here too.
        key_of(viewer).and_then(|key| self.chain.hint(&key)).map(|scores| scores.total())
    }
}

impl nsn_relay::upstream::Directory for Directory {
    fn sources(&self, blob: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
        Box::pin(async move {
            let overlay = self.overlay()?;
            // Whoever asks for a blob by its hash does not say whether it is a shard or a manifest.
            let (shards, contents) = tokio::join!(
                overlay.dht.find_providers(Key::shard(&blob.0), SOURCES),
                overlay.dht.find_providers(Key::content(&blob.0), SOURCES),
            );
            let mut peers = join_lookups(shards, contents, overlay.peers.local())?;
            let named = peers.len();
            peers.retain(|peer| !self.graylisted(peer));
            let sources = first_and_others(
                self.with_records(&overlay, peers)
                    .filter_map(|provider| std::future::ready(source(provider))),
            )
            .await;
            if sources.is_empty() && named > 0 {
                // Somebody has it and cannot be used now, which is not "nobody has it".
                return Err(failed(format!(
                    "none of {named} providers can be reached and trusted"
                )));
            }
            Ok(sources)
        })
    }

    fn super_nodes(
        &self,
        named: Vec<PeerId>,
        most: usize,
    ) -> BoxFuture<'_, Result<Vec<SuperNode>, DirectoryError>> {
        Box::pin(self.find_super_nodes(named, most))
    }

    fn provide(&self, record: Record, class: Class) -> BoxFuture<'_, Result<(), TellError>> {
        let class = match class {
            Class::Kept => dht::Class::Kept,
            Class::Cached => dht::Class::Cached,
        };
        Box::pin(async move {
            let overlay = self.overlay.current().ok_or(TellError::Down)?;
            overlay.dht.provide(key(record), class).await.map(drop).map_err(not_told)
        })
    }

    fn stop_providing(&self, record: Record) -> BoxFuture<'_, Result<(), TellError>> {
        Box::pin(async move {
            let overlay = self.overlay.current().ok_or(TellError::Down)?;
            overlay.dht.stop_providing(key(record)).await.map(drop).map_err(not_told)
        })
    }

    fn max_cached(&self) -> usize {
        self.max_cached
    }

    fn starts(&self) -> BoxStream<'static, ()> {
        let mut slot = self.overlay.watch();
        slot.mark_changed();
        let next = |mut slot: watch::Receiver<Option<Overlay>>| async move {
            loop {
                slot.changed().await.ok()?;
                if slot.borrow_and_update().is_some() {
                    return Some(((), slot));
                }
            }
        };
        stream::unfold(slot, next).boxed()
    }
}

fn not_told(error: ProvideError) -> TellError {
    match error {
        ProvideError::Full(most) => TellError::Full(most),
        ProvideError::Busy => TellError::Busy,
        // The other one is of no call that is made here.
        ProvideError::Closed(_) | ProvideError::NotProvided => TellError::Down,
    }
}

/// The peers that either lookup found, without this node itself, which was asked first and does not
/// have it. A lookup that failed counts only where the other found nobody: "not found" is for both.
fn join_lookups<E: std::fmt::Display>(
    shards: Result<Vec<PeerId>, E>,
    contents: Result<Vec<PeerId>, E>,
    local: PeerId,
) -> Result<Vec<PeerId>, DirectoryError> {
    let mut peers = Vec::new();
    let mut failure = None;
    for found in [shards, contents] {
        match found {
            Ok(found) => peers.extend(found),
            Err(error) => failure = Some(failed(error)),
        }
    }
    peers.sort_unstable();
    peers.dedup();
    peers.retain(|peer| *peer != local);
    match failure {
        Some(failure) if peers.is_empty() => Err(failure),
        _ => Ok(peers),
    }
}

/// The first item of `found`, and those that follow within [`OTHERS`].
async fn first_and_others<T>(found: impl Stream<Item = T>) -> Vec<T> {
    let mut found = std::pin::pin!(found);
    let mut all: Vec<T> = found.next().await.into_iter().collect();
    if !all.is_empty() {
        let others = async {
            while let Some(other) = found.next().await {
                all.push(other);
            }
        };
        // Out of time means enough, and is no error.
        let _ = timeout(OTHERS, others).await;
    }
    all
}

/// A provider that answers, whether or not its shard service has an address: the overlay, over which it
/// was asked for its record, reaches it.
fn source(provider: Provider) -> Option<Source> {
    let addrs: Vec<SocketAddr> = provider.shard_addrs.iter().filter_map(socket_addr).collect();
    provider.load.is_some().then_some(Source {
        peer: provider.peer,
        addrs,
        seeder_score: provider.seeder_score,
        load: provider.load,
    })
}

fn key(record: Record) -> Key {
    match record {
        Record::Shard(id) => Key::shard(&BlobId::from(id).0),
        Record::Content(id) => content_key(id),
    }
}

fn content_key(id: ContentId) -> Key {
    Key::content(&BlobId::from(id).0)
}

fn failed(error: impl std::fmt::Display) -> DirectoryError {
    DirectoryError { reason: error.to_string() }
}

/// The socket of `/ip4|ip6/../udp/PORT/quic-v1`.
pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match (parts.next()?, parts.next()?) {
        (Protocol::Udp(port), Protocol::QuicV1) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The address of a shard service on `socket`.
pub(crate) fn shard_multiaddr(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_addresses_are_one_to_one() {
        for text in ["127.0.0.1:9003", "[2001:db8::1]:9003"] {
            let socket: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_addr(&shard_multiaddr(socket)), Some(socket));
        }
        for other in
            ["/ip4/1.2.3.4/tcp/9003", "/dns/example.org/udp/1/quic-v1", "/ip4/1.2.3.4/udp/1"]
        {
            assert_eq!(socket_addr(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_provider_that_answers_is_a_source_by_its_peer_id_and_one_that_does_not_is_none() {
        let provider = Provider {
            peer: PeerId::random(),
            seeder_score: None,
            shard_addrs: vec!["/ip4/1.2.3.4/tcp/1".parse().unwrap()],
            load: Some(3),
        };
        let found = source(provider.clone()).unwrap();
        assert_eq!((found.peer, found.addrs, found.load), (provider.peer, vec![], Some(3)));
        assert_eq!(source(Provider { load: None, ..provider }), None);
    }

    #[test]
    fn only_a_final_penalty_bars_a_source() {
        use crate::offchain::chain_view::tests::view_of;
        use pallet_reputation_runtime_api::Scores;

        let peer = nsn_p2p::Identity::from_secret([1; 32]).unwrap();
        let [neutral, slashed] = [500, 100].map(|seeder| Scores { seeder, ..Scores::default() });
        for (before, after, barred) in [(neutral, slashed, false), (slashed, neutral, true)] {
            let chain = view_of(peer.key(), before, after);
            assert_eq!(chain.hint(&peer.key()), Some(after), "which it is ranked by");
            let directory = Directory::new(
                Slot::empty(),
                chain,
                AddressPolicy::Any,
                1,
                Announcements::default(),
            );
            assert_eq!(directory.graylisted(&peer.peer_id()), barred);
            assert!(!directory.graylisted(&PeerId::random()), "nobody answers for it");
        }
    }

    #[test]
    fn a_failed_lookup_is_not_nobody() {
        let (us, other) = (PeerId::random(), PeerId::random());
        let none = || Ok::<_, &str>(Vec::new());
        assert!(join_lookups(none(), none(), us).unwrap().is_empty());
        assert!(join_lookups(Err("busy"), none(), us).is_err());
        assert!(join_lookups(none(), Err("busy"), us).is_err());
        let found = join_lookups(Ok(vec![other, us]), Err("busy"), us).unwrap();
        assert_eq!(found, [other]);
        let found = join_lookups(Ok::<_, &str>(vec![other]), Ok(vec![other]), us).unwrap();
        assert_eq!(found, [other], "each once");
    }

    #[tokio::test]
    async fn one_that_never_answers_does_not_hold_up_the_others() {
        let found = stream::iter([1, 2]).chain(stream::pending());
        assert_eq!(first_and_others(found).await, [1, 2]);
        assert!(first_and_others(stream::empty::<u8>()).await.is_empty());
    }
}
