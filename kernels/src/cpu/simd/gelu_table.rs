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
