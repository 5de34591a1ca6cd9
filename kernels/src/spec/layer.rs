//! One block of the stack, and how blocks follow each other.

use super::{Rope, SpecError, validate};

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
    /// Layers that differ, from the first to the last.
    Listed(Vec<LayerSpec>),
}

impl LayerPattern {
    /// `count` layers, each as `layer` says for its index.
    ///
    /// # Errors
    /// [`SpecError`]: more layers than any model has, before memory is taken for them; or none.
    pub fn listed(count: usize, layer: impl Fn(usize) -> LayerSpec) -> Result<Self, SpecError> {
        validate::layer_count(count)?;
        Ok(Self::Listed((0..count).map(layer).collect()))
    }

    /// The number of layers.
    pub const fn count(&self) -> usize {
        match self {
            Self::Uniform { count, .. } => *count,
            Self::Listed(layers) => layers.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> &LayerSpec {
        match self {
            Self::Uniform { layer, .. } => layer,
            Self::Listed(layers) => &layers[index],
        }
    }
}

/// One block: attention, then feed-forward, each with a residual.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Where the norms stand.
    pub placement: NormPlacement,
    /// Of attention; ModernBERT's first layer has none.
    pub attention_norm: Option<Norm>,
    /// Token mixing.
    pub attention: Attention,
    /// Of the feed-forward network.
    pub ffn_norm: Option<Norm>,
    /// Channel mixing.
    pub ffn: Ffn,
}

/// Normalisation of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` (Ba et al. 2016).
    LayerNorm {
        /// Added to the variance.
        eps: f32,
        /// Whether there is a bias.
        bias: bool,
    },
    /// `x / sqrt(mean of squares + eps) * weight` (Zhang and Sennrich 2019).
    RmsNorm {
        /// Added to the mean of squares.
        eps: f32,
        /// Whether what is stored is the weight less 1 (Gemma).
        plus_one: bool,
    },
}

/// Where a block's norms stand relative to its residuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// `norm(x + f(x))` (Vaswani et al. 2017; BERT).
    Post,
    /// `x + f(norm(x))` (Xiong et al. 2020).
    Pre,
    /// `x + norm2(f(norm(x)))`, two norms of one kind (Gemma 2 and 3).
    Sandwich,
}

/// Multi-head attention (Vaswani et al. 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; equal to `heads` without grouped queries.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// What scores are multiplied with, where it is not `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// How the checkpoint stores the three input projections.
    pub qkv: QkvLayout,
    /// Whether these add a bias.
    pub qkv_bias: bool,
    /// Whether the output projection adds a bias.
    pub output_bias: bool,
    /// Of each head's queries and keys, before they are turned (Qwen3, Gemma 3).
    pub qk_norm: Option<Norm>,
    /// Whether queries and keys are turned by their positions.
    pub rope: Option<Rope>,
    /// Who sees whom inside one sequence.
    pub mask: Mask,
}

/// How a checkpoint stores the query, key and value projections; the plan fuses them whatever the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// Three tensors.
    Split,
    /// One, queries above keys above values.
    Fused,
}

/// Who attends to whom inside one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every token sees every token of its sequence.
    Bidirectional,
    /// Every token sees itself and those before.
    Causal,
    /// Every token sees itself and some neighbours.
    Window {
        /// How many before it.
        left: usize,
        /// How many behind it; 0 makes the window causal.
        right: usize,
    },
}

/// The feed-forward network: `down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))` where it is gated (GLU,
/// Shazeer 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ffn {
    /// Width between the projections.
    pub intermediate: usize,
    /// Applied in between.
    pub activation: Activation,
    /// How the checkpoint stores the gate, where there is one.
    pub gate: Option<Gate>,
    /// Whether `up`, and `gate` with it, adds a bias.
    pub up_bias: bool,
    /// Whether `down` adds a bias.
    pub down_bias: bool,
}

/// How a checkpoint stores the gate (whose results the activation is applied to) beside the upward projection; the plan
/// fuses them whatever the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// A tensor of its own.
    Split,
    /// In one tensor, the gate's rows above.
    GateUp,
    /// In one tensor, the gate's rows below.
    UpGate,
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

impl Norm {
    pub(super) const fn parameters(self, width: usize) -> usize {
        match self {
            Self::LayerNorm { bias: true, .. } => 2 * width,
            Self::LayerNorm { bias: false, .. } | Self::RmsNorm { .. } => width,
        }
    }
}

impl Attention {
    /// What scores are multiplied with.
    pub(crate) fn score_scale(&self) -> f32 {
        self.scale.unwrap_or_else(|| (self.head_dim as f32).sqrt().recip())
    }

    /// Widths of all queries and of all keys.
    pub(crate) const fn widths(&self) -> (usize, usize) {
        (self.heads * self.head_dim, self.kv_heads * self.head_dim)
    }

    fn parameters(&self, hidden: usize) -> usize {
        let (query, kv) = self.widths();
        let norms = self.qk_norm.map_or(0, |norm| 2 * norm.parameters(self.head_dim));
        let biases = usize::from(self.qkv_bias) * (query + 2 * kv) + usize::from(self.output_bias) * hidden;
        hidden * (query + 2 * kv) + query * hidden + biases + norms
    }
}

impl Ffn {
    /// Width of what the first projection gives, the gate's part included.
    pub(crate) const fn up_outputs(&self) -> usize {
        if self.gate.is_some() { 2 * self.intermediate } else { self.intermediate }
    }

    const fn parameters(&self, hidden: usize) -> usize {
        let up = (hidden + self.up_bias as usize) * self.up_outputs();
        up + (self.intermediate + self.down_bias as usize) * hidden
    }
}

impl LayerSpec {
    pub(super) fn parameters(&self, hidden: usize) -> usize {
        let each = if self.placement == NormPlacement::Sandwich { 2 } else { 1 };
        let norms = [self.attention_norm, self.ffn_norm].into_iter().flatten();
        let norms: usize = norms.map(|norm| each * norm.parameters(hidden)).sum();
        self.attention.parameters(hidden) + self.ffn.parameters(hidden) + norms
    }
}
