//! Whom this node dials: a network behaviour that watches every dial end, whoever began it, and
//! refuses those whose [`Breaker`] is open.

use super::breaker::{Breaker, BreakerView, Config, Failure, Open};
use crate::{Metrics, Multiaddr, PeerId, connections::Door, metrics::gauge, peers::budget};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionError, ConnectionId, DialError, FromSwarm,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use thiserror::Error;

/// The labels of refused dials, which dashboards see from the start.
pub(crate) const DENIALS: [&str; 2] = [Refused::LABEL, budget::Spent::LABEL];

/// Why a peer is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("dialling that peer failed {failures} times in a row; next try in {} ms", wait.as_millis())]
pub(crate) struct Refused {
    failures: u32,
    wait: Duration,
}

impl Refused {
    /// The metric label.
    const LABEL: &str = "breaker_open";
}

/// A connection of which it is not known yet whether it stays.
#[derive(Debug)]
struct Young {
    peer: PeerId,
    dialled: bool,
    since: Instant,
}

/// The behaviour.
pub(crate) struct Behaviour {
    breaker: Breaker,
    /// Knows which dials are about an address: those are neither refused nor judged.
    door: Door,
    settle: Duration,
    /// Connections younger than `settle`; bounded by the connections there may be.
    young: HashMap<ConnectionId, Young>,
    /// All connections.
    connections: usize,
    metrics: Metrics,
}

impl Behaviour {
    pub(crate) fn new(config: &Config, door: Door, metrics: Metrics) -> Self {
        Self {
            breaker: Breaker::new(config),
            door,
            settle: config.settle,
            young: HashMap::new(),
            connections: 0,
            metrics,
        }
    }

    /// Whether a dial to the peer would be refused.
    pub(crate) fn refuses(&self, peer: &PeerId, now: Instant) -> bool {
        self.breaker.open(peer, now).is_some()
    }

    /// The failures of one peer, if it failed of late.
    pub(crate) fn view(&self, peer: &PeerId, now: Instant) -> Option<BreakerView> {
        self.breaker.view(peer, now)
    }

    /// The failures of all peers that failed of late, the last first.
    pub(crate) fn views(&self, now: Instant) -> Vec<BreakerView> {
        self.breaker.views(now)
    }

    /// Connections that have lasted are successes; what is old is forgotten.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        let (breaker, settle) = (&mut self.breaker, self.settle);
        self.young.retain(|_, young| {
            let settled = now.saturating_duration_since(young.since) >= settle;
            if settled {
                breaker.succeeded(&young.peer);
            }
            !settled
        });
        breaker.expire(now);
        self.metrics.breakers_open.set(gauge(breaker.count_open(now)));
    }

    fn failed(&mut self, peer: &PeerId, id: ConnectionId, why: Failure, now: Instant) {
        let alone = self.connections == 0;
        if self.breaker.failed(peer, id, why, alone, rand::random(), now) {
            tracing::debug!(%peer, reason = why.label(), "not dialled for a while");
            self.metrics.breakers_opened.inc();
        }
    }

    fn closed(&mut self, closed: &ConnectionClosed<'_>, now: Instant) {
        self.connections = self.connections.saturating_sub(1);
        let Some(young) = self.young.remove(&closed.connection_id) else { return };
        // The other side may well keep one of two connections. Closing one of ours tells nothing.
        let theirs = matches!(closed.cause, Some(ConnectionError::IO(_)));
        if young.dialled && theirs && closed.remaining_established == 0 {
            self.failed(&young.peer, closed.connection_id, Failure::HungUp, now);
        } else {
            self.breaker.abandoned(&young.peer, closed.connection_id);
        }
    }
}

/// What a failed dial tells of the peer; nothing if it was this node that did not want it.
pub(crate) fn judge(error: &DialError) -> Option<Failure> {
    match error {
        DialError::WrongPeerId { .. } => Some(Failure::WrongPeer),
        DialError::Transport(errors) => {
            let causes = errors.iter().map(|(_, error)| cause(error));
            // The last address tried decides, where not all were refused here.
            causes.flatten().last()
        }
        // Nobody was asked.
        DialError::LocalPeerId { .. }
        | DialError::NoAddresses
        | DialError::DialPeerConditionFalse(_)
        | DialError::Aborted
        | DialError::Denied { .. } => None,
    }
}

/// Whether a connection ended because nothing came any more: the other side may have moved. One that
/// it closed says nothing of where it is. The text is what transports leave of their errors.
pub(crate) fn fell_silent(cause: &ConnectionError) -> bool {
    let ConnectionError::IO(error) = cause else { return false };
    error.kind() == io::ErrorKind::TimedOut || error.to_string().contains("timed out")
}

/// What a transport's error tells of the peer; nothing if it is a refusal of our own.
fn cause(error: &libp2p::TransportError<io::Error>) -> Option<Failure> {
    let libp2p::TransportError::Other(error) = error else {
        // No transport for it, or not allowed by the policy.
        return None;
    };
    if is_spent(error) {
        return None;
    }
    // libp2p's `Either` keeps the error that it wraps out of `source`, so its text is what is left.
    let text = error.to_string().to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Some(if says(&["refused"]) {
        Failure::Refused
    } else if says(&["timed out", "timeout"]) {
        Failure::Timeout
    } else if says(&["unreachable", "no route"]) {
        Failure::Unreachable
    } else {
        Failure::Transport
    })
}

/// Whether a dial was refused because its IP had been dialled too often.
fn is_spent(error: &io::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<budget::Spent>() {
            return true;
        }
        next = match error.downcast_ref::<io::Error>() {
            // An I/O error's own source leaves out the error that it wraps.
            Some(io) => io.get_ref().map(|inner| -> &(dyn Error + 'static) { inner }),
            None => error.source(),
        };
    }
    false
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        // Of whom it is not known who it is, it is not known how often it failed.
        let Some(peer) = peer.filter(|_| !self.door.is_dial_back(id)) else {
            return Ok(Vec::new());
        };
        self.breaker.ask(&peer, id, Instant::now()).map_err(|Open { failures, wait }| {
            self.metrics.dials_denied.with_label_values(&[Refused::LABEL]).inc();
            ConnectionDenied::new(Refused { failures, wait })
        })?;
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let now = Instant::now();
        match event {
            FromSwarm::NewExternalAddrOfPeer(told) => self.breaker.moved(&told.peer_id),
            FromSwarm::DialFailure(failure) => {
                let judged = !self.door.is_dial_back(failure.connection_id);
                let Some(peer) = failure.peer_id.filter(|_| judged) else { return };
                match judge(failure.error) {
                    Some(why) => self.failed(&peer, failure.connection_id, why, now),
                    None => self.breaker.abandoned(&peer, failure.connection_id),
                }
            }
            FromSwarm::ConnectionEstablished(opened) => {
                self.connections += 1;
                let (peer, dialled) = (opened.peer_id, opened.endpoint.is_dialer());
                self.young.insert(opened.connection_id, Young { peer, dialled, since: now });
            }
            FromSwarm::ConnectionClosed(closed) => self.closed(&closed, now),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::{TransportError, quic};
    use nix::errno::Errno;

    fn of(error: impl Into<Box<dyn Error + Send + Sync>>) -> DialError {
        // As deep as a transport behind DNS puts it.
        let wrapped = io::Error::other(io::Error::other(error));
        DialError::Transport(vec![("/memory/1".parse().unwrap(), TransportError::Other(wrapped))])
    }

    #[test]
    fn failures_are_told_apart_however_deep_they_lie() {
        let os = |errno: Errno| of(io::Error::from(errno));
        assert_eq!(judge(&os(Errno::ECONNREFUSED)), Some(Failure::Refused));
        assert_eq!(judge(&os(Errno::ETIMEDOUT)), Some(Failure::Timeout));
        assert_eq!(judge(&os(Errno::EHOSTUNREACH)), Some(Failure::Unreachable));
        assert_eq!(judge(&os(Errno::ENETUNREACH)), Some(Failure::Unreachable));
        assert_eq!(judge(&os(Errno::ECONNRESET)), Some(Failure::Transport));
        assert_eq!(judge(&of(quic::Error::HandshakeTimedOut)), Some(Failure::Timeout));
        assert_eq!(judge(&of("anything")), Some(Failure::Transport));
    }

    #[test]
    fn what_this_node_did_not_want_is_no_failure_of_the_peer() {
        assert_eq!(judge(&of(budget::Spent)), None);
        assert_eq!(judge(&DialError::NoAddresses), None);
        assert_eq!(judge(&DialError::Aborted), None);
        let refused = Refused { failures: 2, wait: Duration::ZERO };
        assert_eq!(judge(&DialError::Denied { cause: ConnectionDenied::new(refused) }), None);
        let addr: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let unsupported = TransportError::MultiaddrNotSupported(addr.clone());
        assert_eq!(judge(&DialError::Transport(vec![(addr.clone(), unsupported)])), None);
        // Of two addresses one was really tried.
        let DialError::Transport(mut errors) = of(io::Error::from(io::ErrorKind::TimedOut)) else {
            panic!()
        };
        errors.push((addr, TransportError::Other(io::Error::other(budget::Spent))));
        assert_eq!(judge(&DialError::Transport(errors)), Some(Failure::Timeout));
    }
}
