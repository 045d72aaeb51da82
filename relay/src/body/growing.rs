//! A blob while it is fetched: groups come in any order, and readers follow them.
//!
//! The fill owns it and puts verified groups in; whoever reads holds a [`Follower`], of which it knows
//! the number and nothing else. A reader waits for the groups that it wants, and ends only when it has
//! them all or the fill has failed. A slow one holds nothing up: what came stays in memory until the
//! last reader is gone, in room that the readers hold for it together (see [`Follower::room`]).
//!
//! How long the blob is stays its source's claim until its last group came (see
//! [`Span::proves_total`](crate::wire::Span::proves_total)). Readers are told of the length once a
//! first group was verified under it; when it turns out to be another, they fail.

use super::{Memory, Room, Whole};
use crate::{
    content::BlobId,
    fill::FillError,
    wire::{Group, Node, Outboard, group_count, node_count},
};
use bytes::{Bytes, BytesMut};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// A blob that is being fetched.
pub(crate) struct Growing {
    id: BlobId,
    state: watch::Sender<State>,
    /// Nobody has asked for it: it is fetched ahead.
    ahead: AtomicBool,
    /// Readers now. One for each request that waits, which `server.max_requests` bounds.
    followers: watch::Sender<usize>,
    /// The readers' common room, while there is a reader that has it.
    room: tokio::sync::Mutex<Weak<OwnedSemaphorePermit>>,
}

enum State {
    /// Nobody has said how long it is.
    Unknown,
    Arriving(Arriving),
    Whole(Arc<Whole>),
    Failed {
        error: FillError,
        /// What readers were told of the length by then.
        len: Option<u32>,
    },
}

/// Takes the blob's length, 0.4 % of it for nodes, and 33 bytes of table for each group: at most
/// 16 MiB and 132 KiB, which the fill has reserved before.
struct Arriving {
    len: u32,
    groups: Vec<Option<Bytes>>,
    /// In pre-order.
    nodes: Vec<Option<[u8; 64]>>,
    /// How many groups came.
    came: u32,
}

/// Two sources claim different lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dispute {
    /// The length that was claimed first.
    pub(crate) claimed: u32,
    /// Whether groups were verified under it.
    pub(crate) begun: bool,
}

impl Growing {
    pub(crate) fn new(id: BlobId) -> Arc<Self> {
        Arc::new(Self {
            id,
            state: watch::Sender::new(State::Unknown),
            ahead: AtomicBool::new(false),
            followers: watch::Sender::new(0),
            room: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> BlobId {
        self.id
    }

    /// Another reader.
    pub(crate) fn follow(self: &Arc<Self>) -> Follower {
        self.followers.send_modify(|followers| *followers += 1);
        Follower(Arc::clone(self))
    }

    /// It is fetched ahead of anybody who asks for it.
    pub(crate) fn set_ahead(&self) {
        self.ahead.store(true, Ordering::Relaxed);
    }

    /// Somebody has asked for it.
    pub(crate) fn set_asked(&self) {
        self.ahead.store(false, Ordering::Relaxed);
    }

    /// Whether nobody has asked for it yet.
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed)
    }

    /// How many read.
    pub(crate) fn followers(&self) -> usize {
        *self.followers.borrow()
    }

    /// Ends when nobody reads.
    pub(crate) async fn left(&self) {
        // Fails when the sender is gone, which is here.
        let _ = self.followers.subscribe().wait_for(|followers| *followers == 0).await;
    }

    /// A source claims that the blob is `len` bytes long, 1 to 16 MiB.
    ///
    /// # Errors
    /// When another length was claimed before.
    pub(crate) fn claim(&self, len: u32) -> Result<(), Dispute> {
        let mut result = Ok(());
        self.state.send_if_modified(|state| match state {
            State::Unknown => {
                *state = State::Arriving(Arriving::new(len));
                true
            }
            State::Arriving(arriving) if arriving.len != len => {
                result = Err(Dispute { claimed: arriving.len, begun: arriving.came > 0 });
                false
            }
            State::Arriving(_) | State::Whole(_) | State::Failed { .. } => false,
        });
        result
    }

    /// Takes the claimed length back, unless a group came under it.
    pub(crate) fn disclaim(&self) {
        self.state.send_if_modified(|state| {
            let unproven = matches!(state, State::Arriving(arriving) if arriving.came == 0);
            if unproven {
                *state = State::Unknown;
            }
            unproven
        });
    }

    /// A verified group, and the nodes that came with it, of a blob of the claimed length. Says
    /// whether it is new.
    pub(crate) fn put(&self, group: Group, nodes: &[Node]) -> bool {
        self.state.send_if_modified(|state| match state {
            State::Arriving(arriving) => arriving.put(group, nodes),
            State::Unknown | State::Whole(_) | State::Failed { .. } => false,
        })
    }

    /// The claimed length.
    pub(crate) fn len(&self) -> Option<u32> {
        self.state.borrow().len()
    }

    /// Groups that came, of how many; `None` while no length was claimed.
    pub(crate) fn came(&self) -> Option<(u32, u32)> {
        match &*self.state.borrow() {
            State::Arriving(arriving) => Some((arriving.came, group_count(arriving.len))),
            State::Whole(whole) => Some((group_count(whole.len()), group_count(whole.len()))),
            State::Unknown | State::Failed { .. } => None,
        }
    }

    /// The first run of groups at or after `from` that did not come, as first and one past the last;
    /// from the beginning when none is missing there. `None` when nothing is missing, or no length
    /// was claimed.
    pub(crate) fn missing(&self, from: u32) -> Option<(u32, u32)> {
        match &*self.state.borrow() {
            State::Arriving(arriving) => arriving.missing(from).or_else(|| arriving.missing(0)),
            State::Unknown | State::Whole(_) | State::Failed { .. } => None,
        }
    }

    /// Joins what came into one piece if it is all there. Takes the blob's length once more for that
    /// moment.
    pub(crate) fn finish(&self) -> Option<Arc<Whole>> {
        let whole = match &*self.state.borrow() {
            State::Arriving(arriving) => Arc::new(arriving.join(self.id)?),
            State::Whole(whole) => return Some(Arc::clone(whole)),
            State::Unknown | State::Failed { .. } => return None,
        };
        self.whole(Arc::clone(&whole));
        Some(whole)
    }

    /// The blob is there, from elsewhere than groups that were put in.
    pub(crate) fn whole(&self, whole: Arc<Whole>) {
        self.end(|_| State::Whole(whole));
    }

    /// Nothing more will come. Does nothing once the blob is whole.
    pub(crate) fn fail(&self, error: FillError) {
        self.end(|len| State::Failed { error, len });
    }

    fn end(&self, end: impl FnOnce(Option<u32>) -> State) {
        self.state.send_if_modified(|state| {
            let unfinished = matches!(state, State::Unknown | State::Arriving(_));
            if unfinished {
                *state = end(state.len());
            }
            unfinished
        });
    }
}

impl State {
    fn len(&self) -> Option<u32> {
        match self {
            Self::Arriving(arriving) => Some(arriving.len),
            Self::Whole(whole) => Some(whole.len()),
            Self::Failed { len, .. } => *len,
            Self::Unknown => None,
        }
    }
}

impl Arriving {
    fn new(len: u32) -> Self {
        let count = |n| usize::try_from(n).unwrap_or(usize::MAX);
        let groups = vec![None; count(group_count(len))];
        let nodes = vec![None; count(node_count(len))];
        Self { len, groups, nodes, came: 0 }
    }

    fn group(&self, index: u32) -> Option<Bytes> {
        self.groups.get(usize::try_from(index).ok()?)?.clone()
    }

    fn put(&mut self, group: Group, nodes: &[Node]) -> bool {
        let index = usize::try_from(group.index).unwrap_or(usize::MAX);
        let Some(place) = self.groups.get_mut(index).filter(|place| place.is_none()) else {
            return false;
        };
        *place = Some(group.bytes);
        self.came += 1;
        for node in nodes {
            let at = usize::try_from(node.at).unwrap_or(usize::MAX);
            if let Some(place) = self.nodes.get_mut(at) {
                *place = Some(node.hashes);
            }
        }
        true
    }

    fn missing(&self, from: u32) -> Option<(u32, u32)> {
        let mut places = (0u32..).zip(&self.groups).skip(usize::try_from(from).ok()?);
        let (first, _) = places.find(|(_, group)| group.is_none())?;
        let end = places.find(|(_, group)| group.is_some());
        Some((first, end.map_or(group_count(self.len), |(end, _)| end)))
    }

    fn join(&self, id: BlobId) -> Option<Whole> {
        let mut bytes = BytesMut::with_capacity(usize::try_from(self.len).ok()?);
        for group in &self.groups {
            bytes.extend_from_slice(group.as_ref()?);
        }
        let mut nodes = BytesMut::with_capacity(self.nodes.len() * 64);
        for node in &self.nodes {
            nodes.extend_from_slice(node.as_ref()?);
        }
        let outboard = Outboard::of_nodes(id, self.len, nodes.freeze())?;
        Whole::new(id, bytes.freeze(), outboard)
    }
}

/// A reader of a blob that is being fetched. As long as it lives, it counts as one who waits.
pub(crate) struct Follower(Arc<Growing>);

impl Clone for Follower {
    fn clone(&self) -> Self {
        self.0.follow()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.followers.send_modify(|followers| *followers = followers.saturating_sub(1));
    }
}

impl Follower {
    /// Whether all of it is there.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(&*self.0.state.borrow(), State::Whole(_))
    }

    /// Waits until all of it is there.
    ///
    /// # Errors
    /// Why the fill failed.
    pub(crate) async fn whole(&self) -> Result<Arc<Whole>, FillError> {
        let mut state = self.0.state.subscribe();
        let ended =
            state.wait_for(|state| matches!(state, State::Whole(_) | State::Failed { .. })).await;
        match ended.as_deref() {
            Ok(State::Whole(whole)) => Ok(Arc::clone(whole)),
            Ok(State::Failed { error, .. }) => Err(*error),
            Ok(State::Unknown | State::Arriving(_)) | Err(_) => Err(FillError::Stopped),
        }
    }

    /// Waits for the first group, under whatever length, and gives that length.
    ///
    /// # Errors
    /// Why the fill failed.
    pub(crate) async fn begun(&self) -> Result<u32, FillError> {
        let mut state = self.0.state.subscribe();
        let begun = state
            .wait_for(|state| match state {
                State::Unknown => false,
                State::Arriving(arriving) => arriving.came > 0,
                State::Whole(_) | State::Failed { .. } => true,
            })
            .await;
        match begun.as_deref() {
            Ok(State::Failed { error, .. }) => Err(*error),
            Ok(state) => state.len().ok_or(FillError::Stopped),
            Err(_) => Err(FillError::Stopped),
        }
    }

    /// Room for the blob, which all its readers share: they read the same memory.
    pub(crate) async fn room(&self, memory: &Memory) -> Room {
        let mut shared = self.0.room.lock().await;
        if let Some(room) = shared.upgrade() {
            return room;
        }
        let room = memory.room(self.len()).await;
        *shared = Arc::downgrade(&room);
        room
    }

    /// Length of the blob as far as it is known, 0 before that.
    pub(super) fn len(&self) -> u32 {
        self.0.len().unwrap_or(0)
    }

    /// Waits for the group `first` and gives it, with those that follow it and are there, to before
    /// `end`.
    pub(super) async fn groups(&self, first: u32, end: u32) -> Result<Vec<Bytes>, FillError> {
        let mut state = self.0.state.subscribe();
        let there = state
            .wait_for(|state| match state {
                State::Unknown => false,
                State::Arriving(arriving) => {
                    arriving.group(first).is_some() || first >= group_count(arriving.len)
                }
                State::Whole(_) | State::Failed { .. } => true,
            })
            .await;
        match there.as_deref() {
            Ok(State::Arriving(arriving)) => {
                Ok((first..end).map_while(|index| arriving.group(index)).collect())
            }
            Ok(State::Whole(whole)) => {
                Ok((first..end).map_while(|index| whole.group(index)).collect())
            }
            Ok(State::Failed { error, .. }) => Err(*error),
            Ok(State::Unknown) | Err(_) => Err(FillError::Stopped),
        }
    }

    pub(super) fn node(&self, at: u32) -> Option<Bytes> {
        match &*self.0.state.borrow() {
            State::Arriving(arriving) => {
                let node = arriving.nodes.get(usize::try_from(at).ok()?)?;
                node.as_ref().map(|node| Bytes::copy_from_slice(node))
            }
            State::Whole(whole) => whole.outboard.node(at),
            State::Unknown | State::Failed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        body::{Body, Sending},
        tests::world::blob,
        upstream::FetchError,
        wire::{Encoding, GROUP_LEN, Piece, Span, Walk, encode},
    };
    use futures::FutureExt;
    use proptest::prelude::*;

    /// The groups of a blob in their order, each with all the nodes above it.
    fn groups(bytes: &Bytes, outboard: &Outboard) -> Vec<(Group, Vec<Node>)> {
        let total = outboard.total();
        let group = |index| {
            let at = u64::from(index * GROUP_LEN);
            let span = Span::covering(total, Some((at, at + 1))).unwrap();
            let mut nodes = Vec::new();
            for piece in Walk::new(&span) {
                if let Piece::Node(at) = piece {
                    let hashes = outboard.node(at).unwrap()[..].try_into().unwrap();
                    nodes.push(Node { at, hashes });
                }
            }
            let at = (index * GROUP_LEN) as usize;
            let bytes = bytes.slice(at..bytes.len().min(at + GROUP_LEN as usize));
            (Group { index, bytes }, nodes)
        };
        (0..group_count(total)).map(group).collect()
    }

    fn parts(len: usize) -> (BlobId, Bytes, Vec<(Group, Vec<Node>)>) {
        let (id, bytes) = blob(len, 6);
        let bytes = Bytes::from(bytes);
        let groups = groups(&bytes, &Outboard::of(&bytes).unwrap());
        (id, bytes, groups)
    }

    #[test]
    fn a_reader_is_told_of_the_length_with_the_first_group_and_of_groups_as_they_come() {
        let (id, bytes, groups) = parts(40_000);
        let growing = Growing::new(id);
        let follower = growing.follow();
        assert!(follower.begun().now_or_never().is_none());
        growing.claim(40_000).unwrap();
        assert!(follower.begun().now_or_never().is_none(), "a claim alone is not passed on");
        let (last, nodes) = groups[2].clone();
        assert!(growing.put(last.clone(), &nodes));
        assert!(!growing.put(last.clone(), &nodes), "it came before");
        assert_eq!(follower.begun().now_or_never(), Some(Ok(40_000)));
        assert!(follower.groups(0, 3).now_or_never().is_none());
        assert_eq!(follower.groups(2, 3).now_or_never(), Some(Ok(vec![last.bytes.clone()])));
        growing.put(groups[0].0.clone(), &groups[0].1);
        let first = groups[0].0.bytes.clone();
        assert_eq!(follower.groups(0, 3).now_or_never(), Some(Ok(vec![first])));
        assert_eq!((growing.came(), growing.missing(0)), (Some((2, 3)), Some((1, 2))));
        assert!(growing.finish().is_none());
        growing.put(groups[1].0.clone(), &groups[1].1);
        assert_eq!(growing.finish().unwrap().bytes(), &bytes);
        growing.fail(FillError::Stopped);
        assert_eq!(follower.groups(0, 3).now_or_never().unwrap().unwrap().concat(), bytes);
    }

    #[test]
    fn a_reader_ends_when_the_fill_fails_with_its_reason() {
        let (id, _, groups) = parts(40_000);
        let growing = Growing::new(id);
        let follower = growing.follow();
        growing.claim(40_000).unwrap();
        growing.put(groups[0].0.clone(), &groups[0].1);
        let reason = FillError::Fetch(FetchError::Corrupt);
        growing.fail(reason);
        assert_eq!(follower.groups(1, 3).now_or_never(), Some(Err(reason)));
        assert_eq!(follower.begun().now_or_never(), Some(Err(reason)));
        // Who was told of the length can still say what of the blob it cannot give.
        assert_eq!(follower.len(), 40_000);
    }

    #[test]
    fn a_second_claim_is_a_dispute_and_one_without_a_group_can_be_taken_back() {
        let (id, _, groups) = parts(40_000);
        let growing = Growing::new(id);
        growing.claim(20_000).unwrap();
        assert_eq!(growing.claim(40_000), Err(Dispute { claimed: 20_000, begun: false }));
        growing.disclaim();
        growing.claim(40_000).unwrap();
        growing.put(groups[0].0.clone(), &groups[0].1);
        growing.disclaim();
        assert_eq!(growing.claim(20_000), Err(Dispute { claimed: 40_000, begun: true }));
    }

    #[tokio::test]
    async fn the_readers_of_a_blob_share_its_room_and_their_number_is_known() {
        let (id, _, groups) = parts(40_000);
        let growing = Growing::new(id);
        growing.claim(40_000).unwrap();
        growing.put(groups[0].0.clone(), &groups[0].1);
        // Enough for one and not for two.
        let memory = Memory::new(64 * 1024);
        let (first, second) = (growing.follow(), growing.follow());
        let rooms = (first.room(&memory).await, second.room(&memory).await);
        assert_eq!(growing.followers(), 2);
        assert!(growing.left().now_or_never().is_none());
        drop((first, second));
        growing.left().await;
        assert!(memory.room(40_000).now_or_never().is_none());
        drop(rooms);
        memory.room(40_000).await;
    }

    proptest! {
        #[test]
        fn groups_in_any_order_make_the_blob_and_every_reader_sees_the_same(
            len in 1usize..400_000,
            seed: u64,
            from in 0u32..30,
        ) {
            let (id, bytes, mut groups) = parts(len);
            let total = u32::try_from(len).unwrap();
            let outboard = Outboard::of(&bytes).unwrap();
            let growing = Growing::new(id);
            growing.claim(total).unwrap();
            let body = Body::Growing(growing.follow());
            let mut order = seed;
            let mut readers: Vec<_> = [Encoding::Raw, Encoding::Verified]
                .map(|encoding| {
                    let mut sending = Sending::new(body.clone(), None, encoding).unwrap();
                    Box::pin(async move {
                        let mut sent = Vec::new();
                        while let Some(pieces) = sending.next().await.unwrap() {
                            sent.extend(pieces.concat());
                        }
                        sent
                    })
                })
                .into();
            while !groups.is_empty() {
                order = order.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (order >> 33) as usize % groups.len();
                let (group, nodes) = groups.swap_remove(at);
                let index = group.index;
                let missing = growing.missing(from).unwrap();
                prop_assert!(missing.0 < missing.1);
                prop_assert!(groups.is_empty() || growing.finish().is_none());
                prop_assert!(growing.put(group, &nodes));
                prop_assert!(growing.missing(index).is_none_or(|(first, _)| first != index));
            }
            prop_assert_eq!(growing.missing(0), None);
            let sent: Vec<_> =
                readers.iter_mut().map(|reader| reader.now_or_never().unwrap()).collect();
            prop_assert!(sent[0] == bytes);
            let span = Span::covering(total, None).unwrap();
            prop_assert!(sent[1] == encode(&bytes, &outboard, &span).unwrap().concat());
            prop_assert!(growing.finish().unwrap().bytes() == &bytes);
        }
    }
}
