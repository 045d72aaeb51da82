//! BLAKE3-interleaved bodies: what [`Encoding::Verified`](super::Encoding::Verified) sends, and how
//! it is checked. No I/O here.
//!
//! BLAKE3 hashes a blob as a binary tree over chunks of 1 KiB. Sixteen of them are a *group*, the
//! unit in which a blob is sent and verified. The body is bao's combined encoding in pre-order
//! without its length prefix, cut off at groups: for each node of the tree above the groups that
//! leads to a wanted one, the 32-byte hashes of its two children, left one first; then what was
//! asked for of the left child, then of the right one. A wanted group is its bytes. A blob of one
//! group has no node above it, so its body is the blob.
//!
//! # What a body proves
//!
//! Every group that came out of [`Decoder`] stands in the blob at that place. How long the blob is
//! follows only from its *last* group: the way to it turns right at every node, and a chunk is hashed
//! together with its number, so a tree that ends elsewhere does not hash to the id. A body without
//! the last group ([`Span::proves_total`]) leaves the total a claim: a server that has half of a blob
//! could otherwise claim that this half is all.

mod outboard;

use crate::content::{BlobId, MAX_BLOB_LEN};
use bao_tree::{
    BaoTree, BlockSize, ChunkNum, ChunkRanges,
    io::{
        BaoContentItem, DecodeError, Parent,
        fsm::{ResponseDecoder, ResponseDecoderNext},
        outboard::PreOrderMemOutboard,
    },
    iter::BaoChunk,
};
use bytes::Bytes;
use iroh_io::AsyncStreamReader;
pub(crate) use outboard::nodes_len;

/// Bytes of a group: 16 KiB, the unit of verification. The last group of a blob may be shorter.
pub const GROUP_LEN: u32 = 16 * 1024;

/// Groups of 2^4 chunks.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);
const CHUNKS_PER_GROUP: u64 = 16;
/// Bytes of a node: the hashes of its children.
const NODE_LEN: usize = 64;

/// Groups of a blob of `total` bytes.
pub fn group_count(total: u32) -> u32 {
    total.div_ceil(GROUP_LEN)
}

/// Nodes above the groups of a blob of `total` bytes.
pub(crate) fn node_count(total: u32) -> u32 {
    group_count(total).saturating_sub(1)
}

/// Consecutive groups of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Length of the blob in bytes, 1 to [`MAX_BLOB_LEN`].
    total: u32,
    /// The first group.
    first: u32,
    /// One past the last.
    end: u32,
}

impl Span {
    /// The groups that hold the bytes of `range` (first, and one past the last; `None` for all) of a
    /// blob of `total` bytes. `None` when the range is empty or not inside the blob, or when no blob
    /// is that long.
    pub fn covering(total: u32, range: Option<(u64, u64)>) -> Option<Self> {
        if !(1..=MAX_BLOB_LEN).contains(&total) {
            return None;
        }
        let (first, end) = range.unwrap_or((0, u64::from(total)));
        if first >= end || end > u64::from(total) {
            return None;
        }
        let first = u32::try_from(first).ok()? / GROUP_LEN;
        let end = group_count(u32::try_from(end).ok()?);
        Some(Self { total, first, end })
    }

    /// Length of the blob.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The first group.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// One past the last group.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Bytes of the blob in these groups.
    pub fn bytes(&self) -> u32 {
        let end = self.end.saturating_mul(GROUP_LEN).min(self.total);
        end.saturating_sub(self.first.saturating_mul(GROUP_LEN))
    }

    /// Bytes of the body: the groups and the nodes above them. Walks the tree, at most 2,047 steps.
    pub fn encoded_len(&self) -> u64 {
        let ranges = self.ranges();
        let steps = self.tree().ranges_pre_order_chunks_iter_ref(&ranges, 0);
        let size = |step: BaoChunk<_>| match step {
            BaoChunk::Parent { .. } => NODE_LEN,
            BaoChunk::Leaf { size, .. } => size,
        };
        steps.map(size).map(|size| u64::try_from(size).unwrap_or(u64::MAX)).sum()
    }

    /// Whether the blob's length follows from these groups.
    pub fn proves_total(&self) -> bool {
        self.end == group_count(self.total)
    }

    fn tree(&self) -> BaoTree {
        BaoTree::new(u64::from(self.total), BLOCK)
    }

    /// The groups as bao wants them: up to the end of the blob is without an end.
    fn ranges(&self) -> ChunkRanges {
        let first = ChunkNum(u64::from(self.first) * CHUNKS_PER_GROUP);
        if self.proves_total() {
            ChunkRanges::from(first..)
        } else {
            ChunkRanges::from(first..ChunkNum(u64::from(self.end) * CHUNKS_PER_GROUP))
        }
    }
}

/// The nodes above a blob's groups, all that is needed besides the blob to encode any part of it.
/// 64 bytes for each group but one: 4 KiB for 1 MiB, 64 KiB for the largest blob.
#[derive(Clone, Debug)]
pub struct Outboard {
    root: BlobId,
    total: u32,
    /// In pre-order.
    nodes: Bytes,
}

impl Outboard {
    /// Hashes a blob: about 0.3 ms for 1 MiB. `None` for what cannot be a blob, empty or too long.
    pub fn of(blob: &[u8]) -> Option<Self> {
        let total = u32::try_from(blob.len()).ok()?;
        Span::covering(total, None)?;
        let made = PreOrderMemOutboard::create(blob, BLOCK);
        let root = BlobId(*made.root.as_bytes());
        Some(Self { root, total, nodes: made.data.into() })
    }

    /// The id of the blob that was hashed.
    pub fn root(&self) -> BlobId {
        self.root
    }

    /// The outboard of a blob of `total` bytes whose nodes were verified one by one, in pre-order.
    /// `None` when there are not as many as such a blob has.
    pub(crate) fn of_nodes(root: BlobId, total: u32, nodes: Bytes) -> Option<Self> {
        let expected = usize::try_from(node_count(total)).ok()?.checked_mul(NODE_LEN)?;
        (nodes.len() == expected).then_some(Self { root, total, nodes })
    }

    /// Length of the blob that was hashed.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Bytes of the nodes.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The node at a place in pre-order: the hashes of its children, 64 bytes.
    pub(crate) fn node(&self, at: u32) -> Option<Bytes> {
        slice(&self.nodes, usize::try_from(at).ok()?.checked_mul(NODE_LEN)?, NODE_LEN)
    }
}

/// The body for `span` of `blob`, in the pieces in which it lies in memory: nothing is copied. A
/// piece is a handle of 32 bytes to a node or a group, so at most 64 KiB of handles. `None` when blob,
/// outboard and span do not belong together.
pub fn encode(blob: &Bytes, outboard: &Outboard, span: &Span) -> Option<Vec<Bytes>> {
    let total = usize::try_from(span.total).ok()?;
    if blob.len() != total || outboard.total != span.total {
        return None;
    }
    let tree = span.tree();
    let ranges = span.ranges();
    let pieces = tree.ranges_pre_order_chunks_iter_ref(&ranges, 0).map(|step| match step {
        BaoChunk::Parent { node, .. } => {
            let at = usize::try_from(tree.pre_order_offset(node)?).ok()?.checked_mul(NODE_LEN)?;
            slice(&outboard.nodes, at, NODE_LEN)
        }
        BaoChunk::Leaf { start_chunk, size, .. } => {
            slice(blob, usize::try_from(start_chunk.to_bytes()).ok()?, size)
        }
    });
    pieces.collect()
}

fn slice(bytes: &Bytes, at: usize, len: usize) -> Option<Bytes> {
    let end = at.checked_add(len).filter(|end| *end <= bytes.len())?;
    Some(bytes.slice(at..end))
}

/// A verified piece of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its place: it begins at byte `index * GROUP_LEN`.
    pub index: u32,
    /// Its bytes, [`GROUP_LEN`] of them unless it is the last.
    pub bytes: Bytes,
}

/// A verified node of a blob's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its place in pre-order.
    pub(crate) at: u32,
    /// The hashes of its children, the left one first.
    pub(crate) hashes: [u8; NODE_LEN],
}

/// Why a body is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// This group, or a node on the way to it, does not hash to the id.
    Wrong {
        /// Index of the group.
        group: u32,
    },
    /// The reader failed or ended.
    Read,
}

/// Takes a body apart, and gives out only what is verified. Holds one group at a time, 16 KiB.
pub(super) struct Decoder<R> {
    inner: ResponseDecoder<R>,
    tree: BaoTree,
    /// The group that comes next.
    next: u32,
}

/// What comes next in a body.
pub(super) enum Step<R> {
    /// A group that stands in the blob, and the nodes that came before it: at most 10.
    Group(Group, Vec<Node>, Decoder<R>),
    /// Nothing more was asked for. Whether the reader ends here too is for its owner to see.
    Done(R),
}

impl<R: AsyncStreamReader> Decoder<R> {
    /// A decoder of the body for `span` of blob `id`, which `reader` gives.
    pub(super) fn new(id: BlobId, span: &Span, reader: R) -> Self {
        let root = blake3::Hash::from_bytes(id.0);
        let tree = span.tree();
        let inner = ResponseDecoder::new(root, span.ranges(), tree, reader);
        Self { inner, tree, next: span.first }
    }

    /// Reads until the next group is verified.
    ///
    /// # Errors
    /// Says what is wrong with the body, and gives the reader back.
    pub(super) async fn next(self) -> Result<Step<R>, (Fault, R)> {
        let Self { mut inner, tree, next } = self;
        let mut nodes = Vec::new();
        loop {
            inner = match inner.next().await {
                ResponseDecoderNext::Done(reader) => return Ok(Step::Done(reader)),
                ResponseDecoderNext::More((inner, Ok(BaoContentItem::Parent(parent)))) => {
                    nodes.extend(node(&tree, &parent));
                    inner
                }
                ResponseDecoderNext::More((inner, Ok(BaoContentItem::Leaf(leaf)))) => {
                    let group = Group { index: next, bytes: leaf.data };
                    let next = next.saturating_add(1);
                    return Ok(Step::Group(group, nodes, Self { inner, tree, next }));
                }
                ResponseDecoderNext::More((inner, Err(error))) => {
                    let fault = match error {
                        DecodeError::ParentHashMismatch(_) | DecodeError::LeafHashMismatch(_) => {
                            Fault::Wrong { group: next }
                        }
                        DecodeError::ParentNotFound(_)
                        | DecodeError::LeafNotFound(_)
                        | DecodeError::Io(_) => Fault::Read,
                    };
                    return Err((fault, inner.finish()));
                }
            };
        }
    }
}

fn node(tree: &BaoTree, parent: &Parent) -> Option<Node> {
    let at = u32::try_from(tree.pre_order_offset(parent.node)?).ok()?;
    let mut hashes = [0; NODE_LEN];
    let (left, right) = &parent.pair;
    let both = left.as_bytes().iter().chain(right.as_bytes());
    for (to, from) in hashes.iter_mut().zip(both) {
        *to = *from;
    }
    Some(Node { at, hashes })
}

#[cfg(test)]
mod tests;
