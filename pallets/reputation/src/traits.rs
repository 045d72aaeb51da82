//! What other pallets may ask of this one and tell it.

use crate::{Component, OverlayKey};

/// Who answers for which overlay key, by the number of the binding.
pub trait Bindings<AccountId> {
    /// One past the greatest number ever given. Numbers are given in order, from 0.
    fn end() -> u32;

    /// The key that binding `index` binds, and the account it binds it to; `None` if there is no
    /// such binding (any more). One read. A binding that is being undone counts until it is
    /// withdrawn.
    fn get(index: u32) -> Option<(OverlayKey, AccountId)>;
}

/// Where scores are written.
pub trait Ledger<AccountId> {
    /// Adds `delta` to `component` of `account`, within `0..=1000`. Nothing happens for a `delta`
    /// of 0. The caller answers for the sense of it: see
    /// [`Outcome`](crate::Outcome) for what things are worth.
    ///
    /// Not to be called in an `on_finalize`: nodes would hear of it a block late.
    fn add(account: &AccountId, component: Component, delta: i16);
}
