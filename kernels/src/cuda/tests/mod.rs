//! Every kernel on the host emulation against the f64 references, with poisoned outputs between guards; the planted bugs that
//! these tests must notice; and whether the binaries for devices are of these kernels.

mod activation;
mod attention;
mod disentangled;
mod gemm;
mod head;
mod norm;
mod plants;
mod prebuilt;
mod rope;
mod splade;

use half::{bf16, f16};
use shoal_emu::{EmuError, EmuLaunch};

use super::{DeviceAddress, Launch};
use crate::Dtype;
use crate::cpu::tests::Values;

/// What storage of operands and results may cost against f64, as relative L2.
pub(super) fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 1e-3,
        Dtype::Bf16 => 5e-3,
        Dtype::F32 | Dtype::I8 => 1e-6,
    }
}

pub(super) const DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];

/// 16 bytes on their boundary.
#[repr(C, align(16))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([u8; 16]);

/// Not a number in every format: what is read before it was written, or from outside, shows.
const POISON: u8 = 0xff;
/// Lines before and behind a buffer.
const GUARD: usize = 8;

/// Elements in "device" memory, between guards.
pub(super) struct Buffer {
    lines: Vec<Line>,
    len: usize,
    dtype: Dtype,
}

impl Buffer {
    /// `len` elements that nobody wrote yet.
    pub(super) fn poisoned(dtype: Dtype, len: usize) -> Self {
        let lines = (len * dtype.bytes()).div_ceil(size_of::<Line>());
        Self { lines: vec![Line([POISON; 16]); lines + 2 * GUARD], len, dtype }
    }

    /// These elements, rounded to the format.
    pub(super) fn of(dtype: Dtype, values: impl IntoIterator<Item = f32>) -> Self {
        let values: Vec<f32> = values.into_iter().collect();
        let mut buffer = Self::poisoned(dtype, values.len());
        let (at, size) = (GUARD * size_of::<Line>(), dtype.bytes());
        let all = bytemuck::cast_slice_mut::<Line, u8>(&mut buffer.lines);
        for (to, value) in all[at..].chunks_exact_mut(size).zip(values) {
            match dtype {
                Dtype::F32 => to.copy_from_slice(&value.to_le_bytes()),
                Dtype::F16 => to.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                Dtype::Bf16 => to.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                Dtype::I8 => unreachable!("bytes are results only"),
            }
        }
        buffer
    }

    /// Random elements of about `scale`.
    pub(super) fn random(dtype: Dtype, len: usize, scale: f32, values: &mut Values) -> Self {
        Self::of(dtype, (0..len).map(|_| scale * values.next()))
    }

    pub(super) fn address(&self) -> DeviceAddress {
        self.lines[GUARD..].as_ptr().addr() as DeviceAddress
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines[GUARD..])[..self.len * self.dtype.bytes()]
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.bytes().iter().all(|byte| *byte == POISON)
    }

    pub(super) fn values(&self) -> Vec<f64> {
        floats(self.bytes(), self.dtype)
    }

    /// Nothing was written outside.
    pub(super) fn check_guards(&self) -> Result<(), String> {
        let (before, held) = self.lines.split_at(GUARD);
        let behind = &bytemuck::cast_slice::<Line, u8>(held)[self.len * self.dtype.bytes()..];
        let mut outside = bytemuck::cast_slice::<Line, u8>(before).iter().chain(behind);
        let intact = outside.all(|byte| *byte == POISON);
        if intact { Ok(()) } else { Err("something was written outside of the buffer".to_owned()) }
    }
}

/// The elements of a buffer of floats.
pub(super) fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    let wide = |element: &[u8]| match (dtype, element) {
        (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (Dtype::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (_, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
        _ => unreachable!("bytes have no one value"),
    };
    bytes.chunks_exact(dtype.bytes()).map(wide).collect()
}

/// An operand that stands in host memory as it is: parameters, ids, lengths.
pub(super) fn address_of<T>(values: &[T]) -> DeviceAddress {
    values.as_ptr().addr() as DeviceAddress
}

pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Around every tile's edge.
pub(super) const SIZES: [usize; 12] = [1, 7, 17, 31, 32, 33, 63, 64, 65, 127, 130, 513];

/// Which kernels to run, and in which order of warps.
#[derive(Clone, Copy)]
pub(super) struct Emulation<'a> {
    pub(super) variant: &'a str,
    pub(super) seed: u64,
}

pub(super) const INTACT: Emulation<'static> = Emulation { variant: shoal_emu::INTACT, seed: 1 };

impl Emulation<'_> {
    /// Runs the launch to its end. Every address in it is of buffers that the caller holds until then.
    pub(super) fn run<A: bytemuck::Pod>(&self, launch: &Launch<'_, A>) -> Result<(), EmuError> {
        let call = EmuLaunch {
            variant: self.variant,
            kernel: &launch.kernel.name,
            grid: launch.grid,
            threads: launch.kernel.threads,
            shared_bytes: launch.kernel.shared_bytes,
            args: launch.bytes(),
            seed: self.seed,
            host_threads: 2,
        };
        // SAFETY: the tests build `launch` over buffers of the sizes that its own arguments state, and hold them; a kernel
        // that goes beyond them lands in their guards.
        unsafe { shoal_emu::launch(&call) }
    }
}

/// `|found - expected| / |expected|` in the L2 norm must be within the format's tolerance.
pub(super) fn check_close(found: &[f64], expected: &[f64], dtype: Dtype, what: &str) -> Result<(), String> {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    let allowed = tolerance(dtype) * size;
    // Written so that not-a-number fails.
    if error <= allowed { Ok(()) } else { Err(format!("{what}: off by {error:.3e}, allowed {allowed:.3e}")) }
}
