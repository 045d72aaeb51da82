//! A peer that says it serves the directory, and answers by hand: any bytes, or never.

use crate::raw::{field, length};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identify,
    identity::Keypair,
    noise,
    request_response::{self, Message, ProtocolSupport},
    swarm::{self, NetworkBehaviour, SwarmEvent},
    yamux,
};
use nsn_p2p::{Multiaddr, PeerId, Protocols, testnet};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Kinds of messages in kad's protocol.
pub(crate) const GET_VALUE: u8 = 1;
pub(crate) const ADD_PROVIDER: u8 = 2;
pub(crate) const GET_PROVIDERS: u8 = 3;
pub(crate) const FIND_NODE: u8 = 4;

/// A peer as an answer names it.
pub(crate) fn named(id: &[u8], addresses: &[Multiaddr]) -> Vec<u8> {
    let mut peer = Vec::new();
    field(1, id, &mut peer);
    for address in addresses {
        field(2, &address.to_vec(), &mut peer);
    }
    peer
}

/// An answer that names these peers as nearer ones, with its length before it.
pub(crate) fn answer(kind: u8, nearer: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![0x08, kind];
    for peer in nearer {
        field(8, peer, &mut message);
    }
    let mut framed = Vec::new();
    length(message.len(), &mut framed);
    framed.extend_from_slice(&message);
    framed
}

/// Reads one message that comes after its length; answers with bytes as they are.
#[derive(Clone, Default)]
struct Framed;

impl request_response::Codec for Framed {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        // Records have no answer; what comes after them does.
        loop {
            let (mut length, mut bits) = (0_usize, 0);
            loop {
                let mut byte = [0];
                io.read_exact(&mut byte).await?;
                length |= usize::from(byte[0] & 0x7f) << bits;
                bits += 7;
                if byte[0] & 0x80 == 0 {
                    break;
                }
            }
            let mut message = vec![0; length];
            io.read_exact(&mut message).await?;
            if message[..2] != [0x08, ADD_PROVIDER] {
                return Ok(message);
            }
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        _: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn write_response<T>(
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
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    kad: request_response::Behaviour<Framed>,
}

/// The liar, running until dropped.
pub(crate) struct Liar {
    pub(crate) peer_id: PeerId,
    pub(crate) addr: Multiaddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Liar {
    /// Answers each question with what `says` makes of it; never, if that is none.
    pub(crate) async fn start(
        n: u8,
        says: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let keypair = Keypair::ed25519_from_bytes([n; 32]).unwrap();
        let peer_id = keypair.public().to_peer_id();
        let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
        let name = StreamProtocol::try_from_owned(format!("{chain}/kad/1")).unwrap();
        let kad = request_response::Behaviour::with_codec(
            Framed,
            [(name, ProtocolSupport::Inbound)],
            request_response::Config::default().with_request_timeout(Duration::from_secs(60)),
        );
        let identify = identify::Behaviour::new(identify::Config::new(chain, keypair.public()));
        let transport = MemoryTransport::new()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let settings = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::from_secs(60));
        let mut swarm = Swarm::new(transport, Behaviour { identify, kad }, peer_id, settings);
        swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address.with_p2p(peer_id).unwrap();
            }
        };
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let task = tokio::spawn(async move {
            // Questions that never get an answer; their streams stay open.
            let mut unanswered = Vec::new();
            loop {
                let event = swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(BehaviourEvent::Kad(
                    request_response::Event::Message {
                        message: Message::Request { request, channel, .. },
                        ..
                    },
                )) = event
                {
                    counter.fetch_add(1, Ordering::Relaxed);
                    match says(&request) {
                        Some(bytes) => {
                            let _ = swarm.behaviour_mut().kad.send_response(channel, bytes);
                        }
                        None => unanswered.push(channel),
                    }
                }
            }
        });
        Self { peer_id, addr, asked, task }
    }

    /// How many questions came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}
