//! Register tiles in f16, for cores that multiply f16 at twice the rate of f32 and lack fast bf16 (AVX-512-FP16 without
//! AMX).
//!
//! The products are summed in f16 over short stretches of K and the stretches in f32. Operands are scaled by powers of
//! two, rows of A to at most 1 and each column of B so that no stretch can reach the largest f16: nothing overflows,
//! whatever the model. Over a stretch the sums lose about 2^-9.5 of their size, as much as rounding both operands to bf16
//! costs.
//!
//! A unit is a pair of neighbours along K, as for bf16: the lanes of a vector are 16 columns times two parities, and the
//! parities meet at the end of a stretch.

use super::operand::STRETCH_STEPS;
use super::tile::{Tile, TileArgs};
use std::arch::x86_64::*;

/// Two vectors of 16 columns.
const VECTORS: usize = 2;
const COLUMNS: usize = 16 * VECTORS;

/// Adds both parities of a sum and widens them to 16 columns.
///
/// # Safety
/// The machine has AVX-512 with FP16.
#[inline(always)]
unsafe fn columns_of(sum: __m512h) -> __m512 {
    // SAFETY: the caller vouches for the set; the casts are between vectors of 64 bytes of plain data.
    unsafe {
        let odd = _mm512_castsi512_ph(_mm512_srli_epi32::<16>(_mm512_castph_si512(sum)));
        let both = _mm512_castph_si512(_mm512_add_ph(sum, odd));
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both))
    }
}

/// # Safety
/// As for [`Tile`]; A and B are pairs of f16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512fp16,avx2,fma")]
unsafe fn tile<const ROWS: usize>(args: &TileArgs) {
    // SAFETY: the caller's contract: every pointer below stays inside of the operands that it names.
    unsafe {
        let (mut a, mut b, mut next) = (args.a, args.b, args.next);
        let mut left = args.steps;
        let mut first = true;
        while left > 0 || first {
            let mut sums = [[_mm512_setzero_ph(); VECTORS]; ROWS];
            let stretch = left.min(STRETCH_STEPS);
            for _ in 0..stretch {
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
                let columns: [__m512h; VECTORS] = std::array::from_fn(|vector| {
                    _mm512_castsi512_ph(_mm512_loadu_si512(b.add(16 * vector).cast()))
                });
                for (row, sums) in sums.iter_mut().enumerate() {
                    let unit = _mm512_castsi512_ph(_mm512_set1_epi32(*a.add(row * args.a_stride) as i32));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ph(unit, column, *sum);
                    }
                }
                a = a.add(1);
                b = b.add(COLUMNS);
                next = next.wrapping_add(64);
            }
            for (row, sums) in sums.iter().enumerate() {
                for (vector, &sum) in sums.iter().enumerate() {
                    let out = args.out.cast::<f32>().add(row * args.out_stride + 16 * vector);
                    let before = if first { args.start.add(16 * vector) } else { out.cast_const() };
                    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(before), columns_of(sum)));
                }
            }
            left -= stretch;
            first = false;
        }
    }
}

/// `TILES[rows - 1]`.
pub(super) static TILES: [Tile; 14] = [
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>,
    tile::<10>, tile::<11>, tile::<12>, tile::<13>, tile::<14>,
];

/// Converts one row to f16, scaled to at most 1, and returns what scales its sums back. An odd row ends in a 0.
///
/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) unsafe fn scale_row(from: &[f32], to: &mut [u32]) -> f32 {
    assert_eq!(to.len(), from.len().div_ceil(2));
    let len = from.len();
    let whole = len - len % 16;
    let tail = (1u32 << (len - whole)) - 1;
    // An odd row's last unit has room for one element more, a 0.
    let tail_stored = (1u32 << (len - whole).next_multiple_of(2)) - 1;
    // SAFETY: whole vectors lie inside of the row, masks keep the rest to it and to its units.
    unsafe {
        let (from, to) = (from.as_ptr(), to.as_mut_ptr().cast::<i16>());
        let last = _mm512_maskz_loadu_ps(tail as __mmask16, from.add(whole));
        // Four maxima side by side hide the latency of each.
        let mut maxima = [_mm512_abs_ps(last); 4];
        for (index, start) in (0..whole).step_by(16).enumerate() {
            let magnitudes = _mm512_abs_ps(_mm512_loadu_ps(from.add(start)));
            maxima[index % 4] = _mm512_max_ps(magnitudes, maxima[index % 4]);
        }
        let maxima = _mm512_max_ps(_mm512_max_ps(maxima[0], maxima[1]), _mm512_max_ps(maxima[2], maxima[3]));
        let (scale, inverse) = super::operand::power_of_two_scale(_mm512_reduce_max_ps(maxima));
        let scale = _mm512_set1_ps(scale);
        let narrow = |values| _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(_mm512_mul_ps(values, scale));
        for start in (0..whole).step_by(16) {
            _mm256_storeu_si256(to.add(start).cast(), narrow(_mm512_loadu_ps(from.add(start))));
        }
        _mm256_mask_storeu_epi16(to.add(whole), tail_stored as __mmask16, narrow(last));
        inverse
    }
}
