//! NomicBERT (Nussbaum et al. 2024): nomic-embed-text v1 and v1.5, and Snowflake's arctic-embed-m-long: BERT with rotary
//! positions, a gated network and no biases.
//!
//! Fields and names: `configuration_hf_nomic_bert.py` and `modeling_hf_nomic_bert.py` of nomic-ai/nomic-bert-2048, and
//! `transformers/models/nomic_bert/`, which has other names for the same. Published files hold either, or both.

use serde::Deserialize;

use super::{
    Family, FamilyError, bert,
    names::Naming,
    post_norm::{PostNorm, ROTARY, either, refuse, refuse_unless},
    rope::RopeParameters,
};
use crate::spec::{EncoderSpec, Gate, Head, Position, QkvLayout};

pub(super) const PUBLISHED: Family = Family {
    model_types: &["nomic_bert"],
    architectures: &["NomicBertModel", "NomicBertForPreTraining", "NomicBertForMaskedLM"],
    own_code: &["modeling_hf_nomic_bert.NomicBertModel"],
    spec: |config, head| super::from_value::<NomicConfig>(config)?.spec(QkvLayout::Fused, head),
    naming: &Naming {
        prefixes: &["", "bert.", "nomic_bert."],
        embedding_norm: "emb_ln",
        layer: "encoder.layers",
        qkv: "attn.Wqkv",
        attention_output: "attn.out_proj",
        attention_norm: "norm1",
        ffn_gate: "mlp.fc12",
        ffn_up: "mlp.fc11",
        ffn_down: "mlp.fc2",
        ffn_norm: "norm2",
        ..bert::NAMING
    },
    heads: &[],
};

/// As transformers calls the tensors.
pub(super) const CURRENT: Family = Family {
    spec: |config, head| super::from_value::<NomicConfig>(config)?.spec(QkvLayout::Split, head),
    naming: &Naming { prefixes: &["", "nomic_bert."], ..ROTARY },
    ..PUBLISHED
};

#[derive(Deserialize)]
struct NomicConfig {
    vocab_size: usize,
    type_vocab_size: usize,
    n_embd: Option<usize>,
    hidden_size: Option<usize>,
    n_layer: Option<usize>,
    num_hidden_layers: Option<usize>,
    n_head: Option<usize>,
    num_attention_heads: Option<usize>,
    n_inner: Option<usize>,
    intermediate_size: Option<usize>,
    n_positions: Option<usize>,
    max_position_embeddings: Option<usize>,
    layer_norm_epsilon: Option<f32>,
    layer_norm_eps: Option<f32>,
    activation_function: Option<String>,
    hidden_act: Option<String>,
    /// Written until transformers 4; 5 has `rope_parameters`.
    rotary_emb_base: Option<f64>,
    rotary_emb_fraction: Option<f64>,
    #[serde(default)]
    rotary_emb_interleaved: bool,
    rotary_emb_scale_base: Option<f64>,
    rotary_scaling_factor: Option<f64>,
    max_trained_positions: Option<usize>,
    #[serde(default)]
    rope_parameters: RopeParameters,
    #[serde(default)]
    qkv_proj_bias: bool,
    #[serde(default)]
    mlp_fc1_bias: bool,
    #[serde(default)]
    mlp_fc2_bias: bool,
    #[serde(default)]
    prenorm: bool,
    #[serde(default)]
    parallel_block: bool,
    #[serde(default)]
    use_rms_norm: bool,
    #[serde(default)]
    causal: bool,
    #[serde(default)]
    moe_every_n_layers: usize,
}

/// Where none are told.
const TRAINED_POSITIONS: usize = 2048;

impl NomicConfig {
    fn spec(&self, qkv: QkvLayout, head: Head) -> Result<EncoderSpec, FamilyError> {
        self.check()?;
        let activation = match self.activation_function.as_deref() {
            Some("swiglu") => "silu",
            Some(other) => return refuse("activation_function", other, "swiglu"),
            None => self.hidden_act.as_deref().unwrap_or("silu"),
        };
        let eps =
            either(("layer_norm_epsilon", self.layer_norm_epsilon), ("layer_norm_eps", self.layer_norm_eps));
        let blocks = PostNorm {
            vocab: self.vocab_size,
            hidden: ("hidden_size", either(("n_embd", self.n_embd), ("hidden_size", self.hidden_size))?),
            layers: either(("n_layer", self.n_layer), ("num_hidden_layers", self.num_hidden_layers))?,
            heads: (
                "num_attention_heads",
                either(("n_head", self.n_head), ("num_attention_heads", self.num_attention_heads))?,
            ),
            intermediate: either(("n_inner", self.n_inner), ("intermediate_size", self.intermediate_size))?,
            activation: ("hidden_act", activation),
            eps: eps?,
        };
        let mut layer = blocks.layer()?;
        let attention = &mut layer.attention;
        (attention.qkv, attention.qkv_bias, attention.output_bias) =
            (qkv, self.qkv_proj_bias, self.qkv_proj_bias);
        let dims = (attention.head_dim as f64 * self.rotary_emb_fraction.unwrap_or(1.0)) as usize;
        attention.rope = Some(self.rope_parameters.rope(self.rotary_emb_base.unwrap_or(1000.0), dims)?);
        let ffn = &mut layer.ffn;
        (ffn.gate, ffn.up_bias, ffn.down_bias) = (Some(Gate::Split), self.mlp_fc1_bias, self.mlp_fc2_bias);
        let position = Position::InAttention { tokens_max: self.tokens_max()? };
        Ok(blocks.stack(layer, position, Some(self.type_vocab_size), head))
    }

    /// With a scaling factor the reference turns faster or slower by the longest text of a batch, beyond what it was
    /// trained on: answers that would depend on their company are not offered.
    fn tokens_max(&self) -> Result<usize, FamilyError> {
        let positions = self.n_positions.or(self.max_position_embeddings);
        let missing = || FamilyError::Field { reason: "missing field `n_positions`".into() };
        let positions = positions.ok_or_else(missing)?;
        let trained = self.max_trained_positions.unwrap_or(TRAINED_POSITIONS);
        Ok(if self.rotary_scaling_factor.is_some() { trained.min(positions) } else { positions })
    }

    fn check(&self) -> Result<(), FamilyError> {
        let flags = [
            ("rotary_emb_interleaved", self.rotary_emb_interleaved),
            ("prenorm", self.prenorm),
            ("parallel_block", self.parallel_block),
            ("use_rms_norm", self.use_rms_norm),
            ("causal", self.causal),
        ];
        flags.into_iter().try_for_each(|(field, set)| refuse_unless(field, set, false, "false"))?;
        refuse_unless("moe_every_n_layers", self.moe_every_n_layers, 0, "0")?;
        refuse_unless("rotary_emb_scale_base", self.rotary_emb_scale_base.is_some(), false, "null")
    }
}
