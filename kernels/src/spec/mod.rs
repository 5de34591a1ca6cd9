//! What a model is, before any weight is touched: one enum per axis, no family names.
//!
//! A new family is a new *value* of these types. An arm is added only when a kernel differs, and `plan` is the only
//! reader of the axes. Where the data flow itself differs (KV caches), write another block instead of stretching this one.

mod display;
mod error;
mod head;
mod layer;
mod position;
mod spans;
mod validate;

pub(crate) use display::Kinds;
pub use error::SpecError;
pub use head::{
    Head, HeadModule, MultivectorHead, PooledHead, Pooling, Poolings, SparseHead, SparseWeights, TokenHead,
};
pub use layer::{
    Activation, Attention, Ffn, Gate, LayerPattern, LayerSpec, Mask, Norm, NormPlacement, QkvLayout,
};
pub use position::{Disentangled, Position, PositionBias, Rope, RopeScaling};
pub(crate) use spans::INNER;
pub use spans::SpanHead;
pub(crate) use validate::multiple;

/// A transformer encoder with its head: `[tokens]` ids in, `[sequences, hidden]` vectors out.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// Width of the residual stream.
    pub hidden: usize,
    /// How ids become the first hidden states.
    pub embeddings: Embeddings,
    /// How a token knows where it stands.
    pub position: Position,
    /// What attention adds to its scores for the distance of two tokens, in every layer the same.
    pub position_bias: Option<PositionBias>,
    /// Whether and how attention compares contents with positions, in every layer the same.
    pub disentangled: Option<Disentangled>,
    /// The stack.
    pub layers: LayerPattern,
    /// Of the residual stream behind the last layer, where norms stand before what they are for.
    pub final_norm: Option<Norm>,
    /// What turns the last hidden states into the answer.
    pub head: Head,
}

/// Tables summed per token.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// Rows of the token table `[vocab, width]`.
    pub vocab: usize,
    /// Width of the tables; where it is not `hidden`, the normed sum is projected to it, with a bias (ELECTRA, Clark et
    /// al. 2020).
    pub width: usize,
    /// Rows of the segment table `[token_types, width]`, where there is one.
    pub token_types: Option<usize>,
    /// What a token's row is multiplied with (Gemma: the square root of `hidden`).
    pub scale: Option<f32>,
    /// Applied to the sum.
    pub norm: Option<Norm>,
}

impl EncoderSpec {
    /// The number of layers.
    pub const fn layer_count(&self) -> usize {
        self.layers.count()
    }

    /// The layer that stands at `index`.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn layer(&self, index: usize) -> &LayerSpec {
        self.layers.get(index)
    }

    /// The layers in their order.
    pub(crate) fn each_layer(&self) -> impl Iterator<Item = &LayerSpec> {
        (0..self.layer_count()).map(|index| self.layer(index))
    }

    /// The longest sequence in which every token sees all others and is told nothing of their distances: the last tokens
    /// of such a one may be left out of what the others see.
    pub(crate) fn sight(&self) -> usize {
        if self.position_bias.is_some() || self.disentangled.is_some() {
            return 1;
        }
        let of_mask = |layer: &LayerSpec| match layer.attention.mask {
            Mask::Bidirectional => usize::MAX,
            Mask::Causal => 1,
            Mask::Window { left, right } => left.min(right).saturating_add(1),
        };
        self.each_layer().map(of_mask).min().unwrap_or(usize::MAX)
    }

    /// The number of weights, tables and norms included.
    pub fn parameters(&self) -> u64 {
        let Embeddings { vocab, width, token_types, .. } = self.embeddings;
        let norm = |norm: Option<Norm>, width| norm.map_or(0, |norm| norm.parameters(width));
        let rows = vocab + token_types.unwrap_or(0) + self.position.table_rows();
        let tables = rows * width + norm(self.embeddings.norm, width);
        let projection = if width == self.hidden { 0 } else { (width + 1) * self.hidden };
        let bias = match self.position_bias {
            Some(PositionBias::Buckets { buckets, .. }) => buckets * self.layer(0).attention.heads,
            Some(PositionBias::Alibi) | None => 0,
        };
        let relative = self.disentangled.map_or(0, |table| table.parameters(self.hidden));
        let of_layer = |layer: &LayerSpec| {
            let width = layer.attention.widths().0;
            let positions = self.disentangled.map_or(0, |table| table.layer_parameters(self.hidden, width));
            layer.parameters(self.hidden) + positions
        };
        let layers: usize = self.each_layer().map(of_layer).sum();
        let after = norm(self.final_norm, self.hidden) + self.head.parameters(self.hidden);
        (tables + projection + bias + relative + layers + after) as u64
    }
}
