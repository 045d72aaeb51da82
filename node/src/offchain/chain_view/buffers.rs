//! Two copies of the finalised table, so that a block costs its changes and readers never wait.
//!
//! Readers hold the *current* table, which nobody writes. The *spare* is one step behind, with a list
//! of what it lacks. To step: bring the spare up to date, apply the new changes to it, and let the
//! two change places ("left-right"). So every change is applied twice (the second time it is known
//! where: both tables have had the same changes, so all lies at the same place), and nothing is copied.
//!
//! A reader that still holds the spare is waited for a little, since reads take nanoseconds; one
//! that goes on holding it (somebody who walks the whole table) keeps that table for itself, and the
//! current one is copied.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use pallet_reputation_runtime_api::{PeerChange, PeerEarned};

use super::table::Table;

/// How long a reader that holds the spare is waited for. Far below a block's time, and about what a
/// copy of a large table takes.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// Changes whose entries are fetched from memory at once. 256 entries lie on at most 512 cache lines,
/// 32 KB, the smallest of the processors' caches.
const AT_ONCE: usize = 256;

/// Between two looks at whether the spare is free.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Why the whole table was copied; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// There was no spare yet.
    First,
    /// A reader holds the spare.
    Held,
}

impl Copied {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Held => "held",
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The table was copied.
    pub(super) copied: Option<Copied>,
    /// New keys that found the table full.
    pub(super) refused: usize,
}

/// The table that readers see, and the one that is written next.
///
/// Two tables of at most 59 bytes a peer and one block's changes (at most 0.9 MB); a third table
/// for a moment while one grows, and for as long as a reader holds one that was replaced.
pub(super) struct Buffers {
    current: Arc<Table>,
    spare: Option<Spare>,
    /// The most peers.
    limit: usize,
    patience: Duration,
}

struct Spare {
    table: Arc<Table>,
    lacks: Lacks,
}

/// What the current table has and the spare has not, and which entries that changed.
type Lacks = Vec<(PeerChange, Option<u32>)>;

impl Buffers {
    /// Empty tables, for at most `limit` peers.
    pub(super) fn new(limit: usize, patience: Duration) -> Self {
        Self { current: Arc::default(), spare: None, limit, patience }
    }

    /// What readers see.
    pub(super) const fn current(&self) -> &Arc<Table> {
        &self.current
    }

    /// The most peers that a table holds.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Starts anew from all `peers`.
    pub(super) fn replace(&mut self, peers: &[PeerEarned]) -> Applied {
        // Freed before the new one takes its place in memory, if nobody holds it.
        self.spare = None;
        let (table, refused) = table(peers, self.limit);
        self.current = Arc::new(table);
        Applied { copied: None, refused }
    }

    /// Makes a table with `changes` the current one.
    ///
    /// The spare is taken out before it is touched: whatever goes wrong in between, no half-changed
    /// table is left to be used.
    pub(super) fn apply(&mut self, changes: Vec<PeerChange>) -> Applied {
        let (mut table, copied) = match self.free_spare() {
            Ok((mut table, lacks)) => {
                for (change, at) in &lacks {
                    table.apply(change, *at);
                }
                (table, None)
            }
            Err(why) => (Table::clone(&self.current), Some(why)),
        };
        let told = changes.len();
        let lacks = apply(&mut table, &changes, self.limit);
        let refused = told - lacks.len();
        let former = std::mem::replace(&mut self.current, Arc::new(table));
        self.spare = Some(Spare { table: former, lacks });
        Applied { copied, refused }
    }

    /// Takes the spare, once no reader holds it.
    fn free_spare(&mut self) -> Result<(Table, Lacks), Copied> {
        let Spare { mut table, lacks } = self.spare.take().ok_or(Copied::First)?;
        let started = Instant::now();
        loop {
            match Arc::try_unwrap(table) {
                Ok(table) => return Ok((table, lacks)),
                Err(_) if started.elapsed() >= self.patience => return Err(Copied::Held),
                Err(held) => table = held,
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// A table of `peers`, at most `limit` of them, and how many were left out.
pub(super) fn table(peers: &[PeerEarned], limit: usize) -> (Table, usize) {
    let mut table = Table::with_capacity(peers.len().min(limit));
    let mut refused = 0;
    for peer in peers {
        if table.len() < limit {
            table.insert(&peer.key, peer.earned);
        } else {
            refused += 1;
        }
    }
    (table, refused)
}

/// Applies `changes` in their order; gives back those that were applied. New keys that find the
/// table full are left out.
fn apply(table: &mut Table, changes: &[PeerChange], limit: usize) -> Lacks {
    let full = |table: &Table, change: &PeerChange| {
        table.len() >= limit && change.earned.is_some() && table.get(&change.key).is_none()
    };
    let mut applied = Lacks::with_capacity(changes.len());
    let mut guesses = Vec::with_capacity(AT_ONCE);
    for changes in changes.chunks(AT_ONCE) {
        guesses.clear();
        guesses.extend(changes.iter().map(|change| table.guess(&change.key)));
        table.fetch(&guesses);
        for (change, guess) in changes.iter().zip(&guesses) {
            if !full(table, change) {
                applied.push((*change, table.apply(change, *guess)));
            }
        }
    }
    applied
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pallet_reputation_runtime_api::{Earned, OverlayKey, Scores};
    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<OverlayKey, Earned>;

    fn change(n: u8, seeder: Option<u16>) -> PeerChange {
        let earned =
            |seeder| Earned { scores: Scores { seeder, ..Scores::default() }, days: [0; 3] };
        PeerChange { key: [n; 32], earned: seeder.map(earned) }
    }

    fn content(table: &Table) -> Model {
        table.iter().map(|peer| (peer.key, peer.earned)).collect()
    }

    fn bring_up(model: &mut Model, changes: &[PeerChange]) {
        for change in changes {
            match change.earned {
                Some(earned) => model.insert(change.key, earned),
                None => model.remove(&change.key),
            };
        }
    }

    #[test]
    fn the_two_tables_change_places_and_nothing_is_copied() {
        let mut buffers = Buffers::new(100, Duration::ZERO);
        assert_eq!(buffers.apply(vec![change(1, Some(1))]).copied, Some(Copied::First));
        let [a, b] = [(); 2].map(|()| {
            assert_eq!(buffers.apply(vec![change(1, Some(2))]).copied, None);
            // Of the content, which stays where it is while its owner changes.
            std::ptr::from_ref(buffers.current().get(&[1; 32]).unwrap())
        });
        assert_ne!(a, b);
        for n in 0..10 {
            assert_eq!(buffers.apply(vec![change(1, Some(n))]).copied, None);
            let now = std::ptr::from_ref(buffers.current().get(&[1; 32]).unwrap());
            assert_eq!(now, if n % 2 == 0 { a } else { b });
        }
    }

    #[test]
    fn a_reader_that_lets_go_in_time_costs_no_copy() {
        let mut buffers = Buffers::new(100, Duration::from_secs(60));
        buffers.apply(vec![change(1, Some(1))]);
        let held = buffers.current().clone();
        buffers.apply(vec![change(1, Some(2))]);
        let (started, go) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            go.recv().unwrap();
            drop(held);
        });
        started.send(()).unwrap();
        assert_eq!(buffers.apply(vec![change(1, Some(3))]).copied, None);
        reader.join().unwrap();
    }

    #[test]
    fn a_full_table_refuses_new_keys_and_takes_the_rest() {
        let mut buffers = Buffers::new(2, Duration::ZERO);
        let peers = [1, 2, 3].map(|n| PeerEarned { key: [n; 32], earned: Earned::default() });
        assert_eq!(buffers.replace(&peers).refused, 1);
        let changes = vec![change(4, Some(1)), change(1, Some(9)), change(5, None)];
        assert_eq!(buffers.apply(changes).refused, 1);
        assert_eq!(buffers.current().get(&[1; 32]).unwrap().scores.seeder, 9);
        assert_eq!(buffers.apply(vec![change(2, None), change(4, Some(1))]).refused, 0);
        assert_eq!(buffers.apply(vec![]).refused, 0, "the other table says the same, silently");
        assert_eq!(content(buffers.current()).len(), 2);
    }

    proptest! {
        /// Every table that was ever current stays what it was for as long as somebody holds it, and
        /// is what the changes up to then make.
        #[test]
        fn each_table_is_the_model_at_its_step(
            steps in prop::collection::vec(
                (prop::collection::vec((0u8..30, prop::option::of(0u16..1_000)), 0..12), 0u8..4, any::<bool>()),
                1..60,
            ),
        ) {
            let mut buffers = Buffers::new(1_000, Duration::ZERO);
            let mut model = Model::new();
            let mut held: Vec<(Arc<Table>, Model)> = Vec::new();
            for (changes, hold, anew) in steps {
                let changes: Vec<_> = changes.into_iter().map(|(n, s)| change(n, s)).collect();
                bring_up(&mut model, &changes);
                if anew && hold == 0 {
                    let all: Vec<_> =
                        model.iter().map(|(key, earned)| PeerEarned { key: *key, earned: *earned }).collect();
                    buffers.replace(&all);
                } else {
                    buffers.apply(changes);
                }
                match hold {
                    1 => held.push((buffers.current().clone(), model.clone())),
                    2 => held.truncate(held.len() / 2),
                    _ => {}
                }
                prop_assert_eq!(content(buffers.current()), model.clone());
                for (table, then) in &held {
                    prop_assert_eq!(&content(table), then);
                }
            }
        }
    }
}
