//! What must hold of the state.

use frame_support::{ensure, traits::Get};
use sp_runtime::DispatchError;

use crate::{
    Bits, Config, Current, InProgress, MovedAccounts, Pallet, Reporters, Reports, SessionBegins,
    Tallies, WindowLength, WindowsBegun, tally, types::Window, window::MIN_LENGTH,
};

impl<T: Config> Pallet<T> {
    /// Checks the invariants of the whole state. Reads everything: for tests and for try-runtime.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_state() -> Result<(), DispatchError> {
        ensure!(WindowLength::<T>::get() >= MIN_LENGTH, "a window is too short");
        let progress = InProgress::<T>::get();
        match Current::<T>::get() {
            Some(window) => Self::check_window(&window, &progress.reported)?,
            None => ensure!(progress.reported.count() == 0, "reports and no window"),
        }
        Self::check_tallies()?;
        for ((number, chunk), reporter, row) in Reports::<T>::iter() {
            ensure!(row.iter().any(|counts| !counts.is_empty()), "a row that says nothing");
            ensure!(Self::is_awaited(number, chunk, reporter), "a row that nobody waits for");
        }
        Ok(())
    }

    fn check_window(
        window: &Window<T::MaxReporters>,
        reported: &Bits,
    ) -> Result<(), DispatchError> {
        let reporters = window.draw.reporters();
        let keys = Reporters::<T>::decode_len().unwrap_or(0);
        ensure!(
            reporters as usize == keys.min(T::MaxReporters::get() as usize),
            "a window for other reporters than those of the session"
        );
        let mut ring = window.draw.ring.to_vec();
        ring.sort_unstable();
        ensure!(ring.into_iter().eq((0..=u16::MAX).take(reporters as usize)), "no permutation");
        let span = window.span;
        ensure!(
            SessionBegins::<T>::get().is_some_and(|begins| begins <= span.begins),
            "a window before its session"
        );
        let length = span.ends.saturating_sub(span.begins).saturating_add(1);
        ensure!(length == WindowLength::<T>::get(), "a window of another length");
        ensure!(window.number < WindowsBegun::<T>::get(), "a window that did not begin");
        ensure!(
            window.bound.iter().all(|place| place < window.subjects.count),
            "a subject beyond the last place"
        );
        ensure!(reported.iter().all(|reporter| reporter < reporters), "a report by nobody");
        Ok(())
    }

    fn check_tallies() -> Result<(), DispatchError> {
        let tallies = Tallies::<T>::get();
        ensure!(tallies.iter().all(|tally| !tally.is_done()), "a tally that is over");
        ensure!(tallies.iter().skip(1).all(|tally| tally.next_chunk == 0), "two tallies begun");
        ensure!(
            tallies.is_sorted_by(|one, next| one.number < next.number),
            "tallies that are not in order"
        );
        let moved = MovedAccounts::<T>::get();
        ensure!(moved.is_empty() || !tallies.is_empty(), "accounts were moved by no tally");
        ensure!(
            moved.values().all(|step| (tally::WORST..=tally::BEST).contains(step)),
            "an account was moved too far"
        );
        Ok(())
    }

    /// Whether a row of `reporter` may be there, to be tallied or removed.
    fn is_awaited(number: u32, chunk: u32, reporter: u16) -> bool {
        let reporter = u32::from(reporter);
        let running = Current::<T>::get().is_some_and(|window| {
            window.number == number
                && chunk < window.subjects.chunks()
                && InProgress::<T>::get().reported.has(reporter)
        });
        running
            || Tallies::<T>::get().iter().any(|tally| {
                tally.number == number
                    && (tally.next_chunk..tally.subjects.chunks()).contains(&chunk)
                    && tally.reported.has(reporter)
            })
    }
}
