//! What a node asks the runtime about reputation, and the types of the answers.
//!
//! An account carries [`Scores`]; overlay keys are *bound* to an account, which answers for them. A
//! node meets keys, not accounts, so the questions are by [`OverlayKey`]: [`ReputationApi::peers`]
//! pages through all of them and [`ReputationApi::revision`] tells whether anything changed since.
//!
//! [`bind_payload`] is what an overlay key signs to prove that it agrees to a binding. The runtime
//! verifies it and the node's tools make it, so it lives here, between the two.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

use alloc::vec::Vec;
use codec::{Codec, Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use scale_info::TypeInfo;
use serde::{Deserialize, Serialize};

/// The ed25519 public key of an overlay node; its overlay `PeerId` is derived from it.
pub type OverlayKey = [u8; 32];

/// The least value of a component.
pub const MIN_SCORE: u16 = 0;
/// The value a component starts at: nothing good or bad is known.
pub const NEUTRAL_SCORE: u16 = 500;
/// The greatest value of a component.
pub const MAX_SCORE: u16 = 1_000;
/// A component below this value graylists its account.
pub const GRAYLIST_BELOW: u16 = 200;
/// The most peers that one call of [`ReputationApi::peers`] answers with, whatever was asked for
/// (38 bytes each, so a page is at most about 38 KB).
pub const MAX_PAGE: u32 = 1_000;

/// Weights of the components in [`Scores::total`], in percent: director, validator, seeder.
const WEIGHTS: [u32; 3] = [50, 30, 20];

/// First field of what is signed for a binding: no signature made for anything else fits here.
const BIND_CONTEXT: [u8; 10] = *b"nsn/bind/1";

/// The three components of an account's reputation, each [`MIN_SCORE`]`..=`[`MAX_SCORE`].
#[derive(
    Clone,
    Copy,
    Debug,
    Decode,
    DecodeWithMemTracking,
    Deserialize,
    Encode,
    Eq,
    MaxEncodedLen,
    PartialEq,
    Serialize,
    TypeInfo,
)]
pub struct Scores {
    /// For directing: composing what is produced.
    pub director: u16,
    /// For validating: blocks and audits.
    pub validator: u16,
    /// For seeding: keeping shards and serving them.
    pub seeder: u16,
}

impl Default for Scores {
    /// All components [`NEUTRAL_SCORE`].
    fn default() -> Self {
        Self { director: NEUTRAL_SCORE, validator: NEUTRAL_SCORE, seeder: NEUTRAL_SCORE }
    }
}

impl Scores {
    /// The weighed mean of the components: 50 % director, 30 % validator, 20 % seeder, rounded
    /// down. At most [`MAX_SCORE`] when every component is.
    pub fn total(&self) -> u16 {
        let sum: u32 = [self.director, self.validator, self.seeder]
            .into_iter()
            .zip(WEIGHTS)
            .map(|(component, weight)| u32::from(component) * weight)
            .sum();
        // The weights add up to 100, so the mean of u16s is a u16.
        u16::try_from(sum / 100).unwrap_or(u16::MAX)
    }

    /// Whether any component is below [`GRAYLIST_BELOW`].
    pub fn graylisted(&self) -> bool {
        [self.director, self.validator, self.seeder].iter().any(|score| *score < GRAYLIST_BELOW)
    }

    /// Whether every component is at most [`MAX_SCORE`].
    pub fn in_range(&self) -> bool {
        [self.director, self.validator, self.seeder].iter().all(|score| *score <= MAX_SCORE)
    }

    /// Adds `delta` to `component`, which stays within [`MIN_SCORE`]`..=`[`MAX_SCORE`].
    pub fn apply(&mut self, component: Component, delta: i16) {
        let score = match component {
            Component::Director => &mut self.director,
            Component::Validator => &mut self.validator,
            Component::Seeder => &mut self.seeder,
        };
        *score = score.saturating_add_signed(delta).clamp(MIN_SCORE, MAX_SCORE);
    }
}

/// Names one component of [`Scores`].
#[derive(
    Clone,
    Copy,
    Debug,
    Decode,
    DecodeWithMemTracking,
    Encode,
    Eq,
    MaxEncodedLen,
    PartialEq,
    TypeInfo,
)]
pub enum Component {
    /// [`Scores::director`].
    Director,
    /// [`Scores::validator`].
    Validator,
    /// [`Scores::seeder`].
    Seeder,
}

/// A bound overlay key, with the scores of the account that answers for it.
#[derive(
    Clone,
    Copy,
    Debug,
    Decode,
    DecodeWithMemTracking,
    Encode,
    Eq,
    MaxEncodedLen,
    PartialEq,
    TypeInfo,
)]
pub struct PeerScore {
    /// The overlay key.
    pub key: OverlayKey,
    /// The scores of its account; neutral ones if nothing was ever recorded for it.
    pub scores: Scores,
}

/// What the overlay key `key` signs, as plain ed25519, to be bound to `account`: the SCALE encoding
/// of `("nsn/bind/1", genesis, account, key, nonce)`.
///
/// - `genesis` is the hash of the chain's genesis block, so that a proof holds on one chain only.
/// - `account` is an account id (its encoding goes in as it is; do not pass a slice of bytes, which
///   would be encoded with its length).
/// - `nonce` is the number of bindings the account ever made ([`ReputationApi::bind_nonce`]), so
///   that a proof can be used once.
pub fn bind_payload(
    genesis: &[u8; 32],
    account: &impl Encode,
    key: &OverlayKey,
    nonce: u32,
) -> Vec<u8> {
    (BIND_CONTEXT, genesis, account, key, nonce).encode()
}

sp_api::decl_runtime_apis! {
    /// Reputation, as the state of one block has it.
    pub trait ReputationApi<AccountId>
    where
        AccountId: Codec,
    {
        /// A counter that grows by one with every call that changes what `peers` answers, and never
        /// otherwise: while it stands still on a fork, so do the scores.
        fn revision() -> u64;

        /// The scores of `account`, or `None` if nothing was ever recorded for it (it then counts
        /// as neutral).
        fn account_scores(account: AccountId) -> Option<Scores>;

        /// The scores of the account that `key` is bound to, or `None` if `key` is unbound.
        fn peer_score(key: OverlayKey) -> Option<PeerScore>;

        /// A page of the bound keys: those after `after` (`None` for the first page), in the
        /// storage map's own fixed order, at most `limit` and at most [`MAX_PAGE`] of them. An
        /// empty page is the end.
        fn peers(after: Option<OverlayKey>, limit: u32) -> Vec<PeerScore>;

        /// The keys that are bound to the validators of the running session. Not covered by
        /// `revision`: sessions change without it.
        fn validator_keys() -> Vec<OverlayKey>;

        /// The nonce that the next binding of `account` must sign: see [`bind_payload`].
        fn bind_nonce(account: AccountId) -> u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn scores(director: u16, validator: u16, seeder: u16) -> Scores {
        Scores { director, validator, seeder }
    }

    #[test]
    fn total_weighs_components_50_30_20() {
        assert_eq!(Scores::default().total(), 500);
        assert_eq!(scores(1_000, 0, 0).total(), 500);
        assert_eq!(scores(0, 1_000, 0).total(), 300);
        assert_eq!(scores(0, 0, 1_000).total(), 200);
        assert_eq!(scores(1_000, 1_000, 1_000).total(), MAX_SCORE);
        assert_eq!(scores(1, 1, 0).total(), 0, "rounded down");
    }

    #[test]
    fn one_component_below_200_graylists() {
        assert!(!scores(200, 200, 200).graylisted());
        assert!(scores(199, 1_000, 1_000).graylisted());
        assert!(scores(1_000, 199, 1_000).graylisted());
        assert!(scores(1_000, 1_000, 199).graylisted());
    }

    #[test]
    fn a_delta_moves_one_component_and_saturates_at_the_ends() {
        let mut s = Scores::default();
        s.apply(Component::Director, 100);
        assert_eq!(s, scores(600, 500, 500));
        s.apply(Component::Validator, i16::MAX);
        assert_eq!(s, scores(600, MAX_SCORE, 500));
        s.apply(Component::Seeder, i16::MIN);
        assert_eq!(s, scores(600, MAX_SCORE, MIN_SCORE));
        assert!(s.in_range());
    }

    #[test]
    fn a_page_of_peers_is_as_large_as_documented() {
        assert_eq!(PeerScore::max_encoded_len(), 38);
    }

    #[test]
    fn the_payload_is_the_fields_in_order_without_length_prefixes() {
        let account = [2u8; 32];
        let payload = bind_payload(&[1; 32], &account, &[3; 32], 0x0403_0201);
        let mut expected = b"nsn/bind/1".to_vec();
        expected.extend([1; 32]);
        expected.extend([2; 32]);
        expected.extend([3; 32]);
        expected.extend([1, 2, 3, 4]);
        assert_eq!(payload, expected);
    }
}
