//! AVX-512 F, BW, VL, DQ: sixteen lanes.

use super::{Kernel, LANES_MAX, Simd, gelu_table, lanes};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL, DQ; with `BF16` also the conversions of AVX-512-BF16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>;

/// Runs a kernel compiled for AVX-512.
///
/// # Safety
/// The machine has F, BW, VL, DQ and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) unsafe fn run(kernel: impl Kernel) {
    // SAFETY: the caller vouches for the set.
    unsafe { kernel.run::<Avx512<false>>() }
}

/// Runs a kernel compiled for AVX-512 with BF16.
///
/// # Safety
/// The machine has F, BW, VL, DQ, BF16 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16(kernel: impl Kernel) {
    // SAFETY: the caller vouches for the set.
    unsafe { kernel.run::<Avx512<true>>() }
}

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count < 16);
    ((1u32 << count) - 1) as __mmask16
}

/// Rounds to bf16: nearest, ties to even, NaN stays NaN. One instruction with `BF16`, which takes subnormals for 0.
///
/// # Safety
/// The machine supports the set.
#[inline(always)]
unsafe fn round_bf16<const BF16: bool>(vector: __m512) -> __m256i {
    // SAFETY: the caller vouches for the set; the transmute is between 32-byte vectors of plain data.
    unsafe {
        if BF16 {
            return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(vector));
        }
        let bits = _mm512_castps_si512(vector);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(vector, vector);
        let quiet = _mm512_set1_epi32(0x0040_0000);
        let chosen = _mm512_mask_or_epi32(rounded, nan, bits, quiet);
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen))
    }
}

/// Transposes a block of 16 by 16 in four rounds: pairs of lanes, of pairs, of quarters, of halves.
///
/// # Safety
/// The machine supports the set.
#[inline(always)]
unsafe fn transpose(rows: &mut [__m512; 16]) {
    // SAFETY: the caller vouches for the set; the casts and the transmute are between vectors of 64 bytes of plain data.
    unsafe {
        // A closure in `map` would stay a function of its own, without the features of this one.
        let mut t = std::mem::transmute::<[__m512; 16], [__m512i; 16]>(*rows);
        let mut u = t;
        for i in 0..8 {
            u[2 * i] = _mm512_unpacklo_epi32(t[2 * i], t[2 * i + 1]);
            u[2 * i + 1] = _mm512_unpackhi_epi32(t[2 * i], t[2 * i + 1]);
        }
        for i in 0..4 {
            for half in 0..2 {
                t[4 * i + 2 * half] = _mm512_unpacklo_epi64(u[4 * i + half], u[4 * i + half + 2]);
                t[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(u[4 * i + half], u[4 * i + half + 2]);
            }
        }
        for i in 0..4 {
            for high in [0, 8] {
                u[high + i] = _mm512_shuffle_i32x4::<0x88>(t[high + i], t[high + i + 4]);
                u[high + i + 4] = _mm512_shuffle_i32x4::<0xdd>(t[high + i], t[high + i + 4]);
            }
        }
        for i in 0..8 {
            rows[i] = _mm512_castsi512_ps(_mm512_shuffle_i32x4::<0x88>(u[i], u[i + 8]));
            rows[i + 8] = _mm512_castsi512_ps(_mm512_shuffle_i32x4::<0xdd>(u[i], u[i + 8]));
        }
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    type V = __m512;

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: SSE is part of x86-64, and a prefetch of a bad address is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[inline(always)]
    fn prefetch_write(line: *const u8) {
        // SAFETY: every machine with AVX-512 has PREFETCHW, and a prefetch of a bad address is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) }
    }

    lanes! {
        splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        store(to: *mut f32, vector: __m512) -> () { _mm512_storeu_ps(to, vector) }
        load_bf16(from: *const bf16) -> __m512 {
            let halves = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
        store_bf16(to: *mut bf16, vector: __m512) -> () { _mm256_storeu_si256(to.cast(), round_bf16::<BF16>(vector)) }
        store_bf16_pair(to: *mut bf16, first: __m512, second: __m512) -> () {
            if BF16 {
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
                return _mm512_storeu_si512(to.cast(), both);
            }
            Self::store_bf16(to, first);
            Self::store_bf16(to.add(Self::LANES), second);
        }
        load_f16(from: *const f16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        transpose(rows: &mut [__m512; LANES_MAX]) -> () { transpose(rows) }
        spread(row: *const f32, places: *const u32) -> __m512 {
            let first = places.read();
            let lanes = _mm512_sub_epi32(_mm512_loadu_si512(places.cast()), _mm512_set1_epi32(first as i32));
            _mm512_permutexvar_ps(lanes, Self::load(row.wrapping_add(first as usize)))
        }
        even(pairs: __m512) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pairs)))
        }
        odd(pairs: __m512) -> __m512 {
            let upper = _mm512_set1_epi32(0xffff_0000u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), upper))
        }
        dot_pairs(a: __m512, b: __m512, c: __m512) -> __m512 {
            if BF16 {
                let pairs = |bits: __m512| std::mem::transmute::<__m512, __m512bh>(bits);
                return _mm512_dpbf16_ps(c, pairs(a), pairs(b));
            }
            let upper = _mm512_fmadd_ps(Self::odd(a), Self::odd(b), c);
            _mm512_fmadd_ps(Self::even(a), Self::even(b), upper)
        }
        add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        round(a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        scale_pow2(a: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(a, n) }
        sum(a: __m512) -> f32 { _mm512_reduce_add_ps(a) }
        max_lane(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        load_first(from: *const f32, count: usize) -> __m512 { _mm512_maskz_loadu_ps(first(count), from) }
        store_first(to: *mut f32, count: usize, vector: __m512) -> () {
            _mm512_mask_storeu_ps(to, first(count), vector)
        }
        load_bf16_first(from: *const bf16, count: usize) -> __m512 {
            let halves = _mm256_maskz_loadu_epi16(first(count), from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
        store_bf16_first(to: *mut bf16, count: usize, vector: __m512) -> () {
            _mm256_mask_storeu_epi16(to.cast(), first(count), round_bf16::<BF16>(vector))
        }
        gelu_erf(a: __m512) -> __m512 { gelu_table::gelu_erf(a) }
        gelu_erf_bf16(a: __m512) -> __m512 { gelu_table::gelu_erf_bf16(a) }
    }
}
