//! What a simulation found.

use serde::Serialize;

/// How a number is spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The average.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// All are at most this.
    pub max: f64,
}

impl Spread {
    /// Of these values; all zero if there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        values.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| {
            // The smallest that has at least so many percent of all at or below it.
            let rank = (values.len() * percent).div_ceil(100);
            values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: at(50),
            p95: at(95),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect());
        let Spread { mean, p50, p95, p99, max } = spread;
        assert_eq!((mean, p50, p95, p99, max), (100.5, 100.0, 190.0, 198.0, 200.0));
        let Spread { p50, p99, max, .. } = Spread::of(vec![7.0]);
        assert_eq!((p50, p99, max), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(vec![]), Spread::default());
    }
}
