//! How a NAT behaves, in the terms of RFC 4787.

use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// Whether a NAT gives one socket the same public port for every destination (RFC 4787, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// The same for all: what one peer sees, every other can be told.
    Independent,
    /// Another for each address.
    AddressDependent,
    /// Another for each address and port.
    PortDependent,
    /// Another for some, by what is not known.
    Dependent,
}

/// Whom a NAT lets in on a port that it has given out (RFC 4787, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Everybody.
    Independent,
    /// Addresses that were sent to.
    AddressDependent,
    /// Addresses and ports that were sent to.
    PortDependent,
}

/// What stands between this node and others: a metric label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NatType {
    /// Not known yet.
    #[default]
    Unknown,
    /// No address is translated.
    None,
    /// One port for all, and everybody is let in.
    FullCone,
    /// One port for all; addresses are let in that were sent to.
    RestrictedCone,
    /// One port for all; addresses and ports are let in that were sent to.
    PortRestrictedCone,
    /// One port for all; whom it lets in is not known.
    Cone,
    /// Another port for each destination.
    Symmetric,
    /// UDP does not get out.
    UdpBlocked,
}

impl NatType {
    pub(crate) const ALL: [Self; 8] = [
        Self::Unknown,
        Self::None,
        Self::FullCone,
        Self::RestrictedCone,
        Self::PortRestrictedCone,
        Self::Cone,
        Self::Symmetric,
        Self::UdpBlocked,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::FullCone => "full_cone",
            Self::RestrictedCone => "restricted_cone",
            Self::PortRestrictedCone => "port_restricted_cone",
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
            Self::UdpBlocked => "udp_blocked",
        }
    }

    /// By how it maps and filters.
    pub(crate) fn of(mapping: Option<Mapping>, filtering: Option<Filtering>) -> Self {
        match (mapping, filtering) {
            (None, _) => Self::Unknown,
            (Some(Mapping::Independent), None) => Self::Cone,
            (Some(Mapping::Independent), Some(Filtering::Independent)) => Self::FullCone,
            (Some(Mapping::Independent), Some(Filtering::AddressDependent)) => Self::RestrictedCone,
            (Some(Mapping::Independent), Some(Filtering::PortDependent)) => {
                Self::PortRestrictedCone
            }
            (Some(_), _) => Self::Symmetric,
        }
    }
}

/// How a NAT maps, by what others at different addresses see of one socket, each named once. Only
/// those are compared that see the same public address, as most do: another may be a lie, or
/// another way out. Nothing, if there are no two of them.
pub(crate) fn mapping_of(seen: impl IntoIterator<Item = SocketAddr>) -> Option<Mapping> {
    let mut ports = BTreeMap::<IpAddr, Vec<u16>>::new();
    for at in seen {
        ports.entry(at.ip().to_canonical()).or_default().push(at.port());
    }
    let mut most = ports.into_values().max_by_key(Vec::len)?;
    if most.len() < 2 {
        return None;
    }
    most.sort_unstable();
    // One that agrees with another is enough: two do not see the same of many ports by chance.
    let agree = most.windows(2).any(|pair| pair.first() == pair.last());
    Some(if agree { Mapping::Independent } else { Mapping::Dependent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seen: &[&str]) -> Option<Mapping> {
        mapping_of(seen.iter().map(|at| at.parse().unwrap()))
    }

    #[test]
    fn two_that_agree_show_one_port_for_all() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["8.8.8.8:1"]), None);
        assert_eq!(of(&["8.8.8.8:1", "8.8.8.8:1"]), Some(Mapping::Independent));
        assert_eq!(of(&["8.8.8.8:1", "8.8.8.8:2"]), Some(Mapping::Dependent));
        assert_eq!(of(&["8.8.8.8:1", "9.9.9.9:1"]), None, "who of them is right?");
    }

    #[test]
    fn a_liar_among_three_changes_nothing() {
        let seen = ["8.8.8.8:7", "1.2.3.4:5", "8.8.8.8:7"];
        assert_eq!(of(&seen), Some(Mapping::Independent));
        let seen = ["8.8.8.8:7", "8.8.8.8:5", "8.8.8.8:7"];
        assert_eq!(of(&seen), Some(Mapping::Independent));
    }

    #[test]
    fn the_type_follows_from_both_behaviours() {
        use {Filtering as F, Mapping as M};
        for (mapping, filtering, wanted) in [
            (None, Some(F::Independent), NatType::Unknown),
            (Some(M::Independent), None, NatType::Cone),
            (Some(M::Independent), Some(F::Independent), NatType::FullCone),
            (Some(M::Independent), Some(F::AddressDependent), NatType::RestrictedCone),
            (Some(M::Independent), Some(F::PortDependent), NatType::PortRestrictedCone),
            (Some(M::Dependent), None, NatType::Symmetric),
            (Some(M::AddressDependent), Some(F::Independent), NatType::Symmetric),
            (Some(M::PortDependent), Some(F::PortDependent), NatType::Symmetric),
        ] {
            assert_eq!(NatType::of(mapping, filtering), wanted, "{mapping:?} {filtering:?}");
        }
    }
}
