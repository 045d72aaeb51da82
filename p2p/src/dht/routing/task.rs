//! The driver's part of keeping the routing table in order.

use super::{Check, Dialled, Why, refresh::Round, upkeep::Checked};
use crate::{
    PeerId,
    dht::{
        Dht,
        disk::{KeptContact, MAX_CONTACTS},
        network::{Contact, Failure},
        task::Behaviour,
    },
    identity::peer_id_of,
    peers::dialling,
};
use libp2p::swarm::{
    ConnectionId, DialError,
    dial_opts::{DialOpts, PeerCondition},
};
use std::time::Instant;

/// How a refresh can end, which dashboards see from the start.
pub(crate) const REFRESHES: [&str; 2] = ["succeeded", "failed"];

impl Check {
    /// The dial that makes it. A newcomer is connected already, from where others may not be able to
    /// reach it: it is dialled again, and from another port, since its router lets back in what
    /// comes from the port that it sent to.
    pub(crate) fn dial(&self) -> DialOpts {
        let newcomer = self.why == Why::Newcomer;
        let condition = match newcomer {
            true => PeerCondition::Always,
            false => PeerCondition::DisconnectedAndNotDialing,
        };
        let opts = DialOpts::peer_id(self.peer).condition(condition);
        let opts = opts.addresses(self.addresses.clone());
        if newcomer { opts.allocate_new_port().build() } else { opts.build() }
    }
}

impl Dht {
    /// The next peer to dial, to see whether it can be reached.
    pub(crate) fn next_check(&mut self, now: Instant) -> Option<Check> {
        self.routing.upkeep.next_check(now)
    }

    /// The dial of a check is under way.
    pub(crate) fn check_begun(&mut self, id: ConnectionId, check: Check) {
        self.routing.upkeep.check_begun(id, check);
    }

    /// The dial of a check could not be begun.
    pub(crate) fn check_dropped(
        &mut self,
        check: Check,
        error: &DialError,
        kad: &mut Behaviour,
        now: Instant,
    ) {
        let outcome = outcome(error);
        let checked = self.routing.check_dropped(kad, check, outcome, &*self.reputation, now);
        self.count_check(&checked);
    }

    /// This node has reached a peer. Whether it did so only to see whether it can: the connection is
    /// not needed if there is another.
    pub(crate) fn on_reached(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        kad: &mut Behaviour,
        now: Instant,
    ) -> bool {
        let outcome = Dialled::Reached;
        let checked = self.routing.dialled(kad, id, peer, outcome, &*self.reputation, now);
        let Some(checked) = checked else { return false };
        self.count_check(&checked);
        self.count_routing_table(kad, now);
        checked.why == Why::Newcomer
    }

    /// A dial to a peer has failed.
    pub(crate) fn on_dial_failed(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        error: &DialError,
        kad: &mut Behaviour,
        now: Instant,
    ) {
        let checked = self.routing.dialled(kad, id, peer, outcome(error), &*self.reputation, now);
        if let Some(checked) = checked {
            self.count_check(&checked);
        }
        self.count_routing_table(kad, now);
    }

    /// A peer has answered, or has not.
    pub(in crate::dht) fn on_answered(
        &mut self,
        peer: &PeerId,
        failure: Option<Failure>,
        kad: &mut Behaviour,
        now: Instant,
    ) {
        match failure {
            None => self.routing.answered(peer, now),
            Some(
                Failure::Timeout | Failure::Unsupported | Failure::Broken | Failure::Malformed,
            ) => {
                self.routing.failed(kad, peer, now);
                self.count_routing_table(kad, now);
            }
            // A dial that failed is told by the swarm; one that was not made tells nothing.
            Some(Failure::Unreachable | Failure::Busy) => {}
        }
    }

    /// Peers are few: looks for more at once, near this node and in each bucket of the table,
    /// connecting to those found.
    pub(crate) fn look_around(&mut self, now: Instant) {
        self.routing.upkeep.refresh.hurry(now);
    }

    fn count_check(&self, checked: &Checked) {
        let labels = [checked.why.label(), checked.outcome.label()];
        self.metrics.kad_routing_checks.with_label_values(&labels).inc();
        if let Err(reason) = checked.admitted {
            self.metrics.kad_routing_refused.with_label_values(&[reason.label()]).inc();
        }
    }

    /// The peers that were in the table are to be dialled again.
    pub(in crate::dht) fn restore_contacts(&mut self, kept: Vec<KeptContact>) {
        let (local, policy) = (self.local, self.policy);
        self.routing.upkeep.restore(kept, |kept| {
            let peer = peer_id_of(&kept.peer).filter(|peer| *peer != local)?;
            let addresses = super::accepted(&peer, &kept.addresses, policy);
            (!addresses.is_empty()).then_some(Contact { peer, addresses })
        });
    }

    /// The table as it is to be written, if it has changed since it last was.
    pub(in crate::dht) fn changed_contacts(
        &mut self,
        kad: &mut Behaviour,
        now: Instant,
        now_ms: u64,
    ) -> Option<Vec<KeptContact>> {
        let changed = std::mem::take(&mut self.routing.upkeep.changed);
        changed.then(|| self.routing.contacts(kad, MAX_CONTACTS, now, now_ms))
    }

    /// Looks after the table, once a tick.
    pub(in crate::dht) fn keep_table(&mut self, kad: &mut Behaviour, now: Instant) {
        self.routing.on_tick(kad, now);
        let dead = std::mem::take(&mut self.routing.upkeep.dead);
        self.metrics.kad_routing_dead.inc_by(dead);
    }

    /// Bytes to look for, if a lookup of a refresh is to begin now.
    pub(in crate::dht) fn next_refresh(
        &mut self,
        kad: &mut Behaviour,
        now: Instant,
    ) -> Option<Vec<u8>> {
        // Without any peer there is nobody to ask.
        if self.routing_table() == 0 {
            return None;
        }
        let target = self.routing.next_refresh(kad, now)?;
        let bytes = self.routing.upkeep.bytes_of(target, &self.local, rand::random());
        if bytes.is_none() {
            self.refreshed(false, now);
        }
        bytes
    }

    /// A lookup of a refresh has ended; `found` says whether any peer answered.
    pub(in crate::dht) fn refreshed(&mut self, found: bool, now: Instant) {
        let [succeeded, failed] = REFRESHES;
        let label = match self.routing.refreshed(found, now) {
            Round::Open => return,
            Round::Succeeded => {
                self.metrics.kad_bootstraps.inc();
                succeeded
            }
            Round::Failed => failed,
        };
        self.metrics.kad_refreshes.with_label_values(&[label]).inc();
    }
}

/// What an error tells of the peer.
fn outcome(error: &DialError) -> Dialled {
    match dialling::judge(error) {
        Some(_) => Dialled::Failed,
        None => Dialled::NotMade,
    }
}
