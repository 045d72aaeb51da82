//! One window of audits: who is asked for what, when, and what came of it.
//!
//! A [`Plan`] is a plain function of its input: the duty, the claims, a seed, and the time since its
//! start that each call brings along. It holds no clock, no socket and no dice of its own.
//!
//! Each subject gets up to [`Limits::probes`] probes, one at a time. The time that there is falls
//! into as many equal slots, and each probe starts at a random moment of its slot: so a subject has
//! to be there all the time, and not all auditors come in the same second. Lookups in the directory
//! go before, in the first [`LOOKUP_SHARE`] of the time.
//!
//! # What counts
//!
//! | answer | of a super-node, for what it announced itself | otherwise |
//! |---|---|---|
//! | the right bytes in time | served | served |
//! | no connection, silence, wrong bytes | missed | missed |
//! | "I do not have it", or another refusal | missed | nothing |
//! | "busy" | tried again; missed in the end | tried again; nothing in the end |
//!
//! Two things must come together before a refusal counts. A *relay* keeps a blob while it pays, so
//! one that is gone is no lie. And that the *directory* names a peer proves nothing: whoever answers
//! for a key may name anybody. An announcement is signed by who made it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use nsn_p2p::OverlayKey;
use nsn_relay::{ContentId, ShardId, client::probe::Reason};
use pallet_audits_runtime_api::{Counts, Entry, MAX_COUNT, Subject};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Claims of one subject that a plan keeps: 32 of 40 bytes.
const MAX_CLAIMS: usize = 32;

/// Lookups in the directory happen in this part of the time: the first eighth.
const LOOKUP_SHARE: u32 = 8;

/// Wait before the second try at a subject that was busy until its deadline; each further wait is
/// twice the one before.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Something that somebody says they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Blob {
    /// A content: its manifest and, if it was announced by who is asked, all of its shards.
    Content(ContentId),
    /// One shard.
    Shard {
        /// Which.
        id: ShardId,
        /// Its length in bytes, by a manifest.
        len: u32,
    },
}

/// A subject's claim to hold something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// What.
    pub(super) blob: Blob,
    /// Whether the subject said so itself, under its own signature; otherwise the directory did.
    pub(super) announced: bool,
}

/// Something to ask a subject for, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Who is asked.
    pub(super) subject: Subject,
    /// What it claims to hold.
    pub(super) claim: Claim,
    /// For the choice of the bytes.
    pub(super) dice: u64,
}

/// What a subject did when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It sent the right bytes in time.
    Served,
    /// It said that it does not have them.
    NotFound,
    /// It did not send them.
    Missed(Reason),
    /// Nobody knows where it serves, so it was not asked.
    Nowhere,
    /// It could not be asked for a reason that lies here.
    NotAsked,
}

impl Answer {
    /// The metric label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::NotFound => "not_found",
            Self::Missed(reason) => reason.label(),
            Self::Nowhere => "nowhere",
            Self::NotAsked => "not_asked",
        }
    }
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Served,
    Missed,
    /// Neither; this probe is spent.
    Nothing,
    /// It is asked again; after the last try it is a refusal.
    Again,
}

/// What an answer means of a subject that is `held_to` what it claims, or not: see the table at the
/// top.
fn judge(answer: Answer, held_to: bool) -> Verdict {
    match answer {
        Answer::Served => Verdict::Served,
        Answer::Missed(Reason::Busy) => Verdict::Again,
        Answer::NotFound | Answer::Missed(Reason::Refused) if !held_to => Verdict::Nothing,
        Answer::NotFound | Answer::Missed(_) => Verdict::Missed,
        Answer::NotAsked | Answer::Nowhere => Verdict::Nothing,
    }
}

/// Bounds of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Probes of one subject.
    pub(super) probes: u8,
    /// Tries of one probe, while the subject is busy.
    pub(super) tries: u8,
    /// Probes and lookups going on at the same time.
    pub(super) parallel: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look up who provides this, and call [`Plan::looked_up`].
    Lookup(Blob),
    /// Ask a subject, and call [`Plan::probed`].
    Probe(Probe),
    /// Nothing before this time, or before something that is going on ends.
    Wait(Duration),
    /// Nothing before something that is going on ends.
    Idle,
    /// All done.
    Done,
}

/// How far the audit of a subject is.
struct Progress {
    subject: Subject,
    claims: Vec<Claim>,
    served: u8,
    missed: u8,
    /// Probes that are spent.
    spent: u8,
    /// Tries of the next one.
    tries: u8,
    /// A probe is going on.
    running: Option<Claim>,
}

impl Progress {
    /// Whether what is left of `probes` can change what the counts mean. (As many misses as serves
    /// fail an audit.)
    fn is_decided(&self, probes: u8) -> bool {
        let left = probes.saturating_sub(self.spent);
        left == 0 || self.missed > self.served.saturating_add(left)
    }
}

/// A window of audits. At most 1,000 subjects of about 1.4 KB: 1.4 MB.
pub(super) struct Plan {
    limits: Limits,
    /// No probe starts after this.
    span: Duration,
    subjects: Vec<Progress>,
    by_key: HashMap<OverlayKey, usize>,
    /// When each subject's next probe is due; at most one entry each.
    due: BinaryHeap<Reverse<(Duration, usize)>>,
    /// What is looked up when, the last first.
    lookups: Vec<(Duration, Blob)>,
    running: usize,
    dice: StdRng,
}

impl Plan {
    /// A plan for `subjects`, with what each is known to claim, for the time `span` from now on.
    /// A subject that is named twice is audited once.
    pub(super) fn new(
        limits: Limits,
        subjects: impl IntoIterator<Item = (Subject, Vec<Claim>)>,
        lookups: Vec<Blob>,
        span: Duration,
        seed: u64,
    ) -> Self {
        let mut plan = Self {
            limits: Limits {
                probes: limits.probes.clamp(1, MAX_COUNT),
                tries: limits.tries.max(1),
                parallel: limits.parallel.max(1),
            },
            span,
            subjects: Vec::new(),
            by_key: HashMap::new(),
            due: BinaryHeap::new(),
            lookups: Vec::new(),
            running: 0,
            dice: StdRng::seed_from_u64(seed),
        };
        let first = span / LOOKUP_SHARE;
        plan.lookups =
            lookups.into_iter().map(|blob| (plan.moment(Duration::ZERO, first), blob)).collect();
        plan.lookups.sort_unstable_by_key(|(at, _)| Reverse(*at));
        for (subject, claims) in subjects {
            let index = plan.subjects.len();
            if plan.by_key.contains_key(&subject.key) {
                continue;
            }
            plan.by_key.insert(subject.key, index);
            plan.subjects.push(Progress {
                subject,
                claims: Vec::new(),
                served: 0,
                missed: 0,
                spent: 0,
                tries: 0,
                running: None,
            });
            for claim in claims {
                plan.add_claim(subject.key, claim);
            }
            plan.schedule(index, Duration::ZERO);
        }
        plan
    }

    /// What to do at the time `now` since the plan's start.
    pub(super) fn next(&mut self, now: Duration) -> Step {
        if now >= self.span {
            self.due.clear();
            self.lookups.clear();
        }
        if self.running >= self.limits.parallel {
            return Step::Idle;
        }
        if let Some((_, blob)) = self.lookups.pop_if(|(at, _)| *at <= now) {
            self.running += 1;
            return Step::Lookup(blob);
        }
        while let Some(Reverse((at, index))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            if let Some(probe) = self.start(index, now) {
                self.running += 1;
                return Step::Probe(probe);
            }
        }
        let lookup = self.lookups.last().map(|(at, _)| *at);
        let probe = self.due.peek().map(|Reverse((at, _))| *at);
        match lookup.into_iter().chain(probe).min() {
            Some(at) => Step::Wait(at),
            None if self.running > 0 => Step::Idle,
            None => Step::Done,
        }
    }

    /// Takes in that a lookup named `providers` for `blob`.
    pub(super) fn looked_up(
        &mut self,
        blob: Blob,
        providers: impl IntoIterator<Item = OverlayKey>,
    ) {
        self.running = self.running.saturating_sub(1);
        for key in providers {
            self.add_claim(key, Claim { blob, announced: false });
        }
    }

    /// Takes in what a probe of `subject` came to. `super_node` is what its service record says it is.
    pub(super) fn probed(
        &mut self,
        subject: &Subject,
        answer: Answer,
        super_node: bool,
        now: Duration,
    ) {
        let Some(&index) = self.by_key.get(&subject.key) else { return };
        let (tries, span) = (self.limits.tries, self.span);
        let Some(progress) = self.subjects.get_mut(index) else { return };
        let Some(claim) = progress.running.take() else { return };
        self.running = self.running.saturating_sub(1);
        let held_to = claim.announced && super_node;
        let mut verdict = judge(answer, held_to);
        if verdict == Verdict::Again {
            progress.tries += 1;
            let wait = FIRST_RETRY.saturating_mul(1 << progress.tries.saturating_sub(1).min(8));
            let at = now.saturating_add(wait);
            if progress.tries < tries && at < span {
                self.due.push(Reverse((at, index)));
                return;
            }
            verdict = if held_to { Verdict::Missed } else { Verdict::Nothing };
        }
        progress.tries = 0;
        progress.spent += 1;
        match verdict {
            Verdict::Served => progress.served += 1,
            Verdict::Missed => progress.missed += 1,
            Verdict::Nothing | Verdict::Again => {}
        }
        self.schedule(index, now);
    }

    /// What is to be reported: each subject of which something is known, by its binding in ascending
    /// order.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let counted = self.subjects.iter().filter_map(|progress| {
            let counts = Counts::new(progress.served, progress.missed)?;
            (!counts.is_empty()).then_some(Entry { binding: progress.subject.binding, counts })
        });
        let mut entries: Vec<Entry> = counted.collect();
        entries.sort_unstable_by_key(|entry| entry.binding);
        entries.dedup_by_key(|entry| entry.binding);
        entries
    }

    /// Starts a probe of a subject, or waits for its next slot if nothing is known that it claims.
    fn start(&mut self, index: usize, now: Duration) -> Option<Probe> {
        let dice: u64 = self.dice.random();
        let progress = self.subjects.get_mut(index)?;
        let claim = match progress.claims.len() {
            0 => None,
            count => progress.claims.get(self.dice.random_range(0..count)).copied(),
        };
        let Some(claim) = claim else {
            progress.spent += 1;
            self.schedule(index, now);
            return None;
        };
        progress.running = Some(claim);
        Some(Probe { subject: progress.subject, claim, dice })
    }

    /// Puts the next probe of a subject into its slot, if there is to be one.
    fn schedule(&mut self, index: usize, now: Duration) {
        let Some(progress) = self.subjects.get(index) else { return };
        let (probes, slot) = (self.limits.probes, progress.spent);
        if progress.is_decided(probes) {
            return;
        }
        let first = self.span / LOOKUP_SHARE;
        let slot_len = self.span.saturating_sub(first) / u32::from(probes);
        let begins = first.saturating_add(slot_len.saturating_mul(u32::from(slot)));
        let at = self.moment(begins, slot_len).max(now);
        self.due.push(Reverse((at, index)));
    }

    /// A random moment of the `len` from `begins` on.
    fn moment(&mut self, begins: Duration, len: Duration) -> Duration {
        begins.saturating_add(len.mul_f64(self.dice.random::<f64>()))
    }

    /// Notes a claim of a subject; one of nobody's concern, or too many, is passed over. What the
    /// subject announced itself stands over what the directory says.
    fn add_claim(&mut self, key: OverlayKey, claim: Claim) {
        let Some(progress) = self.by_key.get(&key).and_then(|index| self.subjects.get_mut(*index))
        else {
            return;
        };
        if let Some(known) = progress.claims.iter_mut().find(|known| known.blob == claim.blob) {
            known.announced |= claim.announced;
        } else if progress.claims.len() < MAX_CLAIMS {
            progress.claims.push(claim);
        }
    }
}

#[cfg(test)]
mod tests;
