//! What is given up when there is too much to do: prefetches first, then viewers that come anew.
//! Whoever is being served goes on being served.
//!
//! Decisions only.

use crate::{error::Refusal, wire::Priority};

/// How full the service is, each in percent of what it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fullness {
    /// Requests that go on.
    pub(super) requests: u64,
    /// Memory for bodies.
    pub(super) memory: u64,
    /// Viewers that want to send now, of those that the total rate could carry.
    pub(super) bandwidth: u64,
}

impl Fullness {
    /// Whatever is fullest.
    pub(super) fn most(self) -> u64 {
        self.requests.max(self.memory).max(self.bandwidth)
    }
}

/// Where shedding begins, in percent; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thresholds {
    /// From here on prefetches are refused.
    pub(super) prefetch: u8,
    /// From here on viewers that have not been served yet are refused.
    pub(super) viewers: u8,
}

/// Whether to refuse a request for a blob. `served` says whether its viewer was served before.
pub(super) fn refuse(
    fullness: Fullness,
    thresholds: Thresholds,
    priority: Priority,
    served: bool,
) -> Option<Refusal> {
    let full = fullness.most();
    let over = |threshold: u8| threshold > 0 && full >= u64::from(threshold);
    if !served && over(thresholds.viewers) {
        return Some(Refusal::NewViewer);
    }
    (priority == Priority::Prefetch && over(thresholds.prefetch)).then_some(Refusal::Prefetch)
}

/// `part` of `whole` in percent; nothing of nothing is nothing.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

/// How much of the total rate is spoken for, when each of `viewers` is to get `least` bytes a second.
/// Without a total there is enough for all.
pub(super) fn spoken_for(viewers: usize, least: u64, total: u64) -> u64 {
    percent(u64::try_from(viewers).unwrap_or(u64::MAX).saturating_mul(least), total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Play, Prefetch, Seek};

    const AT: Thresholds = Thresholds { prefetch: 75, viewers: 90 };

    #[test]
    fn prefetches_go_first_then_new_viewers_and_never_who_is_served() {
        let full = |requests| Fullness { requests, ..Fullness::default() };
        for (percent, prefetch, new) in [
            (74, None, None),
            (75, Some(Refusal::Prefetch), None),
            (89, Some(Refusal::Prefetch), None),
            (90, Some(Refusal::Prefetch), Some(Refusal::NewViewer)),
            (1000, Some(Refusal::Prefetch), Some(Refusal::NewViewer)),
        ] {
            assert_eq!(refuse(full(percent), AT, Prefetch, true), prefetch, "{percent}");
            for priority in [Play, Seek] {
                assert_eq!(refuse(full(percent), AT, priority, true), None, "{percent}");
                assert_eq!(refuse(full(percent), AT, priority, false), new, "{percent}");
            }
        }
    }

    #[test]
    fn whatever_is_fullest_counts() {
        for fullness in [
            Fullness { requests: 95, memory: 0, bandwidth: 0 },
            Fullness { requests: 0, memory: 95, bandwidth: 0 },
            Fullness { requests: 0, memory: 0, bandwidth: 95 },
        ] {
            assert_eq!(refuse(fullness, AT, Play, false), Some(Refusal::NewViewer));
        }
    }

    #[test]
    fn a_threshold_of_0_is_none() {
        let never = Thresholds { prefetch: 0, viewers: 0 };
        let full = Fullness { requests: 100, memory: 100, bandwidth: 100 };
        assert_eq!(refuse(full, never, Prefetch, false), None);
    }

    #[test]
    fn a_total_that_is_not_set_is_never_spoken_for() {
        assert_eq!(spoken_for(1_000_000, 125_000, 0), 0);
        assert_eq!(spoken_for(60, 125_000, 12_500_000), 60);
        assert_eq!(spoken_for(usize::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(percent(1, 0), 0);
    }
}
