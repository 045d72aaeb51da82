//! Has addresses of this node dialled back.
//!
//! libp2p's own client tests each candidate once, never again, and forgets none; so this one is ours,
//! on the same protocol, and does what it is told when it is told. It is stricter as well: a number
//! counts only on a connection that the asked server itself opened after it was asked, over the
//! transport of the address in question. What it cannot know is at which address it was dialled, so a
//! server that lies can have a wrong address take the place of a right one.

use super::handler::{Handler, Order, Told};
use crate::{Multiaddr, PeerId, address::is_udp, connections::Door, nat::reachability::DialBack};
use libp2p::{
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use rand::seq::IteratorRandom;
use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A dial-back has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tested {
    pub(crate) addr: Multiaddr,
    pub(crate) ended: DialBack,
}

#[derive(Debug)]
struct Connection {
    peer: PeerId,
    inbound: bool,
    udp: bool,
    serves: bool,
    /// Grows with each connection.
    order: u64,
}

#[derive(Debug)]
struct Test {
    addr: Multiaddr,
    server: PeerId,
    on: ConnectionId,
    /// Connections from here on were opened after it was asked for.
    after: u64,
    /// By which the number came.
    came: Option<ConnectionId>,
}

/// At most the connections there are, 80 bytes each, and the tests that the caller has under way, 500
/// bytes each.
pub(crate) struct Behaviour {
    door: Door,
    limit: Duration,
    connections: HashMap<ConnectionId, Connection>,
    opened: u64,
    /// By the number.
    tests: HashMap<u64, Test>,
    /// At most three for each test.
    events: VecDeque<ToSwarm<Tested, Order>>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// A dial-back takes `limit` at most.
    pub(crate) fn new(door: Door, limit: Duration) -> Self {
        Self {
            door,
            limit,
            connections: HashMap::new(),
            opened: 0,
            tests: HashMap::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// Whether there is anybody who dials back.
    pub(crate) fn has_servers(&self) -> bool {
        self.connections.values().any(|connection| connection.serves)
    }

    /// Has `addr` dialled back, by one of `avoid` only if there is nobody else. How it ended comes as
    /// [`Tested`]; false if there is nobody to ask.
    pub(crate) fn test(&mut self, addr: Multiaddr, avoid: &[PeerId]) -> bool {
        let servers = |fresh: bool| {
            self.connections
                .iter()
                .filter(move |(_, c)| c.serves && (!fresh || !avoid.contains(&c.peer)))
                .map(|(id, c)| (*id, c.peer))
        };
        let mut rng = rand::rng();
        let chosen = servers(true).choose(&mut rng).or_else(|| servers(false).choose(&mut rng));
        let Some((on, server)) = chosen else { return false };
        let nonce = rand::random();
        // It may be connected twice already, and the dial-back is one more.
        self.door.expect(&server);
        let test = Test { addr: addr.clone(), server, on, after: self.opened, came: None };
        self.tests.insert(nonce, test);
        let order = Order::Ask { addr, nonce };
        self.notify(server, on, order);
        true
    }

    fn notify(&mut self, peer_id: PeerId, on: ConnectionId, event: Order) {
        let handler = NotifyHandler::One(on);
        self.push(ToSwarm::NotifyHandler { peer_id, handler, event });
    }

    fn push(&mut self, event: ToSwarm<Tested, Order>) {
        self.events.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// A number came on a connection.
    fn came(&mut self, peer: PeerId, on: ConnectionId, nonce: u64) {
        let (Some(test), Some(connection)) =
            (self.tests.get_mut(&nonce), self.connections.get(&on))
        else {
            return;
        };
        let proves = connection.inbound
            && connection.order >= test.after
            && test.server == peer
            && connection.udp == is_udp(&test.addr);
        if proves && test.came.is_none() {
            test.came = Some(on);
            self.notify(peer, on, Order::Accept { nonce });
        }
    }

    fn ended(&mut self, nonce: u64, reached: Option<bool>) {
        let Some(test) = self.tests.remove(&nonce) else { return };
        let ended = match (reached, test.came) {
            (Some(true), Some(_)) => DialBack::Reached(test.server),
            (Some(false), None) => DialBack::Failed(test.server),
            // It contradicts itself, or could not say.
            _ => DialBack::Unanswered,
        };
        if let Some(on) = test.came {
            // It has served its purpose, and takes a place.
            let connection = CloseConnection::One(on);
            self.push(ToSwarm::CloseConnection { peer_id: test.server, connection });
        }
        self.push(ToSwarm::GenerateEvent(Tested { addr: test.addr, ended }));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Tested;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(true, self.limit))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(false, self.limit))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) => {
                let (inbound, addr) = match opened.endpoint {
                    ConnectedPoint::Dialer { address, .. } => (false, address),
                    ConnectedPoint::Listener { local_addr, .. } => (true, local_addr),
                };
                let connection = Connection {
                    peer: opened.peer_id,
                    inbound,
                    udp: is_udp(addr),
                    serves: false,
                    order: self.opened,
                };
                self.opened += 1;
                self.connections.insert(opened.connection_id, connection);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.connections.remove(&closed.connection_id);
                let on = |test: &&Test| test.on == closed.connection_id;
                let broken = self.tests.iter().filter(|(_, test)| on(test));
                let broken: Vec<u64> = broken.map(|(nonce, _)| *nonce).collect();
                for nonce in broken {
                    self.ended(nonce, None);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        told: THandlerOutEvent<Self>,
    ) {
        match told {
            Told::Serves(serves) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.serves = serves;
                }
            }
            Told::Came { nonce } => self.came(peer, id, nonce),
            Told::Ended { nonce, reached } => {
                if self.tests.get(&nonce).is_some_and(|test| test.on == id) {
                    self.ended(nonce, reached);
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Tested, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
