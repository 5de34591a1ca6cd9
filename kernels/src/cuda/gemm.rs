//! The project's own matrix product: `kernels/cuda/gemm.cu`.

use bytemuck::{Pod, Zeroable};

use super::activation::column_step;
use super::kernel::{
    DeviceAddress, GRID_X_MAX, GRID_Y_MAX, Kernel, KernelError, KernelModule, Launch, SHARED_BYTES_MAX,
    VECTOR_ELEMENTS, suffix,
};
use crate::Dtype;

/// The twin of `GemmArgs` in `gemm.cu`: `out = act(x W^T + bias) + residual`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct GemmArgs {
    /// `[rows, inner]`, rows `x_stride` apart.
    pub x: DeviceAddress,
    /// `[columns, inner]`.
    pub weight: DeviceAddress,
    /// f32 `[columns]`; 0: nothing is added.
    pub bias: DeviceAddress,
    /// `[rows, outputs]`; 0: nothing is added; may be `out`.
    pub residual: DeviceAddress,
    /// `[rows, outputs]`.
    pub out: DeviceAddress,
    /// Tokens.
    pub rows: u32,
    /// Rows of the weights.
    pub columns: u32,
    /// Elements that each result is summed from.
    pub inner: u32,
    /// Elements from a row of `x` to the next.
    pub x_stride: u32,
    /// Elements from a row of the residual to the next.
    pub residual_stride: u32,
    /// Elements from a row of the result to the next.
    pub out_stride: u32,
    /// [`activation_code`](super::activation_code).
    pub activation: u32,
    /// 1: columns 2j and 2j + 1 are gate and up of output j, `act(gate) * up`.
    pub is_gated: u32,
}

const _: () = assert!(size_of::<GemmArgs>() == 72, "as the device lays it out");

/// The results of a block, as `Tile` in `gemm.cuh` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) threads: u32,
    stages: u32,
}

/// Elements of K a stage.
const STEP: u32 = 32;

impl Tile {
    /// Largest first.
    const ALL: [Self; 3] = [Self::LARGEST, Self::new(64, 64, 128, 4), Self::new(16, 32, 64, 8)];
    pub(super) const LARGEST: Self = Self::new(128, 128, 256, 4);

    const fn new(rows: u32, columns: u32, threads: u32, stages: u32) -> Self {
        let tile = Self { rows, columns, threads, stages };
        assert!(tile.shared_bytes() as usize <= SHARED_BYTES_MAX, "fits no block");
        tile
    }

    /// The ring of stages; afterwards the sums, in f32, in its place.
    pub(super) const fn shared_bytes(self) -> u32 {
        let ring = self.stages * (self.rows + self.columns) * STEP * 2;
        let sums = self.rows * (self.columns + 8) * 4;
        if ring > sums { ring } else { sums }
    }

    /// Blocks across and down.
    pub(super) fn grid(self, kernel: &Kernel, rows: u32, columns: u32) -> Result<[u32; 3], KernelError> {
        let across = kernel.blocks(u64::from(columns.div_ceil(self.columns)), GRID_X_MAX)?;
        Ok([across, kernel.blocks(u64::from(rows.div_ceil(self.rows)), GRID_Y_MAX)?, 1])
    }
}

/// The matrix products of one format. A row has the same bits from each tile and among any number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GemmKernels([(Tile, Kernel); 3]);

impl GemmKernels {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Kernel> {
        self.0.iter().map(|(_, kernel)| kernel)
    }

    /// Whether products of this shape are covered.
    ///
    /// # Errors
    /// They are not.
    pub(crate) fn check_shape(columns: usize, inner: usize, is_gated: bool) -> Result<(), KernelError> {
        let rule = |rule| Err(KernelError::Operands { kernel: "gemm".to_owned(), rule });
        if !inner.is_multiple_of(VECTOR_ELEMENTS as usize) {
            return rule("sums are over eights");
        }
        if !columns.is_multiple_of(column_step(is_gated) as usize) {
            return rule("columns come in eights, gated in sixteens");
        }
        Ok(())
    }

    /// The kernels for operands in `dtype`.
    ///
    /// # Errors
    /// No kernel was built for this format.
    pub fn select(dtype: Dtype) -> Result<Self, KernelError> {
        let suffix = suffix(dtype)?;
        Ok(Self(Tile::ALL.map(|tile| {
            let name = format!("gemm_t{}x{}_{suffix}", tile.rows, tile.columns);
            (tile, Kernel::new(KernelModule::Gemm, name, tile.threads, tile.shared_bytes()))
        })))
    }

    /// The launch with the largest tile of which every one of the device's multiprocessors gets a block, else with the
    /// smallest.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: GemmArgs, multiprocessors: u32) -> Result<Launch<'_, GemmArgs>, KernelError> {
        let gives_all = |tile: &Tile| {
            let blocks =
                u64::from(args.columns.div_ceil(tile.columns)) * u64::from(args.rows.div_ceil(tile.rows));
            blocks >= u64::from(multiprocessors)
        };
        let index = self.0.iter().position(|(tile, _)| gives_all(tile));
        self.launch_tile(args, index.unwrap_or(self.0.len() - 1))
    }

    /// The launch with one of the tiles, largest first.
    pub(super) fn launch_tile(
        &self,
        args: GemmArgs,
        index: usize,
    ) -> Result<Launch<'_, GemmArgs>, KernelError> {
        let (tile, kernel) = &self.0[index];
        kernel.require(args.rows > 0 && args.columns > 0 && args.inner > 0, "no elements")?;
        Self::check_shape(args.columns as usize, args.inner as usize, args.is_gated != 0)?;
        kernel.require_aligned(&[args.x_stride, args.residual_stride, args.out_stride])?;
        Ok(Launch { kernel, grid: tile.grid(kernel, args.rows, args.columns)?, args })
    }
}
