//! The task that speaks to TURN servers: which one, when, and when not.

use super::{
    client::Client,
    config::{Carrier, Server, Turn},
    credentials::Credentials,
    event::{Allocation, Rules},
    link::Link,
    metrics::TurnMetrics,
    outcome::Outcome,
    session::Session,
    socket::Sockets,
};
use crate::AddressPolicy;
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

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
    pub(super) config: Turn,
    policy: AddressPolicy,
    pub(super) joints: Joints,
    pub(super) metrics: TurnMetrics,
    wanted: bool,
}

/// Why a server is used no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
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

    pub(super) async fn tell(&self, told: impl IntoIterator<Item = Told>) {
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
