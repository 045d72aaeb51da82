//! Shutdown is quick, whoever is connected.

use crate::bare::{Bare, until_closed};
use nsn_p2p::{
    Config, Identity,
    testnet::{self, Node},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

#[tokio::test]
async fn fifty_connections_of_which_some_never_answer_are_closed_within_two_seconds() {
    let mut config = Config {
        listen: ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
            .map(|addr| addr.parse().unwrap())
            .into(),
        ..testnet::config()
    };
    config.admission.burst = 200;
    config.admission.source_burst = 200;
    let identity = Identity::from_secret([1; 32]).unwrap();
    let node = Node::start(config, identity, testnet::GENESIS, &Arc::default()).unwrap();
    let listen = node.wait_for("both addresses", |c| c.listen.len() == 2).await.unwrap().listen;

    let (mut answering, mut silent) = (Vec::new(), Vec::new());
    for n in 0..50u8 {
        let mut client = Bare::new([100 + n; 32]);
        let (peer, muxer) = client.dial(&listen[usize::from(n) % 2]).await.unwrap();
        assert_eq!(peer, node.peer_id());
        if n < 40 {
            answering.push(tokio::spawn(until_closed(muxer)));
        } else {
            silent.push((client, muxer));
        }
    }
    node.wait_for("all of them", |c| c.connected == 50).await.unwrap();
    let begun = Instant::now();
    node.stop().await.unwrap().unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Nobody has to find out by a timeout.
    for client in answering {
        tokio::time::timeout(Duration::from_secs(2), client).await.unwrap().unwrap();
    }
}
