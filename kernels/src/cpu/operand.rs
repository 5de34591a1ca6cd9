//! The left operand of a product as 32-bit units.

use super::AlignedBuf;
use super::element::Element;
use super::tile::TileFormat;
use crate::Dtype;

/// Units of a row that are summed in f16 before the sum goes on in f32.
pub(crate) const STRETCH_STEPS: usize = 192;

/// Bound for the sum of a column's magnitudes over one stretch, half of the largest f16: rows are scaled to at most 1, so
/// no sum overflows.
pub(crate) const STRETCH_SUM_MAX: f32 = 32_000.0;

/// Rows that are not read in place: odd rows of bf16, filled up to whole pairs, and rows narrowed to f16.
pub(crate) struct Operand {
    units: AlignedBuf<u32>,
    inverse_scales: AlignedBuf<f32>,
    /// The call and the first row whose units are there.
    prepared: Option<(u64, usize)>,
}

/// Some rows of the operand.
#[derive(Clone, Copy)]
pub(crate) struct Units<'a> {
    pub(crate) first: *const u32,
    /// Units from one row to the next.
    pub(crate) stride: usize,
    /// What scales each row's sums back; empty except for f16.
    pub(crate) inverse_scales: &'a [f32],
}

impl Operand {
    pub(crate) fn new() -> Self {
        Self { units: AlignedBuf::zeroed(0), inverse_scales: AlignedBuf::zeroed(0), prepared: None }
    }

    /// The rows of `x [_, inputs]`: in place where they are whole units, else copied, once for all products of a call with
    /// the same `key`.
    pub(crate) fn prepare<'a, T: Element>(
        &'a mut self,
        format: TileFormat,
        x: &'a [T],
        inputs: usize,
        key: (u64, usize),
    ) -> Units<'a> {
        let in_place = |stride| Units { first: x.as_ptr().cast(), stride, inverse_scales: &[] };
        if T::DTYPE == Dtype::F32 && format != TileFormat::F16 {
            return in_place(inputs);
        }
        if format == TileFormat::Bf16 && inputs.is_multiple_of(2) {
            return in_place(inputs / 2);
        }
        let stride = inputs.div_ceil(2);
        if self.prepared != Some(key) {
            self.units.reserve(x.len() / inputs * stride);
            self.inverse_scales.reserve(x.len() / inputs);
            let rows = x.chunks_exact(inputs).zip(self.units.chunks_exact_mut(stride));
            match format {
                TileFormat::F16 => rows
                    .zip(&mut *self.inverse_scales)
                    .for_each(|((from, to), inverse)| *inverse = narrow_row(bytemuck::cast_slice(from), to)),
                _ => rows.for_each(|(from, to)| copy_row(from, bytemuck::cast_slice_mut(to))),
            }
            self.prepared = Some(key);
        }
        Units { first: self.units.as_ptr(), stride, inverse_scales: &self.inverse_scales }
    }
}

/// Copies a row and ends it with a 0.
fn copy_row<T: Element>(from: &[T], to: &mut [T]) {
    to[..from.len()].copy_from_slice(from);
    to[from.len()..].fill(T::zeroed());
}

/// Converts one row to f16, scaled to at most 1, and returns what scales its sums back.
#[cfg(target_arch = "x86_64")]
fn narrow_row(from: &[f32], to: &mut [u32]) -> f32 {
    // SAFETY: products in f16 run only on sets that were found with AVX-512 and FP16.
    unsafe { super::tile_f16::scale_row(from, to) }
}

#[cfg(not(target_arch = "x86_64"))]
fn narrow_row(_from: &[f32], _to: &mut [u32]) -> f32 {
    unreachable!("weights are packed as f16 for no set of this architecture")
}

/// The power of two that brings `magnitude` into `[1/2, 1)`, and its inverse; 1 where there is none.
pub(crate) fn power_of_two_scale(magnitude: f32) -> (f32, f32) {
    if magnitude == 0.0 || !magnitude.is_finite() {
        return (1.0, 1.0);
    }
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 126).clamp(-120, 120);
    let power = |exponent: i32| f32::from_bits(((127 + exponent) as u32) << 23);
    (power(-exponent), power(exponent))
}

#[cfg(test)]
mod tests {
    use super::power_of_two_scale;

    #[test]
    fn scales_bring_magnitudes_just_below_one() {
        for magnitude in [1e-30f32, 0.3, 0.5, 1.0, 1.5, 65504.0, 1e30] {
            let (scale, inverse) = power_of_two_scale(magnitude);
            assert!((0.5..1.0).contains(&(magnitude * scale)), "{magnitude}");
            assert_eq!(scale * inverse, 1.0);
        }
        for none in [0.0, f32::INFINITY, f32::NAN] {
            assert_eq!(power_of_two_scale(none), (1.0, 1.0));
        }
        assert!(power_of_two_scale(1e-40).0.is_finite());
    }
}
