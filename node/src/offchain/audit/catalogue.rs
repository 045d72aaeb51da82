//! What an auditor knows without asking: who announced which contents, what they are made of, and
//! where a subject serves.
//!
//! It is kept over windows, over restarts of the service, and the most of it over restarts of the node
//! ([`memory`]). A peer whose reputation fell too low is
//! cut off by the overlay, so nothing more is heard of it; only what is remembered here lets it be
//! audited still, and earn its way back.
//!
//! | what | bound | worst case |
//! |---|---|---|
//! | contents that bound peers announced | [`BOUND`] announcers, [`BOUND_CONTENTS`] each | 2.6 MB |
//! | contents that others announced | [`UNBOUND`] announcers, [`UNBOUND_CONTENTS`] each | 50 KB |
//! | where subjects serve | [`SITES`] of about 200 bytes | 0.8 MB |
//! | manifests | `audit.manifest_bytes` | 8 MiB |
//!
//! Each announcer has its own few places, so that one who announces a lot pushes nobody out but
//! itself; bound ones, who paid a deposit, have places of their own.

use std::{collections::VecDeque, net::SocketAddr, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use nsn_p2p::OverlayKey;
use nsn_relay::{BlobId, ContentId, Manifest};
use rand::{Rng, seq::IndexedRandom as _};

use super::{
    memory,
    plan::{Blob, Claim},
};

/// Bound announcers that are remembered.
const BOUND: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Contents of each.
const BOUND_CONTENTS: usize = 16;
/// Other announcers that are remembered. Their contents are only looked up, to see which subjects
/// hold them.
const UNBOUND: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Contents of each.
const UNBOUND_CONTENTS: usize = 4;
/// Subjects of which the address is remembered.
const SITES: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Addresses of each.
pub(super) const SITE_ADDRS: usize = 4;

/// Bytes that a manifest takes in memory beside its shards, about.
const MANIFEST_OVERHEAD: usize = 256;
/// Bytes that a shard takes in a manifest.
const SHARD_BYTES: usize = 36;

/// Where a subject serves shards, by its signed service record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Its shard service's addresses, at most [`SITE_ADDRS`].
    pub(super) addrs: Vec<SocketAddr>,
    /// Whether it keeps content for good.
    pub(super) super_node: bool,
    /// When the record ends, in milliseconds since the Unix epoch.
    pub(super) expires_ms: u64,
}

impl Site {
    /// Whether it may be asked there at `now_ms`. A relay said how long it would be there. A
    /// super-node is to be there always, so it is held to the last address it gave.
    pub(super) fn is_usable(&self, now_ms: u64) -> bool {
        !self.addrs.is_empty() && (self.super_node || self.is_current(now_ms))
    }

    /// Whether the record still holds at `now_ms`.
    pub(super) fn is_current(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms
    }
}

/// A manifest, and its length as a blob.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) manifest: Arc<Manifest>,
    pub(super) len: u32,
}

/// What is known. See the table at the top.
pub(super) struct Catalogue {
    bound: LruCache<OverlayKey, Announcer>,
    unbound: LruCache<OverlayKey, Announcer>,
    sites: LruCache<OverlayKey, Site>,
    manifests: LruCache<ContentId, Known>,
    /// Bytes of `manifests`.
    used: usize,
    /// Most of them.
    budget: usize,
}

/// Contents that one key announced, the newest last.
#[derive(Default)]
struct Announcer(VecDeque<ContentId>);

impl Announcer {
    fn hear(&mut self, content: ContentId, most: usize) {
        self.0.retain(|known| *known != content);
        while self.0.len() >= most {
            self.0.pop_front();
        }
        self.0.push_back(content);
    }
}

impl Catalogue {
    /// An empty catalogue that holds `budget` bytes of manifests.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            bound: LruCache::sparse(BOUND),
            unbound: LruCache::sparse(UNBOUND),
            sites: LruCache::sparse(SITES),
            manifests: LruCache::unbounded(),
            used: 0,
            budget,
        }
    }

    /// Takes in that `author` announced `content`; `bound` is whether an account answers for it.
    pub(super) fn hear(&mut self, author: OverlayKey, content: ContentId, bound: bool) {
        if bound {
            // It may have been bound since it last spoke.
            let before = self.unbound.pop(&author);
            let announcer = self.bound.get_or_insert_mut(author, || before.unwrap_or_default());
            announcer.hear(content, BOUND_CONTENTS);
        } else {
            self.unbound
                .get_or_insert_mut(author, Announcer::default)
                .hear(content, UNBOUND_CONTENTS);
        }
    }

    /// What is to be known after a restart: what bound peers announced, and where subjects serve. The
    /// least recently used first.
    pub(super) fn remembered(&self) -> Vec<memory::Known> {
        let announced = self.bound.iter().rev().map(|(key, announcer)| memory::Known {
            key: *key,
            contents: announcer.0.iter().copied().collect(),
            site: self.sites.peek(key).cloned(),
        });
        let silent = self.sites.iter().rev().filter(|(key, _)| !self.bound.contains(*key));
        let silent = silent.map(|(key, site)| memory::Known {
            key: *key,
            contents: Vec::new(),
            site: Some(site.clone()),
        });
        silent.chain(announced).collect()
    }

    /// Takes in what [`Self::remembered`] said before a restart, within all bounds.
    pub(super) fn recall(&mut self, known: impl IntoIterator<Item = memory::Known>) {
        for memory::Known { key, contents, site } in known {
            for content in contents {
                self.hear(key, content, true);
            }
            if let Some(mut site) = site {
                site.addrs.truncate(SITE_ADDRS);
                self.note_site(key, Some(site));
            }
        }
    }

    /// What `key` announced under its own signature.
    pub(super) fn claims(&self, key: &OverlayKey) -> Vec<Claim> {
        let announced = [self.bound.peek(key), self.unbound.peek(key)].into_iter().flatten();
        announced
            .flat_map(|announcer| &announcer.0)
            .map(|content| Claim { blob: Blob::Content(*content), announced: true })
            .collect()
    }

    /// Up to `count` blobs at random, to be looked up in the directory: contents, and of those whose
    /// manifest is known, shards as well. Every announcer is as likely as any other, however much it
    /// announces.
    pub(super) fn pick(&self, count: usize, dice: &mut impl Rng) -> Vec<Blob> {
        let announcers: Vec<&Announcer> =
            self.bound.iter().chain(self.unbound.iter()).map(|(_, announcer)| announcer).collect();
        let mut picked = Vec::new();
        for _ in 0..count {
            let Some(announcer) = announcers.choose(dice) else { break };
            let Some(content) = announcer.0.get(dice.random_range(0..announcer.0.len().max(1)))
            else {
                continue;
            };
            let shard = match self.manifests.peek(content) {
                Some(known) if dice.random() => known.manifest.shards().choose(dice),
                _ => None,
            };
            let blob = shard
                .map_or(Blob::Content(*content), |part| Blob::Shard { id: part.id, len: part.len });
            if !picked.contains(&blob) {
                picked.push(blob);
            }
        }
        picked
    }

    /// The manifest of `content`, if it was fetched before.
    pub(super) fn manifest(&mut self, content: ContentId) -> Option<Known> {
        self.manifests.get(&content).cloned()
    }

    /// Keeps a manifest. Those used longest ago make room; one that would take more than a quarter of
    /// all room is not kept.
    pub(super) fn keep(&mut self, content: ContentId, known: Known) {
        let cost = cost(&known);
        if cost > self.budget / 4 {
            return;
        }
        if let Some(old) = self.manifests.put(content, known) {
            self.used = self.used.saturating_sub(self::cost(&old));
        }
        self.used += cost;
        while self.used > self.budget
            && let Some((_, old)) = self.manifests.pop_lru()
        {
            self.used = self.used.saturating_sub(self::cost(&old));
        }
    }

    /// Where `key` serves, as far as is known.
    pub(super) fn site(&mut self, key: &OverlayKey) -> Option<Site> {
        self.sites.get(key).cloned()
    }

    /// Remembers where `key` serves; `None` once it says that it serves nothing.
    pub(super) fn note_site(&mut self, key: OverlayKey, site: Option<Site>) {
        match site {
            Some(site) => {
                self.sites.put(key, site);
            }
            None => {
                self.sites.pop(&key);
            }
        }
    }
}

fn cost(known: &Known) -> usize {
    known.manifest.shards().len().saturating_mul(SHARD_BYTES).saturating_add(MANIFEST_OVERHEAD)
}

/// The bytes that a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The blob.
    pub(super) id: BlobId,
    /// Its length, if a manifest tells it.
    pub(super) len: Option<u32>,
}

/// What of a claim is asked for. Who announced a content said that they hold all of it, so it is the
/// manifest or any of the shards, each as likely as another; whom the directory named for a content
/// or a shard is asked for just that blob.
pub(super) fn target(claim: &Claim, known: Option<&Known>, dice: u64) -> Target {
    match (claim.blob, known) {
        (Blob::Shard { id, len }, _) => Target { id: id.into(), len: Some(len) },
        (Blob::Content(content), Some(known)) => {
            let shards = known.manifest.shards();
            // 0 is the manifest.
            let choices = u64::try_from(shards.len()).unwrap_or(u64::MAX).saturating_add(1);
            let choice = if claim.announced { dice % choices } else { 0 };
            let shard = usize::try_from(choice).ok().and_then(|n| n.checked_sub(1));
            shard.and_then(|n| shards.get(n)).map_or(
                Target { id: content.into(), len: Some(known.len) },
                |part| Target { id: part.id.into(), len: Some(part.len) },
            )
        }
        (Blob::Content(content), None) => Target { id: content.into(), len: None },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nsn_relay::{ShardId, content::manifest::Part};
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn content(n: u32) -> ContentId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        ContentId(BlobId(id))
    }

    fn key(n: u32) -> OverlayKey {
        content(n).0.0
    }

    fn known(shards: u8) -> Known {
        let parts =
            (0..shards).map(|n| Part { id: ShardId(BlobId([n; 32])), len: 1 + u32::from(n) });
        let manifest = Manifest::new("video/mp4", parts.collect()).unwrap();
        let len = u32::try_from(manifest.encode().len()).unwrap();
        Known { manifest: Arc::new(manifest), len }
    }

    fn contents_of(catalogue: &Catalogue, key: &OverlayKey) -> Vec<ContentId> {
        let claims = catalogue.claims(key).into_iter();
        claims
            .map(|claim| {
                assert!(claim.announced);
                let Blob::Content(content) = claim.blob else { panic!("{claim:?}") };
                content
            })
            .collect()
    }

    #[test]
    fn one_announcer_pushes_out_only_itself() {
        let mut all = Catalogue::new(0);
        all.hear(key(1), content(1), true);
        for n in 0..10_000 {
            all.hear(key(2), content(n), true);
        }
        assert_eq!(contents_of(&all, &key(1)), [content(1)]);
        let newest: Vec<_> = (10_000 - 16..10_000).map(content).collect();
        assert_eq!(contents_of(&all, &key(2)), newest);
        // Unbound ones, however many, push out no bound one.
        for n in 0..10_000 {
            all.hear(key(100 + n), content(n), false);
        }
        assert_eq!(all.unbound.len(), UNBOUND.get());
        assert_eq!(contents_of(&all, &key(1)), [content(1)]);
    }

    #[test]
    fn what_is_said_again_counts_as_new_once() {
        let mut all = Catalogue::new(0);
        for n in [1, 2, 1] {
            all.hear(key(1), content(n), false);
        }
        assert_eq!(contents_of(&all, &key(1)), [content(2), content(1)]);
        // Bound by now: what it said before still stands.
        all.hear(key(1), content(3), true);
        assert_eq!(contents_of(&all, &key(1)), [content(2), content(1), content(3)]);
        assert!(all.unbound.is_empty());
    }

    #[test]
    fn lookups_are_of_what_was_announced_and_each_once() {
        let mut dice = StdRng::seed_from_u64(1);
        let mut all = Catalogue::new(1 << 20);
        assert_eq!(all.pick(8, &mut dice), []);
        all.hear(key(1), content(1), true);
        all.hear(key(2), content(2), false);
        all.keep(content(1), known(3));
        let picked = all.pick(1_000, &mut dice);
        let distinct: HashSet<_> = picked.iter().copied().collect();
        assert_eq!(distinct.len(), picked.len());
        assert_eq!(picked.len(), 2 + 3, "two contents, and the shards of one");
    }

    #[test]
    fn a_super_node_is_held_to_its_last_address_and_a_relay_only_while_it_said() {
        let site = |super_node| Site {
            addrs: vec!["127.0.0.1:1".parse().unwrap()],
            super_node,
            expires_ms: 100,
        };
        assert!(site(true).is_usable(99) && site(true).is_usable(100));
        assert!(site(false).is_usable(99) && !site(false).is_usable(100));
        assert!(!Site { addrs: vec![], ..site(true) }.is_usable(99));
    }

    #[test]
    fn sites_come_and_go() {
        let mut all = Catalogue::new(0);
        let site = Site { addrs: vec![], super_node: true, expires_ms: 1 };
        all.note_site(key(1), Some(site.clone()));
        assert_eq!(all.site(&key(1)), Some(site));
        all.note_site(key(1), None);
        assert_eq!(all.site(&key(1)), None);
    }

    #[test]
    fn what_is_remembered_is_the_same_after_a_restart() {
        let mut all = Catalogue::new(0);
        let site = |port| Site {
            addrs: vec![SocketAddr::from(([127, 0, 0, 1], port))],
            super_node: true,
            expires_ms: 7,
        };
        for n in [3, 1, 2] {
            all.hear(key(n), content(n), true);
            all.hear(key(n), content(n + 10), true);
        }
        all.hear(key(8), content(8), false);
        all.note_site(key(1), Some(site(1)));
        all.note_site(key(9), Some(site(9)));
        let mut again = Catalogue::new(0);
        again.recall(all.remembered());
        assert_eq!(contents_of(&again, &key(3)), [content(3), content(13)]);
        assert_eq!(
            contents_of(&again, &key(8)),
            [],
            "an unbound peer is heard of anew or not at all"
        );
        assert_eq!(again.site(&key(9)), Some(site(9)));
        assert_eq!(again.remembered().len(), 4);
        let order = |all: &Catalogue| all.bound.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        assert_eq!(order(&again), order(&all), "whoever was heard of last stays longest");
    }

    #[test]
    fn every_part_of_an_announced_content_is_asked_for_and_nothing_else_of_a_named_one() {
        let known = known(4);
        let claim = |announced| Claim { blob: Blob::Content(content(9)), announced };
        let asked: HashSet<_> =
            (0..100).map(|dice| target(&claim(true), Some(&known), dice).id).collect();
        assert_eq!(asked.len(), 5, "manifest and four shards");
        for dice in 0..100 {
            let expected = Target { id: content(9).into(), len: Some(known.len) };
            assert_eq!(target(&claim(false), Some(&known), dice), expected);
            let expected = Target { id: content(9).into(), len: None };
            assert_eq!(target(&claim(true), None, dice), expected);
        }
        let shard =
            Claim { blob: Blob::Shard { id: ShardId(BlobId([1; 32])), len: 7 }, announced: false };
        assert_eq!(target(&shard, None, 3), Target { id: BlobId([1; 32]), len: Some(7) });
    }

    proptest! {
        #[test]
        fn manifests_stay_within_their_bytes(
            kept in prop::collection::vec((0..20_u32, 1..60_u8), 0..100),
            budget in 0..20_000_usize,
        ) {
            let mut all = Catalogue::new(budget);
            for (id, shards) in kept {
                let known = known(shards);
                let fits = cost(&known) <= budget / 4;
                all.keep(content(id), known);
                let used: usize = all.manifests.iter().map(|(_, known)| cost(known)).sum();
                prop_assert_eq!(all.used, used);
                prop_assert!(used <= budget);
                prop_assert!(!fits || all.manifest(content(id)).is_some(), "the newest stays");
            }
        }
    }
}
