//! Circuit breakers: who is not asked for a while.
//!
//! Decisions only. A source's breaker opens when it failed several times in a row, or delivered wrong
//! bytes once. It is half open when its time is over: the next success closes it, the next failure
//! opens it for twice as long. One that answers a health check then is closed too, but has not made up
//! for anything: it opens for twice as long if it fails again before it delivers. Sources with an open breaker are ejected, but never more than half of
//! those there are: when most of them fail, the fault is likely to be on this side.

use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

/// Settings of the breakers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row that open it. Default 3.
    pub failures: u32,
    /// For how long, the first time; each further time twice as long. For so long after a failure that
    /// does not open it, a source is asked after all others. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    /// And at most for this long. Default 5 min.
    #[serde(with = "humantime_serde")]
    pub open_max: Duration,
    /// Wrong bytes open it at once, and for this long at least. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub corrupt_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 3,
            open_for: Duration::from_secs(5),
            open_max: Duration::from_secs(300),
            corrupt_for: Duration::from_secs(600),
        }
    }
}

/// How an attempt at a source ended badly, as far as the next choice is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It delivered bytes that are not the blob.
    Corrupt,
    /// It could not be reached, stalled, or broke the protocol.
    Failed,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Closed,
    /// Not to be asked before then.
    Open(Instant),
    /// To be tried again, after all others.
    HalfOpen,
}

/// The breaker of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    /// Failures since the last success.
    failures: u32,
    /// When the last one was.
    failed_at: Option<Instant>,
    /// How often it opened since the last success.
    opened: u32,
    until: Option<Instant>,
    /// It opened for wrong bytes.
    corrupt: bool,
}

impl Breaker {
    pub(super) fn stand(&self, now: Instant) -> Stand {
        match self.until {
            None => Stand::Closed,
            Some(until) if now < until => Stand::Open(until),
            Some(_) => Stand::HalfOpen,
        }
    }

    /// Whether it failed just now, and has not succeeded since.
    pub(super) fn failing(&self, now: Instant, config: &BreakerConfig) -> bool {
        self.failed_at.is_some_and(|at| now < at + config.open_for)
    }

    /// The source answers, which says little about what it delivers.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.stand(now) == Stand::HalfOpen {
            self.until = None;
            self.failures = 0;
        }
    }

    /// The source did what it should. Does not make up for wrong bytes before their time is over.
    pub(super) fn succeeded(&mut self, now: Instant) {
        if !(self.corrupt && matches!(self.stand(now), Stand::Open(_))) {
            *self = Self::default();
        }
    }

    /// The source failed.
    pub(super) fn failed(&mut self, fault: Fault, now: Instant, config: &BreakerConfig) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        let stand = self.stand(now);
        let corrupt = fault == Fault::Corrupt;
        // What was under way when it opened fails too, which is nothing new.
        if matches!(stand, Stand::Open(_)) && (self.corrupt || !corrupt) {
            return;
        }
        if !corrupt && stand == Stand::Closed && self.failures < config.failures {
            return;
        }
        let doubled = config.open_for.saturating_mul(1 << self.opened.min(16));
        let mut open_for = doubled.min(config.open_max);
        if corrupt {
            open_for = open_for.max(config.corrupt_for);
        }
        self.opened = self.opened.saturating_add(1);
        self.corrupt = corrupt;
        self.until = Some(now + open_for);
    }
}

/// Which of the sources to leave out, given until when the breaker of each is open: at most half of
/// all, those that stay open longest.
pub(super) fn ejected(open_until: &[Option<Instant>]) -> Vec<bool> {
    let mut open: Vec<_> = (0..)
        .zip(open_until)
        .filter_map(|(at, until): (usize, _)| until.map(|until| (Reverse(until), at)))
        .collect();
    open.sort_unstable();
    open.truncate(open_until.len() / 2);
    (0..open_until.len()).map(|at| open.iter().any(|(_, out)| *out == at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_failures_in_a_row_and_for_twice_as_long_each_time() {
        let config = BreakerConfig::default();
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        breaker.failed(Fault::Failed, now, &config);
        breaker.failed(Fault::Failed, now, &config);
        assert_eq!(breaker.stand(now), Stand::Closed);
        breaker.succeeded(now);
        for _ in 0..3 {
            assert_eq!(breaker.stand(now), Stand::Closed);
            breaker.failed(Fault::Failed, now, &config);
        }
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            let until = now + seconds * SECOND;
            assert_eq!(breaker.stand(now), Stand::Open(until));
            // Failures of what was under way change nothing.
            breaker.failed(Fault::Failed, now, &config);
            assert_eq!(breaker.stand(until - SECOND), Stand::Open(until));
            now = until;
            assert_eq!(breaker.stand(now), Stand::HalfOpen);
            breaker.failed(Fault::Failed, now, &config);
        }
        breaker.succeeded(now);
        assert_eq!((breaker.stand(now), breaker.failing(now, &config)), (Stand::Closed, false));
    }

    #[test]
    fn an_answer_closes_it_when_it_is_half_open_and_its_next_time_is_twice_as_long() {
        let config = BreakerConfig::default();
        let mut breaker = Breaker::default();
        let now = Instant::now();
        let fail = |breaker: &mut Breaker, now| {
            for _ in 0..config.failures {
                breaker.failed(Fault::Failed, now, &config);
            }
        };
        fail(&mut breaker, now);
        breaker.answered(now);
        let until = now + config.open_for;
        assert_eq!(breaker.stand(now), Stand::Open(until));
        breaker.answered(until);
        assert_eq!(breaker.stand(until), Stand::Closed);
        fail(&mut breaker, until);
        assert_eq!(breaker.stand(until), Stand::Open(until + 2 * config.open_for));
    }

    #[test]
    fn one_failure_counts_for_a_while() {
        let config = BreakerConfig::default();
        let mut breaker = Breaker::default();
        let now = Instant::now();
        breaker.failed(Fault::Failed, now, &config);
        assert!(breaker.failing(now, &config));
        assert!(!breaker.failing(now + config.open_for, &config));
    }

    #[test]
    fn wrong_bytes_open_it_at_once_and_a_success_does_not_make_up_for_them() {
        let config = BreakerConfig::default();
        let mut breaker = Breaker::default();
        let now = Instant::now();
        breaker.failed(Fault::Corrupt, now, &config);
        breaker.succeeded(now);
        let until = now + config.corrupt_for;
        assert_eq!(breaker.stand(now), Stand::Open(until));
        assert_eq!(breaker.stand(until), Stand::HalfOpen);
        breaker.succeeded(until);
        assert_eq!(breaker.stand(until), Stand::Closed);
    }

    proptest! {
        #[test]
        fn never_more_than_half_are_ejected_and_only_open_ones_the_longest_first(
            open in prop::collection::vec(prop::option::of(0u64..50), 0..20),
        ) {
            let now = Instant::now();
            let until: Vec<_> = open.iter().map(|s| s.map(|s| now + Duration::from_secs(s))).collect();
            let out = ejected(&until);
            let count = out.iter().filter(|out| **out).count();
            let opened = open.iter().flatten().count();
            prop_assert_eq!(count, opened.min(open.len() / 2));
            let shortest = (0..open.len()).filter(|at| out[*at]).map(|at| open[at].unwrap()).min();
            for at in 0..open.len() {
                if let (false, Some(kept), Some(shortest)) = (out[at], open[at], shortest) {
                    prop_assert!(kept <= shortest);
                }
            }
        }

        #[test]
        fn it_is_never_open_for_longer_than_the_settings_say(
            events in prop::collection::vec((0u32..700, 0u8..3), 0..60),
        ) {
            let config = BreakerConfig::default();
            let mut breaker = Breaker::default();
            let mut now = Instant::now();
            for (seconds, event) in events {
                now += seconds * SECOND;
                match event {
                    0 => breaker.succeeded(now),
                    1 => breaker.failed(Fault::Failed, now, &config),
                    _ => breaker.failed(Fault::Corrupt, now, &config),
                }
                if let Stand::Open(until) = breaker.stand(now) {
                    prop_assert!(until - now <= config.open_max.max(config.corrupt_for));
                }
            }
        }
    }
}
