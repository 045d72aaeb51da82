//! `chain.liars`: what a third of the reporters can do that lies together.
//!
//! A chain with real sessions, bindings, scores and audits, on which 100 validators report on 1,000
//! peers for 1,000 windows; a tenth of the peers hold nothing of what they claim. 33 validators
//! follow one of the [`STRATEGIES`]; the others say what they saw: 2 of 100 do not report in a
//! window, and 1 of 100 fetches from a good peer fails by chance. Every report is signed, authorised
//! and dispatched, and every tally is the pallet's own. Each change is also worked out from the
//! reports by the pure functions, and the two are held against each other.
//!
//! Prints three lines: `chain.liars` is the share of the applied changes that lie within what the
//! honest members of the committee said, `chain.liars.honest_graylisted` how many good peers were
//! ever graylisted, and `chain.liars.windows_to_graylist` after how many windows the last of the bad
//! peers was. Each is of the strategy that did worst.
//!
//!     cargo bench -p pallet-audits --bench liars -- [--quick] [--windows N] [--peers N]

// A benchmark may panic, and its output is what it prints.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation
)]

#[allow(dead_code)]
#[path = "../src/mock.rs"]
mod mock;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Instant,
};

use mock::*;
use pallet_audits::{Counts, Current, Entry, Event, Report, tally};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const VALIDATORS: u64 = 100;
const LIARS: u64 = 33;
/// One peer in so many holds nothing.
const BAD_EVERY: u32 = 10;
/// Fetches from a subject in a window.
const PROBES: u8 = 3;
/// How likely a fetch from a good peer is to fail.
const CHANCE_MISS: f64 = 0.01;
/// How likely an honest validator is to report nothing in a window.
const CHANCE_AWAY: f64 = 0.02;
/// Any; the run is the same for the same seed.
const SEED: u64 = 20_261_121;

/// What liars agree on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Strategy {
    /// Good peers failed; of bad ones the truth.
    Slander,
    /// Bad peers passed; of good ones the truth.
    Praise,
    /// Both.
    Invert,
    /// No report, so that there is no quorum.
    Silent,
    /// A report, and nothing of bad peers in it.
    Shield,
    /// Half of them invert, half are silent.
    Split,
    /// A few good peers failed, and nothing of anybody else.
    Hunt,
    /// Another one of these in each window.
    Mixed,
}

const STRATEGIES: [Strategy; 8] = [
    Strategy::Slander,
    Strategy::Praise,
    Strategy::Invert,
    Strategy::Silent,
    Strategy::Shield,
    Strategy::Split,
    Strategy::Hunt,
    Strategy::Mixed,
];

impl Strategy {
    /// What liar `who` says of a peer of which `truth` is what it saw.
    fn says(self, who: u64, peer: u32, truth: Counts) -> Option<Counts> {
        let (passed, failed) = (counts(PROBES, 0), counts(0, PROBES));
        let bad = is_bad(peer);
        match self {
            Self::Slander => Some(if bad { truth } else { failed }),
            Self::Praise => Some(if bad { passed } else { truth }),
            Self::Invert => Some(if bad { passed } else { failed }),
            Self::Silent => None,
            Self::Shield => (!bad).then_some(truth),
            Self::Split => who.is_multiple_of(2).then_some(if bad { passed } else { failed }),
            Self::Hunt => (peer % 50 == 1).then_some(failed),
            Self::Mixed => None,
        }
    }

    /// What is agreed on for one window.
    fn in_window(self, rng: &mut StdRng) -> Self {
        if self == Self::Mixed { STRATEGIES[rng.random_range(0..7)] } else { self }
    }
}

fn is_bad(peer: u32) -> bool {
    peer.is_multiple_of(BAD_EVERY)
}

/// How large a run is.
#[derive(Clone, Copy)]
struct Size {
    windows: u32,
    peers: u32,
}

/// What was said of one peer in one window.
#[derive(Default)]
struct Said {
    honest: Vec<i16>,
    all: Vec<i16>,
}

/// What came of a strategy.
#[derive(Default)]
struct Outcome {
    /// Changes that were applied, and how many of them no honest range holds.
    applied: u64,
    outside: u64,
    /// Subjects that were reported on without an outcome.
    undecided: u64,
    /// Good peers that were ever graylisted.
    honest_graylisted: BTreeSet<u32>,
    /// After how many windows each bad peer was first graylisted.
    graylisted: BTreeMap<u32, u32>,
    /// The same, if nothing were applied without a quorum.
    graylisted_by_quorum: BTreeMap<u32, u32>,
    seconds: f64,
}

/// A run: the chain is in the externalities around it.
struct Run {
    size: Size,
    strategy: Strategy,
    rng: StdRng,
    outcome: Outcome,
    /// Scores if nothing were applied without a quorum.
    by_quorum: Vec<i16>,
}

impl Run {
    /// Goes on to block `end`, counting what tallies tell.
    fn go_to(&mut self, end: u64) {
        while now() < end {
            go_to(now() + 1);
            for event in System::read_events_for_pallet::<Event<Test>>() {
                if let Event::Tallied { undecided, .. } = event {
                    self.outcome.undecided += u64::from(undecided);
                }
            }
        }
    }

    /// What an auditor sees of `peer`.
    fn audit(&mut self, peer: u32) -> Counts {
        let missed =
            (0..PROBES).filter(|_| is_bad(peer) || self.rng.random_bool(CHANCE_MISS)).count() as u8;
        counts(PROBES - missed, missed)
    }

    /// All reports of the running window; what was said, by peer.
    fn reports(&mut self) -> Vec<Said> {
        let window = Current::<Test>::get().unwrap();
        let strategy = self.strategy.in_window(&mut self.rng);
        let mut said: Vec<Said> = (0..self.size.peers).map(|_| Said::default()).collect();
        for who in 0..VALIDATORS {
            let honest = who >= LIARS;
            if honest && self.rng.random_bool(CHANCE_AWAY) {
                continue;
            }
            let member = window.draw.member(who as u16).unwrap();
            let mut entries = Vec::new();
            for peer in (0..self.size.peers).filter(|peer| member.of(*peer)) {
                let truth = self.audit(peer);
                let says = if honest { Some(truth) } else { strategy.says(who, peer, truth) };
                let Some(counts) = says else {
                    continue;
                };
                entries.push(Entry { binding: peer, counts });
                let step = tally::step(counts).unwrap();
                let said = &mut said[peer as usize];
                said.all.push(step);
                if honest {
                    said.honest.push(step);
                }
            }
            if entries.is_empty() {
                continue;
            }
            let (session, window) = (window.span.session, window.span.window);
            let report = Report { session, window, reporter: who as u16, entries };
            // A block takes so many; the phase is long enough for all.
            if pallet_audits::InProgress::<Test>::get().taken_in(now() as u32)
                >= MAX_REPORTS_PER_BLOCK
            {
                self.go_to(now() + 1);
            }
            hand_in(who, report).unwrap();
        }
        said
    }

    /// Holds what a window changed against what was said in it.
    fn judge(&mut self, windows: u32, said: &[Said], before: &[u16], after: &[u16]) {
        let committee = pallet_audits::committee::size(VALIDATORS as u32);
        for (peer, said) in (0..self.size.peers).zip(said) {
            let (before, after) = (before[peer as usize], after[peer as usize]);
            let moved = |step: i16| before.saturating_add_signed(step).min(1_000);
            let expected = tally::outcome(said.all.clone(), committee);
            assert_eq!(after, moved(expected.unwrap_or(0)), "peer {peer}: the pallet is another");
            if expected.is_some() {
                self.outcome.applied += 1;
                let honest = said.honest.iter().copied();
                let within = honest.clone().min().is_some_and(|least| moved(least) <= after)
                    && honest.max().is_some_and(|most| after <= moved(most));
                self.outcome.outside += u64::from(!within);
            }
            if after < 200 {
                if is_bad(peer) {
                    self.outcome.graylisted.entry(peer).or_insert(windows);
                } else {
                    self.outcome.honest_graylisted.insert(peer);
                }
            }
            let strict = &mut self.by_quorum[peer as usize];
            if tally::quorum(said.all.len() as u32, committee) {
                *strict = (*strict + expected.unwrap_or(0)).clamp(0, 1_000);
            }
            if *strict < 200 && is_bad(peer) {
                self.outcome.graylisted_by_quorum.entry(peer).or_insert(windows);
            }
        }
    }

    fn scores(&self) -> Vec<u16> {
        (0..self.size.peers).map(seeder).collect()
    }

    fn windows(&mut self) {
        let mut pending: Option<Vec<Said>> = None;
        let mut before = self.scores();
        for window in 0..=self.size.windows {
            while Current::<Test>::get().is_none() {
                self.go_to(now() + 1);
            }
            let span = Current::<Test>::get().unwrap().span;
            self.go_to(span.reports_from().into());
            let said = self.reports();
            self.go_to(span.ends.into());
            // By now the window before this one is tallied.
            assert!(!pallet_audits::Tallies::<Test>::exists());
            let after = self.scores();
            if let Some(said) = pending.replace(said) {
                self.judge(window, &said, &before, &after);
                before = after;
            }
            self.go_to(u64::from(span.ends) + 1);
        }
    }
}

fn run(strategy: Strategy, size: Size) -> Outcome {
    let start = Instant::now();
    let mut run = Run {
        size,
        strategy,
        rng: StdRng::seed_from_u64(SEED),
        outcome: Outcome::default(),
        by_quorum: vec![500; size.peers as usize],
    };
    chain(VALIDATORS, size.peers).execute_with(|| run.windows());
    run.outcome.seconds = start.elapsed().as_secs_f64();
    run.outcome
}

/// The last of all `bad` peers; `None` if some never were.
fn last(graylisted: &BTreeMap<u32, u32>, bad: u32) -> Option<u32> {
    let all = graylisted.len() == bad as usize;
    graylisted.values().max().copied().filter(|_| all)
}

fn share(outcome: &Outcome) -> f64 {
    if outcome.applied == 0 {
        return 1.0;
    }
    1.0 - outcome.outside as f64 / outcome.applied as f64
}

/// The number behind `flag` among the arguments.
fn number(flag: &str) -> Option<u32> {
    let mut args = std::env::args().skip_while(|arg| arg != flag);
    args.nth(1)?.parse().ok()
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let windows = number("--windows").unwrap_or(if quick { 25 } else { 1_000 });
    let size = Size { windows, peers: number("--peers").unwrap_or(1_000) };
    let bad = size.peers.div_ceil(BAD_EVERY);

    // Each strategy has a chain of its own, so two can run side by side.
    let waiting = Mutex::new(STRATEGIES.to_vec());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(strategy) = waiting.lock().unwrap().pop() else {
                        return;
                    };
                    let outcome = run(strategy, size);
                    eprintln!("liars: {strategy:?} took {:.1} s", outcome.seconds);
                    outcomes.lock().unwrap().push((strategy, outcome));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();

    let strategies: BTreeMap<String, Value> = outcomes
        .iter()
        .map(|(strategy, outcome)| {
            let told = json!({
                "applied": outcome.applied,
                "outside": outcome.outside,
                "undecided": outcome.undecided,
                "honest_graylisted": outcome.honest_graylisted.len(),
                "windows_to_graylist": last(&outcome.graylisted, bad),
                "windows_to_graylist_by_quorum_alone": last(&outcome.graylisted_by_quorum, bad),
                "seconds": outcome.seconds,
            });
            (format!("{strategy:?}").to_lowercase(), told)
        })
        .collect();
    let detail = json!({
        "validators": VALIDATORS, "liars": LIARS, "windows": size.windows, "peers": size.peers,
        "bad_peers": bad, "seed": SEED, "strategies": strategies,
    });

    let share = outcomes.iter().map(|(_, outcome)| share(outcome)).fold(1.0, f64::min);
    let graylisted = outcomes.iter().map(|(_, outcome)| outcome.honest_graylisted.len()).max();
    // Never is as bad as more windows than there were.
    let windows = outcomes
        .iter()
        .map(|(_, outcome)| last(&outcome.graylisted, bad).unwrap_or(size.windows + 1))
        .max();
    line("chain.liars", json!(share), "share of changes", "higher", 0.999, &detail);
    let rest = json!({});
    line("chain.liars.honest_graylisted", json!(graylisted), "peers", "lower", 0.0, &rest);
    line("chain.liars.windows_to_graylist", json!(windows), "windows", "lower", 20.0, &rest);
}

/// Prints one result.
fn line(bench: &str, value: Value, unit: &str, better: &str, target: f64, detail: &Value) {
    println!(
        r#"{{"bench":"{bench}","value":{value},"unit":"{unit}","better":"{better}","target":{target},"detail":{detail}}}"#
    );
}
