//! The printed form of a description: what snapshots compare and `--verbose` shows.

use std::fmt;

use super::{Activation, Attention, EncoderSpec, Ffn, LayerPattern, Mask, Norm, NormPlacement};
use super::{Position, PositionBias, QkvLayout};

impl fmt::Display for EncoderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hidden, embeddings, position, position_bias, layers, head } = self;
        writeln!(f, "encoder: hidden {hidden}, {} parameters", self.parameters())?;
        write!(f, "  embed: token[{}] + {position}", embeddings.vocab)?;
        embeddings.token_types.map_or(Ok(()), |rows| write!(f, " + type[{rows}]"))?;
        write!(f, " -> {}", embeddings.norm)?;
        if embeddings.width != *hidden {
            write!(f, " -> linear {} -> {hidden}", embeddings.width)?;
        }
        writeln!(f)?;
        position_bias.map_or(Ok(()), |bias| writeln!(f, "  {bias}"))?;
        let LayerPattern::Uniform { count, layer } = layers;
        writeln!(f, "  {count} x")?;
        writeln!(f, "    {}", layer.attention)?;
        writeln!(f, "    {}", layer.ffn)?;
        writeln!(f, "    {} {}", layer.placement, layer.norm)?;
        writeln!(f, "  {head}")
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learned { rows, offset: 0 } => write!(f, "position[{rows}]"),
            Self::Learned { rows, offset } => write!(f, "position[{rows}, offset {offset}]"),
        }
    }
}

impl fmt::Display for PositionBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buckets { buckets, distance_max } => {
                write!(f, "position bias: {buckets} buckets up to distance {distance_max}, of all layers")
            }
        }
    }
}

impl fmt::Display for Norm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LayerNorm { eps } => write!(f, "layer_norm(eps {eps:e})"),
        }
    }
}

impl fmt::Display for NormPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Post => f.write_str("post"),
        }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, kv_heads, head_dim, qkv, bias, mask } = self;
        let qkv = match qkv {
            QkvLayout::Split => "split",
        };
        let bias = if *bias { " + bias" } else { "" };
        let mask = match mask {
            Mask::Bidirectional => "bidirectional",
        };
        write!(f, "attention: {heads} heads x {head_dim}, {kv_heads} kv heads, qkv {qkv}{bias}, {mask}")
    }
}

impl fmt::Display for Ffn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mlp { intermediate, activation } => write!(f, "mlp: {intermediate}, {activation}"),
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
