//! The client without a network: what it wants of the swarm, and what becomes of each request.

use super::*;
use crate::{identity::peer_id_of, testnet::GENESIS};
use futures::task::noop_waker_ref;
use libp2p::{core::ConnectedPoint, multiaddr::Protocol};
use proptest::prelude::*;

const QUESTION: Request = Request::Ask(Question::Closest(Vec::new()));
const PATIENCE: Duration = Duration::from_secs(3);

fn peer(n: u8) -> PeerId {
    peer_id_of(&[n; 32]).unwrap()
}

fn tcp(n: u8) -> Multiaddr {
    Multiaddr::from(std::net::Ipv4Addr::new(8, n, 8, 8)).with(Protocol::Tcp(1))
}

fn contact(n: u8) -> Contact {
    Contact { peer: peer(n), addresses: vec![tcp(n)] }
}

fn connection(n: u8) -> ConnectionId {
    ConnectionId::new_unchecked(usize::from(n) + 1_000_000)
}

fn client(max_dials: usize, max_questions: usize) -> Behaviour {
    let config = Config { max_dials, max_questions, ..Config::default() };
    let (policy, chain) = (AddressPolicy::Global, Protocols::new(&GENESIS));
    Behaviour::new(&config, policy, &chain, &Metrics::unregistered().unwrap())
}

fn established(client: &mut Behaviour, n: u8) {
    let endpoint = ConnectedPoint::Dialer {
        address: tcp(n),
        role_override: Endpoint::Dialer,
        port_use: PortUse::Reuse,
    };
    client.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
        peer_id: peer(n),
        connection_id: connection(n),
        endpoint: &endpoint,
        failed_addresses: &[],
        other_established: 0,
    }));
}

fn closed(client: &mut Behaviour, n: u8) {
    let endpoint = ConnectedPoint::Listener { local_addr: tcp(0), send_back_addr: tcp(n) };
    client.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
        peer_id: peer(n),
        connection_id: connection(n),
        endpoint: &endpoint,
        cause: None,
        remaining_established: 0,
    }));
}

fn dial_failed(client: &mut Behaviour, n: u8, id: ConnectionId, error: &DialError) {
    let peer_id = Some(peer(n));
    let failure = DialFailure { peer_id, error, connection_id: id };
    client.on_swarm_event(FromSwarm::DialFailure(failure));
}

/// All that it wants of the swarm now.
#[derive(Debug, Default)]
struct Wanted {
    dials: Vec<(PeerId, ConnectionId)>,
    sent: Vec<(PeerId, ConnectionId, RequestId)>,
    ended: Vec<(RequestId, Result<Reply, Failure>)>,
}

fn wanted(client: &mut Behaviour) -> Wanted {
    let mut wanted = Wanted::default();
    let mut cx = Context::from_waker(noop_waker_ref());
    while let Poll::Ready(event) = client.poll(&mut cx) {
        match event {
            ToSwarm::Dial { opts } => {
                wanted.dials.push((opts.get_peer_id().unwrap(), opts.connection_id()));
            }
            ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event } => {
                wanted.sent.push((peer_id, id, event.id));
            }
            ToSwarm::GenerateEvent(event) => wanted.ended.push((event.id, event.result)),
            other => panic!("{other:?}"),
        }
    }
    wanted
}

#[test]
fn a_few_are_dialled_at_a_time_and_the_next_when_one_has_failed() {
    let now = Instant::now();
    let mut client = client(2, 100);
    for n in 1..=5 {
        client.send(n.into(), contact(n), QUESTION, now + PATIENCE);
    }
    let first = wanted(&mut client);
    assert_eq!(first.dials.iter().map(|d| d.0).collect::<Vec<_>>(), [peer(1), peer(2)]);
    dial_failed(&mut client, 1, first.dials[0].1, &DialError::Aborted);
    let next = wanted(&mut client);
    assert_eq!(next.ended, [(1, Err(Failure::Unreachable))]);
    assert_eq!(next.dials.iter().map(|d| d.0).collect::<Vec<_>>(), [peer(3)]);
    established(&mut client, 2);
    let next = wanted(&mut client);
    assert_eq!(next.sent, [(peer(2), connection(2), 2)]);
    assert_eq!(next.dials.len(), 1);
    assert_eq!(client.in_flight(), 4);
}

#[test]
fn requests_to_one_peer_share_a_dial_and_a_connection_needs_none() {
    let now = Instant::now();
    let mut client = client(2, 100);
    for id in 1..=3 {
        client.send(id, contact(1), QUESTION, now + PATIENCE);
    }
    assert_eq!(wanted(&mut client).dials.len(), 1);
    established(&mut client, 1);
    assert_eq!(wanted(&mut client).sent.len(), 3);
    client.send(4, contact(1), QUESTION, now + PATIENCE);
    let next = wanted(&mut client);
    assert_eq!((next.sent.len(), next.dials.len()), (1, 0));
}

#[test]
fn what_has_no_room_or_no_address_ends_at_once() {
    let now = Instant::now();
    let mut client = client(2, 1);
    let private =
        Contact { peer: peer(9), addresses: vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()] };
    client.send(1, private, QUESTION, now + PATIENCE);
    assert_eq!(wanted(&mut client).ended, [(1, Err(Failure::Unreachable))]);
    client.send(2, contact(1), QUESTION, now + PATIENCE);
    client.send(3, contact(2), QUESTION, now + PATIENCE);
    assert_eq!(wanted(&mut client).ended, [(3, Err(Failure::Busy))]);
    assert!(!client.has_room());
}

#[test]
fn what_waits_too_long_for_a_connection_is_given_up() {
    let now = Instant::now();
    let mut client = client(1, 100);
    client.send(1, contact(1), QUESTION, now + PATIENCE);
    client.send(2, contact(2), QUESTION, now + PATIENCE * 2);
    assert_eq!(client.expires_at(), Some(now + PATIENCE));
    let dials = wanted(&mut client).dials;
    client.expire(now + PATIENCE);
    assert_eq!(wanted(&mut client).ended, [(1, Err(Failure::Timeout))]);
    assert_eq!(client.expires_at(), Some(now + PATIENCE * 2));
    // Its dial still goes on, and the next one waits for it.
    assert!(wanted(&mut client).dials.is_empty());
    dial_failed(&mut client, 1, dials[0].1, &DialError::Aborted);
    assert_eq!(wanted(&mut client).dials.len(), 1);
}

#[test]
fn what_is_taken_back_is_not_dialled_for() {
    let now = Instant::now();
    let mut client = client(1, 100);
    client.send(1, contact(1), QUESTION, now + PATIENCE);
    assert!(client.forget(1, &peer(1)));
    assert!(!client.forget(1, &peer(1)));
    let none = wanted(&mut client);
    assert!(none.dials.is_empty() && none.ended.is_empty());
    assert_eq!((client.in_flight(), client.expires_at()), (0, None));
    established(&mut client, 1);
    client.send(2, contact(1), QUESTION, now + PATIENCE);
    assert!(!client.forget(2, &peer(1)), "it was sent");
}

#[test]
fn a_dial_of_somebody_else_is_waited_for() {
    let now = Instant::now();
    let elsewhere = DialError::DialPeerConditionFalse(PeerCondition::DisconnectedAndNotDialing);
    for succeeds in [true, false] {
        let mut client = client(1, 100);
        client.send(1, contact(1), QUESTION, now + PATIENCE);
        let (_, ours) = wanted(&mut client).dials[0];
        dial_failed(&mut client, 1, ours, &elsewhere);
        assert!(wanted(&mut client).ended.is_empty());
        if succeeds {
            established(&mut client, 1);
            assert_eq!(wanted(&mut client).sent.len(), 1);
        } else {
            dial_failed(&mut client, 1, connection(77), &DialError::Aborted);
            assert_eq!(wanted(&mut client).ended, [(1, Err(Failure::Unreachable))]);
        }
        assert_eq!(client.dialling, 0);
    }
}

#[test]
fn a_connection_that_closes_ends_its_requests_and_where_it_led_to_is_told() {
    let now = Instant::now();
    let mut client = client(1, 100);
    established(&mut client, 1);
    client.send(1, contact(1), QUESTION, now + PATIENCE);
    client.send(2, contact(1), QUESTION, now + PATIENCE);
    wanted(&mut client);
    let reply = Reply::Answer(Answer::default());
    let done = Done { id: 1, result: Ok(reply.clone()) };
    client.on_connection_handler_event(peer(1), connection(1), done);
    let mut cx = Context::from_waker(noop_waker_ref());
    match client.poll(&mut cx) {
        Poll::Ready(ToSwarm::GenerateEvent(event)) => {
            let group = IpGroup::of(std::net::Ipv4Addr::new(8, 1, 0, 0).into());
            assert_eq!((event.result, event.reached), (Ok(reply), Some(group)));
        }
        other => panic!("{other:?}"),
    }
    closed(&mut client, 1);
    assert_eq!(wanted(&mut client).ended, [(2, Err(Failure::Broken))]);
    assert!(!client.is_connected(&peer(1)));
    assert_eq!(client.in_flight(), 0);
}

#[test]
fn a_record_tells_only_addresses_that_are_kept() {
    let mut client = client(1, 1);
    let long = format!("/dns/{}/tcp/1", "a".repeat(200)).parse::<Multiaddr>().unwrap();
    for address in [long, tcp(1), tcp(2), tcp(3)] {
        client.on_swarm_event(FromSwarm::ExternalAddrConfirmed(
            libp2p::swarm::behaviour::ExternalAddrConfirmed { addr: &address },
        ));
    }
    let told = client.own_addresses();
    assert_eq!(told.len(), MAX_ADDRESSES);
    assert!(told.iter().all(|address| address.len() <= MAX_ADDRESS_BYTES));
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Forget(u64),
    Establish(u8),
    Close(u8),
    FailDial(usize, bool),
    Answer(usize),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..8).prop_map(Step::Send),
        1 => (1u64..100).prop_map(Step::Forget),
        1 => (1u8..8).prop_map(Step::Establish),
        1 => (1u8..8).prop_map(Step::Close),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, ours)| Step::FailDial(n, ours)),
        2 => any::<usize>().prop_map(Step::Answer),
        1 => any::<u16>().prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever the network does: every request ends once, no more are in flight and no more peers
    /// dialled than may be.
    #[test]
    fn every_request_ends_once(steps in proptest::collection::vec(step(), 1..200)) {
        let mut now = Instant::now();
        let mut client = client(2, 6);
        let mut last = 0;
        let mut open: HashMap<RequestId, PeerId> = HashMap::new();
        let mut dials: Vec<(PeerId, ConnectionId)> = Vec::new();
        let mut sent: Vec<(PeerId, ConnectionId, RequestId)> = Vec::new();
        let mut connected: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Send(n) => {
                    last += 1;
                    open.insert(last, peer(n));
                    client.send(last, contact(n), QUESTION, now + PATIENCE);
                }
                Step::Forget(id) => {
                    if open.get(&id).is_some_and(|peer| client.forget(id, peer)) {
                        open.remove(&id);
                    }
                }
                Step::Establish(n) => if !connected.contains(&n) {
                    connected.push(n);
                    dials.retain(|(dialled, _)| *dialled != peer(n));
                    established(&mut client, n);
                },
                Step::Close(n) => if connected.contains(&n) {
                    connected.retain(|other| *other != n);
                    sent.retain(|(to, ..)| *to != peer(n));
                    closed(&mut client, n);
                },
                Step::FailDial(at, ours) => if !dials.is_empty() {
                    let (to, id) = dials.remove(at % dials.len());
                    let n = (1..8).find(|n| peer(*n) == to).unwrap();
                    let error = if ours {
                        DialError::Aborted
                    } else {
                        DialError::DialPeerConditionFalse(PeerCondition::NotDialing)
                    };
                    dial_failed(&mut client, n, id, &error);
                    if !ours {
                        dial_failed(&mut client, n, connection(99), &DialError::Aborted);
                    }
                },
                Step::Answer(at) => if !sent.is_empty() {
                    let (from, on, id) = sent.remove(at % sent.len());
                    let done = Done { id, result: Ok(Reply::Told { kept: true }) };
                    client.on_connection_handler_event(from, on, done);
                },
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms.into());
                    client.expire(now);
                }
            }
            let wanted = wanted(&mut client);
            for (id, _) in &wanted.ended {
                prop_assert!(open.remove(id).is_some(), "it had ended already");
            }
            dials.extend(wanted.dials);
            sent.extend(wanted.sent);
            prop_assert!(dials.len() <= 2 && client.dialling == dials.len());
            prop_assert!(client.in_flight() <= 6);
            prop_assert_eq!(client.in_flight(), open.len());
            prop_assert!(client.waiting.iter().all(|(deadline, ..)| *deadline > now));
        }
        for n in connected {
            closed(&mut client, n);
        }
        client.expire(now + PATIENCE);
        for (id, _) in wanted(&mut client).ended {
            prop_assert!(open.remove(&id).is_some());
        }
        prop_assert!(open.is_empty(), "some never end: {:?}", open);
    }
}
