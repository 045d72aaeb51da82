//! One socket to one server, from the first request to the last.

use super::{
    client::Client,
    event::{Allocation, Delivery, End, Event, Unsent},
    link::{Came, Link},
    metrics::{Dropped, TurnMetrics},
    outcome::Outcome,
    pending::Pending,
    socket::{Datagram, Ends, Relayed},
    worker::{Left, Order, Told, Worker},
};
use crate::metrics::gauge;
use std::{net::SocketAddr, time::Instant};
use tokio::time::sleep_until;

/// Datagrams that are sent in one go before anything else gets its turn.
const SENDS_IN_ONE_GO: usize = 64;

/// One socket to one server.
pub(super) struct Session<'a> {
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
    pub(super) fn new(worker: &'a mut Worker, client: Client, link: Link) -> Self {
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
    pub(super) async fn run(mut self) -> Result<Left, SocketAddr> {
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
                () = until(wakes_at) => {
                    // What has come counts even if its time is up in the same moment; and something
                    // may have ended for want of use.
                    lost = self.read().err();
                    self.show();
                }
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
