//! What a relay keeps, seen from outside.

use super::world::{Node, Role, config, noise};
use crate::{
    BlobId,
    cache::{Event, PinError, Tier, Why},
    upstream::Record,
    wire::Source,
};

async fn settled(relay: &Node) {
    while relay.relay.status().relay.unwrap().fills_in_flight > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_explained_pinned_and_purged_by_the_handle() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let shard = origin.publish(&noise(100_000, 61)).await.shards()[0].id;
    let id = BlobId::from(shard);
    let handle = &relay.relay;
    assert_eq!(handle.explain(id).unwrap().tiers, []);
    assert_eq!(handle.pin(id).await, Err(PinError::NotHeld));
    let viewer = relay.viewer().await;
    viewer.fetch(id).await.unwrap();
    settled(&relay).await;
    let mut provided = relay.directory.provided();
    provided.wait_for(|provided| provided.contains_key(&Record::Shard(shard))).await.unwrap();
    let explained = handle.explain(id).unwrap();
    assert_eq!((explained.tiers, explained.len), (vec![Tier::Disk], Some(65_536)));
    assert_eq!((explained.why, explained.pinned), (Some(Why::Room), false));
    handle.pin(id).await.unwrap();
    assert!(handle.explain(id).unwrap().pinned);
    assert!(handle.unpin(id).await && !handle.unpin(id).await);
    assert!(handle.purge(id).await && !handle.purge(id).await);
    provided.wait_for(|provided| !provided.contains_key(&Record::Shard(shard))).await.unwrap();
    assert!(matches!(handle.explain(id).unwrap().last, Some((Event::Purged, _))));
    assert_eq!(viewer.fetch(id).await.unwrap().1, Some(Source::Upstream));
    // A node without a cache has nothing to say.
    assert_eq!(origin.relay.explain(id), None);
    assert!(!origin.relay.purge(id).await && !origin.relay.unpin(id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_does_not_take_is_served_from_memory_without_asking_upstream_again() {
    let mut settings = config();
    // Room for four shards on disk, and for all of them in memory.
    settings.cache.capacity = 17 * 1024 * 1024;
    settings.cache.memory = 64 * 1024 * 1024;
    settings.publish.shard_len = 4 * 1024 * 1024;
    let origin = Node::start(Role::Origin, settings.clone()).await;
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add_everywhere(origin.source());
    let manifest = origin.publish(&noise(24 * 1024 * 1024, 62)).await;
    let viewer = relay.viewer().await;
    for round in 0..2 {
        for part in manifest.shards() {
            let (bytes, _) = viewer.fetch(part.id.into()).await.unwrap();
            assert_eq!(BlobId::of(&bytes), part.id.into());
            settled(&relay).await;
        }
        let status = relay.relay.status().relay.unwrap();
        assert_eq!(status.upstream_fetches, 6, "round {round}");
        assert!(status.cache.bytes <= status.cache.capacity);
    }
    let refused = &relay.metrics.cache_admissions_refused_total;
    assert!(refused.with_label_values(&["unwanted"]).get() >= 2);
    assert_eq!(relay.metrics.cache_write_failures_total.get(), 0);
    let hits = relay.metrics.cache_tier_hits_total.with_label_values(&["memory"]).get();
    assert_eq!(hits, 6);
}
