//! Every kernel on the host emulation against the f64 references, with poisoned outputs between guards; and the planted bugs
//! that these tests must notice.

mod attention;
mod norm;
mod plants;

use half::{bf16, f16};
use shoal_emu::{EmuError, EmuLaunch};

use super::{DeviceAddress, Launch};
use crate::Dtype;
use crate::cpu::tests::Values;

/// What 16-bit storage of operands and results may cost against f64, as relative L2.
pub(super) fn tolerance(dtype: Dtype) -> f64 {
    if dtype == Dtype::F16 { 1e-3 } else { 5e-3 }
}

pub(super) const DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];

/// 16 bytes on their boundary.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Line([u16; 8]);

/// Not a number in both formats: what is read before it was written, or from outside, shows.
const POISON: u16 = 0xffff;
/// Lines before and behind a buffer.
const GUARD: usize = 8;

/// 16-bit elements in "device" memory, between guards.
pub(super) struct Buffer {
    lines: Vec<Line>,
    len: usize,
    dtype: Dtype,
}

impl Buffer {
    /// `len` elements that nobody wrote yet.
    pub(super) fn poisoned(dtype: Dtype, len: usize) -> Self {
        Self { lines: vec![Line([POISON; 8]); len.div_ceil(8) + 2 * GUARD], len, dtype }
    }

    /// Random elements of about `scale`.
    pub(super) fn random(dtype: Dtype, len: usize, scale: f32, values: &mut Values) -> Self {
        let mut buffer = Self::poisoned(dtype, len);
        for index in 0..len {
            let value = scale * values.next();
            let bits = if dtype == Dtype::F16 {
                f16::from_f32(value).to_bits()
            } else {
                bf16::from_f32(value).to_bits()
            };
            buffer.lines[GUARD + index / 8].0[index % 8] = bits;
        }
        buffer
    }

    pub(super) fn address(&self) -> DeviceAddress {
        self.lines[GUARD..].as_ptr().addr() as DeviceAddress
    }

    pub(super) fn bits(&self) -> Vec<u16> {
        self.lines[GUARD..].iter().flat_map(|line| line.0).take(self.len).collect()
    }

    pub(super) fn values(&self) -> Vec<f64> {
        let wide = |bits| {
            let f16 = self.dtype == Dtype::F16;
            if f16 { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() }
        };
        self.bits().into_iter().map(wide).collect()
    }

    /// Nothing was written outside.
    pub(super) fn check_guards(&self) -> Result<(), String> {
        let padded = self.len..(self.lines.len() - 2 * GUARD) * 8;
        let mut outside = self.lines[..GUARD].iter().chain(&self.lines[self.lines.len() - GUARD..]);
        let tail = self.lines[GUARD..].iter().flat_map(|line| line.0).skip(padded.start).take(padded.len());
        let intact = outside.all(|line| line.0 == [POISON; 8]) && tail.into_iter().all(|bits| bits == POISON);
        if intact { Ok(()) } else { Err("something was written outside of the buffer".to_owned()) }
    }
}

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
