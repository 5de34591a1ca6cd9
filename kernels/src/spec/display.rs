//! The printed form of a description: what snapshots compare and `--verbose` shows.

use std::fmt;

use super::{
    Activation, Attention, EncoderSpec, Ffn, Gate, LayerPattern, LayerSpec, Mask, Norm, NormPlacement,
};
use super::{Disentangled, Position, PositionBias, QkvLayout, Rope, RopeScaling};

impl fmt::Display for EncoderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hidden, embeddings, position, position_bias, disentangled, layers, final_norm, head } =
            self;
        writeln!(f, "encoder: hidden {hidden}, {} parameters", self.parameters())?;
        write!(f, "  embed: token[{}]", embeddings.vocab)?;
        embeddings.scale.map_or(Ok(()), |scale| write!(f, " x {scale}"))?;
        match position {
            Position::Learned { .. } => write!(f, " + {position}")?,
            Position::InAttention { .. } => write!(f, ", {position}")?,
        }
        embeddings.token_types.map_or(Ok(()), |rows| write!(f, " + type[{rows}]"))?;
        embeddings.norm.map_or(Ok(()), |norm| write!(f, " -> {norm}"))?;
        if embeddings.width != *hidden {
            write!(f, " -> linear {} -> {hidden}", embeddings.width)?;
        }
        writeln!(f)?;
        position_bias.map_or(Ok(()), |bias| writeln!(f, "  {bias}"))?;
        disentangled.map_or(Ok(()), |table| writeln!(f, "  {table}"))?;
        write!(f, "{layers}")?;
        final_norm.map_or(Ok(()), |norm| writeln!(f, "  {norm}"))?;
        writeln!(f, "  {head}")
    }
}

impl fmt::Display for LayerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform { count, layer } => write!(f, "  {count} x\n{layer}"),
            Self::Listed(layers) => {
                Kinds::of(layers).0.iter().try_for_each(|kind| write!(f, "  {kind}\n{}", kind.layer))
            }
        }
    }
}

/// Which layers of a stack are equal, in the order in which each kind comes first.
pub(crate) struct Kinds<'a, T>(pub(crate) Vec<Kind<'a, T>>);

/// Equal layers and where they stand.
pub(crate) struct Kind<'a, T> {
    pub(crate) layer: &'a T,
    places: Vec<usize>,
    all: usize,
}

impl<'a, T: PartialEq> Kinds<'a, T> {
    pub(crate) fn of(layers: &'a [T]) -> Self {
        let mut kinds = Vec::<Kind<'_, T>>::new();
        for (place, layer) in layers.iter().enumerate() {
            match kinds.iter_mut().find(|kind| kind.layer == layer) {
                Some(kind) => kind.places.push(place),
                None => kinds.push(Kind { layer, places: vec![place], all: layers.len() }),
            }
        }
        Self(kinds)
    }
}

impl<T> fmt::Display for Kind<'_, T> {
    /// `12 x`, and where they stand if not everywhere: `3 x (0, 3-4)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x", self.places.len())?;
        if self.places.len() == self.all {
            return Ok(());
        }
        let runs = self.places.chunk_by(|a, b| a + 1 == *b);
        let runs = runs.map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run[0].to_string(),
        });
        write!(f, " ({})", runs.collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { placement, attention_norm, attention, ffn_norm, ffn } = self;
        writeln!(f, "    {attention}")?;
        writeln!(f, "    {ffn}")?;
        match (attention_norm, ffn_norm) {
            (Some(a), Some(b)) if a == b => writeln!(f, "    {placement} {a}"),
            (None, Some(norm)) => writeln!(f, "    {placement} {norm}, of the network alone"),
            (Some(norm), None) => writeln!(f, "    {placement} {norm}, of attention alone"),
            (Some(a), Some(b)) => writeln!(f, "    {placement} {a}, {b}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learned { rows, offset: 0 } => write!(f, "position[{rows}]"),
            Self::Learned { rows, offset } => write!(f, "position[{rows}, offset {offset}]"),
            Self::InAttention { tokens_max } => write!(f, "positions in attention, up to {tokens_max}"),
        }
    }
}

impl fmt::Display for PositionBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buckets { buckets, distance_max } => {
                write!(f, "position bias: {buckets} buckets up to distance {distance_max}, of all layers")
            }
            Self::Alibi => f.write_str("position bias: slopes times distance, of all layers"),
        }
    }
}

impl fmt::Display for Disentangled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { span, distance_max, content_to_position, position_to_content, norm, shares_projections } =
            self;
        write!(f, "relative positions: [2 x {span}] up to distance {distance_max}")?;
        norm.map_or(Ok(()), |norm| write!(f, " -> {norm}"))?;
        f.write_str(if *shares_projections { ", projected as contents:" } else { ", projected:" })?;
        f.write_str(match (content_to_position, position_to_content) {
            (true, true) => " content to position, position to content",
            (true, false) => " content to position",
            (false, _) => " position to content",
        })
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LayerNorm { eps, bias: true } => write!(f, "layer_norm(eps {eps:e})"),
            Self::LayerNorm { eps, bias: false } => write!(f, "layer_norm(eps {eps:e}, no bias)"),
            Self::RmsNorm { eps, plus_one: false } => write!(f, "rms_norm(eps {eps:e})"),
            Self::RmsNorm { eps, plus_one: true } => write!(f, "rms_norm(eps {eps:e}, 1 + weight)"),
        }
    }
}

impl fmt::Display for NormPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Post => "post",
            Self::Pre => "pre",
            Self::Sandwich => "sandwich",
        })
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, kv_heads, head_dim, scale, qkv, qkv_bias, output_bias, qk_norm, rope, mask } = self;
        let qkv = match qkv {
            QkvLayout::Split => "split",
            QkvLayout::Fused => "fused",
        };
        write!(f, "attention: {heads} heads x {head_dim}, {kv_heads} kv heads, qkv {qkv}")?;
        match (qkv_bias, output_bias) {
            (true, true) => f.write_str(" + bias")?,
            (true, false) => f.write_str(" + bias, output bare")?,
            (false, true) => f.write_str(", output + bias")?,
            (false, false) => {}
        }
        qk_norm.map_or(Ok(()), |norm| write!(f, ", qk {norm}"))?;
        rope.map_or(Ok(()), |rope| write!(f, ", {rope}"))?;
        scale.map_or(Ok(()), |scale| write!(f, ", scale {scale}"))?;
        write!(f, ", {mask}")
    }
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { theta, dims, scaling } = self;
        write!(f, "rope(theta {theta}, {dims} dims")?;
        match scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => write!(f, ", linear x {factor}")?,
            RopeScaling::Ntk { factor } => write!(f, ", ntk x {factor}")?,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, tokens_original } => {
                write!(f, ", llama3 x {factor} from {tokens_original}")?;
                write!(f, " between {low_freq_factor} and {high_freq_factor}")?;
            }
        }
        f.write_str(")")
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bidirectional => f.write_str("bidirectional"),
            Self::Causal => f.write_str("causal"),
            Self::Window { left, right } => write!(f, "window {left} left, {right} right"),
        }
    }
}

impl fmt::Display for Ffn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { intermediate, activation, gate, up_bias, down_bias } = self;
        match gate {
            None => write!(f, "mlp: {intermediate}, {activation}")?,
            Some(Gate::Split) => write!(f, "glu: {intermediate}, {activation}, gate and up split")?,
            Some(Gate::GateUp) => write!(f, "glu: {intermediate}, {activation}, gate|up")?,
            Some(Gate::UpGate) => write!(f, "glu: {intermediate}, {activation}, up|gate")?,
        }
        match (up_bias, down_bias) {
            (true, true) => Ok(()),
            (true, false) => f.write_str(", down bare"),
            (false, true) => f.write_str(", up bare"),
            (false, false) => f.write_str(", no biases"),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GeluErf => "gelu_erf",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
            Self::Identity => "identity",
        })
    }
}
