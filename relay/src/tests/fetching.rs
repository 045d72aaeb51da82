//! Hits, misses, ranges, whole contents.

use super::world::{Node, Puppet, Role, blob, config, honest, impatient, noise, raw};
use crate::{
    BlobId, ContentId, ShardId, Source as Peer,
    cache::PolicyKind,
    client::{Config, DownloadError, Tally, ViewError, Viewer},
    content::{Manifest, Progress, Stage, manifest::Part},
    upstream::{Class, Record},
    wire::{
        Code, Encoding, ExchangeError, Patience, Request, Response, Source, ask, encode_frame,
        get_blob,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Semaphore, watch};

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };

fn refused(error: &ViewError) -> Option<Code> {
    match error {
        ViewError::Exchange(ExchangeError::Refused { code, .. }) => Some(*code),
        _ => None,
    }
}

/// A well-behaved source of the given blobs, which answers as often as `gate` has permits.
pub(super) fn serving(blobs: Vec<(BlobId, Vec<u8>)>, gate: Arc<Semaphore>) -> Puppet {
    let blobs: Arc<HashMap<_, _>> = Arc::new(blobs.into_iter().collect());
    Puppet::start(move |request, mut send| {
        let (blobs, gate) = (blobs.clone(), gate.clone());
        async move {
            let Request::Get { id, range, encoding, .. } = request else { return };
            gate.acquire().await.unwrap().forget();
            let (header, body) = match blobs.get(&id) {
                Some(bytes) => honest(bytes, range, encoding),
                None => (Response::refusal(Code::NotFound), Vec::new()),
            };
            let _ = send.write_all(&encode_frame(&header).unwrap()).await;
            let _ = send.write_all(&body).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_fetched_and_the_second_request_is_a_hit_without_upstream() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    let manifest = origin.publish(&noise(200_000, 1)).await;
    relay.directory.add_everywhere(origin.source());
    let viewer = relay.viewer().await;
    let id = BlobId::from(manifest.shards()[1].id);
    let held = fs::read(origin.file("shards", id)).unwrap();

    let (bytes, source) = viewer.fetch(id).await.unwrap();
    assert_eq!((&bytes[..], source), (&held[..], Some(Source::Upstream)));
    assert_eq!(viewer.fetch(id).await.unwrap().0, bytes);
    // The fill may still have been writing during the second fetch; it is joined, not repeated.
    while relay.relay.status().relay.unwrap().fills_in_flight > 0 {
        tokio::task::yield_now().await;
    }
    let (again, source) = viewer.fetch(id).await.unwrap();
    assert_eq!((again, source), (bytes, Some(Source::Disk)));

    let status = relay.relay.status().relay.unwrap();
    assert_eq!(status.upstream_fetches, 1);
    assert!(status.hits >= 1 && status.misses >= 1);
    assert_eq!(status.hits + status.misses, 3);
    // With the hashes between its four groups.
    assert_eq!((status.cache.entries, status.cache.bytes), (1, held.len() as u64 + 3 * 64));
    // Counted when the viewer has acknowledged them, which it does a moment later.
    while relay.metrics.bytes_served_total.get() < 3 * held.len() as u64 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fs::read(relay.file("relay", id)).unwrap(), held);
    assert_eq!(viewer.has(&[id, BlobId([0; 32])]).await.unwrap(), [true, false]);
    let service = viewer.status().await.unwrap();
    assert_eq!((service.origin, service.relay, service.viewers), (false, true, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_goes_from_origin_through_relay_to_viewer_byte_for_byte() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let bytes = noise(24_000_001, 2);
    let manifest = origin.publish(&bytes).await;
    let shards = manifest.shards().len();
    let out = relay.path().join("out.mp4");

    let progress = watch::Sender::new(Progress::START);
    let viewer = relay.viewer().await;
    let downloaded = viewer.download(manifest.id(), &out, &progress).await.unwrap();
    assert!(fs::read(&out).unwrap() == bytes, "the bytes differ");
    assert_eq!((downloaded.shards, downloaded.resumed), (shards, 0));
    assert_eq!(downloaded.media_type, "video/mp4");
    let total = bytes.len() as u64;
    assert_eq!(*progress.borrow(), Progress { stage: Stage::Done, done: total, total });
    assert!(!relay.path().join("out.mp4.part").exists());
    let fetches = relay.metrics.upstream_fetches_total.get();
    assert_eq!(fetches, shards as u64 + 1);

    // Again, by another viewer: from the relay alone.
    let again = relay.path().join("again.mp4");
    let downloaded = relay.viewer().await.download(manifest.id(), &again, &progress).await.unwrap();
    assert!(fs::read(&again).unwrap() == bytes, "the bytes differ");
    assert_eq!(downloaded.sources.upstream, 0);
    assert_eq!(relay.metrics.upstream_fetches_total.get(), fetches);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_with_both_roles_serves_what_it_published() {
    let node = Node::start(Role::Both, config()).await;
    let bytes = noise(300_000, 3);
    let manifest = node.publish(&bytes).await;
    let out = node.path().join("out");
    let progress = watch::Sender::new(Progress::START);
    let downloaded = node.viewer().await.download(manifest.id(), &out, &progress).await.unwrap();
    assert_eq!(fs::read(&out).unwrap(), bytes);
    assert_eq!(downloaded.sources, Tally { disk: manifest.shards().len() + 1, ..Tally::default() });
    assert_eq!(node.metrics.upstream_fetches_total.get(), 0);
    let contents = node.relay.contents();
    assert_eq!(contents.len(), 1);
    assert_eq!(contents[0].content_id, manifest.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_viewers_of_one_cold_blob_make_one_upstream_fetch() {
    const VIEWERS: usize = 50;
    let (id, bytes) = blob(100_000, 4);
    let gate = Arc::new(Semaphore::new(0));
    let upstream = serving(vec![(id, bytes.clone())], gate.clone());
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add(id, upstream.source.clone());
    let viewers = futures::future::join_all((0..VIEWERS).map(|_| relay.viewer())).await;
    let fetches = viewers.iter().map(|viewer| viewer.fetch(id));
    let watching = async {
        // The upstream answers when all of them have missed.
        while relay.metrics.cache_misses_total.get() < VIEWERS as u64 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(10);
    };
    let (fetched, ()) = tokio::join!(futures::future::join_all(fetches), watching);
    for result in fetched {
        assert_eq!(result.unwrap().0, bytes);
    }
    assert_eq!(upstream.asked(), 1);
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_goes_on_when_its_viewer_has_left() {
    let (id, bytes) = blob(100_000, 5);
    let gate = Arc::new(Semaphore::new(0));
    let upstream = serving(vec![(id, bytes.clone())], gate.clone());
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add(id, upstream.source.clone());
    {
        let viewer = relay.viewer().await;
        let fetch = viewer.fetch(id);
        let asked = async {
            while upstream.asked() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = fetch => panic!("the upstream has not answered yet"),
            () = asked => {}
        }
        viewer.close().await;
    }
    gate.add_permits(10);
    while relay.relay.status().relay.unwrap().cache.entries == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(relay.viewer().await.fetch(id).await.unwrap().0, bytes);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_is_not_found_and_not_looked_for_again_at_once() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let id = BlobId([9; 32]);
    for node in [&origin, &relay, &relay] {
        let error = node.viewer().await.fetch(id).await.unwrap_err();
        assert_eq!(refused(&error), Some(Code::NotFound), "{error}");
    }
    assert_eq!((origin.refusals("not_found"), relay.refusals("not_found")), (2, 2));
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_asked_not_to_fill_does_not() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let id = BlobId::from(origin.publish(&noise(1000, 6)).await.shards()[0].id);
    let connection = raw(&relay).await;
    let error = get_blob(&connection, id, false, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused { code: Code::NotFound, .. }), "{error}");
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 0);
    get_blob(&connection, id, true, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_give_what_they_name_and_code_4_outside() {
    let origin = Node::start(Role::Origin, config()).await;
    let bytes = noise(50_000, 7);
    let id = BlobId::from(origin.publish(&bytes).await.shards()[0].id);
    let connection = raw(&origin).await;
    let get = |range| Request::Get { id, range: Some(range), encoding: Encoding::Raw, fill: true };
    for (at, to) in [(0, 1), (49_999, 50_000), (0, 50_000), (1234, 40_000)] {
        let (first, end) = (at as u64, to as u64);
        let answer = ask(&connection, &get((first, end)), PATIENCE).await.unwrap();
        assert_eq!((answer.header().length, answer.header().total), (end - first, 50_000));
        let body = answer.body(50_000, PATIENCE.stall, |_| {}).await.unwrap();
        assert_eq!(&body[..], &bytes[at..to]);
    }
    for range in [(0, 50_001), (50_000, 50_001), (7, 7), (8, 7), (0, u64::MAX), (u64::MAX, 0)] {
        let error = ask(&connection, &get(range), PATIENCE).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Refused { code: Code::Range, .. }), "{range:?}");
    }
    assert_eq!(origin.refusals("range"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_resumes_with_what_is_missing() {
    let origin = Node::start(Role::Origin, config()).await;
    let bytes = noise(640_000, 8);
    let manifest = origin.publish(&bytes).await;
    let out = origin.path().join("out");
    let part = origin.path().join("out.part");
    // What an earlier run left: the first half right, one shard of it damaged, and too long.
    let mut left = bytes[..320_000].to_vec();
    left[70_000] ^= 1;
    left.resize(900_000, 7);
    fs::write(&part, left).unwrap();

    let progress = watch::Sender::new(Progress::START);
    let viewer = origin.viewer().await;
    let downloaded = viewer.download(manifest.id(), &out, &progress).await.unwrap();
    assert_eq!(fs::read(&out).unwrap(), bytes);
    assert_eq!((downloaded.shards, downloaded.resumed), (10, 3));
    assert_eq!(downloaded.sources.disk, 8, "7 missing shards and the manifest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_fails_keeps_what_it_has_for_the_next() {
    let origin = Node::start(Role::Origin, config()).await;
    let bytes = noise(640_000, 9);
    let manifest = origin.publish(&bytes).await;
    let lost = BlobId::from(manifest.shards()[9].id);
    let kept = fs::read(origin.file("shards", lost)).unwrap();
    fs::remove_file(origin.file("shards", lost)).unwrap();
    let out = origin.path().join("out");
    let progress = watch::Sender::new(Progress::START);
    let viewer = Viewer::connect(origin.address(), None, Config { parallel: 1, ..impatient() })
        .await
        .unwrap();
    let error = viewer.download(manifest.id(), &out, &progress).await.unwrap_err();
    assert!(error.to_string().contains(&lost.to_string()), "{error}");
    assert!(!out.exists());

    // The blob comes back, and the service finds it when it starts again.
    fs::write(origin.file("shards", lost), kept).unwrap();
    let path = origin.path().to_owned();
    let part = fs::read(path.join("out.part")).unwrap();
    assert_eq!(&part[..9 * 65536], &bytes[..9 * 65536]);
    let again = origin.publish(&bytes).await;
    assert_eq!(again.id(), manifest.id());
    let downloaded = viewer.download(manifest.id(), &out, &progress).await.unwrap();
    assert_eq!(downloaded.resumed, 9);
    assert_eq!(fs::read(&out).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_lies_gives_an_error_and_no_file() {
    let (shard, bytes) = blob(1000, 10);
    let lie = |len| Manifest::new("a/b", vec![Part { id: ShardId(shard), len }]).unwrap();
    let manifests = [lie(999), lie(1001)];
    let garbage = (BlobId::of(b"no manifest"), b"no manifest".to_vec());
    let mut blobs = vec![(shard, bytes), garbage.clone()];
    blobs.extend(manifests.iter().map(|manifest| (manifest.id().into(), manifest.encode())));
    let puppet = serving(blobs, Arc::new(Semaphore::new(100)));
    let Peer { peer, addrs, .. } = puppet.source.clone();
    let address = crate::client::Address { socket: addrs[0], peer };
    let viewer = Viewer::connect(address, None, impatient()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let progress = watch::Sender::new(Progress::START);
    for manifest in manifests {
        let error = viewer.download(manifest.id(), &out, &progress).await.unwrap_err();
        assert!(matches!(error, DownloadError::ShardLen { found: 1000, .. }), "{error}");
    }
    let error = viewer.download(ContentId(garbage.0), &out, &progress).await.unwrap_err();
    let DownloadError::Fetch { source: ViewError::Manifest(_), .. } = error else {
        panic!("{error}")
    };
    assert!(!out.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_downloads_into_one_file_do_not_mix() {
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(1000, 11)).await;
    let out = origin.path().join("out");
    let part = fs::File::create(origin.path().join("out.part")).unwrap();
    part.lock().unwrap();
    let progress = watch::Sender::new(Progress::START);
    let viewer = origin.viewer().await;
    let error = viewer.download(manifest.id(), &out, &progress).await.unwrap_err();
    assert!(matches!(error, DownloadError::InUse(_)), "{error}");
    drop(part);
    viewer.download(manifest.id(), &out, &progress).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_keeps_the_bound_and_ends_the_announcement() {
    let mut settings = config();
    // Four shards with the hashes between their groups.
    settings.cache.capacity = 17 * 1024 * 1024;
    settings.cache.policy = PolicyKind::Lru;
    settings.publish.shard_len = 4 * 1024 * 1024;
    let origin = Node::start(Role::Origin, settings.clone()).await;
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add_everywhere(origin.source());
    let manifest = origin.publish(&noise(24 * 1024 * 1024, 12)).await;
    let viewer = relay.viewer().await;
    for part in manifest.shards() {
        viewer.fetch(part.id.into()).await.unwrap();
        let cache = relay.relay.status().relay.unwrap().cache;
        assert!(cache.bytes <= cache.capacity);
    }
    let last: Vec<_> = manifest.shards()[2..].iter().map(|part| Record::Shard(part.id)).collect();
    let mut provided = relay.directory.provided();
    provided.wait_for(|provided| provided.len() == 4).await.unwrap();
    provided
        .wait_for(|provided| last.iter().all(|record| provided.contains_key(record)))
        .await
        .unwrap();
    assert_eq!(relay.metrics.cache_evictions_total.get(), 2);
    assert!(relay.metrics.cache_utilization_percent.get() <= 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_in_use_is_told_of_again_but_not_with_every_use() {
    let origin = Node::start(Role::Origin, config()).await;
    let id = BlobId::from(origin.publish(&noise(1000, 51)).await.shards()[0].id);
    let mut settings = config();
    settings.announce.touch_after = Duration::ZERO;
    for (settings, expected) in [(settings, 3), (config(), 1)] {
        let relay = Node::start(Role::Relay, settings).await;
        relay.directory.add_everywhere(origin.source());
        let viewer = relay.viewer().await;
        let mut provided = relay.directory.provided();
        for told in 1..=3 {
            viewer.fetch(id).await.unwrap();
            provided.wait_for(|provided| !provided.is_empty()).await.unwrap();
            // A telling is under way when the viewer has its answer, or there is none.
            let told = told.min(expected);
            while relay.directory.told() < told {
                provided.changed().await.unwrap();
            }
        }
        let touches =
            |outcome| relay.metrics.announcement_touches_total.with_label_values(&[outcome]).get();
        assert_eq!(
            [touches("told"), touches("limited")],
            [u64::try_from(expected).unwrap() - 1, 0]
        );
        assert_eq!(relay.directory.told(), expected);
        relay.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_starts_tells_what_its_cache_holds() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(200_000, 52)).await;
    let expected: BTreeMap<_, _> =
        manifest.shards().iter().map(|part| (Record::Shard(part.id), Class::Cached)).collect();
    let relay = Node::start_at(folder.path(), Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let viewer = relay.viewer().await;
    for part in manifest.shards() {
        viewer.fetch(part.id.into()).await.unwrap();
    }
    let mut provided = relay.directory.provided();
    provided.wait_for(|provided| *provided == expected).await.unwrap();
    relay.stop().await.unwrap();
    let relay = Node::start_at(folder.path(), Role::Relay, config()).await;
    let mut provided = relay.directory.provided();
    provided.wait_for(|provided| *provided == expected).await.unwrap();
    let mut silent = config();
    silent.fill.announce = false;
    relay.stop().await.unwrap();
    let relay = Node::start_at(folder.path(), Role::Relay, silent).await;
    relay.viewer().await.fetch(manifest.shards()[0].id.into()).await.unwrap();
    assert_eq!(relay.directory.told(), 0);
    relay.stop().await.unwrap();
}
