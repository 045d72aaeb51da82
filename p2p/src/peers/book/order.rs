//! Which peer of the book is dialled first, and which leaves first.

use super::{Config, Entry};
use crate::{PeerId, address::IpGroup};
use std::{cmp::Reverse, collections::HashMap};

/// What a peer is worth by its reputation, and by what else is known at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Worth {
    /// Bound, and of no less than neutral standing.
    Good,
    /// Unbound, or of less standing.
    Usable,
    /// Not to be dialled now.
    No,
}

/// The peers in the order to dial them: those worth more first; among these the best of each network
/// before the second best of any, so that whoever fills one network with peers comes no sooner to
/// his second turn.
pub(super) fn best_first<'a>(
    entries: impl Iterator<Item = (&'a PeerId, &'a Entry)>,
    config: &Config,
    worth: impl Fn(&PeerId) -> Worth,
) -> Vec<PeerId> {
    let mut ranked: Vec<_> = entries
        .map(|(peer, entry)| (worth(peer), peer, entry))
        .filter(|(worth, ..)| *worth != Worth::No)
        .map(|(worth, peer, entry)| {
            let merit =
                (!entry.proven(config), entry.failures, Reverse(entry.last_success_ms), *peer);
            (worth, merit, peer, entry.group())
        })
        .collect();
    ranked.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let mut of_group: HashMap<(Worth, IpGroup), usize> = HashMap::new();
    let mut turns: Vec<(Worth, usize, &PeerId)> = ranked
        .into_iter()
        .map(|(worth, _, peer, group)| {
            // Without a network there is none to have too many of.
            let turn = group.map_or(0, |group| {
                let count = of_group.entry((worth, group)).or_default();
                *count += 1;
                *count
            });
            (worth, turn, peer)
        })
        .collect();
    // Stable: within a turn the order by merit stays.
    turns.sort_by_key(|(worth, turn, _)| (*worth, *turn));
    turns.into_iter().map(|(_, _, peer)| *peer).collect()
}

/// Who makes room in a book that is too full: one of a network that has more than its share; else
/// one that was never reached by dialling; else one whose network has others; and among these the
/// one last connected longest ago. So nobody pushes out peers that this node has found to be there
/// merely by connecting with many keys.
pub(super) fn first_to_leave(entries: &HashMap<PeerId, Entry>, config: &Config) -> Option<PeerId> {
    let mut sizes: HashMap<Option<IpGroup>, usize> = HashMap::new();
    for entry in entries.values() {
        *sizes.entry(entry.group()).or_default() += 1;
    }
    let rank = |peer: &PeerId, entry: &Entry| {
        let size = sizes.get(&entry.group()).copied().unwrap_or_default();
        let over = size > config.group_share();
        (!over, entry.proven(config), size == 1, entry.last_success_ms, *peer)
    };
    entries.iter().min_by_key(|(peer, entry)| rank(peer, entry)).map(|(peer, _)| *peer)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{addr, book, met, peer},
        *,
    };

    fn order(book: &mut super::super::Book, good: &[u16]) -> Vec<PeerId> {
        let worth = |p: &PeerId| {
            if *p == peer(99) {
                Worth::No
            } else if good.iter().any(|n| *p == peer(*n)) {
                Worth::Good
            } else {
                Worth::Usable
            }
        };
        best_first(book.entries.iter(), &book.config, worth)
    }

    #[test]
    fn bound_peers_then_one_of_each_network_then_the_proven_and_the_last_seen() {
        let mut book = book(20, 100);
        for (n, group, dialled) in
            [(1, 1, true), (2, 1, false), (3, 1, true), (4, 2, false), (5, 3, true), (6, 3, false)]
        {
            met(&mut book, n, group, dialled, &[addr(group, 1)], n.into());
        }
        met(&mut book, 99, 9, false, &[addr(9, 1)], 99);
        // 5 and 3 lead their networks; 4 is alone in its own; then the rest, the proven first.
        assert_eq!(order(&mut book, &[]), [5, 3, 4, 1, 6, 2].map(peer));
        assert_eq!(order(&mut book, &[2]), [2, 5, 3, 4, 1, 6].map(peer));
        book.failed(&peer(3));
        assert_eq!(order(&mut book, &[]), [5, 1, 4, 3, 6, 2].map(peer));
    }

    #[test]
    fn a_flood_of_keys_pushes_out_neither_proven_peers_nor_other_networks() {
        let mut book = book(20, 20);
        for n in 0..10 {
            let group = u8::try_from(n).unwrap();
            met(&mut book, n, group, true, &[], n.into());
        }
        // From one network, wherever they say they are; then from very many.
        for n in 100..400 {
            let lie = addr(u8::try_from(n % 200).unwrap(), 1);
            met(&mut book, n, 200, false, &[lie], n.into());
        }
        for n in 400..600 {
            let group = u8::try_from(n % 100 + 50).unwrap();
            met(&mut book, n, group, false, &[addr(group, 1)], n.into());
        }
        assert_eq!(book.len(), 20);
        assert!((0..10).all(|n| book.entries.contains_key(&peer(n))));
    }

    #[test]
    fn a_peer_that_failed_too_often_counts_as_never_reached() {
        let mut book = book(2, 100);
        met(&mut book, 1, 1, true, &[], 9);
        met(&mut book, 2, 2, true, &[], 1);
        for _ in 0..book.config.max_failures {
            book.failed(&peer(1));
        }
        met(&mut book, 3, 3, true, &[], 10);
        assert!(book.view(&peer(1)).is_none());
    }
}
