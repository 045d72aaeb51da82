//! Messages between honest nodes.

use nsn_p2p::{
    Standing,
    gossip::{Announcement, PublishError, Topic},
    testnet::Testnet,
};

#[tokio::test]
async fn nodes_that_know_one_bootnode_find_each_other_and_hear_every_topic() {
    let net = Testnet::start(5, |_| {}).await.unwrap();
    net.reputation.set_validator(net.nodes[2].identity.key(), true);
    for (n, topic) in Topic::ALL.into_iter().enumerate() {
        // Votes come from the validator; the others from each node in turn.
        let speaker = if topic == Topic::Bft { 2 } else { n % net.nodes.len() };
        let listeners: Vec<_> =
            net.nodes.iter().map(|node| node.overlay.gossip.subscribe(topic).unwrap()).collect();
        let payload = format!("on {topic}").into_bytes();
        net.nodes[speaker].overlay.gossip.publish(topic, payload.clone()).await.unwrap();
        for (at, mut listener) in listeners.into_iter().enumerate() {
            if at == speaker {
                continue;
            }
            let message = listener.recv().await.unwrap();
            assert_eq!(message.payload, payload);
            assert_eq!(message.topic, topic);
            assert_eq!(message.author, net.nodes[speaker].peer_id());
            assert_eq!(message.author_key, net.nodes[speaker].identity.key());
        }
        let sent = format!("nsn_p2p_gossipsub_messages_sent_total{{topic=\"{topic}\"}}");
        assert!(net.nodes[speaker].metric(&sent) >= 1.0);
    }
    net.stop().await.unwrap();
}

#[tokio::test]
async fn an_announcement_and_a_chunk_of_many_megabytes_pass_on_video() {
    let net = Testnet::start(3, |_| {}).await.unwrap();
    // An unbound author would have used up its allowance.
    net.reputation.set(net.nodes[1].identity.key(), Some(Standing::NEUTRAL));
    let mut heard = net.nodes[2].overlay.gossip.subscribe(Topic::Video).unwrap();
    let announcement = Announcement::new([7; 32], 1 << 30, 1024);
    let gossip = &net.nodes[1].overlay.gossip;
    gossip.publish(Topic::Video, announcement.to_bytes()).await.unwrap();
    let message = heard.recv().await.unwrap();
    assert_eq!(Announcement::from_bytes(&message.payload), Ok(announcement));

    let chunk: Vec<u8> = (0..16u32 << 20).map(|n| (n % 251) as u8).collect();
    gossip.publish(Topic::Video, chunk.clone()).await.unwrap();
    assert!(heard.recv().await.unwrap().payload == chunk);
    // The stream survived it.
    gossip.publish(Topic::Video, b"after".to_vec()).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().payload, b"after"[..]);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn what_may_not_be_published_is_refused_here() {
    let net = Testnet::start(2, |_| {}).await.unwrap();
    let gossip = &net.nodes[0].overlay.gossip;
    assert_eq!(
        gossip.publish(Topic::Bft, vec![1]).await,
        Err(PublishError::NotValidator(Topic::Bft))
    );
    let size = (1 << 20) + 1;
    assert_eq!(
        gossip.publish(Topic::Tasks, vec![0; size]).await,
        Err(PublishError::TooLarge { topic: Topic::Tasks, size, limit: 1 << 20 })
    );
    let mut heard = net.nodes[1].overlay.gossip.subscribe(Topic::Tasks).unwrap();
    gossip.publish(Topic::Tasks, vec![0; 1 << 20]).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().payload.len(), 1 << 20, "what just fits passes");
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_lone_node_has_nobody_to_tell() {
    let net = Testnet::start(1, |_| {}).await.unwrap();
    assert_eq!(
        net.nodes[0].overlay.gossip.publish(Topic::Video, vec![1]).await,
        Err(PublishError::NoPeers(Topic::Video))
    );
    net.stop().await.unwrap();
}
