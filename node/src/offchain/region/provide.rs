//! Lists this node in the directory under its region, while that is true and of use: while its relay
//! serves, and an account answers for its key.

use std::time::Duration;

use nsn_p2p::{
    Overlay, OverlayKey,
    dht::{Class, Key, ProvideError},
    peers::Region,
};
use nsn_relay::{Phase, Relay};
use pallet_reputation_runtime_api::Scores;
use tokio::sync::watch;

use super::Own;
use crate::offchain::{Slot, chain_view::ChainView, relay::next_phase};

/// Pause before a busy directory is told again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Keeps the directory's entry of this relay true.
#[derive(Clone)]
pub(in crate::offchain) struct Provider {
    region: Region,
    own: OverlayKey,
    chain: ChainView,
    overlay: Slot<Overlay>,
    relay: Slot<Relay>,
    provided: watch::Sender<bool>,
}

/// Whether this relay is listed under its region, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    Listed,
    NotServing,
    Unbound,
    Graylisted,
}

/// What the finalised state and the shard service ask for.
fn listing(serving: bool, scores: Option<Scores>) -> Listing {
    match scores {
        None => Listing::Unbound,
        Some(scores) if scores.graylisted() => Listing::Graylisted,
        Some(_) if !serving => Listing::NotServing,
        Some(_) => Listing::Listed,
    }
}

impl Provider {
    /// For a relay in `region` whose overlay key is `own`.
    pub(in crate::offchain) fn new(
        region: Region,
        own: OverlayKey,
        chain: ChainView,
        overlay: Slot<Overlay>,
        relay: Slot<Relay>,
    ) -> Self {
        Self { region, own, chain, overlay, relay, provided: watch::Sender::new(false) }
    }

    /// What others may know of it.
    pub(in crate::offchain) fn own(&self) -> Own {
        Own { name: self.region.clone(), provided: self.provided.subscribe() }
    }

    /// Runs for as long as the services that it watches may come and go.
    pub(in crate::offchain) async fn run(&self) {
        let mut overlays = self.overlay.watch();
        let mut relays = self.relay.watch();
        let mut scores = self.chain.changes();
        let mut said = None;
        let mut told = None;
        loop {
            let overlay = {
                let seen = overlays.borrow_and_update();
                if seen.has_changed() {
                    // Another one, which knows nothing.
                    told = None;
                }
                seen.clone()
            };
            let mut phase = relays.borrow_and_update().as_ref().map(Relay::phase);
            let serving = phase
                .as_mut()
                .is_some_and(|phase| matches!(*phase.borrow_and_update(), Phase::Serving { .. }));
            scores.borrow_and_update();
            let listing = listing(serving, self.chain.scores(&self.own));
            if said != Some(listing) {
                self.say(listing);
                said = Some(listing);
            }
            let list = listing == Listing::Listed;
            match overlay {
                None => {
                    self.provided.send_replace(false);
                }
                Some(overlay) if told != Some(list) => match self.tell(&overlay, list).await {
                    Ok(()) => told = Some(list),
                    Err(ProvideError::Busy) => {
                        tokio::time::sleep(BUSY_PAUSE).await;
                        continue;
                    }
                    // The overlay is going: its slot changes next.
                    Err(ProvideError::Closed(_)) => {}
                    Err(error) => {
                        tracing::warn!(
                            target: "nsn::region",
                            "Not listed under region {}: {error}", self.region
                        );
                        told = Some(list);
                    }
                },
                Some(_) => {}
            }
            let changed = tokio::select! {
                changed = overlays.changed() => changed,
                changed = relays.changed() => changed,
                changed = scores.changed() => changed,
                () = next_phase(phase.as_mut()) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Takes this node out of the directory.
    pub(in crate::offchain) async fn withdraw(&self) {
        if let Some(overlay) = self.overlay.current()
            && let Err(error) = self.tell(&overlay, false).await
        {
            tracing::debug!(target: "nsn::region", "not taken out of the directory: {error}");
        }
    }

    async fn tell(&self, overlay: &Overlay, list: bool) -> Result<(), ProvideError> {
        let key = Key::region(&self.region);
        match list {
            true => overlay.dht.provide(key, Class::Kept).await.map(drop)?,
            // Not only when it was listed: an earlier run may have left an entry.
            false => overlay.dht.stop_providing(key).await.map(drop)?,
        }
        self.provided.send_replace(list);
        Ok(())
    }

    fn say(&self, listing: Listing) {
        let region = &self.region;
        match listing {
            Listing::Listed => {
                tracing::info!(target: "nsn::region", "Found as a relay of region {region}");
            }
            Listing::NotServing => {
                tracing::info!(target: "nsn::region", "Not serving yet, so not found by region");
            }
            Listing::Unbound => tracing::warn!(
                target: "nsn::region",
                "Not found as a relay of region {region}: no account answers for this node's key. \
                 `nsn-node peer bind-proof` makes what an account needs to bind it"
            ),
            Listing::Graylisted => tracing::warn!(
                target: "nsn::region",
                "Not found as a relay of region {region}: its reputation is too low"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_relay_that_serves_and_that_an_account_answers_for_is_listed() {
        let neutral = Scores::default();
        let low = Scores { seeder: 100, ..neutral };
        assert_eq!(listing(true, Some(neutral)), Listing::Listed);
        assert_eq!(listing(false, Some(neutral)), Listing::NotServing);
        assert_eq!(listing(true, Some(low)), Listing::Graylisted);
        assert_eq!(listing(true, None), Listing::Unbound);
    }
}
