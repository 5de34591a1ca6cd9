//! From the last hidden states to the answer.

use super::{ExecError, LoadError, load::keep_first};
use crate::{
    cpu::{AlignedBuf, CpuIsa, CpuOps, Element, Epilogue, LayerNorm, PackedLinear},
    describe::ModuleWeights,
    dtype::Dtype,
    plan::{HeadPlan, HeadStep},
    weights::{MappedCheckpoint, WeightsError},
};

/// The weights of one step.
pub(super) enum HeadWeights {
    Dense(PackedLinear),
    Norm(LayerNorm),
    None,
}

impl HeadWeights {
    /// Packs what `step` needs from the module's own files. Small beside the encoder, it is f32 in every format.
    pub(super) fn load(
        step: &HeadStep,
        isa: CpuIsa,
        weights: Option<&ModuleWeights>,
    ) -> Result<Self, LoadError> {
        let Some(ModuleWeights { dir, names }) = weights else {
            return Ok(Self::None);
        };
        let checkpoint = MappedCheckpoint::open(dir)?;
        let vector = |name, len| -> Result<Vec<f32>, WeightsError> {
            let tensor = checkpoint.tensor(name, &[len])?;
            let values = tensor.read_all();
            tensor.release();
            values
        };
        match *step {
            HeadStep::Dense { inputs, outputs, bias, .. } => {
                let bias = bias.then(|| vector(&names.bias, outputs)).transpose()?;
                let tensor = checkpoint.tensor(&names.weight, &[outputs, inputs])?;
                let mut failed = None;
                let fill =
                    |output, row: &mut [f32]| keep_first(&mut failed, tensor.read(output * inputs, row));
                let packed = PackedLinear::pack(isa, Dtype::F32, outputs, inputs, bias.as_deref(), fill)?;
                tensor.release();
                failed.map_or(Ok(Self::Dense(packed)), |error| Err(error.into()))
            }
            HeadStep::LayerNorm { width, eps } => {
                let (gamma, beta) = (vector(&names.weight, width)?, vector(&names.bias, width)?);
                Ok(Self::Norm(LayerNorm::new(gamma, beta, eps)?))
            }
            HeadStep::L2 { .. } => Ok(Self::None),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Dense(linear) => linear.bytes(),
            Self::Norm(norm) => norm.bytes(),
            Self::None => 0,
        }
    }
}

/// Where the vectors of a block lie between two steps, `[sequences, width]`. Grows to the largest block and stays.
pub(super) struct HeadWorkspace([AlignedBuf<f32>; 2]);

impl HeadWorkspace {
    pub(super) fn new() -> Self {
        Self([AlignedBuf::zeroed(0), AlignedBuf::zeroed(0)])
    }

    /// Pools the sequences of `hidden` and runs every step; `out [sequences, dims]`.
    pub(super) fn run<T: Element>(
        &mut self,
        ops: &mut CpuOps<'_>,
        (plan, weights): (&HeadPlan, &[HeadWeights]),
        (width, hidden): (usize, &[T]),
        cu_seqlens: &[u32],
        out: &mut [f32],
    ) -> Result<(), ExecError> {
        let sequences = cu_seqlens.len().saturating_sub(1);
        let [from, to] = &mut self.0;
        let mut len = sequences * width * plan.poolings.len();
        from.reserve(len);
        ops.pool(&plan.poolings, width, hidden, cu_seqlens, &mut from[..len])?;
        for (step, weights) in plan.steps.iter().zip(weights) {
            match (step, weights) {
                (HeadStep::Dense { outputs, activation, .. }, HeadWeights::Dense(linear)) => {
                    to.reserve(sequences * outputs);
                    let results = &mut to[..sequences * outputs];
                    ops.linear(linear, &from[..len], Epilogue::Activate(*activation), results)?;
                    std::mem::swap(from, to);
                    len = sequences * outputs;
                }
                (HeadStep::LayerNorm { .. }, HeadWeights::Norm(norm)) => {
                    ops.layer_norm(norm, &mut from[..len])?
                }
                (HeadStep::L2 { width }, _) => ops.l2_normalise(*width, &mut from[..len])?,
                (HeadStep::Dense { .. } | HeadStep::LayerNorm { .. }, _) => {
                    unreachable!("a head is loaded step by step from its plan")
                }
            }
        }
        out.copy_from_slice(&from[..len]);
        Ok(())
    }
}
