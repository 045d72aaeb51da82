//! Shard services that reach each other over the overlay.

use super::{
    mesh::{Asker, Mesh, Puppet, got},
    world::{Node, Role, blob, config, honest, impatient, noise, until},
};
use crate::{
    Source,
    client::Viewer,
    sync::lock,
    wire::{
        Carrier, Code, ExchangeError, Patience, Request, Response, Way, ask, get_blob, get_groups,
        read_frame,
    },
};
use std::{
    future::pending,
    net::UdpSocket,
    time::{Duration, Instant},
};

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(10), stall: Duration::from_secs(10) };

/// An origin whose shard service has no address and a relay, both on `mesh`; and a viewer of the relay.
async fn behind_a_nat(mesh: &Mesh) -> (Node, Node, Viewer) {
    let origin = Node::start_on(mesh, Role::Origin, config()).await;
    let relay = Node::start_on(mesh, Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source_without_address());
    let viewer = relay.viewer().await;
    (origin, relay, viewer)
}

fn by_way(counters: &prometheus_endpoint::CounterVec<prometheus_endpoint::U64>) -> [u64; 2] {
    ["quic", "overlay"].map(|way| counters.with_label_values(&[way]).get())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_without_an_address_holds_comes_over_the_overlay_byte_for_byte() {
    let mesh = Mesh::default();
    let (origin, relay, viewer) = behind_a_nat(&mesh).await;
    let bytes = noise(1_000_000, 1);
    let manifest = origin.publish(&bytes).await;
    let mut whole = Vec::new();
    for part in manifest.shards() {
        whole.extend_from_slice(&viewer.fetch(part.id.into()).await.unwrap().0);
    }
    assert!(whole == bytes);
    let shards = u64::try_from(manifest.shards().len()).unwrap();
    // The viewer has the last bytes before the relay has counted them.
    until(|| by_way(&relay.metrics.upstream_deliveries_total) == [0, shards]).await;
    assert_eq!(by_way(&relay.metrics.upstream_bytes_total), [0, 1_000_000]);
    until(|| origin.metrics.substreams.get() == 0).await;
    let [direct, served] = by_way(&origin.metrics.bytes_served_by_way_total);
    // With the hashes between the groups.
    assert!(direct == 0 && served > 1_000_000, "{direct} {served}");
    assert_eq!(origin.metrics.bytes_served_total.get(), served);
    assert_eq!(by_way(&relay.metrics.bytes_served_by_way_total)[1], 0, "viewers come over QUIC");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_and_a_raw_blob_and_the_status_are_answered_as_over_quic() {
    let mesh = Mesh::default();
    let origin = Node::start_on(&mesh, Role::Origin, config()).await;
    let bytes = noise(60_000, 2);
    let part = origin.publish(&bytes).await.shards()[0];
    let asker = Asker::of(&mesh, &origin);
    let raw = get_blob(&asker, part.id.into(), false, PATIENCE).await.unwrap();
    assert!(raw.verified(PATIENCE.stall).await.unwrap() == bytes);
    let range = Some((20_000, 20_010));
    let groups = get_groups(&asker, part.id.into(), range, false, PATIENCE).await;
    assert!(groups.unwrap().all().await.unwrap() == bytes[16_384..32_768]);
    ask(&asker, &Request::Status, PATIENCE).await.unwrap();
    let outside = Some((60_000, 60_001));
    let error = get_groups(&asker, part.id.into(), outside, false, PATIENCE).await;
    let error = error.err().unwrap();
    assert!(matches!(error, ExchangeError::Refused { code: Code::Range, .. }), "{error}");
    let (absent, _) = blob(10, 9);
    let error = get_blob(&asker, absent, false, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Refused { code: Code::NotFound, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_way_into_a_black_hole_costs_its_head_start_once_in_a_while() {
    let mesh = Mesh::default();
    let origin = Node::start_on(&mesh, Role::Origin, config()).await;
    let mut settings = config();
    settings.upstream.overlay.head_start = Duration::from_millis(400);
    let relay = Node::start_on(&mesh, Role::Relay, settings).await;
    // Nobody reads this socket.
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let source = Source { addrs: vec![hole.local_addr().unwrap()], ..origin.source() };
    relay.directory.add_everywhere(source);
    let manifest = origin.publish(&noise(190_000, 3)).await;
    let viewer = relay.viewer().await;
    let mut took = Vec::new();
    for part in manifest.shards() {
        let began = Instant::now();
        viewer.fetch(part.id.into()).await.unwrap();
        took.push(began.elapsed());
    }
    let start = Duration::from_millis(400);
    assert!(took[0] >= start && took[0] < start * 5, "{took:?}");
    // From then on the other way comes first.
    assert!(took[1..].iter().all(|took| *took < start), "{took:?}");
    assert_eq!(by_way(&relay.metrics.upstream_bytes_total), [0, 190_000]);
    assert!(by_way(&relay.metrics.upstream_way_failures_total)[0] >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_an_address_that_works_is_asked_there_and_explained_so() {
    let mesh = Mesh::default();
    let origin = Node::start_on(&mesh, Role::Origin, config()).await;
    let relay = Node::start_on(&mesh, Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let id = origin.publish(&noise(50_000, 4)).await.shards()[0].id.into();
    relay.viewer().await.fetch(id).await.unwrap();
    assert_eq!(by_way(&relay.metrics.upstream_bytes_total), [50_000, 0]);
    assert_eq!(by_way(&origin.metrics.bytes_served_by_way_total)[1], 0);
    let sources = relay.relay.sources(id).await;
    let ways: Vec<_> = sources[0].ways.iter().map(|view| view.way).collect();
    assert_eq!((sources.len(), ways), (1, Way::ALL.to_vec()));
    assert!(sources[0].ways[0].expected_ms.is_some() && sources[0].ways[1].expected_ms.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_and_those_that_reset_or_cut_off_are_passed_over_and_another_goes_on() {
    let (id, bytes) = blob(300_000, 5);
    for (reason, trouble) in [("reset", 0), ("connection", 1), ("wrong_hash", 2), ("too_little", 3)]
    {
        let mesh = Mesh::default();
        let relay = Node::start_on(&mesh, Role::Relay, config()).await;
        let whole = bytes.clone();
        let bad = Puppet::start(&mesh, move |request, mut raw| {
            let whole = whole.clone();
            async move {
                let Some((_, range, encoding)) = got(&request) else { return };
                let (header, mut body) = honest(&whole, range, encoding);
                raw.header(&header).await;
                match trouble {
                    0 => {
                        raw.piece(&body[..100_000]).await;
                        raw.end(Code::Internal).await;
                    }
                    1 => raw.piece(&body[..100_000]).await,
                    2 => {
                        let last = body.len() - 1;
                        body[last] ^= 1;
                        raw.piece(&body).await;
                        raw.end(Code::Ok).await;
                        pending().await
                    }
                    _ => {
                        raw.piece(&body[..100_000]).await;
                        raw.end(Code::Ok).await;
                        pending().await
                    }
                }
            }
        });
        let whole = bytes.clone();
        let good = Puppet::start(&mesh, move |request, mut raw| {
            let whole = whole.clone();
            async move {
                let Some((_, range, encoding)) = got(&request) else { return };
                let (header, body) = honest(&whole, range, encoding);
                raw.header(&header).await;
                raw.piece(&body).await;
                raw.end(Code::Ok).await;
                pending().await
            }
        });
        // The bad one is asked first.
        let worse = Source { seeder_score: Some(0), ..good.source.clone() };
        relay.directory.add(id, bad.source.clone());
        relay.directory.add(id, worse);
        let (got, _) = relay.viewer().await.fetch(id).await.unwrap();
        assert!(got == bytes, "{reason}");
        assert_eq!(relay.upstream_failures(reason), 1, "{reason}");
        assert_eq!(by_way(&relay.metrics.upstream_way_failures_total)[1], u64::from(trouble != 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_falls_silent_is_replaced_and_alone_ends_in_a_code() {
    let mesh = Mesh::default();
    let mut settings = config();
    settings.upstream.stall_timeout = Duration::from_millis(300);
    let relay = Node::start_on(&mesh, Role::Relay, settings).await;
    let (id, bytes) = blob(200_000, 6);
    let silent = Puppet::start(&mesh, move |request, mut raw| {
        let bytes = bytes.clone();
        async move {
            let Some((_, range, encoding)) = got(&request) else { return };
            let (header, body) = honest(&bytes, range, encoding);
            raw.header(&header).await;
            raw.piece(&body[..50_000]).await;
            pending().await
        }
    });
    relay.directory.add(id, silent.source.clone());
    let viewer = relay.viewer().await;
    let error = viewer.fetch(id).await.unwrap_err();
    assert!(error.to_string().contains("code 7"), "{error}");
    assert_eq!(relay.upstream_failures("stalled"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_left_the_overlay_is_a_failure_and_one_that_came_back_is_asked_again() {
    let mesh = Mesh::default();
    let (origin, relay, viewer) = behind_a_nat(&mesh).await;
    let manifest = origin.publish(&noise(120_000, 7)).await;
    let door = lock(&mesh.doors).get(&origin.relay.peer_id()).cloned().unwrap();
    mesh.leave(origin.relay.peer_id());
    let id = manifest.shards()[0].id.into();
    viewer.fetch(id).await.unwrap_err();
    assert_eq!(relay.upstream_failures("dial"), 1);
    lock(&mesh.doors).insert(origin.relay.peer_id(), door);
    viewer.fetch(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_substreams_refuse_by_code() {
    let mesh = Mesh::default();
    let mut settings = config();
    settings.server.overlay.per_peer = 2;
    settings.server.overlay.max = 3;
    let origin = Node::start_on(&mesh, Role::Origin, settings).await;
    let [one, other] = std::array::from_fn(|_| Asker::of(&mesh, &origin));
    // Streams whose request never comes.
    let hold = |asker: &Asker| mesh.open(asker.us, asker.node).unwrap();
    let mut held = vec![hold(&one), hold(&one)];
    let refused = async |asker: &Asker| match ask(asker, &Request::Status, PATIENCE).await {
        Err(ExchangeError::Reset(code)) => code,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(refused(&one).await, Code::Limited);
    held.push(hold(&other));
    assert_eq!(refused(&other).await, Code::Busy);
    assert_eq!((origin.refusals("substreams_per_peer"), origin.refusals("substreams")), (1, 1));
    assert_eq!(origin.metrics.substreams.get(), 3);
    drop(held);
    let answered = async {
        while ask(&other, &Request::Status, PATIENCE).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), answered).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_requests_that_never_come_are_refused_as_over_quic() {
    let mesh = Mesh::default();
    let mut settings = config();
    settings.server.request_timeout = Duration::from_millis(100);
    let origin = Node::start_on(&mesh, Role::Origin, settings).await;
    let asker = Asker::of(&mesh, &origin);
    for (frame, reason) in [(&[0xff, 0xff][..], "bad_frame"), (&[], "slow_request")] {
        let mut asked = asker.send(frame).await.unwrap();
        let response: Response = read_frame(&mut asked).await.unwrap();
        assert_eq!(response.code, Code::BadRequest);
        assert_eq!(origin.refusals(reason), 1, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_through_circuits_is_paced_and_the_rest_is_not() {
    for (mesh, paced) in [(Mesh::through_circuits(), true), (Mesh::default(), false)] {
        let mut settings = config();
        settings.server.overlay.circuit_bytes_per_second = 200_000;
        settings.server.viewer_burst = Duration::from_millis(1);
        settings.publish.shard_len = 1 << 20;
        let origin = Node::start_on(&mesh, Role::Origin, settings).await;
        let bytes = noise(400_000, 8);
        let part = origin.publish(&bytes).await.shards()[0];
        let asker = Asker::of(&mesh, &origin);
        let began = Instant::now();
        let raw = get_blob(&asker, part.id.into(), false, PATIENCE).await.unwrap();
        assert!(raw.verified(PATIENCE.stall).await.unwrap() == bytes);
        let took = began.elapsed();
        assert_eq!(took > Duration::from_millis(800), paced, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_down_finishes_and_refuses_what_comes_then() {
    let mesh = Mesh::default();
    let origin = Node::start_on(&mesh, Role::Origin, config()).await;
    let bytes = noise(60_000, 9);
    let part = origin.publish(&bytes).await.shards()[0];
    let asker = Asker::of(&mesh, &origin);
    // Not read yet, so it goes on.
    let raw = get_blob(&asker, part.id.into(), false, PATIENCE).await.unwrap();
    origin.stop.cancel();
    let mut phase = origin.relay.phase();
    phase.wait_for(|phase| *phase == crate::Phase::Draining).await.unwrap();
    let refused = async {
        loop {
            match ask(&asker, &Request::Status, PATIENCE).await {
                Err(ExchangeError::Reset(code) | ExchangeError::Refused { code, .. }) => {
                    return code;
                }
                // Asked before the server saw that it is to end, or in that moment.
                Ok(_) | Err(ExchangeError::Overlay(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(refused.await, Code::ShuttingDown);
    assert!(raw.verified(PATIENCE.stall).await.unwrap() == bytes);
    origin.stop().await.unwrap();
}

#[tokio::test]
async fn viewers_of_a_service_without_an_overlay_see_no_difference() {
    let node = Node::start(Role::Origin, config()).await;
    let viewer = Viewer::connect(node.address(), None, impatient()).await.unwrap();
    let part = node.publish(&noise(10_000, 10)).await.shards()[0];
    viewer.fetch(part.id.into()).await.unwrap();
    assert_eq!(by_way(&node.metrics.bytes_served_by_way_total)[1], 0);
}
