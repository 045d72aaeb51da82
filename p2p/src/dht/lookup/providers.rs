//! The providers that a lookup was told of, and which of them count.
//!
//! Any peer can name as many providers as it likes, and invent them. So that no liar can end a lookup
//! with a list of its own, each voice counts for its share of what is wanted. Where networks are told
//! apart a voice is all peers of a network: it takes those of eight to name all that a relay wants,
//! and who surrounds a key has peers in all paths. Elsewhere a voice is a path: with three paths and
//! six wanted, the first two that each tells. What is told beyond that is used if nothing better
//! comes.

use crate::{PeerId, address::IpGroup};

/// Networks whose word it takes to know of as many providers as are wanted, if these are as many.
const NETWORKS: usize = 8;

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// That of all peers on a path.
    Path(usize),
    /// That of all peers of a network.
    Network(Option<IpGroup>),
}

/// A provider, and how it was heard of.
#[derive(Clone, Copy, Debug)]
struct Told {
    provider: PeerId,
    /// None if it was known before.
    by: Option<Voice>,
    hops: u32,
}

/// As many as are wanted for each path, and those that count besides: with 64 wanted on three paths 256
/// of 96 bytes.
#[derive(Debug)]
pub(super) struct Providers {
    /// In the order in which they came.
    told: Vec<Told>,
    /// Paths among which the shares are divided.
    paths: usize,
}

impl Providers {
    pub(super) fn new(paths: usize) -> Self {
        Self { told: Vec::new(), paths: paths.max(1) }
    }

    /// A provider was known before anybody was asked.
    pub(super) fn known(&mut self, provider: PeerId) {
        self.told.push(Told { provider, by: None, hops: 0 });
    }

    /// A peer has named a provider.
    pub(super) fn told(&mut self, provider: PeerId, by: Voice, hops: u32, wanted: usize) {
        let of_voice = || self.told.iter().filter(|told| told.by == Some(by));
        let room = of_voice().count() < wanted && self.told.len() < self.paths * wanted;
        let spare = room && !of_voice().any(|told| told.provider == provider);
        if spare || self.would_count(&provider, by, wanted) {
            self.told.push(Told { provider, by: Some(by), hops });
        }
    }

    /// How many providers the word of one voice counts for.
    fn share(&self, voice: Voice, wanted: usize) -> usize {
        match voice {
            Voice::Path(_) => wanted.div_ceil(self.paths),
            Voice::Network(_) => (wanted / NETWORKS).max(1),
        }
    }

    fn would_count(&self, provider: &PeerId, by: Voice, wanted: usize) -> bool {
        let mut of_voice = 0;
        for told in self.counting(wanted) {
            if told.provider == *provider {
                return false;
            }
            of_voice += usize::from(told.by == Some(by));
        }
        of_voice < self.share(by, wanted)
    }

    /// The providers that count, each once.
    fn counting(&self, wanted: usize) -> impl Iterator<Item = &Told> {
        let mut counted: Vec<(PeerId, Option<Voice>)> = Vec::new();
        self.told.iter().filter(move |told| {
            let of_voice = counted.iter().filter(|(_, by)| *by == told.by).count();
            let counts = told.by.is_none_or(|by| of_voice < self.share(by, wanted))
                && !counted.iter().any(|(provider, _)| *provider == told.provider);
            if counts {
                counted.push((told.provider, told.by));
            }
            counts
        })
    }

    /// Those that count, as many as are wanted.
    pub(super) fn counted(&self, wanted: usize) -> Vec<PeerId> {
        self.counting(wanted).take(wanted).map(|told| told.provider).collect()
    }

    /// Whether as many as are wanted count.
    pub(super) fn are_enough(&self, wanted: usize) -> bool {
        self.told.len() >= wanted && self.counting(wanted).count() >= wanted
    }

    /// As many as are wanted: first those that count, then the others.
    pub(super) fn all(&self, wanted: usize) -> Vec<PeerId> {
        let mut all = self.counted(wanted);
        for told in &self.told {
            if all.len() >= wanted {
                break;
            }
            if !all.contains(&told.provider) {
                all.push(told.provider);
            }
        }
        all
    }

    /// How many peers were asked one after the other to hear of the last of them.
    pub(super) fn hops(&self) -> u32 {
        self.told.last().map_or(0, |told| told.hops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::peer_id_of;
    use proptest::prelude::*;

    fn peer(n: u8) -> PeerId {
        peer_id_of(&[n; 32]).unwrap()
    }

    #[test]
    fn a_path_counts_for_its_share_and_what_another_told_already_takes_none_of_it() {
        let mut providers = Providers::new(2);
        for n in [1, 2, 3] {
            providers.told(peer(n), Voice::Path(0), 1, 4);
        }
        assert_eq!(providers.counted(4), [peer(1), peer(2)]);
        for n in [1, 4] {
            providers.told(peer(n), Voice::Path(1), 2, 4);
        }
        assert_eq!(providers.counted(4), [peer(1), peer(2), peer(4)]);
        assert!(!providers.are_enough(4));
        assert_eq!(providers.all(4), [peer(1), peer(2), peer(4), peer(3)]);
        providers.told(peer(3), Voice::Path(1), 2, 4);
        assert!(providers.are_enough(4), "both paths know it");
        assert_eq!(providers.hops(), 2);
    }

    #[test]
    fn a_network_counts_for_one_of_eight_however_much_it_says() {
        let network = |n: u8| {
            let ip = std::net::Ipv4Addr::new(8, n, 0, 1);
            Voice::Network(Some(IpGroup::of(ip.into())))
        };
        let mut providers = Providers::new(3);
        for liar in 0..5 {
            for n in 0..20 {
                providers.told(peer(n), network(liar), 1, 8);
            }
        }
        assert_eq!(providers.counted(8).len(), 5);
        assert!(!providers.are_enough(8));
        providers.told(peer(90), network(9), 1, 8);
        assert_eq!(providers.counted(8)[5..], [peer(90)]);
        assert_eq!(providers.all(8).len(), 8, "what else was named makes up the number");
    }

    #[test]
    fn what_is_known_before_counts_whatever_the_paths_say() {
        let mut providers = Providers::new(3);
        (1..4).for_each(|n| providers.known(peer(n)));
        assert!(providers.are_enough(3));
        assert_eq!((providers.counted(2).len(), providers.hops()), (2, 0));
    }

    proptest! {
        #[test]
        fn no_path_has_more_than_its_share_and_nobody_counts_twice(
            told in proptest::collection::vec((0u8..30, 0usize..3), 0..100),
            wanted in 1usize..20,
        ) {
            let mut providers = Providers::new(3);
            for (n, path) in &told {
                providers.told(peer(*n), Voice::Path(*path), 1, wanted);
            }
            prop_assert!(providers.told.len() <= 4 * wanted + 2);
            let counted = providers.counted(wanted);
            let all = providers.all(wanted);
            prop_assert!(counted.len() <= all.len() && all.len() <= wanted);
            prop_assert_eq!(&all[..counted.len()], &counted[..]);
            prop_assert_eq!(providers.are_enough(wanted), counted.len() == wanted);
            let mut once = all.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), all.len());
            for path in 0..3 {
                let of_path = |p: &PeerId| told.iter().any(|(n, on)| peer(*n) == *p && *on == path);
                let only = |p: &PeerId| {
                    told.iter().all(|(n, on)| peer(*n) != *p || *on == path)
                };
                let share = wanted.div_ceil(3);
                prop_assert!(counted.iter().filter(|p| of_path(p) && only(p)).count() <= share);
            }
        }
    }
}
