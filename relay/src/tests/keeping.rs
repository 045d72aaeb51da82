//! What a relay keeps, seen from outside.

use super::world::{Node, Role, config, noise};
use crate::{
    BlobId,
    cache::{Event, PinError, Tier, Why},
    store::Step,
    upstream::Record,
    wire::Source,
};
use std::{fs, io, sync::Arc};

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
    let sources = handle.sources(id).await;
    let [source] = &sources[..] else { panic!("{sources:?}") };
    assert_eq!(source.peer_id, origin.relay.peer_id().to_string());
    assert!(source.named && source.connected && !source.breaker_open, "{source:?}");
    assert!(source.first_p95_ms.is_some_and(|ms| ms > 0.0), "{source:?}");
    handle.pin(id).await.unwrap();
    assert!(handle.explain(id).unwrap().pinned);
    assert!(handle.unpin(id).await && !handle.unpin(id).await);
    assert!(handle.purge(id).await && !handle.purge(id).await);
    provided.wait_for(|provided| !provided.contains_key(&Record::Shard(shard))).await.unwrap();
    assert!(matches!(handle.explain(id).unwrap().last, Some((Event::Purged, _))));
    assert_eq!(viewer.fetch(id).await.unwrap().1, Some(Source::Upstream));
    // A node without a cache has nothing to say.
    assert_eq!(origin.relay.explain(id), None);
    assert_eq!(origin.relay.sources(id).await, []);
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

/// Changes a byte in the middle of a file.
fn damage(file: &std::path::Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_went_bad_is_found_while_it_is_sent_and_the_viewer_gets_all_bytes_and_no_wrong_one()
 {
    let mut settings = config();
    settings.publish.shard_len = 1024 * 1024;
    let origin = Node::start(Role::Origin, settings.clone()).await;
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add_everywhere(origin.source());
    let bytes = noise(1024 * 1024, 63);
    let id = BlobId::from(origin.publish(&bytes).await.shards()[0].id);
    let viewer = relay.viewer().await;
    viewer.fetch(id).await.unwrap();
    settled(&relay).await;
    damage(&relay.file("relay", id));
    // What comes before the damage is from disk.
    let (got, source) = viewer.fetch(id).await.unwrap();
    assert!(got == bytes, "every byte is right");
    assert_eq!(source, Some(Source::Disk));
    settled(&relay).await;
    assert_eq!(relay.relay.status().relay.unwrap().upstream_fetches, 2);
    assert_eq!(relay.metrics.corrupt_blobs_total.with_label_values(&["cache"]).get(), 1);
    assert!(relay.path().join("relay/quarantine").join(id.to_string()).exists());
    // It is whole again.
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(relay.relay.status().relay.unwrap().upstream_fetches, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_and_nobody_else_has_ends_in_a_reset() {
    let mut settings = config();
    settings.publish.shard_len = 1024 * 1024;
    let origin = Node::start(Role::Origin, settings).await;
    let shard = origin.publish(&noise(1024 * 1024, 64)).await.shards()[0].id;
    let id = BlobId::from(shard);
    let mut provided = origin.directory.provided();
    provided.wait_for(|provided| provided.contains_key(&Record::Shard(shard))).await.unwrap();
    damage(&origin.file("shards", id));
    origin.viewer().await.fetch(id).await.unwrap_err();
    provided.wait_for(|provided| !provided.contains_key(&Record::Shard(shard))).await.unwrap();
    assert!(origin.refusals("damaged") >= 1);
    assert_eq!(origin.metrics.corrupt_blobs_total.with_label_values(&["origin"]).get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_disk_fails_to_read_the_rest_comes_from_upstream() {
    let mut settings = config();
    settings.publish.shard_len = 1024 * 1024;
    let origin = Node::start(Role::Origin, settings.clone()).await;
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add_everywhere(origin.source());
    let bytes = noise(1024 * 1024, 65);
    let id = BlobId::from(origin.publish(&bytes).await.shards()[0].id);
    let viewer = relay.viewer().await;
    viewer.fetch(id).await.unwrap();
    settled(&relay).await;
    // Opened, with its first groups read, before the disk fails.
    viewer.fetch(id).await.unwrap();
    let cache = relay.relay.shared.cache.clone().unwrap();
    cache.set_faults(Some(Arc::new(|step| match step {
        Step::Read => Err(io::Error::other("on purpose")),
        _ => Ok(()),
    })));
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    settled(&relay).await;
    assert_eq!(relay.relay.status().relay.unwrap().upstream_fetches, 2);
    let failures = &relay.metrics.disk_read_failures_total;
    assert!(failures.with_label_values(&["cache"]).get() >= 1);
    cache.set_faults(None);
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(relay.relay.status().relay.unwrap().upstream_fetches, 2);
}
