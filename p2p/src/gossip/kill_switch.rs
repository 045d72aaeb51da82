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
//!
//! What counts is messages in three heartbeats, not in a second. So where the machine is too busy for
//! the rate, the heartbeat is made longer, and the publisher never runs far ahead of the slowest node.

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
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};

const NODES: usize = 20;
/// Each node dials so many of the next ones, so it is connected to twice as many: three or so in its
/// mesh, five to which it gossips.
const DIALS: usize = 4;
/// Longer than by default, so that fewer messages a second make an IHAVE as long: 90, or 27.
const HEARTBEATS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(10)];
/// What an IHAVE covers.
const LISTED: u32 = 3;
/// 810 messages in three heartbeats: 17,820 bytes of ids.
const BATCHES: u32 = 30;
const BATCH: usize = 9;
/// Fewer, at the slowest node, are not the rate that this is about; 744 and some for what is listed at
/// a bad moment.
const ENOUGH: usize = 780;
/// Messages that the slowest node may lack before the publisher waits for it: a second's at the usual
/// rate.
const AHEAD: usize = 90;
/// Three heartbeats to list too much, five in which a stream is closed, and four for good measure.
const TIMES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Seen {
    subscriptions: usize,
    /// By node; the publisher has its own.
    deliveries: [usize; NODES],
    disabled: usize,
}

impl Seen {
    fn slowest(&self) -> usize {
        self.deliveries[1..].iter().copied().min().unwrap()
    }
}

/// What came of publishing.
#[derive(Debug, PartialEq)]
enum End {
    /// A handler was disabled.
    Disabled,
    /// None was.
    Held,
    /// The machine does not carry the rate.
    TooSlow,
}

struct Network {
    seen: watch::Receiver<Seen>,
    publish: mpsc::Sender<Vec<u8>>,
    published: usize,
    heartbeat: Duration,
    nodes: JoinSet<()>,
}

fn swarm(n: usize, limits: ControlLimits, heartbeat: Duration) -> Swarm<Watched> {
    let config = Config {
        heartbeat,
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
    n: usize,
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
                seen.send_modify(|seen| seen.deliveries[n] += 1);
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
    async fn start(limits: ControlLimits, heartbeat: Duration) -> Self {
        let mut swarms: Vec<_> = (0..NODES).map(|n| swarm(n, limits, heartbeat)).collect();
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
            nodes.spawn(node(n, swarm, inbox, sender.clone()));
        }
        let all = |seen: &Seen| seen.subscriptions == NODES * 2 * DIALS;
        timeout(PATIENCE, seen.wait_for(all)).await.unwrap().unwrap();
        Self { seen, publish: publishers.swap_remove(0), published: 0, heartbeat, nodes }
    }

    /// Publishes at the rate until a handler is disabled, for so many times what an IHAVE covers.
    async fn publish(&mut self, times: usize) -> End {
        let mut ticks = interval(self.heartbeat / BATCHES);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..times {
            let before = self.seen.borrow().slowest();
            let until = Instant::now() + self.heartbeat * LISTED;
            while Instant::now() < until {
                if self.seen.borrow().disabled > 0 {
                    return End::Disabled;
                }
                ticks.tick().await;
                let (published, seen) = (self.published, &mut self.seen);
                let near = |seen: &Seen| seen.slowest() + AHEAD >= published || seen.disabled > 0;
                if timeout_at(until, seen.wait_for(near)).await.is_err() {
                    break;
                }
                for _ in 0..BATCH {
                    self.publish.send(self.published.to_be_bytes().to_vec()).await.unwrap();
                    self.published += 1;
                }
            }
            if self.seen.borrow().slowest() - before < ENOUGH {
                return End::TooSlow;
            }
        }
        End::Held
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossipsubs_own_limits_disable_honest_handlers_and_ours_never_do() {
    let defaults = gossipsub::Config::default();
    let theirs = ControlLimits {
        ids: defaults.max_control_messages_sent(),
        bytes: defaults.max_control_message_size(),
    };
    for heartbeat in HEARTBEATS {
        let mut network = Network::start(theirs, heartbeat).await;
        let end = network.publish(TIMES).await;
        let published = network.published;
        network.nodes.shutdown().await;
        assert_ne!(end, End::Held, "gossipsub has mended it, the limits may go");
        if end == End::TooSlow {
            continue;
        }
        // As many messages or more, at the same rate, in the same network.
        let mut network = Network::start(ControlLimits::OURS, heartbeat).await;
        let end = network.publish(published.div_ceil(ENOUGH)).await;
        assert_ne!(end, End::Disabled);
        if end == End::TooSlow {
            continue;
        }
        let wanted = network.published;
        let all = |seen: &Seen| seen.slowest() >= wanted;
        let arrived = timeout(PATIENCE, network.seen.wait_for(all)).await.is_ok();
        assert!(arrived, "every message reaches every node: {:?}", network.seen.borrow());
        assert_eq!(network.seen.borrow().disabled, 0);
        network.nodes.shutdown().await;
        return;
    }
    panic!("the machine is too busy for any of the rates");
}
