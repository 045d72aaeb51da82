//! The task that speaks with the router: asks for what is due, tells what came of it, and removes
//! all mappings when it ends.

use super::{
    leases::{Change, Failed, Granted, Held, Key, Leased, Leases, Port, Transport, Way},
    pcp, upnp,
};
use crate::{AddressPolicy, Multiaddr, nat::config::Mapping as Config};
use crab_nat::PortMapping;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::multiaddr::Protocol;
use prometheus_endpoint::{CounterVec, U64};
use std::{collections::HashMap, net::SocketAddr, time::Instant};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// These ports are listened on.
    Want(Vec<Port>),
    /// The network changed: ask for all of them at once.
    Again,
}

/// What the router says; nobody has tried it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Mapped(Multiaddr),
    Lost(Multiaddr),
}

/// What a call has brought.
struct Done {
    key: Key,
    result: Result<Granted, Failed>,
    mapping: Option<PortMapping>,
}

/// Holds two leases for each port, and as many calls: see `nat.mapping.max_ports`.
pub(crate) struct Worker {
    config: Config,
    policy: AddressPolicy,
    orders: mpsc::Receiver<Order>,
    told: mpsc::Sender<Told>,
    shown: watch::Sender<Leased>,
    answers: CounterVec<U64>,
    leases: Leases,
    /// Of those mapped by PCP or NAT-PMP, what renews and removes them.
    mappings: HashMap<Key, PortMapping>,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    removals: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Worker {
    pub(crate) fn new(
        config: &Config,
        policy: AddressPolicy,
        orders: mpsc::Receiver<Order>,
        told: mpsc::Sender<Told>,
        shown: watch::Sender<Leased>,
        answers: CounterVec<U64>,
    ) -> Self {
        Self {
            config: config.clone(),
            policy,
            orders,
            told,
            shown,
            answers,
            leases: Leases::new(config),
            mappings: HashMap::new(),
            calls: FuturesUnordered::new(),
            removals: FuturesUnordered::new(),
        }
    }

    /// Runs until nobody gives orders any more, then removes all mappings, within
    /// `nat.mapping.remove_timeout`.
    pub(crate) async fn run(mut self) {
        loop {
            let wakes_at = self.leases.wakes_at();
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Want(ports)) => self.leases.want(&ports, Instant::now()),
                    Some(Order::Again) => self.leases.again(Instant::now()),
                    None => break,
                },
                Some(done) = self.calls.next() => self.ended(done),
                Some(()) = self.removals.next() => {}
                () = until(wakes_at) => {}
            }
            for (key, held) in self.leases.due(Instant::now()) {
                self.call(key, held);
            }
            for (key, held) in self.leases.unwanted() {
                self.remove(key, Some(held));
            }
            for change in self.leases.changes() {
                let told = match change {
                    Change::Mapped(transport, at) => Told::Mapped(multiaddr(transport, at)),
                    Change::Lost(transport, at) => Told::Lost(multiaddr(transport, at)),
                };
                // Nobody hears it any more: the orders have ended too.
                if self.told.send(told).await.is_err() {
                    break;
                }
            }
            let now = self.leases.shown();
            self.shown.send_if_modified(|shown| {
                let changed = *shown != now;
                *shown = now;
                changed
            });
        }
        let limit = self.config.remove_timeout;
        let held = self.leases.held();
        let removed = async {
            for (key, held) in &held {
                self.remove(*key, Some(*held));
            }
            // What was asked for last may have been granted meanwhile.
            self.leases.want(&[], Instant::now());
            loop {
                tokio::select! {
                    Some(done) = self.calls.next() => self.ended(done),
                    Some(()) = self.removals.next() => {}
                    else => break,
                }
            }
        };
        if timeout(limit, removed).await.is_err() {
            tracing::debug!(
                "not all port mappings were removed in time; they end with their lease"
            );
        }
    }

    fn call(&mut self, key: Key, held: Option<Held>) {
        let config = self.config.clone();
        let mapping = self.mappings.get(&key).cloned().filter(|_| held.is_some());
        let call = async move {
            let asked = async {
                match key.way {
                    Way::Upnp => upnp::map(&config, key.port, held).await.map(|g| (g, None)),
                    Way::Pcp => {
                        pcp::map(&config, key.port, mapping).await.map(|(g, m)| (g, Some(m)))
                    }
                }
            };
            match timeout(config.timeout, asked).await.unwrap_or(Err(Failed::Timeout)) {
                Ok((granted, mapping)) => Done { key, result: Ok(granted), mapping },
                Err(failed) => Done { key, result: Err(failed), mapping: None },
            }
        };
        self.calls.push(call.boxed());
    }

    fn ended(&mut self, Done { key, mut result, mapping }: Done) {
        if let Some(mapping) = mapping {
            self.mappings.insert(key, mapping);
        }
        let granted = result.ok();
        if granted.is_some_and(|granted| !self.policy.allows_ip(granted.external.ip())) {
            result = Err(Failed::Impossible);
        }
        let label = result.err().map_or("mapped", Failed::label);
        self.answers.with_label_values(&[label]).inc();
        let wanted = self.leases.ended(key, result, Instant::now());
        if let Some(Granted { external, by, lease }) = granted
            && (!wanted || result.is_err())
        {
            // Nobody uses it.
            let ends = Instant::now() + lease;
            self.remove(key, Some(Held { port: key.port, external, by, ends }));
        }
    }

    fn remove(&mut self, key: Key, held: Option<Held>) {
        let (config, mapping) = (self.config.clone(), self.mappings.remove(&key));
        let removal = async move {
            let removed = async {
                match (key.way, mapping, held) {
                    (Way::Pcp, Some(mapping), _) => pcp::remove(mapping).await,
                    (Way::Upnp, _, Some(held)) => upnp::remove(&config, held).await,
                    _ => Ok(()),
                }
            };
            // What is not removed ends with its lease.
            let _ = timeout(config.timeout, removed).await;
        };
        self.removals.push(removal.boxed());
    }
}

fn multiaddr(transport: Transport, at: SocketAddr) -> Multiaddr {
    let ip = Multiaddr::from(at.ip());
    match transport {
        Transport::Udp => ip.with(Protocol::Udp(at.port())).with(Protocol::QuicV1),
        Transport::Tcp => ip.with(Protocol::Tcp(at.port())),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
