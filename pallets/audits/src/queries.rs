//! What the runtime API answers from the pallet's state.

use alloc::vec::Vec;

use pallet_audits_runtime_api::{Duty, Subject};
use pallet_reputation::Bindings;

use crate::{Config, Current, InProgress, Pallet, Reporters, reporter::sr25519::AuthorityId};

impl<T: Config> Pallet<T> {
    /// See `AuditsApi::duty`. A read for each subject of the reporter, and three more.
    pub fn duty(reporter: &AuthorityId) -> Option<Duty> {
        let window = Current::<T>::get()?;
        let place = Reporters::<T>::get().iter().position(|key| key == reporter)?;
        let place = u16::try_from(place).ok()?;
        let member = window.draw.member(place)?;
        let subjects: Vec<_> = window
            .bound
            .iter()
            .filter_map(|place| window.subjects.binding(place))
            .filter(|binding| member.of(*binding))
            // One that was withdrawn since has no key to ask for.
            .filter_map(|binding| Some(Subject { binding, key: T::Bindings::get(binding)?.0 }))
            .collect();
        let reported = InProgress::<T>::get().reported.has(place.into());
        Some(Duty { subjects, reported, ..window.span.duty(place) })
    }
}
