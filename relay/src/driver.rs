//! The life of the service: open the stores, listen, serve, drain.
//!
//! The driver owns every task: the server (and its connections and requests), the fills, the
//! announcer, the publisher, what the cache does by itself. They end in the order in which they need each other: the server
//! drains first, while fills still deliver to the viewers that wait for them.

use crate::{
    Config,
    announce::{self, Announcer},
    body::Memory,
    cache::{self, Cache},
    content::publish::{self, PublishError, Published},
    error::RunError,
    fill,
    handle::{Phase, Publish},
    lookup::{Lookup, RelaySide},
    metrics::Metrics,
    overlay::Overlay,
    region,
    server::{self, Server},
    standing::{Others, Standing},
    store::{Disk, FolderLock, Origin},
    transport,
    upstream::{Directory, Pool, Record, Upstream},
    warm,
};
use libp2p::identity::Keypair;
use std::sync::{Arc, OnceLock};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Runs a shard service. Made by [`build`](crate::build).
pub struct Driver {
    pub(crate) config: Config,
    pub(crate) identity: Keypair,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) standing: Arc<dyn Standing>,
    pub(crate) others: Others,
    pub(crate) overlay: Option<Arc<dyn Overlay>>,
    /// Where the handle finds what asks other nodes.
    pub(crate) upstream: Arc<OnceLock<Arc<Upstream>>>,
    /// The handle asks to drain.
    pub(crate) drain: CancellationToken,
    pub(crate) metrics: Metrics,
    pub(crate) disk: Disk,
    pub(crate) tls: quinn::ServerConfig,
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) cache: Option<Arc<Cache>>,
    pub(crate) fills: fill::Fills,
    pub(crate) fill_runner: fill::Runner,
    pub(crate) announcer: Announcer,
    pub(crate) announce_runner: announce::Runner,
    pub(crate) own: region::Own,
    pub(crate) warmer: warm::Warmer,
    pub(crate) inbox: warm::Inbox,
    pub(crate) publishes: mpsc::Receiver<Publish>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) withhold: bool,
}

/// A part of the service that runs as a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Server,
    Fills,
    Health,
    Region,
    Warming,
    Announcer,
    Publisher,
    Cache,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Fills => "fills",
            Self::Health => "health checks",
            Self::Region => "measuring of regions",
            Self::Warming => "fetching ahead",
            Self::Announcer => "announcer",
            Self::Publisher => "publisher",
            Self::Cache => "cache",
        }
    }
}

/// The tasks, and how to end them.
struct Parts {
    tasks: JoinSet<Part>,
    server: AbortHandle,
    stop_server: CancellationToken,
    stop_rest: CancellationToken,
}

impl Driver {
    /// Runs the service until `shutdown`, then drains it. Everything it started has ended when it
    /// returns; dropped before, it ends everything without draining.
    ///
    /// # Errors
    /// When it could not start, or a part of it failed.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let phase = self.phase.clone();
        let result = Box::pin(self.serve(shutdown)).await;
        let reason = result.as_ref().err().map(ToString::to_string);
        phase.send_replace(Phase::Stopped { reason });
        result
    }

    async fn serve(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let phase = self.phase.clone();
        let drain = self.drain.clone();
        // Held to the end: another process must not touch the folders while we do.
        let (_locks, mut parts) = tokio::select! {
            started = self.start() => started?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = drain.cancelled() => Ok(()),
            failed = parts.failed() => Err(failed),
        };
        phase.send_replace(Phase::Draining);
        parts.drain().await;
        if result.is_ok() && !shutdown.is_cancelled() {
            tracing::info!("Drained: nobody is served until the node is started again");
            phase.send_replace(Phase::Drained);
            shutdown.cancelled().await;
        }
        result
    }

    async fn start(self) -> Result<(Vec<FolderLock>, Parts), RunError> {
        let mut locks = Vec::new();
        if let Some(origin) = &self.origin {
            locks.push(origin.open().await?);
            let held = origin.status();
            tracing::info!("Origin: {} contents, {} bytes", held.contents, held.bytes);
        }
        if let Some(cache) = &self.cache {
            locks.push(cache.open().await?);
            let held = cache.status();
            tracing::info!("Cache: {} of {} bytes used", held.bytes, held.capacity);
        }
        let listeners = server::listen(&self.config.server, &self.tls, &self.identity)?;
        let listen_addr = listeners.local_addr().map_err(RunError::Socket)?;
        let upstream = match &self.cache {
            Some(cache) => Some((self.upstream()?, Arc::clone(cache))),
            None => None,
        };
        let phase = self.phase.clone();
        let withhold = self.withhold;
        let parts = self.spawn(listeners, upstream);
        tracing::info!("Serving shards on UDP {listen_addr}");
        if withhold {
            tracing::warn!("Withholding: every question for a blob is answered with not found");
        }
        phase.send_replace(Phase::Serving { listen_addr });
        Ok((locks, parts))
    }

    fn upstream(&self) -> Result<Arc<Upstream>, RunError> {
        let config = &self.config.upstream;
        let endpoint = transport::dialling_endpoint(self.config.server.socket_buffer)
            .map_err(RunError::Socket)?;
        let pool =
            Pool::new(endpoint, self.identity.clone(), config.pool.clone(), config.max_connections);
        let us = self.identity.public().to_peer_id();
        let directory = Arc::clone(&self.directory);
        let (others, metrics) = (self.others.clone(), self.metrics.clone());
        let ways = (pool, self.overlay.clone());
        let upstream = Upstream::new(us, directory, others, ways, config.clone(), metrics);
        Ok(Arc::clone(self.upstream.get_or_init(|| Arc::new(upstream))))
    }

    fn spawn(
        self,
        listeners: transport::Listeners,
        upstream: Option<(Arc<Upstream>, Arc<Cache>)>,
    ) -> Parts {
        let mut tasks = JoinSet::new();
        let stop_server = CancellationToken::new();
        let stop_rest = CancellationToken::new();
        let config = self.config;

        let runner = self.announce_runner.run(stop_rest.clone());
        tasks.spawn(async move {
            runner.await;
            Part::Announcer
        });

        let mut relay = None;
        if let Some((upstream, cache)) = upstream {
            let checks = Arc::clone(&upstream).watch_health(stop_rest.clone());
            tasks.spawn(async move {
                checks.await;
                Part::Health
            });
            if !self.own.is_set() {
                let measuring = region::Runner {
                    upstream: Arc::clone(&upstream),
                    own: self.own,
                    config: config.region,
                    metrics: self.metrics.clone(),
                };
                let measuring = measuring.run(stop_rest.clone());
                tasks.spawn(async move {
                    measuring.await;
                    Part::Region
                });
            }
            let deps = fill::Deps {
                upstream,
                cache: Arc::clone(&cache),
                announcer: self.announcer.clone(),
                warmer: self.warmer.clone(),
                metrics: self.metrics.clone(),
            };
            let told = config.fill.announce.then(|| self.announcer.clone());
            let caching = cache::Runner::new(Arc::clone(&cache), told, &config.cache);
            let caching = caching.run(stop_rest.clone());
            tasks.spawn(async move {
                caching.await;
                Part::Cache
            });
            relay = Some(RelaySide { cache, fills: self.fills, announce: config.fill.announce });
            let runner = self.fill_runner.run(deps, stop_rest.clone());
            tasks.spawn(async move {
                runner.await;
                Part::Fills
            });
        }

        if let Some(origin) = &self.origin {
            let publisher = Publisher {
                origin: Arc::clone(origin),
                disk: self.disk,
                announcer: self.announcer.clone(),
                config: config.publish,
            };
            let running = publisher.run(self.publishes, stop_rest.clone());
            tasks.spawn(async move {
                running.await;
                Part::Publisher
            });
        }

        let kept = self.origin.clone();
        let cached = relay.as_ref().map(|relay| (Arc::clone(&relay.cache), relay.fills.clone()));
        let lookup = Lookup {
            origin: self.origin,
            relay,
            announcer: self.announcer,
            memory: Memory::new(config.server.body_memory),
            memory_wait: config.server.memory_wait,
            fill_wait: config.server.fill_wait,
            metrics: self.metrics.clone(),
        };
        let deps = server::Deps {
            lookup,
            standing: self.standing,
            others: self.others,
            overlay: self.overlay,
            warmer: cached.is_some().then_some(self.warmer),
            metrics: self.metrics.clone(),
            withhold: self.withhold,
        };
        let server = Server::new(listeners, config.server, deps);
        if let Some((cache, fills)) = cached {
            let warming = warm::Runner {
                inbox: self.inbox,
                fills,
                cache,
                origin: kept,
                pressure: server.pressure(),
                config: config.warm,
                metrics: self.metrics,
            };
            let warming = warming.run(stop_rest.clone());
            tasks.spawn(async move {
                warming.await;
                Part::Warming
            });
        }
        let running = server.run(stop_server.clone());
        let server = tasks.spawn(async move {
            running.await;
            Part::Server
        });
        Parts { tasks, server, stop_server, stop_rest }
    }
}

impl Parts {
    /// Ends when a part has ended that never should.
    async fn failed(&mut self) -> RunError {
        match self.tasks.join_next().await {
            Some(Ok(part)) => RunError::Part { part: part.name() },
            Some(Err(_)) => RunError::Part { part: "task" },
            None => RunError::Part { part: "driver" },
        }
    }

    async fn drain(mut self) {
        self.stop_server.cancel();
        while !self.server.is_finished() && self.tasks.join_next().await.is_some() {}
        self.stop_rest.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!("A part of the shard service failed: {error}");
            }
        }
    }
}

/// Publishes files, a few at a time.
#[derive(Clone)]
struct Publisher {
    origin: Arc<Origin>,
    disk: Disk,
    announcer: Announcer,
    config: publish::Config,
}

impl Publisher {
    /// Runs until `stop`; a publish that goes on then is dropped, to be repeated by its caller.
    async fn run(self, mut queue: mpsc::Receiver<Publish>, stop: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(publish) = queue.recv(), if running.len() < self.config.publishes => {
                    running.spawn(self.clone().publish(publish));
                }
                // The panic hook has reported a panic, and the caller sees that the service failed.
                Some(_) = running.join_next(), if !running.is_empty() => {}
            }
        }
        running.shutdown().await;
    }

    async fn publish(self, publish: Publish) {
        let Publish { request, progress, reply } = publish;
        let result = self.store(request, &progress).await;
        // Who asked may be gone; the content is published all the same.
        let _ = reply.send(result);
    }

    async fn store(
        &self,
        request: publish::Request,
        progress: &watch::Sender<crate::content::Progress>,
    ) -> Result<Published, PublishError> {
        let (published, shards) =
            publish::publish(request, &self.config, &self.origin, &self.disk, progress).await?;
        tracing::info!("Published {} ({} bytes)", published.content_id, published.total_len);
        // The content is published whatever the directory does.
        self.announcer.provide(Record::Content(published.content_id));
        for shard in shards {
            self.announcer.provide(Record::Shard(shard));
        }
        Ok(published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        announce::Holdings,
        content::Progress,
        store::{self, Files},
        upstream::{Class, directory::Fake},
    };
    use std::{collections::BTreeMap, fs};

    #[tokio::test]
    async fn a_publish_does_not_wait_for_the_directory_and_is_announced_once_it_moves() {
        let root = tempfile::tempdir().unwrap();
        let metrics = Metrics::unregistered();
        let disk = Disk::new(4, metrics.clone());
        let store = store::Config::default();
        let files = Files::new(root.path().join("shards"), &store, disk.clone());
        let origin = Arc::new(Origin::new(files, &store));
        let _lock = origin.open().await.unwrap();
        let directory = Arc::new(Fake::default());
        // There are two places, a publication of five records, and nobody who empties the queue.
        let config = announce::Config { queue: 2, ..announce::Config::default() };
        let held = Holdings { origin: Some(Arc::clone(&origin)), cache: None };
        let (announcer, runner) =
            announce::build(&config, directory.clone(), Arc::new(held), metrics.clone());
        let publisher = Publisher {
            origin: Arc::clone(&origin),
            disk,
            announcer,
            config: publish::Config { shard_len: 1000, ..publish::Config::default() },
        };
        let path = root.path().join("a.bin");
        fs::write(&path, (0..3500u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>()).unwrap();
        let request = publish::Request { path, media_type: None };
        let progress = watch::Sender::new(Progress::START);
        let published = publisher.store(request, &progress);
        let wait = std::time::Duration::from_secs(10);
        tokio::time::timeout(wait, published).await.unwrap().unwrap();
        let scans = |reason| metrics.announcement_scans_total.with_label_values(&[reason]).get();
        assert_eq!(scans("overflow"), 1);

        let held = origin.held_after(None, 100);
        assert_eq!(held.len(), 5);
        let expected: BTreeMap<_, _> =
            held.into_iter().map(|record| (record, Class::Kept)).collect();
        let stop = CancellationToken::new();
        let running = tokio::spawn(runner.run(stop.clone()));
        let mut provided = directory.provided();
        provided.wait_for(|provided| *provided == expected).await.unwrap();
        stop.cancel();
        running.await.unwrap();
    }

    /// A server that ends as `server` does, and a part that ends when told.
    fn parts(server: impl Future<Output = ()> + Send + 'static) -> Parts {
        let (stop_server, stop_rest) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let stop = stop_rest.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            Part::Fills
        });
        let server = tasks.spawn(async move {
            server.await;
            Part::Server
        });
        Parts { tasks, server, stop_server, stop_rest }
    }

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_named_and_the_others_are_ended() {
        let mut parts = parts(std::future::ready(()));
        assert_eq!(parts.failed().await.to_string(), "the shard service's server failed");
        parts.drain().await;
    }

    #[tokio::test]
    async fn a_part_that_panics_ends_the_service_too() {
        let mut parts = parts(async { panic!("on purpose") });
        assert!(matches!(parts.failed().await, RunError::Part { .. }));
        parts.drain().await;
    }

    #[tokio::test]
    async fn the_rest_goes_on_until_the_server_has_drained() {
        let stop_rest = Arc::new(OnceLock::<CancellationToken>::new());
        let seen = Arc::clone(&stop_rest);
        let parts = parts(async move {
            tokio::task::yield_now().await;
            assert!(!seen.wait().is_cancelled());
        });
        stop_rest.set(parts.stop_rest.clone()).unwrap();
        parts.drain().await;
        assert!(stop_rest.wait().is_cancelled());
    }
}
