//! Two whole overlays and shard services, the source without an address of its own.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use libp2p::{PeerId, identity::Keypair};
use nsn_p2p::testnet::{Node, Testnet};
use nsn_relay::{
    BlobId, Config, Deps, Manifest, Metrics, Progress, Relay, RunError, Unknown,
    client::{self, Address, Viewer},
    content::publish,
    upstream::{Class, Directory, DirectoryError, Record, Source, SuperNode, TellError},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;

/// Names one source of everything, and forgets what it is told.
struct Named(Option<Source>);

impl Directory for Named {
    fn sources(&self, _: BlobId) -> BoxFuture<'_, Result<Vec<Source>, DirectoryError>> {
        std::future::ready(Ok(self.0.clone().into_iter().collect())).boxed()
    }

    fn super_nodes(
        &self,
        _: Vec<PeerId>,
        _: usize,
    ) -> BoxFuture<'_, Result<Vec<SuperNode>, DirectoryError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn provide(&self, _: Record, _: Class) -> BoxFuture<'_, Result<(), TellError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn stop_providing(&self, _: Record) -> BoxFuture<'_, Result<(), TellError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn max_cached(&self) -> usize {
        100
    }

    fn starts(&self) -> BoxStream<'static, ()> {
        stream::once(async {}).boxed()
    }
}

struct Service {
    relay: Relay,
    metrics: Metrics,
    folder: TempDir,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Service {
    /// On the overlay of `node`, whose key the testnet made of this byte.
    async fn start(node: &Node, secret: u8, origin: bool, source: Option<Source>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::unregistered();
        let slot = Slot::empty();
        slot.set(Some(node.overlay.clone()));
        let mut config = Config::default();
        config.server.listen_addr = ([127, 0, 0, 1], 0).into();
        let deps = Deps {
            identity: Keypair::ed25519_from_bytes([secret; 32]).unwrap(),
            directory: Arc::new(Named(source)),
            standing: Arc::new(Unknown),
            overlay: Some(Arc::new(Substreams::new(slot))),
            metrics: metrics.clone(),
            origin_dir: origin.then(|| folder.path().join("shards")),
            cache_dir: (!origin).then(|| folder.path().join("relay")),
            region: None,
            withhold: false,
        };
        let (relay, driver) = nsn_relay::build(config, deps).unwrap();
        assert_eq!(relay.peer_id(), node.peer_id());
        let stop = CancellationToken::new();
        let running = tokio::spawn(driver.run(stop.clone()));
        relay.ready().await.unwrap();
        Self { relay, metrics, folder, stop, running }
    }

    async fn publish(&self, bytes: &[u8]) -> Manifest {
        let path = self.folder.path().join("film.mp4");
        fs::write(&path, bytes).unwrap();
        let request = publish::Request { path, media_type: None };
        let progress = watch::Sender::new(Progress::START);
        let published = self.relay.publish(request, progress).await.unwrap();
        let name = BlobId::from(published.content_id).to_string();
        let file = Path::new("shards").join(&name[..2]).join(&name);
        Manifest::decode(&fs::read(self.folder.path().join(file)).unwrap()).unwrap()
    }

    async fn viewer(&self) -> Viewer {
        let socket = self.relay.local_addr().unwrap();
        let address = Address { socket, peer: self.relay.peer_id() };
        let config = client::Config { tries: 1, ..client::Config::default() };
        Viewer::connect(address, None, config).await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// Over QUIC on real sockets, and over the transport in memory.
async fn a_miss_comes_over_the_overlay(tweak: impl Fn(&mut nsn_p2p::Config)) {
    let net = Testnet::start(2, tweak).await.unwrap();
    let [hidden, near] = &net.nodes[..] else { panic!() };
    let origin = Service::start(hidden, 1, true, None).await;
    let source =
        Source { peer: hidden.peer_id(), addrs: vec![], seeder_score: Some(500), load: Some(0) };
    let relay = Service::start(near, 2, false, Some(source)).await;
    let bytes: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    let manifest = origin.publish(&bytes).await;
    assert!(manifest.shards().len() > 1);
    let viewer = relay.viewer().await;
    let mut whole = Vec::new();
    for part in manifest.shards() {
        whole.extend_from_slice(&viewer.fetch(part.id.into()).await.unwrap().0);
    }
    assert!(whole == bytes);
    let count = |way| relay.metrics.upstream_bytes_total.with_label_values(&[way]).get();
    assert_eq!((count("quic"), count("overlay")), (0, 2_800_000));
    assert_eq!(near.metric("nsn_p2p_shard_streams_failed_total{reason=\"broken\"}"), 0.0);
    relay.stop().await;
    origin.stop().await;
    net.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_of_a_source_without_an_address_comes_over_the_overlay_byte_for_byte() {
    a_miss_comes_over_the_overlay(|_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_so_over_quic_and_over_tcp() {
    for listen in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"] {
        a_miss_comes_over_the_overlay(|config| config.listen = vec![listen.parse().unwrap()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_taken_from_each_overlay_that_starts() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    let [first, second, asks] = &net.nodes[..] else { panic!() };
    let slot = Slot::empty();
    let mut incoming = nsn_relay::Overlay::incoming(&Substreams::new(slot.clone()));
    for node in [first, second] {
        slot.set(Some(node.overlay.clone()));
        let came = async {
            // Offered once the change was seen.
            let (came, opened) = futures::join!(incoming.next(), async {
                loop {
                    match asks.overlay.shards.open(node.peer_id()).await {
                        Ok(opened) => break opened,
                        Err(error) => assert_eq!(error, shards::OpenError::NotOffered),
                    }
                }
            });
            (came.unwrap().peer, opened.peer)
        };
        let (from, to) = tokio::time::timeout(Duration::from_secs(20), came).await.unwrap();
        assert_eq!((from, to), (asks.peer_id(), node.peer_id()));
        slot.set(None);
    }
    let down = nsn_relay::Overlay::open(&Substreams::new(slot), asks.peer_id()).await;
    assert_eq!(down.err(), Some(OpenError::Down));
    net.stop().await.unwrap();
}
