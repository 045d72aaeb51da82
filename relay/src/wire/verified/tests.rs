//! What is sent is what bao encodes, and only the truth comes out of what arrives.

use super::*;
use bao_tree::{ByteRanges, io::round_up_to_chunks, io::round_up_to_chunks_groups};
use futures::FutureExt;
use proptest::prelude::*;
use std::io;

const GROUP: u64 = GROUP_LEN as u64;

fn noise(len: u32) -> Bytes {
    let mut bytes = vec![0; len as usize];
    blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A blob with its id and outboard.
fn blob(len: u32) -> (BlobId, Bytes, Outboard) {
    let bytes = noise(len);
    let outboard = Outboard::of(&bytes).unwrap();
    (BlobId::of(&bytes), bytes, outboard)
}

fn body(blob: &Bytes, outboard: &Outboard, span: &Span) -> Vec<u8> {
    encode(blob, outboard, span).unwrap().concat()
}

/// Reads from memory, and remembers the most that was asked for at once.
struct Reader {
    left: Bytes,
    most: usize,
}

impl AsyncStreamReader for Reader {
    async fn read_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        self.most = self.most.max(len);
        self.left.read_bytes(len).await
    }

    async fn read<const L: usize>(&mut self) -> io::Result<[u8; L]> {
        self.most = self.most.max(L);
        self.left.read().await
    }
}

/// What comes out of a body, why it stopped, and what of the body was not read.
fn decode(id: BlobId, span: &Span, body: &[u8]) -> (Vec<Group>, Option<Fault>, usize) {
    let reader = Reader { left: Bytes::copy_from_slice(body), most: 0 };
    let mut decoder = Decoder::new(id, span, reader);
    let mut groups = Vec::new();
    let (fault, reader) = loop {
        match decoder.next().now_or_never().unwrap() {
            Ok(Step::Group(group, _, rest)) => {
                groups.push(group);
                decoder = rest;
            }
            Ok(Step::Done(reader)) => break (None, reader),
            Err((fault, reader)) => break (Some(fault), reader),
        }
    };
    assert!(reader.most <= GROUP_LEN as usize, "a decoder never holds more than a group");
    (groups, fault, reader.left.len())
}

/// The groups of a span as they stand in the blob.
fn expected(blob: &Bytes, span: &Span) -> Vec<Group> {
    (span.first..span.end)
        .map(|index| {
            let at = (index * GROUP_LEN) as usize;
            let end = blob.len().min(at + GROUP_LEN as usize);
            Group { index, bytes: blob.slice(at..end) }
        })
        .collect()
}

/// A length of up to 40 groups, often at an edge of one, and a range inside.
fn case() -> impl Strategy<Value = (u32, Option<(u64, u64)>)> {
    let edge = (0u32..=40, 0u32..3).prop_map(|(groups, off)| groups * GROUP_LEN + off);
    let len = prop_oneof![edge, 1..=40 * GROUP_LEN].prop_map(|len| len.saturating_sub(1).max(1));
    len.prop_flat_map(|len| {
        let range = (0..u64::from(len))
            .prop_flat_map(move |first| (Just(first), first + 1..=u64::from(len)).prop_map(Some));
        (Just(len), prop_oneof![1 => Just(None), 4 => range])
    })
}

#[test]
fn a_range_is_widened_to_groups_and_must_lie_in_the_blob() {
    let span = |total, first, end| {
        let span = Span::covering(total, Some((first, end)))?;
        Some((span.first, span.end, span.bytes(), span.proves_total()))
    };
    assert_eq!(span(1, 0, 1), Some((0, 1, 1, true)));
    assert_eq!(span(40_000, 0, 1), Some((0, 1, GROUP_LEN, false)));
    assert_eq!(span(40_000, GROUP - 1, GROUP), Some((0, 1, GROUP_LEN, false)));
    assert_eq!(span(40_000, GROUP - 1, GROUP + 1), Some((0, 2, 2 * GROUP_LEN, false)));
    assert_eq!(span(40_000, 39_999, 40_000), Some((2, 3, 40_000 - 2 * GROUP_LEN, true)));
    assert_eq!(span(40_000, 0, 40_000), Some((0, 3, 40_000, true)));
    assert_eq!(Span::covering(40_000, None), Span::covering(40_000, Some((0, 40_000))));
    for (total, first, end) in [
        (0, 0, 0),
        (0, 0, 1),
        (40_000, 0, 40_001),
        (40_000, 5, 5),
        (40_000, 6, 5),
        (40_000, 40_000, 40_000),
        (40_000, u64::MAX, u64::MAX),
        (40_000, 0, u64::MAX),
        (MAX_BLOB_LEN + 1, 0, 1),
        (u32::MAX, 0, 1),
    ] {
        assert_eq!(span(total, first, end), None, "{total} {first} {end}");
    }
    assert_eq!(Span::covering(0, None), None);
}

#[test]
fn a_group_costs_its_bytes_and_a_node_for_each_level() {
    let cost = |total, at| Span::covering(total, Some((at, at + 1))).unwrap().encoded_len();
    assert_eq!(cost(GROUP_LEN, 0), GROUP);
    assert_eq!(cost(1024 * 1024, 77_777), GROUP + 6 * 64);
    assert_eq!(cost(MAX_BLOB_LEN, 7_777_777), GROUP + 10 * 64);
    let whole = Span::covering(MAX_BLOB_LEN, None).unwrap();
    assert_eq!(whole.encoded_len(), u64::from(MAX_BLOB_LEN) + 1023 * 64);
}

#[test]
fn a_short_body_is_as_written_down() {
    let (_, bytes, outboard) = blob(3 * GROUP_LEN);
    let [a, b, c] = [0, 1, 2].map(|n| n * GROUP_LEN as usize);
    let hash = |at: usize| {
        use blake3::hazmat::HasherExt;
        let group = &bytes[at..at + GROUP_LEN as usize];
        blake3::Hasher::new().set_input_offset(at as u64).update(group).finalize_non_root()
    };
    let node = |left: [u8; 32], right: [u8; 32]| [left, right].concat();
    use blake3::hazmat::{Mode, merge_subtrees_non_root};
    let left = merge_subtrees_non_root(&hash(a), &hash(b), Mode::Hash);
    let second = Span::covering(3 * GROUP_LEN, Some((GROUP, GROUP + 1))).unwrap();
    assert_eq!(
        body(&bytes, &outboard, &second),
        [&node(left, hash(c))[..], &node(hash(a), hash(b)), &bytes[b..c]].concat()
    );
    let third = Span::covering(3 * GROUP_LEN, Some((2 * GROUP, 2 * GROUP + 1))).unwrap();
    assert_eq!(body(&bytes, &outboard, &third), [&node(left, hash(c))[..], &bytes[c..]].concat());
}

#[test]
fn what_does_not_belong_together_is_not_encoded() {
    let (_, bytes, outboard) = blob(3 * GROUP_LEN);
    let (_, other, others) = blob(4 * GROUP_LEN);
    let span = Span::covering(3 * GROUP_LEN, None).unwrap();
    assert!(encode(&bytes, &outboard, &span).is_some());
    assert!(encode(&other, &outboard, &span).is_none());
    assert!(encode(&bytes, &others, &span).is_none());
    assert!(Outboard::of(&[]).is_none());
}

/// The first half of a blob looks like a shorter blob until the last group is asked for.
#[test]
fn without_the_last_group_the_total_is_a_claim() {
    let (id, bytes, outboard) = blob(64 * GROUP_LEN);
    let first = |total| Span::covering(total, Some((0, 1))).unwrap();
    let (honest, lie) = (first(64 * GROUP_LEN), first(48 * GROUP_LEN));
    assert!(!honest.proves_total() && !lie.proves_total());
    let body = body(&bytes, &outboard, &honest);
    assert_eq!(decode(id, &lie, &body), (expected(&bytes, &lie), None, 0));
}

#[test]
fn no_body_of_a_blob_proves_another_total() {
    let total = 13 * GROUP_LEN + 5;
    let (id, bytes, outboard) = blob(total);
    let single = |total: u32, group: u32| {
        let at = u64::from(group) * GROUP;
        Span::covering(total, Some((at, at + 1))).unwrap()
    };
    let bodies: Vec<_> = (0..group_count(total))
        .map(|group| body(&bytes, &outboard, &single(total, group)))
        .chain([body(&bytes, &outboard, &Span::covering(total, None).unwrap())])
        .collect();
    let near = total - 3..total + 3;
    let edges = (1..30).flat_map(|n| [n * GROUP_LEN - 1, n * GROUP_LEN, n * GROUP_LEN + 5]);
    for claimed in near.chain(edges).filter(|claimed| *claimed != total) {
        let last = single(claimed, group_count(claimed) - 1);
        assert!(last.proves_total());
        for body in &bodies {
            let (groups, fault, _) = decode(id, &last, body);
            assert!(groups.is_empty() && fault.is_some(), "{claimed}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_what_bao_encodes((len, range) in case()) {
        let (_, bytes, outboard) = blob(len);
        let span = Span::covering(len, range).unwrap();
        let (first, end) = range.unwrap_or((0, u64::from(len)));
        let chunks = round_up_to_chunks(&ByteRanges::from(first..end));
        let chunks = round_up_to_chunks_groups(chunks, BLOCK);
        let mut theirs = Vec::new();
        let made = PreOrderMemOutboard::create(&bytes, BLOCK);
        bao_tree::io::sync::encode_ranges(&bytes[..], made, &chunks, &mut theirs).unwrap();
        prop_assert_eq!(body(&bytes, &outboard, &span), theirs);
    }

    #[test]
    fn what_is_encoded_decodes_to_the_groups_asked_for((len, range) in case()) {
        let (id, bytes, outboard) = blob(len);
        let span = Span::covering(len, range).unwrap();
        let body = body(&bytes, &outboard, &span);
        prop_assert_eq!(body.len() as u64, span.encoded_len());
        let groups = expected(&bytes, &span);
        prop_assert_eq!(groups.iter().map(|group| group.bytes.len()).sum::<usize>(), span.bytes() as usize);
        prop_assert_eq!(decode(id, &span, &body), (groups, None, 0));
    }

    #[test]
    fn a_changed_byte_is_found_where_it_is(
        (len, range) in case(),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let (id, bytes, outboard) = blob(len);
        let span = Span::covering(len, range).unwrap();
        let mut body = body(&bytes, &outboard, &span);
        let at = at.index(body.len());
        body[at] ^= flip;
        let (groups, fault, _) = decode(id, &span, &body);
        let all = expected(&bytes, &span);
        // All that came before it is right, and the group that it concerns is named.
        prop_assert!(groups.len() < all.len());
        prop_assert_eq!(&groups[..], &all[..groups.len()]);
        prop_assert_eq!(fault, Some(Fault::Wrong { group: all[groups.len()].index }));
    }

    #[test]
    fn a_body_that_ends_early_is_no_wrong_body((len, range) in case(), at: prop::sample::Index) {
        let (id, bytes, outboard) = blob(len);
        let span = Span::covering(len, range).unwrap();
        let body = body(&bytes, &outboard, &span);
        let (groups, fault, _) = decode(id, &span, &body[..at.index(body.len())]);
        prop_assert_eq!(fault, Some(Fault::Read));
        prop_assert_eq!(&groups[..], &expected(&bytes, &span)[..groups.len()]);
    }

    #[test]
    fn garbage_gives_nothing_and_never_panics(
        (len, range) in case(),
        id: [u8; 32],
        garbage in prop::collection::vec(any::<u8>(), 0..2000),
        repeat in 1usize..40,
    ) {
        let span = Span::covering(len, range).unwrap();
        let (groups, fault, _) = decode(BlobId(id), &span, &garbage.repeat(repeat));
        prop_assert!(groups.is_empty() && fault.is_some());
    }

    /// Pieces of a true body, put together anew.
    #[test]
    fn a_shuffled_body_gives_only_what_is_true(
        (len, range) in case(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let (id, bytes, outboard) = blob(len);
        let span = Span::covering(len, range).unwrap();
        let body = body(&bytes, &outboard, &span);
        let mut shuffled = Vec::new();
        for (from, to) in cuts {
            let (from, to) = (from.index(body.len()), to.index(body.len()));
            shuffled.extend(&body[from.min(to)..from.max(to)]);
        }
        let (groups, fault, _) = decode(id, &span, &shuffled);
        prop_assert_eq!(&groups[..], &expected(&bytes, &span)[..groups.len()]);
        prop_assert!(fault.is_some() || shuffled.starts_with(&body));
    }
}
