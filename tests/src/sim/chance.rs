//! The distributions from which the world is drawn.

use rand::RngExt;
use rand::rngs::SmallRng;

/// A number in (0, 1].
fn unit(chance: &mut SmallRng) -> f64 {
    1.0 - chance.random_range(0.0..1.0)
}

/// Chooses among weighted things.
#[derive(Clone, Debug)]
pub(super) struct Weighted {
    /// Sums of the weights up to each thing.
    sums: Vec<f64>,
}

impl Weighted {
    pub(super) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let sums = weights.into_iter().map(|weight| {
            sum += weight;
            sum
        });
        Self { sums: sums.collect() }
    }

    /// Zipf's law: the n-th of `count` things is wanted `n^-exponent` times as often as the first.
    pub(super) fn zipf(count: u16, exponent: f64) -> Self {
        Self::new((1..=count).map(|rank| f64::from(rank).powf(-exponent)))
    }

    pub(super) fn draw(&self, chance: &mut SmallRng) -> usize {
        let total = self.sums.last().copied().unwrap_or(0.0);
        let drawn = total * (1.0 - unit(chance));
        self.sums.partition_point(|sum| *sum <= drawn).min(self.sums.len().saturating_sub(1))
    }
}
