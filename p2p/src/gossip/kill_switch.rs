//! gossipsub's kill-switch: honest gossip at an honest rate can disable a connection for good.
//!
//! Twenty nodes, each connected to eight, carry one topic. Every heartbeat a node sends the peers
//! that are not in its mesh one IHAVE that lists all messages of three heartbeats. With gossipsub's
//! own limits (5,000 ids listed, 16 KiB taken) a rate of 744 messages in three heartbeats makes that
//! one too large, with ids of 20 bytes; with gossipsub's default ids of about 71 it is 224.
//!
//! The nodes speak QUIC, where the sender learns that its stream was closed and opens another, until
//! the handler is disabled at the fifth. Over TCP it is worse: Yamux does not tell a sender that what
//! it writes is dropped, so the first IHAVE too many silences that direction of the connection.

use super::{
    Channel, Config, Heard, Topic, Watched,
    params::{ControlLimits, behaviour},
};
use crate::{AddressPolicy, Identity, Metrics, Multiaddr, Protocols, testnet::GENESIS};
use futures::StreamExt;
use libp2p::{
    Swarm, Transport,
    core::muxing::StreamMuxerBox,
    gossipsub::{self, Event, MessageAcceptance},
    quic,
    swarm::{self, SwarmEvent},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

const NODES: usize = 20;
/// Each node dials so many of the next ones, so it is connected to twice as many: three or so in its
/// mesh, five to which it gossips.
const DIALS: usize = 4;
/// Longer than by default, so that fewer messages a second make an IHAVE as long.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// 1,080 messages in three heartbeats: 23,760 bytes of ids, and too many still when a busy machine
/// carries two thirds of them.
const RATE: usize = 90;
const BATCH: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(140);

#[derive(Debug, Default)]
struct Seen {
    subscriptions: usize,
    deliveries: usize,
    disabled: usize,
}

struct Network {
    seen: watch::Receiver<Seen>,
    publish: mpsc::Sender<Vec<u8>>,
    published: usize,
    nodes: JoinSet<()>,
}

fn swarm(n: usize, limits: ControlLimits) -> Swarm<Watched> {
    let config = Config {
        heartbeat: HEARTBEAT,
        mesh: 3,
        mesh_low: 2,
        mesh_high: 4,
        // A busy machine drops nothing.
        control_queue: 5_000,
        ..Config::default()
    };
    let identity = Identity::from_secret([u8::try_from(n + 1).unwrap(); 32]).unwrap();
    let behaviour = behaviour(
        Channel::Control,
        &config,
        AddressPolicy::Any,
        &Protocols::new(&GENESIS),
        &identity,
        &Metrics::unregistered().unwrap(),
        limits,
    );
    let transport = quic::tokio::Transport::new(quic::Config::new(identity.keypair()))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    Swarm::new(transport, behaviour.unwrap(), identity.peer_id(), settings)
}

async fn node(
    mut swarm: Swarm<Watched>,
    mut publish: mpsc::Receiver<Vec<u8>>,
    seen: Arc<watch::Sender<Seen>>,
) {
    loop {
        let event = tokio::select! {
            Some(data) = publish.recv() => {
                swarm.behaviour_mut().inner_mut().publish(Topic::Tasks.hash(), data).unwrap();
                continue;
            }
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::Behaviour(Heard::Event(Event::Message {
                message_id,
                propagation_source,
                ..
            })) => {
                let inner = swarm.behaviour_mut().inner_mut();
                let accept = MessageAcceptance::Accept;
                inner.report_message_validation_result(&message_id, &propagation_source, accept);
                seen.send_modify(|seen| seen.deliveries += 1);
            }
            SwarmEvent::Behaviour(Heard::Event(Event::Subscribed { topic, .. }))
                if topic == Topic::Tasks.hash() =>
            {
                seen.send_modify(|seen| seen.subscriptions += 1);
            }
            SwarmEvent::Behaviour(Heard::Disabled(_)) => {
                seen.send_modify(|seen| seen.disabled += 1);
            }
            _ => {}
        }
    }
}

impl Network {
    async fn start(limits: ControlLimits) -> Self {
        let mut swarms: Vec<_> = (0..NODES).map(|n| swarm(n, limits)).collect();
        let mut addrs: Vec<Multiaddr> = Vec::new();
        for swarm in &mut swarms {
            swarm.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
            let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await else {
                panic!("no address");
            };
            addrs.push(address);
        }
        let (sender, mut seen) = watch::channel(Seen::default());
        let sender = Arc::new(sender);
        let (mut nodes, mut publishers) = (JoinSet::new(), Vec::new());
        for (n, mut swarm) in swarms.into_iter().enumerate() {
            for next in 1..=DIALS {
                swarm.dial(addrs[(n + next) % NODES].clone()).unwrap();
            }
            let (publish, inbox) = mpsc::channel(64);
            publishers.push(publish);
            nodes.spawn(node(swarm, inbox, sender.clone()));
        }
        let all = |seen: &Seen| seen.subscriptions == NODES * 2 * DIALS;
        timeout(PATIENCE, seen.wait_for(all)).await.unwrap().unwrap();
        Self { seen, publish: publishers.swap_remove(0), published: 0, nodes }
    }

    /// Publishes at the rate until `enough`.
    async fn publish_until(&mut self, mut enough: impl FnMut(&Seen, usize) -> bool) {
        let mut ticks = interval(BATCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let begun = Instant::now();
        while !enough(&self.seen.borrow(), self.published) && begun.elapsed() < PATIENCE {
            ticks.tick().await;
            for _ in 0..RATE * usize::try_from(BATCH.as_millis()).unwrap() / 1000 {
                self.publish.send(self.published.to_be_bytes().to_vec()).await.unwrap();
                self.published += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossipsubs_own_limits_disable_honest_handlers_and_ours_never_do() {
    let defaults = gossipsub::Config::default();
    let theirs = ControlLimits {
        ids: defaults.max_control_messages_sent(),
        bytes: defaults.max_control_message_size(),
    };
    let mut network = Network::start(theirs).await;
    network.publish_until(|seen, _| seen.disabled > 0).await;
    assert!(network.seen.borrow().disabled > 0, "gossipsub has mended it, the limits may go");
    let published = network.published;
    network.nodes.shutdown().await;

    // More messages, at the same rate, in the same network.
    let mut network = Network::start(ControlLimits::OURS).await;
    network.publish_until(|_, n| n > published).await;
    // On a machine that is busy otherwise gossipsub drops what has waited for a second; what matters
    // here is that the network carries them.
    let wanted = network.published * (NODES - 1) * 9 / 10;
    let most = |seen: &Seen| seen.deliveries >= wanted;
    let arrived = timeout(PATIENCE, network.seen.wait_for(most)).await.is_ok();
    assert!(arrived, "messages reach the nodes: {:?}", network.seen.borrow());
    assert_eq!(network.seen.borrow().disabled, 0);
    network.nodes.shutdown().await;
}
