//! How full the service is: by which some requests are turned away, and what nobody waits for is left
//! undone.

use super::{
    Config, Shared,
    shed::{self, Fullness, Thresholds},
};
use std::sync::Arc;

impl Shared {
    pub(super) fn fullness(&self) -> Fullness {
        let most = self.config.max_requests;
        let going_on = most.saturating_sub(self.requests.available_permits());
        let count = |requests: usize| u64::try_from(requests).unwrap_or(u64::MAX);
        let Config { least_share, bytes_per_second, .. } = self.config;
        Fullness {
            requests: shed::percent(count(going_on), count(most)),
            memory: self.lookup.memory.taken_percent(),
            bandwidth: shed::spoken_for(self.pace.busy(), least_share, bytes_per_second),
        }
    }

    pub(super) fn thresholds(&self) -> Thresholds {
        let Config { shed_prefetch_above, shed_viewers_above, .. } = self.config;
        Thresholds { prefetch: shed_prefetch_above, viewers: shed_viewers_above }
    }
}

/// How full the service is.
pub(crate) struct Pressure(Arc<Shared>);

impl Pressure {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    /// Whatever is fullest, in percent; all of it while the service drains.
    pub(crate) fn percent(&self) -> u64 {
        if self.0.draining.is_cancelled() { u64::MAX } else { self.0.fullness().most() }
    }

    /// Whether viewers' prefetches are refused when the service is so full.
    pub(crate) fn sheds_prefetches(&self, percent: u64) -> bool {
        let Thresholds { prefetch, .. } = self.0.thresholds();
        percent == u64::MAX || (prefetch > 0 && percent >= u64::from(prefetch))
    }
}
