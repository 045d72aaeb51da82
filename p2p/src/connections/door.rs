//! Admission as its askers share it, with the clock and the metrics.

use super::{
    Admission, Ban, BanError, BanTarget, Entry, OTHER_CHAIN, Refused, Status, admission::Now,
};
use crate::{Metrics, PeerId, Standing, driver::unix_ms, metrics::gauge};
use libp2p::swarm::ConnectionId;
use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The shared state. Cheap to clone; the lock is held for a decision and never over an await.
#[derive(Clone)]
pub(crate) struct Door {
    admission: Arc<Mutex<Admission>>,
    /// To the writer of bans, which ends when the last door is gone.
    keep: watch::Sender<Vec<Ban>>,
    metrics: Metrics,
}

pub(super) fn now() -> Now {
    Now { instant: Instant::now(), unix_ms: unix_ms() }
}

impl Door {
    /// `kept` are the bans of before; `keep` takes each later state of them.
    pub(crate) fn new(
        config: &crate::Config,
        local: PeerId,
        kept: Vec<Ban>,
        keep: watch::Sender<Vec<Ban>>,
        metrics: Metrics,
    ) -> Self {
        metrics.connection_limit.set(gauge(config.peers.max_connections));
        let admission = Admission::new(config, local, kept, now());
        let door = Self { admission: Arc::new(Mutex::new(admission)), keep, metrics };
        door.show(&door.lock());
        door
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Admission> {
        // Nothing in there panics; if it did, its counts would still be the best there are.
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, refused: Refused) {
        self.metrics.connections_refused.with_label_values(&[refused.label()]).inc();
    }

    pub(super) fn displaced(&self) {
        self.metrics.connections_displaced.inc();
    }

    /// What becomes of an arrival; nothing if it is refused. `proven` if its address is certain.
    pub(crate) fn incoming(&self, from: Option<IpAddr>, proven: bool) -> Option<Entry> {
        let decision = self.lock().incoming(from, proven, now());
        match decision {
            Ok(Entry::Enter) => {}
            Ok(Entry::Prove) => self.metrics.connections_proofs_asked.inc(),
            Err(reason) => self.count(reason),
        }
        decision.ok()
    }

    /// A peer dials back, is dialled back, or punches a hole, for which it gets more places for a short
    /// time.
    pub(crate) fn expect(&self, peer: &PeerId) {
        self.lock().expect(peer, now().instant);
    }

    /// A dial is about an address: for another's sake, who wants to know whether it works, or to find
    /// a better way to a peer that is connected.
    pub(crate) fn dials_back(&self, id: ConnectionId) {
        self.lock().dials_back(id);
    }

    /// Whether a dial is, or was, about an address, so that it says nothing of the peer if it fails.
    pub(crate) fn is_dial_back(&self, id: ConnectionId) -> bool {
        self.lock().is_dial_back(id)
    }

    /// Whether an address may be dialled.
    pub(crate) fn reachable(&self, ip: IpAddr) -> bool {
        let reachable = self.lock().reachable(ip, now());
        if !reachable {
            self.count(Refused::Banned);
        }
        reachable
    }

    /// Bans; the connected peers that have to leave.
    pub(crate) fn ban(
        &self,
        target: BanTarget,
        duration: Option<Duration>,
        reason: String,
    ) -> Result<(Ban, HashSet<PeerId>), BanError> {
        let mut admission = self.lock();
        let done = admission.ban(target, duration, reason, now())?;
        self.bans_changed(&admission);
        Ok(done)
    }

    /// Lifts a ban; nothing if there was none.
    pub(crate) fn unban(&self, target: &BanTarget) -> Option<Ban> {
        let mut admission = self.lock();
        let lifted = admission.unban(target, now())?;
        self.bans_changed(&admission);
        Some(lifted)
    }

    /// The bans in force, the oldest first.
    pub(crate) fn bans(&self) -> Vec<Ban> {
        self.lock().bans(now())
    }

    /// The regular housekeeping.
    pub(crate) fn on_tick(&self, standing: impl Fn(&PeerId) -> Option<Standing>) {
        let mut admission = self.lock();
        if admission.tick(standing, now()) {
            self.bans_changed(&admission);
        } else {
            self.show(&admission);
        }
    }

    fn bans_changed(&self, admission: &Admission) {
        self.keep.send_replace(admission.bans(now()));
        self.show(admission);
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().status(now())
    }

    /// Connections refused since the program's start, by reason; reasons that never occurred are left
    /// out. At most 13.
    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let labels = Refused::ALL.map(Refused::label).into_iter().chain([OTHER_CHAIN]);
        let counted = labels.map(|label| {
            (label, self.metrics.connections_refused.with_label_values(&[label]).get())
        });
        counted.filter(|(_, times)| *times > 0).collect()
    }

    /// Sets the gauges.
    pub(super) fn show(&self, admission: &Admission) {
        let (status, metrics) = (admission.status(now()), &self.metrics);
        let counts = &admission.counts;
        metrics.active_connections.set(gauge(counts.open()));
        metrics.connected_peers.set(gauge(counts.peers()));
        for (label, open, pending) in [
            ("inbound", status.inbound, status.pending_inbound),
            ("outbound", status.outbound, status.pending_outbound),
        ] {
            metrics.connections_open.with_label_values(&[label]).set(gauge(open));
            metrics.connections_pending.with_label_values(&[label]).set(gauge(pending));
        }
        metrics.admission_recent_sources.set(gauge(status.recent_sources));
        metrics.admission_known_sources.set(gauge(status.known_sources));
        for (label, bans) in [("peer", status.banned_peers), ("ip", status.banned_sources)] {
            metrics.bans.with_label_values(&[label]).set(gauge(bans));
        }
    }
}
