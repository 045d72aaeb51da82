//! How long an answer is waited for, from how long answers took.

use std::time::Duration;

/// What is waited for the first answer, as RFC 6298 section 2.1 has it.
const AT_FIRST: Duration = Duration::from_secs(1);

/// How long peers take to answer, smoothed as TCP smooths round trips (RFC 6298, section 2): with
/// each answer that took `r`,
///
/// ```text
/// deviation = 3/4 deviation + 1/4 |mean - r|
/// mean      = 7/8 mean      + 1/8 r
/// patience  = mean + 4 deviation, within the bounds
/// ```
///
/// A question is sent once, so an answer that comes late is still a true measure and counts. One that
/// never comes does not: the peer has gone, which says nothing of how long others take.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    least: Duration,
    most: Duration,
    /// Mean and deviation, once there was an answer.
    smoothed: Option<(Duration, Duration)>,
}

impl Patience {
    /// Bounds of what [`Self::get`] gives.
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least: least.min(most), most, smoothed: None }
    }

    /// An answer took this long.
    pub(crate) fn observe(&mut self, took: Duration) {
        let took = took.min(self.most);
        self.smoothed = Some(match self.smoothed {
            None => (took, took / 2),
            Some((mean, deviation)) => {
                (mean * 7 / 8 + took / 8, deviation * 3 / 4 + mean.abs_diff(took) / 4)
            }
        });
    }

    /// After how long an answer is late.
    pub(crate) fn get(&self) -> Duration {
        let (mean, deviation) = self.smoothed.unwrap_or((AT_FIRST, Duration::ZERO));
        mean.saturating_add(deviation.saturating_mul(4)).clamp(self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(3);

    #[test]
    fn a_second_is_waited_before_anything_is_known() {
        assert_eq!(Patience::new(LEAST, MOST).get(), AT_FIRST);
        let short = Duration::from_millis(200);
        assert_eq!(Patience::new(LEAST, short).get(), short);
    }

    #[test]
    fn the_first_answer_counts_three_times() {
        let mut patience = Patience::new(LEAST, MOST);
        patience.observe(Duration::from_millis(100));
        assert_eq!(patience.get(), Duration::from_millis(300));
    }

    #[test]
    fn steady_answers_bring_it_near_to_what_they_take_and_a_slow_one_widens_it() {
        let mut patience = Patience::new(LEAST, MOST);
        for _ in 0..50 {
            patience.observe(Duration::from_millis(80));
        }
        let steady = patience.get();
        assert!(steady < Duration::from_millis(85), "{steady:?}");
        patience.observe(Duration::from_millis(800));
        assert!(patience.get() > steady * 5, "{:?}", patience.get());
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(took in proptest::collection::vec(any::<u32>(), 0..100)) {
            let mut patience = Patience::new(LEAST, MOST);
            for micros in took {
                patience.observe(Duration::from_micros(micros.into()));
                prop_assert!((LEAST..=MOST).contains(&patience.get()));
            }
        }
    }
}
