//! The behaviour that counts connections and refuses peers. What can be judged by address was
//! refused by the transport's gate before the swarm heard of it.

use super::{Direction, Door, Refused, counts::Open, door::now};
use crate::{Multiaddr, PeerId, Reputation, Standing, address::ip_of, identity::key_of};
use libp2p::{
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, Waker},
};

pub(crate) struct Behaviour {
    door: Door,
    reputation: Arc<dyn Reputation>,
    /// Connections that make room for others; as many as may be leaving at the same time.
    leaving: VecDeque<(PeerId, ConnectionId)>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(door: Door, reputation: Arc<dyn Reputation>) -> Self {
        Self { door, reputation, leaving: VecDeque::new(), waker: None }
    }

    fn standing(&self, peer: &PeerId) -> Option<Standing> {
        self.reputation.standing(&key_of(peer)?)
    }

    fn decided<T>(&self, decision: Result<T, Refused>) -> Result<T, ConnectionDenied> {
        decision.map_err(|reason| {
            self.door.count(reason);
            ConnectionDenied::new(reason)
        })
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    /// The gate has let it in; from here on it counts.
    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.door.lock().counts.arrives(id, ip_of(remote));
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let standing = self.standing(&peer);
        let (decision, leaves) = {
            let mut admission = self.door.lock();
            let decision = admission.inbound(&peer, ip_of(remote), standing, now());
            let leaving = decision.ok().flatten();
            (decision, leaving.and_then(|id| Some((admission.counts.peer_of(id)?, id))))
        };
        self.decided(decision)?;
        if let Some((peer, id)) = leaves {
            tracing::debug!(%peer, "a stranger's connection makes room for a known peer");
            self.door.displaced();
            self.leaving.push_back((peer, id));
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let standing = peer.as_ref().and_then(|peer| self.standing(peer));
        let decision = {
            let mut admission = self.door.lock();
            let decision = admission.dial(peer.as_ref(), standing, now());
            if decision.is_ok() {
                admission.counts.dials(id);
            }
            decision
        };
        self.decided(decision)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let decision = self.door.lock().outbound(&peer, self.standing(&peer), now());
        self.decided(decision)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let mut admission = self.door.lock();
        match event {
            FromSwarm::ConnectionEstablished(opened) => {
                let direction = match opened.endpoint {
                    ConnectedPoint::Dialer { .. } => Direction::Outbound,
                    ConnectedPoint::Listener { .. } => Direction::Inbound,
                };
                let open = Open {
                    peer: opened.peer_id,
                    direction,
                    remote: ip_of(opened.endpoint.get_remote_address()),
                    since: now().instant,
                };
                let standing = self.standing(&opened.peer_id);
                admission.opened(opened.connection_id, open, standing);
            }
            FromSwarm::ConnectionClosed(closed) => admission.closed(closed.connection_id),
            FromSwarm::ListenFailure(failure) => {
                admission.counts.settled(failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => admission.counts.settled(failure.connection_id),
            _ => return,
        }
        self.door.show(&admission);
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some((peer_id, id)) = self.leaving.pop_front() {
            let connection = CloseConnection::One(id);
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
