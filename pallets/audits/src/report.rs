//! Reports: whether one is good, and where it goes.

use alloc::collections::BTreeMap;

use frame_support::{
    ensure,
    pallet_prelude::{
        InvalidTransaction, TransactionPriority, TransactionValidityWithRefund, ValidTransaction,
    },
    traits::Get,
    weights::Weight,
};
use frame_system::pallet_prelude::BlockNumberFor;
use pallet_audits_runtime_api::{Report, report_payload};
use sp_runtime::{RuntimeAppPublic, traits::Zero, transaction_validity::TransactionValidityError};

use crate::{
    Config, Current, Error, Event, InProgress, Pallet, Reporters, Reports,
    reporter::sr25519::AuthoritySignature,
    subjects::{CHUNK, MAX_CHUNKS},
    types::{Progress, Row, Window},
    weights::WeightInfo,
};

/// What the pool knows reports by.
const TAG: &str = "NsnReport";

/// Reports are few, bounded, and late after a few minutes, so they go before what can wait.
const PRIORITY: TransactionPriority = TransactionPriority::MAX;

impl<T> Error<T> {
    /// The number that a transaction refused for this reason carries, as
    /// `InvalidTransaction::Custom`. Numbers are part of what clients see and never change.
    pub fn code(&self) -> u8 {
        match self {
            Self::NoWindow => 1,
            Self::OtherSession => 2,
            Self::OtherWindow => 3,
            Self::NotReporting => 4,
            Self::UnknownReporter => 5,
            Self::AlreadyReported => 6,
            Self::NoEntries => 7,
            Self::TooManyEntries => 8,
            Self::Unsorted => 9,
            Self::UnknownSubject => 10,
            Self::NotMember => 11,
            Self::BadCounts => 12,
            Self::BadSignature => 13,
            Self::__Ignore(..) => 0,
        }
    }
}

impl<T> From<Error<T>> for TransactionValidityError {
    fn from(error: Error<T>) -> Self {
        InvalidTransaction::Custom(error.code()).into()
    }
}

impl<T: Config> Pallet<T> {
    /// What taking in a report of `entries` costs. A row is written for each chunk that the entries
    /// are of, eight at most: too few for a line through a thousand entries to rise by any, so what
    /// was measured has one of them.
    pub(crate) fn report_weight(entries: u32) -> Weight {
        let more = entries.min(MAX_CHUNKS).saturating_sub(1);
        T::WeightInfo::report(entries).saturating_add(T::DbWeight::get().writes(more.into()))
    }

    /// Whether the block being built, or the next one where the pool asks, takes `report`.
    pub(crate) fn authorize_report(
        report: &Report,
        signature: &AuthoritySignature,
    ) -> TransactionValidityWithRefund {
        let now = Self::now();
        let progress = InProgress::<T>::get();
        if progress.taken_in(now) >= T::MaxReportsPerBlock::get() {
            return Err(InvalidTransaction::ExhaustsResources.into());
        }
        let window = Current::<T>::get().ok_or(Error::<T>::NoWindow)?;
        Self::check(report, &window, &progress)?;
        // The signature is most of the price, so it comes last.
        Self::verify(report, signature)?;

        ValidTransaction::with_tag_prefix(TAG)
            .priority(PRIORITY)
            .and_provides((report.session, report.window, report.reporter))
            // Counted from the block before: the pool asks on top of that one.
            .longevity(window.span.ends.saturating_sub(now).saturating_add(1).into())
            .propagate(true)
            .build()
            .map(|valid| (valid, Weight::zero()))
    }

    /// All that can be wrong with a report but its signature, what costs least first.
    fn check(
        report: &Report,
        window: &Window<T::MaxReporters>,
        progress: &Progress,
    ) -> Result<(), Error<T>> {
        ensure!(report.session == window.span.session, Error::<T>::OtherSession);
        ensure!(report.window == window.span.window, Error::<T>::OtherWindow);
        ensure!(window.span.takes_reports(Self::now()), Error::<T>::NotReporting);
        let member = window.draw.member(report.reporter).ok_or(Error::<T>::UnknownReporter)?;
        ensure!(!progress.reported.has(report.reporter.into()), Error::<T>::AlreadyReported);
        ensure!(!report.entries.is_empty(), Error::<T>::NoEntries);
        ensure!(report.entries.len() <= window.subjects.count as usize, Error::<T>::TooManyEntries);
        ensure!(
            report.entries.is_sorted_by(|one, next| one.binding < next.binding),
            Error::<T>::Unsorted
        );
        for entry in &report.entries {
            let place = window.subjects.place(entry.binding).ok_or(Error::<T>::UnknownSubject)?;
            ensure!(window.bound.has(place), Error::<T>::UnknownSubject);
            ensure!(member.of(entry.binding), Error::<T>::NotMember);
            ensure!(entry.counts.is_good(), Error::<T>::BadCounts);
        }
        Ok(())
    }

    fn verify(report: &Report, signature: &AuthoritySignature) -> Result<(), Error<T>> {
        let reporters = Reporters::<T>::get();
        let key = reporters.get(usize::from(report.reporter)).ok_or(Error::<T>::UnknownReporter)?;
        let genesis = frame_system::Pallet::<T>::block_hash(BlockNumberFor::<T>::zero());
        let payload = report_payload(
            genesis.as_fixed_bytes(),
            report.session,
            report.window,
            &report.entries,
        );
        ensure!(key.verify(&payload, signature), Error::<T>::BadSignature);
        Ok(())
    }

    /// Keeps a report that [`Self::authorize_report`] found good in this block.
    pub(crate) fn take(report: Report) -> Result<(), Error<T>> {
        let window = Current::<T>::get().ok_or(Error::<T>::NoWindow)?;
        let mut rows = BTreeMap::<u32, Row>::new();
        for entry in &report.entries {
            let place = window.subjects.place(entry.binding).ok_or(Error::<T>::UnknownSubject)?;
            let (chunk, column) = (place / CHUNK, (place % CHUNK) as usize);
            let row = rows.entry(chunk).or_default();
            if column >= row.len() {
                // Within the bound: a column is below `CHUNK`.
                row.bounded_resize(column.saturating_add(1), Default::default());
            }
            if let Some(counts) = row.get_mut(column) {
                *counts = entry.counts;
            }
        }
        for (chunk, row) in rows {
            Reports::<T>::insert((window.number, chunk), report.reporter, row);
        }
        InProgress::<T>::mutate(|progress| progress.take(report.reporter, Self::now()));
        Self::deposit_event(Event::ReportTaken {
            session: report.session,
            window: report.window,
            reporter: report.reporter,
            entries: u32::try_from(report.entries.len()).unwrap_or(u32::MAX),
        });
        Ok(())
    }
}
