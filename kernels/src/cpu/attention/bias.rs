//! Numbers that attention adds to its scores for the distance of a query and a key.

use super::OP;
use crate::cpu::AlignedBuf;
use crate::cpu::error::{OpError, expect_size};
use crate::cpu::simd::LANES_MAX;

/// A number for each head and distance, added to the scaled score. Made once for a model, for its longest sequence: the
/// numbers of one query and all keys of its sequence lie side by side.
pub struct PositionBias {
    heads: usize,
    tokens_max: usize,
    /// `[heads, 2 tokens_max - 1]` by key minus query plus `tokens_max - 1`; then what a last vector may read too
    /// far.
    values: AlignedBuf<f32>,
}

impl PositionBias {
    /// From a learned table `[buckets, heads]` (Raffel et al., arXiv 1910.10683, section 2.1): `buckets / 4` single
    /// distances and as many ever wider ones up to `distance_max`, first for keys up to the query, then for those behind.
    ///
    /// # Errors
    /// A table of another size; sizes that leave no bucket.
    pub fn from_buckets(
        table: &[f32],
        heads: usize,
        distance_max: usize,
        tokens_max: usize,
    ) -> Result<Self, OpError> {
        let refuse = |what, found, expected| Err(OpError::Shape { op: OP, what, found, expected });
        let buckets = table.len() / heads.max(1);
        if heads == 0 || tokens_max == 0 {
            return refuse("heads or tokens of a position bias", 0, 1);
        }
        expect_size(OP, "position bias", table.len(), buckets * heads)?;
        if buckets == 0 || !buckets.is_multiple_of(4) {
            return refuse("buckets", buckets, buckets.next_multiple_of(4).max(4));
        }
        if distance_max <= buckets / 4 {
            return refuse("distance_max", distance_max, buckets / 4 + 1);
        }
        let distances = 2 * tokens_max - 1;
        let mut values = AlignedBuf::zeroed(heads * distances + LANES_MAX);
        for (head, row) in values.chunks_exact_mut(distances).take(heads).enumerate() {
            for (index, value) in row.iter_mut().enumerate() {
                let bucket = bucket(index, tokens_max - 1, buckets, distance_max);
                *value = table[bucket * heads + head];
            }
        }
        Ok(Self { heads, tokens_max, values })
    }

    /// The distance times a slope, negative, that falls from head to head (ALiBi, Press et al., arXiv 2108.12409; either
    /// direction alike, as encoders do).
    ///
    /// # Errors
    /// Sizes of 0.
    pub fn alibi(heads: usize, tokens_max: usize) -> Result<Self, OpError> {
        if heads == 0 || tokens_max == 0 {
            let what = "heads or tokens of a position bias";
            return Err(OpError::Shape { op: OP, what, found: 0, expected: 1 });
        }
        let distances = 2 * tokens_max - 1;
        let mut values = AlignedBuf::zeroed(heads * distances + LANES_MAX);
        for (head, row) in values.chunks_exact_mut(distances).take(heads).enumerate() {
            let slope = alibi_slope(head, heads);
            for (index, value) in row.iter_mut().enumerate() {
                *value = (-slope * index.abs_diff(tokens_max - 1) as f64) as f32;
            }
        }
        Ok(Self { heads, tokens_max, values })
    }

    /// For each head, by key minus query, from `1 - tokens_max` to `tokens_max - 1`.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(2 * self.tokens_max - 1).take(self.heads)
    }

    /// Query heads that it has numbers for.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The heap that it holds.
    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }

    pub(super) fn check(&self, heads: usize, cu_q: &[u32], cu_k: &[u32]) -> Result<(), OpError> {
        expect_size(OP, "heads of the position bias", self.heads, heads)?;
        // Tokens count their distance inside of one sequence.
        let differs = cu_q.iter().zip(cu_k).find(|(q, k)| q != k);
        differs.map_or(Ok(()), |(q, k)| expect_size(OP, "cu_seqlens_k", *k as usize, *q as usize))?;
        let lengths = cu_q.windows(2).map(|bounds| (bounds[1] - bounds[0]) as usize);
        let longest = lengths.max().unwrap_or(0);
        expect_size(OP, "tokens of the position bias", longest.max(self.tokens_max), self.tokens_max)
    }

    /// For one head and the query at `query` of its sequence: one number a key, and as many more as whole vectors may read.
    pub(super) fn of_query(&self, head: usize, query: usize) -> &[f32] {
        let distances = 2 * self.tokens_max - 1;
        &self.values[head * distances + self.tokens_max - 1 - query..]
    }
}

/// Heads whose number is a power of two have the powers of `2^(-8 / heads)`; of others, the first have those of the power of
/// two below, the rest every second of the power above (the authors' code, which the models were trained with).
fn alibi_slope(head: usize, heads: usize) -> f64 {
    let below = 1usize << heads.ilog2();
    let (power, of) = if head < below { (head + 1, below) } else { (2 * (head - below) + 1, 2 * below) };
    2f64.powf(-8.0 * power as f64 / of as f64)
}

/// The bucket of the key at `key` for a query at `query`. Distances are divided in f32, like the reference does: where one
/// falls on the edge of two buckets, its rounding decides.
fn bucket(key: usize, query: usize, buckets: usize, distance_max: usize) -> usize {
    let (half, single) = (buckets / 2, buckets / 4);
    let side = if key > query { half } else { 0 };
    let distance = key.abs_diff(query);
    if distance < single {
        return side + distance;
    }
    let reach = (distance_max as f64 / single as f64).ln() as f32;
    let wide = (distance as f32 / single as f32).ln() / reach * (half - single) as f32;
    side + (single + wide as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `relative_position_bucket` of transformers' MPNet gives for keys before the query: the first distance of each.
    #[test]
    fn buckets_begin_where_the_reference_has_them() {
        let first = |wanted: usize| (0..600).find(|&distance| bucket(0, distance, 32, 128) == wanted);
        let starts: Vec<_> = (0..16).map(|bucket| first(bucket).expect("every bucket is used")).collect();
        assert_eq!(starts, [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]);
        assert_eq!(bucket(1, 0, 32, 128), 17, "keys behind the query have the other half");
        assert_eq!((bucket(0, 599, 32, 128), bucket(599, 0, 32, 128)), (15, 31));
    }

    /// What the authors' `get_slopes` gives.
    #[test]
    fn slopes_are_those_of_the_authors() {
        let slopes = |heads| (0..heads).map(|head| alibi_slope(head, heads)).collect::<Vec<_>>();
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8));
        let root = |eighths: f64| 2f64.powf(-eighths / 2.0);
        assert_eq!(twelve[8..], [root(1.0), root(3.0), root(5.0), root(7.0)]);
    }

    #[test]
    fn sizes_that_leave_no_bucket_are_refused() {
        for (len, heads, distance_max, tokens_max) in [
            (64, 0, 128, 8),
            (64, 2, 128, 0),
            (63, 2, 128, 8),
            (60, 2, 128, 8),
            (64, 2, 8, 8),
            (0, 2, 128, 8),
        ] {
            assert!(PositionBias::from_buckets(&vec![0.0; len], heads, distance_max, tokens_max).is_err());
        }
        let bias = PositionBias::from_buckets(&[0.5; 64], 2, 128, 8).expect("sound");
        assert_eq!(bias.check(2, &[0, 8], &[0, 8]), Ok(()));
        assert!(bias.check(1, &[0, 8], &[0, 8]).is_err());
        assert!(bias.check(2, &[0, 9], &[0, 9]).is_err());
        assert!(bias.check(2, &[0, 4], &[0, 5]).is_err());
    }
}
