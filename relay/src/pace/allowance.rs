//! A token bucket of bytes that may be overdrawn once.

use std::time::{Duration, Instant};

/// Bytes that may go now, and how fast they come back. One that may send anything may send a whole
/// piece, and is in debt for what it had not: so pieces need not fit, and over any time no more than
/// `rate` times that time, a burst and one piece goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Bytes a second; 0 for no limit.
    rate: u64,
    burst: u64,
    /// Below zero while in debt.
    level: f64,
    filled: Instant,
}

impl Allowance {
    pub(super) fn full(rate: u64, burst: u64, now: Instant) -> Self {
        Self { rate, burst, level: real(burst), filled: now }
    }

    /// Takes `bytes`, whatever is there.
    pub(super) fn spend(&mut self, bytes: u32, now: Instant) {
        if self.rate > 0 {
            self.fill(now);
            self.level -= f64::from(bytes);
        }
    }

    /// When something may go: `None` for now.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Instant> {
        if self.rate == 0 {
            return None;
        }
        self.fill(now);
        if self.level > 0.0 {
            return None;
        }
        // A microsecond more than is owed, so that there is something then, however it is rounded.
        let owed = Duration::from_secs_f64(-self.level / real(self.rate));
        Some(now + owed + Duration::from_micros(1))
    }

    /// Whether nothing of it is in use, so that forgetting it changes nothing.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.rate == 0 || self.level >= real(self.burst)
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * real(self.rate);
        self.level = (self.level + gained).min(real(self.burst));
        self.filled = self.filled.max(now);
    }
}

fn real(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_debt_is_paid_before_more_goes() {
        let now = Instant::now();
        let mut allowance = Allowance::full(1000, 500, now);
        assert_eq!(allowance.wait(now), None);
        allowance.spend(1500, now);
        let at = allowance.wait(now).unwrap();
        assert_eq!(at - now, Duration::from_secs(1) + Duration::from_micros(1));
        assert!(allowance.wait(now + Duration::from_millis(999)).is_some());
        assert_eq!(allowance.wait(at), None);
        assert!(!allowance.is_full(at) && allowance.is_full(at + Duration::from_millis(500)));
    }

    #[test]
    fn a_rate_of_0_is_no_limit() {
        let now = Instant::now();
        let mut allowance = Allowance::full(0, 0, now);
        allowance.spend(u32::MAX, now);
        assert_eq!(allowance.wait(now), None);
        assert!(allowance.is_full(now));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_a_burst_and_a_piece(
            rate in 1u64..1_000_000,
            burst in 1u64..1_000_000,
            steps in prop::collection::vec((0u64..2000, 1u32..100_000), 1..200),
        ) {
            let start = Instant::now();
            let (mut now, mut sent) = (start, 0.0);
            let mut allowance = Allowance::full(rate, burst, start);
            for (ms, piece) in steps {
                now += Duration::from_millis(ms);
                if allowance.wait(now).is_none() {
                    let most = real(rate) * (now - start).as_secs_f64() + real(burst);
                    prop_assert!(sent <= most + 1.0);
                    allowance.spend(piece, now);
                    sent += f64::from(piece);
                }
            }
        }

        #[test]
        fn whoever_waits_as_long_as_told_may_go(rate in 1u64..u64::from(u32::MAX), debt: u32) {
            let now = Instant::now();
            let mut allowance = Allowance::full(rate, 1, now);
            allowance.spend(debt, now);
            if let Some(at) = allowance.wait(now) {
                prop_assert!(at > now);
                prop_assert_eq!(allowance.wait(at), None);
            }
        }
    }
}
