//! What the pallet keeps in its storage, beside the types of its runtime API.

// What the codec's derive writes out for an enum does this.
#![allow(clippy::cast_possible_truncation)]

use codec::{Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use frame_support::{
    BoundedVec, CloneNoBound, DebugNoBound, EqNoBound, PartialEqNoBound,
    traits::{Get, fungible::Inspect},
};
use scale_info::TypeInfo;

use crate::{Config, OverlayKey};

/// An amount of the currency that deposits are held in.
pub type BalanceOf<T> =
    <<T as Config>::Currency as Inspect<<T as frame_system::Config>::AccountId>>::Balance;

/// That an overlay key answers to an account.
#[derive(
    Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct Binding<AccountId, Balance, BlockNumber> {
    /// The account.
    pub account: AccountId,
    /// The binding's number: no other binding had it or ever will, not even of the same key.
    pub index: u32,
    /// What is held of the account's balance for it. Nothing for a binding of genesis.
    pub deposit: Balance,
    /// The first block in which it can be withdrawn; `None` while nobody asked to unbind it.
    pub leaves: Option<BlockNumber>,
}

/// Something about which a node's table of peers may be out of date.
#[derive(Clone, Debug, Decode, Encode, Eq, MaxEncodedLen, Ord, PartialEq, PartialOrd, TypeInfo)]
pub enum Touched<AccountId> {
    /// What an account earned: it concerns all keys that it answers for.
    Account(AccountId),
    /// Who answers for a key.
    Key(OverlayKey),
}

/// What was touched in the block that made a revision.
#[derive(
    CloneNoBound, DebugNoBound, Decode, Encode, EqNoBound, MaxEncodedLen, PartialEqNoBound, TypeInfo,
)]
#[scale_info(skip_type_params(Max))]
pub struct Logged<AccountId, Max>
where
    AccountId: Clone + core::fmt::Debug + Eq,
    Max: Get<u32>,
{
    /// The revision.
    pub revision: u64,
    /// Each thing once; `None` if it was too much to tell.
    pub touched: Option<BoundedVec<Touched<AccountId>, Max>>,
}

/// How far the search for accounts that have nothing left to tell has come.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo)]
pub struct Sweep<AccountId> {
    /// The day on which it began.
    pub day: u16,
    /// The last account looked at; `None` if all were.
    pub after: Option<AccountId>,
}
