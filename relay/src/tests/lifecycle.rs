//! Starting, stopping, starting again.

use super::world::{Node, Role, config, noise, raw};
use crate::{
    BlobId, BuildError, Deps, Metrics, Phase, Record, RunError, Unknown,
    content::{Progress, publish, publish::PublishError},
    upstream::{Class, directory::Fake},
    wire::{Code, ExchangeError, Patience, get_blob},
};
use libp2p::identity::Keypair;
use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };

fn deps(origin_dir: Option<&Path>, cache_dir: Option<&Path>) -> Deps {
    Deps {
        identity: Keypair::generate_ed25519(),
        directory: Arc::new(Fake::default()),
        standing: Arc::new(Unknown),
        overlay: None,
        metrics: Metrics::unregistered(),
        origin_dir: origin_dir.map(Into::into),
        cache_dir: cache_dir.map(Into::into),
        region: None,
        withhold: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_cache_and_drops_what_was_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(300_000, 30)).await;
    let relay = Node::start_at(folder.path(), Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let viewer = relay.viewer().await;
    for part in manifest.shards() {
        viewer.fetch(part.id.into()).await.unwrap();
    }
    while relay.relay.status().relay.unwrap().fills_in_flight > 0 {
        tokio::task::yield_now().await;
    }
    let held = relay.relay.status().relay.unwrap().cache;
    assert_eq!(held.entries, manifest.shards().len());
    let id = BlobId::from(manifest.shards()[0].id);
    let file = relay.file("relay", id);
    relay.kill().await;

    // What a SIGKILL in the middle of writing another blob leaves.
    let half = noise(100_000, 31);
    fs::write(folder.path().join("relay/tmp/0"), &half[..50_000]).unwrap();
    // And a file that was complete by its name but not on disk.
    let lost = manifest.shards()[1].id.into();
    let relay = Node::start_at(folder.path(), Role::Relay, config()).await;
    fs::write(relay.file("relay", lost), b"").unwrap();
    assert_eq!(relay.relay.status().relay.unwrap().cache, held);
    assert_eq!(fs::read_dir(folder.path().join("relay/tmp")).unwrap().count(), 0);
    let viewer = relay.viewer().await;
    let bytes = viewer.fetch(id).await.unwrap().0;
    assert_eq!(bytes, fs::read(file).unwrap());
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 0);
    assert!(viewer.fetch(BlobId::of(&half)).await.is_err());
    assert!(viewer.fetch(lost).await.is_err(), "no source is known to this directory");
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_announced_after_publishing_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Node::start_at(folder.path(), Role::Both, config()).await;
    let manifest = origin.publish(&noise(300_000, 32)).await;
    let shards = manifest.shards().iter().map(|part| Record::Shard(part.id));
    let records = shards.chain([Record::Content(manifest.id())]);
    let expected: BTreeMap<_, _> = records.map(|record| (record, Class::Kept)).collect();
    let mut provided = origin.directory.provided();
    provided.wait_for(|provided| *provided == expected).await.unwrap();
    let contents = origin.relay.contents();
    origin.stop().await.unwrap();

    let origin = Node::start_at(folder.path(), Role::Both, config()).await;
    assert_eq!(origin.relay.contents(), contents);
    let mut provided = origin.directory.provided();
    provided.wait_for(|provided| *provided == expected).await.unwrap();

    // A directory that starts anew knows nothing, and is told again.
    origin.directory.restart();
    provided.wait_for(|provided| *provided == expected).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight_and_answers_9_to_the_rest() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    let origin = Node::start(Role::Origin, settings).await;
    let bytes = noise(16 * 1024 * 1024, 33);
    let id = BlobId::from(origin.publish(&bytes).await.shards()[0].id);
    let connection = raw(&origin).await;
    let promised = get_blob(&connection, id, true, PATIENCE).await.unwrap();
    let mut phase = origin.relay.phase();
    origin.stop.cancel();
    phase.wait_for(|phase| *phase == Phase::Draining).await.unwrap();
    // The phase is told just before the server is; it is a matter of a moment.
    let refused = loop {
        match get_blob(&connection, id, true, PATIENCE).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    let ExchangeError::Refused { code: Code::ShuttingDown, .. } = refused else {
        panic!("{refused}")
    };
    assert!(promised.verified(PATIENCE.stall).await.unwrap() == bytes, "the bytes differ");
    origin.stop().await.unwrap();
    assert!(matches!(
        connection.closed().await,
        quinn::ConnectionError::ApplicationClosed(close)
            if close.error_code == Code::ShuttingDown.into()
    ));
    assert_eq!(*phase.borrow_and_update(), Phase::Stopped { reason: None });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_asked_to_drain_serves_nobody_until_it_is_stopped() {
    let origin = Node::start(Role::Origin, config()).await;
    let connection = raw(&origin).await;
    let mut phase = origin.relay.phase();
    origin.relay.drain();
    phase.wait_for(|phase| *phase == Phase::Drained).await.unwrap();
    assert!(matches!(
        connection.closed().await,
        quinn::ConnectionError::ApplicationClosed(close)
            if close.error_code == Code::ShuttingDown.into()
    ));
    assert_eq!(origin.relay.local_addr(), None);
    origin.stop().await.unwrap();
    assert_eq!(*phase.borrow_and_update(), Phase::Stopped { reason: None });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_when_a_viewer_does_not_read() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    settings.server.drain_timeout = Duration::from_millis(200);
    let origin = Node::start(Role::Origin, settings).await;
    let id = BlobId::from(origin.publish(&noise(16 * 1024 * 1024, 34)).await.shards()[0].id);
    let connection = raw(&origin).await;
    let promised = get_blob(&connection, id, true, PATIENCE).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), origin.stop()).await.unwrap().unwrap();
    assert!(promised.verified(PATIENCE.stall).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_folder_without_rights_are_each_one_clear_line() {
    let node = Node::start(Role::Relay, config()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config();
    settings.server.listen_addr = node.addr;
    let (relay, driver) = crate::build(settings, deps(None, Some(folder.path()))).unwrap();
    let error = Box::pin(driver.run(CancellationToken::new())).await.unwrap_err();
    assert!(matches!(error, RunError::InUse { addr } if addr == node.addr), "{error}");
    let line = error.to_string();
    assert!(
        line.contains(&node.addr.to_string()) && line.contains("--shard-listen-addr"),
        "{line}"
    );
    assert_eq!(relay.ready().await.unwrap_err().reason, line);

    // A file in place of the folder: nobody may make one there, root included.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (_relay, driver) = crate::build(config(), deps(Some(&file), None)).unwrap();
    let error = Box::pin(driver.run(CancellationToken::new())).await.unwrap_err();
    let line = error.to_string();
    assert!(line.contains("cannot use the data folder") && !line.contains('\n'), "{line}");
    assert!(line.contains(&file.display().to_string()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folders_are_free_for_the_next_service_as_soon_as_one_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let old = Node::start_at(folder.path(), Role::Both, config()).await;
    let handle = old.relay.clone();
    let (_relay, driver) =
        crate::build(config(), deps(None, Some(&folder.path().join("relay")))).unwrap();
    let error = Box::pin(driver.run(CancellationToken::new())).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    old.kill().await;
    // Somebody still holds the old handle, as an RPC call in flight would.
    let new = Node::start_at(folder.path(), Role::Both, config()).await;
    assert!(handle.local_addr().is_some());
    new.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_role_or_with_a_bad_setting_is_not_built() {
    assert!(matches!(crate::build(config(), deps(None, None)), Err(BuildError::NoRole)));
    let mut settings = config();
    settings.fill.parallel = 0;
    let folder = tempfile::tempdir().unwrap();
    let built = crate::build(settings, deps(Some(folder.path()), None));
    assert!(matches!(built, Err(BuildError::Config { key: "fill.parallel", .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn building_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not there");
    let (relay, _driver) = crate::build(config(), deps(Some(&path), Some(&path))).unwrap();
    assert!(!path.exists());
    assert_eq!(relay.status().phase, Phase::Starting);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_on_a_relay_or_a_stopped_node_says_so() {
    let node = Node::start(Role::Relay, config()).await;
    let request = || publish::Request { path: "x".into(), media_type: None };
    let progress = || watch::Sender::new(Progress::START);
    let error = node.relay.publish(request(), progress()).await.unwrap_err();
    assert!(matches!(error, PublishError::NoOrigin), "{error}");
    let node = Node::start(Role::Origin, config()).await;
    let handle = node.relay.clone();
    let error = handle.publish(request(), progress()).await.unwrap_err();
    assert!(matches!(error, PublishError::Open { .. }), "{error}");
    node.stop().await.unwrap();
    let error = handle.publish(request(), progress()).await.unwrap_err();
    assert!(matches!(error, PublishError::Stopped), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_can_be_written_as_json() {
    let node = Node::start(Role::Both, config()).await;
    node.publish(&noise(1000, 35)).await;
    let json = serde_json::to_value(node.relay.status()).unwrap();
    assert_eq!(json["phase"], "serving");
    assert_eq!(json["listen_addr"], node.addr.to_string());
    assert_eq!(json["origin"]["contents"], 1);
    assert_eq!(json["relay"]["cache"]["entries"], 0);
}
