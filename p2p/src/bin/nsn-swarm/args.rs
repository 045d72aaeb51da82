//! The command line, and what of it makes no sense.

use clap::{Parser, ValueEnum};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use nsn_p2p::gossip::{Channel, Topic};
use std::{net::IpAddr, str::FromStr};

const SCENARIOS: &str = "\
What a peer that misbehaves does (--misbehave KIND[:PEERS], as often as wanted), --bad-rate times a
second unless it says otherwise:
  malformed           signed messages that hold no envelope
  bad-signature       messages whose signature is wrong
  future              messages that say they were made an hour from now
  expired             messages whose time is long over
  unknown-topic       subscriptions and messages of a topic that does not exist
  replay              the same message again and again
  flood               honest messages, as fast as the node takes them
  connect-disconnect  connects, and is gone as soon as it is in
  oversized           frames that announce 64 MiB, and their beginning
  ihave               promises of 1,000 messages that it does not have
  graft               joins and leaves every mesh in turn
  never-read          listens to all topics, and reads nothing of what it gets
  trickle             sends one frame a byte a second, and reads as slowly
A peer that the node throws out comes back under the same key, after 0.25 s and up to 10 s.

Output is one JSON object a line: `start` first, `second` once a second with what came in it, and
`summary` with all of it. Latencies are from the author's clock before signing to the peer that got
the message from the node.";

/// Starts many light peers against one overlay node of a test network, and says how it fares.
///
/// A light peer is a key, a connection and gossip on the control topics, nothing else. The honest ones
/// publish (--rate) and listen; others come and go (--churn), come all at once (--burst), or misbehave
/// (--misbehave). They connect from addresses across 127.0.0.0/8. Only nodes on loopback or private
/// addresses are accepted as a target.
#[derive(Clone, Debug, Parser)]
#[command(name = "nsn-swarm", version, after_long_help = SCENARIOS)]
pub(crate) struct Args {
    /// The node, as /ip4/../tcp/../p2p/.. or /ip4/../udp/../quic-v1/p2p/.. Without it, a node is
    /// started in this process and listens on a free port of 127.0.0.1.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) against: Option<Target>,
    /// Hash of the chain's genesis block, in hex; its first 8 digits are enough.
    #[arg(long, default_value = "7e7e7e7e", value_name = "HEX")]
    pub(crate) genesis: Genesis,
    /// How to reach the node that is started here.
    #[arg(long, value_enum, default_value = "tcp", conflicts_with = "against")]
    pub(crate) wire: Wire,
    /// Honest peers.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) peers: u32,
    /// Messages a second that the honest peers publish together.
    #[arg(long, default_value = "10", value_name = "PER_SECOND")]
    pub(crate) rate: Rate,
    /// Bytes that a message carries.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    pub(crate) size: u32,
    /// Topics that are listened to, and published on in turn; all control topics but `bft` if none.
    #[arg(long = "topic", value_name = "TOPIC", value_parser = control_topic)]
    pub(crate) topics: Vec<Topic>,
    /// Peers that misbehave, one if no number is given.
    #[arg(long, value_name = "KIND[:PEERS]")]
    pub(crate) misbehave: Vec<Misbehaving>,
    /// How often a peer that misbehaves does so.
    #[arg(long, default_value = "100", value_name = "PER_SECOND")]
    pub(crate) bad_rate: Rate,
    /// Connections a second that are opened, held for a second and closed, each under a fresh key.
    #[arg(long, default_value = "0", value_name = "PER_SECOND")]
    pub(crate) churn: Rate,
    /// Connections that are attempted at the same moment, and held.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) burst: u32,
    /// Source addresses in 127.0.0.0/8 that peers share in turn; 0 lets the system choose.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub(crate) sources: u32,
    /// Honest peers that connect a second, at the start.
    #[arg(long, default_value = "50", value_name = "PER_SECOND")]
    pub(crate) ramp: Rate,
    /// Seconds until nothing is published any more.
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    pub(crate) duration: Rate,
    /// Seconds to listen after that.
    #[arg(long, default_value = "2", value_name = "SECONDS")]
    pub(crate) linger: Rate,
    /// The same seed makes the same keys.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// How a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wire {
    /// TCP, Noise and Yamux.
    Tcp,
    /// QUIC.
    Quic,
}

/// A node that may be attacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its address, without its PeerId.
    pub(crate) addr: Multiaddr,
    pub(crate) ip: IpAddr,
    pub(crate) wire: Wire,
    pub(crate) peer: PeerId,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addr: Multiaddr = text.parse().map_err(|error| format!("no address: {error}"))?;
        let form = || {
            "the form is /ip4/../tcp/../p2p/.. or /ip4/../udp/../quic-v1/p2p/.., the last part \
             being the PeerId of the node"
                .to_owned()
        };
        let parts: Vec<Protocol<'_>> = addr.iter().collect();
        let (ip, wire, peer) = match parts.as_slice() {
            [ip, Protocol::Tcp(_), Protocol::P2p(peer)] => (ip, Wire::Tcp, *peer),
            [ip, Protocol::Udp(_), Protocol::QuicV1, Protocol::P2p(peer)] => {
                (ip, Wire::Quic, *peer)
            }
            _ => return Err(form()),
        };
        let ip = match ip {
            Protocol::Ip4(ip) => IpAddr::from(*ip),
            Protocol::Ip6(ip) => IpAddr::from(*ip),
            _ => return Err(form()),
        };
        let own = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            IpAddr::V6(ip) => {
                ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
            }
        };
        if !own {
            return Err(format!(
                "{ip} is neither a loopback nor a private address; this tool attacks test networks only"
            ));
        }
        let addr = parts.into_iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        Ok(Self { addr, ip, wire, peer })
    }
}

/// The beginning of a genesis hash, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Genesis(pub(crate) [u8; 32]);

impl FromStr for Genesis {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut start = [0u8; 4];
        let eight = digits.get(..8).ok_or("there are fewer than 8 hex digits")?;
        hex::decode_to_slice(eight, &mut start).map_err(|_| "these are no hex digits")?;
        Ok(Self(std::array::from_fn(|n| start.get(n).copied().unwrap_or_default())))
    }
}

/// So many a second, or so many seconds: a number that is finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(pub(crate) f64);

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            Ok(number) if (0.0..=1e6).contains(&number) => Ok(Self(number)),
            _ => Err("it must be a number from 0 to 1,000,000"),
        }
    }
}

/// What a peer does wrong; `SCENARIOS` says it in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mischief {
    Malformed,
    BadSignature,
    Future,
    Expired,
    UnknownTopic,
    Replay,
    Flood,
    ConnectDisconnect,
    Oversized,
    Ihave,
    Graft,
    NeverRead,
    Trickle,
}

/// So many peers that do the same thing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misbehaving {
    pub(crate) kind: Mischief,
    pub(crate) peers: u16,
}

impl FromStr for Misbehaving {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, peers) = match text.split_once(':') {
            Some((kind, peers)) => {
                (kind, peers.parse().map_err(|_| format!("{peers:?} is no number of peers"))?)
            }
            None => (text, 1),
        };
        let kind = Mischief::from_str(kind, false).map_err(|_| {
            let kinds: Vec<String> = Mischief::value_variants()
                .iter()
                .filter_map(|kind| Some(kind.to_possible_value()?.get_name().to_owned()))
                .collect();
            format!("there is no {kind:?}; there are {}", kinds.join(", "))
        })?;
        Ok(Self { kind, peers })
    }
}

fn control_topic(text: &str) -> Result<Topic, String> {
    let topic: Topic =
        text.parse().map_err(|error: nsn_p2p::gossip::UnknownTopic| error.to_string())?;
    match topic.channel() {
        Channel::Control => Ok(topic),
        Channel::Bulk => {
            Err(format!("light peers do not speak {topic}, which is a protocol of its own"))
        }
    }
}

impl Args {
    /// The topics, all that anybody may speak on if none were named.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        if !self.topics.is_empty() {
            return self.topics.clone();
        }
        let open = |topic: &Topic| topic.channel() == Channel::Control && *topic != Topic::Bft;
        Topic::ALL.into_iter().filter(open).collect()
    }

    /// The address that a peer connects from: one of 127.0.0.0/8 if the node is there, any of the
    /// system's if not. Honest peers have the lower half and all others the upper, so that they share
    /// no /16 network, and each uses as many of its 127 networks as there are addresses.
    pub(crate) fn source(&self, target: IpAddr, honest: bool, index: u32) -> Option<IpAddr> {
        let loopback = matches!(target, IpAddr::V4(ip) if ip.is_loopback());
        if !loopback || self.sources == 0 {
            return None;
        }
        let n = index % self.sources;
        let part = |n: u32, count: u32| u8::try_from(n % count + 1).unwrap_or(1);
        let half = if honest { 0 } else { 127 };
        Some([127, half + part(n, 127), part(n / 127, 254), part(n / (127 * 254), 254)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn target(addr: &str) -> Result<Target, String> {
        format!("{addr}/p2p/{PEER}").parse()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn only_test_networks_are_attacked() {
        for good in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.1.2.3/udp/1/quic-v1",
            "/ip6/::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
        ] {
            target(good).unwrap();
        }
        for bad in
            ["/ip4/8.8.8.8/tcp/1", "/ip6/2606:4700::1/tcp/1", "/dns/a.org/tcp/1", "/memory/1"]
        {
            assert!(target(bad).is_err(), "{bad}");
        }
        assert!("/ip4/127.0.0.1/tcp/1".parse::<Target>().unwrap_err().contains("PeerId"));
    }

    #[test]
    fn misbehaviour_is_read_with_its_number() {
        let read = |text: &str| text.parse::<Misbehaving>();
        assert_eq!(read("ihave"), Ok(Misbehaving { kind: Mischief::Ihave, peers: 1 }));
        assert_eq!(
            read("bad-signature:20"),
            Ok(Misbehaving { kind: Mischief::BadSignature, peers: 20 })
        );
        assert!(read("nonsense").unwrap_err().contains("connect-disconnect"));
        assert!(read("flood:many").unwrap_err().contains("many"));
    }

    #[test]
    fn every_kind_is_explained() {
        for kind in Mischief::value_variants() {
            let name = kind.to_possible_value().unwrap().get_name().to_owned();
            assert!(SCENARIOS.contains(&format!("\n  {name} ")), "{name}");
        }
    }

    #[test]
    fn sources_differ_and_are_shared_in_turn() {
        let args = Args::parse_from(["nsn-swarm", "--sources", "1000"]);
        let at = |honest, index| args.source([127, 0, 0, 1].into(), honest, index).unwrap();
        let all = |honest| (0..5000).map(|n| at(honest, n)).collect::<HashSet<IpAddr>>();
        assert_eq!((all(true).len(), all(false).len()), (1000, 1000));
        assert_eq!(at(true, 0), at(true, 1000));
        assert!(all(true).iter().chain(&all(false)).all(IpAddr::is_loopback));
        let network = |ip: &IpAddr| ip.to_string().split('.').nth(1).unwrap().to_owned();
        let networks = |honest| all(honest).iter().map(network).collect::<HashSet<_>>();
        assert!(networks(true).is_disjoint(&networks(false)));
        assert_eq!(args.source([10, 0, 0, 1].into(), true, 1), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let _ = text.parse::<Target>();
            let _ = text.parse::<Genesis>();
            let _ = text.parse::<Rate>();
            let _ = text.parse::<Misbehaving>();
        }
    }
}
