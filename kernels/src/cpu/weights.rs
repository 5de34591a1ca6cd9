//! Weights in the layouts that the kernels read.

use super::AlignedBuf;
use super::error::{OpError, expect_size};
use super::isa::{CpuIsa, VerifiedIsa};
use super::operand::{STRETCH_STEPS, STRETCH_SUM_MAX, power_of_two_scale};
use super::pack::{PackRows, ROW_MULTIPLE};
use super::simd::dispatch;
use super::tile::panel_columns;
use crate::Dtype;
use half::{bf16, f16};

/// The weights of one linear layer, `out = x W^T + b` with `W [outputs, inputs]`, packed for one instruction set.
///
/// Panels of as many outputs as one register tile is wide, `[outputs / columns][inputs / unit][columns]` in units of 32
/// bits: one f32, or a pair of bf16 or f16 that are neighbours in `inputs`. The last panel and the last pair are filled up with
/// zeros. A panel is read from its start to its end, once for all rows of a block.
///
/// Of a gated layer the first half of each panel is gates, the second half what they open: a tile has both when its sums
/// meet.
pub struct PackedLinear {
    isa: VerifiedIsa,
    dtype: Dtype,
    outputs: usize,
    inputs: usize,
    gated: bool,
    units: AlignedBuf<u32>,
    /// Zeros where the layer has no bias; as long as all panels.
    bias: AlignedBuf<f32>,
    /// What scales each output's sums back, as long as `bias`; empty except for f16.
    inverse_scales: AlignedBuf<f32>,
}

impl PackedLinear {
    /// Packs `outputs` rows of `inputs` weights. `fill_row(output, row)` is called once per output, in order, so that a
    /// mapped file is read front to back and never copied whole.
    ///
    /// # Errors
    /// A set that the machine lacks, a format that it does not multiply (bf16 is multiplied everywhere, if slowly), a bias of the wrong length, a size of 0.
    pub fn pack(
        isa: CpuIsa,
        dtype: Dtype,
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
        fill_row: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, OpError> {
        Self::pack_rows(isa, dtype, (outputs, false), inputs, bias, fill_row)
    }

    /// Packs two layers of `outputs` rows each, the first of which gates the second (see [`Epilogue::Gate`]): `fill_row` is
    /// called for the rows of both, the gate's first, and the bias is as long.
    ///
    /// # Errors
    /// As for [`Self::pack`].
    ///
    /// [`Epilogue::Gate`]: super::Epilogue::Gate
    pub fn pack_gated(
        isa: CpuIsa,
        dtype: Dtype,
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
        fill_row: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, OpError> {
        Self::pack_rows(isa, dtype, (outputs, true), inputs, bias, fill_row)
    }

    fn pack_rows(
        isa: CpuIsa,
        dtype: Dtype,
        (outputs, gated): (usize, bool),
        inputs: usize,
        bias: Option<&[f32]>,
        mut fill_row: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, OpError> {
        const OP: &str = "pack linear";
        let rows = if gated { 2 * outputs } else { outputs };
        let isa = isa.verified()?;
        if outputs == 0 || inputs == 0 {
            return Err(OpError::Shape { op: OP, what: "outputs or inputs", found: 0, expected: 1 });
        }
        if let Some(bias) = bias {
            expect_size(OP, "bias", bias.len(), rows)?;
        }
        let columns = panel_columns(isa.get());
        if dtype == Dtype::I8 || (dtype == Dtype::F16 && !isa.get().supports(dtype)) {
            return Err(OpError::UnsupportedStorage { dtype });
        }
        let steps = steps(dtype, inputs);
        let results = if gated { columns / 2 } else { columns };
        let panels = outputs.div_ceil(results);
        // Where a row goes, as a column of all panels side by side.
        let place = |row: usize| {
            let (second, output) = (row / outputs, row % outputs);
            output / results * columns + second * results + output % results
        };
        let mut units = AlignedBuf::<u32>::zeroed(panels * steps * columns);
        let mut padded_bias = AlignedBuf::zeroed(panels * columns);
        let scaled = if dtype == Dtype::F16 { panels * columns } else { 0 };
        let mut inverse_scales = AlignedBuf::<f32>::zeroed(scaled);
        for (row, &value) in bias.unwrap_or_default().iter().enumerate() {
            padded_bias[place(row)] = value;
        }
        let stride = inputs.next_multiple_of(ROW_MULTIPLE);
        let mut group = AlignedBuf::<f32>::zeroed(results * stride);
        let firsts = (0..rows)
            .step_by(outputs)
            .flat_map(|half| (0..outputs).step_by(results).map(move |output| half + output));
        for first in firsts {
            let count = results.min(outputs - first % outputs);
            for row in 0..count {
                fill_row(first + row, &mut group[row * stride..][..inputs]);
            }
            let (rows, place) = (&group[..count * stride], place(first));
            let panel = &mut units[place / columns * steps * columns..][..steps * columns];
            let panel = &mut panel[place % columns..];
            if dtype == Dtype::F16 {
                pack_f16(rows, stride, panel, columns, &mut inverse_scales[place..]);
            } else {
                dispatch(isa, PackRows { rows, stride, dtype, steps, panel, columns });
            }
        }
        Ok(Self { isa, dtype, outputs, inputs, gated, units, bias: padded_bias, inverse_scales })
    }

    /// Columns of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether each output is one of a gate and one of what it opens.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// The format that the weights are stored in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> CpuIsa {
        self.isa.get()
    }

    /// The heap that the packed weights hold.
    pub fn bytes(&self) -> usize {
        self.units.bytes() + self.bias.bytes() + self.inverse_scales.bytes()
    }

    pub(crate) fn verified_isa(&self) -> VerifiedIsa {
        self.isa
    }

    /// Units of 32 bits in one column of a panel.
    pub(crate) fn steps(&self) -> usize {
        steps(self.dtype, self.inputs)
    }

    /// Outputs of one panel.
    pub(crate) fn panel_outputs(&self) -> usize {
        panel_columns(self.isa.get()) / if self.gated { 2 } else { 1 }
    }

    pub(crate) fn panels(&self) -> usize {
        self.bias.len() / panel_columns(self.isa.get())
    }

    /// Panel `index`: its units and its bias.
    pub(crate) fn panel(&self, index: usize) -> (&[u32], &[f32]) {
        let columns = panel_columns(self.isa.get());
        let units = self.steps() * columns;
        (&self.units[index * units..][..units], &self.bias[index * columns..][..columns])
    }

    /// What scales the sums of panel `index` back, for f16.
    pub(crate) fn panel_scales(&self, index: usize) -> &[f32] {
        let columns = panel_columns(self.isa.get());
        &self.inverse_scales[index * columns..][..columns]
    }
}

fn steps(dtype: Dtype, inputs: usize) -> usize {
    if dtype == Dtype::F32 { inputs } else { inputs.div_ceil(2) }
}

/// Rows of `stride` elements into as many columns of a panel, scaled one by one.
fn pack_f16(rows: &[f32], stride: usize, panel: &mut [u32], columns: usize, inverse_scales: &mut [f32]) {
    for (index, (row, inverse_scale)) in rows.chunks_exact(stride).zip(inverse_scales).enumerate() {
        let (scale, inverse) = f16_scale(row);
        *inverse_scale = inverse;
        let column = panel[index..].iter_mut().step_by(columns);
        column.zip(row.chunks(2)).for_each(|(unit, pair)| *unit = f16_pair(pair[0] * scale, pair[1] * scale));
    }
}

fn f16_pair(even: f32, odd: f32) -> u32 {
    let bits = |value| u32::from(f16::from_f32(value).to_bits());
    bits(even) | bits(odd) << 16
}

/// The power of two under which no sum over a stretch of this row overflows, and its inverse.
fn f16_scale(row: &[f32]) -> (f32, f32) {
    let stretches = row.chunks(2 * STRETCH_STEPS);
    let largest = stretches.map(|stretch| stretch.iter().map(|weight| weight.abs()).sum::<f32>());
    power_of_two_scale(largest.fold(0.0, f32::max) / STRETCH_SUM_MAX)
}

/// A table of rows that ids look up: token, position or type embeddings.
pub struct EmbeddingTable {
    rows: usize,
    dims: usize,
    pub(crate) values: TableValues,
}

/// The rows, end to end.
pub(crate) enum TableValues {
    F32(AlignedBuf<f32>),
    Bf16(AlignedBuf<bf16>),
    F16(AlignedBuf<f16>),
}

impl EmbeddingTable {
    /// Stores `rows` rows of `dims` values; `fill_row(row, values)` is called once per row, in order.
    ///
    /// # Errors
    /// A format other than f32, bf16 and f16, or a size of 0.
    pub fn pack(
        dtype: Dtype,
        rows: usize,
        dims: usize,
        mut fill_row: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, OpError> {
        if rows == 0 || dims == 0 {
            return Err(OpError::Shape { op: "pack table", what: "rows or dims", found: 0, expected: 1 });
        }
        let values = match dtype {
            Dtype::F32 => {
                let mut values = AlignedBuf::zeroed(rows * dims);
                values.chunks_exact_mut(dims).enumerate().for_each(|(index, row)| fill_row(index, row));
                TableValues::F32(values)
            }
            Dtype::Bf16 => TableValues::Bf16(narrow(rows, dims, fill_row, bf16::from_f32)),
            Dtype::F16 => TableValues::F16(narrow(rows, dims, fill_row, f16::from_f32)),
            Dtype::I8 => return Err(OpError::UnsupportedStorage { dtype }),
        };
        Ok(Self { rows, dims, values })
    }

    /// Ids that the table answers.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of one row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The heap that the table holds.
    pub fn bytes(&self) -> usize {
        match &self.values {
            TableValues::F32(values) => values.bytes(),
            TableValues::Bf16(values) => values.bytes(),
            TableValues::F16(values) => values.bytes(),
        }
    }
}

/// Rows of f32, narrowed one by one.
fn narrow<H: bytemuck::Pod>(
    rows: usize,
    dims: usize,
    mut fill_row: impl FnMut(usize, &mut [f32]),
    round: impl Fn(f32) -> H,
) -> AlignedBuf<H> {
    let mut values = AlignedBuf::zeroed(rows * dims);
    let mut wide = vec![0.0; dims];
    for (index, row) in values.chunks_exact_mut(dims).enumerate() {
        fill_row(index, &mut wide);
        row.iter_mut().zip(&wide).for_each(|(to, &from)| *to = round(from));
    }
    values
}

/// Layer normalisation (Ba, Kiros and Hinton, arXiv 1607.06450): `(x - mean) / sqrt(variance + epsilon) * gamma + beta`;
/// or the same of rows whose mean is taken for 0 (RMSNorm, Zhang and Sennrich, arXiv 1910.07467).
pub struct LayerNorm {
    pub(crate) centres: bool,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl LayerNorm {
    /// The scale and shift of each dimension.
    ///
    /// # Errors
    /// When the two differ in length or are empty.
    pub fn new(gamma: Vec<f32>, beta: Vec<f32>, epsilon: f32) -> Result<Self, OpError> {
        expect_size("layer norm", "beta", beta.len(), gamma.len().max(1))?;
        Ok(Self { centres: true, gamma, beta, epsilon })
    }

    /// RMSNorm: the scale of each dimension alone.
    ///
    /// # Errors
    /// When there is none.
    pub fn rms(gamma: Vec<f32>, epsilon: f32) -> Result<Self, OpError> {
        let beta = vec![0.0; gamma.len()];
        Ok(Self { centres: false, ..Self::new(gamma, beta, epsilon)? })
    }

    /// Values of one row.
    pub fn dims(&self) -> usize {
        self.gamma.len()
    }

    /// The heap that the parameters hold.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.gamma) + size_of_val(&*self.beta)
    }
}
