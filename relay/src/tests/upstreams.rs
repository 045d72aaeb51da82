//! Sources that misbehave.

use super::{
    fetching::serving,
    world::{Node, Puppet, Role, blob, config, honest},
};
use crate::{
    BlobId, Config, Source,
    client::ViewError,
    wire::{Busy, Code, ExchangeError, Request, Response, encode_frame},
};
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Short limits, so that a stalled source is given up soon.
fn hasty() -> Config {
    let mut config = config();
    config.upstream.header_timeout = Duration::from_millis(300);
    config.upstream.stall_timeout = Duration::from_millis(300);
    config.upstream.pool.connect_timeout = Duration::from_millis(300);
    config.upstream.deadline = Duration::from_secs(2);
    // No second source before the first has failed.
    config.upstream.hedge.after = Duration::from_secs(60);
    config.upstream.hedge.silent_after = Duration::from_secs(60);
    config
}

/// How a source misbehaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trick {
    WrongBytes,
    TooLittle,
    StallsInBody,
    StallsBeforeHeader,
    PromisesTooMuch,
    Garbage,
    ResetsInBody,
    Busy,
    NotFound,
}

const ALL: [(Trick, &str, Code); 9] = [
    (Trick::WrongBytes, "wrong_hash", Code::Corrupt),
    (Trick::TooLittle, "too_little", Code::UpstreamFailed),
    (Trick::StallsInBody, "stalled", Code::UpstreamFailed),
    (Trick::StallsBeforeHeader, "stalled", Code::UpstreamFailed),
    (Trick::PromisesTooMuch, "malformed", Code::UpstreamFailed),
    (Trick::Garbage, "malformed", Code::UpstreamFailed),
    (Trick::ResetsInBody, "reset", Code::UpstreamFailed),
    (Trick::Busy, "busy", Code::Busy),
    (Trick::NotFound, "not_found", Code::NotFound),
];

fn tricky(trick: Trick, bytes: Vec<u8>) -> Puppet {
    Puppet::start(move |request: Request, mut send| {
        let Request::Get { range, encoding, .. } = request else { panic!("{request:?}") };
        let (header, mut bytes) = honest(&bytes, range, encoding);
        async move {
            let header = match trick {
                Trick::PromisesTooMuch => Response::ok(u64::MAX, u64::MAX, None),
                Trick::NotFound => Response::refusal(Code::NotFound),
                Trick::Busy => Response {
                    busy: Some(Busy { retry_after_ms: 1, others: vec![] }),
                    ..Response::refusal(Code::Busy)
                },
                _ => header,
            };
            match trick {
                Trick::WrongBytes => *bytes.last_mut().unwrap() ^= 1,
                Trick::TooLittle | Trick::StallsInBody | Trick::ResetsInBody => {
                    bytes.truncate(bytes.len() / 2);
                }
                Trick::StallsBeforeHeader => std::future::pending::<()>().await,
                Trick::Busy | Trick::NotFound => bytes.clear(),
                Trick::PromisesTooMuch | Trick::Garbage => {}
            }
            let mut frame = encode_frame(&header).unwrap();
            if trick == Trick::Garbage {
                frame.fill(0xff);
            }
            let _ = send.write_all(&frame).await;
            let _ = send.write_all(&bytes).await;
            match trick {
                Trick::StallsInBody => std::future::pending().await,
                Trick::ResetsInBody => drop(send.reset(Code::Internal.into())),
                _ => drop(send.finish()),
            }
            let _ = send.stopped().await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_misbehaves_is_passed_over_for_another() {
    for (n, (trick, reason, _)) in (100..).zip(ALL) {
        let (id, bytes) = blob(200_000, n);
        let bad = tricky(trick, bytes.clone());
        let good = serving(vec![(id, bytes.clone())], Arc::new(Semaphore::new(1)));
        let relay = Node::start(Role::Relay, hasty()).await;
        relay.directory.add(id, bad.source.clone());
        // Lower reputation, so it is asked second.
        relay.directory.add(id, Source { seeder_score: Some(300), ..good.source.clone() });
        let fetched =
            relay.viewer().await.fetch(id).await.unwrap_or_else(|e| panic!("{trick:?}: {e}"));
        assert_eq!(fetched.0, bytes, "{trick:?}");
        assert_eq!((bad.asked(), good.asked()), (1, 1), "{trick:?}");
        assert_eq!(relay.upstream_failures(reason), 1, "{trick:?}");
        assert_eq!(relay.metrics.upstream_fetches_total.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_source_the_viewer_gets_the_code() {
    for (n, (trick, _, code)) in (200..).zip(ALL) {
        let (id, bytes) = blob(200_000, n);
        let bad = tricky(trick, bytes);
        let relay = Node::start(Role::Relay, hasty()).await;
        relay.directory.add(id, bad.source.clone());
        let started = Instant::now();
        let error = relay.viewer().await.fetch(id).await.unwrap_err();
        let got = match &error {
            ViewError::Exchange(ExchangeError::Refused { code, busy }) => {
                assert_eq!(busy.is_some(), *code == Code::Busy);
                *code
            }
            // It went wrong in the middle, and the end of the stream says why.
            ViewError::Exchange(ExchangeError::Reset(code)) => *code,
            error => panic!("{trick:?}: {error}"),
        };
        assert_eq!(got, code, "{trick:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{trick:?}");
        assert!(!relay.file("relay", id).exists());
        assert_eq!(relay.relay.status().relay.unwrap().cache.entries, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_counted_and_their_source_is_not_asked_from_then_on() {
    let relay = Node::start(Role::Relay, hasty()).await;
    let blobs = [blob(100_000, 300), blob(100_000, 301)];
    let bad = tricky(Trick::WrongBytes, blobs[0].1.clone());
    let good = serving(blobs.to_vec(), Arc::new(Semaphore::new(9)));
    relay.directory.add_everywhere(bad.source.clone());
    relay.directory.add_everywhere(Source { seeder_score: Some(300), ..good.source.clone() });
    let viewer = relay.viewer().await;
    for (id, bytes) in blobs {
        assert_eq!(viewer.fetch(id).await.unwrap().0, bytes);
    }
    assert_eq!((bad.asked(), good.asked()), (1, 2));
    assert_eq!(relay.metrics.corrupt_blobs_total.with_label_values(&["upstream"]).get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_is_joined_by_the_next() {
    let (id, bytes) = blob(100_000, 400);
    let slow = tricky(Trick::StallsBeforeHeader, bytes.clone());
    let good = serving(vec![(id, bytes.clone())], Arc::new(Semaphore::new(1)));
    let mut settings = config();
    settings.upstream.hedge.silent_after = Duration::from_millis(50);
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.add(id, slow.source.clone());
    relay.directory.add(id, Source { seeder_score: Some(300), ..good.source.clone() });
    let started = Instant::now();
    assert_eq!(relay.viewer().await.fetch(id).await.unwrap().0, bytes);
    assert!(started.elapsed() < Duration::from_secs(4), "before the first one's time was up");
    assert_eq!((slow.asked(), good.asked()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_at_the_source_s_address_is_not_believed() {
    let (id, bytes) = blob(100_000, 500);
    let good = serving(vec![(id, bytes)], Arc::new(Semaphore::new(1)));
    let relay = Node::start(Role::Relay, hasty()).await;
    relay.directory.add(id, Source { peer: libp2p::PeerId::random(), ..good.source.clone() });
    let error = relay.viewer().await.fetch(id).await.unwrap_err();
    assert!(error.to_string().contains("no source delivered it"), "{error}");
    assert_eq!((good.asked(), relay.upstream_failures("dial")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_went_away_and_came_back_is_dialled_again() {
    let relay = Node::start(Role::Relay, hasty()).await;
    let folder = tempfile::tempdir().unwrap();
    let origin = Node::start_at(folder.path(), Role::Origin, hasty()).await;
    let manifest = origin.publish(&super::world::noise(200_000, 600)).await;
    let [first, second, ..] = manifest.shards() else { panic!() };
    relay.directory.add(first.id.into(), origin.source());
    let viewer = relay.viewer().await;
    viewer.fetch(first.id.into()).await.unwrap();
    origin.stop().await.unwrap();
    let origin = Node::start_at(folder.path(), Role::Origin, hasty()).await;
    relay.directory.add(second.id.into(), origin.source());
    viewer.fetch(second.id.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fills_beyond_the_bound_are_told_to_come_back() {
    let mut settings = config();
    settings.fill.parallel = 1;
    let relay = Node::start(Role::Relay, settings).await;
    let (id, bytes) = blob(1000, 700);
    let gate = Arc::new(Semaphore::new(0));
    let upstream = serving(vec![(id, bytes)], gate.clone());
    relay.directory.add_everywhere(upstream.source.clone());
    let viewer = relay.viewer().await;
    let other = async {
        while upstream.asked() == 0 {
            tokio::task::yield_now().await;
        }
        let error = viewer.fetch(BlobId([1; 32])).await.unwrap_err();
        gate.add_permits(9);
        error
    };
    let (fetched, error) = tokio::join!(viewer.fetch(id), other);
    fetched.unwrap();
    let ViewError::Exchange(ExchangeError::Refused { code, busy }) = error else { panic!() };
    assert_eq!(code, Code::Busy);
    assert_eq!(busy.unwrap().retry_after_ms, 1000);
    assert_eq!(relay.refusals("fills"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_write_still_serves() {
    let relay = Node::start(Role::Relay, config()).await;
    let (id, bytes) = blob(1000, 800);
    let upstream = serving(vec![(id, bytes.clone())], Arc::new(Semaphore::new(9)));
    relay.directory.add(id, upstream.source.clone());
    fs::remove_dir_all(relay.path().join("relay/tmp")).unwrap();
    let viewer = relay.viewer().await;
    assert_eq!(viewer.fetch(id).await.unwrap().0, bytes);
    while relay.metrics.cache_write_failures_total.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(viewer.fetch(id).await.unwrap().0, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_refuses_nobody_and_what_waits_is_written_in_the_end() {
    let mut settings = config();
    settings.fill.parallel = 1;
    let relay = Node::start(Role::Relay, settings).await;
    let blobs: Vec<_> = (900..905).map(|n| blob(50_000, n)).collect();
    let upstream = serving(blobs.clone(), Arc::new(Semaphore::new(blobs.len())));
    relay.directory.add_everywhere(upstream.source.clone());
    let viewer = relay.viewer().await;
    let cache = relay.relay.shared.cache.as_ref().unwrap();
    let held = cache.hold_writes().await;
    // Twice, the second time from the fills that wait.
    for (id, bytes) in blobs.iter().chain(&blobs) {
        assert_eq!(viewer.fetch(*id).await.unwrap().0, *bytes);
    }
    let status = relay.relay.status().relay.unwrap();
    assert_eq!((status.fills_in_flight, status.cache.entries), (blobs.len(), 0));
    drop(held);
    while relay.relay.status().relay.unwrap().fills_in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(relay.relay.status().relay.unwrap().cache.entries, blobs.len());
    assert_eq!(upstream.asked(), blobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_has_no_time_for_is_served_and_not_cached() {
    let mut settings = config();
    settings.cache.write_wait = Duration::from_millis(20);
    let relay = Node::start(Role::Relay, settings).await;
    let (id, bytes) = blob(1000, 910);
    let upstream = serving(vec![(id, bytes.clone())], Arc::new(Semaphore::new(9)));
    relay.directory.add(id, upstream.source.clone());
    let _held = relay.relay.shared.cache.as_ref().unwrap().hold_writes().await;
    assert_eq!(relay.viewer().await.fetch(id).await.unwrap().0, bytes);
    while relay.relay.status().relay.unwrap().fills_in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(relay.metrics.cache_write_failures_total.get(), 1);
    assert_eq!(relay.relay.status().relay.unwrap().cache.entries, 0);
}
