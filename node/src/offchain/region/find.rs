//! Finding the relays of a region.
//!
//! One search: the directory names peers; those that an account answers for, and that are not
//! graylisted, are asked for their service record, the best scores first; those whose record says
//! that they are relays of that region, and where, are ranked. A relay that drains has withdrawn its
//! record, and one that is gone cannot be asked, since the record is asked for anew.

use std::{
    cmp::Reverse,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use libp2p::{Multiaddr, PeerId};
use lru::LruCache;
use nsn_p2p::{
    AddressPolicy, Overlay, OverlayKey,
    dht::{self, Key},
    identity::key_of,
    peers::{PeerView, Region, ServiceRecord},
};
use pallet_reputation_runtime_api::Scores;
use tokio::{sync::Semaphore, time::timeout};

use super::Config;
use crate::offchain::{Slot, chain_view::ChainView};

/// How far a relay is taken to be whose round trip is not known, since it is not connected.
const ASSUMED_RTT: Duration = Duration::from_millis(100);

/// A relay of the region that was asked for, bound and in good standing at the finalised block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub peer: PeerId,
    /// Its overlay key.
    pub key: OverlayKey,
    /// Seeder component of the reputation of its account, 0..=1000.
    pub seeder_score: u16,
    /// Where it serves shards, by its signed record; at least one.
    pub shard_addrs: Vec<Multiaddr>,
    /// How busy it says it is, 0 idle to 255 full.
    pub load: u8,
    /// Round trip from this node, if connected.
    pub rtt: Option<Duration>,
}

/// Why no relays could be looked for.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The overlay is switched off or restarting.
    #[error("the overlay is not running")]
    Down,
    /// Too many searches are under way.
    #[error("many searches for relays are under way already: try again in a second")]
    Busy,
    /// The directory could not be asked.
    #[error("the directory cannot answer: {0}")]
    Directory(#[from] dht::FindError),
}

/// Finds relays. Cheap to clone.
#[derive(Clone)]
pub struct Finder(Arc<Inner>);

struct Inner {
    config: Config,
    overlay: Slot<Overlay>,
    chain: ChainView,
    policy: AddressPolicy,
    kept: Mutex<LruCache<Region, Kept>>,
    searches: Semaphore,
}

/// The end of a search.
struct Kept {
    until: Instant,
    relays: Arc<[Found]>,
}

impl Finder {
    /// Finds relays through `overlay`.
    pub(in crate::offchain) fn new(
        config: Config,
        overlay: Slot<Overlay>,
        chain: ChainView,
        policy: AddressPolicy,
    ) -> Self {
        let most = NonZeroUsize::new(config.max_kept).unwrap_or(NonZeroUsize::MIN);
        Self(Arc::new(Inner {
            kept: Mutex::new(LruCache::sparse(most)),
            searches: Semaphore::new(config.max_searches),
            config,
            overlay,
            chain,
            policy,
        }))
    }

    /// The relays of a region, the one to try first in front. Nobody there is an empty list.
    ///
    /// # Errors
    /// When nobody can be asked, see [`FindError`].
    pub async fn find(&self, region: &Region) -> Result<Arc<[Found]>, FindError> {
        if let Some(relays) = self.0.kept(region, Instant::now()) {
            return Ok(relays);
        }
        let overlay = self.0.overlay.current().ok_or(FindError::Down)?;
        let _place = self.0.searches.try_acquire().map_err(|_| FindError::Busy)?;
        let relays = self.0.search(&overlay, region).await?;
        self.0.keep(region, relays.clone(), Instant::now());
        Ok(relays)
    }
}

impl Inner {
    async fn search(
        &self,
        overlay: &Overlay,
        region: &Region,
    ) -> Result<Arc<[Found]>, dht::FindError> {
        let named = overlay.dht.find_providers(Key::region(region), usize::MAX).await?;
        let scores = |key: &OverlayKey| self.chain.scores(key);
        let asked = candidates(named, scores, self.config.max_asked);
        let mut found: Vec<Found> = stream::iter(asked)
            .map(|candidate| self.ask(overlay, region, candidate))
            .buffer_unordered(self.config.parallel)
            .filter_map(std::future::ready)
            .collect()
            .await;
        // Afterwards, since asking connects. It only ranks, so failing is no matter.
        let connected = overlay.peers.list().await.unwrap_or_default();
        for relay in &mut found {
            relay.rtt = rtt(&connected, &relay.peer);
        }
        Ok(ranked(found).into())
    }

    async fn ask(
        &self,
        overlay: &Overlay,
        region: &Region,
        (peer, key, seeder_score): Candidate,
    ) -> Option<Found> {
        let record = overlay.peers.fresh_service_record(peer);
        let record = match timeout(self.config.record_timeout, record).await {
            Ok(Ok(record)) => record,
            Ok(Err(error)) => {
                tracing::debug!(target: "nsn::region", %peer, "no service record: {error}");
                return None;
            }
            Err(_) => {
                tracing::debug!(target: "nsn::region", %peer, "no service record in time");
                return None;
            }
        };
        let shard_addrs = serves(&record, region, self.policy)?;
        Some(Found { peer, key, seeder_score, shard_addrs, load: record.load, rtt: None })
    }

    fn kept(&self, region: &Region, now: Instant) -> Option<Arc<[Found]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(region).filter(|kept| now < kept.until).map(|kept| kept.relays.clone())
    }

    fn keep(&self, region: &Region, relays: Arc<[Found]>, now: Instant) {
        let age = if relays.is_empty() { self.config.keep_nothing } else { self.config.keep_found };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(region.clone(), Kept { until: now + age, relays });
    }
}

/// A peer that may be a relay, its key, and its seeder score.
type Candidate = (PeerId, OverlayKey, u16);

/// Of the peers that the directory names, those worth asking, the best scores first: an account must
/// answer for each, or else anybody could fill a region with keys that cost nothing.
fn candidates(
    named: Vec<PeerId>,
    scores: impl Fn(&OverlayKey) -> Option<Scores>,
    most: usize,
) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = named
        .into_iter()
        .filter_map(|peer| {
            let key = key_of(&peer)?;
            let scores = scores(&key).filter(|scores| !scores.graylisted())?;
            Some((peer, key, scores.seeder))
        })
        .collect();
    candidates.sort_unstable_by_key(|(peer, _, score)| (Reverse(*score), *peer));
    candidates.dedup();
    candidates.truncate(most);
    candidates
}

/// Where the owner of a record serves as a relay of `region`; `None` if it does not, or not where
/// this node's policy lets anybody dial.
fn serves(
    record: &ServiceRecord,
    region: &Region,
    policy: AddressPolicy,
) -> Option<Vec<Multiaddr>> {
    if !record.roles.relay || record.region.as_ref() != Some(region) {
        return None;
    }
    let addrs: Vec<Multiaddr> =
        record.shard_addrs.iter().filter(|addr| policy.allows(addr)).cloned().collect();
    (!addrs.is_empty()).then_some(addrs)
}

fn rtt(connected: &[PeerView], peer: &PeerId) -> Option<Duration> {
    let id = peer.to_string();
    let ping_ms = connected.iter().find(|view| view.peer_id == id)?.ping_ms?;
    Duration::try_from_secs_f64(ping_ms / 1000.0).ok()
}

/// In the order to try them: by score in steps of 100, then by load in quarters, then the nearest.
/// Steps, since else a point of score would outweigh any distance.
fn ranked(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by_key(|relay| {
        let rtt = relay.rtt.unwrap_or(ASSUMED_RTT);
        (Reverse(relay.seeder_score / 100), relay.load / 64, rtt, relay.peer)
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nsn_p2p::{
        Identity,
        peers::{Roles, Validity},
    };

    fn identity(n: u8) -> Identity {
        Identity::from_secret([n; 32]).unwrap()
    }

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    fn found(n: u8, seeder_score: u16, load: u8, rtt_ms: Option<u64>) -> Found {
        Found {
            peer: identity(n).peer_id(),
            key: identity(n).key(),
            seeder_score,
            shard_addrs: vec!["/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap()],
            load,
            rtt: rtt_ms.map(Duration::from_millis),
        }
    }

    #[test]
    fn only_bound_peers_in_good_standing_are_asked_the_best_first_and_each_once() {
        let scores = |key: &OverlayKey| {
            let seeder = [(1, 500), (2, 900), (3, 100)]
                .into_iter()
                .find(|(n, _)| identity(*n).key() == *key)?
                .1;
            Some(Scores { seeder, ..Scores::default() })
        };
        let named = [1, 2, 3, 4, 1].map(|n| identity(n).peer_id());
        let asked = |most| {
            let asked = candidates(named.to_vec(), scores, most);
            asked.into_iter().map(|(peer, ..)| peer).collect::<Vec<_>>()
        };
        assert_eq!(asked(9), [named[1], named[0]], "3 is graylisted, 4 unbound");
        assert_eq!(asked(1), [named[1]]);
    }

    #[test]
    fn the_record_decides_whether_and_where_somebody_is_a_relay_of_the_region() {
        let record = ServiceRecord {
            key: identity(1).key(),
            sequence: 1,
            validity: Validity { issued_ms: 0, expires_ms: 1 },
            roles: Roles { super_node: false, relay: true },
            region: Some(region("eu")),
            shard_addrs: ["/ip4/8.8.8.8/udp/9003/quic-v1", "/ip4/10.0.0.1/udp/9003/quic-v1"]
                .map(|addr| addr.parse().unwrap())
                .to_vec(),
            certificate_hashes: vec![],
            load: 0,
        };
        let eu = region("eu");
        let public = serves(&record, &eu, AddressPolicy::Global).unwrap();
        assert_eq!(public, record.shard_addrs[..1]);
        assert_eq!(serves(&record, &eu, AddressPolicy::Any).unwrap(), record.shard_addrs);
        assert_eq!(serves(&record, &region("us"), AddressPolicy::Any), None);
        let super_node = Roles { super_node: true, relay: false };
        for other in [
            ServiceRecord { region: None, ..record.clone() },
            ServiceRecord { roles: super_node, ..record.clone() },
            ServiceRecord { shard_addrs: vec![], ..record.clone() },
        ] {
            assert_eq!(serves(&other, &eu, AddressPolicy::Any), None, "{other:?}");
        }
    }

    #[test]
    fn score_goes_before_load_and_load_before_distance() {
        let best = found(1, 790, 255, Some(300));
        let idle = found(2, 510, 10, Some(90));
        let idle_unknown = found(3, 520, 0, None);
        let idle_far = found(4, 599, 60, Some(150));
        let busy = found(5, 550, 200, Some(1));
        let low = found(6, 300, 0, Some(1));
        let order = [best, idle, idle_unknown, idle_far, busy, low];
        let mut shuffled = order.to_vec();
        shuffled.reverse();
        assert_eq!(ranked(shuffled), order);
    }

    #[tokio::test]
    async fn what_was_found_is_kept_for_a_while_and_nothing_for_less() {
        use crate::offchain::chain_view::tests::view_of;
        let chain = view_of(identity(1).key(), Scores::default(), Scores::default());
        let config = Config { max_kept: 2, ..Config::default() };
        let finder = Finder::new(config.clone(), Slot::empty(), chain, AddressPolicy::Any);
        let now = Instant::now();
        let ms = Duration::from_millis(1);
        let relays: Arc<[Found]> = vec![found(1, 500, 0, None)].into();
        let [eu, us, asia] = ["eu", "us", "asia"].map(region);
        finder.0.keep(&eu, relays.clone(), now);
        finder.0.keep(&us, Arc::default(), now);
        assert_eq!(finder.0.kept(&eu, now + config.keep_found - ms), Some(relays.clone()));
        assert_eq!(finder.0.kept(&eu, now + config.keep_found), None);
        assert_eq!(finder.0.kept(&us, now + config.keep_nothing - ms), Some(Arc::default()));
        assert_eq!(finder.0.kept(&us, now + config.keep_nothing), None);
        finder.0.keep(&asia, relays.clone(), now);
        assert_eq!(finder.0.kept(&eu, now), None, "two regions are kept");
        assert_eq!(finder.find(&asia).await.unwrap(), relays, "without asking anybody");
        assert!(matches!(finder.find(&eu).await, Err(FindError::Down)));
    }
}
