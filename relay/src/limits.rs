//! How fast connections may come: a token bucket for each address and one for all.
//!
//! Decisions only; the server says who comes and when.

use lru::LruCache;
use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    time::Instant,
};

/// Lets `rate` things a second through, and a second's worth at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(rate: u32, now: Instant) -> Self {
        Self { tokens: f64::from(rate), filled: now }
    }

    fn take(&mut self, rate: u32, now: Instant) -> bool {
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
}

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
    /// The sources seen last. At 10,000 entries of about 100 bytes, 1 MB. One that falls out comes
    /// back with a full bucket; the total still holds.
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
        if self.source_rate > 0 {
            let full = || Bucket::full(self.source_rate, now);
            let bucket = self.sources.get_or_insert_mut(Net::of(addr), full);
            if !bucket.take(self.source_rate, now) {
                return false;
            }
        }
        self.total_rate == 0 || self.total.take(self.total_rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

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
