//! Probes of peers that serve, that do not, and that lie.

use super::{
    verified::{AWKWARD, End, Reply, answering, one_shard, shard},
    world::{Node, Puppet, Role, blob, config, noise, raw},
};
use crate::{
    BlobId, ContentId,
    client::probe::{Config, FetchError, Outcome, Peer, Prober, Reason, Target},
    wire::{Busy, Code, GROUP_LEN, Response, group_count},
};
use libp2p::identity::Keypair;
use std::{
    collections::HashSet,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// More than any of these needs.
const AMPLE: Duration = Duration::from_secs(20);
/// For those that last as long as they may.
const SHORT: Duration = Duration::from_millis(400);

fn prober() -> Prober {
    let config = Config { retry_min: Duration::from_millis(10), ..Config::default() };
    Prober::new(config).unwrap()
}

fn node(node: &Node) -> Peer {
    Peer { id: node.relay.peer_id(), addrs: vec![node.addr] }
}

fn puppet(puppet: &Puppet) -> Peer {
    Peer { id: puppet.source.peer, addrs: puppet.source.addrs.clone() }
}

fn target(blob: BlobId, len: Option<u32>, choice: u64) -> Target {
    Target { blob, len, choice }
}

fn missed(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::Missed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn served(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Served { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_awkward_sizes_are_served_by_any_of_their_groups() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let prober = prober();
    for (seed, len) in (50..).zip(AWKWARD) {
        let id = shard(&origin, &noise(len, seed)).await;
        let total = u32::try_from(len).unwrap();
        let count = group_count(total);
        let size_of = |group: u32| (total - group * GROUP_LEN).min(GROUP_LEN);
        for choice in [0, 1, count - 1, count, count / 2, u32::MAX] {
            let group = choice % count;
            let choice = u64::from(choice);
            let known = prober.probe(&node(&origin), &target(id, Some(total), choice), AMPLE).await;
            assert_eq!(served(known), size_of(group));
            // The first, the last and the chosen one, each once.
            let groups = HashSet::from([0, count - 1, group]);
            let unknown = prober.probe(&node(&origin), &target(id, None, choice), AMPLE).await;
            assert_eq!(served(unknown), groups.into_iter().map(size_of).sum::<u32>());
        }
    }
    prober.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_probe_has_an_identity_of_its_own() {
    let (id, bytes) = blob(100_000, 60);
    let server = answering(move |range| Reply::honest(&bytes, range));
    let prober = prober();
    for choice in 0..5 {
        served(prober.probe(&puppet(&server), &target(id, None, choice), AMPLE).await);
    }
    let visitors = server.visitors();
    assert_eq!(visitors.len(), 5, "one connection a probe");
    assert_eq!(visitors.into_iter().collect::<HashSet<_>>().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_is_an_answer_and_causes_no_fetch() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let id = shard(&origin, &noise(1000, 61)).await;
    let outcome = prober().probe(&node(&relay), &target(id, Some(1000), 0), AMPLE).await;
    assert!(matches!(outcome, Outcome::NotFound), "{outcome:?}");
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 0);
    let withholding = Node::start_withholding(Role::Origin, one_shard()).await;
    let id = shard(&withholding, &noise(1000, 61)).await;
    let outcome = prober().probe(&node(&withholding), &target(id, None, 0), AMPLE).await;
    assert!(matches!(outcome, Outcome::NotFound), "{outcome:?}");
    assert_eq!(withholding.refusals("not_found"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked_is_not_blamed() {
    let peer = Peer { id: Keypair::generate_ed25519().public().to_peer_id(), addrs: vec![] };
    let target = target(BlobId([1; 32]), None, 0);
    let outcome = prober().probe(&peer, &target, AMPLE).await;
    assert!(matches!(outcome, Outcome::NotAsked(_)), "{outcome:?}");
    // Port 0 is no address that can be dialled.
    let peer = Peer { addrs: vec![([127, 0, 0, 1], 0).into()], ..peer };
    let outcome = prober().probe(&peer, &target, AMPLE).await;
    assert!(matches!(outcome, Outcome::NotAsked(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_strangers_are_unreachable() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = Peer {
        id: Keypair::generate_ed25519().public().to_peer_id(),
        addrs: vec![silent.local_addr().unwrap()],
    };
    let target = target(BlobId([1; 32]), None, 0);
    let started = Instant::now();
    let outcome = prober().probe(&peer, &target, SHORT).await;
    assert_eq!(missed(outcome), Reason::Unreachable);
    assert!(started.elapsed() >= SHORT);
    // Somebody else answers there.
    let stranger = answering(|_| Reply::refusal(Code::NotFound));
    let peer = Peer { addrs: stranger.source.addrs.clone(), ..peer };
    let outcome = prober().probe(&peer, &target, AMPLE).await;
    assert_eq!((missed(outcome), stranger.asked()), (Reason::Unreachable, 0));
    // The right one is found beside it.
    let (id, bytes) = blob(1000, 62);
    let server = answering(move |range| Reply::honest(&bytes, range));
    let addrs = [&peer.addrs[..], &server.source.addrs].concat();
    let peer = Peer { addrs, ..puppet(&server) };
    served(prober().probe(&peer, &Target { blob: id, ..target }, AMPLE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_peer_is_asked_again_until_it_serves_or_the_time_is_over() {
    let (id, bytes) = blob(100_000, 63);
    for how in [0, 1, 2] {
        let refusals = Arc::new(AtomicUsize::new(0));
        let (bytes, counter) = (bytes.clone(), Arc::clone(&refusals));
        let server = answering(move |range| {
            if counter.fetch_add(1, SeqCst) >= 3 {
                return Reply::honest(&bytes, range);
            }
            let mut reply = Reply::refusal([Code::Busy, Code::Limited, Code::Ok][how]);
            match how {
                0 => reply.header.busy = Some(Busy { retry_after_ms: 1, others: vec![] }),
                1 => {}
                _ => {
                    reply = Reply::honest(&bytes, range);
                    reply.body.clear();
                    reply.end = End::Reset(Code::Busy);
                }
            }
            reply
        });
        let known = target(id, Some(100_000), 3);
        served(prober().probe(&puppet(&server), &known, AMPLE).await);
        assert_eq!(server.asked(), 4);
        let visitors = server.visitors();
        assert_eq!(visitors.iter().collect::<HashSet<_>>().len(), visitors.len());
    }
    // What it asks for is honoured, within reason.
    let server = answering(|_| {
        let busy = Some(Busy { retry_after_ms: u32::MAX, others: vec![] });
        let mut reply = Reply::refusal(Code::Busy);
        reply.header = Response { busy, ..reply.header };
        reply
    });
    let outcome = prober().probe(&puppet(&server), &target(id, None, 0), SHORT).await;
    assert_eq!((missed(outcome), server.asked()), (Reason::Busy, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_refused_for_a_limit_is_tried_again() {
    let mut settings = one_shard();
    settings.server.max_connections = 1;
    let origin = Node::start(Role::Origin, settings).await;
    let id = shard(&origin, &noise(1000, 64)).await;
    let first = raw(&origin).await;
    let target = target(id, None, 0);
    let outcome = prober().probe(&node(&origin), &target, SHORT).await;
    assert_eq!(missed(outcome), Reason::Busy);
    let refused = origin.refusals("connections");
    assert!(refused >= 2, "{refused}");
    first.close(Code::Ok.into(), b"");
    served(prober().probe(&node(&origin), &target, AMPLE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_has_its_reason() {
    type Lie = fn(&mut Reply, Option<(u64, u64)>);
    let lies: [(&str, Lie, Reason); 11] = [
        ("no", |reply, _| *reply = Reply::refusal(Code::Internal), Reason::Refused),
        ("no such request", |reply, _| *reply = Reply::refusal(Code::BadRequest), Reason::Refused),
        ("a byte", |reply, _| *reply.body.last_mut().unwrap() ^= 1, Reason::WrongBytes),
        ("a hash", |reply, _| reply.body[70] ^= 1, Reason::WrongBytes),
        ("shorter", |reply, asked| reply.claim(3 * GROUP_LEN, asked), Reason::WrongSize),
        ("longer", |reply, asked| reply.claim(9 * GROUP_LEN, asked), Reason::WrongSize),
        ("a length", |reply, _| reply.header.length += 1, Reason::Malformed),
        ("little", |reply, _| reply.body.truncate(9), Reason::TooLittle),
        ("much", |reply, _| reply.body.resize(1 << 20, 7), Reason::TooMuch),
        ("silence", |reply, _| (reply.body.clear(), reply.end = End::Silence).1, Reason::Stalled),
        (
            "a reset",
            |reply, _| (reply.body.clear(), reply.end = End::Reset(Code::Internal)).1,
            Reason::Lost,
        ),
    ];
    let (id, bytes) = blob(7 * GROUP_LEN as usize - 5, 65);
    let total = u32::try_from(bytes.len()).unwrap();
    for (what, lie, reason) in lies {
        let bytes = bytes.clone();
        let liar = answering(move |range| {
            let mut reply = Reply::honest(&bytes, range);
            lie(&mut reply, range);
            reply
        });
        let within = if reason == Reason::Stalled { SHORT } else { AMPLE };
        let started = Instant::now();
        let outcome = prober().probe(&puppet(&liar), &target(id, Some(total), 2), within).await;
        assert_eq!(missed(outcome), reason, "{what}");
        // Without the length, a lie about it is a wrong proof.
        let reason = if reason == Reason::WrongSize { Reason::WrongBytes } else { reason };
        let outcome = prober().probe(&puppet(&liar), &target(id, None, 2), within).await;
        assert_eq!(missed(outcome), reason, "{what}");
        assert!(started.elapsed() < AMPLE, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_malformed_or_lost() {
    let garbage = Puppet::start(|_, mut send| async move {
        let _ = send.write_all(&[0xff; 9000]).await;
        let _ = send.stopped().await;
    });
    let target = target(BlobId([1; 32]), Some(5), 0);
    let outcome = prober().probe(&puppet(&garbage), &target, AMPLE).await;
    assert_eq!(missed(outcome), Reason::Malformed);
    // quinn ends a stream that is dropped cleanly: an answer without a header.
    let mute = Puppet::start(|_, send| async move { drop(send) });
    let outcome = prober().probe(&puppet(&mute), &target, AMPLE).await;
    assert_eq!(missed(outcome), Reason::Malformed);
    let silent = Puppet::start(|_, send| async move { drop(send.stopped().await) });
    let outcome = prober().probe(&puppet(&silent), &target, SHORT).await;
    assert_eq!(missed(outcome), Reason::Stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_half_cannot_pass_it_for_the_whole() {
    let (id, bytes) = blob(64 * GROUP_LEN as usize, 66);
    let total = 64 * GROUP_LEN;
    // A blob of 48 groups has the same left half, so the proofs of its groups are true ones.
    let claimed = 48 * GROUP_LEN;
    let half = answering(move |range| {
        let mut reply = Reply::honest(&bytes, range);
        reply.claim(claimed, range);
        reply
    });
    for choice in (0..48).step_by(5) {
        let unknown = prober().probe(&puppet(&half), &target(id, None, choice), AMPLE).await;
        assert_eq!(missed(unknown), Reason::WrongBytes);
        let known = prober().probe(&puppet(&half), &target(id, Some(total), choice), AMPLE).await;
        assert_eq!(missed(known), Reason::WrongSize);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_in_a_manifest_is_not_held_against_the_peer() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let id = shard(&origin, &noise(5 * GROUP_LEN as usize, 67)).await;
    for wrong in [1, GROUP_LEN, 5 * GROUP_LEN - 1, 5 * GROUP_LEN + 1, 16 << 20] {
        for choice in [0, 3, 4, 1023] {
            let target = target(id, Some(wrong), choice);
            served(prober().probe(&node(&origin), &target, AMPLE).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_tells_two_lengths_lies() {
    let (id, bytes) = blob(5 * GROUP_LEN as usize, 68);
    let total = 5 * GROUP_LEN;
    // Out of range first, and then the length that was expected all along.
    let refusing = answering({
        let bytes = bytes.clone();
        move |range| match range {
            Some((first, _)) if first > 0 => Reply::refusal(Code::Range),
            _ => Reply::honest(&bytes, range),
        }
    });
    for len in [Some(total), None] {
        let outcome = prober().probe(&puppet(&refusing), &target(id, len, 3), AMPLE).await;
        assert_eq!(missed(outcome), Reason::WrongSize);
    }
    let changing = answering(move |range| {
        let mut reply = Reply::honest(&bytes, range);
        if range.is_some_and(|(first, _)| first > 0) {
            reply.claim(6 * GROUP_LEN, range);
        }
        reply
    });
    let outcome = prober().probe(&puppet(&changing), &target(id, None, 3), AMPLE).await;
    assert_eq!(missed(outcome), Reason::WrongSize);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_and_manifests_are_fetched_whole() {
    let origin = Node::start(Role::Origin, config()).await;
    let manifest = origin.publish(&noise(500_000, 69)).await;
    let (prober, peer) = (prober(), node(&origin));
    let fetched = prober.manifest(&peer, manifest.id(), 1 << 20, AMPLE).await.unwrap();
    assert_eq!(fetched, manifest);
    let part = manifest.shards()[0];
    let error = prober.blob(&peer, part.id.into(), part.len - 1, AMPLE).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLong { total, .. } if total == part.len), "{error}");
    let bytes = prober.blob(&peer, part.id.into(), part.len, AMPLE).await.unwrap();
    assert_eq!(BlobId::of(&bytes), part.id.into());
    let error = prober.manifest(&peer, ContentId(part.id.into()), 1 << 20, AMPLE).await;
    assert!(matches!(error, Err(FetchError::Manifest(_))));
    let error = prober.blob(&peer, BlobId([9; 32]), 1 << 20, AMPLE).await.unwrap_err();
    assert!(matches!(error, FetchError::NotFound), "{error}");
}

#[test]
fn labels_are_distinct_and_stable() {
    let labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    let expected = "unreachable busy refused stalled lost malformed wrong_size wrong_bytes \
                    too_little too_much";
    assert_eq!(labels.join(" "), expected);
}
