//! A peer that nobody reaches directly: stock libp2p with its relay client, and relays that are none.

use crate::{stranger::Bytes, teller};
use futures::StreamExt;
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport},
        upgrade::Version,
    },
    dcutr, identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic, relay,
    request_response::{self, ProtocolSupport},
    swarm::{self, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts},
    yamux,
};
use nsn_p2p::{Multiaddr, PeerId, Protocols, dht::Key, testnet};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to the peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A relay holds a place for it.
    Reserved(PeerId),
    /// A relay, asked at this address, does not.
    Refused,
    /// A connection is there.
    Connected { peer: PeerId, relayed: bool },
    /// A dial failed.
    Failed,
    /// Somebody says where it is seen.
    Candidate,
    /// A record was read.
    Told,
    /// A connection is gone.
    Closed { peer: PeerId, relayed: bool },
}

/// What it is to do.
enum Order {
    Dial(DialOpts),
    Listen(Multiaddr),
    Say(PeerId, Vec<u8>),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    /// kad's protocol by hand: kad itself would dial whomever it hears of.
    records: request_response::Behaviour<Bytes>,
    punch: Toggle<dcutr::Behaviour>,
}

/// The peer, running until dropped.
pub(crate) struct Hidden {
    pub(crate) peer_id: PeerId,
    orders: mpsc::Sender<Order>,
    seen: mpsc::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hidden {
    /// In process; it listens nowhere.
    pub(crate) fn start(secret: u8) -> Self {
        let keypair = Keypair::ed25519_from_bytes([secret; 32]).unwrap();
        let memory = MemoryTransport::new()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair).unwrap())
            .multiplex(yamux::Config::default())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        Self::with(&keypair, memory, false)
    }

    /// Over QUIC on loopback, and it punches holes.
    pub(crate) fn punching(secret: u8) -> Self {
        let keypair = Keypair::ed25519_from_bytes([secret; 32]).unwrap();
        let quic = quic::tokio::Transport::new(quic::Config::new(&keypair))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        Self::with(&keypair, quic, true)
    }

    fn with(keypair: &Keypair, below: Boxed<(PeerId, StreamMuxerBox)>, punches: bool) -> Self {
        let peer_id = keypair.public().to_peer_id();
        let (circuits, relay) = relay::client::new(peer_id);
        let transport = circuits
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(keypair).unwrap())
            .multiplex(yamux::Config::default())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .or_transport(below)
            .map(|either, _| either.into_inner())
            .boxed();
        let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
        let name = StreamProtocol::try_from_owned(format!("{chain}/kad/1")).unwrap();
        let records = request_response::Behaviour::with_codec(
            Bytes,
            [(name, ProtocolSupport::Outbound)],
            request_response::Config::default().with_request_timeout(PATIENCE),
        );
        // As nodes behind NATs do: they tell where others have reached them.
        let identify =
            identify::Config::new(chain, keypair.public()).with_hide_listen_addrs(punches);
        let behaviour = Behaviour {
            relay,
            identify: identify::Behaviour::new(identify),
            records,
            punch: punches.then(|| dcutr::Behaviour::new(peer_id)).into(),
        };
        let settings = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::from_secs(300));
        let mut swarm = Swarm::new(transport, behaviour, peer_id, settings);
        let (orders, mut ordered) = mpsc::channel(16);
        let (tell, seen) = mpsc::channel(1024);
        let task = tokio::spawn(async move {
            loop {
                let happened = tokio::select! {
                    event = swarm.select_next_some() => event,
                    Some(order) = ordered.recv() => {
                        obey(&mut swarm, order);
                        continue;
                    }
                };
                if let Some(seen) = what(happened) {
                    let _ = tell.send(seen).await;
                }
            }
        });
        Self { peer_id, orders, seen, task }
    }

    /// What happens next.
    pub(crate) async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.unwrap().unwrap()
    }

    /// Waits until this happens.
    pub(crate) async fn until(&mut self, wanted: Seen) {
        while self.next().await != wanted {}
    }

    async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    pub(crate) async fn listen(&self, at: Multiaddr) {
        self.order(Order::Listen(at)).await;
    }

    pub(crate) async fn dial(&self, at: Multiaddr) {
        self.order(Order::Dial(DialOpts::unknown_peer_id().address(at).build())).await;
    }

    /// Has a node that it is connected to keep the record that it provides a key and is reached there.
    pub(crate) async fn provide(&mut self, key: Key, node: PeerId, reached: &[Multiaddr]) {
        let record = teller::record(key.as_bytes(), self.peer_id, reached);
        // The answer to a question after it says that it was read.
        let question = teller::question(key.as_bytes());
        self.order(Order::Say(node, [record, question].concat())).await;
        self.until(Seen::Told).await;
    }

    /// Gets a place at a relay.
    pub(crate) async fn reserve(&mut self, relay: &Multiaddr) {
        self.listen(relay.clone().with(Protocol::P2pCircuit)).await;
        let Some(Protocol::P2p(peer)) = relay.iter().last() else { return };
        self.until(Seen::Reserved(peer)).await;
    }

    /// Where it is reached through a relay.
    pub(crate) fn through(&self, relay: &Multiaddr) -> Multiaddr {
        relay.clone().with(Protocol::P2pCircuit).with(Protocol::P2p(self.peer_id))
    }
}

fn obey(swarm: &mut Swarm<Behaviour>, order: Order) {
    match order {
        Order::Dial(opts) => swarm.dial(opts).unwrap(),
        Order::Listen(at) => {
            swarm.listen_on(at).unwrap();
        }
        Order::Say(to, bytes) => {
            swarm.behaviour_mut().records.send_request(&to, bytes);
        }
    }
}

fn what(event: SwarmEvent<BehaviourEvent>) -> Option<Seen> {
    Some(match event {
        SwarmEvent::Behaviour(BehaviourEvent::Relay(
            relay::client::Event::ReservationReqAccepted { relay_peer_id, .. },
        )) => Seen::Reserved(relay_peer_id),
        SwarmEvent::Behaviour(BehaviourEvent::Records(request_response::Event::Message {
            ..
        })) => Seen::Told,
        SwarmEvent::ListenerClosed { .. } => Seen::Refused,
        SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
            Seen::Connected { peer: peer_id, relayed: endpoint.is_relayed() }
        }
        SwarmEvent::ConnectionClosed { peer_id, endpoint, .. } => {
            Seen::Closed { peer: peer_id, relayed: endpoint.is_relayed() }
        }
        SwarmEvent::OutgoingConnectionError { .. } => Seen::Failed,
        SwarmEvent::NewExternalAddrCandidate { .. } => Seen::Candidate,
        _ => return None,
    })
}

#[derive(NetworkBehaviour)]
struct Silence {
    identify: identify::Behaviour,
    requests: request_response::Behaviour<Bytes>,
}

/// A relay that takes all that is asked of it and never answers, and its address.
pub(crate) async fn silent_relay(secret: u8) -> (Multiaddr, JoinHandle<()>) {
    silent(secret, relay::HOP_PROTOCOL_NAME).await
}

/// A peer that takes the streams of this protocol and never answers, and its address.
pub(crate) async fn silent(secret: u8, protocol: StreamProtocol) -> (Multiaddr, JoinHandle<()>) {
    let keypair = Keypair::ed25519_from_bytes([secret; 32]).unwrap();
    let peer_id = keypair.public().to_peer_id();
    let transport = MemoryTransport::new()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
    let behaviour = Silence {
        identify: identify::Behaviour::new(identify::Config::new(chain, keypair.public())),
        // Requests end when the other side has sent all, which one who waits for an answer does not.
        requests: request_response::Behaviour::with_codec(
            Bytes,
            [(protocol, ProtocolSupport::Inbound)],
            request_response::Config::default().with_request_timeout(PATIENCE),
        ),
    };
    let settings =
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(300));
    let mut swarm = Swarm::new(transport, behaviour, peer_id, settings);
    swarm.listen_on(Multiaddr::empty().with(Protocol::Memory(0))).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.with(Protocol::P2p(peer_id));
        }
    };
    let task = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    (address, task)
}
