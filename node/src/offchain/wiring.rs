//! What joins overlay and shard service beyond the directory: tells the overlay what this node
//! serves and where, and takes in announcements of new content.
//!
//! Both services may be rebuilt at any time (their supervisors), so everything here starts again
//! whenever a slot changes.

use nsn_p2p::{
    Overlay,
    gossip::Topic,
    peers::{LocalServices, Region, Roles},
};
use nsn_relay::Relay;
use tokio_util::sync::CancellationToken;

use super::{Slot, announcements::Announcements};

/// Joins the two services.
pub(super) struct Wiring {
    pub(super) overlay: Slot<Overlay>,
    pub(super) relay: Slot<Relay>,
    pub(super) announcements: Announcements,
    pub(super) region: Option<Region>,
    pub(super) super_node: bool,
    pub(super) relay_role: bool,
}

impl Wiring {
    /// Runs until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            ((), ()) = async { tokio::join!(self.tell_services(), self.hear_announcements()) } => {}
        }
    }

    /// Keeps the overlay's service record true: roles and the shard service's address while that
    /// service runs, nothing while it does not.
    async fn tell_services(&self) {
        let mut overlays = self.overlay.watch();
        let mut relays = self.relay.watch();
        let mut new_overlay = false;
        loop {
            new_overlay |= overlays.has_changed().unwrap_or(false);
            let overlay = overlays.borrow_and_update().clone();
            let relay = relays.borrow_and_update().clone();
            if let Some(overlay) = overlay {
                self.tell(&overlay, relay.as_ref()).await;
                if let Some(relay) = relay
                    && std::mem::take(&mut new_overlay)
                {
                    // It knows nothing of what this node holds.
                    relay.announce_again();
                }
            }
            let changed = tokio::select! {
                changed = overlays.changed() => changed,
                changed = relays.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, overlay: &Overlay, relay: Option<&Relay>) {
        let services = match relay {
            None => LocalServices::default(),
            Some(relay) => {
                // Fails when the service stops first; its slot then changes.
                let Ok(listen) = relay.ready().await else { return };
                LocalServices {
                    roles: Roles { super_node: self.super_node, relay: self.relay_role },
                    region: self.region.clone(),
                    shard_listen: vec![listen],
                    ..Default::default()
                }
            }
        };
        if let Err(error) = overlay.peers.set_services(services).await {
            tracing::warn!(
                target: "nsn::services",
                "the overlay was not told what this node serves: {error}"
            );
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
                    self.announcements.take(&message);
                }
            }
            if overlays.changed().await.is_err() {
                return;
            }
        }
    }
}
