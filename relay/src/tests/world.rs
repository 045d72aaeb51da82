//! Nodes, viewers and misbehaving upstreams on loopback, with ports that the system chooses.

use super::mesh::Mesh;
use crate::{
    BlobId, Config, Deps, Metrics, Region, Relay, RunError, Source,
    client::{self, Address, Viewer},
    content::{Manifest, Progress, publish},
    server, transport,
    upstream::directory::Fake,
    wire::{Code, Encoding, Outboard, Request, Response, Span, encode, read_frame},
};
use bytes::Bytes;
use libp2p::{PeerId, identity::Keypair};
use quinn::{RecvStream, SendStream};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Settings that do not get in a test's way: any port, no limit of connections.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.server.listen_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.connections_per_second = 0;
    config.server.connections_per_second_per_source = 0;
    config.server.drain_timeout = Duration::from_secs(5);
    config.publish.shard_len = 64 * 1024;
    // What is on disk is read from there, so that tests can damage it.
    config.cache.memory = 0;
    // What is asked of whom is what a test asks for.
    config.warm.ahead = 0;
    config
}

/// Which roles a node has, and where their folders are.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Origin,
    Relay,
    Both,
}

/// A running shard service.
pub(crate) struct Node {
    pub(crate) relay: Relay,
    pub(crate) metrics: Metrics,
    pub(crate) directory: Arc<Fake>,
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
    running: Option<JoinHandle<Result<(), RunError>>>,
    folder: Folder,
}

/// A node's data folder: one of its own, or one that a test keeps.
enum Folder {
    Own(TempDir),
    Kept(PathBuf),
}

impl Node {
    pub(crate) async fn start(role: Role, config: Config) -> Self {
        let folder = Folder::Own(tempfile::tempdir().unwrap());
        Self::start_in(folder, role, config, None, false).await
    }

    /// A node that denies what it holds.
    pub(crate) async fn start_withholding(role: Role, config: Config) -> Self {
        let folder = Folder::Own(tempfile::tempdir().unwrap());
        Self::start_in(folder, role, config, None, true).await
    }

    /// A node in a folder that outlives it.
    pub(crate) async fn start_at(path: &Path, role: Role, config: Config) -> Self {
        Self::start_in(Folder::Kept(path.into()), role, config, None, false).await
    }

    /// A node that takes part in an overlay.
    pub(crate) async fn start_on(mesh: &Mesh, role: Role, config: Config) -> Self {
        let folder = Folder::Own(tempfile::tempdir().unwrap());
        Self::start_with(folder, role, config, None, false, Some(mesh)).await
    }

    /// A relay whose operator says where it is.
    pub(crate) async fn start_in_region(region: Region, config: Config) -> Self {
        let folder = Folder::Own(tempfile::tempdir().unwrap());
        Self::start_in(folder, Role::Relay, config, Some(region), false).await
    }

    async fn start_in(
        folder: Folder,
        role: Role,
        config: Config,
        region: Option<Region>,
        withhold: bool,
    ) -> Self {
        Self::start_with(folder, role, config, region, withhold, None).await
    }

    async fn start_with(
        folder: Folder,
        role: Role,
        config: Config,
        region: Option<Region>,
        withhold: bool,
        mesh: Option<&Mesh>,
    ) -> Self {
        let metrics = Metrics::unregistered();
        let directory = Arc::new(Fake::default());
        let root = folder.path();
        let identity = Keypair::generate_ed25519();
        let peer = identity.public().to_peer_id();
        let deps = Deps {
            identity,
            directory: directory.clone(),
            standing: Arc::new(crate::Unknown),
            overlay: mesh.map(|mesh| Arc::new(mesh.of(peer)) as Arc<dyn crate::Overlay>),
            metrics: metrics.clone(),
            origin_dir: matches!(role, Role::Origin | Role::Both).then(|| root.join("shards")),
            cache_dir: matches!(role, Role::Relay | Role::Both).then(|| root.join("relay")),
            region,
            withhold,
        };
        let (relay, driver) = crate::build(config, deps).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(driver.run(stop.clone()));
        let addr = relay.ready().await.unwrap();
        Self { relay, metrics, directory, addr, stop, running: Some(running), folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Files of the cache or the origin that hold `id`.
    pub(crate) fn file(&self, store: &str, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.path().join(store).join(&name[..2]).join(&name)
    }

    /// The same, where its shard service has no address.
    pub(crate) fn source_without_address(&self) -> Source {
        Source { addrs: vec![], ..self.source() }
    }

    /// This node as the directory names it.
    pub(crate) fn source(&self) -> Source {
        Source {
            peer: self.relay.peer_id(),
            addrs: vec![self.addr],
            seeder_score: Some(500),
            load: None,
        }
    }

    pub(crate) fn address(&self) -> Address {
        Address { socket: self.addr, peer: self.relay.peer_id() }
    }

    pub(crate) async fn viewer(&self) -> Viewer {
        Viewer::connect(self.address(), None, impatient()).await.unwrap()
    }

    /// Publishes bytes and gives the manifest.
    pub(crate) async fn publish(&self, bytes: &[u8]) -> Manifest {
        let path = self.path().join("to publish.mp4");
        fs::write(&path, bytes).unwrap();
        let request = publish::Request { path, media_type: None };
        let progress = watch::Sender::new(Progress::START);
        let published = self.relay.publish(request, progress).await.unwrap();
        let manifest = fs::read(self.file("shards", published.content_id.into())).unwrap();
        Manifest::decode(&manifest).unwrap()
    }

    /// Stops the node and gives what its driver said.
    pub(crate) async fn stop(mut self) -> Result<(), RunError> {
        self.stop.cancel();
        self.running.take().unwrap().await.unwrap()
    }

    /// Ends the node without draining, as a dropped task does.
    pub(crate) async fn kill(mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
    }

    pub(crate) fn refusals(&self, reason: &str) -> u64 {
        self.metrics.refusals_total.with_label_values(&[reason]).get()
    }

    pub(crate) fn upstream_failures(&self, reason: &str) -> u64 {
        self.metrics.upstream_failures_total.with_label_values(&[reason]).get()
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}

/// A viewer that tries once.
pub(crate) fn impatient() -> client::Config {
    client::Config { tries: 1, ..client::Config::default() }
}

/// Bytes that compress to nothing and repeat nowhere.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A blob of noise with its id.
pub(crate) fn blob(len: usize, seed: u64) -> (BlobId, Vec<u8>) {
    let bytes = noise(len, seed);
    (BlobId::of(&bytes), bytes)
}

/// What an honest source answers to a request for a blob that it has: header and body.
pub(crate) fn honest(
    blob: &[u8],
    range: Option<(u64, u64)>,
    encoding: Encoding,
) -> (Response, Vec<u8>) {
    let total = u64::try_from(blob.len()).unwrap();
    let Some(span) = Span::covering(total.try_into().unwrap(), range) else {
        return (Response { total, ..Response::refusal(Code::Range) }, Vec::new());
    };
    let body = match (encoding, range) {
        (Encoding::Raw, None) => blob.to_vec(),
        (Encoding::Raw, Some((first, end))) => {
            blob[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()].to_vec()
        }
        (Encoding::Verified, _) => {
            let bytes = Bytes::copy_from_slice(blob);
            encode(&bytes, &Outboard::of(&bytes).unwrap(), &span).unwrap().concat()
        }
    };
    (Response::ok(body.len() as u64, total, Some(crate::wire::Source::Disk)), body)
}

/// A shard service of a test's own making: proves an identity and says what it is told to.
pub(crate) struct Puppet {
    pub(crate) source: Source,
    asked: Arc<AtomicUsize>,
    /// Who connected, in their order.
    visitors: Arc<Mutex<Vec<PeerId>>>,
    _running: JoinSet<()>,
}

impl Puppet {
    /// Answers each request with `answer`, which gets the stream after the request was read.
    pub(crate) fn start<F>(
        answer: impl Fn(Request, SendStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let identity = Keypair::generate_ed25519();
        let config = server::Config::default();
        let tls = transport::server_config(&identity, &config).unwrap();
        let socket = transport::socket((Ipv4Addr::LOCALHOST, 0).into(), 65536).unwrap();
        let endpoint = transport::server_endpoint(socket, tls, &identity).unwrap();
        let source = Source {
            peer: identity.public().to_peer_id(),
            addrs: vec![endpoint.local_addr().unwrap()],
            seeder_score: Some(900),
            load: None,
        };
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let visitors = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&visitors);
        let answer = Arc::new(answer);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = endpoint.accept().await {
                let counter = Arc::clone(&counter);
                let seen = Arc::clone(&seen);
                let answer = Arc::clone(&answer);
                connections.spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    seen.lock().unwrap().push(transport::peer_of(&connection).unwrap());
                    let mut streams = JoinSet::new();
                    while let Ok((send, mut receive)) = connection.accept_bi().await {
                        let request = read_request(&mut receive).await;
                        counter.fetch_add(1, SeqCst);
                        streams.spawn(answer(request, send));
                    }
                });
            }
        });
        Self { source, asked, visitors, _running: running }
    }

    /// Who connected, in their order.
    pub(crate) fn visitors(&self) -> Vec<PeerId> {
        self.visitors.lock().unwrap().clone()
    }

    /// Requests that came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

async fn read_request(receive: &mut RecvStream) -> Request {
    read_frame(receive).await.unwrap()
}

/// A bare connection to a node, for saying what no viewer says.
pub(crate) async fn raw(node: &Node) -> quinn::Connection {
    let endpoint = transport::dialling_endpoint(4 << 20).unwrap();
    raw_from(&endpoint, node).await.unwrap()
}

/// A bare connection from an endpoint of a test's own.
pub(crate) async fn raw_from(
    endpoint: &quinn::Endpoint,
    node: &Node,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let identity = Keypair::generate_ed25519();
    let config = transport::client_config(
        &identity,
        node.relay.peer_id(),
        transport::Windows::SHARDS,
        Duration::from_secs(30),
    );
    endpoint.connect_with(config.unwrap(), node.addr, "x").unwrap().await
}

/// Waits until something holds that is counted or shown a moment after its effect is seen.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}
