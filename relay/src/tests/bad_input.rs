//! Viewers that misbehave, and disks.

use super::{
    fetching::serving,
    world::{Node, Role, blob, config, noise, raw, raw_from},
};
use crate::{
    BlobId,
    wire::{
        Code, Encoding, ExchangeError, Patience, Request, Response, ask, encode_frame, get_blob,
        read_frame,
    },
};
use quinn::{Connection, ConnectionError, ReadError};
use std::{fs, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };

/// Sends bytes as a request and gives the answer's code.
async fn say(connection: &Connection, bytes: &[u8], finish: bool) -> Code {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    if finish {
        let _ = send.finish();
    }
    let response: Response = read_frame(&mut receive).await.unwrap();
    assert_eq!(response.length, 0);
    assert_eq!(receive.read(&mut [0; 1]).await.unwrap(), None);
    response.code
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_code_2_and_the_connection_lives_on() {
    let mut settings = config();
    settings.server.request_timeout = Duration::from_millis(200);
    let node = Node::start(Role::Relay, settings).await;
    let connection = raw(&node).await;
    let get = encode_frame(&Request::Get {
        id: BlobId([1; 32]),
        range: None,
        encoding: Encoding::Raw,
        fill: false,
    })
    .unwrap();
    let mut unknown_encoding = get.clone();
    let at = unknown_encoding.len() - 2;
    unknown_encoding[at] = 2;
    let bad: [(&str, &[u8]); 8] = [
        ("nothing", &[]),
        ("half a length", &[0]),
        ("no length", &[0, 0]),
        ("a frame above 4 KiB", &[0x10, 0x01]),
        ("a huge frame", &[0xff, 0xff, 1, 2, 3]),
        ("an unknown request", &[0, 1, 9]),
        ("a truncated frame", &get[..get.len() - 1]),
        ("an unknown encoding", &unknown_encoding),
    ];
    for (what, bytes) in bad {
        assert_eq!(say(&connection, bytes, true).await, Code::BadRequest, "{what}");
    }
    assert_eq!(node.refusals("bad_frame"), 8);
    // Opened and never finished: bounded in time.
    assert_eq!(say(&connection, &get[..5], false).await, Code::BadRequest);
    assert_eq!(node.refusals("slow_request"), 1);
    assert_eq!(say(&connection, &get, true).await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_ids_than_are_answered_get_code_3() {
    let node = Node::start(Role::Relay, config()).await;
    let connection = raw(&node).await;
    let has = |n| Request::Has { ids: vec![BlobId([1; 32]); n] };
    let error = ask(&connection, &has(121), PATIENCE).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused { code: Code::TooLarge, .. }), "{error}");
    assert_eq!(ask(&connection, &has(120), PATIENCE).await.unwrap().header().length, 120);
    assert_eq!(node.refusals("too_many_ids"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_the_cache_is_put_aside_and_fetched_anew() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let manifest = origin.publish(&noise(200_000, 20)).await;
    let viewer = relay.viewer().await;
    for (part, truncate) in manifest.shards().iter().zip([false, true]) {
        let id = BlobId::from(part.id);
        let bytes = viewer.fetch(id).await.unwrap().0;
        while relay.relay.status().relay.unwrap().fills_in_flight > 0 {
            tokio::task::yield_now().await;
        }
        let mut damaged = bytes.to_vec();
        damaged[100] ^= 1;
        if truncate {
            damaged.truncate(10);
        }
        fs::write(relay.file("relay", id), damaged).unwrap();
        assert_eq!(viewer.fetch(id).await.unwrap().0, bytes);
        assert!(relay.path().join("relay/quarantine").join(id.to_string()).exists());
    }
    assert_eq!(relay.metrics.corrupt_blobs_total.with_label_values(&["cache"]).get(), 2);
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_of_the_origin_is_never_served() {
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(1000, 21)).await;
    let id = BlobId::from(manifest.shards()[0].id);
    fs::write(origin.file("shards", id), noise(1000, 22)).unwrap();
    let connection = raw(&origin).await;
    let error = get_blob(&connection, id, true, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused { code: Code::NotFound, .. }), "{error}");
    assert_eq!(origin.metrics.corrupt_blobs_total.with_label_values(&["origin"]).get(), 1);
    // The directory is told, and publishing again repairs it.
    let mut provided = origin.directory.provided();
    let record = crate::Record::Shard(manifest.shards()[0].id);
    provided.wait_for(|provided| !provided.contains_key(&record)).await.unwrap();
    origin.publish(&noise(1000, 21)).await;
    get_blob(&connection, id, true, PATIENCE)
        .await
        .unwrap()
        .verified(PATIENCE.stall)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_origin_that_the_disk_fails_to_read_gets_code_10_and_stays_announced() {
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(1000, 27)).await;
    let id = BlobId::from(manifest.shards()[0].id);
    let file = origin.file("shards", id);
    fs::remove_file(&file).unwrap();
    // A link to itself: opening it fails, for root as well.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let connection = raw(&origin).await;
    let error = get_blob(&connection, id, true, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused { code: Code::Internal, .. }), "{error}");
    assert_eq!(origin.refusals("internal"), 1);
    assert_eq!(origin.metrics.disk_read_failures_total.with_label_values(&["origin"]).get(), 1);
    // Once the disk is well again, so is the blob.
    fs::remove_file(&file).unwrap();
    fs::write(&file, noise(1000, 27)).unwrap();
    let bytes = get_blob(&connection, id, true, PATIENCE).await.unwrap();
    assert_eq!(bytes.verified(PATIENCE.stall).await.unwrap(), noise(1000, 27));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_cache_that_is_damaged_or_gone_is_announced_no_more() {
    let origin = Node::start(Role::Origin, config()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let manifest = origin.publish(&noise(100_000, 28)).await;
    let connection = raw(&relay).await;
    let mut provided = relay.directory.provided();
    let [damaged, gone] = manifest.shards() else { panic!() };
    for part in [damaged, gone] {
        let promised = get_blob(&connection, part.id.into(), true, PATIENCE).await.unwrap();
        promised.verified(PATIENCE.stall).await.unwrap();
        let record = crate::Record::Shard(part.id);
        provided.wait_for(|provided| provided.contains_key(&record)).await.unwrap();
    }
    fs::write(relay.file("relay", damaged.id.into()), b"x").unwrap();
    fs::remove_file(relay.file("relay", gone.id.into())).unwrap();
    for part in [damaged, gone] {
        // Without a fill, which would announce it again.
        let error = get_blob(&connection, part.id.into(), false, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Refused { code: Code::NotFound, .. }), "{error}");
    }
    provided.wait_for(|provided| provided.is_empty()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_stops_reading_is_reset_with_a_code() {
    let mut settings = config();
    settings.server.stall_timeout = Duration::from_millis(200);
    settings.publish.shard_len = 16 * 1024 * 1024;
    let origin = Node::start(Role::Origin, settings).await;
    let manifest = origin.publish(&noise(16 * 1024 * 1024, 23)).await;
    let request = Request::Get {
        id: manifest.shards()[0].id.into(),
        range: None,
        encoding: Encoding::Raw,
        fill: true,
    };
    let connection = raw(&origin).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&encode_frame(&request).unwrap()).await.unwrap();
    // The window is 4 MiB: the rest waits for us to read, which we do not until it is too late.
    let reset = receive.received_reset().await.unwrap();
    assert_eq!(reset, Some(Code::Limited.into()));
    assert_eq!(origin.refusals("slow_reader"), 1);
    assert_eq!(origin.metrics.bytes_served_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_memory_and_requests_beyond_the_bound_are_told_to_come_back() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    settings.server.body_memory = 16 * 1024 * 1024;
    settings.server.memory_wait = Duration::from_millis(50);
    settings.server.max_requests = 2;
    let origin = Node::start(Role::Origin, settings).await;
    let manifest = origin.publish(&noise(17 * 1024 * 1024, 24)).await;
    let [large, small] = manifest.shards() else { panic!() };
    let connection = raw(&origin).await;
    // Takes all the memory until it is read.
    let held = get_blob(&connection, large.id.into(), true, PATIENCE).await.unwrap();
    let error = get_blob(&connection, small.id.into(), true, PATIENCE).await.unwrap_err();
    let ExchangeError::Refused { code: Code::Busy, busy: Some(_) } = error else { panic!() };
    assert_eq!(origin.refusals("memory"), 1);
    // Takes the second of the two places.
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[0]).await.unwrap();
    while origin.refusals("requests") == 0 {
        match ask(&connection, &Request::Status, PATIENCE).await {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, ExchangeError::Reset(Code::Busy)), "{error}");
            }
        }
    }
    held.verified(PATIENCE.stall).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_too_fast_or_too_many_are_refused() {
    let mut settings = config();
    settings.server.connections_per_second_per_source = 3;
    settings.server.max_connections = 2;
    let node = Node::start(Role::Relay, settings).await;
    let connect =
        || crate::client::Viewer::connect(node.address(), None, super::world::impatient());
    let first = connect().await.unwrap();
    let _second = connect().await.unwrap();
    assert!(connect().await.is_err());
    assert_eq!(node.refusals("connections"), 1);
    first.close().await;
    while node.metrics.viewer_connections.get() > 1 {
        tokio::task::yield_now().await;
    }
    // One token is left, or a little more by now.
    let mut kept = vec![];
    while node.refusals("connection_rate") == 0 {
        if let Ok(viewer) = connect().await {
            kept.push(viewer);
        }
        if node.refusals("connections") > 1 {
            kept.clear();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_no_more_connections_open_than_allowed() {
    let mut settings = config();
    settings.server.connections_per_source = 2;
    let node = Node::start(Role::Relay, settings).await;
    let from = |host| quinn::Endpoint::client(([127, 0, 0, host], 0).into()).unwrap();
    // Another port is no other address.
    let (one, same, other) = (from(1), from(1), from(2));
    let first = raw_from(&one, &node).await.unwrap();
    let _second = raw_from(&same, &node).await.unwrap();
    let refused = raw_from(&same, &node).await.unwrap_err();
    assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
    assert_eq!((node.refusals("connections_per_source"), node.refusals("connections")), (1, 0));
    let _other = raw_from(&other, &node).await.unwrap();
    // A place is free again once a connection has ended.
    first.close(Code::Ok.into(), b"");
    while raw_from(&one, &node).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_another_protocol_gets_no_connection() {
    let node = Node::start(Role::Relay, config()).await;
    let identity = libp2p::identity::Keypair::generate_ed25519();
    let mut tls = libp2p_tls::make_client_config(&identity, Some(node.relay.peer_id())).unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = crate::transport::dialling_endpoint(65536).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, node.addr, "x").unwrap();
    assert!(matches!(connecting.await, Err(ConnectionError::ConnectionClosed(_))));
    while node.refusals("handshake") == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_off_by_a_kill_is_never_a_clean_end() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    let origin = Node::start(Role::Origin, settings).await;
    let manifest = origin.publish(&noise(16 * 1024 * 1024, 25)).await;
    let id = BlobId::from(manifest.shards()[0].id);
    let connection = raw(&origin).await;
    let promised = get_blob(&connection, id, true, PATIENCE).await.unwrap();
    origin.kill().await;
    // A reset, a close, or silence if the packet that says so is lost; never an end.
    let result = promised.verified(Duration::from_secs(1)).await;
    assert!(result.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_gives_up_costs_nothing_more() {
    let (id, bytes) = blob(1000, 26);
    let upstream = serving(vec![(id, bytes)], Arc::new(Semaphore::new(0)));
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add(id, upstream.source.clone());
    let connection = raw(&relay).await;
    let request =
        encode_frame(&Request::Get { id, range: None, encoding: Encoding::Raw, fill: true });
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&request.unwrap()).await.unwrap();
    while upstream.asked() == 0 {
        tokio::task::yield_now().await;
    }
    receive.stop(Code::Ok.into()).unwrap();
    // The stream ends on the server's side too, long before the fill.
    assert!(send.stopped().await.is_ok());
    let result = receive.read(&mut [0; 1]).await;
    assert!(matches!(result, Err(ReadError::ClosedStream) | Ok(None)), "{result:?}");
}
