//! What a model is, before any weight is touched: one enum per axis, no family names.
//!
//! A new family is a new *value* of these types. An arm is added only when a kernel differs, and `plan` is the only
//! reader of the axes. Where the data flow itself differs (disentangled attention, KV caches), write another block
//! instead of stretching this one.

mod display;
mod error;
mod head;
mod validate;

pub use error::SpecError;
pub use head::{Head, HeadModule, PooledHead, Pooling, Poolings};
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
    /// The stack.
    pub layers: LayerPattern,
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
    /// Applied to the sum.
    pub norm: Norm,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A table `[rows, width]` added to the embeddings; position `p` reads row `p + offset`
    /// (BERT: offset 0, Devlin et al. 2018; RoBERTa: offset 2).
    Learned {
        /// Rows of the table.
        rows: usize,
        /// Rows at its start that no position uses.
        offset: usize,
    },
}

impl Position {
    /// The longest sequence that has a position for every token.
    pub const fn tokens_max(self) -> usize {
        match self {
            Self::Learned { rows, offset } => rows.saturating_sub(offset),
        }
    }
}

/// A learned number per head, added to the scaled score of a query and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionBias {
    /// Looked up by the bucket of their distance (Raffel et al. 2020, section 2.1): one half of the buckets for keys behind
    /// the query, one for keys before it; of each half, one half for single distances, the others ever wider up to
    /// `distance_max`, the last for all beyond. A table `[buckets, heads]`.
    Buckets {
        /// Of both directions together.
        buckets: usize,
        /// From here on distances are no longer told apart.
        distance_max: usize,
    },
}

/// Which layers stand where.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerPattern {
    /// `count` times the same layer.
    Uniform {
        /// Number of layers.
        count: usize,
        /// Each of them.
        layer: LayerSpec,
    },
}

/// One block: attention, then feed-forward, each with a residual.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Both norms of the block.
    pub norm: Norm,
    /// Where they stand.
    pub placement: NormPlacement,
    /// Token mixing.
    pub attention: Attention,
    /// Channel mixing.
    pub ffn: Ffn,
}

/// Normalisation over `hidden`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016).
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
}

/// Where a block's norms stand relative to its residuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// `norm(x + f(x))` (Vaswani et al. 2017; BERT).
    Post,
}

/// Multi-head attention (Vaswani et al. 2017), scaled by `1 / sqrt(head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; equal to `heads` without grouped queries.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// How the checkpoint stores the three input projections.
    pub qkv: QkvLayout,
    /// Whether the four projections add a bias.
    pub bias: bool,
    /// Who sees whom inside one sequence.
    pub mask: Mask,
}

/// How a checkpoint stores the query, key and value projections; the plan fuses them whatever the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// Three tensors.
    Split,
}

/// Who attends to whom inside one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every token sees every token of its sequence.
    Bidirectional,
}

/// The feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ffn {
    /// `down(activation(up(x)))`, both with bias.
    Mlp {
        /// Width between the two projections.
        intermediate: usize,
        /// Applied in between.
        activation: Activation,
    },
}

/// Element-wise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)` with the exact normal distribution (Hendrycks and Gimpel 2016).
    GeluErf,
    /// The same paper's tanh approximation.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// `x`.
    Identity,
}

impl EncoderSpec {
    /// The number of layers.
    pub const fn layer_count(&self) -> usize {
        match &self.layers {
            LayerPattern::Uniform { count, .. } => *count,
        }
    }

    /// The layer that stands at `index`.
    pub const fn layer(&self, _index: usize) -> &LayerSpec {
        match &self.layers {
            LayerPattern::Uniform { layer, .. } => layer,
        }
    }

    /// The number of weights, tables and norms included.
    pub fn parameters(&self) -> u64 {
        let Position::Learned { rows, .. } = self.position;
        let Embeddings { vocab, width, token_types, norm } = self.embeddings;
        let tables = (vocab + token_types.unwrap_or(0) + rows) * width + norm.parameters(width);
        let projection = if width == self.hidden { 0 } else { (width + 1) * self.hidden };
        let bias = match self.position_bias {
            Some(PositionBias::Buckets { buckets, .. }) => buckets * self.layer(0).attention.heads,
            None => 0,
        };
        let layers: usize =
            (0..self.layer_count()).map(|index| self.layer(index).parameters(self.hidden)).sum();
        (tables + projection + bias + layers + self.head.parameters(self.hidden)) as u64
    }
}

impl Norm {
    const fn parameters(self, hidden: usize) -> usize {
        match self {
            Self::LayerNorm { .. } => 2 * hidden,
        }
    }
}

impl LayerSpec {
    fn parameters(&self, hidden: usize) -> usize {
        let Attention { heads, kv_heads, head_dim, bias, .. } = self.attention;
        let (query, kv) = (heads * head_dim, 2 * kv_heads * head_dim);
        let projections = hidden * (query + kv) + query * hidden;
        let biases = if bias { query + kv + hidden } else { 0 };
        let Ffn::Mlp { intermediate, .. } = self.ffn;
        let ffn = 2 * hidden * intermediate + intermediate + hidden;
        projections + biases + ffn + 2 * self.norm.parameters(hidden)
    }
}
