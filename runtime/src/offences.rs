//! What becomes of a proven misbehaviour in consensus.
//!
//! A node that sees two different votes of one validator in the same GRANDPA round hands both to the
//! runtime, which puts them, with a proof of whose key that was, into an unsigned transaction of the
//! node's own. [`pallet_grandpa`] checks signatures, set and session, [`pallet_offences`] remembers
//! each offence so that it counts once, and here stands what it costs: the account's validator
//! score falls, and nothing else. Whoever reports gets nothing.

use alloc::{vec, vec::Vec};

use frame_support::weights::Weight;
use frame_system::offchain::{CreateBare, CreateTransactionBase};
use pallet_reputation::MIN_SCORE;
use pallet_session::historical::IdentificationTuple;
use sp_runtime::Perbill;
use sp_staking::offence::{Offence, OffenceDetails, OffenceError, OnOffenceHandler, ReportOffence};

use crate::{AccountId, Offences, Reputation, Runtime, RuntimeCall, UncheckedExtrinsic};

/// A validator's account, and what stands behind it.
type Offender = IdentificationTuple<Runtime>;

/// Takes offences whose proof was checked: `Offences` says whether one is new, and if it is,
/// `Reputation` hears of it.
///
/// `Offences` could tell by itself, through its `OnOffenceHandler`. It would then name those again
/// who were reported earlier for the same round, since it is made for slashes that grow with the
/// number of offenders; each would pay anew for everyone who comes after.
pub struct Penalty;

impl Penalty {
    /// Whether another offence could cost `offender` anything. It also bounds what `Offences` keeps:
    /// a validator could sign for any round, and so fill the state with proofs against itself.
    fn can_fall((account, ()): &Offender) -> bool {
        Reputation::account_scores(account).is_none_or(|scores| scores.validator > MIN_SCORE)
    }
}

impl<O: Offence<Offender>> ReportOffence<AccountId, Offender, O> for Penalty {
    fn report_offence(reporters: Vec<AccountId>, offence: O) -> Result<(), OffenceError> {
        let offenders = offence.offenders();
        if !offenders.iter().any(Self::can_fall) {
            return Err(OffenceError::DuplicateReport);
        }
        let session = offence.session_index();
        let fractions = vec![Perbill::one(); offenders.len()];
        let details: Vec<_> = offenders
            .into_iter()
            .map(|offender| OffenceDetails { offender, reporters: reporters.clone() })
            .collect();
        <Offences as ReportOffence<_, _, O>>::report_offence(reporters, offence)?;
        let _: Weight = Reputation::on_offence(&details, &fractions, session);
        Ok(())
    }

    fn is_known_offence(offenders: &[Offender], slot: &O::Slot) -> bool {
        !offenders.iter().any(Self::can_fall)
            || <Offences as ReportOffence<_, _, O>>::is_known_offence(offenders, slot)
    }
}

impl<LocalCall> CreateTransactionBase<LocalCall> for Runtime
where
    RuntimeCall: From<LocalCall>,
{
    type Extrinsic = UncheckedExtrinsic;
    type RuntimeCall = RuntimeCall;
}

impl<LocalCall> CreateBare<LocalCall> for Runtime
where
    RuntimeCall: From<LocalCall>,
{
    fn create_bare(call: RuntimeCall) -> UncheckedExtrinsic {
        UncheckedExtrinsic::new_bare(call)
    }
}
