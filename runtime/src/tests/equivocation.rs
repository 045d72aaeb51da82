//! Two votes of one validator in one GRANDPA round: from what a node saw to what it costs.

use codec::Encode;
use finality_grandpa::{Message, Precommit, Prevote};
use pallet_grandpa::Error::InvalidEquivocationProof;
use pallet_reputation::{NEUTRAL_SCORE, Scores};
use pallet_reputation_runtime_api::runtime_decl_for_reputation_api::ReputationApiV2 as _;
use sp_consensus_grandpa::{
    Equivocation, EquivocationProof, OpaqueKeyOwnershipProof, localized_payload,
    runtime_decl_for_grandpa_api::GrandpaApiV3 as _,
};
use sp_core::{Pair as _, ed25519::Pair};
use sp_genesis_builder::LOCAL_TESTNET_RUNTIME_PRESET;
use sp_keyring::{Ed25519Keyring, Sr25519Keyring};
use sp_runtime::{
    DispatchError,
    transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};
use sp_session::{MembershipProof, runtime_decl_for_session_keys::SessionKeysV2 as _};

use super::{account, chain::Chain, check_state};
use crate::{BlockNumber, Hash, Runtime, SessionKeys, UncheckedExtrinsic};

use Sr25519Keyring::{Alice, Bob};

type Proof = EquivocationProof<Hash, BlockNumber>;

/// What `key` signed in a round of a set: a vote for each of two blocks. `round` is that of the
/// proof; `signed_round` that of the signatures.
struct Votes {
    key: Pair,
    set: u64,
    round: u64,
    signed_round: u64,
    targets: [u8; 2],
}

impl Votes {
    /// Votes of `key` for different blocks in `round` of the first set.
    fn of(key: Ed25519Keyring, round: u64) -> Self {
        Self { key: key.pair(), set: 0, round, signed_round: round, targets: [1, 2] }
    }

    fn sign(
        &self,
        message: &Message<Hash, BlockNumber>,
    ) -> sp_consensus_grandpa::AuthoritySignature {
        self.key.sign(&localized_payload(self.signed_round, self.set, message)).into()
    }

    fn prevotes(&self) -> Proof {
        let [first, second] = self.targets.map(|target| {
            let vote = Prevote::new(Hash::repeat_byte(target), target.into());
            let signature = self.sign(&Message::Prevote(vote.clone()));
            (vote, signature)
        });
        let identity = self.key.public().into();
        let round_number = self.round;
        let votes = finality_grandpa::Equivocation { round_number, identity, first, second };
        EquivocationProof::new(self.set, Equivocation::Prevote(votes))
    }

    fn precommits(&self) -> Proof {
        let [first, second] = self.targets.map(|target| {
            let vote = Precommit::new(Hash::repeat_byte(target), target.into());
            let signature = self.sign(&Message::Precommit(vote.clone()));
            (vote, signature)
        });
        let identity = self.key.public().into();
        let round_number = self.round;
        let votes = finality_grandpa::Equivocation { round_number, identity, first, second };
        EquivocationProof::new(self.set, Equivocation::Precommit(votes))
    }
}

/// Whose key it is, as the newest state tells.
fn owner(chain: &mut Chain, proof: &Proof) -> OpaqueKeyOwnershipProof {
    let (set, key) = (proof.set_id(), proof.offender().clone());
    chain.run(|| Runtime::generate_key_ownership_proof(set, key)).unwrap()
}

/// The transaction that a node makes of `proof`.
fn report_with(
    chain: &mut Chain,
    proof: Proof,
    owner: OpaqueKeyOwnershipProof,
) -> UncheckedExtrinsic {
    let mut submitted = chain.submitted_by(|| {
        Runtime::submit_report_equivocation_unsigned_extrinsic(proof, owner).unwrap();
    });
    assert_eq!(submitted.len(), 1);
    submitted.remove(0)
}

fn report(chain: &mut Chain, proof: Proof) -> UncheckedExtrinsic {
    let owner = owner(chain, &proof);
    report_with(chain, proof, owner)
}

/// Reports `proof` and puts it into a block.
fn reported(
    chain: &mut Chain,
    proof: Proof,
) -> Result<Result<(), DispatchError>, TransactionValidityError> {
    let report = report(chain, proof);
    chain.block_with(vec![report]).remove(0)
}

fn validator_score(chain: &mut Chain, who: Sr25519Keyring) -> u16 {
    let scores = chain.run(|| Runtime::account_scores(account(who))).unwrap_or_default();
    let neutral = Scores::default();
    assert_eq!((scores.director, scores.seeder), (neutral.director, neutral.seeder));
    scores.validator
}

fn offences(chain: &mut Chain) -> usize {
    chain.run(|| pallet_offences::Reports::<Runtime>::iter_keys().count())
}

fn local_chain() -> Chain {
    let mut chain = Chain::preset(LOCAL_TESTNET_RUNTIME_PRESET);
    chain.block();
    chain
}

/// Has Alice set new session keys; the one for GRANDPA.
fn rotate_alice(chain: &mut Chain) -> Pair {
    chain.add_keystore();
    let generated = chain.run(|| {
        let seed = b"//Alice//rotated".to_vec();
        Runtime::generate_session_keys(account(Alice).encode(), Some(seed))
    });
    let keys: SessionKeys = codec::Decode::decode(&mut &generated.keys[..]).unwrap();
    let grandpa = Pair::from_string("//Alice//rotated", None).unwrap();
    assert_eq!(keys.grandpa, grandpa.public().into());
    let rotate = pallet_session::Call::set_keys { keys, proof: generated.proof };
    chain.submit(Alice, rotate).unwrap();
    grandpa
}

const STALE: TransactionValidityError =
    TransactionValidityError::Invalid(InvalidTransaction::Stale);
const BAD_PROOF: TransactionValidityError =
    TransactionValidityError::Invalid(InvalidTransaction::BadProof);

#[test]
fn two_votes_in_a_round_cost_their_validator_400_once() {
    let mut chain = local_chain();
    let proof = Votes::of(Ed25519Keyring::Alice, 3).prevotes();
    let first = report(&mut chain, proof.clone());

    let validity = chain.validate(TransactionSource::Local, first.clone()).unwrap();
    assert!(!validity.propagate, "each node that saw it reports it");
    assert_eq!(
        chain.validate(TransactionSource::External, first.clone()),
        Err(InvalidTransaction::Call.into()),
        "nobody else's report is taken"
    );
    assert_eq!(chain.block_with(vec![first.clone(), first.clone()]), [Ok(Ok(())), Err(STALE)]);
    assert_eq!(validator_score(&mut chain, Alice), NEUTRAL_SCORE - 400);
    assert_eq!(validator_score(&mut chain, Bob), NEUTRAL_SCORE);

    // The same round again, by the same report and by one made anew, of other votes too.
    assert_eq!(chain.validate(TransactionSource::Local, first.clone()), Err(STALE));
    assert_eq!(chain.block_with(vec![first]), [Err(STALE)]);
    let others = Votes { targets: [3, 4], ..Votes::of(Ed25519Keyring::Alice, 3) };
    assert_eq!(reported(&mut chain, proof), Err(STALE));
    assert_eq!(reported(&mut chain, others.precommits()), Err(STALE));
    assert_eq!(validator_score(&mut chain, Alice), NEUTRAL_SCORE - 400);
    assert_eq!(offences(&mut chain), 1);
    chain.run(check_state);
}

#[test]
fn two_who_equivocate_in_the_same_round_pay_once_each() {
    let mut chain = local_chain();
    for key in [Ed25519Keyring::Alice, Ed25519Keyring::Bob] {
        assert_eq!(reported(&mut chain, Votes::of(key, 3).precommits()), Ok(Ok(())));
    }
    assert_eq!(validator_score(&mut chain, Alice), NEUTRAL_SCORE - 400);
    assert_eq!(validator_score(&mut chain, Bob), NEUTRAL_SCORE - 400);
}

#[test]
fn proofs_are_kept_only_while_they_cost_something() {
    let mut chain = local_chain();
    assert_eq!(reported(&mut chain, Votes::of(Ed25519Keyring::Alice, 1).prevotes()), Ok(Ok(())));
    assert_eq!(reported(&mut chain, Votes::of(Ed25519Keyring::Alice, 2).prevotes()), Ok(Ok(())));
    assert_eq!(validator_score(&mut chain, Alice), 0);

    let third = Votes::of(Ed25519Keyring::Alice, 3).prevotes();
    assert_eq!(reported(&mut chain, third), Err(STALE));
    assert_eq!(offences(&mut chain), 2);
}

#[test]
fn what_proves_nothing_is_refused_by_name_and_changes_nothing() {
    let alice = Ed25519Keyring::Alice;
    let invalid: DispatchError = InvalidEquivocationProof::<Runtime>.into();
    let mut chain = local_chain();

    let same = Votes { targets: [1, 1], ..Votes::of(alice, 3) };
    assert_eq!(reported(&mut chain, same.prevotes()), Ok(Err(invalid)), "one vote, twice");
    let moved = Votes { signed_round: 4, ..Votes::of(alice, 3) };
    assert_eq!(reported(&mut chain, moved.prevotes()), Ok(Err(invalid)), "signed elsewhere");
    let other_set = Votes { set: 1, ..Votes::of(alice, 3) };
    assert_eq!(reported(&mut chain, other_set.prevotes()), Ok(Err(invalid)), "no such set");
    let stranger = Votes::of(Ed25519Keyring::Charlie, 3);
    assert_eq!(reported(&mut chain, stranger.prevotes()), Err(BAD_PROOF), "nobody's key");

    // Proofs of whose key it is that are none.
    let proof = Votes::of(alice, 3).prevotes();
    let of_bob = owner(&mut chain, &Votes::of(Ed25519Keyring::Bob, 3).prevotes());
    let few = MembershipProof { session: 0, trie_nodes: Vec::new(), validator_count: 1 };
    let few = OpaqueKeyOwnershipProof::new(few.encode());
    let transaction = report_with(&mut chain, proof.clone(), few);
    assert_eq!(chain.block_with(vec![transaction]), [Err(BAD_PROOF)], "there are two validators");
    let garbage = OpaqueKeyOwnershipProof::new(vec![0xff; 3]);
    let submitted = chain.submitted_by(|| {
        let proof = proof.clone();
        let answer = Runtime::submit_report_equivocation_unsigned_extrinsic(proof, garbage);
        assert_eq!(answer, None);
    });
    assert_eq!(submitted, []);

    // In a later set, what was signed for an earlier one, by a key that is in both.
    chain.blocks_to_session(2);
    assert_ne!(chain.run(Runtime::current_set_id), 0);
    let later_owner = reported(&mut chain, proof.clone());
    assert_eq!(later_owner, Ok(Err(invalid)), "the owner in another set");
    let transaction = report_with(&mut chain, proof, of_bob);
    assert_eq!(chain.block_with(vec![transaction]), [Err(BAD_PROOF)], "the owner of another key");

    assert_eq!(offences(&mut chain), 0);
    assert_eq!(validator_score(&mut chain, Alice), NEUTRAL_SCORE);
    assert_eq!(validator_score(&mut chain, Bob), NEUTRAL_SCORE);
    chain.run(check_state);
}

#[test]
fn an_old_key_is_laid_to_its_owner_for_the_time_it_was_used() {
    let mut chain = local_chain();
    rotate_alice(&mut chain);

    // By the old key, while the new one is set and waits: no hiding behind it.
    chain.blocks_to_session(1);
    let set = chain.run(Runtime::current_set_id);
    let of_round = |round| Votes { set, ..Votes::of(Ed25519Keyring::Alice, round) }.prevotes();
    let (soon, late) = (of_round(7), of_round(8));
    let owner_then = owner(&mut chain, &late);
    assert_eq!(reported(&mut chain, soon), Ok(Ok(())));
    assert_eq!(validator_score(&mut chain, Alice), NEUTRAL_SCORE - 400);

    // And when it is gone, by the proof that was made while it was there.
    chain.blocks_to_session(4);
    assert_eq!(reported(&mut chain, late.clone()), Err(BAD_PROOF), "not a validator's key by now");
    let late = report_with(&mut chain, late, owner_then);
    assert_eq!(chain.block_with(vec![late]), [Ok(Ok(()))]);
    assert_eq!(validator_score(&mut chain, Alice), 0);
}

#[test]
fn a_rotated_key_is_laid_to_its_owner() {
    let mut chain = local_chain();
    let grandpa = rotate_alice(&mut chain);
    chain.blocks_to_session(2);
    let set = chain.run(Runtime::current_set_id);
    let votes = Votes { key: grandpa, set, round: 7, signed_round: 7, targets: [1, 2] };
    assert_eq!(reported(&mut chain, votes.prevotes()), Ok(Ok(())));
    assert_eq!(validator_score(&mut chain, Alice), NEUTRAL_SCORE - 400);
}
