//! The task that holds the socket: resolves names, sends what a round says, reads what comes.

use super::{
    message::MAX_BYTES,
    round::{Outcome, Report, Round, Rules, Send},
};
use crate::{AddressPolicy, nat::config::Stun};
use prometheus_endpoint::{CounterVec, U64};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::mpsc,
    time::{sleep_until, timeout},
};

/// Datagrams read in one go before a round is looked at again: a flood must not keep it from
/// ending.
const READ_IN_ONE_GO: usize = 64;

/// What is wanted of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Find out how the NAT behaves, over a new socket; else only the address, over the old one.
    pub(crate) discover: bool,
}

/// What a round has shown, each server by its name in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) report: Report,
    /// The name for each address in the report; names that lead nowhere are in `unresolved`.
    pub(crate) names: Vec<(SocketAddr, String)>,
    pub(crate) unresolved: Vec<String>,
}

impl Heard {
    /// Each server by its name: where it saw this node or why it said nothing of use, and how long
    /// that took.
    pub(crate) fn by_name(
        &self,
    ) -> impl Iterator<Item = (&str, Result<SocketAddr, Outcome>, Duration)> {
        let unresolved = self.unresolved.iter();
        let unresolved =
            unresolved.map(|name| (name.as_str(), Err(Outcome::Unresolved), Duration::ZERO));
        let asked = self.names.iter().map(|(at, name)| {
            let said = self.report.said.iter().find(|said| said.server == *at);
            let (result, took) = said
                .map_or((Err(Outcome::Unsent), Duration::ZERO), |said| (said.result, said.took));
            (name.as_str(), result, took)
        });
        unresolved.chain(asked)
    }
}

/// Asks STUN servers when told to. Holds one socket at most, 1.3 KB for what is read, and one
/// round.
pub(crate) struct Worker {
    config: Stun,
    policy: AddressPolicy,
    /// One may wait; those that come meanwhile are one with it.
    asks: mpsc::Receiver<Ask>,
    /// Each round is heard before the next begins.
    heard: mpsc::Sender<Heard>,
    outcomes: CounterVec<U64>,
    socket: Option<UdpSocket>,
}

impl Worker {
    pub(crate) fn new(
        config: &Stun,
        policy: AddressPolicy,
        asks: mpsc::Receiver<Ask>,
        heard: mpsc::Sender<Heard>,
        outcomes: CounterVec<U64>,
    ) -> Self {
        Self { config: config.clone(), policy, asks, heard, outcomes, socket: None }
    }

    /// Runs until nobody can ask or hear any more, at any point of a round; the socket is closed
    /// then.
    pub(crate) async fn run(mut self) {
        let heard = self.heard.clone();
        while let Some(ask) = self.asks.recv().await {
            let done = tokio::select! {
                done = self.round(ask) => done,
                () = heard.closed() => return,
            };
            if heard.send(done).await.is_err() {
                return;
            }
        }
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes.with_label_values(&[outcome.label()]).inc();
    }

    /// Asks all servers once. Ends by itself within the time of resolving and five waits of a
    /// question.
    async fn round(&mut self, Ask { discover }: Ask) -> Heard {
        let mut heard = Heard::default();
        let mut servers = Vec::new();
        for (name, resolved) in self.resolve().await {
            // One socket is of one family; the first server's decides.
            let like = servers.first().map(SocketAddr::is_ipv4);
            let fit = |at: &SocketAddr| {
                like.is_none_or(|v4| v4 == at.is_ipv4())
                    && self.policy.allows_ip(at.ip())
                    && at.port() != 0
            };
            match resolved.into_iter().find(fit) {
                Some(at) => {
                    if !servers.contains(&at) {
                        servers.push(at);
                    }
                    heard.names.push((at, name));
                }
                None => {
                    self.count(Outcome::Unresolved);
                    heard.unresolved.push(name);
                }
            }
        }
        if discover {
            // The old one is closed before there is another.
            self.socket = None;
        }
        let Some(first) = servers.first() else { return heard };
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => match bind(*first).await {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::debug!(%error, "no socket to ask STUN servers from");
                    return heard;
                }
            },
        };
        let rules = Rules {
            retransmit: self.config.retransmit.iter().map(|wait| **wait).collect(),
            redirects: self.config.redirects,
            policy: self.policy,
        };
        let round = Round::new(rules, &servers, discover, rand::random(), Instant::now());
        heard.report = self.ask_all(&socket, round).await;
        // A socket over which nothing comes may be the reason.
        if heard.report.said.iter().any(|said| said.result.is_ok()) {
            self.socket = Some(socket);
        }
        heard
    }

    async fn ask_all(&self, socket: &UdpSocket, mut round: Round) -> Report {
        let mut buffer = [0; MAX_BYTES + 1];
        loop {
            for Send { to, bytes } in round.poll(Instant::now()) {
                if let Err(error) = socket.send_to(&bytes, to).await {
                    tracing::debug!(%to, %error, "a STUN server is not asked");
                    round.on_unsent(to, Instant::now());
                }
            }
            round.outcomes().into_iter().for_each(|outcome| self.count(outcome));
            let Some(at) = round.wakes_at() else { return round.report() };
            tokio::select! {
                // What comes counts even if its time was up in the same moment.
                biased;
                readable = socket.readable() => {
                    if readable.is_err() {
                        return round.report();
                    }
                    for _ in 0..READ_IN_ONE_GO {
                        // An error is an ICMP message, or that nothing is left.
                        match socket.try_recv_from(&mut buffer) {
                            Ok((length, from)) => {
                                let bytes = buffer.get(..length).unwrap_or_default();
                                round.on_datagram(from, bytes, Instant::now());
                            }
                            Err(_) => break,
                        }
                    }
                }
                () = sleep_until(at.into()) => {}
            }
        }
    }

    /// The servers by name, each with the addresses that its name has.
    async fn resolve(&self) -> Vec<(String, Vec<SocketAddr>)> {
        let limit = self.config.resolve_timeout;
        let one = |name: &String| {
            let name = name.clone();
            async move {
                let found = timeout(limit, lookup_host(name.clone())).await;
                let found = found.ok().and_then(Result::ok);
                // IPv4 first: it is there that NATs are.
                let mut found: Vec<SocketAddr> = found.into_iter().flatten().take(16).collect();
                found.sort_by_key(|at| !at.is_ipv4());
                (name, found)
            }
        };
        futures::future::join_all(self.config.servers.iter().map(one)).await
    }
}

/// A socket on any port that reaches `to`.
async fn bind(to: SocketAddr) -> io::Result<UdpSocket> {
    match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await,
    }
}
