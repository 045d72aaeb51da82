//! A peer that writes the directory's messages by hand: records of any key, for anybody, with any
//! addresses.

use crate::{
    raw::{field, length},
    stranger::Bytes,
};
use futures::StreamExt;
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    noise,
    request_response::{self, Message, ProtocolSupport},
    swarm::{self, SwarmEvent},
    yamux,
};
use nsn_p2p::{Multiaddr, PeerId, Protocols, testnet};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinHandle};

/// kad's names for what is told and asked.
const ADD_PROVIDER: u8 = 2;
const GET_PROVIDERS: u8 = 3;

fn message(kind: u8, key: &[u8], provider: Option<(PeerId, &[Multiaddr])>) -> Vec<u8> {
    let mut body = vec![1 << 3, kind];
    field(2, key, &mut body);
    if let Some((peer, addresses)) = provider {
        let mut provider = Vec::new();
        field(1, &peer.to_bytes(), &mut provider);
        for address in addresses {
            field(2, &address.to_vec(), &mut provider);
        }
        field(9, &provider, &mut body);
    }
    let mut framed = Vec::new();
    length(body.len(), &mut framed);
    framed.extend_from_slice(&body);
    framed
}

/// Tells that a peer provides a key and is at these addresses.
pub(crate) fn record(key: &[u8], provider: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    message(ADD_PROVIDER, key, Some((provider, addresses)))
}

/// Asks who provides a key.
pub(crate) fn question(key: &[u8]) -> Vec<u8> {
    message(GET_PROVIDERS, key, None)
}

/// Whether some bytes are in others: the bytes of a PeerId or an address in an answer.
pub(crate) fn names(answer: &[u8], bytes: &[u8]) -> bool {
    answer.windows(bytes.len()).any(|window| window == bytes)
}

/// The peer, running until dropped.
pub(crate) struct Teller {
    pub(crate) peer_id: PeerId,
    requests: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Receiver<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Teller {
    /// Connects to the node at this address.
    pub(crate) async fn connect(secret: u8, node: Multiaddr) -> Self {
        let keypair = Keypair::ed25519_from_bytes([secret; 32]).unwrap();
        let peer_id = keypair.public().to_peer_id();
        let chain = Protocols::new(&testnet::GENESIS).chain().to_owned();
        let name = StreamProtocol::try_from_owned(format!("{chain}/kad/1")).unwrap();
        let behaviour = request_response::Behaviour::with_codec(
            Bytes,
            [(name, ProtocolSupport::Outbound)],
            request_response::Config::default().with_request_timeout(Duration::from_secs(30)),
        );
        let transport = MemoryTransport::new()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let settings = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::from_secs(300));
        let mut swarm = Swarm::new(transport, behaviour, peer_id, settings);
        swarm.dial(node).unwrap();
        let to = loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => break Ok(peer_id),
                SwarmEvent::OutgoingConnectionError { error, .. } => break Err(error),
                _ => {}
            }
        };
        let to = to.unwrap();
        let (requests, mut inbox) = mpsc::channel::<Vec<u8>>(8);
        let (outbox, answers) = mpsc::channel(8);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::Behaviour(request_response::Event::Message {
                            message: Message::Response { response, .. }, ..
                        }) => outbox.send(response).await.unwrap(),
                        SwarmEvent::Behaviour(request_response::Event::OutboundFailure { .. }) => {
                            outbox.send(Vec::new()).await.unwrap();
                        }
                        _ => {}
                    },
                    Some(bytes) = inbox.recv() => {
                        swarm.behaviour_mut().send_request(&to, bytes);
                    }
                }
            }
        });
        Self { peer_id, requests, answers, task }
    }

    /// Writes bytes to a stream and reads what comes back until the stream ends, or nothing if it
    /// breaks.
    pub(crate) async fn say(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.requests.send(bytes).await.unwrap();
        self.answers.recv().await.unwrap()
    }

    /// Tells all messages on one stream, and asks for a key at its end: the answer says that all were
    /// read. The answer.
    pub(crate) async fn tell(&mut self, messages: &[Vec<u8>], key: &[u8]) -> Vec<u8> {
        let answer = self.say([messages.concat(), question(key)].concat()).await;
        assert!(!answer.is_empty(), "the stream broke");
        answer
    }

    /// Tells that this peer itself provides these keys, and where it is: kad names nobody of whom it
    /// knows no address.
    pub(crate) async fn provide(&mut self, keys: impl IntoIterator<Item = [u8; 32]>) {
        let (own, at) = (self.peer_id, ["/memory/7".parse().unwrap()]);
        let records: Vec<_> = keys.into_iter().map(|key| record(&key, own, &at)).collect();
        for batch in records.chunks(100) {
            self.tell(batch, &[0; 32]).await;
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}
