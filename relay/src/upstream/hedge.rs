//! When a second source is asked beside the first: the decision, without the clock.
//!
//! A source is *slow* when it takes longer than the best alternative takes in 95 of 100 cases: to its
//! first group, from one group to the next, or, at the rate at which it goes, to the last one. Asking
//! another then is a hedge: it may turn out to have been for nothing, so hedges are paid for from a
//! [`Budget`], a share of all fetches. A source from which nothing came for as long as any viewer
//! would wait is *silent*: another takes its place, which is no extra load, since a silent one
//! delivers nothing.

use super::measured::Forecast;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Settings of hedging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HedgeConfig {
    /// Hedges by fetches, in percent. Default 5.
    pub budget_percent: u32,
    /// Hedges that may come at once after a quiet time. Default 10.
    pub burst: u32,
    /// No source is slow before this. Default 20 ms.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// A source from which nothing came for this long is silent, unless the best alternative often
    /// takes longer itself. Default 400 ms.
    #[serde(with = "humantime_serde")]
    pub silent_after: Duration,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            budget_percent: 5,
            burst: 10,
            after: Duration::from_millis(20),
            silent_after: Duration::from_millis(400),
        }
    }
}

/// What hedges are paid from: each fetch earns a share of one.
pub(super) struct Budget {
    /// In hundredths of a hedge.
    saved: u32,
    earn: u32,
    most: u32,
}

impl Budget {
    /// Full to begin with.
    pub(super) fn new(config: &HedgeConfig) -> Self {
        let most = config.burst.saturating_mul(100);
        Self { saved: most, earn: config.budget_percent, most }
    }

    /// A fetch began.
    pub(super) fn earn(&mut self) {
        self.saved = self.saved.saturating_add(self.earn).min(self.most);
    }

    /// Whether a hedge can be paid for.
    pub(super) fn has(&self) -> bool {
        self.saved >= 100
    }

    /// Pays for a hedge, if there is enough.
    pub(super) fn take(&mut self) -> bool {
        let enough = self.has();
        if enough {
            self.saved -= 100;
        }
        enough
    }
}

/// How far an attempt at a source has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// When the source was asked.
    pub(super) asked: Instant,
    /// Whether there was a connection by then; otherwise dialling is part of it.
    pub(super) connected: bool,
    /// When its first and its last group came.
    pub(super) came: Option<(Instant, Instant)>,
    /// Groups that came.
    pub(super) groups: u32,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: now, connected: false, came: None, groups: 0 }
    }

    /// The connection is there, and the source is asked now.
    pub(super) fn connected(&mut self, now: Instant) {
        self.asked = now;
        self.connected = true;
    }

    /// A group came.
    pub(super) fn group(&mut self, now: Instant) {
        self.came = Some((self.came.map_or(now, |(first, _)| first), now));
        self.groups = self.groups.saturating_add(1);
    }

    /// This side did not read for so long.
    pub(super) fn held_up(&mut self, by: Duration) {
        self.asked += by;
        if let Some((first, last)) = &mut self.came {
            *first += by;
            *last += by;
        }
    }

    /// From asking to the first group, if one came.
    pub(super) fn first(&self) -> Option<Duration> {
        self.came.map(|(first, _)| first.saturating_duration_since(self.asked))
    }

    /// Time for each group after the first, if there were some.
    pub(super) fn pace(&self) -> Option<Duration> {
        let (first, last) = self.came?;
        let groups = self.groups.checked_sub(1).filter(|groups| *groups > 0)?;
        last.saturating_duration_since(first).checked_div(groups)
    }
}

/// When to ask another source, unless something comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// If a hedge can be paid for.
    pub(super) slow: Instant,
    /// In any case.
    pub(super) silent: Instant,
}

/// When another source, of which `other` is expected, should be asked beside one that has come so far
/// and has `left` groups to go.
pub(super) fn due(progress: &Progress, left: u32, other: &Forecast, config: &HedgeConfig) -> Due {
    let usual = other.first_p95();
    let wait = usual.max(config.after);
    let since = progress.came.map_or(progress.asked, |(_, last)| last);
    let silent = since + usual.max(config.silent_after);
    let slow = match progress.pace() {
        // At this rate the other would be done first, most likely.
        Some(pace) if pace.saturating_mul(left) > other.p95(left).max(config.after) => since,
        // A handshake is a round trip more, and some computing.
        None if !progress.connected => since + wait.saturating_mul(3),
        _ => since + wait,
    };
    Due { slow: slow.min(silent), silent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::measured::{Assumed, Measured};
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// A source that needs `first` milliseconds to begin and `group` for each group.
    fn other(first: u32, group: u32) -> Forecast {
        let assumed =
            Assumed { first: MS * 100, group: MS * 2, half_life: Duration::from_secs(300) };
        let now = Instant::now();
        let mut measured = Measured::default();
        measured.first(MS * first, now);
        measured.group(MS * group, now);
        measured.forecast(&assumed, now)
    }

    fn connected(now: Instant) -> Progress {
        let mut progress = Progress::new(now);
        progress.connected(now);
        progress
    }

    #[test]
    fn a_source_is_slow_when_the_best_alternative_would_have_begun() {
        let config = HedgeConfig::default();
        let now = Instant::now();
        let beside = |progress: &Progress, first| due(progress, 64, &other(first, 1), &config);
        let progress = connected(now);
        assert_eq!(beside(&progress, 50), Due { slow: now + 50 * MS, silent: now + 400 * MS });
        assert_eq!(beside(&progress, 5).slow, now + config.after);
        assert_eq!(beside(&progress, 900), Due { slow: now + 900 * MS, silent: now + 900 * MS });
        assert_eq!(beside(&Progress::new(now), 50).slow, now + 150 * MS, "it is being dialled");
    }

    #[test]
    fn a_source_that_trickles_is_slow_at_once_and_one_that_flows_when_it_pauses() {
        let config = HedgeConfig::default();
        let now = Instant::now();
        let mut progress = connected(now);
        progress.group(now + 40 * MS);
        progress.group(now + 60 * MS);
        // 20 ms for each of 60 groups, against 50 ms and 1 ms for each.
        let last = now + 60 * MS;
        assert_eq!(due(&progress, 60, &other(50, 1), &config).slow, last);
        // Of two groups the other would not be done sooner.
        assert_eq!(due(&progress, 2, &other(50, 1), &config).slow, last + 50 * MS);
        assert_eq!(due(&progress, 60, &other(50, 1), &config).silent, last + 400 * MS);
    }

    #[test]
    fn a_source_is_not_slow_for_what_held_this_side_up() {
        let config = HedgeConfig::default();
        let now = Instant::now();
        let mut progress = connected(now);
        progress.held_up(300 * MS);
        let due = due(&progress, 64, &other(50, 1), &config);
        assert_eq!(due, Due { slow: now + 350 * MS, silent: now + 700 * MS });
    }

    proptest! {
        #[test]
        fn hedges_stay_within_their_share_of_fetches_and_a_burst(
            fetches in prop::collection::vec(0u32..4, 0..500),
            budget_percent in 0u32..100,
            burst in 0u32..20,
        ) {
            let config = HedgeConfig { budget_percent, burst, ..HedgeConfig::default() };
            let mut budget = Budget::new(&config);
            let mut hedges = 0u32;
            for wanted in &fetches {
                budget.earn();
                hedges += (0..*wanted).map(|_| u32::from(budget.take())).sum::<u32>();
            }
            let most = burst * 100 + u32::try_from(fetches.len()).unwrap() * budget_percent;
            prop_assert!(hedges * 100 <= most);
        }

        #[test]
        fn no_source_is_slow_before_its_time_nor_later_than_silent(
            first in 0u32..2000,
            group in 0u32..50,
            came in prop::collection::vec(0u32..300, 0..10),
            left in 0u32..1024,
        ) {
            let config = HedgeConfig::default();
            let start = Instant::now();
            let mut progress = connected(start);
            let mut now = start;
            for ms in came {
                now += MS * ms;
                progress.group(now);
            }
            let due = due(&progress, left, &other(first, group), &config);
            prop_assert!(due.slow <= due.silent);
            prop_assert!(due.silent >= now + config.silent_after);
            prop_assert!(due.slow >= now);
            prop_assert!(progress.pace().is_some() || due.slow >= now + config.after);
        }
    }
}
