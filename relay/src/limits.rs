//! How fast connections may come, a token bucket for each address and one for all, and how many of
//! one address may be open.
//!
//! Decisions only; the server says who comes and when.

use crate::sync::lock;
use lru::LruCache;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Lets `rate` things a second through, and a second's worth at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: u32, now: Instant) -> Self {
        Self { tokens: f64::from(rate), filled: now }
    }

    pub(crate) fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(rate);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }

    /// Whether it is as good as new.
    fn is_full(&self, now: Instant) -> bool {
        // However much was taken, a second brings it back.
        now.saturating_duration_since(self.filled) >= FULL_AFTER
    }
}

/// A bucket holds a second's worth.
const FULL_AFTER: Duration = Duration::from_secs(1);

/// Who counts as one source: an IPv4 address, or a /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Net {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl Net {
    fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::V4(addr.octets()),
            IpAddr::V6(addr) => match addr.to_ipv4_mapped() {
                Some(addr) => Self::V4(addr.octets()),
                None => Self::V6(prefix(addr)),
            },
        }
    }
}

fn prefix(addr: Ipv6Addr) -> [u16; 4] {
    let [a, b, c, d, ..] = addr.segments();
    [a, b, c, d]
}

/// Connections a second, for each source and in all. A rate of 0 means no limit.
pub(crate) struct ConnectionRate {
    total_rate: u32,
    source_rate: u32,
    total: Bucket,
    /// The sources seen last, and of these no more than came within a second or two. At 10,000 entries
    /// of about 100 bytes, 1 MB. One that falls out comes back with a full bucket; the total still holds.
    sources: LruCache<Net, Bucket>,
}

impl ConnectionRate {
    pub(crate) fn new(total: u32, source: u32, table: NonZeroUsize, now: Instant) -> Self {
        Self {
            total_rate: total,
            source_rate: source,
            total: Bucket::full(total, now),
            sources: LruCache::sparse(table),
        }
    }

    /// Whether a connection from `addr` may come now. The source's own bucket is asked first, so
    /// that one loud source cannot use up what is there for all.
    pub(crate) fn admit(&mut self, addr: IpAddr, now: Instant) -> bool {
        self.expire(now);
        if self.source_rate > 0 {
            let full = || Bucket::full(self.source_rate, now);
            let bucket = self.sources.get_or_insert_mut(Net::of(addr), full);
            if !bucket.take(self.source_rate, now) {
                return false;
            }
        }
        self.total_rate == 0 || self.total.take(self.total_rate, now)
    }

    /// Forgets sources that would be the same if they were new; two at a time, since one comes.
    fn expire(&mut self, now: Instant) {
        for _ in 0..2 {
            if !self.sources.peek_lru().is_some_and(|(_, bucket)| bucket.is_full(now)) {
                return;
            }
            self.sources.pop_lru();
        }
    }
}

/// Open connections of each source.
pub(crate) struct OpenConnections {
    /// Of one source at most; 0 means no limit.
    most: u32,
    /// Only sources with an open connection, so never more entries than `server.max_connections`:
    /// at its default of 2,048, of about 32 bytes, 64 KiB.
    open: Arc<Mutex<HashMap<Net, u32>>>,
}

/// A connection that counts as open until this is dropped.
pub(crate) struct OpenConnection {
    source: Net,
    open: Arc<Mutex<HashMap<Net, u32>>>,
}

impl OpenConnections {
    pub(crate) fn new(most: u32) -> Self {
        Self { most, open: Arc::default() }
    }

    /// Counts a connection from `addr`, or gives `None` when its source has as many as it may.
    pub(crate) fn admit(&self, addr: IpAddr) -> Option<OpenConnection> {
        let source = Net::of(addr);
        let mut open = lock(&self.open);
        let count = open.get(&source).copied().unwrap_or(0);
        if self.most > 0 && count >= self.most {
            return None;
        }
        open.insert(source, count.saturating_add(1));
        Some(OpenConnection { source, open: Arc::clone(&self.open) })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        match open.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(total: u32, source: u32, now: Instant) -> ConnectionRate {
        ConnectionRate::new(total, source, NonZeroUsize::new(4).unwrap(), now)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_gets_its_rate_and_no_more() {
        let now = Instant::now();
        let mut rate = rate(0, 2, now);
        let mut came = |after_ms| rate.admit(ip("10.0.0.1"), now + Duration::from_millis(after_ms));
        assert!(came(0) && came(0) && !came(0));
        assert!(!came(499) && came(500) && !came(500));
        // A long silence fills no more than a second's worth.
        assert!(came(60_000) && came(60_000) && !came(60_000));
    }

    #[test]
    fn one_loud_source_does_not_use_up_the_total() {
        let now = Instant::now();
        let mut rate = rate(10, 2, now);
        let admitted = (0..100).filter(|_| rate.admit(ip("10.0.0.1"), now)).count();
        assert_eq!(admitted, 2);
        assert!((2..6).all(|n| rate.admit(IpAddr::from([10, 0, 0, n]), now)));
    }

    #[test]
    fn ipv6_counts_by_64_and_mapped_addresses_as_ipv4() {
        let now = Instant::now();
        let mut rate = rate(0, 1, now);
        assert!(rate.admit(ip("2001:db8::1"), now));
        assert!(!rate.admit(ip("2001:db8::ffff:2"), now));
        assert!(rate.admit(ip("2001:db8:0:1::1"), now));
        assert!(rate.admit(ip("10.0.0.1"), now));
        assert!(!rate.admit(ip("::ffff:10.0.0.1"), now));
    }

    #[test]
    fn the_table_is_bounded() {
        let now = Instant::now();
        let mut rate = rate(0, 1, now);
        for n in 0..=255 {
            assert!(rate.admit(IpAddr::from([10, 0, 0, n]), now));
            assert!(rate.sources.len() <= 4);
        }
    }

    #[test]
    fn a_source_that_was_not_seen_for_a_second_is_forgotten() {
        let start = Instant::now();
        let mut rate = ConnectionRate::new(0, 2, NonZeroUsize::new(100).unwrap(), start);
        for n in 0..50 {
            assert!(rate.admit(IpAddr::from([10, 0, 0, n]), start));
        }
        assert_eq!(rate.sources.len(), 50);
        let later = start + Duration::from_secs(1);
        for _ in 0..50 {
            rate.admit(ip("10.1.0.0"), later);
        }
        assert_eq!(rate.sources.len(), 1);
    }

    #[test]
    fn open_connections_of_a_source_are_bounded_and_the_closed_are_forgotten() {
        let connections = OpenConnections::new(2);
        let first = connections.admit(ip("2001:db8::1")).unwrap();
        let second = connections.admit(ip("2001:db8::ffff:2")).unwrap();
        assert!(connections.admit(ip("2001:db8::3")).is_none());
        let other = connections.admit(ip("2001:db8:0:1::1")).unwrap();
        let v4 = ["10.0.0.1", "::ffff:10.0.0.1"].map(|addr| connections.admit(ip(addr)).unwrap());
        assert!(connections.admit(ip("10.0.0.1")).is_none());
        drop(first);
        let third = connections.admit(ip("2001:db8::3")).unwrap();
        assert!(connections.admit(ip("2001:db8::4")).is_none());
        drop((second, third, other, v4));
        assert!(connections.open.lock().unwrap().is_empty());
    }

    #[test]
    fn a_bound_of_0_is_no_bound_of_open_connections() {
        let connections = OpenConnections::new(0);
        let open: Vec<_> = (0..1000).filter_map(|_| connections.admit(ip("10.0.0.1"))).collect();
        assert_eq!(open.len(), 1000);
    }

    proptest! {
        #[test]
        fn never_more_than_rate_times_time_and_a_burst(
            steps in prop::collection::vec((0u64..500, 0u8..4), 1..300),
            total in 1u32..20,
            source in 1u32..20,
        ) {
            let start = Instant::now();
            let mut rate = rate(total, source, start);
            let mut now = start;
            let mut admitted = 0u32;
            for (ms, host) in steps {
                now += Duration::from_millis(ms);
                admitted += u32::from(rate.admit(IpAddr::from([10, 0, 0, host]), now));
            }
            let most = f64::from(total) * (1.0 + (now - start).as_secs_f64());
            prop_assert!(f64::from(admitted) <= most + 0.001);
        }
    }
}
