//! What a proved misbehaviour costs.

use frame_support::weights::Weight;
use sp_runtime::Perbill;
use sp_staking::{
    SessionIndex,
    offence::{OffenceDetails, OnOffenceHandler},
};

use crate::{Config, Ledger, Outcome, Pallet, WeightInfo};

/// Charges each offender [`Outcome::Equivocated`].
///
/// To be told of each offence once. `pallet_offences` tells more: with each new offender of a GRANDPA
/// round it names again those that were reported for the same round before, and not of which round,
/// so that nobody could tell here who was charged already. A runtime asks it what is new and tells
/// this handler of that only.
///
/// The fraction by which an offence slashes a stake plays no part. It grows with the share of
/// validators that misbehave together, as a measure of the harm to the chain; reputation is a
/// measure of the one that did it, and nobody signs two votes by a third.
impl<T, Identity> OnOffenceHandler<T::AccountId, (T::AccountId, Identity), Weight> for Pallet<T>
where
    T: Config,
{
    fn on_offence(
        offenders: &[OffenceDetails<T::AccountId, (T::AccountId, Identity)>],
        _slash_fraction: &[Perbill],
        _session: SessionIndex,
    ) -> Weight {
        let (component, delta) = Outcome::Equivocated.effect();
        let mut weight = Weight::zero();
        for OffenceDetails { offender: (account, _), .. } in offenders {
            Self::add(account, component, delta);
            weight = weight.saturating_add(T::WeightInfo::add());
        }
        weight
    }
}
