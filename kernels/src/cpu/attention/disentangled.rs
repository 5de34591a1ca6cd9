//! What one token says against where the other stands (He et al., arXiv 2006.03654).
//!
//! Both terms are the same product: tokens times a table of relative positions. What a tile of tokens needs of the table
//! are neighbouring rows, so it is one small product; then each token's row is spread over the tokens that it is compared
//! with. Their buckets rise by at most one from token to token, so that a vector of scores is one permutation of a vector of
//! products. What keys have with positions has a row a key and is transposed block by block.

use super::head::{Head, Span};
use super::{AttentionShape, OP, Rows};
use crate::Dtype;
use crate::cpu::AlignedBuf;
use crate::cpu::element::Element;
use crate::cpu::error::{OpError, expect_size};
use crate::cpu::isa::CpuIsa;
use crate::cpu::simd::{LANES_MAX, Simd};
use crate::cpu::tile::{COLUMNS_MAX, ROWS_MAX, Tile, TileArgs, ZEROS, balanced};
use crate::cpu::weights::PackedLinear;
use std::ops::Range;
use std::sync::Arc;

/// Queries whose products of keys with positions are kept at once: 256 KB for 256 keys.
pub(super) const QUERIES_MAX: usize = 256;

/// The buckets of distances: one for each of the first `span / 2` of either direction, ever wider ones up to `distance_max`,
/// and the outermost for all beyond.
#[derive(Debug)]
pub struct RelativeBuckets {
    span: usize,
    tokens_max: usize,
    /// By query minus key plus `tokens_max - 1`: the row of what keys meet, a table `[2 span]` (in the reference's order, keys
    /// behind the query first); then the last one again, as often as a last vector may read too far.
    query_rows: Vec<u32>,
    /// By key minus query: the row of what queries meet, a table upside down.
    key_rows: Vec<u32>,
}

impl RelativeBuckets {
    /// For sequences of up to `tokens_max` tokens.
    ///
    /// # Errors
    /// Sizes of 0, or buckets so dense that two distances that follow each other do not have the same or two that do.
    pub fn new(span: usize, distance_max: usize, tokens_max: usize) -> Result<Self, OpError> {
        let refuse = |what, found, expected| Err(OpError::Shape { op: OP, what, found, expected });
        if span < 2 || tokens_max == 0 {
            return refuse("relative buckets or tokens", 0, 1);
        }
        if distance_max <= span / 2 + 1 {
            return refuse("distance_max", distance_max, span / 2 + 2);
        }
        let distances = 1 - tokens_max as i64..tokens_max as i64;
        let with_rest = |rows: Vec<u32>| {
            let last = rows[rows.len() - 1];
            rows.into_iter().chain([last; LANES_MAX]).collect::<Vec<_>>()
        };
        let row = |distance| row(distance, span, distance_max);
        let query_rows = with_rest(distances.clone().map(row).collect());
        let last = 2 * span as u32 - 1;
        let key_rows = with_rest(distances.map(|distance| last - row(-distance)).collect());
        let is_dense = |rows: &[u32]| rows.windows(2).any(|pair| pair[1] - pair[0] > 1);
        if is_dense(&query_rows) || is_dense(&key_rows) {
            return refuse("distances of two neighbouring buckets", 2, 1);
        }
        Ok(Self { span, tokens_max, query_rows, key_rows })
    }

    /// By key minus query the row of the table of keys, upside down, and by query minus key that of the table of queries, from
    /// `1 - tokens_max` on.
    pub(crate) fn rows(&self) -> [&[u32]; 2] {
        [&self.key_rows, &self.query_rows].map(|rows| &rows[..2 * self.tokens_max - 1])
    }

    /// The heap that it holds.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.query_rows[..]) + size_of_val(&self.key_rows[..])
    }
}

/// The row of a table `[2 span]` for a query that stands `distance` behind its key. Distances are divided in f32, like the
/// reference does (`make_log_bucket_position` of `modeling_deberta_v2.py`), which rounds up where that goes over an edge.
fn row(distance: i64, span: usize, distance_max: usize) -> u32 {
    let (middle, far) = ((span / 2) as f32, distance.unsigned_abs() as f32);
    let bucket = if distance.unsigned_abs() as usize <= span / 2 {
        distance
    } else {
        let reach = (((distance_max - 1) as f64 / f64::from(middle)) as f32).ln();
        let wide = ((far / middle).ln() / reach * (middle - 1.0)).ceil() + middle;
        wide as i64 * distance.signum()
    };
    (bucket + span as i64).clamp(0, 2 * span as i64 - 1) as u32
}

/// One layer's relative positions, projected: what queries are compared with, and what keys are.
pub struct RelativeTables {
    buckets: Arc<RelativeBuckets>,
    isa: CpuIsa,
    dtype: Dtype,
    /// For each head, `[2 span, head_dim]`, upside down.
    keys: Option<Vec<PackedLinear>>,
    /// For each head, `[2 span, head_dim]`.
    queries: Option<Vec<PackedLinear>>,
}

impl RelativeTables {
    /// Packs the projections `[2 span, heads * head_dim]` that there are, for activations of `dtype`.
    ///
    /// # Errors
    /// A set that the machine lacks, tables of another size.
    pub fn pack(
        isa: CpuIsa,
        dtype: Dtype,
        buckets: &Arc<RelativeBuckets>,
        heads: usize,
        [keys, queries]: [Option<&[f32]>; 2],
    ) -> Result<Self, OpError> {
        let rows = 2 * buckets.span;
        let pack = |table: &[f32], place: &dyn Fn(usize) -> usize| {
            let width = table.len() / rows;
            let head_dim = width / heads.max(1);
            expect_size(OP, "relative positions", table.len(), rows * heads * head_dim)?;
            let head = |head: usize| {
                PackedLinear::pack(isa, dtype, rows, head_dim, None, |row, values| {
                    values.copy_from_slice(&table[place(row) * width + head * head_dim..][..head_dim]);
                })
            };
            (0..heads).map(head).collect::<Result<Vec<_>, _>>()
        };
        let keys = keys.map(|table| pack(table, &|row| rows - 1 - row)).transpose()?;
        let queries = queries.map(|table| pack(table, &|row| row)).transpose()?;
        Ok(Self { buckets: Arc::clone(buckets), isa, dtype, keys, queries })
    }

    /// The heap that the buckets hold, which layers share.
    pub fn shared_bytes(&self) -> usize {
        self.buckets.bytes()
    }

    /// The heap that the tables hold, without their buckets.
    pub fn bytes(&self) -> usize {
        [&self.keys, &self.queries].into_iter().flatten().flatten().map(PackedLinear::bytes).sum()
    }

    pub(super) fn check<T: Element>(
        &self,
        isa: CpuIsa,
        shape: &AttentionShape,
        k: &Rows<'_, T>,
        cu_seqlens: &[u32],
    ) -> Result<(), OpError> {
        if self.isa != isa {
            return Err(OpError::IsaMismatch { packed: self.isa, requested: isa });
        }
        if self.dtype != T::DTYPE {
            return Err(OpError::UnsupportedDtype { isa, activations: T::DTYPE, weights: self.dtype });
        }
        expect_size(OP, "kv_heads", shape.kv_heads, shape.heads)?;
        for tables in [&self.keys, &self.queries].into_iter().flatten() {
            expect_size(OP, "heads of relative positions", tables.len(), shape.heads)?;
            expect_size(OP, "head_dim of relative positions", tables[0].inputs(), shape.head_dim)?;
        }
        if T::DTYPE == Dtype::Bf16 {
            expect_size(OP, "stride of k", k.stride, k.stride.next_multiple_of(2))?;
        }
        let lengths = cu_seqlens.windows(2).map(|bounds| (bounds[1] - bounds[0]) as usize);
        let (longest, tokens_max) = (lengths.max().unwrap_or(0), self.buckets.tokens_max);
        expect_size(OP, "tokens of relative positions", longest.max(tokens_max), tokens_max)
    }

    /// Whether keys meet positions.
    pub(super) fn has_queries(&self) -> bool {
        self.queries.is_some()
    }
}

/// The products of a tile of tokens with the rows of a table between two of its rows.
struct Band<'a> {
    products: &'a AlignedBuf<f32>,
    stride: usize,
    /// The row of the table that the first column is of.
    first: usize,
}

impl Band<'_> {
    /// Where the product of the tile's token `row` with row 0 of the table would be.
    fn start(&self, row: usize) -> *const f32 {
        self.products.as_ptr().wrapping_add(row * self.stride).wrapping_sub(self.first)
    }
}

/// Tokens that are multiplied with one head's table.
struct Tokens {
    first: *const u32,
    /// Units from one token to the next.
    stride: usize,
    /// Where they stand in their sequence.
    places: Range<usize>,
}

/// Multiplies a tile of tokens with the rows of the table for what stands at `others`.
///
/// # Safety
/// The tiles' set is the machine's and the table's; the tokens are readable, as many units each as a row of the table has;
/// `rows` is the table's, from distance 0 on `middle`, and reaches as far as the tokens and the others are apart.
unsafe fn band<'a>(
    tiles: &[Tile],
    table: &PackedLinear,
    (rows, middle): (&[u32], usize),
    tokens: &Tokens,
    others: Range<usize>,
    products: &'a mut AlignedBuf<f32>,
) -> Band<'a> {
    let columns = table.panel_outputs();
    let place = |other: usize, token: usize| rows[middle + other - token] as usize;
    let first = place(others.start, tokens.places.end - 1) / columns;
    let last = place(others.end - 1, tokens.places.start) / columns;
    let stride = (last + 1 - first) * columns;
    products.reserve(ROWS_MAX * stride + COLUMNS_MAX);
    for panel in first..=last {
        let (units, _) = table.panel(panel);
        let args = TileArgs {
            steps: table.steps(),
            a: tokens.first,
            a_stride: tokens.stride,
            b: units.as_ptr(),
            next: units.as_ptr_range().end.cast(),
            start: ZEROS.as_ptr(),
            out: products[(panel - first) * columns..].as_mut_ptr().cast(),
            out_stride: stride,
        };
        // SAFETY: the caller's contract; the products hold ROWS_MAX rows of `stride`.
        unsafe { tiles[tokens.places.len() - 1](&args) }
    }
    Band { products, stride, first: first * columns }
}

impl<T: Element> Head<'_, T> {
    /// Elements from a key's products with the positions of the queries of a stretch to those of the next key.
    fn column_stride<S: Simd>(stretch: &Range<usize>) -> usize {
        stretch.len().next_multiple_of(S::LANES)
    }

    /// Multiplies all keys with the positions of the queries of a stretch, for [`Self::add_relative`].
    ///
    /// # Safety
    /// The machine supports `S`; the tables passed their check.
    #[inline(always)]
    pub(super) unsafe fn meet_queries<S: Simd>(
        &mut self,
        tables: &RelativeTables,
        head: usize,
        stretch: &Range<usize>,
    ) {
        let Some(table) = &tables.queries else { return };
        let RelativeBuckets { query_rows, tokens_max, .. } = &*tables.buckets;
        let (keys, stride) = (self.rows_k.len(), Self::column_stride::<S>(stretch));
        let scratch = &mut self.scratch.attention;
        // A last block of keys is whole, and reads one vector from where a last tile of queries begins.
        scratch.by_key.reserve(keys.next_multiple_of(S::LANES) * stride + LANES_MAX);
        for tile in balanced(keys, self.tiles.len()) {
            let token = self.rows_k.start + tile.start;
            let key = self.k.part(token, head * self.shape.head_dim, self.shape.head_dim);
            let (first, key_stride) = (key.as_ptr().cast(), self.k.stride / Self::PER_UNIT);
            let tokens = Tokens { first, stride: key_stride, places: tile.clone() };
            // SAFETY: the keys are inside of `k` by the checks of `attention`, and no farther from the queries than a sequence is
            // long; rows of a band are readable for a vector from every product on, and rows of `by_key` are whole vectors.
            unsafe {
                let (rows, others) = ((&query_rows[..], tokens_max - 1), stretch.clone());
                let band = band(self.tiles, &table[head], rows, &tokens, others, &mut scratch.band);
                for (row, key) in tile.enumerate() {
                    let places = query_rows[tokens_max - 1 + stretch.start - key..].as_ptr();
                    let to = scratch.by_key[key * stride..][..stride].as_mut_ptr();
                    for column in (0..stretch.len()).step_by(S::LANES) {
                        S::store(to.add(column), S::spread(band.start(row), places.add(column)));
                    }
                }
            }
        }
    }

    /// Adds what the tables say to the scores of the query rows at `queries` of the sequence, a part of a stretch whose keys'
    /// products are there.
    ///
    /// # Safety
    /// The machine supports `S`; the tables passed their check; the rows' scores with all keys are there.
    #[inline(always)]
    pub(super) unsafe fn add_relative<S: Simd>(
        &mut self,
        tables: &RelativeTables,
        head: usize,
        queries: Range<usize>,
        stretch: &Range<usize>,
        span: &Span,
    ) {
        // SAFETY: the caller's contract is the same.
        unsafe {
            if let Some(table) = &tables.keys {
                self.meet_keys::<S>(&table[head], &tables.buckets, head, queries.clone(), span);
            }
            if tables.queries.is_some() {
                let columns = queries.start - stretch.start;
                self.add_transposed::<S>(columns, Self::column_stride::<S>(stretch), queries.len(), span);
            }
        }
    }

    /// Adds the products of queries with the positions of all keys.
    ///
    /// # Safety
    /// As for [`Self::add_relative`].
    #[inline(always)]
    unsafe fn meet_keys<S: Simd>(
        &mut self,
        table: &PackedLinear,
        buckets: &RelativeBuckets,
        head: usize,
        queries: Range<usize>,
        Span { keys, stride }: &Span,
    ) {
        let RelativeBuckets { key_rows, tokens_max, .. } = buckets;
        let token = self.rows_q.start + queries.start;
        let query = self.q.part(token, head * self.shape.head_dim, self.shape.head_dim);
        let (first, query_stride) = (query.as_ptr().cast(), self.q.stride / Self::PER_UNIT);
        let tokens = Tokens { first, stride: query_stride, places: queries.clone() };
        let scratch = &mut self.scratch.attention;
        // SAFETY: as in `meet_queries`; rows of scores are whole vectors.
        unsafe {
            let rows = (&key_rows[..], tokens_max - 1);
            let band = band(self.tiles, table, rows, &tokens, keys.clone(), &mut scratch.band);
            for (row, query) in queries.enumerate() {
                let places = key_rows[tokens_max - 1 + keys.start - query..].as_ptr();
                let scores = scratch.scores[row * stride..][..*stride].as_mut_ptr();
                for column in (0..keys.len()).step_by(S::LANES) {
                    let at = scores.add(column);
                    S::store(at, S::add(S::load(at), S::spread(band.start(row), places.add(column))));
                }
            }
        }
    }

    /// Adds the products of keys with positions: of `rows` queries from column `first` on.
    ///
    /// # Safety
    /// As for [`Self::add_relative`].
    #[inline(always)]
    unsafe fn add_transposed<S: Simd>(
        &mut self,
        first: usize,
        column_stride: usize,
        rows: usize,
        Span { keys, stride }: &Span,
    ) {
        let scratch = &mut self.scratch.attention;
        for key in (0..keys.len()).step_by(S::LANES) {
            let from = &scratch.by_key[key * column_stride + first..];
            let to = &mut scratch.scores[key..];
            // SAFETY: the caller vouches for S; `by_key` has whole blocks of keys and a vector more; a tile has no more rows than
            // a vector has lanes, and rows of scores are whole vectors.
            unsafe {
                let mut block = [S::splat(0.0); LANES_MAX];
                for (lane, vector) in block.iter_mut().enumerate().take(S::LANES) {
                    *vector = S::load(from[lane * column_stride..].as_ptr());
                }
                S::transpose(&mut block);
                for (row, &vector) in block.iter().enumerate().take(rows) {
                    let at = to[row * stride..].as_mut_ptr();
                    S::store(at, S::add(S::load(at), vector));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `make_log_bucket_position` of transformers gives for 256 buckets up to distance 512: the first distances behind
    /// the single ones, and where the table ends.
    #[test]
    fn buckets_are_those_of_the_reference() {
        let bucket = |distance: i64| i64::from(row(distance, 256, 512)) - 256;
        assert!((-128..=128).all(|distance| bucket(distance) == distance));
        let first = |wanted: i64| (0..600).find(|&distance| bucket(distance) == wanted);
        let starts: Vec<_> = (129..=134).map(|bucket| first(bucket).expect("every bucket is used")).collect();
        assert_eq!(starts, STARTS);
        assert_eq!([511, 512, 5000].map(bucket), [255, 255, 255], "rows end at twice the span");
        assert_eq!([-511, -512, -5000].map(bucket), [-255, -256, -256]);
    }

    const STARTS: [i64; 6] = [129, 130, 131, 133, 134, 136];

    #[test]
    fn sizes_that_cannot_be_spread_are_refused() {
        for (span, distance_max, tokens_max) in [(0, 512, 8), (256, 129, 8), (256, 512, 0), (16, 12, 40)] {
            assert!(RelativeBuckets::new(span, distance_max, tokens_max).is_err(), "{span} {distance_max}");
        }
        assert!(RelativeBuckets::new(16, 25, 5000).is_ok());
    }
}
