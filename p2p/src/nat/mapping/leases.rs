//! Which ports are mapped, and when to ask for what. Pure: no clock or socket.
//!
//! Each port is asked for by each protocol, independently: a router may know one of them only, or
//! map by one and not by the other. A mapping is renewed at half of its lease; if that fails it is
//! tried again until the lease has ended.

use crate::nat::config::Mapping as Config;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// However short a lease is, it is not renewed more often.
const MIN_RENEW: Duration = Duration::from_secs(10);

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// QUIC.
    Udp,
    /// TCP.
    Tcp,
}

/// By which protocol a router mapped a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// UPnP IGD.
    Upnp,
    /// PCP, RFC 6887.
    Pcp,
    /// NAT-PMP, RFC 6886.
    NatPmp,
}

/// A port that is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    pub(crate) transport: Transport,
    pub(crate) port: u16,
}

/// The two ways to ask: NAT-PMP is what a router answers with that knows no PCP, at the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Way {
    Upnp,
    Pcp,
}

impl Way {
    /// How it is shown.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Upnp => "upnp",
            Self::Pcp => "pcp",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) way: Way,
    pub(super) port: Port,
}

/// What a router gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) external: SocketAddr,
    pub(super) lease: Duration,
    pub(super) by: By,
}

/// Why it gave nothing: a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No router was found, or none that speaks the protocol.
    NoRouter,
    /// It did not answer in time.
    Timeout,
    /// It will not.
    Refused,
    /// It answered with nonsense, or without end.
    Malformed,
    /// It could not be spoken to.
    Io,
    /// It gave an address that nobody can dial on this chain: it is behind another NAT, or lies.
    Impossible,
}

impl Failed {
    pub(crate) const ALL: [Self; 6] =
        [Self::NoRouter, Self::Timeout, Self::Refused, Self::Malformed, Self::Io, Self::Impossible];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoRouter => "no_router",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Io => "io",
            Self::Impossible => "impossible",
        }
    }
}

/// What others are to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Mapped(Transport, SocketAddr),
    Lost(Transport, SocketAddr),
}

/// A mapping that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) port: Port,
    pub(crate) external: SocketAddr,
    pub(crate) by: By,
    pub(crate) ends: Instant,
}

#[derive(Debug)]
struct Lease {
    held: Option<Held>,
    asking: bool,
    next: Instant,
    failures: u32,
    /// How asking ended last.
    last: Option<Result<By, Failed>>,
}

/// How asking for one port in one way ended last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) way: Way,
    pub(crate) port: Port,
    /// By which protocol it is mapped, or why it is not; nothing while nobody has answered yet.
    pub(crate) last: Option<Result<By, Failed>>,
}

/// How it stands with the router: two of each for each port, 150 bytes a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leased {
    /// The mappings that are held.
    pub(crate) held: Vec<Held>,
    /// How each was asked for last.
    pub(crate) asked: Vec<Asked>,
}

/// All leases: two for each port, 200 bytes each.
#[derive(Debug)]
pub(super) struct Leases {
    config: Config,
    leases: BTreeMap<Key, Lease>,
    /// Drained after each step.
    changes: Vec<Change>,
    /// Held and no longer wanted. Drained after each step.
    unwanted: Vec<(Key, Held)>,
}

impl Leases {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            leases: BTreeMap::new(),
            changes: Vec::new(),
            unwanted: Vec::new(),
        }
    }

    /// These ports are to be mapped from now on, as many as are allowed, and no others.
    pub(super) fn want(&mut self, ports: &[Port], now: Instant) {
        let ports = ports.get(..self.config.max_ports).unwrap_or(ports);
        let ways = [(Way::Upnp, self.config.upnp), (Way::Pcp, self.config.pcp)];
        let wanted: Vec<Key> = ways
            .iter()
            .filter(|(_, enabled)| *enabled)
            .flat_map(|(way, _)| ports.iter().map(move |port| Key { way: *way, port: *port }))
            .collect();
        let gone: Vec<Key> =
            self.leases.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in gone {
            if let Some(held) = self.leases.remove(&key).and_then(|lease| lease.held) {
                self.unwanted.push((key, held));
                self.lost(key, held);
            }
        }
        for key in wanted {
            let fresh = Lease { held: None, asking: false, next: now, failures: 0, last: None };
            self.leases.entry(key).or_insert(fresh);
        }
    }

    /// The network changed: all is asked for at once.
    pub(super) fn again(&mut self, now: Instant) {
        for lease in self.leases.values_mut() {
            lease.failures = 0;
            lease.next = now;
        }
    }

    /// What to ask for now, each with the mapping that is to be renewed. Each has to end with
    /// [`Self::ended`].
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Key, Option<Held>)> {
        let over: Vec<(Key, Held)> = self
            .leases
            .iter_mut()
            .filter_map(|(key, lease)| Some((*key, lease.held.take_if(|held| held.ends <= now)?)))
            .collect();
        for (key, held) in over {
            self.lost(key, held);
        }
        let due = self.leases.iter_mut().filter(|(_, lease)| !lease.asking && lease.next <= now);
        due.map(|(key, lease)| {
            lease.asking = true;
            (*key, lease.held)
        })
        .collect()
    }

    /// The router has answered, or not. Whether the answer is wanted still; what was granted is to
    /// be removed otherwise.
    pub(super) fn ended(
        &mut self,
        key: Key,
        result: Result<Granted, Failed>,
        now: Instant,
    ) -> bool {
        let Some(lease) = self.leases.get_mut(&key) else { return false };
        lease.asking = false;
        lease.last = Some(result.map(|granted| granted.by));
        let Ok(Granted { external, lease: lasts, by }) = result else {
            let doubled = 1u32.checked_shl(lease.failures).unwrap_or(u32::MAX);
            lease.failures = lease.failures.saturating_add(1);
            let wait = self.config.retry.saturating_mul(doubled).min(self.config.retry_max);
            lease.next = now + wait;
            return true;
        };
        lease.failures = 0;
        lease.next = now + (lasts / 2).max(MIN_RENEW);
        let held = Held { port: key.port, external, by, ends: now + lasts };
        let before = lease.held.replace(held);
        if before.is_none_or(|before| before.external != external) {
            if let Some(before) = before {
                self.lost(key, before);
            }
            self.changes.push(Change::Mapped(key.port.transport, external));
        }
        true
    }

    /// A mapping has ended; what it mapped is lost unless another maps it too.
    fn lost(&mut self, key: Key, held: Held) {
        let transport = key.port.transport;
        let others = self.leases.iter().filter(|(other, _)| other.port.transport == transport);
        let mut others = others.filter_map(|(_, lease)| lease.held);
        if !others.any(|other| other.external == held.external) {
            self.changes.push(Change::Lost(transport, held.external));
        }
    }

    /// When [`Self::due`] has something to do.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let ends = self.leases.values().filter_map(|lease| lease.held).map(|held| held.ends);
        let next = self.leases.values().filter(|lease| !lease.asking).map(|lease| lease.next);
        ends.chain(next).min()
    }

    /// What has changed since the last call.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// What is to be removed from the router.
    pub(super) fn unwanted(&mut self) -> Vec<(Key, Held)> {
        std::mem::take(&mut self.unwanted)
    }

    /// How it stands.
    pub(super) fn shown(&self) -> Leased {
        let asked =
            |(key, lease): (&Key, &Lease)| Asked { way: key.way, port: key.port, last: lease.last };
        Leased {
            held: self.leases.values().filter_map(|lease| lease.held).collect(),
            asked: self.leases.iter().map(asked).collect(),
        }
    }

    /// All mappings that are held.
    pub(super) fn held(&self) -> Vec<(Key, Held)> {
        self.leases.iter().filter_map(|(key, lease)| Some((*key, lease.held?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const UDP: Port = Port { transport: Transport::Udp, port: 9000 };
    const TCP: Port = Port { transport: Transport::Tcp, port: 9000 };
    const HOUR: Duration = Duration::from_secs(3600);

    fn leases() -> Leases {
        Leases::new(&Config::default())
    }

    fn granted(port: u16, lease: Duration) -> Result<Granted, Failed> {
        let external = SocketAddr::new([8, 8, 8, 8].into(), port);
        Ok(Granted { external, lease, by: By::Upnp })
    }

    fn external(port: u16) -> SocketAddr {
        SocketAddr::new([8, 8, 8, 8].into(), port)
    }

    #[test]
    fn each_port_is_asked_for_in_each_way_at_once() {
        let now = Instant::now();
        let mut leases = leases();
        leases.want(&[UDP, TCP], now);
        assert_eq!(leases.due(now).len(), 4);
        assert_eq!(leases.due(now).len(), 0, "all are under way");
    }

    #[test]
    fn a_mapping_is_renewed_at_half_of_its_lease() {
        let mut now = Instant::now();
        let mut leases = leases();
        leases.want(&[UDP], now);
        let (key, renews) = leases.due(now)[0];
        assert_eq!(renews, None);
        assert!(leases.ended(key, granted(1000, HOUR), now));
        assert_eq!(leases.changes(), [Change::Mapped(Transport::Udp, external(1000))]);
        now += HOUR / 2 - Duration::from_secs(1);
        assert!(!leases.due(now).iter().any(|(due, _)| *due == key));
        now += Duration::from_secs(1);
        let due = leases.due(now);
        let (_, renews) = due.iter().find(|(due, _)| *due == key).unwrap();
        assert_eq!(renews.unwrap().external, external(1000));
        leases.ended(key, granted(1000, HOUR), now);
        assert_eq!(leases.changes(), [], "it is as before");
    }

    #[test]
    fn a_mapping_that_is_not_renewed_is_lost_when_its_lease_ends() {
        let mut now = Instant::now();
        let mut leases = leases();
        leases.want(&[UDP], now);
        let (key, _) = leases.due(now)[0];
        leases.ended(key, granted(1000, HOUR), now);
        leases.changes();
        let end = now + HOUR;
        while now < end {
            for (key, _) in leases.due(now) {
                leases.ended(key, Err(Failed::Timeout), now);
            }
            assert_eq!(leases.changes(), []);
            now = leases.wakes_at().unwrap();
        }
        leases.due(now);
        assert_eq!(leases.changes(), [Change::Lost(Transport::Udp, external(1000))]);
    }

    #[test]
    fn how_asking_ended_last_is_shown() {
        let now = Instant::now();
        let mut leases = leases();
        leases.want(&[UDP], now);
        let last = |leases: &Leases| {
            leases.shown().asked.iter().map(|asked| (asked.way, asked.last)).collect::<Vec<_>>()
        };
        assert_eq!(last(&leases), [(Way::Upnp, None), (Way::Pcp, None)]);
        let keys: Vec<Key> = leases.due(now).iter().map(|(key, _)| *key).collect();
        leases.ended(keys[0], granted(1000, HOUR), now);
        leases.ended(keys[1], Err(Failed::Timeout), now);
        assert_eq!(
            last(&leases),
            [(Way::Upnp, Some(Ok(By::Upnp))), (Way::Pcp, Some(Err(Failed::Timeout)))]
        );
        leases.due(now + HOUR / 2);
        leases.ended(keys[0], Err(Failed::Refused), now + HOUR / 2);
        assert_eq!(last(&leases)[0], (Way::Upnp, Some(Err(Failed::Refused))), "not renewed");
        assert_eq!(leases.shown().held.len(), 1, "and held until its lease ends");
    }

    #[test]
    fn what_two_ways_map_is_lost_with_the_second() {
        let now = Instant::now();
        let mut leases = leases();
        leases.want(&[UDP], now);
        let keys: Vec<Key> = leases.due(now).iter().map(|(key, _)| *key).collect();
        leases.ended(keys[0], granted(1000, HOUR), now);
        leases.ended(keys[1], granted(1000, HOUR * 2), now);
        leases.changes();
        leases.due(now + HOUR);
        assert_eq!(leases.changes(), []);
        leases.due(now + HOUR * 2);
        assert_eq!(leases.changes(), [Change::Lost(Transport::Udp, external(1000))]);
    }

    #[test]
    fn what_is_no_longer_listened_on_is_removed_and_so_is_what_comes_too_late() {
        let now = Instant::now();
        let mut leases = leases();
        leases.want(&[UDP], now);
        let keys: Vec<Key> = leases.due(now).iter().map(|(key, _)| *key).collect();
        leases.ended(keys[0], granted(1000, HOUR), now);
        leases.want(&[TCP], now);
        assert_eq!(leases.unwanted().len(), 1);
        assert!(!leases.ended(keys[1], granted(1001, HOUR), now), "too late");
        assert!(leases.held().is_empty());
    }

    #[test]
    fn a_router_that_refuses_is_asked_less_and_less_often_and_at_once_on_another_network() {
        let mut now = Instant::now();
        let config = Config { upnp: false, ..Config::default() };
        let mut leases = Leases::new(&config);
        leases.want(&[UDP], now);
        for wait in [30, 60, 120, 240, 480, 960, 1800, 1800] {
            let (key, _) = leases.due(now)[0];
            leases.ended(key, Err(Failed::Refused), now);
            assert_eq!(leases.wakes_at(), Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        let (key, _) = leases.due(now)[0];
        leases.ended(key, Err(Failed::Refused), now);
        leases.again(now);
        assert_eq!(leases.due(now).len(), 1);
    }

    proptest! {
        /// Whatever routers answer: never more leases than there may be, never one held beyond its
        /// end, and what is told as mapped is what is held.
        #[test]
        fn what_is_told_is_what_is_held(
            steps in vec((0..4u8, 1..40u16, 1..4000u64, any::<bool>()), 1..120),
        ) {
            let mut now = Instant::now();
            let mut leases = leases();
            let mut told = std::collections::BTreeSet::new();
            for (what, port, wait, good) in steps {
                match what {
                    0 => {
                        let ports: Vec<Port> =
                            (0..port).map(|port| Port { port, ..UDP }).collect();
                        leases.want(&ports, now);
                        leases.unwanted();
                    }
                    1 => leases.again(now),
                    _ => now += Duration::from_secs(wait),
                }
                for (key, _) in leases.due(now) {
                    let result = if good {
                        granted(key.port.port + port, Duration::from_secs(wait))
                    } else {
                        Err(Failed::Timeout)
                    };
                    leases.ended(key, result, now);
                }
                for change in leases.changes() {
                    match change {
                        Change::Mapped(_, at) => told.insert(at),
                        Change::Lost(_, at) => told.remove(&at),
                    };
                }
                let held = leases.held();
                prop_assert!(leases.leases.len() <= 16);
                prop_assert!(held.iter().all(|(_, held)| held.ends > now));
                let held: std::collections::BTreeSet<_> =
                    held.into_iter().map(|(_, held)| held.external).collect();
                prop_assert_eq!(&told, &held);
            }
        }
    }
}
