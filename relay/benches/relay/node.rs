//! Services in this process, and what they need.

use crate::Failure;
use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use libp2p::{PeerId, identity::Keypair};
use nsn_relay::{
    BlobId, Class, Config, ContentId, Deps, Directory, DirectoryError, Manifest, Metrics, Progress,
    Record, Relay, Source, SuperNode, TellError, Unknown,
    client::{self, Address, Viewer},
    content::publish,
};
use std::{fs, net::Ipv4Addr, sync::Arc};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Settings that do not get in a benchmark's way: any port, no limit of how fast connections come or
/// how many one address has.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.server.listen_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.connections_per_second = 0;
    config.server.connections_per_second_per_source = 0;
    config.server.connections_per_source = 0;
    // What is fetched ahead would be no miss.
    config.warm.ahead = 0;
    config
}

/// Threads of their own for one side, named for profilers.
pub(crate) fn threads(name: &str) -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build()?)
}

/// Bytes that compress to nothing and repeat nowhere.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Names the same sources for every blob, and takes every announcement.
struct Everywhere(Vec<Source>);

impl Directory for Everywhere {
    fn sources(&self, _blob: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
        future::ready(Ok(self.0.clone())).boxed()
    }

    fn super_nodes(
        &self,
        _named: Vec<PeerId>,
        _most: usize,
    ) -> BoxFuture<'_, Result<Vec<SuperNode>, DirectoryError>> {
        future::ready(Ok(Vec::new())).boxed()
    }

    fn provide(&self, _record: Record, _class: Class) -> BoxFuture<'_, Result<(), TellError>> {
        future::ready(Ok(())).boxed()
    }

    fn stop_providing(&self, _record: Record) -> BoxFuture<'_, Result<(), TellError>> {
        future::ready(Ok(())).boxed()
    }

    fn max_cached(&self) -> usize {
        10_000
    }

    fn starts(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}

/// A running service, in a folder that goes with it.
pub(crate) struct Node {
    pub(crate) relay: Relay,
    pub(crate) metrics: Metrics,
    pub(crate) address: Address,
    folder: TempDir,
    stop: CancellationToken,
    running: JoinHandle<Result<(), nsn_relay::RunError>>,
}

impl Node {
    /// A super-node.
    pub(crate) async fn origin(config: Config) -> Result<Self, Failure> {
        Self::start(config, true, Vec::new()).await
    }

    /// A relay that fetches what it lacks from `sources`.
    pub(crate) async fn relay(config: Config, sources: Vec<Source>) -> Result<Self, Failure> {
        Self::start(config, false, sources).await
    }

    async fn start(config: Config, origin: bool, sources: Vec<Source>) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let metrics = Metrics::unregistered();
        let deps = Deps {
            identity: Keypair::generate_ed25519(),
            directory: Arc::new(Everywhere(sources)),
            standing: Arc::new(Unknown),
            overlay: None,
            metrics: metrics.clone(),
            origin_dir: origin.then(|| folder.path().join("shards")),
            cache_dir: (!origin).then(|| folder.path().join("relay")),
            region: None,
            withhold: false,
        };
        let (relay, driver) = nsn_relay::build(config, deps)?;
        let stop = CancellationToken::new();
        let running = tokio::spawn(driver.run(stop.clone()));
        let address = Address { socket: relay.ready().await?, peer: relay.peer_id() };
        Ok(Self { relay, metrics, address, folder, stop, running })
    }

    /// This node as a directory names it.
    pub(crate) fn source(&self) -> Source {
        let Address { socket, peer } = self.address;
        Source { peer, addrs: vec![socket], seeder_score: Some(500), load: None }
    }

    /// Publishes bytes and gives the content and its shards.
    pub(crate) async fn publish(&self, bytes: &[u8]) -> Result<(ContentId, Vec<BlobId>), Failure> {
        let path = self.folder.path().join("film.mp4");
        fs::write(&path, bytes)?;
        let request = publish::Request { path, media_type: None };
        let progress = watch::Sender::new(Progress::START);
        let published = self.relay.publish(request, progress).await?;
        let viewer = Viewer::connect(self.address, None, client::Config::default()).await?;
        let manifest: Manifest = viewer.manifest(published.content_id).await?.0;
        viewer.close().await;
        let ids = manifest.shards().iter().map(|part| part.id.into()).collect();
        Ok((published.content_id, ids))
    }

    /// Has a relay fetch blobs, until all of them are kept.
    pub(crate) async fn warm(&self, ids: &[BlobId]) -> Result<(), Failure> {
        let viewer = Viewer::connect(self.address, None, client::Config::default()).await?;
        for id in ids {
            viewer.fetch(*id).await?;
        }
        // A fill is over when its blob is written.
        while self.relay.status().relay.is_some_and(|relay| relay.fills_in_flight > 0) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        viewer.close().await;
        Ok(())
    }

    /// Ends it and says how that went.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        Ok(self.running.await??)
    }
}
