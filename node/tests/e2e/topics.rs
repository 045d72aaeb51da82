//! Topics for programs beside the node: published on one node, heard on another.

use jsonrpsee::{
    core::client::{Subscription, SubscriptionClientT},
    rpc_params,
    ws_client::{WsClient, WsClientBuilder},
};
use nsn_node::rpc::p2p::TopicMessage;

use crate::{
    harness::{Node, PATIENCE},
    main_job::{origin, relay_setup},
};

async fn subscribe(client: &WsClient, topic: &str) -> Subscription<TopicMessage> {
    let params = rpc_params![topic];
    client.subscribe("p2p_v1_subscribe", params, "p2p_v1_unsubscribe").await.unwrap()
}

async fn client(node: &Node) -> WsClient {
    WsClientBuilder::default().build(node.rpc_url.replace("http://", "ws://")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_publishes_a_program_beside_another_hears() {
    let dir = tempfile::tempdir().unwrap();
    let speaker = origin(dir.path());
    let listener = Node::start(&relay_setup(dir.path(), &speaker, &[]).await);
    let program = client(&listener).await;
    let mut tasks = subscribe(&program, "tasks").await;
    let mut recipes = subscribe(&program, "/nsn/recipes/1.0.0").await;

    let heard = |status: &serde_json::Value| {
        let topics = status["topics"].as_array().unwrap();
        topics.iter().all(|topic| topic["subscribers"] == 1)
    };
    speaker.call_until("p2p_v1_status", rpc_params![], heard).await;
    for (topic, payload) in [("tasks", "0x0102"), ("recipes", "0x"), ("tasks", "0xff")] {
        speaker.call("p2p_v1_publish", rpc_params![topic, payload]).await;
    }

    let speaker_id = speaker.call("p2p_v1_status", rpc_params![]).await["peer_id"].clone();
    let next = async |heard: &mut Subscription<TopicMessage>| {
        let message = tokio::time::timeout(PATIENCE, heard.next()).await.expect("heard in time");
        let message = message.unwrap().unwrap();
        assert_eq!(message.author, speaker_id.as_str().unwrap());
        assert_eq!((message.author_key.len(), message.missed), (64, 0));
        (message.topic, message.payload.0)
    };
    let two = [next(&mut tasks).await, next(&mut tasks).await];
    assert!(two.contains(&("tasks".into(), vec![1, 2])), "{two:?}");
    assert!(two.contains(&("tasks".into(), vec![0xff])), "{two:?}");
    assert_eq!(next(&mut recipes).await, ("recipes".into(), vec![]));

    tasks.unsubscribe().await.unwrap();
    let unknown = listener.try_call("p2p_v1_publish", rpc_params!["weather", "0x00"]).await;
    let text = unknown.unwrap_err().to_string();
    assert!(text.contains("no gossip topic is called"), "{text}");
    let topic: Result<Subscription<TopicMessage>, _> =
        program.subscribe("p2p_v1_subscribe", rpc_params!["weather"], "p2p_v1_unsubscribe").await;
    assert!(topic.err().unwrap().to_string().contains("there are recipes, video"));

    assert!(speaker.stop().1.success());
    assert!(listener.stop().1.success());
    // The overlay has ended, and with it what was heard of it.
    while let Ok(Some(_)) = tokio::time::timeout(PATIENCE, recipes.next()).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sized_message_is_too_large_by_one_byte() {
    let dir = tempfile::tempdir().unwrap();
    let node = origin(dir.path());
    node.call_until("p2p_v1_status", rpc_params![], |_| true).await;
    let payload = format!("0x{}", "00".repeat((1 << 20) + 1));
    let error = node.try_call("p2p_v1_publish", rpc_params!["tasks", &payload]).await.unwrap_err();
    assert!(error.to_string().contains("too large for tasks"), "{error}");
    let error = node.try_call("p2p_v1_publish", rpc_params!["tasks", "0x00"]).await.unwrap_err();
    assert!(error.to_string().contains("no connected peer listens to tasks"), "{error}");
}
