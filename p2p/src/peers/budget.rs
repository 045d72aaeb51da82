//! How often one IP address is dialled.
//!
//! Peers tell addresses of others, and each key may tell other addresses. Without a bound by IP, a
//! liar with many keys could have this node, and all others, dial one victim without end.

use crate::{
    AddressPolicy, Multiaddr,
    address::{Source, ip_of},
};
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};
use thiserror::Error;

/// Dials of one IP in a minute, unless the configuration says otherwise. A peer with a QUIC and a
/// TCP address takes two a time.
const PER_MINUTE: u32 = 10;

const MINUTE: Duration = Duration::from_secs(60);

/// Sources that are remembered, those dialled longest ago leaving first: 4,096 * 100 bytes = 0.4 MB.
/// One is as good as forgotten after a minute without a dial.
const SOURCES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The address was dialled too often of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this IP address was dialled too often of late")]
pub(crate) struct Spent;

impl Spent {
    /// The metric label.
    pub(crate) const LABEL: &str = "ip_budget";
}

/// Counts dials by IP (IPv6 by /64). Pure: no clock.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Nothing is limited without it.
    per_minute: Option<u32>,
    /// When each source's budget will be whole again.
    whole_at: LruCache<Source, Instant>,
}

impl Budget {
    /// `per_minute` as configured: where nothing is, the default, and no limit where any address is
    /// allowed, since there all nodes may share one.
    pub(crate) fn new(per_minute: Option<u32>, policy: AddressPolicy) -> Self {
        let default = (policy == AddressPolicy::Global).then_some(PER_MINUTE);
        Self { per_minute: per_minute.or(default), whole_at: LruCache::sparse(SOURCES) }
    }

    /// Takes one dial of the address out of its IP's budget. Addresses that are no IP have none.
    pub(crate) fn take(&mut self, addr: &Multiaddr, now: Instant) -> Result<(), Spent> {
        let (Some(per_minute), Some(ip)) = (self.per_minute, ip_of(addr)) else { return Ok(()) };
        let source = Source::of(ip);
        let step = MINUTE / per_minute.max(1);
        let whole_at = self.whole_at.peek(&source).map_or(now, |at| (*at).max(now)) + step;
        if whole_at > now + MINUTE {
            return Err(Spent);
        }
        self.whole_at.push(source, whole_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ip_is_dialled_a_few_times_a_minute_whatever_the_port() {
        let now = Instant::now();
        let mut budget = Budget::new(None, AddressPolicy::Global);
        for port in 1..=PER_MINUTE {
            assert_eq!(budget.take(&addr(&format!("/ip4/8.8.8.8/tcp/{port}")), now), Ok(()));
        }
        assert_eq!(budget.take(&addr("/ip4/8.8.8.8/udp/1/quic-v1"), now), Err(Spent));
        assert_eq!(budget.take(&addr("/ip4/8.8.8.9/tcp/1"), now), Ok(()));
        let later = now + MINUTE / PER_MINUTE;
        assert_eq!(budget.take(&addr("/ip4/8.8.8.8/tcp/1"), later), Ok(()));
        assert_eq!(budget.take(&addr("/ip4/8.8.8.8/tcp/1"), later), Err(Spent));
    }

    #[test]
    fn where_any_address_is_allowed_there_is_no_limit_unless_one_is_set() {
        let now = Instant::now();
        let mut free = Budget::new(None, AddressPolicy::Any);
        assert!((0..1000).all(|_| free.take(&addr("/ip4/127.0.0.1/tcp/1"), now).is_ok()));
        let mut set = Budget::new(Some(2), AddressPolicy::Any);
        let taken = (0..10).filter(|_| set.take(&addr("/ip4/127.0.0.1/tcp/1"), now).is_ok());
        assert_eq!(taken.count(), 2);
        assert!((0..10).all(|_| set.take(&addr("/memory/1"), now).is_ok()));
    }

    proptest! {
        /// In any minute, however the dials fall, at most twice the budget passes: what was whole at
        /// its start, and what grew in it.
        #[test]
        fn no_minute_sees_more_than_twice_the_budget(
            waits in proptest::collection::vec(0..10_000u64, 1..300), per_minute in 1..20u32,
        ) {
            let mut now = Instant::now();
            let mut budget = Budget::new(Some(per_minute), AddressPolicy::Any);
            let mut passed: Vec<Instant> = Vec::new();
            for wait in waits {
                now += Duration::from_millis(wait);
                if budget.take(&addr("/ip4/8.8.8.8/tcp/1"), now).is_ok() {
                    passed.push(now);
                }
                let minute = passed.iter().filter(|at| now - **at < MINUTE).count();
                prop_assert!(minute <= 2 * usize::try_from(per_minute).unwrap());
            }
            prop_assert!(budget.whole_at.len() <= 1);
        }
    }
}
