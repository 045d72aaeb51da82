//! What joins overlay and shard service beyond the directory: tells the overlay what this node
//! serves, where, and how busy it is, follows the region that the relay finds out, lists it there, names it
//! the other relays there, takes in announcements of new content and tells the relay of them, and
//! announces this node's own again.
//!
//! Both services may be rebuilt at any time (their supervisors), so everything here starts again
//! whenever a slot changes.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use nsn_p2p::{
    Overlay, OverlayKey,
    gossip::{self, Topic},
    peers::{LocalServices, Roles, StatusError},
};
use nsn_relay::{Account, Announced, BlobId, ContentId, Patron, Relay};
use tokio_util::sync::CancellationToken;

use super::{
    Slot,
    accounts::Accounts,
    announcements::Announcements,
    announcer::Announcer,
    chain_view::ChainView,
    region::{Finder, Own, Provider, find::Found},
    relay::next_change,
    supervisor::{BoxError, Policy, Running, supervise},
};

/// Pause before a busy overlay is told again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// How often the overlay is told how busy the shard service is.
const LOAD_EVERY: Duration = Duration::from_secs(10);

/// How often the other relays of the region are looked for, to which the shard service sends viewers
/// when it has too much to do.
const OTHERS_EVERY: Duration = Duration::from_secs(60);

/// Longest wait for the overlay at shutdown.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(1);

/// Joins the two services.
#[derive(Clone)]
pub(super) struct Wiring {
    pub(super) overlay: Slot<Overlay>,
    pub(super) relay: Slot<Relay>,
    pub(super) announcements: Announcements,
    pub(super) announcer: Announcer,
    /// How often one of the contents that this node keeps is announced again.
    pub(super) announce_every: Duration,
    pub(super) region: Own,
    /// Finds the relays of a region.
    pub(super) relays: Finder,
    /// Lists this node under its region, if it is a relay.
    pub(super) listed: Option<Provider>,
    pub(super) super_node: bool,
    pub(super) relay_role: bool,
    /// Who answers for those that announce.
    pub(super) chain: ChainView,
    pub(super) accounts: Accounts,
}

impl Wiring {
    /// Runs until `shutdown`, under a supervisor like the services that it joins.
    pub(super) async fn run(self, policy: Policy, shutdown: CancellationToken) {
        let wiring = self.clone();
        let start = move |token: CancellationToken| -> Result<((), Running), BoxError> {
            let wiring = self.clone();
            let joined = async move {
                Box::pin(wiring.join(token)).await;
                Ok(())
            };
            Ok(((), Box::pin(joined)))
        };
        supervise("wiring", policy, Slot::empty(), shutdown, start).await;
        wiring.withdraw().await;
    }

    async fn join(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            ((), (), (), (), (), ()) = async {
                tokio::join!(
                    self.tell_services(),
                    self.hear_announcements(),
                    self.announcer.repeat(&self.relay, self.announce_every),
                    self.follow_region(),
                    self.list(),
                    self.name_others(),
                )
            } => {}
        }
    }

    async fn follow_region(&self) {
        if self.relay_role && !self.region.is_set() {
            self.region.follow(&self.relay).await;
        }
    }

    async fn list(&self) {
        match &self.listed {
            Some(listed) => listed.run().await,
            None => std::future::pending().await,
        }
    }

    /// Tells the overlay, before it leaves, that this node serves nothing any more.
    async fn withdraw(&self) {
        if let Some(overlay) = self.overlay.current() {
            let told = async {
                if let Some(listed) = &self.listed {
                    listed.withdraw().await;
                }
                overlay.peers.set_services(LocalServices::default()).await
            };
            if !matches!(tokio::time::timeout(WITHDRAW_LIMIT, told).await, Ok(Ok(()))) {
                tracing::debug!(target: "nsn::services", "the overlay was gone already");
            }
        }
    }

    /// Keeps the overlay's service record true: roles, the shard service's address and its load while
    /// that service runs, nothing while it does not.
    async fn tell_services(&self) {
        let mut overlays = self.overlay.watch();
        let mut relays = self.relay.watch();
        let mut regions = self.region.watch();
        loop {
            let overlay = overlays.borrow_and_update().clone();
            let relay = relays.borrow_and_update().clone();
            regions.borrow_and_update();
            let mut phase = relay.as_ref().map(Relay::phase);
            if let Some(phase) = &mut phase {
                phase.mark_unchanged();
            }
            if let Some(overlay) = overlay {
                self.tell(&overlay, relay.as_ref()).await;
            }
            let changed = tokio::select! {
                changed = overlays.changed() => changed,
                changed = relays.changed() => changed,
                changed = regions.changed() => changed,
                () = next_change(phase.as_mut()) => Ok(()),
                // What has not changed costs nothing to tell: the record stays as it was signed.
                () = tokio::time::sleep(LOAD_EVERY) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, overlay: &Overlay, relay: Option<&Relay>) {
        let services = match relay {
            None => LocalServices::default(),
            Some(relay) => match relay.ready().await {
                Ok(listen) => LocalServices {
                    roles: Roles { super_node: self.super_node, relay: self.relay_role },
                    region: self.region.name(),
                    shard_listen: vec![listen],
                    load: relay.load(),
                    ..Default::default()
                },
                // It drains, or has stopped and its slot changes next.
                Err(_) => LocalServices::default(),
            },
        };
        while let Err(error) = overlay.peers.set_services(services.clone()).await {
            if matches!(error, StatusError::Closed(_)) {
                // Its slot changes next.
                return;
            }
            tracing::debug!(target: "nsn::services", "the overlay is busy: {error}");
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// Keeps the shard service told which other relays its region has.
    async fn name_others(&self) {
        if !self.relay_role {
            return;
        }
        let mut relays = self.relay.watch();
        let mut regions = self.region.watch();
        loop {
            let relay = relays.borrow_and_update().clone();
            let region = regions.borrow_and_update().clone();
            if let (Some(relay), Some(region)) = (relay, region) {
                match self.relays.find(&region).await {
                    Ok(found) => relay.set_others(&others(&found, relay.peer_id())),
                    Err(error) => {
                        tracing::debug!(target: "nsn::services", "no other relays: {error}");
                    }
                }
            }
            let changed = tokio::select! {
                changed = relays.changed() => changed,
                changed = regions.changed() => changed,
                () = tokio::time::sleep(OTHERS_EVERY) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn hear_announcements(&self) {
        let mut overlays = self.overlay.watch();
        loop {
            let overlay = overlays.borrow_and_update().clone();
            if let Some(Ok(mut video)) =
                overlay.map(|overlay| overlay.gossip.subscribe(Topic::Video))
            {
                while let Some(message) = video.recv().await {
                    if let Some(announcement) = self.announcements.take(&message) {
                        self.tell_relay(&announcement, &message.author_key);
                    }
                }
            }
            if overlays.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Wiring {
    /// Tells the relay of new content, which it may fetch then.
    fn tell_relay(&self, announcement: &gossip::Announcement, author: &OverlayKey) {
        if let Some(relay) = self.relay.current().filter(|_| self.relay_role) {
            relay.announced(Announced {
                content: ContentId(BlobId(announcement.content_id)),
                total_len: announcement.total_len,
                shards: announcement.shards,
                by: self.patron(author),
            });
        }
    }

    /// The account that answers for a key at the finalised block. The scores come from memory, so a key
    /// that nobody has bound costs no read of the database.
    fn patron(&self, key: &OverlayKey) -> Option<Patron> {
        let scores = self.chain.scores(key)?;
        let account = Account(self.accounts.of(key)?.into());
        let score = if scores.graylisted() { 0 } else { scores.seeder };
        Some(Patron { account, score })
    }
}

/// Where the relays other than `us` serve, one address each, in their order.
fn others(found: &[Found], us: PeerId) -> Vec<Multiaddr> {
    let others = found.iter().filter(|relay| relay.peer != us);
    others
        .filter_map(|relay| {
            let addr = relay.shard_addrs.first()?.clone();
            Some(addr.with(Protocol::P2p(relay.peer)))
        })
        .collect()
}
