//! Who is shut out, by the operator's word: peers and addresses, for a time or for good.

use crate::{Closed, PeerId, address::Source};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};
use thiserror::Error;

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 200;

/// Who is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BanTarget {
    /// A peer, wherever it comes from.
    Peer(#[serde(with = "peer_text")] PeerId),
    /// Whoever comes from this IPv4 address, or from the /64 of this IPv6 address.
    Ip(IpAddr),
}

mod peer_text {
    use crate::PeerId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(peer: &PeerId, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(peer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PeerId, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl BanTarget {
    /// The same target, written in the one way: an IPv6 address stands for its /64, and an IPv4
    /// address inside an IPv6 one for itself.
    fn canonical(self) -> Self {
        match self {
            Self::Peer(_) => self,
            Self::Ip(ip) => Self::Ip(match ip.to_canonical() {
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
                }
                v4 @ IpAddr::V4(_) => v4,
            }),
        }
    }
}

impl fmt::Display for BanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.canonical() {
            Self::Peer(peer) => peer.fmt(f),
            Self::Ip(ip @ IpAddr::V4(_)) => ip.fmt(f),
            Self::Ip(ip @ IpAddr::V6(_)) => write!(f, "{ip}/64"),
        }
    }
}

/// The text names neither a peer nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("give a PeerId, an IPv4 address, or an IPv6 address, which stands for its /64")]
pub struct BadTarget;

impl FromStr for BanTarget {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        if let Ok(ip) = text.strip_suffix("/64").unwrap_or(text).parse::<IpAddr>() {
            let whole = ip.is_ipv4() && text.ends_with("/64");
            return if whole { Err(BadTarget) } else { Ok(Self::Ip(ip).canonical()) };
        }
        text.parse().map(Self::Peer).map_err(|_| BadTarget)
    }
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Who is banned: `peer` or `ip`.
    #[serde(flatten)]
    pub target: BanTarget,
    /// Why, in the words of whoever said so; at most [`MAX_REASON`] bytes.
    pub reason: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Until when, in milliseconds since the Unix epoch; for good if nothing.
    pub until_ms: Option<u64>,
}

impl Ban {
    pub(crate) fn new(
        target: BanTarget,
        duration: Option<Duration>,
        reason: String,
        now_ms: u64,
    ) -> Result<Self, BanError> {
        if !fit(&reason) {
            return Err(BanError::Reason);
        }
        if duration.is_some_and(|d| d < Duration::from_millis(1)) {
            return Err(BanError::Duration);
        }
        let until_ms = duration
            .map(|d| now_ms.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)));
        Ok(Self { target: target.canonical(), reason, since_ms: now_ms, until_ms })
    }

    fn over(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until| until <= now_ms)
    }
}

/// It is printed on terminals and kept in a file.
fn fit(reason: &str) -> bool {
    reason.len() <= MAX_REASON && !reason.chars().any(char::is_control)
}

/// Why a ban was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BanError {
    /// The reason is too long, or holds control characters.
    #[error("a reason has at most {MAX_REASON} bytes and no control characters")]
    Reason,
    /// It would be over at once.
    #[error("a ban lasts at least a millisecond")]
    Duration,
    /// The target is this node itself.
    #[error("a node cannot ban itself")]
    OwnKey,
    /// There are as many bans as may be.
    #[error("there are as many bans as `admission.max_bans` allows; lift some first")]
    Full,
    /// Too many calls are waiting already.
    #[error("too many calls about peers are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a ban was not lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnbanError {
    /// There is no such ban.
    #[error("no such ban is in force")]
    NotBanned,
    /// Too many calls are waiting already.
    #[error("too many calls about peers are waiting")]
    Busy,
    /// The overlay is not running.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// The bans in force. Bounded by `admission.max_bans`.
#[derive(Debug)]
pub(super) struct Bans {
    peers: HashMap<PeerId, Ban>,
    sources: HashMap<Source, Ban>,
    max: usize,
}

impl Bans {
    /// Begins with what was kept; whatever makes no sense or is over is left out.
    pub(super) fn new(max: usize, kept: Vec<Ban>, now_ms: u64) -> Self {
        let mut bans = Self { peers: HashMap::new(), sources: HashMap::new(), max };
        for ban in kept.into_iter().filter(|ban| fit(&ban.reason) && !ban.over(now_ms)) {
            let target = ban.target.canonical();
            if bans.set(Ban { target, ..ban }, now_ms).is_err() {
                tracing::warn!("more bans were kept than may be held; the last are dropped");
                break;
            }
        }
        bans
    }

    /// Bans, in place of an earlier ban of the same target.
    pub(super) fn set(&mut self, ban: Ban, now_ms: u64) -> Result<(), BanError> {
        if self.len() >= self.max && !self.holds(&ban.target) {
            self.expire(now_ms);
            if self.len() >= self.max {
                return Err(BanError::Full);
            }
        }
        match ban.target {
            BanTarget::Peer(peer) => self.peers.insert(peer, ban),
            BanTarget::Ip(ip) => self.sources.insert(Source::of(ip), ban),
        };
        Ok(())
    }

    fn holds(&self, target: &BanTarget) -> bool {
        match target {
            BanTarget::Peer(peer) => self.peers.contains_key(peer),
            BanTarget::Ip(ip) => self.sources.contains_key(&Source::of(*ip)),
        }
    }

    /// The ban that was in force, if one was.
    pub(super) fn lift(&mut self, target: &BanTarget, now_ms: u64) -> Option<Ban> {
        let lifted = match target {
            BanTarget::Peer(peer) => self.peers.remove(peer),
            BanTarget::Ip(ip) => self.sources.remove(&Source::of(*ip)),
        };
        lifted.filter(|ban| !ban.over(now_ms))
    }

    pub(super) fn peer(&self, peer: &PeerId, now_ms: u64) -> bool {
        self.peers.get(peer).is_some_and(|ban| !ban.over(now_ms))
    }

    pub(super) fn ip(&self, ip: IpAddr, now_ms: u64) -> bool {
        // Asked for every arrival, and mostly there is none.
        !self.sources.is_empty()
            && self.sources.get(&Source::of(ip)).is_some_and(|ban| !ban.over(now_ms))
    }

    /// Drops those that are over; whether there were any.
    pub(super) fn expire(&mut self, now_ms: u64) -> bool {
        let before = self.len();
        self.peers.retain(|_, ban| !ban.over(now_ms));
        self.sources.retain(|_, ban| !ban.over(now_ms));
        self.len() != before
    }

    /// Those in force, the oldest first.
    pub(super) fn list(&self, now_ms: u64) -> Vec<Ban> {
        let all = self.peers.values().chain(self.sources.values());
        let mut bans: Vec<Ban> = all.filter(|ban| !ban.over(now_ms)).cloned().collect();
        bans.sort_by_cached_key(|ban| (ban.since_ms, ban.target.to_string()));
        bans
    }

    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    fn len(&self) -> usize {
        self.peers.len() + self.sources.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn peer(n: u8) -> BanTarget {
        BanTarget::Peer(peer_id_of(&[n; 32]).unwrap())
    }

    fn ip(text: &str) -> BanTarget {
        text.parse().unwrap()
    }

    fn ban(target: BanTarget, secs: Option<u64>, now_ms: u64) -> Ban {
        Ban::new(target, secs.map(Duration::from_secs), "spam".to_owned(), now_ms).unwrap()
    }

    #[test]
    fn a_ban_holds_until_it_is_over_or_lifted() {
        let mut bans = Bans::new(10, vec![], 0);
        let BanTarget::Peer(one) = peer(1) else { unreachable!() };
        bans.set(ban(peer(1), Some(10), 1000), 1000).unwrap();
        bans.set(ban(ip("2001:db8::1"), None, 1000), 1000).unwrap();
        assert!(bans.peer(&one, 10_999) && !bans.peer(&one, 11_000));
        assert!(bans.ip("2001:db8::ffff".parse().unwrap(), u64::MAX), "the whole /64, for good");
        assert!(!bans.ip("2001:db8:0:1::".parse().unwrap(), 0));
        assert_eq!(bans.list(11_000).len(), 1);
        assert!(!bans.expire(10_999));
        assert!(bans.expire(11_000));
        assert_eq!(bans.lift(&peer(1), 11_000), None);
        assert!(bans.lift(&ip("2001:db8::2"), 11_000).is_some());
        assert_eq!(bans.len(), 0);
    }

    #[test]
    fn a_full_table_takes_no_more_and_loses_none() {
        let mut bans = Bans::new(2, vec![], 0);
        bans.set(ban(peer(1), Some(1), 0), 0).unwrap();
        bans.set(ban(peer(2), None, 0), 0).unwrap();
        assert_eq!(bans.set(ban(peer(3), None, 0), 0), Err(BanError::Full));
        bans.set(ban(peer(2), Some(5), 0), 0).unwrap();
        bans.set(ban(peer(3), None, 1000), 1000).unwrap();
        assert_eq!(bans.list(1000).len(), 2, "what was over has made room");
    }

    #[test]
    fn bad_bans_are_refused() {
        let make = |duration, reason: &str| Ban::new(peer(1), duration, reason.to_owned(), 0);
        assert_eq!(make(Some(Duration::ZERO), ""), Err(BanError::Duration));
        assert_eq!(make(None, &"x".repeat(201)), Err(BanError::Reason));
        assert_eq!(make(None, "a\x1b[31m"), Err(BanError::Reason));
        assert_eq!(make(Some(Duration::MAX), "long").unwrap().until_ms, Some(u64::MAX));
    }

    #[test]
    fn targets_are_written_in_one_way() {
        for (text, written) in [
            ("8.8.8.8", "8.8.8.8"),
            ("::ffff:8.8.8.8", "8.8.8.8"),
            ("2001:db8::5", "2001:db8::/64"),
            ("2001:db8::/64", "2001:db8::/64"),
        ] {
            assert_eq!(ip(text).to_string(), written);
        }
        for bad in ["", "8.8.8.8/64", "8.8.8", "12D3", "2001:db8::/32"] {
            assert_eq!(bad.parse::<BanTarget>(), Err(BadTarget), "{bad}");
        }
    }

    #[test]
    fn the_file_can_be_read_by_people_and_by_us() {
        let bans = vec![ban(peer(1), Some(5), 7), ban(ip("8.8.8.8"), None, 7)];
        let text = serde_json::to_string(&bans).unwrap();
        assert!(text.contains(r#"{"ip":"8.8.8.8","reason":"spam","since_ms":7,"until_ms":null}"#));
        assert_eq!(serde_json::from_str::<Vec<Ban>>(&text).unwrap(), bans);
        let again = Bans::new(10, bans, 5007);
        assert_eq!(again.list(5007), [ban(ip("8.8.8.8"), None, 7)], "the other is over");
    }

    proptest! {
        #[test]
        fn every_target_is_read_as_it_is_written(bytes: [u8; 16], kind in 0u8..3) {
            let target = match kind {
                0 => BanTarget::Ip(IpAddr::from(bytes)).canonical(),
                1 => BanTarget::Ip(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
                _ => peer(bytes[0]),
            };
            prop_assert_eq!(target.to_string().parse::<BanTarget>().unwrap(), target);
            let json = serde_json::to_string(&target).unwrap();
            prop_assert_eq!(serde_json::from_str::<BanTarget>(&json).unwrap(), target);
        }

        #[test]
        fn no_text_is_a_panic(text: String) {
            let _ = text.parse::<BanTarget>();
            let _ = serde_json::from_str::<Vec<Ban>>(&text);
        }

        #[test]
        fn whatever_was_kept_the_bound_holds(
            kept in prop::collection::vec((any::<u8>(), any::<Option<u64>>()), 0..50), max in 1usize..20,
        ) {
            let kept = kept.into_iter().map(|(n, until_ms)| Ban {
                target: peer(n), reason: "x".to_owned(), since_ms: 0, until_ms,
            });
            let bans = Bans::new(max, kept.collect(), 1000);
            prop_assert!(bans.len() <= max);
        }
    }
}
