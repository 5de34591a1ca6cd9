//! A model in memory, packed for one instruction set.

use super::head::HeadWeights;
use crate::{
    cpu::{CpuIsa, EmbeddingTable, LayerNorm, PackedLinear, PositionBias, RelativeTables, RopeTable},
    dtype::Dtype,
    outputs::OutputSet,
    plan::Plan,
};

/// A loaded model: its plan and its packed weights. Shared by every lane of a device.
pub struct CpuModel {
    pub(super) isa: CpuIsa,
    pub(super) plan: Plan,
    pub(super) weights: Weights,
    pub(super) device_name: String,
}

/// Packed weights in the order of the plan's lists.
pub(super) struct Weights {
    pub(super) embeddings: EmbeddingWeights,
    pub(super) position_bias: Option<PositionBias>,
    pub(super) ropes: Vec<RopeTable>,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) final_norm: Option<LayerNorm>,
    pub(super) head: HeadWeights,
}

pub(super) struct EmbeddingWeights {
    pub(super) token: EmbeddingTable,
    pub(super) position: Option<EmbeddingTable>,
    pub(super) token_type: Option<EmbeddingTable>,
    pub(super) norm: Option<LayerNorm>,
    pub(super) projection: Option<PackedLinear>,
}

pub(super) struct LayerWeights {
    pub(super) linears: Vec<PackedLinear>,
    pub(super) relative: Option<RelativeTables>,
    pub(super) norms: Vec<LayerNorm>,
}

impl CpuModel {
    /// The heap that the packed weights hold: measured, not estimated.
    pub fn bytes(&self) -> u64 {
        let Weights { embeddings, position_bias, ropes, layers, final_norm, head } = &self.weights;
        let bias = position_bias.as_ref().map_or(0, PositionBias::bytes);
        let ropes: usize = ropes.iter().map(RopeTable::bytes).sum();
        let norm = final_norm.as_ref().map_or(0, LayerNorm::bytes);
        let relative = layers.first().and_then(|layer| layer.relative.as_ref());
        let bias = bias + relative.map_or(0, RelativeTables::shared_bytes);
        let layers: usize = layers.iter().map(LayerWeights::bytes).sum();
        (embeddings.bytes() + bias + ropes + layers + norm + head.bytes()) as u64
    }

    /// The format of the weights.
    pub fn dtype(&self) -> Dtype {
        self.plan.dtype()
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> CpuIsa {
        self.isa
    }

    /// Width of the dense vectors; 0 where the model gives none.
    pub fn dims(&self) -> usize {
        self.plan.dims()
    }

    /// The outputs that the model can give.
    pub fn gives(&self) -> OutputSet {
        self.plan.head.gives
    }

    /// The steps of a forward pass; print it to see them.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where answers come from, such as `cpu avx512-bf16`.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }
}

impl EmbeddingWeights {
    fn bytes(&self) -> usize {
        let Self { token, position, token_type, norm, projection } = self;
        let tables = [position, token_type].into_iter().flatten().map(EmbeddingTable::bytes);
        let norm = norm.as_ref().map_or(0, LayerNorm::bytes);
        let projection = projection.as_ref().map_or(0, PackedLinear::bytes);
        token.bytes() + tables.sum::<usize>() + norm + projection
    }
}

impl LayerWeights {
    fn bytes(&self) -> usize {
        let linears: usize = self.linears.iter().map(PackedLinear::bytes).sum();
        let relative = self.relative.as_ref().map_or(0, RelativeTables::bytes);
        linears + relative + self.norms.iter().map(LayerNorm::bytes).sum::<usize>()
    }
}

impl std::fmt::Debug for CpuModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuModel").field("device", &self.device_name).field("bytes", &self.bytes()).finish()
    }
}
