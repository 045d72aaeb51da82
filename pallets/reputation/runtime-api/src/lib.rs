//! What a node asks the runtime about reputation, and the types of the answers.
//!
//! An account carries [`Scores`]; overlay keys are *bound* to an account, which answers for them. A
//! node meets keys, not accounts, so the questions are by [`OverlayKey`]: [`ReputationApi::peers`]
//! pages through all of them, [`ReputationApi::revision`] tells whether anything changed since, and
//! [`ReputationApi::changes_since`] what.
//!
//! The answers hold what was [`Earned`] and when, not what it is worth today: that changes by
//! itself, by [`Earned::on`] a day, and would change every answer every week.
//!
//! [`bind_payload`] is what an overlay key signs to prove that it agrees to a binding. The runtime
//! verifies it and the node's tools make it, so it lives here, between the two.
//!
//! | file | what |
//! |---|---|
//! | `lib.rs` | the questions, and what a binding signs |
//! | `scores.rs` | the three components, and what they amount to |
//! | `earned.rs` | scores over time: decay |
//! | `outcome.rs` | the table of what moves a score, and by how much |

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod earned;
mod outcome;
mod scores;

use alloc::vec::Vec;
use codec::{Codec, Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use scale_info::TypeInfo;

pub use earned::{DAYS_PER_WEEK, Earned, decayed};
pub use outcome::Outcome;
pub use scores::{Component, GRAYLIST_BELOW, MAX_SCORE, MIN_SCORE, NEUTRAL_SCORE, Scores};

/// The ed25519 public key of an overlay node; its overlay `PeerId` is derived from it.
pub type OverlayKey = [u8; 32];

/// The most peers that one call of [`ReputationApi::peers`] answers with, whatever was asked for
/// (44 bytes each, so a page is at most about 44 KB).
pub const MAX_PAGE: u32 = 1_000;
/// The most changes that one call of [`ReputationApi::changes_since`] answers with (45 bytes each, so
/// at most about 0.75 MB). It is more than one window of audits can change.
pub const MAX_CHANGES: u32 = 16_384;

/// First field of what is signed for a binding: no signature made for anything else fits here.
const BIND_CONTEXT: [u8; 10] = *b"nsn/bind/1";

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

/// A bound overlay key, with what the account that answers for it has earned.
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
pub struct PeerEarned {
    /// The overlay key.
    pub key: OverlayKey,
    /// What its account has earned; neutral if nothing was ever recorded for it.
    pub earned: Earned,
}

/// What became of an overlay key since an earlier revision.
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
pub struct PeerChange {
    /// The overlay key.
    pub key: OverlayKey,
    /// What its account has earned now; `None` if no account answers for the key any more.
    pub earned: Option<Earned>,
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
    ///
    /// Version 1 answered `peers` with scores that did not decay, and told of no changes.
    #[api_version(2)]
    pub trait ReputationApi<AccountId>
    where
        AccountId: Codec,
    {
        /// A counter that grows by one with every block that changes what `peers` answers: while it
        /// stands still on a fork, so does what was earned. (It also grows with a block that changed
        /// something and changed it back.)
        fn revision() -> u64;

        /// The day of this block, counted from the chain's first: what [`Earned::on`] is asked.
        fn day() -> u16;

        /// The scores of `account` as of this block, or `None` if nothing is recorded for it (it
        /// then counts as neutral).
        fn account_scores(account: AccountId) -> Option<Scores>;

        /// The scores of the account that `key` is bound to as of this block, or `None` if `key` is
        /// unbound.
        fn peer_score(key: OverlayKey) -> Option<PeerScore>;

        /// A page of the bound keys: those after `after` (`None` for the first page), in the
        /// storage map's own fixed order, at most `limit` and at most [`MAX_PAGE`] of them. An
        /// empty page is the end.
        fn peers(after: Option<OverlayKey>, limit: u32) -> Vec<PeerEarned>;

        /// What changed after `revision`, each key at most once, in no particular order. `None` if
        /// the chain no longer knows, never got there, or there is more than [`MAX_CHANGES`] to
        /// tell: then all `peers` are to be read.
        fn changes_since(revision: u64) -> Option<Vec<PeerChange>>;

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

    #[test]
    fn a_page_and_a_list_of_changes_are_as_large_as_documented() {
        assert_eq!(PeerEarned::max_encoded_len(), 44);
        assert_eq!(PeerChange::max_encoded_len(), 45);
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
