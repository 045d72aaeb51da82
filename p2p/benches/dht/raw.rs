//! Peers that speak kad's protocol by hand: they place as many records as they like.

use crate::Failure;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    noise,
    request_response::{self, ProtocolSupport},
    swarm::{self, SwarmEvent, dial_opts::DialOpts},
    yamux,
};
use nsn_p2p::{Protocols, dht::Key, testnet::GENESIS};
use std::{io, time::Duration};

/// Message types of kad's protocol.
const ADD_PROVIDER: u64 = 2;
const GET_PROVIDERS: u64 = 3;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A protobuf varint.
fn varint(mut n: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = n.to_le_bytes();
        n >>= 7;
        if n == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

/// A protobuf field of bytes.
fn field(tag: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(tag << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A message of kad's protocol with its length before it.
fn message(kind: u64, key: &Key, provider: Option<(&PeerId, &Multiaddr)>, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    varint(1 << 3, &mut body);
    varint(kind, &mut body);
    field(2, key.as_bytes(), &mut body);
    if let Some((peer, address)) = provider {
        let mut entry = Vec::new();
        field(1, &peer.to_bytes(), &mut entry);
        field(2, &address.to_vec(), &mut entry);
        field(9, &entry, &mut body);
    }
    varint(body.len() as u64, out);
    out.extend_from_slice(&body);
}

/// The bytes of a stream that places records of `provider`, and in the end asks for a key, whose
/// answer says that all before was read.
fn records(keys: impl Iterator<Item = Key>, last: &Key, provider: &PeerId) -> Vec<u8> {
    let address: Multiaddr = "/memory/7".parse().unwrap_or_else(|_| Multiaddr::empty());
    let mut out = Vec::new();
    for key in keys {
        message(ADD_PROVIDER, &key, Some((provider, &address)), &mut out);
    }
    message(GET_PROVIDERS, last, None, &mut out);
    out
}

/// Writes what it is given, and reads one answer.
#[derive(Clone)]
struct Bytes;

impl request_response::Codec for Bytes {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = ();

    async fn read_request<T>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        // Whatever it is: that there is an answer is what matters.
        io.read_exact(&mut [0]).await
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
        io.flush().await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, _: &mut T, (): ()) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A peer of this secret connects to `to`, places records of its own for `keys`, and leaves. Whether
/// the node read them all.
pub(crate) async fn place(
    secret: [u8; 32],
    to: PeerId,
    at: Multiaddr,
    keys: impl Iterator<Item = Key>,
    last: Key,
) -> Result<bool, Failure> {
    let keypair = Keypair::ed25519_from_bytes(secret)?;
    let own = keypair.public().to_peer_id();
    let chain = Protocols::new(&GENESIS).chain().to_owned();
    let protocol = StreamProtocol::try_from_owned(format!("{chain}/kad/1"))?;
    let config = request_response::Config::default().with_request_timeout(PATIENCE);
    let behaviour = request_response::Behaviour::with_codec(
        Bytes,
        [(protocol, ProtocolSupport::Outbound)],
        config,
    );
    let transport = MemoryTransport::new()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let settings = swarm::Config::with_tokio_executor();
    let mut swarm = Swarm::new(transport, behaviour, own, settings);
    swarm.dial(DialOpts::peer_id(to).addresses(vec![at]).build())?;
    swarm.behaviour_mut().send_request(&to, records(keys, &last, &own));
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(request_response::Event::Message { .. }) => return Ok(true),
            SwarmEvent::Behaviour(request_response::Event::OutboundFailure { .. })
            | SwarmEvent::OutgoingConnectionError { .. } => return Ok(false),
            _ => {}
        }
    }
}
