//! Every op, format and instruction set of this machine against the f64 references, and bit identity.

mod attention;
mod disentangled;
mod heads;
mod linear;
mod pointwise;
mod rope;
mod spans;

use super::{CpuIsa, CpuWorkers, Element};
use crate::Dtype;
use half::bf16;

/// A deterministic stream of roughly normal values (SplitMix64, sum of four uniforms).
pub(crate) struct Values(u64);

impl Values {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn next(&mut self) -> f32 {
        let bits = self.bits();
        let sum: f32 = (0..4).map(|part| (bits >> (16 * part) & 0xffff) as f32 / 65536.0).sum();
        (sum - 2.0) * 1.732
    }

    /// `len` values of about `scale`, rounded to `T`.
    pub(super) fn take<T: Element>(&mut self, len: usize, scale: f32) -> Vec<T> {
        (0..len).map(|_| T::from_f32(scale * self.next())).collect()
    }
}

pub(super) fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

/// What storing one value costs, relative to it.
pub(super) fn rounding(dtype: Dtype) -> f64 {
    if dtype == Dtype::F32 { 2f64.powi(-24) } else { 2f64.powi(-8) }
}

/// Asserts `|found - expected| <= absolute + relative |expected|` everywhere.
pub(super) fn assert_close<T: Element>(
    found: &[T],
    expected: &[f64],
    absolute: f64,
    relative: f64,
    what: &str,
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, &expected)) in wide(found).into_iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        let allowed = absolute + relative * expected.abs();
        assert!(error <= allowed, "{what}: element {index} is {found}, expected {expected} +- {allowed}");
    }
}

/// Runs `test` on every set of this machine with a lane of `threads`.
pub(super) fn on_every_isa(threads: usize, mut test: impl FnMut(CpuIsa, &mut CpuWorkers)) {
    let mut workers = CpuWorkers::new(threads);
    CpuIsa::available().for_each(|isa| test(isa, &mut workers));
}

pub(super) fn bits<T: Element>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}

#[test]
fn elements_round_to_nearest_even() {
    assert_eq!(<bf16 as Element>::from_f32(1.0 + 1.0 / 256.0).to_f32(), 1.0);
    assert_eq!(<bf16 as Element>::from_f32(1.0 + 3.0 / 256.0).to_f32(), 1.0 + 4.0 / 256.0);
    assert!(<bf16 as Element>::from_f32(f32::NAN).to_f32().is_nan());
}

#[test]
fn a_missing_instruction_set_is_refused() {
    let mut workers = CpuWorkers::new(1);
    for isa in CpuIsa::ALL {
        assert_eq!(workers.ops(isa, 1).is_ok(), isa.is_available());
    }
}
