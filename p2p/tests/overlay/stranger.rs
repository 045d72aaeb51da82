//! A peer that speaks our protocols without our code, and says whatever a test wants.

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    gossipsub::{self, MessageAuthenticity},
    identity::Keypair,
    noise,
    request_response::{self, Message, ProtocolSupport},
    swarm::{self, NetworkBehaviour, SwarmEvent},
    yamux,
};
use nsn_p2p::{Multiaddr, PeerId, Protocols, testnet};
use std::io;
use tokio::{sync::mpsc, task::JoinHandle};

/// Requests and responses are bytes, sent as they are.
#[derive(Clone, Default)]
pub(crate) struct Bytes;

impl request_response::Codec for Bytes {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.take(1 << 20).read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T>(&mut self, p: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read_request(p, io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await?;
        io.close().await
    }

    async fn write_response<T>(
        &mut self,
        p: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write_request(p, io, bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    control: gossipsub::Behaviour,
    services: request_response::Behaviour<Bytes>,
}

enum Command {
    Publish(&'static str, Vec<u8>),
    Request(PeerId, Vec<u8>),
}

/// The stranger, running until dropped.
pub(crate) struct Stranger {
    pub(crate) peer_id: PeerId,
    pub(crate) addr: Multiaddr,
    pub(crate) keypair: Keypair,
    commands: mpsc::Sender<Command>,
    answers: mpsc::Receiver<Option<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Stranger {
    /// Listens, and answers every service request with `record`.
    pub(crate) async fn start(keypair: Keypair, record: Vec<u8>) -> Self {
        let peer_id = keypair.public().to_peer_id();
        let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
        let gossip = gossipsub::ConfigBuilder::default()
            .protocol_id_prefix(format!("{chain}/control"))
            .max_transmit_size(1 << 20)
            .flood_publish(true)
            .build()
            .unwrap();
        let mut control =
            gossipsub::Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), gossip)
                .unwrap();
        for topic in ["/nsn/tasks/1.0.0", "/nsn/bft/1.0.0"] {
            control.subscribe(&gossipsub::IdentTopic::new(topic)).unwrap();
        }
        let name = StreamProtocol::try_from_owned(format!("{chain}/services/1")).unwrap();
        let services = request_response::Behaviour::with_codec(
            Bytes,
            [(name, ProtocolSupport::Full)],
            request_response::Config::default(),
        );
        let transport = MemoryTransport::new()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let mut swarm = Swarm::new(
            transport,
            Behaviour { control, services },
            peer_id,
            swarm::Config::with_tokio_executor()
                .with_idle_connection_timeout(std::time::Duration::from_secs(60)),
        );
        swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address.with_p2p(peer_id).unwrap();
            }
        };
        let (commands, inbox) = mpsc::channel(8);
        let (outbox, answers) = mpsc::channel(64);
        let task = tokio::spawn(run(swarm, inbox, outbox, record));
        Self { peer_id, addr, keypair, commands, answers, task }
    }

    /// Publishes raw bytes on a control topic, with a signature of gossipsub's that nobody asks for.
    pub(crate) async fn publish(&self, topic: &'static str, data: Vec<u8>) {
        self.commands.send(Command::Publish(topic, data)).await.unwrap();
    }

    /// Sends raw bytes as a service request; what came back, if anything did.
    pub(crate) async fn request(&mut self, peer: PeerId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        self.commands.send(Command::Request(peer, bytes)).await.unwrap();
        self.answers.recv().await.unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut inbox: mpsc::Receiver<Command>,
    outbox: mpsc::Sender<Option<Vec<u8>>>,
    record: Vec<u8>,
) {
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Services(
                    request_response::Event::Message { message, .. },
                )) => match message {
                    Message::Request { channel, .. } => {
                        let services = &mut swarm.behaviour_mut().services;
                        let _ = services.send_response(channel, record.clone());
                    }
                    Message::Response { response, .. } => {
                        outbox.send(Some(response)).await.unwrap();
                    }
                },
                SwarmEvent::Behaviour(BehaviourEvent::Services(
                    request_response::Event::OutboundFailure { .. },
                )) => outbox.send(None).await.unwrap(),
                _ => {}
            },
            Some(command) = inbox.recv() => match command {
                Command::Publish(topic, data) => {
                    let topic = gossipsub::IdentTopic::new(topic);
                    swarm.behaviour_mut().control.publish(topic, data).unwrap();
                }
                Command::Request(peer, bytes) => {
                    swarm.behaviour_mut().services.send_request(&peer, bytes);
                }
            },
        }
    }
}
