//! Around the transport: begins each attempt when its turn has come, ends it when its time is up,
//! and counts how it went.

use super::{
    Shared,
    paths::{AttemptId, CONNECTED, Carrier, NotTried, Turn},
};
use crate::{
    Multiaddr, PeerId,
    address::{is_circuit, is_udp},
    nat::relay::Refusal,
};
use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent},
    },
    multiaddr::Protocol,
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

type Connection = (PeerId, StreamMuxerBox);

pub(crate) struct Paced {
    inner: Boxed<Connection>,
    shared: Shared,
}

impl Paced {
    pub(crate) fn new(inner: Boxed<Connection>, shared: Shared) -> Self {
        Self { inner, shared }
    }
}

/// An attempt, until its end was told.
struct Attempt {
    id: AttemptId,
    shared: Shared,
}

impl Attempt {
    /// Waits for its turn.
    async fn turn(&self, since: Instant) {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let turn = self.shared.lock().turn(self.id, since, Instant::now());
            match turn {
                Turn::Now => return,
                Turn::At(at) => tokio::select! {
                    () = ended => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                },
                Turn::Later => ended.await,
            }
        }
    }

    fn ends(&self, outcome: &'static str) {
        let ended = self.shared.lock().end(self.id, outcome, Instant::now());
        if let Some((strategy, took)) = ended {
            self.shared.metrics.attempt_ended(strategy, outcome, took);
        }
        self.shared.ended.notify_waiters();
    }
}

impl Drop for Attempt {
    /// Nobody waits any more; says nothing if its end was told.
    fn drop(&mut self) {
        self.ends("overtaken");
    }
}

async fn attempt(
    attempt: Attempt,
    since: Instant,
    dial: BoxFuture<'static, io::Result<Connection>>,
) -> io::Result<Connection> {
    attempt.turn(since).await;
    let begun = attempt.shared.lock().begin(attempt.id, Instant::now());
    let Some((strategy, limit)) = begun else { return dial.await };
    attempt.shared.metrics.attempt_began(strategy);
    let result = match tokio::time::timeout(limit, dial).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the attempt timed out")),
    };
    attempt.ends(match &result {
        Ok(_) => CONNECTED,
        Err(error) => reason(error),
    });
    result
}

/// Why an attempt failed. libp2p's `Either` keeps what it wraps out of `source`, so text is what is
/// left of most errors.
fn reason(error: &io::Error) -> &'static str {
    let text = error.to_string();
    if let Some(refusal) = Refusal::find(&text) {
        return refusal.label();
    }
    let text = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["refused"]) {
        "refused"
    } else if says(&["timed out", "timeout"]) {
        "timeout"
    } else if says(&["unreachable", "no route"]) {
        "unreachable"
    } else if says(&["too often", "banned", "not supported"]) {
        "not_allowed"
    } else {
        "transport"
    }
}

/// Who is at the other end of an address, by its own word.
fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

impl Transport for Paced {
    type Output = Connection;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Connection> as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Connection>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let (peer, relayed) = (peer_of(&addr), is_circuit(&addr));
        let over = if is_udp(&addr) { Carrier::Datagrams } else { Carrier::Stream };
        let dial = self.inner.dial(addr, opts)?;
        let made = peer.map(|peer| self.shared.lock().attempt(peer, relayed, over));
        match made.transpose() {
            Ok(made) => match made.flatten() {
                Some(id) => {
                    let made = Attempt { id, shared: self.shared.clone() };
                    Ok(attempt(made, Instant::now(), dial).boxed())
                }
                None => Ok(dial),
            },
            Err(NotTried) => Err(TransportError::Other(io::Error::other(NotTried))),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::strategies::REASONS;

    #[test]
    fn every_reason_is_one_that_dashboards_know() {
        for error in [
            io::Error::from(io::ErrorKind::ConnectionRefused),
            io::Error::from(io::ErrorKind::TimedOut),
            io::Error::from(io::ErrorKind::NetworkUnreachable),
            io::Error::other("this IP address was dialled too often of late"),
            io::Error::other("anything"),
            io::Error::other(Refusal::Full),
            io::Error::other(format!("Transport error: {}", Refusal::WithoutPeer)),
        ] {
            assert!(REASONS.contains(&reason(&error)), "{error}");
        }
        assert_eq!(reason(&io::Error::other(Refusal::Full)), "relay_full");
    }
}
