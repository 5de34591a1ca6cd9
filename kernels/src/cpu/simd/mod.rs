//! Vectors of f32 lanes: one trait, so that every op that is not a GEMM tile is written once.
//!
//! The methods are `#[inline(always)]` and carry no target feature of their own: they compile with the features of the
//! function that they are inlined into, which [`dispatch`] provides. Called anywhere else they would be slow, not wrong.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod gelu_table;
pub(crate) mod math;
mod portable;

use super::isa::{CpuIsa, VerifiedIsa};
use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Methods of [`Simd`] whose bodies are intrinsics of the set and accesses that the trait's contract covers.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty { $($body:tt)* })*) => { $(
        #[inline(always)]
        unsafe fn $name($($arg: $type),*) -> $out {
            // SAFETY: the caller vouches for the set and for the elements that the trait names; masks keep the `first`
            // variants to `count` elements.
            unsafe { $($body)* }
        }
    )* };
}
#[cfg(target_arch = "x86_64")]
use lanes;

/// The most lanes of any set.
pub(crate) const LANES_MAX: usize = 16;

/// Operations on vectors of `LANES` f32.
///
/// # Safety
/// Every method asks that the machine supports the set; loads and stores ask that as many elements as they name are
/// readable or writable, at any alignment. `first` variants take `count < LANES`; unread lanes are 0.
pub(crate) trait Simd: Copy + 'static {
    const LANES: usize;
    type V: Copy;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, vector: Self::V);
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    unsafe fn store_bf16(to: *mut bf16, vector: Self::V);
    /// Stores two vectors, one behind the other.
    #[inline(always)]
    unsafe fn store_bf16_pair(to: *mut bf16, first: Self::V, second: Self::V) {
        // SAFETY: the caller vouches for the set and for twice LANES elements.
        unsafe {
            Self::store_bf16(to, first);
            Self::store_bf16(to.add(Self::LANES), second);
        }
    }
    /// The lower halves of 32-bit pairs of bf16, widened.
    unsafe fn even(pairs: Self::V) -> Self::V;
    /// The upper halves of 32-bit pairs of bf16, widened.
    unsafe fn odd(pairs: Self::V) -> Self::V;

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in `[-126, 127]`.
    unsafe fn scale_pow2(a: Self::V, n: Self::V) -> Self::V;
    /// The sum of all lanes, in one order per set.
    unsafe fn sum(a: Self::V) -> f32;
    unsafe fn max_lane(a: Self::V) -> f32;

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::V {
        let mut lanes = [0.0f32; LANES_MAX];
        // SAFETY: the caller vouches for LANES elements; `lanes` has room for as many.
        unsafe {
            (0..Self::LANES).for_each(|lane| lanes[lane] = from.add(lane).read().to_f32());
            Self::load(lanes.as_ptr())
        }
    }
    /// `c` plus both products of pairs of bf16.
    #[inline(always)]
    unsafe fn dot_pairs(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the set.
        unsafe {
            let upper = Self::fma(Self::odd(a), Self::odd(b), c);
            Self::fma(Self::even(a), Self::even(b), upper)
        }
    }
    /// Turns LANES rows of LANES 32-bit lanes into as many columns. Lanes are moved, not computed with.
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self::V; LANES_MAX]) {
        let mut lanes = [[0.0f32; LANES_MAX]; LANES_MAX];
        // SAFETY: the caller vouches for the set; every row of `lanes` holds LANES_MAX >= LANES elements.
        unsafe {
            (0..Self::LANES).for_each(|row| Self::store(lanes[row].as_mut_ptr(), rows[row]));
            for column in 0..Self::LANES {
                let column_lanes: [f32; LANES_MAX] = std::array::from_fn(|row| lanes[row][column]);
                rows[column] = Self::load(column_lanes.as_ptr());
            }
        }
    }
    /// Lane `l` gets the element of `row` at `places[l]`, which rises by at most one from lane to lane: LANES elements are
    /// readable from the first place on.
    #[inline(always)]
    unsafe fn spread(row: *const f32, places: *const u32) -> Self::V {
        let mut lanes = [0.0f32; LANES_MAX];
        // SAFETY: the caller vouches for the set, for LANES places and for the elements.
        unsafe {
            for (lane, value) in lanes.iter_mut().enumerate().take(Self::LANES) {
                *value = row.wrapping_add(places.add(lane).read() as usize).read();
            }
            Self::load(lanes.as_ptr())
        }
    }
    /// Asks for a cache line; any address will do.
    #[inline(always)]
    fn prefetch(_line: *const u8) {}
    /// Asks for a cache line that is going to be written; any address will do.
    #[inline(always)]
    fn prefetch_write(_line: *const u8) {}

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self::V {
        debug_assert!(count < Self::LANES);
        let mut lanes = [0.0f32; LANES_MAX];
        // SAFETY: the caller vouches for `count` elements; `lanes` holds LANES_MAX >= LANES of them.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, count: usize, vector: Self::V) {
        debug_assert!(count < Self::LANES);
        let mut lanes = [0.0f32; LANES_MAX];
        // SAFETY: as in `load_first`.
        unsafe {
            Self::store(lanes.as_mut_ptr(), vector);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_first(from: *const bf16, count: usize) -> Self::V {
        debug_assert!(count < Self::LANES);
        let mut lanes = [bf16::ZERO; LANES_MAX];
        // SAFETY: as in `load_first`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load_bf16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_first(to: *mut bf16, count: usize, vector: Self::V) {
        debug_assert!(count < Self::LANES);
        let mut lanes = [bf16::ZERO; LANES_MAX];
        // SAFETY: as in `load_first`.
        unsafe {
            Self::store_bf16(lanes.as_mut_ptr(), vector);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    /// `a * Phi(a)`, the exact GELU.
    #[inline(always)]
    unsafe fn gelu_erf(a: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the set.
        unsafe { math::gelu_erf::<Self>(a) }
    }
    /// The same for a result that is rounded to bf16: it may be off by half as much as the rounding.
    #[inline(always)]
    unsafe fn gelu_erf_bf16(a: Self::V) -> Self::V {
        // SAFETY: the caller vouches for the set.
        unsafe { Self::gelu_erf(a) }
    }
}

/// Work that is written once over [`Simd`] and compiled for every set.
pub(crate) trait Kernel {
    /// # Safety
    /// The machine supports `S`. Implementations are `#[inline(always)]`.
    unsafe fn run<S: Simd>(self);
}

/// Runs a kernel with the features of the instruction set.
#[inline]
pub(crate) fn dispatch(isa: VerifiedIsa, kernel: impl Kernel) {
    // SAFETY: a `VerifiedIsa` exists only for a set that this machine has.
    unsafe {
        match isa.get() {
            #[cfg(target_arch = "x86_64")]
            CpuIsa::Avx2 => avx2::run(kernel),
            #[cfg(target_arch = "x86_64")]
            CpuIsa::Avx512 | CpuIsa::Avx512Fp16 => avx512::run(kernel),
            #[cfg(target_arch = "x86_64")]
            CpuIsa::Avx512Bf16 => avx512::run_bf16(kernel),
            _ => kernel.run::<Portable>(),
        }
    }
}
