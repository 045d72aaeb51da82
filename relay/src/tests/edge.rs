//! What the server gives to whom when there is not enough for all, and how it says goodbye.

use super::world::{Node, Puppet, Role, blob, config, noise, raw, raw_from};
use crate::{
    BlobId,
    wire::{
        Busy, Code, Cost, Encoding, ExchangeError, Outboard, Patience, Priority, Request, Response,
        Source, Span, ask, encode, encode_frame, get_blob, read_farewell,
    },
};
use libp2p::Multiaddr;
use quinn::{Connection, ConnectionError};
use std::time::Duration;
use tokio::task::JoinSet;

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };
const MIB: usize = 1024 * 1024;

fn get_as(priority: Priority, id: BlobId, range: Option<(u64, u64)>) -> Request {
    Request::GetAs { priority, id, range, encoding: Encoding::Raw, fill: true }
}

/// Asks, and gives the code and what came with it when it was refused.
async fn refused(connection: &Connection, request: &Request) -> Option<(Code, Option<Busy>)> {
    match ask(connection, request, PATIENCE).await {
        Ok(_) => None,
        Err(ExchangeError::Refused { code, busy }) => Some((code, busy)),
        Err(error) => panic!("{error}"),
    }
}

async fn body(connection: &Connection, request: &Request) -> usize {
    let answer = ask(connection, request, PATIENCE).await.unwrap();
    answer.body(64 << 20, PATIENCE.stall, |_| {}).await.unwrap().len()
}

fn relays() -> Vec<Multiaddr> {
    vec!["/ip4/192.0.2.1/udp/9003/quic-v1".parse().unwrap()]
}

fn named() -> Vec<Vec<u8>> {
    relays().iter().map(Multiaddr::to_vec).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetches_are_refused_first_then_new_viewers_and_never_who_is_being_served() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    settings.server.body_memory = 32 * 1024 * 1024;
    settings.server.shed_prefetch_above = 40;
    settings.server.shed_viewers_above = 90;
    settings.server.shed_retry_after = Duration::from_secs(7);
    let origin = Node::start(Role::Origin, settings).await;
    origin.relay.set_others(&relays());
    let manifest = origin.publish(&noise(33 * MIB, 40)).await;
    let [one, two, small] = manifest.shards() else { panic!() };
    let small = BlobId::from(small.id);
    let connection = raw(&origin).await;
    assert_eq!(refused(&connection, &get_as(Priority::Prefetch, small, None)).await, None);
    // Half of the memory is held until it is read.
    let first = get_blob(&connection, one.id.into(), true, PATIENCE).await.unwrap();
    let (code, busy) =
        refused(&connection, &get_as(Priority::Prefetch, small, None)).await.unwrap();
    assert_eq!((code, origin.refusals("prefetch")), (Code::Busy, 1));
    assert_eq!(busy, Some(Busy { retry_after_ms: 1000, others: named() }));
    let newcomer = raw(&origin).await;
    assert_eq!(refused(&newcomer, &get_as(Priority::Play, small, None)).await, None);
    // Now all of it is.
    let second = get_blob(&connection, two.id.into(), true, PATIENCE).await.unwrap();
    let late = raw(&origin).await;
    let (code, busy) = refused(&late, &get_as(Priority::Seek, small, None)).await.unwrap();
    assert_eq!((code, origin.refusals("new_viewer")), (Code::Busy, 1));
    assert_eq!(busy, Some(Busy { retry_after_ms: 7000, others: named() }));
    // Whoever was served before waits for memory like everybody else, and gets it.
    let asked = tokio::spawn(async move {
        let request = get_as(Priority::Play, small, None);
        ask(&newcomer, &request, PATIENCE).await.map(|answer| answer.header().code)
    });
    first.verified(PATIENCE.stall).await.unwrap();
    second.verified(PATIENCE.stall).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Code::Ok);
    while refused(&late, &get_as(Priority::Play, small, None)).await.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_overtakes_what_is_prefetched() {
    let mut settings = config();
    settings.publish.shard_len = 4 * 1024 * 1024;
    settings.server.bytes_per_second = 4_000_000;
    let origin = Node::start(Role::Origin, settings).await;
    let manifest = origin.publish(&noise(4 * MIB, 41)).await;
    let id = BlobId::from(manifest.shards()[0].id);
    let connection = raw(&origin).await;
    // Takes a second for itself.
    let prefetch = ask(&connection, &get_as(Priority::Prefetch, id, None), PATIENCE).await.unwrap();
    let mut prefetching = tokio::spawn(prefetch.body(16 << 20, PATIENCE.stall, |_| {}));
    let seek = get_as(Priority::Seek, id, Some((3_000_000, 3_100_000)));
    tokio::select! {
        got = body(&connection, &seek) => assert_eq!(got, 100_000),
        _ = &mut prefetching => panic!("the prefetch was first"),
    }
    assert_eq!(prefetching.await.unwrap().unwrap().len(), 4 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_share_the_total_whoever_asks_for_more_at_once() {
    let mut settings = config();
    settings.publish.shard_len = 1024 * 1024;
    settings.server.bytes_per_second = 3_000_000;
    let origin = Node::start(Role::Origin, settings).await;
    let id = BlobId::from(origin.publish(&noise(MIB, 42)).await.shards()[0].id);
    let (modest, greedy) = (raw(&origin).await, raw(&origin).await);
    // Four times as much at once gets one share all the same.
    let mut much = JoinSet::new();
    for _ in 0..4 {
        let greedy = greedy.clone();
        much.spawn(async move { body(&greedy, &get_as(Priority::Play, id, None)).await });
    }
    let little = get_as(Priority::Play, id, None);
    tokio::select! {
        got = body(&modest, &little) => assert_eq!(got, MIB),
        _ = much.join_next() => panic!("the greedy one was first"),
    }
    assert_eq!(much.join_all().await, vec![MIB; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_has_a_rate_of_its_own() {
    let mut settings = config();
    settings.publish.shard_len = 1024 * 1024;
    settings.server.bytes_per_second_per_viewer = 2_000_000;
    settings.server.viewer_burst = Duration::ZERO;
    let origin = Node::start(Role::Origin, settings).await;
    let id = BlobId::from(origin.publish(&noise(MIB, 43)).await.shards()[0].id);
    let began = std::time::Instant::now();
    assert_eq!(body(&raw(&origin).await, &get_as(Priority::Play, id, None)).await, MIB);
    // All but the first pieces, of 128 KiB, at 2 MB a second.
    assert!(began.elapsed() > Duration::from_millis(450), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_what_it_cost_to_whoever_can_read_that() {
    let origin = Node::start(Role::Origin, config()).await;
    let id = BlobId::from(origin.publish(&noise(50_000, 44)).await.shards()[0].id);
    let connection = raw(&origin).await;
    let answer = ask(&connection, &get_as(Priority::Play, id, None), PATIENCE).await.unwrap();
    assert_eq!(answer.header().source, Some(Source::Disk));
    let spent = answer.header().cost.spent().unwrap();
    assert!(spent.disk_us > 0 && spent.upstream_us == 0, "{spent:?}");
    let plain = Request::Get { id, range: None, encoding: Encoding::Raw, fill: true };
    let answer = ask(&connection, &plain, PATIENCE).await.unwrap();
    assert_eq!(answer.header().cost, Cost::UNTOLD);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_viewer_is_told_where_else_to_go_when_the_service_goes_down() {
    let origin = Node::start(Role::Origin, config()).await;
    origin.relay.set_others(&relays());
    let id = BlobId::from(origin.publish(&noise(1000, 45)).await.shards()[0].id);
    let (used, unused) = (raw(&origin).await, raw(&origin).await);
    get_blob(&used, id, true, PATIENCE).await.unwrap().verified(PATIENCE.stall).await.unwrap();
    origin.stop().await.unwrap();
    for connection in [used, unused] {
        let ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!() };
        assert_eq!(close.error_code, Code::ShuttingDown.into());
        assert_eq!(read_farewell(&close.reason), named());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_prove_their_address_when_many_come() {
    let mut settings = config();
    settings.server.handshakes_unproven = 0;
    let node = Node::start(Role::Relay, settings).await;
    let connection = raw(&node).await;
    assert_eq!(node.metrics.address_checks_total.get(), 1);
    ask(&connection, &Request::Status, PATIENCE).await.unwrap();
    let node = Node::start(Role::Relay, config()).await;
    raw(&node).await;
    assert_eq!(node.metrics.address_checks_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_has_no_more_streams_open_than_allowed() {
    let mut settings = config();
    settings.server.max_streams = 3;
    settings.server.request_timeout = Duration::from_secs(1);
    let node = Node::start(Role::Relay, settings).await;
    let connection = raw(&node).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        // A byte, so that the server sees it.
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        open.push((send, receive));
    }
    let mut fourth = Box::pin(connection.open_bi());
    assert!(futures::poll!(&mut fourth).is_pending());
    // Those that were never used are given up in time. The places are the viewer's own to free.
    while node.refusals("slow_request") < 3 {
        tokio::task::yield_now().await;
    }
    assert!(futures::poll!(&mut fourth).is_pending());
    drop(open);
    fourth.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_needs_no_word_for_it() {
    let mut settings = config();
    settings.publish.shard_len = 2 * 1024 * 1024;
    settings.server.bytes_per_second = 2_000_000;
    let origin = Node::start(Role::Origin, settings).await;
    let id = BlobId::from(origin.publish(&noise(2 * MIB, 46)).await.shards()[0].id);
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connection = raw_from(&endpoint, &origin).await.unwrap();
    let get = |range| Request::Get { id, range, encoding: Encoding::Raw, fill: true };
    let playing = ask(&connection, &get(None), PATIENCE).await.unwrap();
    let mut playing = tokio::spawn(playing.body(16 << 20, PATIENCE.stall, |_| {}));
    let request = get(Some((1_500_000, 1_600_000)));
    tokio::select! {
        got = body(&connection, &request) => assert_eq!(got, 100_000),
        _ = &mut playing => panic!("what was played was first"),
    }
    assert_eq!(playing.await.unwrap().unwrap().len(), 2 * MIB);
}

/// A source that refuses, breaks off, or delivers another blob of the same length.
fn source(code: Option<Code>) -> Puppet {
    Puppet::start(move |request, mut send| async move {
        let Request::Get { range, encoding, .. } = request else { return };
        let Some(code) = code else {
            let other = bytes::Bytes::from(noise(100_000, 48));
            let span = Span::covering(100_000, range).unwrap();
            let body = match encoding {
                Encoding::Raw => vec![other],
                Encoding::Verified => {
                    encode(&other, &Outboard::of(&other).unwrap(), &span).unwrap()
                }
            };
            let body = body.concat();
            let header = Response::ok(body.len() as u64, 100_000, None);
            let _ = send.write_all(&encode_frame(&header).unwrap()).await;
            let _ = send.write_all(&body).await;
            let _ = send.finish();
            let _ = send.stopped().await;
            return;
        };
        if code == Code::Internal {
            let _ = send.reset(code.into());
            return;
        }
        let _ = send.write_all(&encode_frame(&Response::refusal(code)).unwrap()).await;
        let _ = send.finish();
        let _ = send.stopped().await;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sources_do_wrong_has_a_code_and_a_reason_of_its_own() {
    let (id, _) = blob(100_000, 47);
    let cases = [
        (Some(Code::Busy), Code::Busy, "upstream_busy"),
        (Some(Code::Internal), Code::UpstreamFailed, "upstream_failed"),
        (None, Code::Corrupt, "upstream_corrupt"),
    ];
    for (does, expected, reason) in cases {
        let upstream = source(does);
        let relay = Node::start(Role::Relay, config()).await;
        relay.directory.add(id, upstream.source.clone());
        let connection = raw(&relay).await;
        // Streamed on as it comes, a wrong body may be noticed when the header is gone already.
        let code = match get_blob(&connection, id, true, PATIENCE).await {
            Ok(promised) => match promised.verified(PATIENCE.stall).await.unwrap_err() {
                ExchangeError::Reset(code) => code,
                error => panic!("{error}"),
            },
            Err(ExchangeError::Refused { code, .. }) => code,
            Err(error) => panic!("{error}"),
        };
        assert_eq!((code, relay.refusals(reason)), (expected, 1), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_while_the_service_goes_down_is_counted_as_such() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    let origin = Node::start(Role::Origin, settings).await;
    origin.relay.set_others(&relays());
    let id = BlobId::from(origin.publish(&noise(16 * MIB, 49)).await.shards()[0].id);
    let connection = raw(&origin).await;
    // Keeps the connection open until it is read.
    let promised = get_blob(&connection, id, true, PATIENCE).await.unwrap();
    origin.stop.cancel();
    let busy = loop {
        match refused(&connection, &Request::Status).await {
            None => tokio::task::yield_now().await,
            Some((code, busy)) => {
                assert_eq!(code, Code::ShuttingDown);
                break busy;
            }
        }
    };
    assert_eq!(busy, Some(Busy { retry_after_ms: 0, others: named() }));
    assert_eq!(origin.refusals("shutting_down"), 1);
    promised.verified(PATIENCE.stall).await.unwrap();
    origin.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_reads_a_trickle_is_given_up_like_one_that_stops() {
    let mut settings = config();
    settings.publish.shard_len = 16 * 1024 * 1024;
    settings.server.stall_timeout = Duration::from_millis(300);
    let origin = Node::start(Role::Origin, settings).await;
    let id = BlobId::from(origin.publish(&noise(16 * MIB, 50)).await.shards()[0].id);
    let connection = raw(&origin).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let request = Request::Get { id, range: None, encoding: Encoding::Raw, fill: true };
    send.write_all(&encode_frame(&request).unwrap()).await.unwrap();
    // 100 KB a second, where 64 KiB in 0.3 s are wanted.
    let mut every = tokio::time::interval(Duration::from_millis(10));
    let error = loop {
        every.tick().await;
        match receive.read(&mut [0; 1024]).await {
            Ok(read) => assert!(read.is_some(), "a clean end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, quinn::ReadError::Reset(Code::Limited.into()));
    assert_eq!(origin.refusals("slow_reader"), 1);
}
