//! What is measured for the weights.

use alloc::vec::Vec;

use codec::Encode;
use frame_benchmarking::v2::*;
use frame_support::{
    BoundedVec, WeakBoundedVec,
    traits::{Authorize, Get, ValidatorSet},
};
use frame_system::{RawOrigin, pallet_prelude::BlockNumberFor};
use pallet_audits_runtime_api::{Counts, Entry, report_payload};
use sp_core::sr25519;
use sp_runtime::{RuntimeAppPublic, traits::Zero, transaction_validity::TransactionSource};

use crate::{
    Bits, Call, Config, Current, InProgress, Moved, MovedAccounts, Pallet, Progress, Report,
    Reporters, Reports, Row, Tallies, Tally, Window, WindowLength,
    committee::{self, MAX_MEMBERS},
    reporter::sr25519::{AuthorityId, AuthoritySignature},
    subjects::{CHUNK, MAX_SUBJECTS, Subjects},
    window::Span,
};

/// Makes bindings for benchmarks.
pub trait BenchmarkHelper {
    /// Binds `count` keys, each to an account of its own, in a state that has none.
    fn bind(count: u32);
}

/// Makes as many reporters, and begins a window with as many subjects. The block is then the first
/// that takes reports.
fn running<T: Config>(
    reporters: u32,
    subjects: u32,
) -> Result<Window<T::MaxReporters>, BenchmarkError> {
    set_reporters::<T>(reporters);
    T::BenchmarkHelper::bind(subjects);
    let begins = 100;
    let ends = begins + WindowLength::<T>::get() - 1;
    let span = Span { session: T::Sessions::session_index(), window: 0, begins, ends };
    Pallet::<T>::begin_window(span);
    frame_system::Pallet::<T>::set_block_number(span.reports_from().into());
    Current::<T>::get().ok_or(BenchmarkError::Stop("no window began"))
}

/// The first can sign; keys of the others are only read. A pair takes milliseconds to make, which a
/// whole list of them in each run would turn into hours.
fn set_reporters<T: Config>(count: u32) {
    let mut keys: Vec<_> = (0..count).map(key).collect();
    if let Some(first) = keys.first_mut() {
        *first = AuthorityId::generate_pair(None);
    }
    Reporters::<T>::put(WeakBoundedVec::force_from(keys, None));
}

/// The key number `n`, which nobody has the secret of.
fn key(n: u32) -> AuthorityId {
    sr25519::Public::from_raw((b"reporter", n).using_encoded(sp_io::hashing::blake2_256)).into()
}

/// A good report of the first reporter on the first `entries` subjects, and its signature.
fn report_on<T: Config>(entries: u32) -> Result<(Report, AuthoritySignature), BenchmarkError> {
    // As many as may all report on everybody.
    let reporters = MAX_MEMBERS.min(T::MaxReporters::get());
    let window = running::<T>(reporters, MAX_SUBJECTS)?;
    let counts = Counts::new(3, 0).ok_or("no counts")?;
    let entries = (0..entries).map(|binding| Entry { binding, counts }).collect();
    let report = Report { session: window.span.session, window: 0, reporter: 0, entries };
    let genesis = frame_system::Pallet::<T>::block_hash(BlockNumberFor::<T>::zero());
    let payload =
        report_payload(genesis.as_fixed_bytes(), report.session, report.window, &report.entries);
    let mut keys = Reporters::<T>::get().into_inner();
    let signature = keys.first().and_then(|key| key.sign(&payload)).ok_or("no signature")?;
    // The list is read whole, so it is as long as it can be.
    let more = T::MaxReporters::get() - reporters;
    keys.extend((reporters..reporters + more).map(key));
    Reporters::<T>::put(WeakBoundedVec::force_from(keys, None));
    Ok((report, signature))
}

/// The first `count` bits.
fn bits(count: u32) -> Bits {
    let mut bits = Bits::default();
    (0..count).for_each(|place| bits.set(place));
    bits
}

#[benchmarks(where <T as frame_system::Config>::RuntimeCall: From<Call<T>>)]
mod benchmarks {
    use super::*;

    #[benchmark]
    fn authorize_report(e: Linear<1, MAX_SUBJECTS>) -> Result<(), BenchmarkError> {
        let (good, signature) = report_on::<T>(e)?;
        let call: <T as frame_system::Config>::RuntimeCall =
            Call::report { report: good, signature }.into();

        #[block]
        {
            call.authorize(TransactionSource::InBlock)
                .ok_or("the call does not authorise itself")?
                .map_err(|_| "the report is refused")?;
        }
        Ok(())
    }

    #[benchmark]
    fn report(e: Linear<1, MAX_SUBJECTS>) -> Result<(), BenchmarkError> {
        let (good, signature) = report_on::<T>(e)?;

        #[extrinsic_call]
        _(RawOrigin::Authorized, good, signature);

        assert!(InProgress::<T>::get().reported.has(0));
        Ok(())
    }

    #[benchmark]
    fn idle_block() -> Result<(), BenchmarkError> {
        running::<T>(T::MaxReporters::get(), MAX_SUBJECTS)?;

        #[block]
        {
            Pallet::<T>::begin_block();
        }
        assert!(Current::<T>::exists());
        Ok(())
    }

    #[benchmark]
    fn begin_window(
        r: Linear<1, { T::MaxReporters::get() }>,
        s: Linear<1, MAX_SUBJECTS>,
    ) -> Result<(), BenchmarkError> {
        set_reporters::<T>(r);
        T::BenchmarkHelper::bind(s);
        let span = Span { session: 0, window: 0, begins: 100, ends: 109 };

        #[block]
        {
            Pallet::<T>::begin_window(span);
        }
        let window = Current::<T>::get().ok_or("no window began")?;
        assert_eq!((window.draw.reporters(), window.bound.count()), (r, s));
        Ok(())
    }

    #[benchmark]
    fn close_window() -> Result<(), BenchmarkError> {
        let reporters = T::MaxReporters::get();
        let window = running::<T>(reporters, MAX_SUBJECTS)?;
        InProgress::<T>::put(Progress { reported: bits(reporters), ..Default::default() });
        frame_system::Pallet::<T>::set_block_number((window.span.ends + 1).into());

        #[block]
        {
            Pallet::<T>::close_window();
        }
        assert_eq!(Tallies::<T>::get().len(), 1);
        Ok(())
    }

    #[benchmark]
    fn tally_chunk(
        r: Linear<1, { T::MaxReporters::get() }>,
        s: Linear<1, CHUNK>,
    ) -> Result<(), BenchmarkError> {
        T::BenchmarkHelper::bind(s);
        // As in the last chunk of a window, when all but its accounts were moved.
        let mut moved = Moved::<T::AccountId>::new();
        for n in 0..MAX_SUBJECTS - CHUNK {
            moved.try_insert(account("moved", n, 0), 1).map_err(|_| "more than subjects")?;
        }
        MovedAccounts::<T>::put(moved);
        let counts = Counts::new(3, 0).ok_or("no counts")?;
        let members = committee::size(r);
        for (reporter, index) in (0..r).zip(0..=u16::MAX) {
            // Each place has a full committee.
            let row: Vec<Counts> = (0..s)
                .map(
                    |place| {
                        if (place + reporter) % r < members { counts } else { Counts::default() }
                    },
                )
                .collect();
            let row = Row::truncate_from(row);
            Reports::<T>::insert((0, 0), index, row);
        }
        let tally = Tally {
            number: 0,
            session: 0,
            window: 0,
            void: false,
            subjects: Subjects { first: 0, stride: 1, count: s },
            committee: members,
            reported: bits(r),
            next_chunk: 0,
            decided: 0,
            undecided: 0,
        };
        // Another waits, so that this one is written back too.
        let next = Tally { number: 1, ..tally.clone() };
        Tallies::<T>::put(BoundedVec::truncate_from(alloc::vec![tally, next]));

        #[block]
        {
            Pallet::<T>::tally_chunk();
        }
        assert_eq!(Tallies::<T>::get().len(), 1);
        assert_eq!(Reports::<T>::iter().count(), 0);
        Ok(())
    }

    impl_benchmark_test_suite!(Pallet, crate::mock::with_keystore(), crate::mock::Test);
}
