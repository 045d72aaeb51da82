//! The one task that owns the swarm: select an event or a command, hand it to its domain, apply.

use crate::{
    Config, Deps, Metrics, PeerId, Protocols, Reputation, RunError,
    address::ip_of,
    behaviour::{self, Behaviour, BehaviourEvent},
    bootstrap::{self, Bootstrap},
    connections::{self, Door},
    dht::{self, Dht},
    gossip::{self, Channel, Gossip, Heard},
    identity::key_of,
    nat::{self, Nat, News},
    peers::{self, Book, Changes, Context, Peers, Saver},
    shards, transport,
};
use futures::StreamExt;
use libp2p::{
    Multiaddr, TransportError, identify, mdns,
    multiaddr::Protocol,
    swarm::{self, ConnectionId, Swarm, SwarmEvent},
};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU8,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Addresses of one dial that the swarm lets wait for their turn: more than a dial has, at most 16 of
/// the routing table and 6 through relays.
const DIAL_CONCURRENCY: NonZeroU8 = NonZeroU8::new(32).unwrap();

/// Runs the overlay.
pub struct Driver {
    config: Config,
    deps: Deps,
    gossip: gossip::Ends,
    dht: mpsc::Receiver<dht::Command>,
    peers: peers::Ends,
    nat: mpsc::Receiver<nat::Command>,
    shards: shards::Ends,
}

impl Driver {
    pub(crate) fn new(
        config: Config,
        deps: Deps,
        gossip: gossip::Ends,
        dht: mpsc::Receiver<dht::Command>,
        peers: peers::Ends,
        nat: mpsc::Receiver<nat::Command>,
        shards: shards::Ends,
    ) -> Self {
        Self { config, deps, gossip, dht, peers, nat, shards }
    }

    /// Listens, connects and serves until `shutdown` is cancelled; then closes all connections,
    /// writes the peer book and returns, within `close_timeout`. Must be called within a tokio
    /// runtime. An address that cannot be listened on ends it at once.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Self { config, deps, gossip, dht, peers, nat, shards } = self;
        // Dropped last, after what would set the gauges.
        let _down = Down(deps.metrics.clone());
        let tasks = TaskTracker::new();
        let close_timeout = config.close_timeout;
        let tick = config.tick;
        let mut inbox = Inbox {
            gossip: gossip.commands,
            dht,
            peers: peers.commands,
            nat,
            shards: shards.commands,
            reputation: Some(deps.reputation_changed.clone()),
        };
        let kept = connections::load(config.dir.clone()).await;
        let (keep, changes) = watch::channel(Vec::new());
        let keeper = tokio::spawn(connections::keep(config.dir.clone(), changes));
        let local = deps.identity.peer_id();
        let door = Door::new(&config, local, kept, keep, deps.metrics.clone());
        let directory = match &config.dir {
            Some(folder) => dht::open(folder, &config.dht, &deps.metrics, unix_ms()).await,
            None => None,
        };
        let save_every = config.dht.save_every;
        let kept = open_book(&config, &deps).await;
        let given = Given { topics: gossip.topics, changes: peers.changes, offer: shards.offer };
        let start = Running::start(config, deps, door, given, kept, &tasks);
        // On the heap, so that the future stays small.
        let mut overlay = Box::new(start?);
        if let Some((writer, kept)) = directory {
            let (disk, batches) = dht::Disk::new(save_every, Instant::now());
            // Ends when `disk` has been finished or dropped.
            tasks.spawn(writer.run(batches));
            overlay.restore(kept, disk);
        }
        let mut ticks = interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let wakes_at = overlay.wakes_at();
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                event = overlay.swarm.select_next_some() => {
                    if let Err(error) = overlay.on_event(event) {
                        break Err(error);
                    }
                }
                input = inbox.next() => overlay.on_input(input),
                verdicts = overlay.gossip.verdicts() => match verdicts {
                    Some(batch) => overlay.on_verdicts(batch),
                    None => break Err(RunError::Validation),
                },
                news = overlay.nat.news() => overlay.on_news(news),
                _ = ticks.tick() => overlay.on_tick(),
                () = until(wakes_at) => {}
            }
            overlay.advance();
        };
        // Callers whose commands wait are answered `Closed` from here on.
        drop(inbox);
        // The router is told while connections close.
        overlay.nat.close();
        // Closing a connection takes at most half of the time, see `transport`; a quarter is left for
        // what ends after it.
        let begun = tokio::time::Instant::now();
        overlay.close(begun + close_timeout * 3 / 4).await;
        overlay.nat.release();
        if timeout_at(begun + close_timeout, overlay.save()).await.is_err() {
            tracing::warn!("not all that is kept over a restart could be written in time");
        }
        drop(overlay);
        tasks.close();
        let finished = async {
            tasks.wait().await;
            // It ends because nobody can change a ban any more.
            let _ = keeper.await;
        };
        if timeout_at(begun + close_timeout, finished).await.is_err() {
            tracing::warn!(left = tasks.len(), "not all of the overlay ended in time");
        }
        ended
    }
}

/// Ends then; never, if there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Once the overlay has ended, however it did, the gauges say that there is nothing.
struct Down(Metrics);

impl Drop for Down {
    fn drop(&mut self) {
        self.0.overlay_ended();
    }
}

/// What callers and the chain send.
enum Input {
    Gossip(gossip::Command),
    Dht(dht::Command),
    Peers(peers::Command),
    Nat(nat::Command),
    Shards(shards::Command),
    ReputationChanged,
}

struct Inbox {
    gossip: mpsc::Receiver<gossip::Command>,
    dht: mpsc::Receiver<dht::Command>,
    peers: mpsc::Receiver<peers::Command>,
    nat: mpsc::Receiver<nat::Command>,
    shards: mpsc::Receiver<shards::Command>,
    /// Gone once its sender is.
    reputation: Option<watch::Receiver<u64>>,
}

impl Inbox {
    /// The next input; for ever if all senders are gone. Safe to drop at any await.
    async fn next(&mut self) -> Input {
        loop {
            let reputation_changed = async {
                match &mut self.reputation {
                    Some(changed) => changed.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(command) = self.gossip.recv() => return Input::Gossip(command),
                Some(command) = self.dht.recv() => return Input::Dht(command),
                Some(command) = self.peers.recv() => return Input::Peers(command),
                Some(command) = self.nat.recv() => return Input::Nat(command),
                Some(command) = self.shards.recv() => return Input::Shards(command),
                changed = reputation_changed => {
                    if changed {
                        return Input::ReputationChanged;
                    }
                    self.reputation = None;
                }
            }
        }
    }
}

/// What the handles share with the domains.
struct Given {
    topics: Vec<(gossip::Topic, tokio::sync::broadcast::Sender<gossip::Message>)>,
    changes: watch::Sender<Changes>,
    offer: shards::Offer,
}

/// The swarm and the domains.
struct Running {
    swarm: Swarm<Behaviour>,
    gossip: Gossip,
    dht: Dht,
    peers: Peers,
    nat: Nat,
    bootstrap: Bootstrap,
    changes: watch::Sender<Changes>,
    door: Door,
    reputation: Arc<dyn Reputation>,
}

impl Running {
    fn start(
        config: Config,
        deps: Deps,
        door: Door,
        Given { topics, changes, offer }: Given,
        (book, saver): (Book, Option<Saver>),
        tasks: &TaskTracker,
    ) -> Result<Self, RunError> {
        let Deps { identity, genesis_hash, reputation, metrics, .. } = deps;
        let protocols = Protocols::new(&genesis_hash);
        let policy = config.address_policy;
        let paths = nat::strategies::Shared::new(&config.nat.strategies, metrics.nat.clone());
        let sockets = nat::Sockets::default();
        let (transport, circuits) =
            transport::build(&config, &identity, &door, &paths, &sockets, &metrics)?;
        let parts = behaviour::Parts {
            reputation: reputation.clone(),
            door: door.clone(),
            paths: paths.clone(),
            circuits,
            offer,
        };
        let behaviour = Behaviour::new(&config, &identity, &protocols, parts, &metrics)?;
        let (gossip, validation) = Gossip::new(
            config.gossip.clone(),
            gossip::Parts {
                policy,
                identity: &identity,
                chain: &protocols,
                reputation: reputation.clone(),
                metrics: metrics.clone(),
            },
            topics,
            Instant::now(),
        );
        // Ends when `gossip` is dropped.
        tasks.spawn(validation.run());
        let parts = nat::Parts {
            local: identity.peer_id(),
            reputation: reputation.clone(),
            shared: paths,
            sockets,
        };
        let nat = Nat::start(&config, parts, metrics.nat.clone(), tasks, Instant::now());
        let tasks = tasks.clone();
        let settings = swarm::Config::with_executor(move |task| {
            tasks.spawn(task);
        })
        .with_idle_connection_timeout(config.peers.idle_timeout)
        // All of a peer's addresses have their turn, which `nat::strategies` gives them.
        .with_dial_concurrency_factor(DIAL_CONCURRENCY);
        let mut swarm = Swarm::new(transport, behaviour, identity.peer_id(), settings);
        for address in &config.listen {
            listen(&mut swarm, address)?;
        }
        Ok(Self {
            nat,
            gossip,
            dht: Dht::new(
                identity.peer_id(),
                &config.dht,
                policy,
                reputation.clone(),
                metrics.clone(),
            ),
            peers: Peers::new(
                &config.peers,
                peers::Parts {
                    policy,
                    identity: identity.clone(),
                    public_addrs: config.public_addrs,
                    protocols,
                    reputation: reputation.clone(),
                    metrics,
                    door: door.clone(),
                    book,
                    saver,
                },
            ),
            bootstrap: Bootstrap::new(&config.bootstrap, identity.peer_id(), Instant::now()),
            swarm,
            changes,
            door,
            reputation,
        })
    }

    /// Takes up what the directory kept over the restart.
    fn restore(&mut self, kept: dht::Kept, disk: dht::Disk) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        self.dht.restore(kept, disk, kad, Instant::now(), unix_ms());
    }

    /// Writes what is not written yet.
    async fn save(&mut self) {
        let directory = self.dht.finish(&mut self.swarm.behaviour_mut().kad, unix_ms);
        futures::join!(directory, self.peers.save(unix_ms()));
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Gossip(command) => {
                let behaviours = self.swarm.behaviour_mut().gossip();
                self.gossip.on_command(command, behaviours, Instant::now(), unix_ms());
            }
            Input::Dht(command) => {
                self.dht.on_command(command, self.swarm.behaviour_mut().dht(), Instant::now());
            }
            Input::Peers(command) => {
                let (peers, cx) = self.peers();
                peers.on_command(command, cx);
            }
            Input::Nat(command) => self.nat.on_command(command, &self.swarm, Instant::now()),
            Input::Shards(shards::Command::Open { peer, answer }) => {
                self.swarm.behaviour_mut().shards.open(peer, answer, Instant::now());
            }
            Input::ReputationChanged => {
                let behaviours = self.swarm.behaviour_mut().gossip();
                self.gossip.apply_scores(behaviours, Instant::now());
                let (peers, cx) = self.peers();
                peers.on_reputation(cx);
            }
        }
    }

    /// The peers, and what they need of the rest.
    fn peers(&mut self) -> (&mut Peers, Context<'_>) {
        let cx = Context {
            swarm: &mut self.swarm,
            dht: &mut self.dht,
            gossip: &self.gossip,
            now: Instant::now(),
            now_ms: unix_ms(),
        };
        (&mut self.peers, cx)
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Result<(), RunError> {
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                ..
            } => {
                let over_turn = self.nat.on_established(peer_id, connection_id, &endpoint, now);
                self.peers.on_established(peer_id, connection_id, &endpoint, over_turn, now);
                self.bootstrap.on_connected(&peer_id, now);
                // Over another's server it was not reached where it says it is.
                if endpoint.is_dialer() && !endpoint.is_relayed() && !over_turn {
                    self.on_reached(&peer_id, connection_id, num_established.get() > 1);
                }
                let behaviours = self.swarm.behaviour_mut().gossip();
                let ip = ip_of(endpoint.get_remote_address());
                self.gossip.on_connected(peer_id, ip, behaviours, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.nat.on_closed(&peer_id, connection_id, now);
                if cause.is_some_and(|cause| peers::dialling::fell_silent(&cause)) {
                    self.peers.lost(&peer_id, now);
                    self.dht.on_lost(&peer_id, now);
                }
                if self.peers.on_closed(&peer_id, connection_id, now, unix_ms()) {
                    self.nat.on_gone(&peer_id, now);
                    self.gossip.on_disconnected(&peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error, .. } => {
                tracing::debug!(%error, "dialling failed");
                if self.nat.on_dial_failed(connection_id, now)
                    || self.door.is_dial_back(connection_id)
                {
                    // It says something of an address, and nothing of the peer.
                    return Ok(());
                }
                let lost = self.peers.on_dial_failed(peer_id, connection_id, &error, now);
                if let Some(peer) = peer_id {
                    if lost {
                        self.dht.on_lost(&peer, now);
                    }
                    self.bootstrap.on_failed(&peer);
                    let kad = &mut self.swarm.behaviour_mut().kad;
                    self.dht.on_dial_failed(&peer, connection_id, &error, kad, now);
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "incoming connection failed");
                self.peers.on_incoming_failed(&error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "overlay listens");
                self.nat.on_listening(&address, now);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                tracing::info!(%address, "overlay no longer listens");
                self.nat.on_silent(&address, now);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, addresses } => {
                if self.nat.on_listener_closed(listener_id, &reason, now) {
                    return Ok(());
                }
                let reason = reason.err().map_or_else(|| "closed".to_owned(), |e| e.to_string());
                tracing::warn!(?addresses, reason, "an overlay listener has closed");
                if peers::listens(&self.swarm).next().is_none() {
                    return Err(RunError::ListenersGone { reason });
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "an overlay listener has trouble");
            }
            // Progress that the domains hear of otherwise.
            _ => {}
        }
        Ok(())
    }

    /// This node has reached a peer, which it may be connected to by another connection already.
    fn on_reached(&mut self, peer: &PeerId, id: ConnectionId, again: bool) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let only_to_see = self.dht.on_reached(peer, id, kad, Instant::now());
        if only_to_see && again {
            self.swarm.close_connection(id);
        }
    }

    /// Dials the peers that are to be, to see whether they can be reached.
    fn check_peers(&mut self) {
        let now = Instant::now();
        while let Some(check) = self.dht.next_check(now) {
            let opts = check.dial();
            let id = opts.connection_id();
            match self.swarm.dial(opts) {
                Ok(()) => self.dht.check_begun(id, check),
                Err(error) => {
                    let kad = &mut self.swarm.behaviour_mut().kad;
                    self.dht.check_dropped(check, &error, kad, now);
                }
            }
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        let now = Instant::now();
        match event {
            BehaviourEvent::Control(event) => self.on_gossip(Channel::Control, event),
            BehaviourEvent::Bulk(event) => self.on_gossip(Channel::Bulk, event),
            BehaviourEvent::Kad(event) => {
                self.dht.on_event(event, &mut self.swarm.behaviour_mut().kad, now);
            }
            BehaviourEvent::Client(event) => {
                self.dht.on_client(event, &mut self.swarm.behaviour_mut().kad, now);
            }
            BehaviourEvent::Services(event) => {
                let (peers, cx) = self.peers();
                peers.on_services(event, cx);
            }
            BehaviourEvent::Shards(shards::Event::Locate(peer)) => {
                self.dht.locate(peer, self.swarm.behaviour_mut().dht(), now);
            }
            BehaviourEvent::Identify(event) => {
                if let identify::Event::Received { peer_id, connection_id, info } = &event {
                    self.nat.on_identified(*peer_id, *connection_id, info, now);
                }
                let (peers, mut cx) = self.peers();
                peers.on_identify(event, &mut cx);
            }
            BehaviourEvent::Ping(event) => {
                if let Ok(rtt) = event.result {
                    self.nat.on_ping(&event.peer, rtt);
                }
                self.peers.on_ping(event);
            }
            BehaviourEvent::Circuits(event) => self.nat.on_circuits(&event, now),
            BehaviourEvent::Punch(event) => self.nat.on_punched(&event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, addr) in found {
                    self.dial(bootstrap::dial(peer, vec![addr]));
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => {}
            BehaviourEvent::Autonat(tested) => self.nat.on_tested(tested, now),
            BehaviourEvent::Turn(event) => self.nat.on_turn(event, now),
            // How often, the metrics say.
            BehaviourEvent::DialBacks(_) | BehaviourEvent::Relay(_) => {}
            BehaviourEvent::Connections(never)
            | BehaviourEvent::Dialling(never)
            | BehaviourEvent::Paths(never) => match never {},
        }
    }

    fn on_gossip(&mut self, channel: Channel, event: Heard) {
        let behaviours = self.swarm.behaviour_mut().gossip();
        self.gossip.on_event(channel, event, behaviours, Instant::now());
    }

    fn on_verdicts(&mut self, batch: Vec<gossip::Judged>) {
        let behaviours = self.swarm.behaviour_mut().gossip();
        self.gossip.on_verdicts(batch, behaviours, Instant::now(), unix_ms());
    }

    fn on_news(&mut self, news: News) {
        self.nat.on_news(news, Instant::now());
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.nat.on_tick(now);
        self.dht.on_tick(self.swarm.behaviour_mut().dht(), now, unix_ms());
        self.peers.on_tick(now, unix_ms());
        self.swarm.behaviour_mut().dialling.on_tick(now);
        self.swarm.behaviour_mut().paths.on_tick(now);
        self.door.on_tick(|peer| key_of(peer).and_then(|key| self.reputation.standing(&key)));
        self.gossip.on_tick(self.swarm.behaviour_mut().gossip(), now);
        self.swarm.behaviour_mut().shards.expire(now);
        let connected = |peer: &PeerId| self.peers.is_connected(peer);
        for opts in self.bootstrap.due(self.peers.connected_count(), connected, now) {
            self.dial(opts);
        }
        self.dial_from_book();
        if self.bootstrap.ask_due(self.peers.connected_count(), now) {
            self.dht.look_around(now);
        }
    }

    fn dial_from_book(&mut self) {
        let (wanted, retry) = self.bootstrap.wanted_of_book(self.peers.connected_count());
        if wanted == 0 {
            return;
        }
        let (peers, cx) = self.peers();
        for (peer, addrs) in peers.pick_from_book(wanted, retry, &cx) {
            let opts = self.bootstrap.dial_of_book(peer, addrs);
            if let Err(error) = self.swarm.dial(opts) {
                tracing::debug!(%peer, %error, "not dialled from the book");
                self.bootstrap.on_failed(&peer);
            }
        }
    }

    fn dial(&mut self, opts: swarm::dial_opts::DialOpts) {
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%error, "not dialled");
        }
    }

    /// After every turn: starts what waits, and tells watchers what has changed.
    fn advance(&mut self) {
        self.nat.advance(&mut self.swarm, &self.door, Instant::now());
        self.check_peers();
        self.dht.advance(self.swarm.behaviour_mut().dht(), Instant::now(), unix_ms());
        while let Some(output) = self.dht.next_output() {
            match output {
                dht::Output::Located(peer, addrs) => {
                    self.swarm.behaviour_mut().shards.on_located(peer, addrs.clone());
                    let (peers, cx) = self.peers();
                    peers.on_located(peer, addrs, cx);
                }
                dht::Output::Relayed(known) => self.nat.learn(known),
            }
        }
        let (swarm, peers, dht, gossip) = (&self.swarm, &self.peers, &self.dht, &self.gossip);
        self.changes.send_if_modified(|shown| {
            let same = shown.connected == peers.connected_count()
                && shown.routing_table == dht.routing_table()
                && shown.fewest_listeners == gossip.fewest_listeners()
                && shown.listen.iter().eq(peers::listens(swarm));
            if !same {
                *shown = Changes {
                    listen: peers::listens(swarm).cloned().collect(),
                    connected: peers.connected_count(),
                    routing_table: dht.routing_table(),
                    fewest_listeners: gossip.fewest_listeners(),
                };
            }
            !same
        });
    }

    /// When there is something to do, if nothing happens.
    fn wakes_at(&self) -> Option<Instant> {
        self.dht.wakes_at(&self.swarm.behaviour().client, Instant::now())
    }

    /// Closes all connections, so that peers know at once.
    async fn close(&mut self, deadline: tokio::time::Instant) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Fails only if it has gone meanwhile.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                if let SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } =
                    self.swarm.select_next_some().await
                {
                    self.peers.on_closed(&peer_id, connection_id, Instant::now(), unix_ms());
                }
            }
        };
        if timeout_at(deadline, closed).await.is_err() {
            tracing::debug!("not all overlay connections closed in time");
        }
    }
}

/// The peer book as it was kept, and what will keep it.
async fn open_book(config: &Config, deps: &Deps) -> (Book, Option<Saver>) {
    let (settings, policy) = (&config.peers.book, config.address_policy);
    let Some(folder) = &config.dir else { return (Book::new(settings, policy), None) };
    let saved = Saver::read(folder).await;
    let dropped = |reason| deps.metrics.book_dropped.with_label_values(&[reason]).inc();
    let local = deps.identity.peer_id();
    let book = Book::load(settings, policy, &local, saved, unix_ms(), dropped);
    tracing::info!(peers = book.len(), "peer book read");
    (book, Some(Saver::new(folder, settings, Instant::now())))
}

fn listen(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<(), RunError> {
    let failed = |source| RunError::Listen { address: address.clone(), source };
    // libp2p binds TCP with SO_REUSEPORT, so a second node of the same user would get no error and
    // half of the connections. A plain bind tells.
    if let Some(tcp) = tcp_of(address) {
        TcpListener::bind(tcp).map_err(failed)?;
    }
    match swarm.listen_on(address.clone()) {
        Ok(_) => Ok(()),
        Err(TransportError::Other(source)) => Err(failed(source)),
        Err(TransportError::MultiaddrNotSupported(_)) => Err(failed(io::Error::new(
            io::ErrorKind::Unsupported,
            "no transport for such an address",
        ))),
    }
}

/// The socket address of a TCP address with a fixed port.
fn tcp_of(address: &Multiaddr) -> Option<SocketAddr> {
    let ip = ip_of(address)?;
    match address.iter().nth(1)? {
        Protocol::Tcp(port) if port != 0 => Some((ip, port).into()),
        _ => None,
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressPolicy, Identity, testnet};
    use libp2p::{core::transport::ListenerId, kad::Mode};

    /// A node of a public network, with such addresses given by its operator.
    fn running(public: &[Multiaddr]) -> Running {
        let config = Config {
            address_policy: AddressPolicy::Global,
            public_addrs: public.to_vec(),
            ..testnet::config()
        };
        let chain = Arc::new(testnet::StaticReputation::default());
        let deps = Deps {
            identity: Identity::from_secret([1; 32]).unwrap(),
            genesis_hash: testnet::GENESIS,
            reputation_changed: chain.changed(),
            reputation: chain,
            metrics: Metrics::unregistered().unwrap(),
        };
        let (changes, _) = watch::channel(Changes::default());
        let (keep, _) = watch::channel(Vec::new());
        let door = Door::new(&config, deps.identity.peer_id(), vec![], keep, deps.metrics.clone());
        let book = Book::new(&config.peers.book, config.address_policy);
        let kept = (book, None);
        let given = Given { topics: Vec::new(), changes, offer: shards::Offer::default() };
        Running::start(config, deps, door, given, kept, &TaskTracker::new()).unwrap()
    }

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn listens(running: &mut Running, address: &Multiaddr) {
        let (listener_id, address) = (ListenerId::next(), address.clone());
        running.on_event(SwarmEvent::NewListenAddr { listener_id, address }).unwrap();
        running.advance();
    }

    fn gone(running: &mut Running, address: &Multiaddr) {
        let (listener_id, address) = (ListenerId::next(), address.clone());
        running.on_event(SwarmEvent::ExpiredListenAddr { listener_id, address }).unwrap();
        running.advance();
    }

    #[tokio::test]
    async fn a_public_node_that_listens_on_a_global_address_serves_the_directory() {
        let global = addr("/ip4/8.8.8.8/tcp/9000");
        let mut running = running(&[]);
        listens(&mut running, &addr("/ip4/10.0.0.1/tcp/9000"));
        assert_eq!(running.swarm.external_addresses().count(), 0, "private");
        assert_eq!(running.swarm.behaviour().kad.mode(), Mode::Client);
        listens(&mut running, &global);
        assert_eq!(running.swarm.behaviour().kad.mode(), Mode::Server);
        gone(&mut running, &global);
        assert_eq!(running.swarm.external_addresses().count(), 0);
    }

    #[tokio::test]
    async fn an_address_through_a_relay_is_told_and_serves_nobody() {
        let relay = crate::identity::peer_id_of(&[2; 32]).unwrap();
        let through = addr(&format!("/ip4/8.8.8.8/tcp/9000/p2p/{relay}/p2p-circuit"));
        let mut running = running(&[]);
        running.swarm.add_external_address(through.clone());
        // The relay says what it listens on in this node's name.
        listens(&mut running, &through);
        let told: Vec<_> = running.swarm.external_addresses().collect();
        assert_eq!(told, [&through]);
        assert_eq!(running.swarm.behaviour().kad.mode(), Mode::Client);
        assert_eq!(running.swarm.behaviour().relay.view(), (false, 0, 0));
        listens(&mut running, &addr("/ip4/8.8.4.4/tcp/9000"));
        assert_eq!(running.swarm.behaviour().kad.mode(), Mode::Server);
        assert_eq!(running.swarm.behaviour().relay.view(), (true, 0, 0));
    }

    #[tokio::test]
    async fn the_word_of_the_operator_stands_listened_on_or_not() {
        let (public, global) = (addr("/ip4/9.9.9.9/tcp/9000"), addr("/ip4/8.8.8.8/tcp/9000"));
        let mut running = running(std::slice::from_ref(&public));
        for address in [&global, &public] {
            listens(&mut running, address);
        }
        assert_eq!(running.swarm.external_addresses().count(), 2);
        for address in [&global, &public] {
            gone(&mut running, address);
        }
        let left: Vec<_> = running.swarm.external_addresses().collect();
        assert_eq!(left, [&public]);
    }
}
