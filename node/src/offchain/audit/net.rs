//! The auditor's way into the network: the directory, service records, and probes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nsn_p2p::{
    AddressPolicy, Overlay, OverlayKey,
    dht::Key,
    identity::{key_of, peer_id_of},
    peers::{ServiceError, ServiceRecord},
};
use nsn_relay::{
    BlobId, ContentId,
    client::probe::{self, Outcome, Peer, Prober},
};
use tokio::time::timeout;

use super::{
    Config,
    catalogue::{Catalogue, Known, SITE_ADDRS, Site, target},
    driver::{Net, Probed},
    plan::{Answer, Blob, Probe},
};
use crate::offchain::{Slot, directory::socket_addr};

/// Providers taken from one lookup.
const PROVIDERS: usize = 20;

/// Asks the overlay and the subjects. All clones share one UDP socket.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) config: Config,
    pub(super) overlay: Slot<Overlay>,
    pub(super) catalogue: Arc<Mutex<Catalogue>>,
    pub(super) policy: AddressPolicy,
    pub(super) prober: Prober,
}

impl Net for Network {
    async fn lookup(&self, blob: Blob) -> Option<Vec<OverlayKey>> {
        let overlay = self.overlay.current()?;
        let key = match blob {
            Blob::Content(id) => Key::content(&BlobId::from(id).0),
            Blob::Shard { id, .. } => Key::shard(&BlobId::from(id).0),
        };
        match overlay.dht.find_providers(key, PROVIDERS).await {
            Ok(found) => Some(found.iter().filter_map(key_of).collect()),
            Err(error) => {
                tracing::debug!(target: "nsn::audit", "no lookup: {error}");
                None
            }
        }
    }

    async fn probe(&self, probe: Probe) -> Probed {
        let unasked = |answer| Probed { answer, super_node: false, took: Duration::ZERO };
        let key = probe.subject.key;
        let Some(id) = peer_id_of(&key) else { return unasked(Answer::Nowhere) };
        let Some(Site { addrs, super_node, .. }) = self.site(key).await else {
            return unasked(Answer::Nowhere);
        };
        let peer = Peer { id, addrs };
        let known = match probe.claim.blob {
            Blob::Content(content) if probe.claim.announced => self.manifest(&peer, content).await,
            Blob::Content(_) | Blob::Shard { .. } => None,
        };
        // The low half of the dice for the blob, the high one for the group in it.
        let (choice, dice) = (probe.dice >> 32, probe.dice & u64::from(u32::MAX));
        let asked = target(&probe.claim, known.as_ref(), dice);
        let asked = probe::Target { blob: asked.id, len: asked.len, choice };
        let (answer, took) = match self.prober.probe(&peer, &asked, self.config.deadline).await {
            Outcome::Served { took, .. } => (Answer::Served, took),
            Outcome::NotFound => (Answer::NotFound, Duration::ZERO),
            Outcome::Missed(reason) => (Answer::Missed(reason), Duration::ZERO),
            Outcome::NotAsked(error) => {
                tracing::debug!(target: "nsn::audit", "not asked: {error}");
                (Answer::NotAsked, Duration::ZERO)
            }
        };
        Probed { answer, super_node, took }
    }
}

impl Network {
    /// Where a subject serves: by a record that still holds, or by a fresh one, or, of a super-node
    /// that cannot be asked, where it last said. (The overlay drops those whose reputation fell too
    /// low, so they cannot be asked.)
    async fn site(&self, key: OverlayKey) -> Option<Site> {
        let remembered = self.catalogue().site(&key);
        let now_ms = now_ms();
        if let Some(site) = remembered.as_ref().filter(|site| site.is_current(now_ms)) {
            return Some(site.clone());
        }
        let fresh = async {
            let overlay = self.overlay.current()?;
            let asked = overlay.peers.service_record(peer_id_of(&key)?);
            timeout(self.config.record_timeout, asked).await.ok()
        };
        match fresh.await {
            Some(Ok(record)) => {
                let site = self.site_of(&record);
                self.catalogue().note_site(key, Some(site.clone()));
                Some(site).filter(|site| site.is_usable(now_ms))
            }
            Some(Err(ServiceError::NotOffered)) => {
                self.catalogue().note_site(key, None);
                None
            }
            _ => remembered.filter(|site| site.is_usable(now_ms)),
        }
    }

    fn site_of(&self, record: &ServiceRecord) -> Site {
        let allowed = record.shard_addrs.iter().filter(|addr| self.policy.allows(addr));
        let addrs: Vec<SocketAddr> = allowed.filter_map(socket_addr).take(SITE_ADDRS).collect();
        Site { addrs, super_node: record.roles.super_node, expires_ms: record.validity.expires_ms }
    }

    /// The manifest of a content that `peer` announced: a known one, or its own. Not having it counts
    /// nothing: what is then asked for, and counted, is a part of the manifest itself.
    async fn manifest(&self, peer: &Peer, content: ContentId) -> Option<Known> {
        if let Some(known) = self.catalogue().manifest(content) {
            return Some(known);
        }
        let (most, within) = (self.config.manifest_most(), self.config.deadline);
        match self.prober.manifest(peer, content, most, within).await {
            Ok(manifest) => {
                let len = u32::try_from(manifest.encode().len()).ok()?;
                let known = Known { manifest: Arc::new(manifest), len };
                self.catalogue().keep(content, known.clone());
                Some(known)
            }
            Err(error) => {
                tracing::debug!(target: "nsn::audit", %content, "no manifest: {error}");
                None
            }
        }
    }

    /// The catalogue is right after a panic too: each change is one call.
    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
