//! What a viewer watches: places by Zipf's law.

use rand::Rng;

/// The law for so many places: the n-th is chosen in proportion to `1 / n^exponent`.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    /// The weight of each place and of all before it.
    sums: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(places: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=places)
            .map(|n| {
                sum += (n as f64).powf(-exponent);
                sum
            })
            .collect();
        Self { sums }
    }

    /// A place, from 0 on.
    pub(crate) fn choose(&self, rng: &mut impl Rng) -> usize {
        let all = self.sums.last().copied().unwrap_or_default();
        let at = rng.random::<f64>() * all;
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn the_first_is_chosen_twice_as_often_as_the_second() {
        let (zipf, mut rng) = (Zipf::new(1000, 1.0), StdRng::seed_from_u64(1));
        let mut chosen = vec![0u32; 1000];
        for _ in 0..100_000 {
            chosen[zipf.choose(&mut rng)] += 1;
        }
        let ratio = f64::from(chosen[0]) / f64::from(chosen[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        // The harmonic number of 1,000 is 7.485.
        assert!((f64::from(chosen[0]) / 100_000.0 - 1.0 / 7.485).abs() < 0.01);
    }

    #[test]
    fn an_exponent_of_0_makes_all_equal_and_one_place_is_always_chosen() {
        let mut rng = StdRng::seed_from_u64(2);
        let zipf = Zipf::new(4, 0.0);
        let mut chosen = [0u32; 4];
        for _ in 0..40_000 {
            chosen[zipf.choose(&mut rng)] += 1;
        }
        assert!(chosen.iter().all(|count| (9_500..10_500).contains(count)), "{chosen:?}");
        assert_eq!(Zipf::new(1, 1.0).choose(&mut rng), 0);
    }
}
