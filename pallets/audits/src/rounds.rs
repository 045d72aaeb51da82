//! The course of windows: one begins, ends, and is tallied chunk by chunk.
//!
//! At most two windows wait to be tallied, of which the first is worked on. A tally takes no more
//! blocks than a window has, so there is one, except where a session ended early: then none begins
//! until there is room again.

use alloc::vec::Vec;

use frame_support::{
    traits::{EstimateNextSessionRotation, Get, ValidatorSet},
    weights::Weight,
};
use frame_system::pallet_prelude::BlockNumberFor;
use pallet_reputation::{Bindings, Component, Ledger};
use sp_runtime::traits::UniqueSaturatedInto;

use crate::{
    Config, Current, Event, InProgress, MovedAccounts, Pallet, Reporters, Reports, SessionBegins,
    Tallies, WeightInfo, WindowLength, WindowsBegun,
    bits::Bits,
    committee::Draw,
    subjects::Subjects,
    tally,
    types::{Row, Tally, Window},
    window::Span,
};

impl<T: Config> Pallet<T> {
    /// The number of this block. Chains of more than 2^32 blocks are none of ours.
    pub(crate) fn now() -> u32 {
        frame_system::Pallet::<T>::block_number().unique_saturated_into()
    }

    /// What the beginning of a block does; its weight.
    pub(crate) fn begin_block() -> Weight {
        let now = Self::now();
        let mut weight = T::WeightInfo::idle_block();
        if Current::<T>::get().is_some_and(|window| window.span.is_over(now)) {
            Self::close_window();
            weight.saturating_accrue(T::WeightInfo::close_window());
        }
        weight.saturating_accrue(Self::tally_chunk());
        if let Some(span) = Self::window_to_begin(now) {
            weight.saturating_accrue(Self::begin_window(span));
        }
        weight
    }

    /// What the end of a block does with `remaining` weight; the weight used. One chunk more at
    /// most, so that a block's share of the tally stays small.
    pub(crate) fn use_idle(remaining: Weight) -> Weight {
        let look = T::DbWeight::get().reads(1);
        if !remaining.all_gte(look) {
            return Weight::zero();
        }
        let needed = Self::next_chunk_weight();
        if needed.is_some_and(|needed| remaining.all_gte(needed)) {
            Self::tally_chunk()
        } else {
            look
        }
    }

    /// The window that begins in this block, if one does.
    fn window_to_begin(now: u32) -> Option<Span> {
        let session_begins = SessionBegins::<T>::get()?;
        let block = frame_system::Pallet::<T>::block_number();
        let (next, _) = T::NextSessionRotation::estimate_next_session_rotation(block);
        let span = Span::beginning_at(
            now,
            WindowLength::<T>::get(),
            T::Sessions::session_index(),
            session_begins,
            next.map(BlockNumberFor::<T>::unique_saturated_into),
        )?;
        // Room for this window when it is over, in whatever block that will be.
        let room = Tallies::<T>::decode_len().unwrap_or(0) < 2;
        (room && Current::<T>::get().is_none()).then_some(span)
    }

    /// Begins the window `span`, if there is anybody to audit and anybody to do it.
    pub(crate) fn begin_window(span: Span) -> Weight {
        let number = WindowsBegun::<T>::get();
        let subjects = Subjects::of(T::Bindings::end(), number);
        let mut bound = Bits::default();
        for place in 0..subjects.count {
            let binding = subjects.binding(place);
            if binding.and_then(T::Bindings::get).is_some() {
                bound.set(place);
            }
        }
        let reporters = Reporters::<T>::decode_len().unwrap_or(0);
        let seed = frame_system::Pallet::<T>::parent_hash();
        let draw = Draw::new(seed, u32::try_from(reporters).unwrap_or(u32::MAX));

        let weight = T::WeightInfo::begin_window(draw.reporters(), subjects.count);
        WindowsBegun::<T>::put(number.wrapping_add(1));
        if bound.count() == 0 || draw.reporters() == 0 {
            return weight;
        }
        Self::deposit_event(Event::WindowBegun {
            session: span.session,
            window: span.window,
            subjects: bound.count(),
            reporters: draw.reporters(),
        });
        Current::<T>::put(Window { number, span, subjects, bound, draw });
        weight
    }

    /// Ends the running window, if there is one, and puts its reports in line to be tallied; or only
    /// to be removed, if it is not over yet.
    pub(crate) fn close_window() {
        let Some(window) = Current::<T>::take() else {
            return;
        };
        let progress = InProgress::<T>::take();
        let void = !window.span.is_over(Self::now());
        if void {
            let (session, window) = (window.span.session, window.span.window);
            Self::deposit_event(Event::WindowVoid { session, window });
        }
        if progress.reported.count() > 0 {
            let tally = Tally::new(&window, progress.reported, void);
            // There is room: none begins without.
            let queued = Tallies::<T>::try_append(tally);
            frame_support::defensive_assert!(queued.is_ok(), "three windows to tally");
        }
    }

    /// What the next chunk costs, if there is one.
    fn next_chunk_weight() -> Option<Weight> {
        Tallies::<T>::get().first().map(Self::chunk_weight)
    }

    fn chunk_weight(tally: &Tally) -> Weight {
        let places = tally.subjects.chunk(tally.next_chunk).len();
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        T::WeightInfo::tally_chunk(tally.reported.count(), places)
    }

    /// Works off one chunk of the first window in line; the weight of it.
    pub(crate) fn tally_chunk() -> Weight {
        let mut tallies = Tallies::<T>::get();
        let Some(tally) = tallies.iter_mut().next() else {
            return Weight::zero();
        };
        let weight = Self::chunk_weight(tally);
        let rows = Self::take_rows(tally);
        if !tally.void {
            Self::apply_rows(tally, &rows);
        }
        tally.next_chunk = tally.next_chunk.saturating_add(1);
        if tally.is_done() {
            MovedAccounts::<T>::kill();
            if !tally.void {
                Self::deposit_event(Event::Tallied {
                    session: tally.session,
                    window: tally.window,
                    reports: tally.reported.count(),
                    decided: tally.decided,
                    undecided: tally.undecided,
                });
            }
            tallies.remove(0);
        }
        if tallies.is_empty() {
            Tallies::<T>::kill();
        } else {
            Tallies::<T>::put(tallies);
        }
        weight
    }

    /// What was reported on the next chunk of `tally`; it is removed.
    fn take_rows(tally: &Tally) -> Vec<Row> {
        let chunk = (tally.number, tally.next_chunk);
        tally
            .reported
            .iter()
            .filter_map(|reporter| Reports::<T>::take(chunk, u16::try_from(reporter).ok()?))
            .collect()
    }

    /// Finds the outcome for each subject of the next chunk, and moves scores by it.
    fn apply_rows(tally: &mut Tally, rows: &[Row]) {
        let mut moved = MovedAccounts::<T>::get();
        for (column, place) in tally.subjects.chunk(tally.next_chunk).enumerate() {
            let steps: Vec<i16> = rows
                .iter()
                .filter_map(|row| row.get(column).copied().and_then(tally::step))
                .collect();
            if steps.is_empty() {
                continue;
            }
            let binding = tally.subjects.binding(place).and_then(T::Bindings::get);
            // A key that was withdrawn since has nobody to answer for it.
            let judged = tally::outcome(steps, tally.committee).zip(binding);
            let Some((step, (_, account))) = judged else {
                tally.undecided = tally.undecided.saturating_add(1);
                continue;
            };
            tally.decided = tally.decided.saturating_add(1);
            let (now, all) = tally::account(moved.get(&account).copied(), step);
            T::Ledger::add(&account, Component::Seeder, now);
            // There is room: no more accounts than subjects.
            let kept = moved.try_insert(account, all);
            frame_support::defensive_assert!(kept.is_ok(), "more accounts than subjects");
        }
        MovedAccounts::<T>::put(moved);
    }
}
