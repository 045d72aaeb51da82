//! Who may send to the relayed address, and on which channels. Pure: no clock.
//!
//! A permission is of an IP address, lasts five minutes and costs a request; without it, the server
//! drops what comes from there and what is sent there (RFC 8656, 9). A channel is of an address with its
//! port, lasts ten minutes, and saves 32 bytes a datagram (12). Both are renewed while they are used.

use super::frame::CHANNELS;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long a permission lasts (RFC 8656, 9).
const PERMISSION: Duration = Duration::from_secs(300);

/// How long a channel lasts, and how long its number may not be used for another address after that,
/// nor its address for another number (RFC 8656, 12).
const CHANNEL: Duration = Duration::from_secs(600);
const QUARANTINE: Duration = Duration::from_secs(300);

/// How long before its end a permission or a channel is renewed. A request may take 7.5 s.
const MARGIN: Duration = Duration::from_secs(60);

/// Wait after a server refused a channel: the data goes without one meanwhile.
const NO_CHANNEL: Duration = Duration::from_secs(60);

/// Channels for each address that has a permission: many peers may share it, and are told apart by port.
const CHANNELS_A_PEER: usize = 2;

/// What is to be asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Permit(IpAddr),
    Bind { number: u16, peer: SocketAddr },
}

/// How data goes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// On this channel.
    Channel(u16),
    /// In a Send indication.
    Indication,
    /// Not at all: the server would drop it.
    Nowhere,
}

#[derive(Debug)]
struct Permission {
    /// None until the server has granted it.
    ends: Option<Instant>,
    asked: bool,
    used: Instant,
}

#[derive(Debug)]
struct Channel {
    peer: SocketAddr,
    /// None until the server has bound it.
    ends: Option<Instant>,
    asked: bool,
    used: Instant,
    /// Not asked for again before.
    not_before: Instant,
}

/// Permissions and channels of one allocation: at most `max` of the former, each 60 bytes, and twice as
/// many of the latter, each 120 bytes.
#[derive(Debug)]
pub(super) struct Peers {
    max: usize,
    idle: Duration,
    permissions: BTreeMap<IpAddr, Permission>,
    channels: BTreeMap<u16, Channel>,
    numbers: BTreeMap<SocketAddr, u16>,
}

impl Peers {
    /// Room for `max` permissions, each renewed until it was not used for `idle`.
    pub(super) fn new(max: usize, idle: Duration) -> Self {
        Self {
            max,
            idle,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// An address is to have a permission: whether it has, or none if there is no room for it. What was
    /// not used for the longest time makes room, if it is idle.
    pub(super) fn permit(&mut self, ip: IpAddr, now: Instant) -> Option<bool> {
        if !self.permissions.contains_key(&ip) && self.permissions.len() >= self.max {
            let oldest = self.permissions.iter().min_by_key(|(_, known)| known.used);
            let idle = oldest.filter(|(_, known)| known.used + self.idle <= now && !known.asked);
            let leaves = *idle?.0;
            self.permissions.remove(&leaves);
        }
        let known = self.permissions.entry(ip).or_insert(Permission {
            ends: None,
            asked: false,
            used: now,
        });
        known.used = now;
        Some(known.ends.is_some_and(|ends| now < ends))
    }

    /// What is to be asked now; it counts as asked from here on.
    pub(super) fn wants(&mut self, now: Instant) -> Vec<Want> {
        let idle = self.idle;
        let due = |ends: Option<Instant>, asked: bool, used: Instant| {
            !asked && used + idle > now && ends.is_none_or(|ends| ends <= now + MARGIN)
        };
        let mut wants = Vec::new();
        for (ip, known) in &mut self.permissions {
            if due(known.ends, known.asked, known.used) {
                known.asked = true;
                wants.push(Want::Permit(*ip));
            }
        }
        for (number, known) in &mut self.channels {
            if due(known.ends, known.asked, known.used) && known.not_before <= now {
                known.asked = true;
                wants.push(Want::Bind { number: *number, peer: known.peer });
            }
        }
        wants
    }

    /// When there is something to ask, or something leaves; never, if nothing is there that the server
    /// knows of.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let idle = self.idle;
        let next = |ends: Option<Instant>, asked: bool, used: Instant, after: Duration| {
            let ends = ends.filter(|_| !asked)?;
            let renewed = ends.checked_sub(MARGIN).unwrap_or(ends);
            let is_used = used + idle > renewed.max(now);
            Some(if is_used { renewed } else { (ends + after).max(used + idle) })
        };
        let permissions = self.permissions.values();
        let permissions = permissions
            .filter_map(|known| next(known.ends, known.asked, known.used, Duration::ZERO));
        let channels = self.channels.values().filter_map(|known| {
            let at = next(known.ends, known.asked, known.used, QUARANTINE)?;
            Some(at.max(known.not_before))
        });
        permissions.chain(channels).min()
    }

    /// What the server said to a request for a permission.
    pub(super) fn permitted(&mut self, ip: IpAddr, granted: bool, now: Instant) {
        if !granted {
            self.permissions.remove(&ip);
        } else if let Some(known) = self.permissions.get_mut(&ip) {
            known.asked = false;
            known.ends = Some(now + PERMISSION);
        }
    }

    /// What the server said to a request for a channel.
    pub(super) fn bound(&mut self, number: u16, bound: bool, now: Instant) {
        let Some(known) = self.channels.get_mut(&number) else { return };
        known.asked = false;
        if !bound {
            known.not_before = now + NO_CHANNEL;
            return;
        }
        known.ends = Some(now + CHANNEL);
        // It is a permission too.
        if let Some(permission) = self.permissions.get_mut(&known.peer.ip()) {
            permission.ends = Some(now + PERMISSION);
        }
    }

    /// Takes out what has ended.
    pub(super) fn expire(&mut self, now: Instant) {
        let idle = self.idle;
        self.permissions.retain(|_, known| {
            known.asked || known.used + idle > now || known.ends.is_some_and(|ends| now < ends)
        });
        let numbers = &mut self.numbers;
        self.channels.retain(|_, known| {
            let over = known.ends.map_or(known.used + idle, |ends| ends + QUARANTINE);
            let keep = known.asked || known.used + idle > now || now < over;
            if !keep {
                numbers.remove(&known.peer);
            }
            keep
        });
    }

    /// How data goes to an address; the first asks for a channel too.
    pub(super) fn route(&mut self, to: SocketAddr, now: Instant) -> Route {
        let Some(permission) = self.permissions.get_mut(&to.ip()) else { return Route::Nowhere };
        permission.used = now;
        if permission.ends.is_none_or(|ends| ends <= now) {
            return Route::Nowhere;
        }
        match self.channel(to, now) {
            Some((number, true)) => Route::Channel(number),
            _ => Route::Indication,
        }
    }

    /// Whether data may come from an address. If so, it is to have a channel.
    pub(super) fn hears(&mut self, from: SocketAddr, now: Instant) -> bool {
        let Some(permission) = self.permissions.get_mut(&from.ip()) else { return false };
        permission.used = now;
        self.channel(from, now);
        true
    }

    /// Whose channel this is, if it is bound or asked for.
    pub(super) fn of_channel(&mut self, number: u16, now: Instant) -> Option<SocketAddr> {
        let known = self.channels.get_mut(&number)?;
        if !known.asked && known.ends.is_none_or(|ends| ends <= now) {
            return None;
        }
        known.used = now;
        let peer = known.peer;
        if let Some(permission) = self.permissions.get_mut(&peer.ip()) {
            permission.used = now;
        }
        Some(peer)
    }

    /// The channel of an address, and whether it can be used; a new one if there is none and room.
    fn channel(&mut self, peer: SocketAddr, now: Instant) -> Option<(u16, bool)> {
        if let Some(number) = self.numbers.get(&peer) {
            let known = self.channels.get_mut(number)?;
            known.used = now;
            return Some((*number, known.ends.is_some_and(|ends| now < ends)));
        }
        if self.channels.len() >= self.max.saturating_mul(CHANNELS_A_PEER) {
            return None;
        }
        let number = CHANNELS.into_iter().find(|number| !self.channels.contains_key(number))?;
        let channel = Channel { peer, ends: None, asked: false, used: now, not_before: now };
        self.channels.insert(number, channel);
        self.numbers.insert(peer, number);
        Some((number, false))
    }

    /// Permissions and channels that the server keeps now.
    pub(super) fn counts(&self, now: Instant) -> (usize, usize) {
        let lives = |ends: Option<Instant>| ends.is_some_and(|ends| now < ends);
        let permissions = self.permissions.values().filter(|known| lives(known.ends)).count();
        (permissions, self.channels.values().filter(|known| lives(known.ends)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Duration = Duration::from_secs(300);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Grants all that is wanted.
    fn grant(peers: &mut Peers, now: Instant) -> Vec<Want> {
        let wants = peers.wants(now);
        for want in &wants {
            match *want {
                Want::Permit(ip) => peers.permitted(ip, true, now),
                Want::Bind { number, .. } => peers.bound(number, true, now),
            }
        }
        wants
    }

    #[test]
    fn data_goes_nowhere_then_without_a_channel_then_on_one() {
        let (mut peers, now, peer) = (Peers::new(4, IDLE), Instant::now(), at("9.9.9.9:1"));
        assert_eq!(peers.route(peer, now), Route::Nowhere);
        assert_eq!(peers.permit(peer.ip(), now), Some(false));
        assert_eq!(peers.route(peer, now), Route::Nowhere, "not granted yet");
        assert_eq!(grant(&mut peers, now), [Want::Permit(peer.ip())]);
        assert_eq!(peers.permit(peer.ip(), now), Some(true));
        assert_eq!(peers.route(peer, now), Route::Indication);
        assert_eq!(grant(&mut peers, now), [Want::Bind { number: 0x4000, peer }]);
        assert_eq!(peers.route(peer, now), Route::Channel(0x4000));
        assert_eq!(peers.of_channel(0x4000, now), Some(peer));
        assert_eq!(peers.of_channel(0x4001, now), None);
        assert_eq!(peers.counts(now), (1, 1));
    }

    #[test]
    fn what_is_used_is_renewed_in_time_and_what_is_not_ends() {
        let (mut peers, began, peer) = (Peers::new(4, IDLE), Instant::now(), at("9.9.9.9:1"));
        peers.permit(peer.ip(), began);
        grant(&mut peers, began);
        peers.route(peer, began);
        grant(&mut peers, began);
        let mut now = began;
        let mut renewed = [0, 0];
        // Used for half an hour.
        while now < began + secs(1800) {
            now = peers.wakes_at(now).unwrap().min(now + secs(10));
            peers.expire(now);
            assert!(matches!(peers.route(peer, now), Route::Channel(_)), "{:?}", now - began);
            for want in grant(&mut peers, now) {
                renewed[usize::from(matches!(want, Want::Bind { .. }))] += 1;
            }
        }
        assert!((6..=8).contains(&renewed[0]) && (3..=4).contains(&renewed[1]), "{renewed:?}");
        // And then no more: all ends, the channel's number last.
        let ended = now;
        let mut wakes = 0;
        while let Some(at) = peers.wakes_at(now) {
            now = at.max(now);
            peers.expire(now);
            grant(&mut peers, now);
            wakes += 1;
            assert!(wakes < 20, "it does not wake for nothing");
        }
        assert!(now < ended + secs(1500), "{:?}", now - ended);
        assert_eq!((peers.permissions.len(), peers.channels.len(), peers.numbers.len()), (0, 0, 0));
    }

    #[test]
    fn a_refused_channel_is_tried_again_later_and_data_goes_without_one() {
        let (mut peers, now, peer) = (Peers::new(4, IDLE), Instant::now(), at("9.9.9.9:1"));
        peers.permit(peer.ip(), now);
        grant(&mut peers, now);
        peers.route(peer, now);
        assert_eq!(peers.wants(now).len(), 1);
        peers.bound(0x4000, false, now);
        assert_eq!(peers.route(peer, now), Route::Indication);
        assert_eq!(peers.wants(now), []);
        assert_eq!(peers.wants(now + secs(60)).len(), 1);
    }

    #[test]
    fn a_refused_permission_is_none() {
        let (mut peers, now) = (Peers::new(4, IDLE), Instant::now());
        let ip = at("9.9.9.9:1").ip();
        peers.permit(ip, now);
        peers.wants(now);
        peers.permitted(ip, false, now);
        assert_eq!(peers.route(at("9.9.9.9:1"), now), Route::Nowhere);
        assert!(!peers.hears(at("9.9.9.9:1"), now));
    }

    #[test]
    fn a_full_table_takes_a_newcomer_in_for_one_that_is_idle_alone() {
        let (mut peers, now) = (Peers::new(2, IDLE), Instant::now());
        let ip = |n: u8| IpAddr::from([9, 9, 9, n]);
        peers.permit(ip(1), now);
        peers.permit(ip(2), now + secs(1));
        grant(&mut peers, now + secs(1));
        assert_eq!(peers.permit(ip(3), now + secs(2)), None);
        assert_eq!(peers.permit(ip(3), now + secs(300)), Some(false), "the first is idle");
        assert!(!peers.permissions.contains_key(&ip(1)));
        assert_eq!(peers.permit(ip(4), now + secs(300)), None);
    }

    proptest! {
        /// Whatever happens in whichever order, the tables stay within their bounds and agree.
        #[test]
        fn the_tables_keep_their_bounds_and_agree(
            steps in proptest::collection::vec((0..7u8, 0..12u8, 0..3u16, 0..400u64), 1..200),
        ) {
            let mut peers = Peers::new(4, IDLE);
            let mut now = Instant::now();
            for (what, n, port, wait) in steps {
                let peer = SocketAddr::new([9, 9, 9, n].into(), port + 1);
                let number = 0x4000 + u16::from(n);
                match what {
                    0 => { peers.permit(peer.ip(), now); }
                    1 => { peers.route(peer, now); }
                    2 => { peers.hears(peer, now); }
                    3 => { grant(&mut peers, now); }
                    4 => { peers.of_channel(number, now); }
                    5 => peers.bound(number, false, now),
                    _ => peers.permitted(peer.ip(), n % 2 == 0, now),
                }
                now += secs(wait);
                peers.expire(now);
                prop_assert!(peers.permissions.len() <= 4);
                prop_assert!(peers.channels.len() <= 8);
                prop_assert_eq!(peers.channels.len(), peers.numbers.len());
                for (number, channel) in &peers.channels {
                    prop_assert_eq!(peers.numbers.get(&channel.peer), Some(number));
                }
            }
        }
    }
}
