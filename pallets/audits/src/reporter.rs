//! The session key with which validators sign what they report, and how sessions hand it over.
//!
//! It is an sr25519 key of type `imon`, held in the session keys under the name `im_online`: that
//! name and type are among the few that existing network tools fill in for a new chain, and no
//! other pallet here uses them.

use alloc::vec::Vec;

use frame_support::{WeakBoundedVec, traits::OneSessionHandler};
use sp_runtime::BoundToRuntimeAppPublic;

use crate::{Config, Pallet, Reporters, SessionBegins};

/// The reporters' key on sr25519.
pub mod sr25519 {
    mod app {
        use sp_runtime::app_crypto::{app_crypto, key_types::IM_ONLINE, sr25519};
        app_crypto!(sr25519, IM_ONLINE);
    }

    /// The public key that identifies a reporter.
    pub type AuthorityId = app::Public;
    /// A signature of a reporter.
    pub type AuthoritySignature = app::Signature;
}

impl<T: Config> BoundToRuntimeAppPublic for Pallet<T> {
    type Public = sr25519::AuthorityId;
}

impl<T: Config> Pallet<T> {
    fn replace_reporters(keys: Vec<sr25519::AuthorityId>) {
        // Weakly bounded: a session whose validators outgrew the bound must still begin. The
        // session manager holds the same bound, so this only speaks up after a wrong upgrade; who
        // is beyond it is in no committee.
        Reporters::<T>::put(WeakBoundedVec::force_from(keys, Some("reporters of a session")));
    }
}

impl<T: Config> OneSessionHandler<T::AccountId> for Pallet<T> {
    type Key = sr25519::AuthorityId;

    fn on_genesis_session<'a, I>(validators: I)
    where
        I: Iterator<Item = (&'a T::AccountId, Self::Key)> + 'a,
        T::AccountId: 'a,
    {
        Self::replace_reporters(validators.map(|(_, key)| key).collect());
        // The first block that runs is number 1.
        SessionBegins::<T>::put(1);
    }

    // Called at every beginning of a session, in its first block, whether the keys are others or not.
    fn on_new_session<'a, I>(changed: bool, validators: I, _queued: I)
    where
        I: Iterator<Item = (&'a T::AccountId, Self::Key)> + 'a,
        T::AccountId: 'a,
    {
        // Its reporters are those of the session that ends.
        Self::close_window();
        SessionBegins::<T>::put(Self::now());
        if changed {
            Self::replace_reporters(validators.map(|(_, key)| key).collect());
        }
    }

    // A disabled validator neither authors nor votes, but what it saw of peers still counts.
    fn on_disabled(_validator_index: u32) {}
}
