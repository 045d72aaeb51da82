//! One address: who speaks for it, and whether it works.

use crate::{PeerId, address::IpGroup, nat::Config};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Networks that speak for an address, and servers that reached it or did not, at most each.
const MAX_WITNESSES: usize = 8;

/// Servers that are not asked again after they failed to reach an address, at most.
const MAX_AVOIDED: usize = 8;

/// Where an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Told on the word of the operator, or because it is listened on and may be dialled on this
    /// chain; nobody had to dial it back.
    Trusted,
    /// Not told: nobody has reached it yet.
    Candidate,
    /// Told: a peer has dialled it back.
    Confirmed,
    /// Still told, though the last dial-back failed.
    Failing,
    /// No longer told: it stopped working, or was never reached however often it was tried.
    Withdrawn,
}

impl Standing {
    /// Whether others are told the address.
    pub(super) fn told(self) -> bool {
        matches!(self, Self::Trusted | Self::Confirmed | Self::Failing)
    }
}

/// About 600 bytes, the address included.
#[derive(Debug)]
pub(super) struct Entry {
    /// The operator gave it.
    pub(super) operator: bool,
    /// It is listened on.
    pub(super) listened: bool,
    /// The router maps it to a port of this node, as it says.
    pub(super) mapped: bool,
    /// Networks of peers that saw this node there, and when last.
    pub(super) observers: Vec<(IpGroup, Instant)>,
    pub(super) standing: Standing,
    /// Servers that reached it, and when last.
    pub(super) proofs: Vec<(PeerId, Instant)>,
    /// When it was reached last, by whomever.
    reached: Option<Instant>,
    /// Dial-backs that failed in a row.
    pub(super) failures: u32,
    /// By whom: others are asked next.
    pub(super) avoid: Vec<PeerId>,
    /// A dial-back is asked for, until then.
    pub(super) testing: Option<Instant>,
    pub(super) next_test: Instant,
    /// It is withdrawn then if it was not reached.
    pub(super) prove_by: Option<Instant>,
    pub(super) since: Instant,
}

impl Entry {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            operator: false,
            listened: false,
            mapped: false,
            observers: Vec::new(),
            standing: Standing::Candidate,
            proofs: Vec::new(),
            reached: None,
            failures: 0,
            avoid: Vec::new(),
            testing: None,
            next_test: now,
            prove_by: None,
            since: now,
        }
    }

    /// Whether anybody says that this node is there.
    pub(super) fn claimed(&self) -> bool {
        self.operator || self.listened || self.mapped || !self.observers.is_empty()
    }

    /// Whether it is kept whatever the limit.
    pub(super) fn ours(&self) -> bool {
        self.operator || self.listened
    }

    pub(super) fn stand(&mut self, standing: Standing, now: Instant) {
        if self.standing != standing {
            self.standing = standing;
            self.since = now;
        }
    }

    pub(super) fn observed(&mut self, by: IpGroup, now: Instant) {
        newest(&mut self.observers, by, now);
    }

    pub(super) fn reached(&mut self, by: PeerId, config: &Config, now: Instant) {
        newest(&mut self.proofs, by, now);
        self.reached = Some(now);
        self.testing = None;
        self.failures = 0;
        self.avoid.clear();
        self.prove_by = None;
        self.next_test = now + config.retest;
        let standing = if self.ours() { Standing::Trusted } else { Standing::Confirmed };
        self.stand(standing, now);
    }

    pub(super) fn failed(&mut self, by: PeerId, config: &Config, now: Instant) {
        self.testing = None;
        self.failures = self.failures.saturating_add(1);
        if !self.avoid.contains(&by) {
            if self.avoid.len() >= MAX_AVOIDED {
                self.avoid.remove(0);
            }
            self.avoid.push(by);
        }
        self.proofs.retain(|(server, _)| *server != by);
        self.next_test = now + backoff(config, self.failures);
        if self.operator {
            return;
        }
        if self.failures >= config.withdraw_after {
            self.withdraw(now);
        } else if self.standing.told() {
            self.stand(Standing::Failing, now);
        }
    }

    /// Nobody can say whether it works.
    pub(super) fn unanswered(&mut self, config: &Config, now: Instant) {
        self.testing = None;
        self.next_test = now + config.retry;
    }

    pub(super) fn withdraw(&mut self, now: Instant) {
        if self.operator {
            return;
        }
        self.prove_by = None;
        self.proofs.clear();
        self.reached = None;
        self.stand(Standing::Withdrawn, now);
    }

    /// There is reason to doubt it: it is tried at once, and has little time.
    pub(super) fn doubt(&mut self, config: &Config, now: Instant) {
        if self.operator || self.listened {
            return;
        }
        // An earlier failure may be of the network before.
        self.failures = 0;
        self.avoid.clear();
        self.next_test = now;
        if self.standing.told() {
            self.prove_by.get_or_insert(now + config.prove_within);
        }
    }

    /// What time alone changes.
    pub(super) fn expire(&mut self, config: &Config, now: Instant) {
        let lasts = |limit: Duration| move |at: Instant| now.saturating_duration_since(at) < limit;
        let (observed, proof) = (lasts(config.observed_lasts), lasts(config.proof_lasts));
        self.observers.retain(|(_, at)| observed(*at));
        self.proofs.retain(|(_, at)| proof(*at));
        if self.testing.is_some_and(|until| until <= now) {
            self.unanswered(config, now);
        }
        let proved = self.ours() || self.reached.is_some_and(proof);
        if self.prove_by.is_some_and(|by| by <= now) || (self.standing.told() && !proved) {
            self.withdraw(now);
        }
    }
}

/// Wait after so many failures: doubled with each, up to the usual time between tests.
fn backoff(config: &Config, failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    config.retry.saturating_mul(doubled).min(config.retest)
}

/// Notes who witnessed last; the one that did so longest ago leaves.
fn newest<T: PartialEq>(witnesses: &mut Vec<(T, Instant)>, who: T, now: Instant) {
    witnesses.retain(|(known, _)| *known != who);
    if witnesses.len() >= MAX_WITNESSES {
        witnesses.remove(0);
    }
    witnesses.push((who, now));
}
