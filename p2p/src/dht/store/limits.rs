//! Bounds of the records held for others, and why one is not taken.

use crate::BuildError;
use serde::{Deserialize, Serialize};

/// Most addresses kept of one provider.
///
/// kad refuses a packet beyond 16 KiB, and answers a question for a key with up to 20 providers. At
/// most these are 20 * (44 + 2 * (128 + 3) bytes) = 6.1 KB, where 44 is a PeerId with its framing
/// and 3 the framing of an address; what is left is for the nearer peers named with them.
pub(crate) const MAX_ADDRESSES: usize = 2;

/// Longest address that is kept of a provider; a QUIC address with a PeerId takes about 65 bytes,
/// one through a relay, with both PeerIds, 95 over IPv4 and 107 over IPv6.
pub(crate) const MAX_ADDRESS_BYTES: usize = 128;

/// Most records a store may be configured to hold: 1.3 GB.
const MAX_TOTAL: usize = 10_000_000;

/// Bounds of the records held for others.
///
/// A record takes 64 bytes in its slot, of which a quarter may be spare, and 37 bytes in the index of
/// keys, of which half may be: 130 bytes with a key of its own, so all of them 26 MB. A provider takes
/// at most 800 bytes with its addresses, which are kept once and not with each record: 3.3 MB. A
/// provider's rate takes 130 bytes: 1.1 MB. What is still to be written to disk takes 4 bytes a record
/// and 64 a removed one: 1.9 MB. In all 33 MB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Providers of one key. Default 20.
    pub per_key: usize,
    /// Records of one provider. Default 100,000: in a network of less than 20 nodes every node
    /// holds every record.
    pub per_provider: usize,
    /// Providers. Default 4,096.
    pub providers: usize,
    /// Records in all. Default 200,000.
    pub total: usize,
    /// Addresses of at most 128 bytes kept of one provider. Default 2, which is also the most: with
    /// more, answers could grow past the size kad reads.
    pub addresses: usize,
    /// Records that are taken from an unbound provider, in records per second. Default 100.
    pub rate: u32,
    /// Records that are taken from it at once, after it was silent. Default 1,000.
    pub burst: u32,
    /// The same for a provider bound to an account, in records per second. Default 1,000.
    pub bound_rate: u32,
    /// The same for a provider bound to an account, at once. Default 10,000.
    pub bound_burst: u32,
    /// Providers whose rate is remembered; more share one rate between them. Default 8,192.
    pub rates: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_key: 20,
            per_provider: 100_000,
            providers: 4_096,
            total: 200_000,
            addresses: MAX_ADDRESSES,
            rate: 100,
            burst: 1_000,
            bound_rate: 1_000,
            bound_burst: 10_000,
            rates: 8_192,
        }
    }
}

impl Limits {
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let fail = |setting, problem: &str| {
            Err(BuildError::Setting { setting, problem: problem.to_owned() })
        };
        for (setting, value) in [
            ("dht.store.per_provider", self.per_provider),
            ("dht.store.providers", self.providers),
            ("dht.store.total", self.total),
            ("dht.store.rates", self.rates),
        ] {
            if !(1..=MAX_TOTAL).contains(&value) {
                return fail(setting, "must be 1 to 10,000,000");
            }
        }
        // An answer names all of them.
        if !(1..=20).contains(&self.per_key) {
            return fail("dht.store.per_key", "must be 1 to 20");
        }
        if self.addresses > MAX_ADDRESSES {
            return fail("dht.store.addresses", "must be at most 2");
        }
        for (setting, value) in [
            ("dht.store.rate", self.rate),
            ("dht.store.burst", self.burst),
            ("dht.store.bound_rate", self.bound_rate),
            ("dht.store.bound_burst", self.bound_burst),
        ] {
            if value == 0 {
                return fail(setting, "must be above zero");
            }
        }
        Ok(())
    }
}

/// Why a record was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The key is not 32 bytes long.
    KeySize,
    /// The provider uses no ed25519 key.
    ProviderKeyType,
    /// The provider is graylisted.
    Graylisted,
    /// The provider sends more than its rate allows.
    Rate,
    /// The key has as many providers as are kept, none of them worse.
    PerKey,
    /// The provider has as many records as are kept.
    PerProvider,
    /// As many providers are known as are kept, none of them worse.
    Providers,
    /// As many records are held as are kept, and none is of a provider that is worse or has more.
    Total,
}

impl Refused {
    /// All of them, which dashboards see from the start.
    pub const ALL: [Self; 8] = [
        Self::KeySize,
        Self::ProviderKeyType,
        Self::Graylisted,
        Self::Rate,
        Self::PerKey,
        Self::PerProvider,
        Self::Providers,
        Self::Total,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::KeySize => "key_size",
            Self::ProviderKeyType => "provider_key_type",
            Self::Graylisted => "graylisted",
            Self::Rate => "rate",
            Self::PerKey => "per_key",
            Self::PerProvider => "per_provider",
            Self::Providers => "providers",
            Self::Total => "total",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let base = Limits::default();
        let bad = [
            Limits { per_key: 21, ..base.clone() },
            Limits { per_key: 0, ..base.clone() },
            Limits { total: MAX_TOTAL + 1, ..base.clone() },
            Limits { providers: 0, ..base.clone() },
            Limits { addresses: 3, ..base.clone() },
            Limits { burst: 0, ..base.clone() },
            Limits { rates: 0, ..base.clone() },
        ];
        for limits in bad {
            assert!(limits.validate().is_err(), "{limits:?}");
        }
        base.validate().unwrap();
    }
}
