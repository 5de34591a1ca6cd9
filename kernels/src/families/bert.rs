//! BERT (Devlin et al. 2018): MiniLM, BGE, E5, GTE v1 and every other `BertModel` checkpoint.
//!
//! Fields and names: `transformers/models/bert/{configuration,modeling}_bert.py`; defaults are those of `BertConfig`.

use serde::Deserialize;

use super::{Affine, FamilyError, LayerNames, WeightNames};
use crate::{
    spec::{
        Activation, Attention, Embeddings, EncoderSpec, Ffn, Head, LayerPattern, LayerSpec, Mask, Norm,
        NormPlacement, Position, QkvLayout, multiple,
    },
    weights::Checkpoint,
};

pub(super) const MODEL_TYPE: &str = "bert";
/// The bare encoder, and the pre-training heads around it that an embedding ignores.
pub(super) const ARCHITECTURES: [&str; 3] = ["BertModel", "BertForMaskedLM", "BertForPreTraining"];

#[derive(Deserialize)]
pub(super) struct BertConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "eps")]
    layer_norm_eps: f32,
    /// Written until transformers 4; 5 knows absolute positions only.
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn gelu() -> String {
    "gelu".into()
}

const fn two() -> usize {
    2
}

const fn eps() -> f32 {
    1e-12
}

pub(super) fn spec(config: &BertConfig, head: Head) -> Result<EncoderSpec, FamilyError> {
    refuse_variants(config)?;
    let heads = config.num_attention_heads;
    multiple(("hidden_size", config.hidden_size), ("num_attention_heads", heads))?;
    let norm = Norm::LayerNorm { eps: config.layer_norm_eps };
    let attention = Attention {
        heads,
        kv_heads: heads,
        head_dim: config.hidden_size / heads,
        qkv: QkvLayout::Split,
        bias: true,
        mask: Mask::Bidirectional,
    };
    let ffn =
        Ffn::Mlp { intermediate: config.intermediate_size, activation: activation(&config.hidden_act)? };
    let layer = LayerSpec { norm, placement: NormPlacement::Post, attention, ffn };
    Ok(EncoderSpec {
        hidden: config.hidden_size,
        embeddings: Embeddings { vocab: config.vocab_size, token_types: config.type_vocab_size, norm },
        position: Position::Learned { rows: config.max_position_embeddings, offset: 0 },
        layers: LayerPattern::Uniform { count: config.num_hidden_layers, layer },
        head,
    })
}

/// What `BertConfig` can ask for beyond the encoder that is covered.
fn refuse_variants(config: &BertConfig) -> Result<(), FamilyError> {
    let refuse =
        |field, value: &str, covered| Err(FamilyError::Value { field, value: value.to_owned(), covered });
    match config.position_embedding_type.as_deref() {
        None | Some("absolute") => {}
        Some(other) => return refuse("position_embedding_type", other, "absolute"),
    }
    if config.is_decoder { refuse("is_decoder", "true", "false") } else { Ok(()) }
}

/// The names of `transformers/activations.py`, of which several mean the same function.
fn activation(name: &str) -> Result<Activation, FamilyError> {
    match name {
        "gelu" | "gelu_python" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" | "gelu_python_tanh" => {
            Ok(Activation::GeluTanh)
        }
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        _ => Err(FamilyError::Value {
            field: "hidden_act",
            value: format!("{name:?}"),
            covered: "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, gelu_accurate, silu, swish, relu",
        }),
    }
}

const TOKEN_TABLE: &str = "embeddings.word_embeddings.weight";

/// The encoder stands at the root, or below `bert.` where a head was saved with it.
pub(super) fn names(checkpoint: &Checkpoint, layers: usize) -> WeightNames {
    let prefix =
        ["", "bert."].into_iter().find(|prefix| checkpoint.contains(&format!("{prefix}{TOKEN_TABLE}")));
    // Without the token table the check that follows names it as missing.
    let prefix = prefix.unwrap_or_default();
    let linear = |name: &str| Affine { weight: format!("{name}.weight"), bias: format!("{name}.bias") };
    // Checkpoints converted from TensorFlow keep its names for the two parts of a norm.
    let norm = |name: &str| {
        let gamma = format!("{name}.gamma");
        if checkpoint.contains(&gamma) {
            Affine { weight: gamma, bias: format!("{name}.beta") }
        } else {
            linear(name)
        }
    };
    let layer = |index: usize| {
        let at = format!("{prefix}encoder.layer.{index}");
        LayerNames {
            query: linear(&format!("{at}.attention.self.query")),
            key: linear(&format!("{at}.attention.self.key")),
            value: linear(&format!("{at}.attention.self.value")),
            attention_output: linear(&format!("{at}.attention.output.dense")),
            attention_norm: norm(&format!("{at}.attention.output.LayerNorm")),
            ffn_up: linear(&format!("{at}.intermediate.dense")),
            ffn_down: linear(&format!("{at}.output.dense")),
            ffn_norm: norm(&format!("{at}.output.LayerNorm")),
        }
    };
    WeightNames {
        token: format!("{prefix}{TOKEN_TABLE}"),
        position: format!("{prefix}embeddings.position_embeddings.weight"),
        token_type: format!("{prefix}embeddings.token_type_embeddings.weight"),
        embedding_norm: norm(&format!("{prefix}embeddings.LayerNorm")),
        layers: (0..layers).map(layer).collect(),
        stack_prefix: format!("{prefix}encoder."),
    }
}
