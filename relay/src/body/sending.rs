//! A body as it is sent: the pieces of its encoding, in their order, as they can be had.

use super::{Body, BodyError, READ_AT_ONCE};
use crate::wire::{Encoding, GROUP_LEN, Piece, Span, Walk, group_count};
use bytes::Bytes;

/// What is still to be sent of a body.
pub(crate) struct Sending {
    body: Body,
    length: u64,
    plan: Plan,
}

enum Plan {
    /// The bytes from `at` to before `end`.
    Raw { at: u32, end: u32 },
    /// What is left of the tree's walk; the next group is `next`, the last is before `end`.
    Verified { walk: Walk, next: u32, end: u32 },
}

impl Sending {
    /// Of `range` of a body (first, and one past the last; `None` for all), in an encoding. `None`
    /// when the range is empty or not inside the blob.
    pub(crate) fn new(body: Body, range: Option<(u64, u64)>, encoding: Encoding) -> Option<Self> {
        let span = Span::covering(body.len(), range)?;
        let (length, plan) = match encoding {
            Encoding::Raw => {
                let (at, end) = range.unwrap_or((0, u64::from(span.total())));
                let (at, end) = (u32::try_from(at).ok()?, u32::try_from(end).ok()?);
                (u64::from(end.checked_sub(at)?), Plan::Raw { at, end })
            }
            Encoding::Verified => {
                let (next, end) = (span.first(), span.end());
                (span.encoded_len(), Plan::Verified { walk: Walk::new(&span), next, end })
            }
        };
        Some(Self { body, length, plan })
    }

    /// What is still to come, as bytes of the blob: for finding it elsewhere.
    pub(crate) fn rest(&self) -> (u64, u64) {
        let (at, end) = match &self.plan {
            Plan::Raw { at, end } => (*at, *end),
            Plan::Verified { next, end, .. } => {
                let end = end.saturating_mul(GROUP_LEN).min(self.body.len());
                (next.saturating_mul(GROUP_LEN), end)
            }
        };
        (at.into(), end.into())
    }

    /// Goes on with another body of the same blob, where this one broke. `false` when that one is said
    /// to be of another length.
    pub(crate) fn go_on_with(&mut self, body: Body) -> bool {
        let same = body.len() == self.body.len();
        if same {
            self.body = body;
        }
        same
    }

    /// Bytes of all that is sent.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// What can be sent next, at most 256 KiB of the blob; `None` when all was. Nothing is copied.
    ///
    /// # Errors
    /// See [`BodyError`]; nothing more comes after one.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, BodyError> {
        match &mut self.plan {
            Plan::Raw { at, end } if at == end => Ok(None),
            Plan::Raw { at, end } => {
                let most = end.saturating_sub(*at).min(READ_AT_ONCE * GROUP_LEN);
                if let Some(piece) = self.body.piece(*at, *at + most).await? {
                    *at = at.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
                    return Ok((!piece.is_empty()).then(|| vec![piece]));
                }
                let first = *at / GROUP_LEN;
                let mut groups = self.body.groups(first, group_count(*end)).await?;
                let begin = first.saturating_mul(GROUP_LEN);
                let came: usize = groups.iter().map(Bytes::len).sum();
                let stop = begin.saturating_add(u32::try_from(came).unwrap_or(u32::MAX));
                if let Some(head) = groups.first_mut() {
                    cut_front(head, *at - begin);
                }
                if let Some(tail) = groups.last_mut() {
                    cut_back(tail, stop.saturating_sub(*end));
                }
                *at = stop.min(*end).max(*at);
                Ok((!groups.is_empty()).then_some(groups))
            }
            Plan::Verified { walk, next, end } => {
                let groups = self.body.groups(*next, *end).await?;
                if groups.is_empty() {
                    return Ok(None);
                }
                let mut pieces = Vec::with_capacity(groups.len() * 2);
                for group in groups {
                    // The nodes that stand before a group came with it.
                    for piece in walk.by_ref() {
                        match piece {
                            Piece::Node(at) => pieces.extend(self.body.node(at)),
                            Piece::Group(_) => break,
                        }
                    }
                    pieces.push(group);
                    *next += 1;
                }
                Ok(Some(pieces))
            }
        }
    }
}

fn cut_front(bytes: &mut Bytes, by: u32) {
    let by = usize::try_from(by).unwrap_or(usize::MAX).min(bytes.len());
    drop(bytes.split_to(by));
}

fn cut_back(bytes: &mut Bytes, by: u32) {
    let by = usize::try_from(by).unwrap_or(usize::MAX);
    bytes.truncate(bytes.len().saturating_sub(by));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        body::Whole,
        tests::world::blob,
        wire::{Outboard, encode},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn body(len: usize) -> (Bytes, Body) {
        let (id, bytes) = blob(len, 5);
        let bytes = Bytes::from(bytes);
        let outboard = Outboard::of(&bytes).unwrap();
        let whole = Whole::new(id, bytes.clone(), outboard).unwrap();
        (bytes, Body::Memory(Arc::new(whole)))
    }

    async fn all(mut sending: Sending) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(pieces) = sending.next().await.unwrap() {
            assert!(!pieces.is_empty());
            sent.extend(pieces.concat());
        }
        sent
    }

    #[test]
    fn a_range_outside_the_blob_is_not_sent() {
        let (_, body) = body(40_000);
        for range in [(0, 40_001), (7, 7), (8, 7), (40_000, 40_001), (0, u64::MAX), (u64::MAX, 0)] {
            for encoding in [Encoding::Raw, Encoding::Verified] {
                assert!(Sending::new(body.clone(), Some(range), encoding).is_none(), "{range:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_the_encoding_of_the_range(
            len in 1usize..700_000,
            range in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        ) {
            let (bytes, body) = body(len);
            let range = range.map(|(at, to)| {
                let first = at.index(len);
                (first, first + 1 + to.index(len - first))
            });
            let (first, end) = range.unwrap_or((0, len));
            let range = range.map(|(first, end)| (first as u64, end as u64));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let raw = Sending::new(body.clone(), range, Encoding::Raw).unwrap();
            prop_assert_eq!(raw.length(), (end - first) as u64);
            prop_assert!(runtime.block_on(all(raw)) == bytes[first..end]);
            let verified = Sending::new(body, range, Encoding::Verified).unwrap();
            let span = Span::covering(u32::try_from(len).unwrap(), range).unwrap();
            prop_assert_eq!(verified.length(), span.encoded_len());
            let outboard = Outboard::of(&bytes).unwrap();
            let expected = encode(&bytes, &outboard, &span).unwrap().concat();
            prop_assert!(runtime.block_on(all(verified)) == expected);
        }
    }
}
