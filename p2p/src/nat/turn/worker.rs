//! The task that holds the socket to a TURN server: chooses the server, carries datagrams both ways, and
//! gives the allocation back when it ends.

use super::{
    client::Client,
    config::{Carrier, Server, Turn},
    credentials::Credentials,
    event::{Allocation, Delivery, End, Event, Rules, Unsent},
    link::{Came, Link},
    metrics::{Dropped, TurnMetrics},
    outcome::Outcome,
    pending::Pending,
    socket::{Datagram, Ends, Relayed, Sockets},
};
use crate::{AddressPolicy, metrics::gauge};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

/// Datagrams that are sent in one go before anything else gets its turn.
const SENDS_IN_ONE_GO: usize = 64;

/// What is wanted of the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Whether there is to be an allocation.
    Want(bool),
    /// These addresses are to have permissions. [`Told::Permitted`] with this token answers it.
    Permit { token: u64, ips: Vec<IpAddr> },
}

/// What the worker tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// There is an allocation, and its socket is offered to the transport.
    Opened { relayed: SocketAddr, mapped: Option<SocketAddr> },
    /// It is over.
    Lost { relayed: SocketAddr },
    /// Whether one at least of the addresses has a permission now.
    Permitted { token: u64, any: bool },
}

/// How things stand, for who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// The server that is asked or was asked last.
    pub(super) server: Option<Server>,
    pub(super) allocation: Option<Allocation>,
    pub(super) permissions: usize,
    pub(super) channels: usize,
    /// Why there was no allocation, or the one before ended.
    pub(super) last: Option<Outcome>,
}

/// The worker's ends of what joins it with others.
pub(super) struct Joints {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) told: mpsc::Sender<Told>,
    pub(super) shown: watch::Sender<Shown>,
    pub(super) sockets: Sockets,
}

/// Keeps one allocation while it is wanted. Holds one socket, two queues of datagrams, what
/// [`Client`] holds, and 64 KB where the server is spoken to over TCP.
pub(super) struct Worker {
    config: Turn,
    policy: AddressPolicy,
    joints: Joints,
    metrics: TurnMetrics,
    wanted: bool,
}

/// Why a server is used no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// This node ends.
    Closed,
    /// No allocation is wanted any more.
    Unwanted,
    /// For this reason; whether there was an allocation.
    Failed(Outcome, bool),
}

impl Worker {
    pub(super) fn new(
        config: &Turn,
        policy: AddressPolicy,
        joints: Joints,
        metrics: TurnMetrics,
    ) -> Self {
        Self { config: config.clone(), policy, joints, metrics, wanted: false }
    }

    /// Runs until nobody can give orders any more, and gives the allocation back then, within
    /// `release_timeout`.
    pub(super) async fn run(mut self) {
        let servers = self.config.servers.clone();
        let mut failures = 0_usize;
        let mut turns = servers.iter().cycle();
        loop {
            if !self.wanted {
                match self.joints.orders.recv().await {
                    Some(order) => self.take_without(order).await,
                    None => return,
                }
                continue;
            }
            let Some(server) = turns.next() else { return };
            let left = Box::pin(self.use_server(server)).await;
            tracing::debug!(%server, ?left, "a TURN server is left");
            match left {
                Left::Closed => return,
                Left::Unwanted => {
                    self.wanted = false;
                    failures = 0;
                }
                Left::Failed(outcome, had_one) => {
                    self.metrics.lost(outcome);
                    self.joints.shown.send_modify(|shown| shown.last = Some(outcome));
                    failures = if had_one { 1 } else { failures.saturating_add(1) };
                    // The next server is tried at once; after all of them comes a pause.
                    if failures.is_multiple_of(servers.len())
                        && !self.pause(failures / servers.len()).await
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Waits before the servers are tried again for the `round`th time; whether this node goes on.
    async fn pause(&mut self, round: usize) -> bool {
        let doubled = u32::try_from(round.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let wait = self.config.retry.saturating_mul(1 << doubled).min(self.config.retry_max);
        let ends = tokio::time::Instant::now() + wait;
        while self.wanted {
            tokio::select! {
                () = sleep_until(ends) => return true,
                order = self.joints.orders.recv() => match order {
                    Some(order) => self.take_without(order).await,
                    None => return false,
                }
            }
        }
        true
    }

    /// An order while there is no allocation.
    async fn take_without(&mut self, order: Order) {
        match order {
            Order::Want(wanted) => self.wanted = wanted,
            Order::Permit { token, .. } => self.tell([Told::Permitted { token, any: false }]).await,
        }
    }

    async fn tell(&self, told: impl IntoIterator<Item = Told>) {
        for told in told {
            // Fails only if nobody listens any more.
            let _ = self.joints.told.send(told).await;
        }
    }

    /// Uses a server, and those that it sends on to, until there is a reason to leave it.
    async fn use_server(&mut self, server: &Server) -> Left {
        self.joints.shown.send_modify(|shown| shown.server = Some(server.clone()));
        let told = self.joints.told.clone();
        let prepared = tokio::select! {
            prepared = self.prepare(server) => prepared,
            () = told.closed() => return Left::Closed,
        };
        let (mut at, credentials) = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return Left::Failed(outcome, false),
        };
        let mut asked = vec![at];
        loop {
            let opened = tokio::select! {
                opened = Link::open(server.carrier, at, self.config.timeout) => opened,
                () = told.closed() => return Left::Closed,
            };
            let link = match opened {
                Ok(link) => link,
                Err(outcome) => return Left::Failed(outcome, false),
            };
            let rules = self.rules(server.carrier, at);
            let client = Client::new(rules, credentials.clone(), rand::random(), Instant::now());
            match Session::new(self, client, link).run().await {
                Ok(left) => return left,
                Err(next) => {
                    let fresh = next.port() != 0
                        && next.is_ipv4() == at.is_ipv4()
                        && self.policy.allows_ip(next.ip())
                        && !asked.contains(&next);
                    if !fresh || asked.len() > self.config.redirects {
                        return Left::Failed(Outcome::Redirect, false);
                    }
                    asked.push(next);
                    at = next;
                }
            }
        }
    }

    /// Where the server is, and what it is told.
    async fn prepare(&self, server: &Server) -> Result<(SocketAddr, Option<Credentials>), Outcome> {
        let credentials = match &self.config.credentials {
            Some(path) => Some(Credentials::read(path).await.map_err(|error| {
                tracing::warn!(%error, "no TURN server is asked");
                Outcome::Credentials
            })?),
            None => None,
        };
        let name = (server.host.trim_matches(['[', ']']).to_owned(), server.port);
        let found = timeout(self.config.resolve_timeout, lookup_host(name)).await;
        let found = found.ok().and_then(Result::ok).ok_or(Outcome::Unresolved)?;
        // IPv4 first: it is there that NATs are.
        let at = found.min_by_key(|at| !at.is_ipv4()).ok_or(Outcome::Unresolved)?;
        Ok((at, credentials))
    }

    fn rules(&self, carrier: Carrier, server: SocketAddr) -> Rules {
        let Turn { lifetime, keep_alive, max_peers, idle, timeout, .. } = self.config;
        let (stream, waits, keep_alive) = match carrier {
            Carrier::Udp => {
                let waits = self.config.retransmit.iter().map(|wait| **wait).collect();
                (false, waits, Some(keep_alive))
            }
            Carrier::Tcp => (true, vec![timeout], None),
        };
        let (policy, v6) = (self.policy, server.is_ipv6());
        Rules { waits, lifetime, keep_alive, stream, max_peers, idle, policy, v6 }
    }
}

/// One socket to one server.
struct Session<'a> {
    worker: &'a mut Worker,
    client: Client,
    link: Link,
    pending: Pending,
    /// While there is an allocation: its queues.
    ends: Option<Ends>,
    relayed: Option<SocketAddr>,
    /// Set once the allocation is being given back.
    closing: Option<(Instant, Left)>,
}

impl<'a> Session<'a> {
    fn new(worker: &'a mut Worker, client: Client, link: Link) -> Self {
        Self {
            worker,
            client,
            link,
            pending: Pending::default(),
            ends: None,
            relayed: None,
            closing: None,
        }
    }

    /// Until it is over: why, or where to go on.
    async fn run(mut self) -> Result<Left, SocketAddr> {
        let mut lost = None;
        let end = loop {
            for bytes in self.client.poll(Instant::now()) {
                self.link.send(&bytes);
            }
            if let Err(outcome) = self.link.flush() {
                lost = Some(outcome);
            }
            self.take_in().await;
            if let Some(end) = self.client.is_over() {
                break end;
            }
            if let Some(outcome) = lost {
                break End::Over(outcome);
            }
            let now = Instant::now();
            let limit = self.closing.map(|(limit, _)| limit);
            if limit.is_some_and(|limit| limit <= now) {
                break End::Over(Outcome::Released);
            }
            let wakes_at = self.client.wakes_at(now).into_iter().chain(limit).min();
            let room = self.link.has_room();
            tokio::select! {
                ready = self.link.ready() => lost = match ready {
                    Ok(()) => self.read().err(),
                    Err(_) => Some(Outcome::Unreachable),
                },
                Some(first) = outgoing(&mut self.ends), if room => self.send(first),
                order = self.worker.joints.orders.recv(), if self.closing.is_none() => {
                    self.order(order);
                }
                // Something may have ended for want of use.
                () = until(wakes_at) => self.show(),
            }
        };
        self.ended(end).await
    }

    /// Tells what has happened to whom it concerns.
    async fn take_in(&mut self) {
        let events = self.client.events();
        let changed = !events.is_empty();
        for event in events {
            match event {
                Event::Answered(asked, outcome) => self.worker.metrics.answered(asked, outcome),
                Event::Dropped(bad) => self.worker.metrics.bad(bad),
                Event::Permitted(ip, granted) => {
                    let told = self.pending.decided(ip, granted);
                    self.worker.tell(told).await;
                }
                Event::Opened(allocation) => self.opened(allocation).await,
            }
        }
        if changed {
            self.show();
        }
    }

    async fn opened(&mut self, allocation: Allocation) {
        let Allocation { relayed, mapped, .. } = allocation;
        tracing::info!(%relayed, "a TURN server takes what is for this node");
        let (socket, ends) = Relayed::new(relayed, self.worker.config.queue);
        self.ends = Some(ends);
        self.relayed = Some(relayed);
        self.worker.joints.sockets.offer(socket);
        self.worker.tell([Told::Opened { relayed, mapped }]).await;
    }

    /// Shows how things stand.
    fn show(&self) {
        let (permissions, channels) = self.client.counts(Instant::now());
        let allocation = self.client.allocation();
        let metrics = &self.worker.metrics;
        metrics.allocations.set(u64::from(allocation.is_some()));
        metrics.permissions.set(gauge(permissions));
        metrics.channels.set(gauge(channels));
        self.worker.joints.shown.send_modify(|shown| {
            (shown.permissions, shown.channels) = (permissions, channels);
            shown.allocation = allocation;
        });
    }

    fn order(&mut self, order: Option<Order>) {
        let now = Instant::now();
        let left = match order {
            Some(Order::Want(true)) => return,
            Some(Order::Permit { token, ips }) => {
                // Those that are decided at once are told of with the next events.
                if let Some(told) = self.pending.wait(token, &ips) {
                    let _ = self.worker.joints.told.try_send(told);
                }
                for ip in ips {
                    self.client.permit(ip, now);
                }
                return;
            }
            Some(Order::Want(false)) => Left::Unwanted,
            None => Left::Closed,
        };
        self.client.close(now);
        self.closing = Some((now + self.worker.config.release_timeout, left));
    }

    /// Sends the first datagram, and what else waits.
    fn send(&mut self, first: Datagram) {
        let mut next = Some(first);
        for _ in 0..SENDS_IN_ONE_GO {
            let Some(Datagram { to, payload }) = next else { return };
            self.carry(to, &payload);
            next = match &mut self.ends {
                Some(ends) if self.link.has_room() => ends.outgoing.try_recv().ok(),
                _ => None,
            };
        }
        if let Some(Datagram { to, payload }) = next {
            self.carry(to, &payload);
        }
    }

    fn carry(&mut self, to: SocketAddr, payload: &[u8]) {
        let metrics = &self.worker.metrics;
        match self.client.send(to, payload, Instant::now()) {
            Ok(bytes) if self.link.send(&bytes) => metrics.bytes_sent.inc_by(length(payload)),
            Ok(_) => metrics.dropped(Dropped::LinkFull),
            Err(Unsent::NotPermitted) => metrics.dropped(Dropped::NotPermitted),
            Err(Unsent::TooLong) => metrics.dropped(Dropped::TooLong),
        }
    }

    /// Takes in what the server sent.
    fn read(&mut self) -> Result<(), Outcome> {
        let Self { client, link, ends, worker, .. } = self;
        let (now, metrics) = (Instant::now(), &worker.metrics);
        link.read(|came| {
            let delivery = match came {
                Came::Bytes(bytes) => client.on_bytes(bytes, now),
                Came::Stranger => {
                    client.on_stranger();
                    None
                }
            };
            let Some((delivery, ends)) = delivery.zip(ends.as_ref()) else { return };
            deliver(delivery, ends, metrics);
        })
    }

    /// The end of the session: why, or where to go on.
    async fn ended(mut self, end: End) -> Result<Left, SocketAddr> {
        let told = self.pending.fail();
        self.worker.tell(told).await;
        let had_one = self.relayed.is_some();
        if let Some(relayed) = self.relayed {
            self.worker.joints.sockets.withdraw();
            self.worker.tell([Told::Lost { relayed }]).await;
        }
        self.worker.metrics.ended();
        self.worker.joints.shown.send_modify(|shown| {
            shown.allocation = None;
            (shown.permissions, shown.channels) = (0, 0);
        });
        match (self.closing, end) {
            (Some((_, left)), _) => Ok(left),
            (None, End::Over(outcome)) => Ok(Left::Failed(outcome, had_one)),
            (None, End::Redirect(to)) => Err(to),
        }
    }
}

fn deliver(delivery: Delivery, ends: &Ends, metrics: &TurnMetrics) {
    let length = length(&delivery.payload);
    match ends.incoming.try_send(delivery) {
        Ok(()) => metrics.bytes_received.inc_by(length),
        // As a socket that is full. If the transport has closed it nobody wants it.
        Err(_) => metrics.dropped(Dropped::QueueFull),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The next datagram; for ever if there is no allocation. Safe to drop.
async fn outgoing(ends: &mut Option<Ends>) -> Option<Datagram> {
    match ends {
        // None once the transport has closed its socket.
        Some(ends) => ends.outgoing.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends then; never, if there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending::<()>().await,
    }
}
