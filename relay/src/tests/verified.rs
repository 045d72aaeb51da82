//! Verified bodies, honest and not.

use super::world::{Node, Puppet, Role, blob, config, honest, noise, raw};
use crate::{
    BlobId,
    content::MAX_BLOB_LEN,
    transport,
    upstream::{PoolConfig, Record, dial},
    wire::{
        Code, Encoding, ExchangeError, GROUP_LEN, Patience, Request, Response, Source, Span, ask,
        encode_frame, get_blob, get_groups, group_count,
    },
};
use libp2p::identity::Keypair;
use quinn::Connection;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };

const GROUP: u64 = GROUP_LEN as u64;

/// Lengths at the edges of chunks, groups and trees.
pub(super) const AWKWARD: [usize; 8] =
    [1, 1024, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 100_000, 1 << 20, 16 << 20];

/// Settings with which a content of any length is a single shard.
pub(super) fn one_shard() -> crate::Config {
    let mut settings = config();
    settings.publish.shard_len = MAX_BLOB_LEN;
    settings
}

/// Publishes bytes as one shard.
pub(super) async fn shard(origin: &Node, bytes: &[u8]) -> BlobId {
    let manifest = origin.publish(bytes).await;
    assert_eq!(manifest.shards().len(), 1);
    manifest.shards()[0].id.into()
}

/// An answer that a server of a test's own making is about to give.
pub(super) struct Reply {
    pub(super) header: Response,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Clean,
    /// Never.
    Silence,
    Reset(Code),
}

impl Reply {
    pub(super) fn refusal(code: Code) -> Self {
        Self { header: Response::refusal(code), body: Vec::new(), end: End::Clean }
    }

    /// The truth about a blob, whatever is asked.
    pub(super) fn honest(bytes: &[u8], asked: Option<(u64, u64)>) -> Self {
        let (header, body) = honest(bytes, asked, Encoding::Verified);
        Self { header, body, end: End::Clean }
    }

    /// Claims that the blob is `total` bytes long, in a header that agrees with itself.
    pub(super) fn claim(&mut self, total: u32, asked: Option<(u64, u64)>) {
        let length = Span::covering(total, asked).map_or(0, |span| span.encoded_len());
        self.header.total = total.into();
        self.header.length = length;
        self.body.resize(usize::try_from(length).unwrap(), 0);
    }
}

/// A server that answers each request for groups with what `reply` makes of the asked range.
pub(super) fn answering(
    reply: impl Fn(Option<(u64, u64)>) -> Reply + Send + Sync + 'static,
) -> Puppet {
    Puppet::start(move |request, mut send| {
        let reply = match request {
            Request::Get { range, encoding: Encoding::Verified, .. } => reply(range),
            _ => Reply::refusal(Code::BadRequest),
        };
        async move {
            let Reply { header, body, end } = reply;
            let _ = send.write_all(&encode_frame(&header).unwrap()).await;
            let _ = send.write_all(&body).await;
            match end {
                End::Clean => {
                    let _ = send.finish();
                    let _ = send.stopped().await;
                }
                End::Silence => {
                    let _ = send.stopped().await;
                }
                End::Reset(code) => {
                    // What was written arrives first: a reset may overtake it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let _ = send.reset(code.into());
                }
            }
        }
    })
}

async fn connect(puppet: &Puppet) -> Connection {
    let ours = Keypair::generate_ed25519();
    let windows = transport::Windows::SHARDS;
    let idle = Duration::from_secs(30);
    let tls = transport::client_config(&ours, puppet.source.peer, windows, idle).unwrap();
    let endpoint = transport::dialling_endpoint(1 << 20).unwrap();
    dial(&endpoint, &tls, &puppet.source.addrs, &PoolConfig::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_blobs_and_random_groups_of_awkward_sizes() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let connection = raw(&origin).await;
    for (seed, len) in (30..).zip(AWKWARD) {
        let bytes = noise(len, seed);
        let id = shard(&origin, &bytes).await;
        let total = u32::try_from(len).unwrap();

        let whole = get_groups(&connection, id, None, false, PATIENCE).await.unwrap();
        assert_eq!((whole.span().total(), whole.source()), (total, Some(Source::Disk)));
        assert!(whole.span().proves_total());
        assert!(whole.all().await.unwrap() == bytes, "{len}: the bytes differ");

        let last = group_count(total) - 1;
        for group in [0, last, last / 3, last / 2 + 1, last.saturating_sub(1)] {
            let group = group.min(last);
            let at = group * GROUP_LEN;
            let end = total.min(at + GROUP_LEN);
            // Any byte of a group stands for it.
            let range = Some((u64::from(end) - 1, u64::from(end)));
            let part = get_groups(&connection, id, range, false, PATIENCE).await.unwrap();
            assert_eq!(part.span().proves_total(), group == last);
            let (found, rest) = part.next().await.unwrap().unwrap();
            assert_eq!(found.index, group);
            assert!(found.bytes == bytes[at as usize..end as usize], "{len}: {group}");
            assert!(rest.next().await.unwrap().is_none());
        }
        // Raw is what it was.
        let promised = get_blob(&connection, id, false, PATIENCE).await.unwrap();
        assert_eq!(promised.verified(PATIENCE.stall).await.unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_gives_the_exact_length_and_ranges_outside_get_code_4() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let id = shard(&origin, &noise(100_000, 40)).await;
    let connection = raw(&origin).await;
    let get = |range| Request::Get { id, range, encoding: Encoding::Verified, fill: false };
    // Two groups of seven: four levels, and the node in the middle is shared.
    let answer = ask(&connection, &get(Some((GROUP - 1, GROUP + 1))), PATIENCE).await.unwrap();
    assert_eq!((answer.header().length, answer.header().total), (2 * GROUP + 3 * 64, 100_000));
    let body = answer.body(1 << 20, PATIENCE.stall, |_| {}).await.unwrap();
    assert_eq!(body.len() as u64, 2 * GROUP + 3 * 64);
    let answer = ask(&connection, &get(None), PATIENCE).await.unwrap();
    assert_eq!(answer.header().length, 100_000 + 6 * 64);
    for range in [(5, 5), (6, 5), (0, 100_001), (100_000, 100_001), (0, u64::MAX)] {
        let error = ask(&connection, &get(Some(range)), PATIENCE).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Refused { code: Code::Range, .. }), "{error}");
    }
    assert_eq!(origin.refusals("range"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_fetches_for_a_verified_request_too_if_it_may() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let relay = Node::start(Role::Relay, config()).await;
    relay.directory.add_everywhere(origin.source());
    let bytes = noise(300_000, 41);
    let id = shard(&origin, &bytes).await;
    let connection = raw(&relay).await;
    let range = Some((200_000, 200_001));
    let error = get_groups(&connection, id, range, false, PATIENCE).await.err().unwrap();
    assert!(matches!(error, ExchangeError::Refused { code: Code::NotFound, .. }), "{error}");
    let groups = get_groups(&connection, id, range, true, PATIENCE).await.unwrap();
    let at = 200_000 / GROUP_LEN as usize * GROUP_LEN as usize;
    assert_eq!(groups.all().await.unwrap(), bytes[at..at + GROUP_LEN as usize]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_comes_out_before_the_next_is_sent() {
    let (id, bytes) = blob(5 * GROUP_LEN as usize, 42);
    let honest = Reply::honest(&bytes, None);
    let gate = Arc::new(Semaphore::new(0));
    let server = Puppet::start({
        let (header, body, gate) = (honest.header, honest.body, Arc::clone(&gate));
        move |_, mut send| {
            let (header, body, gate) = (header.clone(), body.clone(), Arc::clone(&gate));
            async move {
                send.write_all(&encode_frame(&header).unwrap()).await.unwrap();
                // Where the groups end: three nodes and the first, the second, a node and the third.
                let mut sent = 0;
                for nodes in [3, 0, 1, 0, 0] {
                    gate.acquire().await.unwrap().forget();
                    let end = sent + nodes * 64 + GROUP_LEN as usize;
                    send.write_all(&body[sent..end]).await.unwrap();
                    sent = end;
                }
                assert_eq!(sent, body.len());
                send.finish().unwrap();
                let _ = send.stopped().await;
            }
        }
    });
    let connection = connect(&server).await;
    let mut groups = get_groups(&connection, id, None, false, PATIENCE).await.unwrap();
    for index in 0..5 {
        gate.add_permits(1);
        let (group, rest) = groups.next().await.unwrap().unwrap();
        assert_eq!(group.index, index);
        groups = rest;
    }
    assert!(groups.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_is_caught_and_named() {
    type Lie = fn(&mut Reply, Option<(u64, u64)>);
    type Is = fn(&ExchangeError) -> bool;
    let lies: [(&str, Lie, Is); 14] = [
        (
            "a byte of the data",
            |reply, _| *reply.body.last_mut().unwrap() ^= 1,
            |error| matches!(error, ExchangeError::WrongGroup { group: 2, .. }),
        ),
        (
            "a byte of the root's hashes",
            |reply, _| reply.body[0] ^= 1,
            |error| matches!(error, ExchangeError::WrongGroup { group: 2, .. }),
        ),
        (
            "a byte of a hash further down",
            |reply, _| reply.body[64 + 40] ^= 1,
            |error| matches!(error, ExchangeError::WrongGroup { group: 2, .. }),
        ),
        (
            "another group's data",
            |reply, _| reply.body.splice(0.., noise(reply.body.len(), 44)).for_each(drop),
            |error| matches!(error, ExchangeError::WrongGroup { group: 2, .. }),
        ),
        (
            "a shorter blob",
            |reply, asked| reply.claim(3 * GROUP_LEN, asked),
            |error| matches!(error, ExchangeError::WrongGroup { .. }),
        ),
        (
            "a longer blob",
            |reply, asked| reply.claim(20 * GROUP_LEN, asked),
            |error| matches!(error, ExchangeError::WrongGroup { .. }),
        ),
        (
            "a total that the length denies",
            |reply, _| reply.header.total = 100 * GROUP,
            |error| matches!(error, ExchangeError::Promise { .. }),
        ),
        (
            "a length that the total denies",
            |reply, _| reply.header.length = u64::MAX,
            |error| matches!(error, ExchangeError::Promise { length: u64::MAX, .. }),
        ),
        (
            "a blob above 16 MiB",
            |reply, _| reply.header.total = 16 * 1024 * 1024 + 1,
            |error| matches!(error, ExchangeError::Promise { .. }),
        ),
        (
            "an empty blob",
            |reply, _| reply.header.total = 0,
            |error| matches!(error, ExchangeError::Promise { .. }),
        ),
        (
            "too little",
            |reply, _| reply.body.truncate(1000),
            |error| matches!(error, ExchangeError::TooLittle { got: 1000, .. }),
        ),
        (
            "too much",
            |reply, _| reply.body.push(0),
            |error| matches!(error, ExchangeError::TooMuch(_)),
        ),
        (
            "nothing",
            |reply, _| {
                reply.body.clear();
                reply.end = End::Silence;
            },
            |error| matches!(error, ExchangeError::Stalled(_)),
        ),
        (
            "a reset",
            |reply, _| {
                reply.body.truncate(20);
                reply.end = End::Reset(Code::Corrupt);
            },
            |error| matches!(error, ExchangeError::Reset(Code::Corrupt)),
        ),
    ];
    let (id, bytes) = blob(7 * GROUP_LEN as usize - 5, 43);
    let asked = Some((2 * GROUP, 2 * GROUP + 1));
    let patience = Patience { stall: Duration::from_millis(500), ..PATIENCE };
    for (what, lie, is) in lies {
        let bytes = bytes.clone();
        let liar = answering(move |range| {
            let mut reply = Reply::honest(&bytes, range);
            lie(&mut reply, range);
            reply
        });
        let connection = connect(&liar).await;
        let error = match get_groups(&connection, id, asked, false, patience).await {
            Ok(groups) => groups.all().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(is(&error), "{what}: {error:?}");
        // No lie gets through when the whole blob is asked for either.
        match get_groups(&connection, id, None, false, patience).await {
            Ok(groups) => drop(groups.all().await.unwrap_err()),
            Err(error) => assert!(matches!(error, ExchangeError::Promise { .. }), "{what}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_withholds_denies_every_blob_and_does_all_else() {
    let node = Node::start_withholding(Role::Origin, one_shard()).await;
    let id = shard(&node, &noise(50_000, 45)).await;
    let mut provided = node.directory.provided();
    let record = Record::Shard(crate::ShardId(id));
    provided.wait_for(|provided| provided.contains_key(&record)).await.unwrap();
    let connection = raw(&node).await;
    let get = |encoding| Request::Get { id, range: None, encoding, fill: true };
    let questions = [get(Encoding::Raw), get(Encoding::Verified), Request::Has { ids: vec![id] }];
    for (asked, question) in (1..).zip(questions) {
        let error = ask(&connection, &question, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Refused { code: Code::NotFound, .. }), "{error}");
        assert_eq!(node.refusals("not_found"), asked);
    }
    assert!(node.viewer().await.status().await.unwrap().origin);
    assert_eq!(node.relay.status().origin.unwrap().blobs, 2);
}
