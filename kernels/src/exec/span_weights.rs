//! The weights between the last hidden states and labelled spans, packed as they are used.

use std::ops::Range;

use super::{LoadError, load::keep_first};
use crate::{
    cpu::{CpuIsa, Lstm, LstmDirection, PackedLinear},
    describe::{LstmNames, SpanNames},
    dtype::Dtype,
    families::Affine,
    plan::SpanPlan,
    weights::MappedCheckpoint,
};

/// The weights of a head that scores spans, f32 whatever those of the encoder are.
pub(super) struct SpanWeights {
    pub(super) projection: Option<PackedLinear>,
    pub(super) lstm: Option<Lstm>,
    /// The perceptron of first words, then what the first product of spans makes of it; so for last words.
    pub(super) starts: [PackedLinear; 3],
    pub(super) ends: [PackedLinear; 3],
    /// The perceptron of labels, then the last product of spans the other way round.
    pub(super) labels: [PackedLinear; 3],
    /// What that product's bias adds to a label's logits.
    pub(super) label_bias: PackedLinear,
}

impl SpanWeights {
    pub(super) fn load(plan: &SpanPlan, isa: CpuIsa, names: &SpanNames) -> Result<Self, LoadError> {
        let &SpanPlan { inputs, width, inner, recurrent, .. } = plan;
        let source = Source { isa, checkpoint: &MappedCheckpoint::open(&names.dir)? };
        let perceptron = |[first, second]: &[Affine; 2]| -> Result<_, LoadError> {
            Ok([source.linear(first, [inner, width])?, source.linear(second, [width, inner])?])
        };
        let [of_both, last] = &names.span;
        let side = |names: &[Affine; 2], columns: Range<usize>| -> Result<_, LoadError> {
            let [first, second] = perceptron(names)?;
            // The bias of the sum comes with the first word.
            let bias = (columns.start == 0).then(|| source.vector(&of_both.bias, inner)).transpose()?;
            let third = source.columns(&of_both.weight, [inner, 2 * width], columns, bias.as_deref())?;
            Ok([first, second, third])
        };
        let [first, second] = perceptron(&names.label)?;
        let of_last = source.vector(&last.bias, width)?;
        let label_bias = |_, row: &mut [f32]| row.copy_from_slice(&of_last);
        let lstm = || {
            Ok::<_, LoadError>(Lstm::new([
                source.lstm(&names.lstm[0], width)?,
                source.lstm(&names.lstm[1], width)?,
            ])?)
        };
        Ok(Self {
            projection: plan
                .projects()
                .then(|| source.linear(&names.projection, [width, inputs]))
                .transpose()?,
            lstm: recurrent.then(lstm).transpose()?,
            starts: side(&names.start, 0..width)?,
            ends: side(&names.end, width..2 * width)?,
            labels: [first, second, source.transposed(&last.weight, [width, inner])?],
            label_bias: PackedLinear::pack(isa, Dtype::F32, 1, width, None, label_bias)?,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let Self { projection, lstm, starts, ends, labels, label_bias } = self;
        let linears = starts.iter().chain(ends).chain(labels).chain(projection).chain([label_bias]);
        linears.map(PackedLinear::bytes).sum::<usize>() + lstm.as_ref().map_or(0, Lstm::bytes)
    }
}

/// Where the weights are read, and for what they are packed.
#[derive(Clone, Copy)]
struct Source<'a> {
    isa: CpuIsa,
    checkpoint: &'a MappedCheckpoint,
}

impl Source<'_> {
    fn vector(self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.checkpoint.tensor(name, &[len])?;
        let values = tensor.read_all()?;
        tensor.release();
        Ok(values)
    }

    fn linear(self, names: &Affine, shape: [usize; 2]) -> Result<PackedLinear, LoadError> {
        let bias = self.vector(&names.bias, shape[0])?;
        self.columns(&names.weight, shape, 0..shape[1], Some(&bias))
    }

    /// Some columns of a matrix, as if they were all.
    fn columns(
        self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        columns: Range<usize>,
        bias: Option<&[f32]>,
    ) -> Result<PackedLinear, LoadError> {
        let tensor = self.checkpoint.tensor(name, &[outputs, inputs])?;
        let mut failed = None;
        let fill = |output, row: &mut [f32]| {
            keep_first(&mut failed, tensor.read(output * inputs + columns.start, row));
        };
        let packed = PackedLinear::pack(self.isa, Dtype::F32, outputs, columns.len(), bias, fill)?;
        tensor.release();
        failed.map_or(Ok(packed), |error| Err(error.into()))
    }

    /// A matrix whose columns are the outputs.
    fn transposed(self, name: &str, [rows, columns]: [usize; 2]) -> Result<PackedLinear, LoadError> {
        let tensor = self.checkpoint.tensor(name, &[rows, columns])?;
        let values = tensor.read_all()?;
        tensor.release();
        let fill = |output: usize, row: &mut [f32]| {
            row.iter_mut().zip(values[output..].iter().step_by(columns)).for_each(|(to, value)| *to = *value);
        };
        Ok(PackedLinear::pack(self.isa, Dtype::F32, columns, rows, None, fill)?)
    }

    fn lstm(
        self,
        LstmNames { input, recurrent }: &LstmNames,
        width: usize,
    ) -> Result<LstmDirection, LoadError> {
        let (half, gates) = (width / 2, 2 * width);
        let mut bias = self.vector(&input.bias, gates)?;
        let more = self.vector(&recurrent.bias, gates)?;
        bias.iter_mut().zip(more).for_each(|(bias, more)| *bias += more);
        Ok(LstmDirection {
            input: self.columns(&input.weight, [gates, width], 0..width, Some(&bias))?,
            recurrent: self.columns(&recurrent.weight, [gates, half], 0..half, None)?,
        })
    }
}
