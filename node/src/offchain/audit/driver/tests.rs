//! Whole windows, on a scripted chain and network. A test goes on when the driver has asked or done
//! something, and never by the clock.

use std::sync::atomic::{AtomicBool, Ordering};

use nsn_relay::{BlobId, ContentId};
use pallet_audits_runtime_api::{Counts, Entry, Subject};
use prometheus_endpoint::Registry;
use tokio::sync::mpsc;

use super::*;

/// Half a window is half a second.
const SLOT: Duration = Duration::from_millis(100);
const KEY: [u8; 32] = [7; 32];

/// A chain with windows of ten blocks, whose state is set by the test.
struct Scripted {
    subjects: Mutex<Vec<Subject>>,
    reported: AtomicBool,
    catching_up: AtomicBool,
    /// Blocks at which the duty was asked for.
    asked: mpsc::UnboundedSender<u32>,
    /// A word for each block that the driver looked at.
    looked: mpsc::UnboundedSender<()>,
    /// Reports handed in, and when.
    reports: mpsc::UnboundedSender<(u32, Report)>,
}

/// The hash of a block here is its number.
fn block(number: u32) -> BlockRef {
    BlockRef { number, hash: Hash::from_low_u64_be(number.into()) }
}

impl Chain for Scripted {
    fn keys(&self) -> Vec<sr25519::Public> {
        vec![sr25519::Public::from_raw([1; 32]), sr25519::Public::from_raw(KEY)]
    }

    fn duty(&self, at: Hash, key: &sr25519::Public) -> Result<Option<Duty>, BoxError> {
        let number = u32::try_from(at.to_low_u64_be())?;
        if key.0 == KEY {
            self.asked.send(number)?;
        }
        Ok((key.0 == KEY).then(|| Duty {
            session: 1,
            window: number / 10,
            reporter: 4,
            begins: number / 10 * 10,
            reports_from: number / 10 * 10 + 5,
            ends: number / 10 * 10 + 9,
            subjects: self.subjects.lock().unwrap().clone(),
            reported: self.reported.load(Ordering::SeqCst),
        }))
    }

    async fn report(&self, at: Hash, key: sr25519::Public, report: Report) {
        assert_eq!(key.0, KEY);
        let number = u32::try_from(at.to_low_u64_be()).unwrap();
        self.reports.send((number, report)).unwrap();
    }

    fn is_catching_up(&self) -> bool {
        self.looked.send(()).unwrap();
        self.catching_up.load(Ordering::SeqCst)
    }
}

/// A network in which the key of ones serves, the key of twos withholds, and the key of threes never
/// answers.
#[derive(Clone)]
struct World(mpsc::UnboundedSender<Probe>);

impl Net for World {
    async fn lookup(&self, _: Blob) -> Option<Vec<OverlayKey>> {
        None
    }

    async fn probe(&self, probe: Probe) -> Probed {
        self.0.send(probe).unwrap();
        let answer = match probe.subject.key[0] {
            1 => Answer::Served,
            2 => Answer::NotFound,
            _ => std::future::pending().await,
        };
        Probed { answer, super_node: true, took: Duration::from_millis(20) }
    }
}

fn subject(n: u8) -> Subject {
    Subject { binding: 10 - u32::from(n), key: [n; 32] }
}

struct Running {
    chain: Arc<Scripted>,
    heads: watch::Sender<BlockRef>,
    asked: mpsc::UnboundedReceiver<u32>,
    looked: mpsc::UnboundedReceiver<()>,
    probes: mpsc::UnboundedReceiver<Probe>,
    reports: mpsc::UnboundedReceiver<(u32, Report)>,
    metrics: Metrics,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
    driver: tokio::task::JoinHandle<Result<(), BoxError>>,
}

impl Running {
    /// An auditor at block 100, with the subjects 1 to 3 and itself, 4.
    fn start(catching_up: bool) -> Self {
        let (reports_sender, reports) = mpsc::unbounded_channel();
        let (probes_sender, probes) = mpsc::unbounded_channel();
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let (looked_sender, looked) = mpsc::unbounded_channel();
        let (heads, receiver) = watch::channel(block(100));
        let chain = Arc::new(Scripted {
            subjects: Mutex::new((1..=4).map(subject).collect()),
            reported: false.into(),
            catching_up: catching_up.into(),
            asked: asked_sender,
            looked: looked_sender,
            reports: reports_sender,
        });
        let mut catalogue = Catalogue::new(0);
        for n in 1..=4 {
            catalogue.hear([n; 32], ContentId(BlobId([9; 32])), true);
        }
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let shutdown = CancellationToken::new();
        let dir = tempfile::tempdir().unwrap();
        let driver = Driver::new(
            Config { deadline: SLOT / 2, ..Config::default() },
            SLOT,
            chain.clone(),
            World(probes_sender),
            receiver,
            Arc::new(Mutex::new(catalogue)),
            Memory::at(dir.path().join("known")),
            [4; 32],
            metrics.clone(),
        );
        let driver = tokio::spawn(driver.run(shutdown.clone()));
        Self { chain, heads, asked, looked, probes, reports, metrics, shutdown, dir, driver }
    }

    /// Lets block `number` come, and waits until the duty was asked for there.
    async fn block(&mut self, number: u32) {
        self.heads.send_replace(block(number));
        while self.asked.recv().await.unwrap() != number {}
    }

    /// Waits until all is asked that is to be asked in a window: three probes are served, two are
    /// refused, one has no answer. None is of the auditor itself.
    async fn audited(&mut self) {
        let mut probes = Vec::new();
        while probes.len() < 3 + 2 + 1 {
            probes.push(self.probes.recv().await.unwrap().subject.key[0]);
        }
        probes.sort_unstable();
        assert_eq!(probes, [1, 1, 1, 2, 2, 3]);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.driver.await.unwrap().unwrap();
    }
}

fn entry(n: u8, served: u8, missed: u8) -> Entry {
    Entry { binding: subject(n).binding, counts: Counts::new(served, missed).unwrap() }
}

#[tokio::test]
async fn a_window_of_audits_becomes_one_report() {
    let mut auditor = Running::start(false);
    auditor.audited().await;
    auditor.block(107).await;
    let (_, report) = auditor.reports.recv().await.unwrap();
    assert_eq!((report.session, report.window, report.reporter), (1, 10, 4));
    // Who is still silent when reports begin was not seen to fail; a probe has a deadline of its own.
    assert_eq!(report.entries, [entry(2, 0, 2), entry(1, 3, 0)]);

    auditor.chain.reported.store(true, Ordering::SeqCst);
    auditor.block(108).await;
    // The next window's duty is asked for when this one is closed.
    auditor.block(110).await;
    assert_eq!(auditor.metrics.windows(Outcome::Reported), 1);
    assert!(auditor.reports.try_recv().is_err(), "reported twice");
    let kept = Memory::at(auditor.dir.path().join("known")).load();
    assert_eq!(kept.len(), 4, "what is known outlives the node");
    auditor.stop().await;
}

#[tokio::test]
async fn a_report_that_does_not_get_on_chain_is_handed_in_again_and_the_next_window_begins() {
    let mut auditor = Running::start(false);
    auditor.audited().await;
    auditor.block(107).await;
    let (_, report) = auditor.reports.recv().await.unwrap();
    auditor.block(108).await;
    auditor.block(109).await;
    assert_eq!(auditor.reports.recv().await, Some((109, report)), "not so soon as at 108");
    auditor.block(110).await;
    assert_eq!(auditor.metrics.windows(Outcome::Unreported), 1);
    auditor.audited().await;
    auditor.block(117).await;
    assert_eq!(auditor.reports.recv().await.unwrap().1.window, 11);
    auditor.stop().await;
}

#[tokio::test]
async fn subjects_that_a_reorganisation_took_away_are_not_reported() {
    let mut auditor = Running::start(false);
    auditor.audited().await;
    auditor.chain.subjects.lock().unwrap().retain(|subject| subject.key != [2; 32]);
    auditor.block(107).await;
    let (_, report) = auditor.reports.recv().await.unwrap();
    assert_eq!(report.entries, [entry(1, 3, 0)]);
    auditor.stop().await;
}

#[tokio::test]
async fn history_is_not_audited() {
    let mut auditor = Running::start(true);
    for number in [110, 120] {
        auditor.looked.recv().await.unwrap();
        auditor.heads.send_replace(block(number));
    }
    auditor.looked.recv().await.unwrap();
    auditor.shutdown.cancel();
    auditor.driver.await.unwrap().unwrap();
    assert!(auditor.asked.try_recv().is_err(), "a duty was asked for");
}
