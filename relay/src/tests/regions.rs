//! Which region a relay finds itself in.

use super::world::{Node, Puppet, Role, config};
use crate::{
    Config, Region, SuperNode,
    client::Address,
    wire::{Request, Response, ServiceStatus, encode_frame},
};
use codec::Encode;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Far more than any of these takes, and less than a test may.
const SOON: Duration = Duration::from_secs(30);

/// Never, in milliseconds.
const SILENT: u64 = u64::MAX;

/// A super-node that is as far away as is said here.
struct Far {
    puppet: Puppet,
    ms: Arc<AtomicU64>,
}

impl Far {
    fn new(ms: u64) -> Self {
        let ms = Arc::new(AtomicU64::new(ms));
        let delay = Arc::clone(&ms);
        let puppet = Puppet::start(move |request, mut send| {
            let ms = delay.load(SeqCst);
            async move {
                assert_eq!(request, Request::Status);
                if ms == SILENT {
                    return std::future::pending().await;
                }
                sleep(Duration::from_millis(ms)).await;
                let status =
                    ServiceStatus { origin: true, relay: false, viewers: 0, max_viewers: 9 };
                let body = status.encode();
                let length = u64::try_from(body.len()).unwrap();
                let header = encode_frame(&Response::ok(length, 0, None)).unwrap();
                let _ = send.write_all(&[header, body].concat()).await;
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        });
        Self { puppet, ms }
    }

    fn in_region(&self, name: &str) -> SuperNode {
        SuperNode { source: self.puppet.source.clone(), region: region(name) }
    }
}

fn region(name: &str) -> Region {
    name.parse().unwrap()
}

fn quick() -> Config {
    let mut settings = config();
    settings.region.every = Duration::from_secs(1);
    settings.region.retry = Duration::from_secs(1);
    settings.region.timeout = Duration::from_millis(400);
    settings
}

/// A relay that is told of these super-nodes before its first look, or soon after.
async fn relay(settings: Config, super_nodes: Vec<SuperNode>) -> Node {
    let relay = Node::start(Role::Relay, settings).await;
    relay.directory.set_super_nodes(super_nodes);
    relay
}

/// Waits until the relay is in a region.
async fn comes_to(relay: &Node, name: &str) {
    let mut own = relay.relay.region();
    let expected = Some(region(name));
    timeout(SOON, own.wait_for(|own| *own == expected)).await.unwrap().unwrap();
}

fn measured(relay: &Node) -> Vec<String> {
    let status = relay.relay.status().relay.unwrap().region;
    status.measured.into_iter().map(|measured| measured.region.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_in_the_region_whose_super_node_is_nearest_by_the_median_of_three() {
    let [near, far, farther] = [Far::new(2), Far::new(60), Far::new(90)];
    let nodes = vec![farther.in_region("near"), far.in_region("far"), near.in_region("near")];
    let relay = relay(quick(), nodes).await;
    comes_to(&relay, "near").await;
    assert_eq!(measured(&relay), ["near", "far"]);
    let status = relay.relay.status().relay.unwrap().region;
    assert_eq!((status.name, status.set), (Some(region("near")), false));
    let ms = |at: usize| status.measured[at].round_trip.as_millis();
    assert!((2..60).contains(&ms(0)) && ms(1) >= 60, "{:?}", status.measured);
    assert!(relay.metrics.region_round_trip_seconds.get() >= 0.002);
    assert_eq!(relay.metrics.region_changes_total.get(), 1);
    let answered = relay.metrics.region_measurements_total.with_label_values(&["answered"]).get();
    assert!(answered >= 3, "{answered}");
    assert!(near.puppet.asked() >= 3 && far.puppet.asked() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn super_nodes_that_do_not_answer_make_no_region_and_all_are_measured_at_once() {
    let silent: Vec<_> = (0..16).map(|_| Far::new(SILENT)).collect();
    let far = Far::new(30);
    let mut nodes: Vec<_> = silent.iter().map(|far| far.in_region("silent")).collect();
    nodes.push(far.in_region("far"));
    let started = std::time::Instant::now();
    let relay = relay(quick(), nodes).await;
    comes_to(&relay, "far").await;
    // One after the other they would take 6.4 s, and the first look may have come too early.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let silent = relay.metrics.region_measurements_total.with_label_values(&["silent"]).get();
    assert!(silent >= 16, "{silent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_moves_when_another_region_stays_nearer_and_not_before() {
    let [one, two] = [Far::new(1), Far::new(80)];
    let relay = relay(quick(), vec![one.in_region("one"), two.in_region("two")]).await;
    comes_to(&relay, "one").await;
    let began = std::time::Instant::now();
    one.ms.store(160, SeqCst);
    comes_to(&relay, "two").await;
    // Three looks, a second apart, of which the first may be at hand.
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(relay.metrics.region_changes_total.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_the_operator_names_is_not_measured() {
    let near = Far::new(1);
    let relay = Node::start_in_region(region("here"), quick()).await;
    relay.directory.set_super_nodes(vec![near.in_region("there")]);
    let own = relay.relay.region();
    assert_eq!(*own.borrow(), Some(region("here")));
    let status = relay.relay.status().relay.unwrap().region;
    assert!(status.set && status.measured.is_empty());
    relay.stop().await.unwrap();
    assert_eq!(near.puppet.asked(), 0);
    assert_eq!(*own.borrow(), Some(region("here")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_super_node_of_the_settings_is_measured_where_the_settings_say_that_it_is() {
    let named = Far::new(1);
    let mut settings = quick();
    let source = &named.puppet.source;
    settings.upstream.super_nodes = vec![Address { socket: source.addrs[0], peer: source.peer }];
    let mut record = named.in_region("named");
    record.source.addrs = vec![([127, 0, 0, 1], 1).into()];
    let relay = relay(settings, vec![record]).await;
    comes_to(&relay, "named").await;
    assert_eq!(measured(&relay).len(), 1);
}
