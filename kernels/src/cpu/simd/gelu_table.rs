//! The exact GELU through a table of quartics, for sets that permute sixteen lanes in one instruction.
//!
//! `GELU(x) = max(x, 0) - h(|x|)` with `h(a) = a Phi(-a)`, which vanishes beyond 6. Sixteen quartics around the
//! multiples of 3/8 fit `h` on `[0, 5.8]` (least squares at 400 Chebyshev nodes each, the first through 0) with an
//! absolute error below 4e-7. The look-ups run beside the multiplications of the GEMM that it follows; a polynomial of
//! the same precision costs twice as much, an exponential with a division four times.

use std::arch::x86_64::*;

const STEP: f32 = 0.375;
const LIMIT: f32 = 5.8;

/// `COEFFICIENTS[power][interval]`.
#[rustfmt::skip]
static COEFFICIENTS: [[f32; 16]; 5] = [
    [0.0, 0.132_686_33, 0.169_970_51, 0.146_581_34, 0.100_210_81, 0.056_993_18, 0.027_505_06, 0.011_372_674,
     0.004_049_693_2, 0.001_245_639_6, 0.000_331_565_04, 7.646_422e-5, 1.528_961_2e-5, 2.652_235_3e-6, 3.992_684_6e-7, 5.217_59e-8],
    [0.50000006, 0.214_391_92, 0.000_783_042_6, -0.108_062_36, -0.127_470_23, -0.098_581_33, -0.059_192_51, -0.029_069_643,
     -0.011_945_654, -0.004_156_874, -0.001_233_557, -0.000_313_563_42, -6.848_122_6e-5, -1.287_709_7e-5, -2.088_027_7e-6, -2.923_009_7e-7],
    [-0.398_948_73, -0.345_705_06, -0.216_444_2, -0.07780312, 0.016_186_316, 0.052_126_624, 0.048_602_56, 0.031_115_813,
     0.015_512_01, 0.006_297_020_2, 0.002_126_486_3, 0.000_604_593_8, 0.000_145_808_92, 2.997_743_8e-5, 5.272_597_3e-6, 7.954_197e-7],
    [0.000_153_015_37, 0.088_858_96, 0.128_396_32, 0.108_132_95, 0.056_781_594, 0.0108022755, -0.012_331_552, -0.015_964_951,
     -0.011079032, -0.005_612_274, -0.002_247_034, -0.000_735_380_9, -0.000_200_244_35, -4.585_614_4e-5, -8.893_479e-6, -1.467_939_5e-6],
    [0.065_509_94, 0.046_728_1, 0.004_881_063_5, -0.028404234, -0.035832718, -0.023_608_76, -0.007_774_343, 0.0016290209,
     0.004_021_529_6, 0.003_014_591_3, 0.001_525_967_6, 0.000_592_074_94, 0.000_184_594_16, 4.734_633_7e-5, 1.01284995e-05, 1.823_215_5e-6],
];

/// `a * Phi(a)`, absolute error below 4e-7; NaN stays NaN.
///
/// # Safety
/// The machine has AVX-512 F and DQ.
#[inline(always)]
pub(super) unsafe fn gelu_erf(x: __m512) -> __m512 {
    // SAFETY: the caller vouches for the set; each row of the table has the 16 lanes that a load reads.
    unsafe {
        let row = |power: usize| _mm512_loadu_ps(COEFFICIENTS[power].as_ptr());
        let a = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(LIMIT));
        let interval = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
            _mm512_mul_ps(a, _mm512_set1_ps(1.0 / STEP)),
        );
        let t = _mm512_fnmadd_ps(interval, _mm512_set1_ps(STEP), a);
        let index = _mm512_cvtps_epi32(interval);
        let mut h = _mm512_permutexvar_ps(index, row(4));
        for power in (0..4).rev() {
            h = _mm512_fmadd_ps(h, t, _mm512_permutexvar_ps(index, row(power)));
        }
        // The second operand wins when one is NaN.
        _mm512_sub_ps(_mm512_max_ps(_mm512_setzero_ps(), x), h)
    }
}

/// The step of [`QUADRATICS`], and the last of their intervals, beyond which `h` counts as what it is at 5.9: 1e-8.
const STEP_BF16: f32 = 0.1875;
const LIMIT_BF16: f32 = 31.49;

/// `QUADRATICS[power][interval]`, of `|x| / STEP_BF16`.
#[rustfmt::skip]
static QUADRATICS: [[f32; 32]; 3] = [
    [
        0.0, 0.00020064942, 0.0035130312, 0.016686255, 0.047025558, 0.09840413, 0.16856876, 0.24888717,
        0.3265684, 0.38835853, 0.4242264, 0.42974728, 0.4065707, 0.36114872, 0.30245802, 0.23960783,
        0.18002976, 0.1285689, 0.08742888, 0.056696188, 0.035106268, 0.020778703, 0.011766851, 0.0063805967,
        0.0033153375, 0.001651689, 0.000789405, 0.0003621202, 0.00015950493, 6.748875e-5, 2.7439428e-5, 1.0723603e-5,
    ],
    [
        0.09374327, 0.09312495, 0.08886506, 0.07844119, 0.061167557, 0.038344402, 0.0127993, -0.01197286,
        -0.0327589, -0.047367107, -0.05497619, -0.056069545, -0.05206395, -0.044807445, -0.03611341, -0.027439276,
        -0.019744013, -0.013498277, -0.008789546, -0.005461633, -0.0032433844, -0.0018429814, -0.0010030518, -0.00052331964,
        -0.00026191302, -0.00012582129, -5.8047357e-5, -2.5729834e-5, -1.0961962e-5, -4.4904154e-6, -1.7691501e-6, -6.7056556e-7,
    ],
    [
        -0.013993002, -0.013519758, -0.012139316, -0.010070639, -0.0076078326, -0.0050706384, -0.0027439708, -0.00083295675,
        0.0005580302, 0.0014216664, 0.0018252891, 0.0018793535, 0.0017062628, 0.0014164051, 0.0010944001, 0.0007950849,
        0.0005465784, 0.00035705516, 0.00022231035, 0.00013221371, 7.523243e-5, 4.1011328e-5, 2.143956e-5, 1.0757198e-5,
        5.18379e-6, 2.4005187e-6, 1.0687544e-6, 4.576578e-7, 1.8855762e-7, 7.476832e-8, 2.854137e-8, 1.04909565e-8,
    ],
];

/// `a * Phi(a)` for a result that is rounded to bf16: off by less than half as much as the rounding, 2^-9 of the result
/// or 1e-7; NaN stays NaN.
///
/// Thirty-two quadratics instead of sixteen quartics: half of the multiplications, which the GEMM around it lacks units for.
///
/// # Safety
/// The machine has AVX-512 F and DQ.
#[inline(always)]
pub(super) unsafe fn gelu_erf_bf16(x: __m512) -> __m512 {
    // SAFETY: the caller vouches for the set.
    unsafe {
        let steps = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(1.0 / STEP_BF16));
        let steps = _mm512_min_ps(steps, _mm512_set1_ps(LIMIT_BF16));
        // At this magnitude the lowest bit is worth 1: the sum is rounded to the nearest integer, in its lowest bits.
        let index = _mm512_castps_si512(_mm512_add_ps(steps, _mm512_set1_ps(12_582_912.0)));
        let mut h = look_up(2, index);
        h = _mm512_fmadd_ps(h, steps, look_up(1, index));
        h = _mm512_fmadd_ps(h, steps, look_up(0, index));
        // The second operand wins when one is NaN.
        _mm512_sub_ps(_mm512_max_ps(_mm512_setzero_ps(), x), h)
    }
}

/// One coefficient for each lane; the permutation reads the five lowest bits of an index.
///
/// # Safety
/// As for [`gelu_erf_bf16`].
#[inline(always)]
unsafe fn look_up(power: usize, index: __m512i) -> __m512 {
    let [low, high] = [0, 16].map(|first| QUADRATICS[power][first..].as_ptr());
    // SAFETY: the caller vouches for the set; both halves of the row have the 16 lanes that a load reads.
    unsafe { _mm512_permutex2var_ps(_mm512_loadu_ps(low), index, _mm512_loadu_ps(high)) }
}
