//! Which addresses may be dialled, kept and handed on.

use crate::{Multiaddr, PeerId};
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest address that is kept, in bytes of its binary form. A QUIC address with a PeerId takes
/// about 60, a long DNS name 255 more.
pub(crate) const MAX_ADDRESS_BYTES: usize = 320;

/// Which addresses take part. An address this node listens on counts as reachable from outside if it
/// is one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressPolicy {
    /// Only globally routable IPs, and DNS names (what they resolve to is checked again when
    /// dialled). For public networks.
    #[default]
    Global,
    /// Any specified IP, loopback and private ones too, and in-process addresses. For dev and local
    /// chains.
    Any,
}

impl AddressPolicy {
    /// Whether the address may be dialled, stored or passed on. None through a relay is; see
    /// [`Self::allows_circuit`].
    pub fn allows(self, addr: &Multiaddr) -> bool {
        if addr.len() > MAX_ADDRESS_BYTES || is_circuit(addr) {
            return false;
        }
        let mut parts = addr.iter();
        let host_allowed = match parts.next() {
            Some(Protocol::Ip4(ip)) => self.allows_ip(ip.into()),
            Some(Protocol::Ip6(ip)) => self.allows_ip(ip.into()),
            Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
            Some(Protocol::Memory(port)) => return self == Self::Any && port != 0,
            _ => false,
        };
        let port = match parts.next() {
            Some(Protocol::Tcp(port) | Protocol::Udp(port)) => port,
            _ => 0,
        };
        host_allowed && port != 0
    }

    /// Whether the address is one through a relay, at an address that may be dialled, that may be
    /// kept and passed on.
    pub(crate) fn allows_circuit(self, addr: &Multiaddr) -> bool {
        addr.len() <= MAX_ADDRESS_BYTES
            && Circuit::of(addr).is_some_and(|circuit| self.allows(&circuit.relay_addr))
    }

    /// Whether an IP may be dialled, stored or passed on.
    pub fn allows_ip(self, ip: IpAddr) -> bool {
        if ip.is_unspecified() || ip.is_multicast() {
            return false;
        }
        match self {
            Self::Any => true,
            Self::Global => match ip {
                IpAddr::V4(ip) => global_v4(ip),
                IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                    Some(ip) => global_v4(ip),
                    None => global_v6(ip),
                },
            },
        }
    }
}

/// By the IANA special-purpose registry for IPv4 (the standard library's own test is unstable).
fn global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = a == 192 && b == 0 && c == 0;
    let benchmarking = a == 198 && (b == 18 || b == 19);
    let reserved = a >= 240;
    !(a == 0
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        || shared
        || protocols
        || benchmarking
        || reserved)
}

/// Global unicast (2000::/3) without documentation, benchmarking, ORCHID and 6to4, whose embedded
/// IPv4 could be anything.
fn global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let unicast = a & 0xe000 == 0x2000;
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    let protocols = a == 0x2001 && b < 0x0200;
    let six_to_four = a == 0x2002;
    unicast && !documentation && !protocols && !six_to_four
}

/// The address without a trailing `/p2p/...`. One through a relay keeps the relay.
pub(crate) fn without_peer(addr: &Multiaddr) -> Multiaddr {
    let mut relayed = is_circuit(addr);
    let rest = addr.iter().take_while(|part| match part {
        Protocol::P2pCircuit => {
            relayed = false;
            true
        }
        Protocol::P2p(_) => relayed,
        _ => true,
    });
    rest.collect()
}

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// An address through a relay, in its parts: `<relay_addr>/p2p/<relay>/p2p-circuit[/p2p/<peer>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Circuit {
    pub(crate) relay_addr: Multiaddr,
    pub(crate) relay: PeerId,
    /// Who is at the other end, if it says so.
    pub(crate) peer: Option<PeerId>,
}

impl Circuit {
    /// The parts; nothing of an address of any other shape.
    pub(crate) fn of(addr: &Multiaddr) -> Option<Self> {
        let mut relay_addr = Multiaddr::empty();
        let mut parts = addr.iter();
        let relay = loop {
            match parts.next()? {
                Protocol::P2p(relay) => break relay,
                part => relay_addr.push(part),
            }
        };
        if !matches!(parts.next()?, Protocol::P2pCircuit) {
            return None;
        }
        let peer = match parts.next() {
            None => None,
            Some(Protocol::P2p(peer)) => Some(peer),
            Some(_) => return None,
        };
        parts.next().is_none().then_some(Self { relay_addr, relay, peer })
    }
}

/// Whether an address is of a transport over UDP. One through a relay is of none.
pub(crate) fn is_udp(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Udp(_))) && !is_circuit(addr)
}

/// The IP an address begins with. One through a relay has none: that IP is the relay's.
pub(crate) fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    if is_circuit(addr) {
        return None;
    }
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whom an IP address stands for when connections are counted: an IPv4 address for itself, an IPv6
/// address for its /64, which is the least that one customer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source([u8; 8]);

impl Source {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                // Of 0::/8, which nobody has.
                [0, 0, 0, 0, a, b, c, d]
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                [a, b, c, d, e, f, g, h]
            }
        })
    }
}

/// The network that an IP address belongs to, where it counts how many different ones there are: the
/// /16 of an IPv4 address, the /32 of an IPv6 address. Whoever has many addresses has them in few of
/// these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct IpGroup([u8; 4]);

impl IpGroup {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                [0, 0, a, b]
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                [a, b, c, d]
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(s: &str) -> Multiaddr {
        s.parse().unwrap()
    }

    #[test]
    fn public_networks_take_only_global_addresses() {
        let policy = AddressPolicy::Global;
        for good in
            ["/ip4/8.8.8.8/tcp/9000", "/ip6/2606:4700::1/udp/9000/quic-v1", "/dns/a.org/tcp/1"]
        {
            assert!(policy.allows(&addr(good)), "{good}");
        }
        for bad in [
            "/ip4/127.0.0.1/tcp/9000",
            "/ip4/10.0.0.1/tcp/9000",
            "/ip4/192.168.1.1/udp/9000/quic-v1",
            "/ip4/100.64.0.1/tcp/9000",
            "/ip4/169.254.0.1/tcp/9000",
            "/ip4/198.18.0.1/tcp/9000",
            "/ip4/203.0.113.1/tcp/9000",
            "/ip4/0.0.0.0/tcp/9000",
            "/ip4/8.8.8.8/tcp/0",
            "/ip6/::1/tcp/9000",
            "/ip6/fe80::1/tcp/9000",
            "/ip6/fd00::1/tcp/9000",
            "/ip6/::ffff:10.0.0.1/tcp/9000",
            "/ip6/2002:0a00:0001::1/tcp/9000",
            "/memory/7",
            "/tcp/9000",
            "/ip4/8.8.8.8",
        ] {
            assert!(!policy.allows(&addr(bad)), "{bad}");
        }
    }

    #[test]
    fn dev_chains_take_any_usable_address() {
        let policy = AddressPolicy::Any;
        for good in ["/ip4/127.0.0.1/tcp/9000", "/ip6/::1/udp/9000/quic-v1", "/memory/7"] {
            assert!(policy.allows(&addr(good)), "{good}");
        }
        for bad in
            ["/ip4/0.0.0.0/tcp/9000", "/ip4/127.0.0.1/tcp/0", "/memory/0", "/ip4/224.0.0.1/tcp/1"]
        {
            assert!(!policy.allows(&addr(bad)), "{bad}");
        }
    }

    #[test]
    fn the_peer_is_cut_off() {
        let peer = crate::identity::peer_id_of(&[1; 32]).unwrap();
        let with = addr("/ip4/1.2.3.4/tcp/1").with(Protocol::P2p(peer));
        assert_eq!(without_peer(&with), addr("/ip4/1.2.3.4/tcp/1"));
        assert_eq!(ip_of(&with), Some("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn an_address_through_a_relay_is_the_relays_and_no_other() {
        let [relay, peer] = [1, 2].map(|n| crate::identity::peer_id_of(&[n; 32]).unwrap());
        let at = "/ip4/8.8.8.8/udp/9000/quic-v1";
        let circuit = addr(&format!("{at}/p2p/{relay}/p2p-circuit"));
        let with = circuit.clone().with(Protocol::P2p(peer));
        let parts = Circuit { relay_addr: addr(at), relay, peer: Some(peer) };
        assert_eq!(Circuit::of(&with), Some(parts.clone()));
        assert_eq!(Circuit::of(&circuit), Some(Circuit { peer: None, ..parts }));
        assert_eq!(without_peer(&with), circuit);
        assert!(is_circuit(&with) && !is_udp(&with) && ip_of(&with).is_none());
        for policy in [AddressPolicy::Global, AddressPolicy::Any] {
            assert!(policy.allows_circuit(&with) && !policy.allows(&with));
            assert!(!policy.allows_circuit(&addr(at)));
        }
        let private = addr(&format!("/ip4/10.0.0.1/tcp/1/p2p/{relay}/p2p-circuit"));
        assert!(!AddressPolicy::Global.allows_circuit(&private));
        for bad in [
            format!("{at}/p2p-circuit/p2p/{peer}"),
            format!("{at}/p2p/{relay}/p2p-circuit/p2p/{peer}/p2p-circuit"),
            format!("{at}/p2p/{relay}/p2p-circuit/tcp/1"),
            format!("/memory/1/p2p/{relay}/tcp/1/p2p-circuit"),
        ] {
            let bad = addr(&bad);
            assert_eq!(Circuit::of(&bad), None, "{bad}");
            assert!(!AddressPolicy::Any.allows(&bad) && !AddressPolicy::Any.allows_circuit(&bad));
        }
    }

    #[test]
    fn sources_and_groups_are_as_wide_as_an_owner_of_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let same = |a, b| {
            (Source::of(ip(a)) == Source::of(ip(b)), IpGroup::of(ip(a)) == IpGroup::of(ip(b)))
        };
        assert_eq!(same("8.8.8.8", "8.8.8.9"), (false, true));
        assert_eq!(same("8.8.8.8", "8.9.8.8"), (false, false));
        assert_eq!(same("8.8.8.8", "::ffff:8.8.8.8"), (true, true));
        assert_eq!(same("2606:4700::1", "2606:4700::2"), (true, true));
        assert_eq!(same("2606:4700::1", "2606:4700:1::1"), (false, true));
        assert_eq!(same("2606:4700::1", "2606:4701::1"), (false, false));
    }

    proptest! {
        #[test]
        fn an_address_through_a_relay_is_never_one_without(bytes: Vec<u8>) {
            let Ok(addr) = Multiaddr::try_from(bytes) else { return Ok(()) };
            let policy = AddressPolicy::Any;
            prop_assert!(!(policy.allows(&addr) && policy.allows_circuit(&addr)));
            prop_assert!(!is_circuit(&without_peer(&addr)) || is_circuit(&addr));
        }

        #[test]
        fn whatever_is_global_is_also_any(ip: [u8; 16], v4: bool) {
            let ip: IpAddr = if v4 {
                <[u8; 4]>::try_from(&ip[..4]).unwrap().into()
            } else {
                ip.into()
            };
            if AddressPolicy::Global.allows_ip(ip) {
                prop_assert!(AddressPolicy::Any.allows_ip(ip));
                prop_assert!(!ip.is_loopback());
            }
        }
    }
}
