//! This node's own service record.

use super::{LocalServices, Roles, ServiceRecord, Validity, record};
use crate::{AddressPolicy, Identity, Multiaddr, Protocols};
use libp2p::identity::SigningError;
use std::time::Duration;

/// What this node offers, and the record that was signed last.
pub(crate) struct Local {
    lifetime_ms: u64,
    policy: AddressPolicy,
    offered: Option<LocalServices>,
    signed: Option<(ServiceRecord, Vec<u8>)>,
    sequence: u64,
}

impl Local {
    pub(crate) fn new(lifetime: Duration, policy: AddressPolicy) -> Self {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Self { lifetime_ms, policy, offered: None, signed: None, sequence: 0 }
    }

    /// Without a role there is nothing to offer.
    pub(crate) fn set(&mut self, services: LocalServices) {
        if self.offered.as_ref() != Some(&services) {
            let has_role = services.roles != Roles::default();
            self.offered = has_role.then_some(services);
            self.signed = None;
        }
    }

    /// The record and its signed bytes; `None` if nothing is offered. Signed anew if what is offered
    /// or where has changed, or half of its life is over.
    pub(crate) fn current(
        &mut self,
        hosts: &[Multiaddr],
        identity: &Identity,
        protocols: &Protocols,
        now_ms: u64,
    ) -> Result<Option<&(ServiceRecord, Vec<u8>)>, SigningError> {
        let Some(offered) = &self.offered else { return Ok(None) };
        let shard_addrs = record::shard_addresses(&offered.shard_listen, hosts, self.policy);
        let stale = self.signed.as_ref().is_none_or(|(signed, _)| {
            let half = signed.validity.issued_ms.saturating_add(self.lifetime_ms / 2);
            // A clock that was set back makes a record from the future.
            signed.shard_addrs != shard_addrs
                || now_ms >= half
                || now_ms < signed.validity.issued_ms
        });
        if stale {
            // The time makes it count up over restarts, too.
            self.sequence = now_ms.max(self.sequence.saturating_add(1));
            let record = ServiceRecord {
                key: identity.key(),
                sequence: self.sequence,
                validity: Validity {
                    issued_ms: now_ms,
                    expires_ms: now_ms.saturating_add(self.lifetime_ms),
                },
                roles: offered.roles,
                region: offered.region.clone(),
                shard_addrs,
                certificate_hashes: offered
                    .certificate_hashes
                    .iter()
                    .take(record::MAX_CERTIFICATES)
                    .copied()
                    .collect(),
                load: offered.load,
            };
            let bytes = record.sign(identity, protocols)?;
            self.signed = Some((record, bytes));
        }
        Ok(self.signed.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn it_is_signed_anew_when_it_must_be_and_not_before() {
        let identity = Identity::from_secret([1; 32]).unwrap();
        let protocols = Protocols::new(&[1; 32]);
        let mut local = Local::new(Duration::from_secs(600), AddressPolicy::Any);
        let here: Vec<Multiaddr> = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
        let there: Vec<Multiaddr> = vec!["/ip4/127.0.0.2/tcp/1".parse().unwrap()];
        assert_eq!(local.current(&here, &identity, &protocols, NOW).unwrap(), None);

        let services = LocalServices {
            roles: Roles { super_node: true, relay: true },
            shard_listen: vec!["0.0.0.0:9003".parse().unwrap()],
            ..LocalServices::default()
        };
        let sequence = |local: &mut Local, overlay: &[Multiaddr], now_ms| {
            let (record, bytes) =
                local.current(overlay, &identity, &protocols, now_ms).unwrap().unwrap().clone();
            let verified = ServiceRecord::verify(
                &bytes,
                &identity.peer_id(),
                &protocols,
                AddressPolicy::Any,
                None,
                now_ms,
            );
            assert_eq!(verified, Ok(record.clone()));
            record.sequence
        };
        local.set(services.clone());
        let first = sequence(&mut local, &here, NOW);
        local.set(services.clone());
        assert_eq!(sequence(&mut local, &here, NOW + 299_999), first);
        let moved = sequence(&mut local, &there, NOW + 299_999);
        assert!(moved > first);
        local.set(LocalServices { load: 9, ..services.clone() });
        let changed = sequence(&mut local, &there, NOW + 299_999);
        assert!(changed > moved, "even within one millisecond");
        assert!(sequence(&mut local, &there, NOW + 600_000) > changed, "half of its life is over");

        local.set(LocalServices { roles: Roles::default(), ..services });
        assert_eq!(local.current(&here, &identity, &protocols, NOW).unwrap(), None, "no role");
    }
}
