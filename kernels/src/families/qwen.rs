//! Qwen2 (Yang et al. 2024) and Qwen3 (2025): gte-Qwen2, Qwen3-Embedding and their kin: Llama with biases for queries, keys
//! and values, or with norms of queries and keys.
//!
//! Fields and names: `transformers/models/qwen2/` and `transformers/models/qwen3/`.

use serde::Deserialize;

use super::{
    Family, FamilyError,
    decoder::{DecoderConfig, NAMING},
    heads::{HeadClass, SCORE_CLASSIFIER},
};
use crate::spec::{EncoderSpec, Head, LayerSpec};

pub(super) const QWEN2: Family = Family {
    model_types: &["qwen2"],
    architectures: &["Qwen2Model", "Qwen2ForCausalLM"],
    // gte-Qwen2's, which looks both ways where `is_causal` is false; so does transformers by now.
    own_code: &["modeling_qwen.Qwen2Model"],
    spec: |config, head| {
        let config: QwenConfig = super::from_value(config)?;
        let mut layer = config.decoder.layer()?;
        (layer.attention.qkv_bias, layer.attention.output_bias) = (true, false);
        config.spec(layer, head)
    },
    naming: &NAMING,
    heads: &[HeadClass { architectures: &["Qwen2ForSequenceClassification"], kind: SCORE_CLASSIFIER }],
};

pub(super) const QWEN3: Family = Family {
    model_types: &["qwen3"],
    architectures: &["Qwen3Model", "Qwen3ForCausalLM"],
    own_code: &[],
    spec: |config, head| {
        let mut config: QwenConfig = super::from_value(config)?;
        config.decoder.head_dim.get_or_insert(HEAD_DIM);
        let mut layer = config.decoder.layer()?;
        layer.attention.qk_norm = layer.attention_norm;
        config.spec(layer, head)
    },
    naming: &NAMING,
    heads: &[HeadClass { architectures: &["Qwen3ForSequenceClassification"], kind: SCORE_CLASSIFIER }],
};

/// Of Qwen3, where none is told.
const HEAD_DIM: usize = 128;

#[derive(Deserialize)]
struct QwenConfig {
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default = "window")]
    sliding_window: Option<usize>,
    /// The first layer with a window, where `layer_types` does not tell.
    #[serde(default = "max_window_layers")]
    max_window_layers: usize,
    #[serde(flatten)]
    decoder: DecoderConfig,
}

#[expect(clippy::unnecessary_wraps, reason = "the default of a field that may be null")]
const fn window() -> Option<usize> {
    Some(4096)
}

const fn max_window_layers() -> usize {
    28
}

impl QwenConfig {
    fn spec(&self, layer: LayerSpec, head: Head) -> Result<EncoderSpec, FamilyError> {
        match self.sliding_window.filter(|_| self.use_sliding_window) {
            None => Ok(self.decoder.uniform(layer, head)),
            Some(tokens) => {
                let local = self.decoder.windowed(&layer, tokens);
                self.decoder.listed(&layer, &local, |index| index >= self.max_window_layers, head)
            }
        }
    }
}
