//! Elementary functions over [`Simd`].

use super::Simd;
use crate::cpu::Activation;

/// `2^t` for `t` in `[-1/2, 1/2]`, by powers of `t`: least squares of the relative error at Chebyshev nodes, 2.2e-7 in f32.
pub(crate) const EXP2: [f32; 6] =
    [1.0, 0.693_146_94, 0.240_221_22, 0.055_507_426, 0.009_675_46, 0.001_326_697];

/// The same to 7.8e-5, a fiftieth of what rounding to bf16 may cost.
pub(crate) const EXP2_BF16: [f32; 4] = [0.999_928_95, 0.693_276_2, 0.242_604_05, 0.055_088_684];

/// # Safety
/// The machine supports `S`.
#[inline(always)]
unsafe fn polynomial<S: Simd, const TERMS: usize>(t: S::V, by_power: [f32; TERMS]) -> S::V {
    // SAFETY: the caller vouches for the set.
    unsafe {
        let mut p = S::splat(by_power[TERMS - 1]);
        for power in (0..TERMS - 1).rev() {
            p = S::fma(p, t, S::splat(by_power[power]));
        }
        p
    }
}

/// `2^x` for `x <= 0`, as exact as `fraction` ([`EXP2`] or [`EXP2_BF16`]); what lies below -126 counts as -126.
///
/// # Safety
/// The machine supports `S`.
#[inline(always)]
pub(crate) unsafe fn exp2_of_negative<S: Simd, const TERMS: usize>(x: S::V, fraction: [f32; TERMS]) -> S::V {
    // SAFETY: the caller vouches for the set.
    unsafe {
        let x = S::max(S::splat(-126.0), x);
        let n = S::round(x);
        S::scale_pow2(polynomial::<S, TERMS>(S::sub(x, n), fraction), n)
    }
}

/// `e^x`, relative error below 1e-6; arguments are clamped to `[-87.3, 88]`.
///
/// # Safety
/// The machine supports `S`.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    const LOG2_E_LOW: f32 = (std::f64::consts::LOG2_E - std::f32::consts::LOG2_E as f64) as f32;
    // SAFETY: the caller vouches for the set.
    unsafe {
        let x = S::min(S::splat(88.0), S::max(S::splat(-87.3), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let t = S::fma(x, S::splat(std::f32::consts::LOG2_E), S::sub(S::splat(0.0), n));
        S::scale_pow2(polynomial::<S, 6>(S::fma(x, S::splat(LOG2_E_LOW), t), EXP2), n)
    }
}

/// `1 / (1 + e^-x)`.
///
/// # Safety
/// The machine supports `S`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller vouches for the set.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// `x Phi(x)`: `max(x, 0) - |x| erfc(|x| / sqrt 2) / 2` with Abramowitz and Stegun 7.1.26, absolute error below 1e-6.
///
/// # Safety
/// The machine supports `S`.
#[inline(always)]
pub(super) unsafe fn gelu_erf<S: Simd>(x: S::V) -> S::V {
    const P: [f32; 5] = [0.254_829_6, -0.284_496_72, 1.421_413_8, -1.453_152_1, 1.061_405_4];
    // SAFETY: the caller vouches for the set.
    unsafe {
        let zero = S::splat(0.0);
        let a = S::max(x, S::sub(zero, x));
        let z = S::mul(a, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::div(S::splat(1.0), S::fma(z, S::splat(0.3275911), S::splat(1.0)));
        let p = polynomial::<S, 5>(t, P);
        let tail = S::mul(S::mul(p, t), exp::<S>(S::sub(zero, S::mul(z, z))));
        // `x` second: the x86 maximum returns its second operand when one is NaN.
        S::sub(S::max(zero, x), S::mul(S::mul(S::splat(0.5), a), tail))
    }
}

/// One activation function.
///
/// # Safety
/// The machine supports `S`.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(activation: Activation, x: S::V) -> S::V {
    // SAFETY: the caller vouches for the set.
    unsafe {
        match activation {
            Activation::Identity => x,
            Activation::GeluErf => S::gelu_erf(x),
            Activation::GeluTanh => {
                // x sigmoid(2u) = x (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3).
                let cubic = S::fma(S::mul(x, x), S::splat(0.044715), S::splat(1.0));
                let two_u = S::mul(S::mul(x, cubic), S::splat(1.595_769));
                S::mul(x, sigmoid::<S>(two_u))
            }
            Activation::Silu => S::mul(x, sigmoid::<S>(x)),
            Activation::Relu => S::max(S::splat(0.0), x),
            Activation::Tanh => {
                let s = sigmoid::<S>(S::add(x, x));
                S::sub(S::add(s, s), S::splat(1.0))
            }
        }
    }
}
