//! What was measured of one source: how soon it begins to deliver, and how fast it goes on.

use super::Config;
use std::time::{Duration, Instant};

/// Measurements that are remembered. So many give a 95th percentile that two slow ones move.
const KEPT: usize = 32;

/// Measurements of one kind, the newest [`KEPT`] of them, in microseconds: 140 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Samples {
    /// A quarter new with each: follows a change within a few, shrugs at a single slow one.
    mean: f64,
    ring: [u32; KEPT],
    count: usize,
}

impl Samples {
    fn add(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let new = f64::from(micros);
        self.mean = if self.count == 0 { new } else { self.mean * 0.75 + new * 0.25 };
        if let Some(place) = self.ring.get_mut(self.count % KEPT) {
            *place = micros;
        }
        self.count = self.count.saturating_add(1);
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// The value that 95 in 100 do not exceed.
    fn p95(&self) -> Option<f64> {
        let mut known: Vec<u32> = self.ring.iter().copied().take(self.count).collect();
        known.sort_unstable();
        let at = (known.len() * 95).div_ceil(100).checked_sub(1)?;
        known.get(at).map(|micros| f64::from(*micros))
    }
}

/// What a source that was never asked is taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Assumed {
    /// From asking to its first group.
    pub(super) first: Duration,
    /// For each further group.
    pub(super) group: Duration,
    /// A measurement counts half as much after this long.
    pub(super) half_life: Duration,
}

impl Assumed {
    /// What the settings say.
    pub(super) fn of(config: &Config) -> Self {
        let group = f64::from(crate::wire::GROUP_LEN) / f64::from(config.assumed_rate.max(1));
        Self {
            first: config.assumed_latency,
            group: Duration::try_from_secs_f64(group).unwrap_or(Duration::ZERO),
            half_life: config.measured_half_life,
        }
    }
}

/// What was measured of one source: 300 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    first: Samples,
    group: Samples,
    at: Option<Instant>,
}

/// What is to be expected of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forecast {
    first: f64,
    group: f64,
    first_p95: f64,
    group_p95: f64,
}

impl Measured {
    /// The first group came this long after it was asked for.
    pub(super) fn first(&mut self, took: Duration, now: Instant) {
        self.first.add(took);
        self.at = Some(now);
    }

    /// Groups after the first came with this much time for each.
    pub(super) fn group(&mut self, took: Duration, now: Instant) {
        self.group.add(took);
        self.at = Some(now);
    }

    /// Whether anything was measured.
    pub(super) fn is_known(&self) -> bool {
        self.at.is_some()
    }

    /// What was measured, and the less the older it is, what is assumed of strangers.
    pub(super) fn forecast(&self, assumed: &Assumed, now: Instant) -> Forecast {
        let age = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let half_life = assumed.half_life.as_secs_f64().max(1.0);
        let weight = (-age.as_secs_f64() / half_life).exp2();
        let mix = |measured: Option<f64>, assumed: f64| match measured {
            Some(measured) => measured * weight + assumed * (1.0 - weight),
            None => assumed,
        };
        let first = assumed.first.as_secs_f64() * 1e6;
        let group = assumed.group.as_secs_f64() * 1e6;
        // The slowest of strangers need twice what one assumes of them.
        Forecast {
            first: mix(self.first.mean(), first),
            group: mix(self.group.mean(), group),
            first_p95: mix(self.first.p95(), 2.0 * first),
            group_p95: mix(self.group.p95(), 2.0 * group),
        }
    }
}

impl Forecast {
    /// For so many groups, from asking to the last, in microseconds.
    pub(super) fn micros(&self, groups: u32) -> f64 {
        self.first + self.group * f64::from(groups)
    }

    /// What its first group takes in 95 of 100 cases.
    pub(super) fn first_p95(&self) -> Duration {
        micros(self.first_p95)
    }

    /// What so many groups take in 95 of 100 cases.
    pub(super) fn p95(&self, groups: u32) -> Duration {
        micros(self.first_p95 + self.group_p95 * f64::from(groups))
    }
}

fn micros(micros: f64) -> Duration {
    Duration::try_from_secs_f64(micros / 1e6).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const ASSUMED: Assumed = Assumed {
        first: Duration::from_millis(100),
        group: Duration::from_millis(2),
        half_life: Duration::from_secs(300),
    };

    #[test]
    fn a_stranger_is_taken_for_what_is_assumed() {
        let forecast = Measured::default().forecast(&ASSUMED, Instant::now());
        assert_eq!(forecast.micros(64), 228_000.0);
        assert_eq!((forecast.first_p95(), forecast.p95(10)), (200 * MS, 240 * MS));
    }

    #[test]
    fn what_was_measured_counts_less_as_it_ages() {
        let now = Instant::now();
        let mut measured = Measured::default();
        measured.first(20 * MS, now);
        measured.group(MS, now);
        assert_eq!(measured.forecast(&ASSUMED, now).micros(1), 21_000.0);
        let later = measured.forecast(&ASSUMED, now + ASSUMED.half_life);
        assert!((later.micros(0) - 60_000.0).abs() < 1.0);
        let late = measured.forecast(&ASSUMED, now + 100 * ASSUMED.half_life);
        assert!((late.micros(0) - 100_000.0).abs() < 1.0);
    }

    #[test]
    fn the_percentile_is_of_the_newest_and_one_slow_one_does_not_move_it() {
        let now = Instant::now();
        let mut measured = Measured::default();
        for _ in 0..KEPT {
            measured.first(500 * MS, now);
        }
        for _ in 0..KEPT - 1 {
            measured.first(10 * MS, now);
        }
        measured.first(900 * MS, now);
        assert_eq!(measured.forecast(&ASSUMED, now).first_p95(), 10 * MS);
    }

    proptest! {
        #[test]
        fn a_forecast_lies_between_what_was_measured(
            took in prop::collection::vec(0u64..10_000, 1..100),
        ) {
            let now = Instant::now();
            let mut measured = Measured::default();
            for ms in &took {
                measured.first(Duration::from_millis(*ms), now);
            }
            let forecast = measured.forecast(&ASSUMED, now);
            let least = Duration::from_millis(*took.iter().min().unwrap());
            let most = Duration::from_millis(*took.iter().max().unwrap());
            prop_assert!((least..=most).contains(&forecast.first_p95()));
            let mean = micros(forecast.micros(0));
            prop_assert!(mean + MS >= least && mean <= most + MS);
        }
    }
}
