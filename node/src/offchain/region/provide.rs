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

use super::Own;
use crate::offchain::{Slot, chain_view::ChainView, relay::next_change};

/// Pause before a busy directory is told again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Keeps the directory's entry of this relay true.
#[derive(Clone)]
pub(in crate::offchain) struct Provider {
    region: Own,
    own: OverlayKey,
    chain: ChainView,
    overlay: Slot<Overlay>,
    relay: Slot<Relay>,
}

/// Whether this relay is listed under its region, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    Listed,
    Nowhere,
    NotServing,
    Unbound,
    Graylisted,
}

/// What the region, the finalised state and the shard service ask for.
fn listing(somewhere: bool, serving: bool, scores: Option<Scores>) -> Listing {
    match scores {
        _ if !somewhere => Listing::Nowhere,
        None => Listing::Unbound,
        Some(scores) if scores.graylisted() => Listing::Graylisted,
        Some(_) if !serving => Listing::NotServing,
        Some(_) => Listing::Listed,
    }
}

impl Provider {
    /// For a relay in `region` whose overlay key is `own`.
    pub(in crate::offchain) fn new(
        region: Own,
        own: OverlayKey,
        chain: ChainView,
        overlay: Slot<Overlay>,
        relay: Slot<Relay>,
    ) -> Self {
        Self { region, own, chain, overlay, relay }
    }

    /// Runs for as long as the services that it watches may come and go.
    pub(in crate::offchain) async fn run(&self) {
        let mut overlays = self.overlay.watch();
        let mut relays = self.relay.watch();
        let mut regions = self.region.watch();
        let mut scores = self.chain.changes();
        let mut said = None;
        // The region that the overlay was told of, and whether to list this node there.
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
            let region = regions.borrow_and_update().clone();
            let listing = listing(region.is_some(), serving, self.chain.scores(&self.own));
            if said.as_ref() != Some(&(listing, region.clone())) {
                self.say(listing, region.as_ref());
                said = Some((listing, region.clone()));
            }
            let list = listing == Listing::Listed;
            let tell = region.map(|region| (region, list));
            match (overlay, &tell) {
                (None, _) => {
                    self.region.listed.send_replace(None);
                }
                (Some(overlay), Some((region, list))) if told != tell => {
                    match self.tell(&overlay, region, *list).await {
                        Ok(()) => told = tell,
                        Err(ProvideError::Busy) => {
                            tokio::time::sleep(BUSY_PAUSE).await;
                            continue;
                        }
                        // The overlay is going: its slot changes next.
                        Err(ProvideError::Closed(_)) => {}
                        Err(error) => {
                            tracing::warn!(
                                target: "nsn::region",
                                "Not listed under region {region}: {error}"
                            );
                            told = tell;
                        }
                    }
                }
                (Some(_), _) => {}
            }
            let changed = tokio::select! {
                changed = overlays.changed() => changed,
                changed = relays.changed() => changed,
                changed = regions.changed() => changed,
                changed = scores.changed() => changed,
                () = next_change(phase.as_mut()) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Takes this node out of the directory.
    pub(in crate::offchain) async fn withdraw(&self) {
        if let Some(overlay) = self.overlay.current()
            && let Some(region) = self.region.name()
            && let Err(error) = self.tell(&overlay, &region, false).await
        {
            tracing::debug!(target: "nsn::region", "not taken out of the directory: {error}");
        }
    }

    /// Lists this node under a region, or does not; under no other in any case.
    async fn tell(
        &self,
        overlay: &Overlay,
        region: &Region,
        list: bool,
    ) -> Result<(), ProvideError> {
        let left = self.region.listed.borrow().clone().filter(|listed| listed != region);
        if let Some(left) = left {
            overlay.dht.stop_providing(Key::region(&left)).await.map(drop)?;
        }
        let key = Key::region(region);
        match list {
            true => overlay.dht.provide(key, Class::Kept).await.map(drop)?,
            // Not only when it was listed: an earlier run may have left an entry.
            false => overlay.dht.stop_providing(key).await.map(drop)?,
        }
        self.region.listed.send_replace(list.then(|| region.clone()));
        Ok(())
    }

    fn say(&self, listing: Listing, region: Option<&Region>) {
        let region = region.map_or("none", Region::as_str);
        match listing {
            Listing::Nowhere => tracing::info!(
                target: "nsn::region",
                "In no region yet: no super-node that says where it is has been measured. --region \
                 names one"
            ),
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
    fn only_a_relay_in_a_region_that_serves_and_that_an_account_answers_for_is_listed() {
        let neutral = Scores::default();
        let low = Scores { seeder: 100, ..neutral };
        assert_eq!(listing(true, true, Some(neutral)), Listing::Listed);
        assert_eq!(listing(true, false, Some(neutral)), Listing::NotServing);
        assert_eq!(listing(true, true, Some(low)), Listing::Graylisted);
        assert_eq!(listing(true, true, None), Listing::Unbound);
        assert_eq!(listing(false, true, Some(neutral)), Listing::Nowhere);
    }
}
