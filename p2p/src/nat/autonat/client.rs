//! Has addresses of this node dialled back.
//!
//! libp2p's own client tests each candidate once, never again, and forgets none; so this one is
//! ours, on the same protocol, and does what it is told when it is told. It is stricter as well: a
//! number counts only on a connection that the asked server itself opened after it was asked, over
//! the transport of the address in question. What it cannot know is at which address it was
//! dialled, so a server that lies can have a wrong address take the place of a right one.

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

/// At most the connections there are, 80 bytes each, and the tests that the caller has under way,
/// 500 bytes each.
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

    /// Has `addr` dialled back, by one of `avoid` only if there is nobody else. How it ended comes
    /// as [`Tested`]; false if there is nobody to ask.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metrics, identity::peer_id_of, testnet};
    use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
    use tokio::sync::watch;

    const LIMIT: Duration = Duration::from_secs(15);

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn udp() -> Multiaddr {
        "/ip4/8.8.8.8/udp/9000/quic-v1".parse().unwrap()
    }

    fn tcp() -> Multiaddr {
        "/ip4/8.8.8.8/tcp/9000".parse().unwrap()
    }

    fn dialled(address: Multiaddr) -> ConnectedPoint {
        let (role_override, port_use) = (Endpoint::Dialer, PortUse::Reuse);
        ConnectedPoint::Dialer { address, role_override, port_use }
    }

    fn accepted(local_addr: Multiaddr) -> ConnectedPoint {
        ConnectedPoint::Listener { send_back_addr: local_addr.clone(), local_addr }
    }

    struct Scene {
        client: Behaviour,
    }

    impl Scene {
        fn new() -> Self {
            let (keep, _) = watch::channel(Vec::new());
            let metrics = Metrics::unregistered().unwrap();
            let door = Door::new(&testnet::config(), peer(0), vec![], keep, metrics);
            Self { client: Behaviour::new(door, LIMIT) }
        }

        fn opened(&mut self, n: usize, peer_id: PeerId, endpoint: &ConnectedPoint) {
            self.client.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id: id(n),
                endpoint,
                failed_addresses: &[],
                other_established: 0,
            }));
        }

        fn closed(&mut self, n: usize, peer_id: PeerId, endpoint: &ConnectedPoint) {
            self.client.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id: id(n),
                endpoint,
                cause: None,
                remaining_established: 0,
            }));
        }

        fn told(&mut self, n: usize, peer: PeerId, told: Told) {
            self.client.on_connection_handler_event(peer, id(n), told);
        }

        /// A server on connection 1, which has been asked to dial `addr` back with this number.
        fn asked(&mut self, addr: Multiaddr) -> u64 {
            self.opened(1, peer(1), &dialled(tcp()));
            assert!(!self.client.test(addr.clone(), &[]), "nobody serves");
            self.told(1, peer(1), Told::Serves(true));
            assert!(self.client.test(addr, &[]));
            *self.client.tests.keys().next().unwrap()
        }

        /// How the only test ended, and the connections that are closed for it.
        fn ended(&mut self) -> (Option<DialBack>, Vec<ConnectionId>) {
            let (mut ended, mut closed) = (None, Vec::new());
            for event in self.client.events.drain(..) {
                match event {
                    ToSwarm::GenerateEvent(tested) => ended = Some(tested.ended),
                    ToSwarm::CloseConnection { connection: CloseConnection::One(id), .. } => {
                        closed.push(id);
                    }
                    _ => {}
                }
            }
            (ended, closed)
        }
    }

    #[test]
    fn a_number_that_the_asked_server_brings_by_a_new_connection_proves_the_address() {
        let mut scene = Scene::new();
        let nonce = scene.asked(udp());
        scene.opened(2, peer(1), &accepted(udp()));
        scene.told(2, peer(1), Told::Came { nonce });
        scene.told(1, peer(1), Told::Ended { nonce, reached: Some(true) });
        assert_eq!(scene.ended(), (Some(DialBack::Reached(peer(1))), vec![id(2)]));
    }

    #[test]
    fn a_number_that_comes_otherwise_proves_nothing() {
        // By another peer, over another transport, on a connection that this node opened, or with
        // another number.
        for (who, endpoint, off) in [
            (peer(2), accepted(udp()), 0),
            (peer(1), accepted(tcp()), 0),
            (peer(1), dialled(udp()), 0),
            (peer(1), accepted(udp()), 1),
        ] {
            let mut scene = Scene::new();
            let nonce = scene.asked(udp());
            scene.opened(2, who, &endpoint);
            scene.told(2, who, Told::Came { nonce: nonce ^ off });
            scene.told(1, peer(1), Told::Ended { nonce, reached: Some(true) });
            assert_eq!(scene.ended(), (Some(DialBack::Unanswered), vec![]), "{endpoint:?}");
        }
        // On a connection that was there before.
        let mut scene = Scene::new();
        scene.opened(2, peer(1), &accepted(udp()));
        let nonce = scene.asked(udp());
        scene.told(2, peer(1), Told::Came { nonce });
        scene.told(1, peer(1), Told::Ended { nonce, reached: Some(true) });
        assert_eq!(scene.ended().0, Some(DialBack::Unanswered));
    }

    #[test]
    fn what_a_server_says_counts_only_if_it_does_not_contradict_itself() {
        let mut scene = Scene::new();
        let nonce = scene.asked(udp());
        scene.told(1, peer(1), Told::Ended { nonce, reached: Some(false) });
        assert_eq!(scene.ended().0, Some(DialBack::Failed(peer(1))));

        let mut scene = Scene::new();
        let nonce = scene.asked(udp());
        scene.opened(2, peer(1), &accepted(udp()));
        scene.told(2, peer(1), Told::Came { nonce });
        scene.told(1, peer(1), Told::Ended { nonce, reached: Some(false) });
        assert_eq!(scene.ended().0, Some(DialBack::Unanswered), "it was there");

        let mut scene = Scene::new();
        let nonce = scene.asked(udp());
        scene.opened(3, peer(3), &dialled(tcp()));
        scene.told(3, peer(3), Told::Ended { nonce, reached: Some(false) });
        assert_eq!(scene.ended().0, None, "another was asked");
    }

    #[test]
    fn a_server_that_leaves_has_not_answered() {
        let mut scene = Scene::new();
        scene.asked(udp());
        scene.closed(1, peer(1), &dialled(tcp()));
        assert_eq!(scene.ended().0, Some(DialBack::Unanswered));
        assert!(!scene.client.has_servers() && scene.client.tests.is_empty());
    }

    #[test]
    fn whoever_failed_is_asked_again_only_if_there_is_nobody_else() {
        let mut scene = Scene::new();
        scene.asked(udp());
        scene.client.tests.clear();
        assert!(scene.client.test(udp(), &[peer(1)]));
        scene.client.tests.clear();
        scene.opened(2, peer(2), &dialled(tcp()));
        scene.told(2, peer(2), Told::Serves(true));
        for _ in 0..20 {
            assert!(scene.client.test(udp(), &[peer(1)]));
        }
        assert!(scene.client.tests.values().all(|test| test.server == peer(2)));
    }
}
