//! Register tiles: a few rows of A times one panel of B, over the whole of K in one pass.
//!
//! Each step broadcasts one 32-bit unit of A per row and multiplies it with the panel's columns. Every row's sums run
//! over K in the same order whatever the height of its tile, so its bits do not depend on its neighbours. A is read in
//! place: no packing, and the epilogue of one product, applied while the sums are in registers, writes the operand of the
//! next.

use super::element::{self, Element};
use super::isa::CpuIsa;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};
use half::bf16;

/// The widest panel of any set.
pub(crate) const COLUMNS_MAX: usize = 32;
/// The tallest tile of any set.
pub(crate) const ROWS_MAX: usize = 14;

/// What sums without a bias start with.
pub(crate) static ZEROS: [f32; COLUMNS_MAX] = [0.0; COLUMNS_MAX];

/// Columns of one panel: two vectors.
pub(crate) const fn panel_columns(isa: CpuIsa) -> usize {
    match isa {
        CpuIsa::Portable | CpuIsa::Avx2 => 16,
        CpuIsa::Avx512 | CpuIsa::Avx512Bf16 | CpuIsa::Avx512Fp16 => 32,
    }
}

/// What the units of A and B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TileFormat {
    /// f32 times f32.
    F32,
    /// f32 times pairs of bf16, widened in registers; `steps` counts f32, the last pair may be half used.
    F32ByBf16,
    /// Pairs of bf16 times pairs of bf16.
    Bf16,
    /// Pairs of f16 times pairs of f16; only where the set has them.
    F16,
}

/// What becomes of the sums of a tile while they are in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Stored as f32, whatever the format.
    Sums,
    /// Stored in the format of the activations.
    Store,
    /// Added to what is there.
    Add,
}

impl Finish {
    const COUNT: usize = 3;
}

/// One tile: `out[rows, columns] = finish(start[columns] + a[rows, steps] b[steps, columns])`.
pub(crate) struct TileArgs {
    /// Units of A per row.
    pub(crate) steps: usize,
    pub(crate) a: *const u32,
    /// Units from one row of A to the next.
    pub(crate) a_stride: usize,
    pub(crate) b: *const u32,
    /// Lines that are prefetched, one per step; any address will do.
    pub(crate) next: *const u8,
    /// What the sums start with: the bias.
    pub(crate) start: *const f32,
    /// Elements of the activations, f32 for [`Finish::Sums`].
    pub(crate) out: *mut u8,
    /// Elements from one row of `out` to the next.
    pub(crate) out_stride: usize,
}

/// Computes one tile of a fixed height.
///
/// # Safety
/// The machine has the set that the tile was listed under. Readable: `rows` rows of `steps` units at `a`, a panel of
/// `steps` units (pairs: half, rounded up) at `b`, one panel's columns at `start`. Writable: `rows` rows of one panel's
/// columns at `out`; with [`Finish::Add`] they are initialised.
pub(crate) type Tile = unsafe fn(&TileArgs);

/// The tiles of one set, format and finish; `tiles[rows - 1]`. F16 knows [`Finish::Sums`] alone, whatever is asked for.
pub(crate) fn tiles(isa: CpuIsa, format: TileFormat, finish: Finish) -> &'static [Tile] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx2 => pick(&AVX2, format, finish),
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx512Fp16 if format == TileFormat::F16 => &super::tile_f16::TILES,
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx512 | CpuIsa::Avx512Fp16 => pick(&AVX512, format, finish),
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx512Bf16 => pick(&AVX512_BF16, format, finish),
        _ => pick(&PORTABLE, format, finish),
    }
}

/// For every format (but F16), finish and height.
type TileTable<const ROWS: usize> = [[[Tile; ROWS]; Finish::COUNT]; 3];

fn pick<const ROWS: usize>(
    table: &'static TileTable<ROWS>,
    format: TileFormat,
    finish: Finish,
) -> &'static [Tile] {
    // Weights of f16 are packed for no other set, so their format is asked of no other.
    let tiles = &table[(format as usize).min(2)][finish as usize];
    match format {
        // Both halves of the pairs are in registers at once: two rows fewer, or the sums spill.
        TileFormat::F32ByBf16 if ROWS > 4 => &tiles[..ROWS - 2],
        _ => tiles,
    }
}

/// How one unit of A meets the panel.
trait Format {
    /// Units of A per unit of B.
    const A_PER_B: usize;
    /// The activations that are multiplied, and that the products become.
    type Activation: Element;

    /// The part of a vector of B that unit `index` of A is multiplied with.
    ///
    /// # Safety
    /// The machine supports `S`.
    #[inline(always)]
    unsafe fn part<S: Simd>(b: S::V, _index: usize) -> S::V {
        b
    }

    /// # Safety
    /// The machine supports `S`.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller vouches for the set.
        unsafe { S::fma(a, b, sum) }
    }
}

struct F32;
struct F32ByBf16;
struct Bf16;

impl Format for F32 {
    const A_PER_B: usize = 1;
    type Activation = f32;
}

impl Format for F32ByBf16 {
    const A_PER_B: usize = 2;
    type Activation = f32;

    #[inline(always)]
    unsafe fn part<S: Simd>(b: S::V, index: usize) -> S::V {
        // SAFETY: the caller vouches for the set.
        unsafe { if index == 0 { S::even(b) } else { S::odd(b) } }
    }
}

impl Format for Bf16 {
    const A_PER_B: usize = 1;
    type Activation = bf16;

    #[inline(always)]
    unsafe fn multiply<S: Simd>(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller vouches for the set.
        unsafe { S::dot_pairs(a, b, sum) }
    }
}

/// [`Finish`] as a type, so that it is compiled into its tiles.
trait Fused<F: Format> {
    type Out: Element;

    /// What is stored at `at`.
    ///
    /// # Safety
    /// The machine supports `S`; `S::LANES` elements are there.
    #[inline(always)]
    unsafe fn apply<S: Simd>(sum: S::V, _at: *const Self::Out) -> S::V {
        sum
    }
}

struct Sums;
struct Store;
struct Add;

impl<F: Format> Fused<F> for Sums {
    type Out = f32;
}

impl<F: Format> Fused<F> for Store {
    type Out = F::Activation;
}

impl<F: Format> Fused<F> for Add {
    type Out = F::Activation;

    #[inline(always)]
    unsafe fn apply<S: Simd>(sum: S::V, at: *const F::Activation) -> S::V {
        // SAFETY: the caller vouches for the set and for the elements.
        unsafe { S::add(sum, element::load::<S, F::Activation>(at, S::LANES)) }
    }
}

/// The vectors of one row of units of the panel.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn columns<S: Simd, const VECTORS: usize>(b: *const f32) -> [S::V; VECTORS] {
    // SAFETY: a panel's row of units is VECTORS vectors long.
    unsafe {
        // A closure may stay a function of its own, without the features of this one.
        let mut columns = [S::splat(0.0); VECTORS];
        for (vector, column) in columns.iter_mut().enumerate() {
            *column = S::load(b.add(vector * S::LANES));
        }
        columns
    }
}

/// Multiplies `units` units of every row with one row of units of the panel.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn step<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[S::V; VECTORS]; ROWS],
    a: *const u32,
    a_stride: usize,
    b: *const u32,
    units: usize,
) {
    // SAFETY: the caller's contract. A row of bf16 may start on any even address.
    unsafe {
        let b = columns::<S, VECTORS>(b.cast());
        for unit in 0..units {
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = S::splat(a.add(row * a_stride + unit).cast::<f32>().read_unaligned());
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = F::multiply::<S>(a, F::part::<S>(b, unit), *sum);
                }
            }
        }
    }
}

/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn tile<S: Simd, F: Format, E: Fused<F>, const ROWS: usize, const VECTORS: usize>(args: &TileArgs) {
    // SAFETY: the caller's contract: every pointer below stays inside of the operands that it names.
    unsafe {
        let mut sums = [columns::<S, VECTORS>(args.start); ROWS];
        let (mut a, mut b, mut next) = (args.a, args.b, args.next);
        for _ in 0..args.steps / F::A_PER_B {
            S::prefetch(next);
            step::<S, F, ROWS, VECTORS>(&mut sums, a, args.a_stride, b, F::A_PER_B);
            a = a.add(F::A_PER_B);
            b = b.add(VECTORS * S::LANES);
            next = next.wrapping_add(64);
        }
        if !args.steps.is_multiple_of(F::A_PER_B) {
            step::<S, F, ROWS, VECTORS>(&mut sums, a, args.a_stride, b, 1);
        }
        let out = args.out.cast::<E::Out>();
        for (row, sums) in sums.iter_mut().enumerate() {
            let at = out.add(row * args.out_stride);
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = E::apply::<S>(*sum, at.add(vector * S::LANES));
            }
            element::store_all::<S, E::Out, VECTORS>(at, sums);
        }
    }
}

/// The tiles of one set, in the order of [`TileFormat`] and [`Finish`].
macro_rules! tile_table {
    (@heights $function:ident, $format:ty, $fused:ty, [$($height:literal)*]) => {
        [$($function::<$format, $fused, $height>),*]
    };
    (@finishes $function:ident, $format:ty, $heights:tt) => {
        [
            tile_table!(@heights $function, $format, Sums, $heights),
            tile_table!(@heights $function, $format, Store, $heights),
            tile_table!(@heights $function, $format, Add, $heights),
        ]
    };
    ($(#[$cfg:meta])? $table:ident, $function:ident, $set:ty, $rows:literal, $heights:tt $(, $feature:literal)?) => {
        /// # Safety
        /// As for [`Tile`].
        $(#[$cfg])?
        $(#[target_feature(enable = $feature)])?
        unsafe fn $function<F: Format, E: Fused<F>, const ROWS: usize>(args: &TileArgs) {
            // SAFETY: the caller's contract is the same.
            unsafe { tile::<$set, F, E, ROWS, 2>(args) }
        }
        $(#[$cfg])?
        static $table: TileTable<$rows> = [
            tile_table!(@finishes $function, F32, $heights),
            tile_table!(@finishes $function, F32ByBf16, $heights),
            tile_table!(@finishes $function, Bf16, $heights),
        ];
    };
}

tile_table!(PORTABLE, tile_portable, Portable, 3, [1 2 3]);
tile_table!(
    #[cfg(target_arch = "x86_64")]
    AVX2, tile_avx2, Avx2, 6, [1 2 3 4 5 6], "avx2,fma"
);
tile_table!(
    #[cfg(target_arch = "x86_64")]
    AVX512, tile_avx512, Avx512<false>, 14, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"
);
tile_table!(
    #[cfg(target_arch = "x86_64")]
    AVX512_BF16, tile_avx512_bf16, Avx512<true>, 14, [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma"
);

/// Splits `rows` into blocks of at most `cap`, whose heights differ by at most one: no masks and no short last block.
pub(crate) fn balanced(rows: usize, cap: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let blocks = rows.div_ceil(cap.max(1));
    (0..blocks).map(move |block| rows * block / blocks..rows * (block + 1) / blocks)
}

#[cfg(test)]
mod tests {
    use super::balanced;

    #[test]
    fn blocks_cover_the_rows_and_differ_by_at_most_one() {
        for rows in 0..200 {
            for cap in [1, 3, 6, 14] {
                let blocks: Vec<_> = balanced(rows, cap).collect();
                assert_eq!(blocks.iter().map(ExactSizeIterator::len).sum::<usize>(), rows);
                assert!(blocks.windows(2).all(|pair| pair[0].end == pair[1].start));
                let heights = blocks.iter().map(ExactSizeIterator::len);
                if let (Some(low), Some(high)) = (heights.clone().min(), heights.max()) {
                    assert!(high <= cap && high - low <= 1);
                }
            }
        }
    }
}
