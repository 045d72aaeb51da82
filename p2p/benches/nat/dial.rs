//! `nat.dial100_s`: a hundred peers dialled at the same time, thirty of which never answer.

use crate::{Failure, Outcome, Outcomes, block_on};
use futures::future::join_all;
use nsn_p2p::{
    Config, Multiaddr,
    testnet::{GENESIS, Node, StaticReputation, config, numbered},
};
use serde_json::json;
use std::{
    io::{Write as _, stderr},
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

/// Peers that answer, and those that do not.
const GOOD: u32 = 70;
const BLACK_HOLES: u32 = 30;

/// Longest that the good ones may take, in seconds, by issue; and longest for any attempt.
const TARGET_S: f64 = 30.0;
const LONGEST: Duration = Duration::from_secs(120);

pub(crate) fn run(_: bool) -> Outcomes {
    block_on(dial())
}

fn settings() -> Result<Config, Failure> {
    let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse()?];
    let mut config = Config { listen, tick: Config::default().tick, ..config() };
    // As many as are dialled at the same time, and room for all.
    config.peers.max_connecting = 100;
    // There is nothing to gossip here.
    config.gossip.heartbeat = Duration::from_secs(30);
    Ok(config)
}

async fn dial() -> Outcomes {
    let chain = Arc::new(StaticReputation::default());
    writeln!(stderr(), "  {GOOD} peers that answer and {BLACK_HOLES} that do not ...")?;
    let mut peers = Vec::new();
    let mut addresses = Vec::new();
    for n in 1..=GOOD {
        let node = Node::start(settings()?, numbered(n)?, GENESIS, &chain)?;
        addresses.push((true, node.address().await?));
        peers.push(node);
    }
    let mut holes = Vec::new();
    for n in 1..=BLACK_HOLES {
        // It is bound, so that the kernel does not say that nobody is there; and nobody reads.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (port, peer) = (socket.local_addr()?.port(), numbered(GOOD + n)?.peer_id());
        addresses.push((false, format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{peer}").parse()?));
        holes.push(socket);
    }
    let dialler = Node::start(settings()?, numbered(0)?, GENESIS, &chain)?;
    dialler.address().await?;
    let began = Instant::now();
    let attempt = |(good, address): (bool, Multiaddr)| {
        let connect = dialler.overlay.peers.connect(address);
        async move { (good, connect.await.is_ok(), began.elapsed()) }
    };
    let attempts = join_all(addresses.into_iter().map(attempt)).await;
    let breakers = dialler.overlay.peers.breakers().await?;
    let longest = |good: bool| {
        let took = attempts.iter().filter(|attempt| attempt.0 == good).map(|attempt| attempt.2);
        took.max().unwrap_or_default()
    };
    let connected = attempts.iter().filter(|(good, connected, _)| *good && *connected).count();
    let mistaken = attempts.iter().filter(|(good, connected, _)| !good && *connected).count();
    for node in peers.into_iter().chain([dialler]) {
        node.stop().await??;
    }
    drop(holes);
    if connected != usize::try_from(GOOD)? || mistaken != 0 {
        let said = format!("{connected} of {GOOD} were reached, and {mistaken} that are not there");
        return Err(said.into());
    }
    Ok(vec![Outcome {
        bench: "nat.dial100_s",
        value: longest(true).as_secs_f64(),
        unit: "s",
        better: "lower",
        target: Some(TARGET_S),
        detail: json!({
            "how": "one node calls connect for 100 peers over QUIC on loopback at once",
            "reached": connected,
            "black_holes_given_up_after_s": longest(false).as_secs_f64(),
            "no_attempt_longer_than_120_s": longest(true).max(longest(false)) <= LONGEST,
            "breakers_shown": breakers.len(),
        }),
    }])
}
