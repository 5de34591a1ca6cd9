//! Answers as the caller asked for them: `kernels/cuda/vectors.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{DeviceAddress, GRID_X_MAX, Kernel, KernelError, KernelModule, Launch, head_suffix};
use crate::Dtype;

/// The twin of `VectorsArgs` in `vectors.cu`: rows, cut, scaled and converted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct VectorsArgs {
    /// `[.., dims or more]`, rows `x_stride` apart.
    pub x: DeviceAddress,
    /// u32 `[rows]`: which rows of `x`; 0: all, in order.
    pub kept: DeviceAddress,
    /// `[rows]` of [`VectorForm::row_bytes`], on 4 bytes for f32 and 2 for f16.
    pub out: DeviceAddress,
    /// Vectors.
    pub rows: u32,
    /// The first elements of a row, which are given out: any number.
    pub dims: u32,
    /// Elements from a row to the next.
    pub x_stride: u32,
    /// [`VectorForm::code`].
    pub form: u32,
    /// 1: scaled to unit length after the cut.
    pub is_unit: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<VectorsArgs>() == 48, "as the device lays it out");

/// How a vector's elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorForm {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// Signed: `round(127 x)`, clamped.
    I8,
    /// The signed form plus 128.
    U8,
    /// One bit a dimension, most significant first: 1 where the value is positive.
    Bits,
}

impl VectorForm {
    /// Every form.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::I8, Self::U8, Self::Bits];

    /// As `Form` in `vectors.cu` counts.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::I8 => 2,
            Self::U8 => 3,
            Self::Bits => 4,
        }
    }

    /// Bytes of one vector.
    #[must_use]
    pub const fn row_bytes(self, dims: usize) -> usize {
        match self {
            Self::F32 => dims * 4,
            Self::F16 => dims * 2,
            Self::I8 | Self::U8 => dims,
            Self::Bits => dims.div_ceil(8),
        }
    }
}

const THREADS: u32 = 128;

/// The kernel that writes answers, for one format of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorsKernel(Kernel);

impl VectorsKernel {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.0
    }

    /// The kernel for rows in `input`: f32 after pooling, or the 16-bit format of token vectors.
    ///
    /// # Errors
    /// No kernel was built for this format.
    pub fn select(input: Dtype) -> Result<Self, KernelError> {
        Ok(Self(Kernel::new(KernelModule::Vectors, format!("vectors_{}", head_suffix(input)?), THREADS, 0)))
    }

    /// The launch over all vectors.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: VectorsArgs) -> Result<Launch<'_, VectorsArgs>, KernelError> {
        let kernel = &self.0;
        kernel.require(args.rows > 0 && args.dims > 0, "no elements")?;
        kernel.require(args.x_stride >= args.dims, "more dimensions than a row has")?;
        kernel.require_aligned(&[args.x_stride])?;
        let blocks = kernel.blocks(u64::from(args.rows.div_ceil(THREADS / 32)), GRID_X_MAX)?;
        Ok(Launch { kernel, grid: [blocks, 1, 1], args })
    }
}
