//! The printed form of a description: what snapshots compare and `--verbose` shows.

use std::fmt;

use super::{
    Activation, Attention, EncoderSpec, Ffn, Head, HeadModule, LayerPattern, Mask, Norm, NormPlacement,
    Pooling, Poolings,
};
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

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Embedding { poolings, modules } = self;
        write!(f, "pool {poolings}")?;
        modules.iter().try_for_each(|module| write!(f, " -> {module}"))
    }
}

impl fmt::Display for Poolings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pooling) in self.0.iter().enumerate() {
            write!(f, "{}{pooling}", if index == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

impl fmt::Display for HeadModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense { outputs, bias, activation } => {
                let bias = if *bias { " + bias" } else { "" };
                write!(f, "dense {outputs}{bias}, {activation}")
            }
            Self::LayerNorm { eps } => write!(f, "{}", Norm::LayerNorm { eps: *eps }),
            Self::Normalize => f.write_str("l2"),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::LastToken => "last_token",
            Self::WeightedMean => "weighted_mean",
            Self::MeanSqrtLen => "mean_sqrt_len",
        })
    }
}
