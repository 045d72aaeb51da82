//! The providers of the records, by what they are worth and by how much they hold.

use super::{Rank, records::List};
use crate::{Multiaddr, OverlayKey, PeerId};
use std::collections::{BTreeSet, HashMap};

/// One provider. At most 800 bytes with its addresses and its places in three tables.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) key: OverlayKey,
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    /// Its records, the one that expires first in front.
    pub(super) records: List,
    rank: Rank,
    count: u32,
}

impl Provider {
    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    /// How many records it has.
    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

/// All providers, each with a number that stays while it is here.
#[derive(Debug, Default)]
pub(super) struct Providers {
    entries: Vec<Option<Provider>>,
    free: Vec<u32>,
    numbers: HashMap<OverlayKey, u32>,
    /// The worst first, and among equals the one with the fewest records.
    ranked: BTreeSet<(Rank, u32, u32)>,
}

impl Providers {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn number(&self, key: &OverlayKey) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    pub(super) fn get(&self, number: u32) -> Option<&Provider> {
        self.entries.get(usize::try_from(number).ok()?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Provider> {
        self.entries.get_mut(usize::try_from(number).ok()?)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Provider)> {
        (0..).zip(&self.entries).filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
    }

    /// A new one, without records. Its number.
    pub(super) fn add(&mut self, key: OverlayKey, peer: PeerId, rank: Rank) -> u32 {
        let provider =
            Provider { key, peer, addresses: Vec::new(), records: List::default(), rank, count: 0 };
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // Bounded by the configuration, far below 2^32.
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(entry) =
            usize::try_from(number).ok().and_then(|number| self.entries.get_mut(number))
        {
            *entry = Some(provider);
        }
        self.numbers.insert(key, number);
        self.ranked.insert((rank, 0, number));
        number
    }

    pub(super) fn remove(&mut self, number: u32) {
        let entry = usize::try_from(number).ok().and_then(|number| self.entries.get_mut(number));
        let Some(provider) = entry.and_then(Option::take) else { return };
        self.numbers.remove(&provider.key);
        self.ranked.remove(&(provider.rank, provider.count, number));
        self.free.push(number);
    }

    /// It has as many records now.
    pub(super) fn set_count(&mut self, number: u32, count: u32) {
        let Some(provider) = self.get_mut(number) else { return };
        let (rank, before) = (provider.rank, std::mem::replace(&mut provider.count, count));
        self.ranked.remove(&(rank, before, number));
        self.ranked.insert((rank, count, number));
    }

    /// It is worth this now.
    pub(super) fn set_rank(&mut self, number: u32, rank: Rank) {
        let Some(provider) = self.get_mut(number) else { return };
        let (before, count) = (std::mem::replace(&mut provider.rank, rank), provider.count);
        self.ranked.remove(&(before, count, number));
        self.ranked.insert((rank, count, number));
    }

    /// A provider that is graylisted and still has records.
    pub(super) fn graylisted(&self) -> Option<u32> {
        let (rank, _, number) = self.ranked.first()?;
        (*rank == Rank::Graylisted).then_some(*number)
    }

    /// A provider that is worth less than `rank`, with as few records as any.
    pub(super) fn lightest_below(&self, rank: Rank) -> Option<u32> {
        self.ranked.first().filter(|(worst, ..)| *worst < rank).map(|(.., number)| *number)
    }

    /// The provider that gives way when there is no more room for one that is worth `rank` and has
    /// `count` records: of the worst the one with most. Among equals only one that would still have
    /// no less than the other, so that two do not take turns.
    pub(super) fn gives_way(&self, rank: Rank, count: u32) -> Option<u32> {
        let (worst, ..) = self.ranked.first()?;
        let most = self.ranked.range(..=(*worst, u32::MAX, u32::MAX)).next_back()?;
        let (_, heaviest, number) = most;
        (*worst < rank || (*worst == rank && *heaviest > count + 1)).then_some(*number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;

    fn providers(list: &[(Rank, u32)]) -> Providers {
        let mut providers = Providers::default();
        for (n, (rank, count)) in (1u8..).zip(list) {
            let key = [n; 32];
            let number = providers.add(key, peer_id_of(&key).unwrap(), *rank);
            providers.set_count(number, *count);
        }
        providers
    }

    #[test]
    fn the_worst_with_most_gives_way_and_never_a_better_one() {
        let all = [(Rank::Bound, 9), (Rank::Unbound, 5), (Rank::Unbound, 3)];
        let mut table = providers(&all);
        assert_eq!(table.gives_way(Rank::Bound, 8), Some(1));
        assert_eq!(table.gives_way(Rank::Unbound, 3), Some(1));
        assert_eq!(table.gives_way(Rank::Unbound, 4), None, "they would take turns");
        assert_eq!(table.lightest_below(Rank::Bound), Some(2));
        assert_eq!(table.lightest_below(Rank::Unbound), None);
        table.set_rank(0, Rank::Graylisted);
        assert_eq!(table.graylisted(), Some(0));
        assert_eq!(table.gives_way(Rank::Unbound, 99), Some(0));
        for number in [1, 2] {
            table.remove(number);
        }
        table.set_rank(0, Rank::Bound);
        assert_eq!(table.gives_way(Rank::Bound, 7), Some(0), "among the bound it is as fair");
        assert_eq!(table.gives_way(Rank::Unbound, 0), None);
        assert_eq!((table.len(), table.numbers.len(), table.ranked.len()), (1, 1, 1));
    }
}
