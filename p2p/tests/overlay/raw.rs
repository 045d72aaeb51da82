//! A peer that writes gossip by hand: any bytes, under any name, sealed or not.

use crate::stranger::Bytes;
use futures::StreamExt;
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    noise,
    request_response::{self, ProtocolSupport},
    swarm::{self, SwarmEvent},
    yamux,
};
use nsn_p2p::{Multiaddr, PeerId, Protocols, gossip::Envelope, testnet};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinHandle};

/// One gossip message in the making: protobuf fields of gossipsub's `Message`.
#[derive(Clone)]
pub(crate) struct Forged {
    pub(crate) author: Keypair,
    pub(crate) topic: &'static str,
    /// The sequence number's bytes, of which there should be eight.
    pub(crate) number: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// A protobuf field of bytes.
pub(crate) fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// A protobuf varint.
pub(crate) fn length(mut len: usize, out: &mut Vec<u8>) {
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

impl Forged {
    /// As its author would send it, with the number.
    pub(crate) fn new(
        author: &Keypair,
        topic: &'static str,
        number: u64,
        envelope: &Envelope,
    ) -> Self {
        let chain = Protocols::new(&testnet::GENESIS);
        let data = envelope.sealed(&chain, topic, author).unwrap();
        Self { author: author.clone(), topic, number: number.to_be_bytes().to_vec(), data }
    }

    /// The bytes of an RPC that carries it.
    pub(crate) fn rpc(&self) -> Vec<u8> {
        let mut message = Vec::new();
        field(1, &self.author.public().to_peer_id().to_bytes(), &mut message);
        field(2, &self.data, &mut message);
        field(3, &self.number, &mut message);
        field(4, self.topic.as_bytes(), &mut message);
        let mut body = Vec::new();
        field(2, &message, &mut body);
        let mut rpc = Vec::new();
        length(body.len(), &mut rpc);
        rpc.extend_from_slice(&body);
        rpc
    }
}

/// The peer, running until dropped.
pub(crate) struct Raw {
    pub(crate) peer_id: PeerId,
    pub(crate) addr: Multiaddr,
    streams: mpsc::Sender<(PeerId, Vec<u8>)>,
    task: JoinHandle<()>,
}

impl Raw {
    pub(crate) async fn start(keypair: &Keypair) -> Self {
        let peer_id = keypair.public().to_peer_id();
        let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
        let name = StreamProtocol::try_from_owned(format!("{chain}/control/1.1.0")).unwrap();
        // What comes in is gossip that nobody answers; what goes out is what a test wrote.
        let patience = Duration::from_secs(300);
        let behaviour = request_response::Behaviour::with_codec(
            Bytes,
            [(name, ProtocolSupport::Full)],
            request_response::Config::default().with_request_timeout(patience),
        );
        let transport = MemoryTransport::new()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(patience);
        let mut swarm = Swarm::new(transport, behaviour, peer_id, settings);
        swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address.with_p2p(peer_id).unwrap();
            }
        };
        let (streams, mut inbox) = mpsc::channel::<(PeerId, Vec<u8>)>(8);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = swarm.select_next_some() => {}
                    Some((peer, bytes)) = inbox.recv() => {
                        swarm.behaviour_mut().send_request(&peer, bytes);
                    }
                }
            }
        });
        Self { peer_id, addr, streams, task }
    }

    /// Opens a gossip stream to the peer and writes the bytes.
    pub(crate) async fn write(&self, peer: PeerId, bytes: Vec<u8>) {
        self.streams.send((peer, bytes)).await.unwrap();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}
