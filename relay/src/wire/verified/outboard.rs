//! Outboards that come from a disk: checked against the id once, then the measure for every group.

use super::{GROUP_LEN, NODE_LEN, Outboard, Span, group_count};
use crate::content::BlobId;
use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use bytes::Bytes;

const HASH_LEN: usize = 32;

/// Bytes of the nodes above the groups of a blob of `total` bytes: 64 for each group but one.
pub(crate) fn nodes_len(total: u32) -> u32 {
    let node = u32::try_from(NODE_LEN).unwrap_or(u32::MAX);
    group_count(total).saturating_sub(1).saturating_mul(node)
}

/// A subtree: `groups` of them, whose own node, if it is more than one group, is number `at` of the
/// outboard.
#[derive(Clone, Copy)]
struct Subtree {
    at: usize,
    groups: usize,
}

impl Subtree {
    /// The left child holds the largest power of two of groups that leaves some for the right one.
    /// Nodes are in pre-order: a node, all of its left child's, all of its right child's.
    fn children(self) -> (Self, Self) {
        let left = self.groups.next_power_of_two() / 2;
        (
            Self { at: self.at + 1, groups: left },
            Self { at: self.at + left, groups: self.groups - left },
        )
    }
}

impl Outboard {
    /// An outboard that was kept: the nodes of blob `id` of `total` bytes. `None` unless they are
    /// exactly its nodes. Hashes each node once: 63 of them for 1 MiB, a few microseconds.
    pub(crate) fn checked(id: BlobId, total: u32, nodes: Bytes) -> Option<Self> {
        Span::covering(total, None)?;
        let made = Self { root: id, total, nodes };
        let whole = made.whole()?;
        if made.nodes.len() != usize::try_from(nodes_len(total)).ok()? {
            return None;
        }
        // At most one entry for each level and its sibling: 20 for the largest blob.
        let mut open = Vec::new();
        if whole.groups > 1 {
            let (left, right) = made.hashes(whole.at)?;
            if merge_subtrees_root(&left, &right, Mode::Hash).as_bytes() != &id.0 {
                return None;
            }
            open.push((whole, left, right));
        }
        while let Some((parent, left, right)) = open.pop() {
            let (left_child, right_child) = parent.children();
            for (child, expected) in [(left_child, left), (right_child, right)] {
                if child.groups > 1 {
                    let (left, right) = made.hashes(child.at)?;
                    if merge_subtrees_non_root(&left, &right, Mode::Hash) != expected {
                        return None;
                    }
                    open.push((child, left, right));
                }
            }
        }
        Some(made)
    }

    /// The nodes in pre-order, as they are kept on disk.
    pub(crate) fn nodes(&self) -> &Bytes {
        &self.nodes
    }

    /// The first of the groups from `first` on, lying one after the other in `bytes`, that does not
    /// stand in the blob there; `None` if all of them do. About 4 us for a group of 16 KiB.
    pub(crate) fn first_wrong(&self, first: u32, bytes: &[u8]) -> Option<u32> {
        let len = usize::try_from(GROUP_LEN).unwrap_or(usize::MAX);
        if bytes.is_empty() {
            return Some(first);
        }
        let groups = (0..=u32::MAX).zip(bytes.chunks(len));
        groups
            .map(|(place, group)| (first.saturating_add(place), group))
            .find(|(index, group)| !self.stands(*index, group))
            .map(|(index, _)| index)
    }

    fn stands(&self, index: u32, group: &[u8]) -> bool {
        let start = u64::from(index) * u64::from(GROUP_LEN);
        let expected_len = u64::from(self.total).saturating_sub(start).min(u64::from(GROUP_LEN));
        if u64::try_from(group.len()).ok() != Some(expected_len) || expected_len == 0 {
            return false;
        }
        if self.total <= GROUP_LEN {
            return BlobId::of(group) == self.root;
        }
        let hash = Hasher::new().set_input_offset(start).update(group).finalize_non_root();
        self.leaf(index) == Some(hash)
    }

    /// What the group `index` of a blob of several has to hash to.
    fn leaf(&self, index: u32) -> Option<ChainingValue> {
        let mut index = usize::try_from(index).ok()?;
        let mut subtree = self.whole()?;
        while subtree.groups > 1 {
            let (left_hash, right_hash) = self.hashes(subtree.at)?;
            let (left, right) = subtree.children();
            let (child, hash) = if index < left.groups {
                (left, left_hash)
            } else {
                index -= left.groups;
                (right, right_hash)
            };
            if child.groups == 1 {
                return (index == 0).then_some(hash);
            }
            subtree = child;
        }
        None
    }

    fn whole(&self) -> Option<Subtree> {
        Some(Subtree { at: 0, groups: usize::try_from(group_count(self.total)).ok()? })
    }

    /// The two hashes of a node.
    fn hashes(&self, at: usize) -> Option<(ChainingValue, ChainingValue)> {
        let start = at.checked_mul(NODE_LEN)?;
        let node = self.nodes.get(start..start.checked_add(NODE_LEN)?)?;
        let (left, right) = node.split_at_checked(HASH_LEN)?;
        Some((left.try_into().ok()?, right.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::blob;
    use proptest::prelude::*;

    fn len() -> impl Strategy<Value = usize> {
        prop_oneof![
            1usize..40_000,
            // Around whole groups, where trees change their shape.
            (1usize..70, 0usize..3).prop_map(|(groups, by)| groups * 16 * 1024 + by - 1),
            Just(1 << 20),
        ]
    }

    #[test]
    fn nodes_are_one_less_than_groups() {
        let lens = [1, GROUP_LEN, GROUP_LEN + 1, 1 << 20, 16 << 20];
        assert_eq!(lens.map(nodes_len), [0, 0, 64, 63 * 64, 1023 * 64]);
    }

    #[test]
    fn nothing_stands_outside_a_blob() {
        for len in [10, 40_000] {
            let (_, bytes) = blob(len, 1);
            let outboard = Outboard::of(&bytes).unwrap();
            assert_eq!(outboard.first_wrong(0, &bytes), None);
            for index in [group_count(outboard.total), 1000, u32::MAX] {
                assert_eq!(outboard.first_wrong(index, &bytes[..10]), Some(index));
            }
            assert_eq!(outboard.first_wrong(0, &[]), Some(0));
            assert_eq!(outboard.first_wrong(0, &bytes[..9]), Some(0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_made_is_accepted_and_every_group_stands(len in len(), seed: u64) {
            let (id, bytes) = blob(len, seed);
            let made = Outboard::of(&bytes).unwrap();
            let total = u32::try_from(len).unwrap();
            let kept = Outboard::checked(id, total, made.nodes().clone()).unwrap();
            prop_assert_eq!(kept.first_wrong(0, &bytes), None);
            let groups = group_count(total);
            let first = u32::try_from(seed % u64::from(groups)).unwrap();
            let from = usize::try_from(first * GROUP_LEN).unwrap();
            prop_assert_eq!(kept.first_wrong(first, &bytes[from..]), None);
        }

        #[test]
        fn any_changed_bit_of_an_outboard_or_of_a_group_is_found(
            len in len(),
            seed: u64,
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let (id, mut bytes) = blob(len, seed);
            let total = u32::try_from(len).unwrap();
            let made = Outboard::of(&bytes).unwrap();
            if !made.nodes().is_empty() {
                let mut nodes = made.nodes().to_vec();
                let at = at.index(nodes.len());
                nodes[at] ^= 1 << bit;
                prop_assert!(Outboard::checked(id, total, nodes.into()).is_none());
            }
            let at = at.index(len);
            bytes[at] ^= 1 << bit;
            let group = u32::try_from(at).unwrap() / GROUP_LEN;
            prop_assert_eq!(made.first_wrong(0, &bytes), Some(group));
        }

        #[test]
        fn an_outboard_of_another_length_is_refused(len in len(), other in len(), seed: u64) {
            prop_assume!(len != other);
            let (id, bytes) = blob(len, seed);
            let nodes = Outboard::of(&bytes).unwrap().nodes().clone();
            let total = u32::try_from(other).unwrap();
            let accepted = Outboard::checked(id, total, nodes);
            // Nodes prove no length by themselves; the groups that are held against them do.
            if let Some(accepted) = accepted {
                prop_assert!(accepted.first_wrong(0, &bytes).is_some());
            }
        }
    }
}
