//! The first hidden states: `kernels/cuda/embed.cu`.

use bytemuck::{Pod, Zeroable};

use super::kernel::{DeviceAddress, Kernel, KernelError, KernelModule, Launch, suffix};
use super::norm::RowKernel;
use crate::Dtype;

/// The twin of `EmbedArgs` in `embed.cu`: rows of the tables, added up, scaled and normalised.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct EmbedArgs {
    /// `[vocabulary, dims]`.
    pub words: DeviceAddress,
    /// `[positions, dims]`; 0: positions are not learned.
    pub positions: DeviceAddress,
    /// `[types, dims]`; 0: there are none.
    pub types: DeviceAddress,
    /// u32 `[rows]`: within the table.
    pub word_ids: DeviceAddress,
    /// u32 `[rows]`: from 0 in each sequence.
    pub position_ids: DeviceAddress,
    /// u8 `[rows]`; 0: all are of type 0.
    pub type_ids: DeviceAddress,
    /// f32 `[dims]`; 0 without a norm.
    pub weight: DeviceAddress,
    /// f32 `[dims]`; 0: nothing is added.
    pub shift: DeviceAddress,
    /// `[rows, dims]`.
    pub out: DeviceAddress,
    /// Tokens.
    pub rows: u32,
    /// Elements of a row.
    pub dims: u32,
    /// The row of position 0 in its table.
    pub position_first: u32,
    /// What the words' rows are multiplied by.
    pub scale: f32,
    /// Added to the variance.
    pub eps: f32,
    /// 1 where the checkpoint stores its weights less one.
    pub weight_plus: f32,
}

const _: () = assert!(size_of::<EmbedArgs>() == 96, "as the device lays it out");

/// The embedding kernel of one row length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedKernel {
    rows: RowKernel,
    is_normed: bool,
}

impl EmbedKernel {
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.rows.kernel
    }

    /// The kernel for rows of `dims`, with LayerNorm behind the sum or without.
    ///
    /// # Errors
    /// No kernel was built for this format or row.
    pub fn select(is_normed: bool, dtype: Dtype, dims: usize) -> Result<Self, KernelError> {
        let op = if is_normed { "embed_layer" } else { "embed_plain" };
        Ok(Self { rows: RowKernel::select(KernelModule::Embed, op, suffix(dtype)?, dims)?, is_normed })
    }

    /// The launch over all tokens.
    ///
    /// # Errors
    /// The operands contradict each other, or are more than a grid has.
    pub fn launch(&self, args: EmbedArgs) -> Result<Launch<'_, EmbedArgs>, KernelError> {
        let kernel = &self.rows.kernel;
        kernel.require(args.words != 0 && args.word_ids != 0, "no words")?;
        kernel.require(args.positions == 0 || args.position_ids != 0, "a table of positions without ids")?;
        kernel.require(!self.is_normed || args.weight != 0, "a norm without weights")?;
        Ok(Launch { kernel, grid: self.rows.grid(args.rows, args.dims)?, args })
    }
}
