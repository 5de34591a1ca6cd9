//! Register tiles: a few rows of A times one panel of B, over the whole of K in one pass.
//!
//! Each step broadcasts one 32-bit unit of A per row and multiplies it with the panel's columns. Every row's sums run
//! over K in the same order whatever the height of its tile, so its bits do not depend on its neighbours. A is read in
//! place: no packing, and the epilogue of one product can write the operand of the next.

use super::isa::CpuIsa;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

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

/// One tile: `out[rows, columns] = start[columns] + a[rows, steps] b[steps, columns]`.
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
    pub(crate) out: *mut f32,
    /// Elements from one row of `out` to the next.
    pub(crate) out_stride: usize,
}

/// Computes one tile of a fixed height.
///
/// # Safety
/// The machine has the set that the tile was listed under. Readable: `rows` rows of `steps` units at `a`, a panel of
/// `steps` units (pairs: half, rounded up) at `b`, one panel's columns at `start`. Writable: `rows` rows of one panel's
/// columns at `out`.
pub(crate) type Tile = unsafe fn(&TileArgs);

/// The tiles of one set and format; `tiles[rows - 1]`.
pub(crate) fn tiles(isa: CpuIsa, format: TileFormat) -> &'static [Tile] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx2 => pick(&AVX2, format),
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx512Fp16 if format == TileFormat::F16 => &super::tile_f16::TILES,
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx512 | CpuIsa::Avx512Fp16 => pick(&AVX512, format),
        #[cfg(target_arch = "x86_64")]
        CpuIsa::Avx512Bf16 => pick(&AVX512_BF16, format),
        _ => pick(&PORTABLE, format),
    }
}

fn pick<const ROWS: usize>(tiles: &'static [[Tile; ROWS]; 3], format: TileFormat) -> &'static [Tile] {
    // Weights of f16 are packed for no other set, so their format is asked of no other.
    let tiles = &tiles[(format as usize).min(2)];
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

    /// # Safety
    /// As for [`Tile`]: `units` units of A in each row, one row of units of the panel.
    unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
        sums: &mut [[S::V; VECTORS]; ROWS],
        a: *const u32,
        a_stride: usize,
        b: *const u32,
        units: usize,
    );
}

/// Multiplies one unit of every row with the columns that `column(vector)` gives.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn each_row<S: Simd, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[S::V; VECTORS]; ROWS],
    a: *const u32,
    a_stride: usize,
    columns: [S::V; VECTORS],
    multiply: impl Fn(S::V, S::V, S::V) -> S::V,
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: one unit of row `row`, which the caller vouches for. A row of bf16 may start on any even address.
        let unit = unsafe { S::splat(a.add(row * a_stride).cast::<f32>().read_unaligned()) };
        for (sum, &column) in sums.iter_mut().zip(&columns) {
            *sum = multiply(unit, column, *sum);
        }
    }
}

/// The vectors of one row of units of the panel.
///
/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn columns<S: Simd, const VECTORS: usize>(
    b: *const u32,
    widen: impl Fn(S::V) -> S::V,
) -> [S::V; VECTORS] {
    std::array::from_fn(|vector| {
        // SAFETY: a panel's row of units is VECTORS vectors long.
        widen(unsafe { S::load(b.add(vector * S::LANES).cast()) })
    })
}

struct F32;
struct F32ByBf16;
struct Bf16;

impl Format for F32 {
    const A_PER_B: usize = 1;
    #[inline(always)]
    unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
        sums: &mut [[S::V; VECTORS]; ROWS],
        a: *const u32,
        a_stride: usize,
        b: *const u32,
        _units: usize,
    ) {
        // SAFETY: the caller's contract is the same.
        unsafe {
            each_row::<S, ROWS, VECTORS>(sums, a, a_stride, columns::<S, VECTORS>(b, |v| v), |a, b, c| {
                S::fma(a, b, c)
            })
        }
    }
}

impl Format for F32ByBf16 {
    const A_PER_B: usize = 2;
    #[inline(always)]
    unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
        sums: &mut [[S::V; VECTORS]; ROWS],
        a: *const u32,
        a_stride: usize,
        b: *const u32,
        units: usize,
    ) {
        // SAFETY: the caller's contract is the same; the second unit of A is read only if there is one.
        unsafe {
            let even = columns::<S, VECTORS>(b, |v| S::even(v));
            each_row::<S, ROWS, VECTORS>(sums, a, a_stride, even, |a, b, c| S::fma(a, b, c));
            if units > 1 {
                let odd = columns::<S, VECTORS>(b, |v| S::odd(v));
                each_row::<S, ROWS, VECTORS>(sums, a.add(1), a_stride, odd, |a, b, c| S::fma(a, b, c));
            }
        }
    }
}

impl Format for Bf16 {
    const A_PER_B: usize = 1;
    #[inline(always)]
    unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
        sums: &mut [[S::V; VECTORS]; ROWS],
        a: *const u32,
        a_stride: usize,
        b: *const u32,
        _units: usize,
    ) {
        // SAFETY: the caller's contract is the same.
        unsafe {
            let pairs = columns::<S, VECTORS>(b, |v| v);
            each_row::<S, ROWS, VECTORS>(sums, a, a_stride, pairs, |a, b, c| S::dot_pairs(a, b, c));
        }
    }
}

/// # Safety
/// As for [`Tile`].
#[inline(always)]
unsafe fn tile<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(args: &TileArgs) {
    // SAFETY: the caller's contract: every pointer below stays inside of the operands that it names.
    unsafe {
        let start = columns::<S, VECTORS>(args.start.cast(), |v| v);
        let mut sums = [start; ROWS];
        let (mut a, mut b, mut next) = (args.a, args.b, args.next);
        for _ in 0..args.steps / F::A_PER_B {
            S::prefetch(next);
            F::step::<S, ROWS, VECTORS>(&mut sums, a, args.a_stride, b, F::A_PER_B);
            a = a.add(F::A_PER_B);
            b = b.add(VECTORS * S::LANES);
            next = next.wrapping_add(64);
        }
        if !args.steps.is_multiple_of(F::A_PER_B) {
            F::step::<S, ROWS, VECTORS>(&mut sums, a, args.a_stride, b, 1);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                S::store(args.out.add(row * args.out_stride + vector * S::LANES), sum);
            }
        }
    }
}

/// The tiles of one set for every height and format, in the order of [`TileFormat`].
macro_rules! tile_table {
    ($(#[$cfg:meta])? $table:ident, $function:ident, $set:ty, $rows:literal, [$($height:literal)*] $(, $feature:literal)?) => {
        /// # Safety
        /// As for [`Tile`].
        $(#[$cfg])?
        $(#[target_feature(enable = $feature)])?
        unsafe fn $function<F: Format, const ROWS: usize>(args: &TileArgs) {
            // SAFETY: the caller's contract is the same.
            unsafe { tile::<$set, F, ROWS, 2>(args) }
        }
        $(#[$cfg])?
        static $table: [[Tile; $rows]; 3] = [
            [$($function::<F32, $height>),*],
            [$($function::<F32ByBf16, $height>),*],
            [$($function::<Bf16, $height>),*],
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
