//! The machine of one allocation against simulated servers.

use super::server::{Manner, PASSWORD, Server, USER};
use crate::{
    AddressPolicy,
    nat::turn::{
        client::Client,
        credentials::Credentials,
        event::{Allocation, Delivery, End, Event, Rules, Unsent},
        outcome::{Asked, Bad, Outcome},
    },
};
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn rules() -> Rules {
    Rules {
        waits: [500, 1000, 2000, 4000].map(Duration::from_millis).to_vec(),
        lifetime: secs(600),
        keep_alive: Some(secs(20)),
        stream: false,
        max_peers: 4,
        idle: secs(300),
        policy: AddressPolicy::Global,
        v6: false,
    }
}

fn credentials() -> Option<Credentials> {
    Credentials::parse(&format!("{USER}\n{PASSWORD}"))
}

/// A client and its server, 10 ms apart.
struct Scene {
    client: Client,
    server: Server,
    now: Instant,
    began: Instant,
    /// Messages of the client that are lost from here on.
    lost: usize,
    sent: usize,
    events: Vec<Event>,
    coming: VecDeque<Vec<u8>>,
}

impl Scene {
    fn with(manner: Manner, rules: Rules, credentials: Option<Credentials>) -> Self {
        let now = Instant::now();
        Self {
            client: Client::new(rules, credentials, [7; 32], now),
            server: Server::new(manner),
            now,
            began: now,
            lost: 0,
            sent: 0,
            events: Vec::new(),
            coming: VecDeque::new(),
        }
    }

    fn new(manner: Manner) -> Self {
        Self::with(manner, rules(), credentials())
    }

    /// One with an allocation.
    fn open(manner: Manner) -> Self {
        let mut scene = Self::new(manner);
        scene.run(secs(1));
        assert!(scene.client.allocation().is_some(), "{:?}", scene.events);
        scene.events.clear();
        scene
    }

    /// Lets so much time pass, or until the client is over.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            for bytes in self.client.poll(self.now) {
                self.sent += 1;
                match self.lost.checked_sub(1) {
                    Some(left) => self.lost = left,
                    None => self.coming.extend(self.server.answer(&bytes)),
                }
            }
            self.events.extend(self.client.events());
            if let Some(bytes) = self.coming.pop_front() {
                self.now += Duration::from_millis(10);
                self.client.on_bytes(&bytes, self.now);
                continue;
            }
            match self.client.wakes_at(self.now).filter(|at| *at <= until) {
                Some(at) => self.now = at.max(self.now),
                None => {
                    self.now = self.now.max(until);
                    return;
                }
            }
        }
    }

    fn permit(&mut self, peer: &str) -> bool {
        let ip = at(peer).ip();
        self.client.permit(ip, self.now);
        self.run(secs(8));
        self.events.contains(&Event::Permitted(ip, true))
    }

    fn send(&mut self, to: &str, payload: &[u8]) -> Result<(), Unsent> {
        let bytes = self.client.send(at(to), payload, self.now)?;
        assert_eq!(self.server.answer(&bytes), None);
        Ok(())
    }

    fn over(&self) -> Option<Outcome> {
        match self.client.is_over()? {
            End::Over(outcome) => Some(outcome),
            End::Redirect(_) => Some(Outcome::Redirect),
        }
    }
}

#[test]
fn an_allocation_is_asked_for_plainly_and_then_with_what_the_server_wants() {
    for sha256 in [false, true] {
        let mut scene = Scene::new(Manner { sha256, ..Manner::default() });
        scene.run(secs(1));
        assert_eq!(scene.server.asked[&3], 2, "once without a signature");
        let opened = scene.events.iter().find_map(|event| match event {
            Event::Opened(Allocation { relayed, mapped, ends }) => Some((*relayed, *mapped, *ends)),
            _ => None,
        });
        let ends = scene.began + secs(600) + Duration::from_millis(20);
        assert_eq!(opened, Some((at("9.9.9.9:5000"), Some(at("8.8.8.8:1000")), ends)));
        assert!(scene.events.contains(&Event::Answered(Asked::Allocate, Outcome::Done)));
    }
    let manner = Manner { signed: false, ..Manner::default() };
    let mut scene = Scene::with(manner, rules(), None);
    scene.run(secs(1));
    assert!(scene.client.allocation().is_some(), "an open server needs no credentials");
}

#[test]
fn lost_requests_are_sent_again_and_a_dead_server_is_given_up() {
    let mut scene = Scene::new(Manner::default());
    scene.lost = 2;
    scene.run(secs(2));
    assert!(scene.client.allocation().is_some());
    assert_eq!(scene.sent, 4, "the first three times, the second once");
    let mut scene = Scene::new(Manner::default());
    scene.lost = 100;
    scene.run(secs(60));
    assert_eq!(scene.over(), Some(Outcome::Timeout));
    assert_eq!((scene.sent, scene.client.wakes_at(scene.now)), (4, None));
}

#[test]
fn data_goes_to_permitted_addresses_and_soon_over_a_channel() {
    let mut scene = Scene::open(Manner::default());
    assert_eq!(scene.send("7.7.7.7:1", b"early"), Err(Unsent::NotPermitted));
    assert!(scene.permit("7.7.7.7:1"));
    scene.send("7.7.7.7:1", b"first").unwrap();
    scene.run(secs(1));
    assert_eq!(scene.server.channels.len(), 1);
    let bytes = scene.client.send(at("7.7.7.7:1"), b"second", scene.now).unwrap();
    assert_eq!(bytes.len(), 4 + 6, "on a channel");
    scene.server.answer(&bytes);
    scene.send("7.7.7.7:2", b"another port").unwrap();
    let wanted: [(_, &[u8]); 3] =
        [("7.7.7.7:1", b"first"), ("7.7.7.7:1", b"second"), ("7.7.7.7:2", b"another port")];
    let wanted = wanted.map(|(peer, data)| (at(peer), data.to_vec()));
    assert_eq!(scene.server.relayed, wanted);
    let long = vec![0; 3000];
    assert_eq!(scene.send("7.7.7.7:1", &long), Err(Unsent::TooLong));
}

#[test]
fn data_comes_with_and_without_a_channel_from_permitted_addresses_alone() {
    let mut scene = Scene::open(Manner::default());
    let from = |text, payload: &[u8]| Some(Delivery { from: at(text), payload: payload.to_vec() });
    let hears = |scene: &mut Scene, bytes: &[u8]| scene.client.on_bytes(bytes, scene.now);
    let data = Server::data(at("7.7.7.7:1"), b"hello");
    assert_eq!(hears(&mut scene, &data), None, "nobody let it send");
    assert!(scene.permit("7.7.7.7:1"));
    assert_eq!(hears(&mut scene, &data), from("7.7.7.7:1", b"hello"));
    assert_eq!(hears(&mut scene, b"\x40\x00\x00\x02hi"), None, "not bound yet");
    scene.run(secs(1));
    assert_eq!(hears(&mut scene, b"\x40\x00\x00\x02hi"), from("7.7.7.7:1", b"hi"));
    assert_eq!(hears(&mut scene, b"\x40\x09\x00\x02hi"), None, "nobody's channel");
    scene.run(secs(1));
    let dropped = scene.events.iter().filter(|e| **e == Event::Dropped(Bad::Unexpected));
    assert_eq!(dropped.count(), 3);
}

#[test]
fn a_server_without_channels_carries_all_the_same() {
    let mut scene = Scene::open(Manner { refuses_channels: true, ..Manner::default() });
    assert!(scene.permit("7.7.7.7:1"));
    for _ in 0..5 {
        scene.send("7.7.7.7:1", b"data").unwrap();
        scene.run(secs(1));
    }
    assert_eq!(scene.server.relayed.len(), 5);
    assert_eq!(scene.server.asked[&9], 1, "a channel is not asked for again and again");
}

#[test]
fn all_is_renewed_while_it_is_used_and_nothing_else_goes_over_the_line() {
    let mut scene = Scene::open(Manner { nonce_lasts: 5, ..Manner::default() });
    assert!(scene.permit("7.7.7.7:1"));
    scene.send("7.7.7.7:1", b"x").unwrap();
    scene.run(secs(1));
    for _ in 0..60 {
        scene.send("7.7.7.7:1", b"x").unwrap();
        scene.run(secs(60));
    }
    assert_eq!((scene.over(), scene.server.relayed.len()), (None, 61));
    // An hour: a refresh each 5 min, a permission each 4 min, a channel each 9 min, and what is asked
    // again with a new nonce after every fifth request.
    for (method, least, most) in [(4, 12, 18), (8, 8, 20), (9, 6, 12)] {
        let asked = scene.server.asked[&method];
        assert!((least..=most).contains(&asked), "method {method}: {asked}");
    }
    assert!(scene.client.allocation().is_some_and(|a| a.ends > scene.now));
}

#[test]
fn a_nat_on_the_way_is_kept_open_while_nothing_is_said() {
    let mut scene = Scene::open(Manner::default());
    let before = scene.sent;
    scene.run(secs(290));
    assert!((13..=15).contains(&(scene.sent - before)), "{}", scene.sent - before);
    let over_tcp = Rules { keep_alive: None, waits: vec![secs(8)], stream: true, ..rules() };
    let mut scene = Scene::with(Manner::default(), over_tcp, credentials());
    scene.run(secs(290));
    assert_eq!(scene.sent, 2);
}

#[test]
fn what_the_server_will_not_do_is_told_by_its_reason() {
    for (manner, credentials, wanted) in [
        (Manner { refuses: Some(486), ..Manner::default() }, credentials(), Outcome::Quota),
        (Manner { refuses: Some(508), ..Manner::default() }, credentials(), Outcome::Quota),
        (Manner { refuses: Some(403), ..Manner::default() }, credentials(), Outcome::Forbidden),
        (Manner { refuses: Some(437), ..Manner::default() }, credentials(), Outcome::Mismatch),
        (Manner { refuses: Some(500), ..Manner::default() }, credentials(), Outcome::Refused),
        (Manner::default(), None, Outcome::Credentials),
        (Manner::default(), Credentials::parse("user\nwrong"), Outcome::Unauthorized),
        (Manner::default(), Credentials::parse("other\npass"), Outcome::Unauthorized),
        (Manner { lifetime: 59, ..Manner::default() }, credentials(), Outcome::Impossible),
        (
            Manner { relayed: at("10.0.0.1:1"), ..Manner::default() },
            credentials(),
            Outcome::Impossible,
        ),
        (
            Manner { relayed: at("9.9.9.9:0"), ..Manner::default() },
            credentials(),
            Outcome::Impossible,
        ),
        (
            Manner { relayed: at("[2606::1]:1"), ..Manner::default() },
            credentials(),
            Outcome::Impossible,
        ),
        (
            Manner { sends_on: Some(at("9.9.9.1:1")), ..Manner::default() },
            credentials(),
            Outcome::Redirect,
        ),
        (Manner { forges: true, ..Manner::default() }, credentials(), Outcome::Timeout),
    ] {
        let mut scene = Scene::with(manner.clone(), rules(), credentials);
        scene.run(secs(60));
        assert_eq!(scene.over(), Some(wanted), "{manner:?}");
        assert!(scene.events.contains(&Event::Answered(Asked::Allocate, wanted)), "{manner:?}");
        assert!(scene.now - scene.began <= secs(61));
    }
}

#[test]
fn a_nonce_that_is_stale_for_ever_is_given_up() {
    let mut scene = Scene::new(Manner { nonce_lasts: 1, ..Manner::default() });
    scene.run(secs(60));
    assert_eq!(scene.over(), Some(Outcome::StaleNonce));
    assert_eq!(scene.server.asked[&3], 5, "plainly, signed, and three times anew");
}

#[test]
fn a_permission_that_is_refused_takes_nothing_else_with_it() {
    let forbids = vec![at("7.7.7.7:1").ip()];
    let mut scene = Scene::open(Manner { forbids, ..Manner::default() });
    assert!(!scene.permit("7.7.7.7:1"));
    assert!(scene.events.contains(&Event::Permitted(at("7.7.7.7:1").ip(), false)));
    assert!(scene.permit("7.7.7.8:1"));
    assert!(!scene.permit("10.0.0.1:1"), "nobody on this chain is there");
    assert!(!scene.permit("[2606::1]:1"), "the relayed address is of IPv4");
    assert_eq!(scene.over(), None);
}

#[test]
fn a_server_that_forgets_the_allocation_ends_it() {
    let mut scene = Scene::open(Manner::default());
    scene.server.allocated = false;
    scene.client.permit(at("7.7.7.7:1").ip(), scene.now);
    scene.run(secs(1));
    assert_eq!(scene.over(), Some(Outcome::Mismatch));
    let mut scene = Scene::open(Manner::default());
    scene.lost = 1000;
    scene.run(secs(700));
    assert_eq!(scene.over(), Some(Outcome::Timeout), "the renewal");
}

#[test]
fn it_is_given_back_and_that_is_over_whatever_the_server_says() {
    let mut scene = Scene::open(Manner::default());
    scene.client.close(scene.now);
    scene.run(secs(1));
    assert_eq!((scene.over(), scene.server.allocated), (Some(Outcome::Released), false));
    let mut scene = Scene::open(Manner::default());
    scene.lost = 1000;
    scene.client.close(scene.now);
    scene.run(secs(60));
    assert_eq!(scene.over(), Some(Outcome::Released), "silence");
    let mut scene = Scene::open(Manner { nonce_lasts: 3, ..Manner::default() });
    assert!(scene.permit("7.7.7.7:1"));
    scene.client.close(scene.now);
    scene.run(secs(1));
    assert!(!scene.server.allocated, "with a new nonce if it must");
}

#[test]
fn answers_count_once_and_only_to_what_was_asked() {
    let mut scene = Scene::open(Manner::default());
    scene.client.permit(at("7.7.7.7:1").ip(), scene.now);
    let request = scene.client.poll(scene.now).pop().unwrap();
    let answer = scene.server.answer(&request).unwrap();
    for (change, bad) in [
        // The id.
        (
            Box::new(|bytes: &mut Vec<u8>| bytes[8] ^= 1) as Box<dyn Fn(&mut Vec<u8>)>,
            Bad::WrongTransaction,
        ),
        // The method: a success of another request.
        (Box::new(|bytes: &mut Vec<u8>| bytes[1] ^= 1), Bad::WrongTransaction),
        // The signature.
        (Box::new(|bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1), Bad::Unauthentic),
        // No signature.
        (
            Box::new(|bytes: &mut Vec<u8>| {
                bytes.truncate(20);
                bytes[3] = 0;
            }),
            Bad::Unauthentic,
        ),
        (Box::new(|bytes: &mut Vec<u8>| bytes.truncate(30)), Bad::Malformed),
        (Box::new(|bytes: &mut Vec<u8>| bytes.resize(5000, 0)), Bad::Oversized),
    ] {
        let mut bytes = answer.clone();
        change(&mut bytes);
        assert_eq!(scene.client.on_bytes(&bytes, scene.now), None);
        assert_eq!(scene.client.events(), [Event::Dropped(bad)]);
    }
    scene.client.on_bytes(&answer, scene.now);
    assert!(scene.client.events().contains(&Event::Permitted(at("7.7.7.7:1").ip(), true)));
    scene.client.on_bytes(&answer, scene.now);
    assert_eq!(scene.client.events(), [Event::Dropped(Bad::WrongTransaction)], "the second time");
}

proptest! {
    /// Whatever comes, in every phase.
    #[test]
    fn no_bytes_are_a_panic_or_an_allocation(
        open: bool,
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1600), 1..20),
    ) {
        let mut scene = Scene::new(Manner::default());
        if open {
            scene.run(secs(1));
        }
        let before = scene.client.allocation();
        for bytes in messages {
            let delivered = scene.client.on_bytes(&bytes, scene.now);
            prop_assert_eq!(delivered, None);
        }
        prop_assert_eq!(scene.client.allocation(), before);
        prop_assert_eq!(scene.client.is_over(), None);
    }

    /// Bytes behind a header that is right get further in.
    #[test]
    fn no_bytes_behind_a_header_are_a_panic(
        kind in prop_oneof![Just([1, 3]), Just([1, 0x13]), Just([0, 0x17]), Just([1, 8]), Just([1, 0x19])],
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut scene = Scene::open(Manner::default());
        let mut message = kind.to_vec();
        message.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        message.extend_from_slice(&[3; 12]);
        message.extend_from_slice(&bytes);
        prop_assert_eq!(scene.client.on_bytes(&message, scene.now), None);
    }

    /// A challenge with any byte changed, which holds the texts that are parsed the hardest.
    #[test]
    fn a_challenge_with_changed_bytes_is_no_panic(changes in proptest::collection::vec((0..120usize, any::<u8>()), 1..6)) {
        let mut scene = Scene::new(Manner { sha256: true, ..Manner::default() });
        let request = scene.client.poll(scene.now).pop().unwrap();
        let mut answer = scene.server.answer(&request).unwrap();
        for (at, to) in changes {
            if let Some(byte) = answer.get_mut(at) {
                *byte = to;
            }
        }
        scene.client.on_bytes(&answer, scene.now);
        scene.run(secs(60));
        prop_assert!(scene.sent <= 12, "{}", scene.sent);
    }

    /// Whatever is lost, the allocation is had or given up within the time of two requests.
    #[test]
    fn it_ends_one_way_or_the_other_in_time(
        lost in 0..12usize,
        nonce_lasts in 0..4usize,
        sha256: bool,
    ) {
        let mut scene = Scene::new(Manner { nonce_lasts, sha256, ..Manner::default() });
        scene.lost = lost;
        scene.run(secs(31));
        prop_assert!(scene.client.allocation().is_some() || scene.over().is_some());
        prop_assert!(scene.sent <= 4 * 5 + 2);
    }
}
