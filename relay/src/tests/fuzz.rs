//! Fuzzing of everything that is decoded from the network: inputs of a saved corpus, changed at
//! random, for as many cases as `NSN_FUZZ_CASES` says (20,000 of each kind if it says nothing; CI
//! says more).
//!
//! The corpus is `relay/corpus/*.hex`, an input a line; whatever breaks something belongs there as a
//! line of its own, and is tried first, unchanged, in every run. What a decoder takes must be written
//! back as the same bytes: one value, one encoding, so that nothing hides in a frame.

use crate::{
    Manifest,
    wire::{Request, Response, decode_frame, encode_frame, read_farewell},
};
use codec::{DecodeAll, Encode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{env, fmt::Debug, fs, path::Path};

const CASES: u32 = 20_000;
/// No input is longer than two of the longest frames.
const LONGEST: usize = 8192;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| hex::decode(line).unwrap()).collect()
}

/// Numbers that lie at an edge of something.
const EDGES: [u8; 8] = [0, 1, 2, 3, 4, 0x7f, 0x80, 0xff];

/// Changes an input in one to eight places: bits, bytes, cuts, repetitions, parts of another input.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=8) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = EDGES[rng.random_range(0..EDGES.len())],
            2 => input.truncate(at),
            3 => input.insert(at, rng.random()),
            4 if at < input.len() => {
                input.remove(at);
            }
            5 => {
                let end = (at + rng.random_range(0..64)).min(input.len());
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let from = rng.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
}

/// Tries all of a corpus, and then what becomes of it.
fn fuzz(name: &str, try_one: impl Fn(&[u8])) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty());
    corpus.iter().for_each(|input| try_one(input));
    let cases = env::var("NSN_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    let seed = env::var("NSN_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..cases.unwrap_or(CASES) {
        let mut input = corpus[rng.random_range(0..corpus.len())].clone();
        change(&mut input, &corpus, &mut rng);
        try_one(&input);
    }
}

/// A frame that is taken is written back as it was.
fn framed<T: DecodeAll + Encode + Debug>(input: &[u8]) {
    if let Ok((message, rest)) = decode_frame::<T>(input) {
        let taken = &input[..input.len() - rest.len()];
        assert_eq!(
            encode_frame(&message).unwrap(),
            taken,
            "{message:?} from {}",
            hex::encode(input)
        );
    }
}

#[test]
fn no_frame_makes_a_decoder_panic_or_means_two_things() {
    fuzz("wire.hex", |input| {
        framed::<Request>(input);
        framed::<Response>(input);
    });
}

#[test]
fn no_manifest_makes_the_decoder_panic_or_means_two_things() {
    fuzz("manifest.hex", |input| {
        if let Ok(manifest) = Manifest::decode(input) {
            assert_eq!(manifest.encode(), input, "from {}", hex::encode(input));
            let sum: u64 = manifest.shards().iter().map(|part| u64::from(part.len)).sum();
            assert_eq!(manifest.total_len(), sum);
        }
    });
}

#[test]
fn no_farewell_makes_a_viewer_panic() {
    fuzz("wire.hex", |input| {
        let _ = read_farewell(input);
    });
}

#[test]
fn the_corpus_holds_what_is_right_too() {
    let taken = |input: &Vec<u8>| {
        decode_frame::<Request>(input).is_ok() || decode_frame::<Response>(input).is_ok()
    };
    assert!(corpus("wire.hex").iter().filter(|input| taken(input)).count() >= 8);
    let manifests = corpus("manifest.hex");
    assert!(manifests.iter().filter(|input| Manifest::decode(input).is_ok()).count() >= 2);
}
