//! The order in which a verified body lies. No I/O, no bytes.

use super::verified::{Span, group_count};

/// A piece of a verified body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The node at this place of the outboard, in pre-order.
    Node(u32),
    /// The group of this index.
    Group(u32),
}

/// The pieces of the body for a span, in their order.
///
/// The tree stands on groups: of `n` of them the left child takes the largest power of two below
/// `n`. In pre-order its nodes follow their parent directly, and a subtree of `k` groups has `k - 1`
/// nodes, which is all that is needed to find a node's place.
pub(crate) struct Walk {
    first: u32,
    end: u32,
    /// Subtrees still to come, the next one last: one for each level at most, 11 of 12 bytes.
    waiting: Vec<Subtree>,
}

struct Subtree {
    /// Place of its root; where it is a group, of whatever node comes next.
    node: u32,
    /// Its first group.
    first: u32,
    groups: u32,
}

impl Walk {
    pub(crate) fn new(span: &Span) -> Self {
        let whole = Subtree { node: 0, first: 0, groups: group_count(span.total()) };
        Self { first: span.first(), end: span.end(), waiting: vec![whole] }
    }
}

impl Iterator for Walk {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while let Some(Subtree { node, first, groups }) = self.waiting.pop() {
            if first >= self.end || first + groups <= self.first {
                continue;
            }
            if groups <= 1 {
                return Some(Piece::Group(first));
            }
            let left = groups.next_power_of_two() / 2;
            let right = Subtree { node: node + left, first: first + left, groups: groups - left };
            self.waiting.push(right);
            self.waiting.push(Subtree { node: node + 1, first, groups: left });
            return Some(Piece::Node(node));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        tests::world::noise,
        wire::{GROUP_LEN, Outboard, encode},
    };
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pieces_in_their_order_are_the_body(
            groups in 1u32..70,
            tail in 0u32..GROUP_LEN,
            at: prop::sample::Index,
            to: prop::sample::Index,
        ) {
            let total = (groups * GROUP_LEN - tail).max(1);
            let blob = Bytes::from(noise(total as usize, u64::from(total)));
            let outboard = Outboard::of(&blob).unwrap();
            let first = at.index(total as usize);
            let end = first + 1 + to.index(total as usize - first);
            let span = Span::covering(total, Some((first as u64, end as u64))).unwrap();
            let mut body = Vec::new();
            for piece in Walk::new(&span) {
                match piece {
                    Piece::Node(at) => body.extend(outboard.node(at).unwrap()),
                    Piece::Group(index) => {
                        let at = (index * GROUP_LEN) as usize;
                        body.extend(&blob[at..blob.len().min(at + GROUP_LEN as usize)]);
                    }
                }
            }
            prop_assert_eq!(body.len() as u64, span.encoded_len());
            prop_assert_eq!(body, encode(&blob, &outboard, &span).unwrap().concat());
        }
    }
}
