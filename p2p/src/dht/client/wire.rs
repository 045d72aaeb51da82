//! The messages of kad's protocol that are sent and read here, and what is taken of them.
//!
//! The protobuf is that of libp2p's Kademlia specification, with the numbers that kad has; what is
//! not used is left out and skipped when read. Each message comes after its length as a varint.

use super::super::{
    Key,
    network::{Answer, Contact, Dropped, Failure, Question},
    routing::MAX_ADDRESSES,
};
use crate::{AddressPolicy, Multiaddr, PeerId, address::without_peer, identity::key_of};
use futures::{AsyncRead, AsyncReadExt};
use prost::Message as _;
use std::io;

/// Longest message that is sent or read, kad's own bound.
///
/// The worst that one decodes to: 8,192 empty peers of 56 bytes, 460 KB, for the moment in which the
/// connection's task reads it. What is handed on is at most 40 peers with 16 KiB of addresses.
pub(super) const MAX_MESSAGE: usize = 16 * 1024;

/// Peers that are taken of each list in an answer: the most that kad names.
const MAX_NAMED: usize = 20;

/// Kinds of messages, as numbered in the specification.
mod kind {
    pub(super) const GET_VALUE: i32 = 1;
    pub(super) const ADD_PROVIDER: i32 = 2;
    pub(super) const GET_PROVIDERS: i32 = 3;
    pub(super) const FIND_NODE: i32 = 4;
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    record: Option<Record>,
    #[prost(message, repeated, tag = "8")]
    closer: Vec<Peer>,
    #[prost(message, repeated, tag = "9")]
    providers: Vec<Peer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
}

/// A question, with its length before it.
pub(super) fn question(question: &Question) -> Vec<u8> {
    let (kind, key) = match question {
        Question::Closest(target) => (kind::FIND_NODE, target.clone()),
        Question::Providers(key) => (kind::GET_PROVIDERS, key.as_bytes().to_vec()),
        Question::Held(key, provider) => (kind::GET_VALUE, key.held_by(provider).to_vec()),
    };
    Message { kind, key, ..Message::default() }.encode_length_delimited_to_vec()
}

/// Appends the message that tells that `provider` provides a key, with its length before it.
pub(super) fn record(key: &Key, provider: &PeerId, addresses: &[Multiaddr], out: &mut Vec<u8>) {
    let addresses = addresses.iter().map(Multiaddr::to_vec).collect();
    let message = Message {
        kind: kind::ADD_PROVIDER,
        key: key.as_bytes().to_vec(),
        providers: vec![Peer { id: provider.to_bytes(), addresses }],
        ..Message::default()
    };
    out.extend_from_slice(&message.encode_length_delimited_to_vec());
}

/// Reads one message, at most [`MAX_MESSAGE`] long.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = 0_usize;
    let mut bits = 0;
    loop {
        let mut byte = [0_u8];
        stream.read_exact(&mut byte).await?;
        let [byte] = byte;
        length |= usize::from(byte & 0x7f) << bits;
        bits += 7;
        if byte & 0x80 == 0 {
            break;
        }
        // A third byte holds all that is allowed.
        if bits > 14 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// What the bytes of a message answer to a question. Only such addresses as the policy allows are
/// taken, and none that names another peer; what is not taken is told to `dropped`.
pub(super) fn answer(
    question: &Question,
    bytes: &[u8],
    policy: AddressPolicy,
    mut dropped: impl FnMut(Dropped, usize),
) -> Result<Answer, Failure> {
    let message = Message::decode(bytes).map_err(|_| Failure::Malformed)?;
    let (expected, held) = match question {
        Question::Closest(_) => (kind::FIND_NODE, false),
        Question::Providers(_) => (kind::GET_PROVIDERS, false),
        Question::Held(key, provider) => {
            let name = key.held_by(provider);
            (kind::GET_VALUE, message.record.is_some_and(|record| record.key == name))
        }
    };
    if message.kind != expected {
        return Err(Failure::Malformed);
    }
    let mut closer = named(&message.closer, policy, false, &mut dropped);
    closer.retain(|contact| {
        if contact.addresses.is_empty() {
            dropped(Dropped::NoAddress, 1);
        }
        !contact.addresses.is_empty()
    });
    let providers = match question {
        Question::Providers(_) => named(&message.providers, policy, true, &mut dropped),
        Question::Closest(_) | Question::Held(..) => Vec::new(),
    };
    Ok(Answer { closer, providers, held })
}

/// `relayed`: addresses through relays are taken too. Whoever serves the directory has none but such
/// of its own; whoever provides may be behind a NAT.
fn named(
    peers: &[Peer],
    policy: AddressPolicy,
    relayed: bool,
    dropped: &mut impl FnMut(Dropped, usize),
) -> Vec<Contact> {
    if peers.len() > MAX_NAMED {
        dropped(Dropped::TooMany, peers.len() - MAX_NAMED);
    }
    let mut contacts = Vec::with_capacity(peers.len().min(MAX_NAMED));
    for named in peers.iter().take(MAX_NAMED) {
        let Ok(peer) = PeerId::from_bytes(&named.id) else {
            dropped(Dropped::NoPeer, 1);
            continue;
        };
        if key_of(&peer).is_none() {
            dropped(Dropped::KeyType, 1);
            continue;
        }
        let mut addresses = Vec::new();
        for bytes in named.addresses.iter().take(MAX_ADDRESSES) {
            match address(&peer, bytes, policy, relayed) {
                Some(address) if !addresses.contains(&address) => addresses.push(address),
                Some(_) => {}
                None => dropped(Dropped::Address, 1),
            }
        }
        if named.addresses.len() > MAX_ADDRESSES {
            dropped(Dropped::Address, named.addresses.len() - MAX_ADDRESSES);
        }
        contacts.push(Contact { peer, addresses });
    }
    contacts
}

/// An address that is this peer's and allowed, without the peer.
fn address(peer: &PeerId, bytes: &[u8], policy: AddressPolicy, relayed: bool) -> Option<Multiaddr> {
    let address = Multiaddr::try_from(bytes.to_vec()).ok()?;
    // Fails if it ends in another peer.
    let address = address.with_p2p(*peer).ok()?;
    let address = without_peer(&address);
    let allowed = policy.allows(&address) || (relayed && policy.allows_circuit(&address));
    allowed.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use futures::{executor::block_on, io::Cursor};
    use libp2p::multiaddr::Protocol;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ANY: AddressPolicy = AddressPolicy::Any;

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    fn tcp(ip: [u8; 4], port: u16) -> Multiaddr {
        Multiaddr::from(std::net::Ipv4Addr::from(ip)).with(Protocol::Tcp(port))
    }

    fn wire(contact: &Contact) -> Peer {
        Peer {
            id: contact.peer.to_bytes(),
            addresses: contact.addresses.iter().map(Multiaddr::to_vec).collect(),
        }
    }

    /// What is taken of a message, and what is not.
    fn taken(
        question: &Question,
        message: &Message,
        policy: AddressPolicy,
    ) -> (Result<Answer, Failure>, BTreeMap<Dropped, usize>) {
        let mut dropped = BTreeMap::new();
        let taken = answer(question, &message.encode_to_vec(), policy, |reason, count| {
            *dropped.entry(reason).or_default() += count;
        });
        (taken, dropped)
    }

    #[test]
    fn who_provides_may_be_reached_through_a_relay_and_who_is_asked_may_not() {
        let at = tcp([8, 8, 8, 8], 1).with(Protocol::P2p(peer(9))).with(Protocol::P2pCircuit);
        let contact = Contact { peer: peer(1), addresses: vec![at.clone()] };
        let (key, named) = (Key::test(1), vec![wire(&contact)]);
        let message = Message {
            kind: kind::GET_PROVIDERS,
            closer: named.clone(),
            providers: named,
            ..Message::default()
        };
        let question = Question::Providers(key);
        let (answer, dropped) = taken(&question, &message, AddressPolicy::Global);
        assert_eq!(answer, Ok(Answer { providers: vec![contact], ..Answer::default() }));
        assert_eq!(dropped, BTreeMap::from([(Dropped::Address, 1), (Dropped::NoAddress, 1)]));
        // With its own PeerId at the end it is the same; with another's it is not its own.
        for (of, count) in [(1, 1), (2, 0)] {
            let with = at.clone().with(Protocol::P2p(peer(of)));
            let named = wire(&Contact { peer: peer(1), addresses: vec![with] });
            let message = Message { providers: vec![named], ..message.clone() };
            let (answer, _) = taken(&question, &message, AddressPolicy::Global);
            let providers = answer.unwrap().providers;
            assert_eq!(providers.iter().flat_map(|known| &known.addresses).count(), count);
        }
    }

    #[test]
    fn questions_and_records_are_as_the_specification_has_them() {
        // Tags and lengths by hand: field 1 is a varint, field 2 are bytes.
        assert_eq!(question(&Question::Closest(vec![7, 8])), [6, 0x08, 4, 0x12, 2, 7, 8]);
        let key = Key::test(1);
        let providers = question(&Question::Providers(key));
        assert_eq!(providers[..5], [36, 0x08, 3, 0x12, 32]);
        assert_eq!(providers[5..], *key.as_bytes());
        let held = question(&Question::Held(key, [9; 32]));
        assert_eq!(held[..5], [68, 0x08, 1, 0x12, 64]);
        assert_eq!(held[5..], key.held_by(&[9; 32]));

        let mut told = Vec::new();
        record(&key, &peer(1), &[tcp([8, 8, 8, 8], 1)], &mut told);
        assert_eq!(told[..5], [88, 0x08, 2, 0x12, 32]);
        // The provider: field 9, of which the PeerId is field 1 and an address field 2.
        assert_eq!(told[37..41], [0x4a, 50, 0x0a, 38]);
        assert_eq!(told[41..79], peer(1).to_bytes());
        assert_eq!(told[79..], [0x12, 8, 4, 8, 8, 8, 8, 6, 0, 1]);
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let message = Message { kind: kind::FIND_NODE, ..Message::default() };
        let providers = Question::Providers(Key::test(1));
        assert_eq!(taken(&providers, &message, ANY).0, Err(Failure::Malformed));
        assert_eq!(
            answer(&providers, &[0xff; 9], ANY, |_, _| {}),
            Err(Failure::Malformed),
            "no protobuf"
        );
    }

    #[test]
    fn a_record_is_held_if_it_is_the_one_that_was_asked_for() {
        let key = Key::test(1);
        let asked = Question::Held(key, [1; 32]);
        let says = |record: Option<Vec<u8>>| {
            let record = record.map(|key| Record { key });
            let message = Message { kind: kind::GET_VALUE, record, ..Message::default() };
            taken(&asked, &message, ANY).0.unwrap().held
        };
        assert!(says(Some(key.held_by(&[1; 32]).to_vec())));
        assert!(!says(Some(key.held_by(&[2; 32]).to_vec())));
        assert!(!says(None));
    }

    #[test]
    fn what_is_wrong_in_an_answer_is_left_out_and_told_by_reason() {
        let rsa =
            PeerId::from_multihash(libp2p::multihash::Multihash::wrap(0x12, &[7; 32]).unwrap())
                .unwrap();
        let good = Contact { peer: peer(1), addresses: vec![tcp([8, 8, 8, 8], 1)] };
        let mut others = wire(&good);
        others.addresses = vec![
            tcp([8, 8, 8, 8], 2).with(Protocol::P2p(peer(9))).to_vec(),
            tcp([10, 0, 0, 1], 1).to_vec(),
            vec![0xff; 9],
        ];
        let mut many_addresses = wire(&good);
        many_addresses.addresses = (1..1000).map(|port| tcp([8, 8, 8, 8], port).to_vec()).collect();
        let message = Message {
            kind: kind::GET_PROVIDERS,
            closer: vec![
                wire(&good),
                others,
                Peer { id: vec![1, 2, 3], addresses: Vec::new() },
                Peer { id: rsa.to_bytes(), addresses: vec![tcp([8, 8, 8, 8], 1).to_vec()] },
            ],
            providers: (0..20)
                .map(|n| Peer { id: peer(n).to_bytes(), addresses: Vec::new() })
                .chain((0..300).map(|_| wire(&good)))
                .collect(),
            ..Message::default()
        };
        let asked = Question::Providers(Key::test(1));
        let (answer, dropped) = taken(&asked, &message, AddressPolicy::Global);
        let answer = answer.unwrap();
        assert_eq!(answer.closer, [good]);
        assert_eq!(answer.providers.len(), 20, "providers need no address");
        let told: Vec<_> = dropped.into_iter().collect();
        assert_eq!(
            told,
            [
                (Dropped::TooMany, 300),
                (Dropped::NoPeer, 1),
                (Dropped::KeyType, 1),
                (Dropped::Address, 3),
                (Dropped::NoAddress, 1),
            ]
        );
        let message =
            Message { kind: kind::FIND_NODE, closer: vec![many_addresses], ..Message::default() };
        let (answer, dropped) = taken(&Question::Closest(Vec::new()), &message, ANY);
        assert_eq!(answer.unwrap().closer[0].addresses.len(), MAX_ADDRESSES);
        assert_eq!(dropped[&Dropped::Address], 999 - MAX_ADDRESSES);
    }

    #[test]
    fn a_message_is_read_up_to_its_bound() {
        let length = |length: usize| {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(length.try_into().unwrap(), &mut bytes);
            bytes
        };
        let fits = [length(MAX_MESSAGE), vec![7; MAX_MESSAGE]].concat();
        assert_eq!(block_on(read(&mut Cursor::new(fits))).unwrap(), vec![7; MAX_MESSAGE]);
        for wrong in [length(MAX_MESSAGE + 1), vec![0x80; 10], vec![0xff, 0xff, 0xff, 0x7f]] {
            let mut wire = Cursor::new([wrong, vec![7; MAX_MESSAGE + 1]].concat());
            let error = block_on(read(&mut wire)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(wire.position() <= 3, "nothing of it was read");
        }
        let short = [length(10), vec![7; 9]].concat();
        let error = block_on(read(&mut Cursor::new(short))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    fn asked() -> impl Strategy<Value = Question> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(|target| Question::Closest(target.to_vec())),
            any::<u32>().prop_map(|n| Question::Providers(Key::test(n))),
            any::<u32>().prop_map(|n| Question::Held(Key::test(n), [7; 32])),
        ]
    }

    fn contacts() -> impl Strategy<Value = Vec<Contact>> {
        let addresses = proptest::collection::btree_set((any::<[u8; 4]>(), 1..9999_u16), 1..5);
        let contact = (any::<u8>(), addresses).prop_map(|(n, addresses)| {
            let of = |(ip, port): ([u8; 4], u16)| tcp([8, ip[1], ip[2], ip[3]], port);
            let mut contact = Contact { peer: peer(n), addresses: Vec::new() };
            for address in addresses.into_iter().map(of) {
                if !contact.addresses.contains(&address) {
                    contact.addresses.push(address);
                }
            }
            contact
        });
        proptest::collection::vec(contact, 0..20)
    }

    fn answering(question: &Question, closer: &[Contact], providers: &[Contact]) -> Message {
        Message {
            kind: match question {
                Question::Closest(_) => kind::FIND_NODE,
                Question::Providers(_) => kind::GET_PROVIDERS,
                Question::Held(..) => kind::GET_VALUE,
            },
            closer: closer.iter().map(wire).collect(),
            providers: providers.iter().map(wire).collect(),
            ..Message::default()
        }
    }

    proptest! {
        #[test]
        fn what_an_honest_peer_says_is_taken(
            asked in asked(),
            closer in contacts(),
            providers in contacts(),
        ) {
            let message = answering(&asked, &closer, &providers);
            let (answer, dropped) = taken(&asked, &message, AddressPolicy::Global);
            let answer = answer.unwrap();
            prop_assert_eq!(answer.closer, closer);
            if matches!(asked, Question::Providers(_)) {
                prop_assert_eq!(answer.providers, providers);
            } else {
                prop_assert!(answer.providers.is_empty());
            }
            prop_assert!(dropped.is_empty());
        }

        #[test]
        fn any_bytes_are_survived(asked in asked(), bytes: Vec<u8>) {
            let _ = answer(&asked, &bytes, ANY, |_, _| {});
            let _ = block_on(read(&mut Cursor::new(bytes)));
        }

        /// Honest answers in which some bytes were changed, as a hostile peer would begin.
        #[test]
        fn changed_answers_are_survived_and_stay_within_their_bounds(
            asked in asked(),
            closer in contacts(),
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..30),
            cut: usize,
        ) {
            let mut bytes = answering(&asked, &closer, &closer).encode_to_vec();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut % (bytes.len() * 2));
            if let Ok(answer) = answer(&asked, &bytes, AddressPolicy::Global, |_, _| {}) {
                prop_assert!(answer.closer.len() <= MAX_NAMED);
                let policy = AddressPolicy::Global;
                for contact in answer.closer.iter().chain(&answer.providers) {
                    prop_assert!(key_of(&contact.peer).is_some());
                    prop_assert!(contact.addresses.len() <= MAX_ADDRESSES);
                    let known = |a| policy.allows(a) || policy.allows_circuit(a);
                    prop_assert!(contact.addresses.iter().all(known));
                }
                let nearer = answer.closer.iter().flat_map(|contact| &contact.addresses);
                prop_assert!(nearer.into_iter().all(|a| policy.allows(a)));
            }
        }
    }
}
