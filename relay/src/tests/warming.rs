//! What a relay fetches before anybody asks for it, and what it does not.

use super::{
    fetching::serving,
    world::{Node, Puppet, Role, blob, config, honest, noise, raw, until},
};
use crate::{
    Account, Announced, BlobId, Config, ContentId, Patron,
    content::Manifest,
    wire::{Patience, Priority, Request, Source, encode_frame, get_blob},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };
const MIB: usize = 1 << 20;

/// An account in good standing answers for it.
fn announced(manifest: &Manifest) -> Announced {
    Announced {
        content: manifest.id(),
        total_len: manifest.total_len(),
        shards: u32::try_from(manifest.shards().len()).unwrap(),
        by: Some(Patron { account: Account([1; 32]), score: 500 }),
    }
}

fn refused(relay: &Node, reason: &str) -> u64 {
    relay.metrics.prefetches_refused_total.with_label_values(&[reason]).get()
}

fn started(relay: &Node, cause: &str) -> u64 {
    relay.metrics.prefetches_started_total.with_label_values(&[cause]).get()
}

fn failed(relay: &Node, reason: &str) -> u64 {
    relay.metrics.prefetches_failed_total.with_label_values(&[reason]).get()
}

fn holds(relay: &Node, id: impl Into<BlobId>) -> bool {
    relay.relay.explain(id.into()).unwrap().len.is_some()
}

fn shards(manifest: &Manifest) -> Vec<BlobId> {
    manifest.shards().iter().map(|part| part.id.into()).collect()
}

/// Its shards and its manifest.
fn all(manifest: &Manifest) -> Vec<BlobId> {
    shards(manifest).into_iter().chain([manifest.id().into()]).collect()
}

/// A super-node that published `bytes` in shards of 64 KiB, and a relay that fetches from it.
async fn world(bytes: &[u8], settings: Config) -> (Node, Node, Manifest) {
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(bytes).await;
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add_everywhere(origin.source());
    (origin, relay, manifest)
}

fn ahead(shards: usize) -> Config {
    let mut settings = config();
    settings.warm.ahead = shards;
    settings
}

/// A source of some blobs that notes how urgent it is to who asks, and answers as often as `gate` has
/// permits.
struct Urgency {
    puppet: Puppet,
    asked: Arc<Mutex<Vec<(BlobId, Priority)>>>,
}

impl Urgency {
    fn new(blobs: Vec<(BlobId, Vec<u8>)>, gate: Arc<Semaphore>) -> Self {
        let blobs: Arc<HashMap<_, _>> = Arc::new(blobs.into_iter().collect());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let puppet = Puppet::start(move |request, mut send| {
            let (priority, id, range, encoding) = match request {
                Request::Get { id, range, encoding, .. } => (Priority::Play, id, range, encoding),
                Request::GetAs { priority, id, range, encoding, .. } => {
                    (priority, id, range, encoding)
                }
                other => panic!("{other:?}"),
            };
            noted.lock().unwrap().push((id, priority));
            let (blobs, gate) = (Arc::clone(&blobs), Arc::clone(&gate));
            async move {
                gate.acquire().await.unwrap().forget();
                let (header, body) = honest(&blobs[&id], range, encoding);
                let _ = send.write_all(&encode_frame(&header).unwrap()).await;
                let _ = send.write_all(&body).await;
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        });
        Self { puppet, asked }
    }

    /// Has the directory of a relay name this as the source of a content.
    fn offer(&self, relay: &Node, manifest: &Manifest) {
        for id in all(manifest) {
            relay.directory.add(id, self.puppet.source.clone());
        }
    }

    fn asked(&self) -> Vec<(BlobId, Priority)> {
        self.asked.lock().unwrap().clone()
    }
}

/// A content of two shards as a source has it: manifest and shards.
fn film(seed: u64) -> (Manifest, Vec<(BlobId, Vec<u8>)>) {
    let blobs = vec![blob(50_000, seed), blob(50_000, seed + 1)];
    let part = |(id, bytes): &(BlobId, Vec<u8>)| crate::content::manifest::Part {
        id: crate::ShardId(*id),
        len: u32::try_from(bytes.len()).unwrap(),
    };
    let manifest = Manifest::new("video/mp4", blobs.iter().map(part).collect()).unwrap();
    let mut all = vec![(manifest.id().into(), manifest.encode())];
    all.extend(blobs);
    (manifest, all)
}

/// A node that is a relay, and has a viewer that holds half of its memory for bodies until dropped.
async fn half_full(mut settings: Config) -> (Node, impl Sized) {
    settings.publish.shard_len = 16 * 1024 * 1024;
    settings.server.body_memory = 32 * 1024 * 1024;
    let relay = Node::start(Role::Both, settings).await;
    let big = relay.publish(&noise(16 * MIB, 7000)).await;
    let connection = raw(&relay).await;
    let held = get_blob(&connection, big.shards()[0].id.into(), true, PATIENCE).await.unwrap();
    (relay, (connection, held))
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_content_is_there_before_anybody_asks_and_reading_it_counts_as_use() {
    let (_origin, relay, manifest) = world(&noise(200_000, 7001), config()).await;
    relay.relay.announced(announced(&manifest));
    let all = all(&manifest);
    until(|| all.iter().all(|id| holds(&relay, *id))).await;
    let count = u64::try_from(all.len()).unwrap();
    assert_eq!((started(&relay, "announced"), started(&relay, "ahead")), (count, 0));
    until(|| relay.metrics.prefetch_unread_bytes.get() > 200_000).await;

    let viewer = relay.viewer().await;
    for id in &all {
        assert_eq!(viewer.fetch(*id).await.unwrap().1, Some(Source::Disk));
    }
    until(|| relay.metrics.prefetches_used_total.get() == count).await;
    until(|| relay.metrics.prefetch_unread_bytes.get() == 0).await;
    assert_eq!(relay.metrics.upstream_fetches_total.get(), count);
    assert_eq!(relay.metrics.prefetches_wasted_total.get(), 0);
    let status = relay.relay.status().relay.unwrap().prefetch;
    assert_eq!((status.announced, status.used, status.unread_bytes), (count, count, 0));
    // Announced again, it causes nothing.
    relay.relay.announced(announced(&manifest));
    until(|| refused(&relay, "known") == 1).await;
    assert_eq!(started(&relay, "announced"), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_in_good_standing_answers_for_is_not_fetched() {
    let (_origin, relay, manifest) = world(&noise(100_000, 7002), config()).await;
    let good = announced(&manifest);
    relay.relay.announced(Announced { by: None, ..good });
    until(|| refused(&relay, "unbound") == 1).await;
    let low = Patron { account: Account([1; 32]), score: 499 };
    relay.relay.announced(Announced { by: Some(low), ..good });
    until(|| refused(&relay, "reputation") == 1).await;
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_content_that_is_not_what_was_announced_no_shard_is_fetched() {
    let (_origin, relay, manifest) = world(&noise(200_000, 7003), config()).await;
    let good = announced(&manifest);
    relay.relay.announced(Announced { shards: good.shards + 1, ..good });
    until(|| refused(&relay, "untrue") == 1).await;
    assert_eq!(started(&relay, "announced"), 1, "the manifest alone");
    // A shard is no manifest.
    let shard = ContentId(shards(&manifest)[0]);
    relay.relay.announced(Announced { content: shard, ..good });
    until(|| refused(&relay, "untrue") == 2).await;
    // And no content has so many shards.
    relay.relay.announced(Announced {
        content: ContentId(BlobId([1; 32])),
        shards: 1 << 30,
        ..good
    });
    until(|| refused(&relay, "untrue") == 3).await;
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_has_caused_enough_within_the_hour_causes_no_more() {
    let mut settings = config();
    settings.warm.account_bytes = 150_000;
    let (origin, relay, manifest) = world(&noise(300_000, 7004), settings).await;
    relay.relay.announced(announced(&manifest));
    // Two shards of 64 KiB, of five.
    until(|| refused(&relay, "account") == 3).await;
    assert_eq!(started(&relay, "announced"), 3);
    let another = origin.publish(&noise(60_000, 7005)).await;
    let good = announced(&another);
    let other = Patron { account: Account([2; 32]), score: 500 };
    relay.relay.announced(Announced { by: Some(other), ..good });
    until(|| holds(&relay, shards(&another)[0])).await;
    assert_eq!(refused(&relay, "account"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_takes_its_share_of_the_cache_and_no_more() {
    let mut settings = config();
    settings.cache.capacity = 16 * 1024 * 1024;
    settings.cache.free_headroom = 0;
    // 167,772 bytes.
    settings.warm.cache_percent = 1;
    let (_origin, relay, manifest) = world(&noise(6 * 65_536, 7006), settings).await;
    relay.relay.announced(announced(&manifest));
    until(|| refused(&relay, "share") == 4).await;
    assert_eq!(started(&relay, "announced"), 3);
    until(|| relay.metrics.prefetch_unread_bytes.get() > 131_072).await;
    assert!(relay.metrics.prefetch_unread_bytes.get() <= 167_772);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_push_out_what_is_asked_for_more_often_is_not_fetched() {
    let mut settings = config();
    // Room for four shards, and a little more.
    settings.cache.capacity = 17 * 1024 * 1024;
    settings.cache.free_headroom = 0;
    settings.publish.shard_len = 4 * 1024 * 1024;
    settings.warm.cache_percent = 100;
    let origin = Node::start(Role::Origin, settings.clone()).await;
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add_everywhere(origin.source());
    let popular = origin.publish(&noise(16 * MIB, 7007)).await;
    let viewer = relay.viewer().await;
    for _ in 0..2 {
        for id in shards(&popular) {
            viewer.fetch(id).await.unwrap();
            until(|| relay.relay.status().relay.unwrap().fills_in_flight == 0).await;
        }
    }
    let new = origin.publish(&noise(8 * MIB, 7008)).await;
    relay.relay.announced(announced(&new));
    until(|| refused(&relay, "admission") == 2).await;
    assert_eq!(started(&relay, "announced"), 1, "its manifest found room");
    assert!(shards(&popular).into_iter().all(|id| holds(&relay, id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_much_to_do_begins_nothing_until_it_has_less() {
    let mut settings = ahead(2);
    settings.server.shed_prefetch_above = 75;
    settings.warm.patience = Duration::from_millis(300);
    let (relay, held) = half_full(settings).await;
    let (manifest, blobs) = film(7010);
    let source = Urgency::new(blobs, Arc::new(Semaphore::new(99)));
    source.offer(&relay, &manifest);
    relay.relay.announced(announced(&manifest));
    until(|| refused(&relay, "busy") == 1).await;
    assert_eq!(source.asked(), []);
    // What follows a shard that is read is not even waited with.
    let viewer = relay.viewer().await;
    viewer.fetch(manifest.id().into()).await.unwrap();
    viewer.fetch(shards(&manifest)[0]).await.unwrap();
    until(|| refused(&relay, "busy") >= 2).await;
    assert_eq!(started(&relay, "ahead") + started(&relay, "announced"), 0);

    drop(held);
    let (another, blobs) = film(7020);
    let source = Urgency::new(blobs, Arc::new(Semaphore::new(99)));
    source.offer(&relay, &another);
    // It may take a moment until the server has seen that its viewer is gone.
    until(|| {
        relay.relay.announced(announced(&another));
        started(&relay, "announced") > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_under_pressure_drops_what_it_fetches_ahead_first_and_serves_on() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    settings.server.body_memory = 32 * 1024 * 1024;
    settings.server.shed_prefetch_above = 40;
    settings.warm.idle_below = 40;
    settings.warm.parallel = 1;
    let relay = Node::start(Role::Both, settings).await;
    let big = relay.publish(&noise(16 * MIB, 7030)).await;
    let gate = Arc::new(Semaphore::new(1));
    let (manifest, blobs) = film(7031);
    let source = Urgency::new(blobs, Arc::clone(&gate));
    relay.directory.add_everywhere(source.puppet.source.clone());
    // The manifest comes; the first shard is under way, and the second waits for it.
    relay.relay.announced(announced(&manifest));
    until(|| source.asked().len() == 2).await;
    assert_eq!(failed(&relay, "dropped"), 0);

    let connection = raw(&relay).await;
    let id = big.shards()[0].id.into();
    let held = get_blob(&connection, id, true, PATIENCE).await.unwrap();
    until(|| failed(&relay, "dropped") == 1 && refused(&relay, "busy") == 1).await;
    until(|| relay.metrics.fills_abandoned_total.get() == 1).await;
    assert_eq!(relay.relay.status().relay.unwrap().fills_in_flight, 0);
    // Who plays is served all the same, also what had been dropped.
    gate.add_permits(9);
    let first = shards(&manifest)[0];
    assert_eq!(relay.viewer().await.fetch(first).await.unwrap().1, Some(Source::Upstream));
    assert_eq!(held.verified(PATIENCE.stall).await.unwrap().len(), 16 * MIB);
    assert_eq!(source.asked().last(), Some(&(first, Priority::Play)));
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_that_find_no_place_to_wait_are_refused() {
    let mut settings = config();
    settings.warm.queue = 1;
    settings.server.shed_prefetch_above = 0;
    let (relay, _held) = half_full(settings).await;
    for seed in [7040, 7050] {
        relay.relay.announced(announced(&film(seed).0));
    }
    until(|| refused(&relay, "queue") == 1).await;
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_holds_is_not_looked_for_again_and_again() {
    let mut settings = config();
    settings.fill.absent_for = Duration::from_secs(600);
    let relay = Node::start(Role::Relay, settings).await;
    let (manifest, _) = film(7060);
    relay.relay.announced(announced(&manifest));
    until(|| failed(&relay, "failed") == 1).await;
    relay.relay.announced(announced(&manifest));
    until(|| refused(&relay, "absent") == 1).await;
    assert_eq!(started(&relay, "announced"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_ahead_is_asked_for_as_a_prefetch_and_a_viewer_joins_it() {
    let gate = Arc::new(Semaphore::new(1));
    let (manifest, blobs) = film(7070);
    let source = Urgency::new(blobs, Arc::clone(&gate));
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(source.puppet.source.clone());
    relay.relay.announced(announced(&manifest));
    until(|| source.asked().len() == 3).await;
    assert!(source.asked().iter().all(|(_, priority)| *priority == Priority::Prefetch));
    // Both shards are under way. One is asked for meanwhile.
    let viewer = relay.viewer().await;
    let first = shards(&manifest)[0];
    let (fetched, ()) = tokio::join!(viewer.fetch(first), async {
        until(|| relay.metrics.prefetches_used_total.get() == 1).await;
        gate.add_permits(9);
    });
    fetched.unwrap();
    until(|| holds(&relay, first)).await;
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shards_after_one_that_is_read_are_fetched_before_they_are_asked_for() {
    let (_origin, relay, manifest) = world(&noise(640_000, 7080), ahead(3)).await;
    let ids = shards(&manifest);
    let viewer = relay.viewer().await;
    viewer.fetch(manifest.id().into()).await.unwrap();
    viewer.fetch(ids[0]).await.unwrap();
    until(|| ids[..4].iter().all(|id| holds(&relay, *id))).await;
    // A reading in the middle, as after a seek.
    viewer.fetch(ids[6]).await.unwrap();
    until(|| ids[6..].iter().all(|id| holds(&relay, *id))).await;
    assert!(!holds(&relay, ids[5]));
    for id in &ids {
        viewer.fetch(*id).await.unwrap();
        until(|| relay.relay.status().relay.unwrap().fills_in_flight == 0).await;
    }
    // Each was fetched once, whoever was first.
    let all = u64::try_from(ids.len()).unwrap() + 1;
    until(|| relay.metrics.upstream_fetches_total.get() == all).await;
    until(|| relay.metrics.prefetch_unread_bytes.get() == 0).await;
    let used = relay.metrics.prefetches_used_total.get();
    assert_eq!(used, started(&relay, "ahead"));
    assert!(used >= 6, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_held_since_before_a_restart_leads_on_too() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(300_000, 7090)).await;
    let relay = Node::start_at(folder.path(), Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    relay.viewer().await.fetch(manifest.id().into()).await.unwrap();
    until(|| holds(&relay, manifest.id())).await;
    until(|| relay.relay.status().relay.unwrap().fills_in_flight == 0).await;
    let ids = shards(&manifest);
    relay.stop().await.unwrap();

    let relay = Node::start_at(folder.path(), Role::Relay, ahead(2)).await;
    relay.directory.add_everywhere(origin.source());
    assert!(!holds(&relay, ids[0]));
    relay.viewer().await.fetch(manifest.id().into()).await.unwrap();
    until(|| holds(&relay, ids[1])).await;
    relay.viewer().await.fetch(ids[2]).await.unwrap();
    until(|| ids.iter().all(|id| holds(&relay, *id))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_of_a_viewer_leads_no_further() {
    let (_origin, relay, manifest) = world(&noise(300_000, 7100), ahead(3)).await;
    let ids = shards(&manifest);
    let viewer = relay.viewer().await;
    viewer.fetch(manifest.id().into()).await.unwrap();
    until(|| holds(&relay, ids[2])).await;
    let connection = raw(&relay).await;
    let request = Request::GetAs {
        priority: Priority::Prefetch,
        id: ids[1],
        range: None,
        encoding: crate::wire::Encoding::Raw,
        fill: true,
    };
    let answer = crate::wire::ask(&connection, &request, PATIENCE).await.unwrap();
    answer.body(1 << 20, PATIENCE.stall, |_| {}).await.unwrap();
    // One that is read leads to the three after it. What was read before it has been seen by then.
    viewer.fetch(ids[0]).await.unwrap();
    until(|| holds(&relay, ids[3])).await;
    until(|| relay.relay.status().relay.unwrap().fills_in_flight == 0).await;
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 5, "the manifest and four shards");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_read_counts_as_wasted() {
    let mut settings = config();
    settings.warm.judge_after = Duration::from_millis(300);
    settings.warm.judge_every = Duration::from_millis(50);
    let (_origin, relay, manifest) = world(&noise(100_000, 7110), settings).await;
    relay.relay.announced(announced(&manifest));
    until(|| relay.metrics.prefetches_wasted_total.get() == 3).await;
    until(|| relay.metrics.prefetch_unread_bytes.get() == 0).await;
    assert_eq!(relay.metrics.prefetches_used_total.get(), 0);
    assert!(shards(&manifest).into_iter().all(|id| holds(&relay, id)), "it stays while it pays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_unread_is_wasted_without_waiting() {
    let mut settings = config();
    settings.warm.judge_every = Duration::from_millis(50);
    let (_origin, relay, manifest) = world(&noise(60_000, 7120), settings).await;
    relay.relay.announced(announced(&manifest));
    let id = shards(&manifest)[0];
    until(|| holds(&relay, id)).await;
    until(|| relay.relay.status().relay.unwrap().fills_in_flight == 0).await;
    assert!(relay.relay.purge(id).await);
    until(|| relay.metrics.prefetches_wasted_total.get() == 1).await;
    assert!(holds(&relay, manifest.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_caches_nothing_takes_no_heed_of_announcements() {
    let origin = Node::start(Role::Origin, config()).await;
    let (manifest, blobs) = film(7130);
    let source = serving(blobs, Arc::new(Semaphore::new(9)));
    origin.directory.add_everywhere(source.source.clone());
    origin.relay.announced(announced(&manifest));
    origin.relay.announced(Announced { by: None, ..announced(&manifest) });
    assert_eq!(origin.relay.status().relay, None);
    origin.stop().await.unwrap();
    assert_eq!(source.asked(), 0);
}
