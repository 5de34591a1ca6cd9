//! The element types of activations.

use super::simd::Simd;
use crate::Dtype;
use half::bf16;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// An element of an activation buffer: f32 or bf16. Arithmetic is f32 in both.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// Its format.
    const DTYPE: Dtype;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// Reads `S::LANES` elements, or the first `count` of them with zeros behind.
///
/// # Safety
/// The machine supports `S`, and `min(count, S::LANES)` elements are readable at `from`.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, T: Element>(from: *const T, count: usize) -> S::V {
    // SAFETY: the caller vouches for `S` and for the elements; the casts keep `T`, which DTYPE names.
    unsafe {
        match (T::DTYPE, count >= S::LANES) {
            (Dtype::F32, true) => S::load(from.cast()),
            (Dtype::F32, false) => S::load_first(from.cast(), count),
            (_, true) => S::load_bf16(from.cast()),
            (_, false) => S::load_bf16_first(from.cast(), count),
        }
    }
}

/// Writes `S::LANES` elements, or the first `count` of them.
///
/// # Safety
/// The machine supports `S`, and `min(count, S::LANES)` elements are writable at `to`.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, T: Element>(to: *mut T, vector: S::V, count: usize) {
    // SAFETY: as in `load`.
    unsafe {
        match (T::DTYPE, count >= S::LANES) {
            (Dtype::F32, true) => S::store(to.cast(), vector),
            (Dtype::F32, false) => S::store_first(to.cast(), count, vector),
            (_, true) => S::store_bf16(to.cast(), vector),
            (_, false) => S::store_bf16_first(to.cast(), count, vector),
        }
    }
}

/// Writes whole vectors, one behind the other.
///
/// # Safety
/// The machine supports `S`, and `VECTORS * S::LANES` elements are writable at `to`.
#[inline(always)]
pub(crate) unsafe fn store_all<S: Simd, T: Element, const VECTORS: usize>(
    to: *mut T,
    vectors: &[S::V; VECTORS],
) {
    // SAFETY: as in `load`.
    unsafe {
        if let (Dtype::Bf16, [first, second]) = (T::DTYPE, &vectors[..]) {
            return S::store_bf16_pair(to.cast(), *first, *second);
        }
        for (index, &vector) in vectors.iter().enumerate() {
            store::<S, T>(to.add(index * S::LANES), vector, S::LANES);
        }
    }
}
