//! Misses as they flow: streamed while they fill, from whichever source delivers.

use super::{
    fetching::serving,
    verified::{one_shard, shard},
    world::{Node, Puppet, Role, blob, config, honest, impatient, noise, raw, until},
};
use crate::{
    BlobId, Config, Source,
    client::{Config as ViewerConfig, ViewError, Viewer},
    wire::{
        Busy, Code, Encoding, ExchangeError, GROUP_LEN, Group, Groups, Patience, Piece, Request,
        Response, Span, Walk, encode_frame, get_groups,
    },
};
use libp2p::Multiaddr;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

const GROUP: usize = GROUP_LEN as usize;

const PATIENCE: Patience =
    Patience { header: Duration::from_secs(20), stall: Duration::from_secs(10) };

type Range = Option<(u64, u64)>;

/// What a source does with the body that it should send.
#[derive(Clone)]
enum Act {
    /// Sends so many more groups, with what stands before each.
    Groups(u32),
    /// Sends the rest.
    Rest,
    /// Sends the rest with the last byte of its first group turned.
    Wrong,
    /// Waits until it may go on.
    Wait(Arc<Semaphore>),
    /// Waits so long.
    Pause(Duration),
    /// Says nothing any more.
    Silence,
    Reset(Code),
}

/// A source of blobs of a test's own making, and what it was asked for.
struct Actor {
    puppet: Puppet,
    asked: Arc<Mutex<Vec<Range>>>,
}

impl Actor {
    /// Answers with what `acts` says of the how manieth request, the first being 0.
    fn new(
        blobs: Vec<(BlobId, Vec<u8>)>,
        acts: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let blobs: HashMap<_, _> = blobs.into_iter().collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let puppet = Puppet::start(move |request, send| {
            let Request::Get { id, range, encoding, .. } = request else { panic!("{request:?}") };
            let nth = {
                let mut seen = seen.lock().unwrap();
                seen.push(range);
                seen.len() - 1
            };
            let (header, body) = honest(&blobs[&id], range, encoding);
            let total = u32::try_from(blobs[&id].len()).unwrap();
            let ends = ends(total, range);
            act(send, header, body, ends, acts(nth))
        });
        Self { puppet, asked }
    }

    fn source(&self) -> Source {
        self.puppet.source.clone()
    }

    /// The same with a lower reputation, so that it is asked second.
    fn second(&self) -> Source {
        Source { seeder_score: Some(300), ..self.source() }
    }

    fn asked(&self) -> Vec<Range> {
        self.asked.lock().unwrap().clone()
    }
}

/// Where each group of a verified body ends.
fn ends(total: u32, range: Range) -> Vec<usize> {
    let Some(span) = Span::covering(total, range) else { return Vec::new() };
    let mut at = 0;
    let mut ends = Vec::new();
    for piece in Walk::new(&span) {
        match piece {
            Piece::Node(_) => at += 64,
            Piece::Group(index) => {
                at += GROUP.min((total - index * GROUP_LEN) as usize);
                ends.push(at);
            }
        }
    }
    ends
}

async fn act(
    mut send: quinn::SendStream,
    header: Response,
    mut body: Vec<u8>,
    ends: Vec<usize>,
    acts: Vec<Act>,
) {
    let _ = send.write_all(&encode_frame(&header).unwrap()).await;
    let (mut groups, mut sent) = (0, 0);
    for act in acts {
        match act {
            Act::Groups(more) => {
                groups += more as usize;
                let end = ends[groups - 1];
                let _ = send.write_all(&body[sent..end]).await;
                sent = end;
            }
            Act::Rest => {
                let _ = send.write_all(&body[sent..]).await;
                sent = body.len();
            }
            Act::Wrong => {
                body[ends[groups] - 1] ^= 1;
                let _ = send.write_all(&body[sent..]).await;
                sent = body.len();
            }
            Act::Wait(gate) => gate.acquire().await.unwrap().forget(),
            Act::Pause(pause) => tokio::time::sleep(pause).await,
            Act::Silence => {
                let _ = send.stopped().await;
                return;
            }
            Act::Reset(code) => {
                // What was written arrives first: a reset may overtake it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = send.reset(code.into());
                return;
            }
        }
    }
    let _ = send.finish();
    let _ = send.stopped().await;
}

/// A relay that knows these sources for whatever is asked.
async fn relay(settings: Config, sources: impl IntoIterator<Item = Source>) -> Node {
    let relay = Node::start(Role::Relay, settings).await;
    for source in sources {
        relay.directory.add_everywhere(source);
    }
    relay
}

/// Asks a relay for a blob, verified.
async fn open(relay: &Node, id: BlobId, range: Range) -> Groups {
    let connection = raw(relay).await;
    get_groups(&connection, id, range, true, PATIENCE).await.unwrap()
}

/// The next group.
async fn next(groups: Groups) -> (Group, Groups) {
    groups.next().await.unwrap().unwrap()
}

/// Reads to the end, and gives the bytes and the longest wait for a group.
async fn rest(mut groups: Groups) -> Result<(Vec<u8>, Duration), ExchangeError> {
    let (mut bytes, mut longest) = (Vec::new(), Duration::ZERO);
    let mut last = Instant::now();
    while let Some((group, more)) = groups.next().await? {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        bytes.extend_from_slice(&group.bytes);
        groups = more;
    }
    Ok((bytes, longest))
}

fn mib(seed: u64) -> (BlobId, Vec<u8>) {
    blob(1 << 20, seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_reaches_the_viewer_group_by_group_while_it_fills() {
    let (id, bytes) = mib(1000);
    let gate = Arc::new(Semaphore::new(0));
    let wait = Act::Wait(Arc::clone(&gate));
    let source = Actor::new(vec![(id, bytes.clone())], move |_| {
        vec![Act::Groups(1), wait.clone(), Act::Groups(20), wait.clone(), Act::Rest]
    });
    let mut settings = config();
    settings.upstream.stall_timeout = Duration::from_secs(30);
    let relay = relay(settings, [source.source()]).await;
    let groups = open(&relay, id, None).await;
    assert_eq!(groups.source(), Some(crate::wire::Source::Upstream));
    let (first, mut groups) = next(groups).await;
    assert_eq!(first.bytes, bytes[..GROUP]);
    gate.add_permits(1);
    for index in 1..21 {
        let (group, more) = next(groups).await;
        assert_eq!(group.index, index);
        groups = more;
    }
    assert_eq!(relay.relay.status().relay.unwrap().cache.entries, 0);
    // Who comes now reads from the beginning, raw or verified.
    let late = open(&relay, id, None).await;
    let viewer = relay.viewer().await;
    let late = tokio::spawn(rest(late));
    gate.add_permits(1);
    assert!(rest(groups).await.unwrap().0 == bytes[21 * GROUP..]);
    assert!(late.await.unwrap().unwrap().0 == bytes);
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(source.asked(), [None]);
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 1);
    until(|| relay.relay.status().relay.unwrap().cache.entries == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_source_dies_in_the_middle_another_goes_on_at_that_byte_within_a_second() {
    for (seed, end) in [(1010, Act::Silence), (1011, Act::Reset(Code::Internal))] {
        let (id, bytes) = mib(seed);
        let dies =
            Actor::new(vec![(id, bytes.clone())], move |_| vec![Act::Groups(30), end.clone()]);
        let lives = Actor::new(vec![(id, bytes.clone())], |_| vec![Act::Rest]);
        let relay = relay(config(), [dies.source(), lives.second()]).await;
        let (got, longest) = rest(open(&relay, id, None).await).await.unwrap();
        assert!(got == bytes, "the bytes differ");
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        assert_eq!((dies.asked(), lives.asked()), (vec![None], vec![Some((30 << 14, 1 << 20))]));
        // One that falls silent is slow first.
        let hedges = relay.metrics.hedges_total.with_label_values(&["asked"]).get();
        assert!(relay.metrics.failovers_total.get() + hedges > 0);
        assert_eq!(relay.metrics.upstream_fetches_total.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_source_sends_a_wrong_group_another_goes_on_and_no_wrong_byte_is_served() {
    let (id, bytes) = mib(1020);
    let lies = Actor::new(vec![(id, bytes.clone())], |_| vec![Act::Groups(30), Act::Wrong]);
    let honest = Actor::new(vec![(id, bytes.clone())], |_| vec![Act::Rest]);
    let relay = relay(config(), [lies.source(), honest.second()]).await;
    assert!(rest(open(&relay, id, None).await).await.unwrap().0 == bytes);
    assert_eq!(honest.asked(), [Some((30 << 14, 1 << 20))]);
    assert_eq!(relay.upstream_failures("wrong_hash"), 1);
    assert_eq!(relay.metrics.corrupt_blobs_total.with_label_values(&["upstream"]).get(), 1);
    until(|| relay.relay.status().relay.unwrap().cache.entries == 1).await;
    assert!(relay.viewer().await.fetch(id).await.unwrap().0 == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_never_given_a_whole_from_a_source_that_lied_in_the_middle() {
    let (id, bytes) = mib(1030);
    let lies = Actor::new(vec![(id, bytes.clone())], |_| vec![Act::Groups(30), Act::Wrong]);
    let relay = relay(config(), [lies.source()]).await;
    let mut groups = open(&relay, id, None).await;
    // A reset overtakes what was sent before it, so it may be fewer groups than came.
    let mut right = bytes.chunks(GROUP).take(30);
    let error = loop {
        match groups.next().await {
            Ok(Some((group, more))) => {
                assert_eq!(Some(&group.bytes[..]), right.next());
                groups = more;
            }
            Ok(None) => panic!("it ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ExchangeError::Reset(Code::Corrupt)), "{error}");
    assert_eq!(relay.refusals("upstream_corrupt"), 1);
    assert_eq!(relay.relay.status().relay.unwrap().cache.entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_end_is_counted_and_the_blob_is_right() {
    let (id, bytes) = blob(200_000, 1040);
    let more = bytes.clone();
    let source = Puppet::start(move |request: Request, mut send| {
        let Request::Get { range, encoding, .. } = request else { panic!("{request:?}") };
        let (header, mut body) = honest(&more, range, encoding);
        body.push(0);
        async move {
            let _ = send.write_all(&encode_frame(&header).unwrap()).await;
            let _ = send.write_all(&body).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        }
    });
    let relay = relay(config(), [source.source.clone()]).await;
    assert_eq!(relay.viewer().await.fetch(id).await.unwrap().0, bytes);
    until(|| relay.upstream_failures("too_much") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_into_a_cold_blob_does_not_wait_for_its_beginning() {
    let (id, bytes) = mib(1050);
    let gate = Arc::new(Semaphore::new(0));
    let wait = Act::Wait(Arc::clone(&gate));
    let source = Actor::new(vec![(id, bytes.clone())], move |nth| {
        if nth == 0 { vec![Act::Rest] } else { vec![wait.clone(), Act::Rest] }
    });
    let mut settings = config();
    settings.upstream.stall_timeout = Duration::from_secs(30);
    let relay = relay(settings, [source.source()]).await;
    let range = Some((40 << 14, 42 << 14));
    let part = rest(open(&relay, id, range).await).await.unwrap().0;
    assert!(part == bytes[40 << 14..42 << 14]);
    // From there on to the end, then what lies before.
    gate.add_permits(2);
    assert!(rest(open(&relay, id, None).await).await.unwrap().0 == bytes);
    assert_eq!(source.asked(), [range, Some((42 << 14, 1 << 20)), Some((0, 40 << 14))]);
    assert_eq!(relay.metrics.upstream_fetches_total.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_outside_of_a_cold_blob_gets_code_4_with_its_length() {
    let (id, bytes) = blob(100_000, 1051);
    let source = Actor::new(vec![(id, bytes)], |_| vec![Act::Rest]);
    let relay = relay(config(), [source.source()]).await;
    let connection = raw(&relay).await;
    let asked = get_groups(&connection, id, Some((90_000, 100_001)), true, PATIENCE).await;
    let error = asked.err().unwrap();
    assert!(matches!(error, ExchangeError::Refused { code: Code::Range, .. }), "{error}");
    assert_eq!(relay.refusals("range"), 1);
    until(|| relay.relay.status().relay.unwrap().cache.entries == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_miss_waits_for_the_one_source_of_three_that_is_slow() {
    let blobs: Vec<_> = (0..60).map(|n| blob(100_000, 1100 + n)).collect();
    let pause = Duration::from_millis(1500);
    let slow = Actor::new(blobs.clone(), move |_| vec![Act::Pause(pause), Act::Rest]);
    let quick = [(); 2].map(|()| Actor::new(blobs.clone(), |_| vec![Act::Rest]));
    let sources = [slow.source(), quick[0].source(), quick[1].source()];
    let relay = relay(config(), sources).await;
    let viewer = relay.viewer().await;
    for (id, bytes) in &blobs {
        let started = Instant::now();
        assert!(viewer.fetch(*id).await.unwrap().0 == *bytes);
        assert!(started.elapsed() < pause, "{:?}", started.elapsed());
    }
    let asked = slow.asked().len();
    assert!(asked <= 6, "the slow one was asked {asked} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn hedges_stay_within_their_budget_however_slow_a_source_is() {
    let blobs: Vec<_> = (0..40).map(|n| blob(20_000, 1200 + n)).collect();
    let pause = Duration::from_millis(60);
    let slow = Actor::new(blobs.clone(), move |_| vec![Act::Pause(pause), Act::Rest]);
    let quick = Actor::new(blobs.clone(), |_| vec![Act::Rest]);
    let mut settings = config();
    settings.upstream.hedge.burst = 2;
    settings.upstream.hedge.silent_after = Duration::from_secs(60);
    settings.upstream.assumed_latency = Duration::from_millis(5);
    // Nobody answers for the quick one, so the slow one is asked first every time.
    let unbound = Source { seeder_score: None, ..quick.source() };
    let relay = relay(settings, [slow.source(), unbound]).await;
    let viewer = relay.viewer().await;
    for (id, bytes) in &blobs {
        assert!(viewer.fetch(*id).await.unwrap().0 == *bytes);
    }
    let hedges = relay.metrics.hedges_total.with_label_values(&["asked"]).get();
    assert_eq!(hedges, quick.asked().len() as u64);
    // Two at once, and one for each 20 fetches.
    assert!((1..=4).contains(&hedges), "{hedges} hedges");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_its_viewers_have_left_ends_or_goes_on_as_the_setting_says() {
    for (finish_from, goes_on) in [(50, false), (10, true)] {
        let (id, bytes) = mib(1300 + u64::from(finish_from));
        let gate = Arc::new(Semaphore::new(0));
        let wait = Act::Wait(Arc::clone(&gate));
        let source = Actor::new(vec![(id, bytes.clone())], move |_| {
            vec![Act::Groups(16), wait.clone(), Act::Rest]
        });
        let mut settings = config();
        settings.fill.finish_from = finish_from;
        let relay = relay(settings, [source.source()]).await;
        {
            let mut groups = open(&relay, id, None).await;
            for _ in 0..16 {
                groups = next(groups).await.1;
            }
        }
        if !goes_on {
            until(|| relay.metrics.fills_abandoned_total.get() == 1).await;
            assert_eq!(relay.relay.status().relay.unwrap().fills_in_flight, 0);
        }
        gate.add_permits(2);
        if goes_on {
            until(|| relay.relay.status().relay.unwrap().cache.entries == 1).await;
        }
        assert!(relay.viewer().await.fetch(id).await.unwrap().0 == bytes);
        assert_eq!(source.asked().len(), if goes_on { 1 } else { 2 });
        assert_eq!(relay.metrics.fills_abandoned_total.get(), u64::from(!goes_on));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sources_that_disagree_about_the_length_the_one_that_proves_it_is_believed() {
    // The first 16 groups of a blob of 20 are those of one of 24, too, nodes and all.
    let (id, bytes) = blob(20 * GROUP, 1400);
    let truth = bytes.clone();
    let liar = Puppet::start(move |request: Request, send| {
        let Request::Get { range: None, encoding, .. } = request else { panic!("{request:?}") };
        let (mut header, body) = honest(&truth, None, encoding);
        let claim = Span::covering(24 * GROUP_LEN, None).unwrap();
        (header.total, header.length) = (claim.total().into(), claim.encoded_len());
        let ends = ends(20 * GROUP_LEN, None);
        act(send, header, body, ends, vec![Act::Groups(16), Act::Silence])
    });
    let good = Actor::new(vec![(id, bytes.clone())], |_| vec![Act::Rest]);
    let relay = relay(config(), [liar.source.clone(), good.second()]).await;
    // The viewer had been told the wrong length, so it has to ask again.
    let config = ViewerConfig { tries: 2, ..ViewerConfig::default() };
    let viewer = Viewer::connect(relay.address(), None, config).await.unwrap();
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(relay.refusals("upstream_corrupt"), 1);
    assert_eq!(relay.metrics.corrupt_blobs_total.with_label_values(&["upstream"]).get(), 1);
    assert!(good.asked().contains(&Some((20 * GROUP as u64 - 1, 20 * GROUP as u64))));
    assert_eq!(liar.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_knows_no_groups_is_asked_for_the_whole() {
    let (id, bytes) = blob(100_000, 1500);
    let whole = bytes.clone();
    let old = Puppet::start(move |request: Request, mut send| {
        let Request::Get { range, encoding, .. } = request else { panic!("{request:?}") };
        let (header, body) = match encoding {
            Encoding::Raw => honest(&whole, range, encoding),
            Encoding::Verified => (Response::refusal(Code::BadRequest), Vec::new()),
        };
        async move {
            let _ = send.write_all(&encode_frame(&header).unwrap()).await;
            let _ = send.write_all(&body).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        }
    });
    let relay = relay(config(), [old.source.clone()]).await;
    assert!(rest(open(&relay, id, None).await).await.unwrap().0 == bytes);
    assert_eq!(old.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_super_node_of_the_settings_is_asked_without_a_directory_and_kept_warm() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let bytes = noise(300_000, 1600);
    let id = shard(&origin, &bytes).await;
    let mut settings = config();
    settings.upstream.super_nodes = vec![origin.address()];
    let relay = relay(settings, []).await;
    until(|| relay.metrics.p2p_peers.get() == 1).await;
    assert_eq!(origin.relay.status().viewers, 1);
    assert!(relay.viewer().await.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(relay.metrics.health_check_failures_total.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_super_node_that_does_not_answer_is_counted_and_not_relied_on() {
    let gone = Node::start(Role::Origin, config()).await;
    let mut settings = config();
    settings.upstream.super_nodes = vec![gone.address()];
    settings.upstream.health.timeout = Duration::from_millis(100);
    gone.stop().await.unwrap();
    let relay = relay(settings, []).await;
    until(|| relay.metrics.health_check_failures_total.get() > 0).await;
    assert_eq!(relay.metrics.p2p_peers.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_of_the_same_region_that_holds_it_is_asked() {
    let origin = Node::start(Role::Origin, one_shard()).await;
    let sibling = Node::start(Role::Relay, config()).await;
    sibling.directory.add_everywhere(origin.source());
    let bytes = noise(300_000, 1700);
    let id = shard(&origin, &bytes).await;
    sibling.viewer().await.fetch(id).await.unwrap();
    until(|| sibling.relay.status().relay.unwrap().cache.entries == 1).await;
    let relay = relay(config(), []).await;
    relay.relay.set_others(&[sibling.address().to_string().parse().unwrap()]);
    until(|| relay.metrics.p2p_peers.get() == 1).await;
    assert!(relay.viewer().await.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(sibling.relay.status().relay.unwrap().hits, 1);
    // One that holds nothing of the kind is not asked to fetch it.
    let error = relay.viewer().await.fetch(BlobId([3; 32])).await.unwrap_err();
    assert!(matches!(
        error,
        ViewError::Exchange(ExchangeError::Refused { code: Code::NotFound, .. })
    ));
    assert_eq!(sibling.metrics.upstream_fetches_total.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_asks_the_relay_that_a_busy_one_names() {
    let (id, bytes) = blob(100_000, 1800);
    let other = serving(vec![(id, bytes.clone())], Arc::new(Semaphore::new(9)));
    let addr = crate::client::Address { socket: other.source.addrs[0], peer: other.source.peer };
    let addr: Multiaddr = addr.to_string().parse().unwrap();
    let busy = Puppet::start(move |_, mut send| {
        let busy = Busy { retry_after_ms: 60_000, others: vec![addr.to_vec()] };
        let header = Response { busy: Some(busy), ..Response::refusal(Code::Busy) };
        async move {
            let _ = send.write_all(&encode_frame(&header).unwrap()).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        }
    });
    let address = crate::client::Address { socket: busy.source.addrs[0], peer: busy.source.peer };
    let config = ViewerConfig { tries: 2, ..impatient() };
    let viewer = Viewer::connect(address, None, config).await.unwrap();
    let started = Instant::now();
    for _ in 0..2 {
        assert_eq!(viewer.fetch(id).await.unwrap().0, bytes);
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    // The second time the viewer knew.
    assert_eq!((busy.asked(), other.asked()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_goes_on_where_a_broken_body_ended() {
    let (id, bytes) = mib(1900);
    let server = Actor::new(vec![(id, bytes.clone())], |nth| match nth {
        0 => vec![Act::Groups(30), Act::Reset(Code::Internal)],
        _ => vec![Act::Rest],
    });
    let Source { peer, addrs, .. } = server.source();
    let address = crate::client::Address { socket: addrs[0], peer };
    let config = ViewerConfig { tries: 2, ..ViewerConfig::default() };
    let viewer = Viewer::connect(address, None, config).await.unwrap();
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    assert_eq!(server.asked(), [None, Some((30 << 14, 1 << 20))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_was_told_a_wrong_length_begins_anew() {
    let (id, bytes) = blob(20 * GROUP, 1910);
    let truth = bytes.clone();
    let told = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&told);
    let server = Puppet::start(move |request: Request, send| {
        let Request::Get { range, encoding, .. } = request else { panic!("{request:?}") };
        let first = {
            let mut asked = asked.lock().unwrap();
            asked.push(range);
            asked.len() == 1
        };
        let (mut header, body) = honest(&truth, range, encoding);
        let mut acts = vec![Act::Rest];
        if first {
            let claim = Span::covering(24 * GROUP_LEN, None).unwrap();
            (header.total, header.length) = (claim.total().into(), claim.encoded_len());
            acts = vec![Act::Groups(16), Act::Reset(Code::Internal)];
        }
        act(send, header, body, ends(20 * GROUP_LEN, range), acts)
    });
    let address =
        crate::client::Address { socket: server.source.addrs[0], peer: server.source.peer };
    let config = ViewerConfig { tries: 2, ..ViewerConfig::default() };
    let viewer = Viewer::connect(address, None, config).await.unwrap();
    assert!(viewer.fetch(id).await.unwrap().0 == bytes);
    let lied_about = Some((16 << 14, 24 << 14));
    assert_eq!(*told.lock().unwrap(), [None, lied_about, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_does_not_read_holds_up_neither_its_fill_nor_the_next() {
    let blobs = [blob(16 << 20, 1920), blob(16 << 20, 1921)];
    let source = serving(blobs.to_vec(), Arc::new(Semaphore::new(9)));
    let mut settings = config();
    // Room for one at a time.
    settings.upstream.memory = 16 << 20;
    settings.server.stall_timeout = Duration::from_secs(60);
    let relay = relay(settings, [source.source.clone()]).await;
    let silent = open(&relay, blobs[0].0, None).await;
    until(|| relay.relay.status().relay.unwrap().cache.entries == 1).await;
    let (id, bytes) = &blobs[1];
    assert!(relay.viewer().await.fetch(*id).await.unwrap().0 == *bytes);
    // It can still read all of it.
    assert!(rest(silent).await.unwrap().0 == blobs[0].1);
}
