//! The baseline: gossipsub alone on the same transport, with what the overlay sets for it.
//!
//! It gets what ours has (the same messages, which their authors sealed, so that it too verifies each
//! once and not each copy; message ids of 20 bytes, mesh sizes, flood publish, the same heartbeat,
//! queues and caches) and is spared what ours does besides: no scores, no validation but of the seal,
//! which it does after it has passed a message on, no directory, no identification, no counting of
//! bytes. Its messages are read where they lie.

use crate::{
    Failure,
    node::{Heard, Setup, answer, topics},
};
use futures::StreamExt;
use libp2p::{
    Transport,
    core::{muxing::StreamMuxerBox, upgrade::Version},
    gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode},
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic,
    swarm::{self, Swarm, SwarmEvent},
    tcp, yamux,
};
use nsn_p2p::{Config, Protocols, gossip::View, identity::key_of, testnet::GENESIS};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Runs the baseline until standard input ends.
pub(crate) async fn serve(setup: &Setup) -> Result<(), Failure> {
    let mut swarm = build(setup)?;
    swarm.listen_on(setup.listen.clone())?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.with(Protocol::P2p(*swarm.local_peer_id()));
        }
    };
    let (heard, connected) = (Heard::new()?, Arc::new(AtomicUsize::new(0)));
    let (to, shown) = (heard.clone(), connected.clone());
    let chain = Protocols::new(&GENESIS);
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) =
                swarm.select_next_some().await
                && let Some(payload) = sealed(&message, &chain)
            {
                to.message(payload);
            }
            shown.store(swarm.network_info().num_peers(), Relaxed);
        }
    });
    answer(&address, &heard, || connected.load(Relaxed)).await
}

fn build(setup: &Setup) -> Result<Swarm<gossipsub::Behaviour>, Failure> {
    let keypair = Keypair::ed25519_from_bytes([1; 32])?;
    let is_quic = setup.listen.iter().any(|part| part == Protocol::QuicV1);
    let transport = if is_quic {
        quic::tokio::Transport::new(quic::Config::new(&keypair))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed()
    } else {
        tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(&keypair)?)
            .multiplex(yamux::Config::default())
            .boxed()
    };
    let ours = Config::default().gossip;
    let settings = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(Protocols::new(&GENESIS).control())
        .max_transmit_size(ours.control_max_payload + 32 * 1024)
        .max_control_message_size(128 * 1024)
        .connection_handler_queue_len(ours.control_queue)
        .flood_publish(true)
        .mesh_n(ours.mesh)
        .mesh_n_low(ours.mesh_low)
        .mesh_n_high(ours.mesh_high)
        .mesh_outbound_min(2)
        .heartbeat_interval(ours.heartbeat)
        .duplicate_cache_time(ours.max_ttl + ours.max_skew)
        .publish_queue_duration(Duration::from_secs(10))
        .forward_queue_duration(Duration::from_secs(5))
        .validation_mode(ValidationMode::Permissive)
        .message_id_fn(message_id)
        .build()?;
    let peer = keypair.public().to_peer_id();
    let mut behaviour = gossipsub::Behaviour::new(MessageAuthenticity::Author(peer), settings)?;
    for topic in topics() {
        behaviour.subscribe(&IdentTopic::new(topic.name()))?;
    }
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(3600));
    Ok(Swarm::new(transport, behaviour, peer, config))
}

/// What a message carries, if its author sealed it.
fn sealed<'a>(message: &'a gossipsub::Message, chain: &Protocols) -> Option<&'a [u8]> {
    let view = View::of(&message.data).ok()?;
    let author = key_of(message.source.as_ref()?)?;
    view.is_signed_by(&author, chain, message.topic.as_str()).then_some(view.payload)
}

/// As the overlay's: the first 20 bytes of `BLAKE3(topic, author, data)`.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes());
    if let Some(source) = &message.source {
        hasher.update(&source.to_bytes());
    }
    hasher.update(&message.data);
    MessageId::new(hasher.finalize().as_bytes().first_chunk::<20>().unwrap_or(&[0; 20]))
}
