//! Gemma 3's text model (2025) and EmbeddingGemma: norms on both sides of each network, norms of queries and keys, windows
//! in five layers of six.
//!
//! Fields and names: `transformers/models/gemma3/{configuration,modeling}_gemma3.py`.

use serde::Deserialize;

use super::{
    Family, FamilyError,
    decoder::{self, DecoderConfig},
    layer_types::period,
    names::Naming,
    post_norm::{activation, refuse_unless},
    rope::{LayerRopes, RopeParameters},
};
use crate::spec::{EncoderSpec, Head, LayerSpec, Mask, Norm, NormPlacement};

pub(super) const FAMILY: Family = Family {
    model_types: &["gemma3_text"],
    architectures: &["Gemma3TextModel", "Gemma3ForCausalLM"],
    own_code: &[],
    spec: |config, head| super::from_value::<GemmaConfig>(config)?.spec(head),
    naming: &Naming {
        attention_post_norm: "post_attention_layernorm",
        ffn_norm: "pre_feedforward_layernorm",
        ffn_post_norm: "post_feedforward_layernorm",
        ..decoder::NAMING
    },
    heads: &[],
};

#[derive(Deserialize)]
struct GemmaConfig {
    #[serde(default = "gelu_tanh")]
    hidden_activation: String,
    #[serde(default = "scalar")]
    query_pre_attn_scalar: f32,
    #[serde(default = "window")]
    sliding_window: usize,
    #[serde(default = "six", alias = "_sliding_window_pattern")]
    sliding_window_pattern: usize,
    use_bidirectional_attention: Option<bool>,
    attn_logit_softcapping: Option<f64>,
    /// Written until transformers 4, like the next two; 5 has `rope_parameters`.
    #[serde(default = "global_theta")]
    rope_theta: f64,
    #[serde(default = "local_theta")]
    rope_local_base_freq: f64,
    /// Of the layers without a window.
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<LayerRopes>,
    #[serde(flatten)]
    decoder: DecoderConfig,
}

fn gelu_tanh() -> String {
    "gelu_pytorch_tanh".into()
}

const fn scalar() -> f32 {
    256.0
}

const fn window() -> usize {
    4096
}

const fn six() -> usize {
    6
}

const fn global_theta() -> f64 {
    1_000_000.0
}

const fn local_theta() -> f64 {
    10_000.0
}

/// Where none is told.
const HEAD_DIM: usize = 256;

impl GemmaConfig {
    fn spec(mut self, head: Head) -> Result<EncoderSpec, FamilyError> {
        let softcapped = self.attn_logit_softcapping.is_some();
        refuse_unless("attn_logit_softcapping", softcapped, false, "null")?;
        self.decoder.head_dim.get_or_insert(HEAD_DIM);
        let LayerRopes { full_attention, sliding_attention } =
            self.rope_parameters.take().unwrap_or_default();
        let full_attention = self.rope_scaling.take().unwrap_or(full_attention);
        let (all, window) = self.masks();
        let global = self.layer(&full_attention, self.rope_theta, all)?;
        let local = self.layer(&sliding_attention, self.rope_local_base_freq, window)?;
        let every = period("sliding_window_pattern", self.sliding_window_pattern)?;
        let is_local = |index: usize| !(index + 1).is_multiple_of(every);
        let mut spec = self.decoder.listed(&global, &local, is_local, head)?;
        spec.embeddings.scale = Some((spec.hidden as f32).sqrt());
        spec.final_norm = Some(self.norm());
        Ok(spec)
    }

    /// Of layers without a window and with one. It is told whole: to both sides it reaches half as far.
    fn masks(&self) -> (Mask, Mask) {
        if self.use_bidirectional_attention == Some(true) {
            let side = self.sliding_window / 2;
            (Mask::Bidirectional, Mask::Window { left: side, right: side })
        } else {
            (Mask::Causal, Mask::Window { left: self.sliding_window.saturating_sub(1), right: 0 })
        }
    }

    fn layer(&self, rope: &RopeParameters, theta: f64, mask: Mask) -> Result<LayerSpec, FamilyError> {
        let mut layer = self.decoder.layer()?;
        let norm = Some(self.norm());
        layer.placement = NormPlacement::Sandwich;
        (layer.attention_norm, layer.ffn_norm) = (norm, norm);
        let attention = &mut layer.attention;
        (attention.qk_norm, attention.mask) = (norm, mask);
        attention.scale = Some(self.query_pre_attn_scalar.sqrt().recip());
        attention.rope = Some(rope.rope(theta, attention.head_dim)?);
        layer.ffn.activation = activation("hidden_activation", &self.hidden_activation)?;
        Ok(layer)
    }

    fn norm(&self) -> Norm {
        Norm::RmsNorm { eps: self.decoder.rms_norm_eps, plus_one: true }
    }
}
