//! Which shard follows which, of the contents read last.
//!
//! Decisions only.

use crate::content::{BlobId, ContentId, Manifest, manifest::Part};
use lru::LruCache;
use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroUsize,
};

/// Blobs that were looked at and are no manifests: 16,384 of about 100 bytes, 1.6 MB.
const OTHERS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Where a shard stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    content: ContentId,
    at: usize,
}

/// The manifests that are known.
pub(super) struct Contents {
    /// Together at most `most` shards, of 36 bytes each.
    manifests: LruCache<ContentId, Manifest>,
    /// By shard; one that several contents have stands in the one that was learnt last. At most one of
    /// about 100 bytes for each shard above.
    places: HashMap<BlobId, Place>,
    shards: usize,
    most: usize,
    /// What is no manifest, or none that is looked into.
    others: LruCache<BlobId, ()>,
}

impl Contents {
    /// Of at most `most` shards in all.
    pub(super) fn new(most: usize) -> Self {
        Self {
            manifests: LruCache::unbounded(),
            places: HashMap::new(),
            shards: 0,
            most,
            others: LruCache::sparse(OTHERS),
        }
    }

    /// Whether it is known what a blob is: a shard, a manifest, or neither.
    pub(super) fn knows(&mut self, id: BlobId) -> bool {
        self.places.contains_key(&id)
            || self.manifests.get(&ContentId(id)).is_some()
            || self.others.get(&id).is_some()
    }

    /// A blob is no manifest.
    pub(super) fn is_other(&mut self, id: BlobId) {
        self.others.put(id, ());
    }

    /// Learns a manifest; those that were used longest ago make room. One of more shards than are
    /// remembered at all is not.
    pub(super) fn learn(&mut self, manifest: &Manifest) {
        let (content, parts) = (manifest.id(), manifest.shards());
        if parts.len() > self.most {
            return self.is_other(content.into());
        }
        if self.manifests.contains(&content) {
            return;
        }
        while self.shards + parts.len() > self.most {
            self.forget_one();
        }
        self.shards += parts.len();
        let mut own = HashMap::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            // Of a shard that comes again the first place counts.
            if let Entry::Vacant(place) = own.entry(BlobId::from(part.id)) {
                place.insert(Place { content, at });
            }
        }
        self.places.extend(own);
        self.manifests.put(content, manifest.clone());
    }

    fn forget_one(&mut self) {
        let Some((content, manifest)) = self.manifests.pop_lru() else {
            self.shards = 0;
            return;
        };
        self.shards = self.shards.saturating_sub(manifest.shards().len());
        for part in manifest.shards() {
            if let Entry::Occupied(place) = self.places.entry(part.id.into())
                && place.get().content == content
            {
                place.remove();
            }
        }
    }

    /// The shards that follow a blob, at most `count`, as long as they have no more than `bytes` bytes
    /// together: those after a shard, and the first ones after a manifest.
    pub(super) fn after(&mut self, id: BlobId, count: usize, bytes: u64) -> Vec<Part> {
        let (content, next) = match self.places.get(&id) {
            Some(place) => (place.content, place.at + 1),
            None => (ContentId(id), 0),
        };
        let Some(manifest) = self.manifests.get(&content) else { return Vec::new() };
        let following = manifest.shards().iter().skip(next).take(count);
        head(following, bytes)
    }
}

/// As many of `parts` as have no more than `bytes` bytes together.
pub(super) fn head<'a>(parts: impl Iterator<Item = &'a Part>, bytes: u64) -> Vec<Part> {
    let mut left = bytes;
    let fits = parts.map_while(|part| {
        left = left.checked_sub(part.len.into())?;
        Some(*part)
    });
    fits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ShardId;
    use proptest::prelude::*;

    fn manifest(shards: &[u8]) -> Manifest {
        let part = |n: &u8| Part { id: ShardId(BlobId([*n; 32])), len: 100 };
        Manifest::new("video/mp4", shards.iter().map(part).collect()).unwrap()
    }

    fn after(contents: &mut Contents, id: BlobId, count: usize, bytes: u64) -> Vec<u8> {
        contents.after(id, count, bytes).iter().map(|part| part.id.0.0[0]).collect()
    }

    const NOTHING: [u8; 0] = [];

    fn shard(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    #[test]
    fn what_follows_a_shard_or_a_manifest_is_known_within_both_bounds() {
        let mut contents = Contents::new(100);
        let film = manifest(&[1, 2, 3, 4, 5]);
        assert_eq!(after(&mut contents, shard(1), 9, 9999), NOTHING);
        contents.learn(&film);
        assert_eq!(after(&mut contents, shard(1), 2, 9999), [2, 3]);
        assert_eq!(after(&mut contents, shard(1), 9, 399), [2, 3, 4]);
        assert_eq!(after(&mut contents, shard(5), 9, 9999), NOTHING);
        assert_eq!(after(&mut contents, film.id().into(), 2, 9999), [1, 2]);
        assert!(contents.knows(shard(3)) && contents.knows(film.id().into()));
        assert!(!contents.knows(shard(9)));
        contents.is_other(shard(9));
        assert!(contents.knows(shard(9)));
        assert_eq!(after(&mut contents, shard(9), 9, 9999), NOTHING);
    }

    #[test]
    fn the_contents_read_longest_ago_make_room_for_new_ones() {
        let mut contents = Contents::new(7);
        let [one, two] = [manifest(&[1, 2, 3]), manifest(&[3, 4, 5])];
        contents.learn(&one);
        contents.learn(&two);
        assert_eq!(after(&mut contents, shard(3), 9, 9999), [4, 5], "learnt last");
        assert_eq!(after(&mut contents, shard(1), 9, 9999), [2, 3]);
        contents.learn(&manifest(&[6, 7]));
        assert_eq!(after(&mut contents, shard(4), 9, 9999), NOTHING);
        assert_eq!(after(&mut contents, shard(1), 9, 9999), [2, 3]);
        contents.learn(&manifest(&[8; 8]));
        assert_eq!(after(&mut contents, shard(8), 9, 9999), NOTHING, "too many shards");
    }

    #[test]
    fn a_shard_that_comes_again_stands_at_its_first_place() {
        let mut contents = Contents::new(9);
        contents.learn(&manifest(&[1, 2, 1, 3]));
        assert_eq!(after(&mut contents, shard(1), 2, 9999), [2, 1]);
    }

    proptest! {
        #[test]
        fn places_and_shards_are_bounded_and_agree(
            films in prop::collection::vec(prop::collection::vec(0u8..30, 1..12), 0..40),
            most in 1usize..40,
        ) {
            let mut contents = Contents::new(most);
            for film in films {
                contents.learn(&manifest(&film));
                let sum: usize = contents.manifests.iter().map(|(_, m)| m.shards().len()).sum();
                prop_assert_eq!(sum, contents.shards);
                prop_assert!(contents.shards <= most && contents.places.len() <= most);
                for (id, place) in &contents.places {
                    let manifest = contents.manifests.peek(&place.content).unwrap();
                    prop_assert_eq!(BlobId::from(manifest.shards()[place.at].id), *id);
                }
            }
        }
    }
}
